//! Random streams and random queries of the family that continuous queries support.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::node::Record;

/// Columns of the random stream, as declared.
pub(crate) const COLUMNS: &str =
    "id STRING KEY, k STRING, r INT, x BIGINT, d DOUBLE, p DECIMAL(10, 2), b BOOLEAN, ts TIMESTAMP";

/// A query and what it is created as.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) kind: &'static str,
    pub(crate) with: &'static str,
    pub(crate) select: String,
}

fn pick<'a>(rng: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(rng).copied().unwrap()
}

/// A record: most decode, some do not, some have no value at all.
pub(crate) fn record(rng: &mut StdRng, now_ms: &mut i64) -> Record {
    *now_ms += rng.random_range(-3_000..5_000);
    let key = rng.random_bool(0.8).then(|| format!("id{}", rng.random_range(0..20)));
    let value = match rng.random_range(0..20) {
        0 => None,
        1 => Some("not json".to_owned()),
        2 => Some(r#"{"k": "a", "x": "many"}"#.to_owned()),
        _ => Some(value(rng, *now_ms)),
    };
    let headers = if rng.random_bool(0.2) { vec![("h".to_owned(), "1".to_owned())] } else { Vec::new() };
    // An event may be far ahead of the others, so that windows close.
    if rng.random_ratio(1, 60) {
        *now_ms += 100_000;
    }
    Record { timestamp_ms: *now_ms, key, value, headers }
}

fn value(rng: &mut StdRng, now_ms: i64) -> String {
    let mut fields = Vec::new();
    let mut field = |rng: &mut StdRng, name: &str, text: String| {
        match rng.random_range(0..10) {
            0 => {}
            1 => fields.push(format!("\"{name}\": null")),
            _ => fields.push(format!("\"{name}\": {text}")),
        };
    };
    let k = format!("\"{}\"", pick(rng, &["a", "b", "c", "", "ü", "long key"]));
    field(rng, "k", k);
    let r = rng.random_range(-2..3).to_string();
    field(rng, "r", r);
    let x = if rng.random_ratio(1, 50) { i64::MAX - 5 } else { rng.random_range(-50..100) };
    field(rng, "x", x.to_string());
    let d = f64::from(rng.random_range(0..1000)) / 7.0;
    field(rng, "d", d.to_string());
    let p = f64::from(rng.random_range(-10_000..10_000)) / 100.0;
    field(rng, "p", format!("{p:.2}"));
    let b = rng.random_bool(0.5).to_string();
    field(rng, "b", b);
    let ts = now_ms + rng.random_range(-500..500);
    field(rng, "ts", ts.to_string());
    format!("{{{}}}", fields.join(", "))
}

fn condition(rng: &mut StdRng) -> String {
    let simple = [
        "x > 10",
        "k <> 'a'",
        "r IS NOT NULL",
        "d < 50",
        "b",
        "k IN ('a', 'b', 'ü')",
        "coalesce(x, 0) % 3 = 1",
        "upper(k) LIKE '%A%'",
        "rowtime % 2 = 0",
        "p BETWEEN -10 AND 50.5",
        "id IS NULL",
        "CASE WHEN b THEN x > 0 ELSE d > 10 END",
    ];
    let first = pick(rng, &simple).to_owned();
    match rng.random_range(0..3) {
        0 => first,
        1 => format!("({first}) AND ({})", pick(rng, &simple)),
        _ => format!("({first}) OR NOT ({})", pick(rng, &simple)),
    }
}

fn filter(rng: &mut StdRng, word: &str) -> String {
    if rng.random_bool(0.6) { format!(" {word} {}", condition(rng)) } else { String::new() }
}

/// Any query of the family.
pub(crate) fn query(rng: &mut StdRng) -> Query {
    match rng.random_range(0..10) {
        0 | 1 => projection(rng),
        2 => nested(rng),
        _ => aggregate(rng),
    }
}

fn projection(rng: &mut StdRng) -> Query {
    let expressions = [
        "id",
        "id AS name",
        "k",
        "x + 1 AS y",
        "d * 2 AS d2",
        "p",
        "coalesce(k, 'none') AS k2",
        "rowtime AS t",
        "x > r AS more",
        "CAST(x AS TEXT) AS xt",
        "rowpartition AS part",
        "nullif(r, 1) AS r1",
    ];
    let amount = rng.random_range(1..5);
    let columns: Vec<&str> = expressions.choose_multiple(rng, amount).copied().collect();
    let select = format!("SELECT {} FROM s{}", columns.join(", "), filter(rng, "WHERE"));
    Query { kind: "STREAM", with: "", select }
}

fn calls(rng: &mut StdRng) -> Vec<String> {
    let functions = [
        "count(*)",
        "count(x)",
        "count(DISTINCT k)",
        "count(DISTINCT x % 5)",
        "sum(x)",
        "sum(r)",
        "sum(d)",
        "sum(p)",
        "avg(r)",
        "avg(d)",
        "avg(p)",
        "min(x)",
        "max(x)",
        "min(k)",
        "max(k)",
        "min(d)",
        "max(p)",
        "min(ts)",
        "max(b::int)",
        "sum(r * 2 + 1)",
        "max(rowtime)",
    ];
    let amount = rng.random_range(1..5);
    let chosen: Vec<&str> = functions.choose_multiple(rng, amount).copied().collect();
    let filtered = |(index, call): (usize, &str)| {
        let filter = if rng.random_bool(0.2) { format!(" FILTER (WHERE {})", condition(rng)) } else { String::new() };
        format!("{call}{filter} AS a{index}")
    };
    chosen.into_iter().enumerate().map(filtered).collect()
}

fn aggregate(rng: &mut StdRng) -> Query {
    let keys = [("k", "k"), ("r", "r"), ("b", "b"), ("x % 4", "x4"), ("coalesce(k, 'none')", "kn"), ("id", "id")];
    let amount = rng.random_range(0..3);
    let keys: Vec<_> = keys.choose_multiple(rng, amount).collect();
    let window = match rng.random_range(0..3) {
        0 if !keys.is_empty() => {
            let (size, grace) = (rng.random_range(1..30), rng.random_range(0..20));
            format!(" WINDOW TUMBLING (SIZE {size} SECONDS, GRACE PERIOD {grace} SECONDS)")
        }
        1 if !keys.is_empty() => " WINDOW TUMBLING (SIZE 1 MINUTE)".to_owned(),
        _ => String::new(),
    };
    let mut items: Vec<String> = keys.iter().map(|(expression, name)| format!("{expression} AS {name}")).collect();
    items.extend(calls(rng));
    let mut select = format!("SELECT {} FROM s{window}{}", items.join(", "), filter(rng, "WHERE"));
    if !keys.is_empty() {
        let keys: Vec<&str> = keys.iter().map(|(expression, _)| *expression).collect();
        select.push_str(&format!(" GROUP BY {}", keys.join(", ")));
    }
    if rng.random_bool(0.4) {
        let having = ["count(*) >= 3", "sum(r) > 0", "max(x) < 90", "count(*) % 2 = 0", "min(d) IS NOT NULL"];
        select.push_str(&format!(" HAVING {}", pick(rng, &having)));
    }
    let with = pick(rng, &["", "", " WITH (key_format = 'json')", " WITH (partitions = 5)"]);
    Query { kind: "TABLE", with, select }
}

/// An aggregate over an aggregate: the inner one takes its rows back.
fn nested(rng: &mut StdRng) -> Query {
    let inner = format!("SELECT k, r, count(*) AS n, max(x) AS m FROM s{} GROUP BY k, r", filter(rng, "WHERE"));
    let outer = pick(rng, &["count(*) AS c, min(n) AS lo, max(m) AS hi", "sum(n) AS total, count(DISTINCT m) AS ms"]);
    let select = match rng.random_bool(0.7) {
        true => format!("SELECT r, {outer} FROM ({inner}) AS q GROUP BY r"),
        false => format!("SELECT {outer} FROM ({inner}) AS q"),
    };
    Query { kind: "TABLE", with: "", select }
}
