//! What is left when the power goes, the disk fails or is full, or bits flip.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aquifer_storage::clock::SystemClock;
use aquifer_storage::testing::chance::Chance;
use aquifer_storage::testing::{DiskFaults, FaultDisk, MemoryDisk, SimStore};
use aquifer_storage::{
    Append, Commit, Durability, Error, Health, OpenOptions, ScanRequest, Storage, Topic, TopicConfig,
};
use futures::StreamExt;
use parking_lot::Mutex;

use crate::support::*;

/// A commit of the same value to both partitions.
fn pair(topic: &Topic, value: &str) -> Commit {
    let append = |partition| Append { topic: topic.id, partition, batch: batch(&[value]) };
    Commit { appends: vec![append(0), append(1)], ..Commit::default() }
}

type Acknowledged = Arc<Mutex<BTreeMap<String, (i64, i64)>>>;

/// Commits pairs until the disk dies; notes what was acknowledged as durable, with its offsets.
async fn commit_until_dead(storage: Storage, topic: Arc<Topic>, writer: u64, acknowledged: Acknowledged) {
    for number in 0.. {
        let value = format!("{writer} {number} {}", "x".repeat((number as usize * 97) % 3000));
        let durability = if number % 3 == 0 { Durability::Written } else { Durability::Synced };
        match storage.commit(Commit { durability, ..pair(&topic, &value) }).await {
            Ok(receipt) if durability == Durability::Synced => {
                let offsets = (receipt.appended[0].base_offset, receipt.appended[1].base_offset);
                acknowledged.lock().insert(value, offsets);
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_nothing_that_was_acknowledged_and_leaves_no_half_commit() {
    for seed in 1..=24_u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path());
        options.settings.wal_segment_bytes = 1 << 16;
        let disk = FaultDisk::new(seed);
        let storage = Storage::open_on(options.clone(), &disk).await.unwrap();
        let topic = topic(&storage, "events", 2).await;
        let acknowledged = Acknowledged::default();
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (topic, acknowledged) = (Arc::clone(&topic), Arc::clone(&acknowledged));
                tokio::spawn(commit_until_dead(storage.clone(), topic, writer, acknowledged))
            })
            .collect();
        let enough = usize::try_from(seed).unwrap() * 5;
        eventually("enough acknowledged", async || acknowledged.lock().len() >= enough).await;
        disk.power_cut().unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
        stop(storage).await;
        let storage = Storage::open(options).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(storage.health(), Health::Ready, "seed {seed}");
        let (left, right) = (values(&storage, at(&topic, 0)).await, values(&storage, at(&topic, 1)).await);
        for (value, (in_left, in_right)) in acknowledged.lock().iter() {
            assert_eq!(left.get(*in_left as usize), Some(value), "seed {seed}");
            assert_eq!(right.get(*in_right as usize), Some(value), "seed {seed}");
        }
        assert_eq!(left, right, "seed {seed}: both or none");
        produce(&storage, at(&topic, 0), &["after"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_failed_sync_makes_the_node_read_only_until_it_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::new(1);
    let storage = Storage::open_on(options(dir.path()), &disk).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    produce(&storage, at(&topic, 0), &["a"]).await.unwrap();
    disk.fail_syncs(true);
    assert!(matches!(produce(&storage, at(&topic, 0), &["b"]).await, Err(Error::ReadOnly { .. })));
    disk.fail_syncs(false);
    assert!(matches!(produce(&storage, at(&topic, 0), &["c"]).await, Err(Error::ReadOnly { .. })));
    assert!(matches!(storage.health(), Health::ReadOnly(_)));
    assert_eq!(values(&storage, at(&topic, 0)).await, ["a"]);
    stop(storage).await;
    let storage = open(dir.path()).await;
    assert_eq!(storage.health(), Health::Ready);
    assert_eq!(values(&storage, at(&topic, 0)).await[0], "a");
    produce(&storage, at(&topic, 0), &["d"]).await.unwrap();
}

#[tokio::test]
async fn a_write_that_fails_half_way_is_undone_whole_and_the_next_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::new(1);
    let storage = Storage::open_on(options(dir.path()), &disk).await.unwrap();
    let topic = topic(&storage, "events", 2).await;
    storage.commit(pair(&topic, "a")).await.unwrap();
    let id = storage.new_producer_id().await.unwrap();
    disk.fail_write_after(0);
    let lost = sequenced(&batch(&["b"]), id, 0, 0);
    assert!(matches!(storage.commit(appends(at(&topic, 0), lost.clone())).await, Err(Error::Full { .. })));
    // The sequence was undone too: the retry is no duplicate.
    let retried = storage.commit(appends(at(&topic, 0), lost)).await.unwrap().appended[0];
    assert_eq!((retried.base_offset, retried.duplicate), (1, false));
    disk.fail_write_after(0);
    assert!(storage.create_topic("other", None, TopicConfig::default()).await.is_err());
    assert!(storage.topic("other").is_none());
    storage.create_topic("other", None, TopicConfig::default()).await.unwrap();
    assert_eq!(values(&storage, at(&topic, 0)).await, ["a", "b"]);
    stop(storage).await;
    let storage = open(dir.path()).await;
    assert_eq!(storage.health(), Health::Ready);
    assert_eq!(values(&storage, at(&topic, 0)).await, ["a", "b"]);
    assert_eq!(values(&storage, at(&topic, 1)).await, ["a"]);
}

#[tokio::test]
async fn on_a_full_disk_records_are_refused_and_topics_can_still_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::new(1);
    let mut options = options(dir.path());
    options.settings.wal_segment_bytes = 1 << 16;
    options.settings.wal_reserve_bytes = 1 << 16;
    let storage = Storage::open_on(options, &disk).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    produce(&storage, at(&topic, 0), &["a"]).await.unwrap();
    disk.leave_room(Some(0));
    let long = "x".repeat(10_000);
    let mut refused = None;
    for _ in 0..20 {
        refused = produce(&storage, at(&topic, 0), &[&long]).await.err();
        if refused.is_some() {
            break;
        }
    }
    assert!(matches!(refused, Some(Error::Full { .. })), "{refused:?}");
    assert!(!values(&storage, at(&topic, 0)).await.is_empty(), "reads go on");
    // Room comes from the reserve; what the file takes of it is given back when the reserve is removed.
    disk.leave_room(Some(1 << 16));
    storage.delete_topic(topic.id).await.unwrap();
    disk.leave_room(None);
    let topic = self::topic(&storage, "events", 1).await;
    produce(&storage, at(&topic, 0), &[&long]).await.unwrap();
}

pub(crate) fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    files.sort();
    files
}

pub(crate) fn position_of(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap()
}

/// Three records in frames of their own, a silence that covers them, and the directory.
pub(crate) async fn three_records(dir: &Path, cover: bool) -> Arc<Topic> {
    let storage = open(dir).await;
    let topic = topic(&storage, "events", 1).await;
    for value in ["first record", "second record", "third record"] {
        produce(&storage, at(&topic, 0), &[value]).await.unwrap();
    }
    if cover {
        let bytes = storage.segments()[0].bytes;
        eventually("an empty frame", async || storage.segments()[0].bytes > bytes).await;
    }
    stop(storage).await;
    topic
}

#[tokio::test]
async fn a_flipped_bit_is_named_and_everything_else_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let topic = three_records(dir.path(), true).await;
    let file = segment_files(dir.path()).pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let at_bit = position_of(&bytes, "second record");
    bytes[at_bit] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let storage = open(dir.path()).await;
    assert!(matches!(storage.health(), Health::Damaged(ranges) if ranges[0].contains(".wal bytes")));
    let first = storage.fetch(fetch_of(at(&topic, 0), 0, 1 << 20)).await.unwrap();
    assert_eq!(first.batches.len(), 1);
    assert!(matches!(read(&storage, at(&topic, 0), 1).await, Err(Error::Corrupt { .. })));
    assert_eq!(read(&storage, at(&topic, 0), 2).await.unwrap(), [(2, "third record".to_owned())]);
    assert_eq!(produce(&storage, at(&topic, 0), &["fourth"]).await.unwrap().appended[0].base_offset, 3);
}

/// Flips a bit in the header of the frame that holds a value.
fn damage_header_of(file: &Path, value: &str, byte: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    let payload = position_of(&bytes, value);
    let header = (0..payload).rev().find(|at| bytes[*at..].starts_with(b"AQFR")).unwrap();
    bytes[header + byte] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_damaged_frame_header_costs_no_record_and_gives_no_offset_again() {
    // Magic, length, directory, epoch, commit time, position and checksums: whichever field is hit.
    for byte in [0, 9, 12, 20, 33, 50, 57, 61] {
        for value in ["second record", "third record"] {
            let dir = tempfile::tempdir().unwrap();
            let topic = three_records(dir.path(), true).await;
            damage_header_of(&segment_files(dir.path()).pop().unwrap(), value, byte);
            let storage = open(dir.path()).await;
            assert!(matches!(storage.health(), Health::Damaged(_)), "byte {byte} of {value}");
            let fourth = produce(&storage, at(&topic, 0), &["fourth"]).await.unwrap();
            assert_eq!(fourth.appended[0].base_offset, 3, "byte {byte} of {value}");
            let expected = ["first record", "second record", "third record", "fourth"];
            assert_eq!(values(&storage, at(&topic, 0)).await, expected, "byte {byte} of {value}");
            stop(storage).await;
            let storage = open(dir.path()).await;
            assert!(matches!(storage.health(), Health::Damaged(_)), "it is still so after another start");
        }
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_its_offsets_are_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::new(3);
    let storage = Storage::open_on(options(dir.path()), &disk).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    produce(&storage, at(&topic, 0), &["durable"]).await.unwrap();
    stop(storage).await;
    // Half a frame behind the last one, as a process killed within a write leaves it.
    let file = segment_files(dir.path()).pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.windows(4).rposition(|window| window == b"AQFR").unwrap();
    let first = position_of(&bytes, "AQFR");
    let torn = bytes[first..first + 100].to_vec();
    bytes[last + 64..last + 164].copy_from_slice(&torn);
    std::fs::write(&file, bytes).unwrap();
    let storage = open(dir.path()).await;
    assert_eq!(storage.health(), Health::Ready);
    assert_eq!(produce(&storage, at(&topic, 0), &["next"]).await.unwrap().appended[0].base_offset, 1);
    stop(storage).await;
    let storage = open(dir.path()).await;
    assert_eq!(values(&storage, at(&topic, 0)).await, ["durable", "next"]);
}

#[tokio::test]
async fn a_damaged_snapshot_costs_time_and_no_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.settings.wal_segment_bytes = 1 << 16;
    let storage = Storage::open(options.clone()).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    let long = "x".repeat(9000);
    for _ in 0..30 {
        produce(&storage, at(&topic, 0), &[&long]).await.unwrap();
    }
    stop(storage).await;
    let mut snapshots: Vec<_> = std::fs::read_dir(dir.path().join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "snap"))
        .collect();
    snapshots.sort();
    assert_eq!(snapshots.len(), 2);
    let mut bytes = std::fs::read(&snapshots[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&snapshots[1], bytes).unwrap();
    let storage = Storage::open(options).await.unwrap();
    assert_eq!(values(&storage, at(&topic, 0)).await.len(), 30);
    assert_eq!(produce(&storage, at(&topic, 0), &["y"]).await.unwrap().appended[0].base_offset, 30);
}

#[tokio::test]
async fn a_commit_goes_on_when_its_caller_has_gone_away() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let topic = topic(&storage, "events", 1).await;
    {
        let mut commit = Box::pin(produce(&storage, at(&topic, 0), &["orphan"]));
        assert!(futures::poll!(&mut commit).is_pending());
    }
    let waited = tokio::time::timeout(Duration::from_secs(10), storage.wait_past(&[(at(&topic, 0), 0)])).await;
    waited.unwrap();
    assert_eq!(values(&storage, at(&topic, 0)).await, ["orphan"]);
}

#[tokio::test]
async fn what_was_never_synced_is_torn_and_not_damaged_even_if_the_power_goes_while_a_segment_is_sealed() {
    for seed in 1..=80_u64 {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultDisk::new(seed);
        let mut options = options(dir.path());
        options.settings.wal_segment_bytes = 1 << 16;
        options.settings.wal_sync_interval_max_ms = 60_000;
        let storage = Storage::open_on(options.clone(), &disk).await.unwrap();
        let topic = topic(&storage, "events", 1).await;
        produce(&storage, at(&topic, 0), &["durable"]).await.unwrap();
        disk.fail_syncs(true);
        let long = "x".repeat(9000);
        while produce_unsynced(&storage, at(&topic, 0), &[&long]).await.is_ok() {}
        disk.power_cut().unwrap();
        stop(storage).await;
        let storage = Storage::open(options).await.unwrap();
        assert_eq!(storage.health(), Health::Ready, "seed {seed}");
        assert_eq!(values(&storage, at(&topic, 0)).await[0], "durable", "seed {seed}");
    }
}

/// Flips two bits in the directory of the frame that holds a value: it is not where it should be any more, and no checksum
/// says which bits they were.
fn damage_directory_of(file: &Path, value: &str) {
    damage_header_of(file, value, 64 + 24);
    damage_header_of(file, value, 64 + 26);
}

#[tokio::test]
async fn a_partition_whose_first_offsets_are_damaged_is_opened_and_the_rest_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let topic = three_records(dir.path(), true).await;
    damage_directory_of(&segment_files(dir.path()).pop().unwrap(), "first record");
    let storage = open(dir.path()).await;
    assert!(matches!(storage.health(), Health::Damaged(_)));
    assert!(matches!(read(&storage, at(&topic, 0), 0).await, Err(Error::Corrupt { .. })));
    let rest = [(1, "second record".to_owned()), (2, "third record".to_owned())];
    assert_eq!(read(&storage, at(&topic, 0), 1).await.unwrap(), rest);
}

#[tokio::test]
async fn what_is_damaged_in_the_log_is_served_from_objects_if_they_have_it() {
    for whole_directory in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions { object_store_url: None, ..options(dir.path()) };
        let storage = Storage::open(options.clone()).await.unwrap();
        let topic = topic(&storage, "events", 1).await;
        for value in ["first record", "second record", "third record"] {
            produce(&storage, at(&topic, 0), &[value]).await.unwrap();
        }
        storage.checkpoint().await.unwrap();
        produce(&storage, at(&topic, 0), &["fourth record"]).await.unwrap();
        stop(storage).await;
        let file = segment_files(dir.path()).pop().unwrap();
        if whole_directory {
            let mut bytes = std::fs::read(&file).unwrap();
            let at_bit = position_of(&bytes, "second record");
            bytes[at_bit] ^= 1;
            std::fs::write(&file, bytes).unwrap();
        } else {
            damage_directory_of(&file, "second record");
        }
        let storage = Storage::open(options).await.unwrap();
        assert!(matches!(storage.health(), Health::Damaged(_)));
        let expected = ["first record", "second record", "third record", "fourth record"];
        assert_eq!(values(&storage, at(&topic, 0)).await, expected);
        let snapshot = storage.snapshot(&[topic.id], &HashMap::new()).unwrap();
        let rows = snapshot.scan(at(&topic, 0), ScanRequest::all(Vec::new())).unwrap();
        let rows: usize = rows.map(|batch| batch.unwrap().num_rows()).fold(0, async |sum, rows| sum + rows).await;
        assert_eq!(rows, 4);
    }
}

#[tokio::test]
async fn what_was_shown_after_a_failed_sync_and_a_restart_is_there_after_a_power_cut() {
    for seed in 1..=20_u64 {
        let disk = MemoryDisk::new(Chance::new(seed));
        let store = SimStore::new(Chance::new(seed), Arc::new(SystemClock));
        let options = options(Path::new("/data"));
        let storage = Storage::open_simulated(options.clone(), &disk, &store).await.unwrap();
        let topic = topic(&storage, "events", 1).await;
        produce(&storage, at(&topic, 0), &["a"]).await.unwrap();
        disk.set_faults(DiskFaults { sync_once_in: 1, ..DiskFaults::default() });
        produce(&storage, at(&topic, 0), &["b"]).await.unwrap_err();
        stop(storage).await;
        disk.set_faults(DiskFaults::default());
        let storage = Storage::open_simulated(options.clone(), &disk, &store).await.unwrap();
        let shown = values(&storage, at(&topic, 0)).await;
        stop(storage).await;
        disk.power_cut();
        let storage = Storage::open_simulated(options, &disk, &store).await.unwrap();
        assert_eq!(storage.health(), Health::Ready, "seed {seed}");
        assert_eq!(values(&storage, at(&topic, 0)).await, shown, "seed {seed}");
        stop(storage).await;
    }
}

#[tokio::test]
async fn names_that_a_process_left_before_their_folder_was_synced_are_durable_once_they_are_used() {
    for seed in 1..=60_u64 {
        let disk = MemoryDisk::new(Chance::new(seed));
        let store = SimStore::new(Chance::new(seed), Arc::new(SystemClock));
        let options = options(Path::new("/data"));
        disk.set_faults(DiskFaults { sync_once_in: 3, ..DiskFaults::default() });
        if let Ok(storage) = Storage::open_simulated(options.clone(), &disk, &store).await {
            // It may find out when it closes.
            let _ = storage.close().await;
        }
        disk.set_faults(DiskFaults::default());
        let storage = Storage::open_simulated(options.clone(), &disk, &store).await.unwrap();
        let topic = topic(&storage, "events", 1).await;
        produce(&storage, at(&topic, 0), &["a"]).await.unwrap();
        stop(storage).await;
        disk.power_cut();
        let storage = Storage::open_simulated(options, &disk, &store).await.unwrap();
        assert!(storage.topic("events").is_some(), "seed {seed}");
        assert_eq!(values(&storage, at(&topic, 0)).await, ["a"], "seed {seed}");
        stop(storage).await;
    }
}

/// Rows of some offsets, or why there are none.
pub(crate) async fn scanned(storage: &Storage, topic: &Topic, offsets: std::ops::Range<i64>) -> Result<usize, Error> {
    let snapshot = storage.snapshot(&[topic.id], &HashMap::new())?;
    let request = ScanRequest { offset_start: offsets.start, offset_end: offsets.end, ..ScanRequest::all(Vec::new()) };
    let mut batches = snapshot.scan(at(topic, 0), request)?;
    let mut rows = 0;
    while let Some(batch) = batches.next().await {
        rows += batch?.num_rows();
    }
    Ok(rows)
}

#[tokio::test]
async fn tiering_goes_on_behind_what_is_damaged_and_only_those_offsets_are_refused_from_then_on() {
    for whole_directory in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = OpenOptions { object_store_url: None, ..options(dir.path()) };
        options.settings.wal_segment_bytes = 1 << 16;
        options.settings.topic_local_retention_ms = 0;
        let topic = three_records(dir.path(), true).await;
        let file = segment_files(dir.path()).pop().unwrap();
        if whole_directory {
            let mut bytes = std::fs::read(&file).unwrap();
            let at_bit = position_of(&bytes, "second record");
            bytes[at_bit] ^= 1;
            std::fs::write(&file, bytes).unwrap();
        } else {
            damage_directory_of(&file, "second record");
        }
        let mut storage = Storage::open(options.clone()).await.unwrap();
        assert_eq!(storage.checkpoint().await.unwrap().rows, 2, "the others are tiered");
        assert_eq!(storage.watermarks(at(&topic, 0)).unwrap().tiered_end_offset, 3);
        for round in 0..3 {
            let Health::Damaged(words) = storage.health() else { panic!("something is lost") };
            assert!(
                words.iter().any(|words| words.starts_with("lost for ever: offsets 1..2 of events/0")),
                "{words:?}"
            );
            for lost in [
                storage.fetch(fetch_of(at(&topic, 0), 1, 1 << 20)).await.map(drop),
                scanned(&storage, &topic, 0..3).await.map(drop),
            ] {
                let Err(Error::Corrupt { place, .. }) = lost else { panic!("{lost:?}") };
                assert!(place.contains(".wal bytes"), "{place}");
            }
            assert_eq!(
                storage.fetch(fetch_of(at(&topic, 0), 0, 1 << 20)).await.unwrap().batches.len(),
                1,
                "round {round}"
            );
            assert_eq!(read(&storage, at(&topic, 0), 2).await.unwrap()[0], (2, "third record".to_owned()));
            assert_eq!(scanned(&storage, &topic, 0..1).await.unwrap(), 1);
            assert_eq!(scanned(&storage, &topic, 2..i64::MAX).await.unwrap(), 1 + round * 60);
            // More comes, and the segment is forgotten.
            for _ in 0..60 {
                produce(&storage, at(&topic, 0), &[&"x".repeat(5000)]).await.unwrap();
            }
            storage.checkpoint().await.unwrap();
            if round == 0 {
                stop(storage).await;
                storage = Storage::open(options.clone()).await.unwrap();
            }
        }
        assert!(!file.exists(), "the log forgets what is lost too");
        let Health::Damaged(words) = storage.health() else { panic!("something is lost") };
        assert_eq!(words.len(), 1, "{words:?}");
        stop(storage).await;
    }
}
