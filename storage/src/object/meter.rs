//! What we ask of the object store, counted: requests by kind, bytes, failures, retries, how long they take, and what
//! they would cost at a list price.
//!
//! One meter per storage, so that two in one process (as in tests and simulation) do not mix; the process's metrics get
//! the same numbers on the way. An attempt is a request: what is asked twice is billed twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::settings::StorageSettings;
use crate::view::{ObjectRequestKind, ObjectRequests};

/// Upper bounds of the latency histogram, us; what is slower than the last one counts there.
const LATENCY_BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000, 60_000_000,
];

/// List prices, micro-dollars per thousand requests. Nothing for a folder or memory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Prices {
    get: u64,
    put: u64,
    list: u64,
    delete: u64,
}

impl Prices {
    /// What the settings say.
    pub(crate) fn of(settings: &StorageSettings) -> Self {
        Self {
            get: settings.object_store_get_price,
            put: settings.object_store_put_price,
            list: settings.object_store_list_price,
            delete: settings.object_store_delete_price,
        }
    }

    fn of_kind(&self, kind: ObjectRequestKind) -> u64 {
        match kind {
            ObjectRequestKind::Get | ObjectRequestKind::Head => self.get,
            ObjectRequestKind::Put => self.put,
            ObjectRequestKind::List => self.list,
            ObjectRequestKind::Delete => self.delete,
        }
    }
}

/// How an attempt ended, as far as counting goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer, a "no" among them.
    Answered,
    /// An error.
    Failed,
    /// The store asked for patience.
    Throttled,
}

/// See the top of this file.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    kinds: [OfKind; ObjectRequestKind::ALL.len()],
    prices: Prices,
}

#[derive(Debug, Default)]
struct OfKind {
    requests: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    throttled: AtomicU64,
    retries: AtomicU64,
    latency_us: AtomicU64,
    latencies: [AtomicU64; LATENCY_BOUNDS_US.len()],
}

impl Meter {
    /// All at zero.
    pub(crate) fn new(prices: Prices) -> Self {
        Self { prices, ..Self::default() }
    }

    fn of(&self, kind: ObjectRequestKind) -> &OfKind {
        &self.kinds[kind as usize]
    }

    /// An attempt ended. `again` if it was not the first for its caller.
    pub(crate) fn attempted(&self, kind: ObjectRequestKind, took: Duration, outcome: Outcome, again: bool) {
        let of = self.of(kind);
        of.requests.fetch_add(1, Ordering::Relaxed);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        of.latency_us.fetch_add(took_us, Ordering::Relaxed);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < took_us).min(LATENCY_BOUNDS_US.len() - 1);
        of.latencies[bucket].fetch_add(1, Ordering::Relaxed);
        metrics::counter!("aquifer_object_store_requests_total", "kind" => kind.name()).increment(1);
        metrics::histogram!("aquifer_object_store_request_seconds", "kind" => kind.name()).record(took.as_secs_f64());
        if outcome != Outcome::Answered {
            of.failures.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("aquifer_object_store_failures_total", "kind" => kind.name()).increment(1);
        }
        if outcome == Outcome::Throttled {
            of.throttled.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("aquifer_object_store_throttled_total", "kind" => kind.name()).increment(1);
        }
        if again {
            of.retries.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("aquifer_object_store_retries_total", "kind" => kind.name()).increment(1);
        }
        self.show_cost();
    }

    /// A list of many names takes several requests under one call: those beyond the first.
    pub(crate) fn more_pages(&self, pages: u64) {
        self.of(ObjectRequestKind::List).requests.fetch_add(pages, Ordering::Relaxed);
        metrics::counter!("aquifer_object_store_requests_total", "kind" => ObjectRequestKind::List.name())
            .increment(pages);
    }

    /// Bytes of objects that were moved.
    pub(crate) fn moved(&self, kind: ObjectRequestKind, bytes: u64) {
        self.of(kind).bytes.fetch_add(bytes, Ordering::Relaxed);
        metrics::counter!("aquifer_object_store_bytes_total", "kind" => kind.name()).increment(bytes);
    }

    /// Everything so far, a row per kind.
    pub(crate) fn requests(&self) -> Vec<ObjectRequests> {
        ObjectRequestKind::ALL.iter().map(|kind| self.row(*kind)).collect()
    }

    fn row(&self, kind: ObjectRequestKind) -> ObjectRequests {
        let of = self.of(kind);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let latencies: Vec<u64> = of.latencies.iter().map(count).collect();
        let requests = count(&of.requests);
        ObjectRequests {
            kind,
            requests,
            bytes: count(&of.bytes),
            failures: count(&of.failures),
            throttled: count(&of.throttled),
            retries: count(&of.retries),
            latency_total_us: count(&of.latency_us),
            latency_p50_us: quantile(&latencies, 50),
            latency_p99_us: quantile(&latencies, 99),
            cost_micros: cost(requests, self.prices.of_kind(kind)),
        }
    }

    fn show_cost(&self) {
        let micros: u64 = self.requests().iter().map(|row| row.cost_micros).sum();
        metrics::gauge!("aquifer_object_store_cost_dollars").set(micros as f64 / 1e6);
    }
}

/// Micro-dollars for `requests`, rounded.
fn cost(requests: u64, price: u64) -> u64 {
    let thousandths = u128::from(requests) * u128::from(price);
    u64::try_from((thousandths + 500) / 1_000).unwrap_or(u64::MAX)
}

/// The bound below which so many in a hundred lie; `None` before the first.
fn quantile(latencies: &[u64], percent: u64) -> Option<u64> {
    let all: u64 = latencies.iter().sum();
    let wanted = (all * percent).div_ceil(100);
    let mut below = 0;
    for (count, bound) in latencies.iter().zip(LATENCY_BOUNDS_US) {
        below += count;
        if below >= wanted && all > 0 {
            return Some(bound);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_is_counted_by_kind_and_priced() {
        let meter = Meter::new(Prices::of(&StorageSettings::default()));
        for number in 0..1000 {
            let took = Duration::from_micros(if number == 0 { 900_000 } else { 400 });
            meter.attempted(ObjectRequestKind::Put, took, Outcome::Answered, number % 10 == 9);
        }
        meter.moved(ObjectRequestKind::Put, 77);
        meter.attempted(ObjectRequestKind::Get, Duration::ZERO, Outcome::Throttled, false);
        meter.more_pages(3);
        let rows = meter.requests();
        let of = |kind| *rows.iter().find(|row| row.kind == kind).unwrap();
        let put = of(ObjectRequestKind::Put);
        assert_eq!((put.requests, put.bytes, put.failures, put.retries), (1000, 77, 0, 100));
        assert_eq!((put.latency_p50_us, put.latency_p99_us), (Some(500), Some(500)));
        assert_eq!(put.cost_micros, 5_000, "half a cent per thousand");
        let get = of(ObjectRequestKind::Get);
        assert_eq!((get.requests, get.failures, get.throttled, get.latency_p99_us), (1, 1, 1, Some(100)));
        assert_eq!(of(ObjectRequestKind::List).requests, 3);
        assert_eq!(of(ObjectRequestKind::Head).latency_p50_us, None);
    }
}
