//! DEFAULT and CHECK of a declaration, from tokens: expressions are kept as they were written.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::CheckDefinition;
use super::cursor::Cursor;
use crate::error::{Error, Result};

/// Words that end a DEFAULT's expression, outside of parentheses.
const ENDS: [&str; 12] = [
    "not",
    "null",
    "check",
    "constraint",
    "primary",
    "key",
    "headers",
    "unique",
    "references",
    "generated",
    "collate",
    "default",
];

/// The expression behind DEFAULT, and where it stands.
///
/// # Errors
/// 42601 where there is none.
pub(super) fn default(cursor: &mut Cursor<'_>) -> Result<(String, usize)> {
    let position = cursor.position();
    let (rest, start) = (cursor.rest(), cursor.index());
    let mut depth = 0_usize;
    while let Some(token) = cursor.peek() {
        let ends = ENDS.iter().any(|word| cursor.at(&[word])) && cursor.index() > start;
        match token {
            Token::Comma | Token::RParen if depth == 0 => break,
            Token::Word(_) if depth == 0 && ends => break,
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            _ => {}
        }
        cursor.take();
    }
    let taken = rest.get(..cursor.index() - start).unwrap_or(&[]);
    let (Some(first), Some(last)) = (taken.first(), taken.last()) else {
        return Err(cursor.expected("an expression"));
    };
    Ok((cursor.places().between(first.span.start, last.span.end).to_owned(), position))
}

/// `[CONSTRAINT name] CHECK (condition)` behind a column or by itself, if it comes next.
///
/// # Errors
/// 42601; 0A000 for a constraint of another kind.
pub(super) fn check(cursor: &mut Cursor<'_>, column: Option<&str>) -> Result<Option<CheckDefinition>> {
    let named = cursor.at(&["constraint"]) && matches!(cursor.peek_at(1), Some(Token::Word(_)));
    let mut ahead = cursor.clone();
    let name = if named {
        ahead.take();
        Some(ahead.identifier("a constraint's name")?.1.value)
    } else {
        None
    };
    if !ahead.eat(&["check"]) {
        return Ok(None);
    }
    let position = ahead.position();
    let tokens = ahead.parenthesized()?;
    let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
        return Err(ahead.expected("a condition"));
    };
    let expression = ahead.places().between(first.span.start, last.span.end).to_owned();
    if ahead.at(&["no", "inherit"]) || ahead.at(&["not", "valid"]) {
        return Err(Error::unsupported("NO INHERIT or NOT VALID")
            .with_position(ahead.position())
            .with_hint("leave it out"));
    }
    *cursor = ahead;
    Ok(Some(CheckDefinition { name, column: column.map(str::to_owned), expression, position }))
}
