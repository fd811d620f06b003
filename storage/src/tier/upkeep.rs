//! What housekeeping does to one topic: retention, then compaction, then merging, then the sweep of what nobody needs.
//!
//! Each step looks at what counts when it begins and publishes edits that are refused if that has changed too much, so it
//! can be cut off anywhere: what was put and not published is swept, what was published stays right.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};

use futures::TryStreamExt;
use parking_lot::RwLock;

use crate::commit::{Commit, Expect, PositionChange, Trim};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{TopicId, TopicPartition};
use crate::log::{HotRun, Node};
use crate::manifest::edit::Edit;
use crate::manifest::model::{Entry, GroupAt, RowGroup, TopicManifest};
use crate::tier::cleaned::{Cleaned, stored_name};
use crate::tier::compact::{self, CompactPolicy, Marked, groups_of};
use crate::tier::merge::{MergePolicy, OBJECTS_MAX, pieces, reaches};
use crate::tier::retain::{Advance, Retention, Stretch};
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

/// Small entries looked at together.
const SMALL_MAX: usize = 4 * OBJECTS_MAX;

/// What stands above storage and still needs records as they are.
pub trait HoldsBack: std::fmt::Debug + Send + Sync {
    /// The first offset of a partition that is still needed: at or above it nothing is removed by age, size or
    /// compaction. `None` if nobody needs any.
    fn needed_from(&self, partition: TopicPartition) -> Option<i64>;

    /// Whose table the topic's records are, as `query totals`: of them nothing goes by age, size or request, only by
    /// compaction. Nobody's, if whoever is asked has no tables.
    fn table_of(&self, _: TopicId) -> Option<String> {
        None
    }
}

/// Who holds records back, once somebody does; weak, because SQL stands above and holds the storage.
pub(crate) type HeldBy = Arc<RwLock<Option<Weak<dyn HoldsBack>>>>;

/// Whose table a topic's records are, as far as somebody can be asked.
pub(crate) fn table_of(held_by: &HeldBy, topic: TopicId) -> Option<String> {
    held_by.read().as_ref().and_then(Weak::upgrade).and_then(|by| by.table_of(topic))
}

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

/// What a rewrite that takes rows away asks for.
struct Removal<'a> {
    /// As in [`Edit::Replace`].
    history_start_us: i64,
    /// Whether nobody needs the rows.
    is_free: &'a (dyn Fn() -> bool + Sync),
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
    /// The version of each topic's manifest in which nothing was to be merged.
    pub(crate) settled: HashMap<TopicId, u64>,
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

    async fn keep_with(&mut self, node: &Node, topic: &Topic, effort: Effort, report: &mut VacuumReport) -> Result<()> {
        let done = self.tend(node, topic, effort, report).await;
        if done.as_ref().is_err_and(|error| error.kind() == ErrorKind::StepDown) {
            return done;
        }
        // What is damaged or fails above must not keep garbage in the bucket.
        report.files_swept += self.sweeper.sweep_topic(topic.id, node.clock().now_us()).await?;
        done
    }

    async fn tend(&mut self, node: &Node, topic: &Topic, effort: Effort, report: &mut VacuumReport) -> Result<()> {
        let config = topic.config.resolve(node.settings());
        self.retain(node, topic, &config, report).await?;
        self.runner.follow(node, topic.id, 0..topic.partitions).await?;
        if config.cleanup_policy.compacts() {
            self.compact(node, topic, &config, effort, report).await?;
        }
        self.merge(topic, effort, report).await
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
            advances.insert(partition, Advance { start, bytes, ended: false, cold_end });
        }
        let is_live = |advance: &Advance, group: &RowGroup| group.last_offset >= advance.start;
        if retention.bytes >= 0 {
            let mut entries = self.runner.cold.entries(&manifest);
            while let Some(entry) = entries.try_next().await? {
                for (at, bytes) in groups_of(&entry) {
                    if let Some(advance) = advances.get_mut(&at.group.partition).filter(|a| is_live(a, &at.group)) {
                        advance.bytes += bytes;
                    }
                }
            }
        }
        let mut left = manifest.partitions.len();
        let mut entries = self.runner.cold.entries(&manifest);
        while let Some(entry) = entries.try_next().await? {
            for (at, bytes) in groups_of(&entry) {
                let Some(advance) = advances.get_mut(&at.group.partition) else { continue };
                if !advance.ended && is_live(advance, &at.group) {
                    advance.look(retention, &stretch_of(&at, bytes), now_ms);
                    left -= usize::from(advance.ended);
                }
            }
            if left == 0 {
                break;
            }
        }
        Ok(advances)
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

    /// Who still needs which records of a partition.
    pub(crate) fn needed_from(&self, node: &Node, partition: TopicPartition) -> Option<i64> {
        needed_from(&self.held_by, node, partition)
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
            let is_free = || plan.ends.iter().all(|(partition, end)| held(*partition).is_none_or(|held| held >= *end));
            if !self.remove(&manifest, &entries, &marked, &is_free, report).await? {
                // The next look sees who needs what.
                return Ok(());
            }
            for partition in &partitions {
                let Some((end, horizon)) = plan.ends.get(partition).zip(plan.horizons.get(partition)) else { continue };
                let tombstones = marked.tombstones.get(partition).is_some_and(|count| *count > 0);
                cleaned.note(*partition, *end, policy.now_us, tombstones, *horizon);
            }
            self.store(node, topic, &cleaned).await?;
        }
        Ok(())
    }

    /// Rewrites what has marked rows, the oldest first; stops, and says so, when somebody has come who needs them:
    /// finding and rewriting them may take hours.
    async fn remove(
        &self,
        manifest: &TopicManifest,
        entries: &[Arc<Entry>],
        marked: &Marked,
        is_free: &(dyn Fn() -> bool + Sync),
        report: &mut VacuumReport,
    ) -> Result<bool> {
        // What goes without having been superseded leaves the past as it was.
        let history_start_us = marked.history_start_us().unwrap_or(i64::MIN);
        let removal = Removal { history_start_us, is_free };
        for window in marked.windows(entries, &reaches(entries), &self.merge_policy(Effort::Due)) {
            // Asked again when it is published; but why rewrite what must stay?
            if !is_free() || !self.replace(manifest, &entries[window], marked, Some(&removal), report).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn store(&self, node: &Node, topic: &Topic, cleaned: &Cleaned) -> Result<()> {
        let change =
            PositionChange { query: stored_name(topic.id), value: Some(cleaned.to_bytes()?), expect: Expect::Anything };
        node.commit(Commit { positions: vec![change], ..Commit::default() }).await.map(drop)
    }

    /// Makes large objects of small ones.
    async fn merge(&mut self, topic: &Topic, effort: Effort, report: &mut VacuumReport) -> Result<()> {
        loop {
            let manifest = self.runner.cold.manifests.get(topic.id);
            if effort == Effort::Due && self.settled.get(&topic.id) == Some(&manifest.version) {
                return Ok(());
            }
            let merges = self.merge_once(&manifest, effort, report).await?;
            if merges == 0 {
                self.settled.insert(topic.id, manifest.version);
            }
            if merges == 0 || effort == Effort::Due {
                return Ok(());
            }
        }
    }

    /// Goes through a manifest once and merges what it comes across; how often. Of the entries only those in front of the
    /// last large one are kept. What was published meanwhile is for the next time.
    async fn merge_once(
        &self,
        manifest: &Arc<TopicManifest>,
        effort: Effort,
        report: &mut VacuumReport,
    ) -> Result<u32> {
        let policy = self.merge_policy(effort);
        let mut merges = 0;
        let mut small: Vec<Arc<Entry>> = Vec::new();
        let mut entries = self.runner.cold.entries(manifest);
        loop {
            let next = entries.try_next().await?;
            let ends = next.is_none()
                || small.len() >= SMALL_MAX
                || next.as_ref().is_some_and(|next| self.ends_run(next, &policy));
            small.extend(next.clone());
            if !ends {
                continue;
            }
            while let Some(range) = policy.plan(&pieces(manifest, &small, |path| self.spoiled.contains(path))) {
                self.replace(manifest, &small[range.clone()], &NoneGoes, None, report).await?;
                // What comes before it was not worth it, and the new object is for the next time.
                small.drain(..range.end);
                merges += 1;
                if effort == Effort::Due && merges >= MERGES_MAX {
                    return Ok(merges);
                }
            }
            // Those at the end may yet be joined with what comes.
            let kept = if next.as_ref().is_some_and(|next| self.ends_run(next, &policy)) { 0 } else { OBJECTS_MAX };
            small.drain(..small.len().saturating_sub(kept));
            if next.is_none() {
                return Ok(merges);
            }
        }
    }

    /// Whether an entry cannot be joined with what comes behind it.
    fn ends_run(&self, entry: &Entry, policy: &MergePolicy) -> bool {
        let object = entry.object.as_ref();
        object.is_some_and(|object| policy.is_large(object.bytes) || self.spoiled.contains(&object.path))
    }

    /// Rewrites neighbours and publishes what came of it; whether it did: not if rows were to go that are not free.
    async fn replace(
        &self,
        manifest: &TopicManifest,
        entries: &[Arc<Entry>],
        goes: &dyn Goes,
        removal: Option<&Removal<'_>>,
        report: &mut VacuumReport,
    ) -> Result<bool> {
        let rewritten = self.runner.rewrite(manifest, entries, goes).await?;
        let objects = entries.iter().filter_map(|entry| entry.object.as_ref());
        let removed: Vec<String> = objects.map(|object| object.path.clone()).collect();
        let written = rewritten.entry.object.as_ref().map(|object| object.bytes);
        report.bytes_rewritten += written.unwrap_or(0);
        worker::crash_point("after a rewritten object is put");
        let (topic, objects, rows_removed) = (manifest.topic, removed.len(), rewritten.rows_removed);
        // What is put and not published is swept.
        let (added, upload) = (vec![rewritten.entry], rewritten.upload);
        let history_start_us = removal.map(|removal| removal.history_start_us);
        let edit = Edit::Replace { removed, added, history_start_us };
        let cold = &self.runner.cold;
        let published = match removal {
            None => Some(cold.publish(topic, edit).await?),
            Some(removal) => cold.publish_while(topic, edit, removal.is_free).await?,
        };
        drop(upload);
        if published.is_none() {
            return Ok(false);
        }
        tracing::info!(%topic, objects, rows_removed, bytes = written.unwrap_or(0), "rewritten");
        report.objects_merged += objects as u64;
        report.objects_written += u64::from(written.is_some());
        report.rows_removed += rows_removed;
        Ok(true)
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

fn count(report: &VacuumReport) {
    metrics::counter!("aquifer_housekeeping_objects_merged_total").increment(report.objects_merged);
    metrics::counter!("aquifer_housekeeping_objects_written_total").increment(report.objects_written);
    metrics::counter!("aquifer_housekeeping_bytes_rewritten_total").increment(report.bytes_rewritten);
    metrics::counter!("aquifer_housekeeping_rows_removed_total").increment(report.rows_removed);
    metrics::counter!("aquifer_housekeeping_offsets_trimmed_total").increment(report.offsets_trimmed);
}
