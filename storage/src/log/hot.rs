//! What the log holds of a partition, pinned: readable for as long as somebody holds it, whatever is deleted meanwhile.
//!
//! Bytes are verified each time they are read: every batch's checksum, and that offsets follow one another as the
//! index says. What does not match is never handed out.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::ids::TopicPartition;
pub(crate) use crate::log::segment::Segment;
pub(crate) use crate::log::transaction::AbortedRange;
use crate::log::transaction::is_aborted;
use crate::record::batch::{BatchHeader, CheckedBatch};
use crate::view::Watermarks;

/// Frames of other partitions between two runs are read along when they take no more than this.
const GAP_BYTES_MAX: u64 = 16 << 10;
/// One read takes no more than this, unless a single run does.
const SPAN_BYTES_MAX: u64 = 4 << 20;

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
    /// The runs that hold offsets at or after the one wanted and below `end`, in offset order. The first may begin
    /// before the wanted offset.
    pub(crate) runs: Vec<HotRun>,
    /// What of these runs was aborted, in the order of the markers.
    pub(crate) aborted: Vec<AbortedRange>,
}

/// Whether a batch holds rows: no control batch, and not aborted.
pub(crate) fn has_rows(header: &BatchHeader, aborted: &[AbortedRange]) -> bool {
    let undone = header.is_transactional() && is_aborted(aborted, header.producer_id, header.base_offset);
    !header.is_control() && !undone
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

impl HotRun {
    /// Reads the batches; every batch's checksum and base offset is verified. Blocks on the file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] names file and range.
    pub(crate) fn read(&self) -> Result<Vec<CheckedBatch>> {
        let bytes = Bytes::from(self.segment.read(self.position, self.len as usize)?);
        self.check(&bytes)
    }

    fn check(&self, bytes: &Bytes) -> Result<Vec<CheckedBatch>> {
        let corrupt =
            |reason: String| Error::Corrupt { place: self.segment.place(self.position, u64::from(self.len)), reason };
        let mut batches = Vec::new();
        let mut next_offset = self.base_offset;
        let mut at = 0;
        while at < bytes.len() {
            let header = BatchHeader::parse(&bytes[at..]).map_err(|error| corrupt(error.to_string()))?;
            let end = at + header.total_bytes();
            if end > bytes.len() {
                return Err(corrupt(format!("a batch of {} bytes does not fit", header.total_bytes())));
            }
            let batch = CheckedBatch::parse_stored(bytes.slice(at..end)).map_err(|error| corrupt(error.to_string()))?;
            if header.base_offset != next_offset {
                return Err(corrupt(format!("offset {} where {next_offset} was expected", header.base_offset)));
            }
            next_offset = header.last_offset() + 1;
            batches.push(batch);
            at = end;
        }
        if next_offset != self.last_offset + 1 {
            return Err(corrupt(format!("ends at offset {next_offset} instead of {}", self.last_offset + 1)));
        }
        Ok(batches)
    }
}

/// Reads runs of one partition in offset order, those that lie close together in one read, as the iterator is driven.
/// Blocks on files.
pub(crate) fn read_runs(runs: &[HotRun]) -> impl Iterator<Item = Result<Vec<CheckedBatch>>> {
    let mut rest = runs;
    std::iter::from_fn(move || {
        let count = span_of(rest);
        let (span, behind) = rest.split_at_checked(count).filter(|(span, _)| !span.is_empty())?;
        rest = behind;
        Some(read_span(span))
    })
    .flatten()
}

/// Reads runs that lie close together; each has its own verdict.
fn read_span(span: &[HotRun]) -> Vec<Result<Vec<CheckedBatch>>> {
    let (Some(first), Some(last)) = (span.first(), span.last()) else { return Vec::new() };
    let length = last.position + u64::from(last.len) - first.position;
    let bytes = match first.segment.read(first.position, usize::try_from(length).unwrap_or(usize::MAX)) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) => return vec![Err(error)],
    };
    let slice = |run: &HotRun| {
        let at = usize::try_from(run.position - first.position).unwrap_or(usize::MAX);
        bytes.slice(at..at + run.len as usize)
    };
    span.iter().map(|run| run.check(&slice(run))).collect()
}

/// How many runs from the first on are read in one go.
fn span_of(runs: &[HotRun]) -> usize {
    let Some(first) = runs.first() else { return 0 };
    let mut end = first.position + u64::from(first.len);
    let mut count = 1;
    for run in &runs[1..] {
        let run_end = run.position + u64::from(run.len);
        let near = run.position <= end + GAP_BYTES_MAX && run_end - first.position <= SPAN_BYTES_MAX;
        if run.segment.base != first.segment.base || !near {
            break;
        }
        end = run_end;
        count += 1;
    }
    count
}
