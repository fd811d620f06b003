//! Rows out of hot and cold, each offset once.
//!
//! 1. [`Pinned::pin`] holds log and manifests of some partitions in one act ([`seam`]).
//! 2. [`plan`] says which row groups a request touches, from the manifest alone.
//! 3. [`parquet`] reads those, [`hot`] the log's batches; the seam puts one behind the other.
//! 4. [`cold_fetch`] makes Kafka's bytes of cold rows, for consumers that are behind; [`ahead`] has the rows ready, [`below`]
//!    goes on in the log.
//! 5. [`time`] finds an offset by its time on both sides; [`past`] leaves out what was committed after a time.

pub(crate) mod ahead;
mod below;
mod cold_fetch;
mod hot;
mod parquet;
mod past;
mod plan;
mod seam;
#[cfg(test)]
mod tests;
mod time;

pub(crate) use below::fetch as fetch_below;
pub(crate) use parquet::{read_footer, read_group, read_group_of};
pub(crate) use seam::Pinned;
pub(crate) use time::{Sought, find as find_by_time};
