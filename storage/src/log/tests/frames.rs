//! How large frames become when many commits come at once.

use super::*;
use crate::log::frames::walk;

const COMMIT_BYTES_MAX: u64 = 64 << 10;
/// Directory and header of a frame, padding, and what the estimates of our own topics' records may be short of.
const SLACK_BYTES: u64 = 24 << 10;

/// Bytes of each frame of the log.
fn frame_bytes(node: &Node) -> Vec<u64> {
    let mut bytes = Vec::new();
    for segment in node.shared.published.read().segments.values() {
        let end = segment.extent().end;
        let whole = walk(segment, end, true, |frame| {
            bytes.push(frame.header.frame_bytes());
            Ok(())
        });
        assert!(whole.unwrap().damaged.is_empty());
    }
    bytes
}

#[tokio::test]
async fn ends_of_many_transactions_at_once_make_no_frame_larger_than_a_commit_may_be() {
    const PARTITIONS: i32 = 100;
    const PRODUCERS: usize = 30;
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let mut options = options(dir.path(), &clock);
    options.settings.wal_commit_bytes_max = COMMIT_BYTES_MAX;
    options.settings.wal_segment_bytes = 1 << 22;
    let node = Node::open(&options).await.unwrap();
    let topic = TopicId(node.random().uuid());
    let create = TopicChange::Create {
        id: topic,
        name: "events".to_owned(),
        partitions: PARTITIONS,
        config: TopicConfig::default(),
    };
    node.commit(Commit { topics: vec![create], ..Commit::default() }).await.unwrap();
    let mut producers = Vec::new();
    for number in 0..PRODUCERS {
        let id = format!("t{number}");
        let init = TransactionChange::Init { transactional_id: id.clone(), timeout_ms: 60_000, expected: None };
        let commit = Commit { transactions: vec![init], ..Commit::default() };
        let producer = node.commit(commit).await.unwrap().transactions[0];
        let partitions = (0..PARTITIONS).map(|partition| TopicPartition { topic, partition }).collect();
        let add = TransactionChange::AddPartitions { transactional_id: id.clone(), producer, partitions };
        let append = |partition| Append { topic, partition, batch: batch(10).in_transaction(producer, 0) };
        let appends = (0..PARTITIONS).map(append).collect();
        node.commit(Commit { transactions: vec![add], appends, ..Commit::default() }).await.unwrap();
        producers.push((id, producer));
    }
    let ends = producers.into_iter().map(|(transactional_id, producer)| {
        let end = TransactionChange::End { transactional_id, producer, committed: true };
        node.commit(Commit { transactions: vec![end], ..Commit::default() })
    });
    let ended = futures::future::join_all(ends).await;
    assert!(ended.into_iter().all(|ended| ended.is_ok()));
    for partition in 0..PARTITIONS {
        let ends = node.watermarks(TopicPartition { topic, partition }).unwrap();
        assert_eq!((ends.last_stable_offset, ends.high_watermark), (2 * PRODUCERS as i64, 2 * PRODUCERS as i64));
    }
    let largest = frame_bytes(&node).into_iter().max().unwrap();
    assert!(largest <= COMMIT_BYTES_MAX + SLACK_BYTES, "a frame of {largest} bytes");
    node.close().await.unwrap();
}
