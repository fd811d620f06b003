//! How a scan's parts are dealt out, and the order in which a lane reads its own; pure.

use std::fmt;

use aquifer_storage::ScanPart;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalSortExpr;
use datafusion::physical_expr::expressions::Column;

use super::source::SourceColumn;

/// Work of one lane at the least, in rows out of objects: less is done sooner by one than shared. It is a batch of DataFusion,
/// which would deal out batches itself of what has more rows than that and too few lanes, and read ahead of limits for it.
const LANE_ROWS_MIN: u64 = 8 << 10;

/// A row of the log is decoded: it costs as much as so many rows out of objects.
const HOT_ROW_COST: u64 = 8;

/// Deals parts out to at most so many lanes: in turn, so that whatever a filter leaves of them is shared, and in their order,
/// so that each lane has them in order. `limit` rows are enough.
pub(crate) fn deal(parts: Vec<ScanPart>, lanes_max: usize, limit: Option<usize>) -> Vec<Vec<ScanPart>> {
    let cost = |part: &ScanPart| part.rows_max().saturating_mul(if part.is_hot() { HOT_ROW_COST } else { 1 });
    let cost = parts.iter().map(cost).fold(0_u64, u64::saturating_add);
    let cost = limit.map_or(cost, |limit| cost.min(limit as u64));
    let worthwhile = usize::try_from(cost / LANE_ROWS_MIN).unwrap_or(usize::MAX);
    let count = worthwhile.min(lanes_max).min(parts.len()).max(1);
    let mut lanes: Vec<Vec<ScanPart>> = vec![Vec::new(); count];
    for (number, part) in parts.into_iter().enumerate() {
        lanes[number % count].push(part);
    }
    lanes
}

/// In which order a lane reads its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Visit {
    /// By partition and offset; nobody has asked.
    #[default]
    AsTheyCome,
    /// By partition and offset, because somebody relies on it or has use for it.
    InOrder,
    /// The newest first.
    NewestFirst,
    /// The newest, the oldest, the second newest, …: a filter that becomes narrower finds its rows at one of the ends.
    EndsFirst,
}

impl Visit {
    /// The parts in this order.
    pub(crate) fn order(self, parts: &[ScanPart]) -> Vec<ScanPart> {
        match self {
            Self::AsTheyCome | Self::InOrder => parts.to_vec(),
            Self::NewestFirst => parts.iter().rev().cloned().map(ScanPart::reversed).collect(),
            Self::EndsFirst => {
                let newest = parts.iter().rev().cloned().map(ScanPart::reversed);
                let ends = newest.zip(parts.iter().cloned()).flat_map(|(newest, oldest)| [newest, oldest]);
                ends.take(parts.len()).collect()
            }
        }
    }

    /// The order of reading that suits rows in this order, and whether they come exactly so; `None` if none does.
    pub(crate) fn for_order(
        order: &[PhysicalSortExpr],
        schema: &SchemaRef,
        columns: &[SourceColumn],
        lanes: &[Vec<ScanPart>],
    ) -> Option<(Self, bool)> {
        let of = |sort: &PhysicalSortExpr| {
            let column = sort.expr.downcast_ref::<Column>()?;
            let known = schema.fields().get(column.index()).is_some_and(|field| field.name() == column.name());
            columns.get(column.index()).filter(|_| known).map(|column| (*column, sort.options.descending))
        };
        let is_offset = |column| matches!(column, SourceColumn::Offset | SourceColumn::RowOffset);
        let is_partition = |column| matches!(column, SourceColumn::Partition | SourceColumn::RowPartition);
        let of_one_partition = |lane: &Vec<ScanPart>| {
            lane.first().is_none_or(|first| lane.iter().all(|part| part.partition() == first.partition()))
        };
        let (first, descending) = of(order.first()?)?;
        match order {
            [_] if is_offset(first) && !descending && lanes.iter().all(of_one_partition) => Some((Self::InOrder, true)),
            [_, second] if is_partition(first) && !descending => {
                let (second, descending) = of(second)?;
                (is_offset(second) && !descending).then_some((Self::InOrder, true))
            }
            _ => {
                let in_time = is_offset(first) || matches!(first, SourceColumn::Timestamp | SourceColumn::RowTime);
                in_time.then_some((if descending { Self::NewestFirst } else { Self::InOrder }, false))
            }
        }
    }
}

impl fmt::Display for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsTheyCome => "",
            Self::InOrder => ", in order",
            Self::NewestFirst => ", newest first",
            Self::EndsFirst => ", ends first",
        })
    }
}
