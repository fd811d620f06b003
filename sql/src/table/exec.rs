//! `ScanExec`: a snapshot's rows as DataFusion's partitions.
//!
//! Where order does not matter a scan is cut into parts and these are dealt out to *lanes*, one DataFusion partition each;
//! in each lane rows come by partition and offset. A keyed table and a windowed source are read one topic partition at a
//! time. What plans ask of it: filters, which say what need not be read; an order, which a lane has already or nearly; a
//! limit, after which nothing more is opened; counts that the manifest knows.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use aquifer_storage::{ScanCounts, ScanMeter, ScanPart, ScanRequest, Snapshot, TopicPartition};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{
    DynamicFilterTracking, EquivalenceProperties, LexOrdering, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, Metric, MetricValue, MetricsSet,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SortOrderPushdownResult, StatisticsArgs,
};
use futures::{StreamExt, TryStreamExt};

use super::known;
use super::lanes::Visit;
use super::latest::latest;
use super::past;
use super::provider::Scope;
use super::prune::Pruning;
use super::reader::DecodedReader;
use super::source::{Source, SourceColumn};
use super::window::in_time;
use crate::catalog::Catalog;
use crate::error::Error;
use crate::limit::slice::Slice;
use crate::limit::turn::Turn;
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
#[derive(Clone, Debug)]
pub(crate) struct ScanExec {
    /// Where errors are noted.
    pub(crate) catalog: Arc<Catalog>,
    /// What is read.
    pub(crate) source: Source,
    /// The statement's cut.
    pub(crate) snapshot: Snapshot,
    /// What is asked before it reads on.
    turn: Arc<Turn>,
    /// The columns wanted.
    pub(crate) columns: Vec<SourceColumn>,
    /// What is left after pruning.
    pub(crate) partitions: Vec<Partition>,
    /// The same in parts, shared out; `None` where each partition is read on its own.
    lanes: Option<Arc<[Vec<ScanPart>]>>,
    /// In which order parts are read.
    visit: Visit,
    /// What the plan filters by: row groups without such rows are left out.
    filters: Vec<Arc<dyn PhysicalExpr>>,
    /// The source's windows: late records are dropped.
    window: Option<Tumbling>,
    limit: Option<usize>,
    meter: Arc<ScanMeter>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ScanExec {
    /// A scan of these partitions, each on its own, without windows.
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        source: Source,
        scope: &Scope,
        columns: Vec<SourceColumn>,
        partitions: Vec<Partition>,
        limit: Option<usize>,
    ) -> Self {
        let properties = properties(EquivalenceProperties::new(source.schema(&columns)), partitions.len());
        Self {
            catalog,
            source,
            snapshot: scope.snapshot.clone(),
            turn: Arc::clone(&scope.turn),
            columns,
            partitions,
            lanes: None,
            visit: Visit::default(),
            filters: Vec::new(),
            window: None,
            limit,
            meter: Arc::default(),
            properties,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The same with windows; its columns may have `windowstart` and `windowend` among them.
    pub(crate) fn windowed(self, window: Option<Tumbling>) -> Self {
        Self { window, ..self }
    }

    /// The same in lanes, what was looked at to find them counted already.
    pub(crate) fn in_lanes(self, lanes: Vec<Vec<ScanPart>>, meter: Arc<ScanMeter>) -> Self {
        let properties = properties(self.properties.equivalence_properties().clone(), lanes.len());
        Self { lanes: Some(lanes.into()), meter, properties, ..self }
    }

    /// Rows of the wanted columns, in offset order; see [`DecodedReader`].
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
        let request = ScanRequest { meter: Arc::clone(&self.meter), batch_rows, ..partition.request.clone() };
        let parts = self.snapshot.whole(partition.place, &request).map_err(Error::from)?;
        self.read(columns, parts, request)
    }

    fn read(
        &self,
        columns: &[SourceColumn],
        parts: Vec<ScanPart>,
        request: ScanRequest,
    ) -> DataFusionResult<(SchemaRef, impl futures::Stream<Item = DataFusionResult<RecordBatch>> + Send + use<>)> {
        let reader = DecodedReader::new(&self.catalog, &self.source, columns);
        let schema = reader.schema();
        let request = ScanRequest { columns: reader.raw_columns().to_vec(), ..request };
        let scanned = self.snapshot.read(parts, &request, reader.declared()).map_err(Error::from)?;
        let begun = (scanned, reader, Arc::clone(&self.turn), Slice::begin());
        let rows = futures::stream::try_unfold(begun, |(mut scanned, reader, turn, mut slice)| async move {
            turn.pass().await?;
            slice.pause_if_over().await;
            let Some(decoded) = scanned.next().await else { return Ok(None) };
            let rows = reader.read(decoded.map_err(Error::from)?)?;
            // What is only counted costs nothing.
            turn.has_read(if rows.num_columns() > 0 { rows.num_rows() } else { 0 });
            Ok(Some((rows, (scanned, reader, turn, slice))))
        });
        Ok((schema, rows))
    }

    /// How many rows there may be.
    pub(crate) fn rows_max(&self) -> u64 {
        let of = |partition: &Partition| partition.request.offset_end.saturating_sub(partition.request.offset_start);
        let rows = match &self.lanes {
            Some(lanes) => lanes.iter().flatten().map(ScanPart::rows_max).fold(0, u64::saturating_add),
            None => {
                let rows = self.partitions.iter().map(|partition| u64::try_from(of(partition)).unwrap_or(0));
                rows.fold(0, u64::saturating_add)
            }
        };
        self.limit.map_or(rows, |limit| rows.min(limit as u64))
    }

    /// The commit time, us, as of which it reads; `None` is now.
    fn as_of(&self) -> Option<i64> {
        self.partitions.first().and_then(|partition| partition.request.committed_max_us)
    }

    /// The rows of one lane.
    fn lane(&self, parts: &[ScanPart], batch_rows: usize) -> DataFusionResult<DataFusionRows> {
        let dynamic = self.filters.iter().any(is_dynamic);
        // Which end has what a filter will ask for nobody knows yet.
        let visit = if dynamic && self.visit == Visit::AsTheyCome { Visit::EndsFirst } else { self.visit };
        let pruning = || Pruning::new(&self.source, &self.columns, self.schema(), &self.filters);
        let request = ScanRequest {
            batch_rows: self.limit.map_or(batch_rows, |limit| batch_rows.min(limit.max(1))),
            filter: (!self.filters.is_empty()).then(|| Arc::new(pruning()) as _),
            hasty: dynamic || self.limit.is_some(),
            meter: Arc::clone(&self.meter),
            committed_max_us: self.as_of(),
            ..ScanRequest::all(Vec::new())
        };
        self.read(&self.columns, visit.order(parts), request).map(|(_, rows)| rows.boxed())
    }

    /// The same for another order; `None` if no lane has it.
    fn sorted_by(&self, order: &[PhysicalSortExpr]) -> Option<(Self, bool)> {
        let lanes = self.lanes.as_ref()?;
        let (visit, exact) = Visit::for_order(order, &self.schema(), &self.columns, lanes)?;
        let mut equivalence = EquivalenceProperties::new(self.schema());
        if exact {
            equivalence.add_ordering(LexOrdering::new(order.iter().cloned())?);
        }
        let properties = properties(equivalence, lanes.len());
        Some((Self { visit, properties, ..self.clone() }, exact))
    }
}

type DataFusionRows = futures::stream::BoxStream<'static, DataFusionResult<RecordBatch>>;

/// Whether a filter becomes narrower while the plan runs.
fn is_dynamic(filter: &Arc<dyn PhysicalExpr>) -> bool {
    DynamicFilterTracking::classify(filter).contains_dynamic_filter()
}

/// A plan has at least one partition; without topic partitions it is an empty one.
fn properties(equivalence: EquivalenceProperties, partitions: usize) -> Arc<PlanProperties> {
    let partitioning = Partitioning::UnknownPartitioning(partitions.max(1));
    Arc::new(PlanProperties::new(equivalence, partitioning, EmissionType::Incremental, Boundedness::Bounded))
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScanExec: {}, partitions=[", self.source.name())?;
        for (index, partition) in self.partitions.iter().enumerate() {
            let (separator, request) = (if index > 0 { ", " } else { "" }, &partition.request);
            write!(f, "{separator}{}: {}..{}", partition.place.partition, request.offset_start, request.offset_end)?;
        }
        write!(f, "]")?;
        if let Some(lanes) = self.lanes.as_ref().filter(|lanes| lanes.len() > 1) {
            write!(f, ", lanes={}", lanes.len())?;
        }
        if self.source.is_keyed_table() {
            write!(f, ", latest per key")?;
        }
        if let Some(Tumbling { size_ms, grace_ms }) = self.window {
            write!(f, ", tumbling size_ms={size_ms}, grace_ms={grace_ms}")?;
        }
        if let Some(at_us) = self.as_of() {
            write!(f, ", as of {}", past::shown(at_us))?;
        }
        write!(f, "{}", self.visit)?;
        for (index, filter) in self.filters.iter().enumerate() {
            write!(f, "{}{filter}", if index > 0 { " AND " } else { ", pruned by " })?;
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
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        for filter in &self.filters {
            if f(filter)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn reset_state(self: Arc<Self>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        // What a filter has found out in one run says nothing about the next.
        let filters = self.filters.iter().filter(|filter| !is_dynamic(filter)).cloned().collect();
        Ok(Arc::new(Self { filters, ..self.as_ref().clone() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let schema = self.schema();
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let batch_rows = context.session_config().batch_size();
        let rows = match (&self.lanes, self.partitions.get(partition)) {
            (Some(lanes), _) => match lanes.get(partition) {
                Some(parts) => self.lane(parts, batch_rows)?,
                None => futures::stream::empty().boxed(),
            },
            (None, None) => futures::stream::empty().boxed(),
            (None, Some(of_topic)) => match self.window {
                Some(tumbling) => in_time(self, tumbling, of_topic, batch_rows)?,
                None if self.source.is_keyed_table() => latest(self, of_topic, &context)?,
                None => self.rows(of_topic, batch_rows)?.boxed(),
            },
        };
        let rows = limited(rows, self.limit).inspect_ok(move |rows| {
            baseline.record_output(rows.num_rows());
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let mut metrics = self.metrics.clone_inner();
        for (name, value) in counted(&self.meter.counts()) {
            let count = Count::new();
            count.add(usize::try_from(value).unwrap_or(usize::MAX));
            metrics.push(Arc::new(Metric::new(MetricValue::Count { name: Cow::Borrowed(name), count }, None)));
        }
        Some(metrics)
    }

    fn statistics_from_inputs(
        &self,
        _input_stats: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> DataFusionResult<Arc<Statistics>> {
        let Some(lanes) = self.lanes.as_ref().filter(|_| self.limit.is_none()) else {
            let ranges = self.partitions.iter().map(|of| of.request.offset_start..of.request.offset_end);
            return Ok(Arc::new(known::at_most(&self.schema(), ranges, self.limit)));
        };
        let parts: Vec<&ScanPart> = match args.partition() {
            Some(lane) => lanes.get(lane).into_iter().flatten().collect(),
            None => lanes.iter().flatten().collect(),
        };
        let exact = self.source.relation.is_none() && self.filters.is_empty();
        Ok(Arc::new(known::statistics(&self.schema(), &self.columns, &parts, exact)))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        let limit = match (limit, self.limit) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Some(Arc::new(Self { limit, ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> DataFusionResult<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let wanted: Vec<_> = result.parent_filters.into_iter().map(|asked| asked.filter).collect();
        // They are kept by whoever asked: what comes of it is only that some row groups are not read.
        let kept = FilterPushdownPropagation::with_parent_pushdown_result(vec![PushedDown::No; wanted.len()]);
        if self.lanes.is_none() || wanted.is_empty() {
            return Ok(kept);
        }
        let filters = self.filters.iter().cloned().chain(wanted).collect();
        Ok(kept.with_updated_node(Arc::new(Self { filters, ..self.clone() })))
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> DataFusionResult<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        Ok(match self.sorted_by(order) {
            Some((sorted, true)) => SortOrderPushdownResult::Exact { inner: Arc::new(sorted) },
            Some((nearly, false)) => SortOrderPushdownResult::Inexact { inner: Arc::new(nearly) },
            None => SortOrderPushdownResult::Unsupported,
        })
    }
}

/// What `EXPLAIN ANALYZE` shows, in this order.
fn counted(counts: &ScanCounts) -> [(&'static str, u64); 12] {
    let objects_pruned = counts.objects_considered.saturating_sub(counts.objects_read);
    [
        ("objects_considered", counts.objects_considered),
        ("objects_pruned", objects_pruned),
        ("objects_read", counts.objects_read),
        ("row_groups_considered", counts.row_groups_considered),
        ("row_groups_pruned", counts.row_groups_pruned),
        ("row_groups_read", counts.row_groups_read),
        ("bytes_read", counts.bytes_read),
        ("footer_cache_hits", counts.footer_cache_hits),
        ("typed_rows", counts.typed_rows),
        ("decoded_rows", counts.decoded_rows),
        ("hot_rows", counts.hot_rows),
        ("hot_rows_shared", counts.hot_rows_shared),
    ]
}

fn limited(rows: DataFusionRows, limit: Option<usize>) -> DataFusionRows {
    let Some(limit) = limit else { return rows };
    if limit == 0 {
        return futures::stream::empty().boxed();
    }
    let taking = futures::stream::unfold(Some((rows, limit)), |state| async move {
        let (mut rows, left) = state?;
        match rows.next().await? {
            Ok(batch) => {
                let taken = batch.num_rows().min(left);
                // What comes behind the last row is not asked for: it may be another object.
                let rest = (taken < left).then_some((rows, left - taken));
                Some((Ok(batch.slice(0, taken)), rest))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    taking.boxed()
}
