//! Entries of a manifest, read as they are asked for: only chunks that may hold what is wanted, one at a time.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};

use crate::error::{Error, Result};
use crate::manifest::chunks::Chunks;
use crate::manifest::codec::Content;
use crate::manifest::model::{ChunkRef, Cover, Entry, Summary, TopicManifest, Wanted};

/// Entries as a stream; it holds the manifest, so what it names stays readable.
pub(crate) type EntryStream = BoxStream<'static, Result<Arc<Entry>>>;

/// All entries, in an order in which the offsets of every partition ascend.
pub(crate) fn all(chunks: Arc<Chunks>, manifest: Arc<TopicManifest>) -> EntryStream {
    walk(chunks, manifest, Which::All)
}

/// The entries that cover wanted offsets of a partition and may have rows of the wanted times, in offset order.
pub(crate) fn of_partition(
    chunks: Arc<Chunks>,
    manifest: Arc<TopicManifest>,
    partition: i32,
    wanted: Wanted,
) -> EntryStream {
    walk(chunks, manifest, Which::Of(partition, wanted))
}

#[derive(Clone, Copy)]
enum Which {
    All,
    Of(i32, Wanted),
}

impl Which {
    fn touches(&self, covers: &[Cover]) -> bool {
        match self {
            Self::All => true,
            Self::Of(partition, wanted) => wanted.touches(covers, *partition),
        }
    }

    fn may_hold(&self, summary: &Summary) -> bool {
        match self {
            Self::All => true,
            Self::Of(partition, wanted) => summary.may_hold(*partition, wanted),
        }
    }
}

fn walk(chunks: Arc<Chunks>, manifest: Arc<TopicManifest>, which: Which) -> EntryStream {
    let cursor = Cursor::new(chunks, manifest);
    let next = move |mut cursor: Cursor| async move {
        loop {
            match cursor.step() {
                None => return Ok::<_, Error>(None),
                Some(Met::Entry(entry)) if which.touches(&entry.covers) => return Ok(Some((entry, cursor))),
                Some(Met::Chunk(chunk)) if which.may_hold(&chunk.summary) => cursor.enter(&chunk).await?,
                Some(_) => {}
            }
        }
    };
    stream::try_unfold(cursor, next).boxed()
}

/// What a cursor comes across.
#[derive(Clone, Debug)]
pub(crate) enum Met {
    /// A chunk, to be entered or passed by.
    Chunk(Arc<ChunkRef>),
    /// An entry of the root, or of a chunk that was entered.
    Entry(Arc<Entry>),
    /// The end of a chunk that was entered.
    End(Arc<ChunkRef>),
}

/// Goes through a manifest in the order of its entries, and into those chunks that its owner wants to see.
pub(crate) struct Cursor {
    chunks: Arc<Chunks>,
    manifest: Arc<TopicManifest>,
    /// What comes, the next one last.
    waiting: Vec<Met>,
}

impl Cursor {
    /// Before the first entry.
    pub(crate) fn new(chunks: Arc<Chunks>, manifest: Arc<TopicManifest>) -> Self {
        let tail = manifest.tail.iter().rev().map(|entry| Met::Entry(Arc::clone(entry)));
        let first = manifest.chunks.iter().rev().map(|chunk| Met::Chunk(Arc::clone(chunk)));
        let waiting = tail.chain(first).collect();
        Self { chunks, manifest, waiting }
    }

    /// The next thing; `None` at the end.
    pub(crate) fn step(&mut self) -> Option<Met> {
        self.waiting.pop()
    }

    /// Reads a chunk that was met just now: what it holds comes next.
    ///
    /// # Errors
    /// [`Error::ObjectStore`], [`Error::Corrupt`].
    pub(crate) async fn enter(&mut self, chunk: &Arc<ChunkRef>) -> Result<()> {
        let content = self.chunks.read(&self.manifest, chunk).await?;
        self.waiting.push(Met::End(Arc::clone(chunk)));
        match &*content {
            Content::Entries(entries) => {
                self.waiting.extend(entries.iter().rev().map(|entry| Met::Entry(Arc::clone(entry))));
            }
            Content::Chunks(chunks) => {
                self.waiting.extend(chunks.iter().rev().map(|chunk| Met::Chunk(Arc::clone(chunk))));
            }
            Content::Gone(_) => {}
        }
        Ok(())
    }
}
