//! Templates of `to_char`, `to_date` and `to_timestamp` for times, as Postgres reads them.

use chrono::{Datelike, NaiveDateTime, Timelike};

use crate::error::{Error, Result, SqlState};

mod read;

use read::Found;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const ROMAN: [&str; 12] = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];
/// Letters that a name is padded to.
const NAME_WIDTH: usize = 9;

/// Patterns, the longer ones before their beginnings.
const PATTERNS: [(&str, Field); 49] = [
    ("SSSSS", Field::SecondOfDay),
    ("SSSS", Field::SecondOfDay),
    ("Y,YYY", Field::YearWithComma),
    ("YYYY", Field::Year(4)),
    ("IYYY", Field::IsoYear(4)),
    ("HH24", Field::Hour24),
    ("HH12", Field::Hour12),
    ("A.M.", Field::Noon(true)),
    ("P.M.", Field::Noon(true)),
    ("B.C.", Field::Era(true)),
    ("A.D.", Field::Era(true)),
    ("MONTH", Field::Month),
    ("IDDD", Field::IsoDayOfYear),
    ("YYY", Field::Year(3)),
    ("IYY", Field::IsoYear(3)),
    ("DDD", Field::DayOfYear),
    ("DAY", Field::Day),
    ("MON", Field::Mon),
    ("TZH", Field::ZoneHours),
    ("TZM", Field::ZoneMinutes),
    ("FF1", Field::Fraction(1)),
    ("FF2", Field::Fraction(2)),
    ("FF3", Field::Fraction(3)),
    ("FF4", Field::Fraction(4)),
    ("FF5", Field::Fraction(5)),
    ("FF6", Field::Fraction(6)),
    ("HH", Field::Hour12),
    ("MI", Field::Minute),
    ("MM", Field::MonthNumber),
    ("MS", Field::Milliseconds),
    ("US", Field::Microseconds),
    ("SS", Field::Second),
    ("DD", Field::DayOfMonth),
    ("DY", Field::Dy),
    ("YY", Field::Year(2)),
    ("IY", Field::IsoYear(2)),
    ("ID", Field::IsoDayOfWeek),
    ("IW", Field::IsoWeek),
    ("WW", Field::Week),
    ("CC", Field::Century),
    ("RM", Field::Roman),
    ("AM", Field::Noon(false)),
    ("PM", Field::Noon(false)),
    ("BC", Field::Era(false)),
    ("AD", Field::Era(false)),
    ("TZ", Field::Zone),
    ("OF", Field::Offset),
    ("Y", Field::Year(1)),
    ("I", Field::IsoYear(1)),
];

/// Patterns of one letter that are behind all others.
const LETTERS: [(&str, Field); 4] =
    [("D", Field::DayOfWeek), ("W", Field::WeekOfMonth), ("J", Field::Julian), ("Q", Field::Quarter)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Year(u32),
    YearWithComma,
    IsoYear(u32),
    Century,
    Era(bool),
    Quarter,
    Month,
    Mon,
    MonthNumber,
    Roman,
    Week,
    IsoWeek,
    WeekOfMonth,
    DayOfYear,
    IsoDayOfYear,
    DayOfMonth,
    DayOfWeek,
    IsoDayOfWeek,
    Day,
    Dy,
    Julian,
    Hour24,
    Hour12,
    Minute,
    Second,
    SecondOfDay,
    Milliseconds,
    Microseconds,
    Fraction(usize),
    Noon(bool),
    Zone,
    ZoneHours,
    ZoneMinutes,
    Offset,
}

/// How a name's letters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Letters {
    Upper,
    Capital,
    Lower,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// A field; whether without padding, whether with `th` behind it (in capitals).
    Field { field: Field, letters: Letters, is_bare: bool, ordinal: Option<bool> },
    /// Text as it stands.
    Text(String),
    /// What separates; when read, any other sign that separates is as good.
    Separator(char),
}

/// A template, read once.
#[derive(Clone, Debug)]
pub(super) struct Template(Vec<Part>);

impl Template {
    /// Reads a template; what is no pattern is text.
    pub(super) fn of(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        let mut is_bare = false;
        while let Some(char) = rest.chars().next() {
            if let Some(behind) = strip(rest, "FM") {
                (is_bare, rest) = (true, behind);
                continue;
            }
            if let Some(behind) = strip(rest, "FX").or_else(|| strip(rest, "TM")) {
                rest = behind;
                continue;
            }
            if let Some(inside) = rest.strip_prefix('"') {
                let (inside, behind) = inside.split_once('"').unwrap_or((inside, ""));
                parts.push(Part::Text(inside.to_owned()));
                rest = behind;
                continue;
            }
            let found = PATTERNS
                .iter()
                .chain(&LETTERS)
                .find_map(|(pattern, field)| strip(rest, pattern).map(|behind| (*field, pattern.len(), behind)));
            let Some((field, length, mut behind)) = found else {
                let part = if char.is_alphanumeric() { Part::Text(char.to_string()) } else { Part::Separator(char) };
                parts.push(part);
                rest = rest.get(char.len_utf8()..).unwrap_or("");
                continue;
            };
            let letters = letters_of(rest.get(..length).unwrap_or(""));
            let ordinal = strip(behind, "TH").map(|after| {
                let in_capitals = behind.starts_with('T');
                behind = after;
                in_capitals
            });
            parts.push(Part::Field { field, letters, is_bare, ordinal });
            (is_bare, rest) = (false, behind);
        }
        Self(parts)
    }

    /// A time in this form; `zoned`: it is a moment, in UTC.
    pub(super) fn write(&self, time: NaiveDateTime, zoned: bool) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Separator(char) => out.push(*char),
                Part::Field { field, letters, is_bare, ordinal } => {
                    let written = written(*field, *letters, *is_bare, time, zoned);
                    out.push_str(&written);
                    if let Some(in_capitals) = ordinal {
                        let ending = ordinal_of(&written);
                        out.push_str(&if *in_capitals { ending.to_uppercase() } else { ending.to_owned() });
                    }
                }
            }
        }
        out
    }

    /// The time that a text in this form says.
    ///
    /// # Errors
    /// 22007, 22008.
    pub(super) fn read(&self, text: &str) -> Result<NaiveDateTime> {
        let mut found = Found::default();
        let mut rest = text.trim_start();
        for (index, part) in self.0.iter().enumerate() {
            match part {
                Part::Separator(_) | Part::Text(_) => {
                    let skipped = match part {
                        Part::Text(text) => text.chars().count(),
                        _ => 1,
                    };
                    for _ in 0..skipped {
                        let is_sign = |char: char| !char.is_alphanumeric() && char != '-' && char != '+';
                        let is_text = matches!(part, Part::Text(_));
                        let next_is_sign = rest.starts_with(['-', '+']) && next_is_number(&self.0, index);
                        match rest.chars().next() {
                            Some(char) if is_text || is_sign(char) || next_is_sign => {
                                rest = rest.get(char.len_utf8()..).unwrap_or("");
                            }
                            _ => break,
                        }
                    }
                }
                Part::Field { field, .. } => {
                    rest = rest.trim_start();
                    // Signs that no part stands for are passed over.
                    rest = rest.trim_start_matches([',', '/', '.', ':', ';']);
                    let limited = matches!(self.0.get(index + 1), Some(Part::Field { .. }));
                    rest = found.take(*field, rest, limited)?;
                }
            }
        }
        found.time().ok_or_else(|| {
            Error::new(SqlState::DatetimeOutOfRange, format!("date/time field value out of range: \"{text}\""))
        })
    }
}

fn next_is_number(parts: &[Part], index: usize) -> bool {
    matches!(parts.get(index + 1), Some(Part::Field { .. }))
}

/// Without a beginning, whatever its letters' case.
fn strip<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(start.len())?;
    head.eq_ignore_ascii_case(start).then_some(rest)
}

fn letters_of(pattern: &str) -> Letters {
    let mut letters = pattern.chars().filter(char::is_ascii_alphabetic);
    match (letters.next().is_some_and(char_is_upper), letters.next().is_none_or(char_is_upper)) {
        (true, true) => Letters::Upper,
        (true, false) => Letters::Capital,
        (false, _) => Letters::Lower,
    }
}

fn char_is_upper(char: char) -> bool {
    char.is_ascii_uppercase()
}

pub(super) fn ordinal_of(number: &str) -> &'static str {
    let last: String = number.chars().rev().take(2).collect();
    let mut digits = last.chars();
    match (digits.next(), digits.next()) {
        (_, Some('1')) => "th",
        (Some('1'), _) => "st",
        (Some('2'), _) => "nd",
        (Some('3'), _) => "rd",
        _ => "th",
    }
}

fn in_letters(name: &str, letters: Letters, width: usize) -> String {
    let name = match letters {
        Letters::Upper => name.to_uppercase(),
        Letters::Capital => name.to_owned(),
        Letters::Lower => name.to_lowercase(),
    };
    format!("{name:width$}")
}

fn written(field: Field, letters: Letters, is_bare: bool, time: NaiveDateTime, zoned: bool) -> String {
    let number = |value: i64, width: usize| {
        let width = if is_bare { 0 } else { width };
        if value < 0 { format!("-{:0width$}", value.unsigned_abs()) } else { format!("{value:0width$}") }
    };
    let name = |name: &str, padded: bool| in_letters(name, letters, if padded && !is_bare { NAME_WIDTH } else { 0 });
    // Years before the first are counted back from it.
    let era_year = |year: i32| i64::from(if year > 0 { year } else { 1 - year });
    let digits_of_year = |year: i32, digits: u32| match digits {
        4 => number(era_year(year), 4),
        digits => number(era_year(year) % 10_i64.pow(digits), digits as usize),
    };
    let weekday = time.weekday();
    match field {
        Field::Year(digits) => digits_of_year(time.year(), digits),
        Field::YearWithComma => {
            let year = era_year(time.year());
            format!("{},{:03}", year / 1000, year % 1000)
        }
        Field::IsoYear(digits) => digits_of_year(time.iso_week().year(), digits),
        Field::Century => number((era_year(time.year()) + 99) / 100, 2),
        Field::Era(dotted) => {
            let era = match (time.year() > 0, dotted) {
                (true, false) => "AD",
                (false, false) => "BC",
                (true, true) => "A.D.",
                (false, true) => "B.C.",
            };
            if letters == Letters::Lower { era.to_lowercase() } else { era.to_owned() }
        }
        Field::Quarter => number(i64::from(time.month0() / 3 + 1), 1),
        Field::Month => name(MONTHS[time.month0() as usize % 12], true),
        Field::Mon => name(MONTHS[time.month0() as usize % 12].get(..3).unwrap_or(""), false),
        Field::MonthNumber => number(time.month().into(), 2),
        Field::Roman => {
            let roman = ROMAN[time.month0() as usize % 12];
            let roman = if letters == Letters::Lower { roman.to_lowercase() } else { roman.to_owned() };
            if is_bare { roman } else { format!("{roman:4}") }
        }
        Field::Week => number(i64::from(time.ordinal0() / 7 + 1), 2),
        Field::IsoWeek => number(time.iso_week().week().into(), 2),
        Field::WeekOfMonth => number(i64::from(time.day0() / 7 + 1), 1),
        Field::DayOfYear => number(time.ordinal().into(), 3),
        Field::IsoDayOfYear => number(i64::from((time.iso_week().week() - 1) * 7 + weekday.number_from_monday()), 3),
        Field::DayOfMonth => number(time.day().into(), 2),
        Field::DayOfWeek => number(i64::from(weekday.num_days_from_sunday() + 1), 1),
        Field::IsoDayOfWeek => number(weekday.number_from_monday().into(), 1),
        Field::Day => name(DAYS[weekday.num_days_from_sunday() as usize % 7], true),
        Field::Dy => name(DAYS[weekday.num_days_from_sunday() as usize % 7].get(..3).unwrap_or(""), false),
        Field::Julian => (i64::from(time.num_days_from_ce()) + 1_721_425).to_string(),
        field => written_clock(field, letters, is_bare, time, zoned),
    }
}

/// A field of the time of day, or of the zone.
fn written_clock(field: Field, letters: Letters, is_bare: bool, time: NaiveDateTime, zoned: bool) -> String {
    let number = |value: i64, width: usize| {
        let width = if is_bare { 0 } else { width };
        format!("{value:0width$}")
    };
    let hour12 = i64::from((time.hour() + 11) % 12 + 1);
    let us = i64::from(time.nanosecond() / 1000);
    match field {
        Field::Hour24 => number(time.hour().into(), 2),
        Field::Hour12 => number(hour12, 2),
        Field::Minute => number(time.minute().into(), 2),
        Field::Second => number(time.second().into(), 2),
        Field::SecondOfDay => time.num_seconds_from_midnight().to_string(),
        Field::Milliseconds => number(us / 1000, 3),
        Field::Microseconds => number(us, 6),
        Field::Fraction(digits) => format!("{us:06}").get(..digits).unwrap_or("").to_owned(),
        Field::Noon(dotted) => {
            let noon = match (time.hour() >= 12, dotted) {
                (false, false) => "AM",
                (true, false) => "PM",
                (false, true) => "A.M.",
                (true, true) => "P.M.",
            };
            if letters == Letters::Lower { noon.to_lowercase() } else { noon.to_owned() }
        }
        Field::Zone if zoned => if letters == Letters::Lower { "utc" } else { "UTC" }.to_owned(),
        Field::Offset | Field::ZoneHours => "+00".to_owned(),
        Field::ZoneMinutes => "00".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> NaiveDateTime {
        text.parse().unwrap()
    }

    #[test]
    fn times_are_written_as_postgres_writes_them() {
        let at = time("2024-02-05T15:04:05.067089");
        // Each asked of Postgres 15.
        for (template, wanted) in [
            ("YYYY-MM-DD HH24:MI:SS.MS", "2024-02-05 15:04:05.067"),
            ("DD\" of \"Mon", "05 of Feb"),
            ("FMDDth FMMonth YYYY", "5th February 2024"),
            ("Month|MON|Day|DY", "February |FEB|Monday   |MON"),
            ("HH12:MI AM, hh:mi p.m.", "03:04 PM, 03:04 p.m."),
            ("Q WW IW DDD D ID J", "1 06 06 036 2 1 2460346"),
            ("Y,YYY YY US SSSS CC RM", "2,024 24 067089 54245 21 II  "),
        ] {
            assert_eq!(Template::of(template).write(at, false), wanted, "{template}");
        }
    }

    #[test]
    fn texts_are_read_by_their_template() {
        for (template, text, wanted) in [
            ("YYYY-MM-DD", "2024-02-29", "2024-02-29T00:00:00"),
            ("YYYYMMDD", "20240229", "2024-02-29T00:00:00"),
            ("DD Mon YYYY", "5 feb 2024", "2024-02-05T00:00:00"),
            ("DD/MM/YYYY HH12:MI PM", "29/02/2024 01:30 pm", "2024-02-29T13:30:00"),
            ("YYYY-MM-DD HH24:MI:SS.MS", "2024-01-02 03:04:05.5", "2024-01-02T03:04:05.500"),
            ("IYYY-IW-ID", "2024-09-4", "2024-02-29T00:00:00"),
        ] {
            assert_eq!(Template::of(template).read(text).unwrap(), time(wanted), "{template}");
        }
        let state = |template: &str, text: &str| Template::of(template).read(text).unwrap_err().state;
        assert_eq!(state("YYYY-MM-DD", "2024-02-30"), SqlState::DatetimeOutOfRange);
        assert_eq!(state("YYYY-MM-DD", "soon"), SqlState::InvalidDatetimeFormat);
    }
}
