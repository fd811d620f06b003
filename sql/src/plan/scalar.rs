//! `Scalar`: an expression over one row of a relation, a DEFAULT or a CHECK, from its text to what computes a batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::{DateTime, Utc};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider,
};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, ScalarValue};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast;

use super::spelling;
use crate::catalog::{DATABASE, SCHEMA, postgres};
use crate::error::{Error, Result, SqlState};
use crate::statement::{Parsed, Sentence, parse};

/// See the head of this file.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    expr: Expr,
    schema: DFSchemaRef,
    /// Its type.
    pub(crate) kind: DataType,
    /// Names of the columns it reads.
    pub(crate) columns: Vec<String>,
    /// The least fixed function in it.
    pub(crate) volatility: Volatility,
}

/// What a row must be given for.
const RELATION: &str = "row";
/// The function that gives a statement's time, whatever it was called, and the column that gives it instead.
const NOW: &str = "now";

/// An expression without columns that is planned once, though it may ask for the time of its statement.
#[derive(Debug)]
pub(crate) struct Timed {
    expr: Arc<dyn PhysicalExpr>,
    /// One column: the time.
    schema: SchemaRef,
}

impl Timed {
    /// So many values of it in a statement that began then.
    ///
    /// # Errors
    /// What computing says.
    pub(crate) fn values(&self, now_us: i64, rows: usize) -> Result<ArrayRef> {
        let time = ScalarValue::TimestampMicrosecond(Some(now_us), Some("+00:00".into()));
        let time = time.cast_to(self.schema.field(0).data_type())?.to_array_of_size(rows)?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), vec![time]).map_err(DataFusionError::from)?;
        values_of(&self.expr, &batch)
    }
}

impl Scalar {
    /// Reads an expression over rows of `columns`; `what` it is to be, for errors.
    ///
    /// # Errors
    /// What parsing and planning say; 0A000 for subqueries, aggregates and window functions.
    pub(crate) async fn read(state: &SessionState, columns: &SchemaRef, text: &str, what: &str) -> Result<Self> {
        // A place in the expression is none in the statement.
        Self::read_here(state, columns, text, what).await.map_err(|error| Error { position: None, ..error })
    }

    async fn read_here(state: &SessionState, columns: &SchemaRef, text: &str, what: &str) -> Result<Self> {
        let parsed = parse::parse(&format!("SELECT ({text}) FROM \"{RELATION}\""))?;
        let [Parsed { sentence: Sentence::Query(query), .. }] = parsed.as_slice() else {
            return Err(Error::new(SqlState::SyntaxError, format!("{what} is not an expression")));
        };
        let mut statement = ast::Statement::Query(query.query.clone());
        postgres::rewrite(&mut statement);
        let ast::Statement::Query(mut tree) = statement else {
            return Err(Error::new(SqlState::InternalError, "rewriting changed the statement"));
        };
        spelling::rewrite(&mut tree)?;
        let context = context_of(state, &[RELATION], columns)?;
        let statement = DataFusionStatement::Statement(Box::new(ast::Statement::Query(tree)));
        let state = context.state();
        let plan = state.statement_to_plan(statement).await?;
        let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
        let refused = || {
            Error::unsupported(format!("a subquery, an aggregate or a window function in {what}"))
                .with_hint("compute from the row's own columns")
        };
        let LogicalPlan::Projection(projection) = &plan else { return Err(refused()) };
        let ([expr], LogicalPlan::TableScan(scan)) = (projection.expr.as_slice(), projection.input.as_ref()) else {
            return Err(refused());
        };
        let expr = expr.clone().unalias();
        let schema = Arc::clone(&scan.projected_schema);
        if reads_plans(&expr)? {
            return Err(refused());
        }
        Ok(Self {
            kind: expr.get_type(schema.as_ref())?,
            columns: expr.column_refs().into_iter().map(|column| column.name.clone()).collect(),
            volatility: volatility_of(&expr)?,
            expr,
            schema,
        })
    }

    /// What computes it in any statement; `None` if it reads columns, or asks for more than the statement's time.
    ///
    /// # Errors
    /// What planning says.
    pub(crate) fn timed(&self, state: &SessionState) -> Result<Option<Timed>> {
        let mut time = DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into()));
        let replaced = self.expr.clone().transform(|expr| match expr {
            Expr::ScalarFunction(call) if call.func.name() == NOW && call.args.is_empty() => {
                time = Expr::ScalarFunction(call).get_type(self.schema.as_ref())?;
                Ok(Transformed::yes(Expr::Column(Column::from_name(NOW))))
            }
            expr => Ok(Transformed::no(expr)),
        })?;
        if !self.columns.is_empty() || volatility_of(&replaced.data)? == Volatility::Stable {
            return Ok(None);
        }
        let schema = Arc::new(Schema::new(vec![Field::new(NOW, time, false)]));
        let known: DFSchemaRef = Arc::new(DFSchema::try_from(Arc::clone(&schema))?);
        let expr = ready(replaced.data, &known, state, None)?;
        Ok(Some(Timed { expr, schema }))
    }

    /// What computes it in a statement that began then.
    ///
    /// # Errors
    /// What planning says.
    pub(crate) fn ready(&self, state: &SessionState, now_us: i64) -> Result<Arc<dyn PhysicalExpr>> {
        ready(self.expr.clone(), &self.schema, state, DateTime::<Utc>::from_timestamp_micros(now_us))
    }
}

/// What computes an expression that is not coerced yet, in a state that knows when its statement began.
///
/// # Errors
/// What planning says.
pub(super) fn ready_to_run(expr: Expr, schema: &DFSchemaRef, state: &SessionState) -> Result<Arc<dyn PhysicalExpr>> {
    let began = state.execution_props().query_execution_start_time;
    let options = state.config_options();
    let context = SimplifyContext::builder().with_schema(Arc::clone(schema)).with_config_options(Arc::clone(options));
    let mut expr = ExprSimplifier::new(context.build()).coerce(expr, schema)?;
    for rewrite in state.analyzer().function_rewrites() {
        expr = expr.transform_up(|expr| rewrite.rewrite(expr, schema, options))?.data;
    }
    ready(expr, schema, state, began)
}

fn ready(
    expr: Expr,
    schema: &DFSchemaRef,
    state: &SessionState,
    began: Option<DateTime<Utc>>,
) -> Result<Arc<dyn PhysicalExpr>> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(schema))
        .with_config_options(Arc::clone(state.config_options()))
        .with_query_execution_start_time(began)
        .build();
    let expr = ExprSimplifier::new(context).simplify(expr)?;
    let context = PhysicalPlanningContext::default();
    Ok(create_physical_expr(&expr, schema, state.execution_props(), &context)?)
}

/// Values of a ready expression for each row of a batch.
///
/// # Errors
/// What computing says.
pub(crate) fn values_of(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef> {
    Ok(expr.evaluate(rows)?.into_array(rows.num_rows())?)
}

/// A context that knows nothing but relations of these names and columns.
pub(super) fn context_of(state: &SessionState, relations: &[&str], columns: &SchemaRef) -> Result<SessionContext> {
    let tables = MemorySchemaProvider::new();
    for relation in relations {
        tables.register_table((*relation).to_owned(), Arc::new(EmptyTable::new(Arc::clone(columns))))?;
    }
    let database = Arc::new(MemoryCatalogProvider::new());
    database.register_schema(SCHEMA, Arc::new(tables))?;
    let catalogs = Arc::new(MemoryCatalogProviderList::new());
    catalogs.register_catalog(DATABASE.to_owned(), database);
    let context = SessionContext::new_with_state(state.clone());
    context.register_catalog_list(catalogs);
    Ok(context)
}

/// Whether an expression needs more than a row.
pub(super) fn reads_plans(expr: &Expr) -> Result<bool> {
    Ok(expr.exists(|expr| {
        Ok(matches!(expr, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::Placeholder(_)))
    })?)
}

fn volatility_of(expr: &Expr) -> Result<Volatility> {
    let mut least = Volatility::Immutable;
    expr.apply(|expr| {
        if let Expr::ScalarFunction(function) = expr {
            let volatility = function.func.signature().volatility;
            if least == Volatility::Immutable || volatility == Volatility::Volatile {
                least = volatility;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(least)
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatchOptions;

    use super::*;
    use crate::function::session_state;
    use crate::limit::{Limits, QuerySettings};

    #[tokio::test]
    async fn a_time_is_asked_for_in_each_statement_and_planned_once() {
        let spill = tempfile::tempdir().unwrap();
        let limits = Arc::new(Limits::open(QuerySettings::default(), 1 << 30, spill.path()).unwrap());
        let state = session_state(&limits).unwrap();
        let columns = Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, true)]));
        let read = async |text: &str| Scalar::read(&state, &columns, text, "a test").await.unwrap();
        let options = RecordBatchOptions::new().with_row_count(Some(2));
        let rows = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options).unwrap();
        for text in ["now()", "now() - INTERVAL '1 day'", "CAST(now() AS DATE)", "1 + 1"] {
            let scalar = read(text).await;
            let timed = scalar.timed(&state).unwrap().unwrap();
            for now_us in [0, 1_700_000_000_000_001] {
                let planned = values_of(&scalar.ready(&state, now_us).unwrap(), &rows).unwrap();
                assert_eq!(&timed.values(now_us, 2).unwrap(), &planned, "{text}");
            }
        }
        let random = read("random()").await.timed(&state).unwrap().unwrap();
        assert_ne!(&random.values(0, 1).unwrap(), &random.values(0, 1).unwrap());
        assert!(read("a + 1").await.timed(&state).unwrap().is_none());
    }
}
