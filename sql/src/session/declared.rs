//! Cursors: a query that was declared, as far as it was fetched. Its rows are those of the moment of DECLARE, and are computed
//! as they are fetched. One ends with its block unless it was declared WITH HOLD, and with its session always.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Column, Outcome, Prepared, Rows, Session};
use crate::error::{Error, Result, SqlState};
use crate::run::query::{before, until};
use crate::statement::Name;
use crate::statement::declare::{Declare, Fetch};

/// Cursors that a session may have open: each keeps what its query needs.
const CURSORS_MAX: usize = 64;

/// How long a FETCH waits for the one before it to end.
const FETCH_WAIT: Duration = Duration::from_secs(1);

/// One cursor.
#[derive(Debug)]
pub(super) struct Declared {
    name: String,
    columns: Vec<Column>,
    schema: SchemaRef,
    holds: bool,
    /// Of all that the session has declared.
    number: u64,
    rest: Arc<Home>,
}

/// Where what was not fetched is while nobody fetches.
#[derive(Debug)]
struct Home {
    rest: Mutex<Rest>,
    /// A FETCH has ended.
    given_back: Notify,
}

/// What of its rows was not fetched.
enum Rest {
    /// The next batch may have been begun.
    Left(SendableRecordBatchStream, Option<RecordBatch>),
    /// A FETCH has them, which has not ended.
    Taken,
    Nothing,
    /// It failed.
    Broken,
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Left(..) => "Left",
            Self::Taken => "Taken",
            Self::Nothing => "Nothing",
            Self::Broken => "Broken",
        })
    }
}

/// What one FETCH takes; what it leaves goes back when it ends. One that is given up in the middle has taken rows that nobody
/// has seen, and nobody knows how many: its cursor is broken, and its query ends.
struct Portion {
    home: Arc<Home>,
    rest: Rest,
    rows_left: u64,
    begun: bool,
}

impl Portion {
    async fn next(&mut self) -> datafusion::error::Result<Option<RecordBatch>> {
        if self.rows_left == 0 {
            return Ok(None);
        }
        self.begun = true;
        let Rest::Left(stream, begun) = &mut self.rest else { return Ok(None) };
        let batch = match begun.take() {
            Some(batch) => Some(batch),
            None => match stream.try_next().await {
                Ok(batch) => batch,
                Err(error) => {
                    self.rest = Rest::Broken;
                    return Err(error);
                }
            },
        };
        let Some(batch) = batch else {
            self.rest = Rest::Nothing;
            return Ok(None);
        };
        let taken = usize::try_from(self.rows_left).unwrap_or(usize::MAX).min(batch.num_rows());
        if taken < batch.num_rows() {
            *begun = Some(batch.slice(taken, batch.num_rows() - taken));
        }
        self.rows_left -= taken as u64;
        Ok(Some(batch.slice(0, taken)))
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        let is_whole = !self.begun || self.rows_left == 0 || !matches!(self.rest, Rest::Left(..));
        let left = if is_whole { std::mem::replace(&mut self.rest, Rest::Taken) } else { Rest::Broken };
        *self.home.rest.lock() = left;
        self.home.given_back.notify_one();
    }
}

impl Home {
    /// Takes what is left, for a FETCH; or says why it cannot.
    async fn take(&self) -> std::result::Result<Rest, &'static str> {
        loop {
            let given_back = self.given_back.notified();
            let taken = {
                let mut rest = self.rest.lock();
                match *rest {
                    Rest::Taken => None,
                    Rest::Broken => return Err("has failed, or a FETCH from it was given up"),
                    Rest::Left(..) | Rest::Nothing => Some(std::mem::replace(&mut *rest, Rest::Taken)),
                }
            };
            if let Some(taken) = taken {
                return Ok(taken);
            }
            // One that was cancelled ends soon, one of a portal that is suspended does not.
            if tokio::time::timeout(FETCH_WAIT, given_back).await.is_err() {
                return Err("has a FETCH that has not ended");
            }
        }
    }
}

impl Session {
    pub(super) async fn declare(
        &mut self,
        declare: &Declare,
        prepared: &Prepared,
        parameters: &[ScalarValue],
        deadline: Option<Instant>,
    ) -> Result<Outcome> {
        let name = &declare.name;
        if self.block.is_none() && !declare.holds {
            let message = "DECLARE CURSOR can only be used in transaction blocks";
            return Err(Error::new(SqlState::NoActiveTransaction, message)
                .with_position(name.position)
                .with_hint("send BEGIN first, or declare it WITH HOLD"));
        }
        if self.cursor(&name.value).is_some() {
            let message = format!("cursor \"{}\" already exists", name.value);
            return Err(Error::new(SqlState::DuplicateCursor, message).with_position(name.position));
        }
        if self.cursors.len() >= CURSORS_MAX {
            let message = format!("a session has at most {CURSORS_MAX} cursors");
            return Err(Error::new(SqlState::ProgramLimitExceeded, message).with_hint("CLOSE some"));
        }
        // Each FETCH has its own time.
        let rows = Box::pin(self.query(&declare.query, prepared.bound.as_ref(), parameters, None));
        let Rows { columns, stream, .. } = before(deadline, rows).await?;
        self.cursors_declared += 1;
        self.cursors.push(Declared {
            name: name.value.clone(),
            columns,
            schema: stream.schema(),
            holds: declare.holds,
            number: self.cursors_declared,
            rest: Arc::new(Home { rest: Mutex::new(Rest::Left(stream, None)), given_back: Notify::new() }),
        });
        Ok(Outcome::Done("DECLARE CURSOR".to_owned()))
    }

    fn cursor(&self, name: &str) -> Option<&Declared> {
        self.cursors.iter().find(|cursor| cursor.name == name)
    }

    /// The columns of a declared cursor.
    #[must_use]
    pub fn cursor_columns(&self, name: &str) -> Option<&[Column]> {
        self.cursor(name).map(|cursor| cursor.columns.as_slice())
    }

    /// The columns that a FETCH answers with.
    pub(super) fn fetched_columns(&self, fetch: &Fetch) -> Result<Option<Vec<Column>>> {
        let cursor = self.cursor(&fetch.name.value).ok_or_else(|| no_cursor(&fetch.name))?;
        Ok(fetch.shows.then(|| cursor.columns.clone()))
    }

    pub(super) async fn fetch(&self, fetch: &Fetch, deadline: Option<Instant>) -> Result<Outcome> {
        let name = &fetch.name;
        let cursor = self.cursor(&name.value).ok_or_else(|| no_cursor(name))?;
        let rest = cursor.rest.take().await.map_err(|why| {
            let message = format!("cursor \"{}\" {why}", name.value);
            let error = Error::new(SqlState::ObjectNotInPrerequisiteState, message).with_position(name.position);
            error.with_hint("CLOSE it, and declare it again")
        })?;
        let rows_left = fetch.rows_max.unwrap_or(u64::MAX);
        let portion = Portion { home: Arc::clone(&cursor.rest), rest, rows_left, begun: false };
        let rows = futures::stream::try_unfold(portion, |mut portion| async move {
            Ok(portion.next().await?.map(|batch| (batch, portion)))
        });
        let stream = until(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&cursor.schema), rows)), deadline, None);
        if fetch.shows {
            return Ok(Outcome::Rows(Rows { columns: cursor.columns.clone(), stream, live: false, tag: "FETCH" }));
        }
        let passed = stream.map_ok(|batch| batch.num_rows()).try_fold(0, |sum, rows| async move { Ok(sum + rows) });
        Ok(Outcome::Done(format!("MOVE {}", passed.await.map_err(Error::from)?)))
    }

    pub(super) fn close(&mut self, name: Option<&Name>) -> Result<Outcome> {
        let Some(name) = name else {
            self.cursors.clear();
            return Ok(Outcome::Done("CLOSE CURSOR ALL".to_owned()));
        };
        let place = self.cursors.iter().position(|cursor| cursor.name == name.value).ok_or_else(|| no_cursor(name))?;
        self.cursors.remove(place);
        Ok(Outcome::Done("CLOSE CURSOR".to_owned()))
    }

    /// Closes a cursor, if it is there, as a protocol closes a portal.
    pub fn close_cursor(&mut self, name: &str) {
        self.cursors.retain(|cursor| cursor.name != name);
    }

    /// A block has ended; what is held stays.
    pub(super) fn end_cursors(&mut self) {
        self.cursors.retain(|cursor| cursor.holds);
    }

    /// What was declared behind so many cursors was never declared.
    pub(super) fn forget_cursors(&mut self, declared: u64) {
        self.cursors.retain(|cursor| cursor.number <= declared);
    }
}

fn no_cursor(name: &Name) -> Error {
    Error::new(SqlState::InvalidCursorName, format!("cursor \"{}\" does not exist", name.value))
        .with_position(name.position)
        .with_hint("a cursor ends with its transaction, unless it was declared WITH HOLD")
}
