//! Rows of UPDATE and DELETE into records: new values and tombstones, each in the partition where its row lies.

use std::collections::HashSet;

use aquifer_storage::Watch;
use arrow::array::{AsArray, BooleanArray, Int32Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int32Type;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::{Target, Writer, Writing};
use crate::error::{Error, Result, SqlState};
use crate::run::returning::Returned;

/// Where rows that are there already lie, and who learns of their keys.
#[derive(Debug)]
pub(super) struct Standing<'a> {
    /// Of each row.
    pub(super) partitions: &'a Int32Array,
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
    /// the partition in which they lie.
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
            let batch = match &mut seen {
                Some(seen) => seen.first_of(self, how.targets, &batch)?,
                None => batch,
            };
            let partitions = partitions_of(&batch)?;
            let (rows, times) = self.arrange(how.targets, &batch)?;
            let standing = Standing { partitions: &partitions, watch: how.watch };
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
    /// The rows of a batch that have not come before.
    fn first_of(&mut self, writer: &Writer, targets: &[Target], batch: &RecordBatch) -> Result<RecordBatch> {
        let partitions = partitions_of(batch)?;
        let keys = writer.keys_of(&writer.arrange(targets, batch)?.0)?;
        let mut first = Vec::with_capacity(keys.len());
        for (partition, key) in partitions.values().iter().zip(keys) {
            let bytes = (key.len() + size_of::<(i32, Bytes)>()) as u64;
            // Its batch's buffer is not to be held for it.
            let new = self.rows.insert((*partition, Bytes::copy_from_slice(&key)));
            self.bytes += if new { bytes } else { 0 };
            first.push(new);
        }
        let (_, bytes_max) = writer.bytes_max;
        if self.bytes > bytes_max {
            let message = format!("rows beside other tables whose keys are more than {bytes_max} bytes");
            return Err(Error::new(SqlState::ProgramLimitExceeded, message)
                .with_hint("change fewer rows at once, use a subquery in WHERE, or raise memory.limit"));
        }
        Ok(filter_record_batch(batch, &BooleanArray::from(first)).map_err(DataFusionError::from)?)
    }
}

/// The last column.
fn partitions_of(batch: &RecordBatch) -> Result<Int32Array> {
    let last = batch.columns().last().and_then(|column| column.as_primitive_opt::<Int32Type>());
    last.cloned().ok_or_else(|| Error::new(SqlState::InternalError, "rows to be changed do not say where they lie"))
}
