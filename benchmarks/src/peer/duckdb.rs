//! DuckDB: from PyPI, in a Python process of its own (`peers/duckdb.py`) that takes a statement a line and answers with
//! rows and time.
//!
//! The time is taken inside that process: neither the pipe nor the making of JSON counts.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::failure::Result;
use crate::machine::pinned;

/// Its rows, as Postgres would show them.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

/// What answers.
const SCRIPT: &str = include_str!("../../peers/duckdb.py");

/// A running DuckDB with nothing in it; ends when dropped.
pub(crate) struct DuckDb {
    child: Child,
    statements: ChildStdin,
    answers: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Rows { seconds: f64, rows: Rows },
    Error { error: String },
}

/// The Python that has DuckDB, if `peers/install` has put it there.
pub(crate) fn python() -> Option<PathBuf> {
    let folder = super::folder("duckdb")?;
    folder.join("installed").is_file().then(|| folder.join("bin/python"))
}

impl DuckDb {
    /// Starts it on these processors, with as many threads.
    pub(crate) fn start(python: &Path, processors: &str) -> Result<Self> {
        let mut child = pinned(Some(processors), python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", python.display()))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (statements, answers) = pipes.ok_or("DuckDB's process has no pipes")?;
        Ok(Self { child, statements, answers: BufReader::new(answers) })
    }

    /// What it is called and which version.
    pub(crate) fn version(&mut self) -> Result<String> {
        let (rows, _) = self.ask("SELECT version()")?;
        Ok(rows.into_iter().flatten().flatten().next().unwrap_or_default())
    }

    /// All rows of a statement, and the time they took. Blocks.
    pub(crate) fn ask(&mut self, sql: &str) -> Result<(Rows, Duration)> {
        writeln!(self.statements, "{}", json!({ "sql": sql }))?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        match serde_json::from_str(&line).map_err(|error| format!("DuckDB said '{}': {error}", line.trim()))? {
            Answer::Rows { seconds, rows } => Ok((rows, Duration::from_secs_f64(seconds))),
            Answer::Error { error } => Err(format!("{sql}: DuckDB: {error}").into()),
        }
    }

    /// Makes Parquet files a relation.
    pub(crate) fn create_view(&mut self, name: &str, urls: &[String]) -> Result<()> {
        let files = urls.iter().map(|url| format!("'{}'", url.trim_start_matches("file://").replace('\'', "''")));
        let files = files.collect::<Vec<_>>().join(", ");
        self.ask(&format!("CREATE VIEW {name} AS SELECT * FROM read_parquet([{files}])"))?;
        Ok(())
    }
}

impl Drop for DuckDb {
    fn drop(&mut self) {
        // It may have ended already; nothing depends on how.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_rows_or_an_error() {
        let rows = serde_json::from_str(r#"{"seconds": 0.5, "rows": [["1", null]]}"#).unwrap();
        assert!(matches!(rows, Answer::Rows { seconds: 0.5, rows } if rows == [[Some("1".to_owned()), None]]));
        let error = serde_json::from_str(r#"{"error": "no"}"#).unwrap();
        assert!(matches!(error, Answer::Error { error } if error == "no"));
    }
}
