//! A transactional producer as a client has it: it begins, writes into some partitions, commits offsets, ends or forgets
//! to, comes back after a crash of the node, and has a ghost with the old epoch.

use std::collections::BTreeMap;
use std::time::Duration;

use aquifer_storage::testing::chance::Chance;
use aquifer_storage::testing::schedule;
use aquifer_storage::{
    Append, Commit, Durability, Error, GroupOffset, ProducerIdentity, Receipt, Result, Storage, TopicPartition,
    TransactionChange, TransactionState,
};

use crate::batches::{batch_of, records, transactional};
use crate::client::Client;
use crate::model::{Fate, Outcome, Register};
use crate::world::World;

/// What the client knows of its transactional id.
#[derive(Debug)]
pub(crate) struct Transactional {
    producer: ProducerIdentity,
    /// One it was before.
    ghost: Option<ProducerIdentity>,
    next: BTreeMap<TopicPartition, i32>,
    /// It was fenced, or does not know its sequences any more.
    lost: bool,
    /// All attempts of this epoch: if one is lost, so are the sequences.
    tried: Vec<u64>,
    open: Option<Open>,
}

/// The open transaction.
#[derive(Clone, Debug)]
struct Open {
    number: u64,
    partitions: Vec<TopicPartition>,
    attempts: Vec<u64>,
    /// The attempt that committed offsets, and which.
    offsets: Vec<(u64, Register)>,
    /// In simulated time without jumps.
    began_us: i64,
    /// The process that has seen it begin.
    life: u64,
}

fn name(client: &Client) -> String {
    format!("transactional-{}", client.number)
}

/// One act of the client's transactional producer.
pub(crate) async fn act(client: &Client, storage: &Storage, chance: &Chance) {
    let sound = |one: &Transactional| {
        let model = client.world.model.borrow();
        !one.lost && one.tried.iter().all(|attempt| matches!(model.fate(*attempt), Fate::Durable | Fate::Written))
    };
    let ended = client.memory.borrow().transactional.as_ref().and_then(|one| one.open.as_ref().map(|open| open.number));
    let ended = ended.and_then(|number| client.world.model.borrow().transactions.get(&number).copied());
    if matches!(ended, Some(Outcome::Committed | Outcome::Aborted)) {
        // A start, or a reader, has told; one that was aborted may have been so by its timeout, which fences.
        forget(client);
        if ended == Some(Outcome::Aborted) {
            begin_again(client);
        }
    }
    let known = client.memory.borrow().transactional.as_ref().is_some_and(sound);
    let open = client.memory.borrow().transactional.as_ref().is_some_and(|one| one.open.is_some());
    match chance.below(10) {
        _ if !known => begin(client, storage, chance).await,
        0 => begin(client, storage, chance).await,
        1 => ghost(client, storage, chance).await,
        2..=4 if open => end(client, storage, chance).await,
        _ => write(client, storage, chance).await,
    }
}

async fn ask(storage: &Storage, change: TransactionChange) -> Result<Receipt> {
    storage.commit(Commit { transactions: vec![change], ..Commit::default() }).await
}

/// InitProducerId: whatever was open is aborted. A producer that knows itself to be the last one may say so (KIP-360): then
/// it gets the next epoch, unless somebody has come between.
async fn begin(client: &Client, storage: &Storage, chance: &Chance) {
    let timeout_ms = i32::try_from(1_000 + chance.below(60_000)).unwrap_or(1_000);
    let transactional_id = name(client);
    let before = client.memory.borrow().transactional.as_ref().map(|one| (one.producer, one.lost));
    let left = client.memory.borrow_mut().transactional.as_mut().and_then(|one| one.open.take());
    if let Some(open) = &left {
        client.world.model.borrow_mut().give_up(open.number);
    }
    // Until it is answered nobody knows which epoch counts.
    begin_again(client);
    let expected = before.map(|(producer, _)| producer).filter(|_| chance.once_in(2));
    let init = |expected| TransactionChange::Init { transactional_id: transactional_id.clone(), timeout_ms, expected };
    let answer = ask(storage, init(expected)).await;
    client.world.note(|| format!("client {}: begins, expects {expected:?}: {answer:?}", client.number));
    match answer {
        Ok(receipt) => {
            let Some(producer) = receipt.transactions.first().copied() else {
                return client.world.violate(9, "a producer without an identity".to_owned());
            };
            let ghost = before.map(|(producer, _)| producer);
            // One that is lost may be told what it has already got, without having heard the answer.
            if ghost.is_some_and(|old| old.id == producer.id && old.epoch >= producer.epoch) {
                client.world.violate(9, format!("{producer:?} comes after {ghost:?}"));
            }
            if let Some(old) = before.map(|(producer, _)| producer).filter(|_| chance.once_in(3)) {
                renew_again(client, &ask(storage, init(Some(old))).await, expected.is_some(), producer);
            }
            client.memory.borrow_mut().transactional = Some(Transactional {
                producer,
                ghost,
                next: BTreeMap::new(),
                lost: false,
                tried: Vec::new(),
                open: None,
            });
        }
        Err(error) if client.world.is_weather(&error) => {}
        // Its timeout has fenced it, or another step of which there was no answer; the next one asks plainly.
        Err(Error::ProducerFenced { .. }) if expected.is_some() => {
            if before.is_some_and(|(_, lost)| !lost) && left.is_none() {
                client.world.violate(9, format!("{before:?} is the last one and is fenced"));
            }
            client.memory.borrow_mut().transactional = None;
        }
        Err(error) => client.world.violate(9, format!("a transactional producer does not begin: {error}: {error:?}")),
    }
}

/// The old identity says once more that it is the last one: it is told what it was told before, or was replaced.
fn renew_again(client: &Client, answer: &Result<Receipt>, renewed: bool, producer: ProducerIdentity) {
    match answer {
        Ok(receipt) if renewed && receipt.transactions.first() == Some(&producer) => {}
        Ok(receipt) => client.world.violate(9, format!("behind {producer:?} its past is let in: {receipt:?}")),
        Err(Error::ProducerFenced { .. }) if !renewed => {}
        Err(error) if client.world.is_weather(error) => {}
        Err(error) => client.world.violate(9, format!("{producer:?} asks again and hears: {error}: {error:?}")),
    }
}

/// Adds partitions and writes into them, sometimes offsets too.
async fn write(client: &Client, storage: &Storage, chance: &Chance) {
    let Some(mut open) = opened(client) else { return };
    let Some(producer) = client.memory.borrow().transactional.as_ref().map(|one| one.producer) else { return };
    let transactional_id = name(client);
    let fresh: Vec<TopicPartition> =
        client.partitions(chance, 2).into_iter().filter(|at| !open.partitions.contains(at)).collect();
    if !fresh.is_empty() {
        let partitions = fresh.clone();
        let change =
            TransactionChange::AddPartitions { transactional_id: transactional_id.clone(), producer, partitions };
        if !went_well(client, &open, &ask(storage, change).await) {
            return;
        }
        open.partitions.extend(fresh);
        keep(client, open.clone());
    }
    for _ in 0..=chance.below(2) {
        let there = client.world.model.borrow().settled_partitions();
        let partitions: Vec<_> = open.partitions.iter().copied().filter(|at| there.contains(at)).collect();
        let Some(at) = chance.pick(&partitions).copied() else { break };
        if !append(client, storage, chance, &mut open, at, producer).await {
            return;
        }
    }
    if chance.once_in(3) {
        offsets(client, storage, chance, &mut open, producer).await;
    }
    if chance.once_in(6) {
        schedule::sleep(Duration::from_millis(chance.below(90_000))).await;
    }
}

/// The open transaction, or a new one.
fn opened(client: &Client) -> Option<Open> {
    let mut memory = client.memory.borrow_mut();
    let transactional = memory.transactional.as_mut()?;
    if transactional.open.is_none() {
        let number = client.world.model.borrow_mut().next_attempt();
        client.world.model.borrow_mut().transactions.insert(number, Outcome::Open);
        let (partitions, attempts, offsets) = (Vec::new(), Vec::new(), Vec::new());
        let (began_us, life) = (client.world.clock.steady_us(), client.world.lives.get());
        client.world.owners.borrow_mut().insert(number, client.number);
        transactional.open = Some(Open { number, partitions, attempts, offsets, began_us, life });
    }
    transactional.open.clone()
}

fn keep(client: &Client, open: Open) {
    if let Some(transactional) = client.memory.borrow_mut().transactional.as_mut() {
        transactional.open = Some(open);
    }
}

/// Appends one batch; says whether the transaction may go on.
async fn append(
    client: &Client,
    storage: &Storage,
    chance: &Chance,
    open: &mut Open,
    at: TopicPartition,
    producer: ProducerIdentity,
) -> bool {
    let attempt = client.world.model.borrow_mut().next_attempt();
    let records = records(&client.world, chance, attempt, 0, at.topic);
    {
        let mut model = client.world.model.borrow_mut();
        model.attempt(attempt, vec![(at, records.clone())], Vec::new());
        model.in_transaction(attempt, Some(open.number));
    }
    open.attempts.push(attempt);
    keep(client, open.clone());
    let sequence = {
        let mut memory = client.memory.borrow_mut();
        let Some(transactional) = memory.transactional.as_mut() else { return false };
        let next = transactional.next.entry(at).or_insert(0);
        let sequence = *next;
        transactional.tried.push(attempt);
        *next += i32::try_from(records.len()).unwrap_or(0);
        sequence
    };
    let batch = transactional(&batch_of(&records, chance, None), producer, sequence);
    let durability = if chance.once_in(3) { Durability::Written } else { Durability::Synced };
    let append = Append { topic: at.topic, partition: at.partition, batch };
    let answer = storage.commit(Commit { durability, appends: vec![append], ..Commit::default() }).await;
    client
        .world
        .note(|| format!("client {}: transaction {} attempt {attempt}: {answer:?}", client.number, open.number));
    if let Ok(receipt) = &answer {
        let answered = client.world.model.borrow_mut().answered(attempt, receipt, durability == Durability::Synced);
        client.world.check(answered);
    }
    went_well(client, open, &answer)
}

/// Commits an offset with the transaction.
async fn offsets(client: &Client, storage: &Storage, chance: &Chance, open: &mut Open, producer: ProducerIdentity) {
    let (transactional_id, group) = (name(client), format!("group-{}", client.number));
    let Some(at) = client.partitions(chance, 1).pop() else { return };
    let add =
        TransactionChange::AddOffsets { transactional_id: transactional_id.clone(), producer, group: group.clone() };
    if !went_well(client, open, &ask(storage, add).await) {
        return;
    }
    let attempt = client.world.model.borrow_mut().next_attempt();
    {
        let mut model = client.world.model.borrow_mut();
        model.attempt(attempt, Vec::new(), Vec::new());
        model.in_transaction(attempt, Some(open.number));
    }
    open.attempts.push(attempt);
    let register = Register::Offset(group.clone(), at);
    // The last one of a transaction counts.
    open.offsets.retain(|(_, other)| *other != register);
    open.offsets.push((attempt, register));
    keep(client, open.clone());
    let offset = GroupOffset { offset: 7, leader_epoch: -1, metadata: attempt.to_string(), committed_at_us: 0 };
    let commit = TransactionChange::CommitOffsets { transactional_id, producer, group, offsets: vec![(at, offset)] };
    let answer = ask(storage, commit).await;
    if answer.is_ok() {
        client.world.model.borrow_mut().set_fate(attempt, Fate::Durable);
    }
    went_well(client, open, &answer);
}

/// Whether a step went well; one that did not ends the transaction: it can only be aborted.
fn went_well(client: &Client, open: &Open, answer: &Result<Receipt>) -> bool {
    let Err(error) = answer else { return true };
    client.world.note(|| format!("client {}: transaction {}: {error}", client.number, open.number));
    let rightly = is_rightly_refused(client, open, error);
    client.world.model.borrow_mut().give_up(open.number);
    begin_again(client);
    if !rightly {
        client.world.violate(9, format!("transaction {} is stopped: {error}: {error:?}", open.number));
    }
    false
}

/// Fenced or aborted by its timeout, a topic that is gone, or the weather.
fn is_rightly_refused(client: &Client, open: &Open, error: &Error) -> bool {
    // Between lives the wall clock may have jumped there and back.
    let late =
        client.world.clock.steady_us() - open.began_us >= SHORTEST_TIMEOUT_US || client.world.lives.get() != open.life;
    let timed_out = matches!(
        error,
        Error::InvalidProducerEpoch { .. }
            | Error::ProducerFenced { .. }
            | Error::InvalidTransactionState { .. }
            | Error::UnknownTransactionalId { .. }
    );
    let of_topic = matches!(error, Error::UnknownTopic { .. } | Error::UnknownPartition { .. });
    let stopped = client.world.model.borrow().transactions.get(&open.number) != Some(&Outcome::Open);
    (timed_out && (late || stopped)) || of_topic || client.world.is_weather(error)
}

/// No timeout is shorter, us.
const SHORTEST_TIMEOUT_US: i64 = 1_000_000;

/// Ends the open transaction: committed if all of it is known to be there, else aborted.
async fn end(client: &Client, storage: &Storage, chance: &Chance) {
    let Some((open, producer)) =
        client.memory.borrow().transactional.as_ref().and_then(|one| one.open.clone().map(|open| (open, one.producer)))
    else {
        return;
    };
    let committed = {
        let model = client.world.model.borrow();
        let whole = open.attempts.iter().all(|attempt| matches!(model.fate(*attempt), Fate::Durable | Fate::Written));
        let sound = model.transactions.get(&open.number) == Some(&Outcome::Open);
        whole && sound && !chance.once_in(3)
    };
    // A commit of which there was no answer may have been done: that an abort is asked for behind it changes nothing, until
    // one of the two is answered.
    let in_doubt = client.world.model.borrow().transactions.get(&open.number) == Some(&Outcome::Asked(true));
    {
        let mut model = client.world.model.borrow_mut();
        model.transactions.insert(open.number, Outcome::Asked(committed || in_doubt));
        if committed {
            for (attempt, register) in &open.offsets {
                // Asked for again after trouble it counts once.
                let order = model.registers.entry(register.clone()).or_default();
                order.retain(|other| other != attempt);
                order.push(*attempt);
            }
        }
    }
    let transactional_id = name(client);
    let end = TransactionChange::End { transactional_id, producer, committed };
    let answer = ask(storage, end.clone()).await;
    client.world.note(|| format!("client {}: transaction {} ends {committed}: {answer:?}", client.number, open.number));
    match &answer {
        Ok(_) => {
            let ended = client.world.model.borrow_mut().ended(open.number, committed);
            client.world.check(ended);
            forget(client);
            if chance.once_in(3)
                && let Err(error) = ask(storage, end).await
                && !is_rightly_refused(client, &open, &error)
            {
                client.world.violate(9, format!("the end of transaction {} asked again: {error}", open.number));
            }
        }
        // Nobody knows: the next start tells.
        Err(error) if World::is_unknown(error) || in_doubt => {
            if !World::is_unknown(error) && !is_rightly_refused(client, &open, error) {
                client.world.violate(9, format!("transaction {} in doubt: {error}: {error:?}", open.number));
            }
            client.world.note(|| format!("transaction {} is in doubt: {error}", open.number));
        }
        Err(error) => {
            // An empty transaction is none; of one that was aborted by its timeout nothing is there.
            let empty = open.partitions.is_empty() && open.offsets.is_empty();
            if !empty && !is_rightly_refused(client, &open, error) {
                client.world.violate(9, format!("transaction {} does not end: {error}: {error:?}", open.number));
            }
            if client.world.is_weather(error) {
                // It stays open and may be ended again.
                let outcome = if committed { Outcome::Open } else { Outcome::Asked(false) };
                client.world.model.borrow_mut().transactions.insert(open.number, outcome);
            } else {
                let ended = client.world.model.borrow_mut().ended(open.number, false);
                client.world.check(ended);
                forget(client);
                // By its timeout: the producer was fenced with it.
                begin_again(client);
            }
        }
    }
}

/// The next act begins anew.
fn begin_again(client: &Client) {
    if let Some(transactional) = client.memory.borrow_mut().transactional.as_mut() {
        transactional.lost = true;
    }
}

fn forget(client: &Client) {
    if let Some(transactional) = client.memory.borrow_mut().transactional.as_mut() {
        transactional.open = None;
    }
}

/// The producer before the last Init: it must not write, nor end anything.
async fn ghost(client: &Client, storage: &Storage, chance: &Chance) {
    let ghost = client.memory.borrow().transactional.as_ref().and_then(|one| one.ghost);
    let Some(producer) = ghost else { return };
    let transactional_id = name(client);
    let partitions = client.partitions(chance, 1);
    let change = if chance.once_in(2) {
        TransactionChange::AddPartitions { transactional_id, producer, partitions }
    } else {
        TransactionChange::End { transactional_id, producer, committed: true }
    };
    match ask(storage, change).await {
        Ok(_) => client.world.violate(9, format!("the ghost {producer:?} was let in")),
        Err(error) => client.world.note(|| format!("client {}: ghost: {error}", client.number)),
    }
}

/// After a start: what became of ends that nobody has heard of.
pub(crate) fn settle(world: &World, storage: &Storage) {
    let infos = storage.transactions();
    let asked: Vec<(u64, Outcome)> = {
        let model = world.model.borrow();
        let asked = model.transactions.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Asked(true)));
        asked.map(|(number, outcome)| (*number, *outcome)).collect()
    };
    for (number, _) in asked {
        let Some(client) = world.owners.borrow().get(&number).copied() else { continue };
        let state = infos.iter().find(|info| info.transactional_id == format!("transactional-{client}"));
        world.note(|| format!("transaction {number} is {state:?}"));
        let outcome = match state.map(|info| info.state) {
            Some(TransactionState::CompleteCommit) => Outcome::Committed,
            Some(TransactionState::Ongoing) => Outcome::Open,
            _ => Outcome::Aborted,
        };
        world.model.borrow_mut().transactions.insert(number, outcome);
    }
}

/// Whether a client's open transaction may hold readers of a partition up.
pub(crate) fn holds(world: &World, at: TopicPartition) -> bool {
    let model = world.model.borrow();
    model.attempts.values().any(|attempt| {
        let outcome = attempt.transaction.and_then(|transaction| model.transactions.get(&transaction));
        let open = matches!(outcome, Some(Outcome::Open | Outcome::Asked(_)));
        open && attempt.sent.iter().any(|sent| sent.partition == at)
    })
}
