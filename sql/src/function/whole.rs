//! A number on its way to an integer, without its fraction: rounded as Postgres casts, floats to even, decimals away from
//! zero. Arrow's cast alone would cut it off, and answer another number.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use std::sync::Arc;

/// What a cast to an integer is wrapped around; no client's name.
pub(crate) const WHOLE: &str = "nearest_whole";

/// See the head of this file. Of anything but a number with a fraction it is the value itself.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Whole {
    signature: Signature,
}

impl Whole {
    pub(super) fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

/// The type of the result.
fn whole_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Decimal128(_, scale) if *scale > 0 => DataType::Decimal128(38, 0),
        kind => kind.clone(),
    }
}

fn has_fraction(kind: &DataType) -> bool {
    matches!(kind, DataType::Float32 | DataType::Float64) || whole_type(kind) != *kind
}

fn whole(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Float32 => {
            Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(f32::round_ties_even))
        }
        DataType::Float64 => {
            Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(f64::round_ties_even))
        }
        kind if has_fraction(kind) => cast(column, &whole_type(kind))?,
        _ => Arc::clone(column),
    })
}

impl ScalarUDFImpl for Whole {
    fn name(&self) -> &'static str {
        WHOLE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, kinds: &[DataType]) -> Result<DataType> {
        Ok(kinds.first().map_or(DataType::Null, whole_type))
    }

    /// Where there is no fraction there is nothing to do, and filters behind it prune.
    fn simplify(&self, mut arguments: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match arguments.pop() {
            Some(value) if arguments.is_empty() && !has_fraction(&info.get_data_type(&value)?) => {
                Ok(ExprSimplifyResult::Simplified(value))
            }
            value => Ok(ExprSimplifyResult::Original(arguments.into_iter().chain(value).collect())),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = args.args.as_slice() else {
            return datafusion::common::exec_err!("{WHOLE} takes one argument");
        };
        Ok(match value {
            ColumnarValue::Array(column) => ColumnarValue::Array(whole(column)?),
            ColumnarValue::Scalar(value) => {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&whole(&value.to_array()?)?, 0)?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Float64Array};

    use super::*;

    #[test]
    fn floats_go_to_even_and_decimals_away_from_zero() {
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![Some(2.5), Some(3.5), Some(-0.5), Some(1.2), None]));
        let rounded = whole(&floats).unwrap();
        assert_eq!(
            rounded.as_primitive::<Float64Type>().iter().collect::<Vec<_>>(),
            [Some(2.0), Some(4.0), Some(-0.0), Some(1.0), None]
        );
        let decimals = Decimal128Array::from(vec![25, -25, 24]).with_precision_and_scale(3, 1).unwrap();
        let rounded = whole(&(Arc::new(decimals) as ArrayRef)).unwrap();
        let digits: Vec<_> = rounded.as_any().downcast_ref::<Decimal128Array>().unwrap().values().to_vec();
        assert_eq!(digits, [3, -3, 2]);
    }
}
