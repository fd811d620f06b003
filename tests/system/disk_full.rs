//! A disk that is really full: writes are refused in both protocols with a hint, reads go on, whatever frees space does, a
//! start too, writing goes on then by itself, and of what was acknowledged nothing is lost.
//!
//! The disk is a small file system of memory in a name space of its own, where the machine lets one be made.

use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rdkafka::admin::AdminOptions;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tempfile::TempDir;

use crate::support::kafka::{admin, producer_with, read_to_end};
use crate::support::node::Node;
use crate::support::sql::{Refusal, Sql};
use crate::support::wait::{PATIENCE, until};

const DISK_MIB: u32 = 12;
const VALUE_BYTES: usize = 16 << 10;
/// More records than the disk has room for.
const RECORDS_MAX: i64 = (DISK_MIB as i64) << 8;

/// A small file system; it goes with the process that holds it.
struct SmallDisk {
    holder: Child,
    folder: TempDir,
}

impl SmallDisk {
    /// Why there is none where the machine does not let one be made.
    fn make() -> Result<Self, String> {
        let folder = TempDir::with_prefix("aquifer-disk-").expect("a temporary directory");
        let script = format!(
            "mount -t tmpfs -o size={DISK_MIB}m tmpfs '{}' && echo mounted && exec sleep 3600",
            folder.path().display()
        );
        let spawned = Command::new("unshare")
            .args(["-rm", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut holder = spawned.map_err(|error| format!("unshare: {error}"))?;
        let mut line = String::new();
        let read = BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut line);
        if read.is_ok() && line == "mounted\n" {
            return Ok(Self { holder, folder });
        }
        // It has ended, or has nothing to hold.
        let _ = holder.kill();
        let said = holder.wait_with_output().map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
        Err(format!("unshare -rm and mount -t tmpfs: {said:?}"))
    }

    /// The same, or `None` after saying why; with `CI=true` that fails.
    fn here() -> Option<Self> {
        match Self::make() {
            Ok(disk) => Some(disk),
            Err(reason) => {
                let must = std::env::var("CI").as_deref() == Ok("true");
                assert!(!must, "no small file system can be mounted here: {reason}");
                println!("skipped: no small file system can be mounted here: {reason}");
                None
            }
        }
    }

    /// What runs a program where the file system is.
    fn runner(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        ["nsenter", "-t", &holder, "-U", "-m", "--preserve-credentials"].map(str::to_owned).to_vec()
    }

    /// A node whose data is on the disk, with small segments and a small reserve.
    fn node(&self, environment: &[(&str, &str)]) -> Node {
        let data_dir = self.folder.path().join("data").display().to_string();
        let here = [
            ("AQUIFER_DATA_DIR", data_dir.as_str()),
            ("AQUIFER_WAL_SEGMENT_BYTES", "1 MiB"),
            ("AQUIFER_WAL_RESERVE_BYTES", "1 MiB"),
        ];
        Node::start_by(&self.runner(), &["serve"], &[&here, environment].concat())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A producer that is told at once.
fn blunt(node: &Node) -> FutureProducer {
    producer_with(node, &[("enable.idempotence", "false"), ("retries", "0")])
}

/// Bytes that nothing makes smaller; others for each number.
fn value(number: i64) -> Vec<u8> {
    let mut state = number.unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..VALUE_BYTES).map(|_| next()).collect()
}

async fn write(producer: &FutureProducer, topic: &str, number: i64) -> Result<(), KafkaError> {
    let value = value(number);
    let record = FutureRecord::<str, [u8]>::to(topic).partition(0).payload(&value);
    producer.send(record, PATIENCE).await.map(drop).map_err(|(error, _)| error)
}

/// Writes until the node refuses; gives the offset after what was acknowledged.
async fn fill(producer: &FutureProducer, topic: &str, from: i64) -> i64 {
    for offset in from..from + RECORDS_MAX {
        if let Err(error) = write(producer, topic, offset).await {
            let storage_error = KafkaError::MessageProduction(RDKafkaErrorCode::KafkaStorageError);
            assert_eq!(error, storage_error, "at offset {offset}");
            return offset;
        }
    }
    panic!("{RECORDS_MAX} records of {VALUE_BYTES} bytes on a disk of {DISK_MIB} MiB");
}

/// Fills again and again until so many more were taken: room is made beside. Gives the offset after them.
async fn fill_more(producer: &FutureProducer, topic: &str, from: i64, at_least: i64) -> i64 {
    let began = Instant::now();
    let mut end = fill(producer, topic, from).await;
    while end - from < at_least {
        assert!(began.elapsed() < PATIENCE, "{} records more, not {at_least}", end - from);
        end = fill(producer, topic, end).await;
    }
    end
}

async fn insert_until_refused(sql: &Sql) -> (i64, Refusal) {
    let statement = format!("INSERT INTO notes VALUES ('k', '{}')", "y".repeat(VALUE_BYTES));
    for written in 0..RECORDS_MAX {
        if let Some(refusal) = sql.try_run(&statement).await {
            return (written, refusal);
        }
    }
    panic!("{RECORDS_MAX} rows on a disk of {DISK_MIB} MiB");
}

/// Writes one record once the node takes it again.
async fn written_again(producer: &FutureProducer, topic: &str, offset: i64) {
    until("writing to go on", || write(producer, topic, offset), Result::is_ok).await.expect("it was just accepted");
}

async fn make_streams(sql: &Sql, topics: &[&str]) {
    for topic in topics {
        sql.run(&format!(
            "CREATE STREAM {topic} (k STRING KEY, v STRING) \
             WITH (kafka_topic = '{topic}', value_format = 'json', partitions = 1)"
        ))
        .await;
    }
}

/// Drops the stream and deletes its topic.
async fn delete(node: &Node, topic: &str) {
    Sql::connect(node).await.run(&format!("DROP STREAM {topic}")).await;
    let deleted = admin(node).delete_topics(&[topic], &AdminOptions::new()).await.expect("answered");
    assert_eq!(deleted, [Ok(topic.to_owned())]);
}

/// What both wires show of a topic is what was acknowledged.
async fn expect_offsets(node: &Node, topic: &str, offsets: Range<i64>) {
    let sql = Sql::connect(node).await;
    assert_eq!(sql.number(&format!("SELECT count(*) FROM topics.\"{topic}\"")).await, offsets.end - offsets.start);
    let records = read_to_end(node, topic, "read_committed").await;
    let read: Vec<i64> = records.iter().map(|record| record.offset()).collect();
    assert_eq!(read, offsets.collect::<Vec<_>>(), "{topic}");
    for record in records.iter().filter(|_| topic != "notes") {
        assert!(record.payload() == Some(value(record.offset()).as_slice()), "{topic} at offset {}", record.offset());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_writes_are_refused_reads_go_on_and_whatever_frees_space_does() {
    let Some(disk) = SmallDisk::here() else { return };
    let objects = TempDir::with_prefix("aquifer-objects-").expect("a temporary directory");
    let store = format!("file://{}", objects.path().display());
    let mut node = disk.node(&[
        ("AQUIFER_OBJECT_STORE", store.as_str()),
        ("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "0"),
        ("AQUIFER_HOUSEKEEPING_INTERVAL", "0"),
    ]);
    let sql = Sql::connect(&node).await;
    make_streams(&sql, &["ballast", "kept", "big", "notes"]).await;
    let producer = blunt(&node);
    // Old records of `kept` stand before all that goes: they are carried over.
    let (mut kept, mut ballast) = (0, 0);
    for number in 0..200 {
        let (topic, end) = if number % 20 == 0 { ("kept", &mut kept) } else { ("ballast", &mut ballast) };
        write(&producer, topic, *end).await.expect("there is room");
        *end += 1;
    }
    let mut big = fill(&producer, "big", 0).await;
    let (mut notes, refusal) = insert_until_refused(&sql).await;
    assert_eq!(refusal.state.code(), "53100", "{refusal:?}");
    assert!(refusal.hint.as_ref().is_some_and(|hint| hint.contains("DELETE TOPIC")), "{refusal:?}");
    for (topic, end) in [("kept", kept), ("ballast", ballast), ("big", big)] {
        expect_offsets(&node, topic, 0..end).await;
    }

    // SIGKILL. A start needs room too, and finds all of it again.
    node.restart();
    for (topic, end) in [("kept", kept), ("ballast", ballast), ("big", big), ("notes", notes)] {
        expect_offsets(&node, topic, 0..end).await;
    }
    big = fill(&producer, "big", big).await;

    // From here on one process goes on by itself.
    delete(&node, "ballast").await;
    written_again(&producer, "kept", kept).await;
    big = fill_more(&producer, "big", big, ballast / 2).await;

    Sql::connect(&node).await.run("VACUUM").await;
    let mut low = TopicPartitionList::new();
    let start = big - 5;
    low.add_partition_offset("big", 0, Offset::Offset(start)).expect("an offset");
    admin(&node).delete_records(&low, &AdminOptions::new()).await.expect("answered");
    written_again(&producer, "kept", kept + 1).await;
    big = fill_more(&producer, "big", big, ballast).await;

    let sql = Sql::connect(&node).await;
    sql.run("CHECKPOINT").await;
    written_again(&producer, "kept", kept + 2).await;
    big = fill_more(&producer, "big", big, ballast).await;
    let (more, _) = insert_until_refused(&sql).await;
    notes += more;
    node.restart();
    for (topic, offsets) in [("kept", 0..kept + 3), ("big", start..big), ("notes", 0..notes)] {
        expect_offsets(&node, topic, offsets).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_on_the_same_full_disk_fails_to_take_objects_and_goes_on_once_there_is_room() {
    let Some(disk) = SmallDisk::here() else { return };
    let mut node = disk.node(&[
        ("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "0"),
        ("AQUIFER_TIER_BYTES_MIN", "512 KiB"),
        // An object needs room before the log gives any.
        ("AQUIFER_TIER_RUN_BYTES_MAX", "512 KiB"),
        ("AQUIFER_SWEEP_GRACE", "0"),
        ("AQUIFER_HOUSEKEEPING_INTERVAL", "200 ms"),
    ]);
    let sql = Sql::connect(&node).await;
    make_streams(&sql, &["ballast", "big"]).await;
    let producer = blunt(&node);
    for offset in 0..200 {
        write(&producer, "ballast", offset).await.expect("there is room");
    }
    sql.run("CHECKPOINT").await;
    // Until the objects have taken what the log has given.
    let mut big = fill(&producer, "big", 0).await;
    let began = Instant::now();
    while !node.log().contains("tiering failed") {
        assert!(began.elapsed() < PATIENCE, "objects always find room");
        big = fill(&producer, "big", big).await;
    }
    expect_offsets(&node, "ballast", 0..200).await;
    expect_offsets(&node, "big", 0..big).await;
    node.restart();
    expect_offsets(&node, "ballast", 0..200).await;
    expect_offsets(&node, "big", 0..big).await;

    delete(&node, "ballast").await;
    written_again(&producer, "big", big).await;
    big += 1;
    let sql = Sql::connect(&node).await;
    until("tiering to go on", || sql.try_run("CHECKPOINT"), Option::is_none).await;
    expect_offsets(&node, "big", 0..big).await;
    node.restart();
    expect_offsets(&node, "big", 0..big).await;
}
