//! The manifests that count now, for readers who hold on to what they saw and writers who take turns.
//!
//! A reader takes an `Arc` and keeps it: a later publish puts another value in its place and touches nothing. Objects
//! named by a manifest somebody holds stay in the bucket.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::ids::TopicId;
use crate::manifest::model::TopicManifest;

/// One manifest per topic.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    /// Held for a look-up or a replacement only.
    topics: RwLock<HashMap<TopicId, OfTopic>>,
}

#[derive(Debug)]
struct OfTopic {
    newest: Arc<TopicManifest>,
    /// Held while a publish is on its way.
    turn: Arc<Mutex<()>>,
}

impl Manifests {
    /// The topic's manifest; an empty one if nothing of it is cold.
    pub(crate) fn get(&self, topic: TopicId) -> Arc<TopicManifest> {
        let known = self.topics.read().get(&topic).map(|of_topic| Arc::clone(&of_topic.newest));
        known.unwrap_or_else(|| Arc::new(TopicManifest::empty(topic)))
    }

    /// Waits until nobody else publishes the topic's manifest; nobody does while the answer is held.
    pub(crate) async fn turn(&self, topic: TopicId) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(&self.topics.write().entry(topic).or_insert_with(|| OfTopic::new(topic)).turn);
        turn.lock_owned().await
    }

    /// Shows a manifest from now on.
    pub(crate) fn install(&self, manifest: TopicManifest) -> Arc<TopicManifest> {
        let manifest = Arc::new(manifest);
        let mut topics = self.topics.write();
        let of_topic = topics.entry(manifest.topic).or_insert_with(|| OfTopic::new(manifest.topic));
        of_topic.newest = Arc::clone(&manifest);
        manifest
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<TopicManifest>> {
        self.topics.read().values().map(|of_topic| Arc::clone(&of_topic.newest)).collect()
    }
}

impl OfTopic {
    fn new(topic: TopicId) -> Self {
        Self { newest: Arc::new(TopicManifest::empty(topic)), turn: Arc::default() }
    }
}
