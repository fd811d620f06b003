//! Two topics that lose records on purpose while the node is killed: of one the latest record per key is kept, of the
//! other the newest bytes. What they lose is what they may lose, and nothing comes back.
//!
//! A plain producer writes growing numbers under few keys, sometimes a tombstone. It is idempotent and waits over a kill,
//! so everything it has sent is acknowledged in the end, and the last number sent under a key is the latest there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aquifer_storage::clock::{Random, SystemRandom};
use rdkafka::Message;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::OwnedMessage;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::task::JoinHandle;

use crate::support::kafka::{consumer, producer_with, read_to_end, reader};
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::PATIENCE;

const PARTITIONS: i32 = 2;
/// Keys of the compacted topic: each is overwritten often.
const KEYS: u64 = 40;
/// What the other topic keeps.
const RETENTION_BYTES: u64 = 16 << 10;
/// Sends under way: enough to cross a kill.
const IN_FLIGHT: usize = 20;
/// A trickle: the transactions have the node for themselves most of the time.
const PAUSE: Duration = Duration::from_millis(3);

/// Key and number, or a tombstone, at a partition and offset.
type Places = BTreeMap<(i32, i64), (String, Option<u64>)>;
/// First offset not there, by partition, once nothing is written any more.
type Ends = Arc<Mutex<Option<BTreeMap<i32, i64>>>>;

/// What runs beside the transactions.
pub(super) struct Kept {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Places>>,
    ends: Ends,
    watching: JoinHandle<Vec<OwnedMessage>>,
    /// Offsets of the aging topic's beginnings, as last seen.
    starts: BTreeMap<i32, i64>,
}

impl Kept {
    pub(super) async fn begin(node: &Node, sql: &Sql) -> Self {
        for (topic, keeps) in [
            ("latest", "cleanup_policy = 'compact'".to_owned()),
            ("newest", format!("retention_bytes = {RETENTION_BYTES}")),
        ] {
            let with = format!("kafka_topic = '{topic}', value_format = 'json', partitions = {PARTITIONS}, {keeps}");
            sql.run(&format!("CREATE STREAM {topic}_stream (k STRING KEY, number BIGINT) WITH ({with})")).await;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let settings = [("message.timeout.ms", "120000")];
        let writers = ["latest", "newest"].map(|topic| {
            let producer = producer_with(node, &settings);
            tokio::spawn(write(producer, topic, Arc::clone(&stop)))
        });
        let ends = Ends::default();
        let (consumer, _) = reader(node, "latest", &[("isolation.level", "read_committed")]);
        let watching = tokio::spawn(watch(consumer, Arc::clone(&ends)));
        Self { stop, writers: writers.into(), ends, watching, starts: BTreeMap::new() }
    }

    /// No beginning goes back, whatever was killed since the last look.
    pub(super) fn look(&mut self, node: &Node) {
        for (partition, (start, _)) in watermarks(node, "newest") {
            let before = self.starts.insert(partition, start);
            assert!(before <= Some(start), "newest/{partition} begins at {start}, and at {before:?} before");
        }
    }

    /// Ends the writing, and looks at everything that is left; gives how many records were written.
    pub(super) async fn check(mut self, node: &Node) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let mut written = Vec::new();
        for writer in std::mem::take(&mut self.writers) {
            written.push(writer.await.expect("a producer's task"));
        }
        let [latest, newest] = <[Places; 2]>::try_from(written).expect("two topics");
        self.look(node);
        let ends = watermarks(node, "latest").into_iter().map(|(partition, (_, end))| (partition, end));
        *self.ends.lock().expect("not poisoned") = Some(ends.collect());
        let watched = tokio::time::timeout(PATIENCE, self.watching).await.expect("the consumer comes to the end");
        check_latest(&watched.expect("a consumer"), &latest, "a consumer over all kills");
        let sql = Sql::connect(node).await;
        check_latest(&read_to_end(node, "latest", "read_committed").await, &latest, "before the last compaction");
        for statement in ["CHECKPOINT", "VACUUM latest", "VACUUM newest"] {
            sql.run(statement).await;
        }
        check_latest(&read_to_end(node, "latest", "read_committed").await, &latest, "after the last compaction");
        // A consumer may still read what the local log holds of it.
        let left = sql.number("SELECT count(*) FROM topics.latest").await;
        let keys = last_of_keys(&latest).len();
        assert_eq!(usize::try_from(left).expect("not negative"), keys, "one record is left of each key");
        check_newest(node, &newest).await;
        latest.len() + newest.len()
    }
}

/// Writes until told to stop; where everything went.
async fn write(producer: FutureProducer, topic: &'static str, stop: Arc<AtomicBool>) -> Places {
    let mut places = Places::new();
    let mut waiting = std::collections::VecDeque::new();
    let mut number = 0;
    loop {
        let stopping = stop.load(Ordering::SeqCst);
        while !stopping && waiting.len() < IN_FLIGHT {
            let key = format!("key-{}", number % KEYS);
            // Every key gets one now and then: 40 and 7 have no factor in common.
            let value = (number % 7 != 0).then(|| format!(r#"{{"number":{number},"pad":"{}"}}"#, pad()));
            let record = FutureRecord::to(topic).key(&key);
            let record = match &value {
                Some(value) => record.payload(value),
                None => record,
            };
            let sent = producer.send_result(record).map_err(|(error, _)| error);
            let delivery = sent.unwrap_or_else(|error| panic!("{topic}: {error}"));
            waiting.push_back((key, value.map(|_| number), delivery));
            number += 1;
        }
        tokio::time::sleep(PAUSE).await;
        let Some((key, number, delivery)) = waiting.pop_front() else { return places };
        match delivery.await.expect("not dropped") {
            Ok(delivery) => {
                let twice = places.insert((delivery.partition, delivery.offset), (key, number));
                assert!(twice.is_none(), "{topic}: {}/{} was given twice", delivery.partition, delivery.offset);
            }
            Err((error, _)) => panic!("{topic}: {error}"),
        }
    }
}

/// What no codec makes small.
fn pad() -> String {
    (0..8).map(|_| format!("{:016x}", SystemRandom.next_u64())).collect()
}

/// Reads until the ends are known and reached. The last record of a partition is the latest of its key, so it stays.
async fn watch(consumer: StreamConsumer, ends: Ends) -> Vec<OwnedMessage> {
    let (mut records, mut next) = (Vec::new(), BTreeMap::new());
    loop {
        let reached = |(partition, end): (&i32, &i64)| next.get(partition).copied().unwrap_or(0) >= *end;
        if ends.lock().expect("not poisoned").as_ref().is_some_and(|ends| ends.iter().all(reached)) {
            return records;
        }
        // Without a record, or with the node down for a moment, it looks again whether that was all.
        if let Ok(Ok(message)) = tokio::time::timeout(Duration::from_millis(200), consumer.recv()).await {
            next.insert(message.partition(), message.offset() + 1);
            records.push(message.detach());
        }
    }
}

fn watermarks(node: &Node, topic: &str) -> BTreeMap<i32, (i64, i64)> {
    let consumer = consumer(node, "reader-without-a-group");
    let of = |partition| {
        let ends = tokio::task::block_in_place(|| consumer.fetch_watermarks(topic, partition, PATIENCE));
        (partition, ends.expect("the partition's ends"))
    };
    (0..PARTITIONS).map(of).collect()
}

fn record_of(record: &OwnedMessage) -> ((i32, i64), (String, Option<u64>)) {
    let key = String::from_utf8(record.key().expect("a key").to_vec()).expect("UTF-8");
    let number = record.payload().map(|value| {
        let value: serde_json::Value = serde_json::from_slice(value).expect("JSON");
        value["number"].as_u64().expect("a number")
    });
    ((record.partition(), record.offset()), (key, number))
}

/// The last record of each key.
fn last_of_keys(places: &Places) -> BTreeMap<(i32, String), Option<u64>> {
    places.iter().map(|((partition, _), (key, number))| ((*partition, key.clone()), *number)).collect()
}

/// What was read is what was written there, in order, and ends with the latest of every key.
fn check_latest(read: &[OwnedMessage], written: &Places, when: &str) {
    let (mut seen, mut last) = (Places::new(), BTreeMap::new());
    for record in read {
        let (place, what) = record_of(record);
        let before = last.insert(place.0, place.1);
        assert!(before < Some(place.1), "{when}: {place:?} comes after {before:?}");
        assert_eq!(written.get(&place), Some(&what), "{when}: {place:?} is what was written there");
        seen.insert(place, what);
    }
    assert_eq!(last_of_keys(&seen), last_of_keys(written), "{when}: the latest of every key");
}

/// From its first offset on every record of a partition is there, as it was written; and it does not keep everything.
async fn check_newest(node: &Node, written: &Places) {
    let (read, ends) = loop {
        let ends = watermarks(node, "newest");
        let read: BTreeSet<_> = read_to_end(node, "newest", "read_committed").await.iter().map(record_of).collect();
        // Housekeeping goes on.
        if ends == watermarks(node, "newest") {
            break (read, ends);
        }
    };
    let kept = written.iter().filter(|((partition, offset), _)| *offset >= ends[partition].0);
    let kept: BTreeSet<_> = kept.map(|(place, what)| (*place, what.clone())).collect();
    assert_eq!(read, kept, "from the first offset on nothing is missing");
    for (partition, (start, end)) in ends {
        let count = kept.iter().filter(|((of, _), _)| *of == partition).count();
        assert_eq!(i64::try_from(count).expect("small"), end - start, "newest/{partition}: no gap in {start}..{end}");
        assert!(start > 0, "newest/{partition}: nothing of {end} records has gone");
    }
}
