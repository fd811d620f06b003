//! What statements answer.

use aquifer_sql::session::TransactionStatus;
use datafusion::common::ScalarValue;

use crate::support::{Node, fails, lines_of, run, run_sorted};

#[tokio::test]
async fn a_select_without_a_relation_answers_with_postgres_s_names() {
    let node = Node::start().await;
    let mut session = node.session();
    assert_eq!(run(&mut session, "SELECT 1, 'a', 1.5, NULL").await.unwrap(), ["1|a|1.5|NULL"]);
    let statement = session.parse("SELECT 1, count(*), 2, now()").unwrap().remove(0);
    let prepared = session.prepare(&statement, &[]).await.unwrap();
    let columns = prepared.columns.unwrap();
    assert_eq!(columns.last().map(|now| now.oid), Some(1184), "now() is a timestamptz");
    let names: Vec<_> = columns.into_iter().map(|column| column.name).collect();
    assert_eq!(names, ["?column?", "count", "?column?", "now"]);
}

#[tokio::test]
async fn a_plain_postgres_table_takes_rows_and_gives_them_back() {
    let node = Node::start().await;
    let mut session = node.session();
    assert_eq!(run(&mut session, "CREATE TABLE t (a bigint, b text)").await.unwrap(), ["CREATE TABLE"]);
    assert_eq!(run(&mut session, "INSERT INTO t VALUES (1, 'x'), (2, NULL)").await.unwrap(), ["INSERT 0 2"]);
    assert_eq!(run(&mut session, "SELECT * FROM t ORDER BY a").await.unwrap(), ["1|x", "2|NULL"]);
    assert_eq!(run(&mut session, "SELECT count(*), sum(a) FROM t").await.unwrap(), ["2|3"]);
    let node = node.restart().await;
    assert_eq!(run(&mut node.session(), "SELECT * FROM t ORDER BY a").await.unwrap(), ["1|x", "2|NULL"]);
}

#[tokio::test]
async fn a_table_with_a_primary_key_shows_the_latest_row_per_key() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE users (id text PRIMARY KEY, name text, age int)").await.unwrap();
    run(
        &mut session,
        "INSERT INTO users VALUES ('a', 'Ann', 1), ('b', 'Bob', 2); INSERT INTO users VALUES ('a', 'Ada', 3)",
    )
    .await
    .unwrap();
    assert_eq!(run_sorted(&mut session, "SELECT * FROM users").await.unwrap(), ["a|Ada|3", "b|Bob|2"]);
    assert_eq!(run(&mut session, "SELECT count(*) FROM users").await.unwrap(), ["2"]);
    assert_eq!(run(&mut session, "DELETE FROM users WHERE id = 'b'").await.unwrap(), ["DELETE 1"]);
    assert_eq!(run(&mut session, "SELECT name FROM users").await.unwrap(), ["Ada"]);
    assert_eq!(run(&mut session, "DELETE FROM users WHERE age > 2").await.unwrap(), ["DELETE 1"]);
    assert_eq!(run(&mut session, "SELECT count(*) FROM users").await.unwrap(), ["0"]);
    let error = fails(&mut session, "INSERT INTO users VALUES (NULL, 'x', 1)").await;
    assert_eq!(error.state.code(), "23502");
}

#[tokio::test]
async fn hidden_columns_answer_without_being_shown() {
    let node = Node::start().await;
    let mut session = node.session();
    run(
        &mut session,
        "CREATE STREAM s (id text KEY, v int) WITH (kafka_topic = 'events', value_format = 'json', partitions = 1)",
    )
    .await
    .unwrap();
    run(&mut session, "INSERT INTO s (id, v, rowtime) VALUES ('k', 5, 1000), ('l', 6, 2000)").await.unwrap();
    assert_eq!(run(&mut session, "SELECT * FROM s ORDER BY v").await.unwrap(), ["k|5", "l|6"]);
    assert_eq!(
        run(&mut session, "SELECT *, _offset, rowtime, _key FROM s ORDER BY rowoffset").await.unwrap(),
        ["k|5|0|1000|6b", "l|6|1|2000|6c"]
    );
    assert_eq!(run(&mut session, "SELECT v FROM s WHERE _offset >= 1").await.unwrap(), ["6"]);
    assert_eq!(run(&mut session, "SELECT v FROM s WHERE rowtime < 2000").await.unwrap(), ["5"]);
    assert_eq!(
        run(&mut session, "SELECT _partition, _offset, _headers FROM topics.events ORDER BY 2").await.unwrap(),
        ["0|0|[]", "0|1|[]"]
    );
}

#[tokio::test]
async fn a_block_commits_its_inserts_together_or_drops_them() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE t (a int)").await.unwrap();
    run(&mut session, "BEGIN; INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(session.transaction_status(), TransactionStatus::InBlock);
    assert_eq!(run(&mut node.session(), "SELECT count(*) FROM t").await.unwrap(), ["0"]);
    run(&mut session, "ROLLBACK").await.unwrap();
    assert_eq!(run(&mut session, "SELECT count(*) FROM t").await.unwrap(), ["0"]);
    run(&mut session, "BEGIN; INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); COMMIT").await.unwrap();
    assert_eq!(run(&mut session, "SELECT count(*) FROM t").await.unwrap(), ["2"]);
    run(&mut session, "BEGIN; INSERT INTO t VALUES (3)").await.unwrap();
    let error = fails(&mut session, "SELECT nope FROM t").await;
    assert_eq!(error.state.code(), "42703");
    session.fail_transaction();
    assert_eq!(fails(&mut session, "SELECT 1").await.state.code(), "25P02");
    assert_eq!(run(&mut session, "COMMIT").await.unwrap(), ["ROLLBACK"]);
    assert_eq!(run(&mut session, "SELECT count(*) FROM t").await.unwrap(), ["2"]);
}

#[tokio::test]
async fn parameters_have_the_types_of_the_columns_they_go_to() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE t (a bigint, b text)").await.unwrap();
    let insert = session.parse("INSERT INTO t VALUES ($1, $2)").unwrap().remove(0);
    let prepared = session.prepare(&insert, &[]).await.unwrap();
    assert_eq!(prepared.parameters, [arrow::datatypes::DataType::Int64, arrow::datatypes::DataType::Utf8]);
    for a in 0..3 {
        let values = vec![ScalarValue::Int64(Some(a)), ScalarValue::Utf8(Some(format!("v{a}")))];
        session.execute(&prepared, values).await.unwrap();
    }
    let select = session.parse("SELECT b FROM t WHERE a >= $1 ORDER BY a LIMIT $2").unwrap().remove(0);
    let prepared = session.prepare(&select, &[]).await.unwrap();
    assert_eq!(prepared.parameters, [arrow::datatypes::DataType::Int64, arrow::datatypes::DataType::Int64]);
    let values = vec![ScalarValue::Int64(Some(1)), ScalarValue::Int64(Some(1))];
    let outcome = session.execute(&prepared, values).await.unwrap();
    assert_eq!(lines_of(outcome).await.unwrap(), ["v1"]);
}

#[tokio::test]
async fn errors_have_code_position_and_hint() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE t (a int, b text)").await.unwrap();
    let cases = [
        ("SELEC 1", "42601"),
        ("SELECT * FROM nope", "42P01"),
        ("SELECT c FROM t", "42703"),
        ("SELECT nope(a) FROM t", "42883"),
        ("SELECT 1/0", "22012"),
        ("SELECT 9223372036854775807 + 1", "22003"),
        ("SELECT a * 2147483648 * 4294967296 FROM (VALUES (1)) v(a)", "22003"),
        ("SELECT EXISTS (SELECT 1)", "0A000"),
        ("SELECT 'a' SIMILAR TO 'b'", "0A000"),
        ("SELECT 'x'::int", "22P02"),
        ("SELECT a, count(*) FROM t", "42803"),
        ("SHOW nope", "42704"),
        ("SET nope = 1", "42704"),
        ("UPDATE t SET a = 1", "0A000"),
        ("SAVEPOINT x", "25P01"),
        ("CREATE TABLE t (a int)", "42P07"),
        ("CREATE STREAM x (a char(3))", "0A000"),
        ("CREATE STREAM x (a varchar(0))", "22023"),
        ("CREATE STREAM x (_a int)", "42602"),
        ("CREATE STREAM x (a nope)", "42704"),
        ("INSERT INTO t (nope) VALUES (1)", "42703"),
        ("INSERT INTO t VALUES (1, 'a', 2)", "42601"),
        ("INSERT INTO t VALUES ('x', 'a')", "22P02"),
        ("INSERT INTO t VALUES (3000000000, 'a')", "22003"),
        ("DROP TABLE nope", "42P01"),
        ("DROP STREAM t", "42809"),
        ("CREATE STREAM x (a int) WITH (kafka_topic = 't', partitions = 7)", "22023"),
        ("DELETE FROM t", "0A000"),
    ];
    for (sql, code) in cases {
        let error = fails(&mut session, sql).await;
        assert_eq!(error.state.code(), code, "{sql}: {error}");
        assert!(!error.message.contains("Error") && !error.message.contains('{'), "{sql}: {error}");
    }
    assert_eq!(fails(&mut session, "SELECT * FROM nope").await.position, Some(15));
    assert_eq!(fails(&mut session, "SELECT a,\n  c FROM t").await.position, Some(13));
}

#[tokio::test]
async fn dropping_leaves_the_topic_unless_told_and_a_stream_over_a_deleted_topic_says_so() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (a int) WITH (kafka_topic = 'x'); DROP STREAM s").await.unwrap();
    assert!(node.storage.topic("x").is_some());
    run(&mut session, "CREATE STREAM s (a int) WITH (kafka_topic = 'x')").await.unwrap();
    node.storage.delete_topic(node.storage.topic("x").unwrap().id).await.unwrap();
    let error = fails(&mut session, "SELECT * FROM s").await;
    assert_eq!(error.state.code(), "55000");
    assert!(error.hint.unwrap().contains("DROP STREAM"));
    run(&mut session, "DROP STREAM s; CREATE TABLE t (a int); DROP TABLE t DELETE TOPIC").await.unwrap();
    assert!(node.storage.topic("t").is_none());
    assert_eq!(run(&mut session, "DROP TABLE IF EXISTS t").await.unwrap(), ["DROP TABLE"]);
    assert_eq!(session.take_notices().len(), 1);
    run(&mut session, "BEGIN; CREATE TABLE t (a int); ROLLBACK").await.unwrap();
    assert!(node.storage.topic("t").is_some(), "definitions take effect at once");
    let states: Vec<_> = session.take_notices().iter().map(|notice| notice.state.code()).collect();
    assert_eq!(states, ["00000"], "a NOTICE, not the warning of 25001");
}

#[tokio::test]
async fn lists_and_the_system_schema_answer() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (id text KEY, v int) WITH (kafka_topic = 'x', partitions = 2)").await.unwrap();
    run(&mut session, "INSERT INTO s VALUES ('a', 1), ('b', 2)").await.unwrap();
    assert_eq!(run(&mut session, "SHOW TOPICS").await.unwrap(), ["x|2|delete|-1|"]);
    assert_eq!(run(&mut session, "SHOW STREAMS").await.unwrap(), ["s|x|kafka|json|NULL"]);
    assert!(run(&mut session, "SHOW TABLES").await.unwrap().is_empty());
    assert!(run(&mut session, "SHOW QUERIES").await.unwrap().is_empty());
    assert_eq!(run(&mut session, "DESCRIBE s").await.unwrap(), ["id|text|KEY", "v|integer|NULL"]);
    assert_eq!(
        run(&mut session, "SELECT sum(high_watermark) FROM aquifer.partitions WHERE topic = 'x'").await.unwrap(),
        ["2"]
    );
    for table in [
        "topics",
        "segments",
        "objects",
        "object_store",
        "caches",
        "lost",
        "traffic",
        "consumer_groups",
        "consumer_lag",
        "queries",
        "decode_errors",
        "transactions",
        "producers",
    ] {
        run(&mut session, &format!("SELECT * FROM aquifer.{table}")).await.unwrap();
    }
    assert_eq!(
        run(&mut session, "SELECT value, unit FROM aquifer.settings WHERE name = 'topic.partitions'").await.unwrap(),
        ["3|partitions"]
    );
    assert_eq!(run(&mut session, "SHOW server_version").await.unwrap(), ["15.18"]);
    assert!(run(&mut session, "SHOW ALL").await.unwrap().len() > 30);
    assert!(!run(&mut session, "EXPLAIN SELECT * FROM s WHERE _offset > 1").await.unwrap().is_empty());
    assert!(!run(&mut session, "EXPLAIN ANALYZE SELECT * FROM s").await.unwrap().is_empty());
}

#[tokio::test]
async fn json_and_structs_are_taken_apart_by_arrows() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (doc jsonb, address STRUCT<city STRING, zip INT>)").await.unwrap();
    run(
        &mut session,
        "INSERT INTO s VALUES ('{\"a\": {\"b\": 7}, \"c\": \"x\"}', named_struct('city', 'Rome', 'zip', 5))",
    )
    .await
    .unwrap();
    assert_eq!(
        run(&mut session, "SELECT doc->'a'->>'b', doc->'c', doc->>'c', (doc->'a'->'b')::int + 1 FROM s").await.unwrap(),
        ["7|\"x\"|x|8"]
    );
    assert_eq!(run(&mut session, "SELECT address->city, address->'zip' FROM s").await.unwrap(), ["Rome|5"]);
}

#[tokio::test]
async fn records_that_do_not_decode_are_skipped_and_noted_once() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM raw (v text) WITH (kafka_topic = 'x', partitions = 1)").await.unwrap();
    run(&mut session, "CREATE STREAM typed (v int) WITH (kafka_topic = 'x')").await.unwrap();
    run(&mut session, "INSERT INTO raw VALUES ('1'), ('many'), ('3')").await.unwrap();
    assert_eq!(run(&mut session, "SELECT v FROM typed ORDER BY v").await.unwrap(), ["1", "3"]);
    assert_eq!(run(&mut session, "SELECT count(*) FROM typed").await.unwrap(), ["2"]);
    assert_eq!(
        run(&mut session, "SELECT stream, topic, partition, offset, column_name FROM aquifer.decode_errors")
            .await
            .unwrap(),
        ["typed|x|0|1|v"]
    );
}

#[tokio::test]
async fn copy_and_settings_and_insert_select_work() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE a (x int, y text); CREATE TABLE b (y text, x bigint)").await.unwrap();
    run(&mut session, "INSERT INTO a VALUES (1, 'p'), (2, 'q')").await.unwrap();
    assert_eq!(run(&mut session, "INSERT INTO b (x, y) SELECT x, y FROM a WHERE x > 1").await.unwrap(), ["INSERT 0 1"]);
    assert_eq!(run(&mut session, "COPY b TO STDOUT").await.unwrap(), ["q|2"]);
    assert_eq!(run(&mut session, "COPY (SELECT x FROM a ORDER BY x) TO STDOUT").await.unwrap(), ["1", "2"]);
    run(&mut session, "SET 'auto.offset.reset' = 'earliest'").await.unwrap();
    assert_eq!(run(&mut session, "SHOW auto_offset_reset").await.unwrap(), ["earliest"]);
    run(&mut session, "DISCARD ALL").await.unwrap();
    assert_eq!(run(&mut session, "SHOW auto_offset_reset").await.unwrap(), ["latest"]);
    run(&mut session, "SET statement_timeout = '1ms'").await.unwrap();
    let slow = "SELECT count(*) FROM generate_series(1, 20000) a CROSS JOIN generate_series(1, 20000) b";
    assert_eq!(fails(&mut session, slow).await.state.code(), "57014");
}

#[tokio::test]
async fn postgres_s_spelling_is_understood() {
    let node = Node::start().await;
    let mut session = node.session();
    let cases = [
        ("SELECT '\\x6162'::bytea", "6162"),
        ("SELECT mod(7, 3)", "1"),
        ("SELECT to_char(timestamp '2024-01-02 03:04:05', 'YYYY-MM-DD HH24:MI:SS')", "2024-01-02 03:04:05"),
        ("SELECT count(*) FROM (SELECT generate_series(1, 3)) x", "3"),
        ("SELECT '{\"a\":{\"b\":[1,2]}}'::jsonb #>> '{a,b,1}'", "2"),
        ("SELECT 1 AS a, 2 AS a", "1|2"),
        ("SELECT 2 + 3 * 4 - 1", "13"),
        ("SELECT count FROM (SELECT count(*) FROM (VALUES (1), (2)) v(x)) y", "2"),
    ];
    for (sql, answer) in cases {
        assert_eq!(run(&mut session, sql).await.unwrap(), [answer], "{sql}");
    }
}

#[tokio::test]
async fn a_select_reads_hot_and_cold_records_once_and_a_table_its_latest_rows_over_both() {
    let node = Node::start().await;
    let mut session = node.session();
    run(
        &mut session,
        "CREATE STREAM s (v int) WITH (kafka_topic = 'x', partitions = 2); CREATE TABLE t (k text PRIMARY KEY, v int)",
    )
    .await
    .unwrap();
    run(&mut session, "INSERT INTO s SELECT * FROM generate_series(1, 1000)").await.unwrap();
    run(&mut session, "INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3); CHECKPOINT").await.unwrap();
    run(&mut session, "INSERT INTO s SELECT * FROM generate_series(1001, 1500)").await.unwrap();
    run(&mut session, "INSERT INTO t VALUES ('a', 10); DELETE FROM t WHERE k = 'b'").await.unwrap();
    let node = node.restart().await;
    let mut session = node.session();
    let all = "SELECT count(*), count(DISTINCT v), min(v), max(v), sum(v) FROM s";
    assert_eq!(run(&mut session, all).await.unwrap(), ["1500|1500|1|1500|1125750"]);
    let offsets = "SELECT count(*) FROM (SELECT DISTINCT _partition, _offset FROM topics.x) o";
    assert_eq!(run(&mut session, offsets).await.unwrap(), ["1500"]);
    assert_eq!(run_sorted(&mut session, "SELECT * FROM t").await.unwrap(), ["a|10", "c|3"]);
    assert_eq!(
        run(&mut session, "SELECT count(*) > 0 FROM aquifer.objects WHERE topic = 'x'").await.unwrap(),
        ["true"]
    );
}

#[tokio::test]
async fn an_insert_larger_than_a_commit_is_one_act() {
    let node = Node::start().await;
    let (mut session, mut other) = (node.session(), node.session());
    run(&mut session, "CREATE TABLE t (a text)").await.unwrap();
    let insert =
        |value: &str| format!("INSERT INTO t SELECT {value} || repeat('x', 10000) FROM generate_series(1, 2000) g(i)");
    // The last row fails after most of it has been written.
    fails(&mut session, &insert("(1 / (2000 - i))::text")).await;
    assert_eq!(run(&mut other, "SELECT count(*) FROM t").await.unwrap(), ["0"]);
    run(&mut session, &insert("i::text")).await.unwrap();
    assert_eq!(run(&mut other, "SELECT count(*), count(DISTINCT a) FROM t").await.unwrap(), ["2000|2000"]);

    run(&mut session, "BEGIN").await.unwrap();
    run(&mut session, &insert("i::text")).await.unwrap();
    run(&mut session, "SAVEPOINT s").await.unwrap();
    run(&mut session, &insert("i::text")).await.unwrap();
    run(&mut session, "ROLLBACK TO s").await.unwrap();
    assert_eq!(run(&mut other, "SELECT count(*) FROM t").await.unwrap(), ["2000"]);
    run(&mut session, "COMMIT").await.unwrap();
    assert_eq!(run(&mut other, "SELECT count(*) FROM t").await.unwrap(), ["4000"]);
    let node = node.restart().await;
    let mut session = node.session();
    assert_eq!(run(&mut session, "SELECT count(*) FROM t").await.unwrap(), ["4000"]);
    assert_eq!(run(&mut session, "SELECT count(*) FROM aquifer.transactions").await.unwrap(), ["0"]);
}

#[tokio::test]
async fn percentiles_of_one_column_are_taken_out_of_one_collection() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM readings (g INT, n INT)").await.unwrap();
    run(&mut session, "INSERT INTO readings SELECT i % 3, i FROM generate_series(1, 999) i").await.unwrap();
    let at = |fraction: &str| format!("percentile_cont({fraction}) WITHIN GROUP (ORDER BY n)");
    let sql = format!("SELECT g, {}, {}, max(n), {} FROM readings GROUP BY g", at("0.25"), at("0.5"), at("1"));
    let plan = run(&mut session, &format!("EXPLAIN {sql}")).await.unwrap();
    let collecting = |line: &&String| line.contains("mode=Single") || line.contains("mode=Partial");
    let collected = plan.iter().find(collecting).unwrap();
    assert_eq!(collected.matches("percentile_cont(").count(), 1, "{plan:?}");
    let found = run(&mut session, &format!("{sql} HAVING {} > 499 ORDER BY g", at("0.5"))).await.unwrap();
    assert_eq!(found, ["0|252.0|501.0|999|999.0", "2|251.0|500.0|998|998.0"]);
    for refused in ["percentile_cont(n, 0.5)", "mode(n)", "mode(n) OVER (ORDER BY g)"] {
        let error = fails(&mut session, &format!("SELECT {refused} FROM readings")).await;
        assert_eq!(error.state.code(), "42883", "{error:?}");
    }
}
