//! `ReturnedTable`: the rows a statement has written, as the table that its RETURNING reads. Planning needs only their
//! schema; the rows come with the run, as an extension of the session's configuration.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::{Error, SqlState};

/// The rows of one run.
#[derive(Debug)]
pub(crate) struct ReturnedRows(pub(crate) Vec<RecordBatch>);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct ReturnedTable(pub(crate) SchemaRef);

#[async_trait]
impl TableProvider for ReturnedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let rows = state.config().get_extension::<ReturnedRows>().ok_or_else(|| {
            DataFusionError::from(Error::new(SqlState::InternalError, "RETURNING outside a statement that writes"))
        })?;
        Ok(MemorySourceConfig::try_new_exec(std::slice::from_ref(&rows.0), self.schema(), projection.cloned())?)
    }
}
