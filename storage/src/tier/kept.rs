//! What the sweep leaves alone for the sake of checkpoints: the roots they name, and all that these name.
//!
//! A checkpoint is worth as much as what it names. So nothing that went from a manifest after the version a checkpoint
//! names is removed while the checkpoint is kept. One that is about to be put counts from before its put, and one of
//! which nobody knows whether it was put counts until two later ones have been.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use object_store::path::Path;
use parking_lot::RwLock;

use crate::ids::{CheckpointId, TopicId, WriterEpoch};
use crate::object::paths;

/// A root: topic, and who published it as which version; `None` if nothing of the topic was cold.
pub(crate) type RootName = (TopicId, Option<(WriterEpoch, u64)>);

/// The roots that one checkpoint names, by topic.
type Roots = HashMap<TopicId, Option<(WriterEpoch, u64)>>;

/// The checkpoints that are kept.
#[derive(Debug, Default)]
pub(crate) struct Kept(RwLock<BTreeMap<CheckpointId, Roots>>);

impl Kept {
    /// From now on nothing of these roots is removed.
    pub(crate) fn keep(&self, id: CheckpointId, roots: &[RootName]) {
        self.0.write().insert(id, roots.iter().copied().collect());
    }

    /// It was not put.
    pub(crate) fn forget(&self, id: CheckpointId) {
        self.0.write().remove(&id);
    }

    /// Nobody knows whether it was put. What was given up since `newest` is kept as one: of each topic its oldest root.
    pub(crate) fn give_up(&self, id: CheckpointId, newest: Option<CheckpointId>) {
        let mut kept = self.0.write();
        let Some(roots) = kept.remove(&id) else { return };
        let after = newest.map_or(Bound::Unbounded, Bound::Excluded);
        let first = kept.range((after, Bound::Unbounded)).next().map_or(id, |(first, _)| *first);
        let together = kept.entry(first).or_default();
        for (topic, root) in roots {
            together.entry(topic).and_modify(|known| *known = known.or(root)).or_insert(root);
        }
    }

    /// Checkpoints older than this one need nothing any more, but for `beside`.
    pub(crate) fn forget_below(&self, id: CheckpointId, beside: Option<CheckpointId>) {
        self.0.write().retain(|kept, _| *kept >= id || Some(*kept) == beside);
    }

    /// None is kept any more.
    pub(crate) fn clear(&self) {
        self.0.write().clear();
    }

    /// Whether none is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }

    /// Whether a checkpoint names the topic.
    pub(crate) fn has_topic(&self, topic: TopicId) -> bool {
        self.0.read().values().any(|roots| roots.contains_key(&topic))
    }

    /// The oldest version of a topic's manifest that a checkpoint names.
    pub(crate) fn oldest_version(&self, topic: TopicId) -> Option<u64> {
        let kept = self.0.read();
        let versions = kept.values().filter_map(|roots| roots.get(&topic).copied().flatten());
        versions.map(|(_, version)| version).min()
    }

    /// The names of a topic's roots that checkpoints name.
    pub(crate) fn roots_of(&self, topic: TopicId) -> Vec<Path> {
        let kept = self.0.read();
        let roots = kept.values().filter_map(|roots| roots.get(&topic).copied().flatten());
        roots.map(|(epoch, version)| paths::root(topic, epoch, version)).collect()
    }
}
