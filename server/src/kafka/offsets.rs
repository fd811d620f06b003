//! ListOffsets: where a partition begins, ends, and stood at a time.

use std::collections::HashSet;

use aquifer_storage::{Isolation, TimedOffset};
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

/// The timestamp that asks for the first offset in the local log.
const EARLIEST_LOCAL: i64 = -4;
/// The timestamp that asks for the last offset in an object.
const LATEST_TIERED: i64 = -5;

/// Answers ListOffsets; a partition that is named twice is refused, as Kafka does.
pub(crate) async fn list(broker: &Broker, request: ListOffsetsRequest, version: i16) -> ListOffsetsResponse {
    let isolation = isolation(request.isolation_level);
    let mut seen = HashSet::new();
    let named = request
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|wanted| (topic.name.clone(), wanted.partition_index)));
    let twice: HashSet<_> = named.filter(|place| !seen.insert(place.clone())).collect();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(wanted.partition_index);
            let found = if twice.contains(&(topic.name.clone(), wanted.partition_index)) {
                let message = format!("partition {} is named twice", wanted.partition_index);
                Err(Refusal::new(ResponseError::InvalidRequest, message))
            } else {
                find(broker, &topic.name, wanted, isolation, version).await
            };
            partitions.push(match found {
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
    // What came since the look at the ends may be found too, but nothing that is not stable.
    let end = if isolation == Isolation::ReadCommitted { ends.last_stable_offset } else { i64::MAX };
    let visible = |found: Option<TimedOffset>| found.filter(|found| found.offset < end).unwrap_or(NOT_FOUND);
    let found = match wanted.timestamp {
        LATEST => untimed(end_of(&ends, isolation)),
        EARLIEST => untimed(ends.log_start_offset),
        MAX_TIMESTAMP if version >= 7 => visible(broker.storage.offset_of_max_timestamp(at).await?),
        EARLIEST_LOCAL if version >= 8 => untimed(broker.storage.local_start(at)?.max(ends.log_start_offset)),
        LATEST_TIERED if version >= 9 && ends.tiered_end_offset > ends.log_start_offset => {
            untimed(ends.tiered_end_offset - 1)
        }
        LATEST_TIERED if version >= 9 => NOT_FOUND,
        timestamp_ms if timestamp_ms >= 0 => visible(broker.storage.offset_for_timestamp(at, timestamp_ms).await?),
        other => {
            let message = format!("timestamp {other} has no meaning in version {version}");
            return Err(Refusal::new(ResponseError::UnsupportedVersion, message));
        }
    };
    Ok((found, ends.leader_epoch))
}
