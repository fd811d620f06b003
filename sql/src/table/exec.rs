//! `ScanExec`: one DataFusion partition per topic partition, each a stream of a snapshot's rows in offset order.

use std::fmt;
use std::sync::Arc;

use aquifer_storage::{ScanRequest, Snapshot, TopicPartition};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use super::latest::latest;
use super::past;
use super::reader::ScanReader;
use super::source::{Source, SourceColumn};
use super::window::in_time;
use crate::catalog::Catalog;
use crate::error::Error;
use crate::operator::window::Tumbling;

/// One topic partition to scan; the request's columns are the reader's to say.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    /// Which.
    pub(crate) place: TopicPartition,
    /// What of it.
    pub(crate) request: ScanRequest,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct ScanExec {
    /// Where errors are noted.
    pub(crate) catalog: Arc<Catalog>,
    /// What is read.
    pub(crate) source: Source,
    /// The statement's cut.
    pub(crate) snapshot: Snapshot,
    /// The columns wanted.
    pub(crate) columns: Vec<SourceColumn>,
    /// What is left after pruning.
    pub(crate) partitions: Vec<Partition>,
    /// The source's windows: late records are dropped.
    window: Option<Tumbling>,
    limit: Option<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ScanExec {
    /// A scan of these partitions, without windows.
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        source: Source,
        snapshot: Snapshot,
        columns: Vec<SourceColumn>,
        partitions: Vec<Partition>,
        limit: Option<usize>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(source.schema(&columns)),
            // A plan has at least one partition; without topic partitions it is an empty one.
            Partitioning::UnknownPartitioning(partitions.len().max(1)),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let metrics = ExecutionPlanMetricsSet::new();
        let properties = Arc::new(properties);
        Self { catalog, source, snapshot, columns, partitions, window: None, limit, properties, metrics }
    }

    /// The same with windows; its columns may have `windowstart` and `windowend` among them.
    pub(crate) fn windowed(self, window: Option<Tumbling>) -> Self {
        Self { window, ..self }
    }
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScanExec: {}, partitions=[", self.source.name())?;
        for (index, partition) in self.partitions.iter().enumerate() {
            let (separator, request) = (if index > 0 { ", " } else { "" }, &partition.request);
            write!(f, "{separator}{}: {}..{}", partition.place.partition, request.offset_start, request.offset_end)?;
        }
        write!(f, "]")?;
        if self.source.is_keyed_table() {
            write!(f, ", latest per key")?;
        }
        if let Some(Tumbling { size_ms, grace_ms }) = self.window {
            write!(f, ", tumbling size_ms={size_ms}, grace_ms={grace_ms}")?;
        }
        if let Some(at_us) = self.partitions.first().and_then(|partition| partition.request.committed_max_us) {
            write!(f, ", as of {}", past::shown(at_us))?;
        }
        self.limit.map_or(Ok(()), |limit| write!(f, ", limit={limit}"))
    }
}

impl ExecutionPlan for ScanExec {
    fn name(&self) -> &'static str {
        "ScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let schema = self.schema();
        let Some(partition_of_topic) = self.partitions.get(partition) else {
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::empty())));
        };
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let batch_rows = context.session_config().batch_size();
        let rows = match self.window {
            Some(tumbling) => in_time(self, tumbling, partition_of_topic, batch_rows)?,
            None if self.source.is_keyed_table() => latest(self, partition_of_topic, &context)?,
            None => self.rows(partition_of_topic, batch_rows)?.boxed(),
        };
        let rows = limited(rows, self.limit).inspect_ok(move |rows| {
            baseline.record_output(rows.num_rows());
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

impl ScanExec {
    /// Rows of the wanted columns, in offset order; see [`ScanReader`].
    pub(crate) fn rows(
        &self,
        partition: &Partition,
        batch_rows: usize,
    ) -> DataFusionResult<impl futures::Stream<Item = DataFusionResult<RecordBatch>> + Send + use<>> {
        self.rows_of(&self.columns, partition, batch_rows).map(|(_, rows)| rows)
    }

    /// The same with other columns, and their schema.
    pub(crate) fn rows_of(
        &self,
        columns: &[SourceColumn],
        partition: &Partition,
        batch_rows: usize,
    ) -> DataFusionResult<(SchemaRef, impl futures::Stream<Item = DataFusionResult<RecordBatch>> + Send + use<>)> {
        let mut reader = ScanReader::new(&self.catalog, &self.source, columns)?;
        let schema = reader.schema();
        let request = ScanRequest { columns: reader.raw_columns().to_vec(), batch_rows, ..partition.request.clone() };
        let raw = self.snapshot.scan(partition.place, request).map_err(Error::from)?;
        let rows = raw.map(move |raw| {
            let raw = raw.map_err(Error::from).map_err(DataFusionError::from)?;
            reader.read(&raw)
        });
        Ok((schema, rows))
    }
}

fn limited(
    rows: futures::stream::BoxStream<'static, DataFusionResult<RecordBatch>>,
    limit: Option<usize>,
) -> futures::stream::BoxStream<'static, DataFusionResult<RecordBatch>> {
    let Some(limit) = limit else { return rows };
    rows.scan(limit, |left, rows| {
        let item = match (&rows, *left) {
            (_, 0) => None,
            (Ok(batch), _) => {
                let taken = batch.num_rows().min(*left);
                *left -= taken;
                Some(Ok(batch.slice(0, taken)))
            }
            (Err(_), _) => Some(rows),
        };
        futures::future::ready(item)
    })
    .boxed()
}
