//! Holds, as continuous queries have them: a definition names the topic, and whoever stands above storage says from which
//! offset on its records are still needed. A topic is held by its owner only, one definition a topic.

use aquifer_storage::testing::chance::Chance;
use aquifer_storage::{Commit, DefinitionChange, Error, Expect, Storage, TopicId, TopicPartition};
use bytes::Bytes;

use crate::client::Client;
use crate::model::Presence;
use crate::remains::Hold;
use crate::world::World;

/// The kind of the definitions that hold.
const KIND: &str = "query";

fn name(topic: TopicId) -> String {
    format!("holder of {topic}")
}

/// Holds a topic, needs less of one that is held, or lets it go.
pub(crate) async fn act(client: &Client, storage: &Storage, chance: &Chance) {
    let Some(topic) = crate::topics::own(client, chance) else { return };
    let known = client.world.model.borrow().holds.get(&topic).map(|hold| hold.in_force);
    match known {
        None => hold(client, storage, chance, topic).await,
        Some(true) if !chance.once_in(3) => advance(client, chance, topic),
        Some(_) => release(client, storage, topic).await,
    }
}

fn partitions(world: &World, topic: TopicId) -> Vec<TopicPartition> {
    let model = world.model.borrow();
    let count = model.topics.get(&topic).map_or(0, |topic| topic.partitions);
    (0..count).map(|partition| TopicPartition { topic, partition }).collect()
}

async fn hold(client: &Client, storage: &Storage, chance: &Chance, topic: TopicId) {
    let world = &client.world;
    let mut hold = Hold::default();
    for at in partitions(world, topic) {
        let known = world.model.borrow().partition(at);
        let start = known.watermarks.log_start_offset;
        let room = u64::try_from(known.acknowledged_end - start).unwrap_or(0);
        let needed = start + i64::try_from(chance.below(room + 1)).unwrap_or(0);
        // Before the definition is there: who asks must find it.
        world.needed.0.lock().insert(at, needed);
        hold.needed.insert(at.partition, needed);
    }
    world.model.borrow_mut().holds.insert(topic, hold);
    let answer = define(storage, topic, Some(Bytes::from_static(b"held"))).await;
    world.note(|| format!("client {}: holds {topic:?}: {answer:?}", client.number));
    match answer {
        Ok(()) => in_force(world, storage, topic),
        Err(error) if World::is_unknown(&error) => {}
        Err(error) => {
            gone(world, topic);
            crate::reader::excuse(world, topic, &error, "a hold");
        }
    }
}

/// From now on log starts move no further than to what is needed.
fn in_force(world: &World, storage: &Storage, topic: TopicId) {
    for at in partitions(world, topic) {
        let Ok(now) = storage.watermarks(at) else { return };
        let before = world.model.borrow().partition(at);
        let shown = world.model.borrow_mut().ends_shown(at, &before, now);
        world.check(shown);
        let mut model = world.model.borrow_mut();
        let Some(hold) = model.holds.get_mut(&topic) else { return };
        hold.in_force = true;
        if let Some(needed) = hold.needed.get(&at.partition).copied() {
            hold.start_max.insert(at.partition, needed.max(now.log_start_offset));
        }
    }
}

fn advance(client: &Client, chance: &Chance, topic: TopicId) {
    let world = &client.world;
    let Some(at) = chance.pick(&partitions(world, topic)).copied() else { return };
    let end = world.model.borrow().partition(at).acknowledged_end;
    let mut model = world.model.borrow_mut();
    let Some(hold) = model.holds.get_mut(&topic) else { return };
    let Some(needed) = hold.needed.get_mut(&at.partition) else { return };
    *needed += i64::try_from(chance.below(u64::try_from(end - *needed).unwrap_or(0) + 1)).unwrap_or(0);
    let (needed, start_max) = (*needed, hold.start_max.entry(at.partition).or_insert(i64::MAX));
    *start_max = needed.max(*start_max);
    world.needed.0.lock().insert(at, needed);
}

async fn release(client: &Client, storage: &Storage, topic: TopicId) {
    let world = &client.world;
    if let Some(hold) = world.model.borrow_mut().holds.get_mut(&topic) {
        hold.in_force = false;
    }
    let answer = define(storage, topic, None).await;
    world.note(|| format!("client {}: lets {topic:?} go: {answer:?}", client.number));
    match answer {
        Ok(()) => gone(world, topic),
        Err(error) if World::is_unknown(&error) || world.is_weather(&error) => {}
        Err(error) => world.violate(1, format!("{topic:?} is not let go: {error}")),
    }
}

async fn define(storage: &Storage, topic: TopicId, value: Option<Bytes>) -> Result<(), Error> {
    let holds = if value.is_some() { vec![topic] } else { Vec::new() };
    let change = DefinitionChange { kind: KIND.to_owned(), name: name(topic), value, holds, expect: Expect::Anything };
    storage.commit(Commit { definitions: vec![change], ..Commit::default() }).await.map(drop)
}

fn gone(world: &World, topic: TopicId) {
    world.model.borrow_mut().holds.remove(&topic);
    world.needed.0.lock().retain(|at, _| at.topic != topic);
}

/// After a start: which holds are there. Those that are count from the first step of the process on.
pub(crate) fn settle(world: &World, storage: &Storage) {
    let known: Vec<TopicId> = world.model.borrow().holds.keys().copied().collect();
    let definitions = storage.definitions(KIND);
    for topic in known {
        let stands = definitions.iter().any(|definition| definition.name == name(topic));
        let was = world.model.borrow().holds.get(&topic).is_some_and(|hold| hold.in_force);
        if was && !stands {
            world.violate(10, format!("the hold of {topic:?} is lost"));
        }
        let there = world.model.borrow().topics.get(&topic).is_some_and(|topic| topic.presence == Presence::There);
        if stands && there {
            if let Some(hold) = world.model.borrow_mut().holds.get_mut(&topic) {
                hold.pinned.clear();
            }
            in_force(world, storage, topic);
        } else {
            gone(world, topic);
        }
    }
}

/// What was found of held topics must stay as long as this process lives.
pub(crate) fn pin(world: &World, found: &std::collections::BTreeMap<TopicPartition, std::collections::BTreeSet<i64>>) {
    let mut model = world.model.borrow_mut();
    for (at, offsets) in found {
        if let Some(hold) = model.holds.get_mut(&at.topic).filter(|hold| hold.in_force) {
            hold.pinned.insert(at.partition, offsets.clone());
        }
    }
}

/// Nobody holds anything any more, though the definitions stand.
pub(crate) fn let_all_go(world: &World) {
    world.model.borrow_mut().holds.clear();
    world.needed.0.lock().clear();
}
