//! The guide's analytics case in SQL: events per user in five-minute windows as a continuous table, and a table of
//! alerts whose topic a Kafka consumer reads.

use std::collections::BTreeMap;

use rdkafka::Message;
use rdkafka::message::OwnedMessage;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::Value;

use crate::support::kafka::{producer, read_all};
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::{PATIENCE, until};

/// A multiple of five minutes.
const WINDOW_MS: i64 = 300_000;
const FIRST_WINDOW_MS: i64 = 5_666_666 * WINDOW_MS;

async fn write(producer: &FutureProducer, user: &str, at_ms: i64) {
    let value = r#"{"event":"click"}"#;
    let record = FutureRecord::to("user-events").key(user).payload(value).timestamp(at_ms);
    producer.send(record, PATIENCE).await.expect("acknowledged");
}

fn json(bytes: Option<&[u8]>) -> Value {
    serde_json::from_slice(bytes.expect("not null")).expect("JSON")
}

/// The newest value per key, as a compacted topic means it.
fn latest(records: &[OwnedMessage]) -> BTreeMap<String, Value> {
    let newest = records.iter().map(|record| (json(record.key()).to_string(), json(record.payload())));
    newest.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_minute_windows_and_alerts_follow_what_is_written() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run(
        "CREATE STREAM user_events (user_id STRING KEY, event STRING) \
         WITH (kafka_topic = 'user-events', value_format = 'json', partitions = 3);
         CREATE TABLE events_per_user AS SELECT user_id, count(*) AS events FROM user_events \
         WINDOW TUMBLING (SIZE 5 MINUTES) GROUP BY user_id EMIT CHANGES;
         CREATE TABLE anomaly_alerts AS SELECT user_id, count(*) AS events FROM user_events \
         WINDOW TUMBLING (SIZE 5 MINUTES) GROUP BY user_id HAVING count(*) >= 10 EMIT CHANGES",
    )
    .await;
    let producer = producer(&node);
    for second in 0..12 {
        write(&producer, "busy", FIRST_WINDOW_MS + second * 1_000).await;
    }
    for second in 0..3 {
        write(&producer, "calm", FIRST_WINDOW_MS + second * 1_000).await;
        write(&producer, "busy", FIRST_WINDOW_MS + WINDOW_MS + second).await;
    }
    // Out of order, but within the grace of a day.
    write(&producer, "calm", FIRST_WINDOW_MS + 1).await;

    let (first, second, third) = (FIRST_WINDOW_MS, FIRST_WINDOW_MS + WINDOW_MS, FIRST_WINDOW_MS + 2 * WINDOW_MS);
    let row = |user: &str, start: i64, end: i64, events: i64| {
        vec![user.to_owned(), start.to_string(), end.to_string(), events.to_string()]
    };
    let expected = [row("busy", first, second, 12), row("busy", second, third, 3), row("calm", first, second, 4)];
    let query = "SELECT user_id, windowstart, windowend, events FROM events_per_user ORDER BY user_id, windowstart";
    let answer = until("the windows", || sql.table(query), |rows| rows == &expected).await;
    assert_eq!(answer, expected);

    let batch = format!(
        "SELECT user_id, rowtime / {WINDOW_MS} * {WINDOW_MS} AS s, (rowtime / {WINDOW_MS} + 1) * {WINDOW_MS}, count(*) \
         FROM user_events GROUP BY 1, 2, 3 ORDER BY user_id, s"
    );
    assert_eq!(sql.table(&batch).await, expected, "continuous equals batch");

    let alerts = "SELECT user_id, windowstart, events FROM anomaly_alerts";
    let alert = until("the alert", || sql.table(alerts), |rows| rows.iter().any(|row| row[2] == "12")).await;
    assert_eq!(alert, [["busy".to_owned(), first.to_string(), "12".to_owned()]]);

    let seen = latest(&read_all(&node, "anomaly_alerts").await);
    assert_eq!(seen.len(), 1, "one alert: {seen:?}");
    let (key, value) = seen.first_key_value().expect("one");
    let key: Value = serde_json::from_str(key).expect("JSON");
    assert_eq!(key, serde_json::json!({"user_id": "busy", "windowstart": first, "windowend": second}));
    assert_eq!(value["events"], 12);
}
