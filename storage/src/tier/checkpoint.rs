//! Checkpoints: all that a node needs to begin from the bucket alone. Beside manifests and objects that is the state of
//! our own topics, producers and partitions' ends, all as of one moment of the log, and what was not stable then.
//!
//! How one is made ([`crate::tier::worker`]): the log gives a *cut* of everything as of one moment; everything below the
//! cut's last stable offsets is tiered; the roots that count now are named; what of the cut is in no object (records behind
//! an open transaction) is put beside it as the *tail*; last of all the checkpoint itself is put. So it is there whole or
//! not at all, and what it describes is one moment: offsets of groups, positions and outputs of queries, sequences of
//! producers and the records they speak of belong together. What came after that moment is not in it, and is lost to who
//! begins from it.
//!
//! A checkpoint's name begins with its writer's epoch, so a late one of a process that was replaced sorts before its
//! successor's. [`CHECKPOINTS_KEPT`] are kept; the sweep leaves alone what they name ([`super::kept`]).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::PutPayload;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::envelope::{self, Kind};
use crate::error::{Error, Result};
use crate::ids::{CheckpointId, Takeover, TopicId, TopicPartition};
use crate::log::frame::PlacedBatch;
use crate::log::snapshot::{LogSnapshot, StoredPartition};
use crate::log::{Backlog, DamagedOffsets, HotRun, Node, Piece};
use crate::manifest::model::TopicManifest;
use crate::object::bucket::{Bucket, Put};
use crate::object::{claim, paths};
use crate::record::batch::CheckedBatch;
use crate::tier::cold::Cold;
use crate::tier::kept::RootName;
use crate::tier::seal::Target;
use crate::worker;

const CHECKPOINT: Kind = Kind { magic: *b"AQCHECKP", version: 1, name: "checkpoint" };
const TAIL: Kind = Kind { magic: *b"AQCPTAIL", version: 1, name: "tail of a checkpoint" };
/// A larger object is no checkpoint of ours.
const CHECKPOINT_BYTES_MAX: u64 = 4 << 30;
/// Bytes of batches in one part of a tail, unless a single run has more.
const TAIL_PART_BYTES: u64 = 8 << 20;
/// A larger object is no part of a tail: a run may be as large as a commit.
const TAIL_PART_BYTES_MAX: u64 = 4 << 30;
/// Checkpoints in the bucket: should the newest be damaged, there is one before it.
pub(crate) const CHECKPOINTS_KEPT: usize = 2;
/// Superseded files removed at once.
const DELETES_AT_ONCE: usize = 16;

/// What is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) cluster: Uuid,
    pub(crate) id: CheckpointId,
    /// Tells our own put from another one when the answer was lost.
    attempt: Uuid,
    /// us.
    pub(crate) taken_at_us: i64,
    /// A snapshot of the log, in its envelope.
    state: Vec<u8>,
    /// Of every topic but our own.
    pub(crate) roots: Vec<RootName>,
    /// Length of each part of the tail.
    pub(crate) tail: Vec<u64>,
}

/// A batch of a tail. Stored.
#[derive(Debug, Serialize, Deserialize)]
struct TailBatch {
    partition: TopicPartition,
    commit_time_us: i64,
    bytes: Vec<u8>,
}

/// A part of a tail. Stored.
#[derive(Debug, Serialize, Deserialize)]
struct TailPart {
    id: CheckpointId,
    part: u64,
    batches: Vec<TailBatch>,
}

/// What of a cut is in no object.
struct Tail {
    /// In the order of partitions and offsets; offsets meant of each.
    runs: Runs,
    bytes: u64,
}

/// Puts checkpoints of one process.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    cold: Arc<Cold>,
    cluster: Uuid,
    /// Versions are never used twice: an attempt that was given up may still arrive.
    next_version: u64,
    newest: Option<CheckpointId>,
}

impl Checkpointer {
    /// With what is in the bucket already; the sweep leaves alone what that names.
    ///
    /// # Errors
    /// [`Error::Config`] for a newer version, [`Error::ObjectStore`].
    pub(crate) async fn begin(cold: &Arc<Cold>, cluster: Uuid, takeover: Option<Takeover>) -> Result<Self> {
        let mut newest = None;
        for id in list(&cold.bucket, takeover).await?.into_iter().take(CHECKPOINTS_KEPT) {
            match read(&cold.bucket, id).await {
                Ok(found) => {
                    cold.kept.keep(id, &found.roots);
                    newest = newest.max(Some(id));
                }
                Err(Error::Corrupt { place, reason }) => {
                    tracing::error!(place, reason, "a checkpoint is damaged; run CHECKPOINT to put a new one");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self { cold: Arc::clone(cold), cluster, next_version: 1, newest })
    }

    /// Puts a checkpoint of a cut below which everything stable is tiered, and removes those it supersedes. `None` if
    /// more than `tail_bytes_max` is in no object.
    ///
    /// # Errors
    /// [`Error::Conflict`] if topics were deleted or trimmed meanwhile: take another cut. [`Error::Fenced`],
    /// [`Error::Corrupt`] if a topic's manifest cannot be read, [`Error::ObjectStore`], [`Error::Io`].
    pub(crate) async fn put(
        &mut self,
        node: &Arc<Node>,
        cut: &LogSnapshot,
        tail_bytes_max: u64,
    ) -> Result<Option<CheckpointId>> {
        for topic in cut.topics() {
            // Named as a topic without any manifest, its history would be lost.
            self.cold.manifests.check_readable(topic.id)?;
        }
        let id = CheckpointId { epoch: self.cold.epoch(), version: self.next_version };
        self.next_version += 1;
        // Held until the checkpoint is: what they name stays.
        let manifests: Vec<_> = cut.topics().map(|topic| self.cold.manifests.get(topic.id)).collect();
        let roots: Vec<RootName> = manifests
            .iter()
            .map(|manifest| (manifest.topic, (manifest.version > 0).then_some((manifest.epoch, manifest.version))))
            .collect();
        let kept = &self.cold.kept;
        kept.keep(id, &roots);
        match self.put_kept(node, cut, id, &manifests, roots, tail_bytes_max).await {
            Ok(true) => {
                let before = self.newest.replace(id);
                kept.forget_below(id, before);
                self.clear(id, before).await;
                Ok(Some(id))
            }
            Ok(false) => {
                kept.forget(id);
                Ok(None)
            }
            Err(error) => {
                // It may be there all the same, or come yet.
                kept.give_up(id, self.newest);
                Err(error)
            }
        }
    }

    /// Puts a checkpoint of which the sweep knows; `false` if it is left out.
    async fn put_kept(
        &self,
        node: &Arc<Node>,
        cut: &LogSnapshot,
        id: CheckpointId,
        manifests: &[Arc<TopicManifest>],
        roots: Vec<RootName>,
        tail_bytes_max: u64,
    ) -> Result<bool> {
        // Of one that is there now the sweep leaves everything alone from now on.
        if let Some(gone) = cut.topics().find(|topic| node.topic_by_id(topic.id).is_none()) {
            return Err(Error::Conflict { what: format!("topic {}", gone.name) });
        }
        let tiered: HashMap<_, _> = manifests.iter().map(|manifest| (manifest.topic, manifest)).collect();
        let starts = cut.asked_starts();
        let mut state = cut.clone();
        let mut tail = Tail { runs: Runs::new(), bytes: 0 };
        for stored in &mut state.partitions {
            if let Some(manifest) = tiered.get(&stored.partition.topic) {
                let log_start = starts.get(&stored.partition).copied().unwrap_or(0).max(stored.log_start);
                tail.add(node, stored, manifest.tiered_end(stored.partition.partition), log_start).await?;
            }
        }
        for (at, ranges) in &mut state.committed {
            let tiered_end = tiered.get(&at.topic).map_or(0, |manifest| manifest.tiered_end(at.partition));
            ranges.retain(|range| range.last_offset >= tiered_end);
        }
        if tail.bytes > tail_bytes_max {
            let bytes = tail.bytes;
            tracing::warn!(
                bytes,
                "no checkpoint is put by itself: too much is in no object, since transactions are open or tiering fails"
            );
            return Ok(false);
        }
        let tail = self.put_tail(id, tail, &mut state).await?;
        let (attempt, taken_at_us) = (self.cold.random().uuid(), state.last_commit_time_us);
        let state = state.seal()?;
        let checkpoint = Checkpoint { cluster: self.cluster, id, attempt, taken_at_us, state, roots, tail };
        self.put_whole(&checkpoint).await.map(|()| true)
    }

    async fn put_tail(&self, id: CheckpointId, tail: Tail, state: &mut LogSnapshot) -> Result<Vec<u64>> {
        let mut parts = Vec::new();
        let mut runs = tail.runs;
        while !runs.is_empty() {
            let (rest, batches, damaged) = worker::blocking(move || read_runs(runs)).await?;
            runs = rest;
            for (partition, offsets) in damaged {
                let mut known = state.partitions.iter_mut().filter(|stored| stored.partition == partition);
                if let Some(stored) = known.next() {
                    stored.damaged.push(offsets);
                }
            }
            if batches.is_empty() {
                continue;
            }
            let part = TailPart { id, part: parts.len() as u64, batches };
            let bytes = envelope::seal(TAIL, &part)?;
            let length = bytes.len() as u64;
            // The name is fresh, so a taken one is an earlier attempt of this very put.
            self.cold.bucket.put_new(&paths::tail(id, parts.len()), PutPayload::from(bytes)).await?;
            parts.push(length);
            worker::crash_point("after a part of a checkpoint's tail is put");
        }
        Ok(parts)
    }

    /// Puts the checkpoint; returns when it counts.
    async fn put_whole(&self, checkpoint: &Checkpoint) -> Result<()> {
        let bucket = &self.cold.bucket;
        let id = checkpoint.id;
        let bytes = envelope::seal(CHECKPOINT, checkpoint)?;
        metrics::histogram!("aquifer_checkpoint_bytes").record(bytes.len() as f64);
        let put = bucket.put_new(&paths::checkpoint(id), PutPayload::from(bytes)).await;
        let ours = match put {
            Ok(Put::Created) => true,
            Ok(Put::Taken) => read(bucket, id).await?.attempt == checkpoint.attempt,
            Err(unknown) => match read(bucket, id).await {
                Ok(found) if found.attempt == checkpoint.attempt => true,
                _ => return Err(unknown),
            },
        };
        if !ours {
            return Err(Error::Conflict { what: paths::checkpoint(id).to_string() });
        }
        worker::crash_point("after a checkpoint is put");
        claim::still_ours(bucket, id.epoch).await
    }

    /// Gives up what is kept: the bucket has no room left, and the sweep can make some of what checkpoints name. Until the
    /// next one is put, nobody can begin from the bucket alone.
    ///
    /// # Errors
    /// [`Error::ObjectStore`]; then all that is kept stays.
    pub(crate) async fn give_way(&mut self) -> Result<()> {
        let bucket = &self.cold.bucket;
        // A checkpoint goes before its tail, and both before what they name.
        let mut files = bucket.list(&paths::checkpoints(), None).await?;
        files.extend(bucket.list(&paths::tails(), None).await?);
        for path in &files {
            bucket.delete(path).await?;
        }
        self.cold.kept.clear();
        self.newest = None;
        tracing::warn!(
            "the object store is full: checkpoints are given up, so that what they keep from the sweep makes room"
        );
        Ok(())
    }

    /// Removes what is superseded. What fails is left to the next one.
    async fn clear(&self, newest: CheckpointId, before: Option<CheckpointId>) {
        let bucket = &self.cold.bucket;
        let superseded = |id: CheckpointId| id < newest && Some(id) != before;
        let listed = async {
            let checkpoints = bucket.list(&paths::checkpoints(), None).await?;
            let tails = bucket.list(&paths::tails(), None).await?;
            // A checkpoint goes before its tail: so none is there without.
            let old = checkpoints.into_iter().filter(|path| paths::checkpoint_id(path).is_some_and(superseded));
            let old: Vec<Path> =
                old.chain(tails.into_iter().filter(|path| paths::tail_of(path).is_some_and(superseded))).collect();
            for part in old.chunks(DELETES_AT_ONCE) {
                let deletes: Vec<_> = part.iter().map(|path| bucket.delete(path).boxed()).collect();
                stream::iter(deletes).buffered(DELETES_AT_ONCE).try_collect::<Vec<()>>().await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = listed.await {
            tracing::warn!(%error, "superseded checkpoints could not be removed, the next one tries again");
        }
    }
}

impl Tail {
    /// Takes in what of a partition is above the end of its objects.
    async fn add(&mut self, node: &Node, stored: &mut StoredPartition, tiered_end: i64, log_start: i64) -> Result<()> {
        let at = stored.partition;
        let moved = || Error::Conflict { what: format!("partition {} of topic {}", at.partition, at.topic) };
        if tiered_end > stored.end {
            return Err(moved());
        }
        stored.damaged.retain(|range| range.end > tiered_end);
        stored.aborted.retain(|range| range.last_offset >= tiered_end);
        if tiered_end == stored.end {
            return Ok(());
        }
        let range = match node.pin_untiered(at) {
            Ok(range) => range,
            Err(Error::UnknownTopic { .. } | Error::UnknownPartition { .. }) => return Err(moved()),
            Err(error) => return Err(error),
        };
        let start = tiered_end.max(log_start);
        if range.watermarks.log_start_offset > start {
            return Err(moved());
        }
        let end = stored.end;
        let runs = worker::blocking(move || range.runs()).await?;
        let meant = runs.into_iter().filter(|run| run.last_offset >= start && run.base_offset < end);
        for run in meant {
            self.bytes += u64::from(run.len);
            self.runs.push_back((at, start..end, run));
        }
        Ok(())
    }
}

type Runs = VecDeque<(TopicPartition, Range<i64>, HotRun)>;
type Damaged = Vec<(TopicPartition, DamagedOffsets)>;

/// Reads the next part of a tail. Blocks on the log's files.
fn read_runs(mut runs: Runs) -> Result<(Runs, Vec<TailBatch>, Damaged)> {
    let (mut batches, mut damaged, mut bytes) = (Vec::new(), Vec::new(), 0);
    while let Some((partition, meant, run)) = runs.front() {
        if bytes > 0 && bytes + u64::from(run.len) > TAIL_PART_BYTES {
            break;
        }
        bytes += u64::from(run.len);
        for piece in run.read()? {
            match piece {
                Piece::Damaged { offsets, .. } if offsets.end <= meant.start || offsets.start >= meant.end => {}
                Piece::Damaged { offsets, .. } => damaged.push((*partition, offsets)),
                Piece::Batches(found) => {
                    let inside = found.into_iter().filter(|found| {
                        let header = found.batch.header();
                        header.last_offset() >= meant.start && header.base_offset < meant.end
                    });
                    batches.extend(inside.map(|found| TailBatch {
                        partition: *partition,
                        commit_time_us: found.commit_time_us,
                        bytes: found.batch.bytes().to_vec(),
                    }));
                }
            }
        }
        runs.pop_front();
    }
    Ok((runs, batches, damaged))
}

impl Checkpoint {
    /// The state of the log it was made of.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Config`] for a newer version.
    pub(crate) fn state(&self) -> Result<LogSnapshot> {
        LogSnapshot::open(&self.state, paths::checkpoint(self.id).as_ref())
    }

    /// Reads a part of its tail.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Config`] for a newer version, [`Error::ObjectStore`].
    pub(crate) async fn tail_part(&self, bucket: &Bucket, part: usize) -> Result<Vec<PlacedBatch>> {
        let path = paths::tail(self.id, part);
        let place = path.to_string();
        let corrupt = |reason: &str| Error::Corrupt { place: place.clone(), reason: reason.to_owned() };
        let found = bucket.get(&path, TAIL_PART_BYTES_MAX).await?.ok_or_else(|| corrupt("it is not there"))?;
        let TailPart { id, part: number, batches } = envelope::open(TAIL, &found, &place)?;
        let expected = self.tail.get(part).copied();
        if (id, number) != (self.id, part as u64) || expected != Some(found.len() as u64) {
            return Err(corrupt("it is part of another tail"));
        }
        let placed = batches.into_iter().map(|TailBatch { partition, commit_time_us, bytes }| {
            let batch = CheckedBatch::parse_stored(Bytes::from(bytes)).map_err(|error| corrupt(&error.to_string()))?;
            let base_offset = batch.header().base_offset;
            Ok(PlacedBatch { partition, base_offset, batch, carried_us: Some(commit_time_us) })
        });
        placed.collect()
    }
}

/// The checkpoints that count, newest first. Of what was put before a takeover only what it was made of does: a process
/// that was replaced may put more, for as long as it does not know.
///
/// # Errors
/// [`Error::ObjectStore`].
pub(crate) async fn list(bucket: &Bucket, takeover: Option<Takeover>) -> Result<Vec<CheckpointId>> {
    let counts = |id: &CheckpointId| takeover.is_none_or(|takeover| *id <= takeover.from || id.epoch >= takeover.epoch);
    let names = bucket.list(&paths::checkpoints(), None).await?;
    let mut ids: Vec<_> = names.iter().filter_map(paths::checkpoint_id).filter(counts).collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    Ok(ids)
}

/// A checkpoint by its name.
///
/// # Errors
/// [`Error::Corrupt`], also if it is not what its name says; [`Error::Config`] for a newer version; [`Error::ObjectStore`].
pub(crate) async fn read(bucket: &Bucket, id: CheckpointId) -> Result<Checkpoint> {
    let path = paths::checkpoint(id);
    let corrupt = |reason: String| Error::Corrupt { place: path.to_string(), reason };
    let Some(bytes) = bucket.get(&path, CHECKPOINT_BYTES_MAX).await? else {
        return Err(corrupt("it is listed but not there".to_owned()));
    };
    let checkpoint: Checkpoint = envelope::open(CHECKPOINT, &bytes, path.as_ref())?;
    if checkpoint.id != id {
        return Err(corrupt(format!("it is checkpoint {}, not what its name says", checkpoint.id)));
    }
    // What it says of the log is checked here too, so that a newer one is refused by name.
    checkpoint.state()?;
    let distinct: HashSet<_> = checkpoint.roots.iter().map(|(topic, _)| topic).collect();
    if distinct.len() == checkpoint.roots.len() {
        return Ok(checkpoint);
    }
    Err(corrupt("it names a topic twice".to_owned()))
}

/// How far each partition is to be tiered for a checkpoint of a cut; the rest waits for the next one.
pub(crate) fn targets(cut: &LogSnapshot, backlog: &[Backlog]) -> BTreeMap<TopicId, Vec<Target>> {
    let stable = cut.stable_ends();
    let mut targets: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for waiting in backlog {
        let Some(end) = stable.get(&waiting.partition).copied().filter(|end| waiting.tiered_end < *end) else {
            continue;
        };
        targets.entry(waiting.partition.topic).or_default().push((waiting.partition, end));
    }
    targets
}
