//! The storage through its door: what is acknowledged is there, once, at its offset, whatever happens to the process
//! and the disk.

mod commits;
mod faults;
mod restarts;
mod support;
