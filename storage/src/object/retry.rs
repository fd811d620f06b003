//! The only place that asks an object store again: a bounded number of attempts, each bounded in time and all of them
//! together.
//!
//! The crate's own retries are off, so that one budget holds. The pause between attempts doubles and is drawn at random
//! from its upper half, so that many callers do not come back together. A store that asks for patience (503 SlowDown, 429)
//! gets four times the pause, and from everybody: until it is over no request of this node is sent.
//!
//! A list is many requests, one after the other: each page has the time of an attempt, and every page that comes begins the
//! budget anew, so that a list may be as long as it likes, up to [`LIST_MS_MAX`].
//!
//! An attempt that timed out may have been applied. So whoever puts a name that must be new reads it back when told
//! that it is taken, and compares (see `manifest/publish` and [`crate::object::claim`]).

use std::fmt::Write;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::Error;
use parking_lot::Mutex;

use crate::clock::Random;
use crate::object::meter::{Meter, Outcome};
use crate::settings::StorageSettings;
use crate::view::ObjectRequestKind;
use crate::worker;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryBudget {
    /// Attempts in all.
    pub(crate) attempts_max: u32,
    /// Longest one attempt may take, ms, before the size of what is moved is counted.
    pub(crate) attempt_ms_max: u64,
    /// Longest all of them may take together, ms, pauses included, before the size of what is moved is counted.
    pub(crate) time_ms_max: u64,
    /// Pause before the second attempt, ms, at the most; doubles with each one after it.
    pub(crate) backoff_ms: u64,
}

impl RetryBudget {
    /// What the settings say.
    pub(crate) fn of(settings: &StorageSettings) -> Self {
        Self {
            attempts_max: settings.object_store_attempts_max.max(1),
            attempt_ms_max: settings.object_store_attempt_time_max_ms.max(1),
            time_ms_max: settings.object_store_retry_time_max_ms.max(1),
            backoff_ms: BACKOFF_MS,
        }
    }
}

/// First pause, ms.
const BACKOFF_MS: u64 = 100;

/// No pause is longer, ms.
const BACKOFF_MS_MAX: u64 = 10_000;

/// A throttled caller waits so many times longer.
const THROTTLED_FACTOR: u64 = 4;

/// Time granted per MiB moved, ms: a store slower than 1 MiB/s is as good as down.
const MIB_MS_MAX: u64 = 1_000;

/// Names in one page of a list, of every store there is.
const PAGE_NAMES: usize = 1_000;

/// No list takes longer, ms, however steadily its pages come: what is listed meanwhile is long out of date.
const LIST_MS_MAX: u64 = 30 * 60 * 1_000;

/// The budget at work. Cheap to clone; clones share meter and gate.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    budget: RetryBudget,
    random: Arc<dyn Random>,
    meter: Arc<Meter>,
    /// Nothing is sent before this moment of [`worker::steady`].
    gate: Arc<Mutex<Duration>>,
}

impl Retry {
    /// A budget with an open gate.
    pub(crate) fn new(budget: RetryBudget, random: Arc<dyn Random>, meter: Arc<Meter>) -> Self {
        Self { budget, random, meter, gate: Arc::default() }
    }

    /// Where attempts are counted.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Runs `attempt` until it succeeds, fails for good, or the budget is used up; then gives the last error.
    pub(crate) async fn run<T, F, A>(
        &self,
        kind: ObjectRequestKind,
        moved_bytes: usize,
        mut attempt: F,
    ) -> Result<T, Error>
    where
        F: FnMut() -> A,
        A: Future<Output = Result<T, Error>>,
    {
        let for_bytes_ms = (moved_bytes as u64 >> 20) * MIB_MS_MAX;
        let attempt_max = Duration::from_millis(self.budget.attempt_ms_max.saturating_add(for_bytes_ms));
        let deadline = worker::steady() + Duration::from_millis(self.budget.time_ms_max.saturating_add(for_bytes_ms));
        let mut made = 0;
        let mut last = None;
        loop {
            self.pass_gate(deadline).await;
            let start = worker::steady();
            if start >= deadline {
                return Err(last.unwrap_or_else(held_off));
            }
            made += 1;
            let limit = attempt_max.min(deadline.saturating_sub(start));
            let ended = worker::timeout(limit, attempt()).await;
            let took = worker::steady().saturating_sub(start);
            let ended = ended.unwrap_or_else(|| Err(timed_out(took)));
            let verdict = ended.as_ref().err().map_or(Verdict::Final, verdict);
            self.meter.attempted(kind, took, outcome(&ended, verdict), made > 1);
            match ended {
                Ok(value) => return Ok(value),
                Err(error) => last = Some(self.rest(error, verdict, made, deadline).await?),
            }
        }
    }

    /// Takes in a list as it comes, of at most so many. `open` begins it behind the last one that was taken in, if it can
    /// say so, else at its beginning: `resumes` tells which.
    pub(crate) async fn list<T>(
        &self,
        most: usize,
        resumes: bool,
        mut open: impl FnMut(Option<&T>) -> BoxStream<'static, Result<T, Error>>,
    ) -> Result<Vec<T>, Error> {
        let budget = Duration::from_millis(self.budget.time_ms_max);
        let over = worker::steady() + Duration::from_millis(LIST_MS_MAX);
        let mut taken = Vec::new();
        let (mut made, mut reached, mut again) = (0, 0, false);
        let mut deadline = (worker::steady() + budget).min(over);
        let mut last = None;
        loop {
            self.pass_gate(deadline).await;
            let start = worker::steady();
            if start >= deadline {
                return Err(last.unwrap_or_else(held_off));
            }
            made += 1;
            let before = taken.len();
            let ended = self.pages(open(taken.last()), most, over, &mut taken).await;
            let verdict = ended.as_ref().err().map_or(Verdict::Final, verdict);
            let took = worker::steady().saturating_sub(start);
            self.meter.attempted(ObjectRequestKind::List, took, outcome(&ended, verdict), again);
            self.meter.more_pages(((taken.len() - before).div_ceil(PAGE_NAMES) as u64).saturating_sub(1));
            let Err(error) = ended else { return Ok(taken) };
            again = true;
            if taken.len() > reached {
                reached = taken.len();
                made = 1;
                deadline = (worker::steady() + budget).min(over);
            }
            if !resumes {
                taken.clear();
            }
            last = Some(self.rest(error, verdict, made, deadline).await?);
        }
    }

    /// Takes in pages until the list ends, one fails or keeps waiting, or all of it takes too long.
    async fn pages<T>(
        &self,
        list: BoxStream<'static, Result<T, Error>>,
        most: usize,
        over: Duration,
        taken: &mut Vec<T>,
    ) -> Result<(), Error> {
        let page_max = Duration::from_millis(self.budget.attempt_ms_max);
        let mut pages = list.take(most.saturating_sub(taken.len())).ready_chunks(PAGE_NAMES);
        loop {
            let start = worker::steady();
            let limit = page_max.min(over.saturating_sub(start));
            let Some(page) = worker::timeout(limit, pages.next()).await else {
                return Err(timed_out(worker::steady().saturating_sub(start)));
            };
            let Some(page) = page else { return Ok(()) };
            for name in page {
                taken.push(name?);
            }
        }
    }

    /// What follows a failed attempt: a pause, and the error back; or the error for good.
    async fn rest(&self, error: Error, verdict: Verdict, made: u32, deadline: Duration) -> Result<Error, Error> {
        let pause = self.pause(made, verdict);
        if verdict == Verdict::Throttled {
            self.close_gate(worker::steady() + pause);
        }
        if verdict == Verdict::Final || made >= self.budget.attempts_max || worker::steady() + pause >= deadline {
            return Err(error);
        }
        tracing::debug!(attempt = made, %error, "object store failed, asking again");
        worker::sleep(pause).await;
        Ok(error)
    }

    fn pause(&self, made: u32, verdict: Verdict) -> Duration {
        let doubled = self.budget.backoff_ms.saturating_mul(1 << (made - 1).min(16));
        let factor = if verdict == Verdict::Throttled { THROTTLED_FACTOR } else { 1 };
        let longest_us = doubled.saturating_mul(factor).clamp(1, BACKOFF_MS_MAX) * 1_000;
        Duration::from_micros(longest_us - self.random.next_u64() % (longest_us / 2))
    }

    /// Waits while the store wants to be left alone, never beyond `deadline`: somebody else may be told to wait longer
    /// meanwhile.
    async fn pass_gate(&self, deadline: Duration) {
        loop {
            let opens = *self.gate.lock();
            let wait = opens.min(deadline).saturating_sub(worker::steady());
            if wait.is_zero() {
                return;
            }
            worker::sleep(wait).await;
        }
    }

    fn close_gate(&self, until: Duration) {
        let mut gate = self.gate.lock();
        *gate = gate.max(until);
    }
}

/// What an error means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The same request fails again.
    Final,
    /// It may succeed.
    MayPass,
    /// It may succeed, but not at once.
    Throttled,
}

fn verdict(error: &Error) -> Verdict {
    if lost_a_race(error) {
        return Verdict::MayPass;
    }
    if !matches!(error, Error::Generic { .. } | Error::JoinError { .. }) {
        return Verdict::Final;
    }
    match status(error) {
        Some(429 | 503) => Verdict::Throttled,
        Some(408 | 500..) | None => Verdict::MayPass,
        Some(_) => Verdict::Final,
    }
}

fn outcome<T>(ended: &Result<T, Error>, verdict: Verdict) -> Outcome {
    match ended {
        // "There is none" and "it is there" are answers.
        Ok(_) | Err(Error::NotFound { .. } | Error::AlreadyExists { .. } | Error::Precondition { .. })
            if verdict == Verdict::Final =>
        {
            Outcome::Answered
        }
        _ if verdict == Verdict::Throttled => Outcome::Throttled,
        _ => Outcome::Failed,
    }
}

/// S3 says so when two puts of one name ran at the same time and it has decided neither: not "taken", but "try again".
pub(crate) fn lost_a_race(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { .. } | Error::Generic { .. })
        && ["ConditionalRequestConflict", "OperationAborted"].iter().any(|code| sentence(error).contains(code))
}

/// The HTTP status in an error. The crate keeps its own error type to itself, so this reads its words; a test against a
/// real HTTP answer holds them together.
pub(crate) fn status(error: &Error) -> Option<u16> {
    let words = sentence(error);
    let (_, after) = words.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

/// An error with all its sources, each said once.
pub(crate) fn sentence(error: &Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let said = cause.to_string();
        if !words.contains(&said) {
            let _ = write!(words, ": {said}");
        }
        source = cause.source();
    }
    words
}

fn timed_out(after: Duration) -> Error {
    out_of_time(format!("no answer within {} ms", after.as_millis()))
}

/// Nothing was sent.
fn held_off() -> Error {
    out_of_time("it asks everybody for patience, and the time for this request is over".to_owned())
}

fn out_of_time(words: String) -> Error {
    Error::Generic { store: "object store", source: Box::new(std::io::Error::new(std::io::ErrorKind::TimedOut, words)) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::clock::SystemRandom;

    const QUICK: RetryBudget = RetryBudget { attempts_max: 3, attempt_ms_max: 20, time_ms_max: 5_000, backoff_ms: 1 };

    fn retry(budget: RetryBudget) -> Retry {
        Retry::new(budget, Arc::new(SystemRandom), Arc::default())
    }

    fn answered(status: &str) -> Error {
        Error::Generic { store: "S3", source: format!("Server returned non-2xx status code: {status}: <Code>").into() }
    }

    #[tokio::test]
    async fn passing_trouble_is_tried_again_and_the_budget_ends_it() {
        let mut calls = 0;
        let retry = retry(QUICK);
        let answer = retry.run(ObjectRequestKind::Put, 0, || {
            calls += 1;
            let failing = calls < 3;
            async move { if failing { Err(timed_out(Duration::ZERO)) } else { Ok(7) } }
        });
        assert_eq!(answer.await.unwrap(), 7);
        let mut calls = 0;
        let answer = retry.run(ObjectRequestKind::Get, 0, || {
            calls += 1;
            std::future::pending::<Result<(), Error>>()
        });
        assert!(answer.await.unwrap_err().to_string().contains("no answer within"));
        assert_eq!(calls, 3);
        let rows = retry.meter().requests();
        assert_eq!((rows[0].requests, rows[0].failures, rows[0].retries), (3, 3, 2), "{rows:?}");
    }

    #[tokio::test]
    async fn all_attempts_together_take_no_longer_than_the_budget() {
        let start = Instant::now();
        let budget = RetryBudget { attempts_max: 1_000_000, time_ms_max: 100, ..QUICK };
        let retry = retry(budget);
        retry.run(ObjectRequestKind::List, 0, std::future::pending::<Result<(), Error>>).await.unwrap_err();
        let refused = async || Err::<(), _>(answered("500 Internal Server Error"));
        retry.run(ObjectRequestKind::List, 0, refused).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_store_that_asks_for_patience_gets_it_from_everybody() {
        let retry = retry(RetryBudget { backoff_ms: 10, ..QUICK });
        let start = Instant::now();
        let throttled = async || Err::<(), _>(answered("503 Service Unavailable"));
        retry.run(ObjectRequestKind::Put, 0, throttled).await.unwrap_err();
        assert!(start.elapsed() >= Duration::from_millis(20 + 40), "{:?}", start.elapsed());
        retry.clone().run(ObjectRequestKind::Get, 0, async || Ok(())).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20 + 40 + 80), "{:?}", start.elapsed());
        assert_eq!(retry.meter().requests()[1].throttled, 3);
    }

    #[tokio::test]
    async fn who_waited_at_the_gate_looks_again_and_sends_nothing_when_the_time_is_over() {
        let retry = retry(RetryBudget { time_ms_max: 100, ..QUICK });
        let ms = |ms| worker::steady() + Duration::from_millis(ms);
        retry.close_gate(ms(20));
        let later = async {
            worker::sleep(Duration::from_millis(5)).await;
            retry.close_gate(ms(60_000));
        };
        let mut sent = 0;
        let put = retry.run(ObjectRequestKind::Put, 0, || {
            sent += 1;
            async { Ok(()) }
        });
        let (put, ()) = futures::join!(put, later);
        assert!(put.unwrap_err().to_string().contains("asks everybody for patience"));
        assert_eq!(sent, 0);
    }

    /// Pages of 1000 numbers from `after` on, each after a while; the stream fails once at `fails_at`, and the store never
    /// ends a page in less than `page_ms`.
    fn numbers(
        after: Option<&u32>,
        end: u32,
        page_ms: u64,
        fails_at: Option<u32>,
    ) -> BoxStream<'static, Result<u32, Error>> {
        let first = after.map_or(0, |last| last + 1);
        let names = futures::stream::iter(first..end).then(move |number| async move {
            if number % 1_000 == 0 {
                worker::sleep(Duration::from_millis(page_ms)).await;
            }
            if Some(number) == fails_at { Err(answered("500 Internal Server Error")) } else { Ok(number) }
        });
        names.boxed()
    }

    #[tokio::test]
    async fn a_list_has_time_for_each_page_and_goes_on_where_a_page_failed() {
        // 20 pages of 10 ms: more than one attempt may take, and more than all of them may.
        let budget = RetryBudget { attempts_max: 2, attempt_ms_max: 60, time_ms_max: 100, backoff_ms: 1 };
        for (resumes, end) in [(true, 20_000), (false, 20_000), (true, 0)] {
            let retry = retry(budget);
            let (mut begun, mut fails) = (Vec::new(), vec![15_500, 7_500]);
            let listed = retry.list(usize::MAX, resumes, |after| {
                begun.push(after.copied());
                numbers(after, end, 10, fails.pop())
            });
            assert_eq!(listed.await.unwrap(), (0..end).collect::<Vec<_>>());
            let expected = match (resumes, end) {
                (_, 0) => vec![None],
                (true, _) => vec![None, Some(7_499), Some(15_499)],
                (false, _) => vec![None, None, None],
            };
            assert_eq!(begun, expected);
        }
        let retry = retry(budget);
        assert_eq!(retry.list(1_500, true, |after| numbers(after, 9_000, 0, None)).await.unwrap().len(), 1_500);
        let stalled = retry.list(usize::MAX, true, |after| numbers(after, 20_000, 5_000, None)).await;
        assert!(stalled.unwrap_err().to_string().contains("no answer within"));
        // No page comes: the budget ends it.
        let mut begun = 0;
        let failing = retry.list(usize::MAX, true, |after| {
            begun += 1;
            numbers(after, 20_000, 0, Some(0))
        });
        failing.await.unwrap_err();
        assert_eq!(begun, 2);
    }

    #[tokio::test]
    async fn an_answer_that_stays_the_same_is_not_asked_for_again() {
        let finals = [
            Error::NotFound { path: "x".into(), source: "gone".into() },
            Error::AlreadyExists { path: "x".into(), source: "412".into() },
            answered("400 Bad Request"),
            answered("301 Moved Permanently"),
        ];
        for error in finals {
            let words = error.to_string();
            let (mut calls, mut error) = (0, Some(error));
            let retry = retry(QUICK);
            let answer = retry.run(ObjectRequestKind::Get, 0, || {
                calls += 1;
                let error = error.take().unwrap();
                async { Err::<(), _>(error) }
            });
            answer.await.unwrap_err();
            assert_eq!(calls, 1, "{words}");
        }
    }

    #[test]
    fn a_put_that_lost_a_race_is_no_taken_name() {
        let raced = Error::AlreadyExists { path: "x".into(), source: "<Code>ConditionalRequestConflict</Code>".into() };
        assert_eq!(verdict(&raced), Verdict::MayPass);
        let taken = Error::AlreadyExists { path: "x".into(), source: "<Code>PreconditionFailed</Code>".into() };
        assert_eq!(verdict(&taken), Verdict::Final);
    }
}
