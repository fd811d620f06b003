//! The node without the tier: pins, forgetting, and what the index says of them.

mod carry;
mod flips;
mod footers;
mod frames;

use std::path::Path;
use std::sync::Arc;

use crate::clock::{ManualClock, SystemRandom};
use crate::commit::{Append, Commit, TopicChange, TransactionChange};
use crate::error::Error;
use crate::ids::{TopicId, TopicPartition};
use crate::log::{Node, Piece, Reach};
use crate::record::batch::{BatchBuilder, CheckedBatch, Compression, TimestampType};
use crate::settings::StorageSettings;
use crate::storage::OpenOptions;
use crate::testing::FaultDisk;
use crate::topic_config::TopicConfig;
use crate::view::{FetchRequest, Isolation};

const HOUR_US: i64 = 3600 * 1_000_000;

fn options(dir: &Path, clock: &Arc<ManualClock>) -> OpenOptions {
    OpenOptions {
        data_dir: dir.to_owned(),
        object_store_url: None,
        object_store: Default::default(),
        settings: StorageSettings { wal_segment_bytes: 1 << 15, wal_reserve_bytes: 0, ..Default::default() },
        clock: Arc::clone(clock) as Arc<dyn crate::clock::Clock>,
        random: Arc::new(SystemRandom),
    }
}

fn batch(bytes: usize) -> CheckedBatch {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    builder.push(5, None, Some(&vec![b'x'; bytes]), &[]);
    builder.build(Compression::None).unwrap()
}

async fn topic(node: &Node, name: &str) -> TopicPartition {
    let id = TopicId(node.random().uuid());
    let create = TopicChange::Create { id, name: name.to_owned(), partitions: 1, config: TopicConfig::default() };
    node.commit(Commit { topics: vec![create], ..Commit::default() }).await.unwrap();
    TopicPartition { topic: id, partition: 0 }
}

async fn append(node: &Node, partition: TopicPartition, count: usize) {
    for _ in 0..count {
        let append = Append { topic: partition.topic, partition: 0, batch: batch(4000) };
        node.commit(Commit { appends: vec![append], ..Commit::default() }).await.unwrap();
    }
}

#[tokio::test]
async fn segments_go_when_tiered_and_old_enough_and_what_is_pinned_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
    let here = topic(&node, "events").await;
    append(&node, here, 40).await;
    let count = node.segments().len();
    let pinned = node.pin_hot(&[(here, 0)]).unwrap().remove(0);
    let runs = pinned.runs().unwrap();
    assert_eq!((pinned.start, pinned.end), (0, 40));
    let pinned_bytes: u64 = runs.iter().map(|run| u64::from(run.len)).sum();
    assert_eq!(node.tiering_backlog()[0].untiered_bytes, pinned_bytes);
    node.forget().await.unwrap();
    assert_eq!(node.segments().len(), count, "nothing is tiered yet");
    node.set_tiered_end(&[(here, 40, 0)]);
    assert_eq!(node.tiering_backlog()[0].untiered_bytes, 0);
    node.forget().await.unwrap();
    assert_eq!(node.segments().len(), count, "the local retention has not passed");
    clock.advance_us(2 * HOUR_US);
    node.forget().await.unwrap();
    assert!(node.segments().len() < count);
    let hot_start = node.hot_start(here).unwrap();
    assert!(hot_start > 0);
    let below = node
        .fetch_hot(FetchRequest { partition: here, offset: 0, bytes_max: 1, isolation: Isolation::default() })
        .await
        .unwrap();
    assert!(matches!(below, Reach::Below { hot_start: start, .. } if start == hot_start));
    for run in &runs {
        let Piece::Batches(batches) = run.read().unwrap().remove(0) else { panic!("whole") };
        assert_eq!(batches[0].batch.header().base_offset, run.base_offset);
    }
    node.close().await.unwrap();
    let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
    assert_eq!(node.hot_start(here).unwrap(), hot_start);
    assert_eq!(node.watermarks(here).unwrap().high_watermark, 40);
    assert_eq!(node.health(), crate::view::Health::Ready);
    // Without a manifest that says so nothing below is tiered: what is missing is said, not skipped.
    let missing = node
        .fetch_hot(FetchRequest { partition: here, offset: 0, bytes_max: 1, isolation: Isolation::default() })
        .await;
    assert!(matches!(missing, Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn what_is_tiered_makes_room_before_its_local_retention_has_passed_when_the_log_is_half_full() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let mut options = options(dir.path(), &clock);
    options.settings.wal_bytes_max = 1 << 18;
    let node = Node::open(&options).await.unwrap();
    let here = topic(&node, "events").await;
    // Three times what the log may hold: without room made, most of it would be refused.
    for end in (10..=200).step_by(10) {
        append(&node, here, 10).await;
        node.set_tiered_end(&[(here, end, 0)]);
        node.forget().await.unwrap();
    }
    let bytes: u64 = node.segments().iter().map(|segment| segment.bytes).sum();
    assert!(bytes > 1 << 16, "no more goes than has to: {bytes} bytes are left");
}

#[tokio::test]
async fn segments_of_deleted_topics_go_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
    let gone = topic(&node, "gone").await;
    append(&node, gone, 40).await;
    let count = node.segments().len();
    node.commit(Commit { topics: vec![TopicChange::Delete { id: gone.topic }], ..Commit::default() }).await.unwrap();
    let other = topic(&node, "other").await;
    node.forget().await.unwrap();
    assert!(node.segments().len() < count);
    append(&node, other, 1).await;
    let own = TopicPartition { topic: TopicId::own(crate::ids::OwnTopic::Catalog), partition: 0 };
    let ends = node.watermarks(own).unwrap();
    assert_eq!(ends.log_start_offset, node.hot_start(own).unwrap());
    assert!(ends.log_start_offset > 0, "our own topics' records go when snapshots cover them");
}

#[tokio::test]
async fn a_node_on_a_store_in_memory_forgets_nothing() {
    // However it is written: a scheme has no case.
    for url in ["memory:", "memory:///", "Memory:", " memory:"] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at_us(1_000_000));
        let options = OpenOptions { object_store_url: Some(url.to_owned()), ..options(dir.path(), &clock) };
        let node = Node::open(&options).await.unwrap();
        let here = topic(&node, "events").await;
        append(&node, here, 40).await;
        node.set_tiered_end(&[(here, 40, 0)]);
        clock.advance_us(2 * HOUR_US);
        let before = node.segments();
        node.forget().await.unwrap();
        assert_eq!(node.segments(), before, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_commits_of_several_partitions_are_all_found_from_any_offset() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
    let (left, right) = (topic(&node, "left").await, topic(&node, "right").await);
    let one = |here: TopicPartition| {
        let append = Append { topic: here.topic, partition: 0, batch: batch(20) };
        node.commit(Commit { appends: vec![append], ..Commit::default() })
    };
    for _ in 0..400 {
        let (left, right) = tokio::join!(one(left), one(right));
        left.and(right).unwrap();
    }
    for here in [left, right] {
        for offset in 0..400 {
            let isolation = crate::view::Isolation::ReadUncommitted;
            let request = FetchRequest { partition: here, offset, bytes_max: 200, isolation };
            let Reach::Hot(fetched) = node.fetch_hot(request).await.unwrap() else { panic!("all of it is hot") };
            let first = crate::record::batch::BatchHeader::parse(&fetched.batches[0]).unwrap();
            assert_eq!(first.base_offset, offset);
        }
    }
}

#[tokio::test]
async fn local_retention_counts_from_the_end_of_the_transaction_that_held_records_up() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let node = Node::open(&options(dir.path(), &clock)).await.unwrap();
    let here = topic(&node, "events").await;
    let id = || "t".to_owned();
    let step = async |change| {
        let commit = Commit { transactions: vec![change], ..Commit::default() };
        node.commit(commit).await.unwrap().transactions[0]
    };
    let producer = step(TransactionChange::Init { transactional_id: id(), timeout_ms: 60_000, expected: None }).await;
    step(TransactionChange::AddPartitions { transactional_id: id(), producer, partitions: vec![here] }).await;
    let held = Append { topic: here.topic, partition: 0, batch: batch(10).in_transaction(producer, 0) };
    node.commit(Commit { appends: vec![held], ..Commit::default() }).await.unwrap();
    append(&node, here, 40).await;
    let count = node.segments().len();
    assert_eq!(node.tiering_backlog()[0].last_stable_offset, 0);
    assert_eq!(node.tiering_backlog()[0].untiered_bytes, 0, "nothing may be tiered yet");
    clock.advance_us(2 * HOUR_US);
    node.end_overdue().await;
    assert_eq!(node.watermarks(here).unwrap().last_stable_offset, 42);
    node.set_tiered_end(&[(here, 42, 0)]);
    node.forget().await.unwrap();
    assert_eq!(node.segments().len(), count, "what could not be read until now is kept");
    clock.advance_us(2 * HOUR_US);
    node.forget().await.unwrap();
    assert!(node.segments().len() < count);
}

#[tokio::test]
async fn what_is_read_at_the_start_does_not_grow_with_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let mut read = Vec::new();
    for rounds in 0..3 {
        let disk = FaultDisk::new(1);
        let node = Node::open_on(&options(dir.path(), &clock), Arc::new(disk.clone())).await.unwrap();
        read.push(disk.bytes_read());
        let here = match node.topic("events") {
            Some(events) => TopicPartition { topic: events.id, partition: 0 },
            None => topic(&node, "events").await,
        };
        append(&node, here, 1 + rounds * 200).await;
        let segments = node.segments().len() as u64;
        node.close().await.unwrap();
        read.push(segments);
    }
    let [_, _, small, few, large, many] = read[..] else { panic!("{read:?}") };
    assert!(many > few + 30, "{few} and {many} segments");
    // A header, a trailer and a directory of one stretch each; besides, one segment is scanned and one snapshot read.
    let segment_bytes = options(dir.path(), &clock).settings.wal_segment_bytes;
    assert!(large <= small + 2 * segment_bytes + few * 1024, "{small} and {large} bytes read");
}

#[tokio::test]
async fn a_large_batch_that_does_not_fit_an_answer_is_not_read_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let disk = FaultDisk::new(1);
    let mut options = options(dir.path(), &clock);
    options.settings.wal_segment_bytes = 1 << 20;
    let node = Node::open_on(&options, Arc::new(disk.clone())).await.unwrap();
    let here = topic(&node, "events").await;
    for _ in 0..3 {
        let append = Append { topic: here.topic, partition: 0, batch: batch(100_000) };
        node.commit(Commit { appends: vec![append], ..Commit::default() }).await.unwrap();
    }
    let before = disk.bytes_read();
    let request = FetchRequest { partition: here, offset: 0, bytes_max: 250_000, isolation: Isolation::default() };
    let Reach::Hot(fetched) = node.fetch_hot(request).await.unwrap() else { panic!("the log has it") };
    assert_eq!(fetched.batches.len(), 2);
    let given: usize = fetched.batches.iter().map(bytes::Bytes::len).sum();
    // What lies between the two is read along.
    assert!(disk.bytes_read() - before < given as u64 + 1000);
    // The first comes in any case.
    let Reach::Hot(fetched) = node.fetch_hot(FetchRequest { bytes_max: 1, ..request }).await.unwrap() else {
        panic!("the log has it")
    };
    assert_eq!(fetched.batches.len(), 1);
    node.close().await.unwrap();
}

#[tokio::test]
async fn a_segment_that_could_not_be_removed_goes_later_and_what_was_aborted_in_it_stays_aborted_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_us(1_000_000));
    let disk = FaultDisk::new(1);
    let node = Node::open_on(&options(dir.path(), &clock), Arc::new(disk.clone())).await.unwrap();
    let here = topic(&node, "events").await;
    let id = || "t".to_owned();
    let step = async |change| {
        let commit = Commit { transactions: vec![change], ..Commit::default() };
        node.commit(commit).await.unwrap().transactions[0]
    };
    let producer = step(TransactionChange::Init { transactional_id: id(), timeout_ms: 60_000, expected: None }).await;
    step(TransactionChange::AddPartitions { transactional_id: id(), producer, partitions: vec![here] }).await;
    let undone = Append { topic: here.topic, partition: 0, batch: batch(10).in_transaction(producer, 0) };
    node.commit(Commit { appends: vec![undone], ..Commit::default() }).await.unwrap();
    step(TransactionChange::End { transactional_id: id(), producer, committed: false }).await;
    append(&node, here, 40).await;
    let first = node.segments()[0].id;
    node.set_tiered_end(&[(here, 42, 0)]);
    clock.advance_us(2 * HOUR_US);
    disk.fail_removals(true);
    assert!(node.forget().await.is_err());
    disk.fail_removals(false);
    // Snapshots are made meanwhile.
    append(&node, here, 40).await;
    node.close().await.unwrap();
    let node = Node::open_on(&options(dir.path(), &clock), Arc::new(disk.clone())).await.unwrap();
    assert_eq!((node.health(), node.segments()[0].id), (crate::view::Health::Ready, first));
    let request = FetchRequest { partition: here, offset: 0, bytes_max: 1, isolation: Isolation::ReadCommitted };
    let Reach::Hot(fetched) = node.fetch_hot(request).await.unwrap() else { panic!("the log has it again") };
    let told: Vec<_> = fetched.aborted.iter().map(|aborted| (aborted.producer_id, aborted.first_offset)).collect();
    assert_eq!(told, [(producer.id, 0)]);
    node.set_tiered_end(&[(here, 42, 0)]);
    disk.fail_removals(true);
    assert!(node.forget().await.is_err());
    disk.fail_removals(false);
    node.forget().await.unwrap();
    assert!(node.segments()[0].id > first, "the next look tries again");
    let positions = node.segments().into_iter().map(|segment| segment.path);
    let left: Vec<_> = std::fs::read_dir(node.log_dir()).unwrap().map(|file| file.unwrap().path()).collect();
    let left = left.iter().filter(|path| path.extension().is_some_and(|kind| kind == "wal")).count();
    assert_eq!(left, positions.count(), "no file is left behind");
}
