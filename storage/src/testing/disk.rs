//! A disk that fails on demand, by seed: it loses what was not synced, tears writes, refuses syncs, fills up.
//!
//! It lies over real files. For each it keeps the image that the last sync made durable and the writes since; a
//! [`FaultDisk::power_cut`] puts back the image and keeps of each later write what the seed says, sector by sector, as
//! a disk may. Names are durable after a sync of their folder only.

use std::collections::{HashMap, HashSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::log::disk::{Access, Disk, DiskFile, Held, SystemDisk};

/// What a disk writes as one.
const SECTOR_BYTES: usize = 512;

/// The disk. Clones are the same one.
#[derive(Clone, Debug)]
pub struct FaultDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    seed: u64,
    dead: bool,
    sync_fails: bool,
    removals_fail: bool,
    /// Writes that still go well before one fails half-way.
    writes_left: Option<u32>,
    /// Syncs that still go well before the power is cut.
    syncs_left: Option<u32>,
    /// Read so far.
    bytes_read: u64,
    /// Bytes that can still be reserved.
    room_bytes: Option<u64>,
    files: HashMap<PathBuf, Unsynced>,
    /// Files whose names are not durable yet.
    unsynced_names: HashSet<PathBuf>,
}

/// What of a file is not durable.
#[derive(Clone, Debug, Default)]
struct Unsynced {
    /// As of the last sync.
    durable: Vec<u8>,
    writes: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug)]
struct FaultFile {
    path: PathBuf,
    inner: Arc<dyn DiskFile>,
    state: Arc<Mutex<State>>,
}

impl State {
    /// Xorshift: the same seed gives the same faults.
    fn next_random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn cut(&mut self) -> io::Result<()> {
        self.dead = true;
        let files = std::mem::take(&mut self.files);
        let mut paths: Vec<_> = files.keys().cloned().collect();
        paths.sort();
        for path in paths {
            let bytes = self.survive(&files[&path]);
            let name_lost = self.unsynced_names.contains(&path) && self.next_random().is_multiple_of(2);
            if name_lost {
                std::fs::remove_file(&path)?;
            } else {
                std::fs::write(&path, bytes)?;
            }
        }
        Ok(())
    }

    /// What of the unsynced writes of a file reaches the disk.
    fn survive(&mut self, file: &Unsynced) -> Vec<u8> {
        let mut bytes = file.durable.clone();
        // Of all losses the total one and the one at the very end are the commonest.
        let fate = self.next_random() % 4;
        for (index, (offset, written)) in file.writes.iter().enumerate() {
            let last = index + 1 == file.writes.len();
            for (sector, chunk) in written.chunks(SECTOR_BYTES).enumerate() {
                let kept = match fate {
                    0 => false,
                    1 => !last,
                    2 => true,
                    _ => self.next_random().is_multiple_of(2),
                };
                let at = usize::try_from(*offset).unwrap_or(usize::MAX) + sector * SECTOR_BYTES;
                if kept {
                    if bytes.len() < at + chunk.len() {
                        bytes.resize(at + chunk.len(), 0);
                    }
                    bytes[at..at + chunk.len()].copy_from_slice(chunk);
                }
            }
        }
        bytes
    }
}

impl FaultDisk {
    /// A disk that works until told otherwise.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            dead: false,
            sync_fails: false,
            removals_fail: false,
            writes_left: None,
            syncs_left: None,
            bytes_read: 0,
            room_bytes: None,
            files: HashMap::new(),
            unsynced_names: HashSet::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Cuts the power: everything fails from now on, and the files hold what the disk had.
    ///
    /// # Errors
    /// If the files cannot be put into that state.
    pub fn power_cut(&self) -> io::Result<()> {
        self.state.lock().cut()
    }

    /// Cuts the power instead of the sync after `count` more.
    pub fn power_cut_after_syncs(&self, count: u32) {
        self.state.lock().syncs_left = Some(count);
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.state.lock().bytes_read
    }

    /// Whether syncs fail.
    pub fn fail_syncs(&self, fail: bool) {
        self.state.lock().sync_fails = fail;
    }

    /// Whether files cannot be removed.
    pub fn fail_removals(&self, fail: bool) {
        self.state.lock().removals_fail = fail;
    }

    /// The write after `count` more fails half-way, once.
    pub fn fail_write_after(&self, count: u32) {
        self.state.lock().writes_left = Some(count);
    }

    /// Bytes that can still be reserved; `None` for any number.
    pub fn leave_room(&self, bytes: Option<u64>) {
        self.state.lock().room_bytes = bytes;
    }
}

impl Disk for FaultDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.state.lock().alive()?;
        SystemDisk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.state.lock().alive()?;
        SystemDisk.list(dir)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.alive()?;
        let inner = SystemDisk.open(path, access)?;
        if access == Access::Create {
            state.files.insert(path.to_owned(), Unsynced::default());
            state.unsynced_names.insert(path.to_owned());
        } else if !state.files.contains_key(path) {
            let durable = std::fs::read(path)?;
            state.files.insert(path.to_owned(), Unsynced { durable, writes: Vec::new() });
        }
        Ok(Arc::new(FaultFile { path: path.to_owned(), inner, state: Arc::clone(&self.state) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        SystemDisk.rename(from, to)?;
        // A journaling file system renames in one piece; which of the two names a cut leaves is not simulated.
        state.unsynced_names.remove(from);
        if let Some(file) = state.files.remove(from) {
            state.files.insert(to.to_owned(), file);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        if state.removals_fail {
            return Err(io::Error::other("input/output error"));
        }
        state.files.remove(path);
        state.unsynced_names.remove(path);
        SystemDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        state.unsynced_names.retain(|path| path.parent() != Some(dir));
        Ok(())
    }

    fn lock(&self, path: &Path, owner: &str) -> io::Result<Result<Box<dyn Held>, String>> {
        SystemDisk.lock(path, owner)
    }
}

impl DiskFile for FaultFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state.lock();
        state.alive()?;
        let read = self.inner.read_at(buffer, offset)?;
        state.bytes_read += read as u64;
        Ok(read)
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        let mut bytes = slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>();
        let fails = state.writes_left == Some(0);
        state.writes_left = state.writes_left.filter(|_| !fails).map(|left| left - 1);
        if fails {
            bytes.truncate(bytes.len() / 2);
        }
        self.inner.write_at(&mut [IoSlice::new(&bytes)], offset)?;
        if let Some(file) = state.files.get_mut(&self.path) {
            file.writes.push((offset, bytes));
        }
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        let more = bytes.saturating_sub(self.inner.bytes_len()?);
        if let Some(room) = state.room_bytes {
            state.room_bytes = Some(room.checked_sub(more).ok_or(io::ErrorKind::StorageFull)?);
        }
        self.inner.allocate(bytes)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        self.inner.truncate(bytes)?;
        // Cut at once: what lies beyond is never seen again, whatever becomes of the power.
        if let Some(file) = state.files.get_mut(&self.path) {
            let length = usize::try_from(bytes).unwrap_or(usize::MAX);
            file.durable.truncate(length);
            for (offset, written) in &mut file.writes {
                written.truncate(length.saturating_sub(usize::try_from(*offset).unwrap_or(usize::MAX)));
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        let cut = state.syncs_left == Some(0);
        state.syncs_left = state.syncs_left.filter(|_| !cut).map(|left| left - 1);
        if cut {
            state.cut()?;
            return Err(io::Error::other("the power is off"));
        }
        if state.sync_fails {
            return Err(io::Error::other("input/output error"));
        }
        let durable = std::fs::read(&self.path)?;
        state.files.insert(self.path.clone(), Unsynced { durable, writes: Vec::new() });
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.inner.next_data(offset)
    }

    fn bytes_len(&self) -> io::Result<u64> {
        self.inner.bytes_len()
    }
}
