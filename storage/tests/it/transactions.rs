//! Transactions: all of one or nothing of it, for whoever reads committed records, whatever ends first: the producer, its
//! timeout, the process or the power.

mod orphans;
mod power_cuts;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aquifer_storage::clock::ManualClock;
use aquifer_storage::record::batch::{BatchHeader, CheckedBatch, Marker};
use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::testing::FaultDisk;
use aquifer_storage::{
    Append, Commit, Error, FetchRequest, GroupOffset, Isolation, OpenOptions, ProducerIdentity, Result, ScanRequest,
    Storage, Topic, TopicPartition, TransactionChange, TransactionState, Trim,
};
use arrow::array::AsArray;
use futures::TryStreamExt;

use crate::support::*;

pub(crate) const MINUTE_MS: i32 = 60_000;

pub(crate) async fn step(storage: &Storage, change: TransactionChange) -> Result<ProducerIdentity> {
    let receipt = storage.commit(Commit { transactions: vec![change], ..Commit::default() }).await?;
    Ok(receipt.transactions[0])
}

pub(crate) async fn init(storage: &Storage, id: &str) -> ProducerIdentity {
    renew(storage, id, None).await.unwrap()
}

pub(crate) async fn renew(storage: &Storage, id: &str, expected: Option<ProducerIdentity>) -> Result<ProducerIdentity> {
    step(storage, TransactionChange::Init { transactional_id: id.to_owned(), timeout_ms: MINUTE_MS, expected }).await
}

pub(crate) async fn add(
    storage: &Storage,
    id: &str,
    producer: ProducerIdentity,
    partitions: &[TopicPartition],
) -> Result<()> {
    let (transactional_id, partitions) = (id.to_owned(), partitions.to_vec());
    step(storage, TransactionChange::AddPartitions { transactional_id, producer, partitions }).await.map(drop)
}

pub(crate) async fn end(
    storage: &Storage,
    id: &str,
    producer: ProducerIdentity,
    committed: bool,
) -> Result<ProducerIdentity> {
    step(storage, TransactionChange::End { transactional_id: id.to_owned(), producer, committed }).await
}

pub(crate) async fn send(
    storage: &Storage,
    producer: ProducerIdentity,
    sequence: i32,
    partition: TopicPartition,
    values: &[&str],
) -> Result<i64> {
    let batch = batch(values).in_transaction(producer, sequence);
    Ok(storage.commit(appends(partition, batch)).await?.appended[0].base_offset)
}

pub(crate) fn offset(offset: i64) -> GroupOffset {
    GroupOffset { offset, leader_epoch: -1, metadata: "m".to_owned(), committed_at_us: 0 }
}

pub(crate) async fn send_offset(
    storage: &Storage,
    id: &str,
    producer: ProducerIdentity,
    partition: TopicPartition,
    at: i64,
) -> Result<()> {
    let (transactional_id, group) = (id.to_owned(), "g".to_owned());
    let add = TransactionChange::AddOffsets { transactional_id, producer, group };
    step(storage, add).await?;
    let (transactional_id, group) = (id.to_owned(), "g".to_owned());
    let offsets = vec![(partition, offset(at))];
    step(storage, TransactionChange::CommitOffsets { transactional_id, producer, group, offsets }).await.map(drop)
}

/// What a Kafka consumer that reads committed records makes of its fetches.
pub(crate) async fn consume_committed(storage: &Storage, partition: TopicPartition) -> Vec<String> {
    let mut values = Vec::new();
    let mut offset = storage.watermarks(partition).unwrap().log_start_offset;
    loop {
        let request = FetchRequest { partition, offset, bytes_max: 500, isolation: Isolation::ReadCommitted };
        let fetched = storage.fetch(request).await.unwrap();
        if fetched.batches.is_empty() {
            assert_eq!(offset, fetched.watermarks.last_stable_offset, "a consumer gets to the end");
            return values;
        }
        let mut starts = fetched.aborted.iter().peekable();
        let mut undone: HashSet<i64> = HashSet::new();
        for batch in fetched.batches.iter().flat_map(split) {
            let header = *batch.header();
            while let Some(start) = starts.next_if(|start| start.first_offset <= header.base_offset) {
                undone.insert(start.producer_id);
            }
            offset = header.last_offset() + 1;
            if let Some(marker) = Marker::of(&batch) {
                if !marker.committed {
                    undone.remove(&header.producer_id);
                }
            } else if !(header.is_transactional() && undone.contains(&header.producer_id)) {
                for record in batch.records(LIMITS).unwrap().iter() {
                    values.push(String::from_utf8_lossy(record.unwrap().value.unwrap()).into_owned());
                }
            }
        }
    }
}

fn split(bytes: &bytes::Bytes) -> Vec<CheckedBatch> {
    let mut rest = bytes.clone();
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let length = BatchHeader::parse(&rest).unwrap().total_bytes();
        batches.push(CheckedBatch::parse_stored(rest.split_to(length)).unwrap());
    }
    batches
}

/// What SQL sees.
pub(crate) async fn select(storage: &Storage, partition: TopicPartition) -> Vec<String> {
    let snapshot = storage.snapshot(&[partition.topic], &HashMap::new()).unwrap();
    let request = ScanRequest::all(vec![RecordColumn::Value]);
    let rows: Vec<_> = snapshot.scan(partition, request).unwrap().try_collect().await.unwrap();
    let counted: Vec<_> = snapshot.scan(partition, ScanRequest::all(vec![])).unwrap().try_collect().await.unwrap();
    let values: Vec<String> = rows
        .iter()
        .flat_map(|batch| batch.column(0).as_binary::<i32>().iter())
        .map(|value| String::from_utf8_lossy(value.unwrap()).into_owned())
        .collect();
    assert_eq!(counted.iter().map(|batch| batch.num_rows()).sum::<usize>(), values.len(), "counts see what rows see");
    values
}

pub(crate) async fn both(storage: &Storage, partition: TopicPartition) -> Vec<String> {
    let consumed = consume_committed(storage, partition).await;
    assert_eq!(select(storage, partition).await, consumed, "SQL and Kafka agree");
    consumed
}

pub(crate) fn state(storage: &Storage, id: &str) -> TransactionState {
    storage.transactions().into_iter().find(|info| info.transactional_id == id).unwrap().state
}

pub(crate) fn stable(storage: &Storage, partition: TopicPartition) -> (i64, i64) {
    let ends = storage.watermarks(partition).unwrap();
    (ends.last_stable_offset, ends.high_watermark)
}

/// Small segments, so that snapshots are made; objects in the directory, so that the log may forget.
fn small(dir: &Path) -> OpenOptions {
    let mut options = options(dir);
    options.object_store_url = None;
    options.settings.wal_segment_bytes = 1 << 13;
    options.settings.topic_local_retention_ms = 0;
    options
}

/// Fills segments until older ones are sealed and covered by snapshots.
async fn roll(storage: &Storage, topic: &Topic) {
    for _ in 0..12 {
        produce(storage, at(topic, 0), &["f".repeat(2000).as_str()]).await.unwrap();
    }
}

#[tokio::test]
async fn nothing_of_a_transaction_is_seen_before_its_end_and_all_of_it_after() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let topic = topic(&storage, "events", 2).await;
    produce(&storage, at(&topic, 0), &["before"]).await.unwrap();
    let producer = init(&storage, "t").await;
    assert_eq!(state(&storage, "t"), TransactionState::Empty);
    add(&storage, "t", producer, &[at(&topic, 0), at(&topic, 1)]).await.unwrap();
    send(&storage, producer, 0, at(&topic, 0), &["a", "b"]).await.unwrap();
    send(&storage, producer, 0, at(&topic, 1), &["c"]).await.unwrap();
    send_offset(&storage, "t", producer, at(&topic, 0), 7).await.unwrap();
    produce(&storage, at(&topic, 0), &["behind"]).await.unwrap();

    assert_eq!(stable(&storage, at(&topic, 0)), (1, 4));
    assert_eq!(stable(&storage, at(&topic, 1)), (0, 1));
    assert_eq!(both(&storage, at(&topic, 0)).await, ["before"]);
    assert_eq!(values(&storage, at(&topic, 0)).await, ["before", "a", "b", "behind"]);
    assert!(storage.group_offsets(Some("g")).is_empty());
    assert_eq!(storage.pending_offsets("g"), [at(&topic, 0)]);
    assert_eq!(storage.producers(at(&topic, 0)).await.unwrap()[0].open_since, Some(1));
    let info = &storage.transactions()[0];
    assert_eq!((info.partitions.len(), info.groups.len(), info.producer), (2, 1, producer));
    assert!(info.started_at_us.is_some());

    end(&storage, "t", producer, true).await.unwrap();
    assert_eq!(both(&storage, at(&topic, 0)).await, ["before", "a", "b", "behind"]);
    assert_eq!(both(&storage, at(&topic, 1)).await, ["c"]);
    assert_eq!(stable(&storage, at(&topic, 0)), (5, 5));
    assert_eq!(storage.group_offsets(Some("g"))[0].2.offset, 7);
    assert!(storage.pending_offsets("g").is_empty());
    let info = &storage.transactions()[0];
    assert_eq!((info.state, info.partitions.len()), (TransactionState::CompleteCommit, 0));
    let known = storage.producers(at(&topic, 0)).await.unwrap()[0];
    assert_eq!((known.open_since, known.last_sequence, known.coordinator_epoch), (None, 1, 0));
    stop(storage).await;
}

#[tokio::test]
async fn what_was_aborted_is_never_a_row_hot_or_cold() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(small(dir.path())).await.unwrap();
    let topic = topic(&storage, "events", 2).await;
    let (one, two) = (init(&storage, "one").await, init(&storage, "two").await);
    let mut expected = Vec::new();
    for round in 0..6 {
        let sequence = round * 2;
        add(&storage, "one", one, &[at(&topic, 0), at(&topic, 1)]).await.unwrap();
        add(&storage, "two", two, &[at(&topic, 0)]).await.unwrap();
        let commits = round % 3 == 0;
        let (kept, undone) = (format!("kept {round}"), format!("of one {round}"));
        send(&storage, one, sequence, at(&topic, 0), &[&undone, &undone]).await.unwrap();
        send(&storage, two, sequence, at(&topic, 0), &[&kept, &kept]).await.unwrap();
        send(&storage, one, sequence, at(&topic, 1), &[&undone, &undone]).await.unwrap();
        send_offset(&storage, "one", one, at(&topic, 0), 5).await.unwrap();
        end(&storage, "one", one, commits).await.unwrap();
        if commits {
            expected.extend([undone.clone(), undone]);
        }
        end(&storage, "two", two, true).await.unwrap();
        expected.extend([kept.clone(), kept]);
    }
    assert_eq!(both(&storage, at(&topic, 0)).await, expected);
    roll(&storage, &topic).await;
    expected.extend(std::iter::repeat_n("f".repeat(2000), 12));
    assert_eq!(both(&storage, at(&topic, 0)).await, expected);
    // Tiered and still hot, then forgotten, then opened again.
    storage.checkpoint().await.unwrap();
    assert_eq!(both(&storage, at(&topic, 0)).await, expected);
    eventually("the log forgets", async || {
        storage.checkpoint().await.unwrap();
        storage.segments().len() < 4
    })
    .await;
    assert_eq!(both(&storage, at(&topic, 0)).await, expected);
    assert_eq!(both(&storage, at(&topic, 1)).await.len(), 4);
    stop(storage).await;
    let storage = Storage::open(small(dir.path())).await.unwrap();
    assert_eq!(both(&storage, at(&topic, 0)).await, expected);
    stop(storage).await;
}

#[tokio::test]
async fn tiering_stops_at_the_last_stable_offset_and_the_log_keeps_what_is_behind() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(small(dir.path())).await.unwrap();
    let topic = topic(&storage, "events", 1).await;
    produce(&storage, at(&topic, 0), &["first"]).await.unwrap();
    let producer = init(&storage, "t").await;
    add(&storage, "t", producer, &[at(&topic, 0)]).await.unwrap();
    send(&storage, producer, 0, at(&topic, 0), &["open"]).await.unwrap();
    roll(&storage, &topic).await;
    assert_eq!(storage.checkpoint().await.unwrap().rows, 1);
    assert_eq!(storage.watermarks(at(&topic, 0)).unwrap().tiered_end_offset, 1);
    assert_eq!(both(&storage, at(&topic, 0)).await, ["first"]);
    end(&storage, "t", producer, false).await.unwrap();
    assert_eq!(storage.checkpoint().await.unwrap().rows, 12);
    assert_eq!(both(&storage, at(&topic, 0)).await.len(), 13);
    stop(storage).await;
}

#[tokio::test]
async fn a_transaction_goes_on_after_a_restart_wherever_it_stood() {
    for rolled in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(small(dir.path())).await.unwrap();
        let topic = topic(&storage, "events", 2).await;
        let mut producers = BTreeMap::new();
        for id in ["empty", "open", "committed", "aborted"] {
            producers.insert(id, init(&storage, id).await);
        }
        for id in ["open", "committed", "aborted"] {
            add(&storage, id, producers[id], &[at(&topic, 1)]).await.unwrap();
            send(&storage, producers[id], 0, at(&topic, 1), &[id]).await.unwrap();
        }
        send_offset(&storage, "open", producers["open"], at(&topic, 0), 3).await.unwrap();
        end(&storage, "committed", producers["committed"], true).await.unwrap();
        end(&storage, "aborted", producers["aborted"], false).await.unwrap();
        if rolled {
            roll(&storage, &topic).await;
        }
        let before = (storage.transactions(), stable(&storage, at(&topic, 1)));
        let known = storage.producers(at(&topic, 1)).await.unwrap();
        stop(storage).await;

        let storage = Storage::open(small(dir.path())).await.unwrap();
        assert_eq!((storage.transactions(), stable(&storage, at(&topic, 1))), before, "rolled: {rolled}");
        assert_eq!(storage.producers(at(&topic, 1)).await.unwrap(), known);
        assert_eq!(storage.pending_offsets("g"), [at(&topic, 0)]);
        assert_eq!(both(&storage, at(&topic, 1)).await, [""; 0]);
        end(&storage, "committed", producers["committed"], true).await.unwrap();
        end(&storage, "aborted", producers["aborted"], false).await.unwrap();
        send(&storage, producers["open"], 1, at(&topic, 1), &["and on"]).await.unwrap();
        end(&storage, "open", producers["open"], true).await.unwrap();
        assert_eq!(both(&storage, at(&topic, 1)).await, ["open", "committed", "and on"]);
        assert_eq!(storage.group_offsets(Some("g"))[0].2.offset, 3);
        let renewed = init(&storage, "empty").await;
        assert_eq!(renewed, ProducerIdentity { epoch: 1, ..producers["empty"] });
        stop(storage).await;
    }
}

#[tokio::test]
async fn a_producer_that_begins_again_aborts_and_fences_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let topic = topic(&storage, "events", 1).await;
    let old = init(&storage, "t").await;
    add(&storage, "t", old, &[at(&topic, 0)]).await.unwrap();
    send(&storage, old, 0, at(&topic, 0), &["lost"]).await.unwrap();
    let new = init(&storage, "t").await;
    assert_eq!(new, ProducerIdentity { epoch: old.epoch + 1, ..old });
    assert_eq!(stable(&storage, at(&topic, 0)), (2, 2), "what was open is aborted in the same commit");
    let late = send(&storage, old, 1, at(&topic, 0), &["late"]).await.unwrap_err();
    assert!(matches!(late, Error::InvalidProducerEpoch { epoch: 0, current: 1, .. }), "{late}");
    assert!(matches!(end(&storage, "t", old, true).await, Err(Error::ProducerFenced { .. })));
    assert!(matches!(add(&storage, "t", old, &[at(&topic, 0)]).await, Err(Error::ProducerFenced { .. })));
    add(&storage, "t", new, &[at(&topic, 0)]).await.unwrap();
    let gap = send(&storage, new, 1, at(&topic, 0), &["x"]).await.unwrap_err();
    assert!(matches!(gap, Error::OutOfOrderSequence { expected: 0, .. }), "{gap}");
    send(&storage, new, 0, at(&topic, 0), &["kept"]).await.unwrap();
    end(&storage, "t", new, true).await.unwrap();
    assert_eq!(both(&storage, at(&topic, 0)).await, ["kept"]);
    // KIP-360: it renews itself, and is answered again when the answer was lost.
    let renewed = renew(&storage, "t", Some(new)).await.unwrap();
    assert_eq!((renewed.epoch, renew(&storage, "t", Some(new)).await.unwrap()), (2, renewed));
    assert!(matches!(renew(&storage, "t", Some(old)).await, Err(Error::ProducerFenced { .. })));
    stop(storage).await;
}

#[tokio::test]
async fn what_does_not_fit_the_state_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let topic = topic(&storage, "events", 2).await;
    let producer = init(&storage, "t").await;
    let invalid = |error: &Error| matches!(error, Error::InvalidTransactionState { .. });
    assert!(invalid(&end(&storage, "t", producer, true).await.unwrap_err()), "nothing is open");
    assert!(invalid(&send(&storage, producer, 0, at(&topic, 0), &["x"]).await.unwrap_err()), "not added");
    add(&storage, "t", producer, &[at(&topic, 0)]).await.unwrap();
    assert!(invalid(&send(&storage, producer, 0, at(&topic, 1), &["x"]).await.unwrap_err()), "another partition");
    send(&storage, producer, 0, at(&topic, 0), &["in"]).await.unwrap();
    let outside = sequenced(&batch(&["out"]), producer.id, producer.epoch, 1);
    assert!(invalid(&storage.commit(appends(at(&topic, 0), outside)).await.unwrap_err()));
    let stranger = ProducerIdentity { id: 999_999, epoch: 0 };
    assert!(invalid(&send(&storage, stranger, 0, at(&topic, 0), &["x"]).await.unwrap_err()));
    let marker = Marker { committed: true, coordinator_epoch: 0 }.batch(producer, 0).unwrap();
    assert!(matches!(storage.commit(appends(at(&topic, 0), marker)).await, Err(Error::InvalidBatch { .. })));
    let (transactional_id, group) = ("t".to_owned(), "not added".to_owned());
    let offsets = TransactionChange::CommitOffsets { transactional_id, producer, group, offsets: vec![] };
    assert!(invalid(&step(&storage, offsets).await.unwrap_err()));
    assert!(matches!(end(&storage, "u", producer, true).await, Err(Error::UnknownTransactionalId { .. })));
    assert!(matches!(end(&storage, "t", stranger, true).await, Err(Error::UnknownTransactionalId { .. })));
    let nowhere = TopicPartition { partition: 9, ..at(&topic, 0) };
    assert!(matches!(add(&storage, "t", producer, &[nowhere]).await, Err(Error::UnknownPartition { .. })));
    for timeout_ms in [0, -1, 15 * MINUTE_MS + 1] {
        let init = TransactionChange::Init { transactional_id: "u".to_owned(), timeout_ms, expected: None };
        assert!(matches!(step(&storage, init).await, Err(Error::InvalidTransactionTimeout { .. })));
    }
    let reserved =
        TransactionChange::Init { transactional_id: "__aquifer/1/2".to_owned(), timeout_ms: MINUTE_MS, expected: None };
    assert!(invalid(&step(&storage, reserved).await.unwrap_err()));
    // None of it has touched the transaction.
    end(&storage, "t", producer, true).await.unwrap();
    assert_eq!(both(&storage, at(&topic, 0)).await, ["in"]);
    stop(storage).await;
}

#[tokio::test]
async fn a_retried_batch_and_a_retried_end_are_answered_again() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let topic = topic(&storage, "events", 1).await;
    let producer = init(&storage, "t").await;
    for round in 0..3 {
        add(&storage, "t", producer, &[at(&topic, 0)]).await.unwrap();
        let first = send(&storage, producer, round, at(&topic, 0), &["x"]).await.unwrap();
        assert_eq!(send(&storage, producer, round, at(&topic, 0), &["x"]).await.unwrap(), first);
        let committed = round != 1;
        for _ in 0..3 {
            assert_eq!(end(&storage, "t", producer, committed).await.unwrap(), producer);
        }
        let other = end(&storage, "t", producer, !committed).await;
        assert!(matches!(other, Err(Error::InvalidTransactionState { .. })));
        assert_eq!(stable(&storage, at(&topic, 0)).1, 2 * i64::from(round) + 2, "one batch and one marker a round");
    }
    assert_eq!(both(&storage, at(&topic, 0)).await, ["x", "x"]);
    stop(storage).await;
}

#[tokio::test]
async fn a_transaction_past_its_timeout_is_aborted_and_its_producer_fenced_also_after_a_restart() {
    for restarted in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at_us(1_700_000_000_000_000));
        let options = OpenOptions { clock: Arc::clone(&clock) as _, ..options(dir.path()) };
        let mut storage = Storage::open(options.clone()).await.unwrap();
        let topic = topic(&storage, "events", 1).await;
        let producer = init(&storage, "t").await;
        add(&storage, "t", producer, &[at(&topic, 0)]).await.unwrap();
        send(&storage, producer, 0, at(&topic, 0), &["late"]).await.unwrap();
        clock.advance_us(i64::from(MINUTE_MS) * 1000 - 1_000_000);
        if restarted {
            stop(storage).await;
            clock.advance_us(2_000_000);
            storage = Storage::open(options).await.unwrap();
        } else {
            assert_eq!(state(&storage, "t"), TransactionState::Ongoing);
            clock.advance_us(2_000_000);
        }
        eventually("the timeout aborts", async || state(&storage, "t") == TransactionState::CompleteAbort).await;
        assert_eq!(stable(&storage, at(&topic, 0)), (2, 2));
        assert!(matches!(end(&storage, "t", producer, true).await, Err(Error::ProducerFenced { .. })));
        let late = send(&storage, producer, 1, at(&topic, 0), &["x"]).await;
        assert!(matches!(late, Err(Error::InvalidProducerEpoch { .. })));
        assert_eq!(both(&storage, at(&topic, 0)).await, [""; 0]);
        clock.advance_us(7 * 24 * 3600 * 1_000_000 + 1_000_000);
        eventually("an idle id is forgotten", async || storage.transactions().is_empty()).await;
        assert_eq!(init(&storage, "t").await.epoch, 0, "it begins with another producer id");
        stop(storage).await;
    }
}

#[tokio::test]
async fn an_operator_ends_a_hanging_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let topic = topic(&storage, "events", 1).await;
    let producer = init(&storage, "t").await;
    add(&storage, "t", producer, &[at(&topic, 0)]).await.unwrap();
    send(&storage, producer, 0, at(&topic, 0), &["x"]).await.unwrap();
    let abort = || TransactionChange::Abort { transactional_id: "t".to_owned() };
    assert_eq!(step(&storage, abort()).await.unwrap().epoch, producer.epoch + 1);
    assert_eq!(stable(&storage, at(&topic, 0)), (2, 2));
    assert!(matches!(step(&storage, abort()).await, Err(Error::InvalidTransactionState { .. })));
    let unknown = TransactionChange::Abort { transactional_id: "u".to_owned() };
    assert!(matches!(step(&storage, unknown).await, Err(Error::UnknownTransactionalId { .. })));
    stop(storage).await;
}

#[tokio::test]
async fn who_waits_for_committed_records_is_woken_by_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let topic = topic(&storage, "events", 1).await;
    let here = at(&topic, 0);
    let producer = init(&storage, "t").await;
    add(&storage, "t", producer, &[here]).await.unwrap();
    send(&storage, producer, 0, here, &["x"]).await.unwrap();
    let waiting = storage.clone();
    let waiter = tokio::spawn(async move { waiting.wait_past_stable(&[(here, 0)]).await });
    let waiting = storage.clone();
    let uncommitted = tokio::spawn(async move { waiting.wait_past(&[(here, 1)]).await });
    tokio::task::yield_now().await;
    produce(&storage, here, &["behind"]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), uncommitted).await.unwrap().unwrap();
    assert!(!waiter.is_finished(), "records behind an open transaction wake nobody");
    end(&storage, "t", producer, true).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), waiter).await.unwrap().unwrap();
    stop(storage).await;
}

#[tokio::test]
async fn deleting_a_topic_does_not_hang_the_transaction_that_writes_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let (gone, kept) = (topic(&storage, "gone", 1).await, topic(&storage, "kept", 1).await);
    let producer = init(&storage, "t").await;
    add(&storage, "t", producer, &[at(&gone, 0), at(&kept, 0)]).await.unwrap();
    send(&storage, producer, 0, at(&gone, 0), &["x"]).await.unwrap();
    send(&storage, producer, 0, at(&kept, 0), &["y"]).await.unwrap();
    send_offset(&storage, "t", producer, at(&gone, 0), 1).await.unwrap();
    storage.delete_topic(gone.id).await.unwrap();
    stop(storage).await;
    let storage = open(dir.path()).await;
    end(&storage, "t", producer, true).await.unwrap();
    assert_eq!(both(&storage, at(&kept, 0)).await, ["y"]);
    assert!(storage.group_offsets(Some("g")).is_empty());
    let again = topic(&storage, "gone", 1).await;
    assert_eq!(both(&storage, at(&again, 0)).await, [""; 0]);
    stop(storage).await;
}

#[tokio::test]
async fn an_end_that_could_not_be_written_leaves_the_transaction_open() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::new(1);
    let storage = Storage::open_on(options(dir.path()), &disk).await.unwrap();
    let topic = topic(&storage, "events", 2).await;
    let producer = init(&storage, "t").await;
    add(&storage, "t", producer, &[at(&topic, 0), at(&topic, 1)]).await.unwrap();
    send(&storage, producer, 0, at(&topic, 0), &["a"]).await.unwrap();
    send(&storage, producer, 0, at(&topic, 1), &["b"]).await.unwrap();
    send_offset(&storage, "t", producer, at(&topic, 0), 9).await.unwrap();
    for committed in [false, true] {
        disk.fail_write_after(0);
        assert!(matches!(end(&storage, "t", producer, committed).await, Err(Error::Full { .. })));
        assert_eq!(state(&storage, "t"), TransactionState::Ongoing);
        assert_eq!(stable(&storage, at(&topic, 0)), (0, 1));
        assert_eq!(storage.pending_offsets("g"), [at(&topic, 0)]);
    }
    end(&storage, "t", producer, true).await.unwrap();
    assert_eq!(both(&storage, at(&topic, 0)).await, ["a"]);
    assert_eq!(both(&storage, at(&topic, 1)).await, ["b"]);
    assert_eq!(stable(&storage, at(&topic, 1)), (2, 2), "one marker, not one for each try");
    assert_eq!(storage.group_offsets(Some("g"))[0].2.offset, 9);
    stop(storage).await;
}

#[tokio::test]
async fn markers_offsets_and_records_of_one_commit_are_one_act() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let topic = topic(&storage, "events", 1).await;
    let producer = init(&storage, "t").await;
    // All steps at once: partitions count before the batch, the end after it.
    let id = || "t".to_owned();
    let batch = batch(&["at once"]).in_transaction(producer, 0);
    let commit = Commit {
        appends: vec![Append { topic: topic.id, partition: 0, batch }],
        transactions: vec![
            TransactionChange::End { transactional_id: id(), producer, committed: true },
            TransactionChange::AddPartitions { transactional_id: id(), producer, partitions: vec![at(&topic, 0)] },
        ],
        ..Commit::default()
    };
    let receipt = storage.commit(commit).await.unwrap();
    assert_eq!(receipt.transactions, [producer, producer]);
    assert_eq!(both(&storage, at(&topic, 0)).await, ["at once"]);
    stop(storage).await;
}

#[tokio::test]
async fn a_log_start_moved_into_an_open_transaction_takes_the_last_stable_offset_along() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let events = topic(&storage, "events", 1).await;
    let here = at(&events, 0);
    let producer = init(&storage, "t").await;
    add(&storage, "t", producer, &[here]).await.unwrap();
    send(&storage, producer, 0, here, &["a"]).await.unwrap();
    send(&storage, producer, 1, here, &["b"]).await.unwrap();
    storage.trim(vec![Trim { partition: here, log_start_offset: 1 }]).await.unwrap();
    let ends = storage.watermarks(here).unwrap();
    assert_eq!((ends.log_start_offset, ends.last_stable_offset, ends.high_watermark), (1, 1, 2));
    assert!(select(&storage, here).await.is_empty());
    end(&storage, "t", producer, true).await.unwrap();
    assert_eq!(both(&storage, here).await, ["b"]);
}

#[tokio::test]
async fn a_log_start_moved_into_a_batch_of_an_open_transaction_shows_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let events = topic(&storage, "events", 1).await;
    let here = at(&events, 0);
    let producer = init(&storage, "t").await;
    add(&storage, "t", producer, &[here]).await.unwrap();
    send(&storage, producer, 0, here, &["a", "b"]).await.unwrap();
    storage.trim(vec![Trim { partition: here, log_start_offset: 1 }]).await.unwrap();
    let isolation = Isolation::ReadCommitted;
    let request = FetchRequest { partition: here, offset: 1, bytes_max: 1 << 20, isolation };
    let fetched = storage.fetch(request).await.unwrap();
    assert!(fetched.batches.is_empty(), "{fetched:?}");
    end(&storage, "t", producer, true).await.unwrap();
    // A batch comes whole; who asked from its second record on leaves the first one out.
    assert_eq!(storage.fetch(request).await.unwrap().batches.len(), 2, "the batch and the marker");
    assert_eq!(select(&storage, here).await, ["b"]);
}
