//! Every reader of stored or received bytes as a function of bytes alone: what the fuzz targets (`tests/fuzz`) call, and
//! the test that goes through their corpus.

use bytes::Bytes;

use crate::error::Result;
use crate::log::fuzz as log;
use crate::manifest::fuzz as manifest;
use crate::record::batch::{BatchBuilder, BatchHeader, BatchLimits, CheckedBatch, Compression, TimestampType};

/// What a batch may become when it is decompressed here.
const LIMITS: BatchLimits = BatchLimits { decompressed_bytes_max: 1 << 20 };
/// Where a batch's checksum stands, and what it covers.
const CRC: std::ops::Range<usize> = 17..21;

/// A reader.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its corpus' folder and of its fuzz target.
    pub name: &'static str,
    /// Reads; returns whatever the bytes are.
    pub read: fn(&[u8]),
}

/// All readers.
pub const TARGETS: [Target; 7] = [
    Target { name: "batch", read: batch },
    Target { name: "frame", read: log::frame },
    Target { name: "segment", read: log::segment },
    Target { name: "footer", read: log::footer },
    Target { name: "snapshot", read: log::snapshot },
    Target { name: "manifest_root", read: manifest::root },
    Target { name: "manifest_chunk", read: manifest::chunk },
];

/// A produce request's bytes for one partition, as a client sends them; then as the log reads them.
fn batch(input: &[u8]) {
    let Some((mend, mut bytes)) = log::split_mode(input) else { return };
    if mend && bytes.len() > CRC.end {
        let crc = crc_fast::crc32_iscsi(&bytes[CRC.end..]);
        bytes[CRC].copy_from_slice(&crc.to_be_bytes());
    }
    let bytes = Bytes::from(bytes);
    let _ = BatchHeader::parse(&bytes);
    let _ = CheckedBatch::parse_produced(bytes.clone(), LIMITS);
    if let Ok(stored) = CheckedBatch::parse_stored(bytes)
        && let Ok(records) = stored.records(LIMITS)
    {
        records.iter().for_each(drop);
    }
}

/// What each corpus begins with: (target, input).
///
/// # Errors
/// If one cannot be made; then it is a bug.
pub fn seeds() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut seeds = log::seeds()?;
    seeds.extend(manifest::seeds()?);
    for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        builder.push(7, Some(b"key"), Some(b"value value value"), &[(b"h", Some(b"1")), (b"h", None)]);
        builder.push(9, None, None, &[]);
        let batch = builder.build(codec).into_iter();
        seeds.extend(batch.map(|batch| ("batch", [&[1], &batch.bytes()[..]].concat())));
    }
    Ok(seeds)
}
