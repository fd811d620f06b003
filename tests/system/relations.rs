//! What Kafka clients write, SQL sees: counts, pseudo-columns, and a push query that shows a record soon after its
//! acknowledgement.

use std::time::{Duration, Instant};

use futures::{StreamExt, pin_mut};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::support::foreign::Foreign;
use crate::support::kafka::{produce, producer};
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::PATIENCE;

const USER_EVENTS: &str = "CREATE STREAM user_events (user_id STRING KEY, event STRING, page STRING) \
                           WITH (kafka_topic = 'user-events', value_format = 'json')";

/// From a record's acknowledgement to its row in a push query, at the median of a busy machine's debug build.
const SHOWN_WITHIN: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn sql_counts_exactly_what_was_produced_and_shows_where_it_lies() {
    let node = Node::start();
    let producer = producer(&node);
    let mut places = Vec::new();
    for number in 0..200 {
        let key = format!("user-{}", number % 10);
        let value = format!(r#"{{"event":"view","page":"/{number}"}}"#);
        let headers = OwnedHeaders::new()
            .insert(Header { key: "trace", value: Some("a") })
            .insert(Header { key: "trace", value: Some(&[0xff_u8, 0x00][..]) })
            .insert::<[u8]>(Header { key: "empty", value: None });
        let record = FutureRecord::to("user-events").key(&key).payload(&value);
        let record = record.timestamp(1_700_000_000_000 + number).headers(headers);
        let delivery = producer.send(record, PATIENCE).await.expect("acknowledged");
        places.push((delivery.partition, delivery.offset, number, key));
    }

    let sql = Sql::connect(&node).await;
    sql.run(USER_EVENTS).await;
    assert_eq!(sql.number("SELECT count(*) FROM user_events").await, 200);
    assert_eq!(sql.number("SELECT count(*) FROM topics.\"user-events\"").await, 200);

    let query = "SELECT _partition, _offset, rowtime, user_id, page, rowpartition, rowoffset FROM user_events \
                 ORDER BY _partition, _offset";
    let mut expected: Vec<_> = places
        .iter()
        .map(|(partition, offset, number, key)| {
            let (partition, offset) = (partition.to_string(), offset.to_string());
            let rowtime = (1_700_000_000_000 + number).to_string();
            vec![partition.clone(), offset.clone(), rowtime, key.clone(), format!("/{number}"), partition, offset]
        })
        .collect();
    expected.sort_by_key(|row| (row[0].parse::<i32>().expect("a number"), row[1].parse::<i64>().expect("a number")));
    assert_eq!(sql.table(query).await, expected);

    let (partition, offset, number, key) = &places[17];
    let row = &sql
        .table(&format!(
            "SELECT _timestamp, _key, _value, _headers::text FROM topics.\"user-events\" \
             WHERE _partition = {partition} AND _offset = {offset}"
        ))
        .await[0];
    assert!(row[0].starts_with("2023-11-14 22:13:20.017"), "{}", row[0]);
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(row[1], format!("\\x{}", hex(key)));
    assert_eq!(row[2], format!("\\x{}", hex(&format!(r#"{{"event":"view","page":"/{number}"}}"#))));
    let headers: serde_json::Value = serde_json::from_str(&row[3]).expect("JSON");
    let expected = serde_json::json!([
        {"key": "trace", "value": "a"}, {"key": "trace", "value": "\\xff00"}, {"key": "empty", "value": null}
    ]);
    assert_eq!(headers, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_query_shows_a_record_within_100_ms_of_its_acknowledgement() {
    let node = Node::start();
    let producer = producer(&node);
    produce(&producer, "user-events", "user-0", r#"{"event":"before","page":"/"}"#).await;
    let sql = Sql::connect(&node).await;
    sql.run(USER_EVENTS).await;

    let watching = Sql::connect(&node).await;
    let rows = watching
        .client
        .simple_query_raw("SELECT page FROM user_events WHERE event = 'now' EMIT CHANGES")
        .await
        .expect("a push query");
    pin_mut!(rows);
    let mut delays = Vec::new();
    // The first records may come before the query watches; it begins now, not at the earliest record.
    let mut number = 0;
    while delays.len() < 20 {
        let page = format!("/{number}");
        produce(&producer, "user-events", "user-1", &format!(r#"{{"event":"now","page":"{page}"}}"#)).await;
        number += 1;
        let acknowledged = Instant::now();
        let patience = if delays.is_empty() { Duration::from_millis(500) } else { PATIENCE };
        while let Ok(message) = tokio::time::timeout(patience, rows.next()).await {
            match message.expect("the query goes on").expect("a message") {
                SimpleQueryMessage::Row(row) if row.get(0) == Some(page.as_str()) => {
                    delays.push(acknowledged.elapsed());
                    break;
                }
                _ => {}
            }
        }
        assert!(number < 200, "the push query shows nothing");
    }
    delays.sort();
    let median = delays[delays.len() / 2];
    assert!(median < SHOWN_WITHIN, "median {median:?}, all {delays:?}");

    watching.client.cancel_token().cancel_query(NoTls).await.expect("a cancel request");
    let end = loop {
        match tokio::time::timeout(PATIENCE, rows.next()).await.expect("an end within patience") {
            Some(Err(error)) => break error,
            Some(Ok(_)) => {}
            None => panic!("a cancelled query ends with an error"),
        }
    };
    assert_eq!(end.code().map(tokio_postgres::error::SqlState::code), Some("57014"));
    assert_eq!(watching.number("SELECT 1").await, 1, "the connection is in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_query_begins_with_history_when_told_so() {
    let node = Node::start();
    let producer = producer(&node);
    produce(&producer, "user-events", "user-0", r#"{"event":"old","page":"/old"}"#).await;
    let sql = Sql::connect(&node).await;
    sql.run(USER_EVENTS).await;
    sql.run("SET auto_offset_reset = 'earliest'").await;
    let copy = sql.client.copy_out("COPY (SELECT page FROM user_events EMIT CHANGES) TO STDOUT").await;
    let lines = copy.expect("a live COPY");
    pin_mut!(lines);
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next()).await.expect("a line within patience");
        String::from_utf8(line.expect("the query goes on").expect("a line").to_vec()).expect("UTF-8")
    };
    assert_eq!(next().await, "/old\n");
    produce(&producer, "user-events", "user-0", r#"{"event":"new","page":"/new"}"#).await;
    assert_eq!(next().await, "/new\n");
}

#[test]
fn psql_describes_what_there_is() {
    let node = Node::start();
    let create = "CREATE STREAM clicks (user_id STRING KEY, page STRING) WITH (kafka_topic='clicks', value_format='json', partitions=2)";
    let Some(ended) = Foreign::psql(&node, &["-c", create]) else { return };
    assert_eq!(ended.expect_success("CREATE STREAM").trim(), "CREATE STREAM");
    let psql = |command: &str| {
        let ended = Foreign::psql(&node, &["-v", "ON_ERROR_STOP=1", "-A", "-t", "-c", command]).expect("installed");
        ended.expect_success(command)
    };
    assert_eq!(psql("INSERT INTO clicks VALUES ('user-1', '/')").trim(), "INSERT 0 1");
    assert_eq!(psql("SELECT user_id, page FROM clicks").trim(), "user-1|/");
    assert!(psql("\\d").contains("clicks"));
    assert!(psql("\\d clicks").contains("page"));
    assert!(psql("\\l").contains("aquifer"));
    assert!(psql("\\dn").contains("public"));
    assert!(psql("SHOW STREAMS").contains("clicks"));
    assert!(psql("SHOW ALL").contains("tier.age_max"));
}
