//! Configs as Kafka's tools see them: which a topic has, where each value comes from, what the node has been told.
//!
//! Storage has the table of names and what they mean (`TOPIC_CONFIGS`); here they get Kafka's types, sources and the names
//! that a broker has for its defaults.

mod alter;
mod names;

use std::collections::HashSet;

use aquifer_storage::settings::{SettingInfo, StorageSettings};
use aquifer_storage::{TOPIC_CONFIGS, TopicConfig, TopicConfigName};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_response::CreatableTopicConfigs;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::answers::AnswerShare;
use super::broker::{Broker, NODE_ID, text};
use super::errors::Refusal;
use super::wire::Malformed;
use crate::settings::ServerSettings;
pub(crate) use alter::{alter, alter_incrementally};

/// Resource types.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
/// Where a value comes from: the topic was told; the node was told when it started; built in.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_STATIC_BROKER: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;

/// What a config takes in an answer until it is written beside its texts, about.
const CONFIG_BYTES: usize = 384;
/// What the configs of a topic take in the answer that it was made, about.
pub(crate) const CREATED_BYTES: usize = 40 * 192;

/// One config with its value and where that comes from; `synonyms` are where else it could, the one in force first.
#[derive(Debug)]
struct Shown {
    name: &'static str,
    value: String,
    source: i8,
    kind: i8,
    documentation: String,
    read_only: bool,
    synonyms: Vec<(&'static str, String, i8)>,
}

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

/// Answers DescribeConfigs for topics and for us; the same question once, however often it is asked.
pub(crate) async fn describe(
    broker: &Broker,
    request: &DescribeConfigsRequest,
    version: i16,
    share: &mut AnswerShare,
) -> Result<DescribeConfigsResponse, Malformed> {
    let mut seen = HashSet::new();
    let mut results = Vec::new();
    for resource in &request.resources {
        if !seen.insert((resource.resource_type, &resource.resource_name, &resource.configuration_keys)) {
            continue;
        }
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        results.push(match describe_one(broker, resource) {
            Ok(mut configs) => {
                // kafkajs asks for all by an empty list, Java by null.
                if let Some(wanted) = resource.configuration_keys.as_ref().filter(|wanted| !wanted.is_empty()) {
                    configs.retain(|config| wanted.iter().any(|name| **name == *config.name));
                }
                // Also for a resource of which nothing was wanted: finding that out has cost as much as a config.
                share.take(CONFIG_BYTES + configs.iter().map(|shown| shown.bytes(request)).sum::<usize>()).await?;
                result.with_configs(configs.into_iter().map(|shown| described(shown, request, version)).collect())
            }
            Err(refusal) => result.with_error_code(refusal.code()).with_error_message(Some(refusal.text())),
        });
    }
    Ok(DescribeConfigsResponse::default().with_results(results))
}

impl Shown {
    /// What it takes in an answer until that is written, about: each text as text and encoded.
    fn bytes(&self, request: &DescribeConfigsRequest) -> usize {
        let synonyms = if request.include_synonyms { self.synonyms.as_slice() } else { &[] };
        let synonyms = synonyms.iter().map(|(name, value, _)| CONFIG_BYTES / 2 + 2 * (name.len() + value.len()));
        let documentation = if request.include_documentation { self.documentation.len() } else { 0 };
        CONFIG_BYTES + 2 * (self.name.len() + self.value.len() + documentation) + synonyms.sum::<usize>()
    }
}

/// A config in the words of the response's version.
fn described(shown: Shown, request: &DescribeConfigsRequest, version: i16) -> DescribeConfigsResourceResult {
    let result = DescribeConfigsResourceResult::default()
        .with_name(text(shown.name))
        .with_value(Some(text(&shown.value)))
        .with_read_only(shown.read_only)
        .with_config_source(shown.source);
    let result = if request.include_synonyms {
        let synonyms = shown.synonyms.iter().map(|(name, value, source)| {
            DescribeConfigsSynonym::default().with_name(text(name)).with_value(Some(text(value))).with_source(*source)
        });
        result.with_synonyms(synonyms.collect())
    } else {
        result
    };
    if version < 3 {
        return result;
    }
    let documentation = request.include_documentation.then(|| text(&shown.documentation));
    result.with_config_type(shown.kind).with_documentation(documentation)
}

fn describe_one(broker: &Broker, resource: &DescribeConfigsResource) -> Result<Vec<Shown>, Refusal> {
    let name = resource.resource_name.as_str();
    match resource.resource_type {
        RESOURCE_TOPIC => {
            let topic = broker.storage.topic(name).ok_or_else(|| Refusal::unknown_topic(name))?;
            Ok(of_topic(broker.storage.settings(), &topic.config, topic.internal))
        }
        RESOURCE_BROKER if name == NODE_ID.0.to_string() => Ok(of_node(broker)),
        // What all brokers have been told together, while they run: nothing.
        RESOURCE_BROKER if name.is_empty() => Ok(Vec::new()),
        RESOURCE_BROKER => {
            let message = format!("there is no broker {name}; ours is {}", NODE_ID.0);
            Err(Refusal::new(ResponseError::InvalidRequest, message))
        }
        other => {
            let message = format!("resource type {other} has no configs here; ask for topics (2) or the broker (4)");
            Err(Refusal::new(ResponseError::InvalidRequest, message))
        }
    }
}

/// What is in force for a topic, as CreateTopics answers it.
pub(crate) fn created(broker: &Broker, config: &TopicConfig) -> Vec<CreatableTopicConfigs> {
    let shown = of_topic(broker.storage.settings(), config, false).into_iter().map(|shown| {
        CreatableTopicConfigs::default()
            .with_name(text(shown.name))
            .with_value(Some(text(&shown.value)))
            .with_config_source(shown.source)
    });
    shown.collect()
}

fn of_topic(settings: &StorageSettings, config: &TopicConfig, internal: bool) -> Vec<Shown> {
    let in_force = config.resolve(settings);
    let untold = TopicConfig::default().resolve(settings);
    let (told_node, built_in) = (settings.describe(), StorageSettings::default().describe());
    let value_of = |all: &[SettingInfo], name: &str| {
        all.iter().find(|setting| setting.name == name).map(|setting| setting.value.clone())
    };
    let show = |known: &TopicConfigName| {
        let node_was_told = known.setting.is_some_and(|name| value_of(&told_node, name) != value_of(&built_in, name));
        let node_source = if node_was_told { SOURCE_STATIC_BROKER } else { SOURCE_DEFAULT };
        let accepted = || known.accepted.unwrap_or_default().to_owned();
        let told = config.get(known.name);
        let value = told.clone().or_else(|| in_force.get(known.name)).unwrap_or_else(accepted);
        let of_topic = told.map(|value| (known.name, value, SOURCE_TOPIC));
        let of_node = names::of_default(known.name)
            .map(|name| (name, untold.get(known.name).unwrap_or_else(accepted), node_source));
        Shown {
            name: known.name,
            value,
            source: of_topic.as_ref().map_or(node_source, |(_, _, source)| *source),
            kind: names::kind(known.kind),
            documentation: known.documentation.to_owned(),
            read_only: internal,
            synonyms: of_topic.into_iter().chain(of_node).collect(),
        }
    };
    TOPIC_CONFIGS.iter().map(show).collect()
}

/// What the node has been told: under Kafka's names where there is one, and under its own.
fn of_node(broker: &Broker) -> Vec<Shown> {
    let (storage, server) = (broker.storage.settings().describe(), broker.settings.describe());
    let built_in = StorageSettings::default().describe().into_iter().chain(ServerSettings::default().describe());
    let settings = storage.into_iter().chain(server).zip(built_in).map(|(setting, built_in)| {
        let source = if setting.value == built_in.value { SOURCE_DEFAULT } else { SOURCE_STATIC_BROKER };
        (setting, source)
    });
    let settings: Vec<_> = settings.collect();
    let mut shown = names::fixed(broker);
    for (kafkas, own, kind) in names::OF_SETTINGS {
        let Some((setting, source)) = settings.iter().find(|(setting, _)| setting.name == own) else { continue };
        shown.push(of_setting(kafkas, setting, *source, kind));
    }
    shown.extend(settings.iter().map(|(setting, source)| of_setting(setting.name, setting, *source, names::STRING)));
    shown
}

fn of_setting(name: &'static str, setting: &SettingInfo, source: i8, kind: i8) -> Shown {
    Shown {
        name,
        value: setting.value.clone(),
        source,
        kind,
        documentation: format!("{}: {} ({}); read when the node starts", setting.name, setting.reason, setting.unit),
        read_only: true,
        synonyms: vec![(setting.name, setting.value.clone(), source)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(name: &str, value: &str) -> Result<TopicConfig, Refusal> {
        read(std::iter::once((name, Some(value))), 8 << 20)
    }

    #[test]
    fn what_is_known_is_stored_and_what_is_not_is_refused_by_name() {
        assert_eq!(read_one("retention.ms", "1000").unwrap().retention_ms, Some(1000));
        assert_eq!(read_one("segment.bytes", "1").unwrap().get("segment.bytes").unwrap(), "1");
        for (name, value) in [("cleanup.policy", "burn"), ("max.message.bytes", "999999999"), ("no.such.config", "1")] {
            let refusal = read_one(name, value).unwrap_err();
            assert_eq!(refusal.code(), 40);
            assert!(refusal.message.contains(name), "{}", refusal.message);
        }
        assert_eq!(read(std::iter::once(("retention.ms", None)), 1).unwrap_err().code(), 40);
    }

    #[test]
    fn a_value_says_whether_the_topic_or_the_node_was_told_it() {
        let settings = StorageSettings { topic_retention_bytes: 77, ..StorageSettings::default() };
        let config = read_one("retention.ms", "1000").unwrap();
        let shown = of_topic(&settings, &config, false);
        let one = |name| shown.iter().find(|shown| shown.name == name).unwrap();
        assert_eq!((one("retention.ms").value.as_str(), one("retention.ms").source), ("1000", SOURCE_TOPIC));
        let synonyms = [("retention.ms", "1000".to_owned(), 1), ("log.retention.ms", "-1".to_owned(), 5)];
        assert_eq!(one("retention.ms").synonyms, synonyms);
        assert_eq!((one("retention.bytes").value.as_str(), one("retention.bytes").source), ("77", 4));
        assert_eq!((one("segment.ms").value.as_str(), one("segment.ms").source), ("604800000", SOURCE_DEFAULT));
        assert_eq!(shown.len(), TOPIC_CONFIGS.len());
    }

    #[test]
    fn every_setting_that_has_a_name_of_kafkas_is_there() {
        let described = StorageSettings::default().describe();
        let of_server = ServerSettings::default().describe();
        for (kafkas, own, _) in names::OF_SETTINGS {
            let found = described.iter().chain(&of_server).any(|setting| setting.name == own);
            assert!(found, "{kafkas} names {own}");
        }
    }
}
