//! `ColumnBuilder`: one column's values, put in one by one from the text that Postgres's input functions read: literals of
//! an INSERT and fields of a COPY go straight into Arrow, without a plan and without a value in between.

use std::sync::Arc;

use aquifer_storage::record::format::ColumnType;
use arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, ListArray, MapArray, NullBufferBuilder, StringBuilder, StructArray,
    Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use arrow::datatypes::{DataType, Date32Type, Time64MicrosecondType};
use arrow::error::ArrowError;
use chrono::Utc;
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use serde::de::IgnoredAny;
use serde_json::Value as Json;

use super::convert::convert;
use super::literal::{array_items, boolean, bytes_of, decimal};
use crate::error::{Error, Result, SqlState};
use crate::types::type_name;

/// Characters of a value that an error message quotes.
const QUOTED_CHARS_MAX: usize = 100;
const US_PER_DAY: i64 = 86_400_000_000;
/// Room for a text's bytes before it is known.
const TEXT_BYTES: usize = 16;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct ColumnBuilder {
    kind: ColumnType,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Boolean(BooleanBuilder),
    SmallInt(Int16Builder),
    Int(Int32Builder),
    BigInt(Int64Builder),
    Real(Float32Builder),
    Double(Float64Builder),
    Decimal(Decimal128Builder),
    /// Text, uuid, jsonb.
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    List(Nested, Box<ColumnBuilder>),
    Struct(NullBufferBuilder, Vec<(String, ColumnBuilder)>),
    Map(Nested, StringBuilder, Box<ColumnBuilder>),
}

/// Where the items of each row of a list or map end.
#[derive(Debug)]
struct Nested {
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl Nested {
    fn new() -> Self {
        Self { offsets: vec![0], nulls: NullBufferBuilder::new(0) }
    }

    fn end_row(&mut self, items: usize, valid: bool) {
        // A batch is cut long before so many items.
        self.offsets.push(i32::try_from(items).unwrap_or(i32::MAX));
        self.nulls.append(valid);
    }

    fn finish(&mut self) -> (OffsetBuffer<i32>, Option<arrow::buffer::NullBuffer>) {
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        (OffsetBuffer::new(ScalarBuffer::from(offsets)), self.nulls.finish())
    }
}

impl ColumnBuilder {
    /// An empty column of a declared type, with room for so many rows to begin with.
    pub(crate) fn new(kind: &ColumnType, rows: usize) -> Self {
        let bytes = rows.saturating_mul(TEXT_BYTES);
        let values = match kind {
            ColumnType::Boolean => Values::Boolean(BooleanBuilder::with_capacity(rows)),
            ColumnType::SmallInt => Values::SmallInt(Int16Builder::with_capacity(rows)),
            ColumnType::Int => Values::Int(Int32Builder::with_capacity(rows)),
            ColumnType::BigInt => Values::BigInt(Int64Builder::with_capacity(rows)),
            ColumnType::Real => Values::Real(Float32Builder::with_capacity(rows)),
            ColumnType::Double => Values::Double(Float64Builder::with_capacity(rows)),
            ColumnType::Decimal { .. } => {
                Values::Decimal(Decimal128Builder::with_capacity(rows).with_data_type(kind.arrow()))
            }
            ColumnType::Text | ColumnType::Varchar(_) | ColumnType::Uuid | ColumnType::Json => {
                Values::Text(StringBuilder::with_capacity(rows, bytes))
            }
            ColumnType::Bytes => Values::Bytes(BinaryBuilder::with_capacity(rows, bytes)),
            ColumnType::Timestamp | ColumnType::TimestampTz => {
                Values::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(kind.arrow()))
            }
            ColumnType::Date => Values::Date(Date32Builder::with_capacity(rows)),
            ColumnType::Time => Values::Time(Time64MicrosecondBuilder::with_capacity(rows)),
            ColumnType::Array(item) => Values::List(Nested::new(), Box::new(Self::new(item, rows))),
            ColumnType::Struct(fields) => Values::Struct(
                NullBufferBuilder::new(0),
                fields.iter().map(|(name, kind)| (name.clone(), Self::new(kind, rows))).collect(),
            ),
            ColumnType::Map(value) => {
                let keys = StringBuilder::with_capacity(rows, bytes);
                Values::Map(Nested::new(), keys, Box::new(Self::new(value, rows)))
            }
        };
        Self { kind: kind.clone(), values }
    }

    /// Adds NULL.
    pub(crate) fn push_null(&mut self) {
        match &mut self.values {
            Values::Boolean(values) => values.append_null(),
            Values::SmallInt(values) => values.append_null(),
            Values::Int(values) => values.append_null(),
            Values::BigInt(values) => values.append_null(),
            Values::Real(values) => values.append_null(),
            Values::Double(values) => values.append_null(),
            Values::Decimal(values) => values.append_null(),
            Values::Text(values) => values.append_null(),
            Values::Bytes(values) => values.append_null(),
            Values::Timestamp(values) => values.append_null(),
            Values::Date(values) => values.append_null(),
            Values::Time(values) => values.append_null(),
            Values::List(rows, items) => rows.end_row(items.len(), false),
            Values::Struct(nulls, fields) => {
                nulls.append_null();
                fields.iter_mut().for_each(|(_, field)| field.push_null());
            }
            Values::Map(rows, _, values) => rows.end_row(values.len(), false),
        }
    }

    fn len(&self) -> usize {
        use arrow::array::ArrayBuilder;
        match &self.values {
            Values::Boolean(values) => values.len(),
            Values::SmallInt(values) => values.len(),
            Values::Int(values) => values.len(),
            Values::BigInt(values) => values.len(),
            Values::Real(values) => values.len(),
            Values::Double(values) => values.len(),
            Values::Decimal(values) => values.len(),
            Values::Text(values) => values.len(),
            Values::Bytes(values) => values.len(),
            Values::Timestamp(values) => values.len(),
            Values::Date(values) => values.len(),
            Values::Time(values) => values.len(),
            Values::List(rows, _) | Values::Map(rows, ..) => rows.nulls.len(),
            Values::Struct(nulls, _) => nulls.len(),
        }
    }

    /// Adds what the text says, as Postgres's input function of the type reads it.
    ///
    /// # Errors
    /// 22P02, 22003, 22007, 22008 in Postgres's words; the column is of no use then.
    pub(crate) fn push_text(&mut self, text: &str) -> Result<()> {
        match &mut self.values {
            Values::Boolean(values) => values.append_value(boolean(text).ok_or_else(|| syntax(&self.kind, text))?),
            Values::SmallInt(values) => values.append_value(integer(&self.kind, text)?),
            Values::Int(values) => values.append_value(integer(&self.kind, text)?),
            Values::BigInt(values) => values.append_value(integer(&self.kind, text)?),
            Values::Real(values) => {
                let number: f32 = text.trim_ascii().parse().map_err(|_| syntax(&self.kind, text))?;
                check_float(&self.kind, text, number.is_infinite())?;
                values.append_value(number);
            }
            Values::Double(values) => {
                let number: f64 = text.trim_ascii().parse().map_err(|_| syntax(&self.kind, text))?;
                check_float(&self.kind, text, number.is_infinite())?;
                values.append_value(number);
            }
            Values::Decimal(values) => match &self.kind {
                ColumnType::Decimal { precision, scale } => values.append_value(decimal(text, *precision, *scale)?),
                kind => return Err(syntax(kind, text)),
            },
            Values::Text(values) => match &self.kind {
                ColumnType::Uuid => {
                    let id = uuid::Uuid::try_parse(text.trim_ascii()).map_err(|_| syntax(&self.kind, text))?;
                    values.append_value(id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
                }
                ColumnType::Json => {
                    check_json(text)?;
                    values.append_value(text);
                }
                _ => values.append_value(text),
            },
            Values::Bytes(values) => values.append_value(bytes_of(text)?),
            Values::Timestamp(values) => values.append_value(timestamp_us(&self.kind, text)?),
            Values::Date(values) => {
                values.append_value(Date32Type::parse(text.trim_ascii()).ok_or_else(|| no_time(&self.kind, text))?);
            }
            Values::Time(values) => {
                let trimmed = text.trim_ascii();
                // A bare number would be taken for microseconds.
                let parsed = if trimmed.contains(':') { Time64MicrosecondType::parse(trimmed) } else { None };
                let us = parsed.filter(|us| (0..US_PER_DAY).contains(us));
                values.append_value(us.ok_or_else(|| no_time(&self.kind, text))?);
            }
            Values::List(..) => return self.push_array(text),
            Values::Struct(..) | Values::Map(..) => {
                let value: Json = serde_json::from_str(text).map_err(|error| json_error(&error))?;
                return self.push_json(&value);
            }
        }
        Ok(())
    }

    /// Adds an array: `{1,NULL,"a b"}`.
    fn push_array(&mut self, text: &str) -> Result<()> {
        let Values::List(rows, items) = &mut self.values else { return Err(syntax(&self.kind, text)) };
        for item in array_items(text)? {
            match item {
                None => items.push_null(),
                Some(item) => items.push_text(&item)?,
            }
        }
        rows.end_row(items.len(), true);
        Ok(())
    }

    /// Adds what a value inside of JSON says.
    fn push_json(&mut self, value: &Json) -> Result<()> {
        match (&mut self.values, value) {
            (_, Json::Null) => self.push_null(),
            (Values::List(rows, items), Json::Array(values)) => {
                values.iter().try_for_each(|value| items.push_json(value))?;
                rows.end_row(items.len(), true);
            }
            (Values::Struct(nulls, fields), Json::Object(object)) => {
                for (name, field) in fields {
                    field.push_json(object.get(name.as_str()).unwrap_or(&Json::Null))?;
                }
                nulls.append_non_null();
            }
            (Values::Map(rows, keys, values), Json::Object(object)) => {
                for (key, value) in object {
                    keys.append_value(key);
                    values.push_json(value)?;
                }
                rows.end_row(values.len(), true);
            }
            (Values::Text(values), value) if self.kind == ColumnType::Json => values.append_value(value.to_string()),
            (Values::List(..) | Values::Struct(..) | Values::Map(..), _) | (_, Json::Array(_) | Json::Object(_)) => {
                return Err(syntax(&self.kind, &value.to_string()));
            }
            (_, Json::String(text)) => return self.push_text(text),
            (_, value) => return self.push_text(&value.to_string()),
        }
        Ok(())
    }

    /// Adds a parameter's value or a default's, which may be of another type.
    ///
    /// # Errors
    /// As [`ColumnBuilder::push_text`]; 42804 for what is no value of the column.
    pub(crate) fn push_scalar(&mut self, value: &ScalarValue) -> Result<()> {
        if value.is_null() {
            self.push_null();
            return Ok(());
        }
        match (&mut self.values, value) {
            (Values::Boolean(values), ScalarValue::Boolean(Some(value))) => values.append_value(*value),
            (Values::SmallInt(values), ScalarValue::Int16(Some(value))) => values.append_value(*value),
            (Values::Int(values), ScalarValue::Int32(Some(value))) => values.append_value(*value),
            (Values::BigInt(values), ScalarValue::Int64(Some(value))) => values.append_value(*value),
            (Values::Real(values), ScalarValue::Float32(Some(value))) => values.append_value(*value),
            (Values::Double(values), ScalarValue::Float64(Some(value))) => values.append_value(*value),
            (Values::Bytes(values), ScalarValue::Binary(Some(value))) => values.append_value(value),
            (Values::Date(values), ScalarValue::Date32(Some(value))) => values.append_value(*value),
            (Values::Time(values), ScalarValue::Time64Microsecond(Some(value))) => values.append_value(*value),
            (Values::Timestamp(values), ScalarValue::TimestampMicrosecond(Some(value), _)) => {
                values.append_value(*value);
            }
            (Values::Decimal(values), ScalarValue::Decimal128(Some(number), ..))
                if value.data_type() == self.kind.arrow() =>
            {
                values.append_value(*number);
            }
            (Values::List(rows, items), ScalarValue::List(list)) => {
                let given = list.value(0);
                for index in 0..given.len() {
                    items.push_scalar(&ScalarValue::try_from_array(&given, index)?)?;
                }
                rows.end_row(items.len(), true);
            }
            (
                _,
                ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)),
            ) => return self.push_text(text),
            (_, value) => return self.push_cast(value),
        }
        Ok(())
    }

    /// Adds a value of another type, converted as an assignment converts it.
    fn push_cast(&mut self, value: &ScalarValue) -> Result<()> {
        let kind = self.kind.arrow();
        if value.data_type() == kind {
            let message = format!("a value of type {} cannot be given here", type_name(&self.kind));
            return Err(Error::new(SqlState::DatatypeMismatch, message).with_hint("write it as JSON text"));
        }
        let converted = convert(&value.to_array()?, &kind)?;
        self.push_scalar(&ScalarValue::try_from_array(&converted, 0)?)
    }

    /// The column, which begins anew.
    ///
    /// # Errors
    /// XX000 if Arrow refuses what was put in.
    pub(crate) fn finish(&mut self) -> Result<ArrayRef> {
        let array: ArrayRef = match &mut self.values {
            Values::Boolean(values) => Arc::new(values.finish()),
            Values::SmallInt(values) => Arc::new(values.finish()),
            Values::Int(values) => Arc::new(values.finish()),
            Values::BigInt(values) => Arc::new(values.finish()),
            Values::Real(values) => Arc::new(values.finish()),
            Values::Double(values) => Arc::new(values.finish()),
            Values::Decimal(values) => Arc::new(values.finish()),
            Values::Text(values) => Arc::new(values.finish()),
            Values::Bytes(values) => Arc::new(values.finish()),
            Values::Timestamp(values) => Arc::new(values.finish()),
            Values::Date(values) => Arc::new(values.finish()),
            Values::Time(values) => Arc::new(values.finish()),
            Values::List(rows, items) => {
                let DataType::List(field) = self.kind.arrow() else { return Err(unbuilt(&self.kind)) };
                let (offsets, nulls) = rows.finish();
                Arc::new(ListArray::try_new(field, offsets, items.finish()?, nulls).map_err(arrow_error)?)
            }
            Values::Struct(nulls, columns) => {
                let DataType::Struct(fields) = self.kind.arrow() else { return Err(unbuilt(&self.kind)) };
                let rows = nulls.len();
                let columns = columns.iter_mut().map(|(_, column)| column.finish()).collect::<Result<Vec<_>>>()?;
                let array = StructArray::try_new_with_length(fields, columns, nulls.finish(), rows);
                Arc::new(array.map_err(arrow_error)?)
            }
            Values::Map(rows, keys, values) => {
                let DataType::Map(entries, sorted) = self.kind.arrow() else { return Err(unbuilt(&self.kind)) };
                let DataType::Struct(fields) = entries.data_type() else { return Err(unbuilt(&self.kind)) };
                let columns: Vec<ArrayRef> = vec![Arc::new(keys.finish()), values.finish()?];
                let pairs = StructArray::try_new(fields.clone(), columns, None).map_err(arrow_error)?;
                let (offsets, nulls) = rows.finish();
                let map = MapArray::try_new(entries, offsets, pairs, nulls, sorted);
                Arc::new(map.map_err(arrow_error)?)
            }
        };
        Ok(array)
    }
}

fn unbuilt(kind: &ColumnType) -> Error {
    Error::new(SqlState::InternalError, format!("a column of type {kind} has no array"))
}

fn arrow_error(error: ArrowError) -> Error {
    Error::from(DataFusionError::from(error))
}

/// A value for an error message, cut if it is long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        None => format!("\"{text}\""),
        Some((end, _)) => format!("\"{}...\"", &text[..end]),
    }
}

fn name_of(kind: &ColumnType) -> String {
    // Postgres leaves precision and scale out here.
    if matches!(kind, ColumnType::Decimal { .. }) { "numeric".to_owned() } else { type_name(kind) }
}

fn syntax(kind: &ColumnType, text: &str) -> Error {
    let message = format!("invalid input syntax for type {}: {}", name_of(kind), quoted(text));
    Error::new(SqlState::InvalidTextRepresentation, message)
}

fn integer<T: TryFrom<i128> + std::str::FromStr>(kind: &ColumnType, text: &str) -> Result<T> {
    let trimmed = text.trim_ascii();
    trimmed.parse().map_err(|_| {
        let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return syntax(kind, text);
        }
        let message = format!("value {} is out of range for type {}", quoted(text), type_name(kind));
        Error::new(SqlState::NumericValueOutOfRange, message)
    })
}

/// Digits that are too large become infinite; the word is meant.
fn check_float(kind: &ColumnType, text: &str, infinite: bool) -> Result<()> {
    if !infinite || text.trim_ascii().trim_start_matches(['-', '+']).starts_with(['i', 'I']) {
        return Ok(());
    }
    let message = format!("{} is out of range for type {}", quoted(text), type_name(kind));
    Err(Error::new(SqlState::NumericValueOutOfRange, message))
}

fn timestamp_us(kind: &ColumnType, text: &str) -> Result<i64> {
    let trimmed = text.trim_ascii();
    let trimmed = trimmed.strip_suffix("UTC").map_or(trimmed, str::trim_ascii_end);
    string_to_datetime(&Utc, trimmed).map(|time| time.timestamp_micros()).map_err(|_| no_time(kind, text))
}

/// What looks like a time and is none lies outside of the calendar.
fn no_time(kind: &ColumnType, text: &str) -> Error {
    let trimmed = text.trim_ascii();
    let looks = trimmed.bytes().any(|byte| byte.is_ascii_digit())
        && trimmed.bytes().all(|byte| byte.is_ascii_digit() || b"-:.+TZ ".contains(&byte))
        && trimmed.contains(if matches!(kind, ColumnType::Time) { ':' } else { '-' });
    if looks {
        let message = format!("date/time field value out of range: {}", quoted(text));
        return Error::new(SqlState::DatetimeOutOfRange, message).with_hint("write it as 2024-01-31 10:00:00");
    }
    let message = format!("invalid input syntax for type {}: {}", type_name(kind), quoted(text));
    Error::new(SqlState::InvalidDatetimeFormat, message).with_hint("write it as 2024-01-31 10:00:00")
}

fn check_json(text: &str) -> Result<()> {
    serde_json::from_str::<IgnoredAny>(text).map(drop).map_err(|error| json_error(&error))
}

fn json_error(error: &serde_json::Error) -> Error {
    Error::new(SqlState::InvalidTextRepresentation, "invalid input syntax for type json").with_detail(error.to_string())
}

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;

    use super::*;

    fn built(kind: &ColumnType, texts: &[&str]) -> Vec<String> {
        let mut builder = ColumnBuilder::new(kind, 1);
        builder.push_null();
        texts.iter().for_each(|text| builder.push_text(text).unwrap());
        let array = builder.finish().unwrap();
        assert_eq!((array.data_type(), array.null_count()), (&kind.arrow(), 1));
        (1..array.len()).map(|row| array_value_to_string(&array, row).unwrap()).collect()
    }

    fn refused(kind: &ColumnType, text: &str) -> (&'static str, String) {
        let error = ColumnBuilder::new(kind, 1).push_text(text).unwrap_err();
        (error.state.code(), error.message)
    }

    #[test]
    fn every_type_is_read_from_its_text() {
        assert_eq!(built(&ColumnType::Boolean, &["t", "off"]), ["true", "false"]);
        assert_eq!(built(&ColumnType::SmallInt, &[" -32768 ", "+7"]), ["-32768", "7"]);
        assert_eq!(built(&ColumnType::Real, &["1.5", "1e3"]), ["1.5", "1000.0"]);
        assert_eq!(built(&ColumnType::Double, &["-0.1", "Infinity", "nan"]), ["-0.1", "inf", "NaN"]);
        assert_eq!(built(&ColumnType::Decimal { precision: 5, scale: 2 }, &["1.005", "-3"]), ["1.01", "-3.00"]);
        assert_eq!(built(&ColumnType::Text, &["", " a "]), ["", " a "]);
        assert_eq!(built(&ColumnType::Bytes, &["\\x00ff", "a"]), ["00ff", "61"]);
        let times = ["2024-01-31 10:00:00.5", "2024-01-31T10:00:00+02", "2024-01-31", "2024-01-31 10:00:00 UTC"];
        let read = ["2024-01-31T10:00:00.500", "2024-01-31T08:00:00", "2024-01-31T00:00:00", "2024-01-31T10:00:00"];
        assert_eq!(built(&ColumnType::Timestamp, &times), read);
        assert_eq!(built(&ColumnType::TimestampTz, &times), read.map(|time| format!("{time}Z")));
        assert_eq!(built(&ColumnType::Date, &["2024-02-29"]), ["2024-02-29"]);
        assert_eq!(built(&ColumnType::Time, &["10:00:00.25"]), ["10:00:00.250"]);
        let id = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11";
        assert_eq!(built(&ColumnType::Uuid, &[id]), [id.to_lowercase()]);
        assert_eq!(built(&ColumnType::Json, &["{\"a\": 1}"]), ["{\"a\": 1}"]);
    }

    #[test]
    fn nested_types_are_read_from_arrays_and_json() {
        let ints = ColumnType::Array(Box::new(ColumnType::Int));
        assert_eq!(built(&ints, &["{1,NULL,3}", "{}"]), ["[1, , 3]", "[]"]);
        let deep = ColumnType::Array(Box::new(ints.clone()));
        assert_eq!(built(&deep, &["{{1},{2,3}}"]), ["[[1], [2, 3]]"]);
        let place = ColumnType::Struct(vec![("city".to_owned(), ColumnType::Text), ("zips".to_owned(), ints)]);
        assert_eq!(
            built(&place, &["{\"zips\":[1,null],\"city\":\"Rome\"}", "{}"]),
            ["{city: Rome, zips: [1, ]}", "{city: , zips: }"]
        );
        let prices = ColumnType::Map(Box::new(ColumnType::Decimal { precision: 5, scale: 2 }));
        assert_eq!(built(&prices, &["{\"a\": 1.5, \"b\": \"2\"}"]), ["{a: 1.50, b: 2.00}"]);
    }

    #[test]
    fn what_is_no_value_is_refused_in_postgres_s_words() {
        let told = |code, message: &str| (code, message.to_owned());
        let int = ColumnType::Int;
        assert_eq!(refused(&int, "x"), told("22P02", "invalid input syntax for type integer: \"x\""));
        assert_eq!(refused(&int, ""), told("22P02", "invalid input syntax for type integer: \"\""));
        assert_eq!(refused(&int, "1.5"), told("22P02", "invalid input syntax for type integer: \"1.5\""));
        assert_eq!(refused(&int, "3000000000"), told("22003", "value \"3000000000\" is out of range for type integer"));
        let double = refused(&ColumnType::Double, "1e400");
        assert_eq!(double, told("22003", "\"1e400\" is out of range for type double precision"));
        assert_eq!(refused(&ColumnType::Decimal { precision: 3, scale: 1 }, "100").0, "22003");
        assert_eq!(refused(&ColumnType::Date, "soon").0, "22007");
        assert_eq!(refused(&ColumnType::Date, "2023-02-29").0, "22008");
        assert_eq!(refused(&ColumnType::Timestamp, "2024-01-31 25:00:00").0, "22008");
        assert_eq!(refused(&ColumnType::Time, "1000").0, "22007");
        assert_eq!(refused(&ColumnType::Uuid, "x").0, "22P02");
        assert_eq!(refused(&ColumnType::Json, "{").0, "22P02");
        assert_eq!(refused(&ColumnType::Array(Box::new(ColumnType::Int)), "1").0, "22P02");
        let long = refused(&ColumnType::Boolean, &"ü".repeat(200)).1;
        assert!(long.ends_with(&format!("{}...\"", "ü".repeat(100))), "{long}");
    }
}
