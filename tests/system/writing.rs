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
fn psycopg_copies_in_a_transaction_of_its_own() {
    let node = Node::start();
    let port = node.ports.postgres.port();
    let target = format!("host=127.0.0.1 port={port} user=tester dbname=aquifer");
    let Some(ended) = Foreign::Python.run(&["bulk_copy.py", &target]) else { return };
    assert!(ended.expect_success("bulk_copy.py").contains("6 passed"));
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
