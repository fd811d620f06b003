//! `Storage`: the one door. Everything that lasts goes in through [`Storage::commit`] and comes out through
//! [`Storage::fetch`] (bytes, for Kafka) and [`Storage::snapshot`] (rows, for SQL).
//!
//! What a caller may rely on:
//! - A commit is atomic over everything it names. `Durability::Synced` is answered after the bytes are on stable storage.
//! - Readers are shown, and calls are answered from, only what is durable: topics, definitions, offsets and high
//!   watermarks change together, after the sync of the group that carries them.
//! - A snapshot pins all its partitions in one act and reads every committed offset below the last stable offset once,
//!   wherever it lies, however long it takes, whatever tiering or deletion does meanwhile.

mod asked;
mod keyed;
mod snapshot;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::clock::{Clock, Random};
use crate::commit::{Commit, Receipt, TopicChange, Trim};
use crate::error::{Error, Result};
use crate::ids::{TopicId, TopicPartition, WriterEpoch};
use crate::log::disk::{Disk, SystemDisk};
use crate::log::{LargeCommit, Node, Reach};
use crate::object::open::Opening;
use crate::record::format::RecordFormat;
use crate::scan::blocks::Blocks;
use crate::scan::{self, Pinned, SharedDecoder, Sought};
use crate::settings::{ObjectStoreOptions, StorageSettings};
use crate::state::State;
use crate::tier::{DeclaredColumns, HoldsBack, Tier, takeover};
use crate::topic_config::TopicConfig;
use crate::view::{
    CheckpointReport, Definition, FetchRequest, Fetched, GroupOffset, Health, IdleOffset, Isolation, TimedOffset,
    Topic, TransactionInfo, VacuumReport, Watermarks,
};
use crate::worker;

pub use snapshot::Snapshot;

/// Where to open a storage, and with what.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The data directory; made if absent.
    pub data_dir: std::path::PathBuf,
    /// `s3://…`, `gs://…`, `az://…`, `file:///…`, `memory:`, or `None` for the folder `objects` below the data directory.
    pub object_store_url: Option<String>,
    /// What the URL does not say of it.
    pub object_store: ObjectStoreOptions,
    /// Numbers.
    pub settings: StorageSettings,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub random: Arc<dyn Random>,
}

impl OpenOptions {
    /// What opening the object store takes.
    pub(crate) fn opening(&self) -> Opening<'_> {
        Opening {
            url: self.object_store_url.as_deref(),
            options: &self.object_store,
            data_dir: &self.data_dir,
            settings: &self.settings,
            random: &self.random,
        }
    }
}

/// The storage engine of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Storage {
    /// What is hot, and everything that is durably known.
    node: Arc<Node>,
    /// What is cold, and the worker that makes it so.
    tier: Arc<Tier>,
    /// The latest record per key of tables' topics; `None` on a disk that is not the machine's.
    state: Option<Arc<State>>,
    /// Rows of the log that scans have decoded.
    blocks: Arc<Blocks>,
}

fn system_disk() -> Arc<dyn Disk> {
    Arc::new(SystemDisk)
}

impl Storage {
    /// Opens the data directory, recovers the log, loads manifests, starts the background work.
    ///
    /// # Errors
    /// [`Error::Config`] for a bad URL, a directory in use by another process, or an empty one on an object store that holds a
    /// cluster; [`Error::Io`] without permission, [`Error::Corrupt`] if what is needed to start is damaged.
    pub async fn open(options: OpenOptions) -> Result<Self> {
        takeover::prepare(&options, &system_disk(), None, false).await?;
        let node = Node::open(&options).await?;
        Ok(Self::with_node(node, &options).await?.with_state(&options))
    }

    /// As [`Storage::open`], but an empty data directory is made from the newest checkpoint in the object store. The node
    /// that used it before must be stopped: what it acknowledged after that checkpoint is lost, and it is refused from now
    /// on. A directory that is not empty is opened as it is.
    ///
    /// # Errors
    /// As [`Storage::open`]; [`Error::Config`] too if there is no cluster or no checkpoint, [`Error::Corrupt`] if no
    /// checkpoint is whole, [`Error::Fenced`] if another node turns out to use the object store.
    pub async fn take_over(options: OpenOptions) -> Result<Self> {
        takeover::prepare(&options, &system_disk(), None, true).await?;
        let node = Node::open(&options).await?;
        Ok(Self::with_node(node, &options).await?.with_state(&options))
    }

    /// As [`Storage::open`], with the log on a disk that fails on demand.
    ///
    /// # Errors
    /// As [`Storage::open`].
    #[cfg(any(test, feature = "testing"))]
    pub async fn open_on(options: OpenOptions, disk: &crate::testing::FaultDisk) -> Result<Self> {
        let node = Node::open_on(&options, Arc::new(disk.clone())).await?;
        Self::with_node(node, &options).await
    }

    /// As [`Storage::open`], on a simulated disk and over a simulated store; the options' store is not looked at.
    ///
    /// # Errors
    /// As [`Storage::open`].
    #[cfg(any(test, feature = "testing"))]
    pub async fn open_simulated(
        options: OpenOptions,
        disk: &crate::testing::MemoryDisk,
        store: &crate::testing::SimStore,
    ) -> Result<Self> {
        Self::begin_simulated(options, disk, store, false).await
    }

    /// As [`Storage::take_over`], on a simulated disk and over a simulated store; the options' store is not looked at.
    ///
    /// # Errors
    /// As [`Storage::take_over`].
    #[cfg(any(test, feature = "testing"))]
    pub async fn take_over_simulated(
        options: OpenOptions,
        disk: &crate::testing::MemoryDisk,
        store: &crate::testing::SimStore,
    ) -> Result<Self> {
        Self::begin_simulated(options, disk, store, true).await
    }

    #[cfg(any(test, feature = "testing"))]
    async fn begin_simulated(
        options: OpenOptions,
        disk: &crate::testing::MemoryDisk,
        store: &crate::testing::SimStore,
        takes_over: bool,
    ) -> Result<Self> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let bucket = crate::object::open::over(Arc::new(store.clone()), &options.settings, &options.random);
        takeover::prepare(&options, &disk, Some(bucket), takes_over).await?;
        let node = Node::open_on(&options, disk).await?;
        let tier = Tier::open_on(Arc::clone(&node), Arc::new(store.clone())).await;
        Self::with_tier(node, tier).await
    }

    async fn with_node(node: Arc<Node>, options: &OpenOptions) -> Result<Self> {
        let tier = Tier::open(Arc::clone(&node), options).await;
        Self::with_tier(node, tier).await
    }

    async fn with_tier(node: Arc<Node>, tier: Result<Arc<Tier>>) -> Result<Self> {
        match tier {
            Ok(tier) => {
                let blocks = Arc::clone(tier.hot_rows());
                Ok(Self { node, tier, state: None, blocks })
            }
            Err(error) => {
                // The tier's error is the one to tell; the log closes whole or is recovered at the next start.
                let _ = node.close().await;
                Err(error)
            }
        }
    }

    /// Writes what waits, syncs, stops the background work. Later calls answer [`Error::Closed`].
    ///
    /// # Errors
    /// What the last write or sync said.
    pub async fn close(&self) -> Result<()> {
        if let Some(state) = &self.state {
            state.close().await;
        }
        self.tier.close().await;
        self.node.close().await
    }

    /// The cluster's id, the same for data directory and bucket.
    #[must_use]
    pub fn cluster_id(&self) -> String {
        self.node.cluster_id().to_string()
    }

    /// This process's epoch.
    #[must_use]
    pub fn writer_epoch(&self) -> WriterEpoch {
        self.node.writer_epoch()
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &StorageSettings {
        self.node.settings()
    }

    /// Time, for whoever holds a storage.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.node.clock()
    }

    /// Chance, for whoever holds a storage.
    #[must_use]
    pub fn random(&self) -> &Arc<dyn Random> {
        self.node.random()
    }

    /// Whether writes are taken and all bytes are whole.
    #[must_use]
    pub fn health(&self) -> Health {
        match (self.node.health(), self.tier.lost()) {
            (Health::Ready, lost) if !lost.is_empty() => Health::Damaged(lost),
            (Health::Damaged(damaged), lost) => Health::Damaged(damaged.into_iter().chain(lost).collect()),
            (health, _) => health,
        }
    }

    // --- topics ---

    /// An id for a topic about to be made.
    #[must_use]
    pub fn new_topic_id(&self) -> TopicId {
        TopicId(self.node.random().uuid())
    }

    /// The topic of that name, if it is durably there; our own topics too.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.node.topic(name)
    }

    /// The topic of that id.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.node.topic_by_id(id)
    }

    /// All topics by name, our own too.
    #[must_use]
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        self.node.topics()
    }

    /// Makes a topic in a commit of its own; `partitions` `None` is `topic.partitions`.
    ///
    /// # Errors
    /// [`Error::TopicExists`] (once the other one is durable), [`Error::InvalidTopic`].
    pub async fn create_topic(&self, name: &str, partitions: Option<i32>, config: TopicConfig) -> Result<Arc<Topic>> {
        let id = self.new_topic_id();
        let partitions = partitions.unwrap_or(self.settings().topic_partitions);
        let create = TopicChange::Create { id, name: name.to_owned(), partitions, config };
        self.commit(Commit { topics: vec![create], ..Commit::default() }).await?;
        // Another caller may delete it between the commit and this look.
        self.topic_by_id(id).ok_or_else(|| Error::UnknownTopic { topic: name.to_owned() })
    }

    /// Deletes a topic in a commit of its own.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::TopicInternal`], [`Error::TopicHeld`].
    pub async fn delete_topic(&self, id: TopicId) -> Result<()> {
        self.commit(Commit { topics: vec![TopicChange::Delete { id }], ..Commit::default() }).await.map(drop)
    }

    /// Gives a topic another configuration, as a whole, in a commit of its own; see [`TopicChange::Configure`].
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::TopicInternal`], [`Error::InvalidTopicConfig`], [`Error::Conflict`],
    /// [`Error::TableTopic`].
    pub async fn configure_topic(&self, id: TopicId, config: TopicConfig, expected: Option<TopicConfig>) -> Result<()> {
        if config.resolve(self.settings()).removes_records() {
            self.refuse_table(id)?;
        }
        let change = TopicChange::Configure { id, config, expected };
        self.commit(Commit { topics: vec![change], ..Commit::default() }).await.map(drop)
    }

    fn refuse_table(&self, id: TopicId) -> Result<()> {
        let Some(holder) = self.tier.table_of(id) else { return Ok(()) };
        let topic = self.topic_by_id(id).map_or_else(|| id.to_string(), |topic| topic.name.clone());
        Err(Error::TableTopic { topic, holder })
    }

    /// Refuses more partitions for a topic in whose partitions a table's rows have their place by their keys.
    ///
    /// # Errors
    /// [`Error::TableKeyed`].
    pub fn check_may_grow(&self, id: TopicId) -> Result<()> {
        let Some(holder) = self.tier.keyed_by(id) else { return Ok(()) };
        let topic = self.topic_by_id(id).map_or_else(|| id.to_string(), |topic| topic.name.clone());
        Err(Error::TableKeyed { topic, holder })
    }

    /// Gives a topic more partitions, in a commit of its own; `partitions` is how many it has then.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::TopicInternal`], [`Error::InvalidPartitions`], [`Error::TableKeyed`].
    pub async fn add_partitions(&self, id: TopicId, partitions: i32) -> Result<()> {
        self.check_may_grow(id)?;
        let change = TopicChange::AddPartitions { id, partitions };
        self.commit(Commit { topics: vec![change], ..Commit::default() }).await.map(drop)
    }

    /// Moves partitions' first offsets on, in a commit of its own; see [`Trim`]. Who holds a topic is asked whether it still
    /// needs what goes.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`], [`Error::OffsetOutOfRange`], [`Error::TopicHeld`],
    /// [`Error::TopicInternal`], [`Error::TableTopic`]; none of them has moved then.
    pub async fn trim(&self, trims: Vec<Trim>) -> Result<()> {
        // Before they are asked what they need: who comes later has not agreed, and the commit is refused.
        let topics: BTreeSet<TopicId> = trims.iter().map(|trim| trim.partition.topic).collect();
        topics.iter().try_for_each(|topic| self.refuse_table(*topic))?;
        let mut trim_agreed: Vec<String> = topics.into_iter().flat_map(|topic| self.node.holders_of(topic)).collect();
        let needed =
            |trim: &Trim| self.tier.needed_from(trim.partition).is_some_and(|from| from < trim.log_start_offset);
        if trims.iter().any(needed) {
            trim_agreed.clear();
        }
        self.commit(Commit { trims, trim_agreed, ..Commit::default() }).await.map(drop)
    }

    // --- writing ---

    /// Refuses records of clients for a topic that a continuous query's table is made of: what the query did not write
    /// would be in its table all the same.
    ///
    /// # Errors
    /// [`Error::TableWrittenByQuery`].
    pub fn check_writable(&self, topic: &Topic) -> Result<()> {
        let Some(holder) = self.tier.table_of(topic.id) else { return Ok(()) };
        Err(Error::TableWrittenByQuery { topic: topic.name.clone(), holder })
    }

    /// Commits; see [`Commit`]. Waits while `wal.queue_bytes_max` is used up. Once called the commit goes on even if the
    /// future is dropped. One larger than `wal.commit_bytes_max` becomes a [`LargeCommit`], unless a batch of it is that
    /// large by itself or has a producer id.
    ///
    /// # Errors
    /// Whatever of [`Error`]; nothing of the commit is there then.
    pub async fn commit(&self, commit: Commit) -> Result<Receipt> {
        if !self.node.is_large(&commit) {
            return self.node.commit(commit).await;
        }
        let (answer, answered) = oneshot::channel();
        let node = Arc::clone(&self.node);
        // It goes on by itself, and so does its abort if it fails.
        drop(worker::spawn(async move { drop(answer.send(node.commit_large(commit).await)) }));
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// Begins a commit of any size, whose batches are written as they come.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Full`], [`Error::Closed`].
    pub async fn begin(&self) -> Result<LargeCommit> {
        LargeCommit::begin(Arc::clone(&self.node), Vec::new()).await
    }

    /// A producer id nobody has had, durable before it is given.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Full`], [`Error::Closed`].
    pub async fn new_producer_id(&self) -> Result<i64> {
        self.node.new_producer_id().await
    }

    // --- definitions, offsets, positions: as durable ---

    /// All definitions of a kind, by name.
    #[must_use]
    pub fn definitions(&self, kind: &str) -> Vec<Arc<Definition>> {
        self.node.definitions(kind)
    }

    /// A number that grows with every durable change of topics or definitions: for caches.
    #[must_use]
    pub fn catalog_version(&self) -> u64 {
        self.node.catalog_version()
    }

    /// What groups have committed: (group, partition, offset), one group or all.
    #[must_use]
    pub fn group_offsets(&self, group: Option<&str>) -> Vec<(String, TopicPartition, GroupOffset)> {
        self.node.group_offsets(group)
    }

    /// Whether a group has committed anything.
    #[must_use]
    pub fn has_group_offsets(&self, group: &str) -> bool {
        self.node.has_group_offsets(group)
    }

    /// The groups that have committed anything.
    #[must_use]
    pub fn groups_with_offsets(&self) -> BTreeSet<String> {
        self.node.groups_with_offsets()
    }

    /// What a group committed before a time and not since.
    #[must_use]
    pub fn idle_offsets(&self, group: &str, before_us: i64) -> Vec<IdleOffset> {
        self.node.idle_offsets(group, before_us)
    }

    /// Removes these, except what has been committed again since, and groups for which a transaction's offsets wait.
    ///
    /// # Errors
    /// Those of a commit; some may have been removed then.
    pub async fn remove_idle_offsets(&self, idle: Vec<IdleOffset>) -> Result<()> {
        self.node.remove_idle(idle).await
    }

    /// A query's position.
    #[must_use]
    pub fn position(&self, query: &str) -> Option<Bytes> {
        self.node.position(query)
    }

    // --- transactions ---

    /// All transactional ids, by name.
    #[must_use]
    pub fn transactions(&self) -> Vec<TransactionInfo> {
        self.node.transactions()
    }

    /// Partitions of which a group's offsets wait for the end of a transaction.
    #[must_use]
    pub fn pending_offsets(&self, group: &str) -> Vec<TopicPartition> {
        self.node.pending_offsets(group)
    }

    // --- reading bytes ---

    /// A partition's ends.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    pub fn watermarks(&self, partition: TopicPartition) -> Result<Watermarks> {
        self.node.watermarks(partition)
    }

    /// Reads batches from `offset` on, up to the high watermark or the last stable offset, hot or cold; empty at the end.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`], [`Error::Corrupt`] for a damaged range, [`Error::ObjectStore`].
    pub async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        match self.node.fetch_hot(request).await? {
            Reach::Hot(fetched) => Ok(fetched),
            Reach::Below { hot_start, watermarks } => {
                scan::fetch_below(&self.node, &self.tier, request, hot_start, watermarks).await
            }
        }
    }

    /// Returns when the high watermark of any of these is above the offset beside it, or a topic among them is gone.
    pub async fn wait_past(&self, offsets: &[(TopicPartition, i64)]) {
        self.node.wait_past(offsets, Isolation::ReadUncommitted, None).await;
    }

    /// As [`Storage::wait_past`], with the last stable offset: for those who read committed records only.
    pub async fn wait_past_stable(&self, offsets: &[(TopicPartition, i64)]) {
        self.node.wait_past(offsets, Isolation::ReadCommitted, None).await;
    }

    /// As [`Storage::wait_past_stable`]; returns as well when the topic has more partitions than that.
    pub async fn wait_past_or_growth(&self, offsets: &[(TopicPartition, i64)], topic: TopicId, partitions: i32) {
        self.node.wait_past(offsets, Isolation::ReadCommitted, Some((topic, partitions))).await;
    }

    /// The first record at or after `timestamp_ms`; `None` if there is none.
    ///
    /// # Errors
    /// As [`Storage::fetch`].
    pub async fn offset_for_timestamp(
        &self,
        partition: TopicPartition,
        timestamp_ms: i64,
    ) -> Result<Option<TimedOffset>> {
        scan::find_by_time(&self.node, &self.tier, partition, Sought::From(timestamp_ms)).await
    }

    /// The first of those records that have the largest timestamp; `None` if there is no record.
    ///
    /// # Errors
    /// As [`Storage::fetch`].
    pub async fn offset_of_max_timestamp(&self, partition: TopicPartition) -> Result<Option<TimedOffset>> {
        scan::find_by_time(&self.node, &self.tier, partition, Sought::Largest).await
    }

    /// The first offset that the local log holds; the high watermark if it holds none.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    pub fn local_start(&self, partition: TopicPartition) -> Result<i64> {
        self.node.hot_start(partition)
    }
    // --- reading rows ---

    /// Returns when all that was committed before this call is durable and shown: a snapshot that is pinned then holds
    /// every commit of an earlier time, so that it looks the same whenever it is asked for. A log that takes no more
    /// writes has nothing to wait for.
    pub async fn catch_up(&self) {
        self.node.catch_up().await;
    }

    /// Pins all partitions of these topics in one act. `from` says, per partition, what is not needed below an offset,
    /// so that a reader at the tail pins only the tail.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`].
    pub fn snapshot(&self, topics: &[TopicId], from: &HashMap<TopicPartition, i64>) -> Result<Snapshot> {
        // Before the pin: what it says is at or below what is pinned.
        let views = self.state.as_ref().map(|state| state.views(topics)).unwrap_or_default();
        let pinned = Pinned::pin(&self.node, &self.tier, topics, from)?.sharing(&self.blocks);
        Ok(Snapshot::new(pinned, views))
    }

    /// Shares with all others who decode records of a topic what a decoder that was made of `format`, `raw`, `carried` and
    /// `wanted` decodes of them.
    ///
    /// # Errors
    /// [`Error::Config`] for a format that makes no sense.
    pub fn shared_decoder(
        &self,
        topic: TopicId,
        format: &RecordFormat,
        raw: &SchemaRef,
        (carried, wanted): (&[usize], &[usize]),
    ) -> Result<SharedDecoder> {
        let shared = (Arc::clone(&self.node), Arc::clone(&self.blocks));
        SharedDecoder::new(shared, topic, format, raw, (carried, wanted))
    }

    // --- tiering ---

    /// Tiers all that is stable now and forgets what may be forgotten; returns when done.
    ///
    /// # Errors
    /// [`Error::ObjectStore`], [`Error::Fenced`].
    pub async fn checkpoint(&self) -> Result<CheckpointReport> {
        self.tier.checkpoint().await
    }

    /// Does to a topic, or to all, what retention, compaction, merging and the sweep find to do now, whether or not it
    /// would be worth it yet; returns when done.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::ObjectStore`], [`Error::Fenced`], [`Error::Corrupt`] naming a damaged object; the
    /// other topics are done then.
    pub async fn vacuum(&self, topic: Option<TopicId>) -> Result<VacuumReport> {
        self.tier.vacuum(topic).await
    }

    /// From now on nothing is removed that `by` says is needed. It is asked each time; while there is nobody to ask,
    /// nothing is removed from topics that a definition holds.
    pub fn hold_back(&self, by: Weak<dyn HoldsBack>) {
        self.tier.hold_back(by);
    }

    /// Returns when of a topic's records none goes any more that a definition held before this was asked: whoever reads
    /// them only then can read the same ones again later.
    ///
    /// # Errors
    /// [`Error::ObjectStore`], [`Error::Fenced`], if compaction was cut off and the store does not let that be settled.
    pub async fn settle(&self, topic: TopicId) -> Result<()> {
        self.tier.cold().settle(topic).await
    }

    /// From now on cold objects get the declared columns that `by` knows of, beside the raw ones. It is asked each time a
    /// topic is tiered, and no more once it is gone.
    pub fn declare_columns(&self, by: Weak<dyn DeclaredColumns>) {
        self.tier.declare_columns(by);
    }
}
