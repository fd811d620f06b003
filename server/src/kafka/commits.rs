//! OffsetCommit and OffsetFetch: how far a group has read; durable before it is said.
//!
//! Offsets belong to a topic's id: of a topic made anew under an old name a group has read nothing.

use std::collections::BTreeMap;

use aquifer_storage::{Commit, GroupOffset, GroupOffsetChange, TopicPartition};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopics;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse};
use kafka_protocol::protocol::StrBytes;

use super::answers::AnswerShare;
use super::broker::{Broker, topic_name};
use super::errors::Refusal;
use super::group::Who;
use super::wire::Malformed;

/// What an offset takes in an answer until it is written beside its metadata, about.
const OFFSET_BYTES: usize = 192;
/// Longest metadata of one offset, Kafka's `offset.metadata.max.bytes`.
const METADATA_BYTES_MAX: usize = 4_096;

/// Answers OffsetCommit: one commit of the log for all partitions that can be taken.
pub(crate) async fn commit(broker: &Broker, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let who = Who {
        member_id: request.member_id.as_str().to_owned(),
        instance_id: request.group_instance_id.as_ref().map(|id| id.as_str().to_owned()),
    };
    let allowed = broker.coordinator.check_commit(&request.group_id, &who, request.generation_id_or_member_epoch);
    let mut changes = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let partitions = topic.partitions.iter().map(|partition| {
            let change = allowed.map_err(|error| Refusal::new(error, "the member may not commit now"));
            let change = change.and_then(|()| {
                let offered = Offered {
                    partition: partition.partition_index,
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: partition.committed_metadata.as_deref().unwrap_or_default(),
                };
                let (partition, offset) = offset_of(broker, &topic.name, &offered)?;
                Ok(GroupOffsetChange { group: request.group_id.as_str().to_owned(), partition, offset: Some(offset) })
            });
            (partition.partition_index, change.map(|change| changes.push(change)))
        });
        let partitions: Vec<_> = partitions.collect();
        topics.push((topic.name, partitions));
    }
    let committed = if changes.is_empty() {
        Ok(())
    } else {
        let commit = Commit { group_offsets: changes, ..Commit::default() };
        broker.storage.commit(commit).await.map(drop).map_err(Refusal::from)
    };
    let topics = topics.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, taken)| {
            let code = match taken.and(committed.clone()) {
                Ok(()) => 0,
                Err(refusal) => {
                    tracing::debug!(group = request.group_id.as_str(), topic = name.as_str(), index, error = %refusal.message, "an offset was not committed");
                    refusal.code()
                }
            };
            OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code)
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// An offset as a client sends it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offered<'a> {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: &'a str,
}

/// Checks an offset and gives it as the log keeps it.
pub(crate) fn offset_of(
    broker: &Broker,
    topic: &str,
    offered: &Offered<'_>,
) -> Result<(TopicPartition, GroupOffset), Refusal> {
    let (_, at) = broker.partition(topic, offered.partition)?;
    if offered.metadata.len() > METADATA_BYTES_MAX {
        let message = format!("metadata of {} bytes; at most {METADATA_BYTES_MAX} are kept", offered.metadata.len());
        return Err(Refusal::new(ResponseError::OffsetMetadataTooLarge, message));
    }
    if offered.offset < 0 {
        return Err(Refusal::new(ResponseError::OffsetOutOfRange, format!("offset {} is negative", offered.offset)));
    }
    let offset = GroupOffset {
        offset: offered.offset,
        leader_epoch: offered.leader_epoch,
        metadata: offered.metadata.to_owned(),
        committed_at_us: broker.storage.clock().now_us(),
    };
    Ok((at, offset))
}

/// What is told of one partition: an offset, or an error and offset -1.
#[derive(Clone, Debug)]
struct Told {
    offset: GroupOffset,
    error_code: i16,
}

impl Told {
    /// What a group has not committed is no error.
    const NOTHING: Self = Self {
        offset: GroupOffset { offset: -1, leader_epoch: -1, metadata: String::new(), committed_at_us: 0 },
        error_code: 0,
    };

    /// A transaction that is still open may change it: ask again.
    fn unstable() -> Self {
        Self { error_code: ResponseError::UnstableOffsetCommit.code(), ..Self::NOTHING }
    }
}

/// What one group has committed, by partition.
fn committed(broker: &Broker, group: &str, require_stable: bool) -> BTreeMap<TopicPartition, Told> {
    // Looked at first: a transaction that has ended by then has left its offsets among those that count.
    let pending = if require_stable { broker.storage.pending_offsets(group) } else { Vec::new() };
    let offsets = broker.storage.group_offsets(Some(group)).into_iter();
    let mut told: BTreeMap<_, _> =
        offsets.map(|(_, partition, offset)| (partition, Told { offset, error_code: 0 })).collect();
    told.extend(pending.into_iter().map(|partition| (partition, Told::unstable())));
    told
}

/// An offset fetch of one group, in words both shapes of the answer are made of: (topic, [(partition, told)]).
type Found = Vec<(StrBytes, Vec<(i32, Told)>)>;

async fn find(
    broker: &Broker,
    group: &str,
    topics: Option<Vec<(StrBytes, Vec<i32>)>>,
    require_stable: bool,
    share: &mut AnswerShare,
) -> Result<Found, Malformed> {
    let mut committed = committed(broker, group, require_stable);
    let nothing = Told::NOTHING;
    // The metadata is there as text, again for each time it is asked for, and encoded.
    let bytes = |told: &Told| OFFSET_BYTES + 2 * told.offset.metadata.len();
    share.take(committed.values().map(bytes).sum()).await?;
    if let Some(topics) = topics {
        let mut found = Vec::with_capacity(topics.len());
        for (name, wanted) in topics {
            let id = broker.storage.topic(&name).map(|topic| topic.id);
            let mut partitions = Vec::with_capacity(wanted.len());
            for partition in wanted {
                let told = id.and_then(|topic| committed.get(&TopicPartition { topic, partition }));
                let told = told.unwrap_or(&nothing);
                share.take(bytes(told)).await?;
                partitions.push((partition, told.clone()));
            }
            found.push((name, partitions));
        }
        return Ok(found);
    }
    let mut all: BTreeMap<StrBytes, Vec<(i32, Told)>> = BTreeMap::new();
    while let Some((at, told)) = committed.pop_first() {
        if let Some(topic) = broker.storage.topic_by_id(at.topic) {
            all.entry(topic_name(&topic.name).0).or_default().push((at.partition, told));
        }
    }
    Ok(all.into_iter().collect())
}

/// Answers OffsetFetch: one group before version 8, several from then on.
pub(crate) async fn fetch(
    broker: &Broker,
    request: OffsetFetchRequest,
    version: i16,
    share: &mut AnswerShare,
) -> Result<OffsetFetchResponse, Malformed> {
    if version >= 8 {
        let mut groups = Vec::with_capacity(request.groups.len());
        for group in request.groups {
            let wanted = |topic: OffsetFetchRequestTopics| (topic.name.0, topic.partition_indexes);
            let topics = group.topics.map(|topics| topics.into_iter().map(wanted).collect());
            let found = find(broker, &group.group_id, topics, request.require_stable, share).await?;
            let topics = found.into_iter().map(several_topic).collect();
            groups.push(OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_topics(topics));
        }
        return Ok(OffsetFetchResponse::default().with_groups(groups));
    }
    // Version 1 has no null: an empty list asks for nothing.
    let topics = request
        .topics
        .map(|topics| topics.into_iter().map(|topic| (topic.name.0, topic.partition_indexes)).collect::<Vec<_>>());
    let found = find(broker, &request.group_id, topics, request.require_stable, share).await?;
    let topics = found.into_iter().map(|(name, partitions)| single_topic(name, partitions, version));
    Ok(OffsetFetchResponse::default().with_topics(topics.collect()))
}

fn single_topic(name: StrBytes, partitions: Vec<(i32, Told)>, version: i16) -> OffsetFetchResponseTopic {
    let partitions = partitions.into_iter().map(|(index, Told { offset, error_code })| {
        let leader_epoch = if version >= 5 { offset.leader_epoch } else { -1 };
        OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset.offset)
            .with_committed_leader_epoch(leader_epoch)
            .with_metadata(Some(StrBytes::from_string(offset.metadata)))
            .with_error_code(error_code)
    });
    OffsetFetchResponseTopic::default().with_name(name.into()).with_partitions(partitions.collect())
}

fn several_topic((name, partitions): (StrBytes, Vec<(i32, Told)>)) -> OffsetFetchResponseTopics {
    let partitions = partitions.into_iter().map(|(index, Told { offset, error_code })| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(offset.offset)
            .with_committed_leader_epoch(offset.leader_epoch)
            .with_metadata(Some(StrBytes::from_string(offset.metadata)))
            .with_error_code(error_code)
    });
    OffsetFetchResponseTopics::default().with_name(name.into()).with_partitions(partitions.collect())
}
