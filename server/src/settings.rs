//! What the listeners can be told.

use aquifer_storage::settings;

settings! {
    /// Limits of the wires.
    pub struct ServerSettings {
        kafka_request_bytes_max: usize = 100 << 20, "kafka.request_bytes_max", "bytes", "largest Kafka request; a larger frame closes its connection";
        kafka_request_bytes_in_flight_max: usize = 256 << 20, "kafka.request_bytes_in_flight_max", "bytes", "requests of all connections held until they are done; when it is used up, connections wait before they read";
        kafka_connections_max: usize = 4096, "kafka.connections_max", "connections", "Kafka connections at once; more are closed at once";
        kafka_fetch_bytes_in_flight_max: usize = 256 << 20, "kafka.fetch_bytes_in_flight_max", "bytes", "answers to fetches held until their clients have read them; near it answers get smaller";
        kafka_fetch_wait_max_ms: u64 = 60_000, "kafka.fetch_wait_max", "ms", "longest a fetch may wait for its min bytes, whatever the client says";
        postgres_connections_max: usize = 1024, "postgres.connections_max", "connections", "Postgres connections at once; more are answered 53300";
        postgres_message_bytes_max: usize = 64 << 20, "postgres.message_bytes_max", "bytes", "largest message of a Postgres client; a larger one closes its connection";
        postgres_startup_timeout_ms: u64 = 60_000, "postgres.startup_timeout", "ms", "longest that a Postgres client may take to say who it is";
        http_connections_max: usize = 256, "http.connections_max", "connections", "HTTP connections at once; more are closed at once";
        http_request_timeout_ms: u64 = 30_000, "http.request_timeout", "ms", "longest that an HTTP client may take to say what it wants, and may idle before the next request";
        shutdown_drain_max_ms: u64 = 5_000, "server.shutdown_drain_max", "ms", "longest that open connections are waited for at shutdown";
    }
}

/// Postgres connections beyond the limit that are told so at the same time: least and most, a quarter of the limit between.
const REFUSED: (usize, usize) = (4, 64);

impl ServerSettings {
    /// Postgres connections beyond the limit that are told so at the same time; more are closed without a word.
    #[must_use]
    pub fn postgres_refused_max(&self) -> usize {
        (self.postgres_connections_max / 4).clamp(REFUSED.0, REFUSED.1)
    }

    /// Files that connections of all protocols may take together.
    #[must_use]
    pub fn connection_files(&self) -> usize {
        let postgres = self.postgres_connections_max.saturating_add(self.postgres_refused_max());
        self.kafka_connections_max.saturating_add(postgres).saturating_add(self.http_connections_max)
    }
}
