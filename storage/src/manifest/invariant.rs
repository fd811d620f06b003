//! What is always true of a manifest; asked before every publish and after every load.
//!
//! A manifest that breaks one of these would show an offset twice or not at all, so it is neither published nor used.

use crate::error::{Error, Result};
use crate::ids::TopicId;
use crate::manifest::model::{Entry, RowGroup, TopicManifest};

/// An entry makes sense by itself: covers ascend, row groups lie in their covers in order and without overlap, counts
/// and ranges agree.
pub(crate) fn entry_is_sound(topic: TopicId, entry: &Entry) -> Result<()> {
    let mut last_partition = -1;
    for cover in &entry.covers {
        if cover.partition <= last_partition || cover.start < 0 || cover.end < cover.start {
            return Err(broken(topic, format!("cover {cover:?} does not follow partition {last_partition}")));
        }
        last_partition = cover.partition;
    }
    let Some(object) = &entry.object else { return Ok(()) };
    if object.row_groups.is_empty() {
        return Err(broken(topic, format!("object {} has no row group", object.path)));
    }
    let mut before: Option<&RowGroup> = None;
    for group in &object.row_groups {
        group_is_sound(topic, entry, group)?;
        let follows = before.is_none_or(|before| {
            (before.partition, before.last_offset) < (group.partition, group.first_offset)
                && (before.partition < group.partition || before.last_offset < group.first_offset)
        });
        if !follows {
            return Err(broken(topic, format!("row group {group:?} does not follow {before:?}")));
        }
        before = Some(group);
    }
    Ok(())
}

fn group_is_sound(topic: TopicId, entry: &Entry, group: &RowGroup) -> Result<()> {
    let covered = entry.covers.iter().any(|cover| {
        cover.partition == group.partition && cover.start <= group.first_offset && group.last_offset < cover.end
    });
    let span = i128::from(group.last_offset) - i128::from(group.first_offset) + 1;
    let counted = group.rows > 0 && i128::from(group.rows) <= span;
    let timed =
        group.min_timestamp_ms <= group.max_timestamp_ms && group.min_committed_at_us <= group.max_committed_at_us;
    if covered && counted && timed {
        return Ok(());
    }
    Err(broken(topic, format!("row group {group:?} does not fit its entry")))
}

/// No gap and no overlap: each cover begins where its partition ended.
pub(crate) fn entry_follows(manifest: &TopicManifest, entry: &Entry) -> Result<()> {
    for cover in &entry.covers {
        if let Some(index) = manifest.partitions.get(&cover.partition)
            && index.end != cover.start
        {
            let what = if index.end < cover.start { "a gap" } else { "an overlap" };
            return Err(broken(
                manifest.topic,
                format!("{what} in partition {}: {} is followed by {}", cover.partition, index.end, cover.start),
            ));
        }
    }
    Ok(())
}

/// Chunks hold no more entries than there are.
pub(crate) fn chunks_hold_entries(manifest: &TopicManifest) -> Result<()> {
    if manifest.entries_in_chunks() <= manifest.entries.len() {
        return Ok(());
    }
    Err(broken(manifest.topic, format!("chunks hold more than the {} entries", manifest.entries.len())))
}

/// No going back: a later manifest covers at least what an earlier one did.
pub(crate) fn never_goes_back(before: &TopicManifest, after: &TopicManifest) -> Result<()> {
    if after.version <= before.version || after.epoch < before.epoch || after.topic != before.topic {
        return Err(broken(
            before.topic,
            format!(
                "version {} of epoch {} does not follow version {} of epoch {}",
                after.version, after.epoch.0, before.version, before.epoch.0
            ),
        ));
    }
    for (partition, index) in &before.partitions {
        let (start, end) = (after.start(*partition), after.tiered_end(*partition));
        if end < index.end || start < index.start {
            return Err(broken(
                before.topic,
                format!("partition {partition} goes back from {}..{} to {start}..{end}", index.start, index.end),
            ));
        }
    }
    Ok(())
}

fn broken(topic: TopicId, reason: String) -> Error {
    Error::Corrupt { place: format!("manifest of topic {topic}"), reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::ids::WriterEpoch;
    use crate::manifest::model::tests::entry;

    fn empty() -> TopicManifest {
        TopicManifest::empty(TopicId(Uuid::nil()))
    }

    #[test]
    fn gaps_overlaps_and_unsound_entries_are_refused() {
        let manifest = empty().with_entry(entry("a", &[(0, 0, 10)])).unwrap();
        for (covers, word) in [(&[(0, 11, 12)], "a gap"), (&[(0, 9, 12)], "an overlap")] {
            let error = manifest.with_entry(entry("b", covers)).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        let twisted: [fn(&mut RowGroup); 6] = [
            |group| group.rows = 0,
            |group| group.rows = 11,
            |group| group.last_offset = 10,
            |group| group.first_offset = -1,
            |group| group.partition = 1,
            |group| group.min_timestamp_ms = i64::MAX,
        ];
        for twist in twisted {
            let mut entry = entry("b", &[(0, 0, 10)]);
            twist(&mut entry.object.as_mut().unwrap().row_groups[0]);
            empty().with_entry(entry).unwrap_err();
        }
        let mut twice = entry("b", &[(0, 0, 10)]);
        let group = twice.object.as_ref().unwrap().row_groups[0];
        twice.object.as_mut().unwrap().row_groups.push(group);
        empty().with_entry(twice).unwrap_err();
        empty().with_entry(entry("c", &[(1, 0, 1), (0, 0, 1)])).unwrap_err();
    }

    #[test]
    fn a_manifest_never_goes_back() {
        let mut before = empty().with_entry(entry("a", &[(0, 0, 10)])).unwrap();
        before.version = 1;
        let mut shorter = empty().with_entry(entry("a", &[(0, 0, 9)])).unwrap();
        shorter.version = 2;
        never_goes_back(&before, &shorter).unwrap_err();
        let mut later = before.with_entry(entry("b", &[(0, 10, 11)])).unwrap();
        never_goes_back(&before, &later).unwrap_err();
        later.version = 2;
        never_goes_back(&before, &later).unwrap();
        before.epoch = WriterEpoch(3);
        never_goes_back(&before, &later).unwrap_err();
    }

    proptest! {
        /// However runs of any partitions are cut, the manifest holds every offset once.
        #[test]
        fn every_offset_is_in_one_row_group(steps in prop::collection::vec((0i32..4, 0i64..50), 0..40)) {
            let mut manifest = empty();
            let mut ends = [0i64; 4];
            for (number, (partition, length)) in steps.into_iter().enumerate() {
                let end = &mut ends[usize::try_from(partition).unwrap()];
                let next = entry(&number.to_string(), &[(partition, *end, *end + length)]);
                *end += length;
                manifest = manifest.with_entry(next).unwrap();
            }
            for (partition, end) in (0i32..).zip(ends) {
                prop_assert_eq!(manifest.tiered_end(partition), end);
                let mut next = 0;
                for at in manifest.groups(partition) {
                    prop_assert_eq!(at.group.first_offset, next);
                    next = at.group.last_offset + 1;
                }
                prop_assert_eq!(next, end);
            }
        }
    }
}
