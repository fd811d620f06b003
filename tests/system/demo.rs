//! The demo does what it prints: the shop's relations are there, rows come, the continuous tables move.

use crate::support::foreign::Foreign;
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::until;

/// Everything printed up to the line that begins so.
fn printed_until(node: &mut Node, beginning: &str) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(line) = node.next_stdout_line() {
        let last = line.starts_with(beginning);
        lines.push(line);
        if last {
            return lines;
        }
    }
    panic!("no line begins with {beginning}: {lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_opens_and_its_continuous_tables_move() {
    let mut node = Node::start_as(&["demo", "--rate", "100"], &[]);
    let printed = printed_until(&mut node, "Metrics: ");
    let sql = Sql::connect(&node).await;
    let streams = sql.table("SHOW STREAMS").await.concat().join(" ");
    assert!(streams.contains("page_views") && streams.contains("orders"), "{streams}");
    until("page views", || sql.number("SELECT count(*) FROM page_views"), |count| *count > 100).await;
    until("customers", || sql.number("SELECT count(*) FROM users"), |count| *count == 12).await;
    for query in ["SELECT sum(views) FROM views_per_page", "SELECT sum(orders) FROM spending"] {
        let first = until("a first result", || sql.value(query), |value| value != "∅").await;
        until("the table to move", || sql.value(query), |value| *value != first).await;
    }

    // Each printed statement works as it stands; the one that does not end is tried by another test.
    for line in printed.iter().filter(|line| line.contains("psql ") && !line.contains("COPY")) {
        let statement = line.split_once(" -c '").expect("a statement").1.trim_end_matches('\'');
        let Some(ended) = Foreign::psql(&node, &["-c", statement]) else { return };
        ended.expect_success(statement);
    }
    // Started again on the same directory it finds its relations.
    drop(sql);
    tokio::task::block_in_place(|| node.restart_in_order());
    printed_until(&mut node, "Metrics: ");
}
