//! `Store`: an object store beside the node, by others: moto speaks S3, Azurite speaks Azure's blobs. In memory, on a free
//! port, with one bucket in it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::foreign::{AZURITE, Foreign, clients};
use super::wait::{PATIENCE, within};

/// The account that every Azurite has.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
/// Its key; it is in Azurite's documentation.
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The bucket in it.
pub(crate) const BUCKET: &str = "waters";

/// Ports tried: between the look for a free one and its use somebody else may take it.
const PORTS_TRIED: usize = 5;

/// A running store.
pub(crate) struct Store {
    kind: Kind,
    pub(crate) address: SocketAddr,
    child: Child,
    /// For what it leaves behind.
    _directory: TempDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    S3,
    Azure,
}

impl Store {
    /// A store that speaks S3; `None` if moto is not installed.
    pub(crate) fn s3() -> Option<Self> {
        let store = Self::start(Kind::S3)?;
        let answer = store
            .ask(&format!("PUT /{BUCKET} HTTP/1.1\r\nHost: moto\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
        assert!(answer.is_some_and(|answer| answer.contains(" 200 ")), "moto makes a bucket");
        Some(store)
    }

    /// A store that speaks Azure's blobs; `None` if Azurite is not installed.
    pub(crate) fn azure() -> Option<Self> {
        let store = Self::start(Kind::Azure)?;
        let endpoint = store.endpoint(store.address);
        Foreign::Azurite.run(&["make_container.mjs", &endpoint, BUCKET])?.expect_success("make_container.mjs");
        Some(store)
    }

    /// What a node is told to keep its history here, under `prefix`.
    pub(crate) fn environment(&self, prefix: &str) -> Vec<(&'static str, String)> {
        self.environment_by(self.address, prefix)
    }

    /// The same by way of another address, a proxy's.
    pub(crate) fn environment_by(&self, address: SocketAddr, prefix: &str) -> Vec<(&'static str, String)> {
        let scheme = if self.kind == Kind::S3 { "s3" } else { "az" };
        let mut environment = vec![
            ("AQUIFER_OBJECT_STORE", format!("{scheme}://{BUCKET}/{prefix}")),
            ("AQUIFER_OBJECT_STORE_ENDPOINT", self.endpoint(address)),
            ("AQUIFER_OBJECT_STORE_ALLOW_HTTP", "true".to_owned()),
        ];
        environment.extend(
            match self.kind {
                Kind::S3 => [("AWS_ACCESS_KEY_ID", "anybody"), ("AWS_SECRET_ACCESS_KEY", "hush")],
                Kind::Azure => {
                    [("AZURE_STORAGE_ACCOUNT_NAME", AZURITE_ACCOUNT), ("AZURE_STORAGE_ACCOUNT_KEY", AZURITE_KEY)]
                }
            }
            .map(|(name, value)| (name, value.to_owned())),
        );
        environment
    }

    fn endpoint(&self, address: SocketAddr) -> String {
        match self.kind {
            Kind::S3 => format!("http://{address}"),
            Kind::Azure => format!("http://{address}/{AZURITE_ACCOUNT}"),
        }
    }

    fn start(kind: Kind) -> Option<Self> {
        let program = if kind == Kind::S3 { Foreign::Moto } else { Foreign::Azurite }.find()?;
        let mut said = String::new();
        for _ in 0..PORTS_TRIED {
            let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = free.local_addr().expect("an address");
            drop(free);
            let directory = TempDir::with_prefix("aquifer-store-").expect("a temporary directory");
            let log = File::create(directory.path().join("log")).expect("a file");
            let port = address.port().to_string();
            let home = directory.path().to_str().expect("UTF-8");
            let arguments = match kind {
                Kind::S3 => vec!["-H", "127.0.0.1", "-p", &port],
                Kind::Azure => vec![
                    AZURITE,
                    "--silent",
                    "--skipApiVersionCheck",
                    "--disableTelemetry",
                    "--location",
                    home,
                    "--blobPort",
                    &port,
                ],
            };
            let child = Command::new(&program)
                .args(arguments)
                .current_dir(clients())
                .env_remove("LD_LIBRARY_PATH")
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a second handle"))
                .stderr(log)
                .spawn()
                .expect("the store starts");
            let mut store = Self { kind, address, child, _directory: directory };
            let answers = within(PATIENCE, || {
                store.has_ended() || store.ask("GET / HTTP/1.1\r\nHost: store\r\nConnection: close\r\n\r\n").is_some()
            });
            if answers && !store.has_ended() {
                return Some(store);
            }
            said = std::fs::read_to_string(store._directory.path().join("log")).unwrap_or_default();
        }
        panic!("{kind:?} did not start; it said:\n{said}");
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the store can be waited for").is_some()
    }

    /// An HTTP answer, if there is one.
    fn ask(&self, request: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        (!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // It has ended already, or does now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
