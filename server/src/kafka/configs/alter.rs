//! AlterConfigs and IncrementalAlterConfigs: a topic is told something else.
//!
//! What a topic has is looked at, changed and put back on the condition that it is still what was looked at; who comes
//! second looks again. Our own settings are read when the node starts, so a broker's configs are refused by that reason.

use std::collections::HashSet;
use std::hash::Hash;

use aquifer_storage::{ConfigKind, Error, TopicConfig, TopicConfigName};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::incremental_alter_configs_request::AlterableConfig;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{RESOURCE_BROKER, RESOURCE_TOPIC, read};
use crate::kafka::broker::Broker;
use crate::kafka::errors::Refusal;

/// How often a change is tried that others overtake.
const TRIES_MAX: usize = 16;

/// Operations of IncrementalAlterConfigs.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// A resource by its type and name.
type Place = (i8, StrBytes);

/// Answers AlterConfigs: what is not named goes back to the default.
pub(crate) async fn alter(broker: &Broker, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let commit_bytes_max = broker.storage.settings().wal_commit_bytes_max;
    let edits = request.resources.iter().map(|resource| {
        let edit = move |_: &TopicConfig| {
            let configs = resource.configs.iter().map(|config| (config.name.as_str(), config.value.as_deref()));
            read(configs, commit_bytes_max)
        };
        ((resource.resource_type, resource.resource_name.clone()), edit)
    });
    let done = change_all(broker, request.validate_only, edits.collect()).await;
    let responses = done.into_iter().map(|((kind, name), done)| {
        let response = AlterConfigsResourceResponse::default().with_resource_type(kind).with_resource_name(name);
        match done {
            Ok(()) => response,
            Err(refusal) => response.with_error_code(refusal.code()).with_error_message(Some(refusal.text())),
        }
    });
    AlterConfigsResponse::default().with_responses(responses.collect())
}

/// Answers IncrementalAlterConfigs: what is not named stays.
pub(crate) async fn alter_incrementally(
    broker: &Broker,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let edits = request.resources.iter().map(|resource| {
        let edit = move |config: &TopicConfig| stepped(config, &resource.configs);
        ((resource.resource_type, resource.resource_name.clone()), edit)
    });
    let done = change_all(broker, request.validate_only, edits.collect()).await;
    let responses = done.into_iter().map(|((kind, name), done)| {
        let response = IncrementalResponse::default().with_resource_type(kind).with_resource_name(name);
        match done {
            Ok(()) => response,
            Err(refusal) => response.with_error_code(refusal.code()).with_error_message(Some(refusal.text())),
        }
    });
    IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
}

/// Edits resources one after the other, those that are named once; what became of each.
async fn change_all(
    broker: &Broker,
    validate_only: bool,
    edits: Vec<(Place, impl Fn(&TopicConfig) -> Result<TopicConfig, Refusal>)>,
) -> Vec<(Place, Result<(), Refusal>)> {
    let twice = twice(edits.iter().map(|(place, _)| place.clone()));
    let mut all = Vec::with_capacity(edits.len());
    for (place, edit) in edits {
        let done = if twice.contains(&place) {
            Err(Refusal::new(ResponseError::InvalidRequest, format!("resource {} is named twice", place.1)))
        } else {
            change(broker, (place.0, &place.1), validate_only, edit).await
        };
        all.push((place, done));
    }
    all
}

/// What occurs more than once.
fn twice<T: Eq + Hash + Clone>(all: impl Iterator<Item = T>) -> HashSet<T> {
    let mut seen = HashSet::new();
    all.filter(|one| !seen.insert(one.clone())).collect()
}

/// Gives a topic the configuration that `edit` makes of the one it has.
async fn change(
    broker: &Broker,
    (kind, name): (i8, &str),
    validate_only: bool,
    edit: impl Fn(&TopicConfig) -> Result<TopicConfig, Refusal>,
) -> Result<(), Refusal> {
    let storage = &broker.storage;
    let mut overtaken = None;
    for _ in 0..TRIES_MAX {
        check_kind(kind, name)?;
        let topic = storage.topic(name).ok_or_else(|| Refusal::unknown_topic(name))?;
        if topic.internal {
            return Err(Error::TopicInternal { topic: name.to_owned() }.into());
        }
        let config = edit(&topic.config)?;
        config.check(storage.settings().wal_commit_bytes_max)?;
        if validate_only || config == topic.config {
            return Ok(());
        }
        match storage.configure_topic(topic.id, config, Some(topic.config.clone())).await {
            Err(error @ Error::Conflict { .. }) => overtaken = Some(error),
            done => return Ok(done?),
        }
    }
    Err(overtaken.map_or_else(|| Refusal::unknown_topic(name), Refusal::from))
}

fn check_kind(kind: i8, name: &str) -> Result<(), Refusal> {
    let message = match kind {
        RESOURCE_TOPIC => return Ok(()),
        RESOURCE_BROKER => format!(
            "configs of broker {name} are read when the node starts: change its file, variables or flags and restart it"
        ),
        other => format!("resource type {other} has no configs here; only topics (2) can be altered"),
    };
    Err(Refusal::new(ResponseError::InvalidRequest, message))
}

/// A configuration with these steps taken.
fn stepped(config: &TopicConfig, steps: &[AlterableConfig]) -> Result<TopicConfig, Refusal> {
    let invalid = |message: String| Refusal::new(ResponseError::InvalidConfig, message);
    if let Some(name) = twice(steps.iter().map(|step| step.name.clone())).into_iter().next() {
        return Err(Refusal::new(ResponseError::InvalidRequest, format!("topic config {name} is named twice")));
    }
    let mut config = config.clone();
    for step in steps {
        let name = step.name.as_str();
        let known = TopicConfigName::find(name)
            .ok_or_else(|| invalid(format!("topic config {name}: no such topic config is known")))?;
        let value = || step.value.as_deref().ok_or_else(|| invalid(format!("topic config {name}: null is no value")));
        match step.config_operation {
            SET => config.set(name, value()?)?,
            DELETE => config.remove(name),
            APPEND | SUBTRACT if known.kind == ConfigKind::List => {
                let default = if name == "cleanup.policy" { "delete" } else { "" };
                let present = config.get(name).unwrap_or_else(|| default.to_owned());
                let list = changed_list(&present, value()?, step.config_operation == APPEND);
                config.set(name, &list)?;
            }
            APPEND | SUBTRACT => {
                return Err(invalid(format!("topic config {name} is no list: APPEND and SUBTRACT are for lists")));
            }
            other => {
                let message = format!("operation {other} is none of SET (0), DELETE (1), APPEND (2), SUBTRACT (3)");
                return Err(Refusal::new(ResponseError::InvalidRequest, message));
            }
        }
    }
    Ok(config)
}

/// A list with words added or taken away, each once.
fn changed_list(present: &str, words: &str, append: bool) -> String {
    let split = |text: &str| -> Vec<String> {
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let (mut list, words) = (split(present), split(words));
    list.retain(|word| !words.contains(word));
    if append {
        list.extend(words);
    }
    list.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::broker::text;

    fn step(name: &str, operation: i8, value: Option<&str>) -> AlterableConfig {
        let step = AlterableConfig::default().with_name(text(name)).with_config_operation(operation);
        step.with_value(value.map(text))
    }

    fn policy(config: &TopicConfig) -> Option<String> {
        config.get("cleanup.policy")
    }

    #[test]
    fn steps_set_delete_append_and_subtract() {
        let start = TopicConfig::default();
        let both = stepped(&start, &[step("cleanup.policy", APPEND, Some("compact"))]).unwrap();
        assert_eq!(policy(&both).as_deref(), Some("compact,delete"));
        let one = stepped(&both, &[step("cleanup.policy", SUBTRACT, Some("delete"))]).unwrap();
        assert_eq!(policy(&one).as_deref(), Some("compact"));
        let steps = [step("cleanup.policy", DELETE, None), step("retention.ms", SET, Some("5"))];
        let last = stepped(&one, &steps).unwrap();
        assert_eq!((policy(&last), last.retention_ms), (None, Some(5)));
    }

    #[test]
    fn what_cannot_be_stepped_is_refused() {
        let code = |steps: &[AlterableConfig]| stepped(&TopicConfig::default(), steps).unwrap_err().code();
        assert_eq!(code(&[step("cleanup.policy", SUBTRACT, Some("delete"))]), 40, "no policy would be left");
        assert_eq!(code(&[step("retention.ms", APPEND, Some("5"))]), 40);
        assert_eq!(code(&[step("retention.ms", SET, None)]), 40);
        assert_eq!(code(&[step("no.such", DELETE, None)]), 40);
        assert_eq!(code(&[step("retention.ms", 9, Some("5"))]), 42);
        assert_eq!(code(&[step("retention.ms", SET, Some("5")), step("retention.ms", DELETE, None)]), 42);
    }
}
