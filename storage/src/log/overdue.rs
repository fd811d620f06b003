//! The look at what time brings about: transactions past their timeout are aborted and their producers fenced, the log's own
//! that nobody goes on with are aborted, idle transactional ids are forgotten. After a restart as before it.
//!
//! It decides nothing: it finds who may be due and asks the writer, who judges by its own view. Trouble is told and the
//! next look tries again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::log::Node;
use crate::log::ledger::Request;
use crate::log::transaction::is_own;
use crate::view::TransactionState;
use crate::worker;

/// How often it looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Transactions taken in one look; the next one takes more.
const LOOK_MAX: usize = 1000;

impl Node {
    /// Ends what is due now; gives how many there were.
    pub(crate) async fn end_overdue(&self) -> usize {
        let due = self.due();
        for (id, overdue) in &due {
            let request = Request { overdue: vec![id.clone()], ..Request::default() };
            if let Err(error) = self.submit(request).await {
                tracing::warn!(transactional_id = %id, %error, "an overdue transaction could not be ended, trying again");
                break;
            }
            // Its client may have been quicker.
            let state = self.shared.published.read().own.transactions.get(id).map(|transaction| transaction.state);
            if *overdue && state == Some(TransactionState::CompleteAbort) {
                self.shared.meter.timed_out();
            }
        }
        due.len()
    }

    /// Who may be due, and whether because of an open transaction's timeout.
    fn due(&self) -> Vec<(String, bool)> {
        let (now_us, expiration_ms) = (self.shared.clock.now_us(), self.shared.settings.transaction_id_expiration_ms);
        let live = self.live.lock();
        let published = self.shared.published.read();
        let due = published.own.transactions.iter().filter(|(id, transaction)| {
            let abandoned = is_own(id) && !live.contains(id.as_str());
            abandoned || transaction.is_overdue(now_us) || transaction.is_expired(now_us, expiration_ms)
        });
        due.take(LOOK_MAX)
            .map(|(id, transaction)| (id.clone(), transaction.is_overdue(now_us) && !is_own(id)))
            .collect()
    }
}

/// Looks until the node closes or is gone.
pub(crate) async fn look(node: Weak<Node>) {
    loop {
        // Not over the wait: a node that is dropped must go at once.
        let Some(woken) = node.upgrade().map(|node| Arc::clone(&node.look)) else { return };
        let _due_or_woken = worker::timeout(LOOK_INTERVAL, woken.notified()).await;
        let Some(node) = node.upgrade().filter(|node| !node.line.is_closed()) else { return };
        node.end_orphans().await;
        node.end_overdue().await;
    }
}
