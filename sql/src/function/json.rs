//! `->` and `->>`: a field of a STRUCT or MAP as ksqlDB has it, a value of JSON text as Postgres has it.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::functions::core::expr_ext::FieldAccessor;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, cast, lit};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use datafusion_functions_json::udfs::{json_as_text_udf, json_get_json_udf};

use super::is_struct;
use crate::error::Error;

/// See the head of this file. JSON stays text (`'{"a": 1}' -> 'a'` is `1`), so that a cast reads it and a client sees it.
#[derive(Debug)]
pub(super) struct Arrows;

impl ExprPlanner for Arrows {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let (as_text, is_path) = match expr.op {
            BinaryOperator::Arrow => (false, false),
            BinaryOperator::LongArrow => (true, false),
            BinaryOperator::HashArrow => (false, true),
            BinaryOperator::HashLongArrow => (true, true),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let kind = expr.left.get_type(schema)?;
        if is_struct(&kind) {
            // A column of the same name is not meant: a field's name is never computed.
            let name = match &expr.right {
                Expr::Literal(ScalarValue::Utf8(Some(name)), _) => Some(name),
                Expr::Column(column) => Some(&column.name),
                _ => None,
            };
            if let Some(name) = name {
                let field = expr.left.field(name.as_str());
                return Ok(PlannerResult::Planned(if as_text { cast(field, DataType::Utf8) } else { field }));
            }
            return Ok(PlannerResult::Original(expr));
        }
        let function = if as_text { json_as_text_udf() } else { json_get_json_udf() };
        let mut arguments = vec![expr.left];
        match (&expr.right, is_path) {
            (Expr::Literal(ScalarValue::Utf8(Some(path)), _), true) => arguments.extend(path_of(path)),
            (_, true) => {
                return Err(Error::unsupported("#> with a computed path")
                    .with_hint("write the path as a text: doc #> '{a,b}'")
                    .into());
            }
            (_, false) => arguments.push(expr.right),
        }
        Ok(PlannerResult::Planned(function.call(arguments)))
    }
}

/// `{a,0,b}` as keys; a number is an index, as Postgres has it for arrays.
fn path_of(path: &str) -> Vec<Expr> {
    let inside = path.trim().trim_start_matches('{').trim_end_matches('}');
    let keys = inside.split(',').map(str::trim).filter(|key| !key.is_empty());
    keys.map(|key| key.parse::<i64>().map_or_else(|_| lit(key.trim_matches('"')), lit)).collect()
}
