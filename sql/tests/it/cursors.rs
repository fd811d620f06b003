//! DECLARE, FETCH, MOVE and CLOSE.

use crate::support::{Node, fails, run};

async fn said(session: &mut aquifer_sql::session::Session, sql: &str) -> Vec<String> {
    run(session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

#[tokio::test]
async fn rows_are_fetched_in_portions_and_are_those_of_the_moment_of_declare() {
    let node = Node::start().await;
    let mut session = node.session();
    said(&mut session, "CREATE TABLE t (k INT PRIMARY KEY, v TEXT)").await;
    said(&mut session, "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20000) g(i)").await;
    said(&mut session, "BEGIN").await;
    said(&mut session, "INSERT INTO t VALUES (0, 'own')").await;
    said(&mut session, "DECLARE c CURSOR FOR SELECT k, v FROM t ORDER BY k").await;
    said(&mut session, "DELETE FROM t WHERE k < 5").await;
    assert_eq!(said(&mut session, "FETCH c").await, ["0|own"]);
    assert_eq!(said(&mut session, "FETCH 2 FROM c").await, ["1|v1", "2|v2"]);
    assert_eq!(said(&mut session, "MOVE FORWARD 9000 IN c").await, ["MOVE 9000"]);
    assert_eq!(said(&mut session, "FETCH NEXT FROM c").await, ["9003|v9003"]);
    let rest = said(&mut session, "FETCH ALL FROM c").await;
    assert_eq!((rest.len(), rest[0].as_str(), rest[10_996].as_str()), (10_997, "9004|v9004", "20000|v20000"));
    assert!(said(&mut session, "FETCH 3 FROM c").await.is_empty(), "nothing is left, as often as it is asked");
    assert!(said(&mut session, "FETCH ALL FROM c").await.is_empty());
    assert_eq!(said(&mut session, "CLOSE c").await, ["CLOSE CURSOR"]);
    assert_eq!(fails(&mut session, "FETCH c").await.state.code(), "34000");
    said(&mut session, "ROLLBACK").await;
    assert_eq!(said(&mut session, "SELECT count(*) FROM t").await, ["20000"]);
}

#[tokio::test]
async fn a_cursor_ends_with_its_block_unless_it_is_held() {
    let node = Node::start().await;
    let mut session = node.session();
    assert_eq!(fails(&mut session, "DECLARE c CURSOR FOR SELECT 1").await.state.code(), "25P01");
    said(&mut session, "DECLARE early CURSOR WITH HOLD FOR SELECT * FROM generate_series(1, 3)").await;
    for (end, held) in [("COMMIT", true), ("ROLLBACK", false)] {
        said(&mut session, "BEGIN").await;
        said(&mut session, "DECLARE short CURSOR FOR SELECT 1").await;
        said(&mut session, "DECLARE held CURSOR WITH HOLD FOR SELECT 2").await;
        said(&mut session, end).await;
        assert_eq!(fails(&mut session, "FETCH short").await.state.code(), "34000");
        match held {
            true => assert_eq!(said(&mut session, "FETCH held").await, ["2"]),
            false => assert_eq!(fails(&mut session, "FETCH held").await.state.code(), "34000", "it was never declared"),
        }
        assert_eq!(said(&mut session, "FETCH early").await.len(), 1);
        said(&mut session, if held { "CLOSE held" } else { "SELECT 1" }).await;
    }
    said(&mut session, "BEGIN; SAVEPOINT s; DECLARE later CURSOR FOR SELECT 1; ROLLBACK TO s").await;
    assert_eq!(fails(&mut session, "FETCH later").await.state.code(), "34000");
    said(&mut session, "ROLLBACK").await;
    assert_eq!(said(&mut session, "FETCH early").await, ["3"]);
    said(&mut session, "DISCARD ALL").await;
    assert_eq!(fails(&mut session, "FETCH early").await.state.code(), "34000");
}

#[tokio::test]
async fn a_cursor_that_fails_stays_so_and_names_are_taken_once() {
    let node = Node::start().await;
    let mut session = node.session();
    said(&mut session, "DECLARE c CURSOR WITH HOLD FOR SELECT 10 / (3 - i) FROM generate_series(1, 5) g(i)").await;
    assert_eq!(fails(&mut session, "DECLARE c CURSOR WITH HOLD FOR SELECT 1").await.state.code(), "42P03");
    assert_eq!(fails(&mut session, "FETCH ALL FROM c").await.state.code(), "22012");
    assert_eq!(fails(&mut session, "FETCH ALL FROM c").await.state.code(), "55000");
    said(&mut session, "CLOSE ALL").await;
    for number in 0..64 {
        said(&mut session, &format!("DECLARE c{number} CURSOR WITH HOLD FOR SELECT {number}")).await;
    }
    assert_eq!(fails(&mut session, "DECLARE more CURSOR WITH HOLD FOR SELECT 1").await.state.code(), "54000");
    assert_eq!(said(&mut session, "FETCH c63").await, ["63"]);
    assert_eq!(said(&mut session, "CLOSE ALL").await, ["CLOSE CURSOR ALL"]);
    assert_eq!(fails(&mut session, "CLOSE c1").await.state.code(), "34000");
}

#[tokio::test]
async fn each_fetch_has_the_time_that_a_statement_has() {
    let node = Node::start().await;
    let mut session = node.session();
    said(&mut session, "SET statement_timeout = '200ms'").await;
    said(&mut session, "DECLARE c CURSOR WITH HOLD FOR SELECT i FROM generate_series(1, 1000000000) g(i)").await;
    assert_eq!(said(&mut session, "FETCH 1 FROM c").await, ["1"]);
    assert_eq!(fails(&mut session, "MOVE ALL IN c").await.state.code(), "57014");
    said(&mut session, "SET statement_timeout = 0").await;
    // Nobody knows how many rows it has passed over.
    assert_eq!(fails(&mut session, "FETCH 1 FROM c").await.state.code(), "55000");
    assert_eq!(said(&mut session, "CLOSE c").await, ["CLOSE CURSOR"]);
}
