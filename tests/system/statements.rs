//! Statements as text (`tests/sql/*.slt`): the same data lies in the log, in objects, on both sides of the seam, and in
//! merged objects, and every statement has one answer.
//!
//! The answers are Postgres's: with `AQUIFER_JUDGE` set to a connection string of an empty database of one, the last test
//! asks it instead. A statement that differs on purpose or by a known fault says `skipif aquifer` with its reason;
//! `AQUIFER_MARKS=1` prints those that no longer differ.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::SinkExt;

use futures::future::BoxFuture;
use sqllogictest::{AsyncDB, ColumnType, Condition, DBOutput, MakeConnection, Record, Runner};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::support::node::Node;
use crate::support::sql::Sql;

/// The relations that all other files ask.
const DATA: &str = "data.slt";
/// Fewest statements that must have been asked: a file that is not read, or a label misspelt, is no success.
const STATEMENTS_MIN: usize = 500;
/// Failures shown; the first ones say what is wrong.
const FAILURES_SHOWN: usize = 40;

/// Nothing is tiered but by CHECKPOINT, and nothing stays in the log that is.
const SETTINGS: [(&str, &str); 5] = [
    ("AQUIFER_CHECKPOINT_INTERVAL", "0"),
    ("AQUIFER_TIER_AGE_MAX", "86400000"),
    ("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "0"),
    ("AQUIFER_HOUSEKEEPING_INTERVAL", "0"),
    ("AQUIFER_WAL_SEGMENT_BYTES", "1 MiB"),
];

/// What a result's column is, as one letter behind `query`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    Whole,
    Number,
    Text,
    Boolean,
    Time,
    /// Not compared, on either side.
    Any,
}

impl ColumnType for Shape {
    fn from_char(letter: char) -> Option<Self> {
        Some(match letter {
            'I' => Self::Whole,
            'R' => Self::Number,
            'T' => Self::Text,
            'B' => Self::Boolean,
            'D' => Self::Time,
            '?' => Self::Any,
            _ => return None,
        })
    }

    fn to_char(&self) -> char {
        match self {
            Self::Whole => 'I',
            Self::Number => 'R',
            Self::Text => 'T',
            Self::Boolean => 'B',
            Self::Time => 'D',
            Self::Any => '?',
        }
    }
}

impl Shape {
    fn of(kind: &Type) -> Self {
        match *kind {
            Type::INT2 | Type::INT4 | Type::INT8 => Self::Whole,
            Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC => Self::Number,
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::CHAR => Self::Text,
            Type::BOOL => Self::Boolean,
            Type::DATE | Type::TIME | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::INTERVAL => Self::Time,
            _ => Self::Any,
        }
    }
}

/// One connection to who is asked.
struct Asked {
    client: Client,
    name: &'static str,
    count: Arc<AtomicUsize>,
    moments: Arc<Mutex<HashMap<String, String>>>,
}

impl Asked {
    async fn connect(target: &str, name: &'static str, asking: &Asking) -> Self {
        let (client, connection) = tokio_postgres::connect(target, NoTls).await.expect("somebody answers");
        drop(tokio::spawn(connection));
        Self { client, name, count: Arc::clone(&asking.count), moments: Arc::clone(&asking.moments) }
    }

    /// `COPY … FROM STDIN` and, on the lines behind it, the data.
    async fn copy(&self, sql: &str, data: &str) -> Result<DBOutput<Shape>, Refused> {
        let sink = self.client.copy_in(sql).await.map_err(Refused)?;
        let mut sink = std::pin::pin!(sink);
        sink.send(Cursor::new(format!("{data}\n").into_bytes())).await.map_err(Refused)?;
        Ok(DBOutput::StatementComplete(sink.finish().await.map_err(Refused)?))
    }

    /// `MOMENT name`: a time that all later commits come after, for `FOR SYSTEM_TIME AS OF 'moment name'`.
    async fn moment(&self, name: &str) -> Result<DBOutput<Shape>, Refused> {
        let mut times = Vec::new();
        while times.len() < 2 {
            let row = self.client.query_one("SELECT now()::text", &[]).await.map_err(Refused)?;
            let now: String = row.get(0);
            if times.last() != Some(&now) {
                times.push(now);
            }
        }
        self.moments.lock().expect("nobody has panicked").insert(name.to_owned(), times.remove(0));
        Ok(DBOutput::StatementComplete(0))
    }

    async fn answer(&self, sql: &str) -> Result<DBOutput<Shape>, Refused> {
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Some(name) = sql.strip_prefix("MOMENT ") {
            return self.moment(name).await;
        }
        if let Some((copy, data)) = sql.split_once('\n')
            && copy.starts_with("COPY ")
        {
            return self.copy(copy, data).await;
        }
        let moments = self.moments.lock().expect("nobody has panicked").clone();
        let timed =
            |sql: String, (name, at): (&String, &String)| sql.replace(&format!("'moment {name}'"), &format!("'{at}'"));
        let sql = &moments.iter().fold(sql.to_owned(), timed);
        // The extended protocol describes the columns, the simple one gives the text: both must agree to the statement.
        let prepared = self.client.prepare(sql).await.map_err(Refused)?;
        let types: Vec<Shape> = prepared.columns().iter().map(|column| Shape::of(column.type_())).collect();
        let messages = self.client.simple_query(sql).await.map_err(Refused)?;
        let mut rows = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                assert_eq!(row.len(), types.len(), "{sql}: Describe and the rows differ");
                rows.push((0..row.len()).map(|column| shown(row.get(column))).collect());
            }
        }
        Ok(if types.is_empty() { DBOutput::StatementComplete(0) } else { DBOutput::Rows { types, rows } })
    }
}

/// What connections of one runner share.
#[derive(Default)]
struct Asking {
    count: Arc<AtomicUsize>,
    moments: Arc<Mutex<HashMap<String, String>>>,
}

/// An error with its code, as the runner shows it.
#[derive(Debug)]
struct Refused(tokio_postgres::Error);

impl std::fmt::Display for Refused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_db_error() {
            Some(said) => write!(formatter, "{} {}", said.code().code(), said.message()),
            None => write!(formatter, "{}", self.0),
        }
    }
}

impl std::error::Error for Refused {}

impl AsyncDB for Asked {
    type Error = Refused;
    type ColumnType = Shape;

    // What the runner's `async_trait` makes of `async fn`, spelt out.
    fn run<'me, 'sql, 'run>(&'me mut self, sql: &'sql str) -> BoxFuture<'run, Result<DBOutput<Shape>, Refused>>
    where
        'me: 'run,
        'sql: 'run,
        Self: 'run,
    {
        Box::pin(self.answer(sql))
    }

    fn shutdown<'me, 'run>(&'me mut self) -> BoxFuture<'run, ()>
    where
        'me: 'run,
        Self: 'run,
    {
        Box::pin(std::future::ready(()))
    }

    fn engine_name(&self) -> &str {
        self.name
    }

    fn error_sql_state(error: &Refused) -> Option<String> {
        error.0.code().map(SqlState::code).map(str::to_owned)
    }
}

fn shown(cell: Option<&str>) -> String {
    match cell {
        None => "NULL".to_owned(),
        Some("") => "(empty)".to_owned(),
        Some(text) => text.to_owned(),
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql")
}

/// Every file of questions, in the order of their names.
fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("tests/sql is there");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt") && !path.ends_with(DATA))
        .collect();
    files.sort();
    files
}

/// Asks everything of one that answers at `target`; the labels say what becomes of the data meanwhile.
async fn ask(target: &str, name: &'static str, labels: &[&str], loaded: impl AsyncFnOnce()) {
    let asking = Asking::default();
    let mut runner = Runner::new(|| async { Ok::<_, Refused>(Asked::connect(target, name, &asking).await) });
    runner.with_column_validator(same_shapes);
    labels.iter().for_each(|label| runner.add_label(label));
    let mut failures = Vec::new();
    run_file(&mut runner, &folder().join(DATA), &mut failures).await;
    assert!(failures.is_empty(), "the data could not be loaded: {}", failures.join("\n"));
    loaded().await;
    for file in files() {
        run_file(&mut runner, &file, &mut failures).await;
    }
    let asked = asking.count.load(Ordering::Relaxed);
    let shown = failures.iter().take(FAILURES_SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n\n");
    assert!(failures.is_empty(), "{} of {asked} statements failed ({labels:?}):\n{shown}", failures.len());
    assert!(asked >= STATEMENTS_MIN, "only {asked} statements were asked");
}

/// Each record of a file by itself, so that one failure does not hide the next.
async fn run_file<D, M>(runner: &mut Runner<D, M>, file: &Path, failures: &mut Vec<String>)
where
    D: AsyncDB<ColumnType = Shape>,
    M: MakeConnection<Conn = D>,
{
    let records = sqllogictest::parse_file::<Shape>(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    for record in records {
        if matches!(record, Record::Halt { .. }) {
            break;
        }
        if let Some(unmarked) = unmarked(&record)
            && runner.run_async(unmarked).await.is_ok()
        {
            println!("no longer differs, so its mark can go:\n{record}");
        }
        if let Err(error) = runner.run_async(record).await {
            failures.push(error.to_string());
        }
    }
}

/// The record without its mark, if it bears one and `AQUIFER_MARKS` asks for those that are not needed any more.
fn unmarked(record: &Record<Shape>) -> Option<Record<Shape>> {
    std::env::var_os("AQUIFER_MARKS")?;
    let mut record = record.clone();
    let (Record::Statement { conditions, .. } | Record::Query { conditions, .. }) = &mut record else { return None };
    let marked = conditions.len();
    conditions.retain(|condition| !matches!(condition, Condition::SkipIf { label } if label == "aquifer"));
    (conditions.len() < marked).then_some(record)
}

/// As the strict comparison, but for letters that compare nothing.
#[allow(clippy::ptr_arg, reason = "the runner's type")]
fn same_shapes(actual: &Vec<Shape>, expected: &Vec<Shape>) -> bool {
    actual.len() == expected.len()
        && actual.iter().zip(expected).all(|(actual, expected)| *expected == Shape::Any || actual == expected)
}

async fn ask_node(labels: &[&str], share_in_objects: impl Fn(i64, i64) -> bool) {
    let node = Node::start_with(&SETTINGS);
    let address = node.ports.postgres;
    let target = format!("host={} port={} user=tester dbname=aquifer", address.ip(), address.port());
    ask(&target, "aquifer", labels, async || {
        let sql = Sql::connect(&node).await;
        let ends = "FROM aquifer.partitions WHERE NOT starts_with(topic, '__')";
        let tiered = sql.number(&format!("SELECT sum(tiered_end_offset)::bigint {ends}")).await;
        let all = sql.number(&format!("SELECT sum(high_watermark)::bigint {ends}")).await;
        assert!(share_in_objects(tiered, all), "{tiered} of {all} records are in objects ({labels:?})");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_have_one_answer_from_the_log() {
    ask_node(&[], |tiered, all| tiered == 0 && all > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_have_one_answer_from_objects() {
    ask_node(&["checkpoint_after"], |tiered, all| tiered == all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_have_one_answer_across_the_seam() {
    ask_node(&["checkpoint_between"], |tiered, all| 0 < tiered && tiered < all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_have_one_answer_from_merged_objects() {
    ask_node(&["checkpoint_between", "checkpoint_after", "vacuum_after"], |tiered, all| tiered == all).await;
}

/// The answers themselves are judged: by Postgres.
#[tokio::test(flavor = "multi_thread")]
async fn statements_have_the_answers_that_postgres_gives() {
    let Ok(target) = std::env::var("AQUIFER_JUDGE") else {
        println!("skipped: AQUIFER_JUDGE names no Postgres");
        return;
    };
    ask(&target, "postgres", &[], async || {}).await;
}
