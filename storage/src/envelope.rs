//! The envelope around everything stored that is not a frame or Parquet, in the data directory and in the bucket: what
//! it is, which version, how long, and whether it is whole.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | magic: says what it is |
//! | 8..12 | format version, little-endian like all numbers here |
//! | 12..20 | length of the payload |
//! | 20..24 | CRC-32C of the payload |
//! | 24..28 | CRC-32C of bytes 0..24 |
//! | 28..  | the payload, in postcard's encoding |

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Bytes in front of the payload.
pub(crate) const ENVELOPE_BYTES: usize = 28;

/// A kind of stored thing: its magic, the version this program writes, its name for errors. Never give a magic twice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
    pub(crate) name: &'static str,
}

/// Encodes a value and puts it into its envelope.
pub(crate) fn seal<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>> {
    let payload = postcard::to_stdvec(value).map_err(Error::format(format!("encode {}", kind.name)))?;
    let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + payload.len());
    bytes.extend_from_slice(&kind.magic);
    bytes.extend_from_slice(&kind.version.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc_fast::crc32_iscsi(&payload).to_le_bytes());
    let header_crc = crc_fast::crc32_iscsi(&bytes);
    bytes.extend_from_slice(&header_crc.to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// Opens an envelope; `place` names the file for errors.
///
/// # Errors
/// [`Error::Corrupt`] for damage; [`Error::Config`] for a version newer than this program's.
pub(crate) fn open<T: DeserializeOwned>(kind: Kind, bytes: &[u8], place: &str) -> Result<T> {
    let (_, payload) = check(kind, bytes, place)?;
    decode(payload, place)
}

/// Decodes the payload of an envelope that was checked.
///
/// # Errors
/// [`Error::Corrupt`].
pub(crate) fn decode<T: DeserializeOwned>(payload: &[u8], place: &str) -> Result<T> {
    postcard::from_bytes(payload).map_err(|error| Error::Corrupt {
        place: place.to_owned(),
        reason: format!("payload does not decode: {error}"),
    })
}

/// Checks an envelope; gives the version in it and the payload, for who reads older versions too.
///
/// # Errors
/// As [`open`].
pub(crate) fn check<'a>(kind: Kind, bytes: &'a [u8], place: &str) -> Result<(u32, &'a [u8])> {
    let corrupt = |reason: &str| Error::Corrupt { place: place.to_owned(), reason: reason.to_owned() };
    let Some((header, payload)) = bytes.split_at_checked(ENVELOPE_BYTES) else {
        return Err(corrupt("too short"));
    };
    if header[..8] != kind.magic {
        return Err(corrupt(&format!("not a {}", kind.name)));
    }
    if crc_fast::crc32_iscsi(&header[..24]) != u32_at(header, 24) {
        return Err(corrupt("checksum of the header does not match"));
    }
    let version = u32_at(header, 8);
    if version > kind.version {
        return Err(newer(kind.name, place, version, kind.version));
    }
    if u64_at(header, 12) != payload.len() as u64 {
        return Err(corrupt("length does not match"));
    }
    if crc_fast::crc32_iscsi(payload) != u32_at(header, 20) {
        return Err(corrupt("checksum does not match"));
    }
    Ok((version, payload))
}

/// The refusal of what a newer program wrote.
pub(crate) fn newer(name: &str, place: &str, version: u32, known: u32) -> Error {
    Error::Config {
        reason: format!(
            "{place}: {name} has format version {version}, this program knows versions up to {known}; \
             start the newer program that wrote it"
        ),
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { magic: *b"AQTEST\0\0", version: 2, name: "test value" };

    #[test]
    fn a_value_comes_out_as_it_went_in_and_every_flipped_bit_is_seen() {
        let value = (7_u64, "seven".to_owned());
        let sealed = seal(KIND, &value).unwrap();
        assert_eq!(open::<(u64, String)>(KIND, &sealed, "x").unwrap(), value);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = open::<(u64, String)>(KIND, &flipped, "x").unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "bit {bit}: {error}");
        }
        for length in 0..sealed.len() {
            open::<(u64, String)>(KIND, &sealed[..length], "x").unwrap_err();
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let sealed = seal(Kind { version: 3, ..KIND }, &1_u64).unwrap();
        let error = open::<u64>(KIND, &sealed, "meta").unwrap_err();
        assert!(matches!(&error, Error::Config { reason } if reason.contains("version 3")), "{error}");
    }
}
