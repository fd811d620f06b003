//! How large a connection's fetch answers are, and whose turn it is in them: small ones for a client that comes back at
//! once, large ones for a client that would else wait for the network more than it reads.
//!
//! A client near by reads small answers faster than large ones: they stay in the processors' caches, and its allocator
//! keeps their memory. Nothing is held back: what did not fit is what the next request asks for, and what had no turn comes
//! first then.

use std::time::{Duration, Instant};

use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;

/// Largest answer, whatever the client allows; a first batch larger than this still comes.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What an answer is limited to for a client near by.
const ANSWER_BYTES_NEAR: usize = 2 << 20;
/// A client that comes back later than this after a full answer gets one twice as large.
const FAR: Duration = Duration::from_millis(25);
/// One that comes back sooner than this gets one half as large.
const NEAR: Duration = Duration::from_millis(10);

/// A partition by its topic's name, as asked for.
pub(crate) type Place = (StrBytes, i32);

/// What a connection's fetches were answered with. Its requests come one after another.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<Last>);

#[derive(Debug)]
struct Last {
    bytes_max: usize,
    /// When an answer left that another limit would have made larger, and with which partition it ended.
    full: Option<(Instant, Option<Place>)>,
}

impl Default for Last {
    fn default() -> Self {
        Self { bytes_max: ANSWER_BYTES_NEAR, full: None }
    }
}

impl Turns {
    /// The limit for a request that came at this moment, and where the answer before it ended, if it had no room for more.
    pub(crate) fn next(&self, came_at: Instant) -> (usize, Option<Place>) {
        let mut last = self.0.lock();
        let Some((left_at, place)) = last.full.take() else { return (last.bytes_max, None) };
        let away = came_at.saturating_duration_since(left_at);
        if away > FAR {
            last.bytes_max = (last.bytes_max * 2).min(ANSWER_BYTES_MAX);
        } else if away < NEAR {
            last.bytes_max = (last.bytes_max / 2).max(ANSWER_BYTES_NEAR);
        }
        (last.bytes_max, place)
    }

    /// Takes note of an answer that leaves. One that is half empty had no more to say, and its client may take its time.
    pub(crate) fn left(&self, bytes: usize, place: Option<Place>, at: Instant) {
        let mut last = self.0.lock();
        last.full = (bytes >= last.bytes_max / 2).then_some((at, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_grow_for_a_client_that_is_far_away_and_shrink_for_one_that_is_near() {
        let turns = Turns::default();
        let mut now = Instant::now();
        let mut limit_after = |share: usize, away_ms| {
            let bytes = turns.0.lock().bytes_max / share;
            turns.left(bytes, None, now);
            now += Duration::from_millis(away_ms);
            turns.next(now).0
        };
        assert_eq!(limit_after(1, 1), ANSWER_BYTES_NEAR);
        assert_eq!(limit_after(1, 50), 2 * ANSWER_BYTES_NEAR);
        assert_eq!(limit_after(1, 15), 2 * ANSWER_BYTES_NEAR);
        assert_eq!(limit_after(4, 5000), 2 * ANSWER_BYTES_NEAR, "there was no more to read");
        let far: Vec<_> = (0..10).map(|_| limit_after(1, 50)).collect();
        assert_eq!(far.last(), Some(&ANSWER_BYTES_MAX));
        let near: Vec<_> = (0..10).map(|_| limit_after(1, 2)).collect();
        assert_eq!(near.last(), Some(&ANSWER_BYTES_NEAR));
    }

    #[test]
    fn a_full_answer_tells_where_it_ended_and_one_with_room_left_does_not() {
        let turns = Turns::default();
        let place = || Some((StrBytes::from_static_str("a"), 3));
        turns.left(ANSWER_BYTES_NEAR, place(), Instant::now());
        assert_eq!(turns.next(Instant::now()).1, place());
        turns.left(ANSWER_BYTES_NEAR / 4, place(), Instant::now());
        assert_eq!(turns.next(Instant::now()).1, None);
    }
}
