//! `Pair`: expressions over two rows of a relation: the one that is there, by the relation's name, and the one that was to
//! be written, as `excluded`.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::create_physical_expr;
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{self, Ident};

use super::bind::located;
use super::scalar::{context_of, reads_plans, values_of};
use super::spelling;
use crate::catalog::postgres;
use crate::error::{Error, Result, SqlState};
use crate::statement::cursor::{Places, tokenize};
use crate::statement::parse::query_of;

/// The name of the row that was to be written.
const EXCLUDED: &str = "excluded";

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Pair {
    /// A projection over both rows, its parameters without values.
    pub(crate) plan: LogicalPlan,
    state: SessionState,
}

/// `SELECT … FROM relation CROSS JOIN excluded`, its select list to be put in.
///
/// # Errors
/// XX000 if it does not parse.
pub(crate) fn template(relation: &str) -> Result<Box<ast::Query>> {
    let name = Ident::with_quote('"', relation);
    let text = format!("SELECT 1 FROM {name} CROSS JOIN \"{EXCLUDED}\"");
    Ok(query_of(&tokenize(&text)?, &Arc::new(Places::new(&text)))?.query)
}

impl Pair {
    /// Plans a query made of [`template`]; `columns` are those of either row.
    ///
    /// # Errors
    /// 42703, 42702 and what planning says, with the position; 0A000 for subqueries and aggregates.
    pub(crate) async fn plan(
        state: &SessionState,
        relation: &str,
        columns: &SchemaRef,
        query: Box<ast::Query>,
        places: &Places,
    ) -> Result<Self> {
        let mut statement = ast::Statement::Query(query);
        postgres::rewrite(&mut statement);
        let ast::Statement::Query(mut tree) = statement else {
            return Err(Error::new(SqlState::InternalError, "rewriting changed the statement"));
        };
        spelling::rewrite(&mut tree)?;
        let state = context_of(state, &[relation, EXCLUDED], columns)?.state();
        let statement = DataFusionStatement::Statement(Box::new(ast::Statement::Query(tree)));
        let plan = state.statement_to_plan(statement).await.map_err(|error| located(error, places))?;
        Ok(Self { plan, state })
    }

    /// Values of its expressions for rows that are there and as many that were to be written, column by column.
    ///
    /// # Errors
    /// What computing says.
    pub(crate) fn values(
        &self,
        parameters: &[ScalarValue],
        there: &RecordBatch,
        excluded: &RecordBatch,
    ) -> Result<Vec<ArrayRef>> {
        let mut plan = self.plan.clone();
        if !parameters.is_empty() {
            plan = plan.with_param_values(ParamValues::from(parameters.to_vec()))?;
        }
        let mut state = self.state.clone();
        state.mark_start_execution();
        let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
        let LogicalPlan::Projection(projection) = &plan else { return Err(refused()) };
        let schema = Arc::clone(projection.input.schema());
        if schema.fields().len() != there.num_columns() + excluded.num_columns() {
            return Err(refused());
        }
        let columns: Vec<ArrayRef> = there.columns().iter().chain(excluded.columns()).map(Arc::clone).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(there.num_rows()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(schema.inner()), columns, &options);
        let rows = rows.map_err(DataFusionError::from)?;
        let mut values = Vec::with_capacity(projection.expr.len());
        for expr in &projection.expr {
            let expr = expr.clone().unalias();
            if reads_plans(&expr)? {
                return Err(refused());
            }
            let context = SimplifyContext::builder()
                .with_schema(Arc::clone(&schema))
                .with_config_options(Arc::clone(state.config_options()))
                .with_query_execution_start_time(state.execution_props().query_execution_start_time)
                .build();
            let expr = ExprSimplifier::new(context).simplify(expr)?;
            let context = PhysicalPlanningContext::default();
            let ready = create_physical_expr(&expr, &schema, state.execution_props(), &context)?;
            values.push(values_of(&ready, &rows)?);
        }
        Ok(values)
    }
}

fn refused() -> Error {
    Error::unsupported("a subquery or an aggregate in ON CONFLICT DO UPDATE")
        .with_hint("compute from the row's own columns and those of excluded")
}
