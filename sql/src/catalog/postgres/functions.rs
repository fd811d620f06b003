//! The system functions: what clients call about the catalog, the session and sizes, answered from the directory.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::ScalarUDF;

use super::directory::{Class, Directory, NAMESPACES, OWNER, constraint_oid, namespace_oid, quote_ident};
use super::function::{function, int, list_length, oid, text};
use super::kind::{Kind, Value};
use super::{node, relations, types};

const TEXT: Kind = Kind::Text("text");
/// All system functions for one view of the catalog.
pub(crate) fn all(directory: &Arc<Directory>) -> Vec<ScalarUDF> {
    let mut functions = session(directory);
    functions.extend(visibility(directory));
    functions.extend(definitions(directory));
    functions.extend(names(directory));
    functions.extend(privileges());
    functions.extend(sizes());
    functions.extend(plain());
    functions
}

fn session(directory: &Arc<Directory>) -> Vec<ScalarUDF> {
    let view = &directory.view;
    let constant =
        |name: &'static str, value: String| function(name, 0..=0, TEXT, false, move |_| value.as_str().into());
    let schema = view.search_path.first().cloned();
    let schemas = view.search_path.clone();
    let pid = view.backend_pid;
    let server_version = view.settings.iter().find(|setting| setting.name == "server_version");
    let server_version = server_version.map_or("15", |setting| setting.value.as_str());
    let version = format!("PostgreSQL {server_version} compatible, Aquifer {}", view.version);
    let settings = Arc::clone(view);
    vec![
        constant("current_database", view.database.clone()),
        constant("current_catalog", view.database.clone()),
        constant("current_user", view.user.clone()),
        constant("session_user", view.user.clone()),
        constant("current_role", view.user.clone()),
        constant("user", view.user.clone()),
        constant("version", version),
        function("current_schema", 0..=0, TEXT, false, move |_| schema.clone().into()),
        function("current_schemas", 1..=1, Kind::Texts, true, move |args| {
            let implicit = matches!(args.first(), Some(ScalarValue::Boolean(Some(true))));
            let system = implicit.then(|| "pg_catalog".to_owned());
            system.into_iter().chain(schemas.iter().cloned()).collect::<Vec<_>>().into()
        }),
        function("pg_backend_pid", 0..=0, Kind::Int4, false, move |_| pid.into()),
        function("current_setting", 1..=2, TEXT, false, move |args| {
            let name = text(args.first()).unwrap_or_default();
            let found = settings.settings.iter().find(|setting| setting.name.eq_ignore_ascii_case(&name));
            found.map(|setting| setting.value.clone()).into()
        }),
        function("pg_is_in_recovery", 0..=0, Kind::Bool, false, |_| false.into()),
        function("txid_current", 0..=0, Kind::Int8, false, |_| 1_i64.into()),
        function("inet_server_addr", 0..=0, TEXT, false, |_| Value::Null),
        function("inet_client_addr", 0..=0, TEXT, false, |_| Value::Null),
        function("pg_my_temp_schema", 0..=0, Kind::Oid, false, |_| 0_u32.into()),
        function("pg_is_other_temp_schema", 1..=1, Kind::Bool, true, |_| false.into()),
    ]
}

fn visibility(directory: &Arc<Directory>) -> Vec<ScalarUDF> {
    let classes = Arc::clone(directory);
    // Types, functions and operators are all in pg_catalog, which is always looked through.
    let always = |name: &'static str| function(name, 1..=1, Kind::Bool, true, |_| true.into());
    vec![
        function("pg_table_is_visible", 1..=1, Kind::Bool, true, move |args| {
            let class = oid(args.first()).and_then(|oid| classes.class(oid));
            class.map(|class| classes.is_visible(&class)).into()
        }),
        function("pg_type_is_visible", 1..=1, Kind::Bool, true, |args| {
            oid(args.first()).and_then(types::by_oid).map(|_| true).into()
        }),
        function("pg_function_is_visible", 1..=1, Kind::Bool, true, |args| {
            oid(args.first()).and_then(node::procedure).map(|_| true).into()
        }),
        always("pg_collation_is_visible"),
        always("pg_operator_is_visible"),
        always("pg_opclass_is_visible"),
        always("pg_conversion_is_visible"),
        always("pg_statistics_obj_is_visible"),
        always("pg_ts_config_is_visible"),
        function("pg_relation_is_publishable", 1..=1, Kind::Bool, true, |_| false.into()),
    ]
}

fn definitions(directory: &Arc<Directory>) -> Vec<ScalarUDF> {
    let (indexes, constraints, views, objects, columns) = (
        Arc::clone(directory),
        Arc::clone(directory),
        Arc::clone(directory),
        Arc::clone(directory),
        Arc::clone(directory),
    );
    let none = |name: &'static str, arity| function(name, arity, TEXT, true, |_| Value::Null);
    vec![
        function("format_type", 2..=2, TEXT, false, |args| {
            let modifier = int(args.get(1)).and_then(|modifier| modifier.try_into().ok());
            oid(args.first()).map(|oid| types::format_type(oid, modifier)).into()
        }),
        function("pg_get_indexdef", 1..=3, TEXT, true, move |args| {
            let Some(Class::Index(relation)) = oid(args.first()).and_then(|oid| indexes.class(oid)) else {
                return Value::Null;
            };
            match int(args.get(1)).and_then(|column| usize::try_from(column).ok()) {
                None | Some(0) => relations::index_definition(relation).into(),
                Some(column) => {
                    relations::key_columns(relation).nth(column - 1).map(|column| quote_ident(&column.name)).into()
                }
            }
        }),
        function("pg_get_constraintdef", 1..=2, TEXT, true, move |args| {
            let wanted = oid(args.first());
            let relation = constraints.keyed().find(|relation| wanted == Some(constraint_oid(relation)));
            relation.map(relations::constraint_definition).into()
        }),
        function("pg_get_viewdef", 1..=2, TEXT, true, move |args| {
            let class = match oid(args.first()) {
                Some(oid) => views.class(oid),
                None => text(args.first()).and_then(|name| views.class_named(&name)),
            };
            match class {
                Some(Class::Relation(relation)) => relation.definition.clone().into(),
                _ => Value::Null,
            }
        }),
        function("obj_description", 1..=2, TEXT, true, move |args| described(&objects, oid(args.first()), 0)),
        function("shobj_description", 2..=2, TEXT, true, |_| Value::Null),
        function("col_description", 2..=2, TEXT, true, move |args| {
            described(&columns, oid(args.first()), int(args.get(1)).unwrap_or(0))
        }),
        function("pg_get_function_result", 1..=1, TEXT, true, |args| {
            let procedure = oid(args.first()).and_then(node::procedure);
            procedure.map(|(result, _)| types::format_type(result, None)).into()
        }),
        function("pg_get_function_arguments", 1..=1, TEXT, true, |args| arguments(oid(args.first()))),
        function("pg_get_function_identity_arguments", 1..=1, TEXT, true, |args| arguments(oid(args.first()))),
        // There are no defaults, rules, triggers, partitions, statistics and sequences to be shown.
        none("pg_get_expr", 2..=3),
        none("pg_get_ruledef", 1..=2),
        none("pg_get_triggerdef", 1..=2),
        none("pg_get_partkeydef", 1..=1),
        none("pg_get_partition_constraintdef", 1..=1),
        none("pg_get_statisticsobjdef_columns", 1..=1),
        none("pg_get_statisticsobjdef", 1..=1),
        none("pg_get_serial_sequence", 2..=2),
        none("pg_get_functiondef", 1..=1),
        none("pg_tablespace_location", 1..=1),
    ]
}

fn arguments(oid: Option<u32>) -> Value {
    let procedure = oid.and_then(node::procedure);
    let names = |arguments: &[i64]| {
        let names = arguments.iter().map(|oid| types::format_type(u32::try_from(*oid).unwrap_or(0), None));
        names.collect::<Vec<_>>().join(", ")
    };
    procedure.map(|(_, arguments)| names(arguments)).into()
}

fn described(directory: &Directory, oid: Option<u32>, column: i64) -> Value {
    let Some(Class::Relation(relation)) = oid.and_then(|oid| directory.class(oid)) else { return Value::Null };
    match usize::try_from(column) {
        Ok(0) => relation.description.clone().into(),
        Ok(number) => relation.columns.get(number - 1).and_then(|column| column.description.clone()).into(),
        Err(_) => Value::Null,
    }
}

fn names(directory: &Arc<Directory>) -> Vec<ScalarUDF> {
    let (to, input, output) = (Arc::clone(directory), Arc::clone(directory), Arc::clone(directory));
    let (user, role) = (directory.view.user.clone(), directory.view.user.clone());
    let type_of =
        |args: &[ScalarValue]| -> Option<u32> { oid(args.first()).or_else(|| types::by_name(&text(args.first())?)) };
    vec![
        function("to_regclass", 1..=1, Kind::Oid, true, move |args| {
            text(args.first()).and_then(|name| to.class_named(&name).map(|class| class.oid())).into()
        }),
        function("to_regtype", 1..=1, Kind::Oid, true, |args| {
            text(args.first()).and_then(|name| types::by_name(&name)).into()
        }),
        function("to_regnamespace", 1..=1, Kind::Oid, true, |args| {
            text(args.first()).map(|name| namespace_oid(&name)).filter(|oid| *oid != 0).into()
        }),
        function("to_regproc", 1..=1, Kind::Oid, true, |args| {
            text(args.first()).and_then(|name| node::procedure_named(&name)).into()
        }),
        // What casts to and from regclass and its like become: from a name to its OID, from an OID to its name.
        function("pg_regclass_in", 1..=1, Kind::Oid, true, move |args| {
            let named = || text(args.first()).and_then(|name| input.class_named(&name).map(|class| class.oid()));
            oid(args.first()).or_else(named).into()
        }),
        function("pg_regclass_out", 1..=1, TEXT, true, move |args| {
            let name = |oid: u32| match output.class(oid) {
                Some(class) => output.regclass(&class),
                None if oid == 0 => "-".to_owned(),
                None => oid.to_string(),
            };
            oid(args.first()).map(name).or_else(|| text(args.first())).into()
        }),
        function("pg_regtype_in", 1..=1, Kind::Oid, true, move |args| type_of(args).into()),
        function("pg_regtype_out", 1..=1, TEXT, true, |args| {
            let known = oid(args.first()).map(|oid| types::format_type(oid, None));
            known.or_else(|| types::by_name(&text(args.first())?).map(|oid| types::format_type(oid, None))).into()
        }),
        function("pg_regproc_in", 1..=1, Kind::Oid, true, |args| {
            oid(args.first()).or_else(|| node::procedure_named(&text(args.first())?)).into()
        }),
        function("pg_regproc_out", 1..=1, TEXT, true, |args| {
            let name = oid(args.first()).map(|oid| node::procedure_name(oid).unwrap_or_else(|| oid.to_string()));
            name.or_else(|| text(args.first())).into()
        }),
        function("pg_regnamespace_in", 1..=1, Kind::Oid, true, |args| {
            oid(args.first()).or_else(|| Some(namespace_oid(&text(args.first())?))).into()
        }),
        function("pg_regnamespace_out", 1..=1, TEXT, true, |args| {
            let name =
                |oid: u32| NAMESPACES.iter().find(|(known, _)| *known == oid).map(|(_, name)| (*name).to_owned());
            oid(args.first())
                .map(|oid| name(oid).unwrap_or_else(|| oid.to_string()))
                .or_else(|| text(args.first()))
                .into()
        }),
        function("pg_regrole_in", 1..=1, Kind::Oid, true, |args| oid(args.first()).or(Some(OWNER)).into()),
        function("pg_regrole_out", 1..=1, TEXT, true, move |args| match oid(args.first()) {
            Some(OWNER) => role.clone().into(),
            Some(other) => other.to_string().into(),
            None => text(args.first()).into(),
        }),
        function("pg_get_userbyid", 1..=1, TEXT, true, move |args| match oid(args.first()) {
            Some(OWNER) => user.clone().into(),
            other => other.map(|oid| format!("unknown (OID={oid})")).into(),
        }),
    ]
}

/// Everybody may do everything: there are no privileges yet.
fn privileges() -> Vec<ScalarUDF> {
    [
        "has_table_privilege",
        "has_schema_privilege",
        "has_database_privilege",
        "has_column_privilege",
        "has_any_column_privilege",
        "has_function_privilege",
        "has_sequence_privilege",
        "has_type_privilege",
        "has_language_privilege",
        "has_tablespace_privilege",
        "pg_has_role",
    ]
    .into_iter()
    .map(|name| function(name, 1..=4, Kind::Bool, true, |_| true.into()))
    .collect()
}

/// Bytes of relations are not known by relation: the log is one for all.
fn sizes() -> Vec<ScalarUDF> {
    let zero = |name: &'static str, arity| function(name, arity, Kind::Int8, true, |_| 0_i64.into());
    vec![
        zero("pg_relation_size", 1..=2),
        zero("pg_table_size", 1..=1),
        zero("pg_indexes_size", 1..=1),
        zero("pg_total_relation_size", 1..=1),
        zero("pg_database_size", 1..=1),
        zero("pg_tablespace_size", 1..=1),
        function("pg_size_pretty", 1..=1, TEXT, true, |args| int(args.first()).map(size_pretty).into()),
    ]
}

/// As Postgres rounds: a unit is left behind at ten thousand and twenty-four of it.
fn size_pretty(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    const STEP: u64 = 10 * 1024;
    let sign = if bytes < 0 { "-" } else { "" };
    let mut size = bytes.unsigned_abs();
    if size < STEP {
        return format!("{bytes} bytes");
    }
    // Half units, so that the last step rounds.
    size >>= 9;
    let mut unit = 0;
    while size >= STEP * 2 - 1 && unit < UNITS.len() - 1 {
        size >>= 10;
        unit += 1;
    }
    format!("{sign}{} {}", size.div_ceil(2), UNITS[unit])
}

fn plain() -> Vec<ScalarUDF> {
    let bound = |name: &'static str, of: fn(i64) -> i64| {
        function(name, 2..=2, Kind::Int4, true, move |args| {
            list_length(args.first()).filter(|length| *length > 0).map(of).into()
        })
    };
    vec![
        function("quote_ident", 1..=1, TEXT, true, |args| text(args.first()).map(|name| quote_ident(&name)).into()),
        function("quote_literal", 1..=1, TEXT, true, |args| {
            text(args.first()).map(|text| format!("'{}'", text.replace('\'', "''"))).into()
        }),
        function("pg_encoding_to_char", 1..=1, TEXT, true, |args| match int(args.first()) {
            Some(6) => "UTF8".into(),
            Some(0) => "SQL_ASCII".into(),
            _ => "".into(),
        }),
        function("getdatabaseencoding", 0..=0, TEXT, false, |_| "UTF8".into()),
        function("pg_char_to_encoding", 1..=1, Kind::Int4, true, |args| {
            let utf8 =
                text(args.first()).is_some_and(|name| matches!(name.to_ascii_uppercase().as_str(), "UTF8" | "UTF-8"));
            if utf8 { 6.into() } else { (-1).into() }
        }),
        bound("array_upper", |length| length),
        bound("array_lower", |_| 1),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_as_in_postgres() {
        let wanted =
            [(0, "0 bytes"), (10_239, "10239 bytes"), (10_240, "10 kB"), (123_456_789, "118 MB"), (-20_480, "-20 kB")];
        for (bytes, text) in wanted {
            assert_eq!(size_pretty(bytes), text);
        }
    }
}
