//! `Slice`: how long a query computes before others have their turn at the thread, and a cancel or a deadline is noticed.
//!
//! DataFusion pauses after so many batches of a leaf. That is too seldom where batches are dear, and never where an
//! operator makes many rows out of few: joins and lists that are unnested. So scans pause by the clock, and whatever
//! multiplies rows gets a [`SliceExec`] above it ([`Slices`]). A nested loop holds a whole batch of its right side against
//! every row of its left one before it looks up, so it is given smaller batches.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt;

/// Longest time of computing between two pauses.
const SLICE: Duration = Duration::from_millis(10);

/// Rows of the right side that a nested loop gets at once: few enough for a pause after tens of thousands of rows of the left
/// side, and enough for the loop's own overhead not to show.
const LOOP_ROWS_MAX: usize = 1024;

/// Operators that may make many rows of one.
const MULTIPLYING: [&str; 8] = [
    "CrossJoinExec",
    "HashJoinExec",
    "NestedLoopJoinExec",
    "PiecewiseMergeJoinExec",
    "SortMergeJoinExec",
    "SymmetricHashJoinExec",
    "UnnestExec",
    "LazyMemoryExec",
];

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Slice {
    since: Instant,
}

impl Slice {
    /// Begins now.
    pub(crate) fn begin() -> Self {
        Self { since: Instant::now() }
    }

    /// Pauses if it is over.
    pub(crate) async fn pause_if_over(&mut self) {
        if self.since.elapsed() >= SLICE {
            tokio::task::yield_now().await;
            self.since = Instant::now();
        }
    }
}

/// Puts a [`SliceExec`] above what multiplies rows. To be the last rule: nothing is to be pushed through it.
#[derive(Debug, Default)]
pub(crate) struct Slices;

impl PhysicalOptimizerRule for Slices {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let sliced = plan.transform_up(|plan| {
            if !MULTIPLYING.contains(&plan.name()) {
                return Ok(Transformed::no(plan));
            }
            let plan = in_small_batches(plan)?;
            Ok(Transformed::yes(Arc::new(SliceExec::new(plan, usize::MAX)) as _))
        });
        sliced.data()
    }

    fn name(&self) -> &'static str {
        "Slices"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A nested loop whose right side comes in small batches; other plans as they are.
fn in_small_batches(plan: Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    if plan.name() != "NestedLoopJoinExec" {
        return Ok(plan);
    }
    let sides: Vec<Arc<dyn ExecutionPlan>> = plan.children().into_iter().map(Arc::clone).collect();
    let [left, right] = sides.as_slice() else { return Ok(plan) };
    let right: Arc<dyn ExecutionPlan> = Arc::new(SliceExec::new(Arc::clone(right), LOOP_ROWS_MAX));
    let left = Arc::clone(left);
    plan.replace_children(vec![left, right], ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// The rows of its input, with pauses.
#[derive(Debug)]
struct SliceExec {
    input: Arc<dyn ExecutionPlan>,
    /// Rows of a batch.
    rows_max: usize,
    properties: Arc<PlanProperties>,
}

impl SliceExec {
    fn new(input: Arc<dyn ExecutionPlan>, rows_max: usize) -> Self {
        Self { properties: Arc::clone(input.properties()), input, rows_max }
    }
}

impl DisplayAs for SliceExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SliceExec")?;
        if self.rows_max < usize::MAX { write!(f, ": rows_max={}", self.rows_max) } else { Ok(()) }
    }
}

impl ExecutionPlan for SliceExec {
    fn name(&self) -> &'static str {
        "SliceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(match children.pop() {
            Some(input) => Arc::new(Self::new(input, self.rows_max)),
            None => self,
        })
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let schema = rows.schema();
        let begun = (rows, None::<RecordBatch>, Slice::begin());
        let rows_max = self.rows_max;
        let sliced = futures::stream::unfold(begun, move |(mut rows, rest, mut slice)| async move {
            slice.pause_if_over().await;
            let batch = match rest {
                Some(rest) => rest,
                None => match rows.next().await? {
                    Ok(batch) => batch,
                    Err(error) => return Some((Err(error), (rows, None, slice))),
                },
            };
            if batch.num_rows() <= rows_max {
                return Some((Ok(batch), (rows, None, slice)));
            }
            let rest = batch.slice(rows_max, batch.num_rows() - rows_max);
            Some((Ok(batch.slice(0, rows_max)), (rows, Some(rest), slice)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, sliced)))
    }
}
