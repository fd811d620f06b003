//! Publishing a manifest: put-if-absent of the next version, counted only when nobody newer is there.
//!
//! Why it is safe: versions are never reused by the living. A put whose answer is lost is decided by reading the root back and
//! comparing its attempt id. A put that succeeded still does not count before two lists: one of the roots (an old
//! version's name may be free again because it was cleared away) and one of the claims (see
//! [`crate::object::claim`]). Whoever finds a newer epoch is fenced.
//!
//! A root at our version with an *older or our own* epoch never counted for its writer: either that writer was fenced
//! after we claimed, or it was an attempt of ours whose outcome we could not learn. We write over it with the next version.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::PutPayload;
use object_store::path::Path;

use crate::clock::Random;
use crate::error::{Error, Result};
use crate::ids::{TopicId, WriterEpoch};
use crate::manifest::codec::{self, Chunk, METADATA_BYTES_MAX, Root, TAIL_BYTES_MAX};
use crate::manifest::edit::Edit;
use crate::manifest::invariant;
use crate::manifest::model::{ChunkRef, Entry, TopicManifest};
use crate::object::bucket::{Bucket, Put};
use crate::object::{claim, paths};

/// Versions tried in one publish before it gives up: each one more means that somebody wrote meanwhile.
const VERSIONS_MAX: u32 = 16;

/// Roots kept behind the newest one: a reader that listed may still get what it saw.
const ROOTS_KEPT: usize = 16;

/// Lists tried when a root vanishes between list and get.
const LOADS_MAX: u32 = 4;

/// Chunks read at once.
const CHUNK_READS_MAX: usize = 8;

/// Applies an edit to `current` durably; gives the manifest that now counts.
///
/// # Errors
/// [`Error::Fenced`] if somebody newer is there, [`Error::ObjectStore`] if the outcome stays unknown (a later publish
/// settles it), [`Error::Conflict`] and [`Error::Corrupt`] as [`TopicManifest::with`].
pub(crate) async fn publish(
    bucket: &Bucket,
    epoch: WriterEpoch,
    random: &dyn Random,
    current: &TopicManifest,
    edit: Edit,
) -> Result<TopicManifest> {
    let mut next = current.with(edit)?;
    next.epoch = epoch;
    let mut root = Root {
        topic: next.topic,
        version: current.version,
        epoch,
        attempt: random.uuid(),
        history_start_us: next.history_start_us,
        partitions: next.partitions.iter().map(|(partition, ends)| (*partition, *ends)).collect(),
        chunks: Vec::new(),
        tail: next.entries[next.entries_in_chunks()..].iter().map(|entry| Entry::clone(entry)).collect(),
    };
    move_tail_to_chunk(bucket, random, &mut next, &mut root).await?;
    root.chunks.clone_from(&next.chunks);
    for _ in 0..VERSIONS_MAX {
        root.version += 1;
        next.version = root.version;
        invariant::never_goes_back(current, &next)?;
        if !put_root(bucket, &root).await? {
            continue;
        }
        match newest_after(bucket, next.topic, root.version).await? {
            Some(newer) => root.version = look_at_newer(bucket, epoch, next.topic, newer).await?,
            None => {
                claim::still_ours(bucket, epoch).await?;
                clear_old_roots(bucket, &next).await;
                return Ok(next);
            }
        }
    }
    Err(Error::Fenced {
        reason: format!("others kept publishing the manifest of topic {} for {VERSIONS_MAX} versions", next.topic),
    })
}

/// Makes a chunk of the root's own entries when they have grown too large for it.
async fn move_tail_to_chunk(
    bucket: &Bucket,
    random: &dyn Random,
    next: &mut TopicManifest,
    root: &mut Root,
) -> Result<()> {
    let chunk = Chunk { topic: next.topic, entries: root.tail.clone() };
    let bytes = codec::encode_chunk(&chunk)?;
    if bytes.len() <= TAIL_BYTES_MAX {
        return Ok(());
    }
    let entries = u32::try_from(chunk.entries.len()).map_err(Error::format("write manifest chunk"))?;
    let reference = ChunkRef { id: random.uuid(), entries };
    // The name is fresh, so a taken one is an earlier attempt of this very put.
    bucket.put_new(&paths::chunk(next.topic, reference.id), PutPayload::from(bytes)).await?;
    next.chunks.push(reference);
    root.tail.clear();
    Ok(())
}

/// Puts the root; whether it is ours that stands there.
async fn put_root(bucket: &Bucket, root: &Root) -> Result<bool> {
    let path = paths::root(root.topic, root.version);
    let put = bucket.put_new(&path, PutPayload::from(codec::encode_root(root)?)).await;
    match put {
        Ok(Put::Created) => Ok(true),
        Ok(Put::Taken) => match read_root(bucket, root.topic, &path).await? {
            Some(found) if found.attempt == root.attempt => Ok(true),
            Some(found) if found.epoch > root.epoch => Err(fenced(root.epoch, &found)),
            // Of an older epoch, or an attempt of ours that was given up; or cleared away meanwhile.
            _ => Ok(false),
        },
        Err(unknown) => match read_root(bucket, root.topic, &path).await {
            Ok(Some(found)) if found.attempt == root.attempt => Ok(true),
            Ok(Some(found)) if found.epoch > root.epoch => Err(fenced(root.epoch, &found)),
            _ => Err(unknown),
        },
    }
}

/// The newest version above `version`, if there is one.
async fn newest_after(bucket: &Bucket, topic: TopicId, version: u64) -> Result<Option<u64>> {
    let newer = bucket.list(&paths::roots(topic), Some(&paths::root(topic, version))).await?;
    Ok(newer.iter().filter_map(paths::number).filter(|found| *found > version).max())
}

/// The version to write over, if its writer may be written over.
async fn look_at_newer(bucket: &Bucket, epoch: WriterEpoch, topic: TopicId, version: u64) -> Result<u64> {
    match read_root(bucket, topic, &paths::root(topic, version)).await? {
        Some(found) if found.epoch > epoch => Err(fenced(epoch, &found)),
        _ => Ok(version),
    }
}

/// Removes roots nobody can need; what fails is removed the next time.
async fn clear_old_roots(bucket: &Bucket, published: &TopicManifest) {
    let Ok(roots) = bucket.list(&paths::roots(published.topic), None).await else { return };
    let old = roots.iter().rev().skip(ROOTS_KEPT + 1);
    for path in old.filter(|path| paths::number(path).is_some_and(|version| version < published.version)) {
        if let Err(error) = bucket.delete(path).await {
            tracing::debug!(%path, %error, "an old manifest stays for now");
        }
    }
}

/// The newest manifest of a topic, checked; empty if none was ever published.
///
/// # Errors
/// [`Error::Fenced`] if a newer epoch than `epoch` wrote it, [`Error::Corrupt`], [`Error::ObjectStore`].
pub(crate) async fn load(bucket: &Bucket, epoch: WriterEpoch, topic: TopicId) -> Result<TopicManifest> {
    for _ in 0..LOADS_MAX {
        let roots = bucket.list(&paths::roots(topic), None).await?;
        let Some(path) = roots.iter().filter(|path| paths::number(path).is_some()).max() else {
            return Ok(TopicManifest::empty(topic));
        };
        // Between list and get it may have been cleared away behind newer ones.
        let Some(root) = read_root(bucket, topic, path).await? else { continue };
        if root.epoch > epoch {
            return Err(fenced(epoch, &root));
        }
        let mut entries = read_chunks(bucket, topic, &root.chunks).await?;
        entries.extend(root.tail);
        let manifest = TopicManifest {
            topic,
            version: root.version,
            epoch: root.epoch,
            history_start_us: root.history_start_us,
            partitions: root.partitions.into_iter().collect(),
            chunks: root.chunks,
            entries: entries.into_iter().map(Arc::new).collect(),
        };
        invariant::manifest_is_sound(&manifest)?;
        return Ok(manifest);
    }
    let reason = format!("it vanished {LOADS_MAX} times between list and get");
    Err(Error::Corrupt { place: paths::roots(topic).to_string(), reason })
}

async fn read_chunks(bucket: &Bucket, topic: TopicId, chunks: &[ChunkRef]) -> Result<Vec<Entry>> {
    let read = |reference: ChunkRef| async move {
        let path = paths::chunk(topic, reference.id);
        match bucket.get(&path, METADATA_BYTES_MAX).await? {
            Some(bytes) => codec::decode_chunk(topic, &reference, &bytes, path.as_ref()),
            None => Err(Error::Corrupt { place: path.to_string(), reason: "a root names it but it is gone".into() }),
        }
    };
    let reads: Vec<_> = chunks.iter().map(|reference| read(*reference).boxed()).collect();
    let chunks: Vec<Vec<Entry>> = stream::iter(reads).buffered(CHUNK_READS_MAX).try_collect().await?;
    Ok(chunks.into_iter().flatten().collect())
}

async fn read_root(bucket: &Bucket, topic: TopicId, path: &Path) -> Result<Option<Root>> {
    match bucket.get(path, METADATA_BYTES_MAX).await? {
        Some(bytes) => codec::decode_root(topic, &bytes, path.as_ref()).map(Some),
        None => Ok(None),
    }
}

fn fenced(ours: WriterEpoch, found: &Root) -> Error {
    Error::Fenced {
        reason: format!(
            "version {} of the manifest of topic {} was written with epoch {}, ours is {}",
            found.version, found.topic, found.epoch.0, ours.0
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use uuid::Uuid;

    use super::*;
    use crate::clock::SystemRandom;
    use crate::manifest::model::tests::entry;
    use crate::testing::fault::{Fault, Faults, FaultyStore};

    const TOPIC: TopicId = TopicId(Uuid::from_u128(5));
    const OLD: WriterEpoch = WriterEpoch(1);
    const NEW: WriterEpoch = WriterEpoch(2);

    fn faulty() -> (Bucket, Faults) {
        let faults = Faults::default();
        (Bucket::for_test_over(Arc::new(FaultyStore::new(InMemory::new(), faults.clone()))), faults)
    }

    async fn claim_as(bucket: &Bucket, epoch: WriterEpoch) {
        claim::claim(bucket, Uuid::nil(), epoch, SystemRandom.uuid()).await.unwrap();
    }

    async fn add(
        bucket: &Bucket,
        epoch: WriterEpoch,
        current: &TopicManifest,
        name: &str,
        end: i64,
    ) -> Result<TopicManifest> {
        let next = entry(name, &[(0, current.tiered_end(0), end)]);
        publish(bucket, epoch, &SystemRandom, current, Edit::Add(next)).await
    }

    fn names(manifest: &TopicManifest) -> Vec<&str> {
        manifest.entries.iter().map(|entry| entry.object.as_ref().unwrap().path.as_str()).collect()
    }

    #[tokio::test]
    async fn what_was_published_is_what_is_loaded() {
        let bucket = Bucket::for_test();
        claim_as(&bucket, OLD).await;
        let mut current = load(&bucket, OLD, TOPIC).await.unwrap();
        assert_eq!((current.version, current.entries.len()), (0, 0));
        // Long names fill the root's tail, so that chunks are made.
        let names: Vec<String> = (0..60).map(|number| format!("{number:04000}")).collect();
        for (end, name) in (1..).zip(&names) {
            current = add(&bucket, OLD, &current, name, end * 10).await.unwrap();
        }
        assert!(current.chunks.len() > 1, "{:?}", current.chunks);
        assert!(bucket.list(&paths::roots(TOPIC), None).await.unwrap().len() <= ROOTS_KEPT + 1);
        let loaded = load(&bucket, NEW, TOPIC).await.unwrap();
        assert_eq!(loaded.entries, current.entries);
        assert_eq!((loaded.version, loaded.tiered_end(0)), (60, 600));
        add(&bucket, OLD, &loaded, "next", 601).await.unwrap();
    }

    #[tokio::test]
    async fn of_two_publishers_that_race_the_newer_wins_and_the_older_is_fenced() {
        let bucket = Bucket::for_test();
        claim_as(&bucket, OLD).await;
        let base = add(&bucket, OLD, &TopicManifest::empty(TOPIC), "base", 10).await.unwrap();
        claim_as(&bucket, NEW).await;
        let (older, newer) = tokio::join!(add(&bucket, OLD, &base, "old", 20), add(&bucket, NEW, &base, "new", 15));
        assert!(matches!(older, Err(Error::Fenced { .. })), "{older:?}");
        assert_eq!(names(&newer.unwrap()), ["base", "new"]);
        assert_eq!(names(&load(&bucket, NEW, TOPIC).await.unwrap()), ["base", "new"]);
        let again = add(&bucket, OLD, &base, "old", 20).await;
        assert!(matches!(again, Err(Error::Fenced { .. })), "{again:?}");
        assert!(matches!(load(&bucket, OLD, TOPIC).await, Err(Error::Fenced { .. })));
    }

    #[tokio::test]
    async fn a_put_whose_answer_was_lost_counts() {
        let (bucket, faults) = faulty();
        claim_as(&bucket, OLD).await;
        for (end, fault) in (1..).zip([Fault::LoseAnswer, Fault::Refuse, Fault::Stall]) {
            let current = load(&bucket, OLD, TOPIC).await.unwrap();
            faults.lay("/manifest/", fault);
            let next = add(&bucket, OLD, &current, "x", end * 10).await.unwrap();
            assert_eq!(next.version, u64::try_from(end).unwrap());
            assert!(faults.is_empty());
            assert_eq!(load(&bucket, OLD, TOPIC).await.unwrap().entries, next.entries);
        }
    }

    #[tokio::test]
    async fn an_attempt_that_was_given_up_but_applied_is_written_over() {
        let (bucket, faults) = faulty();
        claim_as(&bucket, OLD).await;
        let base = TopicManifest::empty(TOPIC);
        faults.lay("/manifest/", Fault::LoseAnswer);
        // The put again, the read back: neither is answered within the budget.
        for _ in 0..8 {
            faults.lay("/manifest/", Fault::Refuse);
        }
        let lost = add(&bucket, OLD, &base, "lost", 10).await;
        assert!(matches!(lost, Err(Error::ObjectStore { .. })), "{lost:?}");
        while !faults.is_empty() {
            let _ = bucket.get(&paths::root(TOPIC, 1), 1 << 20).await;
        }
        assert_eq!(names(&load(&bucket, OLD, TOPIC).await.unwrap()), ["lost"]);
        let next = add(&bucket, OLD, &base, "kept", 20).await.unwrap();
        assert_eq!((next.version, names(&next)), (2, vec!["kept"]));
        assert_eq!(names(&load(&bucket, OLD, TOPIC).await.unwrap()), ["kept"]);
    }

    #[tokio::test]
    async fn what_an_older_epoch_published_after_the_claim_is_written_over() {
        let bucket = Bucket::for_test();
        claim_as(&bucket, OLD).await;
        let base = add(&bucket, OLD, &TopicManifest::empty(TOPIC), "base", 10).await.unwrap();
        claim_as(&bucket, NEW).await;
        let loaded = load(&bucket, NEW, TOPIC).await.unwrap();
        let late = add(&bucket, OLD, &base, "late", 30).await;
        assert!(matches!(late, Err(Error::Fenced { .. })), "{late:?}");
        let next = add(&bucket, NEW, &loaded, "new", 20).await.unwrap();
        assert_eq!((next.version, names(&next)), (3, vec!["base", "new"]));
        assert_eq!(names(&load(&bucket, NEW, TOPIC).await.unwrap()), ["base", "new"]);
    }

    #[tokio::test]
    async fn a_damaged_root_is_named() {
        let bucket = Bucket::for_test();
        claim_as(&bucket, OLD).await;
        let path = paths::root(TOPIC, 1);
        bucket.put_new(&path, PutPayload::from_static(b"garbage that is no root")).await.unwrap();
        let error = load(&bucket, OLD, TOPIC).await.unwrap_err();
        assert!(matches!(&error, Error::Corrupt { place, .. } if place.as_str() == path.as_ref()), "{error}");
    }
}
