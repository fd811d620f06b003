//! `Job`: one continuous query from tick to tick, exactly once.
//!
//! 1. After a start the input up to the committed position is run again with its output suppressed; that is the state.
//! 2. A tick is read, decoded and computed ([`crate::operator::chain`]); the state is only looked at.
//! 3. Output records and the new position are one commit, which expects the old position: a second writer is refused,
//!    and a crash leaves both or none. A tick whose output does not fit one commit is halved and computed again.
//! 4. Only after the commit is durable does the state take the tick in. State may lag behind the log, never lead.
//!
//! When the source gets more partitions, the state is made anew: what was forgotten as closed was closed over the old ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use aquifer_storage::{Commit, ErrorKind, Expect, PositionChange, Storage};
use parking_lot::Mutex;
use tokio::runtime::RuntimeFlavor;
use tokio_util::sync::CancellationToken;

use super::position::Position;
use super::reader::Reader;
use super::sink::{Sink, appended_bytes};
use super::source::{Source, TICK_BYTES_MAX, offset_of, partitions_of};
use super::tick::Tick;
use crate::error::{Error, Result, SqlState};
use crate::operator::chain::{Chain, ChainDelta, ChainState};
use crate::operator::change::Changes;

/// Bytes of a commit kept for its position and its framing.
const COMMIT_OVERHEAD_BYTES: u64 = 64 << 10;
/// The first pause before passing trouble is tried again; it doubles from then on.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause between tries.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Pause when a wait has ended and there is still nothing to read, so that no bug makes it a busy loop.
const UNSTABLE_PAUSE: Duration = Duration::from_millis(10);
/// Records that are read and computed faster than their thread could be given to others.
const LIGHT_RECORDS_MAX: usize = 1024;
/// The part of `memory.limit` that one query's state may take: one in so many.
const STATE_SHARE: u64 = 4;

/// What others may see of a running job.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    inner: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    position: Option<Position>,
    error: Option<Error>,
}

/// See the head of this file.
pub(crate) struct Job {
    /// Where everything is.
    pub(crate) storage: Storage,
    /// Under which the position is stored.
    pub(crate) query_id: String,
    /// What it reads.
    pub(crate) reader: Reader,
    /// What it computes.
    pub(crate) chain: Chain,
    /// Where the result goes.
    pub(crate) sink: Sink,
    /// First offset it ever reads, by source partition; 0 where none is named.
    pub(crate) start: Vec<i64>,
    /// Timestamp of a result row that comes from no record, ms.
    pub(crate) start_ms: i64,
    /// Shown in `aquifer.queries`.
    pub(crate) progress: Arc<Progress>,
}

/// A tick computed but not committed.
struct Computed {
    commit: Commit,
    delta: ChainDelta,
    after: Position,
}

impl Progress {
    /// The last committed position.
    pub(crate) fn position(&self) -> Option<Position> {
        self.inner.lock().position.clone()
    }

    /// Why the job ended by itself.
    pub(crate) fn error(&self) -> Option<Error> {
        self.inner.lock().error.clone()
    }

    pub(crate) fn fail(&self, error: Error) {
        self.inner.lock().error = Some(error);
    }

    fn reach(&self, position: &Position) {
        self.inner.lock().position = Some(position.clone());
    }
}

impl Job {
    /// Runs until stopped.
    ///
    /// # Errors
    /// What ends the query for good: a record its expressions refuse, a second writer, damaged storage.
    pub(crate) async fn run(&mut self, stop: &CancellationToken) -> Result<()> {
        let stored = self.storage.position(&self.query_id);
        let stored = stored.ok_or_else(|| internal("the query's position is gone"))?;
        let mut position = Position::from_bytes(&stored)?;
        self.progress.reach(&position);
        self.settle(stop).await?;
        while !stop.is_cancelled() {
            self.reader.grow(partitions_of(&self.storage, self.reader.topic()));
            self.follow(&mut position, stop).await?;
        }
        Ok(())
    }

    /// Waits until what is there to be read is there at every later start too: compaction may have begun to take records
    /// away before it knew of this query.
    async fn settle(&self, stop: &CancellationToken) -> Result<()> {
        let mut pause = RETRY_PAUSE_MIN;
        while !stop.is_cancelled() {
            let settled = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                settled = self.storage.settle(self.reader.topic()) => settled,
            };
            match settled {
                Ok(()) => return Ok(()),
                Err(error) => pause = retry(Error::from(error), pause, stop).await?,
            }
        }
        Ok(())
    }

    /// Runs until stopped, or until the source has more partitions.
    async fn follow(&mut self, position: &mut Position, stop: &CancellationToken) -> Result<()> {
        let mut state = self.rebuild(position, stop).await?;
        let mut source = self.source(position.clone());
        if self.reader.keeps_origin() {
            // Records come out about as large as they went in: a tick that fits its commit need not be halved.
            let half = self.storage.settings().wal_commit_bytes_max / 2;
            source = source.with_tick_bytes_max(usize::try_from(half).unwrap_or(usize::MAX).min(TICK_BYTES_MAX));
        }
        let mut pending = VecDeque::new();
        while !stop.is_cancelled() && !self.has_grown() {
            let Some(tick) = self.next(&mut source, &mut pending, stop).await? else { return Ok(()) };
            let Some(computed) = self.compute(&state, position, tick, &mut pending)? else { continue };
            if !self.commit(computed.commit, stop).await? {
                return Ok(());
            }
            state.apply(&self.chain, computed.delta);
            state.forget_closed_windows(&self.chain, self.reader.partitions());
            *position = computed.after;
            self.progress.reach(position);
            self.check_memory(&state)?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn has_grown(&self) -> bool {
        partitions_of(&self.storage, self.reader.topic()) > self.reader.partitions()
    }

    fn source(&self, from: Position) -> Source {
        let topic = (self.reader.topic(), self.reader.partitions());
        Source::new(self.storage.clone(), topic, self.reader.raw_columns().to_vec(), from)
    }

    /// The state at `position`: its input run again, its output suppressed.
    async fn rebuild(&mut self, position: &Position, stop: &CancellationToken) -> Result<ChainState> {
        let mut state = self.chain.start();
        if self.chain.is_stateless() {
            return Ok(state);
        }
        if self.chain.begins_with_row() {
            // That row was written by the commit that made the query.
            let (_, delta) = self.chain.step(&state, Vec::new(), self.start_ms).map_err(Error::from)?;
            state.apply(&self.chain, delta);
        }
        let start = Position { ticks: 0, offsets: self.start.clone() };
        let mut source = self.source(start).until(position.clone());
        let mut pause = RETRY_PAUSE_MIN;
        while !stop.is_cancelled() {
            let tick = match source.next().await {
                Ok(Some(tick)) => tick,
                Ok(None) => break,
                Err(error) => {
                    pause = retry(error, pause, stop).await?;
                    continue;
                }
            };
            pause = RETRY_PAUSE_MIN;
            let (_, delta) = heavy(tick.rows(), || self.step(&state, &tick))?;
            state.apply(&self.chain, delta);
            state.forget_closed_windows(&self.chain, self.reader.partitions());
            self.check_memory(&state)?;
            tokio::task::yield_now().await;
        }
        Ok(state)
    }

    /// The next tick with something in it; `None` when stopped, or when there are more partitions.
    async fn next(
        &self,
        source: &mut Source,
        pending: &mut VecDeque<Tick>,
        stop: &CancellationToken,
    ) -> Result<Option<Tick>> {
        let mut pause = RETRY_PAUSE_MIN;
        let mut waited = false;
        while !stop.is_cancelled() && !self.has_grown() {
            if let Some(tick) = pending.pop_front() {
                return Ok(Some(tick));
            }
            match source.next().await {
                Ok(Some(tick)) => return Ok(Some(tick)),
                Ok(None) if waited => {
                    if paused(UNSTABLE_PAUSE, stop).await {
                        return Ok(None);
                    }
                }
                Ok(None) => {}
                Err(error) => pause = retry(error, pause, stop).await?,
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = source.wait() => waited = true,
            }
        }
        Ok(None)
    }

    fn step(&mut self, state: &ChainState, tick: &Tick) -> Result<(Vec<Changes>, ChainDelta)> {
        let input = self.reader.read_tick(tick)?;
        self.chain.step(state, input, self.start_ms).map_err(Error::from)
    }

    /// Computes a tick; `None` if its output did not fit and its halves are pending instead.
    fn compute(
        &mut self,
        state: &ChainState,
        position: &Position,
        tick: Tick,
        pending: &mut VecDeque<Tick>,
    ) -> Result<Option<Computed>> {
        let (appends, delta) = heavy(tick.rows(), || -> Result<_> {
            let (changes, delta) = self.step(state, &tick)?;
            Ok((self.sink.encode(&changes, self.batch_bytes_max())?, delta))
        })?;
        let (bytes, limit) = (appended_bytes(&appends), self.storage.settings().wal_commit_bytes_max);
        if bytes.saturating_add(COMMIT_OVERHEAD_BYTES) > limit {
            let (first, second) = tick.halve(offset_of).ok_or_else(|| {
                let message = format!("one record makes {bytes} bytes of output, wal.commit_bytes_max is {limit}");
                Error::new(SqlState::ProgramLimitExceeded, message)
                    .with_hint("raise wal.commit_bytes_max, or select fewer columns")
            })?;
            pending.push_front(second);
            pending.push_front(first);
            return Ok(None);
        }
        let after = tick.after(position);
        let change = PositionChange {
            query: self.query_id.clone(),
            value: Some(after.to_bytes()?),
            expect: Expect::Value(position.to_bytes()?),
        };
        let commit = Commit { appends, positions: vec![change], ..Commit::default() };
        Ok(Some(Computed { commit, delta, after }))
    }

    /// Largest batch that the result's topic takes now.
    fn batch_bytes_max(&self) -> usize {
        let topic = self.storage.topic_by_id(self.sink.topic());
        let bytes = topic.map_or(u64::MAX, |topic| topic.config.resolve(self.storage.settings()).max_message_bytes);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Commits, however often passing trouble makes it try; false when stopped before.
    async fn commit(&self, commit: Commit, stop: &CancellationToken) -> Result<bool> {
        let mut pause = RETRY_PAUSE_MIN;
        while !stop.is_cancelled() {
            match self.storage.commit(commit.clone()).await {
                Ok(_) => return Ok(true),
                Err(error) if is_passing(&error) => pause = retry(Error::from(error), pause, stop).await?,
                Err(error) => return Err(Error::from(error)),
            }
        }
        Ok(false)
    }

    fn check_memory(&self, state: &ChainState) -> Result<()> {
        let limit = self.storage.settings().memory_limit / STATE_SHARE;
        let bytes = state.bytes() as u64;
        if bytes <= limit {
            return Ok(());
        }
        let message = format!("the query's state takes {bytes} bytes, more than a quarter of memory.limit ({limit})");
        Err(Error::new(SqlState::OutOfMemory, message)
            .with_hint("raise memory.limit, group by fewer keys, or use a window with a shorter GRACE PERIOD"))
    }
}

/// Does work on a tick of so many records without keeping the tasks of this thread waiting, if it is much.
fn heavy<T>(records: usize, work: impl FnOnce() -> T) -> T {
    let flavor = tokio::runtime::Handle::current().runtime_flavor();
    if records > LIGHT_RECORDS_MAX && flavor == RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

/// Whether the same call may succeed later.
fn is_passing(error: &aquifer_storage::Error) -> bool {
    matches!(error.kind(), ErrorKind::Retry | ErrorKind::MakeRoom)
}

/// Waits before the next try if the trouble may pass, and gives the pause after that.
async fn retry(error: Error, pause: Duration, stop: &CancellationToken) -> Result<Duration> {
    let source = error.source.as_ref().and_then(|source| source.downcast_ref::<aquifer_storage::Error>());
    if !source.is_some_and(is_passing) {
        return Err(error);
    }
    tracing::warn!(%error, pause_ms = pause.as_millis(), "storage refused, trying again");
    paused(pause, stop).await;
    Ok((pause * 2).min(RETRY_PAUSE_MAX))
}

/// Waits; true when stopped meanwhile.
async fn paused(pause: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(pause) => false,
    }
}

fn internal(what: &str) -> Error {
    Error::new(SqlState::InternalError, what)
}
