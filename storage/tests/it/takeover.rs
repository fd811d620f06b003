//! From the bucket alone: what a checkpoint holds comes back as of one moment, what came after it is gone as a whole,
//! nobody is told twice of one record, and whoever was replaced stays out.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{
    CleanupPolicy, Commit, DefinitionChange, Error, Expect, GroupOffsetChange, OpenOptions, PositionChange,
    ProducerIdentity, Storage, Topic, TopicConfig, TransactionState,
};

use crate::kept::{flip, is_clean_with, newer_envelope, verify_with};
use crate::records::tiered_options;
use crate::support::*;
use crate::transactions::{add, consume_committed, end, init, offset, send};

/// A bucket, and data directories that use it one after another.
struct Cluster {
    home: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn bucket(&self) -> PathBuf {
        self.home.path().join("bucket")
    }

    fn options(&self, name: &str) -> OpenOptions {
        let settings = StorageSettings {
            wal_segment_bytes: 64 << 10,
            wal_commit_bytes_max: 32 << 10,
            wal_reserve_bytes: 4 << 10,
            housekeeping_interval_ms: 0,
            sweep_grace_ms: 0,
            ..StorageSettings::default()
        };
        let object_store_url = Some(format!("file://{}", self.bucket().display()));
        OpenOptions { object_store_url, ..tiered_options(&self.home.path().join(name), settings) }
    }

    async fn open(&self, name: &str) -> Storage {
        Storage::open(self.options(name)).await.unwrap()
    }

    async fn take_over(&self, name: &str) -> Storage {
        Storage::take_over(self.options(name)).await.unwrap()
    }

    /// Names in a folder of the bucket, in order.
    fn names(&self, folder: &str) -> Vec<PathBuf> {
        let mut names: Vec<_> = fs::read_dir(self.bucket().join(folder))
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    fn checkpoints(&self) -> Vec<PathBuf> {
        self.names("meta/checkpoint")
    }
}

async fn forgetful(storage: &Storage, name: &str) -> Arc<Topic> {
    let config =
        TopicConfig { local_retention_ms: Some(0), retention_bytes: Some(123_456_789), ..TopicConfig::default() };
    storage.create_topic(name, Some(2), config).await.unwrap()
}

async fn idempotent(storage: &Storage, topic: &Topic, id: i64, sequence: i32) -> aquifer_storage::Result<i64> {
    let commit = appends(at(topic, 1), sequenced(&batch(&[&format!("s{sequence}")]), id, 0, sequence));
    Ok(storage.commit(commit).await?.appended[0].base_offset)
}

/// A group's offset, a definition and a query's position, with the output that the position speaks of.
async fn settle(storage: &Storage, topic: &Topic, group: i64, position: &'static str, was: Option<&'static str>) {
    let expect = was.map_or(Expect::Absent, |was| Expect::Value(was.into()));
    let commit = Commit {
        group_offsets: vec![GroupOffsetChange {
            group: "g".to_owned(),
            partition: at(topic, 0),
            offset: Some(offset(group)),
        }],
        positions: vec![PositionChange { query: "q".to_owned(), value: Some(position.into()), expect }],
        ..appends(at(topic, 0), batch(&[position]))
    };
    storage.commit(commit).await.unwrap();
}

/// A bucket with a checkpoint of everything, and with what came after it; gives the topic, an idempotent producer that had
/// written three batches, and two transactional ones: of an open and of a committed transaction.
async fn fill(cluster: &Cluster) -> (Arc<Topic>, i64, [ProducerIdentity; 2]) {
    let old = cluster.open("old").await;
    let topic = forgetful(&old, "clicks").await;
    let definition = DefinitionChange {
        kind: "relation".to_owned(),
        name: "r".to_owned(),
        value: Some("as".into()),
        holds: vec![topic.id],
        expect: Expect::Absent,
    };
    old.commit(Commit { definitions: vec![definition], ..Commit::default() }).await.unwrap();
    let id = old.new_producer_id().await.unwrap();
    for sequence in 0..3 {
        idempotent(&old, &topic, id, sequence).await.unwrap();
    }
    settle(&old, &topic, 1, "p1", None).await;
    let (done, open) = (init(&old, "done").await, init(&old, "open").await);
    add(&old, "done", done, &[at(&topic, 0)]).await.unwrap();
    send(&old, done, 0, at(&topic, 0), &["committed"]).await.unwrap();
    end(&old, "done", done, true).await.unwrap();
    add(&old, "open", open, &[at(&topic, 0)]).await.unwrap();
    send(&old, open, 0, at(&topic, 0), &["undone"]).await.unwrap();
    // Behind an open transaction: acknowledged, and in no object.
    settle(&old, &topic, 4, "p2", Some("p1")).await;
    old.checkpoint().await.unwrap();
    assert_eq!((cluster.checkpoints().len(), cluster.names("meta/tail").len()), (1, 1));
    let ends = [old.watermarks(at(&topic, 0)).unwrap(), old.watermarks(at(&topic, 1)).unwrap()];
    assert!(ends[0].tiered_end_offset < ends[0].high_watermark, "{ends:?}");

    // What nobody will find again.
    end(&old, "open", open, true).await.unwrap();
    settle(&old, &topic, 9, "p3", Some("p2")).await;
    idempotent(&old, &topic, id, 3).await.unwrap();
    idempotent(&old, &topic, id, 4).await.unwrap();
    let late = forgetful(&old, "late").await;
    produce(&old, at(&late, 0), &["x"]).await.unwrap();
    stop(old).await;
    (topic, id, [open, done])
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_as_of_the_checkpoint_comes_back_and_nothing_of_what_came_after() {
    let cluster = Cluster::new();
    let (topic, id, [open, done]) = fill(&cluster).await;
    let refused = Storage::open(cluster.options("new")).await.unwrap_err();
    assert!(matches!(&refused, Error::Config { reason } if reason.contains("--take-over")), "{refused}");
    assert!(!cluster.home.path().join("new").exists(), "nothing is made before it is clear what");
    let new = cluster.take_over("new").await;
    let back = new.topic("clicks").unwrap();
    assert_eq!((back.id, &back.config, back.partitions), (topic.id, &topic.config, 2));
    assert!(new.topic("late").is_none());
    assert_eq!(new.definitions("relation")[0].value, "as");
    assert_eq!((new.position("q").unwrap(), new.group_offsets(Some("g"))[0].2.offset), ("p2".into(), 4));
    let found = new.watermarks(at(&topic, 1)).unwrap();
    assert_eq!(
        (found.high_watermark, values(&new, at(&topic, 1)).await),
        (3, vec!["s0".into(), "s1".into(), "s2".into()])
    );
    assert_eq!(consume_committed(&new, at(&topic, 0)).await, ["p1", "committed", "p2"]);
    let known: HashMap<_, _> = new.transactions().into_iter().map(|at| (at.transactional_id, at.state)).collect();
    assert_eq!((known["open"], known["done"]), (TransactionState::CompleteAbort, TransactionState::CompleteCommit));

    // Who goes on is told apart from who begins.
    for (name, producer) in [("open", open), ("done", done)] {
        let committed = end(&new, name, producer, true).await.unwrap_err();
        assert!(matches!(committed, Error::ProducerFenced { .. }), "{name}: {committed}");
        let again = init(&new, name).await;
        assert!(again.id == producer.id && again.epoch > producer.epoch + 1, "{again:?}");
    }
    assert_eq!(idempotent(&new, &topic, id, 2).await.unwrap(), 2, "there already");
    assert_eq!(idempotent(&new, &topic, id, 5).await.unwrap(), 3, "it was told of two that are gone");
    assert_eq!(idempotent(&new, &topic, id, 5).await.unwrap(), 3, "there already");
    for sequence in [3, 4, 7] {
        let gap = idempotent(&new, &topic, id, sequence).await.unwrap_err();
        assert!(matches!(gap, Error::OutOfOrderSequence { expected: 6, .. }), "{gap}");
    }
    assert!(new.new_producer_id().await.unwrap() > id + 1_000_000);
    settle(&new, &topic, 5, "p3", Some("p2")).await;
    new.checkpoint().await.unwrap();
    stop(new).await;
    is_clean_with(cluster.options("new")).await;

    // The old directory stays out, however often it is started; the new one goes on, and may be taken over again.
    for _ in 0..3 {
        let refused = Storage::open(cluster.options("old")).await.unwrap_err();
        assert!(matches!(&refused, Error::Config { reason } if reason.contains("taken the cluster over")), "{refused}");
    }
    let new = cluster.open("new").await;
    let expected = values(&new, at(&topic, 1)).await;
    stop(new).await;
    let third = cluster.take_over("third").await;
    assert_eq!((values(&third, at(&topic, 1)).await, third.position("q").unwrap()), (expected, "p3".into()));
    assert_eq!(consume_committed(&third, at(&topic, 0)).await, ["p1", "committed", "p2", "p3"]);
    stop(third).await;
    is_clean_with(cluster.options("third")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_from_before_takes_nothing_more_and_what_it_still_puts_is_not_looked_at() {
    let cluster = Cluster::new();
    let old = cluster.open("old").await;
    let topic = forgetful(&old, "clicks").await;
    produce(&old, at(&topic, 0), &["a"]).await.unwrap();
    old.checkpoint().await.unwrap();
    let new = cluster.take_over("new").await;
    // It does not know yet, and puts an object, a manifest and a checkpoint that sort behind what was taken over.
    produce(&old, at(&topic, 0), &["lost"]).await.unwrap();
    let fenced = old.checkpoint().await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced { .. }), "{fenced}");
    let refused = produce(&old, at(&topic, 0), &["never"]).await.unwrap_err();
    assert!(matches!(refused, Error::ReadOnly { .. }), "{refused}");
    stop(old).await;
    assert_eq!(produce(&new, at(&topic, 0), &["b"]).await.unwrap().appended[0].base_offset, 1);
    stop(new).await;
    let new = cluster.open("new").await;
    assert_eq!(values(&new, at(&topic, 0)).await, ["a", "b"]);
    stop(new).await;
    // Nobody has put a checkpoint since: the one it was made of still is the one that counts.
    let third = cluster.take_over("third").await;
    assert_eq!(values(&third, at(&topic, 0)).await, ["a"]);
    stop(third).await;
}

/// Two checkpoints, and between and after them all that makes objects superfluous.
async fn with_two_checkpoints(cluster: &Cluster) -> Arc<Topic> {
    let old = cluster.open("old").await;
    let config = TopicConfig {
        cleanup_policy: Some(CleanupPolicy::Compact),
        local_retention_ms: Some(0),
        min_compaction_lag_ms: Some(0),
        ..TopicConfig::default()
    };
    let topic = old.create_topic("clicks", Some(1), config).await.unwrap();
    for round in 0..4 {
        produce(&old, at(&topic, 0), &[&format!("{round}a"), &format!("{round}b")]).await.unwrap();
        old.checkpoint().await.unwrap();
        old.vacuum(None).await.unwrap();
    }
    produce(&old, at(&topic, 0), &["later"]).await.unwrap();
    old.vacuum(None).await.unwrap();
    old.vacuum(None).await.unwrap();
    stop(old).await;
    assert_eq!(cluster.checkpoints().len(), 2, "the older ones are gone");
    topic
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_checkpoint_names_is_not_swept_and_a_damaged_one_has_one_before_it() {
    let cluster = Cluster::new();
    let topic = with_two_checkpoints(&cluster).await;
    is_clean_with(cluster.options("old")).await;
    let checkpoints = cluster.checkpoints();
    let whole = fs::read(&checkpoints[1]).unwrap();
    flip(&checkpoints[1], whole.len() / 2);
    let new = cluster.take_over("new").await;
    let found = new.watermarks(at(&topic, 0)).unwrap();
    assert_eq!(found.high_watermark, 6, "as of the one before");
    let last = read(&new, at(&topic, 0), 0).await.unwrap().pop().unwrap();
    assert_eq!(last, (5, "2b".to_owned()));
    stop(new).await;
    // Whole again it counts no more: the cluster has gone on without it.
    fs::write(&checkpoints[1], whole).unwrap();
    let third = cluster.take_over("third").await;
    assert_eq!(third.watermarks(at(&topic, 0)).unwrap().high_watermark, 6);
    stop(third).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_misses_what_only_a_checkpoint_names() {
    let cluster = Cluster::new();
    with_two_checkpoints(&cluster).await;
    let old = cluster.open("old").await;
    let live: Vec<String> = old.objects().await.unwrap().into_iter().map(|object| object.url).collect();
    stop(old).await;
    let report = is_clean_with(cluster.options("old")).await;
    let objects = fs::read_dir(cluster.names("topics")[0].join("data")).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let older: Vec<PathBuf> = objects.filter(|path| !live.iter().any(|url| url.ends_with(&name(path)))).collect();
    assert!(report.objects > 1, "those of two checkpoints: {report:?}");
    let mut missed = 0;
    for path in older {
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (_, wrong) = verify_with(cluster.options("old")).await.unwrap();
        missed += usize::from(wrong.iter().any(|wrong| format!("{wrong:?}").contains(&name(&path))));
        fs::write(&path, whole).unwrap();
    }
    assert!(missed > 0, "nothing of what only a checkpoint names is missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_and_newer_formats_are_refused_by_name() {
    let cluster = Cluster::new();
    with_two_checkpoints(&cluster).await;
    let checkpoints = cluster.checkpoints();
    let refused = async |what: &str| {
        let error = Storage::take_over(cluster.options("new")).await.unwrap_err();
        assert!(error.to_string().contains(what), "{what}: {error}");
        error
    };
    let whole = fs::read(&checkpoints[1]).unwrap();
    newer_envelope(&checkpoints[1], 0);
    let name = checkpoints[1].file_name().unwrap().to_string_lossy().into_owned();
    let newer = refused("checkpoint has format version 99").await;
    assert!(matches!(&newer, Error::Config { reason } if reason.contains(&name)), "{newer}");
    let at_start = Storage::open(cluster.options("old")).await.unwrap_err();
    assert!(at_start.to_string().contains("format version 99"), "{at_start}");
    fs::write(&checkpoints[1], &whole[..whole.len() - 1]).unwrap();
    // The one before it is no way out if something is gone of what it names.
    let (objects, elsewhere) = (cluster.names("topics")[0].join("data"), cluster.home.path().join("elsewhere"));
    fs::rename(&objects, &elsewhere).unwrap();
    let torn = refused(&name).await;
    assert!(matches!(torn, Error::Corrupt { .. }), "{torn}");
    fs::rename(&elsewhere, &objects).unwrap();
    flip(&checkpoints[0], 40);
    refused(&name).await;
    for path in checkpoints {
        fs::remove_file(path).unwrap();
    }
    refused("no checkpoint to begin from").await;
    fs::remove_dir_all(cluster.bucket()).unwrap();
    refused("nothing to take over").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_not_made_whole_is_made_again() {
    let cluster = Cluster::new();
    let old = cluster.open("old").await;
    let topic = forgetful(&old, "clicks").await;
    let open = init(&old, "t").await;
    add(&old, "t", open, &[at(&topic, 0)]).await.unwrap();
    send(&old, open, 0, at(&topic, 0), &["undone"]).await.unwrap();
    produce(&old, at(&topic, 0), &["kept"]).await.unwrap();
    old.checkpoint().await.unwrap();
    stop(old).await;
    let new: &Path = &cluster.home.path().join("new");
    fs::create_dir_all(new.join("log")).unwrap();
    fs::write(new.join("taking-over"), "").unwrap();
    fs::write(new.join("log/00000000000000000064.wal"), "half").unwrap();
    let refused = Storage::open(cluster.options("new")).await.unwrap_err();
    assert!(refused.to_string().contains("--take-over"), "{refused}");
    let tail = cluster.names("meta/tail").remove(0);
    let whole = fs::read(&tail).unwrap();
    flip(&tail, whole.len() / 2);
    let damaged = Storage::take_over(cluster.options("new")).await.unwrap_err();
    assert!(damaged.to_string().contains("meta/tail"), "{damaged}");
    fs::write(&tail, whole).unwrap();
    let storage = cluster.take_over("new").await;
    assert_eq!(consume_committed(&storage, at(&topic, 0)).await, ["kept"]);
    let producer = ProducerIdentity { id: open.id, epoch: open.epoch };
    assert!(end(&storage, "t", producer, true).await.is_err());
    stop(storage).await;
    // Made whole, it is opened as any other, whether or not somebody still asks for a takeover.
    let storage = cluster.take_over("new").await;
    assert_eq!(consume_committed(&storage, at(&topic, 0)).await, ["kept"]);
    stop(storage).await;
    is_clean_with(cluster.options("new")).await;
}

/// Commits of a record in each topic, a position and an offset, which all say the same number, until told to stop.
async fn numbers(
    storage: Storage,
    [left, right]: [Arc<Topic>; 2],
    acknowledged: Arc<AtomicI64>,
    stopping: Arc<AtomicBool>,
) {
    for number in 1.. {
        let value = number.to_string();
        let mut commit = appends(at(&left, 0), batch(&[&value]));
        commit.appends.extend(appends(at(&right, 1), batch(&[&value])).appends);
        commit.positions =
            vec![PositionChange { query: "q".to_owned(), value: Some(value.into()), expect: Expect::Anything }];
        let (group, offset) = ("g".to_owned(), Some(offset(number)));
        commit.group_offsets = vec![GroupOffsetChange { group, partition: at(&left, 0), offset }];
        storage.commit(commit).await.unwrap();
        acknowledged.store(number, Ordering::SeqCst);
        if stopping.load(Ordering::SeqCst) {
            return;
        }
    }
}

/// Transactions in the way, and topics that come and go.
async fn trouble(storage: Storage, left: Arc<Topic>, stopping: Arc<AtomicBool>) {
    let mut sequence = 0;
    let producer = init(&storage, "t").await;
    while !stopping.load(Ordering::SeqCst) {
        add(&storage, "t", producer, &[at(&left, 0)]).await.unwrap();
        for _ in 0..5 {
            send(&storage, producer, sequence, at(&left, 0), &["t"]).await.unwrap();
            sequence += 1;
        }
        let passing = forgetful(&storage, "passing").await;
        produce(&storage, at(&passing, 0), &["x"]).await.unwrap();
        end(&storage, "t", producer, sequence % 2 == 0).await.unwrap();
        storage.delete_topic(passing.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_under_load_is_one_moment_and_has_all_that_was_acknowledged_before() {
    let cluster = Cluster::new();
    let old = cluster.open("old").await;
    let (left, right) = (forgetful(&old, "left").await, forgetful(&old, "right").await);
    let acknowledged = Arc::new(AtomicI64::new(0));
    let stopping = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(numbers(
        old.clone(),
        [Arc::clone(&left), Arc::clone(&right)],
        Arc::clone(&acknowledged),
        Arc::clone(&stopping),
    ));
    let trouble = tokio::spawn(trouble(old.clone(), Arc::clone(&left), Arc::clone(&stopping)));
    let mut before = 0;
    for _ in 0..6 {
        let target = before + 20;
        eventually("more commits", async || acknowledged.load(Ordering::SeqCst) >= target).await;
        before = acknowledged.load(Ordering::SeqCst);
        old.checkpoint().await.unwrap();
        old.vacuum(None).await.unwrap();
    }
    stopping.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    trouble.await.unwrap();
    stop(old).await;

    let new = cluster.take_over("new").await;
    let position = new.position("q").unwrap();
    let number: i64 = std::str::from_utf8(&position).unwrap().parse().unwrap();
    assert!(number >= before, "{number} where {before} were acknowledged before the checkpoint");
    let expected: Vec<String> = (1..=number).map(|number| number.to_string()).collect();
    assert_eq!(values(&new, at(&right, 1)).await, expected);
    let mut found = consume_committed(&new, at(&left, 0)).await;
    let transactional = found.iter().filter(|value| *value == "t").count();
    assert_eq!(transactional % 5, 0, "no transaction is there in part");
    found.retain(|value| value != "t");
    assert_eq!(found, expected);
    assert_eq!(new.group_offsets(Some("g"))[0].2.offset, number);
    stop(new).await;
    is_clean_with(cluster.options("new")).await;
}
