//! What is there after the process has ended and another one has opened the directory.

use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{
    Commit, DefinitionChange, Error, Expect, GroupOffset, GroupOffsetChange, Health, OpenOptions, PositionChange,
    Storage,
};
use bytes::Bytes;

use crate::support::*;

#[tokio::test]
async fn a_restart_keeps_everything_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let cluster = storage.cluster_id();
    let epoch = storage.writer_epoch();
    let topic = topic(&storage, "events", 2).await;
    produce(&storage, at(&topic, 0), &["a", "b"]).await.unwrap();
    produce(&storage, at(&topic, 1), &["c"]).await.unwrap();
    let offset = GroupOffset { offset: 1, leader_epoch: 0, metadata: "m".to_owned(), committed_at_us: 0 };
    let commit = Commit {
        definitions: vec![DefinitionChange {
            kind: "relation".to_owned(),
            name: "r".to_owned(),
            value: Some(Bytes::from_static(&[0, 200, 3])),
            holds: vec![topic.id],
            expect: Expect::Absent,
        }],
        group_offsets: vec![GroupOffsetChange {
            group: "g".to_owned(),
            partition: at(&topic, 0),
            offset: Some(offset),
        }],
        positions: vec![PositionChange {
            query: "q".to_owned(),
            value: Some(Bytes::from_static(b"p")),
            expect: Expect::Anything,
        }],
        ..Commit::default()
    };
    storage.commit(commit).await.unwrap();
    let (definitions, offsets) = (storage.definitions("relation"), storage.group_offsets(None));
    stop(storage).await;
    let storage = open(dir.path()).await;
    assert_eq!(storage.health(), Health::Ready);
    assert_eq!(storage.cluster_id(), cluster);
    assert!(storage.writer_epoch() > epoch);
    assert_eq!(storage.topic("events"), Some(topic.clone()));
    assert_eq!(values(&storage, at(&topic, 0)).await, ["a", "b"]);
    assert_eq!(values(&storage, at(&topic, 1)).await, ["c"]);
    assert_eq!(storage.definitions("relation"), definitions);
    assert_eq!(storage.group_offsets(None), offsets);
    assert_eq!(storage.position("q").unwrap(), "p");
    assert_eq!(produce(&storage, at(&topic, 0), &["d"]).await.unwrap().appended[0].base_offset, 2);
}

#[tokio::test]
async fn segments_roll_and_a_restart_reads_footers_and_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let small = |dir| OpenOptions {
        settings: StorageSettings { wal_segment_bytes: 1 << 16, wal_reserve_bytes: 1 << 16, ..Default::default() },
        ..options(dir)
    };
    let storage = Storage::open(small(dir.path())).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    let long = "x".repeat(5000);
    let id = storage.new_producer_id().await.unwrap();
    for sequence in 0..60 {
        let sent = sequenced(&batch(&[&format!("{sequence} {long}")]), id, 0, sequence);
        storage.commit(appends(at(&topic, 0), sent)).await.unwrap();
    }
    let before = storage.segments();
    assert!(before.len() > 3, "{before:?}");
    assert!(before.iter().rev().skip(1).all(|segment| segment.sealed));
    let written = values(&storage, at(&topic, 0)).await;
    stop(storage).await;
    let storage = Storage::open(small(dir.path())).await.unwrap();
    assert_eq!(storage.health(), Health::Ready);
    assert_eq!(values(&storage, at(&topic, 0)).await, written);
    let after = storage.segments();
    assert_eq!(after[0], before[0]);
    let retried = sequenced(&batch(&[&format!("58 {long}")]), id, 0, 58);
    let again = storage.commit(appends(at(&topic, 0), retried)).await.unwrap().appended[0];
    assert_eq!((again.base_offset, again.duplicate), (58, true));
    assert!(storage.new_producer_id().await.unwrap() > id);
}

#[tokio::test]
async fn commit_times_grow_strictly_over_restarts_even_if_the_clock_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = std::sync::Arc::new(aquifer_storage::clock::ManualClock::at_us(1_000_000));
    let with_clock = |dir| OpenOptions { clock: clock.clone(), ..options(dir) };
    let storage = Storage::open(with_clock(dir.path())).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    let first = produce(&storage, at(&topic, 0), &["a"]).await.unwrap().commit_time_us;
    stop(storage).await;
    clock.advance_us(-500_000);
    let storage = Storage::open(with_clock(dir.path())).await.unwrap();
    assert!(produce(&storage, at(&topic, 0), &["b"]).await.unwrap().commit_time_us > first);
}

#[tokio::test]
async fn a_second_opening_of_the_same_directory_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let refused = Storage::open(options(dir.path())).await.unwrap_err();
    assert!(matches!(refused, Error::Config { .. }));
    let text = refused.to_string();
    assert!(text.contains("in use by another process") && text.contains(&std::process::id().to_string()), "{text}");
    stop(storage).await;
    open(dir.path()).await;
}
