//! Replay: queries that go on and begin in the past, at a time or at offsets, and stay what a batch over the same records
//! is.

use std::sync::Arc;

use aquifer_sql::error::SqlState;
use aquifer_storage::clock::ManualClock;
use aquifer_storage::{TopicPartition, Trim};
use futures::StreamExt;

use super::node::{Cell, DEADLINE, Node, cells, rows};

const BEGIN_US: i64 = 1_700_000_000_000_000;
const EVENTS: &str = "CREATE STREAM events (id STRING KEY, who STRING, x BIGINT) WITH (partitions = 2)";

fn text(value: &str) -> Cell {
    Cell::Text(value.to_owned())
}

/// A node with three rounds of events, each a second behind the one before; half a second has passed since the last.
async fn node_with_events(dir: &std::path::Path, clock: &Arc<ManualClock>) -> Node {
    let mut node = Node::open_at(dir, Arc::<ManualClock>::clone(clock)).await;
    node.run(EVENTS).await;
    clock.advance_us(500_000);
    for round in 1..=3 {
        clock.advance_us(500_000);
        let row = |number: i64| format!("('id-{number}', 'w{}', {})", number % 3, round * 100 + number);
        let events: Vec<_> = (0..20).map(row).collect();
        node.run(&format!("INSERT INTO events VALUES {}", events.join(", "))).await;
        clock.advance_us(500_000);
    }
    node
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at_us(BEGIN_US))
}

/// Half a second behind a round.
fn behind(round: i64) -> String {
    format!("2023-11-14 22:13:{}.5+00", 20 + round)
}

async fn both(node: &mut Node, table: &str, batch: &str) -> Vec<Vec<Cell>> {
    node.caught_up().await;
    let found = node.run(&format!("SELECT who, n, s FROM {table} ORDER BY who")).await;
    assert_eq!(found, node.run(&format!("{batch} ORDER BY who")).await, "{table} is its batch");
    found
}

#[tokio::test]
async fn a_table_that_begins_at_a_time_equals_the_batch_over_what_came_later_also_after_a_restart() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let mut node = node_with_events(dir.path(), &clock).await;
    let select = "SELECT who, count(*) AS n, sum(x) AS s FROM events";
    let create = format!("CREATE TABLE late WITH (replay_from = '{}') AS {select} GROUP BY who", behind(1));
    node.run(&create).await;
    let batch = format!("{select} WHERE _committed_at > timestamptz '{}' GROUP BY who", behind(1));
    let before = both(&mut node, "late", &batch).await;
    assert_eq!(before[0][1], text("14"), "two rounds of seven");
    node.run("INSERT INTO events VALUES ('id-100', 'w0', 1)").await;
    both(&mut node, "late", &batch).await;
    node.run("CHECKPOINT").await;
    node.cut_off().await;
    let mut node = Node::open_at(dir.path(), Arc::<ManualClock>::clone(&clock)).await;
    node.run("INSERT INTO events VALUES ('id-101', 'w1', 1)").await;
    let after = both(&mut node, "late", &batch).await;
    assert_eq!((after[0][1].clone(), after[1][1].clone()), (text("15"), text("15")));
    node.close().await;
}

#[tokio::test]
async fn a_query_begins_at_the_offsets_that_a_position_names() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let mut node = node_with_events(dir.path(), &clock).await;
    let position = format!("SELECT * FROM aquifer.position('events', timestamptz '{}') ORDER BY 1", behind(2));
    let offsets = node.run(&position).await;
    let cell = |row: usize| match &offsets[row][1] {
        Cell::Text(offset) => offset.clone(),
        other => panic!("{other:?}"),
    };
    let json = format!("{{\"0\": {}, \"1\": {}}}", cell(0), cell(1));
    node.run(&format!("CREATE STREAM third WITH (replay_from = '{json}') AS SELECT * FROM events WHERE x > 0")).await;
    node.run("CREATE STREAM half WITH (replay_from = '{\"0\": 1}') AS SELECT * FROM events WHERE x > 0").await;
    node.run("CREATE STREAM all_of_it WITH (replay_from = 'earliest') AS SELECT * FROM events WHERE x > 0").await;
    node.run("CREATE STREAM to_come WITH (replay_from = 'latest') AS SELECT * FROM events WHERE x > 0").await;
    node.run("INSERT INTO events VALUES ('id-0', 'w0', 999)").await;
    node.caught_up().await;
    for (stream, expected) in [("third", "21"), ("half", "60"), ("all_of_it", "61"), ("to_come", "1")] {
        assert_eq!(node.run(&format!("SELECT count(*) FROM {stream}")).await, vec![vec![text(expected)]], "{stream}");
    }
    assert_eq!(node.run("SELECT min(x) >= 300 FROM third").await, vec![vec![text("true")]]);
    node.close().await;
}

#[tokio::test]
async fn a_point_whose_records_are_gone_or_yet_to_come_is_refused_with_what_there_is() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let mut node = node_with_events(dir.path(), &clock).await;
    let topic = node.storage.topic("events").unwrap().id;
    let trim = Trim { partition: TopicPartition { topic, partition: 0 }, log_start_offset: 5 };
    node.storage.trim(vec![trim]).await.unwrap();
    let create =
        |from: &str| format!("CREATE STREAM s WITH (replay_from = '{from}') AS SELECT * FROM events WHERE x > 0");
    for (from, state, says) in [
        ("{\"0\": 4}", SqlState::SnapshotTooOld, "partition 0 of topic events begins at offset 5"),
        ("{\"1\": 4000}", SqlState::InvalidParameterValue, "partition 1 of topic events ends at offset"),
        ("{\"2\": 0}", SqlState::InvalidParameterValue, "topic events has no partition 2"),
        (
            "2023-11-14 22:13:20.5+00",
            SqlState::SnapshotTooOld,
            "the history of topic events begins at 2023-11-14T22:13:2",
        ),
        ("2031-01-01", SqlState::InvalidParameterValue, "2031-01-01T00:00:00Z is in the future"),
        ("noon", SqlState::InvalidParameterValue, "invalid value for replay_from: \"noon\""),
    ] {
        let error = node.refused(&create(from)).await;
        assert_eq!(error.state, state, "{from}: {error}");
        assert!(error.message.contains(says), "{from}: {error}");
        assert!(error.position.is_some() && error.hint.is_some(), "{from}");
    }
    node.run(&create("{\"0\": 5}")).await;
    let declared = node.refused("CREATE STREAM t (x BIGINT) WITH (replay_from = 'earliest')").await;
    assert_eq!(declared.state, SqlState::FeatureNotSupported);
    node.close().await;
}

#[tokio::test]
async fn a_push_query_begins_where_the_session_says() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let node = node_with_events(dir.path(), &clock).await;
    let mut session = node.session();
    for (from, count, least) in [(behind(2), 20, 300), (behind(0), 60, 100), ("earliest".to_owned(), 60, 100)] {
        let set = format!("SET aquifer.replay_from = '{from}'");
        assert!(super::node::run(&mut session, &set).await.is_ok(), "{set}");
        let sql = format!("SELECT x FROM events EMIT CHANGES LIMIT {count}");
        let mut push = rows(&mut session, &sql).await.unwrap().stream;
        let mut found = Vec::new();
        while let Some(batch) = tokio::time::timeout(DEADLINE, push.next()).await.expect("rows in time") {
            found.extend(cells(&batch.unwrap()).into_iter().flatten().map(|cell| match cell {
                Cell::Text(x) => x.parse::<i64>().unwrap(),
                other => panic!("{other:?}"),
            }));
        }
        found.sort_unstable();
        assert_eq!((found.len(), found[0]), (count, least), "{from}");
    }
    let error = super::node::run(&mut session, "SET aquifer.replay_from = 'noon'").await.unwrap_err();
    assert_eq!(error.state, SqlState::InvalidParameterValue);
    super::node::run(&mut session, "RESET aquifer.replay_from").await.unwrap();
    drop(session);
    node.close().await;
}
