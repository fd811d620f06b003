//! Objects that could not be read when they were to be rewritten: damaged, or gone from the bucket though a manifest names
//! them. Each is named once, shown for as long as offsets of it are live, and left alone; work goes on around it. After a
//! while it is tried again: somebody may have put it back.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;

use crate::ids::TopicId;
use crate::manifest::model::{Cover, Entry, TopicManifest};

/// Objects remembered; of a store that has lost more, a topic fails as a whole.
const SPOILED_MAX: usize = 10_000;

/// How long one is left alone, us.
const REST_US: i64 = 3_600_000_000;

/// What is known of one.
#[derive(Clone, Debug)]
struct Spoil {
    topic: TopicId,
    /// What its entry covers.
    covers: Vec<Cover>,
    reason: String,
    /// When it is tried again, us; `None` if it is being tried.
    until_us: Option<i64>,
}

/// See the top of this file.
#[derive(Debug, Default)]
pub(crate) struct Spoiled {
    /// By the object's name.
    objects: Mutex<HashMap<String, Spoil>>,
}

impl Spoiled {
    /// The entry's object cannot be read; whether that is news to go on with: not if it was left alone already, or if there
    /// are too many.
    pub(crate) fn note(&self, topic: TopicId, entry: &Entry, reason: &str, now_us: i64) -> bool {
        let Some(object) = &entry.object else { return false };
        let until_us = now_us.saturating_add(REST_US);
        let mut objects = self.objects.lock();
        if let Some(known) = objects.get_mut(&object.path) {
            return known.until_us.replace(until_us).is_none();
        }
        if objects.len() >= SPOILED_MAX {
            return false;
        }
        tracing::error!(%topic, object = object.path, reason, "an object cannot be read: it is left alone, and work goes on around it");
        let (covers, reason) = (entry.covers.clone(), reason.to_owned());
        objects.insert(object.path.clone(), Spoil { topic, covers, reason, until_us: Some(until_us) });
        true
    }

    /// Those that have rested long enough are tried again, and those of which no offset is live are forgotten.
    pub(crate) fn wake(&self, manifest: &TopicManifest, now_us: i64) {
        self.objects.lock().retain(|_, spoil| {
            // A clock that was set back must not make it rest for longer.
            let rests = |until: &i64| (now_us..=now_us.saturating_add(REST_US)).contains(until);
            if spoil.topic == manifest.topic {
                spoil.until_us = spoil.until_us.filter(rests);
            }
            spoil.topic != manifest.topic || !manifest.is_below_starts(&spoil.covers)
        });
    }

    /// Whether an object is left alone.
    pub(crate) fn holds(&self, path: &str) -> bool {
        self.objects.lock().get(path).is_some_and(|spoil| spoil.until_us.is_some())
    }

    /// Why an object cannot be read, if that is known of it.
    pub(crate) fn reason(&self, path: &str) -> Option<String> {
        self.objects.lock().get(path).map(|spoil| spoil.reason.clone())
    }

    /// Partitions of a topic with offsets in objects that are left alone.
    pub(crate) fn partitions_of(&self, topic: TopicId) -> BTreeSet<i32> {
        let objects = self.objects.lock();
        let of_topic = objects.values().filter(|spoil| spoil.topic == topic && spoil.until_us.is_some());
        of_topic.flat_map(|spoil| spoil.covers.iter().map(|cover| cover.partition)).collect()
    }

    /// These could be read after all: they have been rewritten.
    pub(crate) fn forget(&self, paths: &[String]) {
        let mut objects = self.objects.lock();
        if !objects.is_empty() {
            paths.iter().for_each(|path| drop(objects.remove(path)));
        }
    }

    /// All of a topic that is gone.
    pub(crate) fn forget_others(&self, is_there: impl Fn(TopicId) -> bool) {
        self.objects.lock().retain(|_, spoil| is_there(spoil.topic));
    }

    /// All of them: topic, object, why.
    pub(crate) fn all(&self) -> Vec<(TopicId, String, String)> {
        let objects = self.objects.lock();
        let mut all: Vec<_> =
            objects.iter().map(|(path, spoil)| (spoil.topic, path.clone(), spoil.reason.clone())).collect();
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::manifest::model::Ends;
    use crate::manifest::model::tests::entry;

    #[test]
    fn one_is_news_once_rests_and_is_tried_again_until_it_is_needed_no_more() {
        let topic = TopicId(Uuid::nil());
        let (spoiled, one) = (Spoiled::default(), entry("one", &[(3, 0, 10)]));
        let mut manifest = TopicManifest::empty(topic);
        manifest.partitions.insert(3, Ends { start: 0, end: 10 });
        assert!(spoiled.note(topic, &one, "gone", 1_000) && spoiled.holds("one"));
        assert!(!spoiled.note(topic, &one, "gone", 1_000), "it was left alone, so it cannot fail again");
        assert_eq!(spoiled.partitions_of(topic), BTreeSet::from([3]));
        spoiled.wake(&manifest, 1_000 + REST_US);
        assert!(spoiled.holds("one"));
        spoiled.wake(&manifest, 1_001 + REST_US);
        assert!(!spoiled.holds("one") && spoiled.reason("one").is_some());
        assert!(spoiled.note(topic, &one, "gone", 2 * REST_US) && spoiled.holds("one"));
        spoiled.wake(&manifest, 0);
        assert!(!spoiled.holds("one"), "the clock was set back");
        manifest.partitions.insert(3, Ends { start: 10, end: 10 });
        spoiled.wake(&manifest, 0);
        assert!(spoiled.all().is_empty());
        let other = TopicId(Uuid::max());
        assert!(spoiled.note(other, &one, "gone", 0));
        spoiled.forget(&["one".to_owned()]);
        assert!(spoiled.all().is_empty());
        let nothing = Entry { object: None, ..one };
        assert!(!spoiled.note(other, &nothing, "gone", 0));
    }
}
