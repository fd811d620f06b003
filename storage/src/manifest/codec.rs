//! Manifests as bytes: a small root and immutable chunks, each in an [`envelope`].
//!
//! What a chunk holds must have the very summary that the root or the chunk above has of it, so that neither a stray nor an
//! outdated one is ever taken for the right one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::envelope::{self, Kind};
use crate::error::{Error, Result};
use crate::ids::{TopicId, WriterEpoch};
use crate::manifest::model::{ChunkRef, Ends, Entry, Garbage, Gone, Summary, TopicManifest};

// A change of any stored type is a new version.
const ROOT: Kind = Kind { magic: *b"AQMROOT\0", version: 1, name: "manifest root" };
const CHUNK: Kind = Kind { magic: *b"AQMCHUNK", version: 1, name: "manifest chunk" };

/// Largest root or chunk a reader takes: far above what is written, far below what would hurt.
pub(crate) const METADATA_BYTES_MAX: u64 = 256 << 20;

/// A root as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    /// Whose.
    pub(crate) topic: TopicId,
    /// Which; in its name too.
    pub(crate) version: u64,
    /// Written by; in its name too.
    pub(crate) epoch: WriterEpoch,
    /// Tells our put from an earlier one of ours when the answer was lost.
    pub(crate) attempt: Uuid,
    /// As in the manifest.
    pub(crate) history_start_us: i64,
    /// As in the manifest.
    pub(crate) partitions: Vec<(i32, Ends)>,
    /// As in the manifest.
    pub(crate) chunks: Vec<ChunkRef>,
    /// As in the manifest.
    pub(crate) tail: Vec<Entry>,
    /// As in the manifest.
    pub(crate) garbage: Vec<Garbage>,
    /// As in the manifest.
    pub(crate) orphans_checked: WriterEpoch,
}

impl Root {
    /// The manifest it tells, not checked yet.
    pub(crate) fn into_manifest(self) -> TopicManifest {
        TopicManifest {
            topic: self.topic,
            version: self.version,
            epoch: self.epoch,
            history_start_us: self.history_start_us,
            partitions: self.partitions.into_iter().collect(),
            chunks: self.chunks.into_iter().map(Arc::new).collect(),
            tail: self.tail.into_iter().map(Arc::new).collect(),
            garbage: self.garbage.into_iter().map(Arc::new).collect(),
            orphans_checked: self.orphans_checked,
        }
    }
}

/// A chunk as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Chunk {
    /// Whose.
    topic: TopicId,
    content: Stored,
}

/// Never reorder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stored {
    Entries(Vec<Entry>),
    Chunks(Vec<ChunkRef>),
    Gone(Vec<Gone>),
}

/// What a chunk holds, shared by all who read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Level 0.
    Entries(Vec<Arc<Entry>>),
    /// A higher level.
    Chunks(Vec<Arc<ChunkRef>>),
    /// What went, where that is too much for a root.
    Gone(Vec<Gone>),
}

impl Content {
    /// What it holds.
    pub(crate) fn summary(&self) -> Summary {
        match self {
            Self::Entries(entries) => Summary::of_entries(entries.iter().map(AsRef::as_ref)),
            Self::Chunks(chunks) => Summary::of_chunks(chunks.iter().map(AsRef::as_ref)),
            Self::Gone(_) => Summary::of_entries([]),
        }
    }

    /// The level of such a chunk.
    pub(crate) fn level(&self) -> u8 {
        match self {
            Self::Chunks(chunks) => chunks.iter().map(|chunk| chunk.level).max().unwrap_or(0).saturating_add(1),
            Self::Entries(_) | Self::Gone(_) => 0,
        }
    }
}

/// A root's bytes.
///
/// # Errors
/// [`Error::Format`]; then it is a bug.
pub(crate) fn encode_root(root: &Root) -> Result<Vec<u8>> {
    envelope::seal(ROOT, root)
}

/// A root out of its bytes; `place` names it.
///
/// # Errors
/// [`Error::Corrupt`], also if it is another topic's; [`Error::Config`] if a newer program wrote it.
pub(crate) fn decode_root(topic: TopicId, bytes: &[u8], place: &str) -> Result<Root> {
    let root: Root = envelope::open(ROOT, bytes, place)?;
    if root.topic == topic { Ok(root) } else { Err(stray(root.topic, place)) }
}

/// A chunk's bytes.
///
/// # Errors
/// [`Error::Format`]; then it is a bug.
pub(crate) fn encode_chunk(topic: TopicId, content: &Content) -> Result<Vec<u8>> {
    let content = match content {
        Content::Entries(entries) => Stored::Entries(entries.iter().map(|entry| Entry::clone(entry)).collect()),
        Content::Chunks(chunks) => Stored::Chunks(chunks.iter().map(|chunk| ChunkRef::clone(chunk)).collect()),
        Content::Gone(gone) => Stored::Gone(gone.clone()),
    };
    envelope::seal(CHUNK, &Chunk { topic, content })
}

/// A chunk out of its bytes; `place` names it.
///
/// # Errors
/// As [`decode_root`].
pub(crate) fn decode_chunk(topic: TopicId, bytes: &[u8], place: &str) -> Result<Content> {
    let chunk: Chunk = envelope::open(CHUNK, bytes, place)?;
    if chunk.topic != topic {
        return Err(stray(chunk.topic, place));
    }
    Ok(match chunk.content {
        Stored::Entries(entries) => Content::Entries(entries.into_iter().map(Arc::new).collect()),
        Stored::Chunks(chunks) => Content::Chunks(chunks.into_iter().map(Arc::new).collect()),
        Stored::Gone(gone) => Content::Gone(gone),
    })
}

/// Checks that a chunk is the one that is known by `reference`.
///
/// # Errors
/// [`Error::Corrupt`] naming the place.
pub(crate) fn check_chunk(reference: &ChunkRef, content: &Content, place: &str) -> Result<()> {
    if content.level() == reference.level && content.summary() == reference.summary {
        return Ok(());
    }
    let reason = format!("it holds {:?} where {:?} is known of it", content.summary(), reference.summary);
    Err(Error::Corrupt { place: place.to_owned(), reason })
}

fn stray(found: TopicId, place: &str) -> Error {
    Error::Corrupt { place: place.to_owned(), reason: format!("it belongs to topic {found}") }
}
