//! A damaged part of a footer: its runs are told from the frames, and what they do not tell is named, never left out.

use std::ops::Range;
use std::sync::Arc;

use super::{append, batch, options, topic};
use crate::clock::ManualClock;
use crate::commit::{Append, Commit};
use crate::ids::TopicPartition;
use crate::log::index::Held;
use crate::log::segment::{SEGMENT_HEADER_BYTES, Segment};
use crate::log::{Node, Piece};

/// A partition with ten batches in one entry of one frame, then others; and the sealed segment in which the ten are.
async fn ten_in_one_entry(node: &Node) -> (TopicPartition, Arc<Segment>) {
    let here = topic(node, "events").await;
    let ten = (0..10).map(|_| Append { topic: here.topic, partition: 0, batch: batch(100) });
    node.commit(Commit { appends: ten.collect(), ..Commit::default() }).await.unwrap();
    append(node, here, 20).await;
    let segment = Arc::clone(&node.shared.published.read().segments[&0]);
    assert!(segment.extent().sealed);
    (here, segment)
}

fn flip(segment: &Segment, at: u64) {
    let mut bytes = std::fs::read(&segment.path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    std::fs::write(&segment.path, bytes).unwrap();
}

/// Damages the runs of the partition's stretch in the segment.
fn flip_part(node: &Node, here: TopicPartition, segment: &Segment) {
    let published = node.shared.published.read();
    let stretch = published.partitions[&here].runs.iter().next().unwrap();
    let Held::Footer(part) = &stretch.held else { panic!("in the footer") };
    flip(segment, segment.file_offset(segment.extent().end) + part.at);
}

/// What reading gives: the offsets of batches, and ranges that are named as damaged.
fn read(node: &Node, here: TopicPartition) -> (Vec<i64>, Vec<Range<i64>>) {
    let (mut whole, mut damaged) = (Vec::new(), Vec::new());
    for run in node.pin_hot(&[(here, 0)]).unwrap().remove(0).runs().unwrap() {
        for piece in run.read().unwrap() {
            match piece {
                Piece::Batches(batches) => whole.extend(batches.iter().map(|found| found.batch.header().base_offset)),
                Piece::Damaged { offsets, .. } => damaged.push(offsets.start..offsets.end),
            }
        }
    }
    (whole, damaged)
}

#[tokio::test]
async fn an_entry_that_reaches_beyond_what_is_left_of_its_stretch_is_found_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
    let (here, segment) = ten_in_one_entry(&node).await;
    flip_part(&node, here, &segment);
    // As if 4..7 had been carried over, and what is there now is another copy.
    node.shared.published.write().partitions.get_mut(&here).unwrap().runs.make_room(4, 6);
    let rest: Vec<_> = (0..4).chain(7..30).collect();
    assert_eq!(read(&node, here), (rest, Vec::new()));
}

#[tokio::test]
async fn offsets_that_neither_footer_nor_frames_tell_are_named_and_the_rest_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
    let (here, segment) = ten_in_one_entry(&node).await;
    flip_part(&node, here, &segment);
    let first = node.pin_hot(&[(here, 0)]).unwrap().remove(0).stretches.remove(0).runs().unwrap().remove(0);
    assert_eq!((first.base_offset, read(&node, here)), (0, ((0..30).collect(), Vec::new())));
    node.close().await.unwrap();
    let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
    let mut bytes = std::fs::read(&segment.path).unwrap();
    let frame = crate::log::frame::FRAME_MAGIC;
    let of_ten = bytes.windows(frame.len()).enumerate().filter(|(_, window)| *window == frame).nth(1).unwrap().0;
    // Header and directory.
    bytes[of_ten..of_ten + 256].fill(0xff);
    std::fs::write(&segment.path, bytes).unwrap();
    assert!(of_ten as u64 > SEGMENT_HEADER_BYTES);
    let lost = std::iter::once(0..10).collect();
    assert_eq!(read(&node, here), ((10..30).collect(), lost));
}
