//! Preparing: binding a statement far enough to know its parameters and columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_storage::record::format::ColumnType;
use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{self, CastKind, Expr, Ident, ObjectName, SelectItem, SetExpr, Value};

use super::{Column, Prepared, Session};
use crate::catalog::postgres::{CatalogColumn, CatalogRelation, CatalogSetting, CatalogView, RelationKind};
use crate::catalog::system::{self, SystemSources};
use crate::catalog::{DATABASE, Relation};
use crate::engine::Inner;
use crate::error::{Error, Result, SqlState};
use crate::plan::bind::{Bound, Ground, bind};
use crate::plan::parameters::parameter_types;
use crate::run::insert::{Target, target_oid, target_type, targets};
use crate::run::query::columns_of;
use crate::run::show::{self, TextTable};
use crate::settings::SettingRow;
use crate::statement::{Insert, Parsed, Sentence, ShowList, WindowedQuery, parse};
use crate::table::Source;
use crate::types::{ARROW_NAME, oid_of, oid_of_column};

impl Session {
    /// What binding stands on.
    pub(super) fn ground(&self) -> GroundOwner {
        let Shown { view, settings, .. } = self.shown();
        let system = SystemSources {
            supervisor: Arc::clone(&self.engine.supervisor),
            limits: Arc::clone(&self.engine.limits),
            node_settings: Arc::clone(&self.engine.node_settings),
            session_settings: settings,
            sessions: Arc::clone(&self.engine.sessions),
        };
        GroundOwner { view, system }
    }

    /// Binds a query.
    pub(super) async fn bind(&self, query: &WindowedQuery) -> Result<Arc<Bound>> {
        let owner = self.ground();
        Ok(Arc::new(bind(&owner.ground(&self.engine), query).await?))
    }

    pub(super) async fn prepare_parsed(&self, parsed: &Arc<Parsed>, said: &[Option<DataType>]) -> Result<Prepared> {
        if let Sentence::InsertValues(insert) = &parsed.sentence {
            return self.prepare_values(parsed, insert, said).await;
        }
        let mut known = BTreeMap::new();
        let (mut returning, mut update) = (None, None);
        let (bound, columns) = match &parsed.sentence {
            Sentence::Query(query) => {
                let bound = self.bind(query).await?;
                let columns = bound_columns(&bound)?;
                (Some(bound), Some(columns))
            }
            Sentence::CopyOut(copy) => (Some(self.bind(&copy.query).await?), None),
            Sentence::Declare(declare) => (Some(self.bind(&declare.query).await?), None),
            Sentence::Fetch(fetch) => (None, self.fetched_columns(fetch)?),
            Sentence::Explain(explain) => {
                (Some(self.bind(&explain.query).await?), Some(TextTable::columns(show::EXPLAIN_COLUMNS)))
            }
            Sentence::Insert(insert) => {
                update = self.prepare_conflict(insert, &mut known).await?;
                returning = self.bind_returning_of_insert(&insert.name, insert.returning.as_ref()).await?;
                (Some(self.bind_insert(insert, &mut known).await?), returned_columns(returning.as_deref())?)
            }
            Sentence::Change(change) => {
                let rows = self.bind_change(change, &mut known).await?;
                returning = self.bind_returning_of(change).await?;
                (Some(rows), returned_columns(returning.as_deref())?)
            }
            Sentence::ShowList(list) => match show::list_query(*list) {
                Some(query) => {
                    let bound = self.bind_text(query).await?;
                    let columns = columns_of(bound.plan.schema().as_arrow());
                    (Some(bound), Some(columns))
                }
                None => (None, Some(TextTable::columns(show::RELATION_COLUMNS))),
            },
            Sentence::Describe(_) => (None, Some(TextTable::columns(show::DESCRIBE_COLUMNS))),
            Sentence::ShowSetting(None) => (None, Some(TextTable::columns(show::SETTING_COLUMNS))),
            Sentence::ShowSetting(Some(name)) => (None, Some(self.setting_column(name)?)),
            _ => (None, None),
        };
        let types = known.iter().map(|(number, (kind, _))| (*number, kind.clone())).collect();
        let parameters = match &bound {
            Some(bound) => parameter_types(&bound.plan, &types, said)?,
            None if matches!(parsed.sentence, Sentence::AbortTransaction(None)) => vec![DataType::Utf8],
            None => Vec::new(),
        };
        let oid = |number: usize| known.get(&number).map(|(_, oid)| *oid);
        let parameter_oids = (1..=parameters.len()).map(oid).collect();
        let (parsed, direct) = (Arc::clone(parsed), None);
        Ok(Prepared { parameters, parameter_oids, columns, parsed, bound, returning, direct, update })
    }

    /// Binds one of our own queries.
    pub(super) async fn bind_text(&self, sql: &str) -> Result<Arc<Bound>> {
        match parse::parse(sql)?.pop().map(|parsed| parsed.sentence) {
            Some(Sentence::Query(query)) => self.bind(&query).await,
            _ => Err(Error::new(SqlState::InternalError, format!("{sql} is not a query"))),
        }
    }

    /// Binds an INSERT's source; `known` gets the types of parameters that stand where a column's value is expected.
    pub(super) async fn bind_insert(
        &self,
        insert: &Insert,
        known: &mut BTreeMap<usize, (DataType, u32)>,
    ) -> Result<Arc<Bound>> {
        let relation = self.engine.catalog.relation(&insert.name)?;
        let targets = targets(&relation, &insert.columns)?;
        let mut source = insert.source.clone();
        put_defaults(&mut source.query, &relation, &targets)?;
        type_parameters(&mut source.query, &relation, &targets, known);
        let bound = self.bind(&source).await?;
        let given = bound.plan.schema().fields().len();
        let wanted = targets.len();
        if given > wanted || (given < wanted && !insert.columns.is_empty()) {
            let what =
                if given > wanted { "expressions than target columns" } else { "target columns than expressions" };
            return Err(Error::new(SqlState::SyntaxError, format!("INSERT has more {what}"))
                .with_position(insert.name.position)
                .with_hint(format!("{given} values for {wanted} columns; name the columns that are meant")));
        }
        Ok(bound)
    }

    fn setting_column(&self, name: &str) -> Result<Vec<Column>> {
        let row = self.setting(name)?;
        let field = arrow::datatypes::Field::new(row.0, DataType::Utf8, true);
        Ok(columns_of(&arrow::datatypes::Schema::new(vec![field])))
    }

    /// A setting of the session or the node: name and value.
    pub(super) fn setting(&self, name: &str) -> Result<(String, String)> {
        if let Some(value) = self.settings.get(name) {
            return Ok((name.to_owned(), value.to_owned()));
        }
        let node = self.engine.node_settings.iter().find(|info| info.name.eq_ignore_ascii_case(name));
        node.map(|info| (info.name.to_owned(), info.value.clone()))
            .ok_or_else(|| crate::settings::unknown_setting(name))
    }

    /// What the session is shown of itself and the catalog; made anew when either has changed.
    fn shown(&self) -> Shown {
        let version = (self.engine.storage.catalog_version(), self.settings.version());
        let mut cached = self.shown.lock();
        if let Some(shown) = cached.as_ref().filter(|shown| shown.version == version) {
            return shown.clone();
        }
        let (view, settings) = (Arc::new(self.make_view()), Arc::new(self.settings.rows()));
        let shown = Shown { version, view, settings };
        *cached = Some(shown.clone());
        shown
    }

    fn make_view(&self) -> CatalogView {
        let catalog = &self.engine.catalog;
        let mut relations: Vec<CatalogRelation> = Vec::new();
        relations.extend(catalog.relations().by_name.values().map(declared_relation));
        relations.extend(self.engine.storage.topics().into_iter().map(topic_relation));
        relations.extend((0..).zip(system::schemas()).map(|(index, (name, schema))| CatalogRelation {
            oid: SYSTEM_OID + index,
            schema: system::SCHEMA.to_owned(),
            name: name.to_owned(),
            kind: RelationKind::View,
            columns: schema.fields().iter().map(|field| catalog_column(field, false)).collect(),
            primary_key: Vec::new(),
            definition: None,
            description: None,
        }));
        let setting = |row: SettingRow| CatalogSetting {
            name: row.name,
            value: row.value,
            unit: row.unit,
            description: row.reason,
        };
        CatalogView {
            relations,
            settings: system::all_settings(&self.settings.rows(), &self.engine.node_settings)
                .into_iter()
                .map(setting)
                .collect(),
            user: self.options.user.clone(),
            database: DATABASE.to_owned(),
            search_path: vec!["public".to_owned()],
            version: self.engine.version.clone(),
            backend_pid: self.options.backend_pid,
            sessions: Arc::clone(&self.engine.sessions),
        }
    }
}

/// What is made once for many statements.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// The catalog's, and the settings'.
    version: (u64, u64),
    view: Arc<CatalogView>,
    settings: Arc<Vec<SettingRow>>,
}

/// First oid of the schema `aquifer`'s tables, and the range of topics': both above what relations count to.
const SYSTEM_OID: u32 = 0x3000_0000;
const TOPIC_OID: u32 = 0x4000_0000;

/// What a [`Ground`] borrows.
pub(super) struct GroundOwner {
    /// For `pg_catalog`.
    pub(super) view: Arc<CatalogView>,
    /// For the schema `aquifer`.
    pub(super) system: SystemSources,
}

impl GroundOwner {
    /// The ground of a statement of a session.
    pub(super) fn ground<'a>(&'a self, engine: &'a Inner) -> Ground<'a> {
        let view = Some(Arc::clone(&self.view));
        Ground { session: &engine.state, catalog: &engine.catalog, view, system: Some(&self.system), kept: None }
    }
}

fn catalog_column(field: &arrow::datatypes::Field, not_null: bool) -> CatalogColumn {
    let (oid, type_modifier) = oid_of(field);
    CatalogColumn {
        name: field.name().clone(),
        arrow: field.data_type().clone(),
        oid,
        type_modifier,
        not_null,
        description: None,
    }
}

fn declared_relation(relation: &Arc<Relation>) -> CatalogRelation {
    let columns = relation.format.columns.iter().map(|column| {
        let field = crate::types::field_of(&column.name, &column.kind, true);
        let shown = catalog_column(&field, column.not_null);
        match &column.kind {
            // The length is the declaration's; results are text.
            ColumnType::Varchar(length) => CatalogColumn {
                oid: oid_of_column(&column.kind),
                type_modifier: i32::try_from(*length).map_or(-1, |length| length + 4),
                ..shown
            },
            _ => shown,
        }
    });
    CatalogRelation {
        oid: relation.oid,
        schema: "public".to_owned(),
        name: relation.name.clone(),
        kind: if relation.query.is_some() { RelationKind::Materialized } else { RelationKind::Table },
        columns: columns.collect(),
        primary_key: if relation.is_keyed_table() { relation.key_columns() } else { Vec::new() },
        definition: relation.query.as_ref().map(|_| relation.statement.clone()),
        description: Some(format!("{} over topic {}", relation.kind.word(), relation.topic_name)),
    }
}

fn topic_relation(topic: Arc<aquifer_storage::Topic>) -> CatalogRelation {
    let [a, b, c, d, ..] = *topic.id.as_bytes();
    let source = Source { relation: None, topic: Arc::clone(&topic) };
    let columns = source.shown().into_iter().map(|column| catalog_column(&source.field(column), false)).collect();
    CatalogRelation {
        oid: TOPIC_OID | (u32::from_be_bytes([a, b, c, d]) & (TOPIC_OID - 1)),
        schema: "topics".to_owned(),
        name: topic.name.clone(),
        kind: RelationKind::Table,
        columns,
        primary_key: Vec::new(),
        definition: None,
        description: None,
    }
}

/// Columns of RETURNING, if there is one.
pub(super) fn returned_columns(returning: Option<&Bound>) -> Result<Option<Vec<Column>>> {
    returning.map(bound_columns).transpose()
}

/// Columns of a bound query, with the types it has once coerced.
fn bound_columns(bound: &Bound) -> Result<Vec<Column>> {
    let state = &bound.state;
    let with_parameters = !bound.plan.get_parameter_types()?.is_empty();
    if with_parameters {
        return Ok(columns_of(bound.plan.schema().as_arrow()));
    }
    let options = state.config_options();
    let analyzed = state.analyzer().execute_and_check(bound.plan.clone(), options, |_, _| {})?;
    Ok(columns_of(analyzed.schema().as_arrow()))
}

/// Puts what a column declares, or NULL, where VALUES say DEFAULT.
fn put_defaults(query: &mut ast::Query, relation: &Relation, targets: &[Target]) -> Result<()> {
    let SetExpr::Values(values) = query.body.as_mut() else { return Ok(()) };
    for row in &mut values.rows {
        for (expr, target) in row.content.iter_mut().zip(targets) {
            if is_default(expr) {
                *expr = default_of(relation, *target)?;
            }
        }
    }
    Ok(())
}

/// Whether it is the word DEFAULT.
pub(super) fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(ident)
        if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// What a column declares, or NULL.
pub(super) fn default_of(relation: &Relation, target: Target) -> Result<Expr> {
    let Target::Declared(index) = target else { return Ok(Expr::value(Value::Null)) };
    let Some(text) = relation.rules.defaults.get(&relation.format.columns[index].name) else {
        return Ok(Expr::value(Value::Null));
    };
    let mut parsed = parse::parse(&format!("SELECT ({text})"))?;
    if let Some(Sentence::Query(query)) = parsed.pop().map(|parsed| parsed.sentence)
        && let SetExpr::Select(select) = *query.query.body
        && let Some(SelectItem::UnnamedExpr(expr)) = select.projection.into_iter().next()
    {
        return Ok(expr);
    }
    Err(Error::new(SqlState::InternalError, format!("{text} is not an expression")))
}

/// Gives parameters that stand alone in VALUES or a select list the type of the column they go to.
pub(super) fn type_parameters(
    query: &mut ast::Query,
    relation: &Relation,
    targets: &[Target],
    known: &mut BTreeMap<usize, (DataType, u32)>,
) {
    let mut type_one = |expr: &mut Expr, target: Target| {
        let Expr::Value(value) = &*expr else { return };
        let Value::Placeholder(name) = &value.value else { return };
        let Ok(number) = crate::plan::parameters::number(name) else { return };
        let kind = target_type(relation, target);
        known.entry(number).or_insert_with(|| (kind.clone(), target_oid(relation, target)));
        *expr = Expr::Cast {
            kind: CastKind::DoubleColon,
            expr: Box::new(expr.clone()),
            data_type: ast::DataType::Custom(
                ObjectName::from(vec![Ident::with_quote('"', format!("{ARROW_NAME}{kind}"))]),
                Vec::new(),
            ),
            array: false,
            format: None,
        };
    };
    match query.body.as_mut() {
        SetExpr::Values(values) => {
            for row in &mut values.rows {
                for (expr, target) in row.content.iter_mut().zip(targets) {
                    type_one(expr, *target);
                }
            }
        }
        SetExpr::Select(select) => {
            for (item, target) in select.projection.iter_mut().zip(targets) {
                if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                    type_one(expr, *target);
                }
            }
        }
        _ => {}
    }
}

/// Lists that have no query of their own.
pub(super) fn relation_list(list: ShowList) -> crate::statement::RelationKind {
    match list {
        ShowList::Streams => crate::statement::RelationKind::Stream,
        _ => crate::statement::RelationKind::Table,
    }
}
