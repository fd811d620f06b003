//! Intervals as Postgres reckons with them: a month has 30 days and a day 24 hours where two are compared or one is
//! divided, and nowhere else.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, IntervalMonthDayNanoArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, DurationMicrosecondType, Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
    IntervalUnit, TimeUnit, TimestampMicrosecondType,
};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime};
use datafusion::error::Result;

use super::scalar::{Definition, is_text};
use crate::error::{Error, SqlState};
use crate::written::{DAY_US, interval_of_duration};

const DAY_NS: i128 = 86_400_000_000_000;
const MONTH_DAYS: i32 = 30;
const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// What is compared in place of an interval.
pub(super) static KEY: Definition = Definition {
    name: "interval_length",
    takes: |kinds| one_interval(kinds, true),
    gives: |_| (DataType::Decimal128(38, 0), None),
    rows: |arguments, _| {
        let lengths: Vec<Option<i128>> = match arguments[0].data_type() {
            DataType::Duration(_) => {
                let spans = arguments[0].as_primitive::<DurationMicrosecondType>();
                spans.iter().map(|us| us.map(|us| i128::from(us) * 1000)).collect()
            }
            _ => intervals(&arguments[0]).iter().map(|interval| interval.map(length)).collect(),
        };
        Ok(Arc::new(Decimal128Array::from(lengths).with_precision_and_scale(38, 0)?))
    },
};

/// A difference of times as the interval it is.
pub(super) static OF_DURATION: Definition = Definition {
    name: "interval_of",
    takes: |kinds| one_interval(kinds, true),
    gives: |_| (INTERVAL, None),
    rows: |arguments, _| match arguments[0].data_type() {
        DataType::Duration(_) => Ok(interval_of_duration(&arguments[0])?),
        _ => Ok(Arc::clone(&arguments[0])),
    },
};

pub(super) static MULTIPLY: Definition = Definition {
    name: "interval_mul",
    takes: interval_and_number,
    gives: |_| (INTERVAL, None),
    rows: |arguments, _| scaled(arguments, |number, by| Ok(number * by)),
};

pub(super) static DIVIDE: Definition = Definition {
    name: "interval_div",
    takes: interval_and_number,
    gives: |_| (INTERVAL, None),
    rows: |arguments, _| {
        scaled(arguments, |number, by| match by {
            0.0 => Err(Error::new(SqlState::DivisionByZero, "division by zero")),
            by => Ok(number / by),
        })
    },
};

pub(super) static JUSTIFY_HOURS: Definition = Definition {
    name: "justify_hours",
    takes: |kinds| one_interval(kinds, false),
    gives: |_| (INTERVAL, None),
    rows: |arguments, _| each(&arguments[0], |interval| with_days(interval, interval.months)),
};

pub(super) static JUSTIFY_DAYS: Definition = Definition {
    name: "justify_days",
    takes: |kinds| one_interval(kinds, false),
    gives: |_| (INTERVAL, None),
    rows: |arguments, _| each(&arguments[0], with_months),
};

pub(super) static JUSTIFY_INTERVAL: Definition = Definition {
    name: "justify_interval",
    takes: |kinds| one_interval(kinds, false),
    gives: |_| (INTERVAL, None),
    rows: |arguments, _| {
        each(&arguments[0], |interval| with_signs(with_months(with_days(interval, interval.months)?)?))
    },
};

/// `age(later, earlier)` in years, months, days and time.
pub(super) static AGE: Definition = Definition {
    name: "age",
    takes: |kinds| {
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        let fits = |kind: &DataType| {
            matches!(kind, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64) || is_text(kind)
        };
        (kinds.len() == 2 && kinds.iter().all(fits)).then(|| vec![time.clone(), time])
    },
    gives: |_| (INTERVAL, None),
    rows: |arguments, rows| {
        let of = |index: usize| arguments[index].as_primitive::<TimestampMicrosecondType>();
        let (later, earlier) = (of(0), of(1));
        let ages = (0..rows).map(|row| {
            if later.is_null(row) || earlier.is_null(row) {
                return Ok(None);
            }
            age(later.value(row), earlier.value(row)).map(Some)
        });
        Ok(Arc::new(ages.collect::<Result<IntervalMonthDayNanoArray>>()?))
    },
};

/// `make_interval(years, months, weeks, days, hours, mins, secs)`.
pub(super) static MAKE_INTERVAL: Definition = Definition {
    name: "make_interval",
    takes: |kinds| {
        let whole = kinds.iter().take(6).all(|kind| kind.is_integer());
        (whole && (1..=7).contains(&kinds.len())).then(|| {
            let of = |index| if index == 6 { DataType::Float64 } else { DataType::Int64 };
            (0..kinds.len()).map(of).collect()
        })
    },
    gives: |_| (INTERVAL, None),
    rows: |arguments, rows| {
        let whole = |index: usize, row: usize| -> i64 {
            arguments.get(index).map_or(0, |column| column.as_primitive::<Int64Type>().value(row))
        };
        let made = (0..rows).map(|row| {
            if arguments.iter().any(|column| column.is_null(row)) {
                return Ok(None);
            }
            let seconds = arguments.get(6).map_or(0.0, |column| column.as_primitive::<Float64Type>().value(row));
            let months = whole(0, row).checked_mul(12).and_then(|months| months.checked_add(whole(1, row)));
            let days = whole(2, row).checked_mul(7).and_then(|days| days.checked_add(whole(3, row)));
            let minutes = whole(4, row).checked_mul(60).and_then(|minutes| minutes.checked_add(whole(5, row)));
            let ns = minutes.and_then(|minutes| minutes.checked_mul(60_000_000_000));
            let ns = ns.and_then(|ns| ns.checked_add((seconds * 1e6).round_ties_even() as i64 * 1000));
            let (Some(months), Some(days), Some(ns)) = (months, days, ns) else { return Err(beyond().into()) };
            Ok(Some(IntervalMonthDayNano::new(narrow(months)?, narrow(days)?, ns)))
        });
        Ok(Arc::new(made.collect::<Result<IntervalMonthDayNanoArray>>()?))
    },
};

/// `make_timestamp(year, month, day, hour, min, sec)`.
pub(super) static MAKE_TIMESTAMP: Definition = Definition {
    name: "make_timestamp",
    takes: |kinds| {
        let whole = kinds.iter().take(5).all(|kind| kind.is_integer() || *kind == DataType::Null);
        (kinds.len() == 6 && whole && kinds[5].is_numeric()).then(|| {
            let of = |index| if index == 5 { DataType::Float64 } else { DataType::Int64 };
            (0..6).map(of).collect()
        })
    },
    gives: |_| (DataType::Timestamp(TimeUnit::Microsecond, None), None),
    rows: |arguments, rows| {
        let whole: Vec<&Int64Array> =
            arguments.iter().take(5).map(|column| column.as_primitive::<Int64Type>()).collect();
        let seconds: &Float64Array = arguments[5].as_primitive::<Float64Type>();
        let made = (0..rows).map(|row| {
            if arguments.iter().any(|column| column.is_null(row)) {
                return Ok(None);
            }
            let field = |index: usize| u32::try_from(whole[index].value(row)).ok();
            let us = (seconds.value(row) * 1e6).round_ties_even() as i64;
            let time = i32::try_from(whole[0].value(row)).ok().and_then(|year| {
                let (hour, minute) = (field(3)?, field(4)?);
                let day = NaiveDate::from_ymd_opt(year, field(1)?, field(2)?)?.and_hms_opt(0, 0, 0)?;
                let in_range = hour < 24 && minute < 60 && (0..=60_000_000).contains(&us);
                let of_day = i64::from(hour) * 3_600_000_000 + i64::from(minute) * 60_000_000 + us;
                in_range.then(|| day.and_utc().timestamp_micros() + of_day)
            });
            let wrong = || Error::new(SqlState::DatetimeOutOfRange, "date/time field value out of range");
            Ok(Some(time.ok_or_else(wrong)?))
        });
        Ok(Arc::new(made.collect::<Result<TimestampMicrosecondArray>>()?))
    },
};

/// `isfinite(time)`: there is no infinite one here.
pub(super) static IS_FINITE: Definition = Definition {
    name: "isfinite",
    takes: |kinds| (kinds.len() == 1 && kinds[0].is_temporal()).then(|| kinds.to_vec()),
    gives: |_| (DataType::Boolean, None),
    rows: |arguments, rows| {
        let known = (0..rows).map(|row| arguments[0].is_valid(row).then_some(true));
        Ok(Arc::new(known.collect::<arrow::array::BooleanArray>()))
    },
};

fn one_interval(kinds: &[DataType], or_duration: bool) -> Option<Vec<DataType>> {
    match kinds {
        [DataType::Duration(_)] if or_duration => Some(vec![DataType::Duration(TimeUnit::Microsecond)]),
        [DataType::Interval(_) | DataType::Duration(_)] => Some(vec![INTERVAL]),
        [text] if is_text(text) => Some(vec![INTERVAL]),
        _ => None,
    }
}

fn interval_and_number(kinds: &[DataType]) -> Option<Vec<DataType>> {
    match kinds {
        [DataType::Interval(_), number] if number.is_numeric() || number.is_null() => {
            Some(vec![INTERVAL, DataType::Float64])
        }
        _ => None,
    }
}

fn intervals(column: &ArrayRef) -> &IntervalMonthDayNanoArray {
    column.as_primitive::<IntervalMonthDayNanoType>()
}

fn beyond() -> Error {
    Error::new(SqlState::DatetimeOutOfRange, "interval out of range")
}

fn narrow(count: i64) -> Result<i32> {
    i32::try_from(count).map_err(|_| beyond().into())
}

/// In nanoseconds.
fn length(interval: IntervalMonthDayNano) -> i128 {
    let days = i128::from(interval.months) * i128::from(MONTH_DAYS) + i128::from(interval.days);
    days * DAY_NS + i128::from(interval.nanoseconds)
}

fn each(column: &ArrayRef, change: impl Fn(IntervalMonthDayNano) -> Result<IntervalMonthDayNano>) -> Result<ArrayRef> {
    let changed = intervals(column).iter().map(|interval| interval.map(&change).transpose());
    Ok(Arc::new(changed.collect::<Result<IntervalMonthDayNanoArray>>()?))
}

/// Hours beyond a day become days.
fn with_days(interval: IntervalMonthDayNano, months: i32) -> Result<IntervalMonthDayNano> {
    let day = DAY_US * 1000;
    let mut days = i64::from(interval.days) + interval.nanoseconds / day;
    let mut rest = interval.nanoseconds % day;
    if days > 0 && rest < 0 {
        (days, rest) = (days - 1, rest + day);
    } else if days < 0 && rest > 0 {
        (days, rest) = (days + 1, rest - day);
    }
    Ok(IntervalMonthDayNano::new(months, narrow(days)?, rest))
}

/// Days beyond a month become months.
fn with_months(interval: IntervalMonthDayNano) -> Result<IntervalMonthDayNano> {
    let mut months = i64::from(interval.months) + i64::from(interval.days / MONTH_DAYS);
    let mut days = interval.days % MONTH_DAYS;
    if months > 0 && days < 0 {
        (months, days) = (months - 1, days + MONTH_DAYS);
    } else if months < 0 && days > 0 {
        (months, days) = (months + 1, days - MONTH_DAYS);
    }
    Ok(IntervalMonthDayNano::new(narrow(months)?, days, interval.nanoseconds))
}

/// All fields of one sign.
fn with_signs(interval: IntervalMonthDayNano) -> Result<IntervalMonthDayNano> {
    let IntervalMonthDayNano { mut months, mut days, mut nanoseconds } = interval;
    if months > 0 && (days < 0 || (days == 0 && nanoseconds < 0)) {
        (months, days) = (months - 1, days + MONTH_DAYS);
    } else if months < 0 && (days > 0 || (days == 0 && nanoseconds > 0)) {
        (months, days) = (months + 1, days - MONTH_DAYS);
    }
    let day = DAY_US * 1000;
    if days > 0 && nanoseconds < 0 {
        (days, nanoseconds) = (days - 1, nanoseconds + day);
    } else if days < 0 && nanoseconds > 0 {
        (days, nanoseconds) = (days + 1, nanoseconds - day);
    }
    Ok(IntervalMonthDayNano::new(months, days, nanoseconds))
}

fn scaled(arguments: &[ArrayRef], scale: impl Fn(f64, f64) -> std::result::Result<f64, Error>) -> Result<ArrayRef> {
    let numbers = arguments[1].as_primitive::<Float64Type>();
    let pairs = intervals(&arguments[0]).iter().zip(numbers);
    let scaled = pairs.map(|pair| match pair {
        (Some(interval), Some(number)) => scaled_one(interval, |field| scale(field, number)).map(Some),
        _ => Ok(None),
    });
    Ok(Arc::new(scaled.collect::<Result<IntervalMonthDayNanoArray>>()?))
}

/// A fraction of a month goes into days, one of a day into time: Postgres's `interval_mul`.
fn scaled_one(
    interval: IntervalMonthDayNano,
    scale: impl Fn(f64) -> std::result::Result<f64, Error>,
) -> Result<IntervalMonthDayNano> {
    const DAY_SECONDS: f64 = 86_400.0;
    let rounded = |seconds: f64| (seconds * 1e6).round_ties_even() / 1e6;
    let within = |count: f64| -> Result<i32> {
        let fits = count.is_finite() && count.abs() <= f64::from(i32::MAX);
        if fits { Ok(count as i32) } else { Err(beyond().into()) }
    };
    let (all_months, all_days) = (scale(f64::from(interval.months))?, scale(f64::from(interval.days))?);
    let (months, days) = (within(all_months.trunc())?, within(all_days.trunc())?);
    let days_of_months = rounded((all_months - f64::from(months)) * f64::from(MONTH_DAYS));
    let rest = all_days - f64::from(days) + days_of_months.fract();
    let mut seconds = rounded(rest * DAY_SECONDS);
    let mut days = f64::from(days);
    if seconds.abs() >= DAY_SECONDS {
        days += (seconds / DAY_SECONDS).trunc();
        seconds %= DAY_SECONDS;
    }
    let days = within(days + days_of_months.trunc())?;
    let us = (scale((interval.nanoseconds / 1000) as f64)? + seconds * 1e6).round_ties_even();
    if us.abs() > (i64::MAX / 1000) as f64 || us.is_nan() {
        return Err(beyond().into());
    }
    Ok(IntervalMonthDayNano::new(months, days, us as i64 * 1000))
}

fn age(later: i64, earlier: i64) -> Result<IntervalMonthDayNano> {
    let naive = |us: i64| -> Result<NaiveDateTime> {
        let time = DateTime::from_timestamp_micros(us);
        Ok(time.ok_or_else(|| Error::new(SqlState::DatetimeOutOfRange, "timestamp out of range"))?.naive_utc())
    };
    let (sign, from, to) = if later < earlier { (-1, later, earlier) } else { (1, earlier, later) };
    let (start, end) = (naive(from)?, naive(to)?);
    let mut months = (end.year() - start.year()) * 12 + i32::try_from(end.month0()).unwrap_or(0)
        - i32::try_from(start.month0()).unwrap_or(0);
    let mut days = i64::from(end.day()) - i64::from(start.day());
    let mut us = to.rem_euclid(DAY_US) - from.rem_euclid(DAY_US);
    if us < 0 {
        (us, days) = (us + DAY_US, days - 1);
    }
    if days < 0 {
        (days, months) = (days + i64::from(start.date().num_days_in_month()), months - 1);
    }
    Ok(IntervalMonthDayNano::new(sign * months, sign * narrow(days)?, i64::from(sign) * us * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(months: i32, days: i32, seconds: i64) -> IntervalMonthDayNano {
        IntervalMonthDayNano::new(months, days, seconds * 1_000_000_000)
    }

    #[test]
    fn fractions_go_down_into_days_and_time() {
        // Each asked of Postgres 15.
        let times = |interval, by: f64| scaled_one(interval, |field| Ok(field * by));
        assert_eq!(times(interval(1, 0, 0), 0.5).unwrap(), interval(0, 15, 0));
        assert_eq!(times(interval(0, 1, 0), 0.5).unwrap(), interval(0, 0, 43_200));
        assert_eq!(times(interval(1, 1, 3600), 1.5).unwrap(), interval(1, 16, 48_600));
        assert!(times(interval(1, 0, 0), f64::NAN).is_err());
        assert!(times(interval(i32::MAX, 0, 0), 2.0).is_err());
    }

    #[test]
    fn a_day_is_as_long_as_its_hours_and_a_month_as_thirty_days() {
        assert_eq!(length(interval(0, 1, 0)), length(interval(0, 0, 86_400)));
        assert_eq!(length(interval(1, 0, 0)), length(interval(0, 30, 0)));
    }

    #[test]
    fn an_age_borrows_the_days_of_the_earlier_month() {
        let at = |text: &str| text.parse::<NaiveDateTime>().unwrap().and_utc().timestamp_micros();
        assert_eq!(age(at("2024-03-01T00:00:00"), at("2023-01-15T00:00:00")).unwrap(), interval(13, 17, 0));
        assert_eq!(age(at("2024-01-31T00:00:00"), at("2024-03-01T12:00:00")).unwrap(), interval(-1, -1, -43_200));
    }
}
