//! Reading the hot part: batches for a fetch, an offset for a time.
//!
//! The plan is made under the read lock and holds the files; reading and checking happens outside of it. Reads up to
//! [`INLINE_BYTES_MAX`] are done where they are asked for: what was written lately is in the page cache, and handing
//! such a read to another thread costs more than the read. Larger ones go to a thread that may block.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::ids::TopicPartition;
use crate::log::Reach;
use crate::log::hot::{HotRun, read_runs};
use crate::log::published::Published;
use crate::log::shared::Shared;
use crate::record::batch::{BatchLimits, CheckedBatch};
use crate::view::{FetchRequest, Fetched, TimedOffset, Watermarks};
use crate::worker;

const INLINE_BYTES_MAX: u64 = 64 << 10;

/// What a fetch will read.
enum FetchPlan {
    Done(Reach),
    Read { runs: Vec<HotRun>, watermarks: Watermarks },
}

/// Reads batches from the hot part.
///
/// # Errors
/// As [`crate::Storage::fetch`].
pub(crate) async fn fetch(shared: &Arc<Shared>, request: FetchRequest) -> Result<Reach> {
    let plan = plan_fetch(&shared.published.read(), request)?;
    let (runs, watermarks) = match plan {
        FetchPlan::Done(reach) => return Ok(reach),
        FetchPlan::Read { runs, watermarks } => (runs, watermarks),
    };
    let FetchRequest { offset, bytes_max, .. } = request;
    let batches = blocking(bytes_of(&runs), move || read_batches(&runs, offset, bytes_max)).await;
    match batches.inspect_err(|error| shared.note_damage(error)) {
        Ok(batches) => Ok(Reach::Hot(Fetched { batches, watermarks })),
        Err(Error::Corrupt { .. }) if offset < watermarks.tiered_end_offset => {
            Ok(Reach::Below { hot_start: watermarks.tiered_end_offset, watermarks })
        }
        Err(error) => Err(error),
    }
}

fn plan_fetch(published: &Published, request: FetchRequest) -> Result<FetchPlan> {
    let FetchRequest { partition, offset, bytes_max } = request;
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
    // Up to the next damaged range: the next fetch begins inside it and is told.
    let stop = view.damaged.iter().map(|range| range.start).filter(|start| *start > offset).min();
    let mut runs = Vec::new();
    let mut bytes = 0;
    for run in view.runs.starting_at(offset) {
        let enough = !runs.is_empty() && bytes >= bytes_max as u64;
        if enough || stop.is_some_and(|stop| run.base_offset >= stop) {
            break;
        }
        bytes += u64::from(run.bytes);
        runs.extend(published.hot_run(run));
    }
    Ok(FetchPlan::Read { runs, watermarks })
}

/// The batches from the one that holds `offset` on; what is damaged behind the first of them ends the answer.
fn read_batches(runs: &[HotRun], offset: i64, bytes_max: usize) -> Result<Vec<Bytes>> {
    let mut bytes = 0;
    let mut batches = Vec::new();
    for read in read_runs(runs) {
        let run = match read {
            Ok(run) => run,
            Err(error) if batches.is_empty() => return Err(error),
            Err(_) => break,
        };
        for batch in run.into_iter().filter(|batch| batch.header().last_offset() >= offset) {
            let length = batch.bytes().len();
            if !batches.is_empty() && bytes + length > bytes_max {
                return Ok(batches);
            }
            bytes += length;
            batches.push(batch.bytes().clone());
        }
    }
    Ok(batches)
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
    let log_start;
    let runs: Vec<HotRun> = {
        let published = shared.published.read();
        let view = published.partition(partition)?;
        log_start = view.log_start;
        // The first run that reaches so far holds such a record; of the very first one it may have been trimmed away.
        let runs = view.runs.starting_at(log_start).filter(|run| run.max_timestamp_ms >= timestamp_ms);
        runs.take(2).filter_map(|run| published.hot_run(run)).collect()
    };
    let limits = BatchLimits {
        decompressed_bytes_max: usize::try_from(shared.settings.batch_decompressed_bytes_max).unwrap_or(usize::MAX),
    };
    blocking(bytes_of(&runs), move || {
        for run in &runs {
            for batch in run.read()? {
                if let Some(found) = first_record_from(&batch, log_start, timestamp_ms, limits)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    })
    .await
}

fn first_record_from(
    batch: &CheckedBatch,
    log_start: i64,
    timestamp_ms: i64,
    limits: BatchLimits,
) -> Result<Option<TimedOffset>> {
    if batch.header().max_timestamp_ms < timestamp_ms {
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
