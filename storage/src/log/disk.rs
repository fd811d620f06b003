//! The files of the log, behind a small face: what the log asks of a disk, and the machine's answer to it.
//!
//! The face exists so that tests can lose unsynced bytes, tear writes and fail syncs (`testing/fault`); nothing else
//! may implement it. Every call blocks. Nothing here retries: a failed sync must be seen as such.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{FallocateFlags, FlockOperation};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It must be there; it is only read.
    Read,
    /// It must be there.
    Write,
    /// It must not be there, or is emptied.
    Create,
}

/// What a lock is good for: held until dropped.
pub(crate) trait Held: Send + Sync + Debug {}

/// A folder tree.
pub(crate) trait Disk: Send + Sync + Debug {
    /// Makes a folder and those above it.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Names of the files in a folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name, replacing what has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Unlinks a file; who has it open reads on.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Locks a file for this process; the error holds what the holder wrote into it.
    fn lock(&self, path: &Path, owner: &str) -> io::Result<Result<Box<dyn Held>, String>>;
}

/// An open file.
pub(crate) trait DiskFile: Send + Sync + Debug {
    /// Fills the buffer from `offset`, or as far as the file goes; says how far.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As [`DiskFile::read_at`], into a buffer of its own; what it holds then is what the file had.
    fn read_new(&self, bytes: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        let read = self.read_at(&mut buffer, offset)?;
        buffer.truncate(read);
        Ok(buffer)
    }
    /// Writes all slices, one after another, from `offset` on.
    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Reserves room so that the file is `bytes` long; what is new reads as zeros.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Cuts or grows the file.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Returns when what was written before is on stable storage.
    fn sync(&self) -> io::Result<()>;
    /// The next offset at or after this one that is not in a hole; `None` if only a hole is left.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;
    /// Its length.
    fn bytes_len(&self) -> io::Result<u64>;
}

/// The machine's disk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemDisk;

#[derive(Debug)]
struct SystemFile(File);

#[derive(Debug)]
struct SystemLock {
    /// The lock lives as long as the descriptor.
    _file: File,
}

impl Held for SystemLock {}

impl Disk for SystemDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut how = File::options();
        how.read(true);
        match access {
            Access::Read => &mut how,
            Access::Write => how.write(true),
            Access::Create => how.write(true).create(true).truncate(true),
        };
        Ok(Arc::new(SystemFile(how.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path, owner: &str) -> io::Result<Result<Box<dyn Held>, String>> {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // The holder's words are a courtesy; without them the refusal stands all the same.
                let _ = file.read_to_string(&mut holder);
                return Ok(Err(holder.trim().to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
        // A courtesy to who comes next; on a full disk there may be no room for it.
        let _ = file.set_len(0).and_then(|()| file.write_all(owner.as_bytes()));
        Ok(Ok(Box::new(SystemLock { _file: file })))
    }
}

/// Locks a file as [`Disk::lock`] does, but beside others who only read, and without writing into it.
pub(crate) fn lock_to_read(path: &Path) -> io::Result<Result<Box<dyn Held>, String>> {
    let mut file = File::open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Ok(Box::new(SystemLock { _file: file }))),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // A courtesy, as there.
            let _ = file.read_to_string(&mut holder);
            Ok(Err(holder.trim().to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Slices one `pwritev` takes on Linux.
const SLICES_MAX: usize = 1024;

impl DiskFile for SystemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn read_new(&self, bytes: usize, offset: u64) -> io::Result<Vec<u8>> {
        // Zeroing what is read over would be a pass over all of a fetch's bytes.
        let mut buffer = Vec::with_capacity(bytes);
        while buffer.len() < bytes {
            let at = offset + buffer.len() as u64;
            match rustix::io::pread(&self.0, spare_capacity(&mut buffer), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Room may be made for more than was asked for.
        buffer.truncate(bytes);
        Ok(buffer)
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut rest = slices;
        let mut at = offset;
        // Empty slices in front are dropped, so that "nothing written" always means trouble.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let some = rest.len().min(SLICES_MAX);
            match rustix::io::pwritev(&self.0, &rest[..some], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // A file system without it: a full disk shows later there, at the write, which is undone as well.
            Err(rustix::io::Errno::OPNOTSUPP) if self.0.metadata()?.len() < bytes => self.0.set_len(bytes),
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        // The descriptor's own position moves, which nobody here uses.
        match rustix::fs::seek(&self.0, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => Ok(Some(data.max(offset))),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(Some(offset)),
            Err(error) => Err(error.into()),
        }
    }

    fn bytes_len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// Reads a whole small file; refuses one that is larger than `bytes_max`.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Access::Read)?;
    let length = file.bytes_len()?;
    if length > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{length} bytes, at most {bytes_max} expected"),
        ));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Puts a whole file in place durably: written beside, synced, renamed, folder synced. Readers see the old or the new.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let file = disk.open(&beside, Access::Create)?;
    let written = file.write_at(&mut [IoSlice::new(bytes)], 0).and_then(|()| file.sync());
    if let Err(error) = written.and_then(|()| disk.rename(&beside, path)) {
        // On a full disk half a file would only be in the way; if it stays, the next try empties it.
        let _ = disk.remove(&beside);
        return Err(error);
    }
    path.parent().map_or(Ok(()), |dir| disk.sync_dir(dir))
}
