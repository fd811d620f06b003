//! The pipe between callers, the writer and the syncer: a queue of commits in front, groups that wait for their sync
//! behind.
//!
//! One lock for both ends, held for pushes and takes only. The queue's bytes are bounded by `wal.queue_bytes_max`: a
//! permit is taken before a commit is queued and given back when it is answered. While a sync is under way small
//! commits gather, so that one sync serves them all; large ones are written meanwhile, so that the disk never waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::commit::{Durability, Receipt};
use crate::error::Result;
use crate::ids::{TopicId, TopicPartition};
use crate::log::append::{PlacedRuns, Sealed};
use crate::log::ledger::Request;
use crate::log::own::Change;
use crate::log::segment::Segment;
use crate::log::snapshot::LogSnapshot;
use crate::log::transaction::Mark;
use crate::traffic::Volume;
use crate::view::ProducerInfo;
use crate::worker::Patience;

/// Commits of this many bytes are written although a sync is under way.
const EAGER_BYTES: u64 = 256 << 10;
/// Silence after which an empty frame proves that the last commit is durable.
pub(crate) const IDLE_BEFORE_COVER: Duration = Duration::from_millis(100);

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) receipt: Receipt,
    /// Per append, to fill in log starts.
    pub(crate) partitions: Vec<TopicPartition>,
    pub(crate) first_producer_id: i64,
    /// What was asked of a partition's producers.
    pub(crate) producers: Vec<ProducerInfo>,
    /// What was asked of everything.
    pub(crate) cut: Option<Arc<LogSnapshot>>,
}

/// Where an answer goes.
pub(crate) type Answer = oneshot::Sender<Result<Done>>;

/// A commit in the queue.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: Request,
    /// What it is counted as in the queue.
    pub(crate) bytes: u64,
    pub(crate) answer: Answer,
    pub(crate) permit: OwnedSemaphorePermit,
    /// When it came, to the queue or the line in front of it.
    pub(crate) came_at: Instant,
}

/// An answer that waits for its group's sync.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) answer: Answer,
    pub(crate) outcome: Result<Done>,
    pub(crate) permit: OwnedSemaphorePermit,
    /// As of its job.
    pub(crate) came_at: Instant,
    /// Of its batches and of what is carried over.
    pub(crate) bytes: u64,
}

/// Records of clients by topic; neighbours of one topic are added up.
pub(crate) type Taken = Vec<(TopicId, Volume)>;

/// What was written at once and will be published at once.
#[derive(Debug)]
pub(crate) struct Group {
    /// Position after it.
    pub(crate) end: u64,
    pub(crate) segment: Arc<Segment>,
    pub(crate) changes: Vec<Change>,
    pub(crate) runs: PlacedRuns,
    /// What the runs mean for last stable offsets.
    pub(crate) marks: Vec<Mark>,
    /// The segment was sealed after it.
    pub(crate) sealed: Option<Sealed>,
    pub(crate) pending: Vec<Pending>,
    /// What clients have written, by topic.
    pub(crate) taken: Taken,
    /// When it was written; `wal.sync_interval_max` counts from here.
    pub(crate) written_at: Instant,
    /// Somebody waits for the sync.
    pub(crate) urgent: bool,
}

#[derive(Debug, Default)]
struct Ends {
    queue: VecDeque<Job>,
    queued_bytes: u64,
    /// Somebody in the queue wants to be answered before the sync.
    queued_unsynced: bool,
    written: VecDeque<Group>,
    syncing: bool,
    closing: bool,
    writer_gone: bool,
    syncer_gone: bool,
}

/// The pipe.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    ends: Mutex<Ends>,
    writer_wake: Condvar,
    syncer_wake: Condvar,
}

/// What the writer is to do.
#[derive(Debug)]
pub(crate) enum Next {
    Commit(Vec<Job>),
    /// Nothing came for a while.
    Idle,
    /// There is nothing, and no patience to wait.
    Nothing,
    /// All that was queued is written, nothing more will come.
    Close,
}

/// What the syncer is to do.
#[derive(Debug)]
pub(crate) enum ToSync {
    Groups(Vec<Group>),
    /// There is nothing, and no patience to wait.
    Nothing,
    /// The writer is gone and nothing is left.
    Gone,
}

impl Pipe {
    /// Queues a job. If the pipe is closed it is dropped, and with it its answer, which tells who waits.
    pub(crate) fn push(&self, job: Job) {
        let mut ends = self.ends.lock();
        if ends.closing || ends.writer_gone {
            return;
        }
        ends.queued_bytes += job.bytes;
        ends.queued_unsynced |= job.request.commit.durability == Durability::Written;
        ends.queue.push_back(job);
        drop(ends);
        self.writer_wake.notify_one();
    }

    /// Puts jobs that found no room in a frame back in front of those that wait; by the writer, which looks again anyway.
    pub(crate) fn put_back(&self, jobs: Vec<Job>) {
        let mut ends = self.ends.lock();
        for job in jobs.into_iter().rev() {
            ends.queued_bytes += job.bytes;
            ends.queued_unsynced |= job.request.commit.durability == Durability::Written;
            ends.queue.push_front(job);
        }
    }

    /// What the writer does next; `idle_after` bounds the wait.
    pub(crate) fn next(&self, group_bytes_max: u64, idle_after: Option<Duration>, patience: Patience) -> Next {
        let mut ends = self.ends.lock();
        loop {
            // What nobody waits for does not hold anybody up.
            let sync_under_way = ends.syncing || ends.written.iter().any(|group| group.urgent);
            let eager = ends.queued_unsynced || ends.queued_bytes >= EAGER_BYTES || ends.closing;
            if !ends.queue.is_empty() && (!sync_under_way || eager) {
                return Next::Commit(ends.take_jobs(group_bytes_max));
            }
            if ends.queue.is_empty() && ends.closing {
                return Next::Close;
            }
            match idle_after {
                Some(_) if patience == Patience::Elapsed && ends.queue.is_empty() => return Next::Idle,
                _ if patience != Patience::Wait => return Next::Nothing,
                None => self.writer_wake.wait(&mut ends),
                Some(timeout) => {
                    let timed_out = self.writer_wake.wait_for(&mut ends, timeout).timed_out();
                    if timed_out && ends.queue.is_empty() && !ends.closing {
                        return Next::Idle;
                    }
                }
            }
        }
    }

    /// Hands a written group to the syncer.
    pub(crate) fn written(&self, group: Group) {
        let mut ends = self.ends.lock();
        if ends.syncer_gone {
            // Dropped answers say that the node is read-only.
            return;
        }
        ends.written.push_back(group);
        drop(ends);
        self.syncer_wake.notify_one();
    }

    /// Groups to sync together: all there are, once somebody waits for them or the oldest is `interval` old.
    pub(crate) fn to_sync(&self, interval: Duration, patience: Patience) -> ToSync {
        let mut ends = self.ends.lock();
        loop {
            let due = ends.written.front().map(|oldest| oldest.written_at + interval);
            match due {
                None if ends.writer_gone => return ToSync::Gone,
                None if patience != Patience::Wait => return ToSync::Nothing,
                None => self.syncer_wake.wait(&mut ends),
                Some(due) => {
                    let urgent = ends.closing || ends.writer_gone || ends.written.iter().any(|group| group.urgent);
                    let now = urgent
                        || match patience {
                            Patience::Wait => self.syncer_wake.wait_until(&mut ends, due).timed_out(),
                            Patience::None => return ToSync::Nothing,
                            Patience::Elapsed => true,
                        };
                    if now {
                        ends.syncing = true;
                        return ToSync::Groups(ends.written.drain(..).collect());
                    }
                }
            }
        }
    }

    /// The sync is over, well or not.
    pub(crate) fn synced(&self) {
        self.ends.lock().syncing = false;
        self.writer_wake.notify_one();
    }

    /// Whether everything written is synced or given up, after the wait for it that `patience` allows; for the writer's
    /// last act.
    pub(crate) fn drained(&self, patience: Patience) -> bool {
        let mut ends = self.ends.lock();
        while ends.syncing || !ends.written.is_empty() {
            if patience != Patience::Wait {
                return false;
            }
            self.writer_wake.wait(&mut ends);
        }
        true
    }

    /// How many commits are queued, and about how many bytes.
    pub(crate) fn queued(&self) -> (usize, u64) {
        let ends = self.ends.lock();
        (ends.queue.len(), ends.queued_bytes)
    }

    /// Takes no more jobs; those queued are still written.
    pub(crate) fn close(&self) {
        self.ends.lock().closing = true;
        self.writer_wake.notify_one();
        self.syncer_wake.notify_one();
    }

    /// The writer has ended. Dropping what is left tells those who wait.
    pub(crate) fn writer_gone(&self) {
        let mut ends = self.ends.lock();
        ends.writer_gone = true;
        ends.queued_bytes = 0;
        let rest: Vec<Job> = ends.queue.drain(..).collect();
        drop(ends);
        drop(rest);
        self.syncer_wake.notify_one();
    }

    /// The syncer has ended: nothing will be synced any more. Dropping what is left tells those who wait.
    pub(crate) fn syncer_gone(&self) {
        let mut ends = self.ends.lock();
        ends.syncing = false;
        ends.syncer_gone = true;
        let rest: Vec<Group> = ends.written.drain(..).collect();
        drop(ends);
        drop(rest);
        self.writer_wake.notify_one();
    }
}

impl Ends {
    /// The first jobs that fit into one frame; at least one.
    fn take_jobs(&mut self, group_bytes_max: u64) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut bytes = 0;
        while let Some(job) = self.queue.front() {
            if !jobs.is_empty() && bytes + job.bytes > group_bytes_max {
                break;
            }
            bytes += job.bytes;
            jobs.extend(self.queue.pop_front());
        }
        self.queued_bytes -= bytes;
        if self.queue.is_empty() {
            self.queued_unsynced = false;
        }
        jobs
    }
}
