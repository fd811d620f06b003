//! What tests need and production does not: faults on demand. Behind the feature `testing`.

pub mod fault;
