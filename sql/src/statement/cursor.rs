//! `Cursor`: walks over tokens, and says where in the text it stands when something else was expected.

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word};

use super::Name;
use crate::error::{Error, Result, SqlState};

/// Longest query text, so that tokens stay far from memory's limit.
pub(crate) const TEXT_BYTES_MAX: usize = 16 << 20;

/// A text's lines, to make characters of the tokenizer's lines and columns.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Per line: byte and character at which it begins, from 0; one more for the end of the text.
    lines: Vec<(usize, usize)>,
    text: String,
}

impl Places {
    /// The lines of `text`.
    pub(crate) fn new(text: &str) -> Self {
        let mut lines = vec![(0, 0)];
        for (chars, (byte, char)) in text.char_indices().enumerate() {
            if char == '\n' {
                lines.push((byte + 1, chars + 1));
            }
        }
        lines.push((text.len(), text.chars().count()));
        Self { lines, text: text.to_owned() }
    }

    /// Where the line begins, and whether each of its characters is a byte.
    fn line(&self, place: Location) -> ((usize, usize), bool) {
        let index = usize::try_from(place.line).unwrap_or(usize::MAX).saturating_sub(1);
        let index = index.min(self.lines.len().saturating_sub(2));
        match self.lines.get(index..index + 2) {
            Some([start, end]) => (*start, end.0 - start.0 == end.1 - start.1),
            _ => ((0, 0), false),
        }
    }

    /// Character of `place`, from 1; `None` for a token that was made, not read.
    pub(crate) fn position(&self, place: Location) -> Option<usize> {
        (place.line > 0).then(|| self.line(place).0.1 + usize::try_from(place.column).unwrap_or(1))
    }

    /// Byte of `place`, from 0.
    pub(crate) fn byte(&self, place: Location) -> usize {
        let ((start, _), is_ascii) = self.line(place);
        let columns = usize::try_from(place.column).unwrap_or(1).saturating_sub(1);
        let rest = self.text.get(start..).unwrap_or("");
        // A text of thousands of statements in one line must not be walked once for each.
        if is_ascii {
            return start + columns.min(rest.len());
        }
        start + rest.char_indices().nth(columns).map_or(rest.len(), |(byte, _)| byte)
    }

    /// What stands between two places.
    pub(crate) fn between(&self, start: Location, end: Location) -> &str {
        self.text.get(self.byte(start)..self.byte(end)).unwrap_or("").trim()
    }
}

/// Tokens of a text, white space and comments left out.
pub(crate) fn tokenize(text: &str) -> Result<Vec<TokenWithSpan>> {
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("query text of {} bytes exceeds {TEXT_BYTES_MAX}", text.len());
        return Err(Error::new(SqlState::ProgramLimitExceeded, message).with_hint("send it in several statements"));
    }
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize_with_location().map_err(|error| {
        let at = Places::new(text).position(error.location);
        let error = Error::new(SqlState::SyntaxError, lower_first(&error.message));
        at.into_iter().fold(error, Error::with_position)
    })?;
    Ok(tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF)).collect())
}

/// An error's first letter in lower case, as Postgres has it.
pub(crate) fn lower_first(message: &str) -> String {
    let mut chars = message.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// A place in tokens.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    tokens: &'a [TokenWithSpan],
    places: &'a Places,
    next: usize,
    /// How many of a `>>` or longer token have closed inner types already.
    closed: usize,
}

impl<'a> Cursor<'a> {
    /// At the first token.
    pub(crate) fn new(tokens: &'a [TokenWithSpan], places: &'a Places) -> Self {
        Self { tokens, places, next: 0, closed: 0 }
    }

    /// The text's places.
    pub(crate) fn places(&self) -> &'a Places {
        self.places
    }

    /// The next token, not taken.
    pub(crate) fn peek(&self) -> Option<&'a Token> {
        self.peek_at(0)
    }

    /// The token after `ahead` others, not taken.
    pub(crate) fn peek_at(&self, ahead: usize) -> Option<&'a Token> {
        self.tokens.get(self.next + ahead).map(|token| &token.token)
    }

    /// Takes the next token.
    pub(crate) fn take(&mut self) -> Option<&'a Token> {
        let token = self.peek();
        self.next += usize::from(token.is_some());
        token
    }

    /// Tokens taken so far.
    pub(crate) fn index(&self) -> usize {
        self.next
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [TokenWithSpan] {
        self.tokens.get(self.next..).unwrap_or(&[])
    }

    /// Whether nothing is left.
    pub(crate) fn at_end(&self) -> bool {
        self.next >= self.tokens.len()
    }

    /// Character of the next token, from 1; at the end, one behind the last.
    pub(crate) fn position(&self) -> usize {
        let (token, end) = match self.tokens.get(self.next) {
            Some(token) => (Some(token), false),
            None => (self.tokens.last(), true),
        };
        let place = token.map(|token| if end { token.span.end } else { token.span.start });
        place.and_then(|place| self.places.position(place)).unwrap_or(1)
    }

    /// A syntax error here.
    pub(crate) fn expected(&self, what: &str) -> Error {
        let found = self.peek().map_or_else(|| "end of input".to_owned(), |token| format!("\"{token}\""));
        Error::new(SqlState::SyntaxError, format!("syntax error at {found}, expected {what}"))
            .with_position(self.position())
    }

    fn word_at(&self, ahead: usize) -> Option<&'a Word> {
        match self.peek_at(ahead) {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    /// Whether these unquoted words come next, in whatever case.
    pub(crate) fn at(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(ahead, expected)| {
            self.word_at(ahead)
                .is_some_and(|word| word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected))
        })
    }

    /// Takes these words if they come next.
    pub(crate) fn eat(&mut self, words: &[&str]) -> bool {
        let there = self.at(words);
        self.next += if there { words.len() } else { 0 };
        there
    }

    /// Takes these words or fails.
    pub(crate) fn expect(&mut self, words: &[&str]) -> Result<()> {
        if self.eat(words) { Ok(()) } else { Err(self.expected(&words.join(" "))) }
    }

    /// Takes this token if it comes next.
    pub(crate) fn eat_token(&mut self, token: &Token) -> bool {
        let there = self.peek() == Some(token);
        self.next += usize::from(there);
        there
    }

    /// Takes this token or fails.
    pub(crate) fn expect_token(&mut self, token: &Token) -> Result<()> {
        if self.eat_token(token) { Ok(()) } else { Err(self.expected(&format!("\"{token}\""))) }
    }

    /// Takes a closing `>` of a type, also one of several that the tokenizer took for an operator.
    pub(crate) fn expect_closing_angle(&mut self) -> Result<()> {
        let angles = self.peek().map(ToString::to_string).filter(|token| token.chars().all(|char| char == '>'));
        let Some(angles) = angles else { return Err(self.expected("\">\"")) };
        self.closed += 1;
        if self.closed == angles.len() {
            (self.closed, self.next) = (0, self.next + 1);
        }
        Ok(())
    }

    /// A name as written: (text in its own case, folded text, place).
    pub(crate) fn identifier(&mut self, what: &str) -> Result<(String, Name)> {
        let position = self.position();
        let Some(word) = self.word_at(0) else { return Err(self.expected(what)) };
        let value = match word.quote_style {
            Some(_) => word.value.clone(),
            None => word.value.to_lowercase(),
        };
        if value.is_empty() {
            return Err(Error::new(SqlState::SyntaxError, "zero-length delimited identifier").with_position(position));
        }
        self.next += 1;
        Ok((word.value.clone(), Name { value, position }))
    }

    /// A relation's name, `public.` in front allowed.
    pub(crate) fn relation_name(&mut self) -> Result<Name> {
        let (_, first) = self.identifier("a name")?;
        if !self.eat_token(&Token::Period) {
            return Ok(first);
        }
        let (_, second) = self.identifier("a name")?;
        if first.value == "public" {
            return Ok(Name { position: first.position, ..second });
        }
        Err(Error::unsupported(format!("a relation in schema \"{}\"", first.value))
            .with_position(first.position)
            .with_hint("declared relations live in schema public; topics are also there as topics.\"name\""))
    }

    /// A quoted text.
    pub(crate) fn text(&mut self) -> Option<String> {
        let text = match self.peek()? {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text.clone(),
            Token::DollarQuotedString(text) => text.value.clone(),
            _ => return None,
        };
        self.next += 1;
        Some(text)
    }

    /// A whole number.
    pub(crate) fn number(&mut self, what: &str) -> Result<i64> {
        let number = match self.peek() {
            Some(Token::Number(digits, _)) => digits.parse().ok(),
            Some(Token::SingleQuotedString(digits)) => digits.trim().parse().ok(),
            _ => None,
        };
        let number = number.ok_or_else(|| self.expected(what))?;
        self.next += 1;
        Ok(number)
    }

    /// Fails unless nothing is left.
    pub(crate) fn end(&self) -> Result<()> {
        if self.at_end() { Ok(()) } else { Err(self.expected("end of statement")) }
    }

    /// Takes a parenthesis and all in it: the range of the tokens inside.
    pub(crate) fn parenthesized(&mut self) -> Result<&'a [TokenWithSpan]> {
        self.expect_token(&Token::LParen)?;
        let start = self.next;
        let mut depth = 1_usize;
        while let Some(token) = self.take() {
            match token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(self.tokens.get(start..self.next - 1).unwrap_or(&[]));
            }
        }
        Err(self.expected("\")\""))
    }
}
