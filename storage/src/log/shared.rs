//! What the node, its writer and its syncer share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::ids::{TopicId, TopicPartition, WriterEpoch};
use crate::log::disk::{Access, Disk};
use crate::log::home::RESERVE_FILE;
use crate::log::index::DamagedOffsets;
use crate::log::ledger::{Request, ReserveShare};
use crate::log::meter::LogMeter;
use crate::log::own::Change;
use crate::log::pipe::{Group, Pending, Pipe};
use crate::log::published::Published;
use crate::log::refused::Refused;
use crate::log::tail::Tail;
use crate::settings::StorageSettings;
use crate::traffic::Traffic;

/// A log without room for so much is full to whoever asks.
const SMALL_COMMIT_BYTES: u64 = 4 << 10;
/// Damaged ranges the health names at the most.
const DAMAGED_RANGES_MAX: usize = 100;

/// Shared by the node and its two threads.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: StorageSettings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) disk: Arc<dyn Disk>,
    /// The folder of the log.
    pub(crate) dir: PathBuf,
    pub(crate) epoch: WriterEpoch,
    pub(crate) published: RwLock<Published>,
    pub(crate) tail: Tail,
    pub(crate) meter: LogMeter,
    pub(crate) traffic: Traffic,
    /// What was refused because of us.
    pub(crate) refused: Refused,
    pub(crate) pipe: Pipe,
    /// Everything below this position is on stable storage.
    pub(crate) durable_end: AtomicU64,
    /// Position of the first frame that is kept.
    pub(crate) first_position: AtomicU64,
    /// What even the oldest snapshot that is kept covers: should the newest be damaged, the frames since are needed.
    pub(crate) snapshot_position: AtomicU64,
    /// End of the log when damage was last noted that only snapshots tell of once its segment is gone.
    pub(crate) lost_at: AtomicU64,
    /// Why nothing is written any more; set once.
    pub(crate) read_only: OnceLock<String>,
    /// The last try to make room on the disk for records of clients has failed.
    pub(crate) disk_full: AtomicBool,
    /// Whether the file that keeps room for our own topics is there. Only the writer asks.
    pub(crate) reserved: Mutex<bool>,
    /// The segment that may be removed next, and the partitions it has something of.
    pub(crate) front: Mutex<Front>,
    /// Held by who removes segments.
    pub(crate) forgetting: tokio::sync::Mutex<()>,
    /// Deleted topics of which nothing is left: the next snapshot says nothing of them any more.
    pub(crate) swept: Mutex<Vec<TopicId>>,
}

/// See [`Shared::front`].
#[derive(Debug, Default)]
pub(crate) struct Front {
    pub(crate) segment: Option<u64>,
    pub(crate) partitions: Arc<Vec<TopicPartition>>,
}

impl Shared {
    /// Why nothing is written any more, if so.
    pub(crate) fn read_only(&self) -> Option<String> {
        self.read_only.get().cloned()
    }

    /// Ends all writing; the first reason stands.
    pub(crate) fn set_read_only(&self, reason: &str) -> Error {
        if self.read_only.set(reason.to_owned()).is_ok() {
            tracing::error!(reason, "the node is read-only until it is started again");
        }
        Error::ReadOnly { reason: self.read_only().unwrap_or_default() }
    }

    /// Remembers damage that a reader has come upon, for the health.
    pub(crate) fn note_damage(&self, error: &Error) {
        let Error::Corrupt { place, reason } = error else { return };
        let mut published = self.published.write();
        if published.damaged.len() < DAMAGED_RANGES_MAX && !published.damaged.contains(place) {
            tracing::error!(place, reason, "damaged range in the log; everything else is served");
            published.damaged.push(place.clone());
        }
    }

    /// Offsets that cannot be read, and of which nothing is in the log any more but their numbers.
    pub(crate) fn note_lost(&self, partition: TopicPartition, offsets: DamagedOffsets) {
        let mut published = self.published.write();
        let Some(view) = published.partitions.get_mut(&partition) else { return };
        tracing::error!(place = offsets.place, "damaged records in the log; everything else is served");
        view.runs.make_room(offsets.start, offsets.end - 1);
        if view.damage_at(offsets.start).is_none() {
            view.damaged.push(offsets);
            self.lost_at.fetch_max(self.durable_end.load(Ordering::Acquire), Ordering::AcqRel);
        }
    }

    /// Whether the log may grow to `end`. Records of clients stop `wal.reserve_bytes` before our own topics do, and those
    /// a segment before what is carried over, which makes more room than it takes.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(crate) fn check_room(&self, end: u64, request: &Request) -> Result<()> {
        let has_records = !request.commit.appends.is_empty();
        let bytes = end.saturating_sub(self.first_position.load(Ordering::Acquire));
        let mut limit = self.settings.wal_bytes_max;
        if !has_records {
            limit = limit.saturating_add(self.settings.wal_reserve_bytes);
        }
        if !request.carried.is_empty() {
            limit = limit.saturating_add(self.settings.wal_segment_bytes);
        }
        if bytes > limit {
            let reason = format!(
                "the log would have {bytes} bytes, wal.bytes_max is {limit}; \
                 check that the object store takes data, delete topics, or raise wal.bytes_max"
            );
            return Err(Error::Full { reason });
        }
        if request.reserve_share() == ReserveShare::None { self.need_reserve() } else { Ok(()) }
    }

    /// Fails if the disk has no room beyond the reserve.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(crate) fn need_reserve(&self) -> Result<()> {
        if self.keep_reserve() {
            return Ok(());
        }
        let reason = "the disk has no room beyond wal.reserve_bytes; free disk space or delete topics".to_owned();
        Err(Error::Full { reason })
    }

    /// Why records would not be taken now, as far as is known.
    pub(crate) fn refuses_records(&self) -> Option<String> {
        let first = self.first_position.load(Ordering::Acquire);
        let bytes = self.durable_end.load(Ordering::Acquire).saturating_sub(first);
        let limit = self.settings.wal_bytes_max;
        if bytes.saturating_add(SMALL_COMMIT_BYTES) > limit {
            let reason =
                format!("the log has {bytes} bytes, wal.bytes_max is {limit}; check that the object store takes data");
            return Some(reason);
        }
        self.refused.refusing(self.clock.now_us())
    }

    fn reserve_path(&self) -> PathBuf {
        self.dir.join(RESERVE_FILE)
    }

    /// Makes the file that keeps room for our own topics, if it is not there; says whether it is now.
    pub(crate) fn keep_reserve(&self) -> bool {
        let mut reserved = self.reserved.lock();
        if *reserved || self.settings.wal_reserve_bytes == 0 {
            return true;
        }
        let path = self.reserve_path();
        let file = self.disk.open(&path, Access::Create);
        let kept = file.and_then(|file| file.allocate(self.settings.wal_reserve_bytes));
        if kept.is_err() {
            // Half a reserve would only be in the way.
            let _ = self.disk.remove(&path);
        }
        *reserved = kept.is_ok();
        self.disk_full.store(!*reserved, Ordering::Release);
        *reserved
    }

    /// Gives the reserve up, if there is one.
    pub(crate) fn release_reserve(&self) -> Result<()> {
        let mut reserved = self.reserved.lock();
        if *reserved {
            let path = self.reserve_path();
            self.disk.remove(&path).map_err(Error::io(format!("remove {}", path.display())))?;
            *reserved = false;
        }
        Ok(())
    }

    /// Shows readers what is durable now, in one act, and wakes those who wait for it. Gives the answers due.
    pub(crate) fn publish(&self, groups: Vec<Group>) -> Vec<Pending> {
        let mut answers = Vec::new();
        let mut touched: Vec<TopicPartition> = Vec::new();
        let mut changed = Vec::new();
        let mut published = self.published.write();
        for group in groups {
            for change in &group.changes {
                self.meter.changes(&published.own, change);
                published.apply(change);
                match change {
                    Change::Topic { id, .. } => changed.push(*id),
                    // A last stable offset is never below it.
                    Change::LogStart { partition, .. } => changed.push(partition.topic),
                    _ => {}
                }
            }
            // What was carried over has an older one.
            let commit_time_us = group.runs.iter().map(|(_, run)| run.commit_time_us).max().unwrap_or(0);
            for (partition, run) in group.runs {
                published.push(partition, run, group.segment.base);
                touched.push(partition);
            }
            for mark in &group.marks {
                published.mark(mark, commit_time_us);
            }
            for (topic, volume) in group.taken {
                // Of a topic deleted meanwhile nobody asks any more.
                if let Some(topic) = published.own.topics.get(&topic) {
                    self.traffic.came_in(&topic.name, volume);
                }
            }
            if let Some(sealed) = &group.sealed {
                published.let_go(sealed);
            }
            published.end = group.end;
            answers.extend(group.pending);
        }
        for pending in &mut answers {
            published.complete(&mut pending.outcome);
        }
        touched.dedup();
        let ends = touched.iter().filter_map(|partition| {
            let view = published.partitions.get(partition)?;
            Some((*partition, view.high_watermark, view.last_stable_offset()))
        });
        let ends: Vec<_> = ends.collect();
        drop(published);
        self.tail.grown(&ends);
        changed.into_iter().for_each(|topic| self.tail.changed(topic));
        answers
    }
}
