//! What a commit promises while the process lives.

use std::time::Duration;

use aquifer_storage::{
    Append, Commit, DefinitionChange, Error, Expect, GroupOffset, GroupOffsetChange, Health, OwnTopic, PositionChange,
    Storage, TopicChange, TopicConfig, TopicId, TopicPartition,
};
use bytes::Bytes;

use crate::support::*;

async fn fresh() -> (tempfile::TempDir, Storage) {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    (dir, storage)
}

fn definition(name: &str, value: Option<&'static str>, holds: Vec<TopicId>, expect: Expect) -> DefinitionChange {
    let value = value.map(|text| Bytes::from_static(text.as_bytes()));
    DefinitionChange { kind: "query".to_owned(), name: name.to_owned(), value, holds, expect }
}

#[tokio::test]
async fn what_was_committed_is_fetched_byte_for_byte_but_for_its_offset() {
    let (_dir, storage) = fresh().await;
    let topic = topic(&storage, "events", 2).await;
    let sent = batch(&["a", "b"]);
    let receipt = storage.commit(appends(at(&topic, 1), sent.clone())).await.unwrap();
    assert_eq!(receipt.appended[0].base_offset, 0);
    produce(&storage, at(&topic, 1), &["c"]).await.unwrap();
    let request = fetch_of(at(&topic, 1), 1, 1);
    let fetched = storage.fetch(request).await.unwrap();
    assert_eq!(fetched.batches.len(), 1, "the batch that holds the offset comes whole, even if larger");
    assert_eq!(fetched.batches[0][16..], sent.bytes()[16..]);
    assert_eq!(fetched.watermarks.high_watermark, 3);
    assert_eq!(values(&storage, at(&topic, 1)).await, ["a", "b", "c"]);
    assert!(values(&storage, at(&topic, 0)).await.is_empty());
}

#[tokio::test]
async fn an_offset_outside_the_partition_is_out_of_range_and_the_end_is_empty() {
    let (_dir, storage) = fresh().await;
    let topic = topic(&storage, "events", 1).await;
    produce(&storage, at(&topic, 0), &["a"]).await.unwrap();
    let fetch = |offset| storage.fetch(fetch_of(at(&topic, 0), offset, 100));
    assert!(fetch(1).await.unwrap().batches.is_empty());
    assert!(matches!(fetch(2).await, Err(Error::OffsetOutOfRange { high_watermark: 1, .. })));
    assert!(matches!(fetch(-1).await, Err(Error::OffsetOutOfRange { .. })));
    let unknown = fetch_of(at(&topic, 7), 0, 100);
    assert!(matches!(storage.fetch(unknown).await, Err(Error::UnknownPartition { partition: 7, .. })));
}

#[tokio::test]
async fn a_commit_over_partitions_offsets_and_positions_is_all_or_nothing() {
    let (_dir, storage) = fresh().await;
    let id = storage.new_topic_id();
    let here = TopicPartition { topic: id, partition: 0 };
    let create = TopicChange::Create { id, name: "out".to_owned(), partitions: 1, config: TopicConfig::default() };
    let offset = GroupOffset { offset: 4, leader_epoch: -1, metadata: "m".to_owned(), committed_at_us: 0 };
    let commit = Commit {
        topics: vec![create],
        definitions: vec![definition("q", Some("select 1"), vec![id], Expect::Absent)],
        appends: vec![Append { topic: id, partition: 0, batch: batch(&["x"]) }],
        group_offsets: vec![GroupOffsetChange { group: "g".to_owned(), partition: here, offset: Some(offset) }],
        positions: vec![PositionChange {
            query: "q".to_owned(),
            value: Some(Bytes::from_static(b"p1")),
            expect: Expect::Absent,
        }],
        ..Commit::default()
    };
    let version = storage.catalog_version();
    let receipt = storage.commit(commit.clone()).await.unwrap();
    assert!(storage.catalog_version() > version);
    assert_eq!(values(&storage, here).await, ["x"]);
    assert_eq!(storage.definitions("query")[0].value, "select 1");
    assert!(storage.definitions("relation").is_empty());
    assert_eq!(storage.position("q").unwrap(), "p1");
    let offsets = storage.group_offsets(Some("g"));
    assert_eq!((offsets[0].2.offset, offsets[0].2.committed_at_us), (4, receipt.commit_time_us));
    // The same again fails at its topic; a commit whose last part fails leaves nothing of its first.
    assert!(matches!(storage.commit(commit).await, Err(Error::TopicExists { .. })));
    let half = Commit {
        appends: vec![Append { topic: id, partition: 0, batch: batch(&["y"]) }],
        positions: vec![PositionChange { query: "q".to_owned(), value: None, expect: Expect::Value(Bytes::new()) }],
        ..Commit::default()
    };
    assert!(matches!(storage.commit(half).await, Err(Error::Conflict { .. })));
    assert_eq!(storage.watermarks(here).unwrap().high_watermark, 1);
    assert_eq!(produce(&storage, here, &["z"]).await.unwrap().appended[0].base_offset, 1);
}

#[tokio::test]
async fn a_topic_that_a_definition_holds_goes_only_with_it() {
    let (_dir, storage) = fresh().await;
    let topic = topic(&storage, "events", 1).await;
    let define = definition("q", Some("x"), vec![topic.id], Expect::Absent);
    storage.commit(Commit { definitions: vec![define], ..Commit::default() }).await.unwrap();
    let refused = storage.delete_topic(topic.id).await.unwrap_err();
    assert_eq!(refused.to_string(), "topic events is used by query q");
    assert!(storage.topic("events").is_some());
    let together = Commit {
        topics: vec![TopicChange::Delete { id: topic.id }],
        definitions: vec![definition("q", None, vec![], Expect::Present)],
        ..Commit::default()
    };
    storage.commit(together).await.unwrap();
    assert!(storage.topic("events").is_none());
    assert!(matches!(storage.watermarks(at(&topic, 0)), Err(Error::UnknownTopic { .. })));
    assert!(matches!(produce(&storage, at(&topic, 0), &["x"]).await, Err(Error::UnknownTopic { .. })));
}

#[tokio::test]
async fn a_recreated_topic_starts_at_zero_and_inherits_no_offsets() {
    let (_dir, storage) = fresh().await;
    let old = topic(&storage, "events", 1).await;
    produce(&storage, at(&old, 0), &["a", "b"]).await.unwrap();
    let offset = GroupOffset { offset: 2, leader_epoch: -1, metadata: String::new(), committed_at_us: 0 };
    let change = GroupOffsetChange { group: "g".to_owned(), partition: at(&old, 0), offset: Some(offset) };
    storage.commit(Commit { group_offsets: vec![change], ..Commit::default() }).await.unwrap();
    storage.delete_topic(old.id).await.unwrap();
    assert!(storage.group_offsets(Some("g")).is_empty());
    let new = topic(&storage, "events", 1).await;
    assert_eq!(produce(&storage, at(&new, 0), &["c"]).await.unwrap().appended[0].base_offset, 0);
    assert_eq!(values(&storage, at(&new, 0)).await, ["c"]);
}

#[tokio::test]
async fn our_own_topics_are_readable_and_refused_for_produce_and_deletion() {
    let (_dir, storage) = fresh().await;
    topic(&storage, "events", 1).await;
    let catalog = TopicPartition { topic: TopicId::own(OwnTopic::Catalog), partition: 0 };
    assert_eq!(values(&storage, catalog).await.len(), 1);
    assert!(matches!(produce(&storage, catalog, &["x"]).await, Err(Error::TopicInternal { .. })));
    assert!(matches!(storage.delete_topic(catalog.topic).await, Err(Error::TopicInternal { .. })));
    assert!(storage.topics().iter().any(|topic| topic.internal && topic.name == "__consumer_offsets"));
}

#[tokio::test]
async fn a_commit_that_is_too_large_is_refused_with_the_name_of_the_limit() {
    let (_dir, storage) = fresh().await;
    let topic = topic(&storage, "events", 1).await;
    let large = "x".repeat(9 << 20);
    let error = produce(&storage, at(&topic, 0), &[&large]).await.unwrap_err();
    assert!(error.to_string().contains("wal.commit_bytes_max"), "{error}");
}

#[tokio::test]
async fn a_name_or_partition_count_that_is_not_allowed_is_refused() {
    let (_dir, storage) = fresh().await;
    for (name, partitions) in [("", 1), ("..", 1), ("a b", 1), ("ok", 0), ("ok", 10_001)] {
        let refused = storage.create_topic(name, Some(partitions), TopicConfig::default()).await;
        assert!(matches!(refused, Err(Error::InvalidTopic { .. })), "{name} {partitions}");
    }
}

#[tokio::test]
async fn an_idempotent_producers_retry_is_answered_with_the_original_offset() {
    let (_dir, storage) = fresh().await;
    let topic = topic(&storage, "events", 1).await;
    let (id, other) = (storage.new_producer_id().await.unwrap(), storage.new_producer_id().await.unwrap());
    assert_ne!(id, other);
    let first = sequenced(&batch(&["a", "b"]), id, 0, 0);
    let second = sequenced(&batch(&["c"]), id, 0, 2);
    for sent in [&first, &second] {
        storage.commit(appends(at(&topic, 0), sent.clone())).await.unwrap();
    }
    let again = storage.commit(appends(at(&topic, 0), first)).await.unwrap().appended[0];
    assert_eq!((again.base_offset, again.duplicate), (0, true));
    let gap = sequenced(&batch(&["e"]), id, 0, 4);
    let refused = storage.commit(appends(at(&topic, 0), gap)).await;
    assert!(matches!(refused, Err(Error::OutOfOrderSequence { sequence: 4, expected: 3, .. })));
    assert_eq!(values(&storage, at(&topic, 0)).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn who_waits_at_the_tail_is_woken_by_growth_and_by_deletion() {
    let (_dir, storage) = fresh().await;
    let topic = topic(&storage, "events", 2).await;
    let offsets = [(at(&topic, 0), 0), (at(&topic, 1), 0)];
    let mut waiting = Box::pin(storage.wait_past(&offsets));
    assert!(futures::poll!(&mut waiting).is_pending());
    produce(&storage, at(&topic, 1), &["a"]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
    let only_first = [(at(&topic, 0), 0)];
    let mut waiting = Box::pin(storage.wait_past(&only_first));
    assert!(futures::poll!(&mut waiting).is_pending());
    storage.delete_topic(topic.id).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
}

#[tokio::test]
async fn acks_one_is_answered_at_once_and_shown_after_the_sync() {
    let (_dir, storage) = fresh().await;
    let topic = topic(&storage, "events", 1).await;
    let receipt = produce_unsynced(&storage, at(&topic, 0), &["a"]).await.unwrap();
    assert_eq!(receipt.appended[0].base_offset, 0);
    tokio::time::timeout(Duration::from_secs(10), storage.wait_past(&[(at(&topic, 0), 0)])).await.unwrap();
    assert_eq!(values(&storage, at(&topic, 0)).await, ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_from_everywhere_at_once_get_dense_offsets_in_their_own_order() {
    let (_dir, storage) = fresh().await;
    let topic = topic(&storage, "events", 1).await;
    let mut writers = Vec::new();
    for writer in 0..8 {
        let (storage, partition) = (storage.clone(), at(&topic, 0));
        writers.push(tokio::spawn(async move {
            for number in 0..50 {
                produce(&storage, partition, &[&format!("{writer} {number:02}")]).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let values = values(&storage, at(&topic, 0)).await;
    assert_eq!(values.len(), 400);
    for writer in 0..8 {
        let own: Vec<_> = values.iter().filter(|value| value.starts_with(&format!("{writer} "))).collect();
        assert!(own.is_sorted());
    }
}

#[tokio::test]
async fn an_offset_is_found_by_its_time() {
    let (_dir, storage) = fresh().await;
    let topic = topic(&storage, "events", 1).await;
    produce(&storage, at(&topic, 0), &["a", "b", "c"]).await.unwrap();
    let found = |timestamp_ms| storage.offset_for_timestamp(at(&topic, 0), timestamp_ms);
    assert_eq!(found(0).await.unwrap().map(|found| found.offset), Some(0));
    let exact = found(1001).await.unwrap().unwrap();
    assert_eq!((exact.offset, exact.timestamp_ms), (1, 1001));
    assert_eq!(found(1003).await.unwrap(), None);
}

#[tokio::test]
async fn after_closing_everything_is_refused_by_name() {
    let (_dir, storage) = fresh().await;
    let topic = topic(&storage, "events", 1).await;
    storage.close().await.unwrap();
    assert!(matches!(produce(&storage, at(&topic, 0), &["x"]).await, Err(Error::Closed)));
}

#[tokio::test]
async fn at_the_logs_limit_records_are_refused_by_its_name_and_the_catalog_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.settings.wal_bytes_max = 50_000;
    let storage = Storage::open(options).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    let long = "x".repeat(20_000);
    for _ in 0..2 {
        produce(&storage, at(&topic, 0), &[&long]).await.unwrap();
    }
    let refused = produce(&storage, at(&topic, 0), &[&long]).await.unwrap_err();
    assert!(matches!(&refused, Error::Full { reason } if reason.contains("wal.bytes_max")), "{refused}");
    assert!(matches!(storage.health(), Health::Full(reason) if reason.contains("wal.bytes_max")));
    assert_eq!(values(&storage, at(&topic, 0)).await.len(), 2);
    produce(&storage, at(&topic, 0), &["there is room for a small one"]).await.unwrap();
    assert_eq!(storage.health(), Health::Ready, "a write was taken");
    let rest = "x".repeat(5_500);
    produce(&storage, at(&topic, 0), &[&rest]).await.unwrap();
    assert!(matches!(storage.health(), Health::Full(_)), "no room for a small one, before anybody has tried");
    storage.delete_topic(topic.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_queue_takes_waits_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.settings.wal_queue_bytes_max = 8 << 10;
    let storage = Storage::open(options).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    let long = "x".repeat(5_000);
    let commits = (0..40).map(|_| storage.commit(appends(at(&topic, 0), batch(&[&long]))));
    for receipt in futures::future::join_all(commits).await {
        receipt.unwrap();
    }
    assert_eq!(values(&storage, at(&topic, 0)).await.len(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_that_wait_for_room_in_the_queue_keep_the_order_of_the_calls() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.settings.wal_queue_bytes_max = 4 << 10;
    let storage = Storage::open(options).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    let texts: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    let commits = texts.iter().map(async |text| produce_unsynced(&storage, at(&topic, 0), &[text]).await);
    let receipts = futures::future::join_all(commits).await;
    let offsets: Vec<i64> = receipts.into_iter().map(|receipt| receipt.unwrap().appended[0].base_offset).collect();
    assert!(offsets.is_sorted(), "later calls have overtaken earlier ones");
    eventually("all are shown", async || values(&storage, at(&topic, 0)).await == texts).await;
}
