//! `+`, `-` and `*` of integers as Postgres has them: what does not fit is an error, never another number.

use std::sync::Arc;

use arrow::array::Datum;
use arrow::compute::kernels::numeric::{add, mul, sub};
use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

/// Plans arithmetic of two integers as checked; leaves the rest.
#[derive(Debug)]
pub(super) struct CheckedArithmetic;

impl ExprPlanner for CheckedArithmetic {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let operation = match expr.op {
            BinaryOperator::Plus => Operation::Add,
            BinaryOperator::Minus => Operation::Subtract,
            BinaryOperator::Multiply => Operation::Multiply,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        // A parameter has no type yet; it is left to DataFusion, which infers one.
        let is_integer = |side: &Expr| {
            !matches!(side, Expr::Placeholder(_)) && { side.get_type(schema).is_ok_and(|kind| width(&kind).is_some()) }
        };
        if !is_integer(&expr.left) || !is_integer(&expr.right) {
            return Ok(PlannerResult::Original(expr));
        }
        let function =
            ScalarUDF::new_from_impl(Checked { operation, signature: Signature::any(2, Volatility::Immutable) });
        Ok(PlannerResult::Planned(Arc::new(function).call(vec![expr.left, expr.right])))
    }
}

/// Which of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operation {
    Add,
    Subtract,
    Multiply,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    operation: Operation,
    signature: Signature,
}

/// Bits of a signed integer that holds it.
fn width(kind: &DataType) -> Option<u8> {
    match kind {
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => Some(16),
        DataType::UInt16 | DataType::Int32 => Some(32),
        DataType::UInt32 | DataType::Int64 | DataType::UInt64 => Some(64),
        _ => None,
    }
}

/// The type of a result: the wider of both.
fn common(kinds: &[DataType]) -> DataType {
    match kinds.iter().filter_map(width).max() {
        Some(16) => DataType::Int16,
        Some(32) => DataType::Int32,
        _ => DataType::Int64,
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &'static str {
        match self.operation {
            Operation::Add => "int_pl",
            Operation::Subtract => "int_mi",
            Operation::Multiply => "int_mul",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, kinds: &[DataType]) -> Result<DataType> {
        Ok(common(kinds))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let target = args.return_field.data_type().clone();
        let sides = args.args.iter().map(|side| side.cast_to(&target, None)).collect::<Result<Vec<_>>>()?;
        let kernel = match self.operation {
            Operation::Add => add,
            Operation::Subtract => sub,
            Operation::Multiply => mul,
        };
        let [left, right] = sides.as_slice() else {
            return datafusion::common::exec_err!("{} takes two arguments", self.name());
        };
        let array = match (left, right) {
            (ColumnarValue::Array(left), ColumnarValue::Array(right)) => kernel(left, right)?,
            (ColumnarValue::Array(left), ColumnarValue::Scalar(right)) => {
                kernel(left, &right.to_scalar()? as &dyn Datum)?
            }
            (ColumnarValue::Scalar(left), ColumnarValue::Array(right)) => {
                kernel(&left.to_scalar()? as &dyn Datum, right)?
            }
            (ColumnarValue::Scalar(left), ColumnarValue::Scalar(right)) => {
                let result = kernel(&left.to_scalar()?, &right.to_scalar()?)?;
                return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
            }
        };
        Ok(ColumnarValue::Array(array))
    }
}
