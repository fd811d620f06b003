//! Arrays that are written as text: `'{1,NULL,"a b"}'`.

use datafusion::sql::sqlparser::ast::{Array, DataType, Expr, Value};

use super::{call, cast, cast_of, text};
use crate::error::{Error, Result, SqlState};

/// Items in one literal.
const ITEMS_MAX: usize = 100_000;

/// The items of a literal as a constructor of that type.
///
/// # Errors
/// 22P02 for what is no array, 0A000 for one of arrays.
pub(super) fn of_literal(written: &str, item: &DataType) -> Result<Expr> {
    let items = items_of(written)?;
    if items.is_empty() {
        return Ok(call("make_array", Vec::new()));
    }
    let items = items.into_iter().map(|(value, _)| {
        let value = value.map_or_else(|| Expr::value(Value::Null), |value| text(&value));
        let mut typed = cast_of(value, item.clone());
        cast::rewrite(&mut typed)?;
        Ok(typed)
    });
    Ok(Expr::Array(Array { elem: items.collect::<Result<_>>()?, named: true }))
}

/// The items of what stands behind ANY: numbers if all of them are, else texts.
///
/// # Errors
/// 22P02 for what is no array, 0A000 for one of arrays.
pub(super) fn of_any(written: &str) -> Result<Expr> {
    let items = items_of(written)?;
    if items.is_empty() {
        return Ok(call("make_array", Vec::new()));
    }
    // 007 is a text, or it would not be found again as one.
    let is_number = |value: &str| value.parse::<i64>().is_ok_and(|number| number.to_string() == value);
    let numbers = items.iter().all(|(value, quoted)| !quoted && value.as_deref().is_none_or(is_number));
    let items = items.into_iter().map(|(value, _)| match value {
        None => Expr::value(Value::Null),
        Some(value) if numbers => Expr::value(Value::Number(value, false)),
        Some(value) => text(&value),
    });
    Ok(Expr::Array(Array { elem: items.collect(), named: true }))
}

/// Items, and whether they stand in quotes; NULL is `None`.
fn items_of(written: &str) -> Result<Vec<(Option<String>, bool)>> {
    let malformed = || {
        Error::new(SqlState::InvalidTextRepresentation, format!("malformed array literal: \"{written}\""))
            .with_hint("write it as '{a,b}', an item with a comma in double quotes")
    };
    let inside = written.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(malformed)?;
    let mut items = Vec::new();
    if inside.trim().is_empty() {
        return Ok(items);
    }
    let mut item = String::new();
    let (mut in_quotes, mut quoted) = (false, false);
    let mut chars = inside.chars();
    loop {
        let next = chars.next();
        match next {
            Some('\\') => item.push(chars.next().ok_or_else(malformed)?),
            Some('"') if in_quotes => in_quotes = false,
            Some('"') if item.trim().is_empty() && !quoted => {
                item.clear();
                (in_quotes, quoted) = (true, true);
            }
            Some(char) if in_quotes => item.push(char),
            None if in_quotes => return Err(malformed()),
            Some(',') | None => {
                let value = if quoted { item.clone() } else { item.trim().to_owned() };
                if value.is_empty() && !quoted {
                    return Err(malformed());
                }
                let is_null = !quoted && value.eq_ignore_ascii_case("null");
                items.push(((!is_null).then_some(value), quoted));
                if items.len() > ITEMS_MAX {
                    return Err(Error::new(SqlState::ProgramLimitExceeded, "an array literal has too many items")
                        .with_hint("send it as a parameter"));
                }
                item.clear();
                quoted = false;
                if next.is_none() {
                    return Ok(items);
                }
            }
            Some('{') => {
                return Err(
                    Error::unsupported("an array of arrays, written as text").with_hint("write ARRAY[ARRAY[…], …]")
                );
            }
            Some(char) if char.is_whitespace() && quoted => {}
            Some(_) if quoted => return Err(malformed()),
            Some(char) => item.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read_as_postgres_reads_them() {
        let read = |written: &str| -> Vec<Option<String>> {
            items_of(written).unwrap().into_iter().map(|(value, _)| value).collect()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("{1, 2 ,NULL}"), [some("1"), some("2"), None]);
        assert_eq!(
            read("{\"a,b\",\"\",\"NULL\",c\\,d,\"q\\\"\"}"),
            [some("a,b"), some(""), some("NULL"), some("c,d"), some("q\"")]
        );
        assert_eq!(read("{ }"), []);
        for wrong in ["{1", "1}", "{1,}", "{\"a}", "{\"a\"b}", "{,}"] {
            assert_eq!(items_of(wrong).unwrap_err().state, SqlState::InvalidTextRepresentation, "{wrong}");
        }
        assert_eq!(items_of("{{1},{2}}").unwrap_err().state, SqlState::FeatureNotSupported);
    }
}
