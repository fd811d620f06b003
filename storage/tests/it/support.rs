//! A storage in a fresh directory, and short words for what every test does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aquifer_storage::clock::{SystemClock, SystemRandom};
use aquifer_storage::record::batch::{BatchBuilder, BatchLimits, CheckedBatch, Compression, TimestampType};
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{
    Append, Commit, Durability, FetchRequest, Isolation, OpenOptions, Receipt, Result, Storage, Topic, TopicConfig,
    TopicPartition,
};
use bytes::Bytes;

pub(crate) const LIMITS: BatchLimits = BatchLimits { decompressed_bytes_max: 1 << 24 };

pub(crate) fn options(dir: &Path) -> OpenOptions {
    OpenOptions {
        data_dir: dir.to_owned(),
        object_store_url: Some("memory:".to_owned()),
        object_store: Default::default(),
        settings: StorageSettings { wal_segment_bytes: 1 << 20, wal_reserve_bytes: 1 << 16, ..Default::default() },
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    }
}

pub(crate) async fn open(dir: &Path) -> Storage {
    Storage::open(options(dir)).await.unwrap()
}

/// Ends a storage so that its directory can be opened again. One whose disk has failed says so, which is no news.
pub(crate) async fn stop(storage: Storage) {
    let _ = storage.close().await;
}

pub(crate) async fn topic(storage: &Storage, name: &str, partitions: i32) -> Arc<Topic> {
    storage.create_topic(name, Some(partitions), TopicConfig::default()).await.unwrap()
}

pub(crate) fn at(topic: &Topic, partition: i32) -> TopicPartition {
    TopicPartition { topic: topic.id, partition }
}

/// One batch with these values.
pub(crate) fn batch(values: &[&str]) -> CheckedBatch {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    for (index, value) in values.iter().enumerate() {
        builder.push(1000 + index as i64, Some(b"k"), Some(value.as_bytes()), &[]);
    }
    builder.build(Compression::None).unwrap()
}

/// The batch with the numbers of an idempotent producer in its header.
pub(crate) fn sequenced(batch: &CheckedBatch, producer_id: i64, epoch: i16, sequence: i32) -> CheckedBatch {
    let mut bytes = batch.bytes().to_vec();
    bytes[43..51].copy_from_slice(&producer_id.to_be_bytes());
    bytes[51..53].copy_from_slice(&epoch.to_be_bytes());
    bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
    let crc = crc_fast::crc32_iscsi(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    CheckedBatch::parse_stored(Bytes::from(bytes)).unwrap()
}

/// A fetch of everything, of open and aborted transactions too.
pub(crate) fn fetch_of(partition: TopicPartition, offset: i64, bytes_max: usize) -> FetchRequest {
    FetchRequest { partition, offset, bytes_max, isolation: Isolation::ReadUncommitted }
}

pub(crate) fn appends(partition: TopicPartition, batch: CheckedBatch) -> Commit {
    let append = Append { topic: partition.topic, partition: partition.partition, batch };
    Commit { appends: vec![append], ..Commit::default() }
}

pub(crate) async fn produce(storage: &Storage, partition: TopicPartition, values: &[&str]) -> Result<Receipt> {
    storage.commit(appends(partition, batch(values))).await
}

pub(crate) async fn produce_unsynced(storage: &Storage, partition: TopicPartition, values: &[&str]) -> Result<Receipt> {
    let commit = Commit { durability: Durability::Written, ..appends(partition, batch(values)) };
    storage.commit(commit).await
}

/// All values from an offset on, with their offsets.
pub(crate) async fn read(storage: &Storage, partition: TopicPartition, from: i64) -> Result<Vec<(i64, String)>> {
    let mut rows = Vec::new();
    let mut offset = from;
    loop {
        let fetched = storage.fetch(fetch_of(partition, offset, 1 << 16)).await?;
        if fetched.batches.is_empty() {
            return Ok(rows);
        }
        for bytes in fetched.batches {
            let batch = CheckedBatch::parse_stored(bytes).unwrap();
            for record in batch.records(LIMITS).unwrap().iter() {
                let record = record.unwrap();
                if record.offset >= offset {
                    rows.push((record.offset, String::from_utf8_lossy(record.value.unwrap()).into_owned()));
                }
            }
            offset = batch.header().last_offset() + 1;
        }
    }
}

pub(crate) async fn values(storage: &Storage, partition: TopicPartition) -> Vec<String> {
    let rows = read(storage, partition, 0).await.unwrap();
    for (index, (offset, _)) in rows.iter().enumerate() {
        assert_eq!(*offset, index as i64, "offsets are dense");
    }
    rows.into_iter().map(|(_, value)| value).collect()
}

/// Waits for a condition, with a deadline.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
