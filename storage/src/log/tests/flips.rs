//! One bit flips in any byte of a frame: every offset is given once, and every transaction has the end it had.

use std::path::Path;
use std::sync::Arc;

use super::{batch, options};
use crate::clock::ManualClock;
use crate::commit::{Append, Commit, TopicChange, TransactionChange};
use crate::ids::{ProducerIdentity, TopicId, TopicPartition};
use crate::log::closed::CLOSED;
use crate::log::frames::walk;
use crate::log::{Node, Piece};
use crate::topic_config::TopicConfig;
use crate::view::Health;

const PARTITIONS: i32 = 4;
const ID: &str = "t";
/// Only every such byte is looked at, unless there is much time.
const BYTES_SKIPPED: usize = 13;

/// A log with a transaction that was committed, and one of the same producer behind it that was aborted, in two of four
/// partitions that are equally long all the time.
async fn written(dir: &Path, clock: &Arc<ManualClock>) -> TopicId {
    let node = Node::open(&options(dir, clock)).await.unwrap();
    let topic = TopicId(node.random().uuid());
    let (name, config) = ("events".to_owned(), TopicConfig::default());
    let create = TopicChange::Create { id: topic, name, partitions: PARTITIONS, config };
    node.commit(Commit { topics: vec![create], ..Commit::default() }).await.unwrap();
    let init = TransactionChange::Init { transactional_id: ID.to_owned(), timeout_ms: 60_000, expected: None };
    let begun = node.commit(Commit { transactions: vec![init], ..Commit::default() }).await.unwrap();
    let producer = begun.transactions[0];
    for (sequence, committed) in [(0, true), (1, false)] {
        transaction(&node, topic, producer, sequence, committed).await;
    }
    node.close().await.unwrap();
    topic
}

async fn transaction(node: &Node, topic: TopicId, producer: ProducerIdentity, sequence: i32, committed: bool) {
    let transactional_id = || ID.to_owned();
    let partitions = (0..2).map(|partition| TopicPartition { topic, partition }).collect();
    let add = TransactionChange::AddPartitions { transactional_id: transactional_id(), producer, partitions };
    let of = |partition: i32| if partition < 2 { batch(10).in_transaction(producer, sequence) } else { batch(10) };
    let appends = (0..PARTITIONS).map(|partition| Append { topic, partition, batch: of(partition) }).collect();
    node.commit(Commit { transactions: vec![add], appends, ..Commit::default() }).await.unwrap();
    let end = TransactionChange::End { transactional_id: transactional_id(), producer, committed };
    // As long as those with a marker.
    let appends = (2..PARTITIONS).map(|partition| Append { topic, partition, batch: batch(10) }).collect();
    node.commit(Commit { transactions: vec![end], appends, ..Commit::default() }).await.unwrap();
}

/// The only segment, and where its frames lie in it.
async fn frames(dir: &Path, clock: &Arc<ManualClock>) -> (std::path::PathBuf, Vec<(u64, u64)>) {
    let node = Node::open(&options(dir, clock)).await.unwrap();
    let segment = Arc::clone(node.shared.published.read().segments.values().next().unwrap());
    let mut frames = Vec::new();
    let walked = walk(&segment, segment.extent().end, false, |frame| {
        frames.push((segment.file_offset(frame.header.position), frame.header.frame_bytes()));
        Ok(())
    });
    assert!(walked.unwrap().damaged.is_empty());
    node.close().await.unwrap();
    (segment.path.clone(), frames)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy(&path, &to) } else { assert!(std::fs::copy(&path, &to).is_ok()) }
    }
}

#[tokio::test]
async fn every_offset_is_given_once_and_every_transaction_ends_as_it_did_wherever_a_bit_flips() {
    let (whole, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::at_us(1_000_000)));
    let topic = written(whole.path(), &clock).await;
    let (segment, frames) = frames(whole.path(), &clock).await;
    let segment = segment.strip_prefix(whole.path()).unwrap();
    assert!(frames.len() >= 6, "{frames:?}");
    let step = if std::env::var_os("AQUIFER_SOAK").is_some() { 1 } else { BYTES_SKIPPED };
    for (start, bytes) in frames {
        // A different bit of each byte.
        for at in (start..start + bytes).step_by(step).map(|at| usize::try_from(at).unwrap()) {
            let dir = tempfile::tempdir().unwrap();
            copy(whole.path(), dir.path());
            let path = dir.path().join(segment);
            let mut damaged = std::fs::read(&path).unwrap();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(&path, damaged).unwrap();
            let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
            look(&node, topic, at);
        }
    }
}

fn look(node: &Node, topic: TopicId, at: usize) {
    let health = node.health();
    // Padding is covered by nothing, and holds nothing.
    assert!(matches!(&health, Health::Ready | Health::Damaged(_)), "byte {at}: {health:?}");
    for partition in 0..PARTITIONS {
        let here = TopicPartition { topic, partition };
        let Ok(ends) = node.watermarks(here) else {
            // The record that made it is what was damaged.
            assert!(matches!(health, Health::Damaged(_)), "byte {at}: {health:?}");
            return;
        };
        assert_eq!((ends.high_watermark, ends.last_stable_offset), (4, 4), "byte {at}, partition {partition}");
        let pinned = node.pin_hot(&[(here, 0)]).unwrap().remove(0);
        let aborted: Vec<_> = pinned.aborted.iter().map(|range| (range.first_offset, range.last_offset)).collect();
        let due: &[(i64, i64)] = if partition < 2 { &[(2, 3)] } else { &[] };
        // What cannot be read need not be left out.
        assert!(
            aborted == due || (aborted.is_empty() && !readable(node, here, 2)),
            "byte {at}, {partition}: {aborted:?}"
        );
    }
}

fn readable(node: &Node, here: TopicPartition, offset: i64) -> bool {
    let runs = node.pin_hot(&[(here, offset)]).unwrap().remove(0).runs().unwrap();
    let pieces = runs.iter().flat_map(|run| run.read().unwrap());
    pieces.into_iter().all(
        |piece| !matches!(piece, Piece::Damaged { offsets, .. } if offsets.start <= offset && offset < offsets.end),
    )
}

#[tokio::test]
async fn a_newest_segment_that_was_cut_short_after_the_log_was_closed_is_refused_by_its_name() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::at_us(1_000_000)));
    let topic = written(dir.path(), &clock).await;
    let (segment, frames) = frames(dir.path(), &clock).await;
    let (last, bytes) = *frames.last().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.set_len(last + bytes / 2).unwrap();
    let refused = Node::open(&options(dir.path(), &clock)).await.unwrap_err();
    assert!(refused.to_string().contains(&segment.display().to_string()), "{refused}");
    // Who says that it is known goes on with what is left.
    std::fs::remove_file(dir.path().join("log").join(CLOSED)).unwrap();
    let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
    assert!(node.watermarks(TopicPartition { topic, partition: 0 }).is_ok());
    drop(node);
    assert!(!dir.path().join("log").join(CLOSED).exists(), "only who closes in order leaves the mark");
}
