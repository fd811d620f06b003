//! A directory, its log and its bucket belong together: a copy that was left behind, a log that lost its end or all of it,
//! and a bucket of somebody else are told at the start and by `verify`, and nothing is removed by who does not know.

use std::fs;
use std::path::{Path, PathBuf};

use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{Error, Finding, OpenOptions, Storage, TopicConfig};

use crate::kept::{copy, files, fixture, is_clean_with, verify_with};
use crate::records::tiered_options;
use crate::support::{appends, at, batch, produce, values};

/// Data directories over one bucket.
struct Bench {
    home: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn options(&self, name: &str) -> OpenOptions {
        let settings = StorageSettings {
            wal_segment_bytes: 64 << 10,
            wal_commit_bytes_max: 32 << 10,
            wal_reserve_bytes: 4 << 10,
            housekeeping_interval_ms: 0,
            checkpoint_interval_ms: 0,
            sweep_grace_ms: 0,
            ..StorageSettings::default()
        };
        let object_store_url = Some(format!("file://{}", self.dir("bucket").display()));
        OpenOptions { object_store_url, ..tiered_options(&self.dir(name), settings) }
    }

    async fn open(&self, name: &str) -> Storage {
        Storage::open(self.options(name)).await.unwrap()
    }

    async fn refused(&self, name: &str) -> Error {
        Storage::open(self.options(name)).await.unwrap_err()
    }

    /// A topic of which everything is tiered and forgotten.
    async fn tiered(&self, storage: &Storage, name: &str) {
        let config = TopicConfig { local_retention_ms: Some(0), ..TopicConfig::default() };
        let topic = storage.create_topic(name, Some(1), config).await.unwrap();
        for _ in 0..12 {
            storage.commit(appends(at(&topic, 0), batch(&[&"x".repeat(16_000)]))).await.unwrap();
        }
        storage.checkpoint().await.unwrap();
    }

    /// Starts and stops it.
    async fn restart(&self, name: &str) {
        self.open(name).await.close().await.unwrap();
    }

    /// What lies in topics' folders of the bucket.
    fn of_topics(&self) -> Vec<PathBuf> {
        files(&self.dir("bucket/topics"))
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    files(&dir.join("log")).into_iter().filter(|path| path.extension().is_some_and(|end| end == "wal")).collect()
}

/// The violations that `verify` tells of.
async fn violations(options: OpenOptions) -> Vec<Finding> {
    verify_with(options).await.unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_left_behind_is_refused_however_often_it_is_started() {
    let bench = Bench::new();
    let new = bench.open("new").await;
    bench.tiered(&new, "first").await;
    new.close().await.unwrap();
    copy(&bench.dir("new"), &bench.dir("old"));
    let new = bench.open("new").await;
    bench.tiered(&new, "later").await;
    new.close().await.unwrap();
    bench.restart("new").await;
    let before = bench.of_topics();
    for start in 0..5 {
        let error = bench.refused("old").await;
        assert!(matches!(&error, Error::Fenced { reason } if reason.contains("another copy")), "{start}: {error}");
    }
    assert!(violations(bench.options("old")).await.iter().any(|found| found.place.contains("meta/writer")));
    assert_eq!(bench.of_topics(), before, "nothing is removed");
    let new = bench.open("new").await;
    new.vacuum(None).await.unwrap();
    let topic = new.topic("later").unwrap();
    assert_eq!(values(&new, at(&topic, 0)).await.len(), 12);
    new.close().await.unwrap();
    is_clean_with(bench.options("new")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_the_wrong_bucket_locks_nobody_out_of_the_right_one() {
    let bench = Bench::new();
    let storage = bench.open("data").await;
    bench.tiered(&storage, "kept").await;
    storage.close().await.unwrap();
    let wrong = Some(format!("file://{}", bench.dir("wrong").display()));
    for _ in 0..70 {
        let options = OpenOptions { object_store_url: wrong.clone(), ..bench.options("data") };
        let error = Storage::open(options).await.unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
    bench.restart("data").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_without_its_log_is_refused_and_nothing_is_swept() {
    let bench = Bench::new();
    let storage = bench.open("data").await;
    bench.tiered(&storage, "kept").await;
    storage.close().await.unwrap();
    let before = bench.of_topics();
    let log = bench.dir("data/log");
    let whole = bench.dir("whole");
    copy(&log, &whole);
    let newest = segments(&bench.dir("data")).pop().unwrap();
    let name = newest.file_name().unwrap().to_string_lossy().into_owned();
    let losses: [fn(&Path) -> bool; 2] = [|_| true, |path| path.extension().is_some_and(|end| end == "wal")];
    for goes in losses {
        files(&log).iter().filter(|path| goes(path)).for_each(|path| fs::remove_file(path).unwrap());
        if files(&log).is_empty() {
            fs::remove_dir(&log).unwrap();
            fs::create_dir(&log).unwrap();
        }
        let found = violations(bench.options("data")).await;
        assert!(found.iter().any(|found| found.place.contains(&name)), "{found:#?}");
        let error = bench.refused("data").await;
        assert!(matches!(&error, Error::Corrupt { place, .. } if place.contains(&name)), "{error}");
        assert!(error.to_string().contains("--take-over"), "{error}");
        fs::remove_dir_all(&log).unwrap();
        copy(&whole, &log);
    }
    assert_eq!(bench.of_topics(), before, "nothing is removed");
    bench.restart("data").await;
}

/// A directory of an earlier version does not say which segment was the newest.
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_versions_directory_without_its_log_is_refused_too() {
    let home = tempfile::tempdir().unwrap();
    let data_dir = home.path().join("data");
    let options = || tiered_options(&data_dir, StorageSettings { sweep_grace_ms: 0, ..StorageSettings::default() });
    for all in [true, false] {
        let _ = fs::remove_dir_all(&data_dir);
        copy(&fixture("v1"), &data_dir);
        let segments = segments(&data_dir);
        segments.iter().for_each(|path| fs::remove_file(path).unwrap());
        if all {
            files(&data_dir.join("log")).iter().for_each(|path| fs::remove_file(path).unwrap());
        }
        let before = files(&data_dir.join("objects"));
        let error = Storage::open(options()).await.unwrap_err();
        assert!(error.to_string().contains("--take-over"), "{error}");
        assert_eq!(files(&data_dir.join("objects")), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_newest_segment_is_missed_after_a_stop_and_after_a_crash() {
    for crash in [false, true] {
        let bench = Bench::new();
        let storage = bench.open("data").await;
        let topic = storage.create_topic("clicks", Some(1), TopicConfig::default()).await.unwrap();
        while segments(&bench.dir("data")).len() < 3 {
            produce(&storage, at(&topic, 0), &[&"x".repeat(16_000)]).await.unwrap();
        }
        let name = if crash {
            copy(&bench.dir("data"), &bench.dir("crashed"));
            "crashed"
        } else {
            "data"
        };
        storage.close().await.unwrap();
        let newest = segments(&bench.dir(name)).pop().unwrap();
        let aside = bench.dir("aside");
        fs::rename(&newest, &aside).unwrap();
        let file = newest.file_name().unwrap().to_string_lossy().into_owned();
        let found = violations(bench.options(name)).await;
        assert!(found.iter().any(|found| found.place.contains(&file)), "{found:#?}");
        for _ in 0..2 {
            let error = bench.refused(name).await;
            assert!(matches!(&error, Error::Corrupt { place, .. } if place.contains(&file)), "{error}");
        }
        fs::rename(&aside, &newest).unwrap();
        bench.restart(name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_is_swept_by_a_later_process_and_an_unknown_one_never() {
    let bench = Bench::new();
    let storage = bench.open("data").await;
    bench.tiered(&storage, "gone").await;
    bench.tiered(&storage, "kept").await;
    storage.delete_topic(storage.topic("gone").unwrap().id).await.unwrap();
    // So that a snapshot says it, and no record.
    bench.tiered(&storage, "filler").await;
    storage.close().await.unwrap();
    let unknown = bench.dir("bucket/topics").join(uuid::Uuid::from_u128(7).to_string()).join("data/x.parquet");
    fs::create_dir_all(unknown.parent().unwrap()).unwrap();
    fs::write(&unknown, "rows").unwrap();
    let report = is_clean_with(bench.options("data")).await;
    assert!(report.notes >= 2, "{report:?}");
    let storage = bench.open("data").await;
    // What checkpoints name is kept while they are: two newer ones take their place.
    for name in ["more", "and more"] {
        produce(&storage, at(&storage.topic("filler").unwrap(), 0), &[name]).await.unwrap();
        storage.checkpoint().await.unwrap();
    }
    storage.vacuum(None).await.unwrap();
    storage.vacuum(None).await.unwrap();
    let mut folders: Vec<_> = fs::read_dir(bench.dir("bucket/topics"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|folder| !files(folder).is_empty())
        .map(|folder| folder.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    let mut expected: Vec<_> =
        ["kept", "filler"].iter().map(|name| storage.topic(name).unwrap().id.to_string()).collect();
    expected.push(uuid::Uuid::from_u128(7).to_string());
    expected.sort();
    assert_eq!(folders, expected);
    storage.close().await.unwrap();
    assert!(unknown.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_a_bucket_that_nobody_has_claimed_from_the_right_one() {
    let bench = Bench::new();
    let storage = bench.open("data").await;
    produce(&storage, at(&storage.create_topic("t", Some(1), TopicConfig::default()).await.unwrap(), 0), &["hot"])
        .await
        .unwrap();
    storage.close().await.unwrap();
    assert_eq!(violations(bench.options("data")).await, []);
    fs::create_dir(bench.dir("empty")).unwrap();
    for url in [format!("file://{}", bench.dir("empty").display()), "memory:".to_owned()] {
        let options = OpenOptions { object_store_url: Some(url.clone()), ..bench.options("data") };
        assert_eq!(violations(options).await.len(), 1, "{url}");
    }
    // Nobody claims what does not outlive its process.
    let in_memory = || OpenOptions { object_store_url: Some("memory:".to_owned()), ..bench.options("other") };
    Storage::open(in_memory()).await.unwrap().close().await.unwrap();
    Storage::open(in_memory()).await.unwrap().close().await.unwrap();
    assert_eq!(violations(in_memory()).await, []);
}
