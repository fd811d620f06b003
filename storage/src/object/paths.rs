//! What things are called in the bucket. Stored for ever: never rename.
//!
//! | name | what | written |
//! |---|---|---|
//! | `meta/writer/<epoch>` | the claim of one process: cluster id and writer epoch | once per start |
//! | `meta/probe/<uuid>` | a name that is tried twice, to see whether the store keeps put-if-absent; then removed | once per start |
//! | `meta/checkpoint/<epoch>-<version>` | all a node needs to begin from the bucket alone, beside the manifests it names | per checkpoint |
//! | `meta/tail/<epoch>-<version>-<part>` | records of a checkpoint that are in no object | per checkpoint, while something is not stable |
//! | `topics/<topic id>/manifest/<epoch>-<version>` | a root: the whole truth of a topic as of that version | per publish |
//! | `topics/<topic id>/chunk/<epoch>-<uuid>` | entries of a manifest that roots refer to | when a root's tail is full |
//! | `topics/<topic id>/data/<epoch>-<uuid>.parquet` | records | per tiering run, merge and compaction |
//!
//! Numbers have twenty digits, so that names sort as numbers do. Whatever is put for a topic bears the epoch of who put
//! it in front: so what a dead process left behind can be listed, and its late roots sort before the living one's.

use object_store::path::Path;
use uuid::Uuid;

use crate::ids::{CheckpointId, TopicId, WriterEpoch};

/// The folder of claims.
pub(crate) fn claims() -> Path {
    Path::from("meta/writer")
}

/// The claim of one epoch.
pub(crate) fn claim(epoch: WriterEpoch) -> Path {
    Path::from(format!("meta/writer/{:020}", epoch.0))
}

/// The folder of checkpoints.
pub(crate) fn checkpoints() -> Path {
    Path::from("meta/checkpoint")
}

/// One checkpoint.
pub(crate) fn checkpoint(id: CheckpointId) -> Path {
    Path::from(format!("meta/checkpoint/{:020}-{:020}", id.epoch.0, id.version))
}

/// The checkpoint a name is of; `None` for a name that is not ours.
pub(crate) fn checkpoint_id(path: &Path) -> Option<CheckpointId> {
    root_number(path).map(|(epoch, version)| CheckpointId { epoch, version })
}

/// The folder of checkpoints' tails.
pub(crate) fn tails() -> Path {
    Path::from("meta/tail")
}

/// One part of a checkpoint's tail.
pub(crate) fn tail(id: CheckpointId, part: usize) -> Path {
    Path::from(format!("meta/tail/{:020}-{:020}-{part:06}", id.epoch.0, id.version))
}

/// The checkpoint whose tail a name is part of; `None` for a name that is not ours.
pub(crate) fn tail_of(path: &Path) -> Option<CheckpointId> {
    let (name, part) = path.filename()?.rsplit_once('-')?;
    let is_part = part.len() >= 6 && part.bytes().all(|byte| byte.is_ascii_digit());
    checkpoint_id(&Path::from(name)).filter(|_| is_part)
}

/// The folder of the topics' folders.
pub(crate) fn topics() -> Path {
    Path::from("topics")
}

/// The folder of all that belongs to a topic.
pub(crate) fn topic(topic: TopicId) -> Path {
    Path::from(format!("topics/{topic}"))
}

/// The folder of a topic's objects of records.
pub(crate) fn objects(topic: TopicId) -> Path {
    Path::from(format!("topics/{topic}/data"))
}

/// A name by which a store is tried.
pub(crate) fn probe(id: Uuid) -> Path {
    Path::from(format!("meta/probe/{id}"))
}

/// The folder of a topic's roots.
pub(crate) fn roots(topic: TopicId) -> Path {
    Path::from(format!("topics/{topic}/manifest"))
}

/// One root.
pub(crate) fn root(topic: TopicId, epoch: WriterEpoch, version: u64) -> Path {
    Path::from(format!("topics/{topic}/manifest/{:020}-{version:020}", epoch.0))
}

/// The epoch and version in a root's name; `None` for a name that is not ours.
pub(crate) fn root_number(path: &Path) -> Option<(WriterEpoch, u64)> {
    let (epoch, version) = path.filename()?.split_once('-')?;
    let number = |digits: &str| if digits.len() == 20 { digits.parse().ok() } else { None };
    Some((WriterEpoch(number(epoch)?), number(version)?))
}

/// The epoch in front of the name of a root, a chunk or an object.
pub(crate) fn epoch_of(path: &Path) -> Option<WriterEpoch> {
    let (epoch, _) = path.filename()?.split_once('-')?;
    if epoch.len() == 20 { epoch.parse().ok().map(WriterEpoch) } else { None }
}

/// One chunk.
pub(crate) fn chunk(topic: TopicId, epoch: WriterEpoch, id: Uuid) -> Path {
    Path::from(format!("topics/{topic}/chunk/{:020}-{id}", epoch.0))
}

/// The folder of a topic's chunks.
pub(crate) fn chunks(topic: TopicId) -> Path {
    Path::from(format!("topics/{topic}/chunk"))
}

/// One object of records.
pub(crate) fn data(topic: TopicId, epoch: WriterEpoch, id: Uuid) -> Path {
    Path::from(format!("topics/{topic}/data/{:020}-{id}.parquet", epoch.0))
}

/// The number at the end of a claim's name; `None` for a name that is not ours.
pub(crate) fn number(path: &Path) -> Option<u64> {
    let name = path.filename()?;
    if name.len() == 20 { name.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_their_numbers() {
        let topic = TopicId(Uuid::from_u128(7));
        let (old, new) = (WriterEpoch(9), WriterEpoch(10));
        assert!(root(topic, old, 9) < root(topic, old, 10));
        assert!(root(topic, old, u64::MAX) < root(topic, new, 0));
        assert_eq!(root_number(&root(topic, new, u64::MAX)), Some((new, u64::MAX)));
        assert_eq!(epoch_of(&chunk(topic, new, Uuid::nil())), Some(new));
        assert_eq!(epoch_of(&data(topic, old, Uuid::nil())), Some(old));
        assert_eq!(root_number(&data(topic, old, Uuid::nil())), None);
        assert_eq!(number(&claim(WriterEpoch(3))), Some(3));
        assert_eq!(number(&chunk(topic, old, Uuid::nil())), None);
        let id = CheckpointId { epoch: old, version: 12 };
        assert_eq!((checkpoint_id(&checkpoint(id)), tail_of(&tail(id, 3))), (Some(id), Some(id)));
        assert_eq!((checkpoint_id(&tail(id, 3)), tail_of(&checkpoint(id))), (None, None));
    }
}
