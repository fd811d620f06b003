//! Transactions under power cuts: whole ones only, whatever was under way.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aquifer_storage::testing::FaultDisk;
use aquifer_storage::{Storage, Topic, TopicPartition};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::*;
use crate::transactions::*;

/// What one producer of the power cut test did: per transaction whether its end was asked for and answered.
#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    commit_asked: bool,
    commit_answered: bool,
    abort_asked: bool,
}

/// Runs transactions until the disk is dead. The value of each record says its transaction; so does its offset commit.
async fn transact_until_dead(storage: &Storage, topic: &Topic, id: &str, rng: &mut StdRng) -> BTreeMap<u64, Tried> {
    let mut tried: BTreeMap<u64, Tried> = BTreeMap::new();
    let Ok(producer) = renew(storage, id, None).await else { return tried };
    let mut sequences = [0, 0];
    for number in 1.. {
        let entry = tried.entry(number).or_default();
        let value = format!("{id} {number}");
        if add(storage, id, producer, &[at(topic, 0), at(topic, 1)]).await.is_err() {
            return tried;
        }
        for partition in [0, 1] {
            for _ in 0..rng.random_range(1..3) {
                let sequence = &mut sequences[usize::try_from(partition).unwrap()];
                if send(storage, producer, *sequence, at(topic, partition), &[&value]).await.is_err() {
                    return tried;
                }
                *sequence += 1;
            }
        }
        let position = TopicPartition { partition: i32::from(id == "b"), ..at(topic, 0) };
        if send_offset(storage, id, producer, position, i64::try_from(number).unwrap()).await.is_err() {
            return tried;
        }
        let committed = rng.random_bool(0.6);
        entry.commit_asked = committed;
        entry.abort_asked = !committed;
        let Ok(_) = end(storage, id, producer, committed).await else { return tried };
        entry.commit_answered = committed;
    }
    tried
}

async fn check_after_cut(storage: &Storage, topic: &Topic, id: &str, tried: &BTreeMap<u64, Tried>, seed: u64) {
    let mut seen = Vec::new();
    for partition in [0, 1] {
        let values = both(storage, at(topic, partition)).await;
        let numbers = values.iter().filter_map(|value| value.strip_prefix(id)?.trim().parse::<u64>().ok());
        seen.push(numbers.collect::<HashSet<_>>());
    }
    assert_eq!(seen[0], seen[1], "seed {seed}: a transaction is on both partitions or on none");
    for number in &seen[0] {
        assert!(tried[number].commit_asked, "seed {seed}: {id} {number} was never committed");
    }
    for (number, tried) in tried {
        assert!(!tried.commit_answered || seen[0].contains(number), "seed {seed}: {id} {number} is lost");
        assert!(!tried.abort_asked || !seen[0].contains(number), "seed {seed}: {id} {number} was aborted");
    }
    let partition = TopicPartition { partition: i32::from(id == "b"), ..at(topic, 0) };
    let offsets = storage.group_offsets(Some("g"));
    let committed = offsets.iter().find(|(_, at, _)| *at == partition).map_or(0, |(_, _, offset)| offset.offset);
    let newest = seen[0].iter().max().copied().unwrap_or(0);
    assert_eq!(committed, i64::try_from(newest).unwrap(), "seed {seed}: offsets go with their transaction");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_point_leaves_whole_transactions_only() {
    for seed in 1..=24_u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path());
        options.settings.wal_segment_bytes = 1 << 15;
        let disk = FaultDisk::new(seed);
        let storage = Storage::open_on(options.clone(), &disk).await.unwrap();
        let topic = topic(&storage, "events", 2).await;
        let producers: Vec<_> = ["a", "b"]
            .into_iter()
            .map(|id| {
                let (storage, topic) = (storage.clone(), Arc::clone(&topic));
                let mut rng = StdRng::seed_from_u64(seed * 7 + u64::from(id == "b"));
                tokio::spawn(async move { transact_until_dead(&storage, &topic, id, &mut rng).await })
            })
            .collect();
        let wanted = i64::try_from(5 + seed * 9).unwrap();
        tokio::time::timeout(Duration::from_secs(30), storage.wait_past(&[(at(&topic, 0), wanted)])).await.unwrap();
        disk.power_cut().unwrap();
        let mut tried = Vec::new();
        for producer in producers {
            tried.push(producer.await.unwrap());
        }
        stop(storage).await;
        let storage = Storage::open(options.clone()).await.unwrap();
        // Some of it may still lie behind a transaction that the cut left open; what is seen was committed.
        for partition in [0, 1] {
            for value in both(&storage, at(&topic, partition)).await {
                let (id, number) = value.split_once(' ').unwrap();
                let tried = &tried[usize::from(id == "b")][&number.parse().unwrap()];
                assert!(tried.commit_asked, "seed {seed}: {value} was never committed");
            }
        }
        let before: Vec<_> = [0, 1].into_iter().map(|partition| stable(&storage, at(&topic, partition))).collect();
        for id in ["a", "b"] {
            init(&storage, id).await;
        }
        for (partition, (before_stable, before_end)) in (0..).zip(before) {
            let (stable, end) = stable(&storage, at(&topic, partition));
            assert!(stable == end && stable >= before_stable && end >= before_end, "seed {seed}: all has ended");
        }
        for (id, tried) in ["a", "b"].into_iter().zip(&tried) {
            check_after_cut(&storage, &topic, id, tried, seed).await;
        }
        stop(storage).await;
    }
}
