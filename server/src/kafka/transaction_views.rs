//! What an operator asks about transactions: DescribeProducers, DescribeTransactions, ListTransactions.
//!
//! They answer from what is durable, as `aquifer.transactions` and `aquifer.producers` do in SQL. The log's own transactions
//! are left out: no client can do anything about them.

use std::collections::BTreeMap;

use aquifer_storage::{ProducerInfo, TransactionInfo, TransactionState};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState as Described};
use kafka_protocol::messages::list_transactions_response::TransactionState as Listed;
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, DescribeTransactionsRequest, DescribeTransactionsResponse,
    ListTransactionsRequest, ListTransactionsResponse, TopicName, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;

use super::answers::AnswerShare;
use super::broker::{Broker, text, topic_name};
use super::errors::Refusal;
use super::wire::Malformed;

/// What a producer, and a partition of a transaction, takes in an answer until it is written, about.
const PRODUCER_BYTES: usize = 160;
const PARTITION_BYTES: usize = 128;

/// The states Kafka knows; of some we have none, because a transaction ends in one commit.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];
/// Told where a producer has nothing open, and where a transaction has not begun.
const NONE: i64 = -1;

fn state_name(state: TransactionState) -> &'static str {
    match state {
        TransactionState::Empty => "Empty",
        TransactionState::Ongoing => "Ongoing",
        TransactionState::CompleteCommit => "CompleteCommit",
        TransactionState::CompleteAbort => "CompleteAbort",
    }
}

/// Answers DescribeProducers.
pub(crate) async fn producers(
    broker: &Broker,
    request: DescribeProducersRequest,
    share: &mut AnswerShare,
) -> Result<DescribeProducersResponse, Malformed> {
    let mut topics = Vec::with_capacity(request.topics.len());
    for TopicRequest { name, partition_indexes, .. } in request.topics {
        let mut partitions = Vec::with_capacity(partition_indexes.len());
        for index in partition_indexes {
            let response = PartitionResponse::default().with_partition_index(index);
            partitions.push(match producers_of(broker, &name, index).await {
                Ok(producers) => {
                    share.take(producers.len() * PRODUCER_BYTES).await?;
                    response.with_active_producers(producers.iter().map(producer_state).collect())
                }
                Err(refusal) => {
                    response.with_error_code(refusal.code()).with_error_message(Some(text(&refusal.message)))
                }
            });
        }
        topics.push(TopicResponse::default().with_name(name).with_partitions(partitions));
    }
    Ok(DescribeProducersResponse::default().with_topics(topics))
}

async fn producers_of(broker: &Broker, topic: &str, partition: i32) -> Result<Vec<ProducerInfo>, Refusal> {
    let (_, at) = broker.partition(topic, partition)?;
    Ok(broker.storage.producers(at).await?)
}

fn producer_state(producer: &ProducerInfo) -> ProducerState {
    ProducerState::default()
        .with_producer_id(producer.producer.id.into())
        .with_producer_epoch(producer.producer.epoch.into())
        .with_last_sequence(producer.last_sequence)
        .with_last_timestamp(producer.last_timestamp_ms)
        .with_coordinator_epoch(producer.coordinator_epoch)
        .with_current_txn_start_offset(producer.open_since.unwrap_or(NONE))
}

/// Answers DescribeTransactions.
pub(crate) async fn describe(
    broker: &Broker,
    request: DescribeTransactionsRequest,
    share: &mut AnswerShare,
) -> Result<DescribeTransactionsResponse, Malformed> {
    let known: BTreeMap<String, TransactionInfo> =
        of_clients(broker).map(|info| (info.transactional_id.clone(), info)).collect();
    let mut states = Vec::with_capacity(request.transactional_ids.len());
    for id in request.transactional_ids {
        states.push(match known.get(id.as_str()) {
            Some(info) => {
                share.take(info.partitions.len() * PARTITION_BYTES).await?;
                described(broker, id, info)
            }
            None => {
                let error =
                    if id.is_empty() { ResponseError::InvalidRequest } else { ResponseError::TransactionalIdNotFound };
                Described::default().with_transactional_id(id).with_error_code(error.code())
            }
        });
    }
    Ok(DescribeTransactionsResponse::default().with_transaction_states(states))
}

fn described(broker: &Broker, id: TransactionalId, info: &TransactionInfo) -> Described {
    let mut topics: BTreeMap<TopicName, Vec<i32>> = BTreeMap::new();
    for at in &info.partitions {
        // A topic may have been deleted under the transaction.
        if let Some(topic) = broker.storage.topic_by_id(at.topic) {
            topics.entry(topic_name(&topic.name)).or_default().push(at.partition);
        }
    }
    let topics = topics
        .into_iter()
        .map(|(topic, partitions)| TopicData::default().with_topic(topic).with_partitions(partitions))
        .collect();
    Described::default()
        .with_transactional_id(id)
        .with_transaction_state(StrBytes::from_static_str(state_name(info.state)))
        .with_transaction_timeout_ms(info.timeout_ms)
        .with_transaction_start_time_ms(info.started_at_us.map_or(NONE, |us| us / 1_000))
        .with_producer_id(info.producer.id.into())
        .with_producer_epoch(info.producer.epoch)
        .with_topics(topics)
}

/// Answers ListTransactions.
pub(crate) fn list(broker: &Broker, request: &ListTransactionsRequest) -> ListTransactionsResponse {
    let now_us = broker.storage.clock().now_us();
    let listed = of_clients(broker).filter(|info| is_wanted(info, request, now_us));
    let listed = listed.map(|info| {
        Listed::default()
            .with_transactional_id(TransactionalId(text(&info.transactional_id)))
            .with_producer_id(info.producer.id.into())
            .with_transaction_state(StrBytes::from_static_str(state_name(info.state)))
    });
    let unknown = request.state_filters.iter().filter(|state| !STATES.contains(&state.as_str())).cloned();
    ListTransactionsResponse::default()
        .with_unknown_state_filters(unknown.collect())
        .with_transaction_states(listed.collect())
}

fn of_clients(broker: &Broker) -> impl Iterator<Item = TransactionInfo> {
    broker.storage.transactions().into_iter().filter(|info| !info.internal)
}

/// Empty filters let everything pass. A duration lets pass what has been open for longer (KIP-994: "only transactions
/// running longer than this"), so an id without an open transaction does not pass it.
fn is_wanted(info: &TransactionInfo, request: &ListTransactionsRequest, now_us: i64) -> bool {
    let states = &request.state_filters;
    let producers = &request.producer_id_filters;
    let open_longer = |ms: i64| info.started_at_us.is_some_and(|since| (now_us - since) / 1_000 > ms);
    (states.is_empty() || states.iter().any(|state| state.as_str() == state_name(info.state)))
        && (producers.is_empty() || producers.iter().any(|id| id.0 == info.producer.id))
        && (request.duration_filter < 0 || open_longer(request.duration_filter))
}

#[cfg(test)]
mod tests {
    use aquifer_storage::ProducerIdentity;

    use super::*;

    fn info(state: TransactionState, started_at_us: Option<i64>) -> TransactionInfo {
        TransactionInfo {
            transactional_id: "orders".to_owned(),
            producer: ProducerIdentity { id: 7, epoch: 1 },
            state,
            timeout_ms: 60_000,
            started_at_us,
            updated_at_us: 0,
            partitions: Vec::new(),
            groups: Vec::new(),
            internal: false,
        }
    }

    #[test]
    fn a_listing_keeps_what_every_filter_lets_pass() {
        let open = info(TransactionState::Ongoing, Some(1_000_000));
        let ended = info(TransactionState::CompleteAbort, None);
        let all = ListTransactionsRequest::default();
        let now_us = 6_000_000;
        assert!(is_wanted(&open, &all, now_us) && is_wanted(&ended, &all, now_us));
        let ongoing = all.clone().with_state_filters(vec![text("Ongoing"), text("Dead")]);
        assert!(is_wanted(&open, &ongoing, now_us) && !is_wanted(&ended, &ongoing, now_us));
        let other = all.clone().with_producer_id_filters(vec![8.into()]);
        assert!(!is_wanted(&open, &other, now_us));
        let long = all.clone().with_duration_filter(4_999);
        assert!(is_wanted(&open, &long, now_us) && !is_wanted(&ended, &long, now_us));
        assert!(!is_wanted(&open, &all.with_duration_filter(5_000), now_us));
    }
}
