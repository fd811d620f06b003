//! The next manifest in the making: chunks are opened where an edit hits, and what is left is put into chunks again.
//!
//! The shape is that of a log-structured tree. New entries gather in the root's tail; a full tail becomes a small chunk,
//! many small chunks one large, and so many chunks that the root would grow become chunks of a higher level. So a root
//! stays small and a publish writes little whatever the history; an edit in the middle rewrites the chunk it hits and
//! those above it.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::clock::Random;
use crate::error::Result;
use crate::ids::{TopicId, WriterEpoch};
use crate::manifest::chunks::Chunks;
use crate::manifest::codec::Content;
use crate::manifest::edit::{self, Edit, Hit, Item};
use crate::manifest::invariant;
use crate::manifest::model::{ChunkName, ChunkRef, Entry, Gone, TopicManifest};
use crate::manifest::uploads::Upload;

/// Sizes that give the tree its shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes of entries a root holds itself before they become a chunk, beside those for its partitions.
    pub(crate) tail_bytes: usize,
    /// So many more for each partition: an object of all of them must not be a chunk of its own.
    pub(crate) tail_bytes_of_partition: usize,
    /// Bytes of entries a chunk holds at the most, unless a single one is larger.
    pub(crate) chunk_bytes: usize,
    /// A chunk below this is small.
    pub(crate) small_bytes: u64,
    /// So many small neighbours become one.
    pub(crate) small_max: usize,
    /// Bytes of references to neighbours of one level before they become a chunk of the next.
    pub(crate) level_bytes: usize,
    /// Names of what went that a root holds itself, of one publish.
    pub(crate) gone_max: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            // Every topic has one in memory, all the time.
            tail_bytes: 8 << 10,
            // Three objects: of one with ten columns some 95 bytes are a partition's.
            tail_bytes_of_partition: 288,
            chunk_bytes: 1 << 20,
            small_bytes: 256 << 10,
            small_max: 16,
            level_bytes: 32 << 10,
            gone_max: 128,
        }
    }
}

/// However large references are, a higher level holds at least so many.
const FAN_MIN: usize = 4;

/// What a draft is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means<'a> {
    pub(crate) chunks: &'a Chunks,
    pub(crate) epoch: WriterEpoch,
    pub(crate) random: &'a dyn Random,
    pub(crate) shape: Shape,
    /// Told of every chunk before it is put.
    pub(crate) upload: &'a Upload,
}

struct Draft<'a> {
    means: Means<'a>,
    current: &'a TopicManifest,
    gone: Vec<Gone>,
}

/// The manifest after an edit, with all its new chunks in the bucket, and what went with it; version and epoch are still
/// the old ones. `abandoned` went before.
///
/// # Errors
/// [`crate::Error::Conflict`] if the manifest has moved on from what the edit was made for, [`crate::Error::Corrupt`]
/// naming the invariant that would break or the chunk that is damaged, [`crate::Error::ObjectStore`].
pub(crate) async fn draft(
    means: Means<'_>,
    current: &TopicManifest,
    edit: Edit,
    abandoned: Vec<Gone>,
) -> Result<(TopicManifest, Vec<Gone>)> {
    let mut next = current.clone();
    edit::begin(&mut next, &edit)?;
    let hit = Hit::of(&edit, &next);
    let mut draft = Draft { means, current, gone: abandoned };
    let mut items = Vec::with_capacity(current.chunks.len() + current.tail.len());
    for chunk in &current.chunks {
        match draft.open(chunk, &hit).await? {
            Some(opened) => items.extend(opened),
            None => items.push(Item::Chunk(Arc::clone(chunk))),
        }
    }
    items.extend(current.tail.iter().map(|entry| Item::Entry(Arc::clone(entry))));
    let (items, gone) = edit::apply(&next, items, edit, &hit)?;
    draft.gone.extend(gone);
    draft.shape(&mut next, items).await?;
    invariant::root_is_sound(&next)?;
    let gone = draft.listed().await?;
    Ok((next, gone))
}

impl Draft<'_> {
    /// What stands below a chunk, opened as far as the edit takes something away; `None` if it takes nothing of it.
    fn open<'a>(&'a mut self, chunk: &'a ChunkRef, hit: &'a Hit) -> BoxFuture<'a, Result<Option<Vec<Item>>>> {
        async move {
            if hit.takes(chunk) || !hit.may_take_of(chunk) {
                return Ok(None);
            }
            let content = self.means.chunks.read(self.current, chunk).await?;
            let mut items = Vec::new();
            let mut taken = false;
            match &*content {
                Content::Entries(entries) => {
                    taken = entries.iter().any(|entry| hit.takes_entry(entry));
                    items.extend(entries.iter().map(|entry| Item::Entry(Arc::clone(entry))));
                }
                Content::Chunks(chunks) => {
                    for below in chunks {
                        let opened = self.open(below, hit).await?;
                        taken |= opened.is_some() || hit.takes(below);
                        items.extend(opened.unwrap_or_else(|| vec![Item::Chunk(Arc::clone(below))]));
                    }
                }
                Content::Gone(_) => {}
            }
            if !taken {
                return Ok(None);
            }
            self.gone.push(Gone::Chunk(chunk.name));
            Ok(Some(items))
        }
        .boxed()
    }

    /// Puts the items into chunks and a tail.
    async fn shape(&mut self, next: &mut TopicManifest, items: Vec<Item>) -> Result<()> {
        let mut chunks = Vec::new();
        let mut entries = Vec::new();
        for item in items {
            match item {
                Item::Entry(entry) => entries.push(entry),
                Item::Chunk(chunk) => {
                    self.cut(std::mem::take(&mut entries), &mut chunks).await?;
                    chunks.push(chunk);
                }
            }
        }
        let shape = self.means.shape;
        if weight(&entries) > shape.tail_bytes + next.partitions.len() * shape.tail_bytes_of_partition {
            self.cut(std::mem::take(&mut entries), &mut chunks).await?;
        }
        next.tail = entries;
        let chunks = self.merge_small(next, chunks).await?;
        next.chunks = self.fold(chunks).await?;
        Ok(())
    }

    /// Entries as chunks of level 0, each as large as allowed.
    async fn cut(&mut self, entries: Vec<Arc<Entry>>, chunks: &mut Vec<Arc<ChunkRef>>) -> Result<()> {
        let (mut part, mut bytes) = (Vec::new(), 0);
        for entry in entries {
            if bytes + entry.weight() > self.means.shape.chunk_bytes && !part.is_empty() {
                chunks.push(self.write(Content::Entries(std::mem::take(&mut part))).await?);
                bytes = 0;
            }
            bytes += entry.weight();
            part.push(entry);
        }
        if !part.is_empty() {
            chunks.push(self.write(Content::Entries(part)).await?);
        }
        Ok(())
    }

    /// Neighbours of level 0 that are small become one when they are many.
    async fn merge_small(&mut self, next: &TopicManifest, chunks: Vec<Arc<ChunkRef>>) -> Result<Vec<Arc<ChunkRef>>> {
        let shape = self.means.shape;
        let is_small = |chunk: &Arc<ChunkRef>| chunk.level == 0 && chunk.stored_bytes < shape.small_bytes;
        let mut merged = Vec::with_capacity(chunks.len());
        for run in chunks.chunk_by(|one, other| is_small(one) == is_small(other)) {
            if run.len() < shape.small_max || !run.first().is_some_and(is_small) {
                merged.extend(run.iter().map(Arc::clone));
                continue;
            }
            let mut entries = Vec::new();
            for chunk in run {
                if let Content::Entries(of_chunk) = &*self.means.chunks.read(next, chunk).await? {
                    entries.extend(of_chunk.iter().map(Arc::clone));
                }
                self.gone.push(Gone::Chunk(chunk.name));
            }
            self.cut(entries, &mut merged).await?;
        }
        Ok(merged)
    }

    /// Neighbours of one level become chunks of the next when they are many, or when a higher one follows them: only
    /// towards the tail do levels descend.
    async fn fold(&mut self, mut chunks: Vec<Arc<ChunkRef>>) -> Result<Vec<Arc<ChunkRef>>> {
        let mut level = 0;
        while chunks.iter().any(|chunk| chunk.level >= level) {
            let mut folded = Vec::new();
            let last_higher = chunks.iter().rposition(|chunk| chunk.level > level);
            let mut at = 0;
            for run in chunks.chunk_by(|one, other| one.level == other.level) {
                at += run.len();
                let is_followed = last_higher.is_some_and(|last| last >= at);
                if run.first().is_some_and(|chunk| chunk.level == level) {
                    self.fold_run(run, is_followed, &mut folded).await?;
                } else {
                    folded.extend(run.iter().map(Arc::clone));
                }
            }
            chunks = folded;
            level += 1;
        }
        Ok(chunks)
    }

    async fn fold_run(
        &mut self,
        run: &[Arc<ChunkRef>],
        is_followed: bool,
        folded: &mut Vec<Arc<ChunkRef>>,
    ) -> Result<()> {
        let (mut part, mut bytes) = (Vec::new(), 0);
        for chunk in run {
            bytes += chunk.weight();
            part.push(Arc::clone(chunk));
            if bytes >= self.means.shape.level_bytes && part.len() >= FAN_MIN {
                folded.push(self.write(Content::Chunks(std::mem::take(&mut part))).await?);
                bytes = 0;
            }
        }
        if is_followed && !part.is_empty() {
            folded.push(self.write(Content::Chunks(part)).await?);
        } else {
            folded.extend(part);
        }
        Ok(())
    }

    /// What went, short enough for a root.
    async fn listed(mut self) -> Result<Vec<Gone>> {
        if self.gone.len() > self.means.shape.gone_max {
            let name = self.fresh_name();
            let gone = Content::Gone(std::mem::take(&mut self.gone));
            self.means.chunks.write(self.topic(), name, gone).await?;
            self.gone.push(Gone::List(name));
        }
        Ok(self.gone)
    }

    async fn write(&self, content: Content) -> Result<Arc<ChunkRef>> {
        let name = self.fresh_name();
        let (level, summary) = (content.level(), content.summary());
        let stored_bytes = self.means.chunks.write(self.topic(), name, content).await?;
        Ok(Arc::new(ChunkRef { name, level, stored_bytes, summary }))
    }

    /// The name of a chunk about to be put, noted before it is.
    fn fresh_name(&self) -> ChunkName {
        let name = ChunkName { epoch: self.means.epoch, id: self.means.random.uuid() };
        self.means.upload.note(Gone::Chunk(name));
        name
    }

    fn topic(&self) -> TopicId {
        self.current.topic
    }
}

fn weight(entries: &[Arc<Entry>]) -> usize {
    entries.iter().map(|entry| entry.weight()).sum()
}
