//! An idempotent producer as a client has it: sequences per partition, several batches in flight, retries of what got no
//! answer, a new epoch when it has lost its way, and its own ghost with the old one.

use std::collections::BTreeMap;

use aquifer_storage::clock::Clock;
use aquifer_storage::testing::chance::Chance;
use aquifer_storage::{Append, Commit, Durability, Error, Receipt, Result, Storage, TopicPartition};

use crate::batches::{batch_of, records};
use crate::client::Client;
use crate::model::{Fate, Record};

/// Batches a partition remembers of a producer.
const REMEMBERED: usize = 5;

/// A producer that is silent for longer may be forgotten, ms: less than the day that storage promises.
const REMEMBERED_MS: i64 = 12 * 3_600_000;

/// What the client knows of its producer.
#[derive(Debug)]
pub(crate) struct Producer {
    id: i64,
    epoch: i16,
    next: BTreeMap<TopicPartition, i32>,
    /// The last batches of each partition in this epoch, oldest first.
    sent: BTreeMap<TopicPartition, Vec<Batch>>,
    /// A partition in which this epoch, or an older one, has something that is durable.
    known_in: BTreeMap<TopicPartition, i16>,
    /// Wall clock at its last act: one that is silent for a day is forgotten.
    used_at_ms: i64,
}

#[derive(Clone, Debug)]
struct Batch {
    attempt: u64,
    sequence: i32,
    epoch: i16,
    records: Vec<Record>,
}

impl Producer {
    fn next(&self, at: TopicPartition) -> i32 {
        self.next.get(&at).copied().unwrap_or(0)
    }

    /// Begins again with a larger epoch: sequences begin at 0 everywhere.
    fn bump(&mut self) {
        self.epoch += 1;
        self.next.clear();
        self.sent.clear();
    }
}

/// One act of the client's producer.
pub(crate) async fn produce(client: &Client, storage: &Storage, chance: &Chance) {
    let now_ms = client.world.clock.now_ms();
    let fresh = |producer: &Producer| (now_ms - producer.used_at_ms).abs() < REMEMBERED_MS;
    let known = client.memory.borrow().producer.as_ref().is_some_and(fresh);
    if !known {
        let id = match storage.new_producer_id().await {
            Ok(id) => id,
            Err(error) if client.world.is_weather(&error) => return,
            Err(error) => return client.world.violate(9, format!("no producer id: {error}")),
        };
        let fresh = client.world.model.borrow_mut().producer_ids.insert(id);
        if !fresh {
            client.world.violate(9, format!("producer id {id} was given twice"));
        }
        let producer = Producer {
            id,
            epoch: 0,
            next: BTreeMap::new(),
            sent: BTreeMap::new(),
            known_in: BTreeMap::new(),
            used_at_ms: now_ms,
        };
        client.memory.borrow_mut().producer = Some(producer);
    }
    settle(client);
    if let Some(producer) = client.memory.borrow_mut().producer.as_mut() {
        producer.used_at_ms = now_ms;
    }
    match chance.below(8) {
        0 => retry(client, storage, chance).await,
        1 => ghost(client, storage, chance).await,
        2 => gap(client, storage, chance).await,
        _ => pipeline(client, storage, chance).await,
    }
}

/// What a restart has decided: if the last batches of a partition are gone, the producer has lost its way.
fn settle(client: &Client) {
    let mut memory = client.memory.borrow_mut();
    let Some(producer) = memory.producer.as_mut() else { return };
    let model = client.world.model.borrow();
    let lost =
        producer.sent.values().flatten().any(|batch| {
            matches!(model.fate(batch.attempt), Fate::Absent | Fate::Refused | Fate::Unknown | Fate::Pending)
        });
    if lost {
        producer.bump();
    }
}

/// Several batches for one partition, all in flight before the first is answered.
async fn pipeline(client: &Client, storage: &Storage, chance: &Chance) {
    let Some(at) = client.partitions(chance, 1).pop() else { return };
    let durability = if chance.once_in(3) { Durability::Written } else { Durability::Synced };
    let mut batches = Vec::new();
    for _ in 0..=chance.below(REMEMBERED as u64 - 1) {
        batches.push(new_batch(client, chance, at));
    }
    let answers = send_all(client, storage, chance, at, &batches, durability).await;
    let failed = answers.iter().any(Result::is_err);
    for (batch, answer) in batches.iter().zip(&answers) {
        // Behind one that failed the others are out of order, as they should be.
        if let Err(Error::OutOfOrderSequence { .. }) = answer
            && failed
        {
            let refused = client.world.model.borrow_mut().refused(batch.attempt, "out of order");
            client.world.check(refused);
        } else {
            client.answer(batch.attempt, answer, durability == Durability::Synced, &[at.topic]);
        }
    }
    let first_error = answers.iter().find_map(|answer| answer.as_ref().err());
    if matches!(first_error, Some(Error::OutOfOrderSequence { .. } | Error::InvalidProducerEpoch { .. })) {
        client.world.violate(4, format!("the first batch that failed did so with {first_error:?}"));
    }
    let mut memory = client.memory.borrow_mut();
    let Some(producer) = memory.producer.as_mut() else { return };
    if failed {
        producer.bump();
    } else {
        let epoch = producer.epoch;
        producer.known_in.insert(at, epoch);
    }
}

/// Gives a batch its number.
fn new_batch(client: &Client, chance: &Chance, at: TopicPartition) -> Batch {
    let attempt = client.world.model.borrow_mut().next_attempt();
    let records = records(&client.world, chance, attempt, 0, at.topic);
    client.world.model.borrow_mut().attempt(attempt, vec![(at, records.clone())], Vec::new());
    let mut memory = client.memory.borrow_mut();
    #[expect(clippy::expect_used, reason = "made before anything is sent")]
    let producer = memory.producer.as_mut().expect("a producer");
    let batch = Batch { attempt, sequence: producer.next(at), epoch: producer.epoch, records };
    let next = batch.sequence + i32::try_from(batch.records.len()).unwrap_or(0);
    producer.next.insert(at, next);
    let sent = producer.sent.entry(at).or_default();
    sent.push(batch.clone());
    if sent.len() > REMEMBERED {
        sent.remove(0);
    }
    batch
}

/// Sends batches in their order, all at once; the answers in the same order.
async fn send_all(
    client: &Client,
    storage: &Storage,
    chance: &Chance,
    at: TopicPartition,
    batches: &[Batch],
    durability: Durability,
) -> Vec<Result<Receipt>> {
    let id = client.memory.borrow().producer.as_ref().map_or(-1, |producer| producer.id);
    let commits = batches.iter().map(|batch| {
        let numbered = batch_of(&batch.records, chance, Some((id, batch.epoch, batch.sequence)));
        let append = Append { topic: at.topic, partition: at.partition, batch: numbered };
        storage.commit(Commit { durability, appends: vec![append], ..Commit::default() })
    });
    futures::future::join_all(commits).await
}

/// Sends one of the last batches once more: it must be answered with its offset and not be there twice.
async fn retry(client: &Client, storage: &Storage, chance: &Chance) {
    let chosen = {
        let memory = client.memory.borrow();
        let Some(producer) = memory.producer.as_ref() else { return };
        let partitions: Vec<_> = producer.sent.keys().copied().collect();
        let Some(at) = chance.pick(&partitions).copied() else { return };
        let there = client.world.model.borrow().settled_partitions().contains(&at);
        producer.sent.get(&at).and_then(|sent| chance.pick(sent)).filter(|_| there).map(|batch| (at, batch.clone()))
    };
    let Some((at, batch)) = chosen else { return };
    let answers = send_all(client, storage, chance, at, std::slice::from_ref(&batch), Durability::Written).await;
    match answers.first() {
        Some(Ok(receipt)) if receipt.appended.iter().any(|appended| !appended.duplicate) => {
            client.world.violate(4, format!("attempt {} was appended once more: {receipt:?}", batch.attempt));
        }
        Some(answer @ Ok(_)) => client.answer(batch.attempt, answer, false, &[at.topic]),
        Some(Err(error)) if client.world.is_weather(error) => {}
        Some(Err(error)) => crate::reader::excuse(&client.world, at.topic, error, "a retry"),
        None => {}
    }
}

/// What the producer was before its last epoch: refused wherever the new one has written.
async fn ghost(client: &Client, storage: &Storage, chance: &Chance) {
    let known = {
        let memory = client.memory.borrow();
        let Some(producer) = memory.producer.as_ref().filter(|producer| producer.epoch > 0) else { return };
        let there = client.world.model.borrow().settled_partitions();
        let current = producer.known_in.iter().filter(|(at, epoch)| **epoch == producer.epoch && there.contains(at));
        current.map(|(at, epoch)| (*at, *epoch)).collect::<Vec<_>>()
    };
    let Some((at, epoch)) = chance.pick(&known).copied() else { return };
    let attempt = client.world.model.borrow_mut().next_attempt();
    let records = records(&client.world, chance, attempt, 0, at.topic);
    client.world.model.borrow_mut().attempt(attempt, vec![(at, records.clone())], Vec::new());
    let batch = Batch { attempt, sequence: 0, epoch: epoch - 1, records };
    let answers = send_all(client, storage, chance, at, &[batch], Durability::Synced).await;
    must_be_refused(client, at, attempt, &answers, |error| matches!(error, Error::InvalidProducerEpoch { .. }));
}

/// A sequence that leaves some out.
async fn gap(client: &Client, storage: &Storage, chance: &Chance) {
    let known = {
        let memory = client.memory.borrow();
        let Some(producer) = memory.producer.as_ref() else { return };
        let there = client.world.model.borrow().settled_partitions();
        let written = producer.next.iter().filter(|(at, next)| **next > 0 && there.contains(at));
        written.map(|(at, next)| (*at, *next, producer.epoch)).collect::<Vec<_>>()
    };
    let Some((at, next, epoch)) = chance.pick(&known).copied() else { return };
    let attempt = client.world.model.borrow_mut().next_attempt();
    let records = records(&client.world, chance, attempt, 0, at.topic);
    client.world.model.borrow_mut().attempt(attempt, vec![(at, records.clone())], Vec::new());
    let batch = Batch { attempt, sequence: next + 1, epoch, records };
    let answers = send_all(client, storage, chance, at, &[batch], Durability::Synced).await;
    must_be_refused(client, at, attempt, &answers, |error| matches!(error, Error::OutOfOrderSequence { .. }));
}

fn must_be_refused(
    client: &Client,
    at: TopicPartition,
    attempt: u64,
    answers: &[Result<Receipt>],
    rightly: impl Fn(&Error) -> bool,
) {
    match answers.first() {
        Some(Ok(receipt)) => {
            client.world.violate(9, format!("attempt {attempt} should have been refused: {receipt:?}"));
        }
        Some(Err(error)) if rightly(error) => {
            let refused = client.world.model.borrow_mut().refused(attempt, &error.to_string());
            client.world.check(refused);
        }
        Some(answer) => client.answer(attempt, answer, true, &[at.topic]),
        None => {}
    }
}
