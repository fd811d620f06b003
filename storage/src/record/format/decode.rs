//! Raw batches to rows of declared columns, one record at a time: a record that does not decode leaves no trace in the
//! rows and one line in the errors. But in a table it is the newest of its key, if that decodes: what the key had before is
//! gone, as if it were deleted, whether compaction has taken it yet or not.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Int32Array, Int64Array, ListArray, RecordBatch, RecordBatchOptions,
    StructArray, TimestampMillisecondArray,
};
use arrow::compute::filter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::error::{Error, Result};
use crate::record::columns::RecordColumn;

use super::column::{Budget, Column};
use super::json::{FieldTable, Slot, whole};
use super::{ColumnRole, ColumnType, DecodeError, Decoded, Format, NULL_KEY, RecordFormat, delimited};

/// Name of the column that tells deletions from rows.
pub const TOMBSTONE_COLUMN: &str = "_tombstone";

/// Decodes raw batches (see [`crate::record::columns`]) into declared columns. Made once per scan.
#[derive(Debug)]
pub struct Decoder {
    schema: SchemaRef,
    places: Places,
    carried: Vec<usize>,
    wanted: Vec<usize>,
    columns: Vec<Target>,
    key: Part,
    value: Part,
    /// Columns that take all headers.
    headers: Vec<usize>,
    tombstones: bool,
    has_null_key: bool,
}

/// Where the raw columns stand.
#[derive(Debug)]
struct Places {
    partition: usize,
    offset: usize,
    timestamp: usize,
    key: usize,
    value: usize,
    /// Needed for headers columns only.
    headers: Option<usize>,
}

/// A declared column while it is filled.
#[derive(Debug)]
struct Target {
    name: String,
    column: Column,
    /// Whether the query wants it; if not, it is only checked.
    wanted: bool,
}

/// How a key or a value is taken apart.
#[derive(Debug)]
enum Part {
    /// Nothing is declared in it.
    Untouched,
    /// The fields of an object and the column of each.
    Json(FieldTable, Vec<usize>),
    /// The same of a key of one column, which may also stand there without an object around it, as ksqlDB writes it.
    JsonKey(FieldTable, usize),
    /// The one JSON value and its column.
    JsonUnwrapped(usize),
    /// One primitive and its column.
    Kafka(usize),
    /// What stands between the fields, and their columns.
    Delimited(char, Vec<usize>),
}

/// The raw columns of one batch.
struct Raw<'a> {
    partition: &'a Int32Array,
    offset: &'a Int64Array,
    timestamp: &'a TimestampMillisecondArray,
    key: &'a BinaryArray,
    value: &'a BinaryArray,
    headers: Option<Headers<'a>>,
}

/// The raw headers of one batch.
struct Headers<'a> {
    lists: &'a ListArray,
    keys: &'a BinaryArray,
    values: &'a BinaryArray,
}

/// Why a record is left out: the column, if it is one column's fault, and the words.
type Skip = (Option<usize>, String);

impl Decoder {
    /// A decoder of `format` that gives the raw columns `carried` (by index in `raw`) and the declared columns
    /// `wanted` (by index in `format.columns`), in these orders. `raw` must hold `_partition`, `_offset`, `_timestamp`,
    /// `_key` and `_value` (and `_headers` if a headers column is wanted), by name. All declared columns are checked,
    /// wanted or not, so that what is skipped does not depend on the query; headers columns, which any record fills,
    /// only if wanted.
    ///
    /// With `format.tombstones` a null value gives a row of its key columns and null value columns, and the last
    /// column of the schema is `_tombstone` (Boolean): true there, false elsewhere. A value that does not decode gives
    /// such a row beside its error. A null key is an error then; a key column that is NULL is written as bytes of its own.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a format that makes no sense.
    pub fn new(format: &RecordFormat, raw: &SchemaRef, carried: &[usize], wanted: &[usize]) -> Result<Self> {
        format.check()?;
        let mut fields = Vec::new();
        for &index in carried {
            let field = raw.fields().get(index).ok_or_else(|| missing(format!("raw column {index}")))?;
            fields.push(field.as_ref().clone());
        }
        for &index in wanted {
            let column = format.columns.get(index).ok_or_else(|| missing(format!("declared column {index}")))?;
            fields.push(Field::new(&column.name, column.kind.arrow(), true));
        }
        if format.tombstones {
            fields.push(Field::new(TOMBSTONE_COLUMN, DataType::Boolean, false));
        }
        let columns = (format.columns.iter().enumerate())
            .map(|(index, declared)| Target {
                name: declared.name.clone(),
                column: Column::new(&declared.kind),
                wanted: wanted.contains(&index),
            })
            .collect();
        let headers: Vec<usize> = format.of_role(ColumnRole::Headers).filter(|index| wanted.contains(index)).collect();
        let place = |column: RecordColumn| {
            raw.index_of(column.name()).map_err(|_| missing(format!("raw column {}", column.name())))
        };
        let places = Places {
            partition: place(RecordColumn::Partition)?,
            offset: place(RecordColumn::Offset)?,
            timestamp: place(RecordColumn::Timestamp)?,
            key: place(RecordColumn::Key)?,
            value: place(RecordColumn::Value)?,
            headers: if headers.is_empty() { None } else { Some(place(RecordColumn::Headers)?) },
        };
        Ok(Self {
            schema: Arc::new(Schema::new(fields)),
            places,
            carried: carried.to_vec(),
            wanted: wanted.to_vec(),
            columns,
            key: Part::new(format, ColumnRole::Key, format.key_format),
            value: Part::new(format, ColumnRole::Value, format.value_format),
            headers,
            tombstones: format.tombstones,
            has_null_key: format.has_null_key(),
        })
    }

    /// Schema of [`Decoded::rows`].
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    /// Decodes one batch.
    ///
    /// # Errors
    /// Only for bugs (a batch of another schema); bad records are in [`Decoded::errors`].
    pub fn decode(&mut self, raw: &RecordBatch) -> Result<Decoded> {
        let records = Raw::of(raw, &self.places)?;
        let mut errors = Vec::new();
        let mut kept = vec![true; raw.num_rows()];
        let mut deleted = Vec::with_capacity(raw.num_rows());
        // The slots borrow from the batch and serve all its records.
        let mut slots = Vec::new();
        for (row, kept) in kept.iter_mut().enumerate() {
            let rows = deleted.len();
            let value = records.value.is_valid(row).then(|| records.value.value(row));
            match self.append(&records, row, value, &mut slots) {
                Ok(tombstone) => {
                    deleted.push(tombstone);
                    self.columns
                        .iter_mut()
                        .filter(|target| !target.wanted)
                        .for_each(|target| target.column.truncate(0));
                }
                Err(skip) => {
                    self.truncate(rows);
                    let hides = self.append_hiding(&records, row, &mut slots);
                    self.truncate(rows + usize::from(hides));
                    errors.push(self.error(&records, row, skip, hides));
                    *kept = hides;
                    deleted.extend(hides.then_some(true));
                }
            }
        }
        let rows = self.finish(raw, kept, deleted).map_err(Error::format("put decoded rows together"))?;
        Ok(Decoded { rows, errors })
    }

    /// Leaves so many rows, and none of the columns that are only checked.
    fn truncate(&mut self, rows: usize) {
        for target in &mut self.columns {
            target.column.truncate(if target.wanted { rows } else { 0 });
        }
    }

    fn error(&self, records: &Raw<'_>, row: usize, (column, error): Skip, hides: bool) -> DecodeError {
        DecodeError {
            partition: records.partition.value(row),
            offset: records.offset.value(row),
            timestamp_ms: records.timestamp.value(row),
            column: column.map(|index| self.columns[index].name.clone()),
            error,
            hides,
        }
    }

    /// Appends a table's record as one that deletes its key, since its value does not decode; whether it could.
    fn append_hiding<'a>(&mut self, records: &Raw<'a>, row: usize, slots: &mut Vec<Slot<'a>>) -> bool {
        self.tombstones && records.value.is_valid(row) && self.append(records, row, None, slots).is_ok()
    }

    /// Appends one record, with this value, to all columns; says whether it is a tombstone.
    fn append<'a>(
        &mut self,
        records: &Raw<'a>,
        row: usize,
        value: Option<&'a [u8]>,
        slots: &mut Vec<Slot<'a>>,
    ) -> std::result::Result<bool, Skip> {
        let key = records.key.is_valid(row).then(|| records.key.value(row));
        match key {
            Some(NULL_KEY) if self.has_null_key => self.key.append_null(&mut self.columns),
            Some(key) => self.key.append(key, "key", &mut self.columns, slots)?,
            None if self.tombstones => return Err((None, "key is null".to_owned())),
            None => self.key.append_null(&mut self.columns),
        }
        match value {
            Some(value) => self.value.append(value, "value", &mut self.columns, slots)?,
            None if self.tombstones || matches!(self.value, Part::Untouched) => {
                self.value.append_null(&mut self.columns);
            }
            None => return Err((None, "value is null".to_owned())),
        }
        if let Some(headers) = &records.headers {
            for &index in &self.headers {
                let column = &mut self.columns[index].column;
                column.append_headers(headers.of_record(row)).map_err(|error| (Some(index), error))?;
            }
        }
        Ok(self.tombstones && value.is_none())
    }

    fn finish(
        &mut self,
        raw: &RecordBatch,
        kept: Vec<bool>,
        deleted: Vec<bool>,
    ) -> std::result::Result<RecordBatch, ArrowError> {
        let rows = deleted.len();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        let kept = (rows < kept.len()).then(|| BooleanArray::from(kept));
        for &index in &self.carried {
            columns.push(match &kept {
                None => Arc::clone(raw.column(index)),
                Some(kept) => filter(raw.column(index), kept)?,
            });
        }
        let mut finished: Vec<Option<ArrayRef>> = vec![None; self.columns.len()];
        for &index in &self.wanted {
            let array = match finished[index].take() {
                Some(array) => array,
                None => self.columns[index].column.finish()?,
            };
            finished[index] = Some(Arc::clone(&array));
            columns.push(array);
        }
        if self.tombstones {
            columns.push(Arc::new(BooleanArray::from(deleted)));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(SchemaRef::clone(&self.schema), columns, &options)
    }
}

impl Part {
    fn new(format: &RecordFormat, role: ColumnRole, bytes: Format) -> Self {
        let columns: Vec<usize> = format.of_role(role).collect();
        match (bytes, &columns[..]) {
            (Format::None, _) => Self::Untouched,
            // A key nobody declared may be anything; a value is an object even if no field of it is declared.
            (_, []) if role == ColumnRole::Key => Self::Untouched,
            (Format::JsonUnwrapped, [first, ..]) => Self::JsonUnwrapped(*first),
            (Format::Kafka, [first, ..]) => Self::Kafka(*first),
            (Format::Delimited(delimiter), [_, ..]) => Self::Delimited(delimiter, columns),
            (Format::JsonUnwrapped | Format::Kafka | Format::Delimited(_), []) => Self::Untouched,
            (Format::Json, _) => {
                let names = columns.iter().map(|&index| format.columns[index].field.as_str());
                let table = FieldTable::new(names);
                match columns[..] {
                    [one] if role == ColumnRole::Key && is_never_object(&format.columns[one].kind) => {
                        Self::JsonKey(table, one)
                    }
                    _ => Self::Json(table, columns),
                }
            }
        }
    }

    fn append<'a>(
        &self,
        bytes: &'a [u8],
        what: &str,
        targets: &mut [Target],
        slots: &mut Vec<Slot<'a>>,
    ) -> std::result::Result<(), Skip> {
        match self {
            Self::Untouched => Ok(()),
            Self::Kafka(index) => targets[*index].column.append_primitive(bytes).map_err(|error| (Some(*index), error)),
            Self::JsonKey(table, index) if bytes.trim_ascii_start().first() == Some(&b'{') => {
                append_fields(table, &[*index], (bytes, what), targets, slots)
            }
            Self::JsonUnwrapped(index) | Self::JsonKey(_, index) => {
                let value = whole(bytes).map_err(|error| (None, format!("{what} does not parse: {error}")))?;
                let appended = targets[*index].column.append_json(Some(value), &mut Budget::of_record());
                appended.map_err(|error| (Some(*index), error))
            }
            Self::Delimited(delimiter, columns) => {
                let fields = delimited::split(bytes, *delimiter, columns.len());
                let mut fields = fields.map_err(|error| (None, format!("{what} does not parse: {error}")))?;
                fields.resize(columns.len(), None);
                for (&index, field) in columns.iter().zip(&fields) {
                    let column = &mut targets[index].column;
                    match field {
                        Some(field) => column.append_field(field).map_err(|error| (Some(index), error))?,
                        None => column.append_null(),
                    }
                }
                Ok(())
            }
            Self::Json(table, columns) => append_fields(table, columns, (bytes, what), targets, slots),
        }
    }

    fn append_null(&self, targets: &mut [Target]) {
        match self {
            Self::Untouched => {}
            Self::Kafka(index) | Self::JsonUnwrapped(index) | Self::JsonKey(_, index) => {
                targets[*index].column.append_null()
            }
            Self::Json(_, columns) | Self::Delimited(_, columns) => {
                columns.iter().for_each(|&index| targets[index].column.append_null())
            }
        }
    }
}

/// Appends the fields of a JSON object to their columns.
fn append_fields<'a>(
    table: &FieldTable,
    columns: &[usize],
    (bytes, what): (&'a [u8], &str),
    targets: &mut [Target],
    slots: &mut Vec<Slot<'a>>,
) -> std::result::Result<(), Skip> {
    table.read(bytes, slots).map_err(|error| (None, format!("{what} does not parse: {error}")))?;
    let mut budget = Budget::of_record();
    for (&index, slot) in columns.iter().zip(slots.iter()) {
        targets[index].column.append_json(slot.value, &mut budget).map_err(|error| (Some(index), error))?;
    }
    Ok(())
}

/// Whether no JSON object is a value of this type, so that one is always the object around it.
fn is_never_object(kind: &ColumnType) -> bool {
    !matches!(kind, ColumnType::Struct(_) | ColumnType::Map(_) | ColumnType::Json)
}

impl<'a> Raw<'a> {
    fn of(batch: &'a RecordBatch, places: &Places) -> Result<Self> {
        Ok(Self {
            partition: column(batch, places.partition)?,
            offset: column(batch, places.offset)?,
            timestamp: column(batch, places.timestamp)?,
            key: column(batch, places.key)?,
            value: column(batch, places.value)?,
            headers: places.headers.map(|index| Headers::new(column(batch, index)?)).transpose()?,
        })
    }
}

impl<'a> Headers<'a> {
    fn new(lists: &'a ListArray) -> Result<Self> {
        let items: &StructArray = typed(lists.values().as_ref(), "_headers")?;
        let [keys, values] = items.columns() else { return Err(mismatch("_headers")) };
        Ok(Self { lists, keys: typed(keys, "_headers")?, values: typed(values, "_headers")? })
    }

    /// The headers of one record.
    fn of_record(&self, row: usize) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let bound = |row: usize| usize::try_from(self.lists.value_offsets()[row]).unwrap_or(0);
        let (keys, values) = (self.keys, self.values);
        (bound(row)..bound(row + 1))
            .map(move |item| (keys.value(item), values.is_valid(item).then(|| values.value(item))))
    }
}

fn column<A: 'static>(batch: &RecordBatch, index: usize) -> Result<&A> {
    let array = batch.columns().get(index).ok_or_else(|| mismatch("a raw batch"))?;
    typed(array.as_ref(), batch.schema_ref().field(index).name())
}

fn typed<'a, A: 'static>(array: &'a dyn Array, name: &str) -> Result<&'a A> {
    array.as_any().downcast_ref().ok_or_else(|| mismatch(name))
}

fn mismatch(name: &str) -> Error {
    Error::format(format!("decode {name}"))(ArrowError::SchemaError(format!(
        "{name} has another type than records have"
    )))
}

fn missing(what: String) -> Error {
    Error::Config { reason: format!("{what} is asked of a decoder but not there") }
}
