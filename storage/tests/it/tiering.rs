//! Hot to cold and back: each offset once, whatever tiering, forgetting, deleting and restarting do meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::record::format::{ColumnRole, ColumnType, DeclaredColumn, Format, RecordFormat};
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{DeclaredColumns, Error, ScanRequest, Storage, TimedOffset, Topic, TopicConfig, TopicId};
use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;

use crate::records::{
    close, consume, forgetful_topic, open_tiered, produce, records, scan, scan_all, small_settings, snapshot,
    tiered_options,
};
use crate::support::{appends, at, batch, eventually, values};

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_over_hot_and_cold_gives_each_offset_once() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let topic = forgetful_topic(&storage, "clicks", 3).await;
    for partition in 0..2 {
        produce(&storage, &topic, partition, 0..500, 7).await;
    }
    let report = storage.checkpoint().await.unwrap();
    assert_eq!(report.rows, 1000);
    assert_eq!(storage.checkpoint().await.unwrap().objects, 0);
    for partition in 0..3 {
        produce(&storage, &topic, partition, if partition == 2 { 0..20 } else { 500..520 }, 3).await;
    }
    let pinned = snapshot(&storage, &topic);
    for (partition, end) in [(0, 520), (1, 520), (2, 20)] {
        assert_eq!(scan_all(&pinned, at(&topic, partition)).await, records(partition, 0..end));
        let range = pinned.range(at(&topic, partition)).unwrap();
        assert_eq!((range.start, range.end), (0, end));
    }
    let watermarks = storage.watermarks(at(&topic, 0)).unwrap();
    assert_eq!((watermarks.tiered_end_offset, watermarks.high_watermark), (500, 520));
    let edge = ScanRequest { offset_start: 495, offset_end: 505, ..ScanRequest::all(RecordColumn::ALL.to_vec()) };
    assert_eq!(scan(&pinned, at(&topic, 1), edge).await.unwrap(), records(1, 495..505));
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_without_columns_counts_and_batches_are_as_small_as_asked() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let topic = forgetful_topic(&storage, "clicks", 1).await;
    produce(&storage, &topic, 0, 0..300, 50).await;
    storage.checkpoint().await.unwrap();
    produce(&storage, &topic, 0, 300..450, 50).await;
    let pinned = snapshot(&storage, &topic);
    for columns in [vec![], vec![RecordColumn::Value]] {
        let request =
            ScanRequest { batch_rows: 64, offset_start: 10, offset_end: 440, ..ScanRequest::all(columns.clone()) };
        let batches: Vec<_> = pinned.scan(at(&topic, 0), request).unwrap().try_collect().await.unwrap();
        assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 430);
        assert!(batches.iter().all(|batch| batch.num_rows() <= 64 && batch.num_columns() == columns.len()));
    }
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_stays_readable_whatever_is_tiered_forgotten_or_deleted() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let topic = forgetful_topic(&storage, "clicks", 1).await;
    produce(&storage, &topic, 0, 0..2000, 20).await;
    let before_tiering = snapshot(&storage, &topic);
    storage.checkpoint().await.unwrap();
    produce(&storage, &topic, 0, 2000..4000, 20).await;
    let across = snapshot(&storage, &topic);
    let half_read = across.scan(at(&topic, 0), ScanRequest::all(vec![RecordColumn::Offset])).unwrap();
    storage.checkpoint().await.unwrap();
    storage.delete_topic(topic.id).await.unwrap();
    storage.checkpoint().await.unwrap();
    assert!(storage.objects().await.unwrap().is_empty(), "objects of a deleted topic are not shown");
    assert_eq!(scan_all(&before_tiering, at(&topic, 0)).await, records(0, 0..2000));
    assert_eq!(scan_all(&across, at(&topic, 0)).await, records(0, 0..4000));
    let batches: Vec<_> = half_read.try_collect().await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 4000);
    assert!(matches!(storage.snapshot(&[topic.id], &HashMap::new()), Err(Error::UnknownTopic { .. })));
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_gets_the_same_records_hot_and_cold_and_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let topic = forgetful_topic(&storage, "clicks", 2).await;
    produce(&storage, &topic, 1, 0..3000, 25).await;
    let expected = records(1, 0..3000);
    assert_eq!(consume(&storage, at(&topic, 1), 0, 20_000).await, expected);
    let hot_segments = storage.segments().len();
    storage.checkpoint().await.unwrap();
    assert!(storage.segments().len() < hot_segments, "the log forgot nothing of {hot_segments} segments");
    assert_eq!(consume(&storage, at(&topic, 1), 0, 20_000).await, expected);
    produce(&storage, &topic, 1, 3000..3100, 25).await;
    close(storage).await;

    let storage = open_tiered(home.path()).await;
    let expected = records(1, 0..3100);
    assert_eq!(consume(&storage, at(&topic, 1), 0, 1).await, expected);
    assert_eq!(consume(&storage, at(&topic, 1), 1234, 1 << 20).await, expected[1234..]);
    assert_eq!(scan_all(&snapshot(&storage, &topic), at(&topic, 1)).await, expected);
    storage.checkpoint().await.unwrap();
    assert_eq!(consume(&storage, at(&topic, 1), 0, 50_000).await, expected);
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_say_what_they_hold_and_other_programs_can_open_them() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let topic = forgetful_topic(&storage, "clicks", 2).await;
    produce(&storage, &topic, 0, 0..10, 10).await;
    produce(&storage, &topic, 1, 0..30, 10).await;
    storage.checkpoint().await.unwrap();
    let mut objects = storage.objects().await.unwrap();
    objects.sort_by_key(|object| object.partition);
    let [first, second] = objects.as_slice() else { panic!("{objects:?}") };
    assert_eq!((first.partition, first.first_offset, first.last_offset, first.rows), (0, 0, 9, 10));
    assert_eq!((second.partition, second.first_offset, second.last_offset, second.rows), (1, 0, 29, 30));
    assert_eq!((second.min_timestamp_ms, second.max_timestamp_ms), (1_000_000, 1_000_029));
    assert_eq!(first.url, second.url);
    assert_eq!(std::fs::metadata(&first.url).unwrap().len(), first.bytes);
    close(storage).await;
}

/// Says that every topic's value is a JSON object with the number `n`.
#[derive(Debug)]
struct NumberedTopics;

impl DeclaredColumns for NumberedTopics {
    fn format_of(&self, _: TopicId) -> Option<RecordFormat> {
        let n = DeclaredColumn {
            name: "n".to_owned(),
            field: "n".to_owned(),
            kind: ColumnType::BigInt,
            role: ColumnRole::Value,
            not_null: false,
        };
        let (key_format, value_format) = (Format::None, Format::Json);
        Some(RecordFormat { columns: vec![n], key_format, value_format, tombstones: false })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_have_the_declared_columns_and_say_what_did_not_decode() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let declared_by: Arc<dyn DeclaredColumns> = Arc::new(NumberedTopics);
    storage.declare_columns(Arc::downgrade(&declared_by));
    let topic = forgetful_topic(&storage, "clicks", 1).await;
    for value in [r#"{"n": 7}"#, "no json", r#"{"n": 9}"#] {
        storage.commit(appends(at(&topic, 0), batch(&[value]))).await.unwrap();
    }
    storage.checkpoint().await.unwrap();
    let file = std::fs::File::open(&storage.objects().await.unwrap()[0].url).unwrap();
    let mut batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let rows = batches.next().unwrap().unwrap();
    let numbers = rows.column_by_name("n").unwrap().as_primitive::<Int64Type>();
    assert_eq!(numbers.iter().collect::<Vec<_>>(), [Some(7), None, Some(9)]);
    let errors = rows.column_by_name("_error").unwrap();
    assert!(errors.is_null(0) && errors.is_valid(1) && errors.is_null(2));
    assert_eq!(values(&storage, at(&topic, 0)).await, [r#"{"n": 7}"#, "no json", r#"{"n": 9}"#]);
    assert_eq!(scan_all(&snapshot(&storage, &topic), at(&topic, 0)).await.len(), 3);
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_is_found_hot_and_cold() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let topic = forgetful_topic(&storage, "clicks", 1).await;
    produce(&storage, &topic, 0, 0..1500, 25).await;
    storage.checkpoint().await.unwrap();
    produce(&storage, &topic, 0, 1500..1600, 25).await;
    for offset in [0, 1, 777, 1499, 1500, 1599] {
        let timestamp_ms = 1_000_000 + offset;
        let found = storage.offset_for_timestamp(at(&topic, 0), timestamp_ms).await.unwrap();
        assert_eq!(found, Some(TimedOffset { offset, timestamp_ms }));
    }
    assert_eq!(storage.offset_for_timestamp(at(&topic, 0), 1_001_600).await.unwrap(), None);
    let recent = ScanRequest { timestamp_min_ms: Some(1_001_590), ..ScanRequest::all(RecordColumn::ALL.to_vec()) };
    let rows = scan(&snapshot(&storage, &topic), at(&topic, 0), recent).await.unwrap();
    assert!(rows.len() < 1600, "nothing was pruned");
    assert_eq!(rows[rows.len() - 10..], records(0, 1590..1600));
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_timestamp_is_found_on_either_side_of_the_seam_and_the_first_of_equals() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let topic = forgetful_topic(&storage, "clicks", 1).await;
    let partition = at(&topic, 0);
    assert_eq!(storage.offset_of_max_timestamp(partition).await.unwrap(), None);
    produce(&storage, &topic, 0, 0..1500, 25).await;
    let found = |offset| Some(TimedOffset { offset, timestamp_ms: 1_000_000 + offset });
    assert_eq!(storage.offset_of_max_timestamp(partition).await.unwrap(), found(1499));
    storage.checkpoint().await.unwrap();
    assert_eq!(storage.offset_of_max_timestamp(partition).await.unwrap(), found(1499));
    // Timestamps of a thousand and some: long ago.
    storage.commit(appends(partition, batch(&["early", "early too"]))).await.unwrap();
    assert_eq!(storage.offset_of_max_timestamp(partition).await.unwrap(), found(1499));
    let first_of_all = storage.offset_for_timestamp(partition, 0).await.unwrap();
    assert_eq!(first_of_all, found(0));
    assert!(storage.local_start(partition).unwrap() <= 1500);
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_is_found_while_the_seam_moves() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let topic = forgetful_topic(&storage, "clicks", 1).await;
    produce(&storage, &topic, 0, 0..100, 10).await;
    let checkpoints = tokio::spawn({
        let (storage, topic) = (storage.clone(), Arc::clone(&topic));
        async move {
            for round in 1..12 {
                produce(&storage, &topic, 0, round * 100..(round + 1) * 100, 10).await;
                storage.checkpoint().await.unwrap();
            }
        }
    });
    let mut looks = 0;
    while !checkpoints.is_finished() || looks < 50 {
        for offset in [0, 50, 99] {
            let timestamp_ms = 1_000_000 + offset;
            let found = storage.offset_for_timestamp(at(&topic, 0), timestamp_ms).await.unwrap();
            assert_eq!(found, Some(TimedOffset { offset, timestamp_ms }));
        }
        let end = storage.watermarks(at(&topic, 0)).unwrap().high_watermark;
        let largest = storage.offset_of_max_timestamp(at(&topic, 0)).await.unwrap().unwrap();
        assert!(
            largest.offset >= end - 1 && largest.timestamp_ms == 1_000_000 + largest.offset,
            "{largest:?} at {end}"
        );
        looks += 1;
    }
    checkpoints.await.unwrap();
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_enough_is_tiered_without_being_asked() {
    let home = tempfile::tempdir().unwrap();
    let settings = StorageSettings { tier_age_max_ms: 1, ..small_settings() };
    let storage = Storage::open(tiered_options(home.path(), settings)).await.unwrap();
    let topic = forgetful_topic(&storage, "clicks", 1).await;
    produce(&storage, &topic, 0, 0..100, 10).await;
    let tiered = || storage.watermarks(at(&topic, 0)).unwrap().tiered_end_offset == 100;
    eventually("everything is tiered", async || tiered()).await;
    assert_eq!(scan_all(&snapshot(&storage, &topic), at(&topic, 0)).await, records(0, 0..100));
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_another_data_directory_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let (one, two) = (home.path().join("one"), home.path().join("two"));
    let storage = open_tiered(&one).await;
    let cluster = storage.cluster_id();
    let topic = forgetful_topic(&storage, "clicks", 1).await;
    produce(&storage, &topic, 0, 0..2000, 20).await;
    storage.checkpoint().await.unwrap();
    close(storage).await;

    let mut foreign = tiered_options(&two, small_settings());
    foreign.object_store_url = Some(format!("file://{}", one.join("objects").display()));
    let Err(error) = Storage::open(foreign).await else { panic!("another cluster's bucket is taken") };
    assert!(matches!(&error, Error::Config { reason } if reason.contains(&cluster)), "{error}");

    let mut emptied = tiered_options(&one, small_settings());
    emptied.object_store_url = Some(format!("file://{}/empty", home.path().display()));
    let Err(error) = Storage::open(emptied).await else { panic!("a bucket without what was forgotten is taken") };
    assert!(matches!(&error, Error::Config { reason } if reason.contains("lacks offsets 0 to")), "{error}");

    let storage = open_tiered(&one).await;
    assert_eq!(consume(&storage, at(&topic, 0), 0, 1 << 20).await, records(0, 0..2000));
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_objects_in_memory_the_log_forgets_nothing() {
    let home = tempfile::tempdir().unwrap();
    let in_memory = || {
        let mut options = tiered_options(home.path(), small_settings());
        options.object_store_url = Some("memory:".to_owned());
        options
    };
    let storage = Storage::open(in_memory()).await.unwrap();
    let topic = forgetful_topic(&storage, "clicks", 1).await;
    produce(&storage, &topic, 0, 0..2000, 20).await;
    assert_eq!(storage.checkpoint().await.unwrap().rows, 2000);
    assert_eq!(scan_all(&snapshot(&storage, &topic), at(&topic, 0)).await, records(0, 0..2000));
    close(storage).await;
    let storage = Storage::open(in_memory()).await.unwrap();
    assert!(storage.objects().await.unwrap().is_empty());
    assert_eq!(scan_all(&snapshot(&storage, &topic), at(&topic, 0)).await, records(0, 0..2000));
    assert_eq!(consume(&storage, at(&topic, 0), 0, 1 << 20).await, records(0, 0..2000));
    close(storage).await;
}

async fn produce_all(storage: Storage, topic: Arc<Topic>, partition: i32, end: i64) {
    produce(&storage, &topic, partition, 0..end, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_see_no_gap_and_nothing_twice_while_producers_and_checkpoints_run() {
    const END: i64 = 1500;
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let topic = forgetful_topic(&storage, "clicks", 2).await;
    let producers: Vec<_> =
        (0..2).map(|partition| tokio::spawn(produce_all(storage.clone(), topic.clone(), partition, END))).collect();
    let checkpoints = tokio::spawn({
        let storage = storage.clone();
        async move {
            for _ in 0..20 {
                storage.checkpoint().await.unwrap();
            }
        }
    });
    let mut seen = [0; 2];
    while seen.iter().any(|end| *end < END) {
        for partition in 0..2 {
            let pinned = snapshot(&storage, &topic);
            let range = pinned.range(at(&topic, partition)).unwrap();
            let index = usize::try_from(partition).unwrap();
            assert!(range.end >= seen[index], "the end went back from {} to {}", seen[index], range.end);
            seen[index] = range.end;
            assert_eq!(scan_all(&pinned, at(&topic, partition)).await, records(partition, 0..range.end));
        }
    }
    for producer in producers {
        producer.await.unwrap();
    }
    checkpoints.await.unwrap();
    // Elsewhere than here, as connections do it.
    let (of_consumer, partition) = (storage.clone(), at(&topic, 0));
    let consumed = tokio::spawn(async move { consume(&of_consumer, partition, 0, 10_000).await });
    assert_eq!(consumed.await.unwrap(), records(0, 0..END));
    let of_seeker = storage.clone();
    let sought = tokio::spawn(async move { of_seeker.offset_for_timestamp(partition, 0).await });
    assert!(sought.await.unwrap().unwrap().is_some());
    close(storage).await;
}

/// A step of the random test.
#[derive(Clone, Debug)]
enum Step {
    Produce { partition: i32, count: i64, batch_records: usize },
    Checkpoint,
    Restart,
    Read { partition: i32, start: i64, length: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2i32, 1..80i64, 1..30usize)
            .prop_map(|(partition, count, batch_records)| Step::Produce { partition, count, batch_records }),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Restart),
        3 => (0..2i32, 0..200i64, 0..200i64)
            .prop_map(|(partition, start, length)| Step::Read { partition, start, length }),
    ]
}

async fn run_steps(steps: Vec<Step>) {
    let home = tempfile::tempdir().unwrap();
    let mut storage = open_tiered(home.path()).await;
    let topic = forgetful_topic(&storage, "clicks", 2).await;
    let mut ends = [0i64; 2];
    for step in steps {
        match step {
            Step::Produce { partition, count, batch_records } => {
                let end = &mut ends[usize::try_from(partition).unwrap()];
                produce(&storage, &topic, partition, *end..*end + count, batch_records).await;
                *end += count;
            }
            Step::Checkpoint => {
                storage.checkpoint().await.unwrap();
            }
            Step::Restart => {
                close(storage).await;
                storage = open_tiered(home.path()).await;
            }
            Step::Read { partition, start, length } => {
                let end = ends[usize::try_from(partition).unwrap()];
                let (start, stop) = (start.min(end), (start + length).min(end));
                let wanted = ScanRequest {
                    offset_start: start,
                    offset_end: stop,
                    batch_rows: 17,
                    ..ScanRequest::all(RecordColumn::ALL.to_vec())
                };
                let rows = scan(&snapshot(&storage, &topic), at(&topic, partition), wanted).await.unwrap();
                assert_eq!(rows, records(partition, start..stop));
                assert_eq!(consume(&storage, at(&topic, partition), start, 3000).await, records(partition, start..end));
            }
        }
    }
    close(storage).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn whatever_is_done_in_whatever_order_every_record_is_there_once(steps in prop::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run_steps(steps));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_fills_is_tiered_long_before_it_is_time() {
    let home = tempfile::tempdir().unwrap();
    let settings = StorageSettings {
        wal_bytes_max: 1 << 20,
        wal_segment_bytes: 64 << 10,
        tier_age_max_ms: 3_600_000,
        topic_local_retention_ms: 0,
        ..StorageSettings::default()
    };
    let storage = Storage::open(tiered_options(home.path(), settings)).await.unwrap();
    let topic = storage.create_topic("clicks", Some(8), TopicConfig::default()).await.unwrap();
    let long = "x".repeat(50_000);
    for number in 0..48 {
        let partition = at(&topic, number % 8);
        eventually("there is room again", async || match storage.commit(appends(partition, batch(&[&long]))).await {
            Ok(_) => true,
            Err(Error::Full { .. }) => false,
            Err(error) => panic!("{error}"),
        })
        .await;
    }
    for partition in 0..8 {
        assert_eq!(values(&storage, at(&topic, partition)).await.len(), 6);
    }
    close(storage).await;
}
