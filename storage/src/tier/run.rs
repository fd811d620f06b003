//! One run of tiering: some partitions of one topic become rows of one object.
//!
//! The order is the safety: the object is put, the manifest that names it is published and counts, readers see it, the
//! log learns how far it is tiered. A crash between any two leaves an object nobody names, or a manifest the log learns
//! of at the next start; never an offset that is nowhere.

use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::ids::{TopicId, TopicPartition};
use crate::log::{
    Aborted, Committed, DamagedOffsets, HotRange, HotRun, Node, Piece, has_rows, read_runs, visible_at_us,
};
use crate::manifest::edit::Edit;
use crate::manifest::model::{Cover, Entry, Lost, Object};
use crate::manifest::uploads::Upload;
use crate::record::batch::BatchLimits;
use crate::record::format::RecordFormat;
use crate::scan::blocks::Blocks;
use crate::tier::cold::Cold;
use crate::tier::declared::{Declared, DeclaredColumns};
use crate::tier::history::{Moved, removed_until_us};
use crate::tier::seal::Target;
use crate::tier::write::{Finished, ObjectWriter};
use crate::view::CheckpointReport;
use crate::worker;

/// Who knows the declared columns, once somebody does; weak, because SQL stands above and holds the storage.
pub(crate) type DeclaredBy = Arc<RwLock<Option<Weak<dyn DeclaredColumns>>>>;

/// Everything a run needs.
#[derive(Clone, Debug)]
pub(crate) struct Runner {
    /// Weak, so that a storage that is dropped without being closed lets go of its directory at once.
    pub(crate) node: Weak<Node>,
    pub(crate) cold: Arc<Cold>,
    pub(crate) limits: BatchLimits,
    /// `tier.run_bytes_max`.
    pub(crate) run_bytes_max: u64,
    pub(crate) declared_by: DeclaredBy,
    /// Rows of the log that others have decoded.
    pub(crate) blocks: Arc<Blocks>,
    /// Bytes of an object made of others, unless a single record is larger.
    pub(crate) rewrite_bytes_max: u64,
}

/// One partition's part of a run.
#[derive(Clone, Debug)]
struct Part {
    cover: Cover,
    runs: Vec<HotRun>,
    aborted: Aborted,
    committed: Committed,
    /// What is known to be unreadable.
    damaged: Vec<DamagedOffsets>,
}

impl Runner {
    /// The node, while it lives.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub(crate) fn node(&self) -> Result<Arc<Node>> {
        self.node.upgrade().ok_or(Error::Closed)
    }

    /// How the topic's records decode, if anything is declared over it.
    pub(crate) fn format_of(&self, topic: TopicId) -> Option<RecordFormat> {
        self.declared_by.read().as_ref().and_then(Weak::upgrade).and_then(|by| by.format_of(topic))
    }

    /// Tiers a topic up to its targets, in as many runs as the limit asks for; nothing if it is gone.
    ///
    /// # Errors
    /// Of a run; what was published stays.
    pub(crate) async fn tier_whole_topic(
        &self,
        topic: TopicId,
        targets: &[Target],
        report: &mut CheckpointReport,
    ) -> Result<()> {
        while let Some(done) = self.tier_topic(topic, targets).await? {
            report.objects += done.objects;
            report.rows += done.rows;
        }
        Ok(())
    }

    /// Lets the manifest follow the log starts of partitions, whoever moved them, and the log learn what it may forget.
    pub(crate) async fn follow(
        &self,
        node: &Node,
        topic: TopicId,
        partitions: impl IntoIterator<Item = i32>,
    ) -> Result<()> {
        let manifest = self.cold.manifests.get(topic);
        let (mut starts, mut moved) = (Vec::new(), Vec::new());
        for partition in partitions {
            let at = TopicPartition { topic, partition };
            // Deleted since we looked.
            let Ok(ends) = node.watermarks(at) else { continue };
            let to = ends.log_start_offset;
            if to > manifest.start(partition) {
                let Some(hot) =
                    node.pin_hot(&[(at, manifest.tiered_end(partition))]).ok().and_then(|mut all| all.pop())
                else {
                    continue;
                };
                starts.push((partition, to));
                moved.push(Moved { partition, to, hot });
            }
        }
        if starts.is_empty() {
            return Ok(());
        }
        let removed_until = removed_until_us(&self.cold, &manifest, moved, node.clock().now_us()).await?;
        let history_start_us = (removed_until > i64::MIN).then_some(removed_until);
        let published = self.cold.publish(topic, Edit::Trim { starts: starts.clone(), history_start_us }).await?;
        let ends = starts.iter().map(|(partition, _)| {
            let at = TopicPartition { topic, partition: *partition };
            (at, published.tiered_end(*partition), published.start(*partition))
        });
        node.set_tiered_end(&ends.collect::<Vec<_>>());
        Ok(())
    }

    /// One run of one topic; `None` if nothing is left to do.
    async fn tier_topic(&self, topic: TopicId, targets: &[Target]) -> Result<Option<CheckpointReport>> {
        let node = self.node()?;
        if node.topic_by_id(topic).is_none() {
            return Ok(None);
        }
        // Before an object is put that nobody could name.
        self.cold.manifests.check_readable(topic)?;
        // What was trimmed before it was tiered may be gone from the log: the manifest goes on behind it.
        let tiered = self.cold.manifests.get(topic);
        let trimmed = targets.iter().filter(|(at, _)| {
            let start = node.watermarks(*at).map_or(0, |ends| ends.log_start_offset);
            start > tiered.tiered_end(at.partition)
        });
        let trimmed: Vec<i32> = trimmed.map(|(at, _)| at.partition).collect();
        self.follow(&node, topic, trimmed).await?;
        let current = self.cold.manifests.get(topic);
        let left = targets.iter().filter_map(|(partition, end)| {
            let start = match current.partitions.get(&partition.partition) {
                Some(ends) => ends.end,
                None => node.watermarks(*partition).ok()?.tiered_end_offset,
            };
            (start < *end).then_some((*partition, start, *end))
        });
        let left: Vec<_> = left.collect();
        if left.is_empty() {
            return Ok(None);
        }
        let wanted: Vec<_> = left.iter().map(|(partition, start, _)| (*partition, *start)).collect();
        let ranges = match node.pin_hot(&wanted) {
            Ok(ranges) => ranges,
            // Deleted since we looked.
            Err(Error::UnknownTopic { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let moved = |range: &HotRange| {
            let start = left.iter().find(|(at, ..)| *at == range.partition).map_or(i64::MAX, |(_, start, _)| *start);
            range.start > start && node.watermarks(range.partition).is_ok_and(|ends| ends.log_start_offset > start)
        };
        if ranges.iter().any(moved) {
            // Trimmed and forgotten since we looked: the next run begins behind it.
            return Ok(Some(CheckpointReport::default()));
        }
        let bytes_max = self.run_bytes_max;
        let parts = worker::background(move || take(ranges, &left, bytes_max)).await?;
        if parts.is_empty() {
            return Ok(None);
        }
        let upload = self.cold.begin(topic);
        let (entry, report) = self.write_object(topic, &upload, parts).await?;
        let covers = entry.covers.clone();
        worker::crash_point("after an object is put");
        let published = match self.cold.publish(topic, Edit::Add(entry)).await {
            Ok(published) => published,
            // Offsets of this run were trimmed meanwhile: the next one begins behind them.
            Err(Error::Conflict { what }) => {
                tracing::debug!(%topic, what, "a run was overtaken and is made again");
                return Ok(Some(CheckpointReport::default()));
            }
            Err(error) => return Err(error),
        };
        let ends = covers.iter().map(|cover| {
            let partition = TopicPartition { topic, partition: cover.partition };
            (partition, published.tiered_end(cover.partition), published.start(cover.partition))
        });
        node.set_tiered_end(&ends.collect::<Vec<_>>());
        metrics::counter!("aquifer_tier_objects_total").increment(report.objects);
        metrics::counter!("aquifer_tier_rows_total").increment(report.rows);
        tracing::info!(%topic, version = published.version, rows = report.rows, "tiered");
        Ok(Some(report))
    }

    /// Builds the object in the background and puts it.
    async fn write_object(
        &self,
        topic: TopicId,
        upload: &Upload,
        parts: Vec<Part>,
    ) -> Result<(Entry, CheckpointReport)> {
        let covers = parts.iter().map(|part| part.cover).collect();
        let limits = self.limits;
        let format = self.format_of(topic);
        let blocks = Arc::clone(&self.blocks);
        let built = worker::background(move || {
            let declared = format.as_ref().map(|format| (format, blocks));
            build(topic, &parts, limits, declared)
        });
        let (finished, lost) = built.await?;
        for Lost { partition, start, end, place } in &lost {
            tracing::error!(%topic, partition, start, end, place, "records are lost for ever, tiering goes on behind them");
        }
        let Some(finished) = finished else {
            return Ok((Entry { covers, object: None, lost }, CheckpointReport::default()));
        };
        let rows = finished.row_groups.iter().map(|group| u64::from(group.rows)).sum();
        let object = self.put(topic, upload, finished).await?;
        Ok((Entry { covers, object: Some(object), lost }, CheckpointReport { objects: 1, rows }))
    }

    /// Puts an object under a fresh name.
    ///
    /// # Errors
    /// [`Error::ObjectStore`]: it may be there then, but nobody names it, and the sweep removes it.
    pub(crate) async fn put(&self, topic: TopicId, upload: &Upload, finished: Finished) -> Result<Object> {
        let Finished { bytes: payload, footer_bytes, footer_crc, chunk_crcs, row_groups } = finished;
        let bytes = payload.len() as u64;
        let path = self.cold.put(topic, upload, payload).await?;
        Ok(Object { path, bytes, footer_bytes, footer_crc, chunk_crcs, row_groups })
    }
}

/// What of the ranges, pinned in the order of `left`, goes into this run: runs in order until the limit is used up, at
/// least one. Blocks on the log's files.
fn take(ranges: Vec<HotRange>, left: &[(TopicPartition, i64, i64)], bytes_max: u64) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let (mut bytes, mut full) = (0, false);
    // They were pinned in this order, and a topic may have ten thousand of them.
    for (range, (partition, start, end)) in ranges.into_iter().zip(left) {
        debug_assert_eq!(range.partition, *partition, "a range of another partition was pinned");
        if full {
            break;
        }
        // What is damaged is in neither and never will be.
        if range.start > *start && !is_damaged(&range.damaged, *start, range.start.min(*end)) {
            return Err(Error::Corrupt {
                place: format!("log of topic {} partition {}", range.partition.topic, range.partition.partition),
                reason: format!("it begins at {} but only {start} is tiered", range.start),
            });
        }
        let end = (*end).min(range.end);
        let touched = range.runs()?.into_iter().filter(|run| run.last_offset >= *start && run.base_offset < end);
        let mut cover = Cover { partition: range.partition.partition, start: *start, end };
        let mut runs = Vec::new();
        for run in touched {
            if bytes > 0 && bytes + u64::from(run.len) > bytes_max {
                cover.end = run.base_offset.max(*start);
                full = true;
                break;
            }
            bytes += u64::from(run.len);
            runs.push(run);
        }
        if cover.start < cover.end {
            let (aborted, committed) = (Aborted::new(range.aborted), Committed::new(range.committed));
            parts.push(Part { cover, runs, aborted, committed, damaged: range.damaged });
        }
    }
    parts.sort_by_key(|part| part.cover.partition);
    Ok(parts)
}

/// Whether all offsets of `start..end` are damaged.
fn is_damaged(damaged: &[DamagedOffsets], start: i64, end: i64) -> bool {
    let mut next = start;
    while let Some(range) = damaged.iter().find(|range| (range.start..range.end).contains(&next)) {
        next = range.end;
    }
    next >= end
}

/// The object with the declared columns; without them if Parquet cannot hold them: the raw ones must never wait for
/// that. Blocks on the log's files and the processor.
fn build(
    topic: TopicId,
    parts: &[Part],
    limits: BatchLimits,
    declared: Option<(&RecordFormat, Arc<Blocks>)>,
) -> Result<(Option<Finished>, Vec<Lost>)> {
    if let Some((format, blocks)) = declared {
        let declared = Declared::new(format).and_then(|declared| declared.sharing(blocks, topic, format));
        match declared.and_then(|declared| build_with(topic, parts, limits, Some(declared))) {
            Err(error @ (Error::Format { .. } | Error::Config { .. })) => {
                tracing::warn!(%topic, %error, "an object is written without declared columns");
            }
            built => return built,
        }
    }
    build_with(topic, parts, limits, None)
}

fn build_with(
    topic: TopicId,
    parts: &[Part],
    limits: BatchLimits,
    declared: Option<Declared>,
) -> Result<(Option<Finished>, Vec<Lost>)> {
    let mut writer = ObjectWriter::new(topic.to_string(), limits, declared)?;
    let mut lost = Vec::new();
    for Part { cover, runs, aborted, committed, damaged } in parts {
        let mut damaged = damaged.clone();
        for pieces in read_runs(runs) {
            for piece in pieces? {
                let batches = match piece {
                    Piece::Batches(batches) => batches,
                    Piece::Damaged { offsets, .. } => {
                        damaged.push(offsets);
                        continue;
                    }
                };
                for found in batches.iter().filter(|found| has_rows(found.batch.header(), aborted)) {
                    let committed_at_us = visible_at_us(found, committed);
                    writer.push(cover.partition, committed_at_us, &found.batch, cover.start, cover.end)?;
                }
            }
        }
        lost.extend(lost_of(*cover, damaged));
    }
    Ok((writer.finish()?, lost))
}

/// What of a cover is damaged, in offset order.
fn lost_of(cover: Cover, mut damaged: Vec<DamagedOffsets>) -> Vec<Lost> {
    damaged.sort_by_key(|range| range.start);
    let Cover { partition, start: mut next, end: cover_end } = cover;
    let mut lost = Vec::new();
    for DamagedOffsets { start, end, place } in damaged {
        let (start, end) = (start.max(next), end.min(cover_end));
        if start < end {
            lost.push(Lost { partition, start, end, place });
            next = end;
        }
    }
    lost
}
