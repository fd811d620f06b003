//! Kafka, spoken twice: through librdkafka as applications do, and byte by byte as nobody should.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::node::Node;
use super::wait::PATIENCE;

/// How long a hand-made connection waits for an answer or its end.
const WIRE_PATIENCE: Duration = Duration::from_secs(20);

/// What every client of a test is told.
pub(crate) fn config(node: &Node) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", node.bootstrap());
    // Quick to come back after a kill, and patient about it.
    config.set("reconnect.backoff.ms", "20").set("reconnect.backoff.max.ms", "200");
    config
}

/// An idempotent producer with acks=all.
pub(crate) fn producer(node: &Node) -> FutureProducer {
    producer_with(node, &[])
}

/// The same with more of librdkafka's settings.
pub(crate) fn producer_with(node: &Node, settings: &[(&str, &str)]) -> FutureProducer {
    let mut config = config(node);
    config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "1");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().expect("a producer")
}

/// One that makes, grows and deletes topics.
pub(crate) fn admin(node: &Node) -> AdminClient<DefaultClientContext> {
    config(node).create().expect("an admin client")
}

/// Writes one record and waits for its acknowledgement: (partition, offset).
pub(crate) async fn produce(producer: &FutureProducer, topic: &str, key: &str, value: &str) -> (i32, i64) {
    let record = FutureRecord::to(topic).key(key).payload(value);
    match producer.send(record, PATIENCE).await {
        Ok(delivery) => (delivery.partition, delivery.offset),
        Err((error, _)) => panic!("produce to {topic}: {error}"),
    }
}

/// A producer of transactions, fresh from InitProducerId: whoever had the id before is fenced.
pub(crate) fn transactional(node: &Node, id: &str, settings: &[(&str, &str)]) -> FutureProducer {
    let producer = producer_with(node, &[&[("transactional.id", id)], settings].concat());
    tokio::task::block_in_place(|| producer.init_transactions(PATIENCE)).expect("an identity");
    producer
}

/// A step of a transaction; librdkafka's block their thread.
pub(crate) fn step(step: impl FnOnce() -> KafkaResult<()>) {
    try_step(step).expect("a step of a transaction");
}

/// The same, with its error.
pub(crate) fn try_step(step: impl FnOnce() -> KafkaResult<()>) -> KafkaResult<()> {
    tokio::task::block_in_place(step)
}

/// A consumer of `group` that begins with the earliest record.
pub(crate) fn consumer(node: &Node, group: &str) -> StreamConsumer {
    consumer_with(node, group, &[])
}

/// The same with more of librdkafka's settings.
pub(crate) fn consumer_with(node: &Node, group: &str, settings: &[(&str, &str)]) -> StreamConsumer {
    let mut config = config(node);
    config.set("group.id", group).set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
    config.set("topic.metadata.refresh.interval.ms", "500");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().expect("a consumer")
}

/// How many offsets a topic has been given, over all its partitions.
pub(crate) fn offsets_given(node: &Node, topic: &str) -> usize {
    let consumer = consumer(node, "reader-without-a-group");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("the topic's metadata");
    let ends = metadata.topics()[0].partitions().iter().map(|partition| {
        let (_, end) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE).expect("the partition's ends");
        usize::try_from(end).expect("not negative")
    });
    ends.sum()
}

/// A consumer without a group, at the beginning of every partition.
pub(crate) fn reader(node: &Node, topic: &str, settings: &[(&str, &str)]) -> (StreamConsumer, usize) {
    let consumer = consumer_with(node, "reader-without-a-group", settings);
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("the topic's metadata");
    let mut assignment = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("an assignment");
    }
    consumer.assign(&assignment).expect("assigned");
    (consumer, assignment.count())
}

/// Every record that a reader of this isolation level comes to before it stands at the end of each partition.
pub(crate) async fn read_to_end(node: &Node, topic: &str, isolation: &str) -> Vec<OwnedMessage> {
    let settings = [("isolation.level", isolation), ("enable.partition.eof", "true")];
    let (consumer, partitions) = reader(node, topic, &settings);
    let (mut records, mut ended) = (Vec::new(), std::collections::BTreeSet::new());
    while ended.len() < partitions {
        match tokio::time::timeout(PATIENCE, consumer.recv()).await {
            Ok(Ok(message)) => records.push(message.detach()),
            Ok(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
            Ok(Err(error)) => panic!("consume {topic}: {error}"),
            Err(_) => panic!("consume {topic}: {} records and ends of {ended:?} in {PATIENCE:?}", records.len()),
        }
    }
    records.sort_by_key(|record| (record.partition(), record.offset()));
    records
}

/// Every record of a topic, as far as it has been written now.
pub(crate) async fn read_all(node: &Node, topic: &str) -> Vec<OwnedMessage> {
    read_from_start(node, topic, offsets_given(node, topic)).await
}

/// The first `count` records of all partitions of a topic, by (partition, offset).
pub(crate) async fn read_from_start(node: &Node, topic: &str, count: usize) -> Vec<OwnedMessage> {
    let (consumer, _) = reader(node, topic, &[]);
    let mut records = Vec::with_capacity(count);
    while records.len() < count {
        match tokio::time::timeout(PATIENCE, consumer.recv()).await {
            Ok(Ok(message)) => records.push(message.detach()),
            Ok(Err(error)) => panic!("consume {topic}: {error}"),
            Err(_) => panic!("consume {topic}: {} of {count} records in {PATIENCE:?}", records.len()),
        }
    }
    records.sort_by_key(|record| (record.partition(), record.offset()));
    records
}

/// A connection whose bytes the test writes itself.
pub(crate) struct Wire {
    stream: TcpStream,
}

impl Wire {
    pub(crate) fn connect(node: &Node) -> Self {
        let stream = TcpStream::connect(node.ports.kafka).expect("the Kafka port answers");
        stream.set_read_timeout(Some(WIRE_PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(WIRE_PATIENCE)).expect("a timeout");
        Self { stream }
    }

    /// Bytes as they are; an error means that the other side has closed, which reading shows too.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// A request frame: length, header version 1 (no client id) and a body.
    pub(crate) fn request(&mut self, api_key: i16, api_version: i16, correlation_id: i32, body: &[u8]) {
        let mut frame = Vec::new();
        frame.extend(api_key.to_be_bytes());
        frame.extend(api_version.to_be_bytes());
        frame.extend(correlation_id.to_be_bytes());
        frame.extend((-1_i16).to_be_bytes());
        frame.extend(body);
        self.send(&i32::try_from(frame.len()).expect("a small frame").to_be_bytes());
        self.send(&frame);
    }

    /// The next response without its length; `None` when the other side has closed.
    pub(crate) fn response(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let mut body = vec![0; usize::try_from(i32::from_be_bytes(length)).expect("a length")];
        self.fill(&mut body)?;
        Some(body)
    }

    /// Nothing more to send; the answer can still be read.
    pub(crate) fn finish(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(buffer) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("neither an answer nor a closed connection in {WIRE_PATIENCE:?}")
            }
            Err(_) => None,
        }
    }
}
