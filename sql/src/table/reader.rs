//! `ScanReader`: what a scan of storage gives, as rows of a source's columns; of a bare topic too, which decodes nothing.
//!
//! Storage gives declared columns, typed out of objects or decoded, without saying which: the same rows either way.

use std::sync::Arc;

use aquifer_storage::DeclaredScan;
use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::record::format::Decoded;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;

use super::rows::{RowShape, headers_json, raw_name};
use super::source::{Source, SourceColumn};
use crate::catalog::Catalog;

/// Name of the last column a reader of a keyed table gives: whether the record deletes its key.
pub(crate) const TOMBSTONE: &str = "_tombstone";

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct ScanReader {
    catalog: Arc<Catalog>,
    source: Source,
    shape: Option<RowShape>,
    raw: Vec<RecordColumn>,
    schema: SchemaRef,
}

impl ScanReader {
    /// A reader that gives `columns` in this order, then [`TOMBSTONE`] if the source is a keyed table.
    pub(crate) fn new(catalog: &Arc<Catalog>, source: &Source, columns: &[SourceColumn]) -> Self {
        let mut fields: Vec<Field> = columns.iter().map(|column| source.field(*column)).collect();
        if source.is_keyed_table() {
            fields.push(Field::new(TOMBSTONE, DataType::Boolean, false));
        }
        let schema = Arc::new(Schema::new(fields));
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

    /// Schema of what [`ScanReader::read`] gives.
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
        let raw = &scanned.rows;
        let columns = self.schema.fields().iter().map(|field| column(raw, field)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(raw.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema(), columns, &options)?)
    }
}

fn column(raw: &RecordBatch, field: &Field) -> Result<ArrayRef> {
    let name = raw_name(field.name());
    let index = raw.schema().index_of(name)?;
    let column = raw.column(index);
    match field.data_type() {
        DataType::Utf8 if name == RecordColumn::Headers.name() => Ok(Arc::new(headers_json(column.as_list()))),
        kind if column.data_type() == kind => Ok(Arc::clone(column)),
        kind => Ok(arrow::compute::cast(column, kind)?),
    }
}
