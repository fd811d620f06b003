//! One flipped bit, told from a checksum. Pure.
//!
//! A checksum is linear: by how far it is off says which single bit has changed, and CRC-32C tells all of them apart up to
//! 2^31 bits. That is the most common damage there is, and where it lies decides what is lost: in a payload one batch, in a
//! directory nothing, since it can be put right. What more than one bit explains is not explained here; that some other
//! damage is taken for one bit of a directory has a chance of the directory's bits in 2^32.
//!
//! Nothing is written: a file keeps what it has, and is named for it.

use crate::log::frame::{
    DirectoryEntry, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameDefect, FrameHeader, decode_directory, read_directory,
};

/// CRC-32C's polynomial, the lowest bit first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What a frame's body says, as far as it can be known.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) entries: Vec<DirectoryEntry>,
    /// The payload's bytes are what was written.
    pub(crate) payload_whole: bool,
    /// The entries are what was written.
    pub(crate) directory_whole: bool,
}

/// Reads a body; `None` if its directory cannot be read at all.
pub(crate) fn read_body(header: &FrameHeader, body: &[u8]) -> Option<Told> {
    if let Ok(entries) = decode_directory(header, body) {
        return Some(Told { entries, payload_whole: true, directory_whole: true });
    }
    let directory_bytes = header.directory_bytes as usize;
    match flipped_bit(body, header.body_crc) {
        Some((byte, bit)) if byte < directory_bytes => {
            let mut directory = body[..directory_bytes].to_vec();
            directory[byte] ^= 1 << bit;
            let entries = read_directory(header, &directory).ok()?;
            Some(Told { entries, payload_whole: true, directory_whole: true })
        }
        found => {
            let entries = read_directory(header, body.get(..directory_bytes)?).ok()?;
            Some(Told { entries, payload_whole: false, directory_whole: found.is_some() })
        }
    }
}

/// The header of which one bit has flipped, if that is what is there.
pub(crate) fn mended_header(bytes: &[u8], position: u64) -> Option<FrameHeader> {
    let mut header: [u8; FRAME_HEADER_BYTES] = bytes.get(..FRAME_HEADER_BYTES)?.try_into().ok()?;
    // What lies behind the last frame is mostly nothing like one.
    let magic = header.iter().zip(FRAME_MAGIC).map(|(found, due)| (found ^ due).count_ones()).sum::<u32>();
    if magic > 1 {
        return None;
    }
    for byte in 0..FRAME_HEADER_BYTES {
        for bit in 0..u8::BITS {
            header[byte] ^= 1 << bit;
            match FrameHeader::decode(&header, position) {
                Ok(mended) => return Some(mended),
                Err(FrameDefect::Damaged | FrameDefect::Newer(_)) => header[byte] ^= 1 << bit,
            }
        }
    }
    None
}

/// Byte and bit of the one flip that explains why `bytes` do not have the checksum they should have.
fn flipped_bit(bytes: &[u8], crc: u32) -> Option<(usize, u32)> {
    let mut off = crc_fast::crc32_iscsi(bytes) ^ crc;
    if off == 0 {
        return None;
    }
    // A register that is 1 when the flipped bit comes and takes a step for this bit and each one behind it is off by just
    // this; so as many steps back lead to 1.
    for byte in (0..bytes.len()).rev() {
        for bit in (0..u8::BITS).rev() {
            let carry = off >> 31;
            off = ((off ^ (POLYNOMIAL * carry)) << 1) | carry;
            if off == 1 {
                return Some((byte, bit));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_bit_that_has_flipped_is_found(
            mut bytes in proptest::collection::vec(any::<u8>(), 1..600),
            at in any::<prop::sample::Index>(),
            bit in 0_u32..8,
        ) {
            let crc = crc_fast::crc32_iscsi(&bytes);
            prop_assert_eq!(flipped_bit(&bytes, crc), None);
            let byte = at.index(bytes.len());
            bytes[byte] ^= 1 << bit;
            prop_assert_eq!(flipped_bit(&bytes, crc), Some((byte, bit)));
        }

        #[test]
        fn what_two_bits_have_done_is_not_taken_for_one(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..600),
            at in any::<[prop::sample::Index; 2]>(),
        ) {
            let (first, second) = (at[0].index(bytes.len()), at[1].index(bytes.len()));
            prop_assume!(first != second);
            let crc = crc_fast::crc32_iscsi(&bytes);
            bytes[first] ^= 1;
            bytes[second] ^= 4;
            prop_assert_eq!(flipped_bit(&bytes, crc), None);
        }
    }
}
