//! SIGKILL under transactional producers that commit, abort and come back under the same id, again and again, while small
//! objects are tiered, merged, compacted and retained: for every reader a transaction over two topics and an offset is
//! there whole and once, or not at all; of what is compacted or aged (`kept`) nothing goes but what may.
//!
//! Each worker takes the inputs 0, 1, 2 … in turn, as a consume-transform-produce does: where it goes on is the offset
//! its group has committed. So the outputs must be exactly the inputs below that offset, however often it was cut off.

mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aquifer_storage::clock::{Random, SystemRandom};
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::OwnedMessage;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::support::kafka::{config, produce, producer, read_to_end, reader, try_step};
use crate::support::node::Node;
use crate::support::sql::Sql;
use crate::support::wait::{PATIENCE, until};
use kept::Kept;

const WORKERS: usize = 3;
/// Every transaction writes to both.
const OUTPUTS: [&str; 2] = ["left", "right"];
/// Inputs of one transaction, at the most.
const INPUTS_MAX: u64 = 4;
/// Transactions that end between two kills.
const ENDED_MIN: usize = 25;

fn kills() -> usize {
    if std::env::var_os("AQUIFER_SOAK").is_some() { 200 } else { 10 }
}

fn random(bound: u64) -> u64 {
    SystemRandom.next_u64() % bound
}

/// What one worker knows of its transactions, each under a number of its own.
#[derive(Debug, Default)]
struct History {
    /// Acknowledged.
    committed: Vec<(u64, Range<i64>)>,
    /// Aborted, or cut off before anybody asked for the commit.
    aborted: BTreeSet<u64>,
}

/// How a transaction is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Commit,
    Abort,
    /// The worker dies, and its successor fences it.
    Crash,
}

/// How far a transaction came.
enum Cut {
    BeforeCommit,
    /// It may have been committed, or not.
    InCommit,
}

struct Worker {
    number: usize,
    config: ClientConfig,
    consumer: StreamConsumer,
}

impl Worker {
    fn new(node: &Node, number: usize) -> Self {
        let mut config = config(node);
        config.set("transactional.id", format!("worker-{number}")).set("linger.ms", "1");
        config.set("message.timeout.ms", "60000").set("transaction.timeout.ms", "120000");
        let mut reader = self::config(node);
        let consumer = reader.set("group.id", format!("group-{number}")).create().expect("a consumer");
        Self { number, config, consumer }
    }

    /// The partition of `input` that is this worker's.
    fn input(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition("input", i32::try_from(self.number).expect("small"));
        list
    }

    /// The first input not yet done, as committed.
    fn position(&self) -> i64 {
        loop {
            // While the node is down there is no answer.
            let found = tokio::task::block_in_place(|| self.consumer.committed_offsets(self.input(), PATIENCE));
            let Ok(found) = found else { continue };
            let place = &found.elements()[0];
            match place.offset() {
                Offset::Offset(offset) => return offset,
                _ if place.error().is_ok() => return 0,
                _ => {}
            }
        }
    }

    /// A producer that has fenced whoever came before it.
    fn identify(&self) -> FutureProducer {
        let producer: FutureProducer = self.config.create().expect("a producer");
        while let Err(error) = try_step(|| producer.init_transactions(PATIENCE)) {
            assert!(is_retriable(&error), "worker {}: {error}", self.number);
        }
        producer
    }

    async fn transaction(
        &self,
        producer: &FutureProducer,
        number: u64,
        inputs: Range<i64>,
        ending: Ending,
    ) -> Result<(), Cut> {
        let before = |_| Cut::BeforeCommit;
        producer.begin_transaction().map_err(before)?;
        let mut sent = Vec::new();
        for input in inputs.clone() {
            for topic in OUTPUTS {
                let key = format!("{}-{input}", self.number);
                let value = format!(r#"{{"worker":{},"number":{number},"input":{input}}}"#, self.number);
                let record = FutureRecord::to(topic).key(&key).payload(&value);
                sent.push(producer.send_result(record).map_err(|_| Cut::BeforeCommit)?);
            }
        }
        for delivery in sent {
            delivery.await.expect("not dropped").map_err(|_| Cut::BeforeCommit)?;
        }
        let mut offset = self.input();
        offset.set_all_offsets(Offset::Offset(inputs.end)).expect("an offset");
        let group = self.consumer.group_metadata().expect("a group");
        retried(|| producer.send_offsets_to_transaction(&offset, &group, PATIENCE)).map_err(before)?;
        match ending {
            Ending::Commit => retried(|| producer.commit_transaction(PATIENCE)).map_err(|_| Cut::InCommit),
            Ending::Abort => retried(|| producer.abort_transaction(PATIENCE)).map_err(before),
            Ending::Crash => Err(Cut::BeforeCommit),
        }
    }

    async fn work(self, stop: Arc<AtomicBool>, ended: Arc<AtomicUsize>) -> History {
        let mut history = History::default();
        let mut number = 0;
        loop {
            let producer = self.identify();
            loop {
                if stop.load(Ordering::SeqCst) {
                    return history;
                }
                number += 1;
                let start = self.position();
                let inputs = start..start + 1 + i64::try_from(random(INPUTS_MAX)).expect("small");
                let ending = match random(10) {
                    0 | 1 => Ending::Abort,
                    2 => Ending::Crash,
                    _ => Ending::Commit,
                };
                let done = self.transaction(&producer, number, inputs.clone(), ending).await;
                match done {
                    Ok(()) if ending == Ending::Commit => history.committed.push((number, inputs)),
                    Ok(()) | Err(Cut::BeforeCommit) => drop(history.aborted.insert(number)),
                    Err(Cut::InCommit) => {}
                }
                ended.fetch_add(1, Ordering::SeqCst);
                if done.is_err() {
                    break;
                }
            }
        }
    }
}

fn is_retriable(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_retriable())
}

/// Again while librdkafka says that it may succeed.
fn retried(mut step: impl FnMut() -> KafkaResult<()>) -> KafkaResult<()> {
    loop {
        match try_step(&mut step) {
            Err(error) if is_retriable(&error) => {}
            done => return done,
        }
    }
}

/// What a consumer met while the node was killed under it.
struct Watched {
    topic: &'static str,
    records: Vec<OwnedMessage>,
}

/// Reads committed records until told how many there are in the end.
async fn watch(consumer: StreamConsumer, topic: &'static str, total: Arc<AtomicUsize>) -> Watched {
    let mut records = Vec::new();
    while records.len() < total.load(Ordering::SeqCst) {
        // Without a record, or with the node down for a moment, it looks again whether that was all.
        if let Ok(Ok(message)) = tokio::time::timeout(Duration::from_millis(200), consumer.recv()).await {
            records.push(message.detach());
        }
    }
    Watched { topic, records }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_under_transactions_tear_nothing_lose_nothing_and_repeat_nothing() {
    let mut node = Node::start_with(&[
        ("AQUIFER_WAL_SEGMENT_BYTES", "1 MiB"),
        ("AQUIFER_WAL_COMMIT_BYTES_MAX", "256 KiB"),
        ("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "0"),
        // Tiering and housekeeping never rest for long.
        ("AQUIFER_TIER_BYTES_MIN", "16 KiB"),
        ("AQUIFER_HOUSEKEEPING_INTERVAL", "200 ms"),
        ("AQUIFER_MERGE_OBJECT_BYTES", "256 KiB"),
    ]);
    let sql = Sql::connect(&node).await;
    for topic in ["input", OUTPUTS[0], OUTPUTS[1]] {
        let columns = "(worker INT, number BIGINT, input BIGINT)";
        let with = format!("WITH (kafka_topic = '{topic}', value_format = 'json', partitions = 3)");
        sql.run(&format!("CREATE STREAM {topic}_stream {columns} {with}")).await;
    }
    let mut kept = Kept::begin(&node, &sql).await;
    let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let total = Arc::new(AtomicUsize::new(usize::MAX));
    let watching = OUTPUTS.map(|topic| {
        let (consumer, _) = reader(&node, topic, &[("isolation.level", "read_committed")]);
        tokio::spawn(watch(consumer, topic, Arc::clone(&total)))
    });
    let working: Vec<_> = (0..WORKERS)
        .map(|number| tokio::spawn(Worker::new(&node, number).work(Arc::clone(&stop), Arc::clone(&ended))))
        .collect();

    for kill in 0..kills() {
        let before = ended.load(Ordering::SeqCst);
        let enough = |now: &usize| *now >= before + ENDED_MIN;
        until(&format!("transactions before kill {kill}"), async || ended.load(Ordering::SeqCst), enough).await;
        // Under way when the kill comes, so its answer is of no interest.
        if let Some(statement) = [None, Some("CHECKPOINT"), Some("VACUUM")][kill % 3] {
            let sql = Sql::connect(&node).await;
            drop(tokio::spawn(async move { sql.try_rows(statement).await.is_ok() }));
        }
        // The moment of the kill is the chance that this test lives on.
        tokio::time::sleep(Duration::from_millis(random(200))).await;
        tokio::task::block_in_place(|| node.restart());
        kept.look(&node);
    }
    stop.store(true, Ordering::SeqCst);
    let mut histories = Vec::new();
    for worker in working {
        histories.push(worker.await.expect("a worker"));
    }
    settle(&node).await;
    let outputs = check(&node, &histories).await;
    total.store(outputs, Ordering::SeqCst);
    let counted = |of: fn(&History) -> usize| histories.iter().map(of).sum::<usize>();
    let (committed, aborted) = (counted(|history| history.committed.len()), counted(|history| history.aborted.len()));
    let beside = kept.check(&node).await;
    println!("{} kills, {committed} transactions committed, {aborted} aborted, {outputs} outputs", kills());
    println!("{beside} records beside them in a compacted topic and one that ages");
    for watched in watching {
        let watched = tokio::time::timeout(PATIENCE, watched).await.expect("the consumer comes to the end");
        check_watched(&node, &watched.expect("a consumer")).await;
    }
}

/// Ends what the last crash left open, so that the ends of all partitions are stable.
async fn settle(node: &Node) {
    for number in 0..WORKERS {
        drop(Worker::new(node, number).identify());
    }
    let sql = Sql::connect(node).await;
    let open = "SELECT count(*) FROM aquifer.transactions WHERE state = 'Ongoing'";
    assert_eq!(sql.number(open).await, 0, "nothing is left open");
    let behind = "SELECT count(*) FROM aquifer.partitions WHERE last_stable_offset <> high_watermark";
    assert_eq!(sql.number(behind).await, 0, "nothing holds a partition back");
    produce(&producer(node), "input", "k", "the node takes plain records too").await;
}

/// Worker and input of each record, with the transaction that wrote it.
type Outputs = BTreeMap<(usize, i64), u64>;

fn outputs(records: &[OwnedMessage], topic: &str) -> Outputs {
    let mut outputs = Outputs::new();
    for record in records {
        let value: serde_json::Value = serde_json::from_slice(record.payload().expect("a value")).expect("JSON");
        let number = |name: &str| value[name].as_u64().expect("a number");
        let worker = usize::try_from(number("worker")).expect("small");
        let input = i64::try_from(number("input")).expect("small");
        let twice = outputs.insert((worker, input), number("number"));
        assert!(twice.is_none(), "{topic}: input {input} of worker {worker} is there twice");
    }
    outputs
}

/// Torn, lost, repeated, aborted and read, offset and output apart: none of it. Gives how many outputs a topic has.
async fn check(node: &Node, histories: &[History]) -> usize {
    let left = outputs(&read_to_end(node, "left", "read_committed").await, "left");
    let right = outputs(&read_to_end(node, "right", "read_committed").await, "right");
    assert_eq!(left, right, "a transaction is in both topics or in none");
    for (number, history) in histories.iter().enumerate() {
        let mine: Vec<(i64, u64)> =
            left.iter().filter(|((worker, _), _)| *worker == number).map(|((_, input), by)| (*input, *by)).collect();
        let end = Worker::new(node, number).position();
        let inputs: Vec<i64> = mine.iter().map(|(input, _)| *input).collect();
        assert_eq!(inputs, (0..end).collect::<Vec<_>>(), "worker {number}: the outputs are what its offset says");
        for (input, by) in &mine {
            assert!(!history.aborted.contains(by), "worker {number}: input {input} is by {by}, which was aborted");
        }
        for (by, inputs) in &history.committed {
            let found = inputs.clone().all(|input| left.get(&(number, input)) == Some(by));
            assert!(found, "worker {number}: transaction {by} over {inputs:?} was acknowledged and is not there");
        }
        assert!(!history.committed.is_empty() && !history.aborted.is_empty(), "worker {number}: {history:?}");
    }
    let sql = Sql::connect(node).await;
    let rows = sql.number("SELECT count(*) FROM topics.\"left\"").await;
    assert_eq!(usize::try_from(rows).expect("not negative"), left.len(), "SQL counts the same");
    left.len()
}

/// The consumer saw what is there in the end, each record once and in order.
async fn check_watched(node: &Node, watched: &Watched) {
    let topic = watched.topic;
    let mut last = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for record in &watched.records {
        let before = last.insert(record.partition(), record.offset());
        assert!(before < Some(record.offset()), "{topic}: {} comes after {before:?}", record.offset());
        seen.insert((record.partition(), record.offset()), record.payload().map(<[u8]>::to_vec));
    }
    let there = read_to_end(node, topic, "read_committed").await;
    let there =
        there.iter().map(|record| ((record.partition(), record.offset()), record.payload().map(<[u8]>::to_vec)));
    assert_eq!(seen, there.collect::<BTreeMap<_, _>>(), "{topic}: what a consumer saw is what is there");
}
