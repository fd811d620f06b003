//! `Bucket`: the few things we ask of an object store, with retries, limits and errors that name the object.
//!
//! Names are never written twice with different bytes, so a read needs no version and a cache no invalidation.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::error::{Error, Result};
use crate::object::retry::RetryBudget;

/// Where the bytes are, as far as others may care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder, by absolute path.
    Folder(PathBuf),
    /// This process's memory: gone with it.
    Memory,
}

/// What became of a put under a name that had to be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is there now.
    Created,
    /// The name was taken: by somebody, or by an earlier attempt of ours whose answer was lost.
    Taken,
}

/// A store of objects. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    place: Place,
    budget: RetryBudget,
}

impl Bucket {
    /// A bucket over `store`.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, place: Place, budget: RetryBudget) -> Self {
        Self { store, place, budget }
    }

    /// What other programs open the object by: an absolute path for a folder.
    pub(crate) fn url(&self, path: &Path) -> String {
        match &self.place {
            Place::Folder(root) => root.join(path.as_ref()).display().to_string(),
            Place::Memory => format!("memory:///{path}"),
        }
    }

    /// Puts bytes under a name nobody has; durable when it returns.
    ///
    /// # Errors
    /// [`Error::ObjectStore`]: whether the bytes are there is then unknown.
    pub(crate) async fn put_new(&self, path: &Path, payload: PutPayload) -> Result<Put> {
        let put = self.budget.run(payload.content_length(), || {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            self.store.put_opts(path, payload.clone(), options)
        });
        match put.await {
            Ok(_) => Ok(Put::Created),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(Put::Taken),
            Err(error) => Err(Error::object(format!("put {path}"))(error)),
        }
    }

    /// All bytes of an object of at most `bytes_max`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::ObjectStore`]; [`Error::Corrupt`] for an object larger than anything we would have written.
    pub(crate) async fn get(&self, path: &Path, bytes_max: u64) -> Result<Option<Bytes>> {
        let got = self.budget.run(0, || async {
            let result = self.store.get(path).await?;
            if result.meta.size > bytes_max { Ok(Err(result.meta.size)) } else { result.bytes().await.map(Ok) }
        });
        match got.await {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(size)) => Err(Error::Corrupt {
                place: path.to_string(),
                reason: format!("{size} bytes where at most {bytes_max} are allowed"),
            }),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(Error::object(format!("get {path}"))(error)),
        }
    }

    /// Ranges of an object. The error is the store's own: the Parquet reader wraps it.
    pub(crate) async fn get_ranges(
        &self,
        path: &Path,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, object_store::Error> {
        let bytes: u64 = ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
        self.budget.run(usize::try_from(bytes).unwrap_or(usize::MAX), || self.store.get_ranges(path, ranges)).await
    }

    /// Names under `prefix` in order, those after `after` if it is given.
    ///
    /// # Errors
    /// [`Error::ObjectStore`].
    pub(crate) async fn list(&self, prefix: &Path, after: Option<&Path>) -> Result<Vec<Path>> {
        let listed = self.budget.run(0, || {
            let names = match after {
                Some(after) => self.store.list_with_offset(Some(prefix), after),
                None => self.store.list(Some(prefix)),
            };
            names.map_ok(|meta| meta.location).try_collect::<Vec<_>>()
        });
        let mut names = listed.await.map_err(Error::object(format!("list {prefix}")))?;
        names.sort_unstable();
        Ok(names)
    }

    /// The folders right below `prefix`.
    ///
    /// # Errors
    /// [`Error::ObjectStore`].
    pub(crate) async fn folders(&self, prefix: &Path) -> Result<Vec<Path>> {
        let listed = self.budget.run(0, || self.store.list_with_delimiter(Some(prefix)));
        Ok(listed.await.map_err(Error::object(format!("list folders of {prefix}")))?.common_prefixes)
    }

    /// The folder, if it stands on one.
    pub(crate) fn folder(&self) -> Option<&std::path::Path> {
        match &self.place {
            Place::Folder(root) => Some(root),
            Place::Memory => None,
        }
    }

    /// Removes an object; one that is not there is removed.
    ///
    /// # Errors
    /// [`Error::ObjectStore`].
    pub(crate) async fn delete(&self, path: &Path) -> Result<()> {
        match self.budget.run(0, || self.store.delete(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Error::object(format!("delete {path}"))(error)),
        }
    }
}

#[cfg(test)]
impl Bucket {
    /// A fresh bucket in memory, with a budget that does not keep a test waiting.
    pub(crate) fn for_test() -> Self {
        Self::for_test_over(Arc::new(object_store::memory::InMemory::new()))
    }

    /// A bucket over `store`, which keeps what it is given.
    pub(crate) fn for_test_over(store: Arc<dyn ObjectStore>) -> Self {
        let budget = RetryBudget { attempts_max: 3, attempt_ms_max: 200, backoff_ms: 1 };
        Self::new(store, Place::Folder(PathBuf::from("/nowhere")), budget)
    }
}
