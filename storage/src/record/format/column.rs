//! A column while it is filled: values go in one by one from JSON or primitive bytes, a row that fails in a later
//! column is taken out again, and what is left becomes an Arrow array without being copied.
//!
//! Arrow's own builders cannot go back, which is why these exist.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int16Array,
    Int32Array, Int64Array, ListArray, MapArray, StringArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use base64::Engine;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use serde_json::value::RawValue;

use super::json::{FieldTable, check_depth, elements, entries, string};
use super::number::{NumberError, decimal, float, integer, quoted};
use super::{ColumnType, time};

/// Standard base64; padding is written and may be missing when read.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How many more values a record may unfold to. A record is small, what it unfolds to need not be: three bytes of JSON
/// are a whole STRUCT of nulls.
#[derive(Debug)]
pub(super) struct Budget(usize);

/// Array elements, map entries and struct fields of one record.
const VALUES_PER_RECORD_MAX: usize = 4 << 20;

impl Budget {
    /// That of one record.
    pub(super) fn of_record() -> Self {
        Self(VALUES_PER_RECORD_MAX)
    }

    fn spend(&mut self, values: usize) -> Result<(), String> {
        let left = self.0.checked_sub(values);
        self.0 = left.ok_or_else(|| format!("the record unfolds to more than {VALUES_PER_RECORD_MAX} values"))?;
        Ok(())
    }
}

/// One column being filled.
#[derive(Debug)]
pub(super) struct Column {
    kind: ColumnType,
    /// One bit per value; also the count of values.
    nulls: arrow::array::NullBufferBuilder,
    values: Values,
}

/// The values, a placeholder for each null.
#[derive(Debug)]
enum Values {
    Boolean(Vec<bool>),
    SmallInt(Vec<i16>),
    Int(Vec<i32>),
    BigInt(Vec<i64>),
    Real(Vec<f32>),
    Double(Vec<f64>),
    Decimal(Vec<i128>),
    Date(Vec<i32>),
    /// TIMESTAMP, timestamptz and TIME, in microseconds.
    Micros(Vec<i64>),
    /// Text, bytes, uuid and JSON.
    Bytes(Slices),
    List(Lengths, Box<Column>),
    Struct(FieldTable, Vec<Column>),
    /// Keys and values have one length.
    Map(Lengths, Slices, Box<Column>),
}

/// Arrow's offsets: where each value begins, and where the last one ends.
#[derive(Debug)]
struct Lengths(Vec<i32>);

/// Byte strings behind each other.
#[derive(Debug)]
struct Slices {
    ends: Lengths,
    bytes: Vec<u8>,
}

impl Column {
    pub(super) fn new(kind: &ColumnType) -> Self {
        let values = match kind {
            ColumnType::Boolean => Values::Boolean(Vec::new()),
            ColumnType::SmallInt => Values::SmallInt(Vec::new()),
            ColumnType::Int => Values::Int(Vec::new()),
            ColumnType::BigInt => Values::BigInt(Vec::new()),
            ColumnType::Real => Values::Real(Vec::new()),
            ColumnType::Double => Values::Double(Vec::new()),
            ColumnType::Decimal { .. } => Values::Decimal(Vec::new()),
            ColumnType::Date => Values::Date(Vec::new()),
            ColumnType::Timestamp | ColumnType::TimestampTz | ColumnType::Time => Values::Micros(Vec::new()),
            ColumnType::Text | ColumnType::Varchar(_) | ColumnType::Bytes | ColumnType::Uuid | ColumnType::Json => {
                Values::Bytes(Slices::new())
            }
            ColumnType::Array(item) => Values::List(Lengths::new(), Box::new(Self::new(item))),
            ColumnType::Struct(fields) => Values::Struct(
                FieldTable::new(fields.iter().map(|(name, _)| name.as_str())),
                fields.iter().map(|(_, kind)| Self::new(kind)).collect(),
            ),
            ColumnType::Map(value) => Values::Map(Lengths::new(), Slices::new(), Box::new(Self::new(value))),
        };
        Self { kind: kind.clone(), nulls: arrow::array::NullBufferBuilder::new(0), values }
    }

    pub(super) fn len(&self) -> usize {
        self.nulls.len()
    }

    pub(super) fn append_null(&mut self) {
        match &mut self.values {
            Values::Boolean(values) => values.push(false),
            Values::SmallInt(values) => values.push(0),
            Values::Int(values) | Values::Date(values) => values.push(0),
            Values::BigInt(values) | Values::Micros(values) => values.push(0),
            Values::Real(values) => values.push(0.0),
            Values::Double(values) => values.push(0.0),
            Values::Decimal(values) => values.push(0),
            Values::Bytes(values) => values.ends.repeat_last(),
            Values::List(ends, _) | Values::Map(ends, _, _) => ends.repeat_last(),
            Values::Struct(_, fields) => fields.iter_mut().for_each(Self::append_null),
        }
        self.nulls.append_null();
    }

    /// Appends a JSON value, `None` for a field that is missing. After an error the column may hold half a value:
    /// truncate it.
    pub(super) fn append_json(&mut self, json: Option<&RawValue>, budget: &mut Budget) -> Result<(), String> {
        let Some(json) = json.filter(|json| json.get() != "null") else {
            self.append_null();
            return Ok(());
        };
        match &mut self.values {
            Values::List(ends, item) => {
                let elements = elements(json)?;
                budget.spend(elements.len())?;
                for element in elements {
                    item.append_json(Some(element), budget)?;
                }
                ends.push(item.len())?;
            }
            Values::Struct(table, fields) => {
                budget.spend(fields.len())?;
                let mut slots = Vec::new();
                table.read(json.get().as_bytes(), &mut slots)?;
                for (field, slot) in fields.iter_mut().zip(&slots) {
                    field.append_json(slot.value, budget)?;
                }
            }
            Values::Map(ends, keys, values) => {
                let entries = entries(json)?;
                budget.spend(entries.len())?;
                for (key, value) in entries {
                    keys.push(key.as_bytes())?;
                    values.append_json(Some(value), budget)?;
                }
                ends.push(values.len())?;
            }
            _ => self.push_scalar(json)?,
        }
        self.nulls.append_non_null();
        Ok(())
    }

    /// Pushes what is neither nested nor null.
    fn push_scalar(&mut self, json: &RawValue) -> Result<(), String> {
        let kind = &self.kind;
        let written = json.get();
        if let (Values::Boolean(values), "true" | "false") = (&mut self.values, written) {
            values.push(written == "true");
            return Ok(());
        }
        if matches!(kind, ColumnType::Json) {
            check_depth(written)?;
            return self.push_bytes(written.as_bytes());
        }
        // Strings give their text, numbers and booleans the text they are written with.
        let text = match written.as_bytes().first() {
            Some(b'"') => string(json)?,
            Some(b'{' | b'[') => return Err(unexpected(written, kind)),
            _ => written.into(),
        };
        let is_string = written.starts_with('"');
        match kind {
            ColumnType::Boolean => Err(unexpected(written, kind)),
            ColumnType::Bytes | ColumnType::Uuid if !is_string => Err(unexpected(written, kind)),
            ColumnType::Text | ColumnType::Varchar(_) | ColumnType::Bytes | ColumnType::Uuid => self.push_text(&text),
            _ if matches!(written, "true" | "false") => Err(unexpected(written, kind)),
            _ => self.push_text(&text),
        }
    }

    /// Pushes what a text becomes, of any type but BOOLEAN, JSON and those with parts.
    fn push_text(&mut self, text: &str) -> Result<(), String> {
        match self.kind {
            ColumnType::Text | ColumnType::Varchar(_) => self.push_bytes(text.as_bytes()),
            ColumnType::Uuid => self.push_uuid(text),
            ColumnType::Bytes => {
                let bytes =
                    BASE64.decode(text.as_bytes()).map_err(|e| format!("{} is not base64: {e}", quoted(text)))?;
                self.push_bytes(&bytes)
            }
            _ => self.push_number(text).map_err(|error| error.about(text, &self.kind)),
        }
    }

    /// Appends a field of [`super::Format::Delimited`].
    pub(super) fn append_field(&mut self, text: &str) -> Result<(), String> {
        match (&self.kind, &mut self.values) {
            (ColumnType::Boolean, Values::Boolean(values)) => match text {
                _ if text.eq_ignore_ascii_case("true") => values.push(true),
                _ if text.eq_ignore_ascii_case("false") => values.push(false),
                _ => return Err(format!("{} where {} was expected", quoted(text), self.kind)),
            },
            (ColumnType::Json, _) => {
                let json: &RawValue =
                    serde_json::from_str(text).map_err(|e| format!("{} is not JSON: {e}", quoted(text)))?;
                check_depth(json.get())?;
                self.push_bytes(json.get().as_bytes())?;
            }
            _ => self.push_text(text)?,
        }
        self.nulls.append_non_null();
        Ok(())
    }

    /// Pushes what numbers and strings that parse become.
    fn push_number(&mut self, text: &str) -> Result<(), NumberError> {
        match &mut self.values {
            Values::SmallInt(values) => values.push(integer(text)?),
            Values::Int(values) => values.push(integer(text)?),
            Values::BigInt(values) => values.push(integer(text)?),
            Values::Real(values) => values.push(float(text)?),
            Values::Double(values) => values.push(float(text)?),
            Values::Date(values) => values.push(time::date_days(text)?),
            Values::Micros(values) => values.push(match self.kind {
                ColumnType::Time => time::time_us(text)?,
                _ => time::timestamp_us(text)?,
            }),
            Values::Decimal(values) => {
                let ColumnType::Decimal { precision, scale } = self.kind else { return Err(NumberError::Syntax) };
                let number = decimal(text, i64::from(scale))?;
                // A precision of at most 38 digits: ten to its power fits.
                if number.unsigned_abs() >= 10u128.pow(u32::from(precision)) {
                    return Err(NumberError::Range);
                }
                values.push(number);
            }
            _ => return Err(NumberError::Syntax),
        }
        Ok(())
    }

    fn push_uuid(&mut self, text: &str) -> Result<(), String> {
        let id = uuid::Uuid::try_parse(text).map_err(|_| format!("{} is not a uuid", quoted(text)))?;
        let mut written = uuid::Uuid::encode_buffer();
        self.push_bytes(id.hyphenated().encode_lower(&mut written).as_bytes())
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        match &mut self.values {
            Values::Bytes(values) => values.push(bytes),
            _ => Err(format!("bytes do not go into {}", self.kind)),
        }
    }

    /// Appends a primitive as Kafka's serializers write it (see [`super::Format::Kafka`]).
    pub(super) fn append_primitive(&mut self, bytes: &[u8]) -> Result<(), String> {
        let wrong = || format!("{} bytes where {} has another length", bytes.len(), self.kind);
        match (&self.kind, &mut self.values) {
            (_, Values::Int(values)) => values.push(i32::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
            (_, Values::BigInt(values)) => values.push(i64::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
            (_, Values::Double(values)) => values.push(f64::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
            (ColumnType::Bytes, Values::Bytes(values)) => values.push(bytes)?,
            _ => {
                let text = str::from_utf8(bytes).map_err(|e| format!("not UTF-8: {e}"))?;
                if matches!(self.kind, ColumnType::Uuid) { self.push_uuid(text)? } else { self.push_bytes(bytes)? }
            }
        }
        self.nulls.append_non_null();
        Ok(())
    }

    /// Appends a header's key or value. Text is read as Kafka's clients read it, with marks for bytes that are not UTF-8:
    /// a header never costs a record.
    fn append_header(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self.kind {
            ColumnType::Text => self.push_bytes(String::from_utf8_lossy(bytes).as_bytes())?,
            _ => self.push_bytes(bytes)?,
        }
        self.nulls.append_non_null();
        Ok(())
    }

    /// Appends a record's headers to a column of `ARRAY<STRUCT<key, value>>`.
    pub(super) fn append_headers<'a>(
        &mut self,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<(), String> {
        let Values::List(ends, item) = &mut self.values else { return Err("not a list of headers".to_owned()) };
        let Values::Struct(_, fields) = &mut item.values else { return Err("not a list of headers".to_owned()) };
        let [keys, values] = &mut fields[..] else { return Err("not a list of headers".to_owned()) };
        for (key, value) in headers {
            keys.append_header(key)?;
            match value {
                Some(value) => values.append_header(value)?,
                None => values.append_null(),
            }
            item.nulls.append_non_null();
        }
        ends.push(item.nulls.len())?;
        self.nulls.append_non_null();
        Ok(())
    }

    /// Takes out what was appended beyond `len` values, half values too.
    pub(super) fn truncate(&mut self, len: usize) {
        match &mut self.values {
            Values::Boolean(values) => values.truncate(len),
            Values::SmallInt(values) => values.truncate(len),
            Values::Int(values) | Values::Date(values) => values.truncate(len),
            Values::BigInt(values) | Values::Micros(values) => values.truncate(len),
            Values::Real(values) => values.truncate(len),
            Values::Double(values) => values.truncate(len),
            Values::Decimal(values) => values.truncate(len),
            Values::Bytes(values) => values.truncate(len),
            Values::List(ends, item) => item.truncate(ends.truncate(len)),
            Values::Struct(_, fields) => fields.iter_mut().for_each(|field| field.truncate(len)),
            Values::Map(ends, keys, values) => {
                let entries = ends.truncate(len);
                keys.truncate(entries);
                values.truncate(entries);
            }
        }
        self.nulls.truncate(len);
    }

    /// The values as an array; the column is empty afterwards.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let len = self.len();
        let nulls = self.nulls.finish();
        let array: ArrayRef = match &mut self.values {
            Values::Boolean(values) => Arc::new(BooleanArray::new(BooleanBuffer::from(std::mem::take(values)), nulls)),
            Values::SmallInt(values) => Arc::new(Int16Array::try_new(taken(values), nulls)?),
            Values::Int(values) => Arc::new(Int32Array::try_new(taken(values), nulls)?),
            Values::BigInt(values) => Arc::new(Int64Array::try_new(taken(values), nulls)?),
            Values::Real(values) => Arc::new(Float32Array::try_new(taken(values), nulls)?),
            Values::Double(values) => Arc::new(Float64Array::try_new(taken(values), nulls)?),
            Values::Date(values) => Arc::new(Date32Array::try_new(taken(values), nulls)?),
            Values::Decimal(values) => {
                Arc::new(Decimal128Array::try_new(taken(values), nulls)?.with_data_type(self.kind.arrow()))
            }
            Values::Micros(values) => match self.kind {
                ColumnType::Time => Arc::new(Time64MicrosecondArray::try_new(taken(values), nulls)?),
                _ => Arc::new(
                    TimestampMicrosecondArray::try_new(taken(values), nulls)?.with_data_type(self.kind.arrow()),
                ),
            },
            Values::Bytes(values) => match self.kind {
                ColumnType::Bytes => {
                    let (ends, bytes) = values.finish();
                    Arc::new(BinaryArray::try_new(ends, bytes.into(), nulls)?)
                }
                _ => Arc::new(text_array(values, nulls)?),
            },
            Values::List(..) | Values::Struct(..) | Values::Map(..) => return self.finish_nested(len, nulls),
        };
        Ok(array)
    }

    fn finish_nested(&mut self, len: usize, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
        Ok(match (&mut self.values, self.kind.arrow()) {
            (Values::List(ends, item), DataType::List(field)) => {
                Arc::new(ListArray::try_new(field, ends.finish(), item.finish()?, nulls)?)
            }
            (Values::Struct(_, columns), DataType::Struct(fields)) => {
                let arrays = columns.iter_mut().map(Self::finish).collect::<Result<_, _>>()?;
                Arc::new(StructArray::try_new_with_length(fields, arrays, nulls, len)?)
            }
            (Values::Map(ends, keys, values), DataType::Map(field, sorted)) => {
                let DataType::Struct(fields) = field.data_type() else {
                    return Err(ArrowError::SchemaError(format!("{field} is no map entry")));
                };
                let columns: Vec<ArrayRef> = vec![Arc::new(text_array(keys, None)?), values.finish()?];
                let entries = StructArray::try_new(fields.clone(), columns, None)?;
                Arc::new(MapArray::try_new(field, ends.finish(), entries, nulls, sorted)?)
            }
            (_, other) => return Err(ArrowError::SchemaError(format!("{other} is not nested"))),
        })
    }
}

fn unexpected(written: &str, kind: &ColumnType) -> String {
    format!("{} where {kind} was expected", quoted(written))
}

fn taken<T: arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>) -> ScalarBuffer<T> {
    ScalarBuffer::from(std::mem::take(values))
}

fn text_array(values: &mut Slices, nulls: Option<NullBuffer>) -> Result<StringArray, ArrowError> {
    let (ends, bytes) = values.finish();
    StringArray::try_new(ends, bytes.into(), nulls)
}

impl Lengths {
    fn new() -> Self {
        Self(vec![0])
    }

    /// Ends the next value at `end`.
    fn push(&mut self, end: usize) -> Result<(), String> {
        self.0.push(i32::try_from(end).map_err(|_| "the batch has more than 2 GiB of one column".to_owned())?);
        Ok(())
    }

    fn repeat_last(&mut self) {
        let last = self.last();
        self.0.push(last);
    }

    fn last(&self) -> i32 {
        self.0.last().copied().unwrap_or(0)
    }

    /// Keeps `len` values; gives the end of the last one.
    fn truncate(&mut self, len: usize) -> usize {
        self.0.truncate(len + 1);
        usize::try_from(self.last()).unwrap_or(0)
    }

    fn finish(&mut self) -> OffsetBuffer<i32> {
        OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.0, vec![0])))
    }
}

impl Slices {
    fn new() -> Self {
        Self { ends: Lengths::new(), bytes: Vec::new() }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.ends.push(self.bytes.len() + bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        let end = self.ends.truncate(len);
        self.bytes.truncate(end);
    }

    fn finish(&mut self) -> (OffsetBuffer<i32>, Vec<u8>) {
        (self.ends.finish(), std::mem::take(&mut self.bytes))
    }
}
