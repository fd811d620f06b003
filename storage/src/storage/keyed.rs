//! What SQL asks of tables with a primary key: rows by key, a watch over what others write meanwhile, and a snapshot that
//! has what its reader is about to commit.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;

use super::{OpenOptions, Snapshot, Storage};
use crate::commit::Append;
use crate::error::Result;
use crate::ids::{TopicId, TopicPartition};
use crate::log::watch::Watch;
use crate::record::batch::BatchLimits;
use crate::record::columns::RecordColumn;
use crate::record::format::RecordFormat;
use crate::record::rows::{RowBuilder, RowOrigin};
use crate::scan::ScanPart;
use crate::state::{KeyedTables, LookUp, State};
use crate::view::{PinnedRange, ScanRequest};

/// Rows of batches that are not committed, with all raw columns, behind the pinned end of their partition.
pub(super) type OwnRows = HashMap<TopicPartition, RecordBatch>;

impl Storage {
    /// The same with keyed state in its data directory.
    pub(super) fn with_state(self, options: &OpenOptions) -> Self {
        let state = State::start(&self.node, &self.tier, &options.data_dir);
        Self { state: Some(Arc::new(state)), ..self }
    }

    /// From now on the latest record of each key is kept for the topics that `by` knows of, so that
    /// [`Snapshot::look_up`] can answer. It is asked again and again, and no more once it is gone.
    pub fn keep_state(&self, by: Weak<dyn KeyedTables>) {
        if let Some(state) = &self.state {
            state.keep(by);
        }
    }

    /// Watches a topic's keys: see [`Watch`]. Answered when everything before it is durable.
    ///
    /// # Errors
    /// [`crate::Error::UnknownTopic`], [`crate::Error::ReadOnly`], [`crate::Error::Full`], [`crate::Error::Closed`].
    pub async fn watch(&self, topic: TopicId) -> Result<Watch> {
        self.node.watch(topic).await
    }
}

impl Snapshot {
    /// The latest records of these keys in each partition, as [`Snapshot::scan`] would give them: ordered by partition and
    /// offset, without those that tombstones have deleted. `format` says how the keys were written. `None` if only a scan
    /// can tell: no state is kept of the topic, or it is too far behind.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`], [`crate::Error::ObjectStore`].
    pub async fn look_up(
        &self,
        topic: TopicId,
        format: &RecordFormat,
        keys: &[Bytes],
        columns: &[RecordColumn],
    ) -> Result<Option<RecordBatch>> {
        let pinned = &self.inner;
        let known = pinned.topics().into_iter().find(|known| known.id == topic);
        let Some((view, partitions)) = self.views.get(&topic).zip(known.map(|known| known.partitions)) else {
            return Ok(None);
        };
        LookUp { view, pinned, own: &self.own, topic, partitions, format }.run(keys, columns).await
    }

    /// The same, read as if these batches had been committed behind it in this order at `now_us`. For whoever is about to
    /// commit them and reads again before.
    ///
    /// # Errors
    /// [`crate::Error::CorruptBatch`], [`crate::Error::Format`]; then it is a bug.
    pub fn with_own(self, own: &[Append], now_us: i64) -> Result<Self> {
        let mut builders: HashMap<TopicPartition, (i64, RowBuilder)> = HashMap::new();
        for append in own {
            let place = TopicPartition { topic: append.topic, partition: append.partition };
            let Some(range) = self.inner.range(place) else { continue };
            let (next, rows) =
                builders.entry(place).or_insert_with(|| (range.end, RowBuilder::new(&RecordColumn::ALL)));
            let timestamp_type = append.batch.header().timestamp_type();
            let origin = RowOrigin { partition: append.partition, timestamp_type, committed_at_us: now_us };
            for record in append.batch.records(BatchLimits::STORED)?.iter() {
                let mut record = record?;
                record.offset = *next;
                rows.push(&origin, &record);
                *next += 1;
            }
        }
        let rows = builders.into_iter().map(|(place, (_, mut rows))| Ok((place, rows.finish()?)));
        Ok(Self { own: Arc::new(rows.collect::<Result<_>>()?), ..self })
    }

    /// What is pinned, and what is its reader's own behind it.
    pub(super) fn with_own_end(&self, place: TopicPartition, range: PinnedRange) -> PinnedRange {
        let own = self.own.get(&place).map_or(0, RecordBatch::num_rows);
        PinnedRange { end: range.end + i64::try_from(own).unwrap_or(0), ..range }
    }

    /// What a request wants of the reader's own rows in a partition, behind what is pinned; the past has none of them, for
    /// they are not committed.
    pub(super) fn own_part(&self, place: TopicPartition, request: &ScanRequest) -> Option<ScanPart> {
        let own = self.own.get(&place).filter(|_| request.committed_max_us.is_none())?;
        let offsets = own.column(RecordColumn::Offset as usize).as_primitive::<Int64Type>().values();
        let start = offsets.partition_point(|offset| *offset < request.offset_start);
        let end = offsets.partition_point(|offset| *offset < request.offset_end).max(start);
        (start < end).then(|| ScanPart::given(place, own.slice(start, end - start)))
    }

    /// Whether a look-up in this topic may be answered without a scan.
    #[must_use]
    pub fn has_state(&self, topic: TopicId) -> bool {
        self.views.contains_key(&topic)
    }
}
