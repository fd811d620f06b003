//! What queries may take of the node, and who waits when they want more: memory and disk ([`memory`]), how many read much
//! at once ([`turn`]), whose threads they compute on ([`threads`]), and how long they compute without a pause ([`slice`], [`stop`]).
//!
//! A query is *heavy* once it has read `query.heavy_rows` rows. Whoever reads less never waits for anybody.

pub(crate) mod memory;
pub(crate) mod slice;
pub(crate) mod stop;
pub(crate) mod threads;
pub(crate) mod turn;

use std::path::Path;
use std::sync::Arc;

use aquifer_storage::settings;
use datafusion::execution::runtime_env::RuntimeEnv;

use crate::error::Result;
use threads::Threads;
use turn::Turns;

settings! {
    /// What queries may take.
    pub struct QuerySettings {
        heavy_rows: u64 = 100_000, "query.heavy_rows", "rows", "rows that a query may read before it counts as heavy; with less it waits for nobody";
        heavy_max: usize = 4, "query.heavy_max", "queries", "heavy queries that read at once; more wait";
        heavy_queue_max: usize = 64, "query.heavy_queue_max", "queries", "heavy queries that wait for their turn to read; more are answered 53400";
        spill_bytes_max: u64 = 16 << 30, "query.spill_bytes_max", "bytes", "disk for what sorts, joins and groups do not find room for in memory; more is answered 53400";
    }
}

/// The limits of one node's queries.
#[derive(Debug)]
pub(crate) struct Limits {
    /// In force.
    settings: QuerySettings,
    /// Memory and disk.
    runtime: Arc<RuntimeEnv>,
    /// Who may read.
    turns: Arc<Turns>,
    /// Where heavy queries compute.
    threads: Threads,
}

/// How much of one limit is taken, for `aquifer.limits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Of what.
    pub(crate) name: &'static str,
    /// What it is set by.
    pub(crate) setting: &'static str,
    /// Of the numbers.
    pub(crate) unit: &'static str,
    /// Taken now.
    pub(crate) used: u64,
    /// The limit.
    pub(crate) max: u64,
    /// Who waits for it.
    pub(crate) waiting: u64,
    /// How often it was refused since the start.
    pub(crate) refused: u64,
}

impl Limits {
    /// Limits of a node that leaves queries so much memory; what they spill goes to `spill_dir`.
    ///
    /// # Errors
    /// 58030 if the folder cannot be made empty.
    pub(crate) fn open(settings: QuerySettings, memory_bytes: u64, spill_dir: &Path) -> Result<Self> {
        let runtime = memory::runtime(memory_bytes, spill_dir, settings.spill_bytes_max)?;
        Ok(Self { turns: Arc::new(Turns::new(&settings)), runtime, threads: Threads::start(), settings })
    }

    /// Memory and disk, as DataFusion takes them.
    pub(crate) fn runtime(&self) -> Arc<RuntimeEnv> {
        Arc::clone(&self.runtime)
    }

    /// In force.
    pub(crate) fn settings(&self) -> &QuerySettings {
        &self.settings
    }

    /// Who may read.
    pub(crate) fn turns(&self) -> &Arc<Turns> {
        &self.turns
    }

    /// Where heavy queries compute.
    pub(crate) fn threads(&self) -> &Threads {
        &self.threads
    }

    /// How much is taken of each.
    pub(crate) fn taken(&self) -> Vec<Taken> {
        let (memory, disk) = (self.runtime.memory_pool.as_ref(), self.runtime.disk_manager.as_ref());
        let refused = memory::refused(&self.runtime);
        vec![
            Taken {
                name: "query_memory",
                setting: memory::SETTING,
                unit: "bytes",
                used: memory.reserved() as u64,
                max: memory::limit(&self.runtime),
                waiting: 0,
                refused,
            },
            Taken {
                name: "query_spill",
                setting: "query.spill_bytes_max",
                unit: "bytes",
                used: disk.used_disk_space(),
                max: self.settings.spill_bytes_max,
                waiting: 0,
                refused: 0,
            },
            self.turns.taken(),
        ]
    }
}
