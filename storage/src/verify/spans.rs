//! Offsets as ranges without holes: what of a partition was seen. Pure.

use std::collections::BTreeMap;

/// Half-open ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans(BTreeMap<i64, i64>);

impl Spans {
    /// Takes `start..end` in.
    pub(super) fn add(&mut self, start: i64, end: i64) {
        if start >= end {
            return;
        }
        let (mut from, mut to) = (start, end);
        if let Some((before, before_end)) = self.0.range(..=start).next_back().map(|(at, end)| (*at, *end))
            && before_end >= start
        {
            from = before;
            to = to.max(before_end);
        }
        let touched: Vec<i64> = self.0.range(from..=to).map(|(at, _)| *at).collect();
        for at in touched {
            if let Some(end) = self.0.remove(&at) {
                to = to.max(end);
            }
        }
        self.0.insert(from, to);
    }

    /// Where the range that reaches `end` begins; `end` itself if none does.
    pub(super) fn start_of_last(&self, end: i64) -> i64 {
        match self.0.last_key_value() {
            Some((start, reached)) if *reached >= end => *start,
            _ => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        let mut spans = Spans::default();
        for (start, end) in [(10, 20), (30, 40), (20, 25), (5, 11), (50, 50)] {
            spans.add(start, end);
        }
        assert_eq!(spans.0, BTreeMap::from([(5, 25), (30, 40)]));
        assert_eq!((spans.start_of_last(40), spans.start_of_last(41)), (30, 41));
        spans.add(24, 31);
        assert_eq!(spans.0, BTreeMap::from([(5, 40)]));
        spans.add(0, 100);
        assert_eq!(spans.0, BTreeMap::from([(0, 100)]));
        assert_eq!(Spans::default().start_of_last(7), 7);
    }
}
