//! What is always true of a manifest; asked before every publish and after every load.
//!
//! A manifest that breaks one of these would show an offset twice or not at all, so it is neither published nor used.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ids::TopicId;
use crate::manifest::model::{Cover, Ends, Entry, RowGroup, TopicManifest};

/// An entry makes sense by itself: covers ascend, row groups lie in their covers in order and without overlap, counts
/// and ranges agree.
pub(crate) fn entry_is_sound(topic: TopicId, entry: &Entry) -> Result<()> {
    if entry.covers.is_empty() {
        return Err(broken(topic, "an entry covers nothing".to_owned()));
    }
    let mut last_partition = -1;
    for cover in &entry.covers {
        if cover.partition <= last_partition || cover.start < 0 || cover.end <= cover.start {
            return Err(broken(topic, format!("cover {cover:?} does not follow partition {last_partition}")));
        }
        last_partition = cover.partition;
    }
    lost_is_covered(topic, entry)?;
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

fn lost_is_covered(topic: TopicId, entry: &Entry) -> Result<()> {
    let mut before = (-1, 0);
    for lost in &entry.lost {
        let covered =
            entry.cover(lost.partition).is_some_and(|cover| cover.start <= lost.start && lost.end <= cover.end);
        if !covered || lost.start >= lost.end || (lost.partition, lost.start) < before {
            return Err(broken(topic, format!("lost offsets {lost:?} do not fit their entry")));
        }
        before = (lost.partition, lost.end);
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

/// No gap: an added cover begins where its partition ends.
pub(crate) fn cover_follows(topic: TopicId, ends: Ends, cover: &Cover) -> Result<()> {
    if cover.start == ends.end {
        return Ok(());
    }
    let Cover { partition, start, .. } = cover;
    Err(broken(topic, format!("a gap in partition {partition}: {} is followed by {start}", ends.end)))
}

/// No gap from the start on, no overlap anywhere: in the order of the entries the covers of each partition ascend up to
/// its end.
pub(crate) fn offsets_are_covered_once(manifest: &TopicManifest) -> Result<()> {
    let mut reached: BTreeMap<i32, i64> = BTreeMap::new();
    for cover in manifest.entries.iter().flat_map(|entry| &entry.covers) {
        let start = manifest.start(cover.partition);
        let before = reached.insert(cover.partition, cover.end);
        let Cover { partition, start: next, .. } = cover;
        if let Some(before) = before.filter(|before| before > next) {
            let reason = format!("{before} is followed by {next}; only neighbours can be replaced");
            return Err(broken(manifest.topic, format!("an overlap in partition {partition}: {reason}")));
        }
        // Below the start holes are no gaps.
        if before.unwrap_or(start) < *next && start < *next {
            let reason = format!("{} is followed by {next}", before.unwrap_or(start));
            return Err(broken(manifest.topic, format!("a gap in partition {partition}: {reason}")));
        }
    }
    for (partition, ends) in &manifest.partitions {
        let end = reached.remove(partition).unwrap_or(ends.start).max(ends.start);
        if ends.start < 0 || end != ends.end {
            let reason = format!("partition {partition} is covered up to {end}, not {}", ends.end);
            return Err(broken(manifest.topic, reason));
        }
    }
    match reached.first_key_value() {
        None => Ok(()),
        Some((partition, _)) => Err(broken(manifest.topic, format!("partition {partition} has covers but no ends"))),
    }
}

/// What is added covers what goes, to the offset; no row appears, none disappears unless history says so; what is lost
/// stays lost.
pub(crate) fn replacement_is_sound(
    manifest: &TopicManifest,
    gone: &[Arc<Entry>],
    added: &[Entry],
    history_start_us: Option<i64>,
) -> Result<()> {
    let topic = manifest.topic;
    let (before, after) = (sums(gone.iter().map(AsRef::as_ref)), sums(added.iter()));
    if before.keys().ne(after.keys()) {
        let reason = format!("partitions {:?} cannot cover {:?}", after.keys(), before.keys());
        return Err(broken(topic, reason));
    }
    for (partition, (before, after)) in
        before.iter().map(|(partition, before)| (partition, (before, &after[partition])))
    {
        let what = |words: String| Err(broken(topic, format!("a replacement in partition {partition} {words}")));
        if before.ranges != after.ranges {
            return what(format!("has covers {:?} where {:?} go", after.ranges, before.ranges));
        }
        let whole = before.ranges.first().is_none_or(|(start, _)| *start >= manifest.start(*partition));
        if after.rows > before.rows || (after.rows < before.rows && whole && history_start_us.is_none()) {
            return what(format!("has {} rows where {} go", after.rows, before.rows));
        }
        let within = |inner: (i64, i64), outer: (i64, i64)| outer.0 <= inner.0 && inner.1 <= outer.1;
        let timed = within(after.timestamps, before.timestamps) && within(after.commits, before.commits);
        if after.rows > 0 && !timed {
            return what("has rows of other times than those that go".to_owned());
        }
        if !before.lost.iter().all(|lost| after.lost.iter().any(|kept| within(*lost, *kept))) {
            return what(format!("has lost offsets {:?} where {:?} go", after.lost, before.lost));
        }
    }
    Ok(())
}

/// What some entries hold of one partition.
#[derive(Debug)]
struct Sum {
    /// Offsets covered: ranges that do not touch, ascending.
    ranges: Vec<(i64, i64)>,
    rows: u64,
    timestamps: (i64, i64),
    commits: (i64, i64),
    lost: Vec<(i64, i64)>,
}

fn sums<'a>(entries: impl Iterator<Item = &'a Entry>) -> BTreeMap<i32, Sum> {
    let nothing = (i64::MAX, i64::MIN);
    let mut sums: BTreeMap<i32, Sum> = BTreeMap::new();
    for entry in entries {
        for cover in &entry.covers {
            let fresh = || Sum { ranges: vec![], rows: 0, timestamps: nothing, commits: nothing, lost: vec![] };
            let sum = sums.entry(cover.partition).or_insert_with(fresh);
            sum.ranges.push((cover.start, cover.end));
            let lost = entry.lost.iter().filter(|lost| lost.partition == cover.partition);
            sum.lost.extend(lost.map(|lost| (lost.start, lost.end)));
            let groups = entry.object.iter().flat_map(|object| &object.row_groups);
            for group in groups.filter(|group| group.partition == cover.partition) {
                sum.rows += u64::from(group.rows);
                let hull = |(min, max): (i64, i64), low: i64, high: i64| (min.min(low), max.max(high));
                sum.timestamps = hull(sum.timestamps, group.min_timestamp_ms, group.max_timestamp_ms);
                sum.commits = hull(sum.commits, group.min_committed_at_us, group.max_committed_at_us);
            }
        }
    }
    for sum in sums.values_mut() {
        sum.ranges = joined(std::mem::take(&mut sum.ranges));
        sum.lost = joined(std::mem::take(&mut sum.lost));
    }
    sums
}

/// Ranges that touch become one.
fn joined(mut ranges: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    ranges.sort_unstable();
    let mut joined: Vec<(i64, i64)> = Vec::new();
    for (start, end) in ranges {
        match joined.last_mut() {
            Some(last) if last.1 >= start => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined
}

/// What is asked of a manifest that was loaded.
pub(crate) fn manifest_is_sound(manifest: &TopicManifest) -> Result<()> {
    for entry in &manifest.entries {
        entry_is_sound(manifest.topic, entry)?;
    }
    offsets_are_covered_once(manifest)?;
    chunks_hold_entries(manifest)
}

/// Chunks hold no more entries than there are.
fn chunks_hold_entries(manifest: &TopicManifest) -> Result<()> {
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
    for (partition, ends) in &before.partitions {
        let (start, end) = (after.start(*partition), after.tiered_end(*partition));
        if end < ends.end || start < ends.start {
            return Err(broken(
                before.topic,
                format!("partition {partition} goes back from {}..{} to {start}..{end}", ends.start, ends.end),
            ));
        }
    }
    if after.history_start_us < before.history_start_us {
        return Err(broken(before.topic, "history begins earlier than before".to_owned()));
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
    use crate::manifest::edit::Edit;
    use crate::manifest::model::tests::entry;

    fn empty() -> TopicManifest {
        TopicManifest::empty(TopicId(Uuid::nil()))
    }

    #[test]
    fn gaps_overlaps_and_unsound_entries_are_refused() {
        let manifest = empty().with(Edit::Add(entry("a", &[(0, 0, 10)]))).unwrap();
        for (covers, word) in [(&[(0, 11, 12)], "a gap"), (&[(0, 9, 12)], "has changed")] {
            let error = manifest.with(Edit::Add(entry("b", covers))).unwrap_err();
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
            empty().with(Edit::Add(entry)).unwrap_err();
        }
        let mut twice = entry("b", &[(0, 0, 10)]);
        let group = twice.object.as_ref().unwrap().row_groups[0];
        twice.object.as_mut().unwrap().row_groups.push(group);
        empty().with(Edit::Add(twice)).unwrap_err();
        empty().with(Edit::Add(entry("c", &[(1, 0, 1), (0, 0, 1)]))).unwrap_err();
    }

    #[test]
    fn a_manifest_never_goes_back() {
        let mut before = empty().with(Edit::Add(entry("a", &[(0, 0, 10)]))).unwrap();
        before.version = 1;
        let mut shorter = empty().with(Edit::Add(entry("a", &[(0, 0, 9)]))).unwrap();
        shorter.version = 2;
        never_goes_back(&before, &shorter).unwrap_err();
        let mut later = before.with(Edit::Add(entry("b", &[(0, 10, 11)]))).unwrap();
        never_goes_back(&before, &later).unwrap_err();
        later.version = 2;
        never_goes_back(&before, &later).unwrap();
        before.epoch = WriterEpoch(3);
        never_goes_back(&before, &later).unwrap_err();
    }

    proptest! {
        /// However runs of any partitions are cut, the manifest holds every offset once.
        #[test]
        fn every_offset_is_in_one_row_group(steps in prop::collection::vec((0i32..4, 1i64..50), 0..40)) {
            let mut manifest = empty();
            let mut ends = [0i64; 4];
            for (number, (partition, length)) in steps.into_iter().enumerate() {
                let end = &mut ends[usize::try_from(partition).unwrap()];
                let next = entry(&number.to_string(), &[(partition, *end, *end + length)]);
                *end += length;
                manifest = manifest.with(Edit::Add(next)).unwrap();
            }
            for (partition, end) in (0i32..).zip(ends) {
                prop_assert_eq!(manifest.tiered_end(partition), end);
                let mut next = 0;
                for at in manifest.groups(partition, 0, i64::MAX) {
                    prop_assert_eq!(at.group.first_offset, next);
                    next = at.group.last_offset + 1;
                }
                prop_assert_eq!(next, end);
            }
        }
    }
}
