//! An object store that fails as told: before the act, after it, or not answering at all.
//!
//! A fault is laid for the next call whose name contains some words; it is used up by that call. So a test says exactly
//! which put loses its answer, and everything else goes as it should.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The store refuses with a 500; nothing was done.
    Refuse,
    /// It was done, but the answer is an error: what a timeout looks like.
    LoseAnswer,
    /// No answer ever comes; nothing was done.
    Stall,
    /// A put that had to be the first of its name replaces what is there: a store that ignores conditions.
    Overwrite,
}

/// Faults laid and not yet used up. Cheap to clone; a test keeps one, the store another.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    laid: Arc<Mutex<Vec<(String, Fault)>>>,
}

impl Faults {
    /// Lays a fault for the next put or get of a name that contains `words`.
    pub fn lay(&self, words: &str, fault: Fault) {
        self.laid.lock().push((words.to_owned(), fault));
    }

    /// Whether all were used up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.laid.lock().is_empty()
    }

    fn take(&self, path: &Path) -> Option<Fault> {
        let mut laid = self.laid.lock();
        let at = laid.iter().position(|(words, _)| path.as_ref().contains(words))?;
        Some(laid.remove(at).1)
    }
}

/// A store with faults in front.
#[derive(Debug)]
pub struct FaultyStore<S> {
    inner: S,
    faults: Faults,
}

impl<S> FaultyStore<S> {
    /// `inner`, failing as `faults` says.
    pub fn new(inner: S, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

impl<S: ObjectStore> fmt::Display for FaultyStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

fn failed(words: &'static str) -> Error {
    Error::Generic { store: "faulty", source: words.into() }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for FaultyStore<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match self.faults.take(location) {
            None => self.inner.put_opts(location, payload, opts).await,
            Some(Fault::Refuse) => Err(failed("500 internal server error")),
            Some(Fault::Stall) => std::future::pending().await,
            Some(Fault::LoseAnswer) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(failed("the answer was lost"))
            }
            Some(Fault::Overwrite) => {
                self.inner.put_opts(location, payload, PutOptions { mode: PutMode::Overwrite, ..opts }).await
            }
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.faults.take(location) {
            None | Some(Fault::Overwrite) => self.inner.get_opts(location, options).await,
            Some(Fault::Stall) => std::future::pending().await,
            Some(Fault::Refuse | Fault::LoseAnswer) => Err(failed("500 internal server error")),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        match self.faults.take(location) {
            None | Some(Fault::Overwrite) => self.inner.get_ranges(location, ranges).await,
            Some(Fault::Stall) => std::future::pending().await,
            Some(Fault::Refuse | Fault::LoseAnswer) => Err(failed("500 internal server error")),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let faults = self.faults.clone();
        let reached = locations.map(move |location| {
            let location = location?;
            match faults.take(&location) {
                None | Some(Fault::Overwrite) => Ok(location),
                Some(_) => Err(failed("500 internal server error")),
            }
        });
        self.inner.delete_stream(reached.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
