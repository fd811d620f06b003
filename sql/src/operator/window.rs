//! Tumbling windows: which window a record falls in and whether it is late, decided from its own partition alone.
//!
//! A record is late when its window's end plus grace is not after the largest rowtime at smaller offsets of its own
//! partition. That makes lateness a function of the position: a bounded SELECT and a continuous query come to the same
//! answer, whatever ticks the input was cut into. Windows are aligned to the epoch and half open: [start, end).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, Int64Builder, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::error::Result;

use super::change::{Changes, int64};

/// Windows of one size, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tumbling {
    /// Length of a window, ms; at least 1.
    pub(crate) size_ms: i64,
    /// How long after its end a window still takes records, ms; at least 0.
    pub(crate) grace_ms: i64,
}

/// Where records fall: one entry per record.
#[derive(Debug)]
pub(crate) struct Assigned {
    /// False for late records and records without a rowtime.
    pub(crate) kept: BooleanArray,
    /// Window starts, ms, of all records (meaningless where not kept).
    pub(crate) starts: Int64Array,
    /// Window ends, ms.
    pub(crate) ends: Int64Array,
}

impl Tumbling {
    /// The window of a rowtime; `None` where its bounds do not fit 64 bits.
    pub(crate) fn window_of(self, rowtime_ms: i64) -> Option<(i64, i64)> {
        let start = rowtime_ms.checked_sub(rowtime_ms.rem_euclid(self.size_ms))?;
        Some((start, start.checked_add(self.size_ms)?))
    }

    /// Assigns records of one partition, in offset order, and carries `largest` rowtime seen so far forward.
    pub(crate) fn assign(self, largest: &mut Option<i64>, rowtimes_ms: &Int64Array) -> Assigned {
        let count = rowtimes_ms.len();
        let (mut starts, mut ends) = (Int64Builder::with_capacity(count), Int64Builder::with_capacity(count));
        let mut kept = Vec::with_capacity(count);
        for rowtime in rowtimes_ms {
            let window = rowtime.and_then(|rowtime| self.window_of(rowtime));
            let late = window.zip(*largest).is_some_and(|((_, end), seen)| self.closes_at(end) <= seen);
            kept.push(window.is_some() && !late);
            let (start, end) = window.unwrap_or_default();
            starts.append_value(start);
            ends.append_value(end);
            *largest = (*largest).max(rowtime);
        }
        Assigned { kept: BooleanArray::from(kept), starts: starts.finish(), ends: ends.finish() }
    }

    /// The rowtime from which on a window that ends at `end_ms` takes no records of a partition that has seen it.
    pub(crate) fn closes_at(self, end_ms: i64) -> i64 {
        end_ms.saturating_add(self.grace_ms)
    }
}

/// The largest rowtime seen, per source partition.
pub(crate) type Lateness = HashMap<i32, i64>;

/// A source's window as an operator: drops late records and adds `windowstart` and `windowend`.
#[derive(Debug)]
pub(crate) struct Window {
    /// The windows.
    pub(crate) tumbling: Tumbling,
    /// Index of the input's column that holds the rowtime, BIGINT ms.
    pub(crate) rowtime: usize,
    /// The input's first columns, then `windowstart` and `windowend`.
    pub(crate) schema: SchemaRef,
}

impl Window {
    /// The records of one partition that are in time, with their windows; `seen` is carried forward.
    pub(crate) fn step(&self, partition: i32, seen: &mut Lateness, input: &Changes) -> Result<Changes> {
        let rowtimes = int64(input.rows.column(self.rowtime))?;
        let mut largest = seen.get(&partition).copied();
        let assigned = self.tumbling.assign(&mut largest, &rowtimes);
        if let Some(largest) = largest {
            seen.insert(partition, largest);
        }
        let rows = with_windows(&self.schema, &input.rows, &assigned)?;
        input.clone().with_rows(rows).filter(&assigned.kept)
    }
}

/// The first columns of `rows` with the two window columns behind; nothing is dropped yet.
pub(crate) fn with_windows(schema: &SchemaRef, rows: &RecordBatch, assigned: &Assigned) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = rows.columns().iter().take(schema.fields().len() - 2).cloned().collect();
    columns.push(Arc::new(assigned.starts.clone()));
    columns.push(Arc::new(assigned.ends.clone()));
    Ok(RecordBatch::try_new(SchemaRef::clone(schema), columns)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Tumbling = Tumbling { size_ms: 60_000, grace_ms: 10_000 };

    #[test]
    fn windows_are_aligned_to_the_epoch_on_both_sides_of_it() {
        assert_eq!(MINUTE.window_of(0), Some((0, 60_000)));
        assert_eq!(MINUTE.window_of(59_999), Some((0, 60_000)));
        assert_eq!(MINUTE.window_of(60_000), Some((60_000, 120_000)));
        assert_eq!(MINUTE.window_of(-1), Some((-60_000, 0)));
        assert_eq!(MINUTE.window_of(-60_000), Some((-60_000, 0)));
        assert_eq!(MINUTE.window_of(i64::MIN), None);
        assert_eq!(MINUTE.window_of(i64::MAX), None);
    }

    #[test]
    fn a_record_is_late_exactly_when_end_plus_grace_has_been_seen_before_it() {
        let mut largest = None;
        let in_time = MINUTE.assign(&mut largest, &Int64Array::from(vec![69_999, 1, 70_000, 1, 60_000]));
        assert_eq!(in_time.kept, BooleanArray::from(vec![true, true, true, false, true]));
        assert_eq!(largest, Some(70_000));
    }

    #[test]
    fn a_cut_anywhere_changes_nothing() {
        let times: Vec<Option<i64>> =
            vec![Some(5), Some(70_001), None, Some(1), Some(200_000), Some(130_000), Some(100), Some(-5)];
        let mut largest = None;
        let whole = MINUTE.assign(&mut largest, &Int64Array::from(times.clone())).kept;
        for cut in 0..times.len() {
            let mut largest = None;
            let first = MINUTE.assign(&mut largest, &Int64Array::from(times[..cut].to_vec())).kept;
            let second = MINUTE.assign(&mut largest, &Int64Array::from(times[cut..].to_vec())).kept;
            let joined: Vec<bool> = first.values().iter().chain(second.values().iter()).collect();
            assert_eq!(BooleanArray::from(joined), whole, "cut at {cut}");
        }
    }
}
