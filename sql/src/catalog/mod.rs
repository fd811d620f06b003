//! `Catalog`: which relations there are, as durably known. One per engine; sessions and continuous queries share it.

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_storage::{Commit, DefinitionChange, Expect, Storage, Topic};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{Error, Result, SqlState};
use crate::statement::Name;

mod cold;
pub(crate) mod decode_errors;
mod keyed;
pub mod postgres;
pub(crate) mod properties;
pub(crate) mod relation;
pub(crate) mod sessions;
pub(crate) mod system;

use decode_errors::DecodeErrors;
pub(crate) use relation::{QUERY_KIND, RELATION_KIND, Relation};

/// The database every client is in.
pub(crate) const DATABASE: &str = "aquifer";
/// The schema of relations, where bare names are looked for.
pub(crate) const SCHEMA: &str = "public";
/// Postgres's first oid that is not a system object's.
const FIRST_OID: u32 = 16384;
/// The definition that counts oids.
const COUNTER_KIND: &str = "counter";

/// Relations as of one version of the catalog.
#[derive(Debug, Default)]
pub(crate) struct Relations {
    /// By name.
    pub(crate) by_name: BTreeMap<String, Arc<Relation>>,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Catalog {
    storage: Storage,
    cached: Mutex<Option<(u64, Arc<Relations>)>>,
    /// Records that did not decode.
    pub(crate) decode_errors: Arc<DecodeErrors>,
    /// Definitions are made one at a time, so that what is checked before a commit still holds in it.
    pub(crate) defining: tokio::sync::Mutex<()>,
}

impl Catalog {
    /// The catalog of a storage.
    pub(crate) fn new(storage: Storage) -> Self {
        Self {
            storage,
            cached: Mutex::new(None),
            decode_errors: Arc::new(DecodeErrors::default()),
            defining: tokio::sync::Mutex::new(()),
        }
    }

    /// What it stands on.
    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// All relations. A definition that does not parse is left out and logged: the rest is served.
    pub(crate) fn relations(&self) -> Arc<Relations> {
        let version = self.storage.catalog_version();
        if let Some((cached, relations)) = self.cached.lock().as_ref()
            && *cached == version
        {
            return Arc::clone(relations);
        }
        let mut relations = Relations::default();
        for definition in self.storage.definitions(RELATION_KIND) {
            match Relation::from_definition(&definition) {
                Ok(relation) => {
                    relations.by_name.insert(relation.name.clone(), Arc::new(relation));
                }
                Err(error) => tracing::error!(relation = definition.name, %error, "definition is left out"),
            }
        }
        let relations = Arc::new(relations);
        *self.cached.lock() = Some((version, Arc::clone(&relations)));
        relations
    }

    /// The relation of that name.
    ///
    /// # Errors
    /// 42P01.
    pub(crate) fn relation(&self, name: &Name) -> Result<Arc<Relation>> {
        self.relations().by_name.get(&name.value).map(Arc::clone).ok_or_else(|| {
            let error = Error::new(SqlState::UndefinedTable, format!("relation \"{}\" does not exist", name.value))
                .with_position(name.position);
            if self.storage.topic(&name.value).is_some() {
                error.with_hint(format!("there is a topic of that name: SELECT * FROM topics.\"{}\"", name.value))
            } else {
                error.with_hint("SHOW STREAMS and SHOW TABLES list what there is")
            }
        })
    }

    /// The topic under a relation.
    ///
    /// # Errors
    /// 55000 if it has been deleted.
    pub(crate) fn topic_of(&self, relation: &Relation) -> Result<Arc<Topic>> {
        self.storage.topic_by_id(relation.topic).ok_or_else(|| {
            let kind = relation.kind.word();
            let message = format!("topic \"{}\" of {kind} \"{}\" has been deleted", relation.topic_name, relation.name);
            Error::new(SqlState::ObjectNotInPrerequisiteState, message).with_hint(format!(
                "DROP {} \"{}\", and CREATE it again over a topic that is there",
                kind.to_uppercase(),
                relation.name
            ))
        })
    }

    /// An oid nobody has had, and the change that takes it, for the commit that uses it. Call while `defining`.
    pub(crate) fn next_oid(&self) -> (u32, DefinitionChange) {
        let definitions = self.storage.definitions(COUNTER_KIND);
        let current = definitions.iter().find(|definition| definition.name == "oid").map(|found| found.value.clone());
        let last = current.as_ref().and_then(|value| std::str::from_utf8(value).ok()?.parse::<u32>().ok());
        let oid = last.map_or(FIRST_OID, |last| last.wrapping_add(1).max(FIRST_OID));
        let change = DefinitionChange {
            kind: COUNTER_KIND.to_owned(),
            name: "oid".to_owned(),
            value: Some(Bytes::from(oid.to_string())),
            holds: Vec::new(),
            expect: current.map_or(Expect::Absent, Expect::Value),
        };
        (oid, change)
    }

    /// Commits, with storage's words made SQL's.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<aquifer_storage::Receipt> {
        self.storage.commit(commit).await.map_err(Error::from)
    }
}
