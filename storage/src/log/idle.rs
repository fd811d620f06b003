//! Offsets of consumer groups that nobody has committed for long: found group by group, removed as they were found.
//!
//! Who is gone is known above, where members are. Here is what must not be raced: an offset that was committed again after
//! it was found idle stays, and so does everything of a group for which a transaction has offsets that wait.

use crate::error::Result;
use crate::log::Node;
use crate::log::ledger::{Judge, OFFSET_BYTES, Request};
use crate::log::own::Change;
use crate::view::IdleOffset;

/// Bytes of removals in one commit, about, unless `wal.commit_bytes_max` is smaller.
const REMOVED_BYTES_MAX: u64 = 1 << 20;

impl Node {
    /// What a group committed before a time and not since.
    pub(crate) fn idle_offsets(&self, group: &str, before_us: i64) -> Vec<IdleOffset> {
        let published = self.shared.published.read();
        let idle = published.own.offsets_of_group(group).filter(|(_, offset)| offset.committed_at_us < before_us);
        let found = idle.map(|((group, partition), offset)| IdleOffset {
            group: group.clone(),
            partition: *partition,
            committed_at_us: offset.committed_at_us,
        });
        found.collect()
    }

    /// Removes these as far as they are still what was found.
    pub(crate) async fn remove_idle(&self, mut idle: Vec<IdleOffset>) -> Result<()> {
        let bytes_max = REMOVED_BYTES_MAX.min(self.shared.settings.wal_commit_bytes_max / 2);
        while !idle.is_empty() {
            let mut bytes = 0;
            let fit = idle.iter().take_while(|offset| {
                bytes += removal_bytes(offset);
                bytes <= bytes_max
            });
            // One that is too large by itself is refused by the name of the limit.
            let rest = idle.split_off(fit.count().max(1));
            self.submit(Request { idle, ..Request::default() }).await?;
            idle = rest;
        }
        Ok(())
    }
}

impl Judge<'_> {
    pub(crate) fn remove_idle(&mut self, offset: IdleOffset) -> Result<()> {
        let IdleOffset { group, partition, committed_at_us } = offset;
        let own = &self.ledger.own;
        let key = (group, partition);
        let as_found = own.group_offsets.get(&key).is_some_and(|offset| offset.committed_at_us == committed_at_us);
        if !as_found || own.pending_of_group(&key.0).next().is_some() {
            return Ok(());
        }
        self.change(Change::GroupOffset { group: key.0, partition, value: None })
    }
}

/// What a removal takes in the log, at the most.
pub(crate) fn removal_bytes(offset: &IdleOffset) -> u64 {
    // In JSON a byte of the name may take six.
    (OFFSET_BYTES + 6 * offset.group.len()) as u64
}
