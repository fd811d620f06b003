//! A node with one topic, what happens to it, and the model that hears of it.

use std::collections::{BTreeMap, BTreeSet};

use aquifer_storage::record::batch::{BatchBuilder, CheckedBatch, Compression, TimestampType};
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{Append, Commit, ProducerIdentity, TopicPartition, TransactionChange, Trim};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::super::node::{Cell, Node};
use super::model::{Kept, Kind, Model, PARTITIONS, Value, null_of};

const TRANSACTIONAL_ID: &str = "history";
const TIMEOUT_MS: i32 = 600_000;

/// What becomes of old records by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Keep,
    /// By size, and by trims.
    LetGo,
    Compact,
}

/// An open transaction.
struct Open {
    producer: ProducerIdentity,
    /// Records sent, per partition.
    sequences: [i32; PARTITIONS],
}

/// See the head of this file.
pub(super) struct World {
    directory: tempfile::TempDir,
    node: Option<Node>,
    local_retention_ms: i64,
    policy: Policy,
    open: Option<Open>,
    now_ms: i64,
    pub(super) model: Model,
}

fn settings(local_retention_ms: i64) -> impl FnOnce(&mut StorageSettings) {
    move |settings| {
        settings.wal_segment_bytes = 1 << 20;
        settings.topic_local_retention_ms = local_retention_ms;
        // Nothing happens but what a step does.
        settings.housekeeping_interval_ms = 0;
        settings.checkpoint_interval_ms = 0;
    }
}

impl World {
    /// A fresh node with a topic of random columns.
    pub(super) async fn begin(rng: &mut StdRng) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let local_retention_ms = if rng.random_bool(0.6) { 0 } else { 3_600_000 };
        let mut node = Node::open_with(directory.path(), settings(local_retention_ms)).await;
        let mut kinds = Kind::ALL;
        kinds.shuffle(rng);
        let columns: Vec<(String, Kind)> =
            kinds.iter().take(rng.random_range(2..6)).enumerate().map(|(n, kind)| (format!("c{n}"), *kind)).collect();
        let policy = [Policy::Keep, Policy::LetGo, Policy::Compact][rng.random_range(0..3)];
        // What a table holds after a trim is its topic's business; storage refuses trims of one.
        let has_table = policy != Policy::LetGo && rng.random_bool(0.7);
        let with = match policy {
            Policy::Keep => "",
            Policy::LetGo => ", retention_bytes = 20000",
            Policy::Compact => {
                ", cleanup_policy = 'compact', min_compaction_lag_ms = 0, delete_retention_ms = 0, \
                 min_cleanable_dirty_ratio = 0"
            }
        };
        let declared: Vec<String> = columns.iter().map(|(name, kind)| format!("{name} {}", kind.declared())).collect();
        let declared = declared.join(", ");
        let topic = format!("kafka_topic = 'h', value_format = 'json', partitions = {PARTITIONS}");
        node.run(&format!("CREATE STREAM s (id STRING KEY, {declared}) WITH ({topic}{with})")).await;
        if has_table {
            node.run(&format!(
                "CREATE TABLE t (id STRING PRIMARY KEY, {declared}) WITH (kafka_topic = 'h', value_format = 'json')"
            ))
            .await;
        }
        let model = Model { columns, has_table, records: Vec::new(), stable_ends: [i64::MAX; PARTITIONS] };
        Self { directory, node: Some(node), local_retention_ms, policy, open: None, now_ms: 0, model }
    }

    pub(super) fn node(&mut self) -> &mut Node {
        self.node.as_mut().unwrap()
    }

    pub(super) async fn end(mut self) {
        self.node.take().unwrap().close().await;
    }

    /// One thing happens; which, in words.
    pub(super) async fn step(&mut self, rng: &mut StdRng) -> String {
        match rng.random_range(0..20) {
            0..=6 => self.produce(rng).await,
            7..=11 => self.transact(rng).await,
            12..=14 => {
                self.node().run("CHECKPOINT").await;
                "CHECKPOINT".to_owned()
            }
            15..=16 => self.vacuum().await,
            _ if self.policy == Policy::LetGo => self.trim(rng).await,
            _ => self.produce(rng).await,
        }
    }

    fn partition(&self, partition: usize) -> TopicPartition {
        let topic = self.node.as_ref().unwrap().storage.topic("h").unwrap().id;
        TopicPartition { topic, partition: i32::try_from(partition).unwrap() }
    }

    /// Random records of one partition.
    fn records(&mut self, rng: &mut StdRng, partition: usize) -> (CheckedBatch, Vec<Kept>) {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        let mut records = Vec::new();
        for _ in 0..rng.random_range(1..25) {
            self.now_ms += rng.random_range(-500..1_500);
            let needs_key = self.model.has_table || self.policy == Policy::Compact;
            // A key has its partition, as producers place it.
            let key = rng.random_range(0..5) * PARTITIONS + partition;
            let key = (needs_key || rng.random_bool(0.8)).then(|| format!("k{key}"));
            let (json, value) = self.value(rng);
            builder.push(self.now_ms, key.as_deref().map(str::as_bytes), json.as_deref().map(str::as_bytes), &[]);
            records.push(Kept { partition, offset: 0, timestamp_ms: self.now_ms, key, value, open: false });
        }
        let compression = [Compression::None, Compression::Lz4, Compression::Zstd][rng.random_range(0..3)];
        (builder.build(compression).unwrap(), records)
    }

    fn value(&self, rng: &mut StdRng) -> (Option<String>, Value) {
        match rng.random_range(0..25) {
            0 | 1 => return (None, Value::Tombstone),
            // In a table it hides what its key had before.
            2 => return (Some("no json".to_owned()), Value::Broken),
            3 => return (Some(r#"{"c0": {"a": []}, "c1": [[]]}"#.to_owned()), Value::Broken),
            _ => {}
        }
        let (mut fields, mut cells) = (Vec::new(), Vec::new());
        for (name, kind) in &self.model.columns {
            let (cell, json) = match rng.random_range(0..10) {
                0 => (null_of(*kind), None),
                1 => (null_of(*kind), Some("null".to_owned())),
                _ => {
                    let (cell, json) = kind.random(rng);
                    (cell, Some(json))
                }
            };
            cells.push(cell);
            fields.extend(json.map(|json| format!("\"{name}\": {json}")));
        }
        (Some(format!("{{{}}}", fields.join(", "))), Value::Cells(cells))
    }

    /// Commits batches of some partitions in one act.
    async fn append(&mut self, rng: &mut StdRng, producer: Option<ProducerIdentity>) -> usize {
        let (mut appends, mut written) = (Vec::new(), Vec::new());
        for partition in 0..PARTITIONS {
            if rng.random_bool(0.4) {
                continue;
            }
            let (mut batch, records) = self.records(rng, partition);
            if let (Some(producer), Some(open)) = (producer, &mut self.open) {
                batch = batch.in_transaction(producer, open.sequences[partition]);
                open.sequences[partition] += i32::try_from(records.len()).unwrap();
            }
            let TopicPartition { topic, partition } = self.partition(partition);
            appends.push(Append { topic, partition, batch });
            written.push(records);
        }
        let storage = self.node().storage.clone();
        let receipt = storage.commit(Commit { appends, ..Commit::default() }).await.unwrap();
        let mut count = 0;
        for (appended, records) in receipt.appended.iter().zip(written) {
            for (record, offset) in records.into_iter().zip(appended.base_offset..) {
                if producer.is_some() {
                    let end = &mut self.model.stable_ends[record.partition];
                    *end = (*end).min(offset);
                }
                self.model.records.push(Kept { offset, open: producer.is_some(), ..record });
                count += 1;
            }
        }
        count
    }

    async fn produce(&mut self, rng: &mut StdRng) -> String {
        format!("{} records were produced", self.append(rng, None).await)
    }

    async fn change(&mut self, change: TransactionChange) -> ProducerIdentity {
        let commit = Commit { transactions: vec![change], ..Commit::default() };
        self.node().storage.clone().commit(commit).await.unwrap().transactions[0]
    }

    /// Begins a transaction, goes on with the open one, or ends it.
    async fn transact(&mut self, rng: &mut StdRng) -> String {
        let transactional_id = TRANSACTIONAL_ID.to_owned();
        let Some(producer) = self.open.as_ref().map(|open| open.producer) else {
            let init = TransactionChange::Init {
                transactional_id: transactional_id.clone(),
                timeout_ms: TIMEOUT_MS,
                expected: None,
            };
            let producer = self.change(init).await;
            let partitions = (0..PARTITIONS).map(|partition| self.partition(partition)).collect();
            self.change(TransactionChange::AddPartitions { transactional_id, producer, partitions }).await;
            self.open = Some(Open { producer, sequences: [0; PARTITIONS] });
            return format!("a transaction began with {} records", self.append(rng, Some(producer)).await);
        };
        if rng.random_bool(0.3) {
            return format!("{} records were added to a transaction", self.append(rng, Some(producer)).await);
        }
        let committed = rng.random_bool(0.6);
        self.change(TransactionChange::End { transactional_id, producer, committed }).await;
        self.open = None;
        self.model.records.retain(|record| committed || !record.open);
        self.model.records.iter_mut().for_each(|record| record.open = false);
        self.model.stable_ends = [i64::MAX; PARTITIONS];
        format!("a transaction was {}", if committed { "committed" } else { "aborted" })
    }

    async fn vacuum(&mut self) -> String {
        self.node().run("VACUUM").await;
        if self.policy == Policy::LetGo {
            // Whole objects go, as many as the size allows; only storage knows where they end.
            self.forget_below_log_starts();
        }
        if self.policy == Policy::Compact {
            self.forget_compacted().await;
        }
        "VACUUM".to_owned()
    }

    fn forget_below_log_starts(&mut self) {
        let storage = &self.node.as_ref().unwrap().storage;
        let start = |partition| storage.watermarks(self.partition(partition)).unwrap().log_start_offset;
        let starts: Vec<i64> = (0..PARTITIONS).map(start).collect();
        self.model.records.retain(|record| record.open || record.offset >= starts[record.partition]);
    }

    /// Compaction may leave any record that is not its key's latest, and must leave that one.
    async fn forget_compacted(&mut self) {
        let left = self.offsets().await;
        let visible = self.model.places();
        assert!(left.is_subset(&visible), "what VACUUM left was there before: {:?}", left.difference(&visible));
        for (key, record) in self.model.latest() {
            let gone = matches!(record.value, Value::Tombstone) || left.contains(&(record.partition, record.offset));
            assert!(gone, "VACUUM took the latest record of {key}: {record:?}");
        }
        self.model.records.retain(|record| {
            let place = (record.partition, record.offset);
            !visible.contains(&place) || left.contains(&place)
        });
    }

    async fn trim(&mut self, rng: &mut StdRng) -> String {
        let partition = rng.random_range(0..PARTITIONS);
        let place = self.partition(partition);
        let storage = self.node().storage.clone();
        let ends = storage.watermarks(place).unwrap();
        let log_start_offset = rng.random_range(ends.log_start_offset..=ends.last_stable_offset);
        storage.trim(vec![Trim { partition: place, log_start_offset }]).await.unwrap();
        self.model.records.retain(|record| record.partition != partition || record.offset >= log_start_offset);
        format!("partition {partition} was trimmed to {log_start_offset}")
    }

    /// Stops the node in order and starts it again.
    pub(super) async fn restart(&mut self) {
        self.node.take().unwrap().close().await;
        let settings = settings(self.local_retention_ms);
        self.node = Some(Node::open_with(self.directory.path(), settings).await);
    }

    /// Offsets as `topics."h"` has them, each of which may be there once only.
    async fn offsets(&mut self) -> BTreeSet<(usize, i64)> {
        let rows = self.node().run("SELECT _partition, _offset FROM topics.\"h\"").await;
        let mut counts: BTreeMap<(usize, i64), usize> = BTreeMap::new();
        for row in &rows {
            let [Cell::Text(partition), Cell::Text(offset)] = &row[..] else { panic!("{row:?}") };
            *counts.entry((partition.parse().unwrap(), offset.parse().unwrap())).or_default() += 1;
        }
        let repeated: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
        assert!(repeated.is_empty(), "each offset once: {repeated:?}");
        counts.into_keys().collect()
    }

    /// Each visible record's offset is there, once, and no other.
    pub(super) async fn look_at_offsets(&mut self, told: &str) {
        let (found, right) = (self.offsets().await, self.model.places());
        let (missing, more): (Vec<_>, Vec<_>) =
            (right.difference(&found).collect(), found.difference(&right).collect());
        assert!(
            missing.is_empty() && more.is_empty(),
            "{told}\nmissing offsets {missing:?}\noffsets too many {more:?}"
        );
    }
}
