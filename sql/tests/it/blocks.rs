//! Transaction blocks: their statements read the block's own writes, nobody else does, and COMMIT makes all of it there at once.

use aquifer_sql::session::Session;
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use proptest::prelude::*;

use crate::node::eventually;
use crate::support::{Node, copy_in, fails, lines_of, run};

const TABLE: &str = "CREATE TABLE t (k INT PRIMARY KEY, n INT, note STRING) WITH (kafka_topic = 't', partitions = 2)";
const STREAM: &str = "CREATE STREAM s (k INT KEY, n INT) WITH (kafka_topic = 's', partitions = 1)";

async fn says(session: &mut Session, sql: &str) -> Vec<String> {
    run(session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

#[tokio::test]
async fn a_select_reads_the_block_s_own_rows_whatever_wrote_them_and_others_do_not() {
    let node = Node::start().await;
    let (mut session, mut other) = (node.session(), node.session());
    says(&mut session, TABLE).await;
    says(&mut session, STREAM).await;
    says(&mut session, "INSERT INTO t VALUES (1, 10, 'old'), (2, 20, 'old'); INSERT INTO s VALUES (1, 1), (2, 2)")
        .await;
    says(&mut session, "BEGIN; INSERT INTO s VALUES (3, 3); INSERT INTO t VALUES (3, 30, 'new')").await;
    copy_in(&mut session, "COPY s FROM STDIN", b"4\t4\n5\t5\n").await.unwrap();
    says(&mut session, "UPDATE t SET n = n + 1 WHERE k <> 1; DELETE FROM t WHERE k = 1").await;
    for (sql, expected) in [
        ("SELECT k, n FROM t ORDER BY k", &["2|21", "3|31"][..]),
        ("SELECT n FROM t WHERE k = 3", &["31"]),
        ("SELECT count(*) FROM t WHERE k = 1", &["0"]),
        ("SELECT _offset, k FROM s ORDER BY _offset", &["0|1", "1|2", "2|3", "3|4", "4|5"]),
        ("SELECT k FROM s ORDER BY _offset DESC LIMIT 2", &["5", "4"]),
        ("SELECT k FROM s WHERE _offset >= 3 ORDER BY 1", &["4", "5"]),
        ("SELECT count(*), max(_offset) FROM topics.s", &["5|4"]),
        ("SELECT count(*) FROM topics.t WHERE _value IS NULL", &["1"]),
        ("SELECT s.n, t.n FROM s JOIN t ON s.k = t.k ORDER BY 1", &["2|21", "3|31"]),
        ("SELECT count(*) FROM s WHERE _committed_at > now() - INTERVAL '1 hour'", &["5"]),
        ("SELECT count(*) FROM s WINDOW TUMBLING (SIZE 1000 DAYS) GROUP BY _partition", &["5"]),
        ("COPY (SELECT k FROM t ORDER BY k) TO STDOUT", &["2", "3"]),
        ("SELECT k FROM t WHERE k = ANY (SELECT k FROM s WHERE n > 2)", &["3"]),
    ] {
        let found = says(&mut session, sql).await;
        let cut: Vec<&str> = if sql.contains("WINDOW") {
            found.iter().map(|line| line.split('|').next().unwrap_or_default()).collect()
        } else {
            found.iter().map(String::as_str).collect()
        };
        assert_eq!(cut, expected, "{sql}");
    }
    let plan = says(&mut session, "EXPLAIN ANALYZE SELECT count(*) FROM s WHERE n > 0").await.join("\n");
    assert!(plan.contains("output_rows=5") || plan.contains("0..5"), "{plan}");
    assert_eq!(says(&mut session, "INSERT INTO s SELECT k + 10, n FROM s WHERE n > 3").await, ["INSERT 0 2"]);
    assert_eq!(says(&mut session, "SELECT count(*) FROM s").await, ["7"]);
    for (sql, expected) in
        [("SELECT k, n FROM t ORDER BY k", &["1|10", "2|20"][..]), ("SELECT count(*) FROM s", &["2"])]
    {
        assert_eq!(says(&mut other, sql).await, expected, "nobody else: {sql}");
    }
    says(&mut session, "COMMIT").await;
    assert_eq!(says(&mut other, "SELECT k, n FROM t ORDER BY k").await, ["2|21", "3|31"]);
    assert_eq!(says(&mut other, "SELECT count(*), max(_offset) FROM s").await, ["7|6"]);
}

#[tokio::test]
async fn each_statement_of_a_block_reads_what_others_have_committed_before_it() {
    let node = Node::start().await;
    let (mut session, mut other) = (node.session(), node.session());
    says(&mut session, TABLE).await;
    says(&mut session, "BEGIN; INSERT INTO t VALUES (1, 1, 'mine')").await;
    says(&mut other, "INSERT INTO t VALUES (1, 2, 'theirs'), (2, 2, 'theirs')").await;
    let all = "SELECT k, n, note FROM t ORDER BY k";
    assert_eq!(says(&mut session, all).await, ["1|1|mine", "2|2|theirs"], "what is own stands behind all others'");
    says(&mut other, "DELETE FROM t WHERE k = 2").await;
    assert_eq!(says(&mut session, all).await, ["1|1|mine"]);
    says(&mut session, "COMMIT").await;
    assert_eq!(says(&mut other, all).await, ["1|1|mine"]);
}

#[tokio::test]
async fn the_past_does_not_have_what_is_not_committed() {
    let node = Node::start().await;
    let mut session = node.session();
    says(&mut session, &format!("{STREAM}; {TABLE}")).await;
    says(&mut session, "INSERT INTO s VALUES (1, 1); INSERT INTO t VALUES (1, 1, NULL)").await;
    says(&mut session, "BEGIN; INSERT INTO s VALUES (2, 2); UPDATE t SET n = 9").await;
    assert_eq!(says(&mut session, "SELECT count(*) FROM s FOR SYSTEM_TIME AS OF now()").await, ["1"]);
    assert_eq!(says(&mut session, "SELECT n FROM t FOR SYSTEM_TIME AS OF now()").await, ["1"]);
    assert_eq!(
        says(&mut session, "SELECT now_n.n, was.n FROM t now_n, t FOR SYSTEM_TIME AS OF now() was").await,
        ["9|1"]
    );
}

#[tokio::test]
async fn what_savepoints_take_back_is_not_read_any_more() {
    let node = Node::start().await;
    let mut session = node.session();
    says(&mut session, TABLE).await;
    let all = "SELECT k, n FROM t ORDER BY k";
    says(&mut session, "BEGIN; INSERT INTO t VALUES (1, 1, NULL); SAVEPOINT a; INSERT INTO t VALUES (2, 2, NULL)")
        .await;
    says(&mut session, "SAVEPOINT b; UPDATE t SET n = n * 10").await;
    assert_eq!(says(&mut session, all).await, ["1|10", "2|20"]);
    says(&mut session, "ROLLBACK TO b").await;
    assert_eq!(says(&mut session, all).await, ["1|1", "2|2"]);
    assert_eq!(fails(&mut session, "INSERT INTO t VALUES (NULL, 1, NULL)").await.state.code(), "23502");
    assert_eq!(fails(&mut session, all).await.state.code(), "25P02");
    says(&mut session, "ROLLBACK TO a").await;
    assert_eq!(says(&mut session, all).await, ["1|1"]);
    says(&mut session, "RELEASE a; INSERT INTO t VALUES (3, 3, NULL); COMMIT").await;
    assert_eq!(says(&mut session, all).await, ["1|1", "3|3"]);
}

#[tokio::test]
async fn on_conflict_meets_the_block_s_own_rows() {
    let node = Node::start().await;
    let (mut session, mut other) = (node.session(), node.session());
    says(&mut session, TABLE).await;
    let count = "INSERT INTO t (k, n) VALUES (1, 1) ON CONFLICT (k) DO UPDATE SET n = t.n + excluded.n RETURNING n";
    says(&mut session, "BEGIN").await;
    for expected in ["1", "2", "3"] {
        assert_eq!(says(&mut session, count).await, [expected]);
    }
    says(&mut session, "DELETE FROM t WHERE k = 1").await;
    assert_eq!(says(&mut session, count).await, ["1"]);
    let nothing = "INSERT INTO t (k, n) VALUES (1, 7), (2, 7) ON CONFLICT DO NOTHING RETURNING k";
    assert_eq!(says(&mut session, nothing).await, ["2"]);
    assert_eq!(says(&mut session, nothing).await, Vec::<String>::new());
    assert_eq!(says(&mut other, "SELECT count(*) FROM t").await, ["0"]);
    says(&mut session, "COMMIT").await;
    assert_eq!(says(&mut other, "SELECT k, n FROM t ORDER BY k").await, ["1|1", "2|7"]);
}

#[tokio::test]
async fn a_prepared_look_up_by_key_reads_own_rows_too() {
    let node = Node::start().await;
    let mut session = node.session();
    says(&mut session, TABLE).await;
    says(&mut session, "INSERT INTO t VALUES (1, 1, 'a')").await;
    eventually("the state can be looked into", async || {
        says(&mut session, "EXPLAIN SELECT n FROM t WHERE k = 1").await.join("\n").contains("KeyLookupExec")
    })
    .await;
    let statement = session.parse("SELECT n, note FROM t WHERE k = $1").unwrap().remove(0);
    let prepared = session.prepare(&statement, &[Some(DataType::Int32)]).await.unwrap();
    says(&mut session, "BEGIN; UPDATE t SET n = 2 WHERE k = 1; INSERT INTO t VALUES (5, 5, 'b')").await;
    for (key, expected) in [(1, &["2|a"][..]), (5, &["5|b"]), (6, &[])] {
        let outcome = session.execute(&prepared, vec![ScalarValue::Int32(Some(key))]).await.unwrap();
        assert_eq!(lines_of(outcome).await.unwrap(), expected);
    }
    says(&mut session, "DELETE FROM t WHERE k = 1").await;
    let outcome = session.execute(&prepared, vec![ScalarValue::Int32(Some(1))]).await.unwrap();
    assert_eq!(lines_of(outcome).await.unwrap(), Vec::<String>::new());
    says(&mut session, "ROLLBACK").await;
    let outcome = session.execute(&prepared, vec![ScalarValue::Int32(Some(1))]).await.unwrap();
    assert_eq!(lines_of(outcome).await.unwrap(), ["1|a"]);
}

#[tokio::test]
async fn what_a_block_has_let_go_is_refused_to_be_read_and_everything_else_is_not() {
    let node = Node::start().await;
    let mut session = node.session();
    says(&mut session, "CREATE STREAM large (n INT, filler STRING) WITH (partitions = 1)").await;
    says(&mut session, &format!("{TABLE}; {STREAM}; BEGIN; INSERT INTO t VALUES (1, 1, NULL)")).await;
    let filler = "x".repeat(100_000);
    let lines: Vec<u8> = (0..400).flat_map(|n| format!("{n}\t{filler}\n").into_bytes()).collect();
    let statement = session.parse("COPY large FROM STDIN").unwrap().remove(0);
    let prepared = session.prepare(&statement, &[]).await.unwrap();
    let aquifer_sql::session::Outcome::CopyIn(mut copy) = session.execute(&prepared, Vec::new()).await.unwrap() else {
        panic!("takes data")
    };
    copy.write(&lines).await.unwrap();
    session.end_copy(*copy).await.unwrap();
    assert_eq!(says(&mut session, "SELECT count(*) FROM s").await, ["0"]);
    says(&mut session, "INSERT INTO s VALUES (1, 1)").await;
    assert_eq!(says(&mut session, "SELECT count(*) FROM s").await, ["1"], "it is in memory");
    let error = fails(&mut session, "SELECT count(*) FROM large").await;
    assert_eq!(error.state.code(), "54000", "{error:?}");
    assert!(error.message.contains("large") && error.hint.is_some_and(|hint| hint.contains("COMMIT")));
    says(&mut session, "ROLLBACK").await;
    assert_eq!(says(&mut session, "SELECT count(*) FROM large").await, ["0"]);
}

/// One act on a table and a stream.
#[derive(Clone, Debug)]
enum Act {
    Run(String),
    Copy(i32),
    /// On the block's side only.
    TakenBack(String),
}

fn act() -> impl Strategy<Value = Act> {
    let (k, n) = (0..4_i32, 0..100_i32);
    let statement = prop_oneof![
        (k.clone(), n.clone()).prop_map(|(k, n)| format!("INSERT INTO t VALUES ({k}, {n}, 'i')")),
        (k.clone(), n.clone()).prop_map(|(k, n)| format!("INSERT INTO t VALUES ({k}, {n}, 'm'), ({}, {n}, 'm')", k + 1)),
        (k.clone(), n.clone()).prop_map(|(k, n)| format!(
            "INSERT INTO t VALUES ({k}, {n}, 'c') ON CONFLICT (k) DO UPDATE SET n = t.n + excluded.n, note = t.note || 'c'"
        )),
        (k.clone(), n.clone()).prop_map(|(k, n)| format!("INSERT INTO t VALUES ({k}, {n}, 'd') ON CONFLICT DO NOTHING")),
        n.clone().prop_map(|n| format!("UPDATE t SET n = n + 1 WHERE n < {n}")),
        k.clone().prop_map(|k| format!("UPDATE t SET note = s.k || '!' FROM s WHERE s.k = t.k AND t.k <> {k}")),
        k.clone().prop_map(|k| format!("DELETE FROM t WHERE k = {k}")),
        k.clone().prop_map(|k| format!("DELETE FROM t USING s WHERE s.k = t.k AND s.n = {k}")),
        (k.clone(), n).prop_map(|(k, n)| format!("INSERT INTO s VALUES ({k}, {n})")),
        k.clone().prop_map(|k| format!("INSERT INTO s SELECT k, n % 10 FROM t WHERE k > {k} ORDER BY k")),
    ];
    prop_oneof![
        8 => statement.clone().prop_map(Act::Run),
        1 => k.prop_map(Act::Copy),
        2 => statement.prop_map(Act::TakenBack),
    ]
}

const ASKED: [&str; 6] = [
    "SELECT k, n, note FROM t ORDER BY k",
    "SELECT n, note FROM t WHERE k = 2",
    "SELECT _partition, k, n FROM t ORDER BY k",
    "SELECT _offset, k, n FROM s ORDER BY _offset",
    "SELECT s.k, t.n, count(*) FROM s LEFT JOIN t ON s.k = t.k GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT _partition, count(*), count(_value) FROM topics.t GROUP BY 1 ORDER BY 1",
];

/// In a block on one node what is committed at once on another.
async fn run_acts(before: Vec<Act>, acts: Vec<Act>) {
    let (one, other) = (Node::start().await, Node::start().await);
    let (mut block, mut plain) = (one.session(), other.session());
    let mut apart = one.session();
    for session in [&mut block, &mut plain] {
        says(session, &format!("{TABLE}; {STREAM}")).await;
        for act in &before {
            if let Act::Run(sql) = act {
                says(session, sql).await;
            }
        }
    }
    let mut untouched = Vec::new();
    for sql in ASKED {
        untouched.push(says(&mut apart, sql).await);
    }
    says(&mut block, "BEGIN").await;
    for act in &acts {
        match act {
            Act::Run(sql) => assert_eq!(says(&mut block, sql).await, says(&mut plain, sql).await, "{sql}"),
            Act::Copy(k) => {
                for session in [&mut block, &mut plain] {
                    copy_in(session, "COPY s FROM STDIN CSV", format!("{k},7\n{k},8\n").as_bytes()).await.unwrap();
                }
            }
            Act::TakenBack(sql) => {
                drop(says(&mut block, &format!("SAVEPOINT p; {sql}; ROLLBACK TO p; RELEASE p")).await)
            }
        }
        for sql in ASKED {
            assert_eq!(says(&mut block, sql).await, says(&mut plain, sql).await, "after {act:?}: {sql}");
        }
    }
    for (sql, before) in ASKED.iter().zip(&untouched) {
        assert_eq!(says(&mut apart, sql).await, *before, "nobody else reads it: {sql}");
    }
    says(&mut block, "COMMIT").await;
    for sql in ASKED {
        assert_eq!(says(&mut apart, sql).await, says(&mut plain, sql).await, "committed: {sql}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_block_reads_what_the_same_statements_leave_when_each_is_committed_at_once(
        before in prop::collection::vec(act(), 0..6),
        acts in prop::collection::vec(act(), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run_acts(before, acts));
    }
}
