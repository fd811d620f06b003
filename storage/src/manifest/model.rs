//! What a manifest says, as plain values: entries in the order they were published, and where each offset is.
//!
//! An entry covers, per partition, a half-open range of offsets. The ranges of a partition follow each other without a
//! gap, so "tiered up to here" is one number. Inside a cover offsets may be missing (control batches, aborted records):
//! they have no rows, and never will.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Result;
use crate::ids::{TopicId, WriterEpoch};
use crate::manifest::invariant;

/// What one publish adds. Stored: new fields only with a new version of the codec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// What it settles, by partition.
    pub(crate) covers: Vec<Cover>,
    /// The rows of the covers; `None` if they have none.
    pub(crate) object: Option<Object>,
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

/// What is known of one partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartitionIndex {
    /// First offset covered.
    pub(crate) start: i64,
    /// First offset not covered any more.
    pub(crate) end: i64,
    /// Its row groups by offset.
    pub(crate) groups: Vec<GroupAt>,
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
    /// Where the first entries are.
    pub(crate) chunks: Vec<ChunkRef>,
    /// All entries, in the order of their publishing; those not in chunks stand in the root.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// Where offsets are.
    pub(crate) partitions: BTreeMap<i32, PartitionIndex>,
}

impl TopicManifest {
    /// A topic of which nothing is cold.
    pub(crate) fn empty(topic: TopicId) -> Self {
        Self {
            topic,
            version: 0,
            epoch: WriterEpoch(0),
            chunks: Vec::new(),
            entries: Vec::new(),
            partitions: BTreeMap::new(),
        }
    }

    /// A manifest of these entries, checked.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] naming the invariant that does not hold.
    pub(crate) fn from_entries(
        topic: TopicId,
        version: u64,
        epoch: WriterEpoch,
        chunks: Vec<ChunkRef>,
        entries: Vec<Entry>,
    ) -> Result<Self> {
        let mut manifest = Self { version, epoch, chunks, ..Self::empty(topic) };
        for entry in entries {
            manifest.add(entry)?;
        }
        invariant::chunks_hold_entries(&manifest)?;
        Ok(manifest)
    }

    /// This manifest and one more entry, checked; version and epoch are still the old ones.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] naming the invariant that does not hold.
    pub(crate) fn with_entry(&self, entry: Entry) -> Result<Self> {
        let mut next = self.clone();
        next.add(entry)?;
        Ok(next)
    }

    fn add(&mut self, entry: Entry) -> Result<()> {
        invariant::entry_is_sound(self.topic, &entry)?;
        invariant::entry_follows(self, &entry)?;
        let entry = Arc::new(entry);
        for cover in &entry.covers {
            let index = self.partitions.entry(cover.partition).or_insert_with(|| PartitionIndex {
                start: cover.start,
                end: cover.start,
                groups: Vec::new(),
            });
            index.end = cover.end;
        }
        for (ordinal, group) in entry.object.iter().flat_map(|object| object.row_groups.iter().enumerate()) {
            if let Some(index) = self.partitions.get_mut(&group.partition) {
                index.groups.push(GroupAt { object: Arc::clone(&entry), ordinal, group: *group });
            }
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Entries that stand in chunks.
    pub(crate) fn entries_in_chunks(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.entries as usize).sum()
    }

    /// First offset that is not cold.
    pub(crate) fn tiered_end(&self, partition: i32) -> i64 {
        self.partitions.get(&partition).map_or(0, |index| index.end)
    }

    /// First offset that is cold; equals the end if none is.
    pub(crate) fn start(&self, partition: i32) -> i64 {
        self.partitions.get(&partition).map_or(0, |index| index.start)
    }

    /// A partition's row groups, in offset order.
    pub(crate) fn groups(&self, partition: i32) -> &[GroupAt] {
        self.partitions.get(&partition).map_or(&[], |index| &index.groups)
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

    /// An entry that covers `start..end` of each partition with one row group each, a row per offset.
    pub(crate) fn entry(name: &str, covers: &[(i32, i64, i64)]) -> Entry {
        let row_groups = covers.iter().filter(|(_, start, end)| end > start).map(|&(partition, start, end)| RowGroup {
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
        Entry { covers, object: (!object.row_groups.is_empty()).then_some(object) }
    }

    #[test]
    fn offsets_are_found_where_they_were_put() {
        let manifest = TopicManifest::empty(TopicId(Uuid::nil()));
        let manifest = manifest.with_entry(entry("a", &[(0, 0, 10), (2, 5, 6)])).unwrap();
        let manifest = manifest.with_entry(entry("b", &[(0, 10, 12)])).unwrap();
        assert_eq!((manifest.start(0), manifest.tiered_end(0)), (0, 12));
        assert_eq!((manifest.start(2), manifest.tiered_end(2)), (5, 6));
        assert_eq!((manifest.start(1), manifest.tiered_end(1)), (0, 0));
        let names: Vec<_> = manifest.groups(0).iter().map(|at| at.object().unwrap().path.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(manifest.groups(2)[0].ordinal, 1);
    }
}
