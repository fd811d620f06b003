//! Arrow values as JSON text or primitive bytes, one cell at a time, so written that decoding gives the same value.

use std::io::Write;

use arrow::array::{
    Array, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int16Array, Int32Array,
    Int64Array, ListArray, MapArray, StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow::buffer::NullBuffer;
use base64::display::Base64Display;
use serde_json::value::RawValue;

use super::column::BASE64;
use super::json::check_depth;
use super::number::quoted;
use super::{ColumnType, TOO_LONG, time};

/// One column's array, its type found out once.
pub(super) struct Cells<'a> {
    nulls: Option<&'a NullBuffer>,
    values: CellValues<'a>,
}

enum CellValues<'a> {
    Boolean(&'a BooleanArray),
    SmallInt(&'a Int16Array),
    Int(&'a Int32Array),
    BigInt(&'a Int64Array),
    Real(&'a Float32Array),
    Double(&'a Float64Array),
    Decimal(&'a Decimal128Array, usize),
    Date(&'a Date32Array),
    Timestamp(&'a TimestampMicrosecondArray),
    Time(&'a Time64MicrosecondArray),
    Text(&'a StringArray),
    /// Of at most so many characters.
    Varchar(&'a StringArray, u32),
    Uuid(&'a StringArray),
    Json(&'a StringArray),
    Bytes(&'a BinaryArray),
    List(&'a ListArray, Box<Cells<'a>>),
    /// Each field with its name as JSON and the colon.
    Struct(Vec<(Vec<u8>, Cells<'a>)>),
    Map(&'a MapArray, &'a StringArray, Box<Cells<'a>>),
}

impl<'a> Cells<'a> {
    /// `array` as values of `kind`; `None` if it has another type.
    pub(super) fn new(kind: &ColumnType, array: &'a dyn Array) -> Option<Self> {
        let any = array.as_any();
        let values = match kind {
            ColumnType::Boolean => CellValues::Boolean(any.downcast_ref()?),
            ColumnType::SmallInt => CellValues::SmallInt(any.downcast_ref()?),
            ColumnType::Int => CellValues::Int(any.downcast_ref()?),
            ColumnType::BigInt => CellValues::BigInt(any.downcast_ref()?),
            ColumnType::Real => CellValues::Real(any.downcast_ref()?),
            ColumnType::Double => CellValues::Double(any.downcast_ref()?),
            ColumnType::Decimal { scale, .. } => {
                CellValues::Decimal(any.downcast_ref()?, usize::try_from(*scale).ok()?)
            }
            ColumnType::Date => CellValues::Date(any.downcast_ref()?),
            ColumnType::Timestamp | ColumnType::TimestampTz => CellValues::Timestamp(any.downcast_ref()?),
            ColumnType::Time => CellValues::Time(any.downcast_ref()?),
            ColumnType::Text => CellValues::Text(any.downcast_ref()?),
            ColumnType::Varchar(length) => CellValues::Varchar(any.downcast_ref()?, *length),
            ColumnType::Uuid => CellValues::Uuid(any.downcast_ref()?),
            ColumnType::Json => CellValues::Json(any.downcast_ref()?),
            ColumnType::Bytes => CellValues::Bytes(any.downcast_ref()?),
            ColumnType::Array(item) => {
                let list: &ListArray = any.downcast_ref()?;
                CellValues::List(list, Box::new(Self::new(item, list.values())?))
            }
            ColumnType::Struct(fields) => {
                let array: &StructArray = any.downcast_ref()?;
                let columns = fields.iter().zip(array.columns());
                let cells = columns.map(|((name, kind), column)| Some((field_prefix(name), Self::new(kind, column)?)));
                CellValues::Struct(cells.collect::<Option<_>>()?)
            }
            ColumnType::Map(value) => {
                let map: &MapArray = any.downcast_ref()?;
                let keys = map.keys().as_any().downcast_ref()?;
                CellValues::Map(map, keys, Box::new(Self::new(value, map.values())?))
            }
        };
        Some(Self { nulls: array.nulls(), values })
    }

    pub(super) fn is_null(&self, row: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    /// Writes the cell as JSON.
    pub(super) fn write_json(&self, row: usize, json: &mut Vec<u8>) -> Result<(), String> {
        if self.is_null(row) {
            json.extend(b"null");
            return Ok(());
        }
        // Writing to memory does not fail.
        match &self.values {
            CellValues::Boolean(array) => json.extend(if array.value(row) { &b"true"[..] } else { b"false" }),
            CellValues::SmallInt(array) => drop(write!(json, "{}", array.value(row))),
            CellValues::Int(array) => drop(write!(json, "{}", array.value(row))),
            CellValues::Date(array) => drop(write!(json, "{}", array.value(row))),
            CellValues::BigInt(array) => drop(write!(json, "{}", array.value(row))),
            CellValues::Real(array) => match no_number(f64::from(array.value(row))) {
                Some(word) => drop(write!(json, "\"{word}\"")),
                None => drop(serde_json::to_writer(json, &array.value(row))),
            },
            CellValues::Double(array) => match no_number(array.value(row)) {
                Some(word) => drop(write!(json, "\"{word}\"")),
                None => drop(serde_json::to_writer(json, &array.value(row))),
            },
            CellValues::Decimal(array, scale) => write_decimal(array.value(row), *scale, json),
            CellValues::Timestamp(array) => time::write_timestamp(array.value(row), json),
            CellValues::Time(array) => time::write_time(array.value(row), json),
            CellValues::Text(array) => write_text(array.value(row), json),
            CellValues::Varchar(array, length) => write_text(within(array.value(row), *length)?, json),
            CellValues::Uuid(array) => drop(write!(json, "\"{}\"", uuid(array.value(row))?.hyphenated())),
            CellValues::Json(array) => json.extend(checked_json(array.value(row))?.as_bytes()),
            CellValues::Bytes(array) => drop(write!(json, "\"{}\"", Base64Display::new(array.value(row), &BASE64))),
            CellValues::List(..) | CellValues::Struct(..) | CellValues::Map(..) => self.write_nested(row, json)?,
        }
        Ok(())
    }

    fn write_nested(&self, row: usize, json: &mut Vec<u8>) -> Result<(), String> {
        match &self.values {
            CellValues::List(list, items) => {
                json.push(b'[');
                let range = range(list.value_offsets(), row);
                for item in range.clone() {
                    if item > range.start {
                        json.push(b',');
                    }
                    items.write_json(item, json)?;
                }
                json.push(b']');
            }
            CellValues::Struct(fields) => {
                write_object(fields.iter().map(|(prefix, cells)| (&prefix[..], cells)), row, json)?;
            }
            CellValues::Map(map, keys, values) => {
                json.push(b'{');
                let range = range(map.value_offsets(), row);
                for entry in range.clone() {
                    if entry > range.start {
                        json.push(b',');
                    }
                    write_text(keys.value(entry), json);
                    json.push(b':');
                    values.write_json(entry, json)?;
                }
                json.push(b'}');
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes the cell as Kafka's serializers do (see [`super::Format::Kafka`]). Not to be called for a null.
    pub(super) fn write_primitive(&self, row: usize, bytes: &mut Vec<u8>) -> Result<(), String> {
        match &self.values {
            CellValues::Int(array) => bytes.extend(array.value(row).to_be_bytes()),
            CellValues::BigInt(array) => bytes.extend(array.value(row).to_be_bytes()),
            CellValues::Double(array) => bytes.extend(array.value(row).to_be_bytes()),
            CellValues::Text(array) => bytes.extend(array.value(row).as_bytes()),
            CellValues::Varchar(array, length) => bytes.extend(within(array.value(row), *length)?.as_bytes()),
            CellValues::Uuid(array) => drop(write!(bytes, "{}", uuid(array.value(row))?.hyphenated())),
            CellValues::Bytes(array) => bytes.extend(array.value(row)),
            _ => return Err("the type has no form in format kafka, use json".to_owned()),
        }
        Ok(())
    }

    /// The cell as the text of a field of [`super::Format::Delimited`]: what it is as JSON, without a string's quotes.
    /// Not to be called for a null.
    pub(super) fn write_field(&self, row: usize, text: &mut Vec<u8>) -> Result<(), String> {
        match &self.values {
            CellValues::Text(array) => text.extend(array.value(row).as_bytes()),
            CellValues::Varchar(array, length) => text.extend(within(array.value(row), *length)?.as_bytes()),
            CellValues::Json(array) => text.extend(checked_json(array.value(row))?.as_bytes()),
            CellValues::List(..) | CellValues::Struct(..) | CellValues::Map(..) => {
                return Err("the type has no form in format delimited, use json".to_owned());
            }
            // Numbers, booleans, times, uuids and base64: none of them has anything to escape.
            _ => {
                let start = text.len();
                self.write_json(row, text)?;
                if text.get(start) == Some(&b'"') {
                    text.remove(start);
                    text.pop();
                }
            }
        }
        Ok(())
    }
}

/// Writes an object of `fields`, each with the prefix of [`field_prefix`].
pub(super) fn write_object<'c, 'a: 'c>(
    fields: impl Iterator<Item = (&'c [u8], &'c Cells<'a>)>,
    row: usize,
    json: &mut Vec<u8>,
) -> Result<(), String> {
    json.push(b'{');
    for (index, (prefix, cells)) in fields.enumerate() {
        if index > 0 {
            json.push(b',');
        }
        json.extend(prefix);
        cells.write_json(row, json)?;
    }
    json.push(b'}');
    Ok(())
}

/// A field's name as JSON, and the colon.
pub(super) fn field_prefix(name: &str) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(name.len() + 3);
    write_text(name, &mut prefix);
    prefix.push(b':');
    prefix
}

fn write_text(text: &str, json: &mut Vec<u8>) {
    // Neither text nor memory refuses to be written.
    drop(serde_json::to_writer(json, text));
}

fn write_decimal(number: i128, scale: usize, json: &mut Vec<u8>) {
    let sign = if number < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", number.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let point = if scale == 0 { "" } else { "." };
    drop(write!(json, "{sign}{whole}{point}{fraction}"));
}

/// What stands, as a string, for what JSON has no number for: the words of Postgres's `to_json` and of ksqlDB.
fn no_number(number: f64) -> Option<&'static str> {
    match number {
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        number if number.is_nan() => Some("NaN"),
        _ => None,
    }
}

/// A text that its declaration lets SQL write.
fn within(text: &str, length: u32) -> Result<&str, String> {
    // Characters are never more than bytes.
    let fits = |max: usize| text.len() <= max || text.chars().count() <= max;
    if usize::try_from(length).is_ok_and(fits) {
        return Ok(text);
    }
    Err(format!("{TOO_LONG} character varying({length})"))
}

fn uuid(text: &str) -> Result<uuid::Uuid, String> {
    uuid::Uuid::try_parse(text).map_err(|_| format!("{} is not a uuid", quoted(text)))
}

/// The text of a jsonb cell, without the space around it.
fn checked_json(text: &str) -> Result<&str, String> {
    let json: &RawValue = serde_json::from_str(text).map_err(|e| format!("{} is not JSON: {e}", quoted(text)))?;
    check_depth(json.get())?;
    Ok(json.get())
}

fn range(offsets: &[i32], row: usize) -> std::ops::Range<usize> {
    // Arrow's offsets are never negative.
    let at = |row: usize| usize::try_from(offsets[row]).unwrap_or(0);
    at(row)..at(row + 1)
}
