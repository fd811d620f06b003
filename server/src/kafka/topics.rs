//! CreateTopics and DeleteTopics.
//!
//! The replication factor is metadata: the log keeps one copy whatever it says, so any factor is accepted and 1 is told.

use std::collections::HashSet;
use std::sync::Arc;

use aquifer_storage::{Error, PARTITIONS_MAX, Topic, TopicConfig, TopicId};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};

use super::answers::AnswerShare;
use super::broker::{Broker, is_reserved, topic_name};
use super::configs;
use super::errors::Refusal;
use super::wire::Malformed;

/// Longest name Kafka allows.
const NAME_BYTES_MAX: usize = 249;

/// Answers CreateTopics.
pub(crate) async fn create(
    broker: &Broker,
    request: CreateTopicsRequest,
    version: i16,
    share: &mut AnswerShare,
) -> Result<CreateTopicsResponse, Malformed> {
    let mut twice = HashSet::new();
    let mut seen = HashSet::new();
    for topic in &request.topics {
        if !seen.insert(topic.name.clone()) {
            twice.insert(topic.name.clone());
        }
    }
    // Before anything is made: an answer that is refused must not leave topics behind.
    share.take(request.topics.len().saturating_mul(configs::CREATED_BYTES)).await?;
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let made = if twice.contains(&topic.name) {
            Err(Refusal::new(ResponseError::InvalidRequest, format!("topic {} is named twice", *topic.name)))
        } else {
            create_one(broker, topic, request.validate_only).await
        };
        results.push(created(broker, &topic.name, made, version));
        share.worked(configs::CREATED_BYTES).await;
    }
    Ok(CreateTopicsResponse::default().with_topics(results))
}

/// What was made, or would have been.
struct Made {
    topic: Option<Arc<Topic>>,
    partitions: i32,
    config: TopicConfig,
}

async fn create_one(broker: &Broker, topic: &CreatableTopic, validate_only: bool) -> Result<Made, Refusal> {
    let name = topic.name.as_str();
    let partitions = partitions(topic)?;
    let configs = topic.configs.iter().map(|config| (&*config.name, config.value.as_deref()));
    let settings = broker.storage.settings();
    let config = configs::read(configs, settings.wal_commit_bytes_max)?;
    check_name(name)?;
    if let Some(exists) = broker.storage.topic(name) {
        return Err(Error::TopicExists { topic: exists.name.clone() }.into());
    }
    if validate_only {
        return Ok(Made { topic: None, partitions: partitions.unwrap_or(settings.topic_partitions), config });
    }
    make(broker, name, partitions, config).await
}

async fn make(broker: &Broker, name: &str, partitions: Option<i32>, config: TopicConfig) -> Result<Made, Refusal> {
    let topic = broker.storage.create_topic(name, partitions, config).await?;
    Ok(Made { partitions: topic.partitions, config: topic.config.clone(), topic: Some(topic) })
}

/// Storage checks names too; here so that `validate_only` and our own names are answered alike.
fn check_name(name: &str) -> Result<(), Refusal> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if is_reserved(name) {
        return Err(Refusal::from(Error::TopicInternal { topic: name.to_owned() }));
    }
    if !letters || name.is_empty() || name.len() > NAME_BYTES_MAX || name == "." || name == ".." {
        let reason = format!("a name has 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, '.', '_', '-'");
        return Err(Refusal::from(Error::InvalidTopic { topic: name.to_owned(), reason }));
    }
    Ok(())
}

/// How many partitions are asked for; `None` is the default.
fn partitions(topic: &CreatableTopic) -> Result<Option<i32>, Refusal> {
    if !topic.assignments.is_empty() {
        let mut indexes: Vec<i32> = topic.assignments.iter().map(|assignment| assignment.partition_index).collect();
        indexes.sort_unstable();
        if !indexes.iter().copied().eq((0..).take(indexes.len())) {
            let message = "assignments must name partitions 0, 1, 2 … once each";
            return Err(Refusal::new(ResponseError::InvalidReplicaAssignment, message));
        }
        return count(i32::try_from(indexes.len()).unwrap_or(i32::MAX)).map(Some);
    }
    if topic.replication_factor == 0 || topic.replication_factor < -1 {
        let message = format!("replication factor {} is not -1 or at least 1", topic.replication_factor);
        return Err(Refusal::new(ResponseError::InvalidReplicationFactor, message));
    }
    if topic.num_partitions == -1 { Ok(None) } else { count(topic.num_partitions).map(Some) }
}

fn count(partitions: i32) -> Result<i32, Refusal> {
    if (1..=PARTITIONS_MAX).contains(&partitions) {
        return Ok(partitions);
    }
    let message = format!("{partitions} partitions: 1 to {PARTITIONS_MAX} are allowed, -1 is the default");
    Err(Refusal::new(ResponseError::InvalidPartitions, message))
}

fn created(broker: &Broker, name: &TopicName, made: Result<Made, Refusal>, version: i16) -> CreatableTopicResult {
    let result = CreatableTopicResult::default().with_name(name.clone());
    match made {
        Ok(made) => {
            let id = made.topic.map(|topic| topic.id.0).unwrap_or_default();
            let result = if version >= 7 { result.with_topic_id(id) } else { result };
            let configs = if version >= 5 { configs::created(broker, &made.config) } else { Vec::new() };
            result.with_num_partitions(made.partitions).with_replication_factor(1).with_configs(Some(configs))
        }
        Err(refusal) => result
            .with_error_code(refusal.code())
            .with_error_message(Some(refusal.text()))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_configs(None),
    }
}

/// Answers DeleteTopics.
pub(crate) async fn delete(broker: &Broker, request: DeleteTopicsRequest, version: i16) -> DeleteTopicsResponse {
    let named = request.topic_names.into_iter().map(|name| DeleteTopicState::default().with_name(Some(name)));
    let wanted: Vec<DeleteTopicState> = named.chain(request.topics).collect();
    let mut results = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let id = TopicId(wanted.topic_id);
        let found = match &wanted.name {
            Some(name) => broker.storage.topic(name).ok_or_else(|| Refusal::unknown_topic(name)),
            None => broker
                .storage
                .topic_by_id(id)
                .ok_or_else(|| Refusal::new(ResponseError::UnknownTopicId, format!("there is no topic with id {id}"))),
        };
        results.push(delete_one(broker, wanted.name, id, found, version).await);
    }
    DeleteTopicsResponse::default().with_responses(results)
}

async fn delete_one(
    broker: &Broker,
    name: Option<TopicName>,
    id: TopicId,
    found: Result<Arc<Topic>, Refusal>,
    version: i16,
) -> DeletableTopicResult {
    let result = DeletableTopicResult::default();
    let (name, id, deleted) = match found {
        Ok(topic) => {
            let deleted = broker.storage.delete_topic(topic.id).await.map_err(Refusal::from);
            (Some(topic_name(&topic.name)), topic.id, deleted)
        }
        Err(refusal) => (name, id, Err(refusal)),
    };
    let result = if version >= 6 { result.with_topic_id(id.0) } else { result };
    let result = result.with_name(name);
    match deleted {
        Ok(()) => result,
        Err(refusal) => {
            let result = result.with_error_code(refusal.code());
            if version >= 5 { result.with_error_message(Some(refusal.text())) } else { result }
        }
    }
}
