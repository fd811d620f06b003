//! The rules of reading and writing, one by one, and that one undoes the other.

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Int8Array, Int32Array, Int64Array, ListArray, StringArray, StructArray,
    TimestampMicrosecondArray, TimestampMillisecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::concat_batches;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::record::columns::{header_fields, record_schema};

type Row<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);
type HeaderList<'a> = &'a [(&'a [u8], Option<&'a [u8]>)];

/// A raw batch of partition 4 whose offsets begin at 100.
fn raw(rows: &[Row<'_>]) -> RecordBatch {
    raw_with_headers(rows, &vec![&[][..]; rows.len()])
}

fn raw_with_headers(rows: &[Row<'_>], headers: &[HeaderList<'_>]) -> RecordBatch {
    let count = rows.len();
    let flat: Vec<_> = headers.iter().flat_map(|list| list.iter()).collect();
    let header_columns: Vec<ArrayRef> = vec![
        Arc::new(BinaryArray::from_iter_values(flat.iter().map(|(key, _)| key))),
        Arc::new(BinaryArray::from_iter(flat.iter().map(|(_, value)| value.as_ref()))),
    ];
    let items = StructArray::new(header_fields(), header_columns, None);
    let DataType::List(item) = record_schema().field(7).data_type().clone() else { panic!("headers are a list") };
    let lengths = OffsetBuffer::from_lengths(headers.iter().map(|list| list.len()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![4; count])),
        Arc::new(Int64Array::from_iter_values(100..100 + count as i64)),
        Arc::new(TimestampMillisecondArray::from(vec![7; count]).with_timezone("UTC")),
        Arc::new(Int8Array::from(vec![0; count])),
        Arc::new(TimestampMicrosecondArray::from(vec![9; count]).with_timezone("UTC")),
        Arc::new(BinaryArray::from_iter(rows.iter().map(|(key, _)| *key))),
        Arc::new(BinaryArray::from_iter(rows.iter().map(|(_, value)| *value))),
        Arc::new(ListArray::new(item, lengths, Arc::new(items), None)),
    ];
    RecordBatch::try_new(record_schema(), columns).unwrap()
}

fn column(name: &str, kind: ColumnType, role: ColumnRole) -> DeclaredColumn {
    DeclaredColumn { name: name.to_lowercase(), field: name.to_owned(), kind, role, not_null: false }
}

fn stream(columns: Vec<DeclaredColumn>) -> RecordFormat {
    RecordFormat { columns, key_format: Format::Kafka, value_format: Format::Json, tombstones: false }
}

fn all(format: &RecordFormat) -> Vec<usize> {
    (0..format.columns.len()).collect()
}

fn decode(format: &RecordFormat, batch: &RecordBatch) -> Decoded {
    let wanted = all(format);
    Decoder::new(format, &record_schema(), &[], &wanted).unwrap().decode(batch).unwrap()
}

/// What one JSON value becomes in a column of `kind`: its text as Arrow shows it, or the error.
fn read(kind: ColumnType, json: &str) -> Result<Option<String>, String> {
    let format = stream(vec![column("x", kind, ColumnRole::Value)]);
    let value = format!("{{\"x\":{json}}}");
    let decoded = decode(&format, &raw(&[(None, Some(value.as_bytes()))]));
    if let Some(error) = decoded.errors.first() {
        assert_eq!((decoded.rows.num_rows(), decoded.errors.len()), (0, 1));
        assert_eq!((error.partition, error.offset, error.timestamp_ms), (4, 100, 7));
        return Err(format!("{}: {}", error.column.as_deref().unwrap_or("-"), error.error));
    }
    let array = decoded.rows.column(0);
    let shown = ArrayFormatter::try_new(array.as_ref(), &FormatOptions::default()).unwrap().value(0).to_string();
    Ok(array.is_valid(0).then_some(shown))
}

#[track_caller]
fn reads(kind: &ColumnType, json: &str, shown: &str) {
    assert_eq!(read(kind.clone(), json), Ok(Some(shown.to_owned())), "{kind} from {json}");
}

#[track_caller]
fn refuses(kind: &ColumnType, json: &str, word: &str) {
    let error = read(kind.clone(), json).expect_err(&format!("{kind} from {json}"));
    assert!(error.contains(word), "{kind} from {json}: {error}");
}

#[test]
fn a_missing_field_and_a_json_null_are_null() {
    let format = stream(vec![column("a", ColumnType::Int, ColumnRole::Value)]);
    let decoded = decode(&format, &raw(&[(None, Some(b"{}")), (None, Some(br#"{"a":null}"#))]));
    assert_eq!((decoded.rows.column(0).null_count(), decoded.errors.len()), (2, 0));
    for kind in [ColumnType::Text, ColumnType::Json, ColumnType::Array(Box::new(ColumnType::Int))] {
        assert_eq!(read(kind, "null"), Ok(None));
    }
}

#[test]
fn a_number_or_boolean_into_string_gives_its_text_as_written() {
    reads(&ColumnType::Text, "1.50", "1.50");
    reads(&ColumnType::Text, "-1E+2", "-1E+2");
    reads(&ColumnType::Text, "true", "true");
    reads(&ColumnType::Text, r#""a\n\u00e9\"""#, "a\né\"");
    refuses(&ColumnType::Text, "{}", "STRING was expected");
    refuses(&ColumnType::Text, "[1]", "STRING was expected");
    refuses(&ColumnType::Text, r#""\ud800""#, "x:");
}

#[test]
fn a_string_into_a_number_must_parse_whole() {
    reads(&ColumnType::Int, r#""42""#, "42");
    reads(&ColumnType::Double, r#""-2.5e3""#, "-2500.0");
    reads(&ColumnType::Decimal { precision: 4, scale: 2 }, r#""12.34""#, "12.34");
    for text in [r#""42 ""#, r#"" 42""#, r#""42x""#, r#""""#, r#""NaN""#, "true", "{}", "[]"] {
        refuses(&ColumnType::Int, text, "x: ");
        refuses(&ColumnType::Double, text, "x: ");
    }
}

#[test]
fn overflow_and_fractions_into_integers_are_errors() {
    reads(&ColumnType::SmallInt, "-32768", "-32768");
    reads(&ColumnType::BigInt, "9223372036854775807", "9223372036854775807");
    reads(&ColumnType::Int, "5.0", "5");
    refuses(&ColumnType::SmallInt, "32768", "out of range for SMALLINT");
    refuses(&ColumnType::Int, "2147483648", "out of range for INT");
    refuses(&ColumnType::BigInt, "1e30", "out of range for BIGINT");
    refuses(&ColumnType::Int, "1.5", "fraction");
    refuses(&ColumnType::Real, "1e39", "out of range for REAL");
    refuses(&ColumnType::Double, "1e309", "out of range for DOUBLE");
}

#[test]
fn booleans_are_true_and_false_alone() {
    reads(&ColumnType::Boolean, "true", "true");
    for json in ["1", r#""true""#, "[]"] {
        refuses(&ColumnType::Boolean, json, "BOOLEAN was expected");
    }
}

#[test]
fn decimals_are_exact_or_refused() {
    let money = ColumnType::Decimal { precision: 6, scale: 2 };
    reads(&money, "0.10", "0.10");
    reads(&money, "1e3", "1000.00");
    reads(&money, "-9999.99", "-9999.99");
    reads(&money, "1.230", "1.23");
    refuses(&money, "1.234", "fraction");
    refuses(&money, "10000", "out of range for DECIMAL(6, 2)");
    let widest = ColumnType::Decimal { precision: 38, scale: 0 };
    reads(&widest, &"9".repeat(38), &"9".repeat(38));
    refuses(&widest, &"9".repeat(39), "out of range");
}

#[test]
fn times_are_read_from_numbers_and_iso_text() {
    reads(&ColumnType::Timestamp, "1700000000123", "2023-11-14T22:13:20.123");
    reads(&ColumnType::Timestamp, r#""2023-11-14T22:13:20.123456Z""#, "2023-11-14T22:13:20.123456");
    reads(&ColumnType::Timestamp, r#""2023-11-15T00:13:20+02:00""#, "2023-11-14T22:13:20");
    reads(&ColumnType::Date, "19782", "2024-02-29");
    reads(&ColumnType::Date, r#""2024-02-29""#, "2024-02-29");
    reads(&ColumnType::Time, "36000000", "10:00:00");
    reads(&ColumnType::Time, r#""10:00:00.5""#, "10:00:00.500");
    refuses(&ColumnType::Timestamp, r#""yesterday""#, "TIMESTAMP was expected");
    refuses(&ColumnType::Timestamp, "true", "TIMESTAMP was expected");
    refuses(&ColumnType::Date, r#""2023-02-29""#, "DATE was expected");
    refuses(&ColumnType::Time, "86400000", "out of range for TIME");
}

#[test]
fn timestamps_with_time_zone_are_utc() {
    let format = stream(vec![column("at", ColumnType::TimestampTz, ColumnRole::Value)]);
    let decoded = decode(&format, &raw(&[(None, Some(br#"{"at":"1970-01-01T01:00:00.000002+01:00"}"#))]));
    let expected = TimestampMicrosecondArray::from(vec![2]).with_timezone("UTC");
    assert_eq!(decoded.rows.column(0).as_ref(), &expected as &dyn Array);
}

#[test]
fn bytes_are_base64_and_uuids_are_checked() {
    reads(&ColumnType::Bytes, r#""AQL/""#, "0102ff");
    reads(&ColumnType::Bytes, r#""AQ==""#, "01");
    reads(&ColumnType::Bytes, r#""AQ""#, "01");
    refuses(&ColumnType::Bytes, r#""*""#, "base64");
    refuses(&ColumnType::Bytes, "1", "BYTES was expected");
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    reads(&ColumnType::Uuid, &format!("\"{}\"", id.to_uppercase()), id);
    reads(&ColumnType::Uuid, &format!("\"{}\"", id.replace('-', "")), id);
    refuses(&ColumnType::Uuid, r#""67e5""#, "not a uuid");
    refuses(&ColumnType::Uuid, "5", "UUID was expected");
}

#[test]
fn jsonb_keeps_any_value_as_written_up_to_a_depth() {
    reads(&ColumnType::Json, r#"{ "b": 1.0, "a": [ null ] }"#, r#"{ "b": 1.0, "a": [ null ] }"#);
    reads(&ColumnType::Json, r#""text""#, r#""text""#);
    reads(&ColumnType::Json, "true", "true");
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    reads(&ColumnType::Json, &nested(128), &nested(128));
    refuses(&ColumnType::Json, &nested(129), "deeper");
    refuses(&ColumnType::Json, &nested(100_000), "deeper");
    refuses(&ColumnType::Int, &nested(100_000), "INT was expected");
}

#[test]
fn nested_types_follow_the_same_rules_inside() {
    let point = ColumnType::Struct(vec![("lat".into(), ColumnType::Double), ("Tag".into(), ColumnType::Text)]);
    reads(&point, r#"{"LAT": 1, "tag": 5, "more": []}"#, "{lat: 1.0, Tag: 5}");
    reads(&point, r#"{"lat": 1, "lat": 2}"#, "{lat: 2.0, Tag: }");
    refuses(&point, r#"{"lat": "north"}"#, "DOUBLE was expected");
    refuses(&point, "[1]", "a JSON object");
    let list = ColumnType::Array(Box::new(ColumnType::Array(Box::new(ColumnType::Int))));
    reads(&list, "[[1,null],[],null]", "[[1, ], [], ]");
    refuses(&list, "[[1],[1.5]]", "fraction");
    refuses(&list, "{}", "x:");
    let map = ColumnType::Map(Box::new(ColumnType::Int));
    reads(&map, r#"{"a": 1, "b": null, "a": 3}"#, "{a: 3, b: }");
    refuses(&map, r#"{"a": true}"#, "INT was expected");
    refuses(&map, "7", "x:");
}

#[test]
fn a_bad_record_is_left_out_and_reported_once_and_the_others_stay() {
    let format = stream(vec![
        column("k", ColumnType::Int, ColumnRole::Key),
        column("tags", ColumnType::Array(Box::new(ColumnType::Text)), ColumnRole::Value),
        column("userId", ColumnType::Int, ColumnRole::Value),
    ]);
    let five = 5i32.to_be_bytes();
    let batch = raw(&[
        (Some(&five), Some(br#"{"tags":["a","b"],"userId":1}"#)),
        (Some(&five), None),
        (Some(&five), Some(b"not json")),
        (Some(&five), Some(br#"{"tags":["c"],"userId":"x","USERID":2}"#)),
        (Some(b"abc"), Some(br#"{"userId":3}"#)),
        (None, Some(br#"{"USERID":4,"tags":["d"]}"#)),
        (Some(&five), Some(b"{\"tags\":[\"\xff\"]}")),
    ]);
    let decoded = Decoder::new(&format, &record_schema(), &[1], &[2, 1, 0]).unwrap().decode(&batch).unwrap();
    let noted: Vec<_> = decoded.errors.iter().map(|error| (error.offset, error.column.as_deref())).collect();
    assert_eq!(noted, [(101, None), (102, None), (103, Some("userid")), (104, Some("k")), (106, None)]);
    assert_eq!(decoded.errors[0].error, "value is null");
    assert_eq!(decoded.errors[3].error, "3 bytes where INT has another length");

    let expected: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![100, 105])),
        Arc::new(Int32Array::from(vec![1, 4])),
        Arc::clone(decoded.rows.column(2)),
        Arc::new(Int32Array::from(vec![Some(5), None])),
    ];
    assert_eq!(decoded.rows.columns(), expected);
    let tags: &ListArray = decoded.rows.column(2).as_any().downcast_ref().unwrap();
    assert_eq!(tags.values().as_ref(), &StringArray::from(vec!["a", "b", "d"]) as &dyn Array);
    assert_eq!(decoded.rows.schema().field(1).name(), "userid");

    // What is skipped does not depend on what is wanted, and rows may have no column at all.
    let mut nothing = Decoder::new(&format, &record_schema(), &[], &[]).unwrap();
    for _ in 0..2 {
        let counted = nothing.decode(&batch).unwrap();
        assert_eq!((counted.rows.num_rows(), counted.errors), (2, decoded.errors.clone()));
    }
}

#[test]
fn a_table_reads_a_null_value_as_a_deletion_and_refuses_a_null_key() {
    let format = RecordFormat {
        tombstones: true,
        ..stream(vec![column("id", ColumnType::Text, ColumnRole::Key), column("n", ColumnType::Int, ColumnRole::Value)])
    };
    let decoded = decode(&format, &raw(&[(Some(b"a"), Some(br#"{"n":1}"#)), (Some(b"a"), None), (None, Some(b"{}"))]));
    assert_eq!(decoded.errors[0].error, "key is null");
    let expected: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["a", "a"])),
        Arc::new(Int32Array::from(vec![Some(1), None])),
        Arc::new(BooleanArray::from(vec![false, true])),
    ];
    assert_eq!(decoded.rows.columns(), expected);
    assert_eq!(decoded.rows.schema().field(2).name(), TOMBSTONE_COLUMN);
}

#[test]
fn a_table_whose_only_key_is_null_writes_a_byte_that_no_text_and_no_number_is() {
    for kind in [ColumnType::Text, ColumnType::Int, ColumnType::Double] {
        let key = column("k", kind, ColumnRole::Key);
        let table = RecordFormat { tombstones: true, ..stream(vec![key]) };
        let decoded = decode(&table, &raw(&[(Some(&[0xff]), Some(b"{}"))]));
        assert_eq!((decoded.errors, decoded.rows.column(0).null_count()), (vec![], 1));
        let rows = decoded.rows.project(&[0]).unwrap();
        let written = Encoder::new(&table).unwrap().encode(&rows, None).unwrap();
        assert_eq!(written[0].key.as_deref(), Some(&[0xff][..]));
    }
    let bytes = stream(vec![column("k", ColumnType::Bytes, ColumnRole::Key)]);
    let decoded = decode(&RecordFormat { tombstones: true, ..bytes }, &raw(&[(Some(&[0xff]), Some(b"{}"))]));
    assert_eq!(decoded.rows.column(0).null_count(), 0);
}

#[test]
fn a_table_of_one_row_has_the_empty_object_as_its_key() {
    let columns = vec![column("n", ColumnType::Int, ColumnRole::Value)];
    let table = RecordFormat { key_format: Format::Json, tombstones: true, ..stream(columns) };
    let written = rewritten_table(&table, &[(Some(b"{}"), Some(br#"{"n":1}"#))]);
    assert_eq!(written, [(Some("{}".to_owned()), Some(r#"{"n":1}"#.to_owned()))]);
}

/// Like [`rewritten`], without the column that tells deletions.
fn rewritten_table(format: &RecordFormat, rows: &[Row<'_>]) -> Vec<(Option<String>, Option<String>)> {
    let decoded = decode(format, &raw(rows)).rows;
    let declared = decoded.project(&all(format)).unwrap();
    let text = |bytes: Option<Bytes>| bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let records = Encoder::new(format).unwrap().encode(&declared, None).unwrap();
    records.into_iter().map(|record| (text(record.key), text(record.value))).collect()
}

#[test]
fn keys_are_big_endian_primitives_or_json_objects() {
    let key_of = |kind: ColumnType, key: &[u8]| {
        let format = stream(vec![column("k", kind, ColumnRole::Key)]);
        let decoded = decode(&format, &raw(&[(Some(key), Some(b"{}"))]));
        decoded.errors.first().map_or_else(
            || {
                ArrayFormatter::try_new(decoded.rows.column(0).as_ref(), &FormatOptions::default())
                    .unwrap()
                    .value(0)
                    .to_string()
            },
            |error| format!("error: {}", error.error),
        )
    };
    assert_eq!(key_of(ColumnType::Int, &[0, 0, 1, 0]), "256");
    assert_eq!(key_of(ColumnType::BigInt, &(-2i64).to_be_bytes()), "-2");
    assert_eq!(key_of(ColumnType::Double, &1.5f64.to_be_bytes()), "1.5");
    assert_eq!(key_of(ColumnType::Text, "é".as_bytes()), "é");
    assert_eq!(key_of(ColumnType::Bytes, &[1, 255]), "01ff");
    assert!(key_of(ColumnType::Text, &[0xff]).contains("not UTF-8"));
    assert!(key_of(ColumnType::BigInt, &[1]).contains("1 bytes"));

    let columns = vec![
        column("userId", ColumnType::Int, ColumnRole::Key),
        column("windowstart", ColumnType::BigInt, ColumnRole::Key),
    ];
    let format = RecordFormat { key_format: Format::Json, ..stream(columns) };
    let decoded = decode(&format, &raw(&[(Some(br#"{"userId":1,"WINDOWSTART":"5"}"#), Some(b"{}"))]));
    assert_eq!(decoded.rows.column(1).as_ref(), &Int64Array::from(vec![5]) as &dyn Array);
    let errors = decode(&format, &raw(&[(Some(b"5"), Some(b"{}"))])).errors;
    assert!(errors[0].error.contains("key does not parse"), "{}", errors[0].error);
}

#[test]
fn headers_keep_order_duplicates_and_nulls_and_never_cost_a_record() {
    let header = ColumnType::Struct(vec![("key".into(), ColumnType::Text), ("value".into(), ColumnType::Bytes)]);
    let format = stream(vec![column("h", ColumnType::Array(Box::new(header)), ColumnRole::Headers)]);
    let headers: [HeaderList<'_>; 3] =
        [&[(b"b", Some(b"1")), (b"\xff", None), (b"b", Some(b""))], &[], &[(b"z", None)]];
    let batch = raw_with_headers(&[(None, Some(b"{}")), (None, Some(b"x")), (None, Some(b"{}"))], &headers);
    let decoded = decode(&format, &batch);
    assert_eq!(decoded.errors.len(), 1);
    let options = FormatOptions::default();
    let shown = ArrayFormatter::try_new(decoded.rows.column(0).as_ref(), &options).unwrap();
    assert_eq!(shown.value(0).to_string(), "[{key: b, value: 31}, {key: \u{fffd}, value: }, {key: b, value: }]");
    assert_eq!(shown.value(1).to_string(), "[{key: z, value: }]");
    assert!(
        Encoder::new(&format)
            .unwrap()
            .encode(&RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty())), None)
            .is_ok()
    );
}

/// What rows become that were read from `values`.
fn rewritten(format: &RecordFormat, rows: &[Row<'_>]) -> Vec<(Option<String>, Option<String>)> {
    let decoded = decode(format, &raw(rows));
    assert_eq!(decoded.errors, []);
    let text = |bytes: Option<Bytes>| bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let records = Encoder::new(format).unwrap().encode(&decoded.rows, None).unwrap();
    records.into_iter().map(|record| (text(record.key), text(record.value))).collect()
}

#[test]
fn values_are_written_as_compact_json_in_declared_order_and_case() {
    let value = |name: &str, kind| column(name, kind, ColumnRole::Value);
    let format = stream(vec![
        value("Zed", ColumnType::Text),
        column("k", ColumnType::Text, ColumnRole::Key),
        value("a \"b\"", ColumnType::Boolean),
        value("price", ColumnType::Decimal { precision: 6, scale: 3 }),
        value("at", ColumnType::Timestamp),
        value("exact", ColumnType::TimestampTz),
        value("d", ColumnType::Date),
        value("t", ColumnType::Time),
        value("bin", ColumnType::Bytes),
        value("f", ColumnType::Double),
        value("doc", ColumnType::Json),
        value("list", ColumnType::Array(Box::new(ColumnType::Int))),
        value("s", ColumnType::Struct(vec![("X".into(), ColumnType::Int), ("y".into(), ColumnType::Text)])),
        value("m", ColumnType::Map(Box::new(ColumnType::Int))),
    ]);
    let json = concat!(
        r#"{"m": {"b": 1, "a": null}, "s": {"x": 1}, "list": [1, null], "doc": {"q": [1, 2]}, "f": 1e300, "#,
        r#""bin": "AQL/", "t": "10:00", "d": "2024-02-29", "exact": "2024-02-29T10:00:00.000001Z", "at": 5, "#,
        r#""price": -0.05, "a \"b\"": true, "Zed": "é\n"}"#
    );
    let (key, written) = rewritten(&format, &[(Some(b"K"), Some(json.as_bytes()))]).remove(0);
    assert_eq!(key.as_deref(), Some("K"));
    let expected = concat!(
        r#"{"Zed":"é\n","a \"b\"":true,"price":-0.050,"at":5,"exact":"2024-02-29T10:00:00.000001Z","d":19782,"#,
        r#""t":36000000,"bin":"AQL/","f":1e+300,"doc":{"q": [1, 2]},"list":[1,null],"s":{"X":1,"y":null},"#,
        r#""m":{"b":1,"a":null}}"#
    );
    assert_eq!(written.as_deref(), Some(expected));
}

#[test]
fn json_keys_are_objects_of_the_key_columns_and_a_key_of_nulls_is_null_in_a_stream_only() {
    let columns = || {
        vec![
            column("userId", ColumnType::Int, ColumnRole::Key),
            column("n", ColumnType::Int, ColumnRole::Value),
            column("windowstart", ColumnType::BigInt, ColumnRole::Key),
        ]
    };
    let stream = RecordFormat { key_format: Format::Json, ..stream(columns()) };
    let rows: [Row<'_>; 2] = [(Some(br#"{"userId":1}"#), Some(b"{}")), (None, Some(br#"{"n":2}"#))];
    let written = rewritten(&stream, &rows);
    assert_eq!(written[0].0.as_deref(), Some(r#"{"userId":1,"windowstart":null}"#));
    assert_eq!(written[1], (None, Some(r#"{"n":2}"#.to_owned())));

    let table = RecordFormat { tombstones: true, ..stream.clone() };
    let plain = decode(&stream, &raw(&rows)).rows;
    let written = Encoder::new(&table).unwrap().encode(&plain, Some(&[false, true])).unwrap();
    assert_eq!(written[1].key.as_deref(), Some(&br#"{"userId":null,"windowstart":null}"#[..]));
    assert_eq!((&written[0].value.as_deref(), &written[1].value), (&Some(&br#"{"n":null}"#[..]), &None));
}

#[test]
fn what_cannot_be_written_is_refused_with_row_and_column() {
    let refusal = |format: &RecordFormat, array: ArrayRef| {
        let rows = RecordBatch::try_from_iter_with_nullable([("x", array, true)]).unwrap();
        Encoder::new(format).unwrap().encode(&rows, None).unwrap_err().to_string()
    };
    let one = |kind| stream(vec![column("x", kind, ColumnRole::Value)]);
    let number = Arc::new(arrow::array::Float64Array::from(vec![1.0, f64::NAN]));
    assert!(refusal(&one(ColumnType::Double), number).contains("row 1: column x: JSON has no number NaN"));
    let text = || Arc::new(StringArray::from(vec![Some("{}"), Some("{")]));
    assert!(refusal(&one(ColumnType::Json), text()).contains("row 1: column x: '{' is not JSON"));
    assert!(refusal(&one(ColumnType::Uuid), text()).contains("row 0: column x: '{}' is not a uuid"));
    let mut strict = one(ColumnType::Text);
    strict.columns[0].not_null = true;
    let gap = Arc::new(StringArray::from(vec![Some("a"), None]));
    assert!(refusal(&strict, gap.clone()).contains("row 1: column x is null but declared NOT NULL"));
    let mut table = stream(vec![column("x", ColumnType::Bytes, ColumnRole::Key)]);
    table.tombstones = true;
    assert!(refusal(&table, gap).contains("row 1: the key of a table is null"));
    let rows = RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty()));
    assert!(Encoder::new(&table).unwrap().encode(&rows, None).unwrap_err().to_string().contains("0 columns where 1"));
}

#[test]
fn formats_that_make_no_sense_are_refused_by_name() {
    let key = |name: &str, kind| column(name, kind, ColumnRole::Key);
    let value = |name: &str, kind| column(name, kind, ColumnRole::Value);
    let two = stream(vec![key("a", ColumnType::Int), key("b", ColumnType::Int)]);
    let decimal = |precision, scale| stream(vec![value("d", ColumnType::Decimal { precision, scale })]);
    let mut deep = ColumnType::Int;
    for _ in 0..TYPE_DEPTH_MAX {
        deep = ColumnType::Array(Box::new(deep));
    }
    for (format, word) in [
        (two.clone(), "holds one column, not a and b; use json"),
        (stream(vec![key("a", ColumnType::Boolean)]), "not BOOLEAN; use json"),
        (RecordFormat { key_format: Format::None, ..two.clone() }, "key_format is none"),
        (RecordFormat { tombstones: true, ..stream(vec![]) }, "a table needs a key"),
        (stream(vec![value("a", ColumnType::Int), value("a", ColumnType::Int)]), "declared twice"),
        (stream(vec![value("h", ColumnType::Int), column("g", ColumnType::Int, ColumnRole::Headers)]), "headers are"),
        (stream(vec![value("s", ColumnType::Struct(vec![]))]), "needs fields"),
        (stream(vec![value("deep", deep)]), "deeper"),
        (decimal(39, 0), "precision"),
        (decimal(5, 6), "precision"),
        (decimal(5, -1), "negative"),
    ] {
        let error = Decoder::new(&format, &record_schema(), &[], &[]).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
        assert!(Encoder::new(&format).is_err());
    }
    assert!(Decoder::new(&stream(vec![]), &record_schema(), &[], &[0]).is_err());
    assert!(Decoder::new(&stream(vec![]), &record_schema(), &[99], &[]).is_err());
}

/// A type and JSON that fits it.
fn typed_json() -> BoxedStrategy<(ColumnType, BoxedStrategy<String>)> {
    let quoted = |text: String| serde_json::to_string(&text).unwrap();
    let iso = any::<i64>().prop_map(|us| {
        let mut json = Vec::new();
        time::write_timestamp(us, &mut json);
        String::from_utf8(json).unwrap()
    });
    let leaf: Vec<(ColumnType, BoxedStrategy<String>)> = vec![
        (ColumnType::Boolean, any::<bool>().prop_map(|v| v.to_string()).boxed()),
        (ColumnType::SmallInt, any::<i16>().prop_map(|v| v.to_string()).boxed()),
        (ColumnType::Int, any::<i32>().prop_map(|v| v.to_string()).boxed()),
        (ColumnType::BigInt, any::<i64>().prop_map(|v| v.to_string()).boxed()),
        (ColumnType::Real, any::<f32>().prop_filter("finite", |v| v.is_finite()).prop_map(|v| v.to_string()).boxed()),
        (
            ColumnType::Double,
            any::<f64>().prop_filter("finite", |v| v.is_finite()).prop_map(|v| format!("{v:e}")).boxed(),
        ),
        (
            ColumnType::Decimal { precision: 38, scale: 7 },
            (any::<i64>(), 0..10_000_000u32).prop_map(|(whole, part)| format!("{whole}.{part:07}")).boxed(),
        ),
        (ColumnType::Text, any::<String>().prop_map(quoted).boxed()),
        (
            ColumnType::Bytes,
            vec(any::<u8>(), 0..20)
                .prop_map(|v| format!("\"{}\"", base64::display::Base64Display::new(&v, &column::BASE64)))
                .boxed(),
        ),
        (ColumnType::Timestamp, iso.clone().boxed()),
        (ColumnType::TimestampTz, iso.boxed()),
        (ColumnType::Date, any::<i32>().prop_map(|v| v.to_string()).boxed()),
        (ColumnType::Time, (0..86_400_000_000i64).prop_map(|v| format!("{}.{:03}", v / 1000, v % 1000)).boxed()),
        (ColumnType::Uuid, any::<u128>().prop_map(|v| format!("\"{}\"", uuid::Uuid::from_u128(v))).boxed()),
        (ColumnType::Json, any::<String>().prop_map(move |v| format!("{{\"a\": [{}, 1.50]}}", quoted(v))).boxed()),
    ];
    let nullable = |json: BoxedStrategy<String>| prop_oneof![1 => Just("null".to_owned()), 4 => json].boxed();
    let leaf = proptest::sample::select((0..leaf.len()).collect::<Vec<_>>())
        .prop_map(move |index| (leaf[index].0.clone(), nullable(leaf[index].1.clone())));
    leaf.prop_recursive(3, 12, 3, move |inner| {
        let list = inner.clone().prop_map(move |(kind, json)| {
            let json = vec(json, 0..4).prop_map(|items| format!("[{}]", items.join(",")));
            (ColumnType::Array(Box::new(kind)), nullable(json.boxed()))
        });
        let map = inner.clone().prop_map(move |(kind, json)| {
            let json = vec((any::<String>(), json), 0..4).prop_map(|entries| {
                let entries =
                    entries.into_iter().map(|(key, value)| format!("{}:{value}", serde_json::to_string(&key).unwrap()));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
            });
            (ColumnType::Map(Box::new(kind)), nullable(json.boxed()))
        });
        let record = (inner.clone(), inner).prop_map(move |((a, a_json), (b, b_json))| {
            let json = (a_json, b_json).prop_map(|(a, b)| format!("{{\"Aé\":{a},\"b\":{b}}}"));
            (ColumnType::Struct(vec![("Aé".into(), a), ("b".into(), b)]), nullable(json.boxed()))
        });
        prop_oneof![list, map, record]
    })
    .boxed()
}

/// Columns of random types and rows of JSON that fit them.
fn table_of_json() -> impl Strategy<Value = (Vec<ColumnType>, Vec<Vec<String>>)> {
    vec(typed_json(), 1..4).prop_flat_map(|columns| {
        let (kinds, json): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        (Just(kinds), vec(json, 0..6))
    })
}

fn object(fields: &[String]) -> String {
    let fields = fields.iter().enumerate().map(|(index, json)| format!("\"c{index}\":{json}"));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn format_of(kinds: &[ColumnType]) -> RecordFormat {
    let columns =
        kinds.iter().enumerate().map(|(index, kind)| column(&format!("c{index}"), kind.clone(), ColumnRole::Value));
    stream(columns.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_encoded_decodes_to_the_same_rows((kinds, rows) in table_of_json(), cut in any::<bool>()) {
        let format = format_of(&kinds);
        let values: Vec<String> = rows.iter().map(|row| object(row)).collect();
        let records: Vec<Row<'_>> = values.iter().map(|value| (None, Some(value.as_bytes()))).collect();
        let decoded = decode(&format, &raw(&records));
        prop_assert_eq!(&decoded.errors, &[]);
        // A slice of a batch is written like a batch.
        let first = usize::from(cut && !rows.is_empty());
        let read = decoded.rows.slice(first, rows.len() - first);
        let written = Encoder::new(&format).unwrap().encode(&read, None).unwrap();
        let records: Vec<Row<'_>> = written.iter().map(|record| (record.key.as_deref(), record.value.as_deref())).collect();
        let again = decode(&format, &raw(&records));
        prop_assert_eq!(&again.errors, &[]);
        prop_assert_eq!(&again.rows, &concat_batches(&again.rows.schema(), [&read]).unwrap());
    }

    #[test]
    fn damaged_values_cost_themselves_alone_and_never_panic(
        (kinds, rows) in table_of_json(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        noise in vec(any::<u8>(), 0..40),
    ) {
        let format = format_of(&kinds);
        let mut values: Vec<Vec<u8>> = rows.iter().map(|row| object(row).into_bytes()).collect();
        let whole = values.clone();
        for value in &mut values {
            for (index, byte) in &damage {
                let at = index.index(value.len());
                value[at] = *byte;
            }
        }
        // Every whole value stands between damaged ones.
        let mut mixed: Vec<Row<'_>> = vec![(Some(&noise), Some(&noise))];
        for (damaged, whole) in values.iter().zip(&whole) {
            mixed.push((Some(&noise), Some(damaged)));
            mixed.push((None, Some(whole)));
        }
        let decoded = decode(&format, &raw(&mixed));
        prop_assert_eq!(decoded.rows.num_rows() + decoded.errors.len(), mixed.len());
        prop_assert!(decoded.errors.iter().all(|error| error.offset == 100 || (error.offset - 100) % 2 == 1));
    }

    #[test]
    fn primitive_keys_survive(number in any::<i32>(), big in any::<i64>(), text in any::<String>(), float in any::<u64>()) {
        for (kind, key) in [
            (ColumnType::Int, number.to_be_bytes().to_vec()),
            (ColumnType::BigInt, big.to_be_bytes().to_vec()),
            (ColumnType::Double, float.to_be_bytes().to_vec()),
            (ColumnType::Text, text.clone().into_bytes()),
            (ColumnType::Bytes, text.clone().into_bytes()),
        ] {
            let format = stream(vec![column("k", kind, ColumnRole::Key)]);
            let decoded = decode(&format, &raw(&[(Some(&key), Some(b"{}"))]));
            let written = Encoder::new(&format).unwrap().encode(&decoded.rows, None).unwrap();
            prop_assert_eq!(written[0].key.as_deref(), Some(&key[..]));
        }
    }
}
