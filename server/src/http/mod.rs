//! HTTP: `GET /health`, `GET /ready`, `GET /metrics`.

use tokio_util::sync::CancellationToken;

use crate::listen::Listener;
use crate::server::Components;
use crate::settings::ServerSettings;

/// Serves HTTP's port until `shutdown`.
pub(crate) async fn serve(
    listener: Listener,
    components: Components,
    settings: ServerSettings,
    shutdown: CancellationToken,
) {
    let _ = (listener, components, settings);
    shutdown.cancelled().await;
}
