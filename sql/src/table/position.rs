//! `aquifer.position('orders', time)`: per partition, the offset from which on everything was committed after that time.

use std::sync::{Arc, LazyLock};

use aquifer_storage::{Storage, Topic, TopicPartition};
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::past;
use super::provider::Scope;
use crate::error::{Error, Result, SqlState};

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let fields = vec![Field::new("partition", DataType::Int32, false), Field::new("offset", DataType::Int64, false)];
    Arc::new(Schema::new(fields))
});

/// See the head of this file. It is scanned as of the time.
#[derive(Debug)]
pub(crate) struct PositionTable {
    /// For the time.
    pub(crate) storage: Storage,
    /// Whose offsets.
    pub(crate) topic: Arc<Topic>,
}

impl PositionTable {
    async fn rows(&self, filters: &[Expr], state: &dyn Session) -> Result<RecordBatch> {
        let missing = |what| Error::new(SqlState::InternalError, what);
        let scope = state.config().get_extension::<Scope>();
        let snapshot = &scope.ok_or_else(|| missing("a scan outside a statement has no snapshot"))?.snapshot;
        let at_us = past::moment(filters, state)?.ok_or_else(|| missing("a position without a time"))?;
        past::check(&self.storage, snapshot, &self.topic, at_us).await?;
        let mut offsets = Vec::new();
        for partition in 0..self.topic.partitions {
            let place = TopicPartition { topic: self.topic.id, partition };
            offsets.push(snapshot.position(place, at_us).await?);
        }
        let partitions = Int32Array::from_iter_values(0..self.topic.partitions);
        let columns: Vec<ArrayRef> = vec![Arc::new(partitions), Arc::new(Int64Array::from(offsets))];
        let rows = RecordBatch::try_new(SchemaRef::clone(&SCHEMA), columns);
        Ok(rows.map_err(DataFusionError::from)?)
    }
}

#[async_trait]
impl TableProvider for PositionTable {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&SCHEMA)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Unsupported; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let rows = self.rows(filters, state).await?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![rows]], self.schema(), projection.cloned())?)
    }
}
