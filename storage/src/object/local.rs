//! A folder as an object store whose puts are durable before they are answered.
//!
//! `object_store`'s own local store syncs neither what it puts nor the directories it makes, and it links a new object
//! into place before its bytes are down: after a power cut the name may stand there with nothing behind it. Here the
//! bytes are written beside their name, synced, and only then given the name; then the directory is synced. Everything
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

/// Numbers staged files of this process: two puts of one name never share one.
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
        worker::blocking(move || Ok(put_durably(&target, &payload, create)))
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

/// Writes beside, syncs, gives the name, syncs the directory.
fn put_durably(target: &FilePath, payload: &PutPayload, create: bool) -> Result<()> {
    let directory = target.parent().ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidInput)))?;
    // The local store hides names of this shape from its listings.
    let mut staged = target.as_os_str().to_owned();
    staged.push(format!("#{}{:010}", std::process::id(), STAGED.fetch_add(1, Ordering::Relaxed)));
    let staged = PathBuf::from(staged);
    let written = write_staged(&staged, directory, payload)
        .and_then(|()| if create { fs::hard_link(&staged, target) } else { fs::rename(&staged, target) });
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

fn write_staged(staged: &FilePath, directory: &FilePath, payload: &PutPayload) -> io::Result<()> {
    let mut file = match File::create_new(staged) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directories(directory)?;
            File::create_new(staged)?
        }
        other => other?,
    };
    for part in payload {
        file.write_all(part)?;
    }
    file.sync_all()
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
