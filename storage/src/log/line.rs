//! The line in front of the queue: a commit that finds no room waits, and nobody who came later overtakes it.
//!
//! A semaphore alone does not keep that promise: it grants room in order, but whoever has it granted runs later, on any
//! thread, and another may have taken its place in the queue by then. So room is taken and used under one lock, and one
//! task at a time moves those who wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::log::ledger::Request;
use crate::log::pipe::{Answer, Job};
use crate::log::shared::Shared;
use crate::worker;

/// The queue counts bytes in units of this, so that its permits fit a semaphore.
const QUEUE_UNIT_BYTES: u64 = 1 << 10;
/// What a commit is counted as beside what it holds.
const COMMIT_OVERHEAD_BYTES: u64 = 256;

/// Who waits, and the room they wait for.
#[derive(Debug)]
pub(crate) struct Line {
    /// Permits of [`QUEUE_UNIT_BYTES`].
    room: Arc<Semaphore>,
    room_units: u32,
    /// Bounded by those who wait for an answer. Never held across an await; taken before the pipe's lock.
    waiting: Mutex<VecDeque<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    request: Request,
    bytes: u64,
    units: u32,
    answer: Answer,
    came_at: Instant,
}

impl Waiting {
    fn with(self, permit: OwnedSemaphorePermit) -> Job {
        let Self { request, bytes, answer, came_at, .. } = self;
        Job { request, bytes, answer, permit, came_at }
    }
}

impl Line {
    /// A line before a queue of so many bytes.
    pub(crate) fn new(queue_bytes_max: u64) -> Self {
        let units = queue_bytes_max.div_ceil(QUEUE_UNIT_BYTES).clamp(1, u64::from(u32::MAX >> 4));
        let room_units = u32::try_from(units).unwrap_or(u32::MAX >> 4);
        Self { room: Arc::new(Semaphore::new(room_units as usize)), room_units, waiting: Mutex::default() }
    }

    /// Queues a request, at once or when those before it are queued. Dropped answers say that nothing is taken any more.
    pub(crate) fn join(self: &Arc<Self>, shared: &Arc<Shared>, request: Request, answer: Answer) {
        let bytes = request.batch_bytes() + request.carried_bytes() + request.own_bytes() + COMMIT_OVERHEAD_BYTES;
        let units = u32::try_from(bytes.div_ceil(QUEUE_UNIT_BYTES)).unwrap_or(u32::MAX).min(self.room_units);
        let next = Waiting { request, bytes, units, answer, came_at: Instant::now() };
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            match Arc::clone(&self.room).try_acquire_many_owned(units) {
                Ok(permit) => return shared.pipe.push(next.with(permit)),
                Err(TryAcquireError::Closed) => return,
                Err(TryAcquireError::NoPermits) => {}
            }
            // A task of its own: the line moves on although a caller has gone away.
            drop(worker::spawn(Arc::clone(self).move_on(Arc::clone(shared))));
        }
        waiting.push_back(next);
    }

    /// Queues those who wait, one by one, until nobody does.
    async fn move_on(self: Arc<Self>, shared: Arc<Shared>) {
        loop {
            let Some(units) = self.waiting.lock().front().map(|first| first.units) else { return };
            let permit = Arc::clone(&self.room).acquire_many_owned(units).await;
            let mut waiting = self.waiting.lock();
            let Ok(permit) = permit else { return waiting.clear() };
            if let Some(first) = waiting.pop_front() {
                shared.pipe.push(first.with(permit));
            }
            // Who comes now finds nobody waiting and starts another task.
            if waiting.is_empty() {
                return;
            }
        }
    }

    /// How many wait for room in the queue.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Takes nobody any more.
    pub(crate) fn close(&self) {
        self.room.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.room.is_closed()
    }
}
