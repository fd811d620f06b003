//! What the storage holds and how it does: topics, partitions, files, objects, damage, caches, traffic.

use std::collections::HashMap;

use aquifer_storage::{ColdPartition, DamageInfo, ObjectInfo, TopicConfig, TopicPartition};
use arrow::array::ArrayRef;
use datafusion::error::Result as DataFusionResult;
use futures::future::BoxFuture;

use super::{
    SystemSources, Wanted, as_i64, bigint, boolean, int, ms_as_us, name_of, optional_bigint, some_text, time_us,
};
use crate::catalog::Catalog;
use crate::error::Error;

pub(super) fn topics(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
    let storage = catalog.storage();
    let topics = storage.topics();
    let configs: Vec<_> = topics.iter().map(|topic| topic.config.resolve(storage.settings())).collect();
    let text = |name: &'static str| some_text(configs.iter().map(move |config| config.get(name).unwrap_or_default()));
    let hot_bytes = topics.iter().map(|topic| {
        let partitions = (0..topic.partitions).map(|partition| TopicPartition { topic: topic.id, partition });
        // A topic may go between the two calls.
        partitions.map(|at| storage.log_bytes(at).unwrap_or(0)).sum()
    });
    let cold: Vec<_> = topics.iter().map(|topic| storage.cold_totals(topic.id)).collect();
    vec![
        some_text(topics.iter().map(|topic| &topic.name)),
        some_text(topics.iter().map(|topic| topic.id.to_string())),
        int(topics.iter().map(|topic| topic.partitions)),
        text("cleanup.policy"),
        bigint(configs.iter().map(|config| config.retention_ms)),
        bigint(configs.iter().map(|config| config.retention_bytes)),
        bigint(configs.iter().map(|config| config.local_retention_ms)),
        bigint(configs.iter().map(|config| config.local_retention_bytes)),
        bigint(configs.iter().map(|config| as_i64(config.max_message_bytes))),
        text("compression.type"),
        text("message.timestamp.type"),
        bigint(configs.iter().map(|config| config.min_compaction_lag_ms)),
        bigint(configs.iter().map(|config| config.delete_retention_ms)),
        some_text(topics.iter().map(|topic| told(&topic.config))),
        boolean(topics.iter().map(|topic| topic.internal)),
        bigint(hot_bytes.map(as_i64)),
        bigint(cold.iter().map(|cold| as_i64(cold.bytes))),
        bigint(cold.iter().map(|cold| as_i64(cold.rows))),
        bigint(cold.iter().map(|cold| as_i64(cold.objects))),
        time_us(topics.iter().map(|topic| storage.history_start_us(topic.id))),
    ]
}

/// What a topic has been told itself, as `name=value, …`.
fn told(config: &TopicConfig) -> String {
    config.entries().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}

/// Whole manifests are read for what stands in no root, if somebody looks at it.
pub(super) fn partitions<'a>(
    catalog: &'a Catalog,
    wanted: Wanted<'a>,
) -> BoxFuture<'a, DataFusionResult<Vec<ArrayRef>>> {
    Box::pin(async move {
        let storage = catalog.storage();
        let cold: HashMap<TopicPartition, ColdPartition> = if wanted.any(&["cold_bytes", "cold_rows"]) {
            storage.cold_partitions().await.map_err(Error::from)?
        } else {
            HashMap::new()
        };
        let damaged =
            if wanted.any(&["lost_offsets"]) { storage.damage().await.map_err(Error::from)? } else { Vec::new() };
        let mut lost: HashMap<TopicPartition, i64> = HashMap::new();
        for DamageInfo { partition, start, end, .. } in damaged {
            *lost.entry(partition).or_default() += end - start;
        }
        let mut rows = Vec::new();
        for topic in storage.topics() {
            for partition in 0..topic.partitions {
                let at = TopicPartition { topic: topic.id, partition };
                // A topic may go between the two calls; then its partitions are not listed.
                if let (Ok(ends), Ok(hot_bytes)) = (storage.watermarks(at), storage.log_bytes(at)) {
                    rows.push((topic.name.clone(), at, ends, hot_bytes));
                }
            }
        }
        let cold = |at: &TopicPartition| cold.get(at).copied().unwrap_or_default();
        Ok(vec![
            some_text(rows.iter().map(|(topic, ..)| topic)),
            int(rows.iter().map(|(_, at, ..)| at.partition)),
            bigint(rows.iter().map(|(_, _, ends, _)| ends.log_start_offset)),
            bigint(rows.iter().map(|(_, _, ends, _)| ends.tiered_end_offset)),
            bigint(rows.iter().map(|(_, _, ends, _)| ends.last_stable_offset)),
            bigint(rows.iter().map(|(_, _, ends, _)| ends.high_watermark)),
            int(rows.iter().map(|(_, _, ends, _)| ends.leader_epoch)),
            time_us(rows.iter().map(|(_, at, ..)| storage.history_start_us(at.topic))),
            bigint(rows.iter().map(|(.., hot_bytes)| as_i64(*hot_bytes))),
            bigint(rows.iter().map(|(_, at, ..)| as_i64(cold(at).bytes))),
            bigint(rows.iter().map(|(_, at, ..)| as_i64(cold(at).rows))),
            bigint(rows.iter().map(|(_, at, ..)| lost.get(at).copied().unwrap_or(0))),
        ])
    })
}

pub(super) fn segments(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
    let segments = catalog.storage().segments();
    vec![
        bigint(segments.iter().map(|segment| as_i64(segment.id))),
        some_text(segments.iter().map(|segment| &segment.path)),
        bigint(segments.iter().map(|segment| as_i64(segment.bytes))),
        time_us(segments.iter().map(|segment| segment.first_commit_at_us)),
        time_us(segments.iter().map(|segment| segment.last_commit_at_us)),
        boolean(segments.iter().map(|segment| segment.sealed)),
    ]
}

pub(super) fn objects<'a>(catalog: &'a Catalog, _wanted: Wanted<'a>) -> BoxFuture<'a, DataFusionResult<Vec<ArrayRef>>> {
    Box::pin(async {
        let storage = catalog.storage();
        let objects = storage.objects().await.map_err(Error::from)?;
        let name =
            |object: &ObjectInfo| name_of(storage, TopicPartition { topic: object.topic, partition: object.partition });
        Ok(vec![
            some_text(objects.iter().map(name)),
            int(objects.iter().map(|object| object.partition)),
            bigint(objects.iter().map(|object| object.first_offset)),
            bigint(objects.iter().map(|object| object.last_offset)),
            bigint(objects.iter().map(|object| object.rows)),
            time_us(objects.iter().map(|object| ms_as_us(object.min_timestamp_ms))),
            time_us(objects.iter().map(|object| ms_as_us(object.max_timestamp_ms))),
            some_text(objects.iter().map(|object| &object.url)),
            bigint(objects.iter().map(|object| as_i64(object.bytes))),
        ])
    })
}

pub(super) fn object_store(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
    let rows = catalog.storage().object_requests();
    let latency = |latency_us: Option<u64>| latency_us.map(as_i64);
    vec![
        some_text(rows.iter().map(|row| row.kind.name())),
        bigint(rows.iter().map(|row| as_i64(row.requests))),
        bigint(rows.iter().map(|row| as_i64(row.bytes))),
        bigint(rows.iter().map(|row| as_i64(row.failures))),
        bigint(rows.iter().map(|row| as_i64(row.throttled))),
        bigint(rows.iter().map(|row| as_i64(row.retries))),
        optional_bigint(rows.iter().map(|row| latency(row.latency_p50_us))),
        optional_bigint(rows.iter().map(|row| latency(row.latency_p99_us))),
        bigint(rows.iter().map(|row| as_i64(row.latency_total_us))),
        bigint(rows.iter().map(|row| as_i64(row.cost_micros))),
    ]
}

pub(super) fn caches(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
    let caches = catalog.storage().caches();
    vec![
        some_text(caches.iter().map(|cache| cache.name)),
        bigint(caches.iter().map(|cache| as_i64(cache.hits))),
        bigint(caches.iter().map(|cache| as_i64(cache.misses))),
        bigint(caches.iter().map(|cache| as_i64(cache.bytes))),
        bigint(caches.iter().map(|cache| as_i64(cache.bytes_max))),
    ]
}

/// Offsets that cannot be read.
pub(super) fn lost<'a>(catalog: &'a Catalog, _wanted: Wanted<'a>) -> BoxFuture<'a, DataFusionResult<Vec<ArrayRef>>> {
    Box::pin(async {
        let storage = catalog.storage();
        let damage = storage.damage().await.map_err(Error::from)?;
        Ok(vec![
            some_text(damage.iter().map(|range| name_of(storage, range.partition))),
            int(damage.iter().map(|range| range.partition.partition)),
            bigint(damage.iter().map(|range| range.start)),
            bigint(damage.iter().map(|range| range.end - 1)),
            boolean(damage.iter().map(|range| range.lost)),
            some_text(damage.iter().map(|range| &range.place)),
        ])
    })
}

pub(super) fn traffic(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
    let rows = catalog.storage().traffic();
    vec![
        some_text(rows.iter().map(|row| &row.topic)),
        bigint(rows.iter().map(|row| as_i64(row.records_in))),
        bigint(rows.iter().map(|row| as_i64(row.bytes_in))),
        bigint(rows.iter().map(|row| as_i64(row.records_out))),
        bigint(rows.iter().map(|row| as_i64(row.bytes_out))),
    ]
}
