//! What an operator is shown of the cold part. Totals stand in the roots of manifests; what is asked per partition reads
//! all their chunks.

use std::collections::HashMap;

use futures::TryStreamExt;

use crate::error::Result;
use crate::ids::{TopicId, TopicPartition};
use crate::manifest::model::{Lost, Object};
use crate::tier::Tier;
use crate::tier::history::noted_us;
use crate::view::{CacheInfo, ColdPartition, ColdTotals, DamageInfo};

impl Tier {
    /// What is cold of a topic.
    pub(crate) fn totals_of(&self, topic: TopicId) -> ColdTotals {
        self.cold.manifests.get(topic).totals()
    }

    /// What is cold of all topics that are there.
    pub(crate) fn totals(&self) -> ColdTotals {
        let manifests = self.cold.manifests.all();
        let there = manifests.iter().filter(|manifest| self.node.topic_by_id(manifest.topic).is_some());
        there.map(|manifest| manifest.totals()).fold(ColdTotals::default(), |sum, of| ColdTotals {
            objects: sum.objects + of.objects,
            rows: sum.rows + of.rows,
            bytes: sum.bytes + of.bytes,
        })
    }

    /// Before this commit time a topic cannot be shown as it was, us; `None` if it is not there or one of our own.
    pub(crate) fn history_start_us(&self, topic: TopicId) -> Option<i64> {
        let created_at_us = self.node.topic_by_id(topic).filter(|topic| !topic.internal)?.created_at_us;
        Some(noted_us(&self.cold.manifests.get(topic)).max(created_at_us))
    }

    /// How the caches do.
    pub(crate) fn caches(&self) -> Vec<CacheInfo> {
        self.cold.caches()
    }

    /// What is cold, by partition.
    ///
    /// # Errors
    /// [`crate::Error::ObjectStore`], [`crate::Error::Corrupt`].
    pub(crate) async fn cold_partitions(&self) -> Result<HashMap<TopicPartition, ColdPartition>> {
        let mut found = HashMap::new();
        for manifest in self.cold.manifests.all() {
            if self.node.topic_by_id(manifest.topic).is_none() {
                continue;
            }
            let mut entries = self.cold.entries(&manifest);
            while let Some(entry) = entries.try_next().await? {
                for (partition, share) in entry.object.iter().flat_map(shares) {
                    let at = TopicPartition { topic: manifest.topic, partition };
                    let sum: &mut ColdPartition = found.entry(at).or_default();
                    sum.rows += share.rows;
                    sum.bytes += share.bytes;
                }
            }
        }
        Ok(found)
    }

    /// Offsets that nobody can read as long as the manifest of their topic cannot be read.
    fn unreadable_offsets(&self) -> Vec<DamageInfo> {
        let mut found = Vec::new();
        for (topic, error) in self.unreadable() {
            for partition in (0..topic.partitions).map(|partition| TopicPartition { topic: topic.id, partition }) {
                // Deleted since we looked.
                let Ok(ends) = self.node.watermarks(partition) else { continue };
                let (start, end) = (ends.log_start_offset, ends.tiered_end_offset);
                if start < end {
                    found.push(DamageInfo { partition, start, end, place: error.to_string(), lost: false });
                }
            }
        }
        found
    }

    /// Offsets that were damaged before they could be tiered, and those of objects that could not be read, of topics that
    /// are there.
    ///
    /// # Errors
    /// As [`Tier::cold_partitions`].
    pub(crate) async fn lost_offsets(&self) -> Result<Vec<DamageInfo>> {
        let mut found = self.unreadable_offsets();
        for manifest in self.cold.manifests.all() {
            if self.node.topic_by_id(manifest.topic).is_none() {
                continue;
            }
            let mut entries = self.cold.entries(&manifest);
            while let Some(entry) = entries.try_next().await? {
                let spoiled = entry.object.as_ref().filter(|object| self.spoiled.reason(&object.path).is_some());
                let unreadable = spoiled.into_iter().flat_map(|object| {
                    let whole = entry.covers.iter().map(|cover| (cover.partition, cover.start, cover.end));
                    whole.map(move |(partition, start, end)| Lost { partition, start, end, place: object.path.clone() })
                });
                for lost in unreadable.chain(entry.lost.iter().cloned()) {
                    let start = lost.start.max(manifest.start(lost.partition));
                    let partition = TopicPartition { topic: manifest.topic, partition: lost.partition };
                    if start < lost.end {
                        found.push(DamageInfo { partition, start, end: lost.end, place: lost.place, lost: true });
                    }
                }
            }
        }
        Ok(found)
    }
}

/// The partitions of an object, each with its rows and, by these, its share in the bytes; the shares add up to the whole.
fn shares(object: &Object) -> Vec<(i32, ColdPartition)> {
    let all: u64 = object.row_groups.iter().map(|group| u64::from(group.rows)).sum();
    let part = |rows: u64| {
        let bytes = u128::from(object.bytes) * u128::from(rows) / u128::from(all.max(1));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    };
    let mut before = 0;
    let share = |group: &crate::manifest::model::RowGroup| {
        let (rows, from) = (u64::from(group.rows), part(before));
        before += rows;
        (group.partition, ColdPartition { rows, bytes: part(before) - from })
    };
    object.row_groups.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::model::RowGroup;

    #[test]
    fn the_shares_of_partitions_add_up_to_the_object() {
        let group = |partition, rows| RowGroup {
            partition,
            first_offset: 0,
            last_offset: 9,
            rows,
            min_timestamp_ms: 0,
            max_timestamp_ms: 0,
            min_committed_at_us: 0,
            max_committed_at_us: 0,
        };
        let row_groups = vec![group(0, 1), group(0, 1), group(2, 1)];
        let (path, chunk_crcs) = (String::new(), Vec::new());
        let object = Object { path, bytes: 100, footer_bytes: 0, footer_crc: 0, chunk_crcs, row_groups };
        let found: Vec<_> = shares(&object).into_iter().map(|(at, share)| (at, share.rows, share.bytes)).collect();
        assert_eq!(found, [(0, 1, 33), (0, 1, 33), (2, 1, 34)]);
    }
}
