//! Other logs and queues with what durability they offer: one client, 1 KiB messages, a thousand in flight.
//!
//! Their clients differ from librdkafka, so these numbers place the systems, no more; no goal hangs on them.

use std::time::Duration;

use crate::bench::{Bench, RECORD_BYTES};
use crate::failure::Result;
use crate::peer::{nats, rabbitmq, redis};
use crate::report::{Measurement, say};
use crate::statistics::mb_per_second;

/// A part of the data: one of them is slow.
const SHARE: u64 = 8;

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let records = bench.records / SHARE;
    let directories = (
        bench.fresh_directory("redis-")?,
        bench.fresh_directory("redis-")?,
        bench.fresh_directory("nats-")?,
        bench.fresh_directory("rabbit-")?,
    );
    let (always, everysec, of_nats, of_rabbit) = directories;
    // Their clients block.
    let measured = tokio::task::spawn_blocking(move || {
        [
            ("redis_appendfsync_always", redis::produce(always, records, true)),
            ("redis_appendfsync_everysec", redis::produce(everysec, records, false)),
            ("nats_jetstream_file", nats::produce(of_nats, records)),
            ("rabbitmq_quorum_queue", rabbitmq::produce(of_rabbit, records)),
        ]
    });
    let told = |(name, result): (&str, Result<Option<Duration>>)| match result {
        Ok(Some(time)) => Some(Measurement::new(name, mb_per_second(records * RECORD_BYTES, time), "MB/s")),
        Ok(None) => {
            say(&format!("{name} is not installed and left out"));
            None
        }
        Err(failure) => {
            say(&format!("{name} failed: {failure}"));
            None
        }
    };
    Ok(measured.await?.into_iter().filter_map(told).collect())
}
