//! Postgres's protocol: SQL over the wire psql and drivers speak.
//!
//! A connection is one task: `connection` hears messages, `simple` and `extended` answer them, `cursor` sends results.
//! Messages to clients are pgwire's; what clients send is read by `frame`, and rows are written by `rows`.

mod binary;
mod cancel;
mod cells;
mod connection;
mod copy;
mod cursor;
mod errors;
mod extended;
mod frame;
mod json;
mod meter;
mod oids;
mod parameters;
mod rows;
mod simple;
mod text;
mod wire;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use aquifer_sql::engine::Engine;
use aquifer_storage::clock::SystemRandom;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::listen::Listener;
use crate::settings::ServerSettings;
use cancel::Cancellations;
use connection::Shared;

/// What a listener that cannot accept waits before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Stack of a thread for queries: as deep as a statement may be (`sql/statement/depth`), without optimisation too.
const QUERY_STACK_BYTES: usize = 32 << 20;
/// What the last words to clients may take once the drain is over.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Serves Postgres's port until `shutdown`, then waits for running statements at most `shutdown_drain_max_ms`.
pub(crate) async fn serve(listener: Listener, engine: Engine, settings: ServerSettings, shutdown: CancellationToken) {
    let compute = Compute::start();
    let shared = Shared {
        engine,
        compute: compute.handle(),
        random: Arc::new(SystemRandom),
        cancellations: Cancellations::default(),
        shutdown: shutdown.clone(),
        deadline: CancellationToken::new(),
        settings,
    };
    let max = shared.settings.postgres_connections_max;
    let refused_max = shared.settings.postgres_refused_max();
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
            Ok((socket, client)) if connections.len() < max.saturating_add(refused_max) => {
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

/// Threads for queries alone, as many as there are processors. Where the system gives none, queries share ours.
struct Compute(Option<Runtime>);

impl Compute {
    fn start() -> Self {
        let built = tokio::runtime::Builder::new_multi_thread()
            .thread_name("aquifer-query")
            .thread_stack_size(QUERY_STACK_BYTES)
            .enable_all()
            .build();
        Self(built.map_err(|error| tracing::error!(%error, "queries have no threads of their own")).ok())
    }

    fn handle(&self) -> Handle {
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        // A runtime must not be waited for where others run.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
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
