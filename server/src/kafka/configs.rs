//! Topic configs: which of Kafka's names we store, which we accept because they change nothing here, which we refuse.
//!
//! Tools set many configs by habit. What tunes Kafka's files or replicas is accepted and has no counterpart; what would
//! promise a behaviour we do not have is refused by name.

use aquifer_storage::{ConfigKind, TOPIC_CONFIGS, TopicConfig, TopicConfigName};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::broker::{Broker, NODE_ID, text};
use super::errors::Refusal;

/// Resource types of DescribeConfigs.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
/// Config sources of DescribeConfigs: set for the topic; in the broker's file; built in.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_STATIC_BROKER: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;
/// Config type of DescribeConfigs: a string.
const TYPE_STRING: i8 = 2;

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
        let null = || Refusal::new(ResponseError::InvalidConfig, format!("topic config {name}: null is no value"));
        config.set(name, value.ok_or_else(null)?)?;
    }
    config.check(commit_bytes_max)?;
    Ok(config)
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
    let resolved = config.resolve(broker.storage.settings());
    let value = |known: &TopicConfigName| {
        let set = config.get(known.name);
        let source = if set.is_some() { SOURCE_TOPIC } else { SOURCE_DEFAULT };
        let default = || known.accepted.map(str::to_owned);
        let value = resolved.get(known.name).or(set).or_else(default).unwrap_or_default();
        entry(known.name, value, source, kind(known.kind))
    };
    TOPIC_CONFIGS.iter().map(value).collect()
}

/// Kafka's number of a type.
fn kind(kind: ConfigKind) -> i8 {
    match kind {
        ConfigKind::Boolean => 1,
        ConfigKind::String => TYPE_STRING,
        ConfigKind::Int => 3,
        ConfigKind::Long(_) => 5,
        ConfigKind::Double => 6,
        ConfigKind::List => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(name: &str, value: &str) -> Result<TopicConfig, Refusal> {
        read(std::iter::once((name, Some(value))), 8 << 20)
    }

    #[test]
    fn what_we_have_is_stored_and_what_we_lack_is_refused_by_name() {
        assert_eq!(
            read_one("cleanup.policy", "delete, compact").unwrap().get("cleanup.policy").unwrap(),
            "compact,delete"
        );
        assert_eq!(read_one("retention.ms", "1000").unwrap().retention_ms, Some(1000));
        assert_eq!(read_one("segment.bytes", "1").unwrap().get("segment.bytes").unwrap(), "1");
        for (name, value) in [("cleanup.policy", "burn"), ("max.message.bytes", "999999999"), ("no.such.config", "1")] {
            let refusal = read_one(name, value).unwrap_err();
            assert_eq!(refusal.code(), 40);
            assert!(refusal.message.contains(name), "{}", refusal.message);
        }
    }
}
