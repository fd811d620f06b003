//! What tests need and production does not: faults on demand, simulations by seed, readers fed with anything. Behind the
//! feature `testing`.

pub mod chance;
mod disk;
pub mod fault;
pub mod fuzz;
pub mod schedule;

pub use disk::FaultDisk;
