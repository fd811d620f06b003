//! Manifests against a naive map of offsets, over stores that fail, and after a day of absence.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::PutPayload;
use object_store::memory::InMemory;
use proptest::prelude::*;
use uuid::Uuid;

use crate::clock::{ManualClock, Random, SystemRandom};
use crate::error::{Error, Result};
use crate::ids::{TopicId, WriterEpoch};
use crate::manifest::chunks::Chunks;
use crate::manifest::codec::{self, Content, Root};
use crate::manifest::draft::Shape;
use crate::manifest::edit::Edit;
use crate::manifest::model::tests::entry;
use crate::manifest::model::{
    ChunkName, ChunkRef, Cover, Ends, Entry, Garbage, Gone, Lost, Object, RowGroup, Summary, TopicManifest, Wanted,
    groups_of,
};
use crate::manifest::publish::{Publisher, Swept, load, load_all};
use crate::manifest::walk;
use crate::object::bucket::Bucket;
use crate::object::{claim, paths};
use crate::testing::fault::{Fault, Faults, FaultyStore};

const TOPIC: TopicId = TopicId(Uuid::from_u128(5));
const OLD: WriterEpoch = WriterEpoch(1);
const NEW: WriterEpoch = WriterEpoch(2);

/// So small that a few entries make a tree of several levels.
const TINY: Shape = Shape {
    tail_bytes: 200,
    tail_bytes_of_partition: 0,
    chunk_bytes: 400,
    small_bytes: 250,
    small_max: 3,
    level_bytes: 300,
    gone_max: 2,
};

/// Partition, first offset, first offset after it.
type Range = (i32, i64, i64);

fn publisher(bucket: &Bucket, epoch: WriterEpoch, shape: Shape) -> Publisher {
    Publisher {
        bucket: bucket.clone(),
        chunks: Arc::new(Chunks::new(bucket.clone(), 1 << 20)),
        uploads: Arc::default(),
        epoch,
        random: Arc::new(SystemRandom),
        clock: Arc::new(ManualClock::at_us(1)),
        shape,
    }
}

/// A publisher and what it has published last.
struct Bench {
    publisher: Publisher,
    current: Arc<TopicManifest>,
}

impl Bench {
    async fn over(bucket: &Bucket, epoch: WriterEpoch, shape: Shape) -> Self {
        claim::claim(bucket, claim::Claim::for_test(Uuid::nil(), epoch)).await.unwrap();
        let current = Arc::new(load(bucket, epoch, TOPIC).await.unwrap());
        Self { publisher: publisher(bucket, epoch, shape), current }
    }

    async fn new(shape: Shape) -> Self {
        Self::over(&Bucket::for_test(), OLD, shape).await
    }

    async fn of(entries: &[(&str, &[Range])]) -> Self {
        let mut bench = Self::new(TINY).await;
        for (name, covers) in entries {
            bench.add(name, covers).await.unwrap();
        }
        bench
    }

    async fn edit(&mut self, edit: Edit) -> Result<()> {
        self.current = Arc::new(self.publisher.publish(&self.current, edit, Swept::default()).await?);
        Ok(())
    }

    async fn add(&mut self, name: &str, covers: &[Range]) -> Result<()> {
        self.edit(Edit::Add(entry(name, covers))).await
    }

    async fn add_to_end(&mut self, name: &str, end: i64) -> Result<()> {
        let start = self.current.tiered_end(0);
        self.add(name, &[(0, start, end)]).await
    }

    async fn entries(&self) -> Vec<Arc<Entry>> {
        let chunks = Arc::clone(&self.publisher.chunks);
        walk::all(chunks, Arc::clone(&self.current)).try_collect().await.unwrap()
    }

    async fn names(&self) -> Vec<String> {
        let entries = self.entries().await;
        entries.iter().filter_map(|entry| entry.object.as_ref()).map(|object| object.path.clone()).collect()
    }

    /// Names of the entries that may hold what is wanted.
    async fn found(&self, partition: i32, wanted: Wanted) -> Vec<Arc<Entry>> {
        let chunks = Arc::new(Chunks::new(self.publisher.bucket.clone(), 0));
        walk::of_partition(chunks, Arc::clone(&self.current), partition, wanted).try_collect().await.unwrap()
    }
}

fn merge(removed: &[&str], added: Vec<Entry>) -> Edit {
    let removed = removed.iter().map(|name| (*name).to_owned()).collect();
    Edit::Replace { removed, added, history_start_us: None }
}

// --- edits ---

#[tokio::test]
async fn neighbours_are_replaced_where_they_were() {
    let entries: [(&str, &[Range]); 4] =
        [("a", &[(0, 0, 10), (1, 0, 5)]), ("b", &[(0, 10, 20)]), ("c", &[(1, 5, 9)]), ("d", &[(0, 20, 30)])];
    let mut bench = Bench::of(&entries).await;
    bench.edit(merge(&["a", "b"], vec![entry("ab", &[(0, 0, 20), (1, 0, 5)])])).await.unwrap();
    assert_eq!(bench.names().await, ["ab", "c", "d"]);
    let mut bench = Bench::of(&entries).await;
    bench.edit(merge(&["b", "d"], vec![entry("bd", &[(0, 10, 30)])])).await.unwrap();
    assert_eq!(bench.names().await, ["a", "bd", "c"]);
    let mut bench = Bench::of(&entries).await;
    let by_partition = vec![entry("p0", &[(0, 0, 30)]), entry("p1", &[(1, 0, 9)])];
    bench.edit(merge(&["a", "b", "c", "d"], by_partition)).await.unwrap();
    assert_eq!(bench.names().await, ["p0", "p1"]);
    assert_eq!((bench.current.tiered_end(0), bench.current.tiered_end(1)), (30, 9));
    // Each would have to come before the other.
    let mut bench = Bench::of(&[("a", &[(0, 0, 10)]), ("b", &[(0, 10, 20), (1, 0, 10)]), ("c", &[(1, 10, 20)])]).await;
    let error = bench.edit(merge(&["a", "c"], vec![entry("ac", &[(0, 0, 10), (1, 10, 20)])])).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_replacement_covers_the_same_and_adds_no_row() {
    let mut bench = Bench::of(&[("a", &[(0, 0, 10)]), ("b", &[(0, 10, 20)]), ("c", &[(0, 20, 30)])]).await;
    let mut thin = entry("ab", &[(0, 0, 20)]);
    thin.object.as_mut().unwrap().row_groups[0].rows = 7;
    let mut later = entry("ab", &[(0, 0, 20)]);
    later.object.as_mut().unwrap().row_groups[0].max_committed_at_us = 1 << 40;
    for (edit, word) in [
        (merge(&["a", "b"], vec![entry("ab", &[(0, 0, 19)])]), "cover"),
        (merge(&["a", "b"], vec![entry("ab", &[(0, 0, 21)])]), "cover"),
        (merge(&["a"], vec![]), "cover"),
        (merge(&["a"], vec![entry("ab", &[(0, 0, 10), (1, 0, 1)])]), "cover"),
        (merge(&["a", "b"], vec![thin.clone()]), "rows"),
        (merge(&["a", "b"], vec![later]), "times"),
    ] {
        let error = bench.edit(edit).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(matches!(
        bench.edit(merge(&["a", "x"], vec![entry("ax", &[(0, 0, 10)])])).await,
        Err(Error::Conflict { .. })
    ));
    let compacted =
        Edit::Replace { removed: vec!["a".into(), "b".into()], added: vec![thin], history_start_us: Some(77) };
    bench.edit(compacted).await.unwrap();
    assert_eq!((bench.names().await, bench.current.history_start_us), (vec!["ab".to_owned(), "c".to_owned()], 77));
    // What was thinned does not grow again.
    let error = bench.edit(merge(&["ab"], vec![entry("fat", &[(0, 0, 20)])])).await.unwrap_err();
    assert!(error.to_string().contains("rows"), "{error}");
}

#[tokio::test]
async fn entries_without_an_object_go_with_their_neighbours_and_what_is_lost_stays_lost() {
    let lost = Lost { partition: 0, start: 12, end: 15, place: "log".to_owned() };
    let mut bench = Bench::of(&[("a", &[(0, 0, 10)])]).await;
    bench.edit(Edit::Add(Entry { object: None, lost: vec![lost.clone()], ..entry("", &[(0, 10, 20)]) })).await.unwrap();
    bench.add("c", &[(0, 20, 30)]).await.unwrap();
    let mut merged = entry("ac", &[(0, 0, 30)]);
    merged.object.as_mut().unwrap().row_groups[0].rows = 20;
    let error = bench.edit(merge(&["a", "c"], vec![merged.clone()])).await.unwrap_err();
    assert!(error.to_string().contains("lost"), "{error}");
    merged.lost = vec![lost];
    bench.edit(merge(&["a", "c"], vec![merged])).await.unwrap();
    assert_eq!(bench.entries().await.len(), 1);
}

#[tokio::test]
async fn who_looks_for_a_time_is_told_of_what_is_lost_whatever_its_time_was() {
    let lost = Lost { partition: 0, start: 12, end: 15, place: "log".to_owned() };
    let mut bench = Bench::of(&[("a", &[(0, 0, 10)])]).await;
    bench.edit(Edit::Add(Entry { lost: vec![lost], ..entry("b", &[(0, 10, 20)]) })).await.unwrap();
    // Until there are chunks, and chunks of chunks.
    for end in (30..900).step_by(10) {
        bench.add_to_end(&format!("object {end}"), end).await.unwrap();
    }
    assert!(bench.current.chunks.iter().any(|chunk| chunk.level > 0));
    let wanted = Wanted { timestamp_min_ms: Some(850), ..Wanted::offsets(0, 900) };
    let found = bench.found(0, wanted).await;
    assert!(found.iter().any(|entry| entry.lost_within(0, 0, 900).is_some()));
}

#[tokio::test]
async fn trimming_removes_what_lies_wholly_below_and_never_goes_back() {
    let mut bench = Bench::of(&[("a", &[(0, 0, 10), (1, 0, 10)]), ("b", &[(0, 10, 20)]), ("c", &[(0, 20, 30)])]).await;
    bench.edit(Edit::Trim { starts: vec![(0, 25)], history_start_us: None }).await.unwrap();
    // `a` is held by the other partition; between it and `c` is nothing any more, and need not be.
    assert_eq!(bench.names().await, ["a", "c"]);
    assert_eq!((bench.current.start(0), bench.current.start(1), bench.current.tiered_end(0)), (25, 0, 30));
    bench.edit(Edit::Trim { starts: vec![(1, 10), (0, 3)], history_start_us: None }).await.unwrap();
    assert_eq!((bench.names().await, bench.current.start(0)), (vec!["c".to_owned()], 25));
    bench.edit(Edit::Trim { starts: vec![(0, 40), (7, 5)], history_start_us: None }).await.unwrap();
    assert!(bench.names().await.is_empty());
    assert_eq!((bench.current.start(0), bench.current.tiered_end(0), bench.current.tiered_end(7)), (40, 40, 5));
    let overtaken = bench.add("d", &[(0, 30, 50)]).await;
    assert!(matches!(overtaken, Err(Error::Conflict { .. })), "{overtaken:?}");
    bench.add("d", &[(0, 40, 50)]).await.unwrap();
    assert_eq!(bench.names().await, ["d"]);
}

#[tokio::test]
async fn gaps_overlaps_and_unsound_entries_are_refused() {
    let mut bench = Bench::of(&[("a", &[(0, 0, 10)])]).await;
    for (covers, word) in [(&[(0, 11, 12)], "a gap"), (&[(0, 9, 12)], "has changed")] {
        let error = bench.add("b", covers).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let twisted: [fn(&mut RowGroup); 6] = [
        |group| group.rows = 0,
        |group| group.rows = 11,
        |group| group.last_offset = 20,
        |group| group.first_offset = -1,
        |group| group.partition = 1,
        |group| group.min_timestamp_ms = i64::MAX,
    ];
    for twist in twisted {
        let mut twisted = entry("b", &[(0, 10, 20)]);
        twist(&mut twisted.object.as_mut().unwrap().row_groups[0]);
        bench.edit(Edit::Add(twisted)).await.unwrap_err();
    }
    let mut twice = entry("b", &[(0, 10, 20)]);
    let group = twice.object.as_ref().unwrap().row_groups[0];
    twice.object.as_mut().unwrap().row_groups.push(group);
    bench.edit(Edit::Add(twice)).await.unwrap_err();
    for covers in [&[(1, 0, 1), (0, 10, 11)][..], &[], &[(0, 10, 10)]] {
        bench.add("c", covers).await.unwrap_err();
    }
    let lost = |start, end| Lost { partition: 0, start, end, place: String::new() };
    for lost in [vec![lost(9, 11)], vec![lost(12, 12)], vec![lost(12, 15), lost(14, 16)]] {
        bench.edit(Edit::Add(Entry { lost, ..entry("d", &[(0, 10, 20)]) })).await.unwrap_err();
    }
    bench.add("b", &[(0, 10, 20)]).await.unwrap();
}

// --- the model ---

/// What a naive model knows: for each offset of two partitions the object that holds it.
type Naive = [Vec<Option<String>>; 2];

async fn holders(bench: &Bench) -> Naive {
    let mut held = [vec![], vec![]];
    for (partition, held) in (0..).zip(&mut held) {
        let ends = bench.current.partitions.get(&partition).copied().unwrap_or(Ends { start: 0, end: 0 });
        held.resize(usize::try_from(ends.end).unwrap(), None);
        for entry in bench.found(partition, Wanted::offsets(ends.start, ends.end)).await {
            for at in groups_of(&entry, partition, ends.start, ends.end) {
                for offset in at.group.first_offset.max(ends.start)..=at.group.last_offset {
                    let place = &mut held[usize::try_from(offset).unwrap()];
                    assert_eq!(place.replace(at.object().unwrap().path.clone()), None, "{offset} of {partition}");
                }
            }
        }
    }
    held
}

#[derive(Clone, Debug)]
enum Step {
    Add(i64, i64),
    Merge(usize, usize),
    Trim(i32, i64),
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0i64..6, 0i64..6).prop_map(|(one, two)| Step::Add(one, two)),
        3 => (0usize..30, 1usize..6).prop_map(|(from, count)| Step::Merge(from, count)),
        1 => (0i32..2, 0i64..60).prop_map(|(partition, start)| Step::Trim(partition, start)),
        1 => Just(Step::Reload),
    ]
}

/// One object for what these hold, with as many rows; `None` if there is nothing to merge, or a hole between them.
fn merged(name: &str, gone: &[Arc<Entry>]) -> Option<(Vec<String>, Edit)> {
    let mut hulls: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for cover in gone.iter().flat_map(|entry| &entry.covers) {
        let hull = hulls.entry(cover.partition).or_insert((cover.start, cover.start));
        if hull.1 != cover.start {
            return None;
        }
        hull.1 = cover.end;
    }
    let removed: Vec<_> =
        gone.iter().filter_map(|entry| entry.object.as_ref()).map(|object| object.path.clone()).collect();
    let covers: Vec<_> = hulls.into_iter().map(|(partition, (start, end))| (partition, start, end)).collect();
    let edit = Edit::Replace { removed: removed.clone(), added: vec![entry(name, &covers)], history_start_us: None };
    (!removed.is_empty()).then_some((removed, edit))
}

async fn run_step(bench: &mut Bench, naive: &mut Naive, starts: &mut [i64; 2], name: String, step: Step) {
    match step {
        Step::Add(one, two) => {
            let mut covers = Vec::new();
            for (partition, length) in [(0, one), (1, two)] {
                let start = bench.current.tiered_end(partition);
                naive[usize::try_from(partition).unwrap()].extend((0..length).map(|_| Some(name.clone())));
                covers.extend((length > 0).then_some((partition, start, start + length)));
            }
            if !covers.is_empty() {
                bench.add(&name, &covers).await.unwrap();
            }
        }
        Step::Merge(from, count) => {
            let entries = bench.entries().await;
            let from = from.min(entries.len());
            let gone = &entries[from..entries.len().min(from + count)];
            let Some((removed, edit)) = merged(&name, gone) else { return };
            for held in naive.iter_mut().flatten() {
                if held.as_ref().is_some_and(|held| removed.contains(held)) {
                    *held = Some(name.clone());
                }
            }
            bench.edit(edit).await.unwrap();
        }
        Step::Trim(partition, start) => {
            let index = usize::try_from(partition).unwrap();
            starts[index] = starts[index].max(start);
            let length = naive[index].len().max(usize::try_from(start).unwrap());
            naive[index].resize(length, None);
            bench.edit(Edit::Trim { starts: vec![(partition, start)], history_start_us: None }).await.unwrap();
        }
        Step::Reload => {
            let (publisher, current) = (&mut bench.publisher, &mut bench.current);
            publisher.chunks = Arc::new(Chunks::new(publisher.bucket.clone(), 0));
            *current = Arc::new(load(&publisher.bucket, publisher.epoch, TOPIC).await.unwrap());
        }
    }
    for (held, start) in naive.iter_mut().zip(starts) {
        let below = usize::try_from(*start).unwrap().min(held.len());
        held[..below].fill(None);
    }
}

/// Every name in the bucket is live, garbage of some version, or an old root.
async fn nothing_is_forgotten(bench: &Bench) {
    let mut known: Vec<ChunkName> = Vec::new();
    let mut waiting: Vec<Arc<ChunkRef>> = bench.current.chunks.clone();
    while let Some(chunk) = waiting.pop() {
        known.push(chunk.name);
        if let Content::Chunks(below) = &*bench.publisher.chunks.read(&bench.current, &chunk).await.unwrap() {
            waiting.extend(below.iter().map(Arc::clone));
        }
    }
    let mut gone: Vec<Gone> = bench.current.garbage.iter().flat_map(|garbage| garbage.gone.clone()).collect();
    while let Some(one) = gone.pop() {
        let (Gone::Chunk(name) | Gone::Below(name) | Gone::List(name)) = one else { continue };
        assert!(!known.contains(&name), "{name:?} is live and garbage");
        known.push(name);
        match (&one, bench.publisher.chunks.find(TOPIC, name).await.unwrap()) {
            (Gone::Below(_), Some(Content::Chunks(below))) => {
                gone.extend(below.iter().map(|chunk| Gone::Below(chunk.name)));
            }
            (Gone::List(_), Some(Content::Gone(listed))) => gone.extend(listed),
            _ => {}
        }
    }
    let mut known: Vec<_> = known.iter().map(|name| paths::chunk(TOPIC, name.epoch, name.id)).collect();
    known.sort();
    assert_eq!(bench.publisher.bucket.list(&paths::chunks(TOPIC), None).await.unwrap(), known);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever edits come in whatever order and however the manifest is cut into chunks, every offset from the start on
    /// is held by exactly the object that a map of offsets says.
    #[test]
    fn edits_do_what_they_do_to_a_map_of_offsets(
        steps in prop::collection::vec(step(), 0..80),
        (tail, chunk, level, small_max) in (0usize..600, 1usize..800, 1usize..600, 2usize..5),
    ) {
        let shape = Shape {
            tail_bytes: tail, tail_bytes_of_partition: 0, chunk_bytes: chunk, small_bytes: 300, small_max,
            level_bytes: level, gone_max: 3,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new(shape).await;
            let (mut naive, mut starts): (Naive, _) = ([vec![], vec![]], [0i64; 2]);
            for (number, step) in steps.into_iter().enumerate() {
                run_step(&mut bench, &mut naive, &mut starts, number.to_string(), step).await;
                assert_eq!(holders(&bench).await, naive);
            }
            nothing_is_forgotten(&bench).await;
        });
    }
}

#[tokio::test]
async fn a_publish_writes_little_whatever_the_history() {
    let shape = Shape { tail_bytes: 2 << 10, chunk_bytes: 16 << 10, small_bytes: 4 << 10, ..Shape::default() };
    let shape = Shape { level_bytes: 2 << 10, ..shape };
    let mut bench = Bench::new(shape).await;
    let name = "topics/00000000-0000-0000-0000-000000000005/data/00000000000000000001-some-uuid.parquet";
    let mut largest = 0;
    for number in 0..3000 {
        bench.add_to_end(&format!("{name}{number}"), (number + 1) * 10).await.unwrap();
        let path = paths::root(TOPIC, OLD, bench.current.version);
        largest = largest.max(bench.publisher.bucket.get(&path, 1 << 20).await.unwrap().unwrap().len());
        // Nothing old is needed by this test.
        bench.current = Arc::new(TopicManifest { garbage: vec![], ..TopicManifest::clone(&bench.current) });
    }
    assert!(largest < 12 << 10, "a root of {largest} bytes");
    assert!(bench.current.chunks.iter().any(|chunk| chunk.level > 0), "{:?}", bench.current.chunks);
    // Planning in the middle reads the way down to one chunk.
    let found = bench.found(0, Wanted::offsets(15_000, 15_001)).await;
    assert_eq!(found.len(), 1);
    let before = bench.current.chunks.iter().map(|chunk| chunk.name).collect::<Vec<_>>();
    let path = |number: i64| format!("{name}{number}");
    let added = vec![entry("merged", &[(0, 15_000, 15_020)])];
    let edit = Edit::Replace { removed: vec![path(1500), path(1501)], added, history_start_us: None };
    bench.edit(edit).await.unwrap();
    let kept = bench.current.chunks.iter().filter(|chunk| before.contains(&chunk.name)).count();
    assert!(kept + 8 > before.len(), "{kept} of {} chunks of the root are still there", before.len());
    assert_eq!(bench.entries().await.len(), 2999);
}

// --- bytes ---

fn row_group() -> impl Strategy<Value = RowGroup> {
    any::<(i32, i64, i64, u32, i64, i64, i64, i64)>().prop_map(|numbers| RowGroup {
        partition: numbers.0,
        first_offset: numbers.1,
        last_offset: numbers.2,
        rows: numbers.3,
        min_timestamp_ms: numbers.4,
        max_timestamp_ms: numbers.5,
        min_committed_at_us: numbers.6,
        max_committed_at_us: numbers.7,
    })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let cover = any::<(i32, i64, i64)>().prop_map(|(partition, start, end)| Cover { partition, start, end });
    let lost =
        any::<(i32, i64, i64)>().prop_map(|(partition, start, end)| Lost { partition, start, end, place: "x".into() });
    let numbers = any::<(u32, u32, u32, Vec<u32>)>();
    let object = (".*", numbers, prop::collection::vec(row_group(), 0..5)).prop_map(
        |(path, (bytes, footer_bytes, footer_crc, chunk_crcs), row_groups)| Object {
            path,
            bytes: bytes.into(),
            footer_bytes,
            footer_crc,
            chunk_crcs,
            row_groups,
        },
    );
    (prop::collection::vec(cover, 0..5), prop::option::of(object), prop::collection::vec(lost, 0..2))
        .prop_map(|(covers, object, lost)| Entry { covers, object, lost })
}

fn chunk_of(entries: &[Entry]) -> ChunkRef {
    let name = ChunkName { epoch: OLD, id: Uuid::from_u128(9) };
    ChunkRef { name, level: 0, stored_bytes: 100, summary: Summary::of_entries(entries) }
}

fn root_of(tail: Vec<Entry>, version: u64, attempt: u128) -> Root {
    let name = ChunkName { epoch: OLD, id: Uuid::from_u128(3) };
    let gone = vec![Gone::Object("x".into()), Gone::Chunk(name), Gone::Below(name), Gone::List(name)];
    Root {
        topic: TOPIC,
        version,
        epoch: NEW,
        attempt: Uuid::from_u128(attempt),
        history_start_us: 7,
        partitions: vec![(1, Ends { start: 2, end: 9 })],
        chunks: vec![chunk_of(&tail)],
        tail,
        garbage: vec![Garbage { version: 3, at_us: 4, gone }],
        orphans_checked: OLD,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn roots_and_chunks_come_back_as_written(
        entries in prop::collection::vec(any_entry(), 0..6), version: u64, attempt: u128,
    ) {
        let root = root_of(entries.clone(), version, attempt);
        let bytes = codec::encode_root(&root).unwrap();
        prop_assert_eq!(&codec::decode_root(TOPIC, &bytes, "root").unwrap(), &root);
        codec::decode_root(TopicId(Uuid::nil()), &bytes, "root").unwrap_err();
        let reference = chunk_of(&entries);
        let content = Content::Entries(entries.into_iter().map(Arc::new).collect());
        let bytes = codec::encode_chunk(TOPIC, &content).unwrap();
        let back = codec::decode_chunk(TOPIC, &bytes, "chunk").unwrap();
        prop_assert_eq!(&back, &content);
        codec::check_chunk(&reference, &back, "chunk").unwrap();
        let mut wrong = reference.clone();
        wrong.summary.rows += 1;
        codec::check_chunk(&wrong, &back, "chunk").unwrap_err();
        codec::check_chunk(&ChunkRef { level: 1, ..reference.clone() }, &back, "chunk").unwrap_err();
        for content in [Content::Chunks(vec![Arc::new(reference)]), Content::Gone(root.garbage[0].gone.clone())] {
            let bytes = codec::encode_chunk(TOPIC, &content).unwrap();
            prop_assert_eq!(codec::decode_chunk(TOPIC, &bytes, "chunk").unwrap(), content);
        }
    }
}

#[tokio::test]
async fn every_flipped_byte_of_a_root_or_a_chunk_is_found_and_named() {
    let mut bench = Bench::new(Shape { gone_max: 100, ..TINY }).await;
    for number in 0..12 {
        bench.add_to_end(&format!("object {number}"), number * 10 + 10).await.unwrap();
    }
    let root = paths::root(TOPIC, OLD, bench.current.version);
    let mut places = bench.publisher.bucket.list(&paths::chunks(TOPIC), None).await.unwrap();
    let garbage: Vec<_> = bench.current.garbage.iter().flat_map(|garbage| garbage.gone.clone()).collect();
    let swept = |path: &object_store::path::Path| {
        let is = |gone: &Gone| match gone {
            Gone::Chunk(name) | Gone::Below(name) | Gone::List(name) => {
                *path == paths::chunk(TOPIC, name.epoch, name.id)
            }
            Gone::Object(_) => false,
        };
        garbage.iter().any(is)
    };
    places.retain(|path| !swept(path));
    assert!(places.len() > 1, "{places:?}");
    places.push(root);
    for place in places {
        let whole = bench.publisher.bucket.get(&place, 1 << 20).await.unwrap().unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 1 << (at % 8);
            bench.publisher.bucket.delete(&place).await.unwrap();
            bench.publisher.bucket.put_new(&place, PutPayload::from(bytes)).await.unwrap();
            let read = async {
                let manifest = Arc::new(load(&bench.publisher.bucket, OLD, TOPIC).await?);
                let chunks = Arc::new(Chunks::new(bench.publisher.bucket.clone(), 0));
                walk::all(chunks, manifest).try_collect::<Vec<_>>().await
            };
            let error = read.await.unwrap_err();
            let named = matches!(&error, Error::Corrupt { place: named, .. } if named.as_str() == place.as_ref());
            assert!(named, "byte {at} of {place}: {error}");
        }
        bench.publisher.bucket.delete(&place).await.unwrap();
        bench.publisher.bucket.put_new(&place, PutPayload::from_bytes(whole)).await.unwrap();
    }
}

#[tokio::test]
async fn a_chunk_that_is_another_one_or_gone_is_named() {
    let mut bench = Bench::of(&[("a", &[(0, 0, 10)]), ("b", &[(0, 10, 20)]), ("c", &[(0, 20, 30)])]).await;
    for number in 3..9 {
        bench.add_to_end(&number.to_string(), number * 10 + 10).await.unwrap();
    }
    let chunk = bench.current.chunks.first().unwrap();
    let path = paths::chunk(TOPIC, chunk.name.epoch, chunk.name.id);
    let read = async || {
        let chunks = Arc::new(Chunks::new(bench.publisher.bucket.clone(), 0));
        let read = walk::all(chunks, Arc::clone(&bench.current)).try_collect::<Vec<_>>().await;
        let error = read.unwrap_err();
        assert!(matches!(&error, Error::Corrupt { place, .. } if place.as_str() == path.as_ref()), "{error}");
    };
    bench.publisher.bucket.delete(&path).await.unwrap();
    read().await;
    let other = Content::Entries(vec![Arc::new(entry("other", &[(0, 0, 10)]))]);
    let bytes = codec::encode_chunk(TOPIC, &other).unwrap();
    bench.publisher.bucket.put_new(&path, PutPayload::from(bytes)).await.unwrap();
    read().await;
}

// --- publishing ---

fn faulty() -> (Bucket, Faults) {
    let faults = Faults::default();
    (Bucket::for_test_over(Arc::new(FaultyStore::new(InMemory::new(), faults.clone()))), faults)
}

#[tokio::test]
async fn what_was_published_is_what_is_loaded() {
    let bucket = Bucket::for_test();
    let mut bench = Bench::over(&bucket, OLD, TINY).await;
    assert_eq!((bench.current.version, bench.entries().await.len()), (0, 0));
    for number in 0..60 {
        bench.add_to_end(&number.to_string(), number * 10 + 10).await.unwrap();
    }
    let expected = bench.entries().await;
    let mut bench = Bench::over(&bucket, NEW, TINY).await;
    assert_eq!(bench.entries().await, expected);
    assert_eq!((bench.current.version, bench.current.tiered_end(0)), (60, 600));
    bench.add_to_end("next", 601).await.unwrap();
    assert_eq!((bench.current.version, bench.current.epoch), (61, NEW));
}

#[tokio::test]
async fn of_two_publishers_that_race_the_newer_wins_and_the_older_is_fenced() {
    let bucket = Bucket::for_test();
    let mut old = Bench::over(&bucket, OLD, TINY).await;
    old.add_to_end("base", 10).await.unwrap();
    let mut new = Bench::over(&bucket, NEW, TINY).await;
    let (older, newer) = tokio::join!(old.add_to_end("old", 20), new.add_to_end("new", 15));
    assert!(matches!(older, Err(Error::Fenced { .. })), "{older:?}");
    newer.unwrap();
    assert_eq!(new.names().await, ["base", "new"]);
    let again = old.add_to_end("old", 20).await;
    assert!(matches!(again, Err(Error::Fenced { .. })), "{again:?}");
    assert!(matches!(load(&bucket, OLD, TOPIC).await, Err(Error::Fenced { .. })));
    new.current = Arc::new(load(&bucket, NEW, TOPIC).await.unwrap());
    assert_eq!(new.names().await, ["base", "new"]);
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_counts() {
    let (bucket, faults) = faulty();
    let mut bench = Bench::over(&bucket, OLD, TINY).await;
    for (end, fault) in (1..).zip([Fault::LoseAnswer, Fault::Refuse, Fault::Stall]) {
        faults.lay("/manifest/", fault);
        bench.add_to_end("x", end * 10).await.unwrap();
        assert_eq!(bench.current.version, u64::try_from(end).unwrap());
        assert!(faults.is_empty());
        assert_eq!(load(&bucket, OLD, TOPIC).await.unwrap().version, bench.current.version);
    }
}

#[tokio::test]
async fn attempts_that_were_given_up_but_applied_are_superseded_however_many() {
    let (bucket, faults) = faulty();
    let mut bench = Bench::over(&bucket, OLD, TINY).await;
    for number in 0..20 {
        faults.lay("/manifest/", Fault::LoseAnswer);
        // The put again, the read back: neither is answered within the budget.
        for _ in 0..8 {
            faults.lay("/manifest/", Fault::Refuse);
        }
        let lost = bench.add_to_end(&format!("lost {number}"), 10).await;
        assert!(matches!(lost, Err(Error::ObjectStore { .. })), "{lost:?}");
        while !faults.is_empty() {
            let _ = bucket.get(&paths::root(TOPIC, OLD, 1), 1 << 20).await;
        }
    }
    let loaded =
        Bench { publisher: publisher(&bucket, OLD, TINY), current: Arc::new(load(&bucket, OLD, TOPIC).await.unwrap()) };
    assert!(loaded.names().await[0].starts_with("lost"));
    bench.add_to_end("kept", 20).await.unwrap();
    assert_eq!(bench.names().await, ["kept"]);
    bench.current = Arc::new(load(&bucket, OLD, TOPIC).await.unwrap());
    assert_eq!(bench.names().await, ["kept"]);
}

#[tokio::test]
async fn what_an_older_epoch_published_after_the_claim_never_counts_again() {
    let bucket = Bucket::for_test();
    let mut old = Bench::over(&bucket, OLD, TINY).await;
    old.add_to_end("base", 10).await.unwrap();
    let mut new = Bench::over(&bucket, NEW, TINY).await;
    let late = old.add_to_end("late", 30).await;
    assert!(matches!(late, Err(Error::Fenced { .. })), "{late:?}");
    new.add_to_end("new", 20).await.unwrap();
    for number in 0..5 {
        let late = old.add_to_end("later", 40 + number).await;
        assert!(matches!(late, Err(Error::Fenced { .. })), "{late:?}");
    }
    new.current = Arc::new(load(&bucket, NEW, TOPIC).await.unwrap());
    assert_eq!(new.names().await, ["base", "new"]);
}

// --- many objects ---

/// Objects of one chunk and chunks of one above, as they come about.
const CHUNK_OBJECTS: i64 = 1_000;
/// Objects that a root holds itself, as many as its tail takes.
const TAIL_OBJECTS: i64 = 50;
const LEVEL_CHUNKS: usize = 300;

fn put(folder: &std::path::Path, path: &object_store::path::Path, bytes: &[u8]) {
    let file = folder.join(path.as_ref());
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, bytes).unwrap();
}

fn put_chunk(folder: &std::path::Path, topic: TopicId, content: &Content) -> ChunkRef {
    let name = ChunkName { epoch: OLD, id: SystemRandom.uuid() };
    let bytes = codec::encode_chunk(topic, content).unwrap();
    put(folder, &paths::chunk(topic, name.epoch, name.id), &bytes);
    ChunkRef { name, level: content.level(), stored_bytes: bytes.len() as u64, summary: content.summary() }
}

/// Writes the manifest of a topic with so many objects, ten rows each; gives the size of its root.
fn put_manifest(folder: &std::path::Path, topic: TopicId, objects: i64) -> usize {
    let object = |number: i64| {
        let path = paths::data(topic, OLD, SystemRandom.uuid());
        entry(path.as_ref(), &[(0, number * 10, number * 10 + 10)])
    };
    let mut chunks: Vec<Arc<ChunkRef>> = Vec::new();
    let in_chunks = (objects - TAIL_OBJECTS).max(0);
    for first in (0..in_chunks).step_by(usize::try_from(CHUNK_OBJECTS).unwrap()) {
        let entries = (first..in_chunks.min(first + CHUNK_OBJECTS)).map(|number| Arc::new(object(number))).collect();
        chunks.push(Arc::new(put_chunk(folder, topic, &Content::Entries(entries))));
    }
    let higher = chunks.chunks(LEVEL_CHUNKS).filter(|part| part.len() == LEVEL_CHUNKS);
    let higher: Vec<_> = higher.map(|part| put_chunk(folder, topic, &Content::Chunks(part.to_vec()))).collect();
    let lower = chunks.split_off(higher.len() * LEVEL_CHUNKS);
    let root = Root {
        topic,
        version: 1,
        epoch: OLD,
        attempt: Uuid::nil(),
        history_start_us: i64::MIN,
        partitions: vec![(0, Ends { start: 0, end: objects * 10 })],
        chunks: higher.into_iter().chain(lower.iter().map(|chunk| ChunkRef::clone(chunk))).collect(),
        tail: (in_chunks..objects).map(object).collect(),
        garbage: vec![],
        orphans_checked: WriterEpoch(0),
    };
    let bytes = codec::encode_root(&root).unwrap();
    put(folder, &paths::root(topic, OLD, 1), &bytes);
    bytes.len()
}

/// Loads the manifests of topics with so many objects each from a folder, as a node that starts does, and reads one of
/// their last offsets; gives the bytes of all roots and how long it took to load them.
async fn load_many(topics: u128, objects: i64) -> (usize, std::time::Duration) {
    let home = tempfile::tempdir().unwrap();
    let topics: Vec<_> = (0..topics).map(|number| TopicId(Uuid::from_u128(number))).collect();
    let root_bytes = topics.iter().map(|topic| put_manifest(home.path(), *topic, objects)).sum();
    let (store, _) = crate::object::local::open_folder(home.path()).unwrap();
    let bucket = Bucket::for_test_over(store);
    let before = std::time::Instant::now();
    let manifests = load_all(&bucket, OLD, &topics).await.into_iter().collect::<Result<Vec<_>>>().unwrap();
    let took = before.elapsed();
    let chunks = Arc::new(Chunks::new(bucket, 0));
    for manifest in manifests.into_iter().map(Arc::new) {
        assert_eq!(manifest.tiered_end(0), objects * 10);
        let last = Wanted::offsets(objects * 10 - 1, objects * 10);
        let found: Vec<_> = walk::of_partition(Arc::clone(&chunks), manifest, 0, last).try_collect().await.unwrap();
        assert_eq!(found.len(), 1);
    }
    (root_bytes, took)
}

#[tokio::test]
async fn a_start_reads_little_however_many_objects_there_are() {
    for (topics, objects) in [(1, 50_500), (25, 2_010)] {
        let (root_bytes, took) = load_many(topics, objects).await;
        println!("{topics} topics of {objects} objects: {root_bytes} bytes of roots, loaded in {took:?}");
        // Summaries of chunks and the newest entries, not the entries of chunks.
        assert!(root_bytes < 200 << 10, "{root_bytes} bytes of roots");
    }
}

/// A million objects by `AQUIFER_SOAK`: writing them is what takes time.
#[tokio::test]
async fn manifests_that_name_many_objects_are_loaded_within_two_seconds() {
    let soak = std::env::var_os("AQUIFER_SOAK").is_some();
    let (objects, topics) = if soak { (1_000_000, 1_000) } else { (20_000, 20) };
    for (topics, objects) in [(1, objects), (topics, 1_000)] {
        let (root_bytes, took) = load_many(topics, objects).await;
        println!("{topics} topics of {objects} objects: {root_bytes} bytes of roots, loaded in {took:?}");
        assert!(took < std::time::Duration::from_secs(2), "{took:?}");
    }
}
