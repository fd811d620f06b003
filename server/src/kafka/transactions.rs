//! The steps of a transaction on the wire: AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit, EndTxn.
//!
//! Each is one change that the log checks and makes durable before it is answered; nothing of a transaction is kept
//! here. That a producer is fenced has been told by PRODUCER_FENCED since some version of each request, and by
//! INVALID_PRODUCER_EPOCH before. `transaction_views` shows transactions to operators.

use aquifer_storage::{Commit, Error, GroupOffset, ProducerIdentity, TopicPartition, TransactionChange};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestTopic;
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    EndTxnRequest, EndTxnResponse, ProducerId, TopicName, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};

use super::broker::{Broker, is_reserved};
use super::commits::{Offered, offset_of};
use super::errors::Refusal;
use super::group::Who;

/// From this version of AddPartitionsToTxn, AddOffsetsToTxn and EndTxn on, fencing has a code of its own.
const FENCED_SINCE: i16 = 2;
/// TxnOffsetCommit and Produce never tell it by that code.
pub(crate) const NEVER: i16 = i16::MAX;

/// A transactional id as the log keeps it.
pub(crate) fn named(transactional_id: &str) -> Result<String, Refusal> {
    if transactional_id.is_empty() {
        return Err(Refusal::new(ResponseError::InvalidRequest, "the transactional id is empty"));
    }
    Ok(transactional_id.to_owned())
}

/// Makes one change durable.
pub(crate) async fn commit(broker: &Broker, change: TransactionChange) -> Result<ProducerIdentity, Refusal> {
    let receipt = broker.storage.commit(Commit { transactions: vec![change], ..Commit::default() }).await?;
    let producer = receipt.transactions.first().copied();
    producer.ok_or_else(|| Refusal::new(ResponseError::UnknownServerError, "the log answered without a producer"))
}

fn identity(id: ProducerId, epoch: i16) -> ProducerIdentity {
    ProducerIdentity { id: id.0, epoch }
}

/// 0, or the refusal's code in this version.
fn code(what: &'static str, transactional_id: &str, done: Result<(), Refusal>, version: i16) -> i16 {
    done.err().map_or(0, |refusal| {
        tracing::debug!(transactional_id, error = %refusal.message, "{what} was refused");
        refusal.fenced_since(FENCED_SINCE, version).code()
    })
}

/// Answers AddPartitionsToTxn: all partitions or none.
pub(crate) async fn add_partitions(
    broker: &Broker,
    request: AddPartitionsToTxnRequest,
    version: i16,
) -> AddPartitionsToTxnResponse {
    let id = request.v3_and_below_transactional_id.as_str();
    let producer = identity(request.v3_and_below_producer_id, request.v3_and_below_producer_epoch);
    let topics = request.v3_and_below_topics;
    let found: Vec<Vec<_>> = topics.iter().map(|topic| partitions_of(broker, topic)).collect();
    let refused = found.iter().flatten().any(Result::is_err);
    let done = match named(id) {
        Ok(_) if refused => {
            let message = "another partition of the request is not there";
            Err(Refusal::new(ResponseError::OperationNotAttempted, message))
        }
        Ok(transactional_id) => {
            let partitions: Vec<TopicPartition> = found.iter().flatten().flatten().copied().collect();
            let change = TransactionChange::AddPartitions { transactional_id, producer, partitions };
            commit(broker, change).await.map(drop)
        }
        Err(refusal) => Err(refusal),
    };
    let results = topics.into_iter().zip(found).map(|(topic, found)| {
        let partitions =
            topic.partitions.iter().zip(found).map(|(index, found)| {
                let done = found.and_then(|_| done.clone());
                AddPartitionsToTxnPartitionResult::default()
                    .with_partition_index(*index)
                    .with_partition_error_code(code("AddPartitionsToTxn", id, done, version))
            });
        let partitions = partitions.collect();
        AddPartitionsToTxnTopicResult::default().with_name(topic.name).with_results_by_partition(partitions)
    });
    AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results.collect())
}

fn partitions_of(broker: &Broker, topic: &AddPartitionsToTxnTopic) -> Vec<Result<TopicPartition, Refusal>> {
    let partition = |index: &i32| {
        if is_reserved(&topic.name) {
            return Err(Refusal::from(Error::TopicInternal { topic: topic.name.to_string() }));
        }
        broker.partition(&topic.name, *index).map(|(_, at)| at)
    };
    topic.partitions.iter().map(partition).collect()
}

/// Answers AddOffsetsToTxn.
pub(crate) async fn add_offsets(
    broker: &Broker,
    request: &AddOffsetsToTxnRequest,
    version: i16,
) -> AddOffsetsToTxnResponse {
    let id = request.transactional_id.as_str();
    let added = async {
        let change = TransactionChange::AddOffsets {
            transactional_id: named(id)?,
            producer: identity(request.producer_id, request.producer_epoch),
            group: request.group_id.as_str().to_owned(),
        };
        commit(broker, change).await.map(drop)
    };
    AddOffsetsToTxnResponse::default().with_error_code(code("AddOffsetsToTxn", id, added.await, version))
}

/// Answers EndTxn: markers, offsets and the new state are one commit, so its end is every consumer's.
pub(crate) async fn end(broker: &Broker, request: &EndTxnRequest, version: i16) -> EndTxnResponse {
    let id = request.transactional_id.as_str();
    let ended = async {
        let change = TransactionChange::End {
            transactional_id: named(id)?,
            producer: identity(request.producer_id, request.producer_epoch),
            committed: request.committed,
        };
        commit(broker, change).await.map(drop)
    };
    EndTxnResponse::default().with_error_code(code("EndTxn", id, ended.await, version))
}

/// A topic's name and, per partition, its number and the offset to commit or why not.
type Offsets = Vec<(TopicName, Vec<(i32, Result<(TopicPartition, GroupOffset), Refusal>)>)>;

/// Answers TxnOffsetCommit: offsets that count once the transaction commits. Those that can be taken are one change.
pub(crate) async fn commit_offsets(broker: &Broker, request: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse {
    let who = Who {
        member_id: request.member_id.as_str().to_owned(),
        instance_id: request.group_instance_id.as_ref().map(|id| id.as_str().to_owned()),
    };
    let group = request.group_id.as_str();
    let allowed = broker.coordinator.check_transactional_commit(group, &who, request.generation_id);
    let allowed = allowed.map_err(|error| Refusal::new(error, "the member may not commit now"));
    let topics = offsets(broker, request.topics, &allowed);
    let taken = topics.iter().flat_map(|(_, partitions)| partitions.iter().filter_map(|(_, taken)| taken.clone().ok()));
    let taken: Vec<_> = taken.collect();
    let id = request.transactional_id.as_str();
    let done = async {
        let change = TransactionChange::CommitOffsets {
            transactional_id: named(id)?,
            producer: identity(request.producer_id, request.producer_epoch),
            group: group.to_owned(),
            offsets: taken,
        };
        commit(broker, change).await.map(drop)
    };
    let done = if allowed.is_ok() { done.await } else { Ok(()) };
    let topics = topics.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, taken)| {
            let code = taken.and_then(|_| done.clone()).err().map_or(0, |refusal| {
                tracing::debug!(transactional_id = id, group, index, error = %refusal.message, "an offset was not taken");
                refusal.fenced_since(NEVER, 0).code()
            });
            TxnOffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code)
        });
        TxnOffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

fn offsets(broker: &Broker, topics: Vec<TxnOffsetCommitRequestTopic>, allowed: &Result<(), Refusal>) -> Offsets {
    let topics = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let offered = Offered {
                partition: partition.partition_index,
                offset: partition.committed_offset,
                leader_epoch: partition.committed_leader_epoch,
                metadata: partition.committed_metadata.as_deref().unwrap_or_default(),
            };
            let taken = allowed.clone().and_then(|()| offset_of(broker, &topic.name, &offered));
            (partition.partition_index, taken)
        });
        let partitions = partitions.collect();
        (topic.name, partitions)
    });
    topics.collect()
}
