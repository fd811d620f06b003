//! `Snapshot`: partitions as they were in one moment, read as rows.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use crate::error::Result;
use crate::ids::{TopicId, TopicPartition};
use crate::scan::{Pinned, ScanPart};
use crate::state::View;
use crate::storage::keyed::OwnRows;
use crate::view::{DeclaredScan, DecodedStream, PinnedRange, RowStream, ScanRequest, Topic};

/// Some partitions, pinned in one act. Cheap to clone; while it lives, what it covers stays readable.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) inner: Arc<Pinned>,
    /// Keyed state of its topics, taken before they were pinned.
    pub(super) views: Arc<HashMap<TopicId, View>>,
    /// What its reader is about to commit; see [`Snapshot::with_own`].
    pub(super) own: Arc<OwnRows>,
}

impl Snapshot {
    pub(super) fn new(pinned: Pinned, views: HashMap<TopicId, View>) -> Self {
        Self { inner: Arc::new(pinned), views: Arc::new(views), own: Arc::default() }
    }

    /// What is pinned of a partition.
    #[must_use]
    pub fn range(&self, partition: TopicPartition) -> Option<PinnedRange> {
        self.inner.range(partition).map(|range| self.with_own_end(partition, range))
    }

    /// The topics pinned.
    #[must_use]
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        self.inner.topics()
    }

    /// Rows of one partition in offset order, each offset of the pinned range once.
    ///
    /// # Errors
    /// [`crate::Error::UnknownPartition`] if it is not pinned; the stream gives [`crate::Error::Corrupt`] and [`crate::Error::ObjectStore`].
    pub fn scan(&self, partition: TopicPartition, request: ScanRequest) -> Result<RowStream> {
        let parts = self.whole(partition, &request)?;
        Ok(self.read(parts, &request, None)?.map_ok(|decoded| decoded.rows).boxed())
    }

    /// What a request wants of a partition, as one part below the seam and one above: for who needs its rows in order.
    ///
    /// # Errors
    /// [`crate::Error::UnknownPartition`] if it is not pinned, [`crate::Error::Corrupt`] if offsets are nowhere.
    pub fn whole(&self, partition: TopicPartition, request: &ScanRequest) -> Result<Vec<ScanPart>> {
        let mut parts = self.inner.whole(partition, request)?;
        parts.extend(self.own_part(partition, request));
        Ok(parts)
    }

    /// The same in as many parts as may be read side by side or in another order, those it names in offset order. If so
    /// many rows are `enough`, it looks no further, and the last part is all the rest.
    ///
    /// # Errors
    /// As [`Snapshot::whole`]; [`crate::Error::ObjectStore`] and [`crate::Error::Corrupt`] if a chunk of the manifest cannot be read.
    pub async fn survey(
        &self,
        partition: TopicPartition,
        request: &ScanRequest,
        enough: Option<u64>,
    ) -> Result<Vec<ScanPart>> {
        let mut parts = self.inner.survey(partition, request, enough).await?;
        parts.extend(self.own_part(partition, request));
        Ok(parts)
    }

    /// Rows of parts of this snapshot, one part after the other, with declared columns or without: which columns, which
    /// filter and where it is counted says the request; which offsets, the parts.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a declaration that makes no sense; the stream as in [`Snapshot::scan`].
    pub fn read(
        &self,
        parts: Vec<ScanPart>,
        request: &ScanRequest,
        declared: Option<DeclaredScan>,
    ) -> Result<DecodedStream> {
        self.inner.read(parts, request, declared)
    }

    /// The first offset of a partition that was committed after a time, us; the end of the pinned range if there is none:
    /// who reads from there on reads all that came later.
    ///
    /// # Errors
    /// As [`Snapshot::scan`], and what its stream gives.
    pub async fn position(&self, partition: TopicPartition, at_us: i64) -> Result<i64> {
        self.inner.position(partition, at_us).await
    }

    /// The commit time, us, from which on a topic can be shown as it was: when it was made, or the newest at which
    /// something still counted that compaction or a moved log start has removed since. A snapshot that was pinned from
    /// the beginning knows it exactly.
    ///
    /// # Errors
    /// [`crate::Error::UnknownTopic`] if it is not pinned, [`crate::Error::Corrupt`], [`crate::Error::ObjectStore`].
    pub async fn history_start_us(&self, topic: TopicId) -> Result<i64> {
        self.inner.history_start_us(topic).await
    }
}
