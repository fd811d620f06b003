//! `TopicConfig`: what a topic has been told, under Kafka's names, and what is in force for it: [`TopicConfig::resolve`].
//!
//! One table of names ([`TOPIC_CONFIGS`]) serves Kafka's requests and SQL's WITH (…). A name with a meaning here has a
//! typed field; one that tunes Kafka's own files and replicas is checked, kept and shown as text, and changes nothing.
//! Stored as names and texts, so that a new name needs no new format.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::record::batch::{Compression, TimestampType};
use crate::settings::StorageSettings;

/// The type of a config's value, in Kafka's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigKind {
    /// `true` or `false`.
    Boolean,
    /// 32 bits, at least 0.
    Int,
    /// 64 bits, at least the number beside it.
    Long(i64),
    /// From 0 to 1.
    Double,
    /// A word.
    String,
    /// Words with commas between.
    List,
}

/// A config that a topic may be told.
#[derive(Clone, Copy, Debug)]
pub struct TopicConfigName {
    /// Kafka's name.
    pub name: &'static str,
    /// The type of its value.
    pub kind: ConfigKind,
    /// The setting of the node that holds where the topic says nothing.
    pub setting: Option<&'static str>,
    /// Kafka's default, for what has no meaning here; `None` for what has one.
    pub accepted: Option<&'static str>,
    /// What it does.
    pub documentation: &'static str,
}

const fn works(
    name: &'static str,
    kind: ConfigKind,
    setting: Option<&'static str>,
    documentation: &'static str,
) -> TopicConfigName {
    TopicConfigName { name, kind, setting, accepted: None, documentation }
}

const fn accepted(name: &'static str, kind: ConfigKind, default: &'static str) -> TopicConfigName {
    let documentation = "accepted and shown; it tunes Kafka's files or replicas and has no counterpart here";
    TopicConfigName { name, kind, setting: None, accepted: Some(default), documentation }
}

/// Every config there is, by name.
pub static TOPIC_CONFIGS: [TopicConfigName; 32] = [
    works(
        "cleanup.policy",
        ConfigKind::List,
        None,
        "delete: records go by age and size; compact: the latest record of each key stays; or both",
    ),
    accepted("compression.gzip.level", ConfigKind::Int, "-1"),
    accepted("compression.lz4.level", ConfigKind::Int, "9"),
    works(
        "compression.type",
        ConfigKind::String,
        None,
        "producer: batches stay as sent; else the codec that all are stored with",
    ),
    accepted("compression.zstd.level", ConfigKind::Int, "3"),
    works(
        "delete.retention.ms",
        ConfigKind::Long(0),
        Some("topic.delete_retention_ms"),
        "how long compaction keeps a tombstone",
    ),
    accepted("file.delete.delay.ms", ConfigKind::Long(0), "60000"),
    accepted("flush.messages", ConfigKind::Long(1), "9223372036854775807"),
    accepted("flush.ms", ConfigKind::Long(0), "9223372036854775807"),
    accepted("follower.replication.throttled.replicas", ConfigKind::List, ""),
    accepted("index.interval.bytes", ConfigKind::Int, "4096"),
    accepted("leader.replication.throttled.replicas", ConfigKind::List, ""),
    works(
        "local.retention.bytes",
        ConfigKind::Long(-2),
        Some("topic.local_retention_bytes"),
        "bytes of a partition that stay in the local log too; -1: no limit, -2: as retention.bytes",
    ),
    works(
        "local.retention.ms",
        ConfigKind::Long(-2),
        Some("topic.local_retention_ms"),
        "how long tiered records stay in the local log too; -1: for ever, -2: as retention.ms",
    ),
    works("max.compaction.lag.ms", ConfigKind::Long(1), None, "age at which a record has been compacted at the latest"),
    works(
        "max.message.bytes",
        ConfigKind::Int,
        Some("topic.max_message_bytes"),
        "largest batch, as stored; at most wal.commit_bytes_max",
    ),
    accepted("message.downconversion.enable", ConfigKind::Boolean, "true"),
    works(
        "message.timestamp.type",
        ConfigKind::String,
        None,
        "CreateTime: the producer's times; LogAppendTime: the time of the append",
    ),
    works(
        "min.cleanable.dirty.ratio",
        ConfigKind::Double,
        None,
        "share of uncompacted records that begins a compaction",
    ),
    works(
        "min.compaction.lag.ms",
        ConfigKind::Long(0),
        None,
        "how long compaction leaves a superseded record, so that time travel sees it",
    ),
    works("min.insync.replicas", ConfigKind::Int, None, "accepted: the log syncs before it answers, whatever it says"),
    accepted("preallocate", ConfigKind::Boolean, "false"),
    accepted("remote.log.copy.disable", ConfigKind::Boolean, "false"),
    accepted("remote.log.delete.on.disable", ConfigKind::Boolean, "false"),
    accepted("remote.storage.enable", ConfigKind::Boolean, "true"),
    works(
        "retention.bytes",
        ConfigKind::Long(-1),
        Some("topic.retention_bytes"),
        "bytes of a partition, hot and cold, beyond which its oldest records go; -1: no limit",
    ),
    works("retention.ms", ConfigKind::Long(-1), Some("topic.retention_ms"), "age at which records go; -1: never"),
    accepted("segment.bytes", ConfigKind::Int, "1073741824"),
    accepted("segment.index.bytes", ConfigKind::Int, "10485760"),
    accepted("segment.jitter.ms", ConfigKind::Long(0), "0"),
    accepted("segment.ms", ConfigKind::Long(1), "604800000"),
    accepted("unclean.leader.election.enable", ConfigKind::Boolean, "false"),
];

impl TopicConfigName {
    /// The line of a name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        TOPIC_CONFIGS.iter().find(|config| config.name == name)
    }
}

/// What becomes of old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CleanupPolicy {
    /// They go by age and size.
    #[default]
    Delete,
    /// The latest of each key stays.
    Compact,
    /// Both.
    CompactDelete,
}

impl CleanupPolicy {
    /// Whether the latest record of each key is kept; such topics take keyed records only.
    #[must_use]
    pub fn compacts(self) -> bool {
        self != Self::Delete
    }

    /// Whether records go by age and size.
    #[must_use]
    pub fn deletes(self) -> bool {
        self != Self::Compact
    }

    /// As Kafka writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
            Self::CompactDelete => "compact,delete",
        }
    }

    /// Kafka takes the policies in any order, and each more than once.
    fn parse(text: &str) -> Option<Self> {
        let mut parts: Vec<&str> = text.split(',').map(str::trim).collect();
        parts.sort_unstable();
        parts.dedup();
        match parts[..] {
            ["delete"] => Some(Self::Delete),
            ["compact"] => Some(Self::Compact),
            ["compact", "delete"] => Some(Self::CompactDelete),
            _ => None,
        }
    }
}

impl fmt::Display for CleanupPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How batches are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CompressionType {
    /// As the producer sent them.
    #[default]
    Producer,
    /// With this codec, whatever the producer used.
    Codec(Compression),
}

impl CompressionType {
    /// As Kafka writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Codec(Compression::None) => "uncompressed",
            Self::Codec(Compression::Gzip) => "gzip",
            Self::Codec(Compression::Snappy) => "snappy",
            Self::Codec(Compression::Lz4) => "lz4",
            Self::Codec(Compression::Zstd) => "zstd",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let codecs = Compression::ALL.map(Self::Codec);
        std::iter::once(Self::Producer).chain(codecs).find(|kind| kind.as_str().eq_ignore_ascii_case(text))
    }
}

/// A share from 0 to 1, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(u32);

impl Ratio {
    const ONE: u32 = 1_000_000;

    /// Half.
    pub const HALF: Self = Self(Self::ONE / 2);

    /// As a number.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ONE)
    }

    fn parse(text: &str) -> Option<Self> {
        let number: f64 = text.trim().parse().ok().filter(|number| (0.0..=1.0).contains(number))?;
        // Within 0 and ONE by the line above.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a million")]
        let millionths = (number * f64::from(Self::ONE)).round() as u32;
        Some(Self(millionths))
    }
}

/// What a topic has been told; `None`: nothing, so that the node's default holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TopicConfig {
    /// `max.message.bytes`.
    pub max_message_bytes: Option<i32>,
    /// `message.timestamp.type`.
    pub message_timestamp_type: Option<TimestampType>,
    /// `compression.type`.
    pub compression_type: Option<CompressionType>,
    /// `min.insync.replicas`.
    pub min_insync_replicas: Option<i32>,
    /// `retention.ms`; -1: for ever.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`; -1: no limit.
    pub retention_bytes: Option<i64>,
    /// `local.retention.ms`; -1: for ever, -2: as `retention.ms`.
    pub local_retention_ms: Option<i64>,
    /// `local.retention.bytes`; -1: no limit, -2: as `retention.bytes`.
    pub local_retention_bytes: Option<i64>,
    /// `cleanup.policy`.
    pub cleanup_policy: Option<CleanupPolicy>,
    /// `delete.retention.ms`.
    pub delete_retention_ms: Option<i64>,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: Option<i64>,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: Option<i64>,
    /// `min.cleanable.dirty.ratio`.
    pub min_cleanable_dirty_ratio: Option<Ratio>,
    /// What has no meaning here, by name.
    pub accepted: BTreeMap<String, String>,
}

/// What is in force for a topic: what it has been told, else the node's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedTopicConfig {
    /// Largest batch, as stored.
    pub max_message_bytes: u64,
    /// Whose times the records bear.
    pub message_timestamp_type: TimestampType,
    /// How batches are stored.
    pub compression_type: CompressionType,
    /// Shown, without a meaning.
    pub min_insync_replicas: i32,
    /// Age at which records go; -1: never.
    pub retention_ms: i64,
    /// Bytes of a partition beyond which its oldest records go; -1: no limit.
    pub retention_bytes: i64,
    /// How long tiered records stay in the log, never longer than `retention_ms`; -1: for ever.
    pub local_retention_ms: i64,
    /// Bytes of a partition that stay in the log once tiered, never more than `retention_bytes`; -1: no limit.
    pub local_retention_bytes: i64,
    /// What becomes of old records.
    pub cleanup_policy: CleanupPolicy,
    /// How long compaction keeps a tombstone.
    pub delete_retention_ms: i64,
    /// How long compaction leaves a superseded record.
    pub min_compaction_lag_ms: i64,
    /// Age at which a record has been compacted at the latest.
    pub max_compaction_lag_ms: i64,
    /// Share of uncompacted records that begins a compaction.
    pub min_cleanable_dirty_ratio: Ratio,
}

impl ResolvedTopicConfig {
    /// Whether records go by age or size, not by compaction alone.
    #[must_use]
    pub fn removes_records(&self) -> bool {
        self.cleanup_policy.deletes() && (self.retention_ms >= 0 || self.retention_bytes >= 0)
    }
}

impl TopicConfig {
    /// Sets one by Kafka's name.
    ///
    /// # Errors
    /// [`Error::InvalidTopicConfig`] for a name that is not known and a value that is not allowed; says what is.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        let Some(known) = TopicConfigName::find(name) else {
            let reason = "no such topic config is known; DescribeConfigs lists them".to_owned();
            return Err(Error::InvalidTopicConfig { name: name.to_owned(), reason });
        };
        let invalid = |allowed: String| Error::InvalidTopicConfig {
            name: name.to_owned(),
            reason: format!("'{text}' is not allowed, use {allowed}"),
        };
        check_kind(known.kind, text).map_err(invalid)?;
        if known.accepted.is_some() {
            self.accepted.insert(name.to_owned(), text.to_owned());
            return Ok(());
        }
        let long = text.trim().parse::<i64>().ok();
        let int = text.trim().parse::<i32>().ok();
        match name {
            "max.message.bytes" => self.max_message_bytes = int,
            "message.timestamp.type" => {
                let parsed = timestamp_type(text).ok_or_else(|| invalid("CreateTime or LogAppendTime".to_owned()))?;
                self.message_timestamp_type = Some(parsed);
            }
            "compression.type" => {
                let parsed = CompressionType::parse(text.trim());
                let allowed = "producer, uncompressed, gzip, snappy, lz4 or zstd";
                self.compression_type = Some(parsed.ok_or_else(|| invalid(allowed.to_owned()))?);
            }
            "min.insync.replicas" => {
                let at_least_one = int.filter(|replicas| *replicas >= 1);
                self.min_insync_replicas = Some(at_least_one.ok_or_else(|| invalid("at least 1".to_owned()))?);
            }
            "retention.ms" => self.retention_ms = long,
            "retention.bytes" => self.retention_bytes = long,
            "local.retention.ms" => self.local_retention_ms = long,
            "local.retention.bytes" => self.local_retention_bytes = long,
            "cleanup.policy" => {
                let parsed = CleanupPolicy::parse(text).ok_or_else(|| invalid("delete, compact or both".to_owned()))?;
                self.cleanup_policy = Some(parsed);
            }
            "delete.retention.ms" => self.delete_retention_ms = long,
            "min.compaction.lag.ms" => self.min_compaction_lag_ms = long,
            "max.compaction.lag.ms" => self.max_compaction_lag_ms = long,
            _ => self.min_cleanable_dirty_ratio = Ratio::parse(text),
        }
        Ok(())
    }

    /// Takes back what was set under Kafka's name, so that the default holds again.
    pub fn remove(&mut self, name: &str) {
        match name {
            "max.message.bytes" => self.max_message_bytes = None,
            "message.timestamp.type" => self.message_timestamp_type = None,
            "compression.type" => self.compression_type = None,
            "min.insync.replicas" => self.min_insync_replicas = None,
            "retention.ms" => self.retention_ms = None,
            "retention.bytes" => self.retention_bytes = None,
            "local.retention.ms" => self.local_retention_ms = None,
            "local.retention.bytes" => self.local_retention_bytes = None,
            "cleanup.policy" => self.cleanup_policy = None,
            "delete.retention.ms" => self.delete_retention_ms = None,
            "min.compaction.lag.ms" => self.min_compaction_lag_ms = None,
            "max.compaction.lag.ms" => self.max_compaction_lag_ms = None,
            "min.cleanable.dirty.ratio" => self.min_cleanable_dirty_ratio = None,
            other => drop(self.accepted.remove(other)),
        }
    }

    /// What was set under Kafka's name, as text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        fn text(value: Option<impl fmt::Display>) -> Option<String> {
            value.map(|value| value.to_string())
        }
        match name {
            "max.message.bytes" => text(self.max_message_bytes),
            "message.timestamp.type" => text(self.message_timestamp_type.map(timestamp_type_name)),
            "compression.type" => text(self.compression_type.map(CompressionType::as_str)),
            "min.insync.replicas" => text(self.min_insync_replicas),
            "retention.ms" => text(self.retention_ms),
            "retention.bytes" => text(self.retention_bytes),
            "local.retention.ms" => text(self.local_retention_ms),
            "local.retention.bytes" => text(self.local_retention_bytes),
            "cleanup.policy" => text(self.cleanup_policy),
            "delete.retention.ms" => text(self.delete_retention_ms),
            "min.compaction.lag.ms" => text(self.min_compaction_lag_ms),
            "max.compaction.lag.ms" => text(self.max_compaction_lag_ms),
            "min.cleanable.dirty.ratio" => text(self.min_cleanable_dirty_ratio.map(Ratio::as_f64)),
            other => self.accepted.get(other).cloned(),
        }
    }

    /// Everything that was set: Kafka's name and the text.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, String)> {
        TOPIC_CONFIGS.iter().filter_map(|config| Some((config.name, self.get(config.name)?)))
    }

    /// Whether the values fit one another and the node.
    ///
    /// # Errors
    /// [`Error::InvalidTopicConfig`].
    pub fn check(&self, commit_bytes_max: u64) -> Result<()> {
        let invalid = |name: &str, reason: String| Err(Error::InvalidTopicConfig { name: name.to_owned(), reason });
        if let Some(bytes) = self.max_message_bytes.filter(|bytes| i64::from(*bytes).unsigned_abs() > commit_bytes_max)
        {
            let reason = format!("{bytes} is more than wal.commit_bytes_max = {commit_bytes_max}");
            return invalid("max.message.bytes", reason);
        }
        let pairs = [
            ("local.retention.ms", self.local_retention_ms, "retention.ms", self.retention_ms),
            ("local.retention.bytes", self.local_retention_bytes, "retention.bytes", self.retention_bytes),
        ];
        for (local_name, local, name, whole) in pairs {
            if let (Some(local), Some(whole @ 0..)) = (local, whole)
                && (local == -1 || local > whole)
            {
                return invalid(local_name, format!("{local} is more than {name} = {whole}"));
            }
        }
        match (self.min_compaction_lag_ms, self.max_compaction_lag_ms) {
            (Some(min), Some(max)) if min > max => {
                invalid("max.compaction.lag.ms", format!("{max} is less than min.compaction.lag.ms = {min}"))
            }
            _ => Ok(()),
        }
    }

    /// What is in force.
    #[must_use]
    pub fn resolve(&self, settings: &StorageSettings) -> ResolvedTopicConfig {
        let retention_ms = self.retention_ms.unwrap_or(settings.topic_retention_ms);
        let retention_bytes = self.retention_bytes.unwrap_or(settings.topic_retention_bytes);
        let local_ms = self.local_retention_ms.unwrap_or(settings.topic_local_retention_ms);
        let local_bytes = self.local_retention_bytes.unwrap_or(settings.topic_local_retention_bytes);
        let max_message_bytes = match self.max_message_bytes {
            Some(bytes) => i64::from(bytes).unsigned_abs(),
            None => settings.topic_max_message_bytes,
        };
        ResolvedTopicConfig {
            max_message_bytes: max_message_bytes.min(settings.wal_commit_bytes_max),
            message_timestamp_type: self.message_timestamp_type.unwrap_or_default(),
            compression_type: self.compression_type.unwrap_or_default(),
            min_insync_replicas: self.min_insync_replicas.unwrap_or(1),
            retention_ms,
            retention_bytes,
            local_retention_ms: local_of(local_ms, retention_ms),
            local_retention_bytes: local_of(local_bytes, retention_bytes),
            cleanup_policy: self.cleanup_policy.unwrap_or_default(),
            delete_retention_ms: self.delete_retention_ms.unwrap_or(settings.topic_delete_retention_ms),
            min_compaction_lag_ms: self.min_compaction_lag_ms.unwrap_or(0),
            max_compaction_lag_ms: self.max_compaction_lag_ms.unwrap_or(i64::MAX),
            min_cleanable_dirty_ratio: self.min_cleanable_dirty_ratio.unwrap_or(Ratio::HALF),
        }
    }
}

impl ResolvedTopicConfig {
    /// The value in force under Kafka's name, for what has a meaning here.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        let told = TopicConfig {
            max_message_bytes: Some(i32::try_from(self.max_message_bytes).unwrap_or(i32::MAX)),
            message_timestamp_type: Some(self.message_timestamp_type),
            compression_type: Some(self.compression_type),
            min_insync_replicas: Some(self.min_insync_replicas),
            retention_ms: Some(self.retention_ms),
            retention_bytes: Some(self.retention_bytes),
            local_retention_ms: Some(self.local_retention_ms),
            local_retention_bytes: Some(self.local_retention_bytes),
            cleanup_policy: Some(self.cleanup_policy),
            delete_retention_ms: Some(self.delete_retention_ms),
            min_compaction_lag_ms: Some(self.min_compaction_lag_ms),
            max_compaction_lag_ms: Some(self.max_compaction_lag_ms),
            min_cleanable_dirty_ratio: Some(self.min_cleanable_dirty_ratio),
            accepted: BTreeMap::new(),
        };
        told.get(name)
    }
}

/// The local part of a retention: as the whole one if it says so (-2), and never more; negative: no limit.
fn local_of(local: i64, whole: i64) -> i64 {
    match (local, whole) {
        (-2, _) => whole,
        (..0, 0..) => whole,
        (local, 0..) => local.min(whole),
        (local, _) => local,
    }
}

/// Kafka's word.
fn timestamp_type_name(kind: TimestampType) -> &'static str {
    match kind {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

fn timestamp_type(text: &str) -> Option<TimestampType> {
    let kinds = [TimestampType::CreateTime, TimestampType::LogAppendTime];
    kinds.into_iter().find(|kind| timestamp_type_name(*kind).eq_ignore_ascii_case(text.trim()))
}

/// Whether a text is a value of that type; the error says what is.
fn check_kind(kind: ConfigKind, text: &str) -> Result<(), String> {
    let text = text.trim();
    let fits = match kind {
        ConfigKind::Boolean => matches!(text.to_ascii_lowercase().as_str(), "true" | "false"),
        ConfigKind::Int => text.parse::<i32>().is_ok_and(|number| number >= 0),
        ConfigKind::Long(least) => text.parse::<i64>().is_ok_and(|number| number >= least),
        ConfigKind::Double => Ratio::parse(text).is_some(),
        ConfigKind::String | ConfigKind::List => true,
    };
    if fits {
        return Ok(());
    }
    Err(match kind {
        ConfigKind::Boolean => "true or false".to_owned(),
        ConfigKind::Int => format!("a whole number from 0 to {}", i32::MAX),
        ConfigKind::Long(least) => format!("a whole number of at least {least}"),
        ConfigKind::Double => "a number from 0 to 1".to_owned(),
        ConfigKind::String | ConfigKind::List => "a word".to_owned(),
    })
}

impl Serialize for TopicConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries: BTreeMap<&str, String> = self.entries().collect();
        entries.serialize(serializer)
    }
}

/// Values as texts, or as JSON had them before there was one table of names.
impl<'de> Deserialize<'de> for TopicConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries: BTreeMap<String, String> = if deserializer.is_human_readable() {
            let values = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
            let texts = values.into_iter().filter_map(|(name, value)| match value {
                serde_json::Value::Null => None,
                serde_json::Value::String(text) => Some((name.replace('_', "."), text)),
                other => Some((name.replace('_', "."), other.to_string())),
            });
            texts.collect()
        } else {
            BTreeMap::deserialize(deserializer)?
        };
        let mut config = Self::default();
        for (name, text) in &entries {
            config.set(name, text).map_err(D::Error::custom)?;
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(entries: &[(&str, &str)]) -> TopicConfig {
        let mut config = TopicConfig::default();
        for (name, text) in entries {
            config.set(name, text).unwrap();
        }
        config
    }

    /// A value of each type that no default has.
    fn other_value(known: &TopicConfigName) -> &'static str {
        match (known.name, known.kind) {
            ("cleanup.policy", _) => "compact,delete",
            ("compression.type", _) => "zstd",
            ("message.timestamp.type", _) => "LogAppendTime",
            (_, ConfigKind::Boolean) => "true",
            (_, ConfigKind::Int | ConfigKind::Long(_)) => "77",
            (_, ConfigKind::Double) => "0.25",
            (_, ConfigKind::String | ConfigKind::List) => "0:1",
        }
    }

    #[test]
    fn every_name_of_the_table_is_set_shown_stored_and_taken_back() {
        assert!(TOPIC_CONFIGS.is_sorted_by_key(|known| known.name));
        for known in &TOPIC_CONFIGS {
            let value = other_value(known);
            let told = config(&[(known.name, value)]);
            assert_eq!(told.get(known.name).as_deref(), Some(value), "{}", known.name);
            assert_eq!(told.entries().collect::<Vec<_>>(), [(known.name, value.to_owned())]);
            let json = serde_json::to_string(&told).unwrap();
            assert_eq!(serde_json::from_str::<TopicConfig>(&json).unwrap(), told);
            let stored = postcard::to_stdvec(&told).unwrap();
            assert_eq!(postcard::from_bytes::<TopicConfig>(&stored).unwrap(), told);
            let resolved = told.resolve(&StorageSettings::default());
            let in_force = resolved.get(known.name);
            assert_eq!(in_force.as_deref(), known.accepted.is_none().then_some(value), "{}", known.name);
            let mut untold = told;
            untold.remove(known.name);
            assert_eq!(untold, TopicConfig::default());
        }
    }

    #[test]
    fn what_older_programs_stored_is_read() {
        let old = r#"{"cleanup_policy": "compact", "retention_ms": -1, "local_retention_ms": null}"#;
        let expected = config(&[("cleanup.policy", "compact"), ("retention.ms", "-1")]);
        assert_eq!(serde_json::from_str::<TopicConfig>(old).unwrap(), expected);
    }

    #[test]
    fn what_is_not_allowed_is_refused_by_name_and_says_what_is() {
        for (name, value, allowed) in [
            ("retention.ms", "-2", "at least -1"),
            ("retention.ms", "soon", "at least -1"),
            ("max.message.bytes", "-1", "from 0"),
            ("cleanup.policy", "burn", "delete, compact or both"),
            ("cleanup.policy", "", "delete, compact or both"),
            ("compression.type", "brotli", "zstd"),
            ("message.timestamp.type", "Now", "LogAppendTime"),
            ("min.cleanable.dirty.ratio", "1.5", "from 0 to 1"),
            ("min.insync.replicas", "0", "at least 1"),
            ("preallocate", "maybe", "true or false"),
            ("no.such.config", "1", "no such"),
        ] {
            let error = TopicConfig::default().set(name, value).unwrap_err();
            assert!(error.to_string().contains(name) && error.to_string().contains(allowed), "{error}");
        }
    }

    #[test]
    fn values_that_do_not_fit_one_another_are_refused() {
        for (entries, refused) in [
            (vec![("retention.ms", "10"), ("local.retention.ms", "11")], Some("local.retention.ms")),
            (vec![("retention.ms", "10"), ("local.retention.ms", "-1")], Some("local.retention.ms")),
            (vec![("retention.ms", "10"), ("local.retention.ms", "-2")], None),
            (vec![("retention.ms", "-1"), ("local.retention.ms", "11")], None),
            (vec![("retention.bytes", "10"), ("local.retention.bytes", "11")], Some("local.retention.bytes")),
            (vec![("min.compaction.lag.ms", "9"), ("max.compaction.lag.ms", "8")], Some("max.compaction.lag.ms")),
            (vec![("max.message.bytes", "1001")], Some("max.message.bytes")),
        ] {
            let checked = config(&entries).check(1000);
            let named = checked.as_ref().err().map(ToString::to_string).unwrap_or_default();
            assert_eq!(checked.is_err(), refused.is_some(), "{entries:?}: {named}");
            assert!(named.contains(refused.unwrap_or_default()), "{named}");
        }
    }

    #[test]
    fn the_local_part_of_a_retention_follows_the_whole_one() {
        for (local, whole, expected) in
            [(-2, 7, 7), (-2, -1, -1), (-1, 7, 7), (-1, -1, -1), (3, 7, 3), (9, 7, 7), (9, -1, 9)]
        {
            assert_eq!(local_of(local, whole), expected, "{local} of {whole}");
        }
    }
}
