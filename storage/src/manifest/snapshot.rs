//! The manifests that count now, for readers who hold on to what they saw and writers who take turns.
//!
//! A reader takes an `Arc` and keeps it: a later publish puts another value in its place and touches nothing. That `Arc`
//! is its pin: what the manifest names stays in the bucket until the last one is dropped.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::error::{Error, Result};
use crate::ids::TopicId;
use crate::manifest::model::TopicManifest;
use crate::manifest::publish::Swept;

/// One manifest per topic.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    /// Held for a look-up or a replacement only.
    topics: RwLock<HashMap<TopicId, OfTopic>>,
    /// Topics whose newest root cannot be read, and why. Nobody knows then what is cold of them: an older root would make
    /// rows vanish and bring others back. So until the next start nothing below the log is served of them, nothing is
    /// published, and nothing is removed from the bucket.
    unreadable: RwLock<BTreeMap<TopicId, Error>>,
}

#[derive(Debug)]
struct OfTopic {
    newest: Arc<TopicManifest>,
    /// Older ones that somebody may hold, oldest first.
    older: Vec<Weak<TopicManifest>>,
    swept: Swept,
    /// Held while a publish is on its way.
    turn: Arc<Mutex<()>>,
    /// Since a publish that takes rows away was begun something has counted.
    settled: bool,
}

impl Manifests {
    /// The topic's manifest; an empty one if nothing of it is cold.
    pub(crate) fn get(&self, topic: TopicId) -> Arc<TopicManifest> {
        let known = self.topics.read().get(&topic).map(|of_topic| Arc::clone(&of_topic.newest));
        known.unwrap_or_else(|| Arc::new(TopicManifest::empty(topic)))
    }

    /// The newest root of a topic cannot be read.
    pub(crate) fn note_unreadable(&self, topic: TopicId, error: Error) {
        self.unreadable.write().insert(topic, error);
    }

    /// Fails for a topic whose manifest cannot be read: whoever needs to know what is cold asks first.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the root.
    pub(crate) fn check_readable(&self, topic: TopicId) -> Result<()> {
        self.unreadable.read().get(&topic).map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Topics whose manifest cannot be read, and why.
    pub(crate) fn unreadable(&self) -> Vec<(TopicId, Error)> {
        self.unreadable.read().iter().map(|(topic, error)| (*topic, error.clone())).collect()
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
        let before = std::mem::replace(&mut of_topic.newest, Arc::clone(&manifest));
        of_topic.older.push(Arc::downgrade(&before));
        of_topic.settled = true;
        drop(before);
        of_topic.older.retain(|older| older.strong_count() > 0);
        manifest
    }

    /// Notes whether a publish that takes rows away may yet come to count; whether it was settled before. The next manifest
    /// that is installed settles it.
    pub(crate) fn note_settled(&self, topic: TopicId, settled: bool) -> bool {
        let mut topics = self.topics.write();
        let of_topic = topics.entry(topic).or_insert_with(|| OfTopic::new(topic));
        std::mem::replace(&mut of_topic.settled, settled)
    }

    /// Whether no publish that takes rows away may yet come to count.
    pub(crate) fn is_settled(&self, topic: TopicId) -> bool {
        self.topics.read().get(&topic).is_none_or(|of_topic| of_topic.settled)
    }

    /// The oldest version of a topic's manifest that somebody holds or can get.
    pub(crate) fn oldest_held(&self, topic: TopicId) -> u64 {
        let topics = self.topics.read();
        let Some(of_topic) = topics.get(&topic) else { return 0 };
        let held = of_topic.older.iter().find_map(Weak::upgrade);
        held.map_or(of_topic.newest.version, |held| held.version)
    }

    /// Whether somebody holds a manifest of a topic.
    pub(crate) fn is_held(&self, topic: TopicId) -> bool {
        let topics = self.topics.read();
        topics.get(&topic).is_some_and(|of_topic| {
            Arc::strong_count(&of_topic.newest) > 1 || of_topic.older.iter().any(|older| older.strong_count() > 0)
        })
    }

    /// What the sweep has done of a topic and no root says yet.
    pub(crate) fn swept(&self, topic: TopicId) -> Swept {
        self.topics.read().get(&topic).map(|of_topic| of_topic.swept).unwrap_or_default()
    }

    /// The sweep has done that.
    pub(crate) fn note_swept(&self, topic: TopicId, swept: Swept) {
        if let Some(of_topic) = self.topics.write().get_mut(&topic) {
            of_topic.swept = swept;
        }
    }

    /// Forgets a topic that is gone for good.
    pub(crate) fn remove(&self, topic: TopicId) {
        self.topics.write().remove(&topic);
        self.unreadable.write().remove(&topic);
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<TopicManifest>> {
        self.topics.read().values().map(|of_topic| Arc::clone(&of_topic.newest)).collect()
    }
}

impl OfTopic {
    fn new(topic: TopicId) -> Self {
        let newest = Arc::new(TopicManifest::empty(topic));
        Self { newest, older: Vec::new(), swept: Swept::default(), turn: Arc::default(), settled: true }
    }
}
