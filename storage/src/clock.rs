//! The one door through which time and chance enter: [`Clock`] and [`Random`], replaceable in tests and simulation.
//!
//! `clippy.toml` forbids `SystemTime::now`, `Instant::now`, `Uuid::new_v4` and `rand` elsewhere.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// What time it is, for records and policies. Timers are tokio's.
pub trait Clock: Send + Sync + Debug {
    /// Microseconds since 1970-01-01 UTC. May go back when the machine's clock is set; who needs order makes it.
    fn now_us(&self) -> i64;

    /// Milliseconds since 1970-01-01 UTC, Kafka's unit for timestamps.
    fn now_ms(&self) -> i64 {
        self.now_us().div_euclid(1000)
    }
}

/// Where identities come from.
pub trait Random: Send + Sync + Debug {
    /// Sixty-four bits nobody can foresee (in production).
    fn next_u64(&self) -> u64;

    /// A version 4 uuid.
    fn uuid(&self) -> Uuid {
        let (high, low) = (self.next_u64(), self.next_u64());
        uuid::Builder::from_random_bytes(Uuid::from_u64_pair(high, low).into_bytes()).into_uuid()
    }
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the door itself")]
    fn now_us(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
        }
    }
}

/// The operating system's randomness.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[expect(clippy::disallowed_methods, reason = "the door itself")]
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}

/// A clock that stands still until told otherwise; for tests and simulation.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_us: AtomicI64,
}

impl ManualClock {
    /// A clock that shows `now_us`.
    #[must_use]
    pub fn at_us(now_us: i64) -> Self {
        Self { now_us: AtomicI64::new(now_us) }
    }

    /// Moves the clock forward by `by_us` (or back, if negative).
    pub fn advance_us(&self, by_us: i64) {
        self.now_us.fetch_add(by_us, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_us(&self) -> i64 {
        self.now_us.load(Ordering::SeqCst)
    }
}
