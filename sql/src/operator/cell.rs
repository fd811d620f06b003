//! `Cell`: what one aggregate function remembers of one group; linear, so that a tick's cell is added to the group's.
//!
//! The results are those of a batch's aggregates to the bit (the averages of decimals, sums of BIGINT as numeric),
//! because a continuous query's table must equal the same SELECT run as a batch; only float sums depend on the order of
//! adding. DataFusion's accumulators are not used: they cannot retract a minimum, nor show a result without being
//! consumed.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Decimal128Array, Float64Array, Int64Array, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, DecimalType};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::error::{DataFusionError, Result};

/// Which function, and how it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `count(*)`, `count(x)`.
    Count,
    /// `count(DISTINCT x)`.
    CountDistinct,
    /// `sum` of integers, of floats or of decimals.
    Sum,
    /// `avg` of floats (integers are cast to them) or of decimals.
    Avg,
    /// `min`; `retracts` says that the input can, so that every value is kept.
    Min {
        /// Whether a value may be taken back.
        retracts: bool,
    },
    /// `max`, likewise.
    Max {
        /// Whether a value may be taken back.
        retracts: bool,
    },
}

/// What is remembered. Cells of one kind add up by [`Cell::merge`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// How many.
    Count(i64),
    /// Sum of signed integers and how many.
    Int(i64, i64),
    /// Sum of unsigned integers and how many.
    UInt(u64, i64),
    /// Sum of floats and how many.
    Float(f64, i64),
    /// Sum of decimals, unscaled, and how many.
    Decimal(i128, i64),
    /// The smallest so far, in order-preserving bytes.
    Smallest(Option<Box<[u8]>>),
    /// The largest so far.
    Largest(Option<Box<[u8]>>),
    /// Each value and how often.
    Values(BTreeMap<Box<[u8]>, i64>),
}

/// One result, before it becomes an array.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Datum {
    /// NULL.
    Null,
    /// BIGINT.
    Int(i64),
    /// Unsigned BIGINT.
    UInt(u64),
    /// DOUBLE.
    Float(f64),
    /// DECIMAL, unscaled.
    Decimal(i128),
    /// Any value in order-preserving bytes.
    Bytes(Box<[u8]>),
}

/// A function with its types: makes cells, feeds them, shows them.
#[derive(Debug)]
pub(crate) struct Accumulator {
    kind: Kind,
    input: DataType,
    output: DataType,
    values: Option<RowConverter>,
}

/// An argument's values for one batch, in the form the cells take.
#[derive(Debug)]
pub(crate) enum Argument {
    /// `count(*)`: every row counts.
    Every,
    /// `count(x)`: rows with a value count.
    Valid(ArrayRef),
    /// Signed integers.
    Int(Int64Array),
    /// Unsigned integers.
    UInt(UInt64Array),
    /// Floats.
    Float(Float64Array),
    /// Decimals.
    Decimal(Decimal128Array),
    /// Order-preserving bytes, and where there is a value.
    Bytes(Rows, ArrayRef),
}

impl Accumulator {
    /// The function `kind` from `input` to `output`, the types DataFusion's planner gives; `None` where it is not known
    /// to equal DataFusion's.
    pub(crate) fn new(kind: Kind, input: DataType, output: DataType) -> Result<Option<Self>> {
        // Integers are added up as what their sum is.
        let widens = (kind, &input, &output) == (Kind::Sum, &DataType::Int32, &DataType::Int64);
        let input = if widens { DataType::Int64 } else { input };
        let known = match kind {
            Kind::Count | Kind::CountDistinct => output == DataType::Int64,
            Kind::Sum => matches!(
                (&input, &output),
                (DataType::Int64, DataType::Int64)
                    | (DataType::UInt64, DataType::UInt64)
                    | (DataType::Float64, DataType::Float64)
                    | (DataType::Decimal128(..), DataType::Decimal128(..))
            ),
            Kind::Avg => matches!(
                (&input, &output),
                (DataType::Float64, DataType::Float64) | (DataType::Decimal128(..), DataType::Decimal128(..))
            ),
            Kind::Min { .. } | Kind::Max { .. } => input == output && is_ordered(&input),
        };
        let keeps_values = matches!(kind, Kind::CountDistinct | Kind::Min { .. } | Kind::Max { .. });
        let sort_field = SortField::new(input.clone());
        if !known || (keeps_values && !RowConverter::supports_fields(std::slice::from_ref(&sort_field))) {
            return Ok(None);
        }
        let values = if keeps_values { Some(RowConverter::new(vec![sort_field])?) } else { None };
        Ok(Some(Self { kind, input, output, values }))
    }

    /// What a group without rows remembers.
    pub(crate) fn empty(&self) -> Cell {
        match (self.kind, &self.input) {
            (Kind::Count, _) => Cell::Count(0),
            (Kind::CountDistinct | Kind::Min { retracts: true } | Kind::Max { retracts: true }, _) => {
                Cell::Values(BTreeMap::new())
            }
            (Kind::Min { retracts: false }, _) => Cell::Smallest(None),
            (Kind::Max { retracts: false }, _) => Cell::Largest(None),
            (Kind::Sum | Kind::Avg, DataType::Decimal128(..)) => Cell::Decimal(0, 0),
            (Kind::Sum | Kind::Avg, DataType::Int64) => Cell::Int(0, 0),
            (Kind::Sum | Kind::Avg, DataType::UInt64) => Cell::UInt(0, 0),
            (Kind::Sum | Kind::Avg, _) => Cell::Float(0.0, 0),
        }
    }

    /// An argument's array in the form the cells take; `None` is `count(*)`.
    pub(crate) fn argument(&self, array: Option<ArrayRef>) -> Result<Argument> {
        let Some(array) = array else { return Ok(Argument::Every) };
        if let Some(values) = &self.values {
            return Ok(Argument::Bytes(values.convert_columns(std::slice::from_ref(&array))?, array));
        }
        if self.kind == Kind::Count {
            return Ok(Argument::Valid(array));
        }
        let array = if *array.data_type() == DataType::Int32 { cast(&array, &DataType::Int64)? } else { array };
        let any = array.as_any();
        let known = None
            .or_else(|| any.downcast_ref().cloned().map(Argument::Int))
            .or_else(|| any.downcast_ref().cloned().map(Argument::UInt))
            .or_else(|| any.downcast_ref().cloned().map(Argument::Float))
            .or_else(|| any.downcast_ref().cloned().map(Argument::Decimal));
        known.ok_or_else(|| DataFusionError::Internal(format!("{:?} over {}", self.kind, array.data_type())))
    }

    /// The result over what both cells remember together; either may be missing.
    pub(crate) fn show(&self, group: Option<&Cell>, tick: Option<&Cell>) -> Result<Datum> {
        if let (Some(Cell::Values(group)), Some(Cell::Values(tick))) = (group, tick) {
            return Ok(self.show_values(group, tick));
        }
        let cell = match (group, tick) {
            (Some(group), Some(tick)) => {
                let mut sum = group.clone();
                sum.merge(tick.clone());
                sum
            }
            (Some(Cell::Values(values)), None) | (None, Some(Cell::Values(values))) => {
                return Ok(self.show_values(values, &BTreeMap::new()));
            }
            (Some(cell), None) | (None, Some(cell)) => cell.clone(),
            (None, None) => self.empty(),
        };
        Ok(match cell {
            Cell::Count(count) => Datum::Int(count),
            Cell::Int(_, 0) | Cell::UInt(_, 0) | Cell::Float(_, 0) | Cell::Decimal(_, 0) => Datum::Null,
            Cell::Int(sum, _) => Datum::Int(sum),
            Cell::UInt(sum, _) => Datum::UInt(sum),
            Cell::Float(sum, count) if self.kind == Kind::Avg => Datum::Float(sum / count as f64),
            Cell::Float(sum, _) => Datum::Float(sum),
            Cell::Decimal(sum, count) if self.kind == Kind::Avg => Datum::Decimal(self.decimal_average(sum, count)?),
            Cell::Decimal(sum, _) => Datum::Decimal(sum),
            Cell::Smallest(value) | Cell::Largest(value) => value.map_or(Datum::Null, Datum::Bytes),
            Cell::Values(values) => self.show_values(&values, &BTreeMap::new()),
        })
    }

    /// A result of kept values: looked up where the two maps meet, never by copying the group's.
    fn show_values(&self, group: &BTreeMap<Box<[u8]>, i64>, tick: &BTreeMap<Box<[u8]>, i64>) -> Datum {
        let stands = |value: &[u8]| group.get(value).copied().unwrap_or(0) + tick.get(value).copied().unwrap_or(0) > 0;
        let first = |mut values: Box<dyn Iterator<Item = &Box<[u8]>> + '_>| values.find(|value| stands(value)).cloned();
        let datum = |value: Option<Box<[u8]>>| value.map_or(Datum::Null, Datum::Bytes);
        match self.kind {
            Kind::Min { .. } => {
                let both = [first(Box::new(group.keys())), first(Box::new(tick.keys()))];
                datum(both.into_iter().flatten().min())
            }
            Kind::Max { .. } => {
                let both = [first(Box::new(group.keys().rev())), first(Box::new(tick.keys().rev()))];
                datum(both.into_iter().flatten().max())
            }
            _ => {
                let changed: i64 = tick
                    .keys()
                    .map(|value| i64::from(stands(value)) - i64::from(group.get(value).is_some_and(|count| *count > 0)))
                    .sum();
                Datum::Int(i64::try_from(group.len()).unwrap_or(i64::MAX) + changed)
            }
        }
    }

    /// As DataFusion's `DecimalAverager` computes it: scaled up, divided towards zero, refused where it does not fit.
    fn decimal_average(&self, sum: i128, count: i64) -> Result<i128> {
        let overflow = || DataFusionError::Execution("arithmetic overflow in avg".to_owned());
        let (DataType::Decimal128(_, from), DataType::Decimal128(precision, to)) = (&self.input, &self.output) else {
            return Err(DataFusionError::Internal(format!("average of {} as decimal", self.input)));
        };
        let digits = u32::try_from(to - from).map_err(|_| overflow())?;
        let factor = 10_i128.checked_pow(digits).ok_or_else(overflow)?;
        let average = sum.checked_mul(factor).ok_or_else(overflow)? / i128::from(count);
        Decimal128Type::validate_decimal_precision(average, *precision, *to).map_err(|_| overflow())?;
        Ok(average)
    }

    /// Results as an array of the output type.
    pub(crate) fn column(&self, data: Vec<Datum>) -> Result<ArrayRef> {
        if self.kind != Kind::CountDistinct
            && let Some(values) = &self.values
        {
            return self.value_column(values, &data);
        }
        Ok(match &self.output {
            DataType::Int64 => Arc::new(Int64Array::from_iter(data.iter().map(|datum| match datum {
                Datum::Int(value) => Some(*value),
                _ => None,
            }))),
            DataType::UInt64 => Arc::new(UInt64Array::from_iter(data.iter().map(|datum| match datum {
                Datum::UInt(value) => Some(*value),
                _ => None,
            }))),
            DataType::Float64 => Arc::new(Float64Array::from_iter(data.iter().map(|datum| match datum {
                Datum::Float(value) => Some(*value),
                _ => None,
            }))),
            DataType::Decimal128(precision, scale) => {
                let values = Decimal128Array::from_iter(data.iter().map(|datum| match datum {
                    Datum::Decimal(value) => Some(*value),
                    _ => None,
                }));
                Arc::new(values.with_precision_and_scale(*precision, *scale)?)
            }
            other => return Err(DataFusionError::Internal(format!("an aggregate of type {other}"))),
        })
    }

    /// Kept values back from their bytes; a missing one is the bytes of NULL.
    fn value_column(&self, converter: &RowConverter, data: &[Datum]) -> Result<ArrayRef> {
        let null = converter.convert_columns(&[arrow::array::new_null_array(&self.input, 1)])?;
        let parser = converter.parser();
        let rows = data.iter().map(|datum| match datum {
            Datum::Bytes(bytes) => parser.parse(bytes),
            _ => parser.parse(null.row(0).data()),
        });
        let mut columns = converter.convert_rows(rows)?;
        columns.pop().ok_or_else(|| DataFusionError::Internal("no column".to_owned()))
    }
}

impl Cell {
    /// Takes the value of `row`, `weight` times; NULL changes nothing.
    pub(crate) fn add(&mut self, argument: &Argument, row: usize, weight: i64) {
        match (self, argument) {
            (Self::Count(count), Argument::Every) => *count += weight,
            (Self::Count(count), Argument::Valid(array)) if array.is_valid(row) => *count += weight,
            (Self::Int(sum, count), Argument::Int(values)) if values.is_valid(row) => {
                *sum = sum.wrapping_add(values.value(row).wrapping_mul(weight));
                *count += weight;
            }
            (Self::UInt(sum, count), Argument::UInt(values)) if values.is_valid(row) => {
                *sum = sum.wrapping_add(values.value(row).wrapping_mul(weight.cast_unsigned()));
                *count += weight;
            }
            (Self::Float(sum, count), Argument::Float(values)) if values.is_valid(row) => {
                *sum += values.value(row) * weight as f64;
                *count += weight;
            }
            (Self::Decimal(sum, count), Argument::Decimal(values)) if values.is_valid(row) => {
                *sum = sum.wrapping_add(values.value(row).wrapping_mul(i128::from(weight)));
                *count += weight;
            }
            (Self::Smallest(smallest), Argument::Bytes(rows, array)) if array.is_valid(row) => {
                let value = rows.row(row).data();
                if smallest.as_deref().is_none_or(|smallest| value < smallest) {
                    *smallest = Some(value.into());
                }
            }
            (Self::Largest(largest), Argument::Bytes(rows, array)) if array.is_valid(row) => {
                let value = rows.row(row).data();
                if largest.as_deref().is_none_or(|largest| value > largest) {
                    *largest = Some(value.into());
                }
            }
            (Self::Values(values), Argument::Bytes(rows, array)) if array.is_valid(row) => {
                add_value(values, rows.row(row).data().into(), weight);
            }
            _ => {}
        }
    }

    /// Adds what another cell of the same kind remembers.
    pub(crate) fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::Count(count), Self::Count(more)) => *count += more,
            (Self::Int(sum, count), Self::Int(more, times)) => {
                *sum = sum.wrapping_add(more);
                *count += times;
            }
            (Self::UInt(sum, count), Self::UInt(more, times)) => {
                *sum = sum.wrapping_add(more);
                *count += times;
            }
            (Self::Float(sum, count), Self::Float(more, times)) => {
                *sum += more;
                *count += times;
            }
            (Self::Decimal(sum, count), Self::Decimal(more, times)) => {
                *sum = sum.wrapping_add(more);
                *count += times;
            }
            (Self::Smallest(smallest), Self::Smallest(Some(value)))
                if smallest.as_ref().is_none_or(|smallest| value < *smallest) =>
            {
                *smallest = Some(value);
            }
            (Self::Largest(largest), Self::Largest(Some(value)))
                if largest.as_ref().is_none_or(|largest| value > *largest) =>
            {
                *largest = Some(value);
            }
            (Self::Values(values), Self::Values(more)) => {
                for (value, weight) in more {
                    add_value(values, value, weight);
                }
            }
            _ => {}
        }
    }

    /// Bytes it takes besides itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        /// What a map's node costs per entry, about.
        const ENTRY_BYTES: usize = 48;
        match self {
            Self::Smallest(value) | Self::Largest(value) => value.as_ref().map_or(0, |value| value.len()),
            Self::Values(values) => values.keys().map(|value| value.len() + ENTRY_BYTES).sum(),
            _ => 0,
        }
    }
}

/// Adds to a value's weight; a value of weight 0 is gone.
fn add_value(values: &mut BTreeMap<Box<[u8]>, i64>, value: Box<[u8]>, weight: i64) {
    use std::collections::btree_map::Entry;
    match values.entry(value) {
        Entry::Vacant(entry) => {
            entry.insert(weight);
        }
        Entry::Occupied(mut entry) => {
            *entry.get_mut() += weight;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Types whose order-preserving bytes have the order DataFusion's `min` and `max` use.
fn is_ordered(kind: &DataType) -> bool {
    kind.is_integer()
        || kind.is_floating()
        || matches!(
            kind,
            DataType::Boolean
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::Date32
                | DataType::Date64
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(..)
                | DataType::Decimal128(..)
        )
}

#[cfg(test)]
mod tests {
    use arrow::array::{StringArray, new_null_array};

    use super::*;

    fn shown(accumulator: &Accumulator, batches: &[(ArrayRef, Vec<i64>)]) -> Datum {
        let mut whole = accumulator.empty();
        for (array, weights) in batches {
            let argument = accumulator.argument(Some(Arc::clone(array))).unwrap();
            let mut tick = accumulator.empty();
            for (row, weight) in weights.iter().enumerate() {
                tick.add(&argument, row, *weight);
            }
            let before = accumulator.show(Some(&whole), Some(&tick)).unwrap();
            whole.merge(tick);
            assert_eq!(accumulator.show(Some(&whole), None).unwrap(), before, "looking ahead equals merging");
        }
        accumulator.show(Some(&whole), None).unwrap()
    }

    fn of(kind: Kind, input: DataType, output: DataType) -> Accumulator {
        Accumulator::new(kind, input, output).unwrap().unwrap()
    }

    fn ints(values: &[Option<i64>]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    #[test]
    fn integer_sums_are_wider_and_null_over_nothing() {
        let sum = of(Kind::Sum, DataType::Int32, DataType::Int64);
        let ints = |values: &[Option<i32>]| -> ArrayRef { Arc::new(arrow::array::Int32Array::from(values.to_vec())) };
        assert_eq!(shown(&sum, &[(ints(&[None]), vec![1])]), Datum::Null);
        assert_eq!(shown(&sum, &[(ints(&[Some(i32::MAX), Some(1)]), vec![1, 1])]), Datum::Int(1 << 31));
        assert_eq!(shown(&sum, &[(ints(&[Some(5)]), vec![1]), (ints(&[Some(5)]), vec![-1])]), Datum::Null);
        let numeric = DataType::Decimal128(38, 0);
        let sum = of(Kind::Sum, numeric.clone(), numeric);
        let largest = Decimal128Array::from(vec![i128::from(i64::MAX); 2]).with_precision_and_scale(38, 0).unwrap();
        let twice = Datum::Decimal(2 * i128::from(i64::MAX));
        assert_eq!(shown(&sum, &[(Arc::new(largest), vec![1, 1])]), twice);
    }

    #[test]
    fn a_retracted_extreme_gives_way_to_the_next() {
        let min = of(Kind::Min { retracts: true }, DataType::Int64, DataType::Int64);
        let max = of(Kind::Max { retracts: true }, DataType::Int64, DataType::Int64);
        let values = ints(&[Some(3), Some(9), None, Some(3)]);
        let ticks = [(values, vec![1, 1, 1, 1]), (ints(&[Some(9), Some(3)]), vec![-1, -1])];
        let data = |accumulator: &Accumulator| accumulator.column(vec![shown(accumulator, &ticks)]).unwrap();
        assert_eq!(&data(&min), &ints(&[Some(3)]));
        assert_eq!(&data(&max), &ints(&[Some(3)]));
        let all_gone = [(ints(&[Some(3)]), vec![1]), (ints(&[Some(3)]), vec![-1])];
        assert_eq!(shown(&min, &all_gone), Datum::Null);
    }

    #[test]
    fn distinct_values_count_once_while_they_stand() {
        let count = of(Kind::CountDistinct, DataType::Utf8, DataType::Int64);
        let texts = |values: &[&str]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
        let ticks = [(texts(&["a", "b", "a"]), vec![1, 1, 1]), (texts(&["a", "b", "c"]), vec![-1, -1, 1])];
        assert_eq!(shown(&count, &ticks), Datum::Int(2));
    }

    #[test]
    fn an_average_of_decimals_is_cut_towards_zero_at_four_more_digits() {
        let average = of(Kind::Avg, DataType::Decimal128(10, 2), DataType::Decimal128(14, 6));
        let values = Decimal128Array::from(vec![-100, -100, 0]).with_precision_and_scale(10, 2).unwrap();
        assert_eq!(shown(&average, &[(Arc::new(values), vec![1, 1, 1])]), Datum::Decimal(-666_666));
    }

    #[test]
    fn what_is_not_known_to_equal_a_batch_is_refused() {
        let list = DataType::new_list(DataType::Int64, true);
        assert!(Accumulator::new(Kind::Max { retracts: false }, list.clone(), list).unwrap().is_none());
        assert!(Accumulator::new(Kind::Sum, DataType::Int32, DataType::Int32).unwrap().is_none());
    }

    #[test]
    fn an_extreme_of_nothing_is_null() {
        let max = of(Kind::Max { retracts: false }, DataType::Utf8, DataType::Utf8);
        let column = max.column(vec![Datum::Null]).unwrap();
        assert_eq!(column.to_data(), new_null_array(&DataType::Utf8, 1).to_data());
    }
}
