//! The look at consumer groups that are gone: their offsets are forgotten `offsets.retention` after the last of three: the
//! commit, the last member's leaving, the start of the process.
//!
//! A group with members keeps all its offsets, however old, as in Kafka. Of groups that had members before the process
//! began nobody knows when they left, so they are given the whole time anew: never too early.

use std::sync::Arc;
use std::time::Duration;

use super::broker::Broker;

/// Looks every `housekeeping.interval` until `shutdown`; never if that is 0, or if offsets are kept for ever.
pub(crate) async fn keep_looking(broker: Arc<Broker>) {
    let settings = broker.storage.settings();
    let interval = Duration::from_millis(settings.housekeeping_interval_ms);
    let Ok(retention_ms) = u64::try_from(settings.offsets_retention_ms) else { return };
    if interval.is_zero() {
        return;
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = broker.shutdown.cancelled() => return,
        }
        tokio::select! {
            () = look(&broker, retention_ms) => {}
            () = broker.shutdown.cancelled() => return,
        }
    }
}

async fn look(broker: &Broker, retention_ms: u64) {
    let retention_us = i64::try_from(retention_ms.saturating_mul(1000)).unwrap_or(i64::MAX);
    let before_us = broker.storage.clock().now_us().saturating_sub(retention_us);
    let (mut groups, mut offsets) = (0_usize, 0_usize);
    for group in broker.storage.groups_with_offsets() {
        if broker.coordinator.absent_ms(&group).is_none_or(|absent_ms| absent_ms < retention_ms) {
            continue;
        }
        let idle = broker.storage.idle_offsets(&group, before_us);
        if idle.is_empty() {
            continue;
        }
        let count = idle.len();
        if let Err(error) = broker.storage.remove_idle_offsets(idle).await {
            tracing::warn!(group, %error, "offsets of a group that is gone could not be removed, trying again");
            break;
        }
        groups += 1;
        offsets += count;
    }
    if groups > 0 {
        tracing::info!(groups, offsets, "forgot offsets of consumer groups after offsets.retention");
    }
    broker.coordinator.forget_absent(retention_ms);
}
