//! What is believed of a damaged frame, and what becomes of transactions whose markers were in it.

use std::collections::BTreeSet;

use crate::ids::{ProducerIdentity, TopicPartition};
use crate::log::frame::DirectoryEntry;
use crate::log::frames::FoundFrame;
use crate::log::own::Change;
use crate::log::recover::{Recovery, batches_of};
use crate::view::TransactionState;

/// A transaction of which the state says that it has ended.
pub(super) struct EndedTransaction {
    producer: ProducerIdentity,
    partitions: BTreeSet<TopicPartition>,
    committed: bool,
}

impl Recovery {
    /// Ends what is still open of transactions whose state says, in the same commit, that they have ended: their markers are
    /// damaged. What comes after them belongs to the next transaction of the producer.
    pub(super) fn settle_ended(&mut self, commit_time_us: i64) {
        for EndedTransaction { producer, partitions, committed } in std::mem::take(&mut self.ended) {
            let ledger = &self.ledger;
            let open = |partition: &TopicPartition| ledger.producers.open_since(*partition, producer.id).is_some();
            let open: Vec<_> = partitions.into_iter().filter(open).collect();
            for partition in open {
                let marker_offset = self.ledger.end_of(partition) - 1;
                if let Some(mark) = self.end_open(partition, producer, marker_offset, committed, commit_time_us) {
                    tracing::error!(
                        ?partition,
                        producer_id = producer.id,
                        committed,
                        "a transaction's marker is damaged; its state says how it ended"
                    );
                    self.published.mark(&mark, commit_time_us);
                }
            }
        }
    }

    /// Notes whether a change of a transaction's state is its end.
    pub(super) fn note_ended(&mut self, change: &Change) {
        let Change::Transaction { id, value: Some(now) } = change else { return };
        let before = self.ledger.own.transactions.get(id).filter(|before| before.is_open() && !now.is_open());
        if let Some(before) = before {
            let committed = now.state == TransactionState::CompleteCommit;
            let partitions = before.partitions.clone();
            self.ended.push(EndedTransaction { producer: before.producer, partitions, committed });
        }
    }

    /// Whether an entry of a damaged frame is believed: if it is where it should be or, of what was carried over, if its
    /// batches are whole.
    pub(super) fn is_believable(&self, frame: &FoundFrame<'_>, entry: &DirectoryEntry, replay: bool) -> bool {
        let Some(view) = self.published.partitions.get(&entry.partition) else { return false };
        if entry.carried {
            let mut next_offset = entry.base_offset;
            let whole = batches_of(frame, entry).iter().all(|batch| {
                let header = batch.as_ref().ok().map(|batch| *batch.header());
                let follows = header.is_some_and(|header| header.base_offset == next_offset);
                next_offset = header.map_or(next_offset, |header| header.last_offset() + 1);
                follows
            });
            return whole && next_offset == entry.last_offset + 1;
        }
        let expected = if replay { self.ledger.end_of(entry.partition) } else { view.high_watermark };
        entry.base_offset == expected
    }
}
