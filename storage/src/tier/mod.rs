//! Hot to cold: the worker that makes Parquet of what is stable, and the cold part it has made.

use std::sync::Arc;

use crate::error::Result;
use crate::log::Node;
use crate::storage::OpenOptions;
use crate::view::{CheckpointReport, ObjectInfo};

/// The cold part of a storage: object store, manifests, worker.
#[derive(Debug)]
pub(crate) struct Tier {}

impl Tier {
    /// Opens the object store, checks that it belongs to the node, loads manifests, tells the node what is tiered
    /// ([`Node::set_tiered_end`]), starts the worker.
    pub(crate) async fn open(node: Arc<Node>, options: &OpenOptions) -> Result<Arc<Self>> {
        let _ = (node, options);
        Ok(Arc::new(Self {}))
    }

    /// Stops the worker.
    pub(crate) async fn close(&self) {}

    /// Tiers all that is stable now.
    pub(crate) async fn checkpoint(&self) -> Result<CheckpointReport> {
        todo!("tier")
    }

    /// The live objects.
    pub(crate) fn objects(&self) -> Vec<ObjectInfo> {
        todo!("tier")
    }
}
