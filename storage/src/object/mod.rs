//! Bytes under names that are written once: the bucket, whatever it stands on.
//!
//! Nothing here knows what the bytes mean. What every stored thing of ours has in common lives here too: the
//! names of things, and the claim that says whose bucket this is.

pub(crate) mod bucket;
pub(crate) mod cache;
pub(crate) mod claim;
pub(crate) mod local;
pub(crate) mod meter;
pub(crate) mod open;
pub(crate) mod past;
pub(crate) mod paths;
pub(crate) mod ranges;
mod remote;
pub(crate) mod retry;
