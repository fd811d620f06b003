//! CREATE and DROP of declared relations: each one commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_storage::record::format::{ColumnRole, ColumnType, DeclaredColumn, RecordFormat};
use aquifer_storage::{Commit, DefinitionChange, Expect, Topic, TopicChange, TopicConfig, TopicId};
use datafusion::execution::session_state::SessionState;

use super::rule;
use crate::catalog::properties::Properties;
use crate::catalog::relation::{Check, DeclaredRules};
use crate::catalog::{Catalog, QUERY_KIND, RELATION_KIND, Relation};
use crate::error::{Error, Result, SqlState};
use crate::run::alter::{in_use, readers, redefinition};
use crate::run::infer::infer;
use crate::statement::{ColumnMark, CreateRelation, Drop, Name, RelationKind};
use crate::stream::{QueryDefinition, Supervisor};

/// The topic a new relation stands on, and the change that makes it if it is not there.
#[derive(Debug)]
pub(crate) struct TopicOf {
    /// Its id.
    pub(crate) id: TopicId,
    /// Its name.
    pub(crate) name: String,
    /// Makes it.
    pub(crate) create: Option<TopicChange>,
}

/// The topic named by `properties`, or named as the relation; one that is there must fit.
///
/// # Errors
/// 22023 if it has other partitions, 25006 for one of our own.
pub(crate) fn topic_of(
    catalog: &Catalog,
    name: &Name,
    properties: &Properties,
    config: TopicConfig,
    partitions: i32,
) -> Result<TopicOf> {
    let storage = catalog.storage();
    let topic_name = properties.kafka_topic.clone().unwrap_or_else(|| name.value.clone());
    let Some(topic) = storage.topic(&topic_name) else {
        let partitions = properties.partitions.map_or(partitions, |(partitions, _)| partitions);
        let id = storage.new_topic_id();
        let create = TopicChange::Create { id, name: topic_name.clone(), partitions, config };
        return Ok(TopicOf { id, name: topic_name, create: Some(create) });
    };
    fits(&topic, properties)?;
    Ok(TopicOf { id: topic.id, name: topic_name, create: None })
}

fn fits(topic: &Topic, properties: &Properties) -> Result<()> {
    if topic.internal {
        return Err(Error::new(SqlState::ReadOnly, format!("topic {} is internal", topic.name))
            .with_hint("the node keeps this topic for itself; topics.\"name\" shows it"));
    }
    for (config, wanted) in properties.topic.entries() {
        let property = config.replace('.', "_");
        let present = topic.config.get(config).unwrap_or_else(|| "the default".to_owned());
        if present != wanted {
            let message = format!("topic {} has {property} = {present}, not {wanted}", topic.name);
            return Err(Error::new(SqlState::InvalidParameterValue, message)
                .with_hint("leave it out; a topic that is there is configured through Kafka (AlterConfigs)"));
        }
    }
    match properties.partitions {
        Some((wanted, position)) if wanted != topic.partitions => {
            let message = format!("topic {} has {} partitions, not {wanted}", topic.name, topic.partitions);
            Err(Error::new(SqlState::InvalidParameterValue, message)
                .with_position(position)
                .with_hint("leave partitions out, or name another topic"))
        }
        _ => Ok(()),
    }
}

/// Refuses a name that is taken; `Ok(true)`: taken, and IF NOT EXISTS was said.
///
/// # Errors
/// 42P07.
pub(crate) fn is_taken(catalog: &Catalog, name: &Name, if_not_exists: bool) -> Result<bool> {
    if !catalog.relations().by_name.contains_key(&name.value) {
        return Ok(false);
    }
    if if_not_exists {
        return Ok(true);
    }
    Err(Error::new(SqlState::DuplicateTable, format!("relation \"{}\" already exists", name.value))
        .with_position(name.position)
        .with_hint("DROP it first, or say IF NOT EXISTS"))
}

/// A NOTICE that a name was there.
pub(crate) fn skipped(name: &str) -> Error {
    Error::new(SqlState::DuplicateTable, format!("relation \"{name}\" already exists, skipping"))
}

/// The change that stores a relation.
///
/// # Errors
/// XX000 if it cannot be written.
pub(crate) fn relation_change(relation: &Relation) -> Result<DefinitionChange> {
    Ok(DefinitionChange {
        kind: RELATION_KIND.to_owned(),
        name: relation.name.clone(),
        value: Some(relation.to_bytes()?),
        holds: Vec::new(),
        expect: Expect::Absent,
    })
}

/// `CREATE [OR REPLACE] STREAM | TABLE name [(…)]`; answers the tag, and a notice if it was there or its columns were
/// inferred.
///
/// # Errors
/// What the declaration says, and storage.
pub(crate) async fn create(
    catalog: &Catalog,
    state: &SessionState,
    create: &CreateRelation,
) -> Result<(String, Option<Error>)> {
    let tag = format!("CREATE {}", create.kind.word().to_uppercase());
    // Reading a sample keeps nobody from defining.
    if create.columns.is_none() && !create.replaces && is_taken(catalog, &create.name, create.if_not_exists)? {
        return Ok((tag, Some(skipped(&create.name.value))));
    }
    let (inferred, notice) = match &create.columns {
        Some(_) => (None, None),
        None => {
            let (declared, notice) = infer(catalog, create).await?;
            (Some(declared), Some(notice))
        }
    };
    let create = inferred.as_ref().unwrap_or(create);
    let _alone = catalog.defining.lock().await;
    let replaced = catalog.relations().by_name.get(&create.name.value).filter(|_| create.replaces).map(Arc::clone);
    if replaced.is_none() && is_taken(catalog, &create.name, create.if_not_exists)? {
        return Ok((tag, Some(skipped(&create.name.value))));
    }
    let mut properties = Properties::read(&create.with)?;
    refuse_of_queries(&properties)?;
    let format = format_of(create, &properties)?;
    format.check().map_err(|error| {
        Error::new(SqlState::InvalidColumnDefinition, error.to_string()).with_position(create.name.position)
    })?;
    let timestamp_column = timestamp_of(&format, &properties)?;
    if let Some(replaced) = &replaced {
        let topic = catalog.storage().topic_by_id(replaced.topic).map(|topic| topic.name.clone());
        properties.kafka_topic = properties.kafka_topic.or(topic);
    }
    let storage = catalog.storage();
    let partitions = storage.settings().topic_partitions;
    let topic = topic_of(catalog, &create.name, &properties, properties.topic_config(format.tombstones), partitions)?;
    let mut relation = Relation {
        name: create.name.value.clone(),
        kind: create.kind,
        format,
        topic: topic.id,
        topic_name: topic.name,
        timestamp_column,
        window: None,
        query: None,
        statement: create.text.clone(),
        oid: 0,
        created_at_us: storage.clock().now_us(),
        rules: DeclaredRules { defaults: defaults_of(create), checks: checks_of(create)? },
    };
    rule::check_declared(state, &relation, relation.created_at_us).await?;
    let definitions = match &replaced {
        Some(replaced) => {
            relation.oid = replaced.oid;
            check_replaceable(catalog, replaced, &relation, &create.name)?;
            redefinition(catalog, replaced, &relation)?
        }
        None => {
            let (oid, counter) = catalog.next_oid();
            relation.oid = oid;
            vec![relation_change(&relation)?, counter]
        }
    };
    catalog.commit(Commit { topics: topic.create.into_iter().collect(), definitions, ..Commit::default() }).await?;
    Ok((tag, notice))
}

/// Refuses properties that only a query's result has.
fn refuse_of_queries(properties: &Properties) -> Result<()> {
    if properties.emit.is_some() {
        return Err(Error::unsupported("emit on a declared relation").with_hint("it belongs to CREATE … AS SELECT"));
    }
    match properties.replay_from {
        Some((_, position)) => Err(Error::unsupported("replay_from on a declared relation")
            .with_position(position)
            .with_hint("it belongs to CREATE … AS SELECT; a SELECT reads the past with FOR SYSTEM_TIME AS OF")),
        None => Ok(()),
    }
}

/// What CREATE OR REPLACE may put in another's place.
fn check_replaceable(catalog: &Catalog, replaced: &Relation, by: &Relation, name: &Name) -> Result<()> {
    if replaced.kind != by.kind {
        let (is, said) = (replaced.kind.word(), by.kind.word());
        return Err(Error::new(SqlState::WrongObjectType, format!("\"{}\" is a {is}, not a {said}", name.value))
            .with_position(name.position)
            .with_hint(format!("DROP {} {} first", is.to_uppercase(), name.value)));
    }
    if let Some(query) = &replaced.query {
        return Err(in_use(replaced, query).with_position(name.position));
    }
    match readers(catalog, replaced)?.first() {
        // They would go on over the old topic, and nobody would see why.
        Some((query, _)) if replaced.topic != by.topic => {
            Err(in_use(replaced, &query.name).with_position(name.position))
        }
        _ => Ok(()),
    }
}

/// DEFAULT expressions by column.
fn defaults_of(create: &CreateRelation) -> BTreeMap<String, String> {
    let columns = create.columns.iter().flatten();
    columns.filter_map(|column| Some((column.name.value.clone(), column.default.as_ref()?.0.clone()))).collect()
}

/// CHECK constraints, named as Postgres names them where no name is said.
fn checks_of(create: &CreateRelation) -> Result<Vec<Check>> {
    let mut checks: Vec<Check> = Vec::new();
    for check in &create.checks {
        let taken = |name: &str, checks: &[Check]| checks.iter().any(|check| check.name == name);
        let name = match (&check.name, &check.column) {
            (Some(name), _) if taken(name, &checks) => {
                let message = format!("constraint \"{name}\" for relation \"{}\" already exists", create.name.value);
                return Err(Error::new(SqlState::DuplicateObject, message)
                    .with_position(check.position)
                    .with_hint("give it another name"));
            }
            (Some(name), _) => name.clone(),
            (None, column) => {
                let column = column.as_ref().map_or_else(String::new, |column| format!("_{column}"));
                let name = format!("{}{column}_check", create.name.value);
                let numbered = (1..).map(|number| format!("{name}{number}"));
                std::iter::once(name.clone()).chain(numbered).find(|name| !taken(name, &checks)).unwrap_or(name)
            }
        };
        checks.push(Check { name, expression: check.expression.clone() });
    }
    Ok(checks)
}

fn format_of(create: &CreateRelation, properties: &Properties) -> Result<RecordFormat> {
    let declared = create.columns.as_deref().unwrap_or_default();
    let mut columns = Vec::with_capacity(declared.len());
    for column in declared {
        let role = match column.mark {
            Some(ColumnMark::Key | ColumnMark::PrimaryKey) => ColumnRole::Key,
            Some(ColumnMark::Headers) if is_headers(&column.kind) => ColumnRole::Headers,
            Some(ColumnMark::Headers) => {
                return Err(Error::new(SqlState::InvalidColumnDefinition, "a HEADERS column has another type")
                    .with_position(column.name.position)
                    .with_hint("declare it ARRAY<STRUCT<key STRING, value BYTES>>"));
            }
            None => ColumnRole::Value,
        };
        columns.push(DeclaredColumn {
            name: column.name.value.clone(),
            field: column.field.clone(),
            kind: column.kind.clone(),
            role,
            not_null: column.not_null || column.mark == Some(ColumnMark::PrimaryKey),
        });
    }
    let of_role = |role: ColumnRole| -> Vec<&ColumnType> {
        columns.iter().filter(|column| column.role == role).map(|column| &column.kind).collect()
    };
    let (keys, values) = (of_role(ColumnRole::Key), of_role(ColumnRole::Value));
    let tombstones = create.kind == RelationKind::Table && !keys.is_empty();
    let (key_format, value_format) = (properties.key_format_of(&keys, false)?, properties.value_format_of(&values)?);
    Ok(RecordFormat { key_format, value_format, tombstones, columns })
}

fn is_headers(kind: &ColumnType) -> bool {
    let ColumnType::Array(item) = kind else { return false };
    let ColumnType::Struct(fields) = item.as_ref() else { return false };
    matches!(fields.as_slice(), [(key, ColumnType::Text), (value, ColumnType::Bytes)] if key == "key" && value == "value")
}

/// The column that `timestamp` names.
///
/// # Errors
/// 42703, 42804.
pub(crate) fn timestamp_of(format: &RecordFormat, properties: &Properties) -> Result<Option<String>> {
    let Some((written, position)) = &properties.timestamp else { return Ok(None) };
    let found = format.columns.iter().find(|column| column.name == *written || column.name == written.to_lowercase());
    let Some(column) = found else {
        return Err(Error::new(SqlState::UndefinedColumn, format!("column \"{written}\" does not exist"))
            .with_position(*position)
            .with_hint("timestamp names a declared column"));
    };
    match column.kind {
        ColumnType::Timestamp | ColumnType::TimestampTz | ColumnType::BigInt => Ok(Some(column.name.clone())),
        _ => Err(Error::new(SqlState::DatatypeMismatch, format!("column \"{}\" holds no time", column.name))
            .with_position(*position)
            .with_hint("declare it TIMESTAMP, timestamptz or BIGINT (ms)")),
    }
}

/// `DROP …`; answers the tag and notices.
///
/// # Errors
/// 42P01, 42809, 55006, and storage.
pub(crate) async fn drop(catalog: &Catalog, supervisor: &Arc<Supervisor>, drop: &Drop) -> Result<(String, Vec<Error>)> {
    let mut notices = Vec::new();
    let mut relations: Vec<Arc<Relation>> = Vec::new();
    for name in &drop.names {
        match catalog.relation(name) {
            Ok(relation) if relations.iter().any(|named| named.name == relation.name) => {}
            Ok(relation) if relation.kind == drop.kind => relations.push(relation),
            Ok(relation) => {
                let (is, said) = (relation.kind.word(), drop.kind.word());
                let message = format!("\"{}\" is a {is}, not a {said}", name.value);
                return Err(Error::new(SqlState::WrongObjectType, message)
                    .with_position(name.position)
                    .with_hint(format!("DROP {} {}", is.to_uppercase(), name.value)));
            }
            Err(_) if drop.if_exists => {
                let message = format!("relation \"{}\" does not exist, skipping", name.value);
                notices.push(Error::new(SqlState::UndefinedTable, message));
            }
            Err(error) => return Err(error),
        }
    }
    refuse_if_read(catalog, &relations, drop.delete_topic)?;
    for query in relations.iter().filter_map(|relation| relation.query.as_deref()) {
        terminate_if_there(catalog, supervisor, query).await?;
    }
    let _alone = catalog.defining.lock().await;
    // Only now nothing is made any more that reads them.
    refuse_if_read(catalog, &relations, drop.delete_topic)?;
    let removal = |relation: &Arc<Relation>| DefinitionChange {
        kind: RELATION_KIND.to_owned(),
        name: relation.name.clone(),
        value: None,
        holds: Vec::new(),
        expect: Expect::Present,
    };
    let mut topics: Vec<TopicId> = relations.iter().map(|relation| relation.topic).collect();
    topics.sort_unstable();
    topics.dedup();
    topics.retain(|id| drop.delete_topic && catalog.storage().topic_by_id(*id).is_some());
    let commit = Commit {
        topics: topics.into_iter().map(|id| TopicChange::Delete { id }).collect(),
        definitions: relations.iter().map(removal).collect(),
        ..Commit::default()
    };
    if !commit.definitions.is_empty() {
        catalog.commit(commit).await?;
    }
    Ok((format!("DROP {}", drop.kind.word().to_uppercase()), notices))
}

async fn terminate_if_there(catalog: &Catalog, supervisor: &Arc<Supervisor>, query: &str) -> Result<()> {
    let there = catalog.storage().definitions(QUERY_KIND).iter().any(|definition| definition.name == query);
    if there { supervisor.terminate(query).await } else { Ok(()) }
}

/// A query that reads one of the relations and is not dropped with it keeps it; if topics are to go, so does every query
/// that holds one of them.
fn refuse_if_read(catalog: &Catalog, dropped: &[Arc<Relation>], delete_topic: bool) -> Result<()> {
    for query in catalog.storage().definitions(QUERY_KIND) {
        if dropped.iter().any(|dropped| dropped.query.as_deref() == Some(query.name.as_str())) {
            continue;
        }
        // What a definition that does not parse reads is not known: it keeps all that is over its topics.
        let source = QueryDefinition::from_definition(&query).ok().map(|query| query.source);
        let keeps = |relation: &&Arc<Relation>| {
            let is_source = source.as_ref().is_none_or(|source| *source == relation.name);
            query.holds.contains(&relation.topic) && (delete_topic || is_source)
        };
        if let Some(relation) = dropped.iter().find(keeps) {
            let message = format!("{} \"{}\" is used by query \"{}\"", relation.kind.word(), relation.name, query.name);
            return Err(Error::new(SqlState::ObjectInUse, message)
                .with_hint(format!("TERMINATE {} or DROP what it writes first", query.name)));
        }
    }
    Ok(())
}
