//! The analytical read path: what a query reads, counted, and that its answer does not depend on how it was read.

use aquifer_storage::ObjectRequestKind;

use super::node::{Cell, Node, Record};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// 2023-01-01, ms.
const YEAR_MS: i64 = 1_672_531_200_000;
/// Days of the year in small: an hour of each is an object.
const DAYS: i64 = 120;
/// Events of a day's hour.
const EVENTS: i64 = 300;

pub(crate) fn text(value: &str) -> Cell {
    Cell::Text(value.to_owned())
}

fn texts(values: &[&str]) -> Vec<Cell> {
    values.iter().map(|value| text(value)).collect()
}

/// The `event`th event of an hour on a day; one in a hundred does not decode.
fn event(day: i64, event: i64) -> Record {
    let at_ms = YEAR_MS + day * DAY_MS + 10 * HOUR_MS + event * 10_000;
    let number = day * EVENTS + event;
    let value = match event % 100 {
        99 => "no json".to_owned(),
        _ => format!(
            "{{\"page\": \"/p{}\", \"amount\": {}.{:02}, \"seen\": {at_ms}, \"n\": {number}, \"tags\": [\"t{}\"]}}",
            number % 7,
            number % 1000,
            number % 100,
            number % 3
        ),
    };
    Record { timestamp_ms: at_ms, key: Some(format!("user-{number}")), value: Some(value), headers: Vec::new() }
}

const STREAM: &str = "CREATE STREAM events (id STRING KEY, page STRING, amount DECIMAL(10, 2), seen TIMESTAMP, n BIGINT, \
     tags ARRAY<STRING>) WITH (kafka_topic = 'events', value_format = 'json', partitions = 1, timestamp = 'seen')";

async fn open(dir: &std::path::Path) -> Node {
    Node::open_with(dir, |settings| {
        settings.housekeeping_interval_ms = 0;
        settings.topic_local_retention_ms = 0;
        settings.topic_retention_ms = -1;
    })
    .await
}

async fn append_day(node: &Node, day: i64) {
    let events: Vec<Record> = (0..EVENTS).map(|number| event(day, number)).collect();
    node.append("events", 0, &events).await;
}

/// A year in small, cold: an object per day.
async fn year(dir: &std::path::Path) -> Node {
    let mut node = open(dir).await;
    node.run(STREAM).await;
    for day in 0..DAYS {
        append_day(&node, day).await;
        node.storage.checkpoint().await.unwrap();
    }
    node
}

/// What `EXPLAIN ANALYZE` counts for the scan.
pub(crate) async fn counted(node: &mut Node, sql: &str, name: &str) -> u64 {
    let lines = node.run(&format!("EXPLAIN ANALYZE {sql}")).await;
    let line = lines.iter().find_map(|line| match &line[0] {
        Cell::Text(line) if line.contains("ScanExec") => Some(line.clone()),
        _ => None,
    });
    let line = line.unwrap_or_else(|| panic!("{sql}: {lines:?}"));
    let value = line.split(&format!("{name}=")).nth(1).unwrap_or_else(|| panic!("no {name}: {line}"));
    let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{name}: {line}"))
}

/// Bytes that the object store was asked for by a query.
pub(crate) async fn bytes_read(node: &mut Node, sql: &str) -> u64 {
    let bytes = |node: &Node| {
        let requests = node.storage.object_requests();
        requests.iter().filter(|of| of.kind == ObjectRequestKind::Get).map(|of| of.bytes).sum::<u64>()
    };
    let before = bytes(node);
    node.run(sql).await;
    bytes(node) - before
}

/// The hour of day 77.
const HOUR: (&str, &str) = ("2023-03-19 10:00:00", "2023-03-19 11:00:00");

#[tokio::test]
async fn an_hour_of_a_year_reads_no_more_than_twice_the_bytes_of_that_hour() {
    let home = tempfile::tempdir().unwrap();
    let mut node = year(home.path()).await;
    let objects = node.storage.objects().await.unwrap();
    assert_eq!(objects.len(), DAYS as usize);
    let of_the_hour = objects.iter().find(|object| object.first_offset == 77 * EVENTS).unwrap().bytes;
    let select = |filter: &str| format!("SELECT count(*), sum(n) FROM events WHERE {filter}");
    let (from, decoded) = (77 * EVENTS, EVENTS - EVENTS / 100);
    let sum: i64 = (0..EVENTS).filter(|event| event % 100 != 99).map(|event| from + event).sum();
    let expected = vec![texts(&[&decoded.to_string(), &sum.to_string()])];

    let by_timestamp =
        format!("_timestamp >= '{}+00'::timestamptz AND _timestamp < '{}+00'::timestamptz", HOUR.0, HOUR.1);
    let read = bytes_read(&mut node, &select(&by_timestamp)).await;
    assert!(read > 0 && read <= 2 * of_the_hour, "{read} bytes for an hour of {of_the_hour}");
    assert_eq!(node.run(&select(&by_timestamp)).await, expected);
    assert_eq!(counted(&mut node, &select(&by_timestamp), "objects_read").await, 1);

    // Statistics are in the footers: they are read once.
    let by_column = format!("seen >= TIMESTAMP '{}' AND seen < TIMESTAMP '{}'", HOUR.0, HOUR.1);
    assert_eq!(node.run(&select(&by_column)).await, expected);
    let hour_ms = YEAR_MS + 77 * DAY_MS + 10 * HOUR_MS;
    let by_rowtime = format!("rowtime >= {hour_ms} AND rowtime < {}", hour_ms + HOUR_MS);
    let by_number = format!("n BETWEEN {from} AND {}", from + EVENTS - 1);
    for filter in [by_column, by_rowtime, by_number] {
        let read = bytes_read(&mut node, &select(&filter)).await;
        assert!(read > 0 && read <= 2 * of_the_hour, "{filter}: {read} bytes for an hour of {of_the_hour}");
        assert_eq!(node.run(&select(&filter)).await, expected, "{filter}");
        assert_eq!(counted(&mut node, &select(&filter), "row_groups_read").await, 1, "{filter}");
    }
    node.close().await;
}

#[tokio::test]
async fn a_key_reads_a_few_row_groups_and_filters_of_all_kinds_leave_out_only_what_cannot_match() {
    let home = tempfile::tempdir().unwrap();
    let mut node = year(home.path()).await;
    for (filter, rows, groups) in [
        ("id = 'user-4242'", 1, 5),
        ("_key = 'user-4242'::bytea", 1, 5),
        ("id IN ('user-1', 'user-2', 'nobody')", 2, 8),
        ("id = 'nobody'", 0, 5),
        ("n < 3 OR n > 35990", 11, 2),
        ("n IN (5, 30000)", 2, 2),
        ("page LIKE '/q%'", 0, 0),
        ("page IS NULL", 0, 0),
        ("_offset < 10 OR _offset = 35000", 11, 2),
    ] {
        let found = node.run(&format!("SELECT n FROM events WHERE {filter}")).await;
        assert_eq!(found.len(), rows, "{filter}");
        let sql = format!("SELECT * FROM events WHERE {filter}");
        let read = counted(&mut node, &sql, "row_groups_read").await;
        assert!(read <= groups, "{filter}: {read} row groups");
    }
    let join = "SELECT e.page FROM events e JOIN (VALUES (100), (101)) AS v (n) ON e.n = v.n";
    assert_eq!(node.run(join).await.len(), 2);
    let read = counted(&mut node, join, "row_groups_read").await;
    assert!(read <= 3, "{read} row groups for a join with one object's rows");
    node.close().await;
}

#[tokio::test]
async fn limits_and_orders_read_only_what_they_must() {
    let home = tempfile::tempdir().unwrap();
    let mut node = year(home.path()).await;
    assert_eq!(node.run("SELECT * FROM events LIMIT 10").await.len(), 10);
    assert_eq!(counted(&mut node, "SELECT * FROM events LIMIT 10", "objects_read").await, 1);
    assert_eq!(node.run("SELECT _offset FROM topics.events LIMIT 10 OFFSET 5").await.len(), 10);
    let numbers = |range: std::ops::Range<i64>| range.map(|n| vec![text(&n.to_string())]).collect::<Vec<_>>();
    let newest: Vec<_> = numbers(DAYS * EVENTS - 6..DAYS * EVENTS - 1).into_iter().rev().collect();
    for (order, expected) in [
        ("_offset", numbers(0..5)),
        ("rowoffset", numbers(0..5)),
        ("_timestamp", numbers(0..5)),
        ("_offset DESC", newest.clone()),
        ("_timestamp DESC", newest.clone()),
        ("rowtime DESC", newest.clone()),
        ("n DESC", newest),
    ] {
        let sql = format!("SELECT n FROM events WHERE page IS NOT NULL ORDER BY {order} LIMIT 5");
        assert_eq!(node.run(&sql).await, expected, "{order}");
        let sql = format!("SELECT n FROM events ORDER BY {order} LIMIT 5");
        assert_eq!(node.run(&sql).await, expected, "{order}");
        let read = counted(&mut node, &sql, "objects_read").await;
        assert!(read <= 2, "{order}: {read} objects");
    }
    let ordered = node.run("SELECT rowoffset FROM events ORDER BY _offset").await;
    let decoded = (0..DAYS * EVENTS).filter(|event| event % EVENTS % 100 != 99);
    assert_eq!(ordered, decoded.map(|offset| vec![text(&offset.to_string())]).collect::<Vec<_>>());
    node.close().await;
}

#[tokio::test]
async fn counts_and_ends_come_from_what_is_known_and_are_right_where_it_is_not() {
    let home = tempfile::tempdir().unwrap();
    let mut node = year(home.path()).await;
    let (all, decoded) = (DAYS * EVENTS, DAYS * (EVENTS - EVENTS / 100));
    let ends = "min(_offset), max(_offset), min(rowtime), max(rowtime)";
    let of_topic = format!("SELECT count(*), {ends} FROM topics.events");
    let last_ms = |day: i64| YEAR_MS + day * DAY_MS + 10 * HOUR_MS + (EVENTS - 1) * 10_000;
    let first_ms = YEAR_MS + 10 * HOUR_MS;
    let row = |counted: i64, first: i64, last: i64, to_ms: i64| {
        vec![[counted, first, last, first_ms, to_ms].map(|number| text(&number.to_string())).to_vec()]
    };
    assert_eq!(node.run(&of_topic).await, row(all, 0, all - 1, last_ms(DAYS - 1)));
    assert_eq!(bytes_read(&mut node, &of_topic).await, 0, "the manifest knows");
    // The last event of an hour does not decode.
    let of_stream = format!("SELECT count(*), {ends} FROM events");
    assert_eq!(node.run(&of_stream).await, row(decoded, 0, all - 2, last_ms(DAYS - 1) - 10_000));
    let count = "SELECT count(*) FROM events";
    assert_eq!(node.run(count).await, vec![texts(&[&decoded.to_string()])]);
    let errors = node.run("SELECT count(*) FROM aquifer.decode_errors WHERE stream = 'events'").await;
    assert_eq!(errors, vec![texts(&[&(all - decoded).to_string()])]);

    // Where all records decoded, footers say how many there are.
    node.run("CREATE STREAM clean (n BIGINT) WITH (kafka_topic = 'clean', partitions = 1)").await;
    for _ in 0..3 {
        let record = Record { value: Some("{\"n\": 1}".to_owned()), ..Record::default() };
        node.append("clean", 0, &vec![record; 100]).await;
        node.storage.checkpoint().await.unwrap();
    }
    let of_clean = "SELECT count(*) FROM clean";
    assert_eq!(node.run(of_clean).await, vec![texts(&["300"])]);
    assert_eq!(bytes_read(&mut node, of_clean).await, 0, "the footers know");
    assert_eq!(counted(&mut node, of_clean, "typed_rows").await, 300);

    append_day(&node, DAYS).await;
    let (all, decoded) = (all + EVENTS, decoded + EVENTS - EVENTS / 100);
    assert_eq!(node.run(&of_topic).await, row(all, 0, all - 1, last_ms(DAYS)));
    assert_eq!(node.run(&of_stream).await, row(decoded, 0, all - 2, last_ms(DAYS) - 10_000));
    assert_eq!(node.run(count).await, vec![texts(&[&decoded.to_string()])]);
    let ends = node.run("SELECT max(_timestamp) = max(_timestamp) FILTER (WHERE n IS NOT NULL) FROM events").await;
    assert_eq!(ends, vec![texts(&["true"])]);
    node.close().await;
}

#[tokio::test]
async fn answers_are_the_same_before_and_after_a_declaration_and_once_all_is_rewritten() {
    let home = tempfile::tempdir().unwrap();
    let mut node = open(home.path()).await;
    node.run("CREATE STREAM plain (note STRING) WITH (kafka_topic = 'events', partitions = 1)").await;
    append_day(&node, 0).await;
    node.storage.checkpoint().await.unwrap();
    node.run("DROP STREAM plain").await;
    node.run(STREAM).await;
    append_day(&node, 1).await;
    node.storage.checkpoint().await.unwrap();
    append_day(&node, 2).await;
    let queries = [
        "SELECT *, rowtime, _offset, _key, _headers FROM events ORDER BY _offset",
        "SELECT page, count(*), sum(amount), min(seen), max(page) FROM events GROUP BY page ORDER BY page",
        "SELECT count(*) FROM events WHERE n % 2 = 0 AND seen IS NOT NULL",
    ];
    let mut answers = Vec::new();
    for query in queries {
        answers.push(node.run(query).await);
    }
    assert_eq!(answers[0].len(), 3 * (EVENTS - EVENTS / 100) as usize);
    let mixed = "SELECT page FROM events";
    assert_eq!(counted(&mut node, mixed, "decoded_rows").await, EVENTS as u64);
    assert_eq!(counted(&mut node, mixed, "typed_rows").await, (EVENTS - EVENTS / 100) as u64);
    assert_eq!(counted(&mut node, mixed, "hot_rows").await, EVENTS as u64);
    node.storage.checkpoint().await.unwrap();
    node.run("VACUUM events").await;
    assert_eq!(counted(&mut node, mixed, "decoded_rows").await, 0);
    assert_eq!(counted(&mut node, mixed, "hot_rows").await, 0);
    for (query, answer) in queries.iter().zip(answers) {
        assert_eq!(node.run(query).await, answer, "{query}");
    }
    node.close().await;
}

#[tokio::test]
async fn a_large_scan_runs_in_lanes_and_its_order_is_right() {
    let home = tempfile::tempdir().unwrap();
    let mut node = open(home.path()).await;
    node.run("CREATE STREAM s (n BIGINT) WITH (kafka_topic = 'events', partitions = 2)").await;
    let rows = 40_000_i64;
    for partition in 0..2 {
        for start in (0..rows).step_by(10_000) {
            let record =
                |n: i64| Record { timestamp_ms: n, value: Some(format!("{{\"n\":{n}}}")), ..Record::default() };
            let records: Vec<Record> = (start..start + 10_000).map(record).collect();
            node.append("events", partition, &records).await;
        }
    }
    if std::thread::available_parallelism().is_ok_and(|threads| threads.get() > 1) {
        let plan = format!("{:?}", node.run("EXPLAIN SELECT n FROM s").await);
        assert!(plan.contains("lanes="), "{plan}");
    }
    let (half, all) = (rows * (rows - 1) / 2, 2 * rows);
    for _ in 0..2 {
        let sum = node.run("SELECT count(*), sum(n) FROM s").await;
        assert_eq!(sum, vec![texts(&[&all.to_string(), &(2 * half).to_string()])]);
        let ends = node.run("SELECT min(n), max(n), min(_offset), max(_timestamp) = max(_timestamp) FROM s").await;
        assert_eq!(ends, vec![texts(&["0", "39999", "0", "true"])]);
        let ordered = node.run("SELECT _partition, _offset FROM s ORDER BY _partition, _offset").await;
        let expected = (0..2).flat_map(|partition| (0..rows).map(move |offset| (partition, offset)));
        let expected = expected.map(|(partition, offset)| texts(&[&format!("{partition}"), &format!("{offset}")]));
        assert!(ordered == expected.collect::<Vec<_>>(), "all rows, by partition and offset");
        let ordered = node.run("SELECT n FROM s WHERE _partition = 1 ORDER BY _offset LIMIT 30000").await;
        assert!(ordered == (0..30_000).map(|n| texts(&[&format!("{n}")])).collect::<Vec<_>>());
        let last = node.run("SELECT n FROM s WHERE _partition = 1 ORDER BY _offset DESC LIMIT 2").await;
        assert_eq!(last, vec![texts(&["39999"]), texts(&["39998"])]);
        node.storage.checkpoint().await.unwrap();
    }
    node.close().await;
}
