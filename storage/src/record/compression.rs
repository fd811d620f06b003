//! The five codecs of Kafka's batches, in both directions; what comes out never exceeds a limit given by the caller.
//!
//! A length on the wire is a claim: buffers grow with what a decoder really gives, so a small batch that unfolds to
//! gigabytes costs at most the limit before it is refused.

use std::io::{self, Read, Write};

use bytes::Bytes;

use crate::error::Error;

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

impl Compression {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec of these attributes; `None` for a number Kafka has not given out.
    pub(crate) fn of_attributes(attributes: i16) -> Option<Self> {
        Self::ALL.get(usize::from(attributes.unsigned_abs() & 0b111)).copied()
    }
}

/// What Java's snappy stream and kafkajs write in front of their blocks: magic, version, lowest compatible version.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\x00";
const XERIAL_HEADER_BYTES: usize = 16;

/// Snappy's densest element copies 64 bytes with 3, so a bare block that claims more than this factor lies.
const SNAPPY_RATIO_MAX: usize = 22;

/// A zstd frame may ask for a window this large (8 MiB: what the format wants every decoder to support), or for the
/// limit if that is larger.
const ZSTD_WINDOW_LOG_MIN: u32 = 23;
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// First size of the buffer decompressed bytes are collected in.
const FIRST_BUFFER_BYTES: usize = 16 << 10;

/// Decompresses `body` to at most `limit_bytes`. Uncompressed bytes are shared, not copied.
pub(crate) fn decompress(codec: Compression, body: &Bytes, limit_bytes: usize) -> Result<Bytes, Error> {
    let plain = match codec {
        Compression::None => {
            return if body.len() > limit_bytes { Err(too_large(body.len(), limit_bytes)) } else { Ok(body.clone()) };
        }
        Compression::Gzip => read_bounded(codec, flate2::read::MultiGzDecoder::new(&body[..]), limit_bytes),
        Compression::Snappy => snappy(body, limit_bytes),
        Compression::Lz4 => read_bounded(codec, lz4_flex::frame::FrameDecoder::new(&body[..]), limit_bytes),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&body[..]).map_err(|e| damaged(codec, &e))?;
            let log = usize::BITS - limit_bytes.leading_zeros();
            decoder
                .window_log_max(log.clamp(ZSTD_WINDOW_LOG_MIN, ZSTD_WINDOW_LOG_MAX))
                .map_err(|e| damaged(codec, &e))?;
            read_bounded(codec, decoder, limit_bytes)
        }
    }?;
    Ok(Bytes::from(plain))
}

/// Compresses `body`. Writing to memory does not fail in practice; if a codec refuses, the caller keeps the bytes plain.
pub(crate) fn compress(codec: Compression, body: &[u8]) -> io::Result<Vec<u8>> {
    match codec {
        Compression::None => Ok(body.to_vec()),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(body)?;
            encoder.finish()
        }
        Compression::Snappy => snap::raw::Encoder::new().compress_vec(body).map_err(io::Error::other),
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(body)?;
            encoder.finish().map_err(io::Error::other)
        }
        Compression::Zstd => zstd::stream::encode_all(body, zstd::DEFAULT_COMPRESSION_LEVEL),
    }
}

/// Reads all of `source`, whose buffer never grows beyond `limit_bytes`.
fn read_bounded(codec: Compression, mut source: impl Read, limit_bytes: usize) -> Result<Vec<u8>, Error> {
    let mut plain = vec![0; FIRST_BUFFER_BYTES.min(limit_bytes)];
    let mut filled = 0;
    loop {
        if filled == plain.len() && filled < limit_bytes {
            let larger = plain.len().saturating_mul(2).min(limit_bytes);
            plain.reserve_exact(larger - plain.len());
            plain.resize(larger, 0);
        }
        // Whether there is more than fits shows in a byte of its own: for it alone the buffer would be held twice.
        let mut beyond = [0];
        let room = if filled < plain.len() { &mut plain[filled..] } else { &mut beyond[..] };
        match source.read(room) {
            Ok(0) => break,
            Ok(_) if filled == limit_bytes => return Err(too_large(limit_bytes.saturating_add(1), limit_bytes)),
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(damaged(codec, &e)),
        }
    }
    plain.truncate(filled);
    Ok(plain)
}

/// Snappy as clients send it: one bare block, or xerial's blocks with a length in front of each.
fn snappy(body: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Error> {
    let mut plain = Vec::new();
    if !body.starts_with(XERIAL_MAGIC) {
        snappy_block(body, &mut plain, limit_bytes)?;
        return Ok(plain);
    }
    let mut rest = body.get(XERIAL_HEADER_BYTES..).ok_or_else(|| damaged(Compression::Snappy, &"header is cut off"))?;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let block = usize::try_from(u32::from_be_bytes(*length)).ok().and_then(|length| after.split_at_checked(length));
        let (block, after) = block.ok_or_else(|| damaged(Compression::Snappy, &"block is cut off"))?;
        snappy_block(block, &mut plain, limit_bytes)?;
        rest = after;
    }
    if rest.is_empty() { Ok(plain) } else { Err(damaged(Compression::Snappy, &"bytes after the last block")) }
}

/// Appends one decompressed block to `plain`.
fn snappy_block(block: &[u8], plain: &mut Vec<u8>, limit_bytes: usize) -> Result<(), Error> {
    let claimed = snap::raw::decompress_len(block).map_err(|e| damaged(Compression::Snappy, &e))?;
    let total = plain.len().saturating_add(claimed);
    if total > limit_bytes {
        return Err(too_large(total, limit_bytes));
    }
    if claimed > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(damaged(Compression::Snappy, &"block claims more bytes than it can hold"));
    }
    let start = plain.len();
    plain.resize(total, 0);
    let count = snap::raw::Decoder::new()
        .decompress(block, &mut plain[start..])
        .map_err(|e| damaged(Compression::Snappy, &e))?;
    plain.truncate(start + count);
    Ok(())
}

fn damaged(codec: Compression, what: &dyn std::fmt::Display) -> Error {
    Error::CorruptBatch { reason: format!("{codec:?} records do not decompress: {what}") }
}

fn too_large(bytes: usize, limit_bytes: usize) -> Error {
    Error::TooLarge {
        what: "decompressed batch",
        bytes: bytes as u64,
        setting: "batch.decompressed_bytes_max",
        limit_bytes: limit_bytes as u64,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What Java's SnappyOutputStream would write, cut into blocks of `block_bytes`.
    fn xerial(plain: &[u8], block_bytes: usize) -> Bytes {
        let mut framed = XERIAL_MAGIC.to_vec();
        framed.extend([0, 0, 0, 1, 0, 0, 0, 1]);
        for block in plain.chunks(block_bytes) {
            let compressed = compress(Compression::Snappy, block).unwrap();
            framed.extend(u32::try_from(compressed.len()).unwrap().to_be_bytes());
            framed.extend(compressed);
        }
        Bytes::from(framed)
    }

    #[test]
    fn every_codec_gives_back_what_went_in_and_refuses_one_byte_more_than_the_limit() {
        let plain: Vec<u8> = (0..100_000u32).flat_map(|n| (n % 251).to_le_bytes()).collect();
        for codec in Compression::ALL {
            let small = Bytes::from(compress(codec, &plain).unwrap());
            assert_eq!(decompress(codec, &small, plain.len()).unwrap(), plain, "{codec:?}");
            let refused = decompress(codec, &small, plain.len() - 1);
            assert!(matches!(refused, Err(Error::TooLarge { .. })), "{codec:?}: {refused:?}");
        }
    }

    #[test]
    fn snappy_is_read_in_xerial_framing_with_many_blocks() {
        let plain: Vec<u8> = (0..40_000u32).flat_map(|n| (n % 7).to_le_bytes()).collect();
        let framed = xerial(&plain, 32 << 10);
        assert_eq!(decompress(Compression::Snappy, &framed, plain.len()).unwrap(), plain);
        assert!(decompress(Compression::Snappy, &framed, plain.len() - 1).is_err());
        assert!(decompress(Compression::Snappy, &framed.slice(..framed.len() - 1), plain.len()).is_err());
        assert!(decompress(Compression::Snappy, &framed.slice(..10), plain.len()).is_err());
    }

    #[test]
    fn concatenated_gzip_members_are_one_body() {
        let mut both = compress(Compression::Gzip, b"first ").unwrap();
        both.extend(compress(Compression::Gzip, b"second").unwrap());
        assert_eq!(&decompress(Compression::Gzip, &Bytes::from(both), 100).unwrap()[..], b"first second");
    }

    #[test]
    fn a_bomb_costs_the_limit_not_what_it_unfolds_to() {
        let zeros = vec![0; 64 << 20];
        for codec in [Compression::Gzip, Compression::Lz4, Compression::Zstd, Compression::Snappy] {
            let bomb = Bytes::from(compress(codec, &zeros).unwrap());
            assert!(matches!(decompress(codec, &bomb, 1 << 20), Err(Error::TooLarge { .. })), "{codec:?}");
        }
    }

    #[test]
    fn a_bare_snappy_block_that_claims_too_much_is_refused_before_memory_is_taken() {
        // The varint claims 60 MiB, four bytes follow.
        let claim = Bytes::from_static(&[0x80, 0x80, 0x80, 0x1e, 0, 0, 0, 0]);
        assert!(matches!(decompress(Compression::Snappy, &claim, 64 << 20), Err(Error::CorruptBatch { .. })));
    }

    #[test]
    fn the_buffer_never_grows_beyond_the_limit() {
        for limit in [0, 1, 1000, FIRST_BUFFER_BYTES, 100_000] {
            let fits = read_bounded(Compression::Gzip, io::repeat(7).take(limit as u64), limit).unwrap();
            assert_eq!(fits.len(), limit);
            assert!(fits.capacity() <= limit, "{} bytes taken for {limit}", fits.capacity());
            assert!(matches!(read_bounded(Compression::Gzip, io::repeat(7), limit), Err(Error::TooLarge { .. })));
        }
    }

    proptest! {
        #[test]
        fn damaged_bodies_never_panic_and_never_exceed_the_limit(
            plain in vec(any::<u8>(), 0..2000),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            framed in any::<bool>(),
            limit in 0..3000usize,
        ) {
            for codec in Compression::ALL {
                let mut body = match codec {
                    Compression::Snappy if framed => xerial(&plain, 700).to_vec(),
                    codec => compress(codec, &plain).unwrap(),
                };
                let damage = if body.is_empty() { &[][..] } else { &damage };
                for (index, byte) in damage {
                    let at = index.index(body.len());
                    body[at] = *byte;
                }
                if let Ok(decompressed) = decompress(codec, &Bytes::from(body), limit) {
                    prop_assert!(decompressed.len() <= limit);
                }
            }
        }
    }
}
