//! Kafka's transactions through the wires: a zombie is fenced, nobody reads what is open or aborted, and neither silence
//! nor a kill nor a deleted topic leaves anything hanging.

use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::admin::AdminOptions;
use rdkafka::producer::{FutureProducer, Producer};

use crate::support::kafka::{admin, produce, producer, read_to_end, reader, step, transactional, try_step};
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::{PATIENCE, until};

/// Values in a topic as a reader of this isolation level sees them.
async fn values(node: &Node, topic: &str, isolation: &str) -> Vec<String> {
    let values = read_to_end(node, topic, isolation)
        .await
        .into_iter()
        .map(|record| String::from_utf8(record.payload().expect("a value").to_vec()).expect("UTF-8"));
    let mut values: Vec<_> = values.collect();
    values.sort();
    values
}

async fn committed(node: &Node, topic: &str) -> Vec<String> {
    values(node, topic, "read_committed").await
}

async fn send(producer: &FutureProducer, topic: &str, values: &[&str]) {
    for value in values {
        produce(producer, topic, value, value).await;
    }
}

fn begin(producer: &FutureProducer) {
    step(|| producer.begin_transaction());
}

fn commit(producer: &FutureProducer) {
    step(|| producer.commit_transaction(PATIENCE));
}

/// Where a transactional id stands.
async fn state(sql: &Sql, id: &str) -> String {
    sql.value(&format!("SELECT state FROM aquifer.transactions WHERE transactional_id = '{id}'")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_what_is_open_or_aborted_and_everybody_what_is_committed() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    let writer = transactional(&node, "writer", &[]);
    let counts = async || {
        let rows = sql.number("SELECT count(*) FROM topics.\"orders\"").await;
        (committed(&node, "orders").await.len(), values(&node, "orders", "read_uncommitted").await.len(), rows)
    };

    begin(&writer);
    send(&writer, "orders", &["a", "b", "c"]).await;
    send(&writer, "payments", &["d"]).await;
    assert_eq!(counts().await, (0, 3, 0), "open");
    let ends = "SELECT sum(high_watermark), sum(last_stable_offset) FROM aquifer.partitions WHERE topic = 'orders'";
    assert_eq!(sql.table(ends).await, [["3", "0"]], "both ends are shown");
    let open = "SELECT state, timeout_ms > 0, started_at IS NOT NULL, array_to_string(partitions, ' ') LIKE '%payments-%' \
                FROM aquifer.transactions WHERE transactional_id = 'writer'";
    assert_eq!(sql.table(open).await, [["Ongoing", "t", "t", "t"]]);
    let producers = "SELECT count(*), count(transaction_start_offset) FROM aquifer.producers WHERE topic = 'payments'";
    assert_eq!(sql.table(producers).await, [["1", "1"]]);
    commit(&writer);
    assert_eq!(counts().await, (3, 3, 3), "committed");
    assert_eq!(committed(&node, "payments").await, ["d"]);
    assert_eq!(state(&sql, "writer").await, "CompleteCommit");

    begin(&writer);
    send(&writer, "orders", &["x", "y"]).await;
    step(|| writer.abort_transaction(PATIENCE));
    assert_eq!(counts().await, (3, 5, 3), "aborted");
    assert_eq!(state(&sql, "writer").await, "CompleteAbort");
    sql.run("CHECKPOINT").await;
    assert_eq!(committed(&node, "orders").await, ["a", "b", "c"], "tiered");
    assert_eq!(counts().await.2, 3, "tiered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_waits_is_woken_by_the_commit() {
    let node = Node::start();
    let writer = transactional(&node, "writer", &[]);
    begin(&writer);
    produce(&writer, "news", "k", "first").await;
    commit(&writer);
    let wait = [("isolation.level", "read_committed"), ("fetch.wait.max.ms", "25000"), ("socket.timeout.ms", "40000")];
    let (reader, _) = reader(&node, "news", &wait);
    assert_eq!(reader.recv().await.expect("a record").payload(), Some(&b"first"[..]));
    begin(&writer);
    produce(&writer, "news", "k", "second").await;
    let started = Instant::now();
    commit(&writer);
    assert_eq!(reader.recv().await.expect("a record").payload(), Some(&b"second"[..]));
    assert!(started.elapsed() < Duration::from_secs(10), "the long poll of 25 s was not waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_is_fenced_and_its_transaction_aborted() {
    let node = Node::start();
    let zombie = transactional(&node, "writer", &[]);
    begin(&zombie);
    send(&zombie, "orders", &["zombie"]).await;
    let heir = transactional(&node, "writer", &[]);
    let refused = try_step(|| zombie.commit_transaction(PATIENCE)).expect_err("fenced");
    assert!(zombie.client().fatal_error().is_some(), "{refused}");
    begin(&heir);
    send(&heir, "orders", &["heir"]).await;
    commit(&heir);
    assert_eq!(committed(&node, "orders").await, ["heir"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_transaction_is_aborted_at_its_timeout_and_readers_go_on() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    let silent = transactional(&node, "silent", &[("transaction.timeout.ms", "1000"), ("message.timeout.ms", "1000")]);
    begin(&silent);
    send(&silent, "orders", &["silent"]).await;
    send(&producer(&node), "orders", &["behind"]).await;
    until("the timeout", async || state(&sql, "silent").await, |state| state == "CompleteAbort").await;
    assert_eq!(committed(&node, "orders").await, ["behind"]);
    try_step(|| silent.commit_transaction(PATIENCE)).expect_err("it is over");
    assert_eq!(committed(&node, "orders").await, ["behind"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_counts_over_a_restart_of_the_node() {
    let mut node = Node::start();
    let silent = transactional(&node, "silent", &[("transaction.timeout.ms", "1500"), ("message.timeout.ms", "1500")]);
    begin(&silent);
    send(&silent, "orders", &["silent"]).await;
    tokio::task::block_in_place(|| node.restart());
    let sql = Sql::connect(&node).await;
    until("the timeout", async || state(&sql, "silent").await, |state| state == "CompleteAbort").await;
    assert_eq!(committed(&node, "orders").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_goes_on_after_a_kill_of_the_node() {
    let mut node = Node::start();
    let writer = transactional(&node, "writer", &[]);
    begin(&writer);
    send(&writer, "orders", &["a", "b"]).await;
    tokio::task::block_in_place(|| node.restart());
    assert_eq!(committed(&node, "orders").await, [""; 0], "still open");
    send(&writer, "orders", &["c"]).await;
    commit(&writer);
    assert_eq!(committed(&node, "orders").await, ["a", "b", "c"]);
    tokio::task::block_in_place(|| node.restart());
    begin(&writer);
    send(&writer, "orders", &["d"]).await;
    step(|| writer.abort_transaction(PATIENCE));
    tokio::task::block_in_place(|| node.restart());
    assert_eq!(committed(&node, "orders").await, ["a", "b", "c"], "what was aborted stays so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_under_an_open_transaction_does_not_hold_the_rest_back() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    let writer = transactional(&node, "writer", &[]);
    begin(&writer);
    send(&writer, "doomed", &["lost"]).await;
    send(&writer, "orders", &["kept"]).await;
    for result in admin(&node).delete_topics(&["doomed"], &AdminOptions::new()).await.expect("an answer") {
        result.expect("deleted");
    }
    commit(&writer);
    assert_eq!(committed(&node, "orders").await, ["kept"]);
    assert_eq!(state(&sql, "writer").await, "CompleteCommit");
    send(&producer(&node), "doomed", &["new"]).await;
    assert_eq!(committed(&node, "doomed").await, ["new"], "a topic made anew inherits nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_a_hanging_transaction_by_name() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    let hanging = transactional(&node, "hanging", &[]);
    begin(&hanging);
    send(&hanging, "orders", &["hanging"]).await;
    sql.run("CALL aquifer.abort_transaction('hanging')").await;
    assert_eq!(state(&sql, "hanging").await, "CompleteAbort");
    try_step(|| hanging.commit_transaction(PATIENCE)).expect_err("fenced");
    assert_eq!(committed(&node, "orders").await, [""; 0]);

    let over = sql.refused("CALL aquifer.abort_transaction('hanging')").await;
    assert_eq!(over.state.code(), "55000", "{over:?}");
    let unknown = sql.refused("CALL aquifer.abort_transaction('nobody')").await;
    assert_eq!(unknown.state.code(), "42704", "{unknown:?}");
    assert!(unknown.message.contains("nobody") && unknown.hint.is_some_and(|hint| hint.contains("transactions")));
    let other = sql.refused("CALL pg_catalog.nothing()").await;
    assert_eq!(other.state.code(), "0A000", "{other:?}");
    assert!(
        other.message.contains("pg_catalog.nothing")
            && other.hint.is_some_and(|hint| hint.contains("abort_transaction"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continuous_query_counts_what_is_committed_and_nothing_else() {
    let mut node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run(
        "CREATE STREAM orders (item STRING KEY) WITH (kafka_topic = 'orders', value_format = 'json', partitions = 1);
         CREATE TABLE sold AS SELECT item, count(*) AS n FROM orders GROUP BY item EMIT CHANGES",
    )
    .await;
    let send = async |producer: &FutureProducer, item: &str| {
        produce(producer, "orders", item, "{}").await;
    };
    let sold = async |sql: &Sql, expected: &str| {
        let counts = "SELECT string_agg(item || n, ' ' ORDER BY item) FROM sold";
        until("the counts", async || sql.value(counts).await, |found| found == expected).await;
    };
    let (plain, writer) = (producer(&node), transactional(&node, "writer", &[]));
    begin(&writer);
    send(&writer, "a").await;
    commit(&writer);
    sold(&sql, "a1").await;
    begin(&writer);
    send(&writer, "a").await;
    send(&writer, "x").await;
    send(&plain, "b").await;
    step(|| writer.abort_transaction(PATIENCE));
    sold(&sql, "a1 b1").await;
    begin(&writer);
    send(&writer, "a").await;
    tokio::task::block_in_place(|| node.restart());
    send(&writer, "c").await;
    send(&plain, "b").await;
    commit(&writer);
    let sql = Sql::connect(&node).await;
    sold(&sql, "a2 b2 c1").await;
    let batch = "SELECT item, count(*) FROM orders GROUP BY item ORDER BY item";
    assert_eq!(sql.table("SELECT item, n FROM sold ORDER BY item").await, sql.table(batch).await);
}
