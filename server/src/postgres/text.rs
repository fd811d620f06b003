//! Values as Postgres's text: what psql shows and what a driver parses.

use std::fmt::Write;

use aquifer_sql::error::{Error, Result, SqlState};
use arrow::array::timezone::Tz;
use arrow::datatypes::IntervalMonthDayNano;
use bytes::BytesMut;
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Offset, TimeZone, Timelike};

use super::cells::{Cells, items};
use super::{json, oids};

/// Days from 0001-01-01 to 1970-01-01, in chrono's count.
const EPOCH_DAYS_FROM_CE: i32 = 719_163;
/// Significant digits up to which Postgres writes a float8 without exponent.
const FLOAT8_FIXED_DIGITS: i32 = 15;
/// Significant digits up to which Postgres writes a float4 without exponent.
const FLOAT4_FIXED_DIGITS: i32 = 6;

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

fn beyond_calendar() -> Error {
    Error::new(SqlState::DatetimeOutOfRange, "date or time out of range").with_hint("cast it to bigint in the query")
}

fn float8(value: f64, out: &mut BytesMut) -> std::fmt::Result {
    if value.is_finite() {
        shortest(&format!("{value:e}"), FLOAT8_FIXED_DIGITS, out)
    } else {
        out.write_str(word(value.is_nan(), value > 0.0))
    }
}

fn float4(value: f32, out: &mut BytesMut) -> std::fmt::Result {
    if value.is_finite() {
        shortest(&format!("{value:e}"), FLOAT4_FIXED_DIGITS, out)
    } else {
        out.write_str(word(value.is_nan(), value > 0.0))
    }
}

fn word(nan: bool, positive: bool) -> &'static str {
    match (nan, positive) {
        (true, _) => "NaN",
        (false, true) => "Infinity",
        (false, false) => "-Infinity",
    }
}

/// Rust's shortest digits (`-1.25e-7`) in Postgres's layout: fixed for exponents from -4 to below `fixed_digits`.
fn shortest(scientific: &str, fixed_digits: i32, out: &mut BytesMut) -> std::fmt::Result {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    if !(-4..fixed_digits).contains(&exponent) {
        let mark = if exponent < 0 { '-' } else { '+' };
        return write!(out, "{sign}{mantissa}e{mark}{:02}", exponent.unsigned_abs());
    }
    let digits: String = mantissa.chars().filter(|digit| *digit != '.').collect();
    let Ok(whole) = usize::try_from(exponent + 1) else {
        return write!(out, "{sign}0.{:0>width$}", digits, width = digits.len() + exponent.unsigned_abs() as usize - 1);
    };
    match digits.split_at_checked(whole) {
        Some(("", fraction)) => {
            let zeros = exponent.unsigned_abs() as usize - 1;
            write!(out, "{sign}0.{}{fraction}", "0".repeat(zeros))
        }
        Some((whole, "")) => write!(out, "{sign}{whole}"),
        Some((whole, fraction)) => write!(out, "{sign}{whole}.{fraction}"),
        None => write!(out, "{sign}{digits:0<whole$}"),
    }
}

/// An unscaled number with its point put in, exact.
pub(crate) fn decimal(unscaled: &str, scale: i8, out: &mut impl Write) -> std::fmt::Result {
    let (sign, digits) = unscaled.strip_prefix('-').map_or(("", unscaled), |digits| ("-", digits));
    let Ok(scale) = usize::try_from(scale) else {
        let zeros = if digits == "0" { 0 } else { usize::from(scale.unsigned_abs()) };
        return write!(out, "{sign}{digits}{}", "0".repeat(zeros));
    };
    if scale == 0 {
        return write!(out, "{sign}{digits}");
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    write!(out, "{sign}{whole}.{fraction}")
}

pub(crate) fn hex(bytes: &[u8], out: &mut impl Write) -> std::fmt::Result {
    out.write_str("\\x")?;
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

fn uuid_text(bytes: &[u8], out: &mut BytesMut) -> std::fmt::Result {
    match uuid::Uuid::from_slice(bytes) {
        Ok(id) => write!(out, "{id}"),
        Err(_) => hex(bytes, out),
    }
}

fn day(date: NaiveDate, out: &mut impl Write) -> std::fmt::Result {
    let year = if date.year() > 0 { date.year() } else { 1 - date.year() };
    write!(out, "{year:04}-{:02}-{:02}", date.month(), date.day())
}

fn clock(seconds_of_day: u32, us: u32, out: &mut impl Write) -> std::fmt::Result {
    let (hours, minutes, seconds) = (seconds_of_day / 3600, seconds_of_day / 60 % 60, seconds_of_day % 60);
    write!(out, "{hours:02}:{minutes:02}:{seconds:02}")?;
    fraction(us, out)
}

fn fraction(us: u32, out: &mut impl Write) -> std::fmt::Result {
    if us == 0 {
        return Ok(());
    }
    write!(out, ".{}", format!("{us:06}").trim_end_matches('0'))
}

fn era(date: NaiveDate) -> &'static str {
    if date.year() > 0 { "" } else { " BC" }
}

fn date(days: i32, out: &mut BytesMut) -> Result<std::fmt::Result> {
    let date = days
        .checked_add(EPOCH_DAYS_FROM_CE)
        .and_then(NaiveDate::from_num_days_from_ce_opt)
        .ok_or_else(beyond_calendar)?;
    Ok(day(date, out).and_then(|()| out.write_str(era(date))))
}

fn time(us: i64, out: &mut BytesMut) -> std::fmt::Result {
    let seconds = u32::try_from(us.div_euclid(1_000_000)).unwrap_or(0);
    let us = u32::try_from(us.rem_euclid(1_000_000)).unwrap_or(0);
    clock(seconds, us, out)
}

fn naive(time: NaiveDateTime, out: &mut impl Write) -> std::fmt::Result {
    day(time.date(), out)?;
    out.write_char(' ')?;
    clock(time.num_seconds_from_midnight(), time.nanosecond() / 1000, out)
}

fn timestamp(us: i64, out: &mut BytesMut) -> Result<std::fmt::Result> {
    let time = DateTime::from_timestamp_micros(us).ok_or_else(beyond_calendar)?.naive_utc();
    Ok(naive(time, out).and_then(|()| out.write_str(era(time.date()))))
}

fn timestamptz(us: i64, zone: Tz, out: &mut BytesMut) -> Result<std::fmt::Result> {
    let utc = DateTime::from_timestamp_micros(us).ok_or_else(beyond_calendar)?.naive_utc();
    let offset = zone.offset_from_utc_datetime(&utc).fix();
    let local = utc.checked_add_offset(offset).ok_or_else(beyond_calendar)?;
    let written = naive(local, out)
        .and_then(|()| zone_offset(offset.local_minus_utc(), out))
        .and_then(|()| out.write_str(era(local.date())));
    Ok(written)
}

fn zone_offset(seconds_east: i32, out: &mut impl Write) -> std::fmt::Result {
    let sign = if seconds_east < 0 { '-' } else { '+' };
    let seconds = seconds_east.unsigned_abs();
    write!(out, "{sign}{:02}", seconds / 3600)?;
    match (seconds / 60 % 60, seconds % 60) {
        (0, 0) => Ok(()),
        (minutes, 0) => write!(out, ":{minutes:02}"),
        (minutes, seconds) => write!(out, ":{minutes:02}:{seconds:02}"),
    }
}

/// As `IntervalStyle = postgres`: `1 year 2 mons -3 days +04:05:06.7`.
fn interval(value: IntervalMonthDayNano, out: &mut BytesMut) -> std::fmt::Result {
    let us = value.nanoseconds / 1000;
    let (years, months) = (value.months / 12, value.months % 12);
    let mut said = false;
    let mut negative_before = false;
    for (count, one, many) in [(years, "year", "years"), (months, "mon", "mons"), (value.days, "day", "days")] {
        if count == 0 {
            continue;
        }
        let space = if said { " " } else { "" };
        let plus = if negative_before && count > 0 { "+" } else { "" };
        write!(out, "{space}{plus}{count} {}", if count == 1 { one } else { many })?;
        (said, negative_before) = (true, count < 0);
    }
    if us != 0 || !said {
        let space = if said { " " } else { "" };
        let sign = match (us < 0, negative_before) {
            (true, _) => "-",
            (false, true) => "+",
            (false, false) => "",
        };
        let us = us.unsigned_abs();
        let (hours, minutes, seconds) = (us / 3_600_000_000, us / 60_000_000 % 60, us / 1_000_000 % 60);
        write!(out, "{space}{sign}{hours:02}:{minutes:02}:{seconds:02}")?;
        fraction(u32::try_from(us % 1_000_000).unwrap_or(0), out)?;
    }
    Ok(())
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
    use arrow::datatypes::Int32Type;

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
