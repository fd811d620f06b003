//! The background worker of tiering: it wakes, works, reports and stops; nobody else writes objects or manifests.
//!
//! A checkpoint, asked for or due by `checkpoint.interval`, tiers what is stable as of one moment and puts what a node needs
//! to begin from the bucket alone ([`super::checkpoint`]). Nobody else tiers meanwhile, so that moment stays one.
//!
//! Requests wait in a queue of [`REQUESTS_MAX`]. A topic in trouble that may pass is left alone for a growing while, and the
//! others are tiered as ever; being fenced is not trouble that passes, so it ends the work for good, makes the node
//! read-only, and every later request is told why.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::TopicId;
use crate::log::{Backlog, Node};
use crate::tier::checkpoint::{self, Checkpointer};
use crate::tier::run::Runner;
use crate::tier::seal::{self, SealPolicy, Target};
use crate::tier::trouble::Troubles;
use crate::view::{CheckpointReport, Health};
use crate::worker::{self, Loop};

/// Checkpoints that wait; who comes later waits outside.
const REQUESTS_MAX: usize = 64;

/// How often the policy looks, ms.
const LOOK_INTERVAL_MS: u64 = 1_000;

/// First and longest time a topic that failed is left alone, us.
const PAUSE_US: (i64, i64) = (1_000_000, 60_000_000);

/// Cuts taken for one checkpoint: each one more had topics deleted or trimmed under it.
const CUTS_MAX: u32 = 8;

/// A checkpoint that nobody asked for takes no more along that is in no object, bytes.
const TAIL_BYTES_MAX: u64 = 64 << 20;

type Answer = oneshot::Sender<Result<CheckpointReport>>;

/// When checkpoints are put, and by whom.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    /// `None` if the bucket does not outlive the process.
    checkpointer: Option<Checkpointer>,
    /// `checkpoint.interval`, us; 0: when asked only.
    interval_us: i64,
    /// When the last one was begun, us.
    last_us: i64,
    /// Where the log ended then.
    position: u64,
}

impl Checkpoints {
    /// The first one is due an interval from now.
    pub(crate) fn new(checkpointer: Option<Checkpointer>, interval_ms: u64, now_us: i64) -> Self {
        let interval_us = i64::try_from(interval_ms.saturating_mul(1000)).unwrap_or(i64::MAX);
        Self { checkpointer, interval_us, last_us: now_us, position: 0 }
    }

    fn is_due(&self, now_us: i64) -> bool {
        self.checkpointer.is_some() && self.interval_us > 0 && now_us.saturating_sub(self.last_us) >= self.interval_us
    }
}

/// The worker as its owner sees it.
#[derive(Debug)]
pub(crate) struct Worker {
    requests: mpsc::Sender<Answer>,
    work: Loop,
}

impl Worker {
    /// Starts it.
    pub(crate) fn start(runner: Runner, policy: SealPolicy, checkpoints: Checkpoints) -> Self {
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        let troubles = Troubles::new(PAUSE_US.0, PAUSE_US.1);
        let work = Work { runner, policy, checkpoints, waiting, troubles, fenced: None };
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
    checkpoints: Checkpoints,
    waiting: mpsc::Receiver<Answer>,
    troubles: Troubles,
    /// Why no more is written.
    fenced: Option<Error>,
}

impl Work {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                answer = self.waiting.recv() => match answer {
                    Some(answer) => self.checkpoint(answer).await,
                    None => return,
                },
                () = worker::sleep(Duration::from_millis(LOOK_INTERVAL_MS)) => self.look().await,
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
            // Who asks for everything is told of every trouble there is now.
            None => self.put_checkpoint(Some(u64::MAX)).await,
        };
        self.make_room(&done).await;
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
        let Ok(node) = self.runner.node() else { return };
        let (policy, now_us) = (self.policy, node.clock().now_us());
        self.troubles.keep(|topic| node.topic_by_id(topic).is_some());
        let cold = Arc::clone(&self.runner.cold);
        // Producers are refused until the log forgets, and it forgets what is in objects.
        let is_full = matches!(node.health(), Health::Full(_));
        let due = |backlog: &[Backlog]| {
            let mut due = if is_full { seal::everything(backlog) } else { policy.due(backlog, now_us) };
            // Said at the start and by the health; it will not pass.
            due.retain(|topic, _| cold.manifests.check_readable(*topic).is_ok());
            due
        };
        // The error has been told.
        let done = self.tier(due, |troubles, topic| troubles.rests(topic, now_us)).await;
        self.make_room(&done).await;
        // A clock that is set back puts the next one off by no more than the interval.
        self.checkpoints.last_us = self.checkpoints.last_us.min(now_us);
        if self.fenced.is_none() && self.checkpoints.is_due(now_us) {
            // A topic that cannot be tiered keeps the others from nothing: what waits of it goes along, if it is little.
            let done = self.put_checkpoint(None).await;
            self.make_room(&done).await;
            self.checkpoints.last_us = now_us;
        }
    }

    /// Tiers what is stable as of one moment and puts a checkpoint of it. One that was asked for fails if something cannot
    /// be tiered, and takes along what is in no object however much it is; one that was not goes as far as it can, and is
    /// left out if nothing has happened since the last one. What goes wrong is told.
    async fn put_checkpoint(&mut self, asked_tail_bytes_max: Option<u64>) -> Result<CheckpointReport> {
        let node = self.runner.node()?;
        let (mut report, asked) = (CheckpointReport::default(), asked_tail_bytes_max.is_some());
        let unreadable = self.runner.cold.manifests.unreadable();
        if !asked && unreadable.iter().any(|(topic, _)| node.topic_by_id(*topic).is_some()) {
            // The health names them. A checkpoint without their roots would lose their history.
            return Ok(report);
        }
        for _ in 0..CUTS_MAX {
            if self.checkpoints.checkpointer.is_none() {
                return self.tier(seal::everything, |_, _| false).await;
            }
            let cut = match node.cut().await {
                Ok(cut) => cut,
                // Nothing is written any more, but what there is still becomes cold.
                Err(error) => return self.tier(seal::everything, |_, _| false).await.and(Err(error)),
            };
            if !asked && cut.position == self.checkpoints.position {
                return Ok(report);
            }
            let now_us = node.clock().now_us();
            let targets = |backlog: &[Backlog]| checkpoint::targets(&cut, backlog);
            let failed = match self.tier(targets, |troubles, topic| !asked && troubles.rests(topic, now_us)).await {
                Ok(done) => {
                    report.objects += done.objects;
                    report.rows += done.rows;
                    None
                }
                Err(error) if asked || self.fenced.is_some() => return Err(error),
                Err(error) => Some(error),
            };
            let Some(checkpointer) = &mut self.checkpoints.checkpointer else { return Ok(report) };
            match checkpointer.put(&node, &cut, asked_tail_bytes_max.unwrap_or(TAIL_BYTES_MAX)).await {
                Ok(id) => {
                    if let Some(id) = id {
                        metrics::gauge!("aquifer_checkpoint_last_seconds").set(node.clock().now_us() as f64 / 1e6);
                        tracing::info!(checkpoint = %id, rows = report.rows, "checkpoint");
                        self.checkpoints.position = cut.position;
                    }
                    self.checkpoints.last_us = node.clock().now_us();
                    return failed.map_or(Ok(report), Err);
                }
                Err(Error::Conflict { what }) => tracing::debug!(what, "a checkpoint was overtaken and is made again"),
                Err(error) => {
                    if self.count(&node, &error) {
                        tracing::warn!(reason = chain(&error), "no checkpoint could be put; the next one tries again");
                    }
                    return Err(error);
                }
            }
        }
        Err(Error::Conflict { what: "topics, again and again: the checkpoint".to_owned() })
    }

    /// Checkpoints keep what was deleted and replaced since; on a full disk that holds the bucket too, they must not.
    async fn make_room(&mut self, done: &Result<CheckpointReport>) {
        let is_full = done.as_ref().is_err_and(lacks_room) && !self.runner.cold.kept.is_empty();
        if let Some(checkpointer) = self.checkpoints.checkpointer.as_mut().filter(|_| is_full)
            && let Err(error) = checkpointer.give_way().await
        {
            tracing::warn!(reason = chain(&error), "checkpoints could not be given up on a full disk");
        }
    }

    /// Tiers what is chosen of the backlog, topic by topic; one that fails does not keep the others waiting. What the log
    /// may forget then, it does by itself.
    async fn tier(
        &mut self,
        choose: impl FnOnce(&[Backlog]) -> BTreeMap<TopicId, Vec<Target>>,
        rests: impl Fn(&Troubles, TopicId) -> bool,
    ) -> Result<CheckpointReport> {
        let node = self.runner.node()?;
        let chosen = choose(&node.tiering_backlog());
        let mut report = CheckpointReport::default();
        let mut first_error = None;
        for (topic, targets) in &chosen {
            if rests(&self.troubles, *topic) {
                continue;
            }
            match self.runner.tier_whole_topic(*topic, targets, &mut report).await {
                Ok(()) => self.troubles.mended(*topic),
                Err(error) => {
                    self.note(&node, *topic, &error);
                    if self.fenced.is_some() {
                        return Err(error);
                    }
                    first_error = first_error.or(Some(error));
                }
            }
        }
        first_error.map_or(Ok(report), Err)
    }

    /// Who asked for a checkpoint is answered when the log has forgotten too, whatever became of the run.
    async fn let_forget(&self, done: Result<CheckpointReport>) -> Result<CheckpointReport> {
        let forgotten = self.runner.node()?.forget().await;
        done.and_then(|report| forgotten.map(|()| report))
    }

    fn note(&mut self, node: &Node, topic: TopicId, error: &Error) {
        if self.count(node, error) {
            let pause_us = self.troubles.failed(topic, node.clock().now_us());
            tracing::warn!(%topic, reason = chain(error), pause_s = pause_us / 1_000_000, "tiering failed and is tried again");
        }
    }

    /// Counts a failure; whether it may pass. Being fenced does not.
    fn count(&mut self, node: &Node, error: &Error) -> bool {
        metrics::counter!("aquifer_tier_failures_total").increment(1);
        if error.kind() != ErrorKind::StepDown {
            return true;
        }
        node.step_down(&chain(error));
        self.fenced = Some(error.clone());
        false
    }
}

/// Whether a disk without room is what is behind an error.
fn lacks_room(error: &Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    let is_full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let mut causes = std::iter::successors(Some(first), |error| error.source());
    causes.any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| is_full(error.kind())))
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
