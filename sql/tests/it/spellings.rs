//! Keys that others have written in other bytes than SQL would: a row is changed and deleted under the bytes it has.

use aquifer_sql::engine::SessionOptions;
use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use aquifer_storage::{Append, Commit};

use super::node;
use super::support::{Node, fails, run};

const TABLE: &str = "CREATE TABLE t (id INT PRIMARY KEY, name STRING, n INT) \
                     WITH (kafka_topic = 't', key_format = 'json', partitions = 1, min_compaction_lag_ms = 0, delete_retention_ms = 0)";

async fn produce(node: &Node, topic: &str, records: &[(&str, Option<&str>)]) {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    for (key, value) in records {
        builder.push(1_700_000_000_000, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
    }
    let batch = builder.build(Compression::None).unwrap();
    let appends = vec![Append { topic: node.storage.topic(topic).unwrap().id, partition: 0, batch }];
    node.storage.commit(Commit { appends, ..Commit::default() }).await.unwrap();
}

#[tokio::test]
async fn a_row_is_changed_and_deleted_under_the_key_that_its_record_has() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, TABLE).await.unwrap();
    let (one, two) = (r#"{"id": 1}"#, r#"{"id": 2}"#);
    produce(&node, "t", &[(one, Some(r#"{"name": "a", "n": 1}"#)), (two, Some(r#"{"name": "b", "n": 2}"#))]).await;
    let mut says = async |sql: &str| run(&mut session, sql).await.unwrap();
    assert_eq!(says("UPDATE t SET n = 7 WHERE id = 1").await, ["UPDATE 1"]);
    assert_eq!(says("DELETE FROM t WHERE id = 2").await, ["DELETE 1"]);
    let upsert = "INSERT INTO t VALUES (1, 'c', 3), (3, 'd', 4) ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n";
    assert_eq!(says(upsert).await, ["INSERT 0 2"]);
    let rows = ["1|a|10", "3|d|4"];
    assert_eq!(says("SELECT * FROM t ORDER BY id").await, rows);
    let line = |key: &str, gone: bool| format!("{key}|{gone}");
    let keys = vec![line(one, false), line(two, false), line(one, false), line(two, true)];
    let written = says("SELECT convert_from(_key, 'UTF8'), _value IS NULL FROM topics.t ORDER BY _offset").await;
    assert_eq!(written[..4], keys);
    assert!(written[4..].contains(&line(one, false)), "{written:?}");
    // What a Kafka client knows of the table is the same, also when older records and tombstones have gone.
    for _ in 0..3 {
        says("CHECKPOINT").await;
        says("VACUUM t").await;
    }
    assert_eq!(says("SELECT * FROM t ORDER BY id").await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_spelled_in_two_ways_is_not_back_when_its_tombstone_has_gone() {
    let home = tempfile::tempdir().unwrap();
    let (storage, engine) = node::open(home.path(), |settings| settings.wal_segment_bytes = 64 << 10).await;
    let session = || engine.session(SessionOptions::default());
    let says = async |sql: &str| run(&mut session(), sql).await.unwrap();
    let eager =
        TABLE.replace("partitions = 1", "partitions = 1, local_retention_ms = 0, min_cleanable_dirty_ratio = 0");
    says(&eager).await;
    says("CREATE STREAM filler (v STRING) WITH (kafka_topic = 'filler', partitions = 1, local_retention_ms = 0)").await;
    says("INSERT INTO t VALUES (1, 'by sql', 1), (2, 'stays', 2)").await;
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    builder.push(1_700_000_000_000, Some(br#"{ "id": 1 }"#), Some(br#"{"name": "by another", "n": 1}"#), &[]);
    let batch = builder.build(Compression::None).unwrap();
    let appends = vec![Append { topic: storage.topic("t").unwrap().id, partition: 0, batch }];
    storage.commit(Commit { appends, ..Commit::default() }).await.unwrap();
    assert_eq!(says("SELECT name FROM t ORDER BY id").await, ["by another", "stays"]);
    assert_eq!(says("DELETE FROM t WHERE id = 1").await, ["DELETE 1"]);
    // One compaction takes what is superseded, a later one the tombstone, once the log has let go of all of it.
    node::eventually("nothing of the row is left", async || {
        says("INSERT INTO filler SELECT repeat('x', 900) FROM generate_series(1, 200)").await;
        says("CHECKPOINT").await;
        says("VACUUM").await;
        assert_eq!(says("SELECT name FROM t").await, ["stays"]);
        says("SELECT count(*) FROM topics.t").await == ["1"]
    })
    .await;
    assert_eq!(says("SELECT name FROM t WHERE id IN (1, 2)").await, ["stays"]);
    engine.close().await;
    storage.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_others_spell_is_looked_up_like_any_other() {
    let node = Node::start().await;
    let says = async |sql: &str| run(&mut node.session(), sql).await.unwrap();
    says(TABLE).await;
    says("INSERT INTO t SELECT i, 'n' || i, i FROM generate_series(1, 50) g(i)").await;
    let (one, two, gone) = (r#"{"id": 1}"#, r#"{ "id":2}"#, r#"{"id":3 }"#);
    let others = [(one, Some(r#"{"name": "other", "n": 7}"#)), (two, Some("no json")), (gone, None)];
    produce(&node, "t", &others[..1]).await;
    produce(&node, "t", &others[2..]).await;
    for round in 0..3 {
        node::eventually("the state answers", async || {
            let lines = says("EXPLAIN ANALYZE SELECT n FROM t WHERE id = 4").await;
            lines.iter().any(|line| line.contains("answered_by_state=1"))
        })
        .await;
        let row = says("SELECT id, name, n, convert_from(_key, 'UTF8') FROM t WHERE id = 1").await;
        let (name, n) = if round < 2 { ("other", 7) } else { ("changed", 8) };
        assert_eq!(row, [format!("1|{name}|{n}|{one}")]);
        assert_eq!(says("SELECT name FROM t WHERE id IN (3, 4)").await, ["n4"]);
        match round {
            0 => drop(says("CHECKPOINT").await),
            1 => assert_eq!(says("UPDATE t SET name = 'changed', n = n + 1 WHERE id = 1").await, ["UPDATE 1"]),
            _ => {}
        }
    }
    let mut block = node.session();
    run(&mut block, "BEGIN; UPDATE t SET n = 100 WHERE id = 1").await.unwrap();
    assert_eq!(run(&mut block, "SELECT n FROM t WHERE id = 1").await.unwrap(), ["100"], "its own rows are seen");
    run(&mut block, "ROLLBACK").await.unwrap();
    // What does not decode is no row, and hides what its key had before, whoever asks and however.
    let asked = ["SELECT count(*) FROM t WHERE id = 2", "SELECT count(*) FROM t WHERE id + 0 = 2"];
    assert_eq!([says(asked[0]).await, says(asked[1]).await], [["1"]; 2]);
    produce(&node, "t", &others[1..2]).await;
    for said in ["SELECT 1", "CHECKPOINT"] {
        says(said).await;
        assert_eq!([says(asked[0]).await, says(asked[1]).await], [["0"]; 2]);
    }
    says("INSERT INTO t VALUES (2, 'mended', 2)").await;
    assert_eq!([says(asked[0]).await, says(asked[1]).await], [["1"]; 2]);
}

#[tokio::test]
async fn a_record_under_another_spelling_contends_with_an_update_of_its_row() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, TABLE).await.unwrap();
    let key = r#"{"id": 1}"#;
    produce(&node, "t", &[(key, Some(r#"{"name": "a", "n": 1}"#))]).await;
    run(&mut session, "BEGIN; UPDATE t SET n = n + 1 WHERE id = 1").await.unwrap();
    produce(&node, "t", &[(key, Some(r#"{"name": "a", "n": 5}"#))]).await;
    assert_eq!(fails(&mut session, "COMMIT").await.state.code(), "40001");
    assert_eq!(run(&mut session, "SELECT n FROM t").await.unwrap(), ["5"]);
}

#[tokio::test]
async fn the_type_of_a_primary_key_widens_only_where_its_bytes_stay() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, &TABLE.replace("partitions = 1", "partitions = 8")).await.unwrap();
    run(&mut session, "INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)").await.unwrap();
    for kind in ["text", "numeric(12, 2)", "double precision", "jsonb"] {
        let error = fails(&mut session, &format!("ALTER TABLE t ALTER id TYPE {kind}")).await;
        assert_eq!(error.state.code(), "42804", "{kind}: {error:?}");
        assert!(error.hint.is_some(), "{kind}");
    }
    run(&mut session, "ALTER TABLE t ALTER id TYPE bigint, ALTER n TYPE text").await.unwrap();
    run(&mut session, "INSERT INTO t VALUES (1, 'c', 'x'), (5000000000, 'd', 'y')").await.unwrap();
    assert_eq!(run(&mut session, "SELECT * FROM t ORDER BY id").await.unwrap(), ["1|c|x", "2|b|2", "5000000000|d|y"]);
}

#[tokio::test]
async fn many_keys_of_several_columns_meet_their_rows() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE TABLE pairs (a INT, b TEXT, n INT, PRIMARY KEY (a, b)) WITH (partitions = 2)")
        .await
        .unwrap();
    let rows = |count: usize| (0..count).map(|row| format!("({row}, 'b{row}', 1)")).collect::<Vec<_>>().join(", ");
    for count in [10, 1000, 1001] {
        let upsert =
            format!("INSERT INTO pairs VALUES {} ON CONFLICT (a, b) DO UPDATE SET n = pairs.n + 1", rows(count));
        assert_eq!(run(&mut session, &upsert).await.unwrap(), [format!("INSERT 0 {count}")]);
    }
    let counted = "SELECT n, count(*) FROM pairs GROUP BY n ORDER BY n";
    assert_eq!(run(&mut session, counted).await.unwrap(), ["1|1", "2|990", "3|10"]);
}

#[tokio::test]
async fn the_times_at_the_ends_of_their_range_come_back() {
    let node = Node::start().await;
    let mut session = node.session();
    run(&mut session, "CREATE STREAM s (v TEXT) WITH (kafka_topic = 's', partitions = 1)").await.unwrap();
    let rows = "(9223372036854775807, 'last'), (-9223372036854775808, 'first'), (-5, 'before'), (NULL, 'now')";
    run(&mut session, &format!("INSERT INTO s (rowtime, v) VALUES {rows}")).await.unwrap();
    for place in ["hot", "cold"] {
        let select = "SELECT v FROM s WHERE rowtime <> 0 ORDER BY rowtime";
        assert_eq!(run(&mut session, select).await.unwrap(), ["first", "before", "now", "last"], "{place}");
        let after = "SELECT v FROM s WHERE rowtime > 4000000000000";
        assert_eq!(run(&mut session, after).await.unwrap(), ["last"], "{place}");
        let before = "SELECT v FROM s WHERE _timestamp < '1970-01-01 00:00:00+00'::timestamptz ORDER BY _offset";
        assert_eq!(run(&mut session, before).await.unwrap(), ["first", "before"], "{place}");
        // One such record does not cost the others.
        let recent =
            "SELECT count(*) FROM topics.s WHERE _timestamp > now() - interval '1 hour' AND rowtime < 4000000000000";
        assert_eq!(run(&mut session, recent).await.unwrap(), ["1"], "{place}");
        let ordered = "SELECT _offset FROM topics.s ORDER BY _timestamp, _offset LIMIT 2";
        assert_eq!(run(&mut session, ordered).await.unwrap(), ["1", "2"], "{place}");
        let ends = "SELECT min(_timestamp) < '1970-01-01 00:00:00+00'::timestamptz, max(_timestamp) > now(), min(rowtime) FROM topics.s";
        assert_eq!(run(&mut session, ends).await.unwrap(), ["true|true|-9223372036854775808"], "{place}");
        assert_eq!(run(&mut session, "SELECT * FROM topics.s").await.unwrap().len(), 4, "{place}");
        run(&mut session, "CHECKPOINT").await.unwrap();
    }
}

#[tokio::test]
async fn an_alias_may_hide_the_column_it_is_computed_of() {
    let node = Node::start().await;
    let mut session = node.session();
    run(
        &mut session,
        "CREATE STREAM s (k TEXT KEY, v TEXT, st STRUCT<a INT>) WITH (kafka_topic = 's', partitions = 1)",
    )
    .await
    .unwrap();
    run(&mut session, "INSERT INTO s VALUES ('x', 'one', '{\"a\": 1}'), ('y', 'two', '{\"a\": 2}')").await.unwrap();
    let text = "convert_from(_value, 'UTF8') AS _value";
    for sql in [
        format!("SELECT o, _value ->> 'v' FROM (SELECT _offset AS o, {text} FROM topics.s WHERE _key = 'y'::bytea) ORDER BY o"),
        format!("SELECT _offset, _value ->> 'v' FROM (SELECT _offset, {text} FROM topics.s) WHERE _offset = 1 AND _value ->> 'v' > ''"),
        format!("SELECT o, _value ->> 'v' FROM (SELECT _offset AS o, {text} FROM topics.s WHERE _key = 'y'::bytea) q ORDER BY o"),
        format!("SELECT _offset, _value ->> 'v' FROM (SELECT _offset, {text} FROM topics.s WHERE _offset > 0) q ORDER BY _offset"),
        format!("SELECT _offset, _value ->> 'v' FROM (SELECT _offset, {text} FROM topics.s) q WHERE _value ->> 'v' = 'two'"),
        format!("WITH q AS (SELECT _offset, {text} FROM topics.s WHERE _key = 'y'::bytea) SELECT _offset, _value ->> 'v' FROM q ORDER BY 1"),
        format!("SELECT max(_offset), _value ->> 'v' FROM (SELECT _offset, {text} FROM topics.s) q WHERE _offset = 1 GROUP BY 2"),
        "SELECT o, (st).a || 'wo' FROM (SELECT _offset AS o, CASE WHEN k = 'y' THEN named_struct('a', 't') END AS st FROM s) q \
         WHERE (st).a = 't' ORDER BY o"
            .to_owned(),
    ] {
        let found = run(&mut session, &sql).await.map_err(|error| format!("{sql}: {error:?}"));
        assert_eq!(found, Ok(vec!["1|two".to_owned()]));
    }
}
