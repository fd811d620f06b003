//! Catching up: the state of each keyed topic follows its log, a bounded batch at a time, in the background.
//!
//! What is read is below the last stable offset, so it is durable and of no transaction that could still be undone. A part
//! that is of another topic, format or key, that is ahead of what the log had when it was opened (a data directory copied
//! while it changed), that compaction has overtaken, or that a reader has found damaged, is removed and made again. Nothing
//! here ever fails the log: what goes wrong is told and tried again later, and meanwhile look-ups scan. While the log has no
//! room, nothing is built.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::ids::{TopicId, TopicPartition};
use crate::log::Node;
use crate::record::form::{KeyJudge, key_form};
use crate::record::format::RecordFormat;
use crate::scan::Pinned;
use crate::state::Parts;
use crate::state::entry::{Entry, KEY_BYTES_MAX, Mark, entries_of, entry_key};
use crate::state::lookup::{KEPT, Kept};
use crate::state::store::{Changes, Closed, Part, Store};
use crate::tier::Tier;
use crate::view::{Health, Isolation, ScanRequest, Topic};
use crate::worker;

/// Records of one batch of changes.
const BATCH_ROWS: usize = 4096;
/// Records of one topic before the next one has its turn.
const TURN_ROWS_MAX: usize = 256 << 10;
/// Entries looked at in one step of sweeping those that a moved log start has left behind.
const SWEEP_ENTRIES: usize = 4096;
/// A partition is swept when its log start has moved by one part in so many of what it holds.
const SWEEP_SHARE: i64 = 4;
/// Between two turns, so that small commits are taken together, ms.
const GATHER_MS: u64 = 10;
/// Looks for topics that were declared or dropped, at the latest, ms.
const LOOK_MS: u64 = 500;
/// After a failure, ms.
const RETRY_MS: u64 = 10_000;
/// While somebody of this process still holds the store, or nobody says what is wanted, ms.
const HELD_MS: u64 = 200;

/// A topic whose state is kept, and what its keys are like.
pub(crate) type Keyed = (Arc<Topic>, RecordFormat);

/// What catches up.
#[derive(Debug)]
pub(crate) struct Builder {
    /// Held weakly between turns, so that a storage that is dropped without being closed lets its directory go.
    pub(crate) node: Weak<Node>,
    pub(crate) tier: Weak<Tier>,
    pub(crate) dir: PathBuf,
    pub(crate) parts: Arc<Parts>,
    /// Ends of the partitions when the storage was opened, if there was a state then.
    pub(crate) ends: HashMap<TopicPartition, i64>,
    pub(crate) stop: CancellationToken,
    pub(crate) store: Option<Store>,
    pub(crate) building: HashMap<TopicId, Building>,
}

/// What is followed, for as long as a turn.
#[derive(Debug)]
struct Ground {
    node: Arc<Node>,
    tier: Arc<Tier>,
}

/// A part being built.
#[derive(Debug)]
pub(crate) struct Building {
    part: Arc<Part>,
    mark: Mark,
    judge: Option<KeyJudge>,
    /// What is being read, for more turns than one: read anew each time, a tombstone might be gone when its turn comes, and
    /// the older record of its key have been taken before.
    reading: Option<Arc<Pinned>>,
    /// What its topic had noted of its history when all was read the last time.
    history_us: i64,
}

impl Builder {
    /// Goes on until it is stopped.
    pub(crate) async fn run(mut self) {
        while !self.stop.is_cancelled() {
            let pause = match self.turn().await {
                Ok(Turn::More) => continue,
                Ok(Turn::Rest(pause)) => pause,
                Err(error) => {
                    if self.stop.is_cancelled() || matches!(error, Error::Closed) {
                        break;
                    }
                    tracing::warn!(%error, "the keyed state cannot be built now; look-ups by key scan");
                    Duration::from_millis(RETRY_MS)
                }
            };
            self.rest(pause).await;
        }
        self.let_go().await;
    }

    async fn rest(&self, pause: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = worker::sleep(pause) => {}
        }
    }

    /// Waits until a topic has grown, but not longer than until it is time to look at the catalog.
    async fn wait(&self, ground: &Ground, keyed: &[Keyed]) {
        let place = |topic: &Topic, partition| TopicPartition { topic: topic.id, partition };
        let ends = keyed.iter().flat_map(|(topic, _)| {
            let mark = self.building.get(&topic.id).map(|building| &building.mark);
            (0..topic.partitions)
                .map(move |partition| (place(topic, partition), mark.map_or(0, |mark| mark.position(partition))))
        });
        let ends: Vec<_> = ends.collect();
        let grown = ground.node.wait_past(&ends, Isolation::ReadCommitted, None);
        tokio::select! {
            () = self.stop.cancelled() => {}
            // Ended or not, it is time to look.
            _ = worker::timeout(Duration::from_millis(LOOK_MS), grown) => {}
        }
    }

    async fn turn(&mut self) -> Result<Turn> {
        let (Some(node), Some(tier)) = (self.node.upgrade(), self.tier.upgrade()) else { return Err(Error::Closed) };
        let ground = Ground { node, tier };
        // Nothing is removed because nobody has said yet, or says any more, what is wanted.
        let Some(keyed) = self.parts.keyed(&ground.node) else { return Ok(Turn::Rest(Duration::from_millis(HELD_MS))) };
        if keyed.is_empty() && self.store.is_none() && !self.dir.exists() {
            return Ok(Turn::Rest(Duration::from_millis(LOOK_MS)));
        }
        if matches!(ground.node.health(), Health::Full(_) | Health::ReadOnly(_)) {
            return Ok(Turn::Rest(Duration::from_millis(RETRY_MS)));
        }
        let Some(store) = self.open(&ground).await? else { return Ok(Turn::Rest(Duration::from_millis(HELD_MS))) };
        let built = self.follow(&ground, &store, &keyed).await;
        match built {
            Ok(true) => Ok(Turn::More),
            Ok(false) => {
                self.wait(&ground, &keyed).await;
                Ok(Turn::Rest(Duration::from_millis(GATHER_MS)))
            }
            // The log or the bucket, not the state: it is tried again.
            Err(Trouble::Source(error)) => Err(error),
            Err(Trouble::State(error)) => {
                self.let_go().await;
                // A store without room is whole; any other trouble is not worth finding out about.
                let full =
                    matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull);
                if !full {
                    self.wipe().await?;
                }
                Err(error)
            }
        }
    }

    /// The store, opened if it is not; one that cannot be opened is made anew. `None` while somebody holds it.
    async fn open(&mut self, ground: &Ground) -> Result<Option<Store>> {
        if let Some(store) = &self.store {
            return Ok(Some(store.clone()));
        }
        let (dir, memory) = (self.dir.clone(), ground.node.settings().memory_limit);
        let opened = worker::blocking(move || Ok(Store::open(&dir, memory))).await;
        match opened {
            Ok(Ok(store)) => {
                self.store = Some(store.clone());
                Ok(Some(store))
            }
            Ok(Err(Closed::Held)) => Ok(None),
            Ok(Err(Closed::Failed(error))) => {
                self.wipe().await?;
                Err(error)
            }
            // It panicked over what it found.
            Err(error) => {
                self.wipe().await?;
                Err(error)
            }
        }
    }

    /// Removes all of it.
    async fn wipe(&self) -> Result<()> {
        let dir = self.dir.clone();
        worker::blocking(move || match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", dir.display()))(error))
            }
            _ => Ok(()),
        })
        .await
    }

    /// Closes the store; readers that still hold views read on.
    async fn let_go(&mut self) {
        self.parts.clear();
        let (store, building) = (self.store.take(), std::mem::take(&mut self.building));
        let closing = move || {
            drop((store, building));
            Ok(())
        };
        if let Err(error) = worker::blocking(closing).await {
            tracing::debug!(%error, "the keyed state was not closed in order");
        }
    }

    /// Removes what nobody wants, and catches up with every keyed topic; whether there is more to do at once.
    async fn follow(&mut self, ground: &Ground, store: &Store, keyed: &[Keyed]) -> Result<bool, Trouble> {
        self.remove_others(store, keyed).await.map_err(Trouble::State)?;
        let mut more = false;
        for (topic, format) in keyed {
            if self.stop.is_cancelled() {
                return Ok(false);
            }
            self.begin(ground, store, (topic, format)).await.map_err(Trouble::State)?;
            more |= self.catch_up(ground, store, topic).await?;
            self.sweep(ground, topic).await.map_err(Trouble::State)?;
        }
        Ok(more)
    }

    async fn remove_others(&mut self, store: &Store, keyed: &[Keyed]) -> Result<()> {
        let wanted: HashSet<TopicId> = keyed.iter().map(|(topic, _)| topic.id).collect();
        self.building.retain(|topic, _| wanted.contains(topic));
        self.parts.retain(&wanted);
        let store = store.clone();
        worker::blocking(move || {
            store.topics().into_iter().filter(|topic| !wanted.contains(topic)).try_for_each(|topic| store.remove(topic))
        })
        .await
    }

    /// Opens a topic's part; one that cannot be gone on with is made again.
    async fn begin(
        &mut self,
        ground: &Ground,
        store: &Store,
        (topic, format): (&Arc<Topic>, &RecordFormat),
    ) -> Result<()> {
        let form = key_form(format);
        if let Some(building) = self.building.get(&topic.id) {
            if building.mark.key_form == form && !building.part.is_damaged() {
                return Ok(());
            }
            self.forget(store, topic.id).await?;
        }
        let (epoch, id) = (ground.node.writer_epoch().0, topic.id);
        let ends: Vec<i64> = (0..topic.partitions)
            .map(|partition| self.ends.get(&TopicPartition { topic: id, partition }).copied().unwrap_or(0))
            .collect();
        let (opened, wanted) = (store.clone(), form.clone());
        let (part, mark) = worker::blocking(move || {
            let part = opened.part(id)?;
            if let Some(mark) = part.mark()?.filter(|mark| goes_on(mark, id, epoch, &wanted, &ends)) {
                return Ok((part, Mark { epoch, ..mark }));
            }
            drop(part);
            opened.remove(id)?;
            let part = opened.part(id)?;
            let mark = Mark::new(id, epoch, wanted);
            part.write(Changes { entries: Vec::new(), mark: mark.clone() })?;
            Ok((part, mark))
        })
        .await?;
        // What this process opens anew it does not judge by those ends again.
        for partition in 0..topic.partitions {
            self.ends.insert(TopicPartition { topic: id, partition }, i64::MAX);
        }
        let part = Arc::new(part);
        let judge = KeyJudge::new(format)?;
        let (reading, history_us) = (None, i64::MIN);
        self.building.insert(id, Building { part: Arc::clone(&part), mark, judge, reading, history_us });
        self.parts.insert(part);
        Ok(())
    }

    /// Removes a topic's part, to be made again.
    async fn forget(&mut self, store: &Store, topic: TopicId) -> Result<()> {
        self.building.remove(&topic);
        self.parts.remove(topic);
        let store = store.clone();
        worker::blocking(move || store.remove(topic)).await
    }

    /// Takes what the log has past the position; whether some is left.
    async fn catch_up(&mut self, ground: &Ground, store: &Store, topic: &Arc<Topic>) -> Result<bool, Trouble> {
        let Some(building) = self.building.get_mut(&topic.id) else { return Ok(false) };
        let pinned = match building.pin(ground, topic) {
            Ok(Some(pinned)) => pinned,
            Ok(None) => {
                tracing::debug!(topic = %topic.id, "the keyed state was overtaken by compaction and is made again");
                self.forget(store, topic.id).await.map_err(Trouble::State)?;
                return Ok(true);
            }
            // It has just been deleted.
            Err(Error::UnknownTopic { .. }) => return Ok(false),
            Err(error) => return Err(Trouble::Source(error)),
        };
        let place = |partition| TopicPartition { topic: topic.id, partition };
        let mut left = TURN_ROWS_MAX;
        for partition in 0..topic.partitions {
            let Some(range) = pinned.range(place(partition)) else { continue };
            let start = building.mark.position(partition).max(range.start);
            if start >= range.end {
                continue;
            }
            let columns = KEPT.to_vec();
            let (offset_start, offset_end) = (start, range.end);
            let request = ScanRequest { offset_start, offset_end, batch_rows: BATCH_ROWS, ..ScanRequest::all(columns) };
            let mut rows = pinned.scan(place(partition), &request).map_err(Trouble::Source)?;
            while let Some(batch) = rows.try_next().await.map_err(Trouble::Source)? {
                building.take(partition, &batch).await.map_err(Trouble::State)?;
                left = left.saturating_sub(batch.num_rows());
                if left == 0 || self.stop.is_cancelled() {
                    building.reading = Some(pinned);
                    return Ok(true);
                }
            }
            // What lies before the end and gave no row is no record, or an aborted one.
            building.mark.set_position(partition, range.end);
            building.write(Vec::new()).await.map_err(Trouble::State)?;
        }
        building.history_us = pinned.noted_history_us(topic.id);
        Ok(false)
    }

    /// Removes entries of records below the log start, where it has moved far enough. They are not shown anyway.
    async fn sweep(&mut self, ground: &Ground, topic: &Arc<Topic>) -> Result<()> {
        let Some(building) = self.building.get_mut(&topic.id) else { return Ok(()) };
        for partition in 0..topic.partitions {
            let Ok(ends) = ground.node.watermarks(TopicPartition { topic: topic.id, partition }) else { return Ok(()) };
            let start = ends.log_start_offset.min(building.mark.position(partition));
            let moved = start - building.mark.swept(partition);
            if moved <= (ends.high_watermark - start) / SWEEP_SHARE {
                continue;
            }
            building.sweep(partition, start, &self.stop).await?;
        }
        Ok(())
    }
}

/// What a turn has come to.
enum Turn {
    /// There is more to do.
    More,
    /// Nothing for so long.
    Rest(Duration),
}

/// Whose fault it is.
#[derive(Debug)]
enum Trouble {
    /// The log's or the bucket's.
    Source(Error),
    /// The state's own.
    State(Error),
}

/// Whether a part can be gone on with: it is of this topic and form, no later process has written to it, and nowhere is it
/// ahead of what the log had when it was opened.
fn goes_on(mark: &Mark, topic: TopicId, epoch: u64, form: &[u8], ends: &[i64]) -> bool {
    let within = mark
        .positions
        .iter()
        .enumerate()
        .all(|(partition, position)| *position <= ends.get(partition).copied().unwrap_or(0));
    mark.topic == topic && mark.epoch <= epoch && mark.key_form == form && within
}

impl Building {
    /// What there is to be read; `None` if some of it is gone whose keys have entries.
    fn pin(&mut self, ground: &Ground, topic: &Topic) -> Result<Option<Arc<Pinned>>> {
        if let Some(pinned) = self.reading.take() {
            return Ok(Some(pinned));
        }
        let place = |partition| TopicPartition { topic: topic.id, partition };
        let from = (0..topic.partitions).map(|partition| (place(partition), self.mark.position(partition)));
        let from: HashMap<_, _> = from.collect();
        let pinned = Pinned::pin(&ground.node, &ground.tier, &[topic.id], &from)?;
        let told = from.iter().all(|(place, position)| pinned.tells_all(*place, *position, self.history_us));
        Ok(told.then(|| Arc::new(pinned)))
    }

    /// Takes a batch of records of a partition.
    async fn take(&mut self, partition: i32, batch: &RecordBatch) -> Result<()> {
        let written = self.judge.as_mut().map(|judge| judge.written(batch)).transpose()?.unwrap_or_default();
        // Of one key only the last counts: a batch of the store has one order for all of it.
        let mut latest: HashMap<&[u8], Option<Entry<'_>>> = HashMap::new();
        for (row, record) in Kept::of(batch).enumerate() {
            self.mark.set_position(partition, record.offset + 1);
            let (key, entry) = record.under(written.get(row).and_then(Option::as_deref));
            let Some(key) = key.filter(|key| key.len() <= KEY_BYTES_MAX) else { continue };
            latest.insert(key, record.value.map(|_| entry));
        }
        let entries = latest.into_iter();
        let entries = entries.map(|(key, entry)| (entry_key(partition, key), entry.map(Entry::to_bytes)));
        self.write(entries.collect()).await
    }

    async fn write(&self, entries: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<()> {
        let (part, changes) = (Arc::clone(&self.part), Changes { entries, mark: self.mark.clone() });
        worker::blocking(move || part.write(changes)).await
    }

    /// Removes a partition's entries of records below `start`.
    async fn sweep(&mut self, partition: i32, start: i64, stop: &CancellationToken) -> Result<()> {
        let prefix = entries_of(partition);
        let mut from = prefix.clone();
        while !stop.is_cancelled() {
            let (part, of, at) = (Arc::clone(&self.part), prefix.clone(), from.clone());
            let entries = worker::blocking(move || part.entries_from(&of, &at, SWEEP_ENTRIES)).await?;
            let Some((last, _)) = entries.last() else {
                self.mark.set_swept(partition, start);
                return self.write(Vec::new()).await;
            };
            // The key behind it.
            from = [last.as_slice(), &[0]].concat();
            let below = |bytes: &[u8]| Entry::from_bytes(bytes).is_none_or(|entry| entry.offset < start);
            let gone = entries.into_iter().filter(|(_, value)| below(value)).map(|(key, _)| (key, None)).collect();
            self.write(gone).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_goes_on_only_if_it_cannot_lead() {
        let topic = TopicId::from_bytes([1; 16]);
        let mut mark = Mark::new(topic, 4, Vec::new());
        mark.set_position(0, 10);
        assert!(goes_on(&mark, topic, 5, &[], &[10, 0]));
        assert!(!goes_on(&mark, topic, 5, &[], &[9, 0]), "ahead of the log");
        assert!(!goes_on(&mark, topic, 5, &[], &[]), "of partitions that are not there");
        assert!(!goes_on(&mark, topic, 3, &[], &[10]), "of a later process");
        assert!(!goes_on(&mark, TopicId::from_bytes([2; 16]), 5, &[], &[10]), "of another topic");
        assert!(!goes_on(&mark, topic, 5, b"json", &[10]), "of other keys");
    }
}
