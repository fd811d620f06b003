//! Recovery: from the files of the log to what the writer and the readers know.
//!
//! 1. The newest whole snapshot gives our own topics' state, producers and ends as of its position.
//! 2. Segments below it are sealed: their footers give the stretches (one whose footer is gone is walked).
//! 3. Segments from it on (usually one) are walked frame by frame, and what they say is replayed.
//! 4. The tail that is kept is written again and synced, what is torn is cut off durably, before anybody is shown anything.
//!
//! What was carried over is found twice if the process ended before the original was removed: the later copy counts.
//! Offsets that a segment held which is gone are missing between older copies and what came after: as long as nothing
//! is damaged, such copies are left-overs and dropped.
//!
//! Nothing damaged is cut: it is named, and the rest is served.

mod doubt;
mod proven;

use std::collections::HashMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::ids::{OwnTopic, ProducerIdentity, TopicId, TopicPartition};
use crate::log::append::{Appender, Sealed};
use crate::log::closed;
use crate::log::disk::{Access, Disk};
use crate::log::footer::Footer;
use crate::log::frame::DirectoryEntry;
use crate::log::frames::{FoundFrame, walk};
use crate::log::index::{DamagedOffsets, Run, Runs, plausible};
use crate::log::ledger::Ledger;
use crate::log::own::Change;
use crate::log::producer::Producers;
use crate::log::published::{PartitionView, Published};
use crate::log::recover::doubt::EndedTransaction;
use crate::log::segment::{
    Extent, Origin, SEGMENT_HEADER_BYTES, Segment, decode_header, position_in_name, segment_path,
};
use crate::log::snapshot::{LogSnapshot, StoredPartition, covered};
use crate::log::transaction::{AbortedRange, CommittedRange, Mark};
use crate::record::batch::{BatchHeader, BatchLimits, CheckedBatch, Marker};

/// Bytes of a tail that are written again at once.
const WRITE_AGAIN_BYTES: usize = 1 << 20;

/// What recovery has found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) ledger: Ledger,
    pub(crate) published: Published,
    pub(crate) appender: Appender,
    pub(crate) snapshot_position: u64,
}

/// Builds up what is known, file by file.
struct Recovery {
    ledger: Ledger,
    published: Published,
    /// Frames below are in the snapshot: only their runs are taken.
    replay_from: u64,
    next_sequence: u64,
    last_commit_time_us: i64,
    limits: BatchLimits,
    /// Runs of the segment being walked.
    runs: HashMap<TopicPartition, Runs>,
    /// Transactions that the frame being walked ends, by what it says of their ids.
    ended: Vec<EndedTransaction>,
    /// Everything below was durable when the log was closed, and nothing has been written since.
    closed_end: Option<u64>,
}

/// Where and for whom to recover.
#[derive(Clone, Debug)]
pub(crate) struct RecoveryOptions {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: std::path::PathBuf,
    pub(crate) origin: Origin,
    pub(crate) segment_bytes: u64,
    pub(crate) limits: BatchLimits,
}

/// Recovers the log.
///
/// # Errors
/// [`Error::Io`], [`Error::Config`] for what a newer program wrote, [`Error::Corrupt`] if the log's beginning is gone
/// and no snapshot is whole.
pub(crate) fn recover(options: &RecoveryOptions) -> Result<Recovered> {
    let RecoveryOptions { disk, dir, .. } = options;
    let names = disk.list(dir).map_err(Error::io(format!("list {}", dir.display())))?;
    // A process that ended right after it had made a file may not have come to this, and what is written from now on would
    // lie behind a name that a power cut takes.
    disk.sync_dir(dir).map_err(Error::io(format!("sync folder {}", dir.display())))?;
    for name in names.iter().filter(|name| name.ends_with(".new")) {
        // Left by a process that ended while it replaced a file.
        disk.remove(&dir.join(name)).map_err(Error::io(format!("remove {name}")))?;
    }
    let (mut snapshot, passed_over) = LogSnapshot::newest(disk.as_ref(), dir, &names)?;
    if let Some(snapshot) = &mut snapshot {
        // The damage of a segment went with it.
        snapshot.damaged.retain(|place| names.iter().any(|name| place.contains(name.as_str())));
    }
    let mut bases: Vec<u64> = names.iter().filter_map(|name| position_in_name(name, ".wal")).collect();
    bases.sort_unstable();
    let replay_from = snapshot.as_ref().map_or(0, |snapshot| snapshot.position);
    check_covered(dir, &bases, replay_from, &passed_over)?;
    let mut recovery = Recovery::new(snapshot, options.limits);
    recovery.closed_end = closed::read(disk.as_ref(), dir, &names)?;
    for (place, reason) in passed_over {
        tracing::error!(
            place,
            reason,
            "a snapshot of the log is damaged; what it had is told from an older one and the log"
        );
        if !recovery.published.damaged.contains(&place) {
            recovery.published.damaged.push(place);
        }
    }
    let mut appender = Appender {
        disk: Arc::clone(disk),
        dir: dir.clone(),
        origin: options.origin,
        segment_bytes: options.segment_bytes,
        segment: None,
        end: replay_from,
        allocated: 0,
        next_sequence: 0,
        last_commit_time_us: 0,
        runs: HashMap::new(),
    };
    for (index, base) in bases.iter().enumerate() {
        match bases.get(index + 1) {
            Some(next) => recovery.sealed(options, *base, *next)?,
            // A snapshot is made after the segment before it is sealed.
            None if *base < replay_from => {
                recovery.sealed(options, *base, replay_from)?;
                appender.segment = recovery.published.segments.get(base).cloned();
            }
            None => recovery.last(options, *base, &mut appender)?,
        }
    }
    appender.next_sequence = recovery.next_sequence;
    appender.last_commit_time_us = recovery.last_commit_time_us;
    recovery.finish();
    closed::remove(disk.as_ref(), dir, &names)?;
    let Recovery { ledger, published, .. } = recovery;
    Ok(Recovered { ledger, published, appender, snapshot_position: covered(&names) })
}

/// Fails if segments or the snapshot that covers what was before them are not there.
fn check_covered(dir: &Path, bases: &[u64], replay_from: u64, passed_over: &[(String, String)]) -> Result<()> {
    if bases.is_empty() && replay_from > 0 {
        // A snapshot is made beside a segment, and the last one of those is never removed.
        let reason = "there is a snapshot of the log but no segment; restore the whole data directory, or begin from the \
                      object store with an empty one and --take-over";
        return Err(Error::Corrupt { place: dir.display().to_string(), reason: reason.to_owned() });
    }
    if bases.first().is_some_and(|first| *first > replay_from) {
        let damaged: String = passed_over.iter().map(|(place, reason)| format!("{place}: {reason}; ")).collect();
        let reason = format!(
            "{damaged}no whole snapshot covers the segments before position {}; without one topics, offsets and \
             transactions are not known; restore one of the .snap files of this folder from a backup",
            bases.first().copied().unwrap_or(0)
        );
        return Err(Error::Corrupt { place: dir.display().to_string(), reason });
    }
    Ok(())
}

impl Recovery {
    fn new(snapshot: Option<LogSnapshot>, limits: BatchLimits) -> Self {
        let snapshot = snapshot.unwrap_or_default();
        let mut own = snapshot.own.into_state();
        own.deleted = snapshot.deleted.into_iter().collect();
        let mut published = Published { own: own.clone(), damaged: snapshot.damaged, ..Published::default() };
        let producers = Producers::from_parts(snapshot.producers);
        for topic in own.topics.values() {
            for partition in 0..topic.partitions {
                published.partitions.insert(TopicPartition { topic: topic.id, partition }, Default::default());
            }
        }
        for (partition, offset) in &own.log_starts {
            if let Some(view) = published.partitions.get_mut(partition) {
                view.log_start = *offset;
            }
        }
        for (partition, producer, first_offset) in producers.open() {
            if let Some(view) = published.partitions.get_mut(&partition) {
                view.open.insert(producer.id, first_offset);
            }
        }
        let mut ledger = Ledger { own, producers, ..Ledger::default() };
        for StoredPartition { partition, end, log_start, damaged, aborted } in snapshot.partitions {
            ledger.ends.insert(partition, end);
            if !aborted.is_empty() {
                ledger.aborted.insert(partition, aborted.clone());
            }
            if let Some(view) = published.partitions.get_mut(&partition) {
                view.log_start = view.log_start.max(log_start);
                view.damaged = damaged;
                view.aborted = aborted;
            }
        }
        for (partition, ranges) in snapshot.committed {
            if let Some(view) = published.partitions.get_mut(&partition) {
                view.committed = ranges.clone();
            }
            ledger.committed.insert(partition, ranges);
        }
        Self {
            ledger,
            published,
            replay_from: snapshot.position,
            next_sequence: snapshot.next_sequence,
            last_commit_time_us: snapshot.last_commit_time_us,
            limits,
            runs: HashMap::new(),
            ended: Vec::new(),
            closed_end: None,
        }
    }

    /// A segment that is not the last one; the next one begins at `next`.
    fn sealed(&mut self, options: &RecoveryOptions, base: u64, next: u64) -> Result<()> {
        let segment = Arc::new(open_segment(options, base, Access::Read)?.0);
        self.published.segments.insert(base, Arc::clone(&segment));
        let footer = segment.read_footer()?.filter(|footer| footer.end == next);
        match footer {
            Some(footer) if next <= self.replay_from => {
                segment.set_extent(Extent { end: next, commit_times_us: footer.commit_times_us, sealed: true });
                for (partition, stretch) in footer.stretches.iter().map(|stored| stored.stretch(base)) {
                    if let Some(view) = self.published.partitions.get_mut(&partition) {
                        view.high_watermark = view.high_watermark.max(stretch.last_offset + 1);
                        view.runs.put_stretch(stretch);
                    }
                }
            }
            footer => {
                self.walk(&segment, next, true)?;
                segment.set_extent(Extent { end: next, sealed: true, ..segment.extent() });
                self.let_go(footer, base);
            }
        }
        Ok(())
    }

    /// The last segment: it may end in a torn write, or not have been made whole at all.
    fn last(&mut self, options: &RecoveryOptions, base: u64, appender: &mut Appender) -> Result<()> {
        let (segment, header_whole) = open_segment(options, base, Access::Write)?;
        let place = segment.path.display().to_string();
        let length = segment.file.bytes_len().map_err(Error::io(format!("measure {place}")))?;
        if let Some(footer) = segment.read_footer()? {
            // Sealed, but the process ended before it made the next one. The frames were synced before the footer.
            self.walk(&segment, footer.end, true)?;
            write_again(&segment, segment.file_offset(footer.end), length)
                .map_err(Error::io(format!("sync the footer of {place}")))?;
            segment.set_extent(Extent { end: footer.end, sealed: true, ..segment.extent() });
            appender.end = footer.end;
            self.let_go(Some(footer), base);
        } else {
            let limit = base + length.saturating_sub(SEGMENT_HEADER_BYTES);
            let proven = match self.closed_end.filter(|closed| *closed >= base) {
                Some(closed) if limit < closed => return Err(closed::cut_short(place, limit, closed, &options.dir)),
                Some(closed) => self.walk(&segment, closed, true)?,
                None => self.walk(&segment, limit, false)?,
            };
            let end = segment.extent().end;
            if end == base && !header_whole {
                // The process ended while it was made; nothing was ever written to it.
                options.disk.remove(&segment.path).map_err(Error::io(format!("remove {place}")))?;
                appender.end = base;
                return Ok(());
            }
            let at = segment.file_offset(end);
            let tail = || format!("sync the tail of {place}");
            segment.file.truncate(at).map_err(Error::io(tail()))?;
            // No more than it had: a small one was made on a full disk, and what is free there is for what frees more.
            let room = Some(at.max(length)).filter(|room| segment.file.allocate(*room).is_ok()).unwrap_or(at);
            write_again(&segment, segment.file_offset(proven), at).map_err(Error::io(tail()))?;
            appender.end = end;
            appender.allocated = room;
            appender.runs = std::mem::take(&mut self.runs);
        }
        let segment = Arc::new(segment);
        self.published.segments.insert(base, Arc::clone(&segment));
        appender.segment = Some(segment);
        Ok(())
    }

    /// What is in a footer need not be in memory.
    fn let_go(&mut self, footer: Option<Footer>, base: u64) {
        let mut sealed = Sealed::new();
        for stored in footer.iter().flat_map(|footer| &footer.stretches) {
            let (partition, stretch) = stored.stretch(base);
            sealed.entry(partition).or_default().push(stretch);
        }
        self.published.let_go(&sealed);
        self.runs.clear();
    }

    /// Takes a segment's frames in; gives the position below which the last of them proves everything durable.
    fn walk(&mut self, segment: &Segment, limit: u64, durable: bool) -> Result<u64> {
        self.runs.clear();
        let mut extent = Extent { end: segment.base, ..Extent::default() };
        let mut proven = segment.base;
        let walked = walk(segment, limit, durable, |frame| {
            let end = frame.header.position + frame.header.frame_bytes();
            extent.grow(end, frame.header.commit_time_us);
            if frame.whole {
                proven = proven.max(frame.header.durable_end);
            }
            self.frame(segment, &frame)
        })?;
        extent.end = walked.end;
        segment.set_extent(extent);
        for (start, end) in walked.damaged {
            let place = segment.place(start, end - start);
            tracing::error!(place, "damaged range in the log; everything else is served");
            if !self.published.damaged.contains(&place) {
                self.published.damaged.push(place);
            }
        }
        Ok(proven.min(walked.end))
    }

    fn frame(&mut self, segment: &Segment, frame: &FoundFrame<'_>) -> Result<()> {
        let header = &frame.header;
        let replay = header.position >= self.replay_from;
        if replay {
            self.next_sequence = self.next_sequence.max(header.sequence.saturating_add(1));
            self.last_commit_time_us = self.last_commit_time_us.max(header.commit_time_us);
            for entry in &frame.entries {
                if let Some(own) = OwnTopic::ALL.into_iter().find(|own| TopicId::own(*own) == entry.partition.topic) {
                    self.own_records(segment, frame, entry, own)?;
                }
            }
        }
        for entry in &frame.entries {
            let plausible = plausible(entry.base_offset, entry.last_offset);
            if !(plausible && (frame.directory_whole || self.is_believable(frame, entry, replay))) {
                continue;
            }
            // A batch below the end was noted where it stood first.
            let new = replay && !entry.carried && entry.base_offset >= self.ledger.end_of(entry.partition);
            self.index(entry, Run::of_entry(entry, header), segment);
            if new {
                self.note_producers(frame, entry);
            }
        }
        self.settle_ended(header.commit_time_us);
        Ok(())
    }

    /// Replays the records of one of our own topics. Those of a damaged batch are lost, and said so.
    fn own_records(
        &mut self,
        segment: &Segment,
        frame: &FoundFrame<'_>,
        entry: &DirectoryEntry,
        own: OwnTopic,
    ) -> Result<()> {
        let place = segment.place(frame.header.position + entry.frame_offset, u64::from(entry.bytes));
        for batch in batches_of(frame, entry) {
            let Ok(batch) = batch else {
                self.published.damaged.push(format!("{place}: records of {}", own.name()));
                continue;
            };
            let records = batch.records(self.limits)?;
            for record in records.iter() {
                let record = record?;
                let change = Change::from_record(record.key.unwrap_or_default(), record.value, &place)?;
                self.note_ended(&change);
                self.ledger.own.apply(&change);
                if let Change::Topic { id, value: None } = &change {
                    self.ledger.ends.retain(|partition, _| partition.topic != *id);
                }
                self.published.apply(&change);
            }
        }
        Ok(())
    }

    fn note_producers(&mut self, frame: &FoundFrame<'_>, entry: &DirectoryEntry) {
        if !self.published.partitions.contains_key(&entry.partition) {
            return;
        }
        let commit_time_us = frame.header.commit_time_us;
        for (header, bytes) in headers_of(frame, entry).filter(|(header, _)| header.producer_id >= 0) {
            let marker = header.is_control().then(|| marker_in(bytes)).flatten();
            self.note_producer(entry.partition, &header, marker, commit_time_us);
        }
    }

    /// What a batch means for its producer, and for the last stable offset of its partition.
    fn note_producer(
        &mut self,
        partition: TopicPartition,
        header: &BatchHeader,
        marker: Option<Marker>,
        commit_time_us: i64,
    ) {
        let producer = ProducerIdentity { id: header.producer_id, epoch: header.producer_epoch };
        let mark = if let Some(Marker { committed, .. }) = marker {
            self.end_open(partition, producer, header.base_offset, committed, commit_time_us)
        } else if header.is_control() {
            None
        } else {
            let noted = self.ledger.producers.note(partition, header, header.base_offset, commit_time_us);
            noted.and_then(|(_, began)| began)
        };
        if let Some(mark) = mark {
            self.published.mark(&mark, commit_time_us);
        }
    }

    fn end_open(
        &mut self,
        partition: TopicPartition,
        producer: ProducerIdentity,
        marker_offset: i64,
        committed: bool,
        commit_time_us: i64,
    ) -> Option<Mark> {
        let (_, first_offset) = self.ledger.producers.end(partition, producer, commit_time_us);
        let first_offset = first_offset?;
        let (producer_id, last_offset) = (producer.id, marker_offset);
        if committed {
            let range = CommittedRange { producer_id, first_offset, last_offset, committed_at_us: commit_time_us };
            self.ledger.committed.entry(partition).or_default().push(range);
        } else {
            let range = AbortedRange { producer_id, first_offset, last_offset };
            self.ledger.aborted.entry(partition).or_default().push(range);
        }
        Some(Mark::Ended { partition, producer_id: producer.id, marker_offset, committed })
    }

    /// Takes a run into the index. What is replayed begins where the partition ended: offsets skipped are damaged.
    fn index(&mut self, entry: &DirectoryEntry, run: Run, segment: &Segment) {
        let partition = entry.partition;
        self.runs.entry(partition).or_default().put(run, segment.base);
        let known_end = self.ledger.end_of(partition);
        // What made the topic may be what was damaged: a later record may make it known, and its offsets are given already.
        let may_come = !self.published.damaged.is_empty() && !self.ledger.own.deleted.contains(&partition.topic);
        if may_come {
            self.published.partitions.entry(partition).or_default();
        }
        let Some(view) = self.published.partitions.get_mut(&partition) else { return };
        if run.frame >= self.replay_from && !entry.carried {
            if run.base_offset > known_end && view.damage_at(known_end).is_none() {
                let place = segment.place(segment.base, run.frame - segment.base);
                view.damaged.push(DamagedOffsets { start: known_end, end: run.base_offset, place });
            }
            self.ledger.ends.insert(partition, run.last_offset + 1);
        }
        view.high_watermark = view.high_watermark.max(run.last_offset + 1);
        view.runs.put(run, segment.base);
    }

    /// Settles what is missing, and the ends: a partition that has not grown since the snapshot has the end it names.
    fn finish(&mut self) {
        let damaged = self.published.damaged.last().cloned();
        for change in damaged.iter().flat_map(|_| proven::grown(&self.published)).collect::<Vec<Change>>() {
            self.ledger.own.apply(&change);
            self.published.apply(&change);
        }
        let topics = &self.published.own.topics;
        self.published.partitions.retain(|partition, _| topics.contains_key(&partition.topic));
        for (partition, view) in &mut self.published.partitions {
            let end = self.ledger.end_of(*partition);
            let place = damaged.clone().or_else(|| view.damaged.last().map(|range| range.place.clone()));
            settle_gaps(view, end, place);
            view.high_watermark = view.high_watermark.max(end);
            if OwnTopic::ALL.into_iter().any(|own| TopicId::own(own) == partition.topic) {
                view.log_start = view.hot_start();
            }
        }
    }
}

/// What is missing between a partition's stretches, and up to its end, is damaged if anything is known to be; else what
/// lies before it are copies that were not needed any more when the segment that held the rest was removed.
fn settle_gaps(view: &mut PartitionView, end: i64, damaged: Option<String>) {
    let mut gaps = Vec::new();
    let mut next_offset = None;
    for stretch in view.runs.iter() {
        gaps.extend(next_offset.filter(|next| *next < stretch.base_offset).map(|next| (next, stretch.base_offset)));
        next_offset = Some(stretch.last_offset + 1);
    }
    gaps.extend(next_offset.filter(|next| *next < end).map(|next| (next, end)));
    for (start, end) in gaps {
        match &damaged {
            _ if view.damage_at(start).is_some() => {}
            Some(place) => view.damaged.push(DamagedOffsets { start, end, place: place.clone() }),
            None => view.runs.forget_below(end),
        }
    }
}

/// Writes a range of a segment's file once more, and syncs it. The system tells a failed sync once, and takes what it
/// could not write for written: what a process before this one has left there unsynced is on the disk only if it is
/// written again.
fn write_again(segment: &Segment, from: u64, to: u64) -> std::io::Result<()> {
    let mut at = from;
    while at < to {
        let length = usize::try_from(to - at).unwrap_or(usize::MAX).min(WRITE_AGAIN_BYTES);
        let mut bytes = vec![0; length];
        let read = segment.file.read_at(&mut bytes, at)?;
        if read == 0 {
            break;
        }
        segment.file.write_at(&mut [IoSlice::new(&bytes[..read])], at)?;
        at += read as u64;
    }
    segment.file.sync()
}

/// Opens a segment's file; says whether its header is whole.
fn open_segment(options: &RecoveryOptions, base: u64, access: Access) -> Result<(Segment, bool)> {
    let path = segment_path(&options.dir, base);
    let place = path.display().to_string();
    let file = options.disk.open(&path, access).map_err(Error::io(format!("open {place}")))?;
    let mut header = [0; SEGMENT_HEADER_BYTES as usize];
    let read = file.read_at(&mut header, 0).map_err(Error::io(format!("read {place}")))?;
    let origin = decode_header(&header[..read], base, options.origin.cluster_id, &place)?;
    let extent = Extent { end: base, ..Extent::default() };
    Ok((Segment::new(path, base, file, extent), origin.is_some()))
}

/// The bytes of an entry's run.
fn run_bytes<'a>(frame: &FoundFrame<'a>, entry: &DirectoryEntry) -> &'a [u8] {
    let start = usize::try_from(entry.frame_offset).unwrap_or(usize::MAX);
    frame.bytes.get(start..start.saturating_add(entry.bytes as usize)).unwrap_or_default()
}

/// The batches of a run, each checked.
fn batches_of(frame: &FoundFrame<'_>, entry: &DirectoryEntry) -> Vec<Result<CheckedBatch>> {
    let mut rest = run_bytes(frame, entry);
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let length = match BatchHeader::parse(rest) {
            Ok(header) if header.total_bytes() <= rest.len() => header.total_bytes(),
            Ok(_) => {
                batches.push(Err(Error::CorruptBatch { reason: "a batch does not fit its run".to_owned() }));
                break;
            }
            Err(error) => {
                batches.push(Err(error));
                break;
            }
        };
        let (batch, behind) = rest.split_at(length);
        batches.push(CheckedBatch::parse_stored(Bytes::copy_from_slice(batch)));
        rest = behind;
    }
    batches
}

/// The batches of a run: headers and bytes. The frame's checksum covers them; of a damaged frame only whole batches count,
/// and where they begin stands outside their own checksums, so that is told from what lies before.
fn headers_of<'a>(
    frame: &FoundFrame<'a>,
    entry: &DirectoryEntry,
) -> impl Iterator<Item = (BatchHeader, &'a [u8])> + 'a {
    let mut rest = run_bytes(frame, entry);
    let (whole, offsets) = (frame.whole, entry.base_offset..=entry.last_offset);
    let mut next_offset = Some(entry.base_offset);
    std::iter::from_fn(move || {
        loop {
            let mut header = BatchHeader::parse(rest).ok().filter(|header| header.total_bytes() <= rest.len())?;
            let (batch, behind) = rest.split_at(header.total_bytes());
            rest = behind;
            if !whole && CheckedBatch::parse_stored(Bytes::copy_from_slice(batch)).is_err() {
                next_offset = None;
                continue;
            }
            header.base_offset = next_offset.unwrap_or(header.base_offset);
            if offsets.contains(&header.base_offset) {
                next_offset = Some(header.last_offset() + 1);
                return Some((header, batch));
            }
            next_offset = None;
        }
    })
}

fn marker_in(batch: &[u8]) -> Option<Marker> {
    CheckedBatch::parse_stored(Bytes::copy_from_slice(batch)).ok().and_then(|batch| Marker::of(&batch))
}
