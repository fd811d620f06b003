//! CREATE and DROP, from tokens: columns with their types and marks, WITH and its properties.

use std::sync::Arc;

use aquifer_storage::record::format::ColumnType;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::constraint;
use super::cursor::{Cursor, Places};
use super::parse::query_of;
use super::{
    CheckDefinition, ColumnDefinition, ColumnMark, CreateAsSelect, CreateRelation, Drop, Name, Property, RelationKind,
    Sentence,
};
use crate::error::{Error, Result, SqlState};

/// Deepest nesting of a column's type.
const TYPE_DEPTH_MAX: usize = 16;
/// Longest length of a VARCHAR, as in Postgres.
const VARCHAR_LENGTH_MAX: u32 = 10_485_760;

/// `CREATE …`, the first word taken.
pub(crate) fn create(cursor: &mut Cursor<'_>, places: &Arc<Places>, text: &str) -> Result<Sentence> {
    let position = cursor.position();
    let replaces = cursor.eat(&["or", "replace"]);
    for word in ["source", "temp", "temporary", "unlogged", "external", "global", "local"] {
        if cursor.at(&[word]) {
            return Err(Error::unsupported(format!("CREATE {}", word.to_uppercase()))
                .with_position(position)
                .with_hint("use CREATE STREAM or CREATE TABLE"));
        }
    }
    let kind = match () {
        () if cursor.eat(&["stream"]) => RelationKind::Stream,
        () if cursor.eat(&["table"]) => RelationKind::Table,
        () if cursor.eat(&["materialized", "view"]) => {
            refuse_replacing_query(replaces, position)?;
            let (name, if_not_exists) = create_name(cursor)?;
            let with = with_clause(cursor)?;
            return create_as(cursor, places, text, (RelationKind::Table, name, if_not_exists, with));
        }
        () => {
            let what = cursor.peek().map_or_else(String::new, |token| token.to_string().to_uppercase());
            return Err(Error::unsupported(format!("CREATE {what}"))
                .with_position(position)
                .with_hint("CREATE STREAM, CREATE TABLE and CREATE MATERIALIZED VIEW are there"));
        }
    };
    let (name, if_not_exists) = create_name(cursor)?;
    if replaces && if_not_exists {
        return Err(Error::new(SqlState::SyntaxError, "OR REPLACE and IF NOT EXISTS exclude each other")
            .with_position(position)
            .with_hint("say one of them"));
    }
    if cursor.peek() == Some(&Token::LParen) {
        let (columns, checks) = columns(cursor, kind)?;
        let columns = Some(columns);
        let with = with_clause(cursor)?;
        if cursor.at(&["as"]) {
            return Err(Error::unsupported("a column list before AS SELECT")
                .with_position(cursor.position())
                .with_hint("name the columns in the SELECT: SELECT x AS name"));
        }
        cursor.end()?;
        let text = text.to_owned();
        let create = CreateRelation { kind, name, if_not_exists, replaces, columns, checks, with, text };
        return Ok(Sentence::CreateRelation(create));
    }
    let with = with_clause(cursor)?;
    if cursor.at_end() && !with.is_empty() {
        let (columns, checks, text) = (None, Vec::new(), text.to_owned());
        let create = CreateRelation { kind, name, if_not_exists, replaces, columns, checks, with, text };
        return Ok(Sentence::CreateRelation(create));
    }
    if cursor.at(&["as"]) {
        refuse_replacing_query(replaces, position)?;
        return create_as(cursor, places, text, (kind, name, if_not_exists, with));
    }
    Err(cursor.expected("a column list, WITH (…) or AS SELECT"))
}

fn refuse_replacing_query(replaces: bool, position: usize) -> Result<()> {
    if !replaces {
        return Ok(());
    }
    Err(Error::unsupported("CREATE OR REPLACE … AS SELECT")
        .with_position(position)
        .with_hint("DROP the result, then CREATE it again: it is computed anew from the first record"))
}

type Head = (RelationKind, Name, bool, Vec<Property>);

fn create_as(cursor: &mut Cursor<'_>, places: &Arc<Places>, text: &str, head: Head) -> Result<Sentence> {
    cursor.expect(&["as"])?;
    let query = query_of(cursor.rest(), places)?;
    let (kind, name, if_not_exists, with) = head;
    if let Some(property) = query.with.first() {
        return Err(Error::unsupported("WITH behind EMIT CHANGES in CREATE")
            .with_position(property.position)
            .with_hint(format!(
                "it stands before AS: CREATE … {} WITH ({} = …) AS SELECT …",
                name.value, property.name
            )));
    }
    let text = text.to_owned();
    Ok(Sentence::CreateAsSelect(CreateAsSelect { kind, name, if_not_exists, with, query, text }))
}

fn create_name(cursor: &mut Cursor<'_>) -> Result<(Name, bool)> {
    let if_not_exists = cursor.eat(&["if", "not", "exists"]);
    Ok((cursor.relation_name()?, if_not_exists))
}

fn columns(cursor: &mut Cursor<'_>, kind: RelationKind) -> Result<(Vec<ColumnDefinition>, Vec<CheckDefinition>)> {
    cursor.expect_token(&Token::LParen)?;
    let (mut columns, mut checks): (Vec<ColumnDefinition>, Vec<CheckDefinition>) = Default::default();
    let mut keys: Vec<Name> = Vec::new();
    if cursor.eat_token(&Token::RParen) {
        return Ok((columns, checks));
    }
    loop {
        if cursor.eat(&["primary", "key"]) {
            keys.extend(key_list(cursor)?);
        } else if let Some(check) = constraint::check(cursor, None)? {
            checks.push(check);
        } else {
            refuse_constraint(cursor)?;
            columns.push(column(cursor, &mut checks)?);
        }
        if cursor.eat_token(&Token::RParen) {
            break;
        }
        cursor.expect_token(&Token::Comma)?;
    }
    for key in keys {
        let Some(column) = columns.iter_mut().find(|column| column.name.value == key.value) else {
            let message = format!("column \"{}\" named in key does not exist", key.value);
            return Err(Error::new(SqlState::UndefinedColumn, message).with_position(key.position));
        };
        column.mark = Some(ColumnMark::PrimaryKey);
    }
    check_columns(&columns, kind)?;
    Ok((columns, checks))
}

fn key_list(cursor: &mut Cursor<'_>) -> Result<Vec<Name>> {
    cursor.expect_token(&Token::LParen)?;
    let mut names = vec![cursor.identifier("a column")?.1];
    while cursor.eat_token(&Token::Comma) {
        names.push(cursor.identifier("a column")?.1);
    }
    cursor.expect_token(&Token::RParen)?;
    Ok(names)
}

pub(super) fn refuse_constraint(cursor: &Cursor<'_>) -> Result<()> {
    let constraint = match () {
        () if cursor.at(&["unique"]) => "UNIQUE",
        () if cursor.at(&["foreign", "key"]) => "FOREIGN KEY",
        () if cursor.at(&["constraint"]) => "CONSTRAINT",
        () if cursor.at(&["references"]) => "REFERENCES",
        () if cursor.at(&["generated"]) => "GENERATED",
        () if cursor.at(&["collate"]) => "COLLATE",
        () => return Ok(()),
    };
    Err(Error::unsupported(constraint)
        .with_position(cursor.position())
        .with_hint("a column takes KEY, PRIMARY KEY, HEADERS, NOT NULL, DEFAULT and CHECK"))
}

/// `name type`, and what marks it.
pub(super) fn column(cursor: &mut Cursor<'_>, checks: &mut Vec<CheckDefinition>) -> Result<ColumnDefinition> {
    let (field, name) = cursor.identifier("a column name")?;
    let kind = column_type(cursor, 0)?;
    let mut column = ColumnDefinition { name, field, kind, mark: None, not_null: false, default: None };
    loop {
        let position = cursor.position();
        let mark = match () {
            () if cursor.eat(&["primary", "key"]) => ColumnMark::PrimaryKey,
            () if cursor.eat(&["key"]) => ColumnMark::Key,
            () if cursor.eat(&["headers"]) => ColumnMark::Headers,
            () if cursor.eat(&["not", "null"]) => {
                column.not_null = true;
                continue;
            }
            () if cursor.eat(&["null"]) => continue,
            () if cursor.eat(&["default"]) => {
                if column.default.replace(constraint::default(cursor)?).is_some() {
                    let message = format!("multiple default values specified for column \"{}\"", column.name.value);
                    return Err(Error::new(SqlState::SyntaxError, message).with_position(position));
                }
                continue;
            }
            () if cursor.at(&["check"]) || cursor.at(&["constraint"]) => {
                let Some(check) = constraint::check(cursor, Some(&column.name.value))? else { break };
                checks.push(check);
                continue;
            }
            () if cursor.at(&["header"]) => {
                return Err(Error::unsupported("HEADER('key')")
                    .with_position(position)
                    .with_hint("declare all headers: h ARRAY<STRUCT<key STRING, value BYTES>> HEADERS"));
            }
            () => break,
        };
        if column.mark.replace(mark).is_some() {
            return Err(Error::new(SqlState::SyntaxError, "a column is marked once").with_position(position));
        }
    }
    refuse_constraint(cursor)?;
    Ok(column)
}

/// Names that belong to the record itself are not a column's.
///
/// # Errors
/// 42602.
pub(crate) fn check_column_name(name: &Name) -> Result<()> {
    let (value, position) = (&name.value, name.position);
    if value.starts_with('_') {
        let message = format!("column name \"{value}\" begins with an underscore");
        return Err(Error::new(SqlState::InvalidName, message)
            .with_position(position)
            .with_hint("such names belong to the record itself: _offset, _timestamp, _key"));
    }
    if ["rowtime", "rowpartition", "rowoffset"].contains(&value.as_str()) {
        return Err(Error::new(SqlState::InvalidName, format!("column name \"{value}\" is taken"))
            .with_position(position)
            .with_hint("every relation has rowtime, rowpartition and rowoffset by itself"));
    }
    Ok(())
}

fn check_columns(columns: &[ColumnDefinition], kind: RelationKind) -> Result<()> {
    for (index, column) in columns.iter().enumerate() {
        let at = |error: Error| Err(error.with_position(column.name.position));
        let name = &column.name.value;
        check_column_name(&column.name)?;
        if columns[..index].iter().any(|other| other.name.value == *name) {
            let message = format!("column \"{name}\" specified more than once");
            return at(Error::new(SqlState::InvalidColumnDefinition, message));
        }
        match (column.mark, kind) {
            (Some(ColumnMark::PrimaryKey), RelationKind::Stream) => {
                return at(Error::new(SqlState::InvalidColumnDefinition, "a stream has no PRIMARY KEY")
                    .with_hint("mark the column KEY, or CREATE TABLE"));
            }
            (Some(ColumnMark::Key), RelationKind::Table) => {
                return at(Error::new(SqlState::InvalidColumnDefinition, "a table's key is its PRIMARY KEY")
                    .with_hint("mark the column PRIMARY KEY, or CREATE STREAM"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A type by its ksqlDB or Postgres name.
pub(crate) fn column_type(cursor: &mut Cursor<'_>, depth: usize) -> Result<ColumnType> {
    if depth > TYPE_DEPTH_MAX {
        let message = format!("type is nested deeper than {TYPE_DEPTH_MAX}");
        return Err(Error::new(SqlState::ProgramLimitExceeded, message).with_position(cursor.position()));
    }
    let mut kind = scalar_or_nested(cursor, depth)?;
    loop {
        if cursor.eat_token(&Token::LBracket) {
            if matches!(cursor.peek(), Some(Token::Number(..))) {
                cursor.take();
            }
            cursor.expect_token(&Token::RBracket)?;
        } else if !cursor.eat(&["array"]) {
            return Ok(kind);
        }
        kind = ColumnType::Array(Box::new(kind));
    }
}

fn scalar_or_nested(cursor: &mut Cursor<'_>, depth: usize) -> Result<ColumnType> {
    let (written, name) = cursor.identifier("a type")?;
    let kind = match name.value.as_str() {
        "boolean" | "bool" => ColumnType::Boolean,
        "smallint" | "int2" => ColumnType::SmallInt,
        "int" | "integer" | "int4" => ColumnType::Int,
        "bigint" | "int8" => ColumnType::BigInt,
        "real" | "float4" => ColumnType::Real,
        "double" => {
            cursor.eat(&["precision"]);
            ColumnType::Double
        }
        "float8" | "float" => ColumnType::Double,
        "decimal" | "numeric" | "dec" => decimal(cursor)?,
        "string" | "text" => ColumnType::Text,
        "varchar" => length(cursor)?,
        "character" | "char" if cursor.eat(&["varying"]) => length(cursor)?,
        "char" | "character" | "bpchar" => padded(cursor, &name)?,
        "bytes" | "bytea" => ColumnType::Bytes,
        "timestamptz" => ColumnType::TimestampTz,
        "timestamp" | "time" => zoned(cursor, &name)?,
        "date" => ColumnType::Date,
        "uuid" => ColumnType::Uuid,
        "json" | "jsonb" => ColumnType::Json,
        "array" | "struct" | "map" => nested(cursor, &name, depth)?,
        _ => {
            return Err(Error::new(SqlState::UndefinedObject, format!("type \"{written}\" does not exist"))
                .with_position(name.position)
                .with_hint("use a type of ksqlDB or Postgres: BIGINT, DOUBLE, STRING, TIMESTAMP, jsonb, STRUCT<…>"));
        }
    };
    Ok(kind)
}

fn zoned(cursor: &mut Cursor<'_>, name: &Name) -> Result<ColumnType> {
    if cursor.peek() == Some(&Token::LParen) {
        cursor.parenthesized()?;
    }
    let with_zone = cursor.eat(&["with", "time", "zone"]);
    cursor.eat(&["without", "time", "zone"]);
    match (name.value.as_str(), with_zone) {
        ("timestamp", true) => Ok(ColumnType::TimestampTz),
        ("timestamp", false) => Ok(ColumnType::Timestamp),
        (_, false) => Ok(ColumnType::Time),
        (_, true) => Err(Error::unsupported("TIME WITH TIME ZONE")
            .with_position(name.position)
            .with_hint("use TIME, or TIMESTAMP WITH TIME ZONE")),
    }
}

/// `(n)` behind VARCHAR: the most characters that SQL writes; what clients write to the topic is not cut.
fn length(cursor: &mut Cursor<'_>) -> Result<ColumnType> {
    let position = cursor.position();
    if !cursor.eat_token(&Token::LParen) {
        return Ok(ColumnType::Text);
    }
    let length = cursor.number("a length")?;
    cursor.expect_token(&Token::RParen)?;
    match u32::try_from(length) {
        Ok(length @ 1..=VARCHAR_LENGTH_MAX) => Ok(ColumnType::Varchar(length)),
        _ => Err(Error::new(SqlState::InvalidParameterValue, format!("VARCHAR({length}) is out of range"))
            .with_position(position)
            .with_hint(format!("the length is 1 to {VARCHAR_LENGTH_MAX}; text has none"))),
    }
}

/// CHAR: text as it is; with a length, blanks would have to be added, which nobody wants in a record.
fn padded(cursor: &Cursor<'_>, name: &Name) -> Result<ColumnType> {
    if cursor.peek() != Some(&Token::LParen) {
        return Ok(ColumnType::Text);
    }
    Err(Error::unsupported(format!("{} with a length, padded with blanks", name.value.to_uppercase()))
        .with_position(cursor.position())
        .with_hint("use VARCHAR with that length, or text"))
}

fn decimal(cursor: &mut Cursor<'_>) -> Result<ColumnType> {
    let position = cursor.position();
    let (mut precision, mut scale) = (38, 10);
    if cursor.eat_token(&Token::LParen) {
        precision = cursor.number("a precision")?;
        scale = if cursor.eat_token(&Token::Comma) { cursor.number("a scale")? } else { 0 };
        cursor.expect_token(&Token::RParen)?;
    }
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) if (0..=i8::try_from(precision).unwrap_or(38)).contains(&scale) => {
            Ok(ColumnType::Decimal { precision, scale })
        }
        _ => Err(Error::new(SqlState::InvalidParameterValue, format!("DECIMAL({precision}, {scale}) is out of range"))
            .with_position(position)
            .with_hint("precision is 1 to 38, scale 0 to the precision")),
    }
}

fn nested(cursor: &mut Cursor<'_>, name: &Name, depth: usize) -> Result<ColumnType> {
    cursor.expect_token(&Token::Lt)?;
    let kind = match name.value.as_str() {
        "array" => ColumnType::Array(Box::new(column_type(cursor, depth + 1)?)),
        "map" => {
            let position = cursor.position();
            if column_type(cursor, depth + 1)? != ColumnType::Text {
                return Err(Error::unsupported("a MAP whose keys are not STRING")
                    .with_position(position)
                    .with_hint("use MAP<STRING, …>"));
            }
            cursor.expect_token(&Token::Comma)?;
            ColumnType::Map(Box::new(column_type(cursor, depth + 1)?))
        }
        _ => {
            let mut fields = Vec::new();
            loop {
                let (_, field) = cursor.identifier("a field name")?;
                fields.push((field.value, column_type(cursor, depth + 1)?));
                if !cursor.eat_token(&Token::Comma) {
                    break;
                }
            }
            ColumnType::Struct(fields)
        }
    };
    cursor.expect_closing_angle()?;
    Ok(kind)
}

/// `WITH (name = value, …)`, if it is there.
pub(crate) fn with_clause(cursor: &mut Cursor<'_>) -> Result<Vec<Property>> {
    let mut properties: Vec<Property> = Vec::new();
    if !cursor.eat(&["with"]) {
        return Ok(properties);
    }
    cursor.expect_token(&Token::LParen)?;
    if cursor.eat_token(&Token::RParen) {
        return Ok(properties);
    }
    loop {
        let (_, name) = cursor.identifier("a property")?;
        cursor.expect_token(&Token::Eq)?;
        let value = property_value(cursor)?;
        let lower = name.value.to_lowercase();
        if properties.iter().any(|property| property.name == lower) {
            return Err(Error::new(SqlState::SyntaxError, format!("property {lower} is given twice"))
                .with_position(name.position));
        }
        properties.push(Property { name: lower, value, position: name.position });
        if !cursor.eat_token(&Token::Comma) {
            break;
        }
    }
    cursor.expect_token(&Token::RParen)?;
    Ok(properties)
}

fn property_value(cursor: &mut Cursor<'_>) -> Result<String> {
    if let Some(text) = cursor.text() {
        return Ok(text);
    }
    let minus = cursor.eat_token(&Token::Minus);
    match cursor.peek() {
        Some(Token::Number(digits, _)) => {
            cursor.take();
            Ok(if minus { format!("-{digits}") } else { digits.clone() })
        }
        Some(Token::Word(word)) if !minus => {
            cursor.take();
            Ok(word.value.clone())
        }
        _ => Err(cursor.expected("a value")),
    }
}

/// `DROP …`, the first word taken.
pub(crate) fn drop(cursor: &mut Cursor<'_>) -> Result<Sentence> {
    let position = cursor.position();
    let kind = match () {
        () if cursor.eat(&["stream"]) => RelationKind::Stream,
        () if cursor.eat(&["table"]) || cursor.eat(&["materialized", "view"]) => RelationKind::Table,
        () => {
            let what = cursor.peek().map_or_else(String::new, |token| token.to_string().to_uppercase());
            return Err(Error::unsupported(format!("DROP {what}"))
                .with_position(position)
                .with_hint("DROP STREAM, DROP TABLE and DROP MATERIALIZED VIEW are there"));
        }
    };
    let if_exists = cursor.eat(&["if", "exists"]);
    let mut names = vec![cursor.relation_name()?];
    while cursor.eat_token(&Token::Comma) {
        names.push(cursor.relation_name()?);
    }
    let delete_topic = cursor.eat(&["delete", "topic"]);
    if cursor.at(&["cascade"]) {
        return Err(Error::unsupported("DROP … CASCADE")
            .with_position(cursor.position())
            .with_hint("drop the relations of the queries that read it first"));
    }
    cursor.eat(&["restrict"]);
    cursor.end()?;
    Ok(Sentence::Drop(Drop { kind, names, if_exists, delete_topic }))
}
