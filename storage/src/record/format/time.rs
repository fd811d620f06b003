//! Times as text: ISO 8601 in, and out where milliseconds would lose something.
//!
//! The calendar is the proleptic Gregorian one over all of `i64` microseconds, further than any library's type reaches,
//! so that every timestamp a column can hold survives being written and read.

use std::io::Write;

use super::number::{NumberError, decimal};

const US_PER_SECOND: i64 = 1_000_000;
const US_PER_DAY: i64 = 86_400 * US_PER_SECOND;
/// Digits behind the second that a microsecond can hold; further ones are dropped.
const FRACTION_DIGITS: usize = 6;
/// The longest year that microseconds in an `i64` can reach, 292277.
const YEAR_DIGITS_MAX: usize = 6;
/// Places that turn milliseconds into microseconds.
const MS_TO_US_SCALE: i64 = 3;

/// Microseconds since the epoch of a number of milliseconds, or of ISO 8601 text (UTC unless it names an offset).
pub(super) fn timestamp_us(text: &str) -> Result<i64, NumberError> {
    match ms_as_us(text) {
        Err(NumberError::Syntax) => iso_timestamp_us(text).ok_or(NumberError::Syntax),
        number => number,
    }
}

/// Microseconds of the day of a number of milliseconds, or of `10:00:00`.
pub(super) fn time_us(text: &str) -> Result<i64, NumberError> {
    let us = match ms_as_us(text) {
        Err(NumberError::Syntax) => {
            let mut rest = text;
            clock_us(&mut rest).filter(|_| rest.is_empty()).ok_or(NumberError::Syntax)?
        }
        number => number?,
    };
    if (0..US_PER_DAY).contains(&us) { Ok(us) } else { Err(NumberError::Range) }
}

/// Days since the epoch of a number of days, or of `2024-01-31`.
pub(super) fn date_days(text: &str) -> Result<i32, NumberError> {
    match super::number::integer(text) {
        Err(NumberError::Syntax) => {
            let mut rest = text;
            let days = calendar_days(&mut rest).filter(|_| rest.is_empty()).ok_or(NumberError::Syntax)?;
            i32::try_from(days).map_err(|_| NumberError::Range)
        }
        number => number,
    }
}

/// Writes milliseconds, or `2024-01-31T10:00:00.000001Z` when they would lose the microseconds.
pub(super) fn write_timestamp(us: i64, json: &mut Vec<u8>) {
    if us % 1000 == 0 {
        // Writing to memory does not fail.
        let _ = write!(json, "{}", us / 1000);
        return;
    }
    let (year, month, day) = civil_of_days(us.div_euclid(US_PER_DAY));
    // ISO 8601 gives years of more than four digits a sign.
    let sign = match year {
        ..0 => "-",
        0..=9999 => "",
        _ => "+",
    };
    let _ = write!(json, "\"{sign}{:04}-{month:02}-{day:02}T", year.abs());
    write_clock(us.rem_euclid(US_PER_DAY), json);
    json.extend(b"Z\"");
}

/// Writes milliseconds of the day, or `10:00:00.000001` when they would lose the microseconds.
pub(super) fn write_time(us: i64, json: &mut Vec<u8>) {
    if us % 1000 == 0 {
        let _ = write!(json, "{}", us / 1000);
        return;
    }
    json.push(b'"');
    write_clock(us, json);
    json.push(b'"');
}

fn write_clock(us_of_day: i64, json: &mut Vec<u8>) {
    let (seconds, us) = (us_of_day / US_PER_SECOND, us_of_day % US_PER_SECOND);
    let _ = write!(json, "{:02}:{:02}:{:02}.{us:06}", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

fn ms_as_us(text: &str) -> Result<i64, NumberError> {
    decimal(text, MS_TO_US_SCALE).and_then(|us| i64::try_from(us).map_err(|_| NumberError::Range))
}

fn iso_timestamp_us(text: &str) -> Option<i64> {
    let mut rest = text;
    let days = calendar_days(&mut rest)?;
    let mut us_of_day = 0;
    if !rest.is_empty() {
        rest = rest.strip_prefix(['T', 't', ' '])?;
        us_of_day = clock_us(&mut rest)?;
        us_of_day -= offset_us(&mut rest)?;
    }
    // The first day of the range begins before it, so the sum is made where it cannot overflow.
    let us = i128::from(days) * i128::from(US_PER_DAY) + i128::from(us_of_day);
    if rest.is_empty() { i64::try_from(us).ok() } else { None }
}

/// Reads `2024-01-31`.
fn calendar_days(rest: &mut &str) -> Option<i64> {
    let unsigned = rest.strip_prefix(['-', '+']);
    let negative = rest.starts_with('-');
    let mut after = unsigned.unwrap_or(rest);
    let year_digits =
        after.find(|digit: char| !digit.is_ascii_digit()).filter(|&n| (4..=YEAR_DIGITS_MAX).contains(&n))?;
    let year = i64::from(digits(&mut after, year_digits)?);
    let year = if negative { -year } else { year };
    after = after.strip_prefix('-')?;
    let month = digits(&mut after, 2)?;
    after = after.strip_prefix('-')?;
    let day = digits(&mut after, 2)?;
    *rest = after;
    if (1..=12).contains(&month) && (1..=days_of_month(year, month)).contains(&day) {
        Some(days_of_civil(year, month, day))
    } else {
        None
    }
}

/// Reads `10:00`, `10:00:00` or `10:00:00.123456`.
fn clock_us(rest: &mut &str) -> Option<i64> {
    let mut after = *rest;
    let hour = digits(&mut after, 2).filter(|hour| *hour < 24)?;
    after = after.strip_prefix(':')?;
    let minute = digits(&mut after, 2).filter(|minute| *minute < 60)?;
    let (mut second, mut us) = (0, 0);
    if let Some(behind) = after.strip_prefix(':') {
        after = behind;
        second = digits(&mut after, 2).filter(|second| *second < 60)?;
        if let Some(behind) = after.strip_prefix(['.', ',']) {
            let count = behind.bytes().take_while(u8::is_ascii_digit).count();
            let (fraction, behind) = behind.split_at(count);
            let mut kept = fraction.get(..FRACTION_DIGITS.min(count)).filter(|kept| !kept.is_empty())?;
            let places = kept.len();
            us = digits(&mut kept, places)? * 10u32.pow((FRACTION_DIGITS - places) as u32);
            after = behind;
        }
    }
    *rest = after;
    Some(i64::from(hour * 3600 + minute * 60 + second) * US_PER_SECOND + i64::from(us))
}

/// Reads `Z`, `+01:00`, `+0100`, `+01` or nothing.
fn offset_us(rest: &mut &str) -> Option<i64> {
    if rest.is_empty() {
        return Some(0);
    }
    if let Some(after) = rest.strip_prefix(['Z', 'z']) {
        *rest = after;
        return Some(0);
    }
    let mut after = rest.strip_prefix(['+', '-'])?;
    let hour = digits(&mut after, 2).filter(|hour| *hour < 24)?;
    after = after.strip_prefix(':').unwrap_or(after);
    let minute = if after.is_empty() { 0 } else { digits(&mut after, 2).filter(|minute| *minute < 60)? };
    let us = i64::from(hour * 60 + minute) * 60 * US_PER_SECOND;
    let negative = rest.starts_with('-');
    *rest = after;
    Some(if negative { -us } else { us })
}

/// Takes `count` decimal digits off the front; at most nine, so that the number fits.
fn digits(rest: &mut &str, count: usize) -> Option<u32> {
    let front = rest.get(..count).filter(|front| front.bytes().all(|digit| digit.is_ascii_digit()))?;
    *rest = &rest[count..];
    front.parse().ok()
}

fn days_of_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

// Both directions after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March, so that
// the leap day is the last, and eras of 400 years repeat.
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

fn days_of_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - EPOCH_DAYS
}

fn civil_of_days(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_DAYS;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timestamps_are_read_from_milliseconds_and_iso_8601() {
        for (text, us) in [
            ("0", 0),
            ("1700000000123", 1_700_000_000_123_000),
            ("-1", -1000),
            ("1.5", 1500),
            ("1970-01-01", 0),
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T12:30:45.123456Z", 1_709_209_845_123_456),
            ("2024-02-29 12:30:45.123456789", 1_709_209_845_123_456),
            ("2024-02-29T12:30:45,1", 1_709_209_845_100_000),
            ("2024-02-29T14:30+02:00", 1_709_209_800_000_000),
            ("2024-02-29T14:30:00+0200", 1_709_209_800_000_000),
            ("2024-02-29t10:30:00-02", 1_709_209_800_000_000),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("0000-03-01T00:00:00Z", -719_468 * US_PER_DAY),
        ] {
            assert_eq!(timestamp_us(text), Ok(us), "{text}");
        }
        for text in [
            "",
            "now",
            "2024-01",
            "2024-13-01",
            "2023-02-29",
            "2024-01-01T",
            "2024-01-01T24:00:00",
            "2024-01-01T10:60",
            "2024-01-01T10:00:00.",
            "2024-01-01T10:00:00 UTC",
            "2024-01-01T10",
            "24-01-01",
            "2024-01-01Tééé",
            "999999-01-01T00:00:00.000001Z",
        ] {
            assert_eq!(timestamp_us(text), Err(NumberError::Syntax), "{text}");
        }
        assert_eq!(timestamp_us("1e30"), Err(NumberError::Range));
        assert_eq!(timestamp_us("0.0001"), Err(NumberError::Inexact));
    }

    #[test]
    fn dates_are_days_or_calendar_days_and_times_lie_within_a_day() {
        assert_eq!(date_days("19782"), Ok(19_782));
        assert_eq!(date_days("2024-02-29"), Ok(19_782));
        assert_eq!(date_days("2024-02-29T10:00:00"), Err(NumberError::Syntax));
        assert_eq!(time_us("36000000"), Ok(36_000_000_000));
        assert_eq!(time_us("10:00"), Ok(36_000_000_000));
        assert_eq!(time_us("10:00:00.000001"), Ok(36_000_000_001));
        assert_eq!(time_us("86400000"), Err(NumberError::Range));
        assert_eq!(time_us("-1"), Err(NumberError::Range));
        assert_eq!(time_us("10:00Z"), Err(NumberError::Syntax));
    }

    proptest! {
        #[test]
        fn every_timestamp_survives_being_written_and_read(us in any::<i64>()) {
            let mut text = Vec::new();
            write_timestamp(us, &mut text);
            let text = String::from_utf8(text).unwrap();
            prop_assert_eq!(timestamp_us(text.trim_matches('"')), Ok(us), "{}", text);
        }

        #[test]
        fn every_time_survives_being_written_and_read(us in 0..US_PER_DAY) {
            let mut text = Vec::new();
            write_time(us, &mut text);
            let text = String::from_utf8(text).unwrap();
            prop_assert_eq!(time_us(text.trim_matches('"')), Ok(us), "{}", text);
        }

        #[test]
        fn text_that_is_no_time_never_panics(text in ".{0,40}") {
            let _ = (timestamp_us(&text), date_days(&text), time_us(&text));
        }
    }
}
