//! RETURNING: a select list over the rows that a statement has written.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{self, Expr, Ident, ObjectName, SetExpr, TableFactor, Value, Visit, Visitor};

use super::bind::{Bound, Ground, Named, located, register};
use super::hidden::quote_fields;
use super::naming::name_columns;
use super::spelling;
use crate::catalog::{Relation, SCHEMA, postgres};
use crate::error::{Error, Result, SqlState};
use crate::statement::Returning;
use crate::statement::cursor::{Places, tokenize};
use crate::statement::parse::query_of;
use crate::table::returned::ReturnedTable;
use crate::table::{Source, SourceColumn};

/// Binds RETURNING over rows with all declared columns of a relation; `alias`: the name they go by, else the relation's.
///
/// # Errors
/// 0A000 for subqueries and parameters, 42803 for aggregates, 42703 and whatever planning says, with the position.
pub(crate) async fn bind_returning(
    ground: &Ground<'_>,
    source: &Source,
    relation: &Relation,
    alias: Option<&ast::TableAlias>,
    returning: &Returning,
) -> Result<Bound> {
    if let ControlFlow::Break(error) = returning.items.visit(&mut Refuse) {
        return Err(error);
    }
    let mut statement = ast::Statement::Query(over_rows(relation, alias, returning)?);
    postgres::rewrite(&mut statement);
    let ast::Statement::Query(mut tree) = statement else {
        return Err(Error::new(SqlState::InternalError, "rewriting changed the statement"));
    };
    let columns: Vec<SourceColumn> = (0..relation.format.columns.len()).map(SourceColumn::Declared).collect();
    let schema = source.schema(&columns);
    quote_fields(&mut tree, &|name| schema.column_with_name(name).is_some());
    name_columns(&mut tree);
    spelling::rewrite(&mut tree)?;
    let context = SessionContext::new_with_state(ground.session.clone());
    let (schema_name, name) = (SCHEMA.to_owned(), relation.name.clone());
    let rows = Named { schema: schema_name, name, table: Arc::new(ReturnedTable(schema)), topic: None };
    register(ground, &context, &[rows])?;
    let state = context.state();
    let statement = DataFusionStatement::Statement(Box::new(ast::Statement::Query(tree)));
    let plan = state.statement_to_plan(statement).await;
    let plan = plan.map_err(|error| located(error, &returning.places))?;
    refuse_aggregates(&plan)?;
    let catalog_version = ground.catalog.storage().catalog_version();
    Ok(Bound { plan, state, topics: Vec::new(), catalog_version, point: None, own: Vec::new() })
}

/// `SELECT items FROM relation AS alias`.
fn over_rows(relation: &Relation, alias: Option<&ast::TableAlias>, returning: &Returning) -> Result<Box<ast::Query>> {
    let text = "SELECT * FROM t";
    let mut query = query_of(&tokenize(text)?, &Arc::new(Places::new(text)))?.query;
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.projection.clone_from(&returning.items);
        if let Some(TableFactor::Table { name, alias: named, .. }) =
            select.from.first_mut().map(|table| &mut table.relation)
        {
            *name = ObjectName::from(vec![Ident::with_quote('"', relation.name.clone())]);
            *named = alias.cloned();
        }
    }
    Ok(query)
}

/// What may not stand in RETURNING.
struct Refuse;

impl Visitor for Refuse {
    type Break = Error;

    fn pre_visit_query(&mut self, _query: &ast::Query) -> ControlFlow<Error> {
        ControlFlow::Break(
            Error::unsupported("a subquery in RETURNING").with_hint("SELECT it in a statement of its own"),
        )
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        match expr {
            Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => ControlFlow::Break(
                Error::unsupported("a parameter in RETURNING").with_hint("compute with it on your side"),
            ),
            _ => ControlFlow::Continue(()),
        }
    }
}

fn refuse_aggregates(plan: &LogicalPlan) -> Result<()> {
    let mut found = false;
    plan.apply(|plan| {
        found |= matches!(plan, LogicalPlan::Aggregate(_) | LogicalPlan::Window(_));
        Ok(TreeNodeRecursion::Continue)
    })?;
    if !found {
        return Ok(());
    }
    let message = "aggregate and window functions are not allowed in RETURNING";
    Err(Error::new(SqlState::GroupingError, message).with_hint("the command tag says how many rows were written"))
}
