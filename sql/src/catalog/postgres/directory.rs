//! `Directory`: a catalog view with what Postgres adds to it: schemas, indexes of primary keys, and the system tables
//! themselves, each under an OID that does not change.

use std::sync::Arc;

use super::tables::{SYSTEM_TABLES, SystemTable};
use super::view::{CatalogRelation, CatalogView, RelationKind};

/// The owner of everything: the one role there is beside the session's user.
pub(crate) const OWNER: u32 = 10;
/// `pg_namespace.oid` of `pg_catalog`.
pub(crate) const PG_CATALOG: u32 = 11;
const PUBLIC: u32 = 2200;
const INFORMATION_SCHEMA: u32 = 13_000;
const TOPICS: u32 = 16_001;
const AQUIFER: u32 = 16_002;
/// `pg_database.oid`.
pub(crate) const DATABASE: u32 = 16_000;
/// What is added to a relation's OID for the index of its primary key ...
const INDEX_OFFSET: u32 = 0x1000_0000;
/// ... and for the constraint.
const CONSTRAINT_OFFSET: u32 = 0x2000_0000;

/// Schemas by OID, in the order they are shown.
pub(crate) const NAMESPACES: [(u32, &str); 5] = [
    (PG_CATALOG, "pg_catalog"),
    (PUBLIC, "public"),
    (INFORMATION_SCHEMA, "information_schema"),
    (TOPICS, "topics"),
    (AQUIFER, "aquifer"),
];

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) view: Arc<CatalogView>,
}

/// What an OID or a name in `pg_class` stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Class<'a> {
    Relation(&'a CatalogRelation),
    /// The index of that relation's primary key.
    Index(&'a CatalogRelation),
    System(&'static SystemTable),
}

impl Class<'_> {
    pub(crate) fn oid(&self) -> u32 {
        match self {
            Self::Relation(relation) => relation.oid,
            Self::Index(relation) => index_oid(relation),
            Self::System(table) => table.oid,
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Relation(relation) => relation.name.clone(),
            Self::Index(relation) => index_name(relation),
            Self::System(table) => table.name.to_owned(),
        }
    }

    pub(crate) fn schema(&self) -> &str {
        match self {
            Self::Relation(relation) | Self::Index(relation) => &relation.schema,
            Self::System(table) => table.schema,
        }
    }

    pub(crate) fn relkind(&self) -> &'static str {
        match self {
            Self::Relation(relation) => relation.kind.relkind(),
            Self::Index(_) => "i",
            Self::System(table) if table.is_view() => RelationKind::View.relkind(),
            Self::System(_) => RelationKind::Table.relkind(),
        }
    }
}

/// The OID of the index of a primary key.
pub(crate) fn index_oid(relation: &CatalogRelation) -> u32 {
    relation.oid.wrapping_add(INDEX_OFFSET)
}

/// The OID of the constraint of a primary key.
pub(crate) fn constraint_oid(relation: &CatalogRelation) -> u32 {
    relation.oid.wrapping_add(CONSTRAINT_OFFSET)
}

/// The name of a primary key, of its index and of its constraint.
pub(crate) fn index_name(relation: &CatalogRelation) -> String {
    format!("{}_pkey", relation.name)
}

impl Directory {
    pub(crate) fn new(view: Arc<CatalogView>) -> Self {
        Self { view }
    }

    /// Everything in `pg_class`.
    pub(crate) fn classes(&self) -> impl Iterator<Item = Class<'_>> {
        let relations = self.view.relations.iter().flat_map(|relation| {
            let index = (!relation.primary_key.is_empty()).then_some(Class::Index(relation));
            [Some(Class::Relation(relation)), index].into_iter().flatten()
        });
        relations.chain(SYSTEM_TABLES.iter().map(Class::System))
    }

    /// Relations with a primary key.
    pub(crate) fn keyed(&self) -> impl Iterator<Item = &CatalogRelation> {
        self.view.relations.iter().filter(|relation| !relation.primary_key.is_empty())
    }

    pub(crate) fn class(&self, oid: u32) -> Option<Class<'_>> {
        self.classes().find(|class| class.oid() == oid)
    }

    /// The class a name stands for: `a`, `"A"`, `public.a`, `"topics"."user-events"`.
    pub(crate) fn class_named(&self, text: &str) -> Option<Class<'_>> {
        let parts = name_parts(text)?;
        match parts.as_slice() {
            [name] => self.classes().find(|class| class.name() == *name && self.is_visible(class)),
            [schema, name] | [_, schema, name] => {
                self.classes().find(|class| class.name() == *name && class.schema() == schema)
            }
            _ => None,
        }
    }

    /// Whether a bare name finds it.
    pub(crate) fn is_visible(&self, class: &Class<'_>) -> bool {
        let schema = class.schema();
        schema == "pg_catalog" || self.view.search_path.iter().any(|path| path == schema)
    }

    /// Its name, with the schema where a bare name would not find it.
    pub(crate) fn regclass(&self, class: &Class<'_>) -> String {
        let name = quote_ident(&class.name());
        if self.is_visible(class) { name } else { format!("{}.{name}", quote_ident(class.schema())) }
    }
}

/// A schema's OID.
pub(crate) fn namespace_oid(name: &str) -> u32 {
    NAMESPACES.iter().find(|(_, schema)| *schema == name).map_or(0, |(oid, _)| *oid)
}

/// Words that a bare identifier must not be.
const RESERVED: [&str; 24] = [
    "all", "and", "any", "array", "as", "case", "cast", "column", "create", "default", "end", "from", "group", "in",
    "limit", "not", "null", "order", "select", "table", "to", "user", "where", "with",
];

/// An identifier as it must be written.
pub(crate) fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_')
        && !RESERVED.contains(&name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The parts of a dotted name, folded where they are not quoted; `None` where it does not parse.
pub(crate) fn name_parts(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut chars = text.trim().chars().peekable();
    loop {
        let mut part = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next()? {
                    '"' if chars.next_if_eq(&'"').is_some() => part.push('"'),
                    '"' => break,
                    char => part.push(char),
                }
            }
        } else {
            while let Some(char) = chars.next_if(|char| *char != '.') {
                part.extend(char.to_lowercase());
            }
        }
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        match chars.next() {
            None => return Some(parts),
            Some('.') => {}
            Some(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fold_unless_they_are_quoted() {
        assert_eq!(name_parts("Public.Orders").unwrap(), ["public", "orders"]);
        assert_eq!(name_parts("topics.\"User \"\"x\"\"\"").unwrap(), ["topics", "User \"x\""]);
        assert_eq!(name_parts("a."), None);
        assert_eq!(quote_ident("user-events"), "\"user-events\"");
        assert_eq!(quote_ident("orders"), "orders");
        assert_eq!(quote_ident("select"), "\"select\"");
    }
}
