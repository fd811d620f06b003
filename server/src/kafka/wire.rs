//! `Reader` and `Writer`: Kafka's primitive types as bytes, every length checked against what is left before it is used.
//!
//! Requests come from strangers. A length that does not fit the frame is an error here, so that nobody behind allocates
//! by what was announced instead of by what was sent.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;

/// The bytes are not what the protocol says they should be, or ask for more than is answered; closes the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request that cannot be answered: {reason}")]
pub(crate) struct Malformed {
    reason: String,
}

impl Malformed {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// Reads a request from its front. Strings and bytes are slices of the frame.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    bytes: Bytes,
    at: usize,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// What has not been read yet.
    pub(crate) fn rest(self) -> Bytes {
        self.bytes.slice(self.at..)
    }

    pub(crate) fn skip(&mut self, count: usize) -> Result<(), Malformed> {
        if count > self.remaining() {
            let left = self.remaining();
            return Err(Malformed::new(format!("{count} bytes announced at {} where {left} are left", self.at)));
        }
        self.at += count;
        Ok(())
    }

    pub(crate) fn slice(&mut self, count: usize) -> Result<Bytes, Malformed> {
        let start = self.at;
        self.skip(count)?;
        Ok(self.bytes.slice(start..self.at))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let start = self.at;
        self.skip(N)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[start..self.at]);
        Ok(out)
    }

    pub(crate) fn int8(&mut self) -> Result<i8, Malformed> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    pub(crate) fn int16(&mut self) -> Result<i16, Malformed> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(crate) fn int32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn int64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// An unsigned varint of at most 32 bits.
    pub(crate) fn uvarint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::new(format!("a varint at {} has more than 32 bits", self.at)))
    }

    /// Checks a length against what is left; -1 is null.
    fn length(&self, length: i64) -> Result<Option<usize>, Malformed> {
        if length == -1 {
            return Ok(None);
        }
        match usize::try_from(length) {
            Ok(length) if length <= self.remaining() => Ok(Some(length)),
            _ => {
                let left = self.remaining();
                Err(Malformed::new(format!("length {length} at {} where {left} bytes are left", self.at)))
            }
        }
    }

    fn compact_length(&mut self) -> Result<Option<usize>, Malformed> {
        let length = i64::from(self.uvarint()?) - 1;
        self.length(length)
    }

    /// A string's length in bytes; `None` is null.
    pub(crate) fn string_length(&mut self, flexible: bool) -> Result<Option<usize>, Malformed> {
        if flexible {
            return self.compact_length();
        }
        let length = self.int16()?;
        self.length(length.into())
    }

    /// The length of bytes, or the count of an array: each element takes a byte at least, so it cannot exceed them.
    pub(crate) fn bytes_length(&mut self, flexible: bool) -> Result<Option<usize>, Malformed> {
        if flexible {
            return self.compact_length();
        }
        let length = self.int32()?;
        self.length(length.into())
    }

    pub(crate) fn nullable_string(&mut self, flexible: bool) -> Result<Option<StrBytes>, Malformed> {
        let Some(length) = self.string_length(flexible)? else { return Ok(None) };
        let bytes = self.slice(length)?;
        StrBytes::from_utf8(bytes).map(Some).map_err(|_| Malformed::new("a string is not UTF-8"))
    }

    pub(crate) fn string(&mut self, flexible: bool) -> Result<StrBytes, Malformed> {
        self.nullable_string(flexible)?.ok_or_else(|| Malformed::new("a string is null that must not be"))
    }

    pub(crate) fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<Bytes>, Malformed> {
        match self.bytes_length(flexible)? {
            Some(length) => self.slice(length).map(Some),
            None => Ok(None),
        }
    }

    /// Passes over the tagged fields of one structure and answers how many they were.
    pub(crate) fn skip_tagged_fields(&mut self) -> Result<u32, Malformed> {
        let count = self.uvarint()?;
        for _ in 0..count {
            self.uvarint()?;
            let size = self.uvarint()?;
            self.skip(usize::try_from(size).unwrap_or(usize::MAX))?;
        }
        Ok(count)
    }
}

/// Writes a response by hand where the bytes of batches must not be copied.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: BytesMut,
}

impl Writer {
    pub(crate) fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.put_u8(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(u8::try_from(value).unwrap_or(0));
    }

    /// A length of bytes or an array: i32, or a varint one larger.
    pub(crate) fn length(&mut self, length: usize, flexible: bool) {
        if flexible {
            self.uvarint(u32::try_from(length).unwrap_or(u32::MAX - 1) + 1);
        } else {
            self.bytes.put_i32(i32::try_from(length).unwrap_or(i32::MAX));
        }
    }

    /// An array that is null: -1, or the varint 0.
    pub(crate) fn null(&mut self, flexible: bool) {
        if flexible {
            self.uvarint(0);
        } else {
            self.bytes.put_i32(-1);
        }
    }

    /// `text` came from a request in the same encoding, so that its length fits.
    pub(crate) fn string(&mut self, text: &str, flexible: bool) {
        if flexible {
            self.uvarint(u32::try_from(text.len()).unwrap_or(u32::MAX - 1) + 1);
        } else {
            self.bytes.put_i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
        }
        self.bytes.put_slice(text.as_bytes());
    }

    /// No tagged fields, where the version has room for some.
    pub(crate) fn no_tagged_fields(&mut self, flexible: bool) {
        if flexible {
            self.bytes.put_u8(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_comes_back_and_one_beyond_32_bits_is_refused() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u32::MAX] {
            let mut writer = Writer::default();
            writer.uvarint(value);
            let mut reader = Reader::new(writer.bytes.freeze());
            assert_eq!(reader.uvarint(), Ok(value));
            assert_eq!(reader.remaining(), 0);
        }
        assert!(Reader::new(Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x1f])).uvarint().is_err());
        assert!(Reader::new(Bytes::from_static(&[0xff, 0xff])).uvarint().is_err());
    }

    #[test]
    fn a_length_beyond_the_frame_is_refused_before_anything_is_read() {
        let announced = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff, 1, 2, 3]);
        assert!(Reader::new(announced.clone()).nullable_bytes(false).is_err());
        assert!(Reader::new(announced).bytes_length(false).is_err());
        assert!(Reader::new(Bytes::from_static(&[0xff, 0xfe])).nullable_string(false).is_err());
        assert_eq!(Reader::new(Bytes::from_static(&[0xff, 0xff])).nullable_string(false), Ok(None));
    }
}
