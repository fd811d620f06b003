//! Medians and percentiles of measured times.

use std::time::Duration;

/// Times measured one by one.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The time, ms, that `percent` of all do not exceed (nearest rank); 0 if there is none.
    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    }

    /// The middle one.
    pub(crate) fn median(&self) -> Duration {
        Duration::from_secs_f64(self.percentile_ms(50) / 1000.0)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes over others.
    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// All of them, in seconds, as they were measured.
    pub(crate) fn seconds(&self) -> Vec<f64> {
        self.0.iter().map(Duration::as_secs_f64).collect()
    }
}

/// The mean of ratios: their logarithms' average, so that twice and half make one. `None` of none.
pub(crate) fn geometric_mean(ratios: &[f64]) -> Option<f64> {
    let logarithms: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    (!ratios.is_empty()).then(|| (logarithms / ratios.len() as f64).exp())
}

/// Millions of bytes per second.
pub(crate) fn mb_per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_times_by_nearest_rank() {
        let mut times = Times::default();
        assert_eq!(times.percentile_ms(99), 0.0);
        for ms in [40, 10, 30, 20] {
            times.push(Duration::from_millis(ms));
        }
        let close = |percent, ms: f64| assert!((times.percentile_ms(percent) - ms).abs() < 1e-9);
        close(50, 20.0);
        close(75, 30.0);
        close(99, 40.0);
        assert!(geometric_mean(&[]).is_none());
        assert!((geometric_mean(&[2.0, 0.5, 1.0]).unwrap() - 1.0).abs() < 1e-9);
        assert!((mb_per_second(5_000_000, Duration::from_millis(500)) - 10.0).abs() < 1e-9);
    }
}
