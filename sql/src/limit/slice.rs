//! `Slice`: how long a query computes before others have their turn at the thread, and a cancel or a deadline is noticed.
//!
//! DataFusion pauses after so many batches of a leaf. That is too seldom where batches are dear, and never where an
//! operator makes many rows out of few: joins and lists that are unnested. So scans pause by the clock, and whatever
//! multiplies rows gets a [`SliceExec`] above it ([`Slices`]).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;

/// Longest time of computing between two pauses.
const SLICE: Duration = Duration::from_millis(10);

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
            let multiplies = MULTIPLYING.contains(&plan.name());
            Ok(if multiplies { Transformed::yes(Arc::new(SliceExec::new(plan)) as _) } else { Transformed::no(plan) })
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

/// The rows of its input, with pauses.
#[derive(Debug)]
struct SliceExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl SliceExec {
    fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        Self { properties: Arc::clone(input.properties()), input }
    }
}

impl DisplayAs for SliceExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SliceExec")
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
            Some(input) => Arc::new(Self::new(input)),
            None => self,
        })
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let schema = rows.schema();
        let sliced = futures::stream::unfold((rows, Slice::begin()), |(mut rows, mut slice)| async move {
            slice.pause_if_over().await;
            rows.next().await.map(|batch| (batch, (rows, slice)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, sliced)))
    }
}
