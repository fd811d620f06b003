//! DataFusion's rule that groups twice for a DISTINCT, left out where a sum stands beside it: it adds up sums as it adds up the column, and
//! a sum of INT is BIGINT, of BIGINT numeric, so that the plan would have another type than was told.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerRule};

/// Its name.
const RULE: &str = "single_distinct_aggregation_to_group_by";

/// DataFusion's rules, with that one narrowed.
pub(super) fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let narrowed = |rule: Arc<dyn OptimizerRule + Send + Sync>| -> Arc<dyn OptimizerRule + Send + Sync> {
        if rule.name() == RULE { Arc::new(GroupsTwice(rule)) } else { rule }
    };
    Optimizer::new().rules.into_iter().map(narrowed).collect()
}

#[derive(Debug)]
struct GroupsTwice(Arc<dyn OptimizerRule + Send + Sync>);

impl OptimizerRule for GroupsTwice {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        if let LogicalPlan::Aggregate(aggregate) = &plan
            && aggregate.aggr_expr.iter().any(is_sum)
        {
            return Ok(Transformed::no(plan));
        }
        self.0.rewrite(plan, config)
    }
}

fn is_sum(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_sum(&alias.expr),
        Expr::AggregateFunction(call) => call.func.name() == "sum" && !call.params.distinct,
        _ => false,
    }
}
