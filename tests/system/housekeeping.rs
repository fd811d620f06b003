//! Housekeeping under readers: a consumer group goes through the whole history at its own pace while it is merged,
//! compacted and swept, stops half way, goes on, and misses nothing that is still promised.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::Message;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::OwnedMessage;
use rdkafka::producer::FutureRecord;

use crate::support::kafka::{consumer_with, producer};
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::PATIENCE;

/// The log forgets at once what is tiered, and housekeeping never rests.
const RESTLESS: [(&str, &str); 6] = [
    ("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "0"),
    ("AQUIFER_WAL_SEGMENT_BYTES", "256 KiB"),
    ("AQUIFER_WAL_COMMIT_BYTES_MAX", "64 KiB"),
    ("AQUIFER_TIER_AGE_MAX", "1 h"),
    ("AQUIFER_HOUSEKEEPING_INTERVAL", "1 ms"),
    ("AQUIFER_MERGE_OBJECT_BYTES", "64 KiB"),
];

/// Small fetches, so that reading the history takes many.
const SLOW: [(&str, &str); 4] = [
    ("fetch.message.max.bytes", "2000"),
    ("max.partition.fetch.bytes", "2000"),
    ("queued.min.messages", "1"),
    ("queued.max.messages.kbytes", "8"),
];

/// Writes numbered records, each once more than the key before, and tiers them.
async fn write(node: &Node, sql: &Sql, topic: &str, round: usize, keys: usize) {
    let producer = producer(node);
    let sends = (0..keys).map(|key| {
        let (producer, key) = (producer.clone(), format!("key-{key}"));
        async move {
            let value = format!("{round} {}", "x".repeat(100));
            let record = FutureRecord::to(topic).key(&key).payload(&value);
            producer.send(record, PATIENCE).await.expect("acknowledged");
        }
    });
    futures::future::join_all(sends).await;
    sql.run("CHECKPOINT").await;
}

/// The next `count` records, committed; fewer if the topic's end comes before.
async fn read(consumer: &StreamConsumer, count: usize) -> Vec<OwnedMessage> {
    let mut records = Vec::new();
    while records.len() < count {
        let received = tokio::time::timeout(PATIENCE, consumer.recv()).await;
        let message = received.unwrap_or_else(|_| panic!("{} of {count} records in {PATIENCE:?}", records.len()));
        let message = message.expect("a record");
        records.push(message.detach());
        if records.len().is_multiple_of(50) || records.len() == count {
            consumer.commit_message(&message, CommitMode::Sync).expect("committed");
        }
    }
    records
}

/// Vacuums without a pause until told to stop; how many times, and what it said last.
async fn vacuum(node: &Node, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u32> {
    let sql = Sql::connect(node).await;
    tokio::spawn(async move {
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            sql.run("VACUUM").await;
            rounds += 1;
        }
        rounds
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_reads_the_whole_history_once_while_it_is_merged_under_it() {
    let node = Node::start_with(&RESTLESS);
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM events (k STRING KEY, t STRING) WITH (kafka_topic = 'events', partitions = 1)").await;
    for round in 0..15 {
        write(&node, &sql, "events", round, 60).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let vacuums = vacuum(&node, Arc::clone(&stop)).await;
    let mut seen = Vec::new();
    for part in 0..3 {
        // Each goes on where the one before has committed.
        let consumer = consumer_with(&node, "readers", &SLOW);
        consumer.subscribe(&["events"]).expect("subscribed");
        write(&node, &sql, "events", 15 + part, 100).await;
        seen.extend(read(&consumer, 400).await);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(vacuums.await.expect("no vacuum failed") > 0);
    let offsets: Vec<i64> = seen.iter().map(Message::offset).collect();
    assert_eq!(offsets, (0..1200).collect::<Vec<_>>());
    sql.run("VACUUM events").await;
    let objects = sql.number("SELECT count(DISTINCT url) FROM aquifer.objects WHERE topic = 'events'").await;
    assert!(objects <= 6, "18 checkpoints have left {objects} objects");
    assert_eq!(sql.number("SELECT count(DISTINCT _offset) FROM topics.events").await, 1200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_learns_the_latest_of_every_key_while_the_topic_is_compacted_under_it() {
    const KEYS: usize = 40;
    let node = Node::start_with(&RESTLESS);
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM users (k STRING KEY, t STRING) WITH (kafka_topic = 'users', partitions = 1, cleanup_policy = 'compact', delete_retention_ms = 0)").await;
    for round in 0..10 {
        write(&node, &sql, "users", round, KEYS).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let vacuums = vacuum(&node, Arc::clone(&stop)).await;
    let consumer = consumer_with(&node, "readers", &SLOW);
    consumer.subscribe(&["users"]).expect("subscribed");
    let (mut latest, mut last_offset) = (BTreeMap::new(), -1);
    let end = i64::try_from(KEYS * 20).expect("a small number") - 1;
    for round in 10.. {
        if round < 20 {
            write(&node, &sql, "users", round, KEYS).await;
        }
        if last_offset == end {
            break;
        }
        for record in read(&consumer, 10).await {
            assert!(record.offset() > last_offset, "{} after {last_offset}", record.offset());
            last_offset = record.offset();
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.expect("not null").to_vec()).expect("text");
            latest.insert(text(record.key()), text(record.payload()));
        }
        assert!(round < 200, "the end never came");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(vacuums.await.expect("no vacuum failed") > 0);
    assert_eq!(latest.len(), KEYS);
    assert!(latest.values().all(|value| value.starts_with("19 ")), "{latest:?}");
    sql.run("VACUUM users").await;
    let left = sql.number("SELECT count(*) FROM topics.users").await;
    assert_eq!(left, i64::try_from(KEYS).expect("a small number"));
}
