//! `information_schema`: the SQL standard's view of relations and columns.

use super::directory::{Class, Directory, NAMESPACES, index_name};
use super::kind::{Row, Value, row};
use super::relations::key_columns;
use super::types;
use super::view::{CatalogColumn, CatalogRelation, RelationKind};

pub(crate) const TABLES: &str = "table_catalog name, table_schema name, table_name name, table_type varchar, \
    self_referencing_column_name name, reference_generation varchar, user_defined_type_catalog name, \
    user_defined_type_schema name, user_defined_type_name name, is_insertable_into varchar, is_typed varchar, \
    commit_action varchar";
pub(crate) const COLUMNS: &str = "table_catalog name, table_schema name, table_name name, column_name name, \
    ordinal_position int4, column_default varchar, is_nullable varchar, data_type varchar, \
    character_maximum_length int4, character_octet_length int4, numeric_precision int4, \
    numeric_precision_radix int4, numeric_scale int4, datetime_precision int4, interval_type varchar, \
    interval_precision int4, character_set_catalog name, character_set_schema name, character_set_name name, \
    collation_catalog name, collation_schema name, collation_name name, domain_catalog name, domain_schema name, \
    domain_name name, udt_catalog name, udt_schema name, udt_name name, scope_catalog name, scope_schema name, \
    scope_name name, maximum_cardinality int4, dtd_identifier name, is_self_referencing varchar, \
    is_identity varchar, identity_generation varchar, identity_start varchar, identity_increment varchar, \
    identity_maximum varchar, identity_minimum varchar, identity_cycle varchar, is_generated varchar, \
    generation_expression varchar, is_updatable varchar";
pub(crate) const SCHEMATA: &str = "catalog_name name, schema_name name, schema_owner name, \
    default_character_set_catalog name, default_character_set_schema name, default_character_set_name name, \
    sql_path varchar";
pub(crate) const VIEWS: &str = "table_catalog name, table_schema name, table_name name, view_definition varchar, \
    check_option varchar, is_updatable varchar, is_insertable_into varchar, is_trigger_updatable varchar, \
    is_trigger_deletable varchar, is_trigger_insertable_into varchar";
pub(crate) const TABLE_CONSTRAINTS: &str = "constraint_catalog name, constraint_schema name, constraint_name name, \
    table_catalog name, table_schema name, table_name name, constraint_type varchar, is_deferrable varchar, \
    initially_deferred varchar, enforced varchar, nulls_distinct varchar";
pub(crate) const KEY_COLUMN_USAGE: &str = "constraint_catalog name, constraint_schema name, constraint_name name, \
    table_catalog name, table_schema name, table_name name, column_name name, ordinal_position int4, \
    position_in_unique_constraint int4";
pub(crate) const CONSTRAINT_COLUMN_USAGE: &str = "table_catalog name, table_schema name, table_name name, \
    column_name name, constraint_catalog name, constraint_schema name, constraint_name name";
pub(crate) const REFERENTIAL_CONSTRAINTS: &str = "constraint_catalog name, constraint_schema name, \
    constraint_name name, unique_constraint_catalog name, unique_constraint_schema name, \
    unique_constraint_name name, match_option varchar, update_rule varchar, delete_rule varchar";
pub(crate) const SEQUENCES: &str = "sequence_catalog name, sequence_schema name, sequence_name name, \
    data_type varchar, numeric_precision int4, numeric_precision_radix int4, numeric_scale int4, \
    start_value varchar, minimum_value varchar, maximum_value varchar, increment varchar, cycle_option varchar";
pub(crate) const ROUTINES: &str = "specific_catalog name, specific_schema name, specific_name name, \
    routine_catalog name, routine_schema name, routine_name name, routine_type varchar, data_type varchar, \
    type_udt_catalog name, type_udt_schema name, type_udt_name name, routine_body varchar, \
    routine_definition varchar, external_language varchar";
pub(crate) const CHARACTER_SETS: &str = "character_set_catalog name, character_set_schema name, \
    character_set_name name, character_repertoire name, form_of_use name, default_collate_catalog name, \
    default_collate_schema name, default_collate_name name";

const NONE: Option<&str> = None;

/// Rows of `tables`. Materialized views are not in it, as in Postgres.
pub(crate) fn tables(directory: &Directory) -> Vec<Row> {
    let rows = directory.classes().filter_map(|class| {
        let (table_type, insertable) = match class.relkind() {
            "r" => ("BASE TABLE", "YES"),
            "v" => ("VIEW", "NO"),
            _ => return None,
        };
        Some(row![
            directory.view.database.clone(),
            class.schema(),
            class.name(),
            table_type,
            NONE,
            NONE,
            NONE,
            NONE,
            NONE,
            insertable,
            "NO",
            NONE,
        ])
    });
    rows.collect()
}

/// Rows of `columns`.
pub(crate) fn columns(directory: &Directory) -> Vec<Row> {
    let mut rows = Vec::new();
    for class in directory.classes() {
        if let Class::Relation(relation) = class
            && relation.kind != RelationKind::Materialized
        {
            rows.extend(
                (1..).zip(&relation.columns).map(|(number, column)| column_row(directory, relation, number, column)),
            );
        }
    }
    rows
}

fn column_row(directory: &Directory, relation: &CatalogRelation, number: i64, column: &CatalogColumn) -> Row {
    let database = directory.view.database.clone();
    let (precision, radix, scale) = numeric(column);
    let datetime = matches!(column.oid, 1083 | 1114 | 1184 | 1186).then_some(6);
    let data_type = match types::by_oid(column.oid) {
        Some((_, true)) => "ARRAY".to_owned(),
        _ => types::format_type(column.oid, None),
    };
    let udt = types::by_oid(column.oid)
        .map(|(base, array)| if array { format!("_{}", base.name) } else { base.name.to_owned() });
    let nullable = if column.not_null { "NO" } else { "YES" };
    let updatable = if relation.kind == RelationKind::Table { "YES" } else { "NO" };
    let octets = (types::collation_of(column.oid) != 0).then_some(1 << 30);
    let length = (column.oid == 1043 && column.type_modifier >= 4).then(|| column.type_modifier - 4);
    row![
        database.clone(),
        relation.schema.clone(),
        relation.name.clone(),
        column.name.clone(),
        number,
        NONE,
        nullable,
        data_type,
        length,
        octets,
        precision,
        radix,
        scale,
        datetime,
        NONE,
        Value::Null,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        database,
        "pg_catalog",
        udt,
        NONE,
        NONE,
        NONE,
        Value::Null,
        number.to_string(),
        "NO",
        "NO",
        NONE,
        NONE,
        NONE,
        NONE,
        NONE,
        "NO",
        "NEVER",
        NONE,
        updatable,
    ]
}

/// Precision, radix and scale of a number.
fn numeric(column: &CatalogColumn) -> (Option<i32>, Option<i32>, Option<i32>) {
    match column.oid {
        21 => (Some(16), Some(2), Some(0)),
        23 => (Some(32), Some(2), Some(0)),
        20 => (Some(64), Some(2), Some(0)),
        700 => (Some(24), Some(2), None),
        701 => (Some(53), Some(2), None),
        1700 if column.type_modifier >= 4 => {
            let modifier = column.type_modifier - 4;
            (Some(modifier >> 16 & 0xffff), Some(10), Some(modifier & 0x7ff))
        }
        1700 => (None, Some(10), None),
        _ => (None, None, None),
    }
}

/// Rows of `schemata`.
pub(crate) fn schemata(directory: &Directory) -> Vec<Row> {
    NAMESPACES
        .iter()
        .map(|(_, name)| {
            row![directory.view.database.clone(), *name, directory.view.user.clone(), NONE, NONE, NONE, NONE]
        })
        .collect()
}

/// Rows of `views`.
pub(crate) fn views(directory: &Directory) -> Vec<Row> {
    let views = directory.view.relations.iter().filter(|relation| relation.kind == RelationKind::View);
    views
        .map(|relation| {
            row![
                directory.view.database.clone(),
                relation.schema.clone(),
                relation.name.clone(),
                relation.definition.clone(),
                "NONE",
                "NO",
                "NO",
                "NO",
                "NO",
                "NO",
            ]
        })
        .collect()
}

/// Rows of `table_constraints`.
pub(crate) fn table_constraints(directory: &Directory) -> Vec<Row> {
    let database = &directory.view.database;
    directory
        .keyed()
        .map(|relation| {
            row![
                database.clone(),
                relation.schema.clone(),
                index_name(relation),
                database.clone(),
                relation.schema.clone(),
                relation.name.clone(),
                "PRIMARY KEY",
                "NO",
                "NO",
                "YES",
                NONE,
            ]
        })
        .collect()
}

/// Rows of `key_column_usage`.
pub(crate) fn key_column_usage(directory: &Directory) -> Vec<Row> {
    let database = &directory.view.database;
    let row = |relation: &CatalogRelation, number: i64, column: &CatalogColumn| {
        row![
            database.clone(),
            relation.schema.clone(),
            index_name(relation),
            database.clone(),
            relation.schema.clone(),
            relation.name.clone(),
            column.name.clone(),
            number,
            Value::Null,
        ]
    };
    directory
        .keyed()
        .flat_map(|relation| {
            (1..).zip(key_columns(relation)).map(|(number, column)| row(relation, number, column)).collect::<Vec<_>>()
        })
        .collect()
}

/// Rows of `constraint_column_usage`.
pub(crate) fn constraint_column_usage(directory: &Directory) -> Vec<Row> {
    let database = &directory.view.database;
    let row = |relation: &CatalogRelation, column: &CatalogColumn| {
        row![
            database.clone(),
            relation.schema.clone(),
            relation.name.clone(),
            column.name.clone(),
            database.clone(),
            relation.schema.clone(),
            index_name(relation),
        ]
    };
    directory
        .keyed()
        .flat_map(|relation| key_columns(relation).map(|column| row(relation, column)).collect::<Vec<_>>())
        .collect()
}

/// Rows of `character_sets`.
pub(crate) fn character_sets(directory: &Directory) -> Vec<Row> {
    let database = directory.view.database.clone();
    vec![row![NONE, NONE, "UTF8", "UCS", "UTF8", database, "pg_catalog", "default"]]
}
