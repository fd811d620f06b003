//! `->` and `->>`: a field of a STRUCT or MAP as ksqlDB has it, a value of JSON text as Postgres has it; and Postgres's
//! operators that test JSON.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::functions::core::expr_ext::FieldAccessor;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, cast, lit};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use datafusion_functions_json::udfs::{json_as_text_udf, json_get_json_udf};

use super::is_struct;
use super::json_text;
use super::jsonb::{Kind, function};
use crate::error::Error;

/// What to do without JSON paths.
const NO_PATHS: &str = "use -> and #> to go into JSON, @> and ? to test it, jsonb_array_elements to unfold it";

/// See the head of this file. JSON stays text (`'{"a": 1}' -> 'a'` is `1`), so that a cast reads it and a client sees it.
#[derive(Debug)]
pub(super) struct Arrows;

impl ExprPlanner for Arrows {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        if let Some(kind) = test_of(&expr.op) {
            return plan_test(kind, expr, schema);
        }
        let (as_text, is_path) = match expr.op {
            BinaryOperator::Arrow => (false, false),
            BinaryOperator::LongArrow => (true, false),
            BinaryOperator::HashArrow => (false, true),
            BinaryOperator::HashLongArrow => (true, true),
            BinaryOperator::AtQuestion | BinaryOperator::AtAt => {
                return Err(Error::unsupported(format!("{} (a JSON path)", expr.op)).with_hint(NO_PATHS).into());
            }
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
        let mut arguments = steps_before(expr.left);
        match (&expr.right, is_path) {
            (Expr::Literal(ScalarValue::Utf8(Some(path)), _), true) => arguments.extend(path_of(path)),
            (_, true) => {
                return Err(Error::unsupported("#> with a computed path")
                    .with_hint("write the path as a text: doc #> '{a,b}'")
                    .into());
            }
            (_, false) => arguments.push(step_of(expr.right)),
        }
        if as_text && arguments.split_first().is_some_and(|(_, steps)| json_text::are_keys(steps)) {
            return Ok(PlannerResult::Planned(json_text::call(arguments)));
        }
        Ok(PlannerResult::Planned(function.call(arguments)))
    }
}

/// A step into a document; a parameter of no type is the text that Postgres takes it for.
fn step_of(step: Expr) -> Expr {
    match step {
        Expr::Placeholder(Placeholder { id, field: None }) => {
            let text = Arc::new(Field::new("step", DataType::Utf8, true));
            Expr::Placeholder(Placeholder { id, field: Some(text) })
        }
        step => step,
    }
}

/// The document and the way into it so far: `doc->'a'->'b'` is read in one go.
fn steps_before(left: Expr) -> Vec<Expr> {
    match left {
        Expr::ScalarFunction(call)
            if call.func == json_get_json_udf()
                && call.args.iter().skip(1).all(|step| matches!(step, Expr::Literal(..))) =>
        {
            call.args
        }
        other => vec![other],
    }
}

/// The function behind an operator that tests JSON.
fn test_of(operator: &BinaryOperator) -> Option<Kind> {
    match operator {
        BinaryOperator::AtArrow | BinaryOperator::ArrowAt => Some(Kind::Contains),
        BinaryOperator::Question => Some(Kind::Exists),
        BinaryOperator::QuestionPipe => Some(Kind::ExistsAny),
        BinaryOperator::QuestionAnd => Some(Kind::ExistsAll),
        _ => None,
    }
}

/// `@>`, `<@`, `?`, `?|` and `?&` over JSON text; over arrays `@>` and `<@` stay DataFusion's.
fn plan_test(kind: Kind, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
    let is_text = |side: &Expr| -> Result<bool> {
        Ok(matches!(side, Expr::Placeholder(_))
            || matches!(
                side.get_type(schema)?,
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null
            ))
    };
    if !is_text(&expr.left)? || (kind == Kind::Contains && !is_text(&expr.right)?) {
        return Ok(PlannerResult::Original(expr));
    }
    let right = match (&expr.right, kind) {
        // '{a,b}' is how Postgres writes a list as text.
        (Expr::Literal(ScalarValue::Utf8(Some(list)), _), Kind::ExistsAny | Kind::ExistsAll) => {
            datafusion::functions_nested::expr_fn::make_array(names_of(list).map(lit).collect())
        }
        _ => expr.right,
    };
    let arguments = if expr.op == BinaryOperator::ArrowAt { vec![right, expr.left] } else { vec![expr.left, right] };
    Ok(PlannerResult::Planned(function(kind).call(arguments)))
}

/// The items of `{a,b}`.
pub(super) fn names_of(list: &str) -> impl Iterator<Item = &str> {
    let inside = list.trim().trim_start_matches('{').trim_end_matches('}');
    inside.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty())
}

/// `{a,0,b}` as keys; a number is an index, as Postgres has it for arrays.
fn path_of(path: &str) -> Vec<Expr> {
    let inside = path.trim().trim_start_matches('{').trim_end_matches('}');
    let keys = inside.split(',').map(str::trim).filter(|key| !key.is_empty());
    keys.map(|key| key.parse::<i64>().map_or_else(|_| lit(key.trim_matches('"')), lit)).collect()
}
