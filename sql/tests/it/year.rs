//! A whole year in its shape: an hour of each of 365 days, and what a query over one of them reads of it.

use super::columns::{bytes_read, counted, text};
use super::node::{Cell, Node, Record};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// 2023-01-01, ms.
const YEAR_MS: i64 = 1_672_531_200_000;
const DAYS: i64 = 365;
/// Events of an hour.
const EVENTS: i64 = 60;
/// Days that are asked for: both ends, and some between.
const ASKED: [i64; 4] = [0, 101, 250, 364];

const STREAM: &str = "CREATE STREAM events (id STRING KEY, page STRING, seen TIMESTAMP, n BIGINT) \
     WITH (kafka_topic = 'events', value_format = 'json', partitions = 1, timestamp = 'seen')";

/// Noon of a day, in ms.
fn noon_ms(day: i64) -> i64 {
    YEAR_MS + day * DAY_MS + 12 * HOUR_MS
}

async fn year(dir: &std::path::Path) -> Node {
    let mut node = Node::open_with(dir, |settings| {
        settings.housekeeping_interval_ms = 0;
        settings.topic_local_retention_ms = 0;
        settings.topic_retention_ms = -1;
    })
    .await;
    node.run(STREAM).await;
    for day in 0..DAYS {
        let event = |event: i64| {
            let (at_ms, n) = (noon_ms(day) + event * 60_000, day * EVENTS + event);
            // Of no shape, so that an hour's bytes are its own.
            let page = format!("{:016x}", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let value = format!("{{\"page\": \"/{page}\", \"seen\": {at_ms}, \"n\": {n}}}");
            let key = Some(format!("user-{n}"));
            Record { timestamp_ms: at_ms, key, value: Some(value), headers: Vec::new() }
        };
        let events: Vec<Record> = (0..EVENTS).map(event).collect();
        node.append("events", 0, &events).await;
        node.storage.checkpoint().await.unwrap();
    }
    node
}

/// An hour's events, by each way to say which.
fn filters(day: i64) -> [String; 4] {
    let (from_ms, first) = (noon_ms(day), day * EVENTS);
    let to_ms = from_ms + HOUR_MS;
    let at = |ms: i64| format!("to_timestamp({}.0)", ms / 1000);
    [
        format!("_timestamp >= {} AND _timestamp < {}", at(from_ms), at(to_ms)),
        format!("rowtime >= {from_ms} AND rowtime < {to_ms}"),
        format!("n BETWEEN {first} AND {}", first + EVENTS - 1),
        format!("_offset >= {first} AND _offset < {}", first + EVENTS),
    ]
}

#[tokio::test]
async fn an_hour_of_365_days_reads_no_more_than_twice_its_bytes_and_a_key_a_few_row_groups() {
    let home = tempfile::tempdir().unwrap();
    let mut node = year(home.path()).await;
    let objects = node.storage.objects().await.unwrap();
    assert_eq!(objects.len(), DAYS as usize, "a day is an object");
    // Footers have the statistics of declared columns; they are read once.
    node.run("SELECT count(*) FROM events WHERE n < 0").await;
    for day in ASKED {
        let first = day * EVENTS;
        let hour = objects.iter().find(|object| object.first_offset == first).unwrap().bytes;
        let sum: i64 = (first..first + EVENTS).sum();
        let expected = vec![vec![text(&EVENTS.to_string()), text(&sum.to_string())]];
        for filter in filters(day) {
            let sql = format!("SELECT count(*), sum(n) FROM events WHERE {filter}");
            let read = bytes_read(&mut node, &sql).await;
            assert!(read <= 2 * hour, "{filter}: {read} bytes for an hour of {hour}");
            assert_eq!(node.run(&sql).await, expected, "{filter}");
            assert_eq!(counted(&mut node, &sql, "row_groups_read").await, 1, "{filter}");
        }
        let by_key = format!("SELECT n FROM events WHERE id = 'user-{first}'");
        assert_eq!(node.run(&by_key).await, vec![vec![Cell::Text(first.to_string())]]);
        let read = counted(&mut node, &by_key, "row_groups_read").await;
        assert!((1..=4).contains(&read), "{read} row groups for a key");
    }
    node.close().await;
}
