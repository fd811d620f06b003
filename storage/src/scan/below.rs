//! A fetch of what the log no longer holds: from the objects, and over the gap between them and the log.
//!
//! The log start may move while this reads, by retention or DeleteRecords, and manifest and log follow it. It moves first.
//! So if it is still not above the offset when all is read, nothing that was asked for had gone; otherwise whatever came of
//! it (records from further on, none, an error about what is there no longer) is no answer: the consumer is told that its
//! offset is out of range, as if it had asked a moment later.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::log::{Node, Reach};
use crate::record::batch::CheckedBatch;
use crate::scan::cold_fetch;
use crate::tier::Tier;
use crate::view::{FetchRequest, Fetched, Isolation, Watermarks};

/// Batches from the offset on, which the log held from `hot_start` on when it was asked.
///
/// # Errors
/// [`Error::OffsetOutOfRange`] if the log start has moved beyond the offset meanwhile; [`Error::UnknownTopic`] if the topic
/// has gone; [`Error::Corrupt`], [`Error::ObjectStore`].
pub(crate) async fn fetch(
    node: &Arc<Node>,
    tier: &Arc<Tier>,
    request: FetchRequest,
    hot_start: i64,
    watermarks: Watermarks,
) -> Result<Fetched> {
    let fetched = read(node, tier, request, hot_start, watermarks).await;
    let Watermarks { log_start_offset, high_watermark, .. } = node.watermarks(request.partition)?;
    if request.offset < log_start_offset {
        return Err(Error::OffsetOutOfRange { offset: request.offset, log_start_offset, high_watermark });
    }
    fetched
}

async fn read(
    node: &Arc<Node>,
    tier: &Arc<Tier>,
    request: FetchRequest,
    hot_start: i64,
    watermarks: Watermarks,
) -> Result<Fetched> {
    let FetchRequest { partition, mut offset, bytes_max, .. } = request;
    let (mut hot_start, mut watermarks) = (hot_start, watermarks);
    loop {
        let batches = cold_fetch::fetch(tier.cold(), partition, offset, hot_start, bytes_max).await?;
        if !batches.is_empty() {
            return Ok(Fetched { batches, watermarks, aborted: Vec::new() });
        }
        // Offsets up to the seam are a gap: the next record is the first hot one. If the objects end before the log begins,
        // something is missing, and the log says so.
        let seam = hot_start.min(watermarks.tiered_end_offset);
        match node.fetch_hot(FetchRequest { offset: seam, ..request }).await? {
            Reach::Hot(fetched) => return Ok(over_gap(fetched, request)),
            // What comes next is damaged in the log, and the objects may have it: the gap goes on.
            Reach::Below { hot_start: next, watermarks: now } if seam > offset => {
                (offset, hot_start, watermarks) = (seam, next, now);
            }
            Reach::Below { watermarks, .. } => return Ok(Fetched { batches, watermarks, aborted: Vec::new() }),
        }
    }
}

/// Nothing is left from the offset up to the end: the last of it were markers, aborted or compacted away, and the log has
/// forgotten them. A batch without records takes the consumer there, who would else ask for ever.
fn over_gap(mut fetched: Fetched, request: FetchRequest) -> Fetched {
    let end = match request.isolation {
        Isolation::ReadUncommitted => fetched.watermarks.high_watermark,
        Isolation::ReadCommitted => fetched.watermarks.last_stable_offset,
    };
    if fetched.batches.is_empty() && request.offset < end {
        fetched.batches.push(CheckedBatch::of_nothing(request.offset, end).bytes().clone());
    }
    fetched
}
