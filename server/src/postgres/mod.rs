//! Postgres's protocol: SQL over the wire psql and drivers speak.
//!
//! A connection is one task: `connection` hears messages, `simple` and `extended` answer them, `cursor` sends results.
//! Messages to clients are pgwire's; what clients send is read by `frame`, and rows are written by `rows`.

mod binary;
mod cancel;
mod cells;
mod connection;
mod cursor;
mod errors;
mod extended;
mod frame;
mod json;
mod oids;
mod parameters;
mod rows;
mod simple;
mod text;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use aquifer_sql::engine::Engine;
use aquifer_storage::clock::SystemRandom;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::listen::Listener;
use crate::settings::ServerSettings;
use cancel::Cancellations;
use connection::Shared;

/// Connections beyond the limit that are told so at the same time; more are closed without a word.
const REFUSED_MAX: usize = 64;
/// What a listener that cannot accept waits before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What the last words to clients may take once the drain is over.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Serves Postgres's port until `shutdown`, then waits for running statements at most `shutdown_drain_max_ms`.
pub(crate) async fn serve(listener: Listener, engine: Engine, settings: ServerSettings, shutdown: CancellationToken) {
    let shared = Shared {
        engine,
        random: Arc::new(SystemRandom),
        cancellations: Cancellations::default(),
        shutdown: shutdown.clone(),
        deadline: CancellationToken::new(),
        settings,
    };
    let max = shared.settings.postgres_connections_max;
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a Postgres connection broke down");
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        metrics::gauge!("aquifer_postgres_connections").set(connections.len() as f64);
        match accepted {
            Ok((socket, client)) if connections.len() < max + REFUSED_MAX => {
                let admitted = connections.len() < max;
                connections.spawn(connection::serve(socket, client, shared.clone(), admitted));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a Postgres connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drain(connections, &shared).await;
}

/// Idle sessions have heard of the shutdown; running statements may end until the deadline.
async fn drain(mut connections: JoinSet<()>, shared: &Shared) {
    let drained = async { while connections.join_next().await.is_some() {} };
    let max = Duration::from_millis(shared.settings.shutdown_drain_max_ms);
    if tokio::time::timeout(max, drained).await.is_ok() {
        return;
    }
    shared.deadline.cancel();
    let last_words = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_WORDS, last_words).await.is_err() {
        connections.shutdown().await;
    }
}
