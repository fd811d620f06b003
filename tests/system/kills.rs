//! SIGKILL during load by three idempotent producers, again and again, every other time while a checkpoint runs: every
//! acknowledged record is there once, at its offset, in order per key, and the continuous table equals the batch SELECT.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aquifer_storage::clock::{Random, SystemRandom};
use rdkafka::Message;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use serde_json::Value;

use crate::support::kafka::{producer_with, read_all};
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::{PATIENCE, until};

const PRODUCERS: usize = 3;
const KEYS_PER_PRODUCER: usize = 7;
/// Sends under way per producer: enough to cross a kill, few enough to check.
const IN_FLIGHT: usize = 40;
/// Acknowledgements between two kills, so that each one meets real load.
const ACKNOWLEDGED_MIN: usize = 150;

/// What one acknowledgement promised.
#[derive(Debug)]
struct Acknowledged {
    partition: i32,
    offset: i64,
    producer: usize,
    sequence: u64,
}

fn kills() -> usize {
    if std::env::var_os("AQUIFER_SOAK").is_some() { 200 } else { 10 }
}

fn key_of(producer: usize, sequence: u64) -> String {
    format!("p{producer}-k{}", sequence % KEYS_PER_PRODUCER as u64)
}

fn value_of(producer: usize, sequence: u64) -> String {
    format!(r#"{{"producer":{producer},"sequence":{sequence}}}"#)
}

/// Sends until told to stop; gives what was acknowledged.
async fn load(
    producer: FutureProducer,
    number: usize,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    let mut waiting = std::collections::VecDeque::new();
    let mut sequence = 0;
    loop {
        let stopping = stop.load(Ordering::SeqCst);
        while !stopping && waiting.len() < IN_FLIGHT {
            let (key, value) = (key_of(number, sequence), value_of(number, sequence));
            let record = FutureRecord::to("events").key(&key).payload(&value);
            match producer.send_result(record) {
                Ok(delivery) => waiting.push_back((sequence, delivery)),
                Err((error, _)) => panic!("producer {number}: {error}"),
            }
            sequence += 1;
        }
        let Some((sequence, delivery)) = waiting.pop_front() else { return acknowledged };
        match delivery.await.expect("not dropped") {
            Ok(delivery) => {
                let (partition, offset) = (delivery.partition, delivery.offset);
                acknowledged.push(Acknowledged { partition, offset, producer: number, sequence });
                count.fetch_add(1, Ordering::SeqCst);
            }
            Err((error, _)) => panic!("producer {number}, sequence {sequence}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_under_load_lose_nothing_repeat_nothing_and_keep_the_order() {
    // Small segments and no local retention: kills meet tiering and forgetting too.
    let mut node = Node::start_with(&[
        ("AQUIFER_WAL_SEGMENT_BYTES", "1 MiB"),
        ("AQUIFER_WAL_COMMIT_BYTES_MAX", "256 KiB"),
        ("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "0"),
    ]);
    declare(&Sql::connect(&node).await).await;
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicUsize::new(0));
    let settings = [("message.timeout.ms", "120000"), ("queue.buffering.max.messages", "1000")];
    let producers: Vec<_> = (0..PRODUCERS).map(|_| producer_with(&node, &settings)).collect();
    let loads: Vec<_> = producers
        .iter()
        .enumerate()
        .map(|(number, producer)| tokio::spawn(load(producer.clone(), number, Arc::clone(&stop), Arc::clone(&count))))
        .collect();

    for kill in 0..kills() {
        let before = count.load(Ordering::SeqCst);
        let enough = |now: &usize| *now >= before + ACKNOWLEDGED_MIN;
        until(&format!("load before kill {kill}"), async || count.load(Ordering::SeqCst), enough).await;
        if kill % 2 == 1 {
            // Under way when the kill comes, so its answer is of no interest.
            let sql = Sql::connect(&node).await;
            drop(tokio::spawn(async move { sql.try_rows("CHECKPOINT").await.is_ok() }));
        }
        // The moment of the kill is the chance that this test lives on.
        let after = Duration::from_millis(SystemRandom.next_u64() % 200);
        tokio::time::sleep(after).await;
        tokio::task::block_in_place(|| node.restart());
    }
    stop.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    for load in loads {
        acknowledged.extend(load.await.expect("a producer's task"));
    }
    for producer in &producers {
        producer.flush(PATIENCE).expect("flushed");
    }
    check_topic(&node, &acknowledged).await;
    check_table(&node).await;
}

async fn declare(sql: &Sql) {
    sql.run(
        "CREATE STREAM events (k STRING KEY, producer INT, sequence BIGINT) \
         WITH (kafka_topic = 'events', value_format = 'json', partitions = 3);
         CREATE TABLE per_key AS SELECT k, count(*) AS n, sum(sequence) AS total, min(sequence) AS low, \
         max(sequence) AS high FROM events GROUP BY k EMIT CHANGES",
    )
    .await;
}

/// Lost, repeated, reordered: none of it.
async fn check_topic(node: &Node, acknowledged: &[Acknowledged]) {
    let records = read_all(node, "events").await;
    let mut places = BTreeMap::new();
    let mut last_of_key: BTreeMap<(i32, String), u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for record in &records {
        let value: Value = serde_json::from_slice(record.payload().expect("a value")).expect("JSON");
        let producer = usize::try_from(value["producer"].as_u64().expect("a number")).expect("small");
        let sequence = value["sequence"].as_u64().expect("a number");
        let key = String::from_utf8(record.key().expect("a key").to_vec()).expect("UTF-8");
        let place = (record.partition(), record.offset());
        assert!(places.insert(place, (producer, sequence)).is_none(), "{place:?} was read twice");
        assert!(seen.insert((producer, sequence)), "producer {producer}, sequence {sequence} is there twice");
        assert_eq!(key, key_of(producer, sequence), "the key that was sent");
        let before = last_of_key.insert((record.partition(), key.clone()), sequence);
        assert!(before < Some(sequence), "key {key}: {sequence} comes after {before:?}");
    }
    for promise in acknowledged {
        let found = places.get(&(promise.partition, promise.offset));
        assert_eq!(found, Some(&(promise.producer, promise.sequence)), "lost or moved: {promise:?}");
    }
    assert!(acknowledged.len() >= kills() * ACKNOWLEDGED_MIN, "there was load");
}

async fn check_table(node: &Node) {
    let sql = Sql::connect(node).await;
    let batch = "SELECT k, count(*), sum(sequence), min(sequence), max(sequence) FROM events GROUP BY k ORDER BY k";
    let expected = sql.table(batch).await;
    assert_eq!(expected.len(), PRODUCERS * KEYS_PER_PRODUCER);
    let continuous = "SELECT k, n, total, low, high FROM per_key ORDER BY k";
    until("the continuous table to equal the batch SELECT", || sql.table(continuous), |rows| *rows == expected).await;
}
