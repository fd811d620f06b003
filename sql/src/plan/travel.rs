//! The past in a plan: what `FOR SYSTEM_TIME AS OF` and `aquifer.position` name is planned like any relation, and its time
//! is put into the scan as a filter (`table/past`).

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, cast};
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, SelectItem, SetExpr, TableAlias,
    TableFactor, Value, Visit, VisitMut, Visitor, VisitorMut,
};

use super::bind::located;
use super::spelling;
use crate::catalog::{postgres, system};
use crate::error::{Error, Result, SqlState};
use crate::statement::cursor::{Places, tokenize};
use crate::statement::parse::query_of;
use crate::statement::window::folded;
use crate::statement::{Name, WindowedQuery};
use crate::table::past::{as_of, moment_type};

/// What no written identifier begins with.
const MARKER: &str = "\u{1}position ";
/// How it is called.
const USAGE: &str = "SELECT * FROM aquifer.position('orders', now() - interval '1 hour')";

/// A call of `aquifer.position`. In the tree it is a relation of schema `aquifer` with the name `marker`.
#[derive(Debug)]
pub(crate) struct PositionCall {
    /// What stands in the tree.
    pub(crate) marker: String,
    /// The relation or topic meant.
    pub(crate) of: Name,
    at: ast::Expr,
}

/// Takes the calls of `aquifer.position` out of a tree.
///
/// # Errors
/// 42883 for other arguments.
pub(crate) fn position_calls(tree: &mut ast::Query, places: &Places) -> Result<Vec<PositionCall>> {
    let mut calls = Calls { places, found: Vec::new() };
    match tree.visit(&mut calls) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(calls.found),
    }
}

struct Calls<'a> {
    places: &'a Places,
    found: Vec<PositionCall>,
}

impl VisitorMut for Calls<'_> {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, alias, args: args @ Some(_), .. } = table else {
            return ControlFlow::Continue(());
        };
        let parts: Vec<&Ident> = name.0.iter().filter_map(ObjectNamePart::as_ident).collect();
        let [schema, function] = parts.as_slice() else { return ControlFlow::Continue(()) };
        if folded(schema) != system::SCHEMA || folded(function) != "position" {
            return ControlFlow::Continue(());
        }
        let position = self.places.position(schema.span.start).unwrap_or(1);
        let given: Vec<FunctionArg> = args.take().map(|args| args.args).unwrap_or_default();
        let Some((of, at)) = arguments(given) else {
            let message = "aquifer.position takes the name of a relation or topic as a text, and a time";
            return ControlFlow::Break(
                Error::new(SqlState::UndefinedFunction, message).with_position(position).with_hint(USAGE),
            );
        };
        let marker = format!("{MARKER}{}", self.found.len());
        *name = ObjectName::from(vec![Ident::new(system::SCHEMA), Ident::with_quote('"', marker.clone())]);
        if alias.is_none() {
            let name = Ident::new("position");
            *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
        }
        self.found.push(PositionCall { marker, of: Name { value: of, position }, at });
        ControlFlow::Continue(())
    }
}

fn arguments(given: Vec<FunctionArg>) -> Option<(String, ast::Expr)> {
    let mut given = given.into_iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    let (Some(Some(of)), Some(Some(at)), None) = (given.next(), given.next(), given.next()) else { return None };
    match of {
        ast::Expr::Value(value) => match value.value {
            Value::SingleQuotedString(of) => Some((of, at)),
            _ => None,
        },
        _ => None,
    }
}

/// The times of a query's scans, by the names of what is scanned.
///
/// # Errors
/// What planning says of one, with its position; 42804 for another type, 0A000 for what is no expression of constants.
pub(crate) async fn moments(
    state: &SessionState,
    query: &WindowedQuery,
    calls: &[PositionCall],
) -> Result<HashMap<String, Expr>> {
    let mut moments = HashMap::new();
    for travel in &query.travels {
        let moment = moment(state, &travel.at, travel.position, query).await?;
        // One that is windowed too bears the name of its window.
        let window = query.windows.iter().find(|window| window.source.value == travel.marker);
        let marker = window.map_or(&travel.marker, |window| &window.marker);
        moments.insert(marker.clone(), moment);
    }
    for call in calls {
        moments.insert(call.marker.clone(), moment(state, &call.at, call.of.position, query).await?);
    }
    Ok(moments)
}

async fn moment(state: &SessionState, at: &ast::Expr, position: usize, query: &WindowedQuery) -> Result<Expr> {
    let not_constant = || {
        Error::unsupported("a time that is no expression of constants, parameters and now()")
            .with_position(position)
            .with_hint("FOR SYSTEM_TIME AS OF now() - interval '1 hour'")
    };
    if at.visit(&mut Subquery).is_break() {
        return Err(not_constant());
    }
    let mut select = query_of(&tokenize("SELECT 1")?, &query.places)?.query;
    if let SetExpr::Select(select) = select.body.as_mut() {
        select.projection = vec![SelectItem::UnnamedExpr(at.clone())];
    }
    let mut statement = ast::Statement::Query(select);
    postgres::rewrite(&mut statement);
    if let ast::Statement::Query(select) = &mut statement {
        spelling::rewrite(select)?;
    }
    let placed = |error: Error| if error.position.is_none() { error.with_position(position) } else { error };
    let statement = DataFusionStatement::Statement(Box::new(statement));
    let plan = state.statement_to_plan(statement).await;
    let plan = plan.map_err(|error| placed(located(error, &query.places)))?;
    let LogicalPlan::Projection(mut projection) = plan else { return Err(not_constant()) };
    let over_nothing = matches!(projection.input.as_ref(), LogicalPlan::EmptyRelation(_));
    let expr = projection.expr.pop().filter(|_| over_nothing).ok_or_else(not_constant)?.unalias();
    if !is_constant(&expr)? {
        return Err(not_constant());
    }
    let untyped = matches!(&expr, Expr::Placeholder(placeholder) if placeholder.field.is_none());
    let kind = if untyped { moment_type() } else { expr.get_type(&DFSchema::empty())? };
    let is_date = matches!(kind, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    let is_time = is_date || kind.is_null() || kind.is_string();
    if !is_time {
        let message = format!("a time is a timestamptz, not {}", kind.to_string().to_lowercase());
        return Err(Error::new(SqlState::DatatypeMismatch, message)
            .with_position(position)
            .with_hint("write it as '2026-01-31 12:00:00+00', or to_timestamp(seconds)"));
    }
    Ok(cast(typed(expr)?, moment_type()))
}

/// Breaks off at a subquery.
struct Subquery;

impl Visitor for Subquery {
    type Break = ();

    fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }
}

fn is_constant(expr: &Expr) -> Result<bool> {
    let mut constant = true;
    expr.apply(|expr| {
        constant &= !matches!(expr, Expr::Column(_) | Expr::OuterReferenceColumn(..));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(constant)
}

/// A parameter that stands alone is a time.
fn typed(expr: Expr) -> Result<Expr> {
    let typed = expr.transform(|expr| match expr {
        Expr::Placeholder(mut placeholder) if placeholder.field.is_none() => {
            placeholder.field = Some(Arc::new(Field::new("", moment_type(), true)));
            Ok(Transformed::yes(Expr::Placeholder(placeholder)))
        }
        expr => Ok(Transformed::no(expr)),
    })?;
    Ok(typed.data)
}

/// Puts the times into the scans.
///
/// # Errors
/// Only for bugs.
pub(crate) fn attach(plan: LogicalPlan, moments: &HashMap<String, Expr>) -> Result<LogicalPlan> {
    if moments.is_empty() {
        return Ok(plan);
    }
    let attached = plan.transform_down_with_subqueries(|plan| match plan {
        LogicalPlan::TableScan(mut scan) => match moments.get(scan.table_name.table()) {
            // It is met twice where a relation is shared.
            Some(at) if scan.filters.is_empty() => {
                scan.filters.push(as_of(at.clone()));
                Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
            }
            _ => Ok(Transformed::no(LogicalPlan::TableScan(scan))),
        },
        plan => Ok(Transformed::no(plan)),
    })?;
    Ok(attached.data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::Sentence;
    use crate::statement::parse::parse;

    fn calls(sql: &str) -> Result<Vec<PositionCall>> {
        let Sentence::Query(mut query) = parse(sql).unwrap().remove(0).sentence else { panic!("a query") };
        position_calls(&mut query.query, &query.places)
    }

    #[test]
    fn a_position_is_asked_for_by_a_name_and_a_time() {
        let found = calls("SELECT p.* FROM aquifer.position('orders', now()) AS p, aquifer.Position('B', $1)").unwrap();
        let found: Vec<_> = found.iter().map(|call| (call.of.value.as_str(), call.at.to_string())).collect();
        assert_eq!(found, [("orders", "now()".to_owned()), ("B", "$1".to_owned())]);
        assert!(calls("SELECT * FROM generate_series(1, 2)").unwrap().is_empty());
        for wrong in ["('orders')", "(orders, now())", "('orders', now(), 1)", "(1, now())"] {
            let error = calls(&format!("SELECT * FROM aquifer.position{wrong}")).unwrap_err();
            assert_eq!((error.state, error.position), (SqlState::UndefinedFunction, Some(15)), "{wrong}");
        }
    }
}
