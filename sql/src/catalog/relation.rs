//! A relation as it is stored: what a name in schema `public` stands for.
//!
//! A definition of kind `relation` holds it as JSON; a continuous query's definition of kind `query` bears the name of
//! the relation it writes. Fields are added with `#[serde(default)]`, never renamed: clusters keep these for ever.

use std::collections::BTreeMap;

use aquifer_storage::record::format::{ColumnRole, RecordFormat};
use aquifer_storage::{Definition, TopicId};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, SqlState};
use crate::statement::{RelationKind, WindowSpec};

/// Kind of the definitions that hold relations.
pub(crate) const RELATION_KIND: &str = "relation";
/// Kind of the definitions that hold continuous queries.
pub(crate) const QUERY_KIND: &str = "query";

/// A stream or table over a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Relation {
    /// Unique among relations.
    pub(crate) name: String,
    /// Stream or table.
    pub(crate) kind: RelationKind,
    /// Columns and bytes. `format.tombstones`: a table with a primary key, whose rows are the latest per key.
    pub(crate) format: RecordFormat,
    /// The topic it reads and writes.
    pub(crate) topic: TopicId,
    /// That topic's name when the relation was made.
    pub(crate) topic_name: String,
    /// The column that `rowtime` comes from; `None`: the record's timestamp.
    pub(crate) timestamp_column: Option<String>,
    /// For the result of a windowed query: its windows.
    pub(crate) window: Option<WindowSpec>,
    /// The continuous query that writes it.
    pub(crate) query: Option<String>,
    /// The statement that made it, as written.
    pub(crate) statement: String,
    /// Postgres's oid of it, the same for ever.
    pub(crate) oid: u32,
    /// When it was made.
    pub(crate) created_at_us: i64,
    /// What it declares of the rows that SQL writes.
    #[serde(default)]
    pub(crate) rules: DeclaredRules,
}

/// DEFAULT and CHECK, as written.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct DeclaredRules {
    /// DEFAULT's expressions by column.
    #[serde(default)]
    pub(crate) defaults: BTreeMap<String, String>,
    /// CHECK constraints.
    #[serde(default)]
    pub(crate) checks: Vec<Check>,
}

/// A condition that every row SQL writes meets, or leaves open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    /// Unique in its relation.
    pub(crate) name: String,
    /// As written.
    pub(crate) expression: String,
}

impl Relation {
    /// Whether it is a continuous query's table: what its topic holds is what the query has computed, and all of it.
    pub(crate) fn is_result_table(&self) -> bool {
        self.kind == RelationKind::Table && self.query.is_some()
    }

    /// Reads a definition's bytes.
    pub(crate) fn from_definition(definition: &Definition) -> Result<Self> {
        serde_json::from_slice(&definition.value).map_err(|source| {
            Error::new(
                SqlState::DataCorrupted,
                format!("definition of relation \"{}\" does not parse", definition.name),
            )
            .with_hint("a newer version may have written it; open the data directory with that version")
            .with_source(source)
        })
    }

    /// Its definition's bytes.
    pub(crate) fn to_bytes(&self) -> Result<bytes::Bytes> {
        serde_json::to_vec(self).map(bytes::Bytes::from).map_err(|source| {
            Error::new(SqlState::InternalError, format!("relation \"{}\" cannot be written", self.name))
                .with_source(source)
        })
    }

    /// Whether its rows are the latest per key.
    pub(crate) fn is_keyed_table(&self) -> bool {
        self.kind == RelationKind::Table && self.format.tombstones
    }

    /// Indexes of its key columns in `format.columns`.
    pub(crate) fn key_columns(&self) -> Vec<usize> {
        let columns = self.format.columns.iter().enumerate();
        columns.filter(|(_, column)| column.role == ColumnRole::Key).map(|(index, _)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    use aquifer_storage::record::format::{ColumnType, Format};

    use super::*;

    fn definition(value: &str) -> Definition {
        let value = bytes::Bytes::copy_from_slice(value.as_bytes());
        Definition { kind: RELATION_KIND.to_owned(), name: "s".to_owned(), value, holds: Vec::new() }
    }

    #[test]
    fn declarations_of_earlier_versions_stay_readable() {
        // Written by the first version that had relations.
        let first = r#"{"name":"s","kind":"table","format":{"columns":[
            {"name":"k","field":"K","kind":"text","role":"key","not_null":true},
            {"name":"d","field":"d","kind":{"decimal":{"precision":10,"scale":2}},"role":"value","not_null":false},
            {"name":"n","field":"n","kind":{"struct":[["a",{"array":"int"}],["m",{"map":"json"}]]},"role":"value",
             "not_null":false}],"key_format":"kafka","value_format":"json","tombstones":true},
            "topic":"00112233-4455-6677-8899-aabbccddeeff","topic_name":"s","timestamp_column":null,"window":null,
            "query":null,"statement":"CREATE TABLE s","oid":16384,"created_at_us":1}"#;
        let relation = Relation::from_definition(&definition(first)).unwrap();
        assert_eq!((relation.format.key_format, relation.format.value_format), (Format::Kafka, Format::Json));
        assert_eq!(relation.format.columns[1].kind, ColumnType::Decimal { precision: 10, scale: 2 });
        assert_eq!(
            Relation::from_definition(&definition(str::from_utf8(&relation.to_bytes().unwrap()).unwrap())).unwrap(),
            relation
        );
    }

    #[test]
    fn what_this_version_declares_is_written_as_it_will_be_read() {
        let format = RecordFormat {
            columns: Vec::new(),
            key_format: Format::Delimited('|'),
            value_format: Format::JsonUnwrapped,
            tombstones: false,
        };
        let written =
            r#"{"columns":[],"key_format":{"delimited":"|"},"value_format":"json_unwrapped","tombstones":false}"#;
        assert_eq!(serde_json::to_string(&format).unwrap(), written);
        assert_eq!(serde_json::to_string(&ColumnType::Varchar(5)).unwrap(), r#"{"varchar":5}"#);
    }

    #[test]
    fn a_definition_from_before_defaults_and_checks_is_read() {
        let before = r#"{"name":"t","kind":"table","format":{"columns":[],"key_format":"none","value_format":"json",
            "tombstones":false},"topic":"00000000-0000-0000-0000-000000000001","topic_name":"t",
            "timestamp_column":null,"window":null,"query":null,"statement":"CREATE TABLE t ()","oid":16384,
            "created_at_us":1}"#;
        let mut relation: Relation = serde_json::from_str(before).unwrap();
        assert_eq!(relation.rules, DeclaredRules::default());
        relation.rules.defaults.insert("a".to_owned(), "now()".to_owned());
        relation.rules.checks.push(Check { name: "t_a_check".to_owned(), expression: "a > 0".to_owned() });
        let read: Relation = serde_json::from_slice(&relation.to_bytes().unwrap()).unwrap();
        assert_eq!(read, relation);
    }
}
