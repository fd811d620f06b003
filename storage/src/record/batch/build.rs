//! Makes batches: what SQL, continuous queries and cold fetches write, laid out as a Java producer would.

use bytes::{Bytes, BytesMut};

use super::super::compression::compress;
use super::{
    ATTRIBUTES_AT, BatchHeader, CRC_AT, CheckedBatch, Compression, HEADER_BYTES, LENGTH_PREFIX_BYTES, MAGIC,
    TIMESTAMP_TYPE_BIT, TimestampType,
};

/// A varint takes no more in a record, but for the timestamp's.
const LENGTH_BYTES_MAX: usize = 5;
/// What a record takes besides key, value and headers, at the most: five lengths, a timestamp, an attribute byte.
const RECORD_OVERHEAD_BYTES_MAX: usize = 5 * LENGTH_BYTES_MAX + 10 + 1;

/// Makes a batch of records; what SQL, continuous queries and cold fetches write. Uncompressed unless said.
#[derive(Clone, Debug, Default)]
pub struct BatchBuilder {
    body: Vec<u8>,
    count: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    base_offset: i64,
    last_offset_delta: i32,
    timestamp_type: TimestampType,
    producer: Option<(i64, i16, i32)>,
}

impl BatchBuilder {
    /// An empty batch whose first record will be at `base_offset` (0 for what the log is to place).
    #[must_use]
    pub fn new(base_offset: i64, timestamp_type: TimestampType) -> Self {
        Self { base_offset, timestamp_type, last_offset_delta: -1, ..Self::default() }
    }

    /// Numbers the batch as an idempotent producer does.
    #[must_use]
    pub fn with_producer(self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        Self { producer: Some((producer_id, producer_epoch, base_sequence)), ..self }
    }

    /// Adds a record right after the last one.
    pub fn push(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        let offset = self.base_offset.saturating_add(i64::from(self.last_offset_delta)).saturating_add(1);
        self.push_at(offset, timestamp_ms, key, value, headers);
    }

    /// Adds a record at `offset`, which must be larger than the last one's; gaps are allowed (cold fetches have them).
    /// `false`, and nothing added, if it is not, or if it lies too far from the base offset: begin another batch.
    pub fn push_at(
        &mut self,
        offset: i64,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> bool {
        let delta = offset.checked_sub(self.base_offset).and_then(|delta| i32::try_from(delta).ok());
        let Some(delta) = delta.filter(|delta| *delta > self.last_offset_delta) else { return false };
        if self.count == 0 {
            self.base_timestamp_ms = timestamp_ms;
            self.max_timestamp_ms = timestamp_ms;
        }
        let timestamp_delta_ms = timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        let header_bytes: usize =
            headers.iter().map(|(key, value)| nullable_len(Some(key)) + nullable_len(*value)).sum();
        let record_bytes = 1
            + varint_len(timestamp_delta_ms)
            + varint_len(i64::from(delta))
            + nullable_len(key)
            + nullable_len(value)
            + varint_len(length_number(headers.len()))
            + header_bytes;

        let body = &mut self.body;
        body.reserve(record_bytes + 5);
        put_varint(body, length_number(record_bytes));
        body.push(0);
        put_varint(body, timestamp_delta_ms);
        put_varint(body, i64::from(delta));
        put_nullable(body, key);
        put_nullable(body, value);
        put_varint(body, length_number(headers.len()));
        for (key, value) in headers {
            put_nullable(body, Some(key));
            put_nullable(body, *value);
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        self.last_offset_delta = delta;
        self.count += 1;
        true
    }

    /// Whether this record fits too if the batch is to have so many bytes at the most; an empty batch takes any.
    #[must_use]
    pub fn has_room(
        &self,
        batch_bytes_max: usize,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> bool {
        let headers: usize =
            headers.iter().map(|(key, value)| 2 * LENGTH_BYTES_MAX + key.len() + value.map_or(0, <[u8]>::len)).sum();
        let record = RECORD_OVERHEAD_BYTES_MAX + key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers;
        self.is_empty() || self.bytes_len() + record <= batch_bytes_max
    }

    /// Records so far.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.count).unwrap_or(0)
    }

    /// Whether there is none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes the batch has so far, its header included.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// The batch, with its checksum. `None` if it has no record, or more bytes than a batch can have (2 GiB). A codec
    /// that refuses leaves the records uncompressed.
    #[must_use]
    pub fn build(self, compression: Compression) -> Option<CheckedBatch> {
        if self.is_empty() {
            return None;
        }
        let compressed = match compression {
            Compression::None => None,
            codec => compress(codec, &self.body).ok(),
        };
        let (codec, body) = compressed.map_or((Compression::None, self.body), |body| (compression, body));
        let time_bit = match self.timestamp_type {
            TimestampType::CreateTime => 0,
            TimestampType::LogAppendTime => TIMESTAMP_TYPE_BIT,
        };
        let (producer_id, producer_epoch, base_sequence) = self.producer.unwrap_or((-1, -1, -1));
        let mut header = BatchHeader {
            base_offset: self.base_offset,
            batch_length: i32::try_from(HEADER_BYTES - LENGTH_PREFIX_BYTES + body.len()).ok()?,
            partition_leader_epoch: -1,
            crc: 0,
            attributes: i16::from(codec as u8) | time_bit,
            last_offset_delta: self.last_offset_delta,
            base_timestamp_ms: self.base_timestamp_ms,
            max_timestamp_ms: self.max_timestamp_ms,
            producer_id,
            producer_epoch,
            base_sequence,
            record_count: self.count,
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        header.write(&mut bytes);
        bytes.extend_from_slice(&body);
        header.crc = crc_fast::crc32_iscsi(&bytes[ATTRIBUTES_AT..]);
        bytes[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&header.crc.to_be_bytes());
        Some(CheckedBatch { bytes: Bytes::from(bytes), header })
    }
}

impl CheckedBatch {
    /// A batch without records, as Kafka's compaction leaves behind: it says that the offsets from `start` on hold nothing, up
    /// to `end` or as far as one batch reaches.
    #[must_use]
    pub fn of_nothing(start: i64, end: i64) -> Self {
        let last_offset_delta = i32::try_from(end.saturating_sub(start).saturating_sub(1)).unwrap_or(i32::MAX);
        let header = BatchHeader {
            base_offset: start,
            // A header counts far less than an i32 holds.
            batch_length: i32::try_from(HEADER_BYTES - LENGTH_PREFIX_BYTES).unwrap_or(0),
            partition_leader_epoch: -1,
            crc: 0,
            attributes: 0,
            last_offset_delta: last_offset_delta.max(0),
            base_timestamp_ms: -1,
            max_timestamp_ms: -1,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: 0,
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        header.write(&mut bytes);
        Self::sealed(BytesMut::from(&bytes[..]), header)
    }
}

impl BatchHeader {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.base_offset.to_be_bytes());
        bytes.extend(self.batch_length.to_be_bytes());
        bytes.extend(self.partition_leader_epoch.to_be_bytes());
        bytes.push(MAGIC);
        bytes.extend(self.crc.to_be_bytes());
        bytes.extend(self.attributes.to_be_bytes());
        bytes.extend(self.last_offset_delta.to_be_bytes());
        bytes.extend(self.base_timestamp_ms.to_be_bytes());
        bytes.extend(self.max_timestamp_ms.to_be_bytes());
        bytes.extend(self.producer_id.to_be_bytes());
        bytes.extend(self.producer_epoch.to_be_bytes());
        bytes.extend(self.base_sequence.to_be_bytes());
        bytes.extend(self.record_count.to_be_bytes());
    }
}

/// A length as the varint's number. Nothing in memory exceeds an `i64`.
fn length_number(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn varint_len(number: i64) -> usize {
    let bits = (u64::BITS - zigzag(number).leading_zeros()).max(1);
    bits.div_ceil(7) as usize
}

fn nullable_len(field: Option<&[u8]>) -> usize {
    field.map_or(1, |field| varint_len(length_number(field.len())) + field.len())
}

fn put_varint(body: &mut Vec<u8>, number: i64) {
    let mut bits = zigzag(number);
    while bits >= 0x80 {
        body.push((bits & 0x7f) as u8 | 0x80);
        bits >>= 7;
    }
    body.push(bits as u8);
}

fn put_nullable(body: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => put_varint(body, -1),
        Some(field) => {
            put_varint(body, length_number(field.len()));
            body.extend_from_slice(field);
        }
    }
}
