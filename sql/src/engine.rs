//! `Engine`: the one door to SQL. It makes sessions, runs continuous queries, and knows what relations there are.

use std::sync::Arc;

use aquifer_storage::Storage;
use aquifer_storage::settings::SettingInfo;

use crate::error::Result;
use crate::session::Session;

/// What the engine is told.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Rows that `SHOW ALL` adds to the session's own: the node's settings.
    pub node_settings: Vec<SettingInfo>,
    /// Version and commit, for `version()`.
    pub version: String,
}

/// Who connects.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// As the client says; any is accepted.
    pub user: String,
    /// As the client says; any is accepted and called `aquifer`.
    pub database: String,
    /// As the client says.
    pub application_name: String,
    /// Address of the client.
    pub client_addr: String,
    /// `pg_backend_pid()`.
    pub backend_pid: i32,
}

/// The SQL engine of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    storage: Storage,
    options: EngineOptions,
}

impl Engine {
    /// Reads the catalog, starts the continuous queries.
    ///
    /// # Errors
    /// What storage says.
    pub async fn open(storage: Storage, options: EngineOptions) -> Result<Self> {
        Ok(Self { inner: Arc::new(Inner { storage, options }) })
    }

    /// A session for one connection.
    #[must_use]
    pub fn session(&self, options: SessionOptions) -> Session {
        let _ = (&self.inner.storage, &self.inner.options, options);
        todo!("engine")
    }

    /// Stops the continuous queries; what they have committed stays.
    pub async fn close(&self) {}
}
