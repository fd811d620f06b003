//! Arithmetic of floats as Postgres has it: no division by zero, no logarithm of nothing, no overflow without a word,
//! halves to the even side.

use std::sync::Arc;

use arrow::array::{AsArray, Float32Array, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};

use super::scalar::Definition;
use crate::error::{Error, SqlState};

/// `/` where one side is a float.
pub(super) static DIVIDE: Definition = Definition {
    name: "float8_div",
    takes: |kinds| match kinds {
        [DataType::Float32, DataType::Float32] => Some(vec![DataType::Float32; 2]),
        [one, other] if is_number(one) && is_number(other) => Some(vec![DataType::Float64; 2]),
        _ => None,
    },
    gives: |kinds| match kinds {
        [DataType::Float32, ..] => (DataType::Float32, None),
        _ => (DataType::Float64, None),
    },
    rows: |arguments, _| {
        let by_zero = || Error::new(SqlState::DivisionByZero, "division by zero");
        if *arguments[0].data_type() == DataType::Float32 {
            let (left, right) =
                (arguments[0].as_primitive::<Float32Type>(), arguments[1].as_primitive::<Float32Type>());
            let divided = left.iter().zip(right).map(|pair| match pair {
                (Some(_), Some(0.0)) => Err(by_zero()),
                (Some(left), Some(right)) => Ok(Some(left / right)),
                _ => Ok(None),
            });
            return Ok(Arc::new(divided.collect::<std::result::Result<Float32Array, _>>()?));
        }
        let (left, right) = (arguments[0].as_primitive::<Float64Type>(), arguments[1].as_primitive::<Float64Type>());
        let divided = left.iter().zip(right).map(|pair| match pair {
            (Some(_), Some(0.0)) => Err(by_zero()),
            (Some(left), Some(right)) => {
                let quotient = left / right;
                if quotient.is_infinite() && left.is_finite() { Err(overflow()) } else { Ok(Some(quotient)) }
            }
            _ => Ok(None),
        });
        Ok(Arc::new(divided.collect::<std::result::Result<Float64Array, _>>()?))
    },
};

/// The argument of a logarithm.
pub(super) static LOGARITHM_OF: Definition = Definition {
    name: "logarithm_of",
    takes: |kinds| (kinds.len() == 1 && is_number(&kinds[0])).then(|| kinds.to_vec()),
    gives: |kinds| (kinds.first().cloned().unwrap_or(DataType::Float64), None),
    rows: |arguments, _| {
        let numbers = cast(&arguments[0], &DataType::Float64)?;
        for number in numbers.as_primitive::<Float64Type>().iter().flatten() {
            if number <= 0.0 {
                let what = if number == 0.0 { "zero" } else { "a negative number" };
                let message = format!("cannot take logarithm of {what}");
                return Err(Error::new(SqlState::InvalidArgumentForLogarithm, message).into());
            }
        }
        Ok(Arc::clone(&arguments[0]))
    },
};

/// What a function of finite numbers gives.
pub(super) static FINITE: Definition = Definition {
    name: "finite",
    takes: |kinds| (kinds.len() == 1 && is_number(&kinds[0])).then(|| kinds.to_vec()),
    gives: |kinds| (kinds.first().cloned().unwrap_or(DataType::Float64), None),
    rows: |arguments, _| {
        if let Some(numbers) = arguments[0].as_primitive_opt::<Float64Type>()
            && numbers.iter().flatten().any(f64::is_infinite)
        {
            return Err(overflow().into());
        }
        Ok(Arc::clone(&arguments[0]))
    },
};

/// `round(x)`: floats to the even side, decimals away from zero.
pub(super) static ROUND: Definition = Definition {
    name: "nearest",
    takes: |kinds| match kinds {
        [kind @ (DataType::Float32 | DataType::Float64)] => Some(vec![kind.clone()]),
        [kind @ DataType::Decimal128(..)] => Some(vec![kind.clone()]),
        [kind] if is_number(kind) => Some(vec![DataType::Float64]),
        _ => None,
    },
    gives: |kinds| (kinds.first().map_or(DataType::Float64, rounded_as), None),
    rows: |arguments, _| {
        Ok(match arguments[0].data_type() {
            DataType::Float32 => {
                Arc::new(arguments[0].as_primitive::<Float32Type>().unary::<_, Float32Type>(f32::round_ties_even))
            }
            DataType::Float64 => {
                Arc::new(arguments[0].as_primitive::<Float64Type>().unary::<_, Float64Type>(f64::round_ties_even))
            }
            kind => cast(&arguments[0], &rounded_as(kind))?,
        })
    },
};

/// The argument of `chr`.
pub(super) static CHARACTER: Definition = Definition {
    name: "character_code",
    takes: |kinds| (kinds.len() == 1 && (kinds[0].is_integer() || kinds[0].is_null())).then(|| vec![DataType::Int64]),
    gives: |_| (DataType::Int64, None),
    rows: |arguments, _| {
        if arguments[0].as_primitive::<Int64Type>().iter().flatten().any(|code| code == 0) {
            return Err(Error::new(SqlState::ProgramLimitExceeded, "null character not permitted").into());
        }
        Ok(Arc::clone(&arguments[0]))
    },
};

fn is_number(kind: &DataType) -> bool {
    kind.is_numeric() || kind.is_null()
}

fn rounded_as(kind: &DataType) -> DataType {
    match kind {
        DataType::Decimal128(precision, scale) => {
            // One more digit, for 9.5 becomes 10.
            let whole = precision.saturating_sub(scale.unsigned_abs()).saturating_add(1);
            DataType::Decimal128(whole.clamp(1, 38), 0)
        }
        kind => kind.clone(),
    }
}

fn overflow() -> Error {
    Error::new(SqlState::NumericValueOutOfRange, "value out of range: overflow")
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, ArrayRef};

    use super::*;

    #[test]
    fn halves_of_floats_go_to_the_even_side() {
        let halves: ArrayRef = Arc::new(Float64Array::from(vec![2.5, 3.5, -0.5, -2.5]));
        let rounded = (ROUND.rows)(&[halves], 4).unwrap();
        assert_eq!(rounded.as_primitive::<Float64Type>().values(), &[2.0, 4.0, -0.0, -2.0]);
    }

    #[test]
    fn a_null_is_divided_by_nothing() {
        let left: ArrayRef = Arc::new(Float64Array::from(vec![None, Some(1.0)]));
        let right: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.0), None]));
        assert_eq!((DIVIDE.rows)(&[left, right], 2).unwrap().null_count(), 2);
    }
}
