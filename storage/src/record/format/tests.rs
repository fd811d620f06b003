//! The rules of reading and writing, one by one, and that one undoes the other. Here: batches and formats to try them on.

use arrow::array::{
    Array, BinaryArray, Int8Array, Int32Array, Int64Array, ListArray, StructArray, TimestampMicrosecondArray,
    TimestampMillisecondArray,
};
use arrow::buffer::OffsetBuffer;

use super::*;
use crate::record::columns::{header_fields, record_schema};

mod reading;
mod round_trip;
mod writing;

type Row<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);
type HeaderList<'a> = &'a [(&'a [u8], Option<&'a [u8]>)];

/// A raw batch of partition 4 whose offsets begin at 100.
fn raw(rows: &[Row<'_>]) -> RecordBatch {
    raw_with_headers(rows, &vec![&[][..]; rows.len()])
}

fn raw_with_headers(rows: &[Row<'_>], headers: &[HeaderList<'_>]) -> RecordBatch {
    let count = rows.len();
    let flat: Vec<_> = headers.iter().flat_map(|list| list.iter()).collect();
    let header_columns: Vec<ArrayRef> = vec![
        Arc::new(BinaryArray::from_iter_values(flat.iter().map(|(key, _)| key))),
        Arc::new(BinaryArray::from_iter(flat.iter().map(|(_, value)| value.as_ref()))),
    ];
    let items = StructArray::new(header_fields(), header_columns, None);
    let DataType::List(item) = record_schema().field(7).data_type().clone() else { panic!("headers are a list") };
    let lengths = OffsetBuffer::from_lengths(headers.iter().map(|list| list.len()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![4; count])),
        Arc::new(Int64Array::from_iter_values(100..100 + count as i64)),
        Arc::new(TimestampMillisecondArray::from(vec![7; count]).with_timezone("UTC")),
        Arc::new(Int8Array::from(vec![0; count])),
        Arc::new(TimestampMicrosecondArray::from(vec![9; count]).with_timezone("UTC")),
        Arc::new(BinaryArray::from_iter(rows.iter().map(|(key, _)| *key))),
        Arc::new(BinaryArray::from_iter(rows.iter().map(|(_, value)| *value))),
        Arc::new(ListArray::new(item, lengths, Arc::new(items), None)),
    ];
    RecordBatch::try_new(record_schema(), columns).unwrap()
}

fn column(name: &str, kind: ColumnType, role: ColumnRole) -> DeclaredColumn {
    DeclaredColumn { name: name.to_lowercase(), field: name.to_owned(), kind, role, not_null: false }
}

fn stream(columns: Vec<DeclaredColumn>) -> RecordFormat {
    RecordFormat { columns, key_format: Format::Kafka, value_format: Format::Json, tombstones: false }
}

fn all(format: &RecordFormat) -> Vec<usize> {
    (0..format.columns.len()).collect()
}

fn decode(format: &RecordFormat, batch: &RecordBatch) -> Decoded {
    let wanted = all(format);
    Decoder::new(format, &record_schema(), &[], &wanted).unwrap().decode(batch).unwrap()
}
