//! What goes wrong at the edges: statements cut off, names shared, values at the end of their range.

use aquifer_sql::session::{Outcome, TransactionStatus};
use futures::StreamExt;

use crate::node;
use crate::support::{Node, fails, run};

/// Whether the query is listed and its definition stored: both or none.
async fn settled(node: &Node, name: &str) -> bool {
    let mut session = node.session();
    let listed = run(&mut session, &format!("SELECT name FROM aquifer.queries WHERE name = '{name}'")).await.unwrap();
    let stored = node.storage.definitions("query").iter().any(|definition| definition.name == name);
    listed.is_empty() != stored
}

async fn wait_settled(node: &Node, name: &str) {
    node::eventually("what is stored runs, and nothing else", async || settled(node, name).await).await;
}

/// Polls a statement so many times, then cancels it as a client does.
async fn cut_off(node: &Node, sql: &str, polls: usize) {
    let mut session = node.session();
    let statement = session.parse(sql).unwrap().remove(0);
    let prepared = session.prepare(&statement, &[]).await.unwrap();
    let mut running = Box::pin(session.execute(&prepared, Vec::new()));
    for _ in 0..polls {
        if futures::poll!(running.as_mut()).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_canceled_create_or_terminate_leaves_the_query_whole_or_not_at_all() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (k text KEY, x bigint)").await.unwrap();
    for polls in 1..6 {
        let name = format!("q{polls}");
        let create = format!("CREATE TABLE {name} AS SELECT k, count(*) AS n FROM s GROUP BY k EMIT CHANGES");
        cut_off(&node, &create, polls).await;
        // A definition made after it can only be there when that one has ended.
        run(&mut session, &format!("CREATE TABLE after_{name} (x bigint)")).await.unwrap();
        wait_settled(&node, &name).await;
        run(&mut session, &create.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")).await.unwrap();
        cut_off(&node, &format!("TERMINATE {name}"), polls).await;
        run(&mut session, &format!("CREATE TABLE behind_{name} (x bigint)")).await.unwrap();
        wait_settled(&node, &name).await;
        run(&mut session, &format!("DROP TABLE {name} DELETE TOPIC")).await.unwrap();
    }
}

#[tokio::test]
async fn another_stream_over_a_topic_in_use_can_be_dropped_and_the_topic_cannot() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (k text KEY, x bigint)").await.unwrap();
    run(&mut session, "CREATE STREAM other (k text KEY) WITH (kafka_topic = 's')").await.unwrap();
    run(&mut session, "CREATE TABLE q AS SELECT k, count(*) AS n FROM s GROUP BY k").await.unwrap();
    assert_eq!(fails(&mut session, "DROP STREAM other DELETE TOPIC").await.state.code(), "55006");
    assert_eq!(fails(&mut session, "DROP STREAM s").await.state.code(), "55006");
    assert_eq!(run(&mut session, "DROP STREAM other").await.unwrap(), ["DROP STREAM"]);
    run(&mut session, "CREATE TABLE t (a int)").await.unwrap();
    assert_eq!(run(&mut session, "DROP TABLE t, t").await.unwrap(), ["DROP TABLE"]);
}

#[tokio::test]
async fn if_not_exists_says_that_a_result_was_there() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (k text KEY, x bigint)").await.unwrap();
    let create = "CREATE TABLE IF NOT EXISTS q AS SELECT k, count(*) AS n FROM s GROUP BY k";
    run(&mut session, create).await.unwrap();
    assert!(session.take_notices().is_empty());
    run(&mut session, create).await.unwrap();
    assert_eq!(session.take_notices().len(), 1);
}

#[tokio::test]
async fn clauses_that_would_be_read_over_are_refused_by_name() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (k text KEY, x bigint)").await.unwrap();
    for (sql, name) in [
        ("SELECT * FROM s FOR UPDATE", "FOR UPDATE"),
        ("SELECT * FROM (SELECT * FROM s FOR SHARE) t", "FOR SHARE"),
        ("SELECT * FROM s TABLESAMPLE SYSTEM (10)", "TABLESAMPLE"),
        ("SELECT * FROM generate_series(1, 3) WITH ORDINALITY", "WITH ORDINALITY"),
        ("SELECT k INTO t FROM s", "INTO"),
        ("SELECT * FROM s FETCH FIRST 1 ROWS ONLY", "FETCH"),
        ("INSERT INTO s SELECT * FROM s FOR UPDATE", "FOR UPDATE"),
    ] {
        let error = fails(&mut session, sql).await;
        assert_eq!(error.state.code(), "0A000", "{sql}: {error:?}");
        assert!(error.message.contains(name), "{sql}: {error:?}");
        assert!(error.hint.is_some(), "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn a_push_query_ends_with_an_error_when_its_topic_goes() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (k text KEY, x bigint)").await.unwrap();
    let statement = session.parse("SELECT * FROM s EMIT CHANGES").unwrap().remove(0);
    let prepared = session.prepare(&statement, &[]).await.unwrap();
    let Outcome::Rows(mut rows) = session.execute(&prepared, Vec::new()).await.unwrap() else { panic!("rows") };
    run(&mut node.session(), "INSERT INTO s VALUES ('a', 1)").await.unwrap();
    let first = tokio::time::timeout(node::DEADLINE, rows.stream.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.num_rows(), 1);
    run(&mut node.session(), "DROP STREAM s DELETE TOPIC").await.unwrap();
    let end = tokio::time::timeout(node::DEADLINE, rows.stream.next()).await.unwrap();
    assert!(end.unwrap().is_err());
}

#[tokio::test]
async fn a_query_stopped_by_a_record_says_so_and_can_be_made_again() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (k text KEY, x bigint)").await.unwrap();
    let create = "CREATE TABLE q AS SELECT k, sum(10 / x) AS s FROM s";
    run(&mut session, &format!("{create} GROUP BY k")).await.unwrap();
    run(&mut session, "INSERT INTO s VALUES ('a', 5); INSERT INTO s VALUES ('a', 0)").await.unwrap();
    let sql = "SELECT state, error FROM aquifer.queries WHERE name = 'q'";
    node::eventually("the query stops and says why", async || {
        run(&mut session, sql).await.unwrap()[0].starts_with("error|division by zero")
    })
    .await;
    assert_eq!(fails(&mut session, "DROP STREAM s DELETE TOPIC").await.state.code(), "55006");
    let node = node.restart().await;
    let mut session = node.session();
    run(&mut session, "DROP TABLE q DELETE TOPIC").await.unwrap();
    run(&mut session, &format!("{create} WHERE x <> 0 GROUP BY k")).await.unwrap();
    node::eventually("the new query has read its input", async || {
        run(&mut session, "SELECT * FROM q").await.unwrap() == ["a|2"]
    })
    .await;
}

#[tokio::test]
async fn a_commit_that_fails_takes_back_what_its_block_set() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE t (a int); BEGIN; SET application_name = 'inside'").await.unwrap();
    run(&mut session, "INSERT INTO t VALUES (1)").await.unwrap();
    run(&mut node.session(), "DROP TABLE t DELETE TOPIC").await.unwrap();
    fails(&mut session, "COMMIT").await;
    assert_eq!(session.transaction_status(), TransactionStatus::Idle);
    assert_eq!(run(&mut session, "SHOW application_name").await.unwrap(), [""]);
}

#[tokio::test]
async fn a_fraction_inserted_into_an_integer_is_rounded_as_postgres_rounds_it() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE t (id int PRIMARY KEY, i int, b bigint)").await.unwrap();
    run(&mut session, "INSERT INTO t VALUES (1, 1.5, -2.7), (2, -1.5, 0.4), (3, NULL, 7)").await.unwrap();
    run(&mut session, "INSERT INTO t VALUES (4, 2.5::numeric(3, 1), 2.5::float8)").await.unwrap();
    let rows = run(&mut session, "SELECT * FROM t ORDER BY id").await.unwrap();
    assert_eq!(rows, ["1|2|-3", "2|-2|0", "3|NULL|7", "4|3|2"]);
    assert_eq!(fails(&mut session, "INSERT INTO t VALUES (5, 2147483647.5, 0)").await.state.code(), "22003");
}
