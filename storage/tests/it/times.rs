//! Offsets by time where something is not there: damaged, lost for ever, aborted, or no record at all.

use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use aquifer_storage::{Commit, OpenOptions, Storage, TimedOffset, Topic};

use crate::faults::{position_of, segment_files};
use crate::support::*;
use crate::transactions::{add, end, init};

/// One record of that time.
fn timed(topic: &Topic, timestamp_ms: i64, value: &str) -> Commit {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    builder.push(timestamp_ms, Some(b"k"), Some(value.as_bytes()), &[]);
    appends(at(topic, 0), builder.build(Compression::None).unwrap())
}

async fn from(storage: &Storage, topic: &Topic, timestamp_ms: i64) -> Option<(i64, i64)> {
    let found = storage.offset_for_timestamp(at(topic, 0), timestamp_ms).await.unwrap();
    found.map(|TimedOffset { offset, timestamp_ms }| (offset, timestamp_ms))
}

async fn largest(storage: &Storage, topic: &Topic) -> Option<(i64, i64)> {
    let found = storage.offset_of_max_timestamp(at(topic, 0)).await.unwrap();
    found.map(|TimedOffset { offset, timestamp_ms }| (offset, timestamp_ms))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_and_what_is_lost_is_passed_over() {
    let records = [(10, "first record"), (40, "second record"), (30, "third record"), (20, "fourth record")];
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions { object_store_url: None, ..options(dir.path()) };
    let storage = Storage::open(options.clone()).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    for (timestamp_ms, value) in records {
        storage.commit(timed(&topic, timestamp_ms, value)).await.unwrap();
    }
    // The close writes the frame that proves all of it durable.
    stop(storage).await;
    let file = segment_files(dir.path()).pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let bit = position_of(&bytes, "second record");
    bytes[bit] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut storage = Storage::open(options.clone()).await.unwrap();
    for state in ["hot", "tiered", "after another start"] {
        assert_eq!(from(&storage, &topic, 0).await, Some((0, 10)), "{state}");
        assert_eq!(from(&storage, &topic, 15).await, Some((2, 30)), "{state}: the next one that can be read");
        assert_eq!(from(&storage, &topic, 35).await, None, "{state}: nobody can read what would be it");
        assert_eq!(largest(&storage, &topic).await, Some((2, 30)), "{state}");
        if state == "tiered" {
            stop(storage).await;
            storage = Storage::open(options.clone()).await.unwrap();
        } else {
            storage.checkpoint().await.unwrap();
        }
    }
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_aborted_transactions_count_while_the_log_has_them_and_markers_never() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = OpenOptions { object_store_url: None, ..options(dir.path()) };
    options.settings.topic_local_retention_ms = 0;
    let storage = Storage::open(options).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    let producer = init(&storage, "t").await;
    storage.commit(timed(&topic, 10, "before")).await.unwrap();
    add(&storage, "t", producer, &[at(&topic, 0)]).await.unwrap();
    let mut undone = timed(&topic, 50, "undone");
    undone.appends[0].batch = undone.appends[0].batch.in_transaction(producer, 0);
    storage.commit(undone).await.unwrap();
    storage.commit(timed(&topic, 30, "behind")).await.unwrap();
    // Open or aborted: in the log its record has its place, as Kafka has it. Who reads committed records only compares.
    for ended in [false, true] {
        if ended {
            end(&storage, "t", producer, false).await.unwrap();
        }
        assert_eq!(from(&storage, &topic, 20).await, Some((1, 50)), "ended: {ended}");
        assert_eq!(from(&storage, &topic, 40).await, Some((1, 50)), "ended: {ended}");
        assert_eq!(largest(&storage, &topic).await, Some((1, 50)), "ended: {ended}");
        // A marker is of today, and no record.
        assert_eq!(from(&storage, &topic, 51).await, None, "ended: {ended}");
    }
    storage.checkpoint().await.unwrap();
    assert_eq!(from(&storage, &topic, 20).await, Some((2, 30)), "what was aborted never becomes a row");
    assert_eq!(from(&storage, &topic, 40).await, None);
    assert_eq!(largest(&storage, &topic).await, Some((2, 30)));
    stop(storage).await;
}
