//! Aquifer's storage: what lasts. One door, [`Storage`]; plain data around it.

pub mod clock;
pub mod error;
pub mod ids;
pub mod record;
pub mod settings;

mod commit;
mod log;
mod scan;
mod storage;
mod tier;
mod view;

pub use commit::*;
pub use error::{Error, ErrorKind, Result};
pub use ids::{OwnTopic, TopicId, TopicPartition, WriterEpoch};
pub use storage::{OpenOptions, Snapshot, Storage};
pub use view::*;
