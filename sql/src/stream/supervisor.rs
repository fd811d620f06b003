//! `Supervisor`: runs the continuous queries of one engine, one task each, from its start to its close.
//!
//! A query is made by one commit (topic, relation, query, position at the beginning, the row an aggregate without GROUP
//! BY has before any input) and runs from the moment that is
//! durable. Its definition is all that is needed to start it again: the statement is planned anew at every start.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use aquifer_storage::{Append, Commit, DefinitionChange, Expect, PositionChange, Storage, TopicPartition};
use bytes::Bytes;
use datafusion::execution::session_state::SessionState;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::QueryStatus;
use super::define::{QueryDefinition, result_format};
use super::job::{Job, Progress};
use super::position::Position;
use super::prepare::{PreparedQuery, prepare};
use super::reader::Reader;
use super::replay::ReplayFrom;
use super::sink::Sink;
use super::source::partitions_of;
use crate::catalog::properties::Properties;
use crate::catalog::{Catalog, QUERY_KIND, RELATION_KIND, Relation};
use crate::error::{Error, Result, SqlState};
use crate::plan::continuous::Purpose;
use crate::run::define::{is_taken, relation_change, skipped, timestamp_of, topic_of};
use crate::statement::parse::parse;
use crate::statement::{CreateAsSelect, Name, RelationKind, Sentence};

/// How long a stopping query may take to finish the commit it is in.
const STOP_WAIT_MAX: Duration = Duration::from_secs(10);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Supervisor {
    catalog: Arc<Catalog>,
    /// By name. Held only to look or to change an entry, never across a wait.
    queries: Mutex<BTreeMap<String, Running>>,
}

/// One query and its task.
#[derive(Debug)]
struct Running {
    definition: QueryDefinition,
    progress: Arc<Progress>,
    started_at_us: i64,
    /// Whether it goes on from its position alone; unknown, so no, if it could not start.
    stateless: bool,
    /// `None` if it could not start.
    task: Option<(CancellationToken, DropGuard, JoinHandle<()>)>,
}

impl Supervisor {
    /// Of that catalog; nothing runs yet.
    pub(crate) fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog, queries: Mutex::new(BTreeMap::new()) }
    }

    /// Starts every query there is a definition of. `session` is a state with all functions, for planning.
    ///
    /// # Errors
    /// Only what makes all of them impossible; a query that cannot start is in state `error` in [`Supervisor::status`].
    pub(crate) async fn start_all(&self, session: &SessionState) -> Result<()> {
        for definition in self.storage().definitions(QUERY_KIND) {
            match QueryDefinition::from_definition(&definition) {
                Ok(query) => self.start(session, query).await,
                Err(error) => tracing::error!(query = definition.name, %error, "query is left out"),
            }
        }
        Ok(())
    }

    /// Makes topic, relation and query in one commit and starts the query; answers the command tag, and a notice if it
    /// was there. Who cancels the statement does not cut it off between its commit and its start.
    ///
    /// # Errors
    /// What planning says; 42P07 if a relation of that name is there.
    pub(crate) async fn create(
        self: &Arc<Self>,
        session: &SessionState,
        create: &CreateAsSelect,
    ) -> Result<(String, Option<Error>)> {
        let (supervisor, session, create) = (Arc::clone(self), session.clone(), create.clone());
        whole(async move { supervisor.create_here(&session, &create).await }).await
    }

    async fn create_here(&self, session: &SessionState, create: &CreateAsSelect) -> Result<(String, Option<Error>)> {
        let tag = format!("CREATE {}", create.kind.word().to_uppercase());
        let defining = self.catalog.defining.lock().await;
        if is_taken(&self.catalog, &create.name, create.if_not_exists)? {
            return Ok((tag, Some(skipped(&create.name.value))));
        }
        let properties = Properties::read(&create.with)?;
        let prepared = prepare(session, &self.catalog, &create.query, purpose(create.kind), None).await?;
        let source = source_relation(&prepared)?;
        let start = self.start_of(&properties, &prepared).await?;
        let (commit, definition) = self.creation(create, &properties, &prepared, &source, start)?;
        self.catalog.commit(commit).await?;
        self.start_prepared(definition, prepared, &source);
        drop(defining);
        Ok((tag, None))
    }

    /// Ends a query for good and removes its definition; its relation and what it has written stay. Who cancels the
    /// statement does not cut it off between its stop and its commit; a query whose commit fails stays, stopped, in
    /// state `error`, and can be terminated again.
    ///
    /// # Errors
    /// 42704 if there is none.
    pub(crate) async fn terminate(self: &Arc<Self>, name: &str) -> Result<()> {
        let (supervisor, name) = (Arc::clone(self), name.to_owned());
        whole(async move { supervisor.terminate_here(&name).await }).await
    }

    async fn terminate_here(&self, name: &str) -> Result<()> {
        let defining = self.catalog.defining.lock().await;
        let running = self.queries.lock().remove(name);
        let Some(running) = running else {
            return Err(Error::new(SqlState::UndefinedObject, format!("query \"{name}\" does not exist"))
                .with_hint("SHOW QUERIES lists what runs"));
        };
        let definition = running.definition.clone();
        running.stop().await;
        let removed = self.remove(name, &definition).await;
        if let Err(error) = &removed {
            self.failed(definition, error.clone());
        }
        drop(defining);
        removed
    }

    /// The commit that makes a stopped query's relation free.
    async fn remove(&self, name: &str, definition: &QueryDefinition) -> Result<()> {
        let mut definitions = vec![change(QUERY_KIND, name, None, Expect::Present)];
        if let Some(relation) = self.catalog.relations().by_name.get(name) {
            let free = Relation { query: None, ..relation.as_ref().clone() };
            definitions.push(change(RELATION_KIND, name, Some(free.to_bytes()?), Expect::Present));
        }
        let position = PositionChange { query: definition.id.clone(), value: None, expect: Expect::Anything };
        let commit = Commit { definitions, positions: vec![position], ..Commit::default() };
        self.catalog.commit(commit).await.map(|_| ())
    }

    /// All queries, by name.
    pub(crate) fn status(&self) -> Vec<QueryStatus> {
        let mut status: Vec<_> = {
            let queries = self.queries.lock();
            queries.values().map(|running| (running.definition.clone(), running.status(self.storage()))).collect()
        };
        for (definition, status) in &mut status {
            status.holds_back = self.holds_back(definition);
        }
        status.into_iter().map(|(_, status)| status).collect()
    }

    /// Whether a query goes on from its position alone.
    pub(super) fn is_stateless(&self, name: &str) -> bool {
        self.queries.lock().get(name).is_some_and(|running| running.stateless)
    }

    /// Stops all of them; definitions and positions stay.
    pub(crate) async fn close(&self) {
        let queries = std::mem::take(&mut *self.queries.lock());
        queries.values().for_each(Running::cancel);
        for running in queries.into_values() {
            running.stop().await;
        }
    }

    pub(super) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub(super) fn storage(&self) -> &Storage {
        self.catalog.storage()
    }

    /// Where a new query begins: as `replay_from` says, else at the first record.
    async fn start_of(&self, properties: &Properties, prepared: &PreparedQuery) -> Result<Position> {
        let topic = &prepared.source.topic;
        let Some((from, at)) = &properties.replay_from else { return Ok(Position::start(topic.partitions)) };
        let position = async { ReplayFrom::read(from)?.position(self.storage(), topic).await };
        position.await.map_err(|error| error.with_position(*at))
    }

    /// The one commit that makes a query.
    fn creation(
        &self,
        create: &CreateAsSelect,
        properties: &Properties,
        prepared: &PreparedQuery,
        source: &Relation,
        start: Position,
    ) -> Result<(Commit, QueryDefinition)> {
        let storage = self.storage();
        let (name, now_us) = (&create.name.value, storage.clock().now_us());
        let target = (create.kind, &create.name);
        let declared = |index| prepared.declared(index);
        let format = result_format(target, &prepared.plan, &prepared.names, source, properties, declared)?;
        let timestamp_column = timestamp_of(&format, properties)?;
        let (keyed, partitions) = (create.kind == RelationKind::Table, prepared.source.topic.partitions);
        let written = properties.partitions.map_or(partitions, |(partitions, _)| partitions);
        let config = properties.topic_config(keyed);
        if keyed && config.resolve(storage.settings()).removes_records() {
            let message = format!("table \"{name}\" would lose rows: its topic may lose records by compaction only");
            return Err(Error::new(SqlState::InvalidParameterValue, message)
                .with_position(create.name.position)
                .with_hint("leave cleanup_policy, retention_ms and retention_bytes out"));
        }
        let topic = topic_of(&self.catalog, &create.name, properties, config, partitions)?;
        let Some(create_topic) = topic.create else {
            return Err(Error::new(SqlState::DuplicateObject, format!("topic \"{}\" already exists", topic.name))
                .with_position(create.name.position)
                .with_hint("a result needs a topic of its own: WITH (kafka_topic = 'another name')"));
        };
        let definition = QueryDefinition {
            id: storage.random().uuid().to_string(),
            name: name.clone(),
            source: source.name.clone(),
            source_topic: source.topic,
            sink_topic: topic.id,
            sink_partitions: written,
            start: start.offsets.clone(),
            statement: create.text.clone(),
            created_at_us: now_us,
            source_as: None,
        };
        let (oid, oid_change) = self.catalog.next_oid();
        let relation = Relation {
            name: name.clone(),
            kind: create.kind,
            format,
            topic: definition.sink_topic,
            topic_name: topic.name,
            timestamp_column,
            window: prepared.window.clone().filter(|_| keyed),
            query: Some(name.clone()),
            statement: create.text.clone(),
            oid,
            created_at_us: now_us,
            rules: Default::default(),
        };
        let mut query_change = change(QUERY_KIND, name, Some(definition.to_bytes()?), Expect::Absent);
        query_change.holds = vec![definition.source_topic, definition.sink_topic];
        let position =
            PositionChange { query: definition.id.clone(), value: Some(start.to_bytes()?), expect: Expect::Absent };
        let commit = Commit {
            appends: first_rows(prepared, &relation, written, now_us)?,
            topics: vec![create_topic],
            definitions: vec![oid_change, relation_change(&relation)?, query_change],
            positions: vec![position],
            ..Commit::default()
        };
        Ok((commit, definition))
    }

    /// Plans a stored query anew and starts it; what goes wrong is shown in its state.
    async fn start(&self, session: &SessionState, definition: QueryDefinition) {
        match planned(session, &self.catalog, &definition).await {
            Ok((prepared, source)) => self.start_prepared(definition, prepared, &source),
            Err(error) => self.failed(definition, error),
        }
    }

    fn start_prepared(&self, definition: QueryDefinition, prepared: PreparedQuery, source: &Relation) {
        let progress = Arc::new(Progress::default());
        let stateless = prepared.plan.chain.is_stateless();
        let mut job = match self.job(&definition, prepared, source, Arc::clone(&progress)) {
            Ok(job) => job,
            Err(error) => return self.failed(definition, error),
        };
        let stop = CancellationToken::new();
        let (stopped, shown, name) = (stop.clone(), Arc::clone(&progress), definition.name.clone());
        let task = tokio::spawn(async move {
            // A bug in one query ends that query: it says so, and the node goes on.
            let ended = AssertUnwindSafe(job.run(&stopped)).catch_unwind().await;
            let panicked = || Error::new(SqlState::InternalError, "the query panicked; the log has the details");
            if let Err(error) = ended.unwrap_or_else(|_| Err(panicked())) {
                tracing::error!(query = name, %error, "query ended");
                shown.fail(error);
            }
        });
        let started_at_us = self.storage().clock().now_us();
        let task = Some((stop.clone(), stop.drop_guard(), task));
        let running = Running { definition, progress, started_at_us, stateless, task };
        self.queries.lock().insert(running.definition.name.clone(), running);
    }

    fn job(
        &self,
        definition: &QueryDefinition,
        prepared: PreparedQuery,
        source: &Relation,
        progress: Arc<Progress>,
    ) -> Result<Job> {
        let relation = self.catalog.relation(&nameless(&definition.name))?;
        let sink_topic = self.catalog.topic_of(&relation)?;
        let sink_partitions = match definition.sink_partitions {
            0 => sink_topic.partitions,
            partitions => partitions,
        };
        let keeps_origin = prepared.plan.group_keys.is_none();
        let (partitions, errors) = (prepared.source.topic.partitions, Arc::clone(&self.catalog.decode_errors));
        Ok(Job {
            storage: self.storage().clone(),
            query_id: definition.id.clone(),
            reader: Reader::new(self.storage(), source, partitions, prepared.input_schema(), keeps_origin, errors)?,
            chain: prepared.plan.chain,
            sink: Sink::new(sink_topic.id, sink_partitions, relation.format.clone())?,
            start: definition.start.clone(),
            start_ms: definition.created_at_us.div_euclid(1000),
            progress,
        })
    }

    fn failed(&self, definition: QueryDefinition, error: Error) {
        tracing::error!(query = definition.name, %error, "query cannot start");
        let progress = Arc::new(Progress::default());
        progress.fail(error);
        let started_at_us = self.storage().clock().now_us();
        let name = definition.name.clone();
        let running = Running { definition, progress, started_at_us, stateless: false, task: None };
        self.queries.lock().insert(name, running);
    }
}

impl Running {
    fn cancel(&self) {
        if let Some((stop, ..)) = &self.task {
            stop.cancel();
        }
    }

    /// Stops the task and waits for the commit it is in.
    async fn stop(self) {
        self.cancel();
        if let Some((_, guard, mut task)) = self.task {
            if tokio::time::timeout(STOP_WAIT_MAX, &mut task).await.is_err() {
                tracing::warn!(query = self.definition.name, "query did not stop in time and is cut off");
                task.abort();
            }
            drop(guard);
        }
    }

    fn status(&self, storage: &Storage) -> QueryStatus {
        let stored = || storage.position(&self.definition.id).and_then(|bytes| Position::from_bytes(&bytes).ok());
        let position = self.progress.position().or_else(stored);
        let error = self.progress.error();
        QueryStatus {
            name: self.definition.name.clone(),
            statement: self.definition.statement.clone(),
            state: if error.is_some() { "error" } else { "running" }.to_owned(),
            error: error.map(|error| error.to_string()),
            position: position.as_ref().map(ToString::to_string).unwrap_or_default(),
            lag_records: position.map_or(0, |position| self.lag(storage, &position)),
            holds_back: String::new(),
            started_at_us: self.started_at_us,
        }
    }

    /// Offsets between the position and what could be read now.
    fn lag(&self, storage: &Storage, position: &Position) -> i64 {
        let partitions = partitions_of(storage, self.definition.source_topic);
        let behind = (0..partitions).map(|partition| {
            let place = TopicPartition { topic: self.definition.source_topic, partition };
            storage.watermarks(place).map_or(0, |ends| {
                let start = ends.log_start_offset.max(position.at(partition));
                ends.last_stable_offset.saturating_sub(start).max(0)
            })
        });
        behind.sum()
    }
}

/// Runs work to its end even if nobody waits for it any more.
async fn whole<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let panicked = |source| Error::new(SqlState::InternalError, "the statement panicked").with_source(source);
    tokio::spawn(work).await.map_err(panicked)?
}

/// Parses and plans a stored statement.
async fn planned(
    session: &SessionState,
    catalog: &Arc<Catalog>,
    definition: &QueryDefinition,
) -> Result<(PreparedQuery, Arc<Relation>)> {
    let sentence = parse(&definition.statement)?.into_iter().next().map(|parsed| parsed.sentence);
    let Some(Sentence::CreateAsSelect(create)) = sentence else {
        return Err(Error::new(SqlState::DataCorrupted, "the stored statement is not CREATE … AS SELECT"));
    };
    let kept = definition.source_as.clone().map(Arc::new);
    let prepared = prepare(session, catalog, &create.query, purpose(create.kind), kept).await?;
    let source = source_relation(&prepared)?;
    Ok((prepared, source))
}

fn purpose(kind: RelationKind) -> Purpose {
    match kind {
        RelationKind::Stream => Purpose::Stream,
        RelationKind::Table => Purpose::Table,
    }
}

fn source_relation(prepared: &PreparedQuery) -> Result<Arc<Relation>> {
    prepared.source.relation.clone().ok_or_else(|| {
        Error::unsupported(format!("topics.\"{}\" as the source of a continuous query", prepared.source.topic.name))
            .with_hint("declare its columns with CREATE STREAM … WITH (kafka_topic = …) and read that")
    })
}

/// What the result holds before any input: the row of an aggregate without GROUP BY.
fn first_rows(prepared: &PreparedQuery, relation: &Relation, partitions: i32, now_us: i64) -> Result<Vec<Append>> {
    let chain = &prepared.plan.chain;
    if !chain.begins_with_row() {
        return Ok(Vec::new());
    }
    let (changes, _) = chain.step(&chain.start(), Vec::new(), now_us.div_euclid(1000)).map_err(Error::from)?;
    Sink::new(relation.topic, partitions, relation.format.clone())?.encode(&changes, usize::MAX)
}

fn nameless(name: &str) -> Name {
    Name { value: name.to_owned(), position: 1 }
}

fn change(kind: &str, name: &str, value: Option<Bytes>, expect: Expect) -> DefinitionChange {
    DefinitionChange { kind: kind.to_owned(), name: name.to_owned(), value, holds: Vec::new(), expect }
}
