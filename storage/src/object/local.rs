//! A folder as an object store whose puts are durable before they are answered.
//!
//! `object_store`'s own local store syncs neither what it puts nor the directories it makes, and it links a new object
//! into place before its bytes are down: after a power cut the name may stand there with nothing behind it. Here the
//! bytes are written into a folder of their own, synced, and only then given the name; then the directory is synced. Everything
//! that only reads is passed on.
//!
//! Deletes are not synced: an object that comes back after a power cut is one the sweep removes again.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::worker;

/// The store's name in errors.
const STORE: &str = "local folder";

/// Where bytes wait for their name: one folder, so that what a crash left there is found without looking everywhere.
const STAGING: &str = "staging";

/// An object is synced after so many bytes of it: with tens of MiB in the device's queue at once, the log's next sync would
/// wait behind all of them. Synced in pieces an object takes as long as before.
const SYNC_BYTES: usize = 1 << 20;

/// Numbers staged files of this process: two puts never share one.
static STAGED: AtomicU64 = AtomicU64::new(0);

/// A folder; see the top of this file.
#[derive(Debug)]
pub(crate) struct DurableFolder {
    inner: LocalFileSystem,
    root: PathBuf,
}

impl DurableFolder {
    /// Opens the folder, makes it (durably) if it is not there.
    pub(crate) fn open(root: &FilePath) -> Result<Self> {
        make_directories(root).map_err(failed)?;
        let root = fs::canonicalize(root).map_err(failed)?;
        Ok(Self { inner: LocalFileSystem::new_with_prefix(&root)?, root })
    }

    /// The folder, as an absolute path without links.
    pub(crate) fn root(&self) -> &FilePath {
        &self.root
    }

    fn refused<T>(&self, operation: &str) -> Result<T> {
        Err(object_store::Error::NotImplemented { operation: operation.to_owned(), implementer: self.to_string() })
    }
}

impl fmt::Display for DurableFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {}", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for DurableFolder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return self.refused("put of a certain version"),
        };
        let target = self.inner.path_to_filesystem(location)?;
        let staging = self.root.join(STAGING);
        worker::blocking(move || Ok(put_durably(&staging, &target, &payload, create)))
            .await
            .map_err(|error| object_store::Error::Generic { store: STORE, source: Box::new(error) })??;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        // Objects are put whole: a put is the unit of durability.
        self.refused("multipart upload")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        self.refused("copy")
    }
}

/// Writes apart, syncs, gives the name, syncs the directory.
fn put_durably(staging: &FilePath, target: &FilePath, payload: &PutPayload, create: bool) -> Result<()> {
    let directory = target.parent().ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidInput)))?;
    make_directories(directory).and_then(|()| make_directories(staging)).map_err(failed)?;
    let staged = write_staged(staging, payload).map_err(failed)?;
    let written = if create { fs::hard_link(&staged, target) } else { fs::rename(&staged, target) };
    if create || written.is_err() {
        // A staged file left behind is invisible; it costs space only.
        let _ = fs::remove_file(&staged);
    }
    match written {
        Ok(()) => sync_directory(directory).map_err(failed),
        Err(error) if create && error.kind() == io::ErrorKind::AlreadyExists => {
            // It may be an earlier attempt of this very put, whose name nobody knows to be durable.
            sync_directory(directory).map_err(failed)?;
            Err(object_store::Error::AlreadyExists { path: target.display().to_string(), source: Box::new(error) })
        }
        Err(error) => Err(failed(error)),
    }
}

/// Writes and syncs a file of its own; gives its name.
fn write_staged(staging: &FilePath, payload: &PutPayload) -> io::Result<PathBuf> {
    let (staged, mut file) = loop {
        // The local store hides names of this shape from its listings. A process before us may have had our number.
        let number = STAGED.fetch_add(1, Ordering::Relaxed);
        let staged = staging.join(format!("put#{:010}{number:010}", std::process::id()));
        match File::create_new(&staged) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            file => break (staged, file?),
        }
    };
    let pieces = payload.iter().flat_map(|part| part.chunks(SYNC_BYTES));
    let written = write_in_pieces(&mut file, pieces).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&staged);
        return Err(error);
    }
    Ok(staged)
}

/// Writes, with at most two pieces that are not synced.
fn write_in_pieces<'a>(file: &mut File, pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    let mut unsynced_bytes = 0;
    for piece in pieces {
        file.write_all(piece)?;
        unsynced_bytes += piece.len();
        if unsynced_bytes >= SYNC_BYTES {
            file.sync_data()?;
            unsynced_bytes = 0;
        }
    }
    Ok(())
}

/// Removes what was staged before that time, us since the epoch: its process died. Gives how many files.
pub(crate) fn remove_staged(root: &FilePath, before_us: i64) -> io::Result<u64> {
    let names = match fs::read_dir(root.join(STAGING)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        names => names?,
    };
    let mut removed = 0;
    for name in names {
        let name = name?;
        let modified = match name.metadata() {
            // It was given its name, or given up, since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?.modified()?,
        };
        let age = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        if i64::try_from(age.as_micros()).unwrap_or(i64::MAX) < before_us {
            fs::remove_file(name.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Makes a directory and those above it, each durable in its parent.
fn make_directories(directory: &FilePath) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
    };
    make_directories(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_directory(parent)
}

fn sync_directory(directory: &FilePath) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn failed(error: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: STORE, source: Box::new(error) }
}

/// The folder as the trait object everybody uses.
pub(crate) fn open_folder(root: &FilePath) -> Result<(Arc<dyn ObjectStore>, PathBuf)> {
    let folder = DurableFolder::open(root)?;
    let root = folder.root().to_path_buf();
    Ok((Arc::new(folder), root))
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn a_name_is_given_once_and_staged_files_leave_no_trace() {
        let home = tempfile::tempdir().unwrap();
        let (store, root) = open_folder(&home.path().join("a/b")).unwrap();
        let path = Path::from("x/y/z");
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        store.put_opts(&path, "one".into(), create.clone()).await.unwrap();
        let again = store.put_opts(&path, "two".into(), create).await.unwrap_err();
        assert!(matches!(again, object_store::Error::AlreadyExists { .. }), "{again}");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "one");
        store.put(&path, "three".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "three");
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(fs::read_dir(root.join("x/y")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(root.join(STAGING)).unwrap().count(), 0);
        let left = root.join(STAGING).join("put#00000000070000000001");
        fs::write(&left, "left by a crash").unwrap();
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 1);
        assert_eq!(remove_staged(&root, 0).unwrap(), 0);
        assert_eq!(remove_staged(&root, i64::MAX).unwrap(), 1);
        assert!(!left.exists());
    }

    #[tokio::test]
    async fn an_object_synced_in_pieces_is_whole() {
        let home = tempfile::tempdir().unwrap();
        let (store, _) = open_folder(home.path()).unwrap();
        let parts = [7, SYNC_BYTES * 5 / 2, 0, SYNC_BYTES, 3].map(|len| (0..len).map(|at| (at % 251) as u8).collect());
        let parts: Vec<Bytes> = parts.map(|part: Vec<u8>| part.into()).to_vec();
        store.put(&Path::from("name"), parts.iter().cloned().collect::<PutPayload>()).await.unwrap();
        assert_eq!(store.get(&Path::from("name")).await.unwrap().bytes().await.unwrap(), parts.concat());
    }

    #[tokio::test]
    async fn eight_writers_of_one_name_have_one_winner() {
        let home = tempfile::tempdir().unwrap();
        let (store, _) = open_folder(home.path()).unwrap();
        let puts = (0..8).map(|writer| {
            let store = Arc::clone(&store);
            async move {
                let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                store.put_opts(&Path::from("name"), format!("{writer}").into(), create).await.is_ok()
            }
        });
        let won = futures::future::join_all(puts).await;
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
    }
}
