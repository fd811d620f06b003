//! The data directory: whose it is (`meta`), and that nobody else has it open (`LOCK`).
//!
//! `meta` holds the cluster's id, made with the directory, and the writer epoch, which every opening raises durably
//! before anything else is written: what an older process wrote can always be told. It names the last takeover of the
//! cluster too: a directory from before one is refused by the bucket. `meta.copy` holds the same: a damaged `meta` costs
//! nothing, and on a full disk the two can be written in their places, one after the other. Both are written before a
//! process goes on, so no process has had an epoch that one of them does not know.

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
use crate::log::segment::Origin;

const META: Kind = Kind { magic: *b"AQMETA\0\0", version: 2, name: "data directory" };
/// Keeps room on the disk for what frees room; in the folder of the log.
pub(crate) const RESERVE_FILE: &str = "reserve";
const META_BYTES_MAX: u64 = 1 << 16;

const META_FILE: &str = "meta";
const META_COPY: &str = "meta.copy";
/// What to do without either.
const RESTORE_META: &str = "restore meta or meta.copy of this directory from a backup: they hold the cluster's id and the writer epoch, \
                            without which nobody knows what belongs to it";

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
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
        if version > 1 {
            return envelope::decode(payload, place);
        }
        let MetaV1 { cluster_id, epoch } = envelope::decode(payload, place)?;
        Ok(Self { cluster_id, epoch, takeover: None })
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
    /// Held until the node is closed or dropped.
    lock: Mutex<Option<Box<dyn Held>>>,
}

impl Home {
    /// Opens the directory, making it if absent, for this process alone, and raises the epoch.
    ///
    /// # Errors
    /// [`Error::Config`] if another process has it, [`Error::Io`], [`Error::Corrupt`] if `meta` is damaged.
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
                Meta { epoch: WriterEpoch(meta.epoch.0 + 1), ..meta }
            }
            None => {
                let names = disk.list(&log_dir).map_err(Error::io(format!("list {}", log_dir.display())))?;
                if names.iter().any(|name| name.ends_with(".wal")) {
                    let reason = format!("it is missing, but there is a log beside it; {RESTORE_META}");
                    return Err(Error::Corrupt { place: data_dir.join(META_FILE).display().to_string(), reason });
                }
                Meta { cluster_id: random.uuid(), epoch: WriterEpoch(1), takeover: None }
            }
        };
        let bytes = envelope::seal(META, &meta)?;
        for name in files {
            let path = data_dir.join(name);
            write_meta(disk, &path, &bytes).map_err(Error::io(format!("write {}", path.display())))?;
        }
        Ok(Self {
            origin: Origin { cluster_id: meta.cluster_id, epoch: meta.epoch },
            takeover: meta.takeover,
            log_dir,
            lock: Mutex::new(Some(lock)),
        })
    }

    /// What `meta` says; the epoch is that of the last process that opened the directory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged, [`Error::Config`] if there is none or a newer program wrote it, [`Error::Io`].
    pub(crate) fn read_origin(disk: &dyn Disk, data_dir: &Path) -> Result<Origin> {
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
        let Meta { cluster_id, epoch, .. } = Meta::decode(&bytes, &place)?;
        Ok(Origin { cluster_id, epoch })
    }

    /// What the copy of `meta` says, if there is one: older programs wrote none.
    ///
    /// # Errors
    /// As [`Home::read_origin`].
    pub(crate) fn read_copied_origin(disk: &dyn Disk, data_dir: &Path) -> Result<Option<Origin>> {
        let meta = read_meta(disk, &data_dir.join(META_COPY))?;
        Ok(meta.map(|Meta { cluster_id, epoch, .. }| Origin { cluster_id, epoch }))
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
    let fresh = disk.list(data_dir).is_err();
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
pub(crate) fn settle(disk: &dyn Disk, data_dir: &Path, origin: Origin, takeover: Takeover) -> Result<()> {
    let meta = Meta { cluster_id: origin.cluster_id, epoch: origin.epoch, takeover: Some(takeover) };
    let bytes = envelope::seal(META, &meta)?;
    for name in [META_COPY, META_FILE] {
        let path = data_dir.join(name);
        replace_file(disk, &path, &bytes).map_err(Error::io(format!("write {}", path.display())))?;
    }
    Ok(())
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
