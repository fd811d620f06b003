//! Forgetting: which segments may go, and their removal.
//!
//! Segments go from the front only, so that the log stays one contiguous range of positions and a gap in a partition's
//! offsets always means damage. A sealed segment may go when nothing in it is needed any more: each of its runs belongs
//! to a topic that is gone, or is tiered and its topic's local retention has passed, or is one of our own topics' and a
//! durable snapshot covers it. While the log is fuller than half of `wal.bytes_max`, local retention does not count,
//! unless it is for ever: what objects hold must not be why writes are refused.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::ids::{OwnTopic, TopicId};
use crate::log::published::Published;
use crate::log::segment::Segment;
use crate::log::shared::Shared;
use crate::settings::StorageSettings;
use crate::worker;

/// What the rule needs to know besides.
#[derive(Clone, Copy, Debug)]
struct Rule<'a> {
    now_us: i64,
    settings: &'a StorageSettings,
    snapshot_position: u64,
    /// End of the log as of now.
    end: u64,
    /// More than this is a reason to let go early.
    bytes_max: u64,
}

/// Removes the segments that may go.
///
/// # Errors
/// [`Error::Io`]; what was removed before stays removed.
pub(crate) fn forget(shared: &Shared) -> Result<()> {
    let rule = Rule {
        now_us: shared.clock.now_us(),
        settings: &shared.settings,
        snapshot_position: shared.snapshot_position.load(Ordering::Acquire),
        end: shared.durable_end.load(Ordering::Acquire),
        bytes_max: shared.settings.wal_bytes_max / 2,
    };
    loop {
        let mut published = shared.published.write();
        let Some(next) = front(&published).filter(|segment| may_go(&published, segment, rule)) else { return Ok(()) };
        let end = next.extent().end;
        published.segments.remove(&next.base);
        let path = next.path.display().to_string();
        published.damaged.retain(|place| !place.starts_with(&path));
        for (partition, view) in &mut published.partitions {
            view.forget_below(end);
            if is_own(partition.topic) {
                view.log_start = view.hot_start();
            }
        }
        drop(published);
        shared.first_position.store(end, Ordering::Release);
        tracing::info!(path = %next.path.display(), "segment forgotten");
        worker::crash_point("before a segment is removed");
        // One by one, so that a power cut never leaves a hole between segments.
        let removed = shared.disk.remove(&next.path).and_then(|()| shared.disk.sync_dir(&shared.dir));
        removed.map_err(Error::io(format!("remove {}", next.path.display())))?;
        worker::crash_point("after a segment is removed");
    }
}

/// The first segment, if it is sealed and another one follows.
fn front(published: &Published) -> Option<Arc<Segment>> {
    let mut segments = published.segments.values();
    let first = segments.next()?;
    (first.extent().sealed && segments.next().is_some()).then(|| Arc::clone(first))
}

fn may_go(published: &Published, segment: &Segment, rule: Rule<'_>) -> bool {
    let extent = segment.extent();
    if extent.end > rule.snapshot_position {
        return false;
    }
    let crowded = rule.end.saturating_sub(segment.base) > rule.bytes_max;
    let last_commit_us = extent.commit_times_us.map_or(0, |(_, last)| last);
    published.partitions.iter().filter(|(partition, _)| !is_own(partition.topic)).all(|(partition, view)| {
        let Some(last_offset) = view.runs.last_below(extent.end) else { return true };
        let config = published.own.topics.get(&partition.topic).map(|topic| topic.config.resolve(rule.settings));
        let retention_ms = config.map_or(0, |config| config.local_retention_ms);
        // Negative: for ever, as everywhere in Kafka's settings.
        let kept_us = if retention_ms < 0 { i64::MAX } else { retention_ms.saturating_mul(1000) };
        // What a transaction has held up was not for everybody to read before its end.
        let since_us = last_commit_us.max(view.stable_since_us(last_offset).unwrap_or(i64::MIN));
        let passed = rule.now_us.saturating_sub(since_us) > kept_us;
        last_offset < view.tiered_end && (passed || (crowded && retention_ms >= 0))
    })
}

fn is_own(topic: TopicId) -> bool {
    OwnTopic::ALL.into_iter().any(|own| TopicId::own(own) == topic)
}
