//! The shape of every request we take, as Kafka's message definitions have it, and the walk that checks a frame against it.
//!
//! The message crate allocates by the counts it reads, so that fifteen hostile bytes abort the process. In front of it
//! stands this walk: after it every string, array and tagged field lies inside the frame and the elements are limited in
//! number. <https://github.com/apache/kafka/tree/trunk/clients/src/main/resources/common/message>

use bytes::Bytes;

use super::wire::{Malformed, Reader};

/// Array elements and tagged fields of one request, so that what it becomes in memory stays within tens of megabytes.
pub(crate) const ELEMENTS_MAX: u32 = 1 << 18;

/// The type of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Numbers, booleans and uuids: so many bytes.
    Fixed(usize),
    /// A string, null or not.
    String,
    /// Bytes, null or not.
    Bytes,
    /// An array, null or not.
    Array(&'static Kind),
    /// A structure of its own, with tagged fields where the version has them.
    Struct(&'static [Field]),
}

/// A field and the versions that have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    kind: Kind,
    since: i16,
    until: i16,
}

const fn since(since: i16, kind: Kind) -> Field {
    Field { kind, since, until: i16::MAX }
}

const fn always(kind: Kind) -> Field {
    since(0, kind)
}

const fn between(since: i16, until: i16, kind: Kind) -> Field {
    Field { kind, since, until }
}

const BOOLEAN: Kind = Kind::Fixed(1);
const INT8: Kind = Kind::Fixed(1);
const INT16: Kind = Kind::Fixed(2);
const INT32: Kind = Kind::Fixed(4);
const INT64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);
const STRING: Kind = Kind::String;
const STRINGS: Kind = Kind::Array(&Kind::String);
const INT32S: Kind = Kind::Array(&INT32);
const INT64S: Kind = Kind::Array(&INT64);
/// Topics by name, each with numbers of partitions.
const TOPIC_PARTITIONS: Kind = Kind::Array(&Kind::Struct(&[always(STRING), always(INT32S)]));

/// client_software_name, client_software_version
pub(crate) const API_VERSIONS: &[Field] = &[since(3, STRING), since(3, STRING)];

/// topics [topic_id, name], allow_auto_topic_creation, include_cluster_…, include_topic_authorized_operations
pub(crate) const METADATA: &[Field] = &[
    always(Kind::Array(&Kind::Struct(&[since(10, UUID), always(STRING)]))),
    since(4, BOOLEAN),
    between(8, 10, BOOLEAN),
    since(8, BOOLEAN),
];

/// replica_id, isolation_level, topics [name, partitions [partition_index, current_leader_epoch, timestamp]]
pub(crate) const LIST_OFFSETS: &[Field] = &[
    always(INT32),
    since(2, INT8),
    always(Kind::Array(&Kind::Struct(&[
        always(STRING),
        always(Kind::Array(&Kind::Struct(&[always(INT32), since(4, INT32), always(INT64)]))),
    ]))),
];

/// topics [name, num_partitions, replication_factor, assignments [partition_index, broker_ids], configs [name, value]],
/// timeout_ms, validate_only
pub(crate) const CREATE_TOPICS: &[Field] = &[
    always(Kind::Array(&Kind::Struct(&[
        always(STRING),
        always(INT32),
        always(INT16),
        always(Kind::Array(&Kind::Struct(&[always(INT32), always(INT32S)]))),
        always(Kind::Array(&Kind::Struct(&[always(STRING), always(STRING)]))),
    ]))),
    always(INT32),
    always(BOOLEAN),
];

/// topics [name, topic_id] or topic_names, timeout_ms
pub(crate) const DELETE_TOPICS: &[Field] =
    &[since(6, Kind::Array(&Kind::Struct(&[always(STRING), always(UUID)]))), between(0, 5, STRINGS), always(INT32)];

/// key, key_type, coordinator_keys
pub(crate) const FIND_COORDINATOR: &[Field] = &[between(0, 3, STRING), since(1, INT8), since(4, STRINGS)];

/// group_id, session_timeout_ms, rebalance_timeout_ms, member_id, group_instance_id, protocol_type, protocols [name,
/// metadata], reason
pub(crate) const JOIN_GROUP: &[Field] = &[
    always(STRING),
    always(INT32),
    since(1, INT32),
    always(STRING),
    since(5, STRING),
    always(STRING),
    always(Kind::Array(&Kind::Struct(&[always(STRING), always(Kind::Bytes)]))),
    since(8, STRING),
];

/// group_id, generation_id, member_id, group_instance_id, protocol_type, protocol_name, assignments [member_id,
/// assignment]
pub(crate) const SYNC_GROUP: &[Field] = &[
    always(STRING),
    always(INT32),
    always(STRING),
    since(3, STRING),
    since(5, STRING),
    since(5, STRING),
    always(Kind::Array(&Kind::Struct(&[always(STRING), always(Kind::Bytes)]))),
];

/// group_id, generation_id, member_id, group_instance_id
pub(crate) const HEARTBEAT: &[Field] = &[always(STRING), always(INT32), always(STRING), since(3, STRING)];

/// group_id, member_id, members [member_id, group_instance_id, reason]
pub(crate) const LEAVE_GROUP: &[Field] = &[
    always(STRING),
    between(0, 2, STRING),
    since(3, Kind::Array(&Kind::Struct(&[always(STRING), always(STRING), since(5, STRING)]))),
];

/// groups, include_authorized_operations
pub(crate) const DESCRIBE_GROUPS: &[Field] = &[always(STRINGS), since(3, BOOLEAN)];

/// states_filter, types_filter
pub(crate) const LIST_GROUPS: &[Field] = &[since(4, STRINGS), since(5, STRINGS)];

/// groups_names
pub(crate) const DELETE_GROUPS: &[Field] = &[always(STRINGS)];

/// group_id, generation_id, member_id, group_instance_id, retention_time_ms, topics [name, partitions [partition_index,
/// committed_offset, committed_leader_epoch, committed_metadata]]
pub(crate) const OFFSET_COMMIT: &[Field] = &[
    always(STRING),
    always(INT32),
    always(STRING),
    since(7, STRING),
    between(0, 4, INT64),
    always(Kind::Array(&Kind::Struct(&[
        always(STRING),
        always(Kind::Array(&Kind::Struct(&[always(INT32), always(INT64), since(6, INT32), always(STRING)]))),
    ]))),
];

/// group_id, topics, groups [group_id, topics], require_stable
pub(crate) const OFFSET_FETCH: &[Field] = &[
    between(0, 7, STRING),
    between(0, 7, TOPIC_PARTITIONS),
    since(8, Kind::Array(&Kind::Struct(&[always(STRING), always(TOPIC_PARTITIONS)]))),
    since(7, BOOLEAN),
];

/// transactional_id, transaction_timeout_ms, producer_id, producer_epoch
pub(crate) const INIT_PRODUCER_ID: &[Field] = &[always(STRING), always(INT32), since(3, INT64), since(3, INT16)];

/// transactional_id, producer_id, producer_epoch, topics [name, partitions]
pub(crate) const ADD_PARTITIONS_TO_TXN: &[Field] =
    &[always(STRING), always(INT64), always(INT16), always(TOPIC_PARTITIONS)];

/// transactional_id, producer_id, producer_epoch, group_id
pub(crate) const ADD_OFFSETS_TO_TXN: &[Field] = &[always(STRING), always(INT64), always(INT16), always(STRING)];

/// transactional_id, producer_id, producer_epoch, committed
pub(crate) const END_TXN: &[Field] = &[always(STRING), always(INT64), always(INT16), always(BOOLEAN)];

/// transactional_id, group_id, producer_id, producer_epoch, generation_id, member_id, group_instance_id, topics [name,
/// partitions [partition_index, committed_offset, committed_leader_epoch, committed_metadata]]
pub(crate) const TXN_OFFSET_COMMIT: &[Field] = &[
    always(STRING),
    always(STRING),
    always(INT64),
    always(INT16),
    since(3, INT32),
    since(3, STRING),
    since(3, STRING),
    always(Kind::Array(&Kind::Struct(&[
        always(STRING),
        always(Kind::Array(&Kind::Struct(&[always(INT32), always(INT64), since(2, INT32), always(STRING)]))),
    ]))),
];

/// topics [name, partition_indexes]
pub(crate) const DESCRIBE_PRODUCERS: &[Field] = &[always(TOPIC_PARTITIONS)];

/// transactional_ids
pub(crate) const DESCRIBE_TRANSACTIONS: &[Field] = &[always(STRINGS)];

/// state_filters, producer_id_filters, duration_filter
pub(crate) const LIST_TRANSACTIONS: &[Field] = &[always(STRINGS), always(INT64S), since(1, INT64)];

/// include_cluster_authorized_operations, endpoint_type
pub(crate) const DESCRIBE_CLUSTER: &[Field] = &[always(BOOLEAN), since(1, INT8)];

/// resources [resource_type, resource_name, configuration_keys], include_synonyms, include_documentation
pub(crate) const DESCRIBE_CONFIGS: &[Field] = &[
    always(Kind::Array(&Kind::Struct(&[always(INT8), always(STRING), always(STRINGS)]))),
    always(BOOLEAN),
    since(3, BOOLEAN),
];

/// resources [resource_type, resource_name, configs [name, value]], validate_only
pub(crate) const ALTER_CONFIGS: &[Field] = &[
    always(Kind::Array(&Kind::Struct(&[
        always(INT8),
        always(STRING),
        always(Kind::Array(&Kind::Struct(&[always(STRING), always(STRING)]))),
    ]))),
    always(BOOLEAN),
];

/// resources [resource_type, resource_name, configs [name, config_operation, value]], validate_only
pub(crate) const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    always(Kind::Array(&Kind::Struct(&[
        always(INT8),
        always(STRING),
        always(Kind::Array(&Kind::Struct(&[always(STRING), always(INT8), always(STRING)]))),
    ]))),
    always(BOOLEAN),
];

/// topics [name, count, assignments [broker_ids]], timeout_ms, validate_only
pub(crate) const CREATE_PARTITIONS: &[Field] = &[
    always(Kind::Array(&Kind::Struct(&[
        always(STRING),
        always(INT32),
        always(Kind::Array(&Kind::Struct(&[always(INT32S)]))),
    ]))),
    always(INT32),
    always(BOOLEAN),
];

/// topics [name, partitions [partition_index, offset]], timeout_ms
pub(crate) const DELETE_RECORDS: &[Field] = &[
    always(Kind::Array(&Kind::Struct(&[
        always(STRING),
        always(Kind::Array(&Kind::Struct(&[always(INT32), always(INT64)]))),
    ]))),
    always(INT32),
];

/// replica_id, topics [topic, partitions [partition, current_leader_epoch, leader_epoch]]
pub(crate) const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    since(3, INT32),
    always(Kind::Array(&Kind::Struct(&[
        always(STRING),
        always(Kind::Array(&Kind::Struct(&[always(INT32), always(INT32), always(INT32)]))),
    ]))),
];

/// topics [topic, partitions]
pub(crate) const DESCRIBE_LOG_DIRS: &[Field] = &[always(Kind::Array(&Kind::Struct(&[always(STRING), always(INT32S)])))];

/// Checks that `body` begins with one whole message of this shape. What follows is let be, as Kafka's broker lets it:
/// librdkafka leaves three bytes of a placeholder behind when it asks for the metadata of all topics from version 9 on.
pub(crate) fn check(fields: &'static [Field], body: &Bytes, version: i16, flexible: bool) -> Result<(), Malformed> {
    let mut walk = Walk { reader: Reader::new(body.clone()), elements_left: ELEMENTS_MAX, version, flexible };
    walk.fields(fields)
}

/// The recursion is as deep as the constants above nest, whatever the bytes say.
struct Walk {
    reader: Reader,
    elements_left: u32,
    version: i16,
    flexible: bool,
}

impl Walk {
    fn fields(&mut self, fields: &'static [Field]) -> Result<(), Malformed> {
        let version = self.version;
        for field in fields.iter().filter(|field| (field.since..=field.until).contains(&version)) {
            self.kind(&field.kind)?;
        }
        if self.flexible {
            let tags = self.reader.skip_tagged_fields()?;
            self.count(tags)?;
        }
        Ok(())
    }

    fn kind(&mut self, kind: &'static Kind) -> Result<(), Malformed> {
        match kind {
            Kind::Fixed(bytes) => self.reader.skip(*bytes),
            Kind::String => {
                let length = self.reader.string_length(self.flexible)?;
                self.reader.skip(length.unwrap_or(0))
            }
            Kind::Bytes => {
                let length = self.reader.bytes_length(self.flexible)?;
                self.reader.skip(length.unwrap_or(0))
            }
            Kind::Array(element) => {
                let count = self.reader.bytes_length(self.flexible)?.unwrap_or(0);
                self.count(u32::try_from(count).unwrap_or(u32::MAX))?;
                (0..count).try_for_each(|_| self.kind(element))
            }
            Kind::Struct(fields) => self.fields(fields),
        }
    }

    fn count(&mut self, elements: u32) -> Result<(), Malformed> {
        self.elements_left = self
            .elements_left
            .checked_sub(elements)
            .ok_or_else(|| Malformed::new(format!("more than {ELEMENTS_MAX} elements in one request")))?;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod generate;
#[cfg(test)]
mod tests;
