//! Rows of the log are decoded once: whoever asks next is given the same rows, and never any that are not its snapshot's.

use aquifer_storage::{Error, TransactionChange, Trim};

use super::*;
use crate::support::eventually;
use crate::transactions::{add, end, init};

/// As many as make several blocks, the last of them not full.
const MANY: usize = 20_000;

/// Compares a scan through what is shared with one that decodes for itself; what it counted.
async fn same(pinned: &Snapshot, topic: &Topic, request: ScanRequest, asked: &DeclaredScan) -> ScanCounts {
    let place = at(topic, 0);
    let expected = decoded(pinned, place, request.clone(), asked).await;
    let (found, counts) = typed(pinned, place, request, asked.clone()).await;
    assert_eq!(found.errors, expected.errors);
    assert_eq!(found.rows.num_rows(), expected.rows.num_rows());
    if found.rows.num_rows() > 0 {
        assert_eq!(found.rows, expected.rows);
    }
    counts
}

async fn produce_many(storage: &Storage, topic: &Topic, format: &RecordFormat, rng: &mut StdRng, records: usize) {
    for start in (0..records).step_by(500) {
        produce_batch(storage, topic, format, rng, start..records.min(start + 500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_log_are_decoded_once_and_a_snapshot_sees_its_own() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let rng = &mut StdRng::seed_from_u64(11);
    let (_, wide) = wider(rng);
    let topic = forgetful_topic(&storage, "t", 1).await;
    produce_many(&storage, &topic, &wide, rng, MANY).await;
    let asked = DeclaredScan { format: Arc::new(wide.clone()), wanted: vec![1, 0] };
    let all = || ScanRequest::all(vec![RecordColumn::CommittedAt, RecordColumn::Offset]);
    let old = snapshot(&storage, &topic);
    let counts = same(&old, &topic, all(), &asked).await;
    assert_eq!((counts.hot_rows, counts.hot_rows_shared), (MANY as u64, 0));
    let counts = same(&old, &topic, all(), &asked).await;
    assert_eq!(counts.hot_rows, MANY as u64);
    assert!(counts.hot_rows_shared > counts.hot_rows / 2, "all but what did not decode: {counts:?}");
    let hot_rows = storage.caches().into_iter().find(|cache| cache.name == "hot_rows").unwrap();
    assert!(hot_rows.bytes > 0 && hot_rows.bytes <= hot_rows.bytes_max, "{hot_rows:?}");

    // Another declaration's rows are others.
    let other = RecordFormat { columns: wide.columns[..1].to_vec(), ..wide.clone() };
    let other = DeclaredScan { format: Arc::new(other), wanted: vec![0] };
    assert_eq!(same(&old, &topic, all(), &other).await.hot_rows_shared, 0);

    // A block grows; who pinned before that is not shown what came.
    produce_many(&storage, &topic, &wide, rng, 700).await;
    let new = snapshot(&storage, &topic);
    same(&new, &topic, all(), &asked).await;
    same(&old, &topic, all(), &asked).await;
    for _ in 0..20 {
        let start = rng.random_range(0..MANY as i64);
        let request = ScanRequest {
            offset_start: start,
            offset_end: start + rng.random_range(1..12_000),
            batch_rows: [8192, 100][rng.random_range(0..2)],
            hasty: rng.random_bool(0.3),
            ..all()
        };
        same([&old, &new][rng.random_range(0..2)], &topic, request, &asked).await;
    }

    // What is trimmed is not shown to who comes later.
    storage.trim(vec![Trim { partition: at(&topic, 0), log_start_offset: 5_000 }]).await.unwrap();
    let trimmed = snapshot(&storage, &topic);
    assert_eq!(trimmed.range(at(&topic, 0)).unwrap().start, 5_000);
    same(&trimmed, &topic, all(), &asked).await;
    same(&old, &topic, all(), &asked).await;

    // What is tiered is read from objects; and another topic of that name begins anew.
    storage.checkpoint().await.unwrap();
    assert_eq!(same(&snapshot(&storage, &topic), &topic, all(), &asked).await.hot_rows, 0);
    drop((old, new, trimmed));
    storage.delete_topic(topic.id).await.unwrap();
    eventually("the name is free", async || storage.topic("t").is_none()).await;
    let again = forgetful_topic(&storage, "t", 1).await;
    produce_many(&storage, &again, &wide, rng, 600).await;
    let counts = same(&snapshot(&storage, &again), &again, all(), &asked).await;
    assert_eq!((counts.hot_rows, counts.hot_rows_shared), (600, 0));
    close(storage).await;
}

/// Records of a transaction, which declared columns can be read of.
async fn send(
    storage: &Storage,
    topic: &Topic,
    id: &str,
    first: i32,
    records: i32,
    committed: bool,
) -> Result<(), Error> {
    let producer = init(storage, id).await;
    add(storage, id, producer, &[at(topic, 0)]).await?;
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    for number in first..first + records {
        builder.push(1_000, None, Some(format!("{{\"n\": {number}}}").as_bytes()), &[]);
    }
    let batch = builder.build(Compression::None).unwrap().in_transaction(producer, 0);
    let appends = vec![Append { topic: topic.id, partition: 0, batch }];
    storage.commit(Commit { appends, ..Commit::default() }).await?;
    end(storage, id, producer, committed).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_aborted_or_is_open_is_in_no_shared_rows() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let format = RecordFormat {
        columns: vec![column("n", ColumnType::BigInt, ColumnRole::Value)],
        key_format: Format::None,
        value_format: Format::Json,
        tombstones: false,
    };
    let topic = forgetful_topic(&storage, "t", 1).await;
    let asked = DeclaredScan { format: Arc::new(format), wanted: vec![0] };
    let all = || ScanRequest::all(vec![RecordColumn::CommittedAt, RecordColumn::Offset]);
    let mut expected = 0;
    for round in 0..12 {
        let committed = round % 3 != 1;
        send(&storage, &topic, "a", round * 1_000, 900, committed).await.unwrap();
        expected += if committed { 900 } else { 0 };
        // One that is open while others look: what lies behind it is seen by nobody yet.
        let open = init(&storage, "b").await;
        add(&storage, "b", open, &[at(&topic, 0)]).await.unwrap();
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        builder.push(1_000, None, Some(b"{\"n\": -1}"), &[]);
        let batch = builder.build(Compression::None).unwrap().in_transaction(open, 0);
        let appends = vec![Append { topic: topic.id, partition: 0, batch }];
        storage.commit(Commit { appends, ..Commit::default() }).await.unwrap();
        for _ in 0..2 {
            let counts = same(&snapshot(&storage, &topic), &topic, all(), &asked).await;
            assert_eq!(counts.hot_rows, expected, "round {round}");
        }
        let change =
            TransactionChange::End { transactional_id: "b".to_owned(), producer: open, committed: round % 2 == 0 };
        storage.commit(Commit { transactions: vec![change], ..Commit::default() }).await.unwrap();
        expected += u64::from(round % 2 == 0);
        let counts = same(&snapshot(&storage, &topic), &topic, all(), &asked).await;
        assert_eq!(counts.hot_rows, expected, "round {round}");
    }
    close(storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_declaration_gives_the_same_rows_shared_or_not() {
    let home = tempfile::tempdir().unwrap();
    let storage = open_tiered(home.path()).await;
    let mut errors = 0;
    for seed in 100..130 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let format = format(rng);
        let topic = forgetful_topic(&storage, &format!("t{seed}"), 1).await;
        for _ in 0..3 {
            produce(&storage, &topic, &format, rng, RECORDS).await;
            let pinned = snapshot(&storage, &topic);
            for _ in 0..3 {
                let wanted = (0..format.columns.len()).filter(|_| rng.random_bool(0.6)).collect();
                let columns = RecordColumn::ALL.into_iter().filter(|_| rng.random_bool(0.3)).collect();
                let start = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..40) };
                let request = ScanRequest { offset_start: start, batch_rows: 50, ..ScanRequest::all(columns) };
                let asked = DeclaredScan { format: Arc::new(format.clone()), wanted };
                same(&pinned, &topic, request.clone(), &asked).await;
                errors += typed(&pinned, at(&topic, 0), request, asked).await.0.errors.len();
            }
        }
    }
    assert!(errors > 100, "{errors} errors");
    close(storage).await;
}
