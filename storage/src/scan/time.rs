//! An offset by its time: the first record at or after a moment, the record with the largest timestamp.
//!
//! Exact, whatever order timestamps come in: "first" is by offset. Log and manifest are pinned as for a scan (the log
//! first, see [`crate::scan::seam`]), so that no record is looked for on the wrong side of the seam while tiering moves it.
//! The log is looked at up to its high watermark: who wants stable records only compares the offset. What is damaged is
//! passed over: it cannot be read either. As with Kafka, records of an aborted transaction count as long as the log has
//! them; markers never do.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMillisecondType};
use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result};
use crate::ids::TopicPartition;
use crate::log::{HotStretch, Node, Piece};
use crate::manifest::model::{GroupAt, TopicManifest, Wanted, groups_of};
use crate::record::batch::{BatchLimits, CheckedBatch};
use crate::record::columns::RecordColumn;
use crate::scan::parquet;
use crate::tier::Tier;
use crate::tier::cold::Cold;
use crate::view::TimedOffset;
use crate::worker;

/// Row groups read for the largest timestamp. Only the first and the last one that are looked at may hold other records
/// than they are known for, beyond the offsets of interest; so of three one is as good as it says.
const LATEST_MAX: usize = 3;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sought {
    /// The first record at or after this, ms.
    From(i64),
    /// The first of those records that have the largest timestamp.
    Largest,
}

impl Sought {
    /// Whether a stretch of records with this largest timestamp may hold something better than `best`, when it begins
    /// at `first_offset`.
    fn may_be_in(self, max_timestamp_ms: i64, first_offset: i64, best: Option<TimedOffset>) -> bool {
        match (self, best) {
            (Self::From(timestamp_ms), None) => max_timestamp_ms >= timestamp_ms,
            (Self::From(_), Some(best)) => first_offset < best.offset,
            (Self::Largest, None) => true,
            (Self::Largest, Some(best)) => {
                max_timestamp_ms > best.timestamp_ms
                    || (max_timestamp_ms == best.timestamp_ms && first_offset < best.offset)
            }
        }
    }

    /// The better one of what was found and a record that comes after it.
    fn better(self, best: Option<TimedOffset>, offset: i64, timestamp_ms: i64) -> Option<TimedOffset> {
        let record = Some(TimedOffset { offset, timestamp_ms });
        match (self, best) {
            (Self::From(wanted), None) => record.filter(|record| record.timestamp_ms >= wanted),
            (Self::From(_), Some(_)) => best,
            (Self::Largest, None) => record,
            (Self::Largest, Some(found)) => {
                let better = (timestamp_ms, found.offset) > (found.timestamp_ms, offset);
                if better { record } else { best }
            }
        }
    }
}

/// Offsets of one partition that are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Within {
    /// First offset.
    pub(crate) start: i64,
    /// First offset not looked at any more.
    pub(crate) end: i64,
}

/// Looks for it in all that the partition holds.
///
/// # Errors
/// [`Error::UnknownTopic`], [`Error::UnknownPartition`], [`Error::Corrupt`], [`Error::ObjectStore`].
pub(crate) async fn find(
    node: &Node,
    tier: &Tier,
    partition: TopicPartition,
    sought: Sought,
) -> Result<Option<TimedOffset>> {
    let hot = node.pin_untiered(partition)?;
    let ends = hot.watermarks;
    let manifest = tier.cold().manifests.get(partition.topic);
    let start = ends.log_start_offset.max(manifest.start(partition.partition));
    let seam = ends.tiered_end_offset;
    let below = Within { start, end: seam };
    if start < seam {
        tier.cold().manifests.check_readable(partition.topic)?;
    }
    if let Sought::From(_) = sought {
        let found = find_cold(tier.cold(), &manifest, partition.partition, below, sought, None).await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    let above = Within { start: start.max(seam), end: ends.high_watermark };
    let found = worker::blocking(move || find_hot(hot.stretches, above, sought)).await?;
    match sought {
        Sought::From(_) => Ok(found),
        Sought::Largest => find_cold(tier.cold(), &manifest, partition.partition, below, sought, found).await,
    }
}

/// Looks into the row groups that may hold something better than `best`.
pub(crate) async fn find_cold(
    cold: &Arc<Cold>,
    manifest: &Arc<TopicManifest>,
    partition: i32,
    within: Within,
    sought: Sought,
    mut best: Option<TimedOffset>,
) -> Result<Option<TimedOffset>> {
    // Only what may hold something better.
    let timestamp_min_ms = match (sought, best) {
        (Sought::From(timestamp_ms), _) => Some(timestamp_ms),
        (Sought::Largest, best) => best.map(|best| best.timestamp_ms),
    };
    let wanted = Wanted { timestamp_min_ms, ..Wanted::offsets(within.start, within.end) };
    let entries = cold.entries_of(manifest, partition, wanted);
    let groups = entries.map_ok(move |entry| {
        let groups: Vec<_> = groups_of(&entry, partition, within.start, within.end).collect();
        stream::iter(groups.into_iter().map(Ok))
    });
    let mut groups = groups.try_flatten().boxed();
    let mut latest: Vec<GroupAt> = Vec::new();
    while let Some(at) = groups.try_next().await? {
        if sought == Sought::Largest {
            latest.push(at);
            latest.sort_by_key(|at| (std::cmp::Reverse(at.group.max_timestamp_ms), at.group.first_offset));
            latest.truncate(LATEST_MAX);
        } else if sought.may_be_in(at.group.max_timestamp_ms, at.group.first_offset, best) {
            best = best_of_group(cold, &at, within, sought, best).await?;
            if best.is_some() {
                return Ok(best);
            }
        }
    }
    for at in latest {
        if sought.may_be_in(at.group.max_timestamp_ms, at.group.first_offset, best) {
            best = best_of_group(cold, &at, within, sought, best).await?;
        }
    }
    Ok(best)
}

async fn best_of_group(
    cold: &Cold,
    at: &GroupAt,
    within: Within,
    sought: Sought,
    best: Option<TimedOffset>,
) -> Result<Option<TimedOffset>> {
    let rows = parquet::read_group(cold, at, &[RecordColumn::Offset, RecordColumn::Timestamp]).await?;
    let wrong = || Error::Corrupt { place: "cold rows".into(), reason: "offset or time is of another type".into() };
    let offsets = rows.column(0).as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
    let times = rows.column(1).as_primitive_opt::<TimestampMillisecondType>().ok_or_else(wrong)?;
    let rows = offsets.values().iter().zip(times.values());
    let rows = rows.filter(|(offset, _)| (within.start..within.end).contains(*offset));
    Ok(rows.fold(best, |best, (offset, time)| sought.better(best, *offset, *time)))
}

/// Looks into the log's stretches. Blocks on files.
fn find_hot(mut stretches: Vec<HotStretch>, within: Within, sought: Sought) -> Result<Option<TimedOffset>> {
    if sought == Sought::Largest {
        stretches.sort_by_key(|of| (std::cmp::Reverse(of.stretch.max_timestamp_ms), of.stretch.base_offset));
    }
    let mut best = None;
    for of in stretches {
        if sought.may_be_in(of.stretch.max_timestamp_ms, of.stretch.base_offset, best) {
            best = best_of_stretch(&of, within, sought, best)?;
        }
        if matches!(sought, Sought::From(_)) && best.is_some() {
            break;
        }
    }
    Ok(best)
}

fn best_of_stretch(
    stretch: &HotStretch,
    within: Within,
    sought: Sought,
    mut best: Option<TimedOffset>,
) -> Result<Option<TimedOffset>> {
    for run in stretch.runs()? {
        if sought.may_be_in(run.max_timestamp_ms, run.base_offset, best) {
            for piece in run.read()? {
                // What cannot be read is nobody's answer; who asks for it is told.
                let Piece::Batches(batches) = piece else { continue };
                for found in batches {
                    best = best_of_batch(&found.batch, within, sought, best)?;
                }
            }
        }
    }
    Ok(best)
}

fn best_of_batch(
    batch: &CheckedBatch,
    within: Within,
    sought: Sought,
    mut best: Option<TimedOffset>,
) -> Result<Option<TimedOffset>> {
    let header = batch.header();
    if header.is_control() || !sought.may_be_in(header.max_timestamp_ms, header.base_offset, best) {
        return Ok(best);
    }
    let records = batch.records(BatchLimits::STORED)?;
    for record in records.iter() {
        let record = record?;
        if (within.start..within.end).contains(&record.offset) {
            best = sought.better(best, record.offset, record.timestamp_ms);
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_the_better_one() {
        let fold = |sought: Sought, records: &[(i64, i64)]| {
            records.iter().fold(None, |best, (offset, time)| sought.better(best, *offset, *time))
        };
        let records = [(0, 5), (1, 9), (2, 7), (3, 9), (4, 1)];
        let found = |offset, timestamp_ms| Some(TimedOffset { offset, timestamp_ms });
        assert_eq!(fold(Sought::Largest, &records), found(1, 9));
        assert_eq!(fold(Sought::Largest, &records[2..]), found(3, 9));
        assert_eq!(fold(Sought::From(6), &records), found(1, 9));
        assert_eq!(fold(Sought::From(10), &records), None);
        let best = found(3, 9);
        assert!(Sought::Largest.may_be_in(9, 1, best) && !Sought::Largest.may_be_in(9, 4, best));
        assert!(Sought::Largest.may_be_in(10, 4, best) && !Sought::Largest.may_be_in(8, 0, best));
        let reversed = Sought::Largest.better(found(7, 9), 1, 9);
        assert_eq!(reversed, found(1, 9), "the log is looked at before what is cold");
    }
}
