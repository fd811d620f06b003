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
        shutdown_drain_max_ms: u64 = 5_000, "server.shutdown_drain_max", "ms", "longest that open connections are waited for at shutdown";
    }
}
