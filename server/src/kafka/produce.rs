//! Produce: batches checked once, committed per partition, answered when as durable as `acks` asks.
//!
//! Read by hand, because the message crate copies records; a batch stays a slice of its frame until the log has it. All
//! commits of a request are submitted together, in order, so that the log syncs them together and a producer's sequences
//! stay in order. Kafka's `timeout.ms` bounds the wait for other replicas; there are none to wait for.

use std::sync::Arc;

use aquifer_storage::record::batch::{BatchLimits, CheckedBatch};
use aquifer_storage::{Append, Commit, Durability, Error, Receipt, TopicPartition};
use bytes::Bytes;
use futures::future::join_all;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::api::{Request, RequestHeader};
use super::broker::{Broker, is_reserved};
use super::errors::Refusal;
use super::frame::Response;
use super::schema::ELEMENTS_MAX;
use super::transactions;
use super::wire::{Malformed, Reader};

/// Attribute bit of batches that belong to a client's transaction.
const TRANSACTIONAL: i16 = 1 << 4;
/// From this version on a transaction that must be aborted before the producer goes on is told by a code of its own.
const ABORTABLE_SINCE: i16 = 11;
/// What a batch takes in a commit besides its own bytes, at the most: its topic, partition and lengths.
const APPEND_OVERHEAD_BYTES: usize = 128;

/// How a connection goes on after a produce.
#[derive(Debug)]
pub(crate) enum Produced {
    /// With an answer.
    Answer(Response),
    /// Without one: `acks=0`.
    Silent,
    /// Not at all: `acks=0` failed, and closing is the only way to tell.
    Close,
}

/// A request's topics, as sent.
#[derive(Debug)]
pub(super) struct ProduceRequest {
    transactional_id: Option<StrBytes>,
    acks: i16,
    topics: Vec<(StrBytes, Vec<(i32, Bytes)>)>,
}

/// Reads the request and submits its commits with the first poll of the future.
///
/// # Errors
/// A body that is none.
pub(crate) fn submit(
    broker: Arc<Broker>,
    request: &Request,
) -> Result<impl Future<Output = Produced> + Send + use<>, Malformed> {
    let header = request.header.clone();
    let ProduceRequest { transactional_id, acks, topics } = parse(request)?;
    let plan = Plan::new(&broker, transactional_id.as_deref(), acks, topics);
    let abortable = transactional_id.is_some() && header.version >= ABORTABLE_SINCE;
    Ok(async move {
        let (commits, parts) = (plan.commits, plan.partitions);
        let storage = &broker.storage;
        let receipts = join_all(commits.into_iter().map(|commit| storage.commit(commit))).await;
        answer(&header, (acks, abortable), parts, &receipts)
    })
}

pub(super) fn parse(request: &Request) -> Result<ProduceRequest, Malformed> {
    let flexible = request.header.flexible();
    let mut reader = Reader::new(request.body.clone());
    let mut elements_left = ELEMENTS_MAX;
    let mut count = |reader: &mut Reader| -> Result<usize, Malformed> {
        let count = reader.bytes_length(flexible)?.unwrap_or(0);
        elements_left = u32::try_from(count)
            .ok()
            .and_then(|count| elements_left.checked_sub(count))
            .ok_or_else(|| Malformed::new(format!("more than {ELEMENTS_MAX} partitions in one request")))?;
        Ok(count)
    };
    let transactional_id = reader.nullable_string(flexible)?;
    let acks = reader.int16()?;
    reader.int32()?; // timeout_ms, see above
    let mut topics = Vec::new();
    for _ in 0..count(&mut reader)? {
        let name = reader.string(flexible)?;
        let mut partitions = Vec::new();
        for _ in 0..count(&mut reader)? {
            let index = reader.int32()?;
            let records = reader.nullable_bytes(flexible)?.unwrap_or_default();
            if flexible {
                reader.skip_tagged_fields()?;
            }
            partitions.push((index, records));
        }
        if flexible {
            reader.skip_tagged_fields()?;
        }
        topics.push((name, partitions));
    }
    if flexible {
        reader.skip_tagged_fields()?;
    }
    Ok(ProduceRequest { transactional_id, acks, topics })
}

/// What becomes of each partition: refused at once, or a range of the commits.
#[derive(Debug)]
struct Plan {
    commits: Vec<Commit>,
    partitions: Vec<(StrBytes, Vec<PlannedPartition>)>,
}

#[derive(Debug)]
struct PlannedPartition {
    index: i32,
    commits: Result<std::ops::Range<usize>, Refusal>,
}

impl Plan {
    fn new(
        broker: &Broker,
        transactional_id: Option<&str>,
        acks: i16,
        topics: Vec<(StrBytes, Vec<(i32, Bytes)>)>,
    ) -> Self {
        let refused = (!(-1..=1).contains(&acks))
            .then(|| Refusal::new(ResponseError::InvalidRequiredAcks, format!("acks {acks} is not -1, 0 or 1")));
        let durability = if acks == -1 { Durability::Synced } else { Durability::Written };
        let mut plan = Self { commits: Vec::new(), partitions: Vec::with_capacity(topics.len()) };
        for (name, partitions) in topics {
            let planned = partitions.into_iter().map(|(index, records)| {
                let batches = match &refused {
                    Some(refusal) => Err(refusal.clone()),
                    None => check(broker, transactional_id, &name, index, records),
                };
                PlannedPartition {
                    index,
                    commits: batches.map(|(at, batches)| plan.add(broker, at, batches, durability)),
                }
            });
            let planned = planned.collect();
            plan.partitions.push((name, planned));
        }
        plan
    }

    /// Cuts a partition's batches into commits of allowed size. One batch that is too large is left to the log to refuse.
    fn add(
        &mut self,
        broker: &Broker,
        at: TopicPartition,
        batches: Vec<CheckedBatch>,
        durability: Durability,
    ) -> std::ops::Range<usize> {
        let first = self.commits.len();
        let limit = usize::try_from(broker.storage.settings().wal_commit_bytes_max).unwrap_or(usize::MAX);
        let mut bytes = usize::MAX;
        for batch in batches {
            let more = batch.bytes().len() + APPEND_OVERHEAD_BYTES;
            if bytes.saturating_add(more) > limit || self.commits.len() == first {
                self.commits.push(Commit { durability, ..Commit::default() });
                bytes = 0;
            }
            bytes += more;
            if let Some(commit) = self.commits.last_mut() {
                commit.appends.push(Append { topic: at.topic, partition: at.partition, batch });
            }
        }
        first..self.commits.len()
    }
}

/// Finds the partition and checks its batches.
fn check(
    broker: &Broker,
    transactional_id: Option<&str>,
    topic: &str,
    partition: i32,
    records: Bytes,
) -> Result<(TopicPartition, Vec<CheckedBatch>), Refusal> {
    if is_reserved(topic) {
        return Err(Refusal::from(Error::TopicInternal { topic: topic.to_owned() }));
    }
    let (known, at) = broker.partition(topic, partition)?;
    broker.storage.check_writable(&known)?;
    let limit = broker.storage.settings().batch_decompressed_bytes_max;
    let limits = BatchLimits { decompressed_bytes_max: usize::try_from(limit).unwrap_or(usize::MAX) };
    let batches = CheckedBatch::parse_produced(records, limits)?;
    if batches.is_empty() {
        return Err(Refusal::new(ResponseError::InvalidRecord, "no record batch for this partition"));
    }
    // Whose transaction it is the log knows by the producer's id; that the request names none is the client's mistake.
    if transactional_id.is_none() && batches.iter().any(|batch| batch.header().attributes & TRANSACTIONAL != 0) {
        let message = "the batch belongs to a transaction, but the request names no transactional id";
        return Err(Refusal::new(ResponseError::TransactionalIdAuthorizationFailed, message));
    }
    Ok((at, batches))
}

type Receipts = [Result<Receipt, Error>];

fn answer(
    header: &RequestHeader,
    (acks, abortable): (i16, bool),
    partitions: Vec<(StrBytes, Vec<PlannedPartition>)>,
    receipts: &Receipts,
) -> Produced {
    let mut failed = false;
    let responses = partitions.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|partition| {
            let (answer, ok) = partition_answer((header.version, abortable), partition, receipts);
            failed |= !ok;
            answer
        });
        let partitions = partitions.collect();
        TopicProduceResponse::default().with_name(TopicName(name)).with_partition_responses(partitions)
    });
    let responses = responses.collect();
    if acks == 0 {
        return if failed { Produced::Close } else { Produced::Silent };
    }
    match Response::message(header, &ProduceResponse::default().with_responses(responses)) {
        Ok(response) => Produced::Answer(response),
        Err(error) => {
            tracing::error!(%error, "a produce response cannot be encoded");
            Produced::Close
        }
    }
}

/// Kafka tells a producer that writes with an old epoch so in one way; what to do, InitProducerId tells it.
fn refusal(error: &Error, abortable: bool) -> Refusal {
    let refusal = Refusal::from(error).fenced_since(transactions::NEVER, 0);
    match refusal.error {
        ResponseError::InvalidTxnState if abortable => {
            Refusal { error: ResponseError::TransactionAbortable, ..refusal }
        }
        _ => refusal,
    }
}

fn partition_answer(
    (version, abortable): (i16, bool),
    partition: PlannedPartition,
    receipts: &Receipts,
) -> (PartitionProduceResponse, bool) {
    let mut keyless: &[i32] = &[];
    let appended = partition.commits.and_then(|commits| {
        let receipts = receipts.get(commits).unwrap_or_default();
        let receipts = receipts.iter().map(|receipt| {
            receipt.as_ref().map_err(|error| {
                if let Error::KeylessRecords { indexes, .. } = error {
                    keyless = indexes;
                }
                refusal(error, abortable)
            })
        });
        let receipts = receipts.collect::<Result<Vec<&Receipt>, Refusal>>()?;
        let first = receipts.first().and_then(|receipt| receipt.appended.first()).copied();
        first.ok_or_else(|| Refusal::new(ResponseError::UnknownServerError, "the log answered without an offset"))
    });
    let answer = PartitionProduceResponse::default().with_index(partition.index).with_log_append_time_ms(-1);
    match appended {
        Ok(appended) => {
            let answer = answer.with_log_append_time_ms(appended.log_append_time_ms.unwrap_or(-1));
            (answer.with_base_offset(appended.base_offset).with_log_start_offset(appended.log_start_offset), true)
        }
        Err(refusal) => {
            tracing::debug!(partition = partition.index, error = %refusal.message, "a produce was refused");
            let answer = answer.with_error_code(refusal.code()).with_base_offset(-1);
            let answer = if version >= 8 {
                let records = keyless.iter().map(|index| record_without_key(*index));
                answer.with_error_message(Some(refusal.text())).with_record_errors(records.collect())
            } else {
                answer
            };
            (answer.with_log_start_offset(-1), false)
        }
    }
}

fn record_without_key(index: i32) -> BatchIndexAndErrorMessage {
    let message = StrBytes::from_static_str("the topic is compacted and takes no record without a key");
    BatchIndexAndErrorMessage::default().with_batch_index(index).with_batch_index_error_message(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_does_not_fit_its_transaction_is_told_in_the_words_of_the_version() {
        let misfit = Error::InvalidTransactionState { reason: "the partition was not added".to_owned() };
        assert_eq!((refusal(&misfit, false).code(), refusal(&misfit, true).code()), (48, 120));
        let old = Error::InvalidProducerEpoch { producer_id: 1, epoch: 0, current: 1 };
        assert_eq!((refusal(&old, false).code(), refusal(&old, true).code()), (47, 47));
    }
}
