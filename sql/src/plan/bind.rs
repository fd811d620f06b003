//! `bind`: a query with its names resolved, as a DataFusion plan over [`SourceTable`]s.
//!
//! Each statement gets a context of its own that knows just the tables it names; the session's state gives functions
//! and configuration. What is stored in Postgres's or ksqlDB's spelling is made DataFusion's in the tree first.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use aquifer_storage::{Append, Snapshot, Storage, TopicId};
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, TableProvider,
};
use datafusion::common::TableReference;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{self, ObjectName, Visit, Visitor};

use super::hidden::{expand_wildcards, folded_name, named_hidden, quote_fields};
use super::naming::name_columns;
use super::point::PointQuery;
use super::spelling;
use super::travel::{self, PositionCall, position_calls};
use super::union;
use crate::catalog::{Catalog, DATABASE, Relation, SCHEMA, postgres, system};
use crate::error::{Error, Result, SqlState};
use crate::statement::cursor::Places;
use crate::statement::{Name, WindowedQuery};
use crate::table::position::PositionTable;
use crate::table::{Source, SourceColumn, SourceTable};

/// A query bound to the relations it names.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Not optimized yet.
    pub(crate) plan: LogicalPlan,
    /// The state it was planned in, and is to run in.
    pub(crate) state: SessionState,
    /// The topics one snapshot must cover.
    pub(crate) topics: Vec<TopicId>,
    /// The catalog it was bound against.
    pub(crate) catalog_version: u64,
    /// Set if it is one look-up by key.
    pub(crate) point: Option<Arc<PointQuery>>,
    /// What the transaction block that runs it has written to its topics, and not committed.
    pub(crate) own: Vec<Append>,
}

impl Bound {
    /// The same plan to be run in another state, and only by being planned.
    pub(crate) fn in_state(&self, state: SessionState) -> Self {
        let Self { plan, topics, catalog_version, .. } = self;
        let (plan, topics) = (plan.clone(), topics.clone());
        Self { plan, state, topics, catalog_version: *catalog_version, point: None, own: Vec::new() }
    }

    /// The same plan to be run over what its block has written too.
    pub(crate) fn with_own(&self, own: Vec<Append>) -> Self {
        let point = self.point.clone();
        Self { point, own, ..self.in_state(self.state.clone()) }
    }

    /// One cut of its topics, and behind it what its block has written.
    ///
    /// # Errors
    /// What storage says.
    pub(crate) fn snapshot(&self, storage: &Storage) -> Result<Snapshot> {
        let snapshot = storage.snapshot(&self.topics, &HashMap::new())?;
        if self.own.is_empty() {
            return Ok(snapshot);
        }
        Ok(snapshot.with_own(&self.own, storage.clock().now_us())?)
    }
}

/// What binding stands on besides the query.
#[derive(Clone, Debug)]
pub(crate) struct Ground<'a> {
    /// Functions and configuration.
    pub(crate) session: &'a SessionState,
    /// Relations.
    pub(crate) catalog: &'a Arc<Catalog>,
    /// What `pg_catalog` shows; `None` for queries that run without a session.
    pub(crate) view: Option<Arc<postgres::CatalogView>>,
    /// What the schema `aquifer` shows; `None` for queries that run without a session.
    pub(crate) system: Option<&'a system::SystemSources>,
    /// A relation as it was when a query was bound to it, instead of the one that has its name now.
    pub(crate) kept: Option<Arc<Relation>>,
}

/// Binds; see the head of this file.
///
/// # Errors
/// 42P01, 42703 and whatever planning says, with the position.
pub(crate) async fn bind(ground: &Ground<'_>, query: &WindowedQuery) -> Result<Bound> {
    let catalog_version = ground.catalog.storage().catalog_version();
    let mut statement = ast::Statement::Query(query.query.clone());
    postgres::rewrite(&mut statement);
    let ast::Statement::Query(mut tree) = statement else {
        return Err(Error::new(SqlState::InternalError, "rewriting changed the statement"));
    };
    spelling::rewrite_relations(&mut tree);
    let calls = position_calls(&mut tree, &query.places)?;
    let sources = sources(ground, query, &calls, &mut tree)?;
    name_columns(&mut tree);
    spelling::rewrite(&mut tree)?;
    let context = SessionContext::new_with_state(ground.session.clone());
    register(ground, &context, &sources)?;
    let statement = DataFusionStatement::Statement(Box::new(ast::Statement::Query(tree)));
    let state = context.state();
    let plan = state.statement_to_plan(statement).await;
    let plan = plan.map_err(|error| located(error, &query.places))?;
    let plan = union::typed(plan)?;
    let plan = travel::attach(plan, &Box::pin(travel::moments(&state, query, &calls)).await?)?;
    let topics: BTreeSet<TopicId> = sources.iter().filter_map(|source| source.topic).collect();
    let (topics, point) = (topics.into_iter().collect(), PointQuery::of(&plan).map(Arc::new));
    Ok(Bound { plan, state, topics, catalog_version, point, own: Vec::new() })
}

/// DataFusion's error with the place it points at.
pub(crate) fn located(error: datafusion::error::DataFusionError, places: &Places) -> Error {
    let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
    let place = span.map(|span| ast_location(span.start.line, span.start.column));
    let mapped = Error::from(error);
    match place.and_then(|place| places.position(place)) {
        Some(position) if mapped.position.is_none() => mapped.with_position(position),
        _ => mapped,
    }
}

fn ast_location(line: u64, column: u64) -> datafusion::sql::sqlparser::tokenizer::Location {
    datafusion::sql::sqlparser::tokenizer::Location { line, column }
}

/// A table of the statement's own.
pub(super) struct Named {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) table: Arc<dyn TableProvider>,
    pub(super) topic: Option<TopicId>,
}

/// Resolves what the query names; on the way, puts the tree in order for hidden columns and fields.
fn sources(
    ground: &Ground<'_>,
    query: &WindowedQuery,
    calls: &[PositionCall],
    tree: &mut Box<ast::Query>,
) -> Result<Vec<Named>> {
    let statement = DataFusionStatement::Statement(Box::new(ast::Statement::Query(tree.clone())));
    let (references, _) = resolve_table_references(&statement, true)?;
    let hidden = named_hidden(tree);
    let mut named = Vec::new();
    let mut shown: HashMap<String, Vec<String>> = HashMap::new();
    let mut columns: HashSet<String> = HashSet::new();
    for reference in &references {
        let position = position_of(tree, reference, &query.places);
        let found = match calls.iter().find(|call| call.marker == reference.table()) {
            Some(call) => Some(position_table(ground, call)?),
            None => resolve(ground, query, reference, &hidden, position)?,
        };
        let Some(found) = found else { continue };
        columns.extend(found.table.schema().fields().iter().map(|field| field.name().clone()));
        if let Some(table) = (found.table.as_ref() as &dyn std::any::Any).downcast_ref::<SourceTable>() {
            let mut visible = table.source.shown();
            if table.window.is_some() {
                visible.extend([SourceColumn::WindowStart, SourceColumn::WindowEnd]);
            }
            let names = visible.into_iter().map(|column| table.source.field(column).name().clone()).collect();
            shown.insert(reference.to_string(), names);
        }
        named.push(found);
    }
    if !hidden.is_empty() {
        expand_wildcards(tree, &shown)?;
    }
    quote_fields(tree, &|name| columns.contains(name));
    Ok(named)
}

/// The table behind a name; `None` leaves it to DataFusion (Postgres's schemas, table functions).
fn resolve(
    ground: &Ground<'_>,
    query: &WindowedQuery,
    reference: &TableReference,
    hidden: &[SourceColumn],
    position: usize,
) -> Result<Option<Named>> {
    let catalog = ground.catalog;
    let (schema, name) = (reference.schema().unwrap_or(SCHEMA), reference.table());
    let window = query.windows.iter().find(|window| window.marker == name);
    let written = window.map_or(name, |window| window.source.value.as_str());
    let travel = query.travels.iter().find(|travel| travel.marker == written);
    let source = match schema {
        SCHEMA if reference.schema().is_none() && ground.session.table_functions().contains_key(name) => {
            return Ok(None);
        }
        SCHEMA => {
            let meant = travel.map(|travel| &travel.source).or(window.map(|window| &window.source));
            let name = meant.cloned().unwrap_or_else(|| Name { value: name.to_owned(), position });
            let relation = match &ground.kept {
                Some(kept) if kept.name == name.value => Arc::clone(kept),
                _ => catalog.relation(&name)?,
            };
            Source { topic: catalog.topic_of(&relation)?, relation: Some(relation) }
        }
        "topics" => {
            let name = travel.map_or(name, |travel| travel.source.value.as_str());
            let topic = catalog.storage().topic(name).ok_or_else(|| {
                Error::new(SqlState::UndefinedTable, format!("topic \"{name}\" does not exist"))
                    .with_position(position)
                    .with_hint("SHOW TOPICS lists what there is; names are folded to lower case unless quoted")
            })?;
            Source { topic, relation: None }
        }
        schema if travel.is_some() => {
            let name = travel.map_or(name, |travel| travel.source.value.as_str());
            return Err(Error::unsupported(format!("FOR SYSTEM_TIME AS OF over {schema}.{name}"))
                .with_position(position)
                .with_hint("streams, tables and topics.\"name\" have a past"));
        }
        system::SCHEMA => {
            let Some(table) = ground.system.and_then(|system| system.table(catalog, name)) else {
                return Err(Error::new(
                    SqlState::UndefinedTable,
                    format!("relation \"aquifer.{name}\" does not exist"),
                )
                .with_position(position)
                .with_hint(format!("there are {}", system::names().join(", "))));
            };
            return Ok(Some(Named { schema: schema.to_owned(), name: name.to_owned(), table, topic: None }));
        }
        _ => return Ok(None),
    };
    let topic = Some(source.topic.id);
    let table = SourceTable::new(catalog, source, hidden, window.map(|window| window.spec.clone()));
    Ok(Some(Named { schema: schema.to_owned(), name: name.to_owned(), table: Arc::new(table), topic }))
}

/// The table behind a call of `aquifer.position`: of a relation or, if there is none of that name, of a topic.
fn position_table(ground: &Ground<'_>, call: &PositionCall) -> Result<Named> {
    let (catalog, name) = (ground.catalog, &call.of);
    let topic = match catalog.relations().by_name.get(&name.value) {
        Some(relation) => catalog.topic_of(relation)?,
        None => catalog.storage().topic(&name.value).ok_or_else(|| {
            Error::new(SqlState::UndefinedTable, format!("relation \"{}\" does not exist", name.value))
                .with_position(name.position)
                .with_hint("aquifer.position takes the name of a stream, table or topic")
        })?,
    };
    let id = topic.id;
    let table = Arc::new(PositionTable { storage: catalog.storage().clone(), topic });
    Ok(Named { schema: system::SCHEMA.to_owned(), name: call.marker.clone(), table, topic: Some(id) })
}

pub(super) fn register(ground: &Ground<'_>, context: &SessionContext, sources: &[Named]) -> Result<()> {
    let database = Arc::new(MemoryCatalogProvider::new());
    for schema in [SCHEMA, "topics", system::SCHEMA] {
        let tables = MemorySchemaProvider::new();
        for source in sources.iter().filter(|source| source.schema == schema) {
            tables.register_table(source.name.clone(), Arc::clone(&source.table))?;
        }
        database.register_schema(schema, Arc::new(tables))?;
    }
    let catalogs = Arc::new(datafusion::catalog::MemoryCatalogProviderList::new());
    datafusion::catalog::CatalogProviderList::register_catalog(catalogs.as_ref(), DATABASE.to_owned(), database);
    context.register_catalog_list(catalogs);
    if let Some(view) = &ground.view {
        postgres::register(context, view)?;
    }
    Ok(())
}

/// Where a relation is named in the text.
fn position_of(tree: &ast::Query, reference: &TableReference, places: &Places) -> usize {
    struct Find<'a> {
        wanted: String,
        places: &'a Places,
    }
    impl Visitor for Find<'_> {
        type Break = usize;
        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<usize> {
            let first = relation.0.first().and_then(|part| part.as_ident());
            let position = first.and_then(|ident| self.places.position(ident.span.start));
            match position.filter(|_| folded_name(relation) == self.wanted) {
                Some(position) => ControlFlow::Break(position),
                None => ControlFlow::Continue(()),
            }
        }
    }
    match tree.visit(&mut Find { wanted: reference.to_string(), places }) {
        ControlFlow::Break(position) => position,
        ControlFlow::Continue(()) => 1,
    }
}
