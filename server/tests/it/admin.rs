//! Kafka's admin requests and what topics are told, in raw frames.

use std::time::Duration;

use aquifer_server::settings::ServerSettings;
use aquifer_storage::record::batch::{BatchBuilder, CheckedBatch, Compression, TimestampType};
use aquifer_storage::settings::StorageSettings;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;

use crate::kafka::{Client, Node, batch, produce_body, string};

const CREATE_TOPICS: i16 = 19;
const DELETE_RECORDS: i16 = 21;
const OFFSET_FOR_LEADER_EPOCH: i16 = 23;
const DESCRIBE_CONFIGS: i16 = 32;
const DESCRIBE_LOG_DIRS: i16 = 35;
const CREATE_PARTITIONS: i16 = 37;
const INCREMENTAL_ALTER_CONFIGS: i16 = 44;

fn read_string(bytes: &mut Bytes) -> Option<String> {
    let length = usize::try_from(bytes.get_i16()).ok()?;
    Some(String::from_utf8(bytes.split_to(length).to_vec()).unwrap())
}

/// Makes a topic of one partition; answers the error code and its words.
async fn create(client: &mut Client, topic: &str, configs: &[(&str, &str)]) -> (i16, Option<String>) {
    let mut body = BytesMut::new();
    body.put_i32(1);
    string(&mut body, topic);
    body.put_i32(1);
    body.put_i16(1);
    body.put_i32(0);
    body.put_i32(i32::try_from(configs.len()).unwrap());
    for (name, value) in configs {
        string(&mut body, name);
        string(&mut body, value);
    }
    body.put_i32(1_000);
    body.put_i8(0);
    let mut answer = client.ask(CREATE_TOPICS, 4, &body).await;
    assert_eq!((answer.get_i32(), answer.get_i32()), (0, 1));
    assert_eq!(read_string(&mut answer).as_deref(), Some(topic));
    (answer.get_i16(), read_string(&mut answer))
}

/// The answer for the only partition of a produce in version 8: error, base offset, log append time, record errors, words.
async fn produce(client: &mut Client, topic: &str, records: &[u8]) -> (i16, i64, i64, Vec<i32>, Option<String>) {
    let mut answer = client.ask(0, 8, &produce_body(topic, -1, records)).await;
    assert_eq!(answer.get_i32(), 1);
    read_string(&mut answer);
    assert_eq!((answer.get_i32(), answer.get_i32()), (1, 0));
    let (error, base_offset, append_time_ms) = (answer.get_i16(), answer.get_i64(), answer.get_i64());
    answer.get_i64(); // log_start_offset
    let mut records = Vec::new();
    for _ in 0..answer.get_i32() {
        records.push(answer.get_i32());
        assert!(read_string(&mut answer).unwrap().contains("key"));
    }
    (error, base_offset, append_time_ms, records, read_string(&mut answer))
}

/// One step of one config of a topic: error and words.
async fn alter(client: &mut Client, topic: &str, config: (&str, i8, &str), validate_only: bool) -> (i16, String) {
    let mut body = BytesMut::new();
    body.put_i32(1);
    body.put_i8(2);
    string(&mut body, topic);
    body.put_i32(1);
    string(&mut body, config.0);
    body.put_i8(config.1);
    string(&mut body, config.2);
    body.put_u8(validate_only.into());
    let mut answer = client.ask(INCREMENTAL_ALTER_CONFIGS, 0, &body).await;
    assert_eq!((answer.get_i32(), answer.get_i32()), (0, 1));
    (answer.get_i16(), read_string(&mut answer).unwrap_or_default())
}

/// A topic's config: value and source.
async fn described(client: &mut Client, topic: &str, config: &str) -> (String, i8) {
    let mut body = BytesMut::new();
    body.put_i32(1);
    body.put_i8(2);
    string(&mut body, topic);
    body.put_i32(1);
    string(&mut body, config);
    body.put_i8(0);
    let mut answer = client.ask(DESCRIBE_CONFIGS, 1, &body).await;
    assert_eq!((answer.get_i32(), answer.get_i32(), answer.get_i16()), (0, 1, 0));
    read_string(&mut answer);
    answer.get_i8();
    read_string(&mut answer);
    assert_eq!(answer.get_i32(), 1);
    assert_eq!(read_string(&mut answer).as_deref(), Some(config));
    let value = read_string(&mut answer).unwrap();
    answer.get_i8(); // read_only
    (value, answer.get_i8())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_does_as_it_is_told_when_made_and_when_altered() {
    let node = Node::start().await;
    let mut client = node.client().await;
    let told = [("message.timestamp.type", "LogAppendTime"), ("compression.type", "lz4"), ("segment.bytes", "77")];
    assert_eq!(create(&mut client, "orders", &told).await.0, 0);
    let (error, offset, append_time_ms, ..) = produce(&mut client, "orders", &batch(3)).await;
    assert_eq!((error, offset), (0, 0));
    assert!(append_time_ms > 1_600_000_000_000, "{append_time_ms}");
    let (_, _, records) = client.fetch("orders", 0, 0).await;
    let stored = CheckedBatch::parse_stored(records).unwrap();
    assert_eq!(stored.header().timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!((stored.header().max_timestamp_ms, stored.compression()), (append_time_ms, Compression::Lz4));

    assert_eq!(described(&mut client, "orders", "segment.bytes").await, ("77".to_owned(), 1));
    assert_eq!(described(&mut client, "orders", "max.message.bytes").await, ((8 << 20).to_string(), 5));
    let (error, words) = alter(&mut client, "orders", ("max.message.bytes", 0, "999999999"), false).await;
    assert_eq!(error, 40, "INVALID_CONFIG");
    assert!(words.contains("wal.commit_bytes_max"), "{words}");
    assert_eq!(alter(&mut client, "orders", ("max.message.bytes", 0, "150"), true).await.0, 0);
    assert_eq!(described(&mut client, "orders", "max.message.bytes").await.1, 5, "only validated");
    assert_eq!(alter(&mut client, "orders", ("max.message.bytes", 0, "150"), false).await.0, 0);
    assert_eq!(described(&mut client, "orders", "max.message.bytes").await, ("150".to_owned(), 1));
    let mut large = BatchBuilder::new(0, TimestampType::CreateTime);
    let noise: Vec<u8> = (0..400_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    large.push(1, Some(b"key"), Some(&noise), &[]);
    let large = large.build(Compression::None).unwrap();
    let (error, _, _, _, words) = produce(&mut client, "orders", large.bytes()).await;
    assert_eq!(error, 10, "MESSAGE_TOO_LARGE");
    assert!(words.unwrap().contains("max.message.bytes"));

    let (error, words) = create(&mut client, "other", &[("no.such.config", "1")]).await;
    assert_eq!(error, 40);
    assert!(words.unwrap().contains("no.such.config"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_topic_names_the_records_that_have_no_key() {
    let node = Node::start().await;
    let mut client = node.client().await;
    assert_eq!(create(&mut client, "latest", &[("cleanup.policy", "compact")]).await.0, 0);
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    for key in [Some(&b"k"[..]), None, None] {
        builder.push(1, key, Some(b"v"), &[]);
    }
    let sent = builder.build(Compression::Gzip).unwrap();
    let (error, offset, _, records, words) = produce(&mut client, "latest", sent.bytes()).await;
    assert_eq!((error, offset, records), (87, -1, vec![1, 2]), "INVALID_RECORD");
    assert!(words.unwrap().contains("cleanup.policy"));
    assert_eq!(produce(&mut client, "latest", &batch(2)).await.1, 0, "nothing of it was written");
    assert_eq!(delete_records(&mut client, "latest", 0, 1).await.1, 44, "POLICY_VIOLATION");
    assert_eq!(alter(&mut client, "latest", ("cleanup.policy", 2, "delete"), false).await.0, 0);
    assert_eq!(described(&mut client, "latest", "cleanup.policy").await.0, "compact,delete");
    assert_eq!(delete_records(&mut client, "latest", 0, 1).await, (1, 0));
    node.stop().await;
}

/// Low watermark and error.
async fn delete_records(client: &mut Client, topic: &str, partition: i32, offset: i64) -> (i64, i16) {
    let mut body = BytesMut::new();
    body.put_i32(1);
    string(&mut body, topic);
    body.put_i32(1);
    body.put_i32(partition);
    body.put_i64(offset);
    body.put_i32(1_000);
    let mut answer = client.ask(DELETE_RECORDS, 1, &body).await;
    assert_eq!((answer.get_i32(), answer.get_i32()), (0, 1));
    read_string(&mut answer);
    assert_eq!((answer.get_i32(), answer.get_i32()), (1, partition));
    (answer.get_i64(), answer.get_i16())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_deleted_up_to_an_offset_and_never_beyond_the_end() {
    let node = Node::start().await;
    let mut client = node.client().await;
    assert_eq!(create(&mut client, "orders", &[]).await.0, 0);
    client.produce("orders", -1, &batch(10)).await;
    assert_eq!(delete_records(&mut client, "orders", 0, 4).await, (4, 0));
    assert_eq!(delete_records(&mut client, "orders", 0, 2).await, (4, 0), "it never goes back");
    assert_eq!(client.fetch("orders", 3, 0).await.0, 1, "OFFSET_OUT_OF_RANGE");
    assert_eq!(client.fetch("orders", 4, 0).await.0, 0);
    assert_eq!(delete_records(&mut client, "orders", 0, 11).await, (-1, 1));
    assert_eq!(delete_records(&mut client, "orders", 0, -2).await, (-1, 1));
    assert_eq!(delete_records(&mut client, "orders", 7, 0).await, (-1, 3));
    assert_eq!(delete_records(&mut client, "__consumer_offsets", 0, 0).await.1, 17, "INVALID_TOPIC_EXCEPTION");
    assert_eq!(delete_records(&mut client, "orders", 0, -1).await, (10, 0));
    assert_eq!(client.produce("orders", -1, &batch(1)).await, (0, 10));
    node.stop().await;
}

async fn create_partitions(client: &mut Client, topic: &str, count: i32, validate_only: bool) -> i16 {
    let mut body = BytesMut::new();
    body.put_i32(1);
    string(&mut body, topic);
    body.put_i32(count);
    body.put_i32(-1);
    body.put_i32(1_000);
    body.put_u8(validate_only.into());
    let mut answer = client.ask(CREATE_PARTITIONS, 1, &body).await;
    assert_eq!((answer.get_i32(), answer.get_i32()), (0, 1));
    read_string(&mut answer);
    answer.get_i16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_gets_more_partitions_and_never_fewer() {
    let node = Node::start().await;
    let mut client = node.client().await;
    assert_eq!(create(&mut client, "orders", &[]).await.0, 0);
    let partitions = || node.storage.topic("orders").unwrap().partitions;
    assert_eq!(create_partitions(&mut client, "orders", 3, true).await, 0);
    assert_eq!(partitions(), 1, "only validated");
    assert_eq!(create_partitions(&mut client, "orders", 3, false).await, 0);
    assert_eq!(partitions(), 3);
    for refused in [3, 2, 0, 1_000_000] {
        assert_eq!(create_partitions(&mut client, "orders", refused, false).await, 37, "INVALID_PARTITIONS");
    }
    assert_eq!(create_partitions(&mut client, "missing", 3, false).await, 3);
    assert_eq!(create_partitions(&mut client, "__aquifer_catalog", 3, false).await, 17);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn epochs_that_are_not_ours_have_no_end_and_sizes_are_the_logs() {
    let node = Node::start().await;
    let mut client = node.client().await;
    assert_eq!(create(&mut client, "orders", &[]).await.0, 0);
    let sent = batch(5);
    client.produce("orders", -1, &sent).await;
    // (the epoch the client knows, the epoch it asks about): (error, epoch, end)
    for (asked, expected) in [
        ((-1, 0), (0, 0, 5)),
        ((0, 0), (0, 0, 5)),
        ((0, 3), (0, -1, -1)),
        ((0, -1), (0, -1, -1)),
        ((4, 0), (75, -1, -1)),
    ] {
        let mut body = BytesMut::new();
        body.put_i32(1);
        string(&mut body, "orders");
        body.put_i32(1);
        body.put_i32(0);
        body.put_i32(asked.0);
        body.put_i32(asked.1);
        let mut answer = client.ask(OFFSET_FOR_LEADER_EPOCH, 2, &body).await;
        assert_eq!((answer.get_i32(), answer.get_i32()), (0, 1));
        read_string(&mut answer);
        assert_eq!(answer.get_i32(), 1);
        let error = answer.get_i16();
        assert_eq!(answer.get_i32(), 0);
        assert_eq!((error, answer.get_i32(), answer.get_i64()), expected, "{asked:?}");
    }
    let mut body = BytesMut::new();
    body.put_i32(1);
    string(&mut body, "orders");
    body.put_i32(1);
    body.put_i32(0);
    let mut answer = client.ask(DESCRIBE_LOG_DIRS, 1, &body).await;
    assert_eq!((answer.get_i32(), answer.get_i32(), answer.get_i16()), (0, 1, 0));
    assert!(std::path::Path::new(&read_string(&mut answer).unwrap()).is_dir());
    assert_eq!(answer.get_i32(), 1);
    assert_eq!(read_string(&mut answer).as_deref(), Some("orders"));
    assert_eq!((answer.get_i32(), answer.get_i32()), (1, 0));
    assert_eq!(answer.get_i64(), i64::try_from(sent.len()).unwrap());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_all_connections_share_one_room_and_wait_for_it() {
    let settings = ServerSettings { kafka_request_bytes_in_flight_max: 64 << 10, ..ServerSettings::default() };
    let node = Node::start_with(settings, StorageSettings::default()).await;
    let (mut slow, mut other) = (node.client().await, node.client().await);
    other.make("orders").await;
    // A frame that takes all the room, of which only the beginning comes.
    let body = produce_body("orders", -1, &batch(3_000));
    assert!(body.len() > 64 << 10);
    let mut frame = BytesMut::new();
    frame.put_i32(i32::try_from(8 + 6 + body.len()).unwrap());
    frame.put_slice(&[0, 0, 0, 3, 0, 0, 0, 1]);
    string(&mut frame, "test");
    frame.put_slice(&body);
    let (begin, rest) = frame.split_at(1_000);
    slow.stream.write_all(begin).await.unwrap();
    // Another's request is answered until the first has taken the room, and then waits.
    let mut answered = 0;
    let mut asked = 0;
    while answered == asked {
        other.send(3, 1, &0_i32.to_be_bytes()).await;
        asked += 1;
        if tokio::time::timeout(Duration::from_millis(300), other.receive()).await.is_ok() {
            answered += 1;
        }
        assert!(asked < 10_000, "the room never fills");
    }
    slow.stream.write_all(rest).await.unwrap();
    assert!(slow.receive().await.is_some());
    assert!(other.receive().await.is_some(), "and is answered when there is room again");
    node.stop().await;
}
