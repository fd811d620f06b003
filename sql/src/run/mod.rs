//! Statements that end: rows and tags.

pub(crate) mod alter;
pub(crate) mod conflict;
pub(crate) mod contended;
pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod define;
pub(crate) mod infer;
pub(crate) mod insert;
mod literal;
pub(crate) mod nested;
pub(crate) mod query;
pub(crate) mod returning;
pub(crate) mod rule;
pub(crate) mod shape;
pub(crate) mod show;
pub(crate) mod transaction;
pub(crate) mod vacuum;
mod value;
pub(crate) mod values;
pub(crate) mod weight;
