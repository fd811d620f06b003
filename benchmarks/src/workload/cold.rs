//! A node whose records have gone to the object store: CHECKPOINT, and a log that keeps nothing of what is tiered.

use std::time::{Duration, Instant};

use crate::bench::{Bench, COLD_SETTINGS};
use crate::failure::Result;
use crate::load::{self, Loaded, TOPIC};
use crate::node::Node;
use crate::sql::Sql;

/// Longest that the log is waited for to forget what was tiered.
const FORGET_WAIT: Duration = Duration::from_secs(30);
const FORGET_POLL: Duration = Duration::from_millis(200);

/// A log this much smaller than the data has forgotten it; its last segment stays.
const FORGOTTEN_SHARE: u64 = 4;

/// A node with cold records.
pub(super) struct Cold {
    pub(super) node: Node,
    pub(super) loaded: Loaded,
    pub(super) checkpoint_time: Duration,
    /// Bytes of the log's segments that are there all the same.
    pub(super) log_bytes_left: u64,
}

/// Fills a node and tiers everything.
pub(super) async fn start(bench: &Bench) -> Result<Cold> {
    let node = bench.start_node(&COLD_SETTINGS)?;
    let loaded = load::fill(&node.kafka, bench).await?;
    let sql = Sql::connect(&node.postgres).await?;
    let begun = Instant::now();
    sql.execute("CHECKPOINT").await?;
    let checkpoint_time = begun.elapsed();
    let tiered = format!("SELECT sum(tiered_end_offset) FROM aquifer.partitions WHERE topic = '{TOPIC}'");
    let tiered = sql.number(&tiered).await?;
    if tiered != bench.records {
        return Err(format!("CHECKPOINT tiered {tiered} of {} records", bench.records).into());
    }
    let begun = Instant::now();
    let log_bytes_left = loop {
        let bytes = sql.number("SELECT coalesce(sum(bytes), 0) FROM aquifer.segments").await?;
        if bytes < bench.bytes() / FORGOTTEN_SHARE || begun.elapsed() > FORGET_WAIT {
            break bytes;
        }
        tokio::time::sleep(FORGET_POLL).await;
    };
    Ok(Cold { node, loaded, checkpoint_time, log_bytes_left })
}
