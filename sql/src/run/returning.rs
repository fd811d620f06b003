//! What RETURNING answers: the rows written are kept until the statement has done its work, then its select list is
//! computed over them.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use tokio::time::Instant;

use crate::catalog::{Catalog, Relation};
use crate::error::{Error, Result, SqlState};
use crate::plan::bind::Bound;
use crate::plan::point::{column_of, scan_below};
use crate::run::query;
use crate::session::Rows;
use crate::statement::Returning;
use crate::table::returned::ReturnedRows;
use crate::table::{Source, SourceColumn};

/// The rows written so far.
#[derive(Debug)]
pub(crate) struct Returned {
    source: Source,
    rows: Vec<RecordBatch>,
    bytes: u64,
    bytes_max: u64,
}

impl Returned {
    /// None yet; `bytes_max` of them may be kept.
    pub(crate) fn new(source: Source, bytes_max: u64) -> Self {
        Self { source, rows: Vec::new(), bytes: 0, bytes_max }
    }

    /// Takes rows with the columns that are written, in declared order.
    ///
    /// # Errors
    /// 54000 beyond the limit.
    pub(crate) fn take(&mut self, rows: RecordBatch) -> Result<()> {
        self.bytes += rows.get_array_memory_size() as u64;
        if self.bytes > self.bytes_max {
            let message = format!("RETURNING would keep more than {} bytes of rows in memory", self.bytes_max);
            return Err(Error::new(SqlState::ProgramLimitExceeded, message)
                .with_hint("write fewer rows in one statement, leave RETURNING out, or raise memory.limit"));
        }
        let declared = self.source.relation.iter().flat_map(|relation| relation.format.columns.iter());
        let columns: Vec<SourceColumn> = (0..declared.count()).map(SourceColumn::Declared).collect();
        let schema = self.source.schema(&columns);
        // Columns that nobody writes, as HEADERS, are NULL.
        let column = |field: &Arc<arrow::datatypes::Field>| match rows.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), rows.num_rows()),
        };
        let arrays: Vec<ArrayRef> = schema.fields().iter().map(column).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(schema, arrays, &options).map_err(DataFusionError::from)?;
        self.rows.push(rows);
        Ok(())
    }

    /// The answer; `tag` is the command's, whose count the protocol adds.
    ///
    /// # Errors
    /// What planning says; what computing says comes through the rows.
    pub(crate) async fn answer(
        self,
        catalog: &Catalog,
        bound: &Bound,
        returning: &Returning,
        tag: &'static str,
        deadline: Option<Instant>,
    ) -> Result<Rows> {
        if let Some(rows) = self.plain(bound)? {
            return Ok(Rows { tag, ..rows });
        }
        let mut state = bound.state.clone();
        state.config_mut().set_extension(Arc::new(ReturnedRows(self.rows)));
        let rows = query::run(catalog, &bound.in_state(state), &[], &returning.places, deadline).await?;
        Ok(Rows { tag, ..rows })
    }
}

impl Returned {
    /// The answer without a run of the plan, if that is nothing but columns.
    fn plain(&self, bound: &Bound) -> Result<Option<Rows>> {
        let LogicalPlan::Projection(projection) = &bound.plan else { return Ok(None) };
        let Some(first) = self.rows.first().filter(|_| scan_below(&projection.input).is_some()) else {
            return Ok(None);
        };
        let held = first.schema();
        let index = |expr: &Expr| held.index_of(&column_of(expr)?.name).ok();
        let Some(columns) = projection.expr.iter().map(index).collect::<Option<Vec<usize>>>() else { return Ok(None) };
        let schema = Arc::clone(projection.schema.inner());
        let project = |rows: &RecordBatch| {
            let columns = columns.iter().map(|index| Arc::clone(rows.column(*index))).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
            RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options).map_err(DataFusionError::from)
        };
        let rows: Vec<_> = self.rows.iter().map(project).collect();
        let columns = query::columns_of(&schema);
        let rows = RecordBatchStreamAdapter::new(schema, futures::stream::iter(rows));
        Ok(Some(Rows { columns, stream: query::traveling(Box::pin(rows)), live: false, tag: "" }))
    }
}

/// The name a relation goes by in RETURNING's plan.
pub(crate) fn source_of(catalog: &Catalog, relation: &Arc<Relation>) -> Result<Source> {
    Ok(Source { topic: catalog.topic_of(relation)?, relation: Some(Arc::clone(relation)) })
}
