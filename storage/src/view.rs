//! What one is shown: topics, definitions, offsets, ends, fetched bytes, files and health, as durably known.
//!
//! Plain data; answers of [`crate::Storage`] and of a [`crate::Snapshot`].

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::{ProducerIdentity, TopicId, TopicPartition};
use crate::record::columns::RecordColumn;
use crate::record::format::{Decoded, RecordFormat};
use crate::scan::filter::GroupFilter;
use crate::scan::meter::ScanMeter;
use crate::topic_config::TopicConfig;

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

/// An offset of a group that nobody has committed for long, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleOffset {
    /// Whose.
    pub group: String,
    /// Of which partition.
    pub partition: TopicPartition,
    /// By which it is told from what was committed since, us.
    pub committed_at_us: i64,
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

/// Where a transactional id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransactionState {
    /// No transaction since its producer began.
    Empty,
    /// One is open.
    Ongoing,
    /// The last one was committed.
    CompleteCommit,
    /// The last one was aborted.
    CompleteAbort,
}

/// A transactional id, as it is durably known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionInfo {
    /// The id.
    pub transactional_id: String,
    /// Its producer.
    pub producer: ProducerIdentity,
    /// Where it stands.
    pub state: TransactionState,
    /// After how long an open transaction is aborted, ms; 0 for the log's own, which end with their process.
    pub timeout_ms: i32,
    /// When the open transaction began, us.
    pub started_at_us: Option<i64>,
    /// When anything of it changed, us.
    pub updated_at_us: i64,
    /// Partitions of the open transaction.
    pub partitions: Vec<TopicPartition>,
    /// Groups whose offsets the open transaction commits.
    pub groups: Vec<String>,
    /// The log's own, for a commit larger than `wal.commit_bytes_max`: nobody's to end.
    pub internal: bool,
}

/// What is remembered of a producer in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerInfo {
    /// Where.
    pub partition: TopicPartition,
    /// Who.
    pub producer: ProducerIdentity,
    /// Sequence of its last record, -1 if none is known.
    pub last_sequence: i32,
    /// Timestamp of its last batch, ms.
    pub last_timestamp_ms: i64,
    /// Of the last marker, -1 if there was none.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction.
    pub open_since: Option<i64>,
}

/// What of open and aborted transactions a fetch shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Everything below the high watermark.
    #[default]
    ReadUncommitted,
    /// What lies below the last stable offset, and which of it was aborted.
    ReadCommitted,
}

/// A transaction that was aborted, as a fetch tells a consumer: of this producer everything from the offset up to its next
/// marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// The producer.
    pub producer_id: i64,
    /// First offset of the transaction.
    pub first_offset: i64,
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
    /// What of transactions to show.
    pub isolation: Isolation,
}

/// Batches as bytes, ready for the wire.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// RecordBatch v2 bytes, one or more batches each, in offset order.
    pub batches: Vec<Bytes>,
    /// Ends as of the read.
    pub watermarks: Watermarks,
    /// For [`Isolation::ReadCommitted`]: aborted transactions that overlap the batches, by first offset. Objects hold no
    /// aborted records, so what comes from them has none.
    pub aborted: Vec<AbortedTransaction>,
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

/// Rows wanted of one partition of a [`Snapshot`]. Times and the filter prune only: rows outside may come too.
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
    /// Rows committed after this time, us, do not come. Exact, unlike the timestamps: the past as it was.
    pub committed_max_us: Option<i64>,
    /// Rows per batch, at the most.
    pub batch_rows: usize,
    /// Which row groups need not be read.
    pub filter: Option<Arc<dyn GroupFilter>>,
    /// Whether whoever reads may soon have enough: then little is read at first and nothing ahead.
    pub hasty: bool,
    /// Where it is counted what was read.
    pub meter: Arc<ScanMeter>,
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
            committed_max_us: None,
            batch_rows: 8192,
            filter: None,
            hasty: false,
            meter: Arc::default(),
        }
    }
}

/// Declared columns wanted of a scan, behind the raw ones of its [`ScanRequest`].
#[derive(Clone, Debug)]
pub struct DeclaredScan {
    /// The declaration they belong to.
    pub format: Arc<RecordFormat>,
    /// Their indexes in its columns, each at most once.
    pub wanted: Vec<usize>,
}

/// Rows of one partition, in offset order.
pub type RowStream = BoxStream<'static, Result<RecordBatch>>;

/// Rows with declared columns: for each batch what the decoder of their declaration gives for the same records (see
/// [`Decoder`](crate::record::format::Decoder)), wherever they come from.
pub type DecodedStream = BoxStream<'static, Result<Decoded>>;

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

/// What is asked of an object store. The order is that of [`ObjectRequestKind::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectRequestKind {
    /// Bytes of an object.
    Get,
    /// A new object.
    Put,
    /// Names.
    List,
    /// An object's end.
    Delete,
    /// What is known of an object without its bytes.
    Head,
}

impl ObjectRequestKind {
    /// Every kind there is.
    pub const ALL: [Self; 5] = [Self::Get, Self::Put, Self::List, Self::Delete, Self::Head];

    /// As metrics and `aquifer.object_store` call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Head => "head",
        }
    }
}

/// Requests of one kind since the storage was opened, for `aquifer.object_store`. Every attempt counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectRequests {
    /// Which.
    pub kind: ObjectRequestKind,
    /// How many were sent.
    pub requests: u64,
    /// Bytes of objects moved.
    pub bytes: u64,
    /// How many failed; "there is none" and "the name is taken" are answers.
    pub failures: u64,
    /// How many of those because the store asked for patience.
    pub throttled: u64,
    /// How many were sent because an earlier one failed.
    pub retries: u64,
    /// Time of all of them together, us.
    pub latency_total_us: u64,
    /// Half of them took no longer, us, by the bounds of a histogram.
    pub latency_p50_us: Option<u64>,
    /// All but one in a hundred took no longer, us, by the bounds of a histogram.
    pub latency_p99_us: Option<u64>,
    /// What they would cost by the prices in the settings, millionths of a dollar; nothing for a folder or memory.
    pub cost_micros: u64,
}

/// Records and bytes of a topic since the process began, for `aquifer.traffic` and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicTraffic {
    /// The topic's name.
    pub topic: String,
    /// Records made durable, whoever wrote them; markers not counted.
    pub records_in: u64,
    /// Bytes of their batches, as stored.
    pub bytes_in: u64,
    /// Records of the batches that Kafka's fetches answered with.
    pub records_out: u64,
    /// Bytes of these batches.
    pub bytes_out: u64,
}

/// How a cache does, for `aquifer.caches`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheInfo {
    /// Which.
    pub name: &'static str,
    /// Look-ups that found what they wanted, since the process began.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes in it, at the most.
    pub bytes_max: u64,
}

/// What is cold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColdTotals {
    /// Objects.
    pub objects: u64,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is cold of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColdPartition {
    /// Rows in objects.
    pub rows: u64,
    /// Its share in the bytes of the objects, by rows: an object holds rows of several partitions.
    pub bytes: u64,
}

/// Offsets that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamageInfo {
    /// Where.
    pub partition: TopicPartition,
    /// First offset.
    pub start: i64,
    /// First offset after them.
    pub end: i64,
    /// Which file, and where in it.
    pub place: String,
    /// Tiering has gone on behind them: they answer with an error for ever. Otherwise they still lie damaged in the log, or
    /// the manifest that says where they are is damaged.
    pub lost: bool,
}

/// How the storage stands now, in numbers that cost nothing to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Commits in the log's queue.
    pub queued_commits: u64,
    /// About how many bytes these are.
    pub queued_bytes: u64,
    /// Commits that wait for room in the queue.
    pub waiting_commits: u64,
    /// Files of the log.
    pub log_segments: u64,
    /// Bytes in them.
    pub log_bytes: u64,
    /// Bytes of the log that may be tiered and are not.
    pub untiered_bytes: u64,
    /// Commit time of the oldest record that is not tiered, us.
    pub untiered_since_us: Option<i64>,
    /// What is cold.
    pub cold: ColdTotals,
    /// Topics, without our own.
    pub topics: u64,
    /// Their partitions.
    pub partitions: u64,
    /// Transactional ids that are remembered, without the log's own.
    pub transactional_ids: u64,
    /// How many of them have a transaction open.
    pub transactions_open: u64,
    /// Ranges of offsets in the log that are damaged.
    pub damaged_ranges: u64,
}

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Objects written.
    pub objects: u64,
    /// Rows written.
    pub rows: u64,
}

/// What housekeeping did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VacuumReport {
    /// Topics looked at.
    pub topics: u64,
    /// Objects that were rewritten.
    pub objects_merged: u64,
    /// Objects that came of them.
    pub objects_written: u64,
    /// Bytes of these.
    pub bytes_rewritten: u64,
    /// Records that compaction removed.
    pub rows_removed: u64,
    /// Offsets by which retention moved log starts.
    pub offsets_trimmed: u64,
    /// Files that nobody needed any more and that are gone from the object store.
    pub files_swept: u64,
}

impl VacuumReport {
    /// Takes in what else was done.
    pub fn add(&mut self, other: &Self) {
        self.topics += other.topics;
        self.objects_merged += other.objects_merged;
        self.objects_written += other.objects_written;
        self.bytes_rewritten += other.bytes_rewritten;
        self.rows_removed += other.rows_removed;
        self.offsets_trimmed += other.offsets_trimmed;
        self.files_swept += other.files_swept;
    }
}

/// Health of the node's storage, for `/ready`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All well.
    Ready,
    /// Reads only; the reason.
    ReadOnly(String),
    /// Records are refused until there is room; the reason.
    Full(String),
    /// Damaged ranges, named; everything else is served.
    Damaged(Vec<String>),
}
