//! `weight`: how many rows a plan may have to do with, from what it says before it runs; pure. Plans of more weight than
//! `query.heavy_rows` compute on threads of their own.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;

use crate::table::exec::ScanExec;

/// Leaves that have a few rows at hand: VALUES, system tables, rows by their key.
const LIGHT: [&str; 4] = ["DataSourceExec", "EmptyExec", "KeyLookupExec", "PlaceholderRowExec"];

/// Operators that hold every row of one side against every row of the other.
const PRODUCTS: [&str; 3] = ["CrossJoinExec", "NestedLoopJoinExec", "PiecewiseMergeJoinExec"];

/// See the head of this file. What nobody can tell weighs most.
pub(crate) fn weight(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    if let Some(scan) = plan.downcast_ref::<ScanExec>() {
        return scan.rows_max();
    }
    let children = plan.children();
    if children.is_empty() {
        return if LIGHT.contains(&plan.name()) { 0 } else { u64::MAX };
    }
    let weights = children.into_iter().map(weight);
    if PRODUCTS.contains(&plan.name()) {
        return weights.fold(1, |product, weight| product.saturating_mul(weight.max(1)));
    }
    weights.fold(0, u64::saturating_add)
}
