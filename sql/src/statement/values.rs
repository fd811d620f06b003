//! `INSERT INTO name VALUES …` of nothing but literals and parameters, read from the tokens: thousands of rows without a
//! syntax tree of their expressions. `RETURNING` of columns may follow. Anything else in it is left to the parser, errors too.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{Expr, SelectItem};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

use super::cursor::{Cursor, Places, tokenize};
use super::parse::insert_by_parser;
use super::{Insert, Name, Returning};
use crate::error::Result;

/// `INSERT INTO name [(columns)] VALUES (literal, …), …`.
#[derive(Clone, Debug)]
pub(crate) struct InsertValues {
    /// Where to.
    pub(crate) name: Name,
    /// Folded names with their places; empty: all, in declared order.
    pub(crate) columns: Vec<Name>,
    /// Values of each row.
    pub(crate) width: usize,
    /// Row after row.
    pub(crate) cells: Vec<Cell>,
    /// RETURNING of columns.
    pub(crate) returning: Option<Returning>,
    /// The statement, and where in the text it begins.
    text: String,
    start: Location,
    places: Arc<Places>,
}

/// One value, and where it stands: a character of the text, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// What it is.
    pub(crate) literal: Literal,
    /// Where.
    pub(crate) position: u32,
}

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Literal {
    /// NULL.
    Null,
    /// DEFAULT.
    Default,
    /// TRUE, FALSE.
    Boolean(bool),
    /// With its sign.
    Number(String),
    /// In quotes.
    Text(String),
    /// `$1` is 1.
    Parameter(usize),
}

impl InsertValues {
    /// Reads it, if it is nothing but that.
    pub(crate) fn read(tokens: &[TokenWithSpan], places: &Arc<Places>, text: &str) -> Option<Self> {
        let start = tokens.first()?.span.start;
        let mut cursor = Cursor::new(tokens, places);
        if !cursor.eat(&["insert", "into"]) {
            return None;
        }
        let name = cursor.relation_name().ok()?;
        let mut columns = Vec::new();
        if cursor.eat_token(&Token::LParen) {
            loop {
                columns.push(cursor.identifier("a column").ok()?.1);
                if cursor.eat_token(&Token::RParen) {
                    break;
                }
                cursor.expect_token(&Token::Comma).ok()?;
            }
        }
        if !cursor.eat(&["values"]) {
            return None;
        }
        let (mut cells, mut width) = (Vec::new(), 0);
        loop {
            let row = row(&mut cursor, &mut cells)?;
            if width != 0 && width != row {
                return None;
            }
            width = row;
            if !cursor.eat_token(&Token::Comma) {
                break;
            }
        }
        let mut returning = None;
        if cursor.eat(&["returning"]) {
            returning = Some(Returning { items: columns_of(cursor.rest())?, places: Arc::clone(places) });
        } else if !cursor.at_end() {
            return None;
        }
        let (text, places) = (text.to_owned(), Arc::clone(places));
        Some(Self { name, columns, width, cells, returning, text, start, places })
    }

    /// The same statement as the parser reads it.
    ///
    /// # Errors
    /// What the parser says.
    pub(crate) fn as_insert(&self) -> Result<Insert> {
        let moved = |place: Location| match place.line {
            1 => Location { line: self.start.line, column: self.start.column + place.column - 1 },
            line => Location { line: self.start.line + line - 1, column: place.column },
        };
        let mut tokens = tokenize(&self.text)?;
        for token in &mut tokens {
            token.span = Span { start: moved(token.span.start), end: moved(token.span.end) };
        }
        insert_by_parser(&tokens, &self.places)
    }
}

/// A select list, if it is nothing but columns.
fn columns_of(tokens: &[TokenWithSpan]) -> Option<Vec<SelectItem>> {
    let mut parser = Parser::new(&PostgreSqlDialect {}).with_tokens_with_locations(tokens.to_vec());
    let items = parser.parse_comma_separated(Parser::parse_select_item).ok()?;
    let is_column = |item: &SelectItem| match item {
        SelectItem::Wildcard(_) => true,
        SelectItem::UnnamedExpr(expr) => matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)),
        _ => false,
    };
    (parser.peek_token().token == Token::EOF && items.iter().all(is_column)).then_some(items)
}

/// Adds one row's values; how many there are.
fn row(cursor: &mut Cursor<'_>, cells: &mut Vec<Cell>) -> Option<usize> {
    if !cursor.eat_token(&Token::LParen) {
        return None;
    }
    let mut width = 0;
    loop {
        let position = u32::try_from(cursor.position()).unwrap_or(u32::MAX);
        cells.push(Cell { literal: literal(cursor)?, position });
        width += 1;
        match cursor.take() {
            Some(Token::Comma) => {}
            Some(Token::RParen) => return Some(width),
            _ => return None,
        }
    }
}

fn literal(cursor: &mut Cursor<'_>) -> Option<Literal> {
    let negative = cursor.eat_token(&Token::Minus);
    Some(match cursor.take()? {
        Token::Number(digits, _) if negative => Literal::Number(format!("-{digits}")),
        Token::Number(digits, _) => Literal::Number(digits.clone()),
        _ if negative => return None,
        Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => Literal::Text(text.clone()),
        Token::DollarQuotedString(text) => Literal::Text(text.value.clone()),
        Token::Placeholder(name) => Literal::Parameter(name.strip_prefix('$')?.parse().ok()?),
        Token::Word(word) if word.quote_style.is_none() => match word.value.to_ascii_lowercase().as_str() {
            "null" => Literal::Null,
            "default" => Literal::Default,
            "true" => Literal::Boolean(true),
            "false" => Literal::Boolean(false),
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::Sentence;
    use crate::statement::parse::parse;

    fn read(sql: &str) -> Option<InsertValues> {
        match parse(sql).unwrap().remove(0).sentence {
            Sentence::InsertValues(insert) => Some(insert),
            Sentence::Insert(_) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn literals_and_parameters_are_read_with_their_places() {
        let insert =
            read("INSERT INTO t (a, \"B\") VALUES (1, -2.5), ('x''y', E'\\n'), (NULL, true), ($2, default)").unwrap();
        assert_eq!((insert.name.value.as_str(), insert.columns[1].value.as_str(), insert.width), ("t", "B", 2));
        let literals: Vec<_> = insert.cells.iter().map(|cell| cell.literal.clone()).collect();
        let (number, text) =
            (|text: &str| Literal::Number(text.to_owned()), |text: &str| Literal::Text(text.to_owned()));
        assert_eq!(
            literals,
            [
                number("1"),
                number("-2.5"),
                text("x'y"),
                text("\n"),
                Literal::Null,
                Literal::Boolean(true),
                Literal::Parameter(2),
                Literal::Default,
            ]
        );
        assert_eq!(insert.cells[1].position, 35);
        let returning = |sql| read(sql).unwrap().returning.unwrap().items.len();
        assert_eq!(returning("INSERT INTO t VALUES (1) RETURNING *"), 1);
        assert_eq!(returning("INSERT INTO t VALUES (1) RETURNING a, t.\"B\""), 2);
    }

    #[test]
    fn what_computes_is_left_to_the_parser_and_can_be_given_to_it_later() {
        for sql in [
            "INSERT INTO t VALUES (1 + 1)",
            "INSERT INTO t VALUES (now())",
            "INSERT INTO t VALUES ('1'::int)",
            "INSERT INTO t VALUES (1) , (2), (DATE '2024-01-01')",
            "INSERT INTO t SELECT 1",
            "INSERT INTO t VALUES (1) RETURNING a + 1",
            "INSERT INTO t VALUES (1) RETURNING a AS b",
            "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING RETURNING a",
        ] {
            assert!(read(sql).is_none(), "{sql}");
        }
        let statements = parse("SELECT 1;\n  INSERT INTO t\nVALUES (1)").unwrap();
        let Sentence::InsertValues(insert) = &statements[1].sentence else { panic!("values") };
        let parsed = insert.as_insert().unwrap();
        assert_eq!((parsed.name.position, insert.name.position), (25, 25));
        assert_eq!(parsed.source.query.to_string(), "VALUES (1)");
    }
}
