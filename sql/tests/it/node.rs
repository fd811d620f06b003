//! A node without its sockets: storage and engine over a directory, to be spoken to in SQL and written to in records.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aquifer_sql::engine::{Engine, EngineOptions, SessionOptions};
use aquifer_sql::error::Error;
use aquifer_sql::session::{Outcome, Rows, Session};
use aquifer_storage::clock::{Clock, SystemClock, SystemRandom};
use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{Append, Commit, OpenOptions, Storage};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;

/// How long a test waits for what must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// See the head of this file.
pub(crate) struct Node {
    pub(crate) storage: Storage,
    engine: Engine,
    session: Session,
}

/// One record to append.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
}

/// One value of a result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Float(f64),
    Text(String),
}

/// A result's rows.
pub(crate) type Table = Vec<Vec<Cell>>;

impl Node {
    /// Opens the directory, made if absent.
    pub(crate) async fn open(dir: &Path) -> Self {
        Self::open_with(dir, |_| {}).await
    }

    /// Opens with other settings.
    pub(crate) async fn open_with(dir: &Path, change: impl FnOnce(&mut StorageSettings)) -> Self {
        let (storage, engine) = open(dir, change).await;
        let session = engine.session(SessionOptions::default());
        Self { storage, engine, session }
    }

    /// Opens with a clock of the test's.
    pub(crate) async fn open_at(dir: &Path, clock: Arc<dyn Clock>) -> Self {
        let (storage, engine) = open_with_clock(dir, |_| {}, clock).await;
        let session = engine.session(SessionOptions::default());
        Self { storage, engine, session }
    }

    /// Stops everything in order.
    pub(crate) async fn close(self) {
        let Self { storage, engine, session } = self;
        drop(session);
        engine.close().await;
        storage.close().await.unwrap();
    }

    /// Cuts the queries off where they are; only the storage is closed.
    pub(crate) async fn cut_off(self) {
        let Self { storage, engine, session } = self;
        drop((session, engine));
        storage.close().await.unwrap();
    }

    /// A session of its own.
    pub(crate) fn session(&self) -> Session {
        self.engine.session(SessionOptions::default())
    }

    /// Runs one statement; rows, if it gives any.
    pub(crate) async fn try_run(&mut self, sql: &str) -> Result<Table, Error> {
        run(&mut self.session, sql).await
    }

    /// Runs one statement that must succeed.
    pub(crate) async fn run(&mut self, sql: &str) -> Table {
        match self.try_run(sql).await {
            Ok(table) => table,
            Err(error) => panic!("{sql}\n{error:?}"),
        }
    }

    /// Runs one statement that must fail.
    pub(crate) async fn refused(&mut self, sql: &str) -> Error {
        match self.try_run(sql).await {
            Ok(rows) => panic!("{sql}\nwas not refused: {rows:?}"),
            Err(error) => error,
        }
    }

    /// Appends records to one partition in one commit.
    pub(crate) async fn append(&self, topic: &str, partition: i32, records: &[Record]) {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        for record in records {
            let headers: Vec<(&[u8], Option<&[u8]>)> =
                record.headers.iter().map(|(key, value)| (key.as_bytes(), Some(value.as_bytes()))).collect();
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            builder.push(record.timestamp_ms, key.map(str::as_bytes), value.map(str::as_bytes), &headers);
        }
        let Some(batch) = builder.build(Compression::None) else { return };
        let topic = self.storage.topic(topic).unwrap().id;
        let appends = vec![Append { topic, partition, batch }];
        self.storage.commit(Commit { appends, ..Commit::default() }).await.unwrap();
    }

    /// Waits until every query has read all there is, and none has failed.
    pub(crate) async fn caught_up(&mut self) {
        let sql = "SELECT name, state, error, lag_records FROM aquifer.queries";
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let queries = self.run(sql).await;
            for query in &queries {
                assert_eq!(query[1], Cell::Text("running".to_owned()), "{query:?}");
            }
            if queries.iter().all(|query| query[3] == Cell::Text("0".to_owned())) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "still behind: {queries:?}");
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

/// Waits for a condition, with a deadline.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Storage and engine over a directory, made if absent.
pub(crate) async fn open(dir: &Path, change: impl FnOnce(&mut StorageSettings)) -> (Storage, Engine) {
    open_with_clock(dir, change, Arc::new(SystemClock)).await
}

async fn open_with_clock(
    dir: &Path,
    change: impl FnOnce(&mut StorageSettings),
    clock: Arc<dyn Clock>,
) -> (Storage, Engine) {
    let mut settings = StorageSettings { wal_segment_bytes: 4 << 20, wal_reserve_bytes: 1 << 20, ..Default::default() };
    change(&mut settings);
    let options = OpenOptions {
        data_dir: dir.to_owned(),
        object_store_url: None,
        object_store: Default::default(),
        settings,
        clock,
        random: Arc::new(SystemRandom),
    };
    let storage = Storage::open(options).await.unwrap();
    let node_settings = storage.settings().describe();
    let options = EngineOptions { node_settings, version: "Aquifer test".to_owned(), ..EngineOptions::default() };
    let engine = Engine::open(storage.clone(), options).await.unwrap();
    (storage, engine)
}

/// Runs one statement in a session.
pub(crate) async fn run(session: &mut Session, sql: &str) -> Result<Table, Error> {
    match outcome(session, sql).await? {
        Outcome::Rows(rows) | Outcome::CopyOut(rows, _) => {
            let batches: Vec<RecordBatch> = rows.stream.try_collect().await.map_err(Error::from)?;
            Ok(batches.iter().flat_map(cells).collect())
        }
        Outcome::Done(_) | Outcome::Empty | Outcome::CopyIn(_) => Ok(Vec::new()),
    }
}

/// Starts one statement that gives rows.
pub(crate) async fn rows(session: &mut Session, sql: &str) -> Result<Rows, Error> {
    match outcome(session, sql).await? {
        Outcome::Rows(rows) => Ok(rows),
        _ => panic!("{sql} gives no rows"),
    }
}

async fn outcome(session: &mut Session, sql: &str) -> Result<Outcome, Error> {
    let statements = session.parse(sql)?;
    let prepared = session.prepare(&statements[0], &[]).await?;
    session.execute(&prepared, Vec::new()).await
}

/// A batch's rows.
pub(crate) fn cells(batch: &RecordBatch) -> Table {
    let options = FormatOptions::default();
    let columns: Vec<Vec<Cell>> = batch
        .columns()
        .iter()
        .map(|column| {
            let shown = ArrayFormatter::try_new(column.as_ref(), &options).unwrap();
            let cell = |row: usize| match column.data_type() {
                _ if column.is_null(row) => Cell::Null,
                DataType::Float64 => Cell::Float(column.as_primitive::<Float64Type>().value(row)),
                DataType::Float32 => Cell::Float(column.as_primitive::<Float32Type>().value(row).into()),
                _ => Cell::Text(shown.value(row).to_string()),
            };
            (0..batch.num_rows()).map(cell).collect()
        })
        .collect();
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect()
}
