//! The data directory: whose it is (`meta`), and that nobody else has it open (`LOCK`).
//!
//! `meta` holds the cluster's id, made with the directory, and the writer epoch, which every opening raises durably
//! before anything else is written: what an older process wrote can always be told. It says besides what only the
//! directory itself can know: the last takeover of the cluster and its own claims of the bucket, so that a directory
//! from before a takeover, or a copy, is told; and which segment of the log is the newest, so that it is missed when it
//! is not there. `meta.copy` holds the same: a damaged `meta` costs nothing, and on a full disk the two can be written in
//! their places, one after the other. Both are written before a process goes on, so no process has had an epoch that one
//! of them does not know.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Random;
use crate::envelope::{self, Kind};
use crate::error::{Error, Result};
use crate::ids::{Takeover, WriterEpoch};
use crate::log::disk::{Access, Disk, Held, lock_to_read, read_file, replace_file};
use crate::log::segment::{Origin, position_in_name, segment_path};
use crate::object::claim::Claim;
use crate::object::past::Past;

const META: Kind = Kind { magic: *b"AQMETA\0\0", version: 3, name: "data directory" };
/// Keeps room on the disk for what frees room; in the folder of the log.
pub(crate) const RESERVE_FILE: &str = "reserve";
const META_BYTES_MAX: u64 = 1 << 16;
/// What is written is filled up to this, so that on a full disk it takes no more room in its place than it has.
const META_BYTES: usize = 4096;

const META_FILE: &str = "meta";
const META_COPY: &str = "meta.copy";
/// What to do without either.
const RESTORE_META: &str = "restore meta or meta.copy of this directory from a backup: they hold the cluster's id and the writer epoch, \
                            without which nobody knows what belongs to it";

/// What `meta` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    cluster_id: Uuid,
    epoch: WriterEpoch,
    takeover: Option<Takeover>,
    /// Its claims of the bucket.
    pub(crate) past: Past,
    /// Where the newest segment begins, which is there for as long as it is the newest; `None` if there was none yet, or if
    /// the programs that opened the directory did not say.
    pub(crate) newest_segment: Option<u64>,
}

/// As version 2 had it.
#[derive(Deserialize)]
struct MetaV2 {
    cluster_id: Uuid,
    epoch: WriterEpoch,
    takeover: Option<Takeover>,
}

/// As version 1 had it.
#[derive(Deserialize)]
struct MetaV1 {
    cluster_id: Uuid,
    epoch: WriterEpoch,
}

impl Meta {
    fn decode(bytes: &[u8], place: &str) -> Result<Self> {
        let (version, payload) = envelope::check(META, bytes, place)?;
        let MetaV2 { cluster_id, epoch, takeover } = match version {
            1 => {
                let MetaV1 { cluster_id, epoch } = envelope::decode(payload, place)?;
                MetaV2 { cluster_id, epoch, takeover: None }
            }
            2 => envelope::decode(payload, place)?,
            _ => return envelope::decode(payload, place),
        };
        Ok(Self { cluster_id, epoch, takeover, past: Past::unnoted(epoch), newest_segment: None })
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin { cluster_id: self.cluster_id, epoch: self.epoch }
    }

    /// The newest segment, if it is known and none of these files is it or a newer one: then the end of the log is gone.
    pub(crate) fn lost_segment(&self, names: &[String]) -> Option<u64> {
        let newest = names.iter().filter_map(|name| position_in_name(name, ".wal")).max();
        self.newest_segment.filter(|known| newest.is_none_or(|newest| newest < *known))
    }
}

/// An opened data directory.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) origin: Origin,
    /// The last takeover that the directory knows of.
    pub(crate) takeover: Option<Takeover>,
    /// The folder of the log.
    pub(crate) log_dir: PathBuf,
    data_dir: PathBuf,
    /// As it is on the disk. Held while it is written.
    meta: Mutex<Meta>,
    /// Held until the node is closed or dropped.
    lock: Mutex<Option<Box<dyn Held>>>,
}

impl Home {
    /// Opens the directory, making it if absent, for this process alone, and raises the epoch.
    ///
    /// # Errors
    /// [`Error::Config`] if another process has it, [`Error::Io`], [`Error::Corrupt`] if `meta` is damaged or if the newest
    /// segment of the log is not there.
    pub(crate) fn open(disk: &dyn Disk, data_dir: &Path, random: &dyn Random) -> Result<Self> {
        let (log_dir, lock) = hold(disk, data_dir)?;
        // On a full disk it is what a start has to live on; the first write of a client makes it again.
        let reserve = log_dir.join(RESERVE_FILE);
        match disk.remove(&reserve) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", reserve.display()))(error));
            }
            _ => {}
        }
        let mut files = [META_COPY, META_FILE];
        let meta = match read_or_copy(disk, data_dir)? {
            Some((meta, from)) => {
                // The one that is whole comes last.
                files.sort_by_key(|name| *name == from);
                check_newest(disk, &log_dir, &meta)?;
                Meta { epoch: WriterEpoch(meta.epoch.0 + 1), ..meta }
            }
            None => {
                let names = disk.list(&log_dir).map_err(Error::io(format!("list {}", log_dir.display())))?;
                if names.iter().any(|name| name.ends_with(".wal")) {
                    let reason = format!("it is missing, but there is a log beside it; {RESTORE_META}");
                    return Err(Error::Corrupt { place: data_dir.join(META_FILE).display().to_string(), reason });
                }
                let (past, newest_segment) = (Past::default(), None);
                Meta { cluster_id: random.uuid(), epoch: WriterEpoch(1), takeover: None, past, newest_segment }
            }
        };
        write(disk, data_dir, files, &meta)?;
        Ok(Self {
            origin: meta.origin(),
            takeover: meta.takeover,
            log_dir,
            data_dir: data_dir.to_owned(),
            meta: Mutex::new(meta),
            lock: Mutex::new(Some(lock)),
        })
    }

    /// The directory's claims of the bucket.
    pub(crate) fn past(&self) -> Past {
        self.meta.lock().past.clone()
    }

    /// Notes the claim about to be made, durably; gives all claims that are known then. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn note_claim(&self, disk: &dyn Disk, newest: Option<&Claim>, next: &Claim) -> Result<Past> {
        self.change(disk, |meta| meta.past.note(newest, next))?;
        Ok(self.past())
    }

    /// Notes that a start went well with this claim, durably. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn settle_claim(&self, disk: &dyn Disk, made: &Claim) -> Result<()> {
        self.change(disk, |meta| meta.past.settle(made))
    }

    /// Notes durably which segment is the newest, before anything in it is acknowledged. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn note_newest(&self, disk: &dyn Disk, segment: Option<u64>) -> Result<()> {
        self.change(disk, |meta| meta.newest_segment = segment)
    }

    fn change(&self, disk: &dyn Disk, change: impl FnOnce(&mut Meta)) -> Result<()> {
        let mut meta = self.meta.lock();
        let mut changed = meta.clone();
        change(&mut changed);
        if changed != *meta {
            write(disk, &self.data_dir, [META_COPY, META_FILE], &changed)?;
            *meta = changed;
        }
        Ok(())
    }

    /// What `meta` says; its epoch is that of the last process that opened the directory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged, [`Error::Config`] if there is none or a newer program wrote it, [`Error::Io`].
    pub(crate) fn read_meta(disk: &dyn Disk, data_dir: &Path) -> Result<Meta> {
        let path = data_dir.join(META_FILE);
        let place = path.display().to_string();
        let bytes = read_file(disk, &path, META_BYTES_MAX).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if disk.list(&data_dir.join("log")).is_ok() => Error::Corrupt {
                place: place.clone(),
                reason: format!("it is missing, but there is a log beside it; {RESTORE_META}"),
            },
            io::ErrorKind::NotFound => {
                let shown = data_dir.display();
                Error::Config {
                    reason: format!("{shown} is no data directory: it has no file meta; name one with --data-dir"),
                }
            }
            _ => Error::io(format!("read {place}"))(error),
        })?;
        Meta::decode(&bytes, &place)
    }

    /// What the copy of `meta` says, if there is one: older programs wrote none.
    ///
    /// # Errors
    /// As [`Home::read_meta`].
    pub(crate) fn read_copied_meta(disk: &dyn Disk, data_dir: &Path) -> Result<Option<Meta>> {
        read_meta(disk, &data_dir.join(META_COPY))
    }

    /// Lets another process have the directory.
    pub(crate) fn release(&self) {
        self.lock.lock().take();
    }
}

/// Puts the bytes in place; where the disk has no room for both the old and the new, over the old: should that be torn, the
/// other of the two files is whole.
fn write_meta(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    match replace_file(disk, path, bytes) {
        Err(full) if full.kind() == io::ErrorKind::StorageFull => {
            let file = disk.open(path, Access::Write).map_err(|_| full)?;
            file.write_at(&mut [IoSlice::new(bytes)], 0)?;
            file.truncate(bytes.len() as u64)?;
            file.sync()
        }
        written => written,
    }
}

/// What `meta` says or, if it is damaged, its copy, and which of them; `None` if it is not there: a directory without one is
/// a new one, or nobody knows what else is missing.
fn read_or_copy(disk: &dyn Disk, data_dir: &Path) -> Result<Option<(Meta, &'static str)>> {
    let (place, reason) = match read_meta(disk, &data_dir.join(META_FILE)) {
        Err(Error::Corrupt { place, reason }) => (place, reason),
        read => return Ok(read?.map(|meta| (meta, META_FILE))),
    };
    match read_meta(disk, &data_dir.join(META_COPY)) {
        Ok(Some(meta)) => {
            tracing::error!(
                place,
                reason,
                "the directory's own file is damaged; its copy is taken, and it is written anew"
            );
            Ok(Some((meta, META_COPY)))
        }
        Ok(None) => {
            Err(Error::Corrupt { place, reason: format!("{reason}, and there is no {META_COPY}; {RESTORE_META}") })
        }
        Err(Error::Corrupt { place: copy, reason: of_copy }) => {
            Err(Error::Corrupt { place, reason: format!("{reason}, and {copy}: {of_copy}; {RESTORE_META}") })
        }
        Err(error) => Err(error),
    }
}

fn read_meta(disk: &dyn Disk, path: &Path) -> Result<Option<Meta>> {
    let place = path.display().to_string();
    match read_file(disk, path, META_BYTES_MAX) {
        Ok(bytes) => Meta::decode(&bytes, &place).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {place}"))(error)),
    }
}

/// Makes the directory if it is absent, and takes it for this process alone; gives the folder of the log, and the lock.
///
/// # Errors
/// [`Error::Config`] if another process has it, [`Error::Io`].
pub(crate) fn hold(disk: &dyn Disk, data_dir: &Path) -> Result<(PathBuf, Box<dyn Held>)> {
    let shown = data_dir.display();
    let log_dir = data_dir.join("log");
    // Also if a process that made it ended before it wrote the file.
    let fresh = disk.list(data_dir).map_or(true, |names| !names.iter().any(|name| name == META_FILE));
    disk.create_dir(&log_dir).map_err(Error::io(format!("make data directory {shown}")))?;
    if let Some(parent) = data_dir.parent().filter(|_| fresh) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        // Else a power cut could take the whole directory; what is in it is synced below.
        disk.sync_dir(parent).map_err(Error::io(format!("sync folder {}", parent.display())))?;
    }
    let lock_path = data_dir.join("LOCK");
    let owner = format!("{}\n", std::process::id());
    let locked = disk.lock(&lock_path, &owner).map_err(Error::io(format!("lock {}", lock_path.display())))?;
    let lock = locked.map_err(|holder| in_use(data_dir, &holder))?;
    Ok((log_dir, lock))
}

/// Writes the directory's own file, which makes it one that a node can open.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn settle(disk: &dyn Disk, data_dir: &Path, claim: &Claim, newest_segment: u64) -> Result<()> {
    let mut past = Past::default();
    past.settle(claim);
    let Claim { cluster, epoch, takeover, .. } = *claim;
    let meta = Meta { cluster_id: cluster, epoch, takeover, past, newest_segment: Some(newest_segment) };
    write(disk, data_dir, [META_COPY, META_FILE], &meta)
}

/// In its envelope, filled up: readers take no notice of what stands behind.
fn seal(meta: &Meta) -> Result<Vec<u8>> {
    let bare = envelope::seal(META, meta)?;
    // Two bytes say how long a filling of this length is.
    match META_BYTES.saturating_sub(bare.len() + 2) {
        filling @ 128.. => envelope::seal(META, &(meta, vec![0_u8; filling])),
        _ => Ok(bare),
    }
}

/// Writes both files, one after the other.
fn write(disk: &dyn Disk, data_dir: &Path, files: [&str; 2], meta: &Meta) -> Result<()> {
    let bytes = seal(meta)?;
    for name in files {
        let path = data_dir.join(name);
        write_meta(disk, &path, &bytes).map_err(Error::io(format!("write {}", path.display())))?;
    }
    Ok(())
}

/// Refuses a log without its end: what it had acknowledged would be given again.
fn check_newest(disk: &dyn Disk, log_dir: &Path, meta: &Meta) -> Result<()> {
    let names = disk.list(log_dir).map_err(Error::io(format!("list {}", log_dir.display())))?;
    let Some(lost) = meta.lost_segment(&names) else { return Ok(()) };
    let reason = format!(
        "the log's newest segment, which begins at position {lost}, is gone, and with it what was acknowledged last; restore it \
         or the whole data directory; to do without it, begin from the object store with an empty data directory and \
         --take-over"
    );
    Err(Error::Corrupt { place: segment_path(log_dir, lost).display().to_string(), reason })
}

/// Keeps nodes from opening the directory while it is read; others may read it too. `None` if no node ever opened it
/// (a copy without the lock's file).
///
/// # Errors
/// [`Error::Config`] if a node has it, [`Error::Io`].
pub(crate) fn hold_to_read(data_dir: &Path) -> Result<Option<Box<dyn Held>>> {
    let path = data_dir.join("LOCK");
    let locked = match lock_to_read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        locked => locked.map_err(Error::io(format!("lock {}", path.display())))?,
    };
    locked.map(Some).map_err(|holder| in_use(data_dir, &holder))
}

fn in_use(data_dir: &Path, holder: &str) -> Error {
    let holder = if holder.is_empty() { "unknown" } else { holder };
    let shown = data_dir.display();
    Error::Config {
        reason: format!(
            "data directory {shown} is in use by another process (pid {holder}); stop it or choose another directory"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_claims_are_noted_it_is_as_long_as_before() {
        let cluster_id = Uuid::from_u128(1);
        let mut meta =
            Meta { cluster_id, epoch: WriterEpoch(1), takeover: None, past: Past::default(), newest_segment: Some(0) };
        for epoch in 1..200 {
            let bytes = seal(&meta).unwrap();
            assert_eq!(bytes.len(), META_BYTES);
            assert_eq!(Meta::decode(&bytes, "meta").unwrap(), meta);
            meta.past.note(None, &Claim::for_test(cluster_id, WriterEpoch(epoch << 40)));
            meta.newest_segment = Some(u64::MAX);
        }
    }
}
