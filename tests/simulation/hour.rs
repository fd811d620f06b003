//! Ten thousand partitions, ten records a second in each, for a simulated hour, while one transaction is left open and
//! one topic cannot be tiered: objects, puts and the log's bytes stay bounded. `make test` runs a small one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aquifer_storage::clock::Clock;
use aquifer_storage::record::batch::{BatchBuilder, CheckedBatch, Compression, TimestampType};
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::testing::chance::Chance;
use aquifer_storage::testing::schedule::{self, Ending, Simulation};
use aquifer_storage::testing::{MemoryDisk, SimStore, StoreFaults};
use aquifer_storage::{Append, Commit, OpenOptions, Storage, TopicConfig, TopicId, TopicPartition, TransactionChange};

/// Seconds between two batches of a partition.
const PERIOD_S: u64 = 10;
/// Records a partition gets in a second.
const RECORDS_PER_S: u64 = 10;
/// Batches of one commit.
const APPENDS_MAX: usize = 500;
/// Age at which records are tiered, ms.
const TIER_AGE_MS: i64 = 60_000;
/// Timeout of the transaction that is left open, ms.
const TRANSACTION_MS: i32 = 900_000;
/// How often the failing topic's tiering may be tried again, s: the longest pause of the worker.
const PAUSE_S: u64 = 60;

/// What the log holds beside: the open segment, what is carried over, the catalog.
const SLACK_BYTES: u64 = 8 << 20;
const SEGMENT_BYTES: u64 = 1 << 20;

/// How much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) topics: i32,
    pub(crate) partitions: i32,
    pub(crate) seconds: u64,
}

/// What it came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) records: u64,
    pub(crate) written_bytes: u64,
    pub(crate) log_bytes_max: u64,
    pub(crate) log_bytes_end: u64,
    /// Bytes that are not tiered, at the end: what the log must keep.
    pub(crate) live_bytes_end: u64,
    pub(crate) objects_end: usize,
    pub(crate) puts: u64,
    pub(crate) put_bytes: u64,
}

/// Runs the load and tells the figures.
pub(crate) fn run(load: Load) -> Figures {
    let chance = Chance::new(1);
    let simulation = Simulation::new(1, 1_780_000_000_000_000);
    let clock: Arc<dyn Clock> = simulation.clock();
    let disk = MemoryDisk::new(chance.fork("disk"));
    let store = SimStore::new(chance.fork("store"), Arc::clone(&clock));
    store.set_faults(StoreFaults { latency_ms_max: 50, ..StoreFaults::default() });
    let options = OpenOptions {
        data_dir: "/data".into(),
        object_store_url: None,
        object_store: Default::default(),
        settings: StorageSettings {
            wal_segment_bytes: SEGMENT_BYTES,
            tier_age_max_ms: TIER_AGE_MS,
            topic_local_retention_ms: 0,
            ..StorageSettings::default()
        },
        clock,
        random: Arc::new(chance.fork("random")),
    };
    let figures: Rc<RefCell<Figures>> = Rc::default();
    let (of_run, of_store) = (Rc::clone(&figures), store.clone());
    let ending = simulation.run(async move {
        let storage = Storage::open_simulated(options, &disk, &of_store).await.unwrap();
        drive(&storage, &of_store, load, &of_run).await;
        storage.close().await.unwrap();
    });
    assert_eq!(ending, Ending::Done(()));
    let figures = *figures.borrow();
    println!("{load:?}: {figures:?}");
    figures
}

async fn drive(storage: &Storage, store: &SimStore, load: Load, figures: &RefCell<Figures>) {
    let mut topics = Vec::new();
    for number in 0..load.topics {
        let name = format!("topic-{number}");
        let topic = storage.create_topic(&name, Some(load.partitions), TopicConfig::default()).await.unwrap();
        topics.push(topic.id);
    }
    // Its objects are refused for ever.
    store.refuse_puts_of(Some(format!("{}/data", topics[0])));
    let batch = batch();
    let of_batch = batch.bytes().len() as u64;
    let partitions: Vec<TopicPartition> = topics
        .iter()
        .flat_map(|topic| (0..load.partitions).map(|partition| TopicPartition { topic: *topic, partition }))
        .collect();
    let mut since_opened = u64::MAX;
    for second in (0..load.seconds).step_by(usize::try_from(PERIOD_S).unwrap()) {
        if since_opened > u64::from(TRANSACTION_MS.unsigned_abs()) / 1000 {
            open_transaction(storage, topics[1], &batch).await;
            since_opened = 0;
        }
        since_opened += PERIOD_S;
        for some in partitions.chunks(APPENDS_MAX) {
            let append =
                |at: &TopicPartition| Append { topic: at.topic, partition: at.partition, batch: batch.clone() };
            storage.commit(Commit { appends: some.iter().map(append).collect(), ..Commit::default() }).await.unwrap();
        }
        schedule::sleep(Duration::from_secs(PERIOD_S)).await;
        let mut figures = figures.borrow_mut();
        let log_bytes = storage.segments().iter().map(|segment| segment.bytes).sum();
        figures.records += partitions.len() as u64 * RECORDS_PER_S * PERIOD_S;
        figures.written_bytes += partitions.len() as u64 * of_batch;
        figures.log_bytes_max = figures.log_bytes_max.max(log_bytes);
        figures.log_bytes_end = log_bytes;
        if second % 600 == 0 {
            println!("after {second} s: {log_bytes} log bytes, {:?}", store.calls());
        }
    }
    let untiered = partitions.iter().map(|at| {
        let ends = storage.watermarks(*at).unwrap();
        (ends.high_watermark - ends.tiered_end_offset).unsigned_abs()
    });
    let records: u64 = untiered.sum();
    let objects = storage.objects().await.unwrap();
    let mut names: Vec<&str> = objects.iter().map(|object| object.url.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut figures = figures.borrow_mut();
    figures.live_bytes_end = records * of_batch / (RECORDS_PER_S * PERIOD_S);
    figures.objects_end = names.len();
    figures.puts = store.calls().puts;
    figures.put_bytes = store.calls().put_bytes;
}

/// A transaction with one batch, of which nobody hears any more.
async fn open_transaction(storage: &Storage, topic: TopicId, batch: &CheckedBatch) {
    let transactional_id = "left open".to_owned();
    let init = TransactionChange::Init {
        transactional_id: transactional_id.clone(),
        timeout_ms: TRANSACTION_MS,
        expected: None,
    };
    let begun = storage.commit(Commit { transactions: vec![init], ..Commit::default() }).await.unwrap();
    let producer = begun.transactions[0];
    let partitions = vec![TopicPartition { topic, partition: 0 }];
    let add = TransactionChange::AddPartitions { transactional_id, producer, partitions };
    let append = Append { topic, partition: 0, batch: batch.in_transaction(producer, 0) };
    storage.commit(Commit { transactions: vec![add], appends: vec![append], ..Commit::default() }).await.unwrap();
}

/// What a partition gets at once.
fn batch() -> CheckedBatch {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    for number in 0..RECORDS_PER_S * PERIOD_S {
        builder.push(1_780_000_000_000, Some(b"key"), Some(&number.to_be_bytes()), &[]);
    }
    builder.build(Compression::None).unwrap()
}

/// The bounds that must hold for any length of the run.
pub(crate) fn check(load: Load, figures: Figures) {
    let topics = u64::from(load.topics.unsigned_abs());
    let (age_s, minutes) = (TIER_AGE_MS.unsigned_abs() / 1000, load.seconds.div_ceil(60) + 1);
    let per_second = figures.written_bytes / load.seconds;
    // Each topic is tiered about once in an age: an object and a manifest, and as much again for merging.
    let runs = topics * (load.seconds / age_s + 2);
    assert!(figures.puts <= runs * 4 + minutes * 2, "{} puts, {runs} runs", figures.puts);
    assert!(figures.objects_end as u64 <= runs, "{} objects, {runs} runs", figures.objects_end);
    // The log holds what is too young to be tiered, what cannot be, and at most as much again of what goes next.
    let stuck = figures.written_bytes / topics + per_second * u64::from(TRANSACTION_MS.unsigned_abs()) / 1000 / topics;
    let young = per_second * (age_s + PAUSE_S);
    let bound = 2 * (stuck + young) + SLACK_BYTES;
    assert!(figures.log_bytes_max <= bound, "{} log bytes, at most {bound}", figures.log_bytes_max);
}
