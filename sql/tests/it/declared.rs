//! What records can hold, how declarations change, and columns that are found by themselves.

use aquifer_storage::{Commit, DefinitionChange, Expect};

use super::node::{Cell, Node, Record, Table, eventually};

fn lines(table: &Table) -> Vec<String> {
    let cell = |cell: &Cell| match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Float(number) => number.to_string(),
        Cell::Text(text) => text.clone(),
    };
    table.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join("|")).collect()
}

async fn ask(node: &mut Node, sql: &str) -> Vec<String> {
    lines(&node.run(sql).await)
}

fn record(key: Option<&str>, value: &str) -> Record {
    Record { timestamp_ms: 1, key: key.map(str::to_owned), value: Some(value.to_owned()), headers: Vec::new() }
}

/// Keys and values of a topic as text.
fn bytes_of(topic: &str) -> String {
    format!("SELECT arrow_cast(_key, 'Utf8'), arrow_cast(_value, 'Utf8') FROM topics.\"{topic}\" ORDER BY _offset")
}

#[tokio::test]
async fn a_delimited_topic_is_read_written_and_kept_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path()).await;
    node.run(
        "CREATE STREAM orders (id INT KEY, customer STRING, total DECIMAL(8, 2), paid BOOLEAN, at TIMESTAMP)
         WITH (format = 'delimited', value_delimiter = '|', partitions = 1)",
    )
    .await;
    node.append(
        "orders",
        0,
        &[
            record(Some("1"), "Ann|5.5|true|2024-01-01T00:00:00Z"),
            record(Some("2"), "\"a|b\"|x|true"),
            record(None, "Bob||FALSE"),
        ],
    )
    .await;
    node.run("INSERT INTO orders VALUES (3, 'C|D', 1, NULL, '2024-01-02 00:00:00'), (4, '', NULL, true, NULL)").await;
    let all = "SELECT * FROM orders ORDER BY rowoffset";
    let expected = [
        "1|Ann|5.50|true|2024-01-01T00:00:00",
        "NULL|Bob|NULL|false|NULL",
        "3|C|D|1.00|NULL|2024-01-02T00:00:00",
        "4||NULL|true|NULL",
    ];
    assert_eq!(ask(&mut node, all).await, expected);
    let written = ask(&mut node, &bytes_of("orders")).await;
    assert_eq!(written[3..], ["3|\"C|D\"|1.00||1704153600000", "4|\"\"||true|"]);
    let errors = "SELECT column_name, error FROM aquifer.decode_errors";
    assert_eq!(ask(&mut node, errors).await, ["total|'x' is not a number, DECIMAL(8, 2) was expected"]);

    node.run(
        "CREATE TABLE per_customer WITH (value_format = 'delimited', value_delimiter = 'TAB') AS
              SELECT customer, count(*) AS n, sum(total) AS total FROM orders GROUP BY customer",
    )
    .await;
    node.caught_up().await;
    let table = "SELECT * FROM per_customer ORDER BY customer";
    assert_eq!(ask(&mut node, table).await, ["|1|NULL", "Ann|1|5.50", "Bob|1|NULL", "C|D|1|1.00"]);
    let values = ask(&mut node, &bytes_of("per_customer")).await;
    assert!(values.contains(&"Bob|1\t".to_owned()) && values.contains(&"Ann|1\t5.50".to_owned()), "{values:?}");
    node.close().await;
    // The declaration is read again after a restart.
    let mut node = Node::open(dir.path()).await;
    assert_eq!(ask(&mut node, all).await, expected);
    assert_eq!(ask(&mut node, "SHOW STREAMS").await, ["orders|orders|delimited|delimited (delimiter |)|NULL"]);
    node.close().await;
}

#[tokio::test]
async fn primitive_raw_and_bare_json_values_are_one_column() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path()).await;
    node.run("CREATE STREAM n (k STRING KEY, v BIGINT) WITH (value_format = 'kafka', partitions = 1)").await;
    node.run("INSERT INTO n VALUES ('a', 258), ('b', -1)").await;
    assert_eq!(ask(&mut node, "SELECT * FROM n ORDER BY k").await, ["a|258", "b|-1"]);
    let bytes = "SELECT encode(_value, 'hex') FROM topics.n ORDER BY _offset";
    assert_eq!(ask(&mut node, bytes).await, ["0000000000000102", "ffffffffffffffff"]);
    assert_eq!(node.refused("INSERT INTO n VALUES ('c', NULL)").await.state.code(), "23502");

    node.run("CREATE STREAM raw (v BYTES) WITH (kafka_topic = 'n', value_format = 'raw')").await;
    assert_eq!(
        ask(&mut node, "SELECT encode(v, 'hex') FROM raw ORDER BY rowoffset LIMIT 1").await,
        ["0000000000000102"]
    );

    node.run("CREATE STREAM bare (v ARRAY<INT>) WITH (wrap_single_value = false, partitions = 1)").await;
    for value in ["ARRAY[1, 2]", "NULL", "'{3,NULL}'"] {
        node.run(&format!("INSERT INTO bare VALUES ({value})")).await;
    }
    assert_eq!(ask(&mut node, "SELECT * FROM bare ORDER BY rowoffset").await, ["[1, 2]", "NULL", "[3, ]"]);
    assert_eq!(ask(&mut node, &bytes_of("bare")).await, ["NULL|[1,2]", "NULL|null", "NULL|[3,null]"]);

    node.run("CREATE TABLE counts WITH (value_format = 'kafka') AS SELECT k, count(*) AS c FROM n GROUP BY k").await;
    node.caught_up().await;
    assert_eq!(ask(&mut node, "SELECT * FROM counts ORDER BY k").await, ["a|1", "b|1"]);
    let nullable = "CREATE TABLE highest WITH (value_format = 'kafka') AS SELECT k, max(v) AS m FROM n GROUP BY k";
    let error = node.refused(nullable).await;
    assert_eq!((error.state.code(), error.message.contains("may be NULL")), ("42611", true), "{error}");

    for (sql, code) in [
        ("CREATE STREAM x (v STRING) WITH (value_format = 'avro')", "0A000"),
        ("CREATE STREAM x (v STRING) WITH (format = 'protobuf')", "0A000"),
        ("CREATE STREAM x (v STRING) WITH (key_format = 'json_sr')", "0A000"),
        ("CREATE STREAM x (v STRING) WITH (value_format = 'raw')", "42611"),
        ("CREATE STREAM x (a ARRAY<INT>) WITH (value_format = 'delimited')", "42611"),
        ("CREATE STREAM x (a INT) WITH (value_delimiter = ',')", "22023"),
        ("CREATE TABLE x (k INT PRIMARY KEY) WITH (value_format = 'none')", "42611"),
    ] {
        let error = node.refused(sql).await;
        assert_eq!(error.state.code(), code, "{sql}: {error}");
        assert!(error.position.is_some() || error.hint.is_some(), "{sql}");
    }
    node.close().await;
}

#[tokio::test]
async fn nested_values_are_written_by_name_and_taken_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path()).await;
    node.run(
        "CREATE STREAM s (id INT KEY, address STRUCT<city VARCHAR(5), zip INT, tags text[]>, counts MAP<STRING, BIGINT>,
                          points ARRAY<STRUCT<x DOUBLE, y DOUBLE>>, doc jsonb) WITH (partitions = 1)",
    )
    .await;
    node.run(
        "INSERT INTO s VALUES (1, STRUCT(zip := 5, city := 'Rome', tags := ARRAY['a', 'b']), MAP('k' := 1, 'l' := 2),
                               ARRAY[STRUCT(x := 1.5, y := 2)], '{\"a\": [1, {\"b\": null}]}')",
    )
    .await;
    node.run("INSERT INTO s (id, address, counts, points) VALUES (2, '{\"zip\": 7}', '{\"m\": 3}', '[{\"x\": 1}]')")
        .await;
    assert_eq!(
        ask(
            &mut node,
            "SELECT address->city, (address).zip, address->tags[2], counts['l'], points[1]->x FROM s ORDER BY id"
        )
        .await,
        ["Rome|5|b|2|1.5", "NULL|7|NULL|NULL|1"]
    );
    let written = ask(&mut node, &bytes_of("s")).await;
    let first = r#"{"address":{"city":"Rome","zip":5,"tags":["a","b"]},"counts":{"k":1,"l":2},"points":[{"x":1.5,"y":2.0}],"doc":{"a": [1, {"b": null}]}}"#;
    assert!(written[0].ends_with(first), "{}", written[0]);
    for (sql, code) in [
        ("INSERT INTO s (id, address) VALUES (3, STRUCT(town := 'x'))", "42804"),
        ("INSERT INTO s (id, address) VALUES (3, STRUCT(zip := 'x'))", "22P02"),
        ("INSERT INTO s (id, address) VALUES (3, STRUCT(city := 'Istanbul'))", "22001"),
        ("INSERT INTO s (id, counts) VALUES (3, '[1]')", "22P02"),
    ] {
        let error = node.refused(sql).await;
        assert_eq!(error.state.code(), code, "{sql}: {error}");
    }
    assert_eq!(
        ask(&mut node, "DESCRIBE s").await[1],
        "address|STRUCT<city VARCHAR(5), zip INT, tags ARRAY<STRING>>|NULL"
    );
    // A filter passes on what is longer than SQL would write.
    node.append("s", 0, &[record(None, "{\"address\": {\"city\": \"Constantinople\"}}")]).await;
    node.run("CREATE STREAM cities AS SELECT address->city AS city, address FROM s WHERE address->city IS NOT NULL")
        .await;
    node.caught_up().await;
    assert_eq!(ask(&mut node, "SELECT city FROM cities ORDER BY city").await, ["Constantinople", "Rome"]);
    node.close().await;
}

#[tokio::test]
async fn json_operators_and_functions_answer_as_in_postgres() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path()).await;
    node.run("CREATE STREAM s (doc jsonb) WITH (partitions = 1)").await;
    let values: Vec<Record> =
        [r#"{"doc": {"a": {"b": [1, "x"]}, "tags": ["p", "q"], "n": 1.0}}"#, r#"{"doc": [1, 2]}"#, "{}"]
            .into_iter()
            .map(|value| record(None, value))
            .collect();
    node.append("s", 0, &values).await;
    for (expression, expected) in [
        ("doc @> '{\"n\": 1}'", ["true", "false", "NULL"]),
        ("'[1]'::jsonb <@ doc", ["false", "true", "NULL"]),
        ("doc ? 'tags'", ["true", "false", "NULL"]),
        ("doc ?| array['z', 'a']", ["true", "false", "NULL"]),
        ("doc ?& '{a,z}'", ["false", "false", "NULL"]),
        ("jsonb_typeof(doc)", ["object", "array", "NULL"]),
        ("jsonb_array_length(doc->'tags')", ["2", "NULL", "NULL"]),
        ("doc #> '{a,b}'", ["[1, \"x\"]", "NULL", "NULL"]),
        ("doc #>> '{a,b,1}'", ["x", "NULL", "NULL"]),
        ("doc->'a'->'b'->>1", ["x", "NULL", "NULL"]),
        ("jsonb_extract_path_text(doc, 'a', 'b', '1')", ["x", "NULL", "NULL"]),
        ("extractjsonfield(doc, '$.a.b[0]')", ["1", "NULL", "NULL"]),
    ] {
        let sql = format!("SELECT {expression} FROM s ORDER BY rowoffset");
        assert_eq!(ask(&mut node, &sql).await, expected, "{expression}");
    }
    let unfold = "SELECT jsonb_array_elements_text(doc->'tags') AS tag FROM s WHERE doc ? 'tags'";
    assert_eq!(ask(&mut node, unfold).await, ["p", "q"]);
    let keys = "SELECT jsonb_object_keys('{\"b\": 1, \"a\": 2}')";
    assert_eq!(ask(&mut node, keys).await, ["b", "a"]);
    for (sql, code) in [
        ("SELECT jsonb_array_length('{}'::jsonb)", "22023"),
        ("SELECT doc @> 'x' FROM s", "22P02"),
        ("SELECT jsonb_path_query(doc, '$.a') FROM s", "0A000"),
        ("SELECT doc @? '$.a' FROM s", "0A000"),
        ("SELECT extractjsonfield('{}', 'a')", "22023"),
        ("SELECT jsonb_typeof(5)", "42883"),
    ] {
        let error = node.refused(sql).await;
        assert_eq!(error.state.code(), code, "{sql}: {error}");
    }
    // The same in a query that goes on.
    node.run("CREATE STREAM tagged AS SELECT doc->>'n' AS n FROM s WHERE doc @> '{\"tags\": [\"q\"]}'").await;
    node.caught_up().await;
    assert_eq!(ask(&mut node, "SELECT * FROM tagged").await, ["1.0"]);
    node.close().await;
}

#[tokio::test]
async fn old_and_new_records_are_read_by_a_declaration_that_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path()).await;
    node.run("CREATE STREAM s (id INT KEY, Amount INT, name VARCHAR(3)) WITH (partitions = 1)").await;
    node.run("INSERT INTO s VALUES (1, 5, 'old')").await;
    node.run("CHECKPOINT").await;
    node.run("ALTER STREAM s ADD COLUMN note STRING, ADD tags text[], ALTER COLUMN amount TYPE BIGINT").await;
    node.run("ALTER STREAM s ALTER COLUMN name TYPE varchar(10), RENAME COLUMN amount TO total").await;
    node.run("INSERT INTO s VALUES (2, 5000000000, 'longer', 'n', ARRAY['t'])").await;
    let all = "SELECT * FROM s ORDER BY id";
    let expected = ["1|5|old|NULL|NULL", "2|5000000000|longer|n|[t]"];
    assert_eq!(ask(&mut node, all).await, expected);
    let written = ask(&mut node, &bytes_of("s")).await;
    assert!(written[1].contains("\"Amount\":5000000000"), "the field keeps its name: {}", written[1]);
    let shown = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'name'
                 AND attrelid = (SELECT oid FROM pg_class WHERE relname = 's')";
    assert_eq!(ask(&mut node, shown).await, ["character varying(10)"]);
    let length = "SELECT character_maximum_length FROM information_schema.columns WHERE table_name = 's' AND column_name = 'name'";
    assert_eq!(ask(&mut node, length).await, ["10"]);
    node.run("ALTER STREAM s DROP COLUMN tags, RENAME TO renamed").await;
    node.close().await;
    let mut node = Node::open(dir.path()).await;
    assert_eq!(ask(&mut node, "SELECT * FROM renamed ORDER BY id").await, ["1|5|old|NULL", "2|5000000000|longer|n"]);
    assert_eq!(node.refused("SELECT * FROM s").await.state.code(), "42P01");

    node.run("CREATE TABLE other (k INT PRIMARY KEY, v BIGINT)").await;
    for (sql, code) in [
        ("ALTER STREAM renamed ALTER total TYPE INT", "42804"),
        ("ALTER STREAM renamed ALTER name TYPE varchar(2)", "42804"),
        ("ALTER TABLE other ALTER k TYPE BIGINT", "42804"),
        ("ALTER STREAM renamed ADD note STRING", "42701"),
        ("ALTER STREAM renamed DROP nope", "42703"),
        ("ALTER STREAM renamed DROP id", "42611"),
        ("ALTER STREAM renamed RENAME note TO name", "42701"),
        ("ALTER STREAM renamed RENAME TO other", "42P07"),
        ("ALTER TABLE renamed ADD x INT", "42809"),
        ("ALTER STREAM nope ADD x INT", "42P01"),
        ("ALTER STREAM renamed ADD y INT, DROP nope", "42703"),
    ] {
        let error = node.refused(sql).await;
        assert_eq!(error.state.code(), code, "{sql}: {error}");
    }
    assert_eq!(ask(&mut node, "DESCRIBE renamed").await.len(), 4, "a statement changes all or nothing");
    node.run("ALTER STREAM IF EXISTS nope ADD x INT").await;
    node.run("ALTER STREAM renamed ADD IF NOT EXISTS note STRING, DROP COLUMN IF EXISTS nope").await;
    node.close().await;
}

#[tokio::test]
async fn a_query_that_goes_on_keeps_the_schema_it_was_made_with() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path()).await;
    node.run("CREATE STREAM s (k STRING KEY, x INT, y STRING) WITH (partitions = 1)").await;
    node.run("CREATE STREAM copy AS SELECT * FROM s").await;
    node.run("CREATE TABLE sums AS SELECT k, sum(x) AS total FROM s GROUP BY k").await;
    node.run("INSERT INTO s VALUES ('a', 1, 'old')").await;
    node.caught_up().await;
    node.run("ALTER STREAM s ADD z INT, RENAME x TO amount, DROP y").await;
    node.run("INSERT INTO s VALUES ('a', 2, 3)").await;
    // It does not read as the column added later, which is no matter to who was there before.
    node.append("s", 0, &[record(Some("b"), "{\"x\": 4, \"z\": \"many\"}")]).await;
    for restarted in [false, true] {
        if restarted {
            node.close().await;
            node = Node::open(dir.path()).await;
            node.run("INSERT INTO s VALUES ('b', 5, NULL)").await;
        }
        node.caught_up().await;
        let sums = if restarted { ["a|3", "b|9"] } else { ["a|3", "b|4"] };
        assert_eq!(ask(&mut node, "SELECT * FROM sums ORDER BY k").await, sums, "restarted: {restarted}");
    }
    let copy = ["a|1|old", "a|2|NULL", "b|4|NULL", "b|5|NULL"];
    assert_eq!(ask(&mut node, "SELECT * FROM copy ORDER BY k, x").await, copy);
    assert_eq!(ask(&mut node, "SELECT * FROM s ORDER BY amount").await, ["a|1|NULL", "a|2|3", "b|5|NULL"]);

    for (sql, query) in [
        ("ALTER STREAM s RENAME TO t", "copy"),
        ("ALTER STREAM copy ADD z INT", "copy"),
        ("CREATE OR REPLACE STREAM s (k STRING KEY) WITH (kafka_topic = 'elsewhere')", "copy"),
    ] {
        let error = node.refused(sql).await;
        assert_eq!((error.state.code(), error.message.contains(query)), ("55006", true), "{sql}: {error}");
        assert!(error.hint.is_some());
    }
    node.run("CREATE OR REPLACE STREAM s (k STRING KEY, x BIGINT) WITH (kafka_topic = 's')").await;
    node.run("INSERT INTO s VALUES ('c', 7)").await;
    node.caught_up().await;
    assert_eq!(ask(&mut node, "SELECT * FROM sums WHERE k = 'c'").await, ["c|7"]);
    assert_eq!(ask(&mut node, "SELECT count(*), max(x) FROM s").await, ["5|7"]);
    node.close().await;
}

#[tokio::test]
async fn create_or_replace_changes_a_declaration_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path()).await;
    node.run("CREATE OR REPLACE STREAM s (a INT) WITH (kafka_topic = 'x', partitions = 1)").await;
    node.run("INSERT INTO s VALUES (1)").await;
    let oid = "SELECT oid FROM pg_class WHERE relname = 's'";
    let before = ask(&mut node, oid).await;
    node.run("CREATE OR REPLACE STREAM s (a STRING, b INT)").await;
    assert_eq!(ask(&mut node, "SELECT * FROM s").await, ["1|NULL"], "over the topic it had");
    assert_eq!(ask(&mut node, oid).await, before);
    for (sql, code) in [
        ("CREATE OR REPLACE TABLE s (a INT PRIMARY KEY)", "42809"),
        ("CREATE OR REPLACE STREAM IF NOT EXISTS s (a INT)", "42601"),
        ("CREATE OR REPLACE STREAM s AS SELECT 1", "0A000"),
        ("CREATE OR REPLACE MATERIALIZED VIEW s AS SELECT 1", "0A000"),
    ] {
        let error = node.refused(sql).await;
        assert_eq!(error.state.code(), code, "{sql}: {error}");
    }
    node.close().await;
}

#[tokio::test]
async fn columns_that_nobody_declares_are_those_of_a_sample() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path()).await;
    node.run("CREATE STREAM holder (a INT) WITH (kafka_topic = 'events', partitions = 2)").await;
    let error = node.refused("CREATE STREAM s WITH (kafka_topic = 'events', value_format = 'json')").await;
    assert_eq!((error.state.code(), error.hint.is_some()), ("55000", true), "{error}");
    node.append(
        "events",
        0,
        &[
            record(
                Some("k1"),
                r#"{"userId": 1, "at": "2024-01-01T00:00:00Z", "address": {"city": "Rome"}, "_id": "x"}"#,
            ),
            record(None, "no json"),
        ],
    )
    .await;
    node.append(
        "events",
        1,
        &[
            record(
                Some("k2"),
                r#"{"userId": 3000000000, "ratio": 1, "tags": ["a"], "address": {"city": "Oslo", "zip": 5}}"#,
            ),
            record(Some("k3"), r#"{"userId": 2, "ratio": 0.5, "mixed": 1, "at": "2024-01-02T00:00:00+01:00"}"#),
            record(Some("k4"), r#"{"mixed": "x"}"#),
        ],
    )
    .await;
    let mut session = node.session();
    let create = "CREATE STREAM s WITH (kafka_topic = 'events', value_format = 'json')";
    let prepared = session.prepare(&session.parse(create).unwrap()[0], &[]).await.unwrap();
    session.execute(&prepared, Vec::new()).await.unwrap();
    let notice = session.take_notices().remove(0);
    let declaration = "CREATE STREAM s (key STRING KEY, userId BIGINT, at TIMESTAMPTZ, \
                       address STRUCT<city STRING, zip BIGINT>, ratio DOUBLE, tags ARRAY<STRING>, mixed STRING) \
                       WITH (kafka_topic = 'events', value_format = 'json')";
    assert!(notice.message.ends_with(declaration), "{}", notice.message);
    assert!(notice.detail.unwrap().ends_with("_id"));
    assert_eq!(notice.state.code(), "00000");
    let described = ask(&mut node, "DESCRIBE s").await;
    assert_eq!(described[0], "key|text|KEY");
    assert_eq!(described[3], "address|STRUCT<city STRING, zip BIGINT>|NULL");
    assert_eq!(
        ask(&mut node, "SELECT key, userid, address->city, mixed FROM s ORDER BY key").await,
        ["k1|1|Rome|NULL", "k2|3000000000|Oslo|NULL", "k3|2|NULL|1", "k4|NULL|NULL|x"]
    );
    // The statement shown can be run as it is.
    node.run(&declaration.replacen("CREATE", "CREATE OR REPLACE", 1)).await;
    node.run("CREATE TABLE t WITH (kafka_topic = 'events')").await;
    assert_eq!(ask(&mut node, "DESCRIBE t").await[0], "key|text|PRIMARY KEY");
    for (sql, code) in [
        ("CREATE STREAM x WITH (kafka_topic = 'nope')", "42P01"),
        ("CREATE STREAM x WITH (kafka_topic = 'events', value_format = 'delimited')", "0A000"),
        ("CREATE STREAM x WITH (kafka_topic = 'events', key_format = 'json')", "55000"),
        ("CREATE STREAM s WITH (kafka_topic = 'events')", "42P07"),
        ("CREATE STREAM x", "42601"),
    ] {
        let error = node.refused(sql).await;
        assert_eq!(error.state.code(), code, "{sql}: {error}");
    }
    node.close().await;
}

#[tokio::test]
async fn a_sum_of_bigint_is_numeric_and_never_wraps() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path()).await;
    node.run("CREATE STREAM s (k STRING KEY, x BIGINT, i INT, d DOUBLE) WITH (partitions = 1)").await;
    let select = "SELECT k, sum(x) AS sx, sum(i) AS si, sum(d) AS sd FROM s GROUP BY k";
    node.run(&format!("CREATE TABLE sums AS {select}")).await;
    node.run("INSERT INTO s VALUES ('a', 9223372036854775807, 1, 0.5), ('a', 9223372036854775807, 2, 1)").await;
    node.run("INSERT INTO s VALUES ('n', NULL, NULL, 'NaN'), ('f', 1, 1, 'Infinity')").await;
    node.caught_up().await;
    let mut expected = ["a|18446744073709551614|3|1.5", "f|1|1|inf", "n|NULL|NULL|NaN"];
    for sql in ["SELECT * FROM sums ORDER BY k".to_owned(), format!("{select} ORDER BY k")] {
        assert_eq!(ask(&mut node, &sql).await, expected, "{sql}");
    }
    // JSON has no such numbers; their words stand for them, and the query goes on.
    let values = ask(&mut node, &bytes_of("sums")).await;
    assert!(values.iter().any(|value| value.ends_with("\"sd\":\"NaN\"}")), "{values:?}");
    node.run("INSERT INTO s VALUES ('f', 0, 0, '-Infinity')").await;
    node.caught_up().await;
    expected[1] = "f|1|1|NaN";
    assert_eq!(ask(&mut node, "SELECT * FROM sums ORDER BY k").await, expected);
    assert_eq!(
        ask(&mut node, "SELECT sum(x) OVER (ORDER BY x) FROM s WHERE k = 'a' LIMIT 1").await,
        ["18446744073709551614"]
    );
    assert_eq!(node.refused("SELECT sum(k) FROM s").await.state.code(), "42883");
    node.close().await;
}

#[tokio::test]
async fn a_table_whose_sums_were_declared_bigint_goes_on_and_says_when_one_leaves_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path()).await;
    node.run("CREATE STREAM s (k STRING KEY, x BIGINT) WITH (partitions = 1)").await;
    node.run("CREATE TABLE sums AS SELECT k, sum(x) AS total FROM s GROUP BY k").await;
    node.run("INSERT INTO s VALUES ('a', 5)").await;
    node.caught_up().await;
    // As versions before this one stored it.
    let stored = node.storage.definitions("relation").into_iter().find(|stored| stored.name == "sums").unwrap();
    let now = String::from_utf8(stored.value.to_vec()).unwrap();
    let earlier = now.replace(r#"{"decimal":{"precision":38,"scale":0}}"#, r#""big_int""#);
    assert_ne!(earlier, now);
    let change = DefinitionChange {
        kind: stored.kind.clone(),
        name: stored.name.clone(),
        value: Some(earlier.into()),
        holds: stored.holds.clone(),
        expect: Expect::Present,
    };
    node.storage.commit(Commit { definitions: vec![change], ..Commit::default() }).await.unwrap();
    node.close().await;
    let mut node = Node::open(dir.path()).await;
    node.run("INSERT INTO s VALUES ('a', 6)").await;
    node.caught_up().await;
    assert_eq!(ask(&mut node, "SELECT * FROM sums").await, ["a|11"]);
    node.run("INSERT INTO s VALUES ('a', 9223372036854775807)").await;
    eventually("the query stops rather than show another number", async || {
        ask(&mut node, "SELECT state FROM aquifer.queries").await == ["error"]
    })
    .await;
    assert_eq!(ask(&mut node, "SELECT * FROM sums").await, ["a|11"]);
    node.close().await;
}
