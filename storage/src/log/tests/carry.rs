//! Carrying over: the log stays small whatever waits in it, and nothing is lost, doubled or changed on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{HOUR_US, append, batch, options, topic};
use crate::clock::ManualClock;
use crate::commit::{Append, Commit};
use crate::ids::TopicPartition;
use crate::log::{Node, Piece};
use crate::record::batch::{BatchBuilder, Compression, TimestampType};
use crate::testing::FaultDisk;
use crate::view::Health;

/// Offset and commit time of every batch of a partition, as read from the log.
fn found(node: &Node, partition: TopicPartition) -> BTreeMap<i64, i64> {
    let pinned = node.pin_hot(&[(partition, 0)]).unwrap().remove(0);
    let mut found = BTreeMap::new();
    for run in pinned.runs().unwrap() {
        for piece in run.read().unwrap() {
            let Piece::Batches(batches) = piece else { panic!("damaged: {piece:?}") };
            for of_run in batches {
                let offset = of_run.batch.header().base_offset;
                assert_eq!(found.insert(offset, of_run.commit_time_us), None, "offset {offset} twice");
            }
        }
    }
    found
}

fn log_bytes(node: &Node) -> u64 {
    node.segments().iter().map(|segment| segment.bytes).sum()
}

/// Appends one record; answers with offset and commit time, if it was acknowledged.
async fn append_one(node: &Node, partition: TopicPartition, bytes: usize) -> Option<(i64, i64)> {
    let append = Append { topic: partition.topic, partition: 0, batch: batch(bytes) };
    let receipt = node.commit(Commit { appends: vec![append], ..Commit::default() }).await.ok()?;
    Some((receipt.appended[0].base_offset, receipt.commit_time_us))
}

#[tokio::test]
async fn what_waits_in_a_slow_partition_is_carried_over_unchanged_and_the_log_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
    let (slow, fast) = (topic(&node, "slow").await, topic(&node, "fast").await);
    let mut written = BTreeMap::new();
    let mut pinned = Vec::new();
    let segment_bytes = node.settings().wal_segment_bytes;
    for round in 0..60_i64 {
        written.extend(append_one(&node, slow, 500).await);
        append(&node, fast, 10).await;
        clock.advance_us(2 * HOUR_US);
        node.set_tiered_end(&[(fast, (round + 1) * 10, 0)]);
        if round % 10 == 0 {
            pinned.push((written.clone(), node.pin_hot(&[(slow, 0)]).unwrap().remove(0)));
        }
        node.forget().await.unwrap();
        let needed = written.len() as u64 * 800;
        let (bytes, limit) = (log_bytes(&node), 2 * needed + 8 * segment_bytes);
        assert!(bytes <= limit, "round {round}: {bytes} bytes in the log, {needed} are needed");
    }
    assert_eq!(found(&node, slow), written);
    assert_eq!(node.watermarks(slow).unwrap().high_watermark, 60);
    assert!(node.hot_start(fast).unwrap() > 300, "the fast one is let go");
    for (written, range) in pinned {
        let runs = range.runs().unwrap();
        let read: usize =
            runs.iter().flat_map(|run| run.read().unwrap()).map(|piece| piece.whole().unwrap().len()).sum();
        assert_eq!(read, written.len(), "who has pinned it reads on, although the segments are gone");
    }
    node.close().await.unwrap();
    let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
    assert_eq!((node.health(), found(&node, slow)), (Health::Ready, written));
    assert_eq!(append_one(&node, slow, 1).await.unwrap().0, 60);
}

/// Writes, tiers in word, forgets and carries until the power is cut.
async fn until_dead(dir: &Path, clock: &Arc<ManualClock>, disk: &FaultDisk) -> (TopicPartition, TopicPartition, Seen) {
    let node = Node::open_on(&options(dir, clock), Arc::new(disk.clone())).await.unwrap();
    let (slow, fast) = (topic(&node, "slow").await, topic(&node, "fast").await);
    let mut seen = Seen::default();
    'alive: loop {
        for _ in 0..10 {
            let Some((offset, _)) = append_one(&node, fast, 4000).await else { break 'alive };
            seen.fast_end = offset + 1;
        }
        let Some((offset, commit_time_us)) = append_one(&node, slow, 3000).await else { break };
        seen.slow.insert(offset, commit_time_us);
        clock.advance_us(2 * HOUR_US);
        node.set_tiered_end(&[(fast, seen.fast_end, 0)]);
        if node.forget().await.is_err() {
            break;
        }
    }
    let _ = node.close().await;
    (slow, fast, seen)
}

/// What was acknowledged.
#[derive(Debug, Default)]
struct Seen {
    slow: BTreeMap<i64, i64>,
    fast_end: i64,
}

#[tokio::test]
async fn a_power_cut_at_any_point_of_carrying_over_loses_nothing_and_doubles_nothing() {
    let mut carried = 0;
    for seed in 1..=60_u64 {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at_us(1_000_000));
        let disk = FaultDisk::new(seed);
        disk.power_cut_after_syncs(150 + u32::try_from(seed).unwrap() * 3);
        let (slow, fast, seen) = until_dead(dir.path(), &clock, &disk).await;
        let node =
            Node::open(&options(dir.path(), &clock)).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(node.health(), Health::Ready, "seed {seed}");
        let mut left = found(&node, slow);
        let beyond: Vec<_> = left.split_off(&(seen.slow.len() as i64)).into_keys().collect();
        assert_eq!(left, seen.slow, "seed {seed}");
        assert!(beyond.is_empty() || beyond == [seen.slow.len() as i64], "seed {seed}: {beyond:?}");
        let start = node.known_start(fast).unwrap();
        assert!(start <= seen.fast_end, "seed {seed}: the log begins at {start}, {} is tiered", seen.fast_end);
        let of_fast: Vec<_> = found(&node, fast).into_keys().collect();
        assert!(of_fast.windows(2).all(|pair| pair[0] + 1 == pair[1]), "seed {seed}: {of_fast:?}");
        carried += i64::from(node.segments()[0].id > 0 && start > 0);
        // And so it goes on.
        let end = node.watermarks(fast).unwrap().high_watermark;
        node.set_tiered_end(&[(fast, end, 0)]);
        clock.advance_us(2 * HOUR_US);
        append(&node, fast, 30).await;
        node.forget().await.unwrap();
        let kept = found(&node, slow);
        assert_eq!(kept.len(), left.len() + beyond.len(), "seed {seed}");
        assert!(left.iter().all(|of_left| kept.get(of_left.0) == Some(of_left.1)), "seed {seed}");
        node.close().await.unwrap();
    }
    assert!(carried > 30, "only {carried} seeds came as far as carrying over");
}

/// Changes the bytes behind a text that stands in the log once.
fn damage(node: &Node, text: &[u8]) {
    for segment in node.segments() {
        let mut bytes = std::fs::read(&segment.path).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
            bytes[at] ^= 1;
            std::fs::write(&segment.path, bytes).unwrap();
            return;
        }
    }
    panic!("it is not there");
}

/// Offsets that can be read, whatever is damaged between them.
fn readable(node: &Node, partition: TopicPartition) -> Vec<i64> {
    let runs = node.pin_hot(&[(partition, 0)]).unwrap().remove(0).runs().unwrap();
    let pieces = runs.iter().flat_map(|run| run.read().unwrap());
    let batches = pieces.filter_map(|piece| match piece {
        Piece::Batches(batches) => Some(batches),
        Piece::Damaged { .. } => None,
    });
    batches.flatten().map(|found| found.batch.header().base_offset).collect()
}

#[tokio::test]
async fn what_stands_before_a_damaged_record_is_carried_over_and_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
    let (slow, fast) = (topic(&node, "slow").await, topic(&node, "fast").await);
    for text in ["first of three", "second of three", "third of three"] {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        builder.push(5, None, Some(text.as_bytes()), &[]);
        let append = Append { topic: slow.topic, partition: 0, batch: builder.build(Compression::None).unwrap() };
        node.commit(Commit { appends: vec![append], ..Commit::default() }).await.unwrap();
        append_one(&node, fast, 4000).await.unwrap();
    }
    damage(&node, b"second of three");
    let first = node.segments()[0].id;
    let mut node = node;
    for round in 0..12 {
        for _ in 0..20 {
            append_one(&node, fast, 4000).await.unwrap();
        }
        let end = node.watermarks(fast).unwrap().high_watermark;
        node.set_tiered_end(&[(fast, end, 0)]);
        clock.advance_us(2 * HOUR_US);
        node.forget().await.unwrap();
        assert_eq!(readable(&node, slow), [0, 2], "round {round}");
        if round % 3 == 1 {
            node.close().await.unwrap();
            node = Node::open(&options(dir.path(), &clock)).await.unwrap();
            assert_eq!(readable(&node, slow), [0, 2], "round {round}, after a restart");
        }
    }
    assert!(node.segments()[0].id > first, "the damaged segment is gone");
    assert!(matches!(node.health(), Health::Damaged(_)), "what is lost is not forgotten");
}
