//! What a filter says about partitions, offsets and timestamps: the part of it that storage can prune by.
//!
//! Filters stay in the plan; this only leaves out what they would.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// What can be in the answer at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Partitions, both ends inclusive.
    pub(crate) partition: (i64, i64),
    /// Offsets, both ends inclusive.
    pub(crate) offset: (i64, i64),
    /// Record timestamps in ms, both ends inclusive.
    pub(crate) timestamp_ms: (i64, i64),
}

const ALL: (i64, i64) = (i64::MIN, i64::MAX);

/// Bounds of a conjunction of filters. `rowtime_is_timestamp`: rowtime is the record's own timestamp.
pub(crate) fn bounds(filters: &[Expr], rowtime_is_timestamp: bool) -> Bounds {
    let mut bounds = Bounds { partition: ALL, offset: ALL, timestamp_ms: ALL };
    for filter in filters.iter().flat_map(split_conjunction) {
        narrow(filter, rowtime_is_timestamp, &mut bounds);
    }
    bounds
}

fn narrow(filter: &Expr, rowtime_is_timestamp: bool, bounds: &mut Bounds) {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (column, op, value) = match (left.as_ref(), right.as_ref()) {
                (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
                (Expr::Literal(value, _), Expr::Column(column)) => match op.swap() {
                    Some(op) => (column, op, value),
                    None => return,
                },
                _ => return,
            };
            compare(&column.name, op, value, rowtime_is_timestamp, bounds);
        }
        Expr::Between(between) if !between.negated => {
            let (Expr::Column(column), Expr::Literal(low, _), Expr::Literal(high, _)) =
                (between.expr.as_ref(), between.low.as_ref(), between.high.as_ref())
            else {
                return;
            };
            compare(&column.name, Operator::GtEq, low, rowtime_is_timestamp, bounds);
            compare(&column.name, Operator::LtEq, high, rowtime_is_timestamp, bounds);
        }
        _ => {}
    }
}

fn compare(column: &str, op: Operator, value: &ScalarValue, rowtime_is_timestamp: bool, bounds: &mut Bounds) {
    let range = match column {
        "_partition" | "rowpartition" => &mut bounds.partition,
        "_offset" | "rowoffset" => &mut bounds.offset,
        "_timestamp" => &mut bounds.timestamp_ms,
        "rowtime" if rowtime_is_timestamp => &mut bounds.timestamp_ms,
        _ => return,
    };
    // A timestamp finer than ms is rounded outwards, so that nothing of the answer is left out.
    let Some((floor, ceil)) = integer(value) else { return };
    match op {
        Operator::Eq => *range = (range.0.max(floor), range.1.min(ceil)),
        Operator::Gt | Operator::GtEq => range.0 = range.0.max(floor),
        Operator::Lt | Operator::LtEq => range.1 = range.1.min(ceil),
        _ => {}
    }
}

fn integer(value: &ScalarValue) -> Option<(i64, i64)> {
    let both = |value: i64| Some((value, value));
    let fine = |value: i64, per_ms: i64| {
        let floor = value.div_euclid(per_ms);
        Some((floor, floor + i64::from(value.rem_euclid(per_ms) != 0)))
    };
    match value {
        ScalarValue::Int8(Some(value)) => both(i64::from(*value)),
        ScalarValue::Int16(Some(value)) => both(i64::from(*value)),
        ScalarValue::Int32(Some(value)) => both(i64::from(*value)),
        ScalarValue::Int64(Some(value)) | ScalarValue::TimestampMillisecond(Some(value), _) => both(*value),
        ScalarValue::TimestampSecond(Some(value), _) => both(value.checked_mul(1000)?),
        ScalarValue::TimestampMicrosecond(Some(value), _) => fine(*value, 1000),
        ScalarValue::TimestampNanosecond(Some(value), _) => fine(*value, 1_000_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    #[test]
    fn filters_on_the_record_s_place_and_time_become_bounds() {
        let filters = [
            col("_offset").gt_eq(lit(10_i64)).and(col("rowoffset").lt(lit(20_i64))),
            lit(2_i32).eq(col("_partition")),
            col("_timestamp").gt(Expr::Literal(ScalarValue::TimestampMicrosecond(Some(1_500), None), None)),
            col("amount").gt(lit(5_i64)),
        ];
        let bounds = bounds(&filters, true);
        assert_eq!(bounds.offset, (10, 20));
        assert_eq!(bounds.partition, (2, 2));
        assert_eq!(bounds.timestamp_ms, (1, i64::MAX));
    }

    #[test]
    fn rowtime_of_a_declared_column_prunes_nothing_and_alternatives_neither() {
        let filters = [col("rowtime").gt(lit(5_i64)), col("_offset").eq(lit(1_i64)).or(col("_offset").eq(lit(9_i64)))];
        assert_eq!(bounds(&filters, false), Bounds { partition: ALL, offset: ALL, timestamp_ms: ALL });
    }
}
