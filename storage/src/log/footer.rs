//! The footer of a sealed segment: which stretches it holds and, read only when they are wanted, their runs.
//!
//! Behind the last frame stand the runs, stretch by stretch, each with a checksum in the directory that follows. So
//! start-up reads directories alone, and a reader the runs of the one stretch it needs; those are kept in a cache of
//! bounded size. If the runs of a stretch are damaged they are told from the frames again.

use std::cmp::Reverse;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::envelope::Kind;
use crate::error::Result;
use crate::ids::TopicPartition;
use crate::log::frame::DirectoryEntry;
use crate::log::frames::walk;
use crate::log::index::{FooterPart, Held, Run, Runs, Stretch, plausible};
use crate::log::segment::Segment;
use crate::object::cache::Cache;
use crate::view::CacheInfo;

pub(crate) const FOOTER: Kind = Kind { magic: *b"AQFOOTER", version: 1, name: "segment footer" };

/// What a sealed segment says of its frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Footer {
    /// Position after the last frame.
    pub(crate) end: u64,
    /// Sequence of the frame after the last one.
    pub(crate) next_sequence: u64,
    /// Commit times of the first and last frame, us.
    pub(crate) commit_times_us: Option<(i64, i64)>,
    /// Bytes of runs between the last frame and this.
    pub(crate) runs_bytes: u64,
    pub(crate) stretches: Vec<StoredStretch>,
}

/// A stretch without its runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredStretch {
    partition: TopicPartition,
    base_offset: i64,
    last_offset: i64,
    max_timestamp_ms: i64,
    first_commit_us: i64,
    last_commit_us: i64,
    bytes: u64,
    frames: u64,
    part: FooterPart,
}

impl Footer {
    /// Whether its numbers can be those of a segment that begins at `base`.
    pub(crate) fn is_plausible(&self, base: u64) -> bool {
        let frames_bytes = self.end.saturating_sub(base);
        let fits = |stretch: &StoredStretch| {
            plausible(stretch.base_offset, stretch.last_offset)
                && stretch.bytes <= frames_bytes
                && stretch.frames <= frames_bytes
                && stretch.part.at.checked_add(u64::from(stretch.part.bytes)).is_some_and(|end| end <= self.runs_bytes)
        };
        self.end >= base && self.stretches.iter().all(fits)
    }
}

impl StoredStretch {
    /// As the index has it.
    pub(crate) fn stretch(&self, segment: u64) -> (TopicPartition, Stretch) {
        let stretch = Stretch {
            base_offset: self.base_offset,
            last_offset: self.last_offset,
            max_timestamp_ms: self.max_timestamp_ms,
            first_commit_us: self.first_commit_us,
            last_commit_us: self.last_commit_us,
            bytes: self.bytes,
            frames: self.frames,
            segment,
            held: Held::Footer(self.part),
        };
        (self.partition, stretch)
    }
}

/// The bytes of all runs, and the stretches they belong to.
pub(crate) fn encode(indexed: &[(TopicPartition, &Runs)]) -> (Vec<u8>, Vec<StoredStretch>) {
    let mut blob = Vec::new();
    let mut stretches = Vec::new();
    for (partition, runs) in indexed {
        for stretch in runs.coalesced() {
            let Held::Memory(runs) = &stretch.held else { continue };
            let at = blob.len();
            encode_runs(runs, &mut blob);
            let encoded = &blob[at..];
            let part = FooterPart {
                at: at as u64,
                bytes: u32::try_from(encoded.len()).unwrap_or(u32::MAX),
                crc: crc_fast::crc32_iscsi(encoded),
            };
            stretches.push(StoredStretch {
                partition: *partition,
                base_offset: stretch.base_offset,
                last_offset: stretch.last_offset,
                max_timestamp_ms: stretch.max_timestamp_ms,
                first_commit_us: stretch.first_commit_us,
                last_commit_us: stretch.last_commit_us,
                bytes: stretch.bytes,
                frames: stretch.frames,
                part,
            });
        }
    }
    (blob, stretches)
}

/// The numbers of a run, in the order in which they are stored.
fn numbers(run: &Run) -> [i64; 10] {
    let (position, frame) = (run.position.cast_signed(), run.frame.cast_signed());
    let small = [run.bytes, run.frames, run.frame_bytes].map(i64::from);
    [
        run.base_offset,
        run.last_offset - run.base_offset,
        run.max_timestamp_ms,
        run.commit_time_us,
        run.last_commit_us - run.commit_time_us,
        frame,
        position - frame,
        small[0],
        small[1],
        small[2],
    ]
}

/// Each number as its difference to the run before, seven bits a byte.
fn encode_runs(runs: &[Run], out: &mut Vec<u8>) {
    let mut before = [0_i64; 10];
    for run in runs {
        let now = numbers(run);
        for (now, before) in now.iter().zip(before) {
            let difference = now.wrapping_sub(before);
            let mut rest = ((difference << 1) ^ (difference >> 63)).cast_unsigned();
            while rest >= 0x80 {
                out.push((rest & 0x7f) as u8 | 0x80);
                rest >>= 7;
            }
            out.push(rest as u8);
        }
        before = now;
    }
}

/// The reverse of [`encode_runs`]; `None` for bytes that are none.
pub(crate) fn decode_runs(bytes: &[u8]) -> Option<Vec<Run>> {
    let mut runs = Vec::new();
    let mut before = [0_i64; 10];
    let mut input = bytes.iter();
    while !input.as_slice().is_empty() {
        for number in &mut before {
            let mut value = 0_u64;
            for shift in (0..64).step_by(7) {
                let byte = *input.next()?;
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            let difference = (value >> 1).cast_signed() ^ -(value & 1).cast_signed();
            *number = number.wrapping_add(difference);
        }
        let [base_offset, length, max_timestamp_ms, commit_time_us, lasted_us, rest @ ..] = before;
        let [frame, offset, bytes, frames, frame_bytes] = rest;
        runs.push(Run {
            base_offset,
            last_offset: base_offset.checked_add(length)?,
            max_timestamp_ms,
            commit_time_us,
            last_commit_us: commit_time_us.checked_add(lasted_us)?,
            position: frame.checked_add(offset)?.cast_unsigned(),
            bytes: u32::try_from(bytes).ok()?,
            frames: u32::try_from(frames).ok()?,
            frame: frame.cast_unsigned(),
            frame_bytes: u32::try_from(frame_bytes).ok()?,
        });
    }
    Some(runs)
}

/// Runs read from footers lately, by segment and place in its footer.
#[derive(Debug)]
pub(crate) struct FooterRuns(Cache<(u64, u64), Arc<Vec<Run>>>);

impl Default for FooterRuns {
    fn default() -> Self {
        Self::new(1 << 20)
    }
}

impl FooterRuns {
    /// Keeps at most so many bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self(Cache::new(usize::try_from(bytes_max).unwrap_or(usize::MAX)))
    }

    /// Whether the runs of a stretch were read lately.
    pub(crate) fn is_at_hand(&self, segment: &Segment, part: FooterPart) -> bool {
        self.0.holds(&(segment.base, part.at))
    }

    /// How the cache does.
    pub(crate) fn info(&self) -> CacheInfo {
        self.0.info("log_footers")
    }

    /// The runs of the stretch that has this part of the footer, maybe with others. Blocks on the file if they are not at
    /// hand. Of a damaged footer they need not be all: what is missing between them is damaged.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub(crate) fn read(&self, segment: &Segment, partition: TopicPartition, part: FooterPart) -> Result<Arc<Vec<Run>>> {
        if let Some(runs) = self.0.get(&(segment.base, part.at)) {
            return Ok(runs);
        }
        let end = segment.extent().end;
        let bytes = segment.read_up_to(end + part.at, part.bytes as usize)?;
        let whole = bytes.len() == part.bytes as usize && crc_fast::crc32_iscsi(&bytes) == part.crc;
        let runs = match decode_runs(&bytes).filter(|_| whole) {
            Some(runs) => runs,
            None => {
                let place = segment.place(end + part.at, u64::from(part.bytes));
                tracing::error!(place, "part of a segment's footer is damaged; its frames are walked instead");
                runs_of_frames(segment, partition)?
            }
        };
        let runs = Arc::new(runs);
        self.0.insert((segment.base, part.at), Arc::clone(&runs), runs.len() * size_of::<Run>());
        Ok(runs)
    }
}

/// All runs of a partition in a segment, told from the frames: whatever piece of a stretch is asked for is among them, and
/// who asks sees what is not. They ascend; a frame that is damaged itself counts only where no whole one does.
fn runs_of_frames(segment: &Segment, partition: TopicPartition) -> Result<Vec<Run>> {
    let (mut whole, mut doubtful): (Vec<Run>, Vec<Run>) = Default::default();
    walk(segment, segment.extent().end, true, |frame| {
        let meant =
            |entry: &&DirectoryEntry| entry.partition == partition && plausible(entry.base_offset, entry.last_offset);
        for entry in frame.entries.iter().filter(meant) {
            let run = Run::of_entry(entry, &frame.header);
            if !frame.directory_whole {
                doubtful.push(run);
            } else if !whole.last_mut().is_some_and(|last| last.join(&run)) {
                whole.push(run);
            }
        }
        Ok(())
    })?;
    whole.sort_by_key(|run| (run.base_offset, Reverse(run.last_offset)));
    let mut end = -1;
    whole.retain(|run| {
        let more = run.last_offset > end;
        end = end.max(run.last_offset);
        more
    });
    for run in doubtful {
        let at = whole.partition_point(|other| other.last_offset < run.base_offset);
        if whole.get(at).is_none_or(|next| next.base_offset > run.last_offset) {
            whole.insert(at, run);
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs() -> impl Strategy<Value = Vec<Run>> {
        let one = (any::<i32>(), 0_i64..1000, any::<i64>(), any::<i32>(), 0_u64..1 << 60, any::<u16>(), any::<u32>());
        proptest::collection::vec(one, 0..40).prop_map(|all| {
            let run = |(base, length, max_timestamp_ms, commit_time_us, frame, offset, bytes)| Run {
                base_offset: i64::from(base),
                last_offset: i64::from(base) + length,
                max_timestamp_ms,
                commit_time_us: i64::from(commit_time_us),
                last_commit_us: i64::from(commit_time_us) + length,
                position: frame + u64::from(offset),
                bytes,
                frames: u32::from(offset),
                frame,
                frame_bytes: bytes,
            };
            all.into_iter().map(run).collect()
        })
    }

    proptest! {
        #[test]
        fn runs_come_back_as_they_went_in(runs in runs()) {
            let mut bytes = Vec::new();
            encode_runs(&runs, &mut bytes);
            prop_assert_eq!(decode_runs(&bytes), Some(runs));
        }

        #[test]
        fn bytes_that_are_no_runs_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_runs(&bytes);
        }
    }

    #[test]
    fn a_run_in_a_footer_takes_little() {
        let run = |number: i64| Run {
            base_offset: number * 10,
            last_offset: number * 10 + 9,
            max_timestamp_ms: 1_700_000_000_000 + number,
            commit_time_us: 1_700_000_000_000_000 + number * 1000,
            last_commit_us: 1_700_000_000_000_000 + number * 1000,
            position: number.unsigned_abs() * 5000 + 128,
            bytes: 300,
            frames: 1,
            frame: number.unsigned_abs() * 5000,
            frame_bytes: 5000,
        };
        let mut bytes = Vec::new();
        encode_runs(&(0..1000).map(run).collect::<Vec<_>>(), &mut bytes);
        assert!(bytes.len() < 1000 * 16, "{} bytes for 1000 runs", bytes.len());
    }
}
