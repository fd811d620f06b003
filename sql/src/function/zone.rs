//! `AT TIME ZONE`: a moment as a clock in that zone shows it, a clock's time in that zone as a moment.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, FixedOffset, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone};
use datafusion::error::Result;

use super::scalar::{Definition, is_text, texts};
use crate::error::{Error, SqlState};
use crate::types::utc;

/// `timezone(zone, time)`, which is how Postgres calls it too.
pub(super) static TIMEZONE: Definition = Definition { name: "timezone", takes, gives, rows };

/// Abbreviations that are an offset in Postgres, in hours east; some are the names of zones with summer time elsewhere.
const ABBREVIATIONS: [(&str, i32); 21] = [
    ("utc", 0),
    ("gmt", 0),
    ("z", 0),
    ("zulu", 0),
    ("ut", 0),
    ("wet", 0),
    ("cet", 1),
    ("bst", 1),
    ("cest", 2),
    ("eet", 2),
    ("msk", 3),
    ("eest", 3),
    ("jst", 9),
    ("edt", -4),
    ("est", -5),
    ("cdt", -5),
    ("cst", -6),
    ("mdt", -6),
    ("mst", -7),
    ("pdt", -7),
    ("pst", -8),
];

fn takes(kinds: &[DataType]) -> Option<Vec<DataType>> {
    let [zone, time] = kinds else { return None };
    let time = match time {
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(_)) | DataType::Date32 | DataType::Date64 => {
            DataType::Timestamp(TimeUnit::Microsecond, Some(utc()))
        }
        text if is_text(text) => DataType::Timestamp(TimeUnit::Microsecond, Some(utc())),
        _ => return None,
    };
    is_text(zone).then(|| vec![DataType::Utf8, time])
}

fn gives(kinds: &[DataType]) -> (DataType, Option<&'static str>) {
    let zone = match kinds {
        [_, DataType::Timestamp(_, None)] => Some(utc()),
        _ => None,
    };
    (DataType::Timestamp(TimeUnit::Microsecond, zone), None)
}

fn rows(arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let zones = texts(&arguments[0])?;
    let times = arguments[1].as_primitive::<TimestampMicrosecondType>();
    let is_clock = matches!(times.data_type(), DataType::Timestamp(_, None));
    let mut last: Option<(&str, Zone)> = None;
    let mut answers = Vec::with_capacity(rows);
    for row in 0..rows {
        if zones.is_null(row) || times.is_null(row) {
            answers.push(None);
            continue;
        }
        let name = zones.value(row);
        let zone = match last {
            Some((known, zone)) if known == name => zone,
            _ => zone_of(name)?,
        };
        last = Some((name, zone));
        let time = DateTime::from_timestamp_micros(times.value(row)).ok_or_else(beyond)?.naive_utc();
        let moved = if is_clock { zone.moment(time) } else { zone.clock(time) };
        answers.push(Some(moved.ok_or_else(beyond)?.and_utc().timestamp_micros()));
    }
    let answers = TimestampMicrosecondArray::from(answers);
    Ok(Arc::new(if is_clock { answers.with_timezone(utc()) } else { answers }))
}

fn beyond() -> Error {
    Error::new(SqlState::DatetimeOutOfRange, "timestamp out of range")
}

#[derive(Clone, Copy, Debug)]
enum Zone {
    Fixed(FixedOffset),
    Named(Tz),
}

impl Zone {
    fn offset_at(self, utc: NaiveDateTime) -> FixedOffset {
        match self {
            Self::Fixed(offset) => offset,
            Self::Named(zone) => zone.offset_from_utc_datetime(&utc).fix(),
        }
    }

    fn clock(self, utc: NaiveDateTime) -> Option<NaiveDateTime> {
        utc.checked_add_offset(self.offset_at(utc))
    }

    /// Of an hour that happens twice the second, as Postgres has it; one that is left out goes on from before.
    fn moment(self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let offset = match self {
            Self::Fixed(offset) => offset,
            Self::Named(zone) => match zone.offset_from_local_datetime(&local) {
                MappedLocalTime::Single(offset) | MappedLocalTime::Ambiguous(_, offset) => offset.fix(),
                MappedLocalTime::None => self.offset_at(local.checked_sub_signed(TimeDelta::days(1))?),
            },
        };
        local.checked_sub_offset(offset)
    }
}

/// A zone by its abbreviation, its offset (`+05`, which is west, as POSIX has it) or its name, in whatever case.
fn zone_of(name: &str) -> Result<Zone> {
    let lower = name.trim().to_lowercase();
    if let Some((_, hours)) = ABBREVIATIONS.iter().find(|(known, _)| *known == lower) {
        return fixed(hours * 3600).ok_or_else(|| unknown(name).into());
    }
    let offset = lower.strip_prefix("utc").or_else(|| lower.strip_prefix("gmt")).unwrap_or(&lower);
    if let Some(seconds) = seconds_west(offset) {
        return fixed(-seconds).ok_or_else(|| unknown(name).into());
    }
    let zone = name.trim().parse::<Tz>().or_else(|_| capitalized(&lower).parse::<Tz>());
    zone.map(Zone::Named).map_err(|_| unknown(name).into())
}

fn fixed(seconds_east: i32) -> Option<Zone> {
    FixedOffset::east_opt(seconds_east).map(Zone::Fixed)
}

fn unknown(name: &str) -> Error {
    Error::new(SqlState::InvalidParameterValue, format!("time zone \"{name}\" not recognized"))
        .with_hint("a name of the IANA's, such as 'Europe/Berlin'")
}

/// `+5`, `-03:30`.
fn seconds_west(offset: &str) -> Option<i32> {
    let (sign, digits) = match offset.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = digits.split_once(':').unwrap_or((digits, "0"));
    let (hours, minutes) = (hours.parse::<u8>().ok()?, minutes.parse::<u8>().ok()?);
    (minutes < 60 && hours < 24).then(|| sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60))
}

/// `europe/berlin` as `Europe/Berlin`.
fn capitalized(lower: &str) -> String {
    let mut upper = true;
    let letters = lower.chars().map(|letter| {
        let shown = if upper { letter.to_ascii_uppercase() } else { letter };
        upper = matches!(letter, '/' | '_' | '-');
        shown
    });
    letters.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> NaiveDateTime {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap()
    }

    #[test]
    fn a_clock_shows_summer_time_and_both_its_edges() {
        let berlin = zone_of("europe/berlin").unwrap();
        assert_eq!(berlin.clock(time("2024-07-01 12:00")), Some(time("2024-07-01 14:00")));
        assert_eq!(berlin.moment(time("2024-01-01 12:00")), Some(time("2024-01-01 11:00")));
        // Asked of Postgres 15.
        assert_eq!(berlin.moment(time("2024-03-31 02:30")), Some(time("2024-03-31 01:30")), "left out");
        assert_eq!(berlin.moment(time("2024-10-27 02:30")), Some(time("2024-10-27 01:30")), "twice");
    }

    #[test]
    fn offsets_count_to_the_west_as_posix_has_them() {
        let noon = time("2024-01-01 12:00");
        assert_eq!(zone_of("+05").unwrap().clock(noon), Some(time("2024-01-01 07:00")));
        assert_eq!(zone_of("-03:30").unwrap().clock(noon), Some(time("2024-01-01 15:30")));
        assert_eq!(zone_of("EST").unwrap().clock(noon), Some(time("2024-01-01 07:00")));
        for wrong in ["Mars/Base", "", "+99", "é"] {
            assert!(zone_of(wrong).is_err(), "{wrong}");
        }
    }
}
