//! Tables with a primary key: rows looked up by key, changed where they lie, and answered by RETURNING.

use std::sync::Arc;

use aquifer_sql::error::SqlState;
use aquifer_sql::session::Session;
use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use aquifer_storage::{Append, Commit, TopicPartition, TransactionChange};
use datafusion::common::ScalarValue;
use proptest::prelude::*;

use crate::node::{self, Record, eventually};
use crate::support::{Node, fails, lines_of, run, run_sorted};

const ACCOUNTS: &str = "CREATE TABLE accounts (id INT PRIMARY KEY, owner STRING, balance DECIMAL(10, 2), note STRING) \
                        WITH (kafka_topic = 'accounts', partitions = 3)";

async fn accounts(node: &Node) -> Session {
    let mut session = node.session();
    run(&mut session, ACCOUNTS).await.unwrap();
    let rows = "INSERT INTO accounts VALUES (1, 'ann', 10.5, NULL), (2, 'bob', 20, 'x'), (3, 'cid', 30, 'y')";
    assert_eq!(run(&mut session, rows).await.unwrap(), ["INSERT 0 3"]);
    session
}

/// Waits until a look-up is what a filter on the key becomes.
async fn looked_up(session: &mut Session, sql: &str) {
    eventually("the state can be looked into", async || {
        let plan = run(session, &format!("EXPLAIN {sql}")).await.unwrap().join("\n");
        plan.contains("KeyLookupExec")
    })
    .await;
}

#[tokio::test]
async fn update_and_delete_change_the_rows_that_the_condition_names() {
    let node = Node::start().await;
    let mut session = accounts(&node).await;
    let mut says = async |sql: &str| run(&mut session, sql).await.unwrap();
    assert_eq!(
        says("UPDATE accounts SET balance = balance + 1.25, note = owner || '!' WHERE id IN (1, 2)").await,
        ["UPDATE 2"]
    );
    assert_eq!(
        says("UPDATE accounts a SET (owner, note) = (upper(a.owner), NULL) WHERE a.balance > 25").await,
        ["UPDATE 1"]
    );
    let all = "SELECT * FROM accounts ORDER BY id";
    assert_eq!(says(all).await, ["1|ann|11.75|ann!", "2|bob|21.25|bob!", "3|CID|30.00|NULL"]);
    assert_eq!(says("UPDATE accounts SET note = 'z' WHERE id = 9").await, ["UPDATE 0"]);
    assert_eq!(says("UPDATE accounts SET balance = 5 WHERE id = (SELECT max(id) FROM accounts)").await, ["UPDATE 1"]);
    assert_eq!(says("DELETE FROM accounts WHERE owner LIKE 'b%'").await, ["DELETE 1"]);
    assert_eq!(says("SELECT id, balance FROM accounts ORDER BY id").await, ["1|11.75", "3|5.00"]);
    assert_eq!(says("DELETE FROM accounts").await, ["DELETE 2"]);
    assert_eq!(says("SELECT count(*) FROM accounts").await, ["0"]);
    assert_eq!(says("SELECT count(*) FROM topics.accounts WHERE _value IS NULL").await, ["3"]);
}

#[tokio::test]
async fn new_values_are_checked_as_inserted_ones_are_and_nothing_is_changed_by_halves() {
    let node = Node::start().await;
    let mut session = accounts(&node).await;
    run(&mut session, "CREATE TABLE strict (k STRING PRIMARY KEY, n SMALLINT NOT NULL)").await.unwrap();
    run(&mut session, "INSERT INTO strict VALUES ('a', 1), ('b', 30000)").await.unwrap();
    let refused = [
        ("UPDATE strict SET n = n + 10000", SqlState::NumericValueOutOfRange),
        ("UPDATE strict SET n = NULL WHERE k = 'a'", SqlState::NotNullViolation),
        ("UPDATE strict SET n = 'seven'", SqlState::InvalidTextRepresentation),
        ("UPDATE strict SET nothing = 1", SqlState::UndefinedColumn),
        ("UPDATE strict SET n = 1, n = 2", SqlState::SyntaxError),
        ("UPDATE strict SET k = 'c'", SqlState::FeatureNotSupported),
        ("UPDATE nothing SET n = 1", SqlState::UndefinedTable),
        ("DELETE FROM strict WHERE missing = 1", SqlState::UndefinedColumn),
    ];
    for (sql, state) in refused {
        let error = fails(&mut session, sql).await;
        assert_eq!(error.state, state, "{sql}: {error:?}");
    }
    assert_eq!(run_sorted(&mut session, "SELECT * FROM strict").await.unwrap(), ["a|1", "b|30000"]);
    assert_eq!(run(&mut session, "UPDATE strict SET n = 7.5 WHERE k = 'a'").await.unwrap(), ["UPDATE 1"]);
    assert_eq!(run(&mut session, "SELECT n FROM strict WHERE k = 'a'").await.unwrap(), ["8"], "rounded as assigned");
}

#[tokio::test]
async fn what_has_no_rows_to_change_is_refused_by_name_with_a_hint() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM clicks (id INT KEY, page STRING) WITH (partitions = 1)").await.unwrap();
    run(&mut session, "CREATE TABLE counts AS SELECT page, count(*) AS n FROM clicks GROUP BY page").await.unwrap();
    for (sql, state, named) in [
        ("UPDATE clicks SET page = 'x'", SqlState::FeatureNotSupported, "UPDATE of stream \"clicks\""),
        ("DELETE FROM clicks", SqlState::FeatureNotSupported, "DELETE from stream \"clicks\""),
        ("UPDATE counts SET n = 1", SqlState::ReadOnly, "written by query \"counts\""),
        ("DELETE FROM counts", SqlState::ReadOnly, "written by query \"counts\""),
    ] {
        let error = fails(&mut session, sql).await;
        assert_eq!(error.state, state, "{sql}: {error:?}");
        assert!(error.message.contains(named) && error.hint.is_some(), "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn returning_answers_with_the_rows_written() {
    let node = Node::start().await;
    let mut session = accounts(&node).await;
    let mut says = async |sql: &str| run_sorted(&mut session, sql).await.unwrap();
    assert_eq!(says("INSERT INTO accounts (id, owner) VALUES (4, 'dan') RETURNING *").await, ["4|dan|NULL|NULL"]);
    assert_eq!(
        says(
            "UPDATE accounts AS a SET balance = balance * 2 WHERE id < 3 RETURNING a.id, balance AS now, a.owner || '?'"
        )
        .await,
        ["1|21.00|ann?", "2|40.00|bob?"]
    );
    assert_eq!(says("DELETE FROM accounts WHERE id = 3 RETURNING owner").await, ["cid"]);
    assert_eq!(says("DELETE FROM accounts WHERE id = 3 RETURNING owner").await, Vec::<String>::new());
    for (sql, state) in [
        ("DELETE FROM accounts RETURNING count(*)", SqlState::GroupingError),
        ("DELETE FROM accounts RETURNING (SELECT 1)", SqlState::FeatureNotSupported),
        ("DELETE FROM accounts RETURNING missing", SqlState::UndefinedColumn),
    ] {
        let error = fails(&mut session, sql).await;
        assert_eq!(error.state, state, "{sql}: {error:?}");
    }
    assert_eq!(run(&mut session, "SELECT count(*) FROM accounts").await.unwrap(), ["3"], "nothing was deleted");
}

#[tokio::test]
async fn returning_is_described_before_it_runs_and_parameters_have_the_columns_types() {
    let node = Node::start().await;
    let mut session = accounts(&node).await;
    let sql = "UPDATE accounts SET balance = $2, note = $3 WHERE id = $1 RETURNING id, balance";
    let statement = session.parse(sql).unwrap().remove(0);
    let prepared = session.prepare(&statement, &[]).await.unwrap();
    let columns: Vec<_> = prepared.columns.as_ref().unwrap().iter().map(|column| column.name.as_str()).collect();
    assert_eq!(columns, ["id", "balance"]);
    let kinds: Vec<String> = prepared.parameters.iter().map(ToString::to_string).collect();
    assert_eq!(kinds, ["Int32", "Decimal128(10, 2)", "Utf8"]);
    let parameters = vec![
        ScalarValue::Int32(Some(2)),
        ScalarValue::Decimal128(Some(725), 10, 2),
        ScalarValue::Utf8(Some("paid".to_owned())),
    ];
    let outcome = session.execute(&prepared, parameters).await.unwrap();
    assert_eq!(lines_of(outcome).await.unwrap(), ["2|7.25"]);
    assert_eq!(run(&mut session, "SELECT balance, note FROM accounts WHERE id = 2").await.unwrap(), ["7.25|paid"]);
}

#[tokio::test]
async fn a_block_changes_what_it_has_written_itself_and_rollback_leaves_nothing() {
    let node = Node::start().await;
    let mut session = accounts(&node).await;
    let mut other = node.session();
    let mut says = async |sql: &str| run(&mut session, sql).await.unwrap();
    let all = "SELECT id, balance FROM accounts ORDER BY id";
    says("BEGIN; INSERT INTO accounts VALUES (4, 'dan', 1, NULL)").await;
    assert_eq!(says("UPDATE accounts SET balance = balance + 1 WHERE id = 4").await, ["UPDATE 1"]);
    assert_eq!(says("UPDATE accounts SET balance = balance + 1 WHERE balance <= 10.5").await, ["UPDATE 2"]);
    says("SAVEPOINT s").await;
    assert_eq!(says("DELETE FROM accounts WHERE balance = 3 RETURNING id").await, ["4"]);
    assert_eq!(says("DELETE FROM accounts WHERE id = 4").await, ["DELETE 0"]);
    says("ROLLBACK TO s").await;
    assert_eq!(run(&mut other, all).await.unwrap(), ["1|10.50", "2|20.00", "3|30.00"], "not before COMMIT");
    says("COMMIT").await;
    assert_eq!(run(&mut other, all).await.unwrap(), ["1|11.50", "2|20.00", "3|30.00", "4|3.00"]);
    says("BEGIN; UPDATE accounts SET balance = 0; DELETE FROM accounts WHERE id = 1; ROLLBACK").await;
    assert_eq!(says(all).await, ["1|11.50", "2|20.00", "3|30.00", "4|3.00"]);
}

#[tokio::test]
async fn a_row_that_somebody_else_has_changed_meanwhile_fails_the_block_and_others_do_not() {
    let node = Node::start().await;
    let mut session = accounts(&node).await;
    let mut other = node.session();
    run(&mut session, "BEGIN; UPDATE accounts SET balance = balance + 1 WHERE id = 1").await.unwrap();
    run(&mut other, "UPDATE accounts SET balance = balance + 1 WHERE id = 2").await.unwrap();
    run(&mut session, "COMMIT").await.unwrap();
    run(&mut session, "BEGIN; UPDATE accounts SET balance = balance + 1 WHERE id = 1").await.unwrap();
    run(&mut other, "INSERT INTO accounts VALUES (1, 'eve', 0, NULL)").await.unwrap();
    let error = fails(&mut session, "COMMIT").await;
    assert_eq!((error.state, error.state.code()), (SqlState::SerializationFailure, "40001"), "{error:?}");
    let all = "SELECT id, owner, balance FROM accounts ORDER BY id";
    assert_eq!(run(&mut session, all).await.unwrap(), ["1|eve|0.00", "2|bob|21.00", "3|cid|30.00"]);
}

#[tokio::test]
async fn an_update_does_not_wait_for_ever_for_somebody_else_s_transaction() {
    let node = Node::start().await;
    let mut session = accounts(&node).await;
    let topic = node.storage.topic("accounts").unwrap().id;
    let (transactional_id, partitions) = ("theirs".to_owned(), vec![TopicPartition { topic, partition: 0 }]);
    let step = async |change| {
        let commit = Commit { transactions: vec![change], ..Commit::default() };
        node.storage.commit(commit).await.unwrap().transactions[0]
    };
    let (timeout_ms, expected) = (60_000, None);
    let id = transactional_id.clone();
    let producer = step(TransactionChange::Init { transactional_id: id, timeout_ms, expected }).await;
    let id = transactional_id.clone();
    step(TransactionChange::AddPartitions { transactional_id: id, producer, partitions }).await;
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    builder.push(0, Some(&9_i32.to_be_bytes()), Some(b"{}"), &[]);
    let batch = builder.build(Compression::None).unwrap().in_transaction(producer, 0);
    let appends = vec![Append { topic, partition: 0, batch }];
    node.storage.commit(Commit { appends, ..Commit::default() }).await.unwrap();
    let error = fails(&mut session, "UPDATE accounts SET note = 'w'").await;
    assert_eq!(error.state, SqlState::ObjectInUse, "{error:?}");
    assert!(error.hint.is_some_and(|hint| hint.contains("aquifer.abort_transaction")));
    step(TransactionChange::End { transactional_id, producer, committed: true }).await;
    assert_eq!(run(&mut session, "UPDATE accounts SET note = 'w'").await.unwrap(), ["UPDATE 4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_of_a_counter_is_lost() {
    const WRITERS: usize = 6;
    const ROUNDS: usize = 10;
    let node = Arc::new(Node::start().await);
    let mut session = node.session();
    run(&mut session, "CREATE TABLE counters (k STRING PRIMARY KEY, n BIGINT)").await.unwrap();
    run(&mut session, "INSERT INTO counters VALUES ('a', 0)").await.unwrap();
    let write = |node: Arc<Node>| async move {
        let mut session = node.session();
        for _ in 0..ROUNDS {
            let answer = run(&mut session, "UPDATE counters SET n = n + 1 WHERE k = 'a'").await.unwrap();
            assert_eq!(answer, ["UPDATE 1"]);
        }
    };
    let writers: Vec<_> = (0..WRITERS).map(|_| tokio::spawn(write(Arc::clone(&node)))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let total = (WRITERS * ROUNDS).to_string();
    assert_eq!(run(&mut session, "SELECT n FROM counters WHERE k = 'a'").await.unwrap(), [total]);
}

#[tokio::test]
async fn a_join_gathers_the_table_and_streams_the_stream() {
    let node = Node::start().await;
    let mut session = accounts(&node).await;
    run(&mut session, "CREATE STREAM payments (account INT, cents BIGINT)").await.unwrap();
    let paid = "INSERT INTO payments SELECT 1 + i % 3, i FROM generate_series(1, 30) AS n(i)";
    assert_eq!(run(&mut session, paid).await.unwrap(), ["INSERT 0 30"]);
    let join =
        "SELECT owner, sum(cents) FROM payments p JOIN accounts a ON p.account = a.id GROUP BY owner ORDER BY owner";
    assert_eq!(run(&mut session, join).await.unwrap(), ["ann|165", "bob|145", "cid|155"]);
    let plan = run(&mut session, &format!("EXPLAIN {join}")).await.unwrap().join("\n");
    // What a hash join gathers is its first input.
    let at = |name: &str| plan.find(&format!("ScanExec: {name}")).unwrap();
    assert!(at("accounts") < at("payments"), "{plan}");
}

#[tokio::test]
async fn a_key_is_looked_up_once_there_is_state_also_when_prepared_and_after_a_restart() {
    let node = Node::start().await;
    let mut session = accounts(&node).await;
    let by_key = "SELECT id, owner FROM accounts WHERE id = 2";
    looked_up(&mut session, by_key).await;
    let analyzed = run(&mut session, &format!("EXPLAIN ANALYZE {by_key}")).await.unwrap().join("\n");
    assert!(analyzed.contains("answered_by_state=1") && !analyzed.contains("ScanExec"), "{analyzed}");
    for sql in [by_key, "SELECT id, owner FROM accounts WHERE id IN (2, 7) AND owner = 'bob'"] {
        assert_eq!(run(&mut session, sql).await.unwrap(), ["2|bob"], "{sql}");
    }
    assert_eq!(run(&mut session, "SELECT owner FROM accounts WHERE id = 2 AND owner = 'ann'").await.unwrap().len(), 0);
    let statement = session.parse("SELECT owner AS who, balance FROM accounts WHERE id = $1").unwrap().remove(0);
    let prepared = session.prepare(&statement, &[]).await.unwrap();
    for (id, found) in [(1, vec!["ann|10.50"]), (9, vec![]), (3, vec!["cid|30.00"])] {
        let outcome = session.execute(&prepared, vec![ScalarValue::Int32(Some(id))]).await.unwrap();
        assert_eq!(lines_of(outcome).await.unwrap(), found);
    }
    drop((session, prepared));
    let node = node.restart().await;
    let mut session = node.session();
    looked_up(&mut session, by_key).await;
    assert_eq!(run(&mut session, by_key).await.unwrap(), ["2|bob"]);
}

/// One act on a table whose key has two columns, and so is JSON.
#[derive(Clone, Debug)]
enum Act {
    Insert(u8, u8, u16),
    Update(u8, u16),
    Delete(u8, u8),
    /// By a Kafka client: key columns and value as they stand, in a partition of its own choice.
    Foreign {
        partition: i32,
        key: String,
        value: Option<String>,
    },
    Checkpoint,
}

fn act() -> impl Strategy<Value = Act> {
    let keys = prop::sample::select(vec![r#"{"a":1,"b":"1"}"#, r#"{"a":2,"b":"0"}"#, "no key"]);
    let odd_keys = prop::sample::select(vec![r#"{"b":"1","a":1}"#, r#"{ "a":2,"b":"0"}"#]);
    let key = prop_oneof![5 => keys, 1 => odd_keys];
    let value = prop::sample::select(vec![Some(r#"{"n":1}"#), Some("broken"), Some(r#"{"n":"x"}"#), None]);
    prop_oneof![
        6 => (0..4_u8, 0..3_u8, any::<u16>()).prop_map(|(a, b, n)| Act::Insert(a, b, n)),
        3 => (0..4_u8, any::<u16>()).prop_map(|(a, n)| Act::Update(a, n)),
        2 => (0..4_u8, 0..3_u8).prop_map(|(a, b)| Act::Delete(a, b)),
        3 => (0..2_i32, key, value).prop_map(|(partition, key, value)| Act::Foreign {
            partition,
            key: key.to_owned(),
            value: value.map(str::to_owned),
        }),
        1 => Just(Act::Checkpoint),
    ]
}

async fn run_acts(acts: Vec<Act>) {
    let home = tempfile::tempdir().unwrap();
    let mut node = node::Node::open(home.path()).await;
    node.run(
        "CREATE TABLE t (a BIGINT PRIMARY KEY, b STRING PRIMARY KEY, n INT) WITH (kafka_topic = 't', partitions = 2)",
    )
    .await;
    for act in acts {
        match act {
            Act::Insert(a, b, n) => drop(node.run(&format!("INSERT INTO t VALUES ({a}, '{b}', {n})")).await),
            Act::Update(a, n) => drop(node.run(&format!("UPDATE t SET n = {n} WHERE a = {a} AND n < 30000")).await),
            Act::Delete(a, b) => drop(node.run(&format!("DELETE FROM t WHERE a = {a} AND b = '{b}'")).await),
            Act::Foreign { partition, key, value } => {
                let record = Record { key: Some(key), value, ..Record::default() };
                node.append("t", partition, &[record]).await;
            }
            Act::Checkpoint => drop(node.run("CHECKPOINT").await),
        }
        for (a, b) in [(1, "1"), (2, "0"), (3, "2")] {
            let by_key = format!("SELECT _partition, _offset, a, b, n FROM t WHERE a = {a} AND b = '{b}'");
            // The sum hides the key from whoever looks for one.
            let by_scan = format!("SELECT _partition, _offset, a, b, n FROM t WHERE a + 0 = {a} AND b || '' = '{b}'");
            let order = "ORDER BY _partition, _offset";
            let found = node.run(&format!("{by_key} {order}")).await;
            assert_eq!(found, node.run(&format!("{by_scan} {order}")).await, "{by_key}");
        }
    }
    node.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_row_by_its_key_is_the_row_a_scan_finds(acts in prop::collection::vec(act(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run_acts(acts));
    }
}
