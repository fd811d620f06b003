//! A transaction whose end, or whose state, was lost to damage: what is made up for it at the next start is a commit like
//! any other, so that it stays ended the same way whatever is written and whoever starts after it.

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

#[tokio::test]
async fn an_end_that_was_made_up_is_written_and_stands_for_ever() {
    for committed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (topic, producer) = end_lost(dir.path(), committed).await;
        let storage = open(dir.path()).await;
        assert_eq!(stable(&storage, at(&topic, 0)), (4, 4), "the made-up marker has an offset like any other");
        let told = if committed { vec![] } else { vec![(producer.id, 0)] };
        let first = usize::from(committed);
        assert_eq!(committed_rows(&storage, &topic).await, (first, 1, told.clone()), "committed: {committed}");
        // What the same producer does next ends in another way.
        add(&storage, "t", producer, &[at(&topic, 0)]).await.unwrap();
        send(&storage, producer, 1, at(&topic, 0), &["later"]).await.unwrap();
        end(&storage, "t", producer, !committed).await.unwrap();
        let told = if committed { vec![(producer.id, 4)] } else { told };
        let seen = (first, 1 + usize::from(!committed), told);
        assert_eq!(committed_rows(&storage, &topic).await, seen, "committed: {committed}");
        stop(storage).await;
        for start in 0..2 {
            let storage = open(dir.path()).await;
            assert_eq!(committed_rows(&storage, &topic).await, seen, "committed: {committed}, start {start}");
            assert_eq!(stable(&storage, at(&topic, 0)), (6, 6), "it is made up once");
            stop(storage).await;
        }
    }
}

#[tokio::test]
async fn an_end_that_could_not_be_made_up_holds_the_partition_until_it_can() {
    let mut held = 0;
    // One of the first writes of the start is the made-up end; those before it fail the start.
    for writes in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let (topic, producer) = end_lost(dir.path(), false).await;
        let disk = FaultDisk::new(1);
        disk.fail_write_after(writes);
        let Ok(storage) = Storage::open_on(options(dir.path()), &disk).await else { continue };
        held += usize::from(stable(&storage, at(&topic, 0)) == (0, 3));
        eventually("the next look makes it up", async || stable(&storage, at(&topic, 0)) == (4, 4)).await;
        assert_eq!(committed_rows(&storage, &topic).await, (0, 1, vec![(producer.id, 0)]));
        stop(storage).await;
    }
    assert!(held > 0, "no write was the end's");
}
