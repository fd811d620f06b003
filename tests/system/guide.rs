//! The programs of a well-known Kafka guide run unmodified, with kafkajs, with confluent-kafka and with kcat.

use crate::support::foreign::Foreign;
use crate::support::node::Node;
use crate::support::sql::Sql;

const USER_EVENTS: &str = "CREATE STREAM user_events (user_id STRING KEY, event STRING, page STRING, \"timestamp\" STRING) \
                           WITH (kafka_topic = 'user-events', value_format = 'json')";

/// The last line a program prints, as JSON.
fn summary(stdout: &str) -> serde_json::Value {
    let line = stdout.lines().last().expect("a line");
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkajs_produces_and_a_group_consumes_and_sql_counts_the_same() {
    let node = Node::start();
    let Some(ended) = Foreign::Node.run(&["guide-producer.mjs", &node.bootstrap()]) else { return };
    ended.expect_success("guide-producer.mjs");

    let consume = ["guide-consumer.mjs", &node.bootstrap(), "analytics-group", "10001"];
    let consumed = summary(&Foreign::Node.run(&consume).expect("installed").expect_success("guide-consumer.mjs"));
    assert_eq!(consumed["seen"], 10_001);
    assert_eq!(consumed["repeated"], 0);
    assert_eq!(consumed["committed"], 10_001, "what was processed is committed");

    let sql = Sql::connect(&node).await;
    sql.run(USER_EVENTS).await;
    let counted = sql.table("SELECT event, count(*) FROM user_events GROUP BY event ORDER BY event").await;
    assert_eq!(counted, [["click", "10000"], ["page_view", "1"]]);
    let lag = "SELECT sum(lag) FROM aquifer.consumer_lag WHERE group_id = 'analytics-group'";
    assert_eq!(sql.number(lag).await, 0);
    let headers = "SELECT _key, _headers::text FROM topics.\"user-events\" WHERE _key = 'user-123'::bytea";
    let rows = sql.table(headers).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    let headers: serde_json::Value = serde_json::from_str(&rows[0][1]).expect("JSON");
    let expected = serde_json::json!([{"key": "source", "value": "my-app"}, {"key": "version", "value": "1.0"}]);
    assert_eq!(headers, expected);
}

#[test]
fn kafkajs_members_share_partitions_and_one_leaves_without_loss() {
    let node = Node::start();
    let Some(ended) = Foreign::Node.run(&["guide-members.mjs", &node.bootstrap()]) else { return };
    let told = summary(&ended.expect_success("guide-members.mjs"));
    assert_eq!((&told["seen"], &told["repeated"]), (&1_200.into(), &0.into()));
}

#[test]
fn kafkajs_sends_dead_letters_with_retry_headers() {
    let node = Node::start();
    let Some(ended) = Foreign::Node.run(&["guide-dead-letters.mjs", &node.bootstrap()]) else { return };
    let told = summary(&ended.expect_success("guide-dead-letters.mjs"));
    assert_eq!(told["key"], "bad");
    assert_eq!(told["value"], "{not json");
    let headers = &told["headers"];
    assert_eq!(headers["retry-count"], "3");
    assert_eq!(headers["trace"], "abc", "the first headers are kept");
    assert_eq!(headers["original-topic"], "payments");
    assert!(headers["original-offset"].is_string() && headers["original-partition"].is_string());
    assert_eq!(told["processed"], serde_json::json!([{"id": 1}, {"id": 2}]));
}

#[test]
fn kafkajs_passes_the_guides_own_tests() {
    let node = Node::start();
    let Some(ended) = Foreign::Node.run(&["guide-tests.mjs", &node.bootstrap()]) else { return };
    assert!(ended.expect_success("guide-tests.mjs").contains("3 passed"));
}

#[test]
fn confluent_kafka_runs_the_same_programs() {
    let node = Node::start();
    let Some(ended) = Foreign::Python.run(&["guide.py", &node.bootstrap()]) else { return };
    assert!(ended.expect_success("guide.py").contains("5 passed"));
}

#[test]
fn kcat_writes_every_codec_and_reads_the_same_back() {
    let node = Node::start();
    let broker = node.bootstrap();
    if Foreign::Kcat.find().is_none() {
        return;
    }
    let kcat = |arguments: &[&str]| {
        let mut all = vec!["-b", broker.as_str()];
        all.extend(arguments);
        Foreign::Kcat.run(&all).expect("installed").expect_success(&format!("kcat {arguments:?}"))
    };
    let lines: Vec<_> = (0..500).map(|number| format!("key-{}:{{\"n\":{number}}}", number % 7)).collect();
    let file = node.scratch().join("lines.txt");
    std::fs::write(&file, lines.join("\n")).expect("written");
    let file = file.to_str().expect("UTF-8");

    // zstd is confluent-kafka's to test: Debian builds kcat without it.
    for codec in ["none", "gzip", "snappy", "lz4"] {
        let topic = format!("kcat-{codec}");
        kcat(&["-P", "-t", &topic, "-z", codec, "-K", ":", "-H", "source=kcat", "-l", file]);
        let read = kcat(&["-C", "-t", &topic, "-o", "beginning", "-e", "-q", "-f", "%k:%s|%h\\n"]);
        let mut read: Vec<_> = read.lines().map(str::to_owned).collect();
        let mut expected: Vec<_> = lines.iter().map(|line| format!("{line}|source=kcat")).collect();
        read.sort();
        expected.sort();
        assert_eq!(read, expected, "{codec}");
    }

    let listed = kcat(&["-L"]);
    for codec in ["none", "lz4"] {
        assert!(listed.contains(&format!("topic \"kcat-{codec}\" with 3 partitions")), "{listed}");
    }
    let grouped =
        kcat(&["-G", "kcat-group", "-e", "-q", "-f", "%s\\n", "-X", "auto.offset.reset=earliest", "kcat-lz4"]);
    assert_eq!(grouped.lines().count(), 500);
}
