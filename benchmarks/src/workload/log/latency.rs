//! How long an acknowledgement takes at 10 MB/s, from the moment a record was due to be sent: a record that had to wait
//! for the ones before it counts with its wait.

use std::time::Duration;

use crate::bench::Bench;
use crate::failure::Result;
use crate::load::TOPIC;
use crate::paced::{self, Pace};
use crate::peer::kafka::Durability;
use crate::report::{Goal, Measurement};

use super::{Compared, Contender, ROUNDS};

const BYTES_PER_SECOND: u64 = 10_000_000;
const TIME: Duration = Duration::from_secs(15);

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let (mut p99, mut p50) = (Compared::default(), Compared::default());
    for _ in 0..ROUNDS {
        for contender in Contender::ALL {
            let Some(running) = contender.start(bench)? else { continue };
            let pace =
                Pace { partitions: bench.partitions, bytes_per_second: BYTES_PER_SECOND, time: TIME, linger_ms: 0 };
            // What a fresh process does the first time is not what is asked for.
            paced::offer(running.address(), "warm-up", Pace { time: TIME / 5, ..pace }).await?;
            let offered = paced::offer(running.address(), TOPIC, pace).await?;
            p99.add(contender, offered.latencies.percentile_ms(99));
            p50.add(contender, offered.latencies.percentile_ms(50));
        }
    }
    let mut measurements = p50.numbers("latency_p50", "ms");
    measurements.extend(p99.numbers("latency_p99", "ms"));
    let peer = Contender::Kafka(Durability::Equal);
    measurements.extend(p99.ratio_to(peer).map(|ratio| {
        Measurement::new("latency_p99_to_kafka_flush_messages_1", ratio, "x").with_goal(Goal::AtMost(0.5))
    }));
    Ok(measurements)
}
