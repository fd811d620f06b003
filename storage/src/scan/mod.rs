//! Rows out of hot and cold, each offset once.
//!
//! 1. [`Pinned::pin`] holds log and manifests of some partitions in one act ([`seam`]).
//! 2. [`plan`] says which row groups a request touches, from the manifest alone.
//! 3. [`parquet`] reads those, [`hot`] the log's batches; the seam puts one behind the other.
//! 4. [`cold_fetch`] makes Kafka's bytes of cold rows, for consumers that are behind; [`ahead`] has the rows ready.
//! 5. [`time`] finds an offset by its time on both sides.

pub(crate) mod ahead;
mod cold_fetch;
mod hot;
mod parquet;
mod plan;
mod seam;
#[cfg(test)]
mod tests;
mod time;

use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::ids::TopicPartition;
use crate::tier::Tier;

pub(crate) use parquet::{read_footer, read_group};
pub(crate) use seam::Pinned;
pub(crate) use time::{Sought, find as find_by_time};

/// Batches for a Kafka fetch below the hot part: from `offset` on, below `hot_start`, at the most `bytes_max` but at
/// least one; empty if no record is left there.
pub(crate) async fn cold_fetch(
    tier: &Arc<Tier>,
    partition: TopicPartition,
    offset: i64,
    hot_start: i64,
    bytes_max: usize,
) -> Result<Vec<Bytes>> {
    cold_fetch::fetch(tier.cold(), partition, offset, hot_start, bytes_max).await
}
