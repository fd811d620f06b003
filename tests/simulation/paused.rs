//! A process is paused in the middle of its work on the cold part, and replaced: its disk is copied, another process opens
//! the copy over the same store, works for a day, rewrites and sweeps all that the first one knew. Then the first one
//! goes on where it stood. It must publish nothing that counts, and remove nothing that is needed.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use aquifer_storage::testing::StoreFaults;
use aquifer_storage::testing::chance::Chance;
use aquifer_storage::testing::schedule::{self, Group};
use aquifer_storage::{ErrorKind, Health, Storage};

use crate::client::Client;
use crate::history::{OPERATIONS_MAX, work};
use crate::verify;
use crate::world::World;

/// The process that is paused.
const FIRST: Group = 1;
/// Its clients.
const CLIENTS: Group = 2;
/// Where it is paused.
const POINTS: [&str; 5] = [
    "after an object is put",
    "after an object is put",
    "after a manifest is published",
    "after a rewritten object is put",
    "after files are swept",
];
/// Seconds it gets to come to its point.
const LOOKS_MAX: u32 = 120;
/// Seconds for which it stands still beside the day of the wall clock: longer than any request may take.
const PAUSE_S: u64 = 90;

/// A life of such a process, and of the one that replaces it.
pub(crate) fn live(world: &Rc<World>, clients: &[Rc<Client>], chance: &Chance) {
    let point = chance.pick(&POINTS).copied().unwrap_or(POINTS[0]);
    let times = u32::try_from(1 + chance.below(3)).unwrap_or(1);
    world.note(|| format!("a life that is paused {point}, {times}"));
    world.store.set_faults(StoreFaults { latency_ms_max: 1 + chance.below(200), ..StoreFaults::default() });
    let (of_run, clients) = (Rc::clone(world), clients.to_vec());
    let (cut, operations) = (chance.once_in(2), 1 + chance.below(OPERATIONS_MAX));
    let ending = world.simulation.run(async move { act(&of_run, clients, point, times, (cut, operations)).await });
    world.note(|| format!("the life that was paused: {ending:?}"));
    world.model.borrow_mut().process_ended(false);
    world.disk().process_gone();
}

async fn act(world: &Rc<World>, clients: Vec<Rc<Client>>, point: &str, times: u32, (cut, operations): (bool, u64)) {
    let begun = |clients: &[Rc<Client>]| clients.iter().map(|client| client.memory.borrow().next_operation).max();
    let first: Rc<RefCell<Option<Storage>>> = Rc::default();
    let (of_first, of_group) = (Rc::clone(world), Rc::clone(&first));
    schedule::spawn_in_group(FIRST, async move {
        match of_first.open().await {
            Ok(storage) => drop(of_group.borrow_mut().replace(storage)),
            Err(error) => of_first.violate(1, format!("it does not open: {error}: {error:?}")),
        }
    });
    let storage = loop {
        schedule::sleep(Duration::from_millis(100)).await;
        let opened = first.borrow().clone();
        match opened {
            Some(storage) => break storage,
            None if world.violation.borrow().is_some() => return,
            None => {}
        }
    };
    storage.hold_back(world.speaker());
    verify::whole(world, &storage, 3_000).await;
    schedule::pause_at_point(FIRST, point, times);
    let (of_clients, until) = (storage.clone(), begun(&clients).unwrap_or(0) + operations);
    let these = clients.clone();
    schedule::spawn_in_group(CLIENTS, async move { work(&of_clients, these, until).await });
    for _ in 0..LOOKS_MAX {
        if schedule::is_paused(FIRST) {
            break;
        }
        schedule::sleep(Duration::from_secs(1)).await;
    }
    schedule::stop_group(CLIENTS);
    if !schedule::is_paused(FIRST) || world.violation.borrow().is_some() {
        return;
    }
    world.note(|| format!("paused {point}, power cut: {cut}"));
    world.model.borrow_mut().process_ended(cut);
    let copy = world.disk().copy(world.chance.fork(&format!("disk copied in life {}", world.lives.get())));
    if cut {
        copy.power_cut();
    }
    *world.disk.borrow_mut() = copy;
    let until = begun(&clients).unwrap_or(0) + operations;
    let Some(second) = replace(world, clients, until).await else { return };
    let roots = roots_of(world, &storage);
    world.note(|| "the first one goes on".to_owned());
    schedule::resume(FIRST);
    schedule::sleep(Duration::from_secs(PAUSE_S)).await;
    if roots_of(world, &storage) > roots && !matches!(storage.health(), Health::ReadOnly(_)) {
        world.violate(9, "a replaced process has published and takes that for good".to_owned());
    }
    ask(world, &storage).await;
    verify::whole(world, &second, 1_000).await;
    if let Err(error) = second.close().await {
        world.violate(1, format!("it does not close: {error}"));
    }
    drop(second);
    match world.open().await {
        Ok(third) => verify::whole(world, &third, 3_000).await,
        Err(error) => world.violate(1, format!("it does not open behind a paused one: {error}: {error:?}")),
    }
}

/// How many roots of manifests a process has put.
fn roots_of(world: &World, storage: &Storage) -> usize {
    let words = format!("/manifest/{:020}-", storage.writer_epoch().0);
    world.store.objects().iter().filter(|(name, _)| name.contains(&words)).count()
}

/// The process that takes over: works, and sweeps what nobody needs.
async fn replace(world: &Rc<World>, clients: Vec<Rc<Client>>, until: u64) -> Option<Storage> {
    let storage = match world.open().await {
        Ok(storage) => storage,
        Err(error) => {
            world.violate(1, format!("it does not open beside a paused one: {error}: {error:?}"));
            return None;
        }
    };
    storage.hold_back(world.speaker());
    verify::whole(world, &storage, 3_000).await;
    work(&storage, clients, until).await;
    for _ in 0..2 {
        let (checkpoint, vacuum) = (storage.checkpoint().await, storage.vacuum(None).await);
        world.note(|| format!("the second one: {checkpoint:?}, {vacuum:?}"));
        world.jump_s(43_200);
        schedule::sleep(Duration::from_secs(PAUSE_S / 2)).await;
    }
    (world.violation.borrow().is_none()).then_some(storage)
}

/// What the first one says when it is asked for more: that it was replaced, or that it has nothing to do.
async fn ask(world: &World, first: &Storage) {
    let checkpoint = first.checkpoint().await;
    world.note(|| format!("the first one: {checkpoint:?}, {:?}", first.health()));
    let lied = match &checkpoint {
        Ok(report) => report.objects > 0,
        Err(error) => {
            !matches!(error.kind(), ErrorKind::StepDown | ErrorKind::Restart | ErrorKind::Retry | ErrorKind::Repair)
        }
    };
    if lied {
        world.violate(9, format!("a replaced process says of its checkpoint: {checkpoint:?}"));
    }
    let vacuum = first.vacuum(None).await;
    world.note(|| format!("the first one: {vacuum:?}"));
    if vacuum.as_ref().is_ok_and(|report| report.objects_written > 0 || report.files_swept > 0) {
        world.violate(9, format!("a replaced process says of its vacuum: {vacuum:?}"));
    }
}
