//! `Position`: how far a continuous query has read, one offset per source partition; it names the tick that comes next.
//!
//! Stored by the log beside the records the tick wrote, in one commit, as postcard behind a version byte. Never
//! renumber:
//!
//! | version | body |
//! |---|---|
//! | 1 | `ticks: u64, offsets: Vec<i64>` (index: source partition) |

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, SqlState};

const VERSION: u8 = 1;

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Ticks committed so far.
    pub(crate) ticks: u64,
    /// Next offset to read, per source partition; partitions added since may be missing, and stand at 0.
    pub(crate) offsets: Vec<i64>,
}

impl Position {
    /// Before the earliest record.
    pub(crate) fn start(partitions: i32) -> Self {
        Self { ticks: 0, offsets: vec![0; usize::try_from(partitions).unwrap_or(0)] }
    }

    /// The next offset to read of a partition; one that came later has been read to nowhere.
    pub(crate) fn at(&self, partition: i32) -> i64 {
        let index = usize::try_from(partition).ok();
        index.and_then(|index| self.offsets.get(index)).copied().unwrap_or(0)
    }

    /// Moves one partition's offset, whether or not it was there when the query was made.
    pub(crate) fn set(&mut self, partition: i32, offset: i64) {
        let Ok(index) = usize::try_from(partition) else { return };
        if index >= self.offsets.len() {
            self.offsets.resize(index + 1, 0);
        }
        self.offsets[index] = offset;
    }

    /// As stored.
    pub(crate) fn to_bytes(&self) -> Result<Bytes> {
        let body = postcard::to_extend(self, vec![VERSION]).map_err(|source| {
            Error::new(SqlState::InternalError, "a position cannot be written").with_source(source)
        })?;
        Ok(body.into())
    }

    /// Reads what is stored.
    ///
    /// # Errors
    /// XX001 for another version or damaged bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let damaged = |what: String| {
            Error::new(SqlState::DataCorrupted, what)
                .with_hint("TERMINATE the query and create it again under another name")
        };
        match bytes.split_first() {
            Some((&VERSION, body)) => postcard::from_bytes(body)
                .map_err(|source| damaged("a query's position does not parse".to_owned()).with_source(source)),
            Some((version, _)) => Err(damaged(format!("a query's position has version {version}, not {VERSION}"))),
            None => Err(damaged("a query's position is empty".to_owned())),
        }
    }
}

/// `0:120,1:98,2:133`, as `aquifer.queries` shows it.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (partition, offset) in self.offsets.iter().enumerate() {
            let comma = if partition == 0 { "" } else { "," };
            write!(f, "{comma}{partition}:{offset}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_as_it_was_stored_and_reads_as_text() {
        let position = Position { ticks: 7, offsets: vec![120, 98, i64::MAX] };
        assert_eq!(Position::from_bytes(&position.to_bytes().unwrap()).unwrap(), position);
        assert_eq!(Position { ticks: 0, offsets: vec![120, 98] }.to_string(), "0:120,1:98");
        assert_eq!(Position::start(3).to_string(), "0:0,1:0,2:0");
    }

    #[test]
    fn another_version_is_refused() {
        assert_eq!(Position::from_bytes(&[2, 0]).unwrap_err().state, SqlState::DataCorrupted);
        assert_eq!(Position::from_bytes(&[]).unwrap_err().state, SqlState::DataCorrupted);
        assert_eq!(Position::from_bytes(&[1, 0x80]).unwrap_err().state, SqlState::DataCorrupted);
    }
}
