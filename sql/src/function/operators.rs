//! Operators whose meaning depends on types that DataFusion takes for others: jsonb and uuid, which are text to it,
//! intervals, floats, dates.

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::functions_nested::expr_fn::array_has_any;
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, binary_expr, cast, lit};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use datafusion_functions_json::udfs::json_get_json_udf;

use super::scalar::{Definition, defined, is_text, means};
use super::text::uuid_of;
use super::{interval, jsonb_edit, number, text};

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Operators;

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let is_parameter = |side: &Expr| matches!(side, Expr::Placeholder(_));
        if is_parameter(&expr.left) && is_parameter(&expr.right) {
            return Ok(PlannerResult::Original(expr));
        }
        // What has no type yet is told by who resolves it.
        let (Ok(left), Ok(right)) = (Side::of(&expr.left, schema), Side::of(&expr.right, schema)) else {
            return Ok(PlannerResult::Original(expr));
        };
        let planned = match comparison(&expr.op) {
            Some(operator) => compared(operator, &expr, &left, &right)?,
            None => match expr.op {
                BinaryOperator::StringConcat => joined(&expr, &left, &right),
                BinaryOperator::Minus if left.is_jsonb => Some(call(&jsonb_edit::DELETE, [&expr.left, &expr.right])),
                BinaryOperator::HashMinus => Some(call(&jsonb_edit::DELETE_PATH, [&expr.left, &expr.right])),
                BinaryOperator::PGOverlap if left.is_list() && right.is_list() => {
                    Some(array_has_any(expr.left.clone(), expr.right.clone()))
                }
                BinaryOperator::PGStartsWith => {
                    Some(datafusion::functions::string::starts_with().call(vec![expr.left.clone(), expr.right.clone()]))
                }
                BinaryOperator::Plus | BinaryOperator::Minus => added(&expr, &left, &right),
                BinaryOperator::Multiply => match (left.is_span(), right.is_span()) {
                    (true, false) if right.is_number() => Some(multiplied(&expr.left, &expr.right)),
                    (false, true) if left.is_number() => Some(multiplied(&expr.right, &expr.left)),
                    _ => None,
                },
                BinaryOperator::Divide => divided(&expr, &left, &right),
                _ => None,
            },
        };
        Ok(planned.map_or(PlannerResult::Original(expr), PlannerResult::Planned))
    }
}

/// One side of an operator.
struct Side {
    kind: DataType,
    is_jsonb: bool,
    is_uuid: bool,
    /// A text as it is written, which takes the type of what it is compared with.
    literal: Option<String>,
}

impl Side {
    fn of(expr: &Expr, schema: &DFSchema) -> Result<Self> {
        let literal = match expr {
            Expr::Literal(ScalarValue::Utf8(Some(text)), _) => Some(text.clone()),
            _ => None,
        };
        if matches!(expr, Expr::Placeholder(_)) {
            return Ok(Self { kind: DataType::Null, is_jsonb: false, is_uuid: false, literal });
        }
        let (_, field) = expr.to_field(schema)?;
        let is_arrow = matches!(expr, Expr::ScalarFunction(call) if call.func == json_get_json_udf());
        Ok(Self {
            kind: field.data_type().clone(),
            is_jsonb: is_arrow || means(&field, "jsonb"),
            is_uuid: means(&field, "uuid"),
            literal,
        })
    }

    fn is_list(&self) -> bool {
        matches!(self.kind, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..))
    }

    /// An interval, or a difference of times.
    fn is_span(&self) -> bool {
        matches!(self.kind, DataType::Interval(_) | DataType::Duration(_))
    }

    fn is_interval(&self) -> bool {
        matches!(self.kind, DataType::Interval(_))
    }

    fn is_float(&self) -> bool {
        matches!(self.kind, DataType::Float16 | DataType::Float32 | DataType::Float64)
    }

    fn is_number(&self) -> bool {
        self.kind.is_numeric()
    }

    fn is_date(&self) -> bool {
        self.kind == DataType::Date32
    }
}

fn call<const N: usize>(definition: &'static Definition, arguments: [&Expr; N]) -> Expr {
    defined(definition).call(arguments.into_iter().cloned().collect())
}

fn comparison(operator: &BinaryOperator) -> Option<Operator> {
    Some(match operator {
        BinaryOperator::Eq => Operator::Eq,
        BinaryOperator::NotEq => Operator::NotEq,
        BinaryOperator::Lt => Operator::Lt,
        BinaryOperator::LtEq => Operator::LtEq,
        BinaryOperator::Gt => Operator::Gt,
        BinaryOperator::GtEq => Operator::GtEq,
        _ => return None,
    })
}

fn compared(operator: Operator, expr: &RawBinaryExpr, left: &Side, right: &Side) -> Result<Option<Expr>> {
    let both = |of: fn(&Side) -> bool| {
        (of(left) || of(right)) && [left, right].iter().all(|side| of(side) || side.literal.is_some())
    };
    if both(|side| side.is_jsonb) {
        return Ok(Some(jsonb_compared(operator, &expr.left, &expr.right)));
    }
    if both(|side| side.is_uuid) {
        let spelled = |side: &Side, expr: &Expr| -> Result<Expr> {
            Ok(match &side.literal {
                Some(text) if !side.is_uuid => lit(uuid_of(text)?),
                _ => expr.clone(),
            })
        };
        return Ok(Some(binary_expr(spelled(left, &expr.left)?, operator, spelled(right, &expr.right)?)));
    }
    // Two differences of times are compared as they are.
    if both(Side::is_span) && (left.is_interval() || right.is_interval()) {
        return Ok(Some(lengths(operator, &expr.left, &expr.right)));
    }
    Ok(None)
}

fn lengths(operator: Operator, left: &Expr, right: &Expr) -> Expr {
    binary_expr(call(&interval::KEY, [left]), operator, call(&interval::KEY, [right]))
}

fn jsonb_compared(operator: Operator, left: &Expr, right: &Expr) -> Expr {
    match operator {
        Operator::Eq | Operator::NotEq | Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => {
            binary_expr(call(&jsonb_edit::KEY, [left]), operator, call(&jsonb_edit::KEY, [right]))
        }
        _ => binary_expr(call(&jsonb_edit::COMPARE, [left, right]), operator, lit(0_i32)),
    }
}

/// `||`.
fn joined(expr: &RawBinaryExpr, left: &Side, right: &Side) -> Option<Expr> {
    if left.is_list() || right.is_list() {
        return None;
    }
    let fits = |side: &Side| side.is_jsonb || side.literal.is_some();
    if (left.is_jsonb || right.is_jsonb) && fits(left) && fits(right) {
        return Some(call(&jsonb_edit::CONCAT, [&expr.left, &expr.right]));
    }
    let written = |side: &Side, expr: &Expr| if is_text(&side.kind) { expr.clone() } else { call(&text::OUT, [expr]) };
    (is_text(&left.kind) != is_text(&right.kind))
        .then(|| binary_expr(written(left, &expr.left), Operator::StringConcat, written(right, &expr.right)))
}

/// `+` and `-` of dates and intervals.
fn added(expr: &RawBinaryExpr, left: &Side, right: &Side) -> Option<Expr> {
    let operator = if expr.op == BinaryOperator::Plus { Operator::Plus } else { Operator::Minus };
    let as_time = |expr: &Expr| cast(expr.clone(), DataType::Timestamp(TimeUnit::Microsecond, None));
    let as_interval = |side: &Side, expr: &Expr| match side.kind {
        DataType::Duration(_) => call(&interval::OF_DURATION, [expr]),
        _ => expr.clone(),
    };
    if left.is_date() && right.is_span() {
        return Some(binary_expr(as_time(&expr.left), operator, as_interval(right, &expr.right)));
    }
    if left.is_span() && right.is_date() && operator == Operator::Plus {
        return Some(binary_expr(as_time(&expr.right), operator, as_interval(left, &expr.left)));
    }
    let mixed = left.is_span() && right.is_span() && left.is_interval() != right.is_interval();
    mixed.then(|| binary_expr(as_interval(left, &expr.left), operator, as_interval(right, &expr.right)))
}

fn multiplied(span: &Expr, number: &Expr) -> Expr {
    call(&interval::MULTIPLY, [&call(&interval::OF_DURATION, [span]), number])
}

fn divided(expr: &RawBinaryExpr, left: &Side, right: &Side) -> Option<Expr> {
    if left.is_span() && right.is_number() {
        let span = call(&interval::OF_DURATION, [&expr.left]);
        return Some(call(&interval::DIVIDE, [&span, &expr.right]));
    }
    if let Some(scale) = scale_of_quotient(&left.kind, &right.kind) {
        return Some(binary_expr(cast(expr.left.clone(), scale), Operator::Divide, expr.right.clone()));
    }
    let floats = (left.is_float() || right.is_float()) && left.is_number() && right.is_number();
    floats.then(|| call(&number::DIVIDE, [&expr.left, &expr.right]))
}

/// The type in which a decimal is divided, so that the quotient has about as many digits as Postgres gives: Arrow adds
/// four to those it finds. `None`: they are enough, or there is no room for more.
fn scale_of_quotient(left: &DataType, right: &DataType) -> Option<DataType> {
    /// Digits behind the point before Arrow's four.
    const DIGITS: i8 = 12;
    /// Digits that are left for the number itself and what it is scaled up by.
    const ROOM: i8 = 34;
    let of = |kind: &DataType| -> Option<(i8, i8)> {
        Some(match kind {
            DataType::Decimal128(precision, scale) => (i8::try_from(*precision).ok()?, *scale),
            DataType::Int8 | DataType::Int16 => (5, 0),
            DataType::Int32 => (10, 0),
            DataType::Int64 => (19, 0),
            _ => return None,
        })
    };
    if !matches!((left, right), (DataType::Decimal128(..), _) | (_, DataType::Decimal128(..))) {
        return None;
    }
    let ((precision, scale), (_, right_scale)) = (of(left)?, of(right)?);
    let whole = precision - scale;
    let wanted = DIGITS.min(ROOM - whole - right_scale.max(0));
    (wanted > scale).then(|| DataType::Decimal128((whole + wanted).unsigned_abs(), wanted))
}

/// The same where a comparison is no operator: lists, ranges, IS DISTINCT FROM.
#[derive(Debug)]
pub(super) struct Comparisons;

impl FunctionRewrite for Comparisons {
    fn name(&self) -> &'static str {
        "postgres_comparisons"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _config: &ConfigOptions) -> Result<Transformed<Expr>> {
        Ok(match expr {
            Expr::InList(list) => in_list(list, schema)?,
            Expr::Between(between) => between_of(between, schema)?,
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if matches!(op, Operator::IsDistinctFrom | Operator::IsNotDistinctFrom) =>
            {
                let (Ok(one), Ok(other)) = (Side::of(&left, schema), Side::of(&right, schema)) else {
                    return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })));
                };
                let sides = (one, other);
                if sides.0.is_jsonb && (sides.1.is_jsonb || sides.1.literal.is_some()) {
                    Transformed::yes(jsonb_compared(op, &left, &right))
                } else if sides.0.is_interval() {
                    Transformed::yes(lengths(op, &left, &right))
                } else {
                    Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))
                }
            }
            other => Transformed::no(other),
        })
    }
}

fn in_list(list: InList, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Ok(side) = Side::of(&list.expr, schema) else { return Ok(Transformed::no(Expr::InList(list))) };
    if side.is_uuid {
        let spelled = list.list.into_iter().map(|item| match item {
            Expr::Literal(ScalarValue::Utf8(Some(text)), _) => Ok(lit(uuid_of(&text)?)),
            other => Ok(other),
        });
        let list = InList { list: spelled.collect::<Result<_>>()?, ..list };
        return Ok(Transformed::yes(Expr::InList(list)));
    }
    let key = match (side.is_jsonb, side.is_interval()) {
        (true, _) => &jsonb_edit::KEY,
        (_, true) => &interval::KEY,
        _ => return Ok(Transformed::no(Expr::InList(list))),
    };
    let items = list.list.iter().map(|item| call(key, [item])).collect();
    let list = InList { expr: Box::new(call(key, [&list.expr])), list: items, negated: list.negated };
    Ok(Transformed::yes(Expr::InList(list)))
}

fn between_of(between: Between, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if !between.expr.get_type(schema).is_ok_and(|kind| matches!(kind, DataType::Interval(IntervalUnit::MonthDayNano))) {
        return Ok(Transformed::no(Expr::Between(between)));
    }
    let key = |expr: &Expr| Box::new(call(&interval::KEY, [expr]));
    let Between { expr, negated, low, high } = between;
    Ok(Transformed::yes(Expr::Between(Between { expr: key(&expr), negated, low: key(&low), high: key(&high) })))
}

/// All of what this crate defines by rows, to be registered under its name.
pub(super) fn definitions() -> Vec<&'static Definition> {
    use super::{format, formatted, jsonb_edit as json, zone};
    vec![
        &zone::TIMEZONE,
        &interval::KEY,
        &interval::OF_DURATION,
        &interval::MULTIPLY,
        &interval::DIVIDE,
        &interval::JUSTIFY_HOURS,
        &interval::JUSTIFY_DAYS,
        &interval::JUSTIFY_INTERVAL,
        &interval::AGE,
        &interval::MAKE_INTERVAL,
        &interval::MAKE_TIMESTAMP,
        &interval::IS_FINITE,
        &json::JSONB_IN,
        &json::JSON_IN,
        &json::KEY,
        &json::COMPARE,
        &json::CONCAT,
        &json::DELETE,
        &json::DELETE_PATH,
        &json::SET,
        &json::STRIP_NULLS,
        &json::PRETTY,
        &json::OF_LIST,
        &json::OF_PAIRS,
        &text::OUT,
        &text::SHOWN,
        &text::UUID,
        &text::LENGTH,
        &text::OCTET_LENGTH,
        &format::FORMAT,
        &formatted::TO_CHAR,
        &formatted::TO_DATE,
        &formatted::TO_TIMESTAMP,
        &formatted::WIDTH_BUCKET,
        &number::DIVIDE,
        &number::LOGARITHM_OF,
        &number::FINITE,
        &number::ROUND,
        &number::CHARACTER,
    ]
}
