//! One history: processes live, die and start again over one disk and one store, while clients go on and things go wrong;
//! all of it chosen by the seed.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use aquifer_storage::Storage;
use aquifer_storage::testing::chance::Chance;
use aquifer_storage::testing::schedule::{self, Ending};
use aquifer_storage::testing::{DiskFaults, StoreFaults};

use crate::cleaned;
use crate::client::Client;
use crate::damage;
use crate::model::{Fate, Violation};
use crate::paused;
use crate::verify;
use crate::world::{Skipped, Weather, World};

/// The life of a process, as (client, number) in what may be left out.
pub(crate) const LIVES: u64 = u64::MAX;
/// Clients of a history.
const CLIENTS: u64 = 3;
/// A life in so many is that of a process that is paused and replaced.
const PAUSED_ONCE_IN: u64 = 10;
/// Operations of a client in one life, at the most.
pub(crate) const OPERATIONS_MAX: u64 = 24;
/// A point that is reached some times while a storage is opened, and never again.
const WHILE_OPENED: &str = "while it is opened";
/// Points at which a process may die.
const POINTS: [&str; 15] = [
    "before a frame is written",
    "after a frame is written",
    "before a sync",
    "after a sync",
    "after a segment is sealed",
    "after a snapshot of the log",
    "after a segment is made",
    "after an object is put",
    "after a manifest is published",
    "before a segment is removed",
    "after a segment is removed",
    "after a piece is carried over",
    "after a rewritten object is put",
    "after files are swept",
    WHILE_OPENED,
];

/// What a history has come to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) hash: u64,
    pub(crate) violation: Option<Violation>,
    pub(crate) lines: Vec<String>,
    /// Operations that were begun, per client, and lives.
    pub(crate) begun: Vec<(u64, u64)>,
    pub(crate) steps: u64,
}

/// How a life ends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Death {
    Closed,
    /// Killed when the clients are done.
    Killed,
    Steps(u64),
    Point(&'static str, u32),
    DiskCalls(u64),
    StorePuts(u64),
}

/// Runs the history of a seed, without what is left out.
pub(crate) fn run(seed: u64, skipped: &Skipped, keep_account: bool) -> Outcome {
    let world = World::new(seed, skipped.clone(), keep_account);
    let clients: Vec<Rc<Client>> = (0..CLIENTS).map(|number| Client::new(&world, number)).collect();
    let lives = 2 + world.chance.fork("lives").below(4);
    let whole = AssertUnwindSafe(|| {
        for life in 0..lives {
            if world.violation.borrow().is_none() && !skipped.contains(&(LIVES, life)) {
                live(&world, &clients, life);
            }
        }
        if world.violation.borrow().is_none() {
            last_look(&world);
        }
        if world.violation.borrow().is_none() {
            damage::look(&world);
        }
    });
    if let Err(panic) = std::panic::catch_unwind(whole) {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        let violation = Violation { invariant: 0, words: format!("panicked: {}", words.unwrap_or_default()) };
        world.violation.borrow_mut().get_or_insert(violation);
    }
    let (hash, lines) = world.account();
    let violation = world.violation.borrow().clone();
    let mut begun: Vec<(u64, u64)> =
        clients.iter().map(|client| (client.number, client.memory.borrow().next_operation)).collect();
    begun.push((LIVES, lives));
    Outcome { hash, violation, lines, begun, steps: world.simulation.steps() }
}

/// One life of a process and its end.
fn live(world: &Rc<World>, clients: &[Rc<Client>], life: u64) {
    let chance = world.chance.fork(&format!("life {life}"));
    if chance.fork("paused").once_in(PAUSED_ONCE_IN) {
        return paused::live(world, clients, &chance.fork("paused"));
    }
    let death = death(&chance);
    let opening = chance.once_in(6) || matches!(death, Death::Point(WHILE_OPENED, _));
    let weather = weather(&chance);
    if chance.once_in(5) {
        let jump_s = i64::try_from(chance.below(80_000)).unwrap_or(0) - if chance.once_in(2) { 0 } else { 40_000 };
        world.jump_s(jump_s);
    }
    world.note(|| format!("life {life}: {death:?}, opening {opening}, {weather:?}"));
    if opening {
        arm(world, &death);
    }
    let (of_process, clients) = (Rc::clone(world), clients.to_vec());
    let begun = clients.iter().map(|client| client.memory.borrow().next_operation).max().unwrap_or(0);
    let until = begun + 1 + chance.below(OPERATIONS_MAX);
    let of_death = death.clone();
    let ending =
        world.simulation.run(async move { process(of_process, clients, until, weather, of_death, opening).await });
    world.disk().set_faults(DiskFaults::default());
    world.disk().set_capacity(None);
    world.store.set_faults(StoreFaults { latency_ms_max: 20, ..StoreFaults::default() });
    world.store.die_after_puts(None);
    world.weather.set(Weather::default());
    let closed_well = ending == Ending::Done(true);
    let power_cut = chance.once_in(2);
    world.note(|| format!("life {life}: {ending:?}, power cut: {power_cut}"));
    if closed_well {
        let mut model = world.model.borrow_mut();
        let written: Vec<u64> =
            model.attempts.iter().filter(|(_, one)| one.fate == Fate::Written).map(|(id, _)| *id).collect();
        written.into_iter().for_each(|id| model.set_fate(id, Fate::Durable));
    }
    world.model.borrow_mut().process_ended(power_cut);
    if power_cut {
        world.disk().power_cut();
    } else {
        world.disk().process_gone();
    }
}

/// What a process does; true if it was closed well.
async fn process(
    world: Rc<World>,
    clients: Vec<Rc<Client>>,
    until: u64,
    weather: (Weather, DiskFaults, StoreFaults, Option<u64>),
    death: Death,
    opening: bool,
) -> bool {
    let storage = match world.open().await {
        Ok(storage) => storage,
        Err(error) => {
            if !schedule::is_dead() {
                world.violate(1, format!("it does not open: {error}: {error:?}"));
            }
            return false;
        }
    };
    // Until somebody speaks for those who hold topics, nothing of these may go.
    if world.lives.get().is_multiple_of(2) {
        storage.hold_back(world.speaker());
    }
    verify::whole(&world, &storage, 3_000).await;
    storage.hold_back(world.speaker());
    if world.violation.borrow().is_some() {
        return false;
    }
    let (weather, disk, store, room) = weather;
    world.weather.set(weather);
    world.disk().set_faults(disk);
    world.store.set_faults(store);
    world.disk().set_capacity(room.map(|room| world.disk().used_bytes() + room));
    if !opening {
        arm(&world, &death);
    }
    work(&storage, clients, until).await;
    if death != Death::Closed {
        return false;
    }
    let closed = storage.close().await;
    world.note(|| format!("closed: {closed:?}"));
    match closed {
        Ok(()) => true,
        Err(error) => {
            if !world.is_weather(&error) {
                world.violate(1, format!("it does not close: {error}"));
            }
            false
        }
    }
}

/// The clients do what they do until they are done.
pub(crate) async fn work(storage: &Storage, clients: Vec<Rc<Client>>, until: u64) {
    let mut ends = Vec::new();
    for client in clients {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let storage = storage.clone();
        schedule::spawn(async move {
            client.run(storage, until).await;
            drop(end);
        });
        ends.push(ended);
    }
    for ended in ends {
        // Dropped when the client is done.
        let _ = ended.await;
    }
}

fn death(chance: &Chance) -> Death {
    match chance.below(8) {
        0..=1 => Death::Closed,
        2 => Death::Killed,
        3 => Death::Steps(chance.below(1_500)),
        4 => Death::DiskCalls(1 + chance.below(120)),
        5 => Death::StorePuts(1 + chance.below(12)),
        _ => {
            let point = chance.pick(&POINTS).copied().unwrap_or(POINTS[0]);
            let times_max = if point == WHILE_OPENED {
                5
            } else if chance.once_in(2) {
                3
            } else {
                40
            };
            Death::Point(point, u32::try_from(1 + chance.below(times_max)).unwrap_or(1))
        }
    }
}

fn arm(world: &World, death: &Death) {
    match death {
        Death::Closed | Death::Killed => {}
        Death::Steps(steps) => world.simulation.die_after_steps(Some(*steps)),
        Death::Point(point, times) => world.simulation.die_at_point(point, *times),
        Death::DiskCalls(calls) => world.disk().die_after_calls(Some(*calls)),
        Death::StorePuts(puts) => world.store.die_after_puts(Some(*puts)),
    }
}

fn weather(chance: &Chance) -> (Weather, DiskFaults, StoreFaults, Option<u64>) {
    let mut weather = Weather::default();
    let mut disk = DiskFaults::default();
    let mut store = StoreFaults { latency_ms_max: 1 + chance.below(200), ..StoreFaults::default() };
    let mut room = None;
    if chance.once_in(3) {
        weather.store = true;
        store.refuse_once_in = chance.pick(&[0, 1, 3, 10]).copied().unwrap_or(0);
        store.lose_answer_once_in = chance.pick(&[0, 4, 10]).copied().unwrap_or(0);
        store.stall_once_in = chance.pick(&[0, 10, 50]).copied().unwrap_or(0);
        store.late_once_in = chance.pick(&[0, 6, 30]).copied().unwrap_or(0);
    }
    if chance.once_in(5) {
        weather.disk = true;
        disk.read_once_in = chance.pick(&[0, 50, 400]).copied().unwrap_or(0);
        disk.write_once_in = chance.pick(&[0, 20, 100]).copied().unwrap_or(0);
        disk.sync_once_in = chance.pick(&[0, 20, 100]).copied().unwrap_or(0);
    }
    if chance.once_in(8) {
        weather.full = true;
        room = Some(chance.below(60_000));
    }
    (weather, disk, store, room)
}

/// In good weather everything is there, hot and then cold, and after one more start.
fn last_look(world: &Rc<World>) {
    for look in 0..2 {
        let of_process = Rc::clone(world);
        world.simulation.run(async move {
            match of_process.open().await {
                Ok(storage) => settle(&of_process, &storage, look).await,
                Err(error) => of_process.violate(1, format!("it does not open at last: {error}: {error:?}")),
            }
        });
        world.model.borrow_mut().process_ended(false);
        world.disk().process_gone();
        if world.violation.borrow().is_some() {
            return;
        }
    }
}

async fn settle(world: &World, storage: &Storage, look: u64) {
    storage.hold_back(world.speaker());
    verify::whole(world, storage, 1 << 20).await;
    if let Err(error) = storage.checkpoint().await {
        world.violate(1, format!("a checkpoint in good weather failed: {error}: {error:?}"));
    }
    if look > 0 {
        cleaned::last(world, storage).await;
    }
    let objects = storage.objects().await.map_or(0, |objects| objects.len());
    world.note(|| format!("look {look}: {} segments, {objects} objects", storage.segments().len()));
    verify::whole(world, storage, 500).await;
    if let Err(error) = storage.close().await {
        world.violate(1, format!("it does not close at last: {error}"));
    }
}
