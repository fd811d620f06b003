//! A flipped bit in a segment is told from a torn tail: the range is named, asked for it answers with an error, and the
//! rest is served. What was acknowledged never vanishes in silence.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::support::kafka::{consumer, produce, producer, read_from_start};
use crate::support::node::Node;
use crate::support::sql::Sql;

async fn segments(node: &Node) -> Vec<(String, u64)> {
    let rows = Sql::connect(node).await.table("SELECT path, bytes FROM aquifer.segments ORDER BY id").await;
    rows.into_iter().map(|row| (row[0].clone(), row[1].parse().expect("a number"))).collect()
}

/// Where these bytes stand in a file.
fn find(path: &Path, needle: &[u8]) -> u64 {
    let content = fs::read(path).expect("a readable segment");
    let at = content.windows(needle.len()).position(|window| window == needle).expect("the bytes are there");
    u64::try_from(at).expect("small")
}

fn flip_bit(path: &Path, at: u64) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a segment");
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).expect("inside");
    file.read_exact(&mut byte).expect("inside");
    byte[0] ^= 0x10;
    file.seek(SeekFrom::Start(at)).expect("inside");
    file.write_all(&byte).expect("written");
    file.sync_all().expect("synced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_named_answered_with_an_error_and_the_rest_is_served() {
    let mut node = Node::start();
    Sql::connect(&node)
        .await
        .run(
            "CREATE STREAM hurt (k STRING KEY, n STRING) WITH (kafka_topic = 'hurt', value_format = 'json', partitions = 1);
             CREATE STREAM well (k STRING KEY, n STRING) WITH (kafka_topic = 'well', value_format = 'json', partitions = 1)",
        )
        .await;
    let producer = producer(&node);
    for number in 0..60 {
        produce(&producer, "hurt", "k", &format!(r#"{{"n":"hurt-{number:04}"}}"#)).await;
        produce(&producer, "well", "k", &format!(r#"{{"n":"well-{number:04}"}}"#)).await;
    }
    let (path, _) = segments(&node).await[0].clone();
    node.kill();
    let path = Path::new(&path);
    flip_bit(path, find(path, b"hurt-0020"));
    // Damage is something a person must look at.
    node.announce_error("corrupt");
    node.announce_error("damaged");
    node.restart();

    assert_eq!(read_from_start(&node, "well", 60).await.len(), 60, "other partitions are served whole");
    assert_eq!(read_from_start(&node, "hurt", 20).await.len(), 20, "and what lies before the damage");
    let sql = Sql::connect(&node).await;
    assert_eq!(sql.number("SELECT count(*) FROM well").await, 60);
    let refusal = sql.refused("SELECT count(*) FROM hurt").await;
    assert_eq!(refusal.state.code(), "XX001", "{refusal:?}");

    let reader = consumer(&node, "reader-of-damage");
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset("hurt", 0, Offset::Offset(20)).expect("an assignment");
    reader.assign(&assignment).expect("assigned");
    let answer = tokio::time::timeout(Duration::from_secs(3), reader.recv()).await;
    assert!(!matches!(answer, Ok(Ok(_))), "no record of the damaged range is served");
    let answered = produce(&producer, "well", "k", r#"{"n":"after"}"#).await;
    assert_eq!(answered, (0, 60), "writing goes on");
    let (status, reason) = crate::process::get(node.ports.http, "/ready");
    assert!(reason.to_lowercase().contains("corrupt") || reason.contains("damage"), "{status}: {reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_and_everything_acknowledged_stays() {
    let mut node = Node::start();
    let producer = producer(&node);
    for number in 0..50 {
        produce(&producer, "events", "k", &format!("value-{number:04}")).await;
    }
    let (path, bytes) = segments(&node).await.last().expect("a segment").clone();
    node.kill();
    // What a power cut leaves of a frame that was being written.
    let mut file = fs::OpenOptions::new().write(true).open(&path).expect("a segment");
    file.seek(SeekFrom::Start(bytes)).expect("the end");
    file.write_all(&[0x5a; 300]).expect("written");
    drop(file);
    node.restart();
    let sql = Sql::connect(&node).await;
    assert_eq!(sql.number("SELECT count(*) FROM topics.events").await, 50);
    produce(&producer, "events", "k", "after").await;
    assert_eq!(sql.number("SELECT count(*) FROM topics.events").await, 51);
}
