//! ALTER STREAM and ALTER TABLE, from tokens.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::define::{check_column_name, column, column_type, refuse_constraint};
use super::{Alter, AlterChange, RelationKind, Sentence};
use crate::error::{Error, Result, SqlState};

/// What ALTER can do, for hints.
const CHANGES: &str = "there are ADD COLUMN, DROP COLUMN, ALTER COLUMN … TYPE, RENAME COLUMN … TO and RENAME TO";
/// Changes in one statement, at the most.
const CHANGES_MAX: usize = 1000;

/// `ALTER …`, the first word taken.
pub(crate) fn alter(cursor: &mut Cursor<'_>) -> Result<Sentence> {
    let position = cursor.position();
    let kind = match () {
        () if cursor.eat(&["stream"]) => RelationKind::Stream,
        () if cursor.eat(&["table"]) || cursor.eat(&["materialized", "view"]) => RelationKind::Table,
        () => {
            let what = cursor.peek().map_or_else(String::new, |token| token.to_string().to_uppercase());
            return Err(Error::unsupported(format!("ALTER {what}"))
                .with_position(position)
                .with_hint("ALTER STREAM and ALTER TABLE are there; SET changes a setting of the session"));
        }
    };
    let if_exists = cursor.eat(&["if", "exists"]);
    let name = cursor.relation_name()?;
    let mut changes = Vec::new();
    loop {
        if changes.len() == CHANGES_MAX {
            let message = format!("ALTER has more than {CHANGES_MAX} changes");
            return Err(Error::new(SqlState::ProgramLimitExceeded, message).with_hint("say them in several statements"));
        }
        changes.push(change(cursor)?);
        if !cursor.eat_token(&Token::Comma) {
            break;
        }
    }
    cursor.end()?;
    Ok(Sentence::Alter(Alter { kind, name, if_exists, changes }))
}

fn change(cursor: &mut Cursor<'_>) -> Result<AlterChange> {
    let position = cursor.position();
    match () {
        () if cursor.eat(&["add"]) => added(cursor),
        () if cursor.eat(&["drop"]) => {
            refuse_constraint(cursor)?;
            cursor.eat(&["column"]);
            let if_exists = cursor.eat(&["if", "exists"]);
            let (_, name) = cursor.identifier("a column")?;
            if cursor.at(&["cascade"]) {
                return Err(Error::unsupported("DROP COLUMN … CASCADE")
                    .with_position(cursor.position())
                    .with_hint("leave CASCADE out: queries that read the column keep it"));
            }
            cursor.eat(&["restrict"]);
            Ok(AlterChange::DropColumn { name, if_exists })
        }
        () if cursor.eat(&["alter"]) => retyped(cursor),
        () if cursor.eat(&["rename", "to"]) => Ok(AlterChange::RenameTo(cursor.relation_name()?)),
        () if cursor.eat(&["rename"]) => {
            cursor.eat(&["column"]);
            let (_, from) = cursor.identifier("a column")?;
            cursor.expect(&["to"])?;
            let (_, to) = cursor.identifier("a column name")?;
            check_column_name(&to)?;
            Ok(AlterChange::RenameColumn { from, to })
        }
        () => {
            let what = cursor.peek().map_or_else(String::new, |token| format!(" {}", token.to_string().to_uppercase()));
            Err(Error::unsupported(format!("ALTER …{what}")).with_position(position).with_hint(CHANGES))
        }
    }
}

/// `ADD`, the word taken.
fn added(cursor: &mut Cursor<'_>) -> Result<AlterChange> {
    let position = cursor.position();
    refuse_constraint(cursor)?;
    if cursor.at(&["primary", "key"]) {
        return Err(Error::unsupported("ADD PRIMARY KEY")
            .with_position(position)
            .with_hint("records are placed by their key: DROP the table and CREATE it with its PRIMARY KEY"));
    }
    cursor.eat(&["column"]);
    let if_not_exists = cursor.eat(&["if", "not", "exists"]);
    let mut checks = Vec::new();
    let column = column(cursor, &mut checks)?;
    check_column_name(&column.name)?;
    if column.default.is_some() || !checks.is_empty() {
        return Err(Error::unsupported("ADD COLUMN … with DEFAULT or CHECK")
            .with_position(column.name.position)
            .with_hint("CREATE OR REPLACE says all columns anew, with what is asked of them"));
    }
    if column.mark.is_some() || column.not_null {
        let what = if column.not_null { "ADD COLUMN … NOT NULL" } else { "ADD COLUMN of a key or of headers" };
        return Err(Error::unsupported(what)
            .with_position(column.name.position)
            .with_hint("a column that is added is a field of the value, NULL in the records there are"));
    }
    Ok(AlterChange::AddColumn { column, if_not_exists })
}

/// `ALTER [COLUMN] name [SET DATA] TYPE type`, the first word taken.
fn retyped(cursor: &mut Cursor<'_>) -> Result<AlterChange> {
    cursor.eat(&["column"]);
    let (_, name) = cursor.identifier("a column")?;
    let position = cursor.position();
    if !cursor.eat(&["set", "data", "type"]) && !cursor.eat(&["type"]) {
        let what = cursor.peek().map_or_else(String::new, |token| format!(" {}", token.to_string().to_uppercase()));
        return Err(Error::unsupported(format!("ALTER COLUMN …{what}")).with_position(position).with_hint(CHANGES));
    }
    let kind = column_type(cursor, 0)?;
    for word in ["using", "collate"] {
        if cursor.at(&[word]) {
            return Err(Error::unsupported(format!("ALTER COLUMN … {}", word.to_uppercase()))
                .with_position(cursor.position())
                .with_hint("records are read by the new type as they are: leave it out, or compute in the SELECT"));
        }
    }
    Ok(AlterChange::ChangeType { name, kind })
}

#[cfg(test)]
mod tests {
    use aquifer_storage::record::format::ColumnType;

    use super::super::parse::parse;
    use super::*;

    fn changes(sql: &str) -> Result<Vec<AlterChange>> {
        let sentence = parse(sql)?.remove(0).sentence;
        let Sentence::Alter(alter) = sentence else { panic!("{sentence:?}") };
        Ok(alter.changes)
    }

    #[test]
    fn changes_are_read_in_postgres_s_and_ksqldb_s_spelling() {
        let read = changes(
            "ALTER STREAM s ADD COLUMN a INT, ADD IF NOT EXISTS b STRUCT<x ARRAY<INT>>, DROP c, \
             ALTER COLUMN d TYPE bigint, ALTER d SET DATA TYPE numeric(20,2), RENAME e TO \"F\", RENAME COLUMN g TO h",
        )
        .unwrap();
        let shown: Vec<String> = read
            .iter()
            .map(|change| match change {
                AlterChange::AddColumn { column, if_not_exists } => {
                    format!("add {} {} {if_not_exists}", column.name.value, column.kind)
                }
                AlterChange::DropColumn { name, .. } => format!("drop {}", name.value),
                AlterChange::ChangeType { name, kind } => format!("type {} {kind}", name.value),
                AlterChange::RenameColumn { from, to } => format!("rename {} {}", from.value, to.value),
                AlterChange::RenameTo(name) => format!("to {}", name.value),
            })
            .collect();
        let expected = [
            "add a INT false",
            "add b STRUCT<x ARRAY<INT>> true",
            "drop c",
            "type d BIGINT",
            "type d DECIMAL(20, 2)",
            "rename e F",
            "rename g h",
        ];
        assert_eq!(shown, expected);
        assert!(
            matches!(&changes("ALTER TABLE t RENAME TO u").unwrap()[..], [AlterChange::RenameTo(to)] if to.value == "u")
        );
        let varchar = changes("ALTER TABLE t ALTER a TYPE varchar(20)").unwrap();
        assert!(matches!(&varchar[..], [AlterChange::ChangeType { kind: ColumnType::Varchar(20), .. }]));
    }

    #[test]
    fn what_alter_does_not_do_is_refused_by_name_with_its_place() {
        for (sql, code, place) in [
            ("ALTER SYSTEM SET a = 1", "0A000", 7),
            ("ALTER TABLE t SET SCHEMA x", "0A000", 15),
            ("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 1)", "0A000", 19),
            ("ALTER TABLE t ADD PRIMARY KEY (a)", "0A000", 19),
            ("ALTER TABLE t ADD a int NOT NULL", "0A000", 19),
            ("ALTER TABLE t ADD _a int", "42602", 19),
            ("ALTER TABLE t ALTER a TYPE int USING a::int", "0A000", 32),
            ("ALTER TABLE t ALTER a SET NOT NULL", "0A000", 23),
            ("ALTER TABLE t RENAME a TO rowtime", "42602", 27),
            ("ALTER TABLE t ADD a", "42601", 20),
        ] {
            let error = parse(sql).unwrap_err();
            assert_eq!((error.state.code(), error.position), (code, Some(place)), "{sql}: {error}");
            assert!(code == "42601" || error.hint.is_some(), "{sql}");
        }
    }
}
