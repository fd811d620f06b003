//! Continuous queries and push queries: SELECTs that go on.

mod job;
mod position;
mod reader;
mod sink;
mod source;
mod tick;

use std::sync::Arc;

use datafusion::execution::session_state::SessionState;

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::session::Rows;
use crate::statement::{CreateAsSelect, WindowedQuery};

/// A row of `aquifer.queries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueryStatus {
    /// The relation it writes.
    pub(crate) name: String,
    /// As written.
    pub(crate) statement: String,
    /// `running`, `failed`, `terminated`.
    pub(crate) state: String,
    /// Why it failed.
    pub(crate) error: Option<String>,
    /// Offsets per source partition, as JSON.
    pub(crate) position: String,
    /// Records it has not read yet.
    pub(crate) lag_records: i64,
    /// When it was started, us.
    pub(crate) started_at_us: i64,
}

/// Runs the continuous queries of one engine.
#[derive(Debug)]
pub(crate) struct Supervisor {
    catalog: Arc<Catalog>,
}

impl Supervisor {
    /// Of that catalog; nothing runs yet.
    pub(crate) fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog }
    }

    /// Starts every query there is a definition of. `session` is a state with all functions, for planning.
    ///
    /// # Errors
    /// Only what makes all of them impossible; a query that cannot start is `failed` in [`Supervisor::status`].
    pub(crate) async fn start_all(&self, session: &SessionState) -> Result<()> {
        let _ = (session, &self.catalog);
        Ok(())
    }

    /// Makes topic, relation and query in one commit and starts the query; answers the command tag.
    ///
    /// # Errors
    /// What planning says.
    pub(crate) async fn create(&self, session: &SessionState, create: &CreateAsSelect) -> Result<String> {
        let _ = (session, create);
        Err(Error::unsupported("CREATE … AS SELECT").with_hint("CREATE STREAM with columns, and INSERT … SELECT"))
    }

    /// Ends a query for good and removes its definition; its relation and what it has written stay.
    ///
    /// # Errors
    /// 42704 if there is none.
    pub(crate) async fn terminate(&self, name: &str) -> Result<()> {
        Err(Error::new(crate::error::SqlState::UndefinedObject, format!("query \"{name}\" does not exist")))
    }

    /// All queries, by name.
    pub(crate) fn status(&self) -> Vec<QueryStatus> {
        Vec::new()
    }

    /// Stops all of them; definitions and positions stay.
    pub(crate) async fn close(&self) {}
}

/// Starts `SELECT … EMIT CHANGES`; `from_start` reads history first (`auto_offset_reset = 'earliest'`).
///
/// # Errors
/// What planning says.
pub(crate) async fn push(
    session: &SessionState,
    catalog: &Arc<Catalog>,
    query: &WindowedQuery,
    from_start: bool,
) -> Result<Rows> {
    let _ = (session, catalog, query, from_start);
    Err(Error::unsupported("EMIT CHANGES").with_hint("leave it out: a SELECT that ends shows what is there now"))
}
