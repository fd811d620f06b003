//! A query text becomes statements: tokenised once, split at semicolons, each read by its first words.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{self, Ident, Statement as Ast, TableObject};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::balance::balance;
use super::cursor::{Cursor, Places, lower_first, tokenize};
use super::window::{attach, cut, folded};
use super::{
    Insert, Name, Parsed, Sentence, WindowedQuery, alter, change, conflict, copy, declare, define, depth, settings,
    show, values,
};
use crate::error::{Error, Result, SqlState};

/// What `INSERT … DEFAULT VALUES` inserts: columns that are not named have their defaults.
const DEFAULT_VALUES: &str = "VALUES (DEFAULT)";
/// Statements of one text, at the most.
const STATEMENTS_MAX: usize = 10_000;

/// Splits and parses; an empty text is one empty statement.
pub(crate) fn parse(text: &str) -> Result<Vec<Parsed>> {
    let tokens = tokenize(text)?;
    let places = Arc::new(Places::new(text));
    let mut statements = Vec::new();
    for part in tokens.split(|token| token.token == Token::SemiColon) {
        let Some((first, last)) = part.first().zip(part.last()) else { continue };
        if statements.len() == STATEMENTS_MAX {
            let message = format!("query text has more than {STATEMENTS_MAX} statements");
            return Err(Error::new(SqlState::ProgramLimitExceeded, message).with_hint("send it in several texts"));
        }
        depth::check(part, &places)?;
        let text = places.between(first.span.start, last.span.end).to_owned();
        let sentence = sentence(part, &places, &text)?;
        statements.push(Parsed { text, sentence });
    }
    if statements.is_empty() {
        statements.push(Parsed { text: String::new(), sentence: Sentence::Empty });
    }
    Ok(statements)
}

fn sentence(tokens: &[TokenWithSpan], places: &Arc<Places>, text: &str) -> Result<Sentence> {
    let mut cursor = Cursor::new(tokens, places);
    if let Some(transaction) = settings::transaction(&mut cursor)? {
        return Ok(transaction);
    }
    match () {
        () if cursor.eat(&["create"]) => define::create(&mut cursor, places, text),
        () if cursor.eat(&["drop"]) => define::drop(&mut cursor),
        () if cursor.eat(&["alter"]) => alter::alter(&mut cursor),
        () if cursor.eat(&["show"]) || cursor.eat(&["list"]) => show::show(&mut cursor),
        () if cursor.eat(&["describe"]) || cursor.eat(&["desc"]) => show::describe(&mut cursor),
        () if cursor.eat(&["explain"]) => show::explain(&mut cursor, places),
        () if cursor.eat(&["terminate"]) => show::terminate(&mut cursor),
        () if cursor.eat(&["set"]) => settings::set(&mut cursor),
        () if cursor.eat(&["reset"]) => settings::reset(&mut cursor),
        () if cursor.eat(&["unset"]) => settings::reset(&mut cursor),
        () if cursor.eat(&["checkpoint"]) => cursor.end().map(|()| Sentence::Checkpoint),
        () if cursor.eat(&["call"]) => call(&mut cursor),
        () if cursor.eat(&["vacuum"]) => show::vacuum(&mut cursor),
        () if cursor.eat(&["copy"]) => copy::copy(&mut cursor, places),
        () if cursor.eat(&["discard"]) => discard(&mut cursor),
        () if cursor.eat(&["deallocate"]) => deallocate(&mut cursor),
        () if cursor.eat(&["declare"]) => declare::declare(&mut cursor, places),
        () if cursor.eat(&["fetch"]) => declare::fetch(&mut cursor, true),
        () if cursor.eat(&["move"]) => declare::fetch(&mut cursor, false),
        () if cursor.eat(&["close"]) => declare::close(&mut cursor),
        () if cursor.at(&["select"])
            || cursor.at(&["with"])
            || cursor.at(&["values"])
            || cursor.at(&["table"])
            || cursor.peek() == Some(&Token::LParen) =>
        {
            query_of(tokens, places).map(Sentence::Query)
        }
        () if cursor.at(&["insert"]) => match values::InsertValues::read(tokens, places, text) {
            Some(insert) => Ok(Sentence::InsertValues(insert)),
            None => insert_by_parser(tokens, places).map(Sentence::Insert),
        },
        () if cursor.at(&["update"]) => change::update(tokens, places),
        () if cursor.at(&["delete"]) => change::delete(tokens, places),
        () => Err(refused(&cursor)),
    }
}

/// Statements other databases have, by name; else a syntax error.
fn refused(cursor: &Cursor<'_>) -> Error {
    const KNOWN: &[(&str, &str)] = &[
        ("merge", "INSERT into a table with a primary key replaces the row of that key"),
        ("truncate", "DROP … DELETE TOPIC, then CREATE again"),
        ("pause", "TERMINATE ends a query for good"),
        ("resume", "TERMINATE ends a query for good"),
        ("print", "SELECT * FROM topics.\"name\""),
        ("listen", "COPY (SELECT … EMIT CHANGES) TO STDOUT follows a stream"),
        ("notify", "INSERT into a stream, and follow it with SELECT … EMIT CHANGES"),
        ("unlisten", "COPY (SELECT … EMIT CHANGES) TO STDOUT follows a stream"),
        ("prepare", "let the driver prepare: the extended protocol does"),
        ("execute", "let the driver prepare: the extended protocol does"),
        ("analyze", "statistics are kept by themselves"),
        ("grant", "there are no privileges: whoever connects may do all"),
        ("revoke", "there are no privileges: whoever connects may do all"),
        ("lock", "a commit is atomic without locks"),
    ];
    match KNOWN.iter().find(|(word, _)| cursor.at(&[word])) {
        Some((word, hint)) => Error::unsupported(word.to_uppercase()).with_position(cursor.position()).with_hint(*hint),
        None => {
            let found = cursor.peek().map_or_else(|| "end of input".to_owned(), |token| format!("\"{token}\""));
            Error::new(SqlState::SyntaxError, format!("syntax error at or near {found}"))
                .with_position(cursor.position())
        }
    }
}

/// A query from its tokens.
pub(crate) fn query_of(tokens: &[TokenWithSpan], places: &Arc<Places>) -> Result<WindowedQuery> {
    let text = text_of(tokens, places);
    let mut cut = cut(tokens, places)?;
    let seen = std::mem::take(&mut cut.tokens);
    let mut parser = Parser::new(&PostgreSqlDialect {}).with_tokens_with_locations(seen);
    let mut query = parser.parse_query().map_err(|error| syntax_error(error, tokens, places))?;
    expect_end(&parser, tokens, places)?;
    balance(&mut query);
    attach(query, cut, places, text)
}

/// Tokens as they were written.
pub(super) fn text_of(tokens: &[TokenWithSpan], places: &Places) -> String {
    let ends = tokens.first().zip(tokens.last());
    ends.map_or_else(String::new, |(first, last)| places.between(first.span.start, last.span.end).to_owned())
}

fn expect_end(parser: &Parser<'_>, tokens: &[TokenWithSpan], places: &Places) -> Result<()> {
    let next = parser.peek_token();
    if next.token == Token::EOF {
        return Ok(());
    }
    let error = Error::new(SqlState::SyntaxError, format!("syntax error at or near \"{}\"", next.token));
    let place = places.position(next.span.start).or_else(|| end_of(tokens, places));
    Err(place.into_iter().fold(error, Error::with_position))
}

fn end_of(tokens: &[TokenWithSpan], places: &Places) -> Option<usize> {
    tokens.last().and_then(|token| places.position(token.span.end))
}

/// sqlparser's words, with the place they name made a position.
pub(crate) fn syntax_error(error: ParserError, tokens: &[TokenWithSpan], places: &Places) -> Error {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
        ParserError::RecursionLimitExceeded => {
            return Error::new(SqlState::ProgramLimitExceeded, "statement is nested too deeply")
                .with_hint("split it with WITH");
        }
    };
    let (message, place) = match message.rsplit_once(" at Line: ") {
        Some((message, place)) => (message.to_owned(), location(place)),
        None => (message, None),
    };
    let position = place.and_then(|place| places.position(place)).or_else(|| end_of(tokens, places));
    let message = message.replace("found: EOF", "found: end of input");
    let error = Error::new(SqlState::SyntaxError, format!("syntax error: {}", lower_first(&message)));
    position.into_iter().fold(error, Error::with_position)
}

/// `3, Column: 14` as a place.
fn location(text: &str) -> Option<Location> {
    let (line, column) = text.split_once(", Column: ")?;
    Some(Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
}

/// One of sqlparser's statements.
pub(super) fn statement(tokens: &[TokenWithSpan], places: &Places) -> Result<Ast> {
    let mut parser = Parser::new(&PostgreSqlDialect {}).with_tokens_with_locations(tokens.to_vec());
    let mut statement = parser.parse_statement().map_err(|error| syntax_error(error, tokens, places))?;
    expect_end(&parser, tokens, places)?;
    balance(&mut statement);
    Ok(statement)
}

/// INSERT as sqlparser reads it.
pub(crate) fn insert_by_parser(tokens: &[TokenWithSpan], places: &Arc<Places>) -> Result<Insert> {
    let text = text_of(tokens, places);
    let cut = cut(tokens, places)?;
    if cut.emit.is_some() {
        return Err(Error::unsupported("INSERT … SELECT … EMIT CHANGES")
            .with_hint("CREATE STREAM … AS SELECT … EMIT CHANGES goes on by itself"));
    }
    let Ast::Insert(insert) = statement(&cut.tokens, places)? else {
        return Err(Cursor::new(tokens, places).expected("INSERT INTO"));
    };
    let TableObject::TableName(table) = &insert.table else {
        return Err(Error::unsupported("INSERT into a table function").with_hint("INSERT INTO name VALUES (…)"));
    };
    let name = object_name(table, places)?;
    if insert.table_alias.is_some() {
        return Err(Error::unsupported("an alias in INSERT").with_hint("leave it out"));
    }
    let columns = insert.columns.iter().map(|column| object_name(column, places)).collect::<Result<Vec<_>>>()?;
    let source = match insert.source {
        Some(source) => attach(source, cut, places, text)?,
        None => query_of(&tokenize(DEFAULT_VALUES)?, &Arc::new(Places::new(DEFAULT_VALUES)))?,
    };
    let conflict = insert.on.map(|on| conflict::conflict(on, places).map(Box::new)).transpose()?;
    let returning = insert.returning.map(|items| change::returned(items, places)).transpose()?;
    Ok(Insert { name, columns, source, conflict, returning })
}

/// A name of sqlparser's, `public.` taken off; `topics."x"` keeps its schema in the error.
pub(super) fn object_name(name: &ast::ObjectName, places: &Places) -> Result<Name> {
    let parts: Vec<&Ident> = name.0.iter().filter_map(ast::ObjectNamePart::as_ident).collect();
    let position = parts.first().and_then(|part| places.position(part.span.start)).unwrap_or(1);
    match parts.as_slice() {
        [last] => Ok(Name { value: folded(last), position }),
        [schema, last] if folded(schema) == "public" => Ok(Name { value: folded(last), position }),
        [schema, _] if folded(schema) == "topics" => Err(Error::unsupported("writing to a bare topic")
            .with_position(position)
            .with_hint("declare it: CREATE STREAM … WITH (kafka_topic = '…'), then INSERT into the stream")),
        _ => Err(Error::new(SqlState::ReadOnly, format!("{name} cannot be written"))
            .with_position(position)
            .with_hint("only relations of schema public are")),
    }
}

/// `CALL aquifer.abort_transaction('transactional id' | $1)`, the first word taken.
fn call(cursor: &mut Cursor<'_>) -> Result<Sentence> {
    const ONLY: &str = "CALL aquifer.abort_transaction('transactional id') is the only procedure";
    let position = cursor.position();
    let (_, mut name) = cursor.identifier("a procedure's name")?;
    while cursor.eat_token(&Token::Period) {
        name.value = format!("{}.{}", name.value, cursor.identifier("a procedure's name")?.1.value);
    }
    if name.value != "aquifer.abort_transaction" {
        let error = Error::unsupported(format!("CALL {}", name.value)).with_position(position);
        return Err(error.with_hint(ONLY));
    }
    cursor.expect_token(&Token::LParen)?;
    let parameter = cursor.eat_token(&Token::Placeholder("$1".to_owned()));
    let id = if parameter { None } else { cursor.text() };
    if id.is_none() && !parameter {
        return Err(cursor.expected("a transactional id in quotes, or $1").with_hint(ONLY));
    }
    cursor.expect_token(&Token::RParen)?;
    cursor.end()?;
    Ok(Sentence::AbortTransaction(id))
}

fn discard(cursor: &mut Cursor<'_>) -> Result<Sentence> {
    cursor.expect(&["all"])?;
    cursor.end()?;
    Ok(Sentence::Discard)
}

fn deallocate(cursor: &mut Cursor<'_>) -> Result<Sentence> {
    cursor.eat(&["prepare"]);
    let name = if cursor.eat(&["all"]) { None } else { Some(cursor.identifier("a name")?.1.value) };
    cursor.end()?;
    Ok(Sentence::Deallocate(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{Emit, RelationKind, WindowSpec};
    use aquifer_storage::record::format::ColumnType;

    fn one(sql: &str) -> Sentence {
        let mut statements = parse(sql).unwrap();
        assert_eq!(statements.len(), 1, "{sql}");
        statements.remove(0).sentence
    }

    #[test]
    fn emit_and_windows_are_cut_out_and_belong_to_their_select() {
        let Sentence::Query(query) = one(
            "SELECT x.k, x.n FROM (SELECT k, count(*) AS n FROM s AS a WINDOW TUMBLING (SIZE 5 MINUTES, GRACE PERIOD 1 \
             HOUR) GROUP BY k) AS x WHERE n > 1 EMIT CHANGES LIMIT 3",
        ) else {
            panic!("a query")
        };
        assert_eq!(query.emit, Some(Emit::Changes));
        let [window] = query.windows.as_slice() else { panic!("one window") };
        assert_eq!(window.source.value, "s");
        assert_eq!(window.spec, WindowSpec::Tumbling { size_ms: 300_000, grace_ms: Some(3_600_000) });
        let tree = query.query.to_string().replace(&window.marker, "marker");
        assert_eq!(
            tree,
            "SELECT x.k, x.n FROM (SELECT k, count(*) AS n, windowstart, windowend FROM \"marker\" AS a GROUP BY k, \
             windowstart, windowend) AS x WHERE n > 1 LIMIT 3"
        );
    }

    #[test]
    fn emit_and_window_are_names_where_they_are_used_as_names() {
        for sql in ["SELECT emit, changes FROM t", "SELECT window FROM t", "SELECT emit changes FROM t"] {
            let Sentence::Query(query) = one(sql) else { panic!("a query") };
            assert!(query.emit.is_none() && query.windows.is_empty(), "{sql}");
        }
        let Sentence::Query(query) = one("SELECT sum(a) OVER w FROM t WINDOW w AS (PARTITION BY b)") else {
            panic!("a query")
        };
        assert!(query.windows.is_empty());
    }

    #[test]
    fn a_declaration_s_columns_keep_their_case_for_json_and_fold_for_sql() {
        let Sentence::CreateRelation(create) = one(
            "CREATE STREAM IF NOT EXISTS Events (userId STRING KEY, \"Total\" DECIMAL(10, 2), tags ARRAY<MAP<STRING, \
             STRUCT<a INT, b ARRAY<BIGINT>>>>, at TIMESTAMP WITH TIME ZONE, n int[]) WITH (kafka_topic='e', partitions=4)",
        ) else {
            panic!("a declaration")
        };
        assert_eq!(
            (create.kind, create.name.value.as_str(), create.if_not_exists),
            (RelationKind::Stream, "events", true)
        );
        let columns = create.columns.unwrap();
        assert_eq!((columns[0].name.value.as_str(), columns[0].field.as_str()), ("userid", "userId"));
        assert_eq!(columns[1].name.value, "Total");
        assert_eq!(columns[1].kind, ColumnType::Decimal { precision: 10, scale: 2 });
        assert_eq!(columns[3].kind, ColumnType::TimestampTz);
        assert_eq!(columns[4].kind, ColumnType::Array(Box::new(ColumnType::Int)));
        assert_eq!(create.with[1].value, "4");
    }

    #[test]
    fn a_create_as_select_knows_its_text() {
        let sql = "CREATE TABLE t WITH (partitions=1) AS SELECT k, count(*) FROM s GROUP BY k EMIT CHANGES";
        let Sentence::CreateAsSelect(create) = one(sql) else { panic!("a query") };
        assert_eq!(create.text, sql);
        assert_eq!(create.query.text, "SELECT k, count(*) FROM s GROUP BY k EMIT CHANGES");
        assert_eq!(create.query.emit, Some(Emit::Changes));
    }

    #[test]
    fn texts_are_split_at_semicolons_outside_of_quotes() {
        let statements = parse("SELECT ';'; -- a ; comment\n ; SELECT 2").unwrap();
        let texts: Vec<_> = statements.iter().map(|parsed| parsed.text.as_str()).collect();
        assert_eq!(texts, ["SELECT ';'", "SELECT 2"]);
        assert!(matches!(parse(" -- nothing").unwrap()[0].sentence, Sentence::Empty));
    }

    #[test]
    fn errors_point_at_the_character() {
        let error = parse("SELECT 1;\nSELECT a FROM t WHERE )").unwrap_err();
        assert_eq!(error.state, SqlState::SyntaxError);
        assert_eq!(error.position, Some(33), "{error}");
        assert_eq!(parse("CREATE STREAM s (a BIGINT").unwrap_err().position, Some(26));
        assert_eq!(parse("FOO").unwrap_err().position, Some(1));
        assert_eq!(parse("SELECT 'a").unwrap_err().state, SqlState::SyntaxError);
    }

    #[test]
    fn a_procedure_we_lack_is_refused_by_its_name() {
        let id = |sql| match one(sql) {
            Sentence::AbortTransaction(id) => id.unwrap_or_else(|| "a parameter".to_owned()),
            other => panic!("{other:?}"),
        };
        assert_eq!(id("CALL aquifer.abort_transaction('orders; 1')"), "orders; 1");
        assert_eq!(id("call AQUIFER.Abort_Transaction ($$a$$)"), "a");
        assert_eq!(id("CALL aquifer.abort_transaction($1)"), "a parameter");
        assert_eq!(parse("CALL aquifer.abort_transaction($2)").unwrap_err().position, Some(32));
        let error = parse("CALL do_it(1)").unwrap_err();
        assert_eq!(error.state, SqlState::FeatureNotSupported);
        assert!(error.message.contains("CALL do_it") && error.hint.unwrap().contains("abort_transaction"));
        assert_eq!(parse("CALL aquifer.abort_transaction(1)").unwrap_err().position, Some(32));
        assert_eq!(parse("CALL aquifer.abort_transaction('a', 'b')").unwrap_err().state, SqlState::SyntaxError);
    }

    #[test]
    fn settings_and_blocks_are_read_as_drivers_write_them() {
        let Sentence::Set(set) = one("SET SESSION 'auto.offset.reset' = 'earliest'") else { panic!("a setting") };
        assert_eq!((set.name.as_str(), set.value.as_deref()), ("auto.offset.reset", Some("earliest")));
        let Sentence::Set(set) = one("SET search_path TO a, \"B\"") else { panic!("a setting") };
        assert_eq!(set.value.as_deref(), Some("a, B"));
        assert!(matches!(one("BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE"), Sentence::Begin));
        assert!(matches!(one("START TRANSACTION"), Sentence::Begin));
        assert!(matches!(one("END WORK"), Sentence::Commit));
        assert_eq!(parse("BEGIN ISOLATION LEVEL SERIALIZABLE").unwrap_err().state, SqlState::FeatureNotSupported);
        assert!(matches!(one("ROLLBACK TO SAVEPOINT a"), Sentence::RollbackTo(name) if name == "a"));
    }
}
