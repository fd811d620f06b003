//! One librdkafka producer with `acks=all`, as fast as it goes: alone, and while what it writes is being tiered.

use crate::bench::{Bench, HOT_SETTINGS};
use crate::disk::Disk;
use crate::failure::Result;
use crate::load;
use crate::report::{Goal, Measurement};
use crate::statistics::mb_per_second;

pub(super) async fn run(bench: &Bench, disk: &Disk) -> Result<Vec<Measurement>> {
    let alone = measure("produce", bench, &HOT_SETTINGS).await?;
    Ok(vec![
        alone.with_goal(Goal::AtLeast(100.0)).with_detail("disk_sequential_write_mb_s", disk.sequential_write_mb_s),
        measure("produce_while_tiering", bench, &[]).await?,
    ])
}

async fn measure(name: &str, bench: &Bench, settings: &[(&'static str, &'static str)]) -> Result<Measurement> {
    let node = bench.start_node(settings)?;
    let loaded = load::fill(&node.kafka, bench).await?;
    Ok(Measurement::new(name, mb_per_second(bench.bytes(), loaded.time), "MB/s")
        .with_detail("seconds", loaded.time.as_secs_f64())
        .with_detail("resident_mib_afterwards", node.resident_bytes()? / (1 << 20)))
}
