//! Compaction: of a topic's cold part only the latest record of each key stays, in memory that does not grow with it.
//!
//! 1. [`Survey`]: which row groups are old enough, nobody's input any more, and whether it is worth it (Kafka's dirty
//!    ratio); pure. Whether it is worth it, the summaries of chunks say but for what is new.
//! 2. The keys of those row groups are read, as often as [`latest`](super::latest) needs for its map, and rows marked.
//! 3. Entries with marked rows are rewritten without them, neighbours together, the oldest first, and published one after
//!    the other. The order matters: a tombstone must not go before the older records of its key have gone.
//! 4. How far it came is stored ([`Cleaned`]), for the next round and for the age of tombstones.
//!
//! Which key is whose is a matter of bytes, but of a table's: there two spellings of a key are one row, whose older record goes
//! as if it had the same bytes. Else the row would be back once the newer one was deleted and its tombstone gone.
//!
//! Offsets stay as they are, covers too; the log and what is hot are not touched. Records without a key, from before the
//! topic was compacted, go as in Kafka.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result};
use crate::manifest::model::{ChunkRef, Cover, Entry, GroupAt, RowGroup, TopicManifest};
use crate::record::columns::RecordColumn;
use crate::record::form::KeyJudge;
use crate::scan::read_group;
use crate::tier::cleaned::{Cleaned, Horizon};
use crate::tier::cold::Cold;
use crate::tier::latest::{KeyPass, KeyedRow, Marks, RowKind};
use crate::tier::merge::{MergePolicy, OBJECTS_MAX};
use crate::tier::rewrite::Goes;

/// Row groups whose keys are read ahead.
const READS_MAX: usize = 2;

/// What decides about a compaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompactPolicy {
    /// `min.cleanable.dirty.ratio`; 0 if someone asked for it.
    pub(crate) dirty_ratio: f64,
    /// `min.compaction.lag.ms`.
    pub(crate) lag_min_ms: i64,
    /// `max.compaction.lag.ms`.
    pub(crate) lag_max_ms: i64,
    /// `delete.retention.ms`.
    pub(crate) delete_retention_ms: i64,
    /// Now.
    pub(crate) now_us: i64,
}

/// What one compaction looks at.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The row groups, in an order in which the offsets of each partition ascend.
    pub(crate) groups: Vec<GroupAt>,
    /// Per partition the offset up to which no key has two records afterwards.
    pub(crate) ends: BTreeMap<i32, i64>,
    /// Offsets among which tombstones have expired, by partition.
    expired: BTreeMap<i32, Vec<(i64, i64)>>,
    /// By partition, which tombstones have been left behind long enough.
    pub(crate) horizons: BTreeMap<i32, Horizon>,
}

/// What stands around a compaction.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    /// From which offset on a partition's records may not go.
    pub(crate) held: &'a (dyn Fn(i32) -> Option<i64> + Sync),
    /// From which offset on the log has a partition's records.
    pub(crate) hot_start: &'a (dyn Fn(i32) -> i64 + Sync),
    /// Objects that cannot be read, by name.
    pub(crate) is_spoiled: &'a (dyn Fn(&str) -> bool + Sync),
    /// Partitions with offsets in such objects.
    pub(crate) spoiled_in: &'a BTreeSet<i32>,
}

/// Goes through a manifest in the order of its entries and finds out what is to be compacted.
pub(crate) struct Survey<'a> {
    manifest: &'a TopicManifest,
    cleaned: &'a Cleaned,
    policy: &'a CompactPolicy,
    around: Around<'a>,
    /// Whether all that takes part is to be known, and not only whether it is worth it.
    whole: bool,
    /// By partition, the first offset that must stay.
    stopped: BTreeMap<i32, i64>,
    holds: BTreeMap<i32, Option<i64>>,
    plan: Plan,
    bytes: u64,
    dirty_bytes: u64,
    overdue: bool,
}

impl<'a> Survey<'a> {
    /// Before the first entry.
    pub(crate) fn new(
        manifest: &'a TopicManifest,
        cleaned: &'a Cleaned,
        policy: &'a CompactPolicy,
        around: Around<'a>,
        whole: bool,
    ) -> Self {
        let (stopped, holds, plan) = (BTreeMap::new(), BTreeMap::new(), Plan::default());
        let (bytes, dirty_bytes, overdue) = (0, 0, false);
        Self { manifest, cleaned, policy, around, whole, stopped, holds, plan, bytes, dirty_bytes, overdue }
    }

    fn held(&mut self, partition: i32) -> Option<i64> {
        *self.holds.entry(partition).or_insert_with(|| (self.around.held)(partition))
    }

    fn is_young(&self, max_timestamp_ms: i64) -> bool {
        let now_ms = self.policy.now_us.div_euclid(1000);
        self.policy.lag_min_ms > 0 && max_timestamp_ms > now_ms.saturating_sub(self.policy.lag_min_ms)
    }

    /// Whether a chunk has to be looked into. Of one that was compacted as a whole and may be so again, its summary says
    /// enough; nothing of one that must stay takes part.
    pub(crate) fn opens(&mut self, chunk: &ChunkRef) -> bool {
        let covers = &chunk.summary.covers;
        let takes_part = |cover: &&Cover| {
            cover.end > self.manifest.start(cover.partition) && !self.stopped.contains_key(&cover.partition)
        };
        let taking_part: Vec<Cover> = covers.iter().filter(takes_part).copied().collect();
        let must_stay: Vec<bool> = taking_part
            .iter()
            .map(|cover| self.held(cover.partition).is_some_and(|held| held <= cover.start))
            .collect();
        if must_stay.iter().all(|stays| *stays) {
            self.stopped.extend(taking_part.iter().map(|cover| (cover.partition, cover.start)));
            return false;
        }
        let is_clean = |cover: &Cover| {
            let held = self.holds.get(&cover.partition).copied().flatten();
            cover.start >= self.manifest.start(cover.partition)
                && cover.end <= self.cleaned.end(cover.partition).min(held.unwrap_or(i64::MAX))
        };
        let all_clean = taking_part.len() == covers.len() && taking_part.iter().all(is_clean);
        if self.whole || !all_clean || self.is_young(chunk.summary.timestamps_ms.1) {
            return true;
        }
        self.bytes += chunk.summary.bytes;
        self.plan.ends.extend(covers.iter().map(|cover| (cover.partition, cover.end)));
        false
    }

    /// Takes an entry in.
    pub(crate) fn take(&mut self, entry: &Arc<Entry>) {
        if entry.object.as_ref().is_some_and(|object| (self.around.is_spoiled)(&object.path)) {
            // Nobody knows its keys; it stays, and so do the tombstones of its partitions.
            return;
        }
        let now_ms = self.policy.now_us.div_euclid(1000);
        for (at, group_bytes) in groups_of(entry) {
            let RowGroup { partition, first_offset, last_offset, min_timestamp_ms, max_timestamp_ms, .. } = at.group;
            if last_offset < self.manifest.start(partition) || self.stopped.contains_key(&partition) {
                continue;
            }
            let held = self.held(partition);
            if self.is_young(max_timestamp_ms) || held.is_some_and(|held| last_offset >= held) {
                self.stopped.insert(partition, first_offset);
                continue;
            }
            self.bytes += group_bytes;
            if last_offset >= self.cleaned.end(partition) {
                self.dirty_bytes += group_bytes;
                self.overdue |= min_timestamp_ms < now_ms.saturating_sub(self.policy.lag_max_ms);
            }
            self.plan.ends.insert(partition, last_offset + 1);
            if self.whole {
                self.plan.groups.push(at);
            }
        }
    }

    /// What is to be compacted now; `None` if it is not worth it.
    pub(crate) fn finish(self) -> Option<Plan> {
        let Self { cleaned, policy, around, stopped, mut plan, bytes, dirty_bytes, overdue, .. } = self;
        let until_us = policy.now_us.saturating_sub(policy.delete_retention_ms.saturating_mul(1000));
        for partition in plan.ends.keys() {
            // A round of which some must stay is not looked at whole: its tombstones wait. So do those behind what cannot be
            // read: older records of their keys may be in it, and somebody may put it back.
            let stop = stopped.get(partition).copied().unwrap_or(i64::MAX);
            let horizon = match around.spoiled_in.contains(partition) {
                true => Horizon { until_us: i64::MIN, hot_start: i64::MIN },
                false => Horizon { until_us, hot_start: (around.hot_start)(*partition).min(stop) },
            };
            plan.horizons.insert(*partition, horizon);
            let expired = cleaned.expired(*partition, horizon);
            if !expired.is_empty() {
                plan.expired.insert(*partition, expired);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a ratio of sizes")]
        let is_dirty = dirty_bytes as f64 > policy.dirty_ratio * bytes as f64;
        (is_dirty || overdue || !plan.expired.is_empty()).then_some(plan)
    }
}

/// An entry's row groups, each with what it takes of its object, about.
pub(crate) fn groups_of(entry: &Arc<Entry>) -> impl Iterator<Item = (GroupAt, u64)> {
    let groups = || entry.object.iter().flat_map(|object| object.row_groups.iter());
    let rows: u64 = groups().map(|group| u64::from(group.rows)).sum();
    let bytes = entry.object.as_ref().map_or(0, |object| object.bytes);
    let share = move |group: &RowGroup| bytes * u64::from(group.rows) / rows.max(1);
    groups()
        .enumerate()
        .map(move |(ordinal, group)| (GroupAt { object: Arc::clone(entry), ordinal, group: *group }, share(group)))
}

impl Plan {
    /// Whether tombstones of a row group are of interest: those nobody has counted, and those that may go.
    fn wants_values(&self, group: &RowGroup, cleaned: &Cleaned) -> bool {
        let expired = self.expired.get(&group.partition).into_iter().flatten();
        group.last_offset >= cleaned.end(group.partition)
            || expired.into_iter().any(|(start, end)| group.first_offset < *end && *start <= group.last_offset)
    }

    fn kind(&self, group: &RowGroup, offset: i64, cleaned: &Cleaned) -> RowKind {
        match self.horizons.get(&group.partition) {
            Some(horizon) if cleaned.has_expired(group.partition, offset, *horizon) => RowKind::ExpiredTombstone,
            _ => RowKind::Tombstone,
        }
    }

    /// Partitions in portions of so many rows, or a single one: rows cost a bit each while they are looked at.
    pub(crate) fn portions(&self, rows_max: u64) -> Vec<Vec<i32>> {
        let mut rows: BTreeMap<i32, u64> = BTreeMap::new();
        for at in &self.groups {
            *rows.entry(at.group.partition).or_default() += u64::from(at.group.rows);
        }
        let mut portions: Vec<Vec<i32>> = Vec::new();
        let mut total = u64::MAX;
        for (partition, rows) in rows {
            total = total.saturating_add(rows);
            if total > rows_max {
                portions.push(Vec::new());
                total = rows;
            }
            if let Some(portion) = portions.last_mut() {
                portion.push(partition);
            }
        }
        portions
    }

    /// Reads the keys of these partitions and marks what goes. Of a table's rows `judge` says which keys are one key.
    ///
    /// # Errors
    /// [`Error::ObjectStore`], [`Error::Corrupt`].
    pub(crate) async fn mark(
        &self,
        cold: &Arc<Cold>,
        cleaned: &Cleaned,
        partitions: &[i32],
        memory_bytes: u64,
        seeds: (u64, u64),
        mut judge: Option<KeyJudge>,
    ) -> Result<Marked> {
        let mut marked = Marked::default();
        let groups: Vec<&GroupAt> =
            self.groups.iter().filter(|at| partitions.binary_search(&at.group.partition).is_ok()).collect();
        for at in &groups {
            let number = marked.marks.add_group(at.group.rows);
            marked.numbers.insert((at.group.partition, at.group.first_offset), number);
        }
        let mut pass = Some(KeyPass::first(memory_bytes, seeds));
        while let Some(mut current) = pass {
            marked.passes += 1;
            let reads: Vec<_> = groups.iter().map(|at| self.read_keys(cold, at, cleaned).boxed()).collect();
            let mut reads = stream::iter(reads).buffered(READS_MAX);
            for (number, at) in (0..).zip(&groups) {
                let Some((rows, values)) = reads.try_next().await? else { break };
                let written = judge.as_mut().map(|judge| judge.written(&rows)).transpose()?.unwrap_or_default();
                self.look(&mut current, &mut marked.marks, (number, at), (&rows, &written), values, cleaned)?;
                tokio::task::yield_now().await;
            }
            drop(reads);
            pass = current.finish(&mut marked.marks);
        }
        for (number, at) in (0..).zip(&groups) {
            *marked.tombstones.entry(at.group.partition).or_default() += marked.marks.tombstones(number);
        }
        Ok(marked)
    }

    /// What of a row group says whether its rows go; the values only where tombstones are of interest.
    async fn read_keys(&self, cold: &Arc<Cold>, at: &GroupAt, cleaned: &Cleaned) -> Result<(RecordBatch, bool)> {
        let values = self.wants_values(&at.group, cleaned);
        let keys = [RecordColumn::Offset, RecordColumn::CommittedAt, RecordColumn::Key, RecordColumn::Value];
        let columns = if values { &keys[..] } else { &keys[..3] };
        Ok((read_group(cold, at, columns).await?, values))
    }

    fn look(
        &self,
        pass: &mut KeyPass,
        marks: &mut Marks,
        (number, at): (u32, &GroupAt),
        (rows, written): (&RecordBatch, &[Option<Bytes>]),
        values: bool,
        cleaned: &Cleaned,
    ) -> Result<()> {
        let odd = || Error::Corrupt { place: "cold rows".into(), reason: "a column is of another type".into() };
        let offsets = rows.column(0).as_primitive_opt::<Int64Type>().ok_or_else(odd)?;
        let committed = rows.column(1).as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(odd)?;
        let keys = rows.column(2).as_binary_opt::<i32>().ok_or_else(odd)?;
        for row in 0..rows.num_rows() {
            let kind = match values && rows.column(3).is_null(row) {
                true => self.kind(&at.group, offsets.value(row), cleaned),
                false => RowKind::Value,
            };
            let written = written.get(row).and_then(Option::as_deref);
            let key = keys.is_valid(row).then(|| written.unwrap_or_else(|| keys.value(row)));
            let keyed = KeyedRow { key, committed_at_us: committed.value(row), kind };
            let row = u32::try_from(row).map_err(Error::format("count rows"))?;
            pass.push(marks, at.group.partition, (number, row), &keyed);
        }
        Ok(())
    }
}

/// Rows that go, found by their row groups.
#[derive(Debug, Default)]
pub(crate) struct Marked {
    marks: Marks,
    /// By partition and first offset: the name of a row group whatever its object is called.
    numbers: HashMap<(i32, i64), u32>,
    /// Tombstones that stay, by partition, of the row groups in which they were counted.
    pub(crate) tombstones: BTreeMap<i32, u64>,
    /// How often the keys were read.
    pub(crate) passes: u32,
}

impl Marked {
    /// See [`Marks::history_start_us`].
    pub(crate) fn history_start_us(&self) -> Option<i64> {
        self.marks.history_start_us()
    }

    fn number(&self, group: &RowGroup) -> Option<u32> {
        self.numbers.get(&(group.partition, group.first_offset)).copied()
    }

    /// Rows of an entry that go.
    fn rows(&self, entry: &Entry) -> u64 {
        let groups = entry.object.iter().flat_map(|object| &object.row_groups);
        groups.filter_map(|group| self.number(group)).map(|number| u64::from(self.marks.marked(number))).sum()
    }

    /// Neighbours to be rewritten together, the oldest first: from one of which rows go, over those of which rows go and
    /// small ones between that can be read, until what stays makes an object.
    pub(crate) fn windows(
        &self,
        entries: &[Arc<Entry>],
        reach: &[usize],
        merge: &MergePolicy,
        is_spoiled: impl Fn(&str) -> bool,
    ) -> Vec<Range<usize>> {
        let mut windows = Vec::new();
        let mut at = 0;
        while at < entries.len() {
            if self.rows(&entries[at]) == 0 {
                at += 1;
                continue;
            }
            let mut window = at..at + 1;
            let mut bytes = self.bytes_left(&entries[at]);
            for next in at + 1..entries.len().min(at + OBJECTS_MAX) {
                let left = self.bytes_left(&entries[next]);
                let touched = self.rows(&entries[next]) > 0;
                let readable = entries[next].object.as_ref().is_none_or(|object| !is_spoiled(&object.path));
                let fits = touched || (readable && !merge.is_large(left));
                if bytes >= merge.object_bytes / 2 || reach[next] > at || !fits {
                    break;
                }
                bytes += left;
                if touched {
                    window.end = next + 1;
                }
            }
            at = window.end;
            windows.push(window);
        }
        windows
    }

    /// About what is left of an entry's object.
    fn bytes_left(&self, entry: &Entry) -> u64 {
        let Some(object) = &entry.object else { return 0 };
        let rows: u64 = object.row_groups.iter().map(|group| u64::from(group.rows)).sum();
        object.bytes * rows.saturating_sub(self.rows(entry)) / rows.max(1)
    }
}

impl Goes for Marked {
    fn some_of(&self, at: &GroupAt) -> bool {
        self.number(&at.group).is_some_and(|number| self.marks.marked(number) > 0)
    }

    fn row(&self, at: &GroupAt, row: usize) -> bool {
        let place = self.number(&at.group).zip(u32::try_from(row).ok());
        place.is_some_and(|(number, row)| self.marks.is_marked(number, row))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::TopicId;
    use crate::manifest::model::Ends;
    use crate::manifest::model::tests::entry;

    #[test]
    fn tombstones_that_were_held_back_when_they_expired_are_looked_at_when_they_are_not() {
        let mut manifest = TopicManifest::empty(TopicId(Uuid::nil()));
        manifest.partitions.insert(0, Ends { start: 0, end: 100 });
        let entries = [Arc::new(entry("a", &[(0, 0, 50)])), Arc::new(entry("b", &[(0, 50, 100)]))];
        let never = Horizon { until_us: i64::MIN, hot_start: 0 };
        let mut cleaned = Cleaned::default();
        cleaned.note(0, 100, 1_000, true, never);
        let policy = CompactPolicy {
            dirty_ratio: 0.5,
            lag_min_ms: 0,
            lag_max_ms: i64::MAX,
            delete_retention_ms: 1,
            now_us: 1_000_000,
        };
        let plan_with = |cleaned: &Cleaned, held: Option<i64>, spoiled_in: &BTreeSet<i32>| {
            let (held, hot_start) = (|_| held, |_| 100);
            let around = Around { held: &held, hot_start: &hot_start, is_spoiled: &|_| false, spoiled_in };
            let mut survey = Survey::new(&manifest, cleaned, &policy, around, true);
            entries.iter().for_each(|entry| survey.take(entry));
            survey.finish().filter(|plan| !plan.expired.is_empty())
        };
        let plan_now = |cleaned: &Cleaned, held: Option<i64>| plan_with(cleaned, held, &BTreeSet::new());
        assert!(plan_with(&cleaned, None, &BTreeSet::from([1])).is_some());
        let spoiled = plan_with(&cleaned, None, &BTreeSet::from([0]));
        assert!(spoiled.is_none(), "what cannot be read may hold an older record of the same key");
        assert!(plan_now(&cleaned, None).is_some());
        if let Some(plan) = plan_now(&cleaned, Some(60)) {
            cleaned.note(0, plan.ends[&0], policy.now_us, false, plan.horizons[&0]);
        }
        assert!(plan_now(&cleaned, None).is_some(), "tombstones from 50 on were not looked at");
    }
}
