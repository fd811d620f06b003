//! Statements that end: rows and tags.

pub(crate) mod alter;
pub(crate) mod define;
pub(crate) mod infer;
pub(crate) mod insert;
pub(crate) mod nested;
pub(crate) mod query;
pub(crate) mod show;
pub(crate) mod transaction;
pub(crate) mod vacuum;
