//! Random SELECTs over the stream `s` and, where there is one, the table `t`, in the words that node and judge share.
//! What a LIMIT keeps is decided by a total order.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::model::{Kind, Model, PARTITIONS};

/// Any of them.
pub(super) fn question(rng: &mut StdRng, model: &Model) -> String {
    let table = model.has_table && rng.random_bool(0.3);
    let from = if table { "t" } else { "s" };
    let filter = filter(rng, model);
    match rng.random_range(0..if table { 8 } else { 13 }) {
        0 => format!("SELECT id, {} FROM {from}{filter}", names(model)),
        1 => projection(rng, model, from, &filter),
        2 => grouped(rng, model, from, &filter),
        3 => format!("SELECT {} FROM {from}{filter}", aggregates(rng, model)),
        4 => format!("SELECT DISTINCT {} AS a, {} AS b FROM {from}{filter}", column(rng, model), column(rng, model)),
        5 => format!("SELECT count(*) FROM {from}{filter}"),
        6 => sets(rng, model, from),
        7 => subquery(rng, model, from),
        8 => limited(rng, &filter),
        9 => windowed(rng, model, &filter),
        10 => joined(rng, model),
        11 => format!("SELECT count(*), min(_offset), max(_offset), min(rowtime), max(rowtime) FROM s{}", place(rng)),
        _ => format!(
            "SELECT _partition, count(*) AS n, count(DISTINCT _offset) AS d, min(_offset), max(_offset) FROM s{filter} \
             GROUP BY _partition ORDER BY _partition"
        ),
    }
}

/// All declared columns but the key.
fn names(model: &Model) -> String {
    model.columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

fn column<'m>(rng: &mut StdRng, model: &'m Model) -> &'m str {
    match model.columns.choose(rng) {
        Some((name, _)) if rng.random_bool(0.85) => name,
        _ => "id",
    }
}

fn column_of<'m>(rng: &mut StdRng, model: &'m Model, wanted: &[Kind]) -> Option<&'m str> {
    let fitting: Vec<&str> =
        model.columns.iter().filter(|(_, kind)| wanted.contains(kind)).map(|(name, _)| name.as_str()).collect();
    fitting.choose(rng).copied()
}

/// A condition on a column's values, some of which few rows fulfil.
fn condition(rng: &mut StdRng, model: &Model) -> String {
    let Some((name, kind)) = model.columns.choose(rng).filter(|_| rng.random_bool(0.7)) else {
        let key = rng.random_range(0..14);
        return match rng.random_range(0..4) {
            0 => format!("id = 'k{key}'"),
            1 => format!("id > 'k{key}'"),
            2 => format!("id IN ('k{key}', 'k1', 'nobody')"),
            _ => "id IS NOT NULL".to_owned(),
        };
    };
    if rng.random_ratio(1, 8) {
        return format!("{name} IS {}NULL", if rng.random_bool(0.5) { "NOT " } else { "" });
    }
    let operator = ["=", "<>", "<", "<=", ">", ">="][rng.random_range(0..6)];
    match kind {
        Kind::Int => format!("{name} {operator} {}", rng.random_range(-6..7)),
        Kind::BigInt => format!("{name} {operator} {}", rng.random_range(-1_000_000_000_000..1_000_000_000_000_i64)),
        Kind::Double => format!("{name} {operator} {}", f64::from(rng.random_range(-1000..1000)) / 8.0),
        Kind::Boolean => ["", "NOT "][rng.random_range(0..2)].to_owned() + name,
        Kind::Text => match rng.random_range(0..3) {
            0 => format!("{name} LIKE '%o%'"),
            1 => format!("upper({name}) = 'A'"),
            _ => format!("{name} {operator} 'b'"),
        },
        Kind::Timestamp => {
            format!("{name} {operator} timestamp '2024-01-01 {:02}:00:00'", rng.random_range(0..24))
        }
        Kind::Decimal => format!("{name} {operator} {}.5", rng.random_range(-100..100)),
        Kind::Date => format!("{name} {operator} date '2022-01-{:02}'", rng.random_range(8..31)),
    }
}

/// A condition on where or when a record is.
fn place(rng: &mut StdRng) -> String {
    let offset = rng.random_range(0..150);
    match rng.random_range(0..7) {
        0 => format!(" WHERE _partition = {}", rng.random_range(0..=PARTITIONS)),
        1 => format!(" WHERE _offset >= {offset}"),
        2 => format!(" WHERE _offset < {offset}"),
        3 => format!(" WHERE _offset BETWEEN {offset} AND {}", offset + 20),
        4 => format!(" WHERE rowtime >= {}", 1_000 * offset),
        5 => format!(" WHERE rowtime < {} AND _partition <> 1", 1_000 * offset),
        _ => String::new(),
    }
}

fn filter(rng: &mut StdRng, model: &Model) -> String {
    let placed = if rng.random_bool(0.4) { place(rng) } else { String::new() };
    let condition = match rng.random_range(0..4) {
        0 => return placed,
        1 => condition(rng, model),
        2 => format!("({} OR {})", condition(rng, model), condition(rng, model)),
        _ => format!("{} AND NOT ({})", condition(rng, model), condition(rng, model)),
    };
    if placed.is_empty() { format!(" WHERE {condition}") } else { format!("{placed} AND {condition}") }
}

fn projection(rng: &mut StdRng, model: &Model, from: &str, filter: &str) -> String {
    let (one, other) = (column(rng, model), column(rng, model));
    let computed = match column_of(rng, model, &[Kind::Int, Kind::Double, Kind::Decimal]) {
        Some(name) => format!("coalesce({name} * 2, -1)"),
        None => format!("{one} IS NULL"),
    };
    format!("SELECT {one} AS a, {other} AS b, {computed} AS c, _partition, _offset, rowtime FROM {from}{filter}")
}

fn aggregates(rng: &mut StdRng, model: &Model) -> String {
    let one = column(rng, model);
    let mut all = vec!["count(*) AS n".to_owned(), format!("count({one}) AS c"), format!("count(DISTINCT {one}) AS d")];
    let ordered = [Kind::Int, Kind::BigInt, Kind::Double, Kind::Text, Kind::Timestamp, Kind::Decimal, Kind::Date];
    if let Some(name) = column_of(rng, model, &ordered) {
        all.push(format!("min({name}) AS l"));
        all.push(format!("max({name}) AS h"));
    }
    if let Some(name) = column_of(rng, model, &[Kind::Int, Kind::BigInt, Kind::Double, Kind::Decimal]) {
        all.push(format!("sum({name}) AS s"));
    }
    if let Some(name) = column_of(rng, model, &[Kind::Boolean]) {
        all.push(format!("bool_or({name}) AS o"));
    }
    all.join(", ")
}

fn grouped(rng: &mut StdRng, model: &Model, from: &str, filter: &str) -> String {
    let by = column(rng, model);
    let having = if rng.random_bool(0.3) { " HAVING count(*) > 2" } else { "" };
    format!("SELECT {by} AS g, {} FROM {from}{filter} GROUP BY {by}{having}", aggregates(rng, model))
}

fn sets(rng: &mut StdRng, model: &Model, from: &str) -> String {
    let name = column(rng, model);
    let operator = ["UNION", "UNION ALL", "EXCEPT", "INTERSECT"][rng.random_range(0..4)];
    let (left, right) = (filter(rng, model), filter(rng, model));
    format!("SELECT {name} AS x FROM {from}{left} {operator} SELECT {name} FROM s{right}")
}

fn subquery(rng: &mut StdRng, model: &Model, from: &str) -> String {
    let filter = filter(rng, model);
    match rng.random_range(0..3) {
        0 => format!("SELECT id, _offset FROM {from} WHERE id IN (SELECT id FROM s{filter})"),
        1 => format!("SELECT id, rowtime FROM {from} WHERE rowtime = (SELECT max(rowtime) FROM s{filter})"),
        _ => format!(
            "WITH x AS (SELECT id, count(*) AS n FROM s{filter} GROUP BY id) \
             SELECT n, count(*) AS ids FROM x GROUP BY n"
        ),
    }
}

fn limited(rng: &mut StdRng, filter: &str) -> String {
    let order = [
        "_partition, _offset",
        "_offset DESC, _partition",
        "rowtime, _partition, _offset",
        "rowtime DESC, _partition, _offset DESC",
        "id NULLS FIRST, _partition, _offset",
    ][rng.random_range(0..5)];
    let (limit, offset) = (rng.random_range(0..30), rng.random_range(0..20));
    format!("SELECT id, _partition, _offset, rowtime FROM s{filter} ORDER BY {order} LIMIT {limit} OFFSET {offset}")
}

fn windowed(rng: &mut StdRng, model: &Model, filter: &str) -> String {
    let by = column(rng, model);
    format!(
        "SELECT _partition, _offset, row_number() OVER (PARTITION BY {by} ORDER BY _partition, _offset) AS r, \
         lag(rowtime) OVER (PARTITION BY _partition ORDER BY _offset) AS l FROM s{filter}"
    )
}

fn joined(rng: &mut StdRng, model: &Model) -> String {
    if model.has_table && rng.random_bool(0.6) {
        let (name, filter) = (column(rng, model), filter(rng, model));
        let kind = ["JOIN", "LEFT JOIN"][rng.random_range(0..2)];
        return format!(
            "SELECT x.p, x.o, t.{name} FROM (SELECT id, _partition AS p, _offset AS o FROM s{filter}) x \
             {kind} t ON x.id = t.id"
        );
    }
    let near = rng.random_range(1..4);
    format!(
        "SELECT a._partition AS p, a._offset AS x, b._offset AS y FROM s a JOIN s b \
         ON a._partition = b._partition AND a.id = b.id WHERE b._offset > a._offset AND b._offset <= a._offset + {near}"
    )
}
