//! Where a partition's log start moves to: what is too old or too much goes, from the oldest on; pure.
//!
//! As in Kafka, something goes as a whole (there a segment, here a row group or a run of the log) when its largest
//! timestamp is older than `retention.ms`, or when at least `retention.bytes` remain without it; a record younger than
//! its neighbours keeps those behind it. The bytes are those that are stored: compressed, in objects or in the log.

/// A stretch of a partition that goes as a whole, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Offset behind it.
    pub(crate) end: i64,
    /// Bytes it takes.
    pub(crate) bytes: u64,
    /// Largest timestamp, ms; negative if its records have none.
    pub(crate) max_timestamp_ms: i64,
    /// Largest commit time, us.
    pub(crate) max_committed_at_us: i64,
}

/// How far a partition's log start moves, while its stretches are looked at, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advance {
    /// The log start so far.
    pub(crate) start: i64,
    /// Bytes of the stretches not looked at, and of the one at which it ended.
    pub(crate) bytes: u64,
    /// A stretch stays, so all behind it do.
    pub(crate) ended: bool,
    /// Where the cold part that was looked at ends: what has been tiered since has not been.
    pub(crate) cold_end: i64,
    /// The first offset that somebody needs: there is nothing to be looked at behind it.
    pub(crate) needed: i64,
}

impl Advance {
    /// Looks at the next stretch.
    pub(crate) fn look(&mut self, retention: Retention, stretch: &Stretch, now_ms: i64) {
        self.ended |= !retention.takes(stretch, self.bytes, now_ms);
        if !self.ended {
            self.bytes = self.bytes.saturating_sub(stretch.bytes);
            self.start = self.start.max(stretch.end);
            self.ended = self.start >= self.needed;
        }
    }

    /// Whether there is more of the cold part to be looked at.
    pub(crate) fn has_more(&self) -> bool {
        !self.ended && self.start < self.cold_end
    }
}

/// What a topic keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// `retention.ms`; negative: for ever.
    pub(crate) ms: i64,
    /// `retention.bytes` of a partition; negative: whatever it takes.
    pub(crate) bytes: i64,
}

impl Retention {
    /// Whether anything ever goes.
    pub(crate) fn is_finite(self) -> bool {
        self.ms >= 0 || self.bytes >= 0
    }

    /// Whether the oldest stretch of a partition goes, of which it and what follows it take `bytes`.
    pub(crate) fn takes(self, stretch: &Stretch, bytes: u64, now_ms: i64) -> bool {
        self.is_old(stretch, now_ms) || self.is_too_much(stretch, bytes)
    }

    /// Whether something of which the smallest timestamp is this may be too old.
    pub(crate) fn may_be_old(self, min_timestamp_ms: i64, now_ms: i64) -> bool {
        // The times of records without one are not known here.
        self.ms >= 0 && (min_timestamp_ms < 0 || now_ms.saturating_sub(min_timestamp_ms) > self.ms)
    }

    /// Whether something of a partition with so many bytes may be too much.
    pub(crate) fn may_be_too_much(self, bytes: u64) -> bool {
        u64::try_from(self.bytes).is_ok_and(|kept| bytes >= kept)
    }

    fn is_old(self, stretch: &Stretch, now_ms: i64) -> bool {
        let timestamp_ms = match stretch.max_timestamp_ms {
            none if none < 0 => stretch.max_committed_at_us.div_euclid(1000),
            largest => largest,
        };
        self.ms >= 0 && now_ms.saturating_sub(timestamp_ms) > self.ms
    }

    fn is_too_much(self, stretch: &Stretch, bytes: u64) -> bool {
        u64::try_from(self.bytes).is_ok_and(|kept| bytes.saturating_sub(stretch.bytes) >= kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(end: i64, bytes: u64, max_timestamp_ms: i64) -> Stretch {
        Stretch { end, bytes, max_timestamp_ms, max_committed_at_us: 5_000_000 }
    }

    fn start_after(retention: Retention, start: i64, now_ms: i64, stretches: &[Stretch]) -> i64 {
        let bytes = stretches.iter().map(|stretch| stretch.bytes).sum();
        let mut advance = Advance { start, bytes, ended: false, cold_end: 0, needed: i64::MAX };
        stretches.iter().for_each(|stretch| advance.look(retention, stretch, now_ms));
        advance.start
    }

    #[test]
    fn what_is_too_old_goes_up_to_the_first_that_is_not() {
        let stretches = [stretch(10, 5, 1000), stretch(20, 5, 3000), stretch(30, 5, 2000)];
        let keep = |ms| Retention { ms, bytes: -1 };
        assert_eq!(start_after(keep(1000), 0, 2000, &stretches), 0);
        assert_eq!(start_after(keep(1000), 0, 2001, &stretches), 10);
        assert_eq!(start_after(keep(1000), 0, 4000, &stretches), 10, "the third waits for the second");
        assert_eq!(start_after(keep(1000), 0, 4001, &stretches), 30);
        assert_eq!(start_after(keep(-1), 0, i64::MAX, &stretches), 0);
        assert_eq!(start_after(keep(0), 25, 4001, &stretches[2..]), 30);
    }

    #[test]
    fn records_without_a_time_have_that_of_their_commit() {
        let keep = Retention { ms: 1000, bytes: -1 };
        assert_eq!(start_after(keep, 0, 6000, &[stretch(10, 5, -1)]), 0);
        assert_eq!(start_after(keep, 0, 6001, &[stretch(10, 5, -1)]), 10);
    }

    #[test]
    fn at_least_the_bytes_asked_for_stay() {
        let stretches = [stretch(10, 5, 0), stretch(20, 5, 0), stretch(30, 5, 0)];
        let keep = |bytes| Retention { ms: -1, bytes };
        assert_eq!(start_after(keep(15), 0, 0, &stretches), 0);
        assert_eq!(start_after(keep(11), 0, 0, &stretches), 0);
        assert_eq!(start_after(keep(10), 0, 0, &stretches), 10);
        assert_eq!(start_after(keep(6), 0, 0, &stretches), 10);
        assert_eq!(start_after(keep(0), 0, 0, &stretches), 30);
        assert_eq!(start_after(keep(-1), 0, 0, &stretches), 0);
        assert!(!keep(-1).is_finite() && keep(0).is_finite());
    }
}
