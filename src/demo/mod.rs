//! `aquifer demo`: a small shop that writes into the node it runs beside, through the Kafka port like everybody else.
//!
//! 1. `catalog` declares the shop's streams, its table and two continuous queries, once.
//! 2. `shop` makes up what customers do; pure but for chance.
//! 3. `producer` writes it with Kafka's Produce requests over a real socket.
//!
//! The shop never stops the node: what fails is logged and tried again a little later.

mod catalog;
mod producer;
mod shop;

use std::io::Write;
use std::time::Duration;

use aquifer_server::BoundAddresses;
use aquifer_sql::engine::Engine;
use aquifer_storage::Storage;
use tokio_util::sync::CancellationToken;

use producer::Producer;
use shop::Shop;

/// How often a request goes out, whatever the rate: a steady trickle rather than bursts.
const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_SECOND: u32 = 10;
/// How long the shop waits after a failure before it tries again.
const RETRY: Duration = Duration::from_secs(1);

/// What the demo is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DemoOptions {
    /// How fast the shop writes.
    pub(crate) events_per_second: u32,
}

/// Runs the shop until `shutdown`.
pub(crate) async fn run(
    options: DemoOptions,
    addresses: BoundAddresses,
    storage: Storage,
    engine: Engine,
    shutdown: CancellationToken,
) {
    let opened = shutdown.run_until_cancelled(Box::pin(catalog::declare(&engine))).await;
    match opened {
        None => return,
        Some(Err(error)) => {
            tracing::error!(hint = error.hint, "the shop cannot declare its relations: {error}");
            return;
        }
        Some(Ok(())) => {}
    }
    // Nothing depends on the invitation; a closed terminal is no reason to stop.
    let _ = std::io::stdout().lock().write_all(catalog::invitation(&addresses).as_bytes());
    let mut shop = Shop::new();
    while !shutdown.is_cancelled() {
        let selling = Box::pin(sell(&mut shop, options, &addresses, &storage));
        if let Some(Err(error)) = shutdown.run_until_cancelled(selling).await {
            tracing::warn!("the shop's producer failed and tries again: {error}");
            shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await;
        }
    }
}

/// Writes until the connection fails.
async fn sell(
    shop: &mut Shop,
    options: DemoOptions,
    addresses: &BoundAddresses,
    storage: &Storage,
) -> std::io::Result<()> {
    let mut producer = Producer::connect(addresses.kafka, &catalog::TOPICS).await?;
    let random = storage.random().as_ref();
    producer.send(&shop.open(random), storage.clock().now_ms()).await?;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // What a tick cannot send whole is carried over: 15 a second are one and two in turn.
    let mut due = 0;
    loop {
        ticks.tick().await;
        due += options.events_per_second;
        let events: Vec<_> = (0..due / TICKS_PER_SECOND).map(|_| shop.next_event(random)).collect();
        due %= TICKS_PER_SECOND;
        producer.send(&events, storage.clock().now_ms()).await?;
    }
}
