//! Kafka's names for what a broker has been told, and its numbers for the types of values.

use aquifer_storage::ConfigKind;

use super::{SOURCE_DEFAULT, SOURCE_STATIC_BROKER, Shown};
use crate::kafka::broker::{Broker, NODE_ID};

/// Kafka's numbers of types.
const BOOLEAN: i8 = 1;
pub(super) const STRING: i8 = 2;
const INT: i8 = 3;
const LONG: i8 = 5;
const DOUBLE: i8 = 6;
const LIST: i8 = 7;

/// Kafka's number of a type.
pub(super) fn kind(kind: ConfigKind) -> i8 {
    match kind {
        ConfigKind::Boolean => BOOLEAN,
        ConfigKind::String => STRING,
        ConfigKind::Int => INT,
        ConfigKind::Long(_) => LONG,
        ConfigKind::Double => DOUBLE,
        ConfigKind::List => LIST,
    }
}

/// What a broker calls the default of a topic's config; `None` where it has none.
pub(super) fn of_default(topic_config: &str) -> Option<&'static str> {
    Some(match topic_config {
        "cleanup.policy" => "log.cleanup.policy",
        "compression.type" => "compression.type",
        "delete.retention.ms" => "log.cleaner.delete.retention.ms",
        "file.delete.delay.ms" => "log.segment.delete.delay.ms",
        "flush.messages" => "log.flush.interval.messages",
        "flush.ms" => "log.flush.interval.ms",
        "index.interval.bytes" => "log.index.interval.bytes",
        "local.retention.bytes" => "log.local.retention.bytes",
        "local.retention.ms" => "log.local.retention.ms",
        "max.compaction.lag.ms" => "log.cleaner.max.compaction.lag.ms",
        "max.message.bytes" => "message.max.bytes",
        "message.downconversion.enable" => "log.message.downconversion.enable",
        "message.timestamp.type" => "log.message.timestamp.type",
        "min.cleanable.dirty.ratio" => "log.cleaner.min.cleanable.ratio",
        "min.compaction.lag.ms" => "log.cleaner.min.compaction.lag.ms",
        "min.insync.replicas" => "min.insync.replicas",
        "preallocate" => "log.preallocate",
        "retention.bytes" => "log.retention.bytes",
        "retention.ms" => "log.retention.ms",
        "segment.bytes" => "log.segment.bytes",
        "segment.index.bytes" => "log.index.size.max.bytes",
        "segment.jitter.ms" => "log.roll.jitter.ms",
        "segment.ms" => "log.roll.ms",
        "unclean.leader.election.enable" => "unclean.leader.election.enable",
        _ => return None,
    })
}

/// Kafka's name, our setting, the type.
pub(super) const OF_SETTINGS: [(&str, &str, i8); 12] = [
    ("auto.create.topics.enable", "topic.auto_create", BOOLEAN),
    ("log.cleaner.delete.retention.ms", "topic.delete_retention_ms", LONG),
    ("log.local.retention.bytes", "topic.local_retention_bytes", LONG),
    ("log.local.retention.ms", "topic.local_retention_ms", LONG),
    ("log.retention.bytes", "topic.retention_bytes", LONG),
    ("log.retention.ms", "topic.retention_ms", LONG),
    ("log.segment.bytes", "wal.segment_bytes", INT),
    ("max.connections", "kafka.connections_max", INT),
    ("message.max.bytes", "topic.max_message_bytes", INT),
    ("num.partitions", "topic.partitions", INT),
    ("queued.max.request.bytes", "kafka.request_bytes_in_flight_max", LONG),
    ("socket.request.max.bytes", "kafka.request_bytes_max", INT),
];

/// What is so because of how we are made, and what is asked for often.
pub(super) fn fixed(broker: &Broker) -> Vec<Shown> {
    let node = NODE_ID.0.to_string();
    let listener = format!("PLAINTEXT://{}:{}", broker.host, broker.port);
    let dir = broker.storage.log_dir().display().to_string();
    let fixed = [
        ("advertised.listeners", listener, SOURCE_STATIC_BROKER, STRING, "where clients are sent"),
        ("broker.id", node.clone(), SOURCE_DEFAULT, INT, "there is one node"),
        ("compression.type", "producer".to_owned(), SOURCE_DEFAULT, STRING, "batches stay as they were sent"),
        ("default.replication.factor", "1".to_owned(), SOURCE_DEFAULT, INT, "the object store keeps the copies"),
        ("delete.topic.enable", "true".to_owned(), SOURCE_DEFAULT, BOOLEAN, "topics can be deleted"),
        ("log.cleanup.policy", "delete".to_owned(), SOURCE_DEFAULT, LIST, "records go by age and size"),
        ("log.dirs", dir, SOURCE_STATIC_BROKER, STRING, "where the log is"),
        ("log.message.timestamp.type", "CreateTime".to_owned(), SOURCE_DEFAULT, STRING, "the producer's times"),
        ("min.insync.replicas", "1".to_owned(), SOURCE_DEFAULT, INT, "the log syncs before it answers"),
        ("node.id", node, SOURCE_DEFAULT, INT, "there is one node"),
    ];
    let shown = fixed.into_iter().map(|(name, value, source, kind, documentation)| Shown {
        name,
        synonyms: vec![(name, value.clone(), source)],
        value,
        source,
        kind,
        documentation: documentation.to_owned(),
        read_only: true,
    });
    shown.collect()
}
