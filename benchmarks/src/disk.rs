//! What the disk itself can do, measured where the nodes will write: no log syncs faster than its disk.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::failure::Result;
use crate::statistics::{Times, mb_per_second};

const PAGE_BYTES: usize = 4096;
const SYNCS: u32 = 200;
/// Pages that the syncs overwrite in turn; preallocated, as a log's segment is.
const PAGES: u32 = 256;
const SEQUENTIAL_BYTES: u64 = 256 << 20;
const SEQUENTIAL_CHUNK_BYTES: usize = 1 << 20;

/// The disk's own speed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Disk {
    /// Median of overwriting a page and `fdatasync`.
    pub(crate) sync_p50_ms: f64,
    /// Its 99th percentile.
    pub(crate) sync_p99_ms: f64,
    /// Writing a file from front to end with one `fdatasync` at the end.
    pub(crate) sequential_write_mb_s: f64,
}

/// Measures the disk under `directory`.
pub(crate) fn measure(directory: &Path) -> Result<Disk> {
    let syncs = measure_syncs(tempfile::tempfile_in(directory)?)?;
    Ok(Disk {
        sync_p50_ms: syncs.percentile_ms(50),
        sync_p99_ms: syncs.percentile_ms(99),
        sequential_write_mb_s: measure_sequential(tempfile::tempfile_in(directory)?)?,
    })
}

fn measure_syncs(mut file: File) -> Result<Times> {
    let page = [0x5a; PAGE_BYTES];
    for _ in 0..PAGES {
        file.write_all(&page)?;
    }
    file.sync_all()?;
    let mut times = Times::default();
    for sync in 0..SYNCS {
        file.seek(SeekFrom::Start(u64::from(sync % PAGES) * PAGE_BYTES as u64))?;
        let begun = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

fn measure_sequential(mut file: File) -> Result<f64> {
    let chunk = vec![0x5a; SEQUENTIAL_CHUNK_BYTES];
    let begun = Instant::now();
    for _ in 0..SEQUENTIAL_BYTES / SEQUENTIAL_CHUNK_BYTES as u64 {
        file.write_all(&chunk)?;
    }
    file.sync_data()?;
    Ok(mb_per_second(SEQUENTIAL_BYTES, begun.elapsed()))
}
