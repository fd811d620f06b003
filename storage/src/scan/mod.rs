//! Rows out of hot and cold, each offset once.
//!
//! 1. [`Pinned::pin`] holds log and manifests of some partitions in one act ([`seam`]).
//! 2. [`plan`] says which row groups a request touches, from the manifest alone; [`parts`] shares them out.
//! 3. [`cold`] makes rows of those ([`parquet`] has their bytes, [`filter`] says which are of interest), [`hot`] of the log's
//!    batches, both what is [`request`]ed, the latter once for all scans ([`blocks`]) and all who read in passing
//!    ([`share`]); the seam puts one behind the other, and [`meter`] counts.
//! 4. [`cold_fetch`] makes Kafka's bytes of cold rows, for consumers that are behind; [`ahead`] has the rows ready, [`below`]
//!    goes on in the log.
//! 5. [`time`] finds an offset by its time on both sides; [`past`] leaves out what was committed after a time.

pub(crate) mod ahead;
mod below;
pub(crate) mod blocks;
mod cold;
mod cold_fetch;
pub(crate) mod filter;
mod hot;
pub(crate) mod meter;
mod parquet;
pub(crate) mod parts;
mod past;
mod plan;
mod request;
mod seam;
mod select;
pub(crate) mod share;
#[cfg(test)]
mod tests;
mod time;

pub(crate) use below::fetch as fetch_below;
pub use filter::{ColumnBounds, GroupFilter, GroupStatistics};
pub use meter::{ScanCounts, ScanMeter};
pub use parts::{PartBounds, ScanPart};
pub use share::SharedDecoder;

pub(crate) use parquet::{read_footer, read_group, read_group_of};
pub(crate) use seam::Pinned;
pub(crate) use time::{Sought, find as find_by_time};
