//! What an operator is shown of the log: its files and bytes, what waits, what is damaged, who writes. Nothing here is
//! asked for on the way of a record.

use crate::error::Result;
use crate::ids::TopicPartition;
use crate::log::Node;
use crate::log::ledger::{ProducersOf, Request};
use crate::log::transaction::is_own;
use crate::traffic::Volume;
use crate::view::{
    CacheInfo, DamageInfo, ProducerInfo, SegmentInfo, Standing, TopicTraffic, TransactionInfo, TransactionState,
};

impl Node {
    /// Asks the writer, who alone knows; answered when what it saw is durable.
    pub(crate) async fn producers(&self, partition: TopicPartition) -> Result<Vec<ProducerInfo>> {
        self.watermarks(partition)?;
        self.ask_producers(ProducersOf::Partition(partition)).await
    }

    /// Of all partitions, in one question.
    pub(crate) async fn all_producers(&self) -> Result<Vec<ProducerInfo>> {
        self.ask_producers(ProducersOf::All).await
    }

    async fn ask_producers(&self, of: ProducersOf) -> Result<Vec<ProducerInfo>> {
        Ok(self.submit(Request { producers_of: Some(of), ..Request::default() }).await?.producers)
    }

    /// Asks the writer for nothing; answered when what it saw is durable. A log that takes no more writes has none to wait
    /// for.
    pub(crate) async fn catch_up(&self) {
        let _ = self.submit(Request::default()).await;
    }

    pub(crate) fn transactions(&self) -> Vec<TransactionInfo> {
        let published = self.shared.published.read();
        published.own.transactions.iter().map(|(id, transaction)| transaction.info(id)).collect()
    }

    /// Bytes that the log holds of a partition.
    pub(crate) fn log_bytes(&self, partition: TopicPartition) -> Result<u64> {
        let published = self.shared.published.read();
        Ok(published.partition(partition)?.runs.iter().map(|stretch| stretch.bytes).sum())
    }

    pub(crate) fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.published.read().segments.values().map(|segment| segment.info()).collect()
    }

    pub(crate) fn cache(&self) -> CacheInfo {
        self.shared.published.read().footers.info()
    }

    pub(crate) fn traffic(&self) -> Vec<TopicTraffic> {
        self.shared.traffic.rows()
    }

    pub(crate) fn note_fetched(&self, topic: &str, records: u64, bytes: u64) {
        self.shared.traffic.went_out(topic, Volume { records, bytes });
    }

    /// What of the log is damaged, by partition; what objects have is not missing.
    pub(crate) fn damage(&self) -> Vec<DamageInfo> {
        let published = self.shared.published.read();
        let mut found: Vec<_> = published
            .partitions
            .iter()
            .flat_map(|(partition, view)| {
                let missing = view.damaged.iter().filter(|range| range.end > view.tiered_end);
                missing.map(|range| DamageInfo {
                    partition: *partition,
                    start: range.start.max(view.tiered_end),
                    end: range.end,
                    place: range.place.clone(),
                    lost: false,
                })
            })
            .collect();
        found.sort_by_key(|damage| (damage.partition, damage.start));
        found
    }

    /// Everything of [`Standing`] but what is cold.
    pub(crate) fn standing(&self) -> Standing {
        let (queued_commits, queued_bytes) = self.shared.pipe.queued();
        let segments = self.segments();
        let backlog = self.tiering_backlog();
        let waiting = backlog.iter().filter(|of| of.tiered_end < of.last_stable_offset);
        let untiered_since_us = waiting.clone().filter_map(|of| of.oldest_commit_time_us).min();
        let damaged = self.damage().len() as u64;
        let published = self.shared.published.read();
        let topics = published.own.topics.values().filter(|topic| !topic.internal);
        let known = published.own.transactions.iter().filter(|(id, _)| !is_own(id));
        Standing {
            queued_commits: queued_commits as u64,
            queued_bytes,
            waiting_commits: self.line.waiting() as u64,
            log_segments: segments.len() as u64,
            log_bytes: segments.iter().map(|segment| segment.bytes).sum(),
            untiered_bytes: waiting.map(|of| of.untiered_bytes).sum(),
            untiered_since_us,
            topics: topics.clone().count() as u64,
            partitions: topics.map(|topic| u64::try_from(topic.partitions).unwrap_or(0)).sum(),
            transactional_ids: known.clone().count() as u64,
            transactions_open: known.filter(|(_, of)| of.state == TransactionState::Ongoing).count() as u64,
            damaged_ranges: damaged,
            ..Standing::default()
        }
    }
}
