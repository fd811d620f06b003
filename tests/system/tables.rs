//! Tables with a primary key over the wire: changed, answered and looked up by drivers as they do it, through a kill too.

use rdkafka::admin::{AdminOptions, NewPartitions};
use rdkafka::types::RDKafkaErrorCode;
use tokio_postgres::SimpleQueryMessage;

use crate::support::kafka::admin;
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::until;

const STOCK: &str = "CREATE TABLE stock (sku STRING PRIMARY KEY, left_over INT, price DECIMAL(8, 2)) \
                     WITH (kafka_topic = 'stock', partitions = 4)";

/// Command tags' counts of a text of statements.
async fn counts(sql: &Sql, statements: &str) -> Vec<u64> {
    let messages = sql.client.simple_query(statements).await.expect("statements that succeed");
    let count = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::CommandComplete(count) => Some(count),
        _ => None,
    };
    messages.into_iter().filter_map(count).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_changed_returned_and_found_by_key_through_both_protocols_and_a_kill() {
    let mut node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run(STOCK).await;
    let insert = "INSERT INTO stock SELECT 'sku-' || value, value, value * 0.5 FROM generate_series(1, 500) AS value";
    assert_eq!(counts(&sql, insert).await, [500]);
    assert_eq!(counts(&sql, "UPDATE stock SET left_over = left_over - 1 WHERE left_over > 490").await, [10]);
    assert_eq!(sql.table("DELETE FROM stock WHERE sku = 'sku-7' RETURNING *").await, [["sku-7", "7", "3.50"]]);

    let take = "UPDATE stock SET left_over = left_over - $2 WHERE sku = $1 RETURNING left_over, sku";
    let take = sql.client.prepare(take).await.expect("prepared");
    let described: Vec<_> = take.columns().iter().map(|column| (column.name(), column.type_().name())).collect();
    assert_eq!(described, [("left_over", "int4"), ("sku", "text")]);
    let rows = sql.client.query(&take, &[&"sku-20", &5_i32]).await.expect("an answer");
    assert_eq!((rows.len(), rows[0].get::<_, i32>(0), rows[0].get::<_, &str>(1)), (1, 15, "sku-20"));
    let changed = sql.client.execute("DELETE FROM stock WHERE sku = $1", &[&"sku-8"]).await.expect("a count");
    assert_eq!(changed, 1);

    let find = "SELECT left_over, price::text FROM stock WHERE sku = $1";
    let found = async |sql: &Sql, sku: &str| -> Vec<(i32, String)> {
        let rows = sql.client.query(find, &[&sku]).await.expect("an answer");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let looks_up = async |sql: &Sql| {
        let plan = sql.table("EXPLAIN SELECT left_over FROM stock WHERE sku = 'sku-20'").await;
        plan.iter().flatten().any(|line| line.contains("KeyLookupExec"))
    };
    until("a key to be looked up", || looks_up(&sql), |looked_up| *looked_up).await;
    let kept =
        [("sku-20", vec![(15, "10.00".to_owned())]), ("sku-495", vec![(494, "247.50".to_owned())]), ("sku-7", vec![])];
    for (sku, rows) in &kept {
        assert_eq!(found(&sql, sku).await, *rows, "{sku}");
    }
    drop(sql);
    node.kill();
    node.restart();
    let sql = Sql::connect(&node).await;
    until("a key to be looked up again", || looks_up(&sql), |looked_up| *looked_up).await;
    for (sku, rows) in &kept {
        assert_eq!(found(&sql, sku).await, *rows, "{sku} after a kill");
    }
    assert_eq!(sql.number("SELECT count(*) FROM stock").await, 498);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_s_topic_gets_no_more_partitions_and_a_stream_s_does() {
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run(STOCK).await;
    sql.run("CREATE STREAM sold (sku STRING, n INT) WITH (kafka_topic = 'sold', partitions = 1)").await;
    let grow = async |topic: &str| {
        let wanted = [NewPartitions::new(topic, 6)];
        let grown = admin(&node).create_partitions(&wanted, &AdminOptions::new()).await.expect("answered");
        grown.into_iter().next().expect("of one topic").map_err(|(_, code)| code)
    };
    assert_eq!(grow("sold").await, Ok("sold".to_owned()));
    assert_eq!(grow("stock").await, Err(RDKafkaErrorCode::PolicyViolation));
    let partitions =
        "SELECT topic, count(*) FROM aquifer.partitions WHERE topic IN ('sold', 'stock') GROUP BY topic ORDER BY 1";
    assert_eq!(sql.table(partitions).await, [["sold", "6"], ["stock", "4"]]);
    // Without its table it is a topic as any other.
    sql.run("DROP TABLE stock").await;
    assert_eq!(grow("stock").await, Ok("stock".to_owned()));
}
