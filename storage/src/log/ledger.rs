//! The ledger: the writer's own view of everything, ahead of what is published, and the judgement on each commit. Pure.
//!
//! Invariants:
//! - Commits are judged in the order in which they are written; each sees all before it, durable or not.
//! - A commit that is refused leaves no trace, nor does a group that could not be written: every step notes how to
//!   take it back, and steps are taken back in reverse.
//! - Offsets of a partition are dense: the next batch begins where the last one ended.

use std::collections::HashMap;
use std::sync::Arc;

use crate::commit::{
    Append, Appended, Commit, DefinitionChange, Expect, PositionChange, TopicChange, TransactionChange, Trim,
};
use crate::error::{Error, Result};
use crate::ids::{ProducerIdentity, TopicId, TopicPartition};
use crate::log::frame::PlacedBatch;
use crate::log::idle::removal_bytes;
pub(crate) use crate::log::own::OFFSET_BYTES;
use crate::log::own::{Change, OwnRecord, OwnState, PARTITIONS_MAX};
use crate::log::producer::{Producers, Replaced, Verdict};
use crate::log::transaction::{AbortedRange, Mark};
use crate::log::watch::{Watch, Watches};
use crate::record::batch::{BatchHeader, TimestampType};
use crate::settings::OFFSETS_BYTES_MAX;
use crate::view::{Definition, GroupOffset, IdleOffset, ProducerInfo, Topic};

/// Kafka's limit.
const TOPIC_NAME_BYTES_MAX: usize = 249;
/// What a record of our own topics costs beside key and value, at the most.
pub(crate) const RECORD_OVERHEAD_BYTES: u64 = 32;
/// What a topic takes, about: its name, its id and what it has been told.
const TOPIC_BYTES: usize = 2 * TOPIC_NAME_BYTES_MAX;
/// What a moved log start takes, at the most.
const TRIM_BYTES: usize = 160;

/// The writer's view.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) own: OwnState,
    /// Next offset of each partition; one that is missing is 0.
    pub(crate) ends: HashMap<TopicPartition, i64>,
    pub(crate) producers: Producers,
    /// What of the hot part was aborted, in the order of the markers.
    pub(crate) aborted: HashMap<TopicPartition, Vec<AbortedRange>>,
    /// Up to when the node that was taken over from is known, us: its producers may have been told more.
    pub(crate) taken_over_us: Option<i64>,
    /// Keys written since somebody began to watch them.
    pub(crate) watches: Watches,
}

/// What a judgement goes by, beside the ledger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Commit time of what is judged.
    pub(crate) now_us: i64,
    /// `wal.commit_bytes_max`.
    pub(crate) commit_bytes_max: u64,
    /// `offsets.bytes_max`.
    pub(crate) offsets_bytes_max: u64,
    /// `transaction.timeout_max`.
    pub(crate) timeout_max_ms: i32,
    /// `transaction.id_expiration`.
    pub(crate) id_expiration_ms: i64,
}

/// How to take a step back.
#[derive(Debug)]
pub(crate) enum Undo {
    Own(Change),
    End(TopicPartition, Option<i64>),
    Producer(Replaced),
    /// The last range of the partition.
    Aborted(TopicPartition),
}

/// What a commit that was let in puts into the log.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) changes: Vec<Change>,
    pub(crate) records: Vec<OwnRecord>,
    pub(crate) batches: Vec<PlacedBatch>,
    /// Per append; log starts are filled in when it is answered.
    pub(crate) appended: Vec<Appended>,
    /// What batches and markers mean for last stable offsets, in order.
    pub(crate) marks: Vec<Mark>,
    /// Per change of a transaction.
    pub(crate) transactions: Vec<ProducerIdentity>,
    /// What was asked of a partition's producers.
    pub(crate) producers: Vec<ProducerInfo>,
    /// First of the producer ids it took.
    pub(crate) first_producer_id: i64,
}

/// Where the producers are that somebody asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProducersOf {
    Partition(TopicPartition),
    All,
}

/// What a request may take of `wal.reserve_bytes` on a full disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReserveShare {
    /// Records of clients, and what would be gone before it makes room.
    None,
    /// Offsets, positions, producer ids: little each, but they never end.
    Half,
    /// The catalog, and what frees room: deletions, log starts, ends of transactions, what is carried over.
    All,
}

/// What is asked of the log in one go.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) commit: Commit,
    /// Producer ids to give out.
    pub(crate) producer_ids: i64,
    /// A transaction of the log itself to begin, by this id; topics made in the same commit go with its abort.
    pub(crate) begin: Option<String>,
    /// Transactional ids to look at for timeout and expiry.
    pub(crate) overdue: Vec<String>,
    /// Whether transactions that nobody can end any more are to be ended.
    pub(crate) orphans: bool,
    /// A watch to begin.
    pub(crate) watch: Option<Watch>,
    /// Offsets of groups to remove if they are still as they were found.
    pub(crate) idle: Vec<IdleOffset>,
    /// Whose producers to tell of.
    pub(crate) producers_of: Option<ProducersOf>,
    /// To be told of everything as of this moment; nothing else is asked then.
    pub(crate) cut: bool,
    /// Batches to be carried over; nothing else is asked then.
    pub(crate) carried: Vec<PlacedBatch>,
    /// They are a part of so much that the reserve of a full disk would be gone before it makes room.
    pub(crate) spares_reserve: bool,
}

impl Request {
    /// What it may take of the reserve.
    pub(crate) fn reserve_share(&self) -> ReserveShare {
        let Commit { appends, topics, trims, definitions, transactions, .. } = &self.commit;
        let ends = transactions.iter().any(|change| matches!(change, TransactionChange::End { .. }));
        let is_catalog = !(topics.is_empty() && trims.is_empty() && definitions.is_empty());
        if !appends.is_empty() || self.spares_reserve {
            ReserveShare::None
        } else if is_catalog || ends || self.orphans || !self.overdue.is_empty() || !self.carried.is_empty() {
            ReserveShare::All
        } else {
            ReserveShare::Half
        }
    }

    /// Bytes of all batches.
    pub(crate) fn batch_bytes(&self) -> u64 {
        Self::bytes_of(&self.commit)
    }

    /// Bytes of what is carried over.
    pub(crate) fn carried_bytes(&self) -> u64 {
        self.carried.iter().map(|placed| placed.batch.bytes().len() as u64).sum()
    }

    /// About what its changes of our own topics will take in the log.
    pub(crate) fn own_bytes(&self) -> u64 {
        Self::own_bytes_of(&self.commit) + self.idle.iter().map(removal_bytes).sum::<u64>()
    }

    pub(crate) fn bytes_of(commit: &Commit) -> u64 {
        commit.appends.iter().map(|append| append.batch.bytes().len() as u64).sum()
    }

    pub(crate) fn own_bytes_of(commit: &Commit) -> u64 {
        let Commit { topics, trims, definitions, group_offsets, positions, transactions, .. } = commit;
        let length = |value: &Option<bytes::Bytes>| value.as_ref().map_or(0, bytes::Bytes::len);
        let of_topics = topics.len() * TOPIC_BYTES + trims.len() * TRIM_BYTES;
        let of_definitions = definitions.iter().map(|change| change.name.len() + length(&change.value)).sum::<usize>();
        let of_offsets = group_offsets.iter().map(|change| {
            change.group.len() + change.offset.as_ref().map_or(0, |offset| OFFSET_BYTES + offset.metadata.len())
        });
        let of_positions = positions.iter().map(|change| change.query.len() + length(&change.value));
        let of_transactions = transactions.iter().map(|change| match change {
            TransactionChange::AddPartitions { partitions, .. } => partitions.len() * OFFSET_BYTES,
            TransactionChange::CommitOffsets { offsets, .. } => {
                offsets.iter().map(|(_, offset)| OFFSET_BYTES + offset.metadata.len()).sum()
            }
            _ => OFFSET_BYTES,
        });
        let changes = (definitions.len() + group_offsets.len() + positions.len()) as u64;
        let held = of_topics + of_definitions + of_offsets.sum::<usize>() + of_positions.sum::<usize>();
        (held + of_transactions.sum::<usize>()) as u64 + changes * RECORD_OVERHEAD_BYTES
    }
}

/// Judges one commit at a time, and takes back what it did if it is refused.
pub(crate) struct Judge<'a> {
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) undo: &'a mut Vec<Undo>,
    pub(crate) judged: Judged,
    pub(crate) terms: Terms,
    /// Bytes of records that no limit holds up: those that end transactions, and those of the log's own.
    pub(crate) unbounded_bytes: u64,
}

impl Ledger {
    /// Judges a commit; what it does is in the ledger afterwards, and `undo` knows how to take it back.
    ///
    /// # Errors
    /// Why it is refused; ledger and `undo` are as before then.
    pub(crate) fn judge(&mut self, request: Request, terms: Terms, undo: &mut Vec<Undo>) -> Result<Judged> {
        let mark = undo.len();
        let mut judge = Judge { ledger: self, undo, judged: Judged::default(), terms, unbounded_bytes: 0 };
        match judge.judge(request) {
            Ok(()) => Ok(judge.judged),
            Err(error) => {
                self.take_back(undo, mark);
                Err(error)
            }
        }
    }

    /// Takes steps back until only `mark` are left.
    pub(crate) fn take_back(&mut self, undo: &mut Vec<Undo>, mark: usize) {
        for step in undo.drain(mark..).rev() {
            match step {
                Undo::Own(change) => self.own.take_back(&change),
                Undo::End(partition, Some(end)) => drop(self.ends.insert(partition, end)),
                Undo::End(partition, None) => drop(self.ends.remove(&partition)),
                Undo::Producer(replaced) => self.producers.restore(replaced),
                Undo::Aborted(partition) => {
                    if let Some(ranges) = self.aborted.get_mut(&partition) {
                        ranges.pop();
                    }
                }
            }
        }
    }

    /// Judges a batch by its producer's sequences. One that comes for the first time since a takeover may go on behind what
    /// it was told of and is gone: nobody can send that again, and to refuse it would end it for good.
    fn judge_sequence(&self, partition: TopicPartition, header: &BatchHeader) -> Result<Verdict> {
        match self.producers.judge(partition, header) {
            Err(Error::OutOfOrderSequence { .. })
                if self.taken_over_us.is_some_and(|until_us| self.producers.goes_on(partition, header, until_us)) =>
            {
                Ok(Verdict::Append)
            }
            judged => judged,
        }
    }

    pub(crate) fn end_of(&self, partition: TopicPartition) -> i64 {
        self.ends.get(&partition).copied().unwrap_or(0)
    }

    /// Gives a batch its place behind the others of its partition.
    pub(crate) fn place(&mut self, partition: TopicPartition, last_offset_delta: i32, undo: &mut Vec<Undo>) -> i64 {
        let base_offset = self.end_of(partition);
        let before = self.ends.insert(partition, base_offset + i64::from(last_offset_delta) + 1);
        undo.push(Undo::End(partition, before));
        base_offset
    }
}

impl Judge<'_> {
    fn judge(&mut self, request: Request) -> Result<()> {
        let batch_bytes = request.batch_bytes();
        check_size(batch_bytes, self.terms.commit_bytes_max)?;
        let Request { commit, producer_ids, begin, watch, overdue, orphans, idle, producers_of, carried, .. } = request;
        // These were judged when they first came.
        let own = &self.ledger.own;
        self.judged.batches.extend(carried.into_iter().filter(|placed| own.topic_of(placed.partition).is_ok()));
        if producer_ids > 0 {
            self.judged.first_producer_id = self.ledger.own.next_producer_id;
            let next = self.ledger.own.next_producer_id + producer_ids;
            self.change(Change::ProducerIds { next })?;
        }
        self.judged.transactions = vec![ProducerIdentity { id: -1, epoch: -1 }; commit.transactions.len()];
        let made: Vec<TopicId> = commit.topics.iter().filter_map(made_by).collect();
        let mut deleted = Vec::new();
        for change in commit.topics {
            self.topic(change, &mut deleted)?;
        }
        self.definitions(commit.definitions, &deleted)?;
        for trim in commit.trims {
            self.trim(trim, &commit.trim_agreed)?;
        }
        if let Some(id) = begin {
            let producer = self.begin_own(&id, made)?;
            self.judged.transactions.push(producer);
        }
        self.transactions(&commit.transactions, false)?;
        watch.map_or(Ok(()), |watch| self.ledger.watch(&watch))?;
        for watch in &commit.watches {
            self.ledger.watches.check(watch)?;
        }
        for append in commit.appends {
            self.append(append)?;
        }
        for change in commit.group_offsets {
            self.group_offset(change.group, change.partition, change.offset)?;
        }
        for change in commit.positions {
            self.position(change)?;
        }
        self.transactions(&commit.transactions, true)?;
        for id in &overdue {
            self.overdue(id)?;
        }
        if orphans {
            self.end_orphans()?;
        }
        for offset in idle {
            self.remove_idle(offset)?;
        }
        self.judged.producers = match producers_of {
            Some(ProducersOf::Partition(at)) => self.ledger.producers.infos(|partition| partition == at),
            Some(ProducersOf::All) => {
                self.ledger.producers.infos(|partition| self.ledger.own.topic_of(partition).is_ok())
            }
            None => Vec::new(),
        };
        let own_bytes: u64 = self.judged.records.iter().map(record_bytes).sum();
        check_size(batch_bytes + own_bytes - self.unbounded_bytes, self.terms.commit_bytes_max)
    }

    pub(crate) fn change(&mut self, change: Change) -> Result<()> {
        self.judged.records.push(change.to_record()?);
        let back = self.ledger.own.apply(&change);
        // Undo takes the last one first.
        self.undo.extend(back.into_iter().rev().map(Undo::Own));
        self.judged.changes.push(change);
        Ok(())
    }

    fn topic(&mut self, change: TopicChange, deleted: &mut Vec<Arc<Topic>>) -> Result<()> {
        let commit_bytes_max = self.terms.commit_bytes_max;
        match change {
            TopicChange::Create { id, name, partitions, config } => {
                check_topic(&name, partitions)?;
                config.check(commit_bytes_max)?;
                if self.ledger.own.names.contains_key(&name) || self.ledger.own.topics.contains_key(&id) {
                    return Err(Error::TopicExists { topic: name });
                }
                let topic = Topic { id, name, partitions, config, internal: false, created_at_us: self.terms.now_us };
                self.change(Change::Topic { id, value: Some(Arc::new(topic)) })
            }
            TopicChange::Configure { id, config, expected } => {
                let topic = self.changeable(id)?;
                if expected.is_some_and(|expected| expected != topic.config) {
                    return Err(Error::Conflict { what: format!("configuration of topic {}", topic.name) });
                }
                config.check(commit_bytes_max)?;
                let topic = Topic { config, ..topic.as_ref().clone() };
                self.change(Change::Topic { id, value: Some(Arc::new(topic)) })
            }
            TopicChange::AddPartitions { id, partitions } => {
                let topic = self.changeable(id)?;
                check_growth(&topic, partitions)?;
                let topic = Topic { partitions, ..topic.as_ref().clone() };
                self.change(Change::Topic { id, value: Some(Arc::new(topic)) })
            }
            TopicChange::Delete { id } => {
                deleted.push(self.delete_topic(id)?);
                Ok(())
            }
        }
    }

    /// A topic that is there and none of our own.
    fn changeable(&self, id: TopicId) -> Result<Arc<Topic>> {
        match self.ledger.own.topics.get(&id) {
            None => Err(Error::UnknownTopic { topic: id.to_string() }),
            Some(topic) if topic.internal => Err(Error::TopicInternal { topic: topic.name.clone() }),
            Some(topic) => Ok(Arc::clone(topic)),
        }
    }

    /// Deletes a topic, whoever holds it.
    pub(crate) fn delete_topic(&mut self, id: TopicId) -> Result<Arc<Topic>> {
        let topic = self.changeable(id)?;
        self.change(Change::Topic { id, value: None })?;
        for partition in 0..topic.partitions {
            let partition = TopicPartition { topic: id, partition };
            if let Some(end) = self.ledger.ends.remove(&partition) {
                self.undo.push(Undo::End(partition, Some(end)));
            }
        }
        Ok(topic)
    }

    /// Definitions come before the look at who holds a deleted topic, so that one commit can drop a query and its topic.
    fn definitions(&mut self, changes: Vec<DefinitionChange>, deleted: &[Arc<Topic>]) -> Result<()> {
        for DefinitionChange { kind, name, value, holds, expect } in changes {
            let key = (kind, name);
            let present = self.ledger.own.definitions.get(&key).map(|definition| &definition.value);
            let (kind, name) = key;
            check_expected(&expect, present, || format!("{kind} {name}"))?;
            if let Some(missing) = holds.iter().find(|topic| !self.ledger.own.topics.contains_key(topic)) {
                return Err(Error::UnknownTopic { topic: missing.to_string() });
            }
            let definition =
                value.map(|value| Arc::new(Definition { kind: kind.clone(), name: name.clone(), value, holds }));
            self.change(Change::Definition { kind, name, value: definition })?;
        }
        for topic in deleted {
            if let Some(holder) = self.ledger.own.holder_of(topic.id) {
                return Err(Error::TopicHeld { topic: topic.name.clone(), holder });
            }
        }
        Ok(())
    }

    fn append(&mut self, append: Append) -> Result<()> {
        let partition = TopicPartition { topic: append.topic, partition: append.partition };
        let topic = self.ledger.own.topic_of(partition)?;
        if topic.internal {
            return Err(Error::TopicInternal { topic: topic.name.clone() });
        }
        let header = *append.batch.header();
        if header.is_control() {
            return Err(Error::InvalidBatch { reason: "control batches are the coordinator's to write".to_owned() });
        }
        if header.last_offset_delta < 0 {
            let reason = format!("last offset delta {} is negative", header.last_offset_delta);
            return Err(Error::InvalidBatch { reason });
        }
        let by_log = topic.config.message_timestamp_type == Some(TimestampType::LogAppendTime);
        let append_time_ms = by_log.then(|| self.terms.now_us.div_euclid(1000));
        let (base_offset, duplicate) = match self.ledger.judge_sequence(partition, &header)? {
            Verdict::Duplicate(base_offset) => (base_offset, true),
            Verdict::Append => {
                self.check_transactional(partition, &header)?;
                let base_offset = self.ledger.place(partition, header.last_offset_delta, self.undo);
                let noted = self.ledger.producers.note(partition, &header, base_offset, self.terms.now_us);
                if let Some((replaced, began)) = noted {
                    self.undo.push(Undo::Producer(replaced));
                    self.judged.marks.extend(began);
                }
                let batch = match append_time_ms {
                    Some(append_time_ms) => append.batch.with_append_time(append_time_ms),
                    None => append.batch,
                };
                self.ledger.watches.note(partition, base_offset, &batch);
                self.judged.batches.push(PlacedBatch { partition, base_offset, batch, carried_us: None });
                (base_offset, false)
            }
        };
        let log_append_time_ms = append_time_ms.filter(|_| !duplicate);
        self.judged.appended.push(Appended { base_offset, log_start_offset: 0, duplicate, log_append_time_ms });
        Ok(())
    }

    /// Records of the same commit are not counted: nobody has seen them yet.
    fn trim(&mut self, trim: Trim, agreed: &[String]) -> Result<()> {
        let Trim { partition, log_start_offset } = trim;
        let own = &self.ledger.own;
        let topic = own.topic_of(partition)?;
        if topic.internal {
            return Err(Error::TopicInternal { topic: topic.name.clone() });
        }
        let (before, end) = (own.log_starts.get(&partition).copied().unwrap_or(0), self.ledger.end_of(partition));
        if log_start_offset > end {
            let (offset, high_watermark) = (log_start_offset, end);
            return Err(Error::OffsetOutOfRange { offset, log_start_offset: before, high_watermark });
        }
        if log_start_offset <= before {
            return Ok(());
        }
        if let Some(holder) = own.holders_of(partition.topic).find(|holder| !agreed.contains(holder)) {
            return Err(Error::TopicHeld { topic: topic.name.clone(), holder });
        }
        self.change(Change::LogStart { partition, value: Some(log_start_offset) })
    }

    fn group_offset(&mut self, group: String, partition: TopicPartition, offset: Option<GroupOffset>) -> Result<()> {
        let value = match offset {
            // Removing needs no topic: it may be what cleans up after one.
            None => None,
            Some(offset) => {
                self.ledger.own.topic_of(partition)?;
                Some(GroupOffset { committed_at_us: self.terms.now_us, ..offset })
            }
        };
        let before = self.ledger.own.offset_bytes;
        self.change(Change::GroupOffset { group, partition, value })?;
        self.check_offset_bytes(before)
    }

    /// Refuses what makes the offsets of all groups more than there may be. What makes them no more is let in: a group that
    /// is there goes on.
    pub(crate) fn check_offset_bytes(&self, before: u64) -> Result<()> {
        let (bytes, limit_bytes) = (self.ledger.own.offset_bytes, self.terms.offsets_bytes_max);
        if bytes <= limit_bytes.max(before) {
            return Ok(());
        }
        Err(Error::TooLarge { what: "all offsets of consumer groups", bytes, setting: OFFSETS_BYTES_MAX, limit_bytes })
    }

    fn position(&mut self, change: PositionChange) -> Result<()> {
        let PositionChange { query, value, expect } = change;
        check_expected(&expect, self.ledger.own.positions.get(&query), || format!("position of query {query}"))?;
        self.change(Change::Position { query, value })
    }
}

fn made_by(change: &TopicChange) -> Option<TopicId> {
    match change {
        TopicChange::Create { id, .. } => Some(*id),
        _ => None,
    }
}

/// What a record will take in a batch, at the most.
pub(crate) fn record_bytes(record: &OwnRecord) -> u64 {
    RECORD_OVERHEAD_BYTES + record.key.len() as u64 + record.value.as_ref().map_or(0, Vec::len) as u64
}

fn check_size(bytes: u64, limit_bytes: u64) -> Result<()> {
    if bytes <= limit_bytes {
        return Ok(());
    }
    Err(Error::TooLarge { what: "commit", bytes, setting: "wal.commit_bytes_max", limit_bytes })
}

fn check_expected(expect: &Expect, present: Option<&bytes::Bytes>, what: impl FnOnce() -> String) -> Result<()> {
    let met = match expect {
        Expect::Anything => true,
        Expect::Absent => present.is_none(),
        Expect::Present => present.is_some(),
        Expect::Value(expected) => present == Some(expected),
    };
    if met { Ok(()) } else { Err(Error::Conflict { what: what() }) }
}

/// How many partitions a topic may be given.
fn check_growth(topic: &Topic, partitions: i32) -> Result<()> {
    let invalid = |reason: String| Err(Error::InvalidPartitions { topic: topic.name.clone(), reason });
    if partitions <= topic.partitions {
        return invalid(format!("it has {} partitions, {partitions} is not more", topic.partitions));
    }
    if partitions > PARTITIONS_MAX {
        return invalid(format!("{partitions} partitions, at most {PARTITIONS_MAX} are allowed"));
    }
    Ok(())
}

fn check_topic(name: &str, partitions: i32) -> Result<()> {
    let invalid = |reason: String| Err(Error::InvalidTopic { topic: name.to_owned(), reason });
    if name.is_empty() || name.len() > TOPIC_NAME_BYTES_MAX {
        return invalid(format!("a name has 1 to {TOPIC_NAME_BYTES_MAX} characters"));
    }
    if name == "." || name == ".." {
        return invalid("'.' and '..' are not allowed as names".to_owned());
    }
    if let Some(wrong) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return invalid(format!("'{wrong}' is not allowed, use letters, digits, '.', '_' and '-'"));
    }
    if !(1..=PARTITIONS_MAX).contains(&partitions) {
        return invalid(format!("{partitions} partitions, 1 to {PARTITIONS_MAX} are allowed"));
    }
    Ok(())
}

/// The topics a state keeps but our own: what a snapshot stores.
pub(crate) fn stored_topics(own: &OwnState) -> Vec<Topic> {
    own.topics.values().filter(|topic| !topic.internal).map(|topic| topic.as_ref().clone()).collect()
}
