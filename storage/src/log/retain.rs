//! Forgetting: which segments may go, and their removal.
//!
//! Segments go from the front only, so that the log stays one contiguous range of positions. A sealed segment may go when
//! nothing in it is needed any more: each of its stretches belongs to a topic that is gone, or is tiered and its topic's
//! local retention (time, and bytes counted from the last stable offset) has passed, or lies below its partition's log start, or is one of our own topics' and a durable
//! snapshot covers it. While the log is fuller than half of `wal.bytes_max`, or the disk is full, local retention does not
//! count, unless it is for ever: what objects hold must not be why writes are refused.
//!
//! What is still needed at the front would hold up all that lies behind it: a slow partition, an open transaction. So
//! once more than half of the log is not needed, the front is emptied by carrying the rest over (`carry`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::ids::{OwnTopic, TopicId, TopicPartition};
use crate::log::carry::{self, Needed};
use crate::log::index::Stretch;
use crate::log::line::Line;
use crate::log::published::{PartitionView, Published};
use crate::log::segment::Segment;
use crate::log::shared::{Front, Shared};
use crate::settings::StorageSettings;
use crate::view::Topic;
use crate::worker;

/// The log may have this many segments beside twice what is needed of it.
const SLACK_SEGMENTS: u64 = 4;
/// Segments emptied in one go; the rest waits for the next look, so that tiering goes on between.
const CARRIED_SEGMENTS_MAX: u32 = 4;

/// What the rule needs to know besides.
#[derive(Clone, Copy, Debug)]
struct Rule<'a> {
    now_us: i64,
    settings: &'a StorageSettings,
    snapshot_position: u64,
    /// See [`Shared::lost_at`].
    lost_at: u64,
    /// End of the log as of now.
    end: u64,
    /// More than this is a reason to let go early.
    crowded_bytes: u64,
    /// So is a disk that has no room for clients' records.
    disk_full: bool,
}

impl<'a> Rule<'a> {
    fn of(shared: &'a Shared) -> Self {
        Self {
            now_us: shared.clock.now_us(),
            settings: &shared.settings,
            snapshot_position: shared.snapshot_position.load(Ordering::Acquire),
            lost_at: shared.lost_at.load(Ordering::Acquire),
            end: shared.durable_end.load(Ordering::Acquire),
            crowded_bytes: shared.settings.wal_bytes_max / 2,
            disk_full: shared.disk_full.load(Ordering::Acquire),
        }
    }

    /// From which offset on a stretch is needed; `None` if nothing of it is. `behind` are the stable bytes its partition
    /// has in the log behind it.
    fn needed_from(&self, config: &Retained, view: &PartitionView, stretch: &Stretch, behind: u64) -> Option<i64> {
        if stretch.last_offset < view.log_start {
            return None;
        }
        let start = stretch.base_offset.max(view.log_start);
        // What a transaction has held up was not for everybody to read before its end.
        let since_us = stretch.last_commit_us.max(view.stable_since_us(stretch.last_offset).unwrap_or(i64::MIN));
        let young = self.now_us.saturating_sub(since_us) <= config.kept_us;
        let full = self.disk_full || self.end.saturating_sub(stretch.segment) > self.crowded_bytes;
        let crowded = full && !config.for_ever;
        if young && behind < config.kept_bytes && !crowded {
            return Some(start);
        }
        (stretch.last_offset >= view.tiered_end).then(|| start.max(view.tiered_end))
    }

    /// What of a partition is needed, from its end on: stretch, and from which offset on.
    fn needed<'v>(&self, topic: &Topic, view: &'v PartitionView) -> impl Iterator<Item = (&'v Stretch, i64)> {
        let config = Retained::of(topic, self.settings);
        let stable_end = view.watermarks().last_stable_offset;
        let mut behind = 0;
        // Snapshots have what our own topics' records say.
        let stretches = if topic.internal { [].iter() } else { view.runs.iter() };
        stretches.rev().filter_map(move |stretch| {
            let from = self.needed_from(&config, view, stretch, behind);
            behind += stretch.bytes_within(i64::MIN, stable_end - 1);
            from.map(|from| (stretch, from))
        })
    }
}

/// How long what is tiered stays in the log too.
#[derive(Clone, Copy, Debug)]
struct Retained {
    kept_us: i64,
    kept_bytes: u64,
    /// Whatever happens.
    for_ever: bool,
}

impl Retained {
    fn of(topic: &Topic, settings: &StorageSettings) -> Self {
        let config = topic.config.resolve(settings);
        // Negative: for ever, as everywhere in Kafka's settings.
        let (ms, bytes) = (config.local_retention_ms, config.local_retention_bytes);
        Self {
            kept_us: if ms < 0 { i64::MAX } else { ms.saturating_mul(1000) },
            kept_bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
            for_ever: ms < 0 && bytes < 0,
        }
    }
}

/// Removes the segments that may go, and empties the front if it is what holds up too much.
///
/// # Errors
/// [`Error::Io`] and those of a commit; what was removed before stays removed.
pub(crate) async fn forget(shared: &Arc<Shared>, line: &Arc<Line>) -> Result<()> {
    let _alone = shared.forgetting.lock().await;
    let mut emptied = None;
    for _ in 0..=CARRIED_SEGMENTS_MAX {
        let of_removal = Arc::clone(shared);
        worker::blocking(move || remove_front(&of_removal)).await?;
        let Some((front, needed)) = to_carry(shared).filter(|(front, _)| emptied != Some(*front)) else {
            return Ok(());
        };
        tracing::info!(segment = front, stretches = needed.len(), "what is still needed of a segment is carried over");
        match carry::carry(shared, line, needed).await {
            // No room for the copies: what has been freed is free, and the next look tries again.
            Err(Error::Full { reason }) => {
                tracing::warn!(reason, "what holds up the front of the log cannot be carried over");
                return Ok(());
            }
            carried => carried?,
        }
        emptied = Some(front);
    }
    Ok(())
}

/// Takes the room that is kept for what frees room, if the disk has it, before anybody else does.
///
/// # Errors
/// [`Error::Closed`] when the runtime goes down.
pub(crate) async fn keep_reserve(shared: &Arc<Shared>) -> Result<()> {
    let shared = Arc::clone(shared);
    worker::blocking(move || {
        shared.keep_reserve();
        Ok(())
    })
    .await
}

/// Removes segments from the front as long as nothing in them is needed.
fn remove_front(shared: &Shared) -> Result<()> {
    let rule = Rule::of(shared);
    loop {
        let Some((next, held)) = contents(shared, rule) else { return Ok(()) };
        if is_needed(&shared.published.read(), &next, &held, rule) {
            return Ok(());
        }
        worker::crash_point("before a segment is removed");
        // From the disk first, one by one, so that a power cut never leaves a hole between segments; who reads it reads on.
        // What snapshots say of its records, what was aborted above all, must not be forgotten while it may come back.
        let removed = match shared.disk.remove(&next.path) {
            // An earlier try got this far.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        let removed = removed.and_then(|()| shared.disk.sync_dir(&shared.dir));
        removed.map_err(Error::io(format!("remove {}", next.path.display())))?;
        worker::crash_point("after a segment is removed");
        let end = next.extent().end;
        let mut published = shared.published.write();
        published.segments.remove(&next.base);
        let path = next.path.display().to_string();
        published.damaged.retain(|place| !place.starts_with(&path));
        for partition in held.iter() {
            if let Some(view) = published.partitions.get_mut(partition) {
                view.forget_segment(next.base);
                if is_own(partition.topic) {
                    view.log_start = view.hot_start();
                }
            }
        }
        drop(published);
        shared.first_position.store(end, Ordering::Release);
        tracing::info!(path = %next.path.display(), "segment forgotten");
    }
}

/// The first segment, if it is sealed and shown whole, another one follows, and snapshots cover it and tell what of it is
/// lost: nothing is added to it any more.
fn front(published: &Published, rule: Rule<'_>) -> Option<Arc<Segment>> {
    let mut segments = published.segments.values();
    let first = segments.next()?;
    let extent = first.extent();
    let complete = extent.sealed && extent.end <= published.end && extent.end <= rule.snapshot_position;
    // Without the segment recovery could not tell what was damaged in it from what was let go, and would let go of what
    // was carried over from before that. But a full log makes no snapshots: then room comes first.
    let crowded = rule.end.saturating_sub(first.base) > rule.crowded_bytes;
    let told = rule.snapshot_position > rule.lost_at || crowded;
    (complete && told && segments.next().is_some()).then(|| Arc::clone(first))
}

/// The segment at the front and the partitions it has something of: looked for once per segment, among all of them.
fn contents(shared: &Shared, rule: Rule<'_>) -> Option<(Arc<Segment>, Arc<Vec<TopicPartition>>)> {
    let mut known = shared.front.lock();
    let published = shared.published.read();
    let front = front(&published, rule)?;
    if known.segment != Some(front.base) {
        let in_front = |view: &PartitionView| view.runs.iter().any(|stretch| stretch.segment == front.base);
        let held = published.partitions.iter().filter(|(_, view)| in_front(view)).map(|(partition, _)| *partition);
        *known = Front { segment: Some(front.base), partitions: Arc::new(held.collect()) };
    }
    Some((front, Arc::clone(&known.partitions)))
}

fn is_needed(published: &Published, segment: &Segment, held: &[TopicPartition], rule: Rule<'_>) -> bool {
    held.iter().any(|partition| {
        let Some((view, topic)) = view_of(published, *partition) else { return false };
        rule.needed(topic, view).any(|(stretch, _)| stretch.segment == segment.base)
    })
}

fn view_of(published: &Published, partition: TopicPartition) -> Option<(&PartitionView, &Topic)> {
    let topic = published.own.topics.get(&partition.topic)?;
    Some((published.partitions.get(&partition)?, topic))
}

/// What is to be carried over, if it is time: the first segment, and what of it is needed.
fn to_carry(shared: &Shared) -> Option<(u64, Vec<Needed>)> {
    let rule = Rule::of(shared);
    let published = shared.published.read();
    let front = front(&published, rule)?;
    let (mut needed_bytes, mut front_bytes) = (0, 0);
    let mut needed = Vec::new();
    for partition in published.partitions.keys() {
        let Some((view, topic)) = view_of(&published, *partition) else { continue };
        for (stretch, from) in rule.needed(topic, view) {
            needed_bytes += stretch.log_bytes();
            if stretch.segment == front.base {
                front_bytes += stretch.log_bytes();
                let stretch = published.hot_stretch(*partition, stretch, from, u64::MAX)?;
                needed.push(Needed { stretch, from });
            }
        }
    }
    let bytes = rule.end.saturating_sub(front.base);
    let segment_bytes = rule.settings.wal_segment_bytes;
    let sparse = bytes > 2 * needed_bytes + SLACK_SEGMENTS * segment_bytes;
    // Nearly full: whatever makes room is worth it.
    let scarce = bytes > rule.crowded_bytes / 2 * 3 && bytes > needed_bytes + 2 * segment_bytes;
    // On a full disk a segment is worth half of it, if the reserve has room for the copies.
    let frees = 2 * front_bytes < front.extent().end.saturating_sub(front.base);
    let full = rule.disk_full && frees && front_bytes <= rule.settings.wal_reserve_bytes / carry::RESERVE_SHARE;
    // In offset order, so that a stretch of the copies is one.
    needed.sort_by_key(|needed| (needed.stretch.partition, needed.from));
    (!needed.is_empty() && (sparse || scarce || full)).then_some((front.base, needed))
}

fn is_own(topic: TopicId) -> bool {
    OwnTopic::ALL.into_iter().any(|own| TopicId::own(own) == topic)
}
