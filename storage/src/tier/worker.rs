//! The background worker of tiering: it wakes, works, reports and stops; nobody else writes objects or manifests.
//!
//! Requests wait in a queue of [`REQUESTS_MAX`]. Trouble that may pass is met with a growing pause; being fenced is not
//! trouble that passes, so it ends the work for good, makes the node read-only, and every later request is told why.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::TopicId;
use crate::log::Backlog;
use crate::tier::run::Runner;
use crate::tier::seal::{self, SealPolicy, Target};
use crate::view::CheckpointReport;
use crate::worker::{self, Loop};

/// Checkpoints that wait; who comes later waits outside.
const REQUESTS_MAX: usize = 64;

/// How often the policy looks, ms.
const LOOK_INTERVAL_MS: u64 = 1_000;

/// Longest pause after failures, ms.
const PAUSE_MS_MAX: u64 = 60_000;

type Answer = oneshot::Sender<Result<CheckpointReport>>;

/// The worker as its owner sees it.
#[derive(Debug)]
pub(crate) struct Worker {
    requests: mpsc::Sender<Answer>,
    work: Loop,
}

impl Worker {
    /// Starts it.
    pub(crate) fn start(runner: Runner, policy: SealPolicy) -> Self {
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        let work = Work { runner, policy, waiting, pause_ms: 0, fenced: None };
        Self { requests, work: Loop::start("tiering", |stop| work.run(stop)) }
    }

    /// Tiers everything that is stable now; returns when done.
    pub(crate) async fn checkpoint(&self) -> Result<CheckpointReport> {
        let (answer, done) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| Error::Closed)?;
        done.await.map_err(|_| Error::Closed)?
    }

    /// Stops it.
    pub(crate) async fn stop(&self) {
        self.work.stop().await;
    }
}

struct Work {
    runner: Runner,
    policy: SealPolicy,
    waiting: mpsc::Receiver<Answer>,
    /// Pause before the policy looks again; grows with failures.
    pause_ms: u64,
    /// Why no more is written.
    fenced: Option<Error>,
}

impl Work {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let pause = Duration::from_millis(self.pause_ms.max(LOOK_INTERVAL_MS));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                answer = self.waiting.recv() => match answer {
                    Some(answer) => self.checkpoint(answer).await,
                    None => return,
                },
                () = worker::sleep(pause) => self.look().await,
            }
        }
    }

    /// Answers one request and those that wait with it: they all asked before this work began.
    async fn checkpoint(&mut self, first: Answer) {
        let mut answers = vec![first];
        while let Ok(another) = self.waiting.try_recv() {
            answers.push(another);
        }
        let done = match &self.fenced {
            Some(error) => Err(error.clone()),
            None => self.tier(|backlog, _| seal::everything(backlog)).await,
        };
        self.note(done.as_ref().err());
        let done = self.let_forget(done).await;
        for answer in answers {
            // Who no longer waits needs no answer.
            let _ = answer.send(done.clone());
        }
    }

    /// Tiers what the policy says is due.
    async fn look(&mut self) {
        if self.fenced.is_some() {
            return;
        }
        let policy = self.policy;
        let cold = Arc::clone(&self.runner.cold);
        let due = |backlog: &[Backlog], now_us| {
            let mut due = policy.due(backlog, now_us);
            // Said at the start and by the health; the others must not wait for what will not pass.
            due.retain(|topic, _| cold.manifests.check_readable(*topic).is_ok());
            due
        };
        let done = self.tier(due).await;
        self.note(done.as_ref().err());
    }

    /// Tiers what is chosen of the backlog. What the log may forget then, it does by itself.
    async fn tier(
        &self,
        choose: impl FnOnce(&[Backlog], i64) -> BTreeMap<TopicId, Vec<Target>>,
    ) -> Result<CheckpointReport> {
        let node = self.runner.node()?;
        let chosen = choose(&node.tiering_backlog(), node.clock().now_us());
        self.runner.tier_all(&chosen).await
    }

    /// Who asked for a checkpoint is answered when the log has forgotten too, whatever became of the run.
    async fn let_forget(&self, done: Result<CheckpointReport>) -> Result<CheckpointReport> {
        let forgotten = self.runner.node()?.forget().await;
        done.and_then(|report| forgotten.map(|()| report))
    }

    fn note(&mut self, failed: Option<&Error>) {
        let Some(error) = failed else {
            self.pause_ms = 0;
            return;
        };
        metrics::counter!("aquifer_tier_failures_total").increment(1);
        let reason = chain(error);
        if error.kind() == ErrorKind::StepDown {
            if let Ok(node) = self.runner.node() {
                node.step_down(&reason);
            }
            self.fenced = Some(error.clone());
            return;
        }
        self.pause_ms = (self.pause_ms * 2).clamp(LOOK_INTERVAL_MS, PAUSE_MS_MAX);
        tracing::warn!(%reason, pause_ms = self.pause_ms, "tiering failed and is tried again");
    }
}

/// An error with its sources, as one sentence.
pub(crate) fn chain(error: &Error) -> String {
    let mut sentence = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        sentence.push_str(": ");
        sentence.push_str(&cause.to_string());
        source = cause.source();
    }
    sentence
}
