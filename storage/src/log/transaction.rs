//! Transactions: where each transactional id stands, and what a step of its producer leads to. Pure.
//!
//! One value per transactional id, a record of `__transaction_state` whenever it changes. What Kafka's coordinator does in
//! two phases (prepare, markers, complete) is one commit here, so there are no states in between and nobody ever waits
//! for one: `CONCURRENT_TRANSACTIONS` has no cause.
//!
//! Fencing: an epoch belongs to one producer. Init and an abort that the producer did not ask for give the next epoch;
//! from then on the old one is refused everywhere. When epochs run out a new producer id begins at epoch 0.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::commit::TransactionChange;
use crate::error::{Error, Result};
use crate::ids::{ProducerIdentity, TopicId, TopicPartition, WriterEpoch};
use crate::view::{TransactionInfo, TransactionState};

/// Of every marker: there is one coordinator, which never changes.
pub(crate) const COORDINATOR_EPOCH: i32 = 0;
/// The last epoch that is given to a producer; the one after it only fences (Kafka's rule).
const EPOCH_LAST: i16 = i16::MAX - 1;
/// Bytes of a transactional id, at the most.
const TRANSACTIONAL_ID_BYTES_MAX: usize = 1 << 10;
/// The log's own transactions have ids that begin so; refused of clients.
const OWN_PREFIX: &str = "__aquifer/";

/// Where a transactional id stands. Stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transaction {
    pub(crate) producer: ProducerIdentity,
    /// Who the producer was before a step by which it renewed itself (KIP-360): that step tried again is answered again.
    pub(crate) previous: Option<ProducerIdentity>,
    pub(crate) state: TransactionState,
    /// 0: ends with its process.
    pub(crate) timeout_ms: i32,
    pub(crate) started_at_us: Option<i64>,
    pub(crate) updated_at_us: i64,
    /// Of the open transaction.
    pub(crate) partitions: BTreeSet<TopicPartition>,
    /// Of the open transaction.
    pub(crate) groups: BTreeSet<String>,
    /// Topics made for the open transaction: an abort deletes them.
    pub(crate) made: BTreeSet<TopicId>,
}

/// What was aborted of one producer in one partition: its transactional records from the first offset up to the marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AbortedRange {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
    /// Of the marker.
    pub(crate) last_offset: i64,
}

/// What was committed of one producer in one partition: its transactional records from the first offset up to the marker
/// became visible at the commit of the marker, however early they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CommittedRange {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
    /// Of the marker.
    pub(crate) last_offset: i64,
    /// Commit time of the marker, us.
    pub(crate) committed_at_us: i64,
}

/// What a batch of a transaction means for the last stable offset of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The first batch of a transaction in the partition.
    Began { partition: TopicPartition, producer_id: i64, first_offset: i64 },
    /// The marker, which ends it there.
    Ended { partition: TopicPartition, producer_id: i64, marker_offset: i64, committed: bool },
}

/// Who asks for a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) transactional_id: &'a str,
    pub(crate) producer: ProducerIdentity,
}

/// What InitProducerId asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Init {
    pub(crate) timeout_ms: i32,
    pub(crate) expected: Option<ProducerIdentity>,
    pub(crate) now_us: i64,
    /// Taken if the id is new or its epochs have run out.
    pub(crate) fresh_producer_id: i64,
}

/// The id of a transaction of the log itself.
pub(crate) fn own_id(epoch: WriterEpoch, number: u64) -> String {
    format!("{OWN_PREFIX}{}/{number}", epoch.0)
}

/// Whether a transaction is the log's own.
pub(crate) fn is_own(transactional_id: &str) -> bool {
    transactional_id.starts_with(OWN_PREFIX)
}

/// What clients may call themselves.
///
/// # Errors
/// [`Error::InvalidTransactionState`].
fn check_id(transactional_id: &str) -> Result<()> {
    let reason = if transactional_id.is_empty() {
        "the transactional id is empty".to_owned()
    } else if transactional_id.len() > TRANSACTIONAL_ID_BYTES_MAX {
        format!(
            "the transactional id has {} bytes, at most {TRANSACTIONAL_ID_BYTES_MAX} are taken",
            transactional_id.len()
        )
    } else if is_own(transactional_id) {
        format!("transactional ids that begin with {OWN_PREFIX} are the node's own")
    } else {
        return Ok(());
    };
    Err(Error::InvalidTransactionState { reason })
}

/// Whether a client may ask for a change: an operator may abort any transaction.
///
/// # Errors
/// As [`check_id`].
pub(crate) fn check_change(change: &TransactionChange) -> Result<()> {
    match change {
        TransactionChange::Init { transactional_id, .. }
        | TransactionChange::AddPartitions { transactional_id, .. }
        | TransactionChange::AddOffsets { transactional_id, .. }
        | TransactionChange::CommitOffsets { transactional_id, .. }
        | TransactionChange::End { transactional_id, .. } => check_id(transactional_id),
        TransactionChange::Abort { .. } => Ok(()),
    }
}

/// InitProducerId: who the producer of this id is from now on. `None`: as it is, a step tried again. Whatever is open is
/// over with it.
///
/// # Errors
/// [`Error::ProducerFenced`].
pub(crate) fn init(id: &str, current: Option<&Transaction>, asked: Init) -> Result<Option<Transaction>> {
    let Init { timeout_ms, expected, now_us, fresh_producer_id } = asked;
    let fresh = ProducerIdentity { id: fresh_producer_id, epoch: 0 };
    let Some(current) = current else { return Ok(Some(Transaction::empty(fresh, None, timeout_ms, now_us))) };
    if let Some(expected) = expected.filter(|expected| *expected != current.producer) {
        // Its answer was lost: nobody has used the new identity yet.
        if current.previous == Some(expected) && current.state != TransactionState::Ongoing {
            return Ok(None);
        }
        return Err(fenced(id, expected));
    }
    let next = next_identity(current.producer).unwrap_or(fresh);
    Ok(Some(Transaction::empty(next, expected, timeout_ms, now_us)))
}

fn next_identity(current: ProducerIdentity) -> Option<ProducerIdentity> {
    (current.epoch < EPOCH_LAST).then(|| ProducerIdentity { epoch: current.epoch + 1, ..current })
}

fn fenced(id: &str, producer: ProducerIdentity) -> Error {
    Error::ProducerFenced { transactional_id: id.to_owned(), producer_id: producer.id, epoch: producer.epoch }
}

/// A step that does not fit where the transaction stands.
pub(crate) fn invalid(id: &str, reason: impl std::fmt::Display) -> Error {
    Error::InvalidTransactionState { reason: format!("transactional id '{id}' {reason}") }
}

/// The transaction, if the one who asks is its producer.
///
/// # Errors
/// [`Error::UnknownTransactionalId`], [`Error::ProducerFenced`].
pub(crate) fn check<'a>(current: Option<&'a Transaction>, asking: Asking<'_>) -> Result<&'a Transaction> {
    let Asking { transactional_id: id, producer } = asking;
    let unknown = || Error::UnknownTransactionalId { transactional_id: id.to_owned(), producer_id: producer.id };
    let current = current.filter(|current| current.producer.id == producer.id).ok_or_else(unknown)?;
    // The epoch behind the last one only fences: whoever names it has guessed it.
    let same = current.producer.epoch == producer.epoch && producer.epoch <= EPOCH_LAST;
    if same { Ok(current) } else { Err(fenced(id, producer)) }
}

impl Transaction {
    /// A producer that has just begun.
    pub(crate) fn empty(
        producer: ProducerIdentity,
        previous: Option<ProducerIdentity>,
        timeout_ms: i32,
        now_us: i64,
    ) -> Self {
        Self {
            producer,
            previous,
            state: TransactionState::Empty,
            timeout_ms,
            started_at_us: None,
            updated_at_us: now_us,
            partitions: BTreeSet::new(),
            groups: BTreeSet::new(),
            made: BTreeSet::new(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == TransactionState::Ongoing
    }

    /// The open transaction, begun now if none is.
    pub(crate) fn opened(&self, now_us: i64) -> Self {
        let started_at_us = if self.is_open() { self.started_at_us } else { Some(now_us) };
        // Whoever goes on with an identity has learnt it: the step that gave it is not tried again.
        Self { previous: None, state: TransactionState::Ongoing, started_at_us, updated_at_us: now_us, ..self.clone() }
    }

    /// With these partitions; `None` if it has them all.
    pub(crate) fn with_partitions(&self, partitions: &[TopicPartition], now_us: i64) -> Option<Self> {
        if self.is_open() && partitions.iter().all(|partition| self.partitions.contains(partition)) {
            return None;
        }
        let mut next = self.opened(now_us);
        next.partitions.extend(partitions);
        Some(next)
    }

    /// With this group; `None` if it has it.
    pub(crate) fn with_group(&self, group: &str, now_us: i64) -> Option<Self> {
        if self.is_open() && self.groups.contains(group) {
            return None;
        }
        let mut next = self.opened(now_us);
        next.groups.insert(group.to_owned());
        Some(next)
    }

    /// May offsets of this group be pending?
    ///
    /// # Errors
    /// [`Error::InvalidTransactionState`].
    pub(crate) fn check_group(&self, id: &str, group: &str) -> Result<()> {
        if self.is_open() && self.groups.contains(group) {
            return Ok(());
        }
        Err(invalid(id, format_args!("has not added group '{group}' to an open transaction")))
    }

    /// May a batch of the transaction go to this partition?
    ///
    /// # Errors
    /// [`Error::InvalidTransactionState`].
    pub(crate) fn check_partition(&self, id: &str, partition: TopicPartition) -> Result<()> {
        if self.is_open() && self.partitions.contains(&partition) {
            return Ok(());
        }
        let TopicPartition { topic, partition } = partition;
        Err(invalid(id, format_args!("has not added partition {partition} of topic {topic} to an open transaction")))
    }

    /// EndTxn; `None` if it has ended like that already.
    ///
    /// # Errors
    /// [`Error::InvalidTransactionState`].
    pub(crate) fn ended(&self, id: &str, committed: bool, now_us: i64) -> Result<Option<Self>> {
        match (self.state, committed) {
            (TransactionState::Ongoing, _) => Ok(Some(self.closed(self.producer, committed, now_us))),
            (TransactionState::CompleteCommit, true) | (TransactionState::CompleteAbort, false) => Ok(None),
            (TransactionState::Empty, _) => Err(invalid(id, "has no open transaction")),
            (TransactionState::CompleteCommit, false) => {
                Err(invalid(id, "was committed and cannot be aborted any more"))
            }
            (TransactionState::CompleteAbort, true) => Err(invalid(id, "was aborted and cannot be committed any more")),
        }
    }

    /// Aborted over its producer's head, who is fenced; `None` if nothing is open.
    pub(crate) fn aborted(&self, now_us: i64) -> Option<Self> {
        if !self.is_open() {
            return None;
        }
        let epoch = self.producer.epoch.saturating_add(1);
        Some(self.closed(ProducerIdentity { epoch, ..self.producer }, false, now_us))
    }

    /// As a node finds it that began from the bucket alone. What its producer was told after that moment is gone, so it is
    /// fenced whether or not it knows: else it could believe to have committed what is not there. An open transaction is
    /// overdue from the start, and so aborted before anybody reads.
    pub(crate) fn taken_over(&self) -> Self {
        let epoch = self.producer.epoch.saturating_add(1);
        let started_at_us = self.started_at_us.map(|_| i64::MIN);
        Self { producer: ProducerIdentity { epoch, ..self.producer }, previous: None, started_at_us, ..self.clone() }
    }

    fn closed(&self, producer: ProducerIdentity, committed: bool, now_us: i64) -> Self {
        let state = if committed { TransactionState::CompleteCommit } else { TransactionState::CompleteAbort };
        Self { state, ..Self::empty(producer, None, self.timeout_ms, now_us) }
    }

    /// Whether an open transaction has been so for longer than its timeout.
    pub(crate) fn is_overdue(&self, now_us: i64) -> bool {
        let Some(started_at_us) = self.started_at_us.filter(|_| self.is_open() && self.timeout_ms > 0) else {
            return false;
        };
        now_us.saturating_sub(started_at_us) >= i64::from(self.timeout_ms).saturating_mul(1000)
    }

    /// Whether it has been idle for so long that it may be forgotten.
    pub(crate) fn is_expired(&self, now_us: i64, expiration_ms: i64) -> bool {
        !self.is_open() && now_us.saturating_sub(self.updated_at_us) >= expiration_ms.saturating_mul(1000)
    }

    pub(crate) fn info(&self, transactional_id: &str) -> TransactionInfo {
        TransactionInfo {
            transactional_id: transactional_id.to_owned(),
            producer: self.producer,
            state: self.state,
            timeout_ms: self.timeout_ms,
            started_at_us: self.started_at_us,
            updated_at_us: self.updated_at_us,
            partitions: self.partitions.iter().copied().collect(),
            groups: self.groups.iter().cloned().collect(),
            internal: is_own(transactional_id),
        }
    }
}

/// Aborted ranges, to be asked about one batch after another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aborted {
    /// By producer and, of each, by marker.
    ranges: Vec<AbortedRange>,
}

impl Aborted {
    /// In whatever order they come.
    pub(crate) fn new(mut ranges: Vec<AbortedRange>) -> Self {
        ranges.sort_unstable_by_key(|range| (range.producer_id, range.last_offset));
        Self { ranges }
    }

    /// Whether a transactional batch of a producer lies in what was aborted. Its cost is logarithmic: there may be a
    /// range for every few batches.
    pub(crate) fn holds(&self, producer_id: i64, base_offset: i64) -> bool {
        let before = |range: &AbortedRange| (range.producer_id, range.last_offset) <= (producer_id, base_offset);
        // A producer's transactions follow one another: only its next marker counts.
        let next = self.ranges.get(self.ranges.partition_point(before));
        next.is_some_and(|range| range.producer_id == producer_id && range.first_offset <= base_offset)
    }
}

/// Committed ranges, to be asked about one batch after another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Committed {
    /// By producer and, of each, by marker.
    ranges: Vec<CommittedRange>,
}

impl Committed {
    /// In whatever order they come.
    pub(crate) fn new(mut ranges: Vec<CommittedRange>) -> Self {
        ranges.sort_unstable_by_key(|range| (range.producer_id, range.last_offset));
        Self { ranges }
    }

    /// When the transaction was committed that a producer's transactional batch belongs to, us; `None` if that is not
    /// known. Its cost is logarithmic.
    pub(crate) fn time_of(&self, producer_id: i64, base_offset: i64) -> Option<i64> {
        let before = |range: &CommittedRange| (range.producer_id, range.last_offset) <= (producer_id, base_offset);
        let next = self.ranges.get(self.ranges.partition_point(before))?;
        (next.producer_id == producer_id && next.first_offset <= base_offset).then_some(next.committed_at_us)
    }

    /// Whether something between two offsets, both inclusive, may have been committed at or after a time, us.
    pub(crate) fn reaches(&self, first_offset: i64, last_offset: i64, from_us: i64) -> bool {
        let touches = |range: &CommittedRange| range.first_offset <= last_offset && range.last_offset >= first_offset;
        self.ranges.iter().any(|range| range.committed_at_us >= from_us && touches(range))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: ProducerIdentity = ProducerIdentity { id: 7, epoch: 3 };

    fn asking(producer: ProducerIdentity) -> Asking<'static> {
        Asking { transactional_id: "t", producer }
    }

    fn of(producer: ProducerIdentity) -> Transaction {
        Transaction::empty(producer, None, 60_000, 0)
    }

    fn at(partition: i32) -> TopicPartition {
        TopicPartition { topic: TopicId::from_bytes([1; 16]), partition }
    }

    fn asked(expected: Option<ProducerIdentity>) -> Init {
        Init { timeout_ms: 5, expected, now_us: 100, fresh_producer_id: 99 }
    }

    #[test]
    fn init_gives_a_new_id_first_and_then_the_next_epoch() {
        let first = init("t", None, asked(None)).unwrap().unwrap();
        assert_eq!(first.producer, ProducerIdentity { id: 99, epoch: 0 });
        let second = init("t", Some(&of(A)), asked(None)).unwrap().unwrap();
        assert_eq!(second.producer, ProducerIdentity { epoch: 4, ..A });
        let open = of(A).opened(50);
        assert_eq!(init("t", Some(&open), asked(None)).unwrap().unwrap().state, TransactionState::Empty);
    }

    #[test]
    fn epochs_that_have_run_out_give_a_new_id() {
        let last = ProducerIdentity { id: 7, epoch: EPOCH_LAST };
        let next = init("t", Some(&of(last)), asked(None)).unwrap().unwrap();
        assert_eq!(next.producer, ProducerIdentity { id: 99, epoch: 0 });
        // The renewal tried again, after the id has changed.
        let renewed = init("t", Some(&of(last)), asked(Some(last))).unwrap().unwrap();
        assert_eq!(init("t", Some(&renewed), asked(Some(last))).unwrap(), None);
        let fencing = of(last).opened(1).aborted(2).unwrap();
        assert_eq!(fencing.producer.epoch, i16::MAX);
        assert_eq!(init("t", Some(&fencing), asked(None)).unwrap().unwrap().producer.id, 99);
        // Nobody was given that epoch; there would be none left to fence it with.
        assert!(matches!(check(Some(&fencing), asking(fencing.producer)), Err(Error::ProducerFenced { .. })));
    }

    #[test]
    fn a_producer_that_renews_itself_must_be_the_last_one() {
        let renewed = init("t", Some(&of(A)), asked(Some(A))).unwrap().unwrap();
        assert_eq!(renewed.producer.epoch, 4);
        assert_eq!(init("t", Some(&renewed), asked(Some(A))).unwrap(), None, "its answer was lost");
        let by_another = init("t", Some(&renewed), asked(None)).unwrap().unwrap();
        assert!(matches!(init("t", Some(&by_another), asked(Some(A))), Err(Error::ProducerFenced { .. })));
        let in_use = renewed.opened(5);
        assert!(matches!(init("t", Some(&in_use), asked(Some(A))), Err(Error::ProducerFenced { .. })));
        assert!(init("t", None, asked(Some(A))).unwrap().is_some(), "an id that was forgotten begins anew");
    }

    #[test]
    fn only_its_producer_moves_a_transaction() {
        let known = of(A);
        assert!(check(Some(&known), asking(A)).is_ok());
        let old = ProducerIdentity { epoch: 2, ..A };
        assert!(matches!(check(Some(&known), asking(old)), Err(Error::ProducerFenced { epoch: 2, .. })));
        let other = ProducerIdentity { id: 8, ..A };
        assert!(matches!(check(Some(&known), asking(other)), Err(Error::UnknownTransactionalId { .. })));
        assert!(matches!(check(None, asking(A)), Err(Error::UnknownTransactionalId { .. })));
    }

    #[test]
    fn partitions_and_groups_open_it_once() {
        let open = of(A).with_partitions(&[at(0)], 10).unwrap();
        assert_eq!((open.state, open.started_at_us), (TransactionState::Ongoing, Some(10)));
        assert_eq!(open.with_partitions(&[at(0)], 20), None);
        let wider = open.with_group("g", 30).unwrap();
        assert_eq!((wider.started_at_us, wider.updated_at_us), (Some(10), 30));
        assert!(wider.check_partition("t", at(0)).is_ok() && wider.check_group("t", "g").is_ok());
        assert!(wider.check_partition("t", at(1)).is_err() && wider.check_group("t", "h").is_err());
        let ended = wider.ended("t", true, 40).unwrap().unwrap();
        assert!(ended.check_partition("t", at(0)).is_err() && ended.check_group("t", "g").is_err());
        assert!(ended.partitions.is_empty() && ended.started_at_us.is_none());
    }

    #[test]
    fn an_end_again_is_answered_and_another_outcome_is_refused() {
        let open = of(A).opened(1);
        for committed in [true, false] {
            let ended = open.ended("t", committed, 2).unwrap().unwrap();
            assert_eq!(ended.ended("t", committed, 3).unwrap(), None);
            assert!(matches!(ended.ended("t", !committed, 3), Err(Error::InvalidTransactionState { .. })));
        }
        assert!(of(A).ended("t", true, 1).is_err());
    }

    #[test]
    fn time_makes_it_overdue_or_expired() {
        let open = of(A).opened(1_000);
        assert!(!open.is_overdue(60_000_999) && open.is_overdue(60_001_000));
        assert!(!open.is_expired(i64::MAX, 1));
        assert!(!of(A).is_expired(999, 1) && of(A).is_expired(1_000, 1));
        assert!(!Transaction { timeout_ms: 0, ..open }.is_overdue(i64::MAX));
    }

    #[test]
    fn what_is_aborted_ends_before_its_marker() {
        let ranges = Aborted::new(vec![AbortedRange { producer_id: 7, first_offset: 10, last_offset: 20 }]);
        let aborted = |producer_id, offset| ranges.holds(producer_id, offset);
        assert!(aborted(7, 10) && aborted(7, 19) && !aborted(7, 20) && !aborted(7, 9) && !aborted(8, 10));
    }

    #[test]
    fn a_batch_was_committed_with_its_producers_next_marker() {
        let range = |producer_id, first_offset, last_offset, committed_at_us| CommittedRange {
            producer_id,
            first_offset,
            last_offset,
            committed_at_us,
        };
        let ranges = Committed::new(vec![range(7, 10, 20, 100), range(8, 12, 30, 300), range(7, 25, 28, 250)]);
        assert_eq!(ranges.time_of(7, 10), Some(100));
        assert_eq!(ranges.time_of(7, 19), Some(100));
        assert_eq!(ranges.time_of(8, 19), Some(300));
        assert_eq!(ranges.time_of(7, 25), Some(250));
        let unknown = [(7, 9), (7, 20), (7, 24), (7, 28), (8, 11), (9, 15)];
        assert!(unknown.into_iter().all(|(producer_id, offset)| ranges.time_of(producer_id, offset).is_none()));
        assert!(ranges.reaches(15, 16, 300) && !ranges.reaches(15, 16, 301) && !ranges.reaches(0, 9, 0));
    }

    #[test]
    fn a_batch_among_very_many_aborted_ranges_costs_no_look_at_all_of_them() {
        // Batches of one producer among the ranges of another: looked at one by one that would be 10^11 steps.
        const COUNT: i64 = 400_000;
        let range = |number| AbortedRange { producer_id: 1, first_offset: 3 * number, last_offset: 3 * number + 1 };
        let ranges = Aborted::new((0..COUNT).map(range).collect());
        for number in 0..COUNT {
            assert!(
                ranges.holds(1, 3 * number) && !ranges.holds(1, 3 * number + 2) && !ranges.holds(2, 3 * number + 2)
            );
        }
    }

    proptest! {
        #[test]
        fn a_batch_is_aborted_if_its_producers_next_marker_says_so(
            steps in proptest::collection::vec((0_i64..4, any::<bool>(), any::<bool>()), 0..80),
        ) {
            // Each step is a batch of a producer and, maybe, the marker that ends its transaction.
            let (mut offset, mut open, mut ranges) = (0, [None; 4], Vec::new());
            let (mut batches, mut undone) = (Vec::new(), std::collections::BTreeSet::new());
            for (producer_id, ends, committed) in steps {
                let index = usize::try_from(producer_id).unwrap();
                let first_offset = *open[index].get_or_insert(offset);
                batches.push((producer_id, offset));
                offset += 1;
                if ends {
                    open[index] = None;
                    if !committed {
                        ranges.push(AbortedRange { producer_id, first_offset, last_offset: offset });
                        let of_it = |batch: &&(i64, i64)| batch.0 == producer_id && batch.1 >= first_offset;
                        undone.extend(batches.iter().filter(of_it).copied());
                    }
                    offset += 1;
                }
            }
            let aborted = Aborted::new(ranges);
            for (producer_id, base_offset) in batches {
                let expected = undone.contains(&(producer_id, base_offset));
                prop_assert_eq!(aborted.holds(producer_id, base_offset), expected, "{} at {}", producer_id, base_offset);
            }
        }
    }

    #[test]
    fn ids_of_the_log_itself_are_refused_of_clients() {
        let own = own_id(WriterEpoch(12), 3);
        assert!(is_own(&own) && !is_own("payments"));
        assert!(check_id("payments").is_ok() && check_id(&own).is_err() && check_id("").is_err());
        assert!(check_id(&"x".repeat(2000)).is_err());
    }
}
