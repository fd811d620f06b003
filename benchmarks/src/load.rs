//! A topic full of records, written and read through librdkafka: what produce and consume measure, and what scan and
//! start need first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, ToBytes};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};

use crate::bench::{Bench, RECORD_BYTES};
use crate::failure::Result;

/// The topic that is loaded.
pub(crate) const TOPIC: &str = "bench";

/// librdkafka's settings beside its defaults.
pub(crate) const PRODUCER_SETTINGS: [(&str, &str); 3] =
    [("acks", "all"), ("batch.size", "1000000"), ("compression.type", "none")];
/// librdkafka's own default: how long a batch waits for more records.
pub(crate) const LINGER_MS: u32 = 5;

/// librdkafka's settings beside its defaults.
pub(crate) const CONSUMER_SETTINGS: [(&str, &str); 4] = [
    ("group.id", "benchmark"),
    ("enable.auto.commit", "false"),
    ("fetch.message.max.bytes", "8388608"),
    ("queued.max.messages.kbytes", "262144"),
];

const KEY_BYTES: usize = 16;
/// Distinct keys and values; they repeat in different steps, so that pairs hardly do.
const KEYS: usize = 1009;
const VALUES: usize = 4096;
/// The same records in every run.
const SEED: u64 = 7;

/// Sends between two looks at the deliveries.
pub(crate) const SENDS_PER_POLL: u64 = 256;
/// Longest that nothing at all may move.
pub(crate) const STALL: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// What is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) partitions: i32,
    pub(crate) records: u64,
    pub(crate) linger_ms: u32,
}

impl Load {
    /// What a run asks for.
    pub(crate) fn of(bench: &Bench) -> Self {
        Self { partitions: bench.partitions, records: bench.records, linger_ms: LINGER_MS }
    }
}

/// What was loaded, for checking answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    /// Records whose value is larger than their key, byte by byte.
    pub(crate) values_above_keys: u64,
    /// From the first send to the last acknowledgement.
    pub(crate) time: Duration,
}

/// Creates a topic.
pub(crate) async fn create_topic(kafka: &str, name: &str, partitions: i32) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", kafka).create()?;
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for result in admin.create_topics([&topic], &AdminOptions::new()).await? {
        result.map_err(|(name, code)| format!("create topic {name}: {code}"))?;
    }
    Ok(())
}

/// Creates the topic and fills it.
pub(crate) async fn fill(kafka: &str, bench: &Bench) -> Result<Loaded> {
    fill_with(kafka, Load::of(bench)).await
}

/// As [`fill`], with something else than the run asks for.
pub(crate) async fn fill_with(kafka: &str, load: Load) -> Result<Loaded> {
    create_topic(kafka, TOPIC, load.partitions).await?;
    let kafka = kafka.to_owned();
    // librdkafka's calls block.
    tokio::task::spawn_blocking(move || produce(&kafka, load)).await?
}

/// Reads the whole topic once; says how long it took.
pub(crate) async fn drain(kafka: &str, bench: &Bench) -> Result<Duration> {
    let (kafka, partitions, records) = (kafka.to_owned(), bench.partitions, bench.records);
    tokio::task::spawn_blocking(move || consume(&kafka, partitions, records)).await?
}

/// Counts what was acknowledged and what was not.
#[derive(Default)]
struct Deliveries {
    acknowledged: AtomicU64,
    failed: AtomicU64,
}

#[derive(Clone, Default)]
pub(crate) struct Counting(Arc<Deliveries>);

impl Counting {
    /// Waits for what was sent last.
    ///
    /// # Errors
    /// If not all of `records` were acknowledged.
    pub(crate) fn finish(&self, producer: &BaseProducer<Self>, records: u64) -> Result<()> {
        producer.flush(STALL)?;
        let (acknowledged, failed) =
            (self.0.acknowledged.load(Ordering::Relaxed), self.0.failed.load(Ordering::Relaxed));
        if (acknowledged, failed) == (records, 0) {
            Ok(())
        } else {
            Err(format!("of {records} records {acknowledged} were acknowledged and {failed} failed").into())
        }
    }
}

impl ClientContext for Counting {}

impl ProducerContext for Counting {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.0.acknowledged } else { &self.0.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Distinct keys and values, the same in every run.
pub(crate) fn keys_and_values() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut random = StdRng::seed_from_u64(SEED);
    let keys = filled(&mut random, KEYS, KEY_BYTES);
    (keys, filled(&mut random, VALUES, RECORD_BYTES as usize - KEY_BYTES))
}

/// librdkafka's settings for a producer.
pub(crate) fn producer_config(kafka: &str, linger_ms: u32) -> ClientConfig {
    let mut config = configured(kafka, &PRODUCER_SETTINGS);
    config.set("linger.ms", linger_ms.to_string());
    config
}

fn produce(kafka: &str, load: Load) -> Result<Loaded> {
    let records = load.records;
    let (keys, values) = keys_and_values();
    let deliveries = Counting::default();
    let config = producer_config(kafka, load.linger_ms);
    let producer: BaseProducer<Counting> = config.create_with_context(deliveries.clone())?;

    let mut values_above_keys = 0;
    let begun = Instant::now();
    for (number, (key, value)) in (0..records).zip(keys.iter().cycle().zip(values.iter().cycle())) {
        values_above_keys += u64::from(value > key);
        send(&producer, BaseRecord::to(TOPIC).key(key).payload(value))?;
        if number % SENDS_PER_POLL == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    deliveries.finish(&producer, records)?;
    Ok(Loaded { values_above_keys, time: begun.elapsed() })
}

/// Sends one record, waiting for room in the producer's queue.
pub(crate) fn send<K, V>(producer: &BaseProducer<Counting>, mut record: BaseRecord<'_, K, V>) -> Result<()>
where
    K: ToBytes + ?Sized,
    V: ToBytes + ?Sized,
{
    let mut waiting_since = None;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                if waiting_since.get_or_insert_with(Instant::now).elapsed() > STALL {
                    return Err(format!("the producer's queue was full for {STALL:?}").into());
                }
                record = back;
                producer.poll(POLL);
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

fn consume(kafka: &str, partitions: i32, records: u64) -> Result<Duration> {
    let config = configured(kafka, &CONSUMER_SETTINGS);
    let consumer: BaseConsumer = config.create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        // librdkafka would look for "the beginning" half a second after it has heard of the partition's leader.
        assignment.add_partition_offset(TOPIC, partition, Offset::Offset(0))?;
    }
    let begun = Instant::now();
    consumer.assign(&assignment)?;
    let (mut seen, mut bytes, mut last_seen) = (0, 0, Instant::now());
    while seen < records {
        match consumer.poll(POLL) {
            Some(message) => {
                let message = message?;
                seen += 1;
                bytes += message.key().map_or(0, <[u8]>::len) + message.payload().map_or(0, <[u8]>::len);
                last_seen = Instant::now();
            }
            None if last_seen.elapsed() > STALL => {
                return Err(format!("nothing came for {STALL:?} after {seen} of {records} records").into());
            }
            None => {}
        }
    }
    let time = begun.elapsed();
    if bytes as u64 == records * RECORD_BYTES {
        Ok(time)
    } else {
        Err(format!("{records} records had {bytes} bytes").into())
    }
}

fn configured(kafka: &str, settings: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka);
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config
}

/// `count` random byte strings.
fn filled(random: &mut StdRng, count: usize, bytes: usize) -> Vec<Vec<u8>> {
    let mut one = || {
        let mut filled = vec![0; bytes];
        random.fill_bytes(&mut filled);
        filled
    };
    (0..count).map(|_| one()).collect()
}
