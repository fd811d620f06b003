//! The schema `aquifer`: whatever an operator would ask is a SELECT. Each table is a list of columns and a function
//! that fills them when the table is scanned.

mod transactions;

use std::sync::Arc;

use aquifer_storage::settings::SettingInfo;
use aquifer_storage::{ObjectInfo, Storage, TopicConfig, TopicPartition};
use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, ListBuilder, RecordBatch, RecordBatchOptions, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use futures::future::BoxFuture;

use super::Catalog;
use crate::error::Error;
use crate::settings::SettingRow;
use crate::stream::Supervisor;
use crate::types;

/// The schema's name.
pub(crate) const SCHEMA: &str = "aquifer";

/// What the tables ask besides the catalog.
#[derive(Clone, Debug)]
pub(crate) struct SystemSources {
    /// For `queries`.
    pub(crate) supervisor: Arc<Supervisor>,
    /// The node's settings.
    pub(crate) node_settings: Arc<Vec<SettingInfo>>,
    /// The session's.
    pub(crate) session_settings: Arc<Vec<SettingRow>>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Texts,
    Uuid,
    Int,
    BigInt,
    Boolean,
    Time,
}

/// What fills a table: in the order of its columns.
#[derive(Clone, Copy, Debug)]
enum Fill {
    /// From what is in memory.
    Now(fn(&Catalog, &SystemSources) -> Vec<ArrayRef>),
    /// From what the log's writer or the manifests must be asked for.
    Asked(for<'a> fn(&'a Catalog) -> BoxFuture<'a, DataFusionResult<Vec<ArrayRef>>>),
}

struct Table {
    name: &'static str,
    columns: &'static [(&'static str, Kind)],
    fill: Fill,
}

const TABLES: &[Table] = &[
    Table {
        name: "topics",
        columns: &[
            ("name", Kind::Text),
            ("id", Kind::Uuid),
            ("partitions", Kind::Int),
            ("cleanup_policy", Kind::Text),
            ("retention_ms", Kind::BigInt),
            ("retention_bytes", Kind::BigInt),
            ("local_retention_ms", Kind::BigInt),
            ("local_retention_bytes", Kind::BigInt),
            ("max_message_bytes", Kind::BigInt),
            ("compression_type", Kind::Text),
            ("message_timestamp_type", Kind::Text),
            ("min_compaction_lag_ms", Kind::BigInt),
            ("delete_retention_ms", Kind::BigInt),
            ("config", Kind::Text),
            ("internal", Kind::Boolean),
        ],
        fill: Fill::Now(topics),
    },
    Table {
        name: "partitions",
        columns: &[
            ("topic", Kind::Text),
            ("partition", Kind::Int),
            ("log_start_offset", Kind::BigInt),
            ("tiered_end_offset", Kind::BigInt),
            ("last_stable_offset", Kind::BigInt),
            ("high_watermark", Kind::BigInt),
            ("leader_epoch", Kind::Int),
        ],
        fill: Fill::Now(partitions),
    },
    Table {
        name: "segments",
        columns: &[
            ("id", Kind::BigInt),
            ("path", Kind::Text),
            ("bytes", Kind::BigInt),
            ("first_commit_at", Kind::Time),
            ("last_commit_at", Kind::Time),
            ("sealed", Kind::Boolean),
        ],
        fill: Fill::Now(segments),
    },
    Table {
        name: "objects",
        columns: &[
            ("topic", Kind::Text),
            ("partition", Kind::Int),
            ("first_offset", Kind::BigInt),
            ("last_offset", Kind::BigInt),
            ("rows", Kind::BigInt),
            ("min_timestamp", Kind::Time),
            ("max_timestamp", Kind::Time),
            ("url", Kind::Text),
            ("bytes", Kind::BigInt),
        ],
        fill: Fill::Asked(objects),
    },
    Table {
        name: "object_store",
        columns: &[
            ("kind", Kind::Text),
            ("requests", Kind::BigInt),
            ("bytes", Kind::BigInt),
            ("failures", Kind::BigInt),
            ("throttled", Kind::BigInt),
            ("retries", Kind::BigInt),
            ("latency_p50_us", Kind::BigInt),
            ("latency_p99_us", Kind::BigInt),
            ("latency_total_us", Kind::BigInt),
            ("cost_micro_dollars", Kind::BigInt),
        ],
        fill: Fill::Now(object_store),
    },
    Table {
        name: "consumer_groups",
        columns: &[("group_id", Kind::Text), ("topics", Kind::Int), ("last_commit_at", Kind::Time)],
        fill: Fill::Now(consumer_groups),
    },
    Table {
        name: "consumer_lag",
        columns: &[
            ("group_id", Kind::Text),
            ("topic", Kind::Text),
            ("partition", Kind::Int),
            ("committed_offset", Kind::BigInt),
            ("high_watermark", Kind::BigInt),
            ("lag", Kind::BigInt),
        ],
        fill: Fill::Now(consumer_lag),
    },
    Table {
        name: "transactions",
        columns: &[
            ("transactional_id", Kind::Text),
            ("producer_id", Kind::BigInt),
            ("epoch", Kind::Int),
            ("state", Kind::Text),
            ("timeout_ms", Kind::Int),
            ("started_at", Kind::Time),
            ("updated_at", Kind::Time),
            ("partitions", Kind::Texts),
            ("groups", Kind::Texts),
        ],
        fill: Fill::Now(transactions::transactions),
    },
    Table {
        name: "producers",
        columns: &[
            ("topic", Kind::Text),
            ("partition", Kind::Int),
            ("producer_id", Kind::BigInt),
            ("epoch", Kind::Int),
            ("last_sequence", Kind::Int),
            ("last_timestamp", Kind::Time),
            ("transaction_start_offset", Kind::BigInt),
        ],
        fill: Fill::Asked(transactions::producers),
    },
    Table {
        name: "queries",
        columns: &[
            ("name", Kind::Text),
            ("statement", Kind::Text),
            ("state", Kind::Text),
            ("error", Kind::Text),
            ("position", Kind::Text),
            ("lag_records", Kind::BigInt),
            ("holds_back", Kind::Text),
            ("started_at", Kind::Time),
        ],
        fill: Fill::Now(queries),
    },
    Table {
        name: "decode_errors",
        columns: &[
            ("stream", Kind::Text),
            ("topic", Kind::Text),
            ("partition", Kind::Int),
            ("offset", Kind::BigInt),
            ("timestamp", Kind::Time),
            ("column_name", Kind::Text),
            ("error", Kind::Text),
        ],
        fill: Fill::Now(decode_errors),
    },
    Table {
        name: "settings",
        columns: &[("name", Kind::Text), ("value", Kind::Text), ("unit", Kind::Text), ("reason", Kind::Text)],
        fill: Fill::Now(settings),
    },
];

/// The tables' names.
pub(crate) fn names() -> Vec<&'static str> {
    TABLES.iter().map(|table| table.name).collect()
}

/// The schema of each table, by name.
pub(crate) fn schemas() -> Vec<(&'static str, SchemaRef)> {
    TABLES.iter().map(|table| (table.name, schema(table))).collect()
}

fn schema(table: &Table) -> SchemaRef {
    let field = |(name, kind): &(&'static str, Kind)| match kind {
        Kind::Text => Field::new(*name, DataType::Utf8, true),
        Kind::Texts => Field::new_list(*name, Field::new_list_field(DataType::Utf8, true), true),
        Kind::Uuid => types::marked(Field::new(*name, DataType::Utf8, true), "uuid"),
        Kind::Int => Field::new(*name, DataType::Int32, true),
        Kind::BigInt => Field::new(*name, DataType::Int64, true),
        Kind::Boolean => Field::new(*name, DataType::Boolean, true),
        Kind::Time => Field::new(*name, DataType::Timestamp(TimeUnit::Microsecond, Some(types::utc())), true),
    };
    Arc::new(Schema::new(table.columns.iter().map(field).collect::<Vec<_>>()))
}

impl SystemSources {
    /// The table of that name.
    pub(crate) fn table(&self, catalog: &Arc<Catalog>, name: &str) -> Option<Arc<dyn TableProvider>> {
        let table = TABLES.iter().find(|table| table.name == name)?;
        Some(Arc::new(SystemTable {
            schema: schema(table),
            fill: table.fill,
            catalog: Arc::clone(catalog),
            sources: self.clone(),
        }))
    }
}

#[derive(Debug)]
struct SystemTable {
    schema: SchemaRef,
    fill: Fill,
    catalog: Arc<Catalog>,
    sources: SystemSources,
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let columns = match self.fill {
            Fill::Now(fill) => fill(&self.catalog, &self.sources),
            Fill::Asked(ask) => ask(&self.catalog).await?,
        };
        let rows = columns.first().map_or(0, |column| column.len());
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.schema(), columns, &options)?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![batch]], self.schema(), projection.cloned())?)
    }
}

fn text<T: AsRef<str>>(values: impl IntoIterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

fn some_text<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn texts(values: impl IntoIterator<Item = Vec<String>>) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for value in values {
        lists.append_value(value.into_iter().map(Some));
    }
    Arc::new(lists.finish())
}

fn int(values: impl IntoIterator<Item = i32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(values))
}

fn bigint(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn optional_bigint(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(Int64Array::from_iter(values))
}

fn boolean(values: impl IntoIterator<Item = bool>) -> ArrayRef {
    Arc::new(BooleanArray::from(values.into_iter().collect::<Vec<_>>()))
}

fn time_us(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter(values).with_timezone(types::utc()))
}

fn ms_as_us(ms: i64) -> Option<i64> {
    ms.checked_mul(1000)
}

fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn name_of(storage: &Storage, partition: TopicPartition) -> String {
    storage.topic_by_id(partition.topic).map_or_else(|| partition.topic.to_string(), |topic| topic.name.clone())
}

fn topics(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
    let storage = catalog.storage();
    let topics = storage.topics();
    let configs: Vec<_> = topics.iter().map(|topic| topic.config.resolve(storage.settings())).collect();
    let text = |name: &'static str| some_text(configs.iter().map(move |config| config.get(name).unwrap_or_default()));
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
    ]
}

/// What a topic has been told itself, as `name=value, …`.
fn told(config: &TopicConfig) -> String {
    config.entries().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}

fn partitions(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
    let storage = catalog.storage();
    let mut rows = Vec::new();
    for topic in storage.topics() {
        for partition in 0..topic.partitions {
            // A topic may go between the two calls; then its partitions are not listed.
            if let Ok(ends) = storage.watermarks(TopicPartition { topic: topic.id, partition }) {
                rows.push((topic.name.clone(), partition, ends));
            }
        }
    }
    vec![
        some_text(rows.iter().map(|(topic, _, _)| topic)),
        int(rows.iter().map(|(_, partition, _)| *partition)),
        bigint(rows.iter().map(|(_, _, ends)| ends.log_start_offset)),
        bigint(rows.iter().map(|(_, _, ends)| ends.tiered_end_offset)),
        bigint(rows.iter().map(|(_, _, ends)| ends.last_stable_offset)),
        bigint(rows.iter().map(|(_, _, ends)| ends.high_watermark)),
        int(rows.iter().map(|(_, _, ends)| ends.leader_epoch)),
    ]
}

fn segments(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
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

fn objects(catalog: &Catalog) -> BoxFuture<'_, DataFusionResult<Vec<ArrayRef>>> {
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

fn object_store(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
    let rows = catalog.storage().object_requests();
    let latency = |latency_us: Option<u64>| latency_us.map(as_i64);
    vec![
        some_text(rows.iter().map(|row| row.kind.name())),
        bigint(rows.iter().map(|row| as_i64(row.requests))),
        bigint(rows.iter().map(|row| as_i64(row.bytes))),
        bigint(rows.iter().map(|row| as_i64(row.failures))),
        bigint(rows.iter().map(|row| as_i64(row.throttled))),
        bigint(rows.iter().map(|row| as_i64(row.retries))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| latency(row.latency_p50_us)))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| latency(row.latency_p99_us)))),
        bigint(rows.iter().map(|row| as_i64(row.latency_total_us))),
        bigint(rows.iter().map(|row| as_i64(row.cost_micros))),
    ]
}

fn consumer_groups(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
    let mut groups: std::collections::BTreeMap<String, (std::collections::BTreeSet<_>, i64)> = Default::default();
    for (group, partition, offset) in catalog.storage().group_offsets(None) {
        let entry = groups.entry(group).or_default();
        entry.0.insert(partition.topic);
        entry.1 = entry.1.max(offset.committed_at_us);
    }
    vec![
        some_text(groups.keys()),
        int(groups.values().map(|(topics, _)| i32::try_from(topics.len()).unwrap_or(i32::MAX))),
        time_us(groups.values().map(|(_, at)| Some(*at))),
    ]
}

fn consumer_lag(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
    let storage = catalog.storage();
    let mut rows = Vec::new();
    for (group, partition, offset) in storage.group_offsets(None) {
        if let Ok(ends) = storage.watermarks(partition) {
            rows.push((group, partition, offset.offset, ends.high_watermark));
        }
    }
    vec![
        some_text(rows.iter().map(|(group, ..)| group)),
        some_text(rows.iter().map(|(_, partition, ..)| name_of(storage, *partition))),
        int(rows.iter().map(|(_, partition, ..)| partition.partition)),
        bigint(rows.iter().map(|(_, _, offset, _)| *offset)),
        bigint(rows.iter().map(|(_, _, _, end)| *end)),
        bigint(rows.iter().map(|(_, _, offset, end)| (end - offset).max(0))),
    ]
}

fn queries(_catalog: &Catalog, sources: &SystemSources) -> Vec<ArrayRef> {
    let queries = sources.supervisor.status();
    vec![
        some_text(queries.iter().map(|query| &query.name)),
        some_text(queries.iter().map(|query| &query.statement)),
        some_text(queries.iter().map(|query| &query.state)),
        text(queries.iter().map(|query| query.error.as_ref())),
        some_text(queries.iter().map(|query| &query.position)),
        bigint(queries.iter().map(|query| query.lag_records)),
        some_text(queries.iter().map(|query| &query.holds_back)),
        time_us(queries.iter().map(|query| Some(query.started_at_us))),
    ]
}

fn decode_errors(catalog: &Catalog, _sources: &SystemSources) -> Vec<ArrayRef> {
    let skipped = catalog.decode_errors.all();
    vec![
        some_text(skipped.iter().map(|record| &record.stream)),
        some_text(skipped.iter().map(|record| &record.topic)),
        int(skipped.iter().map(|record| record.error.partition)),
        bigint(skipped.iter().map(|record| record.error.offset)),
        time_us(skipped.iter().map(|record| ms_as_us(record.error.timestamp_ms))),
        text(skipped.iter().map(|record| record.error.column.as_ref())),
        some_text(skipped.iter().map(|record| &record.error.error)),
    ]
}

fn settings(_catalog: &Catalog, sources: &SystemSources) -> Vec<ArrayRef> {
    let rows = sources.all_settings();
    vec![
        some_text(rows.iter().map(|row| &row.name)),
        some_text(rows.iter().map(|row| &row.value)),
        some_text(rows.iter().map(|row| &row.unit)),
        some_text(rows.iter().map(|row| &row.reason)),
    ]
}

impl SystemSources {
    /// The session's and the node's settings, by name.
    pub(crate) fn all_settings(&self) -> Vec<SettingRow> {
        let node = self.node_settings.iter().map(|info| SettingRow {
            name: info.name.to_owned(),
            value: info.value.clone(),
            unit: info.unit.to_owned(),
            reason: info.reason.to_owned(),
        });
        let mut rows: Vec<SettingRow> = self.session_settings.iter().cloned().chain(node).collect();
        rows.sort_by_key(|row| row.name.to_lowercase());
        rows
    }
}
