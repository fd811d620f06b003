//! What a scan leaves out changes no answer: the same records in the log alone, and in many small typed objects, answer every
//! filter alike, over values that statistics are bad at.

use aquifer_storage::settings::StorageSettings;

use super::node::{Cell, Node, Record};

/// Columns of every scalar type, `k` from the key.
const STREAM: &str = "CREATE STREAM odd (k STRING KEY, d DOUBLE, r REAL, n BIGINT, i INT, dec DECIMAL(20, 3), t TIMESTAMP, \
     day DATE, clock TIME, s STRING, b BOOLEAN, u UUID, raw BYTES, j JSONB) \
     WITH (kafka_topic = 'odd', value_format = 'json', partitions = 1, timestamp = 't')";

/// Records of one object; each object's rows span what its neighbours' do not.
const OBJECT_RECORDS: usize = 3;

/// A record per line: what of the value it has. Times are ms.
const VALUES: [&str; 27] = [
    // NaN is larger than any number, and no statistics know it.
    r#""d": 1.0, "r": 1.0"#,
    r#""d": "NaN", "r": "NaN""#,
    r#""d": -2.5, "r": -2.5"#,
    r#""d": 5, "r": 5"#,
    r#""d": 5, "r": 5"#,
    r#""d": "NaN", "r": "NaN""#,
    r#""d": "Infinity", "n": 9223372036854775807"#,
    r#""d": "-Infinity", "n": -9223372036854775808"#,
    r#""d": -0.0, "r": 0, "n": 0"#,
    // Around zero, and before 1970.
    r#""n": -1, "i": -1, "dec": -0.001, "t": -1, "day": -1"#,
    r#""n": 0, "i": 0, "dec": 0, "t": 0, "day": 0"#,
    r#""n": -7, "i": -7, "dec": -99999999999999999.999, "t": -62135596800000, "day": -719162"#,
    // A night: its times of day turn over.
    r#""t": 1700000400000, "clock": "22:00", "i": 1"#,
    r#""t": 1700006340000, "clock": "23:59:59.999999", "i": 2"#,
    r#""t": 1700014800000, "clock": "02:00", "i": 3"#,
    // Longer than statistics are, and equal up to there.
    r#""s": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab""#,
    r#""s": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac""#,
    r#""s": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa""#,
    "\"s\": \"\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}x\"",
    r#""s": """#,
    r#""s": "ä", "raw": "AP8=", "b": true"#,
    // One decodes of three.
    r#""s": 1e, "n": 3"#,
    r#""n": 3, "b": false, "u": "0189A6C2-5D4E-7000-8000-00000000000A", "j": {"a": 1}"#,
    r#""n": "x""#,
    // None does.
    r#""n": "x""#,
    r#""t": "never""#,
    r#""d": []"#,
];

async fn open(dir: &std::path::Path) -> Node {
    let mut node = Node::open_with(dir, |settings: &mut StorageSettings| {
        settings.housekeeping_interval_ms = 0;
        settings.topic_local_retention_ms = 0;
        settings.topic_retention_ms = -1;
    })
    .await;
    node.run(STREAM).await;
    node
}

fn records() -> Vec<Record> {
    let record = |(number, fields): (i64, &&str)| Record {
        timestamp_ms: (number - 5) * 1000,
        key: Some(format!("k{}", number % 10)),
        value: Some(format!("{{{fields}}}")),
        headers: Vec::new(),
    };
    (0..).zip(VALUES.iter()).map(record).collect()
}

/// Expressions over columns, and values that are there, lie between, or are odd; and such that do not keep a column's order.
fn probes() -> Vec<(&'static str, Vec<String>)> {
    let long = "a".repeat(80);
    vec![
        ("d", ["1", "5", "-2.5", "0", "'NaN'::double", "'Infinity'::double", "1e300"].map(str::to_owned).to_vec()),
        ("r", ["1", "5", "'NaN'::real", "0"].map(str::to_owned).to_vec()),
        ("n", ["0", "-1", "3", "9223372036854775807", "-9223372036854775808"].map(str::to_owned).to_vec()),
        ("i", ["0", "-1", "2", "2.5", "9999999999"].map(str::to_owned).to_vec()),
        ("dec", ["0", "-0.001", "-99999999999999999.999", "-1", "0.0005"].map(str::to_owned).to_vec()),
        (
            "t",
            [
                "TIMESTAMP '1970-01-01'",
                "TIMESTAMP '1969-12-31 23:59:59.999'",
                "TIMESTAMP '0001-01-01'",
                "DATE '1970-01-01'",
            ]
            .map(str::to_owned)
            .to_vec(),
        ),
        ("day", ["DATE '1969-12-31'", "DATE '1970-01-01'", "DATE '0001-01-01'"].map(str::to_owned).to_vec()),
        ("clock", ["TIME '23:59:59.999999'", "TIME '03:00'", "TIME '22:00'"].map(str::to_owned).to_vec()),
        (
            "s",
            vec![format!("'{long}'"), format!("'{long}b'"), format!("'{long}bb'"), "''".to_owned(), "'ä'".to_owned()],
        ),
        ("b", vec!["true".to_owned(), "false".to_owned()]),
        ("u", vec!["'0189a6c2-5d4e-7000-8000-00000000000a'".to_owned()]),
        ("raw", vec!["'\\x00ff'::bytea".to_owned()]),
        ("k", vec!["'k3'".to_owned(), "'k'".to_owned()]),
        ("rowtime", vec!["0".to_owned(), "-1".to_owned(), "-62135596800000".to_owned(), "1000".to_owned()]),
        ("_offset", vec!["0".to_owned(), "22".to_owned()]),
        ("_timestamp", vec!["to_timestamp(0)".to_owned(), "to_timestamp(-1.5)".to_owned()]),
        // Over a column, and not in its order.
        ("t::time", vec!["TIME '23:00'".to_owned(), "TIME '01:00'".to_owned()]),
        ("_timestamp::time", vec!["TIME '23:00'".to_owned(), "TIME '00:00:01'".to_owned()]),
        ("t::date", vec!["DATE '1970-01-01'".to_owned(), "DATE '2023-11-14'".to_owned()]),
        ("i::boolean", vec!["true".to_owned(), "false".to_owned()]),
        ("n::boolean", vec!["true".to_owned(), "false".to_owned()]),
        ("-i", vec!["1".to_owned(), "-2".to_owned()]),
        ("abs(i)", vec!["1".to_owned(), "7".to_owned()]),
        ("i::text", vec!["'-1'".to_owned(), "'10'".to_owned()]),
        ("length(s)", vec!["81".to_owned(), "0".to_owned()]),
    ]
}

/// Conditions on every column, each operator with each value.
fn conditions() -> Vec<String> {
    let long = "a".repeat(80);
    let mut conditions = Vec::new();
    for (column, values) in &probes() {
        for value in values {
            for operator in ["=", "<>", "<", "<=", ">", ">="] {
                conditions.push(format!("{column} {operator} {value}"));
                conditions.push(format!("NOT {column} {operator} {value}"));
            }
            conditions.push(format!("{column} IS DISTINCT FROM {value}"));
            conditions.push(format!("{column} IS NOT DISTINCT FROM {value}"));
            conditions.push(format!("{column} = {value} OR {column} IS NULL"));
        }
        conditions.push(format!("{column} IN ({})", values.join(", ")));
        conditions.push(format!("{column} NOT IN ({})", values.join(", ")));
        conditions.push(format!("{column} IS NULL"));
        conditions.push(format!("{column} IS NOT NULL"));
        conditions.push(format!("NOT ({column} IS NULL) AND _offset < 20"));
    }
    for pattern in ["a%", "aaa%b", "%c", "", "%", "_", "ä", "\u{10ffff}%"] {
        for like in ["LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE"] {
            conditions.push(format!("s {like} '{pattern}'"));
        }
        conditions.push(format!("s LIKE '{long}{pattern}'"));
        conditions.push(format!("s NOT LIKE '{long}{pattern}'"));
    }
    for condition in
        ["b", "NOT b", "b IS TRUE", "b IS NOT TRUE", "starts_with(s, 'aa')", "i BETWEEN -7 AND -1", "i + 1 > 2"]
    {
        conditions.push(condition.to_owned());
    }
    conditions
}

/// Queries in which a filter becomes known while they run.
fn queries() -> Vec<String> {
    let mut queries = Vec::new();
    for order in [
        "d",
        "r",
        "n",
        "i",
        "dec",
        "t",
        "day",
        "clock",
        "s",
        "u",
        "rowtime",
        "_timestamp",
        "t::time",
        "i::boolean",
        "-i",
    ] {
        for (direction, limit) in [("", 1), ("DESC", 1), ("DESC NULLS LAST", 2), ("NULLS FIRST", 4), ("DESC", 7)] {
            queries
                .push(format!("SELECT _offset, {order} FROM odd ORDER BY {order} {direction}, _offset LIMIT {limit}"));
            queries.push(format!(
                "SELECT _offset FROM odd WHERE {order} IS NOT NULL ORDER BY {order} {direction}, _offset LIMIT {limit}"
            ));
        }
    }
    for column in ["d", "r", "n", "i", "dec", "t", "day", "clock", "s", "k"] {
        queries.push(format!(
            "SELECT a._offset, b._offset FROM odd a JOIN odd b ON a.{column} = b.{column} WHERE a._offset IN (0, 1, 5, 7, 10, 13, 15) \
             ORDER BY 1, 2"
        ));
        queries.push(format!("SELECT min({column}), max({column}), count({column}), count(*) FROM odd"));
    }
    for column in ["_offset", "_timestamp", "_partition"] {
        queries.push(format!("SELECT min({column}), max({column}), count({column}), count(*) FROM topics.odd"));
    }
    for order in ["_offset", "_offset DESC", "_timestamp", "_timestamp DESC, _offset DESC"] {
        for limit in [1, 4, 26, 27, 100] {
            queries.push(format!("SELECT _offset, _timestamp FROM topics.odd ORDER BY {order} LIMIT {limit} OFFSET 1"));
        }
    }
    queries
}

fn shown(answer: Result<Vec<Vec<Cell>>, aquifer_sql::error::Error>) -> Result<Vec<String>, String> {
    let lines = answer.map(|rows| rows.iter().map(|row| format!("{row:?}")).collect());
    lines.map_err(|error| error.state.code().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_of_typed_objects_changes_no_answer() {
    let (hot_home, cold_home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut hot, mut cold) = (open(hot_home.path()).await, open(cold_home.path()).await);
    hot.append("odd", 0, &records()).await;
    for object in records().chunks(OBJECT_RECORDS) {
        cold.append("odd", 0, object).await;
        cold.storage.checkpoint().await.unwrap();
    }
    assert_eq!(cold.storage.objects().await.unwrap().len(), VALUES.len() / OBJECT_RECORDS);
    let filtered =
        conditions().into_iter().map(|condition| format!("SELECT _offset FROM odd WHERE {condition} ORDER BY 1"));
    let mut different = Vec::new();
    for query in filtered.chain(queries()) {
        let (expected, found) = (shown(hot.try_run(&query).await), shown(cold.try_run(&query).await));
        if expected != found {
            different.push(format!("{query}\n  in the log {expected:?}\n  in objects {found:?}"));
        }
    }
    assert!(different.is_empty(), "{} answers differ:\n{}", different.len(), different.join("\n"));
    hot.close().await;
    cold.close().await;
}
