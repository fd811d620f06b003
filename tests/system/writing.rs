//! What clients write through Postgres's port: COPY as psql, psycopg and a driver send it, cut off at any point; prepared
//! INSERTs side by side.

use std::io::Cursor;

use futures::SinkExt;
use tokio_postgres::NoTls;

use crate::support::foreign::Foreign;
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::until;

#[test]
fn psql_copies_a_file_in_and_out_again() {
    let node = Node::start();
    let Some(ended) = Foreign::psql(&node, &["-c", "CREATE TABLE t (id int, name text, at timestamp)"]) else { return };
    ended.expect_success("CREATE TABLE");
    let directory = tempfile::tempdir().expect("a directory");
    let (given, taken) = (directory.path().join("in.csv"), directory.path().join("out.csv"));
    let rows: String = (0..5000).map(|id| format!("{id},\"a \"\"b\"\",\n{id}\",2024-01-31 10:00:00.5\n")).collect();
    std::fs::write(&given, format!("id,name,at\n{rows}6000,,\n")).expect("written");
    let psql =
        |command: &str| Foreign::psql(&node, &["-v", "ON_ERROR_STOP=1", "-A", "-t", "-c", command]).expect("installed");
    let copied = psql(&format!("\\copy t from '{}' csv header", given.display())).expect_success("\\copy from");
    assert_eq!(copied.trim(), "COPY 5001");
    let copy = format!("\\copy (SELECT * FROM t ORDER BY id) to '{}' with (format csv, header)", taken.display());
    psql(&copy).expect_success("\\copy to");
    let read = |path| std::fs::read_to_string(path).expect("a file");
    assert_eq!(read(&taken), read(&given));

    std::fs::write(&given, "7000,x,2024-01-31\n7001,y,never\n").expect("written");
    let failed = psql(&format!("\\copy t from '{}' csv", given.display()));
    assert!(!failed.success);
    assert!(failed.stderr.contains("COPY t, line 2, column at: \"never\""), "{}", failed.stderr);
    assert_eq!(psql("SELECT count(*) FROM t").expect_success("SELECT").trim(), "5001");
}

#[test]
fn psql_forces_quotes_and_nulls() {
    let node = Node::start();
    let psql = |command: &str| Foreign::psql(&node, &["-v", "ON_ERROR_STOP=1", "-A", "-t", "-c", command]);
    let Some(ended) = psql("CREATE TABLE t (id int, a text, b text)") else { return };
    ended.expect_success("CREATE TABLE");
    let told = |command: &str| psql(command).expect("installed").expect_success(command);
    told("INSERT INTO t VALUES (1, 'x', NULL), (2, '', 'y')");
    let copy = "\\copy (SELECT * FROM t ORDER BY id) to stdout with (format csv, header, force_quote";
    assert_eq!(told(&format!("{copy} (a, b))")), "id,a,b\n1,\"x\",\n2,\"\",\"y\"\n");
    assert_eq!(told(&format!("{copy} *)")), "id,a,b\n\"1\",\"x\",\n\"2\",\"\",\"y\"\n");
    let directory = tempfile::tempdir().expect("a directory");
    let given = directory.path().join("in.csv");
    std::fs::write(&given, "3,\"\",\n").expect("written");
    told(&format!("\\copy t from '{}' with (format csv, force_null (a), force_not_null (b))", given.display()));
    assert_eq!(told("SELECT a IS NULL, b = '' FROM t WHERE id = 3").trim(), "t|t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_a_driver_reads_its_own_writes_and_nobody_else_does() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    let other = Sql::connect(&node).await;
    sql.run("CREATE TABLE t (id bigint PRIMARY KEY, n bigint); CREATE STREAM s (id bigint, n bigint)").await;
    let mut driver = Sql::connect(&node).await;
    let mut block = driver.client.transaction().await.expect("a block");
    let insert = block.prepare("INSERT INTO t VALUES ($1, $2) RETURNING id, n").await.expect("prepared");
    let by_key = block.prepare("SELECT n FROM t WHERE id = $1").await.expect("prepared");
    for id in 0..20_i64 {
        let row = block.query_one(&insert, &[&id, &(id * 10)]).await.expect("inserted");
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (id, id * 10));
        let found = block.query_one(&by_key, &[&id]).await.expect("it is read at once");
        assert_eq!(found.get::<_, i64>(0), id * 10);
    }
    {
        // As ORMs nest: a savepoint that is given up, and one that is kept.
        let inner = block.savepoint("given_up").await.expect("a savepoint");
        inner.execute("DELETE FROM t WHERE id < 10", &[]).await.expect("deleted");
        let left: i64 = inner.query_one("SELECT count(*) FROM t", &[]).await.expect("counted").get(0);
        assert_eq!(left, 10);
        inner.execute("INSERT INTO t VALUES ('x', 1)", &[]).await.expect_err("no number");
        inner.rollback().await.expect("back to the savepoint");
        let inner = block.savepoint("kept").await.expect("a savepoint");
        inner.execute("INSERT INTO s SELECT id, n FROM t WHERE id >= 15", &[]).await.expect("inserted");
        inner.commit().await.expect("released");
    }
    let counted = block.query_one("SELECT count(*), (SELECT count(*) FROM s) FROM t", &[]).await.expect("counted");
    assert_eq!((counted.get::<_, i64>(0), counted.get::<_, i64>(1)), (20, 5));
    assert_eq!(other.number("SELECT count(*) FROM t").await, 0);
    assert_eq!(other.number("SELECT count(*) FROM s").await, 0);
    block.commit().await.expect("committed");
    assert_eq!(other.number("SELECT count(*) FROM t").await, 20);
    assert_eq!(other.number("SELECT sum(n)::bigint FROM s").await, 850);
}

#[tokio::test(flavor = "multi_thread")]
async fn upserts_of_many_connections_answer_with_the_rows_they_leave() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run("CREATE TABLE t (id bigint PRIMARY KEY, n bigint)").await;
    let writers = (0..4).map(async |_| {
        let own = Sql::connect(&node).await;
        let upsert = "INSERT INTO t VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n RETURNING n";
        let upsert = own.client.prepare(upsert).await.expect("prepared");
        let mut seen = Vec::new();
        while seen.len() < 10 {
            match own.client.query_one(&upsert, &[&7_i64]).await {
                Ok(row) => seen.push(row.get::<_, i64>(0)),
                Err(error) => assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("40001")),
            }
        }
        seen
    });
    let mut seen: Vec<i64> = futures::future::join_all(writers).await.into_iter().flatten().collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=40).collect::<Vec<i64>>(), "each count is answered once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_query_says_itself_where_it_begins() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM s (id bigint KEY, n bigint) WITH (partitions = 1)").await;
    sql.run("INSERT INTO s VALUES (1, 1), (2, 2)").await;
    let time = sql.value("SELECT max(_committed_at) FROM s").await;
    sql.run("INSERT INTO s VALUES (3, 3), (4, 4)").await;
    let push = |with: &str, count: usize| format!("SELECT n FROM s WHERE n <> 3 EMIT CHANGES {with} LIMIT {count}");
    for (with, expected) in [
        ("WITH (replay_from = 'earliest')".to_owned(), vec!["1", "2", "4"]),
        ("WITH (replay_from = '{\"0\": 1}')".to_owned(), vec!["2", "4"]),
        (format!("WITH (replay_from = '{time}')"), vec!["4"]),
    ] {
        let found: Vec<String> = sql.table(&push(&with, expected.len())).await.into_iter().flatten().collect();
        assert_eq!(found, expected, "{with}");
    }
    // What the statement says counts, whatever the session says.
    sql.run("SET aquifer.replay_from = 'latest'").await;
    let copied = sql.client.copy_out(&format!("COPY ({}) TO STDOUT", push("WITH (replay_from = 'earliest')", 3))).await;
    let mut copied = Box::pin(copied.expect("a copy"));
    let mut text = Vec::new();
    while let Some(chunk) = futures::StreamExt::next(&mut copied).await {
        text.extend_from_slice(&chunk.expect("data"));
    }
    assert_eq!(String::from_utf8_lossy(&text), "1\n2\n4\n");
    for (with, state, position) in [
        ("WITH (replay_from = 'noon')", "22023", true),
        ("WITH (replay_from = '{\"0\": 400}')", "22023", true),
        ("WITH (replay_from = '{\"5\": 0}')", "22023", true),
        ("WITH (partitions = 3)", "42P02", true),
        ("WITH (replay_from = 'latest', replay_from = 'latest')", "42601", true),
    ] {
        let refused = sql.refused(&push(with, 1)).await;
        assert_eq!((refused.state.code(), refused.position.is_some()), (state, position), "{with}: {refused:?}");
        assert!(refused.hint.is_some() || state == "42601", "{refused:?}");
    }
    let create = "CREATE STREAM d AS SELECT n FROM s EMIT CHANGES WITH (replay_from = 'latest')";
    let refused = sql.refused(create).await;
    assert_eq!(refused.state.code(), "0A000");
    assert!(refused.hint.is_some_and(|hint| hint.contains("CREATE … d WITH")), "{}", refused.message);
}

#[test]
fn psycopg_copies_in_a_transaction_of_its_own() {
    let node = Node::start();
    let port = node.ports.postgres.port();
    let target = format!("host=127.0.0.1 port={port} user=tester dbname=aquifer");
    let Some(ended) = Foreign::Python.run(&["bulk_copy.py", &target]) else { return };
    assert!(ended.expect_success("bulk_copy.py").contains("6 passed"));
}

#[test]
fn psycopg_fetches_in_portions() {
    let node = Node::start();
    let port = node.ports.postgres.port();
    let target = format!("host=127.0.0.1 port={port} user=tester dbname=aquifer");
    let Some(ended) = Foreign::Python.run(&["portions.py", &target]) else { return };
    assert!(ended.expect_success("portions.py").contains("5 passed"));
    let by_sevens = ["-At", "-v", "FETCH_COUNT=7", "-c", "SELECT i FROM generate_series(1, 20) g(i) ORDER BY i"];
    let Some(ended) = Foreign::psql(&node, &by_sevens) else { return };
    assert_eq!(ended.expect_success("psql").lines().count(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_given_up_cancelled_or_cut_off_leaves_nothing_and_one_that_ends_all() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run("CREATE TABLE t (id int, a text)").await;
    let other = Sql::connect(&node).await;
    let count = "SELECT count(*) FROM t";
    // More than a commit holds.
    let lines: String = (0..24_000).map(|id| format!("{id}\t{}\n", "x".repeat(500))).collect();
    let data = || Cursor::new(lines.clone().into_bytes());
    let begin = async |sql: &Sql| {
        let sink = sql.client.copy_in("COPY t FROM STDIN").await.expect("a copy");
        let mut sink = Box::pin(sink);
        sink.send(data()).await.expect("taken");
        let open = "SELECT count(*) FROM aquifer.transactions WHERE state = 'Ongoing'";
        until("part of it is in the log", || other.number(open), |open| *open == 1).await;
        assert_eq!(other.number(count).await, 0);
        sink
    };
    let none_open = async || {
        let all = "SELECT count(*) FROM aquifer.transactions WHERE state = 'Ongoing'";
        until("what was begun is aborted", || other.number(all), |open| *open == 0).await;
        assert_eq!(other.number(count).await, 0);
    };

    // The driver says CopyFail.
    drop(begin(&sql).await);
    none_open().await;

    let mut sink = begin(&sql).await;
    sql.client.cancel_token().cancel_query(NoTls).await.expect("a cancel request");
    none_open().await;
    let error = sink.as_mut().finish().await.expect_err("a cancelled copy");
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("57014"));
    assert_eq!(sql.number(count).await, 0, "the connection is in order");

    let address = node.ports.postgres;
    let target = format!("host={} port={} user=tester dbname=aquifer", address.ip(), address.port());
    let (client, connection) = tokio_postgres::connect(&target, NoTls).await.expect("the Postgres port answers");
    let connection = tokio::spawn(connection);
    let sink = begin(&Sql { client }).await;
    connection.abort();
    none_open().await;
    drop(sink);

    let mut sink = begin(&sql).await;
    assert_eq!(sink.as_mut().finish().await.expect("committed"), 24_000);
    assert_eq!(other.number(count).await, 24_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_inserts_of_many_connections_are_all_there() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run("CREATE TABLE t (id bigint PRIMARY KEY, name text, at timestamptz DEFAULT now())").await;
    let writers = (0..16_i64).map(async |writer| {
        let own = Sql::connect(&node).await;
        let insert = own.client.prepare("INSERT INTO t (id, name) VALUES ($1, $2)").await.expect("prepared");
        for number in 0..50_i64 {
            let id = writer * 1000 + number;
            let inserted = own.client.execute(&insert, &[&id, &format!("n{id}")]).await.expect("inserted");
            assert_eq!(inserted, 1);
        }
    });
    futures::future::join_all(writers).await;
    assert_eq!(sql.number("SELECT count(*) FROM t WHERE name = 'n' || id::text AND at IS NOT NULL").await, 800);
}
