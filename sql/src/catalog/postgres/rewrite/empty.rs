//! Queries that have no rows because they join a system table that never has any: what they would compute per row is
//! never computed, so it need not be planned, whatever of Postgres it uses.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments,
    JoinOperator, Query, Select, SelectItem, SetExpr, TableFactor, TableWithJoins, Value, visit_expressions_mut,
};

use super::{call, is_aggregated, null, part_is, system_table};

/// Columns of system tables that are never set here.
const NEVER_SET: [&str; 8] =
    ["relacl", "reloptions", "attacl", "attoptions", "attfdwoptions", "spcoptions", "datacl", "nspacl"];

/// Whether the query has no rows.
pub(super) fn has_no_rows(query: &Query) -> bool {
    matches!(query.body.as_ref(), SetExpr::Select(select) if selects_nothing(select))
}

/// An empty array of text.
pub(super) fn text_array() -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(call("make_array", Vec::new())),
        data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(DataType::Text), None)),
        array: false,
        format: None,
    }
}

fn selects_nothing(select: &Select) -> bool {
    select.from.iter().any(joins_nothing) && !is_aggregated(select)
}

fn joins_nothing(table: &TableWithJoins) -> bool {
    use JoinOperator as Operator;
    let inner = |join: &Operator| matches!(join, Operator::Join(_) | Operator::Inner(_) | Operator::CrossJoin(_));
    let keeps_left = table.joins.iter().all(|join| {
        inner(&join.join_operator) || matches!(join.join_operator, Operator::Left(_) | Operator::LeftOuter(_))
    });
    let joined = table.joins.iter().any(|join| inner(&join.join_operator) && always_empty(&join.relation));
    keeps_left && (always_empty(&table.relation) || joined)
}

/// A table without rows, or `unnest` of a column that is never set.
fn always_empty(factor: &TableFactor) -> bool {
    if let Some(table) = system_table(factor) {
        return table.rows.is_none();
    }
    let (name, args) = match factor {
        TableFactor::Table { name, args: Some(args), .. } => (name, args.args.as_slice()),
        TableFactor::Function { name, args, .. } => (name, args.as_slice()),
        TableFactor::UNNEST { array_exprs, .. } => return array_exprs.iter().all(never_set),
        _ => return false,
    };
    let unnest = name.0.last().is_some_and(|part| part_is(part, &["unnest"]));
    unnest && matches!(args, [FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))] if never_set(expr))
}

fn never_set(expr: &Expr) -> bool {
    matches!(expr, Expr::CompoundIdentifier(parts)
        if parts.last().is_some_and(|column| NEVER_SET.contains(&column.value.as_str())))
}

/// Takes out of a select list what a query without rows never computes.
pub(super) fn never_computed(select: &mut Select) {
    if !selects_nothing(select) {
        return;
    }
    for item in &mut select.projection {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { continue };
        let _ = visit_expressions_mut(expr, |expr| {
            match expr {
                Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => *expr = null(),
                Expr::Function(function) if matches!(function.args, FunctionArguments::Subquery(_)) => {
                    *expr = text_array();
                }
                Expr::BinaryOp { op: BinaryOperator::Eq | BinaryOperator::NotEq, right, .. }
                    if is_array_text(right) =>
                {
                    *expr = Expr::Value(Value::Boolean(false).with_empty_span());
                }
                _ => {}
            }
            ControlFlow::<()>::Continue(())
        });
    }
}

/// `'{0}'`, which Postgres reads as the array it is compared with.
fn is_array_text(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value)
        if matches!(&value.value, Value::SingleQuotedString(text) if text.starts_with('{') && text.ends_with('}')))
}
