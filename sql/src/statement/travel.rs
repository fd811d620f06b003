//! `FOR SYSTEM_TIME AS OF`, cut out of the tokens before sqlparser sees them: its Postgres dialect has no such words.
//!
//! The relation gets a name that no identifier can be by accident, so that one statement may read a relation as of several
//! times; the planner resolves it to the relation as of that time. An alias may stand before the words, as BigQuery has
//! it, or behind the time, as SQL:2011 has it.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Ident, ObjectName, ObjectNamePart, TableAlias, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::cursor::{Cursor, Places};
use super::parse::syntax_error;
use super::{Name, Travel};
use crate::error::{Error, Result, SqlState};

/// What no written identifier begins with.
const MARKER: &str = "\u{1}as of ";
/// Times of one statement, at the most.
const TRAVELS_MAX: usize = 100;

/// Cuts: the tokens without the words and times, and the relations whose names were replaced.
pub(crate) fn cut(tokens: &[TokenWithSpan], places: &Places) -> Result<(Vec<TokenWithSpan>, Vec<Travel>)> {
    let mut cursor = Cursor::new(tokens, places);
    let (mut kept, mut travels) = (Vec::with_capacity(tokens.len()), Vec::new());
    while let Some(token) = cursor.rest().first() {
        let position = cursor.position();
        if !cursor.eat(&["for", "system_time"]) {
            kept.push(token.clone());
            cursor.take();
            continue;
        }
        if !cursor.eat(&["as", "of"]) {
            return Err(Error::unsupported("FOR SYSTEM_TIME but AS OF").with_position(position).with_hint(
                "FOR SYSTEM_TIME AS OF reads one moment; _committed_at of topics.\"name\" tells versions apart",
            ));
        }
        if travels.len() == TRAVELS_MAX {
            let message = format!("statement reads relations as of more than {TRAVELS_MAX} times");
            return Err(Error::new(SqlState::ProgramLimitExceeded, message).with_position(position));
        }
        let mut parser = Parser::new(&PostgreSqlDialect {}).with_tokens_with_locations(cursor.rest().to_vec());
        let at = parser.parse_expr().map_err(|error| syntax_error(error, tokens, places))?;
        for _ in 0..parser.index() {
            cursor.take();
        }
        let marker = format!("{MARKER}{}", travels.len());
        let source = rename(&mut kept, &marker, places).ok_or_else(|| {
            Error::unsupported("FOR SYSTEM_TIME AS OF behind anything but a relation")
                .with_position(position)
                .with_hint("put it behind each relation: FROM orders FOR SYSTEM_TIME AS OF '2026-01-01' AS o")
        })?;
        travels.push(Travel { marker, source, at: Box::new(at), position });
    }
    Ok((kept, travels))
}

/// Gives the relation that the tokens end with the name `marker`; `None` if they end with something else.
fn rename(tokens: &mut [TokenWithSpan], marker: &str, places: &Places) -> Option<Name> {
    let name = name_at(tokens)?;
    let token = tokens.get_mut(name)?;
    let Token::Word(word) = &token.token else { return None };
    let value = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
    let source = Name { value, position: places.position(token.span.start).unwrap_or(1) };
    let (value, quote_style, keyword) = (marker.to_owned(), Some('"'), Keyword::NoKeyword);
    token.token = Token::Word(Word { value, quote_style, keyword });
    Some(source)
}

/// Where the last part of the relation's name stands, with an alias behind it or without.
fn name_at(tokens: &[TokenWithSpan]) -> Option<usize> {
    let token = |back: usize| tokens.len().checked_sub(back).and_then(|at| tokens.get(at)).map(|token| &token.token);
    let is = |back: usize, keywords: &[&str]| match token(back) {
        Some(Token::Word(word)) => {
            word.quote_style.is_none() && keywords.iter().any(|keyword| word.value.eq_ignore_ascii_case(keyword))
        }
        _ => false,
    };
    let begins = |back: usize| {
        is(back, &["from", "join", "only", "table", "using"])
            || matches!(token(back), Some(Token::Comma | Token::LParen))
    };
    let is_name = |back: usize| matches!(token(back), Some(Token::Word(_))) && !begins(back);
    if !is_name(1) {
        return None;
    }
    let last = match () {
        () if begins(2) || token(2) == Some(&Token::Period) => 1,
        () if is(2, &["as"]) => 3,
        () => 2,
    };
    // What stands before must begin a relation: one part of the name is the schema.
    let first = if token(last + 1) == Some(&Token::Period) { last + 2 } else { last };
    (is_name(last) && is_name(first) && begins(first + 1)).then(|| tokens.len() - last)
}

/// Lets the relations be known in the statement by the names that were written.
pub(crate) fn attach(query: &mut ast::Query, travels: &[Travel]) {
    if !travels.is_empty() {
        let _ = query.visit(&mut Attach { travels });
    }
}

struct Attach<'a> {
    travels: &'a [Travel],
}

impl VisitorMut for Attach<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias: alias @ None, .. } = table
            && let Some(travel) =
                last_of(name).and_then(|last| self.travels.iter().find(|travel| travel.marker == last))
        {
            let name = Ident::with_quote('"', travel.source.value.clone());
            *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
        }
        ControlFlow::Continue(())
    }
}

fn last_of(name: &ObjectName) -> Option<&str> {
    name.0.last().and_then(ObjectNamePart::as_ident).map(|ident| ident.value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::Sentence;
    use crate::statement::parse::parse;

    fn travels(sql: &str) -> (String, Vec<(String, String)>) {
        let Sentence::Query(query) = parse(sql).unwrap().remove(0).sentence else { panic!("a query") };
        let mut tree = query.query.to_string();
        for (number, travel) in query.travels.iter().enumerate() {
            tree = tree.replace(&travel.marker, &format!("marker{number}"));
        }
        (tree, query.travels.iter().map(|travel| (travel.source.value.clone(), travel.at.to_string())).collect())
    }

    fn pair(name: &str, at: &str) -> (String, String) {
        (name.to_owned(), at.to_owned())
    }

    #[test]
    fn each_relation_has_its_own_time_and_goes_by_its_own_name() {
        let (tree, found) = travels(
            "SELECT a.x FROM Orders FOR SYSTEM_TIME AS OF now() - interval '1 hour' AS a JOIN topics.\"B\" \
             for system_time as of $1 ON a.x = b.x, public.c AS d FOR SYSTEM_TIME AS OF '2026-01-01' WHERE a.x > 1",
        );
        assert_eq!(
            tree,
            "SELECT a.x FROM \"marker0\" AS a JOIN topics.\"marker1\" AS \"B\" ON a.x = b.x, public.\"marker2\" AS d \
             WHERE a.x > 1"
        );
        assert_eq!(found, [pair("orders", "now() - INTERVAL '1 hour'"), pair("B", "$1"), pair("c", "'2026-01-01'")]);
    }

    #[test]
    fn it_stands_in_subqueries_and_before_whatever_follows_a_relation() {
        for (sql, name) in [
            ("WITH c AS (SELECT * FROM t FOR SYSTEM_TIME AS OF timestamptz '2026-01-01') SELECT * FROM c", "t"),
            ("SELECT * FROM (SELECT * FROM u FOR SYSTEM_TIME AS OF '2026-01-01' LIMIT 1) AS x", "u"),
            ("SELECT * FROM v w FOR SYSTEM_TIME AS OF '2026-01-01' ORDER BY 1", "v"),
            ("SELECT * FROM s FOR SYSTEM_TIME AS OF '2026-01-01' UNION ALL SELECT 1", "s"),
            (
                "SELECT k, count(*) FROM s FOR SYSTEM_TIME AS OF '2026-01-01' WINDOW TUMBLING (SIZE 1 MINUTE) GROUP BY k",
                "s",
            ),
        ] {
            let (_, found) = travels(sql);
            assert_eq!(found.len(), 1, "{sql}");
            assert_eq!(found[0].0, name, "{sql}");
        }
    }

    #[test]
    fn what_has_no_past_is_refused_with_its_place() {
        for sql in [
            "SELECT * FROM (SELECT 1) AS x FOR SYSTEM_TIME AS OF '2026-01-01'",
            "SELECT * FROM (SELECT 1) x FOR SYSTEM_TIME AS OF '2026-01-01'",
            "SELECT * FROM f(1) FOR SYSTEM_TIME AS OF '2026-01-01'",
            "SELECT * FROM t FOR SYSTEM_TIME BETWEEN 1 AND 2",
        ] {
            let error = parse(sql).unwrap_err();
            assert_eq!(error.state, SqlState::FeatureNotSupported, "{sql}");
            assert!(error.position.is_some() && error.hint.is_some(), "{sql}");
        }
        assert_eq!(parse("SELECT * FROM t FOR SYSTEM_TIME AS OF").unwrap_err().state, SqlState::SyntaxError);
        let many = "SELECT 1".to_owned() + &" UNION ALL SELECT 1 FROM t FOR SYSTEM_TIME AS OF 'x'".repeat(101);
        assert_eq!(parse(&many).unwrap_err().state, SqlState::ProgramLimitExceeded);
    }
}
