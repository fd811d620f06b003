//! The one door through which work begins beside its caller, and through which it waits: tasks, threads, blocking work,
//! pauses and deadlines.
//!
//! In production each is the operating system's or tokio's own. Under the feature `testing` a thread that runs a
//! simulation (`testing/schedule`) has a scheduler instead, which decides by a seed who goes on next and what time it is:
//! then all of it happens on that one thread, and the same seed gives the same history. `storage/clippy.toml` forbids the
//! other ways.

use std::future::Future;
use std::io;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use futures::future::{AbortHandle, Abortable};
use parking_lot::Mutex;
use thread_priority::{ThreadPriority, ThreadPriorityValue, set_current_thread_priority};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
#[cfg(any(test, feature = "testing"))]
use crate::testing::schedule;

/// How long the stop of a loop waits for the step in progress, ms; then it is dropped where it stands, as by a crash.
const STOP_MS_MAX: u64 = 5_000;

/// Of threads in the background, of 99, where 50 is what threads have: niceness 5 on Linux. A commit that comes while both of
/// two processors make objects does not wait for its turn; what is left over still suffices for the objects.
const BACKGROUND_PRIORITY: u8 = 37;

/// How long a step may wait for something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Until there is something: what threads have.
    Wait,
    /// Not at all.
    #[cfg_attr(
        not(any(test, feature = "testing")),
        expect(dead_code, reason = "only a simulation steps without waiting")
    )]
    None,
    /// Not at all, and whatever was to be waited for has passed.
    Elapsed,
}

/// What a step has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something was done.
    Worked,
    /// There was nothing to do, and no patience to wait for it.
    Idle,
    /// Nothing will ever be done again.
    Done,
}

/// A task that runs beside its starter; it goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Task {
    abort: AbortHandle,
    ended: oneshot::Receiver<()>,
}

impl Task {
    /// Drops what the task runs where it stands.
    pub(crate) fn abort(&self) {
        self.abort.abort();
    }

    /// Returns when it has ended.
    pub(crate) async fn ended(&mut self) {
        // The sender is dropped with the task, however it ends.
        let _ = (&mut self.ended).await;
    }
}

/// Work that goes on until it is stopped, or until its owner is dropped without having stopped it.
#[derive(Debug)]
pub(crate) struct Loop {
    /// What it does, for the log: "tiering".
    name: &'static str,
    stop: CancellationToken,
    /// Taken by the first stop.
    task: Mutex<Option<Task>>,
}

impl Loop {
    /// Starts the work, which ends soon after the token it is given is cancelled.
    pub(crate) fn start<W: Future<Output = ()> + Send + 'static>(
        name: &'static str,
        work: impl FnOnce(CancellationToken) -> W,
    ) -> Self {
        let stop = CancellationToken::new();
        let task = spawn(work(stop.clone()));
        Self { name, stop, task: Mutex::new(Some(task)) }
    }

    /// Stops it; returns when the step in progress is over, or dropped after [`STOP_MS_MAX`].
    pub(crate) async fn stop(&self) {
        self.stop_within(Duration::from_millis(STOP_MS_MAX)).await;
    }

    async fn stop_within(&self, limit: Duration) {
        self.stop.cancel();
        let task = self.task.lock().take();
        let Some(mut task) = task else { return };
        if timeout(limit, task.ended()).await.is_none() {
            tracing::warn!(work = self.name, "work did not stop in time, its step is dropped");
            task.abort();
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Whoever is dropped without being closed leaves no work behind.
        self.stop.cancel();
    }
}

/// Starts a task.
#[expect(clippy::disallowed_methods, reason = "the door itself")]
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Task {
    let (abort, registration) = AbortHandle::new_pair();
    let (end, ended) = oneshot::channel::<()>();
    let work = Abortable::new(work, registration);
    let whole = async move {
        // An aborted task has no result.
        let _ = work.await;
        drop(end);
    };
    #[cfg(any(test, feature = "testing"))]
    if schedule::is_on() {
        schedule::spawn(whole);
        return Task { abort, ended };
    }
    drop(tokio::spawn(whole));
    Task { abort, ended }
}

/// Runs what blocks on a thread where it may.
///
/// # Errors
/// Those of the work; [`Error::Closed`] if it has no end, since the runtime goes down or it panicked.
#[expect(clippy::disallowed_methods, reason = "the door itself")]
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    #[cfg(any(test, feature = "testing"))]
    if schedule::is_on() {
        // Others may come first and after, as with threads; the work itself is one step.
        schedule::pass().await;
        let done = work();
        schedule::pass().await;
        return done;
    }
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Closed))
}

/// Runs what blocks and nobody waits for, as making objects, on a thread of its own that gives way to the others. How many
/// there are at once is up to those who ask: tiering and housekeeping each do one thing at a time.
///
/// # Errors
/// Those of the work; [`Error::Io`] if the system has no thread left, [`Error::Closed`] if it panicked.
pub(crate) async fn background<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    #[cfg(any(test, feature = "testing"))]
    if schedule::is_on() {
        return blocking(work).await;
    }
    let (done, result) = oneshot::channel();
    let body = move || {
        give_way();
        // Whoever asked may be gone.
        drop(done.send(work()));
    };
    std::thread::Builder::new().name("background".to_owned()).spawn(body).map_err(Error::io("start a thread"))?;
    result.await.unwrap_or(Err(Error::Closed))
}

/// Lowers the priority of this thread, for work that nobody's acknowledgement waits for. Where the system has no such thing everything works as well, only less smoothly.
pub fn give_way() {
    let lower = ThreadPriorityValue::try_from(BACKGROUND_PRIORITY).map(ThreadPriority::Crossplatform);
    if let Ok(lower) = lower
        && let Err(error) = set_current_thread_priority(lower)
    {
        tracing::debug!(?error, "a background thread has the priority of all others");
    }
}

/// Waits.
#[expect(clippy::disallowed_methods, reason = "the door itself")]
pub(crate) async fn sleep(pause: Duration) {
    #[cfg(any(test, feature = "testing"))]
    if schedule::is_on() {
        return schedule::sleep(pause).await;
    }
    tokio::time::sleep(pause).await;
}

/// Runs something for as long as `limit` at the most; `None` if it takes longer, and then it is dropped where it stands.
#[expect(clippy::disallowed_methods, reason = "the door itself")]
pub(crate) async fn timeout<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
    #[cfg(any(test, feature = "testing"))]
    if schedule::is_on() {
        let mut work = std::pin::pin!(work);
        let mut over = std::pin::pin!(schedule::sleep(limit));
        return tokio::select! {
            biased;
            done = &mut work => Some(done),
            () = &mut over => None,
        };
    }
    tokio::time::timeout(limit, work).await.ok()
}

/// Time since some moment in the past, never going back: for deadlines and for how long something took.
pub(crate) fn steady() -> Duration {
    #[cfg(any(test, feature = "testing"))]
    if schedule::is_on() {
        return Duration::from_micros(schedule::steady_us());
    }
    ORIGIN.elapsed()
}

/// The moment in the past. It differs from process to process and means nothing outside of this one.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A thread made of steps, so that a simulation can take them one by one.
#[derive(Debug)]
pub(crate) enum Thread {
    /// A real one.
    Own(std::thread::JoinHandle<()>),
    /// Steps that a scheduler takes.
    #[cfg(any(test, feature = "testing"))]
    Simulated(u64),
}

impl Thread {
    /// Starts a thread that takes steps until one is [`Step::Done`].
    ///
    /// # Errors
    /// Of the operating system.
    pub(crate) fn start(name: &str, mut step: impl FnMut(Patience) -> Step + Send + 'static) -> io::Result<Self> {
        #[cfg(any(test, feature = "testing"))]
        if schedule::is_on() {
            return Ok(Self::Simulated(schedule::add_thread(Box::new(step))));
        }
        let body = move || while step(Patience::Wait) != Step::Done {};
        std::thread::Builder::new().name(name.to_owned()).spawn(body).map(Self::Own)
    }

    /// Waits for its end.
    pub(crate) fn join(self) {
        match self {
            // Its steps have turned their own panics into states.
            Self::Own(thread) => drop(thread.join()),
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(thread) => schedule::join(thread),
        }
    }
}

/// A place at which a simulated process may die; nothing in production.
#[inline]
pub(crate) fn crash_point(name: &'static str) {
    #[cfg(any(test, feature = "testing"))]
    schedule::reach(name);
    #[cfg(not(any(test, feature = "testing")))]
    let _ = name;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Notes when it is dropped.
    struct Noted(Arc<AtomicBool>);

    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// A loop that ends when told, or never; whether it has ended.
    fn loop_that(listens: bool) -> (Loop, Arc<AtomicBool>) {
        let ended = Arc::new(AtomicBool::new(false));
        let noted = Noted(Arc::clone(&ended));
        let work = Loop::start("a test", move |stop| async move {
            let _noted = noted;
            if listens { stop.cancelled().await } else { std::future::pending().await }
        });
        (work, ended)
    }

    async fn has_ended(ended: &AtomicBool) {
        let wait = async {
            while !ended.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(60), wait).await.unwrap();
    }

    #[tokio::test]
    async fn a_loop_ends_when_it_is_stopped_or_dropped() {
        let (stopped, ended) = loop_that(true);
        stopped.stop().await;
        assert!(ended.load(Ordering::SeqCst));
        // Who stops it again does not wait.
        stopped.stop().await;
        let (dropped, ended) = loop_that(true);
        drop(dropped);
        has_ended(&ended).await;
    }

    #[tokio::test]
    async fn a_loop_that_does_not_listen_is_dropped_where_it_stands() {
        let (deaf, ended) = loop_that(false);
        deaf.stop_within(Duration::ZERO).await;
        has_ended(&ended).await;
    }
}
