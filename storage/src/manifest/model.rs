//! What a manifest says, as plain values: entries, and where each offset is.
//!
//! An entry covers, per partition, a half-open range of offsets. From a partition's start on, its ranges follow each other
//! without a gap, so "tiered up to here" is one number. Inside a cover offsets may be missing (control batches, aborted
//! records, what compaction removed): they have no rows, and never will again. What may change is in [`super::edit`].
//!
//! The newest entries stand in the root, the others in chunks, which are read when somebody wants what they hold. A
//! [`Summary`] says what that is.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{TopicId, WriterEpoch};
use crate::object::paths;
use crate::view::ColdTotals;

/// What one publish adds. Stored: new fields only with a new version of the codec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// What it settles, by partition; at least one.
    pub(crate) covers: Vec<Cover>,
    /// The rows of the covers; `None` if they have none.
    pub(crate) object: Option<Object>,
    /// Offsets of the covers whose records are damaged for ever: they have no rows, but not because nobody sent any.
    pub(crate) lost: Vec<Lost>,
}

/// Offsets whose records could not be read when they were to be tiered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lost {
    /// The partition.
    pub(crate) partition: i32,
    /// First offset.
    pub(crate) start: i64,
    /// First offset after it.
    pub(crate) end: i64,
    /// Where they stood, for errors.
    pub(crate) place: String,
}

/// Offsets of one partition that an entry settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cover {
    /// The partition.
    pub(crate) partition: i32,
    /// First offset.
    pub(crate) start: i64,
    /// First offset after it.
    pub(crate) end: i64,
}

/// One Parquet object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Object {
    /// Its name in the bucket.
    pub(crate) path: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Bytes of its footer, length and magic included: metadata in one read.
    pub(crate) footer_bytes: u32,
    /// CRC-32C of the footer.
    pub(crate) footer_crc: u32,
    /// CRC-32C of every column chunk, row group by row group: Parquet has no checksum a writer of ours would set.
    pub(crate) chunk_crcs: Vec<u32>,
    /// Its row groups, by their number in it: partitions ascend, offsets ascend in each.
    pub(crate) row_groups: Vec<RowGroup>,
}

/// One row group: rows of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowGroup {
    /// The partition.
    pub(crate) partition: i32,
    /// Offset of its first row.
    pub(crate) first_offset: i64,
    /// Offset of its last row.
    pub(crate) last_offset: i64,
    /// How many rows.
    pub(crate) rows: u32,
    /// Smallest timestamp, ms.
    pub(crate) min_timestamp_ms: i64,
    /// Largest timestamp, ms.
    pub(crate) max_timestamp_ms: i64,
    /// Smallest commit time, us.
    pub(crate) min_committed_at_us: i64,
    /// Largest commit time, us.
    pub(crate) max_committed_at_us: i64,
}

/// A chunk, and what a root or a chunk above knows of it. Stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunkRef {
    /// Its name.
    pub(crate) name: ChunkName,
    /// 0 holds entries, another one chunks of the level below.
    pub(crate) level: u8,
    /// Its size in the bucket.
    pub(crate) stored_bytes: u64,
    /// What it and all below it hold.
    pub(crate) summary: Summary,
}

/// The name of a chunk: who made it, and a number nobody else has. Stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ChunkName {
    /// Whose process made it.
    pub(crate) epoch: WriterEpoch,
    /// Its own.
    pub(crate) id: Uuid,
}

/// What some entries hold. Stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// How many entries.
    pub(crate) entries: u64,
    /// How many of them have an object.
    pub(crate) objects: u64,
    /// Rows of the objects.
    pub(crate) rows: u64,
    /// Bytes of the objects.
    pub(crate) bytes: u64,
    /// Smallest and largest timestamp, ms; the smallest is above the largest if there is no row. All there are if
    /// something is lost.
    pub(crate) timestamps_ms: (i64, i64),
    /// Smallest and largest commit time, us, likewise.
    pub(crate) committed_at_us: (i64, i64),
    /// The newest epoch in the names of the objects.
    pub(crate) newest_epoch: WriterEpoch,
    /// From the first offset to the last, by partition, ascending.
    pub(crate) covers: Vec<Cover>,
}

/// What is settled of one partition. Neither end ever goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ends {
    /// First offset there is: below it nothing is promised, though rows may still be there.
    pub(crate) start: i64,
    /// First offset that is not cold.
    pub(crate) end: i64,
}

/// Something in the bucket that no manifest needs any more. Stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Gone {
    /// An object, by its name.
    Object(String),
    /// A chunk whose entries stand elsewhere or went one by one.
    Chunk(ChunkName),
    /// A chunk with all it names.
    Below(ChunkName),
    /// A chunk that holds a list of such things.
    List(ChunkName),
}

/// What one publish left behind. Stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Garbage {
    /// The first version that does not need it.
    pub(crate) version: u64,
    /// When that was published, us.
    pub(crate) at_us: i64,
    /// What.
    pub(crate) gone: Vec<Gone>,
}

/// What a reader wants of one partition. Times only prune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// First offset.
    pub(crate) start: i64,
    /// First offset not wanted any more.
    pub(crate) end: i64,
    /// Earliest timestamp of interest, ms.
    pub(crate) timestamp_min_ms: Option<i64>,
    /// Latest timestamp of interest, ms, inclusive.
    pub(crate) timestamp_max_ms: Option<i64>,
    /// Earliest commit time of interest, us.
    pub(crate) committed_min_us: Option<i64>,
    /// Latest commit time of interest, us, inclusive.
    pub(crate) committed_max_us: Option<i64>,
}

impl Wanted {
    /// These offsets, whatever their time.
    pub(crate) fn offsets(start: i64, end: i64) -> Self {
        let (timestamp_min_ms, timestamp_max_ms) = (None, None);
        let (committed_min_us, committed_max_us) = (None, None);
        Self { start, end, timestamp_min_ms, timestamp_max_ms, committed_min_us, committed_max_us }
    }

    /// Whether rows committed between these times may be of interest.
    pub(crate) fn may_hold_commits(&self, min_us: i64, max_us: i64) -> bool {
        self.committed_min_us.is_none_or(|wanted| max_us >= wanted)
            && self.committed_max_us.is_none_or(|wanted| min_us <= wanted)
    }

    /// Whether rows with timestamps in this range may be of interest.
    pub(crate) fn may_hold(&self, min_ms: i64, max_ms: i64) -> bool {
        self.timestamp_min_ms.is_none_or(|wanted| max_ms >= wanted)
            && self.timestamp_max_ms.is_none_or(|wanted| min_ms <= wanted)
    }

    /// Whether some offset of the partition's cover among these is wanted.
    pub(crate) fn touches(&self, covers: &[Cover], partition: i32) -> bool {
        cover_of(covers, partition).is_some_and(|cover| cover.start < self.end && cover.end > self.start)
    }
}

/// A row group and the object it is in.
#[derive(Clone, Debug)]
pub(crate) struct GroupAt {
    /// The object.
    pub(crate) object: Arc<Entry>,
    /// The row group's number in it.
    pub(crate) ordinal: usize,
    /// What is known of it.
    pub(crate) group: RowGroup,
}

/// One topic's manifest as of a version. Never changes; the next one is another value.
#[derive(Clone, Debug)]
pub(crate) struct TopicManifest {
    /// The topic.
    pub(crate) topic: TopicId,
    /// The root's version; 0 if nothing was ever published.
    pub(crate) version: u64,
    /// Who published it.
    pub(crate) epoch: WriterEpoch,
    /// Before this commit time, us, the topic cannot be shown as it was: compaction has removed what counted then.
    pub(crate) history_start_us: i64,
    /// What is settled, by partition.
    pub(crate) partitions: BTreeMap<i32, Ends>,
    /// Where the first entries are. Chunks and tail are in an order in which the offsets of every partition ascend.
    pub(crate) chunks: Vec<Arc<ChunkRef>>,
    /// The entries after those of the chunks.
    pub(crate) tail: Vec<Arc<Entry>>,
    /// What the sweep has to remove, oldest first.
    pub(crate) garbage: Vec<Arc<Garbage>>,
    /// Up to this epoch it is known that nothing was put and never published.
    pub(crate) orphans_checked: WriterEpoch,
}

impl TopicManifest {
    /// A topic of which nothing is cold.
    pub(crate) fn empty(topic: TopicId) -> Self {
        Self {
            topic,
            version: 0,
            epoch: WriterEpoch(0),
            history_start_us: i64::MIN,
            partitions: BTreeMap::new(),
            chunks: Vec::new(),
            tail: Vec::new(),
            garbage: Vec::new(),
            orphans_checked: WriterEpoch(0),
        }
    }

    /// First offset that is not cold.
    pub(crate) fn tiered_end(&self, partition: i32) -> i64 {
        self.partitions.get(&partition).map_or(0, |ends| ends.end)
    }

    /// First offset there is; equals the end if nothing is cold.
    pub(crate) fn start(&self, partition: i32) -> i64 {
        self.partitions.get(&partition).map_or(0, |ends| ends.start)
    }

    /// How many objects there are, with how many rows and bytes.
    pub(crate) fn totals(&self) -> ColdTotals {
        let tail = Summary::of_entries(self.tail.iter().map(|entry| &**entry));
        let summaries = self.chunks.iter().map(|chunk| &chunk.summary).chain([&tail]);
        summaries.fold(ColdTotals::default(), |sum, of| ColdTotals {
            objects: sum.objects.saturating_add(of.objects),
            rows: sum.rows.saturating_add(of.rows),
            bytes: sum.bytes.saturating_add(of.bytes),
        })
    }

    /// Whether nothing of what these cover is left to be read.
    pub(crate) fn is_below_starts(&self, covers: &[Cover]) -> bool {
        covers.iter().all(|cover| cover.end <= self.start(cover.partition))
    }
}

/// Row groups of one entry that hold offsets of `start..end` of a partition, in offset order.
pub(crate) fn groups_of(
    entry: &Arc<Entry>,
    partition: i32,
    start: i64,
    end: i64,
) -> impl Iterator<Item = GroupAt> + use<'_> {
    let groups = entry.object.as_ref().map_or(&[][..], |object| &object.row_groups);
    // They ascend by partition and offset, and there may be ten thousand of them.
    let first = groups.partition_point(|group| (group.partition, group.last_offset) < (partition, start));
    let wanted = groups.iter().enumerate().skip(first);
    let wanted = wanted.take_while(move |(_, group)| group.partition == partition && group.first_offset < end);
    wanted.map(|(ordinal, group)| GroupAt { object: Arc::clone(entry), ordinal, group: *group })
}

/// Among covers in the order of their partitions, that of one.
fn cover_of(covers: &[Cover], partition: i32) -> Option<&Cover> {
    let at = covers.binary_search_by_key(&partition, |cover| cover.partition).ok()?;
    covers.get(at)
}

impl Lost {
    /// What a reader of them is told.
    pub(crate) fn error(&self) -> crate::error::Error {
        let Self { partition, start, end, place } = self;
        let reason = format!("offsets {start}..{end} of partition {partition} were damaged and are lost for ever");
        crate::error::Error::Corrupt { place: place.clone(), reason }
    }
}

impl Entry {
    /// The first lost offsets of a partition that touch `start..end`.
    pub(crate) fn lost_within(&self, partition: i32, start: i64, end: i64) -> Option<&Lost> {
        self.lost.iter().find(|lost| lost.partition == partition && lost.start < end && lost.end > start)
    }

    /// Its cover of a partition.
    pub(crate) fn cover(&self, partition: i32) -> Option<&Cover> {
        cover_of(&self.covers, partition)
    }

    /// About how many bytes it takes in a root or a chunk.
    pub(crate) fn weight(&self) -> usize {
        let object =
            |object: &Object| object.path.len() + 20 + 5 * object.chunk_crcs.len() + 34 * object.row_groups.len();
        let lost: usize = self.lost.iter().map(|lost| lost.place.len() + 16).sum();
        8 + 10 * self.covers.len() + lost + self.object.as_ref().map_or(0, object)
    }
}

impl GroupAt {
    /// The object's name and size. An entry without an object has no row groups, so there is one.
    pub(crate) fn object(&self) -> Option<&Object> {
        self.object.object.as_ref()
    }
}

impl ChunkRef {
    /// About how many bytes it takes in a root or a chunk.
    pub(crate) fn weight(&self) -> usize {
        90 + 10 * self.summary.covers.len()
    }
}

impl Summary {
    /// Of nothing.
    fn empty() -> Self {
        Self {
            entries: 0,
            objects: 0,
            rows: 0,
            bytes: 0,
            timestamps_ms: (i64::MAX, i64::MIN),
            committed_at_us: (i64::MAX, i64::MIN),
            newest_epoch: WriterEpoch(0),
            covers: Vec::new(),
        }
    }

    /// Of these entries, in their order.
    pub(crate) fn of_entries<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut sum = Self::empty();
        let mut hulls = BTreeMap::new();
        for entry in entries {
            sum.entries += 1;
            widen(&mut hulls, &entry.covers);
            if !entry.lost.is_empty() {
                // They had times too, which nobody knows.
                (sum.timestamps_ms, sum.committed_at_us) = ((i64::MIN, i64::MAX), (i64::MIN, i64::MAX));
            }
            let Some(object) = &entry.object else { continue };
            sum.objects += 1;
            sum.bytes = sum.bytes.saturating_add(object.bytes);
            let epoch = paths::epoch_of(&Path::from(object.path.as_str()));
            sum.newest_epoch = sum.newest_epoch.max(epoch.unwrap_or(WriterEpoch(0)));
            for group in &object.row_groups {
                sum.rows += u64::from(group.rows);
                sum.timestamps_ms = hull(sum.timestamps_ms, (group.min_timestamp_ms, group.max_timestamp_ms));
                sum.committed_at_us = hull(sum.committed_at_us, (group.min_committed_at_us, group.max_committed_at_us));
            }
        }
        Self { covers: hulls.into_values().collect(), ..sum }
    }

    /// Of these chunks, in their order.
    pub(crate) fn of_chunks<'a>(chunks: impl IntoIterator<Item = &'a ChunkRef>) -> Self {
        let mut sum = Self::empty();
        let mut hulls = BTreeMap::new();
        for ChunkRef { summary, .. } in chunks {
            widen(&mut hulls, &summary.covers);
            sum.entries = sum.entries.saturating_add(summary.entries);
            sum.objects = sum.objects.saturating_add(summary.objects);
            sum.rows = sum.rows.saturating_add(summary.rows);
            sum.bytes = sum.bytes.saturating_add(summary.bytes);
            sum.timestamps_ms = hull(sum.timestamps_ms, summary.timestamps_ms);
            sum.committed_at_us = hull(sum.committed_at_us, summary.committed_at_us);
            sum.newest_epoch = sum.newest_epoch.max(summary.newest_epoch);
        }
        Self { covers: hulls.into_values().collect(), ..sum }
    }

    /// Whether a wanted row of a partition may be there.
    pub(crate) fn may_hold(&self, partition: i32, wanted: &Wanted) -> bool {
        wanted.touches(&self.covers, partition)
            && wanted.may_hold(self.timestamps_ms.0, self.timestamps_ms.1)
            && wanted.may_hold_commits(self.committed_at_us.0, self.committed_at_us.1)
    }
}

fn hull(one: (i64, i64), other: (i64, i64)) -> (i64, i64) {
    (one.0.min(other.0), one.1.max(other.1))
}

fn widen(hulls: &mut BTreeMap<i32, Cover>, covers: &[Cover]) {
    for cover in covers {
        let hull = hulls.entry(cover.partition).or_insert(*cover);
        hull.start = hull.start.min(cover.start);
        hull.end = hull.end.max(cover.end);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An entry that covers `start..end` of each partition with one row group each, a row per offset.
    pub(crate) fn entry(name: &str, covers: &[(i32, i64, i64)]) -> Entry {
        let row_groups = covers.iter().map(|&(partition, start, end)| RowGroup {
            partition,
            first_offset: start,
            last_offset: end - 1,
            rows: u32::try_from(end - start).unwrap(),
            min_timestamp_ms: start,
            max_timestamp_ms: end,
            min_committed_at_us: start,
            max_committed_at_us: end,
        });
        let row_groups: Vec<_> = row_groups.collect();
        let covers = covers.iter().map(|&(partition, start, end)| Cover { partition, start, end }).collect();
        let (path, chunk_crcs) = (name.to_owned(), vec![]);
        let object = Object { path, bytes: 100, footer_bytes: 10, footer_crc: 0, chunk_crcs, row_groups };
        Entry { covers, object: Some(object), lost: vec![] }
    }

    #[test]
    fn a_summary_says_what_its_entries_hold() {
        let (a, b) = (entry("a", &[(0, 0, 10), (2, 5, 6)]), entry("b", &[(0, 10, 12)]));
        let sum = Summary::of_entries([&a, &b]);
        assert_eq!((sum.entries, sum.objects, sum.rows, sum.bytes), (2, 2, 13, 200));
        assert_eq!((sum.timestamps_ms, sum.committed_at_us), ((0, 12), (0, 12)));
        let cover = |partition, start, end| Cover { partition, start, end };
        assert_eq!(sum.covers, [cover(0, 0, 12), cover(2, 5, 6)]);
        assert!(sum.may_hold(0, &Wanted::offsets(11, 20)) && !sum.may_hold(0, &Wanted::offsets(12, 20)));
        assert!(!sum.may_hold(1, &Wanted::offsets(0, 20)));
        assert!(!sum.may_hold(0, &Wanted { timestamp_min_ms: Some(13), ..Wanted::offsets(0, 20) }));
        let name = ChunkName { epoch: WriterEpoch(1), id: Uuid::nil() };
        let chunk = |summary| ChunkRef { name, level: 0, stored_bytes: 1, summary };
        let parts = [chunk(Summary::of_entries([&a])), chunk(Summary::of_entries([&b]))];
        assert_eq!(Summary::of_chunks(&parts), sum);
    }
}
