//! The last look's housekeeping: long after everything, in good weather and with nobody who needs anything, what may go
//! has gone, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aquifer_storage::testing::schedule;
use aquifer_storage::{Storage, TopicPartition};

use crate::model::Presence;
use crate::reader;
use crate::remains::PLENTY_BYTES;
use crate::world::World;

/// Everything is older than any topic was told to wait for.
const LATER_S: i64 = 70 * 86_400;
/// Vacuums until nothing is left to do: one compacts, one removes tombstones, one sweeps.
const VACUUMS: u32 = 3;

/// Vacuums after a long time, and looks at what is left.
pub(crate) async fn last(world: &World, storage: &Storage) {
    crate::holds::let_all_go(world);
    world.jump_s(LATER_S);
    for _ in 0..VACUUMS {
        let done = storage.vacuum(None).await;
        world.note(|| format!("vacuum: {done:?}"));
        match done {
            // Housekeeping by itself may be at it too.
            Ok(_) | Err(aquifer_storage::Error::Conflict { .. }) => {}
            Err(error) => return world.violate(1, format!("a vacuum in good weather failed: {error}: {error:?}")),
        }
        if let Err(error) = storage.checkpoint().await {
            return world.violate(1, format!("a checkpoint in good weather failed: {error}: {error:?}"));
        }
        // Longer than what a tombstone has to wait behind its round, and than `sweep.grace` by any clock.
        world.jump_s(LATER_S);
        schedule::sleep(Duration::from_millis(world.settings.sweep_grace_ms + 5_000)).await;
    }
    let partitions = world.model.borrow().settled_partitions();
    for at in partitions {
        partition(world, storage, at).await;
    }
    swept(world);
}

/// What retention and compaction must have come to.
async fn partition(world: &World, storage: &Storage, at: TopicPartition) {
    let Ok(ends) = storage.watermarks(at) else { return };
    let kept = world.model.borrow().kept(at.topic);
    // A trim of which there was no answer may have been done.
    let asked = world.model.borrow().partition(at).trims.into_iter().map(|(_, offset)| offset).max().unwrap_or(0);
    if ends.last_stable_offset < ends.high_watermark || ends.high_watermark == 0 {
        return;
    }
    // Behind the last record there may be markers, and what was aborted. What compaction took is not left, even if the
    // log start stays below where it was: an offset without a record has no age.
    let left = world.model.borrow().certain(at, ends.log_start_offset).next();
    if kept.deletes && kept.retention_ms >= 0 && !kept.compacts && left.is_some() {
        world.violate(1, format!("{at:?}: retention has left {left:?} of {ends:?}, {kept:?}"));
    }
    let by_bytes = kept.deletes && kept.retention_ms < 0 && kept.retention_bytes > 0;
    if by_bytes && asked < ends.high_watermark && ends.log_start_offset >= ends.high_watermark {
        world.violate(1, format!("{at:?}: retention by bytes has left nothing: {ends:?}, {kept:?}"));
    }
    if kept.retention_bytes == PLENTY_BYTES && kept.retention_ms < 0 && ends.log_start_offset > asked {
        world.violate(1, format!("{at:?}: there was room for more than {ends:?}, {kept:?}"));
    }
    if !kept.compacts {
        return;
    }
    // By rows: the log shows what it holds for as long as it holds it.
    let Some(held) = reader::hold(world, storage, &[at.topic]) else { return };
    let Some(scanned) = reader::scan_all(world, &held).await else { return };
    if kept.deletes && kept.retention_ms >= 0 && scanned.get(&at).is_some_and(|rows| !rows.is_empty()) {
        world.violate(1, format!("{at:?}: retention has left {:?} of {ends:?}, {kept:?}", scanned.get(&at)));
    }
    let mut keys: BTreeMap<Option<Vec<u8>>, i64> = BTreeMap::new();
    for (offset, record) in scanned.get(&at).into_iter().flatten() {
        if let Some(older) = keys.insert(record.key.clone(), *offset) {
            world.violate(11, format!("{at:?}: {older} and {offset} of key {:?} are left", record.key));
        }
    }
}

/// Of topics that are gone nothing is left in the store.
fn swept(world: &World) {
    let gone: BTreeSet<String> = {
        let model = world.model.borrow();
        let gone = model.topics.iter().filter(|(_, topic)| topic.presence == Presence::Gone);
        gone.map(|(id, _)| id.to_string()).collect()
    };
    let left = world.store.objects().into_iter().map(|(name, _)| name);
    let left: Vec<String> = left.filter(|name| gone.iter().any(|id| name.contains(id.as_str()))).collect();
    if !left.is_empty() {
        world.violate(1, format!("of topics that are gone there is left {left:?}"));
    }
}
