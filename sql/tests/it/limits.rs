//! What a query may take: memory, disk, turns and time. It is told what it ran into, and nobody else is.

use aquifer_sql::engine::{Engine, EngineOptions, QuerySettings, SessionOptions};
use aquifer_sql::session::{Outcome, Rows, Session};
use aquifer_storage::Storage;
use futures::{StreamExt, TryStreamExt};

use crate::node::{self, eventually};
use crate::support::{fails, run};

/// A node whose queries have about 12 MiB.
const SMALL: u64 = 16 << 20;

struct Node {
    _storage: Storage,
    engine: Engine,
    _directory: tempfile::TempDir,
}

impl Node {
    async fn start(memory_limit: u64, queries: QuerySettings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (storage, engine) = node::open(directory.path(), |settings| settings.memory_limit = memory_limit).await;
        engine.close().await;
        drop(engine);
        let options = EngineOptions { queries, ..EngineOptions::default() };
        let engine = Engine::open(storage.clone(), options).await.unwrap();
        Self { _storage: storage, engine, _directory: directory }
    }

    fn session(&self) -> Session {
        self.engine.session(SessionOptions::default())
    }

    /// One number of `aquifer.limits`.
    async fn taken(&self, what: &str, limit: &str) -> u64 {
        let sql = format!("SELECT {what} FROM aquifer.limits WHERE name = '{limit}'");
        run(&mut self.session(), &sql).await.unwrap()[0].parse().unwrap()
    }

    /// Nothing is taken of any limit any more.
    async fn is_idle(&self) {
        for limit in ["query_memory", "query_spill", "heavy_queries"] {
            eventually(limit, async || self.taken("used", limit).await == 0).await;
        }
    }
}

async fn begin(session: &mut Session, sql: &str) -> Rows {
    let statement = session.parse(sql).unwrap().remove(0);
    let prepared = session.prepare(&statement, &[]).await.unwrap();
    match session.execute(&prepared, Vec::new()).await.unwrap() {
        Outcome::Rows(rows) => rows,
        _ => panic!("{sql} gives no rows"),
    }
}

/// The largest of a counter that the lines of EXPLAIN ANALYZE show.
fn counted(lines: &[String], name: &str) -> u64 {
    let of = |line: &String| line.split(&format!("{name}=")).nth(1)?.split([',', ']', ' ']).next()?.parse().ok();
    lines.iter().filter_map(of).max().unwrap_or(0)
}

/// 30 MB of text, in no order.
const WIDE: &str = "SELECT (i * 7919 % 50021)::text || repeat('x', 600) AS a FROM generate_series(1, 50000) g(i)";

#[tokio::test(flavor = "multi_thread")]
async fn a_large_sort_spills_and_is_right() {
    let node = Node::start(SMALL, QuerySettings::default()).await;
    let mut session = node.session();
    let sql = format!("{WIDE} ORDER BY a");
    let lines = run(&mut session, &format!("EXPLAIN ANALYZE {sql}")).await.unwrap();
    assert!(counted(&lines, "spill_count") > 0, "{lines:?}");
    let sorted = run(&mut session, &sql).await.unwrap();
    let mut expected: Vec<String> =
        (1..=50_000_u64).map(|i| format!("{}{}", i * 7919 % 50_021, "x".repeat(600))).collect();
    expected.sort();
    assert!(sorted == expected, "{} rows, not in order or not those", sorted.len());
    node.is_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_groups_spill_and_are_right() {
    let node = Node::start(SMALL, QuerySettings::default()).await;
    let mut session = node.session();
    let groups = format!("SELECT a, count(*) AS n FROM ({WIDE} UNION ALL {WIDE}) w GROUP BY a");
    let lines = run(&mut session, &format!("EXPLAIN ANALYZE {groups}")).await.unwrap();
    assert!(counted(&lines, "spill_count") > 0, "{lines:?}");
    let sums = format!("SELECT count(*), sum(n), min(n), max(n) FROM ({groups}) g");
    assert_eq!(run(&mut session, &sums).await.unwrap(), ["50000|100000|2|2"]);
    node.is_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_spill_is_told_which_limit_it_was_and_others_go_on() {
    let node = Node::start(SMALL, QuerySettings::default()).await;
    let mut session = node.session();
    let join = format!("SELECT count(*) FROM ({WIDE}) l JOIN ({WIDE}) r ON l.a = r.a");
    let refused = fails(&mut session, &join).await;
    assert_eq!(refused.state.code(), "53200", "{refused:?}");
    assert!(refused.message.contains("memory.limit"), "{refused:?}");
    assert!(refused.hint.as_deref().unwrap_or_default().contains("memory.limit"), "{refused:?}");
    node.is_idle().await;
    assert!(node.taken("refused", "query_memory").await > 0);
    assert_eq!(run(&mut session, "SELECT 1").await.unwrap(), ["1"]);
    run(&mut session, "CREATE TABLE t (a INT PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(run(&mut session, "SELECT a FROM t").await.unwrap(), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_much_out_of_little_is_asked_for_before_it_is_made() {
    let node = Node::start(SMALL, QuerySettings::default()).await;
    let mut session = node.session();
    for (made, code) in [
        ("length(repeat('x', 40000000))", "53200"),
        ("length(repeat('x', 2147483647 - g))", "54000"),
        ("length(repeat('xy', 2000000000))", "54000"),
        ("length(lpad('x', 40000000 + g))", "53200"),
        ("length(replace(repeat('x', 100000 + g), 'x', repeat('y', 1000)))", "53200"),
        ("cardinality(array_fill(1, ARRAY[10000000 + g]))", "53200"),
        ("cardinality(array_fill(NULL::text, ARRAY[2000000000 - g]))", "54000"),
        ("cardinality(array_resize(ARRAY['a'], 10000 + g, repeat('y', 10000)))", "53200"),
        ("length(regexp_replace(repeat('x', 100000 - g), 'x', repeat('y', 1000), 'g'))", "53200"),
        ("cardinality(generate_series(timestamp '2000-01-01', timestamp '2100-01-01', interval '1 second'))", "54000"),
        ("cardinality(range(1, 9000000000000 + g))", "54000"),
    ] {
        let sql = format!("SELECT {made} FROM generate_series(1, 3) g");
        let refused = fails(&mut session, &sql).await;
        assert_eq!(refused.state.code(), code, "{sql}: {refused:?}");
    }
    let little =
        "SELECT length(repeat('x', 10) || lpad('y', 10) || replace('aa', 'a', 'bc')), cardinality(range(1, 4))";
    assert_eq!(run(&mut session, little).await.unwrap(), ["24|3"]);
    node.is_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spilling_has_a_limit_too() {
    let queries = QuerySettings { spill_bytes_max: 1 << 20, ..QuerySettings::default() };
    let node = Node::start(SMALL, queries).await;
    let mut session = node.session();
    let refused = fails(&mut session, &format!("{WIDE} ORDER BY a")).await;
    assert_eq!(refused.state.code(), "53400", "{refused:?}");
    assert!(refused.message.contains("query.spill_bytes_max = 1"), "{refused:?}");
    node.is_idle().await;
    assert_eq!(run(&mut session, "SELECT 1").await.unwrap(), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heavy_query_has_its_turn_and_small_ones_do_not_wait_for_it() {
    let queries = QuerySettings { heavy_rows: 1_000, heavy_max: 1, heavy_queue_max: 0, ..QuerySettings::default() };
    let node = Node::start(4 << 30, queries).await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (v INT) WITH (kafka_topic = 's', partitions = 1)").await.unwrap();
    run(&mut session, "CREATE TABLE t (k INT PRIMARY KEY, v INT); INSERT INTO t VALUES (1, 10)").await.unwrap();
    run(&mut session, "INSERT INTO s SELECT * FROM generate_series(1, 60000)").await.unwrap();
    for tiered in [false, true] {
        if tiered {
            run(&mut session, "CHECKPOINT").await.unwrap();
        }
        let mut held = begin(&mut session, "SELECT v FROM s").await;
        assert!(held.stream.next().await.unwrap().unwrap().num_rows() > 0);
        eventually("it has its turn", async || node.taken("used", "heavy_queries").await == 1).await;
        let refused = fails(&mut node.session(), "SELECT sum(v) FROM s").await;
        assert_eq!(refused.state.code(), "53400", "{refused:?}");
        let wanted = "too many heavy queries: 1 read (query.heavy_max) and 0 wait (query.heavy_queue_max)";
        assert_eq!(refused.message, wanted);
        assert!(refused.hint.unwrap().contains("query.heavy_queue_max"));
        let mut other = node.session();
        assert_eq!(run(&mut other, "SELECT v FROM s LIMIT 3").await.unwrap().len(), 3);
        assert_eq!(run(&mut other, "SELECT v FROM s WHERE _offset = 59999").await.unwrap(), ["60000"]);
        assert_eq!(run(&mut other, "SELECT v FROM t WHERE k = 1").await.unwrap(), ["10"]);
        let rest: Vec<_> = held.stream.try_collect().await.unwrap();
        assert!(!rest.is_empty());
        node.is_idle().await;
        assert_eq!(run(&mut other, "SELECT sum(v) FROM s").await.unwrap(), ["1800030000"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_queries_that_are_more_than_may_read_wait_and_all_end() {
    let queries = QuerySettings { heavy_rows: 1_000, heavy_max: 1, heavy_queue_max: 16, ..QuerySettings::default() };
    let node = Node::start(4 << 30, queries).await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (v INT) WITH (kafka_topic = 's', partitions = 2)").await.unwrap();
    run(&mut session, "INSERT INTO s SELECT * FROM generate_series(1, 40000)").await.unwrap();
    // A join reads the stream twice: a query never waits for itself.
    let sql = "SELECT count(*), sum(a.v) FROM s a JOIN s b ON a.v = b.v";
    let mut running = Vec::new();
    for _ in 0..6 {
        let mut session = node.session();
        running.push(tokio::spawn(async move { run(&mut session, sql).await }));
    }
    for query in running {
        assert_eq!(query.await.unwrap().unwrap(), ["40000|800020000"]);
    }
    node.is_idle().await;
    assert_eq!(node.taken("refused", "heavy_queries").await, 0);
}

async fn ends_at_its_timeout(session: &mut Session) {
    let mut endless = begin(session, "SELECT i FROM generate_series(1, 1000000000000) g(i)").await;
    let ended = async {
        loop {
            if let Err(error) = endless.stream.next().await.unwrap() {
                return aquifer_sql::error::Error::from(error);
            }
        }
    };
    let error = tokio::time::timeout(node::DEADLINE, ended).await.unwrap();
    assert_eq!(error.state.code(), "57014", "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_rows_are_always_at_hand_ends_at_its_timeout_and_one_that_is_read_slowly_does_not() {
    let node = Node::start(4 << 30, QuerySettings::default()).await;
    let mut session = node.session();
    run(&mut session, "SET statement_timeout = '300ms'").await.unwrap();
    ends_at_its_timeout(&mut session).await;
    node.is_idle().await;
    // The time that a client takes between two portions is not the statement's.
    run(&mut session, "SET statement_timeout = '2s'").await.unwrap();
    let mut slow = begin(&mut session, "SELECT i FROM generate_series(1, 30000) g(i)").await;
    let mut rows = slow.stream.next().await.unwrap().unwrap().num_rows();
    // As long as another one takes to reach the same timeout, nobody reads.
    let mut other = node.session();
    run(&mut other, "SET statement_timeout = '2s'").await.unwrap();
    ends_at_its_timeout(&mut other).await;
    while let Some(batch) = slow.stream.next().await {
        rows += batch.unwrap().num_rows();
    }
    assert_eq!(rows, 30_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_log_that_one_query_decoded_serve_the_next_one() {
    let node = Node::start(4 << 30, QuerySettings::default()).await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (k STRING KEY, v INT) WITH (kafka_topic = 's', partitions = 2)").await.unwrap();
    run(&mut session, "INSERT INTO s SELECT i::text, i FROM generate_series(1, 30000) g(i)").await.unwrap();
    let sum = "SELECT count(*), sum(v), max(k) FROM s WHERE v > 0";
    assert_eq!(run(&mut session, sum).await.unwrap(), ["30000|450015000|9999"]);
    let lines = run(&mut session, &format!("EXPLAIN ANALYZE {sum}")).await.unwrap();
    let shared = "hot_rows=30.00 K, hot_rows_shared=30.00 K";
    assert!(lines.iter().any(|line| line.contains(shared)), "{lines:?}");
    run(&mut session, "INSERT INTO s SELECT i::text, i FROM generate_series(30001, 30010) g(i)").await.unwrap();
    assert_eq!(run(&mut session, sum).await.unwrap(), ["30010|450315055|9999"]);
    run(&mut session, "DROP STREAM s DELETE TOPIC").await.unwrap();
    run(&mut session, "CREATE STREAM s (k STRING KEY, v INT) WITH (kafka_topic = 's', partitions = 2)").await.unwrap();
    run(&mut session, "INSERT INTO s VALUES ('a', 1)").await.unwrap();
    assert_eq!(run(&mut session, sum).await.unwrap(), ["1|1|a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_log_that_a_continuous_query_decoded_serve_another_one_and_a_select() {
    let node = Node::start(4 << 30, QuerySettings::default()).await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (k STRING KEY, v INT) WITH (kafka_topic = 's', partitions = 2)").await.unwrap();
    for what in ["sum(v)", "count(*)"] {
        let name = &what[..3];
        let create = format!("CREATE TABLE {name}_of AS SELECT k, {what} AS n FROM s GROUP BY k EMIT CHANGES");
        run(&mut session, &create).await.unwrap();
    }
    for _ in 0..20 {
        let insert = "INSERT INTO s SELECT (i % 7)::text, i FROM generate_series(1, 1500) g(i)";
        run(&mut session, insert).await.unwrap();
    }
    for (table, total) in [("sum_of", "22515000"), ("cou_of", "30000")] {
        let sum = format!("SELECT sum(n) FROM {table}");
        eventually(table, async || run(&mut node.session(), &sum).await.unwrap() == [total]).await;
    }
    // Nobody has asked for these rows before.
    let sum = "SELECT count(*), sum(v), max(k) FROM s WHERE v > 0";
    let lines = run(&mut session, &format!("EXPLAIN ANALYZE {sum}")).await.unwrap();
    let shared = "hot_rows=30.00 K, hot_rows_shared=30.00 K";
    assert!(lines.iter().any(|line| line.contains(shared)), "{lines:?}");
    assert_eq!(run(&mut session, sum).await.unwrap(), ["30000|22515000|6"]);
    let cache = "SELECT hits FROM aquifer.caches WHERE name = 'hot_rows'";
    let before: i64 = run(&mut session, cache).await.unwrap()[0].parse().unwrap();
    run(&mut session, "CHECKPOINT").await.unwrap();
    let after: i64 = run(&mut session, cache).await.unwrap()[0].parse().unwrap();
    assert!(after > before, "tiering takes what is decoded: {before}, {after}");
    assert_eq!(run(&mut session, sum).await.unwrap(), ["30000|22515000|6"]);
}
