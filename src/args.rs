//! The command line as typed. What it means together with environment and file is [`crate::config`]'s to say.

use std::path::PathBuf;

/// Version and commit, as `--version` and SQL's `version()` name them.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("AQUIFER_COMMIT"), ")");

/// A streaming database: Kafka in front, SQL over Postgres's protocol, Parquet beneath.
#[derive(Debug, clap::Parser)]
#[command(name = "aquifer", version = VERSION)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a node.
    Serve(ServeFlags),
    /// Run a node with a small shop that writes events into it, and print what to try.
    Demo(DemoFlags),
    /// Look, while no node runs, whether everything stored is whole. Exit code 0: it is; 1: it is not; 2: cannot look.
    Verify(VerifyFlags),
}

/// Flags that say where a node keeps what it keeps.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StoredFlags {
    /// TOML file with any of the settings [environment: AQUIFER_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for the log and, unless told otherwise, the objects [default: ./aquifer-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Where history goes: `s3://bucket/prefix`, `gs://…`, `az://…`, `file:///…`, or `memory:` to keep all of it in the log [default: objects below the data directory]
    #[arg(long, value_name = "URL")]
    pub object_store: Option<String>,
}

/// Flags of `serve`. Each is also `AQUIFER_…` in the environment and a key of the TOML file; the flag wins, then the
/// environment, then the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeFlags {
    /// Where it keeps what it keeps.
    #[command(flatten)]
    pub stored: StoredFlags,
    /// Begin from the object store alone if the data directory is empty: from its newest checkpoint. Make sure first that the node that used it is stopped [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub take_over: Option<String>,
    /// Where Kafka clients connect; port 0 takes a free one [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka_addr: Option<String>,
    /// What Kafka clients are told to connect to [default: the address listened on]
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka_advertised: Option<String>,
    /// Where psql and Postgres drivers connect [default: 127.0.0.1:5433]
    #[arg(long, value_name = "HOST:PORT")]
    pub postgres_addr: Option<String>,
    /// Where /health, /ready and /metrics answer [default: 127.0.0.1:8081]
    #[arg(long, value_name = "HOST:PORT")]
    pub http_addr: Option<String>,
}

impl ServeFlags {
    /// The flags that were given, under the names that the environment and the file use for them.
    pub(crate) fn given(&self) -> Vec<(&'static str, &str)> {
        [
            ("data_dir", &self.stored.data_dir),
            ("object_store", &self.stored.object_store),
            ("take_over", &self.take_over),
            ("kafka_addr", &self.kafka_addr),
            ("kafka_advertised", &self.kafka_advertised),
            ("postgres_addr", &self.postgres_addr),
            ("http_addr", &self.http_addr),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
        .collect()
    }
}

/// Flags of `demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoFlags {
    /// Those of `serve`.
    #[command(flatten)]
    pub serve: ServeFlags,
    /// Events per second
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: u32,
}

/// Flags of `verify`.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyFlags {
    /// Those of the node that wrote it; nothing cold is looked at for `memory:`.
    #[command(flatten)]
    pub stored: StoredFlags,
    /// Share of the objects whose data are read too, 0 to 1; all else is always read
    #[arg(long, value_name = "FRACTION", default_value_t = 1.0)]
    pub sample: f64,
}
