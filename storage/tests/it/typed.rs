//! Declared columns come typed out of objects, decoded out of older ones and out of the log: the same rows every way.

mod hot;

use std::ops::Range;
use std::sync::Arc;

use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use aquifer_storage::record::columns::{RecordColumn, record_schema};
use aquifer_storage::record::format::{ColumnRole, ColumnType, DeclaredColumn, Decoded, Decoder, Format, RecordFormat};
use aquifer_storage::{
    Append, Commit, DeclaredColumns, DeclaredScan, ScanCounts, ScanMeter, ScanRequest, Snapshot, Storage, Topic,
    TopicId, TopicPartition,
};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use futures::TryStreamExt;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::records::{close, forgetful_topic, open_tiered, snapshot};
use crate::support::at;

/// Formats tried.
const FORMATS: u64 = 60;
/// Records of each.
const RECORDS: usize = 120;
/// Records of one commit.
const BATCH_RECORDS: usize = 10;

/// What is declared over the one topic that is written to.
#[derive(Debug, Default)]
struct Declared(Mutex<Option<(TopicId, RecordFormat)>>);

impl DeclaredColumns for Declared {
    fn format_of(&self, topic: TopicId) -> Option<RecordFormat> {
        self.0.lock().as_ref().filter(|(of, _)| *of == topic).map(|(_, format)| format.clone())
    }
}

fn scalar(rng: &mut StdRng) -> ColumnType {
    let decimal = ColumnType::Decimal { precision: 9, scale: 2 };
    let (bits, numbers) = ([ColumnType::Boolean, ColumnType::SmallInt], [ColumnType::Int, ColumnType::BigInt]);
    let floats = [ColumnType::Real, ColumnType::Double, decimal, ColumnType::Text, ColumnType::Bytes];
    let times = [ColumnType::Timestamp, ColumnType::TimestampTz, ColumnType::Date, ColumnType::Time];
    let texts = [ColumnType::Uuid, ColumnType::Json];
    let all = [&bits[..], &numbers, &floats, &times, &texts].concat();
    all.choose(rng).unwrap().clone()
}

fn kind(rng: &mut StdRng, depth: u32) -> ColumnType {
    match rng.random_range(0..if depth == 0 { 1 } else { 6 }) {
        3 => ColumnType::Array(Box::new(kind(rng, depth - 1))),
        4 => ColumnType::Map(Box::new(kind(rng, depth - 1))),
        5 => ColumnType::Struct(vec![("a".to_owned(), kind(rng, depth - 1)), ("b b".to_owned(), scalar(rng))]),
        _ => scalar(rng),
    }
}

fn column(name: &str, kind: ColumnType, role: ColumnRole) -> DeclaredColumn {
    DeclaredColumn { name: name.to_owned(), field: name.to_owned(), kind, role, not_null: false }
}

fn headers() -> ColumnType {
    let fields = [("key", ColumnType::Text), ("value", ColumnType::Bytes)];
    let fields = fields.map(|(name, kind)| (name.to_owned(), kind));
    ColumnType::Array(Box::new(ColumnType::Struct(fields.to_vec())))
}

fn format(rng: &mut StdRng) -> RecordFormat {
    let mut columns: Vec<_> = (0..rng.random_range(1..5))
        // One name begins with another one.
        .map(|number| column(["n", "n: n", "Größe", "x.y"][number], kind(rng, 2), ColumnRole::Value))
        .collect();
    if rng.random_bool(0.3) {
        columns.push(column("head", headers(), ColumnRole::Headers));
    }
    let keys = [ColumnType::Text, ColumnType::Int, ColumnType::BigInt, ColumnType::Double, ColumnType::Bytes];
    let key_format = *[Format::Kafka, Format::Json, Format::None].choose(rng).unwrap();
    if key_format != Format::None {
        let kind = keys.choose(rng).unwrap().clone();
        columns.insert(rng.random_range(0..=columns.len()), column("id", kind, ColumnRole::Key));
    }
    let tombstones = key_format != Format::None && rng.random_bool(0.4);
    RecordFormat { columns, key_format, value_format: Format::Json, tombstones }
}

/// JSON of a type, mostly.
fn json(rng: &mut StdRng, kind: &ColumnType) -> String {
    let odd = ["null", "true", "\"many\"", "-7", "1e400", "[1]", "{\"a\": 2}", "\"\"", "0.5"];
    if rng.random_bool(0.06) {
        return (*odd.choose(rng).unwrap()).to_owned();
    }
    let number = rng.random_range(-20_000..20_000_i64);
    match kind {
        ColumnType::Boolean => rng.random_bool(0.5).to_string(),
        ColumnType::SmallInt | ColumnType::Int | ColumnType::BigInt => number.to_string(),
        ColumnType::Real | ColumnType::Double => format!("{}.{}", number, rng.random_range(0..1000)),
        ColumnType::Decimal { .. } => format!("{number}.{:02}", rng.random_range(0..100)),
        ColumnType::Text | ColumnType::Varchar(_) => {
            format!("\"{}\"", ["", "ü\\n\\\"x\\\"", "plain", "\\u0000"].choose(rng).unwrap())
        }
        ColumnType::Bytes => format!("\"{}\"", ["", "AAEC", "/+8="].choose(rng).unwrap()),
        ColumnType::Timestamp | ColumnType::TimestampTz => match rng.random_bool(0.5) {
            true => (number * 1_000_003).to_string(),
            false => format!("\"2024-02-{:02}T10:00:00.123456Z\"", rng.random_range(1..29)),
        },
        ColumnType::Date => format!("\"1969-12-{:02}\"", rng.random_range(1..32)),
        ColumnType::Time => format!("\"{:02}:59:58\"", rng.random_range(0..24)),
        ColumnType::Uuid => format!("\"67E55044-10B1-426F-9247-BB680E5FE0{:02}\"", rng.random_range(10..99)),
        ColumnType::Json => format!("{{ \"k\" : [ {number}, null ,\"v\" ] }}"),
        ColumnType::Array(item) => {
            let items: Vec<_> = (0..rng.random_range(0..4)).map(|_| json(rng, item)).collect();
            format!("[{}]", items.join(","))
        }
        ColumnType::Map(value) => {
            let entries: Vec<_> =
                (0..rng.random_range(0..3)).map(|at| format!("\"k{at}\":{}", json(rng, value))).collect();
            format!("{{{}}}", entries.join(","))
        }
        ColumnType::Struct(fields) => object(rng, fields.iter().map(|(name, kind)| (name.as_str(), kind))),
    }
}

fn object<'a>(rng: &mut StdRng, fields: impl Iterator<Item = (&'a str, &'a ColumnType)>) -> String {
    let mut written = Vec::new();
    for (name, kind) in fields {
        if rng.random_bool(0.9) {
            written.push(format!("\"{name}\":{}", json(rng, kind)));
        }
    }
    format!("{{{}}}", written.join(","))
}

fn key(rng: &mut StdRng, format: &RecordFormat) -> Option<Vec<u8>> {
    let column = format.columns.iter().find(|column| column.role == ColumnRole::Key);
    let number = rng.random_range(-9..9_i32);
    match (format.key_format, column) {
        _ if rng.random_bool(0.05) => None,
        (Format::Json, Some(column)) => Some(object(rng, [(column.field.as_str(), &column.kind)].into_iter()).into()),
        (Format::Kafka, Some(column)) => Some(match column.kind {
            ColumnType::Int => number.to_be_bytes().to_vec(),
            ColumnType::BigInt => i64::from(number).to_be_bytes().to_vec(),
            ColumnType::Double => f64::from(number).to_be_bytes().to_vec(),
            // The last one is no UTF-8: as a table's key it is NULL, as a stream's text an error.
            _ => [&b"a"[..], b"", "ü".as_bytes(), &[0xff]].choose(rng).unwrap().to_vec(),
        }),
        _ => Some(b"any".to_vec()),
    }
}

async fn produce(storage: &Storage, topic: &Topic, format: &RecordFormat, rng: &mut StdRng, records: usize) {
    for start in (0..records).step_by(BATCH_RECORDS) {
        produce_batch(storage, topic, format, rng, start..records.min(start + BATCH_RECORDS)).await;
    }
}

async fn produce_batch(storage: &Storage, topic: &Topic, format: &RecordFormat, rng: &mut StdRng, range: Range<usize>) {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    for number in range {
        let (key, values) = (key(rng, format), format.columns.iter().filter(|column| column.role == ColumnRole::Value));
        let value = match rng.random_range(0..30) {
            0 => None,
            1 => Some("no json".to_owned()),
            _ => Some(object(rng, values.map(|column| (column.field.as_str(), &column.kind)))),
        };
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            if rng.random_bool(0.3) { vec![(b"h", Some(b"\xfe")), (b"h", None)] } else { vec![] };
        builder.push(1_000 + number as i64, key.as_deref(), value.as_deref().map(str::as_bytes), &headers);
    }
    let batch = builder.build(Compression::None).unwrap();
    let appends = vec![Append { topic: topic.id, partition: 0, batch }];
    storage.commit(Commit { appends, ..Commit::default() }).await.unwrap();
}

/// What a scan of declared columns gives, and how it read.
async fn typed(
    snapshot: &Snapshot,
    place: TopicPartition,
    request: ScanRequest,
    declared: DeclaredScan,
) -> (Decoded, ScanCounts) {
    let request = ScanRequest { meter: Arc::<ScanMeter>::default(), ..request };
    let parts = snapshot.survey(place, &request, None).await.unwrap();
    let found: Vec<Decoded> = snapshot.read(parts, &request, Some(declared)).unwrap().try_collect().await.unwrap();
    (join(found), request.meter.counts())
}

/// What the decoder gives of the same records.
async fn decoded(snapshot: &Snapshot, place: TopicPartition, request: ScanRequest, declared: &DeclaredScan) -> Decoded {
    let raw = ScanRequest { columns: RecordColumn::ALL.to_vec(), ..request.clone() };
    let carried: Vec<usize> = request.columns.iter().map(|column| *column as usize).collect();
    let mut decoder = Decoder::new(&declared.format, &record_schema(), &carried, &declared.wanted).unwrap();
    let batches: Vec<RecordBatch> = snapshot.scan(place, raw).unwrap().try_collect().await.unwrap();
    let empty = RecordBatch::new_empty(record_schema());
    join([empty].iter().chain(&batches).map(|batch| decoder.decode(batch).unwrap()).collect())
}

fn join(found: Vec<Decoded>) -> Decoded {
    let rows: Vec<_> = found.iter().map(|found| found.rows.clone()).filter(|rows| rows.num_rows() > 0).collect();
    let Some(schema) = found.first().map(|found| found.rows.schema()) else {
        return Decoded { rows: RecordBatch::new_empty(record_schema()), errors: vec![] };
    };
    let errors = found.into_iter().flat_map(|found| found.errors).collect();
    // Batches without columns have rows all the same.
    let rows = if schema.fields().is_empty() {
        let count = rows.iter().map(RecordBatch::num_rows).sum();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(schema, vec![], &options).unwrap()
    } else {
        concat_batches(&schema, &rows).unwrap()
    };
    Decoded { rows, errors }
}

fn declare(storage: &Storage, topic: &Topic, format: Option<&RecordFormat>, declared: &Arc<Declared>) {
    *declared.0.lock() = format.map(|format| (topic.id, format.clone()));
    let by: Arc<dyn DeclaredColumns> = Arc::clone(declared) as _;
    storage.declare_columns(Arc::downgrade(&by));
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_columns_are_what_the_decoder_gives_of_the_raw_ones() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let declared = Arc::<Declared>::default();
    let (mut typed_rows, mut errors) = (0, 0);
    for seed in 0..FORMATS {
        let rng = &mut StdRng::seed_from_u64(seed);
        let format = format(rng);
        let topic = forgetful_topic(&storage, &format!("t{seed}"), 1).await;
        declare(&storage, &topic, Some(&format), &declared);
        produce(&storage, &topic, &format, rng, RECORDS).await;
        storage.checkpoint().await.unwrap();
        let snapshot = snapshot(&storage, &topic);
        for round in 0..4 {
            let wanted = (0..format.columns.len()).filter(|_| round == 0 || rng.random_bool(0.5)).collect();
            let columns = RecordColumn::ALL.into_iter().filter(|_| round == 1 || rng.random_bool(0.3)).collect();
            let (start, end) = (rng.random_range(0..40), rng.random_range(60..200));
            let request = ScanRequest {
                offset_start: if round < 2 { 0 } else { start },
                offset_end: if round < 2 { i64::MAX } else { end },
                batch_rows: [8192, 7][round % 2],
                ..ScanRequest::all(columns)
            };
            let asked = DeclaredScan { format: Arc::new(format.clone()), wanted };
            let expected = decoded(&snapshot, at(&topic, 0), request.clone(), &asked).await;
            let (found, counts) = typed(&snapshot, at(&topic, 0), request, asked).await;
            assert_eq!(found.errors, expected.errors, "seed {seed}, round {round}: {format:?}");
            if found.rows.num_rows() + expected.rows.num_rows() > 0 {
                assert_eq!(found.rows, expected.rows, "seed {seed}, round {round}: {format:?}");
            }
            assert_eq!((counts.decoded_rows, counts.hot_rows), (0, 0), "seed {seed}: {format:?}");
            typed_rows += counts.typed_rows;
            errors += found.errors.len();
        }
    }
    assert!(typed_rows > FORMATS * 100 && errors > 100, "{typed_rows} rows, {errors} errors");
    close(storage).await;
}

/// Columns as a later declaration has them.
fn wider(rng: &mut StdRng) -> (RecordFormat, RecordFormat) {
    let n = |kind| column("n", kind, ColumnRole::Value);
    let one = RecordFormat {
        columns: vec![n(ColumnType::Int)],
        key_format: Format::None,
        value_format: Format::Json,
        tombstones: false,
    };
    let columns = vec![n(ColumnType::BigInt), column("m", kind(rng, 1), ColumnRole::Value)];
    (one.clone(), RecordFormat { columns, ..one })
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_from_before_a_declaration_after_it_and_the_log_give_one_answer() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let declared = Arc::<Declared>::default();
    let rng = &mut StdRng::seed_from_u64(7);
    let (narrow, wide) = wider(rng);
    let topic = forgetful_topic(&storage, "t", 1).await;
    for format in [None, Some(&narrow), Some(&wide)] {
        declare(&storage, &topic, format, &declared);
        produce(&storage, &topic, &wide, rng, 100).await;
        storage.checkpoint().await.unwrap();
    }
    produce(&storage, &topic, &wide, rng, 100).await;
    let pinned = snapshot(&storage, &topic);
    let asked = DeclaredScan { format: Arc::new(wide.clone()), wanted: vec![1, 0] };
    let request = || ScanRequest::all(vec![RecordColumn::Offset]);
    let expected = decoded(&pinned, at(&topic, 0), request(), &asked).await;
    let (found, counts) = typed(&pinned, at(&topic, 0), request(), asked.clone()).await;
    assert_eq!((found.rows, &found.errors), (expected.rows, &expected.errors));
    assert_eq!((counts.decoded_rows, counts.hot_rows), (200, 100));
    assert!(counts.typed_rows > 50 && counts.typed_rows <= 100, "{counts:?}");
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_another_declaration_are_rewritten_typed_once() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let declared = Arc::<Declared>::default();
    let rng = &mut StdRng::seed_from_u64(8);
    let (narrow, wide) = wider(rng);
    for (name, before) in [("plain", None), ("narrow", Some(&narrow))] {
        let topic = forgetful_topic(&storage, name, 1).await;
        declare(&storage, &topic, before, &declared);
        produce(&storage, &topic, &wide, rng, 100).await;
        storage.checkpoint().await.unwrap();
        declare(&storage, &topic, Some(&wide), &declared);
        let asked = DeclaredScan { format: Arc::new(wide.clone()), wanted: vec![0, 1] };
        let scan = async |asked: &DeclaredScan| {
            typed(&snapshot(&storage, &topic), at(&topic, 0), ScanRequest::all(vec![]), asked.clone()).await
        };
        let (expected, counts) = scan(&asked).await;
        assert_eq!((counts.typed_rows, counts.decoded_rows), (0, 100), "{name}");
        let report = storage.vacuum(Some(topic.id)).await.unwrap();
        assert_eq!((report.objects_merged, report.objects_written), (1, 1), "{name}");
        let (found, counts) = scan(&asked).await;
        assert_eq!(counts.decoded_rows, 0, "{name}");
        assert_eq!((found.rows, found.errors), (expected.rows, expected.errors), "{name}");
        let report = storage.vacuum(Some(topic.id)).await.unwrap();
        assert_eq!(report.objects_merged, 0, "{name}: it has its columns");
    }
    close(storage).await;
}
