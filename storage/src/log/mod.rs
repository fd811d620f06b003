//! The write-ahead log: one writer, one sync for all that waits.
//!
//! The life of a commit:
//! 1. [`Node::commit`] has its batches made what their topics ask for (`admit`) and puts it into the `line`, which feeds the queue (`pipe`), bounded in bytes.
//! 2. The writer (`writer`) takes what waits, judges each commit against its `ledger` (topics, expectations, producers'
//!    sequences) and gives each batch its offset.
//! 3. All of it becomes one `frame`, written by the `append`er to the open `segment`; `acks=1` is answered.
//! 4. The syncer syncs the file, changes what readers see (`published`) in one step, wakes those at the `tail`, answers.
//! 5. Readers find runs by their `index` and read them (`read`, `hot`), verified.
//! 6. `tier` makes objects of what is stable; [`Node::forget`] then deletes segments (`retain`), whose rest is carried
//!    over to the end (`carry`).
//!
//! At start `recover` goes the way back: `snapshot`, footers, frames; what damage has left without an end is ended (`orphan`).
//! `home` keeps other processes out.

mod admit;
mod append;
mod carry;
mod coordinate;
pub(crate) mod disk;
pub(crate) mod footer;
pub(crate) mod frame;
pub(crate) mod frames;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
pub(crate) mod home;
mod hot;
mod idle;
pub(crate) mod index;
mod large;
mod ledger;
mod line;
mod meter;
mod orphan;
mod overdue;
pub(crate) mod own;
mod pipe;
mod producer;
mod published;
mod read;
pub(crate) mod rebuild;
mod recover;
mod refused;
mod retain;
pub(crate) mod segment;
mod shared;
mod shown;
pub(crate) mod snapshot;
mod tail;
#[cfg(test)]
mod tests;
mod transaction;
pub(crate) mod watch;
mod writer;

use std::collections::{BTreeSet, HashSet};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::clock::{Clock, Random};
use crate::commit::{Commit, Receipt};
use crate::error::{Error, Result};
use crate::ids::{Takeover, TopicId, TopicPartition, WriterEpoch};
use crate::log::disk::{Disk, SystemDisk};
use crate::log::footer::FooterRuns;
use crate::log::home::Home;
pub(crate) use crate::log::hot::{
    Aborted, Backlog, HotBatch, HotRange, HotRun, HotStretch, Piece, has_rows, read_runs,
};
pub(crate) use crate::log::index::DamagedOffsets;
pub use crate::log::large::LargeCommit;
use crate::log::ledger::Request;
use crate::log::line::Line;
use crate::log::meter::LogMeter;
use crate::log::pipe::{Done, Pipe};
use crate::log::recover::{Recovered, RecoveryOptions, recover};
use crate::log::shared::Shared;
use crate::log::snapshot::LogSnapshot;
use crate::log::tail::Tail;
use crate::log::writer::{Writer, step_syncer};
use crate::object::claim::Claim;
use crate::object::open::outlives_process;
use crate::object::past::Past;
use crate::record::batch::BatchLimits;
use crate::settings::StorageSettings;
use crate::storage::OpenOptions;
use crate::traffic::Traffic;
use crate::view::{Definition, FetchRequest, Fetched, GroupOffset, Health, Isolation, Topic, Watermarks};
use crate::worker::{self, Step, Thread};

/// Producer ids made durable at once; those not given out are skipped at the next start.
const PRODUCER_ID_BLOCK: i64 = 1000;

/// One part in so many of `memory.limit` is for runs of sealed segments that were read lately.
const FOOTERS_SHARE: u64 = 32;

/// One node's log and what is known from it.
#[derive(Debug)]
pub(crate) struct Node {
    shared: Arc<Shared>,
    random: Arc<dyn Random>,
    home: Arc<Home>,
    line: Arc<Line>,
    /// Objects outlive the process, so that the log may forget what is in them.
    forgets: bool,
    /// Producer ids that are durable and not given out: first, and first beyond. Held over a commit by whoever refills.
    producer_ids: tokio::sync::Mutex<(i64, i64)>,
    /// Transactions without an end that recovery has found, and whose end is not made up yet.
    orphans: AtomicUsize,
    /// Transactions of the log itself that somebody goes on with.
    live: Mutex<HashSet<String>>,
    /// Wakes the look at overdue transactions.
    look: Arc<Notify>,
    /// Taken by who stops them.
    threads: Mutex<Vec<Thread>>,
}

/// What the hot part says to a fetch.
#[derive(Debug)]
pub(crate) enum Reach {
    /// Here it is.
    Hot(Fetched),
    /// Objects have it: it lies below the first offset the log still holds, or is damaged there.
    Below {
        /// The next offset to look for in the log.
        hot_start: i64,
        /// Ends as of the look.
        watermarks: Watermarks,
    },
}

impl Node {
    /// Opens the data directory on the machine's disk, and recovers.
    pub(crate) async fn open(options: &OpenOptions) -> Result<Arc<Self>> {
        Self::open_on(options, Arc::new(SystemDisk)).await
    }

    /// Opens the data directory on a disk, and recovers.
    pub(crate) async fn open_on(options: &OpenOptions, disk: Arc<dyn Disk>) -> Result<Arc<Self>> {
        let options = options.clone();
        worker::crash_point("while it is opened");
        let node = worker::blocking(move || Self::open_blocking(&options, &disk)).await?;
        worker::crash_point("while it is opened");
        // What an older process has left open is ended before anybody reads.
        node.end_orphans().await;
        node.end_overdue().await;
        drop(worker::spawn(overdue::look(Arc::downgrade(&node))));
        Ok(node)
    }

    /// As [`retain::keep_reserve`].
    pub(crate) async fn keep_reserve(&self) -> Result<()> {
        retain::keep_reserve(&self.shared).await
    }

    fn open_blocking(options: &OpenOptions, disk: &Arc<dyn Disk>) -> Result<Arc<Self>> {
        let settings = &options.settings;
        let home = Arc::new(Home::open(disk.as_ref(), &options.data_dir, options.random.as_ref())?);
        let recovered = recover(&RecoveryOptions {
            disk: Arc::clone(disk),
            dir: home.log_dir.clone(),
            origin: home.origin,
            segment_bytes: settings.wal_segment_bytes,
            limits: BatchLimits::STORED,
        })?;
        let Recovered { mut ledger, mut published, appender, snapshot_position } = recovered;
        ledger.taken_over_us = home.takeover.map(|takeover| takeover.taken_at_us);
        let orphans = AtomicUsize::new(ledger.orphan_count());
        // The directory may not know of the last one yet, or recovery has removed one that was not made whole.
        home.note_newest(disk.as_ref(), appender.segment.as_ref().map(|segment| segment.base))?;
        published.end = appender.end;
        published.footers = Arc::new(FooterRuns::new(settings.memory_limit / FOOTERS_SHARE));
        let first_position = published.segments.keys().next().copied().unwrap_or(appender.end);
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            clock: Arc::clone(&options.clock),
            disk: Arc::clone(disk),
            dir: home.log_dir.clone(),
            epoch: home.origin.epoch,
            published: RwLock::new(published.with_own_topics()),
            tail: Tail::default(),
            meter: LogMeter::default(),
            traffic: Traffic::default(),
            refused: refused::Refused::default(),
            pipe: Pipe::default(),
            durable_end: AtomicU64::new(appender.end),
            first_position: AtomicU64::new(first_position),
            snapshot_position: AtomicU64::new(snapshot_position),
            lost_at: AtomicU64::new(0),
            read_only: OnceLock::new(),
            disk_full: AtomicBool::new(false),
            reserved: Mutex::new(false),
            front: Mutex::default(),
            forgetting: tokio::sync::Mutex::new(()),
            swept: Mutex::default(),
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            home: Arc::clone(&home),
            ledger,
            appender,
            uncovered: false,
            snapshot_at: None,
            producers_max: producer::PRODUCERS_MAX / 4 * 5,
        };
        let threads = start_threads(&shared, writer)?;
        Ok(Arc::new(Self {
            shared,
            random: Arc::clone(&options.random),
            home,
            line: Arc::new(Line::new(settings.wal_queue_bytes_max)),
            forgets: outlives_process(options.object_store_url.as_deref()),
            producer_ids: tokio::sync::Mutex::new((0, 0)),
            orphans,
            live: Mutex::default(),
            look: Arc::default(),
            threads: Mutex::new(threads),
        }))
    }

    /// Writes what is queued, syncs it, ends the threads.
    pub(crate) async fn close(&self) -> Result<()> {
        self.stop_taking();
        let threads = std::mem::take(&mut *self.threads.lock());
        worker::blocking(move || {
            join(threads);
            Ok(())
        })
        .await?;
        // Nothing of this node touches the files any more; readers who still hold some read on.
        self.home.release();
        match self.shared.read_only() {
            Some(reason) => Err(Error::ReadOnly { reason }),
            None => Ok(()),
        }
    }

    fn stop_taking(&self) {
        self.line.close();
        self.shared.pipe.close();
        self.shared.tail.all_gone();
        self.look.notify_one();
    }

    pub(crate) fn cluster_id(&self) -> Uuid {
        self.home.origin.cluster_id
    }

    pub(crate) fn writer_epoch(&self) -> WriterEpoch {
        self.home.origin.epoch
    }

    /// The last takeover that the data directory knows of.
    pub(crate) fn takeover(&self) -> Option<Takeover> {
        self.home.takeover
    }

    /// What the data directory knows of its claims of the bucket.
    pub(crate) fn past(&self) -> Past {
        self.home.past()
    }

    /// Notes the claim of the bucket about to be made, durably; gives all that are known then.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) async fn note_claim(&self, newest: Option<Claim>, next: Claim) -> Result<Past> {
        let (home, shared) = (Arc::clone(&self.home), Arc::clone(&self.shared));
        worker::blocking(move || home.note_claim(shared.disk.as_ref(), newest.as_ref(), &next)).await
    }

    /// Notes durably that a start went well with this claim.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) async fn settle_claim(&self, made: Claim) -> Result<()> {
        let (home, shared) = (Arc::clone(&self.home), Arc::clone(&self.shared));
        worker::blocking(move || home.settle_claim(shared.disk.as_ref(), &made)).await
    }

    /// Whether nothing was ever written.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.durable_end.load(Ordering::Acquire) == 0
    }

    /// Topics that were deleted, and whose objects may still be there.
    pub(crate) fn deleted_topics(&self) -> Vec<TopicId> {
        self.shared.published.read().own.deleted.iter().copied().collect()
    }

    /// Nothing is left of topics that were deleted.
    pub(crate) fn note_swept(&self, topics: &[TopicId]) {
        let mut published = self.shared.published.write();
        published.own.deleted.retain(|topic| !topics.contains(topic));
        drop(published);
        self.shared.swept.lock().extend(topics);
    }

    /// Whether objects outlive the process.
    pub(crate) fn forgets(&self) -> bool {
        self.forgets
    }

    /// Everything as of this moment, durable when it is given.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Closed`], and those of a write that fails beside it.
    pub(crate) async fn cut(&self) -> Result<Arc<LogSnapshot>> {
        let done = self.submit(Request { cut: true, ..Request::default() }).await?;
        done.cut.ok_or(Error::Closed)
    }

    pub(crate) fn settings(&self) -> &StorageSettings {
        &self.shared.settings
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    pub(crate) fn random(&self) -> &Arc<dyn Random> {
        &self.random
    }

    /// Writes nothing any more: somebody newer has taken over.
    pub(crate) fn step_down(&self, reason: &str) {
        // The error is for those who write from now on.
        let _ = self.shared.set_read_only(reason);
    }

    pub(crate) fn health(&self) -> Health {
        if let Some(reason) = self.shared.read_only() {
            return Health::ReadOnly(reason);
        }
        if let Some(reason) = self.shared.refuses_records() {
            return Health::Full(reason);
        }
        let published = self.shared.published.read();
        let of_partitions = published.partitions.iter().flat_map(|(partition, view)| {
            // What objects have is not missing; what they lack is lost, which the manifest says.
            view.damaged.iter().filter(|range| range.end > view.tiered_end).map(|range| {
                let TopicPartition { topic, partition } = partition;
                format!("{}: offsets {}..{} of {topic}/{partition}", range.place, range.start, range.end)
            })
        });
        let damaged: Vec<_> = published.damaged.iter().cloned().chain(of_partitions).collect();
        if damaged.is_empty() { Health::Ready } else { Health::Damaged(damaged) }
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        let published = self.shared.published.read();
        published.own.topic_named(name).filter(|topic| published.own.is_shown(topic.id)).cloned()
    }

    pub(crate) fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.shared.published.read().own.topics.get(&id).cloned()
    }

    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> {
        let published = self.shared.published.read();
        let shown = published.own.names.values().filter(|id| published.own.is_shown(**id));
        shown.filter_map(|id| published.own.topics.get(id).cloned()).collect()
    }

    pub(crate) async fn commit(&self, mut commit: Commit) -> Result<Receipt> {
        for change in &commit.transactions {
            transaction::check_change(change)?;
        }
        self.admit(&mut commit)?;
        Ok(self.submit(Request { commit, ..Request::default() }).await?.receipt)
    }

    /// Makes a commit's batches what their topics ask for.
    fn admit(&self, commit: &mut Commit) -> Result<()> {
        admit::admit(&self.shared.published, &self.shared.settings, commit)
    }

    /// Queues a request in the order of the calls and waits for its answer. It goes on when nobody waits any more.
    async fn submit(&self, request: Request) -> Result<Done> {
        carry::submit(&self.shared, &self.line, request).await
    }

    pub(crate) async fn new_producer_id(&self) -> Result<i64> {
        let mut ids = self.producer_ids.lock().await;
        if ids.0 == ids.1 {
            let request = Request { producer_ids: PRODUCER_ID_BLOCK, ..Request::default() };
            let first = self.submit(request).await?.first_producer_id;
            *ids = (first, first + PRODUCER_ID_BLOCK);
        }
        ids.0 += 1;
        Ok(ids.0 - 1)
    }

    pub(crate) fn definitions(&self, kind: &str) -> Vec<Arc<Definition>> {
        let published = self.shared.published.read();
        let from = (kind.to_owned(), String::new());
        let of_kind = published.own.definitions.range(from..).take_while(|((of, _), _)| of == kind);
        of_kind.map(|(_, definition)| Arc::clone(definition)).collect()
    }

    pub(crate) fn catalog_version(&self) -> u64 {
        self.shared.published.read().catalog_version
    }

    pub(crate) fn group_offsets(&self, group: Option<&str>) -> Vec<(String, TopicPartition, GroupOffset)> {
        let published = self.shared.published.read();
        let row = |((of, partition), offset): (&(String, TopicPartition), &GroupOffset)| {
            (of.clone(), *partition, offset.clone())
        };
        let Some(group) = group else { return published.own.group_offsets.iter().map(row).collect() };
        published.own.offsets_of_group(group).map(row).collect()
    }

    pub(crate) fn has_group_offsets(&self, group: &str) -> bool {
        self.shared.published.read().own.offsets_of_group(group).next().is_some()
    }

    pub(crate) fn groups_with_offsets(&self) -> BTreeSet<String> {
        let published = self.shared.published.read();
        let mut groups = BTreeSet::new();
        for (group, _) in published.own.group_offsets.keys() {
            if groups.last() != Some(group) {
                groups.insert(group.clone());
            }
        }
        groups
    }

    pub(crate) fn position(&self, query: &str) -> Option<Bytes> {
        self.shared.published.read().own.positions.get(query).cloned()
    }

    pub(crate) fn pending_offsets(&self, group: &str) -> Vec<TopicPartition> {
        let published = self.shared.published.read();
        let mut partitions: Vec<_> =
            published.own.pending_of_group(group).map(|((_, partition, _), _)| *partition).collect();
        partitions.dedup();
        partitions
    }

    pub(crate) fn watermarks(&self, partition: TopicPartition) -> Result<Watermarks> {
        Ok(self.shared.published.read().partition(partition)?.watermarks())
    }

    /// Log bytes of a partition that are in no object and not below its start.
    pub(crate) fn untiered_bytes(&self, partition: TopicPartition) -> Result<u64> {
        Ok(self.shared.published.read().partition(partition)?.untiered_bytes())
    }

    /// Who holds a topic, in the words of an error.
    pub(crate) fn holders_of(&self, topic: TopicId) -> Vec<String> {
        self.shared.published.read().own.holders_of(topic).collect()
    }

    pub(crate) async fn fetch_hot(&self, request: FetchRequest) -> Result<Reach> {
        read::fetch(&self.shared, request).await
    }

    /// See [`crate::Storage::wait_past`] and [`crate::Storage::wait_past_or_growth`]; returns as well when the node closes.
    pub(crate) async fn wait_past(
        &self,
        offsets: &[(TopicPartition, i64)],
        isolation: Isolation,
        growth: Option<(TopicId, i32)>,
    ) {
        loop {
            let place = self.shared.tail.enter(offsets, isolation);
            let passed = {
                let published = self.shared.published.read();
                let past = |(partition, offset): &(TopicPartition, i64)| {
                    published.partitions.get(partition).is_none_or(|view| match isolation {
                        Isolation::ReadUncommitted => view.high_watermark > *offset,
                        Isolation::ReadCommitted => view.last_stable_offset() > *offset,
                    })
                };
                let grown = growth.is_some_and(|(topic, partitions)| {
                    published.own.topics.get(&topic).is_none_or(|topic| topic.partitions > partitions)
                });
                grown || offsets.iter().any(past)
            };
            if passed || self.line.is_closed() {
                return;
            }
            place.woken().await;
        }
    }

    /// The folder of the log's files.
    pub(crate) fn log_dir(&self) -> &Path {
        &self.shared.dir
    }

    pub(crate) fn hot_start(&self, partition: TopicPartition) -> Result<i64> {
        Ok(self.shared.published.read().partition(partition)?.hot_start())
    }

    /// First offset the log holds or knows to be damaged; what lies below it was forgotten.
    pub(crate) fn known_start(&self, partition: TopicPartition) -> Result<i64> {
        Ok(self.shared.published.read().partition(partition)?.known_start())
    }

    /// Pins, under one read lock, what the log holds of these partitions from an offset on.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    pub(crate) fn pin_hot(&self, wanted: &[(TopicPartition, i64)]) -> Result<Vec<HotRange>> {
        let published = self.shared.published.read();
        wanted.iter().map(|(partition, offset)| published.pin(*partition, *offset)).collect()
    }

    /// Pins, under one read lock, what of a partition is in no object yet, up to the high watermark.
    ///
    /// # Errors
    /// As [`Node::pin_hot`].
    pub(crate) fn pin_untiered(&self, partition: TopicPartition) -> Result<HotRange> {
        self.shared.published.read().pin_untiered(partition)
    }

    /// The manifest is durable up to `tiered_end`, and nothing is left below `log_start`: (partition, tiered_end,
    /// log_start). Neither ever goes back.
    pub(crate) fn set_tiered_end(&self, ends: &[(TopicPartition, i64, i64)]) {
        let mut published = self.shared.published.write();
        for (partition, tiered_end, log_start) in ends {
            if let Some(view) = published.partitions.get_mut(partition) {
                view.set_tiered(*tiered_end, *log_start);
            }
        }
    }

    /// What waits for tiering, per partition of every topic but our own: the input of the policy.
    pub(crate) fn tiering_backlog(&self) -> Vec<Backlog> {
        self.shared.published.read().backlog()
    }

    /// Removes segments that nothing needs any more: tiered and older than the local retention, or of deleted topics.
    /// If too little of the log is needed, what is needed of its front is carried over.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be removed, and those of a commit.
    pub(crate) async fn forget(&self) -> Result<()> {
        let open = !self.line.is_closed() && self.shared.read_only().is_none();
        if self.forgets && open { retain::forget(&self.shared, &self.line).await } else { Ok(()) }
    }
}

impl Drop for Node {
    /// A node dropped without [`Node::close`] ends its threads too, so that the directory is free again.
    fn drop(&mut self) {
        self.stop_taking();
        join(std::mem::take(&mut *self.threads.lock()));
    }
}

fn join(threads: Vec<Thread>) {
    threads.into_iter().for_each(Thread::join);
}

fn start_threads(shared: &Arc<Shared>, mut writer: Writer) -> Result<Vec<Thread>> {
    let failed = |name: &str| Error::io(format!("start thread {name}"));
    let of_syncer = Arc::clone(shared);
    let syncer = Thread::start("log-syncer", move |patience| {
        let step = guard(&of_syncer, "syncer", || step_syncer(&of_syncer, patience));
        if step == Step::Done {
            of_syncer.pipe.syncer_gone();
        }
        step
    })
    .map_err(failed("log-syncer"))?;
    let of_writer = Arc::clone(shared);
    let writer = Thread::start("log-writer", move |patience| {
        let step = guard(&of_writer, "writer", || writer.step(patience));
        if step == Step::Done {
            of_writer.pipe.writer_gone();
        }
        step
    });
    match writer {
        Ok(writer) => Ok(vec![writer, syncer]),
        Err(error) => {
            shared.pipe.writer_gone();
            join(vec![syncer]);
            Err(failed("log-writer")(error))
        }
    }
}

/// A panic of a thread of the log is a bug of ours; what is on disk is not known then.
fn guard(shared: &Shared, thread: &str, step: impl FnOnce() -> Step) -> Step {
    std::panic::catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
        shared.set_read_only(&format!("the log's {thread} panicked; this is a bug, see the log output"));
        Step::Done
    })
}
