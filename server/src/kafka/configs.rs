//! Topic configs: which of Kafka's names we store, which we accept because they change nothing here, which we refuse.
//!
//! Tools set many configs by habit. What tunes Kafka's files or replicas is accepted and has no counterpart; what would
//! promise a behaviour we do not have is refused by name.

use aquifer_storage::TopicConfig;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::broker::{Broker, NODE_ID, text};
use super::errors::Refusal;

/// Kafka's tuning of segment files, replicas and the cleaner's pace: accepted, without a counterpart here.
const NO_COUNTERPART: [&str; 17] = [
    "delete.retention.ms",
    "file.delete.delay.ms",
    "flush.messages",
    "flush.ms",
    "follower.replication.throttled.replicas",
    "index.interval.bytes",
    "leader.replication.throttled.replicas",
    "max.compaction.lag.ms",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "min.insync.replicas",
    "preallocate",
    "segment.bytes",
    "segment.index.bytes",
    "segment.jitter.ms",
    "segment.ms",
    "unclean.leader.election.enable",
];

/// Behaviours that we have in one way only: other values are refused.
const FIXED: [(&str, &[&str]); 5] = [
    ("compression.type", &["producer"]),
    ("message.timestamp.type", &["CreateTime"]),
    // Records are kept for ever so far.
    ("retention.ms", &["-1"]),
    ("retention.bytes", &["-1"]),
    ("local.retention.bytes", &["-1", "-2"]),
];

/// Resource types of DescribeConfigs.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
/// Config sources of DescribeConfigs: set for the topic; in the broker's file; built in.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_STATIC_BROKER: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;
/// Config types of DescribeConfigs.
const TYPE_STRING: i8 = 2;
const TYPE_LONG: i8 = 5;

/// Reads the configs of a topic about to be made.
///
/// # Errors
/// INVALID_CONFIG, naming the config and what is allowed.
pub(crate) fn read<'a>(
    configs: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    commit_bytes_max: u64,
) -> Result<TopicConfig, Refusal> {
    let mut config = TopicConfig::default();
    for (name, value) in configs {
        let invalid = |allowed: &str| {
            let value = value.unwrap_or("null");
            Refusal::new(ResponseError::InvalidConfig, format!("topic config {name} = {value}: {allowed}"))
        };
        let number = |at_least: i64| match value.and_then(|value| value.parse().ok()) {
            Some(number) if number >= at_least => Ok(number),
            _ => Err(invalid(&format!("a number of at least {at_least} is expected"))),
        };
        match name {
            "cleanup.policy" => {
                config.cleanup_policy =
                    value.and_then(cleanup_policy).ok_or_else(|| invalid("delete, compact or both"))?;
            }
            // Kafka's -2 follows retention.ms; not setting it follows the node's default.
            "local.retention.ms" => config.local_retention_ms = Some(number(-2)?).filter(|ms| *ms != -2),
            "max.message.bytes" => {
                if number(0)? > i64::try_from(commit_bytes_max).unwrap_or(i64::MAX) {
                    return Err(invalid(&format!("at most wal.commit_bytes_max = {commit_bytes_max}")));
                }
            }
            _ if NO_COUNTERPART.contains(&name) => {}
            _ => match FIXED.iter().find(|(fixed, _)| *fixed == name) {
                Some((_, allowed)) if value.is_some_and(|value| allowed.contains(&value)) => {}
                Some((_, allowed)) => return Err(invalid(&format!("only {} is supported", allowed.join(" or ")))),
                None => return Err(invalid("no such topic config is known")),
            },
        }
    }
    Ok(config)
}

/// Kafka takes the policies in any order; we keep one.
fn cleanup_policy(value: &str) -> Option<String> {
    let mut parts: Vec<&str> = value.split(',').map(str::trim).collect();
    parts.sort_unstable();
    match parts[..] {
        ["delete"] => Some("delete".to_owned()),
        ["compact"] => Some("compact".to_owned()),
        ["compact", "delete"] => Some("compact,delete".to_owned()),
        _ => None,
    }
}

/// Answers DescribeConfigs for topics and for us.
pub(crate) fn describe(broker: &Broker, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = request.resources.iter().map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match describe_one(broker, resource) {
            Ok(mut configs) => {
                if let Some(wanted) = &resource.configuration_keys {
                    configs.retain(|config| wanted.contains(&config.name));
                }
                result.with_configs(configs)
            }
            Err(refusal) => result.with_error_code(refusal.code()).with_error_message(Some(refusal.text())),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn describe_one(
    broker: &Broker,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    match resource.resource_type {
        RESOURCE_TOPIC => {
            let name = &resource.resource_name;
            let topic = broker.storage.topic(name).ok_or_else(|| Refusal::unknown_topic(name))?;
            Ok(topic_configs(broker, &topic.config))
        }
        RESOURCE_BROKER if *resource.resource_name == NODE_ID.0.to_string() => {
            let (storage, server) = (broker.storage.settings().describe(), broker.settings.describe());
            Ok(storage.iter().chain(&server).map(setting).collect())
        }
        RESOURCE_BROKER => {
            let message = format!("there is no broker {}; ours is {}", resource.resource_name, NODE_ID.0);
            Err(Refusal::new(ResponseError::InvalidRequest, message))
        }
        other => {
            let message = format!("resource type {other} has no configs here; ask for topics (2) or the broker (4)");
            Err(Refusal::new(ResponseError::InvalidRequest, message))
        }
    }
}

fn setting(setting: &aquifer_storage::settings::SettingInfo) -> DescribeConfigsResourceResult {
    entry(setting.name, setting.value.clone(), SOURCE_STATIC_BROKER, TYPE_STRING)
        .with_documentation(Some(text(&format!("{} ({})", setting.reason, setting.unit))))
        .with_read_only(true)
}

fn entry(name: &str, value: String, source: i8, kind: i8) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult::default()
        .with_name(text(name))
        .with_value(Some(StrBytes::from_string(value)))
        .with_config_source(source)
        .with_config_type(kind)
}

fn topic_configs(broker: &Broker, config: &TopicConfig) -> Vec<DescribeConfigsResourceResult> {
    let defaults = broker.storage.settings();
    let number = |name: &str, set: Option<i64>, default: i64| {
        let source = if set.is_some() { SOURCE_TOPIC } else { SOURCE_DEFAULT };
        entry(name, set.unwrap_or(default).to_string(), source, TYPE_LONG)
    };
    let mut configs = vec![
        entry("cleanup.policy", config.cleanup_policy.clone(), SOURCE_TOPIC, TYPE_STRING),
        number("retention.ms", config.retention_ms, defaults.topic_retention_ms),
        number("local.retention.ms", config.local_retention_ms, defaults.topic_local_retention_ms),
        number("max.message.bytes", None, i64::try_from(defaults.wal_commit_bytes_max).unwrap_or(i64::MAX)),
    ];
    configs.extend(FIXED.iter().map(|(name, allowed)| {
        let value = allowed.first().copied().unwrap_or_default();
        entry(name, value.to_owned(), SOURCE_DEFAULT, TYPE_STRING).with_read_only(true)
    }));
    configs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(name: &str, value: &str) -> Result<TopicConfig, Refusal> {
        read(std::iter::once((name, Some(value))), 8 << 20)
    }

    #[test]
    fn what_we_have_is_stored_and_what_we_lack_is_refused_by_name() {
        assert_eq!(read_one("cleanup.policy", "delete, compact").unwrap().cleanup_policy, "compact,delete");
        assert_eq!(read_one("retention.ms", "-1").unwrap(), TopicConfig::default());
        assert_eq!(read_one("local.retention.ms", "-2").unwrap().local_retention_ms, None);
        assert_eq!(read_one("segment.bytes", "1").unwrap(), TopicConfig::default());
        for (name, value) in [
            ("retention.ms", "1000"),
            ("cleanup.policy", "burn"),
            ("message.timestamp.type", "LogAppendTime"),
            ("max.message.bytes", "999999999"),
            ("no.such.config", "1"),
        ] {
            let refusal = read_one(name, value).unwrap_err();
            assert_eq!(refusal.code(), 40);
            assert!(refusal.message.contains(name), "{}", refusal.message);
        }
    }
}
