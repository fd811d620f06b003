//! `ScanReader`: what a scan of storage gives, as rows of a source's columns; of a bare topic too, which decodes nothing.

use std::sync::Arc;

use aquifer_storage::record::columns::RecordColumn;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;

use super::rows::{RowReader, headers_json};
use super::source::{Source, SourceColumn};
use crate::catalog::Catalog;

/// Name of the last column a reader of a keyed table gives: whether the record deletes its key.
pub(crate) const TOMBSTONE: &str = "_tombstone";

/// Read of a bare topic whatever is asked: they cost little, and `rowtime` and its like come from them.
const ALWAYS: [RecordColumn; 3] = [RecordColumn::Partition, RecordColumn::Offset, RecordColumn::Timestamp];

/// See the head of this file.
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
        let mut fields: Vec<Field> = columns.iter().map(|column| source.field(*column)).collect();
        if source.is_keyed_table() {
            fields.push(Field::new(TOMBSTONE, DataType::Boolean, false));
        }
        let schema = Arc::new(Schema::new(fields));
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

    /// Schema of what [`ScanReader::read`] gives.
    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
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
        let columns = self.schema.fields().iter().map(|field| column(raw, field)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(raw.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema(), columns, &options)?)
    }
}

fn column(raw: &RecordBatch, field: &Field) -> Result<ArrayRef> {
    let name = match field.name().as_str() {
        "rowtime" => RecordColumn::Timestamp.name(),
        "rowpartition" => RecordColumn::Partition.name(),
        "rowoffset" => RecordColumn::Offset.name(),
        name => name,
    };
    let index = raw.schema().index_of(name)?;
    let column = raw.column(index);
    match field.data_type() {
        DataType::Utf8 if name == RecordColumn::Headers.name() => Ok(Arc::new(headers_json(column.as_list()))),
        kind if column.data_type() == kind => Ok(Arc::clone(column)),
        kind => Ok(arrow::compute::cast(column, kind)?),
    }
}
