//! Postgres's spelling where DataFusion means something else by it, or nothing: rewritten in the tree before planning.
//!
//! What would silently be answered differently (a cast that rounds, bytes written in hex, a set-returning function
//! in a select list) is more important here than what DataFusion refuses by itself.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, CeilFloorKind, DataType, DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, Ident, Interval, ObjectName, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier,
    TableFactor, TimezoneInfo, UnaryOperator, Value, VisitMut, VisitorMut,
};

use crate::error::{Error, Result};
use crate::statement::window::folded;

mod array;
mod cast;
mod function;
mod interval;
mod relation;
mod row;

pub(crate) use relation::rewrite_relations;

/// Functions that DataFusion has under another name.
const SYNONYMS: [(&str, &str); 9] = [
    ("array_remove", "array_remove_all"),
    ("array_replace", "array_replace_all"),
    ("gen_random_uuid", "uuid"),
    ("statement_timestamp", "now"),
    ("transaction_timestamp", "now"),
    ("char_length", "character_length"),
    ("every", "bool_and"),
    ("sign", "signum"),
    ("variance", "var_samp"),
];

/// Functions whose rows stand in a select list in Postgres; here they give a list.
const SETS: [&str; 6] = [
    "generate_series",
    "jsonb_array_elements",
    "jsonb_array_elements_text",
    "json_array_elements",
    "json_array_elements_text",
    "jsonb_object_keys",
];

/// Rewrites; see the head of this file.
///
/// # Errors
/// 22P02 for bytes that are no hex, 0A000 by name.
pub(crate) fn rewrite(query: &mut Query) -> Result<()> {
    match query.visit(&mut Spelling) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Spelling;

impl VisitorMut for Spelling {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        if keeps_duplicates_of_a_difference(&query.body) {
            let refused = Error::unsupported("EXCEPT ALL or INTERSECT ALL")
                .with_hint("leave ALL out, or number equal rows first: row_number() OVER (PARTITION BY …)");
            return ControlFlow::Break(refused);
        }
        match ignored_clause(query) {
            Some((what, hint)) => ControlFlow::Break(Error::unsupported(what).with_hint(hint)),
            None => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<Error> {
        match ignored_of_table(table) {
            Some((what, hint)) => ControlFlow::Break(Error::unsupported(what).with_hint(hint)),
            None => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match rewrite_one(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
                && SETS.iter().any(|function| is_call_of(expr, function))
            {
                let series = std::mem::replace(expr, Expr::value(Value::Null));
                *expr = call("unnest", vec![series]);
            }
        }
        ControlFlow::Continue(())
    }
}

/// A clause of a query that DataFusion reads over, and what to do instead.
fn ignored_clause(query: &Query) -> Option<(&'static str, &'static str)> {
    if !query.locks.is_empty() {
        return Some(("FOR UPDATE or FOR SHARE", "leave it out: nothing is locked, a SELECT reads one consistent cut"));
    }
    let into = matches!(query.body.as_ref(), SetExpr::Select(select) if select.into.is_some());
    into.then_some(("SELECT INTO", "CREATE TABLE, then INSERT INTO … SELECT"))
}

/// DataFusion takes these as filters: every row that is there, or is not, on the other side, however often.
fn keeps_duplicates_of_a_difference(body: &SetExpr) -> bool {
    let SetExpr::SetOperation { left, op, set_quantifier, right } = body else { return false };
    let all = matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName);
    (all && *op != SetOperator::Union)
        || keeps_duplicates_of_a_difference(left)
        || keeps_duplicates_of_a_difference(right)
}

/// The same of a relation in FROM.
fn ignored_of_table(table: &TableFactor) -> Option<(&'static str, &'static str)> {
    match table {
        TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
            Some(("TABLESAMPLE", "WHERE random() < 0.1 leaves a tenth of the rows"))
        }
        TableFactor::Table { with_ordinality: true, .. } | TableFactor::UNNEST { with_ordinality: true, .. } => {
            Some(("WITH ORDINALITY", "row_number() OVER () numbers rows"))
        }
        TableFactor::Table { version: Some(_), .. } => {
            Some(("this way to read a relation as of a time", "FROM orders FOR SYSTEM_TIME AS OF '2026-01-01'"))
        }
        _ => None,
    }
}

fn rewrite_one(expr: &mut Expr) -> Result<()> {
    match expr {
        Expr::Function(function) => function::rewrite(function).map(|rewritten| {
            if let Some(rewritten) = rewritten {
                *expr = rewritten;
            }
        }),
        Expr::Cast { .. } => cast::rewrite(expr),
        Expr::TypedString(typed) if cast::is_read_by_us(&typed.data_type) => {
            if let Value::SingleQuotedString(written) = &typed.value.value {
                *expr = cast_of(text(written), typed.data_type.clone());
            }
            cast::rewrite(expr)
        }
        Expr::Interval(interval) => {
            if let Some(spelled) = text_of(&interval.value).and_then(interval::spelled)
                && interval.leading_field.is_none()
            {
                *interval.value = text(&spelled);
            }
            Ok(())
        }
        Expr::AtTimeZone { timestamp, time_zone } => {
            let arguments = vec![taken(time_zone), taken(timestamp)];
            *expr = call("timezone", arguments);
            Ok(())
        }
        Expr::Ceil { field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime), .. }
        | Expr::Floor { field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime), .. } => {
            *expr = call("nearest", vec![taken(expr)]);
            Ok(())
        }
        Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner } => {
            if let Some(interval) = negated_interval(inner) {
                *expr = interval;
            }
            Ok(())
        }
        Expr::UnaryOp { op: UnaryOperator::BitwiseNot, expr: inner } => {
            let minus_one = Expr::value(Value::Number("-1".to_owned(), false));
            let bits = Expr::BinaryOp {
                left: Box::new(Expr::Nested(Box::new(taken(inner)))),
                op: BinaryOperator::PGBitwiseXor,
                right: Box::new(minus_one),
            };
            *expr = Expr::Nested(Box::new(bits));
            Ok(())
        }
        Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => {
            if let Some(list) = text_of(right).filter(|text| text.trim_start().starts_with('{')) {
                **right = array::of_any(list)?;
            }
            Ok(())
        }
        Expr::Identifier(ident) if ident.quote_style.is_none() && folded(ident) == "localtimestamp" => {
            *expr = cast_of(call("now", Vec::new()), DataType::Timestamp(None, TimezoneInfo::None));
            Ok(())
        }
        Expr::BinaryOp { .. } | Expr::InList { .. } => {
            if let Some(rewritten) = row::rewritten(expr) {
                *expr = rewritten;
            }
            Ok(())
        }
        Expr::SimilarTo { .. } => {
            Err(Error::unsupported("SIMILAR TO").with_hint("use ~ with a regular expression, or LIKE"))
        }
        _ => Ok(()),
    }
}

fn arguments_of(function: &Function) -> Vec<&Expr> {
    let FunctionArguments::List(list) = &function.args else { return Vec::new() };
    let plain =
        |argument: &'_ FunctionArg| -> bool { matches!(argument, FunctionArg::Unnamed(FunctionArgExpr::Expr(_))) };
    if !list.args.iter().all(plain) {
        return Vec::new();
    }
    list.args
        .iter()
        .filter_map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
            _ => None,
        })
        .collect()
}

fn is_parameter(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => matches!(value.value, Value::Placeholder(_)),
        Expr::Nested(inner) => is_parameter(inner),
        _ => false,
    }
}

fn is_call_of(expr: &Expr, wanted: &str) -> bool {
    let Expr::Function(function) = expr else { return false };
    matches!(function.name.0.as_slice(), [name] if name.as_ident().is_some_and(|ident| folded(ident) == wanted))
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(datafusion::sql::sqlparser::ast::FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn cast_of(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::DoubleColon, expr: Box::new(expr), data_type, array: false, format: None }
}

/// `-interval '1 day'`, whose text is all that there is of it.
fn negated_interval(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Nested(inner) => negated_interval(inner),
        Expr::Interval(written) if written.leading_field.is_none() => {
            let negated = text_of(&written.value).and_then(interval::negated)?;
            Some(Expr::Interval(Interval { value: Box::new(text(&negated)), ..written.clone() }))
        }
        _ => None,
    }
}

/// An expression out of its place in the tree.
fn taken(place: &mut Expr) -> Expr {
    std::mem::replace(place, Expr::value(Value::Null))
}

fn text(value: &str) -> Expr {
    Expr::value(Value::SingleQuotedString(value.to_owned()))
}

fn text_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Some(text),
            _ => None,
        },
        Expr::Nested(inner) => text_of(inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::cast::with_seconds;
    use super::*;
    use crate::error::SqlState;
    use crate::statement::{Sentence, parse::parse};

    fn spelled(sql: &str) -> Result<String> {
        let Sentence::Query(mut query) = parse(sql).unwrap().remove(0).sentence else { panic!("a query") };
        rewrite(&mut query.query)?;
        Ok(query.query.to_string())
    }

    #[test]
    fn bytes_in_hex_and_functions_under_other_names_are_rewritten() {
        assert_eq!(spelled("SELECT '\\x6162'::bytea").unwrap(), "SELECT decode('6162', 'hex')");
        assert_eq!(spelled("SELECT mod(a, 2) FROM t").unwrap(), "SELECT ((a) % (2)) FROM t");
        assert_eq!(spelled("SELECT gen_random_uuid()").unwrap(), "SELECT uuid()");
        assert_eq!(spelled("SELECT generate_series(1, 3)").unwrap(), "SELECT unnest(generate_series(1, 3))");
        assert_eq!(spelled("SELECT convert_from(v, 'UTF8')").unwrap(), "SELECT arrow_cast(v, 'Utf8')");
        assert_eq!(spelled("SELECT convert_from(v, 'LATIN1')").unwrap_err().state, SqlState::FeatureNotSupported);
        assert_eq!(spelled("SELECT '\\xzz'::bytea").unwrap_err().state, SqlState::InvalidParameterValue);
    }

    #[test]
    fn casts_to_integers_round_unless_there_is_nothing_to_round() {
        assert_eq!(spelled("SELECT x::int").unwrap(), "SELECT nearest_whole(x)::INT");
        for same in ["SELECT $1::INT", "SELECT '4'::INT", "SELECT 'x'::TEXT"] {
            assert_eq!(spelled(same).unwrap(), same);
        }
    }

    #[test]
    fn timestamps_without_seconds_get_them() {
        assert_eq!(with_seconds("2024-01-02 03:04").as_deref(), Some("2024-01-02 03:04:00"));
        assert_eq!(with_seconds("2024-01-02 03:04+02").as_deref(), Some("2024-01-02 03:04:00+02"));
        for whole in ["2024-01-02 03:04:05", "2024-01-02", "soon", "2024-01-02 03:04ü", "ü024-01-02 03:04"] {
            assert_eq!(with_seconds(whole), None, "{whole}");
        }
        let typed = spelled("SELECT timestamp '2024-01-02 03:04', '2024-01-02 03:04'::timestamp").unwrap();
        assert_eq!(typed.matches("03:04:00").count(), 2, "{typed}");
    }

    #[test]
    fn differences_that_keep_duplicates_are_refused_rather_than_answered_wrongly() {
        for sql in ["SELECT a FROM t EXCEPT ALL SELECT a FROM u", "SELECT 1 UNION (SELECT 1 INTERSECT ALL SELECT 1)"] {
            assert_eq!(spelled(sql).unwrap_err().state, SqlState::FeatureNotSupported, "{sql}");
        }
        assert!(spelled("SELECT a FROM t EXCEPT SELECT a FROM u UNION ALL SELECT 1").is_ok());
    }
}
