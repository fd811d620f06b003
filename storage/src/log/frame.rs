//! Frames: one atomic, checksummed piece of the log, and its way to bytes and back. Pure.
//!
//! A frame begins at a multiple of 64 and is padded with zeros to one. All numbers are little-endian.
//!
//! | header bytes | what |
//! |---|---|
//! | 0..4 | magic `AQFR` |
//! | 4..6 | format version |
//! | 6..8 | zero |
//! | 8..12 | bytes of the body: directory and payload |
//! | 12..16 | bytes of the directory |
//! | 16..24 | writer epoch |
//! | 24..32 | sequence: dense over the whole log |
//! | 32..40 | commit time, us: strictly increasing over the whole log |
//! | 40..48 | `durable_end`: everything below this position was synced when the frame was written |
//! | 48..56 | position of the frame itself, so that bytes from elsewhere never pass for it |
//! | 56..60 | CRC-32C of the body |
//! | 60..64 | CRC-32C of bytes 0..60 |
//!
//! The directory has one entry of 64 bytes per *run*: topic id (16), partition (4), batches (4), base offset (8), last
//! offset (8), largest timestamp (8), offset in the payload (4), bytes (4), commit time (8). A run is contiguous batches
//! of one partition; a new one begins after [`RUN_BYTES`], so that a reader in the middle of a large frame reads little.
//! The highest bit of the number of batches says that the run was *carried over*: a copy of one that lay in a segment
//! about to be removed, with its offsets and its commit time. Any other run has the frame's commit time.
//! The payload is the batches, verbatim but for base offset and leader epoch, which stand outside their checksum.

use std::io::IoSlice;

use crate::envelope::{u32_at, u64_at};
use crate::ids::{TopicId, TopicPartition};
use crate::record::batch::{BatchHeader, CheckedBatch};

/// Frames begin at multiples of this.
pub(crate) const FRAME_ALIGN: u64 = 64;
/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER_BYTES: usize = 64;
/// The version this program writes.
pub(crate) const FRAME_VERSION: u16 = 1;
/// A run that has reached this many bytes is followed by a new one.
pub(crate) const RUN_BYTES: usize = 64 << 10;

/// The first bytes of every frame.
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"AQFR";
/// Bytes of an entry of the directory.
pub(crate) const ENTRY_BYTES: usize = 64;
/// In an entry's number of batches: the run was carried over.
const CARRIED_BIT: u32 = 1 << 31;
/// Base offset, length and leader epoch: what of a batch is patched.
const PREFIX_BYTES: usize = 16;

/// A frame's header as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) body_bytes: u32,
    pub(crate) directory_bytes: u32,
    pub(crate) writer_epoch: u64,
    pub(crate) sequence: u64,
    pub(crate) commit_time_us: i64,
    pub(crate) durable_end: u64,
    pub(crate) position: u64,
    pub(crate) body_crc: u32,
}

impl FrameHeader {
    /// Bytes of the whole frame with its padding.
    pub(crate) fn frame_bytes(&self) -> u64 {
        (FRAME_HEADER_BYTES as u64 + u64::from(self.body_bytes)).next_multiple_of(FRAME_ALIGN)
    }

    fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        bytes[4..6].copy_from_slice(&FRAME_VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.directory_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.writer_epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.commit_time_us.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.durable_end.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.position.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc_fast::crc32_iscsi(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header expected at `position`.
    pub(crate) fn decode(bytes: &[u8], position: u64) -> Result<Self, FrameDefect> {
        let Some(bytes) = bytes.get(..FRAME_HEADER_BYTES) else { return Err(FrameDefect::Damaged) };
        if bytes[..4] != FRAME_MAGIC || crc_fast::crc32_iscsi(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(FrameDefect::Damaged);
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version > FRAME_VERSION {
            return Err(FrameDefect::Newer(u32::from(version)));
        }
        let header = Self {
            body_bytes: u32_at(bytes, 8),
            directory_bytes: u32_at(bytes, 12),
            writer_epoch: u64_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            commit_time_us: u64_at(bytes, 32).cast_signed(),
            durable_end: u64_at(bytes, 40),
            position: u64_at(bytes, 48),
            body_crc: u32_at(bytes, 56),
        };
        let sane = header.position == position && header.directory_bytes <= header.body_bytes;
        if sane { Ok(header) } else { Err(FrameDefect::Damaged) }
    }
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameDefect {
    /// Not a frame, or not whole.
    Damaged,
    /// Written by a newer program; its format version.
    Newer(u32),
}

/// One entry of a frame's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirectoryEntry {
    pub(crate) partition: TopicPartition,
    pub(crate) batches: u32,
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) max_timestamp_ms: i64,
    /// From the frame's first byte.
    pub(crate) frame_offset: u64,
    pub(crate) bytes: u32,
    /// When the batches were first committed, us.
    pub(crate) commit_time_us: i64,
    /// A copy of what another segment held.
    pub(crate) carried: bool,
}

/// Checks a body against its header and reads its directory.
pub(crate) fn decode_directory(header: &FrameHeader, body: &[u8]) -> Result<Vec<DirectoryEntry>, FrameDefect> {
    if body.len() != header.body_bytes as usize || crc_fast::crc32_iscsi(body) != header.body_crc {
        return Err(FrameDefect::Damaged);
    }
    read_directory(header, body)
}

/// Reads the directory of a body whose checksum may not match: the entries stay within the body, no more is known.
pub(crate) fn read_directory(header: &FrameHeader, body: &[u8]) -> Result<Vec<DirectoryEntry>, FrameDefect> {
    let directory = &body[..header.directory_bytes as usize];
    if !directory.len().is_multiple_of(ENTRY_BYTES) {
        return Err(FrameDefect::Damaged);
    }
    let payload_bytes = u64::from(header.body_bytes - header.directory_bytes);
    let payload_start = FRAME_HEADER_BYTES as u64 + u64::from(header.directory_bytes);
    let mut entries = Vec::with_capacity(directory.len() / ENTRY_BYTES);
    for entry in directory.chunks_exact(ENTRY_BYTES) {
        let mut topic = [0; 16];
        topic.copy_from_slice(&entry[..16]);
        let (offset, bytes) = (u64::from(u32_at(entry, 48)), u32_at(entry, 52));
        if offset + u64::from(bytes) > payload_bytes {
            return Err(FrameDefect::Damaged);
        }
        entries.push(DirectoryEntry {
            partition: TopicPartition { topic: TopicId::from_bytes(topic), partition: u32_at(entry, 16).cast_signed() },
            batches: u32_at(entry, 20) & !CARRIED_BIT,
            base_offset: u64_at(entry, 24).cast_signed(),
            last_offset: u64_at(entry, 32).cast_signed(),
            max_timestamp_ms: u64_at(entry, 40).cast_signed(),
            frame_offset: payload_start + offset,
            bytes,
            commit_time_us: u64_at(entry, 56).cast_signed(),
            carried: u32_at(entry, 20) & CARRIED_BIT != 0,
        });
    }
    Ok(entries)
}

/// The header of a frame of which only the header is damaged, told from what follows it: a directory whose runs lie one
/// behind the other and fill the frame, and a first batch that says what its entry says. `frame` is everything up to the
/// next valid frame, whose header is `next`. `None` if that is not what is there (more than one frame is lost, or the
/// directory too).
///
/// Without this the offsets of a lost frame would be unknown, and given again to other records.
pub(crate) fn reconstruct(frame: &[u8], position: u64, next: Option<&FrameHeader>) -> Option<FrameHeader> {
    let body = frame.get(FRAME_HEADER_BYTES..)?;
    let mut payload_bytes = 0_u32;
    for (index, entry) in body.chunks_exact(ENTRY_BYTES).enumerate() {
        let (offset, bytes) = (u32_at(entry, 48), u32_at(entry, 52));
        if offset != payload_bytes {
            return None;
        }
        payload_bytes = payload_bytes.checked_add(bytes)?;
        let directory_bytes = u32::try_from((index + 1) * ENTRY_BYTES).ok()?;
        let body_bytes = directory_bytes.checked_add(payload_bytes)?;
        let end = (FRAME_HEADER_BYTES + body_bytes as usize).next_multiple_of(FRAME_ALIGN as usize);
        let first = body.get(directory_bytes as usize..).and_then(|payload| BatchHeader::parse(payload).ok());
        let base_offset = u64_at(body, 24).cast_signed();
        if end != frame.len() || first.is_none_or(|batch| batch.base_offset != base_offset) {
            continue;
        }
        let commit_time_us = u64_at(frame, 32).cast_signed();
        return Some(FrameHeader {
            body_bytes,
            directory_bytes,
            writer_epoch: next.map_or_else(|| u64_at(frame, 16), |next| next.writer_epoch),
            sequence: next.map_or_else(|| u64_at(frame, 24), |next| next.sequence.saturating_sub(1)),
            commit_time_us: next.map_or(commit_time_us, |next| commit_time_us.min(next.commit_time_us - 1)),
            durable_end: 0,
            position,
            body_crc: crc_fast::crc32_iscsi(body.get(..body_bytes as usize)?),
        });
    }
    None
}

/// A batch with the offset the log has given it.
#[derive(Clone, Debug)]
pub(crate) struct PlacedBatch {
    pub(crate) partition: TopicPartition,
    pub(crate) base_offset: i64,
    pub(crate) batch: CheckedBatch,
    /// When it was first committed, if it is carried over.
    pub(crate) carried_us: Option<i64>,
}

/// A frame ready to be written: small pieces of our own between the producers' bytes, which are not copied.
#[derive(Debug)]
pub(crate) struct EncodedFrame {
    pub(crate) header: FrameHeader,
    pub(crate) entries: Vec<DirectoryEntry>,
    front: Vec<u8>,
    prefixes: Vec<[u8; PREFIX_BYTES]>,
    batches: Vec<PlacedBatch>,
}

/// Numbers of a frame that do not follow from its batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameNumbers {
    pub(crate) writer_epoch: u64,
    pub(crate) sequence: u64,
    pub(crate) commit_time_us: i64,
    pub(crate) durable_end: u64,
    pub(crate) position: u64,
}

/// Kafka's leader epoch of every batch: one writer that never takes back what it has shown has one epoch.
pub(crate) const LEADER_EPOCH: i32 = 0;

impl EncodedFrame {
    /// Lays the batches out: those of a partition side by side, in offset order. `None` if they exceed 4 GiB.
    pub(crate) fn new(numbers: FrameNumbers, mut batches: Vec<PlacedBatch>) -> Option<Self> {
        batches.sort_by_key(|placed| (placed.partition, placed.base_offset));
        let (mut entries, payload_bytes) = directory_of(&batches, numbers.commit_time_us)?;
        let directory_bytes = u32::try_from(entries.len() * ENTRY_BYTES).ok()?;
        let body_bytes = payload_bytes.checked_add(directory_bytes)?;
        let mut front = vec![0; FRAME_HEADER_BYTES];
        for entry in &mut entries {
            encode_entry(&mut front, entry)?;
            entry.frame_offset += FRAME_HEADER_BYTES as u64 + u64::from(directory_bytes);
        }
        let prefixes: Vec<_> = batches.iter().map(prefix_of).collect();
        let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        crc.update(&front[FRAME_HEADER_BYTES..]);
        for (prefix, placed) in prefixes.iter().zip(&batches) {
            crc.update(prefix);
            crc.update(&placed.batch.bytes()[PREFIX_BYTES..]);
        }
        let header = FrameHeader {
            body_bytes,
            directory_bytes,
            writer_epoch: numbers.writer_epoch,
            sequence: numbers.sequence,
            commit_time_us: numbers.commit_time_us,
            durable_end: numbers.durable_end,
            position: numbers.position,
            // The digest gives CRC-32 in the low half of 64 bits.
            body_crc: (crc.finalize() & u64::from(u32::MAX)) as u32,
        };
        front[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
        Some(Self { header, entries, front, prefixes, batches })
    }

    /// The pieces to write, one after another.
    pub(crate) fn slices(&self) -> Vec<IoSlice<'_>> {
        static ZEROS: [u8; FRAME_ALIGN as usize] = [0; FRAME_ALIGN as usize];
        let mut slices = Vec::with_capacity(2 + 2 * self.batches.len());
        slices.push(IoSlice::new(&self.front));
        for (prefix, placed) in self.prefixes.iter().zip(&self.batches) {
            slices.push(IoSlice::new(prefix));
            slices.push(IoSlice::new(&placed.batch.bytes()[PREFIX_BYTES..]));
        }
        let unpadded = FRAME_HEADER_BYTES as u64 + u64::from(self.header.body_bytes);
        let padding = usize::try_from(self.header.frame_bytes() - unpadded).unwrap_or(0);
        slices.push(IoSlice::new(&ZEROS[..padding]));
        slices
    }
}

/// The directory (offsets counted from the payload's first byte) and the payload's length.
fn directory_of(batches: &[PlacedBatch], now_us: i64) -> Option<(Vec<DirectoryEntry>, u32)> {
    let mut entries: Vec<DirectoryEntry> = Vec::new();
    let mut payload_bytes = 0_u32;
    for placed in batches {
        let header = placed.batch.header();
        let bytes = u32::try_from(placed.batch.bytes().len()).ok()?;
        let last_offset = placed.base_offset + i64::from(header.last_offset_delta);
        match entries.last_mut() {
            Some(run) if continues(run, placed, now_us) => {
                run.batches += 1;
                run.last_offset = last_offset;
                run.max_timestamp_ms = run.max_timestamp_ms.max(header.max_timestamp_ms);
                run.bytes = run.bytes.checked_add(bytes)?;
            }
            _ => entries.push(DirectoryEntry {
                partition: placed.partition,
                batches: 1,
                base_offset: placed.base_offset,
                last_offset,
                max_timestamp_ms: header.max_timestamp_ms,
                frame_offset: u64::from(payload_bytes),
                bytes,
                commit_time_us: placed.carried_us.unwrap_or(now_us),
                carried: placed.carried_us.is_some(),
            }),
        }
        payload_bytes = payload_bytes.checked_add(bytes)?;
    }
    Some((entries, payload_bytes))
}

/// Whether a batch belongs to the run before it.
fn continues(run: &DirectoryEntry, placed: &PlacedBatch, now_us: i64) -> bool {
    run.partition == placed.partition
        && (run.bytes as usize) < RUN_BYTES
        && run.last_offset + 1 == placed.base_offset
        && run.carried == placed.carried_us.is_some()
        && run.commit_time_us == placed.carried_us.unwrap_or(now_us)
}

fn encode_entry(out: &mut Vec<u8>, entry: &DirectoryEntry) -> Option<()> {
    out.extend_from_slice(entry.partition.topic.as_bytes());
    out.extend_from_slice(&entry.partition.partition.to_le_bytes());
    let batches = if entry.carried { entry.batches | CARRIED_BIT } else { entry.batches };
    out.extend_from_slice(&batches.to_le_bytes());
    out.extend_from_slice(&entry.base_offset.to_le_bytes());
    out.extend_from_slice(&entry.last_offset.to_le_bytes());
    out.extend_from_slice(&entry.max_timestamp_ms.to_le_bytes());
    out.extend_from_slice(&u32::try_from(entry.frame_offset).ok()?.to_le_bytes());
    out.extend_from_slice(&entry.bytes.to_le_bytes());
    out.extend_from_slice(&entry.commit_time_us.to_le_bytes());
    Some(())
}

/// The first bytes of a batch with its offset and leader epoch in place.
fn prefix_of(placed: &PlacedBatch) -> [u8; PREFIX_BYTES] {
    let mut prefix = [0; PREFIX_BYTES];
    prefix.copy_from_slice(&placed.batch.bytes()[..PREFIX_BYTES]);
    prefix[..8].copy_from_slice(&placed.base_offset.to_be_bytes());
    prefix[12..16].copy_from_slice(&LEADER_EPOCH.to_be_bytes());
    prefix
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::batch::{BatchBuilder, BatchHeader, Compression, TimestampType};

    fn batch(records: usize, bytes: usize) -> CheckedBatch {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        for index in 0..records {
            builder.push(index as i64, None, Some(&vec![7; bytes]), &[]);
        }
        builder.build(Compression::None).unwrap()
    }

    fn placed(sizes: &[(u8, usize, usize)]) -> Vec<PlacedBatch> {
        let mut ends = [100_i64; 4];
        let mut all = Vec::new();
        for (partition, records, bytes) in sizes {
            let end = &mut ends[usize::from(*partition)];
            let partition =
                TopicPartition { topic: TopicId::from_bytes([*partition; 16]), partition: i32::from(*partition) };
            // Some are copies with a commit time of their own.
            let carried_us = (bytes % 3 == 0).then_some(*bytes as i64);
            all.push(PlacedBatch { partition, base_offset: *end, batch: batch(*records, *bytes), carried_us });
            *end += *records as i64;
        }
        all
    }

    fn numbers(position: u64) -> FrameNumbers {
        FrameNumbers { writer_epoch: 3, sequence: 9, commit_time_us: -5, durable_end: 64, position }
    }

    fn bytes_of(frame: &EncodedFrame) -> Vec<u8> {
        frame.slices().iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    proptest! {
        #[test]
        fn a_frame_comes_back_with_every_batch_in_its_place(
            sizes in proptest::collection::vec((0_u8..4, 1_usize..5, 0_usize..40_000), 0..12),
            position in (0_u64..1 << 40).prop_map(|position| position * FRAME_ALIGN),
        ) {
            let batches = placed(&sizes);
            let frame = EncodedFrame::new(numbers(position), batches.clone()).unwrap();
            let bytes = bytes_of(&frame);
            prop_assert_eq!(bytes.len() as u64, frame.header.frame_bytes());
            let header = FrameHeader::decode(&bytes, position).unwrap();
            prop_assert_eq!(header, frame.header);
            prop_assert_eq!(FrameHeader::decode(&bytes, position + FRAME_ALIGN), Err(FrameDefect::Damaged));
            let body = &bytes[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + header.body_bytes as usize];
            let entries = decode_directory(&header, body).unwrap();
            prop_assert_eq!(&entries, &frame.entries);
            let mut found = Vec::new();
            for entry in &entries {
                let start = entry.frame_offset as usize;
                let mut rest = &bytes[start..start + entry.bytes as usize];
                let mut next_offset = entry.base_offset;
                while !rest.is_empty() {
                    let batch = BatchHeader::parse(rest).unwrap();
                    prop_assert_eq!(batch.base_offset, next_offset);
                    next_offset = batch.last_offset() + 1;
                    let (whole, behind) = rest.split_at(batch.total_bytes());
                    let carried_us = entry.carried.then_some(entry.commit_time_us);
                    found.push((entry.partition, batch.base_offset, carried_us, whole[PREFIX_BYTES..].to_vec()));
                    rest = behind;
                }
                prop_assert_eq!(next_offset, entry.last_offset + 1);
            }
            let mut sent: Vec<_> = batches
                .iter()
                .map(|placed| {
                    let bytes = placed.batch.bytes()[PREFIX_BYTES..].to_vec();
                    (placed.partition, placed.base_offset, placed.carried_us, bytes)
                })
                .collect();
            sent.sort_by_key(|(partition, offset, ..)| (*partition, *offset));
            prop_assert_eq!(found, sent);
        }

        #[test]
        fn a_flipped_bit_anywhere_is_seen(at in any::<prop::sample::Index>(), bit in 0_u32..8) {
            let frame = EncodedFrame::new(numbers(128), placed(&[(1, 2, 50), (2, 1, 10)])).unwrap();
            let mut bytes = bytes_of(&frame);
            let covered = FRAME_HEADER_BYTES + frame.header.body_bytes as usize;
            bytes[at.index(covered)] ^= 1 << bit;
            let whole = FrameHeader::decode(&bytes, 128)
                .and_then(|header| decode_directory(&header, &bytes[FRAME_HEADER_BYTES..covered]));
            prop_assert!(whole.is_err());
        }
    }

    #[test]
    fn a_large_frame_has_a_run_for_every_64_kib() {
        let frame = EncodedFrame::new(numbers(0), placed(&[(1, 1, 30_000); 10])).unwrap();
        assert_eq!(frame.entries.len(), 4);
        assert!(frame.entries.iter().all(|entry| entry.batches <= 3));
    }
}
