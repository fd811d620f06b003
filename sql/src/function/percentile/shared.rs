//! Percentiles of one column at several fractions, out of one collection of its values: `percentile_cont(0.5)` and
//! `percentile_cont(0.9)` over the same rows become the items of `percentile_cont(ARRAY[0.5, 0.9])`.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::functions_nested::extract::array_element;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// The rule.
#[derive(Debug)]
pub(in crate::function) struct SharedValues;

/// A percentile's call and its fraction, if that is one number. What was made simpler keeps its name by an alias.
fn percentile(expr: &Expr) -> Option<(&AggregateFunction, f64)> {
    let call = match expr {
        Expr::Alias(alias) => return percentile(&alias.expr),
        Expr::AggregateFunction(call) => call,
        _ => return None,
    };
    let [_, Expr::Literal(ScalarValue::Float64(Some(fraction)), _)] = call.params.args.as_slice() else { return None };
    matches!(call.func.name(), "percentile_cont" | "percentile_disc").then_some((call, *fraction))
}

/// Whether two calls differ in their fraction alone.
fn share(left: &AggregateFunction, right: &AggregateFunction) -> bool {
    let (of_left, of_right) = (&left.params, &right.params);
    left.func == right.func
        && of_left.args.first() == of_right.args.first()
        && of_left.order_by == of_right.order_by
        && of_left.filter == of_right.filter
        && of_left.distinct == of_right.distinct
}

/// One call at these fractions, under a name of its own.
fn at_all(call: &AggregateFunction, fractions: &[f64], number: usize) -> Expr {
    let items: Vec<ScalarValue> = fractions.iter().map(|fraction| ScalarValue::from(*fraction)).collect();
    let list = ScalarValue::List(ScalarValue::new_list(&items, &DataType::Float64, true));
    let mut call = call.clone();
    call.params.args[1] = Expr::Literal(list, None);
    Expr::AggregateFunction(call).alias(format!("percentiles {number}"))
}

impl OptimizerRule for SharedValues {
    fn name(&self) -> &str {
        "percentiles_share_values"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Aggregate(aggregate) = &plan else { return Ok(Transformed::no(plan)) };
        // Each shared call, and where its fractions were asked for.
        let mut shared: Vec<(&AggregateFunction, Vec<(usize, f64)>)> = Vec::new();
        for (index, expr) in aggregate.aggr_expr.iter().enumerate() {
            let Some((call, fraction)) = percentile(expr) else { continue };
            match shared.iter_mut().find(|(other, _)| share(other, call)) {
                Some((_, asked)) => asked.push((index, fraction)),
                None => shared.push((call, vec![(index, fraction)])),
            }
        }
        shared.retain(|(_, asked)| asked.len() > 1);
        if shared.is_empty() {
            return Ok(Transformed::no(plan));
        }
        let (mut calls, mut taken) = (Vec::new(), vec![None; aggregate.aggr_expr.len()]);
        for (call, asked) in &shared {
            let fractions: Vec<f64> = asked.iter().map(|(_, fraction)| *fraction).collect();
            for (item, (index, _)) in (1_i64..).zip(asked) {
                taken[*index] = Some((calls.len(), item));
            }
            calls.push(at_all(call, &fractions, calls.len()));
        }
        let alone = aggregate.aggr_expr.iter().zip(&taken).filter(|(_, taken)| taken.is_none());
        let computed: Vec<Expr> = calls.iter().chain(alone.map(|(expr, _)| expr)).cloned().collect();
        let groups = aggregate.group_expr.clone();
        let computed =
            Arc::new(LogicalPlan::Aggregate(Aggregate::try_new(Arc::clone(&aggregate.input), groups, computed)?));
        let rewritten = as_before(aggregate, &computed, &taken)?;
        Ok(Transformed::yes(rewritten))
    }
}

/// What is computed, in the columns that the aggregate has.
fn as_before(
    aggregate: &Aggregate,
    computed: &Arc<LogicalPlan>,
    taken: &[Option<(usize, i64)>],
) -> Result<LogicalPlan> {
    let columns = computed.schema().columns();
    let groups = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
    let calls = columns.len() - groups - taken.iter().filter(|taken| taken.is_none()).count();
    let mut alone = columns[groups + calls..].iter();
    let mut shown: Vec<Expr> = columns[..groups].iter().cloned().map(Expr::Column).collect();
    for (taken, (qualifier, field)) in taken.iter().zip(aggregate.schema.iter().skip(groups)) {
        let value = match taken {
            Some((call, item)) => Some(array_element(Expr::Column(columns[groups + call].clone()), lit(*item))),
            None => alone.next().cloned().map(Expr::Column),
        };
        let named = |value: Expr| value.alias_qualified(qualifier.cloned(), field.name());
        shown.extend(value.map(named));
    }
    LogicalPlanBuilder::new_from_arc(Arc::clone(computed)).project(shown)?.build()
}
