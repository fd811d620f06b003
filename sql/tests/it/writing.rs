//! What SQL writes: COPY, rows without a plan, blocks of any size, and the rules a relation declares.

use aquifer_sql::session::{Outcome, TransactionStatus};
use datafusion::common::ScalarValue;

use crate::support::{Node, copy_in, fails, lines_of, run};

#[tokio::test]
async fn copied_text_and_csv_become_the_rows_that_inserts_would_make() {
    let node = Node::start().await;
    let mut session = node.session();
    let columns = "(id bigint, name text, price decimal(10, 2), ok boolean, at timestamptz, day date, tags text[], \
                   doc jsonb, raw bytea, place STRUCT<city STRING, zip INT>, n double)";
    run(&mut session, &format!("CREATE TABLE a {columns}; CREATE TABLE b {columns}; CREATE TABLE c {columns}"))
        .await
        .unwrap();
    let text = b"1\tAnn\\tB\t1.005\tt\t2024-01-31 10:00:00+02\t2024-01-31\t{a,\"b c\",NULL}\t{\"k\": 1}\t\\\\x00ff\t\
                 {\"city\":\"Rome\",\"zip\":5}\t1e3\n\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\n";
    assert_eq!(copy_in(&mut session, "COPY a FROM STDIN", text).await.unwrap(), "COPY 2");
    let csv = b"n,place,raw,doc,tags,day,at,ok,price,name,id\n\
                1000,\"{\"\"city\"\":\"\"Rome\"\",\"\"zip\"\":5}\",\\x00ff,\"{\"\"k\"\": 1}\",\"{a,\"\"b c\"\",NULL}\",\
                2024-01-31,2024-01-31T08:00:00Z,yes, 1.005 ,\"Ann\tB\",1\n,,,,,,,,,,\n";
    let copy = "COPY b (n, place, raw, doc, tags, day, at, ok, price, name, id) FROM STDIN WITH CSV HEADER";
    assert_eq!(copy_in(&mut session, copy, csv).await.unwrap(), "COPY 2");
    run(
        &mut session,
        "INSERT INTO c VALUES (1, E'Ann\\tB', 1.005, true, '2024-01-31 10:00:00+02', '2024-01-31', '{a,\"b c\",NULL}', \
         '{\"k\": 1}', '\\x00ff', '{\"city\":\"Rome\",\"zip\":5}', 1e3), (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
         NULL, NULL, NULL)",
    )
    .await
    .unwrap();
    let rows = async |table: &str| {
        run(&mut node.session(), &format!("SELECT * FROM {table} ORDER BY id NULLS LAST")).await.unwrap()
    };
    let copied = rows("a").await;
    assert!(copied[0].starts_with("1|Ann\tB|1.01|true|2024-01-31T08:00:00Z|2024-01-31|[a, b c, NULL]|"), "{copied:?}");
    assert_eq!(copied[1], ["NULL"; 11].join("|"));
    assert_eq!(rows("b").await, copied);
    assert_eq!(rows("c").await, copied);
}

#[tokio::test]
async fn a_copy_that_fails_names_line_and_column_and_leaves_nothing() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE t (id int NOT NULL, amount decimal(4, 1), at timestamp)").await.unwrap();
    let cases: [(&str, &[u8], &str, &str, &str); 9] = [
        ("", b"1\t2\t\\N\nx\t2\t\\N\n", "22P02", "type integer: \"x\"", "COPY t, line 2, column id: \"x\""),
        ("CSV", b"1,\"2\n\",\n1,abc,", "22P02", "type numeric: \"abc\"", "COPY t, line 3, column amount: \"abc\""),
        ("CSV", b"3000000000,1,", "22003", "out of range for type integer", "column id"),
        ("CSV", b"1,12345,", "22003", "numeric field overflow", "column amount"),
        ("CSV", b"1,1,soon", "22007", "timestamp", "column at: \"soon\""),
        ("CSV", b"1,1,2024-13-01", "22008", "out of range", "column at"),
        ("CSV", b"1,1,\n1,1\n", "22P04", "missing data for column \"at\"", "COPY t, line 2: \"1,1\""),
        ("CSV", b"1,1,,4\n", "22P04", "extra data after last expected column", "COPY t, line 1"),
        ("CSV", b"1,1,\n,1,\n", "23502", "null value in column \"id\"", "COPY t, line 2"),
    ];
    for (options, data, state, message, context) in cases {
        let error = copy_in(&mut session, &format!("COPY t FROM STDIN {options}"), data).await.unwrap_err();
        assert_eq!(error.state.code(), state, "{error:?}");
        assert!(error.message.contains(message), "{error:?}");
        let told = error.whereabouts().context.clone().unwrap_or_default();
        assert!(told.contains(context), "{told}");
    }
    assert_eq!(run(&mut session, "SELECT count(*) FROM t").await.unwrap(), ["0"]);
    let state = |error: aquifer_sql::error::Error| error.state.code();
    assert_eq!(state(fails(&mut session, "COPY nope FROM STDIN").await), "42P01");
    assert_eq!(state(fails(&mut session, "COPY t (id, nope) FROM STDIN").await), "42703");
    let header = "COPY t (id, amount) FROM STDIN (FORMAT csv, HEADER match)";
    assert_eq!(copy_in(&mut session, header, b"id,amount\n1,2\n").await.unwrap(), "COPY 1");
    let error = copy_in(&mut session, header, b"id,nope\n1,2\n").await.unwrap_err();
    assert_eq!(error.message, "column name mismatch in header line field 2: got \"nope\", expected \"amount\"");
}

#[tokio::test]
async fn a_copy_larger_than_a_commit_is_one_act_and_part_of_its_block() {
    let node = Node::start().await;
    let (mut session, mut other) = (node.session(), node.session());
    run(&mut session, "CREATE TABLE t (id int, a text)").await.unwrap();
    let filler = "x".repeat(4000);
    // More than what a block keeps in memory.
    let mut data: Vec<u8> = (0..10_000).flat_map(|id| format!("{id}\t{filler}\n").into_bytes()).collect();
    let count = "SELECT count(*), count(DISTINCT id) FROM t";
    let statement = session.parse("COPY t FROM STDIN").unwrap().remove(0);
    let prepared = session.prepare(&statement, &[]).await.unwrap();
    let Outcome::CopyIn(mut copy) = session.execute(&prepared, Vec::new()).await.unwrap() else { panic!("takes data") };
    copy.write(&data).await.unwrap();
    assert_eq!(run(&mut other, count).await.unwrap(), ["0|0"], "nobody sees it before its end");
    drop(copy);
    data.truncate(data.len() / 2);
    let cut = data.iter().rposition(|byte| *byte == b'\n').unwrap();
    data.truncate(cut + 1);
    let rows = data.iter().filter(|byte| **byte == b'\n').count();

    run(&mut session, "BEGIN; INSERT INTO t VALUES (-1, 'first')").await.unwrap();
    for _ in 0..2 {
        let Outcome::CopyIn(mut copy) = session.execute(&prepared, Vec::new()).await.unwrap() else { panic!("data") };
        copy.write(&data).await.unwrap();
        session.end_copy(*copy).await.unwrap();
    }
    assert_eq!(session.transaction_status(), TransactionStatus::InBlock);
    assert_eq!(run(&mut other, count).await.unwrap(), ["0|0"]);
    run(&mut session, "ROLLBACK").await.unwrap();
    assert_eq!(run(&mut other, count).await.unwrap(), ["0|0"]);

    run(&mut session, "BEGIN; INSERT INTO t VALUES (-1, 'first')").await.unwrap();
    for _ in 0..2 {
        let Outcome::CopyIn(mut copy) = session.execute(&prepared, Vec::new()).await.unwrap() else { panic!("data") };
        copy.write(&data).await.unwrap();
        session.end_copy(*copy).await.unwrap();
    }
    run(&mut session, "SAVEPOINT s; INSERT INTO t VALUES (-2, 'taken back'); ROLLBACK TO s; COMMIT").await.unwrap();
    let all = format!("{}|{}", 2 * rows + 1, rows + 1);
    assert_eq!(run(&mut other, count).await.unwrap(), std::slice::from_ref(&all));
    let node = node.restart().await;
    assert_eq!(run(&mut node.session(), count).await.unwrap(), [all]);
    assert_eq!(run(&mut node.session(), "SELECT count(*) FROM aquifer.transactions").await.unwrap(), ["0"]);
}

#[tokio::test]
async fn a_copy_that_is_dropped_fails_its_block_and_a_savepoint_saves_what_was_before() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE t (id int); BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let statement = session.parse("COPY t FROM STDIN").unwrap().remove(0);
    let prepared = session.prepare(&statement, &[]).await.unwrap();
    drop(session.execute(&prepared, Vec::new()).await.unwrap());
    assert_eq!(session.transaction_status(), TransactionStatus::Failed, "its records are gone");
    assert_eq!(run(&mut session, "COMMIT").await.unwrap(), ["ROLLBACK"]);
    run(&mut session, "BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s").await.unwrap();
    copy_in(&mut session, "COPY t FROM STDIN", b"2\nx\n").await.unwrap_err();
    session.fail_transaction();
    run(&mut session, "ROLLBACK TO s").await.unwrap();
    copy_in(&mut session, "COPY t FROM STDIN", b"3\n").await.unwrap();
    run(&mut session, "COMMIT").await.unwrap();
    assert_eq!(run(&mut session, "SELECT id FROM t ORDER BY id").await.unwrap(), ["1", "3"]);
}

#[tokio::test]
async fn defaults_fill_what_is_not_said() {
    let node = Node::start().await;
    let mut session = node.session();
    run(
        &mut session,
        "CREATE TABLE t (id int, n int DEFAULT 1 + 1, name text DEFAULT 'no name' NOT NULL, at timestamptz DEFAULT now(), \
         u uuid DEFAULT gen_random_uuid(), d decimal(5, 2) DEFAULT -1.5 CHECK (d < 100))",
    )
    .await
    .unwrap();
    run(&mut session, "INSERT INTO t (id) VALUES (1), (2)").await.unwrap();
    run(&mut session, "INSERT INTO t (id, n, name) VALUES (3, DEFAULT, DEFAULT), (4, NULL, 'x')").await.unwrap();
    run(&mut session, "INSERT INTO t (id, n, name) VALUES (1 + 4, DEFAULT, upper('y'))").await.unwrap();
    run(&mut session, "INSERT INTO t (id) SELECT 6").await.unwrap();
    let copy = "COPY t (id, n, name, u) FROM STDIN (FORMAT csv, DEFAULT '\\D')";
    copy_in(&mut session, copy, b"7,\\D,\\D,\\D\n8,,z,\\D\n").await.unwrap();
    let rows = run(&mut session, "SELECT id, n, name, d FROM t ORDER BY id").await.unwrap();
    assert_eq!(
        rows,
        [
            "1|2|no name|-1.50",
            "2|2|no name|-1.50",
            "3|2|no name|-1.50",
            "4|NULL|x|-1.50",
            "5|2|Y|-1.50",
            "6|2|no name|-1.50",
            "7|2|no name|-1.50",
            "8|NULL|z|-1.50",
        ]
    );
    let generated = "SELECT count(at), count(DISTINCT u) FROM t";
    assert_eq!(run(&mut session, generated).await.unwrap(), ["8|8"]);
    let recent = "SELECT count(*) FROM t WHERE at > now() - INTERVAL '1 hour' AND at <= now()";
    assert_eq!(run(&mut session, recent).await.unwrap(), ["8"]);
    let node = node.restart().await;
    let mut session = node.session();
    run(&mut session, "INSERT INTO t (id) VALUES (9)").await.unwrap();
    assert_eq!(run(&mut session, "SELECT name FROM t WHERE id = 9").await.unwrap(), ["no name"]);
}

#[tokio::test]
async fn what_a_check_or_not_null_forbids_is_not_written() {
    let node = Node::start().await;
    let mut session = node.session();
    run(
        &mut session,
        "CREATE STREAM s (k text KEY, a int CHECK (a > 0) CHECK (a < 100), b text NOT NULL, CONSTRAINT ordered CHECK \
         (b <> k), CHECK (length(b) < 5))",
    )
    .await
    .unwrap();
    run(&mut session, "INSERT INTO s VALUES ('k', 1, 'x'), ('k', NULL, 'y')").await.unwrap();
    for (values, state, name, detail) in [
        ("('k', 1, 'x'), ('k', 0, 'x')", "23514", "s_a_check", "Failing row contains (k, 0, x)."),
        ("('k', 100, 'x')", "23514", "s_a_check1", "Failing row contains (k, 100, x)."),
        ("('k', 5, 'k')", "23514", "ordered", "Failing row contains (k, 5, k)."),
        ("(NULL, 5, 'xxxxx')", "23514", "s_check", "Failing row contains (null, 5, xxxxx)."),
        ("('k', 5, NULL)", "23502", "b", "Failing row contains (k, 5, null)."),
        ("('k', 5, upper(NULL))", "23502", "b", "Failing row contains (k, 5, null)."),
    ] {
        let error = fails(&mut session, &format!("INSERT INTO s VALUES {values}")).await;
        assert_eq!((error.state.code(), error.detail.as_deref()), (state, Some(detail)), "{values}: {error:?}");
        assert!(error.message.contains(&format!("\"{name}\"")), "{error:?}");
        let place = error.whereabouts();
        let named = place.constraint.as_deref().or(place.column.as_deref());
        assert_eq!((named, place.relation.as_deref()), (Some(name), Some("s")));
    }
    let error = copy_in(&mut session, "COPY s FROM STDIN CSV", b"k,1,x\nk,2,x\nk,-1,x\n").await.unwrap_err();
    assert_eq!((error.state.code(), error.whereabouts().context.as_deref()), ("23514", Some("COPY s, line 3")));
    assert_eq!(run(&mut session, "SELECT count(*) FROM s").await.unwrap(), ["2"]);
}

#[tokio::test]
async fn rules_that_cannot_be_kept_are_refused_in_the_declaration() {
    let node = Node::start().await;
    let mut session = node.session();
    for (columns, state, said) in [
        ("a int CHECK (a > now()::text::int)", "0A000", "s_a_check"),
        ("a int CHECK (a IN (SELECT 1))", "0A000", "subquery"),
        ("a int CHECK (sum(a) > 1)", "0A000", "aggregate"),
        ("a int CHECK (a + 1)", "42804", "boolean"),
        ("a int CHECK (nope > 1)", "42703", "nope"),
        ("a int, b int DEFAULT a + 1", "0A000", "column in a DEFAULT"),
        ("a int DEFAULT (SELECT 1)", "0A000", "DEFAULT of column \"a\""),
        ("a int DEFAULT 'x'", "22P02", "default of column \"a\""),
        ("a int DEFAULT 1 DEFAULT 2", "42601", "multiple default values"),
        ("a int CONSTRAINT c CHECK (a > 1) CONSTRAINT c CHECK (a > 2)", "42710", "already exists"),
        ("a int UNIQUE", "0A000", "UNIQUE"),
    ] {
        let error = fails(&mut session, &format!("CREATE STREAM s ({columns})")).await;
        assert_eq!(error.state.code(), state, "{columns}: {error:?}");
        assert!(error.message.contains(said), "{columns}: {error:?}");
    }
    assert!(node.storage.topic("s").is_none(), "a refused declaration makes nothing");
}

#[tokio::test]
async fn a_prepared_insert_of_values_takes_what_its_columns_take_and_notices_a_new_declaration() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE t (id bigint PRIMARY KEY, n int DEFAULT 7, name text)").await.unwrap();
    let insert = session.parse("INSERT INTO t VALUES ($1, $2, $3), ($4, 5, DEFAULT)").unwrap().remove(0);
    let prepared = session.prepare(&insert, &[]).await.unwrap();
    use arrow::datatypes::DataType;
    assert_eq!(prepared.parameters, [DataType::Int64, DataType::Int32, DataType::Utf8, DataType::Int64]);
    let values = |a: i64, n: Option<i32>| {
        let name = ScalarValue::Utf8(Some(format!("n{a}")));
        vec![ScalarValue::Int64(Some(a)), ScalarValue::Int32(n), name, ScalarValue::Int64(Some(a + 1))]
    };
    let outcome = session.execute(&prepared, values(1, None)).await.unwrap();
    assert_eq!(lines_of(outcome).await.unwrap(), ["INSERT 0 2"]);
    // What the client says it sends is converted as an assignment converts it.
    let said = [Some(DataType::Int16), Some(DataType::Float64), None, Some(DataType::Utf8)];
    let typed = session.prepare(&insert, &said).await.unwrap();
    assert_eq!(typed.parameters, [DataType::Int16, DataType::Float64, DataType::Utf8, DataType::Utf8]);
    let given = vec![
        ScalarValue::Int16(Some(3)),
        ScalarValue::Float64(Some(2.5)),
        ScalarValue::Utf8(None),
        ScalarValue::Utf8(Some("4".to_owned())),
    ];
    session.execute(&typed, given).await.unwrap();
    let rows = run(&mut session, "SELECT * FROM t ORDER BY id").await.unwrap();
    assert_eq!(rows, ["1|NULL|n1", "2|5|NULL", "3|2|NULL", "4|5|NULL"]);

    run(&mut session, "DROP TABLE t DELETE TOPIC; CREATE TABLE t (id int, n int, name text)").await.unwrap();
    session.execute(&prepared, values(8, Some(1))).await.unwrap();
    assert_eq!(run(&mut session, "SELECT * FROM t ORDER BY id").await.unwrap(), ["8|1|n8", "9|5|NULL"]);
    run(&mut session, "DROP TABLE t DELETE TOPIC").await.unwrap();
    let Err(error) = session.execute(&prepared, values(1, None)).await else { panic!("the table is gone") };
    assert_eq!(error.state.code(), "42P01");
}

#[tokio::test]
async fn thousands_of_rows_in_one_statement_are_one_commit() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE t (id int, a text)").await.unwrap();
    let values = |last: &str| {
        let rows: Vec<String> = (0..5000).map(|id| format!("({id}, 'row {id}')")).chain([last.to_owned()]).collect();
        format!("INSERT INTO t VALUES {}", rows.join(", "))
    };
    let sql = values("('x', 'y')");
    let error = fails(&mut session, &sql).await;
    assert_eq!(error.state.code(), "22P02");
    assert_eq!(error.position, Some(sql.chars().count() - "'x', 'y')".len() + 1), "it points at the value");
    assert_eq!(run(&mut session, "SELECT count(*) FROM t").await.unwrap(), ["0"]);
    assert_eq!(run(&mut session, &values("(5000, NULL)")).await.unwrap(), ["INSERT 0 5001"]);
    assert_eq!(run(&mut session, "SELECT count(*), count(a), max(id) FROM t").await.unwrap(), ["5001|5000|5000"]);
}

#[tokio::test]
async fn on_conflict_leaves_or_changes_the_row_that_is_there() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE t (id text PRIMARY KEY, n int DEFAULT 1, note text, CHECK (n < 100))")
        .await
        .unwrap();
    let rows = async || run(&mut node.session(), "SELECT * FROM t ORDER BY id").await.unwrap();
    let count = "INSERT INTO t (id) VALUES ('a') ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n";
    for _ in 0..3 {
        assert_eq!(run(&mut session, count).await.unwrap(), ["INSERT 0 1"]);
    }
    assert_eq!(rows().await, ["a|3|NULL"]);
    let nothing = "INSERT INTO t VALUES ('a', 9, 'x'), ('b', 2, 'y'), ('b', 3, 'z') ON CONFLICT DO NOTHING";
    assert_eq!(run(&mut session, nothing).await.unwrap(), ["INSERT 0 1"]);
    assert_eq!(rows().await, ["a|3|NULL", "b|2|y"]);
    let some = "INSERT INTO t SELECT k, 50, 'new' FROM (VALUES ('a'), ('b'), ('c')) v(k) ON CONFLICT ON CONSTRAINT t_pkey \
                DO UPDATE SET (n, note) = (excluded.n, excluded.note || '!') WHERE t.n > 2";
    assert_eq!(run(&mut session, some).await.unwrap(), ["INSERT 0 2"], "the condition leaves one out");
    assert_eq!(rows().await, ["a|50|new!", "b|2|y", "c|50|new"]);
    run(&mut session, "DELETE FROM t WHERE id = 'b'").await.unwrap();
    let prepared = "INSERT INTO t (id, n) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET n = DEFAULT, note = $3";
    let statement = session.parse(prepared).unwrap().remove(0);
    let prepared = session.prepare(&statement, &[]).await.unwrap();
    assert_eq!(prepared.parameters.len(), 3);
    for key in ["b", "c"] {
        let text = |text: &str| ScalarValue::Utf8(Some(text.to_owned()));
        let values = vec![text(key), ScalarValue::Int32(Some(7)), text("by parameter")];
        session.execute(&prepared, values).await.unwrap();
    }
    assert_eq!(rows().await, ["a|50|new!", "b|7|NULL", "c|1|by parameter"]);
    for (sql, state) in [
        ("INSERT INTO t VALUES ('z', 1, ''), ('z', 2, '') ON CONFLICT (id) DO UPDATE SET n = 1", "21000"),
        ("INSERT INTO t VALUES ('a', 1, '') ON CONFLICT (note) DO NOTHING", "42P10"),
        ("INSERT INTO t VALUES ('a', 1, '') ON CONFLICT ON CONSTRAINT nope DO NOTHING", "42704"),
        ("INSERT INTO t VALUES ('a', 1, '') ON CONFLICT DO UPDATE SET n = 1", "42601"),
        ("INSERT INTO t VALUES ('a', 1, '') ON CONFLICT (id) DO UPDATE SET n = n + 1", "42702"),
        ("INSERT INTO t VALUES ('a', 1, '') ON CONFLICT (id) DO UPDATE SET id = 'b'", "0A000"),
        ("INSERT INTO t VALUES ('a', 1, '') ON CONFLICT (id) DO UPDATE SET nope = 1", "42703"),
        ("INSERT INTO t VALUES ('a', 1, '') ON CONFLICT (id) DO UPDATE SET n = (SELECT 1)", "0A000"),
        ("INSERT INTO t VALUES ('a', 1, '') ON CONFLICT (id) DO UPDATE SET n = 100", "23514"),
        ("INSERT INTO t VALUES ('a', 100, '') ON CONFLICT (id) DO NOTHING", "23514"),
    ] {
        let error = fails(&mut session, sql).await;
        assert_eq!(error.state.code(), state, "{sql}: {error:?}");
    }
    run(&mut session, "CREATE STREAM s (id text KEY)").await.unwrap();
    let error = fails(&mut session, "INSERT INTO s VALUES ('a') ON CONFLICT DO NOTHING").await;
    assert_eq!(error.state.code(), "0A000");
    assert!(error.message.contains("stream \"s\""), "{error:?}");
    assert_eq!(rows().await, ["a|50|new!", "b|7|NULL", "c|1|by parameter"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_conflict_counts_every_one_of_many_that_come_at_once() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE t (a int, b text, n int, PRIMARY KEY (a, b))").await.unwrap();
    let counters = (0..8).map(async |_| {
        let mut session = node.session();
        for _ in 0..5 {
            let count = "INSERT INTO t VALUES (1, 'x', 1), (2, 'y', 1) ON CONFLICT (b, a) DO UPDATE SET n = t.n + 1";
            // One that loses too often may say so; then it has written nothing.
            while let Err(error) = run(&mut session, count).await {
                assert_eq!(error.state.code(), "40001", "{error:?}");
            }
        }
    });
    futures::future::join_all(counters).await;
    assert_eq!(run(&mut session, "SELECT * FROM t ORDER BY a").await.unwrap(), ["1|x|40", "2|y|40"]);
    run(&mut session, "BEGIN; INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT (a, b) DO UPDATE SET n = 0").await.unwrap();
    run(&mut node.session(), "INSERT INTO t VALUES (1, 'x', 7)").await.unwrap();
    assert_eq!(fails(&mut session, "COMMIT").await.state.code(), "40001");
    assert_eq!(run(&mut session, "SELECT n FROM t WHERE a = 1").await.unwrap(), ["7"]);
}

#[tokio::test]
async fn copy_forces_null_text_and_quotes_as_postgres_does() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE t (id int PRIMARY KEY, a text, b text)").await.unwrap();
    let rows = async |session: &mut aquifer_sql::session::Session| {
        let rows = run(session, "SELECT id, a, b, a = '', b = '' FROM t ORDER BY id").await.unwrap();
        run(session, "DELETE FROM t").await.unwrap();
        rows
    };
    let data = b"1,,\"\"\n2,\"\",\n3,x,\"y\"\n";
    for (options, expected) in [
        ("(FORMAT csv)", ["1|NULL||NULL|true", "2||NULL|true|NULL", "3|x|y|false|false"]),
        ("(FORMAT csv, FORCE_NULL (a, b))", ["1|NULL|NULL|NULL|NULL", "2|NULL|NULL|NULL|NULL", "3|x|y|false|false"]),
        ("(FORMAT csv, FORCE_NOT_NULL (a, b))", ["1|||true|true", "2|||true|true", "3|x|y|false|false"]),
        ("(FORMAT csv, FORCE_NOT_NULL *)", ["1|||true|true", "2|||true|true", "3|x|y|false|false"]),
        ("CSV FORCE NOT NULL a FORCE NULL b", ["1||NULL|true|NULL", "2||NULL|true|NULL", "3|x|y|false|false"]),
        // What is quoted becomes NULL, what is not becomes text.
        ("CSV FORCE NOT NULL a FORCE NULL a", ["1|||true|true", "2|NULL|NULL|NULL|NULL", "3|x|y|false|false"]),
    ] {
        assert_eq!(copy_in(&mut session, &format!("COPY t FROM STDIN {options}"), data).await.unwrap(), "COPY 3");
        assert_eq!(rows(&mut session).await, expected, "{options}");
    }
    let null = b"1,none,\"none\"\n";
    copy_in(&mut session, "COPY t FROM STDIN (FORMAT csv, NULL 'none', FORCE_NULL (b))", null).await.unwrap();
    assert_eq!(rows(&mut session).await, ["1|NULL|NULL|NULL|NULL"]);
    copy_in(&mut session, "COPY t FROM STDIN (FORMAT csv, NULL 'none', FORCE_NOT_NULL (a))", null).await.unwrap();
    assert_eq!(rows(&mut session).await, ["1|none|none|false|false"]);
    for (sql, state, said) in [
        ("COPY t FROM STDIN (FORMAT csv, FORCE_NULL (nope))", "42703", "nope"),
        ("COPY t (id, a) FROM STDIN (FORMAT csv, FORCE_NULL (b))", "42P10", "FORCE_NULL column \"b\" not referenced"),
        ("COPY t (id, a) TO STDOUT (FORMAT csv, FORCE_QUOTE (b))", "42P10", "FORCE_QUOTE column \"b\" not referenced"),
        ("COPY (SELECT id FROM t) TO STDOUT (FORMAT csv, FORCE_QUOTE (a))", "42703", "\"a\" does not exist"),
    ] {
        let error = fails(&mut session, sql).await;
        assert_eq!(error.state.code(), state, "{sql}: {error:?}");
        assert!(error.message.contains(said), "{sql}: {error:?}");
    }
}
