//! What Postgres's side measures: statements, rows, errors. Labels come from our own words: tags and SQLSTATEs.

use aquifer_sql::error::Error;

/// A statement is complete; its tag says what it was.
pub(crate) fn completed(tag: &str) {
    let word = tag.split(' ').next().unwrap_or_default().to_owned();
    metrics::counter!("aquifer_postgres_statements_total", "kind" => word).increment(1);
}

/// Rows are on their way to a client.
pub(crate) fn sent(rows: usize) {
    metrics::counter!("aquifer_postgres_rows_total").increment(rows as u64);
}

/// A client is told an error.
pub(crate) fn told(error: &Error) {
    let class = error.state.code().get(..2).unwrap_or_default().to_owned();
    metrics::counter!("aquifer_postgres_errors_total", "class" => class).increment(1);
}
