//! What clients do to topics: they make them, give them partitions, trim them, delete them and make them again, and have
//! them vacuumed. A topic has one owner, who alone makes, grows and deletes it; anybody trims and vacuums.

use aquifer_storage::testing::chance::Chance;
use aquifer_storage::{
    Append, CleanupPolicy, Commit, Error, Storage, TopicChange, TopicConfig, TopicId, TopicPartition, Trim,
};

use crate::batches::{batch_of, records};
use crate::client::{Client, LARGE_SLACK_BYTES};
use crate::model::{Presence, TopicModel};
use crate::remains::{Kept, PLENTY_BYTES};
use crate::world::World;

/// Topics a client may have at a time.
const TOPICS_MAX: usize = 2;
/// Longer than any history, ms.
const FOR_AGES_MS: i64 = 60 * 86_400_000;

/// What a new topic is told.
fn kept(chance: &Chance) -> Kept {
    let pick = |among: &[i64]| chance.pick(among).copied().unwrap_or_default();
    let compacting = Kept {
        compacts: true,
        deletes: false,
        lag_ms: pick(&[0, 0, 3_000, FOR_AGES_MS]),
        tombstones_ms: pick(&[0, 2_000, FOR_AGES_MS]),
        ..Kept::ALL
    };
    let retention_ms = pick(&[-1, 1_000, 30_000, FOR_AGES_MS]);
    let retention_bytes = pick(&[-1, 500, 6_000, PLENTY_BYTES]);
    match chance.below(6) {
        0..=1 => compacting,
        2 => Kept { retention_ms, ..Kept::ALL },
        3 => Kept { retention_bytes, ..Kept::ALL },
        4 if chance.once_in(2) => Kept { deletes: true, retention_ms, ..compacting },
        _ => Kept::ALL,
    }
}

fn config(kept: Kept) -> TopicConfig {
    let policy = match (kept.compacts, kept.deletes) {
        (false, _) => CleanupPolicy::Delete,
        (true, false) => CleanupPolicy::Compact,
        (true, true) => CleanupPolicy::CompactDelete,
    };
    TopicConfig {
        cleanup_policy: Some(policy),
        min_compaction_lag_ms: Some(kept.lag_ms),
        delete_retention_ms: Some(kept.tombstones_ms),
        retention_ms: Some(kept.retention_ms),
        retention_bytes: Some(kept.retention_bytes),
        ..TopicConfig::default()
    }
}

/// Makes a topic, often with its first records in the same commit.
pub(crate) async fn create(client: &Client, storage: &Storage, chance: &Chance) {
    let name = format!("topic-{}-{}", client.number, chance.index(TOPICS_MAX));
    let model = &client.world.model;
    let stands = |topic: &TopicModel| topic.name == name && topic.presence != Presence::Gone;
    let taken = model.borrow().topics.values().any(stands);
    if taken && !chance.once_in(4) {
        return client.produce(storage, chance).await;
    }
    let id = storage.new_topic_id();
    let partitions = i32::try_from(1 + chance.below(3)).unwrap_or(1);
    let attempt = model.borrow_mut().next_attempt();
    let kept = kept(&chance.fork("kept"));
    let made =
        TopicModel { name: name.clone(), partitions, partitions_asked: Vec::new(), presence: Presence::Coming, kept };
    model.borrow_mut().topics.insert(id, made);
    let create = TopicChange::Create { id, name, partitions, config: config(kept) };
    let mut commit = Commit { topics: vec![create], ..Commit::default() };
    let mut sent = Vec::new();
    if chance.once_in(2) {
        let records = records(&client.world, chance, attempt, 0, id);
        commit.appends.push(Append { topic: id, partition: 0, batch: batch_of(&records, chance, None) });
        sent.push((TopicPartition { topic: id, partition: 0 }, records));
    }
    let bytes: usize = commit.appends.iter().map(|append| append.batch.bytes().len()).sum();
    let large = bytes as u64 + LARGE_SLACK_BYTES > client.world.settings.wal_commit_bytes_max;
    {
        let mut model = model.borrow_mut();
        model.attempt(attempt, sent, Vec::new());
        if large {
            model.in_transaction(attempt, None);
        }
        if let Some(attempt) = model.attempts.get_mut(&attempt) {
            attempt.creates = Some(id);
        }
    }
    let answer = storage.commit(commit).await;
    match &answer {
        Err(Error::TopicExists { .. }) if taken => {
            let refused = model.borrow_mut().refused(attempt, "the name is taken");
            client.world.check(refused);
            presence(client, id, Presence::Gone);
        }
        Ok(_) if taken => client.world.violate(1, format!("{id:?} is made under a name that was taken")),
        Ok(_) => {
            presence(client, id, Presence::There);
            client.answer(attempt, &answer, true, &[id]);
        }
        Err(error) => {
            client.answer(attempt, &answer, true, &[id]);
            if !World::is_unknown(error) {
                presence(client, id, Presence::Gone);
            }
        }
    }
}

fn presence(client: &Client, id: TopicId, presence: Presence) {
    client.world.note(|| format!("client {}: topic {id:?} is {presence:?}", client.number));
    if let Some(topic) = client.world.model.borrow_mut().topics.get_mut(&id) {
        topic.presence = presence;
    }
}

/// One of the client's own topics that are there.
pub(crate) fn own(client: &Client, chance: &Chance) -> Option<TopicId> {
    let prefix = format!("topic-{}-", client.number);
    let model = client.world.model.borrow();
    let own = model.topics.iter().filter(|(_, topic)| topic.name.starts_with(&prefix));
    let there: Vec<TopicId> = own.filter(|(_, topic)| topic.presence == Presence::There).map(|(id, _)| *id).collect();
    chance.pick(&there).copied()
}

pub(crate) async fn delete(client: &Client, storage: &Storage, chance: &Chance) {
    let Some(id) = own(client, chance) else { return };
    let held = client.world.model.borrow().holds.get(&id).cloned();
    presence(client, id, Presence::Going);
    match storage.delete_topic(id).await {
        Ok(()) if held.as_ref().is_some_and(|hold| hold.in_force) => {
            client.world.violate(1, format!("{id:?} is deleted though {held:?} holds it"));
        }
        Ok(()) => presence(client, id, Presence::Gone),
        Err(error) if World::is_unknown(&error) => {}
        Err(error) => {
            presence(client, id, Presence::There);
            let rightly = matches!(error, Error::TopicHeld { .. }) && held.is_some();
            if !rightly && !client.world.is_weather(&error) {
                client.world.violate(1, format!("{id:?} is not deleted: {error}"));
            }
        }
    }
}

/// Gives a topic more partitions; sometimes asks for no more than it has.
pub(crate) async fn grow(client: &Client, storage: &Storage, chance: &Chance) {
    let Some(id) = own(client, chance) else { return };
    let Some((has, asked)) =
        client.world.model.borrow().topics.get(&id).map(|topic| (topic.partitions, topic.partitions_asked.clone()))
    else {
        return;
    };
    let wanted = has + i32::try_from(chance.below(3)).unwrap_or(0);
    if let Some(topic) = client.world.model.borrow_mut().topics.get_mut(&id) {
        topic.partitions_asked.push(wanted);
    }
    let answer = storage.add_partitions(id, wanted).await;
    client.world.note(|| format!("client {}: {id:?} to {wanted} partitions: {answer:?}", client.number));
    let mut model = client.world.model.borrow_mut();
    let Some(topic) = model.topics.get_mut(&id) else { return };
    let broken = match &answer {
        Ok(()) if wanted == has => Some("it has as many".to_owned()),
        Ok(()) => {
            (topic.partitions, topic.partitions_asked) = (wanted, Vec::new());
            None
        }
        Err(error) if World::is_unknown(error) => None,
        Err(error) => {
            let grown = asked.iter().any(|asked| *asked > has);
            topic.partitions_asked = asked;
            let rightly = matches!(error, Error::InvalidPartitions { .. }) && (wanted == has || grown);
            (!rightly && !client.world.is_weather(error)).then(|| error.to_string())
        }
    };
    drop(model);
    if let Some(words) = broken {
        client.world.violate(1, format!("{id:?} with {has} partitions is to have {wanted}: {words}"));
    }
}

/// DeleteRecords: what lies below is gone as soon as it is answered.
pub(crate) async fn trim(client: &Client, storage: &Storage, chance: &Chance) {
    let Some(at) = client.partitions(chance, 1).pop() else { return };
    let before = client.world.model.borrow().partition(at);
    let (start, end) = (before.watermarks.log_start_offset, before.acknowledged_end);
    // Also where the log start has been: it must not go back.
    let from = if chance.once_in(4) { 0 } else { start };
    let offset = from + i64::try_from(chance.below(u64::try_from(end - from).unwrap_or(0) + 2)).unwrap_or(0);
    let ask = client.world.model.borrow_mut().next_attempt();
    client.world.model.borrow_mut().trim_asked(ask, at, offset);
    let held = client.world.model.borrow().holds.get(&at.topic).cloned();
    let answer = storage.trim(vec![Trim { partition: at, log_start_offset: offset }]).await;
    client.world.note(|| format!("client {}: trim of {at:?} to {offset}: {answer:?}", client.number));
    match &answer {
        Ok(()) => {
            client.world.model.borrow_mut().trim_answered(ask, at, true);
            if let Ok(now) = storage.watermarks(at) {
                let before = client.world.model.borrow().partition(at);
                let shown = client.world.model.borrow_mut().ends_shown(at, &before, now);
                client.world.check(shown);
            }
        }
        Err(error) if World::is_unknown(error) => {}
        Err(error) => {
            client.world.model.borrow_mut().trim_answered(ask, at, false);
            let held_now = client.world.model.borrow().holds.contains_key(&at.topic);
            let rightly = match error {
                Error::OffsetOutOfRange { .. } => offset > end,
                Error::TopicHeld { .. } => held.is_some() || held_now,
                _ => false,
            };
            if !rightly {
                crate::reader::excuse(&client.world, at.topic, error, "a trim");
            }
        }
    }
}

/// What housekeeping does, now.
pub(crate) async fn vacuum(client: &Client, storage: &Storage, chance: &Chance) {
    let topic = if chance.once_in(2) { client.partitions(chance, 1).pop().map(|at| at.topic) } else { None };
    let done = storage.vacuum(topic).await;
    client.world.note(|| format!("client {}: vacuum of {topic:?}: {done:?}", client.number));
    match done {
        // Overtaken by tiering, or by who holds a topic since.
        Ok(_) | Err(Error::Conflict { .. } | Error::TopicHeld { .. }) => {}
        Err(Error::UnknownTopic { .. }) if topic.is_some() => {}
        Err(error) if client.world.is_weather(&error) => {}
        Err(error) => client.world.violate(1, format!("a vacuum failed: {error}: {error:?}")),
    }
}

/// Records without a key, for a topic that keeps the latest of each: refused, all of the commit.
pub(crate) async fn keyless(client: &Client, storage: &Storage, chance: &Chance) {
    let partitions = client.partitions(chance, 4);
    let compacts = |at: &TopicPartition| client.world.model.borrow().kept(at.topic).compacts;
    let Some(at) = partitions.into_iter().find(compacts) else { return };
    let attempt = client.world.model.borrow_mut().next_attempt();
    let mut records = records(&client.world, chance, attempt, 0, at.topic);
    let wrong = chance.index(records.len());
    records[wrong].key = None;
    client.world.model.borrow_mut().attempt(attempt, vec![(at, records.clone())], Vec::new());
    let append = Append { topic: at.topic, partition: at.partition, batch: batch_of(&records, chance, None) };
    let answer = storage.commit(Commit { appends: vec![append], ..Commit::default() }).await;
    match &answer {
        Ok(_) => client.world.violate(11, format!("attempt {attempt} has no key and is taken by {at:?}")),
        Err(Error::KeylessRecords { .. }) => {
            let refused = client.world.model.borrow_mut().refused(attempt, "no key");
            client.world.check(refused);
        }
        Err(_) => client.answer(attempt, &answer, true, &[at.topic]),
    }
}
