//! From a URL to a [`Bucket`]: a folder, memory, or a cloud's store that has shown that it can put if absent.

use std::path::Path as FilePath;
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, PutPayload};
use url::Url;

use crate::clock::Random;
use crate::error::{Error, Result};
use crate::object::bucket::{Bucket, Place, Put};
use crate::object::local::open_folder;
use crate::object::meter::{Meter, Prices};
use crate::object::paths;
use crate::object::ranges::RangeCache;
use crate::object::remote::{self, Cloud};
use crate::object::retry::{Retry, RetryBudget};
use crate::settings::{ObjectStoreOptions, StorageSettings};
use crate::worker;

/// The folder below the data directory that is the bucket unless another one is named.
const DEFAULT_FOLDER: &str = "objects";

/// The folder below the data directory with what was read of a far store lately.
const CACHE_FOLDER: &str = "cache";

/// The URLs there are, for who wrote another one.
const KNOWN: &str = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///absolute/path or memory:";

/// What opening takes.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    /// `None` for a folder below the data directory.
    pub(crate) url: Option<&'a str>,
    pub(crate) options: &'a ObjectStoreOptions,
    pub(crate) data_dir: &'a FilePath,
    pub(crate) settings: &'a StorageSettings,
    pub(crate) random: &'a Arc<dyn Random>,
}

impl Opening<'_> {
    /// Opens it, and asks a store over HTTP whether it keeps the one promise we need.
    ///
    /// # Errors
    /// [`Error::Config`] for a URL that is none, for a store that does not answer within `object_store.retry_time_max`
    /// or not as it must: what to do is in it. [`Error::ObjectStore`] if a folder cannot be made.
    pub(crate) async fn open(&self) -> Result<Bucket> {
        let Some(text) = self.url else { return self.folder(&self.data_dir.join(DEFAULT_FOLDER)) };
        let url = parse(text)?;
        let bucket = match url.scheme() {
            "file" => {
                let path = url.to_file_path().map_err(|()| Error::Config {
                    reason: format!("object store '{text}' names no local folder; use file:///absolute/path"),
                })?;
                self.folder(&path)?
            }
            "memory" => self.bucket(Arc::new(InMemory::new()), Place::Memory, Prices::default()),
            scheme => match Cloud::of(scheme) {
                Some(cloud) => return self.remote(cloud, &url, text).await,
                None => {
                    let reason = format!("object store '{text}' has the unknown scheme '{scheme}'; use {KNOWN}");
                    return Err(Error::Config { reason });
                }
            },
        };
        match self.options.said().next() {
            Some((name, _)) => Err(Error::Config {
                reason: format!("{name} means nothing to {}:; it is for s3://, gs:// and az://", url.scheme()),
            }),
            None => Ok(bucket),
        }
    }

    /// Whether another process may have left a cluster there: it outlives processes, and is not a folder yet to be made.
    pub(crate) fn may_hold_a_cluster(&self) -> bool {
        outlives_process(self.url) && (self.url.is_some() || self.data_dir.join(DEFAULT_FOLDER).is_dir())
    }

    /// Opens it for who only reads: nothing is made, put or kept. `None` for memory, of which another process sees nothing.
    ///
    /// # Errors
    /// [`Error::Config`] as [`Opening::open`], and if a folder is not there; [`Error::ObjectStore`].
    pub(crate) fn open_to_read(&self) -> Result<Option<Bucket>> {
        let Some(text) = self.url else {
            return self.folder_there(&self.data_dir.join(DEFAULT_FOLDER)).map(Some);
        };
        let url = parse(text)?;
        match (url.scheme(), Cloud::of(url.scheme())) {
            ("memory", _) => Ok(None),
            (_, Some(cloud)) => {
                let config = |reason: String| Error::Config { reason: format!("object store '{text}': {reason}") };
                let store = remote::build(cloud, &url, self.options).map_err(config)?;
                let place = Place::Url(text.trim_end_matches('/').to_owned());
                Ok(Some(self.bucket(store, place, Prices::of(self.settings))))
            }
            ("file", _) => match url.to_file_path() {
                Ok(path) => self.folder_there(&path).map(Some),
                Err(()) => Err(Error::Config {
                    reason: format!("object store '{text}' names no local folder; use file:///absolute/path"),
                }),
            },
            (scheme, None) => Err(Error::Config {
                reason: format!("object store '{text}' has the unknown scheme '{scheme}'; use {KNOWN}"),
            }),
        }
    }

    fn folder_there(&self, path: &FilePath) -> Result<Bucket> {
        if path.is_dir() {
            return self.folder(path);
        }
        let shown = path.display();
        Err(Error::Config { reason: format!("there is no folder {shown}; name the object store with --object-store") })
    }

    fn bucket(&self, store: Arc<dyn ObjectStore>, place: Place, prices: Prices) -> Bucket {
        let meter = Arc::new(Meter::new(prices));
        Bucket::new(store, place, Retry::new(RetryBudget::of(self.settings), Arc::clone(self.random), meter))
    }

    fn folder(&self, path: &FilePath) -> Result<Bucket> {
        let (store, root) = open_folder(path).map_err(Error::object(format!("open folder {}", path.display())))?;
        Ok(self.bucket(store, Place::Folder(root), Prices::default()))
    }

    async fn remote(&self, cloud: Cloud, url: &Url, text: &str) -> Result<Bucket> {
        let config = |reason: String| Error::Config { reason: format!("object store '{text}': {reason}") };
        if url.host_str().is_none_or(str::is_empty) {
            return Err(config(format!("it names no bucket; use {KNOWN}")));
        }
        let store = remote::build(cloud, url, self.options).map_err(config)?;
        let place = Place::Url(text.trim_end_matches('/').to_owned());
        let bucket = self.bucket(store, place, Prices::of(self.settings));
        probe(&bucket, &paths::probe(self.random.uuid())).await.map_err(|error| self.advised(error))?;
        self.with_cache(bucket).await
    }

    /// What the store of a URL said, as what to do about it; other errors as they are.
    pub(crate) fn advised(&self, error: Error) -> Error {
        let Some(text) = self.url else { return error };
        let cloud = parse(text).ok().and_then(|url| Cloud::of(url.scheme()));
        match (cloud, error) {
            (Some(cloud), Error::ObjectStore { source, .. }) => {
                Error::Config { reason: format!("object store '{text}': {}", remote::advice(cloud, &source)) }
            }
            (_, other) => other,
        }
    }

    /// Ranges of a far store's objects are kept on this machine, unless told otherwise.
    async fn with_cache(&self, bucket: Bucket) -> Result<Bucket> {
        let (dir, bytes_max) = (self.data_dir.join(CACHE_FOLDER), self.settings.cache_bytes_max);
        let opened = worker::blocking(move || {
            if bytes_max > 0 {
                return Ok(Some(
                    RangeCache::open(&dir, bytes_max).map_err(Error::io(format!("open {}", dir.display()))),
                ));
            }
            // Of a time when there was one; what cannot be removed is in nobody's way.
            let _ = std::fs::remove_dir_all(&dir);
            Ok(None)
        });
        match opened.await? {
            Some(Ok(ranges)) => Ok(bucket.caching(ranges)),
            Some(Err(error)) => {
                tracing::warn!(%error, "ranges of objects are not cached");
                Ok(bucket)
            }
            None => Ok(bucket),
        }
    }
}

/// The URL, if it is one and holds no secret: a URL is shown to everybody.
///
/// # Errors
/// [`Error::Config`].
pub(crate) fn parse(text: &str) -> Result<Url> {
    let url = Url::parse(text).map_err(|error| Error::Config {
        reason: format!("object store '{text}' is not a URL ({error}); use {KNOWN}"),
    })?;
    if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        let reason = format!(
            "object store {}://…: credentials and options do not belong into the URL, which is shown to everybody; \
             put them into the environment or under [object_store]",
            url.scheme()
        );
        return Err(Error::Config { reason });
    }
    Ok(url)
}

/// Two puts of one fresh name: the second must be told that it is taken. Without that two writers could both win, and
/// nothing else would stop them.
async fn probe(bucket: &Bucket, path: &Path) -> Result<()> {
    let first = bucket.put_new(path, PutPayload::from_static(b"is this name taken?")).await?;
    let second = bucket.put_new(path, PutPayload::from_static(b"it should be")).await?;
    if let Err(error) = bucket.delete(path).await {
        tracing::warn!(%path, %error, "the name by which the object store was tried stays there");
    }
    match (first, second) {
        (_, Put::Taken) => Ok(()),
        (_, Put::Created) => Err(Error::Config {
            reason: format!(
                "the object store {} does not keep put-if-absent: it let a name be given twice, so two writers would \
                 overwrite each other; use a store that knows If-None-Match (S3, MinIO, R2, GCS, Azure do)",
                bucket.url(&Path::default())
            ),
        }),
    }
}

/// Whether what is put there is still there for the next process.
pub(crate) fn outlives_process(url: Option<&str>) -> bool {
    let url = url.and_then(|text| Url::parse(text).ok());
    url.is_none_or(|url| url.scheme() != "memory")
}

/// A bucket over a store that a simulation owns.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn over(store: Arc<dyn ObjectStore>, settings: &StorageSettings, random: &Arc<dyn Random>) -> Bucket {
    let retry = Retry::new(RetryBudget::of(settings), Arc::clone(random), Arc::default());
    Bucket::new(store, Place::Memory, retry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemRandom;
    use crate::testing::fault::{Fault, Faults, FaultyStore};

    async fn open(url: Option<&str>, data_dir: &FilePath) -> Result<Bucket> {
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let (options, settings) = (ObjectStoreOptions::default(), StorageSettings::default());
        Opening { url, options: &options, data_dir, settings: &settings, random: &random }.open().await
    }

    #[tokio::test]
    async fn what_is_no_store_is_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        for (url, hint) in [
            ("ftp://host/x", "unknown scheme 'ftp'"),
            ("objects", "is not a URL"),
            ("file://host/x", "names no local folder"),
            ("s3:///x", "names no bucket"),
        ] {
            let error = open(Some(url), home.path()).await.unwrap_err();
            assert!(
                matches!(&error, Error::Config { reason } if reason.contains(url) && reason.contains(hint)),
                "{error}"
            );
        }
        for url in ["s3://key:hush@bucket", "az://c/p?sig=hush"] {
            let error = open(Some(url), home.path()).await.unwrap_err().to_string();
            assert!(error.contains("do not belong into the URL") && !error.contains("hush"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_default_is_a_folder_below_the_data_directory() {
        let home = tempfile::tempdir().unwrap();
        let bucket = open(None, home.path()).await.unwrap();
        let expected = home.path().canonicalize().unwrap().join("objects/a/b");
        assert_eq!(bucket.url(&Path::from("a/b")), expected.display().to_string());
        let in_memory = open(Some("memory:"), home.path()).await.unwrap();
        assert_eq!(in_memory.url(&Path::from("a/b")), "memory:///a/b");
        let other = format!("file://{}/elsewhere", home.path().display());
        open(Some(&other), home.path()).await.unwrap();
        assert!(home.path().join("elsewhere").is_dir());
    }

    #[tokio::test]
    async fn a_store_that_gives_a_name_twice_is_refused_and_one_that_loses_an_answer_is_not() {
        let path = paths::probe(uuid::Uuid::nil());
        probe(&Bucket::for_test(), &path).await.unwrap();
        let faults = Faults::default();
        let bucket = Bucket::for_test_over(Arc::new(FaultyStore::new(InMemory::new(), faults.clone())));
        faults.lay("meta/probe", Fault::LoseAnswer);
        probe(&bucket, &path).await.unwrap();
        for _ in 0..2 {
            faults.lay("meta/probe", Fault::Overwrite);
        }
        let error = probe(&bucket, &path).await.unwrap_err();
        assert!(matches!(&error, Error::Config { reason } if reason.contains("put-if-absent")), "{error}");
    }
}
