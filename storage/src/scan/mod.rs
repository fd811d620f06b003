//! Rows out of hot and cold, each offset once.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::ids::{TopicId, TopicPartition};
use crate::log::Node;
use crate::tier::Tier;
use crate::view::{PinnedRange, RowStream, ScanRequest, TimedOffset, Topic};

/// What a snapshot holds on to.
#[derive(Debug)]
pub(crate) struct Pinned {}

impl Pinned {
    /// Pins log and manifests of these topics in one act.
    pub(crate) fn pin(
        node: &Arc<Node>,
        tier: &Arc<Tier>,
        topics: &[TopicId],
        from: &HashMap<TopicPartition, i64>,
    ) -> Result<Self> {
        let _ = (node, tier, topics, from);
        todo!("scan")
    }

    pub(crate) fn range(&self, partition: TopicPartition) -> Option<PinnedRange> {
        let _ = partition;
        todo!("scan")
    }

    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> {
        todo!("scan")
    }

    pub(crate) fn scan(&self, partition: TopicPartition, request: ScanRequest) -> Result<RowStream> {
        let _ = (partition, request);
        todo!("scan")
    }
}

/// Batches for a Kafka fetch below the hot part: from `offset` on, below `hot_start`, at the most `bytes_max` but at
/// least one; empty if no record is left there.
pub(crate) async fn cold_fetch(
    tier: &Arc<Tier>,
    partition: TopicPartition,
    offset: i64,
    hot_start: i64,
    bytes_max: usize,
) -> Result<Vec<Bytes>> {
    let _ = (tier, partition, offset, hot_start, bytes_max);
    todo!("scan")
}

/// The first record at or after `timestamp_ms` below `hot_start`, in the cold part.
pub(crate) async fn cold_offset_for_timestamp(
    tier: &Arc<Tier>,
    partition: TopicPartition,
    timestamp_ms: i64,
    hot_start: i64,
) -> Result<Option<TimedOffset>> {
    let _ = (tier, partition, timestamp_ms, hot_start);
    Ok(None)
}
