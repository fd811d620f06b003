//! The index: where in the log the offsets of one partition lie.
//!
//! A [`Run`] is what one read takes: contiguous batches of one frame or, coalesced, of small frames that lie within
//! [`RUN_BYTES`] of each other. A [`Stretch`] is the runs of one partition in one segment, without a gap. The runs of the
//! open segment are in memory; those of a sealed one are in its footer, and read when they are wanted (`footer`). So
//! memory costs one stretch per partition and segment, however small the commits were.
//!
//! Stretches of a partition ascend by offset and never overlap. Their positions need not ascend: what was carried over
//! lies behind what it precedes. A copy takes the place of what it is a copy of.

use serde::{Deserialize, Serialize};

use crate::log::frame::{DirectoryEntry, FrameHeader, RUN_BYTES};

/// Runs at the end of the open segment that stay as they are: who reads at the tail reads no more than is new.
const EXACT_RUNS: usize = 64;
/// What a frame costs in the log beside the batches of one run, about: header, entry, padding.
const FRAME_OVERHEAD_BYTES: u64 = 192;

/// Contiguous batches of one partition, read in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) max_timestamp_ms: i64,
    /// Of the first batch, us.
    pub(crate) commit_time_us: i64,
    /// The newest of all batches, us.
    pub(crate) last_commit_us: i64,
    /// Of the first batch, in the log.
    pub(crate) position: u64,
    /// Of all its batches.
    pub(crate) bytes: u32,
    /// How many frames it spans. In one frame the batches lie side by side.
    pub(crate) frames: u32,
    /// Position of the first frame.
    pub(crate) frame: u64,
    /// From there to the end of the last frame.
    pub(crate) frame_bytes: u32,
}

impl Run {
    /// An entry of the directory of a frame.
    pub(crate) fn of_entry(entry: &DirectoryEntry, header: &FrameHeader) -> Self {
        Self {
            base_offset: entry.base_offset,
            last_offset: entry.last_offset,
            max_timestamp_ms: entry.max_timestamp_ms,
            commit_time_us: entry.commit_time_us,
            last_commit_us: entry.commit_time_us,
            position: header.position + entry.frame_offset,
            bytes: entry.bytes,
            frames: 1,
            frame: header.position,
            frame_bytes: u32::try_from(header.frame_bytes()).unwrap_or(u32::MAX),
        }
    }

    /// Position after what is read for it.
    pub(crate) fn read_end(&self) -> u64 {
        if self.frames > 1 { self.frame + u64::from(self.frame_bytes) } else { self.position + u64::from(self.bytes) }
    }

    /// Position of what is read for it.
    pub(crate) fn read_start(&self) -> u64 {
        if self.frames > 1 { self.frame } else { self.position }
    }

    /// Takes the next run of the same segment in, if they lie close together.
    pub(crate) fn join(&mut self, next: &Self) -> bool {
        let joined = self.joined(next);
        *self = joined.unwrap_or(*self);
        joined.is_some()
    }

    /// This run and the next one of the same segment as one, if they lie close together.
    fn joined(&self, next: &Self) -> Option<Self> {
        let end = next.frame + u64::from(next.frame_bytes);
        let follows =
            next.base_offset == self.last_offset + 1 && next.frame >= self.frame + u64::from(self.frame_bytes);
        if !follows || end - self.frame > RUN_BYTES as u64 {
            return None;
        }
        Some(Self {
            last_offset: next.last_offset,
            max_timestamp_ms: self.max_timestamp_ms.max(next.max_timestamp_ms),
            last_commit_us: self.last_commit_us.max(next.last_commit_us),
            bytes: self.bytes + next.bytes,
            frames: self.frames + next.frames,
            frame_bytes: u32::try_from(end - self.frame).ok()?,
            ..*self
        })
    }
}

/// Whether offsets read from a file can be a range of offsets.
pub(crate) fn plausible(base_offset: i64, last_offset: i64) -> bool {
    (0..=last_offset).contains(&base_offset) && last_offset < i64::MAX
}

/// Where in a segment's footer the runs of a stretch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FooterPart {
    /// From the first byte behind the frames.
    pub(crate) at: u64,
    pub(crate) bytes: u32,
    /// CRC-32C of these bytes.
    pub(crate) crc: u32,
}

/// Where the runs of a stretch are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Here, by offset.
    Memory(Vec<Run>),
    /// In the segment's footer.
    Footer(FooterPart),
}

/// The runs of one partition in one segment, without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// What it covers. Its runs may reach beyond on both sides: what lies there is not meant.
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) max_timestamp_ms: i64,
    /// Commit times of the oldest and the newest run, us.
    pub(crate) first_commit_us: i64,
    pub(crate) last_commit_us: i64,
    /// Of its batches.
    pub(crate) bytes: u64,
    /// In how many frames they lie.
    pub(crate) frames: u64,
    /// Where the segment begins.
    pub(crate) segment: u64,
    pub(crate) held: Held,
}

impl Stretch {
    fn of(run: Run, segment: u64) -> Self {
        Self {
            base_offset: run.base_offset,
            last_offset: run.last_offset,
            max_timestamp_ms: run.max_timestamp_ms,
            first_commit_us: run.commit_time_us,
            last_commit_us: run.last_commit_us,
            bytes: u64::from(run.bytes),
            frames: u64::from(run.frames),
            segment,
            held: Held::Memory(vec![run]),
        }
    }

    /// Takes a run in at the end, if it belongs there.
    fn extend(&mut self, run: Run, segment: u64) -> bool {
        let Held::Memory(runs) = &mut self.held else { return false };
        if self.segment != segment || self.last_offset + 1 != run.base_offset {
            return false;
        }
        runs.push(run);
        if runs.len() >= 2 * EXACT_RUNS && runs.len().is_multiple_of(EXACT_RUNS) {
            let behind = runs.len() - EXACT_RUNS;
            coalesce(runs, behind.saturating_sub(EXACT_RUNS + 1), behind);
        }
        self.last_offset = run.last_offset;
        self.max_timestamp_ms = self.max_timestamp_ms.max(run.max_timestamp_ms);
        self.first_commit_us = self.first_commit_us.min(run.commit_time_us);
        self.last_commit_us = self.last_commit_us.max(run.last_commit_us);
        self.bytes += u64::from(run.bytes);
        self.frames += u64::from(run.frames);
        true
    }

    /// What of it lies in `start..end`.
    fn clipped(&self, start: i64, end: i64) -> Option<Self> {
        let (base_offset, last_offset) = (self.base_offset.max(start), self.last_offset.min(end.saturating_sub(1)));
        if base_offset > last_offset {
            return None;
        }
        let held = match &self.held {
            Held::Memory(runs) => {
                let meant = runs.iter().filter(|run| run.last_offset >= base_offset && run.base_offset <= last_offset);
                Held::Memory(meant.copied().collect())
            }
            stored @ Held::Footer(_) => stored.clone(),
        };
        let bytes = self.bytes_within(base_offset, last_offset);
        Some(Self { base_offset, last_offset, bytes, ..self.with(held) })
    }

    /// Itself, with the runs from an offset on that make up so many bytes, for who reads.
    pub(crate) fn piece(&self, from: i64, bytes_max: u64) -> Self {
        let Held::Memory(runs) = &self.held else { return self.clone() };
        let first = runs.partition_point(|run| run.last_offset < from);
        let mut bytes = 0;
        let fits = |run: &&Run| {
            let more = bytes == 0 || bytes < bytes_max;
            bytes += u64::from(run.bytes);
            more
        };
        self.with(Held::Memory(runs[first..].iter().take_while(fits).copied().collect()))
    }

    fn with(&self, held: Held) -> Self {
        Self {
            base_offset: self.base_offset,
            last_offset: self.last_offset,
            max_timestamp_ms: self.max_timestamp_ms,
            first_commit_us: self.first_commit_us,
            last_commit_us: self.last_commit_us,
            bytes: self.bytes,
            frames: self.frames,
            segment: self.segment,
            held,
        }
    }

    /// When what it holds from an offset on began to be committed, us; about, if its runs are in the footer.
    pub(crate) fn commit_time_us(&self, from: i64) -> i64 {
        match &self.held {
            Held::Memory(runs) => {
                let first = runs.partition_point(|run| run.last_offset < from);
                runs.get(first).map_or(self.first_commit_us, |run| run.commit_time_us)
            }
            Held::Footer(_) => self.first_commit_us,
        }
    }

    /// Bytes of the batches that hold these offsets; about, if its runs are in the footer.
    pub(crate) fn bytes_within(&self, first: i64, last: i64) -> u64 {
        if first <= self.base_offset && last >= self.last_offset {
            return self.bytes;
        }
        match &self.held {
            Held::Memory(runs) => {
                let touched = runs.iter().filter(|run| run.last_offset >= first && run.base_offset <= last);
                touched.map(|run| u64::from(run.bytes)).sum()
            }
            Held::Footer(_) => {
                let wanted = last.min(self.last_offset) - first.max(self.base_offset) + 1;
                let all = self.last_offset - self.base_offset + 1;
                let share = u128::from(self.bytes) * u128::from(wanted.max(0).unsigned_abs());
                u64::try_from(share / u128::from(all.max(1).unsigned_abs())).unwrap_or(self.bytes)
            }
        }
    }

    /// About what it takes of the log, at the most.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.bytes + self.frames * FRAME_OVERHEAD_BYTES
    }
}

/// Joins what lies close together among the runs from one place to another.
fn coalesce(runs: &mut Vec<Run>, from: usize, to: usize) {
    let mut joined: Vec<Run> = Vec::with_capacity(to - from);
    for run in &runs[from..to] {
        match joined.last_mut() {
            Some(last) => match last.joined(run) {
                Some(both) => *last = both,
                None => joined.push(*run),
            },
            None => joined.push(*run),
        }
    }
    runs.splice(from..to, joined);
}

/// All stretches of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs(Vec<Stretch>);

impl Runs {
    /// Takes a run of a segment in: behind all others, or in place of those it is a copy of.
    pub(crate) fn put(&mut self, run: Run, segment: u64) {
        let at = self.make_room(run.base_offset, run.last_offset);
        let extended = at > 0 && self.0[at - 1].extend(run, segment);
        if !extended {
            self.0.insert(at, Stretch::of(run, segment));
        }
    }

    /// Takes a whole stretch in, as [`Runs::put`].
    pub(crate) fn put_stretch(&mut self, stretch: Stretch) {
        let at = self.make_room(stretch.base_offset, stretch.last_offset);
        self.0.insert(at, stretch);
    }

    /// Takes these offsets out; says where they were.
    pub(crate) fn make_room(&mut self, first: i64, last: i64) -> usize {
        if self.0.last().is_none_or(|end| end.last_offset < first) {
            return self.0.len();
        }
        let from = self.0.partition_point(|stretch| stretch.last_offset < first);
        let touched = self.0[from..].iter().take_while(|stretch| stretch.base_offset <= last).count();
        let left = self.0[from..from + touched].first().and_then(|stretch| stretch.clipped(i64::MIN, first));
        let right = self.0[from..from + touched].last().and_then(|stretch| stretch.clipped(last + 1, i64::MAX));
        let at = from + usize::from(left.is_some());
        self.0.splice(from..from + touched, left.into_iter().chain(right));
        at
    }

    /// The first offset it holds.
    pub(crate) fn first_offset(&self) -> Option<i64> {
        self.0.first().map(|stretch| stretch.base_offset)
    }

    /// Whether it holds this offset.
    pub(crate) fn holds(&self, offset: i64) -> bool {
        self.starting_at(offset).next().is_some_and(|stretch| stretch.base_offset <= offset)
    }

    /// All stretches, by offset.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Stretch> {
        self.0.iter()
    }

    /// The stretches that hold `offset` and what follows.
    pub(crate) fn starting_at(&self, offset: i64) -> std::slice::Iter<'_, Stretch> {
        let first = self.0.partition_point(|stretch| stretch.last_offset < offset);
        self.0[first..].iter()
    }

    /// Drops all that lies in a segment, and what has lower offsets: that is not needed either, or it would have been
    /// carried over with what lay behind it.
    pub(crate) fn forget_segment(&mut self, segment: u64) {
        if let Some(last) = self.0.iter().rposition(|stretch| stretch.segment == segment) {
            self.0.drain(..=last);
        }
    }

    /// Drops what lies below a gap that ends at or before an offset; behind `end` there is nothing. Who forgets a segment
    /// forgets copies of lower offsets in later ones too, but those are on the disk still, and found when the log is read
    /// again: what was aborted of them is not known any more.
    pub(crate) fn forget_below_gaps(&mut self, offset: i64, end: i64) {
        let next = self.0.iter().skip(1).map(|stretch| stretch.base_offset).chain([end]);
        let gaps = self.0.iter().zip(next).map(|(stretch, next)| stretch.last_offset + 1 < next && next <= offset);
        let last = gaps.enumerate().filter_map(|(at, is_gap)| is_gap.then_some(at)).last();
        if let Some(last) = last {
            self.0.drain(..=last);
        }
    }

    /// Drops the stretches that lie whole below an offset.
    pub(crate) fn forget_below(&mut self, offset: i64) {
        let count = self.0.partition_point(|stretch| stretch.last_offset < offset);
        self.0.drain(..count);
    }

    /// A segment is sealed: its runs are in its footer now, and need not be here.
    pub(crate) fn let_go(&mut self, sealed: &[Stretch]) {
        for mine in &mut self.0 {
            let of_mine = |stored: &&Stretch| {
                stored.segment == mine.segment
                    && stored.base_offset <= mine.base_offset
                    && stored.last_offset >= mine.last_offset
            };
            if let Some(stored) = sealed.iter().find(of_mine) {
                mine.held = stored.held.clone();
            }
        }
    }

    /// The stretches with all runs coalesced, for a footer.
    pub(crate) fn coalesced(&self) -> Vec<Stretch> {
        let mut stretches = self.0.clone();
        for stretch in &mut stretches {
            if let Held::Memory(runs) = &mut stretch.held {
                let count = runs.len();
                coalesce(runs, 0, count);
            }
        }
        stretches
    }
}

/// Offsets that are damaged: they were committed and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DamagedOffsets {
    pub(crate) start: i64,
    /// Exclusive.
    pub(crate) end: i64,
    /// File and range.
    pub(crate) place: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(base_offset: i64, last_offset: i64, position: u64) -> Run {
        Run {
            base_offset,
            last_offset,
            max_timestamp_ms: 0,
            commit_time_us: 0,
            last_commit_us: 0,
            position: position + 128,
            bytes: 100,
            frames: 1,
            frame: position,
            frame_bytes: 256,
        }
    }

    fn bases(runs: &Runs, offset: i64) -> Vec<(i64, i64, u64)> {
        runs.starting_at(offset).map(|stretch| (stretch.base_offset, stretch.last_offset, stretch.segment)).collect()
    }

    #[test]
    fn a_lookup_finds_the_stretch_that_holds_the_offset_and_those_after_it() {
        let mut runs = Runs::default();
        for (base, last, at, segment) in [(0, 9, 0, 0), (10, 10, 256, 0), (11, 30, 1024, 1024), (40, 41, 2048, 1024)] {
            runs.put(run(base, last, at), segment);
        }
        assert_eq!(bases(&runs, 0), [(0, 10, 0), (11, 30, 1024), (40, 41, 1024)]);
        assert_eq!(bases(&runs, 30), [(11, 30, 1024), (40, 41, 1024)]);
        assert!(bases(&runs, 42).is_empty() && !runs.holds(31) && runs.holds(40));
        runs.forget_segment(0);
        assert_eq!(runs.first_offset(), Some(11));
    }

    #[test]
    fn what_lies_below_a_gap_that_objects_fill_is_forgotten() {
        let mut runs = Runs::default();
        for (base, last, at, segment) in [(0, 9, 0, 0), (15, 20, 256, 0), (21, 30, 1024, 1024), (40, 41, 2048, 1024)] {
            runs.put(run(base, last, at), segment);
        }
        let left = |offset, end| {
            let mut runs = runs.clone();
            runs.forget_below_gaps(offset, end);
            runs.first_offset()
        };
        assert_eq!((left(14, 42), left(15, 42), left(39, 42)), (Some(0), Some(15), Some(15)));
        assert_eq!((left(40, 42), left(60, 42), left(60, 61), left(60, 60)), (Some(40), Some(40), Some(40), None));
    }

    #[test]
    fn a_copy_takes_the_place_of_what_it_is_a_copy_of() {
        let mut runs = Runs::default();
        for (base, last, at) in [(0, 9, 0), (10, 19, 256), (20, 29, 512)] {
            runs.put(run(base, last, at), 0);
        }
        runs.put(run(30, 39, 4096), 4096);
        runs.put(run(10, 19, 4352), 4096);
        assert_eq!(bases(&runs, 0), [(0, 9, 0), (10, 19, 4096), (20, 29, 0), (30, 39, 4096)]);
        runs.put(run(20, 29, 4608), 4096);
        assert_eq!(bases(&runs, 0), [(0, 9, 0), (10, 29, 4096), (30, 39, 4096)]);
        runs.forget_segment(0);
        assert_eq!(bases(&runs, 0), [(10, 29, 4096), (30, 39, 4096)]);
    }

    #[test]
    fn small_commits_next_to_each_other_cost_one_entry_per_64_kib() {
        let mut runs = Runs::default();
        let count = 10_000;
        for number in 0..count {
            runs.put(run(number, number, number as u64 * 256), 0);
        }
        let Held::Memory(held) = &runs.iter().next().unwrap().held else { panic!("in memory") };
        // 64 KiB are 256 frames of 256 bytes.
        assert!(held.len() < 10_000 / 256 + 3 * EXACT_RUNS, "{} runs", held.len());
        let stretches = runs.coalesced();
        let Held::Memory(held) = &stretches[0].held else { panic!("in memory") };
        assert!(held.len() <= 10_000 / 256 + 2, "{} runs", held.len());
        assert!(held.iter().all(|run| run.frame_bytes as usize <= RUN_BYTES && run.bytes == run.frames * 100));
        let ends: Vec<_> = held.windows(2).map(|pair| (pair[0].last_offset + 1, pair[1].base_offset)).collect();
        assert!(ends.iter().all(|(end, next)| end == next), "{ends:?}");
    }

    proptest! {
        #[test]
        fn every_offset_is_where_it_was_put_last(
            puts in proptest::collection::vec((0_i64..60, 1_i64..8, 0_u64..4), 1..60),
            queried in 0_i64..70,
        ) {
            let mut runs = Runs::default();
            let mut model = std::collections::BTreeMap::new();
            for (number, (base, length, segment)) in puts.into_iter().enumerate() {
                runs.put(run(base, base + length - 1, number as u64 * 512), segment);
                for offset in base..base + length {
                    model.insert(offset, segment);
                }
            }
            let mut end = i64::MIN;
            for stretch in runs.iter() {
                prop_assert!(stretch.base_offset > end || end == i64::MIN);
                end = stretch.last_offset;
            }
            let found = runs.starting_at(queried).next().filter(|stretch| stretch.base_offset <= queried);
            prop_assert_eq!(found.map(|stretch| stretch.segment), model.get(&queried).copied());
        }
    }
}
