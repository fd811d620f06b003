//! What a node costs that does nothing.

use std::time::Duration;

use crate::bench::Bench;
use crate::failure::Result;
use crate::report::{Goal, Measurement};

/// A node is idle so long after its start.
const SETTLED: Duration = Duration::from_secs(5);

const MIB: f64 = 1_048_576.0;

pub(super) async fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let node = bench.start_node(&[])?;
    tokio::time::sleep(SETTLED).await;
    let resident_mib = node.resident_bytes()? as f64 / MIB;
    Ok(vec![
        Measurement::new("idle_resident", resident_mib, "MiB").with_goal(Goal::AtMost(100.0)),
        Measurement::new("start_empty", node.start_time.as_secs_f64(), "s"),
    ])
}
