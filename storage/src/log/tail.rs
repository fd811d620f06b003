//! Waiting at the tail: who waits for a partition to grow is woken when it has, and nobody else is.
//!
//! Waiters stand in a queue of their partition with the offset they want passed, by the high watermark or by the last
//! stable offset; publishing wakes those whose offset is. Registering comes before the look at the ends, so no wake-up
//! falls between the two. A last stable offset moves when its partition grows, since a marker is a record too, or
//! with a moved log start, which is a change of its topic.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::ids::{TopicId, TopicPartition};
use crate::view::Isolation;

#[derive(Debug)]
struct Waiter {
    id: u64,
    /// Woken when the end that counts is above this.
    offset: i64,
    /// Which end counts.
    isolation: Isolation,
    notify: Arc<Notify>,
}

/// All who wait. The lock is held for a queue's length at the most, never across an await.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    waiters: Mutex<HashMap<TopicPartition, Vec<Waiter>>>,
    next_id: AtomicU64,
}

/// A place in the queues; leaving is dropping it.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    tail: &'a Tail,
    id: u64,
    partitions: Vec<TopicPartition>,
    notify: Arc<Notify>,
}

impl Tail {
    /// Queues up for all of these.
    pub(crate) fn enter(&self, offsets: &[(TopicPartition, i64)], isolation: Isolation) -> Place<'_> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let notify = Arc::new(Notify::new());
        let mut waiters = self.waiters.lock();
        for (partition, offset) in offsets {
            let waiter = Waiter { id, offset: *offset, isolation, notify: Arc::clone(&notify) };
            waiters.entry(*partition).or_default().push(waiter);
        }
        let partitions = offsets.iter().map(|(partition, _)| *partition).collect();
        Place { tail: self, id, partitions, notify }
    }

    /// Partitions have grown to these ends: high watermark and last stable offset.
    pub(crate) fn grown(&self, ends: &[(TopicPartition, i64, i64)]) {
        let waiters = self.waiters.lock();
        if waiters.is_empty() {
            return;
        }
        for (partition, high_watermark, last_stable_offset) in ends {
            for waiter in waiters.get(partition).into_iter().flatten() {
                let end = match waiter.isolation {
                    Isolation::ReadUncommitted => *high_watermark,
                    Isolation::ReadCommitted => *last_stable_offset,
                };
                if end > waiter.offset {
                    waiter.notify.notify_one();
                }
            }
        }
    }

    /// A topic is gone, so that nothing more will come, or has other partitions or log starts now.
    pub(crate) fn changed(&self, topic: TopicId) {
        let waiters = self.waiters.lock();
        for (_, queue) in waiters.iter().filter(|(partition, _)| partition.topic == topic) {
            queue.iter().for_each(|waiter| waiter.notify.notify_one());
        }
    }

    /// The node closes.
    pub(crate) fn all_gone(&self) {
        self.waiters.lock().values().flatten().for_each(|waiter| waiter.notify.notify_one());
    }
}

impl Place<'_> {
    /// Returns when woken; a wake-up since [`Tail::enter`] counts.
    pub(crate) async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiters = self.tail.waiters.lock();
        for partition in &self.partitions {
            if let Some(queue) = waiters.get_mut(partition) {
                queue.retain(|waiter| waiter.id != self.id);
                if queue.is_empty() {
                    waiters.remove(partition);
                }
            }
        }
    }
}
