//! `Node`: the real binary in a fresh directory, on free ports, with its log read along.
//!
//! It can be killed, restarted on the same ports, or asked to stop. A test fails when the log shows an ERROR that it
//! did not announce with [`Node::announce_error`]: ERROR means that a person must look.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tempfile::TempDir;

use super::wait::{PATIENCE, until_now};

/// Lines of the log shown when a test fails.
const LOG_LINES_SHOWN: usize = 60;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_aquifer");

/// A command without whatever the developer's shell has set for Aquifer.
pub(crate) fn command(arguments: &[&str]) -> Command {
    command_by(&[], arguments)
}

fn command_by(runner: &[String], arguments: &[&str]) -> Command {
    let mut command = match runner {
        [] => Command::new(BINARY),
        [program, first @ ..] => {
            let mut command = Command::new(program);
            command.args(first).arg(BINARY);
            command
        }
    };
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AQUIFER_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).env("RUST_LOG", "info").stdin(Stdio::null());
    command
}

/// The same command under a limit of open files, which only a process itself can lower.
fn limited(command: Command, files_max: Option<u32>) -> Command {
    let Some(files_max) = files_max else { return command };
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {files_max} && exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Where a node listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) kafka: SocketAddr,
    pub(crate) postgres: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Ports {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("ready ")?.split(' ');
        let mut next = |name: &str| words.next()?.strip_prefix(name)?.parse().ok();
        Some(Self { kafka: next("kafka=")?, postgres: next("postgres=")?, http: next("http=")? })
    }
}

/// A running process and what it has said.
struct Process {
    child: Child,
    stdout: Receiver<String>,
}

/// A node under test.
pub(crate) struct Node {
    /// Kept for its end: the directory goes with the node.
    directory: Arc<TempDir>,
    /// What runs the binary: nothing, or a program and its arguments.
    runner: Vec<String>,
    subcommand: Vec<String>,
    environment: Vec<(String, String)>,
    /// How many files it may have open, if not as many as the test.
    files_max: Option<u32>,
    process: Option<Process>,
    /// Of the last start; kept over a restart, so that clients find the node again.
    pub(crate) ports: Ports,
    log: Arc<Mutex<Vec<String>>>,
    announced: Vec<String>,
}

impl Node {
    /// A node with test-sized settings.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// A node with these settings, as `("AQUIFER_TIER_AGE_MAX", "1 s")`.
    pub(crate) fn start_with(environment: &[(&str, &str)]) -> Self {
        Self::start_as(&["serve"], environment)
    }

    /// A node that may have so many files open and no more, with these settings.
    pub(crate) fn start_with_files(files_max: u32, environment: &[(&str, &str)]) -> Self {
        Self::start_whole(&[], &["serve"], environment, Some(files_max))
    }

    /// A node by another subcommand.
    pub(crate) fn start_as(subcommand: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_whole(&[], subcommand, environment, None)
    }

    /// A node whose binary another program runs, in its own place.
    pub(crate) fn start_by(runner: &[String], subcommand: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_whole(runner, subcommand, environment, None)
    }

    fn start_whole(
        runner: &[String],
        subcommand: &[&str],
        environment: &[(&str, &str)],
        files_max: Option<u32>,
    ) -> Self {
        let directory = Arc::new(TempDir::with_prefix("aquifer-test-").expect("a temporary directory"));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Self {
            directory,
            runner: runner.to_vec(),
            subcommand: subcommand.iter().map(|word| (*word).to_owned()).collect(),
            // Small segments, so that every test crosses from one to the next.
            environment: [("AQUIFER_WAL_SEGMENT_BYTES", "16 MiB")]
                .iter()
                .chain(environment)
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            files_max,
            process: None,
            ports: Ports { kafka: nowhere, postgres: nowhere, http: nowhere },
            log: Arc::default(),
            announced: Vec::new(),
        };
        node.spawn_until_ready();
        node
    }

    /// A second node on a copy of this one's data, as it lies there now; on other ports.
    pub(crate) fn start_copy(&self) -> Self {
        let directory = Arc::new(TempDir::with_prefix("aquifer-test-").expect("a temporary directory"));
        let copied = Command::new("cp").arg("-r").arg(self.data_dir()).arg(directory.path()).status();
        assert!(copied.expect("cp runs").success(), "the data directory is copied");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut copy = Self {
            directory,
            runner: self.runner.clone(),
            subcommand: self.subcommand.clone(),
            environment: self.environment.clone(),
            files_max: self.files_max,
            process: None,
            ports: Ports { kafka: nowhere, postgres: nowhere, http: nowhere },
            log: Arc::default(),
            announced: Vec::new(),
        };
        copy.spawn_until_ready();
        copy
    }

    /// Where the node keeps its data.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A place for the test's own files.
    pub(crate) fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// `HOST:PORT` of Kafka.
    pub(crate) fn bootstrap(&self) -> String {
        self.ports.kafka.to_string()
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the log").join("\n")
    }

    /// Has one more variable from the next start on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// An ERROR with these words in its line belongs to the test.
    pub(crate) fn announce_error(&mut self, words: &str) {
        self.announced.push(words.to_owned());
    }

    /// Lines of standard output after `ready`, as they come; `None` when the deadline has passed.
    pub(crate) fn next_stdout_line(&mut self) -> Option<String> {
        self.process.as_ref()?.stdout.recv_timeout(PATIENCE).ok()
    }

    /// The most memory it has had at once since it was started, bytes.
    pub(crate) fn peak_memory_bytes(&self) -> u64 {
        let id = self.process.as_ref().expect("the node runs").child.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("the process is there");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// SIGKILL, as a power cut for the process.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.child.kill().expect("SIGKILL is sent");
            process.child.wait().expect("the process ends");
        }
    }

    /// SIGKILL and a new start on the same directory and ports.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.spawn_until_ready();
    }

    /// SIGTERM and a new start on the same directory and ports.
    pub(crate) fn restart_in_order(&mut self) {
        assert_eq!(self.terminate().code(), Some(0), "a drained node exits with 0");
        self.spawn_until_ready();
    }

    /// Sends a signal by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("the node runs");
        let sent = Command::new("kill").args([&format!("-{name}"), &process.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "SIG{name} is sent");
    }

    /// SIGTERM, and how the process ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_for_exit()
    }

    /// How the process ended by itself.
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the node runs");
        let mut status = None;
        until_now("the node to exit", || {
            status = process.child.try_wait().expect("the process can be waited for");
            status.is_some()
        });
        status.expect("just seen")
    }

    fn spawn_until_ready(&mut self) {
        let start = Instant::now();
        loop {
            match self.spawn() {
                Ok(()) => return,
                // Another test may have been given a port of ours in between; it will not keep it for long.
                Err(said) => assert!(
                    said.contains("cannot listen") && start.elapsed() < PATIENCE,
                    "the node did not become ready: {said}"
                ),
            }
        }
    }

    fn spawn(&mut self) -> Result<(), String> {
        let words: Vec<&str> = self.subcommand.iter().map(String::as_str).collect();
        let mut child = limited(command_by(&self.runner, &words), self.files_max)
            .env("AQUIFER_DATA_DIR", self.data_dir())
            .env("AQUIFER_KAFKA_ADDR", self.ports.kafka.to_string())
            .env("AQUIFER_POSTGRES_ADDR", self.ports.postgres.to_string())
            .env("AQUIFER_HTTP_ADDR", self.ports.http.to_string())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stderr = child.stderr.take().expect("piped");
        let log = Arc::clone(&self.log);
        let reader = std::thread::spawn(move || read_log(stderr, &log));
        let stdout = lines_of(child.stdout.take().expect("piped"));
        match stdout.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.ports = Ports::parse(&line).unwrap_or_else(|| panic!("not a ready line: {line}"));
                self.process = Some(Process { child, stdout });
                Ok(())
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = child.wait().expect("the process ends");
                reader.join().expect("the log is read");
                let log = self.log();
                Err(format!("{status}: {}", log.lines().last().unwrap_or_default()))
            }
            Err(RecvTimeoutError::Timeout) => {
                child.kill().expect("SIGKILL is sent");
                panic!("no ready line in {PATIENCE:?}; log:\n{}", self.log());
            }
        }
    }

    fn unannounced_errors(&self) -> Vec<String> {
        let log = self.log.lock().expect("the log");
        let is_error = |line: &&String| line.split_whitespace().nth(1) == Some("ERROR");
        let announced = |line: &&String| self.announced.iter().any(|words| line.contains(words.as_str()));
        log.iter().filter(is_error).filter(|line| !announced(line)).cloned().collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- the node's log, its last lines ---\n{}\n---", shown.join("\n"));
            return;
        }
        let errors = self.unannounced_errors();
        assert!(errors.is_empty(), "the log shows an ERROR that nobody announced:\n{}", errors.join("\n"));
    }
}

fn read_log(stderr: impl Read, log: &Mutex<Vec<String>>) {
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        log.lock().expect("the log").push(String::from_utf8_lossy(&line).into_owned());
    }
}

fn lines_of(stdout: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
