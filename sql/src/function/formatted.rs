//! `to_char`, and `to_date` and `to_timestamp` of a text with a template.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Date32Array, Int32Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType};
use chrono::DateTime;
use datafusion::error::Result;

use super::number_template::{NumberTemplate, rounded};
use super::scalar::{Definition, is_text, text_rows, texts};
use super::template::Template;
use super::text::plain;
use crate::error::{Error, SqlState};
use crate::types::utc;
use crate::written::DAY_US;

/// `to_char(time or number, template)`.
pub(super) static TO_CHAR: Definition = Definition {
    name: "to_char",
    takes: |kinds| match kinds {
        [value, template] if is_text(template) => {
            let value = match value {
                DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
                DataType::Date32 | DataType::Date64 => DataType::Timestamp(TimeUnit::Microsecond, None),
                DataType::Null => DataType::Timestamp(TimeUnit::Microsecond, None),
                DataType::Float16 | DataType::Float32 => DataType::Float64,
                number if number.is_numeric() => number.clone(),
                _ => return None,
            };
            Some(vec![value, DataType::Utf8])
        }
        _ => None,
    },
    gives: |_| (DataType::Utf8, None),
    rows: |arguments, rows| {
        let templates = texts(&arguments[1])?;
        let column = &arguments[0];
        let zoned = matches!(column.data_type(), DataType::Timestamp(_, Some(_)));
        if matches!(column.data_type(), DataType::Timestamp(..)) {
            let times = column.as_primitive::<TimestampMicrosecondType>();
            let mut read = Last::default();
            return text_rows(arguments, rows, |row| {
                let template = read.of(templates.value(row), |text| Ok(Template::of(text)))?;
                let time = DateTime::from_timestamp_micros(times.value(row))
                    .ok_or_else(|| Error::new(SqlState::DatetimeOutOfRange, "timestamp out of range"))?;
                Ok(Some(template.write(time.naive_utc(), zoned)))
            });
        }
        let mut read = Last::default();
        text_rows(arguments, rows, |row| {
            let template = read.of(templates.value(row), NumberTemplate::of)?;
            let scale = template.scale();
            let number = match column.data_type() {
                DataType::Float64 => format!("{:.scale$}", column.as_primitive::<Float64Type>().value(row)),
                _ => rounded(&plain(column, row)?, scale),
            };
            Ok(Some(template.write(&number)))
        })
    },
};

/// `to_date(text, template)`.
pub(super) static TO_DATE: Definition = Definition {
    name: "to_date",
    takes: two_texts,
    gives: |_| (DataType::Date32, None),
    rows: |arguments, rows| {
        let days = read(arguments, rows)?.into_iter().map(|us| us.map(|us| i32::try_from(us.div_euclid(DAY_US))));
        let days = days.map(|day| day.transpose().map_err(|_| beyond()));
        Ok(Arc::new(days.collect::<std::result::Result<Date32Array, Error>>()?))
    },
};

/// `to_timestamp(text, template)`, under a name of its own: `to_timestamp` of a number is DataFusion's.
pub(super) static TO_TIMESTAMP: Definition = Definition {
    name: "timestamp_of_text",
    takes: two_texts,
    gives: |_| (DataType::Timestamp(TimeUnit::Microsecond, Some(utc())), None),
    rows: |arguments, rows| Ok(Arc::new(TimestampMicrosecondArray::from(read(arguments, rows)?).with_timezone(utc()))),
};

/// Which bucket of so many between two bounds a number falls into.
pub(super) static WIDTH_BUCKET: Definition = Definition {
    name: "width_bucket",
    takes: |kinds| match kinds {
        // Asked again of what it gave.
        [_, _, _, _] if kinds.iter().all(DataType::is_numeric) => Some(vec![DataType::Float64; 4]),
        _ => None,
    },
    gives: |_| (DataType::Int32, None),
    rows: |arguments, rows| {
        let of = |index: usize, row: usize| arguments[index].as_primitive::<Float64Type>().value(row);
        let buckets = (0..rows).map(|row| {
            if arguments.iter().any(|column| column.is_null(row)) {
                return Ok(None);
            }
            let (number, low, high, count) = (of(0, row), of(1, row), of(2, row), of(3, row));
            let wrong = |what: &str| Err(Error::new(SqlState::InvalidParameterValue, what));
            if count < 1.0 {
                return wrong("count must be greater than zero");
            }
            if low == high {
                return wrong("lower bound cannot equal upper bound");
            }
            let share = (number - low) / (high - low);
            let bucket = if share < 0.0 { 0.0 } else { (share * count).floor().min(count) + 1.0 };
            Ok(Some(bucket as i32))
        });
        Ok(Arc::new(buckets.collect::<std::result::Result<Int32Array, Error>>()?))
    },
};

fn two_texts(kinds: &[DataType]) -> Option<Vec<DataType>> {
    (kinds.len() == 2 && kinds.iter().all(is_text)).then(|| vec![DataType::Utf8; 2])
}

fn beyond() -> Error {
    Error::new(SqlState::DatetimeOutOfRange, "date out of range")
}

/// In microseconds since 1970.
fn read(arguments: &[ArrayRef], rows: usize) -> Result<Vec<Option<i64>>> {
    let (given, templates) = (texts(&arguments[0])?, texts(&arguments[1])?);
    let mut template = Last::default();
    let times = (0..rows).map(|row| {
        if given.is_null(row) || templates.is_null(row) {
            return Ok(None);
        }
        let template = template.of(templates.value(row), |text| Ok(Template::of(text)))?;
        Ok(Some(template.read(given.value(row))?.and_utc().timestamp_micros()))
    });
    times.collect()
}

/// The template of the row before: most often it is this row's too.
struct Last<T>(Option<(String, T)>);

impl<T> Default for Last<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Last<T> {
    fn of(&mut self, text: &str, read: impl FnOnce(&str) -> std::result::Result<T, Error>) -> Result<&T> {
        if self.0.as_ref().is_none_or(|(known, _)| known != text) {
            self.0 = Some((text.to_owned(), read(text)?));
        }
        match &self.0 {
            Some((_, template)) => Ok(template),
            None => Err(beyond().into()),
        }
    }
}
