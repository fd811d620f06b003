//! Commits larger than a frame: visible in one act, or not at all.

use std::time::Duration;

use aquifer_storage::testing::FaultDisk;
use aquifer_storage::{
    Append, Commit, Error, Expect, OpenOptions, PositionChange, Storage, Topic, TopicChange, TopicConfig,
};
use futures::FutureExt;

use crate::support::*;
use crate::transactions::{both, select};

const COMMIT_BYTES_MAX: u64 = 64 << 10;

fn small_commits(dir: &std::path::Path) -> OpenOptions {
    let mut options = options(dir);
    options.settings.wal_commit_bytes_max = COMMIT_BYTES_MAX;
    options.settings.wal_segment_bytes = 1 << 18;
    options
}

/// Appends of about `count` times 4 KiB, in turn to the partitions.
fn large(topic: &Topic, count: usize) -> Vec<Append> {
    let value = |index: usize| format!("{index:08}{}", "x".repeat(4000));
    let append = |index: usize| {
        let partition = i32::try_from(index).unwrap() % topic.partitions;
        Append { topic: topic.id, partition, batch: batch(&[&value(index)]) }
    };
    (0..count).map(append).collect()
}

fn position(expect: Expect) -> PositionChange {
    PositionChange { query: "q".to_owned(), value: Some("1".into()), expect }
}

#[tokio::test]
async fn a_commit_larger_than_a_frame_is_one_act() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(small_commits(dir.path())).await.unwrap();
    let topic = topic(&storage, "events", 2).await;
    produce(&storage, at(&topic, 0), &["before"]).await.unwrap();
    let commit = Commit { appends: large(&topic, 100), positions: vec![position(Expect::Absent)], ..Commit::default() };
    let receipt = storage.commit(commit.clone()).await.unwrap();
    assert_eq!(receipt.appended.len(), 100);
    assert!(receipt.transactions.is_empty());
    assert_eq!(receipt.appended[0].base_offset, 1);
    let rows = both(&storage, at(&topic, 0)).await;
    assert_eq!((rows.len(), &rows[50][..8]), (51, "00000098"));
    assert_eq!(both(&storage, at(&topic, 1)).await.len(), 50);
    assert!(storage.position("q").is_some());
    // The same once more: its precondition does not hold any more, and nothing of it is seen.
    assert!(matches!(storage.commit(commit).await, Err(Error::Conflict { .. })));
    eventually("what was refused is aborted", async || storage.transactions().is_empty()).await;
    assert_eq!(both(&storage, at(&topic, 0)).await.len(), 51);
    stop(storage).await;
    let storage = Storage::open(small_commits(dir.path())).await.unwrap();
    assert_eq!(both(&storage, at(&topic, 0)).await.len(), 51);
    assert!(storage.transactions().is_empty());
    stop(storage).await;
}

#[tokio::test]
async fn batches_that_fill_a_frame_are_part_of_a_large_commit() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(small_commits(dir.path())).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    let whole = batch(&[&"x".repeat(usize::try_from(COMMIT_BYTES_MAX).unwrap() - 100)]);
    assert!(whole.bytes().len() as u64 <= COMMIT_BYTES_MAX);
    let append = || Append { topic: topic.id, partition: 0, batch: whole.clone() };
    storage.commit(Commit { appends: vec![append(), append()], ..Commit::default() }).await.unwrap();
    assert_eq!(both(&storage, at(&topic, 0)).await.len(), 2);
    stop(storage).await;
}

#[tokio::test]
async fn a_commit_that_fits_a_frame_but_for_its_position_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(small_commits(dir.path())).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    let half = |bytes: usize| Append { topic: topic.id, partition: 0, batch: batch(&["x".repeat(bytes).as_str()]) };
    let limit = usize::try_from(COMMIT_BYTES_MAX).unwrap();
    for short in 0..100 {
        let appends = vec![half(limit / 2 - 100), half(limit / 2 - 50 - short)];
        let commit = Commit { appends, positions: vec![position(Expect::Anything)], ..Commit::default() };
        storage.commit(commit).await.unwrap_or_else(|error| panic!("{short}: {error}"));
    }
    stop(storage).await;
}

#[tokio::test]
async fn topics_made_by_a_large_commit_go_with_its_failure() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(small_commits(dir.path())).await.unwrap();
    let known = topic(&storage, "known", 1).await;
    for (name, expect) in [("refused", Expect::Present), ("made", Expect::Absent)] {
        let id = storage.new_topic_id();
        let create = TopicChange::Create { id, name: name.to_owned(), partitions: 2, config: TopicConfig::default() };
        let to_be = Topic { id, partitions: 2, ..known.as_ref().clone() };
        let commit = Commit {
            topics: vec![create],
            appends: large(&to_be, 60),
            positions: vec![position(expect.clone())],
            ..Commit::default()
        };
        let committed = storage.commit(commit).await;
        eventually("it has ended", async || storage.transactions().is_empty()).await;
        assert_eq!((committed.is_ok(), storage.topic(name).is_some()), (name == "made", name == "made"));
        if committed.is_ok() {
            assert_eq!(both(&storage, at(&to_be, 1)).await.len(), 30);
        }
    }
    stop(storage).await;
}

#[tokio::test]
async fn a_large_commit_that_is_written_piece_by_piece_is_seen_when_it_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(small_commits(dir.path())).await.unwrap();
    let topic = topic(&storage, "events", 2).await;
    let mut open = storage.begin().await.unwrap();
    let mut dropped = storage.begin().await.unwrap();
    let mut aborted = storage.begin().await.unwrap();
    for append in large(&topic, 60) {
        open.append(append.clone()).await.unwrap();
        dropped.append(append.clone()).await.unwrap();
        aborted.append(append).await.unwrap();
    }
    assert_eq!(select(&storage, at(&topic, 0)).await.len(), 0);
    // What is not synced yet is shown to nobody.
    eventually("all three are shown", async || storage.transactions().len() == 3).await;
    aborted.abort().await.unwrap();
    drop(dropped);
    eventually("one that was dropped is aborted", async || storage.transactions().len() == 1).await;
    produce(&storage, at(&topic, 0), &["behind"]).await.unwrap();
    assert_eq!(select(&storage, at(&topic, 0)).await.len(), 0);
    open.commit(Commit::default()).await.unwrap();
    assert_eq!(both(&storage, at(&topic, 0)).await.len(), 31);
    let fits_no_frame = Append { topic: topic.id, partition: 0, batch: batch(&["x".repeat(70_000).as_str()]) };
    let mut refused = storage.begin().await.unwrap();
    assert!(matches!(refused.append(fits_no_frame).await, Err(Error::TooLarge { .. })));
    let mut refused = storage.begin().await.unwrap();
    let of_another = sequenced(&batch(&["x"]), 5, 0, 0);
    let of_another = Append { topic: topic.id, partition: 0, batch: of_another };
    assert!(matches!(refused.append(of_another).await, Err(Error::InvalidBatch { .. })));
    stop(storage).await;
}

#[tokio::test]
async fn a_large_commit_of_which_an_append_failed_cannot_be_committed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::new(1);
    let storage = Storage::open_on(small_commits(dir.path()), &disk).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    let fits_no_frame = || Append { topic: topic.id, partition: 0, batch: batch(&["x".repeat(70_000).as_str()]) };
    let mut refused = storage.begin().await.unwrap();
    refused.append(large(&topic, 1).remove(0)).await.unwrap();
    assert!(matches!(refused.append(fits_no_frame()).await, Err(Error::TooLarge { .. })));
    assert!(matches!(refused.append(large(&topic, 1).remove(0)).await, Err(Error::TooLarge { .. })));
    let committed = refused.commit(Commit { positions: vec![position(Expect::Absent)], ..Commit::default() }).await;
    assert!(matches!(committed, Err(Error::TooLarge { .. })), "{committed:?}");
    assert!(storage.transactions().is_empty(), "it is aborted when that is answered");

    let mut unwritten = storage.begin().await.unwrap();
    disk.fail_write_after(0);
    let mut failed = 0;
    for append in large(&topic, 60) {
        failed += usize::from(unwritten.append(append).await.is_err());
    }
    assert!(failed > 0, "a data frame could not be written");
    let committed = unwritten.commit(Commit { positions: vec![position(Expect::Absent)], ..Commit::default() }).await;
    assert!(matches!(committed, Err(Error::Full { .. })), "{committed:?}");
    assert_eq!(both(&storage, at(&topic, 0)).await, [""; 0]);
    assert_eq!(storage.position("q"), None);
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_commit_of_which_an_append_was_not_waited_for_cannot_be_committed() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(small_commits(dir.path())).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    let mut left = 0;
    // The writer may be quicker than the caller who goes away.
    while left == 0 {
        let mut open = storage.begin().await.unwrap();
        for append in large(&topic, 60) {
            left += usize::from(open.append(append).now_or_never().is_none());
        }
        let committed = open.commit(Commit::default()).await;
        assert_eq!(committed.is_err(), left > 0, "{committed:?}");
    }
    eventually("it is aborted", async || storage.transactions().is_empty()).await;
    assert_eq!(both(&storage, at(&topic, 0)).await.len() % 60, 0);
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_amid_a_large_commit_leaves_nothing_of_it() {
    for seed in 1..=16_u64 {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultDisk::new(seed);
        let storage = Storage::open_on(small_commits(dir.path()), &disk).await.unwrap();
        let topic = topic(&storage, "events", 2).await;
        let id = storage.new_topic_id();
        let create = TopicChange::Create { id, name: "made".to_owned(), partitions: 1, config: TopicConfig::default() };
        let commit = Commit {
            topics: vec![create],
            appends: large(&topic, 120),
            positions: vec![position(Expect::Absent)],
            ..Commit::default()
        };
        let committing = storage.clone();
        let committing = tokio::spawn(async move { committing.commit(commit).await });
        let wanted = i64::try_from(seed * 4).unwrap();
        let begun = [(at(&topic, 0), wanted.min(55))];
        tokio::time::timeout(Duration::from_secs(30), storage.wait_past(&begun)).await.unwrap();
        disk.power_cut().unwrap();
        let committed = committing.await.unwrap().is_ok();
        stop(storage).await;
        let storage = Storage::open(small_commits(dir.path())).await.unwrap();
        assert!(storage.transactions().is_empty(), "seed {seed}: ended when opened");
        let rows = (both(&storage, at(&topic, 0)).await.len(), both(&storage, at(&topic, 1)).await.len());
        let whole = rows == (60, 60);
        assert!(whole || rows == (0, 0), "seed {seed}: {rows:?}");
        assert!(whole || !committed, "seed {seed}: acknowledged and lost");
        assert_eq!(storage.position("q").is_some(), whole, "seed {seed}");
        assert_eq!(storage.topic("made").is_some(), whole, "seed {seed}");
        stop(storage).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_by_a_large_commit_appears_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(small_commits(dir.path())).await.unwrap();
    let known = topic(&storage, "known", 1).await;
    let id = storage.new_topic_id();
    let create = TopicChange::Create { id, name: "made".to_owned(), partitions: 2, config: TopicConfig::default() };
    let to_be = Topic { id, partitions: 2, ..known.as_ref().clone() };
    let commit = Commit { topics: vec![create], appends: large(&to_be, 1000), ..Commit::default() };
    let committing = tokio::spawn({
        let storage = storage.clone();
        async move { storage.commit(commit).await }
    });
    let mut hidden = None;
    while !committing.is_finished() {
        let listed = storage.topics().iter().any(|topic| topic.id == id);
        let (shown, version) = (listed || storage.topic("made").is_some(), storage.catalog_version());
        // Looked at last: what is open now was open when the topic was looked for.
        let open = storage.transactions().iter().any(|transaction| !transaction.partitions.is_empty());
        assert!(!(shown && open), "the topic is shown before its commit");
        hidden = open.then_some(version).or(hidden);
        tokio::task::yield_now().await;
    }
    committing.await.unwrap().unwrap();
    assert!(storage.topic("made").is_some() && storage.topics().iter().any(|topic| topic.id == id));
    assert!(storage.catalog_version() > hidden.unwrap(), "who keeps a catalog learns of it");
    assert_eq!(both(&storage, at(&to_be, 1)).await.len(), 500);
    stop(storage).await;
}
