//! From hot to cold: after CHECKPOINT the Parquet files open in other programs, SELECT reads across the seam with each
//! offset once, and a Kafka consumer gets the same bytes as before.

use rdkafka::Message;
use rdkafka::message::{Header, Headers, OwnedHeaders, OwnedMessage};
use rdkafka::producer::FutureRecord;

use crate::support::foreign::Foreign;
use crate::support::kafka::{producer_with, read_from_start};
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::{PATIENCE, until};

/// Small segments and no local retention: what is tiered leaves the log as soon as its segment is sealed.
const FORGETFUL: [(&str, &str); 4] = [
    ("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "0"),
    ("AQUIFER_WAL_SEGMENT_BYTES", "1 MiB"),
    ("AQUIFER_WAL_COMMIT_BYTES_MAX", "256 KiB"),
    ("AQUIFER_TIER_AGE_MAX", "1 h"),
];

const EVENTS: &str = "CREATE STREAM events (k STRING KEY, n INT, t STRING) \
                      WITH (kafka_topic = 'events', value_format = 'json', partitions = 3)";

/// Everything a consumer gets of a record.
type Seen = (i32, i64, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn seen(record: &OwnedMessage) -> Seen {
    let headers = record.headers().map(|headers| {
        let header = |header: Header<'_, &[u8]>| (header.key.to_owned(), header.value.map(<[u8]>::to_vec));
        headers.iter().map(header).collect()
    });
    let bytes = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let timestamp_ms = record.timestamp().to_millis();
    let place = (record.partition(), record.offset());
    (place.0, place.1, timestamp_ms, bytes(record.key()), bytes(record.payload()), headers.unwrap_or_default())
}

async fn read(node: &Node, count: usize) -> Vec<Seen> {
    read_from_start(node, "events", count).await.iter().map(seen).collect()
}

/// Records of every shape: null keys, null values, headers twice and null, several codecs, values of some size.
async fn write(node: &Node, from: usize, count: usize) {
    for (codec, step) in [("none", 0), ("lz4", 1), ("gzip", 2)] {
        let producer = producer_with(node, &[("compression.type", codec), ("linger.ms", "5")]);
        let numbers = (from..from + count).filter(|number| number % 3 == step);
        let sends = numbers.map(|number| {
            let producer = producer.clone();
            async move {
                let key = format!("key-{}", number % 11);
                let value = format!(r#"{{"n":{number},"t":"{}"}}"#, "x".repeat(200));
                let headers = OwnedHeaders::new()
                    .insert(Header { key: "h", value: Some("1") })
                    .insert(Header { key: "h", value: Some(&[0xff_u8][..]) })
                    .insert::<[u8]>(Header { key: "n", value: None });
                let mut record = FutureRecord::to("events").timestamp(1_700_000_000_000 + number as i64);
                if number % 5 != 0 {
                    record = record.key(&key);
                }
                if number % 7 != 0 {
                    record = record.payload(&value);
                }
                if number % 2 == 0 {
                    record = record.headers(headers);
                }
                producer.send(record, PATIENCE).await.expect("acknowledged");
            }
        });
        futures::future::join_all(sends).await;
    }
}

async fn each_offset_once(sql: &Sql, expected: i64) {
    let query = "SELECT _partition, count(*), count(DISTINCT _offset), min(_offset), max(_offset) \
                 FROM topics.events GROUP BY _partition ORDER BY _partition";
    let mut total = 0;
    for row in sql.table(query).await {
        let numbers: Vec<i64> = row.iter().map(|text| text.parse().expect("a number")).collect();
        let [_, rows, offsets, first, last] = numbers[..] else { panic!("five columns") };
        assert_eq!((rows, offsets, first, last), (rows, rows, 0, rows - 1), "no gap, no repetition: {row:?}");
        total += rows;
    }
    assert_eq!(total, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_reads_the_same_hot_cold_and_across_the_seam() {
    let mut node = Node::start_with(&FORGETFUL);
    let sql = Sql::connect(&node).await;
    sql.run(EVENTS).await;
    write(&node, 0, 3_000).await;
    let before = read(&node, 3_000).await;

    sql.run("CHECKPOINT").await;
    each_offset_once(&sql, 3_000).await;
    let tiered =
        "SELECT count(*) FROM aquifer.partitions WHERE topic = 'events' AND tiered_end_offset = high_watermark";
    assert_eq!(sql.number(tiered).await, 3, "everything stable is tiered");
    assert_eq!(read(&node, 3_000).await, before, "a consumer gets the same bytes");

    write(&node, 3_000, 900).await;
    each_offset_once(&sql, 3_900).await;
    let decoded = "SELECT count(*), sum(n) FROM events";
    let counted = sql.table(decoded).await;
    let both = read(&node, 3_900).await;
    let cold: Vec<_> = both.iter().filter(|record| before.contains(record)).collect();
    assert_eq!(cold.len(), 3_000);

    drop(sql);
    tokio::task::block_in_place(|| node.restart());
    let sql = Sql::connect(&node).await;
    assert_eq!(sql.table(decoded).await, counted, "the same after a kill");
    each_offset_once(&sql, 3_900).await;
    assert_eq!(read(&node, 3_900).await, both);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_forgets_what_is_tiered_and_a_consumer_reads_it_from_parquet() {
    let node = Node::start_with(&FORGETFUL);
    let sql = Sql::connect(&node).await;
    sql.run(EVENTS).await;
    let mut count = 0;
    while sql.number("SELECT count(*) FROM aquifer.segments").await < 3 {
        write(&node, count, 3_000).await;
        count += 3_000;
        assert!(count < 60_000, "segments of 1 MiB fill up");
    }
    let before = read(&node, count).await;
    let first_segment = "SELECT min(id) FROM aquifer.segments";
    let oldest = sql.number(first_segment).await;
    let checkpoint_and_look = async || {
        sql.run("CHECKPOINT").await;
        sql.number(first_segment).await
    };
    until("the first segments to be forgotten", checkpoint_and_look, |now| *now > oldest).await;
    assert_eq!(read(&node, count).await, before);
    each_offset_once(&sql, i64::try_from(count).expect("small")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_files_open_in_duckdb_and_pyarrow_and_hold_the_records() {
    let node = Node::start_with(&FORGETFUL);
    let sql = Sql::connect(&node).await;
    sql.run(EVENTS).await;
    write(&node, 0, 600).await;
    let records = read(&node, 600).await;
    sql.run("CHECKPOINT").await;
    let objects = sql.table("SELECT DISTINCT url FROM aquifer.objects WHERE topic = 'events' ORDER BY url").await;
    assert!(!objects.is_empty(), "there are objects");
    let mut arguments = vec!["open_parquet.py"];
    arguments.extend(objects.iter().map(|row| row[0].as_str()));
    let Some(ended) = Foreign::Python.run(&arguments) else { return };
    let output = ended.expect_success("open_parquet.py");
    let rows: Vec<serde_json::Value> = output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.len(), records.len());
    let latin =
        |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|b| b.iter().map(|byte| char::from(*byte)).collect::<String>());
    for (row, (partition, offset, timestamp_ms, key, value, headers)) in rows.iter().zip(&records) {
        assert_eq!((row["partition"].as_i64(), row["offset"].as_i64()), (Some((*partition).into()), Some(*offset)));
        assert_eq!(row["timestamp_ms"].as_i64(), *timestamp_ms);
        assert_eq!(row["key"].as_str().map(str::to_owned), latin(key));
        assert_eq!(row["value"].as_str().map(str::to_owned), latin(value));
        let expected: Vec<_> = headers.iter().map(|(name, value)| serde_json::json!([name, latin(value)])).collect();
        assert_eq!(row["headers"], serde_json::Value::Array(expected));
        if let Some(value) = value {
            let value: serde_json::Value = serde_json::from_slice(value).expect("JSON");
            assert_eq!(row["declared"]["n"], value["n"], "declared columns are typed: {row}");
        }
    }
}
