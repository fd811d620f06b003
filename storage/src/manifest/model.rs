//! What a manifest says, as plain values: entries, and where each offset is.
//!
//! An entry covers, per partition, a half-open range of offsets. From a partition's start on, its ranges follow each other
//! without a gap, so "tiered up to here" is one number. Inside a cover offsets may be missing (control batches, aborted
//! records, what compaction removed): they have no rows, and never will again. What may change is in [`super::edit`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{TopicId, WriterEpoch};

/// What one publish adds. Stored: new fields only with a new version of the codec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// What it settles, by partition.
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

/// Entries that have moved out of the root. Stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunkRef {
    /// Its name.
    pub(crate) id: Uuid,
    /// How many entries it holds.
    pub(crate) entries: u32,
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
}

impl Wanted {
    /// These offsets, whatever their time.
    pub(crate) fn offsets(start: i64, end: i64) -> Self {
        Self { start, end, timestamp_min_ms: None, timestamp_max_ms: None }
    }

    /// Whether rows with timestamps in this range may be of interest.
    pub(crate) fn may_hold(&self, min_ms: i64, max_ms: i64) -> bool {
        self.timestamp_min_ms.is_none_or(|wanted| max_ms >= wanted)
            && self.timestamp_max_ms.is_none_or(|wanted| min_ms <= wanted)
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

/// What is settled of one partition. Neither end ever goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ends {
    /// First offset there is: below it nothing is promised, though rows may still be there.
    pub(crate) start: i64,
    /// First offset that is not cold.
    pub(crate) end: i64,
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
    /// Where the first entries are.
    pub(crate) chunks: Vec<ChunkRef>,
    /// All entries, in an order in which the offsets of every partition ascend; those not in chunks stand in the root.
    pub(crate) entries: Vec<Arc<Entry>>,
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
            entries: Vec::new(),
        }
    }

    /// Entries that stand in chunks.
    pub(crate) fn entries_in_chunks(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.entries as usize).sum()
    }

    /// First offset that is not cold.
    pub(crate) fn tiered_end(&self, partition: i32) -> i64 {
        self.partitions.get(&partition).map_or(0, |ends| ends.end)
    }

    /// First offset there is; equals the end if nothing is cold.
    pub(crate) fn start(&self, partition: i32) -> i64 {
        self.partitions.get(&partition).map_or(0, |ends| ends.start)
    }

    /// Row groups of a partition that hold offsets of `start..end`, in offset order.
    #[cfg(test)]
    pub(crate) fn groups(&self, partition: i32, start: i64, end: i64) -> Vec<GroupAt> {
        self.entries.iter().flat_map(|entry| groups_of(entry, partition, start, end)).collect()
    }
}

/// Row groups of one entry that hold offsets of `start..end` of a partition, in offset order.
pub(crate) fn groups_of(
    entry: &Arc<Entry>,
    partition: i32,
    start: i64,
    end: i64,
) -> impl Iterator<Item = GroupAt> + use<'_> {
    let groups = entry.object.iter().flat_map(|object| object.row_groups.iter().enumerate());
    let wanted = groups.filter(move |(_, group)| {
        group.partition == partition && group.first_offset < end && group.last_offset >= start
    });
    wanted.map(|(ordinal, group)| GroupAt { object: Arc::clone(entry), ordinal, group: *group })
}

impl Entry {
    /// Its cover of a partition.
    pub(crate) fn cover(&self, partition: i32) -> Option<&Cover> {
        self.covers.iter().find(|cover| cover.partition == partition)
    }
}

impl GroupAt {
    /// The object's name and size. An entry without an object has no row groups, so there is one.
    pub(crate) fn object(&self) -> Option<&Object> {
        self.object.object.as_ref()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::manifest::edit::Edit;

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
    fn offsets_are_found_where_they_were_put() {
        let manifest = TopicManifest::empty(TopicId(Uuid::nil()));
        let manifest = manifest.with(Edit::Add(entry("a", &[(0, 0, 10), (2, 5, 6)]))).unwrap();
        let manifest = manifest.with(Edit::Add(entry("b", &[(0, 10, 12)]))).unwrap();
        assert_eq!((manifest.start(0), manifest.tiered_end(0)), (0, 12));
        assert_eq!((manifest.start(2), manifest.tiered_end(2)), (5, 6));
        assert_eq!((manifest.start(1), manifest.tiered_end(1)), (0, 0));
        let groups = manifest.groups(0, 0, 12);
        let names: Vec<_> = groups.iter().map(|at| at.object().unwrap().path.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(manifest.groups(0, 10, 11).len(), 1);
        assert_eq!(manifest.groups(2, 0, 100)[0].ordinal, 1);
    }
}
