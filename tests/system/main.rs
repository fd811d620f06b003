//! System tests: the real binary, a fresh directory, the clients that people use. One scenario, one file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "everything here is a test, its support too"
)]

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod analytics;
mod bad_input;
mod damage;
mod demo;
mod disk_full;
mod exactly_once;
mod guide;
mod history;
mod housekeeping;
mod kills;
mod limits;
mod object_store;
mod process;
mod readme;
mod relations;
mod seeing;
mod sessions;
mod statements;
mod tables;
mod takeover;
mod tidy;
mod time_travel;
mod transaction_kills;
mod transactions;
mod verify;
mod writing;
