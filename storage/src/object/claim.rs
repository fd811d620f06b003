//! Whose bucket this is: the cluster's id and the newest writer epoch, kept in the bucket as numbered claims.
//!
//! A process claims the bucket with its epoch before it reads a manifest. Another process that wrote a manifest just
//! before looks at the claims after its put: either it sees the claim and knows that it is fenced, or the claimer sees
//! its put. So no publish that counted is ever overlooked.
//!
//! A data directory claims its epoch for itself first (the log does), the bucket second: a crash between leaves the
//! bucket behind, never ahead. So a bucket that is ahead was written from another copy of the directory.

use object_store::PutPayload;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::envelope::{self, Kind};
use crate::error::{Error, Result};
use crate::ids::WriterEpoch;
use crate::object::bucket::{Bucket, Put};
use crate::object::paths;

const CLAIM: Kind = Kind { magic: *b"AQCLAIM\0", version: 1, name: "writer's claim" };
const CLAIM_BYTES_MAX: u64 = 4 << 10;

/// Claims kept behind the newest one, for who wants to know what happened.
const CLAIMS_KEPT: usize = 8;

/// One process's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    cluster: Uuid,
    epoch: WriterEpoch,
    /// Tells our own put from somebody else's when the answer was lost.
    attempt: Uuid,
}

/// Claims the bucket for `epoch` of `cluster`.
///
/// # Errors
/// [`Error::Config`] if it belongs to another cluster, [`Error::Fenced`] if a newer (or the same) epoch has it.
pub(crate) async fn claim(bucket: &Bucket, cluster: Uuid, epoch: WriterEpoch, attempt: Uuid) -> Result<()> {
    let before = bucket.list(&paths::claims(), None).await?;
    if let Some(newest) = newest(&before) {
        let found = whose_bucket(bucket, &before).await?;
        if found != cluster {
            return Err(Error::Config {
                reason: format!(
                    "the object store belongs to cluster {found}, the data directory to cluster {cluster}; \
                     open the pair that belongs together, or an empty object store"
                ),
            });
        }
        // The name says it, whatever became of the bytes.
        let found = paths::number(&newest).map_or(epoch, WriterEpoch);
        if found >= epoch {
            return Err(fenced(epoch, found));
        }
    }
    let ours = Claim { cluster, epoch, attempt };
    let bytes = envelope::seal(CLAIM, &ours)?;
    let path = paths::claim(epoch);
    if bucket.put_new(&path, PutPayload::from(bytes)).await? == Put::Taken && read(bucket, path).await? != ours {
        return Err(fenced(epoch, epoch));
    }
    still_ours(bucket, epoch).await?;
    for old in before.iter().rev().skip(CLAIMS_KEPT) {
        bucket.delete(old).await?;
    }
    Ok(())
}

/// Fails if somebody with a newer epoch has claimed the bucket.
///
/// # Errors
/// [`Error::Fenced`].
pub(crate) async fn still_ours(bucket: &Bucket, epoch: WriterEpoch) -> Result<()> {
    let newer = bucket.list(&paths::claims(), Some(&paths::claim(epoch))).await?;
    match newer.iter().filter_map(paths::number).max() {
        Some(found) if found > epoch.0 => Err(fenced(epoch, WriterEpoch(found))),
        _ => Ok(()),
    }
}

/// Whose claim it is: cluster and epoch.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::Config`] for a newer version, [`Error::ObjectStore`].
pub(crate) async fn whose(bucket: &Bucket, path: Path) -> Result<(Uuid, WriterEpoch)> {
    read(bucket, path).await.map(|claim| (claim.cluster, claim.epoch))
}

/// Whose bucket it is, by the newest claim that can be read: all of them are of one cluster.
async fn whose_bucket(bucket: &Bucket, claims: &[Path]) -> Result<Uuid> {
    let mut claims: Vec<&Path> = claims.iter().filter(|path| paths::number(path).is_some()).collect();
    claims.sort_unstable_by(|a, b| b.cmp(a));
    let mut first_error = None;
    for path in claims {
        match read(bucket, path.clone()).await {
            Ok(claim) => return Ok(claim.cluster),
            Err(Error::Corrupt { place, reason }) => {
                tracing::error!(
                    place,
                    reason,
                    "a writer's claim is damaged; an older one says whose the object store is"
                );
                first_error = first_error.or(Some((place, reason)));
            }
            Err(error) => return Err(error),
        }
    }
    let (place, reason) = first_error.unwrap_or_default();
    let reason = format!(
        "{reason}, and no other claim tells whose the object store is; if it is this data directory's, remove the damaged claims"
    );
    Err(Error::Corrupt { place, reason })
}

fn newest(claims: &[Path]) -> Option<Path> {
    claims.iter().filter(|path| paths::number(path).is_some()).max().cloned()
}

async fn read(bucket: &Bucket, path: Path) -> Result<Claim> {
    let Some(bytes) = bucket.get(&path, CLAIM_BYTES_MAX).await? else {
        return Err(Error::Corrupt { place: path.to_string(), reason: "it is listed but not there".to_owned() });
    };
    envelope::open(CLAIM, &bytes, path.as_ref())
}

fn fenced(ours: WriterEpoch, theirs: WriterEpoch) -> Error {
    Error::Fenced {
        reason: format!(
            "the object store was claimed with writer epoch {}, ours is {}; another copy of the data directory has been in use",
            theirs.0, ours.0
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pair_that_does_not_match_is_refused_and_an_old_copy_is_fenced() {
        let bucket = Bucket::for_test();
        let (ours, theirs) = (Uuid::from_u128(1), Uuid::from_u128(2));
        claim(&bucket, ours, WriterEpoch(1), Uuid::from_u128(11)).await.unwrap();
        still_ours(&bucket, WriterEpoch(1)).await.unwrap();
        let error = claim(&bucket, theirs, WriterEpoch(2), Uuid::from_u128(12)).await.unwrap_err();
        assert!(matches!(&error, Error::Config { reason } if reason.contains(&ours.to_string())), "{error}");
        claim(&bucket, ours, WriterEpoch(2), Uuid::from_u128(13)).await.unwrap();
        assert!(matches!(still_ours(&bucket, WriterEpoch(1)).await, Err(Error::Fenced { .. })));
        let error = claim(&bucket, ours, WriterEpoch(2), Uuid::from_u128(14)).await.unwrap_err();
        assert!(matches!(error, Error::Fenced { .. }), "{error}");
    }

    #[tokio::test]
    async fn old_claims_are_cleared_away() {
        let bucket = Bucket::for_test();
        for epoch in 1..=30 {
            claim(&bucket, Uuid::nil(), WriterEpoch(epoch), Uuid::from_u128(u128::from(epoch))).await.unwrap();
        }
        assert_eq!(bucket.list(&paths::claims(), None).await.unwrap().len(), CLAIMS_KEPT + 1);
    }
}
