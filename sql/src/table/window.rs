//! A windowed source as a table: each record with its window, late records dropped, by the code continuous queries use.
//!
//! Lateness depends on the records before, so a partition is read whole and in offset order, whatever the statement's
//! filters leave of it afterwards.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::exec::{Partition, ScanExec};
use super::source::SourceColumn;
use crate::error::{Error, Result};
use crate::operator::window::Tumbling;
use crate::statement::{DEFAULT_GRACE_MS, WindowSpec};

/// The windows as the operators know them.
///
/// # Errors
/// Windows that are not supported, by name.
pub(crate) fn tumbling(window: &WindowSpec) -> Result<Tumbling> {
    let refused = |what: &str| {
        Error::unsupported(format!("WINDOW {what}")).with_hint("WINDOW TUMBLING (SIZE 5 MINUTES) is there")
    };
    match window {
        WindowSpec::Tumbling { size_ms, grace_ms } => {
            Ok(Tumbling { size_ms: *size_ms, grace_ms: grace_ms.unwrap_or(DEFAULT_GRACE_MS) })
        }
        WindowSpec::Hopping { .. } => Err(refused("HOPPING")),
        WindowSpec::Session { .. } => Err(refused("SESSION")),
    }
}

/// Which column of the scan, or which of the window, an output column is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Scanned(usize),
    Start,
    End,
}

/// The columns to scan, rowtime the last of them, and where each output column comes from.
fn places(columns: &[SourceColumn]) -> (Vec<SourceColumn>, Vec<Place>) {
    let mut scanned = Vec::new();
    let places = columns.iter().map(|column| match column {
        SourceColumn::WindowStart => Place::Start,
        SourceColumn::WindowEnd => Place::End,
        column => {
            scanned.push(*column);
            Place::Scanned(scanned.len() - 1)
        }
    });
    let places = places.collect();
    scanned.push(SourceColumn::RowTime);
    (scanned, places)
}

/// A partition's records that are in time, as the scan's columns.
pub(crate) fn in_time(
    scan: &ScanExec,
    tumbling: Tumbling,
    partition: &Partition,
    batch_rows: usize,
) -> DataFusionResult<BoxStream<'static, DataFusionResult<RecordBatch>>> {
    let (scanned, places) = places(&scan.columns);
    let (_, rows) = scan.rows_of(&scanned, partition, batch_rows)?;
    let (schema, mut largest) = (scan.schema(), None);
    Ok(rows.map(move |rows| place(tumbling, &mut largest, &rows?, &places, &schema)).boxed())
}

/// The records of `rows` (rowtime last) that are in time, as the output's columns.
fn place(
    tumbling: Tumbling,
    largest: &mut Option<i64>,
    rows: &RecordBatch,
    places: &[Place],
    schema: &SchemaRef,
) -> DataFusionResult<RecordBatch> {
    let rowtimes = rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>();
    let assigned = tumbling.assign(largest, rowtimes);
    let columns = places.iter().map(|place| -> ArrayRef {
        match place {
            Place::Scanned(index) => Arc::clone(rows.column(*index)),
            Place::Start => Arc::new(assigned.starts.clone()),
            Place::End => Arc::new(assigned.ends.clone()),
        }
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &options)?;
    Ok(filter_record_batch(&rows, &assigned.kept)?)
}
