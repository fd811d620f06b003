//! Records with everything a producer may set, and ways to put them into a storage and get them out again as bytes or
//! as rows.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use aquifer_storage::clock::{SystemClock, SystemRandom};
use aquifer_storage::record::batch::{BatchBuilder, CheckedBatch, Compression, TimestampType};
use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{
    Append, Commit, OpenOptions, Result, ScanRequest, Snapshot, Storage, Topic, TopicConfig, TopicPartition,
};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int8Type, Int32Type, Int64Type, TimestampMillisecondType};
use bytes::Bytes;
use futures::TryStreamExt;

use crate::support::{LIMITS, fetch_of};

/// A record with everything a producer may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: i64,
    pub(crate) timestamp_type: i8,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// The record a test produces as the `offset`th of a partition: nulls, empty bytes and repeated headers among them.
pub(crate) fn record(partition: i32, offset: i64) -> Record {
    let key = match offset % 3 {
        0 => None,
        1 => Some(vec![]),
        _ => Some(format!("key {partition} {offset}").into_bytes()),
    };
    // Digits that compress badly, so that a small test fills several segments.
    let noise = (0..4).fold(String::new(), |noise, round| {
        let seed = offset.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(round).wrapping_mul(0x1405_7b7e_f767_814f);
        format!("{noise}{seed:016x}")
    });
    let value = (offset % 5 != 4).then(|| format!("value {partition} {offset} {noise}").into_bytes());
    let headers = match offset % 4 {
        3 => vec![(b"a".to_vec(), Some(b"1".to_vec())), (b"a".to_vec(), None), (vec![], Some(vec![]))],
        _ => vec![],
    };
    Record { offset, timestamp_ms: 1_000_000 + offset, timestamp_type: 0, key, value, headers }
}

/// The records of a range of offsets.
pub(crate) fn records(partition: i32, range: std::ops::Range<i64>) -> Vec<Record> {
    range.map(|offset| record(partition, offset)).collect()
}

/// Settings with which a small test uses several segments and a checkpoint several runs.
pub(crate) fn small_settings() -> StorageSettings {
    StorageSettings {
        wal_segment_bytes: 64 << 10,
        wal_commit_bytes_max: 32 << 10,
        tier_run_bytes_max: 64 << 10,
        ..StorageSettings::default()
    }
}

/// Options for a storage in `data_dir` with the machine's clock.
pub(crate) fn tiered_options(data_dir: &Path, settings: StorageSettings) -> OpenOptions {
    OpenOptions {
        data_dir: data_dir.to_path_buf(),
        object_store_url: None,
        object_store: Default::default(),
        settings,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    }
}

/// Opens a storage in `data_dir` with small settings, its objects in a folder below.
pub(crate) async fn open_tiered(data_dir: &Path) -> Storage {
    Storage::open(tiered_options(data_dir, small_settings())).await.expect("storage opens")
}

/// Closes a storage and lets go of its directory.
pub(crate) async fn close(storage: Storage) {
    storage.close().await.expect("storage closes");
}

/// A topic of which the log forgets everything as soon as it is tiered.
pub(crate) async fn forgetful_topic(storage: &Storage, name: &str, partitions: i32) -> Arc<Topic> {
    let config = TopicConfig { local_retention_ms: Some(0), ..TopicConfig::default() };
    storage.create_topic(name, Some(partitions), config).await.expect("topic is made")
}

pub(crate) fn batch(records: &[Record]) -> CheckedBatch {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    for record in records {
        let headers: Vec<_> = record.headers.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        builder.push(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    builder.build(Compression::Lz4).expect("a batch with records")
}

/// Produces the test's records of a range of offsets, `batch_records` to a commit; the range must follow what is there.
pub(crate) async fn produce(
    storage: &Storage,
    topic: &Topic,
    partition: i32,
    range: std::ops::Range<i64>,
    batch_records: usize,
) {
    for chunk in records(partition, range).chunks(batch_records) {
        let append = Append { topic: topic.id, partition, batch: batch(chunk) };
        let receipt = storage.commit(Commit { appends: vec![append], ..Commit::default() }).await.expect("commit");
        assert_eq!(receipt.appended[0].base_offset, chunk[0].offset);
    }
}

/// Everything a Kafka consumer gets of a partition from `offset` on.
pub(crate) async fn consume(
    storage: &Storage,
    partition: TopicPartition,
    offset: i64,
    bytes_max: usize,
) -> Vec<Record> {
    let mut found: Vec<Record> = Vec::new();
    let mut next = offset;
    loop {
        let request = fetch_of(partition, next, bytes_max);
        let fetched = storage.fetch(request).await.expect("fetch");
        // A fetch may begin before the offset asked for: batches come whole.
        let new: Vec<_> = parse(&fetched.batches).into_iter().filter(|record| record.offset >= next).collect();
        let Some(last) = new.last() else { return found };
        next = last.offset + 1;
        found.extend(new);
    }
}

fn parse(batches: &[Bytes]) -> Vec<Record> {
    let mut found = Vec::new();
    for bytes in batches {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let length = u32::from_be_bytes(rest[8..12].try_into().expect("four bytes")) as usize + 12;
            let batch = CheckedBatch::parse_stored(rest.split_to(length)).expect("a whole batch");
            for view in batch.records(LIMITS).expect("records").iter() {
                let view = view.expect("a record");
                let headers = view.headers.iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)));
                found.push(Record {
                    offset: view.offset,
                    timestamp_ms: view.timestamp_ms,
                    timestamp_type: batch.header().timestamp_type() as i8,
                    key: view.key.map(<[u8]>::to_vec),
                    value: view.value.map(<[u8]>::to_vec),
                    headers: headers.collect(),
                });
            }
        }
    }
    found
}

/// A snapshot of everything of one topic.
pub(crate) fn snapshot(storage: &Storage, topic: &Topic) -> Snapshot {
    storage.snapshot(&[topic.id], &HashMap::new()).expect("snapshot")
}

/// The rows of a scan as records; checks that they are of the partition.
pub(crate) async fn scan(snapshot: &Snapshot, partition: TopicPartition, request: ScanRequest) -> Result<Vec<Record>> {
    let batches: Vec<RecordBatch> = snapshot.scan(partition, request)?.try_collect().await?;
    Ok(batches.iter().flat_map(|batch| rows(batch, partition.partition)).collect())
}

/// All rows of a partition of a snapshot.
pub(crate) async fn scan_all(snapshot: &Snapshot, partition: TopicPartition) -> Vec<Record> {
    scan(snapshot, partition, ScanRequest::all(RecordColumn::ALL.to_vec())).await.expect("scan")
}

fn rows(batch: &RecordBatch, partition: i32) -> Vec<Record> {
    let column = |name: &str| batch.column_by_name(name).expect("the column");
    let bytes = |name: &str, row: usize| {
        let values = column(name).as_binary::<i32>();
        values.is_valid(row).then(|| values.value(row).to_vec())
    };
    let headers = |row: usize| {
        let pairs = column("_headers").as_list::<i32>().value(row);
        let pairs = pairs.as_struct();
        let (keys, values) = (pairs.column(0).as_binary::<i32>(), pairs.column(1).as_binary::<i32>());
        let value = |at: usize| values.is_valid(at).then(|| values.value(at).to_vec());
        (0..pairs.len()).map(|at| (keys.value(at).to_vec(), value(at))).collect()
    };
    let record = |row: usize| {
        assert_eq!(column("_partition").as_primitive::<Int32Type>().value(row), partition);
        Record {
            offset: column("_offset").as_primitive::<Int64Type>().value(row),
            timestamp_ms: column("_timestamp").as_primitive::<TimestampMillisecondType>().value(row),
            timestamp_type: column("_timestamp_type").as_primitive::<Int8Type>().value(row),
            key: bytes("_key", row),
            value: bytes("_value", row),
            headers: headers(row),
        }
    };
    (0..batch.num_rows()).map(record).collect()
}
