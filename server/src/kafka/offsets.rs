//! ListOffsets: where a partition begins, ends, and stood at a time.

use aquifer_storage::{Isolation, Storage, TimedOffset, TopicPartition};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::broker::Broker;
use super::errors::Refusal;
use super::fetch::{check_epoch, end_of, isolation};

/// The timestamp that asks for the end.
const LATEST: i64 = -1;
/// The timestamp that asks for the beginning.
const EARLIEST: i64 = -2;
/// The timestamp that asks for the record with the largest timestamp.
const MAX_TIMESTAMP: i64 = -3;

/// Answers ListOffsets.
pub(crate) async fn list(broker: &Broker, request: ListOffsetsRequest, version: i16) -> ListOffsetsResponse {
    let isolation = isolation(request.isolation_level);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(wanted.partition_index);
            partitions.push(match find(broker, &topic.name, wanted, isolation, version).await {
                Ok((found, leader_epoch)) => {
                    let answer = answer.with_offset(found.offset).with_timestamp(found.timestamp_ms);
                    if version >= 4 { answer.with_leader_epoch(leader_epoch) } else { answer }
                }
                Err(refusal) => {
                    tracing::debug!(topic = %topic.name.0, error = %refusal.message, "no offset for a partition");
                    answer.with_error_code(refusal.code()).with_offset(-1).with_timestamp(-1)
                }
            });
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

/// No record is found: no error, but offset and timestamp -1.
const NOT_FOUND: TimedOffset = TimedOffset { offset: -1, timestamp_ms: -1 };

async fn find(
    broker: &Broker,
    topic: &str,
    wanted: &ListOffsetsPartition,
    isolation: Isolation,
    version: i16,
) -> Result<(TimedOffset, i32), Refusal> {
    let (_, at) = broker.partition(topic, wanted.partition_index)?;
    let ends = broker.storage.watermarks(at)?;
    let asked_epoch = if version >= 4 { wanted.current_leader_epoch } else { -1 };
    check_epoch(asked_epoch, ends.leader_epoch)?;
    let untimed = |offset| TimedOffset { offset, timestamp_ms: -1 };
    let found = match wanted.timestamp {
        LATEST => untimed(end_of(&ends, isolation)),
        EARLIEST => untimed(ends.log_start_offset),
        MAX_TIMESTAMP if version >= 7 => latest_by_time(&broker.storage, at).await?,
        timestamp_ms if timestamp_ms >= 0 => {
            let found = broker.storage.offset_for_timestamp(at, timestamp_ms).await?;
            found.filter(|found| found.offset < end_of(&ends, isolation)).unwrap_or(NOT_FOUND)
        }
        other => {
            let message = format!("timestamp {other} has no meaning in version {version}");
            return Err(Refusal::new(ResponseError::InvalidRequest, message));
        }
    };
    Ok((found, ends.leader_epoch))
}

/// The record with the largest timestamp, by bisection of time: the index answers "the first at or after", and at the
/// largest timestamp that still has an answer, that answer is it. At most 64 look-ups.
async fn latest_by_time(storage: &Storage, at: TopicPartition) -> Result<TimedOffset, Refusal> {
    let Some(mut best) = storage.offset_for_timestamp(at, 0).await? else { return Ok(NOT_FOUND) };
    let (mut low, mut high) = (best.timestamp_ms.max(0), i64::MAX);
    while low < high {
        let middle = low + (high - low) / 2 + 1;
        match storage.offset_for_timestamp(at, middle).await? {
            Some(found) => {
                best = found;
                low = middle.max(found.timestamp_ms);
            }
            None => high = middle - 1,
        }
    }
    Ok(best)
}
