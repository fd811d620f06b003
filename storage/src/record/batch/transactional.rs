//! Batches of transactions: the marker that ends one in a partition, and a batch made part of one.
//!
//! A marker is a batch with the attributes transactional and control, and one record whose key says (version, type) and
//! whose value (version, coordinator epoch), all big-endian, as Kafka's.

use bytes::BytesMut;

use super::{
    ATTRIBUTES_AT, BatchBuilder, BatchHeader, BatchLimits, CONTROL_BIT, CheckedBatch, Compression, TRANSACTIONAL_BIT,
    TimestampType,
};
use crate::ids::ProducerIdentity;

const PRODUCER_AT: usize = 43;
const EPOCH_AT: usize = 51;
const SEQUENCE_AT: usize = 53;
const MARKER_VERSION: i16 = 0;
const TYPE_ABORT: i16 = 0;
const TYPE_COMMIT: i16 = 1;
/// A marker's one record is smaller by far.
const MARKER_LIMITS: BatchLimits = BatchLimits { decompressed_bytes_max: 1 << 10 };

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Or aborted.
    pub committed: bool,
    /// Who wrote it.
    pub coordinator_epoch: i32,
}

impl Marker {
    /// The marker's batch, still to be placed.
    #[must_use]
    pub fn batch(self, producer: ProducerIdentity, timestamp_ms: i64) -> Option<CheckedBatch> {
        let kind = if self.committed { TYPE_COMMIT } else { TYPE_ABORT };
        let key = [MARKER_VERSION.to_be_bytes(), kind.to_be_bytes()].concat();
        let value = [&MARKER_VERSION.to_be_bytes()[..], &self.coordinator_epoch.to_be_bytes()].concat();
        let mut builder =
            BatchBuilder::new(0, TimestampType::CreateTime).with_producer(producer.id, producer.epoch, -1);
        builder.push(timestamp_ms, Some(&key), Some(&value), &[]);
        let batch = builder.build(Compression::None)?;
        Some(batch.patched(|header| header.attributes |= TRANSACTIONAL_BIT | CONTROL_BIT))
    }

    /// What a control batch says; `None` for another batch, and for control records that mark no transaction's end.
    #[must_use]
    pub fn of(batch: &CheckedBatch) -> Option<Self> {
        if !batch.header().is_control() {
            return None;
        }
        let records = batch.records(MARKER_LIMITS).ok()?;
        let record = records.iter().next()?.ok()?;
        let (key, value) = (record.key?, record.value?);
        let kind = key.get(2..4).and_then(|bytes| bytes.try_into().ok()).map(i16::from_be_bytes)?;
        let epoch = value.get(2..6).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes)?;
        let committed = match kind {
            TYPE_COMMIT => true,
            TYPE_ABORT => false,
            _ => return None,
        };
        Some(Self { committed, coordinator_epoch: epoch })
    }
}

impl CheckedBatch {
    /// The same records as part of a producer's transaction, in a copy.
    #[must_use]
    pub fn in_transaction(&self, producer: ProducerIdentity, base_sequence: i32) -> Self {
        self.patched(|header| {
            header.attributes |= TRANSACTIONAL_BIT;
            header.producer_id = producer.id;
            header.producer_epoch = producer.epoch;
            header.base_sequence = base_sequence;
        })
    }

    /// A copy with other attributes and producer, and the checksum that goes with them.
    fn patched(&self, patch: impl FnOnce(&mut BatchHeader)) -> Self {
        let mut header = self.header;
        patch(&mut header);
        let mut bytes = BytesMut::from(&self.bytes[..]);
        bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&header.attributes.to_be_bytes());
        bytes[PRODUCER_AT..EPOCH_AT].copy_from_slice(&header.producer_id.to_be_bytes());
        bytes[EPOCH_AT..SEQUENCE_AT].copy_from_slice(&header.producer_epoch.to_be_bytes());
        bytes[SEQUENCE_AT..SEQUENCE_AT + 4].copy_from_slice(&header.base_sequence.to_be_bytes());
        Self::sealed(bytes, header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRODUCER: ProducerIdentity = ProducerIdentity { id: 77, epoch: 5 };

    #[test]
    fn a_marker_is_kafkas_bytes_and_is_read_back() {
        for committed in [true, false] {
            let marker = Marker { committed, coordinator_epoch: 9 };
            let batch = marker.batch(PRODUCER, 1234).unwrap();
            let stored = CheckedBatch::parse_stored(batch.bytes().clone()).unwrap();
            let header = *stored.header();
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (77, 5, -1));
            assert_eq!(Marker::of(&stored), Some(marker));
            let records = stored.records(MARKER_LIMITS).unwrap();
            let record = records.iter().next().unwrap().unwrap();
            assert_eq!(record.key, Some(&[0, 0, 0, u8::from(committed)][..]));
            assert_eq!(record.value, Some(&[0, 0, 0, 0, 0, 9][..]));
        }
    }

    #[test]
    fn a_batch_of_nothing_says_where_the_next_one_begins() {
        let nothing = CheckedBatch::of_nothing(40, 43);
        let stored = CheckedBatch::parse_stored(nothing.bytes().clone()).unwrap();
        assert_eq!((stored.header().base_offset, stored.header().last_offset()), (40, 42));
        assert_eq!(stored.records(MARKER_LIMITS).unwrap().iter().count(), 0);
        assert_eq!(CheckedBatch::of_nothing(0, i64::MAX).header().last_offset_delta, i32::MAX);
    }

    #[test]
    fn a_batch_becomes_part_of_a_transaction_with_its_records_as_they_were() {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        builder.push(1, Some(b"k"), Some(b"v"), &[]);
        builder.push(2, None, Some(b"w"), &[]);
        let plain = builder.build(Compression::Lz4).unwrap();
        assert_eq!(Marker::of(&plain), None);
        let marked = plain.in_transaction(PRODUCER, 40);
        let stored = CheckedBatch::parse_stored(marked.bytes().clone()).unwrap();
        assert_eq!(stored.header(), marked.header());
        assert!(stored.header().is_transactional() && !stored.header().is_control());
        assert_eq!((stored.header().producer_id, stored.header().base_sequence), (77, 40));
        assert_eq!(stored.bytes()[super::super::HEADER_BYTES..], plain.bytes()[super::super::HEADER_BYTES..]);
    }
}
