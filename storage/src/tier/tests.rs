//! Tiering over a store that fails, and over processes that die between its steps: no offset is lost or shown twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use crate::clock::{SystemClock, SystemRandom};
use crate::commit::{Append, Commit, Expect, PositionChange, TopicChange, Trim};
use crate::error::Error;
use crate::ids::{TopicId, TopicPartition};
use crate::log::{Backlog, Node};
use crate::manifest::draft::Shape;
use crate::manifest::edit::Edit;
use crate::manifest::invariant;
use crate::manifest::model::tests::entry;
use crate::manifest::model::{Entry, TopicManifest, groups_of};
use crate::object::bucket::Bucket;
use crate::object::paths;
use crate::record::batch::{BatchBuilder, CheckedBatch, Compression, TimestampType};
use crate::record::columns::RecordColumn;
use crate::record::format::{ColumnRole, ColumnType, DeclaredColumn, Format, RecordFormat};
use crate::scan::{self, Pinned};
use crate::settings::StorageSettings;
use crate::storage::OpenOptions;
use crate::testing::fault::{Fault, Faults, FaultyStore};
use crate::tier::cleaned::{Cleaned, Horizon, stored_name};
use crate::tier::cold::Cold;
use crate::tier::declared::{DeclaredColumns, declaration_of};
use crate::tier::retain::Retention;
use crate::tier::rewrite::NoneGoes;
use crate::tier::seal::SealPolicy;
use crate::tier::upkeep::{Effort, Upkeep};
use crate::tier::{Tier, compact};
use crate::topic_config::{CleanupPolicy, TopicConfig};
use crate::view::{FetchRequest, Health, Isolation, ScanRequest, VacuumReport};
use crate::worker;

/// A node over a faulty bucket that survives restarts.
struct Bench {
    home: tempfile::TempDir,
    store: Arc<FaultyStore<InMemory>>,
    faults: Faults,
    topic: TopicId,
}

/// More failures than any call is repeated.
const EVERY_ATTEMPT: usize = 8;

impl Bench {
    fn new() -> Self {
        let faults = Faults::default();
        let store = Arc::new(FaultyStore::new(InMemory::new(), faults.clone()));
        let topic = TopicId(uuid::Uuid::from_u128(0xabc));
        Self { home: tempfile::tempdir().unwrap(), store, faults, topic }
    }

    fn bucket(&self) -> Bucket {
        let store: Arc<dyn object_store::ObjectStore> = Arc::<FaultyStore<InMemory>>::clone(&self.store);
        Bucket::for_test_over(store)
    }

    async fn open(&self) -> (Arc<Node>, Arc<Tier>) {
        self.open_over(self.bucket(), StorageSettings::default()).await
    }

    async fn open_over(&self, bucket: Bucket, settings: StorageSettings) -> (Arc<Node>, Arc<Tier>) {
        let options = OpenOptions {
            data_dir: self.home.path().to_path_buf(),
            object_store_url: None,
            object_store: Default::default(),
            settings,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        };
        let node = Node::open(&options).await.unwrap();
        let tier = Tier::over(Arc::clone(&node), bucket).await.unwrap();
        (node, tier)
    }

    fn partition(&self) -> TopicPartition {
        TopicPartition { topic: self.topic, partition: 0 }
    }

    async fn produce(&self, node: &Node, count: usize) {
        self.produce_at(node, count, 1).await;
    }

    async fn produce_at(&self, node: &Node, count: usize, timestamp_ms: i64) {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        for _ in 0..count {
            builder.push(timestamp_ms, None, Some(b"value"), &[]);
        }
        let batch = builder.build(Compression::None).unwrap();
        let topics = match node.topic_by_id(self.topic) {
            Some(_) => vec![],
            None => vec![TopicChange::Create {
                id: self.topic,
                name: "clicks".to_owned(),
                partitions: 1,
                config: TopicConfig::default(),
            }],
        };
        let appends = vec![Append { topic: self.topic, partition: 0, batch }];
        node.commit(Commit { topics, appends, ..Commit::default() }).await.unwrap();
    }

    async fn offsets(&self, node: &Arc<Node>, tier: &Arc<Tier>) -> Vec<i64> {
        let pinned = Arc::new(Pinned::pin(node, tier, &[self.topic], &HashMap::new()).unwrap());
        let request = ScanRequest::all(vec![RecordColumn::Offset]);
        let batches: Vec<_> = pinned.scan(self.partition(), &request).unwrap().try_collect().await.unwrap();
        batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    async fn data_objects(&self) -> usize {
        self.bucket().list(&Path::from(format!("topics/{}/data", self.topic)), None).await.unwrap().len()
    }

    fn lay(&self, words: &str, faults: &[Fault]) {
        for fault in faults {
            self.faults.lay(words, *fault);
        }
    }

    /// Uses up what is left of the faults, so that the store is well again.
    async fn heal(&self) {
        while !self.faults.is_empty() {
            for words in ["manifest", "data"] {
                let path = Path::from(format!("topics/{words}/manifest/data"));
                let _ = self.bucket().get(&path, 1).await;
            }
        }
    }
}

async fn stop(node: Arc<Node>, tier: Arc<Tier>) {
    tier.close().await;
    node.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_the_store_is_told_and_the_next_checkpoint_makes_up_for_it() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    bench.produce(&node, 100).await;
    for fault in [Fault::Refuse, Fault::Stall] {
        bench.lay("/data/", &[fault; EVERY_ATTEMPT]);
        let error = tier.checkpoint().await.unwrap_err();
        assert!(matches!(error, Error::ObjectStore { .. }), "{error}");
        assert_eq!(node.watermarks(bench.partition()).unwrap().tiered_end_offset, 0);
        assert_eq!(bench.offsets(&node, &tier).await, (0..100).collect::<Vec<_>>());
        bench.heal().await;
    }
    bench.lay("/data/", &[Fault::LoseAnswer]);
    bench.lay("/manifest/", &[Fault::Stall, Fault::LoseAnswer]);
    let report = tier.checkpoint().await.unwrap();
    assert_eq!((report.objects, report.rows), (1, 100));
    assert_eq!(bench.offsets(&node, &tier).await, (0..100).collect::<Vec<_>>());
    stop(node, tier).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_without_a_manifest_is_nobodys_and_its_rows_are_tiered_again() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    bench.produce(&node, 100).await;
    bench.lay("/manifest/", &[Fault::Refuse; EVERY_ATTEMPT]);
    tier.checkpoint().await.unwrap_err();
    assert_eq!((bench.data_objects().await, tier.objects().await.unwrap().len()), (1, 0));
    stop(node, tier).await;
    bench.heal().await;

    let (node, tier) = bench.open().await;
    assert_eq!(bench.offsets(&node, &tier).await, (0..100).collect::<Vec<_>>());
    assert_eq!(tier.checkpoint().await.unwrap().rows, 100);
    assert_eq!((bench.data_objects().await, tier.objects().await.unwrap().len()), (2, 1));
    assert_eq!(bench.offsets(&node, &tier).await, (0..100).collect::<Vec<_>>());
    stop(node, tier).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_was_published_before_the_process_died_counts_at_the_next_start() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    bench.produce(&node, 100).await;
    // The put is applied, but neither its answer nor the read back arrives: the process learns nothing.
    bench.lay("/manifest/", &[Fault::LoseAnswer]);
    bench.lay("/manifest/", &[Fault::Refuse; EVERY_ATTEMPT]);
    tier.checkpoint().await.unwrap_err();
    assert_eq!(node.watermarks(bench.partition()).unwrap().tiered_end_offset, 0);
    stop(node, tier).await;
    bench.heal().await;

    let (node, tier) = bench.open().await;
    assert_eq!(node.watermarks(bench.partition()).unwrap().tiered_end_offset, 100);
    bench.produce(&node, 50).await;
    assert_eq!(bench.offsets(&node, &tier).await, (0..150).collect::<Vec<_>>());
    assert_eq!(tier.checkpoint().await.unwrap().rows, 50);
    assert_eq!(bench.offsets(&node, &tier).await, (0..150).collect::<Vec<_>>());
    stop(node, tier).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_is_cut_off_between_its_put_and_its_publish_changes_nothing() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    for _ in 0..3 {
        bench.produce(&node, 10).await;
        tier.checkpoint().await.unwrap();
    }
    let all: Vec<i64> = (0..30).collect();
    let pinned = Arc::new(Pinned::pin(&node, &tier, &[bench.topic], &HashMap::new()).unwrap());
    bench.lay("/manifest/", &[Fault::Refuse; EVERY_ATTEMPT]);
    let error = tier.vacuum(None).await.unwrap_err();
    assert!(matches!(error, Error::ObjectStore { .. }), "{error}");
    assert_eq!((bench.data_objects().await, tier.objects().await.unwrap().len()), (4, 3));
    assert_eq!(bench.offsets(&node, &tier).await, all);
    bench.heal().await;
    // This time the manifest is published, but nobody learns it; and the process ends there.
    bench.lay("/manifest/", &[Fault::LoseAnswer]);
    bench.lay("/manifest/", &[Fault::Refuse; EVERY_ATTEMPT]);
    tier.vacuum(None).await.unwrap_err();
    bench.heal().await;
    assert_eq!(bench.offsets(&node, &tier).await, all, "what is not known to count is not read");
    drop(pinned);
    stop(node, tier).await;

    let (node, tier) = bench.open().await;
    assert_eq!(tier.objects().await.unwrap().len(), 1);
    assert_eq!(bench.offsets(&node, &tier).await, all);
    bench.produce(&node, 10).await;
    tier.checkpoint().await.unwrap();
    assert_eq!(tier.vacuum(None).await.unwrap().objects_merged, 2);
    assert_eq!(bench.offsets(&node, &tier).await, (0..40).collect::<Vec<_>>());
    stop(node, tier).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_publish_of_unknown_outcome_the_next_merge_goes_on_from_what_counts() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    for _ in 0..3 {
        bench.produce(&node, 10).await;
        tier.checkpoint().await.unwrap();
    }
    bench.lay("/manifest/", &[Fault::LoseAnswer]);
    bench.lay("/manifest/", &[Fault::Refuse; EVERY_ATTEMPT]);
    tier.vacuum(None).await.unwrap_err();
    bench.heal().await;
    bench.produce(&node, 10).await;
    tier.checkpoint().await.unwrap();
    tier.vacuum(None).await.unwrap();
    assert_eq!(bench.offsets(&node, &tier).await, (0..40).collect::<Vec<_>>());
    stop(node, tier).await;
    let (node, tier) = bench.open().await;
    assert_eq!(tier.objects().await.unwrap().len(), 1);
    assert_eq!(bench.offsets(&node, &tier).await, (0..40).collect::<Vec<_>>());
    stop(node, tier).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_writer_makes_the_older_read_only_for_good() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    bench.produce(&node, 10).await;
    let newer = crate::ids::WriterEpoch(node.writer_epoch().0 + 1);
    let claim = crate::object::claim::Claim::for_test(node.cluster_id(), newer);
    crate::object::claim::claim(&bench.bucket(), claim).await.unwrap();
    for _ in 0..2 {
        let error = tier.checkpoint().await.unwrap_err();
        assert!(matches!(error, Error::Fenced { .. }), "{error}");
    }
    assert!(matches!(node.health(), Health::ReadOnly(_)), "{:?}", node.health());
    assert_eq!(bench.offsets(&node, &tier).await, (0..10).collect::<Vec<_>>());
    tier.close().await;
    assert!(matches!(node.close().await, Err(Error::ReadOnly { .. })));
}

/// A topic of which the log has some hundred kilobytes.
async fn busy_topic(node: &Node) -> TopicId {
    let id = TopicId(uuid::Uuid::from_u128(0xdef));
    let create = TopicChange::Create { id, name: "busy".to_owned(), partitions: 1, config: TopicConfig::default() };
    node.commit(Commit { topics: vec![create], ..Commit::default() }).await.unwrap();
    for _ in 0..60 {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        builder.push(1, None, Some(&[7; 16 << 10]), &[]);
        let append = Append { topic: id, partition: 0, batch: builder.build(Compression::None).unwrap() };
        node.commit(Commit { appends: vec![append], ..Commit::default() }).await.unwrap();
    }
    id
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let holds = async {
        while !holds() {
            crate::worker::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(crate::worker::timeout(Duration::from_secs(20), holds).await.is_some(), "never happened: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_never_answers_does_not_keep_the_log_from_getting_smaller() {
    let bench = Bench::new();
    let settings = StorageSettings {
        wal_segment_bytes: 64 << 10,
        wal_reserve_bytes: 16 << 10,
        topic_local_retention_ms: 0,
        object_store_attempt_time_max_ms: 3_600_000,
        object_store_retry_time_max_ms: 3_600_000,
        ..StorageSettings::default()
    };
    let store: Arc<dyn object_store::ObjectStore> = Arc::<FaultyStore<InMemory>>::clone(&bench.store);
    let random: Arc<dyn crate::clock::Random> = Arc::new(SystemRandom);
    let bucket = crate::object::open::over(store, &settings, &random);
    let (node, tier) = bench.open_over(bucket, settings).await;
    bench.produce(&node, 100).await;
    let busy = busy_topic(&node).await;
    bench.lay("/data/", &[Fault::Stall]);
    let of_task = Arc::clone(&tier);
    let asked = crate::worker::spawn(async move {
        let done = of_task.checkpoint().await;
        panic!("the store does not answer, but {done:?}");
    });
    eventually("the run waits for the store", || bench.faults.is_empty()).await;
    let before = node.segments();
    assert!(before.len() > 10, "{} segments", before.len());
    node.commit(Commit { topics: vec![TopicChange::Delete { id: busy }], ..Commit::default() }).await.unwrap();
    eventually("what the old record holds up is gone", || node.segments().len() <= 4).await;
    assert!(node.segments()[0].id > before[0].id, "the record was carried over");
    assert_eq!(node.watermarks(bench.partition()).unwrap().tiered_end_offset, 0);
    assert_eq!(bench.offsets(&node, &tier).await, (0..100).collect::<Vec<_>>());
    asked.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_topics_has_nothing_to_tier() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    let report = tier.checkpoint().await.unwrap();
    assert_eq!((report.objects, report.rows), (0, 0));
    assert!(tier.objects().await.unwrap().is_empty());
    stop(node, tier).await;
    // Who comes too late is told so.
    let (node, tier) = bench.open().await;
    tier.close().await;
    assert!(matches!(tier.checkpoint().await, Err(Error::Closed)));
    node.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_tiered_while_retention_looks_is_not_taken_for_what_it_has_looked_at() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    let retention = Retention { ms: 86_400_000, bytes: -1 };
    bench.produce_at(&node, 10, 1).await;
    tier.checkpoint().await.unwrap();
    let upkeep = tier.upkeep_for_test();
    let topic = node.topic_by_id(bench.topic).unwrap();
    let advances = upkeep.advances(&node, &topic, retention).await.unwrap();
    bench.produce_at(&node, 10, node.clock().now_ms()).await;
    tier.checkpoint().await.unwrap();
    let moved = upkeep.new_start(&node, bench.partition(), retention, advances[&0]).await.unwrap();
    assert_eq!(moved, (0, 10), "the second object is young");
    stop(node, tier).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_holds_what_it_reads_to_its_end_whoever_drops_the_snapshot() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    for _ in 0..2 {
        bench.produce(&node, 10).await;
        tier.checkpoint().await.unwrap();
    }
    let manifests = &tier.cold().manifests;
    let before = manifests.get(bench.topic).version;
    let pinned = Arc::new(Pinned::pin(&node, &tier, &[bench.topic], &HashMap::new()).unwrap());
    let request = ScanRequest { batch_rows: 1, ..ScanRequest::all(vec![RecordColumn::Offset]) };
    let mut rows = pinned.scan(bench.partition(), &request).unwrap();
    drop(pinned);
    for _ in 0..20 {
        rows.try_next().await.unwrap().unwrap();
        tier.vacuum(None).await.unwrap();
        assert!(manifests.get(bench.topic).version > before);
        assert_eq!(manifests.oldest_held(bench.topic), before);
    }
    drop(rows);
    assert!(manifests.oldest_held(bench.topic) > before);
    stop(node, tier).await;
}

// --- who comes while rows are taken away ---

#[tokio::test(flavor = "multi_thread")]
async fn who_settles_waits_for_what_was_begun_and_sees_the_same_after_a_restart() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    bench.produce(&node, 10).await;
    tier.checkpoint().await.unwrap();
    let (cold, topic) = (Arc::clone(tier.cold()), bench.topic);
    let entries: Vec<_> = cold.entries(&cold.manifests.get(topic)).try_collect().await.unwrap();
    let paths = entries.iter().map(|entry| entry.object.as_ref().unwrap().path.clone());
    // All rows go.
    let removal = Edit::Replace {
        removed: paths.collect(),
        added: vec![Entry { object: None, ..Entry::clone(&entries[0]) }],
        history_start_us: Some(5),
    };
    let refused = cold.publish_while(topic, removal.clone(), &|| false).await.unwrap();
    assert!(refused.is_none() && cold.manifests.is_settled(topic));

    // It is put, and nobody learns of it; then whoever held the turn goes.
    bench.lay("/manifest/", &[Fault::LoseAnswer]);
    bench.lay("/manifest/", &[Fault::Stall; EVERY_ATTEMPT]);
    let bucket = bench.bucket();
    let roots = async || bucket.list(&paths::roots(topic), None).await.unwrap().len();
    let before = roots().await;
    let publishing = async { cold.publish_while(topic, removal, &|| true).await.map(drop) };
    let is_put = async {
        while roots().await == before {
            worker::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        done = publishing => assert!(done.is_err(), "the store never answers"),
        () = is_put => {}
    }
    assert!(!cold.manifests.is_settled(topic));
    bench.heal().await;
    cold.settle(topic).await.unwrap();
    assert!(cold.manifests.is_settled(topic));
    assert_eq!(bench.offsets(&node, &tier).await, (0..10).collect::<Vec<_>>());
    let settled = cold.manifests.get(topic).version;
    // There is nothing to settle any more.
    cold.settle(topic).await.unwrap();
    assert_eq!(cold.manifests.get(topic).version, settled);
    stop(node, tier).await;
    drop(cold);
    let (node, tier) = bench.open().await;
    assert_eq!(bench.offsets(&node, &tier).await, (0..10).collect::<Vec<_>>());
    stop(node, tier).await;
}

// --- objects that cannot be read ---

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_object_is_named_and_left_alone_and_work_goes_on_around_it() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    let config = TopicConfig { cleanup_policy: Some(CleanupPolicy::Compact), ..TopicConfig::default() };
    let (id, name) = (bench.topic, "users".to_owned());
    let topics = vec![TopicChange::Create { id, name, partitions: 1, config }];
    node.commit(Commit { topics, ..Commit::default() }).await.unwrap();
    for number in 0..6_u8 {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        builder.push(1, Some(b"same"), Some(&[number]), &[]);
        builder.push(1, Some(&[number]), Some(b"other"), &[]);
        let appends = vec![Append { topic: id, partition: 0, batch: builder.build(Compression::None).unwrap() }];
        node.commit(Commit { appends, ..Commit::default() }).await.unwrap();
        tier.checkpoint().await.unwrap();
    }
    let entries: Vec<_> = tier.cold().entries(&tier.cold().manifests.get(id)).try_collect().await.unwrap();
    let missing = entries[2].object.as_ref().unwrap().path.clone();
    bench.bucket().delete(&Path::from(missing.as_str())).await.unwrap();
    assert!(node.health() == Health::Ready && tier.lost().is_empty());

    let report = tier.vacuum(Some(id)).await.unwrap();
    assert_eq!((report.rows_removed, report.topics), (4, 1), "{report:?}");
    let entries: Vec<_> = tier.cold().entries(&tier.cold().manifests.get(id)).try_collect().await.unwrap();
    assert_eq!(entries.len(), 3, "those before it are one, and those behind it");
    assert_eq!(entries[1].object.as_ref().unwrap().path, missing);
    let lost = tier.lost();
    assert!(lost.len() == 1 && lost[0].contains(&missing) && lost[0].contains("users"), "{lost:?}");
    let lost = tier.lost_offsets().await.unwrap();
    assert_eq!((lost.len(), lost[0].start, lost[0].end), (1, 4, 6));

    let read = async |offset_start, offset_end| {
        let pinned = Arc::new(Pinned::pin(&node, &tier, &[id], &HashMap::new()).unwrap());
        let request = ScanRequest { offset_start, offset_end, ..ScanRequest::all(vec![RecordColumn::Offset]) };
        let rows = pinned.scan(bench.partition(), &request).unwrap().try_collect::<Vec<_>>().await;
        rows.map(|rows| rows.iter().map(RecordBatch::num_rows).sum::<usize>())
    };
    assert_eq!((read(0, 4).await.unwrap(), read(6, 12).await.unwrap()), (2, 4));
    let error = read(0, 12).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { place, .. } if *place == missing), "{error}");
    // There is no more to do, and nothing fails.
    assert_eq!(tier.vacuum(Some(id)).await.unwrap().bytes_rewritten, 0);
    stop(node, tier).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_too_large_an_object_becomes_several() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    for _ in 0..5 {
        bench.produce(&node, 10).await;
        tier.checkpoint().await.unwrap();
    }
    let topic = node.topic_by_id(bench.topic).unwrap();
    let mut report = VacuumReport::default();
    // A row group each, however little memory there is.
    let mut upkeep = tier.upkeep_for_test();
    upkeep.runner.rewrite_bytes_max = 1;
    let manifest = tier.cold().manifests.get(bench.topic);
    let entries: Vec<_> = tier.cold().entries(&manifest).try_collect().await.unwrap();
    let rewritten = upkeep.runner.rewrite(&manifest, &entries, &NoneGoes).await.unwrap();
    let covers: Vec<_> = rewritten.entries.iter().map(|entry| (entry.covers[0].start, entry.covers[0].end)).collect();
    assert_eq!(covers, [(0, 10), (10, 20), (20, 30), (30, 40), (40, 50)]);
    drop(rewritten);
    // With memory enough, one.
    upkeep.runner.rewrite_bytes_max = 1 << 30;
    upkeep.merge(&topic, Effort::All, &mut report).await.unwrap();
    assert_eq!((report.objects_merged, report.objects_written), (5, 1));
    assert_eq!(bench.offsets(&node, &tier).await, (0..50).collect::<Vec<_>>());
    stop(node, tier).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_objects_take_the_place_of_others_with_all_their_rows() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    for _ in 0..5 {
        bench.produce(&node, 10).await;
        tier.checkpoint().await.unwrap();
    }
    let (id, cold) = (bench.topic, tier.cold());
    let mut upkeep = tier.upkeep_for_test();
    upkeep.runner.rewrite_bytes_max = 1;
    let manifest = cold.manifests.get(id);
    let entries: Vec<_> = cold.entries(&manifest).try_collect().await.unwrap();
    let rewritten = upkeep.runner.rewrite(&manifest, &entries[1..4], &NoneGoes).await.unwrap();
    let removed = entries[1..4].iter().map(|entry| entry.object.as_ref().unwrap().path.clone()).collect();
    let edit = Edit::Replace { removed, added: rewritten.entries, history_start_us: None };
    cold.publish(id, edit).await.unwrap();
    drop(rewritten.upload);
    let after: Vec<_> = cold.entries(&cold.manifests.get(id)).try_collect().await.unwrap();
    assert_eq!(after.iter().map(|entry| entry.covers[0].start).collect::<Vec<_>>(), [0, 10, 20, 30, 40]);
    assert_eq!(bench.offsets(&node, &tier).await, (0..50).collect::<Vec<_>>());
    stop(node, tier).await;
}

// --- what housekeeping costs ---

/// Objects of a year.
const YEAR: i64 = 600;

/// So small that some entries make many chunks.
const TINY: Shape = Shape {
    tail_bytes: 300,
    tail_bytes_of_partition: 0,
    chunk_bytes: 600,
    small_bytes: 400,
    small_max: 3,
    level_bytes: 800,
    gone_max: 3,
};

async fn add_objects(cold: &Cold, topic: TopicId, numbers: std::ops::Range<i64>) {
    for number in numbers {
        let path = format!("object {number}");
        let added = entry(&path, &[(0, number * 10, number * 10 + 10)]);
        cold.publish(topic, Edit::Add(added)).await.unwrap();
    }
}

/// How often a chunk of a manifest was wanted, from memory or from the bucket.
fn chunk_reads(cold: &Cold) -> u64 {
    let chunks = cold.caches().into_iter().find(|cache| cache.name == "manifest_chunks").unwrap();
    chunks.hits + chunks.misses
}

#[tokio::test(flavor = "multi_thread")]
async fn housekeeping_costs_what_has_changed_and_not_the_history() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    bench.produce(&node, 1).await;
    let (id, topic) = (bench.topic, node.topic_by_id(bench.topic).unwrap());
    let cold = Arc::new(Cold::for_test(Bucket::for_test()).await.shaped(TINY));
    // Every object is large.
    let mut upkeep = Upkeep { object_bytes: 100, ..tier.upkeep_over(&cold) };
    add_objects(&cold, id, 0..YEAR).await;
    let config = topic.config.resolve(node.settings());
    let mut cleaned = Cleaned::default();
    cleaned.note(0, YEAR * 10, 1, false, Horizon { until_us: i64::MIN, hot_start: 0 });
    let value = Some(cleaned.to_bytes().unwrap());
    let stored = PositionChange { query: stored_name(id), value, expect: Expect::Anything };
    node.commit(Commit { positions: vec![stored], ..Commit::default() }).await.unwrap();
    let by_bytes = Retention { ms: -1, bytes: 1_000 };
    let never_old = Retention { ms: i64::MAX, bytes: -1 };

    let mut report = VacuumReport::default();
    let mut costs = Vec::new();
    for round in 0..4 {
        add_objects(&cold, id, YEAR + 5 * round..YEAR + 5 * round + 5).await;
        let mut cost = Vec::new();
        let before = chunk_reads(&cold);
        upkeep.merge(&topic, Effort::Due, &mut report).await.unwrap();
        cost.push(chunk_reads(&cold) - before);
        let before = chunk_reads(&cold);
        upkeep.compact(&node, &topic, &config, Effort::Due, &mut report).await.unwrap();
        cost.push(chunk_reads(&cold) - before);
        let before = chunk_reads(&cold);
        assert_eq!(upkeep.advances(&node, &topic, never_old).await.unwrap()[&0].start, 0);
        cost.push(chunk_reads(&cold) - before);
        costs.push(cost);
        // What is remembered is what is found when nothing is.
        let fresh = tier.upkeep_over(&cold);
        let expected = fresh.advances(&node, &topic, by_bytes).await.unwrap();
        assert_eq!(upkeep.advances(&node, &topic, by_bytes).await.unwrap(), expected);
        assert!(expected[&0].start > YEAR * 5 && expected[&0].ended);
    }
    println!("chunks read by merging, compaction, retention: {costs:?}");
    assert_eq!(report, VacuumReport::default());
    assert!(costs[0][0] > 50, "each chunk once: {costs:?}");
    assert!(costs[1..].iter().flatten().all(|reads| *reads <= 20), "{costs:?}");
    assert!(costs.iter().all(|cost| cost[1] <= 20 && cost[2] == 0), "{costs:?}");
    stop(node, tier).await;
}

// --- a log start that moves ---

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_offset_goes_while_it_is_read_is_told_so_and_never_given_other_records() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    for _ in 0..4 {
        bench.produce(&node, 100).await;
        tier.checkpoint().await.unwrap();
    }
    let partition = bench.partition();
    let request = |offset| FetchRequest { partition, offset, bytes_max: 100, isolation: Isolation::ReadUncommitted };
    // Each fetch begins before the log start moves, as if the log held nothing any more, and reads after it.
    let before = node.watermarks(partition).unwrap();
    let read = async |offset| scan::fetch_below(&node, &tier, request(offset), 400, before).await;
    let trims = vec![Trim { partition, log_start_offset: 200 }];
    node.commit(Commit { trims, ..Commit::default() }).await.unwrap();
    let upkeep = tier.upkeep_for_test();
    upkeep.runner.follow(&node, bench.topic, 0..1).await.unwrap();
    assert_eq!(tier.cold().manifests.get(bench.topic).start(0), 200);
    for offset in [0, 50, 150, 199, 200, 399] {
        match read(offset).await {
            Ok(fetched) => {
                let first = CheckedBatch::parse_stored(fetched.batches[0].clone()).unwrap();
                assert!(offset >= 200 && first.header().base_offset == offset, "{offset}: {:?}", first.header());
            }
            Err(Error::OffsetOutOfRange { log_start_offset: 200, .. }) => assert!(offset < 200),
            Err(error) => panic!("{offset}: {error}"),
        }
    }
    // Nor is it told of what is damaged there no longer.
    for path in bench.bucket().list(&Path::from(format!("topics/{}/data", bench.topic)), None).await.unwrap() {
        bench.bucket().delete(&path).await.unwrap();
    }
    let gone = read(0).await;
    assert!(matches!(gone, Err(Error::OffsetOutOfRange { .. })), "{gone:?}");
    stop(node, tier).await;
}

/// Declares the value's text.
#[derive(Debug)]
struct TextColumn;

impl DeclaredColumns for TextColumn {
    fn format_of(&self, _: TopicId) -> Option<RecordFormat> {
        let (name, field, kind) = ("v".to_owned(), "v".to_owned(), ColumnType::Text);
        let column = DeclaredColumn { name, field, kind, role: ColumnRole::Value, not_null: false };
        let (key_format, value_format) = (Format::None, Format::Kafka);
        Some(RecordFormat { columns: vec![column], key_format, value_format, tombstones: false })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_written_into_older_objects_a_few_at_a_time() {
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    for _ in 0..6 {
        bench.produce(&node, 10).await;
        tier.checkpoint().await.unwrap();
    }
    let topic = node.topic_by_id(bench.topic).unwrap();
    let upkeep = tier.upkeep_for_test();
    let retype = async |effort| {
        let mut report = VacuumReport::default();
        upkeep.retype(&topic, effort, &mut report).await.unwrap();
        report.objects_written
    };
    assert_eq!(retype(Effort::All).await, 0, "nothing is declared");
    let by: Arc<dyn DeclaredColumns> = Arc::new(TextColumn);
    *upkeep.runner.declared_by.write() = Some(Arc::downgrade(&by));
    for written in [4, 2, 0, 0] {
        assert_eq!(retype(Effort::Due).await, written);
    }
    bench.produce(&node, 10).await;
    tier.checkpoint().await.unwrap();
    assert_eq!((retype(Effort::All).await, retype(Effort::All).await), (1, 0));
    let manifest = tier.cold().manifests.get(bench.topic);
    let entries: Vec<_> = tier.cold().entries(&manifest).try_collect().await.unwrap();
    for entry in entries {
        let footer = scan::read_footer(tier.cold(), entry.object.as_ref().unwrap()).await.unwrap();
        let declared = declaration_of(footer.metadata().file_metadata().key_value_metadata());
        assert_eq!(declared, TextColumn.format_of(bench.topic));
    }
    assert_eq!(bench.offsets(&node, &tier).await, (0..70).collect::<Vec<_>>());
    stop(node, tier).await;
}

// --- many partitions ---

/// What is linear takes a second at the most with so many partitions, what is quadratic a minute at the least.
const MANY: i32 = 40_000;

#[test]
fn nothing_that_is_done_to_a_topic_is_quadratic_in_its_partitions() {
    let topic = TopicId(uuid::Uuid::from_u128(1));
    let covers = |start, end| (0..MANY).map(|partition| (partition, start, end)).collect::<Vec<_>>();
    let entries = [Arc::new(entry("a", &covers(0, 10))), Arc::new(entry("b", &covers(10, 20)))];
    let added = [entry("c", &covers(0, 20))];
    let waiting = |partition| Backlog {
        partition: TopicPartition { topic, partition },
        tiered_end: 0,
        last_stable_offset: 10,
        untiered_bytes: 100,
        oldest_commit_time_us: Some(0),
        committed_ranges: 1,
    };
    let backlog: Vec<_> = (0..MANY).map(waiting).collect();
    let policy = SealPolicy { bytes_min: 100, age_max_us: 1000, committed_ranges_max: 1, untiered_bytes_max: 1 << 30 };
    let before = std::time::Instant::now();
    assert_eq!(policy.due(&backlog, 0)[&topic].len(), backlog.len());
    entries.iter().for_each(|entry| invariant::entry_is_sound(topic, entry).unwrap());
    invariant::replacement_is_sound(&TopicManifest::empty(topic), &entries, &added, None).unwrap();
    assert_eq!(entries.iter().flat_map(compact::groups_of).count(), 2 * backlog.len());
    let found = (0..MANY).map(|partition| groups_of(&entries[1], partition, 10, 20).count());
    assert_eq!(found.sum::<usize>(), backlog.len());
    let took = before.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_partitions_become_one_object() {
    const PARTITIONS: i32 = 1_000;
    let bench = Bench::new();
    let (node, tier) = bench.open().await;
    let create = TopicChange::Create {
        id: bench.topic,
        name: "clicks".to_owned(),
        partitions: PARTITIONS,
        config: TopicConfig::default(),
    };
    node.commit(Commit { topics: vec![create], ..Commit::default() }).await.unwrap();
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    builder.push(1, None, Some(b"value"), &[]);
    let batch = builder.build(Compression::None).unwrap();
    let appends = (0..PARTITIONS).map(|partition| Append { topic: bench.topic, partition, batch: batch.clone() });
    node.commit(Commit { appends: appends.collect(), ..Commit::default() }).await.unwrap();
    let before = std::time::Instant::now();
    let report = tier.checkpoint().await.unwrap();
    println!("{PARTITIONS} partitions are tiered in {:?}", before.elapsed());
    assert_eq!((report.objects, report.rows), (1, 1_000));
    let ends = (0..PARTITIONS).map(|partition| node.watermarks(TopicPartition { topic: bench.topic, partition }));
    assert!(ends.into_iter().all(|ends| ends.unwrap().tiered_end_offset == 1));
    stop(node, tier).await;
}
