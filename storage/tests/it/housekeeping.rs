//! Merging, retention and compaction through the door: whatever they do in whatever order, every record that must be
//! there is there, once, at its offset, as it was sent; what must go goes.

mod histories;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use aquifer_storage::clock::{Clock, ManualClock};
use aquifer_storage::record::batch::BatchHeader;
use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{
    Append, CleanupPolicy, Commit, DefinitionChange, Error, Expect, HoldsBack, OpenOptions, ScanRequest, Snapshot,
    Storage, Topic, TopicConfig, TopicId, TopicPartition, Trim, VacuumReport,
};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use futures::TryStreamExt;
use parking_lot::Mutex;
use proptest::prelude::*;

use crate::records::{Record, batch, close, consume, scan_all, snapshot, tiered_options};
use crate::support::{at, eventually};

const DAY_MS: i64 = 86_400_000;

/// A storage that looks after itself on request only, with a clock that stands still.
struct Bench {
    home: tempfile::TempDir,
    clock: Arc<ManualClock>,
    settings: StorageSettings,
}

impl Bench {
    fn new() -> Self {
        let settings = StorageSettings {
            wal_segment_bytes: 64 << 10,
            wal_commit_bytes_max: 64 << 10,
            tier_run_bytes_max: 64 << 10,
            housekeeping_interval_ms: 0,
            merge_object_bytes: 32 << 10,
            ..StorageSettings::default()
        };
        let clock = Arc::new(ManualClock::at_us(1_700_000_000_000_000));
        Self { home: tempfile::tempdir().unwrap(), clock, settings }
    }

    async fn open(&self) -> Storage {
        let options = OpenOptions {
            clock: Arc::<ManualClock>::clone(&self.clock),
            ..tiered_options(self.home.path(), self.settings.clone())
        };
        Storage::open(options).await.unwrap()
    }

    fn advance_ms(&self, ms: i64) {
        self.clock.advance_us(ms * 1000);
    }

    /// Produces a commit of keyed records; a value `None` is a tombstone.
    async fn produce(&self, storage: &Storage, topic: &Topic, partition: i32, keyed: &[(Option<&str>, Option<&str>)]) {
        let record =
            |(key, value): &(Option<&str>, Option<&str>)| sent(0, self.clock.now_ms(), *key, value.map(str::to_owned));
        let records: Vec<_> = keyed.iter().map(record).collect();
        let append = Append { topic: topic.id, partition, batch: batch(&records) };
        storage.commit(Commit { appends: vec![append], ..Commit::default() }).await.unwrap();
    }
}

/// Fills the log's open segment, so that what lies before is forgotten once it is tiered.
async fn roll(bench: &Bench, storage: &Storage) {
    let filler = match storage.topic("filler") {
        Some(topic) => topic,
        None => topic_with(storage, "filler", 1, config(CleanupPolicy::Delete)).await,
    };
    for round in 0..16_u32 {
        bench.produce(storage, &filler, 0, &[(None, Some(&noise(round)))]).await;
    }
    bench.advance_ms(1);
    storage.checkpoint().await.unwrap();
}

/// 16 kB that hardly get smaller.
fn noise(round: u32) -> String {
    (0..2000_u32).map(|at| format!("{:08x}", (round * 2000 + at).wrapping_mul(0x9e37_79b9))).collect()
}

fn sent(offset: i64, timestamp_ms: i64, key: Option<&str>, value: Option<String>) -> Record {
    let (key, value) = (key.map(|key| key.as_bytes().to_vec()), value.map(String::into_bytes));
    let headers = if offset % 3 == 1 { vec![(b"h".to_vec(), None), (b"h".to_vec(), Some(vec![]))] } else { vec![] };
    Record { offset, timestamp_ms, timestamp_type: 0, key, value, headers }
}

fn config(policy: CleanupPolicy) -> TopicConfig {
    TopicConfig { cleanup_policy: Some(policy), local_retention_ms: Some(0), ..TopicConfig::default() }
}

async fn topic_with(storage: &Storage, name: &str, partitions: i32, config: TopicConfig) -> Arc<Topic> {
    storage.create_topic(name, Some(partitions), config).await.unwrap()
}

/// Keys and values of a partition, with their offsets.
async fn contents(storage: &Storage, topic: &Topic, partition: i32) -> Vec<(i64, String, Option<String>)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let records = scan_all(&snapshot(storage, topic), at(topic, partition)).await;
    let row = |record: Record| (record.offset, record.key.map_or_else(String::new, text), record.value.map(text));
    records.into_iter().map(row).collect()
}

async fn objects(storage: &Storage, topic: &Topic) -> BTreeSet<String> {
    let all = storage.objects().await.unwrap();
    all.into_iter().filter(|object| object.topic == topic.id).map(|object| object.url).collect()
}

fn rows(found: &[(i64, &str, Option<&str>)]) -> Vec<(i64, String, Option<String>)> {
    found.iter().map(|(offset, key, value)| (*offset, (*key).to_owned(), value.map(str::to_owned))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_objects_become_large_ones_by_themselves_and_every_row_stays() {
    let mut bench = Bench::new();
    bench.settings.housekeeping_interval_ms = 1;
    bench.settings.merge_object_bytes = 1 << 20;
    let storage = bench.open().await;
    let topic = topic_with(&storage, "clicks", 3, config(CleanupPolicy::Delete)).await;
    for round in 0..24 {
        let value = format!("value {round}");
        for partition in [round % 3, (round + 1) % 3] {
            bench.produce(&storage, &topic, partition, &[(Some("k"), Some(&value)), (None, None)]).await;
        }
        storage.checkpoint().await.unwrap();
    }
    let before = [contents(&storage, &topic, 0).await, contents(&storage, &topic, 1).await];
    let pinned = snapshot(&storage, &topic);
    eventually("24 objects become a few", async || {
        bench.advance_ms(1000);
        objects(&storage, &topic).await.len() <= 6
    })
    .await;
    let after = [contents(&storage, &topic, 0).await, contents(&storage, &topic, 1).await];
    assert_eq!(before, after);
    assert_eq!(scan_all(&pinned, at(&topic, 0)).await.len(), before[0].len());
    let report = storage.vacuum(Some(topic.id)).await.unwrap();
    assert_eq!(objects(&storage, &topic).await.len(), 1, "{report:?}");
    assert_eq!(storage.vacuum(None).await.unwrap().objects_merged, 0, "nothing is left to do");
    close(storage).await;
    let storage = bench.open().await;
    assert_eq!(contents(&storage, &topic, 0).await, before[0]);
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_records_go_hot_and_cold_and_objects_with_them() {
    let bench = Bench::new();
    let storage = bench.open().await;
    let kept = TopicConfig { retention_ms: Some(DAY_MS), ..config(CleanupPolicy::Delete) };
    let topic = topic_with(&storage, "clicks", 2, kept).await;
    let start = |partition| storage.watermarks(at(&topic, partition)).unwrap().log_start_offset;
    bench.produce(&storage, &topic, 0, &[(None, Some("a")), (None, Some("b"))]).await;
    storage.checkpoint().await.unwrap();
    bench.advance_ms(DAY_MS / 2);
    bench.produce(&storage, &topic, 0, &[(None, Some("c"))]).await;
    bench.produce(&storage, &topic, 1, &[(None, Some("x"))]).await;
    bench.advance_ms(DAY_MS / 2);
    assert_eq!(storage.vacuum(None).await.unwrap().offsets_trimmed, 0, "nothing is older than a day");
    bench.advance_ms(1);
    let pinned = snapshot(&storage, &topic);
    assert_eq!(storage.vacuum(None).await.unwrap().offsets_trimmed, 2);
    assert_eq!((start(0), start(1)), (2, 0));
    assert!(objects(&storage, &topic).await.is_empty());
    assert_eq!(contents(&storage, &topic, 0).await, rows(&[(2, "", Some("c"))]));
    assert_eq!(scan_all(&pinned, at(&topic, 0)).await.len(), 3, "who had pinned them still reads them");
    // The rest is still in the log alone.
    bench.advance_ms(DAY_MS);
    storage.vacuum(Some(topic.id)).await.unwrap();
    assert_eq!((start(0), start(1)), (3, 1));
    assert_eq!(storage.checkpoint().await.unwrap().rows, 0, "what is gone is not tiered");
    bench.produce(&storage, &topic, 0, &[(None, Some("d"))]).await;
    close(storage).await;
    let storage = bench.open().await;
    assert_eq!(contents(&storage, &topic, 0).await, rows(&[(3, "", Some("d"))]));
    assert_eq!(storage.watermarks(at(&topic, 1)).unwrap().high_watermark, 1);
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_before_it_was_tiered_is_missed_by_nobody() {
    for reopened in [false, true] {
        let bench = Bench::new();
        let storage = bench.open().await;
        let topic = topic_with(&storage, "clicks", 1, config(CleanupPolicy::Delete)).await;
        for round in 0..40 {
            bench.produce(&storage, &topic, 0, &[(None, Some(&noise(round)))]).await;
        }
        let segments = storage.segments().len();
        assert!(segments > 3, "{segments}");
        storage.trim(vec![Trim { partition: at(&topic, 0), log_start_offset: 39 }]).await.unwrap();
        eventually("the log forgets what was deleted", async || storage.segments().len() < segments / 2).await;
        let storage = if reopened {
            close(storage).await;
            bench.open().await
        } else {
            storage
        };
        bench.produce(&storage, &topic, 0, &[(None, Some("last"))]).await;
        assert_eq!(contents(&storage, &topic, 0).await.len(), 2);
        storage.checkpoint().await.unwrap();
        assert_eq!(contents(&storage, &topic, 0).await[1], (40, String::new(), Some("last".to_owned())));
        assert_eq!(storage.watermarks(at(&topic, 0)).unwrap().tiered_end_offset, 41);
        close(storage).await;
        let storage = bench.open().await;
        assert_eq!(storage.watermarks(at(&topic, 0)).unwrap().log_start_offset, 39);
        assert_eq!(contents(&storage, &topic, 0).await.len(), 2);
        close(storage).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_keeps_about_the_bytes_it_is_told_to() {
    let bench = Bench::new();
    let storage = bench.open().await;
    let kept = TopicConfig { retention_bytes: Some(4000), ..config(CleanupPolicy::Delete) };
    let topic = topic_with(&storage, "clicks", 2, kept).await;
    for round in 0..20_u32 {
        let noise: String =
            (0..50_u32).map(|at| format!("{:08x}", (round * 50 + at).wrapping_mul(0x9e37_79b9))).collect();
        bench.produce(&storage, &topic, 0, &[(None, Some(&noise))]).await;
        if round % 4 == 3 {
            storage.checkpoint().await.unwrap();
        }
    }
    bench.produce(&storage, &topic, 1, &[(None, Some("small"))]).await;
    storage.vacuum(None).await.unwrap();
    let left = contents(&storage, &topic, 0).await;
    // A record takes about 460 bytes in the log, 250 in an object.
    assert!((6..=20).contains(&left.len()), "{} records are left", left.len());
    assert!(left.len() < 20 && left.last().unwrap().0 == 19);
    assert_eq!(contents(&storage, &topic, 1).await.len(), 1);
    assert_eq!(storage.vacuum(None).await.unwrap().offsets_trimmed, 0);
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_of_each_key_stays_and_offsets_do_not_move() {
    let bench = Bench::new();
    let storage = bench.open().await;
    let topic = topic_with(&storage, "users", 1, config(CleanupPolicy::Delete)).await;
    bench
        .produce(&storage, &topic, 0, &[(Some("a"), Some("1")), (None, Some("keyless")), (Some("b"), Some("1"))])
        .await;
    storage.configure_topic(topic.id, config(CleanupPolicy::Compact), None).await.unwrap();
    bench.produce(&storage, &topic, 0, &[(Some("a"), Some("2")), (Some("c"), Some("1"))]).await;
    storage.checkpoint().await.unwrap();
    bench.produce(&storage, &topic, 0, &[(Some("b"), Some("2"))]).await;
    let pinned = snapshot(&storage, &topic);
    let report = storage.vacuum(Some(topic.id)).await.unwrap();
    assert_eq!(report.rows_removed, 2);
    let left = rows(&[(2, "b", Some("1")), (3, "a", Some("2")), (4, "c", Some("1")), (5, "b", Some("2"))]);
    assert_eq!(contents(&storage, &topic, 0).await, left, "what is hot removes nothing");
    assert_eq!(scan_all(&pinned, at(&topic, 0)).await.len(), 6);
    let watermarks = storage.watermarks(at(&topic, 0)).unwrap();
    assert_eq!((watermarks.log_start_offset, watermarks.high_watermark), (0, 6));
    roll(&bench, &storage).await;
    // A fetch inside a gap answers with the next record.
    for offset in 0..3 {
        assert_eq!(consume(&storage, at(&topic, 0), offset, 1 << 20).await[0].offset, 2);
    }
    assert_eq!(storage.vacuum(None).await.unwrap().rows_removed, 1);
    assert_eq!(storage.vacuum(None).await.unwrap().rows_removed, 0);
    close(storage).await;
    let storage = bench.open().await;
    assert_eq!(contents(&storage, &topic, 0).await, left[1..]);
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_stays_until_its_readers_have_had_time() {
    let bench = Bench::new();
    let storage = bench.open().await;
    let kept = TopicConfig { delete_retention_ms: Some(DAY_MS), ..config(CleanupPolicy::Compact) };
    let topic = topic_with(&storage, "users", 1, kept).await;
    bench.produce(&storage, &topic, 0, &[(Some("a"), Some("1")), (Some("b"), Some("1"))]).await;
    bench.produce(&storage, &topic, 0, &[(Some("a"), None)]).await;
    storage.checkpoint().await.unwrap();
    // However old it is: its time begins when the value before it goes.
    bench.advance_ms(10 * DAY_MS);
    storage.vacuum(None).await.unwrap();
    assert_eq!(contents(&storage, &topic, 0).await, rows(&[(1, "b", Some("1")), (2, "a", None)]));
    bench.advance_ms(DAY_MS - 2);
    storage.vacuum(None).await.unwrap();
    close(storage).await;
    let storage = bench.open().await;
    assert_eq!(contents(&storage, &topic, 0).await.len(), 2);
    bench.advance_ms(2);
    storage.vacuum(None).await.unwrap();
    assert_eq!(contents(&storage, &topic, 0).await.len(), 2, "the log still has the value before it");
    roll(&bench, &storage).await;
    storage.vacuum(None).await.unwrap();
    assert_eq!(contents(&storage, &topic, 0).await, rows(&[(1, "b", Some("1"))]));
    assert_eq!(storage.watermarks(at(&topic, 0)).unwrap().high_watermark, 3);
    // The gap at the end is told as a batch without records, so that a consumer gets past it.
    let at_gap = aquifer_storage::FetchRequest { offset: 2, ..fetch(at(&topic, 0)) };
    let [bytes] = &storage.fetch(at_gap).await.unwrap().batches[..] else { panic!("one batch") };
    let header = BatchHeader::parse(bytes).unwrap();
    assert_eq!((header.base_offset, header.last_offset(), header.record_count), (2, 2, 0));
    close(storage).await;
}

fn fetch(partition: TopicPartition) -> aquifer_storage::FetchRequest {
    crate::support::fetch_of(partition, 0, 1 << 20)
}

#[tokio::test(flavor = "multi_thread")]
async fn young_records_are_not_compacted_and_the_dirty_ratio_is_for_the_loop_alone() {
    let mut bench = Bench::new();
    bench.settings.housekeeping_interval_ms = 1;
    let storage = bench.open().await;
    let kept = TopicConfig { min_compaction_lag_ms: Some(DAY_MS), ..config(CleanupPolicy::Compact) };
    let topic = topic_with(&storage, "users", 1, kept).await;
    bench.produce(&storage, &topic, 0, &[(Some("a"), Some("1")), (Some("a"), Some("2"))]).await;
    storage.checkpoint().await.unwrap();
    assert_eq!(storage.vacuum(None).await.unwrap().rows_removed, 0, "Kafka's lag holds for VACUUM too");
    bench.advance_ms(DAY_MS + 1);
    eventually("the loop compacts what is all dirty", async || {
        bench.advance_ms(1000);
        contents(&storage, &topic, 0).await.len() == 1
    })
    .await;
    close(storage).await;
}

/// Needs everything from an offset on.
#[derive(Debug)]
struct Needs(Mutex<Option<i64>>);

impl HoldsBack for Needs {
    fn needed_from(&self, _: TopicPartition) -> Option<i64> {
        *self.0.lock()
    }
}

fn held(topic: TopicId) -> DefinitionChange {
    let (kind, name, value) = ("query".to_owned(), "q".to_owned(), Some(Bytes::from_static(b"{}")));
    DefinitionChange { kind, name, value, holds: vec![topic], expect: Expect::Absent }
}

/// Needs nothing when it is asked the first so many times, and then everything: a query that is made meanwhile.
#[derive(Debug)]
struct ComesLate {
    asked: Mutex<u32>,
    after: u32,
}

impl HoldsBack for ComesLate {
    fn needed_from(&self, _: TopicPartition) -> Option<i64> {
        let mut asked = self.asked.lock();
        *asked += 1;
        (*asked > self.after).then_some(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_while_rows_are_looked_for_still_gets_them() {
    let bench = Bench::new();
    let storage = bench.open().await;
    let topic = topic_with(&storage, "users", 1, config(CleanupPolicy::Compact)).await;
    bench.produce(&storage, &topic, 0, &[(Some("a"), Some("1")), (Some("a"), Some("2"))]).await;
    storage.checkpoint().await.unwrap();
    // One row group, looked at three times; then it is asked before the rest is rewritten, and when that is to be published.
    for after in [3, 4] {
        let late = Arc::new(ComesLate { asked: Mutex::new(0), after });
        let weak: Weak<ComesLate> = Arc::downgrade(&late);
        storage.hold_back(weak);
        assert_eq!(storage.vacuum(None).await.unwrap().rows_removed, 0);
        assert_eq!(*late.asked.lock(), after + 1);
        assert_eq!(contents(&storage, &topic, 0).await.len(), 2);
    }
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_query_still_needs_stays() {
    let bench = Bench::new();
    let storage = bench.open().await;
    let old = TopicConfig { retention_ms: Some(0), ..config(CleanupPolicy::Delete) };
    let clicks = topic_with(&storage, "clicks", 1, old).await;
    let users = topic_with(&storage, "users", 1, config(CleanupPolicy::Compact)).await;
    for topic in [&clicks, &users] {
        for value in ["1", "2", "3", "4"] {
            bench.produce(&storage, topic, 0, &[(Some("a"), Some(value))]).await;
            storage.checkpoint().await.unwrap();
        }
    }
    bench.advance_ms(1000);
    let definitions = vec![held(clicks.id), DefinitionChange { name: "r".to_owned(), ..held(users.id) }];
    storage.commit(Commit { definitions, ..Commit::default() }).await.unwrap();
    let counts = async || [contents(&storage, &clicks, 0).await.len(), contents(&storage, &users, 0).await.len()];
    // Nobody says what the queries need: then it is everything.
    storage.vacuum(None).await.unwrap();
    assert_eq!(counts().await, [4, 4]);
    let needs = Arc::new(Needs(Mutex::new(Some(0))));
    let weak: Weak<Needs> = Arc::downgrade(&needs);
    storage.hold_back(weak);
    storage.vacuum(None).await.unwrap();
    assert_eq!(counts().await, [4, 4]);
    let refused = storage.trim(vec![Trim { partition: at(&clicks, 0), log_start_offset: 1 }]).await;
    assert!(matches!(refused, Err(Error::TopicHeld { .. })), "{refused:?}");
    *needs.0.lock() = Some(2);
    storage.vacuum(None).await.unwrap();
    assert_eq!(counts().await[0], 2);
    *needs.0.lock() = None;
    storage.vacuum(None).await.unwrap();
    assert_eq!(counts().await, [0, 1]);
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_are_compacted_in_little_memory() {
    let mut bench = Bench::new();
    bench.settings.compaction_memory_bytes = 8 << 10;
    let storage = bench.open().await;
    let topic = topic_with(&storage, "users", 2, config(CleanupPolicy::Compact)).await;
    for round in 0..3 {
        for hundred in 0..10 {
            let keys: Vec<String> = (0..100).map(|number| format!("key {}", hundred * 100 + number)).collect();
            let value = format!("round {round}");
            let keyed: Vec<_> = keys.iter().map(|key| (Some(key.as_str()), Some(value.as_str()))).collect();
            bench.produce(&storage, &topic, hundred % 2, &keyed).await;
        }
        storage.checkpoint().await.unwrap();
    }
    let report = storage.vacuum(Some(topic.id)).await.unwrap();
    assert_eq!(report.rows_removed, 2000);
    for partition in 0..2 {
        let left = contents(&storage, &topic, partition).await;
        assert!(left.len() == 500 && left.iter().all(|(_, _, value)| value.as_deref() == Some("round 2")));
    }
    close(storage).await;
}
