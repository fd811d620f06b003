//! What a statement reads: a relation or a bare topic, and the columns it can answer.
//!
//! Declared columns are what `SELECT *` shows. The record's own (`_offset`, `rowtime`, …) answer when a statement names
//! them, so a source is made with the hidden columns its statement names and no others.

use std::sync::Arc;

use aquifer_storage::Topic;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::catalog::Relation;
use crate::types;

/// One column of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SourceColumn {
    /// A declared one, by its index in `format.columns`.
    Declared(usize),
    /// `_partition`.
    Partition,
    /// `_offset`.
    Offset,
    /// `_timestamp`.
    Timestamp,
    /// `_committed_at`.
    CommittedAt,
    /// `_key`.
    Key,
    /// `_value`.
    Value,
    /// `_headers` as JSON text.
    Headers,
    /// `rowtime`, ms.
    RowTime,
    /// `rowpartition`.
    RowPartition,
    /// `rowoffset`.
    RowOffset,
    /// `windowstart`, ms; of windowed sources.
    WindowStart,
    /// `windowend`, ms; of windowed sources.
    WindowEnd,
}

/// The columns a bare topic shows.
pub(crate) const TOPIC_COLUMNS: [SourceColumn; 6] = [
    SourceColumn::Partition,
    SourceColumn::Offset,
    SourceColumn::Timestamp,
    SourceColumn::Key,
    SourceColumn::Value,
    SourceColumn::Headers,
];

/// The columns that answer without being shown.
pub(crate) const HIDDEN_COLUMNS: [SourceColumn; 10] = [
    SourceColumn::Partition,
    SourceColumn::Offset,
    SourceColumn::Timestamp,
    SourceColumn::CommittedAt,
    SourceColumn::Key,
    SourceColumn::Value,
    SourceColumn::Headers,
    SourceColumn::RowTime,
    SourceColumn::RowPartition,
    SourceColumn::RowOffset,
];

impl SourceColumn {
    /// The name of a column that is not declared.
    pub(crate) fn hidden_name(self) -> Option<&'static str> {
        Some(match self {
            Self::Declared(_) => return None,
            Self::Partition => "_partition",
            Self::Offset => "_offset",
            Self::Timestamp => "_timestamp",
            Self::CommittedAt => "_committed_at",
            Self::Key => "_key",
            Self::Value => "_value",
            Self::Headers => "_headers",
            Self::RowTime => "rowtime",
            Self::RowPartition => "rowpartition",
            Self::RowOffset => "rowoffset",
            Self::WindowStart => "windowstart",
            Self::WindowEnd => "windowend",
        })
    }
}

/// A relation over its topic, or the topic alone.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The relation; `None` for `topics."name"`.
    pub(crate) relation: Option<Arc<Relation>>,
    /// The topic.
    pub(crate) topic: Arc<Topic>,
}

impl Source {
    /// As an error or a metric names it.
    pub(crate) fn name(&self) -> &str {
        self.relation.as_ref().map_or(&self.topic.name, |relation| &relation.name)
    }

    /// What `SELECT *` shows.
    pub(crate) fn shown(&self) -> Vec<SourceColumn> {
        match &self.relation {
            Some(relation) => (0..relation.format.columns.len()).map(SourceColumn::Declared).collect(),
            None => TOPIC_COLUMNS.to_vec(),
        }
    }

    /// A column's field.
    pub(crate) fn field(&self, column: SourceColumn) -> Field {
        let name = column.hidden_name().unwrap_or_default();
        match column {
            SourceColumn::Declared(index) => {
                let declared = self.relation.as_ref().and_then(|relation| relation.format.columns.get(index));
                declared.map_or_else(
                    || Field::new(name, DataType::Null, true),
                    |declared| types::field_of(&declared.name, &declared.kind, true),
                )
            }
            SourceColumn::Partition | SourceColumn::RowPartition => Field::new(name, DataType::Int32, false),
            SourceColumn::Timestamp => {
                Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, Some(types::utc())), false)
            }
            SourceColumn::CommittedAt => {
                Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some(types::utc())), false)
            }
            SourceColumn::Key | SourceColumn::Value => Field::new(name, DataType::Binary, true),
            SourceColumn::Headers => types::marked(Field::new(name, DataType::Utf8, false), "jsonb"),
            // NULL where the declared timestamp column is.
            SourceColumn::RowTime => Field::new(name, DataType::Int64, true),
            SourceColumn::Offset | SourceColumn::RowOffset | SourceColumn::WindowStart | SourceColumn::WindowEnd => {
                Field::new(name, DataType::Int64, false)
            }
        }
    }

    /// The schema of some of its columns.
    pub(crate) fn schema(&self, columns: &[SourceColumn]) -> SchemaRef {
        Arc::new(Schema::new(columns.iter().map(|column| self.field(*column)).collect::<Vec<_>>()))
    }

    /// Whether its rows are the latest per key.
    pub(crate) fn is_keyed_table(&self) -> bool {
        self.relation.as_ref().is_some_and(|relation| relation.is_keyed_table())
    }
}
