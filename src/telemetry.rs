//! What the process says about itself: logs on standard error, metrics for `GET /metrics`.
//!
//! Standard output belongs to the `ready` line (and the demo's commands), so that a script can read it.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::args::VERSION;
use crate::failure::Failure;

/// Renders the metrics in Prometheus's text format.
pub(crate) type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Upper bounds for everything measured in seconds: from a page cache hit to a stuck disk.
const SECONDS: [f64; 14] = [0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// And for bytes: from a small record to the largest commit.
const BYTES: [f64; 10] =
    [256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0];
/// And for commits that share something.
const COMMITS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0];
/// How often what was measured is put into its buckets, though nobody asks: until then each value takes memory.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The process's metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    recorder: PrometheusHandle,
}

impl Metrics {
    /// For `GET /metrics`.
    pub(crate) fn render(&self) -> RenderMetrics {
        let recorder = self.recorder.clone();
        Arc::new(move || recorder.render())
    }

    /// Keeps their memory bounded, for ever.
    pub(crate) async fn keep_up(self) {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            self.recorder.run_upkeep();
        }
    }
}

/// Starts both; called once, before anything else can want to say something.
pub(crate) fn start() -> Result<Metrics, Failure> {
    start_logs()?;
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES))
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_commits".to_owned()), &COMMITS))
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| Failure::Config(format!("cannot start the metrics: {error}")))?;
    aquifer_server::describe_metrics();
    metrics::gauge!("aquifer_build_info", "version" => VERSION).set(1.0);
    Ok(Metrics { recorder })
}

fn start_logs() -> Result<(), Failure> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.trim().is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            Failure::Config(format!("RUST_LOG = '{text}' is not a filter ({error}); write for example 'info' or 'aquifer_storage=debug,info'"))
        })?,
        _ => EnvFilter::new("info"),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    // A panic is a bug of ours: it must stand in the log like every other ERROR, not only on the terminal.
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%backtrace, "panicked: {panic}");
    }));
    Ok(())
}
