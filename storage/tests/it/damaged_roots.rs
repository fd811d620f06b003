//! What a start needs and is damaged: the newest root of a manifest, a claim, the directory's own file, snapshots. It is
//! named, never gone around in silence, and the rest is served; where that cannot be, the start says what to do.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aquifer_storage::{Error, Health, OpenOptions, ScanRequest, Storage, Topic};
use futures::StreamExt;

use crate::support::*;

/// Ranges of offsets of the damaged topic: 0..20 are cold, 20..30 are in the log only.
const COLD: i64 = 20;
const END: i64 = 30;

fn options(dir: &Path) -> OpenOptions {
    let mut options = OpenOptions { object_store_url: None, ..crate::support::options(dir) };
    options.settings.wal_segment_bytes = 64 << 10;
    options.settings.topic_local_retention_ms = 0;
    options.settings.housekeeping_interval_ms = 0;
    options.settings.sweep_grace_ms = 0;
    options
}

async fn open(dir: &Path) -> Storage {
    Storage::open(options(dir)).await.unwrap()
}

fn files(dir: &Path, words: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, words));
        } else if path.to_string_lossy().contains(words) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn long(number: i64) -> String {
    format!("{number} {}", "x".repeat(8000))
}

/// Two topics with cold and hot records; the log has forgotten what is cold of `hurt`.
async fn cold_and_hot(dir: &Path) -> (Arc<Topic>, Arc<Topic>) {
    let storage = open(dir).await;
    let (hurt, well) = (topic(&storage, "hurt", 1).await, topic(&storage, "well", 1).await);
    for number in 0..COLD {
        produce(&storage, at(&hurt, 0), &[&long(number)]).await.unwrap();
        produce(&storage, at(&well, 0), &["w"]).await.unwrap();
        if number % 5 == 0 {
            storage.checkpoint().await.unwrap();
        }
    }
    storage.checkpoint().await.unwrap();
    for number in COLD..END {
        produce(&storage, at(&hurt, 0), &[&long(number)]).await.unwrap();
    }
    assert!(storage.local_start(at(&hurt, 0)).unwrap() > 5, "some of it is nowhere but in objects");
    stop(storage).await;
    (hurt, well)
}

/// Values of the rows from an offset on, or why there are none.
async fn scanned(storage: &Storage, topic: &Topic, from: i64) -> Result<usize, Error> {
    let snapshot = storage.snapshot(&[topic.id], &HashMap::new())?;
    let request = ScanRequest { offset_start: from, ..ScanRequest::all(Vec::new()) };
    let mut batches = snapshot.scan(at(topic, 0), request)?;
    let mut rows = 0;
    while let Some(batch) = batches.next().await {
        rows += batch?.num_rows();
    }
    Ok(rows)
}

fn names(error: &Error, path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    matches!(error, Error::Corrupt { .. }) && error.to_string().contains(name.as_ref())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_topic_whose_newest_root_is_damaged_the_log_is_served_and_nothing_of_its_objects_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (hurt, well) = cold_and_hot(dir.path()).await;
    let of_hurt = format!("topics/{}", hurt.id);
    let root = files(dir.path(), &format!("{of_hurt}/manifest/")).pop().unwrap();
    let whole = fs::read(&root).unwrap();
    flip(&root);
    let before = files(dir.path(), &of_hurt);

    let storage = open(dir.path()).await;
    let Health::Damaged(words) = storage.health() else { panic!("{:?}", storage.health()) };
    let name = root.file_name().unwrap().to_string_lossy().into_owned();
    assert!(words.iter().any(|word| word.contains("hurt") && word.contains(&name)), "{words:?}");
    let hot = storage.local_start(at(&hurt, 0)).unwrap();
    assert!(hot > 0 && hot <= COLD, "{hot}");
    // The cold part answers by name, whoever asks; the log's part is there.
    for refused in [
        read(&storage, at(&hurt, 0), 0).await.unwrap_err(),
        read(&storage, at(&hurt, 0), hot - 1).await.unwrap_err(),
        scanned(&storage, &hurt, 0).await.unwrap_err(),
        storage.offset_for_timestamp(at(&hurt, 0), 0).await.unwrap_err(),
        storage.offset_of_max_timestamp(at(&hurt, 0)).await.unwrap_err(),
        storage.checkpoint().await.unwrap_err(),
        storage.vacuum(Some(hurt.id)).await.unwrap_err(),
        storage.vacuum(None).await.unwrap_err(),
    ] {
        assert!(names(&refused, &root), "{refused}");
    }
    let expected: Vec<_> = (hot..END).map(|number| (number, long(number))).collect();
    assert_eq!(read(&storage, at(&hurt, 0), hot).await.unwrap(), expected);
    assert_eq!(scanned(&storage, &hurt, hot).await.unwrap(), expected.len());
    // It is still written to, and other topics do all they did.
    produce(&storage, at(&hurt, 0), &[&long(END)]).await.unwrap();
    produce(&storage, at(&well, 0), &["w"]).await.unwrap();
    assert!(storage.checkpoint().await.is_err());
    assert_eq!(storage.watermarks(at(&well, 0)).unwrap().tiered_end_offset, COLD + 1);
    assert_eq!(scanned(&storage, &well, 0).await.unwrap(), COLD as usize + 1);
    storage.vacuum(Some(well.id)).await.unwrap();
    stop(storage).await;
    assert_eq!(files(dir.path(), &of_hurt), before, "nothing is put and nothing swept");

    // Restored, nothing is missing.
    fs::write(&root, whole).unwrap();
    let storage = open(dir.path()).await;
    assert_eq!(storage.health(), Health::Ready);
    assert_eq!(values(&storage, at(&hurt, 0)).await, (0..=END).map(long).collect::<Vec<_>>());
    storage.checkpoint().await.unwrap();
    assert_eq!(scanned(&storage, &hurt, 0).await.unwrap(), END as usize + 1);
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_newest_root_is_damaged_can_be_deleted_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (hurt, _) = cold_and_hot(dir.path()).await;
    let of_hurt = format!("topics/{}", hurt.id);
    flip(&files(dir.path(), &format!("{of_hurt}/manifest/")).pop().unwrap());
    let storage = open(dir.path()).await;
    storage.delete_topic(hurt.id).await.unwrap();
    // Of the two that are kept none names it any more.
    storage.checkpoint().await.unwrap();
    storage.checkpoint().await.unwrap();
    storage.vacuum(None).await.unwrap();
    assert_eq!(files(dir.path(), &of_hurt), Vec::<PathBuf>::new());
    assert_eq!(storage.health(), Health::Ready);
    let again = topic(&storage, "hurt", 1).await;
    produce(&storage, at(&again, 0), &["new"]).await.unwrap();
    storage.checkpoint().await.unwrap();
    assert_eq!(values(&storage, at(&again, 0)).await, ["new"]);
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_deletion_is_damaged_keeps_nothing_else_from_being_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut housekeeping = options(dir.path());
    housekeeping.settings.housekeeping_interval_ms = 20;
    let storage = Storage::open(housekeeping).await.unwrap();
    let (hurt, well) = (topic(&storage, "hurt", 1).await, topic(&storage, "well", 1).await);
    for number in 0..20 {
        produce(&storage, at(&hurt, 0), &[&long(number)]).await.unwrap();
    }
    produce(&storage, at(&well, 0), &["w"]).await.unwrap();
    let before = files(dir.path(), ".wal");
    assert!(before.len() > 2, "of two snapshots the older one covers the first segment");
    storage.delete_topic(hurt.id).await.unwrap();
    eventually("its first records are gone", async || !files(dir.path(), ".wal").contains(&before[0])).await;
    stop(storage).await;
    let segment = files(dir.path(), ".wal").pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let id = hurt.id.to_string();
    let key = bytes.windows(id.len()).rposition(|window| window == id.as_bytes()).unwrap();
    bytes[key] ^= 1;
    fs::write(&segment, bytes).unwrap();

    let storage = open(dir.path()).await;
    let Health::Damaged(words) = storage.health() else { panic!("{:?}", storage.health()) };
    let of_hurt = words.iter().find(|word| word.contains("the cold part of hurt"));
    assert!(of_hurt.is_some_and(|word| word.contains("delete it again")), "{words:?}");
    assert_eq!(values(&storage, at(&well, 0)).await, ["w"]);
    assert!(names(&read(&storage, at(&hurt, 0), 0).await.unwrap_err(), &segment));
    storage.delete_topic(hurt.id).await.unwrap();
    produce(&storage, at(&well, 0), &["w"]).await.unwrap();
    storage.checkpoint().await.unwrap();
    stop(storage).await;
    let storage = open(dir.path()).await;
    assert_eq!(values(&storage, at(&well, 0)).await, ["w", "w"]);
    assert!(storage.watermarks(at(&hurt, 0)).is_err(), "deleted for good");
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_claim_is_passed_over_as_long_as_another_says_whose_the_store_is() {
    let dir = tempfile::tempdir().unwrap();
    let (hurt, _) = cold_and_hot(dir.path()).await;
    stop(open(dir.path()).await).await;
    let claims = files(dir.path(), "meta/writer");
    flip(claims.last().unwrap());
    let storage = open(dir.path()).await;
    assert_eq!(values(&storage, at(&hurt, 0)).await.len(), END as usize);
    stop(storage).await;
    let claims = files(dir.path(), "meta/writer");
    assert!(claims.len() >= 3, "{claims:?}");
    claims.iter().for_each(|claim| drop(fs::write(claim, b"no claim")));
    let refused = Storage::open(options(dir.path())).await.unwrap_err();
    assert!(names(&refused, claims.last().unwrap()), "{refused}");
    assert!(refused.to_string().contains("remove the damaged claims"), "{refused}");
    // What it says to do works.
    claims.iter().for_each(|claim| fs::remove_file(claim).unwrap());
    let storage = open(dir.path()).await;
    assert_eq!(values(&storage, at(&hurt, 0)).await.len(), END as usize);
    stop(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_meta_file_is_taken_from_its_copy_and_without_one_the_start_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (hurt, _) = cold_and_hot(dir.path()).await;
    let storage = open(dir.path()).await;
    let (cluster, epoch) = (storage.cluster_id(), storage.writer_epoch());
    stop(storage).await;
    let (meta, copy) = (dir.path().join("meta"), dir.path().join("meta.copy"));
    let older = fs::read(&meta).unwrap();
    flip(&meta);
    let storage = open(dir.path()).await;
    assert_eq!((storage.cluster_id(), storage.writer_epoch().0), (cluster, epoch.0 + 1));
    assert_eq!(values(&storage, at(&hurt, 0)).await.len(), END as usize);
    stop(storage).await;
    assert_ne!(fs::read(&meta).unwrap(), older);
    assert_eq!(fs::read(&meta).unwrap(), fs::read(&copy).unwrap());
    flip(&meta);
    flip(&copy);
    let refused = Storage::open(options(dir.path())).await.unwrap_err();
    assert!(names(&refused, &meta) && names(&refused, &copy), "{refused}");
    assert!(refused.to_string().contains("restore meta or meta.copy"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_snapshots_are_named_and_when_none_is_left_the_start_says_what_to_restore() {
    let dir = tempfile::tempdir().unwrap();
    let (hurt, _) = cold_and_hot(dir.path()).await;
    let snapshots = files(dir.path(), ".snap");
    assert_eq!(snapshots.len(), 2);
    let backup: Vec<_> = snapshots.iter().map(|path| fs::read(path).unwrap()).collect();
    flip(&snapshots[1]);
    let storage = open(dir.path()).await;
    let Health::Damaged(words) = storage.health() else { panic!("{:?}", storage.health()) };
    assert_eq!(words, [snapshots[1].display().to_string()]);
    assert_eq!(values(&storage, at(&hurt, 0)).await.len(), END as usize);
    stop(storage).await;
    flip(&snapshots[0]);
    let refused = Storage::open(options(dir.path())).await.unwrap_err();
    assert!(names(&refused, &snapshots[0]) && names(&refused, &snapshots[1]), "{refused}");
    assert!(refused.to_string().contains("restore one of the .snap files"), "{refused}");
    fs::write(&snapshots[0], &backup[0]).unwrap();
    let storage = open(dir.path()).await;
    assert_eq!(values(&storage, at(&hurt, 0)).await.len(), END as usize);
    stop(storage).await;
}
