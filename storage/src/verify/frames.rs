//! What the frames of a log say one after another: sequences dense, commit times and epochs ascending, offsets of each
//! partition without gap and overlap. Pure.
//!
//! What was carried over is a copy: it has offsets below its partition's end, and takes part only in what is there.

use std::collections::HashMap;

use bytes::Bytes;

use crate::ids::TopicPartition;
use crate::log::frame::{DirectoryEntry, FrameHeader};
use crate::log::index::plausible;
use crate::record::batch::{BatchHeader, CheckedBatch};
use crate::verify::spans::Spans;

/// What the frames so far have said.
#[derive(Debug, Default)]
pub(super) struct FrameJudge {
    /// `None` where it cannot be known: at the beginning of the log, behind damage.
    pub(super) next_sequence: Option<u64>,
    /// Of the last frame, us.
    pub(super) last_commit_us: Option<i64>,
    epoch: u64,
    /// Ends of partitions, as far as they are known.
    pub(super) ends: HashMap<TopicPartition, i64>,
    /// What the log holds of each.
    pub(super) held: HashMap<TopicPartition, Spans>,
}

/// What is in an entry's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) batches: u64,
    pub(super) records: u64,
}

impl FrameJudge {
    /// Takes a header in; gives what is wrong with it.
    pub(super) fn header(&mut self, header: &FrameHeader) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(expected) = self.next_sequence.filter(|expected| *expected != header.sequence) {
            wrong.push(format!("sequence {} where {expected} follows", header.sequence));
        }
        if let Some(last) = self.last_commit_us.filter(|last| *last >= header.commit_time_us) {
            wrong.push(format!("commit time {} us is not after {last} us of the frame before", header.commit_time_us));
        }
        if header.writer_epoch < self.epoch {
            wrong.push(format!("writer epoch {} behind one of epoch {}", header.writer_epoch, self.epoch));
        }
        if header.durable_end > header.position {
            wrong.push(format!("it calls {} durable, which is behind it", header.durable_end));
        }
        self.next_sequence = Some(header.sequence.saturating_add(1));
        self.last_commit_us = Some(header.commit_time_us);
        self.epoch = self.epoch.max(header.writer_epoch);
        wrong
    }

    /// Takes an entry in; gives what is wrong with it.
    pub(super) fn entry(&mut self, header: &FrameHeader, entry: &DirectoryEntry) -> Option<String> {
        let DirectoryEntry { partition, base_offset, last_offset, carried, commit_time_us, .. } = *entry;
        if !plausible(base_offset, last_offset) {
            return Some(format!("offsets {base_offset} to {last_offset} are none"));
        }
        let known = self.ends.get(&partition).copied();
        self.held.entry(partition).or_default().add(base_offset, last_offset + 1);
        if carried {
            return match known.filter(|end| last_offset >= *end) {
                Some(end) => {
                    Some(format!("offsets up to {last_offset} are carried over where the partition ends at {end}"))
                }
                None if commit_time_us >= header.commit_time_us => Some("a copy is younger than its frame".to_owned()),
                None => None,
            };
        }
        self.ends.insert(partition, known.map_or(last_offset + 1, |end| end.max(last_offset + 1)));
        match known {
            Some(end) if base_offset > end => {
                // Told once: the seam need not tell it again.
                self.held.entry(partition).or_default().add(end, base_offset);
                Some(format!("offsets {end}..{base_offset} are missing before it"))
            }
            Some(end) if base_offset < end => {
                Some(format!("offsets from {base_offset} on overlap, the partition has them up to {end}"))
            }
            _ if commit_time_us != header.commit_time_us => {
                Some(format!("commit time {commit_time_us} us is not its frame's"))
            }
            _ => None,
        }
    }

    /// Something is damaged: what follows need not follow what came before.
    pub(super) fn damage(&mut self) {
        self.next_sequence = None;
    }
}

/// Checks the batches of an entry: checksums, and that they are what the directory says.
pub(super) fn check_batches(entry: &DirectoryEntry, bytes: &[u8]) -> Result<Counts, String> {
    let mut rest = bytes;
    let mut counts = Counts::default();
    let mut next_offset = entry.base_offset;
    let mut max_timestamp_ms = i64::MIN;
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest).map_err(|error| error.to_string())?;
        let Some((batch, behind)) = rest.split_at_checked(header.total_bytes()) else {
            return Err(format!("the batch at offset {next_offset} does not fit"));
        };
        CheckedBatch::parse_stored(Bytes::copy_from_slice(batch)).map_err(|error| error.to_string())?;
        if header.base_offset != next_offset {
            return Err(format!("a batch begins at offset {} where {next_offset} follows", header.base_offset));
        }
        next_offset = header.last_offset().saturating_add(1);
        max_timestamp_ms = max_timestamp_ms.max(header.max_timestamp_ms);
        counts.batches += 1;
        counts.records += u64::try_from(header.record_count).unwrap_or(0);
        rest = behind;
    }
    if next_offset != entry.last_offset + 1 || counts.batches != u64::from(entry.batches) {
        let (batches, last) = (entry.batches, entry.last_offset);
        let found = counts.batches;
        return Err(format!("{found} batches up to {next_offset} where {batches} up to {} are named", last + 1));
    }
    if max_timestamp_ms != entry.max_timestamp_ms {
        return Err(format!("largest timestamp {max_timestamp_ms} where {} is named", entry.max_timestamp_ms));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TopicId;

    fn header(sequence: u64, commit_time_us: i64) -> FrameHeader {
        FrameHeader {
            body_bytes: 0,
            directory_bytes: 0,
            writer_epoch: 1,
            sequence,
            commit_time_us,
            durable_end: 0,
            position: sequence * 64,
            body_crc: 0,
        }
    }

    fn entry(base_offset: i64, last_offset: i64, commit_time_us: i64, carried: bool) -> DirectoryEntry {
        DirectoryEntry {
            partition: TopicPartition { topic: TopicId::from_bytes([1; 16]), partition: 0 },
            batches: 1,
            base_offset,
            last_offset,
            max_timestamp_ms: 0,
            frame_offset: 128,
            bytes: 100,
            commit_time_us,
            carried,
        }
    }

    #[test]
    fn sequences_times_and_epochs_only_go_on() {
        let mut judge = FrameJudge::default();
        assert!(judge.header(&header(7, 100)).is_empty());
        assert!(judge.header(&header(8, 101)).is_empty());
        assert_eq!(judge.header(&header(10, 101)).len(), 2);
        let old = FrameHeader { writer_epoch: 0, durable_end: 1 << 20, ..header(11, 102) };
        assert_eq!(judge.header(&old).len(), 2);
        judge.damage();
        assert!(judge.header(&header(40, 103)).is_empty());
    }

    #[test]
    fn offsets_have_no_gap_and_no_overlap_and_copies_are_copies() {
        let mut judge = FrameJudge::default();
        let at = |time| header(0, time);
        assert_eq!(judge.entry(&at(1), &entry(0, 9, 1, false)), None);
        assert_eq!(judge.entry(&at(2), &entry(10, 19, 2, false)), None);
        assert_eq!(judge.entry(&at(3), &entry(0, 9, 1, true)), None);
        for (wrong, words) in [
            (entry(15, 24, 4, false), "overlap"),
            (entry(30, 39, 4, false), "offsets 25..30 are missing"),
            (entry(40, 49, 3, false), "not its frame's"),
            (entry(60, 69, 1, true), "carried over"),
            (entry(0, 9, 4, true), "younger"),
            (entry(9, 0, 4, false), "are none"),
        ] {
            let said = judge.entry(&at(4), &wrong).unwrap_or_default();
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}
