//! Declared columns of a cold object: what a relation says its records hold, decoded once, beside the raw columns.
//!
//! Every raw row stays, whether it decodes or not; where it does not, the declared columns are null and `_error` says
//! why. Which columns a topic has is SQL's knowledge: storage asks when it tiers (see [`DeclaredColumns`]).

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{AsArray, StringArray, StringBuilder, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::ids::TopicId;
use crate::record::columns::{RecordColumn, record_schema};
use crate::record::format::{DecodeError, Decoder, RecordFormat};

/// Why a record did not decode.
const ERROR_COLUMN: &str = "_error";

/// What knows the declared columns of topics; asked each time a topic is tiered.
pub trait DeclaredColumns: Debug + Send + Sync {
    /// How the topic's records decode; `None` if nothing is declared over it.
    fn format_of(&self, topic: TopicId) -> Option<RecordFormat>;
}

/// Adds the declared columns to raw rows.
#[derive(Debug)]
pub(crate) struct Declared {
    decoder: Decoder,
    columns: usize,
    schema: SchemaRef,
}

impl Declared {
    /// For records of this format.
    ///
    /// # Errors
    /// [`Error::Config`] for a format that makes no sense.
    pub(crate) fn new(format: &RecordFormat) -> Result<Self> {
        let raw = record_schema();
        let wanted: Vec<usize> = (0..format.columns.len()).collect();
        let decoder = Decoder::new(format, &raw, &[], &wanted)?;
        let mut fields: Vec<_> = raw.fields().iter().map(Arc::clone).collect();
        // Behind the declared columns a table's decoder gives one more: whether the row is a tombstone.
        fields.extend(decoder.schema().fields().iter().take(wanted.len()).map(Arc::clone));
        fields.push(Arc::new(Field::new(ERROR_COLUMN, DataType::Utf8, true)));
        Ok(Self { decoder, columns: wanted.len(), schema: Arc::new(Schema::new(fields)) })
    }

    /// Raw columns, declared columns, `_error`.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The raw rows with their declared columns.
    ///
    /// # Errors
    /// [`Error::Format`]; then it is a bug.
    pub(crate) fn extend(&mut self, raw: &RecordBatch) -> Result<RecordBatch> {
        let decoded = self.decoder.decode(raw)?;
        let (places, errors) = places(raw, &decoded.errors);
        let mut columns = raw.columns().to_vec();
        for column in decoded.rows.columns().iter().take(self.columns) {
            columns.push(take(column, &places, None).map_err(Error::format("place decoded rows"))?);
        }
        columns.push(Arc::new(errors));
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(Error::format("add declared columns"))
    }
}

/// For each raw row its place among the decoded ones, null where it did not decode, and why not. Both sides ascend by
/// offset.
fn places(raw: &RecordBatch, errors: &[DecodeError]) -> (UInt32Array, StringArray) {
    let mut errors = errors.iter().peekable();
    let mut words = StringBuilder::new();
    let mut decoded = 0;
    let offsets = raw.column(RecordColumn::Offset as usize).as_primitive::<Int64Type>();
    let place = |offset: &i64| match errors.next_if(|error| error.offset == *offset) {
        Some(DecodeError { column: Some(column), error, .. }) => {
            words.append_value(format!("{column}: {error}"));
            None
        }
        Some(DecodeError { error, .. }) => {
            words.append_value(error);
            None
        }
        None => {
            words.append_null();
            decoded += 1;
            Some(decoded - 1)
        }
    };
    let places = offsets.values().iter().map(place).collect();
    (places, words.finish())
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use arrow::datatypes::Int32Type;

    use super::*;
    use crate::record::batch::{RecordView, TimestampType};
    use crate::record::format::{ColumnRole, ColumnType, DeclaredColumn, Format};
    use crate::record::rows::{RowBuilder, RowOrigin};

    fn column(name: &str, kind: ColumnType, role: ColumnRole) -> DeclaredColumn {
        DeclaredColumn { name: name.to_owned(), field: name.to_owned(), kind, role, not_null: false }
    }

    #[test]
    fn every_row_stays_and_says_why_it_did_not_decode() {
        for tombstones in [false, true] {
            let format = RecordFormat {
                columns: vec![
                    column("id", ColumnType::Text, ColumnRole::Key),
                    column("n", ColumnType::Int, ColumnRole::Value),
                ],
                key_format: Format::Kafka,
                value_format: Format::Json,
                tombstones,
            };
            let mut rows = RowBuilder::new(&RecordColumn::ALL);
            let origin = RowOrigin { partition: 0, timestamp_type: TimestampType::CreateTime, committed_at_us: 1 };
            let values: [Option<&[u8]>; 5] =
                [Some(br#"{"n":1}"#), Some(b"no json"), Some(br#"{"n":"x"}"#), None, Some(br#"{"n":5}"#)];
            for (offset, value) in (10..).zip(values) {
                let (key, headers) = (Some(b"k".as_slice()), vec![]);
                rows.push(&origin, &RecordView { offset, timestamp_ms: 0, key, value, headers });
            }
            let raw = rows.finish().unwrap();
            let mut declared = Declared::new(&format).unwrap();
            let extended = declared.extend(&raw).unwrap();
            assert_eq!(extended.num_rows(), 5);
            assert_eq!(extended.schema(), *declared.schema());
            let numbers = extended.column_by_name("n").unwrap().as_primitive::<Int32Type>();
            assert_eq!(numbers.iter().collect::<Vec<_>>(), [Some(1), None, None, None, Some(5)]);
            let errors = extended.column_by_name(ERROR_COLUMN).unwrap().as_string::<i32>();
            let failed: Vec<bool> = (0..5).map(|row| errors.is_valid(row)).collect();
            assert_eq!(failed, [false, true, true, !tombstones, false]);
            assert!(errors.value(2).starts_with("n: "), "{}", errors.value(2));
        }
    }
}
