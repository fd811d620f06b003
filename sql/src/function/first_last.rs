//! `first_value` and `last_value` by one column that is a number or a time, many groups at once: what each key did last.
//!
//! DataFusion's own look at every group there is for each batch, which is groups times rows / 8192. These look at a batch's
//! rows only: the rank of a group's best row lies in a vector, the row itself where it was kept. Rows are kept batch by
//! batch, in the batch's own columns, and joined when more of them are superseded than count, so that values of every type
//! cost the same. What is ordered by something else, or by several columns, is DataFusion's.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array, new_null_array};
use arrow::compute::{SortOptions, cast, interleave, take};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature,
};

/// Batches of kept rows before they are joined.
const KEPT_MAX: usize = 1024;
/// Superseded rows that are kept beside as many as count.
const SUPERSEDED_MIN: usize = 64 << 10;

/// `first_value` and `last_value`; see the head of this file.
pub(super) fn functions() -> [Arc<AggregateUDF>; 2] {
    [false, true].map(|last| Arc::new(AggregateUDF::new_from_impl(FirstLast::new(last))))
}

/// DataFusion's function, but for its groups.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FirstLast {
    inner: Arc<AggregateUDF>,
    last: bool,
}

impl FirstLast {
    fn new(last: bool) -> Self {
        Self { inner: if last { last_value_udaf() } else { first_value_udaf() }, last }
    }
}

/// Whether a column of this type has a rank of 64 bits.
fn has_rank(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::Date32
            | DataType::Date64
            | DataType::Time32(_)
            | DataType::Time64(_)
            | DataType::Timestamp(..)
    )
}

/// How the one column is ordered by which rows are; `None` if they are ordered otherwise.
fn order_of(args: &AccumulatorArgs<'_>) -> Result<Option<(SortOptions, DataType)>> {
    let [order] = args.order_bys else { return Ok(None) };
    let kind = order.expr.data_type(args.schema)?;
    Ok(has_rank(&kind).then_some((order.options, kind)))
}

impl AggregateUDFImpl for FirstLast {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, kinds: &[DataType]) -> Result<DataType> {
        self.inner.return_type(kinds)
    }

    fn return_field(&self, fields: &[FieldRef]) -> Result<FieldRef> {
        self.inner.return_field(fields)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let Some((options, order)) = order_of(&args)? else { return self.inner.create_groups_accumulator(args) };
        let kinds = [args.return_field.data_type().clone(), order];
        Ok(Box::new(Best::new(kinds, Rank { options, last: self.last }, args.ignore_nulls)))
    }

    fn with_beneficial_ordering(self: Arc<Self>, beneficial: bool) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        let inner = AggregateUDF::clone(&self.inner).with_beneficial_ordering(beneficial)?;
        Ok(inner.map(|inner| Arc::new(Self { inner: Arc::new(inner), last: self.last }) as _))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Reversed(Arc::new(AggregateUDF::new_from_impl(Self::new(!self.last))))
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }
}

/// What of two rows counts.
#[derive(Clone, Copy, Debug)]
struct Rank {
    options: SortOptions,
    last: bool,
}

impl Rank {
    /// The larger, the better. No two orders agree on more than that.
    fn of(self, value: Option<i64>) -> i128 {
        let at = match value {
            Some(value) if self.options.descending => -i128::from(value),
            Some(value) => i128::from(value),
            None if self.options.nulls_first => i128::from(i64::MIN) * 2,
            None => i128::from(i64::MAX) * 2,
        };
        if self.last { at } else { -at }
    }
}

/// A kept row: which of the kept columns, and where in it. The first one holds a single row of nulls.
type Place = (usize, usize);
const NOWHERE: Place = (0, 0);

/// The best row of each group.
#[derive(Debug)]
struct Best {
    rank: Rank,
    ignore_nulls: bool,
    ranks: Vec<i128>,
    places: Vec<Place>,
    kept: Vec<[ArrayRef; 2]>,
    kept_rows: usize,
    kept_bytes: usize,
}

impl Best {
    /// Of value and order of these types.
    fn new(kinds: [DataType; 2], rank: Rank, ignore_nulls: bool) -> Self {
        let nothing = kinds.map(|kind| new_null_array(&kind, 1));
        let (ranks, places) = Default::default();
        Self { rank, ignore_nulls, ranks, places, kept: vec![nothing], kept_rows: 0, kept_bytes: 0 }
    }

    fn take_in(
        &mut self,
        columns: [&ArrayRef; 2],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        groups_total: usize,
    ) -> Result<()> {
        self.ranks.resize(groups_total, i128::MIN);
        self.places.resize(groups_total, NOWHERE);
        let order = cast(columns[1], &DataType::Int64)?;
        let order: &Int64Array = order.as_primitive::<Int64Type>();
        let kept = self.kept.len();
        let mut winners: Vec<u32> = Vec::new();
        for (row, group) in groups.iter().copied().enumerate() {
            let counts = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if !counts || self.ignore_nulls && columns[0].is_null(row) {
                continue;
            }
            let rank = self.rank.of(order.is_valid(row).then(|| order.value(row)));
            if rank <= self.ranks[group] {
                continue;
            }
            self.ranks[group] = rank;
            let row = u32::try_from(row).map_or_else(|_| internal_err!("a batch of {row} rows"), Ok)?;
            // Of each group one row of a batch is kept, however often it was beaten in it.
            match self.places[group] {
                (of, at) if of == kept => winners[at] = row,
                _ => {
                    self.places[group] = (kept, winners.len());
                    winners.push(row);
                }
            }
        }
        if winners.is_empty() {
            return Ok(());
        }
        let winners = UInt32Array::from(winners);
        let [values, orders] = columns;
        self.keep([owned(take(values, &winners, None)?), take(orders, &winners, None)?]);
        if self.kept.len() > KEPT_MAX || self.kept_rows > 2 * self.places.len() + SUPERSEDED_MIN {
            self.join()?;
        }
        Ok(())
    }

    fn keep(&mut self, columns: [ArrayRef; 2]) {
        self.kept_rows += columns[0].len();
        self.kept_bytes += columns.iter().map(|column| column.get_array_memory_size()).sum::<usize>();
        self.kept.push(columns);
    }

    /// One column of these rows.
    fn column(&self, number: usize, places: &[Place]) -> Result<ArrayRef> {
        let kept: Vec<&dyn Array> = self.kept.iter().map(|columns| &*columns[number]).collect();
        Ok(owned(interleave(&kept, places)?))
    }

    /// Forgets rows that no longer count.
    fn join(&mut self) -> Result<()> {
        let set: Vec<Place> = self.places.iter().copied().filter(|place| *place != NOWHERE).collect();
        let columns = [self.column(0, &set)?, self.column(1, &set)?];
        let kept = self.places.iter_mut().filter(|place| **place != NOWHERE);
        for (at, place) in kept.enumerate() {
            *place = (1, at);
        }
        self.kept.truncate(1);
        (self.kept_rows, self.kept_bytes) = (0, 0);
        self.keep(columns);
        Ok(())
    }

    /// Value, order and whether there is a row, of the groups that are given out.
    fn give(&mut self, emit: EmitTo) -> Result<(ArrayRef, ArrayRef, BooleanArray)> {
        let _ = emit.take_needed(&mut self.ranks);
        let places = emit.take_needed(&mut self.places);
        let given = (self.column(0, &places)?, self.column(1, &places)?);
        if self.places.is_empty() {
            self.kept.truncate(1);
            (self.kept_rows, self.kept_bytes) = (0, 0);
        }
        let set = places.iter().map(|place| Some(*place != NOWHERE)).collect();
        Ok((given.0, given.1, set))
    }
}

/// Without what it shares with arrays that would be kept for its sake.
fn owned(column: ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        _ => column,
    }
}

impl GroupsAccumulator for Best {
    fn update_batch(
        &mut self,
        columns: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        groups_total: usize,
    ) -> Result<()> {
        let [value, order] = columns else { return internal_err!("{} columns of value and order", columns.len()) };
        self.take_in([value, order], groups, filter, groups_total)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        Ok(self.give(emit)?.0)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let (value, order, set) = self.give(emit)?;
        Ok(vec![value, order, Arc::new(set)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], groups_total: usize) -> Result<()> {
        let [value, order, set] = states else { return internal_err!("{} columns of a state", states.len()) };
        self.take_in([value, order], groups, Some(set.as_boolean()), groups_total)
    }

    fn convert_to_state(&self, columns: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = columns.first().map_or(0, |column| column.len());
        let set = filter.cloned().unwrap_or_else(|| BooleanArray::from(vec![true; rows]));
        Ok(columns.iter().cloned().chain([Arc::new(set) as ArrayRef]).collect())
    }

    fn size(&self) -> usize {
        self.kept_bytes
            + self.ranks.capacity() * size_of::<i128>()
            + self.places.capacity() * size_of::<Place>()
            + self.kept.capacity() * size_of::<[ArrayRef; 2]>()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, RecordBatch, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Schema, TimeUnit};
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::datasource::MemTable;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    const ROWS: i64 = 30_000;
    const GROUPS: i64 = 37;

    /// Rows in two orders at once: `up` ascends, `mixed` does not; of each group one row has none.
    fn rows() -> MemTable {
        let numbers = || (0..ROWS).map(|row| row * 7_919 % ROWS);
        let mixed = numbers().enumerate().map(|(row, mixed)| (row >= 37).then_some(mixed));
        let value = (0..ROWS).map(|row| (row % 11 != 0).then(|| i32::try_from(row).unwrap()));
        let schema = Arc::new(Schema::new(vec![
            Field::new("g", DataType::Int64, false),
            Field::new("up", DataType::Timestamp(TimeUnit::Microsecond, None), false),
            Field::new("mixed", DataType::Int64, true),
            Field::new("v", DataType::Int32, true),
        ]));
        let columns: Vec<ArrayRef> = vec![
            Arc::new((0..ROWS).map(|row| row % GROUPS).collect::<Int64Array>()),
            Arc::new(TimestampMicrosecondArray::from_iter_values(0..ROWS)),
            Arc::new(mixed.collect::<Int64Array>()),
            Arc::new(value.collect::<Int32Array>()),
        ];
        let whole = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let batches = (0..whole.num_rows()).step_by(20).map(|at| whole.slice(at, 20.min(whole.num_rows() - at)));
        MemTable::try_new(schema, vec![batches.collect()]).unwrap()
    }

    async fn asked(sql: &str, ours: bool, partitions: usize) -> String {
        let config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(64);
        let context = SessionContext::new_with_config(config);
        if ours {
            functions().iter().for_each(|function| context.register_udaf(AggregateUDF::clone(function)));
        }
        context.register_table("t", Arc::new(rows())).unwrap();
        let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
        pretty_format_batches(&rows).unwrap().to_string()
    }

    #[tokio::test]
    async fn they_answer_what_datafusion_s_own_answer() {
        let mut wanted = Vec::new();
        for function in ["first_value", "last_value"] {
            for value in ["v", "v::text", "arrow_cast(v::text, 'Utf8View')", "[v, g]"] {
                wanted.push(format!("{function}({value} ORDER BY up)"));
                wanted.push(format!("{function}({value} ORDER BY mixed DESC NULLS LAST) FILTER (WHERE v % 3 = 1)"));
            }
            wanted.push(format!("{function}(v ORDER BY mixed NULLS FIRST)"));
            wanted.push(format!("{function}(v ORDER BY mixed NULLS LAST) IGNORE NULLS"));
            wanted.push(format!("{function}(v ORDER BY mixed, up)"));
            wanted.push(format!("{function}(v ORDER BY up) FILTER (WHERE v < 0)"));
        }
        for partitions in [1, 3] {
            for wanted in &wanted {
                let sql = format!("SELECT g, {wanted} AS answer FROM t GROUP BY g ORDER BY g");
                assert_eq!(asked(&sql, true, partitions).await, asked(&sql, false, partitions).await, "{sql}");
            }
        }
        let distinct = "SELECT DISTINCT ON (g) g, v, up FROM t ORDER BY g, up DESC";
        assert_eq!(asked(distinct, true, 2).await, asked(distinct, false, 2).await);
        // As many groups as rows.
        let many = "SELECT count(*), sum(l), sum(f) FROM (SELECT last_value(v ORDER BY up) AS l, \
                    first_value(v ORDER BY mixed) AS f FROM t GROUP BY up)";
        assert_eq!(asked(many, true, 2).await, asked(many, false, 2).await);
    }
}
