//! `Aggregate`: GROUP BY that touches only the groups a tick changed: their old row is retracted, the new one inserted.
//!
//! A tick's rows are first folded into cells of their own ([`super::cell`]); the group's answer before and after is read
//! off the sum of both, and nothing of the state changes until [`AggregateState::apply`]. Without GROUP BY there is one
//! group from the beginning, as a batch gives one row over no input at all.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float32Array, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;

use super::cell::{Accumulator, Argument, Cell, Datum};
use super::change::{Changes, int64};
use super::filter::evaluate_mask;

/// One aggregate function of the SELECT.
#[derive(Debug)]
pub(crate) struct Call {
    /// What it computes.
    pub(crate) accumulator: Accumulator,
    /// Over what; `None` for `count(*)`.
    pub(crate) argument: Option<Arc<dyn PhysicalExpr>>,
    /// `FILTER (WHERE …)`.
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
}

/// The operator.
#[derive(Debug)]
pub(crate) struct Aggregate {
    group_by: Vec<Arc<dyn PhysicalExpr>>,
    calls: Vec<Call>,
    keys: RowConverter,
    window_end: Option<usize>,
    schema: SchemaRef,
}

/// What one group remembers.
#[derive(Clone, Debug)]
struct Group {
    rows: i64,
    timestamp_ms: i64,
    window_end_ms: i64,
    cells: Box<[Cell]>,
}

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct AggregateState {
    groups: HashMap<Box<[u8]>, Group>,
    started: bool,
    bytes: usize,
}

/// What one tick adds to the groups.
#[derive(Debug)]
pub(crate) struct AggregateDelta {
    groups: Vec<(Box<[u8]>, Group)>,
}

/// A tick's groups while they are being folded, in order of appearance.
#[derive(Default)]
struct Fold {
    slots: HashMap<Box<[u8]>, usize>,
    groups: Vec<(Box<[u8]>, Group)>,
}

impl Aggregate {
    /// Groups by `group_by` (over the input's schema) and computes `calls`; `schema` has the groups' columns first.
    /// `window_end` is the group column that holds a window's end, if one does.
    ///
    /// # Errors
    /// A group column of a type that has no order-preserving bytes.
    pub(crate) fn new(
        group_by: Vec<Arc<dyn PhysicalExpr>>,
        calls: Vec<Call>,
        window_end: Option<usize>,
        schema: SchemaRef,
    ) -> Result<Self> {
        let fields = schema.fields().iter().take(group_by.len());
        let keys = RowConverter::new(fields.map(|field| SortField::new(field.data_type().clone())).collect())?;
        Ok(Self { group_by, calls, keys, window_end, schema })
    }

    /// Whether there is a row before there is any input.
    pub(crate) fn is_global(&self) -> bool {
        self.group_by.is_empty()
    }

    /// The changes a tick's input makes, and what to remember of it. `start_ms` is the timestamp of a row that comes
    /// from no record.
    pub(crate) fn step(
        &self,
        state: &AggregateState,
        input: &[Changes],
        start_ms: i64,
    ) -> Result<(Changes, AggregateDelta)> {
        let mut fold = Fold::default();
        if self.is_global() && !state.started {
            fold.group(&[], || self.empty(start_ms, i64::MAX));
        }
        for changes in input.iter().filter(|changes| changes.len() > 0) {
            self.fold(&mut fold, changes)?;
        }
        let changes = self.show(state, &fold.groups)?;
        Ok((changes, AggregateDelta { groups: fold.groups }))
    }

    fn empty(&self, timestamp_ms: i64, window_end_ms: i64) -> Group {
        let cells = self.calls.iter().map(|call| call.accumulator.empty()).collect();
        Group { rows: 0, timestamp_ms, window_end_ms, cells }
    }

    /// Folds one batch of changes into the tick's groups.
    fn fold(&self, fold: &mut Fold, changes: &Changes) -> Result<()> {
        let count = changes.len();
        let columns = self
            .group_by
            .iter()
            .map(|column| column.evaluate(&changes.rows)?.into_array(count).map(canonical))
            .collect::<Result<Vec<_>>>()?;
        let keys: Option<Rows> = if columns.is_empty() { None } else { Some(self.keys.convert_columns(&columns)?) };
        let ends: Option<Int64Array> = self.window_end.map(|index| int64(&columns[index])).transpose()?;
        let inputs = self.calls.iter().map(|call| call.evaluate(&changes.rows)).collect::<Result<Vec<_>>>()?;
        for row in 0..count {
            let key: &[u8] = keys.as_ref().map_or(&[], |keys| keys.row(row).data());
            let time = changes.timestamps_ms.value(row);
            let end = ends.as_ref().map_or(i64::MAX, |ends| ends.value(row));
            let group = fold.group(key, || self.empty(time, end));
            let weight = changes.weights.value(row);
            group.rows += weight;
            group.timestamp_ms = group.timestamp_ms.max(time);
            for (cell, (argument, mask)) in group.cells.iter_mut().zip(&inputs) {
                if mask.as_ref().is_none_or(|mask| mask.value(row)) {
                    cell.add(argument, row, weight);
                }
            }
        }
        Ok(())
    }

    /// The touched groups' rows before and after, where they differ.
    fn show(&self, state: &AggregateState, touched: &[(Box<[u8]>, Group)]) -> Result<Changes> {
        let mut keys: Vec<&[u8]> = Vec::new();
        let mut columns: Vec<Vec<Datum>> = vec![Vec::new(); self.calls.len()];
        let (mut weights, mut times) = (Vec::new(), Vec::new());
        for (key, tick) in touched {
            let group = state.groups.get(key);
            let before = match group {
                Some(group) if group.rows > 0 || self.is_global() => Some(self.answers(Some(group), None)?),
                _ => None,
            };
            let rows = group.map_or(0, |group| group.rows) + tick.rows;
            let after = if rows > 0 || self.is_global() { Some(self.answers(group, Some(tick))?) } else { None };
            if before == after {
                continue;
            }
            let time = group.map_or(tick.timestamp_ms, |group| group.timestamp_ms.max(tick.timestamp_ms));
            for (answers, weight) in [(before, -1), (after, 1)] {
                let Some(answers) = answers else { continue };
                keys.push(key);
                weights.push(weight);
                times.push(time);
                for (column, answer) in columns.iter_mut().zip(answers) {
                    column.push(answer);
                }
            }
        }
        self.assemble(&keys, columns, weights, times)
    }

    fn answers(&self, group: Option<&Group>, tick: Option<&Group>) -> Result<Vec<Datum>> {
        let cell = |group: Option<&'_ Group>, index: usize| group.map(|group| group.cells[index].clone());
        self.calls
            .iter()
            .enumerate()
            .map(|(index, call)| match (group, tick) {
                (Some(group), Some(tick)) => call.accumulator.show(Some(&group.cells[index]), Some(&tick.cells[index])),
                _ => call.accumulator.show(cell(group.or(tick), index).as_ref(), None),
            })
            .collect()
    }

    fn assemble(
        &self,
        keys: &[&[u8]],
        columns: Vec<Vec<Datum>>,
        weights: Vec<i64>,
        times: Vec<i64>,
    ) -> Result<Changes> {
        let mut arrays: Vec<ArrayRef> = if self.is_global() {
            Vec::new()
        } else {
            let parser = self.keys.parser();
            self.keys.convert_rows(keys.iter().map(|key| parser.parse(key)))?
        };
        for (call, column) in self.calls.iter().zip(columns) {
            arrays.push(call.accumulator.column(column)?);
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(weights.len()));
        let rows = RecordBatch::try_new_with_options(SchemaRef::clone(&self.schema), arrays, &options)?;
        Ok(Changes { rows, weights: weights.into(), timestamps_ms: times.into(), origin: None })
    }
}

impl Call {
    /// The argument's values and the filter's mask for one batch.
    fn evaluate(&self, rows: &RecordBatch) -> Result<(Argument, Option<BooleanArray>)> {
        let array = match &self.argument {
            Some(argument) => Some(argument.evaluate(rows)?.into_array(rows.num_rows())?),
            None => None,
        };
        let mask = self.filter.as_ref().map(|filter| evaluate_mask(filter, rows)).transpose()?;
        Ok((self.accumulator.argument(array)?, mask))
    }
}

impl Fold {
    fn group(&mut self, key: &[u8], empty: impl FnOnce() -> Group) -> &mut Group {
        let slot = match self.slots.get(key) {
            Some(slot) => *slot,
            None => {
                self.slots.insert(key.into(), self.groups.len());
                self.groups.push((key.into(), empty()));
                self.groups.len() - 1
            }
        };
        &mut self.groups[slot].1
    }
}

impl AggregateState {
    /// Remembers a tick whose commit is durable.
    pub(crate) fn apply(&mut self, operator: &Aggregate, delta: AggregateDelta) {
        self.started = true;
        for (key, tick) in delta.groups {
            let Some(group) = self.groups.get_mut(&key) else {
                if tick.rows != 0 || operator.is_global() {
                    self.bytes += tick.bytes(&key);
                    self.groups.insert(key, tick);
                }
                continue;
            };
            self.bytes = self.bytes.saturating_sub(group.bytes(&key));
            group.rows += tick.rows;
            group.timestamp_ms = group.timestamp_ms.max(tick.timestamp_ms);
            for (cell, more) in group.cells.iter_mut().zip(tick.cells) {
                cell.merge(more);
            }
            if group.rows == 0 && !operator.is_global() {
                self.groups.remove(&key);
            } else {
                self.bytes += group.bytes(&key);
            }
        }
    }

    /// Forgets the groups of windows that end at `window_end_ms` or before: no record can change them any more.
    pub(crate) fn forget(&mut self, window_end_ms: i64) {
        let mut freed = 0;
        self.groups.retain(|key, group| {
            let stays = group.window_end_ms > window_end_ms;
            freed += if stays { 0 } else { group.bytes(key) };
            stays
        });
        self.bytes = self.bytes.saturating_sub(freed);
    }

    /// Groups remembered.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Bytes remembered, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Group {
    fn bytes(&self, key: &[u8]) -> usize {
        let cells: usize = self.cells.iter().map(|cell| size_of::<Cell>() + cell.heap_bytes()).sum();
        key.len() + size_of::<(Box<[u8]>, Self)>() + cells
    }
}

/// Floats of one group have one form: -0 and 0 are the same group, as in DataFusion.
fn canonical(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => match array.as_any().downcast_ref::<Float64Array>() {
            Some(values) => Arc::new(values.unary::<_, arrow::datatypes::Float64Type>(|value| value + 0.0)),
            None => array,
        },
        DataType::Float32 => match array.as_any().downcast_ref::<Float32Array>() {
            Some(values) => Arc::new(values.unary::<_, arrow::datatypes::Float32Type>(|value| value + 0.0)),
            None => array,
        },
        _ => array,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, StringArray};
    use arrow::datatypes::{Field, Int64Type, Schema};
    use datafusion::physical_expr::expressions::Column;

    use super::super::cell::Kind;
    use super::*;

    fn aggregate(keys: usize) -> Aggregate {
        let column = |name: &str, index: usize| Arc::new(Column::new(name, index)) as Arc<dyn PhysicalExpr>;
        let accumulator = |kind| Accumulator::new(kind, DataType::Int64, DataType::Int64).unwrap().unwrap();
        let calls = vec![
            Call { accumulator: accumulator(Kind::Count), argument: None, filter: None },
            Call { accumulator: accumulator(Kind::Sum), argument: Some(column("x", 1)), filter: None },
        ];
        let group_by = (0..keys).map(|_| column("k", 0)).collect();
        let mut fields: Vec<Field> = (0..keys).map(|_| Field::new("k", DataType::Utf8, true)).collect();
        fields.extend(["count", "sum"].map(|name| Field::new(name, DataType::Int64, true)));
        Aggregate::new(group_by, calls, None, Arc::new(Schema::new(fields))).unwrap()
    }

    fn input(rows: &[(Option<&str>, i64, i64)]) -> Changes {
        let schema = Schema::new(vec![Field::new("k", DataType::Utf8, true), Field::new("x", DataType::Int64, true)]);
        let keys: StringArray = rows.iter().map(|row| row.0).collect();
        let values: Int64Array = rows.iter().map(|row| Some(row.1)).collect();
        let rows_batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(keys), Arc::new(values)]).unwrap();
        Changes {
            rows: rows_batch,
            weights: rows.iter().map(|row| row.2).collect::<Vec<_>>().into(),
            timestamps_ms: (0..rows.len()).map(|row| row as i64).collect::<Vec<_>>().into(),
            origin: None,
        }
    }

    /// (weight, last two columns) of each change, after applying it.
    fn run(
        operator: &Aggregate,
        state: &mut AggregateState,
        rows: &[(Option<&str>, i64, i64)],
    ) -> Vec<(i64, i64, i64)> {
        let (changes, delta) = operator.step(state, &[input(rows)], -7).unwrap();
        let (again, _) = operator.step(state, &[input(rows)], -7).unwrap();
        assert_eq!(changes.rows, again.rows, "a step leaves the state as it is");
        state.apply(operator, delta);
        let columns = changes.rows.num_columns();
        let value = |column: usize, row: usize| changes.rows.column(column).as_primitive::<Int64Type>().value(row);
        let row = |row: usize| (changes.weights.value(row), value(columns - 2, row), value(columns - 1, row));
        (0..changes.len()).map(row).collect()
    }

    #[test]
    fn only_touched_groups_change_and_the_old_row_goes_before_the_new_one() {
        let (operator, mut state) = (aggregate(1), AggregateState::default());
        assert_eq!(run(&operator, &mut state, &[(Some("a"), 1, 1), (None, 2, 1)]), [(1, 1, 1), (1, 1, 2)]);
        assert_eq!(run(&operator, &mut state, &[(None, 5, 1)]), [(-1, 1, 2), (1, 2, 7)]);
        assert_eq!(run(&operator, &mut state, &[(Some("a"), 1, -1)]), [(-1, 1, 1)]);
        assert_eq!(state.len(), 1);
    }

    #[test]
    fn a_group_that_comes_and_goes_within_a_tick_was_never_there() {
        let (operator, mut state) = (aggregate(1), AggregateState::default());
        assert_eq!(run(&operator, &mut state, &[(Some("a"), 1, 1), (Some("a"), 1, -1)]), []);
        assert_eq!((state.len(), state.bytes()), (0, 0));
    }

    #[test]
    fn without_group_by_there_is_a_row_before_any_input() {
        let (operator, mut state) = (aggregate(0), AggregateState::default());
        let (changes, delta) = operator.step(&state, &[], -7).unwrap();
        assert_eq!((changes.len(), changes.timestamps_ms.value(0)), (1, -7));
        state.apply(&operator, delta);
        assert_eq!(run(&operator, &mut state, &[]), []);
        assert_eq!(run(&operator, &mut state, &[(None, 5, 1)]), [(-1, 0, 0), (1, 1, 5)]);
        assert_eq!(run(&operator, &mut state, &[(None, 5, -1)]), [(-1, 1, 5), (1, 0, 0)]);
    }
}
