//! The mark of a log that was closed: how far it went.
//!
//! A newest segment that was cut short since, by a copy that broke off or a file system that lost its end, looks just like
//! one whose last write was torn. The mark tells them apart: what lies below it was durable, so none of it is cut as a torn
//! tail, and a log that does not reach it is refused by the file's name, since offsets that were acknowledged would be given
//! again.
//!
//! It is made when all is synced, and removed durably before anything is written again. A process that is killed leaves
//! none. It only ever adds certainty: one that is damaged or cannot be written is told of and done without.

use std::path::Path;

use crate::envelope::{self, Kind};
use crate::error::{Error, Result};
use crate::log::disk::{Access, Disk, replace_file};

/// Its name in the log's folder.
pub(crate) const CLOSED: &str = "closed";
const MARK: Kind = Kind { magic: *b"AQCLOSED", version: 1, name: "mark of a closed log" };
/// More than one takes.
const MARK_BYTES_MAX: usize = 256;

/// Notes that the log is closed, everything below `end` durable.
pub(crate) fn note(disk: &dyn Disk, dir: &Path, end: u64) {
    let path = dir.join(CLOSED);
    let written = envelope::seal(MARK, &end)
        .and_then(|bytes| replace_file(disk, &path, &bytes).map_err(Error::io(format!("write {}", path.display()))));
    if let Err(error) = written {
        tracing::warn!(%error, "that the log was closed in order could not be noted");
    }
}

/// How far the log went when it was closed, if nothing has been written since. `names` are the files of its folder.
///
/// # Errors
/// [`Error::Config`] for a newer version.
pub(crate) fn read(disk: &dyn Disk, dir: &Path, names: &[String]) -> Result<Option<u64>> {
    if !names.iter().any(|name| name == CLOSED) {
        return Ok(None);
    }
    let path = dir.join(CLOSED);
    let place = path.display().to_string();
    let file = disk.open(&path, Access::Read).map_err(Error::io(format!("open {place}")))?;
    let bytes = file.read_new(MARK_BYTES_MAX, 0).map_err(Error::io(format!("read {place}")))?;
    match envelope::open(MARK, &bytes, &place) {
        Ok(end) => Ok(Some(end)),
        Err(error @ Error::Corrupt { .. }) => {
            tracing::warn!(%error, "whether the log is as it was closed cannot be told");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Takes the mark away, durably: from here on the log is written.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn remove(disk: &dyn Disk, dir: &Path, names: &[String]) -> Result<()> {
    if !names.iter().any(|name| name == CLOSED) {
        return Ok(());
    }
    let removed = disk.remove(&dir.join(CLOSED)).and_then(|()| disk.sync_dir(dir));
    removed.map_err(Error::io(format!("remove {}", dir.join(CLOSED).display())))
}

/// The refusal of a newest segment that ends before the mark.
pub(crate) fn cut_short(place: String, end: u64, closed: u64, dir: &Path) -> Error {
    let reason = format!(
        "it ends at position {end}, and the log went to {closed} when it was closed: what was acknowledged last is gone; \
         restore the file from a backup, or remove {} to go on without it",
        dir.join(CLOSED).display()
    );
    Error::Corrupt { place, reason }
}
