//! `ScanMeter`: what a scan looked at, left out and read, counted while it goes on.
//!
//! One meter may serve several streams of one scan: an object that two of them read is counted once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Counts of one scan; the names are those that `EXPLAIN ANALYZE` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanCounts {
    /// Objects of the topic, as of the snapshot.
    pub objects_considered: u64,
    /// Those of which something was read.
    pub objects_read: u64,
    /// Row groups of the wanted partitions in the objects that the manifest did not rule out.
    pub row_groups_considered: u64,
    /// Those left out: by the manifest's offsets and times, by statistics, by filters on keys or by a filter that became
    /// known while the scan ran.
    pub row_groups_pruned: u64,
    /// Those of which column chunks were read, or rows counted without reading any.
    pub row_groups_read: u64,
    /// Bytes of column chunks, footers and filters on keys that were asked of the bucket or of its cache.
    pub bytes_read: u64,
    /// Footers that had to be read.
    pub footers_read: u64,
    /// Footers that were in memory.
    pub footer_cache_hits: u64,
    /// Rows that came typed out of objects.
    pub typed_rows: u64,
    /// Rows of objects that were decoded from their raw value.
    pub decoded_rows: u64,
    /// Rows that came from the log.
    pub hot_rows: u64,
    /// Those of them that had been decoded before, for another scan.
    pub hot_rows_shared: u64,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct ScanMeter {
    objects_considered: AtomicU64,
    row_groups_considered: AtomicU64,
    row_groups_pruned: AtomicU64,
    row_groups_read: AtomicU64,
    bytes_read: AtomicU64,
    footers_read: AtomicU64,
    footer_cache_hits: AtomicU64,
    typed_rows: AtomicU64,
    decoded_rows: AtomicU64,
    hot_rows: AtomicU64,
    hot_rows_shared: AtomicU64,
    /// Names of objects something was read of; bounded by what the scan's snapshot names.
    objects: Mutex<HashSet<String>>,
}

impl ScanMeter {
    /// As of now.
    #[must_use]
    pub fn counts(&self) -> ScanCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ScanCounts {
            objects_considered: of(&self.objects_considered),
            objects_read: self.objects.lock().len() as u64,
            row_groups_considered: of(&self.row_groups_considered),
            row_groups_pruned: of(&self.row_groups_pruned),
            row_groups_read: of(&self.row_groups_read),
            bytes_read: of(&self.bytes_read),
            footers_read: of(&self.footers_read),
            footer_cache_hits: of(&self.footer_cache_hits),
            typed_rows: of(&self.typed_rows),
            decoded_rows: of(&self.decoded_rows),
            hot_rows: of(&self.hot_rows),
            hot_rows_shared: of(&self.hot_rows_shared),
        }
    }

    /// The topic has so many objects; the most that anybody says counts.
    pub(crate) fn considered_objects(&self, objects: u64) {
        self.objects_considered.fetch_max(objects, Ordering::Relaxed);
    }

    pub(crate) fn considered_groups(&self, groups: usize, pruned: usize) {
        self.row_groups_considered.fetch_add(groups as u64, Ordering::Relaxed);
        self.pruned_groups(pruned);
    }

    pub(crate) fn pruned_groups(&self, groups: usize) {
        self.row_groups_pruned.fetch_add(groups as u64, Ordering::Relaxed);
    }

    pub(crate) fn read_groups(&self, object: &str, groups: usize) {
        self.row_groups_read.fetch_add(groups as u64, Ordering::Relaxed);
        let mut objects = self.objects.lock();
        if !objects.contains(object) {
            objects.insert(object.to_owned());
        }
    }

    pub(crate) fn read_bytes(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn footer(&self, cached: bool, bytes: u64) {
        if cached {
            self.footer_cache_hits.fetch_add(1, Ordering::Relaxed);
        } else {
            self.footers_read.fetch_add(1, Ordering::Relaxed);
            self.read_bytes(bytes);
        }
    }

    pub(crate) fn typed_rows(&self, rows: usize) {
        self.typed_rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn decoded_rows(&self, rows: usize) {
        self.decoded_rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn hot_rows(&self, rows: usize) {
        self.hot_rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn hot_rows_shared(&self, rows: usize) {
        self.hot_rows_shared.fetch_add(rows as u64, Ordering::Relaxed);
    }
}
