//! Topics that something failed for: each is left alone for a growing while, and the others go on.
//!
//! By the node's clock; one that is set back keeps no topic waiting longer. Nothing is remembered of topics that are
//! well or gone, so it is bounded by how many there are.

use std::collections::HashMap;

use crate::ids::TopicId;

/// The topics in trouble.
#[derive(Debug)]
pub(crate) struct Troubles {
    first_us: i64,
    longest_us: i64,
    topics: HashMap<TopicId, Trouble>,
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    since_us: i64,
    pause_us: i64,
}

impl Troubles {
    /// Pauses last from `first_us` to `longest_us`.
    pub(crate) fn new(first_us: i64, longest_us: i64) -> Self {
        Self { first_us, longest_us, topics: HashMap::new() }
    }

    /// Whether it is to be left alone.
    pub(crate) fn rests(&self, topic: TopicId, now_us: i64) -> bool {
        let trouble = self.topics.get(&topic);
        trouble.is_some_and(|trouble| (0..trouble.pause_us).contains(&now_us.saturating_sub(trouble.since_us)))
    }

    /// It failed, once more if it has before; gives the pause, us.
    pub(crate) fn failed(&mut self, topic: TopicId, now_us: i64) -> i64 {
        let before = self.topics.get(&topic).map_or(0, |trouble| trouble.pause_us);
        let pause_us = before.saturating_mul(2).clamp(self.first_us, self.longest_us);
        self.topics.insert(topic, Trouble { since_us: now_us, pause_us });
        pause_us
    }

    /// It is well.
    pub(crate) fn mended(&mut self, topic: TopicId) {
        self.topics.remove(&topic);
    }

    /// Forgets the topics that are gone.
    pub(crate) fn keep(&mut self, is_there: impl Fn(TopicId) -> bool) {
        self.topics.retain(|topic, _| is_there(*topic));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_topic_rests_longer_each_time_and_not_at_all_when_it_is_well_or_the_clock_was_set_back() {
        let (one, other) = (TopicId(Uuid::from_u128(1)), TopicId(Uuid::from_u128(2)));
        let mut troubles = Troubles::new(10, 35);
        assert_eq!([0, 10, 30, 65].map(|now_us| troubles.failed(one, now_us)), [10, 20, 35, 35]);
        let rests = |troubles: &Troubles, at| (troubles.rests(one, at), troubles.rests(other, at));
        assert_eq!([64, 65, 99, 100].map(|at| rests(&troubles, at).0), [false, true, true, false]);
        assert!(!rests(&troubles, 70).1);
        troubles.failed(other, 70);
        troubles.keep(|topic| topic == one);
        assert_eq!(rests(&troubles, 71), (true, false));
        troubles.mended(one);
        assert!(!rests(&troubles, 71).0);
        assert_eq!(troubles.failed(one, 71), 10);
    }
}
