//! What an operator is shown: metrics and system tables agree with what was done, to the record and the byte.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::message::Message;
use rdkafka::producer::{FutureRecord, Producer};

use crate::support::kafka::{produce, producer, producer_with, read_to_end, step, transactional};
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::{PATIENCE, until};

/// Every sample of `GET /metrics`, by name and labels as they stand there.
fn metrics(node: &Node) -> BTreeMap<String, f64> {
    let (status, text) = tokio::task::block_in_place(|| crate::process::get(node.ports.http, "/metrics"));
    assert_eq!(status, 200);
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

/// A sample that is a whole number; 0 if it is not there yet.
fn whole(samples: &BTreeMap<String, f64>, name: &str) -> i64 {
    let value = samples.get(name).copied().unwrap_or(0.0);
    assert!(value.fract() == 0.0, "{name} is {value}");
    format!("{value:.0}").parse().expect("a whole number")
}

fn of_topic(samples: &BTreeMap<String, f64>, what: &str, topic: &str) -> i64 {
    whole(samples, &format!("aquifer_topic_{what}_total{{topic=\"{topic}\"}}"))
}

/// One record in a batch of its own, without a producer's number in it.
const PLAIN: [(&str, &str); 3] = [("enable.idempotence", "false"), ("batch.num.messages", "1"), ("linger.ms", "0")];

#[tokio::test(flavor = "multi_thread")]
async fn records_and_bytes_are_counted_by_topic_in_and_out() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM orders (k STRING KEY, v STRING) WITH (kafka_topic = 'orders', value_format = 'json', partitions = 2)")
        .await;
    let plain = producer_with(&node, &PLAIN);
    for number in 0..10 {
        let record = FutureRecord::to("orders").key("k").payload("{\"v\": \"12345\"}");
        plain.send(record, PATIENCE).await.unwrap_or_else(|error| panic!("record {number}: {error:?}"));
    }
    // 61 bytes of batch header, then the record: its length, attributes, two deltas, key, value and headers' count.
    let bytes_of_one = 61 + 1 + 1 + 1 + 1 + (1 + 1) + (1 + 14) + 1;
    let samples = metrics(&node);
    assert_eq!(of_topic(&samples, "in_records", "orders"), 10);
    assert_eq!(of_topic(&samples, "in_bytes", "orders"), 10 * bytes_of_one);
    assert_eq!(of_topic(&samples, "out_records", "orders"), 0);

    // What SQL writes comes in too, and what it reads is rows.
    sql.run("INSERT INTO orders VALUES ('a', 'x'), ('b', 'y')").await;
    assert_eq!(of_topic(&metrics(&node), "in_records", "orders"), 12);

    // An aborted transaction's records were taken in; its marker is no record.
    let writer = transactional(&node, "writer", &[]);
    step(|| writer.begin_transaction());
    for key in ["a", "b", "c"] {
        produce(&writer, "orders", key, "{}").await;
    }
    step(|| writer.abort_transaction(PATIENCE));
    step(|| writer.begin_transaction());
    produce(&writer, "orders", "a", "{}").await;
    assert_eq!(whole(&metrics(&node), "aquifer_transactions_open"), 1);
    step(|| writer.commit_transaction(PATIENCE));
    let samples = metrics(&node);
    assert_eq!(of_topic(&samples, "in_records", "orders"), 16);
    assert_eq!(whole(&samples, "aquifer_transactions_open"), 0);
    assert_eq!(whole(&samples, "aquifer_transactions_committed_total"), 1);
    assert_eq!(whole(&samples, "aquifer_transactions_aborted_total"), 1);
    assert_eq!(whole(&samples, "aquifer_transactional_ids"), 1);

    // Who reads everything is sent everything once.
    assert_eq!(read_to_end(&node, "orders", "read_uncommitted").await.len(), 16);
    let samples = metrics(&node);
    assert_eq!(of_topic(&samples, "out_records", "orders"), 16);
    let stored = "SELECT bytes_in, bytes_out, records_in, records_out FROM aquifer.traffic WHERE topic = 'orders'";
    let row = &sql.table(stored).await[0];
    let (bytes_in, bytes_out) = (of_topic(&samples, "in_bytes", "orders"), of_topic(&samples, "out_bytes", "orders"));
    assert_eq!(row[..], [bytes_in.to_string(), bytes_out.to_string(), "16".to_owned(), "16".to_owned()]);
    // What was sent beside the records are the markers of two transactions.
    let markers = bytes_out - bytes_in;
    assert!(markers > 0 && markers % 78 == 0 && markers <= 4 * 78, "{markers} bytes of markers");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hot_and_cold_is_told_by_topic_and_partition() {
    let settings = [("AQUIFER_TIER_AGE_MAX", "1 h"), ("AQUIFER_HOUSEKEEPING_INTERVAL", "1 h")];
    let node = Node::start_with(&settings);
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM orders (k STRING KEY, v STRING) WITH (kafka_topic = 'orders', value_format = 'json', partitions = 2)")
        .await;
    let producer = producer(&node);
    for round in 0..3 {
        for number in 0..20 {
            produce(&producer, "orders", &format!("key-{number}"), "{\"v\": \"some\"}").await;
        }
        let samples = metrics(&node);
        assert!(whole(&samples, "aquifer_tier_lag_bytes") > 0 && samples["aquifer_tier_lag_seconds"] > 0.0);
        sql.run("CHECKPOINT").await;
        let samples = metrics(&node);
        assert_eq!(whole(&samples, "aquifer_tier_lag_bytes"), 0);
        assert!(samples["aquifer_tier_lag_seconds"].abs() < f64::EPSILON);
        assert_eq!(whole(&samples, "aquifer_cold_objects"), round + 1);
        assert_eq!(whole(&samples, "aquifer_cold_rows"), 20 * (round + 1));
        assert_eq!(whole(&samples, "aquifer_tier_rows_total"), 20 * (round + 1));
    }
    sql.run("VACUUM orders").await;
    let samples = metrics(&node);
    assert_eq!(whole(&samples, "aquifer_cold_objects"), 1);
    assert_eq!(whole(&samples, "aquifer_housekeeping_objects_merged_total"), 3);
    assert_eq!(whole(&samples, "aquifer_tier_objects_total"), 3);
    assert_eq!(whole(&samples, "aquifer_cold_rows"), 60);
    let bytes = sql.number("SELECT max(bytes) FROM aquifer.objects WHERE topic = 'orders'").await;
    assert_eq!(whole(&samples, "aquifer_cold_bytes"), bytes);

    let topic = "SELECT cold_bytes, cold_rows, cold_objects, hot_bytes > 0, history_start < now() FROM aquifer.topics WHERE name = 'orders'";
    assert_eq!(sql.table(topic).await[0][..], [bytes.to_string().as_str(), "60", "1", "t", "t"]);
    let partitions =
        "SELECT sum(cold_bytes), sum(cold_rows), sum(high_watermark), sum(tiered_end_offset), sum(lost_offsets)
                      FROM aquifer.partitions WHERE topic = 'orders'";
    assert_eq!(sql.table(partitions).await[0][..], [bytes.to_string().as_str(), "60", "60", "60", "0"]);
    let hot = "SELECT sum(hot_bytes) = (SELECT hot_bytes FROM aquifer.topics WHERE name = 'orders')
               FROM aquifer.partitions WHERE topic = 'orders'";
    assert_eq!(sql.value(hot).await, "t");
    assert_eq!(sql.number("SELECT count(*) FROM aquifer.lost").await, 0);
    let segments = "SELECT count(*), sum(bytes) FROM aquifer.segments";
    let row = &sql.table(segments).await[0];
    let samples = metrics(&node);
    assert_eq!(row[0], whole(&samples, "aquifer_log_segments").to_string());
    // After a silence an empty frame comes behind the last commit.
    let (before, after) =
        (row[1].parse().expect("a number"), sql.table(segments).await[0][1].parse().expect("a number"));
    assert!((before..=after).contains(&whole(&samples, "aquifer_log_bytes")), "{before} to {after}");
    let caches = sql.table("SELECT name, hits, misses, bytes <= bytes_max FROM aquifer.caches ORDER BY name").await;
    let names: Vec<_> = caches.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(names, ["hot_rows", "log_footers", "manifest_chunks", "object_footers", "row_groups"]);
    assert!(caches.iter().all(|row| row[3] == "t"), "{caches:?}");
    for row in &caches {
        let hits = whole(&metrics(&node), &format!("aquifer_cache_hits_total{{cache=\"{}\"}}", row[0]));
        assert!(hits >= row[1].parse().expect("a number"), "{row:?} and {hits}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_syncs_requests_and_statements_are_measured() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    let before = metrics(&node);
    let plain = producer_with(&node, &PLAIN);
    for _ in 0..5 {
        produce(&plain, "orders", "k", "v").await;
    }
    let samples = metrics(&node);
    let grown = |name: &str| whole(&samples, name) - whole(&before, name);
    assert_eq!(grown("aquifer_kafka_requests_total{api=\"Produce\"}"), 5);
    assert_eq!(grown("aquifer_kafka_request_seconds_count{api=\"Produce\"}"), 5);
    assert!(grown("aquifer_log_commit_seconds_count") >= 5, "each produce is a commit");
    assert_eq!(grown("aquifer_log_commit_seconds_count"), grown("aquifer_log_commit_bytes_count"));
    assert_eq!(grown("aquifer_log_commit_bytes_sum"), of_topic(&samples, "in_bytes", "orders"));
    assert!(grown("aquifer_log_sync_seconds_count") >= 5 && samples["aquifer_log_sync_seconds_sum"] > 0.0);
    assert_eq!(whole(&samples, "aquifer_log_queue_commits"), 0);
    assert!(whole(&samples, "aquifer_kafka_connections") >= 1);

    let before = metrics(&node);
    sql.run("SELECT * FROM (VALUES (1), (2), (3)) AS t (n); SELECT 1").await;
    sql.refused("SELECT * FROM nothing").await;
    let samples = metrics(&node);
    let grown = |name: &str| whole(&samples, name) - whole(&before, name);
    assert_eq!(grown("aquifer_postgres_statements_total{kind=\"SELECT\"}"), 2);
    assert_eq!(grown("aquifer_postgres_rows_total"), 4);
    assert_eq!(grown("aquifer_postgres_errors_total{class=\"42\"}"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_transaction_is_ended_by_a_parameter_and_one_that_timed_out_is_counted() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    let hanging = transactional(&node, "hanging", &[]);
    step(|| hanging.begin_transaction());
    produce(&hanging, "orders", "k", "v").await;
    sql.client.execute("CALL aquifer.abort_transaction($1)", &[&"hanging"]).await.expect("aborted");
    let state = "SELECT state FROM aquifer.transactions WHERE transactional_id = 'hanging' AND NOT internal";
    assert_eq!(sql.value(state).await, "CompleteAbort");
    let none: Option<&str> = None;
    let refused = sql.client.execute("CALL aquifer.abort_transaction($1)", &[&none]).await.expect_err("NULL");
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("22023"), "{refused}");
    assert_eq!(whole(&metrics(&node), "aquifer_transactions_timed_out_total"), 0);

    let late = transactional(&node, "late", &[("transaction.timeout.ms", "1000"), ("message.timeout.ms", "1000")]);
    step(|| late.begin_transaction());
    produce(&late, "orders", "k", "v").await;
    let count = "the abort of the late one";
    until(count, async || whole(&metrics(&node), "aquifer_transactions_timed_out_total"), |n| *n == 1).await;
    assert_eq!(whole(&metrics(&node), "aquifer_transactions_aborted_total"), 2);
    let producers = "SELECT count(*), count(DISTINCT producer_id) FROM aquifer.producers WHERE topic = 'orders'";
    assert_eq!(sql.table(producers).await[0][..], ["2", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_logs_own_transactions_are_marked() {
    let node = Node::start_with(&[("AQUIFER_WAL_COMMIT_BYTES_MAX", "64 KiB")]);
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM wide (k STRING KEY, v STRING) WITH (kafka_topic = 'wide', value_format = 'json', partitions = 1)")
        .await;
    // Larger than a commit.
    sql.run("INSERT INTO wide SELECT 'k' || n, repeat('x', 1000) FROM generate_series(1, 300) AS t (n)").await;
    let internal = "SELECT count(*) FROM aquifer.transactions WHERE NOT internal";
    assert_eq!(sql.number(internal).await, 0, "no client has a transaction");
    let samples = metrics(&node);
    assert_eq!(of_topic(&samples, "in_records", "wide"), 300);
    assert_eq!(whole(&samples, "aquifer_transactions_committed_total"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_shown_has_its_help() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    produce(&producer(&node), "orders", "k", "v").await;
    assert_eq!(read_to_end(&node, "orders", "read_committed").await[0].payload(), Some(&b"v"[..]));
    sql.run("CHECKPOINT").await;
    let (_, text) = tokio::task::block_in_place(|| crate::process::get(node.ports.http, "/metrics"));
    let helped: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '))
        .filter(|(_, help)| !help.is_empty())
        .map(|(name, _)| name)
        .collect();
    let typed = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let without: Vec<_> = typed.clone().filter(|(name, _)| !helped.contains(name)).collect();
    assert!(without.is_empty(), "{without:?}");
    assert!(typed.clone().all(|(_, kind)| kind != "summary"), "every histogram has buckets");
    assert!(typed.count() > 30);
}

/// Names of metrics in the code: whatever is quoted and begins as they do.
fn names_in(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let quoted = code.flat_map(|line| line.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    let is_name = |word: &String| {
        word.starts_with("aquifer_") && word.chars().all(|c| c.is_ascii_lowercase() || c == '_') && word.len() > 8
    };
    quoted.filter(is_name).collect()
}

#[test]
fn every_metric_emitted_is_in_the_table_and_every_one_in_the_table_is_emitted() {
    const TABLE: &str = "server/src/http/metrics.rs";
    let sources = crate::tidy::sources(&["storage/src/", "sql/src/", "server/src/", "src/"]);
    let (_, table) = sources.iter().find(|(path, _)| path == TABLE).expect("the table");
    let (listed, sampled) = table.split_once("\n];\n").expect("the table's end");
    let listed = names_in(listed);
    let others = sources.iter().filter(|(path, _)| path != TABLE).map(|(_, text)| names_in(text));
    let emitted: BTreeSet<String> = others.chain([names_in(sampled)]).flatten().collect();
    let emitted: BTreeSet<String> =
        emitted.into_iter().filter(|name| !["aquifer_storage", "aquifer_sql"].contains(&name.as_str())).collect();
    assert_eq!(emitted.difference(&listed).collect::<Vec<_>>(), Vec::<&String>::new(), "not in the table");
    assert_eq!(listed.difference(&emitted).collect::<Vec<_>>(), Vec::<&String>::new(), "emitted by nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_questions_are_answered() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    produce(&producer(&node), "visits", "k", "v").await;
    sql.run("CHECKPOINT").await;
    let (_, section) = include_str!("../../README.md").split_once("## Seeing what it does\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("its end");
    let rows = section.lines().filter(|line| line.starts_with("| ") && line.contains("SELECT ") && line.contains('`'));
    let mut asked = 0;
    for row in rows {
        let statement = row.split('`').nth(1).expect("a statement in backticks");
        let answer = sql.table(statement).await;
        let somewhere = [
            "traffic",
            "topics",
            "partitions",
            "segments",
            "objects",
            "object_store",
            "caches",
            "limits",
            "sessions",
            "settings",
        ];
        let expected = somewhere.iter().any(|table| statement.contains(&format!("aquifer.{table}")));
        assert_eq!(!answer.is_empty(), expected, "{statement}: {answer:?}");
        asked += 1;
    }
    assert_eq!(asked, 16);
}
