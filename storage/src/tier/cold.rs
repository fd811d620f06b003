//! `Cold`: the bucket, the manifests that count, and what was read of them lately. What readers of the cold part hold.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use futures::stream::{self, BoxStream, StreamExt};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;

use crate::clock::Random;
use crate::error::Result;
use crate::ids::{TopicId, WriterEpoch};
use crate::manifest::edit::Edit;
use crate::manifest::model::{Entry, TopicManifest, Wanted};
use crate::manifest::publish;
use crate::manifest::snapshot::Manifests;
use crate::object::bucket::Bucket;
use crate::object::cache::Cache;
use crate::worker;

/// Memory for footers of objects.
const FOOTERS_BYTES_MAX: usize = 32 << 20;

/// Memory for decoded row groups that Kafka consumers read piece by piece.
const GROUPS_BYTES_MAX: usize = 64 << 20;

/// A row group by its object's name and its number in it.
pub(crate) type GroupKey = (String, usize);

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Cold {
    /// Where the bytes are.
    pub(crate) bucket: Bucket,
    /// Whose publishes count.
    epoch: WriterEpoch,
    random: Arc<dyn Random>,
    /// What the objects hold.
    pub(crate) manifests: Manifests,
    /// Footers by their object's name: without them each row group would cost two reads.
    pub(crate) footers: Cache<String, ArrowReaderMetadata>,
    /// Row groups with the columns a fetch needs: a consumer takes one in several fetches.
    pub(crate) groups: Cache<GroupKey, Arc<RecordBatch>>,
}

impl Cold {
    /// The cold part of an empty or unread bucket, to be written with this epoch.
    pub(crate) fn new(bucket: Bucket, epoch: WriterEpoch, random: Arc<dyn Random>) -> Self {
        Self {
            bucket,
            epoch,
            random,
            manifests: Manifests::default(),
            footers: Cache::new(FOOTERS_BYTES_MAX),
            groups: Cache::new(GROUPS_BYTES_MAX),
        }
    }

    /// Applies an edit to the manifest that counts when its turn comes, durably, and shows what has come of it. Publishes
    /// of one topic take turns; those of others do not wait.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] if that manifest has moved on from what the edit was made for: look again.
    /// [`crate::Error::Fenced`]; [`crate::Error::ObjectStore`] if the outcome stays unknown, which the next publish
    /// settles; [`crate::Error::Corrupt`] naming the invariant the edit would break.
    pub(crate) async fn publish(&self, topic: TopicId, edit: Edit) -> Result<Arc<TopicManifest>> {
        let _turn = self.manifests.turn(topic).await;
        let current = self.manifests.get(topic);
        let next = publish::publish(&self.bucket, self.epoch, self.random.as_ref(), &current, edit).await?;
        worker::crash_point("after a manifest is published");
        Ok(self.manifests.install(next))
    }

    /// All entries of a manifest, in an order in which the offsets of each partition ascend.
    pub(crate) fn entries(&self, manifest: &Arc<TopicManifest>) -> BoxStream<'static, Result<Arc<Entry>>> {
        stream::iter(manifest.entries.clone()).map(Ok).boxed()
    }

    /// The entries that may hold what is wanted of a partition, in the order of its offsets.
    ///
    /// # Errors
    /// [`crate::Error::ObjectStore`], [`crate::Error::Corrupt`].
    pub(crate) async fn entries_of(
        &self,
        manifest: &TopicManifest,
        partition: i32,
        wanted: &Wanted,
    ) -> Result<Vec<Arc<Entry>>> {
        let covers = |entry: &&Arc<Entry>| {
            entry.cover(partition).is_some_and(|cover| cover.start < wanted.end && cover.end > wanted.start)
        };
        Ok(manifest.entries.iter().filter(covers).map(Arc::clone).collect())
    }
}

#[cfg(test)]
impl Cold {
    /// Over a bucket that epoch 1 has claimed.
    pub(crate) async fn for_test(bucket: Bucket) -> Self {
        let epoch = WriterEpoch(1);
        crate::object::claim::claim(&bucket, uuid::Uuid::nil(), epoch, uuid::Uuid::from_u128(1)).await.unwrap();
        Self::new(bucket, epoch, Arc::new(crate::clock::SystemRandom))
    }
}
