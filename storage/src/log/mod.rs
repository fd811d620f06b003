//! The write-ahead log: one writer, one sync for all that waits.

/// One node's log and what is known from it.
#[derive(Debug)]
pub(crate) struct Node {}
