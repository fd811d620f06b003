//! What SQL writes, to the letter, and what it refuses to write.

use arrow::array::{Float32Array, Float64Array};
use arrow::datatypes::Schema;

use super::*;

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
fn what_is_no_number_is_written_as_its_word_and_read_back() {
    let format = stream(vec![
        column("d", ColumnType::Double, ColumnRole::Value),
        column("r", ColumnType::Real, ColumnRole::Value),
    ]);
    let rows = RecordBatch::try_from_iter([
        ("d", Arc::new(Float64Array::from(vec![f64::NAN, f64::NEG_INFINITY])) as ArrayRef),
        ("r", Arc::new(Float32Array::from(vec![f32::INFINITY, 1.5])) as ArrayRef),
    ])
    .unwrap();
    let written = Encoder::new(&format).unwrap().encode(&rows, None).unwrap();
    assert_eq!(written[0].value.as_deref(), Some(&br#"{"d":"NaN","r":"Infinity"}"#[..]));
    let records: Vec<Row<'_>> = written.iter().map(|record| (None, record.value.as_deref())).collect();
    let again = decode(&format, &raw(&records));
    assert_eq!(again.rows.columns(), rows.columns());
}

#[test]
fn delimited_lines_and_bare_json_hold_what_their_columns_do() {
    let value = |name: &str, kind| column(name, kind, ColumnRole::Value);
    let columns = || {
        vec![
            value("t", ColumnType::Text),
            column("k", ColumnType::Text, ColumnRole::Key),
            value("b", ColumnType::Boolean),
            value("n", ColumnType::Decimal { precision: 6, scale: 2 }),
            value("at", ColumnType::Timestamp),
            value("d", ColumnType::Date),
            value("bin", ColumnType::Bytes),
            value("doc", ColumnType::Json),
        ]
    };
    let commas = RecordFormat { value_format: Format::Delimited(','), ..stream(columns()) };
    let line = br#" x,TRUE,5,"2024-02-29T00:00:00Z",2024-02-29,AQL/,"{""a"": [1, ""x""]}""#;
    let (key, written) = rewritten(&commas, &[(Some(b"K"), Some(line))]).remove(0);
    assert_eq!(key.as_deref(), Some("K"));
    let expected = r#"" x",true,5.00,1709164800000,19782,AQL/,"{""a"": [1, ""x""]}""#;
    assert_eq!(written.as_deref(), Some(expected));
    // What is missing at the end is NULL; what is not there in between, too.
    let (_, written) = rewritten(&commas, &[(None, Some(b",false"))]).remove(0);
    assert_eq!(written.as_deref(), Some(",false,,,,,"));
    let refused = decode(&commas, &raw(&[(None, Some(b"x,maybe")), (None, Some(b"1,2,3,4,5,6,7,8"))]));
    let reasons: Vec<_> = refused.errors.iter().map(|error| (error.column.as_deref(), error.error.as_str())).collect();
    assert_eq!(reasons[0], (Some("b"), "'maybe' where BOOLEAN was expected"));
    assert!(reasons[1].1.contains("more than 7 fields"), "{reasons:?}");
    let nested = stream(vec![value("a", ColumnType::Array(Box::new(ColumnType::Int)))]);
    let nested = RecordFormat { value_format: Format::Delimited(','), ..nested };
    assert!(nested.check().unwrap_err().to_string().contains("use json"));

    let bare = |kind| RecordFormat { value_format: Format::JsonUnwrapped, ..stream(vec![value("x", kind)]) };
    let rows: [Row<'_>; 2] = [(None, Some(b"[1, 2]")), (None, Some(b"null"))];
    let written = rewritten(&bare(ColumnType::Array(Box::new(ColumnType::Int))), &rows);
    assert_eq!(written, [(None, Some("[1,2]".to_owned())), (None, Some("null".to_owned()))]);
    let refused = decode(&bare(ColumnType::Int), &raw(&[(None, Some(br#"{"x": 1}"#)), (None, Some(b"{"))]));
    assert_eq!(refused.errors[0].column.as_deref(), Some("x"));
    assert_eq!(refused.errors[1].column, None);
}

#[test]
fn a_json_key_of_one_column_is_read_with_and_without_an_object_around_it() {
    let format = stream(vec![column("Id", ColumnType::BigInt, ColumnRole::Key)]);
    let format = RecordFormat { key_format: Format::Json, ..format };
    let rows: [Row<'_>; 3] =
        [(Some(br#"{"Id":5}"#), Some(b"{}")), (Some(b" 5"), Some(b"{}")), (Some(b"null"), Some(b"{}"))];
    let keys: Vec<_> = rewritten(&format, &rows).into_iter().map(|(key, _)| key).collect();
    let object = Some(r#"{"Id":5}"#.to_owned());
    assert_eq!(keys, [object.clone(), object, None]);
}

#[test]
fn what_cannot_be_written_is_refused_with_row_and_column() {
    let refusal = |format: &RecordFormat, array: ArrayRef| {
        let rows = RecordBatch::try_from_iter_with_nullable([("x", array, true)]).unwrap();
        Encoder::new(format).unwrap().encode(&rows, None).unwrap_err().to_string()
    };
    let one = |kind| stream(vec![column("x", kind, ColumnRole::Value)]);
    let long = Arc::new(StringArray::from(vec!["üü", "abc"]));
    let too_long = format!("row 1: column x: {TOO_LONG} character varying(2)");
    assert!(refusal(&one(ColumnType::Varchar(2)), long).contains(&too_long));
    let nothing = Arc::new(Int32Array::from(vec![Some(1), None]));
    let primitive = RecordFormat { value_format: Format::Kafka, ..one(ColumnType::Int) };
    assert!(refusal(&primitive, nothing).contains("row 1: column x: format kafka has no bytes"));
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
    let rows = RecordBatch::new_empty(Arc::new(Schema::empty()));
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
