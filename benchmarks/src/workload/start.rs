//! From the process's start to `ready` with a loaded log: after an orderly end, and after none.

use crate::bench::Bench;
use crate::failure::Result;
use crate::load::{self, TOPIC};
use crate::node::Node;
use crate::report::{Goal, Measurement};
use crate::sql::Sql;

pub(super) async fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let mut node = bench.start_node(&[])?;
    load::fill(&node.kafka, bench).await?;
    node.terminate().await?;
    let after_term = start_again(&mut node, bench).await?;
    node.kill()?;
    let after_kill = start_again(&mut node, bench).await?;
    Ok([("start_after_term", after_term), ("start_after_kill", after_kill)]
        .into_iter()
        .map(|(name, seconds)| {
            Measurement::new(name, seconds, "s").with_goal(Goal::AtMost(1.0)).with_detail("log_bytes", bench.bytes())
        })
        .collect())
}

/// Starts the node again and makes sure that nothing was lost; gives the seconds until it was ready.
async fn start_again(node: &mut Node, bench: &Bench) -> Result<f64> {
    node.start_again()?;
    let seconds = node.start_time.as_secs_f64();
    let sql = Sql::connect(&node.postgres).await?;
    let counted = sql.number(&format!("SELECT count(*) FROM topics.\"{TOPIC}\"")).await?;
    if counted == bench.records {
        Ok(seconds)
    } else {
        Err(format!("{counted} of {} records after a restart", bench.records).into())
    }
}
