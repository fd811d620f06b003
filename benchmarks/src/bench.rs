//! `Bench`: what all workloads of a run share, namely which binary, which directory and how much.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::failure::Result;
use crate::node::Node;
use crate::{Args, HistoryArgs};

/// Bytes of one record's key and value together.
pub(crate) const RECORD_BYTES: u64 = 1024;

/// Settings of a node that shall be measured alone: nothing is tiered meanwhile.
pub(crate) const HOT_SETTINGS: [(&str, &str); 2] =
    [("AQUIFER_TIER_BYTES_MIN", "1 TiB"), ("AQUIFER_TIER_AGE_MAX", "86400000")];

/// Settings of a node whose log keeps nothing that is tiered. A log forgets whole segments: small ones leave less.
pub(crate) const COLD_SETTINGS: [(&str, &str); 2] =
    [("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "0"), ("AQUIFER_WAL_SEGMENT_BYTES", "16 MiB")];

/// One run of the benchmarks.
pub(crate) struct Bench {
    binary: PathBuf,
    directory: TempDir,
    /// Records that a loaded node holds.
    pub(crate) records: u64,
    /// Records per kind of freshness.
    pub(crate) probes: u32,
    /// Partitions of the topics.
    pub(crate) partitions: i32,
    /// How long records are offered while they are tiered.
    pub(crate) tiering_seconds: u32,
    /// Log that a node is started with.
    pub(crate) start_gib: u32,
    /// How much the history suite writes and asks.
    pub(crate) history: HistoryArgs,
}

impl Bench {
    pub(crate) fn new(args: Args) -> Result<Self> {
        let Args { binary, directory, mib, probes, partitions, tiering_seconds, start_gib, history, .. } = args;
        // A debug build stands beside a debug build, whose numbers nobody wants by accident.
        if binary.is_none() && cfg!(debug_assertions) {
            return Err("this is a debug build: run `make bench`, or name a --binary".into());
        }
        let beside = std::env::current_exe()?.with_file_name("aquifer");
        let binary = binary.unwrap_or(beside).canonicalize()?;
        let directory = match (directory, binary.parent()) {
            (Some(directory), _) => directory,
            (None, Some(beside)) => beside.to_owned(),
            (None, None) => PathBuf::from("."),
        };
        let directory = TempDir::with_prefix_in("aquifer-bench-", directory)?;
        let records = u64::from(mib) * (1 << 20) / RECORD_BYTES;
        Ok(Self { binary, directory, records, probes, partitions, tiering_seconds, start_gib, history })
    }

    /// Where nodes keep their data.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Bytes of keys and values that a loaded node holds.
    pub(crate) fn bytes(&self) -> u64 {
        self.records * RECORD_BYTES
    }

    /// A node in a directory of its own, with these settings beside the defaults.
    pub(crate) fn start_node(&self, environment: &[(&'static str, &'static str)]) -> Result<Node> {
        Node::start(self.binary.clone(), self.fresh_directory("node-")?, environment, None)
    }

    /// The same on these processors only.
    pub(crate) fn start_node_on(
        &self,
        processors: &'static str,
        environment: &[(&'static str, &'static str)],
    ) -> Result<Node> {
        Node::start(self.binary.clone(), self.fresh_directory("node-")?, environment, Some(processors))
    }

    /// An empty directory on the disk that is measured, removed when dropped.
    pub(crate) fn fresh_directory(&self, prefix: &str) -> Result<TempDir> {
        Ok(TempDir::with_prefix_in(prefix, self.directory())?)
    }

    /// Version and commit as the binary tells them.
    pub(crate) fn version(&self) -> Result<String> {
        let output = Command::new(&self.binary).arg("--version").output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
