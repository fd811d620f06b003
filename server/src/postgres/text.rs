//! Values as Postgres's text: what psql shows and what a driver parses.

use std::fmt::Write;

use aquifer_sql::error::{Error, Result, SqlState};
use aquifer_sql::written::{date, decimal, float4, float8, hex, interval, time, timestamp, timestamptz};
use arrow::array::timezone::Tz;
use bytes::BytesMut;

use super::cells::{Cells, items};
use super::{json, oids};

/// Writes the value at `row`, which must not be null.
///
/// # Errors
/// 22008 for a time beyond the calendar.
pub(crate) fn write(cells: &Cells, row: usize, oid: u32, zone: Tz, out: &mut BytesMut) -> Result<()> {
    if let Some(text) = cells.text(row) {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    let written = match cells {
        Cells::Bool(array) => out.write_str(if array.value(row) { "t" } else { "f" }),
        Cells::Int16(array) => write!(out, "{}", array.value(row)),
        Cells::Int32(array) => write!(out, "{}", array.value(row)),
        Cells::Int64(array) => write!(out, "{}", array.value(row)),
        Cells::Oid(array) => write!(out, "{}", array.value(row)),
        Cells::Float32(array) => float4(array.value(row), out),
        Cells::Float64(array) => float8(array.value(row), out),
        Cells::Decimal128(array, scale) => decimal(&array.value(row).to_string(), *scale, out),
        Cells::Decimal256(array, scale) => decimal(&array.value(row).to_string(), *scale, out),
        Cells::Bytes(array) if oid == oids::UUID => uuid_text(array.value(row), out),
        Cells::Bytes(array) => hex(array.value(row), out),
        Cells::Date(array) => date(array.value(row), out)?,
        Cells::Time(array) => time(array.value(row), out),
        Cells::Timestamp(array) => timestamp(array.value(row), out)?,
        Cells::TimestampTz(array) => timestamptz(array.value(row), zone, out)?,
        Cells::Interval(array) => interval(array.value(row), out),
        Cells::List(list, values) => return array(values, items(list, row), oid, zone, out),
        Cells::Json(array) => json::write(array, row, out),
        Cells::Null | Cells::Text(_) | Cells::LargeText(_) | Cells::TextView(_) => Ok(()),
    };
    written.map_err(|_| Error::new(SqlState::InternalError, "a value could not be written as text"))
}

fn uuid_text(bytes: &[u8], out: &mut BytesMut) -> std::fmt::Result {
    match uuid::Uuid::from_slice(bytes) {
        Ok(id) => write!(out, "{id}"),
        Err(_) => hex(bytes, out),
    }
}

fn array(values: &Cells, items: std::ops::Range<usize>, oid: u32, zone: Tz, out: &mut BytesMut) -> Result<()> {
    let vector = oid == oids::INT2VECTOR || oid == oids::OIDVECTOR;
    let (open, separator, close): (&[u8], &[u8], &[u8]) = if vector { (b"", b" ", b"") } else { (b"{", b",", b"}") };
    let nested = matches!(values, Cells::List(..));
    let element = if nested { oid } else { oids::element_of(oid).unwrap_or(oids::TEXT) };
    out.extend_from_slice(open);
    let first = items.start;
    let mut scratch = BytesMut::new();
    for item in items {
        if item > first {
            out.extend_from_slice(separator);
        }
        if values.is_null(item) {
            out.extend_from_slice(b"NULL");
            continue;
        }
        scratch.clear();
        write(values, item, element, zone, &mut scratch)?;
        if nested || vector { out.extend_from_slice(&scratch) } else { quoted(&scratch, out) }
    }
    out.extend_from_slice(close);
    Ok(())
}

/// An array's item, in quotes where it would be misread without.
fn quoted(item: &[u8], out: &mut BytesMut) {
    let plain = !item.is_empty()
        && !item.eq_ignore_ascii_case(b"null")
        && !item.iter().any(|byte| b"{},\"\\".contains(byte) || byte.is_ascii_whitespace() || *byte == 0x0b);
    if plain {
        out.extend_from_slice(item);
        return;
    }
    out.extend_from_slice(b"\"");
    for byte in item {
        if matches!(byte, b'"' | b'\\') {
            out.extend_from_slice(b"\\");
        }
        out.extend_from_slice(&[*byte]);
    }
    out.extend_from_slice(b"\"");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
        IntervalMonthDayNanoArray, ListArray, StringArray, Time64MicrosecondArray, TimestampMillisecondArray,
    };
    use arrow::datatypes::{Int32Type, IntervalMonthDayNano};

    use super::*;

    fn shown(array: ArrayRef, oid: u32, zone: &str) -> Vec<String> {
        let cells = Cells::of(&array).unwrap();
        (0..array.len())
            .map(|row| {
                let mut out = BytesMut::new();
                write(&cells, row, oid, zone.parse().unwrap(), &mut out).unwrap();
                String::from_utf8(out.to_vec()).unwrap()
            })
            .collect()
    }

    #[test]
    fn floats_are_shortest_with_postgres_words() {
        let values = vec![
            0.1,
            1.0,
            -0.0,
            1e15,
            123_456_789_012_345.0,
            1e14,
            1e-4,
            1e-5,
            1.5e300,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            1234.5678,
            0.00012345,
        ];
        let wanted = [
            "0.1",
            "1",
            "-0",
            "1e+15",
            "123456789012345",
            "100000000000000",
            "0.0001",
            "1e-05",
            "1.5e+300",
            "Infinity",
            "-Infinity",
            "NaN",
            "1234.5678",
            "0.00012345",
        ];
        assert_eq!(shown(Arc::new(Float64Array::from(values)), oids::FLOAT8, "UTC"), wanted);
        let values = vec![1e6_f32, 123_456.0, 0.3];
        assert_eq!(shown(Arc::new(Float32Array::from(values)), oids::FLOAT4, "UTC"), ["1e+06", "123456", "0.3"]);
    }

    #[test]
    fn numerics_keep_every_digit() {
        let array = Decimal128Array::from(vec![5, -5, 123_456, 0]).with_precision_and_scale(10, 3).unwrap();
        assert_eq!(shown(Arc::new(array), oids::NUMERIC, "UTC"), ["0.005", "-0.005", "123.456", "0.000"]);
    }

    #[test]
    fn times_follow_the_session_zone() {
        let times = vec![0_i64, 1_600_000_000_123, -62_198_755_200_000];
        let plain = TimestampMillisecondArray::from(times.clone());
        assert_eq!(
            shown(Arc::new(plain), oids::TIMESTAMP, "UTC"),
            ["1970-01-01 00:00:00", "2020-09-13 12:26:40.123", "0002-01-01 00:00:00 BC"]
        );
        let zoned = TimestampMillisecondArray::from(times).with_timezone("UTC");
        assert_eq!(shown(Arc::new(zoned.clone()), oids::TIMESTAMPTZ, "+05:30")[0], "1970-01-01 05:30:00+05:30");
        assert_eq!(shown(Arc::new(zoned), oids::TIMESTAMPTZ, "Europe/Berlin")[1], "2020-09-13 14:26:40.123+02");
    }

    #[test]
    fn dates_times_and_intervals_read_as_in_postgres() {
        assert_eq!(
            shown(Arc::new(Date32Array::from(vec![0, 18_628])), oids::DATE, "UTC"),
            ["1970-01-01", "2021-01-01"]
        );
        let times = Time64MicrosecondArray::from(vec![0, 86_399_999_999]);
        assert_eq!(shown(Arc::new(times), oids::TIME, "UTC"), ["00:00:00", "23:59:59.999999"]);
        let intervals = IntervalMonthDayNanoArray::from(vec![
            IntervalMonthDayNano::new(14, -3, 14_706_700_000_000),
            IntervalMonthDayNano::new(0, 0, 0),
            IntervalMonthDayNano::new(0, 1, -1_000_000_000),
        ]);
        assert_eq!(
            shown(Arc::new(intervals), oids::INTERVAL, "UTC"),
            ["1 year 2 mons -3 days +04:05:06.7", "00:00:00", "1 day -00:00:01"]
        );
    }

    #[test]
    fn arrays_quote_what_would_be_misread() {
        let list =
            ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None, Some(3)]), Some(vec![])]);
        assert_eq!(shown(Arc::new(list.clone()), 1007, "UTC"), ["{1,NULL,3}", "{}"]);
        assert_eq!(shown(Arc::new(list.slice(1, 1)), oids::INT2VECTOR, "UTC"), [""]);
        let mut builder = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
        for text in ["a", "", "null", "b c", "q\"\\", "{"] {
            builder.values().append_value(text);
        }
        builder.append(true);
        assert_eq!(shown(Arc::new(builder.finish()), 1009, "UTC"), [r#"{a,"","null","b c","q\"\\","{"}"#]);
    }

    #[test]
    fn booleans_bytes_and_texts() {
        assert_eq!(shown(Arc::new(BooleanArray::from(vec![true, false])), oids::BOOL, "UTC"), ["t", "f"]);
        assert_eq!(shown(Arc::new(BinaryArray::from_vec(vec![b"\x00\xffa"])), oids::BYTEA, "UTC"), ["\\x00ff61"]);
        assert_eq!(shown(Arc::new(StringArray::from(vec!["ü\n"])), oids::TEXT, "UTC"), ["ü\n"]);
    }
}
