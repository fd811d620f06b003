//! Which rows of typed row groups may be of interest, found by the columns a filter asks for alone: of the others only those
//! rows are decoded then, and nothing is read where there are none.
//!
//! It is worth it where few rows match. A scan that has seen many rows match gives it up; and so does a row group.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, BooleanArray};
use arrow::compute::{is_not_null, or, prep_null_mask_filter};
use arrow::datatypes::{Field, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowSelection};
use parquet::errors::ParquetError;

use crate::error::{Error, Result};
use crate::manifest::model::GroupAt;
use crate::record::rows::schema_of;
use crate::scan::cold::{File, arrange, column};
use crate::scan::parquet::{Parts, failed, read_chunks, root_of};
use crate::scan::request::Asked;
use crate::tier::declared::ERROR_COLUMN;

/// Rows of which one matches, at the least, for it to be worth looking first.
const ROWS_PER_MATCH_MIN: u64 = 4;

/// Rows looked at before a scan gives up.
const ROWS_TRIED: u64 = 64 << 10;

/// How many rows were looked at, and how many matched.
#[derive(Debug, Default)]
pub(crate) struct Matched {
    looked_at: AtomicU64,
    matched: AtomicU64,
}

impl Matched {
    fn note(&self, looked_at: u64, matched: u64) {
        self.looked_at.fetch_add(looked_at, Ordering::Relaxed);
        self.matched.fetch_add(matched, Ordering::Relaxed);
    }

    /// Whether looking first has been worth it so far.
    fn pays(&self) -> bool {
        let (looked_at, matched) = (self.looked_at.load(Ordering::Relaxed), self.matched.load(Ordering::Relaxed));
        looked_at < ROWS_TRIED || matched.saturating_mul(ROWS_PER_MATCH_MIN) <= looked_at
    }
}

/// The columns that tell rows of interest.
#[derive(Debug)]
pub(super) struct RowsBy {
    schema: SchemaRef,
    roots: Vec<usize>,
    error: usize,
}

impl RowsBy {
    /// Those of a scan's filter in a typed file; `None` if there are none, or no others to be spared.
    pub(super) fn new(
        asked: &Asked,
        footer: &ArrowReaderMetadata,
        always: &[usize],
        path: &str,
    ) -> Result<Option<Self>> {
        let Some((raw, declared)) = asked.filter.as_ref().and_then(|filter| filter.row_columns()) else {
            return Ok(None);
        };
        let mut fields: Vec<_> = schema_of(&raw).fields().iter().map(Arc::clone).collect();
        let columns = asked.format().into_iter().flat_map(|format| &format.columns).collect::<Vec<_>>();
        let typed = declared.iter().filter_map(|index| columns.get(*index));
        fields.extend(typed.map(|column| Arc::new(Field::new(&column.name, column.kind.arrow(), true))));
        let roots = fields.iter().map(|field| root_of(footer, path, field.name())).collect::<Result<Vec<_>>>()?;
        if always.iter().all(|root| roots.contains(root)) {
            return Ok(None);
        }
        let error = root_of(footer, path, ERROR_COLUMN)?;
        Ok(Some(Self { schema: Arc::new(Schema::new(fields)), roots, error }))
    }
}

/// The row groups that have rows of interest, each with those rows, or without if all of it is to be read.
pub(super) async fn select(file: &File, groups: Vec<GroupAt>) -> Result<Vec<(GroupAt, Option<RowSelection>)>> {
    let (Some(by), true) = (&file.rows_by, file.asked.matched.pays()) else {
        return Ok(groups.into_iter().map(|at| (at, None)).collect());
    };
    let masked = |at: &GroupAt| {
        let error = file.has_errors(at).then_some(by.error);
        (at.clone(), ProjectionMask::roots(file.footer.parquet_schema(), by.roots.iter().copied().chain(error)))
    };
    let masked: Vec<_> = groups.iter().map(masked).collect();
    let object = file.object()?;
    let parts = read_chunks(&file.cold, object, &file.footer, &masked).await?;
    file.asked.meter.read_bytes(parts.iter().map(Parts::bytes_read).sum());
    let mut selected = Vec::with_capacity(groups.len());
    for ((at, mask), parts) in masked.into_iter().zip(parts) {
        let Some(matches) = matches(file, by, &at, mask, parts)? else {
            selected.push((at, None));
            continue;
        };
        let matched: u64 = matches.iter().map(|batch| batch.true_count() as u64).sum();
        file.asked.matched.note(at.group.rows.into(), matched);
        if matched == 0 {
            file.asked.meter.read_groups(&object.path, 1);
        } else if matched.saturating_mul(ROWS_PER_MATCH_MIN) > u64::from(at.group.rows) {
            selected.push((at, None));
        } else {
            selected.push((at, Some(RowSelection::from_filters(&matches))));
        }
    }
    Ok(selected)
}

/// Which rows of a row group may be of interest, batch by batch; `None` if the filter does not say.
fn matches(
    file: &File,
    by: &RowsBy,
    at: &GroupAt,
    mask: ProjectionMask,
    parts: Parts,
) -> Result<Option<Vec<BooleanArray>>> {
    let path = file.object()?.path.as_str();
    let rows = ParquetRecordBatchReaderBuilder::new_with_metadata(parts, file.footer.clone())
        .with_row_groups(vec![at.ordinal])
        .with_projection(mask)
        .with_batch_size(file.asked.batch_rows)
        .build()
        .map_err(|error| failed(path, error))?;
    let mut found = Vec::new();
    for batch in rows {
        let batch = batch.map_err(|error| failed(path, ParquetError::from(error)))?;
        let rows = arrange(&batch, &by.schema, path)?;
        let Some(mut wanted) = file.asked.filter.as_ref().and_then(|filter| filter.rows(&rows)) else {
            return Ok(None);
        };
        if wanted.null_count() > 0 {
            wanted = prep_null_mask_filter(&wanted);
        }
        if file.has_errors(at) {
            // What did not decode is to be told of.
            let said = is_not_null(column(&batch, path, ERROR_COLUMN)?).and_then(|errors| or(&wanted, &errors));
            wanted = said.map_err(Error::format("look for rows"))?;
        }
        found.push(wanted);
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_first_is_given_up_where_much_matches() {
        let matched = Matched::default();
        matched.note(ROWS_TRIED - 1, ROWS_TRIED - 1);
        assert!(matched.pays(), "not enough was seen");
        matched.note(1, 0);
        assert!(!matched.pays());
        matched.note(ROWS_TRIED * 10, 0);
        assert!(matched.pays(), "few match after all");
    }
}
