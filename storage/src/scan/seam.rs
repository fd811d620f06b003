//! `Pinned`: some partitions held as they were in one moment, and read across the seam between cold and hot.
//!
//! The seam of a partition is the end of its tiered part when it was pinned: every offset below it is read from
//! objects, every other one from the log, so each is read once. The log is pinned first and the manifest second: a
//! manifest is shown before the log learns of it, so it covers at least everything below the seam; what it covers
//! beyond is not read. No manifest may be shown in between: a compaction there could have taken a row away for one that
//! the pinned end of the log hides ([`in_one_moment`]). The log forgets only below the seam, and what is pinned stays
//! readable anyway.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt, future};

use crate::error::{Error, Result};
use crate::ids::{TopicId, TopicPartition};
use crate::log::{DamagedOffsets, HotRange, Node};
use crate::manifest::model::{Lost, TopicManifest, Wanted};
use crate::record::batch::BatchLimits;
use crate::record::format::Decoded;
use crate::scan::blocks::{self, Blocks};
use crate::scan::meter::ScanMeter;
use crate::scan::parts::{Kind, ScanPart};
use crate::scan::plan::{ObjectRead, plan};
use crate::scan::request::{Asked, RawRows};
use crate::scan::{cold, hot, past};
use crate::tier::Tier;
use crate::tier::cold::Cold;
use crate::tier::history::{Moved, noted_us, removed_until_us};
use crate::view::{DeclaredScan, DecodedStream, PinnedRange, RowStream, ScanRequest, Topic};

/// Objects opened at once: the next one's first rows are there when those before it have been read.
const OPENS_MAX: usize = 2;

/// Rows read in one step where only the first one is looked for.
const POSITION_ROWS: usize = 1024;

/// How often a snapshot is tried to be taken while manifests change.
const PINS_MAX: usize = 100;

/// The log pinned, and the manifests as they were shown before and after it.
///
/// # Errors
/// Those of `pin`; [`Error::Conflict`] if the manifests change all the time.
fn in_one_moment<L, M>(
    pin: impl Fn() -> Result<L>,
    shown: impl Fn() -> M,
    is_same: impl Fn(&M, &M) -> bool,
) -> Result<(L, M)> {
    let mut before = shown();
    for _ in 0..PINS_MAX {
        let log = pin()?;
        let after = shown();
        if is_same(&before, &after) {
            return Ok((log, after));
        }
        before = after;
    }
    Err(Error::Conflict { what: "what the object store holds of the topics".to_owned() })
}

/// What a snapshot holds on to.
#[derive(Debug)]
pub(crate) struct Pinned {
    topics: Vec<Arc<Topic>>,
    partitions: HashMap<TopicPartition, PinnedPartition>,
    pub(super) cold: Arc<Cold>,
    limits: BatchLimits,
    /// Decoded rows of the log, shared with others.
    blocks: Option<Arc<Blocks>>,
}

#[derive(Debug)]
pub(super) struct PinnedPartition {
    topic_name: String,
    range: PinnedRange,
    /// First offset that is read from the log.
    seam: i64,
    hot: HotRange,
    pub(super) manifest: Arc<TopicManifest>,
}

impl Pinned {
    /// Pins log and manifests of these topics in one act.
    pub(crate) fn pin(
        node: &Arc<Node>,
        tier: &Arc<Tier>,
        topics: &[TopicId],
        from: &HashMap<TopicPartition, i64>,
    ) -> Result<Self> {
        let known =
            topics.iter().map(|id| node.topic_by_id(*id).ok_or_else(|| Error::UnknownTopic { topic: id.to_string() }));
        let topics = known.collect::<Result<Vec<_>>>()?;
        let partitions = topics
            .iter()
            .flat_map(|topic| (0..topic.partitions).map(|partition| TopicPartition { topic: topic.id, partition }));
        let from_of = |partition: &TopicPartition| from.get(partition).copied().unwrap_or(0);
        let wanted: Vec<_> = partitions.map(|partition| (partition, from_of(&partition))).collect();
        let cold = tier.cold();
        let shown = || topics.iter().map(|topic| cold.manifests.get(topic.id)).collect::<Vec<_>>();
        let is_same = |one: &Arc<TopicManifest>, other: &Arc<TopicManifest>| {
            (one.epoch, one.version) == (other.epoch, other.version)
        };
        let (ranges, manifests) = in_one_moment(
            || node.pin_hot(&wanted),
            shown,
            |before, after| before.iter().zip(after).all(|(one, other)| is_same(one, other)),
        )?;
        let names: HashMap<_, _> = topics.iter().map(|topic| (topic.id, topic.name.as_str())).collect();
        let manifests: HashMap<_, _> = topics.iter().map(|topic| topic.id).zip(manifests).collect();
        let pinned = ranges.into_iter().filter_map(|hot| {
            let partition = hot.partition;
            let (name, manifest) = (names.get(&partition.topic)?, manifests.get(&partition.topic)?);
            Some((partition, PinnedPartition::new(name, hot, Arc::clone(manifest), from_of(&partition))))
        });
        let partitions = pinned.collect();
        Ok(Self { partitions, limits: tier.batch_limits(), cold: Arc::clone(cold), topics, blocks: None })
    }

    /// The same, sharing decoded rows of the log with others.
    pub(crate) fn sharing(self, blocks: &Arc<Blocks>) -> Self {
        Self { blocks: Some(Arc::clone(blocks)), ..self }
    }

    /// What is pinned of a partition.
    pub(crate) fn range(&self, partition: TopicPartition) -> Option<PinnedRange> {
        self.partitions.get(&partition).map(|pinned| pinned.range)
    }

    /// Whether who has read a partition up to an offset learns from the rest what has become of every key. Compaction takes a
    /// tombstone away once the log has let go of it, and then nobody is told any more; `history_us` is what
    /// [`Pinned::noted_history_us`] said when it was read so far.
    pub(crate) fn tells_all(&self, partition: TopicPartition, offset: i64, history_us: i64) -> bool {
        let Some(pinned) = self.partitions.get(&partition) else { return true };
        let log_start = pinned.hot.watermarks.log_start_offset.max(pinned.manifest.start(partition.partition));
        offset <= log_start || offset >= pinned.hot.start || noted_us(&pinned.manifest) <= history_us
    }

    /// The commit time, us, until which something counted that a topic's manifest has lost since.
    pub(crate) fn noted_history_us(&self, id: TopicId) -> i64 {
        let pinned = self.partitions.get(&TopicPartition { topic: id, partition: 0 });
        pinned.map_or(i64::MIN, |pinned| noted_us(&pinned.manifest))
    }

    /// The topics pinned.
    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> {
        self.topics.clone()
    }

    /// Rows of one partition in offset order, each offset once.
    pub(crate) fn scan(self: &Arc<Self>, partition: TopicPartition, request: &ScanRequest) -> Result<RowStream> {
        let parts = self.whole(partition, request)?;
        Ok(self.read(parts, request, None)?.map_ok(|decoded| decoded.rows).boxed())
    }

    /// Rows of parts of this snapshot, in the order of the parts; of a part in offset order.
    pub(crate) fn read(
        self: &Arc<Self>,
        parts: Vec<ScanPart>,
        request: &ScanRequest,
        declared: Option<DeclaredScan>,
    ) -> Result<DecodedStream> {
        let Some(max_us) = request.committed_max_us else { return self.read_all(parts, request, declared) };
        let columns = past::with_commit_times(&request.columns);
        let rows = self.read_all(parts, &ScanRequest { columns, ..request.clone() }, declared)?;
        Ok(past::until(rows, &request.columns, max_us))
    }

    /// The same, whenever they were committed.
    fn read_all(
        self: &Arc<Self>,
        parts: Vec<ScanPart>,
        request: &ScanRequest,
        declared: Option<DeclaredScan>,
    ) -> Result<DecodedStream> {
        let asked = Arc::new(Asked::new(request, declared)?);
        // Whoever reads holds the snapshot to the end: the last objects are read when all entries have been.
        let (steps_of, held) = (Arc::clone(self), Arc::clone(self));
        let meter = Arc::clone(&asked.meter);
        let steps = stream::iter(parts).flat_map(move |part| steps_of.steps(part, &meter));
        let ahead = if asked.hasty { 1 } else { OPENS_MAX };
        let rows = steps.map(move |step| {
            let (held, asked) = (Arc::clone(&held), Arc::clone(&asked));
            async move {
                match step? {
                    Step::Object(read, wanted) => cold::open(&held.cold, &asked, read, wanted).await,
                    Step::Hot(partition, wanted) => held.read_hot(partition, &asked, wanted),
                    Step::Given(rows) => read_given(&rows, &asked),
                }
            }
        });
        Ok(rows.buffered(ahead).try_flatten().boxed())
    }

    /// What is read for a part, one thing after the other.
    fn steps(&self, part: ScanPart, meter: &Arc<ScanMeter>) -> BoxStream<'static, Result<Step>> {
        let partition = part.partition;
        match part.kind {
            Kind::Groups(read, wanted) => stream::iter([Ok(Step::Object(read, wanted))]).boxed(),
            Kind::Hot(wanted) => stream::iter([Ok(Step::Hot(partition, wanted))]).boxed(),
            Kind::Given(rows) => stream::iter([Ok(Step::Given(rows))]).boxed(),
            Kind::Cold(wanted) => {
                let Some(pinned) = self.partitions.get(&partition) else { return stream::empty().boxed() };
                let (number, meter) = (partition.partition, Arc::clone(meter));
                let entries = self.cold.entries_of(&pinned.manifest, number, wanted);
                let reads = entries.try_filter_map(move |entry| {
                    let lost = entry.lost_within(number, wanted.start, wanted.end).map(Lost::error);
                    let read = plan(&entry, number, &wanted);
                    meter.considered_groups(read.as_ref().map_or(0, |read| read.groups.len()), 0);
                    future::ready(lost.map_or_else(|| Ok(read.map(|read| Step::Object(read, wanted))), Err))
                });
                reads.boxed()
            }
        }
    }

    fn read_hot(&self, partition: TopicPartition, asked: &Arc<Asked>, wanted: Wanted) -> Result<DecodedStream> {
        let pinned = self.of(partition)?;
        if let Some(shared) = &self.blocks {
            let floor = pinned.seam.max(pinned.range.start).max(pinned.hot.start);
            let (blocks, hot) = (Arc::clone(shared), pinned.hot.clone());
            let source = blocks::Source { blocks, hot, floor, limits: self.limits };
            if let Some(rows) = blocks::rows(source, asked, wanted)? {
                return Ok(rows);
            }
        }
        hot::decoded(&pinned.hot, asked, wanted, self.limits)
    }

    /// What is pinned of a partition, and what of it a request wants below the seam and above.
    pub(super) fn cut(
        &self,
        partition: TopicPartition,
        request: &ScanRequest,
    ) -> Result<(&PinnedPartition, Wanted, Wanted)> {
        let pinned = self.of(partition)?;
        let wanted = Wanted {
            start: request.offset_start.max(pinned.range.start),
            end: request.offset_end.min(pinned.range.end),
            timestamp_min_ms: request.timestamp_min_ms,
            timestamp_max_ms: request.timestamp_max_ms,
            committed_min_us: None,
            committed_max_us: request.committed_max_us,
        };
        self.cut_at_seam(partition, wanted)
    }

    fn cut_at_seam(&self, partition: TopicPartition, wanted: Wanted) -> Result<(&PinnedPartition, Wanted, Wanted)> {
        let pinned = self.of(partition)?;
        let (below, above) = cut(wanted, pinned.seam);
        if below.start < below.end {
            self.cold.manifests.check_readable(partition.topic)?;
        }
        pinned.check_reach(partition, &below, &above)?;
        Ok((pinned, below, above))
    }

    /// The first offset of a partition that was committed after a time; its end if there is none.
    ///
    /// # Errors
    /// As [`Pinned::scan`].
    pub(crate) async fn position(self: &Arc<Self>, partition: TopicPartition, at_us: i64) -> Result<i64> {
        let PinnedRange { start, end } = self.of(partition)?.range;
        let wanted = Wanted { committed_min_us: Some(at_us.saturating_add(1)), ..Wanted::offsets(start, end) };
        let (_, below, above) = self.cut_at_seam(partition, wanted)?;
        let request = ScanRequest { batch_rows: POSITION_ROWS, ..ScanRequest::all(past::COLUMNS.to_vec()) };
        let rows = self.read_all(ScanPart::both(partition, below, above), &request, None)?;
        let rows = rows.map_ok(|decoded| decoded.rows).boxed();
        Ok(past::first_after(rows, at_us).await?.unwrap_or(end))
    }

    /// The commit time, us, from which on a topic can be shown as it was.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`] if it is not pinned, [`Error::Corrupt`] if its manifest cannot be read,
    /// [`Error::ObjectStore`].
    pub(crate) async fn history_start_us(&self, id: TopicId) -> Result<i64> {
        let topic = self.topics.iter().find(|topic| topic.id == id);
        let topic = topic.ok_or_else(|| Error::UnknownTopic { topic: id.to_string() })?;
        self.cold.manifests.check_readable(id)?;
        let mut since_us = topic.created_at_us;
        let (mut moved, mut known) = (Vec::new(), None);
        for partition in 0..topic.partitions {
            let pinned = self.of(TopicPartition { topic: id, partition })?;
            let to = pinned.hot.watermarks.log_start_offset;
            if to > pinned.manifest.start(partition) {
                moved.push(Moved { partition, to, hot: pinned.hot.clone() });
            }
            known = Some(&pinned.manifest);
        }
        let Some(manifest) = known else { return Ok(since_us) };
        since_us = since_us.max(noted_us(manifest));
        if moved.is_empty() {
            return Ok(since_us);
        }
        Ok(since_us.max(removed_until_us(&self.cold, manifest, moved, self.cold.now_us()).await?))
    }

    fn of(&self, partition: TopicPartition) -> Result<&PinnedPartition> {
        let not_pinned =
            || Error::UnknownPartition { topic: partition.topic.to_string(), partition: partition.partition };
        self.partitions.get(&partition).ok_or_else(not_pinned)
    }
}

/// One thing to read.
enum Step {
    Object(ObjectRead, Wanted),
    Hot(TopicPartition, Wanted),
    Given(RecordBatch),
}

fn read_given(rows: &RecordBatch, asked: &Arc<Asked>) -> Result<DecodedStream> {
    let mut raw = RawRows::new(asked)?;
    let columns: Vec<usize> = raw.columns().iter().map(|column| *column as usize).collect();
    let rows = rows.project(&columns).map_err(Error::format("view rows"))?;
    // Nobody knows yet which offsets these will have: what does not decode is left out, and noted when it is committed.
    let rows = raw.read(rows).map(|decoded| Decoded { errors: Vec::new(), ..decoded });
    Ok(stream::iter([rows]).boxed())
}

/// What of the wanted offsets lies below the seam, and what does not.
fn cut(wanted: Wanted, seam: i64) -> (Wanted, Wanted) {
    (Wanted { end: wanted.end.min(seam), ..wanted }, Wanted { start: wanted.start.max(seam), ..wanted })
}

impl PinnedPartition {
    fn new(topic_name: &str, hot: HotRange, manifest: Arc<TopicManifest>, from: i64) -> Self {
        // The manifest was pinned second: it may have been trimmed since.
        let log_start = hot.watermarks.log_start_offset.max(manifest.start(hot.partition.partition));
        let start = log_start.max(from).min(hot.end);
        Self {
            topic_name: topic_name.to_owned(),
            range: PinnedRange { start, end: hot.end },
            seam: hot.watermarks.tiered_end_offset,
            hot,
            manifest,
        }
    }

    /// The two sides reach the seam: an offset that neither has must be an error, never a missing row.
    fn check_reach(&self, partition: TopicPartition, below: &Wanted, above: &Wanted) -> Result<()> {
        let damaged = self.hot.damaged.iter().find(|range| range.end > above.start && range.start < above.end);
        if let Some(DamagedOffsets { start, end, place }) = damaged.filter(|_| above.start < above.end) {
            return Err(Error::Corrupt {
                place: place.clone(),
                reason: format!("offsets {start}..{end} of partition {} are damaged", partition.partition),
            });
        }
        let cold_end = self.manifest.tiered_end(partition.partition);
        let cold_misses = below.start < below.end && cold_end < below.end;
        let hot_misses = above.start < above.end && self.hot.start > above.start;
        if !cold_misses && !hot_misses {
            return Ok(());
        }
        Err(Error::Corrupt {
            place: format!("topic {} partition {}", self.topic_name, partition.partition),
            reason: format!(
                "objects reach to {cold_end}, the log begins at {}, so offsets from {} to {} are nowhere",
                self.hot.start,
                below.start.max(cold_end),
                above.start.max(self.hot.start)
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_seam_cuts_every_range_into_two_that_touch() {
        for (start, end, seam) in [(0, 10, 5), (0, 10, 0), (0, 10, 10), (0, 10, 20), (7, 10, 5), (0, 3, 5)] {
            let (below, above) = cut(Wanted::offsets(start, end), seam);
            let read: Vec<i64> = (below.start..below.end).chain(above.start..above.end).collect();
            assert_eq!(read, (start..end).collect::<Vec<_>>(), "{start}..{end} at {seam}");
        }
    }

    #[test]
    fn a_manifest_that_comes_while_the_log_is_pinned_is_pinned_with_the_log_as_it_is_then() {
        let (published, pins) = (Cell::new(7), Cell::new(0));
        let pin = |publishes: u32| {
            let (published, pins) = (&published, &pins);
            move || {
                pins.set(pins.get() + 1);
                if pins.get() <= publishes {
                    published.set(published.get() + 1);
                }
                Ok(pins.get())
            }
        };
        let same = |one: &u32, other: &u32| one == other;
        assert_eq!(in_one_moment(pin(0), || published.get(), same).unwrap(), (1, 7));
        assert_eq!(in_one_moment(pin(3), || published.get(), same).unwrap(), (4, 9));
        let ever = in_one_moment(pin(u32::MAX), || published.get(), same);
        assert!(matches!(ever, Err(Error::Conflict { .. })));
    }
}
