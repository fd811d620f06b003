//! The transactional part of the judgement on a commit: what Kafka's transaction coordinator does, as steps of the ledger.
//!
//! An end is one act: the markers of all partitions, the pending offsets made real and the new state stand in one commit.
//! Markers go where the transaction has written; a partition that was added and not written to, or whose topic is gone,
//! needs none, so deleting a topic never hangs a transaction.

use std::sync::Arc;

use crate::commit::TransactionChange;
use crate::error::{Error, Result};
use crate::ids::{ProducerIdentity, TopicId, TopicPartition};
use crate::log::frame::PlacedBatch;
use crate::log::ledger::{Judge, Ledger, OFFSET_BYTES, RECORD_OVERHEAD_BYTES, Request, Undo, record_bytes};
use crate::log::own::Change;
use crate::log::transaction::{
    AbortedRange, Asking, COORDINATOR_EPOCH, CommittedRange, Init, Mark, Transaction, check, init, invalid, is_own,
};
use crate::record::batch::{BatchHeader, Marker};
use crate::view::GroupOffset;

/// Transactional ids kept, at the most: each costs memory until it expires.
const TRANSACTIONAL_IDS_MAX: usize = 100_000;
/// What a marker takes in the log, at the most.
pub(crate) const MARKER_BYTES: u64 = 192;

/// Whether a change ends a transaction and nothing else: those come after everything that may belong to it.
fn is_end(change: &TransactionChange) -> bool {
    matches!(change, TransactionChange::End { .. } | TransactionChange::Abort { .. })
}

impl Ledger {
    /// About what the ends of transactions that are asked for will take in the log: markers, and offsets made real.
    pub(crate) fn ends_bytes(&self, request: &Request) -> u64 {
        let ended = request.commit.transactions.iter().filter_map(|change| match change {
            TransactionChange::Init { transactional_id, .. }
            | TransactionChange::End { transactional_id, .. }
            | TransactionChange::Abort { transactional_id } => Some(transactional_id),
            _ => None,
        });
        let bytes = ended.chain(&request.overdue).map(|id| {
            let open = self.own.transactions.get(id).filter(|transaction| transaction.is_open());
            open.map_or(0, |transaction| self.end_bytes(id, transaction))
        });
        let orphans = if request.orphans { self.orphan_count() as u64 } else { 0 };
        bytes.sum::<u64>() + orphans * MARKER_BYTES
    }

    /// What the end of a transaction will take.
    fn end_bytes(&self, id: &str, transaction: &Transaction) -> u64 {
        let markers = transaction.partitions.len() as u64 * MARKER_BYTES;
        let offset_bytes = |group: &String| {
            let pending = self.own.pending_of_group(group).filter(|((_, _, by), _)| by == id);
            let bytes = pending.map(|(_, offset)| group.len() + OFFSET_BYTES + offset.metadata.len());
            bytes.map(|bytes| bytes as u64 + RECORD_OVERHEAD_BYTES).sum::<u64>()
        };
        markers + transaction.groups.iter().map(offset_bytes).sum::<u64>()
    }
}

impl Judge<'_> {
    /// Takes the changes that end transactions, or those that do not.
    pub(crate) fn transactions(&mut self, changes: &[TransactionChange], ends: bool) -> Result<()> {
        for (index, change) in changes.iter().enumerate().filter(|(_, change)| is_end(change) == ends) {
            let producer = self.transaction(change)?;
            self.judged.transactions[index] = producer;
        }
        Ok(())
    }

    fn transaction(&mut self, change: &TransactionChange) -> Result<ProducerIdentity> {
        let asking = |id, producer| Asking { transactional_id: id, producer };
        match change {
            TransactionChange::Init { transactional_id, timeout_ms, expected } => {
                self.init(transactional_id, *timeout_ms, *expected)
            }
            TransactionChange::AddPartitions { transactional_id, producer, partitions } => {
                let current = self.asked(asking(transactional_id, *producer))?;
                self.add_partitions(transactional_id, &current, partitions)
            }
            TransactionChange::AddOffsets { transactional_id, producer, group } => {
                let current = self.asked(asking(transactional_id, *producer))?;
                self.step(transactional_id, &current, current.with_group(group, self.terms.now_us))
            }
            TransactionChange::CommitOffsets { transactional_id, producer, group, offsets } => {
                let current = self.asked(asking(transactional_id, *producer))?;
                self.pending_offsets(transactional_id, &current, group, offsets)
            }
            TransactionChange::End { transactional_id, producer, committed } => {
                let current = self.asked(asking(transactional_id, *producer))?;
                match current.ended(transactional_id, *committed, self.terms.now_us)? {
                    Some(next) => self.close(transactional_id, &current, next, *committed),
                    None => Ok(current.producer),
                }
            }
            TransactionChange::Abort { transactional_id } => {
                let unknown =
                    || Error::UnknownTransactionalId { transactional_id: transactional_id.clone(), producer_id: -1 };
                let current = self.ledger.own.transactions.get(transactional_id).cloned().ok_or_else(unknown)?;
                let next = current.aborted(self.terms.now_us);
                let next = next.ok_or_else(|| invalid(transactional_id, "has no open transaction"))?;
                self.close(transactional_id, &current, next, false)
            }
        }
    }

    fn asked(&self, asking: Asking<'_>) -> Result<Arc<Transaction>> {
        let current = self.ledger.own.transactions.get(asking.transactional_id);
        check(current.map(Arc::as_ref), asking)?;
        // Checked right above.
        current.cloned().ok_or_else(|| invalid(asking.transactional_id, "is not known"))
    }

    fn init(&mut self, id: &str, timeout_ms: i32, expected: Option<ProducerIdentity>) -> Result<ProducerIdentity> {
        let limit_ms = self.terms.timeout_max_ms;
        if !(1..=limit_ms).contains(&timeout_ms) {
            return Err(Error::InvalidTransactionTimeout { timeout_ms, limit_ms });
        }
        let current = self.ledger.own.transactions.get(id).cloned();
        self.check_count(current.is_none())?;
        let asked = Init {
            timeout_ms,
            expected,
            now_us: self.terms.now_us,
            fresh_producer_id: self.ledger.own.next_producer_id,
        };
        let Some(next) = init(id, current.as_deref(), asked)? else {
            return Ok(current.map_or(ProducerIdentity { id: -1, epoch: -1 }, |current| current.producer));
        };
        if next.producer.id == asked.fresh_producer_id {
            self.change(Change::ProducerIds { next: asked.fresh_producer_id + 1 })?;
        }
        match current.filter(|current| current.is_open()) {
            Some(open) => self.close(id, &open, next, false),
            None => self.put(id, next),
        }
    }

    /// Begins a transaction of the log itself, which goes on until it is ended or its process is gone.
    pub(crate) fn begin_own(&mut self, id: &str, made: impl IntoIterator<Item = TopicId>) -> Result<ProducerIdentity> {
        self.check_count(true)?;
        let producer = ProducerIdentity { id: self.ledger.own.next_producer_id, epoch: 0 };
        self.change(Change::ProducerIds { next: producer.id + 1 })?;
        let mut begun = Transaction::empty(producer, None, 0, self.terms.now_us).opened(self.terms.now_us);
        begun.made.extend(made);
        self.put(id, begun)
    }

    fn check_count(&self, one_more: bool) -> Result<()> {
        if one_more && self.ledger.own.transactions.len() >= TRANSACTIONAL_IDS_MAX {
            let reason = format!(
                "{TRANSACTIONAL_IDS_MAX} transactional ids are known, which is the limit; use fewer, \
                 or lower transaction.id_expiration"
            );
            return Err(Error::Full { reason });
        }
        Ok(())
    }

    fn add_partitions(
        &mut self,
        id: &str,
        current: &Transaction,
        partitions: &[TopicPartition],
    ) -> Result<ProducerIdentity> {
        for partition in partitions {
            let topic = self.ledger.own.topic_of(*partition)?;
            if topic.internal {
                return Err(Error::TopicInternal { topic: topic.name.clone() });
            }
        }
        self.step(id, current, current.with_partitions(partitions, self.terms.now_us))
    }

    fn pending_offsets(
        &mut self,
        id: &str,
        current: &Transaction,
        group: &str,
        offsets: &[(TopicPartition, GroupOffset)],
    ) -> Result<ProducerIdentity> {
        current.check_group(id, group)?;
        for (partition, offset) in offsets {
            self.ledger.own.topic_of(*partition)?;
            let value = Some(GroupOffset { committed_at_us: self.terms.now_us, ..offset.clone() });
            let (id, group) = (id.to_owned(), group.to_owned());
            let before = self.ledger.own.offset_bytes;
            self.change(Change::PendingOffset { id, group, partition: *partition, value })?;
            self.check_offset_bytes(before)?;
        }
        self.check_closing(id, current)?;
        Ok(current.producer)
    }

    /// Goes on to the next state, if there is one.
    fn step(&mut self, id: &str, current: &Transaction, next: Option<Transaction>) -> Result<ProducerIdentity> {
        let Some(next) = next else { return Ok(current.producer) };
        self.check_closing(id, &next)?;
        self.put(id, next)
    }

    fn put(&mut self, id: &str, next: Transaction) -> Result<ProducerIdentity> {
        let producer = next.producer;
        self.change(Change::Transaction { id: id.to_owned(), value: Some(Arc::new(next)) })?;
        if is_own(id) {
            // The caller has filled its frame with batches and knows nothing of this.
            self.unbounded_bytes += self.judged.records.last().map_or(0, record_bytes);
        }
        Ok(producer)
    }

    /// The end of a transaction must fit a commit: what would make it larger is refused before.
    fn check_closing(&self, id: &str, transaction: &Transaction) -> Result<()> {
        let (bytes, limit_bytes) = (self.ledger.end_bytes(id, transaction), self.terms.commit_bytes_max);
        if bytes <= limit_bytes {
            return Ok(());
        }
        Err(Error::TooLarge { what: "end of a transaction", bytes, setting: "wal.commit_bytes_max", limit_bytes })
    }

    /// Ends what is open: markers, offsets, state.
    fn close(&mut self, id: &str, open: &Transaction, next: Transaction, committed: bool) -> Result<ProducerIdentity> {
        let first_record = self.judged.records.len();
        // A new producer id fences by itself; the old one's last marker has an epoch nobody was given.
        let epoch = if next.producer.id == open.producer.id { next.producer.epoch } else { open.producer.epoch + 1 };
        let marker = ProducerIdentity { epoch, ..open.producer };
        for partition in &open.partitions {
            self.mark(*partition, marker, committed)?;
        }
        for group in open.groups.iter().filter(|_| committed) {
            for (partition, offset) in self.ledger.own.pending_of(id, group) {
                if self.ledger.own.topic_of(partition).is_ok() {
                    let value = Some(GroupOffset { committed_at_us: self.terms.now_us, ..offset });
                    self.change(Change::GroupOffset { group: group.clone(), partition, value })?;
                }
            }
        }
        let producer = next.producer;
        self.change(Change::Transaction { id: id.to_owned(), value: Some(Arc::new(next)) })?;
        if is_own(id) {
            // It is over for good; nobody asks for its end again. How it ended stands before, beside its markers.
            self.change(Change::Transaction { id: id.to_owned(), value: None })?;
        }
        for topic in open.made.iter().filter(|_| !committed) {
            // Somebody may use it by now.
            if self.ledger.own.topics.contains_key(topic) && self.ledger.own.holder_of(*topic).is_none() {
                self.delete_topic(*topic)?;
            }
        }
        // An end must not fail for its size: what it takes was bounded when it was opened.
        self.unbounded_bytes += self.judged.records[first_record..].iter().map(record_bytes).sum::<u64>();
        Ok(producer)
    }

    /// Puts a marker where the transaction has written.
    pub(crate) fn mark(
        &mut self,
        partition: TopicPartition,
        producer: ProducerIdentity,
        committed: bool,
    ) -> Result<()> {
        let open = self.ledger.producers.open_since(partition, producer.id);
        let Some(first_offset) = open.filter(|_| self.ledger.own.topic_of(partition).is_ok()) else { return Ok(()) };
        let marker = Marker { committed, coordinator_epoch: COORDINATOR_EPOCH };
        let batch = marker.batch(producer, self.terms.now_us.div_euclid(1000));
        let batch = batch.ok_or_else(|| Error::InvalidBatch { reason: "a marker could not be built".to_owned() })?;
        let marker_offset = self.ledger.place(partition, 0, self.undo);
        let (replaced, _) = self.ledger.producers.end(partition, producer, self.terms.now_us);
        self.undo.push(Undo::Producer(replaced));
        let (producer_id, last_offset) = (producer.id, marker_offset);
        if committed {
            let range = CommittedRange { producer_id, first_offset, last_offset, committed_at_us: self.terms.now_us };
            self.ledger.committed.entry(partition).or_default().push(range);
            self.undo.push(Undo::Committed(partition));
        } else {
            let range = AbortedRange { producer_id, first_offset, last_offset };
            self.ledger.aborted.entry(partition).or_default().push(range);
            self.undo.push(Undo::Aborted(partition));
        }
        self.judged.batches.push(PlacedBatch { partition, base_offset: marker_offset, batch, carried_us: None });
        self.judged.marks.push(Mark::Ended { partition, producer_id: producer.id, marker_offset, committed });
        Ok(())
    }

    /// What time has brought about: an open transaction past its timeout is aborted, an idle id forgotten. One of the
    /// log's own that is asked about has nobody left who could end it.
    pub(crate) fn overdue(&mut self, id: &str) -> Result<()> {
        let Some(current) = self.ledger.own.transactions.get(id).cloned() else { return Ok(()) };
        let now_us = self.terms.now_us;
        if current.is_overdue(now_us) || is_own(id) {
            if let Some(next) = current.aborted(now_us) {
                self.close(id, &current, next, false)?;
            }
        } else if current.is_expired(now_us, self.terms.id_expiration_ms) {
            self.change(Change::Transaction { id: id.to_owned(), value: None })?;
        }
        Ok(())
    }

    /// Whether a batch may be appended as far as transactions go.
    pub(crate) fn check_transactional(&self, partition: TopicPartition, header: &BatchHeader) -> Result<()> {
        let BatchHeader { producer_id, producer_epoch: epoch, .. } = *header;
        if !header.is_transactional() {
            return match self.ledger.producers.open_since(partition, producer_id) {
                Some(first_offset) if header.has_producer() => Err(Error::InvalidTransactionState {
                    reason: format!(
                        "producer {producer_id} has a transaction open in the partition since offset {first_offset}, \
                         a batch outside of it is refused"
                    ),
                }),
                _ => Ok(()),
            };
        }
        let own = &self.ledger.own;
        let id = own.transactional_producers.get(&producer_id);
        let known = id.and_then(|id| own.transactions.get(id).map(|transaction| (id, transaction)));
        let Some((id, transaction)) = known else {
            let reason = format!("producer {producer_id} has no transactional id; begin with InitProducerId");
            return Err(Error::InvalidTransactionState { reason });
        };
        let current = transaction.producer.epoch;
        if epoch != current {
            return Err(Error::InvalidProducerEpoch { producer_id, epoch, current });
        }
        transaction.check_partition(id, partition)
    }
}
