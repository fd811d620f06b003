//! Reading a text by a template of `to_date` and `to_timestamp`, field by field.

use chrono::{NaiveDate, NaiveDateTime, TimeDelta};

use super::{DAYS, Field, MONTHS, ROMAN, strip};
use crate::error::{Error, Result, SqlState};

/// What has been read of a text.
#[derive(Debug, Default)]
pub(super) struct Found {
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
    pub(super) fn take<'a>(&mut self, field: Field, text: &'a str, limited: bool) -> Result<&'a str> {
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
            field => self.take_number(field, text, limited)?,
        })
    }

    /// A field that is a number as it stands.
    fn take_number<'a>(&mut self, field: Field, text: &'a str, limited: bool) -> Result<&'a str> {
        let number = |width: usize| digits(text, field, if limited { width } else { usize::MAX });
        Ok(match field {
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
            _ => {
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

    pub(super) fn time(&self) -> Option<NaiveDateTime> {
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
