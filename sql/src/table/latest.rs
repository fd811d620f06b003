//! The latest row per key of a keyed table's partition, tombstones gone: what the table is at the snapshot.
//!
//! Rows of one key lie in one partition (they are placed by key), so partitions are folded apart. What is held is the
//! latest rows only: batches are rewritten whenever most of what they hold has been replaced.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::DataFusionError;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::exec::{Partition, ScanExec};
use super::source::SourceColumn;
use crate::error::{Error, SqlState};

/// Rows held before the first rewrite.
const REWRITE_ROWS_MIN: usize = 64 * 1024;

/// Latest rows of one partition; the stream ends with an error if memory does.
pub(crate) fn latest(
    scan: &ScanExec,
    partition: &Partition,
    context: &Arc<TaskContext>,
) -> DataFusionResult<BoxStream<'static, DataFusionResult<RecordBatch>>> {
    let relation = scan.source.relation.as_ref().ok_or_else(|| {
        DataFusionError::from(Error::new(SqlState::InternalError, "a keyed table without a relation"))
    })?;
    let mut keys: Vec<SourceColumn> = relation.key_columns().into_iter().map(SourceColumn::Declared).collect();
    if keys.is_empty() {
        // A table of one row, an aggregate without GROUP BY, has no key column: the partition it lies in is its key.
        keys.push(SourceColumn::Partition);
    }
    let columns: Vec<SourceColumn> = scan.columns.iter().chain(&keys).copied().collect();
    let (schema, rows) = scan.rows_of(&columns, partition, context.session_config().batch_size())?;
    let first_key = scan.columns.len();
    let fields = schema.fields()[first_key..first_key + keys.len()]
        .iter()
        .map(|field| SortField::new(field.data_type().clone()))
        .collect();
    let reservation = MemoryConsumer::new(format!("latest rows of {}", relation.name)).register(context.memory_pool());
    let mut fold = Latest {
        shown: scan.columns.len(),
        keys: keys.len(),
        converter: RowConverter::new(fields)?,
        batches: Vec::new(),
        place: HashMap::new(),
        held_rows: 0,
        reservation,
    };
    let batch_rows = context.session_config().batch_size();
    let folded = async move {
        futures::pin_mut!(rows);
        while let Some(batch) = rows.try_next().await? {
            fold.add(&batch)?;
        }
        fold.finish(batch_rows)
    };
    Ok(futures::stream::once(folded)
        .map_ok(|batches| futures::stream::iter(batches.into_iter().map(Ok)))
        .try_flatten()
        .boxed())
}

struct Latest {
    /// Columns wanted; the key's come after them, the tombstone last.
    shown: usize,
    keys: usize,
    converter: RowConverter,
    batches: Vec<RecordBatch>,
    /// Batch and row of each key's latest.
    place: HashMap<OwnedRow, (usize, usize)>,
    held_rows: usize,
    reservation: MemoryReservation,
}

impl Latest {
    fn add(&mut self, batch: &RecordBatch) -> DataFusionResult<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let keys = self.converter.convert_columns(&batch.columns()[self.shown..self.shown + self.keys])?;
        let tombstones = batch.columns().last().map(|column| column.as_boolean().clone());
        let index = self.batches.len();
        let mut key_bytes = 0;
        for row in 0..batch.num_rows() {
            let key = keys.row(row).owned();
            if tombstones.as_ref().is_some_and(|tombstones| tombstones.value(row)) {
                self.place.remove(&key);
                continue;
            }
            match self.place.entry(key) {
                Entry::Occupied(mut entry) => *entry.get_mut() = (index, row),
                Entry::Vacant(entry) => {
                    key_bytes += entry.key().as_ref().len() + size_of::<(OwnedRow, (usize, usize))>();
                    entry.insert((index, row));
                }
            }
        }
        let shown = batch.project(&(0..self.shown).collect::<Vec<_>>())?;
        self.reservation.try_grow(shown.get_array_memory_size() + key_bytes)?;
        self.held_rows += shown.num_rows();
        self.batches.push(shown);
        if self.held_rows > REWRITE_ROWS_MIN.max(2 * self.place.len()) {
            self.rewrite()?;
        }
        Ok(())
    }

    /// Keeps only rows that are still a key's latest.
    fn rewrite(&mut self) -> DataFusionResult<()> {
        let mut places: Vec<&mut (usize, usize)> = self.place.values_mut().collect();
        places.sort_unstable();
        let indices: Vec<(usize, usize)> = places.iter().map(|place| **place).collect();
        let before: usize = self.batches.iter().map(RecordBatch::get_array_memory_size).sum();
        let rewritten = self.gather(&indices)?;
        let after = rewritten.as_ref().map_or(0, RecordBatch::get_array_memory_size);
        let mut places: Vec<&mut (usize, usize)> = self.place.values_mut().collect();
        places.sort_unstable();
        for (row, place) in places.into_iter().enumerate() {
            *place = (0, row);
        }
        self.reservation.shrink(before.saturating_sub(after).min(self.reservation.size()));
        self.held_rows = rewritten.as_ref().map_or(0, RecordBatch::num_rows);
        self.batches = rewritten.into_iter().collect();
        Ok(())
    }

    fn gather(&self, indices: &[(usize, usize)]) -> DataFusionResult<Option<RecordBatch>> {
        let Some(first) = self.batches.first() else { return Ok(None) };
        if first.num_columns() == 0 {
            let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(indices.len()));
            let rows = RecordBatch::try_new_with_options(first.schema(), Vec::new(), &options)?;
            return Ok(Some(rows));
        }
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        Ok(Some(interleave_record_batch(&batches, indices)?))
    }

    /// The rows, in offset order.
    fn finish(self, batch_rows: usize) -> DataFusionResult<Vec<RecordBatch>> {
        let mut indices: Vec<(usize, usize)> = self.place.values().copied().collect();
        indices.sort_unstable();
        let chunks = indices.chunks(batch_rows.max(1));
        chunks.filter_map(|chunk| self.gather(chunk).transpose()).collect()
    }
}
