//! Values on their way into a column of another type, as Postgres assigns them: what does not fit is an error, never NULL.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryBuilder};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

use super::literal::bytes_of;
use crate::error::{Error, Result, SqlState};

/// A column in the type it is to have.
///
/// # Errors
/// 22P02, 22003; 42804 where the types have nothing to do with each other.
pub(crate) fn convert(column: &ArrayRef, kind: &DataType) -> Result<ArrayRef> {
    if column.data_type() == kind {
        return Ok(Arc::clone(column));
    }
    let text = matches!(column.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    if text && *kind == DataType::Binary {
        return bytes_of_text(column);
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let whole = if kind.is_integer() { whole(column) } else { Ok(Arc::clone(column)) };
    whole.and_then(|column| cast_with_options(&column, kind, &strict)).map_err(|source| {
        let error = Error::from(DataFusionError::from(source));
        match error.state {
            SqlState::NumericValueOutOfRange
            | SqlState::InvalidTextRepresentation
            | SqlState::InvalidDatetimeFormat
            | SqlState::DatetimeOutOfRange => error,
            _ => Error { state: SqlState::DatatypeMismatch, ..error },
        }
    })
}

/// Numbers on their way to an integer, without their fraction: rounded as Postgres assigns them, floats to even, decimals
/// away from zero. A cast alone would cut it off.
pub(super) fn whole(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match column.data_type() {
        DataType::Float32 => {
            Ok(Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(f32::round_ties_even)))
        }
        DataType::Float64 => {
            Ok(Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(f64::round_ties_even)))
        }
        DataType::Decimal128(_, scale) if *scale > 0 => cast(column, &DataType::Decimal128(38, 0)),
        _ => Ok(Arc::clone(column)),
    }
}

/// Text into bytes as Postgres reads it.
fn bytes_of_text(column: &ArrayRef) -> Result<ArrayRef> {
    let texts = cast(column, &DataType::Utf8).map_err(DataFusionError::from)?;
    let mut bytes = BinaryBuilder::new();
    for text in texts.as_string::<i32>() {
        match text {
            None => bytes.append_null(),
            Some(text) => bytes.append_value(bytes_of(text)?),
        }
    }
    Ok(Arc::new(bytes.finish()))
}
