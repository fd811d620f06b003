//! `Engine`: the one door to SQL. It makes sessions, runs continuous queries, and knows what relations there are.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use aquifer_storage::Storage;
use aquifer_storage::settings::SettingInfo;
use datafusion::execution::session_state::SessionState;
use parking_lot::Mutex;

use crate::catalog::Catalog;
use crate::catalog::sessions::Sessions;
use crate::error::Result;
use crate::function::session_state;
use crate::limit::Limits;
pub use crate::limit::QuerySettings;
use crate::run::contended::Contended;
use crate::run::shape::Shape;
use crate::session::Session;
use crate::stream::Supervisor;

/// Folder in the data directory for what queries do not find room for in memory; empty at every start.
const SPILL_DIR: &str = "spill";

/// What the engine is told.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Rows that `SHOW ALL` adds to the session's own: the node's settings.
    pub node_settings: Vec<SettingInfo>,
    /// Version and commit, for `version()`.
    pub version: String,
    /// What queries may take.
    pub queries: QuerySettings,
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

/// What sessions share.
#[derive(Debug)]
pub(crate) struct Inner {
    /// What lasts.
    pub(crate) storage: Storage,
    /// Relations.
    pub(crate) catalog: Arc<Catalog>,
    /// Continuous queries.
    pub(crate) supervisor: Arc<Supervisor>,
    /// Functions, configuration, memory.
    pub(crate) state: SessionState,
    /// What queries may take, and what they take now.
    pub(crate) limits: Arc<Limits>,
    /// The node's settings.
    pub(crate) node_settings: Arc<Vec<SettingInfo>>,
    /// For `version()`.
    pub(crate) version: String,
    /// Statements that were overtaken at a table.
    pub(crate) contended: Contended,
    /// How relations are written, as of a version of the catalog.
    pub(crate) shapes: Mutex<(u64, HashMap<String, Arc<Shape>>)>,
    /// Whose turn it is to take records without a key: one partition per statement.
    pub(crate) keyless_turn: AtomicU64,
    /// Who is connected.
    pub(crate) sessions: Arc<Sessions>,
}

impl Engine {
    /// Reads the catalog, starts the continuous queries.
    ///
    /// # Errors
    /// What storage says; 58030 if there is no folder to spill into.
    pub async fn open(storage: Storage, options: EngineOptions) -> Result<Self> {
        let memory_bytes = storage.settings().query_memory_bytes();
        let spill_dir = storage.log_dir().with_file_name(SPILL_DIR);
        let limits = Arc::new(Limits::open(options.queries, memory_bytes, &spill_dir)?);
        let state = session_state(&limits)?;
        let catalog = Arc::new(Catalog::new(storage.clone()));
        let declared: Weak<Catalog> = Arc::downgrade(&catalog);
        storage.declare_columns(declared);
        let keyed: Weak<Catalog> = Arc::downgrade(&catalog);
        storage.keep_state(keyed);
        let supervisor = Arc::new(Supervisor::new(Arc::clone(&catalog)));
        let holding: Weak<Supervisor> = Arc::downgrade(&supervisor);
        storage.hold_back(holding);
        supervisor.start_all(&state).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                storage,
                catalog,
                supervisor,
                state,
                limits,
                node_settings: Arc::new(options.node_settings),
                version: options.version,
                contended: Contended::default(),
                shapes: Mutex::default(),
                keyless_turn: AtomicU64::new(0),
                sessions: Arc::default(),
            }),
        })
    }

    /// A session for one connection.
    #[must_use]
    pub fn session(&self, options: SessionOptions) -> Session {
        Session::new(Arc::clone(&self.inner), options)
    }

    /// Stops the continuous queries; what they have committed stays.
    pub async fn close(&self) {
        self.inner.supervisor.close().await;
    }
}
