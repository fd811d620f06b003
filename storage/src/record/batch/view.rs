//! Records viewed in a batch's decompressed bytes: nothing is copied, and no number in them is trusted.
//!
//! The same walk serves the check at the border and every later view, so what passed once is what is seen.

use bytes::Bytes;

use crate::error::Error;

use super::{BatchHeader, TimestampType, corrupt};

/// Bytes of the smallest header: two varints of one byte each.
const RECORD_HEADER_BYTES_MIN: usize = 2;

/// Headers one record may have: a view of an empty one is sixteen times as large as its bytes.
const RECORD_HEADERS_MAX: usize = 64 << 10;

/// A record's headers in their order; a value may be null.
pub type HeaderViews<'a> = Vec<(&'a [u8], Option<&'a [u8]>)>;

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
    pub headers: HeaderViews<'a>,
}

/// A batch's records, decompressed once, to be viewed.
#[derive(Clone, Debug)]
pub struct Records {
    body: Bytes,
    header: BatchHeader,
}

/// What stands in front of a record's headers.
struct RecordFront<'a> {
    timestamp_delta_ms: i64,
    offset_delta: i32,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    header_count: usize,
    /// The bytes of the headers, to the record's end.
    header_bytes: &'a [u8],
}

impl Records {
    pub(super) fn new(body: Bytes, header: BatchHeader) -> Self {
        Self { body, header }
    }

    /// The decompressed bytes.
    pub(super) fn into_body(self) -> Bytes {
        self.body
    }

    /// The records in offset order. A record that does not parse ends the iteration with an error.
    pub fn iter(&self) -> impl Iterator<Item = Result<RecordView<'_>, Error>> {
        let mut rest = &self.body[..];
        let mut left = self.header.record_count.max(0);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            left -= 1;
            let view = RecordFront::read(&mut rest).and_then(|front| self.view(&front));
            if view.is_err() {
                left = 0;
            }
            Some(view)
        })
    }

    fn view<'a>(&self, front: &RecordFront<'a>) -> Result<RecordView<'a>, Error> {
        let mut headers = Vec::with_capacity(front.header_count);
        front.read_headers(|key, value| headers.push((key, value)))?;
        Ok(RecordView {
            offset: self.header.base_offset.wrapping_add(i64::from(front.offset_delta)),
            timestamp_ms: match self.header.timestamp_type() {
                TimestampType::CreateTime => self.header.base_timestamp_ms.wrapping_add(front.timestamp_delta_ms),
                TimestampType::LogAppendTime => self.header.max_timestamp_ms,
            },
            key: front.key,
            value: front.value,
            headers,
        })
    }

    /// Walks all records of a produced batch: deltas count up from 0, lengths fit, nothing is left over. Gives the
    /// largest timestamp.
    pub(super) fn check_structure(&self) -> Result<i64, Error> {
        let mut rest = &self.body[..];
        let mut max_timestamp_ms = i64::MIN;
        for expected in 0..self.header.record_count {
            let front = RecordFront::read(&mut rest)?;
            front.read_headers(|_, _| {})?;
            if front.header_count > RECORD_HEADERS_MAX {
                return Err(Error::InvalidBatch {
                    reason: format!(
                        "record {expected} has {} headers, at most {RECORD_HEADERS_MAX} are taken",
                        front.header_count
                    ),
                });
            }
            if front.offset_delta != expected {
                return Err(Error::InvalidBatch {
                    reason: format!("record {expected} has an offset delta of {}", front.offset_delta),
                });
            }
            max_timestamp_ms =
                max_timestamp_ms.max(self.header.base_timestamp_ms.wrapping_add(front.timestamp_delta_ms));
        }
        if rest.is_empty() {
            Ok(max_timestamp_ms)
        } else {
            Err(corrupt(format!("{} bytes after the last record", rest.len())))
        }
    }
}

impl<'a> RecordFront<'a> {
    /// Reads a record off the front of `rest`.
    fn read(rest: &mut &'a [u8]) -> Result<Self, Error> {
        let mut record = length(rest)?
            .and_then(|length| split(rest, length))
            .ok_or_else(|| corrupt(format!("a record is longer than the {} bytes left", rest.len())))?;
        let record = &mut record;
        // The record's attributes: Kafka has given none of the bits a meaning.
        split(record, 1).ok_or_else(|| corrupt("a record is empty".to_owned()))?;
        let timestamp_delta_ms = varint(record)?;
        let offset_delta = i32::try_from(varint(record)?).map_err(|_| corrupt("offset delta overflows".to_owned()))?;
        let key = nullable(record)?;
        let value = nullable(record)?;
        let header_count = length(record)?.ok_or_else(|| corrupt("header count is negative".to_owned()))?;
        if header_count > record.len() / RECORD_HEADER_BYTES_MIN {
            return Err(corrupt(format!("{header_count} headers in {} bytes", record.len())));
        }
        Ok(Self { timestamp_delta_ms, offset_delta, key, value, header_count, header_bytes: record })
    }

    /// Gives the headers one by one and makes sure that they fill the record.
    fn read_headers(&self, mut each: impl FnMut(&'a [u8], Option<&'a [u8]>)) -> Result<(), Error> {
        let mut rest = self.header_bytes;
        for _ in 0..self.header_count {
            let key = nullable(&mut rest)?.ok_or_else(|| corrupt("a header has no key".to_owned()))?;
            each(key, nullable(&mut rest)?);
        }
        if rest.is_empty() { Ok(()) } else { Err(corrupt(format!("{} bytes after a record's headers", rest.len()))) }
    }
}

/// Takes `count` bytes off the front.
fn split<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

/// A length and as many bytes; `None` for Kafka's null, a length of -1.
fn nullable<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Error> {
    match length(rest)? {
        None => Ok(None),
        Some(count) => split(rest, count)
            .map(Some)
            .ok_or_else(|| corrupt(format!("a field of {count} bytes where {} are left", rest.len()))),
    }
}

/// A length as varint; `None` for -1.
fn length(rest: &mut &[u8]) -> Result<Option<usize>, Error> {
    let number = varint(rest)?;
    if number == -1 {
        return Ok(None);
    }
    i32::try_from(number)
        .ok()
        .and_then(|number| usize::try_from(number).ok())
        .map(Some)
        .ok_or_else(|| corrupt(format!("length {number} is impossible")))
}

/// A zigzag varint of up to 64 bits.
fn varint(rest: &mut &[u8]) -> Result<i64, Error> {
    let mut bits = 0u64;
    for (index, &byte) in rest.iter().take(10).enumerate() {
        bits |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *rest = &rest[index + 1..];
            return Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
        }
    }
    Err(corrupt("a varint does not end".to_owned()))
}
