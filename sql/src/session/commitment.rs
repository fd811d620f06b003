//! `Commitment`: the point of no return of one statement. Whoever cancels it and the statement itself agree on one of two
//! ends: it was cancelled and wrote nothing, or its commit is with the log and its answer is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Error, Result, SqlState};

const OPEN: u8 = 0;
const COMMITTED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// One statement's. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Commitment(Arc<AtomicU8>);

impl Commitment {
    /// The statement hands a commit to the log.
    ///
    /// # Errors
    /// 57014 if it was given up before.
    pub(crate) fn commit(&self) -> Result<()> {
        match self.0.compare_exchange(OPEN, COMMITTED, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(COMMITTED) => Ok(()),
            Err(_) => Err(Error::new(SqlState::QueryCanceled, "canceling statement due to user request")),
        }
    }

    /// Gives the statement up. `false` if its commit is with the log: then its answer is to be waited for.
    #[must_use]
    pub fn give_up(&self) -> bool {
        self.0.compare_exchange(OPEN, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire) != Err(COMMITTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_either_given_up_or_committed() {
        let given_up = Commitment::default();
        assert!(given_up.give_up());
        assert_eq!(given_up.commit().unwrap_err().state, SqlState::QueryCanceled);
        assert!(given_up.give_up(), "once more changes nothing");
        let committed = Commitment::default();
        committed.commit().unwrap();
        assert!(!committed.clone().give_up());
        committed.commit().unwrap();
    }
}
