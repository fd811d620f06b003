//! A disk that fills up: records are refused and nothing else, what frees room goes on, and writing does by itself then.

use std::path::Path;
use std::sync::Arc;

use aquifer_storage::clock::SystemClock;
use aquifer_storage::testing::chance::Chance;
use aquifer_storage::testing::{FaultDisk, MemoryDisk, SimStore};
use aquifer_storage::{
    Commit, Error, GroupOffset, GroupOffsetChange, Health, OpenOptions, Storage, Topic, TopicPartition,
};

use crate::support::*;

const SEGMENT_BYTES: u64 = 64 << 10;
const DISK_BYTES: u64 = 16 * SEGMENT_BYTES;
/// So much cannot fit.
const RECORDS_MAX: usize = 1000;

struct SmallDisk {
    disk: MemoryDisk,
    store: SimStore,
    options: OpenOptions,
}

impl SmallDisk {
    fn new(seed: u64) -> Self {
        let mut options = OpenOptions { object_store_url: None, ..options(Path::new("/data")) };
        options.settings.wal_segment_bytes = SEGMENT_BYTES;
        options.settings.wal_reserve_bytes = SEGMENT_BYTES;
        let disk = MemoryDisk::new(Chance::new(seed));
        disk.set_capacity(Some(DISK_BYTES));
        Self { disk, store: SimStore::new(Chance::new(seed), Arc::new(SystemClock)), options }
    }

    async fn open(&self) -> Storage {
        Storage::open_simulated(self.options.clone(), &self.disk, &self.store).await.unwrap()
    }
}

fn value(number: usize) -> String {
    format!("{number:04} {}", "x".repeat(4000))
}

/// Produces until the disk is full; adds what was acknowledged.
async fn fill(storage: &Storage, partition: TopicPartition, acknowledged: &mut Vec<String>) {
    for _ in 0..RECORDS_MAX {
        let value = value(acknowledged.len());
        match produce(storage, partition, &[&value]).await {
            Ok(_) => acknowledged.push(value),
            Err(Error::Full { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the disk never filled up");
}

fn offset_of(topic: &Topic, offset: i64) -> Commit {
    let offset = GroupOffset { offset, leader_epoch: -1, metadata: "x".repeat(100), committed_at_us: 0 };
    let change = GroupOffsetChange { group: "g".to_owned(), partition: at(topic, 0), offset: Some(offset) };
    Commit { group_offsets: vec![change], ..Commit::default() }
}

#[tokio::test]
async fn records_are_refused_and_what_frees_room_goes_on_also_after_a_restart_and_endless_offsets() {
    let small = SmallDisk::new(1);
    let storage = small.open().await;
    let (ballast, kept) = (topic(&storage, "ballast", 1).await, topic(&storage, "kept", 1).await);
    let (mut of_ballast, mut of_kept) = (Vec::new(), Vec::new());
    for number in 0..100 {
        let (topic, values) = if number % 20 == 0 { (&kept, &mut of_kept) } else { (&ballast, &mut of_ballast) };
        produce(&storage, at(topic, 0), &[&value(values.len())]).await.unwrap();
        values.push(value(values.len()));
    }
    fill(&storage, at(&kept, 0), &mut of_kept).await;
    assert!(matches!(storage.health(), Health::Full(_)), "{:?}", storage.health());
    // Offsets of consumers never end: they take their half of the reserve, and are refused then.
    let mut offset = 0;
    while storage.commit(offset_of(&kept, offset)).await.is_ok() {
        offset += 1;
        assert!(offset < 10_000, "they would take all of the reserve");
    }
    assert!(offset > 10, "{offset} offsets");
    assert_eq!(values(&storage, at(&kept, 0)).await, of_kept, "reads go on");
    stop(storage).await;

    // A start on the disk that is still full, even if somebody else has taken all that was left.
    small.disk.set_capacity(Some(small.disk.used_bytes()));
    let storage = small.open().await;
    assert_eq!(values(&storage, at(&kept, 0)).await, of_kept);
    stop(storage).await;
    small.disk.set_capacity(Some(DISK_BYTES));
    let storage = small.open().await;
    assert_eq!(storage.health(), Health::Ready);
    assert_eq!(values(&storage, at(&kept, 0)).await, of_kept);
    assert_eq!(values(&storage, at(&ballast, 0)).await, of_ballast);
    assert_eq!(storage.group_offsets(Some("g"))[0].2.offset, offset - 1);
    fill(&storage, at(&kept, 0), &mut of_kept).await;
    let other = topic(&storage, "other", 1).await;
    storage.delete_topic(other.id).await.unwrap();
    let before = small.disk.used_bytes();
    storage.delete_topic(ballast.id).await.unwrap();
    eventually("the disk to have room", async || small.disk.used_bytes() + 3 * SEGMENT_BYTES < before).await;
    // By itself, without a restart; what held up the ballast was carried over.
    let full = of_kept.len();
    fill(&storage, at(&kept, 0), &mut of_kept).await;
    assert!(of_kept.len() > full + 20, "{} more records", of_kept.len() - full);
    assert_eq!(values(&storage, at(&kept, 0)).await, of_kept);
    stop(storage).await;
    let storage = small.open().await;
    assert_eq!((storage.health(), values(&storage, at(&kept, 0)).await), (Health::Ready, of_kept));
    stop(storage).await;
}

#[tokio::test]
async fn what_became_cold_makes_room_before_its_local_retention_has_passed() {
    let small = SmallDisk::new(2);
    let storage = small.open().await;
    let topic = topic(&storage, "events", 1).await;
    let mut written = Vec::new();
    fill(&storage, at(&topic, 0), &mut written).await;
    let full = written.len();
    storage.checkpoint().await.unwrap();
    fill(&storage, at(&topic, 0), &mut written).await;
    assert!(written.len() > full + 20, "{} more records", written.len() - full);
    assert_eq!(values(&storage, at(&topic, 0)).await, written);
    stop(storage).await;
}

#[tokio::test]
async fn a_write_that_fails_is_undone_although_somebody_else_has_taken_the_room_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::new(1);
    let storage = Storage::open_on(options(dir.path()), &disk).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    produce(&storage, at(&topic, 0), &["a"]).await.unwrap();
    disk.leave_room(Some(0));
    disk.fail_write_after(0);
    assert!(matches!(produce(&storage, at(&topic, 0), &["b"]).await, Err(Error::Full { .. })));
    assert!(matches!(produce(&storage, at(&topic, 0), &["b"]).await, Err(Error::Full { .. })));
    assert!(matches!(storage.health(), Health::Full(_)), "{:?}", storage.health());
    disk.leave_room(None);
    produce(&storage, at(&topic, 0), &["b"]).await.unwrap();
    assert_eq!(values(&storage, at(&topic, 0)).await, ["a", "b"]);
    stop(storage).await;
    let storage = open(dir.path()).await;
    assert_eq!(
        (storage.health(), values(&storage, at(&topic, 0)).await),
        (Health::Ready, vec!["a".into(), "b".into()])
    );
}
