//! What readers are shown: only what is durable, changed in one step per synced group.
//!
//! One lock around all of it, so that a snapshot over any number of partitions and topics is one act. It is held for
//! look-ups and for publishing, never while a file is touched.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ids::{OwnTopic, TopicPartition};
use crate::log::append::Sealed;
use crate::log::footer::FooterRuns;
use crate::log::frame::LEADER_EPOCH;
use crate::log::hot::{Backlog, HotRange, HotStretch};
use crate::log::index::{DamagedOffsets, Run, Runs, Stretch};
use crate::log::own::{Change, OwnState, own_partition};
use crate::log::pipe::Done;
use crate::log::segment::Segment;
use crate::log::transaction::{AbortedRange, CommittedRange, Mark};
use crate::view::Watermarks;

/// A last stable offset held up for less than this is not worth a note, us: local retention is longer by far.
const LATE_US_MIN: i64 = 10_000_000;

/// One partition, as readers see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartitionView {
    pub(crate) runs: Runs,
    pub(crate) high_watermark: i64,
    pub(crate) log_start: i64,
    pub(crate) tiered_end: i64,
    pub(crate) damaged: Vec<DamagedOffsets>,
    /// Transactions open here: first offset by producer.
    pub(crate) open: BTreeMap<i64, i64>,
    /// What of the hot part was aborted, in the order of the markers.
    pub(crate) aborted: Vec<AbortedRange>,
    /// What of the part that is in no object was committed by transactions, in the order of the markers. Rows of objects
    /// have their commit times with them.
    pub(crate) committed: Vec<CommittedRange>,
    /// Where the last stable offset went when it had been held up for long, and when, us: until then nothing below was
    /// readable for everybody, so local retention counts from there.
    pub(crate) late: VecDeque<(i64, i64)>,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) own: OwnState,
    pub(crate) partitions: HashMap<TopicPartition, PartitionView>,
    /// By the position of their first frame.
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    /// Everything of the log below this position is shown.
    pub(crate) end: u64,
    /// Runs of sealed segments.
    pub(crate) footers: Arc<FooterRuns>,
    pub(crate) catalog_version: u64,
    /// Damaged ranges in words, for the health.
    pub(crate) damaged: Vec<String>,
}

impl PartitionView {
    /// First offset the log holds.
    pub(crate) fn hot_start(&self) -> i64 {
        self.runs.first_offset().unwrap_or(self.high_watermark)
    }

    /// First offset the log holds or knows to be damaged; what lies below it was forgotten.
    pub(crate) fn known_start(&self) -> i64 {
        let mut start = self.hot_start();
        while let Some(range) = self.damaged.iter().find(|range| range.start < start && range.end >= start) {
            start = range.start;
        }
        start
    }

    /// End of what no open transaction can still undo. What of one is trimmed away holds nobody up.
    pub(crate) fn last_stable_offset(&self) -> i64 {
        let open = self.open.values().copied().min();
        open.map_or(self.high_watermark, |first_offset| first_offset.max(self.log_start))
    }

    /// Takes in what a batch means for the last stable offset.
    fn mark(&mut self, mark: &Mark, commit_time_us: i64) {
        match *mark {
            Mark::Began { producer_id, first_offset, .. } => drop(self.open.insert(producer_id, first_offset)),
            Mark::Ended { producer_id, marker_offset, committed, .. } => {
                let before = self.last_stable_offset();
                let last_offset = marker_offset;
                match self.open.remove(&producer_id) {
                    Some(first_offset) if committed => {
                        let committed_at_us = commit_time_us;
                        let range = CommittedRange { producer_id, first_offset, last_offset, committed_at_us };
                        self.committed.push(range);
                    }
                    Some(first_offset) => self.aborted.push(AbortedRange { producer_id, first_offset, last_offset }),
                    None => {}
                }
                let held = self.runs.starting_at(before).next().map(|stretch| stretch.commit_time_us(before));
                let stable = self.last_stable_offset();
                let late = held.is_some_and(|held| commit_time_us.saturating_sub(held) >= LATE_US_MIN);
                if late && stable > before {
                    self.late.push_back((stable, commit_time_us));
                }
            }
        }
    }

    /// When an offset became stable, us, if that was long after its commit.
    pub(crate) fn stable_since_us(&self, offset: i64) -> Option<i64> {
        let at = self.late.partition_point(|(stable, _)| *stable <= offset);
        self.late.get(at).map(|(_, since_us)| *since_us)
    }

    /// Drops what is known of a segment that goes.
    pub(crate) fn forget_segment(&mut self, segment: u64) {
        self.runs.forget_segment(segment);
        let hot_start = self.hot_start();
        // Whoever asks for what lies below asks the objects.
        self.damaged.retain(|range| range.end > hot_start || range.end > self.tiered_end);
        self.aborted.retain(|range| range.last_offset >= hot_start);
        while self.late.front().is_some_and(|(stable, _)| *stable <= hot_start) {
            self.late.pop_front();
        }
    }

    /// Log bytes that are in no object and not below the log start: what retention counts beside objects.
    pub(crate) fn untiered_bytes(&self) -> u64 {
        let from = self.tiered_end.max(self.log_start);
        self.runs.starting_at(from).map(|stretch| stretch.bytes_within(from, i64::MAX)).sum()
    }

    /// Log bytes that may be tiered.
    fn stable_untiered_bytes(&self) -> u64 {
        let last = self.last_stable_offset() - 1;
        let stretches = self.runs.starting_at(self.tiered_end).take_while(|stretch| stretch.base_offset <= last);
        stretches.map(|stretch| stretch.bytes_within(self.tiered_end, last)).sum()
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        Watermarks {
            log_start_offset: self.log_start,
            tiered_end_offset: self.tiered_end,
            last_stable_offset: self.last_stable_offset(),
            high_watermark: self.high_watermark,
            leader_epoch: LEADER_EPOCH,
        }
    }

    /// Takes a run in: at the end or, carried over, in place of what it is a copy of.
    pub(crate) fn push(&mut self, run: Run, segment: u64) {
        let carried = run.base_offset < self.high_watermark;
        // What was forgotten meanwhile stays forgotten.
        if carried && !self.runs.holds(run.base_offset) {
            return;
        }
        self.high_watermark = self.high_watermark.max(run.last_offset + 1);
        self.runs.put(run, segment);
    }

    /// Everything below `tiered_end` is in live objects.
    pub(crate) fn set_tiered(&mut self, tiered_end: i64, log_start: i64) {
        self.tiered_end = self.tiered_end.max(tiered_end);
        self.log_start = self.log_start.max(log_start);
        let settled = self.committed_from(self.tiered_end);
        self.committed.drain(..settled);
        // The log's part is whole from its start on, but for what is damaged and in no object.
        self.runs.forget_below_gaps(self.tiered_end, self.high_watermark.max(self.tiered_end));
    }

    /// How many committed ranges lie wholly below an offset.
    fn committed_from(&self, offset: i64) -> usize {
        self.committed.partition_point(|range| range.last_offset < offset)
    }

    /// The damage at an offset, if there is any.
    pub(crate) fn damage_at(&self, offset: i64) -> Option<&DamagedOffsets> {
        self.damaged.iter().find(|range| (range.start..range.end).contains(&offset))
    }
}

impl Published {
    /// Applies the changes of a synced group.
    pub(crate) fn apply(&mut self, change: &Change) {
        if self.own.changes_catalog(change) {
            self.catalog_version += 1;
        }
        self.own.apply(change);
        match change {
            Change::Topic { id, value: Some(topic) } => {
                for partition in 0..topic.partitions {
                    self.partitions.entry(TopicPartition { topic: *id, partition }).or_default();
                }
            }
            Change::Topic { id, value: None } => self.partitions.retain(|partition, _| partition.topic != *id),
            Change::LogStart { partition, value: Some(offset) } => {
                if let Some(view) = self.partitions.get_mut(partition) {
                    view.log_start = view.log_start.max(*offset);
                }
            }
            _ => {}
        }
    }

    /// Takes a synced run in. One of a topic that is gone by now is nobody's any more.
    pub(crate) fn push(&mut self, partition: TopicPartition, run: Run, segment: u64) {
        if let Some(view) = self.partitions.get_mut(&partition) {
            view.push(run, segment);
        }
    }

    /// A segment is sealed: what is in its footer need not be in memory.
    pub(crate) fn let_go(&mut self, sealed: &Sealed) {
        for (partition, stretches) in sealed {
            if let Some(view) = self.partitions.get_mut(partition) {
                view.runs.let_go(stretches);
            }
        }
    }

    /// Takes in what a batch of a synced group means for the last stable offset of its partition.
    pub(crate) fn mark(&mut self, mark: &Mark, commit_time_us: i64) {
        let (Mark::Began { partition, .. } | Mark::Ended { partition, .. }) = mark;
        if let Some(view) = self.partitions.get_mut(partition) {
            view.mark(mark, commit_time_us);
        }
    }

    /// Makes room for our own topics, which nobody creates.
    pub(crate) fn with_own_topics(mut self) -> Self {
        for own in OwnTopic::ALL {
            self.partitions.entry(own_partition(own)).or_default();
        }
        self
    }

    /// The partition.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    pub(crate) fn partition(&self, partition: TopicPartition) -> Result<&PartitionView> {
        match self.partitions.get(&partition) {
            Some(view) => Ok(view),
            None => Err(match self.own.topic_of(partition) {
                Err(error) => error,
                Ok(topic) => Error::UnknownTopic { topic: topic.name.clone() },
            }),
        }
    }

    /// Ties a stretch to its file: the runs from an offset on that make up so many bytes.
    pub(crate) fn hot_stretch(
        &self,
        partition: TopicPartition,
        stretch: &Stretch,
        from: i64,
        bytes_max: u64,
    ) -> Option<HotStretch> {
        let segment = Arc::clone(self.segments.get(&stretch.segment)?);
        let (stretch, footers) = (stretch.piece(from, bytes_max), Arc::clone(&self.footers));
        Some(HotStretch { partition, stretch, segment, footers })
    }

    /// Pins what the log holds of a partition from an offset on.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    pub(crate) fn pin(&self, partition: TopicPartition, offset: i64) -> Result<HotRange> {
        let view = self.partition(partition)?;
        self.pin_until(partition, offset, view.watermarks().last_stable_offset)
    }

    /// Pins what is in no object yet, up to the high watermark.
    ///
    /// # Errors
    /// As [`Published::pin`].
    pub(crate) fn pin_untiered(&self, partition: TopicPartition) -> Result<HotRange> {
        let view = self.partition(partition)?;
        self.pin_until(partition, view.tiered_end, view.high_watermark)
    }

    fn pin_until(&self, partition: TopicPartition, offset: i64, end: i64) -> Result<HotRange> {
        let view = self.partition(partition)?;
        let needed = offset.max(view.tiered_end);
        let damaged = view.damaged.iter().filter(|range| range.end > needed).cloned().collect();
        let watermarks = view.watermarks();
        let touched = view.runs.starting_at(offset).take_while(|stretch| stretch.base_offset < end);
        let stretches = touched.filter_map(|stretch| self.hot_stretch(partition, stretch, offset, u64::MAX)).collect();
        let aborted = view.aborted.iter().filter(|range| range.last_offset >= offset).copied().collect();
        let committed = view.committed[view.committed_from(offset)..].to_vec();
        Ok(HotRange { partition, watermarks, start: view.hot_start(), end, damaged, stretches, aborted, committed })
    }

    /// Fills in what an answer says of log starts.
    pub(crate) fn complete(&self, outcome: &mut Result<Done>) {
        let Ok(done) = outcome else { return };
        for (appended, partition) in done.receipt.appended.iter_mut().zip(&done.partitions) {
            appended.log_start_offset = self.partitions.get(partition).map_or(0, |view| view.log_start);
        }
    }

    /// What waits for tiering.
    pub(crate) fn backlog(&self) -> Vec<Backlog> {
        let mut backlog = Vec::new();
        for (partition, view) in &self.partitions {
            if self.own.topics.get(&partition.topic).is_none_or(|topic| topic.internal) {
                continue;
            }
            let tiered_end = view.tiered_end;
            let oldest = view.runs.starting_at(tiered_end).next();
            backlog.push(Backlog {
                partition: *partition,
                tiered_end,
                last_stable_offset: view.last_stable_offset(),
                untiered_bytes: view.stable_untiered_bytes(),
                oldest_commit_time_us: oldest.map(|stretch| stretch.commit_time_us(tiered_end)),
                committed_ranges: view.committed.len() as u64,
            });
        }
        backlog.sort_by_key(|entry| entry.partition);
        backlog
    }
}
