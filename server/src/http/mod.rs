//! HTTP: `GET /health` says the process lives, `GET /ready` whether it takes writes and if not why, `GET /metrics` what
//! it counts.

mod guard;
mod metrics;

use std::time::Duration;

use aquifer_storage::Health;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use self::guard::GuardedListener;
use crate::listen::Listener;
use crate::server::Components;
use crate::settings::ServerSettings;

/// Prometheus's text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Tells the process's recorder of metrics what each of them is.
pub fn describe_metrics() {
    metrics::describe();
}

/// Serves HTTP's port until `shutdown`, then waits for answers under way at most `shutdown_drain_max_ms`.
pub(crate) async fn serve(
    listener: Listener,
    components: Components,
    settings: ServerSettings,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/health", get(|| async { "alive\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(show_metrics))
        .with_state(Answers { components, shutdown: shutdown.clone() });
    let listener = GuardedListener::new(listener, &settings);
    let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let drain_max = async {
        shutdown.cancelled().await;
        tokio::time::sleep(Duration::from_millis(settings.shutdown_drain_max_ms)).await;
    };
    tokio::select! {
        served = serving => {
            if let Err(error) = served {
                tracing::error!(%error, "the HTTP listener broke down");
            }
        }
        () = drain_max => {}
    }
}

#[derive(Clone)]
struct Answers {
    components: Components,
    shutdown: CancellationToken,
}

async fn ready(State(answers): State<Answers>) -> (StatusCode, String) {
    let reason = if answers.shutdown.is_cancelled() {
        Err("shutting down".to_owned())
    } else {
        reason_of(&answers.components.storage.health())
    };
    match reason {
        Ok(text) => (StatusCode::OK, format!("{text}\n")),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

/// Whether the node does its work, and what to know about it. Damaged ranges answer errors, the rest is served: a node
/// that is taken out of service for them would serve nothing.
fn reason_of(health: &Health) -> Result<String, String> {
    match health {
        Health::Ready => Ok("ready".to_owned()),
        Health::Damaged(ranges) => Ok(format!("ready, but damaged: {}", ranges.join("; "))),
        Health::ReadOnly(reason) => Err(format!("read-only: {reason}")),
        Health::Full(reason) => Err(format!("writes are refused: {reason}")),
    }
}

async fn show_metrics(State(answers): State<Answers>) -> impl IntoResponse {
    metrics::sample(&answers.components.storage);
    ([(header::CONTENT_TYPE, METRICS_TYPE)], (answers.components.metrics)())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_takes_no_writes_is_not_ready_and_says_why() {
        assert_eq!(reason_of(&Health::Ready), Ok("ready".to_owned()));
        assert_eq!(reason_of(&Health::ReadOnly("disk full".into())), Err("read-only: disk full".to_owned()));
        assert_eq!(reason_of(&Health::Full("log".into())), Err("writes are refused: log".to_owned()));
        assert!(reason_of(&Health::Damaged(vec!["topic a 0: 5..7".into()])).is_ok_and(|text| text.contains("5..7")));
    }
}
