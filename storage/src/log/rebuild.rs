//! A data directory made anew from what a checkpoint holds, for a node that begins from the bucket alone.
//!
//! It gets a snapshot of the log, and one segment with the records that are in no object, as if they had been carried
//! over: offsets and commit times unchanged. What a node finds there when it opens the directory is what a crash at the
//! moment of the checkpoint would have left, with two differences: every transactional producer is fenced, since it may
//! have been told more than the checkpoint knows, and producer ids go on far behind those given out.
//!
//! The directory's own file comes last; until then a marker says that nothing in the directory counts, and whoever
//! begins again begins by removing it all.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::log::append::{AppendFailure, Appender};
use crate::log::disk::{Disk, Held, replace_file};
use crate::log::frame::{EncodedFrame, FRAME_ALIGN, FrameNumbers, PlacedBatch};
use crate::log::home;
use crate::log::segment::{Origin, SEGMENT_HEADER_BYTES, position_in_name};
use crate::log::snapshot::{LogSnapshot, StoredOwn};
use crate::object::claim::Claim;

/// Beside the directory's own file while it is made.
const MARKER: &str = "taking-over";
/// Where the log begins: not at 0, where a log begins that knows its whole past.
const BEGIN: u64 = FRAME_ALIGN;
/// Producer ids that nobody may have given out since the checkpoint: more than anybody can have asked for.
const PRODUCER_IDS_SKIPPED: i64 = 1 << 32;

/// A directory that is being made.
#[derive(Debug)]
pub(crate) struct Rebuild {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    origin: Origin,
    snapshot: LogSnapshot,
    appender: Appender,
    /// Held until it is made.
    _lock: Box<dyn Held>,
}

/// Whether nothing is in the directory that a node has ever opened: it is not there, empty, or was not made whole.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn is_fresh(disk: &dyn Disk, data_dir: &Path) -> Result<bool> {
    let list = |dir: &Path| match disk.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(Error::io(format!("list {}", dir.display()))),
    };
    let names = list(data_dir)?;
    if names.iter().any(|name| name == MARKER) {
        return Ok(true);
    }
    let of_log = |name: &String| position_in_name(name, ".wal").or_else(|| position_in_name(name, ".snap")).is_some();
    Ok(!names.iter().any(|name| name == "meta") && !list(&data_dir.join("log"))?.iter().any(of_log))
}

impl Rebuild {
    /// Begins with an empty log. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Config`] if another process has the directory, [`Error::Io`].
    pub(crate) fn begin(
        disk: &Arc<dyn Disk>,
        data_dir: &Path,
        origin: Origin,
        segment_bytes: u64,
        snapshot: LogSnapshot,
    ) -> Result<Self> {
        let (log_dir, lock) = home::hold(disk.as_ref(), data_dir)?;
        let io = |action: &str| Error::io(format!("{action} {}", data_dir.display()));
        replace_file(disk.as_ref(), &data_dir.join(MARKER), b"being made from the object store\n")
            .map_err(io("mark"))?;
        // Left by who began before us and did not end.
        if disk.list(data_dir).map_err(io("list"))?.iter().any(|name| name == "meta") {
            disk.remove(&data_dir.join("meta")).map_err(io("clear"))?;
        }
        for name in disk.list(&log_dir).map_err(io("list"))? {
            disk.remove(&log_dir.join(name)).map_err(io("clear"))?;
        }
        disk.sync_dir(&log_dir).and_then(|()| disk.sync_dir(data_dir)).map_err(io("sync"))?;
        let mut appender = Appender {
            disk: Arc::clone(disk),
            dir: log_dir,
            origin,
            segment_bytes,
            segment: None,
            end: BEGIN,
            allocated: 0,
            next_sequence: 0,
            last_commit_time_us: snapshot.last_commit_time_us,
            runs: HashMap::new(),
        };
        appender.start_segment(segment_bytes.max(SEGMENT_HEADER_BYTES))?;
        Ok(Self { disk: Arc::clone(disk), data_dir: data_dir.to_owned(), origin, snapshot, appender, _lock: lock })
    }

    /// Puts records there that are in no object. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`].
    pub(crate) fn put(&mut self, batches: Vec<PlacedBatch>) -> Result<()> {
        let numbers = FrameNumbers {
            writer_epoch: self.origin.epoch.0,
            sequence: self.appender.next_sequence,
            commit_time_us: self.appender.commit_time_us(0),
            durable_end: BEGIN,
            position: self.appender.end,
        };
        let frame = EncodedFrame::new(numbers, batches).ok_or_else(|| Error::Corrupt {
            place: self.data_dir.display().to_string(),
            reason: "a part of a checkpoint's tail has more than 4 GiB".to_owned(),
        })?;
        match self.appender.write(&frame) {
            Ok(_) => Ok(()),
            Err(AppendFailure::Undone(error) | AppendFailure::Broken(error)) => Err(error),
        }
    }

    /// All records are there: makes log and snapshot durable. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`].
    pub(crate) fn end_log(&mut self) -> Result<()> {
        if let Some(segment) = self.appender.open_segment() {
            segment.sync().map_err(Error::io(format!("sync {}", segment.path.display())))?;
        }
        let mut own = self.snapshot.own.clone().into_state();
        own.next_producer_id = own.next_producer_id.saturating_add(PRODUCER_IDS_SKIPPED);
        for transaction in own.transactions.values_mut() {
            *transaction = Arc::new(transaction.taken_over());
        }
        let snapshot = LogSnapshot {
            position: BEGIN,
            next_sequence: 0,
            own: StoredOwn::new(&own),
            // Of files that are not here.
            damaged: Vec::new(),
            ..self.snapshot.clone()
        };
        snapshot.write(self.disk.as_ref(), &self.appender.dir)
    }

    /// Makes the directory one that a node can open, and that made this claim. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn settle(self, claim: Claim) -> Result<()> {
        home::settle(self.disk.as_ref(), &self.data_dir, &claim, BEGIN)?;
        let marker = self.data_dir.join(MARKER);
        let removed = self.disk.remove(&marker).and_then(|()| self.disk.sync_dir(&self.data_dir));
        removed.map_err(Error::io(format!("remove {}", marker.display())))
    }
}
