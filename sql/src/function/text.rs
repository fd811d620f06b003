//! Values as text, as Postgres casts them; and the casts from text that look at what they are given.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, Int32Array};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, IntervalMonthDayNanoType, IntervalUnit,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};
use datafusion::error::Result;

use super::scalar::{Definition, is_text, text_rows, texts};
use crate::error::{Error, SqlState};
use crate::types::utc;
use crate::written;

/// What a cast to text is wrapped around.
pub(crate) const TEXT_OUT: &str = "text_out";

/// What a cast to uuid is wrapped around.
pub(crate) const UUID_IN: &str = "uuid_in";

/// Of anything whose text Arrow writes otherwise; text, integers and booleans are left as they are.
pub(super) static OUT: Definition = Definition {
    name: TEXT_OUT,
    takes: |kinds| match kinds {
        [kind] => Some(vec![written_as(kind).unwrap_or_else(|| kind.clone())]),
        _ => None,
    },
    gives: |kinds| match kinds {
        [kind] if written_as(kind).is_none() => (kind.clone(), None),
        _ => (DataType::Utf8, None),
    },
    rows: |arguments, rows| {
        let column = &arguments[0];
        if written_as(column.data_type()).is_none() {
            return Ok(Arc::clone(column));
        }
        text_rows(arguments, rows, |row| plain(column, row).map(Some))
    },
};

/// An argument of `concat` and `format`: as [`OUT`], and a boolean is `t` or `f`.
pub(super) static SHOWN: Definition = Definition {
    name: "text_shown",
    takes: |kinds| match kinds {
        [DataType::Boolean] => Some(vec![DataType::Boolean]),
        kinds => (OUT.takes)(kinds),
    },
    gives: |kinds| match kinds {
        [DataType::Boolean] => (DataType::Utf8, None),
        kinds => (OUT.gives)(kinds),
    },
    rows: |arguments, rows| match arguments[0].data_type() {
        DataType::Boolean => {
            let given = arguments[0].as_boolean();
            text_rows(arguments, rows, |row| Ok(Some(if given.value(row) { "t" } else { "f" }.to_owned())))
        }
        _ => (OUT.rows)(arguments, rows),
    },
};

/// A uuid in its one spelling; 22P02 for what is none.
pub(super) static UUID: Definition = Definition {
    name: UUID_IN,
    takes: |kinds| match kinds {
        [text] if is_text(text) => Some(vec![DataType::Utf8]),
        [other] => Some(vec![other.clone()]),
        _ => None,
    },
    gives: |kinds| match kinds {
        [other] if !is_text(other) => (other.clone(), None),
        _ => (DataType::Utf8, Some("uuid")),
    },
    rows: |arguments, rows| {
        if !is_text(arguments[0].data_type()) {
            return Ok(Arc::clone(&arguments[0]));
        }
        let given = texts(&arguments[0])?;
        text_rows(arguments, rows, |row| Ok(Some(uuid_of(given.value(row))?)))
    },
};

/// A uuid in its one spelling.
///
/// # Errors
/// 22P02.
pub(crate) fn uuid_of(text: &str) -> std::result::Result<String, Error> {
    let inside = text.trim();
    let inside = inside.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(inside);
    uuid::Uuid::try_parse(inside).map(|id| id.hyphenated().to_string()).map_err(|_| {
        Error::new(SqlState::InvalidTextRepresentation, format!("invalid input syntax for type uuid: \"{text}\""))
            .with_hint("32 hexadecimal digits, as 123e4567-e89b-12d3-a456-426614174000")
    })
}

/// `length` of a text in characters, of bytes in bytes: DataFusion takes bytes for text.
pub(super) static LENGTH: Definition = Definition {
    name: "length",
    takes: measured,
    gives: |_| (DataType::Int32, None),
    rows: |columns, _| lengths(columns, |text| text.chars().count()),
};

/// `octet_length` of either.
pub(super) static OCTET_LENGTH: Definition = Definition {
    name: "octet_length",
    takes: measured,
    gives: |_| (DataType::Int32, None),
    rows: |columns, _| lengths(columns, str::len),
};

fn measured(kinds: &[DataType]) -> Option<Vec<DataType>> {
    match kinds {
        [DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_)] => {
            Some(vec![DataType::Binary])
        }
        [kind] if is_text(kind) => Some(vec![DataType::Utf8]),
        _ => None,
    }
}

fn lengths(columns: &[ArrayRef], of_text: fn(&str) -> usize) -> Result<ArrayRef> {
    let number = |length: usize| i32::try_from(length).unwrap_or(i32::MAX);
    let column = &columns[0];
    let lengths: Int32Array = match column.as_string_opt::<i32>() {
        Some(texts) => texts.iter().map(|text| text.map(|text| number(of_text(text)))).collect(),
        None => column.as_binary::<i32>().iter().map(|bytes| bytes.map(|bytes| number(bytes.len()))).collect(),
    };
    Ok(Arc::new(lengths))
}

/// The type in which a value is written; `None`: Arrow's cast to text is Postgres's.
fn written_as(kind: &DataType) -> Option<DataType> {
    Some(match kind {
        DataType::Float16 | DataType::Float32 => DataType::Float32,
        DataType::Float64 => DataType::Float64,
        DataType::Timestamp(_, None) | DataType::Date64 => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(_)) => DataType::Timestamp(TimeUnit::Microsecond, Some(utc())),
        DataType::Date32 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Interval(_) => DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::Duration(_) => DataType::Duration(TimeUnit::Microsecond),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)
            if !item.data_type().is_nested() =>
        {
            DataType::List(Arc::clone(item))
        }
        _ => return None,
    })
}

/// A value that is not null, as Postgres writes it.
pub(super) fn plain(column: &ArrayRef, row: usize) -> Result<String> {
    let mut out = String::new();
    let done = match column.data_type() {
        DataType::Float32 => written::float4(column.as_primitive::<Float32Type>().value(row), &mut out),
        DataType::Float64 => written::float8(column.as_primitive::<Float64Type>().value(row), &mut out),
        DataType::Decimal128(_, scale) => {
            written::decimal(&column.as_primitive::<Decimal128Type>().value(row).to_string(), *scale, &mut out)
        }
        DataType::Timestamp(TimeUnit::Microsecond, None) => {
            written::timestamp(column.as_primitive::<TimestampMicrosecondType>().value(row), &mut out)?
        }
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            let zone: Tz = utc().parse()?;
            written::timestamptz(column.as_primitive::<TimestampMicrosecondType>().value(row), zone, &mut out)?
        }
        DataType::Date32 => written::date(column.as_primitive::<Date32Type>().value(row), &mut out)?,
        DataType::Time64(TimeUnit::Microsecond) => {
            written::time(column.as_primitive::<Time64MicrosecondType>().value(row), &mut out)
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            written::interval(column.as_primitive::<IntervalMonthDayNanoType>().value(row), &mut out)
        }
        DataType::Duration(_) => {
            let split = written::interval_of_duration(&column.slice(row, 1))?;
            return plain(&split, 0);
        }
        DataType::Binary => written::hex(column.as_binary::<i32>().value(row), &mut out),
        DataType::List(_) => return list(&column.as_list::<i32>().value(row)),
        other => match written_as(other).filter(|wanted| wanted != other) {
            Some(wanted) => return plain(&cast(&column.slice(row, 1), &wanted)?, 0),
            None => return Ok(texts(&column.slice(row, 1))?.value(0).to_owned()),
        },
    };
    done.map_err(|_| Error::new(SqlState::InternalError, "a value could not be written as text"))?;
    Ok(out)
}

/// `{1,NULL,"a b"}`.
fn list(items: &ArrayRef) -> Result<String> {
    let mut out = "{".to_owned();
    for row in 0..items.len() {
        out.push_str(if row > 0 { "," } else { "" });
        if items.is_null(row) {
            out.push_str("NULL");
            continue;
        }
        let item = match items.data_type() {
            DataType::Boolean => if items.as_boolean().value(row) { "t" } else { "f" }.to_owned(),
            _ => plain(items, row)?,
        };
        let is_special = |letter: char| "{},\"\\".contains(letter) || letter.is_ascii_whitespace();
        if item.is_empty() || item.eq_ignore_ascii_case("null") || item.contains(is_special) {
            let escaped = item.replace('\\', "\\\\").replace('"', "\\\"");
            write!(out, "\"{escaped}\"").map_err(|_| Error::new(SqlState::InternalError, "a list is too long"))?;
        } else {
            out.push_str(&item);
        }
    }
    out.push('}');
    Ok(out)
}
