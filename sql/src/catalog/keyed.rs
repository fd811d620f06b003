//! Of which topics the latest record per key is kept: those with a table with a primary key over them.
//!
//! Several tables may see one topic's keys differently; the oldest one says how keys are read, as with cold columns.

use aquifer_storage::record::format::RecordFormat;
use aquifer_storage::{KeyedTables, TopicId};

use crate::catalog::Catalog;

impl KeyedTables for Catalog {
    fn keyed_topics(&self) -> Vec<(TopicId, RecordFormat)> {
        let relations = self.relations();
        let mut keyed: Vec<_> = relations.by_name.values().filter(|relation| relation.is_keyed_table()).collect();
        keyed.sort_by_key(|relation| (relation.topic, relation.oid));
        keyed.dedup_by_key(|relation| relation.topic);
        keyed.into_iter().map(|relation| (relation.topic, relation.format.clone())).collect()
    }
}
