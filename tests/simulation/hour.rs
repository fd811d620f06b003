//! Ten thousand partitions, ten records a second in each, for a simulated hour, while one transaction is left open and
//! one topic cannot be tiered: objects, puts, the log's bytes and memory stay bounded, and the node starts again fast.
//! `make test` runs a small one.
//!
//! The rates are those of the hour: 100,000 records a second in all. A partition's records come in batches of a hundred,
//! one every ten seconds, as those of a producer that is told to linger; each second brings a tenth of the partitions
//! theirs, so that 3.6 million batches are judged, indexed and tiered. Keys and values are small (18 bytes a record in the
//! log): what is counted here are partitions, objects and puts, not megabytes. Tiering goes by an age of a minute and the
//! log keeps nothing that is tiered, which is ten times as hard for objects, puts and carrying over as the defaults are.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_storage::clock::Clock;
use aquifer_storage::record::batch::{BatchBuilder, CheckedBatch, Compression, TimestampType};
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::testing::chance::Chance;
use aquifer_storage::testing::schedule::{self, Ending, Simulation};
use aquifer_storage::testing::{MemoryDisk, SimStore, StoreCalls, StoreFaults};
use aquifer_storage::{Append, Commit, OpenOptions, Storage, TopicConfig, TopicId, TopicPartition, TransactionChange};

/// Seconds between two batches of a partition.
const PERIOD_S: u64 = 10;
/// Records a partition gets in a second.
const RECORDS_PER_S: u64 = 10;
/// Batches of one commit.
const APPENDS_MAX: usize = 500;
/// What a batch costs in the log beside its bytes, at the most: its share of the frame.
const FRAME_SHARE_BYTES: u64 = 192;
/// Longest time the store takes to answer, ms.
const LATENCY_MS_MAX: u64 = 50;
/// What one run asks of the store: puts of object and manifest, lists of claims.
const CALLS_OF_RUN: u64 = 4;
/// What two runs put: an object and a root each, and half as much again by merging, which joins at least three into one.
/// It mostly joins more: what that leaves is more than the chunks of manifests take.
const PUTS_OF_TWO_RUNS: u64 = 6;
/// Longest time it takes to start again, ms.
const START_MS_MAX: u128 = 2_000;
/// Roots of a manifest that the sweep leaves.
const ROOTS_KEPT: u64 = 16;
/// Batches that differ.
const BATCHES: usize = 16;
/// How often it is looked how much there is, s.
const LOOK_S: u64 = 5;
/// Segments the log may have beside twice what is needed of it: the four the rule leaves, the open one, and what comes
/// in and what was copied until the next look.
const SLACK_SEGMENTS: u64 = 8;

/// How much, and how fast it is to become cold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) topics: i32,
    pub(crate) partitions: i32,
    pub(crate) seconds: u64,
    pub(crate) segment_bytes: u64,
    /// `tier.age_max`.
    pub(crate) age_s: u64,
    /// `housekeeping.interval`.
    pub(crate) housekeeping_s: u64,
    /// `sweep.grace`.
    pub(crate) grace_s: u64,
    /// Timeout of the transaction that is left open; when it was aborted, the next one is.
    pub(crate) transaction_s: u64,
    /// Memory, with all files of disk and store in it; only where nothing else runs beside.
    pub(crate) resident_bytes_max: Option<u64>,
}

impl Load {
    /// An hour as the issue of this test has it.
    pub(crate) const WHOLE: Self = Self {
        topics: 100,
        partitions: 100,
        seconds: 3_600,
        segment_bytes: 16 << 20,
        age_s: 60,
        housekeeping_s: 60,
        grace_s: 900,
        transaction_s: 900,
        resident_bytes_max: Some(6 << 30),
    };
    /// Ten minutes in which everything happens as often.
    pub(crate) const SMALL: Self = Self {
        topics: 6,
        partitions: 10,
        seconds: 600,
        segment_bytes: 64 << 10,
        age_s: 20,
        housekeeping_s: 20,
        grace_s: 120,
        transaction_s: 150,
        resident_bytes_max: None,
    };

    fn settings(&self) -> StorageSettings {
        StorageSettings {
            wal_segment_bytes: self.segment_bytes,
            tier_age_max_ms: i64::try_from(self.age_s).unwrap() * 1000,
            topic_local_retention_ms: 0,
            housekeeping_interval_ms: self.housekeeping_s * 1000,
            sweep_grace_ms: self.grace_s * 1000,
            ..StorageSettings::default()
        }
    }

    /// The longest a record waits for its object, unless nothing of it can be tiered: until it is due, its partition's next
    /// batch (a run takes what is half due along, and what came since waits from there), and the topics' runs in turn.
    fn wait_s(&self) -> u64 {
        let runs_ms = u64::from(self.topics.unsigned_abs()) * CALLS_OF_RUN * LATENCY_MS_MAX;
        self.age_s + PERIOD_S + 2 + runs_ms.div_ceil(1000)
    }

    /// Most runs of tiering of one topic: what comes in while a run goes on is due an age later.
    fn runs(&self) -> u64 {
        self.seconds / self.age_s + 1
    }

    /// How many sizes of objects there are, each four times the one before.
    fn sizes(&self) -> u64 {
        u64::from(self.runs().ilog(4)) + 1
    }
}

/// What it came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) records: u64,
    pub(crate) written_bytes: u64,
    pub(crate) log_bytes_max: u64,
    pub(crate) segments_max: usize,
    /// Bytes of the log in no object: what it must keep.
    pub(crate) live_bytes_max: u64,
    /// The longest any record waited for its object, s, but those of the topic and the partition that are held up.
    pub(crate) waited_s_max: u64,
    /// All files of the node's disk.
    pub(crate) disk_bytes_max: u64,
    /// The most that any topic has.
    pub(crate) objects_of_topic: usize,
    pub(crate) objects: usize,
    /// Everything in the store, what is waiting for the sweep too.
    pub(crate) files_max: usize,
    pub(crate) calls: StoreCalls,
    pub(crate) stored_bytes: u64,
    pub(crate) offsets: i64,
}

/// What the load is driven with.
struct Drive {
    load: Load,
    disk: MemoryDisk,
    store: SimStore,
    batches: Vec<CheckedBatch>,
    figures: Rc<RefCell<Figures>>,
}

/// Runs the load, checks all along that it stays within bounds, starts again, and tells the figures.
pub(crate) fn run(load: Load) -> Figures {
    let chance = Chance::new(1);
    let simulation = Simulation::new(1, 1_780_000_000_000_000);
    let clock: Arc<dyn Clock> = simulation.clock();
    let disk = MemoryDisk::new(chance.fork("disk"));
    let store = SimStore::new(chance.fork("store"), Arc::clone(&clock));
    store.set_faults(StoreFaults { latency_ms_max: LATENCY_MS_MAX, ..StoreFaults::default() });
    let options = |life: &str| OpenOptions {
        data_dir: "/data".into(),
        object_store_url: None,
        object_store: Default::default(),
        settings: load.settings(),
        clock: Arc::clone(&clock),
        random: Arc::new(chance.fork(life)),
    };
    let figures: Rc<RefCell<Figures>> = Rc::default();
    let drive = Drive {
        load,
        disk: disk.clone(),
        store: store.clone(),
        batches: (0..BATCHES).map(|_| batch(&chance)).collect(),
        figures: Rc::clone(&figures),
    };
    let (began, first) = (Instant::now(), options("first life"));
    let ending = simulation.run(async move {
        let storage = Storage::open_simulated(first, &drive.disk, &drive.store).await.unwrap();
        drive.run(&storage).await;
        // Not closed: it is found as a killed process leaves it.
    });
    assert_eq!(ending, Ending::Done(()));
    println!("{load:?}: {:?}, {:.1} s, {} steps", figures.borrow(), began.elapsed().as_secs_f64(), simulation.steps());
    disk.process_gone();
    let (again, of_run) = (options("second life"), Rc::clone(&figures));
    let ending = simulation.run(async move {
        let began = Instant::now();
        let storage = Storage::open_simulated(again, &disk, &store).await.unwrap();
        let (log_bytes, took_ms) = (log_bytes(&storage), began.elapsed().as_millis());
        println!("it starts again with {log_bytes} bytes of log in {took_ms} ms");
        assert!(took_ms <= START_MS_MAX, "starting again took {took_ms} ms, at most {START_MS_MAX}");
        let topics = storage.topics().into_iter().filter(|topic| !topic.internal);
        let ends = topics.flat_map(|topic| partitions_of(topic.id, topic.partitions)).map(|at| end(&storage, at));
        let (before, after) = (of_run.borrow().offsets, ends.sum::<i64>());
        // The transaction may have been ended meanwhile.
        assert!((before..=before + 1).contains(&after), "{before} offsets were given, {after} are there");
        storage.close().await.unwrap();
    });
    assert_eq!(ending, Ending::Done(()));
    *figures.borrow()
}

impl Drive {
    async fn run(&self, storage: &Storage) {
        let Load { topics, partitions, seconds, transaction_s, .. } = self.load;
        let mut ids = Vec::new();
        for number in 0..topics {
            let name = format!("topic-{number}");
            ids.push(storage.create_topic(&name, Some(partitions), TopicConfig::default()).await.unwrap().id);
        }
        // Its objects are refused for ever.
        self.store.refuse_puts_of(Some(format!("{}/data", ids[0])));
        let all: Vec<TopicPartition> = ids.iter().flat_map(|topic| partitions_of(*topic, partitions)).collect();
        let mut opened = None;
        for second in 0..seconds {
            if opened.is_none_or(|opened| second > opened + transaction_s) {
                open_transaction(storage, ids[1], transaction_s, &self.batches[0]).await;
                opened = Some(second);
            }
            let (first, every) = (usize::try_from(second % PERIOD_S).unwrap(), usize::try_from(PERIOD_S).unwrap());
            let due: Vec<_> = all.iter().skip(first).step_by(every).collect();
            for some in due.chunks(APPENDS_MAX) {
                let appends = some.iter().enumerate().map(|(number, at)| Append {
                    topic: at.topic,
                    partition: at.partition,
                    batch: self.batches[number % BATCHES].clone(),
                });
                storage.commit(Commit { appends: appends.collect(), ..Commit::default() }).await.unwrap();
            }
            {
                let mut figures = self.figures.borrow_mut();
                figures.records += due.len() as u64 * PERIOD_S * RECORDS_PER_S;
                figures.written_bytes += due.len() as u64 * self.of_batch();
            }
            schedule::sleep(Duration::from_secs(1)).await;
            if second % LOOK_S == LOOK_S - 1 {
                self.look(storage, &all, second + 1);
            }
        }
        self.look_at_objects(storage).await;
        self.figures.borrow_mut().offsets = all.iter().map(|at| end(storage, *at)).sum();
    }

    /// What a batch takes of the log.
    fn of_batch(&self) -> u64 {
        self.batches[0].bytes().len() as u64 + FRAME_SHARE_BYTES
    }

    /// Checks what must hold at any time.
    fn look(&self, storage: &Storage, all: &[TopicPartition], second: u64) {
        let partitions = usize::try_from(self.load.partitions).unwrap();
        let (mut untiered, mut waited_s) = (0, 0);
        for (number, at) in all.iter().enumerate() {
            let ends = storage.watermarks(*at).unwrap();
            let records = (ends.high_watermark - ends.tiered_end_offset).unsigned_abs();
            untiered += records;
            // The first topic is refused, the first partition of the second one has the transaction.
            if number > partitions {
                waited_s = waited_s.max(records / RECORDS_PER_S);
            }
        }
        let live_bytes = untiered * self.of_batch() / (PERIOD_S * RECORDS_PER_S);
        let wait_s = self.load.wait_s();
        assert!(waited_s <= wait_s, "after {second} s there are records that wait for {waited_s} s, at most {wait_s}");
        let (log_bytes, segments) = (log_bytes(storage), storage.segments().len());
        let bound = 2 * live_bytes + SLACK_SEGMENTS * self.load.segment_bytes;
        assert!(
            log_bytes <= bound,
            "after {second} s {log_bytes} log bytes, {live_bytes} of them live, at most {bound}"
        );
        let files = self.store.objects();
        let mut figures = self.figures.borrow_mut();
        let figures = &mut *figures;
        figures.log_bytes_max = figures.log_bytes_max.max(log_bytes);
        figures.live_bytes_max = figures.live_bytes_max.max(live_bytes);
        figures.waited_s_max = figures.waited_s_max.max(waited_s);
        figures.segments_max = figures.segments_max.max(segments);
        figures.disk_bytes_max = figures.disk_bytes_max.max(self.disk.used_bytes());
        figures.files_max = figures.files_max.max(files.len());
        figures.stored_bytes = files.iter().map(|(_, bytes)| bytes).sum();
        figures.calls = self.store.calls();
        if second.is_multiple_of(60) {
            let (kib, memory) = (|bytes: u64| bytes >> 10, resident_bytes_max().unwrap_or(0) >> 20);
            println!(
                "{second} s: log {} KiB, live {} KiB, {segments} segments, disk {} KiB, {} files in the store, {} puts, \
                 {memory} MiB resident at the most",
                kib(log_bytes),
                kib(live_bytes),
                kib(self.disk.used_bytes()),
                files.len(),
                figures.calls.puts,
            );
        }
    }

    async fn look_at_objects(&self, storage: &Storage) {
        let mut names: Vec<(TopicId, String)> =
            storage.objects().await.unwrap().into_iter().map(|object| (object.topic, object.url)).collect();
        names.sort_unstable();
        names.dedup();
        let of_topics = names.chunk_by(|one, other| one.0 == other.0).map(<[_]>::len);
        let mut figures = self.figures.borrow_mut();
        figures.objects_of_topic = of_topics.max().unwrap_or(0);
        figures.objects = names.len();
    }
}

fn partitions_of(topic: TopicId, partitions: i32) -> impl Iterator<Item = TopicPartition> {
    (0..partitions).map(move |partition| TopicPartition { topic, partition })
}

fn end(storage: &Storage, at: TopicPartition) -> i64 {
    storage.watermarks(at).unwrap().high_watermark
}

fn log_bytes(storage: &Storage) -> u64 {
    storage.segments().iter().map(|segment| segment.bytes).sum()
}

/// The most memory this process has had; `None` where the system does not say.
fn resident_bytes_max() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// A transaction with one batch, of which nobody hears any more.
async fn open_transaction(storage: &Storage, topic: TopicId, timeout_s: u64, batch: &CheckedBatch) {
    let transactional_id = "left open".to_owned();
    let timeout_ms = i32::try_from(timeout_s * 1000).unwrap();
    let init = TransactionChange::Init { transactional_id: transactional_id.clone(), timeout_ms, expected: None };
    let begun = storage.commit(Commit { transactions: vec![init], ..Commit::default() }).await.unwrap();
    let producer = begun.transactions[0];
    let partitions = vec![TopicPartition { topic, partition: 0 }];
    let add = TransactionChange::AddPartitions { transactional_id, producer, partitions };
    let append = Append { topic, partition: 0, batch: batch.in_transaction(producer, 0) };
    storage.commit(Commit { transactions: vec![add], appends: vec![append], ..Commit::default() }).await.unwrap();
}

/// What a partition gets at once.
fn batch(chance: &Chance) -> CheckedBatch {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    for _ in 0..RECORDS_PER_S * PERIOD_S {
        builder.push(1_780_000_000_000, Some(b"key"), Some(&chance.below(u64::MAX).to_be_bytes()), &[]);
    }
    builder.build(Compression::None).unwrap()
}

/// The bounds that hold for the whole run.
pub(crate) fn check(load: Load, figures: Figures) {
    // One of the topics is refused: its objects are tried again after a pause that grows to a minute.
    let topics = u64::from(load.topics.unsigned_abs()) - 1;
    let refused = load.seconds / 60 + 8;
    let puts = (topics * load.runs() * PUTS_OF_TWO_RUNS).div_ceil(2) + refused;
    assert!(figures.calls.puts <= puts, "{} puts, at most {puts}", figures.calls.puts);
    // Behind the largest object there are less than four of each size.
    let objects = 3 * load.sizes() + 1;
    assert!(figures.objects_of_topic as u64 <= objects, "{} objects, at most {objects}", figures.objects_of_topic);
    // Live objects, the roots that stay, and what was put until the grace is over and the sweep has come by.
    let rests = (load.grace_s + 2 * load.housekeeping_s).div_ceil(load.age_s) * PUTS_OF_TWO_RUNS;
    let files = topics * (objects + ROOTS_KEPT + rests.div_ceil(2));
    assert!(figures.files_max as u64 <= files, "{} files, at most {files}", figures.files_max);
    if let Some((most, resident)) = load.resident_bytes_max.zip(resident_bytes_max()) {
        assert!(resident <= most, "{resident} bytes resident, at most {most}");
    }
}
