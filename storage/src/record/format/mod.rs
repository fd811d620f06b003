//! Bytes to Arrow and back, by a relation's declared columns: the rules of *Reading values* and *Bytes that SQL writes*.
//!
//! One record that does not decode costs that record, never the batch: it is left out and reported in
//! [`Decoded::errors`].

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Fields, TimeUnit};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

mod cells;
mod column;
mod decode;
mod delimited;
mod encode;
mod json;
mod number;
mod partition;
mod time;

pub use decode::{Decoder, TOMBSTONE_COLUMN};
pub use encode::Encoder;
pub use partition::partition_of_key;

/// Levels of ARRAY, STRUCT and MAP a type may have; reading and writing recurse as deep.
const TYPE_DEPTH_MAX: usize = 32;

/// What a declared column holds. Stored in definitions by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// BOOLEAN; Arrow Boolean.
    Boolean,
    /// SMALLINT, int2; Arrow Int16.
    SmallInt,
    /// INT, INTEGER, int4; Arrow Int32.
    Int,
    /// BIGINT, int8; Arrow Int64.
    BigInt,
    /// REAL, float4; Arrow Float32.
    Real,
    /// DOUBLE, double precision, float8; Arrow Float64.
    Double,
    /// DECIMAL(p, s), numeric; Arrow Decimal128(p, s), p at most 38.
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits behind the point.
        scale: i8,
    },
    /// STRING, VARCHAR, text; Arrow Utf8.
    Text,
    /// varchar(n); Arrow Utf8. What SQL writes has at most so many characters; what clients write is read as it is.
    Varchar(u32),
    /// BYTES, bytea; Arrow Binary.
    Bytes,
    /// TIMESTAMP (without time zone, as Postgres has it; read as UTC); Arrow Timestamp(us).
    Timestamp,
    /// timestamptz, TIMESTAMP WITH TIME ZONE; Arrow Timestamp(us, UTC).
    TimestampTz,
    /// DATE; Arrow Date32. In JSON days since the epoch or `2024-01-31`.
    Date,
    /// TIME; Arrow Time64(us). In JSON ms of the day or `10:00:00`.
    Time,
    /// uuid; Arrow Utf8, checked and in lower case.
    Uuid,
    /// jsonb, json: any JSON value, its text kept; Arrow Utf8.
    Json,
    /// ARRAY<T>, T[]; Arrow List.
    Array(Box<ColumnType>),
    /// STRUCT<name T, …>; Arrow Struct.
    Struct(Vec<(String, ColumnType)>),
    /// MAP<STRING, T>; Arrow Map with Utf8 keys.
    Map(Box<ColumnType>),
}

impl ColumnType {
    /// Its Arrow type.
    #[must_use]
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::SmallInt => DataType::Int16,
            Self::Int => DataType::Int32,
            Self::BigInt => DataType::Int64,
            Self::Real => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            Self::Text | Self::Varchar(_) | Self::Uuid | Self::Json => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Array(item) => DataType::List(Arc::new(Field::new_list_field(item.arrow(), true))),
            Self::Struct(fields) => DataType::Struct(
                fields.iter().map(|(name, kind)| Field::new(name, kind.arrow(), true)).collect::<Fields>(),
            ),
            // The field names are those DataFusion's own maps have.
            Self::Map(value) => {
                let key = Field::new("key", DataType::Utf8, false);
                let value = Field::new("value", value.arrow(), true);
                let entries = DataType::Struct(Fields::from(vec![key, value]));
                DataType::Map(Arc::new(Field::new("entries", entries, false)), false)
            }
        }
    }

    /// Whether it can be a whole key or value in [`Format::Kafka`].
    #[must_use]
    pub fn is_kafka_primitive(&self) -> bool {
        matches!(
            self,
            Self::Text | Self::Varchar(_) | Self::Uuid | Self::Int | Self::BigInt | Self::Double | Self::Bytes
        )
    }

    /// Whether it has no parts: what one field of [`Format::Delimited`] can hold.
    #[must_use]
    pub fn is_scalar(&self) -> bool {
        !matches!(self, Self::Array(_) | Self::Struct(_) | Self::Map(_))
    }

    /// The same type without the lengths that only a declaration enforces: what a column computed from it has.
    #[must_use]
    pub fn without_lengths(&self) -> Self {
        match self {
            Self::Varchar(_) => Self::Text,
            Self::Array(item) => Self::Array(Box::new(item.without_lengths())),
            Self::Map(value) => Self::Map(Box::new(value.without_lengths())),
            Self::Struct(fields) => {
                Self::Struct(fields.iter().map(|(name, kind)| (name.clone(), kind.without_lengths())).collect())
            }
            other => other.clone(),
        }
    }

    fn check(&self, depth: usize) -> Result<(), String> {
        if depth > TYPE_DEPTH_MAX {
            return Err(format!("a type is nested deeper than {TYPE_DEPTH_MAX} levels"));
        }
        match self {
            Self::Decimal { precision, scale } => {
                let places = u8::try_from(*scale).map_err(|_| format!("{self}: the scale must not be negative"))?;
                if (1..=DECIMAL128_MAX_PRECISION).contains(precision) && places <= *precision {
                    Ok(())
                } else {
                    Err(format!("{self}: precision is 1 to {DECIMAL128_MAX_PRECISION}, scale 0 to the precision"))
                }
            }
            Self::Varchar(0) => Err(format!("{self}: the length is at least 1")),
            Self::Array(inner) | Self::Map(inner) => inner.check(depth + 1),
            Self::Struct(fields) => {
                let mut names = HashSet::new();
                if fields.is_empty() {
                    return Err("a STRUCT needs fields".to_owned());
                }
                for (name, kind) in fields {
                    if !names.insert(name) {
                        return Err(format!("{self} has two fields {name}"));
                    }
                    kind.check(depth + 1)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether it is ARRAY<STRUCT<key, value>> of text or bytes.
    fn holds_headers(&self) -> bool {
        let Self::Array(item) = self else { return false };
        let Self::Struct(fields) = item.as_ref() else { return false };
        fields.len() == 2 && fields.iter().all(|(_, kind)| matches!(kind, Self::Text | Self::Bytes))
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Boolean => "BOOLEAN",
            Self::SmallInt => "SMALLINT",
            Self::Int => "INT",
            Self::BigInt => "BIGINT",
            Self::Real => "REAL",
            Self::Double => "DOUBLE",
            Self::Text => "STRING",
            Self::Bytes => "BYTES",
            Self::Timestamp => "TIMESTAMP",
            Self::TimestampTz => "TIMESTAMPTZ",
            Self::Date => "DATE",
            Self::Time => "TIME",
            Self::Uuid => "UUID",
            Self::Json => "JSONB",
            Self::Decimal { precision, scale } => return write!(f, "DECIMAL({precision}, {scale})"),
            Self::Varchar(length) => return write!(f, "VARCHAR({length})"),
            Self::Array(item) => return write!(f, "ARRAY<{item}>"),
            Self::Map(value) => return write!(f, "MAP<STRING, {value}>"),
            Self::Struct(fields) => {
                f.write_str("STRUCT<")?;
                for (index, (name, kind)) in fields.iter().enumerate() {
                    write!(f, "{}{name} {kind}", if index == 0 { "" } else { ", " })?;
                }
                return f.write_str(">");
            }
        };
        f.write_str(name)
    }
}

/// Where a column's value stands in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnRole {
    /// A field of the value.
    Value,
    /// (Part of) the key; read from and written to the key only.
    Key,
    /// All headers, `ARRAY<STRUCT<key, value>>`; read only.
    Headers,
}

/// One declared column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredColumn {
    /// As SQL knows it (folded to lower case unless quoted).
    pub name: String,
    /// As the JSON field is written: the declaration's own case.
    pub field: String,
    /// Its type.
    pub kind: ColumnType,
    /// Key or value.
    pub role: ColumnRole,
    /// Refused when SQL writes NULL.
    pub not_null: bool,
}

/// How a key or value is written in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A JSON object of the columns by field name.
    Json,
    /// The JSON value of the only column, without an object around it (ksqlDB's `wrap_single_value = false`).
    JsonUnwrapped,
    /// One primitive: text as UTF-8, int, bigint, double big-endian, bytes as they are (ksqlDB's KAFKA).
    Kafka,
    /// One line of the columns' texts in declared order, this character between them (ksqlDB's DELIMITED).
    Delimited(char),
    /// There is none: a key that is always null, a value nobody reads.
    None,
}

/// A relation's columns and formats: all that decoding and encoding need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordFormat {
    /// In declared order.
    pub columns: Vec<DeclaredColumn>,
    /// The key's bytes.
    pub key_format: Format,
    /// The value's bytes.
    pub value_format: Format,
    /// Whether a null value deletes the key (tables) or is skipped (streams).
    pub tombstones: bool,
}

/// NULL as a table's only key in Kafka's format: one byte, which no text (it is not UTF-8) and no number is. A null key
/// would be no row of a table at all; without this the group NULL of `GROUP BY k` would have none.
const NULL_KEY: &[u8] = &[0xff];

/// What an error says, before the type, of a text that is longer than its declaration lets SQL write.
pub const TOO_LONG: &str = "value too long for type";

impl RecordFormat {
    /// Whether the key may be [`NULL_KEY`]. Any bytes are a BYTES key, so that one cannot.
    fn has_null_key(&self) -> bool {
        let mut keys = self.of_role(ColumnRole::Key).map(|index| &self.columns[index]);
        let nullable = keys.next().is_some_and(|column| !column.not_null && column.kind != ColumnType::Bytes);
        self.tombstones && self.key_format == Format::Kafka && nullable
    }

    /// Indexes of the columns of one role.
    fn of_role(&self, role: ColumnRole) -> impl Iterator<Item = usize> {
        (0..).zip(&self.columns).filter(move |(_, column)| column.role == role).map(|(index, _)| index)
    }

    /// Whether columns, formats and roles fit together.
    ///
    /// # Errors
    /// [`Error::Config`] with what does not fit and what would.
    pub fn check(&self) -> Result<()> {
        self.inconsistency().map_or(Ok(()), |reason| Err(Error::Config { reason }))
    }

    fn inconsistency(&self) -> Option<String> {
        let mut names = HashSet::new();
        let mut fields = HashSet::new();
        for DeclaredColumn { name, field, kind, role, .. } in &self.columns {
            if let Err(reason) = kind.check(1) {
                return Some(format!("column {name}: {reason}"));
            }
            if !names.insert(name) {
                return Some(format!("column {name} is declared twice"));
            }
            if !fields.insert((*role as u8, field)) {
                return Some(format!("column {name}: the field {field} is declared twice"));
            }
            if *role == ColumnRole::Headers && !kind.holds_headers() {
                return Some(format!("column {name}: headers are ARRAY<STRUCT<key STRING, value BYTES>>, not {kind}"));
            }
        }
        // A table of one row, the result of an aggregate without GROUP BY, has the key `{}`.
        let keyless = self.key_format != Format::Json && self.of_role(ColumnRole::Key).next().is_none();
        if self.tombstones && (self.key_format == Format::None || keyless) {
            return Some("a table needs a key column and a key_format".to_owned());
        }
        if self.tombstones && self.value_format == Format::None {
            return Some("a table needs a value_format: a row whose value is null is deleted".to_owned());
        }
        self.part_inconsistency(ColumnRole::Key, self.key_format, "key")
            .or_else(|| self.part_inconsistency(ColumnRole::Value, self.value_format, "value"))
    }

    fn part_inconsistency(&self, role: ColumnRole, format: Format, what: &str) -> Option<String> {
        let columns: Vec<&DeclaredColumn> = self.of_role(role).map(|index| &self.columns[index]).collect();
        match (format, &columns[..]) {
            (Format::Json, _) | (_, []) | (Format::JsonUnwrapped, [_]) => None,
            (Format::None, [column, ..]) => {
                Some(format!("{what}_format is none but column {} is part of the {what}", column.name))
            }
            (Format::JsonUnwrapped, [first, second, ..]) => Some(format!(
                "a {what} without an object around it holds one column, not {} and {}; use wrap_single_value = true",
                first.name, second.name
            )),
            (Format::Delimited(delimiter), _) if !delimited::is_delimiter(delimiter) => {
                Some(format!("{delimiter:?} cannot stand between the fields of a delimited {what}"))
            }
            (Format::Delimited(_), columns) => columns.iter().find(|column| !column.kind.is_scalar()).map(|column| {
                format!("column {}: {what}_format delimited holds no {}; use json", column.name, column.kind)
            }),
            (Format::Kafka, [column]) if column.kind.is_kafka_primitive() => None,
            (Format::Kafka, [column]) => Some(format!(
                "column {}: {what}_format kafka holds STRING, UUID, INT, BIGINT, DOUBLE or BYTES, not {}; use json",
                column.name, column.kind
            )),
            (Format::Kafka, [first, second, ..]) => {
                Some(format!("{what}_format kafka holds one column, not {} and {}; use json", first.name, second.name))
            }
        }
    }
}

/// Why one record was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, ms.
    pub timestamp_ms: i64,
    /// The column that did not convert; `None` when the key or value as a whole did not parse or is null.
    pub column: Option<String>,
    /// What is wrong, in words.
    pub error: String,
    /// Whether a row that deletes its key stands for it: a table's record whose value does not decode.
    pub hides: bool,
}

/// Rows that decoded, and what did not.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The raw columns the decoder was told to carry over, then the declared columns asked for.
    pub rows: RecordBatch,
    /// One per record that did not decode, in their order.
    pub errors: Vec<DecodeError>,
}

impl Decoded {
    /// Offsets of the records that no row stands for.
    pub fn skipped(&self) -> impl Iterator<Item = i64> {
        self.errors.iter().filter(|error| !error.hides).map(|error| error.offset)
    }
}

/// Texts of JSON as a column of `kind`, by the rules that values of records are read by; null where a text is null.
///
/// # Errors
/// [`Error::InvalidBatch`] naming the row whose text is no JSON or does not convert.
pub fn column_of_json(kind: &ColumnType, texts: &StringArray) -> Result<ArrayRef> {
    let mut column = column::Column::new(kind);
    for (row, text) in texts.iter().enumerate() {
        let appended = match text {
            None => {
                column.append_null();
                Ok(())
            }
            Some(text) => json::whole(text.as_bytes())
                .and_then(|json| column.append_json(Some(json), &mut column::Budget::of_record())),
        };
        appended.map_err(|error| Error::InvalidBatch { reason: format!("row {row}: {error}") })?;
    }
    column.finish().map_err(Error::format("put values together"))
}

/// One record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedRecord {
    /// Key bytes.
    pub key: Option<Bytes>,
    /// Value bytes.
    pub value: Option<Bytes>,
}

#[cfg(test)]
mod tests;
