//! Snapshots of what the log's records have made of our own topics, of producers and of partitions' ends, as of a
//! position: `log/<position>.snap`.
//!
//! One is written whenever a segment is made, as of that segment's first position, after everything before is synced.
//! Start-up takes the newest whole one and the frames since. Two are kept, so that a damaged one costs time, not data.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::envelope::{self, Kind};
use crate::error::{Error, Result};
use crate::ids::{TopicId, TopicPartition};
use crate::log::disk::{Disk, read_file, replace_file};
use crate::log::index::DamagedOffsets;
use crate::log::ledger::stored_topics;
use crate::log::own::{Change, OwnState, PendingKey, check_stored};
use crate::log::producer::Sequences;
use crate::log::segment::position_in_name;
use crate::log::transaction::{AbortedRange, CommittedRange, Transaction};
use crate::view::{Definition, GroupOffset, Topic};

pub(crate) const SNAPSHOT: Kind = Kind { magic: *b"AQSNAPSH", version: 4, name: "log snapshot" };
/// A larger file is no snapshot of ours.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;
/// A list without entries, as it is stored.
const EMPTY_LIST: [u8; 1] = [0];
/// How many are kept.
pub(crate) const SNAPSHOTS_KEPT: usize = 2;

/// What is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LogSnapshot {
    /// Frames below this are in it.
    pub(crate) position: u64,
    /// Sequence of the frame at `position`.
    pub(crate) next_sequence: u64,
    /// Largest commit time given out, us.
    pub(crate) last_commit_time_us: i64,
    pub(crate) own: StoredOwn,
    pub(crate) partitions: Vec<StoredPartition>,
    pub(crate) producers: Vec<(TopicPartition, i64, Sequences)>,
    /// Damaged ranges, in words.
    pub(crate) damaged: Vec<String>,
    /// Topics that were deleted, and whose objects may still be there. Version 2 ended before it.
    pub(crate) deleted: Vec<TopicId>,
    /// What transactions have committed and is in no object. The last field: version 3 ended before it, so the records of
    /// transactions from before it have the commit times of their own frames.
    pub(crate) committed: Vec<(TopicPartition, Vec<CommittedRange>)>,
}

/// The state of our own topics.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoredOwn {
    topics: Vec<Topic>,
    log_starts: Vec<(TopicPartition, i64)>,
    definitions: Vec<StoredDefinition>,
    group_offsets: Vec<(String, TopicPartition, GroupOffset)>,
    positions: Vec<(String, Vec<u8>)>,
    next_producer_id: i64,
    transactions: Vec<(String, Transaction)>,
    pending_offsets: Vec<(PendingKey, GroupOffset)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredDefinition {
    kind: String,
    name: String,
    value: Vec<u8>,
    holds: Vec<TopicId>,
}

/// A partition's ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPartition {
    pub(crate) partition: TopicPartition,
    pub(crate) end: i64,
    pub(crate) log_start: i64,
    pub(crate) damaged: Vec<DamagedOffsets>,
    /// What of the hot part was aborted.
    pub(crate) aborted: Vec<AbortedRange>,
}

impl StoredOwn {
    pub(crate) fn new(own: &OwnState) -> Self {
        let definitions = own.definitions.values().map(|definition| StoredDefinition {
            kind: definition.kind.clone(),
            name: definition.name.clone(),
            value: definition.value.to_vec(),
            holds: definition.holds.clone(),
        });
        let offsets = own.group_offsets.iter();
        Self {
            topics: stored_topics(own),
            log_starts: own.log_starts.iter().map(|(partition, offset)| (*partition, *offset)).collect(),
            definitions: definitions.collect(),
            group_offsets: offsets.map(|((group, at), offset)| (group.clone(), *at, offset.clone())).collect(),
            positions: own.positions.iter().map(|(query, value)| (query.clone(), value.to_vec())).collect(),
            next_producer_id: own.next_producer_id,
            transactions: own.transactions.iter().map(|(id, at)| (id.clone(), at.as_ref().clone())).collect(),
            pending_offsets: own.pending_offsets.iter().map(|(key, at)| (key.clone(), at.clone())).collect(),
        }
    }

    pub(crate) fn into_state(self) -> OwnState {
        let mut own = OwnState::default();
        for topic in self.topics {
            own.apply(&Change::Topic { id: topic.id, value: Some(Arc::new(topic)) });
        }
        for (partition, offset) in self.log_starts {
            own.apply(&Change::LogStart { partition, value: Some(offset) });
        }
        for StoredDefinition { kind, name, value, holds } in self.definitions {
            let definition = Definition { kind: kind.clone(), name: name.clone(), value: value.into(), holds };
            own.apply(&Change::Definition { kind, name, value: Some(Arc::new(definition)) });
        }
        for (group, partition, offset) in self.group_offsets {
            own.apply(&Change::GroupOffset { group, partition, value: Some(offset) });
        }
        for (query, value) in self.positions {
            own.apply(&Change::Position { query, value: Some(value.into()) });
        }
        own.next_producer_id = self.next_producer_id;
        for (id, transaction) in self.transactions {
            own.apply(&Change::Transaction { id, value: Some(Arc::new(transaction)) });
        }
        for ((group, partition, id), offset) in self.pending_offsets {
            own.apply(&Change::PendingOffset { id, group, partition, value: Some(offset) });
        }
        own
    }
}

pub(crate) fn snapshot_path(dir: &Path, position: u64) -> PathBuf {
    dir.join(format!("{position:020}.snap"))
}

/// Damaged snapshots: which files, and why.
pub(crate) type PassedOver = Vec<(String, String)>;

impl LogSnapshot {
    /// In its envelope.
    pub(crate) fn seal(&self) -> Result<Vec<u8>> {
        envelope::seal(SNAPSHOT, self)
    }

    /// Out of its envelope.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged, [`Error::Config`] for a newer version.
    pub(crate) fn open(bytes: &[u8], place: &str) -> Result<Self> {
        let (version, payload) = envelope::check(SNAPSHOT, bytes, place)?;
        let snapshot: Self = match version {
            ..=2 => envelope::decode(&[payload, &EMPTY_LIST, &EMPTY_LIST].concat(), place)?,
            3 => envelope::decode(&[payload, &EMPTY_LIST].concat(), place)?,
            _ => envelope::decode(payload, place)?,
        };
        snapshot.own.topics.iter().try_for_each(|topic| check_stored(topic, place))?;
        Ok(snapshot)
    }

    /// The state of our own topics, and what of deleted ones may still be there.
    pub(crate) fn own_state(&self) -> OwnState {
        let mut own = self.own.clone().into_state();
        own.deleted = self.deleted.iter().copied().collect();
        own
    }

    /// All topics but our own.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.own.topics.iter().filter(|topic| !topic.internal)
    }

    /// First offsets that were asked for.
    pub(crate) fn asked_starts(&self) -> HashMap<TopicPartition, i64> {
        self.own.log_starts.iter().copied().collect()
    }

    /// How far each partition is stable: what no open transaction can still undo.
    pub(crate) fn stable_ends(&self) -> HashMap<TopicPartition, i64> {
        let starts = self.asked_starts();
        let mut first_open: HashMap<TopicPartition, i64> = HashMap::new();
        for (partition, _, sequences) in &self.producers {
            if let Some(open) = sequences.open {
                first_open.entry(*partition).and_modify(|first| *first = (*first).min(open)).or_insert(open);
            }
        }
        let ends = self.partitions.iter().map(|stored| {
            let asked = starts.get(&stored.partition).copied().unwrap_or(0);
            // What of a transaction is trimmed away holds nobody up.
            let open = first_open.get(&stored.partition).map(|open| (*open).max(stored.log_start).max(asked));
            (stored.partition, open.unwrap_or(stored.end))
        });
        ends.collect()
    }

    /// Puts it in place durably.
    pub(crate) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        self.write_within(disk, dir, SNAPSHOT_BYTES_MAX)
    }

    /// One that could not be read again is not written: the node goes on from the last one, and starts from it.
    fn write_within(&self, disk: &dyn Disk, dir: &Path, bytes_max: u64) -> Result<()> {
        let path = snapshot_path(dir, self.position);
        let bytes = self.seal()?;
        if bytes.len() as u64 > bytes_max {
            let reason = format!(
                "a snapshot of topics, definitions, offsets and producers would have {} bytes, more than {bytes_max}; \
                 delete topics or consumer groups",
                bytes.len()
            );
            return Err(Error::Full { reason });
        }
        replace_file(disk, &path, &bytes)
            .map_err(|error| crate::log::segment::full_or_io(error, format!("write snapshot {}", path.display())))
    }

    /// The one of a position, and how many bytes it has.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged or another position's, [`Error::Config`] for a newer version, [`Error::Io`].
    pub(crate) fn read(disk: &dyn Disk, dir: &Path, position: u64) -> Result<(Self, u64)> {
        let path = snapshot_path(dir, position);
        let place = path.display().to_string();
        let bytes = read_file(disk, &path, SNAPSHOT_BYTES_MAX).map_err(Error::io(format!("read {place}")))?;
        let snapshot = Self::open(&bytes, &place)?;
        if snapshot.position == position {
            return Ok((snapshot, bytes.len() as u64));
        }
        Err(Error::Corrupt { place, reason: "its name says another position".to_owned() })
    }

    /// The newest whole one among the files of the folder; what was passed over is told.
    ///
    /// # Errors
    /// [`Error::Config`] for a newer version.
    pub(crate) fn newest(disk: &dyn Disk, dir: &Path, names: &[String]) -> Result<(Option<Self>, PassedOver)> {
        let mut passed_over = Vec::new();
        for position in positions(names) {
            match Self::read(disk, dir, position) {
                Ok((snapshot, _)) => return Ok((Some(snapshot), passed_over)),
                Err(error @ Error::Config { .. }) => return Err(error),
                Err(error) => passed_over.push((snapshot_path(dir, position).display().to_string(), error.to_string())),
            }
        }
        Ok((None, passed_over))
    }

    /// Removes all but the newest [`SNAPSHOTS_KEPT`]; answers with the position of the oldest one kept, which is what
    /// the log must keep from; 0 if there are fewer.
    pub(crate) fn sweep(disk: &dyn Disk, dir: &Path) -> Result<u64> {
        let names = disk.list(dir).map_err(Error::io(format!("list {}", dir.display())))?;
        for position in positions(&names).into_iter().skip(SNAPSHOTS_KEPT) {
            let path = snapshot_path(dir, position);
            disk.remove(&path).map_err(Error::io(format!("remove {}", path.display())))?;
        }
        Ok(covered(&names))
    }
}

/// The position that even the oldest snapshot that is kept covers.
pub(crate) fn covered(names: &[String]) -> u64 {
    positions(names).get(SNAPSHOTS_KEPT - 1).copied().unwrap_or(0)
}

/// Positions of the snapshots among these names, newest first.
pub(crate) fn positions(names: &[String]) -> Vec<u64> {
    let mut positions: Vec<_> = names.iter().filter_map(|name| position_in_name(name, ".snap")).collect();
    positions.sort_unstable_by(|a, b| b.cmp(a));
    positions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::SystemDisk;

    #[test]
    fn a_snapshot_that_could_not_be_read_again_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = LogSnapshot { damaged: vec!["x".repeat(1000)], ..LogSnapshot::default() };
        let error = snapshot.write_within(&SystemDisk, dir.path(), 500).unwrap_err();
        assert!(matches!(&error, Error::Full { reason } if reason.contains("more than 500")), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        snapshot.write_within(&SystemDisk, dir.path(), 5_000).unwrap();
        assert_eq!(LogSnapshot::read(&SystemDisk, dir.path(), 0).unwrap().0.damaged, snapshot.damaged);
    }
}
