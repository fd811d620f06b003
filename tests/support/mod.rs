//! What every system test stands on: the real binary in a fresh directory, and clients to speak with it.

pub(crate) mod foreign;
pub(crate) mod kafka;
pub(crate) mod node;
pub(crate) mod proxy;
pub(crate) mod sql;
pub(crate) mod store;
pub(crate) mod wait;
