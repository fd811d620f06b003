//! What `GET /metrics` shows: the one table of all names, and what is looked up when somebody asks.
//!
//! Rooms count what happens where it happens. What has a state (queues, files, caches, traffic by topic) is asked for by
//! [`sample`] and costs nothing in between. The names are listed here, whoever emits them; a test of the whole system
//! compares this table with the code.
//!
//! Label values are bounded: kinds of requests, commands and caches by our own lists, topics by
//! [`aquifer_storage::TRAFFIC_TOPICS_MAX`].

use aquifer_storage::Storage;

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Only grows, from the start of the process.
    Counter,
    /// As it is now.
    Gauge,
    /// How often which size.
    Histogram,
}

/// Every metric: name with its unit, kind, what it says.
const METRICS: &[(&str, Kind, &str)] = &[
    ("aquifer_build_info", Kind::Gauge, "always 1; the version stands in the label"),
    // The log.
    ("aquifer_log_commit_bytes", Kind::Histogram, "bytes of a commit's batches, 0 for one without records"),
    ("aquifer_log_commit_seconds", Kind::Histogram, "from a commit's coming to its answer: queue, write and sync"),
    ("aquifer_log_sync_seconds", Kind::Histogram, "how long a sync of the log takes"),
    ("aquifer_log_sync_commits", Kind::Histogram, "commits that one sync made durable"),
    ("aquifer_log_queue_commits", Kind::Gauge, "commits in the log's queue"),
    ("aquifer_log_queue_bytes", Kind::Gauge, "bytes in the log's queue, at most wal.queue_bytes_max"),
    ("aquifer_log_waiting_commits", Kind::Gauge, "commits that wait for room in the log's queue"),
    ("aquifer_log_segments", Kind::Gauge, "files of the log"),
    ("aquifer_log_bytes", Kind::Gauge, "bytes in the log's files, at most wal.bytes_max"),
    (
        "aquifer_log_carried_bytes_total",
        Kind::Counter,
        "bytes carried over to the end of the log so that its front could go",
    ),
    (
        "aquifer_log_refused_total",
        Kind::Counter,
        "writes refused because of the node, by reason: full, read_only, io, offsets (offsets.bytes_max)",
    ),
    (
        "aquifer_log_damaged_ranges",
        Kind::Gauge,
        "ranges of offsets that lie damaged in the log; aquifer.lost names them",
    ),
    // Topics.
    ("aquifer_topics", Kind::Gauge, "topics, without our own"),
    ("aquifer_partitions", Kind::Gauge, "partitions of these topics"),
    ("aquifer_topic_in_records_total", Kind::Counter, "records made durable, by topic, whoever wrote them"),
    ("aquifer_topic_in_bytes_total", Kind::Counter, "bytes of the batches of these records, as stored"),
    ("aquifer_topic_out_records_total", Kind::Counter, "records that Kafka's fetches answered with, by topic"),
    ("aquifer_topic_out_bytes_total", Kind::Counter, "bytes of the batches of these records"),
    // Transactions.
    ("aquifer_transactional_ids", Kind::Gauge, "transactional ids that are remembered"),
    ("aquifer_transactions_open", Kind::Gauge, "transactions of clients that are open"),
    ("aquifer_transactions_committed_total", Kind::Counter, "transactions of clients that were committed"),
    (
        "aquifer_transactions_aborted_total",
        Kind::Counter,
        "transactions of clients that were aborted, for whatever reason",
    ),
    ("aquifer_transactions_timed_out_total", Kind::Counter, "of the aborted ones, those whose time was over"),
    // What is cold.
    ("aquifer_tier_lag_seconds", Kind::Gauge, "age of the oldest record that may be tiered and is not"),
    ("aquifer_tier_lag_bytes", Kind::Gauge, "bytes of the log that may be tiered and are not"),
    ("aquifer_tier_objects_total", Kind::Counter, "objects made by tiering"),
    ("aquifer_tier_rows_total", Kind::Counter, "rows in these objects"),
    ("aquifer_tier_failures_total", Kind::Counter, "attempts to tier a topic that failed and are made again"),
    (
        "aquifer_log_forget_failures_total",
        Kind::Counter,
        "attempts to free room in the log that failed and are made again",
    ),
    ("aquifer_cold_objects", Kind::Gauge, "objects that hold history"),
    ("aquifer_cold_rows", Kind::Gauge, "rows in these objects"),
    ("aquifer_cold_bytes", Kind::Gauge, "bytes of these objects"),
    ("aquifer_cold_read_ahead_total", Kind::Counter, "row groups read before a consumer asked for them"),
    ("aquifer_checkpoint_bytes", Kind::Histogram, "bytes of a checkpoint as put, without its tail"),
    ("aquifer_checkpoint_last_seconds", Kind::Gauge, "when the last checkpoint was put, seconds since 1970"),
    ("aquifer_manifest_root_bytes", Kind::Histogram, "bytes of a manifest's root as published"),
    ("aquifer_manifest_chunk_bytes_total", Kind::Counter, "bytes of manifests' chunks as written"),
    ("aquifer_housekeeping_last_run_seconds", Kind::Gauge, "when housekeeping last ended, seconds since 1970"),
    ("aquifer_housekeeping_failures_total", Kind::Counter, "topics housekeeping could not look after and tries again"),
    ("aquifer_housekeeping_objects_merged_total", Kind::Counter, "objects that merging and compaction replaced"),
    ("aquifer_housekeeping_objects_written_total", Kind::Counter, "objects that took their place"),
    ("aquifer_housekeeping_bytes_rewritten_total", Kind::Counter, "bytes of these"),
    ("aquifer_housekeeping_rows_removed_total", Kind::Counter, "records that compaction removed"),
    ("aquifer_housekeeping_offsets_trimmed_total", Kind::Counter, "offsets by which retention moved log starts"),
    ("aquifer_sweep_files_total", Kind::Counter, "files removed from the object store because nobody needed them"),
    // The object store.
    ("aquifer_object_store_requests_total", Kind::Counter, "requests to the object store, by kind; an attempt is one"),
    ("aquifer_object_store_request_seconds", Kind::Histogram, "how long a request to the object store takes, by kind"),
    ("aquifer_object_store_bytes_total", Kind::Counter, "bytes moved from and to the object store, by kind"),
    ("aquifer_object_store_failures_total", Kind::Counter, "requests to the object store that failed, by kind"),
    ("aquifer_object_store_throttled_total", Kind::Counter, "of these, those by which the store asked for patience"),
    (
        "aquifer_object_store_retries_total",
        Kind::Counter,
        "requests to the object store that were not the first for their caller",
    ),
    ("aquifer_object_store_cost_dollars", Kind::Gauge, "what the requests since the start cost at list prices"),
    // Caches.
    ("aquifer_cache_hits_total", Kind::Counter, "look-ups that found what they wanted, by cache"),
    ("aquifer_cache_misses_total", Kind::Counter, "look-ups that did not, by cache"),
    ("aquifer_cache_bytes", Kind::Gauge, "bytes in a cache"),
    ("aquifer_cache_limit_bytes", Kind::Gauge, "bytes in a cache, at the most"),
    // Kafka.
    ("aquifer_kafka_connections", Kind::Gauge, "connections of Kafka clients"),
    ("aquifer_kafka_groups", Kind::Gauge, "consumer groups that have members"),
    ("aquifer_kafka_requests_total", Kind::Counter, "requests of Kafka clients, by kind"),
    (
        "aquifer_kafka_request_seconds",
        Kind::Histogram,
        "from a request's coming to its answer, by kind; a Fetch waits for records as long as the client allows",
    ),
    ("aquifer_kafka_produced_bytes_total", Kind::Counter, "bytes of Produce requests, as sent"),
    ("aquifer_kafka_fetched_bytes_total", Kind::Counter, "bytes of batches in the answers to Fetch"),
    // SQL.
    ("aquifer_postgres_connections", Kind::Gauge, "connections of Postgres clients"),
    (
        "aquifer_postgres_statements_total",
        Kind::Counter,
        "statements that were completed, by the first word of their tag",
    ),
    ("aquifer_postgres_rows_total", Kind::Counter, "rows sent to Postgres clients"),
    ("aquifer_postgres_errors_total", Kind::Counter, "errors told to Postgres clients, by class of SQLSTATE"),
    ("aquifer_decode_errors_total", Kind::Counter, "records that did not fit their stream's format, by stream"),
];

/// Tells the process's recorder what each metric is.
pub(crate) fn describe() {
    for (name, kind, help) in METRICS {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
}

/// Looks up what is not counted on its way.
pub(crate) fn sample(storage: &Storage) {
    let now = storage.standing();
    let gauge = |name: &'static str, value: u64| metrics::gauge!(name).set(value as f64);
    gauge("aquifer_log_queue_commits", now.queued_commits);
    gauge("aquifer_log_queue_bytes", now.queued_bytes);
    gauge("aquifer_log_waiting_commits", now.waiting_commits);
    gauge("aquifer_log_segments", now.log_segments);
    gauge("aquifer_log_bytes", now.log_bytes);
    gauge("aquifer_log_damaged_ranges", now.damaged_ranges);
    gauge("aquifer_topics", now.topics);
    gauge("aquifer_partitions", now.partitions);
    gauge("aquifer_transactional_ids", now.transactional_ids);
    gauge("aquifer_transactions_open", now.transactions_open);
    gauge("aquifer_tier_lag_bytes", now.untiered_bytes);
    gauge("aquifer_cold_objects", now.cold.objects);
    gauge("aquifer_cold_rows", now.cold.rows);
    gauge("aquifer_cold_bytes", now.cold.bytes);
    let age_us = now.untiered_since_us.map_or(0, |since_us| (storage.clock().now_us() - since_us).max(0));
    metrics::gauge!("aquifer_tier_lag_seconds").set(age_us as f64 / 1e6);
    for row in storage.traffic() {
        let counter = |name: &'static str, value| metrics::counter!(name, "topic" => row.topic.clone()).absolute(value);
        counter("aquifer_topic_in_records_total", row.records_in);
        counter("aquifer_topic_in_bytes_total", row.bytes_in);
        counter("aquifer_topic_out_records_total", row.records_out);
        counter("aquifer_topic_out_bytes_total", row.bytes_out);
    }
    for cache in storage.caches() {
        metrics::counter!("aquifer_cache_hits_total", "cache" => cache.name).absolute(cache.hits);
        metrics::counter!("aquifer_cache_misses_total", "cache" => cache.name).absolute(cache.misses);
        metrics::gauge!("aquifer_cache_bytes", "cache" => cache.name).set(cache.bytes as f64);
        metrics::gauge!("aquifer_cache_limit_bytes", "cache" => cache.name).set(cache.bytes_max as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_its_kind_and_unit_and_is_listed_once() {
        let mut names = std::collections::BTreeSet::new();
        for (name, kind, help) in METRICS {
            assert!(names.insert(name), "{name} is listed twice");
            assert!(name.starts_with("aquifer_") && !help.is_empty() && !help.ends_with('.'), "{name}: {help}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            let measured = name.ends_with("_seconds") || name.ends_with("_bytes") || name.ends_with("_commits");
            assert!(*kind != Kind::Histogram || measured, "{name} has no unit");
        }
    }
}
