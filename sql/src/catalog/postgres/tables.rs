//! The system tables: their names, OIDs and columns as in Postgres 15, and where their rows come from.

use super::directory::Directory;
use super::kind::Row;
use super::{absent, information_schema as information, node, relations, types};

/// A system table.
#[derive(Clone, Copy)]
pub(crate) struct SystemTable {
    pub(crate) schema: &'static str,
    pub(crate) name: &'static str,
    /// Postgres's own where it is fixed, else one below 14000 that is nobody's.
    pub(crate) oid: u32,
    /// As [`super::kind::columns`] reads them.
    pub(crate) columns: &'static str,
    /// `None`: there is never a row, whatever happens.
    pub(crate) rows: Option<fn(&Directory) -> Vec<Row>>,
}

impl std::fmt::Debug for SystemTable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.schema, self.name)
    }
}

impl SystemTable {
    /// Whether Postgres has it as a view.
    pub(crate) fn is_view(&self) -> bool {
        self.oid >= FIRST_VIEW_OID
    }
}

/// OIDs of what Postgres makes at initdb begin here; its views are among them.
const FIRST_VIEW_OID: u32 = 12_000;

const fn table(oid: u32, name: &'static str, columns: &'static str, rows: fn(&Directory) -> Vec<Row>) -> SystemTable {
    SystemTable { schema: "pg_catalog", name, oid, columns, rows: Some(rows) }
}

const fn empty(oid: u32, name: &'static str, columns: &'static str) -> SystemTable {
    SystemTable { schema: "pg_catalog", name, oid, columns, rows: None }
}

const fn information(
    oid: u32,
    name: &'static str,
    columns: &'static str,
    rows: Option<fn(&Directory) -> Vec<Row>>,
) -> SystemTable {
    SystemTable { schema: "information_schema", name, oid, columns, rows }
}

/// All of them.
pub(crate) const SYSTEM_TABLES: &[SystemTable] = &[
    table(1259, "pg_class", relations::PG_CLASS, relations::classes),
    table(1249, "pg_attribute", relations::PG_ATTRIBUTE, relations::attributes),
    table(2610, "pg_index", relations::PG_INDEX, relations::indexes),
    table(2606, "pg_constraint", relations::PG_CONSTRAINT, relations::constraints),
    table(2609, "pg_description", relations::PG_DESCRIPTION, relations::descriptions),
    table(12_101, "pg_tables", relations::PG_TABLES, relations::tables),
    table(12_102, "pg_views", relations::PG_VIEWS, relations::views),
    table(12_103, "pg_matviews", relations::PG_MATVIEWS, relations::matviews),
    table(12_104, "pg_indexes", relations::PG_INDEXES, relations::indexes_by_name),
    table(1247, "pg_type", types::PG_TYPE, |_| types::rows()),
    table(2615, "pg_namespace", node::PG_NAMESPACE, |_| node::namespaces()),
    table(1262, "pg_database", node::PG_DATABASE, node::databases),
    table(12_105, "pg_roles", node::PG_ROLES, node::roles),
    table(12_106, "pg_user", node::PG_USER, node::users),
    table(2601, "pg_am", node::PG_AM, |_| node::access_methods()),
    table(1213, "pg_tablespace", node::PG_TABLESPACE, |_| node::tablespaces()),
    table(3456, "pg_collation", node::PG_COLLATION, |_| node::collations()),
    table(2612, "pg_language", node::PG_LANGUAGE, |_| node::languages()),
    table(12_107, "pg_settings", node::PG_SETTINGS, node::settings),
    table(12_118, "pg_stat_activity", node::PG_STAT_ACTIVITY, node::activity),
    table(1255, "pg_proc", node::PG_PROC, |_| node::procedures()),
    empty(2604, "pg_attrdef", absent::PG_ATTRDEF),
    empty(2611, "pg_inherits", absent::PG_INHERITS),
    empty(3256, "pg_policy", absent::PG_POLICY),
    empty(3079, "pg_extension", absent::PG_EXTENSION),
    empty(3501, "pg_enum", absent::PG_ENUM),
    empty(3541, "pg_range", absent::PG_RANGE),
    empty(1261, "pg_auth_members", absent::PG_AUTH_MEMBERS),
    empty(2224, "pg_sequence", absent::PG_SEQUENCE),
    empty(2608, "pg_depend", absent::PG_DEPEND),
    empty(2620, "pg_trigger", absent::PG_TRIGGER),
    empty(3466, "pg_event_trigger", absent::PG_EVENT_TRIGGER),
    empty(2618, "pg_rewrite", absent::PG_REWRITE),
    empty(6104, "pg_publication", absent::PG_PUBLICATION),
    empty(6106, "pg_publication_rel", absent::PG_PUBLICATION_REL),
    empty(6237, "pg_publication_namespace", absent::PG_PUBLICATION_NAMESPACE),
    empty(6100, "pg_subscription", absent::PG_SUBSCRIPTION),
    empty(3381, "pg_statistic_ext", absent::PG_STATISTIC_EXT),
    empty(3118, "pg_foreign_table", absent::PG_FOREIGN_TABLE),
    empty(1417, "pg_foreign_server", absent::PG_FOREIGN_SERVER),
    empty(2328, "pg_foreign_data_wrapper", absent::PG_FOREIGN_DATA_WRAPPER),
    empty(2616, "pg_opclass", absent::PG_OPCLASS),
    empty(2396, "pg_shdescription", absent::PG_SHDESCRIPTION),
    empty(826, "pg_default_acl", absent::PG_DEFAULT_ACL),
    empty(2964, "pg_db_role_setting", absent::PG_DB_ROLE_SETTING),
    empty(2600, "pg_aggregate", absent::PG_AGGREGATE),
    empty(12_108, "pg_sequences", absent::PG_SEQUENCES),
    empty(12_109, "pg_policies", absent::PG_POLICIES),
    empty(12_110, "pg_stats", absent::PG_STATS),
    empty(12_111, "pg_stat_user_tables", absent::PG_STAT_USER_TABLES),
    empty(12_112, "pg_stat_user_indexes", absent::PG_STAT_USER_INDEXES),
    empty(12_113, "pg_statio_all_tables", absent::PG_STATIO_ALL_TABLES),
    empty(12_114, "pg_locks", absent::PG_LOCKS),
    empty(12_115, "pg_cursors", absent::PG_CURSORS),
    empty(12_116, "pg_prepared_xacts", absent::PG_PREPARED_XACTS),
    empty(12_117, "pg_available_extensions", absent::PG_AVAILABLE_EXTENSIONS),
    information(13_101, "tables", information::TABLES, Some(information::tables)),
    information(13_102, "columns", information::COLUMNS, Some(information::columns)),
    information(13_103, "schemata", information::SCHEMATA, Some(information::schemata)),
    information(13_104, "views", information::VIEWS, Some(information::views)),
    information(13_105, "table_constraints", information::TABLE_CONSTRAINTS, Some(information::table_constraints)),
    information(13_106, "key_column_usage", information::KEY_COLUMN_USAGE, Some(information::key_column_usage)),
    information(
        13_107,
        "constraint_column_usage",
        information::CONSTRAINT_COLUMN_USAGE,
        Some(information::constraint_column_usage),
    ),
    information(13_108, "referential_constraints", information::REFERENTIAL_CONSTRAINTS, None),
    information(13_109, "sequences", information::SEQUENCES, None),
    information(13_110, "routines", information::ROUTINES, None),
    information(13_111, "character_sets", information::CHARACTER_SETS, Some(information::character_sets)),
];

/// The table of that name.
pub(crate) fn find(schema: &str, name: &str) -> Option<&'static SystemTable> {
    SYSTEM_TABLES.iter().find(|table| table.schema == schema && table.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::super::kind::columns;
    use super::super::view::{CatalogColumn, CatalogRelation, CatalogSetting, CatalogView, RelationKind};
    use super::*;

    #[test]
    fn no_oid_and_no_name_is_there_twice() {
        let oids: HashSet<u32> = SYSTEM_TABLES.iter().map(|table| table.oid).collect();
        let names: HashSet<(&str, &str)> = SYSTEM_TABLES.iter().map(|table| (table.schema, table.name)).collect();
        assert_eq!((oids.len(), names.len()), (SYSTEM_TABLES.len(), SYSTEM_TABLES.len()));
    }

    #[test]
    fn every_row_has_every_column() {
        let column = CatalogColumn {
            name: "id".into(),
            arrow: arrow::datatypes::DataType::Int64,
            oid: 20,
            type_modifier: -1,
            not_null: true,
            description: Some("the key".into()),
        };
        let relation = |oid, kind| CatalogRelation {
            oid,
            schema: "public".into(),
            name: format!("r{oid}"),
            kind,
            columns: vec![column.clone()],
            primary_key: vec![0],
            definition: Some("SELECT 1".into()),
            description: Some("a relation".into()),
        };
        let view = CatalogView {
            relations: [RelationKind::Table, RelationKind::Materialized, RelationKind::View]
                .into_iter()
                .zip(16_384..)
                .map(|(kind, oid)| relation(oid, kind))
                .collect(),
            settings: vec![CatalogSetting {
                name: "TimeZone".into(),
                value: "UTC".into(),
                unit: String::new(),
                description: "zone".into(),
            }],
            user: "bi".into(),
            database: "aquifer".into(),
            search_path: vec!["public".into()],
            ..CatalogView::default()
        };
        let directory = Directory::new(Arc::new(view));
        for table in SYSTEM_TABLES {
            let width = columns(table.columns).count();
            let rows = table.rows.map(|rows| rows(&directory)).unwrap_or_default();
            // Nobody is connected to a view that a test has made.
            let may_be_empty = table.rows.is_none() || table.name == "pg_stat_activity";
            assert!(may_be_empty || !rows.is_empty(), "{table:?} is empty");
            assert!(
                rows.iter().all(|row| row.len() == width),
                "{table:?} has {width} columns, a row {}",
                rows[0].len()
            );
        }
    }
}
