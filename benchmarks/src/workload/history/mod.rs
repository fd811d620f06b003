//! The history suite: SQL over a year of page views, with DuckDB reading the same Parquet files in the same run; look-ups
//! in a large table; and how fast SQL writes.
//!
//! Node and DuckDB run on the same two processors, with two threads each; so does the client. Rounds alternate between
//! them, so that a slow minute of the machine meets both, and every answer is compared.

use std::time::Duration;

use crate::failure::Failure;

use self::queries::Query;

mod compare;
mod events;
pub(crate) mod hot;
mod ingest;
mod load;
pub(crate) mod look_up;
mod queries;
mod rounds;
pub(crate) mod writing;
pub(crate) mod year;

/// Processors that the nodes and DuckDB run on.
const PROCESSORS: &str = "0,1";

/// Times that each query is measured after one that only warms; the median counts.
const ROUNDS: usize = 5;

/// The log keeps nothing that is in objects; all else as it comes.
const COLD_NODE: [(&str, &str); 1] = [("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "0")];

/// The same, and nothing goes to objects but by CHECKPOINT.
const HOT_NODE: [(&str, &str); 4] = [
    ("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "0"),
    ("AQUIFER_TIER_BYTES_MIN", "1 TiB"),
    ("AQUIFER_TIER_AGE_MAX", "86400000"),
    ("AQUIFER_CHECKPOINT_INTERVAL", "0"),
];

/// Milliseconds, with their fraction.
fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// How many per second.
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}

/// A failure under the query's name.
fn failed(query: &Query, failure: &Failure) -> (String, String) {
    (format!("history-{}", query.name.replace('_', "-")), failure.to_string())
}
