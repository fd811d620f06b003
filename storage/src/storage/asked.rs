//! What an operator asks of a storage, and what it is measured by.

use std::collections::HashMap;

use super::Storage;
use crate::error::Result;
use crate::ids::{TopicId, TopicPartition};
use crate::view::{
    CacheInfo, ColdPartition, ColdTotals, DamageInfo, ObjectInfo, ObjectRequests, ProducerInfo, SegmentInfo, Standing,
    TopicTraffic,
};

impl Storage {
    /// How it stands now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing { cold: self.tier.totals(), ..self.node.standing() }
    }

    /// Records and bytes in and out since the storage was opened, by topic.
    #[must_use]
    pub fn traffic(&self) -> Vec<TopicTraffic> {
        self.node.traffic()
    }

    /// Counts what a fetch has answered with: what was read is not always what is sent.
    pub fn note_fetched(&self, topic: &str, records: u64, bytes: u64) {
        self.node.note_fetched(topic, records, bytes);
    }

    /// How the caches do.
    #[must_use]
    pub fn caches(&self) -> Vec<CacheInfo> {
        [self.node.cache(), self.blocks.info()].into_iter().chain(self.tier.caches()).collect()
    }

    /// What was asked of the object store since the storage was opened, a row per kind.
    #[must_use]
    pub fn object_requests(&self) -> Vec<ObjectRequests> {
        self.tier.cold().bucket.meter().requests()
    }

    /// Bytes that the log holds of a partition; what is cold too is counted as long as the log has it.
    ///
    /// # Errors
    /// [`crate::Error::UnknownTopic`], [`crate::Error::UnknownPartition`].
    pub fn log_bytes(&self, partition: TopicPartition) -> Result<u64> {
        self.node.log_bytes(partition)
    }

    /// The folder of the log's files.
    #[must_use]
    pub fn log_dir(&self) -> &std::path::Path {
        self.node.log_dir()
    }

    /// The log's files.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.node.segments()
    }

    /// The live objects, a row per object and partition.
    ///
    /// # Errors
    /// [`crate::Error::ObjectStore`], [`crate::Error::Corrupt`].
    pub async fn objects(&self) -> Result<Vec<ObjectInfo>> {
        self.tier.objects().await
    }

    /// What is cold of a topic.
    #[must_use]
    pub fn cold_totals(&self, topic: TopicId) -> ColdTotals {
        self.tier.totals_of(topic)
    }

    /// What is cold, by partition; reads whole manifests.
    ///
    /// # Errors
    /// As [`Storage::objects`].
    pub async fn cold_partitions(&self) -> Result<HashMap<TopicPartition, ColdPartition>> {
        self.tier.cold_partitions().await
    }

    /// Offsets that cannot be read: those that lie damaged in the log, and those that are lost for ever. Reads whole
    /// manifests.
    ///
    /// # Errors
    /// As [`Storage::objects`].
    pub async fn damage(&self) -> Result<Vec<DamageInfo>> {
        let mut found = self.tier.lost_offsets().await?;
        found.extend(self.node.damage());
        found.sort_by_key(|damage| (damage.partition, damage.start));
        Ok(found)
    }

    /// Before this commit time, us, a topic cannot be shown as it was: it was not there, or compaction or a moved log start
    /// has removed what counted then. `None` if there is no such topic, or it is one of our own.
    /// [`crate::Snapshot::history_start_us`] is exact.
    #[must_use]
    pub fn history_start_us(&self, topic: TopicId) -> Option<i64> {
        self.tier.history_start_us(topic)
    }

    /// What is remembered of a partition's producers, by id.
    ///
    /// # Errors
    /// [`crate::Error::UnknownTopic`], [`crate::Error::UnknownPartition`], [`crate::Error::ReadOnly`],
    /// [`crate::Error::Closed`].
    pub async fn producers(&self, partition: TopicPartition) -> Result<Vec<ProducerInfo>> {
        self.node.producers(partition).await
    }

    /// The same of all partitions, in one question to the log.
    ///
    /// # Errors
    /// [`crate::Error::ReadOnly`], [`crate::Error::Closed`].
    pub async fn all_producers(&self) -> Result<Vec<ProducerInfo>> {
        self.node.all_producers().await
    }
}
