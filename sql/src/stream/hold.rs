//! What continuous queries still need of their sources: storage asks before it removes anything.
//!
//! A query without state needs what lies behind its committed position. One with state needs all its input, from where it
//! began, for its state is made of it anew at every start; so does one that cannot start, of which nobody knows.

use aquifer_storage::{Definition, HoldsBack, TopicId, TopicPartition};

use super::position::Position;
use super::{QueryDefinition, Supervisor};
use crate::catalog::QUERY_KIND;

impl HoldsBack for Supervisor {
    fn needed_from(&self, partition: TopicPartition) -> Option<i64> {
        let definitions = self.storage().definitions(QUERY_KIND);
        let over_it = definitions.iter().filter(|definition| definition.holds.contains(&partition.topic));
        over_it.filter_map(|definition| self.needed_by(definition, partition)).min()
    }

    fn table_of(&self, topic: TopicId) -> Option<String> {
        let relations = self.catalog().relations();
        let table =
            relations.by_name.values().find(|relation| relation.topic == topic && relation.is_result_table())?;
        Some(format!("query {}", table.name))
    }

    fn keyed_by(&self, topic: TopicId) -> Option<String> {
        let relations = self.catalog().relations();
        let mut over_it = relations.by_name.values().filter(|relation| relation.topic == topic);
        // A query goes on writing to the partitions that its table was made with.
        let table = over_it.find(|relation| relation.is_keyed_table() && !relation.is_result_table())?;
        Some(format!("table {}", table.name))
    }
}

impl Supervisor {
    /// The first offset that a query needs of a partition; `None` if it does not read it.
    fn needed_by(&self, definition: &Definition, partition: TopicPartition) -> Option<i64> {
        let Ok(query) = QueryDefinition::from_definition(definition) else { return Some(0) };
        if query.source_topic != partition.topic {
            return None;
        }
        Some(self.needed_offsets(&query).get(usize::try_from(partition.partition).ok()?).copied().unwrap_or(0))
    }

    /// The first offset that a query needs, by source partition; what is not named is needed from the start.
    pub(super) fn needed_offsets(&self, query: &QueryDefinition) -> Vec<i64> {
        if !self.is_stateless(&query.name) {
            return query.start.clone();
        }
        let stored = self.storage().position(&query.id);
        // What was stored is durable; what a running query shows may be ahead of it.
        stored.and_then(|bytes| Position::from_bytes(&bytes).ok()).map_or_else(Vec::new, |position| position.offsets)
    }

    /// What of its source a query keeps from being removed: `0:120,1:98`, the first offset of each partition.
    pub(super) fn holds_back(&self, query: &QueryDefinition) -> String {
        let storage = self.storage();
        let partitions = storage.topic_by_id(query.source_topic).map_or(0, |topic| topic.partitions);
        let mut needed = self.needed_offsets(query);
        needed.resize(usize::try_from(partitions).unwrap_or(0), 0);
        for (partition, needed) in (0..).zip(&mut needed) {
            let place = TopicPartition { topic: query.source_topic, partition };
            *needed = storage.watermarks(place).map_or(*needed, |ends| ends.log_start_offset.max(*needed));
        }
        Position { ticks: 0, offsets: needed }.to_string()
    }
}
