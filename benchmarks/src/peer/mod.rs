//! Peers: the systems ours is compared with, each started by the benchmarks in a directory of its own on the same disk.
//!
//! `peers/install` puts them in place. One that is not there is told as absent and left out, never guessed.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::failure::Result;

pub(crate) mod duckdb;
pub(crate) mod kafka;
pub(crate) mod nats;
pub(crate) mod rabbitmq;
pub(crate) mod redis;

/// Longest that a peer may take to listen.
const PATIENCE: Duration = Duration::from_secs(120);
const LISTEN_POLL: Duration = Duration::from_millis(50);

/// A running peer; killed when dropped, its data with it.
pub(crate) struct Process {
    child: Child,
    directory: TempDir,
}

impl Process {
    #[expect(clippy::disallowed_methods, reason = "a peer does not tell when it listens; the wait has a limit")]
    /// Starts `command` in `directory`, and waits until something listens on `port`.
    pub(crate) fn start(mut command: Command, directory: TempDir, port: u16) -> Result<Self> {
        let log = File::create(log_path(directory.path()))?;
        // Some start others: a group of its own, so that none is left.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(directory.path());
        let mut process = Self { child: command.spawn()?, directory };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = process.child.try_wait()? {
                return Err(format!("{command:?} ended with {status}: {}", process.log()).into());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{command:?} did not listen in {PATIENCE:?}: {}", process.log()).into());
            }
            std::thread::sleep(LISTEN_POLL);
        }
        Ok(process)
    }

    /// Resident memory, as the kernel counts it.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        crate::machine::resident_bytes(self.child.id())
    }

    /// CPU time used since it was started.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        crate::machine::cpu_time(self.child.id())
    }

    fn log(&self) -> String {
        fs::read_to_string(log_path(self.directory.path())).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; nothing depends on how. The standard library kills no groups.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("peer.log")
}

/// A port nobody listens on now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Where `peers/install` puts a peer.
pub(crate) fn folder(peer: &str) -> Option<PathBuf> {
    match std::env::var_os("AQUIFER_PEERS") {
        Some(folder) => Some(PathBuf::from(folder).join(peer)),
        // Beside the profile's folder, where the binaries lie.
        None => Some(std::env::current_exe().ok()?.parent()?.parent()?.join("peers").join(peer)),
    }
}

/// The first of these programs on the path.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Where Debian keeps servers.
    folders.push(PathBuf::from("/usr/sbin"));
    folders.into_iter().map(|folder| folder.join(program)).find(|file| file.is_file())
}
