//! Aquifer's SQL: what a sentence means.

pub mod catalog;
pub mod engine;
pub mod error;
pub mod session;
