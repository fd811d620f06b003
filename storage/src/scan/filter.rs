//! `GroupFilter`: who knows which row groups cannot hold a row of interest, and `GroupStatistics`: what it is told of them.
//!
//! Storage knows bounds and no expressions, SQL knows expressions and no Parquet; this is where they meet. A filter only
//! leaves out: what it keeps is read and filtered above. Column statistics and bloom filters are looked at only where the
//! manifest's checksums cover them, so that a flipped bit is an error and never a missing row: statistics are in the footer,
//! which is checksummed as a whole, and so are the checksums of the bloom filters (`aquifer.key_filters`).
//!
//! There is nothing below a row group. Its column chunks have a checksum each, a page has none, so a page cannot be read
//! alone; and with at most 16 Ki rows a row group is no larger than what other writers call a page.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;

use crate::manifest::model::GroupAt;
use crate::record::columns::RecordColumn;
use crate::record::format::RecordFormat;
use crate::tier::declared::ERROR_COLUMN;

/// Says which row groups need not be read.
pub trait GroupFilter: Debug + Send + Sync {
    /// Which of the row groups may hold rows of interest: one answer each, or none at all where it knows nothing.
    fn may_hold(&self, groups: &GroupStatistics<'_>) -> Option<Vec<bool>>;

    /// Another number than before if it leaves out more than before.
    fn version(&self) -> u64;

    /// The raw and the declared columns, by their indexes, that tell single rows of interest; `None` if rows are not told.
    fn row_columns(&self) -> Option<(Vec<RecordColumn>, Vec<usize>)>;

    /// Which rows of these columns, raw ones first, may be of interest; `None` if that cannot be told.
    fn rows(&self, rows: &RecordBatch) -> Option<BooleanArray>;

    /// Whole keys, one of which every row of interest has; `None` if it may have any.
    fn keys(&self) -> Option<Arc<[Bytes]>>;
}

/// What is known of some row groups without reading them.
#[derive(Debug)]
pub struct GroupStatistics<'a> {
    groups: &'a [GroupAt],
    /// Footer and declaration of their object, if its declared columns are those that the scan asks for.
    typed: Option<(&'a ArrowReaderMetadata, &'a RecordFormat)>,
}

/// Smallest and largest values by row group, null where nothing is known, and how many of its rows are null.
#[derive(Clone, Debug)]
pub struct ColumnBounds {
    /// Smallest values.
    pub min: ArrayRef,
    /// Largest values.
    pub max: ArrayRef,
    /// Rows that are null; records that did not decode are no rows, unless they are a table's.
    pub nulls: UInt64Array,
}

/// How many records of a row group decoded, if its object says.
pub(super) fn decoded_rows(footer: &ArrowReaderMetadata, at: &GroupAt) -> Option<u64> {
    let leaves = footer.parquet_schema();
    let leaf = (0..leaves.num_columns()).find(|leaf| leaves.column(*leaf).path().parts() == [ERROR_COLUMN])?;
    let group = footer.metadata().row_groups().get(at.ordinal)?;
    group.columns().get(leaf)?.statistics()?.null_count_opt()
}

impl<'a> GroupStatistics<'a> {
    /// Of row groups of one object.
    pub(crate) fn new(groups: &'a [GroupAt], typed: Option<(&'a ArrowReaderMetadata, &'a RecordFormat)>) -> Self {
        Self { groups, typed }
    }

    /// How many row groups.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Rows of each, without those that did not decode where that is known; see [`ColumnBounds::nulls`].
    #[must_use]
    pub fn rows(&self) -> UInt64Array {
        let rows = |at: &GroupAt| Some(u64::from(at.group.rows).saturating_sub(self.undecoded(at)));
        self.groups.iter().map(rows).collect()
    }

    /// Records of a row group that did not decode: in all declared columns they are null. Not so of a table, whose keys
    /// may have decoded: there they count as rows.
    fn undecoded(&self, at: &GroupAt) -> u64 {
        let of_rows = self.typed.filter(|(_, format)| !format.tombstones);
        let decoded = of_rows.and_then(|(footer, _)| decoded_rows(footer, at));
        decoded.map_or(0, |decoded| u64::from(at.group.rows).saturating_sub(decoded))
    }

    /// The partition of each.
    #[must_use]
    pub fn partitions(&self) -> ColumnBounds {
        self.numbers(|at| (i64::from(at.group.partition), i64::from(at.group.partition)))
    }

    /// Their offsets.
    #[must_use]
    pub fn offsets(&self) -> ColumnBounds {
        self.numbers(|at| (at.group.first_offset, at.group.last_offset))
    }

    /// Their timestamps, ms.
    #[must_use]
    pub fn timestamps_ms(&self) -> ColumnBounds {
        self.numbers(|at| (at.group.min_timestamp_ms, at.group.max_timestamp_ms))
    }

    /// A declared column's values, by its index; `None` where nobody has written them down.
    #[must_use]
    pub fn declared(&self, index: usize) -> Option<ColumnBounds> {
        let (footer, format) = self.typed?;
        let name = &format.columns.get(index)?.name;
        let converter = StatisticsConverter::try_new(name, footer.schema(), footer.parquet_schema()).ok()?;
        let groups = || self.groups.iter().filter_map(|at| footer.metadata().row_groups().get(at.ordinal));
        let (min, max) = (converter.row_group_mins(groups()).ok()?, converter.row_group_maxes(groups()).ok()?);
        let nulls = converter.with_missing_null_counts_as_zero(false).row_group_null_counts(groups()).ok()?;
        let of_rows = |(nulls, at): (Option<u64>, &GroupAt)| Some(nulls?.saturating_sub(self.undecoded(at)));
        let bounds = ColumnBounds { min, max, nulls: nulls.iter().zip(self.groups).map(of_rows).collect() };
        (bounds.min.len() == self.groups.len() && bounds.max.len() == self.groups.len()).then_some(bounds)
    }

    fn numbers(&self, of: impl Fn(&GroupAt) -> (i64, i64)) -> ColumnBounds {
        let (min, max): (Vec<i64>, Vec<i64>) = self.groups.iter().map(of).unzip();
        let nulls = UInt64Array::from_value(0, self.groups.len());
        ColumnBounds { min: Arc::new(Int64Array::from(min)), max: Arc::new(Int64Array::from(max)), nulls }
    }
}
