//! Calls of functions that DataFusion answers otherwise than Postgres, or knows under another name.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Value,
};

use super::{SYNONYMS, arguments_of, call, cast_of, text, text_of};
use crate::error::{Error, Result};
use crate::function::TEXT_OUT;
use crate::statement::window::folded;

/// What stands for a call, or `None` where it stays (perhaps under another name).
///
/// # Errors
/// 0A000 by name.
pub(super) fn rewrite(function: &mut Function) -> Result<Option<Expr>> {
    let [name] = function.name.0.as_slice() else { return Ok(None) };
    let Some(name) = name.as_ident().map(folded) else { return Ok(None) };
    if let Some((_, synonym)) = SYNONYMS.iter().find(|(from, _)| *from == name) {
        function.name = named(synonym);
        return Ok(None);
    }
    if matches!(name.as_str(), "concat" | "concat_ws") {
        each_argument(function, |argument| call("text_shown", vec![argument]));
        return Ok(None);
    }
    let arguments: Vec<Expr> = arguments_of(function).into_iter().cloned().collect();
    Ok(match (name.as_str(), arguments.as_slice()) {
        ("mod", [left, right]) => Some(operation(left, BinaryOperator::Modulo, right)),
        ("div", [left, right]) => Some(call("trunc", vec![operation(left, BinaryOperator::Divide, right)])),
        ("ceil" | "ceiling" | "floor" | "trunc", [number]) => {
            let whole = if name == "ceiling" { "ceil" } else { name.as_str() };
            Some(call("nearest", vec![call(whole, vec![number.clone()])]))
        }
        ("round", [number]) => Some(call("nearest", vec![number.clone()])),
        ("ln" | "log" | "log10" | "log2", numbers) if !numbers.is_empty() => {
            each_argument(function, |argument| call("logarithm_of", vec![argument]));
            None
        }
        ("exp" | "power" | "pow", numbers) if !numbers.is_empty() => {
            Some(call("finite", vec![call(&name, numbers.to_vec())]))
        }
        ("chr", [code]) => Some(call("chr", vec![call("character_code", vec![code.clone()])])),
        // Of an empty array there is no length.
        ("array_length", [array, dimension]) => {
            let length = call("array_length", vec![array.clone(), dimension.clone()]);
            let zero = Expr::value(Value::Number("0".to_owned(), false));
            Some(call("nullif", vec![cast_of(length, DataType::BigInt(None)), zero]))
        }
        ("to_timestamp", [written, template]) => {
            Some(call("timestamp_of_text", vec![written.clone(), template.clone()]))
        }
        ("age", [time]) => Some(call("age", vec![call("current_date", Vec::new()), time.clone()])),
        ("array_fill", [value, Expr::Array(sizes)]) => match sizes.elem.as_slice() {
            [size] => Some(call("array_repeat", vec![value.clone(), size.clone()])),
            _ => return Err(Error::unsupported("array_fill in several dimensions").with_hint("fill one dimension")),
        },
        ("convert_from", [bytes, encoding]) => match text_of(encoding).map(str::to_ascii_lowercase).as_deref() {
            Some("utf8" | "utf-8" | "unicode") => Some(call("arrow_cast", vec![bytes.clone(), text("Utf8")])),
            _ => {
                return Err(Error::unsupported("convert_from with another encoding than 'UTF8'")
                    .with_hint("all text is UTF-8 here"));
            }
        },
        _ => of_json(function, &name, &arguments)?,
    })
}

/// Aggregates into JSON gather a list first; paths have no library.
fn of_json(function: &mut Function, name: &str, arguments: &[Expr]) -> Result<Option<Expr>> {
    Ok(match (name, arguments) {
        ("jsonb_agg" | "json_agg", [_]) => {
            each_argument(function, |argument| call("to_jsonb", vec![argument]));
            function.name = named("array_agg");
            Some(call("jsonb_of_list", vec![Expr::Function(function.clone())]))
        }
        ("jsonb_object_agg" | "json_object_agg", [key, value]) => {
            let gathered = |argument: Expr| {
                let mut gathered = function.clone();
                gathered.name = named("array_agg");
                if let FunctionArguments::List(list) = &mut gathered.args {
                    list.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))];
                }
                Expr::Function(gathered)
            };
            let key = cast_of(call(TEXT_OUT, vec![key.clone()]), DataType::Text);
            let value = call("to_jsonb", vec![value.clone()]);
            Some(call("jsonb_of_pairs", vec![gathered(key), gathered(value)]))
        }
        (path, _) if path.starts_with("jsonb_path_") => {
            return Err(Error::unsupported(format!("{path}()"))
                .with_hint("use -> and #> to go into JSON, @> and ? to test it, jsonb_array_elements to unfold it"));
        }
        _ => None,
    })
}

fn named(name: &str) -> ObjectName {
    ObjectName::from(vec![Ident::new(name)])
}

fn operation(left: &Expr, op: BinaryOperator, right: &Expr) -> Expr {
    let side = |expr: &Expr| Box::new(Expr::Nested(Box::new(expr.clone())));
    Expr::Nested(Box::new(Expr::BinaryOp { left: side(left), op, right: side(right) }))
}

/// Changes each argument that is an expression.
fn each_argument(function: &mut Function, change: impl Fn(Expr) -> Expr) {
    let FunctionArguments::List(list) = &mut function.args else { return };
    for argument in &mut list.args {
        if let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument {
            *expr = change(super::taken(expr));
        }
    }
}
