//! Executing: what each sentence does.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use tokio::time::Instant;

use super::prepare::relation_list;
use super::{Block, Outcome, Prepared, Rows, Session};
use crate::error::{Error, Result, SqlState};
use crate::plan::bind::Bound;
use crate::run::insert::{Writing, pending_bytes_max, targets};
use crate::run::query::{self, deadline, with_parameters};
use crate::run::show::{self, TextTable};
use crate::run::transaction;
use crate::run::vacuum;
use crate::run::{alter, define};
use crate::statement::cursor::Places;
use crate::statement::{Emit, Explain, Insert, Name, Sentence, SetSetting, WindowedQuery};
use crate::stream::{self, ReplayFrom};

impl Session {
    pub(super) async fn execute_parsed(&mut self, prepared: &Prepared, parameters: &[ScalarValue]) -> Result<Outcome> {
        let parsed = Arc::clone(&prepared.parsed);
        let deadline = deadline(self.settings.statement_timeout());
        tracing::debug!(statement = parsed.text, pid = self.options.backend_pid, "execute");
        match &parsed.sentence {
            Sentence::Empty => Ok(Outcome::Empty),
            Sentence::Query(query) => {
                self.query(query, prepared.bound.as_ref(), parameters, deadline).await.map(Outcome::Rows)
            }
            Sentence::CopyOut(copy) => {
                let rows = self.query(&copy.query, prepared.bound.as_ref(), parameters, deadline).await?;
                let format = self.format_of(copy, &rows)?;
                Ok(Outcome::CopyOut(Rows { tag: "COPY", ..rows }, format))
            }
            Sentence::CopyFrom(copy) => self.copy_from(copy, deadline).await,
            Sentence::InsertValues(insert) => self.insert_values(insert, prepared, parameters, deadline).await,
            Sentence::Explain(explain) => self.explain(explain, deadline).await,
            Sentence::Insert(insert) => self.insert(insert, prepared, parameters, deadline).await,
            Sentence::Change(change) => self.change(change, prepared, parameters, deadline).await,
            Sentence::CreateRelation(create) => {
                let (tag, notice) = define::create(&self.engine.catalog, &self.engine.state, create).await?;
                Ok(self.defined_with(tag, notice.into_iter().collect()))
            }
            Sentence::Alter(alter) => {
                let (tag, notices) = alter::alter(&self.engine.catalog, &self.engine.state, alter).await?;
                Ok(self.defined_with(tag, notices))
            }
            Sentence::CreateAsSelect(create) => {
                let (tag, notice) = self.engine.supervisor.create(&self.engine.state, create).await?;
                Ok(self.defined_with(tag, notice.into_iter().collect()))
            }
            Sentence::Drop(drop) => {
                let (tag, notices) = define::drop(&self.engine.catalog, &self.engine.supervisor, drop).await?;
                Ok(self.defined_with(tag, notices))
            }
            Sentence::Terminate(name) => self.terminate(name.as_ref()).await,
            Sentence::Checkpoint => {
                self.engine.storage.checkpoint().await?;
                Ok(Outcome::Done("CHECKPOINT".to_owned()))
            }
            Sentence::AbortTransaction(id) => {
                transaction::abort(&self.engine.storage, &transaction::id_of(id.as_deref(), parameters)?).await?;
                self.defined("CALL");
                Ok(Outcome::Done("CALL".to_owned()))
            }
            Sentence::Vacuum(target) => {
                self.refuse_in_block("VACUUM")?;
                let notice = vacuum::vacuum(&self.engine.catalog, target.as_ref()).await?;
                self.notice(notice);
                Ok(Outcome::Done("VACUUM".to_owned()))
            }
            Sentence::ShowList(list) => match show::list_query(*list) {
                Some(text) => {
                    let bound = self.bind_text(text).await?;
                    let rows = query::run(&self.engine.catalog, &bound, &[], &Places::new(text), deadline).await?;
                    Ok(Outcome::Rows(Rows { tag: "SHOW", ..rows }))
                }
                None => Ok(Outcome::Rows(show::relations(&self.engine.catalog, relation_list(*list)).into_rows()?)),
            },
            Sentence::Describe(name) => {
                let relation = self.engine.catalog.relation(name)?;
                Ok(Outcome::Rows(show::describe(&relation).into_rows()?))
            }
            Sentence::Declare(declare) => self.declare(declare, prepared, parameters, deadline).await,
            Sentence::Fetch(fetch) => self.fetch(fetch, deadline).await,
            sentence => self.settle(sentence).await,
        }
    }

    /// Sentences about the session itself.
    async fn settle(&mut self, sentence: &Sentence) -> Result<Outcome> {
        match sentence {
            Sentence::ShowSetting(name) => self.show_setting(name.as_deref()),
            Sentence::Set(set) => self.set_setting(set),
            Sentence::Reset(None) => {
                self.settings.reset_all();
                Ok(Outcome::Done("RESET".to_owned()))
            }
            Sentence::Reset(Some(name)) => {
                self.settings.set(name, None, false)?;
                Ok(Outcome::Done("RESET".to_owned()))
            }
            Sentence::Begin => Ok(self.begin()),
            Sentence::Commit => self.commit().await,
            Sentence::Rollback => Ok(self.rollback().await),
            Sentence::Savepoint(name) => self.savepoint(name),
            Sentence::Release(name) => self.release(name),
            Sentence::RollbackTo(name) => self.rollback_to(name),
            Sentence::Close(name) => self.close(name.as_ref()),
            Sentence::Discard => {
                self.refuse_in_block("DISCARD ALL")?;
                self.settings.reset_all();
                self.close(None)?;
                Ok(Outcome::Done("DISCARD ALL".to_owned()))
            }
            Sentence::Deallocate(None) => Ok(Outcome::Done("DEALLOCATE ALL".to_owned())),
            Sentence::Deallocate(Some(_)) => Ok(Outcome::Done("DEALLOCATE".to_owned())),
            _ => Err(Error::new(SqlState::InternalError, "a statement nobody runs")),
        }
    }

    fn refuse_in_block(&self, what: &str) -> Result<()> {
        if self.block.is_none() {
            return Ok(());
        }
        let message = format!("{what} cannot run inside a transaction block");
        Err(Error::new(SqlState::ActiveTransaction, message).with_hint("COMMIT or ROLLBACK first"))
    }

    /// The plan from preparing if the catalog is still the same, else a new one.
    async fn rebound(&self, bound: Option<&Arc<Bound>>, query: &WindowedQuery) -> Result<Arc<Bound>> {
        match bound {
            Some(bound) if bound.catalog_version == self.engine.storage.catalog_version() => Ok(Arc::clone(bound)),
            _ => self.bind(query).await,
        }
    }

    pub(super) async fn query(
        &self,
        query: &WindowedQuery,
        bound: Option<&Arc<Bound>>,
        parameters: &[ScalarValue],
        deadline: Option<Instant>,
    ) -> Result<Rows> {
        match query.emit {
            None => {
                let bound = self.reading(self.rebound(bound, query).await?)?;
                query::run(&self.engine.catalog, &bound, parameters, &query.places, deadline).await
            }
            Some(Emit::Changes) if !parameters.is_empty() => {
                Err(Error::unsupported("parameters in EMIT CHANGES").with_hint("write the values into the statement"))
            }
            Some(Emit::Changes) => {
                let from = self.replay_from(query)?;
                let rows = stream::push(&self.engine.state, &self.engine.catalog, query, from);
                let rows = query::before(deadline, rows).await?;
                Ok(Rows { stream: query::until(rows.stream, deadline, None), ..rows })
            }
            Some(Emit::Final) => {
                Err(Error::unsupported("EMIT FINAL").with_hint("use EMIT CHANGES: every change of a window's row"))
            }
        }
    }

    /// Where a push query begins: as its own WITH says and where that stands, else as `aquifer.replay_from` does, else as
    /// ksqlDB's `auto.offset.reset`.
    fn replay_from(&self, query: &WindowedQuery) -> Result<(ReplayFrom, Option<usize>)> {
        if let Some((from, at)) = ReplayFrom::of(&query.with)? {
            return Ok((from, Some(at)));
        }
        let said = self.settings.get("aquifer.replay_from").filter(|said| !said.is_empty());
        let from = ReplayFrom::read(said.or(self.settings.get("auto_offset_reset")).unwrap_or("latest"))?;
        Ok((from, None))
    }

    async fn explain(&self, explain: &Explain, deadline: Option<Instant>) -> Result<Outcome> {
        if explain.query.emit.is_some() {
            return Err(Error::unsupported("EXPLAIN of a push query").with_hint("leave EMIT CHANGES out"));
        }
        let bound = self.reading(self.bind(&explain.query).await?)?;
        let logical = bound.plan.display_indent().to_string();
        let ready = query::prepare(&self.engine.catalog, &bound, bound.plan.clone(), &explain.query.places).await?;
        Ok(Outcome::Rows(show::explain(explain, logical, ready, deadline).await?.into_rows()?))
    }

    async fn insert(
        &mut self,
        insert: &Insert,
        prepared: &Prepared,
        parameters: &[ScalarValue],
        deadline: Option<Instant>,
    ) -> Result<Outcome> {
        if let Some(conflict) = &insert.conflict {
            return Box::pin(self.insert_or_change(insert, conflict, prepared, parameters, deadline)).await;
        }
        let writer = self.writer(&insert.name).await?;
        let mut targets = targets(writer.relation(), &insert.columns)?;
        let current = self.engine.storage.catalog_version();
        let bound = match prepared.bound.as_ref().filter(|bound| bound.catalog_version == current) {
            Some(bound) => Arc::clone(bound),
            None => self.bind_insert(insert, &mut Default::default()).await?,
        };
        let bound = self.reading(bound)?;
        targets.truncate(bound.plan.schema().fields().len());
        let answer = self.returning_of(&insert.name, insert.returning.as_ref(), prepared).await?;
        let mut returned = self.returned(answer.as_ref(), writer.relation())?;
        let mut writing = self.writing();
        let places = &insert.source.places;
        let rows = self.rows_to_write(&bound, parameters, places);
        let work = async { writer.insert(&targets, rows.await?, &mut writing, returned.as_mut()).await };
        let count = query::before(deadline, work).await?;
        self.write(writing).await?;
        self.inserted((count, returned), answer.as_ref(), insert.returning.as_ref(), deadline).await
    }

    pub(super) async fn rows_to_write(
        &self,
        bound: &Bound,
        parameters: &[ScalarValue],
        places: &Places,
    ) -> Result<SendableRecordBatchStream> {
        if let Some(point) = &bound.point
            && let Some(rows) = point.to_write(bound, parameters).await?
        {
            let schema = rows.schema();
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter([Ok(rows)]))));
        }
        let plan = with_parameters(&bound.plan, parameters)?;
        let ready = query::prepare(&self.engine.catalog, bound, plan, places).await?;
        ready.start()
    }

    /// Where a statement's records go. In a block it is the block's, which fails unless they are given back by
    /// [`Session::write`]; only savepoints have it wait apart, since they may take it back.
    pub(super) fn writing(&mut self) -> Writing {
        match &mut self.block {
            None => Writing::alone(self.engine.storage.clone()),
            Some(block) if block.savepoints.is_empty() => {
                block.failed = true;
                std::mem::take(&mut block.writing)
            }
            Some(_) => Writing::default(),
        }
    }

    /// Commits records, or keeps them for the block's commit.
    pub(super) async fn write(&mut self, writing: Writing) -> Result<()> {
        match &mut self.block {
            None => self.commit_writing(writing).await,
            Some(block) if block.savepoints.is_empty() => {
                block.writing = writing;
                block.failed = false;
                Ok(())
            }
            Some(block) => block.writing.pending.append(writing.pending, pending_bytes_max(&self.engine.storage)),
        }
    }

    async fn commit_writing(&self, writing: Writing) -> Result<()> {
        if writing.is_empty() {
            return Ok(());
        }
        self.commitment.commit()?;
        writing.commit(&self.engine.storage).await
    }

    fn begin(&mut self) -> Outcome {
        if self.block.is_some() {
            let message = "there is already a transaction in progress";
            self.notice(Error::new(SqlState::ActiveTransaction, message));
        } else {
            self.block = Some(Block {
                writing: Writing::of_block(self.engine.storage.clone()),
                settings: self.settings.clone(),
                failed: false,
                cursors_declared: self.cursors_declared,
                savepoints: Vec::new(),
            });
        }
        Outcome::Done("BEGIN".to_owned())
    }

    async fn commit(&mut self) -> Result<Outcome> {
        match self.block.take() {
            None => {
                self.notice(Error::new(SqlState::NoActiveTransaction, "there is no transaction in progress"));
                Ok(Outcome::Done("COMMIT".to_owned()))
            }
            Some(block) if block.failed => {
                self.settings.restore(&block.settings);
                self.forget_cursors(block.cursors_declared);
                self.end_cursors();
                block.writing.abort().await;
                Ok(Outcome::Done("ROLLBACK".to_owned()))
            }
            Some(block) => {
                self.end_cursors();
                if let Err(error) = self.commit_writing(block.writing).await {
                    self.settings.restore(&block.settings);
                    self.forget_cursors(block.cursors_declared);
                    return Err(error);
                }
                self.settings.end_block();
                Ok(Outcome::Done("COMMIT".to_owned()))
            }
        }
    }

    async fn rollback(&mut self) -> Outcome {
        match self.block.take() {
            None => self.notice(Error::new(SqlState::NoActiveTransaction, "there is no transaction in progress")),
            Some(block) => {
                self.settings.restore(&block.settings);
                self.forget_cursors(block.cursors_declared);
                self.end_cursors();
                block.writing.abort().await;
            }
        }
        Outcome::Done("ROLLBACK".to_owned())
    }

    /// A definition's answer.
    fn defined_with(&mut self, tag: String, notices: Vec<Error>) -> Outcome {
        notices.into_iter().for_each(|notice| self.notice(notice));
        self.defined(&tag);
        Outcome::Done(tag)
    }

    /// Tells that a definition does not wait for the block's end.
    fn defined(&mut self, tag: &str) {
        if self.block.is_some() {
            let message = format!("{tag} took effect at once");
            self.notice(
                Error::new(SqlState::SuccessfulCompletion, message)
                    .with_hint("ROLLBACK will not undo it: only records wait for COMMIT"),
            );
        }
    }

    async fn terminate(&mut self, name: Option<&Name>) -> Result<Outcome> {
        let names: Vec<String> = match name {
            Some(name) => vec![name.value.clone()],
            None => self.engine.supervisor.status().into_iter().map(|query| query.name).collect(),
        };
        for name in names {
            self.engine.supervisor.terminate(&name).await?;
        }
        Ok(Outcome::Done("TERMINATE".to_owned()))
    }

    fn show_setting(&self, name: Option<&str>) -> Result<Outcome> {
        let Some(name) = name else {
            let mut table = TextTable::new(show::SETTING_COLUMNS, "SHOW");
            for row in self.ground().system.all_settings() {
                table.push(vec![Some(row.name), Some(row.value), Some(row.reason), Some(row.unit)]);
            }
            return Ok(Outcome::Rows(table.into_rows()?));
        };
        let (name, value) = self.setting(name)?;
        Ok(Outcome::Rows(show::one_value(&name, value)?))
    }

    fn set_setting(&mut self, set: &SetSetting) -> Result<Outcome> {
        if self.settings.get(&set.name).is_none()
            && let Some(info) = self.engine.node_settings.iter().find(|info| info.name.eq_ignore_ascii_case(&set.name))
        {
            let message = format!("parameter \"{}\" cannot be changed now", info.name);
            let hint = format!(
                "it is the node's: set it as AQUIFER_{}, or in the file that --config names, and restart",
                info.name.replace('.', "_").to_uppercase()
            );
            return Err(Error::new(SqlState::CannotChangeParameter, message).with_hint(hint));
        }
        if set.name == "aquifer.replay_from"
            && let Some(said) = set.value.as_deref().filter(|said| !said.is_empty())
        {
            ReplayFrom::read(said)?;
        }
        if set.local && self.block.is_none() {
            self.notice(Error::new(SqlState::NoActiveTransaction, "SET LOCAL can only be used in transaction blocks"));
            return Ok(Outcome::Done("SET".to_owned()));
        }
        self.settings.set(&set.name, set.value.as_deref(), set.local)?;
        if set.name == "timezone" && set.value.as_deref().is_some_and(|zone| !is_utc(zone)) {
            let message = "TimeZone stays UTC: times without a zone are read as UTC, and all are shown in it";
            let notice = Error::new(SqlState::FeatureNotSupported, message);
            self.notice(
                notice.with_hint("write '2024-01-01 00:00:00 Europe/Berlin', show ts AT TIME ZONE 'Europe/Berlin'"),
            );
        }
        Ok(Outcome::Done("SET".to_owned()))
    }
}

fn is_utc(zone: &str) -> bool {
    ["utc", "gmt", "etc/utc", "zulu", "+00", "+00:00", "0"].contains(&zone.to_lowercase().as_str())
}
