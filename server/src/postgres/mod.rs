//! Postgres's protocol: SQL over the wire psql and drivers speak.

use aquifer_sql::engine::Engine;
use tokio_util::sync::CancellationToken;

use crate::listen::Listener;
use crate::settings::ServerSettings;

/// Serves Postgres's port until `shutdown`.
pub(crate) async fn serve(listener: Listener, engine: Engine, settings: ServerSettings, shutdown: CancellationToken) {
    let _ = (listener, engine, settings);
    shutdown.cancelled().await;
}
