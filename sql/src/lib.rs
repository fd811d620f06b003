//! Aquifer's SQL: what a sentence means.

pub mod catalog;
pub mod engine;
pub mod error;
pub mod oid;
mod operator;
pub mod session;
pub mod settings;

mod function;
mod limit;
mod plan;
mod run;
mod statement;
mod stream;
mod table;
mod types;
pub mod written;
