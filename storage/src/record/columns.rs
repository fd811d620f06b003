//! The columns every cold object has from the first day, and every scan gives: a record as Arrow sees it.
//!
//! | column | Arrow type | null |
//! |---|---|---|
//! | `_partition` | Int32 | no |
//! | `_offset` | Int64 | no |
//! | `_timestamp` | Timestamp(ms, UTC) | no |
//! | `_timestamp_type` | Int8 | no |
//! | `_committed_at` | Timestamp(us, UTC) | no |
//! | `_key` | Binary | yes |
//! | `_value` | Binary | yes |
//! | `_headers` | List<Struct<key: Binary, value: Binary>> | no (value may be) |
//!
//! Declared columns come after these under their names; names that begin with `_` are refused in declarations.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

/// Positions in [`record_schema`]. Stored in objects by name; the order is the schema's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum RecordColumn {
    /// `_partition`.
    Partition = 0,
    /// `_offset`.
    Offset = 1,
    /// `_timestamp`.
    Timestamp = 2,
    /// `_timestamp_type`.
    TimestampType = 3,
    /// `_committed_at`.
    CommittedAt = 4,
    /// `_key`.
    Key = 5,
    /// `_value`.
    Value = 6,
    /// `_headers`.
    Headers = 7,
}

impl RecordColumn {
    /// All, in schema order.
    pub const ALL: [Self; 8] = [
        Self::Partition,
        Self::Offset,
        Self::Timestamp,
        Self::TimestampType,
        Self::CommittedAt,
        Self::Key,
        Self::Value,
        Self::Headers,
    ];

    /// The column's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["_partition", "_offset", "_timestamp", "_timestamp_type", "_committed_at", "_key", "_value", "_headers"]
            [self as usize]
    }
}

/// Fields of one header.
#[must_use]
pub fn header_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Binary, false), Field::new("value", DataType::Binary, true)])
}

static RECORD_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let utc: Arc<str> = Arc::from("UTC");
    let header = Field::new("item", DataType::Struct(header_fields()), false);
    Arc::new(Schema::new(vec![
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        Field::new("_timestamp", DataType::Timestamp(TimeUnit::Millisecond, Some(Arc::clone(&utc))), false),
        Field::new("_timestamp_type", DataType::Int8, false),
        Field::new("_committed_at", DataType::Timestamp(TimeUnit::Microsecond, Some(utc)), false),
        Field::new("_key", DataType::Binary, true),
        Field::new("_value", DataType::Binary, true),
        Field::new("_headers", DataType::List(Arc::new(header)), false),
    ]))
});

/// The schema of a record.
#[must_use]
pub fn record_schema() -> SchemaRef {
    Arc::clone(&RECORD_SCHEMA)
}
