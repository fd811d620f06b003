//! `Cold`: the bucket, the manifests that count, and what was read of them lately. What readers of the cold part hold.
//!
//! A continuous query makes its state of its input anew at every start, so from the first record it reads on nothing of its
//! input may go. Between looking who needs what and publishing, nothing slips:
//!
//! 1. A query is known to whoever asks who needs what (its definition is durable and shown) before it reads a record, and
//!    before it reads one it passes [`Cold::settle`].
//! 2. Compaction notes that a topic is unsettled, and only then asks who needs its rows. It has the topic's turn from before
//!    that until what it publishes counts or not ([`Cold::publish_while`]).
//! 3. If the query finds the topic settled, compaction asks after the query was known, and is told; or what it took away is
//!    gone, now and at every later start. If not, the query waits for the turn, and the same is true.
//! 4. A publish of which nobody learned whether it was applied, because the store did not answer or it was stopped, is
//!    settled by one that takes nothing away and whose root sorts behind it: then the rows are all there for good, however
//!    late the other arrives.
//!
//! Retention is kept from it in another way: its commit is refused if somebody has come who had not agreed.

use std::sync::Arc;

use bytes::Bytes;
use object_store::PutPayload;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use tokio::sync::OwnedMutexGuard;

use crate::clock::{Clock, Random};
use crate::error::Result;
use crate::ids::{TopicId, WriterEpoch};
use crate::manifest::chunks::Chunks;
use crate::manifest::draft::Shape;
use crate::manifest::edit::Edit;
use crate::manifest::model::{Gone, TopicManifest, Wanted};
use crate::manifest::publish::Publisher;
use crate::manifest::snapshot::Manifests;
use crate::manifest::uploads::Upload;
use crate::manifest::walk::{self, Cursor, EntryStream};
use crate::object::bucket::Bucket;
use crate::object::cache::Cache;
use crate::object::paths;
use crate::scan::ahead::Groups;
use crate::settings::{chunks_bytes_max, footers_bytes_max, row_groups_bytes_max};
use crate::tier::kept::Kept;
use crate::view::CacheInfo;
use crate::worker;

/// Who writes the cold part, and with what.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    /// Whose publishes count.
    pub(crate) epoch: WriterEpoch,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) clock: Arc<dyn Clock>,
    /// `memory.limit`.
    pub(crate) memory_bytes: u64,
}

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Cold {
    /// Where the bytes are.
    pub(crate) bucket: Bucket,
    publisher: Publisher,
    /// What the objects hold.
    pub(crate) manifests: Manifests,
    /// What checkpoints name.
    pub(crate) kept: Kept,
    /// Footers by their object's name: without them each row group would cost two reads.
    pub(crate) footers: Cache<String, ArrowReaderMetadata>,
    /// Row groups with the columns a fetch needs: a consumer takes one in several fetches.
    pub(crate) groups: Groups,
}

impl Cold {
    /// The cold part of an empty or unread bucket.
    pub(crate) fn new(bucket: Bucket, writer: Writer) -> Self {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let memory_bytes = writer.memory_bytes;
        let publisher = Publisher {
            bucket: bucket.clone(),
            chunks: Arc::new(Chunks::new(bucket.clone(), bytes(chunks_bytes_max(memory_bytes)))),
            uploads: Arc::default(),
            epoch: writer.epoch,
            random: writer.random,
            clock: writer.clock,
            shape: Shape::default(),
        };
        Self {
            bucket,
            publisher,
            manifests: Manifests::default(),
            kept: Kept::default(),
            footers: Cache::new(bytes(footers_bytes_max(memory_bytes))),
            groups: Groups::new(bytes(row_groups_bytes_max(memory_bytes))),
        }
    }

    /// How its caches do.
    pub(crate) fn caches(&self) -> Vec<CacheInfo> {
        let here = [self.publisher.chunks.info(), self.footers.info("object_footers"), self.groups.info()];
        here.into_iter().chain(self.bucket.cache()).collect()
    }

    /// Whose publishes count.
    pub(crate) fn epoch(&self) -> WriterEpoch {
        self.publisher.epoch
    }

    /// Chance.
    pub(crate) fn random(&self) -> &dyn Random {
        self.publisher.random.as_ref()
    }

    /// Time.
    pub(crate) fn now_us(&self) -> i64 {
        self.publisher.clock.now_us()
    }

    /// The chunks of manifests.
    pub(crate) fn chunks(&self) -> &Chunks {
        &self.publisher.chunks
    }

    /// Applies an edit to the manifest that counts when its turn comes, durably, and shows what has come of it. Publishes
    /// of one topic take turns; those of others do not wait.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] if that manifest has moved on from what the edit was made for: look again.
    /// [`crate::Error::Fenced`]; [`crate::Error::ObjectStore`] if the outcome stays unknown, which the next publish
    /// settles; [`crate::Error::Corrupt`] naming the invariant the edit would break, or the root that cannot be read:
    /// nothing is ever put in front of it.
    pub(crate) async fn publish(&self, topic: TopicId, edit: Edit) -> Result<Arc<TopicManifest>> {
        let turn = self.manifests.turn(topic).await;
        self.publish_in(&turn, topic, edit).await
    }

    /// As [`Cold::publish`], of an edit that takes rows away: `None`, and nothing is published, unless they are free to go
    /// when its turn has come. See the top of this file.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn publish_while(
        &self,
        topic: TopicId,
        edit: Edit,
        is_free: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Arc<TopicManifest>>> {
        let turn = self.manifests.turn(topic).await;
        let was_settled = self.manifests.note_settled(topic, false);
        if !is_free() {
            self.manifests.note_settled(topic, was_settled);
            return Ok(None);
        }
        self.publish_in(&turn, topic, edit).await.map(Some)
    }

    /// Returns when of a topic's rows none goes any more that somebody needs who was known before. See the top of this
    /// file.
    ///
    /// # Errors
    /// As [`Cold::publish`].
    pub(crate) async fn settle(&self, topic: TopicId) -> Result<()> {
        if self.manifests.is_settled(topic) {
            return Ok(());
        }
        let turn = self.manifests.turn(topic).await;
        if !self.manifests.is_settled(topic) {
            self.publish_in(&turn, topic, Edit::Trim { starts: vec![], history_start_us: None }).await?;
        }
        Ok(())
    }

    async fn publish_in(&self, _turn: &OwnedMutexGuard<()>, topic: TopicId, edit: Edit) -> Result<Arc<TopicManifest>> {
        self.manifests.check_readable(topic)?;
        let current = self.manifests.get(topic);
        let next = self.publisher.publish(&current, edit, self.manifests.swept(topic)).await?;
        worker::crash_point("after a manifest is published");
        Ok(self.manifests.install(next))
    }

    /// Begins an attempt of a topic: what it puts and does not publish is swept.
    pub(crate) fn begin(&self, topic: TopicId) -> Upload {
        self.publisher.uploads.begin(topic)
    }

    /// Puts an object of a topic under a name nobody has; gives the name.
    ///
    /// # Errors
    /// [`crate::Error::ObjectStore`].
    pub(crate) async fn put(&self, topic: TopicId, upload: &Upload, payload: Bytes) -> Result<String> {
        let path = paths::data(topic, self.publisher.epoch, self.publisher.random.uuid());
        upload.note(Gone::Object(path.to_string()));
        // The name is fresh, so a taken one is an earlier attempt of this very put.
        self.bucket.put_new(&path, PutPayload::from_bytes(payload)).await?;
        Ok(path.to_string())
    }

    /// All entries of a manifest, in an order in which the offsets of each partition ascend; read as they are asked for.
    pub(crate) fn entries(&self, manifest: &Arc<TopicManifest>) -> EntryStream {
        walk::all(Arc::clone(&self.publisher.chunks), Arc::clone(manifest))
    }

    /// Goes through a manifest, and into those chunks that its owner wants to see.
    pub(crate) fn cursor(&self, manifest: &Arc<TopicManifest>) -> Cursor {
        Cursor::new(Arc::clone(&self.publisher.chunks), Arc::clone(manifest))
    }

    /// The entries that cover wanted offsets of a partition and may have rows of the wanted times, in offset order; read
    /// as they are asked for.
    pub(crate) fn entries_of(&self, manifest: &Arc<TopicManifest>, partition: i32, wanted: Wanted) -> EntryStream {
        walk::of_partition(Arc::clone(&self.publisher.chunks), Arc::clone(manifest), partition, wanted)
    }
}

#[cfg(test)]
impl Cold {
    /// With a tree of another shape.
    pub(crate) fn shaped(mut self, shape: Shape) -> Self {
        self.publisher.shape = shape;
        self
    }

    /// Over a bucket that epoch 1 has claimed.
    pub(crate) async fn for_test(bucket: Bucket) -> Self {
        let (random, clock) = (Arc::new(crate::clock::SystemRandom), Arc::new(crate::clock::SystemClock));
        let writer = Writer { epoch: WriterEpoch(1), random, clock, memory_bytes: 1 << 30 };
        let claim = crate::object::claim::Claim::for_test(uuid::Uuid::nil(), writer.epoch);
        crate::object::claim::claim(&bucket, claim).await.unwrap();
        Self::new(bucket, writer)
    }
}
