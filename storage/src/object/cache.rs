//! A cache bounded by bytes: what was used longest ago goes first.
//!
//! Objects never change under their name, so nothing is ever invalidated. Values are shared, not copied.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::view::CacheInfo;

/// Values by key, at most so many bytes of them.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    bytes_max: usize,
    /// Held for a look-up or an insertion only, never while reading.
    state: Mutex<State<K, V>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug)]
struct State<K, V> {
    /// Value, its bytes, the moment of its last use.
    values: HashMap<K, (V, usize, u64)>,
    /// Keys by the moment of their last use.
    uses: BTreeMap<u64, K>,
    bytes: usize,
    now: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> Cache<K, V> {
    /// An empty one.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let state = State { values: HashMap::new(), uses: BTreeMap::new(), bytes: 0, now: 0 };
        Self { bytes_max, state: Mutex::new(state), hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The value, if it is there.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let value = self.find(key);
        let counter = if value.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        value
    }

    /// Whether a value is there, for who does not want it now.
    pub(crate) fn holds(&self, key: &K) -> bool {
        self.state.lock().values.contains_key(key)
    }

    /// The value, for who does not use it now.
    pub(crate) fn peek(&self, key: &K) -> Option<V> {
        self.state.lock().values.get(key).map(|(value, ..)| value.clone())
    }

    /// How it does, under a name.
    pub(crate) fn info(&self, name: &'static str) -> CacheInfo {
        CacheInfo {
            name,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: self.bytes() as u64,
            bytes_max: self.bytes_max as u64,
        }
    }

    fn find(&self, key: &K) -> Option<V> {
        let mut state = self.state.lock();
        state.now += 1;
        let now = state.now;
        let (value, _, used) = state.values.get_mut(key)?;
        let value = value.clone();
        let before = std::mem::replace(used, now);
        state.uses.remove(&before);
        state.uses.insert(now, key.clone());
        Some(value)
    }

    /// Takes a value out.
    pub(crate) fn remove(&self, key: &K) {
        let mut state = self.state.lock();
        if let Some((_, freed, used)) = state.values.remove(key) {
            state.bytes -= freed;
            state.uses.remove(&used);
        }
    }

    /// How much is in it.
    pub(crate) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// Keeps the value and gives what had to go for it; what is larger than the whole cache goes at once.
    pub(crate) fn insert(&self, key: K, value: V, bytes: usize) -> Vec<(K, V)> {
        let mut gone = Vec::new();
        if bytes > self.bytes_max {
            gone.push((key, value));
            return gone;
        }
        let mut state = self.state.lock();
        state.now += 1;
        let now = state.now;
        if let Some((_, old_bytes, used)) = state.values.insert(key.clone(), (value, bytes, now)) {
            state.bytes -= old_bytes;
            state.uses.remove(&used);
        }
        state.uses.insert(now, key);
        state.bytes += bytes;
        while state.bytes > self.bytes_max {
            let Some((_, oldest)) = state.uses.pop_first() else { break };
            if let Some((value, freed, _)) = state.values.remove(&oldest) {
                state.bytes -= freed;
                gone.push((oldest, value));
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let cache = Cache::new(10);
        cache.insert("a", 1, 4);
        cache.insert("b", 2, 4);
        assert_eq!(cache.get(&"a"), Some(1));
        assert_eq!(cache.insert("c", 3, 4), [("b", 2)]);
        assert_eq!((cache.get(&"a"), cache.get(&"b"), cache.get(&"c")), (Some(1), None, Some(3)));
        cache.insert("a", 5, 6);
        assert_eq!((cache.get(&"a"), cache.get(&"c")), (Some(5), Some(3)));
        assert_eq!(cache.insert("d", 4, 11), [("d", 4)]);
        assert_eq!(cache.get(&"d"), None);
        assert_eq!(cache.bytes(), 10);
        cache.remove(&"a");
        assert_eq!((cache.bytes(), cache.get(&"a")), (4, None));
        assert!(cache.holds(&"c") && !cache.holds(&"a"));
        let expected = CacheInfo { name: "some", hits: 5, misses: 3, bytes: 4, bytes_max: 10 };
        assert_eq!(cache.info("some"), expected);
    }
}
