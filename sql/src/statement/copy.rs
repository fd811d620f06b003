//! COPY, from tokens: which relation or query, which way, and the options of Postgres 16 in both spellings, checked together.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::cursor::{Cursor, Places, tokenize};
use super::parse::query_of;
use super::{Name, Sentence, WindowedQuery};
use crate::error::{Error, Result, SqlState};

/// How rows are written in COPY's data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyFormat {
    /// CSV; else Postgres's text format.
    pub csv: bool,
    /// Between fields; never a quote, a line's end or a backslash.
    pub delimiter: u8,
    /// What stands for NULL, unquoted.
    pub null: String,
    /// The first line names the columns.
    pub header: bool,
    /// They must be those of the relation, in order.
    pub header_match: bool,
    /// Around fields in CSV.
    pub quote: u8,
    /// In front of a quote within quotes in CSV.
    pub escape: u8,
    /// What stands for a column's default, unquoted; reading only.
    pub default: Option<String>,
    /// Columns by number that are quoted whatever they hold, NULL excepted; writing only. None if it is empty.
    pub force_quote: Vec<bool>,
    /// Columns in which what stands for NULL is NULL in quotes too; reading only. None if it is empty.
    pub force_null: Vec<bool>,
    /// Columns in which what stands for NULL is text; reading only. None if it is empty.
    pub force_not_null: Vec<bool>,
}

/// Which columns an option is about.
#[derive(Clone, Debug, Default)]
pub(crate) enum Forced {
    /// None.
    #[default]
    Nowhere,
    /// All.
    Everywhere,
    /// These.
    In(Vec<Name>),
}

/// Columns of which options say more than of the others, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Force {
    quote: Forced,
    null: Forced,
    not_null: Forced,
}

impl Force {
    /// The format with the columns that are meant, of those that are copied; `known` says which others there are.
    ///
    /// # Errors
    /// 42703 for a column that is not there, 42P10 for one that is not copied.
    pub(crate) fn resolve(
        &self,
        format: &CopyFormat,
        copied: &[&str],
        known: &dyn Fn(&str) -> bool,
    ) -> Result<CopyFormat> {
        Ok(CopyFormat {
            force_quote: self.quote.resolve("FORCE_QUOTE", copied, known)?,
            force_null: self.null.resolve("FORCE_NULL", copied, known)?,
            force_not_null: self.not_null.resolve("FORCE_NOT_NULL", copied, known)?,
            ..format.clone()
        })
    }
}

impl Forced {
    fn resolve(&self, option: &str, copied: &[&str], known: &dyn Fn(&str) -> bool) -> Result<Vec<bool>> {
        let names = match self {
            Self::Nowhere => return Ok(Vec::new()),
            Self::Everywhere => return Ok(vec![true; copied.len()]),
            Self::In(names) => names,
        };
        let mut flags = vec![false; copied.len()];
        for name in names {
            let Some(index) = copied.iter().position(|copied| *copied == name.value) else {
                let (state, message) = if known(&name.value) {
                    let message = format!("{option} column \"{}\" not referenced by COPY", name.value);
                    (SqlState::InvalidColumnReference, message)
                } else {
                    (SqlState::UndefinedColumn, format!("column \"{}\" does not exist", name.value))
                };
                return Err(Error::new(state, message)
                    .with_position(name.position)
                    .with_hint(format!("copied are {}", copied.join(", "))));
            };
            flags[index] = true;
        }
        Ok(flags)
    }

    fn is_said(&self) -> bool {
        !matches!(self, Self::Nowhere)
    }
}

/// `COPY name [(columns)] FROM STDIN`.
#[derive(Clone, Debug)]
pub(crate) struct CopyFrom {
    /// Where to.
    pub(crate) name: Name,
    /// Folded names with their places; empty: all, in declared order.
    pub(crate) columns: Vec<Name>,
    /// Of its data, without what is said of single columns.
    pub(crate) format: CopyFormat,
    /// That.
    pub(crate) force: Force,
}

/// `COPY name [(columns)] | (query) TO STDOUT`.
#[derive(Clone, Debug)]
pub(crate) struct CopyOut {
    /// What.
    pub(crate) query: WindowedQuery,
    /// The relation, if it is one.
    pub(crate) of: Option<Name>,
    /// Of its data, without what is said of single columns.
    pub(crate) format: CopyFormat,
    /// That.
    pub(crate) force: Force,
}

/// `COPY …`, the first word taken.
pub(crate) fn copy(cursor: &mut Cursor<'_>, places: &Arc<Places>) -> Result<Sentence> {
    if cursor.peek() == Some(&Token::LParen) {
        let query = query_of(cursor.parenthesized()?, places)?;
        if cursor.at(&["from"]) {
            return Err(cursor.expected("TO STDOUT behind a query"));
        }
        return copy_out(cursor, query, None);
    }
    if cursor.at(&["binary"]) && !matches!(cursor.peek_at(1), Some(Token::Word(word)) if is_direction(&word.value)) {
        return Err(binary(cursor.position()));
    }
    let start = cursor.rest();
    let before = cursor.index();
    let written = relation(cursor)?;
    let name = start.get(..cursor.index() - before).unwrap_or(&[]);
    let columns = column_list(cursor)?;
    if !cursor.at(&["from"]) {
        let mut select = made(&format!("SELECT {} FROM", select_list(&columns)))?;
        select.extend_from_slice(name);
        return copy_out(cursor, query_of(&select, places)?, written.ok());
    }
    // Reading a bare topic is fine, writing to it is not.
    let name = written?;
    cursor.take();
    endpoint(cursor, "stdin", "COPY name FROM STDIN; psql's \\copy reads a file on your side")?;
    let mut options = Options::read(cursor)?;
    let force = options.force(true)?;
    let format = options.check(true)?;
    Ok(Sentence::CopyFrom(CopyFrom { name, columns, format, force }))
}

fn is_direction(word: &str) -> bool {
    word.eq_ignore_ascii_case("from") || word.eq_ignore_ascii_case("to")
}

/// The relation, taken either way; inside: its name if it can be written.
fn relation(cursor: &mut Cursor<'_>) -> Result<Result<Name>> {
    let mut ahead = cursor.clone();
    let name = cursor.relation_name();
    if name.is_ok() {
        return Ok(name);
    }
    ahead.identifier("a name")?;
    ahead.expect_token(&Token::Period)?;
    ahead.identifier("a name")?;
    *cursor = ahead;
    Ok(name)
}

fn column_list(cursor: &mut Cursor<'_>) -> Result<Vec<Name>> {
    let mut columns = Vec::new();
    if !cursor.eat_token(&Token::LParen) {
        return Ok(columns);
    }
    loop {
        columns.push(cursor.identifier("a column")?.1);
        if cursor.eat_token(&Token::RParen) {
            return Ok(columns);
        }
        cursor.expect_token(&Token::Comma)?;
    }
}

fn select_list(columns: &[Name]) -> String {
    if columns.is_empty() {
        return "*".to_owned();
    }
    let quoted = |name: &Name| Ident::with_quote('"', name.value.as_str()).to_string();
    columns.iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// Tokens of a text that nobody has written: they have no place.
fn made(text: &str) -> Result<Vec<TokenWithSpan>> {
    Ok(tokenize(text)?.into_iter().map(|token| TokenWithSpan { span: Span::empty(), ..token }).collect())
}

fn copy_out(cursor: &mut Cursor<'_>, query: WindowedQuery, of: Option<Name>) -> Result<Sentence> {
    cursor.expect(&["to"])?;
    endpoint(cursor, "stdout", "COPY (query) TO STDOUT; psql's \\copy writes a file on your side")?;
    let mut options = Options::read(cursor)?;
    let force = options.force(false)?;
    let format = options.check(false)?;
    Ok(Sentence::CopyOut(CopyOut { query, of, format, force }))
}

/// STDIN and STDOUT mean the client, whichever is said.
fn endpoint(cursor: &mut Cursor<'_>, word: &str, hint: &str) -> Result<()> {
    let position = cursor.position();
    if cursor.eat(&["stdin"]) || cursor.eat(&["stdout"]) {
        return Ok(());
    }
    if cursor.at(&["program"]) || cursor.text().is_some() {
        return Err(Error::unsupported("COPY with a file or program of the server")
            .with_position(position)
            .with_hint(hint));
    }
    Err(cursor.expected(&word.to_uppercase()))
}

fn binary(position: usize) -> Error {
    Error::unsupported("COPY in binary format").with_position(position).with_hint("use FORMAT csv or FORMAT text")
}

/// Options as they were written.
#[derive(Debug, Default)]
struct Options {
    csv: Option<bool>,
    delimiter: Option<(String, usize)>,
    null: Option<(String, usize)>,
    header: Option<(Header, usize)>,
    quote: Option<(String, usize)>,
    escape: Option<(String, usize)>,
    default: Option<(String, usize)>,
    encoding: Option<String>,
    force_quote: Option<(Forced, usize)>,
    force_null: Option<(Forced, usize)>,
    force_not_null: Option<(Forced, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    Off,
    On,
    Match,
}

impl Options {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let mut options = Self::default();
        cursor.eat(&["with"]);
        if cursor.eat_token(&Token::LParen) {
            loop {
                options.modern(cursor)?;
                if !cursor.eat_token(&Token::Comma) {
                    break;
                }
            }
            cursor.expect_token(&Token::RParen)?;
        } else {
            while !cursor.at_end() {
                if cursor.at(&["where"]) {
                    break;
                }
                options.old(cursor)?;
            }
        }
        if cursor.at(&["where"]) {
            return Err(Error::unsupported("COPY … FROM … WHERE")
                .with_position(cursor.position())
                .with_hint("copy into a stream, then INSERT INTO … SELECT … WHERE"));
        }
        cursor.end()?;
        Ok(options)
    }

    /// One of `(FORMAT csv, HEADER true, …)`.
    fn modern(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        let position = cursor.position();
        let (_, name) = cursor.identifier("an option")?;
        match name.value.as_str() {
            "format" => {
                let format = word_or_text(cursor, "a format")?;
                let csv = match format.to_ascii_lowercase().as_str() {
                    "text" => false,
                    "csv" => true,
                    "binary" => return Err(binary(position)),
                    _ => {
                        let message = format!("COPY format \"{format}\" not recognized");
                        return Err(Error::new(SqlState::InvalidParameterValue, message)
                            .with_position(position)
                            .with_hint("there are text and csv"));
                    }
                };
                set(&mut self.csv, csv, position)
            }
            "delimiter" => set(&mut self.delimiter, (word_or_text(cursor, "a delimiter")?, position), position),
            "null" => set(&mut self.null, (word_or_text(cursor, "a text")?, position), position),
            "default" => set(&mut self.default, (word_or_text(cursor, "a text")?, position), position),
            "quote" => set(&mut self.quote, (word_or_text(cursor, "a quote")?, position), position),
            "escape" => set(&mut self.escape, (word_or_text(cursor, "an escape")?, position), position),
            "encoding" => set(&mut self.encoding, encoding(word_or_text(cursor, "an encoding")?, position)?, position),
            "header" => {
                let header = header(cursor)?;
                set(&mut self.header, (header, position), position)
            }
            "force_quote" => set(&mut self.force_quote, (listed(cursor)?, position), position),
            "force_null" => set(&mut self.force_null, (listed(cursor)?, position), position),
            "force_not_null" => set(&mut self.force_not_null, (listed(cursor)?, position), position),
            name => Err(refused(name, position)),
        }
    }

    /// One of `CSV HEADER DELIMITER AS ';' …`.
    fn old(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        let position = cursor.position();
        let (_, name) = cursor.identifier("an option")?;
        let mut text = |what| {
            cursor.eat(&["as"]);
            cursor.text().map(|text| (text, position)).ok_or_else(|| cursor.expected(what))
        };
        match name.value.as_str() {
            "csv" => set(&mut self.csv, true, position),
            "header" => set(&mut self.header, (Header::On, position), position),
            "binary" => Err(binary(position)),
            "delimiter" | "delimiters" => set(&mut self.delimiter, text("a delimiter in quotes")?, position),
            "null" => set(&mut self.null, text("a text in quotes")?, position),
            "quote" => set(&mut self.quote, text("a quote in quotes")?, position),
            "escape" => set(&mut self.escape, text("an escape in quotes")?, position),
            "encoding" => {
                let encoding = encoding(text("an encoding in quotes")?.0, position)?;
                set(&mut self.encoding, encoding, position)
            }
            "force" => match () {
                () if cursor.eat(&["quote"]) => set(&mut self.force_quote, (forced(cursor)?, position), position),
                () if cursor.eat(&["not", "null"]) => {
                    set(&mut self.force_not_null, (forced(cursor)?, position), position)
                }
                () if cursor.eat(&["null"]) => set(&mut self.force_null, (forced(cursor)?, position), position),
                () => Err(cursor.expected("QUOTE, NOT NULL or NULL")),
            },
            name => Err(refused(name, position)),
        }
    }

    /// What is said of single columns; Postgres's rules and words.
    fn force(&mut self, reads: bool) -> Result<Force> {
        let csv = self.csv.unwrap_or(false);
        let take = |option: &mut Option<(Forced, usize)>, name: &str, of_reading: bool| {
            let Some((forced, position)) = option.take() else { return Ok(Forced::Nowhere) };
            let said = match () {
                () if !forced.is_said() => return Ok(forced),
                () if !csv => "available only in CSV mode",
                () if of_reading && !reads => "only available using COPY FROM",
                () if !of_reading && reads => "only available using COPY TO",
                () => return Ok(forced),
            };
            let hint = if csv { "leave it out" } else { "say FORMAT csv" };
            Err(Error::unsupported(format!("COPY {name} {said}")).with_position(position).with_hint(hint))
        };
        Ok(Force {
            quote: take(&mut self.force_quote, "force quote", false)?,
            null: take(&mut self.force_null, "force null", true)?,
            not_null: take(&mut self.force_not_null, "force not null", true)?,
        })
    }

    /// What they mean together; Postgres's rules and words.
    fn check(self, reads: bool) -> Result<CopyFormat> {
        let csv = self.csv.unwrap_or(false);
        for (option, name) in [(&self.quote, "quote"), (&self.escape, "escape")] {
            if let (Some((_, position)), false) = (option, csv) {
                return Err(Error::unsupported(format!("COPY {name} in text format"))
                    .with_position(*position)
                    .with_hint("say FORMAT csv"));
            }
        }
        let byte = |option: &Option<(String, usize)>, default: u8, name: &str| match option {
            None => Ok(default),
            Some((text, _)) if text.len() == 1 => Ok(text.as_bytes()[0]),
            Some((_, position)) => Err(invalid(format!("COPY {name} must be a single one-byte character"), *position)),
        };
        let delimiter = byte(&self.delimiter, if csv { b',' } else { b'\t' }, "delimiter")?;
        let quote = byte(&self.quote, b'"', "quote")?;
        let escape = byte(&self.escape, quote, "escape")?;
        let at = |option: &Option<(String, usize)>| option.as_ref().map_or(1, |(_, position)| *position);
        let null = match &self.null {
            Some((null, _)) => null.clone(),
            None if csv => String::new(),
            None => "\\N".to_owned(),
        };
        let default = self.default.as_ref().map(|(default, _)| default.clone());
        if let (Some(_), false) = (&default, reads) {
            return Err(invalid("COPY DEFAULT only available using COPY FROM", at(&self.default)));
        }
        if b"\r\n".contains(&delimiter) {
            return Err(invalid("COPY delimiter cannot be newline or carriage return", at(&self.delimiter)));
        }
        if !csv && b"\\.abcdefghijklmnopqrstuvwxyz0123456789".contains(&delimiter) {
            let message = format!("COPY delimiter cannot be \"{}\"", char::from(delimiter));
            return Err(invalid(message, at(&self.delimiter)));
        }
        if csv && delimiter == quote {
            return Err(invalid("COPY delimiter and quote must be different", at(&self.delimiter)));
        }
        for (text, option, name) in [(Some(&null), &self.null, "NULL"), (default.as_ref(), &self.default, "DEFAULT")] {
            let Some(text) = text else { continue };
            let refused = if text.contains(['\r', '\n']) {
                format!("COPY {} representation cannot use newline or carriage return", name.to_lowercase())
            } else if text.as_bytes().contains(&delimiter) {
                format!("COPY delimiter character must not appear in the {name} specification")
            } else if csv && text.as_bytes().contains(&quote) {
                format!("CSV quote character must not appear in the {name} specification")
            } else {
                continue;
            };
            return Err(invalid(refused, at(option)));
        }
        if default.as_ref() == Some(&null) {
            return Err(invalid("NULL specification and DEFAULT specification cannot be the same", at(&self.default)));
        }
        let header = self.header.map_or(Header::Off, |(header, _)| header);
        if let (Some((Header::Match, position)), false) = (self.header, reads) {
            return Err(invalid("cannot use \"match\" with HEADER in COPY TO", position));
        }
        Ok(CopyFormat {
            csv,
            delimiter,
            null,
            header: header != Header::Off,
            header_match: header == Header::Match,
            quote,
            escape,
            default,
            ..CopyFormat::default()
        })
    }
}

/// `*`, or names in parentheses.
fn listed(cursor: &mut Cursor<'_>) -> Result<Forced> {
    if cursor.eat_token(&Token::Mul) {
        return Ok(Forced::Everywhere);
    }
    if cursor.peek() != Some(&Token::LParen) {
        return Err(cursor.expected("columns in parentheses, or *"));
    }
    column_list(cursor).map(Forced::In)
}

/// `*`, or names.
fn forced(cursor: &mut Cursor<'_>) -> Result<Forced> {
    if cursor.eat_token(&Token::Mul) {
        return Ok(Forced::Everywhere);
    }
    let mut names = vec![cursor.identifier("a column")?.1];
    while cursor.eat_token(&Token::Comma) {
        names.push(cursor.identifier("a column")?.1);
    }
    Ok(Forced::In(names))
}

fn set<T>(option: &mut Option<T>, value: T, position: usize) -> Result<()> {
    if option.replace(value).is_some() {
        return Err(Error::new(SqlState::SyntaxError, "conflicting or redundant options").with_position(position));
    }
    Ok(())
}

fn invalid(message: impl Into<String>, position: usize) -> Error {
    Error::new(SqlState::InvalidParameterValue, message)
        .with_position(position)
        .with_hint("options are written COPY … (FORMAT csv, DELIMITER ';', NULL '', HEADER)")
}

/// Postgres's other options by name; else a syntax error.
fn refused(name: &str, position: usize) -> Error {
    const KNOWN: [(&str, &str); 4] = [
        ("freeze", "leave it out: records are never rewritten in place"),
        ("on_error", "one malformed line refuses the whole COPY, and its error names line and column"),
        ("reject_limit", "one malformed line refuses the whole COPY, and its error names line and column"),
        ("log_verbosity", "an error names line and column as it is"),
    ];
    match KNOWN.iter().find(|(known, _)| *known == name) {
        Some((_, hint)) => {
            Error::unsupported(format!("COPY option {}", name.to_uppercase())).with_position(position).with_hint(*hint)
        }
        None => Error::new(SqlState::SyntaxError, format!("option \"{name}\" not recognized"))
            .with_position(position)
            .with_hint("there are FORMAT, DELIMITER, NULL, HEADER, QUOTE, ESCAPE, ENCODING and DEFAULT"),
    }
}

fn word_or_text(cursor: &mut Cursor<'_>, what: &str) -> Result<String> {
    match cursor.text() {
        Some(text) => Ok(text),
        None => cursor.identifier(what).map(|(_, name)| name.value),
    }
}

fn header(cursor: &mut Cursor<'_>) -> Result<Header> {
    if matches!(cursor.peek(), None | Some(Token::Comma | Token::RParen)) {
        return Ok(Header::On);
    }
    let position = cursor.position();
    let value = match cursor.peek() {
        Some(Token::Number(digits, _)) => {
            cursor.take();
            digits.clone()
        }
        _ => word_or_text(cursor, "a boolean value or \"match\"")?.to_lowercase(),
    };
    match value.as_str() {
        "true" | "on" | "1" => Ok(Header::On),
        "false" | "off" | "0" => Ok(Header::Off),
        "match" => Ok(Header::Match),
        _ => {
            Err(Error::new(SqlState::SyntaxError, "header requires a Boolean value or \"match\"")
                .with_position(position))
        }
    }
}

fn encoding(name: String, position: usize) -> Result<String> {
    if ["utf8", "utf-8", "unicode"].contains(&name.to_lowercase().as_str()) {
        return Ok(name);
    }
    Err(Error::unsupported(format!("COPY in encoding \"{name}\""))
        .with_position(position)
        .with_hint("all text is UTF8; convert the file: iconv -t UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::parse::parse;

    fn one(sql: &str) -> Sentence {
        parse(sql).unwrap().remove(0).sentence
    }

    fn format_of(options: &str) -> CopyFormat {
        match one(&format!("COPY t FROM STDIN {options}")) {
            Sentence::CopyFrom(copy) => copy.format,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_spellings_say_the_same() {
        let text = format_of("");
        assert_eq!((text.csv, text.delimiter, text.null.as_str(), text.header), (false, b'\t', "\\N", false));
        for options in ["CSV HEADER", "WITH CSV HEADER", "(FORMAT csv, HEADER)", "with (header on, format 'CSV')"] {
            let csv = format_of(options);
            assert_eq!((csv.csv, csv.delimiter, csv.null.as_str(), csv.header), (true, b',', "", true), "{options}");
        }
        let old = format_of("DELIMITER AS ';' NULL 'x' CSV QUOTE '''' ESCAPE '\\' ENCODING 'UTF8'");
        let new = format_of("(FORMAT csv, DELIMITER ';', NULL 'x', QUOTE '''', ESCAPE '\\', ENCODING 'utf-8')");
        assert_eq!(old, new);
        assert_eq!((old.quote, old.escape), (b'\'', b'\\'));
        assert_eq!(format_of("(DELIMITER E'\\x01', HEADER match)").delimiter, 1);
        assert_eq!(format_of("(FORMAT csv, DEFAULT '\\D')").default.as_deref(), Some("\\D"));
    }

    #[test]
    fn a_relation_s_columns_are_copied_both_ways() {
        let Sentence::CopyFrom(copy) = one("copy public.T (a, \"B\") from stdin") else { panic!("from") };
        let names: Vec<_> = copy.columns.iter().map(|name| name.value.as_str()).collect();
        assert_eq!((copy.name.value.as_str(), names.as_slice()), ("t", &["a", "B"][..]));
        let Sentence::CopyOut(copy) = one("COPY t (a, \"B\") TO STDOUT (FORMAT csv)") else { panic!("to") };
        assert_eq!(copy.query.query.to_string(), "SELECT \"a\", \"B\" FROM t");
        assert!(copy.format.csv);
        let Sentence::CopyOut(copy) = one("COPY topics.\"x\" TO STDOUT") else { panic!("to") };
        assert_eq!(copy.query.query.to_string(), "SELECT * FROM topics.\"x\"");
    }

    #[test]
    fn what_is_not_there_is_refused_by_name_and_what_contradicts_itself_as_postgres_does() {
        for (sql, state, said) in [
            ("COPY t FROM STDIN (FORMAT binary)", "0A000", "binary"),
            ("COPY t FROM STDIN BINARY", "0A000", "binary"),
            ("COPY BINARY t FROM STDIN", "0A000", "binary"),
            ("COPY t FROM STDIN (ON_ERROR ignore)", "0A000", "ON_ERROR"),
            ("COPY t FROM STDIN (FREEZE)", "0A000", "FREEZE"),
            ("COPY t FROM STDIN (ENCODING 'latin1')", "0A000", "latin1"),
            ("COPY t FROM STDIN WHERE a > 1", "0A000", "WHERE"),
            ("COPY t FROM '/tmp/x'", "0A000", "file"),
            ("COPY t FROM PROGRAM 'ls'", "0A000", "program"),
            ("COPY t TO '/tmp/x'", "0A000", "file"),
            ("COPY t FROM STDIN (FORMAT xml)", "22023", "xml"),
            ("COPY t FROM STDIN (NOPE)", "42601", "nope"),
            ("COPY t FROM STDIN (FORCE_NULL (a))", "0A000", "force null available only in CSV mode"),
            ("COPY t FROM STDIN (FORMAT csv, FORCE_QUOTE *)", "0A000", "force quote only available using COPY TO"),
            ("COPY t TO STDOUT CSV FORCE NOT NULL a", "0A000", "force not null only available using COPY FROM"),
            ("COPY t FROM STDIN (FORMAT csv, FORCE_NULL a)", "42601", "parentheses"),
            ("COPY t FROM STDIN CSV FORCE a", "42601", "QUOTE"),
            ("COPY t FROM STDIN (FORMAT csv, FORMAT csv)", "42601", "redundant"),
            ("COPY t FROM STDIN (DELIMITER 'ab')", "22023", "single one-byte"),
            ("COPY t FROM STDIN (DELIMITER 'a')", "22023", "\"a\""),
            ("COPY t FROM STDIN (QUOTE 'a')", "0A000", "quote"),
            ("COPY t FROM STDIN (FORMAT csv, DELIMITER '\"')", "22023", "different"),
            ("COPY t FROM STDIN (FORMAT csv, NULL 'a,b')", "22023", "NULL specification"),
            ("COPY t TO STDOUT (DEFAULT 'x')", "22023", "COPY FROM"),
            ("COPY t TO STDOUT (HEADER match)", "22023", "match"),
            ("COPY (SELECT 1) FROM STDIN", "42601", "TO STDOUT"),
            ("COPY topics.\"x\" FROM STDIN", "0A000", "topics"),
        ] {
            let error = parse(sql).unwrap_err();
            assert_eq!(error.state.code(), state, "{sql}: {error:?}");
            assert!(error.message.contains(said), "{sql}: {error:?}");
            assert!(error.position.is_some(), "{sql}: {error:?}");
        }
    }
}
