//! `$1`, `$2`, …: which types they have, as far as the plan says.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::error::{Error, Result, SqlState};

/// Parameters of one statement, at the most; what the protocol can count.
const PARAMETERS_MAX: usize = 65_535;

/// Types of `$1` to the last; what the client said wins, then what the plan says, then text.
///
/// # Errors
/// 42P02 for `$0` or a number beyond what the protocol can count.
pub(crate) fn parameter_types(
    plan: &LogicalPlan,
    known: &BTreeMap<usize, DataType>,
    said: &[Option<DataType>],
) -> Result<Vec<DataType>> {
    let mut types: BTreeMap<usize, Option<DataType>> = BTreeMap::new();
    for (name, kind) in plan.get_parameter_types()? {
        types.insert(number(&name)?, kind);
    }
    for number in limits(plan)? {
        types.insert(number, Some(DataType::Int64));
    }
    let last_of = |last: Option<&usize>| last.copied().unwrap_or(0);
    let last = last_of(types.keys().next_back()).max(last_of(known.keys().next_back())).max(said.len());
    Ok((1..=last)
        .map(|number| {
            let said = said.get(number - 1).cloned().flatten();
            let planned = || types.get(&number).cloned().flatten();
            said.or_else(|| known.get(&number).cloned()).or_else(planned).unwrap_or(DataType::Utf8)
        })
        .collect())
}

/// `$7` as 7.
pub(crate) fn number(name: &str) -> Result<usize> {
    let number = name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
    number.filter(|number| (1..=PARAMETERS_MAX).contains(number)).ok_or_else(|| {
        Error::new(SqlState::UndefinedParameter, format!("there is no parameter {name}"))
            .with_hint("parameters are $1, $2, …")
    })
}

/// Parameters of LIMIT and OFFSET, which count.
fn limits(plan: &LogicalPlan) -> Result<Vec<usize>> {
    let mut numbers = Vec::new();
    plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::Limit(limit) = plan {
            for expr in limit.fetch.iter().chain(&limit.skip) {
                expr.apply(|expr| {
                    if let Expr::Placeholder(placeholder) = expr {
                        numbers.push(number(&placeholder.id)?);
                    }
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(numbers)
}
