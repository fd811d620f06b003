//! Manifests as bytes: a small root and immutable chunks, each in an [`envelope`].
//!
//! The root holds version, epoch, attempt id, the list of chunks and the newest entries; when these have grown beyond
//! [`TAIL_BYTES_MAX`] they become a chunk. So a publish writes little, whatever the history, and nothing is rewritten.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::envelope::{self, Kind};
use crate::error::{Error, Result};
use crate::ids::{TopicId, WriterEpoch};
use crate::manifest::model::{ChunkRef, Ends, Entry};

// A change of any stored type is a new version.
const ROOT: Kind = Kind { magic: *b"AQMROOT\0", version: 1, name: "manifest root" };
const CHUNK: Kind = Kind { magic: *b"AQMCHUNK", version: 1, name: "manifest chunk" };

/// Bytes of entries a root holds itself before they become a chunk.
pub(crate) const TAIL_BYTES_MAX: usize = 64 << 10;

/// Largest root or chunk a reader takes: far above what is written, far below what would hurt.
pub(crate) const METADATA_BYTES_MAX: u64 = 256 << 20;

/// A root as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    /// Whose.
    pub(crate) topic: TopicId,
    /// Which; the number in its name.
    pub(crate) version: u64,
    /// Written by.
    pub(crate) epoch: WriterEpoch,
    /// Tells our put from somebody else's when the answer was lost.
    pub(crate) attempt: Uuid,
    /// As in the manifest.
    pub(crate) history_start_us: i64,
    /// As in the manifest.
    pub(crate) partitions: Vec<(i32, Ends)>,
    /// The first entries.
    pub(crate) chunks: Vec<ChunkRef>,
    /// The entries after them.
    pub(crate) tail: Vec<Entry>,
}

/// Entries that stand in a chunk, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    /// Whose.
    pub(crate) topic: TopicId,
    /// What.
    pub(crate) entries: Vec<Entry>,
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
/// [`Error::Corrupt`], also if it is another topic's.
pub(crate) fn decode_root(topic: TopicId, bytes: &[u8], place: &str) -> Result<Root> {
    let root: Root = envelope::open(ROOT, bytes, place)?;
    if root.topic == topic { Ok(root) } else { Err(stray(root.topic, place)) }
}

/// A chunk's bytes.
///
/// # Errors
/// [`Error::Format`]; then it is a bug.
pub(crate) fn encode_chunk(chunk: &Chunk) -> Result<Vec<u8>> {
    envelope::seal(CHUNK, chunk)
}

/// A chunk out of its bytes; `place` names it.
///
/// # Errors
/// [`Error::Corrupt`], also if it is another topic's or holds another number of entries.
pub(crate) fn decode_chunk(topic: TopicId, reference: &ChunkRef, bytes: &[u8], place: &str) -> Result<Vec<Entry>> {
    let chunk: Chunk = envelope::open(CHUNK, bytes, place)?;
    if chunk.topic != topic {
        return Err(stray(chunk.topic, place));
    }
    if chunk.entries.len() != reference.entries as usize {
        let reason = format!("{} entries where the root names {}", chunk.entries.len(), reference.entries);
        return Err(Error::Corrupt { place: place.to_owned(), reason });
    }
    Ok(chunk.entries)
}

fn stray(found: TopicId, place: &str) -> Error {
    Error::Corrupt { place: place.to_owned(), reason: format!("it belongs to topic {found}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::model::{Cover, Lost, Object, RowGroup};

    fn row_group() -> impl Strategy<Value = RowGroup> {
        any::<(i32, i64, i64, u32, i64, i64, i64, i64)>().prop_map(|numbers| RowGroup {
            partition: numbers.0,
            first_offset: numbers.1,
            last_offset: numbers.2,
            rows: numbers.3,
            min_timestamp_ms: numbers.4,
            max_timestamp_ms: numbers.5,
            min_committed_at_us: numbers.6,
            max_committed_at_us: numbers.7,
        })
    }

    fn lost() -> Lost {
        Lost { partition: 1, start: 2, end: 3, place: "log".to_owned() }
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let cover = any::<(i32, i64, i64)>().prop_map(|(partition, start, end)| Cover { partition, start, end });
        let numbers = any::<(u64, u32, u32, Vec<u32>)>();
        let object = (".*", numbers, prop::collection::vec(row_group(), 0..5)).prop_map(
            |(path, (bytes, footer_bytes, footer_crc, chunk_crcs), row_groups)| Object {
                path,
                bytes,
                footer_bytes,
                footer_crc,
                chunk_crcs,
                row_groups,
            },
        );
        (prop::collection::vec(cover, 0..5), prop::option::of(object)).prop_map(|(covers, object)| Entry {
            covers,
            object,
            lost: vec![lost()],
        })
    }

    proptest! {
        #[test]
        fn roots_and_chunks_come_back_as_written(
            tail in prop::collection::vec(any_entry(), 0..6),
            chunks in prop::collection::vec(any::<(u128, u32)>(), 0..4),
            version: u64, epoch: u64, attempt: u128,
        ) {
            let topic = TopicId(Uuid::from_u128(5));
            let chunks = chunks.into_iter().map(|(id, entries)| ChunkRef { id: Uuid::from_u128(id), entries }).collect();
            let root = Root {
                topic, version, epoch: WriterEpoch(epoch), attempt: Uuid::from_u128(attempt),
                history_start_us: 7, partitions: vec![(1, Ends { start: 2, end: 9 })], chunks, tail: tail.clone(),
            };
            let bytes = encode_root(&root).unwrap();
            prop_assert_eq!(&decode_root(topic, &bytes, "root").unwrap(), &root);
            decode_root(TopicId(Uuid::nil()), &bytes, "root").unwrap_err();
            let reference = ChunkRef { id: Uuid::nil(), entries: u32::try_from(tail.len()).unwrap() };
            let bytes = encode_chunk(&Chunk { topic, entries: tail.clone() }).unwrap();
            prop_assert_eq!(decode_chunk(topic, &reference, &bytes, "chunk").unwrap(), tail);
            let wrong = ChunkRef { entries: reference.entries + 1, ..reference };
            decode_chunk(topic, &wrong, &bytes, "chunk").unwrap_err();
        }
    }
}
