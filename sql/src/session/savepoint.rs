//! Savepoints: a block's records and settings as they were at a name. Definitions have taken effect at once and stay.

use super::{Outcome, Session};
use crate::error::{Error, Result, SqlState};
use crate::run::insert::Mark;
use crate::settings::SessionSettings;

/// Savepoints a block may have at once.
const SAVEPOINTS_MAX: usize = 1000;

/// A place in a block to which it can go back.
#[derive(Debug)]
pub(super) struct Savepoint {
    name: String,
    mark: Mark,
    settings: SessionSettings,
    cursors_declared: u64,
}

impl Session {
    pub(super) fn savepoint(&mut self, name: &str) -> Result<Outcome> {
        let (settings, cursors_declared) = (self.settings.clone(), self.cursors_declared);
        let Some(block) = &mut self.block else { return Err(no_block("SAVEPOINT")) };
        if block.savepoints.len() >= SAVEPOINTS_MAX {
            let message = format!("a block has at most {SAVEPOINTS_MAX} savepoints");
            return Err(Error::new(SqlState::ProgramLimitExceeded, message).with_hint("RELEASE some"));
        }
        let (name, mark) = (name.to_owned(), block.writing.pending.mark());
        block.savepoints.push(Savepoint { name, mark, settings, cursors_declared });
        Ok(Outcome::Done("SAVEPOINT".to_owned()))
    }

    /// Forgets a savepoint and those after it; what they cover stays in the block.
    pub(super) fn release(&mut self, name: &str) -> Result<Outcome> {
        let Some(block) = &mut self.block else { return Err(no_block("RELEASE SAVEPOINT")) };
        let place = place_of(&block.savepoints, name)?;
        block.savepoints.truncate(place);
        Ok(Outcome::Done("RELEASE".to_owned()))
    }

    /// Goes back to a savepoint, which stays; a failed block goes on from there.
    pub(super) fn rollback_to(&mut self, name: &str) -> Result<Outcome> {
        let Some(block) = &mut self.block else { return Err(no_block("ROLLBACK TO SAVEPOINT")) };
        let place = place_of(&block.savepoints, name)?;
        block.savepoints.truncate(place + 1);
        block.failed = false;
        if let Some(savepoint) = block.savepoints.last() {
            let declared = savepoint.cursors_declared;
            block.writing.pending.truncate(&savepoint.mark);
            self.settings.restore(&savepoint.settings);
            self.forget_cursors(declared);
        }
        Ok(Outcome::Done("ROLLBACK".to_owned()))
    }
}

fn place_of(savepoints: &[Savepoint], name: &str) -> Result<usize> {
    savepoints
        .iter()
        .rposition(|savepoint| savepoint.name == name)
        .ok_or_else(|| Error::new(SqlState::InvalidSavepoint, format!("savepoint \"{name}\" does not exist")))
}

fn no_block(words: &str) -> Error {
    Error::new(SqlState::NoActiveTransaction, format!("{words} can only be used in transaction blocks"))
        .with_hint("send BEGIN first")
}
