//! What a statement reads: by itself one cut of all its topics; in a transaction block that and the block's own writes.
//!
//! A block's isolation is READ COMMITTED, Postgres's default, and nothing stronger is promised:
//! - Each statement pins its own cut when it begins: whatever was acknowledged before, of everybody. Two statements of a block
//!   may see different rows of others, and never half of a commit.
//! - Behind that cut it reads what the block has written so far, as if it had been committed at that moment: of a stream these
//!   rows are appended, of a table they are the latest of their keys. Their offsets are pending: those that they would have if
//!   the block committed now. What savepoints took back is not among them.
//! - Nobody else reads any of it before COMMIT: other sessions, push queries (this session's too), continuous queries,
//!   `FOR SYSTEM_TIME AS OF`, and `aquifer.position`.
//! - A row that UPDATE, DELETE or ON CONFLICT has read and written back is watched from before it was read: COMMIT answers 40001
//!   if somebody else has written its key since. Rows that were only read are not watched.
//!
//! All of it rests on the writes lying in memory. Of a topic for which a block has written so much that it let records go to the
//! log, statements that would read them are refused: an answer without them would be wrong.

use std::collections::HashMap;
use std::sync::Arc;

use aquifer_storage::{Snapshot, TopicId};

use super::Session;
use crate::error::{Error, Result, SqlState};
use crate::plan::bind::Bound;

impl Session {
    /// The plan as this statement is to run it.
    ///
    /// # Errors
    /// 54000 for what the block has written and let go.
    pub(super) fn reading(&self, bound: Arc<Bound>) -> Result<Arc<Bound>> {
        self.refuse_let_go(&bound.topics)?;
        let own = self.block.as_ref().map(|block| block.writing.pending.appends_to(&bound.topics));
        match own.filter(|own| !own.is_empty()) {
            Some(own) => Ok(Arc::new(bound.with_own(own))),
            None => Ok(bound),
        }
    }

    /// One topic, as a statement of this session reads it.
    ///
    /// # Errors
    /// As [`Session::reading`].
    pub(super) fn snapshot_of(&self, topic: TopicId) -> Result<Snapshot> {
        self.refuse_let_go(&[topic])?;
        let storage = &self.engine.storage;
        let snapshot = storage.snapshot(&[topic], &HashMap::new())?;
        let own = self.block.as_ref().map(|block| block.writing.pending.appends_to(&[topic]));
        match own.filter(|own| !own.is_empty()) {
            Some(own) => Ok(snapshot.with_own(&own, storage.clock().now_us())?),
            None => Ok(snapshot),
        }
    }

    /// Refuses to read what the block cannot read its own writes of any more.
    ///
    /// # Errors
    /// 54000.
    pub(super) fn refuse_let_go(&self, topics: &[TopicId]) -> Result<()> {
        let Some(topic) = self.block.as_ref().and_then(|block| block.writing.let_go(topics)) else { return Ok(()) };
        let known = self.engine.storage.topics();
        let name = known.iter().find(|known| known.id == topic).map_or("a topic", |topic| topic.name.as_str());
        let message = format!("the transaction block has written more to {name} than it keeps in memory to be read");
        Err(Error::new(SqlState::ProgramLimitExceeded, message)
            .with_hint("COMMIT before reading it, or raise wal.commit_bytes_max"))
    }
}
