//! Queues of statements that were overtaken by others at the same table, so that each gets its turn.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use aquifer_storage::TopicId;
use parking_lot::Mutex;

/// A queue: whoever holds the lock runs.
type Queue = tokio::sync::Mutex<()>;

/// The queues in use, by topic.
#[derive(Debug, Default)]
pub(crate) struct Contended {
    queues: Mutex<HashMap<TopicId, Weak<Queue>>>,
}

impl Contended {
    /// The queue of a topic; it lasts as long as somebody has it.
    pub(crate) fn queue(&self, topic: TopicId) -> Arc<Queue> {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get(&topic).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::new(Queue::new(()));
        queues.insert(topic, Arc::downgrade(&queue));
        queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_one_queue_while_somebody_has_it() {
        let contended = Contended::default();
        let (one, other) = (TopicId::from_bytes([1; 16]), TopicId::from_bytes([2; 16]));
        let queue = contended.queue(one);
        assert!(Arc::ptr_eq(&queue, &contended.queue(one)) && !Arc::ptr_eq(&queue, &contended.queue(other)));
        drop(queue);
        contended.queue(other);
        assert_eq!(contended.queues.lock().len(), 1);
    }
}
