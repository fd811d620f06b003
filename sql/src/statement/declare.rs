//! DECLARE, FETCH, MOVE and CLOSE: a query's rows in portions, forward only.

use std::sync::Arc;

use datafusion::sql::sqlparser::tokenizer::Token;

use super::cursor::{Cursor, Places};
use super::parse::query_of;
use super::{Name, Sentence, WindowedQuery};
use crate::error::{Error, Result};

/// `DECLARE name [NO SCROLL] CURSOR [WITH HOLD] FOR query`.
#[derive(Clone, Debug)]
pub(crate) struct Declare {
    pub(crate) name: Name,
    /// It outlives its transaction.
    pub(crate) holds: bool,
    pub(crate) query: WindowedQuery,
}

/// `FETCH | MOVE [FORWARD] [n | ALL] [FROM | IN] name`.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    pub(crate) name: Name,
    /// `None`: all that are left.
    pub(crate) rows_max: Option<u64>,
    /// FETCH; MOVE passes over them.
    pub(crate) shows: bool,
}

const FORWARD: &str = "a cursor goes forward: FETCH [FORWARD] n | ALL FROM name";

/// DECLARE, the word taken.
pub(super) fn declare(cursor: &mut Cursor<'_>, places: &Arc<Places>) -> Result<Sentence> {
    let (_, name) = cursor.identifier("a cursor's name")?;
    while !cursor.eat(&["cursor"]) {
        let position = cursor.position();
        if cursor.eat(&["scroll"]) || cursor.eat(&["binary"]) {
            let error = Error::unsupported("DECLARE … SCROLL or BINARY").with_position(position);
            return Err(
                error.with_hint("leave the word out: a cursor goes forward, the client says which format it wants")
            );
        }
        if !(cursor.eat(&["no", "scroll"]) || cursor.eat(&["insensitive"]) || cursor.eat(&["asensitive"])) {
            return Err(cursor.expected("CURSOR"));
        }
    }
    let holds = cursor.eat(&["with", "hold"]);
    if !holds {
        cursor.eat(&["without", "hold"]);
    }
    cursor.expect(&["for"])?;
    let begins = ["select", "with", "values", "table"].iter().any(|word| cursor.at(&[word]));
    if !begins && cursor.peek() != Some(&Token::LParen) {
        return Err(cursor.expected("a query"));
    }
    let query = query_of(cursor.rest(), places)?;
    if query.emit.is_some() {
        return Err(Error::unsupported("a cursor over EMIT CHANGES")
            .with_hint("the query itself, or COPY (SELECT …) TO STDOUT, sends each change as it comes"));
    }
    Ok(Sentence::Declare(Box::new(Declare { name, holds, query })))
}

/// FETCH or MOVE, the word taken.
pub(super) fn fetch(cursor: &mut Cursor<'_>, shows: bool) -> Result<Sentence> {
    let position = cursor.position();
    let backward = [&["prior"], &["first"], &["last"], &["absolute"], &["relative"], &["backward"]];
    // Any of these may be the cursor's name.
    let says_how = cursor.peek_at(1).is_some();
    if says_how && (backward.iter().any(|words| cursor.at(*words)) || cursor.peek() == Some(&Token::Minus)) {
        return Err(Error::unsupported("FETCH backward").with_position(position).with_hint(FORWARD));
    }
    let rows_max = match () {
        () if !says_how => Some(1),
        () if cursor.eat(&["next"]) => Some(1),
        () if cursor.eat(&["all"]) || cursor.eat(&["forward", "all"]) => None,
        () => {
            let forward = cursor.eat(&["forward"]);
            match cursor.peek() {
                Some(Token::Number(..)) => Some(u64::try_from(cursor.number("a number of rows")?).unwrap_or(0)),
                Some(Token::Minus) if forward => {
                    return Err(Error::unsupported("FETCH backward").with_position(position).with_hint(FORWARD));
                }
                _ => Some(1),
            }
        }
    };
    if rows_max == Some(0) {
        let error = Error::unsupported("FETCH 0, the row where the cursor stands").with_position(position);
        return Err(error.with_hint(FORWARD));
    }
    if !cursor.eat(&["from"]) {
        cursor.eat(&["in"]);
    }
    let (_, name) = cursor.identifier("a cursor's name")?;
    cursor.end()?;
    Ok(Sentence::Fetch(Fetch { name, rows_max, shows }))
}

/// CLOSE, the word taken.
pub(super) fn close(cursor: &mut Cursor<'_>) -> Result<Sentence> {
    let name = if cursor.eat(&["all"]) { None } else { Some(cursor.identifier("a cursor's name")?.1) };
    cursor.end()?;
    Ok(Sentence::Close(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::parse::parse;

    fn one(sql: &str) -> Result<Sentence> {
        parse(sql).map(|mut parsed| parsed.remove(0).sentence)
    }

    #[test]
    fn a_portion_says_how_many_and_of_which() {
        for (sql, rows_max, name) in [
            ("FETCH c", Some(1), "c"),
            ("FETCH next FROM c", Some(1), "c"),
            ("FETCH 10 IN \"C\"", Some(10), "C"),
            ("FETCH FORWARD 7 FROM c", Some(7), "c"),
            ("FETCH FORWARD c", Some(1), "c"),
            ("FETCH ALL FROM c", None, "c"),
            ("MOVE FORWARD ALL IN c", None, "c"),
            ("FETCH prior", Some(1), "prior"),
        ] {
            let Ok(Sentence::Fetch(fetch)) = one(sql) else { panic!("{sql}: {:?}", one(sql)) };
            assert_eq!((fetch.rows_max, fetch.name.value.as_str()), (rows_max, name), "{sql}");
            assert_eq!(fetch.shows, sql.starts_with("FETCH"));
        }
        for sql in
            ["FETCH PRIOR FROM c", "FETCH -1 FROM c", "FETCH FORWARD -1 FROM c", "FETCH 0 FROM c", "MOVE LAST IN c"]
        {
            assert_eq!(one(sql).unwrap_err().state.code(), "0A000", "{sql}");
        }
        assert_eq!(one("FETCH").unwrap_err().state.code(), "42601");
        assert_eq!(one("FETCH 1 FROM c d").unwrap_err().state.code(), "42601");
    }

    #[test]
    fn a_cursor_is_declared_forward_only() {
        for (sql, holds) in [
            ("DECLARE c CURSOR FOR SELECT 1", false),
            ("DECLARE c NO SCROLL CURSOR WITH HOLD FOR SELECT 1", true),
            ("DECLARE c INSENSITIVE CURSOR WITHOUT HOLD FOR VALUES (1)", false),
        ] {
            let Ok(Sentence::Declare(declare)) = one(sql) else { panic!("{sql}: {:?}", one(sql)) };
            assert_eq!((declare.holds, declare.name.value.as_str()), (holds, "c"));
        }
        for (sql, code) in [
            ("DECLARE c SCROLL CURSOR FOR SELECT 1", "0A000"),
            ("DECLARE c CURSOR FOR SELECT * FROM s EMIT CHANGES", "0A000"),
            ("DECLARE c FOR SELECT 1", "42601"),
            ("DECLARE c CURSOR FOR DELETE FROM t", "42601"),
        ] {
            assert_eq!(one(sql).unwrap_err().state.code(), code, "{sql}");
        }
    }
}
