//! Rows to keys and values: what SQL writes. The reverse of [`super::Decoder`]: decoding gives the same rows.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use bytes::Bytes;

use crate::error::{Error, Result};

use super::cells::{Cells, field_prefix, write_object};
use super::{ColumnRole, ColumnType, EncodedRecord, Format, NULL_KEY, RecordFormat, delimited};

/// Encodes rows of declared columns (all of them, in declared order, headers columns excepted) into keys and values.
#[derive(Debug)]
pub struct Encoder {
    columns: Vec<Written>,
    key_format: Format,
    value_format: Format,
    tombstones: bool,
    has_null_key: bool,
}

/// A column that is written.
#[derive(Debug)]
struct Written {
    name: String,
    /// The field's name as JSON, and the colon.
    prefix: Vec<u8>,
    kind: ColumnType,
    arrow: DataType,
    role: ColumnRole,
    not_null: bool,
}

/// Where a part's bytes stand in the buffer; `None` for null.
type Span = Option<Range<usize>>;

impl Encoder {
    /// An encoder of `format`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a format that makes no sense.
    pub fn new(format: &RecordFormat) -> Result<Self> {
        format.check()?;
        let written = format.columns.iter().filter(|column| column.role != ColumnRole::Headers);
        let columns = written.map(|column| Written {
            name: column.name.clone(),
            prefix: field_prefix(&column.field),
            arrow: column.kind.arrow(),
            kind: column.kind.clone(),
            role: column.role,
            not_null: column.not_null,
        });
        Ok(Self {
            columns: columns.collect(),
            key_format: format.key_format,
            value_format: format.value_format,
            tombstones: format.tombstones,
            has_null_key: format.has_null_key(),
        })
    }

    /// Keys and values of `rows`; `tombstone[i]` writes a null value. Columns of another Arrow type are cast.
    ///
    /// # Errors
    /// [`crate::Error::InvalidBatch`] naming row and column (a null in a NOT NULL column, a number JSON cannot hold).
    pub fn encode(&self, rows: &RecordBatch, tombstone: Option<&[bool]>) -> Result<Vec<EncodedRecord>> {
        let arrays = self.arrays(rows)?;
        let mut cells = Vec::with_capacity(arrays.len());
        for (column, array) in self.columns.iter().zip(&arrays) {
            let typed = Cells::new(&column.kind, array.as_ref());
            cells.push(typed.ok_or_else(|| invalid(format!("column {} is no {}", column.name, column.kind)))?);
        }
        // All records share one buffer.
        let mut bytes = Vec::new();
        let mut spans = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let deleted = tombstone.is_some_and(|tombstone| tombstone.get(row).copied().unwrap_or(false));
            self.check_nulls(&cells, row, deleted)?;
            let key = self.write(ColumnRole::Key, &cells, row, &mut bytes)?;
            if key.is_none() && self.tombstones {
                return Err(invalid(format!("row {row}: the key of a table is null")));
            }
            let value = if deleted { None } else { self.write(ColumnRole::Value, &cells, row, &mut bytes)? };
            spans.push((key, value));
        }
        let bytes = Bytes::from(bytes);
        let slice = |span: Span| span.map(|span| bytes.slice(span));
        Ok(spans.into_iter().map(|(key, value)| EncodedRecord { key: slice(key), value: slice(value) }).collect())
    }

    /// The columns in the types they are declared with.
    fn arrays(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        if rows.num_columns() != self.columns.len() {
            let (given, declared) = (rows.num_columns(), self.columns.len());
            return Err(invalid(format!("rows of {given} columns where {declared} are declared")));
        }
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (column, array) in self.columns.iter().zip(rows.columns()) {
            arrays.push(if *array.data_type() == column.arrow {
                ArrayRef::clone(array)
            } else {
                cast(array, &column.arrow).map_err(|e| invalid(format!("column {}: {e}", column.name)))?
            });
        }
        Ok(arrays)
    }

    fn check_nulls(&self, cells: &[Cells<'_>], row: usize, deleted: bool) -> Result<()> {
        for (column, cells) in self.columns.iter().zip(cells) {
            if column.not_null && cells.is_null(row) && !(deleted && column.role == ColumnRole::Value) {
                return Err(invalid(format!("row {row}: column {} is null but declared NOT NULL", column.name)));
            }
        }
        Ok(())
    }

    /// Writes a row's key or value.
    fn write(&self, role: ColumnRole, cells: &[Cells<'_>], row: usize, bytes: &mut Vec<u8>) -> Result<Span> {
        let columns = || self.columns.iter().zip(cells).filter(|(column, _)| column.role == role);
        let format = if role == ColumnRole::Key { self.key_format } else { self.value_format };
        let start = bytes.len();
        match format {
            Format::None => return Ok(None),
            Format::Kafka => match columns().next() {
                None => return Ok(None),
                Some((column, cells)) if !cells.is_null(row) => {
                    cells.write_primitive(row, bytes).map_err(|error| about(row, column, &error))?;
                }
                Some((column, _)) if role != ColumnRole::Key => {
                    return Err(about(row, column, "format kafka has no bytes for a value that is null"));
                }
                Some(_) if self.has_null_key => bytes.extend_from_slice(NULL_KEY),
                Some(_) => return Ok(None),
            },
            // A stream's key of nulls alone is a null key; a table's is a key like any other.
            _ if role == ColumnRole::Key && !self.tombstones && columns().all(|(_, cells)| cells.is_null(row)) => {
                return Ok(None);
            }
            Format::JsonUnwrapped => {
                let Some((column, cells)) = columns().next() else { return Ok(None) };
                cells.write_json(row, bytes).map_err(|error| about(row, column, &error))?;
            }
            Format::Delimited(delimiter) => {
                let mut field = Vec::new();
                for (index, (column, cells)) in columns().enumerate() {
                    if index > 0 {
                        delimited::write_delimiter(delimiter, bytes);
                    }
                    if !cells.is_null(row) {
                        field.clear();
                        cells.write_field(row, &mut field).map_err(|error| about(row, column, &error))?;
                        delimited::write(&field, delimiter, bytes);
                    }
                }
            }
            Format::Json => {
                let fields = columns().map(|(column, cells)| (&column.prefix[..], cells));
                write_object(fields, row, bytes).map_err(|error| self.locate(role, cells, row, &error))?;
            }
        }
        Ok(Some(start..bytes.len()))
    }

    /// Finds the column that could not be written, for the message.
    fn locate(&self, role: ColumnRole, cells: &[Cells<'_>], row: usize, error: &str) -> Error {
        let of_role = self.columns.iter().zip(cells).filter(|(column, _)| column.role == role);
        for (column, cells) in of_role {
            if cells.write_json(row, &mut Vec::new()).is_err() {
                return about(row, column, error);
            }
        }
        invalid(format!("row {row}: {error}"))
    }
}

fn about(row: usize, column: &Written, error: &str) -> Error {
    invalid(format!("row {row}: column {}: {error}", column.name))
}

fn invalid(reason: String) -> Error {
    Error::InvalidBatch { reason }
}
