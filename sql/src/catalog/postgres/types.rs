//! `pg_type`: the types a column or a parameter can have here, under the OIDs every driver knows by heart.

use super::kind::{Row, row};

/// A base type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Type {
    pub(crate) oid: u32,
    pub(crate) name: &'static str,
    /// As `format_type` spells it.
    pub(crate) sql_name: &'static str,
    pub(crate) array_oid: u32,
    /// Bytes of a value, -1 if they vary.
    pub(crate) length: i32,
    category: &'static str,
    align: &'static str,
    preferred: bool,
}

const fn base(
    oid: u32,
    name: &'static str,
    sql_name: &'static str,
    array_oid: u32,
    length: i32,
    category: &'static str,
    align: &'static str,
) -> Type {
    Type {
        oid,
        name,
        sql_name,
        array_oid,
        length,
        category,
        align,
        preferred: matches!(oid, 16 | 25 | 26 | 701 | 1184 | 1186),
    }
}

/// All of them.
pub(crate) const TYPES: [Type; 44] = [
    base(16, "bool", "boolean", 1000, 1, "B", "c"),
    base(17, "bytea", "bytea", 1001, -1, "U", "i"),
    base(18, "char", "\"char\"", 1002, 1, "Z", "c"),
    base(19, "name", "name", 1003, 64, "S", "c"),
    base(20, "int8", "bigint", 1016, 8, "N", "d"),
    base(21, "int2", "smallint", 1005, 2, "N", "s"),
    base(22, "int2vector", "int2vector", 1006, -1, "A", "i"),
    base(23, "int4", "integer", 1007, 4, "N", "i"),
    base(24, "regproc", "regproc", 1008, 4, "N", "i"),
    base(25, "text", "text", 1009, -1, "S", "i"),
    base(26, "oid", "oid", 1028, 4, "N", "i"),
    base(27, "tid", "tid", 1010, 6, "U", "s"),
    base(28, "xid", "xid", 1011, 4, "U", "i"),
    base(29, "cid", "cid", 1012, 4, "U", "i"),
    base(30, "oidvector", "oidvector", 1013, -1, "A", "i"),
    base(114, "json", "json", 199, -1, "U", "i"),
    base(142, "xml", "xml", 143, -1, "U", "i"),
    base(194, "pg_node_tree", "pg_node_tree", 0, -1, "Z", "i"),
    base(650, "cidr", "cidr", 651, -1, "I", "i"),
    base(700, "float4", "real", 1021, 4, "N", "i"),
    base(701, "float8", "double precision", 1022, 8, "N", "d"),
    base(705, "unknown", "unknown", 0, -2, "X", "c"),
    base(829, "macaddr", "macaddr", 1040, 6, "U", "i"),
    base(869, "inet", "inet", 1041, -1, "I", "i"),
    base(1033, "aclitem", "aclitem", 1034, 12, "U", "i"),
    base(1042, "bpchar", "character", 1014, -1, "S", "i"),
    base(1043, "varchar", "character varying", 1015, -1, "S", "i"),
    base(1082, "date", "date", 1182, 4, "D", "i"),
    base(1083, "time", "time without time zone", 1183, 8, "D", "d"),
    base(1114, "timestamp", "timestamp without time zone", 1115, 8, "D", "d"),
    base(1184, "timestamptz", "timestamp with time zone", 1185, 8, "D", "d"),
    base(1186, "interval", "interval", 1187, 16, "T", "d"),
    base(1266, "timetz", "time with time zone", 1270, 12, "D", "d"),
    base(1560, "bit", "bit", 1561, -1, "V", "i"),
    base(1562, "varbit", "bit varying", 1563, -1, "V", "i"),
    base(1700, "numeric", "numeric", 1231, -1, "N", "i"),
    base(2205, "regclass", "regclass", 2210, 4, "N", "i"),
    base(2206, "regtype", "regtype", 2211, 4, "N", "i"),
    base(2950, "uuid", "uuid", 2951, 16, "U", "c"),
    base(3802, "jsonb", "jsonb", 3807, -1, "U", "i"),
    base(4089, "regnamespace", "regnamespace", 4090, 4, "N", "i"),
    base(4096, "regrole", "regrole", 4097, 4, "N", "i"),
    base(2278, "void", "void", 0, 4, "P", "i"),
    base(2249, "record", "record", 2287, -1, "P", "d"),
];

/// Type categories whose values have a collation.
const STRING_CATEGORY: &str = "S";
/// `pg_collation.oid` of the default.
pub(crate) const DEFAULT_COLLATION: u32 = 100;
/// ... and of `name`, which is always C.
pub(crate) const C_COLLATION: u32 = 950;

/// `pg_type`'s columns.
pub(crate) const PG_TYPE: &str = "oid oid, typname name, typnamespace oid, typowner oid, typlen int2, typbyval bool, \
    typtype char, typcategory char, typispreferred bool, typisdefined bool, typdelim char, typrelid oid, \
    typsubscript regproc, typelem oid, typarray oid, typinput regproc, typoutput regproc, typreceive regproc, \
    typsend regproc, typmodin regproc, typmodout regproc, typanalyze regproc, typalign char, typstorage char, \
    typnotnull bool, typbasetype oid, typtypmod int4, typndims int4, typcollation oid, typdefaultbin pg_node_tree, \
    typdefault text, typacl aclitem[]";

/// The type of that OID, and whether it is its array.
pub(crate) fn by_oid(oid: u32) -> Option<(&'static Type, bool)> {
    TYPES.iter().find_map(|base| match oid {
        0 => None,
        _ if base.oid == oid => Some((base, false)),
        _ if base.array_oid == oid => Some((base, true)),
        _ => None,
    })
}

/// The OID of a type by one of its names, as `to_regtype` finds it.
pub(crate) fn by_name(name: &str) -> Option<u32> {
    let name = name.trim();
    let name = name.strip_prefix("pg_catalog.").unwrap_or(name);
    if let Some(item) = name.strip_suffix("[]") {
        return by_name(item).and_then(by_oid).map(|(base, _)| base.array_oid);
    }
    if let Some(item) = name.strip_prefix('_') {
        return by_name(item).and_then(by_oid).map(|(base, _)| base.array_oid);
    }
    let name = match name.to_ascii_lowercase().as_str() {
        "int" => "integer".to_owned(),
        "float" => "double precision".to_owned(),
        "decimal" => "numeric".to_owned(),
        "timestamp" => "timestamp without time zone".to_owned(),
        other => other.to_owned(),
    };
    TYPES.iter().find(|base| base.name == name || base.sql_name == name).map(|base| base.oid)
}

/// The collation of a type's values, 0 if they have none.
pub(crate) fn collation_of(oid: u32) -> u32 {
    match by_oid(oid) {
        Some((base, _)) if base.name == "name" => C_COLLATION,
        Some((base, _)) if base.category == STRING_CATEGORY => DEFAULT_COLLATION,
        _ => 0,
    }
}

/// `attlen`, `attbyval`, `attalign`, `attstorage` of a column of that type.
pub(crate) fn layout_of(oid: u32) -> (i32, bool, &'static str, &'static str) {
    match by_oid(oid) {
        Some((base, false)) => (base.length, by_value(base), base.align, storage(base)),
        _ => (-1, false, "i", "x"),
    }
}

fn by_value(base: &Type) -> bool {
    matches!(base.length, 1 | 2 | 4 | 8)
}

fn storage(base: &Type) -> &'static str {
    match (base.name, base.length) {
        ("numeric", _) => "m",
        (_, -1) if !matches!(base.name, "int2vector" | "oidvector") => "x",
        _ => "p",
    }
}

/// As Postgres spells a type with its modifier.
pub(crate) fn format_type(oid: u32, modifier: Option<i32>) -> String {
    let Some((base, array)) = by_oid(oid) else {
        return if oid == 0 { "-".to_owned() } else { "???".to_owned() };
    };
    let modifier = modifier.filter(|modifier| *modifier >= 0);
    let name = match (base.name, modifier) {
        ("numeric", Some(modifier)) => format!("numeric({},{})", (modifier - 4) >> 16 & 0xffff, (modifier - 4) & 0x7ff),
        ("varchar", Some(modifier)) => format!("character varying({})", modifier - 4),
        ("bpchar", Some(modifier)) => format!("character({})", modifier - 4),
        ("timestamp", Some(digits)) => format!("timestamp({digits}) without time zone"),
        ("timestamptz", Some(digits)) => format!("timestamp({digits}) with time zone"),
        ("time", Some(digits)) => format!("time({digits}) without time zone"),
        _ => base.sql_name.to_owned(),
    };
    if array { format!("{name}[]") } else { name }
}

/// `pg_type`'s rows: each type, then its array.
pub(crate) fn rows() -> Vec<Row> {
    TYPES
        .iter()
        .flat_map(|base| [Some(type_row(base)), (base.array_oid != 0).then(|| array_row(base))])
        .flatten()
        .collect()
}

fn procedures(base: &Type) -> [String; 4] {
    // Older types run the words together, newer ones have an underscore.
    let underscore = match base.name {
        "json" | "jsonb" | "uuid" | "numeric" | "interval" | "timestamp" | "timestamptz" | "date" | "time"
        | "timetz" | "xml" | "cidr" | "inet" | "macaddr" | "bit" | "varbit" | "pg_node_tree" | "void" | "record" => "_",
        _ => "",
    };
    ["in", "out", "recv", "send"].map(|suffix| format!("{}{underscore}{suffix}", base.name))
}

fn type_row(base: &Type) -> Row {
    let [input, output, receive, send] = procedures(base);
    let kind = if base.category == "P" { "p" } else { "b" };
    let (element, subscript) = match base.name {
        "int2vector" => (21_u32, "array_subscript_handler"),
        "oidvector" => (26, "array_subscript_handler"),
        "name" => (18, "raw_array_subscript_handler"),
        _ => (0, "-"),
    };
    row![
        base.oid,
        base.name,
        super::directory::PG_CATALOG,
        super::directory::OWNER,
        base.length,
        by_value(base),
        kind,
        base.category,
        base.preferred,
        true,
        ",",
        0_u32,
        subscript,
        element,
        base.array_oid,
        input,
        output,
        receive,
        send,
        "-",
        "-",
        "-",
        base.align,
        storage(base),
        false,
        0_u32,
        -1,
        0,
        collation_of(base.oid),
        None::<&str>,
        None::<&str>,
        None::<&str>,
    ]
}

fn array_row(base: &Type) -> Row {
    let align = if base.align == "d" { "d" } else { "i" };
    row![
        base.array_oid,
        format!("_{}", base.name),
        super::directory::PG_CATALOG,
        super::directory::OWNER,
        -1,
        false,
        "b",
        "A",
        false,
        true,
        ",",
        0_u32,
        "array_subscript_handler",
        base.oid,
        0_u32,
        "array_in",
        "array_out",
        "array_recv",
        "array_send",
        "-",
        "-",
        "array_typanalyze",
        align,
        "x",
        false,
        0_u32,
        -1,
        0,
        collation_of(base.oid),
        None::<&str>,
        None::<&str>,
        None::<&str>,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::postgres::kind::columns;

    #[test]
    fn types_are_spelled_as_postgres_does() {
        assert_eq!(format_type(20, None), "bigint");
        assert_eq!(format_type(1009, Some(-1)), "text[]");
        assert_eq!(format_type(1700, Some((10 << 16 | 2) + 4)), "numeric(10,2)");
        assert_eq!(format_type(1043, Some(24)), "character varying(20)");
        assert_eq!(by_name("pg_catalog.int8"), Some(20));
        assert_eq!(by_name("timestamp with time zone"), Some(1184));
        assert_eq!(by_name("int4[]"), Some(1007));
        assert_eq!(by_name("hstore"), None);
    }

    #[test]
    fn every_row_has_every_column_and_no_oid_twice() {
        let rows = rows();
        let width = columns(PG_TYPE).count();
        assert!(rows.iter().all(|row| row.len() == width));
        let oids: std::collections::HashSet<String> = rows.iter().map(|row| format!("{:?}", row[0])).collect();
        assert_eq!(oids.len(), rows.len());
    }
}
