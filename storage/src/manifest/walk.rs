//! Entries of a manifest, read as they are asked for: only chunks that may hold what is wanted, one at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};

use crate::error::Result;
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

struct Walk {
    chunks: Arc<Chunks>,
    manifest: Arc<TopicManifest>,
    which: Which,
    /// Chunks not read yet, the next one last.
    waiting: Vec<Arc<ChunkRef>>,
    ready: VecDeque<Arc<Entry>>,
    tail_given: bool,
}

fn walk(chunks: Arc<Chunks>, manifest: Arc<TopicManifest>, which: Which) -> EntryStream {
    let mut walk = Walk { chunks, manifest, which, waiting: Vec::new(), ready: VecDeque::new(), tail_given: false };
    let first = Arc::clone(&walk.manifest);
    walk.wait_for(&first.chunks);
    stream::try_unfold(walk, |mut walk| async move { Ok(walk.next().await?.map(|entry| (entry, walk))) }).boxed()
}

impl Walk {
    async fn next(&mut self) -> Result<Option<Arc<Entry>>> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(Some(entry));
            }
            if let Some(next) = self.waiting.pop() {
                let content = self.chunks.read(&self.manifest, &next).await?;
                match &*content {
                    Content::Entries(entries) => self.make_ready(entries),
                    Content::Chunks(chunks) => self.wait_for(chunks),
                    Content::Gone(_) => {}
                }
            } else if self.tail_given {
                return Ok(None);
            } else {
                self.tail_given = true;
                let manifest = Arc::clone(&self.manifest);
                self.make_ready(&manifest.tail);
            }
        }
    }

    fn wait_for(&mut self, chunks: &[Arc<ChunkRef>]) {
        let which = self.which;
        let wanted = chunks.iter().rev().filter(|chunk| which.may_hold(&chunk.summary));
        self.waiting.extend(wanted.map(Arc::clone));
    }

    fn make_ready(&mut self, entries: &[Arc<Entry>]) {
        let which = self.which;
        self.ready.extend(entries.iter().filter(|entry| which.touches(&entry.covers)).map(Arc::clone));
    }
}
