//! Around every piece of metadata in the bucket: what it is, which version of it, how long, and a checksum.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `AQFM` |
//! | 1 | kind (see [`Kind`]) |
//! | 1 | 0 |
//! | 2 | version of the payload's format, little-endian |
//! | 4 | payload length, little-endian |
//! | 4 | CRC-32C of the twelve bytes before and the payload, little-endian |
//! | … | payload, postcard |
//!
//! A reader refuses what is newer than it knows, by name: postcard does not describe itself.

use crc_fast::{CrcAlgorithm, Digest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

const MAGIC: [u8; 4] = *b"AQFM";
const HEADER_BYTES: usize = 16;

/// What is inside. Stored: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A writer's claim on the bucket.
    Claim = 1,
    /// A manifest's root.
    Root = 2,
    /// A manifest's chunk.
    Chunk = 3,
}

/// Puts `value` into an envelope of `version`.
///
/// # Errors
/// [`Error::Format`] if it cannot be written; then it is a bug.
pub(crate) fn seal<T: Serialize>(kind: Kind, version: u16, value: &T) -> Result<Vec<u8>> {
    let payload = postcard::to_stdvec(value).map_err(Error::format("write metadata"))?;
    let length = u32::try_from(payload.len()).map_err(Error::format("write metadata"))?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[kind as u8, 0]);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    let crc = checksum(&bytes, &payload);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// Takes the value out of an envelope of at most `version_max`; `place` names the object in errors.
///
/// # Errors
/// [`Error::Corrupt`], also for a newer version.
pub(crate) fn open<T: DeserializeOwned>(kind: Kind, version_max: u16, bytes: &[u8], place: &str) -> Result<T> {
    let corrupt = |reason: String| Error::Corrupt { place: place.to_owned(), reason };
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(corrupt(format!("{} bytes are fewer than an envelope has", bytes.len())));
    };
    let [m0, m1, m2, m3, found_kind, _, v0, v1, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(corrupt("it does not begin with AQFM".to_owned()));
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if payload.len() as u64 != u64::from(length) {
        return Err(corrupt(format!("{} bytes where {length} are announced", payload.len())));
    }
    let (stored, computed) = (u32::from_le_bytes([c0, c1, c2, c3]), checksum(&bytes[..HEADER_BYTES - 4], payload));
    if stored != computed {
        return Err(corrupt(format!("checksum {computed:08x} where {stored:08x} is stored")));
    }
    if found_kind != kind as u8 {
        return Err(corrupt(format!("it is of kind {found_kind}, not {}", kind as u8)));
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version > version_max {
        return Err(corrupt(format!(
            "its format version {version} is newer than {version_max}, the newest this program knows; upgrade it"
        )));
    }
    postcard::from_bytes(payload).map_err(|error| corrupt(format!("its payload does not parse: {error}")))
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(header);
    digest.update(payload);
    // A CRC-32 fits; the digest's type is wider for its 64-bit kin.
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sealed = seal(Kind::Root, 1, &("words".to_owned(), 7u64)).unwrap();
        let back: (String, u64) = open(Kind::Root, 1, &sealed, "x").unwrap();
        assert_eq!(back, ("words".to_owned(), 7));
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = open::<(String, u64)>(Kind::Root, 1, &damaged, "x").unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "bit {bit}: {error}");
        }
        for length in 0..sealed.len() {
            open::<(String, u64)>(Kind::Root, 1, &sealed[..length], "x").unwrap_err();
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let sealed = seal(Kind::Root, 2, &7u64).unwrap();
        let error = open::<u64>(Kind::Root, 1, &sealed, "x").unwrap_err();
        assert!(error.to_string().contains("format version 2 is newer than 1"), "{error}");
        assert!(open::<u64>(Kind::Chunk, 2, &sealed, "x").is_err());
    }
}
