//! A watch over a topic's keys: whoever reads rows and writes them back learns whether somebody else wrote one meanwhile.
//!
//! The writer notes the keys of what it lets into a watched partition, and judges a commit that names a watch by them, in
//! commit order: so what was read still holds when the commit counts, or it is refused. Nothing is noted where nobody
//! watches. What cannot be known (too many keys since, a batch that does not open) is taken for a change.
//!
//! A large commit's own batches are told by their producer. A batch that was noted and then taken back stays noted: at
//! worst somebody tries again in vain.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::ids::{TopicId, TopicPartition};
use crate::log::Node;
use crate::log::ledger::{Ledger, Request};
use crate::record::batch::{BatchLimits, CheckedBatch};
use crate::view::Isolation;
use crate::worker;

/// Keys noted of one partition; older ones are forgotten, and who watches since before is refused.
const KEYS_MAX: usize = 64 << 10;
/// Keys a watch remembers one by one; beyond, whatever is written to their partitions counts.
const TOUCHED_MAX: usize = 1 << 20;
/// How long to wait for transactions that are open when a watch begins, ms.
const OPEN_WAIT_MS: u64 = 5_000;
/// No producer.
const NOBODY: i64 = -1;

/// See the top of this file. Ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Watch {
    inner: Arc<Watched>,
}

#[derive(Debug)]
struct Watched {
    topic: TopicId,
    /// Per partition its end when the watch began; the writer says.
    starts: OnceLock<Vec<i64>>,
    touched: Mutex<Touched>,
    /// Whose batches are its own.
    producer: AtomicI64,
}

/// Keys whose rows were read to be written back.
#[derive(Debug, Default)]
struct Touched {
    /// Partition and hash.
    keys: HashSet<(i32, u64)>,
    /// There were too many: any of these partitions' keys.
    partitions: HashSet<i32>,
}

impl Touched {
    fn has(&self, partition: i32, key: u64) -> bool {
        self.partitions.contains(&partition) || self.keys.contains(&(partition, key))
    }
}

impl Watch {
    /// The row of this key was read, and what is committed with the watch rests on it.
    pub fn touch(&self, partition: i32, key: &[u8]) {
        let mut touched = self.inner.touched.lock();
        if touched.keys.len() < TOUCHED_MAX {
            touched.keys.insert((partition, hash(key)));
        } else {
            touched.partitions.insert(partition);
        }
    }

    /// Batches of this producer are those of the commit that names the watch.
    pub(crate) fn own(&self, producer_id: i64) {
        self.inner.producer.store(producer_id, Ordering::Relaxed);
    }
}

fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// The writer's part: keys of watched partitions.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    partitions: HashMap<TopicPartition, Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// Who watches, and since which offset.
    watchers: Vec<(Weak<Watched>, i64)>,
    /// Base offset of the batch, hash of the key, producer; in the order of the batches.
    keys: VecDeque<(i64, u64, i64)>,
    /// Below this offset keys have been forgotten.
    known_from: i64,
}

impl Watches {
    fn begin(&mut self, partition: TopicPartition, watched: &Arc<Watched>, start: i64) {
        let recent = self.partitions.entry(partition).or_default();
        recent.forget();
        recent.watchers.push((Arc::downgrade(watched), start));
    }

    /// Notes the keys of a batch that was let in.
    pub(crate) fn note(&mut self, partition: TopicPartition, base_offset: i64, batch: &CheckedBatch) {
        let Some(recent) = self.partitions.get_mut(&partition) else { return };
        recent.forget();
        if recent.watchers.is_empty() {
            self.partitions.remove(&partition);
            return;
        }
        if recent.note(base_offset, batch).is_err() {
            recent.known_from = base_offset + 1;
        }
    }

    /// Refuses a commit if a key it rests on was written since its watch began.
    pub(crate) fn check(&self, watch: &Watch) -> Result<()> {
        let touched = watch.inner.touched.lock();
        let by_key = touched.keys.iter().map(|(partition, _)| *partition);
        let partitions: HashSet<i32> = by_key.chain(touched.partitions.iter().copied()).collect();
        let own = watch.inner.producer.load(Ordering::Relaxed);
        let starts = watch.inner.starts.get().map(Vec::as_slice).unwrap_or_default();
        let holds = |partition: i32| {
            let start = usize::try_from(partition).ok().and_then(|index| starts.get(index))?;
            let recent = self.partitions.get(&TopicPartition { topic: watch.inner.topic, partition })?;
            let changed = |(offset, key, producer): &(i64, u64, i64)| {
                offset >= start && (*producer == NOBODY || *producer != own) && touched.has(partition, *key)
            };
            (recent.known_from <= *start && !recent.keys.iter().any(changed)).then_some(())
        };
        if partitions.into_iter().all(|partition| holds(partition).is_some()) {
            return Ok(());
        }
        let topic = watch.inner.topic.to_string();
        Err(Error::RowsContended { topic, reason: "somebody else has changed them since they were read" })
    }
}

impl Recent {
    /// Forgets who is gone, and what nobody needs any more.
    fn forget(&mut self) {
        self.watchers.retain(|(watched, _)| watched.strong_count() > 0);
        let needed_from = self.watchers.iter().map(|(_, start)| *start).min().unwrap_or(i64::MAX);
        while self.keys.front().is_some_and(|(offset, ..)| *offset < needed_from) {
            self.keys.pop_front();
        }
    }

    fn note(&mut self, base_offset: i64, batch: &CheckedBatch) -> Result<()> {
        let producer = if batch.header().has_producer() { batch.header().producer_id } else { NOBODY };
        for record in batch.records(BatchLimits::STORED)?.iter() {
            let Some(key) = record?.key else { continue };
            if self.keys.len() >= KEYS_MAX
                && let Some((offset, ..)) = self.keys.pop_front()
            {
                self.known_from = self.known_from.max(offset + 1);
            }
            self.keys.push_back((base_offset, hash(key), producer));
        }
        Ok(())
    }
}

impl Ledger {
    /// Begins a watch over all partitions of its topic.
    pub(crate) fn watch(&mut self, watch: &Watch) -> Result<()> {
        let id = watch.inner.topic;
        let topic = self.own.topics.get(&id).ok_or_else(|| Error::UnknownTopic { topic: id.to_string() })?;
        let places = (0..topic.partitions).map(|partition| TopicPartition { topic: id, partition });
        let starts: Vec<_> = places.map(|place| (place, self.end_of(place))).collect();
        for (place, start) in &starts {
            self.watches.begin(*place, &watch.inner, *start);
        }
        // A watch begins once.
        let _ = watch.inner.starts.set(starts.into_iter().map(|(_, start)| start).collect());
        Ok(())
    }
}

impl Node {
    /// Begins a watch; answered when all that came before it is durable and of no open transaction, so that a snapshot
    /// taken then has it.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`]; [`Error::RowsContended`] if a transaction stays open; [`Error::ReadOnly`], [`Error::Full`],
    /// [`Error::Closed`].
    pub(crate) async fn watch(&self, topic: TopicId) -> Result<Watch> {
        let (starts, touched, producer) = (OnceLock::new(), Mutex::default(), AtomicI64::new(NOBODY));
        let watch = Watch { inner: Arc::new(Watched { topic, starts, touched, producer }) };
        self.submit(Request { watch: Some(watch.clone()), ..Request::default() }).await?;
        let settled = async {
            for (partition, start) in (0..).zip(watch.inner.starts.get().into_iter().flatten()) {
                let place = TopicPartition { topic, partition };
                if *start > self.watermarks(place)?.last_stable_offset {
                    self.wait_past(&[(place, start - 1)], Isolation::ReadCommitted, None).await;
                }
            }
            Ok(())
        };
        match worker::timeout(Duration::from_millis(OPEN_WAIT_MS), settled).await {
            Some(settled) => settled.map(|()| watch),
            None => {
                let name = self.topic_by_id(topic).map_or_else(|| topic.to_string(), |topic| topic.name.clone());
                let reason = "a transaction of another producer is open over them (aquifer.transactions)";
                Err(Error::RowsContended { topic: name, reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::batch::{BatchBuilder, Compression, TimestampType};

    const PLACE: TopicPartition = TopicPartition { topic: TopicId(uuid::Uuid::nil()), partition: 0 };

    fn batch(keys: &[&str]) -> CheckedBatch {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        keys.iter().for_each(|key| builder.push(0, Some(key.as_bytes()), None, &[]));
        builder.build(Compression::None).unwrap()
    }

    fn watch(watches: &mut Watches, start: i64) -> Watch {
        let (touched, producer) = (Mutex::default(), AtomicI64::new(NOBODY));
        let starts = OnceLock::from(vec![start]);
        let inner = Arc::new(Watched { topic: PLACE.topic, starts, touched, producer });
        watches.begin(PLACE, &inner, start);
        Watch { inner }
    }

    fn holds(watches: &Watches, watch: &Watch) -> bool {
        watches.check(watch).is_ok()
    }

    #[test]
    fn a_commit_is_refused_if_a_key_it_rests_on_was_written_since() {
        let mut watches = Watches::default();
        let first = watch(&mut watches, 5);
        first.touch(0, b"a");
        watches.note(PLACE, 5, &batch(&["b"]));
        assert!(holds(&watches, &first), "another key");
        let second = watch(&mut watches, 6);
        second.touch(0, b"b");
        assert!(holds(&watches, &second), "it has seen that one");
        watches.note(PLACE, 6, &batch(&["x", "a"]));
        assert!(!holds(&watches, &first) && holds(&watches, &second));
        second.touch(1, b"z");
        assert!(!holds(&watches, &second), "a partition that it does not watch");
    }

    #[test]
    fn what_nobody_watches_is_not_noted_and_what_was_forgotten_is_a_change() {
        let mut watches = Watches::default();
        watches.note(PLACE, 0, &batch(&["a"]));
        assert!(watches.partitions.is_empty());
        let watch = watch(&mut watches, 1);
        watch.touch(0, b"a");
        let keys: Vec<String> = (0..KEYS_MAX).map(|key| format!("k{key}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        watches.note(PLACE, 1, &batch(&keys));
        assert!(holds(&watches, &watch));
        watches.note(PLACE, 1 + KEYS_MAX as i64, &batch(&["k"]));
        assert!(!holds(&watches, &watch));
        drop(watch);
        watches.note(PLACE, 2 + KEYS_MAX as i64, &batch(&["k"]));
        assert!(watches.partitions.is_empty(), "it ends with who watches");
    }
}
