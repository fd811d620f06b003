//! Waiting for a condition with a deadline: the only way a test may wait.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Long enough for a debug build on a busy machine; a test that needs all of it is about to fail anyway.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Asks until the answer is accepted, and gives it; panics with the last answer when `PATIENCE` is over.
pub(crate) async fn until<T: Debug, F: Future<Output = T>>(
    what: &str,
    mut ask: impl FnMut() -> F,
    mut accept: impl FnMut(&T) -> bool,
) -> T {
    let start = Instant::now();
    loop {
        let answer = ask().await;
        if accept(&answer) {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}; last answer: {answer:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The same for something that needs no asking over a wire.
pub(crate) fn until_now(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(PATIENCE, condition), "waited {PATIENCE:?} for {what}");
}

/// Whether the condition came true in time.
#[expect(clippy::disallowed_methods, reason = "a bounded pause between two looks at the condition")]
pub(crate) fn within(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    true
}
