//! Keyed state through the door: a look-up by key gives what a scan of the same snapshot gives, whatever has happened to the
//! topic, the state and the process; and a watch tells whether keys were written meanwhile.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};

use aquifer_storage::record::batch::{BatchBuilder, CheckedBatch, Compression, TimestampType};
use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::record::format::{ColumnRole, ColumnType, DeclaredColumn, Format, RecordFormat};
use aquifer_storage::{
    Append, CleanupPolicy, Commit, Error, KeyedTables, OpenOptions, ScanRequest, Snapshot, Storage, Topic, TopicConfig,
    TopicId, TopicPartition, Trim,
};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use futures::TryStreamExt;
use proptest::prelude::*;

use crate::records::{scan_all, small_settings, snapshot, tiered_options};
use crate::support::{appends, at, eventually, stop};
use crate::transactions::{add, end, init};

/// Which topics' state is kept.
#[derive(Debug)]
struct Tables(Vec<(TopicId, RecordFormat)>);

impl KeyedTables for Tables {
    fn keyed_topics(&self) -> Vec<(TopicId, RecordFormat)> {
        self.0.clone()
    }
}

/// Keeps the state of one topic for as long as the answer lives.
fn keep(storage: &Storage, topic: &Topic) -> Arc<dyn KeyedTables> {
    let tables: Arc<dyn KeyedTables> = Arc::new(Tables(vec![(topic.id, text_keys())]));
    let weak: Weak<dyn KeyedTables> = Arc::downgrade(&tables);
    storage.keep_state(weak);
    tables
}

fn text_keys() -> RecordFormat {
    let column = |name: &str, role| DeclaredColumn {
        name: name.to_owned(),
        field: name.to_owned(),
        kind: ColumnType::Text,
        role,
        not_null: false,
    };
    RecordFormat {
        columns: vec![column("id", ColumnRole::Key), column("v", ColumnRole::Value)],
        key_format: Format::Kafka,
        value_format: Format::Json,
        tombstones: true,
    }
}

fn options(dir: &Path) -> OpenOptions {
    tiered_options(dir, small_settings())
}

async fn keyed_topic(storage: &Storage, partitions: i32) -> Arc<Topic> {
    let config = TopicConfig {
        cleanup_policy: Some(CleanupPolicy::Compact),
        local_retention_ms: Some(0),
        delete_retention_ms: Some(0),
        ..TopicConfig::default()
    };
    storage.create_topic("t", Some(partitions), config).await.unwrap()
}

fn key(number: u8) -> String {
    format!("key {number}")
}

/// Values as large as asked for, all different.
fn value(number: usize, bytes: usize) -> String {
    format!("{number} {}", "v".repeat(bytes))
}

fn batch(records: &[(u8, Option<String>)]) -> CheckedBatch {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    for (number, value) in records {
        builder.push(7, Some(key(*number).as_bytes()), value.as_deref().map(str::as_bytes), &[]);
    }
    builder.build(Compression::Lz4).unwrap()
}

async fn put(storage: &Storage, place: TopicPartition, records: &[(u8, Option<String>)]) {
    storage.commit(appends(place, batch(records))).await.unwrap();
}

/// Offset and value by partition and key.
type Rows = BTreeMap<(i32, Vec<u8>), (i64, Vec<u8>)>;

async fn scanned(snapshot: &Snapshot, topic: &Topic, keys: &[String]) -> Rows {
    let mut rows = Rows::new();
    for partition in 0..topic.partitions {
        for record in scan_all(snapshot, at(topic, partition)).await {
            let Some(key) = record.key.filter(|key| keys.iter().any(|wanted| wanted.as_bytes() == key)) else {
                continue;
            };
            match record.value {
                Some(value) => drop(rows.insert((partition, key), (record.offset, value))),
                None => drop(rows.remove(&(partition, key))),
            }
        }
    }
    rows
}

async fn looked_up(snapshot: &Snapshot, topic: &Topic, keys: &[String]) -> Option<Rows> {
    let keys: Vec<Bytes> = keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect();
    let columns = [RecordColumn::Offset, RecordColumn::Key, RecordColumn::Partition, RecordColumn::Value];
    let batch = snapshot.look_up(topic.id, &text_keys(), &keys, &columns).await.unwrap()?;
    let offsets = batch.column(0).as_primitive::<Int64Type>();
    let partitions = batch.column(2).as_primitive::<Int32Type>();
    let (keys, values) = (batch.column(1).as_binary::<i32>(), batch.column(3).as_binary::<i32>());
    let row = |row: usize| {
        let place = (partitions.value(row), keys.value(row).to_vec());
        (place, (offsets.value(row), values.value(row).to_vec()))
    };
    let rows: Rows = (0..batch.num_rows()).map(row).collect();
    assert_eq!(rows.len(), batch.num_rows(), "a key is there once");
    Some(rows)
}

/// Whether the state answered; if it did, as a scan does.
async fn check(storage: &Storage, topic: &Topic) -> bool {
    let snapshot = snapshot(storage, topic);
    let keys: Vec<String> = (0..12).map(key).collect();
    let Some(rows) = looked_up(&snapshot, topic, &keys).await else { return false };
    assert_eq!(rows, scanned(&snapshot, topic, &keys).await);
    true
}

async fn answers(storage: &Storage, topic: &Topic) {
    eventually("the state answers", async || check(storage, topic).await).await;
}

/// Waits until nothing past the state has to be read: then what it answers comes from the state alone.
async fn built(storage: &Storage, topic: &Topic) {
    answers(storage, topic).await;
    // The state says nothing of its position: what is more than a tail must have been taken in.
    for _ in 0..20 {
        let many: Vec<(u8, Option<String>)> = (0..1000).map(|number| (200, Some(number.to_string()))).collect();
        put(storage, at(topic, 0), &many).await;
    }
    answers(storage, topic).await;
}

#[derive(Clone, Debug)]
enum Step {
    Put { partition: i32, records: Vec<(u8, Option<bool>)> },
    Abort { partition: i32, key: u8 },
    Trim { partition: i32, share: f64 },
    Checkpoint,
    Vacuum,
    Restart,
    Check,
}

fn step() -> impl Strategy<Value = Step> {
    let records = prop::collection::vec((0..10_u8, prop::option::weighted(0.75, prop::bool::weighted(0.1))), 1..30);
    prop_oneof![
        8 => (0..2i32, records).prop_map(|(partition, records)| Step::Put { partition, records }),
        2 => (0..2i32, 0..10_u8).prop_map(|(partition, key)| Step::Abort { partition, key }),
        1 => (0..2i32, 0.0..1.0_f64).prop_map(|(partition, share)| Step::Trim { partition, share }),
        2 => Just(Step::Checkpoint),
        2 => Just(Step::Vacuum),
        1 => Just(Step::Restart),
        4 => Just(Step::Check),
    ]
}

async fn run_history(steps: Vec<Step>) {
    let home = tempfile::tempdir().unwrap();
    let mut storage = Storage::open(options(home.path())).await.unwrap();
    let topic = keyed_topic(&storage, 2).await;
    let mut tables = keep(&storage, &topic);
    answers(&storage, &topic).await;
    let mut number = 0;
    for step in steps {
        match step {
            Step::Put { partition, records } => {
                let values = records.into_iter().map(|(key, large)| {
                    number += 1;
                    (key, large.map(|large| value(number, if large { 1500 } else { 5 })))
                });
                put(&storage, at(&topic, partition), &values.collect::<Vec<_>>()).await;
            }
            Step::Abort { partition, key } => {
                number += 1;
                let (id, place) = (format!("transaction {number}"), at(&topic, partition));
                let producer = init(&storage, &id).await;
                add(&storage, &id, producer, &[place]).await.unwrap();
                let sent = batch(&[(key, Some("aborted".to_owned()))]).in_transaction(producer, 0);
                storage.commit(appends(place, sent)).await.unwrap();
                check(&storage, &topic).await;
                end(&storage, &id, producer, false).await.unwrap();
            }
            Step::Trim { partition, share } => {
                let ends = storage.watermarks(at(&topic, partition)).unwrap();
                let width = (ends.high_watermark - ends.log_start_offset) as f64;
                let log_start_offset = ends.log_start_offset + (width * share) as i64;
                storage.trim(vec![Trim { partition: at(&topic, partition), log_start_offset }]).await.unwrap();
            }
            Step::Checkpoint => drop(storage.checkpoint().await.unwrap()),
            Step::Vacuum => drop(storage.vacuum(None).await.unwrap()),
            Step::Restart => {
                stop(storage).await;
                storage = Storage::open(options(home.path())).await.unwrap();
                tables = keep(&storage, &topic);
                answers(&storage, &topic).await;
            }
            Step::Check => drop(check(&storage, &topic).await),
        }
        check(&storage, &topic).await;
    }
    answers(&storage, &topic).await;
    drop(tables);
    stop(storage).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_look_up_equals_a_scan_whatever_happens_to_the_topic(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run_history(steps));
    }
}

/// A storage with a state that has taken in some records.
async fn storage_with_state(home: &Path) -> (Storage, Arc<Topic>, Arc<dyn KeyedTables>) {
    let storage = Storage::open(options(home)).await.unwrap();
    let topic = keyed_topic(&storage, 2).await;
    let tables = keep(&storage, &topic);
    let records: Vec<_> = (0..12).map(|number| (number, Some(value(usize::from(number), 10)))).collect();
    put(&storage, at(&topic, 0), &records).await;
    put(&storage, at(&topic, 1), &records[3..5]).await;
    built(&storage, &topic).await;
    (storage, topic, tables)
}

async fn reopened(home: &Path, topic: &Topic) -> (Storage, Arc<dyn KeyedTables>) {
    let storage = Storage::open(options(home)).await.unwrap();
    let tables = keep(&storage, topic);
    check(&storage, topic).await;
    (storage, tables)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let mut entries: Vec<_> = std::fs::read_dir(from).unwrap().map(Result::unwrap).collect();
    // `meta` before the log: it names the newest segment, which must be there then.
    entries.sort_by_key(|entry| entry.path().is_dir());
    for entry in entries {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else if let Err(error) = std::fs::copy(entry.path(), target) {
            // Files come and go while a storage runs.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_latest_record_lies_below_the_log_start_is_gone_before_it_is_swept() {
    let home = tempfile::tempdir().unwrap();
    let (storage, topic, _tables) = storage_with_state(home.path()).await;
    let before = snapshot(&storage, &topic);
    // Too little to be swept.
    storage.trim(vec![Trim { partition: at(&topic, 0), log_start_offset: 5 }]).await.unwrap();
    answers(&storage, &topic).await;
    let keys: Vec<String> = (0..12).map(key).collect();
    let rows = looked_up(&snapshot(&storage, &topic), &topic, &keys).await.unwrap();
    assert_eq!(rows.keys().filter(|(partition, _)| *partition == 0).count(), 7);
    let rows = looked_up(&before, &topic, &keys).await.unwrap();
    assert_eq!(rows, scanned(&before, &topic, &keys).await, "an older snapshot still has them");
    stop(storage).await;
}

fn remove_objects(dir: &Path) {
    let objects = files_below(dir).into_iter().filter(|path| path.extension().is_some_and(|end| end == "parquet"));
    objects.for_each(|path| std::fs::remove_file(path).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_stays_while_nobody_says_yet_which_topics_are_wanted() {
    let home = tempfile::tempdir().unwrap();
    let (storage, topic, tables) = storage_with_state(home.path()).await;
    storage.checkpoint().await.unwrap();
    // Once it answers behind more than a tail, all that is in objects has been taken in.
    for _ in 0..17 {
        let many: Vec<(u8, Option<String>)> = (0..1000).map(|number| (200, Some(number.to_string()))).collect();
        put(&storage, at(&topic, 0), &many).await;
    }
    answers(&storage, &topic).await;
    let expected = scanned(&snapshot(&storage, &topic), &topic, &[key(1), key(4)]).await;
    drop(tables);
    stop(storage).await;
    let storage = Storage::open(options(home.path())).await.unwrap();
    // SQL takes its time to start. Without its objects the topic's state could not be made again.
    remove_objects(home.path());
    let other = storage.create_topic("other", Some(1), TopicConfig::default()).await.unwrap();
    for number in 0..100 {
        put(&storage, at(&other, 0), &[(1, Some(value(number, 5)))]).await;
    }
    let _tables = keep(&storage, &topic);
    eventually("the state answers", async || {
        looked_up(&snapshot(&storage, &topic), &topic, &[key(1), key(4)]).await.is_some_and(|rows| rows == expected)
    })
    .await;
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_lost_is_made_again() {
    let home = tempfile::tempdir().unwrap();
    let (storage, topic, _tables) = storage_with_state(home.path()).await;
    stop(storage).await;
    assert!(home.path().join("state").is_dir());
    std::fs::remove_dir_all(home.path().join("state")).unwrap();
    let (storage, _tables) = reopened(home.path(), &topic).await;
    answers(&storage, &topic).await;
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_damaged_anywhere_never_answers_wrong_and_is_made_again() {
    let home = tempfile::tempdir().unwrap();
    let (storage, topic, _tables) = storage_with_state(home.path()).await;
    stop(storage).await;
    for round in 0..4_usize {
        for path in files_below(&home.path().join("state")) {
            let mut bytes = std::fs::read(&path).unwrap();
            // Another byte of each stretch in each round.
            bytes.iter_mut().skip(round * 11).step_by(97).for_each(|byte| *byte ^= 0x5a);
            std::fs::write(&path, bytes).unwrap();
        }
        let (storage, _tables) = reopened(home.path(), &topic).await;
        answers(&storage, &topic).await;
        stop(storage).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_taken_while_the_storage_runs_answers_right() {
    let home = tempfile::tempdir().unwrap();
    let (storage, topic, _tables) = storage_with_state(home.path()).await;
    let writing = {
        let (storage, topic) = (storage.clone(), Arc::clone(&topic));
        tokio::spawn(async move {
            for number in 0..400 {
                let key = u8::try_from(number % 12).unwrap();
                put(&storage, at(&topic, 0), &[(key, (number % 5 != 0).then(|| value(number, 20)))]).await;
            }
        })
    };
    for _ in 0..3 {
        let taken = tempfile::tempdir().unwrap();
        copy(home.path(), taken.path());
        let (copied, _tables) = reopened(taken.path(), &topic).await;
        answers(&copied, &topic).await;
        stop(copied).await;
    }
    writing.await.unwrap();
    answers(&storage, &topic).await;
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_ahead_of_its_log_is_not_believed() {
    let home = tempfile::tempdir().unwrap();
    let (storage, topic, _tables) = storage_with_state(home.path()).await;
    stop(storage).await;
    let old = tempfile::tempdir().unwrap();
    copy(home.path(), old.path());
    let (storage, _tables) = reopened(home.path(), &topic).await;
    put(&storage, at(&topic, 0), &[(1, Some("only in the new history".to_owned())), (2, None)]).await;
    built(&storage, &topic).await;
    stop(storage).await;
    std::fs::remove_dir_all(old.path().join("state")).unwrap();
    copy(&home.path().join("state"), &old.path().join("state"));
    let storage = Storage::open(options(old.path())).await.unwrap();
    // Before anybody asks for state, so that its end is beyond what the state has.
    for number in 0..40 {
        let many: Vec<_> = (0..1000).map(|_| (3, Some(value(number, 1)))).collect();
        put(&storage, at(&topic, 0), &many).await;
    }
    let _tables = keep(&storage, &topic);
    answers(&storage, &topic).await;
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_topic_goes_with_it() {
    let home = tempfile::tempdir().unwrap();
    let (storage, topic, _tables) = storage_with_state(home.path()).await;
    assert!(snapshot(&storage, &topic).has_state(topic.id));
    storage.delete_topic(topic.id).await.unwrap();
    let parts = || std::fs::read_dir(home.path().join("state/keyspaces")).unwrap().count();
    let before = parts();
    eventually("its part is removed", async || parts() < before).await;
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_with_what_is_about_to_be_committed_has_it_last() {
    let home = tempfile::tempdir().unwrap();
    let (storage, topic, _tables) = storage_with_state(home.path()).await;
    let own = [
        Append { topic: topic.id, partition: 1, batch: batch(&[(3, Some("own".to_owned())), (4, None)]) },
        Append { topic: topic.id, partition: 1, batch: batch(&[(7, Some("new".to_owned()))]) },
    ];
    let before = snapshot(&storage, &topic);
    let end = before.range(at(&topic, 1)).unwrap().end;
    let with_own = before.with_own(&own, 1).unwrap();
    assert_eq!(with_own.range(at(&topic, 1)).unwrap().end, end + 3);
    let keys: Vec<String> = (0..12).map(key).collect();
    let rows = looked_up(&with_own, &topic, &keys).await.unwrap();
    assert_eq!(rows, scanned(&with_own, &topic, &keys).await);
    assert_eq!(rows.get(&(1, key(3).into_bytes())), Some(&(end, b"own".to_vec())));
    assert!(!rows.contains_key(&(1, key(4).into_bytes())));
    assert_eq!(rows.get(&(1, key(7).into_bytes())), Some(&(end + 2, b"new".to_vec())));
    let all = ScanRequest::all(vec![RecordColumn::Offset]);
    for (committed_max_us, own_rows) in [(None, 3), (Some(i64::MAX), 0)] {
        let request = ScanRequest { offset_start: end, committed_max_us, ..all.clone() };
        let found: Vec<RecordBatch> = with_own.scan(at(&topic, 1), request).unwrap().try_collect().await.unwrap();
        let found: usize = found.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(found, own_rows, "the past has nothing that is not committed");
    }
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_rests_on_a_key_somebody_else_has_written_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let storage = Storage::open(options(home.path())).await.unwrap();
    let topic = keyed_topic(&storage, 1).await;
    let place = at(&topic, 0);
    put(&storage, place, &[(1, Some("a".to_owned())), (2, Some("b".to_owned()))]).await;
    let (first, second) = (storage.watch(topic.id).await.unwrap(), storage.watch(topic.id).await.unwrap());
    first.touch(0, key(1).as_bytes());
    second.touch(0, key(2).as_bytes());
    let commit = |number: u8, watch| Commit { watches: vec![watch], ..appends(place, batch(&[(number, None)])) };
    storage.commit(commit(1, first.clone())).await.unwrap();
    storage.commit(commit(2, second)).await.unwrap();
    // It has itself written the key since.
    let refused = storage.commit(commit(1, first)).await.unwrap_err();
    assert!(matches!(refused, Error::RowsContended { .. }), "{refused}");
    assert_eq!(storage.watermarks(place).unwrap().high_watermark, 4, "nothing of it is there");
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_holds_for_a_large_commit_too() {
    let home = tempfile::tempdir().unwrap();
    let storage = Storage::open(options(home.path())).await.unwrap();
    let topic = keyed_topic(&storage, 1).await;
    let place = at(&topic, 0);
    for others_write in [false, true] {
        let watch = storage.watch(topic.id).await.unwrap();
        watch.touch(0, key(1).as_bytes());
        if others_write {
            put(&storage, place, &[(1, Some("meanwhile".to_owned()))]).await;
        }
        let large = (0..40).map(|number| appends(place, batch(&[(1, Some(noise(number)))])).appends.remove(0));
        let commit = Commit { appends: large.collect(), watches: vec![watch], ..Commit::default() };
        let committed = storage.commit(commit).await;
        assert_eq!(committed.is_err(), others_write, "{committed:?}");
    }
    stop(storage).await;
}

/// Some kB that hardly get smaller.
fn noise(round: u32) -> String {
    (0..500_u32).map(|at| format!("{:08x}", (round * 500 + at).wrapping_mul(0x9e37_79b9))).collect()
}
