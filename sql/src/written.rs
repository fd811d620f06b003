//! Values as Postgres writes them: what a client is shown, and what a cast to text gives.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{ArrayRef, AsArray, IntervalMonthDayNanoArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, DurationMicrosecondType, IntervalMonthDayNano, TimeUnit};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Offset, TimeZone, Timelike};

use crate::error::{Error, Result, SqlState};

/// Days from 0001-01-01 to 1970-01-01, in chrono's count.
const EPOCH_DAYS_FROM_CE: i32 = 719_163;
/// Significant digits up to which Postgres writes a float8 without exponent.
const FLOAT8_FIXED_DIGITS: i32 = 15;
/// Significant digits up to which Postgres writes a float4 without exponent.
const FLOAT4_FIXED_DIGITS: i32 = 6;

fn beyond_calendar() -> Error {
    Error::new(SqlState::DatetimeOutOfRange, "date or time out of range").with_hint("cast it to bigint in the query")
}

/// A `float8`: the shortest digits that read back the same.
///
/// # Errors
/// What `out` says.
pub fn float8(value: f64, out: &mut impl Write) -> std::fmt::Result {
    if value.is_finite() {
        shortest(&format!("{value:e}"), FLOAT8_FIXED_DIGITS, out)
    } else {
        out.write_str(word(value.is_nan(), value > 0.0))
    }
}

/// A `float4`, likewise.
///
/// # Errors
/// What `out` says.
pub fn float4(value: f32, out: &mut impl Write) -> std::fmt::Result {
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
fn shortest(scientific: &str, fixed_digits: i32, out: &mut impl Write) -> std::fmt::Result {
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
///
/// # Errors
/// What `out` says.
pub fn decimal(unscaled: &str, scale: i8, out: &mut impl Write) -> std::fmt::Result {
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

/// Bytes in hex, behind `\x`.
///
/// # Errors
/// What `out` says.
pub fn hex(bytes: &[u8], out: &mut impl Write) -> std::fmt::Result {
    out.write_str("\\x")?;
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
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

/// A date, by days since 1970.
///
/// # Errors
/// 22008 beyond the calendar.
pub fn date(days: i32, out: &mut impl Write) -> Result<std::fmt::Result> {
    let date = days
        .checked_add(EPOCH_DAYS_FROM_CE)
        .and_then(NaiveDate::from_num_days_from_ce_opt)
        .ok_or_else(beyond_calendar)?;
    Ok(day(date, out).and_then(|()| out.write_str(era(date))))
}

/// A time of day, in microseconds.
///
/// # Errors
/// What `out` says.
pub fn time(us: i64, out: &mut impl Write) -> std::fmt::Result {
    let seconds = u32::try_from(us.div_euclid(1_000_000)).unwrap_or(0);
    let us = u32::try_from(us.rem_euclid(1_000_000)).unwrap_or(0);
    clock(seconds, us, out)
}

fn naive(time: NaiveDateTime, out: &mut impl Write) -> std::fmt::Result {
    day(time.date(), out)?;
    out.write_char(' ')?;
    clock(time.num_seconds_from_midnight(), time.nanosecond() / 1000, out)
}

/// A timestamp, in microseconds since 1970.
///
/// # Errors
/// 22008 beyond the calendar.
pub fn timestamp(us: i64, out: &mut impl Write) -> Result<std::fmt::Result> {
    let time = DateTime::from_timestamp_micros(us).ok_or_else(beyond_calendar)?.naive_utc();
    Ok(naive(time, out).and_then(|()| out.write_str(era(time.date()))))
}

/// A moment as it shows in a zone.
///
/// # Errors
/// 22008 beyond the calendar.
pub fn timestamptz(us: i64, zone: Tz, out: &mut impl Write) -> Result<std::fmt::Result> {
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
///
/// # Errors
/// What `out` says.
pub fn interval(value: IntervalMonthDayNano, out: &mut impl Write) -> std::fmt::Result {
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

/// Microseconds of a day.
pub(crate) const DAY_US: i64 = 86_400_000_000;

/// What lies between two times, as an interval: whole days, and what is left of them.
///
/// # Errors
/// 22008 where a day's count does not fit.
pub fn interval_of_duration(durations: &ArrayRef) -> Result<ArrayRef> {
    let durations = cast(durations, &DataType::Duration(TimeUnit::Microsecond)).map_err(|_| beyond_calendar())?;
    let split = durations.as_primitive::<DurationMicrosecondType>().iter().map(|us| us.map(days_and_rest).transpose());
    Ok(Arc::new(split.collect::<Result<IntervalMonthDayNanoArray>>()?))
}

fn days_and_rest(us: i64) -> Result<IntervalMonthDayNano> {
    let days = i32::try_from(us / DAY_US).map_err(|_| beyond_calendar())?;
    Ok(IntervalMonthDayNano::new(0, days, us % DAY_US * 1000))
}
