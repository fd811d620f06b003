//! Aquifer's storage: what lasts. One door, [`Storage`]; plain data around it.

pub mod clock;
pub mod error;
pub mod ids;
pub mod record;
pub mod settings;

mod commit;
mod envelope;
mod log;
mod manifest;
mod object;
mod scan;
mod state;
mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tier;
mod topic_config;
mod traffic;
mod verify;
mod view;
mod worker;

pub use crate::log::own::PARTITIONS_MAX;
pub use commit::*;
pub use error::{Error, ErrorKind, Result};
pub use ids::{OwnTopic, ProducerIdentity, TopicId, TopicPartition, WriterEpoch};
pub use log::LargeCommit;
pub use log::watch::Watch;
pub use scan::{
    ColumnBounds, GroupFilter, GroupStatistics, PartBounds, ScanCounts, ScanMeter, ScanPart, SharedDecoder,
};
pub use state::KeyedTables;
pub use storage::{OpenOptions, Snapshot, Storage};
pub use tier::{DeclaredColumns, HoldsBack};
pub use topic_config::*;
pub use traffic::{OTHER_TOPICS, TRAFFIC_TOPICS_MAX};
pub use verify::{Finding, Severity, Tell, VerifyReport, verify};
pub use view::*;
pub use worker::give_way;
