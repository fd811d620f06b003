//! A transaction of which a part was lost to damage. Without its marker it ends as its state says; without its state it is
//! aborted by a commit like any other, so that it stays so whatever is written and whoever starts after it.

use super::*;
use crate::faults::{position_of, scanned, segment_files};

/// Version, checksum and attributes of a marker, and that it is one record: where a marker begins behind a value.
fn marker_behind(bytes: &[u8], value: &str) -> usize {
    let from = position_of(bytes, value);
    let is_marker = |at: &usize| bytes[*at] == 2 && bytes[*at + 5..*at + 11] == [0, 0x30, 0, 0, 0, 0];
    (from..bytes.len() - 11).find(is_marker).unwrap()
}

/// Flips a bit of the first marker behind a value.
fn damage_marker(dir: &Path, value: &str) {
    let file = segment_files(dir).pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let marker = marker_behind(&bytes, value);
    bytes[marker + 1] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// Rows of the first offset, rows behind the marker, and the aborted transactions that a consumer is told of.
async fn committed_rows(storage: &Storage, topic: &Topic) -> (usize, usize, Vec<(i64, i64)>) {
    // The marker at offset 1 cannot be read.
    let request =
        FetchRequest { partition: at(topic, 0), offset: 2, bytes_max: 1 << 20, isolation: Isolation::ReadCommitted };
    let told = storage.fetch(request).await.unwrap().aborted;
    let told = told.iter().map(|aborted| (aborted.producer_id, aborted.first_offset)).collect();
    (scanned(storage, topic, 0..1).await.unwrap(), scanned(storage, topic, 2..i64::MAX).await.unwrap(), told)
}

/// A transaction in partition 0 that has ended, another record behind it, and the marker damaged.
async fn end_lost(dir: &Path, committed: bool) -> (Arc<Topic>, ProducerIdentity) {
    let storage = open(dir).await;
    let topic = topic(&storage, "events", 1).await;
    let producer = init(&storage, "t").await;
    add(&storage, "t", producer, &[at(&topic, 0)]).await.unwrap();
    send(&storage, producer, 0, at(&topic, 0), &["in doubt"]).await.unwrap();
    end(&storage, "t", producer, committed).await.unwrap();
    produce(&storage, at(&topic, 0), &["plain"]).await.unwrap();
    stop(storage).await;
    damage_marker(dir, "in doubt");
    (topic, producer)
}

/// A transaction that was committed, and a second one of which the record that began it is damaged and nobody knows more.
async fn beginning_lost(dir: &Path) -> (Arc<Topic>, ProducerIdentity) {
    let storage = open(dir).await;
    let topic = topic(&storage, "events", 1).await;
    let producer = init(&storage, "t").await;
    for (sequence, value) in [(0, "sure"), (1, "in doubt")] {
        add(&storage, "t", producer, &[at(&topic, 0)]).await.unwrap();
        send(&storage, producer, sequence, at(&topic, 0), &[value]).await.unwrap();
        if sequence == 0 {
            end(&storage, "t", producer, true).await.unwrap();
        }
    }
    stop(storage).await;
    let file = segment_files(dir).pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let frame_before = |to: usize| (0..to).rev().find(|at| bytes[*at..].starts_with(b"AQFR")).unwrap();
    let begun = frame_before(frame_before(position_of(&bytes, "in doubt")));
    // Behind header and directory, within the batch.
    bytes[begun + 200] ^= 3;
    std::fs::write(file, bytes).unwrap();
    (topic, producer)
}

#[tokio::test]
async fn a_transaction_without_its_marker_has_the_end_that_its_state_says() {
    for committed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (topic, producer) = end_lost(dir.path(), committed).await;
        let storage = open(dir.path()).await;
        assert_eq!(stable(&storage, at(&topic, 0)), (3, 3), "nothing need be made up");
        let first = usize::from(committed);
        assert_eq!(committed_rows(&storage, &topic).await, (first, 1, vec![]), "committed: {committed}");
        // What the same producer does next ends in another way.
        add(&storage, "t", producer, &[at(&topic, 0)]).await.unwrap();
        send(&storage, producer, 1, at(&topic, 0), &["later"]).await.unwrap();
        end(&storage, "t", producer, !committed).await.unwrap();
        let told = if committed { vec![(producer.id, 3)] } else { vec![] };
        let seen = (first, 1 + usize::from(!committed), told);
        assert_eq!(committed_rows(&storage, &topic).await, seen, "committed: {committed}");
        stop(storage).await;
        for start in 0..2 {
            let storage = open(dir.path()).await;
            assert_eq!(committed_rows(&storage, &topic).await, seen, "committed: {committed}, start {start}");
            stop(storage).await;
        }
    }
}

#[tokio::test]
async fn an_end_that_was_made_up_is_written_and_stands_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (topic, producer) = beginning_lost(dir.path()).await;
    let storage = open(dir.path()).await;
    assert_eq!(stable(&storage, at(&topic, 0)), (4, 4), "the made-up marker has an offset like any other");
    // That its producer's last transaction was committed says nothing about this one.
    let seen = (1, 0, vec![(producer.id, 2)]);
    assert_eq!(committed_rows(&storage, &topic).await, seen);
    add(&storage, "t", producer, &[at(&topic, 0)]).await.unwrap();
    send(&storage, producer, 2, at(&topic, 0), &["later"]).await.unwrap();
    end(&storage, "t", producer, true).await.unwrap();
    let seen = (1, 1, seen.2);
    assert_eq!(committed_rows(&storage, &topic).await, seen);
    stop(storage).await;
    for start in 0..2 {
        let storage = open(dir.path()).await;
        assert_eq!(committed_rows(&storage, &topic).await, seen, "start {start}");
        assert_eq!(stable(&storage, at(&topic, 0)), (6, 6), "it is made up once");
        stop(storage).await;
    }
}

#[tokio::test]
async fn an_end_that_could_not_be_made_up_holds_the_partition_until_it_can() {
    let mut held = 0;
    // One of the first writes of the start is the made-up end; those before it fail the start.
    for writes in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let (topic, producer) = beginning_lost(dir.path()).await;
        let disk = FaultDisk::new(1);
        disk.fail_write_after(writes);
        let Ok(storage) = Storage::open_on(options(dir.path()), &disk).await else { continue };
        held += usize::from(stable(&storage, at(&topic, 0)) == (2, 3));
        eventually("the next look makes it up", async || stable(&storage, at(&topic, 0)) == (4, 4)).await;
        assert_eq!(committed_rows(&storage, &topic).await, (1, 0, vec![(producer.id, 2)]));
        stop(storage).await;
    }
    assert!(held > 0, "no write was the end's");
}
