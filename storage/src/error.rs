//! What can go wrong in storage, and what the caller should do about it.
//!
//! [`Error`] says what happened and keeps its source; [`Error::kind`] says what to do. Each protocol maps errors to its
//! own codes in one table of its own (`server/kafka/errors`, `sql/error`), by an exhaustive match.

use std::sync::Arc;

/// The result of storage calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An instruction to the caller. Adding one is a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong or no longer fits; the same request fails again.
    Correct,
    /// Passing trouble; the same request may succeed later.
    Retry,
    /// Somebody newer has taken over; stop writing.
    StepDown,
    /// Stored bytes are damaged; the rest is served.
    Repair,
    /// There is no room; free some.
    MakeRoom,
    /// A failed write made the node read-only; restart it.
    Restart,
}

/// What happened. Cheap to clone: every waiter of a failed group gets the same one.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No topic of that name or id.
    #[error("topic {topic} does not exist")]
    UnknownTopic {
        /// Name or id as asked for.
        topic: String,
    },
    /// The topic has fewer partitions.
    #[error("topic {topic} has no partition {partition}")]
    UnknownPartition {
        /// The topic's name.
        topic: String,
        /// As asked for.
        partition: i32,
    },
    /// A topic of that name is there.
    #[error("topic {topic} already exists")]
    TopicExists {
        /// The name.
        topic: String,
    },
    /// The name, the number of partitions or a setting is not allowed.
    #[error("invalid topic {topic}: {reason}")]
    InvalidTopic {
        /// The name.
        topic: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A topic's config is not known, or its value is not allowed.
    #[error("topic config {name}: {reason}")]
    InvalidTopicConfig {
        /// Kafka's name of it.
        name: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// A topic cannot have so many partitions.
    #[error("topic {topic}: {reason}")]
    InvalidPartitions {
        /// The name.
        topic: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// A definition (a running query) reads or writes the topic.
    #[error("topic {topic} is used by {holder}")]
    TopicHeld {
        /// The topic's name.
        topic: String,
        /// The definition that holds it, as `query clicks_per_user`.
        holder: String,
    },
    /// A continuous query's table is made of the topic's records: nothing but compaction may remove any.
    #[error(
        "topic {topic} holds the table of {holder}, which would lose rows: nothing but compaction may remove its records; \
         leave cleanup.policy = compact, or retention.ms = -1 and retention.bytes = -1"
    )]
    TableTopic {
        /// The topic's name.
        topic: String,
        /// The definition whose table it holds, as `query clicks_per_user`.
        holder: String,
    },
    /// A continuous query's table is made of the topic's records: nobody else may add any.
    #[error(
        "topic {topic} holds the table of {holder}, which alone writes it; produce to what the query reads, or DROP it first, \
         which leaves the topic"
    )]
    TableWrittenByQuery {
        /// The topic's name.
        topic: String,
        /// The definition whose table it holds, as `query clicks_per_user`.
        holder: String,
    },
    /// A table's rows lie in the topic's partitions by their primary key: with more of them a key would have two rows.
    #[error(
        "topic {topic} holds {holder}, whose keys have their place in the partitions there are; with more, a key would have \
         two rows; CREATE a TABLE with as many partitions as it is to have, and INSERT INTO it what this one has"
    )]
    TableKeyed {
        /// The topic's name.
        topic: String,
        /// The table, as `table prices`.
        holder: String,
    },
    /// One of our own topics cannot be written or deleted by clients.
    #[error("topic {topic} is internal")]
    TopicInternal {
        /// The name.
        topic: String,
    },
    /// A definition or position is not what the commit expected it to be.
    #[error("{what} has changed or is already there")]
    Conflict {
        /// Kind and name, as `relation orders`.
        what: String,
    },
    /// Rows that were read cannot be written back as if nothing had happened since; read them again.
    #[error("rows of topic {topic} cannot be changed: {reason}")]
    RowsContended {
        /// The topic's name or id.
        topic: String,
        /// Who stands in the way.
        reason: &'static str,
    },
    /// The offset lies outside what the partition holds.
    #[error("offset {offset} is outside {log_start_offset}..{high_watermark}")]
    OffsetOutOfRange {
        /// As asked for.
        offset: i64,
        /// First offset there is.
        log_start_offset: i64,
        /// End of what is durable.
        high_watermark: i64,
    },
    /// Sequence numbers of an idempotent producer have a gap or go back.
    #[error("producer {producer_id}: sequence {sequence} where {expected} was expected")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: i64,
        /// As sent.
        sequence: i32,
        /// What would have been right.
        expected: i32,
    },
    /// A newer producer with the same id has written.
    #[error("producer {producer_id}: epoch {epoch} is older than {current}")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: i64,
        /// As sent.
        epoch: i16,
        /// The newest seen.
        current: i16,
    },
    /// A newer producer has the transactional id; this one must stop.
    #[error("producer {producer_id} with epoch {epoch} of transactional id '{transactional_id}' has been fenced")]
    ProducerFenced {
        /// The transactional id.
        transactional_id: String,
        /// As sent.
        producer_id: i64,
        /// As sent.
        epoch: i16,
    },
    /// No such transactional id, or it has another producer id: begin with InitProducerId.
    #[error("transactional id '{transactional_id}' is not known with producer {producer_id}")]
    UnknownTransactionalId {
        /// The transactional id.
        transactional_id: String,
        /// As sent, -1 if none was.
        producer_id: i64,
    },
    /// The step does not fit where the transaction stands.
    #[error("invalid state of the transaction: {reason}")]
    InvalidTransactionState {
        /// Whose, what stands in the way, what to do.
        reason: String,
    },
    /// Another step of the same transaction is under way; try again.
    #[error("transactional id '{transactional_id}' has another step under way")]
    ConcurrentTransactions {
        /// The transactional id.
        transactional_id: String,
    },
    /// The transaction's timeout is not allowed.
    #[error("transaction timeout of {timeout_ms} ms is not allowed, 1 to transaction.timeout_max = {limit_ms} ms are")]
    InvalidTransactionTimeout {
        /// As asked for.
        timeout_ms: i32,
        /// The limit.
        limit_ms: i32,
    },
    /// The bytes are not a record batch, or its checksum does not match.
    #[error("corrupt record batch: {reason}")]
    CorruptBatch {
        /// What is wrong.
        reason: String,
    },
    /// The batch is whole but not allowed (old magic, control bits, keyless where keys are needed).
    #[error("invalid record batch: {reason}")]
    InvalidBatch {
        /// What is wrong.
        reason: String,
    },
    /// Records without a key for a topic that keeps the latest record of each key.
    #[error("topic {topic} is compacted (cleanup.policy) and takes no record without a key")]
    KeylessRecords {
        /// The topic's name.
        topic: String,
        /// Which records of the batch, from 0.
        indexes: Vec<i32>,
    },
    /// A batch or commit is larger than a limit.
    #[error("{what} of {bytes} bytes exceeds {setting} = {limit_bytes}")]
    TooLarge {
        /// `commit` or `batch`.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit's name.
        setting: &'static str,
        /// The limit.
        limit_bytes: u64,
    },
    /// Stored bytes are damaged.
    #[error("corrupt data in {place}: {reason}")]
    Corrupt {
        /// File or object, and the range in it.
        place: String,
        /// What does not match.
        reason: String,
    },
    /// The disk, or the log's limit, is full.
    #[error("log is full: {reason}")]
    Full {
        /// Which limit, and what frees space.
        reason: String,
    },
    /// A failed sync made the node read-only.
    #[error("node is read-only since a write failed: {reason}")]
    ReadOnly {
        /// The failure.
        reason: String,
    },
    /// Another process has taken the data directory or the bucket over.
    #[error("fenced: {reason}")]
    Fenced {
        /// By whom, as far as known.
        reason: String,
    },
    /// The node is shutting down.
    #[error("node is shutting down")]
    Closed,
    /// A setting or URL is not usable.
    #[error("{reason}")]
    Config {
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// The operating system refused.
    #[error("{action}")]
    Io {
        /// Verb phrase with the path, as `open /data/log/000.wal`.
        action: String,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// The object store refused.
    #[error("{action}")]
    ObjectStore {
        /// Verb phrase with the path.
        action: String,
        /// Why.
        source: Arc<object_store::Error>,
    },
    /// Parquet or Arrow refused.
    #[error("{action}")]
    Format {
        /// Verb phrase with the path.
        action: String,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownTopic { .. }
            | Self::UnknownPartition { .. }
            | Self::TopicExists { .. }
            | Self::InvalidTopic { .. }
            | Self::InvalidTopicConfig { .. }
            | Self::InvalidPartitions { .. }
            | Self::TopicHeld { .. }
            | Self::TableTopic { .. }
            | Self::TableWrittenByQuery { .. }
            | Self::TableKeyed { .. }
            | Self::TopicInternal { .. }
            | Self::Conflict { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::OutOfOrderSequence { .. }
            | Self::InvalidProducerEpoch { .. }
            | Self::UnknownTransactionalId { .. }
            | Self::InvalidTransactionState { .. }
            | Self::InvalidTransactionTimeout { .. }
            | Self::CorruptBatch { .. }
            | Self::InvalidBatch { .. }
            | Self::KeylessRecords { .. }
            | Self::TooLarge { .. }
            | Self::Config { .. } => ErrorKind::Correct,
            Self::Corrupt { .. } | Self::Format { .. } => ErrorKind::Repair,
            Self::Full { .. } => ErrorKind::MakeRoom,
            Self::ReadOnly { .. } => ErrorKind::Restart,
            Self::Fenced { .. } | Self::ProducerFenced { .. } => ErrorKind::StepDown,
            Self::RowsContended { .. }
            | Self::ConcurrentTransactions { .. }
            | Self::Closed
            | Self::Io { .. }
            | Self::ObjectStore { .. } => ErrorKind::Retry,
        }
    }

    /// Wraps what the operating system said; `action` is a verb phrase with the path.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source: Arc::new(source) }
    }

    /// Wraps what the object store said.
    pub(crate) fn object(action: impl Into<String>) -> impl FnOnce(object_store::Error) -> Self {
        let action = action.into();
        move |source| Self::ObjectStore { action, source: Arc::new(source) }
    }

    /// Wraps what a file format's reader or writer said.
    pub(crate) fn format<E: std::error::Error + Send + Sync + 'static>(
        action: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Format { action, source: Arc::new(source) }
    }
}
