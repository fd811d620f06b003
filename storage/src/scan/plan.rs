//! Which row groups a scan has to read; pure.
//!
//! The manifest's chunks have pruned by offset and time already; here it is done per row group. Timestamps only prune: a
//! group that may hold a row of interest is read whole.

use std::sync::Arc;

use crate::manifest::model::{Entry, GroupAt, Wanted, groups_of};

/// Row groups of one object, to be read in one go.
#[derive(Clone, Debug)]
pub(crate) struct ObjectRead {
    /// The row groups, in offset order; at least one.
    pub(crate) groups: Vec<GroupAt>,
    /// Whether some rows of them lie outside the wanted offsets.
    pub(crate) clipped: bool,
}

/// The read that gives every wanted row of `partition` that an entry holds, in offset order; `None` if it holds none.
pub(crate) fn plan(entry: &Arc<Entry>, partition: i32, wanted: &Wanted) -> Option<ObjectRead> {
    let mut read = ObjectRead { groups: Vec::new(), clipped: false };
    for at in groups_of(entry, partition, wanted.start, wanted.end) {
        if wanted.may_hold(at.group.min_timestamp_ms, at.group.max_timestamp_ms)
            && wanted.may_hold_commits(at.group.min_committed_at_us, at.group.max_committed_at_us)
        {
            read.clipped |= at.group.first_offset < wanted.start || at.group.last_offset >= wanted.end;
            read.groups.push(at);
        }
    }
    (wanted.start < wanted.end && !read.groups.is_empty()).then_some(read)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::model::tests::entry;

    fn entries() -> Vec<Arc<Entry>> {
        let spans = [("a", 0, 10), ("b", 10, 20), ("c", 20, 40)];
        let entry = |(name, start, end)| Arc::new(entry(name, &[(0, start, end), (1, start, end)]));
        spans.into_iter().map(entry).collect()
    }

    fn plans(partition: i32, wanted: Wanted) -> Vec<ObjectRead> {
        entries().iter().filter_map(|entry| plan(entry, partition, &wanted)).collect()
    }

    fn names(reads: &[ObjectRead]) -> Vec<(&str, bool)> {
        reads.iter().map(|read| (read.groups[0].object().unwrap().path.as_str(), read.clipped)).collect()
    }

    #[test]
    fn only_groups_that_hold_wanted_offsets_are_read() {
        let read = |start, end| plans(0, Wanted::offsets(start, end));
        assert_eq!(names(&read(0, 40)), [("a", false), ("b", false), ("c", false)]);
        assert_eq!(names(&read(10, 20)), [("b", false)]);
        assert_eq!(names(&read(9, 21)), [("a", true), ("b", false), ("c", true)]);
        assert!(read(40, 50).is_empty() && read(5, 5).is_empty() && read(7, 3).is_empty());
        assert!(plans(2, Wanted::offsets(0, 40)).is_empty());
    }

    #[test]
    fn timestamps_prune_whole_groups_and_never_clip() {
        // Groups of the test entries have timestamps from their first offset to their end.
        let wanted = Wanted { timestamp_min_ms: Some(15), timestamp_max_ms: Some(19), ..Wanted::offsets(0, 40) };
        assert_eq!(names(&plans(1, wanted)), [("b", false)]);
        let edge = Wanted { timestamp_min_ms: Some(20), timestamp_max_ms: Some(20), ..Wanted::offsets(0, 40) };
        assert_eq!(names(&plans(1, edge)), [("b", false), ("c", false)]);
    }

    #[test]
    fn commit_times_prune_whole_groups() {
        // As the timestamps.
        let wanted = Wanted { committed_max_us: Some(9), ..Wanted::offsets(0, 40) };
        assert_eq!(names(&plans(0, wanted)), [("a", false)]);
        let wanted = Wanted { committed_min_us: Some(21), ..Wanted::offsets(0, 40) };
        assert_eq!(names(&plans(0, wanted)), [("c", false)]);
    }

    proptest! {
        #[test]
        fn every_wanted_offset_is_in_a_planned_group(start in 0i64..45, length in 0i64..45) {
                let reads = plans(0, Wanted::offsets(start, start + length));
            for offset in start..(start + length).min(40) {
                let holders = reads.iter().flat_map(|read| &read.groups)
                    .filter(|at| (at.group.first_offset..=at.group.last_offset).contains(&offset));
                prop_assert_eq!(holders.count(), 1);
            }
        }
    }
}
