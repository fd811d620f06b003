//! Memory of queries: one bounded pool that all share fairly, and a bounded folder for what finds no room in it.
//!
//! What can spill (sorts, groups) shares three quarters of the pool and spills beyond its share; what cannot (the rows a hash
//! join is built of, the latest rows of a table, the rows that a sort is merging) takes what is left: without that quarter
//! two sorts could fill the pool between them and neither could merge what it holds, which is what spilling begins with. Whoever finds nothing left fails alone, told by 53200 which
//! limit it was.

use std::any::Any;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use datafusion::common::DataFusionError;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};

use crate::error::{Error, Result, SqlState};

/// What bounds the pool.
pub(crate) const SETTING: &str = "memory.limit";

/// Memory that a sort keeps for merging what it has spilled, if the pool is large enough for it.
const MERGE_BYTES_MAX: usize = 10 << 20;

/// The pool is at least so many times as large as what one sort keeps for merging.
const MERGE_SHARE: usize = 32;

/// Rows of a batch, where memory is no matter.
const BATCH_ROWS_MAX: usize = 8192;

/// Rows of a batch at the least.
const BATCH_ROWS_MIN: usize = 256;

/// The pool has so many bytes for each row of a batch: operators hold several batches at once, and what cannot take in even
/// one cannot spill it either.
const BYTES_PER_BATCH_ROW: usize = 32 << 10;

/// The pool has so many bytes for each lane of a query. Sorts beside one another merge what they have spilled with all the
/// memory that they find: in a small pool the first would leave the second nothing.
const LANE_BYTES_MIN: usize = 32 << 20;

/// The pool.
struct QueryMemory {
    /// Of those that can spill, and of them alone.
    spilling: FairSpillPool,
    /// What all others hold.
    fixed: AtomicUsize,
    bytes_max: usize,
    refused: AtomicU64,
}

/// Memory and disk of a node's queries. What a process that died has left in the folder goes.
///
/// # Errors
/// 58030 if the folder cannot be made empty.
pub(crate) fn runtime(bytes_max: u64, spill_dir: &Path, spill_bytes_max: u64) -> Result<Arc<RuntimeEnv>> {
    let emptied = match std::fs::remove_dir_all(spill_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::fs::create_dir_all(spill_dir),
    };
    emptied.map_err(|error| {
        let message = format!("cannot empty {}, which queries spill into: {error}", spill_dir.display());
        Error::new(SqlState::IoError, message).with_hint("make it a folder that the node may write to")
    })?;
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let spilling = FairSpillPool::new(bytes_max / 4 * 3);
    let pool = QueryMemory { spilling, fixed: AtomicUsize::new(0), bytes_max, refused: AtomicU64::new(0) };
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![spill_dir.to_owned()]))
        .with_max_temp_directory_size(spill_bytes_max);
    Ok(RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).with_disk_manager_builder(disk).build_arc()?)
}

/// What a sort keeps for merging in a pool of this size.
pub(crate) fn merge_bytes(runtime: &RuntimeEnv) -> usize {
    let bytes_max = usize::try_from(limit(runtime)).unwrap_or(usize::MAX);
    MERGE_BYTES_MAX.min(bytes_max / MERGE_SHARE)
}

/// Rows of a batch beside a pool of this size.
pub(crate) fn batch_rows(runtime: &RuntimeEnv) -> usize {
    let bytes_max = usize::try_from(limit(runtime)).unwrap_or(usize::MAX);
    (bytes_max / BYTES_PER_BATCH_ROW).clamp(BATCH_ROWS_MIN, BATCH_ROWS_MAX)
}

/// Lanes that a query is worked off in beside a pool of this size: one for each processor, if there is memory for them.
pub(crate) fn lanes(runtime: &RuntimeEnv) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let bytes_max = usize::try_from(limit(runtime)).unwrap_or(usize::MAX);
    (bytes_max / LANE_BYTES_MIN).clamp(1, processors)
}

/// The pool's size.
pub(crate) fn limit(runtime: &RuntimeEnv) -> u64 {
    pool_of(runtime).map_or(u64::MAX, |pool| pool.bytes_max as u64)
}

/// How often it was refused.
pub(crate) fn refused(runtime: &RuntimeEnv) -> u64 {
    pool_of(runtime).map_or(0, |pool| pool.refused.load(Ordering::Relaxed))
}

fn pool_of(runtime: &RuntimeEnv) -> Option<&QueryMemory> {
    (runtime.memory_pool.as_ref() as &dyn Any).downcast_ref()
}

impl fmt::Debug for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.spilling, f)
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.spilling, f)
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &'static str {
        "query memory"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.spilling.register(consumer);
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.spilling.unregister(consumer);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        if reservation.consumer().can_spill() {
            self.spilling.grow(reservation, additional);
        } else {
            self.fixed.fetch_add(additional, Ordering::Relaxed);
        }
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        if reservation.consumer().can_spill() {
            self.spilling.shrink(reservation, shrink);
        } else {
            self.fixed.fetch_sub(shrink, Ordering::Relaxed);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> DataFusionResult<()> {
        let granted = if reservation.consumer().can_spill() {
            let fits = self.reserved().saturating_add(additional) <= self.bytes_max;
            fits && self.spilling.try_grow(reservation, additional).is_ok()
        } else {
            let room = self.bytes_max.saturating_sub(self.spilling.reserved());
            let grown = |fixed: usize| fixed.checked_add(additional).filter(|fixed| *fixed <= room);
            self.fixed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
        };
        if granted {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        // Operators that can spill look for this very kind of error.
        Err(DataFusionError::ResourcesExhausted(format!(
            "out of memory: {} holds {} bytes and wants {additional} more, of {} that all queries have together by {SETTING}",
            reservation.consumer().name(),
            reservation.size(),
            self.bytes_max,
        )))
    }

    fn reserved(&self) -> usize {
        self.spilling.reserved().saturating_add(self.fixed.load(Ordering::Relaxed))
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_who_wanted_what_and_the_setting_and_what_a_dead_process_left_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let spill = directory.path().join("spill");
        std::fs::create_dir_all(spill.join("left")).unwrap();
        let runtime = runtime(1000, &spill, 10).unwrap();
        assert!(!spill.join("left").exists());
        let reservation = MemoryConsumer::new("a join").register(&runtime.memory_pool);
        reservation.try_grow(400).unwrap();
        let error = Error::from(reservation.try_grow(700).unwrap_err());
        assert_eq!(error.state, SqlState::OutOfMemory);
        let wanted = "out of memory: a join holds 400 bytes and wants 700 more, of 1000 that all queries have together by memory.limit";
        assert_eq!(error.message, wanted);
        assert_eq!((limit(&runtime), refused(&runtime), merge_bytes(&runtime)), (1000, 1, 1000 / MERGE_SHARE));
        assert_eq!((batch_rows(&runtime), lanes(&runtime)), (BATCH_ROWS_MIN, 1));
        drop(reservation);
        assert_eq!(runtime.memory_pool.reserved(), 0);
    }

    #[test]
    fn what_can_spill_leaves_room_for_what_cannot_and_gets_none_of_what_that_has() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = runtime(1000, &directory.path().join("spill"), 10).unwrap();
        let sort = |name| MemoryConsumer::new(name).with_can_spill(true).register(&runtime.memory_pool);
        let (one, other) = (sort("one"), sort("other"));
        let merge = MemoryConsumer::new("merge").register(&runtime.memory_pool);
        one.try_grow(375).unwrap();
        other.try_grow(375).unwrap();
        one.try_grow(1).unwrap_err();
        merge.try_grow(250).unwrap();
        merge.try_grow(1).unwrap_err();
        drop(one);
        merge.try_grow(300).unwrap();
        other.try_grow(76).unwrap_err();
        other.try_grow(75).unwrap();
        drop((merge, other));
        assert_eq!(runtime.memory_pool.reserved(), 0);
    }
}
