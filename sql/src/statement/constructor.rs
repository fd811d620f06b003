//! ksqlDB's constructors, `STRUCT(a := 1)` and `MAP('k' := 1)`, as the functions that DataFusion has for them.
//!
//! `:=` stands for nothing else in a query, so a call with it at its own depth is one of these and no other function.

use std::borrow::Cow;

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

/// The tokens with each constructor spelled out. Anything else stays as it is, with its place.
pub(crate) fn spelled_out(tokens: &[TokenWithSpan]) -> Cow<'_, [TokenWithSpan]> {
    if !tokens.iter().any(|token| token.token == Token::Assignment) {
        return Cow::Borrowed(tokens);
    }
    let mut out = Vec::with_capacity(tokens.len());
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        match constructor_at(tokens, index) {
            Some((kind, entries, end)) => {
                match kind {
                    Kind::Struct => write_struct(&entries, &mut out),
                    Kind::Map => write_map(&entries, &mut out),
                }
                index = end;
            }
            None => {
                out.push(token.clone());
                index += 1;
            }
        }
    }
    Cow::Owned(out)
}

#[derive(Clone, Copy)]
enum Kind {
    Struct,
    Map,
}

/// What stands left and right of one `:=`.
type Entry<'a> = (&'a [TokenWithSpan], &'a [TokenWithSpan]);

/// A constructor that begins here: its kind, its entries, and where it ends.
fn constructor_at(tokens: &[TokenWithSpan], start: usize) -> Option<(Kind, Vec<Entry<'_>>, usize)> {
    let Token::Word(word) = &tokens.get(start)?.token else { return None };
    let kind = match () {
        () if word.quote_style.is_some() => return None,
        () if word.value.eq_ignore_ascii_case("struct") => Kind::Struct,
        () if word.value.eq_ignore_ascii_case("map") => Kind::Map,
        () => return None,
    };
    if tokens.get(start + 1)?.token != Token::LParen {
        return None;
    }
    let inside = tokens.get(start + 2..)?;
    let (mut depth, mut entries) = (0_usize, Vec::new());
    let (mut begin, mut assignment) = (0, None);
    for (index, token) in inside.iter().enumerate() {
        match token.token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::Assignment if depth == 0 && assignment.is_none() => assignment = Some(index),
            Token::Comma | Token::RParen if depth == 0 => {
                let middle = assignment.take()?;
                entries.push((inside.get(begin..middle)?, inside.get(middle + 1..index)?));
                begin = index + 1;
                if token.token == Token::RParen {
                    return Some((kind, entries, start + 2 + index + 1));
                }
            }
            Token::RParen | Token::RBracket | Token::RBrace => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// `named_struct('a', 1, …)`.
fn write_struct(entries: &[Entry<'_>], out: &mut Vec<TokenWithSpan>) {
    out.extend([word("named_struct"), made(Token::LParen)]);
    for (index, (name, value)) in entries.iter().enumerate() {
        if index > 0 {
            out.push(made(Token::Comma));
        }
        match name {
            // A field's name is never computed.
            [TokenWithSpan { token: Token::Word(name), span }] => {
                let folded = if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() };
                out.push(TokenWithSpan::new(Token::SingleQuotedString(folded), *span));
            }
            other => out.extend_from_slice(&spelled_out(other)),
        }
        out.push(made(Token::Comma));
        out.extend_from_slice(&spelled_out(value));
    }
    out.push(made(Token::RParen));
}

/// `map(make_array('k', …), make_array(1, …))`.
fn write_map(entries: &[Entry<'_>], out: &mut Vec<TokenWithSpan>) {
    out.extend([word("map"), made(Token::LParen)]);
    write_array(entries.iter().map(|(key, _)| *key), out);
    out.push(made(Token::Comma));
    write_array(entries.iter().map(|(_, value)| *value), out);
    out.push(made(Token::RParen));
}

fn write_array<'a>(items: impl Iterator<Item = &'a [TokenWithSpan]>, out: &mut Vec<TokenWithSpan>) {
    out.extend([word("make_array"), made(Token::LParen)]);
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(made(Token::Comma));
        }
        out.extend_from_slice(&spelled_out(item));
    }
    out.push(made(Token::RParen));
}

fn made(token: Token) -> TokenWithSpan {
    TokenWithSpan::new(token, Span::empty())
}

fn word(value: &str) -> TokenWithSpan {
    made(Token::make_word(value, None))
}

#[cfg(test)]
mod tests {
    use super::super::cursor::tokenize;
    use super::*;

    fn spelled(sql: &str) -> String {
        let tokens = tokenize(sql).unwrap();
        spelled_out(&tokens).iter().map(|token| token.token.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn constructors_become_functions_however_deep() {
        assert_eq!(
            spelled("SELECT STRUCT(a := 1, \"B\" := MAP('k' := ARRAY[1, 2])) FROM s"),
            "SELECT named_struct ( 'a' , 1 , 'B' , map ( make_array ( 'k' ) , make_array ( ARRAY [ 1 , 2 ] ) ) ) FROM s"
        );
        assert_eq!(
            spelled("map('a' := f(1, 2), 'b' := NULL)"),
            "map ( make_array ( 'a' , 'b' ) , make_array ( f ( 1 , 2 ) , NULL ) )"
        );
    }

    #[test]
    fn other_calls_of_these_names_stay_as_they_are() {
        for sql in ["struct ( a , b )", "map ( x , y )", "MAP { 'a' : 1 }", "f ( a := 1 )", "struct ( a := 1", "map"] {
            assert_eq!(spelled(sql), sql);
        }
    }
}
