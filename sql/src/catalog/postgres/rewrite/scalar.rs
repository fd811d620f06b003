//! Subqueries that stand for a value, over system tables: Postgres knows from its indexes that they give one row;
//! DataFusion wants to see it.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    CaseWhen, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments, GroupByExpr,
    Ident, Join, JoinConstraint, JoinOperator, OrderByKind, Query, Select, SelectItem, SetExpr, TableFactor,
    TableWithJoins, Value, visit_expressions, visit_expressions_mut,
};

use super::{call, empty, factors, function_of, is_aggregated, null, over_system_tables, part_is, system_table};

/// `ARRAY(SELECT x … ORDER BY y)` as `(SELECT array_agg(x ORDER BY y) …)`, and as an empty array where there is no row.
pub(super) fn array_of_subquery(function: &mut Function) -> Option<Expr> {
    if !function.name.0.last().is_some_and(|part| part_is(part, &["array"])) {
        return None;
    }
    let FunctionArguments::Subquery(query) = &mut function.args else { return None };
    if empty::has_no_rows(query) {
        return Some(empty::text_array());
    }
    let mut query = query.clone();
    aggregate(&mut query, "array_agg")?;
    Some(call("coalesce", vec![Expr::Subquery(query), call("make_array", Vec::new())]))
}

/// Wraps the one column of a query into an aggregate, its order included; `None` if it is not that simple.
fn aggregate(query: &mut Query, name: &str) -> Option<()> {
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let [item] = select.projection.as_mut_slice() else { return None };
    let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { return None };
    let value = std::mem::replace(expr, null());
    let order = match query.order_by.take().map(|order| order.kind) {
        Some(OrderByKind::Expressions(keys)) => keys,
        _ => Vec::new(),
    };
    // An ordinal can only mean the one column.
    let keys = order.into_iter().map(|mut key| {
        if matches!(&key.expr, Expr::Value(number) if matches!(number.value, Value::Number(..))) {
            key.expr = value.clone();
        }
        key
    });
    let keys: Vec<_> = keys.collect();
    let clauses = if keys.is_empty() { Vec::new() } else { vec![FunctionArgumentClause::OrderBy(keys)] };
    let args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(value))];
    *item = SelectItem::ExprWithAlias { expr: function_of(name, args, clauses), alias: Ident::new(name) };
    query.limit_clause = None;
    query.fetch = None;
    Some(())
}

/// A scalar subquery over system tables gives at most one row: its first is all of it.
pub(super) fn one_row(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    if !select.from.is_empty() && over_system_tables(select) && !is_aggregated(select) {
        // What is not a single plain column is left as it is.
        let _ = aggregate(query, "first_value");
    }
}

/// `SELECT (SELECT c.x FROM c WHERE …a…) FROM a` as `SELECT c.x FROM a LEFT JOIN c ON …a…`: DataFusion decorrelates
/// only what compares for equality. Only where every column is qualified and no alias would be there twice, so that
/// no name changes what it means.
pub(super) fn join_subqueries(select: &mut Select) {
    if select.from.is_empty() || !over_system_tables(select) || is_aggregated(select) {
        return;
    }
    let mut taken: HashSet<String> = factors(&select.from).filter_map(alias_of).collect();
    let mut joins = Vec::new();
    for item in &mut select.projection {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { continue };
        let _ = visit_expressions_mut(expr, |expr| {
            if let Expr::Subquery(query) = expr
                && let Some((value, join)) = joined(query, &mut taken)
            {
                joins.push(join);
                *expr = value;
            }
            ControlFlow::<()>::Continue(())
        });
    }
    if joins.is_empty() {
        return;
    }
    let mut from = std::mem::take(&mut select.from).into_iter();
    if let Some(mut first) = from.next() {
        for table in from {
            first.joins.push(join(table.relation, JoinOperator::CrossJoin(JoinConstraint::None)));
            first.joins.extend(table.joins);
        }
        first.joins.extend(joins);
        select.from.push(first);
    }
}

fn join(relation: TableFactor, join_operator: JoinOperator) -> Join {
    Join { relation, global: false, join_operator }
}

/// The value and the join that stand for a subquery, if it is of the simple kind.
fn joined(query: &Query, taken: &mut HashSet<String>) -> Option<(Expr, Join)> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let [SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. }] = select.projection.as_slice()
    else {
        return None;
    };
    let ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    let simple = query.with.is_none() && ungrouped && select.distinct.is_none() && select.having.is_none();
    let condition = select.selection.as_ref()?;
    let aggregated = is_aggregated(select);
    if !simple || aggregated || !over_system_tables(select) || !all_qualified(condition) || !all_qualified(value) {
        return None;
    }
    let value = only_where_joined(select.from.first()?, value)?;
    let aliases: Vec<String> = factors(&select.from).map(alias_of).collect::<Option<_>>()?;
    if aliases.iter().any(|alias| taken.contains(alias)) || select.from.iter().any(|table| !table.joins.is_empty()) {
        return None;
    }
    taken.extend(aliases);
    let mut tables = select.from.iter().map(|table| table.relation.clone());
    let first = tables.next()?;
    let crossed: Vec<Join> = tables.map(|table| join(table, JoinOperator::CrossJoin(JoinConstraint::None))).collect();
    let relation = if crossed.is_empty() {
        first
    } else {
        let tables = TableWithJoins { relation: first, joins: crossed };
        TableFactor::NestedJoin { table_with_joins: Box::new(tables), alias: None }
    };
    Some((value, join(relation, JoinOperator::LeftOuter(JoinConstraint::On(condition.clone())))))
}

/// The value where the join found a row, NULL where it did not: a column is so by itself, anything else is told by the
/// OID of the first table.
fn only_where_joined(table: &TableWithJoins, value: &Expr) -> Option<Expr> {
    if matches!(value, Expr::CompoundIdentifier(_)) {
        return Some(value.clone());
    }
    let has_oid = system_table(&table.relation)?.columns.starts_with("oid oid");
    let TableFactor::Table { name, alias, .. } = &table.relation else { return None };
    let mut column: Vec<Ident> = match alias {
        Some(alias) => vec![alias.name.clone()],
        None => name.0.iter().map(|part| part.as_ident().cloned()).collect::<Option<_>>()?,
    };
    column.push(Ident::new("oid"));
    has_oid.then(|| Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen {
            condition: Expr::IsNotNull(Box::new(Expr::CompoundIdentifier(column))),
            result: value.clone(),
        }],
        else_result: None,
    })
}

fn alias_of(factor: &TableFactor) -> Option<String> {
    let TableFactor::Table { name, alias, .. } = factor else { return None };
    match alias {
        Some(alias) => Some(alias.name.value.to_lowercase()),
        None => name.0.last()?.as_ident().map(|ident| ident.value.to_lowercase()),
    }
}

fn all_qualified(condition: &Expr) -> bool {
    let unqualified = visit_expressions(condition, |expr| match expr {
        Expr::Identifier(_) | Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    unqualified.is_continue()
}
