//! Kafka's protocol: topics written and read as Kafka clients expect.
//!
//! A connection cuts its bytes into frames, has each checked and handled, and writes the answers in the order of the
//! requests. Nothing here keeps records: they go to `Storage` and come from it.

mod answers;
mod api;
mod broker;
mod commits;
mod configs;
mod connection;
mod coordinator;
mod dispatch;
mod errors;
mod expiry;
mod fetch;
mod frame;
mod group;
mod groups;
mod metadata;
mod meter;
mod offsets;
mod partitions;
mod produce;
mod producer;
mod schema;
mod topics;
mod transaction_views;
mod transactions;
mod turns;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use aquifer_storage::Storage;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::answers::AnswerRoom;
use self::broker::Broker;
use self::coordinator::Coordinator;
use self::fetch::FetchRoom;
use self::frame::RequestRoom;
use self::meter::Meter;
use crate::listen::Listener;
use crate::settings::ServerSettings;

/// Pause after a failed accept: the machine is out of file descriptors, and trying again at once would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves Kafka's port until `shutdown`. `advertised` is the `HOST:PORT` that Metadata tells. Told twice to go, tasks are dropped where they stand.
pub(crate) async fn serve(
    listener: Listener,
    storage: Storage,
    advertised: String,
    settings: ServerSettings,
    shutdown: CancellationToken,
) {
    let local = listener.local_addr();
    let (host, port) = broker::split_address(&advertised).unwrap_or_else(|| {
        tracing::error!(%advertised, "kafka_advertised is not HOST:PORT; clients are told the name and the bound port");
        (advertised.as_str(), local.port())
    });
    let coordinator = Coordinator::new(storage.random().clone());
    let broker = Arc::new(Broker {
        coordinator: coordinator.clone(),
        host: broker::text(host),
        port: port.into(),
        storage,
        fetch_room: FetchRoom::new(settings.kafka_fetch_bytes_in_flight_max),
        request_room: RequestRoom::new(settings.kafka_request_bytes_in_flight_max),
        answer_room: AnswerRoom::default(),
        meter: Meter::default(),
        settings: settings.clone(),
        shutdown: shutdown.clone(),
    });
    let places = Arc::new(Semaphore::new(settings.kafka_connections_max));
    let mut connections = JoinSet::new();
    let timer = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { coordinator.keep_time(shutdown).await }
    });
    let expiry = tokio::spawn(expiry::keep_looking(Arc::clone(&broker)));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a Kafka connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "closed a connection: kafka.connections_max = {} is reached", settings.kafka_connections_max);
            continue;
        };
        let broker = broker.clone();
        connections.spawn(async move {
            metrics::gauge!("aquifer_kafka_connections").increment(1.0);
            connection::serve(stream, peer, broker).await;
            metrics::gauge!("aquifer_kafka_connections").decrement(1.0);
            drop(place);
        });
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    let limit = Duration::from_millis(settings.shutdown_drain_max_ms);
    if tokio::time::timeout(limit, drained).await.is_err() {
        tracing::warn!("closed {} Kafka connections after server.shutdown_drain_max", connections.len());
        connections.shutdown().await;
    }
    for task in [timer, expiry] {
        if let Some(error) = task.await.err().filter(|error| !error.is_cancelled()) {
            tracing::error!(%error, "a task of the consumer groups failed");
        }
    }
}
