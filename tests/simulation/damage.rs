//! One bit flips, in the log, a snapshot of it, an object, a manifest. It is found and named, never served, and everything
//! else is readable.

use std::collections::BTreeSet;
use std::rc::Rc;

use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::{Error, FetchRequest, Health, Isolation, ScanRequest, Storage, TopicPartition};
use futures::StreamExt;
use std::collections::HashMap;

use crate::model::broken;
use crate::reader;
use crate::world::World;

/// Where a bit may flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Segment,
    Snapshot,
    Object,
    Root,
    Chunk,
    Claim,
}

const PLACES: [Place; 8] = [
    Place::Segment,
    Place::Segment,
    Place::Snapshot,
    Place::Object,
    Place::Object,
    Place::Root,
    Place::Chunk,
    Place::Claim,
];

/// Bytes asked for at a time.
const BYTES_MAX: usize = 500;

/// Flips a bit, in some histories, and looks at everything.
pub(crate) fn look(world: &Rc<World>) {
    let chance = world.chance.fork("damage");
    let place = chance.pick(&PLACES).copied().unwrap_or(Place::Segment);
    let file = match place {
        Place::Segment => world.disk().flip_bit("wal").map(|path| path.display().to_string()),
        Place::Snapshot => world.disk().flip_bit("snap").map(|path| path.display().to_string()),
        Place::Object => world.store.flip_bit("/data/"),
        Place::Root => world.store.flip_bit("/manifest/"),
        Place::Chunk => world.store.flip_bit("/chunk/"),
        Place::Claim => world.store.flip_bit("meta/writer/"),
    };
    let Some(file) = file else { return };
    world.note(|| format!("a bit has flipped in {file}"));
    let of_run = Rc::clone(world);
    world.simulation.run(async move {
        match of_run.open().await {
            Ok(storage) => read(&of_run, &storage, &file).await,
            Err(error) => of_run.violate(13, format!("with a flipped bit in {file} it does not open: {error:?}")),
        }
    });
    world.disk().process_gone();
}

/// Whether an error says that bytes are damaged, and where.
fn names(error: &Error, file: &str) -> bool {
    matches!(error, Error::Corrupt { .. }) && error.to_string().contains(file)
}

async fn read(world: &World, storage: &Storage, file: &str) {
    let health = storage.health();
    world.note(|| format!("{health:?}"));
    let named = matches!(&health, Health::Damaged(words) if words.iter().any(|words| words.contains(file)));
    let partitions = world.model.borrow().settled_partitions();
    for at in partitions {
        if storage.watermarks(at).is_err() && named {
            // The record that made the topic is what was damaged.
            continue;
        }
        let Some((found, unreadable)) = fetched(world, storage, at, file).await else { return };
        let due = due(world, at);
        let lost = due.iter().find(|offset| !found.contains(offset) && !unreadable.contains(offset));
        if let Some(lost) = lost {
            return world.violate(1, format!("{at:?}: {lost} is gone silently with a bit in {file}"));
        }
        scanned(world, storage, at, file, &due).await;
        if world.violation.borrow().is_some() {
            return;
        }
    }
}

/// Offsets at which a record must be.
fn due(world: &World, at: TopicPartition) -> BTreeSet<i64> {
    let model = world.model.borrow();
    let start = model.start_max(at);
    let end = model.partition(at).acknowledged_end;
    let nothing = BTreeSet::new();
    let must_be = |offset: &i64| model.missing(at, *offset..*offset + 1, &nothing).is_some();
    (start..end.max(start)).filter(must_be).collect()
}

/// Offsets of the records that fetches show, and those at which they tell of the damage.
async fn fetched(
    world: &World,
    storage: &Storage,
    at: TopicPartition,
    file: &str,
) -> Option<(BTreeSet<i64>, BTreeSet<i64>)> {
    let (mut found, mut unreadable) = (BTreeSet::new(), BTreeSet::new());
    let ends = storage.watermarks(at).ok()?;
    let mut next = ends.log_start_offset;
    let isolation = Isolation::ReadCommitted;
    while next < ends.last_stable_offset {
        let request = FetchRequest { partition: at, offset: next, bytes_max: BYTES_MAX, isolation };
        match storage.fetch(request).await {
            Ok(fetched) => {
                let shown = reader::records_of(&fetched, at, next).and_then(|(records, behind)| {
                    let mut model = world.model.borrow_mut();
                    records.iter().try_for_each(|(offset, record)| model.shown(at, *offset, record).map(drop))?;
                    found.extend(records.iter().map(|(offset, _)| *offset));
                    if behind > next { Ok(behind) } else { broken(3, format!("{at:?}: nothing at {next}")) }
                });
                next = world.check(shown)?;
            }
            Err(error) if names(&error, file) => {
                unreadable.insert(next);
                next += 1;
            }
            Err(error) => {
                world.violate(13, format!("{at:?}: {next} is not readable with a bit in {file}: {error:?}"));
                return None;
            }
        }
    }
    Some((found, unreadable))
}

/// A scan shows what is there up to the damage, and then names it.
async fn scanned(world: &World, storage: &Storage, at: TopicPartition, file: &str, due: &BTreeSet<i64>) {
    let Ok(snapshot) = storage.snapshot(&[at.topic], &HashMap::new()) else {
        return world.violate(13, format!("{at:?} cannot be pinned with a bit in {file}"));
    };
    let request = ScanRequest { batch_rows: 7, ..ScanRequest::all(RecordColumn::ALL.to_vec()) };
    let mut rows = match snapshot.scan(at, request) {
        Ok(rows) => rows,
        // It was told before a row was shown.
        Err(error) if names(&error, file) => return,
        Err(error) => return world.violate(13, format!("{at:?} cannot be scanned with a bit in {file}: {error:?}")),
    };
    let mut found = BTreeSet::new();
    let mut stopped = false;
    while let Some(batch) = rows.next().await {
        match batch {
            Ok(batch) => {
                let shown = reader::rows_of(world, &batch, at, false).and_then(|rows| {
                    let mut model = world.model.borrow_mut();
                    rows.iter().try_for_each(|(offset, record)| model.shown(at, *offset, record).map(drop))?;
                    Ok(rows.iter().map(|(offset, _)| *offset).collect::<Vec<_>>())
                });
                let Some(shown) = world.check(shown) else { return };
                found.extend(shown);
            }
            Err(error) if names(&error, file) => {
                stopped = true;
                break;
            }
            Err(error) => return world.violate(13, format!("{at:?}: a scan with a bit in {file}: {error:?}")),
        }
    }
    let end = if stopped { found.last().copied().unwrap_or(i64::MIN) } else { i64::MAX };
    if let Some(lost) = due.iter().find(|offset| **offset < end && !found.contains(offset)) {
        world.violate(1, format!("{at:?}: a scan leaves {lost} out silently with a bit in {file}"));
    }
}
