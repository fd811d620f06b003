//! Offsets of consumer groups: how many there may be, and which of them go.

use aquifer_storage::{
    Commit, Error, GroupOffset, GroupOffsetChange, IdleOffset, OpenOptions, Result, Storage, TopicPartition,
    TransactionChange,
};

use crate::support::*;
use crate::transactions::{init, offset as pending_offset, send_offset};

fn limited(dir: &std::path::Path) -> OpenOptions {
    let mut options = options(dir);
    options.settings.offsets_bytes_max = 2_000;
    options
}

async fn commit(storage: &Storage, group: &str, partition: TopicPartition, metadata_bytes: usize) -> Result<()> {
    let metadata = "m".repeat(metadata_bytes);
    let offset = GroupOffset { offset: 1, leader_epoch: -1, metadata, committed_at_us: 0 };
    let change = GroupOffsetChange { group: group.to_owned(), partition, offset: Some(offset) };
    storage.commit(Commit { group_offsets: vec![change], ..Commit::default() }).await.map(drop)
}

async fn remove(storage: &Storage, group: &str, partition: TopicPartition) {
    let change = GroupOffsetChange { group: group.to_owned(), partition, offset: None };
    storage.commit(Commit { group_offsets: vec![change], ..Commit::default() }).await.unwrap();
}

fn is_limit(done: &Result<()>) -> bool {
    matches!(done, Err(Error::TooLarge { setting: "offsets.bytes_max", limit_bytes: 2_000, .. }))
}

#[tokio::test]
async fn all_offsets_together_are_limited_and_groups_that_are_there_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = Storage::open(limited(dir.path())).await.unwrap();
    let topic = topic(&storage, "t", 3).await;
    commit(&storage, "a", at(&topic, 0), 700).await.unwrap();
    commit(&storage, "b", at(&topic, 0), 700).await.unwrap();
    for _ in 0..2 {
        assert!(is_limit(&commit(&storage, "c", at(&topic, 0), 300).await));
        assert!(is_limit(&commit(&storage, "b", at(&topic, 1), 300).await));
        assert!(is_limit(&commit(&storage, "a", at(&topic, 0), 1_000).await), "more than it had");
        assert_eq!(storage.group_offsets(None).len(), 2, "a refused one leaves no trace");
        commit(&storage, "a", at(&topic, 0), 700).await.unwrap();
        // What was counted is counted again from the log.
        storage.close().await.unwrap();
        storage = Storage::open(limited(dir.path())).await.unwrap();
    }
    remove(&storage, "b", at(&topic, 0)).await;
    commit(&storage, "c", at(&topic, 0), 700).await.unwrap();
    storage.delete_topic(topic.id).await.unwrap();
    let other = crate::support::topic(&storage, "other", 1).await;
    commit(&storage, "d", at(&other, 0), 1_700).await.unwrap();
    storage.close().await.unwrap();
}

#[tokio::test]
async fn offsets_that_wait_for_a_transaction_count_once_and_its_end_is_never_refused() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(limited(dir.path())).await.unwrap();
    let topic = topic(&storage, "t", 20).await;
    let producer = init(&storage, "tx").await;
    let add = TransactionChange::AddOffsets { transactional_id: "tx".into(), producer, group: "g".into() };
    crate::transactions::step(&storage, add).await.unwrap();
    let mut sent = 0;
    let refused = loop {
        match send_offset(&storage, "tx", producer, at(&topic, sent), 7).await {
            Ok(()) => sent += 1,
            refused => break refused,
        }
    };
    assert!(sent > 5 && is_limit(&refused), "{sent}: {refused:?}");
    crate::transactions::end(&storage, "tx", producer, true).await.unwrap();
    assert_eq!(storage.group_offsets(Some("g")).len(), usize::try_from(sent).unwrap());
    assert!(is_limit(&commit(&storage, "h", at(&topic, 0), 300).await), "they count on");
    storage.close().await.unwrap();
}

#[tokio::test]
async fn idle_offsets_go_as_they_were_found_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let topic = topic(&storage, "t", 3).await;
    for partition in 0..3 {
        commit(&storage, "g", at(&topic, partition), 10).await.unwrap();
    }
    commit(&storage, "waits", at(&topic, 0), 10).await.unwrap();
    let found = |group: &str| storage.idle_offsets(group, i64::MAX);
    assert_eq!(storage.idle_offsets("g", 0), Vec::<IdleOffset>::new());
    let (of_g, of_waits) = (found("g"), found("waits"));
    assert_eq!((of_g.len(), of_waits.len()), (3, 1));

    commit(&storage, "g", at(&topic, 1), 10).await.unwrap();
    let producer = init(&storage, "tx").await;
    let add = TransactionChange::AddOffsets { transactional_id: "tx".into(), producer, group: "waits".into() };
    crate::transactions::step(&storage, add).await.unwrap();
    let offsets = vec![(at(&topic, 1), pending_offset(7))];
    let (transactional_id, group) = ("tx".to_owned(), "waits".to_owned());
    let pending = TransactionChange::CommitOffsets { transactional_id, producer, group, offsets };
    crate::transactions::step(&storage, pending).await.unwrap();

    storage.remove_idle_offsets(of_g.into_iter().chain(of_waits).collect()).await.unwrap();
    let left: Vec<_> = storage.group_offsets(None).into_iter().map(|(group, at, _)| (group, at.partition)).collect();
    assert_eq!(left, [("g".to_owned(), 1), ("waits".to_owned(), 0)]);
    storage.remove_idle_offsets(found("g")).await.unwrap();
    assert!(!storage.has_group_offsets("g"));
    let left: Vec<_> = storage.groups_with_offsets().into_iter().collect();
    assert_eq!(left, ["waits"]);
    storage.close().await.unwrap();
    let storage = open(dir.path()).await;
    assert!(!storage.has_group_offsets("g"), "for ever");
    storage.close().await.unwrap();
}
