//! Our own topics: what topics, definitions, offsets and positions there are, as one state that changes step by step.
//!
//! Every change is one record of one of our own topics; the state is what all records so far have made of it. So
//! there is nothing beside the log to keep in step: a snapshot plus the records since is the state. Applying a change
//! answers with what undoes it, for a group of commits that could not be written.
//!
//! | topic | key (JSON) | value (JSON, null removes) | changed by |
//! |---|---|---|---|
//! | `__aquifer_catalog` | `{"topic": id}` | a topic | a commit's `topics` |
//! | `__aquifer_catalog` | `{"log_start": [topic id, partition]}` | an offset | a commit's `trims` |
//! | `__aquifer_catalog` | `{"definition": [kind, name]}` | bytes and holds | a commit's `definitions` |
//! | `__transaction_state` | `"producer_ids"` | the first id not given out | the log itself |
//! | `__transaction_state` | `{"transaction": transactional id}` | where it stands | a commit's `transactions` |
//! | `__transaction_state` | `{"pending_offset": [transactional id, group, topic id, partition]}` | an offset | a commit's `transactions` |
//! | `__consumer_offsets` | `{"offset": [group, topic id, partition]}` | an offset | a commit's `group_offsets` |
//! | `__aquifer_positions` | `{"position": query}` | bytes | a commit's `positions` |
//!
//! Keys are stored: never rename one. Each value names its version. With a transaction that is no longer open go its
//! pending offsets: no record says so.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::envelope::newer;
use crate::error::{Error, Result};
use crate::ids::{OwnTopic, TopicId, TopicPartition};
use crate::log::transaction::Transaction;
use crate::topic_config::{CleanupPolicy, TopicConfig};
use crate::view::{Definition, GroupOffset, Topic};

const VALUE_VERSION: u32 = 1;

/// What a committed offset takes beside its group and metadata, about.
pub(crate) const OFFSET_BYTES: usize = 192;

/// Partitions of one topic, at the most: each costs memory for ever.
pub const PARTITIONS_MAX: i32 = 10_000;

/// Deleted topics that are remembered until they are swept. Should more wait, because the object store takes no deletes
/// for long, the objects of those beyond stay there, and `verify` names them.
const DELETED_MAX: usize = 100_000;

/// Refuses a stored topic that nobody can have made: believed, it would take all memory.
///
/// # Errors
/// [`Error::Corrupt`].
pub(crate) fn check_stored(topic: &Topic, place: &str) -> Result<()> {
    if (1..=PARTITIONS_MAX).contains(&topic.partitions) {
        return Ok(());
    }
    let reason =
        format!("topic {} with {} partitions, 1 to {PARTITIONS_MAX} there may be", topic.name, topic.partitions);
    Err(Error::Corrupt { place: place.to_owned(), reason })
}

/// One step of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Topic { id: TopicId, value: Option<Arc<Topic>> },
    LogStart { partition: TopicPartition, value: Option<i64> },
    Definition { kind: String, name: String, value: Option<Arc<Definition>> },
    ProducerIds { next: i64 },
    GroupOffset { group: String, partition: TopicPartition, value: Option<GroupOffset> },
    Position { query: String, value: Option<Bytes> },
    Transaction { id: String, value: Option<Arc<Transaction>> },
    PendingOffset { id: String, group: String, partition: TopicPartition, value: Option<GroupOffset> },
}

/// A pending offset: group, partition, transactional id.
pub(crate) type PendingKey = (String, TopicPartition, String);

/// What all changes so far have made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnState {
    pub(crate) topics: HashMap<TopicId, Arc<Topic>>,
    pub(crate) names: BTreeMap<String, TopicId>,
    /// First offsets that were asked for. What tiering has removed stands in manifests.
    pub(crate) log_starts: BTreeMap<TopicPartition, i64>,
    pub(crate) definitions: BTreeMap<(String, String), Arc<Definition>>,
    pub(crate) group_offsets: BTreeMap<(String, TopicPartition), GroupOffset>,
    pub(crate) positions: BTreeMap<String, Bytes>,
    pub(crate) next_producer_id: i64,
    pub(crate) transactions: BTreeMap<String, Arc<Transaction>>,
    pub(crate) pending_offsets: BTreeMap<PendingKey, GroupOffset>,
    /// About what all offsets of groups take, those included that wait for a transaction's end.
    pub(crate) offset_bytes: u64,
    /// Whose a producer id is, if it has a transactional id.
    pub(crate) transactional_producers: HashMap<i64, String>,
    /// Topics made for a transaction that is still open: nobody is shown them before it ends.
    in_the_making: HashSet<TopicId>,
    /// Topics that were deleted, and whose objects may still be there: only what is known to be deleted is ever swept. Who
    /// has swept one takes it out; should that be forgotten, there is nothing left to sweep.
    pub(crate) deleted: BTreeSet<TopicId>,
}

/// The one partition of one of our own topics.
pub(crate) fn own_partition(topic: OwnTopic) -> TopicPartition {
    TopicPartition { topic: TopicId::own(topic), partition: 0 }
}

impl Default for OwnState {
    fn default() -> Self {
        let mut state = Self {
            topics: HashMap::new(),
            names: BTreeMap::new(),
            log_starts: BTreeMap::new(),
            definitions: BTreeMap::new(),
            group_offsets: BTreeMap::new(),
            positions: BTreeMap::new(),
            next_producer_id: 0,
            transactions: BTreeMap::new(),
            pending_offsets: BTreeMap::new(),
            offset_bytes: 0,
            transactional_producers: HashMap::new(),
            in_the_making: HashSet::new(),
            deleted: BTreeSet::new(),
        };
        for own in OwnTopic::ALL {
            let id = TopicId::own(own);
            let topic = Topic {
                id,
                name: own.name().to_owned(),
                partitions: 1,
                config: TopicConfig { cleanup_policy: Some(CleanupPolicy::Compact), ..TopicConfig::default() },
                internal: true,
                created_at_us: 0,
            };
            state.names.insert(topic.name.clone(), id);
            state.topics.insert(id, Arc::new(topic));
        }
        state
    }
}

impl OwnState {
    /// The topic of that name.
    pub(crate) fn topic_named(&self, name: &str) -> Option<&Arc<Topic>> {
        self.names.get(name).and_then(|id| self.topics.get(id))
    }

    /// Whether readers may be shown a topic.
    pub(crate) fn is_shown(&self, topic: TopicId) -> bool {
        !self.in_the_making.contains(&topic)
    }

    /// Whether readers of topics or definitions must look again when this change is made.
    pub(crate) fn changes_catalog(&self, change: &Change) -> bool {
        match change {
            Change::Topic { .. } | Change::Definition { .. } => true,
            Change::Transaction { id, value } => {
                let ends = value.as_ref().is_none_or(|now| !now.is_open());
                ends && self.transactions.get(id).is_some_and(|before| !before.made.is_empty())
            }
            _ => false,
        }
    }

    /// The topic, if it has that partition.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    pub(crate) fn topic_of(&self, partition: TopicPartition) -> Result<&Arc<Topic>> {
        let topic = self
            .topics
            .get(&partition.topic)
            .ok_or_else(|| Error::UnknownTopic { topic: partition.topic.to_string() })?;
        if (0..topic.partitions).contains(&partition.partition) {
            return Ok(topic);
        }
        Err(Error::UnknownPartition { topic: topic.name.clone(), partition: partition.partition })
    }

    /// Who holds a topic, in the words of an error.
    pub(crate) fn holder_of(&self, topic: TopicId) -> Option<String> {
        self.holders_of(topic).next()
    }

    /// All who hold a topic.
    pub(crate) fn holders_of(&self, topic: TopicId) -> impl Iterator<Item = String> {
        let holders = self.definitions.values().filter(move |definition| definition.holds.contains(&topic));
        holders.map(|holder| format!("{} {}", holder.kind, holder.name))
    }

    /// Takes a step back.
    pub(crate) fn take_back(&mut self, step: &Change) {
        self.apply(step);
        if let Change::Topic { id, value: None } = step {
            // It was never made.
            self.deleted.remove(id);
        }
    }

    /// Takes a step; answers with the steps back, in the order to take them.
    pub(crate) fn apply(&mut self, change: &Change) -> Vec<Change> {
        match change {
            Change::Topic { id, value: Some(topic) } => {
                // A deletion that is taken back.
                self.deleted.remove(id);
                self.names.insert(topic.name.clone(), *id);
                let before = self.topics.insert(*id, Arc::clone(topic));
                vec![Change::Topic { id: *id, value: before }]
            }
            Change::Topic { id, value: None } => self.remove_topic(*id),
            Change::LogStart { partition, value } => {
                let before = replace(&mut self.log_starts, *partition, *value);
                vec![Change::LogStart { partition: *partition, value: before }]
            }
            Change::Definition { kind, name, value } => {
                let key = (kind.clone(), name.clone());
                let before = replace(&mut self.definitions, key, value.clone());
                vec![Change::Definition { kind: kind.clone(), name: name.clone(), value: before }]
            }
            Change::ProducerIds { next } => {
                let before = std::mem::replace(&mut self.next_producer_id, *next);
                vec![Change::ProducerIds { next: before }]
            }
            Change::GroupOffset { group, partition, value } => {
                let key = (group.clone(), *partition);
                let held = &mut self.offset_bytes;
                let before = replace_offset(&mut self.group_offsets, held, group, key, value.clone());
                vec![Change::GroupOffset { group: group.clone(), partition: *partition, value: before }]
            }
            Change::Position { query, value } => {
                let before = replace(&mut self.positions, query.clone(), value.clone());
                vec![Change::Position { query: query.clone(), value: before }]
            }
            Change::Transaction { id, value } => self.set_transaction(id, value.clone()),
            Change::PendingOffset { id, group, partition, value } => {
                let key = (group.clone(), *partition, id.clone());
                let held = &mut self.offset_bytes;
                let value = replace_offset(&mut self.pending_offsets, held, group, key, value.clone());
                vec![Change::PendingOffset { id: id.clone(), group: group.clone(), partition: *partition, value }]
            }
        }
    }

    fn set_transaction(&mut self, id: &str, value: Option<Arc<Transaction>>) -> Vec<Change> {
        let open = value.as_ref().is_some_and(|transaction| transaction.is_open());
        let producer_id = value.as_ref().map(|transaction| transaction.producer.id);
        let before = replace(&mut self.transactions, id.to_owned(), value);
        if let Some(before) = &before {
            self.transactional_producers.remove(&before.producer.id);
            for topic in &before.made {
                self.in_the_making.remove(topic);
            }
        }
        if let Some(open) = self.transactions.get(id).filter(|now| now.is_open()) {
            self.in_the_making.extend(&open.made);
        }
        if let Some(producer_id) = producer_id {
            self.transactional_producers.insert(producer_id, id.to_owned());
        }
        let groups = before.as_ref().map(|before| before.groups.clone()).unwrap_or_default();
        let mut back = vec![Change::Transaction { id: id.to_owned(), value: before }];
        for group in groups.into_iter().filter(|_| !open) {
            for (partition, _) in self.pending_of(id, &group) {
                let key = (group.clone(), partition, id.to_owned());
                let value = replace_offset(&mut self.pending_offsets, &mut self.offset_bytes, &group, key, None);
                back.push(Change::PendingOffset { id: id.to_owned(), group: group.clone(), partition, value });
            }
        }
        back
    }

    /// What a group has committed.
    pub(crate) fn offsets_of_group(
        &self,
        group: &str,
    ) -> impl Iterator<Item = (&(String, TopicPartition), &GroupOffset)> {
        let first = TopicPartition { topic: TopicId::from_bytes([0; 16]), partition: i32::MIN };
        self.group_offsets.range((group.to_owned(), first)..).take_while(move |((of, _), _)| of == group)
    }

    /// Offsets of a group that wait for a transaction's end.
    pub(crate) fn pending_of(&self, id: &str, group: &str) -> Vec<(TopicPartition, GroupOffset)> {
        let of_group = self.pending_of_group(group).filter(|((_, _, by), _)| by == id);
        of_group.map(|((_, partition, _), offset)| (*partition, offset.clone())).collect()
    }

    /// Offsets of a group that wait for the end of any transaction.
    pub(crate) fn pending_of_group(&self, group: &str) -> impl Iterator<Item = (&PendingKey, &GroupOffset)> {
        let first = TopicPartition { topic: TopicId::from_bytes([0; 16]), partition: i32::MIN };
        let from = self.pending_offsets.range((group.to_owned(), first, String::new())..);
        from.take_while(move |((of, _, _), _)| of == group)
    }

    /// With a topic go its log starts and the offsets that groups have committed for it: they belong to its id.
    fn remove_topic(&mut self, id: TopicId) -> Vec<Change> {
        let Some(topic) = self.topics.remove(&id) else { return Vec::new() };
        if self.deleted.len() < DELETED_MAX {
            self.deleted.insert(id);
        }
        if self.names.get(&topic.name) == Some(&id) {
            self.names.remove(&topic.name);
        }
        let mut back = vec![Change::Topic { id, value: Some(topic) }];
        self.log_starts.retain(|partition, offset| {
            if partition.topic == id {
                back.push(Change::LogStart { partition: *partition, value: Some(*offset) });
            }
            partition.topic != id
        });
        self.group_offsets.retain(|(group, partition), offset| {
            if partition.topic != id {
                return true;
            }
            self.offset_bytes -= offset_bytes(group, offset);
            let (group, partition, value) = (group.clone(), *partition, Some(offset.clone()));
            back.push(Change::GroupOffset { group, partition, value });
            false
        });
        back
    }
}

/// The same for an offset of a group, whose bytes are counted.
fn replace_offset<K: Ord>(
    map: &mut BTreeMap<K, GroupOffset>,
    held: &mut u64,
    group: &str,
    key: K,
    value: Option<GroupOffset>,
) -> Option<GroupOffset> {
    let after = value.as_ref().map_or(0, |offset| offset_bytes(group, offset));
    let before = replace(map, key, value);
    *held = *held + after - before.as_ref().map_or(0, |offset| offset_bytes(group, offset));
    before
}

fn offset_bytes(group: &str, offset: &GroupOffset) -> u64 {
    (OFFSET_BYTES + group.len() + offset.metadata.len()) as u64
}

fn replace<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

/// A change as a record of one of our own topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnRecord {
    pub(crate) topic: OwnTopic,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

/// Bytes that are text most of the time; stored so that a person can read them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredBytes {
    Text(String),
    Hex(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Key {
    Topic(TopicId),
    LogStart(TopicId, i32),
    Definition(String, String),
    ProducerIds,
    Offset(String, TopicId, i32),
    Position(String),
    Transaction(String),
    PendingOffset(String, String, TopicId, i32),
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    value: T,
}

#[derive(Serialize, Deserialize)]
struct StoredDefinition {
    value: StoredBytes,
    holds: Vec<TopicId>,
}

#[derive(Serialize, Deserialize)]
struct StoredPosition {
    value: StoredBytes,
}

#[derive(Serialize, Deserialize)]
struct StoredLogStart {
    offset: i64,
}

#[derive(Serialize, Deserialize)]
struct StoredProducerIds {
    next: i64,
}

impl StoredBytes {
    fn new(bytes: &Bytes) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }

    fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Text(text) => Some(text.into()),
            Self::Hex(digits) => {
                let pairs = digits.as_bytes().chunks(2);
                let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
                pairs.map(byte).collect::<Option<Vec<u8>>>().map(Bytes::from)
            }
        }
    }
}

impl Change {
    /// The record that stores it.
    pub(crate) fn to_record(&self) -> Result<OwnRecord> {
        let (topic, key, value) = match self {
            Self::Topic { id, value } => {
                (OwnTopic::Catalog, Key::Topic(*id), value.as_ref().map(|topic| encode(topic.as_ref())))
            }
            Self::LogStart { partition, value } => {
                let stored = value.map(|offset| encode(StoredLogStart { offset }));
                (OwnTopic::Catalog, Key::LogStart(partition.topic, partition.partition), stored)
            }
            Self::Definition { kind, name, value } => {
                let stored = value.as_ref().map(|definition| {
                    let value = StoredBytes::new(&definition.value);
                    encode(StoredDefinition { value, holds: definition.holds.clone() })
                });
                (OwnTopic::Catalog, Key::Definition(kind.clone(), name.clone()), stored)
            }
            Self::ProducerIds { next } => {
                (OwnTopic::TransactionState, Key::ProducerIds, Some(encode(StoredProducerIds { next: *next })))
            }
            Self::GroupOffset { group, partition, value } => {
                let key = Key::Offset(group.clone(), partition.topic, partition.partition);
                (OwnTopic::ConsumerOffsets, key, value.as_ref().map(encode))
            }
            Self::Position { query, value } => {
                let stored = value.as_ref().map(|value| encode(StoredPosition { value: StoredBytes::new(value) }));
                (OwnTopic::Positions, Key::Position(query.clone()), stored)
            }
            Self::Transaction { id, value } => {
                let stored = value.as_ref().map(|transaction| encode(transaction.as_ref()));
                (OwnTopic::TransactionState, Key::Transaction(id.clone()), stored)
            }
            Self::PendingOffset { id, group, partition, value } => {
                let key = Key::PendingOffset(id.clone(), group.clone(), partition.topic, partition.partition);
                (OwnTopic::TransactionState, key, value.as_ref().map(encode))
            }
        };
        let key = serde_json::to_vec(&key).map_err(Error::format("encode key"))?;
        Ok(OwnRecord { topic, key, value: value.transpose()? })
    }

    /// The reverse of [`Change::to_record`]; `place` names the record for errors.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it does not decode, [`Error::Config`] if a newer program wrote it.
    pub(crate) fn from_record(key: &[u8], value: Option<&[u8]>, place: &str) -> Result<Self> {
        let corrupt = |reason: String| Error::Corrupt { place: place.to_owned(), reason };
        let key: Key = serde_json::from_slice(key).map_err(|error| corrupt(format!("key: {error}")))?;
        Ok(match key {
            Key::Topic(id) => {
                let topic = decode::<Topic>(value, place)?;
                topic.iter().try_for_each(|topic| check_stored(topic, place))?;
                Self::Topic { id, value: topic.map(Arc::new) }
            }
            Key::LogStart(topic, partition) => {
                let value = decode::<StoredLogStart>(value, place)?.map(|stored| stored.offset);
                Self::LogStart { partition: TopicPartition { topic, partition }, value }
            }
            Key::Definition(kind, name) => {
                let stored = decode::<StoredDefinition>(value, place)?;
                let value = match stored {
                    None => None,
                    Some(StoredDefinition { value, holds }) => {
                        let value = value.into_bytes().ok_or_else(|| corrupt("definition: not hex".to_owned()))?;
                        Some(Arc::new(Definition { kind: kind.clone(), name: name.clone(), value, holds }))
                    }
                };
                Self::Definition { kind, name, value }
            }
            Key::ProducerIds => {
                let next = decode::<StoredProducerIds>(value, place)?.map_or(0, |stored| stored.next);
                Self::ProducerIds { next }
            }
            Key::Offset(group, topic, partition) => {
                let partition = TopicPartition { topic, partition };
                Self::GroupOffset { group, partition, value: decode(value, place)? }
            }
            Key::Position(query) => {
                let value = match decode::<StoredPosition>(value, place)? {
                    None => None,
                    Some(stored) => {
                        Some(stored.value.into_bytes().ok_or_else(|| corrupt("position: not hex".to_owned()))?)
                    }
                };
                Self::Position { query, value }
            }
            Key::Transaction(id) => Self::Transaction { id, value: decode(value, place)?.map(Arc::new) },
            Key::PendingOffset(id, group, topic, partition) => {
                let partition = TopicPartition { topic, partition };
                Self::PendingOffset { id, group, partition, value: decode(value, place)? }
            }
        })
    }
}

fn encode<T: Serialize>(value: T) -> Result<Vec<u8>> {
    serde_json::to_vec(&Versioned { version: VALUE_VERSION, value }).map_err(Error::format("encode value"))
}

fn decode<T: for<'a> Deserialize<'a>>(value: Option<&[u8]>, place: &str) -> Result<Option<T>> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Some(value) = value else { return Ok(None) };
    let corrupt = |error: serde_json::Error| Error::Corrupt { place: place.to_owned(), reason: error.to_string() };
    let Version { version } = serde_json::from_slice(value).map_err(corrupt)?;
    if version > VALUE_VERSION {
        return Err(newer("record of the catalog", place, version, VALUE_VERSION));
    }
    let versioned: Versioned<T> = serde_json::from_slice(value).map_err(corrupt)?;
    Ok(Some(versioned.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ProducerIdentity;

    fn changes() -> Vec<Change> {
        let id = TopicId::from_bytes([3; 16]);
        let partition = TopicPartition { topic: id, partition: 2 };
        let topic = Topic {
            id,
            name: "clicks".to_owned(),
            partitions: 3,
            config: TopicConfig { retention_ms: Some(7), ..TopicConfig::default() },
            internal: false,
            created_at_us: 99,
        };
        let definition = Definition {
            kind: "query".to_owned(),
            name: "per_user".to_owned(),
            value: Bytes::from_static(b"{\"a\": 1}"),
            holds: vec![id],
        };
        let producer = ProducerIdentity { id: 8, epoch: 2 };
        let begun = Transaction::empty(producer, Some(producer), 1000, 5);
        let open = begun.with_partitions(&[partition], 6).unwrap().with_group("g", 7).unwrap();
        let offset = GroupOffset { offset: 5, leader_epoch: -1, metadata: "m\u{e9}".to_owned(), committed_at_us: 100 };
        vec![
            Change::Topic { id, value: Some(Arc::new(topic.clone())) },
            Change::LogStart { partition, value: Some(40) },
            Change::LogStart { partition, value: Some(50) },
            Change::Topic { id, value: Some(Arc::new(Topic { partitions: 5, ..topic })) },
            Change::Definition {
                kind: "query".to_owned(),
                name: "per_user".to_owned(),
                value: Some(Arc::new(definition)),
            },
            Change::ProducerIds { next: 1000 },
            Change::GroupOffset { group: "g".to_owned(), partition, value: Some(offset.clone()) },
            Change::Transaction { id: "t".to_owned(), value: Some(Arc::new(open.clone())) },
            Change::PendingOffset { id: "t".to_owned(), group: "g".to_owned(), partition, value: Some(offset) },
            Change::Transaction { id: "t".to_owned(), value: open.ended("t", true, 9).unwrap().map(Arc::new) },
            Change::Transaction { id: "t".to_owned(), value: None },
            Change::Position { query: "q".to_owned(), value: Some(Bytes::from_static(&[0, 255, 17])) },
            Change::Definition { kind: "query".to_owned(), name: "per_user".to_owned(), value: None },
            Change::Position { query: "q".to_owned(), value: None },
            Change::Topic { id, value: None },
        ]
    }

    #[test]
    fn every_change_comes_back_from_its_record() {
        for change in changes() {
            let record = change.to_record().unwrap();
            let back = Change::from_record(&record.key, record.value.as_deref(), "x").unwrap();
            assert_eq!(back, change);
        }
    }

    #[test]
    fn a_topic_of_absurdly_many_partitions_is_no_topic() {
        for partitions in [i32::MIN, 0, PARTITIONS_MAX + 1, i32::MAX] {
            let Some(Change::Topic { id, value: Some(topic) }) = changes().into_iter().next() else {
                panic!("a topic")
            };
            let change = Change::Topic { id, value: Some(Arc::new(Topic { partitions, ..Topic::clone(&topic) })) };
            let record = change.to_record().unwrap();
            let read = Change::from_record(&record.key, record.value.as_deref(), "x");
            assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}");
        }
    }

    #[test]
    fn pending_offsets_go_with_the_end_of_their_transaction() {
        let mut state = OwnState::default();
        let ended = |change: &Change| matches!(change, Change::Transaction { value: Some(at), .. } if !at.is_open());
        for change in changes() {
            let pending = state.pending_of("t", "g").len();
            state.apply(&change);
            if ended(&change) {
                assert_eq!((pending, state.pending_of("t", "g").len()), (1, 0));
            }
        }
        assert!(state.transactional_producers.is_empty());
    }

    #[test]
    fn the_steps_back_lead_to_where_it_began() {
        let mut state = OwnState::default();
        let mut trail = vec![];
        for change in changes() {
            let before = state.clone();
            let back = state.apply(&change);
            trail.push((before, back));
        }
        for (before, back) in trail.into_iter().rev() {
            for step in &back {
                state.take_back(step);
            }
            assert_eq!(state, before);
        }
    }
}
