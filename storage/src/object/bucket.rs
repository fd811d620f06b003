//! `Bucket`: the few things we ask of an object store, with retries, limits and errors that name the object.
//!
//! Names are never written twice with different bytes, so a read needs no version and a cache no invalidation.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::error::{Error, Result};
use crate::object::meter::Meter;
use crate::object::ranges::RangeCache;
use crate::object::retry::{Retry, lost_a_race};
use crate::view::{CacheInfo, ObjectRequestKind};

/// Ranges with no more than this between them are one request: a request costs more than the bytes.
const GAP_BYTES_MAX: u64 = 1 << 20;

/// The same where a request is opening a file.
const LOCAL_GAP_BYTES_MAX: u64 = 64 << 10;

/// Requests for ranges of one object that run at once.
const RANGE_READS_MAX: usize = 8;

/// Where the bytes are, as far as others may care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder, by absolute path.
    Folder(PathBuf),
    /// This process's memory: gone with it.
    Memory,
    /// Over HTTP, below this URL.
    Url(String),
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
    retry: Retry,
    /// Where ranges of objects are kept on this machine; `None` where the store is as near.
    ranges: Option<RangeCache>,
}

impl Bucket {
    /// A bucket over `store`.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, place: Place, retry: Retry) -> Self {
        Self { store, place, retry, ranges: None }
    }

    /// The same, with ranges of objects kept on this machine.
    pub(crate) fn caching(self, ranges: RangeCache) -> Self {
        Self { ranges: Some(ranges), ..self }
    }

    /// How the cache of ranges does, if there is one.
    pub(crate) fn cache(&self) -> Option<CacheInfo> {
        self.ranges.as_ref().map(RangeCache::info)
    }

    /// What was asked of it.
    pub(crate) fn meter(&self) -> &Meter {
        self.retry.meter()
    }

    /// Whether its bytes come over a network.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.place, Place::Url(_))
    }

    /// What other programs open the object by: an absolute path for a folder.
    pub(crate) fn url(&self, path: &Path) -> String {
        match &self.place {
            Place::Folder(root) => root.join(path.as_ref()).display().to_string(),
            Place::Memory => format!("memory:///{path}"),
            Place::Url(base) => format!("{base}/{path}"),
        }
    }

    /// Puts bytes under a name nobody has; durable when it returns.
    ///
    /// # Errors
    /// [`Error::ObjectStore`]: whether the bytes are there is then unknown.
    pub(crate) async fn put_new(&self, path: &Path, payload: PutPayload) -> Result<Put> {
        let bytes = payload.content_length();
        let put = self.retry.run(ObjectRequestKind::Put, bytes, || {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            self.store.put_opts(path, payload.clone(), options)
        });
        match put.await {
            Ok(_) => {
                self.meter().moved(ObjectRequestKind::Put, bytes as u64);
                Ok(Put::Created)
            }
            Err(error) if lost_a_race(&error) => Err(Error::object(format!("put {path}"))(error)),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(Put::Taken),
            Err(error) => Err(Error::object(format!("put {path}"))(error)),
        }
    }

    /// All bytes of an object of at most `bytes_max`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::ObjectStore`]; [`Error::Corrupt`] for an object larger than anything we would have written.
    pub(crate) async fn get(&self, path: &Path, bytes_max: u64) -> Result<Option<Bytes>> {
        let got = self.retry.run(ObjectRequestKind::Get, 0, || async {
            let result = self.store.get(path).await?;
            if result.meta.size > bytes_max { Ok(Err(result.meta.size)) } else { result.bytes().await.map(Ok) }
        });
        match got.await {
            Ok(Ok(bytes)) => {
                self.meter().moved(ObjectRequestKind::Get, bytes.len() as u64);
                Ok(Some(bytes))
            }
            Ok(Err(size)) => Err(Error::Corrupt {
                place: path.to_string(),
                reason: format!("{size} bytes where at most {bytes_max} are allowed"),
            }),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(Error::object(format!("get {path}"))(error)),
        }
    }

    /// Ranges of an object of `object_bytes`, from this machine where they are kept here.
    pub(crate) async fn read_ranges(
        &self,
        path: &Path,
        object_bytes: u64,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, object_store::Error> {
        match &self.ranges {
            Some(kept) => kept.get_ranges(self, path, object_bytes, ranges).await,
            None => self.get_ranges(path, ranges).await,
        }
    }

    /// Ranges of an object, in the order asked for; those that lie close together in one request. The error is the
    /// store's own: the Parquet reader wraps it.
    pub(crate) async fn get_ranges(
        &self,
        path: &Path,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, object_store::Error> {
        let spans = join(ranges, if self.is_remote() { GAP_BYTES_MAX } else { LOCAL_GAP_BYTES_MAX });
        let parts: Vec<Bytes> = if self.is_remote() {
            let reads: Vec<_> = spans.iter().map(|span| self.get_range(path, span.clone()).boxed()).collect();
            stream::iter(reads).buffered(RANGE_READS_MAX).try_collect().await?
        } else {
            // What costs is opening the file.
            let length = spans.iter().map(|span| span.end - span.start).sum::<u64>();
            let read = || self.store.get_ranges(path, &spans);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let parts =
                if spans.is_empty() { vec![] } else { self.retry.run(ObjectRequestKind::Get, length, read).await? };
            self.meter().moved(ObjectRequestKind::Get, parts.iter().map(|part| part.len() as u64).sum());
            parts
        };
        let cut = |range: &Range<u64>| {
            if range.start >= range.end {
                return Some(Bytes::new());
            }
            let at = spans.partition_point(|span| span.end < range.end);
            let start = usize::try_from(range.start.checked_sub(spans.get(at)?.start)?).ok()?;
            let length = usize::try_from(range.end.saturating_sub(range.start)).ok()?;
            let part = parts.get(at)?;
            (start + length <= part.len()).then(|| part.slice(start..start + length))
        };
        let cut: Option<Vec<Bytes>> = ranges.iter().map(cut).collect();
        cut.ok_or_else(|| object_store::Error::Generic {
            store: "object store",
            source: format!("{path} is shorter than the ranges asked for").into(),
        })
    }

    async fn get_range(&self, path: &Path, range: Range<u64>) -> Result<Bytes, object_store::Error> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let read = || self.store.get_range(path, range.clone());
        let bytes = self.retry.run(ObjectRequestKind::Get, length, read).await?;
        self.meter().moved(ObjectRequestKind::Get, bytes.len() as u64);
        Ok(bytes)
    }

    /// Names under `prefix` in order, those after `after` if it is given.
    ///
    /// # Errors
    /// [`Error::ObjectStore`].
    pub(crate) async fn list(&self, prefix: &Path, after: Option<&Path>) -> Result<Vec<Path>> {
        let listed = self.metas(prefix, after, usize::MAX).await?;
        let mut names: Vec<_> = listed.into_iter().map(|meta| meta.location).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// All names under `prefix`, and how many bytes stand under each.
    ///
    /// # Errors
    /// [`Error::ObjectStore`].
    pub(crate) async fn sizes(&self, prefix: &Path) -> Result<BTreeMap<Path, u64>> {
        let listed = self.metas(prefix, None, usize::MAX).await?;
        Ok(listed.into_iter().map(|meta| (meta.location, meta.size)).collect())
    }

    /// Some names under `prefix`, at most so many, in no order: for who wants all of them gone, however many there are.
    ///
    /// # Errors
    /// [`Error::ObjectStore`].
    pub(crate) async fn list_some(&self, prefix: &Path, count: usize) -> Result<Vec<Path>> {
        Ok(self.metas(prefix, None, count).await?.into_iter().map(|meta| meta.location).collect())
    }

    /// What is listed under `prefix`, at most so many, in the store's order.
    async fn metas(&self, prefix: &Path, after: Option<&Path>, most: usize) -> Result<Vec<ObjectMeta>> {
        // Stores over HTTP list in the order of the names; a folder does not, so there is no going on in it.
        let listed = self.retry.list(most, self.is_remote(), |last: Option<&ObjectMeta>| {
            match last.map(|meta| &meta.location).filter(|_| self.is_remote()).or(after) {
                Some(after) => self.store.list_with_offset(Some(prefix), after),
                None => self.store.list(Some(prefix)),
            }
        });
        listed.await.map_err(Error::object(format!("list {prefix}")))
    }

    /// The folders right below `prefix`.
    ///
    /// # Errors
    /// [`Error::ObjectStore`].
    pub(crate) async fn folders(&self, prefix: &Path) -> Result<Vec<Path>> {
        let listed = self.retry.run(ObjectRequestKind::List, 0, || self.store.list_with_delimiter(Some(prefix)));
        Ok(listed.await.map_err(Error::object(format!("list folders of {prefix}")))?.common_prefixes)
    }

    /// The folder, if it stands on one.
    pub(crate) fn folder(&self) -> Option<&std::path::Path> {
        match &self.place {
            Place::Folder(root) => Some(root),
            Place::Memory | Place::Url(_) => None,
        }
    }

    /// Removes an object; one that is not there is removed.
    ///
    /// # Errors
    /// [`Error::ObjectStore`].
    pub(crate) async fn delete(&self, path: &Path) -> Result<()> {
        match self.retry.run(ObjectRequestKind::Delete, 0, || self.store.delete(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Error::object(format!("delete {path}"))(error)),
        }
    }
}

/// The ranges to ask for instead of these: ascending, those with at most `gap` between them joined.
fn join(ranges: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| range.start < range.end).cloned().collect();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut spans: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match spans.last_mut() {
            Some(span) if range.start <= span.end.saturating_add(gap) => span.end = span.end.max(range.end),
            _ => spans.push(range),
        }
    }
    spans
}

#[cfg(test)]
impl Bucket {
    /// A fresh bucket in memory, with a budget that does not keep a test waiting.
    pub(crate) fn for_test() -> Self {
        Self::for_test_over(Arc::new(object_store::memory::InMemory::new()))
    }

    /// A bucket over `store`, which keeps what it is given.
    pub(crate) fn for_test_over(store: Arc<dyn ObjectStore>) -> Self {
        use crate::object::retry::RetryBudget;

        let budget = RetryBudget { attempts_max: 3, attempt_ms_max: 200, time_ms_max: 2_000, backoff_ms: 1 };
        let retry = Retry::new(budget, Arc::new(crate::clock::SystemRandom), Arc::default());
        Self::new(store, Place::Folder(PathBuf::from("/nowhere")), retry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ranges_are_one_request_where_that_costs_less() {
        let near = Bucket::for_test();
        let far = Bucket { place: Place::Url("s3://there".to_owned()), ..near.clone() };
        let path = Path::from("x");
        let bytes: Vec<u8> = (0..5 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
        near.put_new(&path, PutPayload::from(bytes.clone())).await.unwrap();
        let ranges = [4_000_000..4_000_100, 10..20, 15..18, 100..100, 1_000_000..1_000_001];
        let mut counted = (0, 0);
        // A file is opened once; a far object is asked for once per neighbourhood.
        for (bucket, requests, read) in [(near, 1, 10 + 1 + 100), (far, 2, 999_991 + 100)] {
            let parts = bucket.get_ranges(&path, &ranges).await.unwrap();
            for (range, part) in ranges.iter().zip(parts) {
                assert_eq!(part, bytes[range.start as usize..range.end as usize], "{range:?}");
            }
            let gets = bucket.meter().requests()[0];
            assert_eq!((gets.requests - counted.0, gets.bytes - counted.1), (requests, read));
            counted = (gets.requests, gets.bytes);
            assert!(bucket.get_ranges(&path, &[100..100, 7..7]).await.unwrap().iter().all(Bytes::is_empty));
            assert_eq!(bucket.meter().requests()[0].requests, counted.0, "nothing is asked for nothing");
        }
    }

    #[tokio::test]
    async fn an_object_shorter_than_a_range_is_an_error() {
        let near = Bucket::for_test();
        let far = Bucket { place: Place::Url("s3://there".to_owned()), ..near.clone() };
        let path = Path::from("x");
        near.put_new(&path, PutPayload::from(vec![7; 1000])).await.unwrap();
        for bucket in [near, far] {
            bucket.get_ranges(&path, &[0..2000, 0..0]).await.unwrap_err();
        }
    }
}
