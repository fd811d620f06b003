//! `RowReader`: raw records in, rows of a source's columns out. The one place where bytes become rows for SQL, so that
//! a SELECT, a push query and a continuous query read alike.

use std::sync::Arc;

use aquifer_storage::record::columns::{RecordColumn, record_schema};
use aquifer_storage::record::format::{Decoder, RecordFormat};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int64Array, ListArray, RecordBatch, RecordBatchOptions,
    StringBuilder, TimestampMillisecondArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};

use super::source::{Source, SourceColumn};
use crate::catalog::Catalog;
use crate::error::{Error, Result, SqlState};

/// Name of the last column a reader of a keyed table gives: whether the record deletes its key.
pub(crate) const TOMBSTONE: &str = "_tombstone";

/// See the head of this file. Made once per scan of a partition.
#[derive(Debug)]
pub(crate) struct RowReader {
    catalog: Arc<Catalog>,
    source: Source,
    columns: Vec<SourceColumn>,
    raw_columns: Vec<RecordColumn>,
    decoder: Option<Decoder>,
    /// Declared index of the column that rowtime comes from, if rowtime is wanted and one is declared.
    time_column: Option<usize>,
    schema: SchemaRef,
}

impl RowReader {
    /// A reader that gives `columns` in this order, then [`TOMBSTONE`] if the source is a keyed table. Window columns
    /// are not its to give.
    ///
    /// # Errors
    /// XX000 for a relation whose format makes no sense.
    pub(crate) fn new(catalog: &Arc<Catalog>, source: &Source, columns: &[SourceColumn]) -> Result<Self> {
        let mut fields: Vec<Field> = columns.iter().map(|column| source.field(*column)).collect();
        if source.is_keyed_table() {
            fields.push(Field::new(TOMBSTONE, DataType::Boolean, false));
        }
        let mut reader = Self {
            catalog: Arc::clone(catalog),
            source: source.clone(),
            columns: columns.to_vec(),
            raw_columns: Vec::new(),
            decoder: None,
            time_column: None,
            schema: Arc::new(Schema::new(fields)),
        };
        reader.raw_columns = reader.needed();
        if let Some(relation) = source.relation.clone() {
            reader.time_column = reader.time_column_of(&relation.format, relation.timestamp_column.as_deref());
            let raw = record_schema()
                .project(&reader.raw_columns.iter().map(|column| *column as usize).collect::<Vec<_>>())
                .map_err(|source| Error::new(SqlState::InternalError, "record columns").with_source(source))?;
            let carried: Vec<usize> = (0..reader.raw_columns.len()).collect();
            let decoder = Decoder::new(&relation.format, &Arc::new(raw), &carried, &reader.wanted())?;
            reader.decoder = Some(decoder);
        }
        Ok(reader)
    }

    /// What a scan must give.
    pub(crate) fn raw_columns(&self) -> &[RecordColumn] {
        &self.raw_columns
    }

    /// Schema of what [`RowReader::read`] gives.
    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn needed(&self) -> Vec<RecordColumn> {
        let has = |column: SourceColumn| self.columns.contains(&column);
        let declared = self.source.relation.is_some();
        let headers = self.source.relation.as_ref().is_some_and(|relation| {
            let columns = &relation.format.columns;
            columns.iter().any(|column| column.role == aquifer_storage::record::format::ColumnRole::Headers)
        });
        let wanted = [
            (RecordColumn::Partition, declared || has(SourceColumn::Partition) || has(SourceColumn::RowPartition)),
            (RecordColumn::Offset, true),
            (RecordColumn::Timestamp, declared || has(SourceColumn::Timestamp) || has(SourceColumn::RowTime)),
            (RecordColumn::Key, declared || has(SourceColumn::Key)),
            (RecordColumn::Value, declared || has(SourceColumn::Value)),
            (RecordColumn::Headers, headers || has(SourceColumn::Headers)),
        ];
        wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(column, _)| column).collect()
    }

    fn time_column_of(&self, format: &RecordFormat, name: Option<&str>) -> Option<usize> {
        let name = name.filter(|_| self.columns.contains(&SourceColumn::RowTime))?;
        format.columns.iter().position(|column| column.name == name)
    }

    /// Declared columns to decode, each once.
    fn wanted(&self) -> Vec<usize> {
        let mut wanted: Vec<usize> = self.time_column.into_iter().collect();
        for column in &self.columns {
            if let SourceColumn::Declared(index) = column
                && !wanted.contains(index)
            {
                wanted.push(*index);
            }
        }
        wanted
    }

    /// Rows of a raw batch; records that do not decode are left out and noted.
    ///
    /// # Errors
    /// Only for bugs and damage.
    pub(crate) fn read(&mut self, raw: &RecordBatch) -> Result<RecordBatch> {
        let wanted = self.wanted();
        let (rows, carried) = match self.decoder.as_mut() {
            None => (raw.clone(), raw.num_columns()),
            Some(decoder) => {
                let decoded = decoder.decode(raw)?;
                let topic = (self.source.topic.id, self.source.topic.name.as_str());
                self.catalog.decode_errors.note(self.source.name(), topic, decoded.errors);
                (decoded.rows, self.raw_columns.len())
            }
        };
        let mut arrays = Vec::with_capacity(self.schema.fields().len());
        for column in &self.columns {
            arrays.push(self.array(*column, &rows, carried, &wanted)?);
        }
        if self.source.is_keyed_table() {
            let last = rows.columns().last().map(Arc::clone);
            arrays.push(last.unwrap_or_else(|| Arc::new(BooleanArray::from(vec![false; rows.num_rows()]))));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(self.schema(), arrays, &options)
            .map_err(|source| Error::new(SqlState::InternalError, format!("decoded rows: {source}")).with_source(source))
    }

    fn array(&self, column: SourceColumn, rows: &RecordBatch, carried: usize, wanted: &[usize]) -> Result<ArrayRef> {
        let raw = |record: RecordColumn| {
            let index = self.raw_columns.iter().position(|column| *column == record);
            index.map(|index| Arc::clone(rows.column(index))).ok_or_else(|| missing(record.name()))
        };
        match column {
            SourceColumn::Declared(index) => {
                let place = wanted.iter().position(|wanted| *wanted == index).ok_or_else(|| missing("a column"))?;
                Ok(Arc::clone(rows.column(carried + place)))
            }
            SourceColumn::Partition | SourceColumn::RowPartition => raw(RecordColumn::Partition),
            SourceColumn::Offset | SourceColumn::RowOffset => raw(RecordColumn::Offset),
            SourceColumn::Timestamp => raw(RecordColumn::Timestamp),
            SourceColumn::Key => raw(RecordColumn::Key),
            SourceColumn::Value => raw(RecordColumn::Value),
            SourceColumn::Headers => headers_json(raw(RecordColumn::Headers)?.as_list()),
            SourceColumn::RowTime => {
                let timestamps = raw(RecordColumn::Timestamp)?;
                let declared = self.time_column.map(|_| rows.column(carried));
                Ok(Arc::new(row_time(declared, timestamps.as_primitive())?))
            }
            SourceColumn::WindowStart | SourceColumn::WindowEnd => Err(missing("a window")),
        }
    }
}

fn missing(what: &str) -> Error {
    Error::new(SqlState::InternalError, format!("{what} was not read"))
}

/// `rowtime` in ms: the declared column where it is not null, else the record's timestamp.
fn row_time(declared: Option<&ArrayRef>, timestamps: &TimestampMillisecondArray) -> Result<Int64Array> {
    let Some(declared) = declared else {
        return Ok(timestamps.values().iter().copied().collect());
    };
    let as_ms = |divisor: i64, values: &Int64Array| -> Int64Array {
        let rows = values.iter().zip(timestamps.values());
        rows.map(|(value, timestamp)| value.map_or(*timestamp, |value| value.div_euclid(divisor))).collect()
    };
    match declared.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let values: &TimestampMicrosecondArray = declared.as_primitive();
            Ok(as_ms(1000, &values.reinterpret_cast::<Int64Type>()))
        }
        DataType::Int64 => Ok(as_ms(1, declared.as_primitive())),
        other => Err(missing(&format!("rowtime from {other}"))),
    }
}

/// `[{"key": …, "value": …}, …]` in order, duplicates kept; what is not UTF-8 as its hex text behind `\x`.
fn headers_json(headers: &ListArray) -> Result<ArrayRef> {
    let mut texts = StringBuilder::with_capacity(headers.len(), headers.len() * 2);
    for row in 0..headers.len() {
        let items = headers.value(row);
        let (keys, values): (&BinaryArray, &BinaryArray) =
            (items.as_struct().column(0).as_binary(), items.as_struct().column(1).as_binary());
        let list: Vec<serde_json::Value> = (0..items.len())
            .map(|index| {
                let value = values.is_valid(index).then(|| text_or_hex(values.value(index)));
                serde_json::json!({ "key": text_or_hex(keys.value(index)), "value": value })
            })
            .collect();
        texts.append_value(serde_json::Value::Array(list).to_string());
    }
    Ok(Arc::new(texts.finish()))
}

fn text_or_hex(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
            use std::fmt::Write as _;
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_is_not_text_shows_as_hex() {
        assert_eq!(text_or_hex(b"abc"), "abc");
        assert_eq!(text_or_hex(&[0xff, 0x01]), "\\xff01");
    }

    #[test]
    fn rowtime_comes_from_the_declared_column_and_else_from_the_record() {
        let timestamps = TimestampMillisecondArray::from(vec![7, 8]);
        let declared: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(5_000_000), None]));
        assert_eq!(row_time(Some(&declared), &timestamps).unwrap().values(), &[5000, 8]);
        assert_eq!(row_time(None, &timestamps).unwrap().values(), &[7, 8]);
    }
}
