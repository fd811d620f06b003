//! The past: rows that were committed after a time are left out, and the first of them is found.
//!
//! Manifests and the log have pruned by commit times already; what is left may hold rows of both sides, for a row group
//! spans many commits. A transaction's records stand at small offsets and were committed late, so commit times need not
//! ascend, and every row is looked at.

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use futures::{StreamExt, TryStreamExt, future};

use crate::error::{Error, Result};
use crate::record::columns::RecordColumn;
use crate::record::format::Decoded;
use crate::view::{DecodedStream, RowStream};

/// What [`first_after`] reads.
pub(crate) const COLUMNS: [RecordColumn; 2] = [RecordColumn::Offset, RecordColumn::CommittedAt];

/// The columns wanted, and behind them the commit time if it is not among them.
pub(crate) fn with_commit_times(columns: &[RecordColumn]) -> Vec<RecordColumn> {
    let missing = (!columns.contains(&RecordColumn::CommittedAt)).then_some(RecordColumn::CommittedAt);
    columns.iter().copied().chain(missing).collect()
}

/// Rows that begin with [`with_commit_times`] as rows that begin with the columns wanted, without those that were committed
/// after `max_us`.
pub(crate) fn until(rows: DecodedStream, columns: &[RecordColumn], max_us: i64) -> DecodedStream {
    let wanted = columns.iter().position(|column| *column == RecordColumn::CommittedAt);
    let (at, added) = (wanted.unwrap_or(columns.len()), wanted.is_none());
    let cut = move |Decoded { rows, errors }: Decoded| {
        let kept: BooleanArray = commit_times(&rows, at)?.iter().map(|at_us| Some(*at_us <= max_us)).collect();
        let mut kept = if kept.true_count() == kept.len() {
            rows
        } else {
            filter_record_batch(&rows, &kept).map_err(Error::format("leave out rows of later commits"))?
        };
        if added {
            kept.remove_column(at);
        }
        Ok(Decoded { rows: kept, errors })
    };
    let rows = rows.map(move |rows| rows.and_then(cut));
    rows.try_filter(|decoded| future::ready(decoded.rows.num_rows() > 0 || !decoded.errors.is_empty())).boxed()
}

/// The offset of the first row of [`COLUMNS`] that was committed after a time, us.
pub(crate) async fn first_after(mut rows: RowStream, at_us: i64) -> Result<Option<i64>> {
    while let Some(rows) = rows.try_next().await? {
        let offsets = rows.column(0).as_primitive_opt::<Int64Type>().ok_or_else(odd)?;
        let later = commit_times(&rows, 1)?.iter().position(|committed_us| *committed_us > at_us);
        if let Some(row) = later {
            return Ok(Some(offsets.value(row)));
        }
    }
    Ok(None)
}

fn commit_times(rows: &RecordBatch, column: usize) -> Result<&[i64]> {
    let times = rows.column(column).as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(odd)?;
    Ok(times.values().as_ref())
}

fn odd() -> Error {
    Error::Corrupt { place: "rows of a scan".to_owned(), reason: "a column is of another type".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};
    use futures::stream;

    use super::*;
    use crate::record::columns::record_schema;

    fn rows(columns: &[RecordColumn], times: &[i64]) -> RowStream {
        let schema = record_schema().project(&columns.iter().map(|column| *column as usize).collect::<Vec<_>>());
        let array = |column: &RecordColumn| -> ArrayRef {
            match column {
                RecordColumn::CommittedAt => {
                    Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"))
                }
                _ => Arc::new(Int64Array::from_iter_values(0..times.len() as i64)),
            }
        };
        let arrays = columns.iter().map(array);
        let batch = RecordBatch::try_new(Arc::new(schema.unwrap()), arrays.collect()).unwrap();
        stream::iter([Ok(batch)]).boxed()
    }

    async fn kept(read: &[RecordColumn], times: &[i64], columns: &[RecordColumn], max_us: i64) -> Vec<RecordBatch> {
        let decoded = rows(read, times).map_ok(|rows| Decoded { rows, errors: Vec::new() }).boxed();
        until(decoded, columns, max_us).map_ok(|decoded| decoded.rows).try_collect().await.unwrap()
    }

    #[tokio::test]
    async fn later_commits_are_left_out_wherever_they_stand() {
        let read = with_commit_times(&[RecordColumn::Offset]);
        assert_eq!(read, COLUMNS);
        let offsets = kept(&read, &[5, 9, 6, 7], &[RecordColumn::Offset], 6).await;
        assert_eq!(offsets[0].num_columns(), 1);
        assert_eq!(offsets[0].column(0).as_primitive::<Int64Type>().values().as_ref(), [0, 2]);
        let counted = kept(&[RecordColumn::CommittedAt], &[5, 9], &[], 5).await;
        assert_eq!((counted[0].num_columns(), counted[0].num_rows()), (0, 1));
        assert!(kept(&read, &[5, 9], &[RecordColumn::Offset], 4).await.is_empty());
    }

    #[tokio::test]
    async fn a_position_is_the_first_offset_of_a_later_commit() {
        assert_eq!(first_after(rows(&COLUMNS, &[5, 9, 6, 7]), 5).await.unwrap(), Some(1));
        assert_eq!(first_after(rows(&COLUMNS, &[5, 9, 6, 7]), 9).await.unwrap(), None);
    }
}
