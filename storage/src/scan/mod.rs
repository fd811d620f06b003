//! Rows out of hot and cold, each offset once.

/// What a snapshot holds on to.
#[derive(Debug)]
pub(crate) struct Pinned {}
