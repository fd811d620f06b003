//! Records offered at a steady pace, whatever the node does: an open loop, as the world outside is one.
//!
//! The time of an acknowledgement counts from the moment its record was due, so that a stall is paid by every record
//! that had to wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use crate::bench::RECORD_BYTES;
use crate::failure::Result;
use crate::load::{self, STALL};
use crate::statistics::{Times, mb_per_second};

/// How often records that are due are sent.
const TICK: Duration = Duration::from_millis(1);

/// What is offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) partitions: i32,
    pub(crate) bytes_per_second: u64,
    pub(crate) time: Duration,
    pub(crate) linger_ms: u32,
}

/// What became of it.
pub(crate) struct Offered {
    /// From the first record's due time to the last acknowledgement.
    pub(crate) mb_per_second: f64,
    /// Per record, from when it was due to its acknowledgement.
    pub(crate) latencies: Times,
}

#[derive(Clone, Default)]
struct Timing(Arc<Timed>);

#[derive(Default)]
struct Timed {
    latencies: Mutex<Times>,
    failed: AtomicU64,
}

impl ClientContext for Timing {}

impl ProducerContext for Timing {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, due: Box<Instant>) {
        match result {
            Ok(_) => self.0.latencies.lock().push(due.elapsed()),
            Err(_) => drop(self.0.failed.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

/// Makes the topic and offers records to it.
pub(crate) async fn offer(kafka: &str, topic: &'static str, pace: Pace) -> Result<Offered> {
    load::create_topic(kafka, topic, pace.partitions).await?;
    let kafka = kafka.to_owned();
    // librdkafka's calls block.
    tokio::task::spawn_blocking(move || offer_blocking(&kafka, topic, pace)).await?
}

#[expect(clippy::disallowed_methods, reason = "the pace is what is measured with")]
fn offer_blocking(kafka: &str, topic: &str, pace: Pace) -> Result<Offered> {
    let timing = Timing::default();
    let mut config = load::producer_config(kafka, pace.linger_ms);
    // A record later than this is lost to the measurement, and told.
    config.set("message.timeout.ms", STALL.as_millis().to_string());
    let producer: ThreadedProducer<Timing> = config.create_with_context(timing.clone())?;
    let (keys, values) = load::keys_and_values();
    let mut pairs = keys.iter().cycle().zip(values.iter().cycle());
    let records = pace.bytes_per_second * pace.time.as_millis() as u64 / 1000 / RECORD_BYTES;
    let every = pace.time.div_f64(records as f64);
    let begun = Instant::now();
    let mut sent = 0;
    while sent < records {
        let due_now = ((begun.elapsed().as_secs_f64() / every.as_secs_f64()) as u64 + 1).min(records);
        while sent < due_now {
            let Some((key, value)) = pairs.next() else { break };
            send(&producer, topic, key, value, begun + every.mul_f64(sent as f64))?;
            sent += 1;
        }
        std::thread::sleep(TICK);
    }
    producer.flush(STALL)?;
    let time = begun.elapsed();
    let failed = timing.0.failed.load(Ordering::Relaxed);
    if failed > 0 {
        return Err(format!("of {records} records {failed} failed").into());
    }
    let latencies = std::mem::take(&mut *timing.0.latencies.lock());
    Ok(Offered { mb_per_second: mb_per_second(records * RECORD_BYTES, time), latencies })
}

#[expect(clippy::disallowed_methods, reason = "librdkafka does not tell when its queue has room")]
fn send(producer: &ThreadedProducer<Timing>, topic: &str, key: &[u8], value: &[u8], due: Instant) -> Result<()> {
    let mut record = BaseRecord::with_opaque_to(topic, Box::new(due)).key(key).payload(value);
    let begun = Instant::now();
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if begun.elapsed() < STALL => {
                record = back;
                std::thread::sleep(TICK);
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}
