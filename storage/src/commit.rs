//! What one writes: a [`Commit`] names everything that is to become durable together, a [`Receipt`] says where it went.
//!
//! Plain data. The writer checks it in commit order (`log/plan`); nothing here does.

use bytes::Bytes;

use crate::ids::{ProducerIdentity, TopicId, TopicPartition};
use crate::log::watch::Watch;
use crate::record::batch::CheckedBatch;
use crate::topic_config::TopicConfig;
use crate::view::GroupOffset;

/// When a commit is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// Written to the operating system (`acks=1`): survives the process, not the power.
    Written,
    /// On stable storage (`acks=all`, SQL, offsets, definitions).
    #[default]
    Synced,
}

/// One atomic act: all of it, or none. What is larger than `wal.commit_bytes_max` becomes a transaction of the log; see
/// [`crate::LargeCommit`].
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// When to answer.
    pub durability: Durability,
    /// Records, in order per partition. Topics made in the same commit may be named.
    pub appends: Vec<Append>,
    /// Topics made, changed and deleted.
    pub topics: Vec<TopicChange>,
    /// Partitions' first offsets, moved on.
    pub trims: Vec<Trim>,
    /// Definitions (kind and name) that hold topics of `trims` and were asked: they need nothing of what goes.
    pub trim_agreed: Vec<String>,
    /// Relations and queries, opaque to storage.
    pub definitions: Vec<DefinitionChange>,
    /// Consumer groups' offsets.
    pub group_offsets: Vec<GroupOffsetChange>,
    /// Continuous queries' positions.
    pub positions: Vec<PositionChange>,
    /// Transactions begun, extended and ended. What begins or extends one counts before the appends, what ends one after
    /// everything else.
    pub transactions: Vec<TransactionChange>,
    /// What it rests on: refused with [`crate::Error::RowsContended`] if a key that one of them has touched was written since.
    pub watches: Vec<Watch>,
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

/// A topic's beginning, change or end. Our own topics refuse the last two.
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
    /// Gives one another configuration, as a whole.
    Configure {
        /// Its id.
        id: TopicId,
        /// Instead of the one it has.
        config: TopicConfig,
        /// What it has, if the caller has looked: [`Error::Conflict`] if somebody else was quicker.
        expected: Option<TopicConfig>,
    },
    /// Gives one more partitions; they begin empty. [`Error::InvalidPartitions`] if that is not more than it has.
    AddPartitions {
        /// Its id.
        id: TopicId,
        /// How many it has then.
        partitions: i32,
    },
    /// Deletes one; refused with [`Error::TopicHeld`] while a definition that stays holds it.
    Delete {
        /// Its id.
        id: TopicId,
    },
}

/// Moves a partition's first offset on: what lies below is gone for every reader as soon as the commit is answered, and
/// for ever. One that is there already, or beyond it, leaves it where it is: it never goes back.
///
/// Refused with [`Error::OffsetOutOfRange`] beyond the partition's end, with [`Error::TopicHeld`] while a definition
/// holds the topic (its state is made again from those records), and for our own topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim {
    /// The partition.
    pub partition: TopicPartition,
    /// Its new first offset.
    pub log_start_offset: i64,
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

/// A step of a transactional producer; `server` makes one of each of Kafka's requests.
#[derive(Clone, Debug)]
pub enum TransactionChange {
    /// InitProducerId with a transactional id: aborts what is open, gives a new epoch, or a new id when epochs run out.
    Init {
        /// The transactional id.
        transactional_id: String,
        /// After how long an open transaction is aborted, ms; 1 to `transaction.timeout_max`.
        timeout_ms: i32,
        /// Who the client believes it is (KIP-360): refused with [`Error::ProducerFenced`] if somebody newer has come.
        expected: Option<ProducerIdentity>,
    },
    /// These partitions may get batches of the transaction, which begins if none is open.
    AddPartitions {
        /// The transactional id.
        transactional_id: String,
        /// Who asks.
        producer: ProducerIdentity,
        /// Which.
        partitions: Vec<TopicPartition>,
    },
    /// This group may get offsets with the transaction, which begins if none is open.
    AddOffsets {
        /// The transactional id.
        transactional_id: String,
        /// Who asks.
        producer: ProducerIdentity,
        /// Which.
        group: String,
    },
    /// TxnOffsetCommit: pending until the end commits.
    CommitOffsets {
        /// The transactional id.
        transactional_id: String,
        /// Who asks.
        producer: ProducerIdentity,
        /// Whose offsets; added before.
        group: String,
        /// The offsets.
        offsets: Vec<(TopicPartition, GroupOffset)>,
    },
    /// Markers on all partitions, pending offsets and state, in this one commit. Again with the same outcome it succeeds.
    End {
        /// The transactional id.
        transactional_id: String,
        /// Who asks.
        producer: ProducerIdentity,
        /// Or aborted.
        committed: bool,
    },
    /// By an operator: aborts what is open and fences its producer. [`Error::InvalidTransactionState`] if nothing is.
    Abort {
        /// The transactional id.
        transactional_id: String,
    },
}

/// What a commit did.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Per [`Commit::appends`], in order.
    pub appended: Vec<Appended>,
    /// Per [`Commit::transactions`], in order: who its producer is now.
    pub transactions: Vec<ProducerIdentity>,
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
    /// The log's time of its records, ms, where the topic wants that (`message.timestamp.type`); not told of a duplicate.
    pub log_append_time_ms: Option<i64>,
}
