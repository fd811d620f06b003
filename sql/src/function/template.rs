//! Templates of `to_char`, `to_date` and `to_timestamp` for times, as Postgres reads them.

use chrono::{Datelike, NaiveDate, NaiveDateTime, TimeDelta, Timelike};

use crate::error::{Error, Result, SqlState};

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
    let hour12 = i64::from((time.hour() + 11) % 12 + 1);
    let us = i64::from(time.nanosecond() / 1000);
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
        Field::Zone => String::new(),
    }
}

/// What has been read of a text.
#[derive(Debug, Default)]
struct Found {
    year: Option<i32>,
    is_before: bool,
    month: Option<u32>,
    day: Option<u32>,
    day_of_year: Option<u32>,
    iso: (Option<i32>, Option<u32>, Option<u32>),
    julian: Option<i32>,
    hour: Option<u32>,
    is_afternoon: Option<bool>,
    is_hour12: bool,
    minute: u32,
    second: u32,
    us: u32,
    seconds_of_day: Option<u32>,
    offset_minutes: i64,
}

impl Found {
    /// Reads a field from the beginning of a text; what is behind it. `limited`: the next field follows without a sign
    /// between them, so that this one has no more digits than its pattern.
    fn take<'a>(&mut self, field: Field, text: &'a str, limited: bool) -> Result<&'a str> {
        let number = |width: usize| digits(text, field, if limited { width } else { usize::MAX });
        Ok(match field {
            Field::Year(width) => {
                let (year, length, rest) = digits(text, field, if limited { width as usize } else { usize::MAX })?;
                self.year = Some(full_year(year, length));
                rest
            }
            Field::YearWithComma => {
                let end = text.find(|char: char| !char.is_ascii_digit() && char != ',').unwrap_or(text.len());
                let (year, rest) = text.split_at(end);
                self.year = Some(year.replace(',', "").parse().map_err(|_| misread(text, field))?);
                rest
            }
            Field::IsoYear(width) => {
                let (year, length, rest) = digits(text, field, if limited { width as usize } else { usize::MAX })?;
                self.iso.0 = Some(full_year(year, length));
                rest
            }
            Field::Month | Field::Mon => {
                let (index, rest) = named(text, &MONTHS, field)?;
                self.month = Some(index + 1);
                rest
            }
            Field::Roman => {
                let month =
                    ROMAN.iter().enumerate().rev().filter_map(|(index, roman)| Some((index, strip(text, roman)?)));
                let (index, rest) = month.min_by_key(|(_, rest)| rest.len()).ok_or_else(|| misread(text, field))?;
                self.month = u32::try_from(index + 1).ok();
                rest
            }
            Field::Day | Field::Dy => named(text, &DAYS, field)?.1,
            Field::Era(_) => {
                let (era, rest) = word(text, &["BC", "B.C.", "AD", "A.D."], field)?;
                self.is_before = era < 2;
                rest
            }
            Field::Noon(_) => {
                let (noon, rest) = word(text, &["PM", "P.M.", "AM", "A.M."], field)?;
                self.is_afternoon = Some(noon < 2);
                rest
            }
            Field::MonthNumber => put(&mut self.month, number(2)?),
            Field::DayOfMonth => put(&mut self.day, number(2)?),
            Field::DayOfYear => put(&mut self.day_of_year, number(3)?),
            Field::IsoWeek => put(&mut self.iso.1, number(2)?),
            Field::IsoDayOfWeek => put(&mut self.iso.2, number(1)?),
            Field::Hour24 => put(&mut self.hour, number(2)?),
            Field::Hour12 => {
                self.is_hour12 = true;
                put(&mut self.hour, number(2)?)
            }
            Field::SecondOfDay => put(&mut self.seconds_of_day, number(5)?),
            Field::Julian => {
                let (days, _, rest) = number(usize::MAX)?;
                self.julian = Some(days.cast_signed());
                rest
            }
            Field::Minute => {
                let (value, _, rest) = number(2)?;
                self.minute = value;
                rest
            }
            Field::Second => {
                let (value, _, rest) = number(2)?;
                self.second = value;
                rest
            }
            Field::Milliseconds => self.fraction(text, field, 3, limited)?,
            Field::Microseconds => self.fraction(text, field, 6, limited)?,
            Field::Fraction(width) => self.fraction(text, field, width, limited)?,
            Field::ZoneHours => {
                let (sign, digits_of) = match text.split_at_checked(1) {
                    Some(("-", rest)) => (-1, rest),
                    Some(("+", rest)) => (1, rest),
                    _ => (1, text),
                };
                let (hours, _, rest) = digits(digits_of, field, 2)?;
                self.offset_minutes = sign * i64::from(hours) * 60;
                rest
            }
            Field::ZoneMinutes => {
                let (minutes, _, rest) = number(2)?;
                self.offset_minutes += self.offset_minutes.signum() * i64::from(minutes);
                rest
            }
            Field::Century | Field::Quarter | Field::Week | Field::WeekOfMonth | Field::DayOfWeek => number(2)?.2,
            Field::IsoDayOfYear | Field::Zone | Field::Offset => {
                return Err(Error::unsupported(format!("reading the pattern {field:?} of a time"))
                    .with_hint("use YYYY, MM, DD, HH24, MI, SS, MS, US, TZH"));
            }
        })
    }

    /// Digits behind a point: `5` is half a second, whatever the pattern's width.
    fn fraction<'a>(&mut self, text: &'a str, field: Field, width: usize, limited: bool) -> Result<&'a str> {
        let (_, length, rest) = digits(text, field, if limited { width } else { usize::MAX })?;
        let digits = text.get(..length).unwrap_or("").get(..length.min(6)).unwrap_or("");
        self.us = format!("{digits:0<6}").parse().unwrap_or(0);
        Ok(rest)
    }

    fn date(&self) -> Option<NaiveDate> {
        if let Some(julian) = self.julian {
            return NaiveDate::from_num_days_from_ce_opt(julian.checked_sub(1_721_425)?);
        }
        if let (Some(year), Some(week), day) = self.iso {
            let weekday = chrono::Weekday::try_from(u8::try_from(day.unwrap_or(1).checked_sub(1)?).ok()?).ok()?;
            return NaiveDate::from_isoywd_opt(year, week, weekday);
        }
        let year = match (self.year, self.is_before) {
            (Some(year), true) => 1 - year,
            (Some(year), false) => year,
            (None, _) => 0,
        };
        match self.day_of_year {
            Some(day) => NaiveDate::from_yo_opt(year, day),
            None => NaiveDate::from_ymd_opt(year, self.month.unwrap_or(1), self.day.unwrap_or(1)),
        }
    }

    fn time(&self) -> Option<NaiveDateTime> {
        let day = self.date()?;
        if let Some(seconds) = self.seconds_of_day {
            return (seconds <= 86_400)
                .then_some(())
                .and_then(|()| day.and_hms_opt(0, 0, 0)?.checked_add_signed(TimeDelta::seconds(seconds.into())));
        }
        let mut hour = self.hour.unwrap_or(0);
        if self.is_hour12 {
            if !(1..=12).contains(&hour) {
                return None;
            }
            hour = match self.is_afternoon {
                Some(true) => hour % 12 + 12,
                Some(false) => hour % 12,
                None => hour,
            };
        }
        let time = day.and_hms_micro_opt(hour, self.minute, self.second, self.us)?;
        time.checked_sub_signed(TimeDelta::minutes(self.offset_minutes))
    }
}

/// Years of fewer than four digits are those nearest to 2020.
fn full_year(year: u32, digits: usize) -> i32 {
    let year = year.cast_signed();
    match digits {
        1 | 2 if year < 70 => year + 2000,
        1 | 2 => year + 1900,
        3 if year < 520 => year + 2000,
        3 => year + 1000,
        _ => year,
    }
}

fn put<'a>(place: &mut Option<u32>, (value, _, rest): (u32, usize, &'a str)) -> &'a str {
    *place = Some(value);
    rest
}

/// A number, how many digits it has, and what is behind it.
fn digits(text: &str, field: Field, max: usize) -> Result<(u32, usize, &str)> {
    let length = text.bytes().take(max).take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(length);
    let value = number.get(..number.len().min(9)).unwrap_or("").parse().map_err(|_| misread(text, field))?;
    Ok((value, length, rest))
}

fn misread(text: &str, field: Field) -> Error {
    let start: String = text.chars().take(10).collect();
    Error::new(SqlState::InvalidDatetimeFormat, format!("invalid value \"{start}\" for {field:?}"))
        .with_hint("the text has to have the template's form")
}

/// A name or its first three letters.
fn named<'a>(text: &'a str, names: &[&str], field: Field) -> Result<(u32, &'a str)> {
    let found = names.iter().zip(0..).find_map(|(name, index)| {
        let short = name.get(..3).unwrap_or(name);
        strip(text, name).or_else(|| strip(text, short)).map(|rest| (index, rest))
    });
    found.ok_or_else(|| misread(text, field))
}

fn word<'a>(text: &'a str, words: &[&str], field: Field) -> Result<(usize, &'a str)> {
    let found = words.iter().enumerate().find_map(|(index, word)| strip(text, word).map(|rest| (index, rest)));
    found.ok_or_else(|| misread(text, field))
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
