//! A group's values, counted: most columns have few different ones beside their rows.
//!
//! Values come loose; once there are many they are put in order and join those that are counted, each once with how often it
//! came. Where most are different, counting would only cost: from then on they stay loose, and the ones asked for are
//! selected among them.

use std::cmp::Ordering;
use std::fmt::Debug;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::error::Result;

/// Loose values before they are counted.
const LOOSE_MAX: usize = 64 << 10;

/// Counted values are made loose if that makes at most so many times as many of them.
const SCATTER_MAX: u64 = 2;

/// What an allocation takes beside its bytes.
const ALLOCATION_BYTES: usize = 16;

/// A value as something that has its order.
pub(super) trait Rank: Ord + Clone + Debug + Send + Sync + 'static {
    /// Bytes it has outside of itself.
    fn bytes(&self) -> usize;
}

impl Rank for u64 {
    fn bytes(&self) -> usize {
        0
    }
}

impl Rank for Box<[u8]> {
    fn bytes(&self) -> usize {
        self.len() + ALLOCATION_BYTES
    }
}

/// Values of one type to ranks and back.
pub(super) trait Codec: Debug + Send + Sync + 'static {
    type Rank: Rank;
    /// A column made ready.
    type Column;

    /// Makes a column of values ready.
    fn column(&self, values: &ArrayRef) -> Result<Self::Column>;

    /// Rank of a row's value; `None` if it is null.
    fn rank(column: &Self::Column, row: usize) -> Option<Self::Rank>;

    /// The value between two, `weight` of the way from the first one.
    fn between(&self, before: &Self::Rank, behind: &Self::Rank, weight: f64) -> Self::Rank;

    /// Values as a column.
    fn array(&self, ranks: impl Iterator<Item = Option<Self::Rank>>) -> Result<ArrayRef>;
}

/// Numbers and times, each in 64 bits.
#[derive(Debug)]
pub(super) struct Numbers {
    kind: DataType,
}

/// A column of [`Numbers`].
#[derive(Debug)]
pub(super) enum NumberColumn {
    Whole(Int64Array),
    Float(Float64Array),
}

const SIGN: u64 = 1 << 63;

/// In the order of floats as Postgres has it: zeros are equal, and NaN is the largest.
fn rank_of_float(value: f64) -> u64 {
    let bits = if value.is_nan() { f64::NAN.to_bits() & !SIGN } else { (value + 0.0).to_bits() };
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

fn float_of_rank(rank: u64) -> f64 {
    f64::from_bits(if rank & SIGN == 0 { !rank } else { rank & !SIGN })
}

impl Numbers {
    /// Of this type; `None` if it is another kind of values.
    pub(super) fn of(kind: &DataType) -> Option<Self> {
        let is_number = matches!(
            kind,
            DataType::Int8
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::Float32
                | DataType::Float64
                | DataType::Date32
                | DataType::Date64
                | DataType::Time64(_)
                | DataType::Timestamp(..)
        );
        is_number.then(|| Self { kind: kind.clone() })
    }

    fn is_float(&self) -> bool {
        self.kind.is_floating()
    }
}

impl Codec for Numbers {
    type Rank = u64;
    type Column = NumberColumn;

    fn column(&self, values: &ArrayRef) -> Result<NumberColumn> {
        Ok(if self.is_float() {
            NumberColumn::Float(cast(values, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
        } else {
            NumberColumn::Whole(cast(values, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
        })
    }

    fn rank(column: &NumberColumn, row: usize) -> Option<u64> {
        match column {
            NumberColumn::Float(values) => values.is_valid(row).then(|| rank_of_float(values.value(row))),
            NumberColumn::Whole(values) => values.is_valid(row).then(|| values.value(row).cast_unsigned() ^ SIGN),
        }
    }

    fn between(&self, before: &u64, behind: &u64, weight: f64) -> u64 {
        if before == behind || !self.is_float() {
            return *before;
        }
        let (before, behind) = (float_of_rank(*before), float_of_rank(*behind));
        rank_of_float(before + weight * (behind - before))
    }

    fn array(&self, ranks: impl Iterator<Item = Option<u64>>) -> Result<ArrayRef> {
        Ok(if self.is_float() {
            let values: Float64Array = ranks.map(|rank| rank.map(float_of_rank)).collect();
            cast(&values, &self.kind)?
        } else {
            let values: Int64Array = ranks.map(|rank| rank.map(|rank| (rank ^ SIGN).cast_signed())).collect();
            cast(&values, &self.kind)?
        })
    }
}

/// Values of any type, as bytes that have their order.
#[derive(Debug)]
pub(super) struct Bytes {
    converter: RowConverter,
    /// A null.
    null: Box<[u8]>,
}

/// A column of [`Bytes`].
#[derive(Debug)]
pub(super) struct ByteColumn {
    rows: Rows,
    nulls: Option<NullBuffer>,
}

impl Bytes {
    /// Of this type.
    ///
    /// # Errors
    /// A type that has no order.
    pub(super) fn of(kind: &DataType) -> Result<Self> {
        let converter = RowConverter::new(vec![SortField::new(kind.clone())])?;
        let null = converter.convert_columns(&[new_null_array(kind, 1)])?.row(0).as_ref().into();
        Ok(Self { converter, null })
    }
}

impl Codec for Bytes {
    type Rank = Box<[u8]>;
    type Column = ByteColumn;

    fn column(&self, values: &ArrayRef) -> Result<ByteColumn> {
        let rows = self.converter.convert_columns(std::slice::from_ref(values))?;
        Ok(ByteColumn { rows, nulls: values.logical_nulls() })
    }

    fn rank(column: &ByteColumn, row: usize) -> Option<Box<[u8]>> {
        let is_null = column.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
        (!is_null).then(|| Box::from(column.rows.row(row).as_ref()))
    }

    fn between(&self, before: &Box<[u8]>, _behind: &Box<[u8]>, _weight: f64) -> Box<[u8]> {
        before.clone()
    }

    fn array(&self, ranks: impl Iterator<Item = Option<Box<[u8]>>>) -> Result<ArrayRef> {
        let ranks: Vec<_> = ranks.collect();
        let parser = self.converter.parser();
        let rows = ranks.iter().map(|rank| parser.parse(rank.as_ref().unwrap_or(&self.null)));
        let mut columns = self.converter.convert_rows(rows)?;
        Ok(columns.remove(0))
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Values<R> {
    loose: Vec<R>,
    /// In order, each once, with how often it came.
    counted: Vec<(R, u64)>,
    counted_total: u64,
    /// Counting does not pay.
    scattered: bool,
    /// What ranks have outside of themselves.
    outside_bytes: usize,
}

impl<R> Default for Values<R> {
    fn default() -> Self {
        Self { loose: Vec::new(), counted: Vec::new(), counted_total: 0, scattered: false, outside_bytes: 0 }
    }
}

impl<R: Rank> Values<R> {
    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.counted_total + self.loose.len() as u64
    }

    /// What they take beside themselves.
    pub(super) fn bytes(&self) -> usize {
        self.loose.capacity() * size_of::<R>() + self.counted.capacity() * size_of::<(R, u64)>() + self.outside_bytes
    }

    /// Takes one in.
    pub(super) fn push(&mut self, rank: R) {
        self.outside_bytes += rank.bytes();
        self.loose.push(rank);
        if self.loose.len() >= LOOSE_MAX.max(self.counted.len()) && !self.scattered {
            self.count();
            self.scattered = 2 * self.counted.len() as u64 > self.counted_total;
        }
    }

    /// Takes in values that are in order, each once, with how often it came.
    pub(super) fn add_runs(&mut self, runs: Vec<(R, u64)>) {
        self.outside_bytes += runs.iter().map(|(rank, _)| rank.bytes()).sum::<usize>();
        self.join(runs);
    }

    /// The same of values whose bytes are known.
    fn join(&mut self, runs: Vec<(R, u64)>) {
        if runs.is_empty() {
            return;
        }
        self.counted_total += runs.iter().map(|(_, count)| count).sum::<u64>();
        if self.counted.is_empty() {
            self.counted = runs;
            return;
        }
        let (merged, twice_bytes) = merged(std::mem::take(&mut self.counted), runs);
        self.counted = merged;
        self.outside_bytes -= twice_bytes.min(self.outside_bytes);
    }

    /// Counts what is loose.
    fn count(&mut self) {
        let mut loose = std::mem::take(&mut self.loose);
        loose.sort_unstable();
        let (mut runs, mut twice_bytes): (Vec<(R, u64)>, _) = (Vec::new(), 0);
        for rank in loose.drain(..) {
            match runs.last_mut() {
                Some((last, count)) if *last == rank => {
                    *count += 1;
                    twice_bytes += rank.bytes();
                }
                _ => runs.push((rank, 1)),
            }
        }
        self.loose = loose;
        self.outside_bytes -= twice_bytes.min(self.outside_bytes);
        self.join(runs);
    }

    /// Whether they are best looked at one by one: most of them are different, whatever came counted from elsewhere.
    fn is_scattered(&self) -> bool {
        let different_max = self.counted.len() as u64 + self.loose.len() as u64;
        self.scattered && self.len() <= SCATTER_MAX * different_max
    }

    /// Those at these places in ascending order; the places ascend and are among them.
    pub(super) fn at(&mut self, places: &[u64]) -> Vec<R> {
        if !self.is_scattered() {
            self.count();
            return self.counted_at(places);
        }
        self.scatter();
        let mut found = Vec::with_capacity(places.len());
        // What lies before the last one found is no larger than that.
        let mut from = 0;
        for place in places.iter().filter_map(|place| usize::try_from(*place).ok()) {
            let (_, rank, _) = self.loose[from..].select_nth_unstable(place - from);
            found.push(rank.clone());
            from = place;
        }
        found
    }

    fn counted_at(&self, places: &[u64]) -> Vec<R> {
        let mut places = places.iter().peekable();
        let mut found = Vec::with_capacity(places.len());
        let mut end = 0;
        for (rank, count) in &self.counted {
            end += count;
            while places.next_if(|place| **place < end).is_some() {
                found.push(rank.clone());
            }
        }
        found
    }

    /// Makes all that are counted loose.
    fn scatter(&mut self) {
        for (rank, count) in self.counted.drain(..) {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            self.loose.extend(std::iter::repeat_n(rank, count));
        }
        self.counted_total = 0;
    }

    /// The one that came most often, of several the first in order.
    pub(super) fn most_frequent(&mut self, descending: bool) -> Option<R> {
        // As far as it was looked through: the best, and how often it came.
        let mut best: Option<(&R, u64)> = None;
        let mut look = |rank, count: u64| {
            if best.is_none_or(|(_, most)| count > most || (count == most && descending)) {
                best = Some((rank, count));
            }
        };
        if self.is_scattered() {
            self.scatter();
            self.loose.sort_unstable();
            self.loose.chunk_by(|one, next| one == next).for_each(|same| look(&same[0], same.len() as u64));
        } else {
            self.count();
            self.counted.iter().for_each(|(rank, count)| look(rank, *count));
        }
        best.map(|(rank, _)| rank.clone())
    }

    /// How many values they give to a state, and how many counts.
    pub(super) fn state_lengths(&self) -> (usize, usize) {
        (self.counted.len() + self.loose.len(), self.counted.len())
    }

    /// How often those came that are counted.
    pub(super) fn counts(&self) -> impl Iterator<Item = i64> {
        self.counted.iter().map(|(_, count)| i64::try_from(*count).unwrap_or(i64::MAX))
    }

    /// Those that are counted, each once, before those that are loose.
    pub(super) fn into_ranks(self) -> impl Iterator<Item = R> {
        self.counted.into_iter().map(|(rank, _)| rank).chain(self.loose)
    }
}

/// Two lists in order as one, and the outside bytes of what both had.
fn merged<R: Rank>(left: Vec<(R, u64)>, right: Vec<(R, u64)>) -> (Vec<(R, u64)>, usize) {
    let (mut merged, mut twice_bytes) = (Vec::with_capacity(left.len().max(right.len())), 0);
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some((left, _)), Some((right, _))) => left.cmp(right),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return (merged, twice_bytes),
        };
        let mut next = if order == Ordering::Greater { right.next() } else { left.next() };
        if let (Some((rank, count)), Ordering::Equal) = (&mut next, order) {
            *count += right.next().map_or(0, |(_, more)| more);
            twice_bytes += rank.bytes();
        }
        merged.extend(next);
    }
}
