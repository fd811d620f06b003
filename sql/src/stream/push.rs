//! Push queries: `SELECT … EMIT CHANGES` over filters and projections of a stream; each record's row leaves as soon as
//! the record is durable. It ends when its stream is dropped, or after LIMIT rows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream;

use super::position::Position;
use super::prepare::{PreparedQuery, prepare, shown_schema};
use super::replay::ReplayFrom;
use super::source::Source;
use super::tick::Tick;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::operator::chain::{Chain, ChainState};
use crate::operator::change::Changes;
use crate::plan::continuous::Purpose;
use crate::run::query::cast_batch;
use crate::session::Rows;
use crate::statement::WindowedQuery;
use crate::table::reader::ScanReader;
use crate::types::{result_column, wire_type};

/// Pause when a wait has ended and there is still nothing to read, so that no bug makes it a busy loop.
const UNSTABLE_PAUSE: Duration = Duration::from_millis(10);

/// A running push query.
struct Push {
    source: Source,
    reader: ScanReader,
    chain: Chain,
    state: ChainState,
    schema: SchemaRef,
    ready: VecDeque<RecordBatch>,
    left: Option<usize>,
}

/// Starts `SELECT … EMIT CHANGES`, which reads history first if it is to be replayed; `from` where, and where that is said.
///
/// # Errors
/// What planning says.
pub(crate) async fn push(
    session: &SessionState,
    catalog: &Arc<Catalog>,
    query: &WindowedQuery,
    (from, said_at): (ReplayFrom, Option<usize>),
) -> Result<Rows> {
    let prepared = prepare(session, catalog, query, Purpose::Push, None).await?;
    let shown = shown_schema(&prepared);
    let columns = shown.fields().iter().map(|field| result_column(field.name().clone(), field)).collect();
    let fields = shown.fields().iter().map(|field| {
        let kind = wire_type(field.data_type());
        field.as_ref().clone().with_data_type(kind)
    });
    let schema = SchemaRef::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()));
    let position = Box::pin(from.position(catalog.storage(), &prepared.source.topic)).await;
    let position = position.map_err(|error| said_at.into_iter().fold(error, Error::with_position))?;
    let push = start(catalog, prepared, SchemaRef::clone(&schema), position)?;
    let rows = stream::try_unfold(push, |mut push| async move {
        let batch = push.next().await.map_err(DataFusionError::from)?;
        Ok(batch.map(|batch| (batch, push)))
    });
    Ok(Rows { columns, stream: Box::pin(RecordBatchStreamAdapter::new(schema, rows)), live: true, tag: "SELECT" })
}

fn start(catalog: &Arc<Catalog>, prepared: PreparedQuery, schema: SchemaRef, position: Position) -> Result<Push> {
    let reader = ScanReader::new(catalog, &prepared.source, &prepared.columns).map_err(Error::from)?;
    let topic = (prepared.source.topic.id, prepared.source.topic.partitions);
    let source = Source::new(catalog.storage().clone(), topic, reader.raw_columns().to_vec(), position);
    let plan = prepared.plan;
    let state = plan.chain.start();
    Ok(Push { source, reader, chain: plan.chain, state, schema, ready: VecDeque::new(), left: plan.limit })
}

impl Push {
    /// The next rows; waits for them. `None` after LIMIT rows.
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let mut waited = false;
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(self.limited(batch)));
            }
            match self.source.next().await? {
                Some(tick) => {
                    waited = false;
                    self.compute(&tick)?;
                }
                None => {
                    if waited {
                        tokio::time::sleep(UNSTABLE_PAUSE).await;
                    }
                    self.source.wait().await;
                    self.source.grow();
                    waited = true;
                }
            }
        }
    }

    fn compute(&mut self, tick: &Tick) -> Result<()> {
        let mut input = Vec::new();
        for run in &tick.runs {
            for batch in &run.batches {
                let rows = self.reader.read(batch).map_err(Error::from)?;
                let times = Int64Array::from_value(0, rows.num_rows());
                input.push((run.partition, Changes::inserts(rows, times, None)));
            }
        }
        let (changes, delta) = self.chain.step(&self.state, input, 0).map_err(Error::from)?;
        self.state.apply(&self.chain, delta);
        for batch in changes {
            self.ready.push_back(cast_batch(&batch.rows, &self.schema).map_err(Error::from)?);
        }
        Ok(())
    }

    fn limited(&mut self, batch: RecordBatch) -> RecordBatch {
        let Some(left) = self.left.as_mut() else { return batch };
        let taken = batch.num_rows().min(*left);
        *left -= taken;
        batch.slice(0, taken)
    }
}
