//! `ScanPart`: a scan in parts that may be read side by side or in another order, found from the manifest alone.
//!
//! A partition is cut at the seam; below it into a few neighbouring row groups of one object each, above it into ranges of
//! offsets. Parts of one survey are in offset order, and together they are what the request wants of the partition, each
//! offset once. A survey is bounded: what lies behind [`SURVEY_GROUPS_MAX`] row groups is one last part that finds its row
//! groups as it is read, as is everything behind the first offsets that are lost, so that the error comes to whoever reads
//! them.

use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;

use crate::error::Result;
use crate::ids::TopicPartition;
use crate::manifest::model::{GroupAt, Wanted, groups_of};
use crate::scan::blocks::BLOCK_OFFSETS;
use crate::scan::plan::{ObjectRead, plan};
use crate::scan::seam::{Pinned, PinnedPartition};
use crate::view::ScanRequest;

/// Row groups of one part, at the most: little enough to share out, enough to be read in one go.
const PART_GROUPS_MAX: usize = 4;

/// Row groups that a survey names one by one, a billion rows.
const SURVEY_GROUPS_MAX: usize = 64 << 10;

/// Offsets of one part of the log, at the least if there are as many.
const HOT_PART_OFFSETS: i64 = 16 << 10;

/// Parts of the log of one partition, at the most.
const HOT_PARTS_MAX: i64 = 256;

/// See the top of this file.
#[derive(Clone, Debug)]
pub struct ScanPart {
    pub(super) partition: TopicPartition,
    pub(super) kind: Kind,
    rows: u64,
}

/// Where the rows of a part are.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// In row groups of one object.
    Groups(ObjectRead, Wanted),
    /// In objects that are found as they are read.
    Cold(Wanted),
    /// In the log.
    Hot(Wanted),
    /// These, with all raw columns.
    Given(RecordBatch),
}

/// What is known for sure of the records of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartBounds {
    /// How many there are.
    pub records: u64,
    /// First and last offset.
    pub offsets: (i64, i64),
    /// Smallest and largest timestamp, ms.
    pub timestamps_ms: (i64, i64),
}

impl ScanPart {
    /// Whose rows.
    #[must_use]
    pub fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// How many rows there are at the most.
    #[must_use]
    pub fn rows_max(&self) -> u64 {
        self.rows
    }

    /// Whether its rows are in the log.
    #[must_use]
    pub fn is_hot(&self) -> bool {
        matches!(self.kind, Kind::Hot(_))
    }

    /// What is known for sure of its records; `None` unless it is whole row groups.
    #[must_use]
    pub fn bounds(&self) -> Option<PartBounds> {
        let Kind::Groups(ObjectRead { groups, clipped: false }, wanted) = &self.kind else { return None };
        let groups = || groups.iter().map(|at| &at.group);
        let later = |max_us: i64| groups().any(|group| group.max_committed_at_us > max_us);
        if wanted.committed_max_us.is_some_and(later) {
            return None;
        }
        Some(PartBounds {
            records: groups().map(|group| u64::from(group.rows)).sum(),
            offsets: (groups().map(|group| group.first_offset).min()?, groups().map(|group| group.last_offset).max()?),
            timestamps_ms: (
                groups().map(|group| group.min_timestamp_ms).min()?,
                groups().map(|group| group.max_timestamp_ms).max()?,
            ),
        })
    }

    /// The same with its last row group first; in a row group rows are in offset order still.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        if let Kind::Groups(read, _) = &mut self.kind {
            read.groups.reverse();
        }
        self
    }

    /// Rows that its reader has itself, with all raw columns.
    pub(crate) fn given(partition: TopicPartition, rows: RecordBatch) -> Self {
        Self::of(partition, Kind::Given(rows))
    }

    /// What is wanted below the seam and above it.
    pub(super) fn both(partition: TopicPartition, below: Wanted, above: Wanted) -> Vec<Self> {
        let below = (below.start < below.end).then_some(Kind::Cold(below));
        let above = (above.start < above.end).then_some(Kind::Hot(above));
        below.into_iter().chain(above).map(|kind| Self::of(partition, kind)).collect()
    }

    fn of(partition: TopicPartition, kind: Kind) -> Self {
        let span = |wanted: &Wanted| u64::try_from(wanted.end.saturating_sub(wanted.start)).unwrap_or(0);
        let rows = match &kind {
            Kind::Groups(read, _) => read.groups.iter().map(|at| u64::from(at.group.rows)).sum(),
            Kind::Cold(wanted) | Kind::Hot(wanted) => span(wanted),
            Kind::Given(rows) => rows.num_rows() as u64,
        };
        Self { partition, kind, rows }
    }
}

impl Pinned {
    /// What a request wants of a partition, below the seam and above it, each as one part.
    ///
    /// # Errors
    /// [`crate::Error::UnknownPartition`] if it is not pinned; [`crate::Error::Corrupt`] if offsets are nowhere.
    pub(crate) fn whole(&self, partition: TopicPartition, request: &ScanRequest) -> Result<Vec<ScanPart>> {
        let (pinned, below, above) = self.cut(partition, request)?;
        request.meter.considered_objects(pinned.manifest.totals().objects);
        Ok(ScanPart::both(partition, below, above))
    }

    /// The same in as many parts as may be read side by side. If so many rows are `enough`, it looks no further.
    ///
    /// # Errors
    /// As [`Pinned::whole`]; [`crate::Error::ObjectStore`] and [`crate::Error::Corrupt`] of a chunk of the manifest.
    pub(crate) async fn survey(
        &self,
        partition: TopicPartition,
        request: &ScanRequest,
        enough: Option<u64>,
    ) -> Result<Vec<ScanPart>> {
        let (pinned, below, above) = self.cut(partition, request)?;
        // How many rows of the past there are nobody knows before they are read.
        let enough = enough.filter(|_| request.committed_max_us.is_none());
        let mut parts = Vec::new();
        if below.start < below.end {
            self.survey_cold(partition, pinned, below, (request, enough), &mut parts).await?;
        }
        let step = HOT_PART_OFFSETS.max((above.end - above.start).max(0) / HOT_PARTS_MAX + 1);
        let mut start = above.start;
        while start < above.end {
            // No block of decoded rows is cut in two.
            let end = start.saturating_add(step).div_euclid(BLOCK_OFFSETS).saturating_mul(BLOCK_OFFSETS).min(above.end);
            parts.push(ScanPart::of(partition, Kind::Hot(Wanted { start, end, ..above })));
            start = end;
        }
        Ok(parts)
    }

    async fn survey_cold(
        &self,
        partition: TopicPartition,
        pinned: &PinnedPartition,
        below: Wanted,
        (request, enough): (&ScanRequest, Option<u64>),
        parts: &mut Vec<ScanPart>,
    ) -> Result<()> {
        let number = partition.partition;
        request.meter.considered_objects(pinned.manifest.totals().objects);
        let mut entries = self.cold.entries_of(&pinned.manifest, number, below);
        let (mut named, mut rows) = (0, 0);
        while let Some(entry) = entries.try_next().await? {
            let is_lost = entry.lost_within(number, below.start, below.end).is_some();
            if is_lost || named >= SURVEY_GROUPS_MAX || enough.is_some_and(|enough| rows >= enough) {
                let start = entry.cover(number).map_or(below.start, |cover| cover.start.max(below.start));
                parts.push(ScanPart::of(partition, Kind::Cold(Wanted { start, ..below })));
                return Ok(());
            }
            let all = groups_of(&entry, number, below.start, below.end).count();
            let groups = plan(&entry, number, &below).map_or(Vec::new(), |read| read.groups);
            request.meter.considered_groups(all, all - groups.len());
            named += groups.len();
            for groups in groups.chunks(PART_GROUPS_MAX) {
                let outside = |at: &GroupAt| at.group.first_offset < below.start || at.group.last_offset >= below.end;
                let read = ObjectRead { clipped: groups.iter().any(outside), groups: groups.to_vec() };
                let part = ScanPart::of(partition, Kind::Groups(read, below));
                rows += part.rows;
                parts.push(part);
            }
        }
        Ok(())
    }
}
