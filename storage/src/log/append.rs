//! The end of the log: where the next frame goes, in which file, and how a frame that failed is cut away again.
//!
//! Only the writer has one. A frame either ends up whole behind the last one, or the file is cut back to where it was;
//! if even that fails the log is [`Broken`] and takes nothing more.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ids::TopicPartition;
use crate::log::disk::Disk;
use crate::log::footer::{self, Footer};
use crate::log::frame::EncodedFrame;
use crate::log::index::{Run, Runs, Stretch};
use crate::log::segment::{Origin, Segment, full_or_io};
use crate::worker;

/// Runs as the index takes them.
pub(crate) type PlacedRuns = Vec<(TopicPartition, Run)>;

/// The stretches of a segment that was sealed, by partition: their runs are in its footer.
pub(crate) type Sealed = HashMap<TopicPartition, Vec<Stretch>>;

/// The end of the log.
#[derive(Debug)]
pub(crate) struct Appender {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) origin: Origin,
    pub(crate) segment_bytes: u64,
    /// The last one; sealed if the next could not be made yet. `None` before the first.
    pub(crate) segment: Option<Arc<Segment>>,
    /// Where the next frame goes.
    pub(crate) end: u64,
    /// Bytes the segment's file has room for.
    pub(crate) allocated: u64,
    pub(crate) next_sequence: u64,
    /// Largest commit time given out, us.
    pub(crate) last_commit_time_us: i64,
    /// Runs of the segment, for its footer.
    pub(crate) runs: HashMap<TopicPartition, Runs>,
}

/// Why a frame could not be written.
#[derive(Debug)]
pub(crate) enum AppendFailure {
    /// The log is as it was before.
    Undone(Error),
    /// What is on disk is not known any more.
    Broken(Error),
}

impl Appender {
    /// A commit time after all others.
    pub(crate) fn commit_time_us(&self, now_us: i64) -> i64 {
        now_us.max(self.last_commit_time_us + 1)
    }

    /// The segment frames can be written to.
    pub(crate) fn open_segment(&self) -> Option<&Arc<Segment>> {
        self.segment.as_ref().filter(|segment| !segment.extent().sealed)
    }

    /// Whether a new segment is due before `bytes` more. An empty one takes anything.
    pub(crate) fn is_full(&self, bytes: u64) -> bool {
        self.open_segment()
            .is_none_or(|segment| self.end > segment.base && segment.file_offset(self.end) + bytes > self.segment_bytes)
    }

    /// Writes footer and trailer of the open segment and syncs it; answers with what is in the footer, if one was
    /// written.
    pub(crate) fn seal(&mut self) -> Result<Option<Sealed>> {
        let Some(segment) = self.open_segment().cloned() else { return Ok(None) };
        let mut indexed: Vec<_> = self.runs.iter().map(|(partition, runs)| (*partition, runs)).collect();
        indexed.sort_unstable_by_key(|(partition, _)| *partition);
        let (blob, stretches) = footer::encode(&indexed);
        let footer = Footer {
            end: self.end,
            next_sequence: self.next_sequence,
            commit_times_us: segment.extent().commit_times_us,
            runs_bytes: blob.len() as u64,
            stretches,
        };
        // Should it fail, the next try needs the runs.
        segment.seal(&footer, &blob)?;
        self.runs.clear();
        let mut sealed = Sealed::new();
        for (partition, stretch) in footer.stretches.iter().map(|stored| stored.stretch(segment.base)) {
            sealed.entry(partition).or_default().push(stretch);
        }
        Ok(Some(sealed))
    }

    /// Makes a segment that begins at the end.
    pub(crate) fn start_segment(&mut self, bytes: u64) -> Result<Arc<Segment>> {
        let segment = Segment::create(self.disk.as_ref(), &self.dir, self.end, self.origin, bytes)?;
        let segment = Arc::new(segment);
        self.allocated = bytes;
        self.segment = Some(Arc::clone(&segment));
        self.runs.clear();
        Ok(segment)
    }

    /// Whether the open segment's file has no room for about so many bytes more.
    pub(crate) fn lacks_room(&self, bytes: u64) -> bool {
        self.open_segment().is_some_and(|segment| segment.file_offset(self.end).saturating_add(bytes) > self.allocated)
    }

    /// Sees to it that the open segment's file has room for about so many bytes more.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`]; the file is as it was then.
    pub(crate) fn make_room(&mut self, bytes: u64) -> Result<()> {
        let Some(segment) = self.open_segment().filter(|_| self.lacks_room(bytes)).cloned() else { return Ok(()) };
        let needed = segment.file_offset(self.end).saturating_add(bytes);
        self.grow(&segment, needed).map_err(|error| full_or_io(error, format!("grow {}", segment.path.display())))
    }

    fn grow(&mut self, segment: &Segment, bytes: u64) -> std::io::Result<()> {
        if let Err(error) = segment.file.allocate(bytes) {
            // A part may have been got; nothing was written, so that there is nothing to undo if it stays.
            let _ = segment.file.truncate(self.allocated);
            return Err(error);
        }
        self.allocated = bytes;
        Ok(())
    }

    /// Writes a frame behind the last one; answers with its runs. Not synced.
    pub(crate) fn write(&mut self, frame: &EncodedFrame) -> Result<PlacedRuns, AppendFailure> {
        let Some(segment) = self.open_segment().cloned() else {
            return Err(AppendFailure::Undone(Error::Closed));
        };
        let at = segment.file_offset(self.end);
        let frame_end = at + frame.header.frame_bytes();
        worker::crash_point("before a frame is written");
        let place = segment.place(self.end, frame.header.frame_bytes());
        let action = || format!("write {place}");
        if frame_end > self.allocated {
            self.grow(&segment, frame_end).map_err(|error| AppendFailure::Undone(full_or_io(error, action())))?;
        }
        if let Err(error) = segment.file.write_at(&mut frame.slices(), at) {
            let error = full_or_io(error, action());
            return Err(self.cut_back(&segment, error));
        }
        worker::crash_point("after a frame is written");
        self.end += frame.header.frame_bytes();
        self.next_sequence += 1;
        self.last_commit_time_us = frame.header.commit_time_us;
        let mut extent = segment.extent();
        extent.grow(self.end, frame.header.commit_time_us);
        segment.set_extent(extent);
        let runs: PlacedRuns =
            frame.entries.iter().map(|entry| (entry.partition, Run::of_entry(entry, &frame.header))).collect();
        for (partition, run) in &runs {
            self.runs.entry(*partition).or_default().put(*run, segment.base);
        }
        Ok(runs)
    }

    /// Takes what a failed write has left out of the file, durably.
    fn cut_back(&mut self, segment: &Segment, error: Error) -> AppendFailure {
        let at = segment.file_offset(self.end);
        let cut = segment.file.truncate(at);
        // Somebody else may have taken the room meanwhile: then the next frame asks for it.
        self.allocated = if segment.file.allocate(self.allocated).is_ok() { self.allocated } else { at };
        match cut.and_then(|()| segment.sync()) {
            Ok(()) => AppendFailure::Undone(error),
            Err(second) => {
                tracing::error!(%error, %second, "a failed write could not be cut back");
                AppendFailure::Broken(error)
            }
        }
    }
}
