//! What must remain of a partition, and what may be gone: by a trim, by retention, by compaction; and what a hold keeps.
//!
//! All of it errs on the side of what may be gone: the wall clock may have jumped, a commit of which nobody got the answer
//! may have superseded another. What is left is certain: it must be there.

use std::collections::{BTreeMap, BTreeSet};

use aquifer_storage::{TopicId, TopicPartition, Watermarks};

use crate::model::{Checked, Fate, Model, Partition, Record, RecordId, Sent, broken, ends};

/// What a topic was told when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// `cleanup.policy` has `compact`.
    pub(crate) compacts: bool,
    /// `cleanup.policy` has `delete`.
    pub(crate) deletes: bool,
    /// `min.compaction.lag.ms`.
    pub(crate) lag_ms: i64,
    /// `delete.retention.ms`.
    pub(crate) tombstones_ms: i64,
    /// `retention.ms`; -1: for ever.
    pub(crate) retention_ms: i64,
    /// `retention.bytes`; -1: no limit.
    pub(crate) retention_bytes: i64,
}

impl Kept {
    /// Everything, for ever.
    pub(crate) const ALL: Self =
        Self { compacts: false, deletes: true, lag_ms: 0, tombstones_ms: 0, retention_ms: -1, retention_bytes: -1 };
}

/// No partition of a simulation ever holds so many bytes.
pub(crate) const PLENTY_BYTES: i64 = 1 << 30;

/// What a definition keeps of a topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hold {
    /// It was answered and nobody has asked for its end.
    pub(crate) in_force: bool,
    /// By partition the first offset that is needed; a new partition has none.
    pub(crate) needed: BTreeMap<i32, i64>,
    /// By partition how far its log start may move, as of the answer.
    pub(crate) start_max: BTreeMap<i32, i64>,
    /// By partition what was there when the process began: it knew of the hold from its first step on.
    pub(crate) pinned: BTreeMap<i32, BTreeSet<i64>>,
}

/// How far the wall clock has been, ms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WallSpan {
    pub(crate) earliest_ms: i64,
    pub(crate) latest_ms: i64,
}

impl Model {
    /// What a topic keeps; one that nobody knows keeps everything.
    pub(crate) fn kept(&self, topic: TopicId) -> Kept {
        self.topics.get(&topic).map_or(Kept::ALL, |topic| topic.kept)
    }

    /// A record by its name.
    pub(crate) fn record(&self, id: RecordId) -> Option<&Record> {
        self.attempts.get(&id.attempt)?.sent.get(id.batch)?.records.get(id.index)
    }

    /// Records that are there for whoever reads what is committed, from an offset on.
    pub(crate) fn certain(&self, at: TopicPartition, from: i64) -> impl Iterator<Item = (i64, RecordId)> {
        let records = self.partitions.get(&at).into_iter().flat_map(move |partition| partition.records.range(from..));
        let certain = records.filter(move |(_, id)| self.standing(id.attempt) == Fate::Durable);
        certain.map(|(offset, id)| (*offset, *id))
    }

    /// How far a partition's log start may have moved by now.
    pub(crate) fn start_max(&self, at: TopicPartition) -> i64 {
        let unknown = Partition::default();
        let partition = self.partitions.get(&at).unwrap_or(&unknown);
        let shown = partition.watermarks.log_start_offset;
        let asked = partition.trims.iter().map(|(_, offset)| *offset).max().unwrap_or(0);
        let free = shown.max(asked).max(self.retention_start_max(at, shown));
        match self.holds.get(&at.topic).filter(|hold| hold.in_force).and_then(|hold| hold.start_max.get(&at.partition))
        {
            Some(held) => free.min(*held).max(shown),
            None => free,
        }
    }

    /// As far as retention may have moved it: behind what is too old; anywhere if bytes count, for what a stretch takes is
    /// the storage's to say.
    fn retention_start_max(&self, at: TopicPartition, shown: i64) -> i64 {
        let kept = self.kept(at.topic);
        if kept.deletes && (0..PLENTY_BYTES).contains(&kept.retention_bytes) {
            return i64::MAX;
        }
        if !kept.deletes || kept.retention_ms < 0 {
            return shown;
        }
        let oldest_ms = self.wall.get().latest_ms.saturating_sub(kept.retention_ms);
        // One that compaction has removed keeps nobody.
        let keeps = |(offset, id): &(i64, RecordId)| {
            let young = self.record(*id).is_some_and(|record| record.timestamp_ms >= oldest_ms);
            young && !self.may_be_gone(at, *offset, *id)
        };
        self.certain(at, shown).find(keeps).map_or(i64::MAX, |(offset, _)| offset)
    }

    /// Whether compaction may have removed a record that was committed.
    pub(crate) fn may_be_gone(&self, at: TopicPartition, offset: i64, id: RecordId) -> bool {
        let kept = self.kept(at.topic);
        if !kept.compacts || self.is_pinned(at, offset) {
            return false;
        }
        let Some(record) = self.record(id) else { return false };
        if kept.lag_ms > 0 && self.first_young(at, kept).is_some_and(|young| young <= offset) {
            return false;
        }
        let wall = self.wall.get();
        let expires = record.value.is_none() && wall.latest_ms - wall.earliest_ms >= kept.tombstones_ms;
        expires || self.is_superseded(at, offset, record.key.as_deref())
    }

    /// The first record that is younger than compaction may touch: what lies behind it stays too.
    fn first_young(&self, at: TopicPartition, kept: Kept) -> Option<i64> {
        let partition = self.partitions.get(&at)?;
        let asked = partition.trims.iter().map(|(_, offset)| *offset).max().unwrap_or(0);
        let latest_ms = self.wall.get().latest_ms;
        let young = |record: &Record| {
            let trimmed = kept.deletes && kept.retention_ms >= 0;
            let trimmed = trimmed && record.timestamp_ms < latest_ms.saturating_sub(kept.retention_ms);
            record.timestamp_ms > latest_ms.saturating_sub(kept.lag_ms) && !trimmed
        };
        let mut certain = self.certain(at, partition.watermarks.log_start_offset.max(asked));
        certain.find(|(_, id)| self.record(*id).is_some_and(young)).map(|(offset, _)| offset)
    }

    fn is_pinned(&self, at: TopicPartition, offset: i64) -> bool {
        let Some(hold) = self.holds.get(&at.topic).filter(|hold| hold.in_force) else { return false };
        let needed = hold.needed.get(&at.partition).is_some_and(|needed| offset >= *needed);
        needed && hold.pinned.get(&at.partition).is_some_and(|pinned| pinned.contains(&offset))
    }

    /// Whether a record of the same key lies behind an offset, or may.
    fn is_superseded(&self, at: TopicPartition, offset: i64, key: Option<&[u8]>) -> bool {
        let Some(partition) = self.partitions.get(&at) else { return false };
        let counts = |attempt: u64| !matches!(self.standing(attempt), Fate::Refused | Fate::Absent);
        let same = |record: &Record| record.key.as_deref() == key;
        let placed = partition
            .records
            .range(offset + 1..)
            .any(|(_, id)| counts(id.attempt) && self.record(*id).is_some_and(same));
        placed
            || self.attempts.iter().any(|(id, attempt)| {
                let unplaced =
                    |sent: &Sent| sent.base.is_none() && sent.partition == at && sent.records.iter().any(same);
                attempt.sent.iter().any(unplaced) && counts(*id)
            })
    }

    /// What one consistent look shows of a compacted partition: if the last record of a key is gone, so are the older ones.
    pub(crate) fn no_resurrection(
        &self,
        at: TopicPartition,
        range: std::ops::Range<i64>,
        found: &BTreeSet<i64>,
    ) -> Checked {
        if !self.kept(at.topic).compacts {
            return Ok(());
        }
        let mut last: BTreeMap<Option<&[u8]>, i64> = BTreeMap::new();
        for (offset, id) in self.certain(at, range.start).take_while(|(offset, _)| *offset < range.end) {
            last.insert(self.record(id).and_then(|record| record.key.as_deref()), offset);
        }
        for (offset, id) in self.certain(at, range.start).take_while(|(offset, _)| *offset < range.end) {
            let key = self.record(id).and_then(|record| record.key.as_deref());
            let latest = last.get(&key).copied().unwrap_or(offset);
            if found.contains(&offset) && !found.contains(&latest) {
                return broken(11, format!("{at:?}: {offset} of key {key:?} is shown, and {latest} behind it is not"));
            }
        }
        Ok(())
    }

    /// Somebody was shown a partition's ends, asked for when `before` was known.
    pub(crate) fn ends_shown(&mut self, at: TopicPartition, before: &Partition, now: Watermarks) -> Checked {
        let ordered = now.log_start_offset <= now.last_stable_offset
            && now.tiered_end_offset <= now.last_stable_offset
            && now.last_stable_offset <= now.high_watermark;
        if !ordered {
            return broken(8, format!("{at:?}: ends out of order: {now:?}"));
        }
        let was = before.watermarks;
        let back = now.high_watermark < was.high_watermark.max(before.acknowledged_end)
            || now.last_stable_offset < was.last_stable_offset
            || now.log_start_offset < was.log_start_offset.max(before.trimmed);
        if back {
            return broken(
                8,
                format!("{at:?}: ends went back: {now:?}, before {before_ends}", before_ends = ends(before)),
            );
        }
        let start_max = self.start_max(at);
        if now.log_start_offset > start_max {
            let (kept, trims) = (self.kept(at.topic), self.partition(at).trims);
            return broken(1, format!("{at:?}: log start {now:?} beyond {start_max}: {kept:?}, trims {trims:?}"));
        }
        let known = &mut self.partitions.entry(at).or_default().watermarks;
        known.high_watermark = known.high_watermark.max(now.high_watermark);
        known.last_stable_offset = known.last_stable_offset.max(now.last_stable_offset);
        known.log_start_offset = known.log_start_offset.max(now.log_start_offset);
        Ok(())
    }

    /// A trim is asked for.
    pub(crate) fn trim_asked(&mut self, ask: u64, at: TopicPartition, offset: i64) {
        self.partitions.entry(at).or_default().trims.push((ask, offset));
    }

    /// A trim was answered: it counts from now on, or it never does.
    pub(crate) fn trim_answered(&mut self, ask: u64, at: TopicPartition, done: bool) {
        let partition = self.partitions.entry(at).or_default();
        let Some(place) = partition.trims.iter().position(|(known, _)| *known == ask) else { return };
        if done {
            partition.trimmed = partition.trimmed.max(partition.trims[place].1);
        } else {
            partition.trims.remove(place);
        }
    }

    /// Whether records of a batch that is not seen may have been there and be gone; who looks sees what lies from `start` on.
    pub(crate) fn may_have_been(&self, sent: &Sent, start: i64) -> bool {
        let at = sent.partition;
        if start.max(self.partition(at).watermarks.log_start_offset) > sent.floor {
            return true;
        }
        // Seen by nobody and superseded since; only one that has its key for itself must be there.
        let gone = |record: &Record| {
            let others = self.attempts.values().flat_map(|attempt| &attempt.sent).filter(|other| other.partition == at);
            let same = others.flat_map(|other| &other.records).filter(|other| other.key == record.key).count();
            record.value.is_none() || same > 1
        };
        self.kept(at.topic).compacts && sent.records.iter().all(gone)
    }
}
