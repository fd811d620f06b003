//! The schema `aquifer`: whatever an operator would ask is a SELECT. Each table is a list of columns and a function
//! that fills them when the table is scanned.

mod stored;
mod transactions;

use std::sync::Arc;

use aquifer_storage::settings::SettingInfo;
use aquifer_storage::{Storage, TopicPartition};
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
use super::sessions::Sessions;
use crate::limit::Limits;
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
    /// For `limits`.
    pub(crate) limits: Arc<Limits>,
    /// The node's settings.
    pub(crate) node_settings: Arc<Vec<SettingInfo>>,
    /// The session's.
    pub(crate) session_settings: Arc<Vec<SettingRow>>,
    /// Who is connected.
    pub(crate) sessions: Arc<Sessions>,
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
    Asked(for<'a> fn(&'a Catalog, Wanted<'a>) -> BoxFuture<'a, DataFusionResult<Vec<ArrayRef>>>),
}

/// Which columns somebody looks at; what costs much is not asked for otherwise.
#[derive(Clone, Copy, Debug)]
struct Wanted<'a> {
    columns: Option<&'a Vec<usize>>,
    schema: &'a Schema,
}

impl Wanted<'_> {
    fn any(self, names: &[&str]) -> bool {
        let wanted = |name: &&str| {
            let index = self.schema.index_of(name).ok();
            self.columns.is_none_or(|columns| index.is_some_and(|index| columns.contains(&index)))
        };
        names.iter().any(wanted)
    }
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
            ("hot_bytes", Kind::BigInt),
            ("cold_bytes", Kind::BigInt),
            ("cold_rows", Kind::BigInt),
            ("cold_objects", Kind::BigInt),
            ("history_start", Kind::Time),
        ],
        fill: Fill::Now(stored::topics),
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
            ("history_start", Kind::Time),
            ("hot_bytes", Kind::BigInt),
            ("cold_bytes", Kind::BigInt),
            ("cold_rows", Kind::BigInt),
            ("lost_offsets", Kind::BigInt),
        ],
        fill: Fill::Asked(stored::partitions),
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
        fill: Fill::Now(stored::segments),
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
        fill: Fill::Asked(stored::objects),
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
        fill: Fill::Now(stored::object_store),
    },
    Table {
        name: "caches",
        columns: &[
            ("name", Kind::Text),
            ("hits", Kind::BigInt),
            ("misses", Kind::BigInt),
            ("bytes", Kind::BigInt),
            ("bytes_max", Kind::BigInt),
        ],
        fill: Fill::Now(stored::caches),
    },
    Table {
        name: "limits",
        columns: &[
            ("name", Kind::Text),
            ("setting", Kind::Text),
            ("unit", Kind::Text),
            ("used", Kind::BigInt),
            ("max", Kind::BigInt),
            ("waiting", Kind::BigInt),
            ("refused", Kind::BigInt),
        ],
        fill: Fill::Now(limits),
    },
    Table {
        name: "lost",
        columns: &[
            ("topic", Kind::Text),
            ("partition", Kind::Int),
            ("first_offset", Kind::BigInt),
            ("last_offset", Kind::BigInt),
            ("for_ever", Kind::Boolean),
            ("place", Kind::Text),
        ],
        fill: Fill::Asked(stored::lost),
    },
    Table {
        name: "traffic",
        columns: &[
            ("topic", Kind::Text),
            ("records_in", Kind::BigInt),
            ("bytes_in", Kind::BigInt),
            ("records_out", Kind::BigInt),
            ("bytes_out", Kind::BigInt),
        ],
        fill: Fill::Now(stored::traffic),
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
            ("internal", Kind::Boolean),
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
        name: "sessions",
        columns: &[
            ("pid", Kind::Int),
            ("user_name", Kind::Text),
            ("application_name", Kind::Text),
            ("client_addr", Kind::Text),
            ("state", Kind::Text),
            ("query", Kind::Text),
            ("started_at", Kind::Time),
            ("transaction_started_at", Kind::Time),
            ("query_started_at", Kind::Time),
            ("state_changed_at", Kind::Time),
        ],
        fill: Fill::Now(sessions),
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
            Fill::Asked(ask) => ask(&self.catalog, Wanted { columns: projection, schema: &self.schema }).await?,
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

/// The lag counts offsets, as Kafka's own tools do: a marker at the end of a transaction takes one and is never a record, so
/// a group that has committed behind its last record may be shown a lag of one. How many of the offsets are markers only
/// reading them would tell.
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

fn limits(_catalog: &Catalog, sources: &SystemSources) -> Vec<ArrayRef> {
    let taken = sources.limits.taken();
    vec![
        some_text(taken.iter().map(|limit| limit.name)),
        some_text(taken.iter().map(|limit| limit.setting)),
        some_text(taken.iter().map(|limit| limit.unit)),
        bigint(taken.iter().map(|limit| as_i64(limit.used))),
        bigint(taken.iter().map(|limit| as_i64(limit.max))),
        bigint(taken.iter().map(|limit| as_i64(limit.waiting))),
        bigint(taken.iter().map(|limit| as_i64(limit.refused))),
    ]
}

fn sessions(_catalog: &Catalog, sources: &SystemSources) -> Vec<ArrayRef> {
    let rows = sources.sessions.rows();
    vec![
        int(rows.iter().map(|row| row.pid)),
        some_text(rows.iter().map(|row| &row.user)),
        some_text(rows.iter().map(|row| &row.application_name)),
        text(rows.iter().map(|row| Some(&row.client_addr).filter(|address| !address.is_empty()))),
        some_text(rows.iter().map(|row| row.state)),
        some_text(rows.iter().map(|row| &row.query)),
        time_us(rows.iter().map(|row| Some(row.started_at_us))),
        time_us(rows.iter().map(|row| row.block_started_at_us)),
        time_us(rows.iter().map(|row| row.query_started_at_us)),
        time_us(rows.iter().map(|row| Some(row.state_changed_at_us))),
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
        all_settings(&self.session_settings, &self.node_settings)
    }
}

/// A session's and the node's settings, by name.
pub(crate) fn all_settings(session: &[SettingRow], node: &[SettingInfo]) -> Vec<SettingRow> {
    let node = node.iter().map(|info| SettingRow {
        name: info.name.to_owned(),
        value: info.value.clone(),
        unit: info.unit.to_owned(),
        reason: info.reason.to_owned(),
    });
    let mut rows: Vec<SettingRow> = session.iter().cloned().chain(node).collect();
    rows.sort_by_key(|row| row.name.to_lowercase());
    rows
}
