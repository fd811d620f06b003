//! Which row groups a scan has to read; pure.
//!
//! Row groups of a partition ascend by offset, so the offset range is found by bisection; the timestamps of what is
//! left prune. Timestamps only prune: a group that may hold a row of interest is read whole.

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

/// The reads that give every wanted row of `partition`, in offset order; `entries` are those that cover the offsets.
pub(crate) fn plan(entries: &[Arc<Entry>], partition: i32, wanted: &Wanted) -> Vec<ObjectRead> {
    let mut reads: Vec<ObjectRead> = Vec::new();
    if wanted.start >= wanted.end {
        return reads;
    }
    let touched = entries.iter().flat_map(|entry| groups_of(entry, partition, wanted.start, wanted.end));
    for at in touched.filter(|at| wanted.may_hold(at.group.min_timestamp_ms, at.group.max_timestamp_ms)) {
        let clipped = at.group.first_offset < wanted.start || at.group.last_offset >= wanted.end;
        match reads.last_mut() {
            Some(read) if same_object(&read.groups, &at) => {
                read.groups.push(at);
                read.clipped |= clipped;
            }
            _ => reads.push(ObjectRead { groups: vec![at], clipped }),
        }
    }
    reads
}

fn same_object(groups: &[GroupAt], at: &GroupAt) -> bool {
    groups.last().is_some_and(|last| Arc::ptr_eq(&last.object, &at.object))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::ids::TopicId;
    use crate::manifest::edit::Edit;
    use crate::manifest::model::TopicManifest;
    use crate::manifest::model::tests::entry;

    fn manifest() -> TopicManifest {
        let mut manifest = TopicManifest::empty(TopicId(Uuid::nil()));
        for (name, start, end) in [("a", 0, 10), ("b", 10, 20), ("c", 20, 40)] {
            manifest = manifest.with(Edit::Add(entry(name, &[(0, start, end), (1, start, end)]))).unwrap();
        }
        manifest
    }

    fn names(reads: &[ObjectRead]) -> Vec<(&str, bool)> {
        reads.iter().map(|read| (read.groups[0].object().unwrap().path.as_str(), read.clipped)).collect()
    }

    #[test]
    fn only_groups_that_hold_wanted_offsets_are_read() {
        let manifest = manifest();
        let read = |start, end| plan(&manifest.entries, 0, &Wanted::offsets(start, end));
        assert_eq!(names(&read(0, 40)), [("a", false), ("b", false), ("c", false)]);
        assert_eq!(names(&read(10, 20)), [("b", false)]);
        assert_eq!(names(&read(9, 21)), [("a", true), ("b", false), ("c", true)]);
        assert!(read(40, 50).is_empty() && read(5, 5).is_empty() && read(7, 3).is_empty());
        assert!(plan(&manifest.entries, 2, &Wanted::offsets(0, 40)).is_empty());
    }

    #[test]
    fn timestamps_prune_whole_groups_and_never_clip() {
        // Groups of the test manifest have timestamps from their first offset to their end.
        let manifest = manifest();
        let wanted = Wanted { timestamp_min_ms: Some(15), timestamp_max_ms: Some(19), ..Wanted::offsets(0, 40) };
        assert_eq!(names(&plan(&manifest.entries, 1, &wanted)), [("b", false)]);
        let edge = Wanted { timestamp_min_ms: Some(20), timestamp_max_ms: Some(20), ..Wanted::offsets(0, 40) };
        assert_eq!(names(&plan(&manifest.entries, 1, &edge)), [("b", false), ("c", false)]);
    }

    proptest! {
        #[test]
        fn every_wanted_offset_is_in_a_planned_group(start in 0i64..45, length in 0i64..45) {
            let manifest = manifest();
            let reads = plan(&manifest.entries, 0, &Wanted::offsets(start, start + length));
            for offset in start..(start + length).min(40) {
                let holders = reads.iter().flat_map(|read| &read.groups)
                    .filter(|at| (at.group.first_offset..=at.group.last_offset).contains(&offset));
                prop_assert_eq!(holders.count(), 1);
            }
        }
    }
}
