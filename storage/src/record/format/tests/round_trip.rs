//! Encoding and decoding undo each other, for random types and rows; damage stays where it is.

use arrow::compute::concat_batches;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

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
    fn delimited_keys_and_values_survive(
        rows in vec((any::<Option<String>>(), any::<Option<i64>>(), any::<Option<f64>>(), any::<Option<bool>>()), 1..6),
        delimiter in proptest::sample::select(vec![',', ' ', '\t', '|', ';', 'x', '\u{1f600}']),
    ) {
        let columns = vec![
            column("a", ColumnType::Text, ColumnRole::Value),
            column("k", ColumnType::Text, ColumnRole::Key),
            column("b", ColumnType::BigInt, ColumnRole::Value),
            column("l", ColumnType::BigInt, ColumnRole::Key),
            column("c", ColumnType::Double, ColumnRole::Value),
            column("d", ColumnType::Boolean, ColumnRole::Value),
        ];
        let delimited = Format::Delimited(delimiter);
        let format = RecordFormat { key_format: delimited, value_format: delimited, ..stream(columns) };
        let texts = || Arc::new(rows.iter().map(|row| row.0.as_deref()).collect::<arrow::array::StringArray>()) as ArrayRef;
        let numbers = || Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()) as ArrayRef;
        let floats = Arc::new(rows.iter().map(|row| row.2).collect::<arrow::array::Float64Array>()) as ArrayRef;
        let booleans = Arc::new(rows.iter().map(|row| row.3).collect::<arrow::array::BooleanArray>()) as ArrayRef;
        let columns = [("a", texts()), ("k", texts()), ("b", numbers()), ("l", numbers()), ("c", floats), ("d", booleans)];
        let columns = columns.into_iter().map(|(name, array)| (name, array, true));
        let written_rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let written = Encoder::new(&format).unwrap().encode(&written_rows, None).unwrap();
        let records: Vec<Row<'_>> = written.iter().map(|record| (record.key.as_deref(), record.value.as_deref())).collect();
        let read = decode(&format, &raw(&records));
        prop_assert_eq!(&read.errors, &[]);
        prop_assert_eq!(read.rows.columns(), written_rows.columns());
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
