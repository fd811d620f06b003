//! The two threads of the log. The writer judges what waits, gives it offsets and writes it as one frame; the syncer
//! makes what is written durable, publishes it and answers.
//!
//! Invariants:
//! - Nothing is published, and nobody but `acks=1` is answered, before the sync of the group that carries it, and of
//!   all groups before it. An answer that only saw something (a duplicate, a conflict) waits for the same sync.
//! - A group whose write fails is taken back whole. After a failed sync nobody knows what is on the disk: the node is
//!   read-only until it is started again.
//! - The next group is written while the last one is synced. That is safe, since a failed sync ends all writing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::commit::{Durability, Receipt};
use crate::error::{Error, Result};
use crate::ids::OwnTopic;
use crate::log::append::{AppendFailure, Appender, PlacedRuns, Sealed};
use crate::log::frame::{EncodedFrame, FrameNumbers, PlacedBatch};
use crate::log::home::Home;
use crate::log::ledger::{Judged, Ledger, ReserveShare, Terms, Undo};
use crate::log::own::{Change, OwnRecord, own_partition};
use crate::log::pipe::{Answer, Done, Group, IDLE_BEFORE_COVER, Job, Next, Pending, Taken, ToSync};
use crate::log::producer::PRODUCERS_MAX;
use crate::log::shared::Shared;
use crate::log::snapshot::{LogSnapshot, StoredOwn, StoredPartition};
use crate::log::transaction::Mark;
use crate::record::batch::{BatchBuilder, Compression, TimestampType};
use crate::traffic::Volume;
use crate::worker::{self, Patience, Step};

/// What the writer thread owns.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) home: Arc<Home>,
    pub(crate) ledger: Ledger,
    pub(crate) appender: Appender,
    /// No frame says yet that the last commit is durable.
    pub(crate) uncovered: bool,
    /// As of where the last snapshot was written: a segment that cannot be made is tried again without another one.
    pub(crate) snapshot_at: Option<u64>,
    /// What is in objects is there at the next start too.
    pub(crate) objects_last: bool,
    /// More producers than this are trimmed before the next group.
    pub(crate) producers_max: usize,
}

/// What the jobs of one group have come to.
#[derive(Debug, Default)]
struct Gathered {
    pending: Vec<Pending>,
    durabilities: Vec<Durability>,
    changes: Vec<Change>,
    records: Vec<OwnRecord>,
    batches: Vec<PlacedBatch>,
    marks: Vec<Mark>,
    taken: Taken,
}

impl Writer {
    /// Does what there is to do next; done when the pipe is closed and all of it is written and synced.
    pub(crate) fn step(&mut self, patience: Patience) -> Step {
        let group_bytes_max = self.shared.settings.wal_commit_bytes_max;
        let idle_after = self.uncovered.then_some(IDLE_BEFORE_COVER);
        match self.shared.pipe.next(group_bytes_max, idle_after, patience) {
            Next::Commit(jobs) => self.commit(jobs),
            Next::Idle => return self.cover(),
            Next::Nothing => return Step::Idle,
            Next::Close if !self.shared.pipe.drained(patience) => return Step::Idle,
            // The cover is the last frame: it is synced too before the end.
            Next::Close => match self.cover() {
                Step::Worked => {}
                _ => return Step::Done,
            },
        }
        Step::Worked
    }

    /// Writes an empty frame whose `durable_end` proves the last commit durable, once it is.
    fn cover(&mut self) -> Step {
        let durable = self.shared.durable_end.load(Ordering::Acquire) == self.appender.end;
        if !self.uncovered || !durable || self.shared.read_only().is_some() || self.appender.open_segment().is_none() {
            return Step::Idle;
        }
        let now_us = self.appender.commit_time_us(self.shared.clock.now_us());
        match self.write_frame(now_us, Vec::new()) {
            Ok(_) => self.uncovered = false,
            // The next silence tries again.
            Err(AppendFailure::Undone(_)) => return Step::Idle,
            Err(AppendFailure::Broken(error)) => {
                self.shared.set_read_only(&error.to_string());
                return Step::Idle;
            }
        }
        self.hand_over(Gathered::default(), Vec::new(), true);
        Step::Worked
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        if let Some(reason) = self.shared.read_only() {
            let error = Error::ReadOnly { reason };
            for job in jobs {
                self.refuse(job.answer, &error);
            }
            return;
        }
        self.bound_producers();
        let (jobs, bytes) = self.that_fit(jobs);
        let share = share_of(&jobs);
        // Who only asks needs no segment of its own.
        let writes = self.appender.segment.is_none() || jobs.iter().any(|job| !job.request.cut);
        if writes && let Err(error) = self.make_room(bytes, share) {
            self.refuse_or_retry(jobs, &error, share);
            return;
        }
        let now_us = self.appender.commit_time_us(self.shared.clock.now_us());
        let mut undo = Vec::new();
        let mut gathered = self.gather(jobs, now_us, &mut undo);
        match self.write_gathered(now_us, &mut gathered, &mut undo) {
            Ok(runs) => {
                let urgent = answer_unsynced(&self.shared, &mut gathered);
                self.hand_over(gathered, runs, urgent);
            }
            Err(failure) => {
                self.ledger.take_back(&mut undo, 0);
                let error = match failure {
                    AppendFailure::Undone(error) => error,
                    AppendFailure::Broken(error) => self.shared.set_read_only(&error.to_string()),
                };
                for pending in gathered.pending {
                    self.refuse(pending.answer, &error);
                }
            }
        }
    }

    /// The first jobs that fit one frame, with all that the ends of transactions add to them, and their bytes; at least
    /// one. The others wait for the next.
    fn that_fit(&self, mut jobs: Vec<Job>) -> (Vec<Job>, u64) {
        let limit = self.shared.settings.wal_commit_bytes_max;
        let (mut count, mut bytes) = (0, 0);
        for job in &jobs {
            let more = job.bytes + self.ledger.ends_bytes(&job.request);
            if count > 0 && bytes + more > limit {
                break;
            }
            bytes += more;
            count += 1;
        }
        self.shared.pipe.put_back(jobs.split_off(count));
        (jobs, bytes)
    }

    /// Answers a write that cannot be taken; whoever has gone away did not want to know.
    fn refuse(&self, answer: Answer, error: &Error) {
        self.shared.refused.note(error, self.shared.clock.now_us());
        let _ = answer.send(Err(error.clone()));
    }

    /// Keeps the memory of producers bounded between snapshots too; a scan of all of them comes once in many new ones.
    fn bound_producers(&mut self) {
        let Ledger { producers, own, .. } = &mut self.ledger;
        if producers.len() > self.producers_max {
            let now_us = self.appender.last_commit_time_us;
            producers.trim(now_us, |partition| own.topics.contains_key(&partition.topic));
            self.producers_max = PRODUCERS_MAX.max(producers.len()) / 4 * 5;
        }
    }

    /// Room for the next frame: in the open segment or in a new one. On a full disk the reserve is given up for those who
    /// may take of it.
    fn make_room(&mut self, bytes: u64, share: ReserveShare) -> Result<()> {
        let rolls = self.appender.is_full(bytes);
        let made = self.try_room(bytes, share);
        if share == ReserveShare::None {
            // As long as the reserve is held, nothing else tells that records of clients have no room.
            match &made {
                Err(Error::Full { .. }) => self.shared.disk_full.store(true, Ordering::Release),
                Ok(()) if rolls => self.shared.disk_full.store(false, Ordering::Release),
                _ => {}
            }
        }
        made
    }

    fn try_room(&mut self, bytes: u64, share: ReserveShare) -> Result<()> {
        if self.appender.is_full(bytes) {
            return self.roll(share);
        }
        let has_reserve = self.shared.settings.wal_reserve_bytes > 0;
        // Nothing grows into the reserve, nor, once it is given up, beyond the half that a segment was made of.
        if share < ReserveShare::All && self.appender.lacks_room(bytes) {
            self.shared.need_reserve()?;
        }
        match self.appender.make_room(bytes) {
            Err(Error::Full { .. }) if share == ReserveShare::All && has_reserve => {
                self.shared.release_reserve()?;
                self.appender.make_room(bytes)
            }
            made => made,
        }
    }

    /// There is no room for all. Who may take more of the reserve may still find some there.
    fn refuse_or_retry(&mut self, jobs: Vec<Job>, error: &Error, share: ReserveShare) {
        let full = matches!(error, Error::Full { .. });
        let (better, refused): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|job| full && job.request.reserve_share() > share);
        for job in refused {
            self.refuse(job.answer, error);
        }
        if !better.is_empty() {
            self.commit(better);
        }
    }

    /// Judges the jobs in their order.
    fn gather(&mut self, jobs: Vec<Job>, now_us: i64, undo: &mut Vec<Undo>) -> Gathered {
        let mut gathered = Gathered::default();
        let settings = &self.shared.settings;
        let terms = Terms {
            now_us,
            commit_bytes_max: settings.wal_commit_bytes_max,
            offsets_bytes_max: settings.offsets_bytes_max,
            timeout_max_ms: settings.transaction_timeout_max_ms,
            id_expiration_ms: settings.transaction_id_expiration_ms,
        };
        for Job { request, answer, permit, bytes, came_at } in jobs {
            let commit = &request.commit;
            let batch_bytes = request.batch_bytes() + request.carried_bytes();
            gathered.durabilities.push(commit.durability);
            let partitions = commit
                .appends
                .iter()
                .map(|append| crate::ids::TopicPartition { topic: append.topic, partition: append.partition })
                .collect();
            let cuts = request.cut;
            // Who only asks needs no room, least of all when there is none.
            let room = if cuts { Ok(()) } else { self.shared.check_room(self.appender.end + bytes, &request) };
            let has_records = !request.commit.appends.is_empty();
            let judged = room.and_then(|()| self.ledger.judge(request, terms, undo));
            match &judged {
                Err(error) => self.shared.refused.note(error, now_us),
                Ok(_) if has_records => self.shared.refused.taken(),
                Ok(_) => {}
            }
            // Commits before it in this very frame are in it, and bear its time.
            let cut =
                (cuts && judged.is_ok()).then(|| Arc::new(LogSnapshot { last_commit_time_us: now_us, ..self.cut() }));
            let outcome = judged.map(|judged| {
                let Judged { changes, records, batches, appended, marks, transactions, producers, first_producer_id } =
                    judged;
                gathered.marks.extend(marks);
                gathered.changes.extend(changes);
                gathered.records.extend(records);
                take(&mut gathered.taken, &batches);
                gathered.batches.extend(batches);
                let receipt = Receipt { appended, transactions, commit_time_us: now_us };
                Done { receipt, partitions, first_producer_id, producers, cut }
            });
            gathered.pending.push(Pending { answer, outcome, permit, came_at, bytes: batch_bytes });
        }
        gathered
    }

    /// Writes what was gathered, if there is anything, as one frame.
    fn write_gathered(
        &mut self,
        now_us: i64,
        gathered: &mut Gathered,
        undo: &mut Vec<Undo>,
    ) -> Result<PlacedRuns, AppendFailure> {
        let mut batches = std::mem::take(&mut gathered.batches);
        for (topic, records) in by_topic(std::mem::take(&mut gathered.records)) {
            let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
            for record in &records {
                builder.push(now_us.div_euclid(1000), Some(&record.key), record.value.as_deref(), &[]);
            }
            let Some(batch) = builder.build(Compression::None) else { continue };
            let partition = own_partition(topic);
            let base_offset = self.ledger.place(partition, batch.header().last_offset_delta, undo);
            batches.push(PlacedBatch { partition, base_offset, batch, carried_us: None });
        }
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        let runs = self.write_frame(now_us, batches)?;
        self.uncovered = true;
        Ok(runs)
    }

    fn write_frame(&mut self, now_us: i64, batches: Vec<PlacedBatch>) -> Result<PlacedRuns, AppendFailure> {
        let numbers = FrameNumbers {
            writer_epoch: self.shared.epoch.0,
            sequence: self.appender.next_sequence,
            commit_time_us: now_us,
            durable_end: self.shared.durable_end.load(Ordering::Acquire),
            position: self.appender.end,
        };
        let frame = EncodedFrame::new(numbers, batches).ok_or_else(|| {
            AppendFailure::Undone(Error::TooLarge {
                what: "commit",
                bytes: u64::from(u32::MAX),
                setting: "wal.commit_bytes_max",
                limit_bytes: self.shared.settings.wal_commit_bytes_max,
            })
        })?;
        self.appender.write(&frame)
    }

    fn hand_over(&mut self, gathered: Gathered, runs: PlacedRuns, urgent: bool) {
        let Some(segment) = self.appender.segment.clone() else { return };
        let Gathered { changes, marks, pending, taken, .. } = gathered;
        let end = self.appender.end;
        let written_at = Instant::now();
        let (sealed, pipe) = (None, &self.shared.pipe);
        pipe.written(Group { end, segment, changes, runs, marks, sealed, pending, taken, written_at, urgent });
    }

    /// Behind all groups of the segment, so that its runs are let go when all of them are shown.
    fn hand_over_sealed(&self, sealed: Option<Sealed>) {
        let (Some(sealed), Some(segment)) = (sealed, self.appender.segment.clone()) else { return };
        self.shared.pipe.written(Group {
            end: self.appender.end,
            segment,
            changes: Vec::new(),
            runs: Vec::new(),
            marks: Vec::new(),
            sealed: Some(sealed),
            pending: Vec::new(),
            taken: Vec::new(),
            written_at: Instant::now(),
            urgent: false,
        });
    }

    /// Goes on to the next segment. On a full disk the reserve is given up for who may take of it.
    fn roll(&mut self, share: ReserveShare) -> Result<()> {
        let whole = self.appender.segment_bytes;
        let rolled = self.try_roll(whole);
        let full = matches!(rolled, Err(Error::Full { .. }));
        self.shared.disk_full.store(full, Ordering::Release);
        if !full || share == ReserveShare::None || self.shared.settings.wal_reserve_bytes == 0 {
            return rolled;
        }
        self.shared.release_reserve()?;
        // A smaller one: it holds no records of clients before there is room again.
        self.try_roll(whole.min(self.shared.settings.wal_reserve_bytes / 2))
    }

    /// Seals the segment, writes a snapshot, makes the next segment. Each step can be tried again, unless a sync has failed.
    fn try_roll(&mut self, segment_bytes: u64) -> Result<()> {
        let open = self.appender.open_segment().cloned();
        let sealed = self.appender.seal().map_err(|error| match open {
            Some(segment) if segment.sync_has_failed() => self.shared.set_read_only(&error.to_string()),
            _ => error,
        })?;
        self.hand_over_sealed(sealed);
        worker::crash_point("after a segment is sealed");
        if self.snapshot_at != Some(self.appender.end) {
            self.snapshot()?;
            self.snapshot_at = Some(self.appender.end);
        }
        worker::crash_point("after a snapshot of the log");
        let segment = self.appender.start_segment(segment_bytes)?;
        worker::crash_point("after a segment is made");
        if let Err(error) = self.home.note_newest(self.appender.disk.as_ref(), Some(segment.base)) {
            // It is written to all the same: only that it is not missed should it be lost.
            tracing::warn!(%error, segment = segment.base, "the data directory does not know of its newest segment");
        }
        worker::crash_point("after a segment is noted");
        self.shared.published.write().segments.insert(segment.base, segment);
        Ok(())
    }

    fn snapshot(&mut self) -> Result<()> {
        let snapshot = self.cut();
        snapshot.write(self.appender.disk.as_ref(), &self.appender.dir)?;
        let covered = LogSnapshot::sweep(self.appender.disk.as_ref(), &self.appender.dir)?;
        self.shared.snapshot_position.store(covered, Ordering::Release);
        Ok(())
    }

    /// Everything as of what was judged last.
    fn cut(&mut self) -> LogSnapshot {
        for topic in self.shared.swept.lock().drain(..) {
            self.ledger.own.deleted.remove(&topic);
        }
        let own = &self.ledger.own;
        let now_us = self.appender.last_commit_time_us;
        self.ledger.producers.trim(now_us, |partition| own.topics.contains_key(&partition.topic));
        let producers = self.ledger.producers.parts();
        let published = self.shared.published.read();
        let (ends, aborted) = (&self.ledger.ends, &mut self.ledger.aborted);
        // What was aborted matters as long as the log holds it.
        aborted.retain(|partition, ranges| {
            let hot_start = published.partitions.get(partition).map_or(0, |view| view.hot_start());
            ranges.retain(|range| range.last_offset >= hot_start);
            !ranges.is_empty() && own.topics.contains_key(&partition.topic)
        });
        // When it was committed stands in the objects too.
        let committed = &mut self.ledger.committed;
        committed.retain(|partition, ranges| {
            let view = published.partitions.get(partition).filter(|_| self.objects_last);
            let tiered_end = view.map_or(0, |view| view.tiered_end);
            ranges.retain(|range| range.last_offset >= tiered_end);
            !ranges.is_empty() && own.topics.contains_key(&partition.topic)
        });
        let partitions = ends.iter().map(|(partition, end)| {
            let view = published.partitions.get(partition);
            StoredPartition {
                partition: *partition,
                end: *end,
                log_start: view.map_or(0, |view| view.log_start),
                damaged: view.map(|view| view.damaged.clone()).unwrap_or_default(),
                aborted: aborted.get(partition).cloned().unwrap_or_default(),
            }
        });
        LogSnapshot {
            position: self.appender.end,
            next_sequence: self.appender.next_sequence,
            last_commit_time_us: self.appender.last_commit_time_us,
            own: StoredOwn::new(own),
            partitions: partitions.collect(),
            producers,
            damaged: published.damaged.clone(),
            deleted: own.deleted.iter().copied().collect(),
            committed: committed.iter().map(|(partition, ranges)| (*partition, ranges.clone())).collect(),
        }
    }
}

/// What all of them may take of the reserve.
fn share_of(jobs: &[Job]) -> ReserveShare {
    jobs.iter().map(|job| job.request.reserve_share()).min().unwrap_or(ReserveShare::None)
}

/// Answers those who do not wait for the sync; says whether anybody else is there.
fn answer_unsynced(shared: &Shared, gathered: &mut Gathered) -> bool {
    let mut waiting = Vec::new();
    for (mut pending, durability) in gathered.pending.drain(..).zip(gathered.durabilities.drain(..)) {
        let unsynced = durability == Durability::Written
            && matches!(&pending.outcome, Ok(done) if done.receipt.appended.iter().all(|one| !one.duplicate));
        if unsynced {
            shared.published.read().complete(&mut pending.outcome);
            shared.meter.committed(pending.bytes, pending.came_at);
            let _ = pending.answer.send(pending.outcome);
        } else {
            waiting.push(pending);
        }
    }
    gathered.pending = waiting;
    !gathered.pending.is_empty()
}

/// Counts what clients have written; markers and what is carried over are not theirs.
fn take(taken: &mut Taken, batches: &[PlacedBatch]) {
    for PlacedBatch { partition, batch, carried_us, .. } in batches {
        let header = batch.header();
        if carried_us.is_some() || header.is_control() {
            continue;
        }
        if taken.last().is_none_or(|(topic, _)| *topic != partition.topic) {
            taken.push((partition.topic, Volume::default()));
        }
        if let Some((_, volume)) = taken.last_mut() {
            volume.records += u64::try_from(header.record_count).unwrap_or(0);
            volume.bytes += batch.bytes().len() as u64;
        }
    }
}

fn by_topic(records: Vec<OwnRecord>) -> BTreeMap<OwnTopic, Vec<OwnRecord>> {
    let mut sorted: BTreeMap<OwnTopic, Vec<OwnRecord>> = BTreeMap::new();
    for record in records {
        sorted.entry(record.topic).or_default().push(record);
    }
    sorted
}

/// Syncs, publishes and answers what waits for it; done when the writer is gone.
pub(crate) fn step_syncer(shared: &Shared, patience: Patience) -> Step {
    let interval = Duration::from_millis(shared.settings.wal_sync_interval_max_ms);
    match shared.pipe.to_sync(interval, patience) {
        ToSync::Groups(groups) => sync(shared, groups),
        ToSync::Nothing => return Step::Idle,
        ToSync::Gone => return Step::Done,
    }
    shared.pipe.synced();
    Step::Worked
}

fn sync(shared: &Shared, groups: Vec<Group>) {
    let Some(last) = groups.last() else { return };
    let end = last.end;
    worker::crash_point("before a sync");
    // A segment is sealed and synced before the next one is made: the last one's sync covers all.
    let synced = if end > shared.durable_end.load(Ordering::Acquire) {
        let began_at = Instant::now();
        let synced = last.segment.sync();
        shared.meter.synced(began_at.elapsed(), groups.iter().map(|group| group.pending.len()).sum());
        synced
    } else {
        Ok(())
    };
    let failure = match (synced, shared.read_only()) {
        (Ok(()), None) => None,
        (Ok(()), Some(reason)) => Some(Error::ReadOnly { reason }),
        (Err(error), _) => Some(shared.set_read_only(&format!("sync {}: {error}", last.segment.path.display()))),
    };
    if let Some(error) = failure {
        for pending in groups.into_iter().flat_map(|group| group.pending) {
            let _ = pending.answer.send(Err(error.clone()));
        }
        return;
    }
    worker::crash_point("after a sync");
    shared.durable_end.store(end, Ordering::Release);
    let answers = shared.publish(groups);
    for Pending { answer, outcome, permit, came_at, bytes } in answers {
        if outcome.is_ok() {
            shared.meter.committed(bytes, came_at);
        }
        // Whoever has gone away did not want to know.
        let _ = answer.send(outcome);
        drop(permit);
    }
}
