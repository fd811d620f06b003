//! `Failure`: why the process ends other than well, as one line that says what happened and what to do.

use std::error::Error;
use std::fmt::Write;
use std::io;

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Flags, environment or file; all problems together.
    #[error("{0}")]
    Config(String),
    /// The operating system refused something the process itself needs.
    #[error("{action}")]
    Process {
        /// A verb phrase.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A port.
    #[error("{source}")]
    Listen {
        /// Protocol, address and reason.
        source: io::Error,
    },
    /// The data directory or the object store.
    #[error("open the storage in {data_dir}")]
    Storage {
        /// As configured.
        data_dir: String,
        /// Why.
        source: aquifer_storage::Error,
    },
    /// Data directory or object store cannot be looked at.
    #[error("verify {data_dir}")]
    Verify {
        /// As configured.
        data_dir: String,
        /// Why.
        source: aquifer_storage::Error,
    },
    /// The catalog or a continuous query.
    #[error("start the SQL engine")]
    Engine {
        /// Why.
        source: aquifer_sql::error::Error,
    },
    /// The log could not be closed in order.
    #[error("close the storage")]
    Close {
        /// Why.
        source: aquifer_storage::Error,
    },
    /// What is under way did not end in time.
    #[error("still draining {deadline_ms} ms after the signal, leaving now; what was acknowledged is durable")]
    DrainDeadline {
        /// How long was waited.
        deadline_ms: u64,
    },
    /// Asked twice to stop.
    #[error("second signal, leaving at once; what was acknowledged is durable")]
    SecondSignal {
        /// The signal's number, for the exit code.
        number: u8,
    },
    /// A bug of ours.
    #[error("the node panicked, see the log above; please report it")]
    Panicked,
}

impl Failure {
    /// What happened, why, and what to do, in one line.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut line = self.to_string();
        // `Listen` already says its source.
        let mut cause = if matches!(self, Self::Listen { .. }) { None } else { self.source() };
        while let Some(error) = cause {
            let _ = write!(line, ": {error}");
            cause = error.source();
        }
        if let Some(hint) = self.hint() {
            let _ = write!(line, "; {hint}");
        }
        line.replace('\n', " ")
    }

    /// 1; for a second signal 128 and its number, as shells have it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::SecondSignal { number } => 128 + number,
            _ => 1,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen { source } => match source.kind() {
                io::ErrorKind::AddrInUse => Some(
                    "stop the program that has it, or choose another port with --kafka-addr, --postgres-addr or --http-addr (0 takes a free one)",
                ),
                io::ErrorKind::PermissionDenied => Some("choose a port above 1023"),
                io::ErrorKind::AddrNotAvailable => Some("choose an address of this machine"),
                _ => None,
            },
            Self::Storage { source: aquifer_storage::Error::Io { source, .. }, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    Some("give this user write access to it, or choose another with --data-dir")
                }
                io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                    Some("a file is in the way: choose another directory with --data-dir")
                }
                io::ErrorKind::StorageFull => Some("free some space, or choose another disk with --data-dir"),
                io::ErrorKind::ReadOnlyFilesystem => Some("choose a writable disk with --data-dir"),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_failure_is_one_line_with_cause_and_hint() {
        let denied = io::Error::new(io::ErrorKind::PermissionDenied, "denied\nby policy");
        let source =
            aquifer_storage::Error::Io { action: "create the directory /d/log".to_owned(), source: Arc::new(denied) };
        let failure = Failure::Storage { data_dir: "/d".to_owned(), source };
        assert_eq!(
            failure.one_line(),
            "open the storage in /d: create the directory /d/log: denied by policy; \
             give this user write access to it, or choose another with --data-dir"
        );
        assert_eq!(failure.exit_code(), 1);
        assert_eq!(Failure::SecondSignal { number: 15 }.exit_code(), 143);
    }

    #[test]
    fn a_busy_port_is_told_once_and_with_a_way_out() {
        let busy = io::Error::new(io::ErrorKind::AddrInUse, "cannot listen for kafka on 127.0.0.1:9092: in use");
        let line = Failure::Listen { source: busy }.one_line();
        assert!(line.starts_with("cannot listen for kafka on 127.0.0.1:9092: in use; stop the program"), "{line}");
        assert_eq!(line.matches("127.0.0.1:9092").count(), 1);
    }
}
