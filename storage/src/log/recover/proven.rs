//! What records prove though that which told of it is damaged: a topic has every partition that there is a record of; pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::TopicId;
use crate::log::own::{Change, PARTITIONS_MAX};
use crate::log::published::Published;
use crate::view::Topic;

/// The changes by which topics grow to the partitions that were found. Without them the rest of a topic of which only the
/// growing is damaged could not be read.
pub(super) fn grown(published: &Published) -> Vec<Change> {
    let mut counts: BTreeMap<TopicId, i32> = BTreeMap::new();
    for partition in published.partitions.keys() {
        let count = counts.entry(partition.topic).or_default();
        *count = partition.partition.saturating_add(1).max(*count);
    }
    let mut changes = Vec::new();
    for (id, partitions) in counts.into_iter().filter(|(_, partitions)| *partitions <= PARTITIONS_MAX) {
        let Some(topic) = published.own.topics.get(&id).filter(|topic| topic.partitions < partitions) else { continue };
        changes.push(Change::Topic { id, value: Some(Arc::new(Topic { partitions, ..Topic::clone(topic) })) });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TopicPartition;
    use crate::topic_config::TopicConfig;

    #[test]
    fn a_topic_has_the_partitions_that_there_are_records_of() {
        let id = TopicId::from_bytes([7; 16]);
        let topic = Topic {
            id,
            name: "t".to_owned(),
            partitions: 2,
            config: TopicConfig::default(),
            internal: false,
            created_at_us: 0,
        };
        let mut published = Published::default();
        published.apply(&Change::Topic { id, value: Some(Arc::new(topic)) });
        assert!(grown(&published).is_empty());
        published.partitions.insert(TopicPartition { topic: id, partition: 4 }, Default::default());
        // Of a topic that is not known nothing is made up.
        published
            .partitions
            .insert(TopicPartition { topic: TopicId::from_bytes([8; 16]), partition: 0 }, Default::default());
        let changes = grown(&published);
        assert!(matches!(changes.as_slice(), [Change::Topic { value: Some(topic), .. }] if topic.partitions == 5));
        changes.iter().for_each(|change| published.apply(change));
        assert_eq!(published.partitions.keys().filter(|partition| partition.topic == id).count(), 5);
    }
}
