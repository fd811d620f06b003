//! History start: the commit time from which on a topic can be shown as it was.
//!
//! Compaction and moved log starts take records away. Of what compaction removes the manifest says, since before it is
//! gone, until when the newest of it still counted. Of a moved log start it says the newest commit time among what went;
//! a log start that the manifest does not know of yet is looked at here, in the records themselves, for they are still
//! there or have just been. What nobody can tell any more counts as having gone now.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Result;
use crate::log::HotRange;
use crate::manifest::model::{ChunkRef, Cover, Entry, Summary, TopicManifest};
use crate::manifest::walk::Met;
use crate::tier::cold::Cold;
use crate::worker;

/// A log start that has moved on from where the manifest knows it.
#[derive(Debug)]
pub(crate) struct Moved {
    /// Whose.
    pub(crate) partition: i32,
    /// Where it is now.
    pub(crate) to: i64,
    /// What the log holds from the manifest's end on, at the least.
    pub(crate) hot: HotRange,
}

/// Before this commit time, us, a topic cannot be shown as it was, as far as the manifest says. Versions that did not note
/// what a moved log start took away leave the oldest record that is left to tell.
pub(crate) fn noted_us(manifest: &TopicManifest) -> i64 {
    let noted = manifest.history_start_us;
    if noted > i64::MIN || manifest.partitions.values().all(|ends| ends.start == 0) {
        return noted;
    }
    let tail = Summary::of_entries(manifest.tail.iter().map(|entry| &**entry));
    let summaries = manifest.chunks.iter().map(|chunk| &chunk.summary).chain([&tail]);
    let oldest = summaries.map(|summary| summary.committed_at_us.0).min();
    oldest.filter(|oldest| *oldest < i64::MAX).unwrap_or(noted)
}

/// The newest commit time among records that moved log starts have taken away, us, at most `now_us`.
///
/// # Errors
/// [`crate::Error::ObjectStore`], [`crate::Error::Corrupt`] for a chunk of the manifest, [`crate::Error::Io`].
pub(crate) async fn removed_until_us(
    cold: &Cold,
    manifest: &Arc<TopicManifest>,
    moved: Vec<Moved>,
    now_us: i64,
) -> Result<i64> {
    let starts: BTreeMap<i32, i64> = moved.iter().map(|moved| (moved.partition, moved.to)).collect();
    let mut newest = i64::MIN;
    let mut cursor = cold.cursor(manifest);
    while let Some(met) = cursor.step() {
        match met {
            Met::Chunk(chunk) => match of_chunk(&chunk, &starts) {
                Some(until_us) => newest = newest.max(until_us),
                None => cursor.enter(&chunk).await?,
            },
            Met::Entry(entry) => newest = newest.max(of_entry(&entry, &starts)),
            Met::End(_) => {}
        }
    }
    let tiered: BTreeMap<i32, i64> = starts.keys().map(|at| (*at, manifest.tiered_end(*at))).collect();
    let hot = worker::blocking(move || {
        let found = moved.iter().map(|moved| of_log(moved, tiered.get(&moved.partition).copied().unwrap_or(0)));
        found.collect::<Result<Vec<_>>>()
    });
    Ok(hot.await?.into_iter().fold(newest, i64::max).min(now_us))
}

fn is_gone(cover: &Cover, starts: &BTreeMap<i32, i64>) -> bool {
    starts.get(&cover.partition).is_some_and(|start| cover.start < *start)
}

/// The newest commit time of a chunk of which all is gone, or nothing; `None`: it has to be looked into.
fn of_chunk(chunk: &ChunkRef, starts: &BTreeMap<i32, i64>) -> Option<i64> {
    let covers = &chunk.summary.covers;
    if !covers.iter().any(|cover| is_gone(cover, starts)) {
        return Some(i64::MIN);
    }
    let whole = covers.iter().all(|cover| starts.get(&cover.partition).is_some_and(|start| cover.end <= *start));
    whole.then_some(chunk.summary.committed_at_us.1)
}

/// The newest commit time among row groups of which something is gone; nobody knows that of what is lost.
fn of_entry(entry: &Entry, starts: &BTreeMap<i32, i64>) -> i64 {
    let lost = entry.lost.iter().any(|lost| starts.get(&lost.partition).is_some_and(|start| lost.start < *start));
    let groups = entry.object.iter().flat_map(|object| &object.row_groups);
    let gone = groups.filter(|group| starts.get(&group.partition).is_some_and(|start| group.first_offset < *start));
    let newest = gone.map(|group| group.max_committed_at_us).max().unwrap_or(i64::MIN);
    if lost { i64::MAX } else { newest }
}

/// The newest commit time among what was only in the log. Blocks on its files.
fn of_log(moved: &Moved, tiered_end: i64) -> Result<i64> {
    let Moved { to, hot, .. } = moved;
    if *to <= tiered_end {
        return Ok(i64::MIN);
    }
    if hot.start > tiered_end {
        // The log has forgotten some of it.
        return Ok(i64::MAX);
    }
    let runs = hot.runs()?;
    let gone = runs.iter().filter(|run| run.last_offset >= tiered_end && run.base_offset < *to);
    let frames = gone.map(|run| run.last_commit_us).max().unwrap_or(i64::MIN);
    let ends = hot.committed.iter().filter(|range| range.last_offset >= tiered_end && range.first_offset < *to);
    Ok(ends.map(|range| range.committed_at_us).fold(frames, i64::max))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::{TopicId, WriterEpoch};
    use crate::manifest::model::tests::entry;
    use crate::manifest::model::{ChunkName, Ends};

    #[test]
    fn what_a_log_start_takes_away_is_known_by_its_newest_commit() {
        // Row groups of the test entries were committed from their first offset to their end.
        let held = entry("a", &[(0, 0, 10), (1, 100, 120)]);
        let until = |starts: &[(i32, i64)]| of_entry(&held, &starts.iter().copied().collect());
        assert_eq!(until(&[(0, 4)]), 10);
        assert_eq!(until(&[(0, 10), (1, 101)]), 120);
        assert_eq!(until(&[(1, 100), (2, 7)]), i64::MIN);
        let name = ChunkName { epoch: WriterEpoch(1), id: Uuid::nil() };
        let summary = Summary::of_entries([&held]);
        let chunk = ChunkRef { name, level: 0, stored_bytes: 1, summary };
        let until = |starts: &[(i32, i64)]| of_chunk(&chunk, &starts.iter().copied().collect());
        assert_eq!(until(&[(0, 0)]), Some(i64::MIN));
        assert_eq!(until(&[(0, 10)]), None, "the other partition's rows stay");
        assert_eq!(until(&[(0, 10), (1, 120)]), Some(120));
    }

    #[test]
    fn where_nobody_noted_what_went_the_oldest_record_tells() {
        let mut manifest = TopicManifest::empty(TopicId(Uuid::nil()));
        assert_eq!(noted_us(&manifest), i64::MIN);
        manifest.partitions.insert(0, Ends { start: 20, end: 40 });
        assert_eq!(noted_us(&manifest), i64::MIN, "nothing is left");
        manifest.tail.push(Arc::new(entry("a", &[(0, 20, 40)])));
        assert_eq!(noted_us(&manifest), 20);
        manifest.history_start_us = 15;
        assert_eq!(noted_us(&manifest), 15);
        manifest.history_start_us = i64::MIN;
        manifest.partitions.insert(0, Ends { start: 0, end: 40 });
        assert_eq!(noted_us(&manifest), i64::MIN);
    }
}
