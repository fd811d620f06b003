//! `Cleaned`: how far compaction has come in each partition of a topic, and when; pure.
//!
//! Stored beside the positions of continuous queries, in the log, as postcard behind a version byte. It is written after the
//! manifest that a compaction published, so it may be too small by one round, which only costs that round again. Were
//! it ever lost, everything would count as not yet compacted, and tombstones would stay for once longer than they must.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::TopicId;

const VERSION: u8 = 1;

/// Rounds remembered of a partition: tombstones of two that become one wait for the later.
const ROUNDS_MAX: usize = 8;

/// One compaction of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Round {
    /// Below it no key has two records.
    end: i64,
    /// When it was, us.
    at_us: i64,
    /// Whether it left tombstones behind.
    tombstones: bool,
}

/// What has been left behind long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Horizon {
    /// By rounds up to then, us.
    pub(crate) until_us: i64,
    /// Below this offset: from there on the log may still hold older records of the same key, and whoever reads one of
    /// them there must find the tombstone behind it.
    pub(crate) hot_start: i64,
}

impl Horizon {
    fn passed(self, round: &Round) -> bool {
        round.at_us <= self.until_us && round.end <= self.hot_start
    }
}

/// See the top of this file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cleaned {
    /// By partition; ends and times ascend.
    rounds: BTreeMap<i32, Vec<Round>>,
}

/// Begins the name of what is stored of a topic.
pub(crate) const STORED_PREFIX: &str = "compaction/";

/// The name under which a topic's is stored.
pub(crate) fn stored_name(topic: TopicId) -> String {
    format!("{STORED_PREFIX}{topic}")
}

impl Cleaned {
    /// First offset not yet compacted.
    pub(crate) fn end(&self, partition: i32) -> i64 {
        self.of(partition).last().map_or(0, |round| round.end)
    }

    /// Whether a tombstone at an offset has been left behind long enough.
    pub(crate) fn has_expired(&self, partition: i32, offset: i64, horizon: Horizon) -> bool {
        let rounds = self.of(partition);
        let first = rounds.get(rounds.partition_point(|round| round.end <= offset));
        first.is_some_and(|round| horizon.passed(round))
    }

    /// Offsets among which there are tombstones that have been left behind long enough: start and end.
    pub(crate) fn expired(&self, partition: i32, horizon: Horizon) -> Vec<(i64, i64)> {
        let rounds = self.of(partition);
        let starts = std::iter::once(0).chain(rounds.iter().map(|round| round.end));
        let expired = starts.zip(rounds).filter(|(_, round)| round.tombstones && horizon.passed(round));
        expired.map(|(start, round)| (start, round.end)).collect()
    }

    /// A round is over: below `end` no key has two records, and no tombstone is left that had expired.
    pub(crate) fn note(&mut self, partition: i32, end: i64, at_us: i64, tombstones: bool, horizon: Horizon) {
        let rounds = self.rounds.entry(partition).or_default();
        for round in rounds.iter_mut().filter(|round| horizon.passed(round)) {
            round.tombstones = false;
        }
        let (last_end, last_us) = rounds.last().map_or((0, i64::MIN), |last| (last.end, last.at_us));
        if end > last_end {
            rounds.push(Round { end, at_us: at_us.max(last_us), tombstones });
        }
        while rounds.len() > ROUNDS_MAX {
            join_nearest(rounds);
        }
    }

    /// As stored.
    ///
    /// # Errors
    /// [`Error::Format`]; then it is a bug.
    pub(crate) fn to_bytes(&self) -> Result<Bytes> {
        let body = postcard::to_extend(self, vec![VERSION]).map_err(Error::format("write what was compacted"))?;
        Ok(Bytes::from(body))
    }

    /// What was stored; nothing of another version, for it can be found out again.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        match bytes.split_first() {
            Some((&VERSION, body)) => postcard::from_bytes(body).unwrap_or_default(),
            _ => Self::default(),
        }
    }

    fn of(&self, partition: i32) -> &[Round] {
        self.rounds.get(&partition).map_or(&[], Vec::as_slice)
    }
}

/// Makes one round of the two neighbours that lie nearest in time: that of the later.
fn join_nearest(rounds: &mut Vec<Round>) {
    let apart = |at: &usize| rounds[at + 1].at_us.saturating_sub(rounds[*at].at_us);
    let Some(nearest) = (0..rounds.len().saturating_sub(1)).min_by_key(apart) else { return };
    let earlier = rounds.remove(nearest);
    rounds[nearest].tombstones |= earlier.tombstones;
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Horizon = Horizon { until_us: i64::MIN, hot_start: i64::MAX };

    fn until(until_us: i64) -> Horizon {
        Horizon { until_us, hot_start: 1_000_000 }
    }

    #[test]
    fn an_offset_was_cleaned_by_the_first_round_that_took_it_in() {
        let mut cleaned = Cleaned::default();
        assert_eq!(cleaned.end(0), 0);
        assert!(!cleaned.has_expired(0, 0, until(1000)));
        cleaned.note(0, 10, 100, true, NEVER);
        cleaned.note(0, 10, 150, true, NEVER);
        cleaned.note(0, 20, 200, false, NEVER);
        assert_eq!((cleaned.end(0), cleaned.end(1)), (20, 0));
        let at = |offset, us| cleaned.has_expired(0, offset, until(us));
        assert!(at(0, 100) && at(9, 100) && !at(9, 99) && !at(10, 199) && at(19, 200) && !at(20, 1000));
        assert_eq!(cleaned.expired(0, until(99)), []);
        assert_eq!(cleaned.expired(0, until(300)), [(0, 10)]);
        assert_eq!(cleaned.expired(0, Horizon { hot_start: 9, ..until(300) }), [], "the log still has it");
        cleaned.note(0, 20, 300, false, until(100));
        assert_eq!(cleaned.expired(0, until(300)), []);
        assert_eq!(Cleaned::from_bytes(&cleaned.to_bytes().unwrap()), cleaned);
        assert_eq!(Cleaned::from_bytes(b"\x02xyz"), Cleaned::default());
    }

    #[test]
    fn of_many_rounds_those_near_in_time_become_one_and_no_tombstone_expires_early() {
        let mut cleaned = Cleaned::default();
        for round in 1..=100 {
            cleaned.note(0, round * 10, round * 1000, round == 3, NEVER);
        }
        assert_eq!(cleaned.of(0).len(), ROUNDS_MAX);
        assert_eq!(cleaned.end(0), 1000);
        for offset in 0..1000 {
            assert!(!cleaned.has_expired(0, offset, until((offset / 10 + 1) * 1000 - 1)));
        }
        assert!(cleaned.expired(0, until(i64::MAX)).iter().any(|(start, end)| (*start..*end).contains(&25)));
    }

    #[test]
    fn a_clock_that_goes_back_does_not_disorder_rounds() {
        let mut cleaned = Cleaned::default();
        cleaned.note(0, 10, 500, true, NEVER);
        cleaned.note(0, 20, 100, true, NEVER);
        assert!(!cleaned.has_expired(0, 15, until(499)) && cleaned.has_expired(0, 15, until(500)));
    }
}
