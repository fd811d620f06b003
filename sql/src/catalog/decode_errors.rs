//! Records that did not decode, each once, for `aquifer.decode_errors`: the latest of them, in memory.

use std::collections::{HashSet, VecDeque};

use aquifer_storage::TopicId;
use aquifer_storage::record::format::DecodeError;
use parking_lot::Mutex;

/// How many are kept; older ones are forgotten.
pub(crate) const KEPT_MAX: usize = 10_000;

/// One skipped record of one relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SkippedRecord {
    /// The relation that read it.
    pub(crate) stream: String,
    /// Its topic's name.
    pub(crate) topic: String,
    /// What and why.
    pub(crate) error: DecodeError,
}

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<(Key, SkippedRecord)>,
    seen: HashSet<Key>,
}

type Key = (String, TopicId, i32, i64);

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct DecodeErrors {
    kept: Mutex<Kept>,
}

impl DecodeErrors {
    /// Notes what a scan or a continuous query skipped; what is known already is not noted again.
    pub(crate) fn note(&self, stream: &str, topic: (TopicId, &str), errors: Vec<DecodeError>) {
        if errors.is_empty() {
            return;
        }
        let mut kept = self.kept.lock();
        for error in errors {
            let key = (stream.to_owned(), topic.0, error.partition, error.offset);
            if !kept.seen.insert(key.clone()) {
                continue;
            }
            metrics::counter!("aquifer_decode_errors_total", "stream" => stream.to_owned()).increment(1);
            if kept.records.len() == KEPT_MAX
                && let Some((oldest, _)) = kept.records.pop_front()
            {
                kept.seen.remove(&oldest);
            }
            let record = SkippedRecord { stream: stream.to_owned(), topic: topic.1.to_owned(), error };
            kept.records.push_back((key, record));
        }
    }

    /// All that are kept, oldest first.
    pub(crate) fn all(&self) -> Vec<SkippedRecord> {
        self.kept.lock().records.iter().map(|(_, record)| record.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(offset: i64) -> DecodeError {
        DecodeError {
            partition: 0,
            offset,
            timestamp_ms: 0,
            column: None,
            error: "value is null".to_owned(),
            hides: false,
        }
    }

    #[test]
    fn a_skipped_record_is_noted_once_and_the_oldest_are_forgotten() {
        let errors = DecodeErrors::default();
        let topic = (TopicId::from_bytes([1; 16]), "t");
        errors.note("s", topic, vec![error(1), error(1)]);
        errors.note("s", topic, vec![error(1), error(2)]);
        assert_eq!(errors.all().len(), 2);
        errors.note("s", topic, (0..i64::try_from(KEPT_MAX).unwrap()).map(|offset| error(offset + 10)).collect());
        let all = errors.all();
        assert_eq!(all.len(), KEPT_MAX);
        assert_eq!(all[0].error.offset, 10);
    }
}
