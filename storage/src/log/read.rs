//! Reading the hot part: batches for a fetch.
//!
//! The plan is made under the read lock and holds the files; reading and checking happens outside of it. Reads up to
//! [`INLINE_BYTES_MAX`] are done where they are asked for: what was written lately is in the page cache, and handing
//! such a read to another thread costs more than the read. Larger ones go to a thread that may block.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::log::Reach;
use crate::log::frame::RUN_BYTES;
use crate::log::hot::{AbortedRange, HotRun, HotStretch, Piece, read_runs};
use crate::log::published::Published;
use crate::log::shared::Shared;
use crate::view::{AbortedTransaction, FetchRequest, Fetched, Isolation, Watermarks};
use crate::worker;

const INLINE_BYTES_MAX: u64 = 64 << 10;

/// What a fetch will read.
enum FetchPlan {
    Done(Reach),
    Read { stretches: Vec<HotStretch>, end: i64, aborted: Vec<AbortedRange>, watermarks: Watermarks },
}

/// Reads batches from the hot part.
///
/// # Errors
/// As [`crate::Storage::fetch`].
pub(crate) async fn fetch(shared: &Arc<Shared>, request: FetchRequest) -> Result<Reach> {
    let plan = plan_fetch(&shared.published.read(), request)?;
    let (stretches, end, aborted, watermarks) = match plan {
        FetchPlan::Done(reach) => return Ok(reach),
        FetchPlan::Read { stretches, end, aborted, watermarks } => (stretches, end, aborted, watermarks),
    };
    let FetchRequest { offset, bytes_max, .. } = request;
    let cost = bytes_of(&stretches).map(|bytes| bytes.min(bytes_max as u64));
    let read = move || read_batches(&runs_from(&stretches, offset, bytes_max)?, offset..end, bytes_max);
    let batches = blocking(cost, read).await;
    match batches.inspect_err(|error| shared.note_damage(error)) {
        Ok((batches, end)) => Ok(Reach::Hot(Fetched { batches, watermarks, aborted: told(&aborted, end) })),
        Err(Error::Corrupt { .. }) if offset < watermarks.tiered_end_offset => {
            Ok(Reach::Below { hot_start: watermarks.tiered_end_offset, watermarks })
        }
        Err(error) => Err(error),
    }
}

fn plan_fetch(published: &Published, request: FetchRequest) -> Result<FetchPlan> {
    let FetchRequest { partition, offset, bytes_max, isolation } = request;
    let view = published.partition(partition)?;
    let watermarks = view.watermarks();
    let Watermarks { log_start_offset, high_watermark, tiered_end_offset, .. } = watermarks;
    if offset < log_start_offset || offset > high_watermark {
        return Err(Error::OffsetOutOfRange { offset, log_start_offset, high_watermark });
    }
    if let Some(damaged) = view.damage_at(offset) {
        if offset < tiered_end_offset {
            let hot_start = damaged.end.min(tiered_end_offset);
            return Ok(FetchPlan::Done(Reach::Below { hot_start, watermarks }));
        }
        let reason = format!("offsets {}..{} are damaged", damaged.start, damaged.end);
        return Err(Error::Corrupt { place: damaged.place.clone(), reason });
    }
    let hot_start = view.hot_start();
    if offset < hot_start {
        if offset >= tiered_end_offset {
            let reason = format!("offsets {offset}..{hot_start} are neither in the log nor in objects");
            return Err(Error::Corrupt { place: format!("partition {}", partition.partition), reason });
        }
        return Ok(FetchPlan::Done(Reach::Below { hot_start, watermarks }));
    }
    let (end, aborted) = match isolation {
        Isolation::ReadUncommitted => (high_watermark, &[][..]),
        Isolation::ReadCommitted => {
            let from = view.aborted.partition_point(|range| range.last_offset < offset);
            (watermarks.last_stable_offset, &view.aborted[from..])
        }
    };
    if offset >= end {
        // Also of the batch of an open transaction into which the log start was moved.
        return Ok(FetchPlan::Done(Reach::Hot(Fetched { watermarks, ..Fetched::default() })));
    }
    // Up to the next damaged range: the next fetch begins inside it and is told.
    let stop = view.damaged.iter().map(|range| range.start).filter(|start| *start > offset).min();
    let mut stretches = Vec::new();
    let (mut bytes, bytes_max) = (0, bytes_max as u64);
    let mut last = offset;
    for stretch in view.runs.starting_at(offset) {
        let enough = !stretches.is_empty() && bytes >= bytes_max;
        if enough || stretch.base_offset >= end || stop.is_some_and(|stop| stretch.base_offset >= stop) {
            break;
        }
        stretches.extend(published.hot_stretch(partition, stretch, offset, bytes_max.saturating_sub(bytes)));
        bytes += stretch.bytes_within(offset, i64::MAX);
        last = stretch.last_offset;
    }
    // Those that begin behind what is read are not told; a later fetch asks again.
    let aborted = aborted.iter().filter(|range| range.first_offset <= last).copied().collect();
    Ok(FetchPlan::Read { stretches, end, aborted, watermarks })
}

/// The runs from the one that holds `offset` on that make up so many bytes; at least one, if there is one.
fn runs_from(stretches: &[HotStretch], offset: i64, bytes_max: usize) -> Result<Vec<HotRun>> {
    let mut runs: Vec<HotRun> = Vec::new();
    let mut bytes = 0;
    for stretch in stretches {
        for run in stretch.runs()?.into_iter().filter(|run| run.last_offset >= offset) {
            // A long run is as good as one batch: if it does not fit, it would be read in vain.
            let long = run.len as usize > RUN_BYTES;
            let fits = bytes + u64::from(run.len) <= bytes_max as u64;
            if !runs.is_empty() && (bytes >= bytes_max as u64 || (long && !fits)) {
                return Ok(runs);
            }
            bytes += u64::from(run.len);
            runs.push(run);
        }
    }
    Ok(runs)
}

/// Aborted transactions as a consumer is told of them, which begin below an offset.
fn told(aborted: &[AbortedRange], end: i64) -> Vec<AbortedTransaction> {
    let ranges = aborted.iter().filter(|range| range.first_offset < end);
    let mut told: Vec<_> = ranges
        .map(|range| AbortedTransaction { producer_id: range.producer_id, first_offset: range.first_offset })
        .collect();
    told.sort_by_key(|aborted| aborted.first_offset);
    told
}

/// The batches from the one that holds the range's start on, below its end, and the offset behind them; what is damaged
/// behind the first of them ends the answer.
fn read_batches(runs: &[HotRun], range: Range<i64>, bytes_max: usize) -> Result<(Vec<Bytes>, i64)> {
    let mut bytes = 0;
    let mut batches = Vec::new();
    let mut end = range.start;
    for read in read_runs(runs) {
        let pieces = match read {
            Ok(pieces) => pieces,
            Err(error) if batches.is_empty() => return Err(error),
            Err(_) => break,
        };
        for piece in pieces {
            let found = match piece {
                Piece::Batches(found) => found,
                Piece::Damaged { offsets, .. } if offsets.end <= range.start => continue,
                Piece::Damaged { offsets, reason } if batches.is_empty() => {
                    return Err(Error::Corrupt { place: offsets.place, reason });
                }
                Piece::Damaged { .. } => return Ok((batches, end)),
            };
            for batch in found.into_iter().map(|found| found.batch) {
                let length = batch.bytes().len();
                if batch.header().last_offset() < range.start {
                    continue;
                }
                let enough = !batches.is_empty() && bytes + length > bytes_max;
                if enough || batch.header().base_offset >= range.end {
                    return Ok((batches, end));
                }
                bytes += length;
                end = batch.header().last_offset() + 1;
                batches.push(batch.bytes().clone());
            }
        }
    }
    Ok((batches, end))
}

/// What reading them costs; `None` if not even their runs are at hand.
fn bytes_of(stretches: &[HotStretch]) -> Option<u64> {
    let at_hand = stretches.iter().all(HotStretch::is_at_hand);
    at_hand.then(|| stretches.iter().map(|of| of.stretch.bytes).sum())
}

async fn blocking<T: Send + 'static>(
    bytes: Option<u64>,
    read: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if bytes.is_some_and(|bytes| bytes <= INLINE_BYTES_MAX) {
        return read();
    }
    // A cancelled or panicked read has no answer; the runtime is going down then.
    worker::blocking(read).await
}
