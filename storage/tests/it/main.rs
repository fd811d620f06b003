//! The storage through its door: what is acknowledged is there, once, at its offset, hot or cold, whatever happens to the
//! process and the disk.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]
#![allow(clippy::disallowed_methods, reason = "what is tested from outside runs on tokio itself")]

mod commits;
mod damaged_roots;
mod faults;
mod fence;
mod full_disk;
mod fuzz;
mod held;
mod housekeeping;
mod kept;
mod keyed;
mod large_commits;
mod offsets;
mod past;
mod records;
mod restarts;
mod shown;
mod support;
mod takeover;
mod tiering;
mod times;
mod topics;
mod transactions;
mod typed;
