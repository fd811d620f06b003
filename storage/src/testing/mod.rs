//! What tests need and production does not: faults on demand, and simulations by seed. Behind the feature `testing`.

pub mod chance;
mod disk;
pub mod fault;
pub mod schedule;

pub use disk::FaultDisk;
