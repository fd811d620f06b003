//! `CheckedBatch`: one Kafka RecordBatch v2 whose checksum, lengths and records have been checked once; inside nobody
//! checks again.
//!
//! Layout: <https://kafka.apache.org/documentation/#recordbatch>. The base offset and the leader epoch stand outside the
//! checksum, so placing a batch in the log never touches the rest: bytes go out as they came in.

use bytes::{Bytes, BytesMut};

use crate::error::Error;

mod build;
mod convert;
mod transactional;
mod view;

pub use super::compression::Compression;
use super::compression::decompress;
pub use build::BatchBuilder;
pub use transactional::Marker;
pub use view::{HeaderViews, RecordView, Records};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;

/// Base offset and length: the bytes that `batch_length` does not count.
const LENGTH_PREFIX_BYTES: usize = 12;
/// Where the magic stands, in this and in every older format.
const MAGIC_AT: usize = 16;
/// The only format taken.
const MAGIC: u8 = 2;
/// Where the checksum stands; it covers everything from the attributes on.
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

const CODEC_BITS: i16 = 0b111;
const TIMESTAMP_TYPE_BIT: i16 = 1 << 3;
const TRANSACTIONAL_BIT: i16 = 1 << 4;
const CONTROL_BIT: i16 = 1 << 5;
const DELETE_HORIZON_BIT: i16 = 1 << 6;

/// Who set a record's timestamp (attribute bit 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(i8)]
pub enum TimestampType {
    /// The producer.
    #[default]
    CreateTime = 0,
    /// The log, when it appended.
    LogAppendTime = 1,
}

/// The 61 bytes in front of the records, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes after this field.
    pub batch_length: i32,
    /// Leader epoch, outside the checksum.
    pub partition_leader_epoch: i32,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec, timestamp type, transactional, control, delete horizon.
    pub attributes: i16,
    /// Last offset minus base offset; stays when compaction removes records.
    pub last_offset_delta: i32,
    /// Timestamp the records' deltas count from, ms (or the delete horizon, attribute bit 6).
    pub base_timestamp_ms: i64,
    /// Largest timestamp, ms.
    pub max_timestamp_ms: i64,
    /// Idempotent producer, or -1.
    pub producer_id: i64,
    /// Its epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the numbers in front of a batch that begins at the start of `bytes`; checks magic and length, not the
    /// checksum. The batch itself need not be whole yet: [`BatchHeader::total_bytes`] says where it ends.
    ///
    /// # Errors
    /// [`Error::CorruptBatch`]; [`Error::InvalidBatch`] for an older magic.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        match bytes.get(MAGIC_AT) {
            Some(&MAGIC) => {}
            Some(&old @ 0..MAGIC) => {
                return Err(Error::InvalidBatch {
                    reason: format!("message format {old} is too old, use a client that writes format 2 (Kafka 0.11)"),
                });
            }
            Some(other) => return Err(corrupt(format!("magic is {other} where 2 was expected"))),
            None => return Err(corrupt(format!("{} bytes are too few for a header", bytes.len()))),
        }
        let front = bytes
            .first_chunk::<HEADER_BYTES>()
            .ok_or_else(|| corrupt(format!("{} bytes are too few for a header of {HEADER_BYTES}", bytes.len())))?;
        let header = Self {
            base_offset: i64::from_be_bytes(take(front, 0)),
            batch_length: i32::from_be_bytes(take(front, 8)),
            partition_leader_epoch: i32::from_be_bytes(take(front, 12)),
            crc: u32::from_be_bytes(take(front, CRC_AT)),
            attributes: i16::from_be_bytes(take(front, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(take(front, 23)),
            base_timestamp_ms: i64::from_be_bytes(take(front, 27)),
            max_timestamp_ms: i64::from_be_bytes(take(front, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(take(front, 43)),
            producer_epoch: i16::from_be_bytes(take(front, 51)),
            base_sequence: i32::from_be_bytes(take(front, 53)),
            record_count: i32::from_be_bytes(take(front, 57)),
        };
        if header.total_bytes() < HEADER_BYTES {
            return Err(corrupt(format!("length {} is shorter than a header", header.batch_length)));
        }
        Ok(header)
    }

    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Bytes of the whole batch.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        usize::try_from(self.batch_length).map_or(0, |length| length.saturating_add(LENGTH_PREFIX_BYTES))
    }

    /// Who set the timestamps.
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & TIMESTAMP_TYPE_BIT == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// Whether it belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether it holds a transaction's marker and no records of users.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether an idempotent producer numbered it.
    #[must_use]
    pub fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }
}

/// Limits for a check.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Bytes of one batch after decompression.
    pub decompressed_bytes_max: usize,
}

impl BatchLimits {
    /// For what is stored: it was within the limit of its day when it was let in, and stays readable whatever the limit
    /// is now. No batch has more, since Kafka counts in 32 bits.
    pub(crate) const STORED: Self = Self { decompressed_bytes_max: i32::MAX as usize };
}

/// One whole, checked batch. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct CheckedBatch {
    bytes: Bytes,
    header: BatchHeader,
}

impl CheckedBatch {
    /// Checks all batches of a produce request's partition, front to back: lengths, magic 2, CRC-32C, record count
    /// against offsets delta, every record's varints (after bounded decompression). Shares the bytes.
    ///
    /// A header whose largest timestamp is not its records' is mended in a copy, as Kafka does: time indexes rely on it.
    ///
    /// # Errors
    /// [`Error::CorruptBatch`] for damage, [`Error::InvalidBatch`] for what is whole but not allowed of a client
    /// (old magic, control batches, no records), [`Error::TooLarge`] beyond `limits`.
    pub fn parse_produced(bytes: Bytes, limits: BatchLimits) -> Result<Vec<Self>, Error> {
        if bytes.is_empty() {
            return Err(Error::InvalidBatch { reason: "there is no batch".to_owned() });
        }
        let mut rest = bytes;
        let mut batches = Vec::new();
        while !rest.is_empty() {
            let total = BatchHeader::parse(&rest)?.total_bytes();
            if total > rest.len() {
                return Err(corrupt(format!("a batch of {total} bytes where {} are left", rest.len())));
            }
            let batch = Self::parse_stored(rest.split_to(total))?;
            batches.push(batch.check_produced(limits)?);
        }
        Ok(batches)
    }

    /// Checks one stored batch: lengths, magic, CRC-32C; not its records.
    ///
    /// # Errors
    /// [`Error::CorruptBatch`].
    pub fn parse_stored(bytes: Bytes) -> Result<Self, Error> {
        let header = BatchHeader::parse(&bytes)?;
        if header.total_bytes() != bytes.len() {
            return Err(corrupt(format!("a batch of {} bytes in a place of {}", header.total_bytes(), bytes.len())));
        }
        let crc = crc_fast::crc32_iscsi(&bytes[ATTRIBUTES_AT..]);
        if crc != header.crc {
            return Err(corrupt(format!("crc-32c is {crc:08x} where the header says {:08x}", header.crc)));
        }
        Ok(Self { bytes, header })
    }

    /// What a client may send, and nothing else.
    fn check_produced(self, limits: BatchLimits) -> Result<Self, Error> {
        let header = &self.header;
        let refused = |reason: String| Err(Error::InvalidBatch { reason });
        if Compression::of_attributes(header.attributes).is_none() {
            return refused(format!("codec {} is unknown, use gzip, snappy, lz4 or zstd", header.attributes & 0b111));
        }
        if header.is_control() {
            return refused("control batches are the coordinator's to write".to_owned());
        }
        if header.timestamp_type() == TimestampType::LogAppendTime || header.attributes & DELETE_HORIZON_BIT != 0 {
            return refused(format!("attributes {:#06x} are the log's to set", header.attributes));
        }
        if header.record_count < 1 || i64::from(header.record_count) != i64::from(header.last_offset_delta) + 1 {
            return refused(format!(
                "{} records with a last offset delta of {}",
                header.record_count, header.last_offset_delta
            ));
        }
        let max_timestamp_ms = self.records(limits)?.check_structure()?;
        if max_timestamp_ms == header.max_timestamp_ms {
            Ok(self)
        } else {
            Ok(self.with_max_timestamp(max_timestamp_ms))
        }
    }

    fn with_max_timestamp(self, max_timestamp_ms: i64) -> Self {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        bytes[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&max_timestamp_ms.to_be_bytes());
        Self::sealed(bytes, BatchHeader { max_timestamp_ms, ..self.header })
    }

    /// The numbers in front.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The batch as sent.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Codec of the records. A codec nobody knows passes for none: [`CheckedBatch::records`] tells.
    #[must_use]
    pub fn compression(&self) -> Compression {
        Compression::of_attributes(self.header.attributes).unwrap_or_default()
    }

    /// Decompresses (bounded) and gives the records to view.
    ///
    /// # Errors
    /// [`Error::CorruptBatch`], [`Error::TooLarge`].
    pub fn records(&self, limits: BatchLimits) -> Result<Records, Error> {
        let codec = Compression::of_attributes(self.header.attributes)
            .ok_or_else(|| corrupt(format!("codec {} is unknown", self.header.attributes & 0b111)))?;
        let body = decompress(codec, &self.bytes.slice(HEADER_BYTES..), limits.decompressed_bytes_max)?;
        Ok(Records::new(body, self.header))
    }
}

/// Places a batch that begins at the start of `batch`: base offset and leader epoch stand outside the checksum. Does
/// nothing to bytes too short for a header.
pub fn patch_base_offset(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    if let Some(front) = batch.first_chunk_mut::<HEADER_BYTES>() {
        front[..8].copy_from_slice(&base_offset.to_be_bytes());
        front[LENGTH_PREFIX_BYTES..MAGIC_AT].copy_from_slice(&leader_epoch.to_be_bytes());
    }
}

/// `N` bytes of the header from `at` on.
fn take<const N: usize>(front: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(&front[at..at + N]);
    taken
}

fn corrupt(reason: String) -> Error {
    Error::CorruptBatch { reason }
}

#[cfg(test)]
mod tests;
