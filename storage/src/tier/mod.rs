//! Hot to cold: the worker that makes Parquet of what is stable, and the cold part it has made.
//!
//! 1. [`Tier::open`] opens the bucket, claims it, loads the manifests and tells the log how far it is tiered.
//! 2. [`worker`] looks every second which partitions are due ([`seal`]), or is asked for everything (a checkpoint). A topic
//!    that fails rests for a while ([`trouble`]), as it does for [`housekeeping`].
//! 3. [`run`] takes what is due of a topic, [`write`] makes one object of it, the manifest is published.
//! 4. Only then may the log forget, which it is asked to do every second ([`forgetting`]), whether or not a run goes on.
//!
//! So that a node can begin from the bucket alone, [`checkpoint`]s hold what manifests do not say; what they name is left
//! alone ([`kept`]). [`takeover`] is that beginning.
//!
//! What is cold is looked after by [`housekeeping`], topic by topic ([`upkeep`]): [`retain`] says what is too old ([`expire`]
//! asks it), [`compact`] (with [`latest`] and [`cleaned`]) what is not the latest of its key, [`merge`] what is too small;
//! [`rewrite`] makes the objects that take the place of others, and [`retype`] finds those whose declared columns are out of
//! date. [`known`] keeps it from looking at the same things again,
//! [`spoiled`] at what cannot be read.

pub(crate) mod checkpoint;
mod cleaned;
pub(crate) mod cold;
mod compact;
pub(crate) mod declared;
mod expire;
mod forgetting;
pub(crate) mod history;
mod housekeeping;
pub(crate) mod kept;
mod known;
mod latest;
mod merge;
mod retain;
mod retype;
mod rewrite;
mod run;
mod seal;
mod shown;
mod spoiled;
mod sweep;
pub(crate) mod takeover;
#[cfg(test)]
mod tests;
mod trouble;
mod upkeep;
mod worker;
pub(crate) mod write;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures::TryStreamExt;
use object_store::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{TopicId, TopicPartition, WriterEpoch};
use crate::log::Node;
use crate::manifest::model::{Entry, Lost, TopicManifest};
use crate::manifest::publish;
use crate::object::bucket::Bucket;
use crate::object::claim::{self, Claim};
#[cfg(any(test, feature = "testing"))]
use crate::object::open;
use crate::object::past::Past;
use crate::object::paths;
use crate::record::batch::BatchLimits;
use crate::scan::blocks::Blocks;
use crate::settings::rewrite_bytes_max;
use crate::storage::OpenOptions;
use crate::tier::checkpoint::Checkpointer;
use crate::tier::cold::{Cold, Writer};
use crate::tier::housekeeping::Housekeeping;
use crate::tier::known::Known;
use crate::tier::run::{DeclaredBy, Runner};
use crate::tier::seal::SealPolicy;
use crate::tier::spoiled::Spoiled;
use crate::tier::sweep::Sweeper;
use crate::tier::upkeep::{HeldBy, Upkeep};
use crate::tier::worker::{Checkpoints, Worker};
use crate::view::{CheckpointReport, Health, ObjectInfo, Topic, VacuumReport};
use crate::worker::{Loop, crash_point};

pub use declared::DeclaredColumns;
pub use upkeep::HoldsBack;

/// Lost ranges the health names at the most.
const LOST_MAX: usize = 100;

/// The cold part of a storage: object store, manifests, worker.
#[derive(Debug)]
pub(crate) struct Tier {
    node: Arc<Node>,
    cold: Arc<Cold>,
    limits: BatchLimits,
    declared_by: DeclaredBy,
    held_by: HeldBy,
    /// Decoded rows of the log.
    blocks: Arc<Blocks>,
    /// Objects that housekeeping could not read.
    spoiled: Arc<Spoiled>,
    worker: Worker,
    forgetting: Loop,
    housekeeping: Housekeeping,
}

impl Tier {
    /// Opens the object store, checks that it belongs to the node, loads manifests, tells the node what is tiered
    /// ([`Node::set_tiered_end`]), starts the worker.
    ///
    /// # Errors
    /// [`Error::Config`] for a bad URL or a bucket that does not belong to the data directory, [`Error::Fenced`] if a newer
    /// writer has the bucket. A damaged manifest keeps its own topic's cold part from being read, and nothing else.
    pub(crate) async fn open(node: Arc<Node>, options: &OpenOptions) -> Result<Arc<Self>> {
        let bucket = options.opening().open().await?;
        Self::over(node, bucket).await
    }

    /// As [`Tier::open`], over a store that a simulation owns: it outlives the process.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) async fn open_on(node: Arc<Node>, store: Arc<dyn object_store::ObjectStore>) -> Result<Arc<Self>> {
        let bucket = open::over(store, node.settings(), node.random());
        Self::over(node, bucket).await
    }

    /// As [`Tier::open`], over a bucket that is open.
    async fn over(node: Arc<Node>, bucket: Bucket) -> Result<Arc<Self>> {
        let (cluster, epoch, takeover) = (node.cluster_id(), node.writer_epoch(), node.takeover());
        refuse_lost_log(&node, &bucket).await?;
        let ours = Claim { cluster, epoch, attempt: node.random().uuid(), takeover };
        // What does not outlive the process is nobody else's, and nothing to remember.
        let lasts = node.forgets();
        let past = if lasts { node.past() } else { Past::unnoted(WriterEpoch(u64::MAX)) };
        let found = claim::look(&bucket, &ours, &past).await?;
        let past = if lasts { node.note_claim(found.newest, ours).await? } else { past };
        crash_point("after a claim is noted");
        claim::put(&bucket, ours, &past, found).await?;
        crash_point("while it is opened");
        let writer = Writer {
            epoch: node.writer_epoch(),
            random: Arc::clone(node.random()),
            clock: Arc::clone(node.clock()),
            memory_bytes: node.settings().memory_limit,
        };
        let cold = Arc::new(Cold::new(bucket, writer));
        load(&node, &cold).await?;
        if lasts {
            node.settle_claim(ours).await?;
        }
        let checkpointer =
            if node.forgets() { Some(Checkpointer::begin(&cold, cluster, takeover).await?) } else { None };
        crash_point("while it is opened");
        let settings = node.settings();
        let limits = BatchLimits::STORED;
        let run_bytes_max = settings.tier_run_bytes_max;
        let declared_by = DeclaredBy::default();
        let blocks = Arc::new(Blocks::new(settings.hot_rows_bytes_max()));
        let runner = Runner {
            node: Arc::downgrade(&node),
            cold: Arc::clone(&cold),
            limits,
            run_bytes_max,
            declared_by: DeclaredBy::clone(&declared_by),
            blocks: Arc::clone(&blocks),
            rewrite_bytes_max: rewrite_bytes_max(settings.memory_limit),
        };
        let (held_by, spoiled) = (HeldBy::default(), Arc::<Spoiled>::default());
        let grace_us = i64::try_from(settings.sweep_grace_ms.saturating_mul(1000)).unwrap_or(i64::MAX);
        let upkeep = Upkeep {
            runner: runner.clone(),
            held_by: HeldBy::clone(&held_by),
            object_bytes: settings.merged_object_bytes(),
            memory_bytes: settings.compaction_memory_bytes,
            sweeper: Sweeper::new(Arc::clone(&cold), grace_us, node.clock().now_us()),
            spoiled: Arc::clone(&spoiled),
            known: Known::new(settings.memory_limit),
            settled: HashMap::new(),
        };
        // What the claim has left of a full disk: objects must not take it, if the bucket is on the same one.
        node.keep_reserve().await?;
        let housekeeping = Housekeeping::start(upkeep, settings.housekeeping_interval_ms);
        let checkpoints = Checkpoints::new(checkpointer, settings.checkpoint_interval_ms, node.clock().now_us());
        let worker = Worker::start(runner, SealPolicy::of(settings), checkpoints);
        let forgetting = forgetting::start(Arc::downgrade(&node));
        let shared =
            Self { node, cold, limits, declared_by, held_by, blocks, spoiled, worker, forgetting, housekeeping };
        Ok(Arc::new(shared))
    }

    /// Decoded rows of the log, shared by all who want them.
    pub(crate) fn hot_rows(&self) -> &Arc<Blocks> {
        &self.blocks
    }

    /// From now on objects get the declared columns that `by` knows of.
    pub(crate) fn declare_columns(&self, by: Weak<dyn DeclaredColumns>) {
        *self.declared_by.write() = Some(by);
    }

    /// From now on nothing is removed that `by` says is needed.
    pub(crate) fn hold_back(&self, by: Weak<dyn HoldsBack>) {
        *self.held_by.write() = Some(by);
    }

    /// The first offset of a partition that somebody above still needs.
    pub(crate) fn needed_from(&self, partition: TopicPartition) -> Option<i64> {
        upkeep::needed_from(&self.held_by, &self.node, partition)
    }

    /// Whose table a topic's records are.
    pub(crate) fn table_of(&self, topic: TopicId) -> Option<String> {
        upkeep::table_of(&self.held_by, topic)
    }

    /// Whose rows lie in the topic's partitions by their key.
    pub(crate) fn keyed_by(&self, topic: TopicId) -> Option<String> {
        upkeep::keyed_by(&self.held_by, topic)
    }

    /// Does to a topic, or to all, what housekeeping finds to do now.
    pub(crate) async fn vacuum(&self, topic: Option<TopicId>) -> Result<VacuumReport> {
        self.housekeeping.vacuum(topic).await
    }

    /// Stops the workers.
    pub(crate) async fn close(&self) {
        self.housekeeping.stop().await;
        self.worker.stop().await;
        self.forgetting.stop().await;
    }

    /// Tiers all that is stable now and lets the log forget.
    pub(crate) async fn checkpoint(&self) -> Result<CheckpointReport> {
        self.worker.checkpoint().await
    }

    /// What readers of the cold part hold.
    pub(crate) fn cold(&self) -> &Arc<Cold> {
        &self.cold
    }

    /// Which manifests cannot be read, what was damaged before it could be tiered, of the newest entries, and what objects
    /// could not be read, in words: at most [`LOST_MAX`] of each.
    pub(crate) fn lost(&self) -> Vec<String> {
        let mut words: Vec<_> = self.unreadable().map(|(topic, error)| unreadable(&topic, &error)).collect();
        words.truncate(LOST_MAX);
        for manifest in self.cold.manifests.all() {
            let Some(topic) = self.node.topic_by_id(manifest.topic) else { continue };
            let lost = manifest.tail.iter().flat_map(|entry| &entry.lost);
            let lost = lost.filter(|lost| lost.end > manifest.start(lost.partition));
            let word = |lost: &Lost| {
                let Lost { partition, start, end, place } = lost;
                format!("lost for ever: offsets {start}..{end} of {}/{partition}, once in {place}", topic.name)
            };
            words.extend(lost.take(LOST_MAX - words.len()).map(word));
        }
        let spoiled = self.spoiled.all().into_iter().filter_map(|(topic, path, reason)| {
            let topic = self.node.topic_by_id(topic)?;
            Some(format!("object {path} of topic {} cannot be read: {reason}", topic.name))
        });
        words.extend(spoiled.take(LOST_MAX));
        words
    }

    /// Topics that are there and whose manifest cannot be read, and why.
    fn unreadable(&self) -> impl Iterator<Item = (Arc<Topic>, Error)> {
        let all = self.cold.manifests.unreadable().into_iter();
        all.filter_map(|(topic, error)| Some((self.node.topic_by_id(topic)?, error)))
    }

    /// Limits for whoever decompresses stored batches.
    pub(crate) fn batch_limits(&self) -> BatchLimits {
        self.limits
    }

    /// The live objects, of topics that are there, a row per object and partition.
    ///
    /// # Errors
    /// [`Error::ObjectStore`], [`Error::Corrupt`].
    pub(crate) async fn objects(&self) -> Result<Vec<ObjectInfo>> {
        let mut rows = Vec::new();
        for manifest in self.cold.manifests.all() {
            if self.node.topic_by_id(manifest.topic).is_some() {
                let mut entries = self.cold.entries(&manifest);
                while let Some(entry) = entries.try_next().await? {
                    describe(manifest.topic, &entry, |path| self.cold.bucket.url(path), &mut rows);
                }
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
impl Tier {
    /// Another one that does what housekeeping does, one step at a time.
    fn upkeep_for_test(&self) -> Upkeep {
        self.upkeep_over(&self.cold)
    }

    /// The same, over another bucket.
    fn upkeep_over(&self, cold: &Arc<Cold>) -> Upkeep {
        let runner = Runner {
            node: Arc::downgrade(&self.node),
            cold: Arc::clone(cold),
            limits: self.limits,
            run_bytes_max: self.node.settings().tier_run_bytes_max,
            declared_by: DeclaredBy::default(),
            blocks: Arc::clone(&self.blocks),
            rewrite_bytes_max: rewrite_bytes_max(self.node.settings().memory_limit),
        };
        Upkeep {
            runner,
            held_by: HeldBy::clone(&self.held_by),
            object_bytes: 1 << 20,
            memory_bytes: 1 << 20,
            sweeper: Sweeper::new(Arc::clone(cold), 0, 0),
            spoiled: Arc::clone(&self.spoiled),
            known: Known::new(self.node.settings().memory_limit),
            settled: HashMap::new(),
        }
    }
}

fn unreadable(topic: &Topic, error: &Error) -> String {
    format!("the cold part of {} is not served, tiered to or swept, since {error}", topic.name)
}

/// Refuses a log that is empty where the bucket holds topics: whoever made them had one.
async fn refuse_lost_log(node: &Node, bucket: &Bucket) -> Result<()> {
    if !node.is_empty() || bucket.list_some(&paths::topics(), 1).await?.is_empty() {
        return Ok(());
    }
    let reason = "the object store holds topics, and the data directory has no log; restore the whole data directory, or \
                  begin from the object store with an empty one and --take-over";
    Err(Error::Config { reason: reason.to_owned() })
}

/// Loads the manifests of all topics and tells the log how far each partition is tiered.
async fn load(node: &Node, cold: &Cold) -> Result<()> {
    let topics: Vec<_> = node.topics().into_iter().filter(|topic| !topic.internal).collect();
    let ids: Vec<TopicId> = topics.iter().map(|topic| topic.id).collect();
    let manifests = publish::load_all(&cold.bucket, node.writer_epoch(), &ids).await;
    let mut ends = Vec::new();
    for (topic, manifest) in topics.iter().zip(manifests) {
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(error) if error.kind() == ErrorKind::Repair => {
                tracing::error!(topic = topic.name, %error, "a manifest cannot be read; of its topic only the log is served");
                cold.manifests.note_unreadable(topic.id, error);
                ends.extend(only_hot(node, topic)?);
                continue;
            }
            Err(error) => return Err(error),
        };
        match reached(node, topic, &manifest) {
            Ok(found) => ends.extend(found),
            Err(error) if error.kind() == ErrorKind::Repair => {
                tracing::error!(topic = topic.name, %error, "the log is damaged and an object store lacks what it points at");
                cold.manifests.note_unreadable(topic.id, error);
                ends.extend(only_hot(node, topic)?);
                continue;
            }
            Err(error) => return Err(error),
        }
        cold.manifests.install(manifest);
    }
    node.set_tiered_end(&ends);
    Ok(())
}

/// How far each partition of a topic is tiered, and where it begins.
///
/// # Errors
/// [`Error::Config`] if log and bucket do not belong together; [`Error::Corrupt`] if the bucket lacks what the log has
/// forgotten and the log is damaged: what told that the topic was deleted may be what is damaged.
fn reached(node: &Node, topic: &Topic, manifest: &TopicManifest) -> Result<Vec<(TopicPartition, i64, i64)>> {
    let mut ends = Vec::new();
    for partition in 0..topic.partitions {
        let at = TopicPartition { topic: topic.id, partition };
        let watermarks = node.watermarks(at)?;
        // What was trimmed away is missing nowhere, whether or not the manifest knows of it yet.
        let trimmed = node.known_start(at)? <= watermarks.log_start_offset;
        let known_start = if trimmed { 0 } else { node.known_start(at)? };
        check_reach(topic, partition, manifest, known_start, watermarks.high_watermark)
            .map_err(|misfit| told_by_damage(node, misfit))?;
        let log_start = match manifest.partitions.get(&partition) {
            Some(ends) => ends.start,
            None => watermarks.log_start_offset,
        };
        ends.push((at, manifest.tiered_end(partition), log_start));
    }
    Ok(ends)
}

/// What the log may take for tiered of a topic whose manifest cannot be read: all that it holds no more, so that it goes on
/// serving the rest and forgets nothing of it.
fn only_hot(node: &Node, topic: &Topic) -> Result<Vec<(TopicPartition, i64, i64)>> {
    let of_topic = (0..topic.partitions).map(|partition| TopicPartition { topic: topic.id, partition });
    of_topic.map(|at| Ok((at, node.hot_start(at)?, node.watermarks(at)?.log_start_offset))).collect()
}

/// How a bucket does not fit the log.
enum Misfit {
    /// It lacks what the log has forgotten.
    Lacks(String),
    /// It knows offsets that the log never gave.
    Exceeds(String),
}

fn check_reach(
    topic: &Topic,
    partition: i32,
    manifest: &TopicManifest,
    hot_start: i64,
    hot_end: i64,
) -> std::result::Result<(), Misfit> {
    let tiered_end = manifest.tiered_end(partition);
    let of =
        format!("the object store does not match the data directory: of topic {} partition {partition} it", topic.name);
    if hot_start > tiered_end {
        let what = format!("{of} lacks offsets {tiered_end} to {hot_start}, which the data directory no longer holds");
        Err(Misfit::Lacks(what))
    } else if tiered_end > hot_end {
        let known = format!("of which the data directory knows only those below {hot_end}");
        Err(Misfit::Exceeds(format!("{of} holds offsets up to {tiered_end}, {known}")))
    } else {
        Ok(())
    }
}

/// What is damaged in the log may be why it does not fit. If objects are missing, only the topic is not to be had, and with
/// its deletion lost there is nothing to be had; offsets that the log does not know would be given twice.
fn told_by_damage(node: &Node, misfit: Misfit) -> Error {
    const USED_TOGETHER: &str = "open the pair that was used together";
    match (misfit, node.health()) {
        (Misfit::Lacks(what), Health::Damaged(places)) => Error::Corrupt {
            place: places.join("; "),
            reason: format!("{what}; if the topic had been deleted, delete it again; else {USED_TOGETHER}"),
        },
        (Misfit::Exceeds(what), Health::Damaged(places)) => Error::Config {
            reason: format!(
                "{what}; {USED_TOGETHER}; the log is damaged ({}): restore these files from a backup, or begin from the \
                 object store with an empty data directory and --take-over",
                places.join("; ")
            ),
        },
        (Misfit::Lacks(what) | Misfit::Exceeds(what), _) => {
            Error::Config { reason: format!("{what}; {USED_TOGETHER}") }
        }
    }
}

/// A row per partition of the entry's object.
fn describe(topic: TopicId, entry: &Entry, url: impl Fn(&Path) -> String, rows: &mut Vec<ObjectInfo>) {
    if let Some(object) = &entry.object {
        let url = url(&Path::from(object.path.as_str()));
        for group in &object.row_groups {
            let info = ObjectInfo {
                topic,
                partition: group.partition,
                first_offset: group.first_offset,
                last_offset: group.last_offset,
                rows: i64::from(group.rows),
                min_timestamp_ms: group.min_timestamp_ms,
                max_timestamp_ms: group.max_timestamp_ms,
                url: url.clone(),
                bytes: object.bytes,
            };
            match rows.last_mut() {
                Some(last) if last.url == info.url && last.partition == info.partition => {
                    last.last_offset = info.last_offset;
                    last.rows += info.rows;
                    last.min_timestamp_ms = last.min_timestamp_ms.min(info.min_timestamp_ms);
                    last.max_timestamp_ms = last.max_timestamp_ms.max(info.max_timestamp_ms);
                }
                _ => rows.push(info),
            }
        }
    }
}
