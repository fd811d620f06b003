//! `Turns`: how many heavy queries read at once. Who has read little is let pass; who becomes heavy takes a turn or waits
//! for one, in line, and the line has a limit.
//!
//! It is asked before each batch that a scan reads, so nothing has to be foretold: a query with a LIMIT that has enough, or
//! one that finds its rows by their key, never gets there. A turn is a query's, whatever number of scans it has, so no
//! query waits for itself. A query that has not read for [`IDLE_MAX`], since its client does not take its rows or since it
//! sorts what it has, gives its turn up to those who wait; when it goes on, it stands in line again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{QuerySettings, Taken};
use crate::error::{Error, Result, SqlState};

/// A turn that is not used for so long goes to somebody who waits.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// Between two looks of those who wait at whether a turn is not used.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Turns {
    rows: u64,
    max: usize,
    queue_max: usize,
    /// What moments are counted from.
    origin: Instant,
    /// Held for a look only.
    line: Mutex<Line>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Line {
    reading: Vec<Arc<Standing>>,
    waiting: VecDeque<Arc<Standing>>,
}

/// Where one query stands.
#[derive(Debug, Default)]
struct Standing {
    rows: AtomicU64,
    /// Whether it is one of those that read.
    reads: AtomicBool,
    /// Whether it is one of those that wait.
    waits: AtomicBool,
    /// When it last asked, ms from the origin.
    used_ms: AtomicU64,
    granted: Notify,
    /// Whether nobody wants its rows any more.
    stopped: AtomicBool,
}

/// One query's. Its turn ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    standing: Arc<Standing>,
}

/// Whoever wants a query's rows: dropping it tells the query to stop.
#[derive(Debug)]
pub(crate) struct Asker(Arc<Turn>);

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.standing.stopped.store(true, Ordering::Relaxed);
    }
}

impl Turns {
    /// Nobody reads.
    pub(crate) fn new(settings: &QuerySettings) -> Self {
        Self {
            rows: settings.heavy_rows,
            max: settings.heavy_max.max(1),
            queue_max: settings.heavy_queue_max,
            origin: Instant::now(),
            line: Mutex::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// For a query that begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Turn {
        Turn { turns: Arc::clone(self), standing: Arc::default() }
    }

    /// How many read and wait.
    pub(crate) fn taken(&self) -> Taken {
        let line = self.line.lock();
        Taken {
            name: "heavy_queries",
            setting: "query.heavy_max",
            unit: "queries",
            used: line.reading.len() as u64,
            max: self.max as u64,
            waiting: line.waiting.len() as u64,
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the query may read; if not, it stands in line.
    fn enter(&self, standing: &Arc<Standing>) -> Result<bool> {
        let now_ms = self.now_ms();
        standing.used_ms.store(now_ms, Ordering::Relaxed);
        if standing.reads.load(Ordering::Acquire) {
            return Ok(true);
        }
        let mut line = self.line.lock();
        if !standing.reads.load(Ordering::Acquire) && !standing.waits.load(Ordering::Acquire) {
            let has_room = line.reading.len() < self.max && line.waiting.is_empty();
            if !has_room && line.waiting.len() >= self.queue_max {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(self.refusal(&line));
            }
            standing.waits.store(true, Ordering::Release);
            line.waiting.push_back(Arc::clone(standing));
        }
        self.advance(&mut line, now_ms);
        Ok(standing.reads.load(Ordering::Acquire))
    }

    /// Gives turns that nobody uses to those who wait.
    fn advance(&self, line: &mut Line, now_ms: u64) {
        let idle = |standing: &Arc<Standing>| {
            let since_ms = now_ms.saturating_sub(standing.used_ms.load(Ordering::Relaxed));
            u128::from(since_ms) > IDLE_MAX.as_millis()
        };
        if !line.waiting.is_empty() && line.reading.len() >= self.max {
            let (gone, kept) = std::mem::take(&mut line.reading).into_iter().partition(idle);
            line.reading = kept;
            let gone: Vec<Arc<Standing>> = gone;
            gone.iter().for_each(|standing| standing.reads.store(false, Ordering::Release));
        }
        while line.reading.len() < self.max
            && let Some(next) = line.waiting.pop_front()
        {
            next.waits.store(false, Ordering::Release);
            next.reads.store(true, Ordering::Release);
            // It may need a moment to notice.
            next.used_ms.store(now_ms, Ordering::Relaxed);
            next.granted.notify_waiters();
            line.reading.push(next);
        }
    }

    fn leave(&self, standing: &Arc<Standing>) {
        let mut line = self.line.lock();
        line.reading.retain(|other| !Arc::ptr_eq(other, standing));
        line.waiting.retain(|other| !Arc::ptr_eq(other, standing));
        self.advance(&mut line, self.now_ms());
    }

    fn refusal(&self, line: &Line) -> Error {
        let (reading, waiting) = (line.reading.len(), line.waiting.len());
        let message = format!(
            "too many heavy queries: {reading} read (query.heavy_max) and {waiting} wait (query.heavy_queue_max)"
        );
        Error::new(SqlState::ConfigurationLimitExceeded, message)
            .with_detail(format!("a query is heavy once it has read query.heavy_rows = {} rows", self.rows))
            .with_hint("try again later, read less, or raise query.heavy_max or query.heavy_queue_max")
    }
}

impl Turn {
    /// It has read so many rows more.
    pub(crate) fn has_read(&self, rows: usize) {
        self.standing.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Returns when it may read on: at once unless it is heavy and others are too.
    ///
    /// # Errors
    /// 53400 if too many wait already.
    pub(crate) async fn pass(&self) -> Result<()> {
        if self.standing.rows.load(Ordering::Relaxed) < self.turns.rows {
            return Ok(());
        }
        loop {
            let granted = self.standing.granted.notified();
            if self.turns.enter(&self.standing)? {
                return Ok(());
            }
            // Whoever has a turn and does not use it tells nobody.
            let _ = tokio::time::timeout(LOOK_PAUSE, granted).await;
        }
    }

    /// For whoever wants its rows.
    pub(crate) fn asker(self: &Arc<Self>) -> Asker {
        Asker(Arc::clone(self))
    }

    /// Whether nobody wants its rows any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.standing.stopped.load(Ordering::Relaxed)
    }

    /// What the query has waited for, if it waits.
    pub(crate) fn waits_for(&self) -> Option<String> {
        let max = self.turns.max;
        let waits = self.standing.waits.load(Ordering::Acquire);
        waits.then(|| format!("it waited for one of {max} heavy queries to end, as query.heavy_max says"))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.leave(&self.standing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(max: usize, queue_max: usize) -> Arc<Turns> {
        let settings =
            QuerySettings { heavy_rows: 10, heavy_max: max, heavy_queue_max: queue_max, ..QuerySettings::default() };
        Arc::new(Turns::new(&settings))
    }

    fn heavy(turns: &Arc<Turns>) -> Turn {
        let turn = turns.begin();
        turn.has_read(10);
        turn
    }

    #[tokio::test]
    async fn heavy_queries_wait_in_line_and_light_ones_pass() {
        let turns = turns(1, 1);
        let (first, second, third, light) = (heavy(&turns), heavy(&turns), heavy(&turns), turns.begin());
        light.has_read(9);
        first.pass().await.unwrap();
        first.pass().await.unwrap();
        let second = tokio::spawn(async move {
            second.pass().await.unwrap();
            second
        });
        while turns.taken().waiting == 0 {
            tokio::task::yield_now().await;
        }
        light.pass().await.unwrap();
        let refused = third.pass().await.unwrap_err();
        assert_eq!(refused.state, SqlState::ConfigurationLimitExceeded);
        let wanted = "too many heavy queries: 1 read (query.heavy_max) and 1 wait (query.heavy_queue_max)";
        assert_eq!(refused.message, wanted);
        drop(first);
        let second = tokio::time::timeout(Duration::from_secs(60), second).await.unwrap().unwrap();
        let taken = turns.taken();
        assert_eq!((taken.used, taken.waiting, taken.refused), (1, 0, 1));
        drop(second);
        third.pass().await.unwrap();
        drop(third);
        assert_eq!(turns.taken().used, 0);
    }

    #[tokio::test]
    async fn a_turn_that_is_not_used_goes_to_who_waits_and_its_query_waits_in_turn() {
        let turns = turns(1, 1);
        let (idle, eager) = (heavy(&turns), heavy(&turns));
        idle.pass().await.unwrap();
        tokio::time::timeout(Duration::from_secs(60), eager.pass()).await.unwrap().unwrap();
        let again = tokio::time::timeout(Duration::from_millis(1), idle.pass()).await;
        assert!(again.is_err() && idle.waits_for().is_some(), "the other one has just read");
        drop(eager);
        tokio::time::timeout(Duration::from_secs(60), idle.pass()).await.unwrap().unwrap();
        assert_eq!(idle.waits_for(), None);
    }

    #[tokio::test]
    async fn who_gives_up_waiting_is_out_of_the_line() {
        let turns = turns(1, 1);
        let (first, second, third) = (heavy(&turns), heavy(&turns), heavy(&turns));
        first.pass().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), second.pass()).await.is_err());
        drop(second);
        assert_eq!(turns.taken().waiting, 0);
        assert!(tokio::time::timeout(Duration::from_millis(1), third.pass()).await.is_err());
        assert_eq!(turns.taken().waiting, 1);
    }
}
