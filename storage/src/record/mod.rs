//! A record's bytes: Kafka's RecordBatch v2, checked once at the border and then only viewed.

pub mod batch;
pub mod columns;
mod compression;
pub(crate) mod form;
pub mod format;
pub(crate) mod rows;
