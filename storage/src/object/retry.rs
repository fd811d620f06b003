//! The only place that asks an object store again: a bounded number of attempts, each bounded in time.
//!
//! An attempt that timed out may have been applied. So whoever puts a name that must be new reads it back when told
//! that it is taken, and compares (see `manifest/publish` and [`crate::object::claim`]).

use std::future::Future;
use std::time::Duration;

use object_store::Error;

use crate::worker;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryBudget {
    /// Attempts in all.
    pub(crate) attempts_max: u32,
    /// Longest one attempt may take, ms, before the size of what is moved is counted.
    pub(crate) attempt_ms_max: u64,
    /// Wait before the second attempt, ms; doubles with each one after it.
    pub(crate) backoff_ms: u64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { attempts_max: 5, attempt_ms_max: 15_000, backoff_ms: 100 }
    }
}

/// Time granted per MiB moved, ms: a store slower than 1 MiB/s is as good as down.
const MIB_MS_MAX: u64 = 1_000;

impl RetryBudget {
    /// Runs `attempt` until it succeeds, fails for good, or the budget is used up; then gives the last error.
    pub(crate) async fn run<T, F, A>(&self, moved_bytes: usize, mut attempt: F) -> Result<T, Error>
    where
        F: FnMut() -> A,
        A: Future<Output = Result<T, Error>>,
    {
        let attempt_ms_max = self.attempt_ms_max.saturating_add((moved_bytes as u64 >> 20) * MIB_MS_MAX);
        let mut backoff = Duration::from_millis(self.backoff_ms);
        let mut made = 0;
        loop {
            made += 1;
            let error = match worker::timeout(Duration::from_millis(attempt_ms_max), attempt()).await {
                Some(Ok(value)) => return Ok(value),
                Some(Err(error)) => error,
                None => timed_out(attempt_ms_max),
            };
            if made >= self.attempts_max || !may_pass(&error) {
                return Err(error);
            }
            tracing::debug!(attempt = made, %error, "object store failed, asking again");
            worker::sleep(backoff).await;
            backoff *= 2;
        }
    }
}

/// Whether the same request may succeed later.
fn may_pass(error: &Error) -> bool {
    matches!(error, Error::Generic { .. } | Error::JoinError { .. })
}

fn timed_out(attempt_ms_max: u64) -> Error {
    let source = std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {attempt_ms_max} ms"));
    Error::Generic { store: "object store", source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: RetryBudget = RetryBudget { attempts_max: 3, attempt_ms_max: 20, backoff_ms: 1 };

    #[tokio::test]
    async fn passing_trouble_is_tried_again_and_the_budget_ends_it() {
        let mut calls = 0;
        let answer = QUICK.run(0, || {
            calls += 1;
            let failing = calls < 3;
            async move { if failing { Err(timed_out(1)) } else { Ok(7) } }
        });
        assert_eq!(answer.await.unwrap(), 7);
        let mut calls = 0;
        let answer = QUICK.run(0, || {
            calls += 1;
            std::future::pending::<Result<(), Error>>()
        });
        assert!(answer.await.unwrap_err().to_string().contains("no answer within 20 ms"));
        assert_eq!(calls, 3);
    }

    #[tokio::test]
    async fn an_answer_that_stays_the_same_is_not_asked_for_again() {
        let mut calls = 0;
        let answer = QUICK.run(0, || {
            calls += 1;
            async { Err::<(), _>(Error::NotFound { path: "x".into(), source: "gone".into() }) }
        });
        answer.await.unwrap_err();
        assert_eq!(calls, 1);
    }
}
