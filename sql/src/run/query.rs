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
use futures::StreamExt;
use tokio::time::Instant;

use crate::catalog::Catalog;
use crate::error::{Error, Result, SqlState};
use crate::plan::bind::{Bound, located};
use crate::plan::naming::shown_name;
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
    state.config_mut().set_extension(Arc::new(Scope { snapshot }));
    state.mark_start_execution();
    let plan = state.create_physical_plan(&plan).await.map_err(|error| located(error, places))?;
    Ok(Ready { plan, state })
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
        let stream = until(traveling(Box::pin(RecordBatchStreamAdapter::new(schema, rows))), deadline);
        return Ok(Rows { columns, stream, live: false, tag: "SELECT" });
    }
    let plan = with_parameters(&bound.plan, parameters)?;
    let ready = before(deadline, prepare(catalog, bound, plan, places)).await?;
    let columns = columns_of(&ready.plan.schema());
    let stream = execute_stream(ready.plan, ready.state.task_ctx())?;
    let stream = until(traveling(stream), deadline);
    Ok(Rows { columns, stream, live: false, tag: "SELECT" })
}

/// Runs to the end and keeps all; for plans whose size is known to be small.
///
/// # Errors
/// What running says.
pub(crate) async fn collect(ready: Ready, deadline: Option<Instant>) -> Result<Vec<RecordBatch>> {
    let context = ready.state.task_ctx();
    before(deadline, async { Ok(datafusion::physical_plan::collect(ready.plan, context).await?) }).await
}

fn canceled() -> Error {
    Error::new(SqlState::QueryCanceled, "canceling statement due to statement timeout")
        .with_hint("raise statement_timeout, or select less")
}

/// Awaits, but no longer than `deadline`.
///
/// # Errors
/// 57014 when it passes.
pub(crate) async fn before<T>(deadline: Option<Instant>, work: impl Future<Output = Result<T>>) -> Result<T> {
    match deadline {
        None => work.await,
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| Err(canceled())),
    }
}

/// A deadline from `statement_timeout`.
pub(crate) fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// The same rows, which end with 57014 when `deadline` passes.
pub(crate) fn until(rows: SendableRecordBatchStream, deadline: Option<Instant>) -> SendableRecordBatchStream {
    let Some(deadline) = deadline else { return rows };
    let schema = rows.schema();
    let limited = futures::stream::unfold(Some(rows), move |rows| async move {
        let mut rows = rows?;
        match tokio::time::timeout_at(deadline, rows.next()).await {
            Ok(item) => item.map(|item| (item, Some(rows))),
            Err(_) => Some((Err(DataFusionError::from(canceled())), None)),
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
