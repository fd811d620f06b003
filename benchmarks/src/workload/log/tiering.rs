//! What tiering costs producers at 50 MB/s offered, and whether it keeps up; and the memory of a node at 100 MB/s.

use std::time::Duration;

use crate::bench::{Bench, HOT_SETTINGS};
use crate::failure::Result;
use crate::load::TOPIC;
use crate::paced::{self, Offered, Pace};
use crate::report::{Goal, Measurement};
use crate::sql::Sql;

const BYTES_PER_SECOND: u64 = 50_000_000;
const MEMORY_BYTES_PER_SECOND: u64 = 100_000_000;
/// Without tiering the log keeps all: no longer than its disk has room for.
const ALONE_TIME_MAX: Duration = Duration::from_secs(60);
const MEMORY_TIME_MAX: Duration = Duration::from_secs(60);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// The log forgets what is tiered: ten minutes of data would not fit twice.
const TIERING_SETTINGS: [(&str, &str); 1] = [("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "0")];

/// What a node was like while records were offered.
#[derive(Default)]
struct Samples {
    resident_bytes: Vec<u64>,
    untiered_records: Vec<u64>,
}

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let time = Duration::from_secs(u64::from(bench.tiering_seconds));
    let pace = Pace { partitions: bench.partitions, bytes_per_second: BYTES_PER_SECOND, time, linger_ms: 5 };
    let alone = Pace { time: time.min(ALONE_TIME_MAX), ..pace };
    let (alone, _) = measure(bench, &HOT_SETTINGS, alone).await?;
    let (tiered, samples) = measure(bench, &TIERING_SETTINGS, pace).await?;
    let memory = Pace { bytes_per_second: MEMORY_BYTES_PER_SECOND, time: time.min(MEMORY_TIME_MAX), ..pace };
    let (reached, at_100) = measure(bench, &TIERING_SETTINGS, memory).await?;
    let p99 = |offered: &Offered| offered.latencies.percentile_ms(99);
    // Tiering works in bites: its backlog goes up and down. It grows if the last third waits for more than the middle one.
    let third = samples.untiered_records.len() / 3;
    let most = |part: &[u64]| part.iter().copied().max().unwrap_or(0) as f64;
    let middle = most(samples.untiered_records.get(third..2 * third).unwrap_or_default());
    let last = most(samples.untiered_records.get(2 * third..).unwrap_or_default());
    Ok(vec![
        Measurement::new("offered_50_alone", alone.mb_per_second, "MB/s"),
        Measurement::new("offered_50_tiering", tiered.mb_per_second, "MB/s").with_detail("seconds", time.as_secs()),
        Measurement::new("offered_50_tiering_to_alone", tiered.mb_per_second / alone.mb_per_second, "x")
            .with_goal(Goal::AtLeast(0.9)),
        Measurement::new("offered_50_alone_p99", p99(&alone), "ms"),
        Measurement::new("offered_50_tiering_p99", p99(&tiered), "ms"),
        Measurement::new("offered_50_p99_tiering_to_alone", p99(&tiered) / p99(&alone), "x")
            .with_goal(Goal::AtMost(2.0)),
        Measurement::new("tiering_backlog_last_to_middle_third", last / middle.max(1.0), "x")
            .with_goal(Goal::AtMost(1.1))
            .with_detail("untiered_records", samples.untiered_records),
        Measurement::new("resident_at_50", most(&samples.resident_bytes) / f64::from(1 << 20), "MiB"),
        Measurement::new("resident_at_100", most(&at_100.resident_bytes) / f64::from(1 << 20), "MiB")
            .with_detail("offered_mb_s_reached", reached.mb_per_second),
    ])
}

async fn measure(bench: &Bench, settings: &[(&'static str, &'static str)], pace: Pace) -> Result<(Offered, Samples)> {
    let node = bench.start_node(settings)?;
    let sql = Sql::connect(&node.postgres).await?;
    paced::offer(&node.kafka, "warm-up", Pace { time: Duration::from_secs(2), ..pace }).await?;
    let mut samples = Samples::default();
    let untiered = format!(
        "SELECT coalesce(sum(high_watermark - tiered_end_offset), 0) FROM aquifer.partitions WHERE topic = '{TOPIC}'"
    );
    let mut offering = Box::pin(paced::offer(&node.kafka, TOPIC, pace));
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    loop {
        tokio::select! {
            offered = &mut offering => return Ok((offered?, samples)),
            _ = ticks.tick() => {
                samples.resident_bytes.push(node.resident_bytes()?);
                samples.untiered_records.push(sql.number(&untiered).await?);
            }
        }
    }
}
