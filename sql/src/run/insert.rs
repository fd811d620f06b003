//! INSERT: rows become records, checked against what the relation declares; records batches, as few as there
//! are partitions; one commit, or part of the block's. What is more than may wait in memory goes out as data of a large
//! commit, which nobody sees before its end; what a savepoint may take back waits, since the log takes back all or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use aquifer_storage::record::format::{ColumnRole, TOO_LONG, partition_of_key};
use aquifer_storage::{Append, Commit, LargeCommit, Storage, TopicId, Watch};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef};
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::convert::convert;
use super::rule::Defaults;
use super::shape::Shape;
use crate::catalog::Relation;
use crate::error::{Error, Result, SqlState};
use crate::oid;
use crate::run::nested::nested;
use crate::run::returning::Returned;
use crate::statement::Name;
use crate::types::oid_of_column;

mod change;

use change::Standing;
pub(crate) use change::{How, PLACE_COLUMNS, RowPlaces};

/// Bytes after which a batch is closed and the next begun, so that consumers' usual limits take it.
const BATCH_BYTES_MAX: usize = 512 << 10;
/// Records that wait for a commit may take this share of `memory.limit`.
const PENDING_SHARE: u64 = 16;
/// Commits of `wal.commit_bytes_max` that a block without savepoints keeps in memory, so that a small one holds up nobody
/// who reads what it writes to; what is more goes out.
const BLOCK_COMMITS_MAX: u64 = 4;

/// Bytes of columns that are encoded at once, about.
const PIECE_BYTES: usize = 2 << 20;

/// Records on their way to one commit.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    batches: BTreeMap<(TopicId, i32), Vec<BatchBuilder>>,
    bytes: usize,
    /// What rows that were read and are written back rest on.
    watches: Vec<Watch>,
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
        self.watches.extend(other.watches);
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
        Mark { lengths, bytes: self.bytes, watches: self.watches.len() }
    }

    /// Forgets what came after a mark.
    pub(crate) fn truncate(&mut self, mark: &Mark) {
        self.batches.retain(|place, builders| {
            builders.truncate(mark.lengths.get(place).copied().unwrap_or(0));
            !builders.is_empty()
        });
        self.bytes = mark.bytes;
        self.watches.truncate(mark.watches);
    }

    /// What waits for these topics, as it would be appended.
    pub(crate) fn appends_to(&self, topics: &[TopicId]) -> Vec<Append> {
        let wanted = self.batches.iter().filter(|((topic, _), _)| topics.contains(topic));
        let build = |((topic, partition), builders): (&(TopicId, i32), &Vec<BatchBuilder>)| {
            let batches = builders.iter().filter_map(|builder| builder.clone().build(Compression::None));
            batches.map(|batch| Append { topic: *topic, partition: *partition, batch }).collect::<Vec<_>>()
        };
        wanted.flat_map(build).collect()
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
        .with_hint("COMMIT more often, RELEASE savepoints before writing much, or raise memory.limit")
}

/// Bytes that may wait in memory for a commit.
pub(crate) fn pending_bytes_max(storage: &Storage) -> u64 {
    storage.settings().memory_limit / PENDING_SHARE
}

/// A statement's or a block's records on their way to the log.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    /// What is in memory.
    pub(crate) pending: Pending,
    /// Who takes what is more than so many bytes; `None` where all of it waits in memory.
    relief: Option<(Storage, u64)>,
    large: Option<LargeCommit>,
    /// Whose records are not in memory any more, some of them.
    let_go: BTreeSet<TopicId>,
}

impl Writing {
    /// Records of a statement that is committed by itself.
    pub(crate) fn alone(storage: Storage) -> Self {
        let bytes = storage.settings().wal_commit_bytes_max / 2;
        Self { relief: Some((storage, bytes)), ..Self::default() }
    }

    /// Records of a block.
    pub(crate) fn of_block(storage: Storage) -> Self {
        let bytes = (BLOCK_COMMITS_MAX * storage.settings().wal_commit_bytes_max).min(pending_bytes_max(&storage) / 2);
        Self { relief: Some((storage, bytes)), ..Self::default() }
    }

    /// Writes what is in memory to a large commit, if it is as much as is let go.
    ///
    /// # Errors
    /// What storage says; then nothing of it can be committed any more.
    async fn relieve(&mut self) -> Result<()> {
        let Some((storage, bytes)) = &self.relief else { return Ok(()) };
        if (self.pending.bytes as u64) < *bytes {
            return Ok(());
        }
        let large = match &mut self.large {
            Some(large) => large,
            none => none.insert(storage.begin().await?),
        };
        let watches = std::mem::take(&mut self.pending.watches);
        self.let_go.extend(self.pending.batches.keys().map(|(topic, _)| *topic));
        for append in std::mem::take(&mut self.pending).into_appends() {
            large.append(append).await?;
        }
        self.pending.watches = watches;
        Ok(())
    }

    /// Takes all of it back; answered when nobody waits for it any more.
    pub(crate) async fn abort(self) {
        if let Some(large) = self.large {
            // One that fails is tried again in the background.
            let _ = large.abort().await;
        }
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.large.is_none()
    }

    /// One of these topics some of whose records are not in memory any more.
    pub(crate) fn let_go(&self, topics: &[TopicId]) -> Option<TopicId> {
        topics.iter().copied().find(|topic| self.let_go.contains(topic))
    }

    /// Commits all of it.
    ///
    /// # Errors
    /// What storage says; nothing of it is there then.
    pub(crate) async fn commit(mut self, storage: &Storage) -> Result<()> {
        let watches = std::mem::take(&mut self.pending.watches);
        let commit = Commit { appends: self.pending.into_appends(), watches, ..Commit::default() };
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
    watches: usize,
}

/// Where the columns of an INSERT go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A declared column.
    Declared(usize),
    /// The record's timestamp.
    RowTime,
}

/// Targets of the columns that an INSERT or COPY names; of none, all in declared order.
///
/// # Errors
/// 42703, 42701, and 0A000 for columns nobody writes.
pub(crate) fn targets(relation: &Relation, named: &[Name]) -> Result<Vec<Target>> {
    let columns = &relation.format.columns;
    if named.is_empty() {
        let writable = columns.iter().enumerate().filter(|(_, column)| column.role != ColumnRole::Headers);
        return Ok(writable.map(|(index, _)| Target::Declared(index)).collect());
    }
    let mut targets = Vec::new();
    for name in named {
        let target = target(relation, name)?;
        if targets.contains(&target) {
            let message = format!("column \"{}\" specified more than once", name.value);
            return Err(Error::new(SqlState::DuplicateColumn, message).with_position(name.position));
        }
        targets.push(target);
    }
    Ok(targets)
}

/// Where a column goes by its name.
///
/// # Errors
/// 42703, and 0A000 for columns nobody writes.
pub(crate) fn target(relation: &Relation, name: &Name) -> Result<Target> {
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

/// The type a target takes. What has parts is taken as text: JSON, or an array as Postgres writes it.
pub(crate) fn target_type(relation: &Relation, target: Target) -> DataType {
    match target {
        Target::Declared(index) => match relation.format.columns[index].kind.arrow() {
            DataType::Struct(_) | DataType::Map(..) => DataType::Utf8,
            DataType::List(item) if item.data_type().is_nested() => DataType::Utf8,
            other => other,
        },
        Target::RowTime => DataType::Int64,
    }
}

/// The OID of a parameter that goes to a target.
pub(crate) fn target_oid(relation: &Relation, target: Target) -> u32 {
    match target {
        Target::Declared(index) => oid_of_column(&relation.format.columns[index].kind),
        Target::RowTime => oid::INT8,
    }
}

/// Rows that are to be written unless others of their keys are there.
#[derive(Debug)]
pub(crate) struct Proposed {
    /// The columns that are written.
    pub(crate) rows: RecordBatch,
    /// The records' times, if the statement says them.
    pub(crate) times: Option<ArrayRef>,
    /// Of each row.
    pub(crate) keys: Vec<Bytes>,
}

/// How one statement's rows are written.
#[derive(Debug)]
pub(crate) struct Writer {
    shape: Arc<Shape>,
    defaults: Defaults,
    /// Partition of this statement's records without a key.
    keyless_partition: i32,
    now_ms: i64,
    /// Of a batch, of a commit.
    bytes_max: (usize, u64),
}

impl Writer {
    /// A writer of that shape; `defaults` are the statement's.
    pub(crate) fn new(
        shape: Arc<Shape>,
        defaults: Defaults,
        keyless_turn: u64,
        now_ms: i64,
        bytes_max: (usize, u64),
    ) -> Self {
        let partitions = u64::try_from(shape.topic.partitions).unwrap_or(1).max(1);
        let keyless_partition = i32::try_from(keyless_turn % partitions).unwrap_or(0);
        Self { shape, defaults, keyless_partition, now_ms, bytes_max }
    }

    /// What it writes into.
    pub(crate) fn relation(&self) -> &Arc<Relation> {
        &self.shape.relation
    }

    /// Values of so many rows' column where none are given.
    ///
    /// # Errors
    /// What computing them says.
    pub(crate) fn defaults_of(&self, target: Target, rows: usize) -> Result<ArrayRef> {
        let Target::Declared(index) = target else { return Ok(new_null_array(&DataType::Int64, rows)) };
        let kind = self.shape.relation.format.columns[index].kind.arrow();
        let values = self.defaults.values(index, rows, &kind)?;
        Ok(values.unwrap_or_else(|| new_null_array(&kind, rows)))
    }

    /// Rows of an INSERT into records; answers how many.
    ///
    /// # Errors
    /// What the rows, the casts, the declaration and the encoder say.
    pub(crate) async fn insert(
        &self,
        targets: &[Target],
        mut rows: SendableRecordBatchStream,
        writing: &mut Writing,
        mut returned: Option<&mut Returned>,
    ) -> Result<usize> {
        let mut count = 0;
        while let Some(batch) = rows.try_next().await? {
            count += self.insert_batch(targets, &batch, writing, returned.as_deref_mut()).await?;
        }
        Ok(count)
    }

    /// Some rows of an INSERT or COPY into records; answers how many.
    ///
    /// # Errors
    /// As [`Writer::insert`]; what is about one row names it by [`Error::row`].
    pub(crate) async fn insert_batch(
        &self,
        targets: &[Target],
        batch: &RecordBatch,
        writing: &mut Writing,
        mut returned: Option<&mut Returned>,
    ) -> Result<usize> {
        let pieces = batch.get_array_memory_size() / PIECE_BYTES + 1;
        let step = batch.num_rows().div_ceil(pieces).max(1);
        for start in (0..batch.num_rows()).step_by(step) {
            let piece = batch.slice(start, step.min(batch.num_rows() - start));
            let (rows, times) = self.arrange(targets, &piece)?;
            let written = self.write(&rows, times.as_ref(), false, None, &mut writing.pending);
            written.map_err(|error| error.behind_rows(start))?;
            if let Some(returned) = &mut returned {
                returned.take(rows)?;
            }
            writing.relieve().await?;
        }
        Ok(batch.num_rows())
    }

    /// Rows that an INSERT would write, none of them written: in the types declared and by the relation's rules, each with
    /// its key's bytes.
    ///
    /// # Errors
    /// As [`Writer::insert`].
    pub(crate) fn propose(&self, targets: &[Target], batch: &RecordBatch) -> Result<Proposed> {
        let (rows, times) = self.arrange(targets, batch)?;
        self.shape.rules.check(self.relation(), &self.shape.declared, &rows, false)?;
        let keys = self.keys_of(&rows)?;
        Ok(Proposed { rows, times, keys })
    }

    /// Keys of rows with the columns that are written.
    ///
    /// # Errors
    /// What the encoder says.
    pub(crate) fn keys_of(&self, rows: &RecordBatch) -> Result<Vec<Bytes>> {
        let keys_only = vec![true; rows.num_rows()];
        let records = self.shape.encoder.encode(rows, Some(&keys_only))?;
        Ok(records.into_iter().map(|record| record.key.unwrap_or_default()).collect())
    }

    /// The partition of a key that is not there yet.
    pub(crate) fn partition_of(&self, key: &[u8]) -> i32 {
        partition_of_key(key, self.shape.topic.partitions)
    }

    /// Their declared indexes.
    pub(crate) fn columns(&self) -> &[usize] {
        &self.shape.declared
    }

    /// The columns that are written.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.shape.schema
    }

    /// Writes rows that were proposed; those that are there already where they lie. They rest on what `watch` has touched.
    ///
    /// # Errors
    /// As [`Writer::insert`].
    pub(crate) async fn write_over(
        &self,
        (rows, times): (&RecordBatch, Option<&ArrayRef>),
        places: Option<&RowPlaces>,
        watch: &Watch,
        writing: &mut Writing,
    ) -> Result<usize> {
        let standing = places.map(|places| Standing { places, watch });
        let count = self.write(rows, times, false, standing.as_ref(), &mut writing.pending)?;
        writing.pending.watches.push(watch.clone());
        writing.relieve().await?;
        Ok(count)
    }

    /// Puts an INSERT's columns where they belong, in the types declared; the rest has its default or is NULL.
    fn arrange(&self, targets: &[Target], batch: &RecordBatch) -> Result<(RecordBatch, Option<ArrayRef>)> {
        let rows = batch.num_rows();
        let column_of = |wanted: Target| targets.iter().position(|target| *target == wanted);
        let mut columns = Vec::with_capacity(self.shape.declared.len());
        for (field, index) in self.shape.schema.fields().iter().zip(&self.shape.declared) {
            columns.push(match column_of(Target::Declared(*index)) {
                None => match self.defaults.values(*index, rows, field.data_type())? {
                    Some(values) => values,
                    None => new_null_array(field.data_type(), rows),
                },
                Some(place) => match nested(batch.column(place), &self.relation().format.columns[*index].kind)? {
                    Some(column) => column,
                    None => self.convert(batch.column(place), field)?,
                },
            });
        }
        let times = match column_of(Target::RowTime) {
            None => None,
            Some(place) => Some(self.convert(batch.column(place), &Field::new("rowtime", DataType::Int64, true))?),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.shape.schema), columns, &options)
            .map_err(DataFusionError::from)?;
        Ok((rows, times))
    }

    fn convert(&self, column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
        convert(column, field.data_type()).map_err(|error| {
            let message =
                format!("column \"{}\" of relation \"{}\": {}", field.name(), self.relation().name, error.message);
            Error { message, ..error }
        })
    }

    fn write(
        &self,
        rows: &RecordBatch,
        times: Option<&ArrayRef>,
        tombstones: bool,
        standing: Option<&Standing<'_>>,
        pending: &mut Pending,
    ) -> Result<usize> {
        let Shape { relation, topic, encoder, declared, rules, .. } = self.shape.as_ref();
        rules.check(relation, declared, rows, tombstones)?;
        let deleted = tombstones.then(|| vec![true; rows.num_rows()]);
        let records = encoder.encode(rows, deleted.as_deref()).map_err(refused)?;
        for (row, record) in records.iter().enumerate() {
            let (partition, key) = match (standing, record.key.as_deref()) {
                (Some(standing), key) => {
                    let (partition, own) = standing.places.of(row);
                    let key = own.or(key);
                    key.iter().for_each(|key| standing.watch.touch(partition, key));
                    (partition, key)
                }
                (None, Some(key)) => (partition_of_key(key, topic.partitions), Some(key)),
                (None, None) => (self.keyless_partition, None),
            };
            let time = times.filter(|times| times.is_valid(row));
            let timestamp_ms = time.map_or(self.now_ms, |times| times.as_primitive::<Int64Type>().value(row));
            pending.push((topic.id, partition), timestamp_ms, (key, record.value.as_deref()), self.bytes_max)?;
        }
        Ok(records.len())
    }
}

/// The encoder's refusal of a NULL that has no bytes, or of a text that is too long, under its own code.
fn refused(error: aquifer_storage::Error) -> Error {
    let message = error.to_string();
    let mapped = Error::from(error);
    if message.contains(TOO_LONG) {
        Error { state: SqlState::StringTooLong, ..mapped }.with_hint("ALTER … ALTER COLUMN … TYPE makes it longer")
    } else if message.to_lowercase().contains("null") {
        Error { state: SqlState::NotNullViolation, ..mapped }
    } else {
        mapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
