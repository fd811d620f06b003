//! Names that never mean two things: topics by uuid, the cluster, the writer's epoch.
//!
//! A topic's name may be given again to another topic; its id may not. Everything stored (objects, indexes,
//! producer state, group offsets) belongs to the id, so a re-created topic starts at offset 0 and inherits nothing.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A topic's identity for ever, the 16 bytes Kafka calls a topic id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TopicId(pub Uuid);

impl TopicId {
    /// The 16 bytes as stored in frames and sent on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The reverse of [`TopicId::as_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Our own topics have ids that are the same in every cluster; see [`OwnTopic`].
    #[must_use]
    pub fn own(topic: OwnTopic) -> Self {
        Self(Uuid::from_u128(0x6171_7569_6665_7200_0000_0000_0000_0000 | topic as u128))
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({})", self.0)
    }
}

/// The topics the node keeps for itself: one partition each, readable, refused for produce, never tiered.
///
/// The numbers are stored inside topic ids: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum OwnTopic {
    /// `__consumer_offsets`: what consumer groups have committed.
    ConsumerOffsets = 1,
    /// `__transaction_state`: transactional ids, their producers and what they touch.
    TransactionState = 2,
    /// `__aquifer_catalog`: topics and the definitions of relations and queries.
    Catalog = 3,
    /// `__aquifer_positions`: how far each continuous query has read, per source partition.
    Positions = 4,
}

impl OwnTopic {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::ConsumerOffsets, Self::TransactionState, Self::Catalog, Self::Positions];

    /// The name clients see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConsumerOffsets => "__consumer_offsets",
            Self::TransactionState => "__transaction_state",
            Self::Catalog => "__aquifer_catalog",
            Self::Positions => "__aquifer_positions",
        }
    }
}

/// Counts the processes that have opened a data directory for writing; stored in every frame and manifest, so that
/// what an older process writes late can be told and refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WriterEpoch(pub u64);

/// One checkpoint in the bucket: who put it, and the how-manieth of that process. A later one is larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct CheckpointId {
    pub(crate) epoch: WriterEpoch,
    pub(crate) version: u64,
}

impl std::fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch.0, self.version)
    }
}

/// The last takeover of a cluster: when a node began from the bucket alone, and from which checkpoint. Directory and
/// bucket both hold it: a directory from before a takeover knows records that the cluster has given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Takeover {
    /// Of the process that took over.
    pub(crate) epoch: WriterEpoch,
    pub(crate) from: CheckpointId,
    /// The last commit time in that checkpoint, us.
    pub(crate) taken_at_us: i64,
}

/// A producer as Kafka knows it: an id, and an epoch that fences whoever had the id before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProducerIdentity {
    /// The producer id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition's number, from 0.
    pub partition: i32,
}
