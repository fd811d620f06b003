//! What `CREATE STREAM | TABLE … AS SELECT` stores: the query's definition, and the relation its result is.
//!
//! A definition of kind `query` holds it as JSON and holds the topics it reads and writes, so that neither is deleted
//! under it. Fields are added with `#[serde(default)]`, never renamed: clusters keep these for ever.

use aquifer_storage::record::format::{ColumnRole, ColumnType, DeclaredColumn, Format, RecordFormat};
use aquifer_storage::{Definition, TopicId};
use serde::{Deserialize, Serialize};

use crate::catalog::Relation;
use crate::catalog::properties::Properties;
use crate::error::{Error, Result, SqlState};
use crate::plan::continuous::{ContinuousPlan, Lineage, OutputColumn};
use crate::statement::{Name, RelationKind};
use crate::types::column_type_of;

/// A continuous query as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QueryDefinition {
    /// Under which its position is stored; unlike the name never given again.
    pub(crate) id: String,
    /// The relation it writes, and its own name.
    pub(crate) name: String,
    /// The relation it reads.
    pub(crate) source: String,
    /// The topic it reads.
    pub(crate) source_topic: TopicId,
    /// The topic it writes.
    pub(crate) sink_topic: TopicId,
    /// Partitions of that topic when it was made: a key stays where it is, whatever is added. 0: all there are.
    #[serde(default)]
    pub(crate) sink_partitions: i32,
    /// First offset it reads, by source partition: where `replay_from` was when it was made. 0 where none is named.
    #[serde(default)]
    pub(crate) start: Vec<i64>,
    /// The statement, as written.
    pub(crate) statement: String,
    /// When it was made.
    pub(crate) created_at_us: i64,
    /// The relation it reads as it was bound to it; `None` as long as that has not changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source_as: Option<Relation>,
}

impl QueryDefinition {
    /// Reads a definition's bytes.
    ///
    /// # Errors
    /// XX001.
    pub(crate) fn from_definition(definition: &Definition) -> Result<Self> {
        serde_json::from_slice(&definition.value).map_err(|source| {
            Error::new(SqlState::DataCorrupted, format!("definition of query \"{}\" does not parse", definition.name))
                .with_hint("a newer version may have written it; open the data directory with that version")
                .with_source(source)
        })
    }

    /// Its definition's bytes.
    pub(crate) fn to_bytes(&self) -> Result<bytes::Bytes> {
        serde_json::to_vec(self).map(bytes::Bytes::from).map_err(|source| {
            Error::new(SqlState::InternalError, format!("query \"{}\" cannot be written", self.name))
                .with_source(source)
        })
    }
}

/// The columns and bytes of a result: its names are `names`, one per column of the plan. `declared` gives the source's
/// declared column behind an index of the scan.
///
/// # Errors
/// What a result cannot be, with what to write instead.
pub(crate) fn result_format(
    (kind, name): (RelationKind, &Name),
    plan: &ContinuousPlan,
    names: &[String],
    source: &Relation,
    properties: &Properties,
    declared: impl Fn(usize) -> Option<usize>,
) -> Result<RecordFormat> {
    check_kind(kind, name, plan.group_keys.is_some())?;
    check_names(names)?;
    let mut columns = Vec::with_capacity(plan.output.len());
    let mut keys: Vec<Lineage> = Vec::new();
    for (output, column_name) in plan.output.iter().zip(names) {
        let from = match output.lineage {
            Lineage::Source(index) => declared(index).and_then(|index| source.format.columns.get(index)),
            _ => None,
        };
        let is_key = match output.lineage {
            Lineage::Group(_) => plan.group_keys.is_some(),
            Lineage::Source(_) => plan.group_keys.is_none() && from.is_some_and(|from| from.role == ColumnRole::Key),
            Lineage::Computed => false,
        };
        let is_key = is_key && !keys.contains(&output.lineage);
        let field = if is_key { from.map(|from| from.field.clone()) } else { None };
        if is_key {
            keys.push(output.lineage);
        }
        columns.push(DeclaredColumn {
            name: column_name.clone(),
            field: field.unwrap_or_else(|| column_name.clone()),
            kind: column_type(output, column_name, from)?,
            role: if is_key { ColumnRole::Key } else { ColumnRole::Value },
            not_null: false,
        });
    }
    let format = match plan.group_keys {
        Some(count) => table_key_format(&columns, (count, keys.len()), plan, properties)?,
        None => stream_key_format(keys.is_empty(), source, properties.key_format)?,
    };
    let value_format = result_value_format(&columns, plan, properties)?;
    Ok(RecordFormat { columns, key_format: format, value_format, tombstones: plan.group_keys.is_some() })
}

/// The value's format of a result. A row with a NULL must be one, and Kafka's primitives have no bytes for it: a null
/// value is no record of a stream, and deletes from a table.
fn result_value_format(columns: &[DeclaredColumn], plan: &ContinuousPlan, properties: &Properties) -> Result<Format> {
    let is_value = |column: &DeclaredColumn| column.role == ColumnRole::Value;
    let values: Vec<&ColumnType> =
        columns.iter().filter(|column| is_value(column)).map(|column| &column.kind).collect();
    let format = properties.value_format_of(&values)?;
    let nullable =
        columns.iter().zip(&plan.output).find(|(column, output)| is_value(column) && output.field.is_nullable());
    match (format, nullable) {
        (Format::Kafka, Some((column, _))) => {
            let message =
                format!("column \"{}\" may be NULL, which value_format = 'kafka' has no bytes for", column.name);
            Err(Error::new(SqlState::InvalidColumnDefinition, message)
                .with_hint("use value_format = 'delimited', or coalesce(x, 0) for a value that stands for NULL"))
        }
        (Format::None, _) => Err(Error::new(SqlState::InvalidColumnDefinition, "a result's records have a value")
            .with_hint("leave value_format out")),
        (format, _) => Ok(format),
    }
}

fn check_kind(kind: RelationKind, name: &Name, grouped: bool) -> Result<()> {
    let (message, hint) = match (kind, grouped) {
        (RelationKind::Stream, false) | (RelationKind::Table, true) => return Ok(()),
        (RelationKind::Stream, true) => {
            ("a SELECT with GROUP BY or an aggregate is a table", "use CREATE TABLE … AS SELECT")
        }
        (RelationKind::Table, false) => {
            ("a SELECT without GROUP BY or an aggregate is a stream", "use CREATE STREAM … AS SELECT, or add GROUP BY")
        }
    };
    let message = format!("{message}, \"{}\" is declared as a {}", name.value, kind.word());
    Err(Error::new(SqlState::InvalidColumnDefinition, message).with_position(name.position).with_hint(hint))
}

fn check_names(names: &[String]) -> Result<()> {
    for (index, name) in names.iter().enumerate() {
        let refused = |what: &str, hint: &str| {
            Err(Error::new(SqlState::InvalidColumnDefinition, format!("column \"{name}\" {what}")).with_hint(hint))
        };
        if names[..index].contains(name) {
            return refused("is there twice", "give each column its own name: SELECT sum(x) AS total");
        }
        if name.starts_with('_')
            || name.starts_with('?')
            || matches!(name.as_str(), "rowtime" | "rowpartition" | "rowoffset")
        {
            return refused("cannot be a result's", "give it another name: SELECT … AS name");
        }
    }
    Ok(())
}

fn column_type(output: &OutputColumn, name: &str, from: Option<&DeclaredColumn>) -> Result<ColumnType> {
    if let Some(from) = from {
        // What a client has written may be longer than SQL would write it.
        return Ok(from.kind.without_lengths());
    }
    column_type_of(&output.field).ok_or_else(|| {
        Error::unsupported(format!("column \"{name}\" of type {} in a result", output.field.data_type()))
            .with_hint("cast it: SELECT CAST(x AS TEXT) AS x")
    })
}

/// The key of an aggregate's table is its group, all of it.
fn table_key_format(
    columns: &[DeclaredColumn],
    (wanted, found): (usize, usize),
    plan: &ContinuousPlan,
    properties: &Properties,
) -> Result<Format> {
    if found < wanted {
        return Err(Error::new(SqlState::GroupingError, "a column of GROUP BY is not in the SELECT list")
            .with_hint("a continuous table's key is its GROUP BY: select each of its columns as it is"));
    }
    let keys: Vec<&ColumnType> =
        columns.iter().filter(|column| column.role == ColumnRole::Key).map(|column| &column.kind).collect();
    match (properties.key_format, keys.as_slice()) {
        (None | Some(Format::Json), []) => Ok(Format::Json),
        // Any bytes are a key in Kafka's format, so that none is left for NULL.
        (None, [ColumnType::Bytes]) => Ok(Format::Json),
        (Some(Format::Kafka), [ColumnType::Bytes]) => {
            Err(Error::unsupported("key_format = 'kafka' of a bytea column in GROUP BY")
                .with_hint("use key_format = 'json': it tells NULL from bytes"))
        }
        (Some(_), []) => Err(Error::new(SqlState::InvalidParameterValue, "a table of one row has no key to format")
            .with_hint("leave key_format out")),
        (_, keys) => properties.key_format_of(keys, plan.chain.window.is_some()),
    }
}

/// A filter keeps the key's bytes, so also how they are read.
fn stream_key_format(keyless: bool, source: &Relation, asked: Option<Format>) -> Result<Format> {
    let kept = if keyless { Format::None } else { source.format.key_format };
    match asked {
        Some(format) if format != kept => Err(Error::unsupported("another key_format than the source's")
            .with_hint("a stream made by filters and projections keeps its records' keys")),
        _ => Ok(kept),
    }
}
