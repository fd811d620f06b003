//! EMIT and WINDOW, cut out of the tokens before sqlparser sees them, and put back where they belong.
//!
//! A window becomes a marker in the tree: `FROM s WINDOW TUMBLING (SIZE 1 MINUTE)` is parsed as
//! `FROM s CROSS JOIN "marker"`, the join is taken off again and the marker takes the relation's place. So a window
//! belongs to its SELECT however deep that stands, and the tree stays sqlparser's.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    self, Expr, GroupByExpr, Ident, ObjectName, ObjectNamePart, Select, SelectItem, TableAlias, TableFactor, VisitMut,
    VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};

use super::constructor;
use super::cursor::{Cursor, Places};
use super::define::with_clause;
use super::{Emit, Name, Property, Travel, WindowSpec, WindowedQuery, WindowedSource, travel};
use crate::error::{Error, Result, SqlState};

/// What no written identifier begins with.
const MARKER: &str = "\u{1}window ";

/// What was cut, and has left markers in the tokens.
#[derive(Debug, Default)]
pub(crate) struct Marked {
    /// Windows in the order they were written, with their places.
    windows: Vec<(WindowSpec, usize)>,
    /// Relations as of a time.
    travels: Vec<Travel>,
}

/// Tokens without EMIT, WINDOW and FOR SYSTEM_TIME, and what was cut.
#[derive(Debug)]
pub(crate) struct Cut {
    /// What sqlparser is to see.
    pub(crate) tokens: Vec<TokenWithSpan>,
    /// What stands behind the markers.
    pub(crate) marked: Marked,
    /// EMIT at the end.
    pub(crate) emit: Option<Emit>,
    /// `WITH (…)` behind it.
    with: Vec<Property>,
}

/// Cuts; see [`Cut`].
pub(crate) fn cut(tokens: &[TokenWithSpan], places: &Places) -> Result<Cut> {
    let spelled = constructor::spelled_out(tokens);
    let (tokens, travels) = travel::cut(&spelled, places)?;
    let mut cursor = Cursor::new(&tokens, places);
    let marked = Marked { windows: Vec::new(), travels };
    let mut cut = Cut { tokens: Vec::with_capacity(tokens.len()), marked, emit: None, with: Vec::new() };
    let mut depth = 0_usize;
    while let Some(token) = cursor.rest().first() {
        if at_window(&cursor) && !follows_dot_or_as(&cut.tokens) {
            let position = cursor.position();
            cursor.expect(&["window"])?;
            let source_end = end_of_source(&cut.tokens);
            cut.tokens.splice(source_end..source_end, marker_tokens(cut.marked.windows.len()));
            cut.marked.windows.push((window_spec(&mut cursor)?, position));
            continue;
        }
        if let Some(emit) = emit_at(&cursor, depth) {
            let position = cursor.position();
            if depth > 0 {
                return Err(Error::unsupported("EMIT in a subquery")
                    .with_position(position)
                    .with_hint("put EMIT CHANGES behind the outermost SELECT"));
            }
            cursor.take();
            cursor.take();
            cut.emit = Some(emit);
            cut.with = with_clause(&mut cursor)?;
            continue;
        }
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        cut.tokens.push(token.clone());
        cursor.take();
    }
    Ok(cut)
}

/// Where the source ends that a window written here belongs to: at the SELECT's own WHERE, for a window may stand
/// before it, as ksqlDB has it, or behind it, beside the GROUP BY it serves.
fn end_of_source(tokens: &[TokenWithSpan]) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().rev() {
        match &token.token {
            Token::RParen => depth += 1,
            Token::LParen if depth == 0 => break,
            Token::LParen => depth -= 1,
            Token::Word(word) if depth == 0 && word.quote_style.is_none() => match () {
                () if word.value.eq_ignore_ascii_case("where") => return index,
                () if word.value.eq_ignore_ascii_case("select") => break,
                () => {}
            },
            _ => {}
        }
    }
    tokens.len()
}

fn at_window(cursor: &Cursor<'_>) -> bool {
    ["tumbling", "hopping", "session"].iter().any(|kind| cursor.at(&["window", kind]))
        && cursor.peek_at(2) == Some(&Token::LParen)
}

fn follows_dot_or_as(tokens: &[TokenWithSpan]) -> bool {
    match tokens.last().map(|token| &token.token) {
        Some(Token::Period) => true,
        Some(Token::Word(word)) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case("as"),
        _ => false,
    }
}

/// EMIT stands behind a whole SELECT: at the end, before a parenthesis closes, or before LIMIT (ksqlDB's order); WITH (…) may
/// stand behind it.
fn emit_at(cursor: &Cursor<'_>, depth: usize) -> Option<Emit> {
    let emit = match () {
        () if cursor.at(&["emit", "changes"]) => Emit::Changes,
        () if cursor.at(&["emit", "final"]) => Emit::Final,
        () => return None,
    };
    let first = cursor.index() == 0;
    let closes = match cursor.peek_at(2) {
        None => true,
        Some(Token::RParen) => depth > 0,
        Some(Token::Word(word)) if word.quote_style.is_none() => {
            let with = word.value.eq_ignore_ascii_case("with") && cursor.peek_at(3) == Some(&Token::LParen);
            with || word.value.eq_ignore_ascii_case("limit")
        }
        Some(_) => false,
    };
    (closes && !first).then_some(emit)
}

fn word(value: &str, quote_style: Option<char>) -> TokenWithSpan {
    let token = match quote_style {
        Some(_) => Token::Word(Word {
            value: value.to_owned(),
            quote_style,
            keyword: datafusion::sql::sqlparser::keywords::Keyword::NoKeyword,
        }),
        None => Token::make_keyword(value),
    };
    TokenWithSpan::new(token, Span::empty())
}

fn marker_tokens(index: usize) -> [TokenWithSpan; 3] {
    [word("CROSS", None), word("JOIN", None), word(&format!("{MARKER}{index}"), Some('"'))]
}

fn window_spec(cursor: &mut Cursor<'_>) -> Result<WindowSpec> {
    let kind = cursor.identifier("TUMBLING")?.1;
    let position = cursor.position();
    let inside = cursor.parenthesized()?;
    let mut inside = Cursor::new(inside, cursor.places());
    let (mut size_ms, mut advance_ms, mut grace_ms) = (None, None, None);
    loop {
        match () {
            () if inside.eat(&["size"]) => size_ms = Some(duration_ms(&mut inside)?),
            () if inside.eat(&["advance", "by"]) => advance_ms = Some(duration_ms(&mut inside)?),
            () if inside.eat(&["grace", "period"]) => grace_ms = Some(duration_ms(&mut inside)?),
            () if inside.at(&["retention"]) => {
                return Err(Error::unsupported("RETENTION of a window")
                    .with_position(inside.position())
                    .with_hint("a windowed table keeps its rows as long as its topic does"));
            }
            () if kind.value == "session" && size_ms.is_none() => size_ms = Some(duration_ms(&mut inside)?),
            () => return Err(inside.expected("SIZE, ADVANCE BY or GRACE PERIOD")),
        }
        if !inside.eat_token(&Token::Comma) {
            break;
        }
    }
    inside.end()?;
    let missing = |what: &str| {
        Error::new(SqlState::SyntaxError, format!("window {} lacks {what}", kind.value.to_uppercase()))
            .with_position(position)
    };
    let positive = |ms: Option<i64>, what: &str| match ms {
        None => Err(missing(what)),
        Some(ms) if ms > 0 => Ok(ms),
        Some(_) => Err(Error::new(SqlState::InvalidParameterValue, format!("{what} of a window must be positive"))
            .with_position(position)),
    };
    match kind.value.as_str() {
        "tumbling" => Ok(WindowSpec::Tumbling { size_ms: positive(size_ms, "SIZE")?, grace_ms }),
        "hopping" => Ok(WindowSpec::Hopping {
            size_ms: positive(size_ms, "SIZE")?,
            advance_ms: positive(advance_ms, "ADVANCE BY")?,
            grace_ms,
        }),
        _ => Ok(WindowSpec::Session { gap_ms: positive(size_ms, "a gap")?, grace_ms }),
    }
}

/// `5 MINUTES` in ms.
fn duration_ms(cursor: &mut Cursor<'_>) -> Result<i64> {
    let position = cursor.position();
    let count = cursor.number("a number")?;
    let (_, unit) = cursor.identifier("a unit of time")?;
    let unit_ms = match unit.value.trim_end_matches('s') {
        "millisecond" => 1,
        "second" => 1000,
        "minute" => 60_000,
        "hour" => 3_600_000,
        "day" => 86_400_000,
        _ => {
            return Err(Error::new(SqlState::SyntaxError, format!("\"{}\" is not a unit of time", unit.value))
                .with_position(unit.position)
                .with_hint("use MILLISECONDS, SECONDS, MINUTES, HOURS or DAYS"));
        }
    };
    count.checked_mul(unit_ms).ok_or_else(|| {
        Error::new(SqlState::NumericValueOutOfRange, format!("{count} {} is too long", unit.value))
            .with_position(position)
    })
}

/// Puts what was cut back into the parsed query; see the head of this file.
pub(crate) fn attach(
    mut query: Box<ast::Query>,
    cut: Cut,
    places: &Arc<Places>,
    text: String,
) -> Result<WindowedQuery> {
    let Cut { marked: Marked { windows, travels }, emit, with, .. } = cut;
    travel::attach(&mut query, &travels);
    let mut attach = Attach { windows, sources: Vec::new(), places };
    if let ControlFlow::Break(error) = query.visit(&mut attach) {
        return Err(error);
    }
    let mut windows = attach.sources;
    windows.sort_by_key(|(index, _)| *index);
    Ok(WindowedQuery {
        query,
        windows: windows.into_iter().map(|(_, source)| source).collect(),
        travels,
        emit,
        with,
        text,
        places: Arc::clone(places),
    })
}

struct Attach<'a> {
    windows: Vec<(WindowSpec, usize)>,
    sources: Vec<(usize, WindowedSource)>,
    places: &'a Places,
}

impl VisitorMut for Attach<'_> {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        for index in 0..select.from.len() {
            let Some(window) = select.from[index].joins.iter().position(|join| marker_of(&join.relation).is_some())
            else {
                continue;
            };
            let join = select.from[index].joins.remove(window);
            let Some(number) = marker_of(&join.relation) else { continue };
            match self.attach(select, index, window, number) {
                Ok(()) => {}
                Err(error) => return ControlFlow::Break(error),
            }
        }
        ControlFlow::Continue(())
    }
}

impl Attach<'_> {
    fn attach(&mut self, select: &mut Select, from: usize, before: usize, number: usize) -> Result<()> {
        let Some((spec, position)) = self.windows.get(number).cloned() else {
            return Err(Error::new(SqlState::SyntaxError, "window without a source"));
        };
        if before > 0 || !select.from[from].joins.is_empty() || select.from.len() > 1 {
            return Err(Error::unsupported("WINDOW over a join")
                .with_position(position)
                .with_hint("window one relation: FROM s WINDOW TUMBLING (SIZE 5 MINUTES)"));
        }
        let source = self.mark(&mut select.from[from].relation, number, position)?;
        self.sources.push((number, WindowedSource { spec, ..source }));
        add_window_columns(select);
        Ok(())
    }

    fn mark(&self, relation: &mut TableFactor, number: usize, position: usize) -> Result<WindowedSource> {
        let TableFactor::Table { name, alias, args: None, .. } = relation else {
            return Err(Error::unsupported("WINDOW over anything but a relation")
                .with_position(position)
                .with_hint("window a stream: FROM s WINDOW TUMBLING (SIZE 5 MINUTES)"));
        };
        let parts: Vec<&Ident> = name.0.iter().filter_map(ObjectNamePart::as_ident).collect();
        let last = match parts.as_slice() {
            [last] => *last,
            [schema, last] if folded(schema) == "public" => *last,
            _ => {
                return Err(Error::unsupported(format!("WINDOW over {name}"))
                    .with_position(position)
                    .with_hint("window a declared stream of schema public"));
            }
        };
        let source = Name { value: folded(last), position: self.places.position(last.span.start).unwrap_or(position) };
        let marker = format!("{MARKER}{number}");
        if alias.is_none() {
            let name = Ident::with_quote('"', source.value.clone());
            *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
        }
        *name = ObjectName::from(vec![Ident::with_quote('"', marker.clone())]);
        Ok(WindowedSource { marker, source, spec: WindowSpec::Tumbling { size_ms: 0, grace_ms: None } })
    }
}

fn marker_of(relation: &TableFactor) -> Option<usize> {
    let TableFactor::Table { name, .. } = relation else { return None };
    name.0.first()?.as_ident()?.value.strip_prefix(MARKER)?.parse().ok()
}

/// An identifier as Postgres reads it.
pub(crate) fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// A grouped SELECT over windows groups by the window, and shows it.
fn add_window_columns(select: &mut Select) {
    let GroupByExpr::Expressions(keys, _) = &mut select.group_by else { return };
    if keys.is_empty() {
        return;
    }
    for column in ["windowstart", "windowend"] {
        let is_it = |expr: &Expr| match expr {
            Expr::Identifier(ident) => folded(ident) == column,
            Expr::CompoundIdentifier(parts) => parts.last().is_some_and(|ident| folded(ident) == column),
            _ => false,
        };
        if !keys.iter().any(is_it) {
            keys.push(Expr::Identifier(Ident::new(column)));
        }
        let shown = select.projection.iter().any(|item| match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => is_it(expr),
            _ => true,
        });
        if !shown {
            select.projection.push(SelectItem::UnnamedExpr(Expr::Identifier(Ident::new(column))));
        }
    }
}
