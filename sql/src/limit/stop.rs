//! `Stoppable`: a join's condition that is an error once nobody wants the rows any more.
//!
//! A nested loop holds a batch against every row of its other side without a pause, and where nothing fits that takes as
//! long as there are rows. Its condition is all of it that is ours to say, so that is where a cancel is noticed.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{NestedLoopJoinExec, NestedLoopJoinExecBuilder};

use super::turn::Turn;
use crate::error::{Error, SqlState};

/// See the head of this file.
#[derive(Debug)]
struct Stoppable {
    condition: Arc<dyn PhysicalExpr>,
    turn: Arc<Turn>,
}

/// The plan with nested loops that stop when the query of this turn does.
pub(crate) fn stoppable(plan: Arc<dyn ExecutionPlan>, turn: &Arc<Turn>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let stoppable = plan.transform_up(|plan| {
        let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() else { return Ok(Transformed::no(plan)) };
        let Some(filter) = join.filter() else { return Ok(Transformed::no(plan)) };
        let condition = Stoppable { condition: Arc::clone(filter.expression()), turn: Arc::clone(turn) };
        let filter =
            JoinFilter::new(Arc::new(condition), filter.column_indices().to_vec(), Arc::clone(filter.schema()));
        let join = NestedLoopJoinExecBuilder::new(Arc::clone(join.left()), Arc::clone(join.right()), *join.join_type())
            .with_projection_ref(join.projection().clone())
            .with_filter(Some(filter))
            .build()?;
        Ok(Transformed::yes(Arc::new(join) as _))
    });
    stoppable.data()
}

impl PartialEq for Stoppable {
    fn eq(&self, other: &Self) -> bool {
        self.condition.eq(&other.condition)
    }
}

impl Eq for Stoppable {}

impl Hash for Stoppable {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.condition.hash(state);
    }
}

impl fmt::Display for Stoppable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.condition, f)
    }
}

impl PhysicalExpr for Stoppable {
    fn data_type(&self, input: &Schema) -> DataFusionResult<DataType> {
        self.condition.data_type(input)
    }

    fn nullable(&self, input: &Schema) -> DataFusionResult<bool> {
        self.condition.nullable(input)
    }

    fn evaluate(&self, batch: &RecordBatch) -> DataFusionResult<ColumnarValue> {
        if self.turn.is_stopped() {
            return Err(Error::new(SqlState::QueryCanceled, "nobody waits for this query any more").into());
        }
        self.condition.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.condition]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        Ok(match children.pop() {
            Some(condition) => Arc::new(Self { condition, turn: Arc::clone(&self.turn) }),
            None => self,
        })
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.condition.fmt_sql(f)
    }
}
