//! When a partition is tiered: by how much waits and how long, not by how the log cuts its files; pure.

use std::collections::{BTreeMap, HashSet};

use crate::ids::{TopicId, TopicPartition};
use crate::log::Backlog;
use crate::settings::StorageSettings;

/// The numbers of the policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SealPolicy {
    /// `tier.bytes_min`.
    pub(crate) bytes_min: u64,
    /// `tier.age_max`, us.
    pub(crate) age_max_us: i64,
    /// Committed transactions remembered by all partitions together, from which on those with most of them are due.
    pub(crate) committed_ranges_max: u64,
    /// Bytes of the log in no object, of all partitions together, from which on those with most of them are due.
    pub(crate) untiered_bytes_max: u64,
}

/// The part of `wal.bytes_max` that may wait for its objects: half of it is left when tiering begins to make room.
const UNTIERED_SHARE: u64 = 2;

/// The part of `memory.limit` that committed transactions take before tiering makes room: one in so many.
const COMMITTED_SHARE: u64 = 64;
/// What one takes, about: it is known to the writer and to readers.
const COMMITTED_BYTES: u64 = 64;

/// A partition to be tiered and how far.
pub(crate) type Target = (TopicPartition, i64);

impl SealPolicy {
    /// The policy the settings describe.
    pub(crate) fn of(settings: &StorageSettings) -> Self {
        Self {
            bytes_min: settings.tier_bytes_min,
            age_max_us: settings.tier_age_max_ms.saturating_mul(1000),
            committed_ranges_max: settings.memory_limit / COMMITTED_SHARE / COMMITTED_BYTES,
            untiered_bytes_max: settings.wal_bytes_max / UNTIERED_SHARE,
        }
    }

    /// Targets of the topics of which a partition is due, by topic. Partitions of such a topic that are at least half
    /// due come along: one object instead of two soon after each other.
    pub(crate) fn due(&self, backlog: &[Backlog], now_us: i64) -> BTreeMap<TopicId, Vec<Target>> {
        let ranges = share_from(backlog, self.committed_ranges_max, |backlog| backlog.committed_ranges);
        let bytes = share_from(backlog, self.untiered_bytes_max, |backlog| backlog.untiered_bytes);
        let is_crowded = |backlog: &Backlog| {
            waits(backlog) && (backlog.committed_ranges >= ranges || backlog.untiered_bytes >= bytes)
        };
        let whole = backlog.iter().filter(|backlog| self.reaches(backlog, now_us, 1) || is_crowded(backlog));
        let topics: HashSet<TopicId> = whole.map(|backlog| backlog.partition.topic).collect();
        let half = |backlog: &&Backlog| {
            topics.contains(&backlog.partition.topic) && (self.reaches(backlog, now_us, 2) || is_crowded(backlog))
        };
        let half: Vec<Backlog> = backlog.iter().filter(half).copied().collect();
        everything(&half)
    }

    /// Whether a partition has reached one `part`th of what makes it due.
    fn reaches(&self, backlog: &Backlog, now_us: i64, part: i64) -> bool {
        let old =
            backlog.oldest_commit_time_us.is_some_and(|oldest| now_us.saturating_sub(oldest) >= self.age_max_us / part);
        waits(backlog) && (backlog.untiered_bytes >= self.bytes_min / part.unsigned_abs() || old)
    }
}

/// How much of something makes a partition due: its share, once all together have more than `all_max`. Rows of objects have
/// their commit times with them, and what is in objects the log can forget, so tiering makes room. While the store is down
/// it cannot, and `wal.bytes_max` is the limit: of either there is nothing that is not in the log.
fn share_from(backlog: &[Backlog], all_max: u64, of: impl Fn(&Backlog) -> u64) -> u64 {
    let (mut all, mut holders) = (0_u64, 0_u64);
    for amount in backlog.iter().map(of).filter(|amount| *amount > 0) {
        all = all.saturating_add(amount);
        holders += 1;
    }
    if all <= all_max { u64::MAX } else { all / holders.max(1) }
}

/// Everything that is stable, by topic.
pub(crate) fn everything(backlog: &[Backlog]) -> BTreeMap<TopicId, Vec<Target>> {
    let mut targets: BTreeMap<TopicId, Vec<Target>> = BTreeMap::new();
    for waiting in backlog.iter().filter(|backlog| waits(backlog)) {
        let target = (waiting.partition, waiting.last_stable_offset);
        targets.entry(waiting.partition.topic).or_default().push(target);
    }
    for of_topic in targets.values_mut() {
        of_topic.sort_unstable();
    }
    targets
}

fn waits(backlog: &Backlog) -> bool {
    backlog.tiered_end < backlog.last_stable_offset
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const POLICY: SealPolicy =
        SealPolicy { bytes_min: 100, age_max_us: 1000, committed_ranges_max: 10, untiered_bytes_max: 300 };

    fn waiting(topic: u128, partition: i32, bytes: u64, oldest: i64) -> Backlog {
        Backlog {
            partition: TopicPartition { topic: TopicId(Uuid::from_u128(topic)), partition },
            tiered_end: 5,
            last_stable_offset: 15,
            untiered_bytes: bytes,
            oldest_commit_time_us: Some(oldest),
            committed_ranges: 0,
        }
    }

    fn due(backlog: &[Backlog], now_us: i64) -> Vec<(u128, Vec<i32>)> {
        let targets = POLICY.due(backlog, now_us);
        let numbers = |of_topic: &Vec<Target>| of_topic.iter().map(|(at, _)| at.partition).collect();
        targets.iter().map(|(topic, of_topic)| (topic.0.as_u128(), numbers(of_topic))).collect()
    }

    #[test]
    fn bytes_or_age_make_a_partition_due() {
        assert_eq!(due(&[waiting(1, 0, 99, 0)], 499), []);
        assert_eq!(due(&[waiting(1, 0, 100, 0)], 0), [(1, vec![0])]);
        assert_eq!(due(&[waiting(1, 0, 1, 0)], 1000), [(1, vec![0])]);
    }

    #[test]
    fn what_is_half_due_comes_along_with_its_topic_only() {
        let backlog = [waiting(1, 2, 100, 0), waiting(1, 0, 50, 0), waiting(1, 1, 49, 0), waiting(2, 0, 99, 0)];
        assert_eq!(due(&backlog, 0), [(1, vec![0, 2])]);
    }

    #[test]
    fn a_log_that_fills_makes_those_due_that_have_most_of_it() {
        let of = |bytes: [u64; 4]| (0..).zip(bytes).map(|(at, bytes)| waiting(1, at, bytes, 0)).collect::<Vec<_>>();
        assert_eq!(due(&of([99, 99, 99, 3]), 0), []);
        assert_eq!(due(&of([99, 99, 99, 4]), 0), [(1, vec![0, 1, 2])]);
    }

    #[test]
    fn too_many_committed_transactions_make_those_due_that_have_most_of_them() {
        let with = |partition, committed_ranges| Backlog { committed_ranges, ..waiting(1, partition, 1, 0) };
        assert_eq!(due(&[with(0, 7), with(1, 3), with(2, 0)], 0), []);
        assert_eq!(due(&[with(0, 8), with(1, 3), with(2, 0)], 0), [(1, vec![0])]);
    }

    #[test]
    fn a_partition_without_stable_records_never_is() {
        let mut held = waiting(1, 0, 1000, 0);
        held.last_stable_offset = held.tiered_end;
        assert_eq!(due(&[held], i64::MAX), []);
        assert!(everything(&[held]).is_empty());
        let targets = everything(&[waiting(1, 1, 1, 0), waiting(1, 0, 1, 0)]);
        let of_topic = &targets[&TopicId(Uuid::from_u128(1))];
        assert_eq!(of_topic.iter().map(|(at, end)| (at.partition, *end)).collect::<Vec<_>>(), [(0, 15), (1, 15)]);
    }
}
