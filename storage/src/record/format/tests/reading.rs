//! What becomes of a key, a value and headers on their way into columns.

use arrow::array::BooleanArray;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::*;

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
    for text in [r#""42 ""#, r#"" 42""#, r#""42x""#, r#""""#, r#""nan""#, "true", "{}", "[]"] {
        refuses(&ColumnType::Int, text, "x: ");
        refuses(&ColumnType::Double, text, "x: ");
    }
}

#[test]
fn what_is_no_number_is_read_from_its_word_into_floats_alone() {
    reads(&ColumnType::Double, r#""NaN""#, "NaN");
    reads(&ColumnType::Double, r#""-Infinity""#, "-inf");
    reads(&ColumnType::Real, r#""Infinity""#, "inf");
    refuses(&ColumnType::Int, r#""NaN""#, "INT was expected");
    refuses(&ColumnType::Decimal { precision: 4, scale: 2 }, r#""NaN""#, "was expected");
    refuses(&ColumnType::Double, "NaN", "does not parse");
}

#[test]
fn a_length_is_no_matter_of_reading() {
    reads(&ColumnType::Varchar(2), r#""abc""#, "abc");
    reads(&ColumnType::Varchar(2), "1234", "1234");
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
fn a_small_record_does_not_unfold_without_bound() {
    let fields = (0..100).map(|number| (format!("f{number}"), ColumnType::BigInt)).collect();
    let wide = ColumnType::Array(Box::new(ColumnType::Struct(fields)));
    let list = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
    assert!(read(wide.clone(), &list(1000)).is_ok());
    refuses(&wide, &list(50_000), "unfolds to more than");
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
