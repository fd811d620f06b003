//! The write-ahead log: one writer, one sync for all that waits.

mod hot;

pub(crate) use hot::{Backlog, HotRange, HotRun, Segment};

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::clock::{Clock, Random};
use crate::commit::{Commit, Receipt};
use crate::error::Result;
use crate::ids::{TopicId, TopicPartition, WriterEpoch};
use crate::settings::StorageSettings;
use crate::storage::OpenOptions;
use crate::view::{
    Definition, FetchRequest, Fetched, GroupOffset, Health, SegmentInfo, TimedOffset, Topic, Watermarks,
};

/// One node's log and what is known from it.
#[derive(Debug)]
pub(crate) struct Node {}

/// What the hot part says to a fetch.
#[derive(Debug)]
pub(crate) enum Reach {
    /// Here it is.
    Hot(Fetched),
    /// The offset lies below the first one the log still holds.
    Below {
        /// The first offset the log holds.
        hot_start: i64,
        /// Ends as of the look.
        watermarks: Watermarks,
    },
}

#[rustfmt::skip]
impl Node {
    pub(crate) async fn open(_options: &OpenOptions) -> Result<Arc<Self>> { todo!("log") }
    pub(crate) async fn close(&self) -> Result<()> { todo!("log") }
    pub(crate) fn cluster_id(&self) -> Uuid { todo!("log") }
    pub(crate) fn writer_epoch(&self) -> WriterEpoch { todo!("log") }
    pub(crate) fn settings(&self) -> &StorageSettings { todo!("log") }
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> { todo!("log") }
    pub(crate) fn random(&self) -> &Arc<dyn Random> { todo!("log") }
    pub(crate) fn health(&self) -> Health { todo!("log") }
    pub(crate) fn topic(&self, _name: &str) -> Option<Arc<Topic>> { todo!("log") }
    pub(crate) fn topic_by_id(&self, _id: TopicId) -> Option<Arc<Topic>> { todo!("log") }
    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> { todo!("log") }
    pub(crate) async fn commit(&self, _commit: Commit) -> Result<Receipt> { todo!("log") }
    pub(crate) async fn new_producer_id(&self) -> Result<i64> { todo!("log") }
    pub(crate) fn definitions(&self, _kind: &str) -> Vec<Arc<Definition>> { todo!("log") }
    pub(crate) fn catalog_version(&self) -> u64 { todo!("log") }
    pub(crate) fn group_offsets(&self, _group: Option<&str>) -> Vec<(String, TopicPartition, GroupOffset)> { todo!("log") }
    pub(crate) fn position(&self, _query: &str) -> Option<Bytes> { todo!("log") }
    pub(crate) fn watermarks(&self, _partition: TopicPartition) -> Result<Watermarks> { todo!("log") }
    pub(crate) async fn fetch_hot(&self, _request: FetchRequest) -> Result<Reach> { todo!("log") }
    pub(crate) async fn wait_past(&self, _offsets: &[(TopicPartition, i64)]) { todo!("log") }
    pub(crate) fn hot_start(&self, _partition: TopicPartition) -> Result<i64> { todo!("log") }
    pub(crate) async fn hot_offset_for_timestamp(&self, _partition: TopicPartition, _timestamp_ms: i64) -> Result<Option<TimedOffset>> { todo!("log") }
    pub(crate) fn segments(&self) -> Vec<SegmentInfo> { todo!("log") }

    /// Pins, under one read lock, what the log holds of these partitions from an offset on.
    pub(crate) fn pin_hot(&self, _wanted: &[(TopicPartition, i64)]) -> Result<Vec<HotRange>> { todo!("log") }
    /// The manifest is durable up to `tiered_end`, and nothing is left below `log_start`: (partition, tiered_end, log_start).
    pub(crate) fn set_tiered_end(&self, _ends: &[(TopicPartition, i64, i64)]) { todo!("log") }
    /// What waits for tiering, per partition of every topic but our own: the input of the policy.
    pub(crate) fn tiering_backlog(&self) -> Vec<Backlog> { todo!("log") }
    /// Removes segments that nothing needs any more: tiered and older than the local retention, or of deleted topics.
    pub(crate) fn forget(&self) -> Result<()> { todo!("log") }
}
