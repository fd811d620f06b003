//! From the process's start to `ready` with a log of 10 GiB (`--start-gib`): after an orderly end, and after none.

use crate::bench::{Bench, HOT_SETTINGS, RECORD_BYTES};
use crate::failure::Result;
use crate::load::{self, Load};
use crate::report::{Goal, Measurement};

/// Seconds that a start may take, whatever the log holds.
const GOAL: Goal = Goal::AtMost(2.0);

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let mut node = bench.start_node(&HOT_SETTINGS)?;
    let records = u64::from(bench.start_gib) * (1 << 30) / RECORD_BYTES;
    load::fill_with(&node.kafka, Load { records, ..Load::of(bench) }).await?;
    let mut measurements = Vec::new();
    node.terminate().await?;
    node.start_again()?;
    measurements.push(("start_large_after_term", node.start_time));
    node.kill()?;
    node.start_again()?;
    measurements.push(("start_large_after_kill", node.start_time));
    let number = |(name, time): (&str, std::time::Duration)| {
        Measurement::new(name, time.as_secs_f64(), "s").with_goal(GOAL).with_detail("log_gib", bench.start_gib)
    };
    let resident = Measurement::new("start_large_resident", node.resident_bytes()? as f64 / f64::from(1 << 20), "MiB");
    Ok(measurements.into_iter().map(number).chain([resident]).collect())
}
