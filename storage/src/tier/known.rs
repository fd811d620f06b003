//! What housekeeping has found out about chunks of manifests. A chunk never changes under its name, so what was found stays
//! true, and a topic with a year of objects costs what has changed of it: after a start each chunk is read once.
//!
//! Bounded by a share of `memory.limit`; what had to go is found out again.

use std::sync::Arc;

use crate::manifest::model::{ChunkName, Entry};
use crate::object::cache::Cache;
use crate::settings::upkeep_bytes_max;

/// Entries that a chunk leaves to those behind it, as far as they are remembered.
const LEFT_MAX: usize = 8;

/// What is known of a chunk, or of one with all below it, in which nothing is to be merged.
#[derive(Clone, Debug)]
pub(crate) struct Quiet {
    /// Whether its first entry joins nothing: else this is true only behind one that joins nothing.
    pub(crate) begins_apart: bool,
    /// Its last entries, which may yet be joined with what comes.
    pub(crate) left: Arc<[Arc<Entry>]>,
}

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Known {
    quiet: Cache<ChunkName, Quiet>,
    shares: Cache<ChunkName, Arc<[(i32, u64)]>>,
}

impl Known {
    /// Nothing yet.
    pub(crate) fn new(memory_limit: u64) -> Self {
        let half = usize::try_from(upkeep_bytes_max(memory_limit) / 2).unwrap_or(usize::MAX);
        Self { quiet: Cache::new(half), shares: Cache::new(half) }
    }

    /// What is known of a chunk in which nothing was to be merged.
    pub(crate) fn quiet(&self, chunk: ChunkName) -> Option<Quiet> {
        self.quiet.get(&chunk)
    }

    /// Nothing was to be merged in a chunk; `left` are its last entries that may yet be joined.
    pub(crate) fn note_quiet(&self, chunk: ChunkName, begins_apart: bool, left: &[Arc<Entry>]) {
        if left.len() <= LEFT_MAX {
            let weight = left.iter().map(|entry| size_of::<Entry>() + 2 * entry.weight()).sum::<usize>();
            let quiet = Quiet { begins_apart, left: left.into() };
            self.quiet.insert(chunk, quiet, size_of::<Quiet>() + 2 * size_of::<ChunkName>() + weight);
        }
    }

    /// Bytes of a chunk's row groups by partition.
    pub(crate) fn shares(&self, chunk: ChunkName) -> Option<Arc<[(i32, u64)]>> {
        self.shares.get(&chunk)
    }

    /// A chunk's row groups take so many bytes, by partition.
    pub(crate) fn note_shares(&self, chunk: ChunkName, shares: impl IntoIterator<Item = (i32, u64)>) {
        let shares: Arc<[_]> = shares.into_iter().collect();
        let weight = size_of::<(i32, u64)>() * shares.len() + 4 * size_of::<ChunkName>();
        self.shares.insert(chunk, shares, weight);
    }
}
