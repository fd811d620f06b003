//! `Session`: what one connection may say and hears back. One session state per connection: settings, the open
//! transaction block, notices.
//!
//! A protocol calls [`Session::parse`] once per query text, then per statement [`Session::prepare`] and
//! [`Session::execute`]. It never looks into a statement.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use parking_lot::Mutex;

use crate::catalog::sessions::{Active, Presence};
use crate::engine::{Inner, SessionOptions};
use crate::error::{Error, Result, SqlState};
use crate::plan::bind::Bound;
use crate::run::insert::Writing;
use crate::run::values::DirectInsert;
use crate::settings::SessionSettings;
use crate::statement::{Parsed, Sentence, parse};

mod change;
mod commitment;
mod conflict;
mod declared;
mod execute;
mod prepare;
mod reading;
mod savepoint;
mod write;

pub use commitment::Commitment;

pub use crate::run::copy::CopyIn;
pub use crate::statement::copy::CopyFormat;

/// One parsed statement, opaque to protocols.
#[derive(Clone, Debug)]
pub struct Statement {
    parsed: Arc<Parsed>,
}

/// A statement that has been planned far enough to know its parameters and columns.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Arrow type of `$1`, `$2`, …; inferred where the client did not say, Utf8 where nothing says.
    pub parameters: Vec<DataType>,
    /// Postgres's type of those that go to a declared column, where Arrow has one type for several (jsonb, uuid, text).
    pub parameter_oids: Vec<Option<u32>>,
    /// Result columns; `None` if it returns no rows.
    pub columns: Option<Vec<Column>>,
    parsed: Arc<Parsed>,
    bound: Option<Arc<Bound>>,
    /// RETURNING's.
    returning: Option<Arc<Bound>>,
    direct: Option<Arc<DirectInsert>>,
    /// What ON CONFLICT changes.
    update: Option<Arc<conflict::Planned>>,
}

/// Values of one INSERT that are computed where sockets are served, at the most.
const LIGHT_CELLS_MAX: usize = 256;

impl Prepared {
    /// Whether running it computes next to nothing before it waits for its commit, if for anything.
    #[must_use]
    pub fn is_light(&self) -> bool {
        match &self.parsed.sentence {
            Sentence::InsertValues(insert) => self.direct.is_some() && insert.cells.len() <= LIGHT_CELLS_MAX,
            Sentence::Begin | Sentence::Empty => true,
            _ => false,
        }
    }
}

/// One result column as a protocol describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// As Postgres would name it (`count`, `?column?`).
    pub name: String,
    /// Arrow type of its arrays.
    pub arrow: DataType,
    /// Postgres's type OID.
    pub oid: u32,
    /// Postgres's type modifier, -1 if none.
    pub type_modifier: i32,
    /// OID of the relation the column comes from, 0 if none.
    pub table_oid: u32,
    /// Its number there, from 1, 0 if none.
    pub column_number: i16,
}

/// What a statement answers.
pub enum Outcome {
    /// Rows.
    Rows(Rows),
    /// `COPY (query) TO STDOUT`: rows in that format.
    CopyOut(Rows, CopyFormat),
    /// `COPY name FROM STDIN`: takes the client's data, and ends with [`Session::end_copy`].
    CopyIn(Box<CopyIn>),
    /// No rows; the command tag, as `INSERT 0 3`.
    Done(String),
    /// The empty statement.
    Empty,
}

/// A result.
pub struct Rows {
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its batches; the arrays have the types of `columns`.
    pub stream: SendableRecordBatchStream,
    /// A push query: every batch is to be sent at once, it ends by cancel only.
    pub live: bool,
    /// The tag's word: `SELECT`, `SHOW`, `EXPLAIN`, `INSERT 0` (RETURNING), `COPY`; the count is the protocol's to add.
    pub tag: &'static str,
}

impl Rows {
    /// The same rows; the statement goes on until they are read or dropped.
    fn watched(self, active: Active) -> Self {
        let schema = self.stream.schema();
        let stream = self.stream.map(move |batch| {
            let _ = &active;
            batch
        });
        Self { stream: Box::pin(RecordBatchStreamAdapter::new(schema, stream)), ..self }
    }
}

/// As `ReadyForQuery` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// No block.
    Idle,
    /// In a block.
    InBlock,
    /// In a block that failed: everything but ROLLBACK is 25P02.
    Failed,
}

/// An open transaction block.
#[derive(Debug)]
struct Block {
    /// What its INSERTs, UPDATEs and DELETEs will commit.
    writing: Writing,
    /// Settings from before it.
    settings: SessionSettings,
    failed: bool,
    /// Cursors that the session had declared before it.
    cursors_declared: u64,
    /// Places it can go back to, first to last.
    savepoints: Vec<savepoint::Savepoint>,
}

/// What one connection is.
#[derive(Debug)]
pub struct Session {
    engine: Arc<Inner>,
    options: SessionOptions,
    settings: SessionSettings,
    block: Option<Block>,
    notices: Vec<Error>,
    /// What it is shown of itself and the catalog, until either changes.
    shown: Mutex<Option<prepare::Shown>>,
    /// Of the statement that runs.
    commitment: Commitment,
    /// Among all sessions.
    presence: Presence,
    /// A COPY that takes the client's data.
    copying: Option<Active>,
    cursors: Vec<declared::Declared>,
    /// Cursors that there ever were.
    cursors_declared: u64,
}

/// Notices kept until the protocol takes them; further ones are dropped.
const NOTICES_MAX: usize = 1000;

impl Session {
    pub(crate) fn new(engine: Arc<Inner>, options: SessionOptions) -> Self {
        let settings = SessionSettings::new(&options.user, &options.application_name);
        let SessionOptions { user, application_name, client_addr, backend_pid, .. } = &options;
        let clock = engine.storage.clock();
        let presence = engine.sessions.enter(clock, *backend_pid, user, application_name, client_addr);
        Self {
            engine,
            options,
            settings,
            block: None,
            notices: Vec::new(),
            shown: Mutex::new(None),
            commitment: Commitment::default(),
            presence,
            copying: None,
            cursors: Vec::new(),
            cursors_declared: 0,
        }
    }

    /// Says by what the next statement can be given up from outside until its commit is with the log.
    pub fn begin_statement(&mut self, commitment: Commitment) {
        self.commitment = commitment;
    }

    /// Splits a query text into statements and parses each.
    ///
    /// # Errors
    /// 42601 with the position.
    pub fn parse(&self, sql: &str) -> Result<Vec<Statement>> {
        let parsed = parse::parse(sql)?;
        Ok(parsed.into_iter().map(|parsed| Statement { parsed: Arc::new(parsed) }).collect())
    }

    /// Plans a statement; `parameter_types` are those the client named.
    ///
    /// # Errors
    /// What planning says.
    pub async fn prepare(&self, statement: &Statement, parameter_types: &[Option<DataType>]) -> Result<Prepared> {
        self.refuse_in_failed_block(&statement.parsed)?;
        self.prepare_parsed(&statement.parsed, parameter_types).await
    }

    /// Runs a prepared statement. An error inside a block makes it [`TransactionStatus::Failed`].
    /// Dropping the future or the rows cancels the work, but not a commit that is with the log: see [`Commitment`].
    ///
    /// # Errors
    /// What planning or running says.
    pub async fn execute(&mut self, prepared: &Prepared, parameters: Vec<ScalarValue>) -> Result<Outcome> {
        let name = self.settings.get("application_name").unwrap_or_default();
        let active = self.presence.begin(&prepared.parsed, name);
        self.copying = None;
        let result = match self.refuse_in_failed_block(&prepared.parsed) {
            Ok(()) => self.execute_parsed(prepared, &parameters).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.fail_transaction();
        }
        self.tell_idle();
        // Until its rows are read, or its data is sent.
        match result {
            Ok(Outcome::Rows(rows)) => Ok(Outcome::Rows(rows.watched(active))),
            Ok(Outcome::CopyOut(rows, format)) => Ok(Outcome::CopyOut(rows.watched(active), format)),
            Ok(Outcome::CopyIn(copy)) => {
                self.copying = Some(active);
                Ok(Outcome::CopyIn(copy))
            }
            other => other,
        }
    }

    /// Says to others what this session is between statements.
    fn tell_idle(&self) {
        self.presence.set_idle(match self.transaction_status() {
            TransactionStatus::Idle => "idle",
            TransactionStatus::InBlock => "idle in transaction",
            TransactionStatus::Failed => "idle in transaction (aborted)",
        });
    }

    /// Whether a block is open. An error while rows stream is told by [`Session::fail_transaction`].
    #[must_use]
    pub fn transaction_status(&self) -> TransactionStatus {
        match &self.block {
            None => TransactionStatus::Idle,
            Some(Block { failed: false, .. }) => TransactionStatus::InBlock,
            Some(Block { failed: true, .. }) => TransactionStatus::Failed,
        }
    }

    /// Tells the session that the protocol failed while it sent rows.
    pub fn fail_transaction(&mut self) {
        if let Some(block) = &mut self.block {
            block.failed = true;
        }
        self.tell_idle();
    }

    /// Notices since the last call, for `NoticeResponse`.
    pub fn take_notices(&mut self) -> Vec<Error> {
        let notices = std::mem::take(&mut self.notices);
        let quiet = matches!(self.settings.get("client_min_messages"), Some("warning" | "error"));
        if quiet { Vec::new() } else { notices }
    }

    /// Settings a client must be told of (`ParameterStatus`), changed since the last call; at first all of them:
    /// server_version, server_encoding, client_encoding, standard_conforming_strings, integer_datetimes, DateStyle,
    /// TimeZone, application_name, is_superuser, session_authorization, in_hot_standby, default_transaction_read_only.
    pub fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        self.settings.take_changes()
    }

    /// A setting named in the startup message.
    ///
    /// # Errors
    /// 42704, 22023.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.settings.set_at_startup(name, value)
    }

    /// The schema a stream of [`Rows`] has, for encoders.
    #[must_use]
    pub fn schema_of(rows: &Rows) -> SchemaRef {
        rows.stream.schema()
    }

    fn notice(&mut self, notice: Error) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(notice);
        }
    }

    fn refuse_in_failed_block(&self, parsed: &Parsed) -> Result<()> {
        let ends = matches!(
            parsed.sentence,
            Sentence::Rollback | Sentence::RollbackTo(_) | Sentence::Commit | Sentence::Empty
        );
        if self.transaction_status() != TransactionStatus::Failed || ends {
            return Ok(());
        }
        let message = "current transaction is aborted, commands ignored until end of transaction block";
        Err(Error::new(SqlState::InFailedTransaction, message).with_hint("send ROLLBACK"))
    }
}
