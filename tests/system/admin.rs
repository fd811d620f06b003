//! What operators do with the admin clients of others: topics are told things, grow, and lose records.

use crate::support::foreign::Foreign;
use crate::support::node::Node;
use crate::support::sql::Sql;

fn told(stdout: &str) -> serde_json::Value {
    let line = stdout.lines().last().expect("a line");
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn confluent_kafka_administers_a_topic_and_sql_shows_it() {
    let node = Node::start();
    let Some(ended) = Foreign::Python.run(&["admin.py", &node.bootstrap()]) else { return };
    let told = told(&ended.expect_success("admin.py"));
    let expected = serde_json::json!({
        "retention": "86400000",
        "retention_source": "DYNAMIC_TOPIC_CONFIG",
        "default_source": "DEFAULT_CONFIG",
        "unknown_config": "INVALID_CONFIG",
        "after_steps": ["100000", "compact,delete", "86400000"],
        "after_alter": ["8388608", "delete", "5000000"],
        "bad_value": "INVALID_CONFIG",
        "broker_partitions": "3",
        "partitions": 4,
        "fewer": "INVALID_PARTITIONS",
        "low_watermark": 40,
        "beyond": "OFFSET_OUT_OF_RANGE",
        "watermarks": [40, 100],
        "first_seen": 40,
    });
    assert_eq!(told, expected);
    let sql = Sql::connect(&node).await;
    let shown = sql.table("SELECT partitions, retention_ms, config FROM aquifer.topics WHERE name = 'admin-py'").await;
    assert_eq!(shown, [["4", "5000000", "retention.ms=5000000"]]);
    assert_eq!(sql.number("SELECT count(*) FROM topics.\"admin-py\"").await, 60);
    let (_, metrics) = crate::process::get(node.ports.http, "/metrics");
    for api in ["Produce", "CreatePartitions", "DeleteRecords"] {
        assert!(metrics.contains(&format!("aquifer_kafka_requests_total{{api=\"{api}\"}}")), "{api} in {metrics}");
    }
}

#[test]
fn kafkajs_administers_a_topic() {
    let node = Node::start();
    let Some(ended) = Foreign::Node.run(&["admin.mjs", &node.bootstrap()]) else { return };
    let told = told(&ended.expect_success("admin.mjs"));
    assert_eq!(told["retention"], "86400000");
    assert_eq!(told["synonyms"], serde_json::json!(["retention.ms", "log.retention.ms"]));
    assert_eq!(told["known"], 32);
    assert_eq!(told["altered"], serde_json::json!(["100000", "-1"]), "what is not named goes back to the default");
    assert_eq!(told["badValue"], "INVALID_CONFIG");
    assert_eq!((&told["partitions"], &told["fewer"]), (&3.into(), &"INVALID_PARTITIONS".into()));
    assert_eq!(told["offsets"], serde_json::json!(["40", "100"]));
    assert_eq!(told["emptied"], "100");
}
