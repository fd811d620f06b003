//! What the log measures on its way: how large commits are, how long they and the syncs take, how many share one; and how
//! transactions end.
//!
//! Handles are looked up once, when the log is opened. Without a recorder they do nothing.

use std::time::{Duration, Instant};

use metrics::{Counter, Histogram};

use crate::log::own::{Change, OwnState};
use crate::log::transaction::{Transaction, is_own};
use crate::view::TransactionState;

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct LogMeter {
    commit_bytes: Histogram,
    commit_seconds: Histogram,
    sync_seconds: Histogram,
    sync_commits: Histogram,
    committed: Counter,
    aborted: Counter,
    timed_out: Counter,
}

impl Default for LogMeter {
    fn default() -> Self {
        Self {
            commit_bytes: metrics::histogram!("aquifer_log_commit_bytes"),
            commit_seconds: metrics::histogram!("aquifer_log_commit_seconds"),
            sync_seconds: metrics::histogram!("aquifer_log_sync_seconds"),
            sync_commits: metrics::histogram!("aquifer_log_sync_commits"),
            committed: metrics::counter!("aquifer_transactions_committed_total"),
            aborted: metrics::counter!("aquifer_transactions_aborted_total"),
            timed_out: metrics::counter!("aquifer_transactions_timed_out_total"),
        }
    }
}

impl LogMeter {
    /// A commit is answered.
    pub(crate) fn committed(&self, bytes: u64, queued_at: Instant) {
        self.commit_bytes.record(bytes as f64);
        self.commit_seconds.record(queued_at.elapsed());
    }

    /// A sync is over, for so many commits.
    pub(crate) fn synced(&self, took: Duration, commits: usize) {
        self.sync_seconds.record(took);
        self.sync_commits.record(commits as f64);
    }

    /// A transaction was ended because its time was over; it counts as aborted too.
    pub(crate) fn timed_out(&self) {
        self.timed_out.increment(1);
    }

    /// Counts the end of a client's transaction, if the change about to be applied is one.
    pub(crate) fn changes(&self, own: &OwnState, change: &Change) {
        let Change::Transaction { id, value } = change else { return };
        match own.transactions.get(id).filter(|_| !is_own(id)).and_then(|before| end(before, value.as_deref())) {
            Some(true) => self.committed.increment(1),
            Some(false) => self.aborted.increment(1),
            None => {}
        }
    }
}

/// Whether an open transaction ends with the change, and was committed then.
fn end(before: &Transaction, after: Option<&Transaction>) -> Option<bool> {
    let state = after.map(|after| after.state);
    (before.state == TransactionState::Ongoing && state != Some(TransactionState::Ongoing))
        .then_some(state == Some(TransactionState::CompleteCommit))
}
