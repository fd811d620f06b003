//! Transactions of which a batch is there but no state, or one that knows nothing of it: the record of their beginning was
//! lost to damage. (One whose marker is damaged has ended as its state says, see `recover/doubt`.) Nobody has ended them, or
//! their end would be there.
//!
//! One must not hold its partition up for ever, so it is aborted when the log is opened. That is a commit like any
//! other, as if the coordinator had ended it now: whoever reads the log later finds the same end, whatever was written
//! meanwhile. Until that commit is durable the partition is held up, and the look at overdue transactions tries again.

use std::sync::atomic::Ordering;

use crate::error::Result;
use crate::ids::{ProducerIdentity, TopicPartition};
use crate::log::Node;
use crate::log::coordinate::MARKER_BYTES;
use crate::log::ledger::{Judge, Ledger, Request};

/// A transaction that nobody can end any more, in one partition.
#[derive(Clone, Copy, Debug)]
struct Orphan {
    partition: TopicPartition,
    producer: ProducerIdentity,
}

/// How many are ended in one commit, at the most.
fn orphans_max(commit_bytes_max: u64) -> usize {
    usize::try_from(commit_bytes_max / MARKER_BYTES).unwrap_or(usize::MAX).max(1)
}

impl Ledger {
    /// How many there are.
    pub(crate) fn orphan_count(&self) -> usize {
        self.orphans().count()
    }

    fn orphans(&self) -> impl Iterator<Item = Orphan> {
        let own = &self.own;
        let there = self.producers.open().filter(move |(partition, ..)| own.topic_of(*partition).is_ok());
        there.filter_map(move |(partition, producer, _)| {
            let known = own.transactional_producers.get(&producer.id).and_then(|id| own.transactions.get(id));
            match known {
                Some(known) if known.is_open() && known.partitions.contains(&partition) => None,
                Some(known) => {
                    let epoch = producer.epoch.max(known.producer.epoch);
                    Some(Orphan { partition, producer: ProducerIdentity { epoch, ..producer } })
                }
                None => Some(Orphan { partition, producer }),
            }
        })
    }
}

impl Judge<'_> {
    /// Makes up the end of those there are, as many as fit a commit.
    pub(crate) fn end_orphans(&mut self) -> Result<()> {
        let orphans: Vec<_> = self.ledger.orphans().take(orphans_max(self.terms.commit_bytes_max)).collect();
        for Orphan { partition, producer } in orphans {
            tracing::warn!(
                ?partition,
                producer_id = producer.id,
                "the beginning of a transaction was lost to damage, nobody can end it; it is aborted"
            );
            self.mark(partition, producer, false)?;
        }
        Ok(())
    }
}

impl Node {
    /// Ends those that were found when the log was opened.
    pub(crate) async fn end_orphans(&self) {
        let at_once = orphans_max(self.settings().wal_commit_bytes_max);
        loop {
            let left = self.orphans.load(Ordering::Acquire);
            if left == 0 {
                return;
            }
            if let Err(error) = self.submit(Request { orphans: true, ..Request::default() }).await {
                tracing::warn!(left, %error, "lost ends of transactions could not be made up, trying again");
                return;
            }
            self.orphans.store(left.saturating_sub(at_once), Ordering::Release);
        }
    }
}
