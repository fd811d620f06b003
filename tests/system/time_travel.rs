//! The past through the wires: what SQL shows as of a time is what had been committed by then, whatever the Kafka
//! transaction it came with, hot, after a kill, and cold.

use std::time::{Duration, SystemTime};

use rdkafka::producer::Producer;
use tokio_postgres::error::SqlState;

use crate::support::kafka::{produce, producer, step, transactional};
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::PATIENCE;

/// A moment between two commits.
async fn moment(sql: &Sql) -> String {
    let now = sql.value("SELECT now()").await;
    // Commit times are microseconds; the next one is another.
    tokio::time::sleep(Duration::from_millis(2)).await;
    now
}

#[tokio::test(flavor = "multi_thread")]
async fn a_select_shows_what_was_committed_by_then_however_it_came_and_wherever_it_lies() {
    let mut node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run("CREATE TABLE users (id STRING PRIMARY KEY, name STRING) WITH (partitions = 1)").await;
    produce(&producer(&node), "orders", "a", "{\"v\": 1}").await;
    sql.run("INSERT INTO users VALUES ('a', 'Ann')").await;
    let writer = transactional(&node, "writer", &[]);
    step(|| writer.begin_transaction());
    for key in ["b", "c"] {
        produce(&writer, "orders", key, "{\"v\": 2}").await;
    }
    let open = moment(&sql).await;
    step(|| writer.commit_transaction(PATIENCE));
    sql.run("INSERT INTO users VALUES ('a', 'Anna'), ('b', 'Bob')").await;
    let committed = moment(&sql).await;
    sql.run("DELETE FROM users").await;
    produce(&producer(&node), "orders", "d", "{\"v\": 3}").await;

    let expected = [(&open, "1", "Ann", "1"), (&committed, "3", "Anna,Bob", "3")];
    for round in ["hot", "after a kill", "cold", "cold, after a kill"] {
        let sql = Sql::connect(&node).await;
        for (at, orders, users, next) in expected {
            let past = format!("FOR SYSTEM_TIME AS OF '{at}'");
            let count = sql.value(&format!("SELECT count(*) FROM topics.\"orders\" {past}")).await;
            assert_eq!(count, orders, "{round}, at {at}");
            let names = format!("SELECT string_agg(name, ',' ORDER BY name) FROM users {past}");
            assert_eq!(sql.value(&names).await, users, "{round}, at {at}");
            let position = format!("SELECT sum(\"offset\") FROM aquifer.position('users', '{at}')");
            assert_eq!(sql.value(&position).await, next, "{round}, at {at}");
        }
        let counts = "SELECT (SELECT count(*) FROM topics.\"orders\"), (SELECT count(*) FROM users)";
        assert_eq!(sql.table(counts).await, [["4", "0"]], "{round}");
        match round {
            "after a kill" => sql.run("CHECKPOINT").await,
            _ => {
                node.kill();
                node.restart();
            }
        }
    }

    let sql = Sql::connect(&node).await;
    let row = sql.client.query_one(&format!("SELECT timestamptz '{committed}'"), &[]).await.expect("a row");
    let at: SystemTime = row.get(0);
    let by_parameter = "SELECT count(*) FROM topics.\"orders\" FOR SYSTEM_TIME AS OF $1";
    let row = sql.client.query_one(by_parameter, &[&at]).await.expect("a row");
    assert_eq!(row.get::<_, i64>(0), 3);
    let gone = sql.refused("SELECT * FROM users FOR SYSTEM_TIME AS OF now() - interval '1 year'").await;
    assert_eq!(gone.state, SqlState::from_code("72000"), "{}", gone.message);
    let future = sql.refused("SELECT * FROM users FOR SYSTEM_TIME AS OF now() + interval '1 hour'").await;
    assert_eq!(future.state, SqlState::INVALID_PARAMETER_VALUE);
}
