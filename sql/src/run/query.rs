//! Bound queries run: one snapshot for all scans, parameters put in, results in the types that travel.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, ParamValues, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use crate::catalog::Catalog;
use crate::error::{Error, Result, SqlState};
use crate::limit::Limits;
use crate::limit::stop::stoppable;
use crate::limit::turn::Turn;
use crate::plan::bind::{Bound, located};
use crate::plan::naming::shown_name;
use crate::run::weight::weight;
use crate::session::{Column, Rows};
use crate::statement::cursor::Places;
use crate::table::{Scope, past};
use crate::types::{result_column, wire_type};

/// A plan with its state, ready to run.
pub(crate) struct Ready {
    /// What to run.
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    /// In which state.
    pub(crate) state: SessionState,
    turn: Arc<Turn>,
    limits: Arc<Limits>,
}

impl Ready {
    /// Its rows; those of a heavy query are computed on threads of their own.
    ///
    /// # Errors
    /// What beginning says.
    pub(crate) fn start(self) -> Result<SendableRecordBatchStream> {
        let Self { plan, state, limits, turn } = self;
        let context = state.task_ctx();
        if weight(&plan) < limits.settings().heavy_rows {
            return Ok(execute_stream(plan, context)?);
        }
        Ok(limits.threads().run(plan.schema(), turn.asker(), move || execute_stream(plan, context))?)
    }
}

/// A bound plan with its parameters put in.
///
/// # Errors
/// 42P02 for a parameter without a value.
pub(crate) fn with_parameters(plan: &LogicalPlan, parameters: &[ScalarValue]) -> Result<LogicalPlan> {
    if parameters.is_empty() {
        return Ok(plan.clone());
    }
    let values = ParamValues::from(parameters.to_vec());
    Ok(plan.clone().with_param_values(values)?)
}

/// Pins the snapshot, optimizes and makes the physical plan.
///
/// # Errors
/// What planning says, with the position.
pub(crate) async fn prepare(catalog: &Catalog, bound: &Bound, plan: LogicalPlan, places: &Places) -> Result<Ready> {
    if past::travels(&plan)? {
        // A commit of the past that is still on its way would not be there now, and be there the next time.
        catalog.storage().catch_up().await;
    }
    let snapshot = bound.snapshot(catalog.storage())?;
    let mut state = bound.state.clone();
    let limits = state.config().get_extension::<Limits>();
    let limits = limits.ok_or_else(|| Error::new(SqlState::InternalError, "a statement without limits"))?;
    let turn = Arc::new(limits.turns().begin());
    state.config_mut().set_extension(Arc::new(Scope { snapshot, turn: Arc::clone(&turn) }));
    state.mark_start_execution();
    let plan = state.create_physical_plan(&plan).await.map_err(|error| located(error, places))?;
    let plan = stoppable(plan, &turn)?;
    Ok(Ready { plan, state, turn, limits })
}

/// The columns a plan's schema has for a client.
pub(crate) fn columns_of(schema: &Schema) -> Vec<Column> {
    schema.fields().iter().map(|field| result_column(shown_name(field.name()).to_owned(), field)).collect()
}

/// Runs a query: rows in the types that travel.
///
/// # Errors
/// What planning says; what running says comes through the stream.
pub(crate) async fn run(
    catalog: &Catalog,
    bound: &Bound,
    parameters: &[ScalarValue],
    places: &Places,
    deadline: Option<Instant>,
) -> Result<Rows> {
    if let Some(point) = &bound.point
        && let Some(rows) = before(deadline, point.run(bound, parameters)).await?
    {
        let (schema, rows) = (point.schema(), futures::stream::iter([Ok(rows)]));
        let columns = columns_of(&schema);
        let stream = until(traveling(Box::pin(RecordBatchStreamAdapter::new(schema, rows))), deadline, None);
        return Ok(Rows { columns, stream, live: false, tag: "SELECT" });
    }
    let plan = with_parameters(&bound.plan, parameters)?;
    let ready = before(deadline, prepare(catalog, bound, plan, places)).await?;
    let columns = columns_of(&ready.plan.schema());
    let turn = Arc::clone(&ready.turn);
    let stream = until(traveling(ready.start()?), deadline, Some(turn));
    Ok(Rows { columns, stream, live: false, tag: "SELECT" })
}

/// Runs to the end and keeps all; for plans whose size is known to be small.
///
/// # Errors
/// What running says.
pub(crate) async fn collect(ready: Ready, deadline: Option<Instant>) -> Result<Vec<RecordBatch>> {
    let turn = Arc::clone(&ready.turn);
    let rows = until(ready.start()?, deadline, Some(turn));
    Ok(rows.try_collect().await?)
}

fn canceled(turn: Option<&Turn>) -> Error {
    let error = Error::new(SqlState::QueryCanceled, "canceling statement due to statement timeout")
        .with_hint("raise statement_timeout, or select less");
    match turn.and_then(Turn::waits_for) {
        Some(waited) => error.with_detail(waited),
        None => error,
    }
}

/// Awaits, but no longer than `deadline`.
///
/// # Errors
/// 57014 when it passes.
pub(crate) async fn before<T>(deadline: Option<Instant>, work: impl Future<Output = Result<T>>) -> Result<T> {
    match deadline {
        None => work.await,
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| Err(canceled(None))),
    }
}

/// A deadline from `statement_timeout`.
pub(crate) fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// The same rows, which end with 57014 when as much time has been spent on them as there is until `deadline`. What a client
/// takes to ask for more of them is its own.
pub(crate) fn until(
    rows: SendableRecordBatchStream,
    deadline: Option<Instant>,
    turn: Option<Arc<Turn>>,
) -> SendableRecordBatchStream {
    let Some(deadline) = deadline else { return rows };
    let left = deadline.saturating_duration_since(Instant::now());
    let schema = rows.schema();
    let limited = futures::stream::unfold(Some((rows, left, turn)), |state| async move {
        let (mut rows, left, turn) = state?;
        let begun = Instant::now();
        // Rows that are always at hand would never let a timeout be looked at.
        let next = if left.is_zero() { None } else { tokio::time::timeout(left, rows.next()).await.ok() };
        match next {
            Some(item) => item.map(|item| (item, Some((rows, left.saturating_sub(begun.elapsed()), turn)))),
            None => Some((Err(DataFusionError::from(canceled(turn.as_deref()))), None)),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, limited))
}

/// The same rows in the types that travel.
pub(crate) fn traveling(rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let wire = wire_schema(&schema);
    if wire == schema {
        return rows;
    }
    let target = Arc::clone(&wire);
    let cast = rows.map(move |batch| cast_batch(&batch?, &target));
    Box::pin(RecordBatchStreamAdapter::new(wire, cast))
}

fn wire_schema(schema: &SchemaRef) -> SchemaRef {
    let field = |field: &Arc<Field>| {
        let kind: DataType = wire_type(field.data_type());
        field.as_ref().clone().with_data_type(kind).with_name(shown_name(field.name()))
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// Casts each column; what does not fit is an error, never NULL.
pub(crate) fn cast_batch(batch: &RecordBatch, target: &SchemaRef) -> DataFusionResult<RecordBatch> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let columns = batch.columns().iter().zip(target.fields());
    let columns = columns
        .map(|(column, field)| Ok(cast_with_options(column, field.data_type(), &strict)?))
        .collect::<DataFusionResult<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(target), columns, &options)?)
}
