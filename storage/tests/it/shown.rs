//! What an operator is shown agrees with what was done.

use aquifer_storage::{Append, Commit, TransactionState};

use crate::support::*;

#[tokio::test]
async fn all_producers_come_in_one_answer_and_the_logs_own_transactions_are_marked() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let topics = [topic(&storage, "a", 2).await, topic(&storage, "b", 1).await];
    let places = [at(&topics[0], 0), at(&topics[0], 1), at(&topics[1], 0)];
    for (producer_id, place) in (7..).zip(places) {
        storage.commit(appends(place, sequenced(&batch(&["x"]), producer_id, 0, 0))).await.unwrap();
    }
    let mut one_by_one = Vec::new();
    for place in places {
        one_by_one.extend(storage.producers(place).await.unwrap());
    }
    let order = |producers: &mut Vec<aquifer_storage::ProducerInfo>| {
        producers.sort_by_key(|info| (info.partition, info.producer.id));
    };
    order(&mut one_by_one);
    let all = storage.all_producers().await.unwrap();
    assert_eq!((all.len(), &all), (3, &one_by_one));
    storage.delete_topic(topics[1].id).await.unwrap();
    assert_eq!(storage.all_producers().await.unwrap().len(), 2, "those of a topic that is gone are not told");

    let mut large = storage.begin().await.unwrap();
    large.append(Append { topic: topics[0].id, partition: 0, batch: batch(&["y"]) }).await.unwrap();
    eventually("it is shown", async || storage.transactions().len() == 1).await;
    let open = storage.transactions();
    assert!(open[0].internal && open[0].state == TransactionState::Ongoing, "{open:?}");
    assert_eq!((storage.standing().transactions_open, storage.standing().transactional_ids), (0, 0));
    large.commit(Commit::default()).await.unwrap();
    stop(storage).await;
}

#[tokio::test]
async fn traffic_counts_what_is_durable_once() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path()).await;
    let events = topic(&storage, "events", 1).await;
    let first = sequenced(&batch(&["a", "b"]), 3, 0, 0);
    storage.commit(appends(at(&events, 0), first.clone())).await.unwrap();
    // Sent again, answered with the old offset: it came in once.
    assert!(storage.commit(appends(at(&events, 0), first.clone())).await.unwrap().appended[0].duplicate);
    // Refused: it did not come in.
    storage.commit(appends(at(&events, 0), sequenced(&batch(&["c"]), 3, 0, 9))).await.unwrap_err();
    storage.note_fetched("events", 2, 100);
    let rows = storage.traffic();
    assert_eq!(rows.len(), 1, "our own topics are not told: {rows:?}");
    assert_eq!((rows[0].topic.as_str(), rows[0].records_in), ("events", 2));
    assert_eq!(rows[0].bytes_in, first.bytes().len() as u64);
    assert_eq!((rows[0].records_out, rows[0].bytes_out), (2, 100));
    let standing = storage.standing();
    assert_eq!((standing.topics, standing.partitions), (1, 1));
    assert_eq!((standing.queued_commits, standing.queued_bytes, standing.damaged_ranges), (0, 0, 0));
    assert!(standing.untiered_bytes > 0 && standing.untiered_since_us.is_some());
    storage.checkpoint().await.unwrap();
    let standing = storage.standing();
    assert_eq!((standing.untiered_bytes, standing.untiered_since_us), (0, None));
    assert_eq!((standing.cold.objects, standing.cold.rows), (1, 2));
    assert_eq!(storage.cold_totals(events.id), standing.cold);
    assert_eq!(storage.cold_partitions().await.unwrap()[&at(&events, 0)].bytes, standing.cold.bytes);
    assert!(storage.damage().await.unwrap().is_empty());
    stop(storage).await;
}
