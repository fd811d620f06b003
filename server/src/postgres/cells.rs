//! `Cells`: a column of a batch, brought to one of few Arrow types, so that each encoder has one case per kind of value.

use std::sync::Arc;

use aquifer_sql::error::{Error, Result, SqlState};
use aquifer_sql::written::interval_of_duration;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, Float32Array,
    Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, LargeStringArray, ListArray,
    StringArray, StringViewArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};

/// A column by kind of value.
#[derive(Debug)]
pub(crate) enum Cells {
    Null,
    Bool(BooleanArray),
    Int16(Int16Array),
    Int32(Int32Array),
    Int64(Int64Array),
    Oid(UInt32Array),
    Float32(Float32Array),
    Float64(Float64Array),
    Decimal128(Decimal128Array, i8),
    Decimal256(Decimal256Array, i8),
    Text(StringArray),
    LargeText(LargeStringArray),
    TextView(StringViewArray),
    Bytes(BinaryArray),
    Date(Date32Array),
    Time(Time64MicrosecondArray),
    Timestamp(TimestampMicrosecondArray),
    TimestampTz(TimestampMicrosecondArray),
    Interval(IntervalMonthDayNanoArray),
    /// Its offsets and its items.
    List(ListArray, Box<Cells>),
    /// STRUCT, MAP and lists of those.
    Json(ArrayRef),
}

impl Cells {
    /// Sorts a column by kind.
    ///
    /// # Errors
    /// 22003 where a time does not fit into microseconds.
    pub(crate) fn of(array: &ArrayRef) -> Result<Self> {
        let cells = match array.data_type() {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Bool(array.as_boolean().clone()),
            DataType::Int16 => Self::Int16(array.as_primitive().clone()),
            DataType::Int32 => Self::Int32(array.as_primitive().clone()),
            DataType::Int64 => Self::Int64(array.as_primitive().clone()),
            DataType::UInt32 => Self::Oid(array.as_primitive().clone()),
            DataType::Float32 => Self::Float32(array.as_primitive().clone()),
            DataType::Float64 => Self::Float64(array.as_primitive().clone()),
            DataType::Decimal128(_, scale) => Self::Decimal128(array.as_primitive().clone(), *scale),
            DataType::Decimal256(_, scale) => Self::Decimal256(array.as_primitive().clone(), *scale),
            DataType::Utf8 => Self::Text(array.as_string().clone()),
            DataType::LargeUtf8 => Self::LargeText(array.as_string().clone()),
            DataType::Utf8View => Self::TextView(array.as_string_view().clone()),
            DataType::Binary => Self::Bytes(array.as_binary().clone()),
            DataType::Date32 => Self::Date(array.as_primitive().clone()),
            DataType::Time64(TimeUnit::Microsecond) => Self::Time(array.as_primitive().clone()),
            DataType::Timestamp(TimeUnit::Microsecond, None) => Self::Timestamp(array.as_primitive().clone()),
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => Self::TimestampTz(array.as_primitive().clone()),
            DataType::Interval(IntervalUnit::MonthDayNano) => Self::Interval(array.as_primitive().clone()),
            DataType::Duration(_) => Self::Interval(interval_of_duration(array)?.as_primitive().clone()),
            DataType::List(item) if !is_json(item.data_type()) => {
                let list: &ListArray = array.as_list();
                Self::List(list.clone(), Box::new(Self::of(list.values())?))
            }
            _ => match canonical(array.data_type()) {
                Some(wanted) => Self::of(&cast(array, &wanted)?)?,
                None => Self::Json(Arc::clone(array)),
            },
        };
        Ok(cells)
    }

    /// Whether the row has no value.
    pub(crate) fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(array) => array.is_null(row),
            Self::Int16(array) => array.is_null(row),
            Self::Int32(array) => array.is_null(row),
            Self::Int64(array) => array.is_null(row),
            Self::Oid(array) => array.is_null(row),
            Self::Float32(array) => array.is_null(row),
            Self::Float64(array) => array.is_null(row),
            Self::Decimal128(array, _) => array.is_null(row),
            Self::Decimal256(array, _) => array.is_null(row),
            Self::Text(array) => array.is_null(row),
            Self::LargeText(array) => array.is_null(row),
            Self::TextView(array) => array.is_null(row),
            Self::Bytes(array) => array.is_null(row),
            Self::Date(array) => array.is_null(row),
            Self::Time(array) => array.is_null(row),
            Self::Timestamp(array) | Self::TimestampTz(array) => array.is_null(row),
            Self::Interval(array) => array.is_null(row),
            Self::List(array, _) => array.is_null(row),
            Self::Json(array) => array.is_null(row),
        }
    }

    /// The text of a text value.
    pub(crate) fn text(&self, row: usize) -> Option<&str> {
        match self {
            Self::Text(array) => Some(array.value(row)),
            Self::LargeText(array) => Some(array.value(row)),
            Self::TextView(array) => Some(array.value(row)),
            _ => None,
        }
    }

    /// The number of an integer.
    pub(crate) fn integer(&self, row: usize) -> Option<i64> {
        match self {
            Self::Int16(array) => Some(array.value(row).into()),
            Self::Int32(array) => Some(array.value(row).into()),
            Self::Int64(array) => Some(array.value(row)),
            Self::Oid(array) => Some(array.value(row).into()),
            _ => None,
        }
    }
}

/// Where a list's items lie.
pub(crate) fn items(list: &ListArray, row: usize) -> std::ops::Range<usize> {
    let offsets = list.value_offsets();
    let at = |index: usize| offsets.get(index).and_then(|offset| usize::try_from(*offset).ok()).unwrap_or(0);
    at(row)..at(row + 1)
}

fn is_json(item: &DataType) -> bool {
    match item {
        DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) => true,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            is_json(item.data_type())
        }
        _ => false,
    }
}

/// The one of few types that stands for this one.
fn canonical(arrow: &DataType) -> Option<DataType> {
    Some(match arrow {
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Date64 => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Interval(_) => DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        DataType::RunEndEncoded(_, value) => value.data_type().clone(),
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) if !is_json(item.data_type()) => {
            DataType::List(Arc::new(Field::new_list_field(item.data_type().clone(), true)))
        }
        _ => return None,
    })
}

fn cast(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, wanted, &strict).map_err(|error| {
        let arrow = array.data_type();
        Error::new(SqlState::NumericValueOutOfRange, format!("a value of type {arrow} cannot be sent: {error}"))
            .with_hint("cast it to text in the query")
    })
}
