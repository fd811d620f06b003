//! INSERT of values without a plan, COPY, and how relations are written.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use tokio::time::Instant;

use super::prepare::returned_columns;
use super::{CopyFormat, CopyIn, Outcome, Prepared, Rows, Session};
use crate::error::Result;
use crate::run::insert::{Writer, pending_bytes_max, targets};
use crate::run::query;
use crate::run::rule::Rules;
use crate::run::shape::Shape;
use crate::run::values::DirectInsert;
use crate::statement::copy::{CopyFrom, CopyOut};
use crate::statement::values::InsertValues;
use crate::statement::{Name, Parsed, Sentence};

impl Session {
    /// Plans an INSERT of literals and parameters: without DataFusion where its values are taken as they are written.
    pub(super) async fn prepare_values(
        &self,
        parsed: &Arc<Parsed>,
        insert: &InsertValues,
        said: &[Option<DataType>],
    ) -> Result<Prepared> {
        let catalog_version = self.engine.storage.catalog_version();
        let relation = self.engine.catalog.relation(&insert.name)?;
        if let Some(direct) = DirectInsert::plan(&relation, insert, said, catalog_version)? {
            let parameters = direct.parameters.clone();
            let returning = self.bind_returning_of_insert(&insert.name, insert.returning.as_ref()).await?;
            return Ok(Prepared {
                parameter_oids: direct.parameter_oids.clone(),
                parameters,
                columns: returned_columns(returning.as_deref())?,
                parsed: Arc::clone(parsed),
                bound: None,
                returning,
                direct: Some(Arc::new(direct)),
                update: None,
            });
        }
        let sentence = Sentence::Insert(insert.as_insert()?);
        let planned = Arc::new(Parsed { text: parsed.text.clone(), sentence });
        Box::pin(self.prepare_parsed(&planned, said)).await
    }

    /// How to write into a relation in this statement.
    pub(super) async fn writer(&self, name: &Name) -> Result<Writer> {
        let shape = self.shape(name).await?;
        let storage = &self.engine.storage;
        let turn = self.engine.keyless_turn.fetch_add(1, Ordering::Relaxed);
        let batch_bytes_max = shape.topic().config.resolve(storage.settings()).max_message_bytes;
        let batch_bytes_max = usize::try_from(batch_bytes_max).unwrap_or(usize::MAX);
        let now_us = storage.clock().now_us();
        let defaults = shape.rules().defaults(&self.engine.state, now_us)?;
        let bytes_max = (batch_bytes_max, pending_bytes_max(storage));
        Ok(Writer::new(shape, defaults, turn, storage.clock().now_ms(), bytes_max))
    }

    /// How a relation is written; made once per version of the catalog.
    async fn shape(&self, name: &Name) -> Result<Arc<Shape>> {
        let catalog = &self.engine.catalog;
        let version = self.engine.storage.catalog_version();
        {
            let mut shapes = self.engine.shapes.lock();
            if shapes.0 != version {
                *shapes = (version, Default::default());
            }
            if let Some(shape) = shapes.1.get(&name.value) {
                return Ok(Arc::clone(shape));
            }
        }
        let relation = catalog.relation(name)?;
        let topic = catalog.topic_of(&relation)?;
        let rules = Rules::of(&self.engine.state, &relation).await?;
        let shape = Arc::new(Shape::new(relation, topic, rules)?);
        let mut shapes = self.engine.shapes.lock();
        // What was made while the catalog changed is for this statement only.
        if shapes.0 == version && self.engine.storage.catalog_version() == version {
            shapes.1.insert(name.value.clone(), Arc::clone(&shape));
        }
        Ok(shape)
    }

    pub(super) async fn insert_values(
        &mut self,
        insert: &InsertValues,
        prepared: &Prepared,
        parameters: &[ScalarValue],
        deadline: Option<Instant>,
    ) -> Result<Outcome> {
        let current = self.engine.storage.catalog_version();
        let direct = match prepared.direct.as_ref().filter(|direct| direct.catalog_version == current) {
            Some(direct) => Arc::clone(direct),
            None => {
                let said: Vec<_> = prepared.parameters.iter().cloned().map(Some).collect();
                let again = self.prepare_values(&prepared.parsed, insert, &said).await?;
                match &again.direct {
                    Some(direct) => Arc::clone(direct),
                    None => return Box::pin(self.execute_parsed(&again, parameters)).await,
                }
            }
        };
        let writer = self.writer(&insert.name).await?;
        let rows = direct.rows(insert, parameters, &writer)?;
        let answer = self.returning_of(&insert.name, insert.returning.as_ref(), prepared).await?;
        let mut returned = self.returned(answer.as_ref(), writer.relation())?;
        let mut writing = self.writing();
        let written = writer.insert_batch(&direct.targets, &rows, &mut writing, returned.as_mut());
        let count = query::before(deadline, written).await?;
        self.write(writing).await?;
        self.inserted((count, returned), answer.as_ref(), insert.returning.as_ref(), deadline).await
    }

    /// Begins a COPY; the protocol brings the data and comes back with [`Session::end_copy`].
    pub(super) async fn copy_from(&mut self, copy: &CopyFrom, deadline: Option<Instant>) -> Result<Outcome> {
        let writer = self.writer(&copy.name).await?;
        let targets = targets(writer.relation(), &copy.columns)?;
        let writing = self.writing();
        Ok(Outcome::CopyIn(Box::new(CopyIn::new(copy, writer, targets, writing, deadline)?)))
    }

    /// The format of a COPY TO with these rows.
    pub(super) fn format_of(&self, copy: &CopyOut, rows: &Rows) -> Result<CopyFormat> {
        let copied: Vec<&str> = rows.columns.iter().map(|column| column.name.as_str()).collect();
        let relation = copy.of.as_ref().and_then(|name| self.engine.catalog.relation(name).ok());
        let known =
            |name: &str| relation.iter().flat_map(|known| &known.format.columns).any(|known| known.name == name);
        copy.force.resolve(&copy.format, &copied, &known)
    }

    /// Ends a COPY whose data has all been taken: one commit, or part of the block's.
    ///
    /// # Errors
    /// What the last lines say, and storage; then nothing of it is written.
    pub async fn end_copy(&mut self, copy: CopyIn) -> Result<Outcome> {
        let ended = async {
            let deadline = copy.deadline();
            let (rows, writing) = query::before(deadline, copy.end()).await?;
            self.write(writing).await?;
            Ok(Outcome::Done(format!("COPY {rows}")))
        };
        let ended = ended.await;
        if ended.is_err() {
            self.fail_transaction();
        }
        self.copying = None;
        ended
    }
}
