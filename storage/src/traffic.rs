//! `Traffic`: records and bytes in and out, by topic, since the process began.
//!
//! Numbers are added up by batch, never by record, into counters that are looked up by name: no lock is held for writing but
//! when a topic is seen for the first time, and nothing is allocated after that. Whoever shows them reads them.
//!
//! In: what the log has made durable, whoever wrote it; of an aborted transaction too, for its bytes were taken in. Markers,
//! our own topics and what is carried over are not counted. Out: what Kafka's fetches have answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::view::TopicTraffic;

/// Topics that are told apart; the traffic of all others is one row, named [`OTHER_TOPICS`]. Each is a name and four
/// numbers, here and in every program that collects metrics.
pub const TRAFFIC_TOPICS_MAX: usize = 1000;

/// Instead of a name, for topics beyond [`TRAFFIC_TOPICS_MAX`].
pub const OTHER_TOPICS: &str = "_other";

/// See the top of this file.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    topics: RwLock<HashMap<String, Arc<OfTopic>>>,
    other: OfTopic,
}

#[derive(Debug, Default)]
struct OfTopic {
    records_in: AtomicU64,
    bytes_in: AtomicU64,
    records_out: AtomicU64,
    bytes_out: AtomicU64,
}

/// Records, and the bytes of their batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Traffic {
    /// The log has made these durable.
    pub(crate) fn came_in(&self, topic: &str, volume: Volume) {
        self.with(topic, |of| {
            of.records_in.fetch_add(volume.records, Ordering::Relaxed);
            of.bytes_in.fetch_add(volume.bytes, Ordering::Relaxed);
        });
    }

    /// A fetch has answered with these.
    pub(crate) fn went_out(&self, topic: &str, volume: Volume) {
        self.with(topic, |of| {
            of.records_out.fetch_add(volume.records, Ordering::Relaxed);
            of.bytes_out.fetch_add(volume.bytes, Ordering::Relaxed);
        });
    }

    fn with(&self, topic: &str, count: impl FnOnce(&OfTopic)) {
        if let Some(of) = self.topics.read().get(topic) {
            return count(of);
        }
        let mut topics = self.topics.write();
        match topics.get(topic) {
            Some(of) => count(of),
            None if topics.len() >= TRAFFIC_TOPICS_MAX => count(&self.other),
            None => count(topics.entry(topic.to_owned()).or_default()),
        }
    }

    /// All of it, by name; those beyond the limit last, if there are any.
    pub(crate) fn rows(&self) -> Vec<TopicTraffic> {
        let mut rows: Vec<_> = self.topics.read().iter().map(|(topic, of)| of.row(topic)).collect();
        rows.sort_by(|a, b| a.topic.cmp(&b.topic));
        let other = self.other.row(OTHER_TOPICS);
        rows.extend((other.bytes_in + other.bytes_out > 0).then_some(other));
        rows
    }
}

impl OfTopic {
    fn row(&self, topic: &str) -> TopicTraffic {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TopicTraffic {
            topic: topic.to_owned(),
            records_in: number(&self.records_in),
            bytes_in: number(&self.bytes_in),
            records_out: number(&self.records_out),
            bytes_out: number(&self.bytes_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_beyond_the_limit_share_a_row() {
        let traffic = Traffic::default();
        let one = Volume { records: 1, bytes: 10 };
        for number in 0..TRAFFIC_TOPICS_MAX + 2 {
            traffic.came_in(&format!("t{number:04}"), one);
        }
        traffic.came_in("t0000", one);
        traffic.went_out("t0001", Volume { records: 2, bytes: 30 });
        traffic.went_out("late", one);
        let rows = traffic.rows();
        assert_eq!(rows.len(), TRAFFIC_TOPICS_MAX + 1);
        assert_eq!((rows[0].topic.as_str(), rows[0].records_in, rows[0].bytes_in), ("t0000", 2, 20));
        assert_eq!((rows[1].records_out, rows[1].bytes_out), (2, 30));
        let other = rows.last().unwrap();
        assert_eq!((other.topic.as_str(), other.records_in, other.records_out), (OTHER_TOPICS, 2, 1));
    }
}
