//! One librdkafka producer with `acks=all`, as fast as it goes.

use crate::bench::Bench;
use crate::disk::Disk;
use crate::failure::Result;
use crate::load;
use crate::report::{Goal, Measurement};
use crate::statistics::mb_per_second;

pub(super) async fn run(bench: &Bench, disk: &Disk) -> Result<Vec<Measurement>> {
    let node = bench.start_node(&[])?;
    let loaded = load::fill(&node.kafka, bench).await?;
    let resident_mib = node.resident_bytes()? / (1 << 20);
    Ok(vec![
        Measurement::new("produce", mb_per_second(bench.bytes(), loaded.time), "MB/s")
            .with_goal(Goal::AtLeast(100.0))
            .with_detail("seconds", loaded.time.as_secs_f64())
            .with_detail("disk_sequential_write_mb_s", disk.sequential_write_mb_s)
            .with_detail("resident_mib_afterwards", resident_mib),
    ])
}
