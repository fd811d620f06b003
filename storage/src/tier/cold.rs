//! `Cold`: the bucket, the manifests that count, and what was read of them lately. What readers of the cold part hold.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;

use crate::manifest::snapshot::Manifests;
use crate::object::bucket::Bucket;
use crate::object::cache::Cache;

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
    /// What they hold.
    pub(crate) manifests: Manifests,
    /// Footers by their object's name: without them each row group would cost two reads.
    pub(crate) footers: Cache<String, ArrowReaderMetadata>,
    /// Row groups with the columns a fetch needs: a consumer takes one in several fetches.
    pub(crate) groups: Cache<GroupKey, Arc<RecordBatch>>,
}

impl Cold {
    /// The cold part of an empty or unread bucket.
    pub(crate) fn new(bucket: Bucket) -> Self {
        Self {
            bucket,
            manifests: Manifests::default(),
            footers: Cache::new(FOOTERS_BYTES_MAX),
            groups: Cache::new(GROUPS_BYTES_MAX),
        }
    }
}
