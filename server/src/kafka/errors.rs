//! The one table from storage's errors to Kafka's codes.
//!
//! A code decides what a client does next: retry, refresh its metadata, or give up. The message goes along where the
//! protocol has a field for it, because a code alone names no topic, limit or query.

use aquifer_storage::Error;
use aquifer_storage::settings::OFFSETS_BYTES_MAX;
use kafka_protocol::ResponseError;
use kafka_protocol::protocol::StrBytes;

/// Why a part of a request was not done: Kafka's code and words for a person.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) error: ResponseError,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(error: ResponseError, message: impl Into<String>) -> Self {
        Self { error, message: message.into() }
    }

    pub(crate) fn code(&self) -> i16 {
        self.error.code()
    }

    /// The words as the crate's string.
    pub(crate) fn text(&self) -> StrBytes {
        StrBytes::from_string(self.message.clone())
    }

    pub(crate) fn unknown_topic(topic: &str) -> Self {
        Self::new(ResponseError::UnknownTopicOrPartition, format!("topic {topic} does not exist"))
    }

    pub(crate) fn unknown_partition(topic: &str, partition: i32) -> Self {
        Self::new(ResponseError::UnknownTopicOrPartition, format!("topic {topic} has no partition {partition}"))
    }

    /// The same in a version of a request: a fenced producer is told by a code of its own from `since` on only.
    pub(crate) fn fenced_since(self, since: i16, version: i16) -> Self {
        let error = match self.error {
            ResponseError::ProducerFenced | ResponseError::InvalidProducerEpoch if version >= since => {
                ResponseError::ProducerFenced
            }
            ResponseError::ProducerFenced => ResponseError::InvalidProducerEpoch,
            other => other,
        };
        Self { error, ..self }
    }
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        let code = match error {
            Error::UnknownTopic { .. } | Error::UnknownPartition { .. } => ResponseError::UnknownTopicOrPartition,
            Error::TopicExists { .. } => ResponseError::TopicAlreadyExists,
            Error::InvalidTopic { .. } | Error::TopicInternal { .. } => ResponseError::InvalidTopicException,
            Error::InvalidTopicConfig { .. } => ResponseError::InvalidConfig,
            Error::InvalidPartitions { .. } => ResponseError::InvalidPartitions,
            Error::TopicHeld { .. }
            | Error::TableTopic { .. }
            | Error::TableWrittenByQuery { .. }
            | Error::TableKeyed { .. } => ResponseError::PolicyViolation,
            Error::OffsetOutOfRange { .. } => ResponseError::OffsetOutOfRange,
            Error::OutOfOrderSequence { .. } => ResponseError::OutOfOrderSequenceNumber,
            Error::InvalidProducerEpoch { .. } => ResponseError::InvalidProducerEpoch,
            Error::ProducerFenced { .. } => ResponseError::ProducerFenced,
            Error::InvalidTransactionState { .. } => ResponseError::InvalidTxnState,
            Error::UnknownTransactionalId { .. } => ResponseError::InvalidProducerIdMapping,
            Error::ConcurrentTransactions { .. } => ResponseError::ConcurrentTransactions,
            Error::InvalidTransactionTimeout { .. } => ResponseError::InvalidTransactionTimeout,
            Error::CorruptBatch { .. } => ResponseError::CorruptMessage,
            Error::InvalidBatch { .. } | Error::KeylessRecords { .. } => ResponseError::InvalidRecord,
            Error::TooLarge { setting: OFFSETS_BYTES_MAX, .. } => ResponseError::InvalidCommitOffsetSize,
            Error::TooLarge { .. } => ResponseError::MessageTooLarge,
            // Clients retry these against fresh metadata; nothing was written.
            Error::Fenced { .. } | Error::Closed => ResponseError::NotLeaderOrFollower,
            Error::Corrupt { .. }
            | Error::Full { .. }
            | Error::ReadOnly { .. }
            | Error::Io { .. }
            | Error::ObjectStore { .. }
            | Error::Format { .. } => ResponseError::KafkaStorageError,
            Error::Conflict { .. } | Error::Config { .. } => ResponseError::InvalidRequest,
            // The enum may grow; a code nobody knows is still an error.
            _ => ResponseError::UnknownServerError,
        };
        Self::new(code, with_sources(error))
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

/// The error's words and those of its sources, for whoever gets only one line.
fn with_sources(error: &Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        source = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_that_decide_what_a_producer_does_are_kafkas_numbers() {
        let code = |error: Error| Refusal::from(error).code();
        assert_eq!(code(Error::OutOfOrderSequence { producer_id: 1, sequence: 5, expected: 3 }), 45);
        assert_eq!(code(Error::InvalidProducerEpoch { producer_id: 1, epoch: 0, current: 1 }), 47);
        assert_eq!(code(Error::UnknownTopic { topic: "t".into() }), 3);
        assert_eq!(code(Error::CorruptBatch { reason: "crc".into() }), 2);
        let too_large = |setting| Error::TooLarge { what: "it", bytes: 2, setting, limit_bytes: 1 };
        assert_eq!((code(too_large("offsets.bytes_max")), code(too_large("wal.commit_bytes_max"))), (28, 10));
        assert_eq!(code(Error::Full { reason: "wal.bytes_max".into() }), 56);
        assert_eq!(code(Error::TopicHeld { topic: "t".into(), holder: "query q".into() }), 44);
    }

    #[test]
    fn a_fenced_producer_is_told_in_the_words_of_its_version() {
        let told = |error, since, version| Refusal::new(error, "").fenced_since(since, version).code();
        assert_eq!(told(ResponseError::ProducerFenced, 2, 1), 47);
        assert_eq!(told(ResponseError::InvalidProducerEpoch, 2, 1), 47);
        assert_eq!(told(ResponseError::InvalidProducerEpoch, 2, 2), 90);
        assert_eq!(told(ResponseError::ProducerFenced, 2, 2), 90);
        assert_eq!(told(ResponseError::InvalidTxnState, 2, 3), 48);
    }

    #[test]
    fn a_held_topic_names_the_query_that_holds_it() {
        let refusal = Refusal::from(Error::TopicHeld { topic: "clicks".into(), holder: "query per_user".into() });
        assert!(refusal.message.contains("query per_user"), "{}", refusal.message);
    }
}
