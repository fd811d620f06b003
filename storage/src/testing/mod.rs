//! What tests need and production does not: faults on demand, simulations by seed, readers fed with anything. Behind the
//! feature `testing`.

pub mod chance;
mod disk;
pub mod fault;
pub mod fuzz;
mod memory_disk;
pub mod schedule;
mod store;

pub use disk::FaultDisk;
pub use memory_disk::{DiskFaults, MemoryDisk};
pub use store::{SimStore, StoreCalls, StoreFaults};
