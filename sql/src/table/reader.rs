//! What storage gives, as rows of a source's columns; of a bare topic too, which decodes nothing.
//!
//! [`DecodedReader`]: a bounded scan. Storage gives declared columns, typed out of objects or decoded, without saying which:
//! the same rows either way. [`ScanReader`]: records as they come in, decoded here.

use std::sync::Arc;

use aquifer_storage::DeclaredScan;
use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::record::format::Decoded;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;

use super::rows::{RowReader, RowShape, headers_json, raw_name, within_range};
use super::source::{Source, SourceColumn};
use crate::catalog::Catalog;

/// Name of the last column a reader of a keyed table gives: whether the record deletes its key.
pub(crate) const TOMBSTONE: &str = "_tombstone";

/// Rows of what a scan of storage gives decoded: see the head of this file.
#[derive(Debug)]
pub(crate) struct DecodedReader {
    catalog: Arc<Catalog>,
    source: Source,
    shape: Option<RowShape>,
    raw: Vec<RecordColumn>,
    schema: SchemaRef,
}

impl DecodedReader {
    /// A reader that gives `columns` in this order, then [`TOMBSTONE`] if the source is a keyed table.
    pub(crate) fn new(catalog: &Arc<Catalog>, source: &Source, columns: &[SourceColumn]) -> Self {
        let schema = schema_of(source, columns);
        let shape = source.relation.as_ref().map(|relation| RowShape::new(relation, Arc::clone(&schema)));
        let raw = match &shape {
            Some(shape) => shape.raw_columns().to_vec(),
            None => {
                let needed: Vec<&str> = schema.fields().iter().map(|field| raw_name(field.name())).collect();
                RecordColumn::ALL.into_iter().filter(|raw| needed.contains(&raw.name())).collect()
            }
        };
        Self { catalog: Arc::clone(catalog), source: source.clone(), shape, raw, schema }
    }

    /// The raw columns a scan must give.
    pub(crate) fn raw_columns(&self) -> &[RecordColumn] {
        &self.raw
    }

    /// The declared columns it must give behind them.
    pub(crate) fn declared(&self) -> Option<DeclaredScan> {
        let (relation, shape) = (self.source.relation.as_ref()?, self.shape.as_ref()?);
        Some(DeclaredScan { format: Arc::new(relation.format.clone()), wanted: shape.wanted().to_vec() })
    }

    /// Schema of what [`DecodedReader::read`] gives.
    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Rows of what a scan gives; records that did not decode are noted.
    ///
    /// # Errors
    /// Only for bugs.
    pub(crate) fn read(&self, scanned: Decoded) -> Result<RecordBatch> {
        if let Some(shape) = &self.shape {
            let topic = (self.source.topic.id, self.source.topic.name.as_str());
            self.catalog.decode_errors.note(self.source.name(), topic, scanned.errors);
            return shape.rows(&scanned.rows);
        }
        rows_of_topic(&scanned.rows, &self.schema)
    }
}

/// Read of a bare topic whatever is asked: they cost little, and `rowtime` and its like come from them.
const ALWAYS: [RecordColumn; 3] = [RecordColumn::Partition, RecordColumn::Offset, RecordColumn::Timestamp];

/// Rows of what a scan of storage gives raw, as it comes in: it has not been decoded by anybody.
#[derive(Debug)]
pub(crate) struct ScanReader {
    catalog: Arc<Catalog>,
    source: Source,
    rows: Option<RowReader>,
    raw: Vec<RecordColumn>,
    schema: SchemaRef,
}

impl ScanReader {
    /// A reader that gives `columns` in this order, then [`TOMBSTONE`] if the source is a keyed table.
    ///
    /// # Errors
    /// A relation whose format makes no sense.
    pub(crate) fn new(catalog: &Arc<Catalog>, source: &Source, columns: &[SourceColumn]) -> Result<Self> {
        let schema = schema_of(source, columns);
        let rows = match &source.relation {
            Some(relation) => Some(RowReader::new(relation, Arc::clone(&schema), false)?),
            None => None,
        };
        let raw = match &rows {
            Some(rows) => rows.raw_columns().to_vec(),
            None => RecordColumn::ALL
                .into_iter()
                .filter(|raw| ALWAYS.contains(raw) || schema.column_with_name(raw.name()).is_some())
                .collect(),
        };
        Ok(Self { catalog: Arc::clone(catalog), source: source.clone(), rows, raw, schema })
    }

    /// What a scan must give.
    pub(crate) fn raw_columns(&self) -> &[RecordColumn] {
        &self.raw
    }

    /// Rows of a raw batch; records that do not decode are left out and noted.
    ///
    /// # Errors
    /// Only for bugs.
    pub(crate) fn read(&mut self, raw: &RecordBatch) -> Result<RecordBatch> {
        if let Some(rows) = self.rows.as_mut() {
            let read = rows.read(raw)?;
            let topic = (self.source.topic.id, self.source.topic.name.as_str());
            self.catalog.decode_errors.note(self.source.name(), topic, read.errors);
            return Ok(read.rows);
        }
        rows_of_topic(raw, &self.schema)
    }
}

/// The columns in this order, then [`TOMBSTONE`] if the source is a keyed table.
fn schema_of(source: &Source, columns: &[SourceColumn]) -> SchemaRef {
    let mut fields: Vec<Field> = columns.iter().map(|column| source.field(*column)).collect();
    if source.is_keyed_table() {
        fields.push(Field::new(TOMBSTONE, DataType::Boolean, false));
    }
    Arc::new(Schema::new(fields))
}

/// Raw columns as those of a bare topic.
fn rows_of_topic(raw: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| column(raw, field)).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(raw.num_rows()));
    Ok(RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options)?)
}

fn column(raw: &RecordBatch, field: &Field) -> Result<ArrayRef> {
    let name = raw_name(field.name());
    let index = raw.schema().index_of(name)?;
    let column = raw.column(index);
    match field.data_type() {
        kind if field.name() == RecordColumn::Timestamp.name() && column.data_type() == kind => {
            Ok(within_range(Arc::clone(column)))
        }
        DataType::Utf8 if name == RecordColumn::Headers.name() => Ok(Arc::new(headers_json(column.as_list()))),
        kind if column.data_type() == kind => Ok(Arc::clone(column)),
        kind => Ok(arrow::compute::cast(column, kind)?),
    }
}
