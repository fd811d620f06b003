//! The store of the keyed state: a keyspace per topic in one LSM tree below the data directory.
//!
//! Everything here blocks. What the store says is an error of the state's own: whoever asks falls back to the log. Memory is
//! a share of `memory.limit`: half for blocks read lately, half for what is not flushed yet.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, Readable, Snapshot};

use crate::error::{Error, Result};
use crate::ids::TopicId;
use crate::state::entry::{MARK_KEY, Mark};

/// One part in so many of `memory.limit` is for the state.
const MEMORY_SHARE: u64 = 16;
/// Bytes that blocks read lately have at least.
const CACHE_BYTES_MIN: u64 = 4 << 20;
/// Bytes that may wait unflushed in all of it, at the least: files are not worth their while otherwise.
const UNFLUSHED_BYTES_MIN: u64 = 4 << 20;
/// One keyspace is flushed at one part in so many of those bytes.
const PART_SHARE: u64 = 4;
/// And, while there are more than those bytes, at half as many.
const PRESSED_SHARE: u64 = 2 * PART_SHARE;
/// Files held open.
const FILES_MAX: usize = 64;
/// Bytes of journals, the least that fjall takes.
const JOURNAL_BYTES: u64 = 64 << 20;
/// Threads that flush and compact.
const THREADS: usize = 1;

/// What fjall says, as an error of storage.
pub(crate) fn failed(action: &str) -> impl FnOnce(fjall::Error) -> Error {
    let action = format!("{action} of the keyed state");
    move |source| match source {
        fjall::Error::Io(source) => Error::io(action)(source),
        source => Error::Format { action, source: Arc::new(source) },
    }
}

/// All topics' state; see the top of this file.
#[derive(Clone)]
pub(crate) struct Store {
    db: Database,
    unflushed_bytes_max: u64,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// Why a store could not be opened.
#[derive(Debug)]
pub(crate) enum Closed {
    /// Somebody of this process still holds it.
    Held,
    /// It is damaged, or the disk refuses.
    Failed(Error),
}

impl Store {
    /// Opens or makes the store in a directory.
    pub(crate) fn open(dir: &Path, memory_limit: u64) -> std::result::Result<Self, Closed> {
        let bytes = memory_limit / MEMORY_SHARE;
        let opened = Database::builder(dir)
            .cache_size((bytes / 2).max(CACHE_BYTES_MIN))
            .max_cached_files(Some(FILES_MAX))
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(THREADS)
            .open();
        match opened {
            Ok(db) => Ok(Self { db, unflushed_bytes_max: (bytes / 2).max(UNFLUSHED_BYTES_MIN) }),
            Err(fjall::Error::Locked) => Err(Closed::Held),
            Err(error) => Err(Closed::Failed(failed("open the store")(error))),
        }
    }

    /// The topics that have something in it; what bears no topic's name is none.
    pub(crate) fn topics(&self) -> Vec<TopicId> {
        let names = self.db.list_keyspace_names();
        names.iter().filter_map(|name| name.parse().ok()).map(TopicId).collect()
    }

    /// The part of a topic, made if it is not there.
    pub(crate) fn part(&self, topic: TopicId) -> Result<Part> {
        let bytes = self.unflushed_bytes_max / PART_SHARE;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(bytes);
        let keyspace = self.db.keyspace(&topic.to_string(), options).map_err(failed("open a part"))?;
        Ok(Part { topic, keyspace, store: self.clone(), unflushed: AtomicU64::new(0), damaged: AtomicBool::new(false) })
    }

    /// Forgets all of a topic.
    pub(crate) fn remove(&self, topic: TopicId) -> Result<()> {
        let part = self.part(topic)?;
        self.db.delete_keyspace(part.keyspace).map_err(failed("remove a part"))
    }
}

/// One topic's entries and its mark.
pub(crate) struct Part {
    /// Whose.
    pub(crate) topic: TopicId,
    keyspace: Keyspace,
    store: Store,
    /// Bytes written since it was last told to flush.
    unflushed: AtomicU64,
    /// A reader has found it so.
    damaged: AtomicBool,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// Entries to be put and removed, and the mark that holds with them.
#[derive(Debug)]
pub(crate) struct Changes {
    /// Keys as [`super::entry::entry_key`] makes them, each once; `None` removes.
    pub(crate) entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// What it says once they are in.
    pub(crate) mark: Mark,
}

impl Part {
    /// What its mark says; `None` if there is none, or none of ours.
    pub(crate) fn mark(&self) -> Result<Option<Mark>> {
        let bytes = self.keyspace.get(MARK_KEY).map_err(failed("read the mark"))?;
        Ok(bytes.and_then(|bytes| Mark::from_bytes(&bytes)))
    }

    /// Writes changes and mark in one atomic act. They reach the disk when the operating system pleases: what is lost is
    /// lost from the end, and made again.
    pub(crate) fn write(&self, changes: Changes) -> Result<()> {
        let mut batch = self.store.db.batch();
        let bytes = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| (key.len() + value.as_ref().map_or(0, Vec::len)) as u64;
        let bytes: u64 = changes.entries.iter().map(bytes).sum();
        for (key, value) in changes.entries {
            match value {
                Some(value) => batch.insert(&self.keyspace, key, value),
                None => batch.remove(&self.keyspace, key),
            }
        }
        batch.insert(&self.keyspace, MARK_KEY.to_vec(), changes.mark.to_bytes());
        batch.commit().map_err(failed("write"))?;
        let unflushed = self.unflushed.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let limit = self.store.unflushed_bytes_max;
        if self.store.db.write_buffer_size() > limit && unflushed > limit / PRESSED_SHARE {
            self.unflushed.store(0, Ordering::Relaxed);
            self.keyspace.rotate_memtable().map_err(failed("flush"))?;
        }
        Ok(())
    }

    /// Entries of a partition from a key on, at most `limit`: key and value.
    pub(crate) fn entries_from(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let of_partition = self.keyspace.range(from.to_vec()..);
        let mut entries = Vec::new();
        for guard in of_partition.take(limit) {
            let (key, value) = guard.into_inner().map_err(failed("read entries"))?;
            if !key.starts_with(prefix) {
                break;
            }
            entries.push((key.to_vec(), value.to_vec()));
        }
        Ok(entries)
    }

    /// Whether a reader has found it damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }
}

/// A topic's part as of one moment.
#[derive(Clone)]
pub(crate) struct View {
    part: Arc<Part>,
    at: Snapshot,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("topic", &self.part.topic).finish_non_exhaustive()
    }
}

impl View {
    /// The part as it is now.
    pub(crate) fn of(part: &Arc<Part>) -> Self {
        Self { at: part.store.db.snapshot(), part: Arc::clone(part) }
    }

    /// What the mark said then.
    pub(crate) fn mark(&self) -> Result<Option<Mark>> {
        Ok(self.get(&MARK_KEY)?.and_then(|bytes| Mark::from_bytes(&bytes)))
    }

    /// What stood under a key then.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<fjall::UserValue>> {
        self.at.get(&self.part.keyspace, key).map_err(failed("look a key up")).inspect_err(|_| self.found_damaged())
    }

    /// Tells that it has to be made again.
    pub(crate) fn found_damaged(&self) {
        self.part.damaged.store(true, Ordering::Release);
    }
}
