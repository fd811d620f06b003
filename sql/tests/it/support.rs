//! A node without ports: storage and engine in a fresh directory.

use aquifer_sql::engine::{Engine, SessionOptions};
use aquifer_sql::error::Error;
use aquifer_sql::session::{Outcome, Session};
use aquifer_storage::Storage;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;

use crate::node;

/// See the head of this file.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) storage: Storage,
    directory: tempfile::TempDir,
}

impl Node {
    /// An empty one.
    pub(crate) async fn start() -> Self {
        Self::open(tempfile::tempdir().unwrap()).await
    }

    async fn open(directory: tempfile::TempDir) -> Self {
        let (storage, engine) = node::open(directory.path(), |_| {}).await;
        Self { engine, storage, directory }
    }

    /// The same directory, opened again.
    pub(crate) async fn restart(self) -> Self {
        self.engine.close().await;
        self.storage.close().await.unwrap();
        let Self { engine, storage, directory } = self;
        drop((engine, storage));
        Self::open(directory).await
    }

    /// A session.
    pub(crate) fn session(&self) -> Session {
        self.engine.session(SessionOptions { user: "tester".to_owned(), backend_pid: 7, ..SessionOptions::default() })
    }
}

/// Runs all statements of a text; the last one's rows, or its tag, one line each, columns separated by `|`.
pub(crate) async fn run(session: &mut Session, sql: &str) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    for statement in session.parse(sql)? {
        let prepared = session.prepare(&statement, &[]).await?;
        let outcome = session.execute(&prepared, Vec::new()).await?;
        lines = lines_of(outcome).await?;
    }
    Ok(lines)
}

/// The lines of one outcome; see [`run`].
pub(crate) async fn lines_of(outcome: Outcome) -> Result<Vec<String>, Error> {
    let rows = match outcome {
        Outcome::Rows(rows) | Outcome::CopyOut(rows, _) => rows,
        Outcome::CopyIn(_) => panic!("a COPY wants data"),
        Outcome::Done(tag) => return Ok(vec![tag]),
        Outcome::Empty => return Ok(Vec::new()),
    };
    let kinds: Vec<_> = rows.columns.iter().map(|column| column.arrow.clone()).collect();
    let batches: Vec<_> = rows.stream.try_collect().await.map_err(Error::from)?;
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in &batches {
        let given: Vec<_> = batch.columns().iter().map(|column| column.data_type().clone()).collect();
        assert_eq!(given, kinds, "the rows have the types their columns say");
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            lines.push(cells.join("|"));
        }
    }
    Ok(lines)
}

/// Runs a COPY FROM STDIN with that data, which comes in portions of a few bytes; its tag.
pub(crate) async fn copy_in(session: &mut Session, sql: &str, data: &[u8]) -> Result<String, Error> {
    let statement = session.parse(sql)?.remove(0);
    let prepared = session.prepare(&statement, &[]).await?;
    let Outcome::CopyIn(mut copy) = session.execute(&prepared, Vec::new()).await? else { panic!("{sql} takes data") };
    for portion in data.chunks(7) {
        copy.write(portion).await?;
    }
    match session.end_copy(*copy).await? {
        Outcome::Done(tag) => Ok(tag),
        _ => panic!("a COPY ends with a tag"),
    }
}

/// The same, sorted, for results without an order.
pub(crate) async fn run_sorted(session: &mut Session, sql: &str) -> Result<Vec<String>, Error> {
    let mut lines = run(session, sql).await?;
    lines.sort();
    Ok(lines)
}

/// Runs what must fail: its SQLSTATE.
pub(crate) async fn fails(session: &mut Session, sql: &str) -> Error {
    match run(session, sql).await {
        Ok(lines) => panic!("{sql} answered {lines:?}"),
        Err(error) => error,
    }
}
