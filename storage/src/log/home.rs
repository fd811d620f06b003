//! The data directory: whose it is (`meta`), and that nobody else has it open (`LOCK`).
//!
//! `meta` holds the cluster's id, made with the directory, and the writer epoch, which every opening raises durably
//! before anything else is written: what an older process wrote can always be told.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Random;
use crate::envelope::{self, Kind};
use crate::error::{Error, Result};
use crate::ids::WriterEpoch;
use crate::log::disk::{Disk, Held, lock_to_read, read_file, replace_file};
use crate::log::segment::Origin;

const META: Kind = Kind { magic: *b"AQMETA\0\0", version: 1, name: "data directory" };
const META_BYTES_MAX: u64 = 1 << 16;

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    cluster_id: Uuid,
    epoch: WriterEpoch,
}

/// An opened data directory.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) origin: Origin,
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
        let shown = data_dir.display();
        let log_dir = data_dir.join("log");
        // Also if a process that made it ended before it wrote the file.
        let fresh = disk.list(data_dir).map_or(true, |names| !names.iter().any(|name| name == "meta"));
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
        let path = data_dir.join("meta");
        let place = path.display().to_string();
        let meta = match read_file(disk, &path, META_BYTES_MAX) {
            Ok(bytes) => {
                let meta: Meta = envelope::open(META, &bytes, &place)?;
                Meta { epoch: WriterEpoch(meta.epoch.0 + 1), ..meta }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let names = disk.list(&log_dir).map_err(Error::io(format!("list {}", log_dir.display())))?;
                if names.iter().any(|name| name.ends_with(".wal")) {
                    let reason = "it is missing, but there is a log beside it; restore it".to_owned();
                    return Err(Error::Corrupt { place, reason });
                }
                Meta { cluster_id: random.uuid(), epoch: WriterEpoch(1) }
            }
            Err(error) => return Err(Error::io(format!("read {place}"))(error)),
        };
        replace_file(disk, &path, &envelope::seal(META, &meta)?).map_err(Error::io(format!("write {place}")))?;
        Ok(Self {
            origin: Origin { cluster_id: meta.cluster_id, epoch: meta.epoch },
            log_dir,
            lock: Mutex::new(Some(lock)),
        })
    }

    /// What `meta` says; the epoch is that of the last process that opened the directory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged, [`Error::Config`] if there is none or a newer program wrote it, [`Error::Io`].
    pub(crate) fn read_origin(disk: &dyn Disk, data_dir: &Path) -> Result<Origin> {
        let path = data_dir.join("meta");
        let place = path.display().to_string();
        let bytes = read_file(disk, &path, META_BYTES_MAX).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound if disk.list(&data_dir.join("log")).is_ok() => Error::Corrupt {
                place: place.clone(),
                reason: "it is missing, but there is a log beside it; restore it".to_owned(),
            },
            std::io::ErrorKind::NotFound => {
                let shown = data_dir.display();
                Error::Config {
                    reason: format!("{shown} is no data directory: it has no file meta; name one with --data-dir"),
                }
            }
            _ => Error::io(format!("read {place}"))(error),
        })?;
        let Meta { cluster_id, epoch } = envelope::open(META, &bytes, &place)?;
        Ok(Origin { cluster_id, epoch })
    }

    /// Lets another process have the directory.
    pub(crate) fn release(&self) {
        self.lock.lock().take();
    }
}

/// Keeps nodes from opening the directory while it is read; others may read it too. `None` if no node ever opened it
/// (a copy without the lock's file).
///
/// # Errors
/// [`Error::Config`] if a node has it, [`Error::Io`].
pub(crate) fn hold_to_read(data_dir: &Path) -> Result<Option<Box<dyn Held>>> {
    let path = data_dir.join("LOCK");
    let locked = match lock_to_read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
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
