//! The foreign clients: programs others wrote, which judge our wires. `tests/clients/install` fetches them.
//!
//! Where one is absent its tests are skipped and say so; in continuous integration (`CI=true`) that is a failure.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::node::Node;
use super::wait::{PATIENCE, within};

/// A foreign client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Foreign {
    Kcat,
    Psql,
    Python,
    Node,
    /// A single file, compiled and run with Kafka's own client in reach.
    Java,
    Shell,
    /// A server that speaks S3.
    Moto,
    /// Node, with a server that speaks Azure's blobs.
    Azurite,
}

/// Azurite's program, in `tests/clients`.
pub(crate) const AZURITE: &str = "node_modules/azurite/dist/src/blob/main.js";

/// How a foreign program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Its output, if it ended well.
    pub(crate) fn expect_success(self, what: &str) -> String {
        assert!(self.success, "{what} failed\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

impl Foreign {
    /// The program, or `None` with a printed reason.
    pub(crate) fn find(self) -> Option<PathBuf> {
        let found = match self {
            Self::Kcat => answers("kcat", "-V"),
            Self::Psql => answers("psql", "--version"),
            Self::Shell => Some(PathBuf::from("sh")),
            Self::Moto => answers(&clients().join("../.venv/bin/moto_server").display().to_string(), "--help"),
            Self::Azurite => answers("node", "--version").filter(|_| clients().join(AZURITE).exists()),
            Self::Python => answers(&clients().join("../.venv/bin/python").display().to_string(), "--version"),
            Self::Node => answers("node", "--version").filter(|_| clients().join("node_modules/kafkajs").exists()),
            Self::Java => answers("java", "-version").filter(|_| clients().join("java/lib/installed.xml").exists()),
        };
        if found.is_none() {
            let advice = "run tests/clients/install";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{self:?} is not installed; {advice}");
            println!("skipped: {self:?} is not installed; {advice}");
        }
        found
    }

    /// Starts it in `tests/clients`, so that scripts are named from there.
    pub(crate) fn start(self, arguments: &[&str]) -> Option<Running> {
        Some(Running::start(Command::new(self.find()?).args(arguments)))
    }

    /// Runs it to its end.
    pub(crate) fn run(self, arguments: &[&str]) -> Option<Ended> {
        Some(self.start(arguments)?.wait())
    }

    /// psql against a node, one command, unaligned.
    pub(crate) fn psql(node: &Node, arguments: &[&str]) -> Option<Ended> {
        let port = node.ports.postgres.port().to_string();
        let mut all = vec!["-X", "-h", "127.0.0.1", "-p", &port, "-U", "tester", "-d", "aquifer"];
        all.extend(arguments);
        Self::Psql.run(&all)
    }
}

/// A foreign program under way.
pub(crate) struct Running {
    child: std::process::Child,
    stdout: std::thread::JoinHandle<String>,
    stderr: std::thread::JoinHandle<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .current_dir(clients())
            // Cargo points it at libraries of our own build, librdkafka among them; a foreign client has its own.
            .env_remove("LD_LIBRARY_PATH")
            // psql would page on a terminal and read the user's settings.
            .env("PAGER", "cat")
            .env("KAFKAJS_NO_PARTITIONER_WARNING", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the client starts");
        let stdout = read_all(child.stdout.take().expect("piped"));
        let stderr = read_all(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    /// Its end; it is killed and shown if it has none within the patience of every wait.
    pub(crate) fn wait(mut self) -> Ended {
        let mut status = None;
        let ended = within(PATIENCE, || {
            status = self.child.try_wait().expect("the client can be waited for");
            status.is_some()
        });
        if !ended {
            self.child.kill().expect("SIGKILL is sent");
        }
        let success = status.is_some_and(|status| status.success());
        let (stdout, stderr) = (self.stdout.join().expect("read"), self.stderr.join().expect("read"));
        assert!(ended, "a client did not end within {PATIENCE:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        Ended { success, stdout, stderr }
    }
}

fn read_all(mut source: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what there is to show.
        let _ = source.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

pub(crate) fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

fn answers(program: &str, flag: &str) -> Option<PathBuf> {
    let status = Command::new(program).arg(flag).stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    status.success().then(|| PathBuf::from(program))
}
