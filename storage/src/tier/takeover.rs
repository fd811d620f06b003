//! The takeover: a node begins with an empty data directory, from the bucket alone.
//!
//! 1. If there is a checkpoint to begin from, it claims the bucket with the next epoch. From then on nothing of the old
//!    node counts that is not in the lists that follow: a checkpoint that it has acknowledged is.
//! 2. It chooses the newest checkpoint that is whole, and claims once more, naming it: no directory that does not know of
//!    this takeover is let in again, and no checkpoint that the old node puts later is ever looked at.
//! 3. It makes a data directory of the checkpoint ([`crate::log::rebuild`]), and publishes for every topic the manifest
//!    that the checkpoint names as one of its own epoch. What came after it is in no manifest any more, and is swept.
//! 4. The directory's own file is written. Until then nothing is served, and who begins again begins at 1.
//!
//! What the old node acknowledged after the checkpoint is lost, and only that. Its offsets are given again to other
//! records. Whether that node still runs cannot be seen from the bucket: so somebody must say that it does not, by asking
//! for a takeover.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::path::Path;

use crate::error::{Error, Result};
use crate::ids::{CheckpointId, Takeover, WriterEpoch};
use crate::log::disk::Disk;
use crate::log::rebuild::{self, Rebuild};
use crate::log::segment::Origin;
use crate::manifest::edit::Edit;
use crate::manifest::model::TopicManifest;
use crate::manifest::{invariant, publish};
use crate::object::bucket::Bucket;
use crate::object::claim::{self, Claim};
use crate::object::paths;
use crate::storage::OpenOptions;
use crate::tier::checkpoint::{self, CHECKPOINTS_KEPT, Checkpoint};
use crate::tier::cold::{Cold, Writer};
use crate::tier::kept::RootName;
use crate::worker;

/// Manifests read and published at once.
const TOPICS_AT_ONCE: usize = 16;

/// Looks at an empty data directory before anything is made of it: it is made from the bucket if that was asked for, and
/// refused if the bucket holds a cluster and nobody asked. Any other directory is left as it is.
///
/// # Errors
/// Those of [`refuse`] and [`take_over`].
pub(crate) async fn prepare(
    options: &OpenOptions,
    disk: &Arc<dyn Disk>,
    bucket: Option<Bucket>,
    asked: bool,
) -> Result<()> {
    let (of_look, data_dir) = (Arc::clone(disk), options.data_dir.clone());
    if !worker::blocking(move || rebuild::is_fresh(of_look.as_ref(), &data_dir)).await? {
        if asked {
            let data_dir = options.data_dir.display();
            tracing::warn!(%data_dir, "nothing is taken over: the data directory is not empty, and the node goes on with it");
        }
        return Ok(());
    }
    let opening = options.opening();
    let bucket = match bucket {
        Some(bucket) => bucket,
        None if opening.may_hold_a_cluster() => opening.open().await?,
        None if asked => return Err(nothing()),
        None => return Ok(()),
    };
    if asked { Box::pin(take_over(options, disk, &bucket)).await } else { refuse(options, &bucket).await }
}

fn nothing() -> Error {
    let reason = "there is nothing to take over: the object store holds no cluster; \
                  name the one that does, or start without --take-over";
    Error::Config { reason: reason.to_owned() }
}

/// Refuses an empty data directory on a bucket that holds a cluster.
///
/// # Errors
/// [`Error::Config`], [`Error::ObjectStore`].
async fn refuse(options: &OpenOptions, bucket: &Bucket) -> Result<()> {
    let Some(Claim { cluster, epoch, .. }) = claim::newest_claim(bucket).await? else { return Ok(()) };
    let shown = options.data_dir.display();
    Err(Error::Config {
        reason: format!(
            "the object store belongs to cluster {cluster} (writer epoch {}), and data directory {shown} is empty; name the \
             data directory that belongs to it, or an empty object store; to begin from the object store alone, make \
             sure that the node that used it is stopped and start with --take-over: what it acknowledged after its last \
             checkpoint is lost then",
            epoch.0
        ),
    })
}

/// Makes the data directory from the bucket.
///
/// # Errors
/// [`Error::Config`] if there is nothing to take over, or if a newer program wrote it; [`Error::Fenced`] if another node
/// uses the bucket; [`Error::Corrupt`] if no checkpoint is whole; [`Error::ObjectStore`], [`Error::Io`], [`Error::Full`].
async fn take_over(options: &OpenOptions, disk: &Arc<dyn Disk>, bucket: &Bucket) -> Result<()> {
    let found = claim::newest_claim(bucket).await?.ok_or_else(nothing)?;
    // Who cannot begin leaves the bucket to the node that has it.
    choose(options, bucket, &found).await?;
    let attempt = || options.random.uuid();
    let fence = Claim { epoch: WriterEpoch(found.epoch.0 + 1), attempt: attempt(), ..found };
    claim::claim_over(bucket, fence).await?;
    let chosen = choose(options, bucket, &found).await?;
    let epoch = WriterEpoch(fence.epoch.0 + 1);
    let takeover = Takeover { epoch, from: chosen.id, taken_at_us: chosen.taken_at_us };
    let ours = Claim { epoch, attempt: attempt(), takeover: Some(takeover), ..found };
    claim::claim_over(bucket, ours).await?;
    worker::crash_point("after a takeover is claimed");
    let (checkpoint, taken_at_us) = (chosen.id, chosen.taken_at_us);
    tracing::warn!(
        cluster = %found.cluster, epoch = epoch.0, %checkpoint, taken_at_us,
        "taking the cluster over from the object store; what was acknowledged after this checkpoint is not there"
    );
    let origin = Origin { cluster_id: found.cluster, epoch };
    let rebuild = rebuild_log(options, disk, bucket, origin, &chosen).await?;
    worker::crash_point("after a log is made for a takeover");
    let cold = Arc::new(cold_part(options, bucket, epoch));
    let publishes: Vec<_> = chosen.roots.iter().map(|root| publish_root(&cold, *root).boxed()).collect();
    stream::iter(publishes).buffer_unordered(TOPICS_AT_ONCE).try_collect::<Vec<()>>().await?;
    worker::crash_point("after manifests are taken over");
    worker::blocking(move || rebuild.settle(ours)).await
}

fn cold_part(options: &OpenOptions, bucket: &Bucket, epoch: WriterEpoch) -> Cold {
    let writer = Writer {
        epoch,
        random: Arc::clone(&options.random),
        clock: Arc::clone(&options.clock),
        memory_bytes: options.settings.memory_limit,
    };
    Cold::new(bucket.clone(), writer)
}

/// The newest whole checkpoint. An older one than the newest counts only if all that it names is there.
async fn choose(options: &OpenOptions, bucket: &Bucket, found: &Claim) -> Result<Checkpoint> {
    let ids = checkpoint::list(bucket, found.takeover).await?;
    let mut damage: Option<Error> = None;
    for id in ids.into_iter().take(CHECKPOINTS_KEPT) {
        let read = read_whole(options, bucket, found, id, damage.is_some()).await;
        match read {
            Ok(checkpoint) => {
                if let Some(error) = damage {
                    tracing::error!(
                        %error, checkpoint = %id, taken_at_us = checkpoint.taken_at_us,
                        "the newest checkpoint is damaged; the one before it is taken, and what was acknowledged between them is lost"
                    );
                }
                return Ok(checkpoint);
            }
            // The newest one's damage is the one to tell.
            Err(error @ Error::Corrupt { .. }) => damage = damage.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(damage.unwrap_or_else(|| Error::Config {
        reason: format!(
            "the object store holds cluster {} but no checkpoint to begin from; start the node with its data directory \
             and run CHECKPOINT",
            found.cluster
        ),
    }))
}

async fn read_whole(
    options: &OpenOptions,
    bucket: &Bucket,
    found: &Claim,
    id: CheckpointId,
    to_the_ground: bool,
) -> Result<Checkpoint> {
    let checkpoint = checkpoint::read(bucket, id).await?;
    if checkpoint.cluster != found.cluster {
        let reason = format!("it belongs to cluster {}, the claims to {}", checkpoint.cluster, found.cluster);
        return Err(Error::Corrupt { place: paths::checkpoint(id).to_string(), reason });
    }
    for part in 0..checkpoint.tail.len() {
        checkpoint.tail_part(bucket, part).await?;
    }
    let cold = Arc::new(cold_part(options, bucket, id.epoch));
    for root in &checkpoint.roots {
        let manifest = read_root(bucket, *root).await?;
        if to_the_ground {
            check_objects(&cold, manifest).await?;
        }
    }
    Ok(checkpoint)
}

/// The manifest that a checkpoint names, checked.
async fn read_root(bucket: &Bucket, (topic, name): RootName) -> Result<TopicManifest> {
    let Some((epoch, version)) = name else { return Ok(TopicManifest::empty(topic)) };
    let path = paths::root(topic, epoch, version);
    let Some(root) = publish::read_root(bucket, topic, &path).await? else {
        return Err(Error::Corrupt {
            place: path.to_string(),
            reason: "a checkpoint names it, and it is not there".into(),
        });
    };
    let manifest = root.into_manifest();
    invariant::root_is_sound(&manifest)?;
    Ok(manifest)
}

/// Whether every object of a manifest is there.
async fn check_objects(cold: &Arc<Cold>, manifest: TopicManifest) -> Result<()> {
    let there: HashSet<Path> = cold.bucket.list(&paths::objects(manifest.topic), None).await?.into_iter().collect();
    let mut entries = cold.entries(&Arc::new(manifest));
    while let Some(entry) = entries.try_next().await? {
        let missing = entry.object.as_ref().filter(|object| !there.contains(&Path::from(object.path.as_str())));
        if let Some(object) = missing {
            return Err(Error::Corrupt { place: object.path.clone(), reason: "it is not there".to_owned() });
        }
    }
    Ok(())
}

/// Makes the log of a checkpoint, part by part of its tail.
async fn rebuild_log(
    options: &OpenOptions,
    disk: &Arc<dyn Disk>,
    bucket: &Bucket,
    origin: Origin,
    checkpoint: &Checkpoint,
) -> Result<Rebuild> {
    let (disk, data_dir) = (Arc::clone(disk), options.data_dir.clone());
    let (segment_bytes, state) = (options.settings.wal_segment_bytes, checkpoint.state()?);
    let begin = move || Rebuild::begin(&disk, &data_dir, origin, segment_bytes, state);
    let mut rebuild = worker::blocking(begin).await?;
    for part in 0..checkpoint.tail.len() {
        let batches = checkpoint.tail_part(bucket, part).await?;
        rebuild = worker::blocking(move || {
            rebuild.put(batches)?;
            Ok(rebuild)
        })
        .await?;
    }
    worker::blocking(move || {
        rebuild.end_log()?;
        Ok(rebuild)
    })
    .await
}

/// Makes a manifest that a checkpoint names the one that counts. One of our own epoch stands before whatever the old node
/// has put or may still put.
async fn publish_root(cold: &Arc<Cold>, root: RootName) -> Result<()> {
    let manifest = read_root(&cold.bucket, root).await?;
    let topic = manifest.topic;
    cold.manifests.install(manifest);
    cold.publish(topic, Edit::Trim { starts: Vec::new(), history_start_us: None }).await.map(drop)
}
