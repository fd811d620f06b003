//! SHOW, DESCRIBE and EXPLAIN as rows.

use std::sync::Arc;

use aquifer_storage::record::format::{ColumnRole, Format};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::displayable;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

use super::query::{Ready, collect, columns_of};
use crate::catalog::{Catalog, Relation};
use crate::error::Result;
use crate::session::{Column, Rows};
use crate::statement::{Explain, RelationKind, ShowList};
use crate::types::type_name;

/// Rows of text.
#[derive(Clone, Debug)]
pub(crate) struct TextTable {
    names: &'static [&'static str],
    rows: Vec<Vec<Option<String>>>,
    tag: &'static str,
}

impl TextTable {
    /// An empty one.
    pub(crate) fn new(names: &'static [&'static str], tag: &'static str) -> Self {
        Self { names, rows: Vec::new(), tag }
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: Vec<Option<String>>) {
        self.rows.push(row);
    }

    fn schema(names: &[&str]) -> Schema {
        Schema::new(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect::<Vec<_>>())
    }

    /// Its columns.
    pub(crate) fn columns(names: &[&str]) -> Vec<Column> {
        columns_of(&Self::schema(names))
    }

    /// As a result.
    pub(crate) fn into_rows(self) -> Result<Rows> {
        let schema = Arc::new(Self::schema(self.names));
        let column = |index: usize| -> ArrayRef {
            let values = self.rows.iter().map(|row| row.get(index).and_then(Option::as_deref));
            Arc::new(StringArray::from_iter(values))
        };
        let columns: Vec<ArrayRef> = (0..self.names.len()).map(column).collect();
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(DataFusionError::from)?;
        let stream = Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter([Ok(batch)])));
        Ok(Rows { columns: Self::columns(self.names), stream, live: false, tag: self.tag })
    }
}

/// Columns of `SHOW STREAMS` and `SHOW TABLES`.
pub(crate) const RELATION_COLUMNS: &[&str] = &["name", "topic", "key_format", "value_format", "query"];
/// Columns of `DESCRIBE`.
pub(crate) const DESCRIBE_COLUMNS: &[&str] = &["column", "type", "key"];
/// Columns of `EXPLAIN`.
pub(crate) const EXPLAIN_COLUMNS: &[&str] = &["QUERY PLAN"];
/// Columns of `SHOW ALL`.
pub(crate) const SETTING_COLUMNS: &[&str] = &["name", "setting", "description", "unit"];

/// `SHOW name`: one row of one column that bears the setting's name.
///
/// # Errors
/// XX000 for bugs.
pub(crate) fn one_value(name: &str, value: String) -> Result<Rows> {
    let schema = Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, true)]));
    let column: ArrayRef = Arc::new(StringArray::from(vec![value]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column]).map_err(DataFusionError::from)?;
    let columns = columns_of(&schema);
    let stream = Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter([Ok(batch)])));
    Ok(Rows { columns, stream, live: false, tag: "SHOW" })
}

/// The query behind a list that the schema `aquifer` has.
pub(crate) fn list_query(list: ShowList) -> Option<&'static str> {
    match list {
        ShowList::Topics { all: false } => Some(
            "SELECT name, partitions, cleanup_policy, retention_ms, config FROM aquifer.topics WHERE NOT internal \
             ORDER BY name",
        ),
        ShowList::Topics { all: true } => {
            Some("SELECT name, partitions, cleanup_policy, retention_ms, config FROM aquifer.topics ORDER BY name")
        }
        ShowList::Queries => {
            Some("SELECT name, state, lag_records, error, statement FROM aquifer.queries ORDER BY name")
        }
        ShowList::Streams | ShowList::Tables => None,
    }
}

fn format_word(format: Format) -> String {
    match format {
        Format::Json => "json",
        Format::JsonUnwrapped => "json (wrap_single_value = false)",
        Format::Kafka => "kafka",
        Format::Delimited(',') => "delimited",
        Format::Delimited(' ') => "delimited (delimiter SPACE)",
        Format::Delimited('\t') => "delimited (delimiter TAB)",
        Format::Delimited(delimiter) => return format!("delimited (delimiter {delimiter})"),
        Format::None => "none",
    }
    .to_owned()
}

/// `SHOW STREAMS` or `SHOW TABLES`.
pub(crate) fn relations(catalog: &Catalog, kind: RelationKind) -> TextTable {
    let mut table = TextTable::new(RELATION_COLUMNS, "SHOW");
    for relation in catalog.relations().by_name.values().filter(|relation| relation.kind == kind) {
        let topic = catalog.storage().topic_by_id(relation.topic);
        table.push(vec![
            Some(relation.name.clone()),
            Some(topic.map_or_else(|| format!("{} (deleted)", relation.topic_name), |topic| topic.name.clone())),
            Some(format_word(relation.format.key_format)),
            Some(format_word(relation.format.value_format)),
            relation.query.clone(),
        ]);
    }
    table
}

/// `DESCRIBE name`.
pub(crate) fn describe(relation: &Relation) -> TextTable {
    let mut table = TextTable::new(DESCRIBE_COLUMNS, "DESCRIBE");
    for column in &relation.format.columns {
        let key = match (column.role, relation.is_keyed_table()) {
            (ColumnRole::Key, true) => Some("PRIMARY KEY"),
            (ColumnRole::Key, false) => Some("KEY"),
            (ColumnRole::Headers, _) => Some("HEADERS"),
            (ColumnRole::Value, _) => None,
        };
        // Whose fields are of interest is shown as declared, not as the jsonb it travels as.
        let kind = if column.kind.is_scalar() { type_name(&column.kind) } else { column.kind.to_string() };
        table.push(vec![Some(column.name.clone()), Some(kind), key.map(str::to_owned)]);
    }
    table
}

/// `EXPLAIN`: the plan as text; with ANALYZE it is run and its rows are dropped.
///
/// # Errors
/// What running says.
pub(crate) async fn explain(
    explain: &Explain,
    logical: String,
    ready: Ready,
    deadline: Option<tokio::time::Instant>,
) -> Result<TextTable> {
    let plan = Arc::clone(&ready.plan);
    let text = if explain.analyze {
        collect(ready, deadline).await?;
        use datafusion::physical_plan::display::DisplayableExecutionPlan;
        DisplayableExecutionPlan::with_metrics(plan.as_ref()).indent(explain.verbose).to_string()
    } else {
        displayable(plan.as_ref()).indent(explain.verbose).to_string()
    };
    let mut table = TextTable::new(EXPLAIN_COLUMNS, "EXPLAIN");
    let logical = if explain.verbose { logical } else { String::new() };
    for line in logical.lines().chain(text.lines()) {
        table.push(vec![Some(line.to_owned())]);
    }
    Ok(table)
}
