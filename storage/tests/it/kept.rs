//! Every kind of file there is: written, verified, damaged one by one, and read for ever as an earlier version wrote it.
//!
//! `tests/fixtures/v1` to `v4` were written once by `make fixtures`. What they hold is said here, in [`build`] and [`check`];
//! when a format changes, another folder stands beside them and all are read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use aquifer_storage::record::format::{ColumnRole, ColumnType, DeclaredColumn, Decoded, Format, RecordFormat};
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{
    Append, CleanupPolicy, Commit, DeclaredColumns, DeclaredScan, Error, Finding, OpenOptions, ScanRequest, Severity,
    Storage, Topic, TopicConfig, TopicId, VerifyReport,
};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::records::{consume, records, scan_all, snapshot, tiered_options};
use crate::support::{appends, at, batch, eventually, produce, read};
use crate::transactions::{add, consume_committed, end, init, send, send_offset};

/// The folders of kept files: the newest is what this version writes.
const KEPT: [&str; 4] = ["v1", "v2", "v3", "v4"];
const NEWEST: &str = KEPT[KEPT.len() - 1];
/// Rounds of the topic whose manifest has a chunk.
const ROUNDS: i64 = 30;
/// Bytes of a fixture, at the most.
const FIXTURE_BYTES_MAX: u64 = 2 << 20;

fn options(data_dir: &Path) -> OpenOptions {
    let settings = StorageSettings {
        wal_segment_bytes: 64 << 10,
        wal_commit_bytes_max: 32 << 10,
        wal_reserve_bytes: 4 << 10,
        tier_run_bytes_max: 64 << 10,
        housekeeping_interval_ms: 0,
        ..StorageSettings::default()
    };
    tiered_options(data_dir, settings)
}

async fn open(data_dir: &Path) -> Storage {
    Storage::open(options(data_dir)).await.unwrap()
}

async fn stop(storage: Storage) {
    storage.close().await.unwrap();
}

/// Of a topic that the log forgets as soon as it is tiered and whose records stay for ever.
async fn topic(storage: &Storage, name: &str, partitions: i32, policy: CleanupPolicy) -> Arc<Topic> {
    let config = TopicConfig {
        cleanup_policy: Some(policy),
        local_retention_ms: Some(0),
        retention_ms: Some(-1),
        min_compaction_lag_ms: Some(0),
        ..TopicConfig::default()
    };
    storage.create_topic(name, Some(partitions), config).await.unwrap()
}

/// A column for one topic.
#[derive(Debug)]
struct OneColumn(TopicId);

impl DeclaredColumns for OneColumn {
    fn format_of(&self, topic: TopicId) -> Option<RecordFormat> {
        let column = DeclaredColumn {
            name: "n".to_owned(),
            field: "n".to_owned(),
            kind: ColumnType::BigInt,
            role: ColumnRole::Value,
            not_null: false,
        };
        let (key_format, value_format) = (Format::None, Format::Json);
        (topic == self.0).then_some(RecordFormat { columns: vec![column], key_format, value_format, tombstones: false })
    }
}

/// Writes a data directory with its bucket below, every kind of file in it.
async fn build(data_dir: &Path) {
    let storage = open(data_dir).await;
    let codecs = topic(&storage, "codecs", 2, CleanupPolicy::Delete).await;
    for (number, codec) in (0_i64..).zip(Compression::ALL) {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        for record in records(0, number * 3..number * 3 + 3) {
            let headers: Vec<_> =
                record.headers.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
            builder.push(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), &headers);
        }
        let append = Append { topic: codecs.id, partition: 0, batch: builder.build(codec).unwrap() };
        storage.commit(Commit { appends: vec![append], ..Commit::default() }).await.unwrap();
    }
    let declared = topic(&storage, "declared", 1, CleanupPolicy::Delete).await;
    let by: Arc<dyn DeclaredColumns> = Arc::new(OneColumn(declared.id));
    storage.declare_columns(Arc::downgrade(&by));
    produce(&storage, at(&declared, 0), &[r#"{"n": 7}"#, "no json", r#"{"n": 9}"#]).await.unwrap();
    compacted(&storage).await;
    let front = transactions(&storage).await;
    let many = topic(&storage, "many", 3, CleanupPolicy::Delete).await;
    for round in 0..ROUNDS {
        for partition in 0..3 {
            produce(&storage, at(&many, partition), &[&format!("{partition}-{round}")]).await.unwrap();
        }
        storage.checkpoint().await.unwrap();
    }
    let filler = topic(&storage, "filler", 1, CleanupPolicy::Delete).await;
    // Until what the open transaction needs of the front is carried over.
    for _ in 0..40 {
        if storage.segments()[0].id > front {
            break;
        }
        for _ in 0..4 {
            storage.commit(appends(at(&filler, 0), batch(&[&"x".repeat(16_000)]))).await.unwrap();
        }
        storage.checkpoint().await.unwrap();
    }
    assert!(storage.segments()[0].id > front, "the open transaction is carried over");
    stop(storage).await;
    let storage = open(data_dir).await;
    produce(&storage, at(&codecs, 1), &["after a restart"]).await.unwrap();
    // A file is damaged in its middle only if something stands behind.
    produce(&storage, at(&codecs, 1), &["and another"]).await.unwrap();
    stop(storage).await;
}

async fn compacted(storage: &Storage) {
    let topic = topic(storage, "compacted", 1, CleanupPolicy::Compact).await;
    for round in 0..3 {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        for key in ["a", "b", "c"] {
            builder.push(1_000 + round, Some(key.as_bytes()), Some(format!("{key}{round}").as_bytes()), &[]);
        }
        let append = Append { topic: topic.id, partition: 0, batch: builder.build(Compression::Zstd).unwrap() };
        storage.commit(Commit { appends: vec![append], ..Commit::default() }).await.unwrap();
        storage.checkpoint().await.unwrap();
    }
    let report = storage.vacuum(Some(topic.id)).await.unwrap();
    assert_eq!(report.rows_removed, 6, "{report:?}");
}

/// One committed, one aborted, one left open; gives where the log begins.
async fn transactions(storage: &Storage) -> u64 {
    let sales = topic(storage, "sales", 1, CleanupPolicy::Delete).await;
    produce(storage, at(&sales, 0), &["a"]).await.unwrap();
    for (id, value) in [("kept", "b"), ("undone", "c"), ("open", "d")] {
        let producer = init(storage, id).await;
        add(storage, id, producer, &[at(&sales, 0)]).await.unwrap();
        send(storage, producer, 0, at(&sales, 0), &[value]).await.unwrap();
        send_offset(storage, id, producer, at(&sales, 0), 1).await.unwrap();
        if id != "open" {
            end(storage, id, producer, id == "kept").await.unwrap();
        }
    }
    storage.segments().last().unwrap().id
}

/// What [`build`] has put in is there, as bytes and as rows.
async fn check(data_dir: &Path) {
    let storage = open(data_dir).await;
    let named = |name: &str| storage.topic(name).unwrap_or_else(|| panic!("no topic {name}"));
    let codecs = named("codecs");
    assert_eq!(consume(&storage, at(&codecs, 0), 0, 1 << 20).await, records(0, 0..15));
    assert_eq!(scan_all(&snapshot(&storage, &codecs), at(&codecs, 0)).await, records(0, 0..15));
    let said = read(&storage, at(&codecs, 1), 0).await.unwrap();
    assert_eq!(said, [(0, "after a restart".to_owned()), (1, "and another".to_owned())]);
    let declared = named("declared");
    assert_eq!(read(&storage, at(&declared, 0), 0).await.unwrap()[1].1, "no json");
    let objects = storage.objects().await.unwrap();
    let object = objects.iter().find(|object| object.topic == declared.id).unwrap();
    let file = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(&object.url).unwrap()).unwrap();
    assert!(file.schema().field_with_name("n").is_ok() && file.schema().field_with_name("_error").is_ok());
    // Typed where the object says by which declaration, decoded where it was written before that was kept.
    let format = Arc::new(OneColumn(declared.id).format_of(declared.id).unwrap());
    let (pinned, request) = (snapshot(&storage, &declared), ScanRequest::all(Vec::new()));
    let parts = pinned.survey(at(&declared, 0), &request, None).await.unwrap();
    let rows = pinned.read(parts, &request, Some(DeclaredScan { format, wanted: vec![0] })).unwrap();
    let found: Vec<Decoded> = rows.try_collect().await.unwrap();
    let numbers = found.iter().flat_map(|found| found.rows.column(0).as_primitive::<Int64Type>().values().to_vec());
    assert_eq!(numbers.collect::<Vec<_>>(), [7, 9]);
    let errors: Vec<i64> = found.iter().flat_map(|found| found.errors.iter().map(|error| error.offset)).collect();
    assert_eq!(errors, [1]);
    let compacted = named("compacted");
    let latest: Vec<_> =
        ["a2", "b2", "c2"].iter().enumerate().map(|(at, value)| (6 + at as i64, (*value).to_owned())).collect();
    assert_eq!(read(&storage, at(&compacted, 0), 0).await.unwrap(), latest);
    let many = named("many");
    for partition in 0..3 {
        let expected: Vec<_> = (0..ROUNDS).map(|round| (round, format!("{partition}-{round}"))).collect();
        assert_eq!(read(&storage, at(&many, partition), 0).await.unwrap(), expected);
    }
    let sales = named("sales");
    // The open one was overdue long ago, or is not yet: it is not committed.
    eventually("the committed sales", async || consume_committed(&storage, at(&sales, 0)).await == ["a", "b"]).await;
    let offsets = storage.group_offsets(Some("g"));
    assert_eq!(offsets.iter().map(|(_, _, offset)| offset.offset).collect::<Vec<_>>(), [1]);
    stop(storage).await;
}

/// What `verify` says: the report, and what was wrong.
async fn verify(data_dir: &Path) -> Result<(VerifyReport, Vec<Finding>), Error> {
    verify_with(options(data_dir)).await
}

pub(crate) async fn verify_with(options: OpenOptions) -> Result<(VerifyReport, Vec<Finding>), Error> {
    let told: Arc<Mutex<Vec<Finding>>> = Arc::default();
    let of_tell = Arc::clone(&told);
    let tell = Arc::new(move |finding: &Finding| of_tell.lock().push(finding.clone()));
    let report = aquifer_storage::verify(options, 1.0, tell).await?;
    let told = told.lock().clone();
    let wrong: Vec<_> = told.into_iter().filter(|finding| finding.severity == Severity::Violation).collect();
    assert_eq!(report.violations, wrong.len() as u64);
    Ok((report, wrong))
}

async fn is_clean(data_dir: &Path) -> VerifyReport {
    is_clean_with(options(data_dir)).await
}

pub(crate) async fn is_clean_with(options: OpenOptions) -> VerifyReport {
    let (report, wrong) = verify_with(options).await.unwrap();
    assert_eq!(wrong, []);
    report
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if entry.is_dir() {
            copy(&entry, &to.join(name));
        } else {
            fs::copy(&entry, to.join(name)).unwrap();
        }
    }
}

/// All files, by name.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The newest file whose path has these words in it.
fn newest(dir: &Path, words: &[&str]) -> PathBuf {
    let found = files(dir).into_iter().rfind(|path| words.iter().all(|word| path.to_string_lossy().contains(word)));
    found.unwrap_or_else(|| panic!("no file with {words:?}"))
}

fn position(path: &Path, needle: &[u8]) -> usize {
    let bytes = fs::read(path).unwrap();
    bytes.windows(needle.len()).position(|window| window == needle).unwrap_or_else(|| panic!("{needle:?}"))
}

pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn middle(path: &Path) -> usize {
    fs::read(path).unwrap().len() / 2
}

/// A sealed segment, and the open one.
fn segments(dir: &Path) -> (PathBuf, PathBuf) {
    let all: Vec<_> = files(dir).into_iter().filter(|path| path.extension().is_some_and(|end| end == "wal")).collect();
    assert!(all.len() >= 2, "{all:?}");
    (all[all.len() - 2].clone(), all[all.len() - 1].clone())
}

/// What is hurt, and how; gives the file.
type Damage = (&'static str, fn(&Path) -> PathBuf);

fn of_the_log() -> [Damage; 8] {
    [
        ("a frame of a sealed segment", |dir| {
            let (sealed, _) = segments(dir);
            flip(&sealed, 64 + 64 + 64 + 40);
            sealed
        }),
        ("a footer", |dir| {
            let (sealed, _) = segments(dir);
            flip(&sealed, position(&sealed, b"AQFOOTER") + 40);
            sealed
        }),
        ("the runs before a footer", |dir| {
            let (sealed, _) = segments(dir);
            flip(&sealed, position(&sealed, b"AQFOOTER") - 2);
            sealed
        }),
        ("a segment's header", |dir| {
            let (sealed, _) = segments(dir);
            flip(&sealed, 20);
            sealed
        }),
        ("the open segment", |dir| {
            let (_, open) = segments(dir);
            flip(&open, position(&open, b"after a restart"));
            open
        }),
        ("a missing segment", |dir| {
            let (sealed, _) = segments(dir);
            fs::remove_file(&sealed).unwrap();
            sealed
        }),
        ("a snapshot", |dir| {
            let path = newest(dir, &[".snap"]);
            flip(&path, middle(&path));
            path
        }),
        ("the directory's own file", |dir| {
            flip(&dir.join("meta"), 30);
            dir.join("meta")
        }),
    ]
}

fn of_the_bucket() -> [Damage; 5] {
    [
        ("a manifest's root", |dir| {
            let path = newest(dir, &["topics", "/manifest/"]);
            flip(&path, middle(&path));
            path
        }),
        ("a manifest's chunk", |dir| {
            let path = newest(dir, &["topics", "/chunk/"]);
            flip(&path, middle(&path));
            path
        }),
        ("a claim", |dir| {
            let path = newest(dir, &["meta/writer"]);
            flip(&path, 30);
            path
        }),
        ("an object's data", |dir| {
            let path = live_object(dir);
            flip(&path, 10);
            path
        }),
        ("an object's footer", |dir| {
            let path = live_object(dir);
            let end = fs::read(&path).unwrap().len();
            flip(&path, end - 20);
            path
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_in_order_verifies_clean_and_each_damage_is_named() {
    let home = tempfile::tempdir().unwrap();
    let whole = home.path().join("whole");
    build(&whole).await;
    let report = is_clean(&whole).await;
    let VerifyReport { files, frames, batches, records, objects, objects_read, rows, bytes, .. } = report;
    assert!(objects == objects_read && objects > 30 && rows > 100, "{report:?}");
    assert!(files > 10 && frames > 10 && batches >= frames / 2 && records >= batches && bytes > 100_000, "{report:?}");
    check(&whole).await;
    is_clean(&whole).await;

    for (number, (what, damage)) in of_the_log().iter().chain(&of_the_bucket()).enumerate() {
        let hurt = home.path().join(number.to_string());
        copy(&whole, &hurt);
        let path = damage(&hurt);
        let (_, wrong) = verify(&hurt).await.unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(wrong.iter().any(|finding| finding.place.contains(&name)), "{what}: {name} is not in {wrong:#?}");
        fs::remove_dir_all(&hurt).unwrap();
    }
    for gone in [live_object as fn(&Path) -> PathBuf, |dir| newest(dir, &["topics", "/chunk/"])] {
        let hurt = home.path().join("gone");
        copy(&whole, &hurt);
        let path = gone(&hurt);
        fs::remove_file(&path).unwrap();
        let (_, wrong) = verify(&hurt).await.unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let told = wrong.iter().any(|finding| finding.place.contains(&name) && finding.what.contains("gone"));
        assert!(told, "{name} is not in {wrong:#?}");
        fs::remove_dir_all(&hurt).unwrap();
    }
}

/// An object of the topic with the chunk: merged away by nobody.
fn live_object(dir: &Path) -> PathBuf {
    let chunk = newest(dir, &["topics", "/chunk/"]);
    newest(chunk.parent().unwrap().parent().unwrap(), &["/data/"])
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_look_where_a_node_runs_and_writes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let data_dir = home.path().join("data");
    let none = verify(&data_dir).await.unwrap_err();
    assert!(none.to_string().contains("no data directory"), "{none}");
    assert!(!data_dir.exists());
    let storage = open(&data_dir).await;
    let topic = topic(&storage, "clicks", 1, CleanupPolicy::Delete).await;
    produce(&storage, at(&topic, 0), &["one"]).await.unwrap();
    let busy = verify(&data_dir).await.unwrap_err();
    assert!(busy.to_string().contains("in use by another process"), "{busy}");
    stop(storage).await;
    let bytes = || files(&data_dir).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect::<Vec<_>>();
    let before = bytes();
    is_clean(&data_dir).await;
    assert!(before == bytes(), "nothing is written");
    fs::remove_file(data_dir.join("LOCK")).unwrap();
    is_clean(&data_dir).await;
    assert!(!data_dir.join("LOCK").exists());
    fs::create_dir_all(data_dir.join("objects/topics/x")).unwrap();
    fs::write(data_dir.join("objects/topics/x/nobody"), "names it").unwrap();
    assert_eq!(is_clean(&data_dir).await.notes, 1, "an orphan is no violation");
    let options = OpenOptions { object_store_url: Some("file:///nowhere/at/all".to_owned()), ..options(&data_dir) };
    let refused = aquifer_storage::verify(options, 1.0, Arc::new(|_: &Finding| {})).await.unwrap_err();
    assert!(refused.to_string().contains("--object-store"), "{refused}");
}

/// Gives an envelope a version that nobody writes, and makes its checksum right.
pub(crate) fn newer_envelope(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at + 8] = 99;
    let crc = crc_fast::crc32_iscsi(&bytes[at..at + 24]);
    bytes[at + 24..at + 28].copy_from_slice(&crc.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

/// Raises the version in a block of 64 bytes whose last four are its checksum.
fn newer_block(path: &Path, at: usize, version_at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at + version_at] += 1;
    let crc = crc_fast::crc32_iscsi(&bytes[at..at + 60]);
    bytes[at + 60..at + 64].copy_from_slice(&crc.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_format_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    type Kind = (&'static str, fn(&Path));
    let kinds: [Kind; 9] = [
        ("data directory", |dir| newer_envelope(&dir.join("meta"), 0)),
        ("log segment", |dir| newer_block(&segments(dir).1, 0, 8)),
        ("frame", |dir| newer_block(&segments(dir).1, 64, 4)),
        ("segment footer", |dir| {
            let (sealed, _) = segments(dir);
            newer_envelope(&sealed, position(&sealed, b"AQFOOTER"));
        }),
        ("log snapshot", |dir| newer_envelope(&newest(dir, &[".snap"]), 0)),
        ("writer's claim", |dir| newer_envelope(&newest(dir, &["meta/writer"]), 0)),
        ("checkpoint", |dir| newer_envelope(&newest(dir, &["meta/checkpoint"]), 0)),
        ("manifest root", |dir| newer_envelope(&newest(dir, &["topics", "/manifest/"]), 0)),
        ("manifest chunk", |dir| newer_envelope(&newest(dir, &["topics", "/chunk/"]), 0)),
    ];
    for (kind, raise) in kinds {
        let dir = home.path().join(kind.replace(' ', "-"));
        copy(&fixture(NEWEST), &dir);
        raise(&dir);
        let refused = verify(&dir).await.unwrap_err();
        assert!(matches!(refused, Error::Config { .. }), "{kind}: {refused}");
        let words = refused.to_string();
        assert!(words.contains(&format!("{kind} has format version")), "{kind}: {words}");
        // A chunk is read when somebody wants what it holds.
        if kind != "manifest chunk" {
            let refused = Storage::open(options(&dir)).await.unwrap_err().to_string();
            assert!(refused.contains(&format!("{kind} has format version")), "{kind}: {refused}");
        }
    }
}

pub(crate) fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(version)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_earlier_versions_wrote_is_read() {
    for version in KEPT {
        let home = tempfile::tempdir().unwrap();
        let data_dir = home.path().join("data");
        copy(&fixture(version), &data_dir);
        is_clean(&data_dir).await;
        check(&data_dir).await;
        is_clean(&data_dir).await;
        // And written on.
        let storage = open(&data_dir).await;
        let codecs = storage.topic("codecs").unwrap();
        produce(&storage, at(&codecs, 1), &["by a later version"]).await.unwrap();
        storage.checkpoint().await.unwrap();
        assert_eq!(read(&storage, at(&codecs, 1), 0).await.unwrap().len(), 3);
        stop(storage).await;
        is_clean(&data_dir).await;
    }
}

/// A bucket that was kept is enough to begin from.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_checkpoint_is_begun_from() {
    let home = tempfile::tempdir().unwrap();
    let data_dir = home.path().join("data");
    copy(&fixture(NEWEST).join("objects"), &data_dir.join("objects"));
    let storage = Storage::take_over(options(&data_dir)).await.unwrap();
    let many = storage.topic("many").unwrap();
    assert_eq!(read(&storage, at(&many, 2), 0).await.unwrap().len() as i64, ROUNDS);
    stop(storage).await;
    is_clean(&data_dir).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the fixture anew: make fixtures"]
async fn writes_the_fixture() {
    let home = tempfile::tempdir().unwrap();
    let data_dir = home.path().join("data");
    build(&data_dir).await;
    is_clean(&data_dir).await;
    fs::remove_file(data_dir.join("LOCK")).unwrap();
    let _ = fs::remove_file(data_dir.join("log/reserve"));
    let _ = fs::remove_dir_all(data_dir.join("objects/staging"));
    let bytes: u64 = files(&data_dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(bytes < FIXTURE_BYTES_MAX, "{bytes} bytes");
    let _ = fs::remove_dir_all(fixture(NEWEST));
    copy(&data_dir, &fixture(NEWEST));
}
