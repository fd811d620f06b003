//! Rows of UPDATE and DELETE into records: new values and tombstones, each in the partition where its row lies, under the key
//! that its record has. Others may have spelled that key otherwise than SQL would; under other bytes the new record would
//! not be the old one's successor, for a Kafka client and for compaction.

use std::collections::HashSet;

use aquifer_storage::Watch;
use arrow::array::{Array, AsArray, BinaryArray, BooleanArray, Int32Array, RecordBatch};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::Int32Type;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::{Target, Writer, Writing};
use crate::error::{Error, Result, SqlState};
use crate::run::returning::Returned;

/// The columns of a table that say where its rows lie, behind those that are written.
pub(crate) const PLACE_COLUMNS: [&str; 2] = ["_partition", "_key"];

/// Where rows lie that are there already.
#[derive(Clone, Debug)]
pub(crate) struct RowPlaces {
    partitions: Int32Array,
    keys: BinaryArray,
}

impl RowPlaces {
    /// Takes [`PLACE_COLUMNS`] off the end of a batch.
    ///
    /// # Errors
    /// XX000 if they are not there.
    pub(crate) fn split(batch: &RecordBatch) -> Result<(RecordBatch, Self)> {
        let written = batch.num_columns().saturating_sub(PLACE_COLUMNS.len());
        let place = |place: usize| batch.columns().get(written + place);
        let partitions = place(0).and_then(|column| column.as_primitive_opt::<Int32Type>()).cloned();
        let keys = place(1).and_then(|column| column.as_binary_opt::<i32>()).cloned();
        let missing = || Error::new(SqlState::InternalError, "rows to be changed do not say where they lie");
        let (partitions, keys) = partitions.zip(keys).ok_or_else(missing)?;
        let rows = batch.project(&(0..written).collect::<Vec<_>>()).map_err(DataFusionError::from)?;
        Ok((rows, Self { partitions, keys }))
    }

    /// Those of some of the rows.
    ///
    /// # Errors
    /// XX000 if Arrow refuses.
    pub(crate) fn filter(&self, kept: &BooleanArray) -> Result<Self> {
        let partitions = filter(&self.partitions, kept).map_err(DataFusionError::from)?;
        let keys = filter(&self.keys, kept).map_err(DataFusionError::from)?;
        Ok(Self { partitions: partitions.as_primitive().clone(), keys: keys.as_binary().clone() })
    }

    /// A row's partition and key.
    pub(super) fn of(&self, row: usize) -> (i32, Option<&[u8]>) {
        (self.partitions.value(row), self.keys.is_valid(row).then(|| self.keys.value(row)))
    }
}

/// Where rows that are there already lie, and who learns of their keys.
#[derive(Debug)]
pub(super) struct Standing<'a> {
    /// Of the rows.
    pub(super) places: &'a RowPlaces,
    /// What the statement watches.
    pub(super) watch: &'a Watch,
}

/// How a statement changes rows.
#[derive(Debug)]
pub(crate) struct How<'a> {
    /// Where the rows' columns go.
    pub(crate) targets: &'a [Target],
    /// Writes tombstones.
    pub(crate) deletes: bool,
    /// Rows may come several times, beside others each time; the first counts.
    pub(crate) once: bool,
    /// Who learns of the rows' keys.
    pub(crate) watch: &'a Watch,
}

impl Writer {
    /// Rows to be written over, or deleted, into records; answers how many. The rows have the columns of the targets, then
    /// [`PLACE_COLUMNS`].
    ///
    /// # Errors
    /// What the rows, the casts and the encoder say; 54000 for more rows than can be told apart in memory.
    pub(crate) async fn change(
        &self,
        how: &How<'_>,
        mut rows: SendableRecordBatchStream,
        writing: &mut Writing,
        mut returned: Option<&mut Returned>,
    ) -> Result<usize> {
        let mut count = 0;
        let mut seen = how.once.then(Seen::default);
        while let Some(batch) = rows.try_next().await? {
            let (rows, places) = RowPlaces::split(&batch)?;
            let (rows, places) = match &mut seen {
                Some(seen) => seen.first_of(self, &rows, &places)?,
                None => (rows, places),
            };
            let (rows, times) = self.arrange(how.targets, &rows)?;
            let standing = Standing { places: &places, watch: how.watch };
            count += self.write(&rows, times.as_ref(), how.deletes, Some(&standing), &mut writing.pending)?;
            if let Some(returned) = &mut returned {
                returned.take(rows)?;
            }
            writing.relieve().await?;
        }
        if count > 0 {
            writing.pending.watches.push(how.watch.clone());
        }
        Ok(count)
    }
}

/// The rows that a statement has changed already: partition and key.
#[derive(Debug, Default)]
struct Seen {
    rows: HashSet<(i32, Bytes)>,
    bytes: u64,
}

impl Seen {
    /// Those of some rows that have not come before.
    fn first_of(
        &mut self,
        writer: &Writer,
        rows: &RecordBatch,
        places: &RowPlaces,
    ) -> Result<(RecordBatch, RowPlaces)> {
        let mut first = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let (partition, key) = places.of(row);
            // Its batch's buffer is not to be held for it.
            let key = Bytes::copy_from_slice(key.unwrap_or_default());
            let bytes = (key.len() + size_of::<(i32, Bytes)>()) as u64;
            let new = self.rows.insert((partition, key));
            self.bytes += if new { bytes } else { 0 };
            first.push(new);
        }
        let (_, bytes_max) = writer.bytes_max;
        if self.bytes > bytes_max {
            let message = format!("rows beside other tables whose keys are more than {bytes_max} bytes");
            return Err(Error::new(SqlState::ProgramLimitExceeded, message)
                .with_hint("change fewer rows at once, use a subquery in WHERE, or raise memory.limit"));
        }
        let first = BooleanArray::from(first);
        let rows = filter_record_batch(rows, &first).map_err(DataFusionError::from)?;
        Ok((rows, places.filter(&first)?))
    }
}
