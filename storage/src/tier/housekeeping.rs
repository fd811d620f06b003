//! The background worker of the cold part: retention, compaction, merging and sweeping, beside tiering and never before it.
//!
//! Every `housekeeping.interval` (by the clock) it goes through all topics, some of them at each step, so that a request
//! never waits for all of them. A topic that fails is named and left alone for a growing while; the others go on. Being
//! fenced ends the work for good.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::TopicId;
use crate::log::Node;
use crate::tier::trouble::Troubles;
use crate::tier::upkeep::{Effort, Upkeep};
use crate::tier::worker::chain;
use crate::view::{Topic, VacuumReport};
use crate::worker::{self, Loop};

/// Requests that wait; who comes later waits outside.
const REQUESTS_MAX: usize = 64;

/// How often the clock is looked at, ms.
const LOOK_INTERVAL_MS: u64 = 1_000;

/// Topics gone through in one step.
const TOPICS_MAX: usize = 64;

/// Deletions remembered although nothing is left of the topic: a put of a process that was replaced may come much later.
const DELETED_KEPT: usize = 10_000;
/// First and longest time a topic that failed is left alone, us.
const PAUSE_US: (i64, i64) = (10_000_000, 3_600_000_000);

struct Request {
    topic: Option<TopicId>,
    answer: oneshot::Sender<Result<VacuumReport>>,
}

/// The worker as its owner sees it.
#[derive(Debug)]
pub(crate) struct Housekeeping {
    requests: mpsc::Sender<Request>,
    work: Loop,
}

impl Housekeeping {
    /// Starts it; `interval_ms` 0 works on request only.
    pub(crate) fn start(upkeep: Upkeep, interval_ms: u64) -> Self {
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        let interval_us = i64::try_from(interval_ms.saturating_mul(1000)).unwrap_or(i64::MAX);
        let next_us = None;
        let troubles = Troubles::new(PAUSE_US.0, PAUSE_US.1);
        let work = Work { upkeep, waiting, interval_us, next_us, after: None, troubles, fenced: None };
        Self { requests, work: Loop::start("housekeeping", |stop| work.run(stop)) }
    }

    /// Does all there is to do to a topic, or to all; returns when done.
    pub(crate) async fn vacuum(&self, topic: Option<TopicId>) -> Result<VacuumReport> {
        let (answer, done) = oneshot::channel();
        self.requests.send(Request { topic, answer }).await.map_err(|_| Error::Closed)?;
        done.await.map_err(|_| Error::Closed)?
    }

    /// Stops it.
    pub(crate) async fn stop(&self) {
        self.work.stop().await;
    }
}

struct Work {
    upkeep: Upkeep,
    waiting: mpsc::Receiver<Request>,
    interval_us: i64,
    /// When the topics are next gone through; `None` before the first look at the clock.
    next_us: Option<i64>,
    /// The last topic gone through, if some are left.
    after: Option<TopicId>,
    troubles: Troubles,
    /// Why no more is done.
    fenced: Option<Error>,
}

impl Work {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let step = async {
                tokio::select! {
                    biased;
                    request = self.waiting.recv() => match request {
                        Some(request) => self.vacuum(request).await,
                        None => return false,
                    },
                    () = worker::sleep(Duration::from_millis(LOOK_INTERVAL_MS)) => self.look().await,
                }
                true
            };
            tokio::select! {
                biased;
                // What is in progress is dropped where it stands: nothing waits for it, and nothing is lost by it.
                () = stop.cancelled() => return,
                go_on = step => if !go_on { return },
            }
        }
    }

    async fn vacuum(&mut self, request: Request) {
        let done = self.vacuum_now(request.topic).await;
        // Who no longer waits needs no answer.
        let _ = request.answer.send(done);
    }

    async fn vacuum_now(&mut self, topic: Option<TopicId>) -> Result<VacuumReport> {
        let node = self.upkeep.runner.node()?;
        let topics = match topic {
            None => topics(&node),
            Some(id) => match node.topic_by_id(id) {
                Some(topic) if topic.internal => return Err(Error::TopicInternal { topic: topic.name.clone() }),
                Some(topic) => vec![topic],
                None => return Err(Error::UnknownTopic { topic: id.to_string() }),
            },
        };
        let mut report = VacuumReport::default();
        let mut first_error = None;
        if topic.is_none() {
            match self.sweep_deleted(&node).await {
                Ok(files) => report.files_swept += files,
                Err(error) if error.kind() == ErrorKind::StepDown => return Err(error),
                Err(error) => first_error = Some(error),
            }
        }
        for topic in topics {
            match self.keep(&node, &topic, Effort::All).await {
                Ok(done) => report.add(&done),
                Err(error) if error.kind() == ErrorKind::StepDown => return Err(error),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(report), Err)
    }

    /// Goes through some topics if it is time.
    async fn look(&mut self) {
        let Ok(node) = self.upkeep.runner.node() else { return };
        let now_us = node.clock().now_us();
        // A clock that was set back must not keep the work waiting.
        let next_us = self.next_us.map_or(i64::MAX, |next| next).min(now_us.saturating_add(self.interval_us));
        self.next_us = Some(next_us);
        if self.interval_us == 0 || (self.after.is_none() && now_us < next_us) {
            return;
        }
        let left: Vec<_> = topics(&node).into_iter().filter(|topic| self.after < Some(topic.id)).collect();
        for topic in left.iter().take(TOPICS_MAX) {
            if !self.troubles.rests(topic.id, now_us) {
                // The error has been told.
                let _ = self.keep(&node, topic, Effort::Due).await;
            }
        }
        if left.len() <= TOPICS_MAX {
            // Told by the call; the next look tries again.
            let _ = self.sweep_deleted(&node).await;
        }
        self.after = left.get(TOPICS_MAX).and_then(|_| left.get(TOPICS_MAX - 1)).map(|topic| topic.id);
        if self.after.is_none() {
            self.troubles.keep(|topic| node.topic_by_id(topic).is_some());
            self.upkeep.forget_others(|topic| node.topic_by_id(topic).is_some());
            self.next_us = Some(now_us.saturating_add(self.interval_us));
            #[expect(clippy::cast_precision_loss, reason = "a time in seconds")]
            metrics::gauge!("aquifer_housekeeping_last_run_seconds").set(now_us as f64 / 1e6);
        }
    }

    /// What is left of topics that are deleted.
    async fn sweep_deleted(&mut self, node: &Arc<Node>) -> Result<u64> {
        if let Some(error) = &self.fenced {
            return Err(error.clone());
        }
        let now_us = node.clock().now_us();
        let deleted = node.deleted_topics();
        let done = self.upkeep.sweeper.sweep_deleted(&deleted, now_us).await;
        if let Ok(done) = &done
            && deleted.len() > DELETED_KEPT
        {
            node.note_swept(&done.topics);
        }
        if let Err(error) = &done {
            metrics::counter!("aquifer_housekeeping_failures_total").increment(1);
            let reason = chain(error);
            if error.kind() == ErrorKind::StepDown {
                node.step_down(&reason);
                self.fenced = Some(error.clone());
            } else {
                tracing::warn!(%reason, "sweeping deleted topics failed and is tried again");
            }
        }
        done.map(|done| done.files)
    }

    /// One topic; what goes wrong is told, and remembered.
    async fn keep(&mut self, node: &Arc<Node>, topic: &Topic, effort: Effort) -> Result<VacuumReport> {
        if let Some(error) = &self.fenced {
            return Err(error.clone());
        }
        let done = self.upkeep.keep(node, topic, effort).await;
        match &done {
            Ok(_) => self.troubles.mended(topic.id),
            // Deleted, or changed by somebody else: the next look sees it as it is then.
            Err(_) if node.topic_by_id(topic.id).is_none() => return Ok(VacuumReport::default()),
            Err(Error::Conflict { what }) => tracing::debug!(topic = topic.name, what, "housekeeping was overtaken"),
            Err(error) => self.note(node, topic, error),
        }
        done
    }

    fn note(&mut self, node: &Arc<Node>, topic: &Topic, error: &Error) {
        metrics::counter!("aquifer_housekeeping_failures_total").increment(1);
        let reason = chain(error);
        if error.kind() == ErrorKind::StepDown {
            node.step_down(&reason);
            self.fenced = Some(error.clone());
            return;
        }
        let pause_us = self.troubles.failed(topic.id, node.clock().now_us());
        let pause_s = pause_us / 1_000_000;
        tracing::warn!(topic = topic.name, %reason, pause_s, "housekeeping failed and is tried again");
    }
}

/// The topics there are, by id.
fn topics(node: &Node) -> Vec<Arc<Topic>> {
    let mut topics: Vec<_> = node.topics().into_iter().filter(|topic| !topic.internal).collect();
    topics.sort_by_key(|topic| topic.id);
    topics
}
