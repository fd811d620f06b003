//! The data directory: its own file, segments, footers and snapshots, read from the first byte to the last.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::ids::{OwnTopic, TopicId, TopicPartition};
use crate::log::closed::{self, CLOSED};
use crate::log::disk::{Access, Disk, Held, SystemDisk};
use crate::log::frame::{DirectoryEntry, FRAME_ALIGN};
use crate::log::frames::{FoundFrame, walk};
use crate::log::home::{self, Home, RESERVE_FILE};
use crate::log::index::Run;
use crate::log::own::{Change, OwnState};
use crate::log::segment::{
    Extent, Origin, SEGMENT_HEADER_BYTES, Segment, decode_header, position_in_name, segment_path,
};
use crate::log::snapshot::{self, LogSnapshot};
use crate::object::past::Past;
use crate::record::batch::{BatchHeader, BatchLimits, CheckedBatch};
use crate::verify::Findings;
use crate::verify::footers::Seen;
use crate::verify::frames::{FrameJudge, check_batches};
use crate::view::Topic;

/// What the data directory says, for whoever looks at the bucket.
#[derive(Debug)]
pub(super) struct LogView {
    pub(super) origin: Origin,
    /// The directory's claims of its bucket.
    pub(super) past: Past,
    /// `None` if no snapshot is whole and the log's beginning is gone.
    pub(super) own: Option<OwnState>,
    judge: FrameJudge,
    /// Held until all is read.
    _lock: Option<Box<dyn Held>>,
}

/// What is hot of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hot {
    pub(super) start: i64,
    pub(super) end: i64,
}

impl LogView {
    /// All topics but our own, by id.
    pub(super) fn topics(&self) -> BTreeMap<TopicId, Arc<Topic>> {
        let topics = self.own.iter().flat_map(|own| own.topics.values());
        topics.filter(|topic| !topic.internal).map(|topic| (topic.id, Arc::clone(topic))).collect()
    }

    /// What the log holds of a partition up to its end.
    pub(super) fn hot(&self, partition: TopicPartition) -> Hot {
        let end = self.judge.ends.get(&partition).copied().unwrap_or(0);
        let start = self.judge.held.get(&partition).map_or(end, |held| held.start_of_last(end));
        Hot { start, end }
    }

    /// The first offset somebody asked for, if anybody did.
    pub(super) fn log_start(&self, partition: TopicPartition) -> i64 {
        self.own.as_ref().and_then(|own| own.log_starts.get(&partition)).copied().unwrap_or(0)
    }
}

/// The walk through the segments.
struct Look<'a> {
    findings: &'a mut Findings,
    origin: Origin,
    judge: FrameJudge,
    /// What our own topics' records have made so far; `None` if the log's beginning is gone and no snapshot is whole.
    own: Option<OwnState>,
    /// Nothing is damaged or gone since `own` was known for sure.
    follows: bool,
    /// Where the first segment begins.
    first: u64,
    /// By position; each is judged when the walk comes to it.
    snapshots: BTreeMap<u64, LogSnapshot>,
    /// Position after the last frame.
    end: u64,
    /// How far the log went, if it was closed.
    closed_end: Option<u64>,
}

/// Looks at everything; `None` if the directory does not say whose it is.
///
/// # Errors
/// [`Error::Config`] if a node runs or a newer program wrote it, [`Error::Io`].
pub(super) fn look(data_dir: &Path, findings: &mut Findings) -> Result<Option<LogView>> {
    let lock = home::hold_to_read(data_dir)?;
    let place = data_dir.join("meta").display().to_string();
    let meta = findings.judged(&place, Home::read_meta(&SystemDisk, data_dir))?;
    let place = data_dir.join("meta.copy").display().to_string();
    let copy = findings.judged(&place, Home::read_copied_meta(&SystemDisk, data_dir))?.flatten();
    let Some(meta) = meta.or(copy) else { return Ok(None) };
    let origin = meta.origin();
    let dir = data_dir.join("log");
    let names = SystemDisk.list(&dir).map_err(Error::io(format!("list {}", dir.display())))?;
    findings.report.files += 1;
    let known = |name: &&String| {
        let numbered = position_in_name(name, ".wal").or_else(|| position_in_name(name, ".snap"));
        numbered.is_some() || [RESERVE_FILE, CLOSED].contains(&name.as_str())
    };
    if let Some(lost) = meta.lost_segment(&names) {
        let what = "gone: it is the log's newest segment, and with it went what was acknowledged last";
        findings.violation(segment_path(&dir, lost).display(), what);
    }
    for name in names.iter().filter(|name| !known(name)) {
        findings.note(dir.join(name).display(), "nothing of the log's");
    }
    let closed_end = closed_end(&dir, &names, findings)?;
    let mut look = Look {
        findings,
        origin,
        judge: FrameJudge::default(),
        own: None,
        follows: false,
        first: 0,
        snapshots: BTreeMap::new(),
        end: 0,
        closed_end,
    };
    look.read_snapshots(&dir, &names)?;
    let bases: BTreeSet<u64> = names.iter().filter_map(|name| position_in_name(name, ".wal")).collect();
    look.segments(&dir, &bases)?;
    let Look { own, judge, .. } = look;
    Ok(Some(LogView { origin, past: meta.past, own, judge, _lock: lock }))
}

/// How far the log went when it was closed; a damaged mark of it is told of.
fn closed_end(dir: &Path, names: &[String], findings: &mut Findings) -> Result<Option<u64>> {
    let end = closed::read(&SystemDisk, dir, names)?;
    if end.is_none() && names.iter().any(|name| name == CLOSED) {
        let what = "damaged: whether the newest segment is as long as it was when the log was closed cannot be told";
        findings.violation(dir.join(CLOSED).display(), what);
    }
    Ok(end)
}

impl Look<'_> {
    fn read_snapshots(&mut self, dir: &Path, names: &[String]) -> Result<()> {
        for position in snapshot::positions(names) {
            let place = snapshot::snapshot_path(dir, position).display().to_string();
            let read = LogSnapshot::read(&SystemDisk, dir, position);
            self.findings.report.files += 1;
            if let Some((snapshot, bytes)) = self.findings.judged(&place, read)? {
                self.findings.report.bytes += bytes;
                self.snapshots.insert(position, snapshot);
            }
        }
        Ok(())
    }

    fn segments(&mut self, dir: &Path, bases: &BTreeSet<u64>) -> Result<()> {
        let first = bases.first().copied().unwrap_or(0);
        self.first = first;
        if first > 0 && self.snapshots.is_empty() {
            self.findings.violation(dir.display(), "the log's beginning is gone and no snapshot is whole");
        }
        if first == 0 {
            (self.own, self.follows) = (Some(OwnState::default()), true);
            self.judge.next_sequence = Some(0);
        }
        self.end = first;
        let mut rest = bases.iter().copied().peekable();
        while let Some(base) = rest.next() {
            if base != self.end {
                let what = format!("the segment from position {} to {base} is gone", self.end);
                self.findings.violation(segment_path(dir, self.end).display(), what);
                self.broken();
            }
            self.segment(dir, base, rest.peek().copied())?;
        }
        self.snapshots_up_to(dir, self.end);
        for (position, _) in std::mem::take(&mut self.snapshots) {
            let place = snapshot::snapshot_path(dir, position);
            self.findings.violation(place.display(), format!("the log ends at {} before it", self.end));
        }
        Ok(())
    }

    /// What comes now need not follow from what came before.
    fn broken(&mut self) {
        self.judge.damage();
        self.follows = false;
    }

    fn segment(&mut self, dir: &Path, base: u64, next: Option<u64>) -> Result<()> {
        let path = segment_path(dir, base);
        let place = path.display().to_string();
        let file = SystemDisk.open(&path, Access::Read).map_err(Error::io(format!("open {place}")))?;
        let length = file.bytes_len().map_err(Error::io(format!("measure {place}")))?;
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        let read = file.read_at(&mut header, 0).map_err(Error::io(format!("read {place}")))?;
        let origin = decode_header(&header[..read], base, self.origin.cluster_id, &place)?;
        let segment = Segment::new(path, base, file, Extent { end: base, ..Extent::default() });
        self.findings.report.files += 1;
        let footer = segment.read_footer()?;
        if let Some(written_by) = origin.filter(|origin| origin.epoch > self.origin.epoch) {
            let (theirs, ours) = (written_by.epoch.0, self.origin.epoch.0);
            self.findings.violation(&place, format!("written with epoch {theirs}, the directory is at {ours}"));
        }
        let sealed = footer.is_some() || next.is_some();
        let reach = base + length.saturating_sub(SEGMENT_HEADER_BYTES);
        let closed = self.closed_end.filter(|closed| *closed >= base);
        let limit = match (&footer, next) {
            (Some(footer), _) => footer.end,
            (None, Some(next)) => next,
            (None, None) => reach,
        };
        if let Some(closed) = closed.filter(|closed| !sealed && *closed > reach) {
            let what = format!("ends at position {reach}, and the log went to {closed} when it was closed");
            self.findings.violation(&place, what);
        }
        let durable_end = closed.filter(|closed| !sealed && *closed <= reach);
        let frames_before = self.findings.report.frames;
        let (seen, damaged) =
            self.frames(dir, &segment, durable_end.unwrap_or(limit), sealed || durable_end.is_some())?;
        if origin.is_none() && (sealed || self.findings.report.frames > frames_before) {
            self.findings.violation(&place, "its header is damaged");
        }
        match footer {
            Some(footer) => {
                self.findings.report.bytes += length;
                if damaged == 0 {
                    self.footer(&segment, &footer, &seen)?;
                }
                self.judge.next_sequence = Some(footer.next_sequence);
            }
            None if next.is_some() => self.findings.violation(&place, "its footer is damaged or missing"),
            None => {
                self.findings.report.bytes += self.end - base + SEGMENT_HEADER_BYTES;
                self.tail(&segment, limit)?;
            }
        }
        Ok(())
    }

    /// Walks the frames; gives the runs they have, and how many ranges are damaged.
    fn frames(&mut self, dir: &Path, segment: &Segment, limit: u64, sealed: bool) -> Result<(Seen, usize)> {
        let mut seen = Seen::default();
        let walked = walk(segment, limit, sealed, |frame| {
            self.snapshots_up_to(dir, frame.header.position);
            self.frame(segment, &frame, &mut seen)
        })?;
        for (start, end) in &walked.damaged {
            self.findings.violation(segment.place(*start, end - start), "damaged: a frame's checksum does not match");
        }
        if !walked.damaged.is_empty() {
            self.broken();
        }
        self.end = walked.end;
        Ok((seen, walked.damaged.len()))
    }

    fn frame(&mut self, segment: &Segment, frame: &FoundFrame<'_>, seen: &mut Seen) -> Result<()> {
        let header = &frame.header;
        self.findings.report.frames += 1;
        if frame.whole {
            for wrong in self.judge.header(header) {
                self.findings.violation(segment.place(header.position, header.frame_bytes()), wrong);
            }
        } else {
            self.broken();
        }
        for entry in &frame.entries {
            let place = segment.place(header.position + entry.frame_offset, u64::from(entry.bytes));
            let TopicPartition { topic, partition } = entry.partition;
            let whose = format!("offsets {} to {} of {topic}/{partition}", entry.base_offset, entry.last_offset);
            let start = usize::try_from(entry.frame_offset).unwrap_or(usize::MAX);
            let bytes = frame.bytes.get(start..start.saturating_add(entry.bytes as usize)).unwrap_or_default();
            let sound = match check_batches(entry, bytes) {
                Ok(counts) => {
                    self.findings.report.batches += counts.batches;
                    self.findings.report.records += counts.records;
                    true
                }
                Err(wrong) => {
                    self.findings.violation(&place, format!("{whose}: {wrong}"));
                    self.follows = false;
                    false
                }
            };
            // Of a damaged frame only what has checksums of its own is believed.
            if frame.whole || sound {
                if let Some(wrong) = self.judge.entry(header, entry) {
                    self.findings.violation(&place, format!("{whose}: {wrong}"));
                }
                seen.put(entry.partition, Run::of_entry(entry, header));
            }
            if sound {
                self.own_records(entry, bytes, &place)?;
            }
        }
        Ok(())
    }

    /// Applies the records of our own topics, whose batches are whole.
    fn own_records(&mut self, entry: &DirectoryEntry, bytes: &[u8], place: &str) -> Result<()> {
        let is_own = OwnTopic::ALL.into_iter().any(|own| TopicId::own(own) == entry.partition.topic);
        let Some(own) = self.own.as_mut().filter(|_| is_own && !entry.carried) else { return Ok(()) };
        let mut rest = bytes;
        while let Ok(header) = BatchHeader::parse(rest) {
            let Some((batch, behind)) = rest.split_at_checked(header.total_bytes()) else { break };
            let batch = CheckedBatch::parse_stored(Bytes::copy_from_slice(batch))?;
            for record in batch.records(BatchLimits::STORED)?.iter() {
                let record = record?;
                let read = Change::from_record(record.key.unwrap_or_default(), record.value, place);
                if let Some(change) = self.findings.judged(place, read)? {
                    own.apply(&change);
                    if let Change::Topic { id, value: None } = change {
                        self.judge.ends.retain(|partition, _| partition.topic != id);
                    }
                }
            }
            rest = behind;
        }
        Ok(())
    }

    /// What the footer says against what was seen.
    fn footer(&mut self, segment: &Segment, footer: &crate::log::footer::Footer, seen: &Seen) -> Result<()> {
        let mut told = Vec::new();
        let place = segment.path.display().to_string();
        for (partition, stretch) in footer.stretches.iter().map(|stored| stored.stretch(segment.base)) {
            let crate::log::index::Held::Footer(part) = stretch.held else { continue };
            let bytes = segment.read_up_to(footer.end + part.at, part.bytes as usize)?;
            let whole = bytes.len() == part.bytes as usize && crc_fast::crc32_iscsi(&bytes) == part.crc;
            match crate::log::footer::decode_runs(&bytes).filter(|_| whole) {
                Some(runs) => told.push((partition, stretch, runs)),
                None => {
                    let place = segment.place(footer.end + part.at, u64::from(part.bytes));
                    self.findings.violation(place, "part of its footer is damaged");
                    return Ok(());
                }
            }
        }
        for wrong in seen.against(&told) {
            self.findings.violation(&place, format!("its footer: {wrong}"));
        }
        if self.judge.next_sequence.is_some_and(|next| next != footer.next_sequence) {
            self.findings.violation(&place, format!("its footer: {} is no next sequence", footer.next_sequence));
        }
        Ok(())
    }

    /// Bytes behind the last frame are what a power cut has left of one that nobody was told of.
    fn tail(&mut self, segment: &Segment, limit: u64) -> Result<()> {
        let left = limit.saturating_sub(self.end).min(FRAME_ALIGN);
        let bytes = segment.read_up_to(self.end, usize::try_from(left).unwrap_or(0))?;
        if bytes.iter().any(|byte| *byte != 0) {
            let what = "bytes behind the last frame that nobody was told of; the next start cuts them off";
            self.findings.note(segment.place(self.end, left), what);
        }
        Ok(())
    }

    /// Judges the snapshots as of positions up to this one.
    fn snapshots_up_to(&mut self, dir: &Path, position: u64) {
        while let Some(first) = self.snapshots.first_entry().filter(|first| *first.key() <= position) {
            let (at, snapshot) = first.remove_entry();
            let place = snapshot::snapshot_path(dir, at).display().to_string();
            for wrong in self.snapshot(&snapshot) {
                self.findings.violation(&place, wrong);
            }
            if at < self.first {
                let what =
                    format!("gone: the log begins at position {}, its snapshot needs it from {at} on", self.first);
                self.findings.violation(segment_path(dir, at).display(), what);
            }
            for damaged in &snapshot.damaged {
                self.findings.note(&place, format!("known to be damaged: {damaged}"));
            }
            (self.own, self.follows) = (Some(snapshot.own_state()), at >= self.first);
        }
    }

    /// What a snapshot says against what the log has said up to it; what it alone knows is taken from it.
    fn snapshot(&mut self, snapshot: &LogSnapshot) -> Vec<String> {
        let mut wrong = Vec::new();
        let judge = &mut self.judge;
        if let Some(next) = judge.next_sequence.filter(|next| *next != snapshot.next_sequence) {
            wrong.push(format!("sequence {} is next where the log says {next}", snapshot.next_sequence));
        }
        if let Some(last) = judge.last_commit_us.filter(|last| *last > snapshot.last_commit_time_us) {
            wrong.push(format!("last commit time {} us where the log has {last}", snapshot.last_commit_time_us));
        }
        judge.next_sequence = Some(snapshot.next_sequence);
        judge.last_commit_us = Some(snapshot.last_commit_time_us);
        let own = snapshot.own_state();
        // No record says that a deleted topic is swept.
        self.own.iter_mut().for_each(|said| said.deleted.clone_from(&own.deleted));
        if let Some(said) = self.own.as_ref().filter(|_| self.follows)
            && *said != own
        {
            wrong.push("what it says of topics, definitions, offsets and transactions is not what the log says".into());
        }
        for stored in snapshot.partitions.iter().filter(|stored| own.topic_of(stored.partition).is_ok()) {
            let TopicPartition { topic, partition } = stored.partition;
            let said = judge.ends.insert(stored.partition, stored.end);
            if let Some(said) = said.filter(|said| *said != stored.end) {
                wrong.push(format!("{topic}/{partition} ends at {} where the log says {said}", stored.end));
            }
            for lost in &stored.damaged {
                judge.held.entry(stored.partition).or_default().add(lost.start, lost.end);
                let (start, end) = (lost.start, lost.end);
                self.findings
                    .note(&lost.place, format!("offsets {start}..{end} of {topic}/{partition} are known lost"));
            }
        }
        wrong
    }
}
