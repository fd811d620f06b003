//! `KeyLookupExec`: rows of a keyed table whose primary key a filter names, read by key instead of by a scan.
//!
//! Storage answers from the keyed state, exactly at the statement's snapshot; where it cannot, and where the key of a record
//! found does not decode, the scan that the exec holds answers. Filters stay in the plan.

use std::fmt;
use std::sync::Arc;

use aquifer_storage::record::format::{ColumnRole, ColumnType, DeclaredColumn, Encoder, Format, RecordFormat};
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{Field, Schema};
use bytes::Bytes;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use super::exec::ScanExec;
use super::reader::ScanReader;
use super::source::{Source, SourceColumn};
use crate::catalog::{Catalog, Relation};
use crate::error::{Error, Result};

/// Keys looked up at once; a filter that names more is left to the scan.
const KEYS_MAX: usize = 256;

/// The primary keys, as the table's records have them, that rows passing these filters can have; `None` if the filters do
/// not say, or say too many.
pub(crate) fn keys_of(filters: &[Expr], relation: &Relation) -> Option<Vec<Bytes>> {
    let conjuncts: Vec<&Expr> = filters.iter().flat_map(split_conjunction).collect();
    let mut alternatives: Vec<Vec<ScalarValue>> = Vec::new();
    for index in relation.key_columns() {
        let column = &relation.format.columns[index];
        let values = conjuncts.iter().find_map(|conjunct| values_of(conjunct, &column.name))?;
        let typed: Option<Vec<ScalarValue>> = values.into_iter().map(|value| typed(value, column)).collect();
        alternatives.push(typed?);
    }
    let rows = product(&alternatives)?;
    encode(&rows, &relation.format)
}

/// Every way to take one value of each column.
fn product(alternatives: &[Vec<ScalarValue>]) -> Option<Vec<Vec<ScalarValue>>> {
    let count = alternatives.iter().try_fold(1_usize, |count, values| count.checked_mul(values.len()))?;
    if alternatives.is_empty() || !(1..=KEYS_MAX).contains(&count) {
        return None;
    }
    let mut rows: Vec<Vec<ScalarValue>> = vec![Vec::new()];
    for values in alternatives {
        let longer = |row: &Vec<ScalarValue>| {
            values.iter().map(|value| row.iter().chain([value]).cloned().collect()).collect::<Vec<Vec<ScalarValue>>>()
        };
        rows = rows.iter().flat_map(longer).collect();
    }
    Some(rows)
}

/// The values a conjunct leaves to a column: `c = v`, `c IN (v, …)`, `c = v OR c = w`.
fn values_of(filter: &Expr, column: &str) -> Option<Vec<ScalarValue>> {
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(named) if named.name == column);
    let literal = |expr: &Expr| match expr {
        Expr::Literal(value, _) => Some(value.clone()),
        _ => None,
    };
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_column(left) => {
            Some(vec![literal(right)?])
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_column(right) => {
            Some(vec![literal(left)?])
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let (mut left, right) = (values_of(left, column)?, values_of(right, column)?);
            left.extend(right);
            (left.len() <= KEYS_MAX).then_some(left)
        }
        Expr::InList(list) if !list.negated && is_column(&list.expr) && list.list.len() <= KEYS_MAX => {
            list.list.iter().map(literal).collect()
        }
        _ => None,
    }
}

/// Whether equal keys of a relation have equal bytes, as SQL writes them.
pub(crate) fn keys_are_bytes(relation: &Relation) -> bool {
    relation.key_columns().into_iter().all(|index| has_one_spelling(&relation.format.columns[index].kind))
}

fn has_one_spelling(kind: &ColumnType) -> bool {
    matches!(
        kind,
        ColumnType::Text
            | ColumnType::Uuid
            | ColumnType::Bytes
            | ColumnType::Boolean
            | ColumnType::SmallInt
            | ColumnType::Int
            | ColumnType::BigInt
    )
}

/// A value in the column's own type, if it is exactly that and equal values have equal bytes.
pub(crate) fn typed(value: ScalarValue, column: &DeclaredColumn) -> Option<ScalarValue> {
    let has_one = has_one_spelling(&column.kind);
    let typed = value.cast_to(&column.kind.arrow()).ok().filter(|typed| has_one && !typed.is_null())?;
    (typed.cast_to(&value.data_type()).ok()? == value).then_some(typed)
}

/// Keys as SQL writes them; each once.
pub(crate) fn encode(rows: &[Vec<ScalarValue>], format: &RecordFormat) -> Option<Vec<Bytes>> {
    let declared: Vec<DeclaredColumn> =
        format.columns.iter().filter(|column| column.role == ColumnRole::Key).cloned().collect();
    let fields = declared.iter().map(|column| Field::new(&column.name, column.kind.arrow(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let arrays =
        (0..declared.len()).map(|column| ScalarValue::iter_to_array(rows.iter().map(|row| row[column].clone())));
    let arrays: Vec<ArrayRef> = arrays.collect::<DataFusionResult<_>>().ok()?;
    let batch = RecordBatch::try_new(schema, arrays).ok()?;
    let (key_format, value_format) = (format.key_format, Format::Json);
    let keys_only = RecordFormat { columns: declared, key_format, value_format, tombstones: true };
    let records = Encoder::new(&keys_only).ok()?.encode(&batch, Some(&vec![true; rows.len()])).ok()?;
    let mut keys: Vec<Bytes> = records.into_iter().filter_map(|record| record.key).collect();
    keys.sort_unstable();
    keys.dedup();
    Some(keys)
}

/// The rows of these keys in these columns, at a snapshot; `None` if only a scan can tell.
pub(crate) async fn look_up(
    catalog: &Arc<Catalog>,
    source: &Source,
    columns: &[SourceColumn],
    snapshot: &aquifer_storage::Snapshot,
    keys: &[Bytes],
) -> Result<Option<RecordBatch>> {
    let Some(relation) = &source.relation else { return Ok(None) };
    let mut reader = ScanReader::new(catalog, source, columns).map_err(Error::from)?;
    let found = snapshot.look_up(source.topic.id, &relation.format, keys, reader.raw_columns()).await?;
    let Some(raw) = found else { return Ok(None) };
    let rows = reader.read(&raw).map_err(Error::from)?;
    if rows.num_rows() < raw.num_rows() {
        return Ok(None);
    }
    // What stands for a value that does not decode is the key's newest, and no row.
    let (shown, deletes): (Vec<usize>, _) = ((0..columns.len()).collect(), rows.columns().last());
    let is_row = deletes.map(|deletes| not(deletes.as_boolean())).transpose().map_err(DataFusionError::from)?;
    let shown = rows.project(&shown).map_err(DataFusionError::from)?;
    let Some(is_row) = is_row else { return Ok(Some(shown)) };
    Ok(Some(filter_record_batch(&shown, &is_row).map_err(DataFusionError::from)?))
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct KeyLookupExec {
    /// What answers where a look-up cannot.
    scan: Arc<ScanExec>,
    keys: Vec<Bytes>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl KeyLookupExec {
    /// Looks these keys up instead of scanning.
    pub(crate) fn new(scan: ScanExec, keys: Vec<Bytes>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(scan.schema()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let metrics = ExecutionPlanMetricsSet::new();
        Self { scan: Arc::new(scan), keys, properties: Arc::new(properties), metrics }
    }
}

impl DisplayAs for KeyLookupExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyLookupExec: {}, keys={}", self.scan.source.name(), self.keys.len())
    }
}

impl ExecutionPlan for KeyLookupExec {
    fn name(&self) -> &'static str {
        "KeyLookupExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let by_state = MetricBuilder::new(&self.metrics).counter("answered_by_state", partition);
        let by_scan = MetricBuilder::new(&self.metrics).counter("answered_by_scan", partition);
        let (scan, keys, schema) = (Arc::clone(&self.scan), self.keys.clone(), self.schema());
        let answer = async move {
            let found = look_up(&scan.catalog, &scan.source, &scan.columns, &scan.snapshot, &keys).await;
            if let Some(rows) = found? {
                by_state.add(1);
                return Ok::<_, DataFusionError>(futures::stream::iter([Ok(rows)]).boxed());
            }
            by_scan.add(1);
            let partitions = 0..scan.partitions.len();
            let streams = partitions.map(|partition| scan.execute(partition, Arc::clone(&context)));
            let streams = streams.collect::<DataFusionResult<Vec<_>>>()?;
            Ok(futures::stream::iter(streams).flatten().boxed())
        };
        let rows = futures::stream::once(answer).try_flatten().inspect_ok(move |rows: &RecordBatch| {
            baseline.record_output(rows.num_rows());
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;
    use crate::statement::RelationKind;

    fn relation(key_format: Format, keys: &[(&str, ColumnType)]) -> Relation {
        let column = |name: &str, kind: &ColumnType, role| DeclaredColumn {
            name: name.to_owned(),
            field: name.to_owned(),
            kind: kind.clone(),
            role,
            not_null: false,
        };
        let mut columns: Vec<_> = keys.iter().map(|(name, kind)| column(name, kind, ColumnRole::Key)).collect();
        columns.push(column("v", &ColumnType::Text, ColumnRole::Value));
        Relation {
            name: "t".to_owned(),
            kind: RelationKind::Table,
            format: RecordFormat { columns, key_format, value_format: Format::Json, tombstones: true },
            topic: aquifer_storage::TopicId::from_bytes([1; 16]),
            topic_name: "t".to_owned(),
            timestamp_column: None,
            window: None,
            query: None,
            statement: String::new(),
            oid: 1,
            created_at_us: 0,
            rules: Default::default(),
        }
    }

    #[test]
    fn equality_lists_and_alternatives_of_the_key_become_its_bytes() {
        let table = relation(Format::Kafka, &[("id", ColumnType::Int)]);
        let keys = |filter: Expr| keys_of(&[filter], &table);
        let of = |id: i32| Bytes::copy_from_slice(&id.to_be_bytes());
        assert_eq!(keys(col("id").eq(lit(7_i32)).and(col("v").eq(lit("x")))), Some(vec![of(7)]));
        assert_eq!(keys(lit(7_i64).eq(col("id"))), Some(vec![of(7)]));
        assert_eq!(keys(col("id").in_list(vec![lit(9_i32), lit(2_i32), lit(9_i32)], false)), Some(vec![of(2), of(9)]));
        assert_eq!(keys(col("id").eq(lit(1_i32)).or(col("id").eq(lit(2_i32)))), Some(vec![of(1), of(2)]));
    }

    #[test]
    fn filters_that_do_not_name_the_whole_key_exactly_name_none() {
        let table = relation(Format::Kafka, &[("id", ColumnType::Int)]);
        let keys = |filter: Expr| keys_of(&[filter], &table);
        let null = Expr::Literal(ScalarValue::Int32(None), None);
        let refused = [
            col("id").gt(lit(7_i32)),
            col("id").in_list(vec![lit(1_i32)], true),
            col("id").eq(lit(1_i32)).or(col("v").eq(lit("x"))),
            col("id").eq(null),
            col("id").eq(lit(1.5_f64)),
            col("id").eq(lit(1_i64 << 40)),
        ];
        for filter in refused {
            assert_eq!(keys(filter.clone()), None, "{filter}");
        }
        let two = relation(Format::Json, &[("a", ColumnType::BigInt), ("b", ColumnType::Text)]);
        assert_eq!(keys_of(&[col("a").eq(lit(1_i64))], &two), None);
        let both = [col("a").eq(lit(1_i64)), col("b").in_list(vec![lit("x"), lit("y")], false)];
        let json = |b: &str| Bytes::from(format!("{{\"a\":1,\"b\":\"{b}\"}}"));
        assert_eq!(keys_of(&both, &two), Some(vec![json("x"), json("y")]));
        let real = relation(Format::Kafka, &[("id", ColumnType::Double)]);
        assert_eq!(keys_of(&[col("id").eq(lit(0.0_f64))], &real), None, "zero has two spellings");
    }
}
