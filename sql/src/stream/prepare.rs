//! From a parsed SELECT to what a job or a push query runs: the source it reads, and the chain that computes.

use std::any::Any;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::datasource::source_as_provider;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::TableScan;

use crate::catalog::{Catalog, Relation};
use crate::error::{Error, Result};
use crate::operator::window::Window;
use crate::plan::bind::{Ground, bind};
use crate::plan::continuous::{ContinuousPlan, Purpose, compile};
use crate::plan::naming::shown_name;
use crate::statement::{Emit, WindowSpec, WindowedQuery};
use crate::table::window::tumbling;
use crate::table::{Source, SourceColumn, SourceTable};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct PreparedQuery {
    /// What it computes, its window included.
    pub(crate) plan: ContinuousPlan,
    /// What it reads.
    pub(crate) source: Source,
    /// The source's columns the chain takes, in this order; of a windowed source `rowtime` is the last.
    pub(crate) columns: Vec<SourceColumn>,
    /// The columns of the scan that [`crate::plan::continuous::Lineage::Source`] counts.
    pub(crate) scanned: Vec<SourceColumn>,
    /// The source's windows.
    pub(crate) window: Option<WindowSpec>,
    /// Names of the result's columns, as Postgres would give them.
    pub(crate) names: Vec<String>,
}

impl PreparedQuery {
    /// Schema of the rows the chain takes.
    pub(crate) fn input_schema(&self) -> SchemaRef {
        self.source.schema(&self.columns)
    }

    /// The source's declared column behind an index of the scan.
    pub(crate) fn declared(&self, scanned: usize) -> Option<usize> {
        match self.scanned.get(scanned) {
            Some(SourceColumn::Declared(index)) => Some(*index),
            _ => None,
        }
    }
}

/// Binds and compiles. `kept` is the source as a stored query was bound to it, if it has changed since.
///
/// # Errors
/// What binding says; 0A000 for what continuous queries do not do.
pub(crate) async fn prepare(
    session: &SessionState,
    catalog: &Arc<Catalog>,
    query: &WindowedQuery,
    purpose: Purpose,
    kept: Option<Arc<Relation>>,
) -> Result<PreparedQuery> {
    if query.emit == Some(Emit::Final) {
        return Err(Error::unsupported("EMIT FINAL").with_hint(
            "EMIT CHANGES shows a window's row from its first record on; select the closed windows from it",
        ));
    }
    if let Some(travel) = query.travels.first() {
        return Err(Error::unsupported("FOR SYSTEM_TIME AS OF in a query that goes on")
            .with_position(travel.position)
            .with_hint(
                "leave EMIT CHANGES out to read the past; replay_from says from when on a query that goes on reads",
            ));
    }
    let bound = bind(&Ground { session, catalog, view: None, system: None, kept }, query).await?;
    let windowed = |scan: &TableScan| with_table(scan, |table| table.window.is_some()).unwrap_or(false);
    let mut plan = compile(&bound.state, bound.plan, purpose, windowed)?;
    let (source, scanned, window) =
        with_table(&plan.scan, |table| (table.source.clone(), table.columns.clone(), table.window.clone()))?;
    if source.is_keyed_table() || source.relation.as_ref().is_some_and(|relation| is_table(relation)) {
        return Err(Error::unsupported(format!("table \"{}\" as the source of a query that goes on", source.name()))
            .with_hint("a stream can be one; a SELECT without EMIT CHANGES takes a table"));
    }
    let mut columns: Vec<SourceColumn> = plan.columns.iter().map(|index| scanned[*index]).collect();
    if let Some(spec) = &window {
        let window = Window { tumbling: tumbling(spec)?, rowtime: columns.len(), schema: Arc::clone(&plan.input) };
        plan.chain.window = Some(window);
        columns.push(SourceColumn::RowTime);
    }
    let names = plan.output.iter().map(|column| shown_name(column.field.name()).to_owned()).collect();
    Ok(PreparedQuery { plan, source, columns, scanned, window, names })
}

fn is_table(relation: &Relation) -> bool {
    relation.kind == crate::statement::RelationKind::Table
}

fn with_table<T>(scan: &TableScan, read: impl Fn(&SourceTable) -> T) -> Result<T> {
    let provider = source_as_provider(&scan.source).map_err(Error::from)?;
    let table = (provider.as_ref() as &dyn Any).downcast_ref::<SourceTable>();
    table.map(read).ok_or_else(|| {
        Error::unsupported(format!("{} as the source of a query that goes on", scan.table_name))
            .with_hint("name a stream in FROM; a SELECT without EMIT CHANGES takes anything")
    })
}

/// The result's schema under the names it shows.
pub(crate) fn shown_schema(prepared: &PreparedQuery) -> SchemaRef {
    let fields = prepared.plan.chain.schema.fields().iter().zip(&prepared.names);
    Arc::new(Schema::new(fields.map(|(field, name)| field.as_ref().clone().with_name(name)).collect::<Vec<_>>()))
}
