//! `->` and `->>`: a field of a STRUCT or MAP as ksqlDB has it, a value of JSON text as Postgres has it.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::functions::core::expr_ext::FieldAccessor;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, cast};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use datafusion_functions_json::udfs::{json_as_text_udf, json_get_json_udf};

use super::is_struct;

/// See the head of this file. JSON stays text (`'{"a": 1}' -> 'a'` is `1`), so that a cast reads it and a client sees it.
#[derive(Debug)]
pub(super) struct Arrows;

impl ExprPlanner for Arrows {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let as_text = match expr.op {
            BinaryOperator::Arrow => false,
            BinaryOperator::LongArrow => true,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let kind = expr.left.get_type(schema)?;
        if is_struct(&kind) {
            if let Expr::Literal(ScalarValue::Utf8(Some(name)), _) = &expr.right {
                let field = expr.left.field(name.as_str());
                return Ok(PlannerResult::Planned(if as_text { cast(field, DataType::Utf8) } else { field }));
            }
            return Ok(PlannerResult::Original(expr));
        }
        let function = if as_text { json_as_text_udf() } else { json_get_json_udf() };
        Ok(PlannerResult::Planned(function.call(vec![expr.left, expr.right])))
    }
}
