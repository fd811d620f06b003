//! System tables about relations: `pg_class`, `pg_attribute`, `pg_index` and what else follows from them.

use super::directory::{Class, Directory, OWNER, constraint_oid, index_name, index_oid, namespace_oid, quote_ident};
use super::kind::{Row, Value, columns, row};
use super::types;
use super::view::{CatalogRelation, RelationKind};

/// `pg_am.oid` of heap and btree.
pub(crate) const HEAP: u32 = 2;
pub(crate) const BTREE: u32 = 403;

pub(crate) const PG_CLASS: &str = "oid oid, relname name, relnamespace oid, reltype oid, reloftype oid, relowner oid, \
    relam oid, relfilenode oid, reltablespace oid, relpages int4, reltuples float4, relallvisible int4, \
    reltoastrelid oid, relhasindex bool, relisshared bool, relpersistence char, relkind char, relnatts int2, \
    relchecks int2, relhasrules bool, relhastriggers bool, relhassubclass bool, relrowsecurity bool, \
    relforcerowsecurity bool, relispopulated bool, relreplident char, relispartition bool, relrewrite oid, \
    relfrozenxid xid, relminmxid xid, relacl aclitem[], reloptions text[], relpartbound pg_node_tree";
pub(crate) const PG_ATTRIBUTE: &str = "attrelid oid, attname name, atttypid oid, attstattarget int4, attlen int2, \
    attnum int2, attndims int4, attcacheoff int4, atttypmod int4, attbyval bool, attalign char, attstorage char, \
    attcompression char, attnotnull bool, atthasdef bool, atthasmissing bool, attidentity char, attgenerated char, \
    attisdropped bool, attislocal bool, attinhcount int4, attcollation oid, attacl aclitem[], attoptions text[], \
    attfdwoptions text[], attmissingval text";
pub(crate) const PG_INDEX: &str = "indexrelid oid, indrelid oid, indnatts int2, indnkeyatts int2, indisunique bool, \
    indnullsnotdistinct bool, indisprimary bool, indisexclusion bool, indimmediate bool, indisclustered bool, \
    indisvalid bool, indcheckxmin bool, indisready bool, indislive bool, indisreplident bool, indkey int2vector, \
    indcollation oidvector, indclass oidvector, indoption int2vector, indexprs pg_node_tree, indpred pg_node_tree";
pub(crate) const PG_CONSTRAINT: &str = "oid oid, conname name, connamespace oid, contype char, condeferrable bool, \
    condeferred bool, convalidated bool, conrelid oid, contypid oid, conindid oid, conparentid oid, confrelid oid, \
    confupdtype char, confdeltype char, confmatchtype char, conislocal bool, coninhcount int4, connoinherit bool, \
    conkey int2[], confkey int2[], conpfeqop oid[], conppeqop oid[], conffeqop oid[], confdelsetcols int2[], \
    conexclop oid[], conbin pg_node_tree";
pub(crate) const PG_DESCRIPTION: &str = "objoid oid, classoid oid, objsubid int4, description text";
pub(crate) const PG_TABLES: &str = "schemaname name, tablename name, tableowner name, tablespace name, \
    hasindexes bool, hasrules bool, hastriggers bool, rowsecurity bool";
pub(crate) const PG_VIEWS: &str = "schemaname name, viewname name, viewowner name, definition text";
pub(crate) const PG_MATVIEWS: &str = "schemaname name, matviewname name, matviewowner name, tablespace name, \
    hasindexes bool, ispopulated bool, definition text";
pub(crate) const PG_INDEXES: &str = "schemaname name, tablename name, indexname name, tablespace name, indexdef text";

/// Rows of `pg_class`.
pub(crate) fn classes(directory: &Directory) -> Vec<Row> {
    directory.classes().map(|class| class_row(&class)).collect()
}

fn class_row(class: &Class<'_>) -> Row {
    let (width, has_index, method) = match class {
        Class::Relation(relation) if relation.kind == RelationKind::View => (relation.columns.len(), false, 0),
        Class::Relation(relation) => (relation.columns.len(), !relation.primary_key.is_empty(), HEAP),
        Class::Index(relation) => (relation.primary_key.len(), false, BTREE),
        Class::System(table) => (columns(table.columns).count(), false, if table.is_view() { 0 } else { HEAP }),
    };
    let width = i64::try_from(width).unwrap_or(i64::MAX);
    let identity = if matches!(class, Class::Relation(_)) { "d" } else { "n" };
    row![
        class.oid(),
        class.name(),
        namespace_oid(class.schema()),
        0_u32,
        0_u32,
        OWNER,
        method,
        class.oid(),
        0_u32,
        0,
        -1.0,
        0,
        0_u32,
        has_index,
        false,
        "p",
        class.relkind(),
        width,
        0,
        class.relkind() == "v",
        false,
        false,
        false,
        false,
        true,
        identity,
        false,
        0_u32,
        "0",
        "0",
        None::<&str>,
        None::<&str>,
        None::<&str>,
    ]
}

/// Rows of `pg_attribute`.
pub(crate) fn attributes(directory: &Directory) -> Vec<Row> {
    let mut rows = Vec::new();
    for class in directory.classes() {
        match class {
            Class::Relation(relation) => {
                for (number, column) in (1..).zip(&relation.columns) {
                    rows.push(attribute(
                        class.oid(),
                        &column.name,
                        column.oid,
                        number,
                        column.type_modifier,
                        column.not_null,
                    ));
                }
            }
            Class::Index(relation) => {
                for (number, column) in (1..).zip(key_columns(relation)) {
                    rows.push(attribute(class.oid(), &column.name, column.oid, number, column.type_modifier, false));
                }
            }
            Class::System(table) => {
                for (number, column) in (1..).zip(columns(table.columns)) {
                    let oid = types::by_name(column.type_name).unwrap_or(0);
                    rows.push(attribute(class.oid(), column.name, oid, number, -1, false));
                }
            }
        }
    }
    rows
}

fn attribute(relation: u32, name: &str, type_oid: u32, number: i64, modifier: i32, not_null: bool) -> Row {
    let (length, by_value, align, storage) = types::layout_of(type_oid);
    let dimensions = i32::from(types::by_oid(type_oid).is_some_and(|(_, array)| array));
    row![
        relation,
        name,
        type_oid,
        -1,
        length,
        number,
        dimensions,
        -1,
        modifier,
        by_value,
        align,
        storage,
        "",
        not_null,
        false,
        false,
        "",
        "",
        false,
        true,
        0,
        types::collation_of(type_oid),
        None::<&str>,
        None::<&str>,
        None::<&str>,
        None::<&str>,
    ]
}

/// The columns of a primary key.
pub(crate) fn key_columns(relation: &CatalogRelation) -> impl Iterator<Item = &super::view::CatalogColumn> {
    relation.primary_key.iter().filter_map(|index| relation.columns.get(*index))
}

/// Column numbers of a primary key, from 1.
fn key_numbers(relation: &CatalogRelation) -> Vec<i64> {
    relation.primary_key.iter().map(|index| i64::try_from(index + 1).unwrap_or(i64::MAX)).collect()
}

/// Rows of `pg_index`.
pub(crate) fn indexes(directory: &Directory) -> Vec<Row> {
    let rows = directory.keyed().map(|relation| {
        let numbers = key_numbers(relation);
        let width = i64::try_from(numbers.len()).unwrap_or(i64::MAX);
        let zeros = vec![0_i64; numbers.len()];
        let collations: Vec<i64> = key_columns(relation).map(|column| types::collation_of(column.oid).into()).collect();
        row![
            index_oid(relation),
            relation.oid,
            width,
            width,
            true,
            false,
            true,
            false,
            true,
            false,
            true,
            false,
            true,
            true,
            false,
            numbers,
            collations,
            zeros.clone(),
            zeros,
            None::<&str>,
            None::<&str>,
        ]
    });
    rows.collect()
}

/// Rows of `pg_constraint`.
pub(crate) fn constraints(directory: &Directory) -> Vec<Row> {
    let rows = directory.keyed().map(|relation| {
        row![
            constraint_oid(relation),
            index_name(relation),
            namespace_oid(&relation.schema),
            "p",
            false,
            false,
            true,
            relation.oid,
            0_u32,
            index_oid(relation),
            0_u32,
            0_u32,
            " ",
            " ",
            " ",
            true,
            0,
            true,
            key_numbers(relation),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
        ]
    });
    rows.collect()
}

/// Rows of `pg_description`.
pub(crate) fn descriptions(directory: &Directory) -> Vec<Row> {
    const PG_CLASS_OID: u32 = 1259;
    const PG_NAMESPACE_OID: u32 = 2615;
    let mut rows = vec![
        row![super::directory::PG_CATALOG, PG_NAMESPACE_OID, 0, "system catalog schema"],
        row![namespace_oid("public"), PG_NAMESPACE_OID, 0, "streams, tables and continuous results"],
        row![namespace_oid("topics"), PG_NAMESPACE_OID, 0, "every topic as records"],
        row![namespace_oid("aquifer"), PG_NAMESPACE_OID, 0, "what an operator asks"],
    ];
    for relation in &directory.view.relations {
        if let Some(text) = &relation.description {
            rows.push(row![relation.oid, PG_CLASS_OID, 0, text.clone()]);
        }
        for (number, column) in (1_i64..).zip(&relation.columns) {
            if let Some(text) = &column.description {
                rows.push(row![relation.oid, PG_CLASS_OID, number, text.clone()]);
            }
        }
    }
    rows
}

fn of_kind(directory: &Directory, kind: RelationKind) -> impl Iterator<Item = &CatalogRelation> {
    directory.view.relations.iter().filter(move |relation| relation.kind == kind)
}

/// Rows of `pg_tables`.
pub(crate) fn tables(directory: &Directory) -> Vec<Row> {
    let own = of_kind(directory, RelationKind::Table).map(|relation| {
        let keyed = !relation.primary_key.is_empty();
        row![
            relation.schema.clone(),
            relation.name.clone(),
            directory.view.user.clone(),
            None::<&str>,
            keyed,
            false,
            false,
            false,
        ]
    });
    let system = super::tables::SYSTEM_TABLES.iter().filter(|table| !table.is_view()).map(|table| {
        row![table.schema, table.name, directory.view.user.clone(), None::<&str>, false, false, false, false]
    });
    own.chain(system).collect()
}

/// Rows of `pg_views`.
pub(crate) fn views(directory: &Directory) -> Vec<Row> {
    of_kind(directory, RelationKind::View)
        .map(|relation| {
            row![
                relation.schema.clone(),
                relation.name.clone(),
                directory.view.user.clone(),
                relation.definition.clone(),
            ]
        })
        .collect()
}

/// Rows of `pg_matviews`.
pub(crate) fn matviews(directory: &Directory) -> Vec<Row> {
    of_kind(directory, RelationKind::Materialized)
        .map(|relation| {
            row![
                relation.schema.clone(),
                relation.name.clone(),
                directory.view.user.clone(),
                None::<&str>,
                !relation.primary_key.is_empty(),
                true,
                relation.definition.clone(),
            ]
        })
        .collect()
}

/// Rows of `pg_indexes`.
pub(crate) fn indexes_by_name(directory: &Directory) -> Vec<Row> {
    directory
        .keyed()
        .map(|relation| {
            row![
                relation.schema.clone(),
                relation.name.clone(),
                index_name(relation),
                None::<&str>,
                index_definition(relation),
            ]
        })
        .collect()
}

fn key_list(relation: &CatalogRelation) -> String {
    key_columns(relation).map(|column| quote_ident(&column.name)).collect::<Vec<_>>().join(", ")
}

/// As `pg_get_indexdef` writes it.
pub(crate) fn index_definition(relation: &CatalogRelation) -> String {
    let (name, schema, table) =
        (quote_ident(&index_name(relation)), quote_ident(&relation.schema), quote_ident(&relation.name));
    format!("CREATE UNIQUE INDEX {name} ON {schema}.{table} USING btree ({})", key_list(relation))
}

/// As `pg_get_constraintdef` writes it.
pub(crate) fn constraint_definition(relation: &CatalogRelation) -> String {
    format!("PRIMARY KEY ({})", key_list(relation))
}
