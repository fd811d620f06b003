//! Parquet rows back to Kafka's bytes: keys, values, headers, offsets and timestamps exactly as they were sent.
//!
//! What is not kept is how records were batched and compressed: a Kafka fetch may give other batches than were produced, and offsets
//! inside a batch may have gaps. The timestamp type stands in the batch, so a batch ends where it changes; with log
//! append time all records of a batch have one timestamp, so it ends where that changes too.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryArray, ListArray, PrimitiveArray, StructArray};
use arrow::datatypes::{ArrowPrimitiveType, Int8Type, Int64Type, TimestampMillisecondType};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result};
use crate::ids::TopicPartition;
use crate::manifest::model::{Entry, GroupAt, Lost, Wanted, groups_of};
use crate::record::batch::{BatchBuilder, Compression, TimestampType};
use crate::record::columns::RecordColumn;
use crate::scan::ahead;
use crate::tier::cold::Cold;
use crate::worker;

/// Bytes after which a batch ends, as producers' batches do.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Batches of the records in `offset..end`, about `bytes_max` bytes but at least one record; empty if there is none.
///
/// # Errors
/// [`Error::ObjectStore`], [`Error::Corrupt`], [`Error::Format`].
pub(crate) async fn fetch(
    cold: &Arc<Cold>,
    partition: TopicPartition,
    offset: i64,
    end: i64,
    bytes_max: usize,
) -> Result<Vec<Bytes>> {
    cold.manifests.check_readable(partition.topic)?;
    let manifest = cold.manifests.get(partition.topic);
    let entries = cold.entries_of(&manifest, partition.partition, Wanted::offsets(offset, end));
    let steps = entries.map_ok(move |entry| {
        let steps: Vec<_> = steps_of(&entry, partition.partition, offset, end);
        stream::iter(steps.into_iter().map(Ok))
    });
    let mut steps = steps.try_flatten().boxed();
    let mut current = steps.try_next().await?;
    let begins_group = matches!(&current, Some(Step::Group(at, _)) if at.group.first_offset == offset);
    let mut in_order = begins_group || cold.groups.expects(partition, offset);
    let mut batches = Batches::new(bytes_max);
    while let Some(step) = current {
        let (at, end) = match step {
            Step::Group(at, end) => (at, end),
            Step::Lost(lost) if batches.next_offset.is_none() => return Err(lost.error()),
            // The next fetch begins there and is told.
            Step::Lost(_) => break,
        };
        let rows = ahead::get(cold, &at).await?;
        let mut next = if in_order { steps.try_next().await? } else { None };
        if let Some(Step::Group(next, _)) = &next {
            ahead::read_ahead(cold, next);
        }
        // As long as decoding takes: not on a thread that serves connections.
        batches = worker::blocking(move || batches.with(&rows, offset, end)).await?;
        if batches.is_full() {
            break;
        }
        if !in_order {
            next = steps.try_next().await?;
            in_order = true;
        }
        current = next;
    }
    cold.groups.expect(partition, batches.next_offset.unwrap_or(offset));
    Ok(batches.finish())
}

/// What a fetch comes upon.
enum Step {
    /// A row group, of which the offsets below this are wanted.
    Group(GroupAt, i64),
    /// Offsets that are lost for ever.
    Lost(Lost),
}

/// The row groups of an entry up to what is lost, and that.
fn steps_of(entry: &Arc<Entry>, partition: i32, offset: i64, end: i64) -> Vec<Step> {
    let lost = entry.lost_within(partition, offset, end);
    let end = lost.map_or(end, |lost| lost.start);
    let groups = groups_of(entry, partition, offset, end).map(|at| Step::Group(at, end));
    groups.chain(lost.cloned().map(Step::Lost)).collect()
}

/// The columns of [`ahead::COLUMNS`], with their types.
struct Columns<'a> {
    offsets: &'a PrimitiveArray<Int64Type>,
    timestamps: &'a PrimitiveArray<TimestampMillisecondType>,
    timestamp_types: &'a PrimitiveArray<Int8Type>,
    keys: &'a BinaryArray,
    values: &'a BinaryArray,
    headers: &'a ListArray,
    header_keys: &'a BinaryArray,
    header_values: &'a BinaryArray,
}

impl<'a> Columns<'a> {
    fn of(rows: &'a RecordBatch) -> Result<Self> {
        let headers = column(rows, RecordColumn::Headers)?.as_list_opt::<i32>();
        let headers = headers.ok_or_else(|| wrong(RecordColumn::Headers))?;
        let fields: Option<&StructArray> = headers.values().as_struct_opt();
        let field = |at: usize| {
            let array = fields.and_then(|fields| fields.columns().get(at));
            array.and_then(|array| array.as_binary_opt::<i32>()).ok_or_else(|| wrong(RecordColumn::Headers))
        };
        Ok(Self {
            offsets: numbers(rows, RecordColumn::Offset)?,
            timestamps: numbers(rows, RecordColumn::Timestamp)?,
            timestamp_types: numbers(rows, RecordColumn::TimestampType)?,
            keys: binary(rows, RecordColumn::Key)?,
            values: binary(rows, RecordColumn::Value)?,
            headers,
            header_keys: field(0)?,
            header_values: field(1)?,
        })
    }

    fn timestamp_type(&self, row: usize) -> Result<TimestampType> {
        match self.timestamp_types.value(row) {
            0 => Ok(TimestampType::CreateTime),
            1 => Ok(TimestampType::LogAppendTime),
            other => Err(Error::Corrupt {
                place: "cold rows".into(),
                reason: format!("timestamp type {other} is neither 0 nor 1"),
            }),
        }
    }

    fn headers(&self, row: usize) -> Vec<(&'a [u8], Option<&'a [u8]>)> {
        let offsets = self.headers.value_offsets();
        let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
        (start..end).map(|at| (self.header_keys.value(at), optional(self.header_values, at))).collect()
    }
}

fn column(rows: &RecordBatch, column: RecordColumn) -> Result<&dyn Array> {
    rows.column_by_name(column.name()).map(AsRef::as_ref).ok_or_else(|| wrong(column))
}

fn numbers<T: ArrowPrimitiveType>(rows: &RecordBatch, wanted: RecordColumn) -> Result<&PrimitiveArray<T>> {
    column(rows, wanted)?.as_primitive_opt().ok_or_else(|| wrong(wanted))
}

fn binary(rows: &RecordBatch, wanted: RecordColumn) -> Result<&BinaryArray> {
    column(rows, wanted)?.as_binary_opt().ok_or_else(|| wrong(wanted))
}

fn optional(values: &BinaryArray, row: usize) -> Option<&[u8]> {
    values.is_valid(row).then(|| values.value(row))
}

fn wrong(column: RecordColumn) -> Error {
    Error::Corrupt {
        place: "cold rows".into(),
        reason: format!("column {} is missing or of another type", column.name()),
    }
}

/// Batches being made of rows.
struct Batches {
    done: Vec<Bytes>,
    done_bytes: usize,
    bytes_max: usize,
    open: Option<OpenBatch>,
    full: bool,
    /// Behind the last record added.
    next_offset: Option<i64>,
}

struct OpenBatch {
    builder: BatchBuilder,
    timestamp_type: TimestampType,
    timestamp_ms: i64,
    base_offset: i64,
}

impl OpenBatch {
    /// Whether a record may go into this batch.
    fn takes(&self, offset: i64, timestamp_type: TimestampType, timestamp_ms: i64) -> bool {
        self.timestamp_type == timestamp_type
            && (timestamp_type == TimestampType::CreateTime || self.timestamp_ms == timestamp_ms)
            && offset - self.base_offset <= i64::from(i32::MAX)
            && self.builder.bytes_len() < BATCH_BYTES_MAX
    }
}

impl Batches {
    fn new(bytes_max: usize) -> Self {
        Self { done: Vec::new(), done_bytes: 0, bytes_max, open: None, full: false, next_offset: None }
    }

    fn is_full(&self) -> bool {
        self.full
    }

    /// These and the rows in `start..end`, until there are enough bytes.
    fn with(mut self, rows: &RecordBatch, start: i64, end: i64) -> Result<Self> {
        self.add(&Columns::of(rows)?, start, end)?;
        Ok(self)
    }

    /// Adds the rows in `start..end` until there are enough bytes.
    fn add(&mut self, rows: &Columns<'_>, start: i64, end: i64) -> Result<()> {
        let first = rows.offsets.values().partition_point(|offset| *offset < start);
        let last = rows.offsets.values().partition_point(|offset| *offset < end);
        for row in first..last {
            let open_bytes = self.open.as_ref().map_or(0, |open| open.builder.bytes_len());
            if self.done_bytes + open_bytes >= self.bytes_max && self.done_bytes + open_bytes > 0 {
                self.full = true;
                return Ok(());
            }
            self.push(rows, row)?;
        }
        Ok(())
    }

    fn push(&mut self, rows: &Columns<'_>, row: usize) -> Result<()> {
        let (offset, timestamp_ms) = (rows.offsets.value(row), rows.timestamps.value(row));
        let timestamp_type = rows.timestamp_type(row)?;
        if self.open.as_ref().is_some_and(|open| !open.takes(offset, timestamp_type, timestamp_ms)) {
            self.end_batch();
        }
        let open = self.open.get_or_insert_with(|| OpenBatch {
            builder: BatchBuilder::new(offset, timestamp_type),
            timestamp_type,
            timestamp_ms,
            base_offset: offset,
        });
        let (key, value) = (optional(rows.keys, row), optional(rows.values, row));
        open.builder.push_at(offset, timestamp_ms, key, value, &rows.headers(row));
        self.next_offset = Some(offset + 1);
        Ok(())
    }

    fn end_batch(&mut self) {
        // Uncompressed: the reader is near, and the records were compressed where they lay.
        let batch = self.open.take().and_then(|open| open.builder.build(Compression::None));
        if let Some(batch) = batch {
            self.done_bytes += batch.bytes().len();
            self.done.push(batch.bytes().clone());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.end_batch();
        self.done
    }
}
