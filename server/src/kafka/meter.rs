//! What Kafka's side measures: requests by kind and how long they take, groups.
//!
//! Handles are looked up once per kind of request, when the first of it comes.

use std::sync::OnceLock;
use std::time::Instant;

use metrics::{Counter, Histogram};

use super::api::{APIS, Api};

/// Requests by kind, in the order of [`APIS`].
#[derive(Debug)]
pub(crate) struct Meter {
    apis: Vec<OnceLock<OfApi>>,
    produced_bytes: Counter,
    fetched_bytes: Counter,
}

#[derive(Debug)]
struct OfApi {
    requests: Counter,
    seconds: Histogram,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            apis: APIS.iter().map(|_| OnceLock::new()).collect(),
            produced_bytes: metrics::counter!("aquifer_kafka_produced_bytes_total"),
            fetched_bytes: metrics::counter!("aquifer_kafka_fetched_bytes_total"),
        }
    }
}

impl Meter {
    /// A request has come.
    pub(crate) fn asked(&self, api: &Api) {
        if let Some(of) = self.of(api) {
            of.requests.increment(1);
        }
    }

    /// A request is answered, or nearly: its answer is about to be written.
    pub(crate) fn answered(&self, api: &Api, came_at: Instant) {
        if let Some(of) = self.of(api) {
            of.seconds.record(came_at.elapsed());
        }
    }

    /// Bytes of a Produce request, as sent.
    pub(crate) fn produced(&self, bytes: usize) {
        self.produced_bytes.increment(bytes as u64);
    }

    /// Bytes of batches in the answer to a Fetch.
    pub(crate) fn fetched(&self, bytes: usize) {
        self.fetched_bytes.increment(bytes as u64);
    }

    fn of(&self, api: &Api) -> Option<&OfApi> {
        let at = APIS.iter().position(|one| one.key == api.key)?;
        Some(self.apis.get(at)?.get_or_init(|| {
            let name = format!("{:?}", api.key);
            OfApi {
                requests: metrics::counter!("aquifer_kafka_requests_total", "api" => name.clone()),
                seconds: metrics::histogram!("aquifer_kafka_request_seconds", "api" => name),
            }
        }))
    }
}
