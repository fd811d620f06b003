//! The manifests that count now, for readers who hold on to what they saw.
//!
//! A reader takes an `Arc` and keeps it: a later publish puts another value in its place and touches nothing. Objects
//! named by a manifest somebody holds stay in the bucket.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::ids::TopicId;
use crate::manifest::model::TopicManifest;

/// One manifest per topic.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    /// Held for a look-up or a replacement only.
    newest: RwLock<HashMap<TopicId, Arc<TopicManifest>>>,
}

impl Manifests {
    /// The topic's manifest; an empty one if nothing of it is cold.
    pub(crate) fn get(&self, topic: TopicId) -> Arc<TopicManifest> {
        let known = self.newest.read().get(&topic).map(Arc::clone);
        known.unwrap_or_else(|| Arc::new(TopicManifest::empty(topic)))
    }

    /// Shows a manifest from now on.
    pub(crate) fn install(&self, manifest: TopicManifest) -> Arc<TopicManifest> {
        let manifest = Arc::new(manifest);
        self.newest.write().insert(manifest.topic, Arc::clone(&manifest));
        manifest
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<TopicManifest>> {
        self.newest.read().values().map(Arc::clone).collect()
    }
}
