//! What changes about a topic that is there: its configuration, its number of partitions, where its partitions begin.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aquifer_storage::record::batch::{BatchBuilder, CheckedBatch, Compression, TimestampType};
use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::testing::FaultDisk;
use aquifer_storage::{
    Append, Commit, DefinitionChange, Error, Expect, OwnTopic, PinnedRange, ScanRequest, Storage, Topic, TopicChange,
    TopicConfig, TopicId, TopicPartition, Trim,
};
use arrow::array::AsArray;
use bytes::Bytes;
use futures::TryStreamExt;

use crate::support::*;

fn config(entries: &[(&str, &str)]) -> TopicConfig {
    let mut config = TopicConfig::default();
    for (name, text) in entries {
        config.set(name, text).unwrap();
    }
    config
}

fn trim(partition: TopicPartition, log_start_offset: i64) -> Vec<Trim> {
    vec![Trim { partition, log_start_offset }]
}

fn pinned(storage: &Storage, topic: &Topic) -> PinnedRange {
    storage.snapshot(&[topic.id], &HashMap::new()).unwrap().range(at(topic, 0)).unwrap()
}

/// The values of partition 0, as a scan reads them.
async fn rows(storage: &Storage, topic: &Topic) -> Vec<String> {
    let snapshot = storage.snapshot(&[topic.id], &HashMap::new()).unwrap();
    let scan = snapshot.scan(at(topic, 0), ScanRequest::all(vec![RecordColumn::Value])).unwrap();
    let batches: Vec<_> = scan.try_collect().await.unwrap();
    let values = batches.iter().flat_map(|batch| batch.column(0).as_binary::<i32>().iter().flatten());
    values.map(|value| String::from_utf8(value.to_vec()).unwrap()).collect()
}

async fn fetch(storage: &Storage, partition: TopicPartition, offset: i64) -> Result<usize, Error> {
    let fetched = storage.fetch(fetch_of(partition, offset, 1 << 20)).await?;
    Ok(fetched.batches.len())
}

#[tokio::test]
async fn a_configuration_is_replaced_as_a_whole_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let made = storage.create_topic("events", Some(1), config(&[("retention.ms", "7")])).await.unwrap();
    let told = config(&[("cleanup.policy", "compact"), ("segment.bytes", "99")]);
    storage.configure_topic(made.id, told.clone(), Some(made.config.clone())).await.unwrap();
    assert_eq!(storage.topic("events").unwrap().config, told);
    let late = storage.configure_topic(made.id, TopicConfig::default(), Some(made.config.clone())).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    let wrong = config(&[("retention.ms", "5"), ("local.retention.ms", "6")]);
    let refused = storage.configure_topic(made.id, wrong, None).await;
    assert!(matches!(refused, Err(Error::InvalidTopicConfig { .. })), "{refused:?}");
    stop(storage).await;
    let storage = open(dir.path()).await;
    let topic = storage.topic("events").unwrap();
    assert_eq!((topic.id, &topic.config), (made.id, &told));
}

#[tokio::test]
async fn added_partitions_begin_empty_take_records_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let made = topic(&storage, "events", 2).await;
    produce(&storage, at(&made, 1), &["a"]).await.unwrap();
    storage.add_partitions(made.id, 4).await.unwrap();
    produce(&storage, at(&made, 3), &["b"]).await.unwrap();
    for fewer in [4, 3, 0, -1, 1_000_000] {
        let refused = storage.add_partitions(made.id, fewer).await;
        assert!(matches!(refused, Err(Error::InvalidPartitions { .. })), "{refused:?}");
    }
    let snapshot = storage.snapshot(&[made.id], &HashMap::new()).unwrap();
    assert_eq!(snapshot.range(at(&made, 3)), Some(PinnedRange { start: 0, end: 1 }));
    stop(storage).await;
    let storage = open(dir.path()).await;
    assert_eq!(storage.topic("events").unwrap().partitions, 4);
    assert_eq!(values(&storage, at(&made, 1)).await, ["a"]);
    assert_eq!(values(&storage, at(&made, 3)).await, ["b"]);
    assert!(values(&storage, at(&made, 2)).await.is_empty());
}

#[tokio::test]
async fn our_own_topics_refuse_every_change() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    for own in OwnTopic::ALL {
        let id = TopicId::own(own);
        let partition = TopicPartition { topic: id, partition: 0 };
        for refused in [
            storage.configure_topic(id, TopicConfig::default(), None).await,
            storage.add_partitions(id, 2).await,
            storage.trim(trim(partition, 0)).await,
        ] {
            assert!(matches!(refused, Err(Error::TopicInternal { .. })), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_trim_moves_the_beginning_for_every_reader_and_never_back() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let events = topic(&storage, "events", 2).await;
    let here = at(&events, 0);
    produce(&storage, here, &["a", "b", "c"]).await.unwrap();
    produce(&storage, here, &["d", "e"]).await.unwrap();
    storage.trim(trim(here, 4)).await.unwrap();
    assert_eq!(storage.watermarks(here).unwrap().log_start_offset, 4);
    let below = fetch(&storage, here, 3).await;
    assert!(matches!(below, Err(Error::OffsetOutOfRange { log_start_offset: 4, .. })), "{below:?}");
    assert_eq!(fetch(&storage, here, 4).await.unwrap(), 1);
    assert_eq!(pinned(&storage, &events), PinnedRange { start: 4, end: 5 });
    assert_eq!(rows(&storage, &events).await, ["e"]);
    assert_eq!(storage.offset_for_timestamp(here, 0).await.unwrap().unwrap().offset, 4);
    storage.trim(trim(here, 1)).await.unwrap();
    assert_eq!(storage.watermarks(here).unwrap().log_start_offset, 4);
    let beyond = storage.trim(vec![trim(here, 5)[0], Trim { partition: at(&events, 1), log_start_offset: 1 }]).await;
    assert!(matches!(beyond, Err(Error::OffsetOutOfRange { offset: 1, high_watermark: 0, .. })), "{beyond:?}");
    assert_eq!(storage.watermarks(here).unwrap().log_start_offset, 4, "all or nothing");
    storage.trim(trim(here, 5)).await.unwrap();
    assert_eq!(fetch(&storage, here, 5).await.unwrap(), 0);
    assert_eq!(storage.offset_for_timestamp(here, 0).await.unwrap(), None);
    produce(&storage, here, &["f"]).await.unwrap();
    assert_eq!(rows(&storage, &events).await, ["f"]);
}

#[tokio::test]
async fn a_trim_holds_for_what_is_cold_too_and_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.object_store_url = None;
    let storage = Storage::open(options.clone()).await.unwrap();
    let events = topic(&storage, "events", 1).await;
    let here = at(&events, 0);
    produce(&storage, here, &["a", "b", "c"]).await.unwrap();
    storage.checkpoint().await.unwrap();
    produce(&storage, here, &["d"]).await.unwrap();
    storage.trim(trim(here, 2)).await.unwrap();
    for _ in 0..2 {
        storage.checkpoint().await.unwrap();
    }
    stop(storage).await;
    let storage = Storage::open(options).await.unwrap();
    assert_eq!(storage.watermarks(here).unwrap().log_start_offset, 2);
    assert!(fetch(&storage, here, 1).await.is_err());
    assert_eq!(rows(&storage, &events).await, ["c", "d"]);
    assert_eq!(storage.offset_for_timestamp(here, 0).await.unwrap().unwrap().offset, 2);
}

#[tokio::test]
async fn a_trim_outlives_the_segment_it_was_written_to_and_goes_with_its_topic() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.settings.wal_segment_bytes = 1 << 16;
    let storage = Storage::open(options.clone()).await.unwrap();
    let events = topic(&storage, "events", 1).await;
    produce(&storage, at(&events, 0), &["a", "b"]).await.unwrap();
    storage.trim(trim(at(&events, 0), 1)).await.unwrap();
    let other = topic(&storage, "other", 1).await;
    let filler = "x".repeat(20 << 10);
    for _ in 0..8 {
        produce(&storage, at(&other, 0), &[&filler]).await.unwrap();
    }
    stop(storage).await;
    let storage = Storage::open(options).await.unwrap();
    assert_eq!(rows(&storage, &events).await, ["b"]);
    storage.delete_topic(events.id).await.unwrap();
    let again = topic(&storage, "events", 1).await;
    produce(&storage, at(&again, 0), &["c"]).await.unwrap();
    assert_eq!(rows(&storage, &again).await, ["c"]);
}

#[tokio::test]
async fn what_a_definition_holds_is_not_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let events = topic(&storage, "events", 1).await;
    produce(&storage, at(&events, 0), &["a"]).await.unwrap();
    let change = |value: Option<Bytes>, holds| DefinitionChange {
        kind: "query".to_owned(),
        name: "per_user".to_owned(),
        value,
        holds,
        expect: Expect::Anything,
    };
    let made = change(Some(Bytes::from_static(b"select")), vec![events.id]);
    storage.commit(Commit { definitions: vec![made], ..Commit::default() }).await.unwrap();
    let held = storage.trim(trim(at(&events, 0), 1)).await;
    assert!(matches!(&held, Err(Error::TopicHeld { holder, .. }) if holder == "query per_user"), "{held:?}");
    let dropped = vec![change(None, Vec::new())];
    let both = Commit { definitions: dropped, trims: trim(at(&events, 0), 1), ..Commit::default() };
    storage.commit(both).await.unwrap();
    assert!(rows(&storage, &events).await.is_empty());
}

#[tokio::test]
async fn a_power_cut_leaves_an_acknowledged_trim_and_takes_back_none_of_it() {
    for seed in 1..=12_u64 {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultDisk::new(seed);
        let storage = Storage::open_on(options(dir.path()), &disk).await.unwrap();
        let events = topic(&storage, "events", 1).await;
        let here = at(&events, 0);
        let trimmed = seed as i64;
        for _ in 0..=seed {
            produce(&storage, here, &["x"]).await.unwrap();
        }
        storage.trim(trim(here, trimmed)).await.unwrap();
        // One that nobody waits for: it may be there afterwards or not, but whole.
        let (later, more) = (storage.clone(), Arc::clone(&events));
        let cut = tokio::spawn(async move {
            let _ = later.trim(trim(at(&more, 0), trimmed + 1)).await;
        });
        disk.power_cut().unwrap();
        cut.await.unwrap();
        stop(storage).await;
        let storage = Storage::open(options(dir.path())).await.unwrap();
        let start = storage.watermarks(here).unwrap().log_start_offset;
        assert!((trimmed..=trimmed + 1).contains(&start), "seed {seed}: {start}");
        assert!(matches!(fetch(&storage, here, start - 1).await, Err(Error::OffsetOutOfRange { .. })), "seed {seed}");
        assert_eq!(pinned(&storage, &events).start, start, "seed {seed}");
    }
}

#[tokio::test]
async fn a_topic_takes_batches_as_it_has_been_told() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let told = config(&[("compression.type", "zstd"), ("message.timestamp.type", "LogAppendTime")]);
    let events = storage.create_topic("events", Some(1), told).await.unwrap();
    let receipt = produce(&storage, at(&events, 0), &["a", "b"]).await.unwrap();
    let time_ms = receipt.appended[0].log_append_time_ms;
    assert_eq!(time_ms, Some(receipt.commit_time_us.div_euclid(1000)));
    let fetched = storage.fetch(fetch_of(at(&events, 0), 0, 1000)).await.unwrap();
    let stored = CheckedBatch::parse_stored(fetched.batches[0].clone()).unwrap();
    assert_eq!(stored.compression(), Compression::Zstd);
    assert_eq!(stored.header().timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(Some(stored.header().max_timestamp_ms), time_ms);
    assert_eq!(rows(&storage, &events).await, ["a", "b"]);

    storage.configure_topic(events.id, config(&[("max.message.bytes", "100")]), None).await.unwrap();
    let large = produce(&storage, at(&events, 0), &["x".repeat(200).as_str()]).await;
    assert!(matches!(large, Err(Error::TooLarge { setting: "max.message.bytes", limit_bytes: 100, .. })), "{large:?}");
    let small = produce(&storage, at(&events, 0), &["c"]).await.unwrap();
    assert_eq!(small.appended[0].log_append_time_ms, None);
}

#[tokio::test]
async fn a_compacted_topic_takes_no_record_without_a_key_and_names_those_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let id = storage.new_topic_id();
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    for key in [Some(&b"k"[..]), None, Some(b""), None] {
        builder.push(1, key, Some(b"v"), &[]);
    }
    let append = Append { topic: id, partition: 0, batch: builder.build(Compression::None).unwrap() };
    let compacted = config(&[("cleanup.policy", "compact,delete")]);
    let create = TopicChange::Create { id, name: "latest".to_owned(), partitions: 1, config: compacted };
    let both = Commit { topics: vec![create], appends: vec![append.clone()], ..Commit::default() };
    let refused = storage.commit(both).await;
    assert!(matches!(&refused, Err(Error::KeylessRecords { indexes, .. }) if *indexes == [1, 3]), "{refused:?}");
    assert!(storage.topic("latest").is_none(), "nothing of it is there");
}

#[tokio::test]
async fn who_waits_for_a_topic_learns_of_its_new_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let events = topic(&storage, "events", 1).await;
    let (waiting, id, here) = (storage.clone(), events.id, at(&events, 0));
    let waiter = tokio::spawn(async move { waiting.wait_past_or_growth(&[(here, 0)], id, 1).await });
    storage.configure_topic(events.id, config(&[("retention.ms", "5")]), None).await.unwrap();
    assert!(!waiter.is_finished());
    storage.add_partitions(events.id, 2).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), waiter).await.unwrap().unwrap();
    storage.wait_past_or_growth(&[(here, 0)], events.id, 1).await;
}

#[tokio::test]
async fn what_was_trimmed_before_it_was_tiered_is_missed_by_nobody_once_its_segments_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.object_store_url = None;
    options.settings.wal_segment_bytes = 1 << 14;
    options.settings.housekeeping_interval_ms = 0;
    let storage = Storage::open(options.clone()).await.unwrap();
    let (events, other) = (topic(&storage, "events", 1).await, topic(&storage, "other", 1).await);
    let here = at(&events, 0);
    let filler = "x".repeat(3 << 10);
    for _ in 0..40 {
        produce(&storage, here, &[&filler]).await.unwrap();
    }
    storage.trim(trim(here, 40)).await.unwrap();
    produce(&storage, here, &["kept"]).await.unwrap();
    let first = storage.segments()[0].id;
    eventually("what was trimmed is let go", async || storage.segments()[0].id > first).await;
    stop(storage).await;
    let storage = Storage::open(options.clone()).await.unwrap();
    assert_eq!(rows(&storage, &events).await, ["kept"]);
    produce(&storage, at(&other, 0), &["beside"]).await.unwrap();
    for _ in 0..2 {
        storage.checkpoint().await.unwrap();
        assert_eq!(storage.watermarks(here).unwrap().tiered_end_offset, 41);
    }
    assert_eq!(rows(&storage, &events).await, ["kept"]);
    stop(storage).await;
    let storage = Storage::open(options).await.unwrap();
    assert_eq!(
        (rows(&storage, &events).await, rows(&storage, &other).await),
        (vec!["kept".into()], vec!["beside".into()])
    );
}
