//! Apache Kafka: one KRaft node, broker and controller in one process, from the jars that `peers/install` has fetched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::failure::Result;
use crate::peer::{Process, free_port};

/// Any id will do: the directory is fresh and nobody joins.
const CLUSTER_ID: &str = "5L6g3nShT-eMCtK--X86sw";
/// Kafka's own default in its start script.
const HEAP: &str = "1g";

/// When Kafka makes durable what it acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// As it comes: whenever the operating system writes back.
    AsItComes,
    /// `flush.messages=1`: before the acknowledgement, as ours.
    Equal,
}

/// A running Kafka.
pub(crate) struct Kafka {
    pub(crate) process: Process,
    /// `HOST:PORT`.
    pub(crate) address: String,
}

/// Where the jars are, if they are there.
pub(crate) fn jars() -> Option<PathBuf> {
    let folder = super::folder("kafka")?;
    folder.join("installed").is_file().then_some(folder)
}

impl Kafka {
    /// Formats a directory and starts a node on it.
    pub(crate) fn start(jars: &Path, directory: TempDir, durability: Durability) -> Result<Self> {
        let (port, controller) = (free_port()?, free_port()?);
        let settings = directory.path().join("server.properties");
        fs::write(&settings, properties(directory.path(), port, controller, durability))?;
        let java = |main: &str| {
            let mut command = Command::new("java");
            command.arg(format!("-Xmx{HEAP}")).arg(format!("-Xms{HEAP}")).args(["-XX:+UseG1GC", "-cp"]);
            command.arg(jars.join("*")).arg(main);
            command
        };
        let formatted =
            java("kafka.tools.StorageTool").args(["format", "-t", CLUSTER_ID, "-c"]).arg(&settings).output()?;
        if !formatted.status.success() {
            return Err(format!("Kafka could not format: {}", String::from_utf8_lossy(&formatted.stderr)).into());
        }
        let mut command = java("kafka.Kafka");
        command.arg(&settings);
        Ok(Self { process: Process::start(command, directory, port)?, address: format!("127.0.0.1:{port}") })
    }
}

fn properties(directory: &Path, port: u16, controller: u16, durability: Durability) -> String {
    let flush = match durability {
        Durability::AsItComes => "",
        Durability::Equal => "log.flush.interval.messages=1\n",
    };
    format!(
        "process.roles=broker,controller\nnode.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         log.dirs={}\n\
         offsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n\
         socket.send.buffer.bytes=1048576\nsocket.receive.buffer.bytes=1048576\n{flush}",
        directory.join("data").display()
    )
}
