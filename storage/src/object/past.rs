//! What a data directory knows of its own claims of a bucket.
//!
//! The newest claim of a bucket must be one that this very directory made. If another copy of it made that claim, the log
//! here lacks what was acknowledged there, whatever the numbers of the epochs say: each start raises an epoch, also one
//! that is refused. So a directory notes each claim before it makes it, and a claim that it did not note is not its own.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::WriterEpoch;
use crate::object::claim::Claim;

/// Claims that are remembered beside the one of the last start that went well: each start that failed has noted one, and
/// may have made it.
const NOTED_MAX: usize = 64;

/// A claim, as the directory that makes it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    epoch: WriterEpoch,
    attempt: Uuid,
}

impl From<&Claim> for Noted {
    fn from(claim: &Claim) -> Self {
        Self { epoch: claim.epoch, attempt: claim.attempt }
    }
}

/// See the top of this file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Past {
    /// Of the last start that went well: however often it fails with another object store, this one is remembered.
    settled: Option<Noted>,
    /// Since then, in the order in which they were noted.
    noted: Vec<Noted>,
    /// Claims up to this epoch are believed to be its own: it was opened by programs that noted none.
    unnoted: WriterEpoch,
}

impl Default for Past {
    /// Of a directory that has never claimed anything.
    fn default() -> Self {
        Self::unnoted(WriterEpoch(0))
    }
}

impl Past {
    /// Of a directory that was opened up to this epoch by programs that noted nothing.
    pub(crate) fn unnoted(epoch: WriterEpoch) -> Self {
        Self { settled: None, noted: Vec::new(), unnoted: epoch }
    }

    /// Whether the directory made this claim, or may have.
    pub(crate) fn knows(&self, claim: &Claim) -> bool {
        let claim = Noted::from(claim);
        claim.epoch <= self.unnoted || self.settled == Some(claim) || self.noted.contains(&claim)
    }

    /// Whether the directory made a claim of this epoch, or may have: for who cannot read the claim.
    pub(crate) fn knows_epoch(&self, epoch: WriterEpoch) -> bool {
        epoch <= self.unnoted || self.settled.iter().chain(&self.noted).any(|noted| noted.epoch == epoch)
    }

    /// Whether it may ever have claimed a bucket.
    pub(crate) fn has_claimed(&self) -> bool {
        self.settled.is_some() || !self.noted.is_empty() || self.unnoted > WriterEpoch(0)
    }

    /// Notes the claim to be made next, and keeps the newest one in the bucket: until the next one is made, that is the one
    /// to be found there.
    pub(crate) fn note(&mut self, newest: Option<&Claim>, next: &Claim) {
        let newest = newest.map(Noted::from);
        let mut left = (self.noted.len() + 1).saturating_sub(NOTED_MAX);
        self.noted.retain(|noted| {
            let goes = left > 0 && Some(*noted) != newest;
            left -= usize::from(goes);
            !goes
        });
        if let Some(newest) = newest.filter(|newest| !self.noted.contains(newest)) {
            self.noted.insert(0, newest);
        }
        self.noted.push(Noted::from(next));
    }

    /// A start went well with this claim: it is the one to be found in the bucket.
    pub(crate) fn settle(&mut self, made: &Claim) {
        self.settled = Some(Noted::from(made));
        self.noted.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(epoch: u64) -> Claim {
        Claim::for_test(Uuid::nil(), WriterEpoch(epoch))
    }

    #[test]
    fn the_claim_in_the_bucket_is_remembered_however_many_are_noted_and_not_made() {
        let mut past = Past::default();
        assert!(!past.has_claimed());
        past.note(None, &of(1));
        for epoch in 2..200 {
            past.note(Some(&of(1)), &of(epoch));
            assert!(past.knows(&of(1)) && past.knows(&of(epoch)) && past.noted.len() <= NOTED_MAX + 1);
        }
        assert!(!past.knows(&of(2)), "long ago");
        let of_a_copy = Claim { attempt: Uuid::from_u128(7), ..of(199) };
        assert!(past.has_claimed() && !past.knows(&of_a_copy));
        past.settle(&of(199));
        assert!(past.knows(&of(199)) && !past.knows(&of(198)));
        assert!(past.knows_epoch(WriterEpoch(199)) && !past.knows_epoch(WriterEpoch(198)));
        // With other object stores, one after another.
        for epoch in 200..400 {
            past.note(None, &of(epoch));
        }
        assert!(past.knows(&of(199)) && past.has_claimed());
    }

    #[test]
    fn what_was_claimed_before_claims_were_noted_is_believed() {
        let mut past = Past::unnoted(WriterEpoch(5));
        assert!(past.has_claimed() && past.knows(&of(5)) && !past.knows(&of(6)));
        past.note(Some(&of(5)), &of(6));
        assert!(past.knows(&of(5)) && past.knows(&of(6)) && !past.knows(&of(7)));
    }
}
