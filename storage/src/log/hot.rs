//! What the log holds of a partition, pinned: readable for as long as somebody holds it, whatever is deleted meanwhile.

use std::sync::Arc;

use crate::error::Result;
use crate::ids::TopicPartition;
use crate::record::batch::CheckedBatch;
use crate::view::Watermarks;

/// A file of the log. Whoever holds it keeps its descriptor open; deleting a segment only unlinks it.
#[derive(Debug)]
pub(crate) struct Segment {}

/// What the log holds of one partition, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct HotRange {
    /// Whose.
    pub(crate) partition: TopicPartition,
    /// Ends at that moment.
    pub(crate) watermarks: Watermarks,
    /// First offset the log holds (of what was wanted or not); equals `end` if it holds nothing.
    pub(crate) start: i64,
    /// The last stable offset.
    pub(crate) end: i64,
    /// The runs that hold offsets at or after the one wanted and below `end`, in offset order. The first may begin before the wanted offset.
    pub(crate) runs: Vec<HotRun>,
}

/// Contiguous batches of one partition in one frame.
#[derive(Clone, Debug)]
pub(crate) struct HotRun {
    /// First offset.
    pub(crate) base_offset: i64,
    /// Last offset.
    pub(crate) last_offset: i64,
    /// Largest timestamp, ms.
    pub(crate) max_timestamp_ms: i64,
    /// Commit time of the frame, us.
    pub(crate) commit_time_us: i64,
    /// The file.
    pub(crate) segment: Arc<Segment>,
    /// Where in the log (absolute) the first batch begins.
    pub(crate) position: u64,
    /// Bytes of all batches.
    pub(crate) len: u32,
}

impl HotRun {
    /// Reads the batches; every batch's checksum and base offset is verified. Blocks on the file.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] names file and range.
    pub(crate) fn read(&self) -> Result<Vec<CheckedBatch>> {
        todo!("log")
    }
}

/// What of a partition waits for tiering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// Whose.
    pub(crate) partition: TopicPartition,
    /// First offset not tiered.
    pub(crate) tiered_end: i64,
    /// End of what may be tiered.
    pub(crate) last_stable_offset: i64,
    /// Log bytes between the two.
    pub(crate) untiered_bytes: u64,
    /// Commit time of the oldest record between the two, us.
    pub(crate) oldest_commit_time_us: Option<i64>,
}
