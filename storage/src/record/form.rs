//! Whether the bytes of a key are those that SQL would write for the row's key, so that a row is found under them.
//!
//! A key in Kafka's format has one spelling. A JSON object has many (`{"a":1}` and `{ "a": 1.0 }` are one key), so each row is
//! kept under the bytes that SQL would write. Records that do not decode are no rows and do not count.
//! Compaction goes by what SQL would write: of a row whose key was spelled in two ways the newer record is the row.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::record::columns::{RecordColumn, record_schema};
use crate::record::format::{ColumnRole, ColumnType, Decoder, Encoder, Format, RecordFormat};

/// The raw columns that decoding wants, in this order.
const RAW: [RecordColumn; 5] =
    [RecordColumn::Partition, RecordColumn::Offset, RecordColumn::Timestamp, RecordColumn::Key, RecordColumn::Value];

/// What a key's bytes are checked against, as the mark has it: empty where there is one spelling only.
pub(crate) fn key_form(format: &RecordFormat) -> Vec<u8> {
    if has_one_spelling(format) {
        return Vec::new();
    }
    // Writing plain values as JSON into memory cannot fail.
    serde_json::to_vec(&keys_only(format)).unwrap_or_default()
}

fn has_one_spelling(format: &RecordFormat) -> bool {
    let mut keys = format.columns.iter().filter(|column| column.role == ColumnRole::Key);
    let plain =
        |kind: &ColumnType| matches!(kind, ColumnType::Text | ColumnType::Bytes | ColumnType::Int | ColumnType::BigInt);
    format.key_format == Format::Kafka && keys.all(|column| plain(&column.kind))
}

fn raw_schema() -> Result<SchemaRef> {
    let places = RAW.map(|column| column as usize);
    Ok(Arc::new(record_schema().project(&places).map_err(Error::format("name the raw columns"))?))
}

/// The format of the key columns alone.
fn keys_only(format: &RecordFormat) -> RecordFormat {
    let keys = format.columns.iter().filter(|column| column.role == ColumnRole::Key);
    RecordFormat {
        columns: keys.cloned().collect(),
        key_format: format.key_format,
        // Of a table; there are no values to be read by it.
        value_format: Format::Json,
        tombstones: true,
    }
}

/// Judges keys by a form.
#[derive(Debug)]
pub(crate) struct KeyJudge {
    decoder: Decoder,
    encoder: Encoder,
    raw: SchemaRef,
    key_columns: usize,
}

impl KeyJudge {
    /// A judge; `None` where every key is as SQL writes it.
    ///
    /// # Errors
    /// [`Error::Config`] for a format that makes no sense.
    pub(crate) fn new(format: &RecordFormat) -> Result<Option<Self>> {
        if has_one_spelling(format) {
            return Ok(None);
        }
        let (keys, raw) = (keys_only(format), raw_schema()?);
        let wanted: Vec<usize> = (0..keys.columns.len()).collect();
        let place = |column: RecordColumn| raw.index_of(column.name()).map_err(Error::format("find a raw column"));
        let carried = [place(RecordColumn::Key)?, place(RecordColumn::Offset)?];
        let decoder = Decoder::new(&keys, &raw, &carried, &wanted)?;
        Ok(Some(Self { decoder, encoder: Encoder::new(&keys)?, raw, key_columns: wanted.len() }))
    }

    /// Whether some row's key has other bytes than SQL would write.
    ///
    /// # Errors
    /// [`Error::Format`]; then it is a bug.
    pub(crate) fn has_foreign(&mut self, records: &RecordBatch) -> Result<bool> {
        let (decoded, written) = self.encoded(records)?;
        let keys = decoded.column(0).as_binary::<i32>();
        Ok(written.iter().zip(keys).any(|(written, key)| written.as_deref() != key))
    }

    /// What SQL would write for each row's key; `None` where it does not decode. Offsets ascend.
    ///
    /// # Errors
    /// [`Error::Format`]; then it is a bug.
    pub(crate) fn written(&mut self, records: &RecordBatch) -> Result<Vec<Option<Bytes>>> {
        let (decoded, written) = self.encoded(records)?;
        let mut written = decoded.column(1).as_primitive::<Int64Type>().values().iter().zip(written).peekable();
        let offsets = records.column_by_name(RecordColumn::Offset.name()).ok_or_else(other_columns)?;
        let of_row = |offset: &i64| written.next_if(|(decoded, _)| *decoded == offset).and_then(|(_, key)| key);
        Ok(offsets.as_primitive::<Int64Type>().values().iter().map(of_row).collect())
    }

    /// The rows whose keys decode, as key and offset, and what SQL would write for them.
    fn encoded(&mut self, records: &RecordBatch) -> Result<(RecordBatch, Vec<Option<Bytes>>)> {
        let raw = self.raw(records)?;
        let decoded = self.decoder.decode(&raw)?.rows;
        let columns: Vec<ArrayRef> = decoded.columns()[2..2 + self.key_columns].to_vec();
        let fields: Vec<_> = decoded.schema().fields()[2..2 + self.key_columns].to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(decoded.num_rows()));
        let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .map_err(Error::format("view keys"))?;
        let written = self.encoder.encode(&rows, Some(&vec![true; rows.num_rows()]))?;
        Ok((decoded, written.into_iter().map(|written| written.key).collect()))
    }

    /// What decoding wants. Values are left out: of a row whose value does not decode the key is judged too, at worst in vain.
    fn raw(&self, records: &RecordBatch) -> Result<RecordBatch> {
        let count = records.num_rows();
        let column = |column: RecordColumn| match column {
            RecordColumn::Partition => Some(Arc::new(Int32Array::from(vec![0; count])) as ArrayRef),
            RecordColumn::Value => Some(new_null_array(&DataType::Binary, count)),
            // A key has none.
            RecordColumn::Timestamp => {
                let kind = self.raw.field_with_name(RecordColumn::Timestamp.name()).ok()?.data_type().clone();
                cast(&Int64Array::from(vec![0; count]), &kind).ok()
            }
            column => records.column_by_name(column.name()).cloned(),
        };
        let columns: Option<Vec<ArrayRef>> = RAW.into_iter().map(column).collect();
        RecordBatch::try_new(Arc::clone(&self.raw), columns.ok_or_else(other_columns)?)
            .map_err(Error::format("view keys"))
    }
}

fn other_columns() -> Error {
    Error::Config { reason: "a scan gave other columns than it was asked for".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::batch::{RecordView, TimestampType};
    use crate::record::format::DeclaredColumn;
    use crate::record::rows::{RowBuilder, RowOrigin};

    fn format(key_format: Format, kinds: &[(&str, ColumnType)]) -> RecordFormat {
        let columns = kinds.iter().map(|(name, kind)| DeclaredColumn {
            name: (*name).to_owned(),
            field: (*name).to_owned(),
            kind: kind.clone(),
            role: ColumnRole::Key,
            not_null: false,
        });
        RecordFormat { columns: columns.collect(), key_format, value_format: Format::Json, tombstones: true }
    }

    fn records(keys: &[&[u8]]) -> RecordBatch {
        let mut rows = RowBuilder::new(&[RecordColumn::Offset, RecordColumn::Timestamp, RecordColumn::Key]);
        let origin = RowOrigin { partition: 0, timestamp_type: TimestampType::CreateTime, committed_at_us: 0 };
        for (offset, key) in (0..).zip(keys) {
            let record = RecordView { offset, timestamp_ms: 0, key: Some(key), value: None, headers: Vec::new() };
            rows.push(&origin, &record);
        }
        rows.finish().unwrap()
    }

    #[test]
    fn another_spelling_of_a_key_is_seen_and_what_is_no_key_is_not() {
        let two = format(Format::Json, &[("a", ColumnType::Int), ("b", ColumnType::Text)]);
        let mut judge = KeyJudge::new(&two).unwrap().unwrap();
        assert!(!judge.has_foreign(&records(&[br#"{"a":1,"b":"x"}"#, b"no json", br#"{"a":null,"b":null}"#])).unwrap());
        assert!(judge.has_foreign(&records(&[br#"{"a":1,"b":"x"}"#, br#"{"b":"x","a":1}"#])).unwrap());
        assert!(judge.has_foreign(&records(&[br#"{ "a":1,"b":"x"}"#])).unwrap());
    }

    #[test]
    fn uuids_are_judged_and_numbers_have_one_spelling() {
        assert!(KeyJudge::new(&format(Format::Kafka, &[("k", ColumnType::BigInt)])).unwrap().is_none());
        let mut judge = KeyJudge::new(&format(Format::Kafka, &[("k", ColumnType::Uuid)])).unwrap().unwrap();
        assert!(!judge.has_foreign(&records(&[b"0189a6c2-5d4e-7000-8000-00000000000a"])).unwrap());
        assert!(judge.has_foreign(&records(&[b"0189A6C2-5D4E-7000-8000-00000000000A"])).unwrap());
    }
}
