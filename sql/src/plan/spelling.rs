//! Postgres's spelling where DataFusion means something else by it, or nothing: rewritten in the tree before planning.
//!
//! What would silently be answered differently (a template of `to_char`, bytes written in hex, a set-returning function
//! in a select list) is more important here than what DataFusion refuses by itself.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    ObjectName, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier, TableFactor, TimezoneInfo, Value,
    VisitMut, VisitorMut,
};

use crate::error::{Error, Result, SqlState};
use crate::function::WHOLE;
use crate::statement::window::folded;

/// Functions that DataFusion has under another name.
const SYNONYMS: [(&str, &str); 8] = [
    ("gen_random_uuid", "uuid"),
    ("statement_timestamp", "now"),
    ("transaction_timestamp", "now"),
    ("char_length", "character_length"),
    ("ceiling", "ceil"),
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
        Expr::Function(function) => rewrite_function(function).map(|rewritten| {
            if let Some(rewritten) = rewritten {
                *expr = rewritten;
            }
        }),
        Expr::Cast { expr: inner, data_type: DataType::Bytea, .. } => {
            if let Some(digits) = text_of(inner).and_then(|text| text.strip_prefix("\\x")) {
                if !digits.len().is_multiple_of(2) || !digits.chars().all(|char| char.is_ascii_hexdigit()) {
                    let message = format!("invalid hexadecimal data: \"{digits}\"");
                    return Err(Error::new(SqlState::InvalidTextRepresentation, message)
                        .with_hint("two hexadecimal digits per byte behind \\x"));
                }
                *expr = call("decode", vec![text(digits), text("hex")]);
            }
            Ok(())
        }
        Expr::Cast { expr: inner, data_type, .. } if is_integer(data_type) => {
            // A text has no fraction; a parameter and a value out of JSON take their type from the cast itself.
            if text_of(inner).is_none() && !is_parameter(inner) && !is_call_of(inner, "json_get") {
                let value = std::mem::replace(inner.as_mut(), Expr::value(Value::Null));
                **inner = call(WHOLE, vec![value]);
            }
            Ok(())
        }
        Expr::Cast { expr: inner, data_type: DataType::Timestamp(..), .. } => {
            if let Some(padded) = text_of(inner).and_then(with_seconds) {
                **inner = text(&padded);
            }
            Ok(())
        }
        Expr::TypedString(typed) if matches!(typed.data_type, DataType::Timestamp(..)) => {
            if let Value::SingleQuotedString(written) = &mut typed.value.value
                && let Some(padded) = with_seconds(written)
            {
                *written = padded;
            }
            Ok(())
        }
        Expr::Identifier(ident) if ident.quote_style.is_none() && folded(ident) == "localtimestamp" => {
            *expr = Expr::Cast {
                kind: CastKind::DoubleColon,
                expr: Box::new(call("now", Vec::new())),
                data_type: DataType::Timestamp(None, TimezoneInfo::None),
                array: false,
                format: None,
            };
            Ok(())
        }
        Expr::SimilarTo { .. } => {
            Err(Error::unsupported("SIMILAR TO").with_hint("use ~ with a regular expression, or LIKE"))
        }
        _ => Ok(()),
    }
}

fn rewrite_function(function: &mut Function) -> Result<Option<Expr>> {
    let [name] = function.name.0.as_slice() else { return Ok(None) };
    let Some(name) = name.as_ident().map(folded) else { return Ok(None) };
    if let Some((_, synonym)) = SYNONYMS.iter().find(|(from, _)| *from == name) {
        function.name = ObjectName::from(vec![Ident::new(*synonym)]);
        return Ok(None);
    }
    let arguments = arguments_of(function);
    match (name.as_str(), arguments.as_slice()) {
        ("mod", [left, right]) => Ok(Some(Expr::Nested(Box::new(Expr::BinaryOp {
            left: Box::new(Expr::Nested(Box::new((*left).clone()))),
            op: BinaryOperator::Modulo,
            right: Box::new(Expr::Nested(Box::new((*right).clone()))),
        })))),
        ("to_char", [value, template]) => {
            let Some(template) = text_of(template) else {
                return Err(Error::unsupported("to_char with a computed template")
                    .with_hint("write the template as a text: to_char(t, 'YYYY-MM-DD')"));
            };
            Ok(Some(call("to_char", vec![(*value).clone(), text(&strftime(template)?)])))
        }
        (path, _) if path.starts_with("jsonb_path_") => Err(Error::unsupported(format!("{path}()"))
            .with_hint("use -> and #> to go into JSON, @> and ? to test it, jsonb_array_elements to unfold it")),
        ("convert_from", [bytes, encoding]) => match text_of(encoding).map(str::to_ascii_lowercase).as_deref() {
            Some("utf8" | "utf-8" | "unicode") => Ok(Some(call("arrow_cast", vec![(*bytes).clone(), text("Utf8")]))),
            _ => Err(Error::unsupported("convert_from with another encoding than 'UTF8'")
                .with_hint("all text is UTF-8 here")),
        },
        ("age", _) => Err(Error::unsupported("age()").with_hint("subtract: a - b")),
        _ => Ok(None),
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

fn is_integer(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::SmallInt(_)
            | DataType::Int2(_)
            | DataType::Int(_)
            | DataType::Int4(_)
            | DataType::Integer(_)
            | DataType::BigInt(_)
            | DataType::Int8(_)
    )
}

fn is_parameter(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => matches!(value.value, Value::Placeholder(_)),
        Expr::Nested(inner) => is_parameter(inner),
        _ => false,
    }
}

/// A timestamp that ends with its minutes, perhaps with a zone behind them, with its seconds: DataFusion wants them.
fn with_seconds(written: &str) -> Option<String> {
    const MINUTES: &[u8] = b"0000-00-00 00:00";
    let fits = |(char, form): (&u8, &u8)| if *form == b'0' { char.is_ascii_digit() } else { char == form };
    let (minutes, zone) = written.as_bytes().split_at_checked(MINUTES.len())?;
    let ends = zone.first().is_none_or(|next| b"+-Z ".contains(next));
    (ends && minutes.iter().zip(MINUTES).all(fits)).then(|| {
        let (minutes, zone) = written.split_at(MINUTES.len());
        format!("{minutes}:00{zone}")
    })
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

/// A template of `to_char` for times as chrono spells it. Longer patterns stand before their beginnings.
fn strftime(template: &str) -> Result<String> {
    const PATTERNS: [(&str, &str); 27] = [
        ("HH24", "%H"),
        ("HH12", "%I"),
        ("YYYY", "%Y"),
        ("MONTH", ""),
        ("Month", "%B"),
        ("month", ""),
        ("Day", "%A"),
        ("DDD", "%j"),
        ("Mon", "%b"),
        ("MON", ""),
        ("HH", "%I"),
        ("MI", "%M"),
        ("MM", "%m"),
        ("MS", "%3f"),
        ("US", "%6f"),
        ("SS", "%S"),
        ("DD", "%d"),
        ("Dy", "%a"),
        ("YY", "%y"),
        ("ID", "%u"),
        ("IW", "%V"),
        ("IYYY", "%G"),
        ("AM", "%p"),
        ("PM", "%p"),
        ("TZ", "UTC"),
        ("OF", "+00"),
        ("%", "%%"),
    ];
    let mut rest = template;
    let mut format = String::new();
    while let Some(char) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (inside, after) = quoted.split_once('"').unwrap_or((quoted, ""));
            format.push_str(&inside.replace('%', "%%"));
            rest = after;
        } else if let Some((pattern, spelled)) = PATTERNS.iter().find(|(pattern, _)| rest.starts_with(pattern)) {
            if spelled.is_empty() {
                return Err(unknown_pattern(pattern));
            }
            format.push_str(spelled);
            rest = rest.get(pattern.len()..).unwrap_or("");
        } else if char.is_ascii_alphanumeric() {
            return Err(unknown_pattern(rest));
        } else {
            format.push(char);
            rest = rest.get(char.len_utf8()..).unwrap_or("");
        }
    }
    Ok(format)
}

fn unknown_pattern(pattern: &str) -> Error {
    Error::unsupported(format!("the pattern \"{pattern}\" of to_char")).with_hint(
        "there are YYYY, MM, DD, HH24, HH12, MI, SS, MS, US, Mon, Month, Dy, Day, DDD, IW, AM; quote other text",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{Sentence, parse::parse};

    fn spelled(sql: &str) -> Result<String> {
        let Sentence::Query(mut query) = parse(sql).unwrap().remove(0).sentence else { panic!("a query") };
        rewrite(&mut query.query)?;
        Ok(query.query.to_string())
    }

    #[test]
    fn templates_of_to_char_are_chrono_s() {
        assert_eq!(strftime("YYYY-MM-DD HH24:MI:SS.MS").unwrap(), "%Y-%m-%d %H:%M:%S.%3f");
        assert_eq!(strftime("DD\" of \"Mon").unwrap(), "%d of %b");
        assert_eq!(strftime("999D99").unwrap_err().state, SqlState::FeatureNotSupported);
    }

    #[test]
    fn bytes_in_hex_and_functions_under_other_names_are_rewritten() {
        assert_eq!(spelled("SELECT '\\x6162'::bytea").unwrap(), "SELECT decode('6162', 'hex')");
        assert_eq!(spelled("SELECT mod(a, 2) FROM t").unwrap(), "SELECT ((a) % (2)) FROM t");
        assert_eq!(spelled("SELECT gen_random_uuid()").unwrap(), "SELECT uuid()");
        assert_eq!(spelled("SELECT generate_series(1, 3)").unwrap(), "SELECT unnest(generate_series(1, 3))");
        assert_eq!(spelled("SELECT convert_from(v, 'UTF8')").unwrap(), "SELECT arrow_cast(v, 'Utf8')");
        assert_eq!(spelled("SELECT convert_from(v, 'LATIN1')").unwrap_err().state, SqlState::FeatureNotSupported);
        assert_eq!(spelled("SELECT '\\xzz'::bytea").unwrap_err().state, SqlState::InvalidTextRepresentation);
    }

    #[test]
    fn casts_to_integers_round_unless_there_is_nothing_to_round() {
        assert_eq!(spelled("SELECT x::int").unwrap(), "SELECT nearest_whole(x)::INT");
        for same in ["SELECT $1::INT", "SELECT '4'::INT", "SELECT x::TEXT"] {
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
