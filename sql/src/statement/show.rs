//! SHOW, DESCRIBE, EXPLAIN, TERMINATE, VACUUM and what else asks about the node or tends it, from tokens.

use std::sync::Arc;

use datafusion::sql::sqlparser::tokenizer::Token;

use super::cursor::{Cursor, Places};
use super::parse::query_of;
use super::settings::setting_name;
use super::{Explain, Sentence, ShowList, VacuumTarget};
use crate::error::{Error, Result};

/// `SHOW …` or `LIST …`, the first word taken.
pub(crate) fn show(cursor: &mut Cursor<'_>) -> Result<Sentence> {
    let all_topics = cursor.at(&["all", "topics"]);
    if all_topics {
        cursor.eat(&["all"]);
    }
    let list = match () {
        () if cursor.eat(&["topics"]) => ShowList::Topics { all: all_topics },
        () if cursor.eat(&["streams"]) => ShowList::Streams,
        () if cursor.eat(&["tables"]) => ShowList::Tables,
        () if cursor.eat(&["queries"]) => ShowList::Queries,
        () if cursor.eat(&["all"]) || cursor.eat(&["properties"]) => {
            cursor.end()?;
            return Ok(Sentence::ShowSetting(None));
        }
        () => {
            let name = match () {
                () if cursor.eat(&["time", "zone"]) => "timezone".to_owned(),
                () if cursor.eat(&["transaction", "isolation", "level"]) => "transaction_isolation".to_owned(),
                () => setting_name(cursor)?,
            };
            cursor.end()?;
            return Ok(Sentence::ShowSetting(Some(name)));
        }
    };
    if cursor.at(&["extended"]) {
        return Err(Error::unsupported("EXTENDED")
            .with_position(cursor.position())
            .with_hint("ask the schema aquifer: SELECT * FROM aquifer.partitions"));
    }
    cursor.end()?;
    Ok(Sentence::ShowList(list))
}

/// `DESCRIBE name`, the first word taken.
pub(crate) fn describe(cursor: &mut Cursor<'_>) -> Result<Sentence> {
    let name = cursor.relation_name()?;
    if cursor.at(&["extended"]) {
        return Err(Error::unsupported("DESCRIBE … EXTENDED")
            .with_position(cursor.position())
            .with_hint("ask aquifer.queries and aquifer.partitions"));
    }
    cursor.end()?;
    Ok(Sentence::Describe(name))
}

/// `EXPLAIN [ANALYZE] [VERBOSE] query`, the first word taken.
pub(crate) fn explain(cursor: &mut Cursor<'_>, places: &Arc<Places>) -> Result<Sentence> {
    let (mut analyze, mut verbose) = (false, false);
    if cursor.peek() == Some(&Token::LParen) && !select_inside(cursor) {
        let mut options = Cursor::new(cursor.parenthesized()?, places);
        while !options.at_end() {
            match () {
                () if options.eat(&["analyze"]) => analyze = !options.eat(&["false"]),
                () if options.eat(&["verbose"]) => verbose = !options.eat(&["false"]),
                () if options.eat(&["format", "text"]) => {}
                () => {
                    return Err(Error::unsupported(format!(
                        "EXPLAIN ({})",
                        options.rest().first().map_or_else(String::new, ToString::to_string)
                    ))
                    .with_position(options.position())
                    .with_hint("use EXPLAIN, EXPLAIN ANALYZE or EXPLAIN VERBOSE"));
                }
            }
            options.eat(&["true"]);
            options.eat_token(&Token::Comma);
        }
    }
    analyze |= cursor.eat(&["analyze"]);
    verbose |= cursor.eat(&["verbose"]);
    let query = query_of(cursor.rest(), places)?;
    Ok(Sentence::Explain(Explain { analyze, verbose, query }))
}

fn select_inside(cursor: &Cursor<'_>) -> bool {
    let mut inside = cursor.clone();
    inside.take();
    inside.at(&["select"]) || inside.at(&["with"]) || inside.at(&["values"])
}

/// `TERMINATE name | ALL`, the first word taken.
pub(crate) fn terminate(cursor: &mut Cursor<'_>) -> Result<Sentence> {
    cursor.eat(&["query"]);
    let name = if cursor.eat(&["all"]) { None } else { Some(cursor.relation_name()?) };
    cursor.end()?;
    Ok(Sentence::Terminate(name))
}

/// `VACUUM [relation | topic | topics."topic"]`, the first word taken.
pub(crate) fn vacuum(cursor: &mut Cursor<'_>) -> Result<Sentence> {
    for option in ["full", "freeze", "verbose", "analyze"] {
        if cursor.at(&[option]) {
            return Err(unsupported_option(cursor, &format!("VACUUM {}", option.to_uppercase())));
        }
    }
    if cursor.peek() == Some(&Token::LParen) {
        return Err(unsupported_option(cursor, "VACUUM (…)"));
    }
    if cursor.at_end() {
        return Ok(Sentence::Vacuum(None));
    }
    let is_topic = cursor.at(&["topics"]) && cursor.peek_at(1) == Some(&Token::Period);
    if is_topic {
        cursor.take();
        cursor.take();
    }
    let name = cursor.relation_name()?;
    cursor.end()?;
    Ok(Sentence::Vacuum(Some(VacuumTarget { name, is_topic })))
}

fn unsupported_option(cursor: &Cursor<'_>, what: &str) -> Error {
    let hint = "VACUUM, or VACUUM and a name, does all there is to do and says what it did";
    Error::unsupported(what).with_position(cursor.position()).with_hint(hint)
}
