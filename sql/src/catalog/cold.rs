//! Which declared columns the cold objects of a topic get: those of the oldest relation over it.
//!
//! Several relations may see one topic differently; an object has one set of columns, and the first declaration is the
//! one that stays the same while others come and go. Scans read the raw columns, so no answer depends on the choice.

use aquifer_storage::record::format::RecordFormat;
use aquifer_storage::{DeclaredColumns, TopicId};

use crate::catalog::Catalog;

impl DeclaredColumns for Catalog {
    fn format_of(&self, topic: TopicId) -> Option<RecordFormat> {
        let relations = self.relations();
        let over_it = relations.by_name.values().filter(|relation| relation.topic == topic);
        over_it.min_by_key(|relation| relation.oid).map(|relation| relation.format.clone())
    }
}
