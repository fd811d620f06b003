//! Every reader of stored or received bytes as a function of bytes alone: what the fuzz targets (`tests/fuzz`) call, and
//! the test that goes through their corpus.

use std::sync::LazyLock;

use bytes::Bytes;

use crate::error::Result;
use crate::log::fuzz as log;
use crate::manifest::fuzz as manifest;
use crate::record::batch::{BatchBuilder, BatchHeader, BatchLimits, CheckedBatch, Compression, TimestampType};
use crate::settings::StorageSettings;

/// What a batch may become when it is decompressed here, most of the time: runs are many and quick then.
const SMALL: BatchLimits = BatchLimits { decompressed_bytes_max: 1 << 20 };
/// What it may become by the settings; for inputs whose first byte has this bit.
static REAL: LazyLock<BatchLimits> = LazyLock::new(|| {
    let bytes = StorageSettings::default().batch_decompressed_bytes_max;
    BatchLimits { decompressed_bytes_max: usize::try_from(bytes).unwrap_or(usize::MAX) }
});
const REAL_BIT: u8 = 2;
/// Bytes a reader may hold at once for the few KiB of an input.
const HELD_BYTES_MAX: usize = 64 << 20;
/// What the decoders take besides, and the input.
const SLACK_BYTES: usize = 4 << 20;
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

impl Target {
    /// Bytes the reader may hold at once. While the last growth of its buffer is copied a batch is held one and a half
    /// times.
    #[must_use]
    pub fn held_bytes_max(&self) -> usize {
        if self.name == "batch" { REAL.decompressed_bytes_max / 2 * 3 + SLACK_BYTES } else { HELD_BYTES_MAX }
    }
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
    let limits = if input[0] & REAL_BIT == 0 { SMALL } else { *REAL };
    if mend && bytes.len() > CRC.end {
        let crc = crc_fast::crc32_iscsi(&bytes[CRC.end..]);
        bytes[CRC].copy_from_slice(&crc.to_be_bytes());
    }
    let bytes = Bytes::from(bytes);
    let _ = BatchHeader::parse(&bytes);
    let _ = CheckedBatch::parse_produced(bytes.clone(), limits);
    if let Ok(stored) = CheckedBatch::parse_stored(bytes)
        && let Ok(records) = stored.records(limits)
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

/// Batches of a few KiB that unfold to just below what the settings allow, and far beyond: (bytes when unfolded, input).
#[must_use]
pub fn bombs() -> Vec<(usize, Vec<u8>)> {
    let limit = REAL.decompressed_bytes_max;
    let bomb = |bytes: usize| {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        builder.push(7, Some(b"key"), Some(&vec![0; bytes]), &[]);
        let batch = builder.build(Compression::Zstd)?;
        Some((bytes, [&[1 | REAL_BIT], &batch.bytes()[..]].concat()))
    };
    [limit - (1 << 20), limit + (16 << 20)].into_iter().filter_map(bomb).collect()
}

/// Whether a batch as a client sends it is let in with the limit of the settings.
#[must_use]
pub fn is_produced(input: &[u8]) -> bool {
    CheckedBatch::parse_produced(Bytes::copy_from_slice(&input[1..]), *REAL).is_ok()
}
