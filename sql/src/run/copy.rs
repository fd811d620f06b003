//! `COPY … FROM STDIN`: the client's bytes become columns of the relation, columns records, and all of it one commit.
//!
//! What is in memory is bounded: a line that has begun, a batch of columns, and what [`Writing`] holds before it goes out as
//! data of a large commit. A copy that is dropped has written nothing.

use std::sync::Arc;

use aquifer_storage::record::format::ColumnType;
use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{Field as ArrowField, Schema};
use datafusion::error::DataFusionError;
use tokio::time::Instant;

use self::split::{Field, Fields, Lines, not_utf8};
use super::insert::{Target, Writer, Writing};
use super::value::{ColumnBuilder, quoted};
use crate::error::{Error, Result, SqlState};
use crate::statement::copy::{CopyFormat, CopyFrom};
use crate::types::field_of;

pub(crate) mod split;
pub(crate) mod write;

/// Rows of a batch of columns, at the most.
const BATCH_ROWS_MAX: usize = 8192;
/// Rows for which a column has room to begin with.
const COLUMN_ROWS: usize = 1024;
/// Bytes of lines after which a batch is closed.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Bytes that are looked at before the batch is.
const PORTION_BYTES: usize = 64 << 10;

/// A COPY under way; see the head of this file.
#[derive(Debug)]
pub struct CopyIn {
    relation: String,
    format: CopyFormat,
    lines: Lines,
    reader: Reader,
    writer: Writer,
    writing: Writing,
    deadline: Option<Instant>,
    rows: u64,
}

/// Lines on their way into columns.
#[derive(Debug)]
struct Reader {
    columns: Vec<Column>,
    targets: Vec<Target>,
    schema: Arc<Schema>,
    fields: Fields,
    header: bool,
    /// Number of each row's line.
    numbers: Vec<u64>,
    bytes: usize,
}

#[derive(Debug)]
struct Column {
    name: String,
    builder: ColumnBuilder,
    /// Rows of the batch that have the default.
    defaulted: Vec<usize>,
}

impl CopyIn {
    /// Begins a copy into `targets`.
    ///
    /// # Errors
    /// 42703, 42P10 for columns that options name.
    pub(crate) fn new(
        copy: &CopyFrom,
        writer: Writer,
        targets: Vec<Target>,
        writing: Writing,
        deadline: Option<Instant>,
    ) -> Result<Self> {
        let relation = writer.relation();
        let kind_of = |target: &Target| match target {
            Target::Declared(index) => {
                let column = &relation.format.columns[*index];
                (column.name.clone(), column.kind.clone())
            }
            Target::RowTime => ("rowtime".to_owned(), ColumnType::BigInt),
        };
        let kinds: Vec<(String, ColumnType)> = targets.iter().map(kind_of).collect();
        let fields: Vec<ArrowField> = kinds.iter().map(|(name, kind)| field_of(name, kind, true)).collect();
        let copied: Vec<&str> = kinds.iter().map(|(name, _)| name.as_str()).collect();
        let known = |name: &str| relation.format.columns.iter().any(|column| column.name == name);
        let format = copy.force.resolve(&copy.format, &copied, &known)?;
        let column =
            |(name, kind)| Column { name, builder: ColumnBuilder::new(&kind, COLUMN_ROWS), defaulted: Vec::new() };
        let reader = Reader {
            columns: kinds.into_iter().map(column).collect(),
            targets,
            schema: Arc::new(Schema::new(fields)),
            fields: Fields::default(),
            header: copy.format.header,
            numbers: Vec::new(),
            bytes: 0,
        };
        Ok(Self {
            relation: relation.name.clone(),
            lines: Lines::new(&format),
            format,
            reader,
            writer,
            writing,
            deadline,
            rows: 0,
        })
    }

    /// How many fields a line has.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.reader.columns.len()
    }

    /// When `statement_timeout` ends it.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Takes bytes of the client, however they are cut. After an error the copy is of no use.
    ///
    /// # Errors
    /// What is wrong with the data, with line and column; what storage says.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        for portion in bytes.chunks(PORTION_BYTES) {
            let Self { lines, reader, format, relation, .. } = self;
            let mut each = |number, line: &[u8]| reader.line(format, relation, number, line);
            let taken = lines.push(portion, &mut each);
            self.located(taken)?;
            if self.reader.numbers.len() >= BATCH_ROWS_MAX || self.reader.bytes >= BATCH_BYTES_MAX {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Takes the end of the data: how many rows there were, and what is to be committed.
    pub(crate) async fn end(mut self) -> Result<(u64, Writing)> {
        let Self { lines, reader, format, relation, .. } = &mut self;
        let mut each = |number, line: &[u8]| reader.line(format, relation, number, line);
        let taken = lines.finish(&mut each);
        self.located(taken)?;
        self.flush().await?;
        Ok((self.rows, self.writing))
    }

    /// An error that does not know its line has the last one's.
    fn located(&self, result: Result<()>) -> Result<()> {
        result.map_err(|error| {
            if error.whereabouts().context.is_some() {
                return error;
            }
            error.with_context(format!("COPY {}, line {}", self.relation, self.lines.number()))
        })
    }

    /// Makes records of the batch.
    async fn flush(&mut self) -> Result<()> {
        let rows = self.reader.numbers.len();
        if rows == 0 {
            return Ok(());
        }
        let columns = self.reader.columns.iter_mut().zip(&self.reader.targets);
        let arrays = columns.map(|(column, target)| column.finish(*target, rows, &self.writer));
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.reader.schema), arrays, &options)
            .map_err(DataFusionError::from)?;
        let written = self.writer.insert_batch(&self.reader.targets, &batch, &mut self.writing, None).await;
        written.map_err(|error| match error.row().and_then(|row| self.reader.numbers.get(row)) {
            Some(number) => error.with_context(format!("COPY {}, line {number}", self.relation)),
            None => error,
        })?;
        self.rows += rows as u64;
        self.reader.numbers.clear();
        self.reader.bytes = 0;
        Ok(())
    }
}

impl Column {
    /// The batch's values, defaults put in.
    fn finish(&mut self, target: Target, rows: usize, writer: &Writer) -> Result<ArrayRef> {
        let values = self.builder.finish()?;
        if self.defaulted.is_empty() {
            return Ok(values);
        }
        let mut mask = vec![false; rows];
        std::mem::take(&mut self.defaulted).into_iter().for_each(|row| mask[row] = true);
        let defaults = writer.defaults_of(target, rows)?;
        Ok(zip(&BooleanArray::from(mask), &defaults, &values).map_err(DataFusionError::from)?)
    }
}

impl Reader {
    fn line(&mut self, format: &CopyFormat, relation: &str, number: u64, line: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(line).map_err(|error| not_utf8(line, &error))?;
        self.fields.split(format, text)?;
        if std::mem::take(&mut self.header) {
            return if format.header_match { self.check_header(text) } else { Ok(()) };
        }
        let about = |error: Error| error.with_context(format!("COPY {relation}, line {number}: {}", quoted(text)));
        if self.fields.len() > self.columns.len() {
            let error = Error::new(SqlState::BadCopyFileFormat, "extra data after last expected column");
            return Err(about(error.with_hint("name the columns the data has, or look at the DELIMITER")));
        }
        for (index, column) in self.columns.iter_mut().enumerate() {
            match self.fields.get(text, index).map(|field| format.forced(index, field)) {
                Some(Field::Null) => column.builder.push_null(),
                Some(Field::Text(value)) => column.builder.push_text(value).map_err(|error| {
                    let (name, value) = (&column.name, quoted(value));
                    error.with_context(format!("COPY {relation}, line {number}, column {name}: {value}"))
                })?,
                Some(Field::Default) => {
                    column.builder.push_null();
                    column.defaulted.push(self.numbers.len());
                }
                None => {
                    let message = format!("missing data for column \"{}\"", column.name);
                    let error = Error::new(SqlState::BadCopyFileFormat, message);
                    return Err(about(error.with_hint("name the columns the data has, or look at the DELIMITER")));
                }
            }
        }
        self.numbers.push(number);
        self.bytes += line.len();
        Ok(())
    }

    /// `HEADER MATCH`.
    fn check_header(&self, text: &str) -> Result<()> {
        let bad = |message| Err(Error::new(SqlState::BadCopyFileFormat, message));
        let (given, expected) = (self.fields.len(), self.columns.len());
        if given != expected {
            return bad(format!("wrong number of fields in header line: got {given}, expected {expected}"));
        }
        for (index, column) in self.columns.iter().enumerate() {
            let (number, name) = (index + 1, &column.name);
            match self.fields.get(text, index) {
                Some(Field::Text(given)) if given == name => {}
                Some(Field::Text(given)) => {
                    let words = format!("column name mismatch in header line field {number}");
                    return bad(format!("{words}: got \"{given}\", expected \"{name}\""));
                }
                _ => {
                    let words = format!("column name mismatch in header line field {number}");
                    return bad(format!("{words}: got null value, expected \"{name}\""));
                }
            }
        }
        Ok(())
    }
}
