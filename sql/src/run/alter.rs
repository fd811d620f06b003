//! ALTER STREAM and ALTER TABLE: a declaration changes, the records stay. What was written before is read by the new
//! declaration; a query that goes on keeps reading by the one it was made with, which is stored with it.

use std::sync::Arc;

use aquifer_storage::record::format::{ColumnRole, ColumnType, DeclaredColumn, Format};
use aquifer_storage::{Commit, Definition, DefinitionChange, Expect};

use datafusion::execution::session_state::SessionState;

use crate::catalog::relation::DeclaredRules;
use crate::catalog::{Catalog, QUERY_KIND, RELATION_KIND, Relation};
use crate::error::{Error, Result, SqlState};
use crate::run::define::is_taken;
use crate::run::rule;
use crate::statement::{Alter, AlterChange, ColumnDefinition, Name};
use crate::stream::QueryDefinition;

/// `ALTER STREAM | TABLE name …`; answers the tag and notices.
///
/// # Errors
/// 42P01, 42809, 55006 if a query writes it, what a change says, and storage. Then nothing has changed.
pub(crate) async fn alter(catalog: &Catalog, state: &SessionState, alter: &Alter) -> Result<(String, Vec<Error>)> {
    let tag = format!("ALTER {}", alter.kind.word().to_uppercase());
    let _alone = catalog.defining.lock().await;
    let relation = match catalog.relation(&alter.name) {
        Ok(relation) => relation,
        Err(_) if alter.if_exists => {
            let message = format!("relation \"{}\" does not exist, skipping", alter.name.value);
            return Ok((tag, vec![Error::new(SqlState::UndefinedTable, message)]));
        }
        Err(error) => return Err(error),
    };
    check_alterable(&relation, alter)?;
    let mut changed = relation.as_ref().clone();
    let mut notices = Vec::new();
    for change in &alter.changes {
        if let AlterChange::RenameTo(name) = change {
            is_taken(catalog, name, false)?;
            refuse_renaming(catalog, &relation)?;
        }
        notices.extend(apply(&mut changed, change)?);
    }
    changed.format.check().map_err(|error| {
        Error::new(SqlState::InvalidColumnDefinition, error.to_string())
            .with_position(alter.name.position)
            .with_hint("CREATE another stream over the same topic for records of another kind")
    })?;
    if changed.rules != DeclaredRules::default() {
        rule::check_declared(state, &changed, catalog.storage().clock().now_us()).await.map_err(|error| {
            error
                .with_position(alter.name.position)
                .with_hint("a DEFAULT or CHECK does not fit any more; CREATE OR REPLACE says the relation anew")
        })?;
    }
    if changed != *relation {
        catalog
            .commit(Commit { definitions: redefinition(catalog, &relation, &changed)?, ..Commit::default() })
            .await?;
    }
    Ok((tag, notices))
}

/// The changes that put `changed` in a relation's place; queries that read it keep it as it was.
///
/// # Errors
/// 55006 if a query reads it whose definition does not parse.
pub(crate) fn redefinition(
    catalog: &Catalog,
    relation: &Arc<Relation>,
    changed: &Relation,
) -> Result<Vec<DefinitionChange>> {
    let change = |name: &str, value: Option<&Relation>, expect: Expect| -> Result<DefinitionChange> {
        let value = value.map(Relation::to_bytes).transpose()?;
        Ok(DefinitionChange { kind: RELATION_KIND.to_owned(), name: name.to_owned(), value, holds: Vec::new(), expect })
    };
    let mut changes = vec![if changed.name == relation.name {
        change(&changed.name, Some(changed), Expect::Present)?
    } else {
        change(&changed.name, Some(changed), Expect::Absent)?
    }];
    if changed.name != relation.name {
        changes.push(change(&relation.name, None, Expect::Present)?);
    }
    let shape = |of: &Relation| (of.format.clone(), of.timestamp_column.clone(), of.window.clone());
    if shape(changed) != shape(relation) {
        for (definition, mut query) in readers(catalog, relation)? {
            if query.source_as.is_none() {
                query.source_as = Some(relation.as_ref().clone());
                changes.push(DefinitionChange {
                    kind: QUERY_KIND.to_owned(),
                    name: definition.name.clone(),
                    value: Some(query.to_bytes()?),
                    holds: definition.holds.clone(),
                    expect: Expect::Value(definition.value.clone()),
                });
            }
        }
    }
    Ok(changes)
}

/// The queries that read a relation.
///
/// # Errors
/// 55006 if one over its topic does not parse: what it reads is not known.
pub(crate) fn readers(catalog: &Catalog, relation: &Relation) -> Result<Vec<(Arc<Definition>, QueryDefinition)>> {
    let definitions = catalog.storage().definitions(QUERY_KIND);
    let over_it = definitions.into_iter().filter(|definition| definition.holds.contains(&relation.topic));
    let mut readers = Vec::new();
    for definition in over_it {
        match QueryDefinition::from_definition(&definition) {
            Ok(query) if query.source == relation.name => readers.push((definition, query)),
            Ok(_) => {}
            Err(source) => return Err(in_use(relation, &definition.name).with_source(source)),
        }
    }
    Ok(readers)
}

/// 55006, naming the query.
pub(crate) fn in_use(relation: &Relation, query: &str) -> Error {
    let message = format!("{} \"{}\" is used by query \"{query}\"", relation.kind.word(), relation.name);
    Error::new(SqlState::ObjectInUse, message).with_hint(format!("TERMINATE {query} or DROP what it writes first"))
}

fn check_alterable(relation: &Relation, alter: &Alter) -> Result<()> {
    if relation.kind != alter.kind {
        let (is, said) = (relation.kind.word(), alter.kind.word());
        return Err(Error::new(SqlState::WrongObjectType, format!("\"{}\" is a {is}, not a {said}", relation.name))
            .with_position(alter.name.position)
            .with_hint(format!("ALTER {} {}", is.to_uppercase(), relation.name)));
    }
    if let Some(query) = &relation.query {
        let message = format!("{} \"{}\" is written by query \"{query}\"", relation.kind.word(), relation.name);
        return Err(Error::new(SqlState::ObjectInUse, message).with_position(alter.name.position).with_hint(format!(
            "its columns are its SELECT's; DROP it and CREATE it with another, or TERMINATE {query}"
        )));
    }
    Ok(())
}

fn refuse_renaming(catalog: &Catalog, relation: &Relation) -> Result<()> {
    match readers(catalog, relation)?.first() {
        Some((definition, _)) => Err(in_use(relation, &definition.name)),
        None => Ok(()),
    }
}

/// Makes one change; answers a notice if there was nothing to do.
fn apply(relation: &mut Relation, change: &AlterChange) -> Result<Option<Error>> {
    match change {
        AlterChange::AddColumn { column, if_not_exists } => add(relation, column, *if_not_exists),
        AlterChange::DropColumn { name, if_exists } => drop_column(relation, name, *if_exists),
        AlterChange::ChangeType { name, kind } => retype(relation, name, kind).map(|()| None),
        AlterChange::RenameColumn { from, to } => rename(relation, from, to).map(|()| None),
        AlterChange::RenameTo(name) => {
            relation.name = name.value.clone();
            Ok(None)
        }
    }
}

fn add(relation: &mut Relation, column: &ColumnDefinition, if_not_exists: bool) -> Result<Option<Error>> {
    let name = &column.name;
    if relation.format.columns.iter().any(|there| there.name == name.value) {
        let message = format!("column \"{}\" of relation \"{}\" already exists", name.value, relation.name);
        if if_not_exists {
            return Ok(Some(Error::new(SqlState::DuplicateColumn, format!("{message}, skipping"))));
        }
        return Err(Error::new(SqlState::DuplicateColumn, message)
            .with_position(name.position)
            .with_hint("say IF NOT EXISTS, or ALTER COLUMN … TYPE to widen it"));
    }
    let (role, not_null) = (ColumnRole::Value, false);
    let kind = column.kind.clone();
    let added = DeclaredColumn { name: name.value.clone(), field: column.field.clone(), kind, role, not_null };
    relation.format.columns.push(added);
    Ok(None)
}

fn drop_column(relation: &mut Relation, name: &Name, if_exists: bool) -> Result<Option<Error>> {
    let found = match place(relation, name) {
        Ok(found) => found,
        Err(error) if if_exists => {
            return Ok(Some(Error::new(SqlState::UndefinedColumn, format!("{}, skipping", error.message))));
        }
        Err(error) => return Err(error),
    };
    let refused = |why: &str, hint: &str| {
        let message = format!("column \"{}\" of relation \"{}\" {why}", name.value, relation.name);
        Err(Error::new(SqlState::InvalidColumnDefinition, message).with_position(name.position).with_hint(hint))
    };
    if relation.format.columns[found].role == ColumnRole::Key {
        return refused("is part of the key", "DROP the relation and CREATE it without; its topic stays");
    }
    if relation.timestamp_column.as_ref() == Some(&name.value) {
        return refused("is the relation's timestamp", "CREATE OR REPLACE it without timestamp, then drop the column");
    }
    let by_name = matches!(relation.format.value_format, Format::Json | Format::None);
    if relation.format.columns[found].role == ColumnRole::Value && !by_name {
        return refused(
            "is found by its place in the value, not by its name",
            "leave it there, and leave it out of your SELECTs",
        );
    }
    relation.format.columns.remove(found);
    relation.rules.defaults.remove(&name.value);
    Ok(None)
}

fn retype(relation: &mut Relation, name: &Name, kind: &ColumnType) -> Result<()> {
    let found = place(relation, name)?;
    let is_keyed = relation.is_keyed_table();
    let format = &mut relation.format;
    let (key_format, value_format) = (format.key_format, format.value_format);
    let column = &mut format.columns[found];
    let bytes = if column.role == ColumnRole::Key { key_format } else { value_format };
    let finds_rows = is_keyed && column.role == ColumnRole::Key;
    let allowed = column.role != ColumnRole::Headers
        && widens(&column.kind, kind, bytes)
        && (!finds_rows || keeps_bytes(&column.kind, kind));
    if !allowed {
        let message = format!("column \"{}\" cannot change from {} to {kind}", name.value, column.kind);
        let hint = match bytes {
            _ if finds_rows => {
                "a row lies where the bytes of its primary key say: only integers and VARCHARs widen there; CREATE another \
                 table and INSERT … SELECT into it"
            }
            Format::Kafka => {
                "a primitive's bytes have one type: CREATE another stream over the topic to read them as another"
            }
            _ => {
                "a type may widen: INT to BIGINT, DECIMAL or DOUBLE, DECIMAL and VARCHAR to longer ones, scalars to STRING; \
                 for anything else compute the column in a SELECT"
            }
        };
        return Err(Error::new(SqlState::DatatypeMismatch, message).with_position(name.position).with_hint(hint));
    }
    column.kind = kind.clone();
    Ok(())
}

fn rename(relation: &mut Relation, from: &Name, to: &Name) -> Result<()> {
    let found = place(relation, from)?;
    if relation.format.columns.iter().any(|there| there.name == to.value) {
        let message = format!("column \"{}\" of relation \"{}\" already exists", to.value, relation.name);
        return Err(Error::new(SqlState::DuplicateColumn, message)
            .with_position(to.position)
            .with_hint("rename that one first"));
    }
    // The field keeps its name: that is what the records say.
    relation.format.columns[found].name.clone_from(&to.value);
    if relation.timestamp_column.as_ref() == Some(&from.value) {
        relation.timestamp_column = Some(to.value.clone());
    }
    if let Some(default) = relation.rules.defaults.remove(&from.value) {
        relation.rules.defaults.insert(to.value.clone(), default);
    }
    Ok(())
}

fn place(relation: &Relation, name: &Name) -> Result<usize> {
    relation.format.columns.iter().position(|column| column.name == name.value).ok_or_else(|| {
        let message = format!("column \"{}\" of relation \"{}\" does not exist", name.value, relation.name);
        Error::new(SqlState::UndefinedColumn, message)
            .with_position(name.position)
            .with_hint(format!("DESCRIBE {} lists its columns", relation.name))
    })
}

/// Digits that integers of a type may have.
fn integer_digits(kind: &ColumnType) -> Option<i16> {
    match kind {
        ColumnType::SmallInt => Some(5),
        ColumnType::Int => Some(10),
        ColumnType::BigInt => Some(19),
        _ => None,
    }
}

/// Whether every record that reads as `from` reads as `to` too, and as the same value.
fn widens(from: &ColumnType, to: &ColumnType, bytes: Format) -> bool {
    use ColumnType::{
        Array, BigInt, Boolean, Decimal, Double, Int, Json, Map, Real, SmallInt, Struct, Text, Timestamp, TimestampTz,
        Uuid, Varchar,
    };
    let by_text = bytes != Format::Kafka;
    match (from, to) {
        _ if from == to => true,
        (Varchar(_), Text) => true,
        (Varchar(from), Varchar(to)) => from <= to,
        (Uuid, Text) => true,
        // The same instant in the same bytes.
        (Timestamp, TimestampTz) | (TimestampTz, Timestamp) => by_text,
        (SmallInt, Int | BigInt | Real | Double) | (Int, BigInt | Double) | (BigInt | Real, Double) => by_text,
        (SmallInt | Int | BigInt, Decimal { precision, scale }) => {
            let whole = i16::from(*precision) - i16::from(*scale);
            by_text && integer_digits(from).is_some_and(|digits| whole >= digits)
        }
        (Decimal { precision, scale }, Decimal { precision: wider, scale: finer }) => {
            let whole = |precision: &u8, scale: &i8| i16::from(*precision) - i16::from(*scale);
            by_text && finer >= scale && whole(wider, finer) >= whole(precision, scale)
        }
        (Boolean | SmallInt | Int | BigInt | Real | Double | Decimal { .. }, Text) => by_text,
        (Array(from), Array(to)) | (Map(from), Map(to)) => widens(from, to, bytes),
        (Struct(from), Struct(to)) => from.iter().all(|(name, kind)| {
            to.iter().find(|(other, _)| other == name).is_some_and(|(_, other)| widens(kind, other, bytes))
        }),
        // Any JSON value is one, and stays the text it is.
        (Array(_) | Map(_) | Struct(_) | Boolean | SmallInt | Int | BigInt | Real | Double | Decimal { .. }, Json) => {
            matches!(bytes, Format::Json | Format::JsonUnwrapped)
        }
        _ => false,
    }
}

/// Whether SQL writes a value of `to` as it wrote the same value of `from`, and no two values become one or one two.
fn keeps_bytes(from: &ColumnType, to: &ColumnType) -> bool {
    use ColumnType::{BigInt, Int, SmallInt, Text, Timestamp, TimestampTz, Varchar};

    let moves = matches!((from, to), (Timestamp, TimestampTz) | (TimestampTz, Timestamp));
    from == to
        || moves
        || matches!((from, to), (SmallInt, Int | BigInt) | (Int, BigInt) | (Varchar(_), Varchar(_) | Text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_widens_where_every_record_keeps_its_value() {
        let decimal = |precision, scale| ColumnType::Decimal { precision, scale };
        let list = |kind| ColumnType::Array(Box::new(kind));
        let record = |names: &[&str], kind: ColumnType| {
            ColumnType::Struct(names.iter().map(|name| ((*name).to_owned(), kind.clone())).collect())
        };
        for (from, to) in [
            (ColumnType::Int, ColumnType::BigInt),
            (ColumnType::BigInt, decimal(19, 0)),
            (ColumnType::BigInt, ColumnType::Double),
            (decimal(10, 2), decimal(12, 4)),
            (ColumnType::Varchar(5), ColumnType::Varchar(6)),
            (ColumnType::Varchar(5), ColumnType::Text),
            (ColumnType::Double, ColumnType::Text),
            (list(ColumnType::Int), list(ColumnType::BigInt)),
            (record(&["a"], ColumnType::Int), record(&["b", "a"], ColumnType::BigInt)),
            (record(&["a"], ColumnType::Int), ColumnType::Json),
        ] {
            assert!(widens(&from, &to, Format::Json), "{from} to {to}");
            assert!(!widens(&to, &from, Format::Json), "{to} to {from}");
        }
        for (from, to) in [
            (ColumnType::BigInt, decimal(19, 1)),
            (decimal(10, 2), decimal(11, 4)),
            (decimal(10, 2), ColumnType::Double),
            (ColumnType::Text, ColumnType::Json),
            (ColumnType::Timestamp, ColumnType::Text),
            (ColumnType::Date, ColumnType::Timestamp),
        ] {
            assert!(!widens(&from, &to, Format::Json), "{from} to {to}");
        }
        assert!(!widens(&ColumnType::Int, &ColumnType::BigInt, Format::Kafka), "four bytes are not eight");
        assert!(widens(&ColumnType::Varchar(1), &ColumnType::Text, Format::Kafka));
    }
}
