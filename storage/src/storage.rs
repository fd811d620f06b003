//! `Storage`: the one door. Everything that lasts goes in through [`Storage::commit`] and comes out through
//! [`Storage::fetch`] (bytes, for Kafka) and [`Storage::snapshot`] (rows, for SQL).
//!
//! What a caller may rely on:
//! - A commit is atomic over everything it names. `Durability::Synced` is answered after the bytes are on stable storage.
//! - Readers are shown, and calls are answered from, only what is durable: topics, definitions, offsets and high
//!   watermarks change together, after the sync of the group that carries them.
//! - A snapshot pins all its partitions in one act and reads every committed offset below the last stable offset once,
//!   wherever it lies, however long it takes, whatever tiering or deletion does meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Random};
use crate::error::{Error, Result};
use crate::ids::{TopicId, TopicPartition, WriterEpoch};
use crate::record::batch::CheckedBatch;
use crate::record::columns::RecordColumn;
use crate::settings::StorageSettings;

/// Where to open a storage, and with what.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The data directory; made if absent.
    pub data_dir: std::path::PathBuf,
    /// `file:///…`, `memory:`, or `None` for the folder `objects` below the data directory.
    pub object_store_url: Option<String>,
    /// Numbers.
    pub settings: StorageSettings,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub random: Arc<dyn Random>,
}

/// What a topic is told when made, and what `DescribeConfigs` and `aquifer.topics` show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
    /// `delete`, `compact` or `compact,delete`.
    pub cleanup_policy: String,
    /// `None`: the node's default.
    pub retention_ms: Option<i64>,
    /// `None`: the node's default.
    pub local_retention_ms: Option<i64>,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self { cleanup_policy: "delete".to_owned(), retention_ms: None, local_retention_ms: None }
    }
}

/// A topic as it is durably known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// For ever.
    pub id: TopicId,
    /// Until deleted.
    pub name: String,
    /// From 0 to this, exclusive.
    pub partitions: i32,
    /// As told.
    pub config: TopicConfig,
    /// One of our own.
    pub internal: bool,
    /// Commit time, us since the epoch.
    pub created_at_us: i64,
}

/// When a commit is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// Written to the operating system (`acks=1`): survives the process, not the power.
    Written,
    /// On stable storage (`acks=all`, SQL, offsets, definitions).
    #[default]
    Synced,
}

/// One atomic act: all of it, or none. At most `wal.commit_bytes_max`.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// When to answer.
    pub durability: Durability,
    /// Records, in order per partition. Topics made in the same commit may be named.
    pub appends: Vec<Append>,
    /// Topics made and deleted.
    pub topics: Vec<TopicChange>,
    /// Relations and queries, opaque to storage.
    pub definitions: Vec<DefinitionChange>,
    /// Consumer groups' offsets.
    pub group_offsets: Vec<GroupOffsetChange>,
    /// Continuous queries' positions.
    pub positions: Vec<PositionChange>,
}

/// One batch for one partition; the log assigns its offsets.
#[derive(Clone, Debug)]
pub struct Append {
    /// Where to.
    pub topic: TopicId,
    /// Where to.
    pub partition: i32,
    /// What. With a producer id, sequences are checked (KIP-98: last five batches, duplicates answered with their offset).
    pub batch: CheckedBatch,
}

/// A topic's beginning or end.
#[derive(Clone, Debug)]
pub enum TopicChange {
    /// Makes one. `id` comes from [`Storage::new_topic_id`], so that the same commit can append to it.
    Create {
        /// Its id.
        id: TopicId,
        /// Its name: 1 to 249 of `[a-zA-Z0-9._-]`, not `.` or `..`.
        name: String,
        /// At least 1.
        partitions: i32,
        /// As told.
        config: TopicConfig,
    },
    /// Deletes one; refused with [`Error::TopicHeld`] while a definition that stays holds it.
    Delete {
        /// Its id.
        id: TopicId,
    },
}

/// A definition set or removed. The key is (kind, name).
#[derive(Clone, Debug)]
pub struct DefinitionChange {
    /// `relation`, `query`: the namespace.
    pub kind: String,
    /// Unique in it.
    pub name: String,
    /// `None` removes.
    pub value: Option<Bytes>,
    /// Topics that must not be deleted while this definition stands, as seen by a reader: (topic, words for the error).
    pub holds: Vec<TopicId>,
    /// What must be true beforehand, else [`Error::Conflict`].
    pub expect: Expect,
}

/// A precondition, checked by the writer in commit order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// Whatever it is.
    #[default]
    Anything,
    /// Nothing there.
    Absent,
    /// Something there.
    Present,
    /// Exactly these bytes.
    Value(Bytes),
}

/// A stored definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// As in [`DefinitionChange`].
    pub kind: String,
    /// As in [`DefinitionChange`].
    pub name: String,
    /// As in [`DefinitionChange`].
    pub value: Bytes,
    /// As in [`DefinitionChange`].
    pub holds: Vec<TopicId>,
}

/// What a consumer group committed for one partition; `None` removes.
#[derive(Clone, Debug)]
pub struct GroupOffsetChange {
    /// The group.
    pub group: String,
    /// The partition.
    pub partition: TopicPartition,
    /// `None` removes.
    pub offset: Option<GroupOffset>,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOffset {
    /// Next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read, or -1.
    pub leader_epoch: i32,
    /// The client's words.
    pub metadata: String,
    /// Commit time, us; set by the log.
    pub committed_at_us: i64,
}

/// A continuous query's position, opaque to storage; `None` removes.
#[derive(Clone, Debug)]
pub struct PositionChange {
    /// The query's identity.
    pub query: String,
    /// Its position vector, as the query writes it.
    pub value: Option<Bytes>,
    /// What the position must be beforehand: a second writer of the same query is refused.
    pub expect: Expect,
}

/// What a commit did.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Per [`Commit::appends`], in order.
    pub appended: Vec<Appended>,
    /// The log's time of it, us; strictly increasing.
    pub commit_time_us: i64,
}

/// Where a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record (of the original, for a duplicate).
    pub base_offset: i64,
    /// The partition's first offset.
    pub log_start_offset: i64,
    /// The batch was there already (idempotent producer).
    pub duplicate: bool,
}

/// A partition's ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Watermarks {
    /// First offset there is, hot or cold.
    pub log_start_offset: i64,
    /// First offset that is not in a live object.
    pub tiered_end_offset: i64,
    /// End of what no open transaction can still undo.
    pub last_stable_offset: i64,
    /// End of what is durable.
    pub high_watermark: i64,
    /// Kafka's leader epoch.
    pub leader_epoch: i32,
}

/// What a Kafka fetch asks of one partition.
#[derive(Clone, Copy, Debug)]
pub struct FetchRequest {
    /// Where.
    pub partition: TopicPartition,
    /// First offset wanted; the batch that holds it comes whole.
    pub offset: i64,
    /// Stop after this many bytes; the first batch comes even if larger.
    pub bytes_max: usize,
}

/// Batches as bytes, ready for the wire.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// RecordBatch v2 bytes, one or more batches each, in offset order.
    pub batches: Vec<Bytes>,
    /// Ends as of the read.
    pub watermarks: Watermarks,
}

impl Fetched {
    /// Bytes of all batches.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }
}

/// An offset found by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOffset {
    /// The record's offset.
    pub offset: i64,
    /// The record's timestamp, ms.
    pub timestamp_ms: i64,
}

/// Rows wanted of one partition of a [`Snapshot`]. Times prune only: rows outside may come too.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    /// Columns wanted, each at most once; the batches have them in this order.
    pub columns: Vec<RecordColumn>,
    /// First offset wanted.
    pub offset_start: i64,
    /// First offset not wanted any more.
    pub offset_end: i64,
    /// Earliest timestamp of interest, ms.
    pub timestamp_min_ms: Option<i64>,
    /// Latest timestamp of interest, ms, inclusive.
    pub timestamp_max_ms: Option<i64>,
    /// Rows per batch, at the most.
    pub batch_rows: usize,
}

impl ScanRequest {
    /// Everything of these columns.
    #[must_use]
    pub fn all(columns: Vec<RecordColumn>) -> Self {
        Self {
            columns,
            offset_start: 0,
            offset_end: i64::MAX,
            timestamp_min_ms: None,
            timestamp_max_ms: None,
            batch_rows: 8192,
        }
    }
}

/// Rows of one partition, in offset order.
pub type RowStream = BoxStream<'static, Result<RecordBatch>>;

/// A partition's part of a snapshot: what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedRange {
    /// First offset there is.
    pub start: i64,
    /// End: the last stable offset when it was pinned.
    pub end: i64,
}

/// A file of the log, for `aquifer.segments`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Position of its first byte in the log.
    pub id: u64,
    /// Where it lies.
    pub path: String,
    /// Bytes used.
    pub bytes: u64,
    /// Commit time of its first frame, us.
    pub first_commit_at_us: Option<i64>,
    /// Commit time of its last frame, us.
    pub last_commit_at_us: Option<i64>,
    /// Nothing is appended any more.
    pub sealed: bool,
}

/// An object's rows of one partition, for `aquifer.objects`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: i32,
    /// First offset in it.
    pub first_offset: i64,
    /// Last offset in it.
    pub last_offset: i64,
    /// Rows of this partition.
    pub rows: i64,
    /// Smallest timestamp, ms.
    pub min_timestamp_ms: i64,
    /// Largest timestamp, ms.
    pub max_timestamp_ms: i64,
    /// Where it lies, openable by other programs.
    pub url: String,
    /// Bytes of the whole object.
    pub bytes: u64,
}

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Objects written.
    pub objects: u64,
    /// Rows written.
    pub rows: u64,
}

/// Health of the node's storage, for `/ready`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All well.
    Ready,
    /// Reads only; the reason.
    ReadOnly(String),
    /// Damaged ranges, named; everything else is served.
    Damaged(Vec<String>),
}

/// The storage engine of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Storage {
    inner: Arc<crate::log::Node>,
}

/// Some partitions, pinned in one act. Cheap to clone; while it lives, what it covers stays readable.
#[derive(Clone, Debug)]
pub struct Snapshot {
    inner: Arc<crate::scan::Pinned>,
}

impl Storage {
    /// Opens the data directory, recovers the log, loads manifests, starts the background work.
    ///
    /// # Errors
    /// [`Error::Config`] for a bad URL or a directory in use by another process, [`Error::Io`] without permission,
    /// [`Error::Corrupt`] if what is needed to start is damaged.
    pub async fn open(options: OpenOptions) -> Result<Self> {
        let _ = options;
        todo!("log")
    }

    /// Writes what waits, syncs, stops the background work. Later calls answer [`Error::Closed`].
    pub async fn close(&self) -> Result<()> {
        let _ = &self.inner;
        todo!("log")
    }

    /// The cluster's id, the same for data directory and bucket.
    #[must_use]
    pub fn cluster_id(&self) -> String {
        todo!("log")
    }

    /// This process's epoch.
    #[must_use]
    pub fn writer_epoch(&self) -> WriterEpoch {
        todo!("log")
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &StorageSettings {
        todo!("log")
    }

    /// Time, for whoever holds a storage.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        todo!("log")
    }

    /// Chance, for whoever holds a storage.
    #[must_use]
    pub fn random(&self) -> &Arc<dyn Random> {
        todo!("log")
    }

    /// Whether writes are taken and all bytes are whole.
    #[must_use]
    pub fn health(&self) -> Health {
        todo!("log")
    }

    // --- topics ---

    /// An id for a topic about to be made.
    #[must_use]
    pub fn new_topic_id(&self) -> TopicId {
        todo!("log")
    }

    /// The topic of that name, if it is durably there; our own topics too.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        let _ = name;
        todo!("log")
    }

    /// The topic of that id.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        let _ = id;
        todo!("log")
    }

    /// All topics by name, our own too.
    #[must_use]
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        todo!("log")
    }

    /// Makes a topic in a commit of its own; `partitions` `None` is `topic.partitions`.
    ///
    /// # Errors
    /// [`Error::TopicExists`] (once the other one is durable), [`Error::InvalidTopic`].
    pub async fn create_topic(&self, name: &str, partitions: Option<i32>, config: TopicConfig) -> Result<Arc<Topic>> {
        let _ = (name, partitions, config);
        todo!("log")
    }

    /// Deletes a topic in a commit of its own.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::TopicInternal`], [`Error::TopicHeld`].
    pub async fn delete_topic(&self, id: TopicId) -> Result<()> {
        let _ = id;
        todo!("log")
    }

    // --- writing ---

    /// Commits; see [`Commit`]. Waits while `wal.queue_bytes_max` is used up. Once called the commit goes on even if the
    /// future is dropped.
    ///
    /// # Errors
    /// Whatever of [`Error`]; nothing of the commit is there then.
    pub async fn commit(&self, commit: Commit) -> Result<Receipt> {
        let _ = commit;
        todo!("log")
    }

    /// A producer id nobody has had, durable before it is given.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Full`], [`Error::Closed`].
    pub async fn new_producer_id(&self) -> Result<i64> {
        todo!("log")
    }

    // --- definitions, offsets, positions: as durable ---

    /// All definitions of a kind, by name.
    #[must_use]
    pub fn definitions(&self, kind: &str) -> Vec<Arc<Definition>> {
        let _ = kind;
        todo!("log")
    }

    /// A number that grows with every durable change of topics or definitions: for caches.
    #[must_use]
    pub fn catalog_version(&self) -> u64 {
        todo!("log")
    }

    /// What groups have committed: (group, partition, offset), one group or all.
    #[must_use]
    pub fn group_offsets(&self, group: Option<&str>) -> Vec<(String, TopicPartition, GroupOffset)> {
        let _ = group;
        todo!("log")
    }

    /// A query's position.
    #[must_use]
    pub fn position(&self, query: &str) -> Option<Bytes> {
        let _ = query;
        todo!("log")
    }

    // --- reading bytes ---

    /// A partition's ends.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    pub fn watermarks(&self, partition: TopicPartition) -> Result<Watermarks> {
        let _ = partition;
        todo!("log")
    }

    /// Reads batches from `offset` on, up to the high watermark, hot or cold; empty at the end.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`], [`Error::Corrupt`] for a damaged range, [`Error::ObjectStore`].
    pub async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        let _ = request;
        todo!("log, scan")
    }

    /// Returns when the high watermark of any of these is above the offset beside it, or a topic among them is gone.
    pub async fn wait_past(&self, offsets: &[(TopicPartition, i64)]) {
        let _ = offsets;
        todo!("log")
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
        let _ = (partition, timestamp_ms);
        todo!("log, scan")
    }

    // --- reading rows ---

    /// Pins all partitions of these topics in one act. `from` says, per partition, what is not needed below an offset,
    /// so that a reader at the tail pins only the tail.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`].
    pub fn snapshot(&self, topics: &[TopicId], from: &HashMap<TopicPartition, i64>) -> Result<Snapshot> {
        let _ = (topics, from);
        todo!("log, scan")
    }

    // --- tiering ---

    /// Tiers all that is stable now and forgets what may be forgotten; returns when done.
    ///
    /// # Errors
    /// [`Error::ObjectStore`], [`Error::Fenced`].
    pub async fn checkpoint(&self) -> Result<CheckpointReport> {
        todo!("tier")
    }

    // --- what an operator asks ---

    /// The log's files.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        todo!("log")
    }

    /// The live objects, a row per object and partition.
    #[must_use]
    pub fn objects(&self) -> Vec<ObjectInfo> {
        todo!("manifest")
    }
}

impl Snapshot {
    /// What is pinned of a partition.
    #[must_use]
    pub fn range(&self, partition: TopicPartition) -> Option<PinnedRange> {
        let _ = (&self.inner, partition);
        todo!("scan")
    }

    /// The topics pinned.
    #[must_use]
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        todo!("scan")
    }

    /// Rows of one partition in offset order, each offset of the pinned range once.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`] if it is not pinned; the stream gives [`Error::Corrupt`] and [`Error::ObjectStore`].
    pub fn scan(&self, partition: TopicPartition, request: ScanRequest) -> Result<RowStream> {
        let _ = (partition, request);
        let _: Option<Error> = None;
        todo!("scan")
    }
}
