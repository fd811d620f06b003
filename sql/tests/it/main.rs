//! SQL against a storage of its own: statements in, rows as text out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "clippy.toml allows these in functions marked as tests only, not in what tests share"
)]

mod blocks;
mod columns;
mod continuous;
mod cursors;
mod declared;
mod edges;
mod history;
mod housekeeping;
mod limits;
mod node;
mod oracle;
mod pruning;
mod queries;
mod replay;
mod spellings;
mod statements;
mod support;
mod tables;
mod travel;
mod writing;
mod year;
