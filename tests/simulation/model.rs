//! The model: plain maps of what was sent, answered and seen, and the rules that hold between them.
//!
//! A commit that was answered is there for ever; one that was refused never is; one whose answer nobody got (the process
//! died, the disk failed) is there whole or not at all, which the next look decides once. Whatever anybody has been
//! shown is durable. Numbers in brackets are those of the invariants in `main.rs`.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use aquifer_storage::{Receipt, TopicId, TopicPartition, Watermarks};

use crate::remains::{Hold, Kept, WallSpan};

/// A record as sent, and as it must come back. Its first header names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(crate) timestamp_ms: i64,
    pub(crate) timestamp_type: i8,
}

/// Which attempt a record belongs to, which of its batches, which of the batch's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecordId {
    pub(crate) attempt: u64,
    pub(crate) batch: usize,
    pub(crate) index: usize,
}

impl RecordId {
    /// As it stands in a record's first header.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        format!("{}/{}/{}", self.attempt, self.batch, self.index).into_bytes()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut numbers = text.split('/').map(|number| number.parse::<u64>().ok());
        let (attempt, batch, index) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(Self { attempt, batch: usize::try_from(batch).ok()?, index: usize::try_from(index).ok()? })
    }

    /// The name of a record.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        record.headers.first().and_then(|(_, value)| value.as_deref()).and_then(Self::parse)
    }
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// No answer yet.
    Pending,
    /// Answered with an error that says that nothing was done.
    Refused,
    /// Answered, but a power cut may take it.
    Written,
    /// Answered, or shown to somebody.
    Durable,
    /// Nobody knows.
    Unknown,
    /// Looked for after a restart and not found.
    Absent,
}

/// One thing of which the last change counts: a group's offset, a position, a definition. The value names the attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Register {
    Offset(String, TopicPartition),
    Position(String),
    Definition(String),
}

/// A batch that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) partition: TopicPartition,
    pub(crate) records: Vec<Record>,
    /// Offset of the first record, once known.
    pub(crate) base: Option<i64>,
    /// It is not below this: what was acknowledged before.
    pub(crate) floor: i64,
}

/// A commit that was tried, once or again.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) sent: Vec<Sent>,
    pub(crate) registers: Vec<Register>,
    /// The topic it makes.
    pub(crate) creates: Option<TopicId>,
    /// The transaction it is part of.
    pub(crate) transaction: Option<u64>,
    /// Larger than a frame, so that the log makes a transaction of it: whoever reads everything may see parts.
    pub(crate) large: bool,
    pub(crate) fate: Fate,
    pub(crate) commit_time_us: Option<i64>,
}

/// How a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Open,
    /// Its end was asked for, and there is no answer yet.
    Asked(bool),
    Committed,
    Aborted,
}

/// What is known of a partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Partition {
    /// What lies where.
    pub(crate) records: BTreeMap<i64, RecordId>,
    /// End of what was answered as durable, or shown.
    pub(crate) acknowledged_end: i64,
    /// The highest ends anybody was shown.
    pub(crate) watermarks: Watermarks,
    /// There were transactions: offsets may be markers.
    pub(crate) transactional: bool,
    /// Trims that were asked for and not refused, by their numbers.
    pub(crate) trims: Vec<(u64, i64)>,
    /// The largest trim that was answered.
    pub(crate) trimmed: i64,
}

/// Whether a topic is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Coming,
    There,
    Going,
    Gone,
}

/// A topic by its id.
#[derive(Clone, Debug)]
pub(crate) struct TopicModel {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    /// It may have one of these numbers by now: asked for and not answered.
    pub(crate) partitions_asked: Vec<i32>,
    pub(crate) presence: Presence,
    pub(crate) kept: Kept,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: u32,
    pub(crate) words: String,
}

pub(crate) type Checked<T = ()> = Result<T, Violation>;

/// A broken rule.
pub(crate) fn broken<T>(invariant: u32, words: impl Into<String>) -> Checked<T> {
    Err(Violation { invariant, words: words.into() })
}

/// All that is known.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) attempts: BTreeMap<u64, Attempt>,
    pub(crate) partitions: BTreeMap<TopicPartition, Partition>,
    pub(crate) topics: BTreeMap<TopicId, TopicModel>,
    /// Attempts that set a register, in the order in which its one owner made them.
    pub(crate) registers: BTreeMap<Register, Vec<u64>>,
    pub(crate) producer_ids: BTreeSet<i64>,
    pub(crate) transactions: BTreeMap<u64, Outcome>,
    /// When transactions, and attempts that are part of none, were committed: as rows have said once.
    pub(crate) commit_times: BTreeMap<u64, i64>,
    pub(crate) holds: BTreeMap<TopicId, Hold>,
    /// Where the wall clock has been; the world keeps it.
    pub(crate) wall: Rc<Cell<WallSpan>>,
    pub(crate) next_attempt: u64,
}

impl Model {
    /// The number of the next attempt, which its records bear.
    pub(crate) fn next_attempt(&mut self) -> u64 {
        self.next_attempt += 1;
        self.next_attempt
    }

    /// An attempt begins.
    pub(crate) fn attempt(&mut self, id: u64, sent: Vec<(TopicPartition, Vec<Record>)>, registers: Vec<Register>) {
        for register in &registers {
            self.registers.entry(register.clone()).or_default().push(id);
        }
        let of_batch = |(partition, records): (TopicPartition, Vec<Record>)| {
            let floor = self.partitions.get(&partition).map_or(0, |known| known.acknowledged_end);
            Sent { partition, records, base: None, floor }
        };
        let sent = sent.into_iter().map(of_batch).collect();
        let attempt = Attempt {
            sent,
            registers,
            creates: None,
            transaction: None,
            large: false,
            fate: Fate::Pending,
            commit_time_us: None,
        };
        self.attempts.insert(id, attempt);
    }

    pub(crate) fn fate(&self, attempt: u64) -> Fate {
        self.attempts.get(&attempt).map_or(Fate::Absent, |attempt| attempt.fate)
    }

    pub(crate) fn set_fate(&mut self, attempt: u64, fate: Fate) {
        if let Some(attempt) = self.attempts.get_mut(&attempt) {
            attempt.fate = fate;
        }
    }

    /// The fate of an attempt for whoever reads what is committed.
    pub(crate) fn standing(&self, attempt: u64) -> Fate {
        let Some(known) = self.attempts.get(&attempt) else { return Fate::Absent };
        match known.transaction.and_then(|transaction| self.transactions.get(&transaction)) {
            None => known.fate,
            Some(Outcome::Committed) => Fate::Durable,
            Some(Outcome::Asked(true)) => Fate::Pending,
            Some(Outcome::Open | Outcome::Asked(false) | Outcome::Aborted) => Fate::Refused,
        }
    }

    /// Whether something in a partition may still be undone, so that readers of what is committed wait before it.
    pub(crate) fn is_held(&self, at: TopicPartition) -> bool {
        self.attempts.values().any(|attempt| {
            let outcome = attempt.transaction.and_then(|transaction| self.transactions.get(&transaction));
            let open = match outcome {
                Some(outcome) => matches!(outcome, Outcome::Open | Outcome::Asked(_)),
                None => attempt.large && matches!(attempt.fate, Fate::Pending | Fate::Unknown | Fate::Refused),
            };
            open && attempt.sent.iter().any(|sent| sent.partition == at)
        })
    }

    /// The first offset of a range at which a record must be that is missing among those found; and whether any offset
    /// is missing that nothing explains.
    pub(crate) fn missing(&self, at: TopicPartition, range: Range<i64>, found: &BTreeSet<i64>) -> Option<i64> {
        let partition = self.partitions.get(&at)?;
        let due = |offset: &i64| match partition.records.get(offset) {
            Some(id) => self.standing(id.attempt) == Fate::Durable && !self.may_be_gone(at, *offset, *id),
            // A marker, or a record whose fate nobody has learnt: only where there are transactions, or where another
            // record of its key has taken its place.
            None => !partition.transactional && !self.kept(at.topic).compacts,
        };
        range.filter(|offset| !found.contains(offset)).find(due)
    }

    /// As [`Model::missing`], for who looks at what is there now: log starts may have moved meanwhile.
    pub(crate) fn missing_now(&self, at: TopicPartition, range: Range<i64>, found: &BTreeSet<i64>) -> Option<i64> {
        let start = range.start.max(self.start_max(at).min(range.end));
        self.missing(at, start..range.end, found)
    }

    /// An attempt was refused. If somebody was shown a part of it, that was a lie.
    pub(crate) fn refused(&mut self, id: u64, why: &str) -> Checked {
        match self.fate(id) {
            Fate::Durable | Fate::Written => broken(1, format!("attempt {id} was there and is refused now: {why}")),
            // Of a retry nobody needs the answer any more.
            Fate::Absent => Ok(()),
            _ => {
                self.set_fate(id, Fate::Refused);
                Ok(())
            }
        }
    }

    /// An attempt was answered.
    pub(crate) fn answered(&mut self, id: u64, receipt: &Receipt, synced: bool) -> Checked {
        let Some(attempt) = self.attempts.get(&id).cloned() else { return Ok(()) };
        if receipt.appended.len() != attempt.sent.len() {
            return broken(1, format!("attempt {id}: {} batches answered", receipt.appended.len()));
        }
        for (batch, (sent, appended)) in attempt.sent.iter().zip(&receipt.appended).enumerate() {
            if sent.base.is_some_and(|base| base != appended.base_offset) {
                return broken(
                    4,
                    format!("attempt {id} was at {:?} and is answered with {}", sent.base, appended.base_offset),
                );
            }
            self.place(id, batch, appended.base_offset)?;
        }
        let duplicate = receipt.appended.iter().any(|appended| appended.duplicate);
        if let Some(attempt) = self.attempts.get_mut(&id).filter(|_| !duplicate) {
            attempt.commit_time_us = Some(receipt.commit_time_us);
        }
        // Nobody is told of a duplicate before it is durable.
        if synced || duplicate || attempt.fate == Fate::Durable {
            self.durable(id);
        } else {
            self.set_fate(id, Fate::Written);
        }
        Ok(())
    }

    /// Everything of an attempt is durable.
    fn durable(&mut self, id: u64) {
        self.set_fate(id, Fate::Durable);
        let Some(attempt) = self.attempts.get(&id) else { return };
        for sent in &attempt.sent {
            if let Some(base) = sent.base {
                let partition = self.partitions.entry(sent.partition).or_default();
                let end = base + sent.records.len() as i64;
                partition.acknowledged_end = partition.acknowledged_end.max(end);
            }
        }
    }

    /// A batch lies at an offset.
    fn place(&mut self, attempt: u64, batch: usize, base: i64) -> Checked {
        let Some(sent) = self.attempts.get_mut(&attempt).and_then(|attempt| attempt.sent.get_mut(batch)) else {
            return broken(1, format!("nobody has sent batch {batch} of attempt {attempt}"));
        };
        if let Some(known) = sent.base.filter(|known| *known != base) {
            return broken(4, format!("batch {batch} of attempt {attempt} is at {known} and at {base}"));
        }
        sent.base = Some(base);
        let (at, count) = (sent.partition, sent.records.len());
        let partition = self.partitions.entry(at).or_default();
        for index in 0..count {
            let id = RecordId { attempt, batch, index };
            let offset = base + index as i64;
            if let Some(other) = partition.records.insert(offset, id).filter(|other| *other != id) {
                return broken(2, format!("{at:?} offset {offset} is {other:?} and {id:?}"));
            }
        }
        Ok(())
    }

    /// Somebody who reads everything was shown a record: it is one that was sent, as it was sent, at its one offset.
    pub(crate) fn seen(&mut self, at: TopicPartition, offset: i64, record: &Record) -> Checked<RecordId> {
        let Some(id) = RecordId::of(record) else {
            return broken(13, format!("{at:?} offset {offset}: a record nobody has sent: {record:?}"));
        };
        let Some(attempt) = self.attempts.get(&id.attempt) else {
            return broken(13, format!("{at:?} offset {offset}: {id:?} was never tried"));
        };
        let sent = attempt.sent.get(id.batch).filter(|sent| sent.partition == at);
        let Some(expected) = sent.and_then(|sent| sent.records.get(id.index)) else {
            return broken(2, format!("{at:?} offset {offset}: {id:?} was sent elsewhere"));
        };
        if expected != record {
            return broken(13, format!("{at:?} offset {offset}: {record:?} was sent as {expected:?}"));
        }
        let undecided = attempt.large || attempt.transaction.is_some();
        match attempt.fate {
            _ if undecided => {}
            Fate::Refused => return broken(5, format!("{at:?} offset {offset}: {id:?} was refused and is shown")),
            Fate::Absent => return broken(1, format!("{at:?} offset {offset}: {id:?} was lost and is back")),
            Fate::Pending | Fate::Written | Fate::Durable | Fate::Unknown => {}
        }
        self.place(id.attempt, id.batch, offset - id.index as i64)?;
        if !undecided {
            // Who is shown a part may rely on the whole.
            self.durable(id.attempt);
        }
        Ok(id)
    }

    /// Somebody who reads what is committed was shown a record: then it is, and so is all that belongs to it.
    pub(crate) fn shown(&mut self, at: TopicPartition, offset: i64, record: &Record) -> Checked<RecordId> {
        let id = self.seen(at, offset, record)?;
        match self.standing(id.attempt) {
            Fate::Refused => return broken(5, format!("{at:?} offset {offset}: {id:?} was aborted and is shown")),
            Fate::Absent => return broken(5, format!("{at:?} offset {offset}: {id:?} was lost and is shown")),
            _ => {}
        }
        match self.attempts.get(&id.attempt).and_then(|attempt| attempt.transaction) {
            Some(transaction) => drop(self.transactions.insert(transaction, Outcome::Committed)),
            None => self.durable(id.attempt),
        }
        Ok(id)
    }

    /// A row says when it was committed: all rows of one commit say the same whenever and wherever they are read, and what
    /// was answered. A transaction's rows say when it ended.
    pub(crate) fn committed(
        &mut self,
        (at, offset): (TopicPartition, i64),
        attempt: u64,
        committed_us: i64,
        whole: bool,
    ) -> Checked {
        let Some(known) = self.attempts.get(&attempt) else { return Ok(()) };
        if !whole && (known.large || known.transaction.is_some()) {
            return Ok(());
        }
        // Of a transaction's batch the answer says when it was written.
        let answered = known.commit_time_us.filter(|_| known.transaction.is_none());
        let act = known.transaction.unwrap_or(attempt);
        let written = known.commit_time_us.filter(|_| known.transaction.is_some());
        let expected = answered.or(self.commit_times.get(&act).copied());
        if expected.is_some_and(|expected| expected != committed_us)
            || written.is_some_and(|written| committed_us <= written)
        {
            let words = format!("{at:?} offset {offset}: committed at {committed_us}, expected {expected:?}");
            return broken(2, format!("{words}, written at {written:?}"));
        }
        self.commit_times.insert(act, committed_us);
        Ok(())
    }

    /// The partition as known now.
    pub(crate) fn partition(&self, at: TopicPartition) -> Partition {
        self.partitions.get(&at).cloned().unwrap_or_default()
    }

    /// A process has ended. What was written and not synced is there, unless the power was cut.
    pub(crate) fn process_ended(&mut self, power_cut: bool) {
        let mut lost = Vec::new();
        for (id, attempt) in &mut self.attempts {
            match attempt.fate {
                Fate::Pending => attempt.fate = Fate::Unknown,
                Fate::Written if power_cut => {
                    attempt.fate = Fate::Unknown;
                    lost.push(*id);
                }
                _ => {}
            }
        }
        for id in lost {
            let Some(attempt) = self.attempts.get_mut(&id) else { continue };
            for sent in &mut attempt.sent {
                let partition = self.partitions.entry(sent.partition).or_default();
                partition.records.retain(|_, record| record.attempt != id);
                sent.base = None;
            }
        }
    }

    /// Partitions of topics that are there for sure.
    pub(crate) fn settled_partitions(&self) -> Vec<TopicPartition> {
        let there = self.topics.iter().filter(|(_, topic)| topic.presence == Presence::There);
        there
            .flat_map(|(id, topic)| (0..topic.partitions).map(|partition| TopicPartition { topic: *id, partition }))
            .collect()
    }
}

/// A partition's ends in words.
pub(crate) fn ends(partition: &Partition) -> String {
    format!("{:?}, acknowledged to {}", partition.watermarks, partition.acknowledged_end)
}

impl Model {
    /// An attempt becomes a part of a transaction, or a transaction of its own.
    pub(crate) fn in_transaction(&mut self, attempt: u64, transaction: Option<u64>) {
        let Some(known) = self.attempts.get_mut(&attempt) else { return };
        known.transaction = transaction;
        known.large = transaction.is_none();
        for sent in &known.sent {
            self.partitions.entry(sent.partition).or_default().transactional = true;
        }
    }

    /// A transaction will not be committed, unless it has been asked for.
    pub(crate) fn give_up(&mut self, transaction: u64) {
        if let Some(outcome) = self.transactions.get_mut(&transaction).filter(|outcome| **outcome == Outcome::Open) {
            *outcome = Outcome::Asked(false);
        }
    }

    /// The end of a transaction is known.
    pub(crate) fn ended(&mut self, transaction: u64, committed: bool) -> Checked {
        let before =
            self.transactions.insert(transaction, if committed { Outcome::Committed } else { Outcome::Aborted });
        match (before, committed) {
            (Some(Outcome::Committed), false) => {
                broken(6, format!("transaction {transaction} was committed and is aborted"))
            }
            (Some(Outcome::Aborted | Outcome::Asked(false)), true) => {
                broken(5, format!("transaction {transaction} was aborted and is committed"))
            }
            _ => Ok(()),
        }
    }
}
