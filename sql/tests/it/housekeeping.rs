//! VACUUM, and what retention and compaction may not touch: answers stay the same, and queries keep what they need.

use aquifer_sql::error::SqlState;

use super::node::{Cell, Node, Record};
use super::support;

fn text(value: &str) -> Cell {
    Cell::Text(value.to_owned())
}

fn event(x: i64) -> Record {
    let value = format!("{{\"user_id\": \"u{}\", \"x\": {x}}}", x % 2);
    Record { timestamp_ms: 1000 + x, key: Some(format!("id-{x}")), value: Some(value), headers: Vec::new() }
}

async fn count(node: &mut Node, topic: &str) -> String {
    let counted = node.run(&format!("SELECT count(*) FROM topics.\"{topic}\"")).await;
    let Cell::Text(count) = &counted[0][0] else { panic!("{counted:?}") };
    count.clone()
}

#[tokio::test]
async fn vacuum_compacts_a_table_that_answers_the_same_and_says_what_it_did() {
    let node = support::Node::start().await;
    let mut session = node.session();
    let run = support::run;
    run(
        &mut session,
        "CREATE TABLE users (id STRING PRIMARY KEY, name STRING) WITH (partitions = 2, min_compaction_lag_ms = 0)",
    )
    .await
    .unwrap();
    for round in 0..5 {
        let rows: Vec<_> = (0..20).map(|user| format!("('u{user}', 'name {round}')")).collect();
        run(&mut session, &format!("INSERT INTO users VALUES {}", rows.join(", "))).await.unwrap();
        run(&mut session, "DELETE FROM users WHERE id = 'u7'").await.unwrap();
        run(&mut session, "CHECKPOINT").await.unwrap();
    }
    let select = "SELECT id, name FROM users ORDER BY id";
    let before = run(&mut session, select).await.unwrap();
    assert_eq!(before.len(), 19);
    session.take_notices();
    assert_eq!(run(&mut session, "VACUUM users").await.unwrap(), ["VACUUM"]);
    let notice = session.take_notices().pop().unwrap();
    assert_eq!(notice.state, SqlState::SuccessfulCompletion);
    // Of 100 rows and five tombstones one of each key is left.
    assert!(notice.message.contains("85 records were compacted away"), "{}", notice.message);
    assert_eq!(run(&mut session, select).await.unwrap(), before);
    assert_eq!(run(&mut session, "SELECT count(*) FROM topics.\"users\"").await.unwrap(), ["20"]);
    assert_eq!(run(&mut session, "SELECT count(DISTINCT url) FROM aquifer.objects").await.unwrap(), ["1"]);
    for sql in ["VACUUM", "VACUUM topics.\"users\"", "vacuum public.users;"] {
        run(&mut session, sql).await.unwrap();
        assert_eq!(session.take_notices().pop().unwrap().message, "nothing was to be done");
    }
}

#[tokio::test]
async fn vacuum_refuses_what_it_does_not_know_by_name() {
    let node = support::Node::start().await;
    let mut session = node.session();
    let mut refused = async |sql: &str| support::fails(&mut session, sql).await;
    let unknown = refused("VACUUM nothing").await;
    assert_eq!((unknown.state, unknown.position), (SqlState::UndefinedTable, Some(8)));
    assert!(unknown.hint.unwrap().contains("SHOW TOPICS"));
    assert_eq!(refused("VACUUM topics.\"nothing\"").await.state, SqlState::UndefinedTable);
    for sql in ["VACUUM FULL", "VACUUM ANALYZE users", "VACUUM (VERBOSE) users"] {
        assert_eq!(refused(sql).await.state, SqlState::FeatureNotSupported, "{sql}");
    }
    assert_eq!(refused("BEGIN; VACUUM").await.state, SqlState::ActiveTransaction);
}

#[tokio::test]
async fn input_that_a_query_still_needs_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path()).await;
    let with = "WITH (partitions = 1, retention_ms = 1)";
    node.run(&format!("CREATE STREAM events (id STRING KEY, user_id STRING, x BIGINT) {with}")).await;
    node.run("CREATE STREAM copied WITH (retention_ms = -1) AS SELECT * FROM events WHERE x >= 0").await;
    node.run("CREATE TABLE sums AS SELECT user_id, sum(x) AS total FROM events GROUP BY user_id").await;
    node.append("events", 0, &(0..10).map(event).collect::<Vec<_>>()).await;
    node.caught_up().await;
    let held = "SELECT name, holds_back FROM aquifer.queries ORDER BY name";
    assert_eq!(node.run(held).await, [[text("copied"), text("0:10")], [text("sums"), text("0:0")]]);
    // The state of a sum is made of its whole input anew at every start.
    node.run("VACUUM").await;
    assert_eq!(count(&mut node, "events").await, "10");
    node.close().await;
    let mut node = Node::open(dir.path()).await;
    node.append("events", 0, &[event(10)]).await;
    node.caught_up().await;
    let sums = node.run("SELECT user_id, total FROM sums ORDER BY user_id").await;
    assert_eq!(sums, [[text("u0"), text("30")], [text("u1"), text("25")]]);
    // A filter goes on from its position alone.
    node.run("TERMINATE sums").await;
    node.run("CHECKPOINT").await;
    node.run("VACUUM events").await;
    assert_eq!(count(&mut node, "events").await, "0");
    assert_eq!(node.run(held).await, [[text("copied"), text("0:11")]]);
    node.close().await;
    let mut node = Node::open(dir.path()).await;
    node.append("events", 0, &[event(11)]).await;
    node.caught_up().await;
    assert_eq!(count(&mut node, "copied").await, "12");
    node.close().await;
}
