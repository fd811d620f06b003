//! Random histories of a topic under all that housekeeping does, against a plain model of what must be there.

use super::*;

/// What a test knows of one record.
#[derive(Clone, Debug)]
struct Known {
    record: Record,
    committed_at_us: i64,
    /// When the first compaction had seen it, ms.
    cleaned_ms: Option<i64>,
}

/// What a test knows of a topic, and what it has pinned of it.
struct Model {
    partitions: [Vec<Known>; 2],
    pinned: Vec<(Snapshot, [Vec<Record>; 2])>,
}

#[derive(Clone, Debug)]
enum Step {
    Produce { partition: i32, records: Vec<(Option<u8>, bool)> },
    Checkpoint,
    Vacuum,
    Restart,
    Advance { ms: i64 },
    Trim { partition: i32, share: f64 },
    Pin,
    LookAtPinned,
}

fn step() -> impl Strategy<Value = Step> {
    let records = prop::collection::vec((prop::option::weighted(0.97, 0..40_u8), prop::bool::weighted(0.7)), 1..40);
    prop_oneof![
        6 => (0..2i32, records).prop_map(|(partition, records)| Step::Produce { partition, records }),
        4 => Just(Step::Checkpoint),
        4 => Just(Step::Vacuum),
        1 => Just(Step::Restart),
        2 => (1..2000_i64).prop_map(|ms| Step::Advance { ms }),
        1 => (0..2i32, 0.0..1.0_f64).prop_map(|(partition, share)| Step::Trim { partition, share }),
        1 => Just(Step::Pin),
        1 => Just(Step::LookAtPinned),
    ]
}

const DELETE_RETENTION_MS: i64 = 1500;
const RETENTION_MS: i64 = 2500;

/// A random history of one topic beside the model of it.
struct History {
    bench: Bench,
    storage: Storage,
    topic: Arc<Topic>,
    policy: CleanupPolicy,
    model: Model,
}

impl History {
    async fn begin(policy: CleanupPolicy, memory_bytes: u64, object_bytes: u64) -> Self {
        let mut bench = Bench::new();
        bench.settings.compaction_memory_bytes = memory_bytes;
        bench.settings.merge_object_bytes = object_bytes;
        let storage = bench.open().await;
        let retention_ms = policy.deletes().then_some(RETENTION_MS);
        let kept = TopicConfig { retention_ms, delete_retention_ms: Some(DELETE_RETENTION_MS), ..config(policy) };
        let topic = topic_with(&storage, "random", 2, kept).await;
        let model = Model { partitions: [vec![], vec![]], pinned: vec![] };
        Self { bench, storage, topic, policy, model }
    }

    async fn take(mut self, step: Step) -> Self {
        match step {
            Step::Produce { partition, records } => self.produce(partition, &records).await,
            Step::Checkpoint => drop(self.storage.checkpoint().await.unwrap()),
            Step::Vacuum => self.vacuum().await,
            Step::Restart => {
                self.model.pinned.clear();
                close(self.storage).await;
                self.storage = self.bench.open().await;
            }
            Step::Advance { ms } => self.bench.advance_ms(ms),
            Step::Trim { partition, share } => self.trim(partition, share).await,
            Step::Pin => {
                let pinned = snapshot(&self.storage, &self.topic);
                let seen = [self.read(&pinned, 0).await, self.read(&pinned, 1).await];
                self.model.pinned.push((pinned, seen));
            }
            Step::LookAtPinned => {
                for (pinned, seen) in &self.model.pinned {
                    for (partition, seen) in (0..).zip(seen) {
                        assert_eq!(&self.read(pinned, partition).await, seen, "a pinned view has changed");
                    }
                }
            }
        }
        self
    }

    async fn read(&self, pinned: &Snapshot, partition: i32) -> Vec<Record> {
        scan_all(pinned, at(&self.topic, partition)).await
    }

    async fn produce(&mut self, partition: i32, records: &[(Option<u8>, bool)]) {
        let known = &mut self.model.partitions[usize::try_from(partition).unwrap()];
        let now_ms = self.bench.clock.now_ms();
        let sent: Vec<Record> = (0..)
            .zip(records)
            .map(|(at, (key, has_value))| {
                // Topics that are compacted take keyed records only.
                let key = key.or(self.policy.compacts().then_some(0)).map(|key| format!("key {key}"));
                let offset = known.len() as i64 + at;
                sent(offset, now_ms, key.as_deref(), has_value.then(|| format!("value {offset}")))
            })
            .collect();
        let append = Append { topic: self.topic.id, partition, batch: batch(&sent) };
        let receipt = self.storage.commit(Commit { appends: vec![append], ..Commit::default() }).await.unwrap();
        assert_eq!(receipt.appended[0].base_offset, known.len() as i64);
        let committed_at_us = receipt.commit_time_us;
        known.extend(sent.into_iter().map(|record| Known { record, committed_at_us, cleaned_ms: None }));
    }

    async fn trim(&mut self, partition: i32, share: f64) {
        let ends = self.storage.watermarks(at(&self.topic, partition)).unwrap();
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "any offset will do")]
        let log_start_offset =
            ends.log_start_offset + ((ends.high_watermark - ends.log_start_offset) as f64 * share / 2.0) as i64;
        let trim = Trim { partition: at(&self.topic, partition), log_start_offset };
        self.storage.trim(vec![trim]).await.unwrap();
        assert_eq!(self.storage.watermarks(at(&self.topic, partition)).unwrap().log_start_offset, log_start_offset);
    }

    async fn vacuum(&mut self) {
        let report: VacuumReport = self.storage.vacuum(None).await.unwrap();
        assert_eq!(report.topics, 1);
        for partition in 0..2 {
            self.check(partition, true).await;
        }
    }

    /// What is there is what must be there, as bytes and as rows; just after a vacuum nothing else is.
    async fn check(&mut self, partition: i32, vacuumed: bool) {
        let place = at(&self.topic, partition);
        let ends = self.storage.watermarks(place).unwrap();
        let found = scan_all(&snapshot(&self.storage, &self.topic), place).await;
        // What compaction has removed may still lie in the log, where a consumer gets it.
        let consumed = consume(&self.storage, place, ends.log_start_offset, 700).await;
        let in_both = consumed
            .into_iter()
            .filter(|record| found.binary_search_by_key(&record.offset, |found| found.offset).is_ok());
        assert_eq!(in_both.collect::<Vec<_>>(), found);
        let committed = commit_times(&self.storage, &self.topic, partition).await;
        let now_ms = self.bench.clock.now_ms();
        let known = &mut self.model.partitions[usize::try_from(partition).unwrap()];
        assert_eq!(ends.high_watermark, known.len() as i64);
        let offsets: Vec<i64> = found.iter().map(|record| record.offset).collect();
        assert!(offsets.is_sorted_by(|one, next| one < next), "{offsets:?}");
        for (record, committed_at_us) in found.iter().zip(committed) {
            let sent = &known[usize::try_from(record.offset).unwrap()];
            assert_eq!((record, committed_at_us), (&sent.record, sent.committed_at_us));
        }
        let start = ends.log_start_offset;
        if !self.policy.compacts() {
            assert_eq!(offsets, (start..ends.high_watermark).collect::<Vec<_>>());
            return;
        }
        let mut latest: BTreeMap<&[u8], i64> = BTreeMap::new();
        for sent in
            known.iter().filter(|sent| sent.record.offset < ends.tiered_end_offset && sent.record.offset >= start)
        {
            latest.insert(sent.record.key.as_deref().unwrap(), sent.record.offset);
        }
        let latest: BTreeSet<i64> = latest.into_values().collect();
        let found: BTreeSet<i64> = offsets.into_iter().collect();
        for offset in start..ends.high_watermark {
            let sent = &mut known[usize::try_from(offset).unwrap()];
            let is_there = found.contains(&offset);
            if offset >= ends.tiered_end_offset {
                assert!(is_there, "offset {offset} is hot");
                continue;
            }
            let expired = sent.cleaned_ms.is_some_and(|cleaned_ms| cleaned_ms + DELETE_RETENTION_MS <= now_ms);
            match (latest.contains(&offset), sent.record.value.is_none() && expired) {
                (false, _) => assert!(!(is_there && vacuumed), "offset {offset} is not the latest of its key"),
                (true, false) => assert!(is_there, "offset {offset} is the latest of its key"),
                // It may go, but the log may still have older records of its key.
                (true, true) => {}
            }
            if vacuumed {
                sent.cleaned_ms.get_or_insert(now_ms);
            }
        }
    }
}

async fn commit_times(storage: &Storage, topic: &Topic, partition: i32) -> Vec<i64> {
    let request = ScanRequest::all(vec![RecordColumn::CommittedAt]);
    let rows = snapshot(storage, topic).scan(at(topic, partition), request).unwrap();
    let batches: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    batches
        .iter()
        .flat_map(|rows| rows.column(0).as_primitive::<TimestampMicrosecondType>().values().to_vec())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_is_merged_compacted_and_removed_the_rest_is_as_it_was_sent(
        steps in prop::collection::vec(step(), 1..40),
        policy in prop::sample::select(vec![CleanupPolicy::Delete, CleanupPolicy::Compact, CleanupPolicy::CompactDelete]),
        memory_bytes in prop::sample::select(vec![0_u64, 64 << 20]),
        object_bytes in prop::sample::select(vec![4_u64 << 10, 16 << 10, 128 << 20]),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut history = History::begin(policy, memory_bytes, object_bytes).await;
            for step in steps {
                history = history.take(step).await;
            }
            history = history.take(Step::Checkpoint).await.take(Step::Vacuum).await.take(Step::LookAtPinned).await;
            close(history.storage).await;
        });
    }
}
