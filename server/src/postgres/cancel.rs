//! Cancellation: which statement of which connection a CancelRequest ends.
//!
//! A statement takes a fresh token when it begins and gives it back when it ends, so that a request that comes late
//! does not end the next one.

use std::collections::HashMap;
use std::sync::Arc;

use aquifer_storage::clock::Random;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
struct Entry {
    secret: Bytes,
    running: Option<CancellationToken>,
}

/// All open sessions by their backend pid.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancellations {
    sessions: Arc<Mutex<HashMap<i32, Entry>>>,
}

impl Cancellations {
    /// A place for a new session: its pid is nobody else's while it lives.
    pub(crate) fn enter(&self, random: &dyn Random) -> Place {
        let secret = Bytes::copy_from_slice(&random.next_u64().to_be_bytes()[..4]);
        let mut sessions = self.sessions.lock();
        let pid = loop {
            let pid = (random.next_u64() >> 33) as i32;
            if pid > 0 && !sessions.contains_key(&pid) {
                break pid;
            }
        };
        sessions.insert(pid, Entry { secret: secret.clone(), running: None });
        Place { cancellations: self.clone(), pid, secret }
    }

    /// Ends what runs in that session, if the secret is right and anything runs.
    pub(crate) fn cancel(&self, pid: i32, secret: &[u8]) {
        if let Some(entry) = self.sessions.lock().get(&pid)
            && entry.secret == secret
            && let Some(running) = &entry.running
        {
            running.cancel();
        }
    }
}

/// A session's place; left when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    cancellations: Cancellations,
    pub(crate) pid: i32,
    pub(crate) secret: Bytes,
}

impl Place {
    /// A statement begins.
    pub(crate) fn begin(&self) -> Running {
        let token = CancellationToken::new();
        self.set(Some(token.clone()));
        Running { cancellations: self.cancellations.clone(), pid: self.pid, token }
    }

    fn set(&self, running: Option<CancellationToken>) {
        if let Some(entry) = self.cancellations.sessions.lock().get_mut(&self.pid) {
            entry.running = running;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cancellations.sessions.lock().remove(&self.pid);
    }
}

/// A statement that can be cancelled until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    cancellations: Cancellations,
    pid: i32,
    pub(crate) token: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(entry) = self.cancellations.sessions.lock().get_mut(&self.pid) {
            entry.running = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use aquifer_storage::clock::SystemRandom;

    use super::*;

    #[test]
    fn only_the_right_secret_ends_only_the_statement_that_runs() {
        let cancellations = Cancellations::default();
        let place = cancellations.enter(&SystemRandom);
        cancellations.cancel(place.pid, &place.secret);
        let first = place.begin();
        assert!(!first.token.is_cancelled(), "a request before it must not end a statement");
        cancellations.cancel(place.pid, b"no");
        assert!(!first.token.is_cancelled());
        cancellations.cancel(place.pid, &place.secret);
        assert!(first.token.is_cancelled());
        drop(first);
        assert!(!place.begin().token.is_cancelled());
    }
}
