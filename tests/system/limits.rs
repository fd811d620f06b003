//! Statements that are ended before their time, by a cancel, a timeout or a client that is gone, and clients that do not
//! read: the session is free, the work is gone, and the node has the memory it had.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

use crate::process::get;
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::{PATIENCE, until};

/// How soon a statement that was cancelled is answered: 100 ms are aimed at, the rest is for a debug build beside others.
const CANCEL_MAX: Duration = Duration::from_secs(3);

/// Statements that would take hours: what keeps them busy, and the statement.
const ENDLESS: [(&str, &str); 8] = [
    ("a nested loop that finds nothing", "SELECT count(*) FROM cold a JOIN hot b ON a.v * b.v < a.g - 5"),
    (
        "a scan of objects",
        "SELECT count(*) FROM cold a JOIN cold b ON a.g = b.g JOIN cold c ON b.g = c.g WHERE a.v + b.v + c.v > 1",
    ),
    (
        "a scan of the log",
        "SELECT count(*) FROM hot a JOIN hot b ON a.g = b.g JOIN hot c ON b.g = c.g WHERE a.v + b.v + c.v > 1",
    ),
    (
        "a product",
        "SELECT count(md5(a.i::text || b.i::text)) FROM generate_series(1, 1000000) a(i), generate_series(1, 1000000) b(i)",
    ),
    (
        "a sort",
        "SELECT md5(a.i::text || b.i::text) AS h FROM generate_series(1, 1000000) a(i), generate_series(1, 1000000) b(i) ORDER BY h",
    ),
    (
        "a group",
        "SELECT count(DISTINCT md5(a.i::text || b.i::text)) FROM generate_series(1, 1000000) a(i), generate_series(1, 1000000) b(i)",
    ),
    (
        "an INSERT of a product",
        "INSERT INTO target SELECT a.i FROM generate_series(1, 1000000) a(i), generate_series(1, 1000000) b(i) WHERE a.i + b.i < 0",
    ),
    (
        "EXPLAIN ANALYZE",
        "EXPLAIN ANALYZE SELECT count(md5(a.i::text || b.i::text)) FROM generate_series(1, 1000000) a(i), generate_series(1, 1000000) b(i)",
    ),
];

async fn node_with_rows() -> (Node, Sql) {
    let node = Node::start_with(&[("AQUIFER_QUERY_HEAVY_ROWS", "1000")]);
    let sql = Sql::connect(&node).await;
    for name in ["cold", "hot"] {
        sql.run(&format!("CREATE STREAM {name} (v BIGINT, g BIGINT) WITH (kafka_topic = '{name}', partitions = 2)"))
            .await;
        sql.run(&format!("INSERT INTO {name} SELECT i, i % 2 FROM generate_series(1, 20000) s(i)")).await;
        if name == "cold" {
            sql.run("CHECKPOINT").await;
        }
    }
    sql.run("CREATE STREAM target (v BIGINT) WITH (kafka_topic = 'target', partitions = 1)").await;
    (node, sql)
}

/// Nothing of any limit is taken: no query computes.
async fn is_idle(sql: &Sql, what: &str) {
    let used = "SELECT sum(used) FROM aquifer.limits";
    until(&format!("{what} to be gone"), || sql.number(used), |used| *used == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_statement_is_answered_at_once_and_its_work_is_gone() {
    let (node, watching) = node_with_rows().await;
    for (what, statement) in ENDLESS {
        let sql = Sql::connect(&node).await;
        let token = sql.client.cancel_token();
        let running = tokio::spawn(async move { (sql.try_run(statement).await, sql) });
        // Until it has begun there is nothing to cancel; the request is repeated until it is heard.
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut asked = Instant::now();
        while !running.is_finished() {
            assert!(begun.elapsed() < PATIENCE, "{what} is not cancelled");
            if asked.elapsed() > CANCEL_MAX || begun.elapsed() < CANCEL_MAX {
                asked = Instant::now();
                token.cancel_query(NoTls).await.expect("a cancel request");
            }
            let _ = tokio::time::timeout(CANCEL_MAX, async {
                while !running.is_finished() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
        }
        let took = asked.elapsed();
        let (refused, sql) = running.await.expect("it ends");
        let refused = refused.unwrap_or_else(|| panic!("{what} has ended"));
        assert_eq!(refused.state.code(), "57014", "{what}: {refused:?}");
        assert!(took < CANCEL_MAX, "{what}: {took:?}");
        println!("{what}: cancelled within {took:?}");
        let free = Instant::now();
        assert_eq!(sql.value("SELECT 'free'").await, "free", "{what}");
        println!("{what}: the session is free after {:?}", free.elapsed());
        is_idle(&watching, what).await;
        println!("{what}: gone after {:?}", free.elapsed());
    }
    assert_eq!(watching.number("SELECT count(*) FROM target").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_at_its_timeout_whatever_it_does() {
    let (node, watching) = node_with_rows().await;
    for (what, statement) in ENDLESS {
        let sql = Sql::connect(&node).await;
        sql.run("SET statement_timeout = '300ms'").await;
        let begun = Instant::now();
        let refused = sql.refused(statement).await;
        assert_eq!(refused.state.code(), "57014", "{what}: {refused:?}");
        assert!(refused.message.contains("statement timeout"), "{what}: {refused:?}");
        assert!(refused.hint.is_some_and(|hint| hint.contains("statement_timeout")), "{what}");
        println!("{what}: timed out after {:?}", begun.elapsed());
        sql.run("RESET statement_timeout").await;
        assert_eq!(sql.value("SELECT 'free'").await, "free", "{what}");
        is_idle(&watching, what).await;
    }
}

/// A client by hand, which says who it is and then one query.
async fn ask(node: &Node, query: &str) -> TcpStream {
    let mut stream = TcpStream::connect(node.ports.postgres).await.expect("the Postgres port answers");
    let body = b"\0\x03\0\0user\0tester\0\0";
    let mut opening = u32::try_from(body.len() + 4).expect("short").to_be_bytes().to_vec();
    opening.extend_from_slice(body);
    opening.push(b'Q');
    opening.extend_from_slice(&u32::try_from(query.len() + 5).expect("short").to_be_bytes());
    opening.extend_from_slice(query.as_bytes());
    opening.push(0);
    stream.write_all(&opening).await.expect("sent");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_of_a_client_that_is_gone_is_gone_too() {
    let (node, watching) = node_with_rows().await;
    for (what, statement) in ENDLESS {
        let stream = ask(&node, statement).await;
        // What it is doing shows, or has had time enough to begin.
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(stream);
        is_idle(&watching, what).await;
        let open = || async { sample(&node, "aquifer_postgres_connections") };
        until("the connection to be gone", open, |open| *open <= 1).await;
    }
}

/// A sample of `GET /metrics`; 0 if it is not there yet.
fn sample(node: &Node, name: &str) -> u64 {
    let (_, text) = tokio::task::block_in_place(|| get(node.ports.http, "/metrics"));
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse::<u64>().expect("a whole number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_makes_the_node_wait_and_not_grow() {
    /// Rows of so many bytes each, a few hundred megabytes in all; a batch of them fits into a socket's buffers.
    const ROW_BYTES: u64 = 300;
    const ROWS: u64 = 600_000;
    /// What may be on its way: a batch at each step of computing and in the socket's buffers, and room for a debug build.
    const GROWTH_MAX: u64 = 96 << 20;
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    assert_eq!(sql.value("SELECT repeat('x', 3)").await, "xxx");
    let before = node.peak_memory_bytes();
    let mut stream = ask(&node, &format!("SELECT repeat('x', {ROW_BYTES}) FROM generate_series(1, {ROWS}) g(i)")).await;
    // Rows go out until the socket's buffers are full, and then no more.
    let (mut last, mut same) = (0, 0);
    until(
        "the node to wait for its client",
        || async { sample(&node, "aquifer_postgres_rows_total") },
        |rows| {
            same = if *rows == last && *rows > 1 { same + 1 } else { 0 };
            last = *rows;
            same >= 50
        },
    )
    .await;
    let grown = node.peak_memory_bytes() - before;
    println!("{last} rows were sent, the node has grown by {} MiB", grown >> 20);
    assert!(last < ROWS / 2, "{last} rows were sent to a client that does not read");
    assert!(grown < GROWTH_MAX, "the node has grown by {} MiB", grown >> 20);
    // Others are answered, and the client gets the rest once it reads.
    assert_eq!(sql.value("SELECT 'there'").await, "there");
    let (mut bytes, mut buffer) = (0_u64, vec![0; 1 << 20]);
    let whole = ROWS * ROW_BYTES;
    let reading = async {
        while bytes < whole {
            let read = stream.read(&mut buffer).await.expect("it goes on");
            assert!(read > 0, "the node has closed the connection after {bytes} bytes");
            bytes += read as u64;
        }
    };
    tokio::time::timeout(PATIENCE * 3, reading).await.expect("all rows arrive");
    let grown = node.peak_memory_bytes() - before;
    assert!(grown < GROWTH_MAX, "the node has grown by {} MiB", grown >> 20);
}
