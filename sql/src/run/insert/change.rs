//! Rows of UPDATE and DELETE into records: new values and tombstones, each in the partition where its row lies.

use aquifer_storage::Watch;
use arrow::array::{AsArray, Int32Array, RecordBatch};
use arrow::datatypes::Int32Type;
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

impl Writer {
    /// Rows to be written over, or deleted, into records; answers how many. The rows have the columns of `targets`, then
    /// the partition in which they lie.
    ///
    /// # Errors
    /// What the rows, the casts and the encoder say.
    pub(crate) async fn change(
        &self,
        targets: &[Target],
        deletes: bool,
        mut rows: SendableRecordBatchStream,
        (watch, writing): (&Watch, &mut Writing),
        mut returned: Option<&mut Returned>,
    ) -> Result<usize> {
        let mut count = 0;
        while let Some(batch) = rows.try_next().await? {
            let partitions = partitions_of(&batch)?;
            let (rows, times) = self.arrange(targets, &batch)?;
            let standing = Standing { partitions: &partitions, watch };
            count += self.write(&rows, times.as_ref(), deletes, Some(&standing), &mut writing.pending)?;
            if let Some(returned) = &mut returned {
                returned.take(rows)?;
            }
            writing.relieve().await?;
        }
        if count > 0 {
            writing.pending.watches.push(watch.clone());
        }
        Ok(count)
    }
}

/// The last column.
fn partitions_of(batch: &RecordBatch) -> Result<Int32Array> {
    let last = batch.columns().last().and_then(|column| column.as_primitive_opt::<Int32Type>());
    last.cloned().ok_or_else(|| Error::new(SqlState::InternalError, "rows to be changed do not say where they lie"))
}
