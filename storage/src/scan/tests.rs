//! What went into a cold object comes out of it: as rows, and as Kafka's bytes.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, future};
use object_store::PutPayload;
use object_store::path::Path;
use proptest::prelude::*;
use uuid::Uuid;

use crate::error::Error;
use crate::ids::{TopicId, TopicPartition};
use crate::manifest::edit::Edit;
use crate::manifest::model::{Cover, Entry, Object, TopicManifest, Wanted, groups_of};
use crate::object::bucket::Bucket;
use crate::record::batch::{BatchBuilder, BatchLimits, CheckedBatch, Compression, TimestampType};
use crate::record::columns::{RecordColumn, record_schema};
use crate::scan::plan::{ObjectRead, plan};
use crate::scan::request::Asked;
use crate::scan::time::{self, Sought, Within};
use crate::scan::{GroupFilter, GroupStatistics, cold, cold_fetch, parquet};
use crate::tier::cold::Cold;
use crate::tier::write::{GROUP_ROWS_MAX, ObjectWriter, key_filter};
use crate::view::{ScanRequest, TimedOffset};

const LIMITS: BatchLimits = BatchLimits { decompressed_bytes_max: 64 << 20 };
const TOPIC: TopicId = TopicId(Uuid::from_u128(77));

type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A record as a test knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    offset: i64,
    timestamp_ms: i64,
    timestamp_type: TimestampType,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Headers,
}

fn at(partition: i32) -> TopicPartition {
    TopicPartition { topic: TOPIC, partition }
}

/// Records as batches: a new one at every change of timestamp type, and at every log append time.
fn batches(records: &[Sent], compression: Compression) -> Vec<CheckedBatch> {
    let mut done = Vec::new();
    let mut rest = records;
    while let Some(first) = rest.first() {
        let same = |next: &&Sent| {
            next.timestamp_type == first.timestamp_type
                && (first.timestamp_type == TimestampType::CreateTime || next.timestamp_ms == first.timestamp_ms)
        };
        let length = rest.iter().take(50).take_while(same).count();
        let mut builder = BatchBuilder::new(first.offset, first.timestamp_type);
        for record in &rest[..length] {
            let headers: Vec<_> =
                record.headers.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
            builder.push_at(
                record.offset,
                record.timestamp_ms,
                record.key.as_deref(),
                record.value.as_deref(),
                &headers,
            );
        }
        done.push(builder.build(compression).unwrap());
        rest = &rest[length..];
    }
    done
}

fn records_of(bytes: &[Bytes]) -> Vec<Sent> {
    let mut found = Vec::new();
    for bytes in bytes {
        let batch = CheckedBatch::parse_stored(bytes.clone()).unwrap();
        for record in batch.records(LIMITS).unwrap().iter() {
            let record = record.unwrap();
            let headers = record.headers.iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)));
            found.push(Sent {
                offset: record.offset,
                timestamp_ms: record.timestamp_ms,
                timestamp_type: batch.header().timestamp_type(),
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers: headers.collect(),
            });
        }
    }
    found
}

/// Adds an object of these partitions' records to the cold part.
async fn tier(cold: &Cold, name: &str, partitions: &[(i32, &[Sent])]) {
    let mut writer = ObjectWriter::new(TOPIC.to_string(), LIMITS, None).unwrap();
    let mut covers = Vec::new();
    let manifest = cold.manifests.get(TOPIC);
    for (partition, records) in partitions {
        let end = records.last().unwrap().offset + 1;
        for batch in batches(records, Compression::Lz4) {
            writer.push(*partition, batch.header().base_offset * 1000, &batch, 0, end).unwrap();
        }
        covers.push(Cover { partition: *partition, start: manifest.tiered_end(*partition), end });
    }
    let finished = writer.finish().unwrap().unwrap();
    let object = Object {
        path: name.to_owned(),
        bytes: finished.bytes.len() as u64,
        footer_bytes: finished.footer_bytes,
        footer_crc: finished.footer_crc,
        chunk_crcs: finished.chunk_crcs,
        row_groups: finished.row_groups,
    };
    cold.bucket.put_new(&Path::from(name), PutPayload::from_bytes(finished.bytes)).await.unwrap();
    cold.publish(TOPIC, Edit::Add(Entry { covers, object: Some(object), lost: vec![] })).await.unwrap();
}

async fn fresh() -> Arc<Cold> {
    Arc::new(Cold::for_test(Bucket::for_test()).await)
}

async fn scan(
    cold: &Arc<Cold>,
    manifest: &Arc<TopicManifest>,
    partition: i32,
    columns: &[RecordColumn],
    wanted: Wanted,
    batch_rows: usize,
) -> Vec<RecordBatch> {
    let reads = cold.entries_of(manifest, partition, wanted);
    let reads = reads.try_filter_map(move |entry| future::ready(Ok(plan(&entry, partition, &wanted))));
    let request = ScanRequest { batch_rows, ..ScanRequest::all(columns.to_vec()) };
    rows(cold, &request, reads, wanted).await.unwrap()
}

/// What these reads give.
async fn rows(
    cold: &Arc<Cold>,
    request: &ScanRequest,
    reads: impl Stream<Item = Result<ObjectRead, Error>>,
    wanted: Wanted,
) -> Result<Vec<RecordBatch>, Error> {
    let asked = Arc::new(Asked::new(request, None)?);
    let rows = reads.and_then(|read| cold::open(cold, &asked, read, wanted)).try_flatten();
    rows.map_ok(|decoded| decoded.rows).try_collect().await
}

fn offsets(batches: &[RecordBatch]) -> Vec<i64> {
    let column = |batch: &RecordBatch| batch.column_by_name("_offset").unwrap().as_primitive::<Int64Type>().clone();
    batches.iter().flat_map(|batch| column(batch).values().to_vec()).collect()
}

fn plain(offset: i64) -> Sent {
    Sent {
        offset,
        timestamp_ms: 1000 + offset / 10,
        timestamp_type: TimestampType::CreateTime,
        key: Some(format!("k{}", offset % 7).into_bytes()),
        value: Some(format!("value {offset}").into_bytes()),
        headers: vec![],
    }
}

fn plains(range: std::ops::Range<i64>) -> Vec<Sent> {
    range.map(plain).collect()
}

#[tokio::test]
async fn row_groups_never_cross_a_partition_and_stay_small() {
    let cold = fresh().await;
    let rows = i64::try_from(GROUP_ROWS_MAX).unwrap();
    let large = Sent { value: Some(vec![7; 3 << 20]), ..plain(0) };
    let larges: Vec<_> = (0..4).map(|offset| Sent { offset, ..large.clone() }).collect();
    tier(&cold, "a.parquet", &[(0, &plains(0..rows + 5)), (2, &plains(0..3)), (3, &larges)]).await;
    let manifest = cold.manifests.get(TOPIC);
    let groups =
        |partition| groups_of(&manifest.tail[0], partition, 0, i64::MAX).map(|at| at.group.rows).collect::<Vec<_>>();
    assert_eq!(groups(0), [u32::try_from(rows).unwrap(), 5]);
    assert_eq!((groups(1), groups(2), groups(3)), (vec![], vec![3], vec![2, 2]));
    let group = groups_of(&manifest.tail[0], 0, 0, i64::MAX).nth(1).unwrap().group;
    assert_eq!((group.first_offset, group.last_offset), (rows, rows + 4));
    assert_eq!((group.min_timestamp_ms, group.max_timestamp_ms), (1000 + rows / 10, 1000 + (rows + 4) / 10));
}

#[tokio::test]
async fn a_scan_reads_only_what_was_asked_for_in_that_order() {
    let cold = fresh().await;
    tier(&cold, "a.parquet", &[(0, &plains(0..100)), (1, &plains(0..10))]).await;
    tier(&cold, "b.parquet", &[(0, &plains(100..250))]).await;
    let manifest = cold.manifests.get(TOPIC);
    let all = scan(&cold, &manifest, 0, &RecordColumn::ALL, Wanted::offsets(0, 1000), 64).await;
    assert_eq!(offsets(&all), (0..250).collect::<Vec<_>>());
    assert_eq!(all[0].schema().fields(), record_schema().fields());
    let columns = [RecordColumn::Value, RecordColumn::Offset];
    let some = scan(&cold, &manifest, 0, &columns, Wanted::offsets(95, 105), 64).await;
    assert_eq!(offsets(&some), (95..105).collect::<Vec<_>>());
    assert_eq!(some[0].schema().fields()[0].name(), "_value");
    assert_eq!(some[0].column(0).as_binary::<i32>().value(0), b"value 95");
    for (wanted, count) in [(Wanted::offsets(0, 250), 250), (Wanted::offsets(95, 105), 10)] {
        let counted = scan(&cold, &manifest, 0, &[], wanted, 64).await;
        assert_eq!(counted.iter().map(RecordBatch::num_rows).sum::<usize>(), count);
        assert!(counted.iter().all(|batch| batch.num_columns() == 0));
    }
}

#[tokio::test]
async fn a_fetch_gives_at_least_one_record_and_about_as_many_bytes_as_asked() {
    let cold = fresh().await;
    tier(&cold, "a.parquet", &[(0, &plains(0..1000))]).await;
    let one = records_of(&cold_fetch::fetch(&cold, at(0), 500, 1000, 1).await.unwrap());
    assert_eq!(one, [plain(500)]);
    let some = cold_fetch::fetch(&cold, at(0), 0, 1000, 4096).await.unwrap();
    let bytes: usize = some.iter().map(Bytes::len).sum();
    assert!((4096..4200).contains(&bytes), "{bytes}");
    let until_end = records_of(&cold_fetch::fetch(&cold, at(0), 990, 995, 1 << 20).await.unwrap());
    assert_eq!(until_end, plains(990..995));
    assert!(cold_fetch::fetch(&cold, at(0), 1000, 2000, 1).await.unwrap().is_empty());
    assert!(cold_fetch::fetch(&cold, at(1), 0, 2000, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_flipped_bit_in_an_object_is_named_and_never_served() {
    let cold = fresh().await;
    let mut records = plains(0..40);
    records[7].headers = vec![(b"a".to_vec(), Some(b"1".to_vec()))];
    tier(&cold, "a.parquet", &[(0, &records)]).await;
    let manifest = cold.manifests.get(TOPIC);
    let path = Path::from("a.parquet");
    let whole = cold.bucket.get(&path, 1 << 20).await.unwrap().unwrap();
    let sound = scan(&cold, &manifest, 0, &RecordColumn::ALL, Wanted::offsets(0, 40), 64).await;
    let mut unnoticed = 0;
    for at in 0..whole.len() {
        let damaged = Arc::new(Cold::for_test(Bucket::for_test()).await);
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1 << (at % 8);
        damaged.bucket.put_new(&path, PutPayload::from(bytes)).await.unwrap();
        let wanted = Wanted::offsets(0, 40);
        let reads = cold.entries_of(&manifest, 0, wanted);
        let reads = reads.try_filter_map(move |entry| future::ready(Ok(plan(&entry, 0, &wanted))));
        let request = ScanRequest { batch_rows: 64, ..ScanRequest::all(RecordColumn::ALL.to_vec()) };
        match rows(&damaged, &request, reads, wanted).await {
            Err(Error::Corrupt { place, .. }) => assert_eq!(place, "a.parquet"),
            Err(error) => panic!("byte {at}: {error}"),
            // Page indexes and bloom filters are for others; we do not read them.
            Ok(rows) => {
                assert_eq!(rows, sound, "byte {at}");
                unnoticed += 1;
            }
        }
    }
    assert!(unnoticed < whole.len() * 9 / 10, "{unnoticed} of {} bytes are not read", whole.len());
}

/// Wants records with one of these keys.
#[derive(Debug)]
struct WithKeys(Arc<[Bytes]>);

impl GroupFilter for WithKeys {
    fn may_hold(&self, _: &GroupStatistics<'_>) -> Option<Vec<bool>> {
        None
    }

    fn version(&self) -> u64 {
        0
    }

    fn row_columns(&self) -> Option<(Vec<RecordColumn>, Vec<usize>)> {
        None
    }

    fn rows(&self, _: &RecordBatch) -> Option<BooleanArray> {
        None
    }

    fn keys(&self) -> Option<Arc<[Bytes]>> {
        Some(Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn keys_leave_out_row_groups_and_a_damaged_filter_on_them_hides_nothing() {
    let cold = fresh().await;
    let records = plains(0..40);
    tier(&cold, "a.parquet", &[(0, &records), (1, &plains(0..3))]).await;
    let manifest = cold.manifests.get(TOPIC);
    let (path, wanted) = (Path::from("a.parquet"), Wanted::offsets(0, 40));
    let read = async |cold: &Arc<Cold>, keys: &[&'static str], partition: i32| {
        let keys = keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
        let request = ScanRequest { filter: Some(Arc::new(WithKeys(keys))), ..ScanRequest::all(vec![]) };
        let reads = cold.entries_of(&manifest, partition, wanted);
        let reads = reads.try_filter_map(move |entry| future::ready(Ok(plan(&entry, partition, &wanted))));
        let read = rows(cold, &request, reads, wanted).await;
        read.map(|rows| (rows.iter().map(RecordBatch::num_rows).sum::<usize>(), request.meter.counts()))
    };
    let (found, counts) = read(&cold, &["k6", "nobody"], 0).await.unwrap();
    assert_eq!((found, counts.row_groups_pruned), (40, 0));
    for (key, partition) in [("nobody", 0), ("k6", 1)] {
        let (found, counts) = read(&cold, &[key], partition).await.unwrap();
        assert_eq!((found, counts.row_groups_pruned, counts.row_groups_read), (0, 1, 0), "{key}");
    }

    let whole = cold.bucket.get(&path, 1 << 20).await.unwrap().unwrap();
    let Some(Ok(entry)) = cold.entries(&manifest).next().await else { panic!("an entry") };
    let footer = parquet::read_footer(&cold, entry.object.as_ref().unwrap()).await.unwrap();
    let (start, length) = key_filter(footer.metadata().row_group(0)).unwrap();
    for at in (start..start + length).step_by(5) {
        let mut bytes = whole.to_vec();
        bytes[at as usize] ^= 1 << (at % 8);
        let damaged = Arc::new(Cold::for_test(Bucket::for_test()).await);
        damaged.bucket.put_new(&path, PutPayload::from(bytes)).await.unwrap();
        let reads = cold.entries_of(&manifest, 0, wanted);
        let reads = reads.try_filter_map(move |entry| future::ready(Ok(plan(&entry, 0, &wanted))));
        let filter: Arc<dyn GroupFilter> = Arc::new(WithKeys([Bytes::from_static(b"k6")].into()));
        let request = ScanRequest { filter: Some(filter), ..ScanRequest::all(vec![]) };
        let refused = rows(&damaged, &request, reads, wanted).await;
        assert!(
            matches!(&refused, Err(Error::Corrupt { place, .. }) if place == "a.parquet"),
            "byte {at}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_time_is_found_exactly_in_offset_order() {
    let cold = fresh().await;
    let mut records = plains(0..100);
    // Producers' clocks differ: a late record with an early time, and an early one with a late time.
    records[20].timestamp_ms = 5000;
    records[60].timestamp_ms = 1;
    tier(&cold, "a.parquet", &[(0, &records)]).await;
    let find_sought = async |sought, end| {
        let manifest = cold.manifests.get(TOPIC);
        time::find_cold(&cold, &manifest, 0, Within { start: 0, end }, sought, None).await.unwrap()
    };
    let find = async |timestamp_ms, end| find_sought(Sought::From(timestamp_ms), end).await;
    let found = |offset, timestamp_ms| Some(TimedOffset { offset, timestamp_ms });
    assert_eq!(find(0, 100).await, found(0, 1000));
    assert_eq!(find(1001, 100).await, found(10, 1001));
    assert_eq!(find(1003, 100).await, found(20, 5000));
    assert_eq!(find(5001, 100).await, None);
    assert_eq!(find(1003, 20).await, None);
    assert_eq!(find_sought(Sought::Largest, 100).await, found(20, 5000));
    assert_eq!(find_sought(Sought::Largest, 20).await, found(10, 1001));
    assert_eq!(find_sought(Sought::Largest, 0).await, None);
}

#[tokio::test]
async fn the_next_row_group_is_read_before_it_is_asked_for_by_who_reads_in_order() {
    let cold = fresh().await;
    let rows = i64::try_from(GROUP_ROWS_MAX).unwrap();
    tier(&cold, "a.parquet", &[(0, &plains(0..3 * rows))]).await;
    let gets = || cold.bucket.meter().requests()[0].requests;
    // Somewhere in the middle: nobody knows what comes next.
    cold_fetch::fetch(&cold, at(0), 7, 3 * rows, 1000).await.unwrap();
    let footer_and_group = gets();
    let mut offset = rows;
    let first = records_of(&cold_fetch::fetch(&cold, at(0), offset, 3 * rows, 1000).await.unwrap());
    offset += i64::try_from(first.len()).unwrap();
    // The second group, and the third ahead of time; one request each.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while gets() < footer_and_group + 2 {
        assert!(std::time::Instant::now() < deadline, "the third row group is read ahead of time");
        tokio::task::yield_now().await;
    }
    let mut read = first.len();
    while offset < 3 * rows {
        let records = records_of(&cold_fetch::fetch(&cold, at(0), offset, 3 * rows, 100_000).await.unwrap());
        assert_eq!(records[0].offset, offset);
        offset += i64::try_from(records.len()).unwrap();
        read += records.len();
    }
    assert_eq!((read, gets()), (usize::try_from(2 * rows).unwrap(), footer_and_group + 2));
}

#[tokio::test]
async fn a_row_group_that_many_want_at_once_is_read_once() {
    let cold = fresh().await;
    tier(&cold, "a.parquet", &[(0, &plains(0..1000))]).await;
    let fetches = (0..20).map(|offset| cold_fetch::fetch(&cold, at(0), offset * 7, 1000, 500));
    for fetched in futures::future::join_all(fetches).await {
        assert!(!fetched.unwrap().is_empty());
    }
    assert!(cold.bucket.meter().requests()[0].requests <= 2, "footer and row group");
}

fn bytes_or_null() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..20))
}

/// Step from the offset before, timestamp, whether the log set it, key, value, headers.
type AnySent = (i64, i64, bool, Option<Vec<u8>>, Option<Vec<u8>>, Headers);

fn sent() -> impl Strategy<Value = AnySent> {
    let header_key = prop::collection::vec(prop::sample::select(vec![b'a', b'b', 0xff]), 0..2);
    let headers = prop::collection::vec((header_key, bytes_or_null()), 0..4);
    (1i64..4, 0i64..1 << 42, any::<bool>(), bytes_or_null(), bytes_or_null(), headers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Keys, values, headers with order and duplicates, null and empty, offsets with gaps, timestamps of both types.
    #[test]
    fn bytes_come_back_as_they_were_sent(sent in prop::collection::vec(sent(), 1..120), cut in 0usize..120, bytes_max in 1usize..3000) {
        let mut offset = -1;
        let records: Vec<Sent> = sent.into_iter().map(|(step, timestamp_ms, append, key, value, headers)| {
            offset += step;
            let timestamp_type = if append { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
            Sent { offset, timestamp_ms, timestamp_type, key, value, headers }
        }).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let cold = fresh().await;
            let (first, second) = records.split_at(cut.min(records.len()));
            for (name, part) in [("a", first), ("b", second)] {
                if !part.is_empty() {
                    tier(&cold, name, &[(3, part)]).await;
                }
            }
            let end = records.last().unwrap().offset + 1;
            let mut next = 0;
            let mut found = Vec::new();
            loop {
                let fetched = records_of(&cold_fetch::fetch(&cold, at(3), next, end, bytes_max).await.unwrap());
                let Some(last) = fetched.last() else { break };
                next = last.offset + 1;
                found.extend(fetched);
            }
            assert_eq!(found, records);
        });
    }
}
