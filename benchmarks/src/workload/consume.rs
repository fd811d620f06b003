//! One librdkafka consumer over all partitions from the first offset, from the log and from the object store.

use crate::bench::{Bench, HOT_SETTINGS};
use crate::failure::Result;
use crate::load;
use crate::report::{Goal, Measurement};
use crate::statistics::{Times, mb_per_second};

use super::cold;

/// Times that everything is read.
const PASSES: u32 = 3;

pub(super) async fn run_hot(bench: &Bench) -> Result<Vec<Measurement>> {
    let node = bench.start_node(&HOT_SETTINGS)?;
    load::fill(&node.kafka, bench).await?;
    Ok(vec![measure("consume_hot", &node.kafka, bench).await?.with_goal(Goal::AtLeast(300.0))])
}

pub(super) async fn run_cold(bench: &Bench) -> Result<Vec<Measurement>> {
    let cold = cold::start(bench).await?;
    let measured = measure("consume_cold", &cold.node.kafka, bench).await?;
    Ok(vec![
        measured.with_detail("log_bytes_left", cold.log_bytes_left),
        Measurement::new("checkpoint", mb_per_second(bench.bytes(), cold.checkpoint_time), "MB/s"),
    ])
}

async fn measure(name: &str, kafka: &str, bench: &Bench) -> Result<Measurement> {
    let mut times = Times::default();
    for _ in 0..PASSES {
        times.push(load::drain(kafka, bench).await?);
    }
    let speed = mb_per_second(bench.bytes(), times.median());
    Ok(Measurement::new(name, speed, "MB/s").with_detail("seconds", times.seconds()))
}
