//! What things are called in the bucket. Stored for ever: never rename.
//!
//! | name | what | written |
//! |---|---|---|
//! | `meta/writer/<epoch>` | the claim of one process: cluster id and writer epoch | once per start |
//! | `topics/<topic id>/manifest/<version>` | a root: the whole truth of a topic as of that version | per publish |
//! | `topics/<topic id>/chunk/<uuid>` | entries of a manifest that roots refer to | when a root's tail is full |
//! | `topics/<topic id>/data/<epoch>-<uuid>.parquet` | records | per tiering run |
//!
//! Numbers have twenty digits, so that names sort as numbers do.

use object_store::path::Path;
use uuid::Uuid;

use crate::ids::{TopicId, WriterEpoch};

/// The folder of claims.
pub(crate) fn claims() -> Path {
    Path::from("meta/writer")
}

/// The claim of one epoch.
pub(crate) fn claim(epoch: WriterEpoch) -> Path {
    Path::from(format!("meta/writer/{:020}", epoch.0))
}

/// The folder of a topic's roots.
pub(crate) fn roots(topic: TopicId) -> Path {
    Path::from(format!("topics/{topic}/manifest"))
}

/// One root.
pub(crate) fn root(topic: TopicId, version: u64) -> Path {
    Path::from(format!("topics/{topic}/manifest/{version:020}"))
}

/// One chunk.
pub(crate) fn chunk(topic: TopicId, id: Uuid) -> Path {
    Path::from(format!("topics/{topic}/chunk/{id}"))
}

/// One object of records.
pub(crate) fn data(topic: TopicId, epoch: WriterEpoch, id: Uuid) -> Path {
    Path::from(format!("topics/{topic}/data/{:020}-{id}.parquet", epoch.0))
}

/// The number at the end of a claim's or root's name; `None` for a name that is not ours.
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
        assert!(root(topic, 9) < root(topic, 10));
        assert_eq!(number(&root(topic, u64::MAX)), Some(u64::MAX));
        assert_eq!(number(&claim(WriterEpoch(3))), Some(3));
        assert_eq!(number(&chunk(topic, Uuid::nil())), None);
    }
}
