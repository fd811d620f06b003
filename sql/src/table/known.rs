//! What the manifest knows of a scan's rows without reading any: how many, their offsets and times; pure.

use std::ops::Range;

use aquifer_storage::{PartBounds, ScanPart};
use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};

use super::rows::TIMESTAMPS_MS;
use super::source::SourceColumn;
use crate::types;

/// Statistics of parts. They are `exact` if every record is a row, nothing is filtered, and all of the parts are whole row
/// groups: what lies in the log, and what did not decode, only reading tells.
pub(crate) fn statistics(schema: &SchemaRef, columns: &[SourceColumn], parts: &[&ScanPart], exact: bool) -> Statistics {
    let mut statistics = Statistics::new_unknown(schema);
    let bounds: Option<Vec<PartBounds>> = parts.iter().map(|part| part.bounds()).collect();
    let rows = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
    let Some(bounds) = bounds.filter(|_| exact) else {
        let most = parts.iter().map(|part| part.rows_max()).fold(0, u64::saturating_add);
        statistics.num_rows = Precision::Inexact(rows(most));
        return statistics;
    };
    statistics.num_rows = Precision::Exact(rows(bounds.iter().map(|part| part.records).sum()));
    for (column, known) in columns.iter().zip(&mut statistics.column_statistics) {
        if let Some((min, max)) = ends(*column, parts, &bounds) {
            *known = ColumnStatistics {
                null_count: Precision::Exact(0),
                min_value: Precision::Exact(min),
                max_value: Precision::Exact(max),
                ..ColumnStatistics::new_unknown()
            };
        }
    }
    statistics
}

/// Statistics of rows that are only known to lie in these offsets, as a table's latest values do: without them a join would
/// not know which of its sides is the small one.
pub(crate) fn at_most(
    schema: &SchemaRef,
    offsets: impl Iterator<Item = Range<i64>>,
    limit: Option<usize>,
) -> Statistics {
    let rows =
        offsets.map(|of| usize::try_from(of.end.saturating_sub(of.start)).unwrap_or(0)).fold(0, usize::saturating_add);
    let num_rows = Precision::Inexact(limit.map_or(rows, |limit| rows.min(limit)));
    Statistics { num_rows, ..Statistics::new_unknown(schema) }
}

/// Smallest and largest value of a column.
fn ends(column: SourceColumn, parts: &[&ScanPart], bounds: &[PartBounds]) -> Option<(ScalarValue, ScalarValue)> {
    let hull = |of: fn(&PartBounds) -> (i64, i64)| {
        let (min, max) = (bounds.iter().map(|part| of(part).0).min()?, bounds.iter().map(|part| of(part).1).max()?);
        Some((min, max))
    };
    let both = |(min, max): (i64, i64), scalar: fn(i64) -> ScalarValue| (scalar(min), scalar(max));
    let number = |value| ScalarValue::Int64(Some(value));
    match column {
        SourceColumn::Offset | SourceColumn::RowOffset => Some(both(hull(|part| part.offsets)?, number)),
        SourceColumn::RowTime => Some(both(hull(|part| part.timestamps_ms)?, number)),
        SourceColumn::Timestamp => Some(both(hull(|part| part.timestamps_ms)?, |value| {
            let reached = value.clamp(*TIMESTAMPS_MS.start(), *TIMESTAMPS_MS.end());
            ScalarValue::TimestampMillisecond(Some(reached), Some(types::utc()))
        })),
        SourceColumn::Partition | SourceColumn::RowPartition => {
            let partitions = || parts.iter().map(|part| part.partition().partition);
            let scalar = |value| ScalarValue::Int32(Some(value));
            Some((scalar(partitions().min()?), scalar(partitions().max()?)))
        }
        _ => None,
    }
}
