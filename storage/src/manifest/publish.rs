//! Publishing a manifest: put-if-absent of the next root, counted only when nobody newer has claimed the bucket.
//!
//! Why it is safe. A root's name begins with the epoch of its writer, and an epoch belongs to one process (see
//! [`crate::object::claim`]); the newest root is the one whose name sorts last. So a put of an older process never counts
//! again once a newer one has published, however late it arrives: it sorts before. A put of our own that arrives late finds
//! its name taken, or sorts before what counts by then. A put whose answer is lost is decided by reading the root back and
//! comparing its attempt id; one of which even that is not learned may still count if we die now, and is superseded by
//! our next publish. After the put we list the claims: either we see that somebody newer has claimed the bucket, and
//! our root does not count, or the claimer sees our root.
//!
//! What must not happen is that somebody removes what a late root of a fenced process names before a root of its own
//! stands in front of it: the sweep publishes first (`tier/sweep`).

use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};
use object_store::PutPayload;
use object_store::path::Path;

use crate::clock::{Clock, Random};
use crate::error::{Error, Result};
use crate::ids::{TopicId, WriterEpoch};
use crate::manifest::chunks::Chunks;
use crate::manifest::codec::{self, METADATA_BYTES_MAX, Root};
use crate::manifest::draft::{Means, Shape, draft};
use crate::manifest::edit::Edit;
use crate::manifest::invariant;
use crate::manifest::model::{ChunkRef, Entry, Garbage, Gone, TopicManifest};
use crate::manifest::uploads::Uploads;
use crate::object::bucket::{Bucket, Put};
use crate::object::{claim, paths};

/// Versions tried in one publish before it gives up: each one more is taken by an attempt that arrived just now.
const VERSIONS_MAX: u32 = 8;

/// Manifests loaded at once when a storage is opened: each is a list and a get, and a far store answers in tens of ms.
const LOADS_AT_ONCE_MAX: usize = 64;

/// Lists tried when a root vanishes between list and get.
const LOADS_MAX: u32 = 4;

/// Whose manifests these are, and with what they are made.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) bucket: Bucket,
    pub(crate) chunks: Arc<Chunks>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) epoch: WriterEpoch,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shape: Shape,
}

/// What the sweep has done, for the next root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Garbage of this version and older is removed.
    pub(crate) version: u64,
    /// As [`TopicManifest::orphans_checked`].
    pub(crate) orphans_checked: WriterEpoch,
}

impl Default for Swept {
    /// Nothing yet.
    fn default() -> Self {
        Self { version: 0, orphans_checked: WriterEpoch(0) }
    }
}

impl Publisher {
    /// Applies an edit to `current` durably; gives the manifest that now counts.
    ///
    /// # Errors
    /// [`Error::Fenced`] if somebody newer is there, [`Error::ObjectStore`] if the outcome stays unknown (a later publish
    /// settles it), [`Error::Conflict`] and [`Error::Corrupt`] if the edit does not fit.
    pub(crate) async fn publish(&self, current: &TopicManifest, edit: Edit, swept: Swept) -> Result<TopicManifest> {
        let topic = current.topic;
        let upload = self.uploads.begin(topic);
        let added = edit.added();
        let abandoned = self.uploads.abandoned(topic);
        let abandoned_count = abandoned.len();
        let means = Means {
            chunks: &self.chunks,
            epoch: self.epoch,
            random: self.random.as_ref(),
            shape: self.shape,
            upload: &upload,
        };
        let (mut next, gone) = draft(means, current, edit, abandoned).await?;
        next.epoch = self.epoch;
        next.garbage.retain(|garbage| garbage.version > swept.version);
        let before = next.garbage.clone();
        next.orphans_checked = next.orphans_checked.max(swept.orphans_checked);
        for _ in 0..VERSIONS_MAX {
            next.version += 1;
            next.garbage.clone_from(&before);
            if !gone.is_empty() {
                let (version, at_us) = (next.version, self.clock.now_us());
                next.garbage.push(Arc::new(Garbage { version, at_us, gone: gone.clone() }));
            }
            invariant::never_goes_back(current, &next)?;
            if self.put_root(&next).await? {
                claim::still_ours(&self.bucket, self.epoch).await?;
                // It counts. From here to the caller nothing waits, so that nobody can be stopped in between.
                upload.published();
                self.uploads.published(topic, added.into_iter().map(Gone::Object));
                self.uploads.forget(topic, abandoned_count);
                return Ok(next);
            }
            // An attempt of ours that was given up stands there, and perhaps others behind it.
            next.version = next.version.max(self.newest_version(topic).await?);
        }
        Err(Error::Conflict { what: format!("the manifest of topic {topic}") })
    }

    /// The largest version of our epoch, whether it counts or not.
    async fn newest_version(&self, topic: TopicId) -> Result<u64> {
        let ours = self.bucket.list(&paths::roots(topic), Some(&paths::root(topic, self.epoch, 0))).await?;
        let numbers = ours.iter().filter_map(paths::root_number).filter(|(epoch, _)| *epoch == self.epoch);
        Ok(numbers.map(|(_, version)| version).max().unwrap_or(0))
    }

    /// Puts the root; whether it is this attempt that stands there.
    async fn put_root(&self, next: &TopicManifest) -> Result<bool> {
        let root = Root {
            topic: next.topic,
            version: next.version,
            epoch: next.epoch,
            attempt: self.random.uuid(),
            history_start_us: next.history_start_us,
            partitions: next.partitions.iter().map(|(partition, ends)| (*partition, *ends)).collect(),
            chunks: next.chunks.iter().map(|chunk| ChunkRef::clone(chunk)).collect(),
            tail: next.tail.iter().map(|entry| Entry::clone(entry)).collect(),
            garbage: next.garbage.iter().map(|garbage| Garbage::clone(garbage)).collect(),
            orphans_checked: next.orphans_checked,
        };
        let bytes = codec::encode_root(&root)?;
        metrics::histogram!("aquifer_manifest_root_bytes").record(bytes.len() as f64);
        let path = paths::root(root.topic, root.epoch, root.version);
        let ours = |found: &Option<Root>| found.as_ref().is_some_and(|found| found.attempt == root.attempt);
        match self.bucket.put_new(&path, PutPayload::from(bytes)).await {
            Ok(Put::Created) => Ok(true),
            // Else an attempt of ours that was given up.
            Ok(Put::Taken) => Ok(ours(&read_root(&self.bucket, root.topic, &path).await?)),
            Err(unknown) => match read_root(&self.bucket, root.topic, &path).await {
                Ok(found) if ours(&found) => Ok(true),
                _ => Err(unknown),
            },
        }
    }
}

/// The newest manifests of these topics, in their order: what a start waits for. Of each its root alone is read, which is a
/// few KiB however many objects it names. Each has its own word, an error as that of [`load`].
pub(crate) async fn load_all(bucket: &Bucket, epoch: WriterEpoch, topics: &[TopicId]) -> Vec<Result<TopicManifest>> {
    let loads: Vec<_> = topics.iter().map(|topic| load(bucket, epoch, *topic).boxed()).collect();
    stream::iter(loads).buffered(LOADS_AT_ONCE_MAX).collect().await
}

/// The newest manifest of a topic, checked; empty if none was ever published.
///
/// # Errors
/// [`Error::Fenced`] if a newer epoch than `epoch` wrote it, [`Error::Corrupt`], [`Error::ObjectStore`].
pub(crate) async fn load(bucket: &Bucket, epoch: WriterEpoch, topic: TopicId) -> Result<TopicManifest> {
    for _ in 0..LOADS_MAX {
        let roots = bucket.list(&paths::roots(topic), None).await?;
        let Some(path) = roots.iter().filter(|path| paths::root_number(path).is_some()).max() else {
            return Ok(TopicManifest::empty(topic));
        };
        // Its name is right whatever became of its bytes.
        if let Some((found, version)) = paths::root_number(path).filter(|(found, _)| *found > epoch) {
            return Err(fenced(epoch, topic, found, version));
        }
        // Between list and get it may have been cleared away behind newer ones.
        let Some(root) = read_root(bucket, topic, path).await? else { continue };
        let manifest = root.into_manifest();
        invariant::root_is_sound(&manifest)?;
        return Ok(manifest);
    }
    let reason = format!("it vanished {LOADS_MAX} times between list and get");
    Err(Error::Corrupt { place: paths::roots(topic).to_string(), reason })
}

/// A root by its name, decoded; `None` if it is not there.
///
/// # Errors
/// [`Error::Corrupt`], also if it is not what its name says; [`Error::Config`] for a newer version; [`Error::ObjectStore`].
pub(crate) async fn read_root(bucket: &Bucket, topic: TopicId, path: &Path) -> Result<Option<Root>> {
    let Some(bytes) = bucket.get(path, METADATA_BYTES_MAX).await? else { return Ok(None) };
    let root = codec::decode_root(topic, &bytes, path.as_ref())?;
    if paths::root_number(path) == Some((root.epoch, root.version)) {
        return Ok(Some(root));
    }
    let reason = format!("it is version {} of epoch {}, not what its name says", root.version, root.epoch.0);
    Err(Error::Corrupt { place: path.to_string(), reason })
}

fn fenced(ours: WriterEpoch, topic: TopicId, theirs: WriterEpoch, version: u64) -> Error {
    Error::Fenced {
        reason: format!(
            "version {version} of the manifest of topic {topic} was written with epoch {}, ours is {}",
            theirs.0, ours.0
        ),
    }
}
