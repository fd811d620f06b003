//! The composition root: the one place that knows all parts. It opens them upwards (ports, storage, SQL, listeners),
//! says `ready`, and closes them downwards.
//!
//! The ports are taken first: a busy one is the cheapest thing to find out, and clients that come during a long
//! recovery wait instead of being refused.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use aquifer_server::{Addresses, BoundAddresses, Components, Server};
use aquifer_sql::engine::{Engine, EngineOptions};
use aquifer_storage::clock::{SystemClock, SystemRandom};
use aquifer_storage::{OpenOptions, Storage};
use tokio_util::sync::CancellationToken;

use crate::args::VERSION;
use crate::config::Config;
use crate::demo::{self, DemoOptions};
use crate::failure::Failure;
use crate::telemetry::RenderMetrics;

/// Runs a node until `shutdown`, or until something keeps it from starting.
pub(crate) async fn run(
    config: Config,
    metrics: RenderMetrics,
    demo: Option<DemoOptions>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let server = bind(&config).await?;
    let addresses = server.addresses();
    // A signal during recovery ends it: nothing has been promised to anybody yet.
    let Some(storage) = shutdown.run_until_cancelled(Box::pin(open_storage(&config))).await else { return Ok(()) };
    let storage = storage?;
    let served = serve(server, &storage, &config, metrics, demo, shutdown).await;
    let closed = storage.close().await.map_err(|source| Failure::Close { source });
    tracing::info!(kafka = %addresses.kafka, "closed");
    served.and(closed)
}

async fn bind(config: &Config) -> Result<Server, Failure> {
    let addresses = Addresses {
        kafka: config.kafka_addr.clone(),
        kafka_advertised: config.kafka_advertised.clone(),
        postgres: config.postgres_addr.clone(),
        http: config.http_addr.clone(),
    };
    let server = Server::bind(addresses, config.server.clone()).await.map_err(|source| Failure::Listen { source })?;
    let bound = server.addresses();
    for (protocol, address) in [("kafka", bound.kafka), ("postgres", bound.postgres), ("http", bound.http)] {
        warn_if_reachable(protocol, address);
    }
    Ok(server)
}

/// There is no password yet: whoever reaches the port may read and write everything.
fn warn_if_reachable(protocol: &'static str, address: SocketAddr) {
    if !address.ip().is_loopback() {
        tracing::warn!(protocol, %address, "listening beyond this machine without authentication: whoever reaches the port may read and write everything");
    }
}

async fn open_storage(config: &Config) -> Result<Storage, Failure> {
    let options = OpenOptions {
        data_dir: config.data_dir.clone(),
        object_store_url: config.object_store.clone(),
        object_store: config.object_store_options.clone(),
        settings: config.storage.clone(),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    let opened = if config.take_over { Storage::take_over(options).await } else { Storage::open(options).await };
    opened.map_err(|source| Failure::Storage { data_dir: config.data_dir.display().to_string(), source })
}

async fn serve(
    server: Server,
    storage: &Storage,
    config: &Config,
    metrics: RenderMetrics,
    demo: Option<DemoOptions>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let options = EngineOptions {
        node_settings: config.describe(),
        version: VERSION.to_owned(),
        queries: config.queries.clone(),
    };
    let engine = Box::pin(Engine::open(storage.clone(), options)).await.map_err(|source| Failure::Engine { source })?;
    let addresses = server.addresses();
    tracing::info!(version = VERSION, cluster = storage.cluster_id(), data_dir = %config.data_dir.display(), "ready");
    let announced = announce(&addresses);
    if announced.is_ok() {
        let components = Components { storage: storage.clone(), engine: engine.clone(), metrics };
        let listeners = Box::pin(server.run(components, shutdown.clone()));
        match demo {
            None => listeners.await,
            Some(options) => {
                let shop = Box::pin(demo::run(options, addresses, storage.clone(), engine.clone(), shutdown.clone()));
                tokio::join!(listeners, shop);
            }
        }
    }
    engine.close().await;
    announced
}

/// The line that scripts wait for.
fn announce(addresses: &BoundAddresses) -> Result<(), Failure> {
    let BoundAddresses { kafka, postgres, http } = addresses;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "ready kafka={kafka} postgres={postgres} http={http}")
        .and_then(|()| stdout.flush())
        .map_err(|source| Failure::Process { action: "print the ready line to standard output", source })
}
