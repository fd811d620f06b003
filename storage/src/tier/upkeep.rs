//! What housekeeping does to one topic: retention, then compaction, then merging, then the sweep of what nobody needs.
//!
//! Each step looks at what counts when it begins and publishes edits that are refused if that has changed too much, so it
//! can be cut off anywhere: what was put and not published is swept, what was published stays right.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures::TryStreamExt;
use parking_lot::RwLock;

use crate::commit::{Commit, Expect, PositionChange};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{TopicId, TopicPartition};
use crate::log::Node;
use crate::manifest::edit::Edit;
use crate::manifest::model::{ChunkRef, Entry, TopicManifest};
use crate::manifest::walk::Met;
use crate::record::form::KeyJudge;
use crate::tier::cleaned::{Cleaned, stored_name};
use crate::tier::compact::{Around, CompactPolicy, Marked, Plan, Survey};
use crate::tier::known::{Known, Quiet};
use crate::tier::merge::{MergePolicy, OBJECTS_MAX, pieces, reaches};
use crate::tier::rewrite::{Goes, NoneGoes};
use crate::tier::run::Runner;
use crate::tier::spoiled::Spoiled;
use crate::tier::sweep::Sweeper;
use crate::topic_config::ResolvedTopicConfig;
use crate::view::{Topic, VacuumReport};
use crate::worker;

/// Merges of one topic in one look; the next look goes on.
const MERGES_MAX: u32 = 16;

/// Objects of one topic that turn out to be unreadable in one look; the next look goes on.
const SPOILED_MAX: u32 = 16;

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

    /// Whose rows lie in the topic's partitions by their primary key, as `table prices`: with more partitions the next row of
    /// a key would lie beside the one it replaces.
    fn keyed_by(&self, _: TopicId) -> Option<String> {
        None
    }
}

/// Who holds records back, once somebody does; weak, because SQL stands above and holds the storage.
pub(crate) type HeldBy = Arc<RwLock<Option<Weak<dyn HoldsBack>>>>;

/// Whose table a topic's records are, as far as somebody can be asked.
pub(crate) fn table_of(held_by: &HeldBy, topic: TopicId) -> Option<String> {
    held_by.read().as_ref().and_then(Weak::upgrade).and_then(|by| by.table_of(topic))
}

/// Whose rows lie in a topic's partitions by their key, as far as somebody can be asked.
pub(crate) fn keyed_by(held_by: &HeldBy, topic: TopicId) -> Option<String> {
    held_by.read().as_ref().and_then(Weak::upgrade).and_then(|by| by.keyed_by(topic))
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
    /// What merging aims at.
    pub(crate) object_bytes: u64,
    /// `compaction.memory_bytes`.
    pub(crate) memory_bytes: u64,
    pub(crate) sweeper: Sweeper,
    /// Objects that turned out to be unreadable; they stay as they are.
    pub(crate) spoiled: Arc<Spoiled>,
    /// What is known of chunks.
    pub(crate) known: Known,
    /// The version of each topic's manifest in which nothing was to be merged.
    pub(crate) settled: HashMap<TopicId, u64>,
}

impl Upkeep {
    /// Does to a topic what is to be done now.
    ///
    /// # Errors
    /// Of the first step that fails; what was published stays.
    pub(crate) async fn keep(&mut self, node: &Node, topic: &Topic, effort: Effort) -> Result<VacuumReport> {
        // Nobody knows what of it is there: nothing is moved, rewritten or removed.
        self.runner.cold.manifests.check_readable(topic.id)?;
        let mut report = VacuumReport { topics: 1, ..VacuumReport::default() };
        let done = self.keep_with(node, topic, effort, &mut report).await;
        count(&report);
        done.map(|()| report)
    }

    /// Topics that are gone need not be remembered.
    pub(crate) fn forget_others(&mut self, is_there: impl Fn(TopicId) -> bool) {
        self.settled.retain(|topic, _| is_there(*topic));
        self.spoiled.forget_others(is_there);
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
        self.spoiled.wake(&self.runner.cold.manifests.get(topic.id), node.clock().now_us());
        // Around what cannot be read, one object after the other.
        let mut spoiled = 0;
        loop {
            let done = self.rewrite(node, topic, &config, effort, report).await;
            let Err(Error::Corrupt { place, reason }) = &done else { return done };
            spoiled += 1;
            if spoiled > SPOILED_MAX || !self.leave_alone(node, topic.id, place, reason).await? {
                return done;
            }
        }
    }

    /// Takes away what compaction finds, makes large objects of small ones, and gives those that stay their columns.
    async fn rewrite(
        &mut self,
        node: &Node,
        topic: &Topic,
        config: &ResolvedTopicConfig,
        effort: Effort,
        report: &mut VacuumReport,
    ) -> Result<()> {
        if config.cleanup_policy.compacts() {
            self.compact(node, topic, config, effort, report).await?;
        }
        self.merge(topic, effort, report).await?;
        self.retype(topic, effort, report).await
    }

    /// Notes that an object of a topic cannot be read; whether that is news, so that work can go on around it. What is
    /// damaged may be something else.
    async fn leave_alone(&self, node: &Node, topic: TopicId, place: &str, reason: &str) -> Result<bool> {
        let manifest = self.runner.cold.manifests.get(topic);
        let mut entries = self.runner.cold.entries(&manifest);
        while let Some(entry) = entries.try_next().await? {
            if entry.object.as_ref().is_some_and(|object| object.path == place) {
                return Ok(self.spoiled.note(topic, &entry, reason, node.clock().now_us()));
            }
        }
        Ok(false)
    }

    /// Who still needs which records of a partition.
    pub(crate) fn needed_from(&self, node: &Node, partition: TopicPartition) -> Option<i64> {
        needed_from(&self.held_by, node, partition)
    }

    /// Keeps the latest record of each key.
    pub(super) async fn compact(
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
        let (is_spoiled, spoiled_in) = (|path: &str| self.spoiled.holds(path), self.spoiled.partitions_of(topic.id));
        let around = Around { held: &held, hot_start: &hot_start, is_spoiled: &is_spoiled, spoiled_in: &spoiled_in };
        let manifest = self.runner.cold.manifests.get(topic.id);
        let survey = Survey::new(&manifest, &cleaned, &policy, around, false);
        if self.survey(&manifest, survey, &mut Vec::new()).await?.is_none() {
            return Ok(());
        }
        let survey = Survey::new(&manifest, &cleaned, &policy, around, true);
        let Some(first) = self.survey(&manifest, survey, &mut Vec::new()).await? else { return Ok(()) };
        // Half of the memory is for keys, half for marks.
        let portions = first.portions(self.memory_bytes.saturating_mul(8) / 2);
        drop(first);
        // It was worth it as a whole, so each portion is.
        policy.dirty_ratio = 0.0;
        for partitions in portions {
            let (manifest, mut entries) = (self.runner.cold.manifests.get(topic.id), Vec::new());
            let survey = Survey::new(&manifest, &cleaned, &policy, around, true);
            let Some(plan) = self.survey(&manifest, survey, &mut entries).await? else { continue };
            let seeds = (node.random().next_u64(), node.random().next_u64());
            let table = self.runner.format_of(topic.id).filter(|format| format.tombstones);
            let judge = table.map(|format| KeyJudge::new(&format)).transpose()?.flatten();
            let memory_bytes = self.memory_bytes / 2;
            let marked = plan.mark(&self.runner.cold, &cleaned, &partitions, memory_bytes, seeds, judge).await?;
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

    /// What is to be compacted of a manifest; `entries` gets those that were looked at.
    async fn survey(
        &self,
        manifest: &Arc<TopicManifest>,
        mut survey: Survey<'_>,
        entries: &mut Vec<Arc<Entry>>,
    ) -> Result<Option<Plan>> {
        let mut cursor = self.runner.cold.cursor(manifest);
        while let Some(met) = cursor.step() {
            match met {
                Met::Chunk(chunk) if survey.opens(&chunk) => cursor.enter(&chunk).await?,
                Met::Chunk(_) | Met::End(_) => {}
                Met::Entry(entry) => {
                    survey.take(&entry);
                    entries.push(entry);
                }
            }
        }
        Ok(survey.finish())
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
        let policy = self.merge_policy(Effort::Due);
        for window in marked.windows(entries, &reaches(entries), &policy, |path| self.spoiled.holds(path)) {
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
    pub(super) async fn merge(&mut self, topic: &Topic, effort: Effort, report: &mut VacuumReport) -> Result<()> {
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
    /// last large one are kept, and chunks of which it is known that nothing is to be merged are passed by. What was
    /// published meanwhile is for the next time.
    async fn merge_once(
        &self,
        manifest: &Arc<TopicManifest>,
        effort: Effort,
        report: &mut VacuumReport,
    ) -> Result<u32> {
        let mut run = Run::new(self.merge_policy(effort));
        let is_over = |run: &Run| effort == Effort::Due && run.merges >= MERGES_MAX;
        let mut cursor = self.runner.cold.cursor(manifest);
        while let Some(met) = cursor.step() {
            match met {
                Met::Chunk(chunk) => match self.quiet(manifest, &chunk, effort, run.small.is_empty()) {
                    Some(quiet) => {
                        self.join(manifest, &mut run, true, report).await?;
                        run.small.extend_from_slice(&quiet.left);
                    }
                    None => {
                        cursor.enter(&chunk).await?;
                        run.enter();
                    }
                },
                Met::Entry(entry) => {
                    let spoiled = entry.object.as_ref().is_some_and(|object| self.spoiled.holds(&object.path));
                    let ends = run.take(entry, spoiled);
                    if ends || run.small.len() > SMALL_MAX {
                        self.join(manifest, &mut run, ends, report).await?;
                    }
                }
                Met::End(chunk) => {
                    let found = run.leave().filter(|_| !has_dead(manifest, &chunk));
                    if let Some(begins_apart) = found {
                        self.known.note_quiet(chunk.name, begins_apart, &run.small);
                    }
                }
            }
            if is_over(&run) {
                return Ok(run.merges);
            }
        }
        self.join(manifest, &mut run, true, report).await?;
        Ok(run.merges)
    }

    /// What is known of a chunk in which nothing is to be merged; `after_apart` if nothing in front of it could be joined
    /// with it.
    fn quiet(&self, manifest: &TopicManifest, chunk: &ChunkRef, effort: Effort, after_apart: bool) -> Option<Quiet> {
        let known = self.known.quiet(chunk.name).filter(|_| effort == Effort::Due && !has_dead(manifest, chunk));
        known.filter(|quiet| after_apart || quiet.begins_apart)
    }

    /// Merges what is worth it of the entries that were kept; those that may yet be joined with what comes stay.
    async fn join(
        &self,
        manifest: &Arc<TopicManifest>,
        run: &mut Run,
        ends: bool,
        report: &mut VacuumReport,
    ) -> Result<()> {
        let is_spoiled = |path: &str| self.spoiled.holds(path);
        while let Some(range) = run.policy.plan(&pieces(manifest, &run.small, is_spoiled)) {
            self.replace(manifest, &run.small[range.clone()], &NoneGoes, None, report).await?;
            // What comes before it was not worth it, and the new object is for the next time.
            run.small.drain(..range.end);
            run.merges += 1;
            if !run.policy.eager && run.merges >= MERGES_MAX {
                return Ok(());
            }
        }
        let kept = if ends { 0 } else { OBJECTS_MAX };
        run.small.drain(..run.small.len().saturating_sub(kept));
        Ok(())
    }

    /// Writes one entry's object anew, all its rows in it.
    pub(super) async fn rewrite_alone(
        &self,
        manifest: &TopicManifest,
        entry: Arc<Entry>,
        report: &mut VacuumReport,
    ) -> Result<()> {
        self.replace(manifest, &[entry], &NoneGoes, None, report).await.map(drop)
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
        let written = || rewritten.entries.iter().filter_map(|entry| entry.object.as_ref());
        let (bytes, objects_written) = (written().map(|object| object.bytes).sum::<u64>(), written().count());
        if let Some((_, declaration)) = self.declared(manifest.topic) {
            written().for_each(|object| self.known.note_typed(&object.path, declaration));
        }
        report.bytes_rewritten += bytes;
        worker::crash_point("after a rewritten object is put");
        let (topic, objects, rows_removed) = (manifest.topic, removed.len(), rewritten.rows_removed);
        // What is put and not published is swept.
        let (added, upload) = (rewritten.entries, rewritten.upload);
        let history_start_us = removal.map(|removal| removal.history_start_us);
        let edit = Edit::Replace { removed: removed.clone(), added, history_start_us };
        let cold = &self.runner.cold;
        let published = match removal {
            None => Some(cold.publish(topic, edit).await?),
            Some(removal) => cold.publish_while(topic, edit, removal.is_free).await?,
        };
        drop(upload);
        if published.is_none() {
            return Ok(false);
        }
        self.spoiled.forget(&removed);
        tracing::info!(%topic, objects, objects_written, rows_removed, bytes, "rewritten");
        report.objects_merged += objects as u64;
        report.objects_written += objects_written as u64;
        report.rows_removed += rows_removed;
        Ok(true)
    }

    fn merge_policy(&self, effort: Effort) -> MergePolicy {
        MergePolicy { object_bytes: self.object_bytes, eager: effort == Effort::All }
    }
}

/// Whether a chunk has rows, or may have, of offsets that are gone.
fn has_dead(manifest: &TopicManifest, chunk: &ChunkRef) -> bool {
    chunk.summary.covers.iter().any(|cover| cover.start < manifest.start(cover.partition))
}

/// Entries in a row that may be joined, while a manifest is gone through.
struct Run {
    policy: MergePolicy,
    small: Vec<Arc<Entry>>,
    merges: u32,
    /// Chunks that were entered, the innermost last.
    entered: Vec<Entered>,
}

/// A chunk that was entered.
struct Entered {
    /// Whether nothing in front of it could be joined with it.
    after_apart: bool,
    /// Whether its first entry joins nothing.
    begins_apart: Option<bool>,
    /// Merges before it.
    merges: u32,
    /// Some of it is left alone for now.
    spoiled: bool,
}

impl Run {
    fn new(policy: MergePolicy) -> Self {
        Self { policy, small: Vec::new(), merges: 0, entered: Vec::new() }
    }

    fn enter(&mut self) {
        let (after_apart, merges) = (self.small.is_empty(), self.merges);
        self.entered.push(Entered { after_apart, begins_apart: None, merges, spoiled: false });
    }

    /// Takes an entry in; whether it cannot be joined with what comes behind it.
    fn take(&mut self, entry: Arc<Entry>, spoiled: bool) -> bool {
        let ends = spoiled || entry.object.as_ref().is_some_and(|object| self.policy.is_large(object.bytes));
        for entered in &mut self.entered {
            entered.begins_apart.get_or_insert(ends);
            entered.spoiled |= spoiled;
        }
        self.small.push(entry);
        ends
    }

    /// The end of the chunk that was entered last: whether its first entry joins nothing, if nothing was to be merged in
    /// it and that holds the next time too.
    fn leave(&mut self) -> Option<bool> {
        let Entered { after_apart, begins_apart, merges, spoiled } = self.entered.pop()?;
        let begins_apart = begins_apart.unwrap_or(false);
        (merges == self.merges && !spoiled && (after_apart || begins_apart)).then_some(begins_apart)
    }
}

fn count(report: &VacuumReport) {
    metrics::counter!("aquifer_housekeeping_objects_merged_total").increment(report.objects_merged);
    metrics::counter!("aquifer_housekeeping_objects_written_total").increment(report.objects_written);
    metrics::counter!("aquifer_housekeeping_bytes_rewritten_total").increment(report.bytes_rewritten);
    metrics::counter!("aquifer_housekeeping_rows_removed_total").increment(report.rows_removed);
    metrics::counter!("aquifer_housekeeping_offsets_trimmed_total").increment(report.offsets_trimmed);
}
