//! `Session`: what one connection may say and hears back. One session state per connection: settings, the open
//! transaction block, notices.
//!
//! A protocol calls [`Session::parse`] once per query text, then per statement [`Session::prepare`] and
//! [`Session::execute`]. It never looks into a statement.

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;

use crate::error::{Error, Result};

/// One parsed statement, opaque to protocols.
#[derive(Clone, Debug)]
pub struct Statement {}

/// A statement that has been planned far enough to know its parameters and columns.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Arrow type of `$1`, `$2`, …; inferred where the client did not say, Utf8 where nothing says.
    pub parameters: Vec<DataType>,
    /// Result columns; `None` if it returns no rows.
    pub columns: Option<Vec<Column>>,
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
    /// `COPY (query) TO STDOUT`: rows in COPY's text format.
    CopyOut(Rows),
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

/// What one connection is.
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// Splits a query text into statements and parses each.
    ///
    /// # Errors
    /// 42601 with the position.
    pub fn parse(&self, sql: &str) -> Result<Vec<Statement>> {
        let _ = sql;
        todo!("session")
    }

    /// Plans a statement; `parameter_types` are those the client named.
    ///
    /// # Errors
    /// What planning says.
    pub async fn prepare(&self, statement: &Statement, parameter_types: &[Option<DataType>]) -> Result<Prepared> {
        let _ = (statement, parameter_types);
        todo!("session")
    }

    /// Runs a prepared statement. An error inside a block makes it [`TransactionStatus::Failed`].
    /// Dropping the future or the rows cancels the work.
    ///
    /// # Errors
    /// What planning or running says.
    pub async fn execute(&mut self, prepared: &Prepared, parameters: Vec<ScalarValue>) -> Result<Outcome> {
        let _ = (prepared, parameters);
        todo!("session")
    }

    /// Whether a block is open. An error while rows stream is told by [`Session::fail_transaction`].
    #[must_use]
    pub fn transaction_status(&self) -> TransactionStatus {
        TransactionStatus::Idle
    }

    /// Tells the session that the protocol failed while it sent rows.
    pub fn fail_transaction(&mut self) {}

    /// Notices since the last call, for `NoticeResponse`.
    pub fn take_notices(&mut self) -> Vec<Error> {
        Vec::new()
    }

    /// Settings a client must be told of (`ParameterStatus`), changed since the last call; at first all of them:
    /// server_version, server_encoding, client_encoding, standard_conforming_strings, integer_datetimes, DateStyle,
    /// TimeZone, application_name, is_superuser, session_authorization, in_hot_standby, default_transaction_read_only.
    pub fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// A setting named in the startup message.
    ///
    /// # Errors
    /// 42704, 22023.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let _ = (name, value);
        todo!("session")
    }

    /// The schema a stream of [`Rows`] has, for encoders.
    #[must_use]
    pub fn schema_of(rows: &Rows) -> SchemaRef {
        rows.stream.schema()
    }
}
