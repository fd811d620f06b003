//! Clients: each does one thing after another, chosen by the seed, and remembers what its process forgets.
//!
//! Every operation draws from chances of its own, so that a history with some operations left out keeps the others as
//! they were. Topics, groups, queries and definitions have one owner each: so the order of their changes is known.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use aquifer_storage::testing::chance::Chance;
use aquifer_storage::testing::schedule;
use aquifer_storage::{
    Append, Commit, DefinitionChange, Durability, Error, Expect, GroupOffset, GroupOffsetChange, Isolation,
    PositionChange, Receipt, Result, Storage, TopicId, TopicPartition,
};
use bytes::Bytes;

use crate::batches::{batch_of, records};
use crate::model::{Presence, Register, broken};
use crate::producer::Producer;
use crate::reader;
use crate::transaction::Transactional;
use crate::world::World;

/// What a commit holds beside its batches, at the most.
pub(crate) const LARGE_SLACK_BYTES: u64 = 2_500;
/// A client; it outlives the processes it speaks with.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) world: Rc<World>,
    pub(crate) number: u64,
    pub(crate) memory: RefCell<Memory>,
}

/// What a client remembers.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) next_operation: u64,
    /// Where its consumer goes on.
    consumed: BTreeMap<TopicPartition, i64>,
    pub(crate) producer: Option<Producer>,
    pub(crate) transactional: Option<Transactional>,
}

impl Client {
    pub(crate) fn new(world: &Rc<World>, number: u64) -> Rc<Self> {
        Rc::new(Self { world: Rc::clone(world), number, memory: RefCell::default() })
    }

    /// Does what comes next, until `until` operations are done.
    pub(crate) async fn run(self: Rc<Self>, storage: Storage, until: u64) {
        loop {
            let operation = {
                let mut memory = self.memory.borrow_mut();
                memory.next_operation += 1;
                memory.next_operation
            };
            if operation > until || self.world.violation.borrow().is_some() {
                return;
            }
            let chance = self.world.chance.fork(&format!("client {} operation {operation}", self.number));
            let think_us = if chance.once_in(10) { chance.below(3_000_000) } else { chance.below(20_000) };
            schedule::sleep(Duration::from_micros(think_us)).await;
            if !self.world.skipped.contains(&(self.number, operation)) {
                self.operate(&storage, &chance).await;
            }
        }
    }

    async fn operate(&self, storage: &Storage, chance: &Chance) {
        match chance.below(62) {
            0..=9 => self.produce(storage, chance).await,
            10..=15 => crate::producer::produce(self, storage, chance).await,
            16..=17 => self.refused(storage, chance).await,
            18..=21 => self.consume(storage, chance).await,
            22..=24 => self.fetch(storage, chance).await,
            25..=27 => self.snapshot(storage, chance).await,
            28..=30 => crate::topics::create(self, storage, chance).await,
            31 => crate::topics::delete(self, storage, chance).await,
            32..=33 => self.checkpoint(storage).await,
            34 => self.look_up(storage, chance).await,
            35 => self.producer_id(storage).await,
            36 => self.abandon(storage, chance).await,
            37..=42 => crate::transaction::act(self, storage, chance).await,
            43..=45 => self.registers(storage),
            46..=49 => crate::topics::vacuum(self, storage, chance).await,
            50..=52 => crate::topics::trim(self, storage, chance).await,
            53 => crate::topics::grow(self, storage, chance).await,
            54..=57 => crate::holds::act(self, storage, chance).await,
            58 => crate::topics::keyless(self, storage, chance).await,
            _ => self.produce(storage, chance).await,
        }
    }

    /// Some partitions that are there, each once.
    pub(crate) fn partitions(&self, chance: &Chance, count_max: u64) -> Vec<TopicPartition> {
        let mut there = self.world.model.borrow().settled_partitions();
        let mut chosen = Vec::new();
        for _ in 0..=chance.below(count_max) {
            if !there.is_empty() {
                chosen.push(there.swap_remove(chance.index(there.len())));
            }
        }
        chosen
    }

    fn durability(chance: &Chance) -> Durability {
        if chance.once_in(3) { Durability::Written } else { Durability::Synced }
    }

    /// A commit with records for some partitions and changes of the client's own registers, and its number.
    fn commit(&self, chance: &Chance) -> (u64, Commit) {
        let mut model = self.world.model.borrow_mut();
        let attempt = model.next_attempt();
        drop(model);
        let mut commit = Commit { durability: Self::durability(chance), ..Commit::default() };
        let mut sent = Vec::new();
        for (index, at) in self.partitions(chance, 3).into_iter().enumerate() {
            let records = records(&self.world, chance, attempt, index, at.topic);
            let batch = batch_of(&records, chance, None);
            commit.appends.push(Append { topic: at.topic, partition: at.partition, batch });
            sent.push((at, records));
        }
        let bytes: usize = commit.appends.iter().map(|append| append.batch.bytes().len()).sum();
        let large = bytes as u64 + LARGE_SLACK_BYTES > self.world.settings.wal_commit_bytes_max;
        let mut registers = Vec::new();
        if chance.once_in(3) {
            registers.extend(self.add_registers(&mut commit, chance, attempt));
        }
        let mut model = self.world.model.borrow_mut();
        model.attempt(attempt, sent, registers);
        if large {
            model.in_transaction(attempt, None);
        }
        (attempt, commit)
    }

    fn add_registers(&self, commit: &mut Commit, chance: &Chance, attempt: u64) -> Vec<Register> {
        let mut registers = Vec::new();
        let value = attempt.to_string();
        if let Some(at) = self.partitions(chance, 1).first().filter(|_| chance.once_in(2)) {
            let group = format!("group-{}", self.number);
            let metadata = value.clone();
            let offset = GroupOffset { offset: 1, leader_epoch: -1, metadata, committed_at_us: 0 };
            let change = GroupOffsetChange { group: group.clone(), partition: *at, offset: Some(offset) };
            commit.group_offsets.push(change);
            registers.push(Register::Offset(group, *at));
        }
        if chance.once_in(2) {
            let query = format!("query-{}", self.number);
            let value = Some(Bytes::from(value.clone()));
            commit.positions.push(PositionChange { query: query.clone(), value, expect: Expect::Anything });
            registers.push(Register::Position(query));
        }
        if chance.once_in(2) {
            let name = format!("relation-{}-{}", self.number, chance.below(2));
            commit.definitions.push(DefinitionChange {
                kind: "relation".to_owned(),
                name: name.clone(),
                value: Some(Bytes::from(value)),
                holds: Vec::new(),
                expect: Expect::Anything,
            });
            registers.push(Register::Definition(name));
        }
        registers
    }

    /// Takes the answer to an attempt in.
    pub(crate) fn answer(&self, attempt: u64, answer: &Result<Receipt>, synced: bool, topics: &[TopicId]) {
        self.world.note(|| match answer {
            Ok(receipt) => format!("client {}: attempt {attempt}: {:?}", self.number, receipt.appended),
            Err(error) => format!("client {}: attempt {attempt}: {error}", self.number),
        });
        let world = &self.world;
        match answer {
            Ok(receipt) => {
                let answered = world.model.borrow_mut().answered(attempt, receipt, synced);
                world.check(answered);
            }
            Err(error) if World::is_unknown(error) => {
                if !world.is_weather(error) {
                    world.violate(1, format!("attempt {attempt}: {error}"));
                }
            }
            Err(error) => {
                let gone = topics.iter().any(|topic| {
                    world.model.borrow().topics.get(topic).is_none_or(|topic| topic.presence != Presence::There)
                });
                let of_topic = matches!(error, Error::UnknownTopic { .. } | Error::UnknownPartition { .. });
                let explained = (of_topic && gone) || world.is_weather(error);
                if !explained {
                    world.violate(1, format!("attempt {attempt} is refused: {error}: {error:?}"));
                }
                let refused = world.model.borrow_mut().refused(attempt, &error.to_string());
                world.check(refused);
            }
        }
    }

    pub(crate) async fn produce(&self, storage: &Storage, chance: &Chance) {
        let (attempt, commit) = self.commit(chance);
        let synced = commit.durability == Durability::Synced;
        let topics: Vec<TopicId> = commit_topics(&commit);
        let answer = storage.commit(commit).await;
        self.answer(attempt, &answer, synced, &topics);
    }

    /// A commit whose caller goes away.
    async fn abandon(&self, storage: &Storage, chance: &Chance) {
        let (attempt, commit) = self.commit(chance);
        self.world.note(|| format!("client {}: attempt {attempt} abandoned", self.number));
        let mut waiting = Box::pin(storage.commit(commit));
        for _ in 0..=chance.below(6) {
            if futures::poll!(&mut waiting).is_ready() {
                return;
            }
            schedule::pass().await;
        }
    }

    /// A commit of which one part must be refused: then all of it is.
    async fn refused(&self, storage: &Storage, chance: &Chance) {
        let (attempt, mut commit) = self.commit(chance);
        let query = format!("query-{}", self.number);
        let wrong = Expect::Value(Bytes::from_static(b"nobody has written this"));
        commit.positions.push(PositionChange { query, value: None, expect: wrong });
        let topics = commit_topics(&commit);
        match storage.commit(commit).await {
            Err(Error::Conflict { .. }) => {
                let refused = self.world.model.borrow_mut().refused(attempt, "a wrong expectation");
                self.world.check(refused);
            }
            Ok(_) => self.world.violate(6, format!("attempt {attempt} expected what is not there and is answered")),
            answer => self.answer(attempt, &answer, true, &topics),
        }
    }

    async fn consume(&self, storage: &Storage, chance: &Chance) {
        let Some(at) = self.partitions(chance, 1).pop() else { return };
        let from = {
            let start = self.world.model.borrow().partition(at).watermarks.log_start_offset;
            self.memory.borrow().consumed.get(&at).copied().unwrap_or(0).max(start)
        };
        let mut next = from;
        for _ in 0..=chance.below(4) {
            let bytes_max = usize::try_from(chance.below(4000)).unwrap_or(1);
            let isolation = isolation(self.number);
            let Some((_, behind)) = reader::fetch(&self.world, storage, at, next, bytes_max, isolation).await else {
                return;
            };
            next = behind;
            self.memory.borrow_mut().consumed.insert(at, next);
        }
    }

    async fn fetch(&self, storage: &Storage, chance: &Chance) {
        let Some(at) = self.partitions(chance, 1).pop() else { return };
        let end = self.world.model.borrow().partition(at).acknowledged_end;
        let offset = i64::try_from(chance.below(u64::try_from(end).unwrap_or(0) + 3)).unwrap_or(0) - 1;
        let bytes_max = usize::try_from(chance.below(20_000)).unwrap_or(1);
        reader::fetch(&self.world, storage, at, offset, bytes_max, isolation(chance.below(2))).await;
    }

    /// Pins some topics, and reads them at once or later.
    async fn snapshot(&self, storage: &Storage, chance: &Chance) {
        let there = self.world.model.borrow().topics.clone();
        let there = there.into_iter().filter(|(_, topic)| topic.presence == Presence::There);
        let topics: Vec<TopicId> = there.map(|(id, _)| id).filter(|_| !chance.once_in(3)).collect();
        let Some(held) = reader::hold(&self.world, storage, &topics) else { return };
        if chance.once_in(2) {
            schedule::sleep(Duration::from_millis(chance.below(5_000))).await;
        }
        let first = reader::scan_all(&self.world, &held).await;
        if chance.once_in(2) {
            schedule::sleep(Duration::from_millis(chance.below(10_000))).await;
            let second = reader::scan_all(&self.world, &held).await;
            if let (Some(first), Some(second)) = (first, second)
                && first != second
            {
                self.world.violate(3, "a snapshot has changed while it was held".to_owned());
            }
        }
    }

    async fn checkpoint(&self, storage: &Storage) {
        let done = storage.checkpoint().await;
        self.world.note(|| format!("client {}: checkpoint: {done:?}", self.number));
        if let Err(error) = done
            && !self.world.is_weather(&error)
        {
            self.world.violate(1, format!("a checkpoint failed: {error}: {error:?}"));
        }
    }

    async fn look_up(&self, storage: &Storage, chance: &Chance) {
        let Some(at) = self.partitions(chance, 1).pop() else { return };
        let timestamp_ms = crate::batches::timestamp_ms(&self.world, chance);
        reader::offset_for_time(&self.world, storage, at, timestamp_ms).await;
    }

    async fn producer_id(&self, storage: &Storage) {
        match storage.new_producer_id().await {
            Ok(id) => {
                let fresh = self.world.model.borrow_mut().producer_ids.insert(id);
                self.world.check(if fresh { Ok(()) } else { broken(9, format!("producer id {id} was given twice")) });
            }
            Err(error) if self.world.is_weather(&error) => {}
            Err(error) => self.world.violate(9, format!("no producer id: {error}")),
        }
    }

    /// Looks at its registers: the last answered change, or a later one of which nobody knows.
    fn registers(&self, storage: &Storage) {
        let of_model = self.world.model.borrow().registers.clone();
        for (register, attempts) in of_model {
            crate::verify::register(&self.world, storage, &register, &attempts);
        }
    }
}

/// Every other client reads only what is committed.
fn isolation(number: u64) -> Isolation {
    if number.is_multiple_of(2) { Isolation::ReadCommitted } else { Isolation::ReadUncommitted }
}

/// Topics a commit names.
fn commit_topics(commit: &Commit) -> Vec<TopicId> {
    let of_appends = commit.appends.iter().map(|append| append.topic);
    of_appends.chain(commit.group_offsets.iter().map(|change| change.partition.topic)).collect()
}
