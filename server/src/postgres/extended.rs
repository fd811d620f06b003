//! The extended protocol: statements prepared once, portals bound and read in parts. An error passes over everything
//! up to Sync.

use std::collections::HashMap;
use std::sync::Arc;

use aquifer_sql::error::{Error, Result, SqlState};
use aquifer_sql::session::{Column, Outcome, Prepared, TransactionStatus};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended};
use pgwire::messages::response::EmptyQueryResponse;

use super::connection::Connection;
use super::cursor::{Cursor, Interrupts, flush};
use super::errors::Stop;
use super::frame::{Bind, Framed, Request, Target};
use super::rows::{Format, describe};
use super::{oids, parameters};

/// Prepared statements a connection may keep.
const STATEMENTS_MAX: usize = 8192;
/// Portals a connection may keep open.
const PORTALS_MAX: usize = 1024;

/// A statement by name. `prepared` is `None` for the empty text.
#[derive(Debug)]
struct Named {
    prepared: Option<Arc<Prepared>>,
    parameter_oids: Vec<u32>,
}

/// How far a portal is.
#[derive(Debug)]
enum State {
    Bound(Vec<ScalarValue>),
    Open(Box<Cursor>),
    /// All of it was read, or it had nothing to read.
    Done(&'static str),
}

#[derive(Debug)]
struct Portal {
    statement: Arc<Named>,
    format: Format,
    state: State,
}

/// What the extended protocol remembers of a connection.
#[derive(Debug, Default)]
pub(crate) struct Extended {
    statements: HashMap<String, Arc<Named>>,
    portals: HashMap<String, Portal>,
    skipping: bool,
    /// A message has come, and no Sync behind it.
    in_round: bool,
}

impl Extended {
    /// Whether a message is passed over, because one before it failed and Sync has not come.
    pub(crate) fn skips(&self, framed: &Framed) -> bool {
        self.skipping && !matches!(framed.request, Ok(Request::Sync | Request::Terminate))
    }

    /// Whether a round of messages is under way.
    pub(crate) fn awaits_sync(&self) -> bool {
        self.in_round
    }

    /// A message failed.
    pub(crate) fn failed(&mut self, extended: bool) {
        self.skipping = extended;
    }

    /// A simple query does away with the unnamed statement and portal.
    pub(crate) fn forget_unnamed(&mut self) {
        self.statements.remove("");
        self.portals.remove("");
    }
}

impl Connection {
    /// The end of a row of messages: portals do not outlive their transaction.
    pub(crate) async fn sync(&mut self) {
        self.extended.skipping = false;
        self.extended.in_round = false;
        if self.worker.session().await.transaction_status() == TransactionStatus::Idle {
            self.extended.portals.clear();
        }
    }

    /// Answers one message of the extended protocol but Sync.
    pub(crate) async fn extended_request(&mut self, request: Request) -> Result<(), Stop> {
        let running = self.place.begin();
        let interrupts = self.interrupts(running.token.clone());
        self.extended.in_round = true;
        match request {
            Request::Parse { name, query, type_oids } => self.parse(name, &query, &type_oids, &interrupts).await,
            Request::Bind(bind) => Ok(self.bind(&bind)?),
            Request::Describe(target, name) => Ok(self.describe(target, &name).await?),
            Request::Execute { portal, rows_max } => self.execute(portal, rows_max, &interrupts).await,
            Request::Close(target, name) => Ok(self.forget(target, &name).await?),
            Request::Flush => flush(&mut self.wire, &interrupts, false).await,
            Request::Query(_)
            | Request::Sync
            | Request::Terminate
            | Request::CopyData(_)
            | Request::CopyDone
            | Request::CopyFail(_) => Ok(()),
        }
    }

    async fn parse(
        &mut self,
        name: String,
        query: &str,
        type_oids: &[u32],
        interrupts: &Interrupts,
    ) -> Result<(), Stop> {
        if name.is_empty() {
            self.extended.statements.remove("");
        } else if self.extended.statements.contains_key(&name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(Error::new(SqlState::DuplicatePreparedStatement, message).into());
        }
        if self.extended.statements.len() >= STATEMENTS_MAX {
            return Err(too_many("prepared statements", STATEMENTS_MAX).into());
        }
        let mut statements = self.worker.session().await.parse(query)?;
        let prepared = match (statements.pop(), statements.is_empty()) {
            (None, _) => None,
            (Some(statement), true) => {
                let types: Vec<Option<DataType>> = type_oids.iter().map(|oid| oids::arrow_of(*oid)).collect();
                tokio::select! {
                    biased;
                    stop = interrupts.stop(&mut self.wire, false) => return Err(stop),
                    prepared = self.worker.prepare(statement, types) => Some(Arc::new(prepared?)),
                }
            }
            (Some(_), false) => {
                let message = "cannot insert multiple commands into a prepared statement";
                return Err(Error::new(SqlState::SyntaxError, message).with_hint("send them one by one").into());
            }
        };
        let inferred = prepared.iter().flat_map(|prepared| prepared.parameters.iter().zip(&prepared.parameter_oids));
        let parameter_oids = inferred
            .enumerate()
            .map(|(index, (arrow, known))| match type_oids.get(index) {
                None | Some(0 | &oids::UNKNOWN) => known.unwrap_or_else(|| oids::oid_of(arrow)),
                Some(oid) => *oid,
            })
            .collect();
        self.extended.statements.insert(name, Arc::new(Named { prepared, parameter_oids }));
        Ok(self.wire.put(&PgWireBackendMessage::ParseComplete(ParseComplete::new()))?)
    }

    fn statement_named(&self, name: &str) -> Result<Arc<Named>> {
        self.extended.statements.get(name).map(Arc::clone).ok_or_else(|| {
            let message = match name {
                "" => "unnamed prepared statement does not exist".to_owned(),
                name => format!("prepared statement \"{name}\" does not exist"),
            };
            Error::new(SqlState::InvalidStatementName, message)
        })
    }

    fn bind(&mut self, bind: &Bind) -> Result<()> {
        let statement = self.statement_named(&bind.statement)?;
        if bind.portal.is_empty() {
            self.extended.portals.remove("");
        } else if self.extended.portals.contains_key(&bind.portal) {
            let message = format!("cursor \"{}\" already exists", bind.portal);
            return Err(Error::new(SqlState::DuplicateCursor, message));
        }
        if self.extended.portals.len() >= PORTALS_MAX {
            return Err(too_many("portals", PORTALS_MAX));
        }
        let values = values_of(bind, &statement)?;
        let columns = statement.prepared.as_ref().and_then(|prepared| prepared.columns.as_ref()).map_or(0, Vec::len);
        let format = Format::of(&bind.result_formats, columns)?;
        self.extended.portals.insert(bind.portal.clone(), Portal { statement, format, state: State::Bound(values) });
        self.wire.put(&PgWireBackendMessage::BindComplete(BindComplete::new()))
    }

    async fn describe(&mut self, target: Target, name: &str) -> Result<()> {
        let (statement, formats) = match target {
            Target::Statement => {
                let statement = self.statement_named(name)?;
                let types = statement.parameter_oids.clone();
                self.wire.put(&PgWireBackendMessage::ParameterDescription(ParameterDescription::new(types)))?;
                (statement, None)
            }
            Target::Portal => {
                let Some(portal) = self.extended.portals.get(name) else {
                    // A cursor that was declared is a portal, too.
                    let session = self.worker.session().await;
                    let message = session.cursor_columns(name).map(|columns| describe(columns, None));
                    drop(session);
                    return self.wire.put(&message.ok_or_else(|| no_portal(name))?);
                };
                let formats = match &portal.format {
                    Format::Values(formats) => Some(formats.clone()),
                    Format::Copy(_) => None,
                };
                (Arc::clone(&portal.statement), formats)
            }
        };
        let message = match statement.prepared.as_ref().and_then(|prepared| prepared.columns.as_ref()) {
            Some(columns) => describe(columns, formats.as_deref()),
            None => PgWireBackendMessage::NoData(NoData::new()),
        };
        self.wire.put(&message)
    }

    async fn execute(&mut self, name: String, rows_max: usize, interrupts: &Interrupts) -> Result<(), Stop> {
        // Taken out while it runs: what fails is gone.
        let mut portal = self.extended.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
        let finished = self.advance(&mut portal, rows_max, interrupts).await?;
        portal.state = finished;
        self.extended.portals.insert(name, portal);
        Ok(())
    }

    async fn advance(&mut self, portal: &mut Portal, rows_max: usize, interrupts: &Interrupts) -> Result<State, Stop> {
        let cursor = match std::mem::replace(&mut portal.state, State::Done("SELECT")) {
            State::Open(cursor) => cursor,
            State::Done(tag) => {
                self.complete(tag, Some(0)).await?;
                return Ok(State::Done(tag));
            }
            State::Bound(values) => {
                let Some(prepared) = &portal.statement.prepared else {
                    self.wire.put(&PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))?;
                    return Ok(State::Done("SELECT"));
                };
                let stop = interrupts.stop(&mut self.wire, false);
                let outcome = self.worker.execute(Arc::clone(prepared), values, stop).await??;
                match outcome {
                    Outcome::Rows(rows) => {
                        as_described(&rows.columns, prepared.columns.as_deref())?;
                        Box::new(Cursor::start(rows, self.zone, self.worker.compute()))
                    }
                    Outcome::CopyOut(rows, format) => {
                        self.copy_out(rows, format, interrupts).await?;
                        return Ok(State::Done("COPY"));
                    }
                    Outcome::CopyIn(copy) => {
                        self.copy_in(*copy, interrupts).await?;
                        return Ok(State::Done("COPY"));
                    }
                    Outcome::Done(tag) => {
                        self.complete(&tag, None).await?;
                        return Ok(State::Done("SELECT"));
                    }
                    Outcome::Empty => {
                        self.wire.put(&PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))?;
                        return Ok(State::Done("SELECT"));
                    }
                }
            }
        };
        self.fetch(cursor, &portal.format, rows_max, interrupts).await
    }

    async fn fetch(
        &mut self,
        mut cursor: Box<Cursor>,
        format: &Format,
        rows_max: usize,
        interrupts: &Interrupts,
    ) -> Result<State, Stop> {
        let sent = cursor.send(&mut self.wire, format, rows_max, interrupts).await?;
        if sent.complete {
            self.complete(cursor.tag, Some(sent.rows)).await?;
            return Ok(State::Done(cursor.tag));
        }
        self.wire.put(&PgWireBackendMessage::PortalSuspended(PortalSuspended::new()))?;
        Ok(State::Open(cursor))
    }

    async fn forget(&mut self, target: Target, name: &str) -> Result<()> {
        match target {
            Target::Statement => drop(self.extended.statements.remove(name)),
            // A cursor that was declared is a portal, too.
            Target::Portal => match self.extended.portals.remove(name) {
                Some(portal) => drop(portal),
                None => self.worker.session().await.close_cursor(name),
            },
        }
        self.wire.put(&PgWireBackendMessage::CloseComplete(CloseComplete::new()))
    }
}

fn no_portal(name: &str) -> Error {
    Error::new(SqlState::InvalidCursorName, format!("portal \"{name}\" does not exist"))
        .with_hint("portals end with their transaction; BEGIN keeps them over Sync")
}

fn too_many(what: &str, max: usize) -> Error {
    Error::new(SqlState::ProgramLimitExceeded, format!("a connection keeps at most {max} {what}"))
        .with_hint("close some")
}

/// The values that a Bind message brings, as its statement wants them.
fn values_of(bind: &Bind, statement: &Named) -> Result<Vec<ScalarValue>> {
    let wanted = statement.prepared.as_ref().map_or(&[][..], |prepared| &prepared.parameters);
    let (given, formats) = (bind.parameters.len(), bind.parameter_formats.len());
    if given != wanted.len() {
        let (name, count) = (&bind.statement, wanted.len());
        let message =
            format!("bind message supplies {given} parameters, but prepared statement \"{name}\" requires {count}");
        return Err(Error::new(SqlState::ProtocolViolation, message));
    }
    if formats > 1 && formats != given {
        let message = format!("bind message has {formats} parameter formats but {given} parameters");
        return Err(Error::new(SqlState::ProtocolViolation, message));
    }
    let format_of = |index: usize| match bind.parameter_formats.as_slice() {
        [] => 0,
        [all] => *all,
        each => each.get(index).copied().unwrap_or(0),
    };
    let typed = wanted.iter().zip(&statement.parameter_oids);
    bind.parameters
        .iter()
        .zip(typed)
        .enumerate()
        .map(|(index, (value, (arrow, oid)))| parameters::decode(value.as_ref(), format_of(index), *oid, arrow))
        .collect()
}

/// A client reads what it was told; definitions may have changed since.
fn as_described(columns: &[Column], described: Option<&[Column]>) -> Result<()> {
    let same = described.is_some_and(|described| {
        described.len() == columns.len() && described.iter().zip(columns).all(|(told, now)| told.oid == now.oid)
    });
    if same {
        return Ok(());
    }
    Err(Error::new(SqlState::FeatureNotSupported, "cached plan must not change result type")
        .with_hint("prepare the statement again"))
}
