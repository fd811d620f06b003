//! A node under measurement: the real binary in a directory of its own, on free ports, stopped when dropped.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::failure::Result;

/// Longest that a node may take to become ready or to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a process that shall end is looked at.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// Lines of the node's log that a failure shows.
const LOG_LINES_SHOWN: usize = 20;

/// A running node.
pub(crate) struct Node {
    binary: PathBuf,
    directory: TempDir,
    environment: Vec<(&'static str, &'static str)>,
    /// Those it may run on, if not all.
    processors: Option<&'static str>,
    child: Child,
    /// `HOST:PORT` of Kafka.
    pub(crate) kafka: String,
    /// `HOST:PORT` of Postgres.
    pub(crate) postgres: String,
    /// From the process's start to its `ready`.
    pub(crate) start_time: Duration,
}

/// What a process told when it was ready.
struct Ready {
    child: Child,
    kafka: String,
    postgres: String,
    start_time: Duration,
}

impl Node {
    pub(crate) fn start(
        binary: PathBuf,
        directory: TempDir,
        environment: &[(&'static str, &'static str)],
        processors: Option<&'static str>,
    ) -> Result<Self> {
        let ready = spawn(&binary, directory.path(), environment, processors)?;
        Ok(Self {
            binary,
            directory,
            environment: environment.to_vec(),
            processors,
            child: ready.child,
            kafka: ready.kafka,
            postgres: ready.postgres,
            start_time: ready.start_time,
        })
    }

    /// Starts the process again on the same directory; it must have ended.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        let ready = spawn(&self.binary, self.directory.path(), &self.environment, self.processors)?;
        self.child = ready.child;
        self.kafka = ready.kafka;
        self.postgres = ready.postgres;
        self.start_time = ready.start_time;
        Ok(())
    }

    /// SIGTERM, and waits until the process has drained.
    pub(crate) async fn terminate(&mut self) -> Result<()> {
        // The standard library can only kill.
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        if !sent.success() {
            return Err("SIGTERM could not be sent".into());
        }
        let begun = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the node ended with {status}{}", self.log_tail()).into()),
                None if begun.elapsed() > PATIENCE => return Err("the node did not end after SIGTERM".into()),
                None => tokio::time::sleep(EXIT_POLL).await,
            }
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Resident memory, as the kernel counts it.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        crate::machine::resident_bytes(self.child.id())
    }

    /// CPU time used since it was started.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        crate::machine::cpu_time(self.child.id())
    }

    fn log_tail(&self) -> String {
        log_tail(self.directory.path())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already; nothing depends on how.
        let _ = self.kill();
    }
}

fn spawn(binary: &Path, directory: &Path, environment: &[(&str, &str)], processors: Option<&str>) -> Result<Ready> {
    let log = File::options().create(true).append(true).open(log_path(directory))?;
    let mut command = crate::machine::pinned(processors, binary);
    // The settings of the shell are not those of the run.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AQUIFER_")) {
        command.env_remove(name);
    }
    command.arg("serve").arg("--data-dir").arg(directory.join("data"));
    for flag in ["--kafka-addr", "--postgres-addr", "--http-addr"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    command.envs(environment.iter().copied()).env("RUST_LOG", "warn");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);

    let begun = Instant::now();
    let mut child = command.spawn()?;
    let ready = child.stdout.take().ok_or("the node has no standard output").map_err(Into::into);
    let ready = ready.and_then(|stdout| wait_until_ready(stdout, directory));
    match ready {
        Ok((kafka, postgres)) => Ok(Ready { child, kafka, postgres, start_time: begun.elapsed() }),
        Err(failure) => {
            // It may have ended by itself; then that is the failure told.
            let _ = child.kill();
            let _ = child.wait();
            Err(failure)
        }
    }
}

/// Waits for the line `ready kafka=… postgres=… http=…`; gives the first two addresses.
fn wait_until_ready(stdout: std::process::ChildStdout, directory: &Path) -> Result<(String, String)> {
    let (lines, first) = mpsc::sync_channel(1);
    // Reads on after the first line, so that the node never writes into a closed pipe; ends with the node.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
            let _ = lines.try_send(line);
        }
    });
    let line = first.recv_timeout(PATIENCE).map_err(|error| match error {
        RecvTimeoutError::Timeout => format!("the node did not become ready in {PATIENCE:?}{}", log_tail(directory)),
        RecvTimeoutError::Disconnected => format!("the node ended before it was ready{}", log_tail(directory)),
    })?;
    let address = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)).map(str::to_owned);
    address("kafka=").zip(address("postgres=")).ok_or_else(|| format!("the node said '{line}', not ready").into())
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("node.log")
}

fn log_tail(directory: &Path) -> String {
    let log = fs::read_to_string(log_path(directory)).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    if tail.is_empty() { String::new() } else { format!("; its log ends with\n{}", tail.join("\n")) }
}
