//! `Tick`: the raw records of one step, and how to cut it in two when its output does not fit one commit.
//!
//! What a query computes depends on the position alone, never on how the way there was cut into ticks; so a tick may be
//! cut anywhere.

use arrow::array::RecordBatch;

use super::position::Position;

/// Records of one source partition, in offset order.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The partition.
    pub(crate) partition: i32,
    /// First offset that was asked for.
    pub(crate) start: i64,
    /// Its raw records, all there are from `start` to `end`.
    pub(crate) batches: Vec<RecordBatch>,
    /// Next offset to read after them.
    pub(crate) end: i64,
}

/// One step's input.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tick {
    /// At most one per partition.
    pub(crate) runs: Vec<Run>,
}

impl Tick {
    /// Number of records.
    pub(crate) fn rows(&self) -> usize {
        self.runs.iter().flat_map(|run| &run.batches).map(RecordBatch::num_rows).sum()
    }

    /// The position after it.
    pub(crate) fn after(&self, position: &Position) -> Position {
        let mut after = Position { ticks: position.ticks + 1, offsets: position.offsets.clone() };
        for run in &self.runs {
            after.set(run.partition, run.end);
        }
        after
    }

    /// Cuts into a first part of half the records and the rest; `None` if there is at most one record. `offset_of` reads
    /// the offset of a batch's row.
    pub(crate) fn halve(self, offset_of: impl Fn(&RecordBatch, usize) -> i64) -> Option<(Self, Self)> {
        let rows = self.rows();
        if rows < 2 {
            return None;
        }
        let mut left = rows / 2;
        let (mut first, mut second) = (Self::default(), Self::default());
        for run in self.runs {
            let taken = run.batches.iter().map(RecordBatch::num_rows).sum::<usize>().min(left);
            left -= taken;
            let (head, tail) = cut(run, taken, &offset_of);
            first.runs.extend(head);
            second.runs.extend(tail);
        }
        Some((first, second))
    }
}

/// The first `rows` records of a run, and the rest.
fn cut(run: Run, rows: usize, offset_of: &impl Fn(&RecordBatch, usize) -> i64) -> (Option<Run>, Option<Run>) {
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    let mut left = rows;
    for batch in run.batches {
        let taken = batch.num_rows().min(left);
        left -= taken;
        if taken > 0 {
            head.push(batch.slice(0, taken));
        }
        if taken < batch.num_rows() {
            tail.push(batch.slice(taken, batch.num_rows() - taken));
        }
    }
    match tail.first() {
        None => (Some(Run { batches: head, ..run }), None),
        Some(_) if head.is_empty() => (None, Some(Run { batches: tail, ..run })),
        Some(next) => {
            let middle = offset_of(next, 0);
            let head = Run { partition: run.partition, start: run.start, batches: head, end: middle };
            (Some(head), Some(Run { start: middle, batches: tail, ..run }))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    fn batch(offsets: &[i64]) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("_offset", DataType::Int64, false)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(offsets.to_vec()))]).unwrap()
    }

    fn offset(batch: &RecordBatch, row: usize) -> i64 {
        batch.column(0).as_primitive::<Int64Type>().value(row)
    }

    #[test]
    fn halves_keep_order_and_every_record_and_meet_at_an_offset() {
        let start = Position::start(2);
        let tick = Tick {
            runs: vec![
                Run { partition: 0, start: 0, batches: vec![batch(&[0, 1]), batch(&[5, 6, 7])], end: 9 },
                Run { partition: 1, start: 0, batches: vec![batch(&[0])], end: 1 },
            ],
        };
        let (first, second) = tick.clone().halve(offset).unwrap();
        assert_eq!((first.rows(), second.rows()), (3, 3));
        assert_eq!(first.after(&start).offsets, vec![6, 0]);
        assert_eq!(second.after(&first.after(&start)).offsets, tick.after(&start).offsets);
        assert_eq!(second.after(&first.after(&start)).ticks, 2);
    }

    #[test]
    fn a_partition_that_was_added_is_in_the_position_once_it_has_been_read() {
        let tick = Tick { runs: vec![Run { partition: 2, start: 0, batches: vec![batch(&[0])], end: 1 }] };
        assert_eq!(tick.after(&Position::start(1)).offsets, vec![0, 0, 1]);
    }

    #[test]
    fn a_single_record_cannot_be_halved() {
        let tick = Tick { runs: vec![Run { partition: 0, start: 0, batches: vec![batch(&[3])], end: 4 }] };
        assert!(tick.halve(offset).is_none());
    }

    #[test]
    fn an_end_behind_a_gap_stays_with_the_second_half() {
        let tick = Tick {
            runs: vec![
                Run { partition: 0, start: 0, batches: vec![], end: 4 },
                Run { partition: 1, start: 0, batches: vec![batch(&[3, 4])], end: 9 },
            ],
        };
        let (first, second) = tick.halve(offset).unwrap();
        assert_eq!(first.after(&Position::start(2)).offsets, vec![4, 4]);
        assert_eq!(second.after(&first.after(&Position::start(2))).offsets, vec![4, 9]);
    }
}
