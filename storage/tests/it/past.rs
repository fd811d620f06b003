//! Commit times and the past: a row's is that of the commit it became visible with, hot, cold and after a restart; scans
//! of the past leave out exactly what was committed later; and a topic knows from when on its past is whole.

use std::path::Path;
use std::sync::Arc;

use aquifer_storage::clock::{Clock, ManualClock};
use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{
    Append, CleanupPolicy, Commit, OpenOptions, ScanRequest, Storage, Topic, TopicConfig, TopicPartition,
    TransactionChange, Trim,
};
use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use futures::TryStreamExt;

use crate::records::{close, forgetful_topic, snapshot, tiered_options};
use crate::support::{appends, at, batch, eventually, produce};
use crate::transactions::{add, init, send};

const SECOND_US: i64 = 1_000_000;
const DAY_MS: i64 = 86_400_000;

/// A storage that looks after itself on request only.
fn options(dir: &Path, clock: &Arc<ManualClock>) -> OpenOptions {
    let settings = StorageSettings {
        wal_segment_bytes: 64 << 10,
        wal_commit_bytes_max: 32 << 10,
        tier_run_bytes_max: 64 << 10,
        housekeeping_interval_ms: 0,
        ..StorageSettings::default()
    };
    OpenOptions { clock: Arc::<ManualClock>::clone(clock), ..tiered_options(dir, settings) }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at_us(1_700_000_000_000_000))
}

/// Offsets and commit times of a partition's rows, as of a commit time or now.
async fn rows(storage: &Storage, partition: TopicPartition, max_us: Option<i64>) -> Vec<(i64, i64)> {
    let topic = storage.topic_by_id(partition.topic).unwrap();
    let snapshot = snapshot(storage, &topic);
    let columns = vec![RecordColumn::CommittedAt, RecordColumn::Offset];
    let request = ScanRequest { committed_max_us: max_us, ..ScanRequest::all(columns) };
    let batches: Vec<_> = snapshot.scan(partition, request.clone()).unwrap().try_collect().await.unwrap();
    let counted = ScanRequest { columns: vec![], ..request };
    let counted: Vec<_> = snapshot.scan(partition, counted).unwrap().try_collect().await.unwrap();
    let found: Vec<(i64, i64)> = batches
        .iter()
        .flat_map(|rows| {
            let times = rows.column(0).as_primitive::<TimestampMicrosecondType>().values().to_vec();
            let offsets = rows.column(1).as_primitive::<Int64Type>().values().to_vec();
            offsets.into_iter().zip(times)
        })
        .collect();
    assert_eq!(counted.iter().map(|rows| rows.num_rows()).sum::<usize>(), found.len(), "counts see what rows see");
    found
}

/// Ends a transaction; gives its commit time.
async fn end(storage: &Storage, id: &str, producer: aquifer_storage::ProducerIdentity, committed: bool) -> i64 {
    let end = TransactionChange::End { transactional_id: id.to_owned(), producer, committed };
    storage.commit(Commit { transactions: vec![end], ..Commit::default() }).await.unwrap().commit_time_us
}

/// Plain records before, between and behind two transactions of which one is aborted; gives offsets with commit times.
async fn written(storage: &Storage, clock: &ManualClock, partition: TopicPartition) -> Vec<(i64, i64)> {
    let tick = || clock.advance_us(SECOND_US);
    let first = produce(storage, partition, &["a", "b"]).await.unwrap().commit_time_us;
    let (kept, undone) = (init(storage, "kept").await, init(storage, "undone").await);
    add(storage, "kept", kept, &[partition]).await.unwrap();
    add(storage, "undone", undone, &[partition]).await.unwrap();
    tick();
    assert_eq!(send(storage, kept, 0, partition, &["c"]).await.unwrap(), 2);
    send(storage, undone, 0, partition, &["x"]).await.unwrap();
    tick();
    let between = produce(storage, partition, &["d"]).await.unwrap().commit_time_us;
    tick();
    send(storage, kept, 1, partition, &["e"]).await.unwrap();
    tick();
    let second = end(storage, "kept", kept, true).await;
    end(storage, "undone", undone, false).await;
    tick();
    let last = produce(storage, partition, &["f"]).await.unwrap().commit_time_us;
    tick();
    assert!(first < between && between < second && second < last);
    vec![(0, first), (1, first), (2, second), (4, between), (5, second), (8, last)]
}

async fn shows_each_moment(storage: &Storage, partition: TopicPartition, expected: &[(i64, i64)]) {
    assert_eq!(rows(storage, partition, None).await, expected);
    let topic = storage.topic_by_id(partition.topic).unwrap();
    let snapshot = snapshot(storage, &topic);
    let times: Vec<i64> = expected.iter().flat_map(|(_, at_us)| [at_us - 1, *at_us, at_us + 1]).collect();
    for at_us in times {
        let then: Vec<_> = expected.iter().copied().filter(|(_, committed_us)| *committed_us <= at_us).collect();
        assert_eq!(rows(storage, partition, Some(at_us)).await, then, "as of {at_us}");
        let later = expected.iter().find(|(_, committed_us)| *committed_us > at_us);
        let end = snapshot.range(partition).unwrap().end;
        let position = later.map_or(end, |(offset, _)| *offset);
        assert_eq!(snapshot.position(partition, at_us).await.unwrap(), position, "position at {at_us}");
    }
}

#[tokio::test]
async fn a_transaction_s_rows_have_the_time_of_its_commit_hot_cold_and_after_a_restart() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let storage = Storage::open(options(dir.path(), &clock)).await.unwrap();
    let topic = forgetful_topic(&storage, "events", 1).await;
    let partition = at(&topic, 0);
    let expected = written(&storage, &clock, partition).await;
    shows_each_moment(&storage, partition, &expected).await;
    close(storage).await;
    // Replayed from the log.
    let storage = Storage::open(options(dir.path(), &clock)).await.unwrap();
    shows_each_moment(&storage, partition, &expected).await;
    let filler = forgetful_topic(&storage, "filler", 1).await;
    for _ in 0..30 {
        storage.commit(appends(at(&filler, 0), batch(&[&"x".repeat(16_000)]))).await.unwrap();
    }
    close(storage).await;
    // From a snapshot of the log.
    let storage = Storage::open(options(dir.path(), &clock)).await.unwrap();
    shows_each_moment(&storage, partition, &expected).await;
    storage.checkpoint().await.unwrap();
    assert!(storage.watermarks(partition).unwrap().tiered_end_offset > 8);
    shows_each_moment(&storage, partition, &expected).await;
    close(storage).await;
    let storage = Storage::open(options(dir.path(), &clock)).await.unwrap();
    shows_each_moment(&storage, partition, &expected).await;
    close(storage).await;
}

#[tokio::test]
async fn a_transaction_that_is_cut_by_the_seam_has_one_time_on_both_sides() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let storage = Storage::open(options(dir.path(), &clock)).await.unwrap();
    let topic = forgetful_topic(&storage, "events", 1).await;
    let partition = at(&topic, 0);
    let producer = init(&storage, "t").await;
    add(&storage, "t", producer, &[partition]).await.unwrap();
    // More than one run of tiering takes.
    let value = "v".repeat(8_000);
    for sequence in 0..20 {
        send(&storage, producer, sequence, partition, &[&value]).await.unwrap();
    }
    clock.advance_us(SECOND_US);
    let committed = end(&storage, "t", producer, true).await;
    let expected: Vec<_> = (0..20).map(|offset| (offset, committed)).collect();
    assert_eq!(rows(&storage, partition, None).await, expected);
    storage.checkpoint().await.unwrap();
    assert!(storage.objects().await.unwrap().len() > 1, "it became several objects");
    assert_eq!(rows(&storage, partition, None).await, expected);
    close(storage).await;
}

#[tokio::test]
async fn a_large_commit_s_rows_have_its_time() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let storage = Storage::open(options(dir.path(), &clock)).await.unwrap();
    let topic = forgetful_topic(&storage, "events", 2).await;
    let append = |partition| Append { topic: topic.id, partition, batch: batch(&[&"x".repeat(10_000)]) };
    let mut large = storage.begin().await.unwrap();
    for round in 0..5 {
        large.append(append(round % 2)).await.unwrap();
        large.append(append((round + 1) % 2)).await.unwrap();
        clock.advance_us(SECOND_US);
    }
    let receipt = large.commit(Commit::default()).await.unwrap();
    assert!(receipt.commit_time_us >= clock.now_us());
    for partition in [at(&topic, 0), at(&topic, 1)] {
        let expected: Vec<_> = (0..5).map(|offset| (offset, receipt.commit_time_us)).collect();
        assert_eq!(rows(&storage, partition, None).await, expected);
        assert!(rows(&storage, partition, Some(receipt.commit_time_us - 1)).await.is_empty());
    }
    storage.checkpoint().await.unwrap();
    let expected: Vec<_> = (0..5).map(|offset| (offset, receipt.commit_time_us)).collect();
    assert_eq!(rows(&storage, at(&topic, 0), None).await, expected);
    close(storage).await;
}

#[tokio::test]
async fn what_is_begun_from_the_bucket_alone_keeps_the_times_of_transactions() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let bucket = dir.path().join("bucket");
    std::fs::create_dir(&bucket).unwrap();
    let over_bucket = |home: &str| {
        let mut options = options(&dir.path().join(home), &clock);
        options.object_store_url = Some(format!("file://{}", bucket.display()));
        options
    };
    let storage = Storage::open(over_bucket("first")).await.unwrap();
    let topic = forgetful_topic(&storage, "events", 1).await;
    let partition = at(&topic, 0);
    // An open transaction keeps what follows out of the objects, and in the checkpoint's tail.
    let open = init(&storage, "open").await;
    add(&storage, "open", open, &[partition]).await.unwrap();
    send(&storage, open, 0, partition, &["open"]).await.unwrap();
    let kept = init(&storage, "kept").await;
    add(&storage, "kept", kept, &[partition]).await.unwrap();
    send(&storage, kept, 0, partition, &["kept"]).await.unwrap();
    clock.advance_us(SECOND_US);
    let committed = end(&storage, "kept", kept, true).await;
    storage.checkpoint().await.unwrap();
    close(storage).await;
    let storage = Storage::take_over(over_bucket("second")).await.unwrap();
    // Nobody ends the open one but its timeout.
    clock.advance_us(120 * SECOND_US);
    eventually("the open one is aborted", async || rows(&storage, partition, None).await == [(1, committed)]).await;
    close(storage).await;
}

/// A topic with this policy, of which nothing waits.
async fn topic(storage: &Storage, policy: CleanupPolicy, config: TopicConfig) -> Arc<Topic> {
    let config = TopicConfig {
        cleanup_policy: Some(policy),
        local_retention_ms: Some(0),
        min_compaction_lag_ms: Some(0),
        ..config
    };
    storage.create_topic("topic", Some(2), config).await.unwrap()
}

async fn put(storage: &Storage, partition: TopicPartition, key: &str, value: &str) -> i64 {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    builder.push(storage.clock().now_ms(), Some(key.as_bytes()), Some(value.as_bytes()), &[]);
    let batch = builder.build(Compression::None).unwrap();
    storage.commit(appends(partition, batch)).await.unwrap().commit_time_us
}

async fn history_start(storage: &Storage, topic: &Topic) -> i64 {
    let exact = snapshot(storage, topic).history_start_us(topic.id).await.unwrap();
    assert!(storage.history_start_us(topic.id).unwrap() <= exact);
    exact
}

#[tokio::test]
async fn history_begins_where_the_newest_value_that_compaction_removed_was_replaced() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let storage = Storage::open(options(dir.path(), &clock)).await.unwrap();
    let topic = topic(&storage, CleanupPolicy::Compact, TopicConfig::default()).await;
    assert_eq!(history_start(&storage, &topic).await, topic.created_at_us, "all there ever was");
    let tick = || clock.advance_us(SECOND_US);
    tick();
    put(&storage, at(&topic, 0), "a", "1").await;
    put(&storage, at(&topic, 0), "b", "1").await;
    tick();
    let replaced = put(&storage, at(&topic, 0), "a", "2").await;
    tick();
    put(&storage, at(&topic, 0), "c", "1").await;
    storage.checkpoint().await.unwrap();
    assert_eq!(history_start(&storage, &topic).await, topic.created_at_us, "nothing is gone yet");
    assert_eq!(rows(&storage, at(&topic, 0), Some(replaced - 1)).await.len(), 2);
    assert_eq!(storage.vacuum(Some(topic.id)).await.unwrap().rows_removed, 1);
    assert_eq!(history_start(&storage, &topic).await, replaced);
    close(storage).await;
    let storage = Storage::open(options(dir.path(), &clock)).await.unwrap();
    assert_eq!(history_start(&storage, &topic).await, replaced, "it is kept");
    assert_eq!(storage.history_start_us(topic.id), Some(replaced));
    close(storage).await;
}

#[tokio::test]
async fn history_begins_behind_what_retention_or_a_deletion_has_taken() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let storage = Storage::open(options(dir.path(), &clock)).await.unwrap();
    let config = TopicConfig { retention_ms: Some(DAY_MS), ..TopicConfig::default() };
    let topic = topic(&storage, CleanupPolicy::Delete, config).await;
    put(&storage, at(&topic, 0), "a", "1").await;
    let taken = put(&storage, at(&topic, 0), "a", "2").await;
    storage.checkpoint().await.unwrap();
    clock.advance_us(DAY_MS * 1000 + SECOND_US);
    put(&storage, at(&topic, 0), "a", "3").await;
    let kept = put(&storage, at(&topic, 1), "b", "4").await;
    assert_eq!(history_start(&storage, &topic).await, topic.created_at_us);
    assert_eq!(storage.vacuum(Some(topic.id)).await.unwrap().offsets_trimmed, 2);
    assert_eq!(history_start(&storage, &topic).await, taken);
    clock.advance_us(SECOND_US);
    // What is only in the log, and before the manifest learns of it.
    let trim = Trim { partition: at(&topic, 1), log_start_offset: 1 };
    storage.trim(vec![trim]).await.unwrap();
    assert_eq!(history_start(&storage, &topic).await, kept);
    storage.vacuum(Some(topic.id)).await.unwrap();
    assert_eq!(history_start(&storage, &topic).await, kept);
    close(storage).await;
    let storage = Storage::open(options(dir.path(), &clock)).await.unwrap();
    assert_eq!(history_start(&storage, &topic).await, kept);
    close(storage).await;
}

#[tokio::test]
async fn who_has_caught_up_sees_every_commit_that_was_on_its_way() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let storage = Storage::open(options(dir.path(), &clock)).await.unwrap();
    let topic = forgetful_topic(&storage, "events", 1).await;
    let writes: Vec<_> = (0..50)
        .map(|_| {
            let (storage, partition) = (storage.clone(), at(&topic, 0));
            tokio::spawn(async move { produce(&storage, partition, &["v"]).await.unwrap().commit_time_us })
        })
        .collect();
    tokio::task::yield_now().await;
    clock.advance_us(SECOND_US);
    let at_us = clock.now_us() - 1;
    storage.catch_up().await;
    let then = rows(&storage, at(&topic, 0), Some(at_us)).await;
    for write in writes {
        write.await.unwrap();
    }
    assert_eq!(rows(&storage, at(&topic, 0), Some(at_us)).await, then, "the past does not change");
    close(storage).await;
}
