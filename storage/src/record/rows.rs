//! `RowBuilder`: records to the raw Arrow columns of [`crate::record::columns`], only those asked for.
//!
//! Used where batches become rows: scans of the hot part and the writer of cold objects.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int8Builder, Int32Builder, Int64Builder, ListArray, StructArray,
    TimestampMicrosecondBuilder, TimestampMillisecondBuilder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Error, Result};
use crate::record::batch::{RecordView, TimestampType};
use crate::record::columns::{RecordColumn, header_fields, record_schema};

/// Bytes of keys, values and headers after which a batch is full whatever its rows: far below what Arrow's 32-bit
/// offsets can address, even with the largest record on top.
pub(crate) const BATCH_BYTES_MAX: usize = 32 << 20;

/// What a record's batch says of all its records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowOrigin {
    /// The partition.
    pub(crate) partition: i32,
    /// Who set the timestamps.
    pub(crate) timestamp_type: TimestampType,
    /// Commit time, us.
    pub(crate) committed_at_us: i64,
}

/// The schema of these columns, in their order.
pub(crate) fn schema_of(columns: &[RecordColumn]) -> SchemaRef {
    let all = record_schema();
    Arc::new(Schema::new(columns.iter().map(|column| Arc::clone(&all.fields()[*column as usize])).collect::<Vec<_>>()))
}

/// Collects rows; see the top of this file.
#[derive(Debug)]
pub(crate) struct RowBuilder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    rows: usize,
    bytes: usize,
}

#[derive(Debug)]
enum ColumnBuilder {
    Partition(Int32Builder),
    Offset(Int64Builder),
    Timestamp(TimestampMillisecondBuilder),
    TimestampType(Int8Builder),
    CommittedAt(TimestampMicrosecondBuilder),
    Key(BinaryBuilder),
    Value(BinaryBuilder),
    Headers(HeadersBuilder),
}

/// Lists of (key, value). Arrow's own list builder goes through dynamic types for every field.
#[derive(Debug)]
struct HeadersBuilder {
    lengths: Vec<usize>,
    keys: BinaryBuilder,
    values: BinaryBuilder,
}

impl RowBuilder {
    /// A builder of these columns.
    pub(crate) fn new(columns: &[RecordColumn]) -> Self {
        let schema = schema_of(columns);
        let columns = columns.iter().zip(schema.fields()).map(|(column, field)| ColumnBuilder::new(*column, field));
        Self { columns: columns.collect(), schema, rows: 0, bytes: 0 }
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, origin: &RowOrigin, record: &RecordView<'_>) {
        for column in &mut self.columns {
            match column {
                ColumnBuilder::Partition(values) => values.append_value(origin.partition),
                ColumnBuilder::Offset(values) => values.append_value(record.offset),
                ColumnBuilder::Timestamp(values) => values.append_value(record.timestamp_ms),
                ColumnBuilder::TimestampType(values) => values.append_value(origin.timestamp_type as i8),
                ColumnBuilder::CommittedAt(values) => values.append_value(origin.committed_at_us),
                ColumnBuilder::Key(values) => {
                    self.bytes += record.key.map_or(0, <[u8]>::len);
                    values.append_option(record.key);
                }
                ColumnBuilder::Value(values) => {
                    self.bytes += record.value.map_or(0, <[u8]>::len);
                    values.append_option(record.value);
                }
                ColumnBuilder::Headers(headers) => self.bytes += headers.push(&record.headers),
            }
        }
        self.rows += 1;
    }

    /// Adds records nobody looked at: only for a builder without columns, whose batches say how many rows there are.
    pub(crate) fn push_unseen(&mut self, rows: usize) {
        debug_assert!(self.columns.is_empty(), "a row without values in a batch with columns");
        self.rows += rows;
    }

    /// Rows so far.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of keys, values and headers so far, of the columns there are.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no more rows should be added.
    pub(crate) fn is_full(&self, rows_max: usize) -> bool {
        self.rows >= rows_max || self.bytes >= BATCH_BYTES_MAX
    }

    /// The rows so far; the builder is empty then.
    ///
    /// # Errors
    /// [`Error::Format`]; then it is a bug.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let arrays = self.columns.iter_mut().map(ColumnBuilder::finish).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.rows = 0;
        self.bytes = 0;
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(Error::format("build rows of records"))
    }
}

impl ColumnBuilder {
    fn new(column: RecordColumn, field: &Field) -> Self {
        let zone = match field.data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        match column {
            RecordColumn::Partition => Self::Partition(Int32Builder::new()),
            RecordColumn::Offset => Self::Offset(Int64Builder::new()),
            RecordColumn::Timestamp => Self::Timestamp(TimestampMillisecondBuilder::new().with_timezone_opt(zone)),
            RecordColumn::TimestampType => Self::TimestampType(Int8Builder::new()),
            RecordColumn::CommittedAt => Self::CommittedAt(TimestampMicrosecondBuilder::new().with_timezone_opt(zone)),
            RecordColumn::Key => Self::Key(BinaryBuilder::new()),
            RecordColumn::Value => Self::Value(BinaryBuilder::new()),
            RecordColumn::Headers => Self::Headers(HeadersBuilder::new()),
        }
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(match self {
            Self::Partition(values) => Arc::new(values.finish()),
            Self::Offset(values) => Arc::new(values.finish()),
            Self::Timestamp(values) => Arc::new(values.finish()),
            Self::TimestampType(values) => Arc::new(values.finish()),
            Self::CommittedAt(values) => Arc::new(values.finish()),
            Self::Key(values) | Self::Value(values) => Arc::new(values.finish()),
            Self::Headers(headers) => Arc::new(headers.finish()?),
        })
    }
}

impl HeadersBuilder {
    fn new() -> Self {
        Self { lengths: Vec::new(), keys: BinaryBuilder::new(), values: BinaryBuilder::new() }
    }

    /// Adds one record's headers; gives their bytes.
    fn push(&mut self, headers: &[(&[u8], Option<&[u8]>)]) -> usize {
        let mut bytes = 0;
        for (key, value) in headers {
            self.keys.append_value(key);
            self.values.append_option(*value);
            bytes += key.len() + value.map_or(0, <[u8]>::len);
        }
        self.lengths.push(headers.len());
        bytes
    }

    fn finish(&mut self) -> Result<ListArray> {
        let offsets = OffsetBuffer::from_lengths(self.lengths.drain(..));
        let columns: Vec<ArrayRef> = vec![Arc::new(self.keys.finish()), Arc::new(self.values.finish())];
        let headers = StructArray::try_new(header_fields(), columns, None).map_err(Error::format("build headers"))?;
        let item = Field::new("item", DataType::Struct(header_fields()), false);
        ListArray::try_new(Arc::new(item), offsets, Arc::new(headers), None).map_err(Error::format("build headers"))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;

    const ORIGIN: RowOrigin =
        RowOrigin { partition: 2, timestamp_type: TimestampType::LogAppendTime, committed_at_us: 9 };

    #[test]
    fn rows_have_the_columns_asked_for_in_that_order() {
        let mut builder = RowBuilder::new(&[RecordColumn::Headers, RecordColumn::Offset, RecordColumn::Key]);
        let headers = vec![(b"a".as_slice(), Some(b"1".as_slice())), (b"a", None)];
        builder.push(&ORIGIN, &RecordView { offset: 5, timestamp_ms: 1, key: None, value: Some(b"unseen"), headers });
        builder.push(&ORIGIN, &RecordView { offset: 7, timestamp_ms: 1, key: Some(b""), value: None, headers: vec![] });
        assert_eq!((builder.rows(), builder.bytes()), (2, 3));
        let batch = builder.finish().unwrap();
        assert_eq!(batch.schema(), schema_of(&[RecordColumn::Headers, RecordColumn::Offset, RecordColumn::Key]));
        let lists = batch.column(0).as_list::<i32>();
        assert_eq!((lists.value_length(0), lists.value_length(1)), (2, 0));
        assert!(lists.value(0).as_struct().column(1).is_null(1));
        assert!(batch.column(2).is_null(0) && batch.column(2).is_valid(1));
        assert_eq!(builder.rows(), 0);
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let mut builder = RowBuilder::new(&[]);
        builder.push(&ORIGIN, &RecordView { offset: 5, timestamp_ms: 1, key: None, value: None, headers: vec![] });
        assert_eq!(builder.finish().unwrap().num_rows(), 1);
        let all = RowBuilder::new(&RecordColumn::ALL).finish().unwrap();
        assert_eq!(all.schema().fields(), record_schema().fields());
    }
}
