//! Segments: the files of the log. `log/<position of its first frame>.wal`.
//!
//! A segment's file is a header block of 64 bytes, then frames; when it is sealed, the runs of all its frames, a footer
//! (their directory, in an envelope) and a trailer of 32 bytes at the very end that says where the footer begins. Positions count
//! frames only, over all segments: the first frame of a segment has the position its name says, and the next segment
//! begins at the position where this one ends.
//!
//! Invariants:
//! - A segment is made only after everything before it is synced. So in any but the last one nothing can be torn:
//!   what is bad there is damaged.
//! - A sealed file never changes. Deleting one unlinks it; who holds the [`Segment`] reads on.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::envelope::{self, u32_at, u64_at};
use crate::error::{Error, Result};
use crate::ids::WriterEpoch;
use crate::log::disk::{Access, Disk, DiskFile};
use crate::log::footer::{FOOTER, Footer};
use crate::view::SegmentInfo;

/// Bytes of a segment's file before its first frame.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 64;
pub(crate) const TRAILER_BYTES: usize = 32;
const SEGMENT_MAGIC: [u8; 8] = *b"AQSEGMNT";
const TRAILER_MAGIC: [u8; 8] = *b"AQTRAILR";
const SEGMENT_VERSION: u32 = 1;

/// A file of the log. Whoever holds it keeps its descriptor open; deleting a segment only unlinks it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    /// Position of its first frame.
    pub(crate) base: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Written by the one writer, read by who asks for files; never held while a file is touched.
    extent: Mutex<Extent>,
    /// A sync has failed. The kernel tells a failure once: without this, of two threads that sync at the same time one
    /// could be told that all is well. Held over the sync itself.
    sync_failed: Mutex<bool>,
}

/// How far a segment goes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    /// Position after the last frame.
    pub(crate) end: u64,
    /// Commit times of the first and last frame, us.
    pub(crate) commit_times_us: Option<(i64, i64)>,
    pub(crate) sealed: bool,
}

impl Extent {
    /// Takes a frame in.
    pub(crate) fn grow(&mut self, end: u64, commit_time_us: i64) {
        self.end = end;
        let first = self.commit_times_us.map_or(commit_time_us, |(first, _)| first);
        self.commit_times_us = Some((first, commit_time_us));
    }
}

/// Where the segment that begins at `base` lies.
pub(crate) fn segment_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.wal"))
}

/// The position in a file's name, if it is one of that kind.
pub(crate) fn position_in_name(name: &str, extension: &str) -> Option<u64> {
    let digits = name.strip_suffix(extension)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

impl Segment {
    /// Wraps an open file.
    pub(crate) fn new(path: PathBuf, base: u64, file: Arc<dyn DiskFile>, extent: Extent) -> Self {
        Self { path, base, file, extent: Mutex::new(extent), sync_failed: Mutex::new(false) }
    }

    /// Syncs the file; once that has failed it always fails.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        let mut failed = self.sync_failed.lock();
        if *failed {
            return Err(std::io::Error::other("an earlier sync has failed"));
        }
        let synced = self.file.sync();
        *failed = synced.is_err();
        synced
    }

    /// Whether a sync of it has failed: then nobody knows what of it is on the disk.
    pub(crate) fn sync_has_failed(&self) -> bool {
        *self.sync_failed.lock()
    }

    /// Makes a segment: room reserved, header written, both synced, and its name in the folder too.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, base: u64, origin: Origin, bytes: u64) -> Result<Self> {
        let path = segment_path(dir, base);
        let place = path.display().to_string();
        let file = disk.open(&path, Access::Create).map_err(Error::io(format!("create {place}")))?;
        let made = file
            .allocate(bytes.max(SEGMENT_HEADER_BYTES))
            .and_then(|()| file.write_at(&mut [IoSlice::new(&encode_header(base, origin))], 0))
            .and_then(|()| file.sync())
            .and_then(|()| disk.sync_dir(dir));
        if let Err(error) = made {
            // A half-made segment would be in the way of the next try; recovery removes it if this fails.
            let _ = disk.remove(&path);
            return Err(full_or_io(error, format!("make segment {place}")));
        }
        Ok(Self::new(path, base, file, Extent { end: base, ..Extent::default() }))
    }

    pub(crate) fn extent(&self) -> Extent {
        *self.extent.lock()
    }

    pub(crate) fn set_extent(&self, extent: Extent) {
        *self.extent.lock() = extent;
    }

    /// Where in the file a position lies.
    pub(crate) fn file_offset(&self, position: u64) -> u64 {
        SEGMENT_HEADER_BYTES + (position - self.base)
    }

    /// A range of positions, for errors.
    pub(crate) fn place(&self, position: u64, bytes: u64) -> String {
        let offset = self.file_offset(position);
        format!("{} bytes {offset}..{}", self.path.display(), offset + bytes)
    }

    /// Reads `bytes` from a position on, or as far as the file goes.
    pub(crate) fn read_up_to(&self, position: u64, bytes: usize) -> Result<Vec<u8>> {
        let read = self.file.read_new(bytes, self.file_offset(position));
        read.map_err(Error::io(format!("read {}", self.place(position, bytes as u64))))
    }

    /// Writes runs, footer and trailer, drops the room that is left, syncs. The frames are synced before: a footer that is there
    /// after a power cut proves that they are, so that what is bad before it is damaged and not torn.
    pub(crate) fn seal(&self, footer: &Footer, runs: &[u8]) -> Result<()> {
        let bytes = envelope::seal(FOOTER, footer)?;
        let at = self.file_offset(footer.end);
        let trailer = encode_trailer(bytes.len() as u64, footer.end);
        let action = || format!("seal segment {}", self.path.display());
        self.sync()
            .and_then(|()| {
                let mut slices = [IoSlice::new(runs), IoSlice::new(&bytes), IoSlice::new(&trailer)];
                self.file.write_at(&mut slices, at)
            })
            .and_then(|()| self.file.truncate(at + (runs.len() + bytes.len() + TRAILER_BYTES) as u64))
            .and_then(|()| self.sync())
            .map_err(|error| full_or_io(error, action()))?;
        self.extent.lock().sealed = true;
        Ok(())
    }

    /// Reads the footer of a sealed segment; `None` if it has none or it is damaged, then its frames are scanned.
    ///
    /// # Errors
    /// [`Error::Config`] for a newer version.
    pub(crate) fn read_footer(&self) -> Result<Option<Footer>> {
        let place = self.path.display().to_string();
        let length = self.file.bytes_len().map_err(Error::io(format!("measure {place}")))?;
        let Some(trailer_at) = length.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
        let mut trailer = [0; TRAILER_BYTES];
        self.file.read_at(&mut trailer, trailer_at).map_err(Error::io(format!("read {place}")))?;
        let Some(footer_bytes) = decode_trailer(&trailer) else { return Ok(None) };
        let Some(footer_at) = trailer_at.checked_sub(footer_bytes) else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(footer_bytes).unwrap_or(0)];
        self.file.read_at(&mut bytes, footer_at).map_err(Error::io(format!("read {place}")))?;
        match envelope::open::<Footer>(FOOTER, &bytes, &place) {
            Ok(footer) => {
                let frames_end = (footer.end.max(self.base) - self.base).checked_add(SEGMENT_HEADER_BYTES);
                let expected = frames_end.and_then(|end| end.checked_add(footer.runs_bytes));
                Ok(Some(footer).filter(|footer| expected == Some(footer_at) && footer.is_plausible(self.base)))
            }
            Err(Error::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The row of `aquifer.segments`.
    pub(crate) fn info(&self) -> SegmentInfo {
        let extent = self.extent();
        SegmentInfo {
            id: self.base,
            path: self.path.display().to_string(),
            bytes: SEGMENT_HEADER_BYTES + (extent.end - self.base),
            first_commit_at_us: extent.commit_times_us.map(|(first, _)| first),
            last_commit_at_us: extent.commit_times_us.map(|(_, last)| last),
            sealed: extent.sealed,
        }
    }
}

/// Who wrote a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) cluster_id: Uuid,
    pub(crate) epoch: WriterEpoch,
}

pub(crate) fn encode_header(base: u64, origin: Origin) -> [u8; SEGMENT_HEADER_BYTES as usize] {
    let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
    bytes[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(origin.cluster_id.as_bytes());
    bytes[32..40].copy_from_slice(&origin.epoch.0.to_le_bytes());
    bytes[40..48].copy_from_slice(&base.to_le_bytes());
    let crc = crc_fast::crc32_iscsi(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads a segment's header; `None` if it is damaged or another position's.
///
/// # Errors
/// [`Error::Config`] for a newer version or another cluster's segment.
pub(crate) fn decode_header(bytes: &[u8], base: u64, cluster_id: Uuid, place: &str) -> Result<Option<Origin>> {
    let whole = bytes.len() >= SEGMENT_HEADER_BYTES as usize
        && bytes[..8] == SEGMENT_MAGIC
        && crc_fast::crc32_iscsi(&bytes[..60]) == u32_at(bytes, 60)
        && u64_at(bytes, 40) == base;
    if !whole {
        return Ok(None);
    }
    let version = u32_at(bytes, 8);
    if version > SEGMENT_VERSION {
        return Err(envelope::newer("log segment", place, version, SEGMENT_VERSION));
    }
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[16..32]);
    let origin = Origin { cluster_id: Uuid::from_bytes(id), epoch: WriterEpoch(u64_at(bytes, 32)) };
    if origin.cluster_id != cluster_id {
        let reason = format!("{place} belongs to cluster {}, this data directory to {cluster_id}", origin.cluster_id);
        return Err(Error::Config { reason });
    }
    Ok(Some(origin))
}

pub(crate) fn encode_trailer(footer_bytes: u64, end: u64) -> [u8; TRAILER_BYTES] {
    let mut bytes = [0; TRAILER_BYTES];
    bytes[..8].copy_from_slice(&TRAILER_MAGIC);
    bytes[8..16].copy_from_slice(&footer_bytes.to_le_bytes());
    bytes[16..24].copy_from_slice(&end.to_le_bytes());
    let crc = crc_fast::crc32_iscsi(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode_trailer(bytes: &[u8; TRAILER_BYTES]) -> Option<u64> {
    let whole = bytes[..8] == TRAILER_MAGIC && crc_fast::crc32_iscsi(&bytes[..28]) == u32_at(bytes, 28);
    whole.then(|| u64_at(bytes, 8))
}

/// A full disk is an answer of its own: the caller can make room.
pub(crate) fn full_or_io(error: std::io::Error, action: String) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Error::Full { reason: format!("{action}: {error}; free disk space or delete topics") }
        }
        _ => Error::io(action)(error),
    }
}
