//! The loop that lets the log forget what is tiered, trimmed or deleted: beside tiering, so that a store that never answers
//! does not keep the log from getting smaller.
//!
//! What may go and what is carried over is the log's to decide ([`Node::forget`]); this only says when. Trouble is told,
//! and met with a growing pause.

use std::sync::Weak;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::log::Node;
use crate::tier::worker::chain;
use crate::worker::{self, Loop};

/// How often it looks, ms.
const LOOK_INTERVAL_MS: u64 = 1_000;

/// Longest pause after failures, ms.
const PAUSE_MS_MAX: u64 = 60_000;

/// Starts it. The node is held weakly, so that one that is dropped without being closed goes at once.
pub(crate) fn start(node: Weak<Node>) -> Loop {
    Loop::start("forgetting", |stop| run(node, stop))
}

async fn run(node: Weak<Node>, stop: CancellationToken) {
    let mut pause_ms = 0;
    loop {
        let pause = Duration::from_millis(LOOK_INTERVAL_MS.max(pause_ms));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = worker::sleep(pause) => {}
        }
        let Some(node) = node.upgrade() else { return };
        // Not cut off by a stop: files must not be removed any more once the directory is given back.
        let Err(error) = node.forget().await else {
            pause_ms = 0;
            continue;
        };
        metrics::counter!("aquifer_log_forget_failures_total").increment(1);
        pause_ms = (pause_ms * 2).clamp(LOOK_INTERVAL_MS, PAUSE_MS_MAX);
        tracing::warn!(reason = %chain(&error), pause_ms, "the log could not forget, which is tried again");
    }
}
