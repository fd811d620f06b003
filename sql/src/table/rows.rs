//! `RowReader`: raw record batches as the rows a scan of a relation has, declared columns and hidden ones, by name.
//!
//! | hidden column | what |
//! |---|---|
//! | `_partition`, `_offset`, `_timestamp`, `_timestamp_type`, `_committed_at`, `_key`, `_value` | the record's own |
//! | `_headers` | jsonb: `[{"key": …, "value": …}, …]`; what is not UTF-8 as its hex text behind `\x` |
//! | `rowtime` | BIGINT ms of the relation's timestamp column, of `_timestamp` where there is none or it is NULL |
//! | `rowpartition`, `rowoffset` | `_partition`, `_offset` under ksqlDB's names |
//! | `_tombstone` | of a table with a primary key: whether the record deletes its key |
//!
//! A bounded scan and a continuous query read by the same code, so that they see the same rows.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::sync::Arc;

use aquifer_storage::record::columns::{RecordColumn, record_schema};
use aquifer_storage::record::format::{ColumnRole, DecodeError, Decoded, Decoder};
use aquifer_storage::{SharedDecoder, Storage};
use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, ListArray, RecordBatch, RecordBatchOptions, StringArray, StringBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType};
use datafusion::error::{DataFusionError, Result};

use crate::catalog::Relation;

/// Name of the event time column.
pub(crate) const ROWTIME: &str = "rowtime";

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct RowReader {
    decoder: Decoder,
    /// What others have decoded, and are left.
    shared: Option<SharedDecoder>,
    /// The raw columns a scan must give.
    scanned: Vec<RecordColumn>,
    records_schema: SchemaRef,
    shape: RowShape,
}

fn schema_of(columns: &[RecordColumn]) -> Result<SchemaRef> {
    let indexes: Vec<usize> = columns.iter().map(|column| *column as usize).collect();
    Ok(Arc::new(record_schema().project(&indexes)?))
}

/// Where `raw` stand among the columns scanned.
fn carried(raw: &[RecordColumn], scanned: &[RecordColumn]) -> Vec<usize> {
    raw.iter().filter_map(|column| scanned.iter().position(|scanned| scanned == column)).collect()
}

/// What one raw batch gave.
#[derive(Debug)]
pub(crate) struct ReadRows {
    /// The rows, in the schema asked for.
    pub(crate) rows: RecordBatch,
    /// The raw columns of the same records.
    pub(crate) records: RecordBatch,
    /// Records that were skipped.
    pub(crate) errors: Vec<DecodeError>,
}

impl RowReader {
    /// A reader of `relation` whose rows have `schema`: any of its declared and hidden columns, in any order.
    ///
    /// # Errors
    /// A name the relation does not have.
    pub(crate) fn new(relation: &Relation, schema: SchemaRef, with_headers: bool) -> Result<Self> {
        let shape = RowShape::with_records(relation, schema, with_headers);
        let scanned = shape.raw.clone();
        Self::of(relation, shape, scanned)
    }

    /// The same for who reads each record once, in passing: it shares what is decoded with whoever else decodes it.
    ///
    /// # Errors
    /// As [`RowReader::new`].
    pub(crate) fn once(storage: &Storage, relation: &Relation, schema: SchemaRef, with_headers: bool) -> Result<Self> {
        let shape = RowShape::with_records(relation, schema, with_headers);
        let needed = |column: &RecordColumn| shape.raw.contains(column) || SharedDecoder::COLUMNS.contains(column);
        let scanned = RecordColumn::ALL.into_iter().filter(needed).collect();
        let reader = Self::of(relation, shape, scanned)?;
        let carried = carried(&reader.shape.raw, &reader.scanned);
        let schema = schema_of(&reader.scanned)?;
        let shared =
            storage.shared_decoder(relation.topic, &relation.format, &schema, (&carried, &reader.shape.wanted));
        let shared = shared.map_err(|source| DataFusionError::External(Box::new(source)))?;
        Ok(Self { shared: Some(shared), ..reader })
    }

    fn of(relation: &Relation, shape: RowShape, scanned: Vec<RecordColumn>) -> Result<Self> {
        let carried = carried(&shape.raw, &scanned);
        let decoder = Decoder::new(&relation.format, &schema_of(&scanned)?, &carried, &shape.wanted)
            .map_err(|source| DataFusionError::External(Box::new(source)))?;
        Ok(Self { decoder, shared: None, scanned, records_schema: schema_of(&shape.raw)?, shape })
    }

    /// The raw columns a scan must give, in this order.
    pub(crate) fn raw_columns(&self) -> &[RecordColumn] {
        &self.scanned
    }

    /// The rows of one raw batch; records that do not decode are left out.
    ///
    /// # Errors
    /// Only for bugs.
    pub(crate) fn read(&mut self, raw: &RecordBatch) -> Result<ReadRows> {
        let decoded = self.decoder.decode(raw).map_err(|source| DataFusionError::External(Box::new(source)))?;
        self.read_of(decoded)
    }

    /// The same of a batch of one partition, of all that there is from an offset on.
    ///
    /// # Errors
    /// Only for bugs.
    pub(crate) fn read_once(&mut self, partition: i32, start: i64, raw: &RecordBatch) -> Result<ReadRows> {
        let Some(shared) = &mut self.shared else { return self.read(raw) };
        let decoded = shared.decode(&mut self.decoder, partition, start, raw);
        self.read_of(decoded.map_err(|source| DataFusionError::External(Box::new(source)))?)
    }

    fn read_of(&self, decoded: Decoded) -> Result<ReadRows> {
        let options = RecordBatchOptions::new().with_row_count(Some(decoded.rows.num_rows()));
        let records = decoded.rows.columns()[..self.shape.raw.len()].to_vec();
        let records = RecordBatch::try_new_with_options(SchemaRef::clone(&self.records_schema), records, &options)?;
        Ok(ReadRows { rows: self.shape.rows(&decoded.rows)?, records, errors: decoded.errors })
    }
}

/// Rows of a relation out of what its decoder gives of their records, or an object that has them decoded: raw columns first,
/// declared ones behind them.
#[derive(Debug)]
pub(crate) struct RowShape {
    raw: Vec<RecordColumn>,
    wanted: Vec<usize>,
    schema: SchemaRef,
    timestamp_column: Option<String>,
}

impl RowShape {
    /// Rows of this schema: any of the relation's declared and hidden columns, in any order.
    pub(crate) fn new(relation: &Relation, schema: SchemaRef) -> Self {
        let declared = &relation.format.columns;
        let index_of = |name: &str| declared.iter().position(|column| column.name == name);
        let mut wanted: Vec<usize> = schema.fields().iter().filter_map(|field| index_of(field.name())).collect();
        if schema.column_with_name(ROWTIME).is_some()
            && let Some(index) = relation.timestamp_column.as_deref().and_then(index_of)
        {
            wanted.push(index);
        }
        wanted.sort_unstable();
        wanted.dedup();
        let hidden = schema.fields().iter().filter(|field| index_of(field.name()).is_none());
        let needed: Vec<&str> = hidden.map(|field| raw_name(field.name())).collect();
        let raw = RecordColumn::ALL.into_iter().filter(|column| needed.contains(&column.name())).collect();
        Self { raw, wanted, schema, timestamp_column: relation.timestamp_column.clone() }
    }

    /// The same, with the records' own columns that tell them apart.
    fn with_records(relation: &Relation, schema: SchemaRef, with_headers: bool) -> Self {
        let declared = &relation.format.columns;
        let mut shape = Self::new(relation, schema);
        let headers = with_headers
            || shape.raw.contains(&RecordColumn::Headers)
            || shape.wanted.iter().any(|index| declared[*index].role == ColumnRole::Headers);
        let always = [
            RecordColumn::Partition,
            RecordColumn::Offset,
            RecordColumn::Timestamp,
            RecordColumn::Key,
            RecordColumn::Value,
        ];
        let needed = |column: &RecordColumn| {
            always.contains(column) || shape.raw.contains(column) || (headers && *column == RecordColumn::Headers)
        };
        shape.raw = RecordColumn::ALL.into_iter().filter(needed).collect();
        shape
    }

    /// The raw columns that are needed, in this order.
    pub(crate) fn raw_columns(&self) -> &[RecordColumn] {
        &self.raw
    }

    /// The declared columns that are needed behind them, by their indexes.
    pub(crate) fn wanted(&self) -> &[usize] {
        &self.wanted
    }

    /// The rows.
    ///
    /// # Errors
    /// Only for bugs.
    pub(crate) fn rows(&self, decoded: &RecordBatch) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(decoded.num_rows()));
        let columns = self.schema.fields().iter().map(|field| {
            let column = self.column(field.name(), decoded)?;
            if column.data_type() == field.data_type() { Ok(column) } else { Ok(cast(&column, field.data_type())?) }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new_with_options(SchemaRef::clone(&self.schema), columns, &options)?)
    }

    /// One column by its name. A declared column wins over a hidden one of the same name.
    fn column(&self, name: &str, decoded: &RecordBatch) -> Result<ArrayRef> {
        let behind_raw = |name: &str| {
            let fields = decoded.schema_ref().fields();
            let found = fields.iter().skip(self.raw.len()).position(|field| field.name() == name);
            found.map(|index| ArrayRef::clone(decoded.column(self.raw.len() + index)))
        };
        if let Some(column) = behind_raw(name) {
            return Ok(column);
        }
        let missing = || DataFusionError::Internal(format!("a relation has no column {name}"));
        let raw = decoded.column_by_name(raw_name(name)).cloned().ok_or_else(missing)?;
        match name {
            "_headers" => Ok(Arc::new(headers_json(raw.as_list()))),
            "_timestamp" => Ok(within_range(raw)),
            ROWTIME => {
                let record = rowtime_ms(&raw)?;
                let Some(declared) = self.timestamp_column.as_deref().and_then(behind_raw) else {
                    return Ok(Arc::new(record));
                };
                // An event without a time of its own happened when its record was written.
                let times = rowtime_ms(&declared)?;
                let times = times.iter().zip(record.values());
                Ok(Arc::new(times.map(|(time, record)| time.unwrap_or(*record)).collect::<Int64Array>()))
            }
            _ => Ok(raw),
        }
    }
}

/// Milliseconds that Postgres's timestamps reach, which count microseconds.
pub(crate) const TIMESTAMPS_MS: RangeInclusive<i64> = i64::MIN / 1000..=i64::MAX / 1000;

/// Record timestamps, those that a client has sent from beyond Postgres's range at its end: one such record must not make
/// every query over its topic fail. `rowtime` has them as they are.
pub(crate) fn within_range(timestamps: ArrayRef) -> ArrayRef {
    let Some(times) = timestamps.as_primitive_opt::<TimestampMillisecondType>() else { return timestamps };
    if times.values().iter().all(|ms| TIMESTAMPS_MS.contains(ms)) {
        return timestamps;
    }
    let kind = times.data_type().clone();
    let reached =
        times.unary::<_, TimestampMillisecondType>(|ms| ms.clamp(*TIMESTAMPS_MS.start(), *TIMESTAMPS_MS.end()));
    Arc::new(reached.with_data_type(kind))
}

/// The raw column that a hidden one is made of.
pub(crate) fn raw_name(name: &str) -> &str {
    match name {
        ROWTIME => RecordColumn::Timestamp.name(),
        "rowpartition" => RecordColumn::Partition.name(),
        "rowoffset" => RecordColumn::Offset.name(),
        name => name,
    }
}

/// Event times in ms: of timestamps the whole ms at or before, BIGINT as it is.
pub(crate) fn rowtime_ms(column: &ArrayRef) -> Result<Int64Array> {
    let micros = |column: &ArrayRef| -> Result<Int64Array> {
        let zoneless = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
        Ok(zoneless.as_primitive::<TimestampMicrosecondType>().unary(|micros: i64| micros.div_euclid(1000)))
    };
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Ok(cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
        }
        DataType::Timestamp(..) | DataType::Date32 => micros(column),
        _ => Ok(cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
    }
}

/// Headers as jsonb has them.
pub(crate) fn headers_json(headers: &ListArray) -> StringArray {
    let mut json = StringBuilder::new();
    let mut text = String::new();
    for row in 0..headers.len() {
        text.clear();
        text.push('[');
        let list = headers.value(row);
        let parts = list.as_struct();
        let (keys, values) = (parts.column(0).as_binary::<i32>(), parts.column(1).as_binary::<i32>());
        for index in 0..keys.len() {
            let comma = if index == 0 { "" } else { ", " };
            let value = values.is_valid(index).then(|| values.value(index));
            let value = value.map_or_else(|| "null".to_owned(), bytes_json);
            // Writing to a String cannot fail.
            let _ = write!(text, "{comma}{{\"key\": {}, \"value\": {value}}}", bytes_json(keys.value(index)));
        }
        text.push(']');
        json.append_value(&text);
    }
    json.finish()
}

/// Bytes as a JSON string: their text, or their hex behind `\x`.
fn bytes_json(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).map(ToOwned::to_owned).unwrap_or_else(|_| {
        let mut hex = "\\x".to_owned();
        for byte in bytes {
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    });
    serde_json::Value::String(text).to_string()
}
