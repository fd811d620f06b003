//! What is asked of partitions: more of them, fewer of their records, where an epoch ended, how much the log holds.

use std::collections::HashSet;

use aquifer_storage::{Error, PARTITIONS_MAX, TopicPartition, Trim};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, DeleteRecordsRequest, DeleteRecordsResponse,
    DescribeLogDirsRequest, DescribeLogDirsResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};

use super::answers::AnswerShare;
use super::broker::{Broker, text, topic_name};
use super::errors::Refusal;
use super::fetch::check_epoch;
use super::wire::Malformed;

/// DeleteRecords' offset for all there is.
const HIGH_WATERMARK: i64 = -1;
/// What a partition takes in the answer to DescribeLogDirs until it is written, about.
const SIZED_BYTES: usize = 128;
/// What OffsetForLeaderEpoch answers where there is nothing to tell.
const NOTHING: (i32, i64) = (-1, -1);

/// Answers CreatePartitions.
pub(crate) async fn create(broker: &Broker, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut seen = HashSet::new();
    let twice: HashSet<_> =
        request.topics.iter().filter(|topic| !seen.insert(&topic.name)).map(|topic| topic.name.clone()).collect();
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let done = if twice.contains(&topic.name) {
            Err(Refusal::new(ResponseError::InvalidRequest, format!("topic {} is named twice", *topic.name)))
        } else {
            create_one(broker, topic, request.validate_only).await
        };
        let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        results.push(match done {
            Ok(()) => result,
            Err(refusal) => result.with_error_code(refusal.code()).with_error_message(Some(refusal.text())),
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}

async fn create_one(broker: &Broker, wanted: &CreatePartitionsTopic, validate_only: bool) -> Result<(), Refusal> {
    let name = wanted.name.as_str();
    let topic = broker.storage.topic(name).ok_or_else(|| Refusal::unknown_topic(name))?;
    if topic.internal {
        return Err(Error::TopicInternal { topic: name.to_owned() }.into());
    }
    if wanted.count <= topic.partitions || wanted.count > PARTITIONS_MAX {
        let message = format!(
            "topic {name} has {} partitions and may have up to {PARTITIONS_MAX}; {} is not more",
            topic.partitions, wanted.count
        );
        return Err(Refusal::new(ResponseError::InvalidPartitions, message));
    }
    let added = usize::try_from(wanted.count - topic.partitions).unwrap_or(0);
    if let Some(assignments) = wanted.assignments.as_ref().filter(|assignments| assignments.len() != added) {
        let message = format!("{} assignments for {added} new partitions; leave them out", assignments.len());
        return Err(Refusal::new(ResponseError::InvalidReplicaAssignment, message));
    }
    broker.storage.check_may_grow(topic.id)?;
    if validate_only {
        return Ok(());
    }
    Ok(broker.storage.add_partitions(topic.id, wanted.count).await?)
}

/// Answers DeleteRecords: each topic's partitions begin later from one moment on, or those that may not stay as they are.
pub(crate) async fn delete_records(broker: &Broker, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let partitions = delete_of_topic(broker, &topic).await;
        topics.push(DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

async fn delete_of_topic(broker: &Broker, topic: &DeleteRecordsTopic) -> Vec<DeleteRecordsPartitionResult> {
    let planned: Vec<_> = topic.partitions.iter().map(|wanted| trim_of(broker, &topic.name, wanted)).collect();
    let trims: Vec<Trim> = planned.iter().filter_map(|planned| planned.as_ref().ok().copied()).collect();
    let trimmed = if trims.is_empty() { Ok(()) } else { broker.storage.trim(trims).await.map_err(Refusal::from) };
    let results = topic.partitions.iter().zip(planned).map(|(wanted, planned)| {
        let result = DeleteRecordsPartitionResult::default().with_partition_index(wanted.partition_index);
        let start = planned.and_then(|trim| {
            trimmed.clone()?;
            Ok(broker.storage.watermarks(trim.partition)?.log_start_offset)
        });
        match start {
            Ok(start) => result.with_low_watermark(start),
            Err(refusal) => {
                tracing::debug!(topic = %topic.name.0, partition = wanted.partition_index, error = %refusal.message,
                    "records are not deleted");
                result.with_low_watermark(-1).with_error_code(refusal.code())
            }
        }
    });
    results.collect()
}

fn trim_of(broker: &Broker, name: &str, wanted: &DeleteRecordsPartition) -> Result<Trim, Refusal> {
    let (topic, partition) = broker.partition(name, wanted.partition_index)?;
    if topic.internal {
        return Err(Error::TopicInternal { topic: name.to_owned() }.into());
    }
    if !topic.config.resolve(broker.storage.settings()).cleanup_policy.deletes() {
        let message = format!("cleanup.policy of topic {name} keeps the latest record of each key; add delete to it");
        return Err(Refusal::new(ResponseError::PolicyViolation, message));
    }
    let ends = broker.storage.watermarks(partition)?;
    let log_start_offset = match wanted.offset {
        HIGH_WATERMARK => ends.high_watermark,
        offset if (0..=ends.high_watermark).contains(&offset) => offset,
        offset => {
            let (log_start_offset, high_watermark) = (ends.log_start_offset, ends.high_watermark);
            return Err(Error::OffsetOutOfRange { offset, log_start_offset, high_watermark }.into());
        }
    };
    Ok(Trim { partition, log_start_offset })
}

/// Answers OffsetForLeaderEpoch. A partition has had one epoch so far; it has not ended, so its end is the log's.
pub(crate) fn epoch_ends(broker: &Broker, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|wanted| {
            let answer = EpochEndOffset::default().with_partition(wanted.partition);
            match epoch_end(broker, &topic.topic, wanted) {
                Ok((epoch, end)) => answer.with_leader_epoch(epoch).with_end_offset(end),
                Err(refusal) => {
                    answer.with_error_code(refusal.code()).with_leader_epoch(NOTHING.0).with_end_offset(NOTHING.1)
                }
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn epoch_end(broker: &Broker, topic: &str, wanted: &OffsetForLeaderPartition) -> Result<(i32, i64), Refusal> {
    let (_, partition) = broker.partition(topic, wanted.partition)?;
    let ends = broker.storage.watermarks(partition)?;
    check_epoch(wanted.current_leader_epoch, ends.leader_epoch)?;
    if wanted.leader_epoch == ends.leader_epoch { Ok((ends.leader_epoch, ends.high_watermark)) } else { Ok(NOTHING) }
}

/// Answers DescribeLogDirs: there is one, and a partition's size is what the log holds of it; objects are not counted.
pub(crate) async fn log_dirs(
    broker: &Broker,
    request: DescribeLogDirsRequest,
    share: &mut AnswerShare,
) -> Result<DescribeLogDirsResponse, Malformed> {
    let storage = &broker.storage;
    let asked: usize = match &request.topics {
        Some(wanted) => wanted.iter().map(|topic| topic.partitions.len()).sum(),
        None => storage.topics().iter().map(|topic| usize::try_from(topic.partitions).unwrap_or(0)).sum(),
    };
    share.take(asked.saturating_mul(SIZED_BYTES)).await?;
    let sized = |name: &str, wanted: &mut dyn Iterator<Item = i32>| {
        let topic = storage.topic(name)?;
        let partitions = wanted.filter_map(|partition| {
            let bytes = storage.log_bytes(TopicPartition { topic: topic.id, partition }).ok()?;
            let size = i64::try_from(bytes).unwrap_or(i64::MAX);
            Some(DescribeLogDirsPartition::default().with_partition_index(partition).with_partition_size(size))
        });
        let partitions = partitions.collect();
        Some(DescribeLogDirsTopic::default().with_name(topic_name(name)).with_partitions(partitions))
    };
    let topics = match request.topics {
        Some(wanted) => {
            wanted.iter().filter_map(|topic| sized(&topic.topic, &mut topic.partitions.iter().copied())).collect()
        }
        None => storage.topics().iter().filter_map(|topic| sized(&topic.name, &mut (0..topic.partitions))).collect(),
    };
    let dir = storage.log_dir().display().to_string();
    let result = DescribeLogDirsResult::default().with_log_dir(text(&dir)).with_topics(topics);
    Ok(DescribeLogDirsResponse::default().with_results(vec![result]))
}
