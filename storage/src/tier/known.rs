//! What housekeeping has found out about chunks of manifests. A chunk never changes under its name, so what was found stays
//! true, and a topic with a year of objects costs what has changed of it: after a start each chunk is read once.
//!
//! Bounded by a share of `memory.limit`; what had to go is found out again.

use std::sync::Arc;

use crate::ids::TopicId;
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
    /// Objects that have the columns of a declaration, or were written to have them, by name.
    typed: Cache<String, u64>,
    /// Topics all of whose objects have: as of which version of the manifest, for which declaration.
    typed_topics: Cache<TopicId, (u64, u64)>,
}

impl Known {
    /// Nothing yet.
    pub(crate) fn new(memory_limit: u64) -> Self {
        let quarter = usize::try_from(upkeep_bytes_max(memory_limit) / 4).unwrap_or(usize::MAX);
        Self {
            quiet: Cache::new(quarter),
            shares: Cache::new(quarter),
            typed: Cache::new(quarter),
            typed_topics: Cache::new(quarter),
        }
    }

    /// Whether an object has the columns of a declaration, or there is no use in trying.
    pub(crate) fn is_typed(&self, object: &str, declaration: u64) -> bool {
        self.typed.get(&object.to_owned()) == Some(declaration)
    }

    /// An object has the columns of a declaration, or was written to have them.
    pub(crate) fn note_typed(&self, object: &str, declaration: u64) {
        let weight = 4 * size_of::<String>() + 2 * object.len();
        self.typed.insert(object.to_owned(), declaration, weight);
    }

    /// Whether all objects of a topic have the columns of a declaration, as of a version of its manifest.
    pub(crate) fn is_typed_topic(&self, topic: TopicId, of: (u64, u64)) -> bool {
        self.typed_topics.get(&topic) == Some(of)
    }

    /// All objects of a topic have them.
    pub(crate) fn note_typed_topic(&self, topic: TopicId, of: (u64, u64)) {
        self.typed_topics.insert(topic, of, 2 * size_of::<(TopicId, (u64, u64))>());
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
