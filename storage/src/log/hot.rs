//! What the log holds of a partition, pinned: readable for as long as somebody holds it, whatever is deleted meanwhile.
//!
//! Bytes are verified each time they are read: every batch's checksum, and that offsets follow one another as the
//! index says. What does not match is never handed out: it is a [`Piece::Damaged`], which names its offsets, and what
//! lies behind it is read all the same.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::ids::TopicPartition;
use crate::log::flip::{mended_header, read_body};
use crate::log::footer::FooterRuns;
use crate::log::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::log::index::{DamagedOffsets, Held, Run, Stretch};
pub(crate) use crate::log::segment::Segment;
pub(crate) use crate::log::transaction::{Aborted, AbortedRange, Committed, CommittedRange};
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
    /// What is known to be damaged at or after the offset wanted and in no object.
    pub(crate) damaged: Vec<DamagedOffsets>,
    /// The stretches that hold offsets at or after the one wanted and below `end`, in offset order. The first may begin
    /// before the wanted offset.
    pub(crate) stretches: Vec<HotStretch>,
    /// What of these runs was aborted, in the order of the markers.
    pub(crate) aborted: Vec<AbortedRange>,
    /// What of them was committed by transactions, in the order of the markers, unless it is in an object.
    pub(crate) committed: Vec<CommittedRange>,
}

/// Whether a batch holds rows: no control batch, and not aborted.
pub(crate) fn has_rows(header: &BatchHeader, aborted: &Aborted) -> bool {
    let undone = header.is_transactional() && aborted.holds(header.producer_id, header.base_offset);
    !header.is_control() && !undone
}

/// When the records of a batch became visible, us: at the commit of their transaction, or else at their own.
pub(crate) fn visible_at_us(found: &HotBatch, committed: &Committed) -> i64 {
    let header = found.batch.header();
    let ended_us = header.is_transactional().then(|| committed.time_of(header.producer_id, header.base_offset));
    ended_us.flatten().unwrap_or(found.commit_time_us)
}

/// A stretch and its file.
#[derive(Clone, Debug)]
pub(crate) struct HotStretch {
    pub(crate) partition: TopicPartition,
    pub(crate) stretch: Stretch,
    pub(crate) segment: Arc<Segment>,
    pub(crate) footers: Arc<FooterRuns>,
}

/// Contiguous batches of one partition, read in one go.
#[derive(Clone, Debug)]
pub(crate) struct HotRun {
    /// First offset.
    pub(crate) base_offset: i64,
    /// Last offset.
    pub(crate) last_offset: i64,
    /// Largest timestamp, ms.
    pub(crate) max_timestamp_ms: i64,
    /// The newest commit time, us.
    pub(crate) last_commit_us: i64,
    /// Bytes of all batches.
    pub(crate) len: u32,
    partition: TopicPartition,
    segment: Arc<Segment>,
    /// As in the index: it may reach beyond the offsets meant.
    place: Run,
}

/// A batch and when it was committed.
#[derive(Clone, Debug)]
pub(crate) struct HotBatch {
    /// us.
    pub(crate) commit_time_us: i64,
    pub(crate) batch: CheckedBatch,
}

/// What reading gives.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Batches in offset order.
    Batches(Vec<HotBatch>),
    /// Offsets that were committed and cannot be read.
    Damaged { offsets: DamagedOffsets, reason: String },
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
    /// How many committed transactions are remembered until their records are tiered.
    pub(crate) committed_ranges: u64,
}

impl HotRange {
    /// All runs, in offset order. Blocks on footers that are not at hand.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn runs(&self) -> Result<Vec<HotRun>> {
        let mut runs = Vec::new();
        for stretch in &self.stretches {
            runs.extend(stretch.runs()?);
        }
        Ok(runs)
    }
}

impl HotStretch {
    /// Whether its runs are known without touching a file.
    pub(crate) fn is_at_hand(&self) -> bool {
        match &self.stretch.held {
            Held::Memory(_) => true,
            Held::Footer(part) => self.footers.is_at_hand(&self.segment, *part),
        }
    }

    /// Its runs in offset order, each offset once. Blocks on the footer if they are not at hand. What a damaged footer and
    /// damaged frames do not tell is a run all the same: reading it names its offsets.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn runs(&self) -> Result<Vec<HotRun>> {
        let stored;
        let (runs, complete): (&[Run], _) = match &self.stretch.held {
            // Maybe only those that are to be read.
            Held::Memory(runs) => (runs, false),
            Held::Footer(part) => {
                stored = self.footers.read(&self.segment, self.partition, *part)?;
                (&stored, true)
            }
        };
        let (first, last) = (self.stretch.base_offset, self.stretch.last_offset);
        let from = runs.partition_point(|run| run.last_offset < first);
        let mut found = Vec::new();
        let mut next = first;
        for place in runs[from..].iter().take_while(|run| run.base_offset <= last) {
            if complete && place.base_offset > next {
                found.push(self.run(next, place.base_offset - 1, self.nowhere(next, place.base_offset - 1)));
            }
            if place.last_offset >= next {
                found.push(self.run(place.base_offset.max(next), place.last_offset.min(last), *place));
                next = place.last_offset + 1;
            }
        }
        if complete && next <= last {
            found.push(self.run(next, last, self.nowhere(next, last)));
        }
        Ok(found)
    }

    fn run(&self, base_offset: i64, last_offset: i64, place: Run) -> HotRun {
        HotRun {
            base_offset,
            last_offset,
            max_timestamp_ms: place.max_timestamp_ms,
            last_commit_us: place.last_commit_us,
            len: place.bytes,
            partition: self.partition,
            segment: Arc::clone(&self.segment),
            place,
        }
    }

    /// A run of which nobody knows any more where it lies.
    fn nowhere(&self, base_offset: i64, last_offset: i64) -> Run {
        Run {
            base_offset,
            last_offset,
            max_timestamp_ms: self.stretch.max_timestamp_ms,
            commit_time_us: self.stretch.first_commit_us,
            last_commit_us: self.stretch.last_commit_us,
            position: self.segment.base,
            bytes: 0,
            frames: 1,
            frame: self.segment.base,
            frame_bytes: 0,
        }
    }
}

impl Piece {
    /// The batches; damage as an error.
    ///
    /// # Errors
    /// [`Error::Corrupt`] names file and range.
    pub(crate) fn whole(self) -> Result<Vec<HotBatch>> {
        match self {
            Self::Batches(batches) => Ok(batches),
            Self::Damaged { offsets, reason } => Err(Error::Corrupt { place: offsets.place, reason }),
        }
    }
}

impl HotRun {
    /// Reads the batches. Blocks on the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn read(&self) -> Result<Vec<Piece>> {
        Ok(read_span(std::slice::from_ref(self))?.into_iter().flatten().collect())
    }

    /// Checks what was read for it.
    fn check(&self, bytes: &Bytes) -> Vec<Piece> {
        let mut reader = RunReader { run: self, next_offset: self.place.base_offset, pieces: Vec::new() };
        if self.place.frames > 1 {
            reader.frames(bytes);
        } else {
            reader.batches(bytes, self.place.position, self.place.last_offset, self.place.commit_time_us);
        }
        reader.damaged_up_to(self.place.last_offset + 1, self.place.read_start(), "offsets are missing");
        reader.pieces
    }
}

/// Reads the bytes of one run.
struct RunReader<'a> {
    run: &'a HotRun,
    next_offset: i64,
    pieces: Vec<Piece>,
}

impl RunReader<'_> {
    /// Looks for the partition's batches in the frames. One of which the checksum does not match is looked into all the
    /// same: each batch has one of its own.
    fn frames(&mut self, bytes: &Bytes) {
        let mut at = 0;
        while at < bytes.len() {
            let position = self.run.place.frame + at as u64;
            // Without its header nobody knows where the frame ends: what follows is damaged too.
            let header = FrameHeader::decode(&bytes[at..], position).ok();
            let Some(header) = header.or_else(|| mended_header(&bytes[at..], position)) else { return };
            let body_at = at + FRAME_HEADER_BYTES;
            let Some(body) = bytes.get(body_at..body_at + header.body_bytes as usize) else { return };
            for entry in read_body(&header, body).map(|told| told.entries).unwrap_or_default() {
                let meant = entry.partition == self.run.partition
                    && entry.base_offset >= self.next_offset
                    && entry.last_offset <= self.run.place.last_offset;
                let start = at + usize::try_from(entry.frame_offset).unwrap_or(usize::MAX);
                if let Some(end) = start.checked_add(entry.bytes as usize).filter(|end| meant && *end <= bytes.len()) {
                    self.damaged_up_to(entry.base_offset, position, "offsets are missing");
                    let position = position + entry.frame_offset;
                    self.batches(&bytes.slice(start..end), position, entry.last_offset, entry.commit_time_us);
                }
            }
            at += usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
        }
    }

    /// Batches side by side that end with `last_offset`.
    fn batches(&mut self, bytes: &Bytes, position: u64, last_offset: i64, commit_time_us: i64) {
        let mut batches = Vec::new();
        let mut at = 0;
        while self.next_offset <= last_offset {
            let read = self.batch(bytes, at);
            let (reason, length) = match read {
                Ok(batch) => {
                    self.next_offset = batch.header().last_offset() + 1;
                    at += batch.bytes().len();
                    let meant = batch.header().last_offset() >= self.run.base_offset
                        && batch.header().base_offset <= self.run.last_offset;
                    if meant {
                        batches.push(HotBatch { commit_time_us, batch });
                    }
                    continue;
                }
                Err(damage) => damage,
            };
            self.give(&mut batches);
            // If the next batch stands where this one should end, only this one is damaged.
            let next = length.and_then(|length| Some((at + length, self.header(bytes, at + length)?)));
            let (next_at, end) = match next {
                Some((next_at, next)) if next.base_offset > self.next_offset => (next_at, next.base_offset),
                _ => (bytes.len(), last_offset + 1),
            };
            let end = end.min(last_offset + 1);
            self.damaged_up_to(end, position + at as u64, &reason);
            at = next_at;
        }
        self.give(&mut batches);
    }

    fn give(&mut self, batches: &mut Vec<HotBatch>) {
        if !batches.is_empty() {
            self.pieces.push(Piece::Batches(std::mem::take(batches)));
        }
    }

    fn header(&self, bytes: &Bytes, at: usize) -> Option<BatchHeader> {
        BatchHeader::parse(bytes.get(at..)?).ok().filter(|header| header.last_offset() <= self.run.place.last_offset)
    }

    /// The batch that begins here; else why not, and its length if it says one.
    fn batch(&self, bytes: &Bytes, at: usize) -> Result<CheckedBatch, (String, Option<usize>)> {
        let rest = bytes.get(at..).unwrap_or_default();
        let header = BatchHeader::parse(rest).map_err(|error| (error.to_string(), None))?;
        let length = header.total_bytes();
        if length > rest.len() {
            return Err((format!("a batch of {length} bytes does not fit"), None));
        }
        let checked = CheckedBatch::parse_stored(bytes.slice(at..at + length));
        let batch = checked.map_err(|error| (error.to_string(), Some(length)))?;
        if header.base_offset != self.next_offset {
            let reason = format!("offset {} where {} was expected", header.base_offset, self.next_offset);
            return Err((reason, Some(length)));
        }
        if header.last_offset() > self.run.place.last_offset {
            return Err((format!("ends at offset {}", header.last_offset()), None));
        }
        Ok(batch)
    }

    /// Everything up to an offset that was not found is damaged.
    fn damaged_up_to(&mut self, end: i64, position: u64, reason: &str) {
        let start = self.next_offset.max(self.run.base_offset);
        let meant_end = end.min(self.run.last_offset + 1);
        self.next_offset = self.next_offset.max(end);
        if start < meant_end {
            let bytes = self.run.place.read_end() - position.min(self.run.place.read_end());
            let place = self.run.segment.place(position, bytes);
            let offsets = DamagedOffsets { start, end: meant_end, place };
            let reason = format!("offsets {start}..{meant_end} are damaged: {reason}");
            self.pieces.push(Piece::Damaged { offsets, reason });
        }
    }
}

/// Reads runs of one partition in offset order, those that lie close together in one read, as the iterator is driven.
/// Blocks on files. Per run what was found of it.
pub(crate) fn read_runs(runs: &[HotRun]) -> impl Iterator<Item = Result<Vec<Piece>>> {
    let mut rest = runs;
    std::iter::from_fn(move || {
        let count = span_of(rest);
        let (span, behind) = rest.split_at_checked(count).filter(|(span, _)| !span.is_empty())?;
        rest = behind;
        Some(match read_span(span) {
            Ok(read) => read.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    })
    .flatten()
}

/// Reads runs that lie close together. What the file no longer has is damaged.
fn read_span(span: &[HotRun]) -> Result<Vec<Vec<Piece>>> {
    let (Some(first), Some(last)) = (span.first(), span.last()) else { return Ok(Vec::new()) };
    let start = first.place.read_start();
    let length = usize::try_from(last.place.read_end() - start).unwrap_or(usize::MAX);
    let bytes = Bytes::from(first.segment.read_up_to(start, length)?);
    let slice = |run: &HotRun| {
        let at = |position: u64| usize::try_from(position - start).unwrap_or(usize::MAX).min(bytes.len());
        bytes.slice(at(run.place.read_start())..at(run.place.read_end()))
    };
    Ok(span.iter().map(|run| run.check(&slice(run))).collect())
}

/// How many runs from the first on are read in one go: they lie behind one another, with little between.
fn span_of(runs: &[HotRun]) -> usize {
    let Some(first) = runs.first() else { return 0 };
    let mut end = first.place.read_end();
    let mut count = 1;
    for run in &runs[1..] {
        let (from, to) = (run.place.read_start(), run.place.read_end());
        let near = from >= end && from <= end + GAP_BYTES_MAX && to - first.place.read_start() <= SPAN_BYTES_MAX;
        if run.segment.base != first.segment.base || !near {
            break;
        }
        end = to;
        count += 1;
    }
    count
}
