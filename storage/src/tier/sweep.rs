//! The sweep: what no manifest needs any more goes from the bucket.
//!
//! What a publish leaves behind stands in the root as garbage, with the version and the time: so it survives a restart,
//! and nobody has to compare a million names with a manifest to find it. It is removed when no reader holds an older
//! version, no checkpoint names one ([`super::kept`]) and `sweep.grace` has passed, for readers who are not in this
//! process. What was put and never published is either known to the process that put it, which makes garbage of it with
//! the next publish, or the process is dead, and then its epoch stands in the name: such names are compared with the
//! manifest once per topic and process.
//!
//! Of a topic that is not there only what the log knows to be deleted is removed: one that nobody knows may be one that the
//! log has lost.
//!
//! A clock that is set back puts off what waits for its grace by no more than the grace itself, and lets nothing go early: see
//! [`Moment`]. A damaged chunk of garbage is named and stays, with what only it names; the rest goes.
//!
//! Before anything of a topic is removed, a root of our own epoch stands: a root that a fenced process put long ago and
//! that arrives only now sorts before it, and so can never bring back what is gone (see `manifest/publish`). And the claim
//! is looked at first, so that a process that was replaced removes nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{TopicId, WriterEpoch};
use crate::manifest::codec::Content;
use crate::manifest::edit::Edit;
use crate::manifest::model::{ChunkName, ChunkRef, Garbage, Gone, TopicManifest};
use crate::manifest::publish::Swept;
use crate::object::{claim, local, paths};
use crate::tier::cold::Cold;
use crate::worker;

/// Files removed of one topic in one sweep; the next one goes on.
const DELETES_MAX: usize = 10_000;

/// Deletes on their way at once.
const DELETES_AT_ONCE: usize = 16;

/// Files removed after one look at the claim.
const DELETES_PER_CLAIM: usize = 256;

/// Roots kept behind the newest one, for who wants to know what happened.
const ROOTS_KEPT: usize = 16;

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Sweeper {
    cold: Arc<Cold>,
    /// `sweep.grace`, us.
    grace_us: i64,
    state: Mutex<State>,
}

/// Since when something waits for its grace. If the clock is set back to before that, what has passed is measured from
/// when it was noticed, by a clock that nobody sets: the clock may be right again at any time, so nothing is reckoned with
/// both. A restart begins anew, as long as the clock is behind.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// By the clock.
    at_us: i64,
    /// When it was found to be still to come.
    ahead_since: Option<Duration>,
}

impl Moment {
    fn new(at_us: i64) -> Self {
        Self { at_us, ahead_since: None }
    }

    /// Whether it is so long ago.
    fn is_past(&mut self, grace_us: i64, now_us: i64) -> bool {
        if now_us.saturating_sub(self.at_us) >= grace_us {
            return true;
        }
        let steady = worker::steady();
        if now_us < self.at_us {
            self.ahead_since = self.ahead_since.or(Some(steady));
        }
        let grace = Duration::from_micros(u64::try_from(grace_us).unwrap_or(0));
        self.ahead_since.is_some_and(|since| steady.saturating_sub(since) >= grace)
    }
}

#[derive(Debug)]
struct State {
    /// Since when this process is the one that writes.
    began: Moment,
    /// When garbage went that waits, by topic and version; only of what the clock was set back before.
    ahead: HashMap<(TopicId, u64), Moment>,
    /// When a topic was first seen to be deleted, as long as the log knows it.
    deleted: HashMap<TopicId, Moment>,
    /// The version at which a topic's old roots were removed last.
    roots_cleared: HashMap<TopicId, u64>,
}

/// What a sweep of deleted topics has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SweptTopics {
    pub(crate) files: u64,
    /// Of which nothing is left.
    pub(crate) topics: Vec<TopicId>,
}

/// What one sweep may still remove.
struct Budget {
    left: usize,
    removed: u64,
    since_claim: usize,
}

impl Budget {
    fn new() -> Self {
        Self { left: DELETES_MAX, removed: 0, since_claim: DELETES_PER_CLAIM }
    }
}

impl Sweeper {
    /// Begins now.
    pub(crate) fn new(cold: Arc<Cold>, grace_us: i64, now_us: i64) -> Self {
        let state = State {
            began: Moment::new(now_us),
            ahead: HashMap::new(),
            deleted: HashMap::new(),
            roots_cleared: HashMap::new(),
        };
        Self { cold, grace_us, state: Mutex::new(state) }
    }

    /// Whether garbage of a topic has had its grace.
    fn is_old(&self, topic: TopicId, garbage: &Garbage, now_us: i64) -> bool {
        let mut state = self.state.lock();
        let known = state.ahead.get(&(topic, garbage.version)).copied();
        let mut moment = known.unwrap_or_else(|| Moment::new(garbage.at_us));
        let is_past = moment.is_past(self.grace_us, now_us);
        if !is_past && moment.ahead_since.is_some() {
            state.ahead.insert((topic, garbage.version), moment);
        }
        is_past
    }

    /// Removes what is due of a topic that is there; gives how many files.
    ///
    /// # Errors
    /// [`Error::Fenced`] if a newer writer has the bucket, [`Error::ObjectStore`], [`Error::Corrupt`] for a damaged
    /// chunk that is still needed.
    pub(crate) async fn sweep_topic(&self, topic: TopicId, now_us: i64) -> Result<u64> {
        let mut budget = Budget::new();
        let done = self.sweep_topic_within(topic, now_us, &mut budget).await;
        metrics::counter!("aquifer_sweep_files_total").increment(budget.removed);
        done.map(|()| budget.removed)
    }

    async fn sweep_topic_within(&self, topic: TopicId, now_us: i64, budget: &mut Budget) -> Result<()> {
        self.cold.manifests.check_readable(topic)?;
        let mut manifest = self.cold.manifests.get(topic);
        if manifest.version == 0 {
            return Ok(());
        }
        let swept = self.cold.manifests.swept(topic);
        let kept = self.cold.kept.oldest_version(topic).unwrap_or(u64::MAX);
        let held = self.cold.manifests.oldest_held(topic).min(kept);
        let waiting = manifest.garbage.iter().filter(|garbage| garbage.version > swept.version);
        let is_due = |garbage: &&Arc<Garbage>| garbage.version <= held && self.is_old(topic, garbage, now_us);
        let due: Vec<_> = waiting.take_while(is_due).map(Arc::clone).collect();
        let orphans_due = swept.orphans_checked.max(manifest.orphans_checked).0 + 1 < self.cold.epoch().0
            && self.state.lock().began.is_past(self.grace_us, now_us);
        let cleared = self.state.lock().roots_cleared.get(&topic).copied().unwrap_or(0);
        let roots_due = manifest.version >= cleared + ROOTS_KEPT as u64;
        if !orphans_due && !roots_due && due.is_empty() {
            return Ok(());
        }
        if manifest.epoch != self.cold.epoch() {
            manifest = self.cold.publish(topic, Edit::Trim { starts: vec![], history_start_us: None }).await?;
        }
        for garbage in due {
            if !self.remove_gone(topic, garbage.gone.clone(), budget).await? {
                return Ok(());
            }
            let swept = Swept { version: garbage.version, ..self.cold.manifests.swept(topic) };
            self.cold.manifests.note_swept(topic, swept);
            self.state.lock().ahead.remove(&(topic, garbage.version));
        }
        // What keeps one from being removed must not keep the other.
        let orphans = if orphans_due { self.remove_orphans(&manifest, budget).await } else { Ok(()) };
        if roots_due && !orphans.as_ref().is_err_and(|error| error.kind() == ErrorKind::StepDown) {
            self.remove_old_roots(&manifest, budget).await?;
        }
        orphans
    }

    /// Removes what went, what it names before itself; whether all of it is removed.
    async fn remove_gone(&self, topic: TopicId, gone: Vec<Gone>, budget: &mut Budget) -> Result<bool> {
        let chunk = |name: ChunkName| paths::chunk(topic, name.epoch, name.id);
        // The next one last; a name stands below what it names.
        let mut waiting: Vec<Gone> = gone;
        let (mut paths, mut opened) = (Vec::new(), HashSet::new());
        while let Some(next) = waiting.pop() {
            match next {
                Gone::Object(path) => paths.push(Path::from(path)),
                Gone::Chunk(name) => {
                    // What it names must be gone before it is: nobody else knows of it.
                    if opened.remove(&name) && !self.remove(std::mem::take(&mut paths), budget).await? {
                        return Ok(false);
                    }
                    paths.push(chunk(name));
                }
                Gone::Below(name) | Gone::List(name) => {
                    let below = match self.named_by(topic, name).await {
                        Ok(below) => below,
                        Err(Error::Corrupt { place, reason }) => {
                            // It would keep all later garbage in the bucket for ever.
                            tracing::warn!(%topic, place, reason, "nobody needs it, but it is damaged: it stays with what it names");
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                    opened.insert(name);
                    waiting.push(Gone::Chunk(name));
                    waiting.extend(below);
                }
            }
            if paths.len() >= DELETES_PER_CLAIM && !self.remove(std::mem::take(&mut paths), budget).await? {
                return Ok(false);
            }
        }
        self.remove(paths, budget).await
    }

    /// What a chunk names; nothing if it is removed already.
    async fn named_by(&self, topic: TopicId, name: ChunkName) -> Result<Vec<Gone>> {
        Ok(match self.cold.chunks().find(topic, name).await? {
            None => vec![],
            Some(Content::Gone(gone)) => gone,
            Some(Content::Chunks(chunks)) => chunks.iter().map(|chunk| Gone::Below(chunk.name)).collect(),
            Some(Content::Entries(entries)) => {
                let objects = entries.iter().filter_map(|entry| entry.object.as_ref());
                objects.map(|object| Gone::Object(object.path.clone())).collect()
            }
        })
    }

    /// Removes files as far as the budget goes, in their order; whether all of them.
    async fn remove(&self, paths: Vec<Path>, budget: &mut Budget) -> Result<bool> {
        for part in paths.chunks(DELETES_AT_ONCE) {
            if budget.left < part.len() {
                return Ok(false);
            }
            if budget.since_claim >= DELETES_PER_CLAIM {
                claim::still_ours(&self.cold.bucket, self.cold.epoch()).await?;
                budget.since_claim = 0;
            }
            let deletes: Vec<_> = part.iter().map(|path| self.cold.bucket.delete(path).boxed()).collect();
            stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE).try_collect::<Vec<()>>().await?;
            budget.left -= part.len();
            budget.since_claim += part.len();
            budget.removed += part.len() as u64;
            worker::crash_point("after files are swept");
        }
        Ok(true)
    }

    /// Removes what dead processes put and never published.
    async fn remove_orphans(&self, manifest: &Arc<TopicManifest>, budget: &mut Budget) -> Result<()> {
        let topic = manifest.topic;
        let checked = manifest.orphans_checked.max(self.cold.manifests.swept(topic).orphans_checked);
        let ours = self.cold.epoch();
        let mut orphans: HashSet<Path> = HashSet::new();
        for (folder, first) in [
            (paths::objects(topic), paths::data(topic, WriterEpoch(checked.0 + 1), Uuid::nil())),
            (paths::chunks(topic), paths::chunk(topic, WriterEpoch(checked.0 + 1), Uuid::nil())),
        ] {
            let names = self.cold.bucket.list(&folder, Some(&first)).await?;
            let of_dead = |path: &Path| paths::epoch_of(path).is_some_and(|epoch| epoch > checked && epoch < ours);
            orphans.extend(names.into_iter().filter(of_dead));
        }
        if !orphans.is_empty() {
            self.leave_out_live(manifest, checked, &mut orphans).await?;
            self.leave_out_garbage(manifest, &mut orphans).await?;
        }
        let count = orphans.len();
        if count > 0 {
            tracing::info!(%topic, count, "files that were put and never published are removed");
        }
        if self.remove(orphans.into_iter().collect(), budget).await? {
            let swept = Swept { orphans_checked: WriterEpoch(ours.0 - 1), ..self.cold.manifests.swept(topic) };
            self.cold.manifests.note_swept(topic, swept);
        }
        Ok(())
    }

    /// What the manifest names is no orphan. Only chunks that may name something newer than what was checked are read.
    async fn leave_out_live(
        &self,
        manifest: &Arc<TopicManifest>,
        checked: WriterEpoch,
        orphans: &mut HashSet<Path>,
    ) -> Result<()> {
        let mut waiting: Vec<Arc<ChunkRef>> = manifest.chunks.clone();
        let mut entries = manifest.tail.clone();
        loop {
            for object in entries.iter().filter_map(|entry| entry.object.as_ref()) {
                orphans.remove(&Path::from(object.path.as_str()));
            }
            entries.clear();
            let Some(chunk) = waiting.pop() else { return Ok(()) };
            orphans.remove(&paths::chunk(manifest.topic, chunk.name.epoch, chunk.name.id));
            if chunk.level == 0 && chunk.summary.newest_epoch <= checked {
                continue;
            }
            match &*self.cold.chunks().read(manifest, &chunk).await? {
                Content::Entries(of_chunk) => entries.clone_from(of_chunk),
                Content::Chunks(below) => waiting.extend(below.iter().map(Arc::clone)),
                Content::Gone(_) => {}
            }
        }
    }

    /// What waits to be removed may still be held by a reader.
    async fn leave_out_garbage(&self, manifest: &TopicManifest, orphans: &mut HashSet<Path>) -> Result<()> {
        // What was swept is gone; of it only that stays which only a damaged chunk names, and nobody holds that.
        let swept = self.cold.manifests.swept(manifest.topic).version;
        let garbage = manifest.garbage.iter().filter(|garbage| garbage.version > swept);
        let mut waiting: Vec<Gone> = garbage.flat_map(|garbage| garbage.gone.clone()).collect();
        while let Some(next) = waiting.pop() {
            match next {
                Gone::Object(path) => drop(orphans.remove(&Path::from(path))),
                Gone::Chunk(name) => drop(orphans.remove(&paths::chunk(manifest.topic, name.epoch, name.id))),
                Gone::Below(name) | Gone::List(name) => {
                    waiting.extend(self.named_by(manifest.topic, name).await?);
                    waiting.push(Gone::Chunk(name));
                }
            }
        }
        Ok(())
    }

    async fn remove_old_roots(&self, manifest: &TopicManifest, budget: &mut Budget) -> Result<()> {
        let topic = manifest.topic;
        let newest = paths::root(topic, manifest.epoch, manifest.version);
        let roots = self.cold.bucket.list(&paths::roots(topic), None).await?;
        let mut old: Vec<_> = roots.into_iter().filter(|path| *path < newest).collect();
        old.truncate(old.len().saturating_sub(ROOTS_KEPT));
        let kept = self.cold.kept.roots_of(topic);
        old.retain(|path| !kept.contains(path));
        if self.remove(old, budget).await? {
            self.state.lock().roots_cleared.insert(topic, manifest.version);
        }
        Ok(())
    }

    /// Removes what is left of topics that the log knows to be deleted, and what puts into a folder left staged. A topic that
    /// nobody knows may be one that the log has lost, and stays.
    ///
    /// # Errors
    /// As [`Sweeper::sweep_topic`].
    pub(crate) async fn sweep_deleted(&self, deleted: &[TopicId], now_us: i64) -> Result<SweptTopics> {
        let mut budget = Budget::new();
        let mut swept = Vec::new();
        let known: HashSet<_> = deleted.iter().collect();
        self.state.lock().deleted.retain(|topic, _| known.contains(topic));
        let due: Vec<_> = deleted.iter().copied().filter(|topic| self.is_deleted_due(*topic, now_us)).collect();
        let folders: HashSet<TopicId> = if due.is_empty() { HashSet::new() } else { self.folders().await? };
        for topic in due {
            if folders.contains(&topic) {
                // Never more than may be removed: a list of millions would take longer than any request may.
                let names = self.cold.bucket.list_some(&paths::topic(topic), budget.left).await?;
                let is_all = names.len() < budget.left;
                if !self.remove(names, &mut budget).await? || !is_all {
                    break;
                }
            }
            self.cold.manifests.remove(topic);
            swept.push(topic);
        }
        if let Some(folder) = self.cold.bucket.folder() {
            let (folder, before_us) = (folder.to_path_buf(), now_us.saturating_sub(self.grace_us));
            let staged = worker::blocking(move || Ok(local::remove_staged(&folder, before_us))).await?;
            budget.removed += staged.map_err(Error::io("remove staged files"))?;
        }
        metrics::counter!("aquifer_sweep_files_total").increment(budget.removed);
        Ok(SweptTopics { files: budget.removed, topics: swept })
    }

    /// Whether a topic was deleted long enough ago, and nobody needs it any more.
    fn is_deleted_due(&self, topic: TopicId, now_us: i64) -> bool {
        if self.cold.kept.has_topic(topic) {
            return false;
        }
        let since = &mut self.state.lock().deleted;
        let is_past = since.entry(topic).or_insert_with(|| Moment::new(now_us)).is_past(self.grace_us, now_us);
        is_past && !self.cold.manifests.is_held(topic)
    }

    /// Topics of which there is something in the bucket.
    async fn folders(&self) -> Result<HashSet<TopicId>> {
        let folders = self.cold.bucket.folders(&paths::topics()).await?;
        Ok(folders.iter().filter_map(|folder| folder.filename()?.parse().ok()).map(TopicId).collect())
    }
}

#[cfg(test)]
mod tests;
