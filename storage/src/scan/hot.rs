//! Pinned batches of the log as rows: only the columns asked for, only the offsets wanted, in offset order.
//!
//! Runs of the log may be as small as one record, so many are read at once and their rows collected until a batch is
//! full; and they may decompress to a multiple, so that is done one Kafka batch at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use futures::{Stream, StreamExt, stream};

use crate::error::Result;
use crate::log::{
    Aborted, Committed, HotBatch, HotRange, HotRun, HotStretch, Piece, has_rows, read_runs, visible_at_us,
};
use crate::manifest::model::Wanted;
use crate::record::batch::BatchLimits;
use crate::record::columns::RecordColumn;
use crate::record::rows::{RowBuilder, RowOrigin};
use crate::scan::request::{Asked, RawRows};
use crate::view::DecodedStream;
use crate::worker;

/// Bytes of runs read in one step, unless a single run is larger.
const READ_BYTES_MAX: u64 = 4 << 20;

/// A scan in progress; every step blocks on the file, so steps run on the blocking threads.
struct HotScan {
    partition: i32,
    wanted: Wanted,
    limits: BatchLimits,
    batch_rows: usize,
    /// Whether a row is only counted.
    counting: bool,
    /// Not looked into yet.
    stretches: VecDeque<HotStretch>,
    runs: VecDeque<HotRun>,
    aborted: Aborted,
    committed: Committed,
    /// Batches read and not yet looked at.
    batches: VecDeque<HotBatch>,
    rows: RowBuilder,
    /// Full batches of rows not yet given.
    ready: VecDeque<RecordBatch>,
}

/// Rows of what is pinned with these columns in this order, at most `batch_rows` in a batch. Control batches and what
/// was aborted have none.
pub(crate) fn rows(
    range: &HotRange,
    columns: &[RecordColumn],
    wanted: Wanted,
    batch_rows: usize,
    limits: BatchLimits,
) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    let touches = |stretch: &&HotStretch| {
        let is_within = stretch.stretch.base_offset < wanted.end && stretch.stretch.last_offset >= wanted.start;
        is_within && wanted.start < wanted.end
    };
    let scan = HotScan {
        partition: range.partition.partition,
        wanted,
        limits,
        batch_rows: batch_rows.max(1),
        counting: columns.is_empty(),
        stretches: range.stretches.iter().filter(touches).cloned().collect(),
        runs: VecDeque::new(),
        aborted: Aborted::new(range.aborted.clone()),
        committed: Committed::new(range.committed.clone()),
        batches: VecDeque::new(),
        rows: RowBuilder::new(columns),
        ready: VecDeque::new(),
    };
    stream::try_unfold(scan, |mut scan| async move {
        if scan.is_finished() {
            return Ok(None);
        }
        worker::blocking(move || scan.next().map(|rows| rows.map(|rows| (rows, scan)))).await
    })
}

/// The rows that are asked for of what is pinned, decoded for whoever asks.
///
/// # Errors
/// [`crate::Error::Config`] for a declaration that makes no sense.
pub(super) fn decoded(
    range: &HotRange,
    asked: &Arc<Asked>,
    wanted: Wanted,
    limits: BatchLimits,
) -> Result<DecodedStream> {
    let mut raw = RawRows::new(asked)?;
    let rows = rows(range, raw.columns(), wanted, asked.batch_rows, limits);
    let asked = Arc::clone(asked);
    let rows = rows.map(move |rows| {
        let rows = rows?;
        asked.meter.hot_rows(rows.num_rows());
        raw.read(rows)
    });
    Ok(rows.boxed())
}

impl HotScan {
    fn is_finished(&self) -> bool {
        self.ready.is_empty()
            && self.stretches.is_empty()
            && self.runs.is_empty()
            && self.batches.is_empty()
            && self.rows.rows() == 0
    }

    /// The next batch of rows; `None` at the end.
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(rows) = self.ready.pop_front() {
                return Ok(Some(rows));
            }
            if let Some(found) = self.batches.pop_front() {
                self.add(&found)?;
            } else if !self.runs.is_empty() {
                self.read()?;
            } else if let Some(stretch) = self.stretches.pop_front() {
                self.look_into(&stretch)?;
            } else if self.rows.rows() > 0 {
                return self.rows.finish().map(Some);
            } else {
                return Ok(None);
            }
        }
    }

    /// Finds the runs of a stretch that hold rows of interest.
    fn look_into(&mut self, stretch: &HotStretch) -> Result<()> {
        let (wanted, committed) = (self.wanted, &self.committed);
        // What a transaction wrote became visible later than its frame was written, and never earlier.
        let since = |first_offset: i64, last_offset: i64, last_commit_us: i64| {
            wanted.committed_min_us.is_none_or(|from_us| {
                last_commit_us >= from_us || committed.reaches(first_offset, last_offset, from_us)
            })
        };
        let may_hold = |run: &HotRun| {
            run.last_offset >= wanted.start
                && run.base_offset < wanted.end
                // Of a run only the largest timestamp is known.
                && wanted.may_hold(i64::MIN, run.max_timestamp_ms)
                && since(run.base_offset, run.last_offset, run.last_commit_us)
        };
        let whole = &stretch.stretch;
        if wanted.may_hold(i64::MIN, whole.max_timestamp_ms)
            && wanted.may_hold_commits(whole.first_commit_us, i64::MAX)
            && since(whole.base_offset, whole.last_offset, whole.last_commit_us)
        {
            let runs = stretch.runs()?.into_iter().filter(may_hold);
            self.runs.extend(runs);
        }
        Ok(())
    }

    /// Reads some runs. Damage that lies outside of what is wanted is nobody's concern.
    fn read(&mut self) -> Result<()> {
        let mut bytes = 0;
        let fits = |run: &&HotRun| {
            bytes += u64::from(run.len);
            bytes <= READ_BYTES_MAX
        };
        let count = self.runs.iter().take_while(fits).count().max(1);
        let runs: Vec<HotRun> = self.runs.drain(..count.min(self.runs.len())).collect();
        for pieces in read_runs(&runs) {
            for piece in pieces? {
                match piece {
                    Piece::Damaged { offsets, .. }
                        if offsets.end <= self.wanted.start || offsets.start >= self.wanted.end => {}
                    piece => self.batches.extend(piece.whole()?),
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, found: &HotBatch) -> Result<()> {
        let (batch, committed_at_us) = (&found.batch, visible_at_us(found, &self.committed));
        let header = batch.header();
        let outside = header.last_offset() < self.wanted.start
            || header.base_offset >= self.wanted.end
            || !self.wanted.may_hold(i64::MIN, header.max_timestamp_ms)
            || !self.wanted.may_hold_commits(committed_at_us, committed_at_us);
        if outside || !has_rows(header, &self.aborted) {
            return Ok(());
        }
        let within = header.base_offset >= self.wanted.start && header.last_offset() < self.wanted.end;
        if self.counting && within {
            // Counts need no decompression; the count was checked when the batch was taken in.
            return self.count(usize::try_from(header.record_count).unwrap_or(0));
        }
        let origin = RowOrigin { partition: self.partition, timestamp_type: header.timestamp_type(), committed_at_us };
        let records = batch.records(self.limits)?;
        for record in records.iter() {
            let record = record?;
            if record.offset >= self.wanted.start && record.offset < self.wanted.end {
                self.rows.push(&origin, &record);
                self.give_if_full()?;
            }
        }
        Ok(())
    }

    fn count(&mut self, mut rows: usize) -> Result<()> {
        while rows > 0 {
            let step = rows.min(self.batch_rows - self.rows.rows());
            self.rows.push_unseen(step);
            rows -= step;
            self.give_if_full()?;
        }
        Ok(())
    }

    fn give_if_full(&mut self) -> Result<()> {
        if self.rows.is_full(self.batch_rows) {
            self.ready.push_back(self.rows.finish()?);
        }
        Ok(())
    }
}
