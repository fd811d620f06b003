//! Bad input gets a clear error in the right protocol and costs nothing else: the connection or the process stays in
//! order, nothing is lost, nothing false is served.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::producer::FutureRecord;
use rdkafka::types::RDKafkaErrorCode;

use crate::support::kafka::{Wire, admin, produce, producer, read_from_start};
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::{PATIENCE, until, until_now};

const API_VERSIONS: i16 = 18;
const METADATA: i16 = 3;
const PRODUCE: i16 = 0;
const CREATE_TOPICS: i16 = 19;
const DESCRIBE_CONFIGS: i16 = 32;
const LIST_OFFSETS: i16 = 2;
const ALTER_CONFIGS: i16 = 33;
const INVALID_REQUEST: i16 = 42;
const POLICY_VIOLATION: i16 = 44;
const UNSUPPORTED_VERSION: i16 = 35;
const CORRUPT_MESSAGE: i16 = 2;

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

/// A frame whose length field says `length`.
fn frame(length: i32, body: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_frame_closes_its_connection_and_costs_nothing_else() {
    let node = Node::start();
    let producer = producer(&node);
    assert_eq!(produce(&producer, "orders", "a", "1").await.1, 0);
    let mut neighbour = Wire::connect(&node);

    let header = |api_key: i16, api_version: i16| {
        let mut bytes = [api_key.to_be_bytes(), api_version.to_be_bytes()].concat();
        bytes.extend(7_i32.to_be_bytes());
        bytes.extend((-1_i16).to_be_bytes());
        bytes
    };
    let counting = |mut bytes: Vec<u8>, count: &[u8]| {
        bytes.extend(count);
        frame(i32::try_from(bytes.len()).expect("small"), &bytes)
    };
    let cases = [
        ("garbage that reads as a length of a gigabyte", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("garbage in a frame of the right length", frame(16, &[0xee; 16])),
        ("an oversized frame", frame(200 << 20, b"the rest never comes")),
        ("a negative length", frame(-5, b"")),
        ("no header at all", frame(0, b"")),
        ("a header cut short", frame(3, &[0, 3, 0])),
        ("an array of two billion topics", counting(header(METADATA, 1), &i32::MAX.to_be_bytes())),
        ("a compact array of two billion topics", counting(header(METADATA, 9), &[0, 0xff, 0xff, 0xff, 0xff, 0x07])),
        (
            "a produce request of two billion topics",
            counting(header(PRODUCE, 7), &{
                let mut body = (-1_i16).to_be_bytes().to_vec();
                body.extend([0, 1, 0, 0, 0x75, 0x30]);
                body.extend(i32::MAX.to_be_bytes());
                body
            }),
        ),
        ("an API that does not exist", counting(header(999, 0), &[])),
        ("a version that does not exist", counting(header(METADATA, 99), &[0; 8])),
    ];
    for (what, bytes) in cases {
        let mut wire = Wire::connect(&node);
        wire.send(&bytes);
        assert!(wire.response().is_none(), "{what}: the connection is closed without an answer");
    }
    let mut half = Wire::connect(&node);
    half.send(&frame(100, b"ten bytes."));
    half.finish();
    assert!(half.response().is_none(), "a half-sent frame is not answered");

    neighbour.request(API_VERSIONS, 0, 1, &[]);
    assert!(neighbour.response().is_some(), "a neighbour's connection goes on");
    assert_eq!(produce(&producer, "orders", "a", "2").await.1, 1, "and so does everything else");
    assert_eq!(read_from_start(&node, "orders", 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_request_gets_no_answer_beyond_a_bound_however_much_it_asks_for() {
    let node = Node::start();
    let wide = NewTopic::new("wide", 10_000, TopicReplication::Fixed(1));
    let made = admin(&node).create_topics([&wide], &AdminOptions::new()).await.expect("answered");
    assert!(made[0].is_ok(), "{made:?}");
    let before = node.peak_memory_bytes();
    let name = |name: &str| [&i16::try_from(name.len()).expect("short").to_be_bytes(), name.as_bytes()].concat();
    let many = |count: i32, one: &[u8], rest: &[u8]| {
        let times = usize::try_from(count).expect("positive");
        [&count.to_be_bytes()[..], &one.repeat(times), rest].concat()
    };
    let mut wire = Wire::connect(&node);

    wire.request(METADATA, 4, 1, &many(1_000, &name("wide"), &[0]));
    let metadata = wire.response().expect("an answer").len();
    assert!((260_000..400_000).contains(&metadata), "the topic is described once, in {metadata} bytes");

    let resource = [&[2][..], &name("wide"), &(-1_i32).to_be_bytes()].concat();
    wire.request(DESCRIBE_CONFIGS, 3, 2, &many(10_000, &resource, &[1, 1]));
    let configs = wire.response().expect("an answer").len();
    assert!((1_000..100_000).contains(&configs), "its configs are told once, in {configs} bytes");

    let partition = [&0_i32.to_be_bytes()[..], &(-1_i64).to_be_bytes()].concat();
    let body = [&(-1_i32).to_be_bytes()[..], &1_i32.to_be_bytes(), &name("wide"), &many(2, &partition, &[])].concat();
    wire.request(LIST_OFFSETS, 1, 3, &body);
    let answer = wire.response().expect("an answer");
    assert_eq!(i16_at(&answer, 4 + 4 + 6 + 4 + 4), INVALID_REQUEST, "a partition that is named twice");

    // 60,000 topics that are only looked at: each answer names all configs.
    let mut body = vec![0, 0xe1, 0xd4, 0x03];
    for number in 0..60_000 {
        body.extend([7]);
        body.extend(format!("t{number:05}").as_bytes());
        body.extend([0, 0, 0, 1, 0, 1, 1, 1, 0]);
    }
    body.extend([0, 0, 0x75, 0x30, 1, 0]);
    wire.request(CREATE_TOPICS, 5, 4, &body);
    assert!(wire.response().is_none(), "the connection is closed");
    until_now("the log to say why", || node.log().contains("ask for less at once"));

    let grown = node.peak_memory_bytes() - before;
    assert!(grown < 200 << 20, "{grown} bytes more than before");
    let mut neighbour = Wire::connect(&node);
    neighbour.request(API_VERSIONS, 0, 1, &[]);
    assert!(neighbour.response().is_some(), "others are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_never_take_the_files_that_the_log_needs() {
    let node = Node::start_with_files(160, &[("AQUIFER_WAL_SEGMENT_BYTES", "256 KiB")]);
    assert!(node.log().contains("may have 160 files open"), "{}", node.log());
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM s (k STRING KEY, v STRING) WITH (kafka_topic = 's', value_format = 'json', partitions = 1)")
        .await;
    let mut idle = Vec::new();
    for address in [node.ports.kafka, node.ports.postgres, node.ports.http] {
        for _ in 0..100 {
            // Who is one too many may be refused at once.
            idle.extend(TcpStream::connect(address));
        }
    }
    until_now("connections beyond the limits to be closed", || node.log().contains("kafka.connections_max"));
    // Several segments of the log, each of them a file.
    let insert = format!("INSERT INTO s VALUES ('a', '{}')", "v".repeat(100 << 10));
    for _ in 0..10 {
        sql.run(&insert).await;
    }
    assert_eq!(sql.number("SELECT count(*) FROM s").await, 10);
    drop(idle);
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let node = Node::start();
    let mut wire = Wire::connect(&node);
    wire.request(API_VERSIONS, 99, 42, &[]);
    let answer = wire.response().expect("an answer");
    assert_eq!(&answer[..4], 42_i32.to_be_bytes());
    assert_eq!(i16_at(&answer, 4), UNSUPPORTED_VERSION);
    wire.request(API_VERSIONS, 0, 43, &[]);
    assert_eq!(i16_at(&wire.response().expect("the same connection goes on"), 4), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_a_wrong_checksum_is_refused_and_not_stored() {
    let node = Node::start();
    produce(&producer(&node), "orders", "a", "1").await;
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    builder.push(1_700_000_000_000, Some(b"a"), Some(b"damaged"), &[]);
    let mut batch = builder.build(Compression::None).expect("one record").bytes().to_vec();
    *batch.last_mut().expect("bytes") ^= 1;

    let mut body = (-1_i16).to_be_bytes().to_vec();
    body.extend((-1_i16).to_be_bytes());
    body.extend(30_000_i32.to_be_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend(6_i16.to_be_bytes());
    body.extend(b"orders");
    body.extend(1_i32.to_be_bytes());
    body.extend(0_i32.to_be_bytes());
    body.extend(i32::try_from(batch.len()).expect("small").to_be_bytes());
    body.extend(batch);
    let mut wire = Wire::connect(&node);
    wire.request(PRODUCE, 7, 1, &body);
    let answer = wire.response().expect("an answer");
    // Correlation id, one topic, its name, one partition, its number: then the error.
    assert_eq!(i16_at(&answer, 4 + 4 + 8 + 4 + 4), CORRUPT_MESSAGE);
    let sql = Sql::connect(&node).await;
    assert_eq!(sql.number("SELECT count(*) FROM topics.orders").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_does_not_decode_is_skipped_noted_once_and_still_there() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run(
        "CREATE STREAM orders (k STRING KEY, amount INT) \
         WITH (kafka_topic = 'orders', value_format = 'json', partitions = 1);
         CREATE TABLE totals AS SELECT k, sum(amount) AS total FROM orders GROUP BY k EMIT CHANGES",
    )
    .await;
    let producer = producer(&node);
    for value in
        [r#"{"amount":1}"#, "{not json", r#"{"amount":"many"}"#, r#"{"amount":99999999999}"#, r#"{"amount":2}"#]
    {
        produce(&producer, "orders", "a", value).await;
    }
    for _ in 0..2 {
        assert_eq!(sql.table("SELECT amount FROM orders ORDER BY _offset").await, [["1"], ["2"]]);
    }
    assert_eq!(sql.number("SELECT count(*) FROM topics.orders").await, 5, "the records are still there");
    let errors =
        "SELECT stream, topic, partition, \"offset\", column_name FROM aquifer.decode_errors ORDER BY \"offset\"";
    let noted = sql.table(errors).await;
    let offsets: Vec<_> = noted.iter().map(|row| (row[0].as_str(), row[1].as_str(), row[3].as_str())).collect();
    assert_eq!(offsets, [("orders", "orders", "1"), ("orders", "orders", "2"), ("orders", "orders", "3")]);
    assert_eq!((noted[1][4].as_str(), noted[2][4].as_str()), ("amount", "amount"));
    let totals = || sql.table("SELECT k, total FROM totals");
    until("the query to go on", totals, |rows| *rows == [["a", "3"]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_statement_gets_sqlstate_position_and_hint_and_the_connection_goes_on() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM s (k STRING KEY, n INT) WITH (kafka_topic = 's', value_format = 'json', partitions = 1)")
        .await;

    let syntax = sql.refused("SELECT n FORM s").await;
    assert_eq!(syntax.state.code(), "42601");
    assert!(syntax.position.is_some(), "{syntax:?}");
    let table = sql.refused("SELECT * FROM nowhere").await;
    assert_eq!(table.state.code(), "42P01", "{table:?}");
    let column = sql.refused("SELECT nothing FROM s").await;
    assert_eq!(column.state.code(), "42703", "{column:?}");
    let function = sql.refused("SELECT no_such_function(n) FROM s").await;
    assert_eq!(function.state.code(), "42883", "{function:?}");
    let twice = sql.refused("CREATE STREAM s (k STRING KEY) WITH (kafka_topic = 's', value_format = 'json')").await;
    assert_eq!(twice.state.code(), "42P07", "{twice:?}");
    let partitions = sql
        .refused("CREATE STREAM other (k STRING KEY) WITH (kafka_topic = 's', value_format = 'json', partitions = 9)")
        .await;
    assert!(partitions.message.contains('9'), "{partitions:?}");
    for unsupported in [
        "CREATE TABLE h AS SELECT k, count(*) FROM s WINDOW HOPPING (SIZE 5 MINUTES, ADVANCE BY 1 MINUTE) GROUP BY k EMIT CHANGES",
        "CREATE TABLE w AS SELECT k, count(*) FROM s WINDOW SESSION (5 MINUTES) GROUP BY k EMIT CHANGES",
        "CREATE STREAM j AS SELECT a.n FROM s a JOIN s b ON a.k = b.k EMIT CHANGES",
        "CREATE TABLE f AS SELECT k, count(*) FROM s WINDOW TUMBLING (SIZE 5 MINUTES) GROUP BY k EMIT FINAL",
        "SELECT k, count(*) FROM s GROUP BY k EMIT CHANGES",
    ] {
        let refusal = sql.refused(unsupported).await;
        assert_eq!(refusal.state.code(), "0A000", "{unsupported}: {refusal:?}");
        assert!(refusal.hint.is_some(), "{unsupported}: {refusal:?}");
    }
    assert_eq!(sql.number("SELECT count(*) FROM s").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_too_deep_is_refused_and_what_is_just_not_is_answered() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run("CREATE TABLE t (a INT, b TEXT, PRIMARY KEY (a, b))").await;
    let many = |count: usize, part: &str, between: &str| vec![part; count].join(between);
    let deep = |count: usize| {
        [
            format!("SELECT count(*) FROM t WHERE {}", many(count, "(a = 1 AND b = 'x')", " OR ")),
            format!("SELECT count(*) FROM t WHERE a > {}", many(count, "1", "+")),
            format!("SELECT 1 - count(*) FROM ({}) q", many(count / 2, "SELECT 1 AS n", " EXCEPT ")),
            format!("DELETE FROM t WHERE {}", many(count, "a = 1", " OR ")),
        ]
    };
    // Chains of ANDs and ORs take no time; sums and differences of sets take longer than a test has.
    let [or, _, _, delete] = deep(1_990);
    for statement in deep(300).into_iter().chain([or, delete]) {
        let shown = statement[..60].to_owned();
        assert!(sql.client.simple_query(&statement).await.is_ok(), "{shown}");
    }
    for count in [2100, 200_000] {
        for statement in deep(count) {
            let refusal = sql.refused(&statement).await;
            assert_eq!(refusal.state.code(), "54000", "{}", &statement[..60]);
            assert!(refusal.hint.is_some());
        }
    }
    let nested = format!("SELECT {}1{}", "array[".repeat(300), "]".repeat(300));
    assert_eq!(sql.refused(&nested).await.state.code(), "54000");
    assert_eq!(sql.number("SELECT count(*) FROM t").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_postgres_and_http_ports_ends_one_connection() {
    let node = Node::start();
    let mut sent = vec![b"\x00\x00\x00\x02".to_vec(), vec![0xff; 64], b"\x7f\xff\xff\xff\x00\x03\x00\x00".to_vec()];
    sent.push(b"not a protocol of ours\r\n\r\n".to_vec());
    for bytes in sent {
        for address in [node.ports.postgres, node.ports.http] {
            let mut stream = TcpStream::connect(address).expect("the port answers");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            stream.write_all(&bytes).expect("sent");
            // Who has been thrown out already cannot close his half any more.
            if let Err(error) = stream.shutdown(std::net::Shutdown::Write) {
                assert_eq!(error.kind(), std::io::ErrorKind::NotConnected, "{address}");
            }
            let mut answer = Vec::new();
            // An answer or a reset, but an end.
            if let Err(error) = stream.read_to_end(&mut answer) {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{address}");
            }
        }
    }
    assert_eq!(Sql::connect(&node).await.number("SELECT 1").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_a_query_reads_or_writes_is_kept_and_a_stream_without_its_topic_says_so() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run(
        "CREATE STREAM source (k STRING KEY, n INT) WITH (kafka_topic = 'source', value_format = 'json', partitions = 1);
         CREATE TABLE counted AS SELECT k, count(*) AS n FROM source GROUP BY k EMIT CHANGES;
         CREATE STREAM lonely (k STRING KEY, n INT) WITH (kafka_topic = 'lonely', value_format = 'json', partitions = 1)",
    )
    .await;
    let admin = admin(&node);
    let deleted = admin.delete_topics(&["source", "counted", "lonely"], &AdminOptions::new()).await.expect("answered");
    let refused = Err(RDKafkaErrorCode::PolicyViolation);
    for (topic, expected) in [("source", refused), ("counted", refused), ("lonely", Ok(()))] {
        let answer = deleted.iter().find_map(|outcome| match outcome {
            Ok(name) if name == topic => Some(Ok(())),
            Err((name, code)) if name == topic => Some(Err(*code)),
            _ => None,
        });
        assert_eq!(answer, Some(expected), "{topic}");
    }
    let refusal = sql.refused("SELECT * FROM lonely").await;
    assert_eq!(refusal.state.code(), "55000", "{refusal:?}");
    assert!(refusal.hint.is_some(), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_take_rows_from_a_continuous_table_is_refused_by_name() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run(
        "CREATE STREAM source (k STRING KEY, n INT) WITH (kafka_topic = 'source', value_format = 'json', partitions = 1);
         CREATE TABLE counted AS SELECT k, count(*) AS n FROM source GROUP BY k EMIT CHANGES;
         INSERT INTO source VALUES ('a', 1), ('b', 2)",
    )
    .await;
    let name = |name: &str| [&i16::try_from(name.len()).expect("short").to_be_bytes(), name.as_bytes()].concat();
    let mut wire = Wire::connect(&node);
    // The code that AlterConfigs answers for one topic.
    let mut alter = |topic: &str, configs: &[(&str, &str)]| {
        let mut body = [&1_i32.to_be_bytes()[..], &[2], &name(topic)].concat();
        body.extend(i32::try_from(configs.len()).expect("few").to_be_bytes());
        configs.iter().for_each(|(config, value)| body.extend([name(config), name(value)].concat()));
        body.push(0);
        wire.request(ALTER_CONFIGS, 0, 1, &body);
        i16_at(&wire.response().expect("an answer"), 4 + 4 + 4)
    };
    let shorter = [("cleanup.policy", "delete"), ("retention.ms", "3600000")];
    assert_eq!(alter("source", &shorter), 0, "of a stream's topic records may go");
    assert_eq!(alter("counted", &shorter), POLICY_VIOLATION);
    assert_eq!(alter("counted", &[("cleanup.policy", "compact,delete"), ("retention.bytes", "1")]), POLICY_VIOLATION);
    let configs =
        "SELECT name, cleanup_policy, retention_ms FROM aquifer.topics WHERE name IN ('source', 'counted') ORDER BY 1";
    assert_eq!(sql.table(configs).await, [["counted", "compact", "-1"], ["source", "delete", "3600000"]]);
    assert_eq!(alter("counted", &[("cleanup.policy", "delete")]), 0, "nothing goes without a retention");
    let topics = admin(&node);
    let mut all = rdkafka::TopicPartitionList::new();
    all.add_partition_offset("counted", 0, rdkafka::Offset::End).expect("a partition");
    let deleted = topics.delete_records(&all, &AdminOptions::new()).await.expect("answered");
    let deleted: Vec<_> = deleted.elements().iter().map(|element| element.error()).collect();
    assert!(deleted[0].is_err(), "{deleted:?}");
    let refusal = sql
        .refused(
            "CREATE TABLE short WITH (cleanup_policy = 'delete', retention_ms = 1) \
             AS SELECT k, count(*) AS n FROM source GROUP BY k EMIT CHANGES",
        )
        .await;
    assert_eq!(refusal.state.code(), "22023", "{refusal:?}");
    assert!(refusal.message.contains("short") && refusal.hint.is_some(), "{refusal:?}");
    let rows = || sql.table("SELECT k, n FROM counted ORDER BY k");
    until("the table to be whole", rows, |rows| *rows == [["a", "1"], ["b", "1"]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continuous_table_has_no_rows_but_its_query_s() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run(
        "CREATE STREAM source (k STRING KEY, n INT) WITH (kafka_topic = 'source', value_format = 'json', partitions = 1);
         CREATE TABLE counted AS SELECT k, count(*) AS n FROM source GROUP BY k EMIT CHANGES",
    )
    .await;
    let producer = producer(&node);
    let foreign = FutureRecord::to("counted").key("a").payload(r#"{"n":41}"#);
    let (error, _) = producer.send(foreign, PATIENCE).await.expect_err("another writer");
    assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::PolicyViolation), "{error}");
    produce(&producer, "source", "a", r#"{"n":1}"#).await;
    until("the query's own row", || sql.table("SELECT k, n FROM counted"), |rows| *rows == [["a", "1"]]).await;
    // Without its query the topic is one like any other.
    sql.run("DROP TABLE counted").await;
    produce(&producer, "counted", "a", r#"{"n":41}"#).await;
}
