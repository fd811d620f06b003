//! The bucket alone: a node that is killed and whose data directory is gone begins anew from its last checkpoint, with all
//! it held then and nothing else, and goes on.

use std::fs;

use rdkafka::Message;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::support::kafka::{
    consumer, offsets_given, produce, producer, producer_with, read_all, read_to_end, step, transactional, try_step,
};
use crate::support::node::{Node, command};
use crate::support::sql::Sql;
use crate::support::wait::{PATIENCE, until};

const CLICKS: &str = "SELECT id, n FROM clicks ORDER BY n";
const PER_ID: &str = "SELECT id, clicks, total FROM per_id ORDER BY id";
const PER_ID_BATCH: &str = "SELECT id, count(*), sum(n) FROM clicks GROUP BY id ORDER BY id";
const LARGE: &str = "SELECT id, n FROM large ORDER BY n";
const LARGE_BATCH: &str = "SELECT id, n FROM clicks WHERE n >= 20 ORDER BY n";
const TOPICS: &str = "SELECT name, partitions FROM aquifer.topics ORDER BY name";
const QUERIES: &str = "SELECT name, statement FROM aquifer.queries ORDER BY name";
const GROUPS: &str = "SELECT group_id, topic, partition, committed_offset FROM aquifer.consumer_lag ORDER BY 1, 2, 3";

/// Those who write, before and after.
struct Writers {
    /// Has been told nothing that the checkpoint does not know.
    steady: FutureProducer,
    /// Has been told more.
    ahead: FutureProducer,
    plain: FutureProducer,
    payer: FutureProducer,
    /// Has a transaction open at the checkpoint.
    hanging: FutureProducer,
}

async fn click(producer: &FutureProducer, numbers: std::ops::Range<i64>) {
    for n in numbers {
        produce(producer, "clicks", &format!("id-{}", n % 5), &format!(r#"{{"n":{n}}}"#)).await;
    }
}

async fn continuous_is_batch(sql: &Sql) {
    for (continuous, batch) in [(PER_ID, PER_ID_BATCH), (LARGE, LARGE_BATCH)] {
        let expected = sql.table(batch).await;
        let found = until("the query to catch up", || sql.table(continuous), |rows| *rows == expected).await;
        assert_eq!(found, expected, "continuous equals batch");
    }
}

async fn committed(node: &Node, topic: &str) -> Vec<String> {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.expect("a value")).into_owned();
    read_to_end(node, topic, "read_committed").await.iter().map(|record| text(record.payload())).collect()
}

/// Topics, queries, records of all kinds, a group's offset, and a transaction that stays open.
async fn fill(node: &Node, sql: &Sql) -> Writers {
    sql.run(
        "CREATE STREAM clicks (id STRING KEY, n BIGINT) \
         WITH (kafka_topic = 'clicks', value_format = 'json', partitions = 2);
         CREATE TABLE per_id AS SELECT id, count(*) AS clicks, sum(n) AS total FROM clicks GROUP BY id EMIT CHANGES;
         CREATE STREAM large AS SELECT id, n FROM clicks WHERE n >= 20 EMIT CHANGES",
    )
    .await;
    let writers = Writers {
        steady: producer(node),
        ahead: producer(node),
        plain: producer_with(node, &[("enable.idempotence", "false")]),
        payer: transactional(node, "payer", &[]),
        hanging: transactional(node, "hanging", &[]),
    };
    click(&writers.steady, 0..30).await;
    click(&writers.ahead, 30..40).await;
    for number in 0..10 {
        produce(&writers.plain, "plain", "k", &number.to_string()).await;
    }
    pay(&writers.payer, "paid").await;
    step(|| writers.hanging.begin_transaction());
    produce(&writers.hanging, "orders", "k", "hanging").await;
    // Behind an open transaction, so that it is in no object.
    produce(&writers.plain, "orders", "k", "behind").await;
    let mut offsets = TopicPartitionList::new();
    let partition = read_all(node, "plain").await[0].partition();
    offsets.add_partition_offset("plain", partition, Offset::Offset(7)).expect("an offset");
    let group = consumer(node, "readers");
    tokio::task::block_in_place(|| group.commit(&offsets, CommitMode::Sync)).expect("committed");
    continuous_is_batch(sql).await;
    writers
}

async fn pay(payer: &FutureProducer, value: &str) {
    step(|| payer.begin_transaction());
    produce(payer, "orders", "k", value).await;
    step(|| payer.commit_transaction(PATIENCE));
}

/// Those who go on: in step, ahead of what is there, and with an identity that is no more.
async fn go_on(node: &Node, sql: &Sql, writers: Writers) {
    click(&writers.steady, 45..50).await;
    click(&writers.ahead, 50..55).await;
    assert_eq!(sql.number("SELECT count(*) FROM clicks").await, 40 + 5 + 5, "each once");
    for zombie in [writers.payer, writers.hanging] {
        let begun = try_step(|| zombie.begin_transaction());
        let sent = match &begun {
            Ok(()) => zombie.send(FutureRecord::to("orders").key("k").payload("zombie"), PATIENCE).await.is_ok(),
            Err(_) => false,
        };
        let ended = begun.is_ok() && try_step(|| zombie.commit_transaction(PATIENCE)).is_ok();
        assert!(!ended, "fenced; sent: {sent}");
    }
    pay(&transactional(node, "payer", &[]), "paid again").await;
    assert_eq!(committed(node, "orders").await, ["paid", "behind", "paid again"]);
    sql.run("INSERT INTO clicks (id, n) VALUES ('id-0', 1000)").await;
    continuous_is_batch(sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_whose_directory_is_gone_comes_back_from_the_bucket_and_goes_on() {
    let bucket = tempfile::TempDir::with_prefix("aquifer-bucket-").expect("a directory");
    let url = format!("file://{}", bucket.path().display());
    let mut node = Node::start_with(&[("AQUIFER_OBJECT_STORE", &url)]);
    let sql = Sql::connect(&node).await;
    let writers = fill(&node, &sql).await;
    let tables = [CLICKS, PER_ID, LARGE, TOPICS, QUERIES, GROUPS];
    let mut before = Vec::new();
    for table in tables {
        before.push(sql.table(table).await);
    }
    assert!(before.iter().all(|rows| !rows.is_empty()), "{before:?}");
    let outputs = [offsets_given(&node, "per_id"), offsets_given(&node, "large")];
    sql.run("CHECKPOINT").await;

    // What is lost with the directory: records, a transaction's end, a topic, and what the queries made of it.
    click(&writers.ahead, 40..45).await;
    produce(&writers.plain, "late", "k", "late").await;
    step(|| writers.hanging.commit_transaction(PATIENCE));
    continuous_is_batch(&sql).await;
    drop(sql);
    node.kill();
    fs::remove_dir_all(node.data_dir()).expect("removed");
    node.set("AQUIFER_TAKE_OVER", "true");
    node.restart();

    let sql = Sql::connect(&node).await;
    for (table, rows) in tables.iter().zip(&before) {
        assert_eq!(&sql.table(table).await, rows, "{table}");
    }
    continuous_is_batch(&sql).await;
    assert_eq!([offsets_given(&node, "per_id"), offsets_given(&node, "large")], outputs, "nothing is written twice");
    assert_eq!(read_all(&node, "plain").await.len(), 10);
    assert_eq!(committed(&node, "orders").await, ["paid", "behind"]);
    go_on(&node, &sql, writers).await;
    drop(sql);
    assert_eq!(node.terminate().code(), Some(0));
    let dir = node.data_dir().display().to_string();
    let output = command(&["verify", "--data-dir", &dir, "--object-store", &url]).output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
}
