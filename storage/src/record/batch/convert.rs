//! What a topic's configuration asks of a produced batch: another codec, the time of the append, keys.
//!
//! Records stay byte for byte as they were sent, and so do the producer's numbers; only what stands around them changes.

use bytes::{Bytes, BytesMut};

use super::super::compression::compress;
use super::{
    ATTRIBUTES_AT, BatchHeader, BatchLimits, CODEC_BITS, CRC_AT, CheckedBatch, Compression, HEADER_BYTES,
    LENGTH_PREFIX_BYTES, MAX_TIMESTAMP_AT, TIMESTAMP_TYPE_BIT,
};
use crate::error::Error;

/// Records without a key that an error names, at the most.
const KEYLESS_NAMED_MAX: usize = 1000;

impl CheckedBatch {
    /// The same records, compressed with another codec.
    ///
    /// # Errors
    /// [`Error::CorruptBatch`], [`Error::TooLarge`] for what does not decompress within the limits.
    pub fn recompressed(self, codec: Compression, limits: BatchLimits) -> Result<Self, Error> {
        if self.compression() == codec {
            return Ok(self);
        }
        let plain = self.records(limits)?.into_body();
        let body = compress(codec, &plain).map_err(|error| Error::InvalidBatch {
            reason: format!("the records cannot be compressed as compression.type asks: {error}"),
        })?;
        let too_large = || Error::InvalidBatch { reason: "the records are too large for one batch".to_owned() };
        let length = HEADER_BYTES - LENGTH_PREFIX_BYTES + body.len();
        let batch_length = i32::try_from(length).map_err(|_| too_large())?;
        let attributes = (self.header.attributes & !CODEC_BITS) | i16::from(codec as u8);
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&self.bytes[..HEADER_BYTES]);
        bytes.extend_from_slice(&body);
        bytes[8..LENGTH_PREFIX_BYTES].copy_from_slice(&batch_length.to_be_bytes());
        bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
        Ok(Self::sealed(bytes, BatchHeader { batch_length, attributes, ..self.header }))
    }

    /// The same batch with the log's time: every record has it from now on, whatever the producer said.
    #[must_use]
    pub fn with_append_time(self, append_time_ms: i64) -> Self {
        let attributes = self.header.attributes | TIMESTAMP_TYPE_BIT;
        let mut bytes = BytesMut::from(&self.bytes[..]);
        bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
        bytes[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&append_time_ms.to_be_bytes());
        Self::sealed(bytes, BatchHeader { attributes, max_timestamp_ms: append_time_ms, ..self.header })
    }

    /// Which records have no key, counted from 0; a thousand are named at the most.
    ///
    /// # Errors
    /// [`Error::CorruptBatch`], [`Error::TooLarge`].
    pub fn keyless_records(&self, limits: BatchLimits) -> Result<Vec<i32>, Error> {
        let records = self.records(limits)?;
        let mut keyless = Vec::new();
        for (index, record) in (0_i32..).zip(records.iter()) {
            if record?.key.is_none() && keyless.len() < KEYLESS_NAMED_MAX {
                keyless.push(index);
            }
        }
        Ok(keyless)
    }

    /// Puts the checksum of changed bytes in its place.
    pub(super) fn sealed(mut bytes: BytesMut, header: BatchHeader) -> Self {
        let crc = crc_fast::crc32_iscsi(&bytes[ATTRIBUTES_AT..]);
        bytes[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        Self { bytes: Bytes::from(bytes), header: BatchHeader { crc, ..header } }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, TimestampType};
    use super::*;

    const LIMITS: BatchLimits = BatchLimits { decompressed_bytes_max: 1 << 20 };

    fn batch(codec: Compression) -> CheckedBatch {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime).with_producer(7, 3, 40);
        let headers: &[(&[u8], Option<&[u8]>)] = &[(b"h", Some(b"1")), (b"h", None)];
        for index in 0..50 {
            let key = format!("key {index}");
            builder.push(1_000 + index, (index % 10 != 3).then_some(key.as_bytes()), Some(b"value"), headers);
        }
        builder.build(codec).unwrap()
    }

    #[test]
    fn every_codec_becomes_every_other_and_records_and_numbers_stay() {
        for from in Compression::ALL {
            let sent = batch(from);
            for to in Compression::ALL {
                let stored = sent.clone().recompressed(to, LIMITS).unwrap();
                let checked = CheckedBatch::parse_stored(stored.bytes().clone()).unwrap();
                assert_eq!(checked.compression(), to);
                assert_eq!(checked.header(), stored.header());
                let (sent_records, records) = (sent.records(LIMITS).unwrap(), checked.records(LIMITS).unwrap());
                let both = sent_records.iter().zip(records.iter());
                assert_eq!(both.filter(|(a, b)| a.as_ref().unwrap() == b.as_ref().unwrap()).count(), 50);
                let (before, after) = (sent.header(), checked.header());
                assert_eq!(
                    (before.producer_id, before.producer_epoch, before.base_sequence, before.last_offset_delta),
                    (after.producer_id, after.producer_epoch, after.base_sequence, after.last_offset_delta)
                );
                assert_eq!(before.max_timestamp_ms, after.max_timestamp_ms);
            }
        }
    }

    #[test]
    fn the_append_time_is_the_time_of_every_record_and_the_checksum_holds() {
        let stamped = batch(Compression::Zstd).with_append_time(99);
        let checked = CheckedBatch::parse_stored(stamped.bytes().clone()).unwrap();
        assert_eq!(checked.header().timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(checked.compression(), Compression::Zstd);
        let records = checked.records(LIMITS).unwrap();
        assert!(records.iter().all(|record| record.unwrap().timestamp_ms == 99));
    }

    #[test]
    fn records_without_a_key_are_named() {
        assert_eq!(batch(Compression::Lz4).keyless_records(LIMITS).unwrap(), [3, 13, 23, 33, 43]);
    }

    #[test]
    fn a_body_that_unfolds_beyond_the_limit_is_refused() {
        let small = BatchLimits { decompressed_bytes_max: 10 };
        let refused = batch(Compression::Gzip).recompressed(Compression::Zstd, small);
        assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    }
}
