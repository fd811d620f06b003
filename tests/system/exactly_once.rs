//! The guide's consume-transform-produce with `sendOffsets`, by foreign clients: commit, abort, and a crash in the middle
//! whose successor fences it. For a read_committed consumer each input is there once, and the group's offsets agree.

use crate::support::foreign::Foreign;
use crate::support::kafka::{produce, producer, read_to_end};
use crate::support::node::Node;
use crate::support::sql::Sql;
use rdkafka::Message;

const PARTITIONS: i64 = 3;

/// The numbers in a topic's records, in order, as a reader of this isolation level sees them.
async fn numbers(node: &Node, topic: &str, isolation: &str) -> Vec<i64> {
    let numbers = read_to_end(node, topic, isolation).await.into_iter().map(|record| {
        let value: serde_json::Value = serde_json::from_slice(record.payload().expect("a value")).expect("JSON");
        value["n"].as_i64().expect("a number")
    });
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

async fn check(node: &Node, sql: &Sql, output: &str, inputs: i64) {
    let expected: Vec<_> = (0..inputs).collect();
    assert_eq!(numbers(node, output, "read_committed").await, expected, "{output}: each input once");
    let rows = sql.number(&format!("SELECT count(*) FROM topics.\"{output}\"")).await;
    assert_eq!(rows, inputs, "{output}: SQL counts the same");
    let lag = format!("SELECT count(*), sum(lag) FROM aquifer.consumer_lag WHERE group_id = '{output}-group'");
    assert_eq!(
        sql.table(&lag).await,
        [[PARTITIONS.to_string(), "0".to_owned()]],
        "{output}: the group's offsets agree"
    );
    let open = "SELECT count(*) FROM aquifer.transactions WHERE state = 'Ongoing'";
    assert_eq!(sql.number(open).await, 0, "{output}: nothing is left open");
}

/// Runs one program in its three behaviours over the same input. `aborts` is how many outputs it aborts at the least.
async fn transform(client: Foreign, program: &str, inputs: i64) {
    if client.find().is_none() {
        return;
    }
    let node = Node::start();
    let sql = Sql::connect(&node).await;
    let writer = producer(&node);
    for number in 0..inputs {
        produce(&writer, "input", &format!("key-{number}"), &format!("{{\"n\":{number}}}")).await;
    }
    let bootstrap = node.bootstrap();
    let run = |output: &str, behaviour: &str| {
        let id = format!("{output}-transform");
        let ended = client.run(&[program, &bootstrap, "input", output, &id, behaviour]);
        ended.expect("installed")
    };

    run("committed", "commit").expect_success(program);
    check(&node, &sql, "committed", inputs).await;
    assert_eq!(numbers(&node, "committed", "read_uncommitted").await.len(), usize::try_from(inputs).expect("small"));

    let told = run("aborted", "abort").expect_success(program);
    check(&node, &sql, "aborted", inputs).await;
    let told: serde_json::Value = serde_json::from_str(told.trim()).expect("a line of JSON");
    let all = i64::try_from(numbers(&node, "aborted", "read_uncommitted").await.len()).expect("small");
    let aborted = told["aborted"].as_i64().expect("a number");
    assert!(aborted > 0, "{told}");
    assert_eq!(all, inputs + aborted, "aborted records are there for who asks for them");

    let ended = run("crashed", "crash");
    assert!(!ended.success, "the first instance dies: {ended:?}");
    let standing = "SELECT state, epoch, partitions, groups FROM aquifer.transactions \
                    WHERE transactional_id = 'crashed-transform'";
    let hanging = sql.table(standing).await;
    assert_eq!((hanging[0][0].as_str(), hanging[0][3].as_str()), ("Ongoing", "{crashed-group}"), "{hanging:?}");
    let before = numbers(&node, "crashed", "read_committed").await;
    assert!(!before.is_empty() && before.len() < usize::try_from(inputs).expect("small"), "{before:?}");
    run("crashed", "commit").expect_success(program);
    check(&node, &sql, "crashed", inputs).await;
    let epoch = |rows: &[Vec<String>]| rows[0][1].parse::<i32>().expect("a number");
    assert!(epoch(&sql.table(standing).await) > epoch(&hanging), "the second instance has fenced the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkajs_transforms_exactly_once_through_commit_abort_and_crash() {
    transform(Foreign::Node, "guide-transactions.mjs", 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn confluent_kafka_transforms_exactly_once_through_commit_abort_and_crash() {
    transform(Foreign::Python, "guide_transactions.py", 200).await;
}

#[test]
fn kafkas_own_client_and_its_admin_agree_with_us_about_transactions() {
    let node = Node::start();
    let Some(ended) = Foreign::Java.run(&["-cp", "java/lib/*", "java/Transactions.java", &node.bootstrap()]) else {
        return;
    };
    assert!(ended.expect_success("java/Transactions.java").contains("7 passed"));
}
