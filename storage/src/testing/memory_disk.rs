//! A disk in memory that behaves as badly as disks may, by seed: what was not synced is lost, torn at sectors or arrives
//! out of order, names are durable after a sync of their folder only, calls fail, room ends, bits flip.
//!
//! It obeys the scheduler: once the simulated process has died, nothing it still tries has an effect. A process that
//! dies leaves what it has written (the system has it); a power cut takes what the disk had not.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::log::disk::{Access, Disk, DiskFile, Held};
use crate::testing::chance::Chance;
use crate::testing::schedule;

/// What a disk writes as one.
const SECTOR_BYTES: usize = 512;
/// What a file system keeps holes in units of.
const BLOCK_BYTES: usize = 4096;

/// How often calls fail: once in so many; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// Reads.
    pub read_once_in: u64,
    /// Writes; half of the bytes may be there then.
    pub write_once_in: u64,
    /// Syncs; what they should have made durable may be lost then, and a later sync does not bring it back.
    pub sync_once_in: u64,
}

/// The disk. Clones are the same one.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    chance: Chance,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// As the system shows them.
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    renames: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    faults: DiskFaults,
    /// Bytes all files may take.
    capacity_bytes: Option<u64>,
    /// Calls that change something.
    calls: u64,
    dies_at_call: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// As the system shows it.
    bytes: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// Whoever has it open holds it too.
    held: Arc<()>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    /// Cut or grown to this length.
    Length(usize),
}

#[derive(Clone, Debug)]
struct NameChange {
    dir: PathBuf,
    /// Takes this name away, if so.
    gone: Option<PathBuf>,
    /// Gives this name, if so.
    given: Option<(PathBuf, u64)>,
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, written) => {
                if bytes.len() < at + written.len() {
                    bytes.resize(at + written.len(), 0);
                }
                bytes[*at..at + written.len()].copy_from_slice(written);
            }
            Self::Length(length) => bytes.resize(*length, 0),
        }
    }

    /// The change in the pieces a disk may lose one by one.
    fn sectors(&self) -> Vec<Self> {
        match self {
            Self::Length(_) => vec![self.clone()],
            Self::Write(at, written) => {
                let mut pieces = Vec::new();
                let mut done = 0;
                while done < written.len() {
                    let start = at + done;
                    let end = (start / SECTOR_BYTES + 1) * SECTOR_BYTES;
                    let length = (end - start).min(written.len() - done);
                    pieces.push(Self::Write(start, written[done..done + length].to_vec()));
                    done += length;
                }
                pieces
            }
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((path, inode)) = &self.given {
            names.insert(path.clone(), *inode);
        }
    }
}

fn died() -> io::Error {
    io::Error::other("the process has died")
}

fn failed(what: &str) -> io::Error {
    io::Error::other(format!("input/output error ({what}, injected)"))
}

impl State {
    /// A call that changes something begins: it fails for a dead process, and the process may die of it, before or after
    /// it has had its effect. Says whether it is to have one.
    fn begin(&mut self) -> io::Result<bool> {
        if schedule::is_dead() {
            return Err(died());
        }
        self.calls += 1;
        if self.dies_at_call.is_some_and(|at| self.calls >= at) {
            self.dies_at_call = None;
            schedule::die();
            return Ok(self.chance.once_in(2));
        }
        Ok(true)
    }

    fn inode(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn used_bytes(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        named.iter().filter_map(|inode| self.inodes.get(inode)).map(|inode| inode.bytes.len() as u64).sum()
    }

    fn check_room(&self, more: usize) -> io::Result<()> {
        match self.capacity_bytes {
            Some(capacity) if more > 0 && self.used_bytes() + more as u64 > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn change(&mut self, inode: u64, change: Change) -> io::Result<()> {
        let inode = self.inode(inode)?;
        change.apply(&mut inode.bytes);
        inode.unsynced.push(change);
        Ok(())
    }

    /// Lets go of files that have no name any more, here or after a power cut, and that nobody has open.
    fn let_go(&mut self) {
        let given = self.renames.iter().filter_map(|change| change.given.as_ref().map(|(_, inode)| inode));
        let named: BTreeSet<u64> =
            self.names.values().chain(self.durable_names.values()).chain(given).copied().collect();
        self.inodes.retain(|number, inode| named.contains(number) || Arc::strong_count(&inode.held) > 1);
    }

    fn name(&mut self, path: &Path, gone: Option<PathBuf>, given: Option<(PathBuf, u64)>) {
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        let change = NameChange { dir, gone, given };
        change.apply(&mut self.names);
        self.renames.push(change);
    }

    /// What of the changes of a file that are not synced has reached the disk.
    fn survivors(chance: &Chance, unsynced: &[Change]) -> Vec<Change> {
        let count = unsynced.len();
        match chance.below(6) {
            // Nothing, all, all but the last.
            0 => Vec::new(),
            1 => unsynced.to_vec(),
            2 => unsynced[..count.saturating_sub(1)].to_vec(),
            // Any of them: a disk writes in the order it likes.
            3 => unsynced.iter().filter(|_| chance.once_in(2)).cloned().collect(),
            // The first ones, and of the next some sectors.
            4 => {
                let whole = chance.index(count + 1);
                let mut kept = unsynced[..whole].to_vec();
                let torn = unsynced.get(whole).map(Change::sectors).unwrap_or_default();
                kept.extend(torn.into_iter().filter(|_| chance.once_in(2)));
                kept
            }
            _ => unsynced.iter().flat_map(Change::sectors).filter(|_| chance.once_in(2)).collect(),
        }
    }
}

impl MemoryDisk {
    /// An empty disk that works until told otherwise.
    #[must_use]
    pub fn new(chance: Chance) -> Self {
        let state = State {
            chance,
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renames: Vec::new(),
            dirs: BTreeSet::new(),
            locks: BTreeSet::new(),
            faults: DiskFaults::default(),
            capacity_bytes: None,
            calls: 0,
            dies_at_call: None,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// A disk of its own with the same bytes, synced or not, that nobody has open: as if this one had been taken from its
    /// machine and put into another.
    #[must_use]
    pub fn copy(&self, chance: Chance) -> Self {
        let state = self.state.lock();
        let copy = State {
            chance,
            inodes: state.inodes.clone(),
            next_inode: state.next_inode,
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            renames: state.renames.clone(),
            dirs: state.dirs.clone(),
            locks: BTreeSet::new(),
            faults: DiskFaults::default(),
            capacity_bytes: None,
            calls: 0,
            dies_at_call: None,
        };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// From now on calls fail so often.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.state.lock().faults = faults;
    }

    /// Bytes all files may take from now on; `None`: any number.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// Bytes all files take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// The process dies of the call that changes something with this number from now on, before or after its effect.
    pub fn die_after_calls(&self, calls: Option<u64>) {
        let mut state = self.state.lock();
        state.dies_at_call = calls.map(|calls| state.calls + calls);
    }

    /// The process is gone; what it has written is there.
    pub fn process_gone(&self) {
        let mut state = self.state.lock();
        state.locks.clear();
        state.dies_at_call = None;
    }

    /// The power is cut and comes back: of what was not synced there is what chance has left.
    pub fn power_cut(&self) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.locks.clear();
        state.dies_at_call = None;
        let renames = std::mem::take(&mut state.renames);
        let dirs: BTreeSet<PathBuf> = renames.iter().map(|change| change.dir.clone()).collect();
        for dir in dirs {
            let of_dir: Vec<_> = renames.iter().filter(|change| change.dir == dir).collect();
            // A journal keeps a folder's changes in order.
            let kept = state.chance.index(of_dir.len() + 1);
            of_dir[..kept].iter().for_each(|change| change.apply(&mut state.durable_names));
        }
        state.names.clone_from(&state.durable_names);
        let named: BTreeSet<u64> = state.names.values().copied().collect();
        state.inodes.retain(|inode, _| named.contains(inode));
        for inode in state.inodes.values_mut() {
            for change in State::survivors(&state.chance, &inode.unsynced) {
                change.apply(&mut inode.durable);
            }
            inode.unsynced.clear();
            inode.bytes.clone_from(&inode.durable);
        }
    }

    /// Flips one bit of a file whose name ends so, among the bytes that are not zero; gives its path.
    #[must_use]
    pub fn flip_bit(&self, extension: &str) -> Option<PathBuf> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let fitting = |path: &&PathBuf| path.extension().is_some_and(|of_path| of_path == extension);
        let paths: Vec<PathBuf> = state.names.keys().filter(fitting).cloned().collect();
        let path = state.chance.pick(&paths)?.clone();
        let inode = state.inodes.get_mut(state.names.get(&path)?)?;
        let written = inode.bytes.iter().rposition(|byte| *byte != 0)? + 1;
        let at = state.chance.index(written);
        let bit = 1 << state.chance.below(8);
        inode.bytes[at] ^= bit;
        if let Some(byte) = inode.durable.get_mut(at) {
            *byte ^= bit;
        }
        Some(path)
    }
}

#[derive(Debug)]
struct MemoryFile {
    inode: u64,
    _held: Arc<()>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct MemoryLock {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Held for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        // Of a dead process the disk has let go already, and another may hold it.
        if !schedule::is_dead() {
            self.state.lock().locks.remove(&self.path);
        }
    }
}

impl Disk for MemoryDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.begin()? {
            state.dirs.extend(dir.ancestors().map(Path::to_owned));
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        let known = state.names.get(path).copied();
        let inode = match (known, access) {
            (Some(inode), Access::Create) => {
                if state.begin()? {
                    state.change(inode, Change::Length(0))?;
                }
                inode
            }
            (Some(inode), _) => inode,
            (None, Access::Create) => {
                let inode = state.next_inode;
                if state.begin()? {
                    state.next_inode += 1;
                    state.inodes.insert(inode, Inode::default());
                    state.name(path, None, Some((path.to_owned(), inode)));
                }
                inode
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        // Of a call that had no effect there is none.
        let held = state.inodes.get(&inode).map(|inode| Arc::clone(&inode.held)).unwrap_or_default();
        Ok(Arc::new(MemoryFile { inode, _held: held, state: Arc::clone(&self.state) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        if state.begin()? {
            state.name(to, Some(from.to_owned()), Some((to.to_owned(), inode)));
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.begin()? {
            state.name(path, Some(path.to_owned()), None);
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.begin()? {
            let state = &mut *state;
            if state.chance.once_in(state.faults.sync_once_in) {
                return Err(failed("sync folder"));
            }
            let (synced, left): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.renames).into_iter().partition(|change| change.dir == dir);
            synced.iter().for_each(|change| change.apply(&mut state.durable_names));
            state.renames = left;
            state.let_go();
        }
        Ok(())
    }

    fn lock(&self, path: &Path, _: &str) -> io::Result<Result<Box<dyn Held>, String>> {
        let mut state = self.state.lock();
        if !state.locks.insert(path.to_owned()) {
            return Ok(Err("another simulated process".to_owned()));
        }
        Ok(Ok(Box::new(MemoryLock { path: path.to_owned(), state: Arc::clone(&self.state) })))
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state.lock();
        if schedule::is_dead() {
            return Err(died());
        }
        if state.chance.once_in(state.faults.read_once_in) {
            return Err(failed("read"));
        }
        let bytes = &state.inode(self.inode)?.bytes;
        let from = position(offset).min(bytes.len());
        let length = buffer.len().min(bytes.len() - from);
        buffer[..length].copy_from_slice(&bytes[from..from + length]);
        Ok(length)
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let effect = state.begin()?;
        let mut bytes = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        let length = state.inode(self.inode)?.bytes.len();
        let more = (position(offset) + bytes.len()).saturating_sub(length);
        state.check_room(more)?;
        let fails = state.chance.once_in(state.faults.write_once_in);
        if fails || !effect {
            let kept = state.chance.index(bytes.len() + 1);
            bytes.truncate(kept);
        }
        state.change(self.inode, Change::Write(position(offset), bytes))?;
        if fails { Err(failed("write")) } else { Ok(()) }
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let effect = state.begin()?;
        let length = state.inode(self.inode)?.bytes.len();
        let more = position(bytes).saturating_sub(length);
        state.check_room(more)?;
        if more > 0 && effect {
            state.change(self.inode, Change::Length(position(bytes)))?;
        }
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.begin()? { state.change(self.inode, Change::Length(position(bytes))) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let effect = state.begin()?;
        let state = &mut *state;
        let fails = state.chance.once_in(state.faults.sync_once_in);
        let Some(inode) = state.inodes.get_mut(&self.inode) else { return Ok(()) };
        if fails {
            // The system tells once and takes its pages for clean: what did not arrive never will.
            for change in State::survivors(&state.chance, &inode.unsynced) {
                change.apply(&mut inode.durable);
            }
            inode.unsynced.clear();
            return Err(failed("sync"));
        }
        if effect {
            inode.unsynced.drain(..).for_each(|change| change.apply(&mut inode.durable));
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let mut state = self.state.lock();
        let bytes = &state.inode(self.inode)?.bytes;
        let from = position(offset).min(bytes.len());
        let data = bytes[from..].iter().position(|byte| *byte != 0).map(|found| from + found);
        Ok(data.map(|data| (data - data % BLOCK_BYTES).max(from) as u64))
    }

    fn bytes_len(&self) -> io::Result<u64> {
        Ok(self.state.lock().inode(self.inode)?.bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::{read_file, replace_file};

    fn disk(seed: u64) -> MemoryDisk {
        let disk = MemoryDisk::new(Chance::new(seed));
        disk.create_dir(Path::new("/data")).unwrap();
        disk
    }

    #[test]
    fn what_was_synced_stays_and_what_was_not_may_be_lost_or_torn() {
        let path = Path::new("/data/file");
        let mut seen = BTreeSet::new();
        for seed in 0..60 {
            let disk = disk(seed);
            let file = disk.open(path, Access::Create).unwrap();
            file.write_at(&mut [IoSlice::new(&[1; 600])], 0).unwrap();
            file.sync().unwrap();
            disk.sync_dir(Path::new("/data")).unwrap();
            file.write_at(&mut [IoSlice::new(&[2; 1200])], 600).unwrap();
            disk.power_cut();
            let bytes = read_file(&disk, path, 1 << 20).unwrap();
            assert_eq!(bytes[..600], [1; 600]);
            seen.insert(match bytes.len() {
                600 => "nothing",
                1800 if bytes[600..].iter().all(|byte| *byte == 2) => "all",
                _ => "torn",
            });
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["all", "nothing", "torn"]);
    }

    #[test]
    fn a_name_is_durable_after_a_sync_of_its_folder_only() {
        let path = Path::new("/data/file");
        let there = |seed| {
            let disk = disk(seed);
            replace_file(&disk, path, b"old").unwrap();
            let file = disk.open(&path.with_extension("new"), Access::Create).unwrap();
            file.write_at(&mut [IoSlice::new(b"new")], 0).unwrap();
            file.sync().unwrap();
            disk.rename(&path.with_extension("new"), path).unwrap();
            disk.power_cut();
            read_file(&disk, path, 100).unwrap()
        };
        let found: BTreeSet<Vec<u8>> = (0..40).map(there).collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [b"new".to_vec(), b"old".to_vec()]);
    }

    #[test]
    fn a_removed_file_is_let_go_when_that_is_durable_and_nobody_has_it_open() {
        let disk = disk(1);
        let (path, dir) = (Path::new("/data/file"), Path::new("/data"));
        let file = disk.open(path, Access::Create).unwrap();
        file.write_at(&mut [IoSlice::new(b"one"), IoSlice::new(b"two")], 0).unwrap();
        disk.sync_dir(dir).unwrap();
        let files = || disk.state.lock().inodes.len();
        disk.remove(path).unwrap();
        disk.sync_dir(dir).unwrap();
        let mut bytes = [0; 6];
        assert_eq!((files(), file.read_at(&mut bytes, 0).unwrap(), &bytes), (1, 6, b"onetwo"));
        drop(file);
        disk.sync_dir(dir).unwrap();
        assert_eq!(files(), 0);
    }

    #[test]
    fn a_full_disk_refuses_and_a_removal_makes_room() {
        let disk = disk(1);
        let (one, two) = (Path::new("/data/one"), Path::new("/data/two"));
        disk.open(one, Access::Create).unwrap().allocate(1000).unwrap();
        disk.set_capacity(Some(1500));
        let file = disk.open(two, Access::Create).unwrap();
        assert_eq!(file.allocate(600).unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.remove(one).unwrap();
        file.allocate(600).unwrap();
        assert_eq!(disk.used_bytes(), 600);
    }
}
