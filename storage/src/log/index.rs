//! The index: where in the log the runs of one partition lie, in memory, 48 bytes a run.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::log::frame::DirectoryEntry;

/// Contiguous batches of one partition in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) max_timestamp_ms: i64,
    /// Of the frame, us.
    pub(crate) commit_time_us: i64,
    /// Of the first batch, in the log.
    pub(crate) position: u64,
    pub(crate) bytes: u32,
}

impl Run {
    /// An entry of the directory of the frame at `position`.
    pub(crate) fn of_entry(entry: &DirectoryEntry, position: u64, commit_time_us: i64) -> Self {
        Self {
            base_offset: entry.base_offset,
            last_offset: entry.last_offset,
            max_timestamp_ms: entry.max_timestamp_ms,
            commit_time_us,
            position: position + entry.frame_offset,
            bytes: entry.bytes,
        }
    }
}

/// Offsets that are damaged: they were committed and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DamagedOffsets {
    pub(crate) start: i64,
    /// Exclusive.
    pub(crate) end: i64,
    /// File and range.
    pub(crate) place: String,
}

/// The runs of one partition in offset order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs(VecDeque<Run>);

impl Runs {
    pub(crate) fn push(&mut self, run: Run) {
        debug_assert!(self.0.back().is_none_or(|last| last.last_offset < run.base_offset), "runs in offset order");
        self.0.push_back(run);
    }

    pub(crate) fn first_offset(&self) -> Option<i64> {
        self.0.front().map(|run| run.base_offset)
    }

    /// The runs that hold `offset` and what follows.
    pub(crate) fn starting_at(&self, offset: i64) -> impl Iterator<Item = &Run> {
        let first = self.0.partition_point(|run| run.last_offset < offset);
        self.0.range(first..)
    }

    /// The last offset that lies below a position of the log.
    pub(crate) fn last_below(&self, position: u64) -> Option<i64> {
        let count = self.0.partition_point(|run| run.position < position);
        count.checked_sub(1).and_then(|last| self.0.get(last)).map(|run| run.last_offset)
    }

    /// Drops the runs below a position of the log.
    pub(crate) fn forget_below(&mut self, position: u64) {
        while self.0.front().is_some_and(|run| run.position < position) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(base_offset: i64, last_offset: i64, position: u64) -> Run {
        Run { base_offset, last_offset, max_timestamp_ms: 0, commit_time_us: 0, position, bytes: 10 }
    }

    #[test]
    fn a_lookup_finds_the_run_that_holds_the_offset_and_those_after_it() {
        let mut runs = Runs::default();
        for (base, last, at) in [(0, 9, 0), (10, 10, 64), (11, 30, 128)] {
            runs.push(run(base, last, at));
        }
        let bases = |offset| runs.starting_at(offset).map(|run| run.base_offset).collect::<Vec<_>>();
        assert_eq!(bases(0), [0, 10, 11]);
        assert_eq!(bases(9), [0, 10, 11]);
        assert_eq!(bases(10), [10, 11]);
        assert_eq!(bases(30), [11]);
        assert!(bases(31).is_empty());
        runs.forget_below(65);
        assert_eq!(runs.first_offset(), Some(11));
    }
}
