//! INSERT and DELETE: rows become records, records batches, as few as there are partitions; one commit, or part of the
//! block's. A statement of its own that writes more than a commit holds goes on in a large one, so its memory is bounded;
//! a block's records wait in memory for its COMMIT, since ROLLBACK TO may take them back.

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use aquifer_storage::record::format::{ColumnRole, Encoder, partition_of_key};
use aquifer_storage::{Append, Commit, LargeCommit, Storage, Topic, TopicId};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use crate::catalog::Relation;
use crate::error::{Error, Result, SqlState};
use crate::statement::{Insert, Name};
use crate::types::field_of;

/// Bytes after which a batch is closed and the next begun, so that consumers' usual limits take it.
const BATCH_BYTES_MAX: usize = 512 << 10;
/// Records that wait for a commit may take this share of `memory.limit`.
const PENDING_SHARE: u64 = 16;

/// Records on their way to one commit.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    batches: BTreeMap<(TopicId, i32), Vec<BatchBuilder>>,
    bytes: usize,
}

impl Pending {
    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Adds one record.
    ///
    /// # Errors
    /// 54000 beyond `bytes_max`, a share of `memory.limit`.
    fn push(
        &mut self,
        place: (TopicId, i32),
        timestamp_ms: i64,
        record: (Option<&[u8]>, Option<&[u8]>),
        (batch_bytes_max, bytes_max): (usize, u64),
    ) -> Result<()> {
        let (key, value) = record;
        let builders = self.batches.entry(place).or_default();
        let batch_bytes_max = batch_bytes_max.min(BATCH_BYTES_MAX);
        let full = builders.last().is_none_or(|builder| !builder.has_room(batch_bytes_max, key, value, &[]));
        if full {
            builders.push(BatchBuilder::new(0, TimestampType::CreateTime));
        }
        if let Some(builder) = builders.last_mut() {
            let before = if full { 0 } else { builder.bytes_len() };
            builder.push(timestamp_ms, key, value, &[]);
            self.bytes += builder.bytes_len() - before;
        }
        if u64::try_from(self.bytes).unwrap_or(u64::MAX) > bytes_max {
            return Err(too_much(bytes_max));
        }
        Ok(())
    }

    /// Takes over what another holds.
    ///
    /// # Errors
    /// 54000 beyond `bytes_max`, a share of `memory.limit`.
    pub(crate) fn append(&mut self, other: Self, bytes_max: u64) -> Result<()> {
        self.bytes += other.bytes;
        for (place, builders) in other.batches {
            self.batches.entry(place).or_default().extend(builders);
        }
        if u64::try_from(self.bytes).unwrap_or(u64::MAX) > bytes_max {
            return Err(too_much(bytes_max));
        }
        Ok(())
    }

    /// How much there is now.
    pub(crate) fn mark(&self) -> Mark {
        let lengths = self.batches.iter().map(|(place, builders)| (*place, builders.len())).collect();
        Mark { lengths, bytes: self.bytes }
    }

    /// Forgets what came after a mark.
    pub(crate) fn truncate(&mut self, mark: &Mark) {
        self.batches.retain(|place, builders| {
            builders.truncate(mark.lengths.get(place).copied().unwrap_or(0));
            !builders.is_empty()
        });
        self.bytes = mark.bytes;
    }

    /// As a commit's appends.
    pub(crate) fn into_appends(self) -> Vec<Append> {
        let mut appends = Vec::new();
        for ((topic, partition), builders) in self.batches {
            let batches = builders.into_iter().filter_map(|builder| builder.build(Compression::None));
            appends.extend(batches.map(|batch| Append { topic, partition, batch }));
        }
        appends
    }
}

fn too_much(bytes_max: u64) -> Error {
    let message = format!(
        "records of more than {bytes_max} bytes wait for their commit, which exceeds 1/{PENDING_SHARE} of memory.limit"
    );
    Error::new(SqlState::ProgramLimitExceeded, message)
        .with_hint("COMMIT more often, insert outside of a block, or raise memory.limit")
}

/// Bytes that may wait in memory for a commit.
pub(crate) fn pending_bytes_max(storage: &Storage) -> u64 {
    storage.settings().memory_limit / PENDING_SHARE
}

/// A statement's records on their way to the log.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    /// What is in memory.
    pub(crate) pending: Pending,
    /// Who takes what is more than a commit holds; `None` in a block.
    relief: Option<Storage>,
    large: Option<LargeCommit>,
}

impl Writing {
    /// Records that wait, or have waited, in memory for their block's end.
    pub(crate) fn in_block(pending: Pending) -> Self {
        Self { pending, ..Self::default() }
    }

    /// Records of a statement that is committed by itself.
    pub(crate) fn alone(storage: Storage) -> Self {
        Self { relief: Some(storage), ..Self::default() }
    }

    /// Writes what is in memory to a large commit, if it is half a commit by now.
    async fn relieve(&mut self) -> Result<()> {
        let Some(storage) = &self.relief else { return Ok(()) };
        if (self.pending.bytes as u64) < storage.settings().wal_commit_bytes_max / 2 {
            return Ok(());
        }
        let large = match &mut self.large {
            Some(large) => large,
            none => none.insert(storage.begin().await?),
        };
        for append in std::mem::take(&mut self.pending).into_appends() {
            large.append(append).await?;
        }
        Ok(())
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.large.is_none()
    }

    /// Commits all of it.
    ///
    /// # Errors
    /// What storage says; nothing of it is there then.
    pub(crate) async fn commit(self, storage: &Storage) -> Result<()> {
        let commit = Commit { appends: self.pending.into_appends(), ..Commit::default() };
        let committed = match self.large {
            Some(large) => large.commit(commit).await,
            None => storage.commit(commit).await,
        };
        committed.map(drop).map_err(Error::from)
    }
}

/// A length of [`Pending`]: what is added later is behind it.
#[derive(Debug)]
pub(crate) struct Mark {
    lengths: BTreeMap<(TopicId, i32), usize>,
    bytes: usize,
}

/// Where the columns of an INSERT go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A declared column.
    Declared(usize),
    /// The record's timestamp.
    RowTime,
}

/// Targets of an INSERT's columns.
///
/// # Errors
/// 42703, 42701, and 0A000 for columns nobody writes.
pub(crate) fn targets(relation: &Relation, insert: &Insert) -> Result<Vec<Target>> {
    let columns = &relation.format.columns;
    if insert.columns.is_empty() {
        let writable = columns.iter().enumerate().filter(|(_, column)| column.role != ColumnRole::Headers);
        return Ok(writable.map(|(index, _)| Target::Declared(index)).collect());
    }
    let mut targets = Vec::new();
    for name in &insert.columns {
        let target = target(relation, name)?;
        if targets.contains(&target) {
            let message = format!("column \"{}\" specified more than once", name.value);
            return Err(Error::new(SqlState::DuplicateColumn, message).with_position(name.position));
        }
        targets.push(target);
    }
    Ok(targets)
}

fn target(relation: &Relation, name: &Name) -> Result<Target> {
    if name.value == "rowtime" {
        return Ok(Target::RowTime);
    }
    let index = relation.format.columns.iter().position(|column| column.name == name.value).ok_or_else(|| {
        let message = format!("column \"{}\" of relation \"{}\" does not exist", name.value, relation.name);
        Error::new(SqlState::UndefinedColumn, message)
            .with_position(name.position)
            .with_hint(format!("DESCRIBE {} lists its columns", relation.name))
    })?;
    if relation.format.columns[index].role == ColumnRole::Headers {
        return Err(Error::unsupported("writing headers")
            .with_position(name.position)
            .with_hint("leave the HEADERS column out; produce over Kafka's protocol to set headers"));
    }
    Ok(Target::Declared(index))
}

/// The type a target takes.
pub(crate) fn target_type(relation: &Relation, target: Target) -> DataType {
    match target {
        Target::Declared(index) => relation.format.columns[index].kind.arrow(),
        Target::RowTime => DataType::Int64,
    }
}

/// How rows are written.
#[derive(Debug)]
pub(crate) struct Writer {
    relation: Arc<Relation>,
    topic: Arc<Topic>,
    encoder: Encoder,
    schema: SchemaRef,
    /// Declared indexes of the schema's columns.
    declared: Vec<usize>,
    /// Partition of this statement's records without a key.
    keyless_partition: i32,
    now_ms: i64,
    /// Of a batch, of a commit.
    bytes_max: (usize, u64),
}

impl Writer {
    /// A writer into a relation.
    ///
    /// # Errors
    /// 25006 if a continuous query writes it.
    pub(crate) fn new(
        relation: Arc<Relation>,
        topic: Arc<Topic>,
        keyless_turn: u64,
        now_ms: i64,
        bytes_max: (usize, u64),
    ) -> Result<Self> {
        if let Some(query) = &relation.query {
            let message = format!("{} \"{}\" is written by query \"{query}\"", relation.kind.word(), relation.name);
            return Err(Error::new(SqlState::ReadOnly, message).with_hint("write to what the query reads"));
        }
        let encoder = Encoder::new(&relation.format)?;
        let declared: Vec<usize> = (0..relation.format.columns.len())
            .filter(|index| relation.format.columns[*index].role != ColumnRole::Headers)
            .collect();
        let field = |index: &usize| {
            let column = &relation.format.columns[*index];
            field_of(&column.name, &column.kind, true)
        };
        let schema = Arc::new(Schema::new(declared.iter().map(field).collect::<Vec<Field>>()));
        let partitions = u64::try_from(topic.partitions).unwrap_or(1).max(1);
        let keyless_partition = i32::try_from(keyless_turn % partitions).unwrap_or(0);
        Ok(Self { relation, topic, encoder, schema, declared, keyless_partition, now_ms, bytes_max })
    }

    /// Rows of an INSERT into records; answers how many.
    ///
    /// # Errors
    /// What the rows, the casts and the encoder say.
    pub(crate) async fn insert(
        &self,
        targets: &[Target],
        mut rows: SendableRecordBatchStream,
        writing: &mut Writing,
    ) -> Result<usize> {
        let mut count = 0;
        while let Some(batch) = rows.try_next().await? {
            let (rows, times) = self.arrange(targets, &batch)?;
            count += self.write(&rows, times.as_ref(), false, &mut writing.pending)?;
            writing.relieve().await?;
        }
        Ok(count)
    }

    /// Rows to delete into tombstones; answers how many. The rows have all declared columns.
    ///
    /// # Errors
    /// 0A000 for a relation without a primary key; what the rows say.
    pub(crate) async fn delete(&self, mut rows: SendableRecordBatchStream, writing: &mut Writing) -> Result<usize> {
        if !self.relation.is_keyed_table() {
            let what = format!("DELETE from {} \"{}\"", self.relation.kind.word(), self.relation.name);
            return Err(Error::unsupported(what).with_hint("only tables with a PRIMARY KEY forget rows"));
        }
        let targets: Vec<Target> = (0..self.relation.format.columns.len()).map(Target::Declared).collect();
        let mut count = 0;
        while let Some(batch) = rows.try_next().await? {
            let (rows, _) = self.arrange(&targets, &batch)?;
            count += self.write(&rows, None, true, &mut writing.pending)?;
            writing.relieve().await?;
        }
        Ok(count)
    }

    /// Puts an INSERT's columns where they belong, in the types declared; the rest is NULL.
    fn arrange(&self, targets: &[Target], batch: &RecordBatch) -> Result<(RecordBatch, Option<ArrayRef>)> {
        let rows = batch.num_rows();
        let column_of = |wanted: Target| targets.iter().position(|target| *target == wanted);
        let mut columns = Vec::with_capacity(self.declared.len());
        for (field, index) in self.schema.fields().iter().zip(&self.declared) {
            columns.push(match column_of(Target::Declared(*index)) {
                None => new_null_array(field.data_type(), rows),
                Some(place) => self.convert(batch.column(place), field)?,
            });
        }
        let times = match column_of(Target::RowTime) {
            None => None,
            Some(place) => Some(self.convert(batch.column(place), &Field::new("rowtime", DataType::Int64, true))?),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(datafusion::error::DataFusionError::from)?;
        Ok((rows, times))
    }

    fn convert(&self, column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        let text = matches!(column.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        if text && *field.data_type() == DataType::Binary {
            return bytes_of_text(column);
        }
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let whole = if field.data_type().is_integer() { whole(column) } else { Ok(Arc::clone(column)) };
        whole.and_then(|column| cast_with_options(&column, field.data_type(), &strict)).map_err(|source| {
            let error = Error::from(datafusion::error::DataFusionError::from(source));
            let state = match error.state {
                SqlState::NumericValueOutOfRange
                | SqlState::InvalidTextRepresentation
                | SqlState::InvalidDatetimeFormat
                | SqlState::DatetimeOutOfRange => error.state,
                _ => SqlState::DatatypeMismatch,
            };
            let message =
                format!("column \"{}\" of relation \"{}\": {}", field.name(), self.relation.name, error.message);
            Error { state, message, ..error }
        })
    }

    fn write(
        &self,
        rows: &RecordBatch,
        times: Option<&ArrayRef>,
        tombstones: bool,
        pending: &mut Pending,
    ) -> Result<usize> {
        if self.relation.is_keyed_table() {
            self.refuse_null_keys(rows)?;
        }
        let deleted = tombstones.then(|| vec![true; rows.num_rows()]);
        let records = self.encoder.encode(rows, deleted.as_deref()).map_err(not_null)?;
        for (row, record) in records.iter().enumerate() {
            let partition = match &record.key {
                Some(key) => partition_of_key(key, self.topic.partitions),
                None => self.keyless_partition,
            };
            let time = times.filter(|times| times.is_valid(row));
            let timestamp_ms = time.map_or(self.now_ms, |times| times.as_primitive::<Int64Type>().value(row));
            let bytes = (record.key.as_deref(), record.value.as_deref());
            pending.push((self.topic.id, partition), timestamp_ms, bytes, self.bytes_max)?;
        }
        Ok(records.len())
    }

    fn refuse_null_keys(&self, rows: &RecordBatch) -> Result<()> {
        for (place, index) in self.declared.iter().enumerate() {
            let column = &self.relation.format.columns[*index];
            if column.role == ColumnRole::Key && rows.column(place).null_count() > 0 {
                let message = format!(
                    "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                    column.name, self.relation.name
                );
                return Err(
                    Error::new(SqlState::NotNullViolation, message).with_hint("a primary key has a value in every row")
                );
            }
        }
        Ok(())
    }
}

/// The encoder's refusal of a NULL under its own code.
fn not_null(error: aquifer_storage::Error) -> Error {
    let null = error.to_string().to_lowercase().contains("null");
    let mapped = Error::from(error);
    if null { Error { state: SqlState::NotNullViolation, ..mapped } } else { mapped }
}

/// Numbers on their way to an integer, without their fraction: rounded as Postgres assigns them, floats to even, decimals
/// away from zero. A cast alone would cut it off.
fn whole(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match column.data_type() {
        DataType::Float32 => {
            Ok(Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(f32::round_ties_even)))
        }
        DataType::Float64 => {
            Ok(Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(f64::round_ties_even)))
        }
        DataType::Decimal128(_, scale) if *scale > 0 => cast(column, &DataType::Decimal128(38, 0)),
        _ => Ok(Arc::clone(column)),
    }
}

/// Text into bytes as Postgres reads it: hex behind `\x`, else the text's own bytes.
fn bytes_of_text(column: &ArrayRef) -> Result<ArrayRef> {
    let texts = cast(column, &DataType::Utf8).map_err(datafusion::error::DataFusionError::from)?;
    let mut bytes = arrow::array::BinaryBuilder::new();
    for text in texts.as_string::<i32>() {
        match text.map(|text| text.strip_prefix("\\x").ok_or(text)) {
            None => bytes.append_null(),
            Some(Err(text)) => bytes.append_value(text.as_bytes()),
            Some(Ok(digits)) => bytes.append_value(hex(digits)?),
        }
    }
    Ok(Arc::new(bytes.finish()))
}

fn hex(digits: &str) -> Result<Vec<u8>> {
    let invalid = || {
        Error::new(SqlState::InvalidTextRepresentation, format!("invalid hexadecimal data: \"{digits}\""))
            .with_hint("two hexadecimal digits per byte behind \\x")
    };
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return Err(invalid());
    }
    let pairs = (0..digits.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| invalid())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_postgres_writes_them() {
        assert_eq!(hex("00ff").unwrap(), vec![0, 255]);
        assert_eq!(hex("0").unwrap_err().state, SqlState::InvalidTextRepresentation);
        assert_eq!(hex("zz").unwrap_err().state, SqlState::InvalidTextRepresentation);
    }

    #[test]
    fn more_than_may_wait_is_refused() {
        let mut pending = Pending::default();
        let place = (TopicId::from_bytes([1; 16]), 0);
        pending.push(place, 0, (None, Some(b"x")), (100, 1024)).unwrap();
        let large = vec![0_u8; 2048];
        let error = pending.push(place, 0, (None, Some(&large)), (100, 1024)).unwrap_err();
        assert_eq!(error.state, SqlState::ProgramLimitExceeded);
        assert_eq!(pending.into_appends().len(), 2, "a batch that is full is followed by another");
    }
}
