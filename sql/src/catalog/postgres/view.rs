//! `CatalogView`: what one statement sees of the catalog, as plain values, so that Postgres's system tables are a
//! pure function of it.

use std::sync::Arc;

use arrow::datatypes::DataType;

use crate::catalog::sessions::Sessions;

/// What a relation is to Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// A stream or a declared table, and a topic: `relkind` r. Clients list, describe and query `r` everywhere (psql's
    /// `\dt`, BI tools, ORMs); foreign tables they often leave out, and views they think cannot be inserted into.
    Table,
    /// A continuous query's result: `relkind` m, read-only for clients.
    Materialized,
    /// A system relation that nobody writes: `relkind` v.
    View,
}

impl RelationKind {
    /// `pg_class.relkind`.
    #[must_use]
    pub fn relkind(self) -> &'static str {
        match self {
            Self::Table => "r",
            Self::Materialized => "m",
            Self::View => "v",
        }
    }
}

/// A column of a relation, in order of declaration.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogColumn {
    /// Its name.
    pub name: String,
    /// Its Arrow type.
    pub arrow: DataType,
    /// Postgres's type OID.
    pub oid: u32,
    /// Postgres's type modifier, -1 if none.
    pub type_modifier: i32,
    /// NULL is refused.
    pub not_null: bool,
    /// For `\d+`.
    pub description: Option<String>,
}

/// A relation.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogRelation {
    /// Stable over restarts, the same one that `Column::table_oid` bears; at least 16384.
    pub oid: u32,
    /// `public`, `topics`, `aquifer`.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it shows as.
    pub kind: RelationKind,
    /// Columns that `SELECT *` gives, in order.
    pub columns: Vec<CatalogColumn>,
    /// Positions in `columns`, from 0, of the primary key; empty if none.
    pub primary_key: Vec<usize>,
    /// The query of a continuous table or view.
    pub definition: Option<String>,
    /// For `\d+`.
    pub description: Option<String>,
}

/// A row of `pg_settings`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogSetting {
    /// Its name.
    pub name: String,
    /// Its value, as text.
    pub value: String,
    /// Its unit, empty if none.
    pub unit: String,
    /// What it is for.
    pub description: String,
}

/// What one statement sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CatalogView {
    /// All relations, every schema.
    pub relations: Vec<CatalogRelation>,
    /// Settings as the session has them.
    pub settings: Vec<CatalogSetting>,
    /// The session's user.
    pub user: String,
    /// The database's name.
    pub database: String,
    /// Schemas looked through for a bare name, first to last, without `pg_catalog`.
    pub search_path: Vec<String>,
    /// What `version()` adds behind Postgres's: our version and commit.
    pub version: String,
    /// `pg_backend_pid()`.
    pub backend_pid: i32,
    /// Who is connected, whenever it is asked for.
    pub sessions: Arc<Sessions>,
}
