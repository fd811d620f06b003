//! Object stores over HTTP: a node keeps its history on S3 and on Azure's blobs, is fenced there, says what is wrong when
//! it cannot start, and lives through a store that is gone, stalls, throttles or fails by chance.

use std::collections::BTreeMap;

use rdkafka::Message;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::producer::FutureRecord;

use crate::process::get;
use crate::support::kafka::{Wire, consumer, produce, producer, producer_with, read_from_start};
use crate::support::node::{Node, command};
use crate::support::proxy::{Proxy, Weather};
use crate::support::sql::Sql;
use crate::support::store::Store;
use crate::support::wait::{PATIENCE, until};

/// Small segments and no local retention: what is tiered leaves the log as soon as its segment is sealed.
const FORGETFUL: [(&str, &str); 4] = [
    ("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "0"),
    ("AQUIFER_WAL_SEGMENT_BYTES", "1 MiB"),
    ("AQUIFER_WAL_COMMIT_BYTES_MAX", "256 KiB"),
    ("AQUIFER_TIER_AGE_MAX", "1 h"),
];

/// Short waits for a store that does not answer, so that a test sees their end.
const IMPATIENT: [(&str, &str); 3] = [
    ("AQUIFER_OBJECT_STORE_ATTEMPT_TIME_MAX", "1 s"),
    ("AQUIFER_OBJECT_STORE_RETRY_TIME_MAX", "3 s"),
    ("AQUIFER_CACHE_BYTES_MAX", "0"),
];

fn start(store: &[(&'static str, String)], more: &[(&str, &str)]) -> Node {
    let store = store.iter().map(|(name, value)| (*name, value.as_str()));
    let environment: Vec<_> = FORGETFUL.into_iter().chain(more.iter().copied()).chain(store).collect();
    Node::start_with(&environment)
}

/// Writes the records `from..from + count`, some hundred bytes each.
async fn write(node: &Node, topic: &str, from: usize, count: usize) {
    // No batch is larger than a commit may be.
    let producer = producer_with(node, &[("batch.size", "65536")]);
    let sends = (from..from + count).map(|number| {
        let producer = producer.clone();
        async move {
            let (key, value) = (format!("key-{}", number % 13), format!("{number}-{}", "x".repeat(500)));
            producer.send(FutureRecord::to(topic).key(&key).payload(&value), PATIENCE).await.expect("acknowledged");
        }
    });
    futures::future::join_all(sends).await;
}

/// Every record has an offset of its own in its partition, without a gap.
async fn each_offset_once(sql: &Sql, topic: &str, expected: usize) {
    let query = format!(
        "SELECT count(*), count(DISTINCT (_partition, _offset)), count(DISTINCT split_part(CAST(_value AS text), '-', 1)) \
         FROM topics.\"{topic}\""
    );
    let expected = expected.to_string();
    assert_eq!(sql.table(&query).await, [[expected.as_str(); 3]], "no record twice and none missing");
}

/// CHECKPOINT, again while the store does not let it through.
async fn checkpoint(sql: &Sql) {
    until("a checkpoint", || sql.try_rows("CHECKPOINT"), Result::is_ok).await.expect("just seen");
}

/// Tiers and writes until the first segments of the log are gone; gives how many records there are.
async fn write_until_forgotten(node: &Node, sql: &Sql, topic: &str) -> usize {
    let first = "SELECT min(id) FROM aquifer.segments";
    let (oldest, mut count) = (sql.number(first).await, 0);
    while sql.number(first).await == oldest {
        assert!(count < 30_000, "segments of 1 MiB fill up and are forgotten");
        write(node, topic, count, 2_000).await;
        count += 2_000;
        checkpoint(sql).await;
    }
    count
}

async fn values(node: &Node, topic: &str, count: usize) -> Vec<(i32, i64, Vec<u8>)> {
    let records = read_from_start(node, topic, count).await;
    let value = |payload: Option<&[u8]>| payload.expect("a value").to_vec();
    records.iter().map(|record| (record.partition(), record.offset(), value(record.payload()))).collect()
}

/// Reads a topic with a group, some records at a time, each time as a new member.
async fn read_at_its_own_pace(node: &Node, topic: &str, group: &str, count: usize) {
    let mut seen: BTreeMap<i32, i64> = BTreeMap::new();
    let mut read = 0;
    while read < count {
        let member: StreamConsumer = consumer(node, group);
        member.subscribe(&[topic]).expect("subscribed");
        for _ in 0..(count / 3 + 1).min(count - read) {
            let record =
                tokio::time::timeout(PATIENCE, member.recv()).await.expect("a record in time").expect("a record");
            let next = seen.entry(record.partition()).or_default();
            assert_eq!(record.offset(), *next, "partition {} goes on where the group stood", record.partition());
            *next += 1;
            read += 1;
            member.store_offset_from_message(&record).expect("stored");
        }
        member.commit_consumer_state(CommitMode::Sync).expect("committed");
    }
    assert_eq!(seen.values().sum::<i64>(), i64::try_from(count).expect("small"));
}

/// How often the local disk had what was wanted of a far object, or had not.
fn of_range_cache(node: &Node, what: &str) -> u64 {
    let (_, metrics) = tokio::task::block_in_place(|| get(node.ports.http, "/metrics"));
    let name = format!("aquifer_cache_{what}_total{{cache=\"ranges\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |number| number.parse().expect("a number"))
}

/// A node's life on a store: everything it promises of a folder holds there too.
async fn keeps_its_history(store: &Store, scheme: &str) {
    let mut node = start(&store.environment("one/node"), &[]);
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM events (k STRING KEY, n STRING) WITH (kafka_topic = 'events', value_format = 'json', partitions = 2)").await;
    let cold = write_until_forgotten(&node, &sql, "events").await;
    let urls = format!("SELECT count(*) FROM aquifer.objects WHERE url NOT LIKE '{scheme}://waters/one/node/topics/%'");
    assert_eq!(sql.number(&urls).await, 0);
    write(&node, "events", cold, 500).await;
    let count = cold + 500;
    each_offset_once(&sql, "events", count).await;
    let before = values(&node, "events", count).await;
    assert_eq!(before.len(), count);
    read_at_its_own_pace(&node, "events", "slow", count).await;

    let asked = "SELECT requests, bytes, cost_micro_dollars FROM aquifer.object_store WHERE kind = 'put'";
    let [puts, bytes, cost] = &sql.table(asked).await[0][..] else { panic!("three columns") };
    let number = |text: &str| text.parse::<u64>().expect("a number");
    assert!(number(puts) >= 4 && number(bytes) > 0 && number(cost) >= 5 * number(puts), "{puts} {bytes} {cost}");
    let hidden = "SELECT count(*) FROM aquifer.settings WHERE value LIKE '%hush%' OR value LIKE '%Eby8vdM%'";
    assert_eq!(sql.number(hidden).await, 0);

    drop(sql);
    tokio::task::block_in_place(|| node.restart());
    let sql = Sql::connect(&node).await;
    each_offset_once(&sql, "events", count).await;
    assert_eq!(values(&node, "events", count).await, before, "the same bytes after a kill");
    drop(sql);
    tokio::task::block_in_place(|| node.restart());
    assert_eq!(values(&node, "events", count).await, before);
    let (hits, misses) = (of_range_cache(&node, "hits"), of_range_cache(&node, "misses"));
    assert!(hits > misses, "what was read before the restart is on the local disk: {hits} of {}", hits + misses);

    // A stranger's data directory is refused, a newer process on a copy of ours fences us.
    let stranger = refused_start(&store.environment("one/node"), &[]);
    assert!(stranger.contains("belongs to cluster"), "{stranger}");
    node.announce_error("newer");
    node.announce_error("fenced");
    let copy = tokio::task::block_in_place(|| node.start_copy());
    write(&node, "events", count, 10).await;
    let fenced = Sql::connect(&node).await.refused("CHECKPOINT").await;
    assert!(fenced.message.contains("fenced"), "{fenced:?}");
    let of_copy = Sql::connect(&copy).await;
    write(&copy, "events", count, 100).await;
    checkpoint(&of_copy).await;
    each_offset_once(&of_copy, "events", count + 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_keeps_its_history_on_s3() {
    let Some(store) = Store::s3() else { return };
    keeps_its_history(&store, "s3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_keeps_its_history_on_azures_blobs() {
    let Some(store) = Store::azure() else { return };
    keeps_its_history(&store, "az").await;
}

/// A start that must fail, and the line it says.
fn refused_start(store: &[(&'static str, String)], more: &[(&str, &str)]) -> String {
    let directory = tempfile::TempDir::new().expect("a directory");
    let output = command(&[
        "serve",
        "--kafka-addr",
        "127.0.0.1:0",
        "--postgres-addr",
        "127.0.0.1:0",
        "--http-addr",
        "127.0.0.1:0",
    ])
    .env("AQUIFER_DATA_DIR", directory.path())
    .envs(store.iter().map(|(name, value)| (*name, value.as_str())))
    .envs(more.iter().copied())
    .output()
    .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("hush"), "a secret is shown: {stderr}");
    let line = stderr.lines().last().unwrap_or_default().to_owned();
    assert!(line.starts_with("aquifer: "), "{stderr}");
    line
}

#[test]
fn a_start_without_its_store_says_what_to_do() {
    let Some(store) = Store::s3() else { return };
    let refused = |changed: &[(&'static str, &str)]| {
        let mut environment = store.environment("p");
        environment.retain(|(name, _)| changed.iter().all(|(other, _)| other != name));
        let changed = changed.iter().filter(|(_, value)| !value.is_empty());
        environment.extend(changed.map(|(name, value)| (*name, (*value).to_owned())));
        refused_start(&environment, &IMPATIENT)
    };
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let nobody = format!("http://{nobody}");
    for (changed, said) in [
        (vec![("AQUIFER_OBJECT_STORE", "s3://nowhere/p")], "the bucket does not exist; make it"),
        (vec![("AQUIFER_OBJECT_STORE_ENDPOINT", nobody.as_str())], "it does not answer; check that it runs"),
        (vec![("AQUIFER_OBJECT_STORE_ALLOW_HTTP", "")], "has no TLS"),
        (vec![("AQUIFER_OBJECT_STORE_ACCOUNT_KEY", "hush")], "account_key means nothing to s3://"),
        (vec![("AQUIFER_OBJECT_STORE", "s3://key:hush@waters/p")], "do not belong into the URL"),
        (vec![("AQUIFER_OBJECT_STORE", "hdfs://waters/p")], "unknown scheme 'hdfs'; use s3://"),
    ] {
        let line = refused(&changed);
        assert!(line.contains(said), "no {said:?} in {line}");
    }
    let proxy = Proxy::start(store.address, 4);
    proxy.turn(Weather::Forgetful);
    let line = refused_start(&store.environment_by(proxy.address, "p"), &IMPATIENT);
    assert!(line.contains("s3://waters/p") && line.contains("does not keep put-if-absent"), "{line}");
}

#[test]
fn a_store_that_never_answers_ends_a_start_in_bounded_time() {
    let Some(store) = Store::s3() else { return };
    let proxy = Proxy::start(store.address, 1);
    proxy.turn(Weather::Still);
    let line = refused_start(&store.environment_by(proxy.address, "p"), &IMPATIENT);
    assert!(line.contains("it does not answer") && line.contains("no answer within"), "{line}");
    proxy.turn(Weather::Throttling);
    let line = refused_start(&store.environment_by(proxy.address, "p"), &IMPATIENT);
    assert!(line.contains("SlowDown"), "{line}");
}

/// The error code of a Kafka fetch of partition 0 from an offset, version 4.
fn fetch_error(node: &Node, topic: &str, offset: i64) -> i16 {
    let mut body = Vec::new();
    body.extend((-1_i32).to_be_bytes());
    body.extend(100_i32.to_be_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend((1_i32 << 20).to_be_bytes());
    body.push(0);
    body.extend(1_i32.to_be_bytes());
    body.extend(i16::try_from(topic.len()).expect("short").to_be_bytes());
    body.extend(topic.as_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend(0_i32.to_be_bytes());
    body.extend(offset.to_be_bytes());
    body.extend((1_i32 << 20).to_be_bytes());
    let mut wire = Wire::connect(node);
    wire.request(1, 4, 7, &body);
    let answer = wire.response().expect("an answer");
    // Correlation, throttle, topics, name, partitions, partition.
    let at = 4 + 4 + 4 + 2 + topic.len() + 4 + 4;
    i16::from_be_bytes([answer[at], answer[at + 1]])
}

/// KAFKA_STORAGE_ERROR.
const STORAGE_ERROR: i16 = 56;

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_gone_writes_go_on_and_cold_reads_say_so() {
    let Some(store) = Store::s3() else { return };
    let proxy = Proxy::start(store.address, 2);
    let environment = store.environment_by(proxy.address, "p");
    let mut node = start(&environment, &IMPATIENT);
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM events (n STRING) WITH (kafka_topic = 'events', value_format = 'json', partitions = 1)")
        .await;
    let mut count = write_until_forgotten(&node, &sql, "events").await;
    drop(sql);
    // Nothing cold is in memory any more.
    tokio::task::block_in_place(|| node.restart());
    let sql = Sql::connect(&node).await;
    for weather in [Weather::Down, Weather::Still, Weather::Throttling] {
        proxy.turn(weather);
        write(&node, "events", count, 200).await;
        count += 200;
        let refusal = sql.refused("SELECT count(_value) FROM topics.events").await;
        assert_eq!(refusal.state.code(), "58030", "{weather:?}: {refusal:?}");
        assert_eq!(tokio::task::block_in_place(|| fetch_error(&node, "events", 0)), STORAGE_ERROR, "{weather:?}");
        let end = sql.number("SELECT high_watermark FROM aquifer.partitions WHERE topic = 'events'").await;
        assert_eq!(end, i64::try_from(count).expect("small"));
        assert_eq!(tokio::task::block_in_place(|| fetch_error(&node, "events", end - 1)), 0, "hot reads go on");
        assert!(!sql.refused("CHECKPOINT").await.message.is_empty());
    }
    proxy.turn(Weather::Fair);
    checkpoint(&sql).await;
    each_offset_once(&sql, "events", count).await;
    assert_eq!(values(&node, "events", count).await.len(), count);
    let failures = "SELECT sum(failures) > 0, sum(throttled) > 0, sum(retries) > 0 FROM aquifer.object_store";
    assert_eq!(sql.table(failures).await, [["t", "t", "t"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_log_is_full_because_the_store_is_gone_writes_are_refused_and_go_on_by_themselves() {
    let Some(store) = Store::s3() else { return };
    let proxy = Proxy::start(store.address, 3);
    let environment = store.environment_by(proxy.address, "p");
    let small = [
        ("AQUIFER_WAL_BYTES_MAX", "6 MiB"),
        ("AQUIFER_WAL_RESERVE_BYTES", "1 MiB"),
        ("AQUIFER_TIER_BYTES_MIN", "64 KiB"),
    ];
    let node = start(&environment, &[&IMPATIENT[..], &small[..]].concat());
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM events (n STRING) WITH (kafka_topic = 'events', value_format = 'json', partitions = 1)")
        .await;
    proxy.turn(Weather::Down);
    let insert = format!("INSERT INTO events SELECT repeat('x', 500) FROM generate_series(1, {}) AS s(i)", 200);
    let mut written = 0;
    let refusal = loop {
        match sql.try_rows(&insert).await {
            Ok(_) => written += 200,
            Err(error) => break error.code().expect("an SQLSTATE").code().to_owned(),
        }
        assert!(written < 100_000, "6 MiB fill up");
    };
    assert_eq!(refusal, "53100");
    assert_eq!(tokio::task::block_in_place(|| fetch_error(&node, "events", 0)), 0, "reads go on");
    proxy.turn(Weather::Fair);
    until("writes to go on", || sql.try_rows(&insert), Result::is_ok).await.expect("just seen");
    written += 200;
    let counted = sql.number("SELECT count(*) FROM topics.events").await;
    assert_eq!(counted, written, "what was refused is not there, what was acknowledged is");
}

/// Everything is kept through weather of this seed.
async fn lives_through_a_storm(store: &Store, seed: u64) {
    let proxy = Proxy::start(store.address, seed);
    let environment = store.environment_by(proxy.address, &format!("storm-{seed}"));
    let mut node = start(&environment, &IMPATIENT);
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM events (n STRING) WITH (kafka_topic = 'events', value_format = 'json', partitions = 2)")
        .await;
    let first = producer(&node);
    produce(&first, "events", "k", "0-first").await;
    let mut count = 1;
    proxy.turn(Weather::Stormy);
    for _ in 0..6 {
        write(&node, "events", count, 300).await;
        count += 300;
        checkpoint(&sql).await;
    }
    proxy.turn(Weather::Fair);
    let cold = "SELECT sum(high_watermark - tiered_end_offset) FROM aquifer.partitions WHERE topic = 'events'";
    assert_eq!(sql.number(cold).await, 0);
    each_offset_once(&sql, "events", count).await;
    drop(sql);
    tokio::task::block_in_place(|| node.restart());
    proxy.turn(Weather::Stormy);
    let sql = Sql::connect(&node).await;
    let query = "SELECT count(*) FROM topics.events WHERE _value IS NOT NULL";
    let counted = until("a scan to come through", || sql.try_rows(query), Result::is_ok).await.expect("just seen");
    assert_eq!(counted[0][0].as_deref(), Some(count.to_string().as_str()));
    proxy.turn(Weather::Fair);
    assert_eq!(values(&node, "events", count).await.len(), count);
    assert!(proxy.suffered() > 0, "there was a storm");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_while_the_store_fails_by_chance() {
    let Some(store) = Store::s3() else { return };
    for seed in seeds() {
        lives_through_a_storm(&store, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn azures_blobs_may_fail_by_chance_too() {
    let Some(store) = Store::azure() else { return };
    lives_through_a_storm(&store, seeds()[0]).await;
}

/// Two in `make test`, twenty in `make soak`; `AQUIFER_SEED` repeats one.
fn seeds() -> Vec<u64> {
    if let Some(seed) = std::env::var("AQUIFER_SEED").ok().and_then(|text| text.parse().ok()) {
        return vec![seed];
    }
    if std::env::var_os("AQUIFER_SOAK").is_some() { (1..=20).collect() } else { vec![1, 2] }
}
