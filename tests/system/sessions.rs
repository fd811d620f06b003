//! Who is connected and what they do, as an operator and the tools of Postgres ask it; and the settings they all see.

use tokio_postgres::NoTls;

use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::until;

/// The state of a session in both tables, which must agree.
async fn state(sql: &Sql, pid: i64) -> Option<String> {
    let ours = sql.table(&format!("SELECT state, query FROM aquifer.sessions WHERE pid = {pid}")).await;
    let theirs = sql.table(&format!("SELECT state, query FROM pg_stat_activity WHERE pid = {pid}")).await;
    // A state may change between two looks.
    (ours == theirs).then(|| ours.first().map_or("gone".to_owned(), |row| row[0].clone()))
}

async fn becomes(sql: &Sql, pid: i64, wanted: &str) {
    until(wanted, async || state(sql, pid).await, |now| now.as_deref() == Some(wanted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_is_shown_with_what_it_does_until_it_goes() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    let other = Sql::connect(&node).await;
    let pid = other.number("SELECT pg_backend_pid()").await;
    assert_ne!(pid, sql.number("SELECT pg_backend_pid()").await);
    becomes(&sql, pid, "idle").await;
    let own = sql.table("SELECT state, query, user_name FROM aquifer.sessions WHERE pid = pg_backend_pid()").await;
    let asked = "SELECT state, query, user_name FROM aquifer.sessions WHERE pid = pg_backend_pid()";
    assert_eq!(own, [["active", asked, "tester"]], "who asks is active");

    other.run("SET application_name = 'report'").await;
    other.run("BEGIN").await;
    becomes(&sql, pid, "idle in transaction").await;
    let shown = format!(
        "SELECT datname, usename, application_name, client_addr, client_port > 0, backend_type, query, \
         xact_start >= backend_start, query_start >= backend_start FROM pg_stat_activity WHERE pid = {pid}"
    );
    let expected = ["aquifer", "tester", "report", "127.0.0.1", "t", "client backend", "BEGIN", "t", "t"];
    assert_eq!(sql.table(&shown).await, [expected]);
    assert_eq!(other.refused("SELECT nothing").await.state, tokio_postgres::error::SqlState::UNDEFINED_COLUMN);
    becomes(&sql, pid, "idle in transaction (aborted)").await;
    other.run("ROLLBACK").await;
    becomes(&sql, pid, "idle").await;
    let since = format!("SELECT xact_start IS NULL FROM pg_stat_activity WHERE pid = {pid}");
    assert_eq!(sql.value(&since).await, "t");

    // A prepared statement sees who is there when it runs.
    let count = sql.client.prepare("SELECT count(*) FROM pg_stat_activity").await.expect("is prepared");
    let before: i64 = sql.client.query_one(&count, &[]).await.expect("a row").get(0);
    let third = Sql::connect(&node).await;
    let now: i64 = sql.client.query_one(&count, &[]).await.expect("a row").get(0);
    assert_eq!(now, before + 1);
    let third_pid = third.number("SELECT pg_backend_pid()").await;
    drop(third);
    becomes(&sql, third_pid, "gone").await;

    // A statement is active for as long as it runs, and no longer when it is canceled.
    let cancel = other.client.cancel_token();
    let sleeping = tokio::spawn(async move {
        let slept = other.client.simple_query("SELECT pg_sleep(600)").await;
        (other, slept.is_err())
    });
    becomes(&sql, pid, "active").await;
    let query = format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}");
    assert_eq!(sql.value(&query).await, "SELECT pg_sleep(600)");
    cancel.cancel_query(NoTls).await.expect("the request arrives");
    let (other, canceled) = sleeping.await.expect("the statement ends");
    assert!(canceled);
    becomes(&sql, pid, "idle").await;
    drop(other);
    becomes(&sql, pid, "gone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_being_read_keep_their_statement_active() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    let other = Sql::connect(&node).await;
    let pid = other.number("SELECT pg_backend_pid()").await;
    other.run("CREATE STREAM s (n INT)").await;
    let cancel = other.client.cancel_token();
    let reading = tokio::spawn(async move {
        let read = other.client.simple_query("SELECT * FROM s EMIT CHANGES").await;
        (other, read.is_err())
    });
    becomes(&sql, pid, "active").await;
    cancel.cancel_query(NoTls).await.expect("the request arrives");
    let (_other, canceled) = reading.await.expect("the statement ends");
    assert!(canceled);
    becomes(&sql, pid, "idle").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_the_same_wherever_they_are_asked_for() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run("SET statement_timeout = '90s'").await;
    let all: Vec<Vec<String>> = sql.table("SHOW ALL").await;
    let of = |rows: &[Vec<String>], name: &str| rows.iter().find(|row| row[0] == name).map(|row| row[1].clone());
    for table in ["SELECT name, setting FROM pg_settings", "SELECT name, value FROM aquifer.settings"] {
        let rows = sql.table(table).await;
        assert_eq!(rows.len(), all.len(), "{table}");
        for name in ["statement_timeout", "server_version", "tier.bytes_min"] {
            assert!(of(&all, name).is_some(), "{name}");
            assert_eq!(of(&rows, name), of(&all, name), "{name} in {table}");
        }
    }
    let current = sql.value("SELECT current_setting('statement_timeout')").await;
    assert_eq!(current, sql.value("SHOW statement_timeout").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_is_shown_as_it_was_written_whatever_zone_a_client_asks_for() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run("CREATE TABLE appointments (id INT PRIMARY KEY, due TIMESTAMPTZ)").await;
    sql.run("SET timezone = 'Europe/Berlin'").await;
    assert_eq!(sql.value("SHOW timezone").await, "UTC");
    let insert = "INSERT INTO appointments VALUES (1, '2024-01-01 00:00:00'), (2, '2024-01-01 00:00:00 Europe/Berlin')";
    sql.run(insert).await;
    let shown =
        sql.table("SELECT due, due::text, due AT TIME ZONE 'Europe/Berlin' FROM appointments ORDER BY id").await;
    assert_eq!(shown[0], ["2024-01-01 00:00:00+00", "2024-01-01 00:00:00+00", "2024-01-01 01:00:00"]);
    assert_eq!(shown[1], ["2023-12-31 23:00:00+00", "2023-12-31 23:00:00+00", "2024-01-01 00:00:00"]);
}
