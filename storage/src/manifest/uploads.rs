//! What has been put, or is about to be, and that no manifest names yet: it is either published or abandoned.
//!
//! What was abandoned must not be removed at once: the publish that was given up may have been applied, and would count if
//! the process died now. The next publish that counts settles that, so it takes the abandoned names along as garbage.
//! Names that a process leaves behind when it dies are found by their epoch (see `tier/sweep`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::ids::TopicId;
use crate::manifest::model::Gone;

/// Of all topics.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody still means to publish these.
    living: HashSet<(TopicId, Gone)>,
    /// Nobody does any more.
    abandoned: HashMap<TopicId, Vec<Gone>>,
}

/// What one attempt has put; what of it is not published when this is dropped is abandoned.
#[derive(Debug)]
pub(crate) struct Upload {
    uploads: Arc<Uploads>,
    topic: TopicId,
    noted: Mutex<Vec<Gone>>,
}

impl Uploads {
    /// An attempt of a topic.
    pub(crate) fn begin(self: &Arc<Self>, topic: TopicId) -> Upload {
        Upload { uploads: Arc::clone(self), topic, noted: Mutex::default() }
    }

    /// A manifest that counts names these.
    pub(crate) fn published(&self, topic: TopicId, names: impl IntoIterator<Item = Gone>) {
        let mut state = self.state.lock();
        for name in names {
            state.living.remove(&(topic, name));
        }
    }

    /// What was abandoned of a topic and is not garbage yet.
    pub(crate) fn abandoned(&self, topic: TopicId) -> Vec<Gone> {
        self.state.lock().abandoned.get(&topic).cloned().unwrap_or_default()
    }

    /// The first so many of [`Uploads::abandoned`] are garbage now.
    pub(crate) fn forget(&self, topic: TopicId, count: usize) {
        let mut state = self.state.lock();
        if let Some(abandoned) = state.abandoned.get_mut(&topic) {
            abandoned.drain(..count.min(abandoned.len()));
        }
    }
}

impl Upload {
    /// Something is about to be put.
    pub(crate) fn note(&self, name: Gone) {
        self.noted.lock().push(name.clone());
        self.uploads.state.lock().living.insert((self.topic, name));
    }

    /// All of it is published.
    pub(crate) fn published(&self) {
        self.uploads.published(self.topic, self.noted.lock().drain(..));
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut state = self.uploads.state.lock();
        for name in self.noted.get_mut().drain(..) {
            if state.living.remove(&(self.topic, name.clone())) {
                state.abandoned.entry(self.topic).or_default().push(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_not_published_is_abandoned() {
        let uploads = Arc::new(Uploads::default());
        let topic = TopicId(Uuid::nil());
        let name = |name: &str| Gone::Object(name.to_owned());
        let upload = uploads.begin(topic);
        for object in ["a", "b", "c"] {
            upload.note(name(object));
        }
        uploads.published(topic, [name("b")]);
        assert!(uploads.abandoned(topic).is_empty());
        drop(upload);
        assert_eq!(uploads.abandoned(topic), [name("a"), name("c")]);
        uploads.forget(topic, 1);
        let upload = uploads.begin(topic);
        upload.note(name("d"));
        upload.published();
        drop(upload);
        assert_eq!(uploads.abandoned(topic), [name("c")]);
    }
}
