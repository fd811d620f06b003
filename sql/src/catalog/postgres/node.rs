//! System tables about the node: its one database, its roles, schemas, settings, and the few objects every Postgres has.

use super::directory::{DATABASE, Directory, NAMESPACES, OWNER, PG_CATALOG};
use super::kind::{Row, Value, row};
use super::relations::{BTREE, HEAP};
use super::types::{C_COLLATION, DEFAULT_COLLATION};

pub(crate) const PG_NAMESPACE: &str = "oid oid, nspname name, nspowner oid, nspacl aclitem[]";
pub(crate) const PG_DATABASE: &str = "oid oid, datname name, datdba oid, encoding int4, datlocprovider char, \
    datistemplate bool, datallowconn bool, datconnlimit int4, datfrozenxid xid, datminmxid xid, dattablespace oid, \
    datcollate text, datctype text, daticulocale text, datcollversion text, datacl aclitem[]";
pub(crate) const PG_ROLES: &str = "rolname name, rolsuper bool, rolinherit bool, rolcreaterole bool, \
    rolcreatedb bool, rolcanlogin bool, rolreplication bool, rolconnlimit int4, rolpassword text, \
    rolvaliduntil timestamptz, rolbypassrls bool, rolconfig text[], oid oid";
pub(crate) const PG_USER: &str = "usename name, usesysid oid, usecreatedb bool, usesuper bool, userepl bool, \
    usebypassrls bool, passwd text, valuntil timestamptz, useconfig text[]";
pub(crate) const PG_AM: &str = "oid oid, amname name, amhandler regproc, amtype char";
pub(crate) const PG_TABLESPACE: &str = "oid oid, spcname name, spcowner oid, spcacl aclitem[], spcoptions text[]";
pub(crate) const PG_COLLATION: &str = "oid oid, collname name, collnamespace oid, collowner oid, collprovider char, \
    collisdeterministic bool, collencoding int4, collcollate text, collctype text, colliculocale text, \
    collversion text";
pub(crate) const PG_LANGUAGE: &str = "oid oid, lanname name, lanowner oid, lanispl bool, lanpltrusted bool, \
    lanplcallfoid oid, laninline oid, lanvalidator oid, lanacl aclitem[]";
pub(crate) const PG_SETTINGS: &str = "name text, setting text, unit text, category text, short_desc text, \
    extra_desc text, context text, vartype text, source text, min_val text, max_val text, enumvals text[], \
    boot_val text, reset_val text, sourcefile text, sourceline int4, pending_restart bool";
pub(crate) const PG_PROC: &str = "oid oid, proname name, pronamespace oid, proowner oid, prolang oid, procost float4, \
    prorows float4, provariadic oid, prosupport regproc, prokind char, prosecdef bool, proleakproof bool, \
    proisstrict bool, proretset bool, provolatile char, proparallel char, pronargs int2, pronargdefaults int2, \
    prorettype oid, proargtypes oidvector, proallargtypes oid[], proargmodes text[], proargnames text[], \
    proargdefaults pg_node_tree, protrftypes oid[], prosrc text, probin text, prosqlbody pg_node_tree, \
    proconfig text[], proacl aclitem[]";

pub(crate) const PG_STAT_ACTIVITY: &str = "datid oid, datname name, pid int4, leader_pid int4, usesysid oid, \
    usename name, application_name text, client_addr text, client_hostname text, client_port int4, \
    backend_start timestamptz, xact_start timestamptz, query_start timestamptz, state_change timestamptz, \
    wait_event_type text, wait_event text, state text, backend_xid xid, backend_xmin xid, query_id int8, query text, \
    backend_type text";

/// `pg_char_to_encoding('UTF8')`.
const UTF8: i32 = 6;
const DEFAULT_TABLESPACE: u32 = 1663;
const INTERNAL_LANGUAGE: u32 = 12;
const SQL_LANGUAGE: u32 = 14;

/// Rows of `pg_namespace`.
pub(crate) fn namespaces() -> Vec<Row> {
    NAMESPACES.iter().map(|(oid, name)| row![*oid, *name, OWNER, Value::Null]).collect()
}

/// Rows of `pg_database`.
pub(crate) fn databases(directory: &Directory) -> Vec<Row> {
    vec![row![
        DATABASE,
        directory.view.database.clone(),
        OWNER,
        UTF8,
        "c",
        false,
        true,
        -1,
        "0",
        "0",
        DEFAULT_TABLESPACE,
        "C.UTF-8",
        "C.UTF-8",
        None::<&str>,
        None::<&str>,
        Value::Null,
    ]]
}

/// Rows of `pg_stat_activity`: the sessions there are. Nothing waits for a lock.
pub(crate) fn activity(directory: &Directory) -> Vec<Row> {
    let rows = directory.view.sessions.rows().into_iter().map(|session| {
        let (address, port) = session.client_addr.rsplit_once(':').unzip();
        let port = port.and_then(|port| port.parse::<i32>().ok());
        row![
            DATABASE,
            directory.view.database.clone(),
            session.pid,
            Value::Null,
            OWNER,
            session.user,
            session.application_name,
            address.map(|address| address.trim_matches(['[', ']']).to_owned()),
            None::<&str>,
            port.map(i64::from),
            session.started_at_us,
            session.block_started_at_us,
            session.query_started_at_us,
            session.state_changed_at_us,
            None::<&str>,
            None::<&str>,
            session.state,
            None::<&str>,
            None::<&str>,
            Value::Null,
            session.query,
            "client backend",
        ]
    });
    rows.collect()
}

/// Rows of `pg_roles`: the session's user is the one there is.
pub(crate) fn roles(directory: &Directory) -> Vec<Row> {
    vec![row![
        directory.view.user.clone(),
        true,
        true,
        true,
        true,
        true,
        false,
        -1,
        None::<&str>,
        Value::Null,
        true,
        Value::Null,
        OWNER,
    ]]
}

/// Rows of `pg_user`.
pub(crate) fn users(directory: &Directory) -> Vec<Row> {
    vec![row![directory.view.user.clone(), OWNER, true, true, false, true, None::<&str>, Value::Null, Value::Null,]]
}

/// Rows of `pg_am`.
pub(crate) fn access_methods() -> Vec<Row> {
    vec![row![HEAP, "heap", "heap_tableam_handler", "t"], row![BTREE, "btree", "bthandler", "i"]]
}

/// Rows of `pg_tablespace`.
pub(crate) fn tablespaces() -> Vec<Row> {
    vec![row![DEFAULT_TABLESPACE, "pg_default", OWNER, Value::Null, Value::Null]]
}

/// Rows of `pg_collation`. Text is ordered by its bytes.
pub(crate) fn collations() -> Vec<Row> {
    let collation = |oid: u32, name: &str, provider: &str, locale: Option<&str>| {
        row![oid, name, PG_CATALOG, OWNER, provider, true, -1, locale, locale, None::<&str>, None::<&str>]
    };
    vec![collation(DEFAULT_COLLATION, "default", "d", None), collation(C_COLLATION, "C", "c", Some("C"))]
}

/// Rows of `pg_language`.
pub(crate) fn languages() -> Vec<Row> {
    [(INTERNAL_LANGUAGE, "internal"), (SQL_LANGUAGE, "sql")]
        .map(|(oid, name)| row![oid, name, OWNER, false, true, 0_u32, 0_u32, 0_u32, Value::Null])
        .into()
}

/// Rows of `pg_settings`.
pub(crate) fn settings(directory: &Directory) -> Vec<Row> {
    directory
        .view
        .settings
        .iter()
        .map(|setting| {
            let unit = (!setting.unit.is_empty()).then(|| setting.unit.clone());
            // A dotted name outside ours is the node's, and cannot be set by a session.
            let context = if setting.name.contains('.') { "postmaster" } else { "user" };
            row![
                setting.name.clone(),
                setting.value.clone(),
                unit,
                "Aquifer",
                setting.description.clone(),
                None::<&str>,
                context,
                "string",
                "session",
                None::<&str>,
                None::<&str>,
                Value::Null,
                setting.value.clone(),
                setting.value.clone(),
                None::<&str>,
                Value::Null,
                false,
            ]
        })
        .collect()
}

/// (oid, name, result, arguments) of functions that clients look up by name: Postgres's own OIDs.
const PROCEDURES: [(u32, &str, u32, &[i64]); 14] = [
    (89, "version", 25, &[]),
    (861, "current_database", 19, &[]),
    (1402, "current_schema", 19, &[]),
    (745, "current_user", 19, &[]),
    (746, "session_user", 19, &[]),
    (2026, "pg_backend_pid", 23, &[]),
    (1299, "now", 1184, &[]),
    (870, "lower", 25, &[25]),
    (871, "upper", 25, &[25]),
    (1217, "date_trunc", 1184, &[25, 1184]),
    (2020, "date_trunc", 1114, &[25, 1114]),
    (1081, "format_type", 25, &[26, 23]),
    (1642, "pg_get_userbyid", 19, &[26]),
    (2079, "pg_table_is_visible", 16, &[26]),
];

/// Rows of `pg_proc`.
pub(crate) fn procedures() -> Vec<Row> {
    PROCEDURES
        .iter()
        .map(|(oid, name, result, arguments)| {
            let count = i64::try_from(arguments.len()).unwrap_or(i64::MAX);
            row![
                *oid,
                *name,
                PG_CATALOG,
                OWNER,
                INTERNAL_LANGUAGE,
                1.0,
                0.0,
                0_u32,
                "-",
                "f",
                false,
                false,
                true,
                false,
                "s",
                "s",
                count,
                0,
                *result,
                arguments.to_vec(),
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                *name,
                None::<&str>,
                Value::Null,
                Value::Null,
                Value::Null,
            ]
        })
        .collect()
}

/// Result and arguments of a function, for `pg_get_function_result` and `pg_get_function_arguments`.
pub(crate) fn procedure(oid: u32) -> Option<(u32, &'static [i64])> {
    PROCEDURES.iter().find(|(known, ..)| *known == oid).map(|(_, _, result, arguments)| (*result, *arguments))
}

/// A function's name, for `regproc`.
pub(crate) fn procedure_name(oid: u32) -> Option<String> {
    if oid == 0 {
        return Some("-".to_owned());
    }
    PROCEDURES.iter().find(|(known, ..)| *known == oid).map(|(_, name, ..)| (*name).to_owned())
}

/// A function's OID by its name, with or without schema and arguments.
pub(crate) fn procedure_named(text: &str) -> Option<u32> {
    let name = text.split('(').next()?.trim();
    let name = name.strip_prefix("pg_catalog.").unwrap_or(name);
    PROCEDURES.iter().find(|(_, known, ..)| *known == name).map(|(oid, ..)| *oid)
}
