//! Whose bucket this is: the cluster's id and the newest writer epoch, kept in the bucket as numbered claims.
//!
//! A process claims the bucket with its epoch before it reads a manifest. Another process that wrote a manifest just
//! before looks at the claims after its put: either it sees the claim and knows that it is fenced, or the claimer sees
//! its put. So no publish that counted is ever overlooked.
//!
//! The newest claim must be one that the data directory itself has made ([`super::past`]): it notes each claim durably
//! before it makes it, so a crash between leaves nobody locked out, and a copy of the directory, which made none of the
//! claims since it was copied, is refused however often it is started and whatever epoch it has come to.
//!
//! A node that began from the bucket alone has left behind what its predecessor acknowledged after the last checkpoint.
//! From then on claims name that takeover, and a directory that does not know of it is refused, however often it is
//! started and whatever epoch it has come to.

use object_store::PutPayload;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::envelope::{self, Kind};
use crate::error::{Error, Result};
use crate::ids::{Takeover, WriterEpoch};
use crate::object::bucket::{Bucket, Put};
use crate::object::past::Past;
use crate::object::paths;

const CLAIM: Kind = Kind { magic: *b"AQCLAIM\0", version: 2, name: "writer's claim" };
const CLAIM_BYTES_MAX: u64 = 4 << 10;

/// Claims kept behind the newest one, for who wants to know what happened.
const CLAIMS_KEPT: usize = 8;

/// One process's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) cluster: Uuid,
    pub(crate) epoch: WriterEpoch,
    /// Tells our own put from somebody else's when the answer was lost.
    pub(crate) attempt: Uuid,
    /// The last one; `None` if the cluster's first data directory still counts.
    pub(crate) takeover: Option<Takeover>,
}

/// As version 1 had it.
#[derive(Deserialize)]
struct ClaimV1 {
    cluster: Uuid,
    epoch: WriterEpoch,
    attempt: Uuid,
}

/// What was found by who is about to claim.
#[derive(Debug)]
pub(crate) struct Found {
    before: Vec<Path>,
    /// By its name, whatever became of its bytes.
    newest_epoch: Option<WriterEpoch>,
    /// `None` if there is none or it is damaged.
    pub(crate) newest: Option<Claim>,
}

/// Looks whether a data directory may claim the bucket; nothing is written yet.
///
/// # Errors
/// [`Error::Config`] if it belongs to another cluster or to a node that took over from the bucket, [`Error::Fenced`] if a
/// newer (or the same) epoch has it, or one that the directory knows nothing of.
pub(crate) async fn look(bucket: &Bucket, ours: &Claim, past: &Past) -> Result<Found> {
    let found = look_at(bucket, ours, |found| same_takeover(found.takeover, ours.takeover)).await?;
    let known = match (&found.newest, found.newest_epoch) {
        (Some(newest), _) => past.knows(newest),
        (None, Some(epoch)) => past.knows_epoch(epoch),
        (None, None) => true,
    };
    if known { Ok(found) } else { Err(of_a_copy(found.newest_epoch.unwrap_or(ours.epoch))) }
}

/// Claims the bucket, once the claim is noted in the data directory.
///
/// # Errors
/// [`Error::Fenced`] if somebody else has claimed it since it was looked at.
pub(crate) async fn put(bucket: &Bucket, ours: Claim, past: &Past, found: Found) -> Result<()> {
    let bytes = envelope::seal(CLAIM, &ours)?;
    let path = paths::claim(ours.epoch);
    if bucket.put_new(&path, PutPayload::from(bytes)).await? == Put::Taken && read(bucket, path.clone()).await? != ours
    {
        return Err(fenced(ours.epoch, ours.epoch));
    }
    let seen = found.newest_epoch.map(paths::claim);
    for other in bucket.list(&paths::claims(), seen.as_ref()).await? {
        let Some(epoch) = paths::number(&other).map(WriterEpoch).filter(|epoch| *epoch != ours.epoch) else { continue };
        if epoch > ours.epoch {
            return Err(fenced(ours.epoch, epoch));
        }
        // An earlier put of ours may arrive late.
        if found.before.contains(&other) || past.knows(&read(bucket, other).await?) {
            continue;
        }
        // Another copy was quicker, by a smaller number: it has the bucket, and we must not seem to come after it.
        bucket.delete(&path).await?;
        return Err(of_a_copy(epoch));
    }
    for old in found.before.iter().rev().skip(CLAIMS_KEPT) {
        bucket.delete(old).await?;
    }
    Ok(())
}

/// Claims the bucket for a node that begins from it alone: it has no past of its own.
///
/// # Errors
/// As [`put`]; [`Error::Config`] if the bucket belongs to another cluster.
pub(crate) async fn claim_over(bucket: &Bucket, ours: Claim) -> Result<()> {
    let found = look_at(bucket, &ours, |_| Ok(())).await?;
    put(bucket, ours, &Past::default(), found).await
}

async fn look_at(bucket: &Bucket, ours: &Claim, check: impl FnOnce(&Claim) -> Result<()>) -> Result<Found> {
    let before = bucket.list(&paths::claims(), None).await?;
    let Some(newest) = newest(&before) else { return Ok(Found { before, newest_epoch: None, newest: None }) };
    let found = newest_readable(bucket, &before).await?;
    let (cluster, epoch) = (ours.cluster, ours.epoch);
    if found.cluster != cluster {
        return Err(Error::Config {
            reason: format!(
                "the object store belongs to cluster {}, the data directory to cluster {cluster}; \
                 open the pair that belongs together, or an empty object store",
                found.cluster
            ),
        });
    }
    check(&found)?;
    let newest_epoch = paths::number(&newest).map_or(found.epoch, WriterEpoch);
    if newest_epoch >= epoch {
        return Err(fenced(epoch, newest_epoch));
    }
    let newest = Some(found).filter(|found| found.epoch == newest_epoch);
    Ok(Found { before, newest_epoch: Some(newest_epoch), newest })
}

/// Refuses a directory and a bucket that have not the same past.
fn same_takeover(bucket: Option<Takeover>, directory: Option<Takeover>) -> Result<()> {
    let epoch = |takeover: Option<Takeover>| takeover.map_or(0, |takeover| takeover.epoch.0);
    let reason = match bucket {
        _ if bucket == directory => return Ok(()),
        Some(Takeover { epoch: at, from, .. }) if at.0 > epoch(directory) => format!(
            "another node has taken the cluster over from the object store, with writer epoch {} and checkpoint {from}; \
             this data directory is from before, and what it acknowledged after that checkpoint is in it alone: \
             keep it for that, or remove it; to take the cluster over here, start with an empty data directory and \
             --take-over",
            at.0
        ),
        _ => format!(
            "the object store is an older copy: the data directory comes from a takeover with writer epoch {}, of \
             which the object store does not know; open the pair that was used together",
            epoch(directory)
        ),
    };
    Err(Error::Config { reason })
}

/// The newest claim, where its bytes are damaged with the words of the newest that is whole; `None` if nobody has ever
/// claimed the bucket.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::Config`] for a newer version, [`Error::ObjectStore`].
pub(crate) async fn newest_claim(bucket: &Bucket) -> Result<Option<Claim>> {
    let claims = bucket.list(&paths::claims(), None).await?;
    let Some(newest) = newest(&claims) else { return Ok(None) };
    let found = newest_readable(bucket, &claims).await?;
    Ok(Some(Claim { epoch: paths::number(&newest).map_or(found.epoch, WriterEpoch), ..found }))
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

/// The newest claim that can be read: all of them are of one cluster, and those behind a takeover name it.
async fn newest_readable(bucket: &Bucket, claims: &[Path]) -> Result<Claim> {
    let mut claims: Vec<&Path> = claims.iter().filter(|path| paths::number(path).is_some()).collect();
    claims.sort_unstable_by(|a, b| b.cmp(a));
    let mut first_error = None;
    for path in claims {
        match read(bucket, path.clone()).await {
            Ok(claim) => return Ok(claim),
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

/// A claim by its name.
///
/// # Errors
/// As [`newest_claim`].
pub(crate) async fn read(bucket: &Bucket, path: Path) -> Result<Claim> {
    let Some(bytes) = bucket.get(&path, CLAIM_BYTES_MAX).await? else {
        return Err(Error::Corrupt { place: path.to_string(), reason: "it is listed but not there".to_owned() });
    };
    let (version, payload) = envelope::check(CLAIM, &bytes, path.as_ref())?;
    if version > 1 {
        return envelope::decode(payload, path.as_ref());
    }
    let ClaimV1 { cluster, epoch, attempt } = envelope::decode(payload, path.as_ref())?;
    Ok(Claim { cluster, epoch, attempt, takeover: None })
}

fn of_a_copy(theirs: WriterEpoch) -> Error {
    Error::Fenced {
        reason: format!(
            "the object store was claimed with writer epoch {}, of which this data directory knows nothing: another copy of \
             it has been in use since, or the object store is a much older copy; start the two that were used together \
             last, or begin from the object store with an empty data directory and --take-over",
            theirs.0
        ),
    }
}

fn fenced(ours: WriterEpoch, theirs: WriterEpoch) -> Error {
    Error::Fenced {
        reason: format!(
            "the object store was claimed with writer epoch {}, ours is {}; another copy of the data directory has been in use",
            theirs.0, ours.0
        ),
    }
}

/// Claims the bucket for a directory that knows every claim in it.
#[cfg(test)]
pub(crate) async fn claim(bucket: &Bucket, ours: Claim) -> Result<()> {
    let past = Past::unnoted(WriterEpoch(u64::MAX));
    let found = look(bucket, &ours, &past).await?;
    put(bucket, ours, &past, found).await
}

#[cfg(test)]
impl Claim {
    /// The claim of an epoch of a cluster that nobody has taken over.
    pub(crate) fn for_test(cluster: Uuid, epoch: WriterEpoch) -> Self {
        Self { cluster, epoch, attempt: Uuid::from_u128(epoch.0.into()), takeover: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::CheckpointId;

    fn of(cluster: u128, epoch: u64, takeover: Option<Takeover>) -> Claim {
        let attempt = Uuid::from_u128(cluster << 64 | u128::from(epoch));
        Claim { cluster: Uuid::from_u128(cluster), epoch: WriterEpoch(epoch), attempt, takeover }
    }

    #[tokio::test]
    async fn a_pair_that_does_not_match_is_refused_and_an_old_copy_is_fenced() {
        let bucket = Bucket::for_test();
        claim(&bucket, of(1, 1, None)).await.unwrap();
        still_ours(&bucket, WriterEpoch(1)).await.unwrap();
        let error = claim(&bucket, of(2, 2, None)).await.unwrap_err();
        let ours = Uuid::from_u128(1).to_string();
        assert!(matches!(&error, Error::Config { reason } if reason.contains(&ours)), "{error}");
        claim(&bucket, of(1, 2, None)).await.unwrap();
        assert!(matches!(still_ours(&bucket, WriterEpoch(1)).await, Err(Error::Fenced { .. })));
        let error = claim(&bucket, Claim { attempt: Uuid::nil(), ..of(1, 2, None) }).await.unwrap_err();
        assert!(matches!(error, Error::Fenced { .. }), "{error}");
    }

    #[tokio::test]
    async fn after_a_takeover_the_old_directory_is_refused_however_often_it_is_started() {
        let bucket = Bucket::for_test();
        claim(&bucket, of(1, 5, None)).await.unwrap();
        let from = CheckpointId { epoch: WriterEpoch(5), version: 3 };
        let takeover = Some(Takeover { epoch: WriterEpoch(6), from, taken_at_us: 7 });
        claim_over(&bucket, of(1, 6, takeover)).await.unwrap();
        for epoch in 6..10 {
            let error = claim(&bucket, of(1, epoch, None)).await.unwrap_err();
            assert!(matches!(&error, Error::Config { reason } if reason.contains("checkpoint 5-3")), "{error}");
        }
        claim(&bucket, of(1, 7, takeover)).await.unwrap();
        assert_eq!(newest_claim(&bucket).await.unwrap(), Some(of(1, 7, takeover)));
        let older = Bucket::for_test();
        claim(&older, of(1, 5, None)).await.unwrap();
        let error = claim(&older, of(1, 8, takeover)).await.unwrap_err();
        assert!(matches!(&error, Error::Config { reason } if reason.contains("older copy")), "{error}");
    }

    /// As a directory does it: noted, then made.
    async fn claim_noted(bucket: &Bucket, ours: Claim, past: &mut Past) -> Result<()> {
        let found = look(bucket, &ours, past).await?;
        past.note(found.newest.as_ref(), &ours);
        put(bucket, ours, past, found).await
    }

    fn by(copy: u128, epoch: u64) -> Claim {
        Claim { attempt: Uuid::from_u128(copy << 64 | u128::from(epoch)), ..of(1, epoch, None) }
    }

    #[tokio::test]
    async fn a_copy_is_refused_whatever_epoch_it_has_come_to() {
        let bucket = Bucket::for_test();
        let mut old = Past::default();
        claim_noted(&bucket, by(1, 1), &mut old).await.unwrap();
        let mut new = old.clone();
        claim_noted(&bucket, by(2, 2), &mut new).await.unwrap();
        for epoch in 2..10 {
            let error = claim_noted(&bucket, by(1, epoch), &mut old).await.unwrap_err();
            assert!(matches!(error, Error::Fenced { .. }), "{error}");
        }
        claim_noted(&bucket, by(2, 3), &mut new).await.unwrap();
    }

    #[tokio::test]
    async fn a_crash_between_note_and_claim_locks_nobody_out() {
        let bucket = Bucket::for_test();
        let mut past = Past::default();
        claim_noted(&bucket, by(1, 1), &mut past).await.unwrap();
        for epoch in 2..30 {
            let found = look(&bucket, &by(1, epoch), &past).await.unwrap();
            past.note(found.newest.as_ref(), &by(1, epoch));
        }
        claim_noted(&bucket, by(1, 30), &mut past).await.unwrap();
        // The last note is not forgotten, so neither is a put that arrives late.
        let found = look(&bucket, &by(1, 31), &past).await.unwrap();
        past.note(found.newest.as_ref(), &by(1, 31));
        let found_again = look(&bucket, &by(1, 32), &past).await.unwrap();
        past.note(found_again.newest.as_ref(), &by(1, 32));
        put(&bucket, by(1, 31), &past, found).await.unwrap();
        put(&bucket, by(1, 32), &past, found_again).await.unwrap();
        claim_noted(&bucket, by(1, 33), &mut past).await.unwrap();
    }

    #[tokio::test]
    async fn of_two_copies_that_start_together_one_has_the_bucket() {
        let bucket = Bucket::for_test();
        let mut one = Past::default();
        claim_noted(&bucket, by(1, 1), &mut one).await.unwrap();
        let mut other = one.clone();
        let found = look(&bucket, &by(1, 5), &one).await.unwrap();
        one.note(found.newest.as_ref(), &by(1, 5));
        claim_noted(&bucket, by(2, 2), &mut other).await.unwrap();
        let error = put(&bucket, by(1, 5), &one, found).await.unwrap_err();
        assert!(matches!(error, Error::Fenced { .. }), "{error}");
        let error = claim_noted(&bucket, by(1, 6), &mut one).await.unwrap_err();
        assert!(matches!(error, Error::Fenced { .. }), "{error}");
        claim_noted(&bucket, by(2, 3), &mut other).await.unwrap();
    }

    #[tokio::test]
    async fn old_claims_are_cleared_away() {
        let bucket = Bucket::for_test();
        for epoch in 1..=30 {
            claim(&bucket, of(0, epoch, None)).await.unwrap();
        }
        assert_eq!(bucket.list(&paths::claims(), None).await.unwrap().len(), CLAIMS_KEPT + 1);
    }
}
