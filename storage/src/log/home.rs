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
use crate::log::disk::{Disk, Held, read_file, replace_file};
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
        let lock = locked.map_err(|holder| Error::Config {
            reason: format!(
                "data directory {shown} is in use by another process (pid {}); stop it or choose another directory",
                if holder.is_empty() { "unknown" } else { &holder }
            ),
        })?;
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

    /// Lets another process have the directory.
    pub(crate) fn release(&self) {
        self.lock.lock().take();
    }
}
