//! From a URL to a [`Bucket`]; what is not built yet is refused by name.

use std::path::Path as FilePath;
use std::sync::Arc;

use object_store::memory::InMemory;
use url::Url;

use crate::error::{Error, Result};
use crate::object::bucket::{Bucket, Place};
use crate::object::local::open_folder;
use crate::object::retry::RetryBudget;

/// The folder below the data directory that is the bucket unless another one is named.
const DEFAULT_FOLDER: &str = "objects";

/// Opens `url`: `file:///…`, `memory:`, or `None` for a folder below `data_dir`.
///
/// # Errors
/// [`Error::Config`] for any other URL, [`Error::ObjectStore`] if the folder cannot be made.
pub(crate) fn open(url: Option<&str>, data_dir: &FilePath) -> Result<Bucket> {
    let Some(text) = url else {
        return folder(&data_dir.join(DEFAULT_FOLDER));
    };
    let url = Url::parse(text).map_err(|error| Error::Config {
        reason: format!("object store '{text}' is not a URL ({error}); use file:///… or memory:"),
    })?;
    match url.scheme() {
        "file" => {
            let path = url.to_file_path().map_err(|()| Error::Config {
                reason: format!("object store '{text}' names no local folder; use file:///absolute/path"),
            })?;
            folder(&path)
        }
        "memory" => Ok(Bucket::new(Arc::new(InMemory::new()), Place::Memory, RetryBudget::default())),
        "s3" | "gs" | "az" => Err(Error::Config {
            reason: format!("object store '{text}' is not supported yet; use file:///… or memory:"),
        }),
        scheme => Err(Error::Config {
            reason: format!("object store '{text}' has the unknown scheme '{scheme}'; use file:///… or memory:"),
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
pub(crate) fn over(store: Arc<dyn object_store::ObjectStore>) -> Bucket {
    Bucket::new(store, Place::Memory, RetryBudget::default())
}

fn folder(path: &FilePath) -> Result<Bucket> {
    let (store, root) = open_folder(path).map_err(Error::object(format!("open folder {}", path.display())))?;
    Ok(Bucket::new(store, Place::Folder(root), RetryBudget::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        for (url, hint) in [
            ("s3://bucket/prefix", "not supported yet"),
            ("gs://bucket", "not supported yet"),
            ("az://container", "not supported yet"),
            ("ftp://host/x", "unknown scheme 'ftp'"),
            ("objects", "is not a URL"),
            ("file://host/x", "names no local folder"),
        ] {
            let error = open(Some(url), home.path()).unwrap_err();
            assert!(
                matches!(&error, Error::Config { reason } if reason.contains(url) && reason.contains(hint)),
                "{error}"
            );
        }
    }

    #[test]
    fn the_default_is_a_folder_below_the_data_directory() {
        let home = tempfile::tempdir().unwrap();
        let bucket = open(None, home.path()).unwrap();
        let expected = home.path().canonicalize().unwrap().join("objects/a/b");
        assert_eq!(bucket.url(&object_store::path::Path::from("a/b")), expected.display().to_string());
        let in_memory = open(Some("memory:"), home.path()).unwrap();
        assert_eq!(in_memory.url(&object_store::path::Path::from("a/b")), "memory:///a/b");
        let other = format!("file://{}/elsewhere", home.path().display());
        open(Some(&other), home.path()).unwrap();
        assert!(home.path().join("elsewhere").is_dir());
    }
}
