//! A windowed source as a table: each record with its window, late records dropped, by the code continuous queries use.
//!
//! Lateness depends on the records before, so a partition is read whole and in offset order, whatever the statement's
//! filters leave of it afterwards.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::StreamExt;

use super::exec::ScanExec;
use super::source::SourceColumn;
use crate::error::{Error, Result};
use crate::operator::window::Tumbling;
use crate::statement::{DEFAULT_GRACE_MS, WindowSpec};

/// Windows over a scan whose columns may have `windowstart` and `windowend` among them.
///
/// # Errors
/// Windows that are not supported, by name.
pub(crate) fn windowed(scan: ScanExec, window: &WindowSpec) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(Arc::new(WindowExec::new(scan, tumbling(window)?)))
}

/// The windows as the operators know them.
///
/// # Errors
/// Windows that are not supported, by name.
pub(crate) fn tumbling(window: &WindowSpec) -> Result<Tumbling> {
    let refused = |what: &str| {
        Error::unsupported(format!("WINDOW {what}")).with_hint("WINDOW TUMBLING (SIZE 5 MINUTES) is there")
    };
    match window {
        WindowSpec::Tumbling { size_ms, grace_ms } => {
            Ok(Tumbling { size_ms: *size_ms, grace_ms: grace_ms.unwrap_or(DEFAULT_GRACE_MS) })
        }
        WindowSpec::Hopping { .. } => Err(refused("HOPPING")),
        WindowSpec::Session { .. } => Err(refused("SESSION")),
    }
}

/// See the head of this file.
#[derive(Debug)]
struct WindowExec {
    scan: ScanExec,
    tumbling: Tumbling,
    properties: Arc<PlanProperties>,
}

/// Which column of the scan, or which of the window, an output column is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Scanned(usize),
    Start,
    End,
}

impl WindowExec {
    fn new(scan: ScanExec, tumbling: Tumbling) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(scan.source.schema(&scan.columns)),
            Partitioning::UnknownPartitioning(scan.properties().output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { scan, tumbling, properties: Arc::new(properties) }
    }

    /// The columns to scan, rowtime the last of them, and where each output column comes from.
    fn places(&self) -> (Vec<SourceColumn>, Vec<Place>) {
        let mut scanned = Vec::new();
        let places = self.scan.columns.iter().map(|column| match column {
            SourceColumn::WindowStart => Place::Start,
            SourceColumn::WindowEnd => Place::End,
            column => {
                scanned.push(*column);
                Place::Scanned(scanned.len() - 1)
            }
        });
        let places = places.collect();
        scanned.push(SourceColumn::RowTime);
        (scanned, places)
    }
}

/// The records of `rows` (rowtime last) that are in time, as the output's columns.
fn place(
    tumbling: Tumbling,
    largest: &mut Option<i64>,
    rows: &RecordBatch,
    places: &[Place],
    schema: &SchemaRef,
) -> DataFusionResult<RecordBatch> {
    let rowtimes = rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>();
    let assigned = tumbling.assign(largest, rowtimes);
    let columns = places.iter().map(|place| -> ArrayRef {
        match place {
            Place::Scanned(index) => Arc::clone(rows.column(*index)),
            Place::Start => Arc::new(assigned.starts.clone()),
            Place::End => Arc::new(assigned.ends.clone()),
        }
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &options)?;
    Ok(filter_record_batch(&rows, &assigned.kept)?)
}

impl DisplayAs for WindowExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tumbling { size_ms, grace_ms } = self.tumbling;
        write!(f, "WindowExec: tumbling size_ms={size_ms}, grace_ms={grace_ms}, ")?;
        self.scan.fmt_as(format, f)
    }
}

impl ExecutionPlan for WindowExec {
    fn name(&self) -> &'static str {
        "WindowExec"
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
        let Some(of_topic) = self.scan.partitions.get(partition) else {
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::empty())));
        };
        let (scanned, places) = self.places();
        let (_, rows) = self.scan.rows_of(&scanned, of_topic, context.session_config().batch_size())?;
        let (tumbling, output) = (self.tumbling, Arc::clone(&schema));
        let mut largest = None;
        let rows = rows.map(move |rows| place(tumbling, &mut largest, &rows?, &places, &output));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}
