//! Continuous queries and push queries, one promise per test.

use std::time::Duration;

use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{Append, Commit, Error, TopicPartition, Trim};
use futures::StreamExt;

use super::node::{Cell, DEADLINE, Node, Record, cells, rows};

const EVENTS: &str = "CREATE STREAM events (id STRING KEY, user_id STRING, x BIGINT) WITH (partitions = 2)";

fn text(value: &str) -> Cell {
    Cell::Text(value.to_owned())
}

fn event(timestamp_ms: i64, user: &str, x: i64) -> Record {
    let value = format!("{{\"user_id\": \"{user}\", \"x\": {x}}}");
    Record { timestamp_ms, key: Some(format!("id-{x}")), value: Some(value), headers: Vec::new() }
}

fn events(count: i64) -> Vec<Record> {
    (0..count).map(|x| event(x, ["a", "b", "c"][usize::try_from(x % 3).unwrap()], x)).collect()
}

async fn node_with_events(dir: &tempfile::TempDir) -> Node {
    let mut node = Node::open(dir.path()).await;
    node.run(EVENTS).await;
    node
}

#[tokio::test]
async fn a_windowed_table_counts_per_window_and_its_topic_has_the_window_in_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    let window = "WINDOW TUMBLING (SIZE 5 MINUTES, GRACE PERIOD 0 SECONDS)";
    let select = format!("SELECT user_id, count(*) AS n FROM events {window} GROUP BY user_id HAVING count(*) >= 2");
    node.run(&format!("CREATE TABLE alerts AS {select} EMIT CHANGES")).await;
    // The last record is late: its window ended when 300000 was seen.
    let records = [event(1, "a", 0), event(2, "b", 1), event(300_000, "a", 2), event(3, "a", 3)];
    node.append("events", 0, &records).await;
    node.append("events", 1, &[event(4, "a", 4)]).await;
    node.caught_up().await;
    let table = node.run("SELECT * FROM alerts").await;
    assert_eq!(table, vec![vec![text("a"), text("2"), text("0"), text("300000")]]);
    assert_eq!(node.run(&select).await, table);
    let bytes = "SELECT arrow_cast(_key, 'Utf8'), arrow_cast(_value, 'Utf8'), rowtime FROM topics.\"alerts\"";
    let records = node.run(bytes).await;
    assert_eq!(records[0][0], text(r#"{"user_id":"a","windowstart":0,"windowend":300000}"#));
    assert_eq!(records[0][1..], [text(r#"{"n":2}"#), text("4")]);
    node.close().await;
}

#[tokio::test]
async fn a_group_that_no_longer_satisfies_having_is_a_tombstone() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    node.run("CREATE TABLE twice AS SELECT user_id, count(*) AS n FROM events GROUP BY user_id HAVING count(*) = 2")
        .await;
    for (x, expected) in [(0, 0), (1, 1), (2, 0)] {
        node.append("events", 0, &[event(10 + x, "a", x)]).await;
        node.caught_up().await;
        assert_eq!(node.run("SELECT * FROM twice").await.len(), expected, "after {x}");
    }
    let values = node.run("SELECT _value IS NULL, length(_key) FROM topics.\"twice\" ORDER BY _offset").await;
    assert_eq!(values, vec![vec![text("false"), text("1")], vec![text("true"), text("1")]]);
    node.close().await;
}

#[tokio::test]
async fn a_table_without_input_has_the_row_a_batch_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    node.run("CREATE TABLE total AS SELECT count(*) AS n, sum(x) AS s FROM events").await;
    assert_eq!(node.run("SELECT * FROM total").await, vec![vec![text("0"), Cell::Null]], "from the first moment");
    node.cut_off().await;
    let mut node = Node::open(dir.path()).await;
    node.append("events", 1, &events(4)).await;
    node.caught_up().await;
    assert_eq!(node.run("SELECT * FROM total").await, vec![vec![text("4"), text("6")]]);
    assert_eq!(node.run("SELECT count(*) FROM topics.\"total\"").await[0][0], text("2"));
    node.close().await;
}

async fn until(node: &mut Node, sql: &str, expected: &Vec<Vec<Cell>>) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let found = node.run(sql).await;
        if found == *expected {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{sql}: {found:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_filter_keeps_key_timestamp_headers_and_the_partition_of_a_null_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    node.run(
        "CREATE STREAM large WITH (kafka_topic = 'large-events') AS SELECT id, x * 2 AS y FROM events WHERE x > 5",
    )
    .await;
    let headers = vec![("h".to_owned(), "1".to_owned()), ("h".to_owned(), "2".to_owned())];
    let keyed = Record { headers, ..event(77, "a", 10) };
    let keyless = Record { key: None, ..event(78, "a", 20) };
    node.append("events", 1, &[event(76, "a", 1), keyed, keyless]).await;
    node.caught_up().await;
    let sql = "SELECT arrow_cast(_key, 'Utf8') AS k, rowtime, _headers::text, id, y FROM large ORDER BY y";
    let found = node.run(sql).await;
    let headers = "[{\"key\": \"h\", \"value\": \"1\"}, {\"key\": \"h\", \"value\": \"2\"}]";
    assert_eq!(found[0], vec![text("id-10"), text("77"), text(headers), text("id-10"), text("20")]);
    assert_eq!(found[1], vec![Cell::Null, text("78"), text("[]"), Cell::Null, text("40")]);
    let keyless = "SELECT _partition FROM topics.\"large-events\" WHERE _key IS NULL";
    assert_eq!(node.run(keyless).await, vec![vec![text("1")]]);
    node.close().await;
}

#[tokio::test]
async fn the_group_null_has_a_row_whatever_the_key_format() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    for format in ["kafka", "json"] {
        let with = format!("WITH (key_format = '{format}')");
        node.run(&format!(
            "CREATE TABLE by_{format} {with} AS SELECT user_id, count(*) AS n FROM events GROUP BY user_id"
        ))
        .await;
    }
    let nameless = Record { value: Some("{\"x\": 1}".to_owned()), ..event(1, "", 0) };
    node.append("events", 0, &[event(1, "a", 1), nameless.clone(), nameless]).await;
    node.caught_up().await;
    let expected = vec![vec![text("a"), text("1")], vec![Cell::Null, text("2")]];
    for format in ["kafka", "json"] {
        assert_eq!(node.run(&format!("SELECT * FROM by_{format} ORDER BY n")).await, expected, "{format}");
    }
    node.close().await;
}

#[tokio::test]
async fn what_continuous_queries_do_not_do_is_refused_by_name_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    node.run("CREATE TABLE users (user_id STRING PRIMARY KEY, name STRING)").await;
    let refusals = [
        ("STREAM", "SELECT DISTINCT user_id FROM events", "DISTINCT"),
        ("STREAM", "SELECT e.x FROM events e JOIN users u ON e.user_id = u.user_id", "JOIN"),
        ("STREAM", "SELECT x, row_number() OVER () AS n FROM events", "OVER"),
        ("STREAM", "SELECT x FROM events UNION ALL SELECT x FROM events", "UNION"),
        ("STREAM", "SELECT x FROM events ORDER BY x", "ORDER BY"),
        ("STREAM", "SELECT x FROM events LIMIT 3", "LIMIT"),
        ("STREAM", "SELECT x FROM events WHERE x > (SELECT max(x) FROM events)", "subquery"),
        ("STREAM", "SELECT now() AS at FROM events", "now()"),
        ("STREAM", "SELECT user_id, name FROM users", "table \"users\""),
        ("STREAM", "SELECT _value AS v FROM topics.\"events\"", "topics.\"events\""),
        ("TABLE", "SELECT user_id, median(x) AS m FROM events GROUP BY user_id", "median("),
        ("TABLE", "SELECT user_id, sum(DISTINCT x) AS s FROM events GROUP BY user_id", "sum(DISTINCT"),
        ("TABLE", "SELECT user_id, count(*) AS n FROM events GROUP BY ROLLUP (user_id)", "ROLLUP"),
        (
            "TABLE",
            "SELECT user_id, count(*) AS n FROM events WINDOW HOPPING (SIZE 2 MINUTES, ADVANCE BY 1 MINUTE) \
             GROUP BY user_id",
            "HOPPING",
        ),
        ("TABLE", "SELECT user_id, count(*) AS n FROM events WINDOW SESSION (5 MINUTES) GROUP BY user_id", "SESSION"),
        ("TABLE", "SELECT user_id, count(*) AS n FROM events GROUP BY user_id EMIT FINAL", "EMIT FINAL"),
    ];
    for (kind, select, named) in refusals {
        let error = node.refused(&format!("CREATE {kind} q AS {select}")).await;
        assert_eq!(error.state.code(), "0A000", "{select}: {error:?}");
        assert!(error.message.contains(named), "{select}: {error:?}");
        assert!(error.hint.is_some(), "{select}: {error:?}");
    }
    for (kind, select, state) in [
        ("STREAM", "SELECT user_id, count(*) AS n FROM events GROUP BY user_id", "42611"),
        ("TABLE", "SELECT user_id FROM events", "42611"),
        ("TABLE", "SELECT count(*) AS n FROM events GROUP BY user_id", "42803"),
        ("TABLE", "SELECT user_id, sum(x), sum(x + 1) FROM events GROUP BY user_id", "42611"),
        ("STREAM", "SELECT _offset FROM events", "42611"),
        ("STREAM", "SELECT nothing FROM events", "42703"),
    ] {
        let error = node.refused(&format!("CREATE {kind} q AS {select}")).await;
        assert_eq!(error.state.code(), state, "{select}: {error:?}");
        assert!(error.hint.is_some() || state == "42703", "{select}: {error:?}");
    }
    let push = node.refused("SELECT user_id, count(*) FROM events GROUP BY user_id EMIT CHANGES").await;
    assert_eq!(push.state.code(), "0A000");
    assert!(push.message.contains("push query"), "{push:?}");
    assert!(node.storage.topic("q").is_none(), "what is refused leaves nothing");
    node.close().await;
}

#[tokio::test]
async fn a_topic_that_a_query_reads_or_writes_is_held_by_its_name_until_the_query_is_terminated() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    node.run("CREATE TABLE per_user AS SELECT user_id, count(*) AS n FROM events GROUP BY user_id").await;
    node.append("events", 0, &events(9)).await;
    node.caught_up().await;
    for topic in ["events", "per_user"] {
        let id = node.storage.topic(topic).unwrap().id;
        let error = node.storage.delete_topic(id).await.unwrap_err().to_string();
        assert!(error.contains("query per_user"), "{error}");
    }
    let error = node.refused("DROP STREAM events").await;
    assert!(error.message.contains("per_user"), "{error:?}");
    node.run("TERMINATE per_user").await;
    assert!(node.run("SELECT * FROM aquifer.queries").await.is_empty());
    node.append("events", 0, &events(9)).await;
    assert_eq!(node.run("SELECT DISTINCT n FROM per_user").await, vec![vec![text("3")]], "the table stays as it was");
    node.run("DROP TABLE per_user DELETE TOPIC").await;
    // The name may be given again, and begins with the earliest record.
    node.run("CREATE TABLE per_user AS SELECT user_id, count(*) AS n FROM events GROUP BY user_id").await;
    node.caught_up().await;
    assert_eq!(node.run("SELECT DISTINCT n FROM per_user").await, vec![vec![text("6")]]);
    node.run("DROP TABLE per_user DELETE TOPIC").await;
    assert!(node.storage.topic("per_user").is_none());
    node.close().await;
}

#[tokio::test]
async fn a_query_whose_expression_fails_says_so_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    node.run("CREATE STREAM broken AS SELECT 10 / x AS y FROM events").await;
    node.run("CREATE TABLE whole AS SELECT user_id, max(x) AS m FROM events GROUP BY user_id").await;
    node.append("events", 0, &[event(1, "a", 5), event(2, "a", 0)]).await;
    let state = vec![vec![text("broken"), text("error"), text("true")]];
    let sql = "SELECT name, state, error LIKE '%zero%' FROM aquifer.queries WHERE name = 'broken'";
    until(&mut node, sql, &state).await;
    until(&mut node, "SELECT * FROM whole", &vec![vec![text("a"), text("5")]]).await;
    node.close().await;
}

#[tokio::test]
async fn output_that_does_not_fit_one_commit_is_cut_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let small = |settings: &mut StorageSettings| settings.wal_commit_bytes_max = 256 << 10;
    let mut node = Node::open_with(dir.path(), small).await;
    node.run("CREATE STREAM wide (k STRING, pad STRING)").await;
    let pad = "p".repeat(1000);
    let record = |k: i64| Record {
        timestamp_ms: k,
        value: Some(format!("{{\"k\": \"{k}\", \"pad\": \"{pad}\"}}")),
        ..Record::default()
    };
    for batch in 0..20 {
        node.append("wide", batch % 3, &(0..100).map(|k| record(i64::from(batch) * 100 + k)).collect::<Vec<_>>()).await;
    }
    node.run("CREATE STREAM copy AS SELECT * FROM wide").await;
    node.run("CREATE TABLE latest AS SELECT k, max(pad) AS pad FROM wide GROUP BY k").await;
    node.caught_up().await;
    for copy in ["copy", "latest"] {
        let found = node.run(&format!("SELECT count(*), count(DISTINCT k) FROM {copy}")).await;
        assert_eq!(found, vec![vec![text("2000"), text("2000")]], "{copy}");
    }
    node.close().await;
}

#[tokio::test]
async fn a_push_query_begins_now_and_ends_after_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let node = node_with_events(&dir).await;
    node.append("events", 0, &events(3)).await;
    let mut session = node.session();
    let sql = "SELECT user_id, x FROM events WHERE x >= 100 EMIT CHANGES LIMIT 2";
    let mut pushed = rows(&mut session, sql).await.unwrap();
    assert!(pushed.live);
    for x in [7, 100, 101, 102] {
        node.append("events", 1, &[event(x, "n", x)]).await;
    }
    let mut found = Vec::new();
    while let Some(batch) = tokio::time::timeout(DEADLINE, pushed.stream.next()).await.unwrap() {
        found.extend(cells(&batch.unwrap()));
    }
    assert_eq!(found, vec![vec![text("n"), text("100")], vec![text("n"), text("101")]]);
    node.close().await;
}

#[tokio::test]
async fn a_push_query_shows_history_when_asked_and_then_each_record_as_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let node = node_with_events(&dir).await;
    node.append("events", 0, &events(3)).await;
    let mut session = node.session();
    super::node::run(&mut session, "SET auto_offset_reset = 'earliest'").await.unwrap();
    let mut pushed = rows(&mut session, "SELECT x FROM events EMIT CHANGES").await.unwrap();
    let mut found = Vec::new();
    for expected in 3..6 {
        while found.len() < expected {
            let batch = tokio::time::timeout(DEADLINE, pushed.stream.next()).await.unwrap().unwrap();
            found.extend(cells(&batch.unwrap()));
        }
        assert_eq!(found.len(), expected);
        node.append("events", 1, &[event(9, "n", 9)]).await;
    }
    drop(pushed);
    node.close().await;
}

#[tokio::test]
async fn a_push_query_reads_a_bare_topic_and_skips_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = node_with_events(&dir).await;
    let broken = Record { value: Some("not json".to_owned()), ..Record::default() };
    node.append("events", 0, &[broken, event(5, "a", 5)]).await;
    let mut session = node.session();
    super::node::run(&mut session, "SET auto_offset_reset = 'earliest'").await.unwrap();
    let sql = "SELECT _partition, _offset FROM topics.\"events\" EMIT CHANGES LIMIT 2";
    let found = super::node::run(&mut session, sql).await.unwrap();
    assert_eq!(found, vec![vec![text("0"), text("0")], vec![text("0"), text("1")]]);
    node.close().await;
}

#[tokio::test]
async fn a_push_query_ends_with_the_statement_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let node = node_with_events(&dir).await;
    let mut session = node.session();
    super::node::run(&mut session, "SET statement_timeout = '500ms'").await.unwrap();
    let mut pushed = rows(&mut session, "SELECT x FROM events EMIT CHANGES").await.unwrap();
    let end = tokio::time::timeout(DEADLINE, pushed.stream.next()).await.unwrap().unwrap().unwrap_err();
    assert!(end.to_string().contains("statement timeout"), "{end}");
    assert!(pushed.stream.next().await.is_none());
    node.close().await;
}

#[tokio::test]
async fn a_window_stands_before_where_or_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = node_with_events(&dir).await;
    node.append("events", 0, &events(9)).await;
    let mut session = node.session();
    let window = "WINDOW TUMBLING (SIZE 1 MINUTE)";
    for clauses in [format!("{window} WHERE (x > 3)"), format!("WHERE (x > 3) {window}")] {
        let sql = format!("SELECT user_id, count(*) FROM events {clauses} GROUP BY user_id ORDER BY user_id");
        let found = super::node::run(&mut session, &sql).await.unwrap();
        let expected = [("a", "1"), ("b", "2"), ("c", "2")].map(|(user, n)| [user, n, "0", "60000"].map(text).to_vec());
        assert_eq!(found, expected, "{sql}");
    }
    node.close().await;
}

#[tokio::test]
async fn a_continuous_query_reads_an_open_transaction_when_it_has_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    node.run("CREATE TABLE counts AS SELECT user_id, count(*) AS n FROM events GROUP BY user_id EMIT CHANGES").await;
    let (mut kept, mut undone) = (node.storage.begin().await.unwrap(), node.storage.begin().await.unwrap());
    let topic = node.storage.topic("events").unwrap().id;
    for (large, user) in [(&mut kept, "a"), (&mut undone, "b")] {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        let value = format!("{{\"user_id\": \"{user}\", \"x\": 1}}");
        builder.push(1, Some(b"k"), Some(value.as_bytes()), &[]);
        let batch = builder.build(Compression::None).unwrap();
        large.append(Append { topic, partition: 0, batch: batch.clone() }).await.unwrap();
        // A batch waits until the next one would not fit its frame.
        let fill = "f".repeat(3 << 20);
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        builder.push(1, Some(b"k"), Some(format!("{{\"user_id\": \"{user}\", \"fill\": \"{fill}\"}}").as_bytes()), &[]);
        large.append(Append { topic, partition: 0, batch: builder.build(Compression::None).unwrap() }).await.unwrap();
    }
    node.append("events", 0, &[event(5, "behind", 1)]).await;
    node.append("events", 1, &[event(5, "beside", 2)]).await;
    node.caught_up().await;
    let select = "SELECT user_id, n FROM counts ORDER BY user_id";
    assert_eq!(node.run(select).await, vec![vec![text("beside"), text("1")]]);
    undone.abort().await.unwrap();
    kept.commit(Commit::default()).await.unwrap();
    node.caught_up().await;
    let expected: Vec<_> =
        [("a", "2"), ("behind", "1"), ("beside", "1")].map(|(user, n)| vec![text(user), text(n)]).to_vec();
    assert_eq!(node.run(select).await, expected);
    assert_eq!(node.run("SELECT user_id, count(*) FROM events GROUP BY user_id ORDER BY user_id").await, expected);
    node.close().await;
}

#[tokio::test]
async fn partitions_added_to_the_source_are_read_and_count_as_in_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    let window = "WINDOW TUMBLING (SIZE 5 MINUTES, GRACE PERIOD 0 SECONDS)";
    let select = format!("SELECT user_id, count(*) AS n FROM events {window} GROUP BY user_id");
    node.run(&format!("CREATE TABLE per_user AS {select} EMIT CHANGES")).await;
    node.run("CREATE STREAM large AS SELECT id, x FROM events WHERE x >= 10").await;
    node.append("events", 0, &[event(1, "a", 0), event(900_000, "a", 11)]).await;
    node.append("events", 1, &[event(2, "b", 12), event(900_001, "b", 2)]).await;
    node.caught_up().await;
    let topic = node.storage.topic("events").unwrap();
    node.storage.add_partitions(topic.id, 4).await.unwrap();
    // Of a window that is long closed in the other partitions, and not late in its own.
    node.append("events", 3, &[event(3, "a", 13), event(900_002, "c", 3)]).await;
    node.caught_up().await;
    let order = "ORDER BY user_id, windowstart";
    let batch = node.run(&format!("SELECT * FROM ({select}) {order}")).await;
    assert_eq!(node.run(&format!("SELECT * FROM per_user {order}")).await, batch);
    assert_eq!(node.run("SELECT count(*) FROM large").await, vec![vec![text("3")]]);
    node.close().await;

    let mut node = Node::open(dir.path()).await;
    node.append("events", 2, &[event(4, "b", 14)]).await;
    node.caught_up().await;
    let batch = node.run(&format!("SELECT * FROM ({select}) {order}")).await;
    assert_eq!(node.run(&format!("SELECT * FROM per_user {order}")).await, batch);
    assert_eq!(node.run("SELECT count(*) FROM large").await, vec![vec![text("4")]]);
    node.close().await;
}

#[tokio::test]
async fn records_are_deleted_as_far_as_no_query_needs_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    node.run("CREATE STREAM copied AS SELECT id, x FROM events").await;
    node.append("events", 0, &events(10)).await;
    node.caught_up().await;
    let partition = |topic: &str| TopicPartition { topic: node.storage.topic(topic).unwrap().id, partition: 0 };
    let trim = |topic: &str, log_start_offset| vec![Trim { partition: partition(topic), log_start_offset }];
    node.storage.trim(trim("events", 4)).await.unwrap();
    let (start, events) = (trim("copied", 1), trim("events", 5));
    node.storage.trim(start).await.unwrap();
    assert_eq!(node.run("SELECT count(*) FROM events").await, vec![vec![text("6")]]);
    node.run("CREATE TABLE per_user AS SELECT user_id, count(*) AS n FROM events GROUP BY user_id").await;
    node.caught_up().await;
    let held = node.storage.trim(events).await;
    assert!(matches!(held, Err(Error::TopicHeld { .. })), "its state is made of all of them: {held:?}");
    node.close().await;
}

#[tokio::test]
async fn a_result_stays_in_the_partitions_it_was_made_with() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    node.run("CREATE TABLE per_user AS SELECT user_id, count(*) AS n FROM events GROUP BY user_id").await;
    node.append("events", 0, &events(30)).await;
    node.caught_up().await;
    let topic = node.storage.topic("per_user").unwrap();
    node.storage.add_partitions(topic.id, 7).await.unwrap();
    node.close().await;
    let mut node = Node::open(dir.path()).await;
    node.append("events", 0, &events(30)).await;
    node.caught_up().await;
    let table = node.run("SELECT n FROM per_user").await;
    assert_eq!(table, vec![vec![text("20")]; 3], "one row of each key");
    node.close().await;
}

#[tokio::test]
async fn a_result_is_written_in_batches_that_its_topic_takes() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_events(&dir).await;
    node.run("CREATE STREAM copied WITH (max_message_bytes = 300) AS SELECT id, user_id, x FROM events").await;
    node.append("events", 0, &events(100)).await;
    node.caught_up().await;
    assert_eq!(node.run("SELECT count(*) FROM copied").await, vec![vec![text("100")]]);
    node.run("CREATE STREAM small (id STRING KEY, v STRING) WITH (partitions = 1, max_message_bytes = 300)").await;
    let rows: Vec<_> = (0..50).map(|n| format!("('k{n}', 'value {n}')")).collect();
    node.run(&format!("INSERT INTO small VALUES {}", rows.join(", "))).await;
    assert_eq!(node.run("SELECT count(*) FROM small").await, vec![vec![text("50")]]);
    node.close().await;
}
