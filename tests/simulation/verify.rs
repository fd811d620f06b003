//! The whole look: after every start, and at the end, everything that is there is held against the model, and what nobody
//! knew is decided once and for all.

use std::collections::BTreeMap;

use std::time::Duration;

use aquifer_storage::testing::schedule;
use aquifer_storage::{Health, Isolation, Storage, TopicPartition};

use crate::model::{Fate, Model, Outcome, Presence, Record, RecordId, Register, broken};
use crate::reader;
use crate::world::World;

/// Seconds that what a dead process has left open may hold readers up.
const STABLE_LOOKS_MAX: u32 = 60;

/// Whether a part of a commit is there, as far as one can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    Present,
    Absent,
    /// Overwritten, deleted or gone by retention since.
    Hidden,
}

/// Everything. `bytes_max` of each fetch.
pub(crate) async fn whole(world: &World, storage: &Storage, bytes_max: usize) {
    // A disk that refused the first write after a start is no damage.
    if !matches!(storage.health(), Health::Ready | Health::Full(_)) {
        world.violate(1, format!("after a start: {:?}", storage.health()));
        return;
    }
    topics(world, storage);
    crate::holds::settle(world, storage);
    crate::transaction::settle(world, storage);
    if !stable(world, storage).await {
        return;
    }
    let unknown: Vec<u64> = {
        let model = world.model.borrow();
        let unknown = model.attempts.iter().filter(|(_, one)| one.fate == Fate::Unknown && one.transaction.is_none());
        unknown.map(|(id, _)| *id).collect()
    };
    let Some(found) = contents(world, storage, bytes_max).await else { return };
    let registers = world.model.borrow().registers.clone();
    let mut values = BTreeMap::new();
    for (of, attempts) in &registers {
        let value = register(world, storage, of, attempts);
        values.insert(of.clone(), value);
    }
    for id in unknown {
        if undecided(world, id) {
            continue;
        }
        let evidence = evidence(&world.model.borrow(), id, &values);
        if !evidence.is_empty()
            && evidence.iter().all(|evidence| *evidence == Evidence::Hidden)
            && gone_since(world, id)
        {
            continue;
        }
        let there = evidence.contains(&Evidence::Present);
        let mixed = there && evidence.contains(&Evidence::Absent);
        if mixed {
            world.violate(6, format!("attempt {id} is there in part: {evidence:?}"));
            return;
        }
        world.note(|| format!("attempt {id} is {}", if there { "there" } else { "not there" }));
        world.model.borrow_mut().set_fate(id, if there { Fate::Durable } else { Fate::Absent });
    }
    complete(world, &found);
}

/// Whether batches of an attempt may have been there and be gone by retention or compaction: nobody will ever know.
fn gone_since(world: &World, id: u64) -> bool {
    let model = world.model.borrow();
    model.attempts.get(&id).is_some_and(|attempt| attempt.sent.iter().any(|sent| model.may_have_been(sent, 0)))
}

/// Whether a large commit lies behind a transaction that a client has open: then nobody can tell yet.
fn undecided(world: &World, id: u64) -> bool {
    let sent: Vec<TopicPartition> = {
        let model = world.model.borrow();
        let large = model.attempts.get(&id).filter(|attempt| attempt.large && attempt.fate != Fate::Durable);
        large.map(|attempt| attempt.sent.iter().map(|sent| sent.partition).collect()).unwrap_or_default()
    };
    sent.into_iter().any(|at| crate::transaction::holds(world, at))
}

/// Topics are there, or are not.
fn topics(world: &World, storage: &Storage) {
    let mut model = world.model.borrow_mut();
    let mut wrong = Vec::new();
    for (id, topic) in &mut model.topics {
        let found = storage.topic_by_id(*id);
        match (topic.presence, &found) {
            (Presence::There, None) => wrong.push(format!("{topic:?} is gone")),
            (Presence::Gone, Some(_)) => wrong.push(format!("{topic:?} is back")),
            (Presence::Coming | Presence::Going, Some(_)) => topic.presence = Presence::There,
            (Presence::Coming | Presence::Going, None) => topic.presence = Presence::Gone,
            _ => {}
        }
        if let Some(found) = found {
            let grown = topic.partitions_asked.contains(&found.partitions);
            if found.name != topic.name || !(grown || found.partitions == topic.partitions) {
                wrong.push(format!("{topic:?} is {found:?}"));
            }
            (topic.partitions, topic.partitions_asked) = (found.partitions, Vec::new());
        }
    }
    for (group, at, _) in storage.group_offsets(None) {
        if model.topics.get(&at.topic).is_none_or(|topic| topic.presence == Presence::Gone) {
            wrong.push(format!("{group} has an offset of {at:?}, which is gone"));
        }
    }
    for topic in storage.topics() {
        if !topic.internal && !model.topics.contains_key(&topic.id) {
            wrong.push(format!("nobody has made {topic:?}"));
        }
    }
    drop(model);
    for words in wrong {
        world.violate(1, words);
    }
}

/// Waits until only transactions that clients have open hold anything up: those that a dead process has left are aborted.
async fn stable(world: &World, storage: &Storage) -> bool {
    for _ in 0..STABLE_LOOKS_MAX {
        let partitions = world.model.borrow().settled_partitions();
        let waits = |at: &TopicPartition| {
            let open = storage.watermarks(*at).is_ok_and(|ends| ends.last_stable_offset < ends.high_watermark);
            open && !crate::transaction::holds(world, *at)
        };
        if !partitions.iter().any(waits) {
            return true;
        }
        schedule::sleep(Duration::from_secs(1)).await;
    }
    world.violate(8, format!("something holds readers up for ever: {:?}", storage.transactions()));
    false
}

/// All records of all topics, fetched and scanned; both ways show the same.
async fn contents(
    world: &World,
    storage: &Storage,
    bytes_max: usize,
) -> Option<BTreeMap<TopicPartition, BTreeMap<i64, RecordId>>> {
    let partitions = world.model.borrow().settled_partitions();
    let topics: Vec<_> = {
        let mut topics: Vec<_> = partitions.iter().map(|at| at.topic).collect();
        topics.dedup();
        topics
    };
    let held = reader::hold(world, storage, &topics)?;
    let scanned = reader::scan_all(world, &held).await?;
    let mut found = BTreeMap::new();
    for at in partitions {
        let everything = reader::fetch_all(world, storage, at, bytes_max, Isolation::ReadUncommitted).await?;
        let fetched = reader::fetch_all(world, storage, at, bytes_max, Isolation::ReadCommitted).await?;
        let pinned = scanned.get(&at).map(Vec::as_slice).unwrap_or_default();
        let range = held.snapshot.range(at).map_or(0..0, |range| range.start..range.end);
        if !same(world, at, range, pinned, &fetched) {
            let offsets = |rows: &[(i64, _)]| rows.iter().map(|(offset, _)| *offset).collect::<Vec<_>>();
            let (left, right) = (offsets(&fetched), offsets(pinned));
            world.violate(13, format!("{at:?}: fetched {left:?}, scanned {right:?}"));
            return None;
        }
        let ids = everything.iter().filter_map(|(offset, record)| Some((*offset, RecordId::of(record)?)));
        found.insert(at, ids.collect::<BTreeMap<_, _>>());
    }
    // Log starts may have moved meanwhile: what is looked for from here on lies behind them.
    for at in found.keys() {
        let before = world.model.borrow().partition(*at);
        if let Ok(now) = storage.watermarks(*at) {
            let shown = world.model.borrow_mut().ends_shown(*at, &before, now);
            world.check(shown)?;
        }
    }
    // By rows: what the log holds of a compacted topic goes when the log forgets it.
    let rows = scanned.iter().map(|(at, rows)| (*at, rows.iter().map(|(offset, _)| *offset).collect()));
    crate::holds::pin(world, &rows.collect());
    Some(found)
}

/// Whether a fetch shows what a snapshot pinned before it, but for what retention and compaction have taken since.
fn same(
    world: &World,
    at: TopicPartition,
    range: std::ops::Range<i64>,
    pinned: &[(i64, Record)],
    fetched: &[(i64, Record)],
) -> bool {
    let scanned: BTreeMap<i64, &Record> = pinned.iter().map(|(offset, record)| (*offset, record)).collect();
    let shown: BTreeMap<i64, &Record> = fetched.iter().map(|(offset, record)| (*offset, record)).collect();
    let model = world.model.borrow();
    let start = model.start_max(at);
    let gone = |offset: i64, record: &Record| {
        offset < start || RecordId::of(record).is_some_and(|id| model.may_be_gone(at, offset, id))
    };
    // The log shows for as long as it holds them what compaction has taken from the objects.
    shown
        .range(range)
        .all(|(offset, record)| scanned.get(offset).map_or_else(|| gone(*offset, record), |scanned| scanned == record))
        && scanned
            .iter()
            .all(|(offset, record)| shown.get(offset).map_or_else(|| gone(*offset, record), |shown| shown == record))
}

/// Whatever is known to be there was found, and nothing is missing.
fn complete(world: &World, found: &BTreeMap<TopicPartition, BTreeMap<i64, RecordId>>) {
    let model = world.model.borrow();
    let mut checked = Ok(());
    for (at, records) in found {
        let partition = model.partition(*at);
        let start = partition.watermarks.log_start_offset;
        for (offset, id) in partition.records.range(start..) {
            let due = model.standing(id.attempt) == Fate::Durable && !model.may_be_gone(*at, *offset, *id);
            if due && records.get(offset) != Some(id) {
                checked = broken(1, format!("{at:?} offset {offset}: {id:?} is lost, found {:?}", records.get(offset)));
            }
        }
    }
    drop(model);
    world.check(checked);
}

/// What is seen of the parts of an attempt.
fn evidence(model: &Model, id: u64, values: &BTreeMap<Register, Option<u64>>) -> Vec<Evidence> {
    let Some(attempt) = model.attempts.get(&id) else { return Vec::new() };
    let there = |topic| model.topics.get(&topic).is_some_and(|topic| topic.presence == Presence::There);
    let of_batch = |batch: usize| {
        let sent = &attempt.sent[batch];
        if !there(sent.partition.topic) {
            return Evidence::Hidden;
        }
        let records = model.partition(sent.partition).records;
        // Of a large commit that was aborted there are records too, for whoever reads everything.
        let counts = !attempt.large || attempt.fate == Fate::Durable;
        let shown = counts && records.values().any(|record| record.attempt == id && record.batch == batch);
        match shown {
            true => Evidence::Present,
            false if counts && model.may_have_been(sent, 0) => Evidence::Hidden,
            false => Evidence::Absent,
        }
    };
    let mut evidence: Vec<Evidence> = (0..attempt.sent.len()).map(of_batch).collect();
    for register in &attempt.registers {
        let hidden = matches!(register, Register::Offset(_, at) if !there(at.topic));
        let order = model.registers.get(register).map(Vec::as_slice).unwrap_or_default();
        let rank = |wanted: u64| order.iter().position(|attempt| *attempt == wanted);
        let actual = values.get(register).copied().flatten().and_then(rank);
        evidence.push(match (actual, rank(id)) {
            _ if hidden => Evidence::Hidden,
            (Some(actual), Some(own)) if actual == own => Evidence::Present,
            (Some(actual), Some(own)) if actual > own => Evidence::Hidden,
            _ => Evidence::Absent,
        });
    }
    if let Some(topic) = attempt.creates {
        // One that is not there may have been deleted since.
        let present = there(topic);
        evidence.push(if present { Evidence::Present } else { Evidence::Hidden });
    }
    evidence
}

/// Looks at a register: it is what the last durable change made it, or a later one of which nobody knows. Gives the
/// attempt that set it.
pub(crate) fn register(world: &World, storage: &Storage, register: &Register, attempts: &[u64]) -> Option<u64> {
    let text = match register {
        Register::Offset(group, at) => {
            let gone = world.model.borrow().topics.get(&at.topic).is_none_or(|t| t.presence != Presence::There);
            if gone {
                return None;
            }
            let offsets = storage.group_offsets(Some(group));
            offsets.into_iter().find(|(_, of, _)| of == at).map(|(_, _, offset)| offset.metadata)
        }
        Register::Position(query) => storage.position(query).map(|value| text(&value)),
        Register::Definition(name) => {
            let of_kind = storage.definitions("relation");
            of_kind.iter().find(|definition| definition.name == *name).map(|definition| text(&definition.value))
        }
    };
    let actual = text.and_then(|text| text.parse::<u64>().ok());
    world.note(|| format!("{register:?} is {actual:?}"));
    let mut model = world.model.borrow_mut();
    let last_durable = attempts.iter().rposition(|attempt| model.standing(*attempt) == Fate::Durable);
    let rank = actual.and_then(|actual| attempts.iter().position(|attempt| *attempt == actual));
    let fate = actual.map(|actual| model.standing(actual));
    let checked = match (rank, last_durable) {
        (None, None) => Ok(()),
        (None, Some(_)) => broken(10, format!("{register:?} is {actual:?}, was {attempts:?}")),
        (Some(rank), durable) if durable.is_some_and(|durable| rank < durable) => {
            broken(10, format!("{register:?} went back to {actual:?} of {attempts:?}"))
        }
        _ if matches!(fate, Some(Fate::Refused | Fate::Absent)) => {
            broken(10, format!("{register:?} is {actual:?}, which is {fate:?}"))
        }
        _ => Ok(()),
    };
    if let Some(actual) = actual.filter(|_| checked.is_ok() && fate != Some(Fate::Unknown)) {
        // Who is shown it may rely on it.
        match model.attempts.get(&actual).and_then(|attempt| attempt.transaction) {
            Some(transaction) => drop(model.transactions.insert(transaction, Outcome::Committed)),
            None => model.set_fate(actual, Fate::Durable),
        }
    }
    drop(model);
    world.check(checked);
    actual
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
