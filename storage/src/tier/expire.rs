//! Retention of one topic: how far the log start of each partition moves, by what is cold and what is still hot.
//!
//! Of the cold part only that is read which may go, and that of which it is not known how much it takes: of a chunk that has
//! not changed that is remembered, by partition ([`Known`](crate::tier::known::Known)).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::commit::{Commit, Trim};
use crate::error::Result;
use crate::ids::TopicPartition;
use crate::log::{HotRun, Node};
use crate::manifest::model::{ChunkRef, Cover, GroupAt, TopicManifest};
use crate::manifest::walk::Met;
use crate::tier::compact::groups_of;
use crate::tier::retain::{Advance, Retention, Stretch};
use crate::tier::upkeep::{Upkeep, table_of};
use crate::topic_config::ResolvedTopicConfig;
use crate::view::{Topic, VacuumReport};
use crate::worker;

/// Log starts moved in one commit.
const TRIMS_MAX: usize = 1_000;

impl Upkeep {
    /// Moves log starts behind what is too old or too much.
    pub(super) async fn retain(
        &self,
        node: &Node,
        topic: &Topic,
        config: &ResolvedTopicConfig,
        report: &mut VacuumReport,
    ) -> Result<()> {
        let retention = Retention { ms: config.retention_ms, bytes: config.retention_bytes };
        if !config.cleanup_policy.deletes() || !retention.is_finite() {
            return Ok(());
        }
        // Before they are asked what they need: who comes later has not agreed, and the commit is refused.
        let agreed = node.holders_of(topic.id);
        let mut trims = Vec::new();
        for (partition, advance) in self.advances(node, topic, retention).await? {
            let at = TopicPartition { topic: topic.id, partition };
            let (start, new_start) = self.new_start(node, at, retention, advance).await?;
            if new_start > start {
                report.offsets_trimmed += u64::try_from(new_start - start).unwrap_or(0);
                trims.push(Trim { partition: at, log_start_offset: new_start });
            }
        }
        for trims in trims.chunks(TRIMS_MAX) {
            let (trims, trim_agreed) = (trims.to_vec(), agreed.clone());
            node.commit(Commit { trims, trim_agreed, ..Commit::default() }).await?;
        }
        Ok(())
    }

    /// How far each partition's log start moves within the cold part. Entries are read as far as they must be and not
    /// kept.
    pub(super) async fn advances(
        &self,
        node: &Node,
        topic: &Topic,
        retention: Retention,
    ) -> Result<BTreeMap<i32, Advance>> {
        let (manifest, now_ms) = (self.runner.cold.manifests.get(topic.id), node.clock().now_ms());
        let mut advances = BTreeMap::new();
        for partition in 0..topic.partitions {
            let at = TopicPartition { topic: topic.id, partition };
            let (watermarks, cold_end) = (node.watermarks(at)?, manifest.tiered_end(partition));
            // What the log does not know to be cold yet would be counted twice.
            let bytes = if watermarks.tiered_end_offset < cold_end { 0 } else { node.untiered_bytes(at)? };
            let start = watermarks.log_start_offset;
            let needed = self.needed_from(node, at).unwrap_or(i64::MAX);
            advances.insert(partition, Advance { start, bytes, ended: needed <= start, cold_end, needed });
        }
        if retention.bytes >= 0 {
            self.add_cold_bytes(&manifest, &mut advances, retention.bytes).await?;
        }
        // Only those of which something is cold can end there.
        let mut left = advances.values().filter(|advance| advance.has_more()).count();
        let mut cursor = self.runner.cold.cursor(&manifest);
        while left > 0
            && let Some(met) = cursor.step()
        {
            match met {
                Met::Chunk(chunk) => {
                    let (goes, ended) = may_go(&chunk, &mut advances, retention, now_ms);
                    left = left.saturating_sub(ended);
                    if goes {
                        cursor.enter(&chunk).await?;
                    }
                }
                Met::Entry(entry) => {
                    for (at, bytes) in groups_of(&entry) {
                        let Some(advance) = advances.get_mut(&at.group.partition) else { continue };
                        if !advance.ended && at.group.last_offset >= advance.start {
                            let had_more = advance.has_more();
                            advance.look(retention, &stretch_of(&at, bytes), now_ms);
                            left = left.saturating_sub(usize::from(had_more && !advance.has_more()));
                        }
                    }
                }
                Met::End(_) => {}
            }
        }
        Ok(advances)
    }

    /// Adds what the cold part of each partition takes, if it may be more than a partition keeps.
    async fn add_cold_bytes(
        &self,
        manifest: &Arc<TopicManifest>,
        advances: &mut BTreeMap<i32, Advance>,
        kept: i64,
    ) -> Result<()> {
        let hot_bytes = advances.values().map(|advance| advance.bytes).max().unwrap_or(0);
        if u64::try_from(kept).is_ok_and(|kept| hot_bytes.saturating_add(manifest.totals().bytes) < kept) {
            return Ok(());
        }
        // What is found of chunks that are gone through, the innermost last.
        let mut open: Vec<BTreeMap<i32, u64>> = Vec::new();
        let mut cursor = self.runner.cold.cursor(manifest);
        while let Some(met) = cursor.step() {
            match met {
                Met::Chunk(chunk) => match self.known.shares(chunk.name).filter(|_| !starts_within(&chunk, advances)) {
                    Some(shares) => {
                        shares
                            .iter()
                            .for_each(|(partition, bytes)| add(advances, &mut open, (*partition, *bytes), true));
                    }
                    None => {
                        cursor.enter(&chunk).await?;
                        open.push(BTreeMap::new());
                    }
                },
                Met::Entry(entry) => {
                    for (at, bytes) in groups_of(&entry) {
                        let partition = at.group.partition;
                        let live = advances.get(&partition).is_some_and(|of| at.group.last_offset >= of.start);
                        add(advances, &mut open, (partition, bytes), live);
                    }
                }
                Met::End(chunk) => self.known.note_shares(chunk.name, open.pop().unwrap_or_default()),
            }
        }
        Ok(())
    }

    /// A partition's log start as it is and as it should be.
    pub(super) async fn new_start(
        &self,
        node: &Node,
        partition: TopicPartition,
        retention: Retention,
        mut advance: Advance,
    ) -> Result<(i64, i64)> {
        let watermarks = node.watermarks(partition)?;
        let start = watermarks.log_start_offset;
        let needed = self.needed_from(node, partition).unwrap_or(i64::MAX);
        // The node's own retention must not take a table's rows either.
        if needed <= start || table_of(&self.held_by, partition.topic).is_some() {
            return Ok((start, start));
        }
        if !advance.ended {
            if advance.start > start {
                // Behind the last row nothing was cold.
                advance.start = advance.start.max(advance.cold_end);
            }
            let now_ms = node.clock().now_ms();
            for stretch in hot_stretches(node, partition, advance.cold_end.max(start)).await? {
                advance.look(retention, &stretch, now_ms);
            }
        }
        Ok((start, advance.start.min(needed).min(watermarks.last_stable_offset)))
    }
}

/// Whether a chunk holds offsets below a log start, which do not count.
fn starts_within(chunk: &ChunkRef, advances: &BTreeMap<i32, Advance>) -> bool {
    let is_below = |cover: &Cover| advances.get(&cover.partition).is_some_and(|advance| cover.start < advance.start);
    chunk.summary.covers.iter().any(is_below)
}

/// Adds what is cold of a partition, to what is found of chunks too.
fn add(
    advances: &mut BTreeMap<i32, Advance>,
    open: &mut [BTreeMap<i32, u64>],
    (partition, bytes): (i32, u64),
    live: bool,
) {
    open.iter_mut().for_each(|sums| *sums.entry(partition).or_default() += bytes);
    if let Some(advance) = advances.get_mut(&partition).filter(|_| live) {
        advance.bytes += bytes;
    }
}

/// Whether some of a chunk may go; if not, partitions that it has something of end there: how many.
fn may_go(chunk: &ChunkRef, advances: &mut BTreeMap<i32, Advance>, retention: Retention, now_ms: i64) -> (bool, usize) {
    let summary = &chunk.summary;
    let is_wanted = |cover: &&Cover| {
        advances.get(&cover.partition).is_some_and(|advance| !advance.ended && cover.end > advance.start)
    };
    let wanted: Vec<i32> = summary.covers.iter().filter(is_wanted).map(|cover| cover.partition).collect();
    let is_too_much =
        |partition: &i32| advances.get(partition).is_some_and(|advance| retention.may_be_too_much(advance.bytes));
    if retention.may_be_old(summary.timestamps_ms.0, now_ms) || wanted.iter().any(is_too_much) {
        return (!wanted.is_empty(), 0);
    }
    for partition in &wanted {
        if let Some(advance) = advances.get_mut(partition) {
            advance.ended = true;
        }
    }
    (false, wanted.len())
}

fn stretch_of(at: &GroupAt, bytes: u64) -> Stretch {
    Stretch {
        end: at.group.last_offset + 1,
        bytes,
        max_timestamp_ms: at.group.max_timestamp_ms,
        max_committed_at_us: at.group.max_committed_at_us,
    }
}

/// The runs of the log from an offset on; none if some of them are damaged, for what they hold is not known, or if the
/// log begins behind it, for what lies between is cold by now and for the next look.
async fn hot_stretches(node: &Node, partition: TopicPartition, from: i64) -> Result<Vec<Stretch>> {
    let Some(range) = node.pin_hot(&[(partition, from)]).ok().and_then(|mut ranges| ranges.pop()) else {
        return Ok(Vec::new());
    };
    if !range.damaged.is_empty() || range.start > from {
        return Ok(Vec::new());
    }
    let stretch = |end: i64, run: &HotRun| Stretch {
        end: (run.last_offset + 1).min(end),
        bytes: u64::from(run.len),
        max_timestamp_ms: run.max_timestamp_ms,
        max_committed_at_us: run.last_commit_us,
    };
    worker::blocking(move || Ok(range.runs()?.iter().map(|run| stretch(range.end, run)).collect())).await
}
