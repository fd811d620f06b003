//! A signal ends the process in order: SIGTERM or SIGINT drains and exits 0 within a deadline, a second one leaves at
//! once.
//!
//! The node runs as a task beside, so that signals are heard whatever it does. Leaving early loses nothing that was
//! acknowledged: an acknowledgement means durable.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::ServeFlags;
use crate::config::Config;
use crate::demo::DemoOptions;
use crate::failure::Failure;
use crate::files;
use crate::node;
use crate::telemetry::{self, Metrics};

/// Time for closing SQL and storage after the connections have drained (`server.shutdown_drain_max`).
const CLOSE_MS_MAX: u64 = 10_000;
/// Time for threads to notice that the process ends, after everything durable has been closed.
const THREADS_STOP_MS_MAX: u64 = 200;
/// Planning a deep query recurses, as deep as a statement may be (`sql/statement/depth`); what is not used costs no memory.
const THREAD_STACK_BYTES: usize = 32 << 20;

/// Runs a node from its flags to its end.
pub(crate) fn run(flags: &ServeFlags, demo: Option<DemoOptions>) -> Result<(), Failure> {
    let mut config = Config::load(flags)?;
    let few_files = files::soft_limit().and_then(|limit| files::fit(limit, &config.storage, &mut config.server));
    let metrics = telemetry::start()?;
    for warning in config.warnings.iter().chain(&few_files) {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(THREAD_STACK_BYTES)
        .build()
        .map_err(|source| Failure::Process { action: "start the threads", source })?;
    let outcome = runtime.block_on(until_signalled(config, metrics, demo));
    runtime.shutdown_timeout(Duration::from_millis(THREADS_STOP_MS_MAX));
    outcome
}

async fn until_signalled(config: Config, metrics: Metrics, demo: Option<DemoOptions>) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let deadline_ms = config.server.shutdown_drain_max_ms.saturating_add(CLOSE_MS_MAX);
    let shutdown = CancellationToken::new();
    let mut node = tokio::spawn(node::run(config, metrics.render(), demo, shutdown.clone()));
    drop(tokio::spawn(metrics.keep_up()));
    let first = tokio::select! {
        ended = &mut node => return ended.unwrap_or(Err(Failure::Panicked)),
        first = signals.next() => first,
    };
    tracing::info!(signal = first.name, "draining");
    shutdown.cancel();
    tokio::select! {
        ended = &mut node => ended.unwrap_or(Err(Failure::Panicked)),
        second = signals.next() => Err(Failure::SecondSignal { number: second.number }),
        () = tokio::time::sleep(Duration::from_millis(deadline_ms)) => Err(Failure::DrainDeadline { deadline_ms }),
    }
}

/// The two signals that ask to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

#[derive(Clone, Copy)]
struct Heard {
    name: &'static str,
    number: u8,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|source| Failure::Process { action: "listen for signals", source });
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.terminate.recv() => Heard { name: "SIGTERM", number: 15 },
            _ = self.interrupt.recv() => Heard { name: "SIGINT", number: 2 },
        }
    }
}
