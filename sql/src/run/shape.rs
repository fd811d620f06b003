//! `Shape`: how a relation is written: its encoder, its columns, its rules.

use std::sync::Arc;

use aquifer_storage::Topic;
use aquifer_storage::record::format::{ColumnRole, Encoder};
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::rule::Rules;
use crate::catalog::Relation;
use crate::error::{Error, Result, SqlState};
use crate::types::field_of;

/// The same for all statements until the catalog changes.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(super) relation: Arc<Relation>,
    pub(super) topic: Arc<Topic>,
    pub(super) encoder: Encoder,
    pub(super) schema: SchemaRef,
    /// Declared indexes of the schema's columns.
    pub(super) declared: Vec<usize>,
    pub(super) rules: Rules,
}

impl Shape {
    /// How to write into a relation, by the rules it declares.
    ///
    /// # Errors
    /// 25006 if a continuous query writes it.
    pub(crate) fn new(relation: Arc<Relation>, topic: Arc<Topic>, rules: Rules) -> Result<Self> {
        if let Some(query) = &relation.query {
            let message = format!("{} \"{}\" is written by query \"{query}\"", relation.kind.word(), relation.name);
            return Err(Error::new(SqlState::ReadOnly, message).with_hint("write to what the query reads"));
        }
        let encoder = Encoder::new(&relation.format)?;
        let schema = written_schema(&relation);
        let declared = written_columns(&relation);
        Ok(Self { relation, topic, encoder, schema, declared, rules })
    }

    /// Where its records go.
    pub(crate) fn topic(&self) -> &Topic {
        &self.topic
    }

    /// What it declares of its rows.
    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }
}

/// Declared indexes of the columns that SQL writes.
fn written_columns(relation: &Relation) -> Vec<usize> {
    let columns = relation.format.columns.iter().enumerate();
    columns.filter(|(_, column)| column.role != ColumnRole::Headers).map(|(index, _)| index).collect()
}

/// The columns that SQL writes, in declared order.
pub(crate) fn written_schema(relation: &Relation) -> SchemaRef {
    let field = |index: usize| {
        let column = &relation.format.columns[index];
        field_of(&column.name, &column.kind, true)
    };
    Arc::new(Schema::new(written_columns(relation).into_iter().map(field).collect::<Vec<Field>>()))
}
