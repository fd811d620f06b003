//! Reading the hot part: batches for a fetch, an offset for a time.
//!
//! The plan is made under the read lock and holds the files; reading and checking happens outside of it. Reads up to
//! [`INLINE_BYTES_MAX`] are done where they are asked for: what was written lately is in the page cache, and handing
//! such a read to another thread costs more than the read. Larger ones go to a thread that may block.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::ids::TopicPartition;
use crate::log::Reach;
use crate::log::hot::{AbortedRange, HotRun, read_runs};
use crate::log::published::Published;
use crate::log::shared::Shared;
use crate::record::batch::{BatchLimits, CheckedBatch};
use crate::view::{AbortedTransaction, FetchRequest, Fetched, Isolation, TimedOffset, Watermarks};
use crate::worker;

const INLINE_BYTES_MAX: u64 = 64 << 10;

/// What a fetch will read.
enum FetchPlan {
    Done(Reach),
    Read { runs: Vec<HotRun>, end: i64, aborted: Vec<AbortedRange>, watermarks: Watermarks },
}

/// Reads batches from the hot part.
///
/// # Errors
/// As [`crate::Storage::fetch`].
pub(crate) async fn fetch(shared: &Arc<Shared>, request: FetchRequest) -> Result<Reach> {
    let plan = plan_fetch(&shared.published.read(), request)?;
    let (runs, end, aborted, watermarks) = match plan {
        FetchPlan::Done(reach) => return Ok(reach),
        FetchPlan::Read { runs, end, aborted, watermarks } => (runs, end, aborted, watermarks),
    };
    let FetchRequest { offset, bytes_max, .. } = request;
    let batches = blocking(bytes_of(&runs), move || read_batches(&runs, offset..end, bytes_max)).await;
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
    // Up to the next damaged range: the next fetch begins inside it and is told.
    let stop = view.damaged.iter().map(|range| range.start).filter(|start| *start > offset).min();
    let mut runs = Vec::new();
    let mut bytes = 0;
    for run in view.runs.starting_at(offset) {
        let enough = !runs.is_empty() && bytes >= bytes_max as u64;
        if enough || run.base_offset >= end || stop.is_some_and(|stop| run.base_offset >= stop) {
            break;
        }
        bytes += u64::from(run.bytes);
        runs.extend(published.hot_run(run));
    }
    let last = runs.last().map_or(offset, |run| run.last_offset);
    // Those that begin behind what is read are not told; a later fetch asks again.
    let aborted = aborted.iter().filter(|range| range.first_offset <= last).copied().collect();
    Ok(FetchPlan::Read { runs, end, aborted, watermarks })
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
        let run = match read {
            Ok(run) => run,
            Err(error) if batches.is_empty() => return Err(error),
            Err(_) => break,
        };
        for batch in run.into_iter().filter(|batch| batch.header().last_offset() >= range.start) {
            let length = batch.bytes().len();
            let enough = !batches.is_empty() && bytes + length > bytes_max;
            if enough || batch.header().base_offset >= range.end {
                return Ok((batches, end));
            }
            bytes += length;
            end = batch.header().last_offset() + 1;
            batches.push(batch.bytes().clone());
        }
    }
    Ok((batches, end))
}

/// The first record of the hot part at or after a time.
///
/// # Errors
/// As [`crate::Storage::fetch`].
pub(crate) async fn offset_for_timestamp(
    shared: &Arc<Shared>,
    partition: TopicPartition,
    timestamp_ms: i64,
) -> Result<Option<TimedOffset>> {
    let limits = BatchLimits {
        decompressed_bytes_max: usize::try_from(shared.settings.batch_decompressed_bytes_max).unwrap_or(usize::MAX),
    };
    let mut from = i64::MIN;
    loop {
        let log_start;
        let late: Option<HotRun> = {
            let published = shared.published.read();
            let view = published.partition(partition)?;
            log_start = view.log_start;
            // The first run that reaches so far holds such a record, unless it is a marker that does, or one trimmed away.
            let mut runs = view.runs.starting_at(log_start.max(from));
            let late = runs.find(|run| run.max_timestamp_ms >= timestamp_ms);
            late.and_then(|run| published.hot_run(run))
        };
        let Some(run) = late else { return Ok(None) };
        from = run.last_offset + 1;
        let found = blocking(run.len.into(), move || {
            for batch in run.read()? {
                if let Some(found) = first_record_from(&batch, log_start, timestamp_ms, limits)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        });
        if let Some(found) = found.await? {
            return Ok(Some(found));
        }
    }
}

fn first_record_from(
    batch: &CheckedBatch,
    log_start: i64,
    timestamp_ms: i64,
    limits: BatchLimits,
) -> Result<Option<TimedOffset>> {
    if batch.header().max_timestamp_ms < timestamp_ms || batch.header().is_control() {
        return Ok(None);
    }
    let records = batch.records(limits)?;
    for record in records.iter() {
        let record = record?;
        if record.timestamp_ms >= timestamp_ms && record.offset >= log_start {
            return Ok(Some(TimedOffset { offset: record.offset, timestamp_ms: record.timestamp_ms }));
        }
    }
    Ok(None)
}

fn bytes_of(runs: &[HotRun]) -> u64 {
    runs.iter().map(|run| u64::from(run.len)).sum()
}

async fn blocking<T: Send + 'static>(bytes: u64, read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if bytes <= INLINE_BYTES_MAX {
        return read();
    }
    // A cancelled or panicked read has no answer; the runtime is going down then.
    worker::blocking(read).await
}
