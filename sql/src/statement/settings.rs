//! SET, RESET and the transaction's words, from tokens: drivers write them in more ways than sqlparser knows.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::{Sentence, SetSetting};
use crate::error::{Error, Result};

/// `SET …`, the first word taken.
pub(crate) fn set(cursor: &mut Cursor<'_>) -> Result<Sentence> {
    let local = cursor.eat(&["local"]);
    let at_session = !local && cursor.at(&["session"]);
    if at_session && cursor.peek_at(1) != Some(&Token::Eq) {
        cursor.eat(&["session"]);
        if cursor.eat(&["characteristics", "as", "transaction"]) {
            transaction_modes(cursor)?;
            return Ok(constant("transaction_isolation", "read committed"));
        }
    }
    if cursor.eat(&["transaction"]) {
        transaction_modes(cursor)?;
        return Ok(constant("transaction_isolation", "read committed"));
    }
    if cursor.eat(&["time", "zone"]) {
        let value = if cursor.eat(&["local"]) { None } else { value_list(cursor)? };
        cursor.end()?;
        return Ok(Sentence::Set(SetSetting { name: "timezone".to_owned(), value, local }));
    }
    if cursor.eat(&["names"]) {
        let value = value_list(cursor)?;
        cursor.end()?;
        return Ok(Sentence::Set(SetSetting { name: "client_encoding".to_owned(), value, local }));
    }
    let name = setting_name(cursor)?;
    if !cursor.eat_token(&Token::Eq) && !cursor.eat(&["to"]) {
        return Err(cursor.expected("TO or ="));
    }
    let value = value_list(cursor)?;
    cursor.end()?;
    Ok(Sentence::Set(SetSetting { name, value, local }))
}

fn constant(name: &str, value: &str) -> Sentence {
    Sentence::Set(SetSetting { name: name.to_owned(), value: Some(value.to_owned()), local: true })
}

/// `RESET name | ALL`, the first word taken.
pub(crate) fn reset(cursor: &mut Cursor<'_>) -> Result<Sentence> {
    if cursor.eat(&["all"]) {
        cursor.end()?;
        return Ok(Sentence::Reset(None));
    }
    let name = if cursor.eat(&["time", "zone"]) { "timezone".to_owned() } else { setting_name(cursor)? };
    cursor.end()?;
    Ok(Sentence::Reset(Some(name)))
}

/// A setting's name: `work_mem`, `aquifer.read`, `'auto.offset.reset'`.
pub(crate) fn setting_name(cursor: &mut Cursor<'_>) -> Result<String> {
    if let Some(text) = cursor.text() {
        return Ok(text.to_lowercase());
    }
    let mut name = cursor.identifier("a setting")?.1.value.to_lowercase();
    while cursor.eat_token(&Token::Period) {
        name.push('.');
        name.push_str(&cursor.identifier("a setting")?.1.value.to_lowercase());
    }
    Ok(name)
}

/// Values separated by commas, as one text; `None` for DEFAULT.
fn value_list(cursor: &mut Cursor<'_>) -> Result<Option<String>> {
    if cursor.eat(&["default"]) {
        return Ok(None);
    }
    let mut values = vec![value(cursor)?];
    while cursor.eat_token(&Token::Comma) {
        values.push(value(cursor)?);
    }
    Ok(Some(values.join(", ")))
}

fn value(cursor: &mut Cursor<'_>) -> Result<String> {
    if let Some(text) = cursor.text() {
        return Ok(text);
    }
    let minus = if cursor.eat_token(&Token::Minus) { "-" } else { "" };
    let text = match cursor.peek() {
        Some(Token::Number(digits, _)) => format!("{minus}{digits}"),
        Some(Token::Word(word)) if minus.is_empty() => {
            if word.quote_style.is_some() {
                word.value.clone()
            } else {
                word.value.to_lowercase()
            }
        }
        _ => return Err(cursor.expected("a value")),
    };
    cursor.take();
    Ok(text)
}

/// `BEGIN`, `COMMIT`, `ROLLBACK` and their synonyms, the word not yet taken; `None`: something else.
pub(crate) fn transaction(cursor: &mut Cursor<'_>) -> Result<Option<Sentence>> {
    let begin = cursor.eat(&["begin"]) || cursor.eat(&["start", "transaction"]);
    if begin {
        noise(cursor);
        transaction_modes(cursor)?;
        return Ok(Some(Sentence::Begin));
    }
    let (word, sentence) = match () {
        () if cursor.eat(&["commit"]) => ("COMMIT", Sentence::Commit),
        () if cursor.eat(&["end"]) => ("END", Sentence::Commit),
        () if cursor.eat(&["rollback"]) => ("ROLLBACK", Sentence::Rollback),
        () if cursor.eat(&["abort"]) => ("ABORT", Sentence::Rollback),
        () if cursor.eat(&["savepoint"]) => return savepoint(cursor).map(Sentence::Savepoint).map(Some),
        () if cursor.eat(&["release"]) => {
            cursor.eat(&["savepoint"]);
            return savepoint(cursor).map(Sentence::Release).map(Some);
        }
        () => return Ok(None),
    };
    noise(cursor);
    if matches!(sentence, Sentence::Rollback) && cursor.eat(&["to"]) {
        cursor.eat(&["savepoint"]);
        return savepoint(cursor).map(Sentence::RollbackTo).map(Some);
    }
    if cursor.at(&["prepared"]) {
        return Err(Error::unsupported(format!("{word} PREPARED"))
            .with_position(cursor.position())
            .with_hint("two-phase commit is not there; COMMIT is one atomic commit of the log"));
    }
    cursor.eat(&["and", "no", "chain"]);
    if cursor.at(&["and", "chain"]) {
        return Err(Error::unsupported(format!("{word} AND CHAIN"))
            .with_position(cursor.position())
            .with_hint("send BEGIN again"));
    }
    cursor.end()?;
    Ok(Some(sentence))
}

fn savepoint(cursor: &mut Cursor<'_>) -> Result<String> {
    let (name, _) = cursor.identifier("a savepoint's name")?;
    cursor.end()?;
    Ok(name)
}

fn noise(cursor: &mut Cursor<'_>) {
    let _ = cursor.eat(&["transaction"]) || cursor.eat(&["work"]);
}

/// Isolation levels and access modes. A statement's snapshot is one cut of all partitions, so READ COMMITTED and what
/// is weaker hold; what is stronger would be a false promise and is refused.
fn transaction_modes(cursor: &mut Cursor<'_>) -> Result<()> {
    loop {
        let position = cursor.position();
        match () {
            () if cursor.at_end() => return Ok(()),
            () if cursor.eat(&["isolation", "level", "read", "committed"])
                || cursor.eat(&["isolation", "level", "read", "uncommitted"])
                || cursor.eat(&["read", "write"])
                || cursor.eat(&["not", "deferrable"])
                || cursor.eat(&["deferrable"]) => {}
            () if cursor.eat(&["isolation", "level"]) => {
                let level = cursor.peek().map_or_else(String::new, |token| token.to_string().to_uppercase());
                return Err(Error::unsupported(format!("ISOLATION LEVEL {level}"))
                    .with_position(position)
                    .with_hint("each statement reads one consistent cut: use READ COMMITTED"));
            }
            () if cursor.eat(&["read", "only"]) => {
                return Err(Error::unsupported("READ ONLY transactions")
                    .with_position(position)
                    .with_hint("use BEGIN without a mode"));
            }
            () => return Err(cursor.expected("a transaction mode")),
        }
        cursor.eat_token(&Token::Comma);
    }
}
