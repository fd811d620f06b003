//! Statements that end: rows and tags.

pub(crate) mod contended;
pub(crate) mod define;
pub(crate) mod insert;
pub(crate) mod query;
pub(crate) mod returning;
pub(crate) mod show;
pub(crate) mod transaction;
pub(crate) mod vacuum;
