//! What is always true of a manifest; asked before every publish and after every load.
//!
//! A manifest that breaks one of these would show an offset twice or not at all, so it is neither published nor used.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ids::TopicId;
use crate::manifest::codec::Content;
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
    let covered = entry
        .cover(group.partition)
        .is_some_and(|cover| cover.start <= group.first_offset && group.last_offset < cover.end);
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

/// No gap from the start on, no overlap anywhere: in the order of chunks and entries the covers of each partition ascend
/// up to its end.
pub(crate) fn offsets_are_covered_once<'a>(
    manifest: &TopicManifest,
    items: impl Iterator<Item = &'a [Cover]>,
) -> Result<()> {
    let mut reached = BTreeMap::new();
    for covers in items {
        let followed = covers.iter().try_for_each(|cover| follow(manifest, &mut reached, cover));
        followed.map_err(|reason| broken(manifest.topic, reason))?;
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

/// Something comes instead of what goes.
pub(crate) fn replacement_covers(topic: TopicId, added: &[Entry]) -> Result<()> {
    if added.is_empty() { Err(broken(topic, "a replacement covers nothing".to_owned())) } else { Ok(()) }
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
        }
        for lost in &entry.lost {
            // Sound entries cover what they lost, and the partitions of their row groups.
            let Some(sum) = sums.get_mut(&lost.partition) else { continue };
            sum.lost.push((lost.start, lost.end));
        }
        for group in entry.object.iter().flat_map(|object| &object.row_groups) {
            let Some(sum) = sums.get_mut(&group.partition) else { continue };
            sum.rows += u64::from(group.rows);
            let hull = |(min, max): (i64, i64), low: i64, high: i64| (min.min(low), max.max(high));
            sum.timestamps = hull(sum.timestamps, group.min_timestamp_ms, group.max_timestamp_ms);
            sum.commits = hull(sum.commits, group.min_committed_at_us, group.max_committed_at_us);
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

/// A cover comes behind what was reached before it, without a gap unless that lies below the start.
fn follow(manifest: &TopicManifest, reached: &mut BTreeMap<i32, i64>, cover: &Cover) -> Result<(), String> {
    let Cover { partition, start: next, end } = *cover;
    let start = manifest.start(partition);
    let before = reached.insert(partition, end);
    if let Some(before) = before.filter(|before| *before > next) {
        return Err(format!("an overlap in partition {partition}: {before} is followed by {next}"));
    }
    // Below the start holes are no gaps.
    let before = before.unwrap_or(start);
    if before < next && start < next {
        return Err(format!("a gap in partition {partition}: {before} is followed by {next}"));
    }
    Ok(())
}

/// What is asked of a root that was loaded; its chunks are asked when they are.
pub(crate) fn root_is_sound(manifest: &TopicManifest) -> Result<()> {
    for entry in &manifest.tail {
        entry_is_sound(manifest.topic, entry)?;
    }
    let chunks = manifest.chunks.iter().map(|chunk| chunk.summary.covers.as_slice());
    offsets_are_covered_once(manifest, chunks.chain(manifest.tail.iter().map(|entry| entry.covers.as_slice())))
}

/// What is asked of a chunk that was loaded: sound entries, and within it no gap and no overlap either.
pub(crate) fn chunk_is_sound(manifest: &TopicManifest, content: &Content, place: &str) -> Result<()> {
    let covers: Vec<&[Cover]> = match content {
        Content::Entries(entries) => {
            for entry in entries {
                entry_is_sound(manifest.topic, entry)?;
            }
            entries.iter().map(|entry| entry.covers.as_slice()).collect()
        }
        Content::Chunks(chunks) => chunks.iter().map(|chunk| chunk.summary.covers.as_slice()).collect(),
        Content::Gone(_) => vec![],
    };
    let mut reached = BTreeMap::new();
    for cover in covers.into_iter().flatten() {
        // The first of a partition follows what stands before the chunk.
        reached.entry(cover.partition).or_insert(cover.start);
        follow(manifest, &mut reached, cover).map_err(|reason| Error::Corrupt { place: place.to_owned(), reason })?;
    }
    Ok(())
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
