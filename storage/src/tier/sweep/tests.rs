//! What is needed stays, what is not goes: whatever readers hold, processes replace each other and puts arrive late.

use std::collections::BTreeMap;

use bytes::Bytes;
use object_store::PutPayload;
use object_store::memory::InMemory;
use proptest::prelude::*;

use super::*;
use crate::clock::{Clock, ManualClock, SystemRandom};
use crate::manifest::draft::Shape;
use crate::manifest::model::Entry;
use crate::manifest::model::tests::entry;
use crate::manifest::publish;
use crate::object::bucket::{Bucket, Put};
use crate::testing::fault::{Fault, Faults, FaultyStore};
use crate::tier::cold::Writer;

const TOPIC: TopicId = TopicId(Uuid::from_u128(5));
const GRACE_US: i64 = 1_000;
const DAY_US: i64 = 86_400_000_000;

/// So small that a few entries make a tree of several levels.
const TINY: Shape = Shape {
    tail_bytes: 300,
    tail_bytes_of_partition: 0,
    chunk_bytes: 600,
    small_bytes: 400,
    small_max: 3,
    level_bytes: 300,
    gone_max: 3,
};

/// A bucket that outlives processes, and a clock.
struct Bench {
    bucket: Bucket,
    faults: Faults,
    clock: Arc<ManualClock>,
}

/// A process.
struct Process {
    cold: Arc<Cold>,
    sweeper: Sweeper,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        let faults = Faults::default();
        let bucket = Bucket::for_test_over(Arc::new(FaultyStore::new(InMemory::new(), faults.clone())));
        Self { bucket, faults, clock: Arc::new(ManualClock::at_us(DAY_US)) }
    }

    async fn start(&self, epoch: u64) -> Process {
        let clock = Arc::clone(&self.clock);
        let clock_of_cold: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let random = Arc::new(SystemRandom);
        let writer = Writer { epoch: WriterEpoch(epoch), random, clock: clock_of_cold, memory_bytes: 1 << 30 };
        claim::claim(&self.bucket, claim::Claim::for_test(Uuid::nil(), writer.epoch)).await.unwrap();
        let cold = Arc::new(Cold::new(self.bucket.clone(), writer).shaped(TINY));
        let manifest = publish::load(&self.bucket, WriterEpoch(epoch), TOPIC).await.unwrap();
        cold.manifests.install(manifest);
        let sweeper = Sweeper::new(Arc::clone(&cold), GRACE_US, clock.now_us());
        Process { cold, sweeper, clock }
    }

    /// Uses up what is left of the faults.
    async fn heal(&self) {
        while !self.faults.is_empty() {
            let _ = self.bucket.get(&paths::roots(TOPIC).join("x"), 1).await;
        }
    }

    /// Takes a file away, to be put back when it is long forgotten: a put that is stalled.
    async fn stall(&self, path: &Path) -> Bytes {
        let bytes = self.bucket.get(path, 1 << 20).await.unwrap().unwrap();
        self.bucket.delete(path).await.unwrap();
        bytes
    }

    async fn names(&self, folder: &Path) -> Vec<Path> {
        self.bucket.list(folder, None).await.unwrap()
    }
}

impl Process {
    fn manifest(&self) -> Arc<TopicManifest> {
        self.cold.manifests.get(TOPIC)
    }

    /// Puts an object and adds it to the end of partition 0.
    async fn add(&self, length: i64) -> Result<Arc<TopicManifest>> {
        let upload = self.cold.begin(TOPIC);
        let path = self.cold.put(TOPIC, &upload, Bytes::from_static(b"rows")).await?;
        let start = self.manifest().tiered_end(0);
        self.cold.publish(TOPIC, Edit::Add(entry(&path, &[(0, start, start + length)]))).await
    }

    /// Makes one object of some neighbours.
    async fn merge(&self, from: usize, count: usize) -> Result<()> {
        let entries = self.entries(&self.manifest()).await;
        let from = from.min(entries.len());
        let gone = &entries[from..entries.len().min(from + count)];
        let (Some(first), Some(last)) = (gone.first(), gone.last()) else { return Ok(()) };
        let upload = self.cold.begin(TOPIC);
        let path = self.cold.put(TOPIC, &upload, Bytes::from_static(b"rows")).await?;
        let added = vec![entry(&path, &[(0, first.covers[0].start, last.covers[0].end)])];
        let removed = gone.iter().map(|entry| path_of(entry).to_string()).collect();
        self.cold.publish(TOPIC, Edit::Replace { removed, added, history_start_us: None }).await.map(drop)
    }

    async fn trim(&self, start: i64) -> Result<()> {
        self.cold.publish(TOPIC, Edit::Trim { starts: vec![(0, start)], history_start_us: None }).await.map(drop)
    }

    async fn entries(&self, manifest: &Arc<TopicManifest>) -> Vec<Arc<Entry>> {
        self.cold.entries(manifest).try_collect().await.unwrap()
    }

    async fn sweep(&self) -> Result<u64> {
        self.sweeper.sweep_topic(TOPIC, self.clock.now_us()).await
    }

    /// Whoever holds the manifest can read all of it, from the bucket.
    async fn is_whole(&self, bucket: &Bucket, manifest: &Arc<TopicManifest>) {
        let chunks = Arc::new(crate::manifest::chunks::Chunks::new(bucket.clone(), 0));
        let entries = crate::manifest::walk::all(chunks, Arc::clone(manifest));
        let entries: Vec<_> = entries.try_collect().await.unwrap();
        for entry in entries {
            let there = bucket.get(&path_of(&entry), 100).await.unwrap();
            assert!(there.is_some(), "{} of version {} is gone", path_of(&entry), manifest.version);
        }
    }
}

fn path_of(entry: &Entry) -> Path {
    Path::from(entry.object.as_ref().unwrap().path.as_str())
}

#[tokio::test]
async fn what_went_stays_for_its_readers_and_for_its_grace() {
    let bench = Bench::new();
    let process = bench.start(1).await;
    for _ in 0..4 {
        process.add(10).await.unwrap();
    }
    let held = process.manifest();
    process.merge(1, 2).await.unwrap();
    bench.clock.advance_us(GRACE_US);
    assert_eq!(process.sweep().await.unwrap(), 0, "a reader holds what went");
    process.is_whole(&bench.bucket, &held).await;
    drop(held);
    bench.clock.advance_us(-1);
    assert_eq!(process.sweep().await.unwrap(), 0, "the grace is not over");
    bench.clock.advance_us(1);
    assert!(process.sweep().await.unwrap() >= 2);
    assert_eq!(process.sweep().await.unwrap(), 0);
    process.is_whole(&bench.bucket, &process.manifest()).await;
    assert_eq!(bench.names(&paths::objects(TOPIC)).await.len(), 3);
    // The next root no longer speaks of it.
    process.add(1).await.unwrap();
    assert!(process.manifest().garbage.is_empty(), "{:?}", process.manifest().garbage);
}

#[tokio::test]
async fn what_a_failed_attempt_put_is_swept_after_the_next_publish() {
    let bench = Bench::new();
    let process = bench.start(1).await;
    process.add(10).await.unwrap();
    for _ in 0..8 {
        bench.faults.lay("/manifest/", Fault::Refuse);
    }
    process.merge(0, 1).await.unwrap_err();
    bench.heal().await;
    bench.clock.advance_us(DAY_US);
    assert_eq!(process.sweep().await.unwrap(), 0, "it may count if we die now");
    assert_eq!(bench.names(&paths::objects(TOPIC)).await.len(), 2);
    process.add(10).await.unwrap();
    bench.clock.advance_us(DAY_US);
    assert_eq!(process.sweep().await.unwrap(), 1);
    process.is_whole(&bench.bucket, &process.manifest()).await;
}

#[tokio::test]
async fn what_a_dead_process_put_and_never_published_is_swept_after_the_grace() {
    let bench = Bench::new();
    let process = bench.start(1).await;
    for _ in 0..10 {
        process.add(10).await.unwrap();
    }
    let upload = process.cold.begin(TOPIC);
    process.cold.put(TOPIC, &upload, Bytes::from_static(b"orphan")).await.unwrap();
    let name = ChunkName { epoch: WriterEpoch(1), id: Uuid::from_u128(99) };
    process.cold.chunks().write(TOPIC, name, Content::Gone(vec![])).await.unwrap();
    std::mem::forget(upload);
    let process = bench.start(2).await;
    assert_eq!(process.sweep().await.unwrap(), 0, "the grace is not over");
    bench.clock.advance_us(GRACE_US);
    assert!(process.sweep().await.unwrap() >= 2);
    assert_eq!(bench.names(&paths::objects(TOPIC)).await.len(), 10);
    assert!(process.cold.chunks().find(TOPIC, name).await.unwrap().is_none());
    process.is_whole(&bench.bucket, &process.manifest()).await;
    // The next process need not look at those names again.
    process.add(10).await.unwrap();
    assert_eq!(process.manifest().orphans_checked, WriterEpoch(1));
}

#[tokio::test]
async fn a_publisher_that_was_paused_for_a_day_publishes_and_sweeps_nothing_false() {
    for publishes in [true, false] {
        let bench = Bench::new();
        let old = bench.start(1).await;
        for _ in 0..12 {
            old.add(10).await.unwrap();
        }
        // The old process is stopped while its root is on the way.
        bench.faults.lay("/manifest/", Fault::LoseAnswer);
        for _ in 0..8 {
            bench.faults.lay("/manifest/", Fault::Refuse);
        }
        old.merge(2, 3).await.unwrap_err();
        bench.heal().await;
        let late = bench.names(&paths::roots(TOPIC)).await.pop().unwrap();
        let bytes = bench.stall(&late).await;

        let new = bench.start(2).await;
        assert_eq!(new.manifest().tiered_end(0), 120);
        if publishes {
            new.merge(1, 3).await.unwrap();
            new.add(10).await.unwrap();
        }
        bench.clock.advance_us(DAY_US);
        assert!(new.sweep().await.unwrap() > 0);
        bench.clock.advance_us(DAY_US);
        new.sweep().await.unwrap();

        // All of it arrives at once.
        assert_eq!(bench.bucket.put_new(&late, PutPayload::from_bytes(bytes)).await.unwrap(), Put::Created);
        let before = (bench.names(&paths::objects(TOPIC)).await, bench.names(&paths::chunks(TOPIC)).await);
        for _ in 0..2 {
            let error = old.add(10).await.unwrap_err();
            assert!(matches!(error, Error::Fenced { .. }), "{error}");
            let error = old.merge(0, 2).await.unwrap_err();
            assert!(matches!(error, Error::Fenced { .. }), "{error}");
        }
        let swept = old.sweep().await;
        assert!(matches!(swept, Ok(0) | Err(Error::Fenced { .. })), "{swept:?}");
        let after = (bench.names(&paths::objects(TOPIC)).await, bench.names(&paths::chunks(TOPIC)).await);
        assert!(
            before.0.iter().all(|name| after.0.contains(name)) && before.1.iter().all(|name| after.1.contains(name))
        );

        new.is_whole(&bench.bucket, &new.manifest()).await;
        let third = bench.start(3).await;
        assert_eq!(third.manifest().version, new.manifest().version);
        assert_eq!(third.manifest().epoch, WriterEpoch(2));
        third.is_whole(&bench.bucket, &third.manifest()).await;
    }
}

#[tokio::test]
async fn our_own_put_that_arrives_a_day_late_is_never_the_truth() {
    for publishes in [1, 40] {
        let bench = Bench::new();
        let process = bench.start(1).await;
        for _ in 0..6 {
            process.add(10).await.unwrap();
        }
        bench.faults.lay("/manifest/", Fault::LoseAnswer);
        for _ in 0..8 {
            bench.faults.lay("/manifest/", Fault::Refuse);
        }
        process.merge(2, 3).await.unwrap_err();
        bench.heal().await;
        let late = bench.names(&paths::roots(TOPIC)).await.pop().unwrap();
        let bytes = bench.stall(&late).await;
        for _ in 0..publishes {
            process.add(10).await.unwrap();
        }
        bench.clock.advance_us(DAY_US);
        assert!(process.sweep().await.unwrap() > 0);
        let put = bench.bucket.put_new(&late, PutPayload::from_bytes(bytes)).await.unwrap();
        assert_eq!(put, if publishes == 1 { Put::Taken } else { Put::Created });
        process.add(10).await.unwrap();
        let next = bench.start(2).await;
        assert_eq!(next.manifest().version, process.manifest().version);
        next.is_whole(&bench.bucket, &next.manifest()).await;
        assert_eq!(next.entries(&next.manifest()).await.len(), 6 + publishes + 1);
    }
}

#[tokio::test]
async fn a_sweep_goes_on_where_its_budget_ended_and_old_roots_go() {
    let bench = Bench::new();
    let process = bench.start(1).await;
    for _ in 0..300 {
        process.add(10).await.unwrap();
    }
    process.trim(3_000).await.unwrap();
    bench.clock.advance_us(DAY_US);
    let mut budget = Budget { left: 100, removed: 0, since_claim: 0 };
    process.sweeper.sweep_topic_within(TOPIC, bench.clock.now_us(), &mut budget).await.unwrap();
    assert!(budget.removed <= 100 && budget.removed > 50, "{}", budget.removed);
    process.sweep().await.unwrap();
    assert_eq!(bench.names(&paths::objects(TOPIC)).await, []);
    assert_eq!(bench.names(&paths::roots(TOPIC)).await.len(), ROOTS_KEPT + 1);
    process.add(1).await.unwrap();
    bench.clock.advance_us(DAY_US);
    process.sweep().await.unwrap();
    assert_eq!(bench.names(&paths::chunks(TOPIC)).await, []);
    process.is_whole(&bench.bucket, &process.manifest()).await;
}

#[tokio::test]
async fn what_a_chunk_names_is_gone_before_the_chunk_is() {
    let bench = Bench::new();
    let process = bench.start(1).await;
    for _ in 0..60 {
        process.add(10).await.unwrap();
    }
    process.trim(600).await.unwrap();
    bench.clock.advance_us(DAY_US);
    for _ in 0..20 {
        for _ in 0..3 {
            bench.faults.lay("/data/", Fault::Refuse);
        }
        may_fail(process.sweep().await);
    }
    while !bench.faults.is_empty() {
        let _ = bench.bucket.get(&paths::objects(TOPIC).join("data").join("x"), 1).await;
    }
    process.sweep().await.unwrap();
    assert_eq!(bench.names(&paths::objects(TOPIC)).await, []);
}

#[tokio::test]
async fn a_damaged_chunk_of_garbage_stays_and_the_rest_goes() {
    let bench = Bench::new();
    let process = bench.start(1).await;
    for _ in 0..30 {
        process.add(10).await.unwrap();
    }
    let damaged = process.manifest().chunks[0].name;
    let kept = process.manifest().chunks.iter().map(|chunk| chunk.summary.objects).next().unwrap();
    let path = paths::chunk(TOPIC, damaged.epoch, damaged.id);
    let mut bytes = bench.stall(&path).await.to_vec();
    bytes[40] ^= 1;
    bench.bucket.put_new(&path, PutPayload::from(bytes)).await.unwrap();
    process.trim(290).await.unwrap();
    process.merge(0, 1).await.unwrap();
    bench.clock.advance_us(GRACE_US);
    assert!(process.sweep().await.unwrap() > 0);
    let left = bench.names(&paths::objects(TOPIC)).await.len();
    assert_eq!(left, process.entries(&process.manifest()).await.len() + usize::try_from(kept).unwrap());
    assert!(bench.names(&paths::chunks(TOPIC)).await.contains(&path), "it can still be looked at");
    assert_eq!(process.sweep().await.unwrap(), 0, "there is no more to do");
    process.is_whole(&bench.bucket, &process.manifest()).await;
    // What goes later goes too.
    process.add(10).await.unwrap();
    process.merge(0, 2).await.unwrap();
    bench.clock.advance_us(GRACE_US);
    assert!(process.sweep().await.unwrap() > 0);
    // To the next process it is an orphan like any other.
    drop(process);
    let process = bench.start(2).await;
    bench.clock.advance_us(GRACE_US);
    assert!(process.sweep().await.unwrap() > 0);
    let left = bench.names(&paths::objects(TOPIC)).await.len();
    assert_eq!(left, process.entries(&process.manifest()).await.len());
    process.is_whole(&bench.bucket, &process.manifest()).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_puts_the_sweep_off_by_its_grace_only() {
    let bench = Bench::new();
    let process = bench.start(1).await;
    for _ in 0..4 {
        process.add(10).await.unwrap();
    }
    process.merge(0, 2).await.unwrap();
    let patient = Sweeper::new(Arc::clone(&process.cold), DAY_US, bench.clock.now_us());
    bench.clock.advance_us(-DAY_US / 2);
    let now_us = bench.clock.now_us();
    process.merge(1, 2).await.unwrap();
    // One of a deleted topic too.
    let stray = TopicId(Uuid::from_u128(77));
    let path = paths::data(stray, WriterEpoch(1), Uuid::nil());
    bench.bucket.put_new(&path, PutPayload::from_static(b"rows")).await.unwrap();
    assert_eq!(process.sweeper.sweep_deleted(&[stray], now_us + DAY_US).await.unwrap().files, 0);
    // The grace of a thousandth of a second, by a clock that was not set back.
    let swept = async {
        let mut swept = 0;
        while bench.names(&paths::objects(TOPIC)).await.len() > 2
            || !bench.names(&paths::objects(stray)).await.is_empty()
        {
            swept += process.sweeper.sweep_topic(TOPIC, now_us + GRACE_US).await.unwrap();
            swept += process.sweeper.sweep_deleted(&[stray], now_us + GRACE_US).await.unwrap().files;
            assert_eq!(patient.sweep_topic(TOPIC, now_us + GRACE_US).await.unwrap(), 0, "its grace is a day");
        }
        swept
    };
    assert!(worker::timeout(Duration::from_secs(60), swept).await.is_some());
    process.is_whole(&bench.bucket, &process.manifest()).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_and_right_again_lets_nothing_go_early() {
    let grace_us = 3_600_000_000;
    let mut moment = Moment::new(DAY_US);
    assert!(!moment.is_past(grace_us, DAY_US - grace_us));
    assert!(!moment.is_past(grace_us, DAY_US + grace_us - 1), "both clocks must not be added up");
    assert!(moment.is_past(grace_us, DAY_US + grace_us));
}

#[tokio::test]
async fn a_deleted_topic_goes_when_nobody_reads_it_any_more() {
    let bench = Bench::new();
    let process = bench.start(1).await;
    for _ in 0..5 {
        process.add(10).await.unwrap();
    }
    let sweep = async |there: bool| {
        let deleted: &[TopicId] = if there { &[] } else { &[TOPIC] };
        process.sweeper.sweep_deleted(deleted, bench.clock.now_us()).await.unwrap().files
    };
    bench.clock.advance_us(DAY_US);
    assert_eq!(sweep(true).await, 0);
    assert_eq!(sweep(false).await, 0, "it was there just now");
    let held = process.manifest();
    bench.clock.advance_us(GRACE_US);
    assert_eq!(sweep(false).await, 0, "a reader holds it");
    process.is_whole(&bench.bucket, &held).await;
    drop(held);
    assert!(sweep(false).await > 0);
    assert_eq!(bench.names(&Path::from(format!("topics/{TOPIC}"))).await, []);
    assert_eq!(sweep(false).await, 0);
}

#[tokio::test]
async fn a_deleted_topic_with_more_files_than_one_sweep_removes_goes_in_several() {
    let bench = Bench::new();
    let process = bench.start(1).await;
    let files = DELETES_MAX + 10;
    for number in 0..files {
        let path = paths::data(TOPIC, WriterEpoch(1), Uuid::from_u128(number as u128));
        bench.bucket.put_new(&path, PutPayload::from_static(b"rows")).await.unwrap();
    }
    // One of which there is nothing, and one that nobody says is deleted.
    let (empty, unknown) = (TopicId(Uuid::from_u128(77)), TopicId(Uuid::from_u128(78)));
    let path = paths::data(unknown, WriterEpoch(1), Uuid::nil());
    bench.bucket.put_new(&path, PutPayload::from_static(b"rows")).await.unwrap();
    let sweep = async || process.sweeper.sweep_deleted(&[TOPIC, empty], bench.clock.now_us()).await.unwrap();
    assert_eq!(sweep().await, SweptTopics::default());
    bench.clock.advance_us(GRACE_US);
    assert_eq!(sweep().await, SweptTopics { files: DELETES_MAX as u64, topics: vec![] });
    assert_eq!(sweep().await, SweptTopics { files: 10, topics: vec![TOPIC, empty] });
    assert_eq!(bench.names(&paths::topics()).await, [path]);
    assert_eq!(bench.names(&Path::from(format!("topics/{TOPIC}"))).await, []);
}

#[derive(Clone, Debug)]
enum Step {
    Add(i64),
    Merge(usize, usize),
    Trim(i64),
    Hold,
    Release(usize),
    Wait(i64),
    Sweep,
    Restart,
    Fail(usize, Fault),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1i64..5).prop_map(Step::Add),
        3 => (0usize..20, 1usize..6).prop_map(|(from, count)| Step::Merge(from, count)),
        1 => (0i64..60).prop_map(Step::Trim),
        2 => Just(Step::Hold),
        2 => (0usize..3).prop_map(Step::Release),
        3 => (0i64..2 * GRACE_US).prop_map(Step::Wait),
        4 => Just(Step::Sweep),
        1 => Just(Step::Restart),
        2 => (1usize..9, prop::sample::select(vec![Fault::Refuse, Fault::LoseAnswer]))
            .prop_map(|(count, fault)| Step::Fail(count, fault)),
    ]
}

/// Passing trouble is no failure of the test.
fn may_fail<T>(done: Result<T>) {
    match done {
        Ok(_) | Err(Error::ObjectStore { .. } | Error::Conflict { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

async fn run(steps: Vec<Step>) {
    let bench = Bench::new();
    let mut epoch = 1;
    let mut process = bench.start(epoch).await;
    let mut held: Vec<Arc<TopicManifest>> = Vec::new();
    for step in steps {
        match step {
            Step::Add(length) => may_fail(process.add(length).await),
            Step::Merge(from, count) => may_fail(process.merge(from, count).await),
            Step::Trim(start) => may_fail(process.trim(start).await),
            Step::Hold => held.push(process.manifest()),
            Step::Release(at) if at < held.len() => drop(held.remove(at)),
            Step::Release(_) => {}
            Step::Wait(us) => bench.clock.advance_us(us),
            Step::Sweep => may_fail(process.sweep().await),
            Step::Fail(count, fault) => (0..count).for_each(|_| bench.faults.lay("/manifest/", fault)),
            Step::Restart => {
                bench.heal().await;
                held.clear();
                epoch += 1;
                process = bench.start(epoch).await;
            }
        }
        for manifest in &held {
            let is_whole = process.is_whole(&bench.bucket, manifest);
            is_whole.await;
        }
    }
    bench.heal().await;
    drop(held);
    epoch += 1;
    let process = bench.start(epoch).await;
    process.is_whole(&bench.bucket, &process.manifest()).await;
    // Twice: the publish that ends what was abandoned leaves garbage of its own.
    for _ in 0..3 {
        bench.clock.advance_us(DAY_US);
        process.sweep().await.unwrap();
        process.trim(0).await.unwrap();
    }
    only_what_is_live_is_left(&bench, &process).await;
}

async fn only_what_is_live_is_left(bench: &Bench, process: &Process) {
    let manifest = process.manifest();
    process.is_whole(&bench.bucket, &manifest).await;
    let mut live: Vec<Path> = process.entries(&manifest).await.iter().map(|entry| path_of(entry)).collect();
    live.sort();
    assert_eq!(bench.names(&paths::objects(TOPIC)).await, live);
    let mut chunks = BTreeMap::new();
    let mut waiting = manifest.chunks.clone();
    while let Some(chunk) = waiting.pop() {
        if let Content::Chunks(below) = &*process.cold.chunks().read(&manifest, &chunk).await.unwrap() {
            waiting.extend(below.iter().map(Arc::clone));
        }
        chunks.insert(paths::chunk(TOPIC, chunk.name.epoch, chunk.name.id), ());
    }
    assert_eq!(bench.names(&paths::chunks(TOPIC)).await, chunks.into_keys().collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_somebody_holds_is_there_and_in_the_end_nothing_else(steps in prop::collection::vec(step(), 0..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(steps));
    }
}
