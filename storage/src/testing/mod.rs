//! What tests need and production does not: faults on demand. Behind the feature `testing`.

mod disk;
pub mod fault;

pub use disk::FaultDisk;
