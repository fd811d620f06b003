//! `CheckedBatch`: one Kafka RecordBatch v2 whose checksum, lengths and records have been checked once; inside nobody
//! checks again.
//!
//! Layout: <https://kafka.apache.org/documentation/#recordbatch>. The base offset and the leader epoch stand outside the
//! checksum, so placing a batch in the log never touches the rest: bytes go out as they came in.

use bytes::Bytes;

use crate::error::Error;

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;

/// The codec in the lowest three attribute bits. Kafka's numbers: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Compression {
    /// Records as they are.
    #[default]
    None = 0,
    /// gzip.
    Gzip = 1,
    /// snappy, bare or in xerial's framing.
    Snappy = 2,
    /// LZ4 frame.
    Lz4 = 3,
    /// Zstandard.
    Zstd = 4,
}

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
    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Bytes of the whole batch.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        usize::try_from(self.batch_length).unwrap_or(0) + 12
    }
}

/// Limits for a check.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Bytes of one batch after decompression.
    pub decompressed_bytes_max: usize,
}

/// One whole, checked batch. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct CheckedBatch {
    bytes: Bytes,
    header: BatchHeader,
}

/// One record, viewed in its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, ms (the batch's for log append time).
    pub timestamp_ms: i64,
    /// Key, `None` for null.
    pub key: Option<&'a [u8]>,
    /// Value, `None` for null.
    pub value: Option<&'a [u8]>,
    /// Headers in their order, duplicates kept; a value may be null.
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

/// A batch's records, decompressed once, to be viewed.
#[derive(Clone, Debug)]
pub struct Records {
    body: Bytes,
    header: BatchHeader,
}

/// Makes a batch of records; what SQL, continuous queries and cold fetches write. Uncompressed unless said.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    body: Vec<u8>,
    count: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    base_offset: i64,
    last_offset_delta: i32,
    timestamp_type: TimestampType,
}

impl CheckedBatch {
    /// Checks all batches of a produce request's partition, front to back: lengths, magic 2, CRC-32C, record count
    /// against offsets delta, every record's varints (after bounded decompression). Shares the bytes.
    ///
    /// # Errors
    /// [`Error::CorruptBatch`] for damage, [`Error::InvalidBatch`] for what is whole but not allowed of a client
    /// (old magic, control batches, no records), [`Error::TooLarge`] beyond `limits`.
    pub fn parse_produced(bytes: Bytes, limits: BatchLimits) -> Result<Vec<Self>, Error> {
        let _ = (bytes, limits);
        todo!("record/batch")
    }

    /// Checks one stored batch: lengths, magic, CRC-32C; not its records.
    ///
    /// # Errors
    /// [`Error::CorruptBatch`].
    pub fn parse_stored(bytes: Bytes) -> Result<Self, Error> {
        let _ = bytes;
        todo!("record/batch")
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

    /// Codec of the records.
    #[must_use]
    pub fn compression(&self) -> Compression {
        todo!("record/batch")
    }

    /// Decompresses (bounded) and gives the records to view.
    ///
    /// # Errors
    /// [`Error::CorruptBatch`], [`Error::TooLarge`].
    pub fn records(&self, limits: BatchLimits) -> Result<Records, Error> {
        let _ = limits;
        todo!("record/batch")
    }
}

impl Records {
    /// The records in offset order. A record that does not parse ends the iteration with an error.
    pub fn iter(&self) -> impl Iterator<Item = Result<RecordView<'_>, Error>> {
        let _ = (&self.body, &self.header);
        std::iter::empty()
    }
}

impl BatchBuilder {
    /// An empty batch whose first record will be at `base_offset` (0 for what the log is to place).
    #[must_use]
    pub fn new(base_offset: i64, timestamp_type: TimestampType) -> Self {
        Self { base_offset, timestamp_type, ..Self::default() }
    }

    /// Adds a record right after the last one.
    pub fn push(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        let offset = self.base_offset + i64::from(self.count);
        self.push_at(offset, timestamp_ms, key, value, headers);
    }

    /// Adds a record at `offset`, which must be larger than the last one's; gaps are allowed (cold fetches have them).
    pub fn push_at(
        &mut self,
        offset: i64,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        let _ = (
            offset,
            timestamp_ms,
            key,
            value,
            headers,
            &self.body,
            self.count,
            self.base_timestamp_ms,
            self.max_timestamp_ms,
            self.last_offset_delta,
            self.timestamp_type,
        );
        todo!("record/batch")
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

    /// The batch, with its checksum. `None` if it has no record.
    #[must_use]
    pub fn build(self, compression: Compression) -> Option<CheckedBatch> {
        let _ = compression;
        todo!("record/batch")
    }
}
