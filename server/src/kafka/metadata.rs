//! Metadata, DescribeCluster, FindCoordinator and ApiVersions: who we are, what we speak, which topics there are.
//!
//! There is one broker: leader of every partition, controller, and coordinator of every group and transaction. Only durable topics are
//! told; a topic made on the way is told after its commit.

use std::collections::HashSet;
use std::sync::Arc;

use aquifer_storage::{Error, Topic, TopicConfig, TopicId, TopicPartition};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiVersionsResponse, DescribeClusterRequest, DescribeClusterResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::answers::AnswerShare;
use super::api::{APIS, Api};
use super::broker::{Broker, NODE_ID, text, topic_name};
use super::errors::Refusal;
use super::wire::Malformed;

/// FindCoordinator's key type of consumer groups.
const KEY_TYPE_GROUP: i8 = 0;
/// FindCoordinator's key type of transactions.
const KEY_TYPE_TRANSACTION: i8 = 1;
/// DescribeCluster's endpoint type of brokers, the only one we have.
const ENDPOINT_TYPE_BROKER: i8 = 1;

/// What a topic and a partition take in an answer until it is written, about.
const TOPIC_BYTES: usize = 512;
const PARTITION_BYTES: usize = 256;

/// What we speak. No features: a client that sees `transaction.version` or `group.version` uses what we have not built.
pub(crate) fn api_versions() -> ApiVersionsResponse {
    ApiVersionsResponse::default().with_api_keys(APIS.iter().map(api_version).collect())
}

/// For a version of ApiVersions that we do not know: error 35 and the versions we do know.
pub(crate) fn unknown_api_versions(api: &Api) -> ApiVersionsResponse {
    ApiVersionsResponse::default()
        .with_error_code(ResponseError::UnsupportedVersion.code())
        .with_api_keys(vec![api_version(api)])
}

fn api_version(api: &Api) -> ApiVersion {
    ApiVersion::default().with_api_key(api.key as i16).with_min_version(api.advertised_min).with_max_version(api.max)
}

/// Answers Metadata: each topic once, however often it is named, as Kafka does.
pub(crate) async fn metadata(
    broker: &Broker,
    request: MetadataRequest,
    version: i16,
    share: &mut AnswerShare,
) -> Result<MetadataResponse, Malformed> {
    let me =
        MetadataResponseBroker::default().with_node_id(NODE_ID).with_host(broker.host.clone()).with_port(broker.port);
    let all = match &request.topics {
        None => true,
        Some(topics) => version == 0 && topics.is_empty(),
    };
    let mut topics = Vec::new();
    if all {
        let known = broker.storage.topics();
        share.take(known.iter().map(|topic| described_bytes(topic.partitions)).sum()).await?;
        for topic in &known {
            topics.push(describe(broker, topic));
            share.worked(described_bytes(topic.partitions)).await;
        }
    } else {
        // Before version 4 there is no flag and brokers always made topics.
        let asked = request.allow_auto_topic_creation || version < 4;
        let create = asked && broker.storage.settings().topic_auto_create;
        let mut seen = HashSet::new();
        let mut wanted: Vec<_> = request.topics.unwrap_or_default();
        wanted.retain(|wanted| seen.insert((wanted.name.clone(), wanted.topic_id)));
        let bytes = |(name, id): &(Option<TopicName>, _)| {
            let topic = match name {
                Some(name) => broker.storage.topic(name),
                None => broker.storage.topic_by_id(TopicId(*id)),
            };
            described_bytes(topic.map_or(broker.storage.settings().topic_partitions, |topic| topic.partitions))
        };
        share.take(seen.iter().map(bytes).sum()).await?;
        for wanted in wanted {
            let id = TopicId(wanted.topic_id);
            let topic = match wanted.name {
                Some(name) => by_name(broker, name, create).await,
                None => by_id(broker, id),
            };
            share.worked(described_bytes(i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))).await;
            topics.push(topic);
        }
    }
    let response = MetadataResponse::default()
        .with_brokers(vec![me])
        .with_cluster_id(Some(StrBytes::from_string(broker.storage.cluster_id())))
        .with_controller_id(NODE_ID)
        .with_topics(topics);
    Ok(response)
}

fn described_bytes(partitions: i32) -> usize {
    TOPIC_BYTES + usize::try_from(partitions).unwrap_or(0) * PARTITION_BYTES
}

fn by_id(broker: &Broker, id: TopicId) -> MetadataResponseTopic {
    match broker.storage.topic_by_id(id) {
        Some(topic) => describe(broker, &topic),
        None => {
            MetadataResponseTopic::default().with_topic_id(id.0).with_error_code(ResponseError::UnknownTopicId.code())
        }
    }
}

async fn by_name(broker: &Broker, name: TopicName, create: bool) -> MetadataResponseTopic {
    let found = match broker.storage.topic(&name) {
        Some(topic) => Ok(topic),
        None if create => make(broker, &name).await,
        None => Err(Refusal::unknown_topic(&name)),
    };
    match found {
        Ok(topic) => describe(broker, &topic),
        Err(refusal) => {
            tracing::debug!(topic = %name.0, error = %refusal.message, "no metadata for a topic");
            MetadataResponseTopic::default().with_name(Some(name)).with_error_code(refusal.code())
        }
    }
}

/// Makes a topic a client wants to use; somebody else may have been quicker.
async fn make(broker: &Broker, name: &str) -> Result<Arc<Topic>, Refusal> {
    match broker.storage.create_topic(name, None, TopicConfig::default()).await {
        Err(Error::TopicExists { .. }) => broker.storage.topic(name).ok_or_else(|| Refusal::unknown_topic(name)),
        made => Ok(made?),
    }
}

fn describe(broker: &Broker, topic: &Topic) -> MetadataResponseTopic {
    let partitions = (0..topic.partitions).map(|partition| {
        let at = TopicPartition { topic: topic.id, partition };
        let leader_epoch = broker.storage.watermarks(at).map_or(-1, |watermarks| watermarks.leader_epoch);
        MetadataResponsePartition::default()
            .with_partition_index(partition)
            .with_leader_id(NODE_ID)
            .with_leader_epoch(leader_epoch)
            .with_replica_nodes(vec![NODE_ID])
            .with_isr_nodes(vec![NODE_ID])
    });
    MetadataResponseTopic::default()
        .with_name(Some(topic_name(&topic.name)))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.internal)
        .with_partitions(partitions.collect())
}

/// Answers DescribeCluster.
pub(crate) fn describe_cluster(broker: &Broker, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    let response = DescribeClusterResponse::default().with_endpoint_type(ENDPOINT_TYPE_BROKER);
    if request.endpoint_type != ENDPOINT_TYPE_BROKER {
        let message = "there are no controller endpoints; ask a broker for endpoint type 1";
        return response
            .with_error_code(ResponseError::UnsupportedEndpointType.code())
            .with_error_message(Some(StrBytes::from_static_str(message)));
    }
    let me =
        DescribeClusterBroker::default().with_broker_id(NODE_ID).with_host(broker.host.clone()).with_port(broker.port);
    response
        .with_cluster_id(StrBytes::from_string(broker.storage.cluster_id()))
        .with_controller_id(NODE_ID)
        .with_brokers(vec![me])
}

/// Answers FindCoordinator: always us.
pub(crate) fn find_coordinator(
    broker: &Broker,
    request: FindCoordinatorRequest,
    version: i16,
) -> FindCoordinatorResponse {
    let checked = match request.key_type {
        KEY_TYPE_GROUP | KEY_TYPE_TRANSACTION => Ok(()),
        other => Err(Refusal::new(ResponseError::InvalidRequest, format!("unknown coordinator key type {other}"))),
    };
    if version >= 4 {
        let coordinators = request.coordinator_keys.iter().map(|key| {
            let coordinator = Coordinator::default().with_key(key.clone());
            match &checked {
                Ok(()) => coordinator.with_node_id(NODE_ID).with_host(broker.host.clone()).with_port(broker.port),
                Err(refusal) => coordinator
                    .with_node_id((-1).into())
                    .with_port(-1)
                    .with_error_code(refusal.code())
                    .with_error_message(Some(refusal.text())),
            }
        });
        return FindCoordinatorResponse::default().with_coordinators(coordinators.collect());
    }
    let response = FindCoordinatorResponse::default();
    match checked {
        Ok(()) => response.with_node_id(NODE_ID).with_host(broker.host.clone()).with_port(broker.port),
        Err(refusal) => response
            .with_node_id((-1).into())
            .with_port(-1)
            .with_error_code(refusal.code())
            .with_error_message(Some(text(&refusal.message))),
    }
}
