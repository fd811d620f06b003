//! The past: what a relation held at a commit time, by `FOR SYSTEM_TIME AS OF`; the offsets of a moment; the versions of a
//! key.

use std::sync::Arc;

use aquifer_sql::error::SqlState;
use aquifer_storage::clock::ManualClock;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;

use super::node::{Cell, Node};
use super::support;

const BEGIN_US: i64 = 1_700_000_000_000_000;

/// A node whose clock stands still at the second 0 of the test.
struct Bench {
    node: Node,
    clock: Arc<ManualClock>,
    second: i64,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::at_us(BEGIN_US)));
        let node = Node::open_at(dir.path(), Arc::<ManualClock>::clone(&clock)).await;
        Self { node, clock, second: 0, _dir: dir }
    }

    /// Runs a statement at the next full second, and lets the continuous queries follow.
    async fn next_second(&mut self, statement: &str) {
        self.second += 1;
        self.clock.advance_us(BEGIN_US + self.second * 1_000_000 - now(&self.clock));
        self.node.run(statement).await;
        self.node.caught_up().await;
        self.clock.advance_us(500_000);
    }

    /// Runs statements, each at a second of its own.
    async fn each_second(&mut self, statements: &[&str]) {
        for statement in statements {
            self.next_second(statement).await;
        }
    }

    /// What a query shows, a row a line.
    async fn shows(&mut self, sql: &str) -> Vec<String> {
        lines(self.node.run(sql).await)
    }

    async fn close(self) {
        self.node.close().await;
    }
}

fn now(clock: &ManualClock) -> i64 {
    aquifer_storage::clock::Clock::now_us(clock)
}

fn lines(table: Vec<Vec<Cell>>) -> Vec<String> {
    let cell = |cell: Cell| match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Float(value) => value.to_string(),
        Cell::Text(text) => text,
    };
    table.into_iter().map(|row| row.into_iter().map(cell).collect::<Vec<_>>().join("|")).collect()
}

/// A second of the test, and half of the next one.
fn at(second: i64) -> String {
    format!("TIMESTAMPTZ '2023-11-14 22:13:{}.5+00'", 20 + second)
}

fn as_of(second: i64) -> String {
    format!("FOR SYSTEM_TIME AS OF {}", at(second))
}

const USERS: &str =
    "CREATE TABLE users (id STRING PRIMARY KEY, name STRING) WITH (partitions = 2, kafka_topic = 'people')";

/// Ann, then Bob, then Ann renamed and Bob gone.
const CHANGES: [&str; 4] = [
    "INSERT INTO users VALUES ('a', 'Ann')",
    "INSERT INTO users VALUES ('b', 'Bob')",
    "INSERT INTO users VALUES ('a', 'Anna')",
    "DELETE FROM users WHERE id = 'b'",
];

#[tokio::test]
async fn a_table_shows_what_it_held_at_each_moment_hot_and_cold() {
    let mut bench = Bench::new().await;
    bench.node.run(USERS).await;
    bench.each_second(&CHANGES).await;
    let past: [&[&str]; 5] = [&[], &["a|Ann"], &["a|Ann", "b|Bob"], &["a|Anna", "b|Bob"], &["a|Anna"]];
    for cold in [false, true] {
        if cold {
            bench.node.run("CHECKPOINT").await;
        }
        for (second, expected) in (0..).zip(past) {
            let past = as_of(second);
            let users = bench.shows(&format!("SELECT id, name FROM users {past} ORDER BY id")).await;
            assert_eq!(users, expected, "{second} cold: {cold}");
            let counted = bench.shows(&format!("SELECT count(*) FROM users {past}")).await;
            assert_eq!(counted, [expected.len().to_string()], "{second} cold: {cold}");
            let records = bench.shows(&format!("SELECT count(*) FROM topics.\"people\" {past}")).await;
            assert_eq!(records, [second.to_string()], "{second} cold: {cold}");
        }
        assert_eq!(bench.shows("SELECT id, name FROM users").await, past[4]);
    }
    bench.close().await;
}

#[tokio::test]
async fn one_statement_reads_several_moments_wherever_a_relation_stands() {
    let mut bench = Bench::new().await;
    bench.node.run(USERS).await;
    bench.each_second(&CHANGES).await;
    let joined = format!(
        "SELECT old.name, new.name FROM users {} AS old JOIN users new ON new.id = old.id ORDER BY 1",
        as_of(1)
    );
    assert_eq!(bench.shows(&joined).await, ["Ann|Anna"]);
    let gone = format!("SELECT name FROM users {} WHERE id NOT IN (SELECT id FROM users)", as_of(3));
    assert_eq!(bench.shows(&gone).await, ["Bob"]);
    let with = format!(
        "WITH then AS (SELECT * FROM public.users u {}), first AS (SELECT * FROM users {}) \
         SELECT (SELECT count(*) FROM then), (SELECT count(*) FROM first), count(*) FROM users",
        as_of(2),
        as_of(0)
    );
    assert_eq!(bench.shows(&with).await, ["2|0|1"]);
    let union = format!(
        "SELECT 1 AS s, users.name FROM users {} UNION ALL SELECT 3, name FROM users {} ORDER BY 1, 2",
        as_of(1),
        as_of(3)
    );
    assert_eq!(bench.shows(&union).await, ["1|Ann", "3|Anna", "3|Bob"]);
    // Hidden columns beside *, and a pruned offset.
    let hidden = format!("SELECT *, _offset FROM users {} WHERE _committed_at <= {} ORDER BY id", as_of(3), at(1));
    assert_eq!(bench.shows(&hidden).await.len(), 0, "the newest row of Ann at second 3 is of second 3");
    let explained = bench.shows(&format!("EXPLAIN SELECT name FROM users {}", as_of(1))).await.join("\n");
    assert!(explained.contains("as of 2023-11-14T22:13:21.500Z"), "{explained}");
    bench.close().await;
}

#[tokio::test]
async fn streams_and_continuous_tables_have_a_past_too() {
    let mut bench = Bench::new().await;
    bench.node.run("CREATE STREAM sales (shop STRING, price BIGINT) WITH (partitions = 1)").await;
    bench.node.run("CREATE TABLE totals AS SELECT shop, sum(price) AS total FROM sales GROUP BY shop").await;
    for price in [1, 2, 3] {
        bench.next_second(&format!("INSERT INTO sales VALUES ('s', {price})")).await;
    }
    for (second, total) in [(1, "1"), (2, "3"), (3, "6")] {
        let past = as_of(second);
        // The totals of a sale are committed within its second.
        let totals = bench.shows(&format!("SELECT total FROM totals {past}")).await;
        assert_eq!(totals, [total], "{second}");
        let batch = format!("SELECT sum(price) FROM sales {past} GROUP BY shop");
        assert_eq!(bench.shows(&batch).await, totals);
        let window = "WINDOW TUMBLING (SIZE 1 HOUR) GROUP BY shop";
        let windowed = bench.shows(&format!("SELECT sum(price) FROM sales {past} {window}")).await;
        assert_eq!(windowed.iter().map(|row| row.split('|').next().unwrap()).collect::<Vec<_>>(), [total]);
    }
    bench.close().await;
}

#[tokio::test]
async fn a_commit_of_any_size_is_in_the_past_as_a_whole() {
    let mut bench = Bench::new().await;
    bench.node.run("CREATE STREAM notes (n BIGINT, text STRING) WITH (partitions = 3)").await;
    // More than a frame, so a transaction of the log: its records are written long before they are visible.
    let rows = "INSERT INTO notes SELECT value, repeat('x', 20000) FROM generate_series(1, 600) AS value";
    bench.each_second(&["INSERT INTO notes VALUES (0, 'first')", rows]).await;
    for cold in [false, true] {
        if cold {
            bench.node.run("CHECKPOINT").await;
        }
        let counts = format!("SELECT count(*), count(DISTINCT _committed_at) FROM notes {}", as_of(2));
        assert_eq!(bench.shows(&counts).await, ["601|2"]);
        assert_eq!(bench.shows(&format!("SELECT count(*) FROM notes {}", as_of(1))).await, ["1"]);
    }
    bench.close().await;
}

#[tokio::test]
async fn a_moment_may_be_a_parameter_or_computed() {
    let mut bench = Bench::new().await;
    bench.node.run(USERS).await;
    bench.each_second(&CHANGES).await;
    let mut session = bench.node.session();
    let sql = "SELECT name FROM users FOR SYSTEM_TIME AS OF $1 WHERE id = $2";
    let statement = session.parse(sql).unwrap();
    let prepared = session.prepare(&statement[0], &[]).await.unwrap();
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    assert_eq!(prepared.parameters, [utc, DataType::Utf8]);
    for (second, name) in [(1, Some("Ann")), (3, Some("Anna")), (0, None)] {
        let time =
            ScalarValue::TimestampMicrosecond(Some(BEGIN_US + second * 1_000_000 + 500_000), Some("+00:00".into()));
        let outcome = session.execute(&prepared, vec![time, ScalarValue::Utf8(Some("a".to_owned()))]).await.unwrap();
        assert_eq!(support::lines_of(outcome).await.unwrap(), name.into_iter().collect::<Vec<_>>(), "{second}");
    }
    for time in [
        "'2023-11-14 22:13:21.5'",
        "'2023-11-14T23:13:21.5+01:00'",
        "timestamp '2023-11-14 22:13:25.5' - interval '4 seconds'",
        "to_timestamp(1700000001)",
        "$$2023-11-14 22:13:21.5+00$$::timestamptz",
    ] {
        assert_eq!(
            bench.shows(&format!("SELECT name FROM users FOR SYSTEM_TIME AS OF {time}")).await,
            ["Ann"],
            "{time}"
        );
    }
    bench.close().await;
    // The machine's clock, of which now() is.
    let node = support::Node::start().await;
    let mut session = node.session();
    let sql = "CREATE STREAM s (x BIGINT); INSERT INTO s VALUES (1); SELECT x FROM s FOR SYSTEM_TIME AS OF now()";
    assert_eq!(support::run(&mut session, sql).await.unwrap(), ["1"]);
    let before = "SELECT x FROM s FOR SYSTEM_TIME AS OF now() - interval '1 hour'";
    assert_eq!(support::fails(&mut session, before).await.state, SqlState::SnapshotTooOld);
}

#[tokio::test]
async fn what_cannot_be_known_is_refused_with_what_can() {
    let mut bench = Bench::new().await;
    bench.node.run(USERS).await;
    bench.each_second(&CHANGES).await;
    let mut refused = async |sql: &str| bench.node.refused(sql).await;
    let future = refused(&format!("SELECT * FROM users {}", as_of(30))).await;
    assert_eq!(future.state, SqlState::InvalidParameterValue);
    assert!(future.message.contains("2023-11-14T22:13:50.500Z is in the future"), "{future}");
    let before = refused("SELECT * FROM users FOR SYSTEM_TIME AS OF '2020-01-01'").await;
    assert_eq!(before.state, SqlState::SnapshotTooOld);
    assert!(before.message.contains("begins at 2023-11-14T22:13:20"), "{before}");
    let null = refused("SELECT * FROM users FOR SYSTEM_TIME AS OF NULL").await;
    assert_eq!(null.state, SqlState::NullValueNotAllowed);
    for (time, state) in [
        ("5", SqlState::DatatypeMismatch),
        ("true", SqlState::DatatypeMismatch),
        ("(SELECT max(id) FROM users)", SqlState::FeatureNotSupported),
        ("'yesterday noon'", SqlState::InvalidDatetimeFormat),
    ] {
        let error = refused(&format!("SELECT * FROM users FOR SYSTEM_TIME AS OF {time}")).await;
        assert_eq!(error.state, state, "{time}: {error}");
    }
    let stream = "CREATE STREAM s (x BIGINT)";
    assert!(refused("SELECT * FROM nothing FOR SYSTEM_TIME AS OF '2020-01-01'").await.message.contains("\"nothing\""));
    let system = refused(&format!("SELECT * FROM aquifer.topics {}", as_of(1))).await;
    assert_eq!(system.state, SqlState::FeatureNotSupported);
    bench.node.run(stream).await;
    for sql in [
        format!("SELECT * FROM s {} EMIT CHANGES", as_of(1)),
        format!("CREATE STREAM t AS SELECT * FROM s {}", as_of(1)),
    ] {
        let error = bench.node.refused(&sql).await;
        assert_eq!(error.state, SqlState::FeatureNotSupported, "{sql}");
        assert!(error.message.contains("FOR SYSTEM_TIME AS OF"), "{error}");
    }
    bench.close().await;
}

#[tokio::test]
async fn history_begins_where_compaction_has_cut_it_and_sql_keeps_it_for_a_week() {
    let mut bench = Bench::new().await;
    bench.node.run(USERS).await;
    let cut = "CREATE TABLE cut (id STRING PRIMARY KEY, name STRING) WITH (partitions = 1, min_compaction_lag_ms = 0)";
    bench.node.run(cut).await;
    bench.each_second(&CHANGES).await;
    let renamed: Vec<String> = CHANGES[..3].iter().map(|sql| sql.replace("users", "cut")).collect();
    // At the seconds 5, 6 and 7.
    bench.each_second(&renamed.iter().map(String::as_str).collect::<Vec<_>>()).await;
    bench.node.run("CHECKPOINT").await;
    bench.node.run("VACUUM").await;
    assert_eq!(bench.shows(&format!("SELECT name FROM users {}", as_of(1))).await, ["Ann"], "kept for a week");
    let error = bench.node.refused(&format!("SELECT name FROM cut {}", as_of(6))).await;
    assert_eq!(error.state, SqlState::SnapshotTooOld);
    assert!(error.message.contains("the history of topic cut begins at 2023-11-14T22:13:27Z"), "{error}");
    let earliest = "SELECT name FROM cut FOR SYSTEM_TIME AS OF '2023-11-14T22:13:27Z' ORDER BY 1";
    assert_eq!(bench.shows(earliest).await, ["Anna", "Bob"]);
    let shown = "SELECT name, history_start FROM aquifer.topics WHERE name = 'cut'";
    assert_eq!(bench.shows(shown).await, ["cut|2023-11-14T22:13:27Z"]);
    let position = bench.node.refused(&format!("SELECT * FROM aquifer.position('cut', {})", at(5))).await;
    assert_eq!(position.state, SqlState::SnapshotTooOld);
    bench.close().await;
}

#[tokio::test]
async fn the_position_of_a_moment_is_the_first_offset_of_what_came_later() {
    let mut bench = Bench::new().await;
    bench.node.run("CREATE STREAM s (k STRING KEY, x BIGINT) WITH (partitions = 2, kafka_topic = 'S')").await;
    bench.each_second(&["INSERT INTO s VALUES ('a', 1), ('b', 1), ('c', 1)", "INSERT INTO s VALUES ('a', 2)"]).await;
    let ends =
        "SELECT p, (SELECT count(*) FROM s WHERE _partition = p AND x <= $) FROM (VALUES (0), (1)) AS t(p) ORDER BY 1";
    for cold in [false, true] {
        if cold {
            bench.node.run("CHECKPOINT").await;
        }
        for second in [1, 2] {
            let expected = bench.shows(&ends.replace('$', &second.to_string())).await;
            let found = bench.shows(&format!("SELECT * FROM aquifer.position('s', {}) ORDER BY 1", at(second))).await;
            assert_eq!(found, expected, "{second} cold: {cold}");
        }
        let first = format!("SELECT sum(p.\"offset\") FROM aquifer.position('S', {}) AS p", at(0));
        assert_eq!(bench.shows(&first).await, ["0"], "of a topic by its name");
    }
    let sql = format!(
        "SELECT count(*) FROM s JOIN aquifer.position('s', {}) p ON p.partition = _partition WHERE _offset >= p.\"offset\"",
        at(1)
    );
    assert_eq!(bench.shows(&sql).await, ["1"], "what came later");
    let error = bench.node.refused("SELECT * FROM aquifer.position('nothing', now())").await;
    assert_eq!((error.state, error.position), (SqlState::UndefinedTable, Some(15)));
    let future = bench.node.refused(&format!("SELECT * FROM aquifer.position('s', {})", at(39))).await;
    assert_eq!(future.state, SqlState::InvalidParameterValue);
    bench.close().await;
}

#[tokio::test]
async fn the_audit_trail_of_a_key_is_a_select_over_its_topic() {
    let mut bench = Bench::new().await;
    bench.node.run(USERS).await;
    bench.each_second(&CHANGES).await;
    bench.node.run("CHECKPOINT").await;
    // All versions of one key: when, where, and what; NULL is a deletion.
    let trail = "SELECT _committed_at, _partition = 0 OR _partition = 1, body ->> 'name' FROM (\
                   SELECT _committed_at, _partition, _offset, convert_from(_value, 'UTF8') AS body FROM topics.\"people\" \
                   WHERE _key = '\\x62'::bytea) ORDER BY _offset";
    let found = bench.shows(trail).await;
    assert_eq!(found, ["2023-11-14T22:13:22Z|true|Bob", "2023-11-14T22:13:24Z|true|NULL"]);
    bench.close().await;
}
