//! Producers (KIP-98): what of each producer's sequences and of its transaction is known per partition, and the verdict
//! on a batch.
//!
//! Pure. For each (partition, producer id) the last [`BATCHES_KEPT`] batches are remembered: a retried one is answered
//! with its original offset, a gap is refused. A producer nobody remembers may start anywhere, since its history may
//! have expired. Its first transactional batch opens the transaction in the partition, a marker closes it.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::{ProducerIdentity, TopicPartition};
use crate::log::transaction::{COORDINATOR_EPOCH, Mark};
use crate::record::batch::BatchHeader;
use crate::view::ProducerInfo;

/// Kafka's number: a client has at most five requests in flight when it is idempotent.
pub(crate) const BATCHES_KEPT: usize = 5;
/// A producer silent for longer is forgotten when a snapshot is made.
pub(crate) const PRODUCER_IDLE_MAX_US: i64 = 24 * 3600 * 1_000_000;
/// More than these (partition, producer) pairs are not carried into a snapshot: those silent longest go first.
pub(crate) const PRODUCERS_MAX: usize = 200_000;

/// One batch that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SequencedBatch {
    pub(crate) first_sequence: i32,
    pub(crate) last_sequence: i32,
    pub(crate) base_offset: i64,
}

/// What is known of one producer in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sequences {
    pub(crate) epoch: i16,
    pub(crate) last_commit_us: i64,
    /// Of its last batch, ms.
    pub(crate) last_timestamp_ms: i64,
    /// Of its last marker.
    pub(crate) coordinator_epoch: Option<i32>,
    /// First offset of its open transaction.
    pub(crate) open: Option<i64>,
    /// Oldest first; none when a newer epoch has ended a transaction and written nothing yet.
    pub(crate) batches: VecDeque<SequencedBatch>,
}

impl Sequences {
    fn new(epoch: i16, commit_us: i64) -> Self {
        Self {
            epoch,
            last_commit_us: commit_us,
            last_timestamp_ms: -1,
            coordinator_epoch: None,
            open: None,
            batches: VecDeque::new(),
        }
    }
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Append,
    /// It is there already, at this offset.
    Duplicate(i64),
}

/// All producers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Producers(HashMap<(TopicPartition, i64), Sequences>);

/// What a [`Producers::note`] replaced, to put it back.
pub(crate) type Replaced = ((TopicPartition, i64), Option<Sequences>);

/// The sequence `count` after `sequence`; after the largest comes 0.
pub(crate) fn advance(sequence: i32, count: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(count);
    let wrapped = sum % (i64::from(i32::MAX) + 1);
    i32::try_from(wrapped).unwrap_or(0)
}

impl Producers {
    /// Judges a batch; one without a producer id is always appended.
    ///
    /// # Errors
    /// [`Error::InvalidProducerEpoch`], [`Error::OutOfOrderSequence`].
    pub(crate) fn judge(&self, partition: TopicPartition, header: &BatchHeader) -> Result<Verdict> {
        let Some(known) = self.0.get(&(partition, header.producer_id)).filter(|_| header.producer_id >= 0) else {
            return Ok(Verdict::Append);
        };
        let (producer_id, sequence) = (header.producer_id, header.base_sequence);
        if header.producer_epoch < known.epoch {
            let (epoch, current) = (header.producer_epoch, known.epoch);
            return Err(Error::InvalidProducerEpoch { producer_id, epoch, current });
        }
        if header.producer_epoch > known.epoch {
            if sequence == 0 {
                return Ok(Verdict::Append);
            }
            return Err(Error::OutOfOrderSequence { producer_id, sequence, expected: 0 });
        }
        let last_sequence = advance(sequence, header.last_offset_delta);
        let same = |batch: &&SequencedBatch| batch.first_sequence == sequence && batch.last_sequence == last_sequence;
        if let Some(original) = known.batches.iter().find(same) {
            return Ok(Verdict::Duplicate(original.base_offset));
        }
        let expected = known.batches.back().map_or(0, |last| advance(last.last_sequence, 1));
        if expected == sequence {
            Ok(Verdict::Append)
        } else {
            Err(Error::OutOfOrderSequence { producer_id, sequence, expected })
        }
    }

    /// Whether a batch lies behind everything known of its producer, of whom nothing has come since then.
    pub(crate) fn goes_on(&self, partition: TopicPartition, header: &BatchHeader, since_us: i64) -> bool {
        let Some(known) = self.0.get(&(partition, header.producer_id)) else { return true };
        let expected = known.batches.back().map_or(0, |last| advance(last.last_sequence, 1));
        // Sequences begin anew at 0 after the largest: the nearer way says what is behind what.
        let ahead = (i64::from(header.base_sequence) - i64::from(expected)).rem_euclid(i64::from(i32::MAX) + 1);
        let behind = header.producer_epoch > known.epoch || ahead <= i64::from(i32::MAX) / 2;
        known.last_commit_us <= since_us && header.producer_epoch >= known.epoch && behind
    }

    /// Takes an appended batch of records in; gives what to put back if it is undone, and the beginning of a transaction
    /// if it is one. `None` without a producer id.
    pub(crate) fn note(
        &mut self,
        partition: TopicPartition,
        header: &BatchHeader,
        base_offset: i64,
        commit_us: i64,
    ) -> Option<(Replaced, Option<Mark>)> {
        if header.producer_id < 0 {
            return None;
        }
        let key = (partition, header.producer_id);
        let before = self.0.get(&key).cloned();
        let known = self.of(key, header.producer_epoch, commit_us);
        known.last_timestamp_ms = header.max_timestamp_ms;
        let mut began = None;
        if header.is_transactional() && known.open.is_none() {
            known.open = Some(base_offset);
            began = Some(Mark::Began { partition, producer_id: header.producer_id, first_offset: base_offset });
        }
        if known.batches.len() == BATCHES_KEPT {
            known.batches.pop_front();
        }
        known.batches.push_back(SequencedBatch {
            first_sequence: header.base_sequence,
            last_sequence: advance(header.base_sequence, header.last_offset_delta),
            base_offset,
        });
        Some(((key, before), began))
    }

    /// Takes a marker in: the transaction is over in this partition, and with a newer epoch its producer is fenced. Gives
    /// what to put back, and the first offset of what has ended if anything was open.
    pub(crate) fn end(
        &mut self,
        partition: TopicPartition,
        marker: ProducerIdentity,
        commit_us: i64,
    ) -> (Replaced, Option<i64>) {
        let key = (partition, marker.id);
        let before = self.0.get(&key).cloned();
        let known = self.of(key, marker.epoch, commit_us);
        known.coordinator_epoch = Some(COORDINATOR_EPOCH);
        let first_offset = known.open.take();
        ((key, before), first_offset)
    }

    /// What is known of a producer, for a step in an epoch: what an older epoch wrote does not count any more, but a
    /// transaction it left open does.
    fn of(&mut self, key: (TopicPartition, i64), epoch: i16, commit_us: i64) -> &mut Sequences {
        let known = self.0.entry(key).or_insert_with(|| Sequences::new(epoch, commit_us));
        if known.epoch != epoch {
            known.epoch = epoch;
            known.batches.clear();
        }
        known.last_commit_us = commit_us;
        known
    }

    /// First offset of a producer's open transaction in a partition.
    pub(crate) fn open_since(&self, partition: TopicPartition, producer_id: i64) -> Option<i64> {
        self.0.get(&(partition, producer_id)).and_then(|known| known.open)
    }

    /// All open transactions: partition, producer, first offset.
    pub(crate) fn open(&self) -> impl Iterator<Item = (TopicPartition, ProducerIdentity, i64)> {
        self.0.iter().filter_map(|((partition, id), known)| {
            known.open.map(|first_offset| (*partition, ProducerIdentity { id: *id, epoch: known.epoch }, first_offset))
        })
    }

    /// What an operator is shown of the producers of some partitions.
    pub(crate) fn infos(&self, wanted: impl Fn(TopicPartition) -> bool) -> Vec<ProducerInfo> {
        let of_wanted = self.0.iter().filter(|((at, _), _)| wanted(*at));
        let mut infos: Vec<_> = of_wanted
            .map(|((partition, id), known)| ProducerInfo {
                partition: *partition,
                producer: ProducerIdentity { id: *id, epoch: known.epoch },
                last_sequence: known.batches.back().map_or(-1, |batch| batch.last_sequence),
                last_timestamp_ms: known.last_timestamp_ms,
                coordinator_epoch: known.coordinator_epoch.unwrap_or(-1),
                open_since: known.open,
            })
            .collect();
        infos.sort_by_key(|info| (info.partition, info.producer.id));
        infos
    }

    /// Puts back what a [`Producers::note`] replaced.
    pub(crate) fn restore(&mut self, (key, before): Replaced) {
        match before {
            Some(sequences) => self.0.insert(key, sequences),
            None => self.0.remove(&key),
        };
    }

    /// Forgets who has been silent too long, or whose partition `lives` no more, and of too many those silent longest.
    /// Who has a transaction open stays.
    pub(crate) fn trim(&mut self, now_us: i64, lives: impl Fn(TopicPartition) -> bool) {
        self.0.retain(|(partition, _), known| {
            let silent = now_us.saturating_sub(known.last_commit_us) > PRODUCER_IDLE_MAX_US;
            (known.open.is_some() || !silent) && lives(*partition)
        });
        if self.0.len() > PRODUCERS_MAX {
            let mut times: Vec<_> = self.0.values().map(|known| known.last_commit_us).collect();
            let surplus = times.len() - PRODUCERS_MAX;
            let (_, newest_gone, _) = times.select_nth_unstable(surplus - 1);
            let newest_gone = *newest_gone;
            self.0.retain(|_, known| known.open.is_some() || known.last_commit_us > newest_gone);
        }
    }

    /// How many (partition, producer) pairs are known.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All that is known, for a snapshot.
    pub(crate) fn parts(&self) -> Vec<(TopicPartition, i64, Sequences)> {
        self.0.iter().map(|((partition, id), known)| (*partition, *id, known.clone())).collect()
    }

    /// From a snapshot.
    pub(crate) fn from_parts(parts: Vec<(TopicPartition, i64, Sequences)>) -> Self {
        Self(parts.into_iter().map(|(partition, id, known)| ((partition, id), known)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TopicId;

    fn partition() -> TopicPartition {
        TopicPartition { topic: TopicId::from_bytes([7; 16]), partition: 0 }
    }

    fn header(producer_epoch: i16, base_sequence: i32, records: i32) -> BatchHeader {
        BatchHeader {
            base_offset: 0,
            batch_length: 0,
            partition_leader_epoch: 0,
            crc: 0,
            attributes: 0,
            last_offset_delta: records - 1,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
            producer_id: 5,
            producer_epoch,
            base_sequence,
            record_count: records,
        }
    }

    #[test]
    fn a_retried_batch_is_a_duplicate_as_long_as_it_is_among_the_last_five() {
        let mut producers = Producers::default();
        for batch in 0..6 {
            let header = header(0, batch * 10, 10);
            assert_eq!(producers.judge(partition(), &header).unwrap(), Verdict::Append);
            producers.note(partition(), &header, i64::from(batch) * 10, 1);
        }
        assert_eq!(producers.judge(partition(), &header(0, 10, 10)).unwrap(), Verdict::Duplicate(10));
        let forgotten = producers.judge(partition(), &header(0, 0, 10)).unwrap_err();
        assert!(matches!(forgotten, Error::OutOfOrderSequence { expected: 60, .. }), "{forgotten}");
    }

    #[test]
    fn a_gap_and_an_old_epoch_are_refused_and_a_new_epoch_starts_at_zero() {
        let mut producers = Producers::default();
        producers.note(partition(), &header(1, 40, 10), 0, 1);
        assert!(matches!(
            producers.judge(partition(), &header(1, 51, 1)),
            Err(Error::OutOfOrderSequence { sequence: 51, expected: 50, .. })
        ));
        assert!(matches!(
            producers.judge(partition(), &header(0, 50, 1)),
            Err(Error::InvalidProducerEpoch { epoch: 0, current: 1, .. })
        ));
        assert!(producers.judge(partition(), &header(2, 50, 1)).is_err());
        assert_eq!(producers.judge(partition(), &header(2, 0, 1)).unwrap(), Verdict::Append);
    }

    #[test]
    fn who_comes_first_after_a_takeover_may_go_on_behind_what_is_gone() {
        let mut producers = Producers::default();
        producers.note(partition(), &header(1, 0, 10), 0, 5);
        let goes_on = |producers: &Producers, header| producers.goes_on(partition(), &header, 5);
        assert!(goes_on(&producers, header(1, 40, 1)) && goes_on(&producers, header(2, 40, 1)));
        assert!(!goes_on(&producers, header(1, 3, 2)), "what it had sent before is not behind");
        assert!(!goes_on(&producers, header(0, 40, 1)), "an older epoch is fenced");
        producers.note(partition(), &header(1, 40, 1), 10, 6);
        assert!(!goes_on(&producers, header(1, 50, 1)), "only the first one");
        let mut wrapping = Producers::default();
        wrapping.note(partition(), &header(1, i32::MAX - 5, 3), 0, 5);
        assert!(goes_on(&wrapping, header(1, 4, 1)));
    }

    #[test]
    fn sequences_wrap_to_zero_after_the_largest() {
        let mut producers = Producers::default();
        producers.note(partition(), &header(0, i32::MAX - 1, 3), 0, 1);
        assert_eq!(producers.judge(partition(), &header(0, 1, 4)).unwrap(), Verdict::Append);
        assert_eq!(producers.judge(partition(), &header(0, i32::MAX - 1, 3)).unwrap(), Verdict::Duplicate(0));
    }

    #[test]
    fn an_undone_batch_leaves_no_trace() {
        let mut producers = Producers::default();
        producers.note(partition(), &header(0, 0, 10), 0, 1);
        let (undo, _) = producers.note(partition(), &header(0, 10, 10), 10, 2).unwrap();
        producers.restore(undo);
        assert_eq!(producers.judge(partition(), &header(0, 10, 10)).unwrap(), Verdict::Append);
    }

    #[test]
    fn the_first_transactional_batch_opens_and_the_marker_closes() {
        let mut producers = Producers::default();
        let transactional = |sequence| BatchHeader { attributes: 1 << 4, ..header(0, sequence, 10) };
        let (_, began) = producers.note(partition(), &transactional(0), 100, 1).unwrap();
        assert_eq!(began, Some(Mark::Began { partition: partition(), producer_id: 5, first_offset: 100 }));
        let (_, again) = producers.note(partition(), &transactional(10), 110, 2).unwrap();
        assert_eq!((again, producers.open_since(partition(), 5)), (None, Some(100)));
        assert_eq!(producers.open().count(), 1);
        let (undo, first) = producers.end(partition(), ProducerIdentity { id: 5, epoch: 0 }, 3);
        assert_eq!((first, producers.open().count()), (Some(100), 0));
        // Sequences go on over a marker of the same epoch.
        assert_eq!(producers.judge(partition(), &transactional(20)).unwrap(), Verdict::Append);
        producers.restore(undo);
        assert_eq!(producers.open_since(partition(), 5), Some(100));
        producers.trim(i64::MAX, |_| true);
        assert_eq!(producers.open().count(), 1, "what is open is not forgotten");
    }

    #[test]
    fn a_marker_of_a_newer_epoch_fences_and_starts_sequences_at_zero() {
        let mut producers = Producers::default();
        producers.note(partition(), &header(0, 0, 10), 0, 1);
        producers.end(partition(), ProducerIdentity { id: 5, epoch: 1 }, 2);
        let old = producers.judge(partition(), &header(0, 10, 10));
        assert!(matches!(old, Err(Error::InvalidProducerEpoch { epoch: 0, current: 1, .. })));
        let gap = producers.judge(partition(), &header(1, 10, 10));
        assert!(matches!(gap, Err(Error::OutOfOrderSequence { expected: 0, .. })));
        assert_eq!(producers.judge(partition(), &header(1, 0, 10)).unwrap(), Verdict::Append);
        let info = producers.infos(|_| true)[0];
        assert_eq!((info.producer.epoch, info.last_sequence, info.coordinator_epoch), (1, -1, 0));
    }
}
