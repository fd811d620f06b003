//! `Worker`: a session whose statements compute on threads of their own. A query that keeps its threads busy for
//! seconds between two waits must not keep the sockets, a cancel among them, waiting as well. What computes next to nothing,
//! as a prepared INSERT of one row, stays where its socket is: two changes of threads would cost more than it does.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use aquifer_sql::error::{Error, Result, SqlState};
use aquifer_sql::session::{Commitment, CopyIn, Outcome, Prepared, Session, Statement};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::task::AbortOnDropHandle;

/// See the head of this file.
pub(crate) struct Worker {
    session: Arc<Mutex<Session>>,
    compute: Handle,
}

impl Worker {
    pub(crate) fn new(session: Session, compute: Handle) -> Self {
        Self { session: Arc::new(Mutex::new(session)), compute }
    }

    /// Where results are to be computed.
    pub(crate) fn compute(&self) -> &Handle {
        &self.compute
    }

    /// The session, when no statement of it computes any more.
    pub(crate) async fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().await
    }

    /// [`Session::prepare`]; dropping the future ends the work.
    pub(crate) async fn prepare(&self, statement: Statement, types: Vec<Option<DataType>>) -> Result<Prepared> {
        let session = Arc::clone(&self.session);
        let work = async move { session.lock().await.prepare(&statement, &types).await };
        AbortOnDropHandle::new(self.compute.spawn(work)).await.map_err(broken)?
    }

    /// [`Session::execute`], ended by `stop` unless its commit is with the log already: then it is waited for, so that
    /// nobody hears of a cancel and finds the rows written.
    pub(crate) async fn execute<S>(
        &self,
        prepared: Arc<Prepared>,
        values: Vec<ScalarValue>,
        stop: impl Future<Output = S>,
    ) -> Result<Result<Outcome>, S> {
        let commitment = Commitment::default();
        let (session, own) = (Arc::clone(&self.session), commitment.clone());
        let light = prepared.is_light();
        let work = async move {
            let mut session = session.lock().await;
            session.begin_statement(own);
            session.execute(&prepared, values).await
        };
        if light {
            // In a box, so that an idle connection has no room for it.
            let work = Box::pin(AssertUnwindSafe(work).catch_unwind());
            let work = work.map(|done| done.unwrap_or_else(|_| Err(panicked())));
            return committing(work, commitment, stop).await;
        }
        self.spawned(work, commitment, stop).await
    }

    /// [`Session::end_copy`], ended by `stop` in the same way.
    pub(crate) async fn end_copy<S>(&self, copy: CopyIn, stop: impl Future<Output = S>) -> Result<Result<Outcome>, S> {
        let commitment = Commitment::default();
        let (session, own) = (Arc::clone(&self.session), commitment.clone());
        let work = async move {
            let mut session = session.lock().await;
            session.begin_statement(own);
            session.end_copy(copy).await
        };
        self.spawned(work, commitment, stop).await
    }

    async fn spawned<S>(
        &self,
        work: impl Future<Output = Result<Outcome>> + Send + 'static,
        commitment: Commitment,
        stop: impl Future<Output = S>,
    ) -> Result<Result<Outcome>, S> {
        let work = AbortOnDropHandle::new(self.compute.spawn(work));
        committing(work.map(|done| done.map_err(broken).and_then(|outcome| outcome)), commitment, stop).await
    }
}

/// Waits for a statement or for `stop`, and once its commit is with the log for the statement only.
async fn committing<S>(
    work: impl Future<Output = Result<Outcome>>,
    commitment: Commitment,
    stop: impl Future<Output = S>,
) -> Result<Result<Outcome>, S> {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        stopped = stop => {
            if commitment.give_up() {
                return Err(stopped);
            }
        }
        done = &mut work => return Ok(done),
    }
    Ok(work.await)
}

/// A statement that panicked costs itself, not the connection.
fn broken(error: tokio::task::JoinError) -> Error {
    panicked().with_source(error)
}

fn panicked() -> Error {
    Error::new(SqlState::InternalError, "the statement broke down")
        .with_hint("the server's log says where; please report it")
}
