//! What housekeeping does to one topic: retention, then compaction, then merging, then the sweep of what nobody needs.
//!
//! Each step looks at what counts when it begins and publishes edits that are refused if that has changed too much, so it
//! can be cut off anywhere: what was put and not published is swept, what was published stays right.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Weak};

use futures::TryStreamExt;
use parking_lot::RwLock;

use crate::commit::{Commit, Expect, PositionChange, Trim};
use crate::error::{Error, Result};
use crate::ids::TopicPartition;
use crate::log::{HotRun, Node};
use crate::manifest::edit::Edit;
use crate::manifest::model::{Entry, TopicManifest};
use crate::tier::cleaned::{Cleaned, stored_name};
use crate::tier::compact::{self, CompactPolicy, Marked, bytes_of, groups_of};
use crate::tier::merge::{MergePolicy, pieces, reaches};
use crate::tier::retain::{Retention, Stretch};
use crate::tier::rewrite::{Goes, NoneGoes};
use crate::tier::run::Runner;
use crate::tier::sweep::Sweeper;
use crate::topic_config::ResolvedTopicConfig;
use crate::view::{Topic, VacuumReport};
use crate::worker;

/// Log starts moved in one commit.
const TRIMS_MAX: usize = 1_000;

/// Merges of one topic in one look; the next look goes on.
const MERGES_MAX: u32 = 16;

/// What stands above storage and still needs records as they are.
pub trait HoldsBack: std::fmt::Debug + Send + Sync {
    /// The first offset of a partition that is still needed: at or above it nothing is removed by age, size or
    /// compaction. `None` if nobody needs any.
    fn needed_from(&self, partition: TopicPartition) -> Option<i64>;
}

/// Who holds records back, once somebody does; weak, because SQL stands above and holds the storage.
pub(crate) type HeldBy = Arc<RwLock<Option<Weak<dyn HoldsBack>>>>;

/// Who still needs which records of a partition.
pub(crate) fn needed_from(held_by: &HeldBy, node: &Node, partition: TopicPartition) -> Option<i64> {
    match held_by.read().as_ref().and_then(Weak::upgrade) {
        Some(by) => by.needed_from(partition),
        // Nobody has spoken yet, but somebody is known to read it.
        None => node.holders_of(partition.topic).first().map(|_| 0),
    }
}

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// What is worth it.
    Due,
    /// Whatever there is: someone asked for it.
    All,
}

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Upkeep {
    pub(crate) runner: Runner,
    pub(crate) held_by: HeldBy,
    /// `merge.object_bytes`.
    pub(crate) object_bytes: u64,
    /// `compaction.memory_bytes`.
    pub(crate) memory_bytes: u64,
    pub(crate) sweeper: Sweeper,
    /// Objects that turned out to be damaged; they stay as they are.
    pub(crate) spoiled: HashSet<String>,
}

impl Upkeep {
    /// Does to a topic what is to be done now.
    ///
    /// # Errors
    /// Of the first step that fails; what was published stays.
    pub(crate) async fn keep(&mut self, node: &Node, topic: &Topic, effort: Effort) -> Result<VacuumReport> {
        let mut report = VacuumReport { topics: 1, ..VacuumReport::default() };
        let done = self.keep_with(node, topic, effort, &mut report).await;
        count(&report);
        if let Err(Error::Corrupt { place, .. }) = &done {
            // The next look merges around it.
            self.spoiled.insert(place.clone());
        }
        done.map(|()| report)
    }

    async fn keep_with(&self, node: &Node, topic: &Topic, effort: Effort, report: &mut VacuumReport) -> Result<()> {
        let config = topic.config.resolve(node.settings());
        self.retain(node, topic, &config, report).await?;
        self.follow(node, topic).await?;
        if config.cleanup_policy.compacts() {
            self.compact(node, topic, &config, effort, report).await?;
        }
        self.merge(topic, effort, report).await?;
        report.files_swept += self.sweeper.sweep_topic(topic.id, node.clock().now_us()).await?;
        Ok(())
    }

    /// Moves log starts behind what is too old or too much.
    async fn retain(
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
        let mut cold = self.cold_stretches(topic, retention, node.clock().now_ms()).await?;
        let mut trims = Vec::new();
        for partition in 0..topic.partitions {
            let at = TopicPartition { topic: topic.id, partition };
            let cold = cold.remove(&partition).unwrap_or_default();
            let (start, new_start) = self.new_start(node, at, retention, cold).await?;
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

    /// The row groups of each partition that retention has to look at.
    async fn cold_stretches(
        &self,
        topic: &Topic,
        retention: Retention,
        now_ms: i64,
    ) -> Result<BTreeMap<i32, Vec<Stretch>>> {
        let manifest = self.runner.cold.manifests.get(topic.id);
        let mut stretches: BTreeMap<i32, Vec<Stretch>> = BTreeMap::new();
        let mut young = HashSet::new();
        let mut entries = self.runner.cold.entries(&manifest);
        while let Some(entry) = entries.try_next().await? {
            for at in groups_of(&entry) {
                let group = at.group;
                if group.last_offset < manifest.start(group.partition) || young.contains(&group.partition) {
                    continue;
                }
                let stretch = Stretch {
                    end: group.last_offset + 1,
                    bytes: bytes_of(&at),
                    max_timestamp_ms: group.max_timestamp_ms,
                    max_committed_at_us: group.max_committed_at_us,
                };
                // By size all of them count, by age only those before the first that stays.
                if retention.bytes < 0 && !retention.is_old(&stretch, now_ms) {
                    young.insert(group.partition);
                }
                stretches.entry(group.partition).or_default().push(stretch);
            }
            if young.len() == manifest.partitions.len() {
                break;
            }
        }
        // Behind the last row nothing is cold any more.
        for (partition, stretches) in &mut stretches {
            if let Some(last) = stretches.last_mut().filter(|_| !young.contains(partition)) {
                last.end = manifest.tiered_end(*partition);
            }
        }
        Ok(stretches)
    }

    /// A partition's log start as it is and as it should be.
    async fn new_start(
        &self,
        node: &Node,
        partition: TopicPartition,
        retention: Retention,
        cold: Vec<Stretch>,
    ) -> Result<(i64, i64)> {
        let watermarks = node.watermarks(partition)?;
        let start = watermarks.log_start_offset;
        let needed = self.needed_from(node, partition).unwrap_or(i64::MAX);
        if needed <= start {
            return Ok((start, start));
        }
        let now_ms = node.clock().now_ms();
        let bytes = cold.iter().map(|stretch| stretch.bytes).sum::<u64>() + node.untiered_bytes(partition)?;
        let cold_end = cold.last().map_or(watermarks.tiered_end_offset, |last| last.end);
        let mut new_start = retention.start_after(start, bytes, now_ms, cold.iter().copied());
        if new_start >= cold_end.min(watermarks.tiered_end_offset) || cold.is_empty() {
            let hot = hot_stretches(node, partition, watermarks.tiered_end_offset.max(start)).await?;
            new_start = retention.start_after(start, bytes, now_ms, cold.into_iter().chain(hot));
        }
        Ok((start, new_start.min(needed).min(watermarks.last_stable_offset)))
    }

    /// Who still needs which records of a partition.
    pub(crate) fn needed_from(&self, node: &Node, partition: TopicPartition) -> Option<i64> {
        needed_from(&self.held_by, node, partition)
    }

    /// Lets the manifest follow the log starts, whoever moved them, and the log learn what it may forget.
    async fn follow(&self, node: &Node, topic: &Topic) -> Result<()> {
        let manifest = self.runner.cold.manifests.get(topic.id);
        let mut starts = Vec::new();
        for partition in 0..topic.partitions {
            let at = TopicPartition { topic: topic.id, partition };
            let start = node.watermarks(at)?.log_start_offset;
            if start > manifest.start(partition) {
                starts.push((partition, start));
            }
        }
        if starts.is_empty() {
            return Ok(());
        }
        let published = self.runner.cold.publish(topic.id, Edit::Trim { starts: starts.clone() }).await?;
        let ends = starts.iter().map(|(partition, _)| {
            let at = TopicPartition { topic: topic.id, partition: *partition };
            (at, published.tiered_end(*partition), published.start(*partition))
        });
        node.set_tiered_end(&ends.collect::<Vec<_>>());
        Ok(())
    }

    /// Keeps the latest record of each key.
    async fn compact(
        &self,
        node: &Node,
        topic: &Topic,
        config: &ResolvedTopicConfig,
        effort: Effort,
        report: &mut VacuumReport,
    ) -> Result<()> {
        let mut policy = CompactPolicy {
            dirty_ratio: if effort == Effort::All { 0.0 } else { config.min_cleanable_dirty_ratio.as_f64() },
            lag_min_ms: config.min_compaction_lag_ms,
            lag_max_ms: config.max_compaction_lag_ms,
            delete_retention_ms: config.delete_retention_ms,
            now_us: node.clock().now_us(),
        };
        let mut cleaned =
            node.position(&stored_name(topic.id)).map_or_else(Cleaned::default, |bytes| Cleaned::from_bytes(&bytes));
        let held = |partition| self.needed_from(node, TopicPartition { topic: topic.id, partition });
        let hot_start = |partition| node.hot_start(TopicPartition { topic: topic.id, partition }).unwrap_or(0);
        let (manifest, entries) = self.entries(topic).await?;
        let Some(first) = compact::plan(&manifest, &entries, &cleaned, &policy, held, hot_start) else { return Ok(()) };
        // Half of the memory is for keys, half for marks.
        let portions = first.portions(self.memory_bytes.saturating_mul(8) / 2);
        // It was worth it as a whole, so each portion is.
        policy.dirty_ratio = 0.0;
        for partitions in portions {
            let (manifest, entries) = self.entries(topic).await?;
            let Some(plan) = compact::plan(&manifest, &entries, &cleaned, &policy, held, hot_start) else { continue };
            let seeds = (node.random().next_u64(), node.random().next_u64());
            let marked = plan.mark(&self.runner.cold, &cleaned, &partitions, self.memory_bytes / 2, seeds).await?;
            self.remove(&manifest, &entries, &marked, report).await?;
            for partition in &partitions {
                let Some((end, horizon)) = plan.ends.get(partition).zip(plan.horizons.get(partition)) else { continue };
                let tombstones = marked.tombstones.get(partition).is_some_and(|count| *count > 0);
                cleaned.note(*partition, *end, policy.now_us, tombstones, *horizon);
            }
            self.store(node, topic, &cleaned).await?;
        }
        Ok(())
    }

    /// Rewrites what has marked rows, the oldest first.
    async fn remove(
        &self,
        manifest: &TopicManifest,
        entries: &[Arc<Entry>],
        marked: &Marked,
        report: &mut VacuumReport,
    ) -> Result<()> {
        // What goes without having been superseded leaves the past as it was.
        let history_start_us = Some(marked.history_start_us().unwrap_or(i64::MIN));
        for window in marked.windows(entries, &reaches(entries), &self.merge_policy(Effort::Due)) {
            self.replace(manifest, &entries[window], marked, history_start_us, report).await?;
        }
        Ok(())
    }

    async fn store(&self, node: &Node, topic: &Topic, cleaned: &Cleaned) -> Result<()> {
        let change =
            PositionChange { query: stored_name(topic.id), value: Some(cleaned.to_bytes()?), expect: Expect::Anything };
        node.commit(Commit { positions: vec![change], ..Commit::default() }).await.map(drop)
    }

    /// Makes large objects of small ones.
    async fn merge(&self, topic: &Topic, effort: Effort, report: &mut VacuumReport) -> Result<()> {
        let policy = self.merge_policy(effort);
        for _ in 0..if effort == Effort::All { u32::MAX } else { MERGES_MAX } {
            let (manifest, entries) = self.entries(topic).await?;
            let pieces = pieces(&manifest, &entries, |path| self.spoiled.contains(path));
            let Some(range) = policy.plan(&pieces) else { return Ok(()) };
            self.replace(&manifest, &entries[range], &NoneGoes, None, report).await?;
        }
        Ok(())
    }

    /// Rewrites neighbours and publishes what came of it.
    async fn replace(
        &self,
        manifest: &TopicManifest,
        entries: &[Arc<Entry>],
        goes: &dyn Goes,
        history_start_us: Option<i64>,
        report: &mut VacuumReport,
    ) -> Result<()> {
        let rewritten = self.runner.rewrite(manifest, entries, goes).await?;
        let objects = entries.iter().filter_map(|entry| entry.object.as_ref());
        let removed: Vec<String> = objects.map(|object| object.path.clone()).collect();
        let written = rewritten.entry.object.as_ref().map(|object| object.bytes);
        report.objects_merged += removed.len() as u64;
        report.objects_written += u64::from(written.is_some());
        report.bytes_rewritten += written.unwrap_or(0);
        worker::crash_point("after a rewritten object is put");
        let (topic, rows_removed) = (manifest.topic, rewritten.rows_removed);
        tracing::info!(%topic, objects = removed.len(), rows_removed, bytes = written.unwrap_or(0), "rewritten");
        let (added, upload) = (vec![rewritten.entry], rewritten.upload);
        self.runner.cold.publish(topic, Edit::Replace { removed, added, history_start_us }).await?;
        drop(upload);
        report.rows_removed += rows_removed;
        Ok(())
    }

    async fn entries(&self, topic: &Topic) -> Result<(Arc<TopicManifest>, Vec<Arc<Entry>>)> {
        let manifest = self.runner.cold.manifests.get(topic.id);
        let entries = self.runner.cold.entries(&manifest).try_collect().await?;
        Ok((manifest, entries))
    }

    fn merge_policy(&self, effort: Effort) -> MergePolicy {
        MergePolicy { object_bytes: self.object_bytes, eager: effort == Effort::All }
    }
}

/// The runs of the log from an offset on; none if some of them are damaged, for what they hold is not known.
async fn hot_stretches(node: &Node, partition: TopicPartition, from: i64) -> Result<Vec<Stretch>> {
    let Some(range) = node.pin_hot(&[(partition, from)]).ok().and_then(|mut ranges| ranges.pop()) else {
        return Ok(Vec::new());
    };
    if !range.damaged.is_empty() {
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

fn count(report: &VacuumReport) {
    metrics::counter!("aquifer_housekeeping_objects_merged_total").increment(report.objects_merged);
    metrics::counter!("aquifer_housekeeping_objects_written_total").increment(report.objects_written);
    metrics::counter!("aquifer_housekeeping_bytes_rewritten_total").increment(report.bytes_rewritten);
    metrics::counter!("aquifer_housekeeping_rows_removed_total").increment(report.rows_removed);
    metrics::counter!("aquifer_housekeeping_offsets_trimmed_total").increment(report.offsets_trimmed);
}
