//! `Pruning`: a statement's filters as storage asks them: which row groups may hold rows of interest, and which keys.
//!
//! Filters are looked at as DataFusion has them when the scan runs, so those that become known only then count too: what a
//! join has found on its other side, the worst row a top-N still takes. They leave out; the plan filters what is left.
//!
//! Bounds of a column say something of an expression over it only if that keeps the column's order: `t::time` does not
//! ([`keeps_order`]). And NaN, which is larger than any number, is in no statistics: a column that may have it has no known
//! largest value.

use std::collections::HashSet;
use std::sync::Arc;

use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::record::format::{ColumnRole, ColumnType, Format};
use aquifer_storage::{ColumnBounds, GroupFilter, GroupStatistics};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use datafusion::common::ScalarValue;
use datafusion::common::pruning::PruningStatistics;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, TryCastExpr};
use datafusion::physical_expr::utils::{
    Guarantee, collect_columns, conjunction, reassign_expr_columns, split_conjunction,
};
use datafusion::physical_expr_common::physical_expr::{is_volatile, snapshot_generation, snapshot_physical_expr};
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use parking_lot::Mutex;

use super::rows::{RowShape, rowtime_ms};
use super::source::{Source, SourceColumn};

/// Keys looked for in the filters on keys, at the most: each is looked for in every row group.
const KEYS_MAX: usize = 64;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Pruning {
    source: Source,
    columns: Vec<SourceColumn>,
    schema: SchemaRef,
    /// All filters together, over `schema`.
    predicate: Arc<dyn PhysicalExpr>,
    /// What it came to when it was last looked at.
    built: Mutex<Option<Built>>,
    /// For single rows.
    rows: Option<Rows>,
}

/// The filters over the columns they name alone.
#[derive(Debug)]
struct Rows {
    shape: RowShape,
    predicate: Arc<dyn PhysicalExpr>,
}

impl Rows {
    /// `None` where asking twice may give another answer, or no relation says what the columns are.
    fn new(
        source: &Source,
        columns: &[SourceColumn],
        schema: &SchemaRef,
        predicate: &Arc<dyn PhysicalExpr>,
    ) -> Option<Self> {
        let relation = source.relation.as_ref().filter(|_| !is_volatile(predicate))?;
        let mut named: Vec<usize> = collect_columns(predicate).iter().map(Column::index).collect();
        named.sort_unstable();
        let named: Option<Vec<SourceColumn>> = named.into_iter().map(|index| columns.get(index).copied()).collect();
        let schema_of_named = source.schema(&named.filter(|named| !named.is_empty())?);
        if schema_of_named.fields().iter().any(|field| schema.index_of(field.name()).is_err()) {
            return None;
        }
        let predicate = reassign_expr_columns(Arc::clone(predicate), &schema_of_named).ok()?;
        Some(Self { shape: RowShape::new(relation, schema_of_named), predicate })
    }
}

/// A predicate as of a version of it.
#[derive(Clone, Debug)]
struct Built {
    version: u64,
    /// `None` if it leaves nothing out.
    predicate: Option<Arc<PruningPredicate>>,
}

impl Pruning {
    /// Of filters over a scan's columns.
    pub(crate) fn new(
        source: &Source,
        columns: &[SourceColumn],
        schema: SchemaRef,
        filters: &[Arc<dyn PhysicalExpr>],
    ) -> Self {
        let predicate = conjunction(filters.iter().cloned());
        let rows = Rows::new(source, columns, &schema, &predicate);
        Self { source: source.clone(), columns: columns.to_vec(), schema, predicate, built: Mutex::new(None), rows }
    }

    fn predicate(&self) -> Option<Arc<PruningPredicate>> {
        let version = self.version();
        let mut built = self.built.lock();
        if let Some(built) = built.as_ref().filter(|built| built.version == version) {
            return built.predicate.clone();
        }
        let predicate = self.build();
        *built = Some(Built { version, predicate: predicate.clone() });
        predicate
    }

    /// The filters as they are now, without those that bounds say nothing of.
    fn build(&self) -> Option<Arc<PruningPredicate>> {
        let now = snapshot_physical_expr(Arc::clone(&self.predicate)).ok()?;
        let kept = split_conjunction(&now).into_iter().filter(|filter| keeps_order(filter, &self.schema));
        let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&self.schema));
        builder.build(conjunction(kept.cloned()))
    }

    fn column(&self, name: &str) -> Option<(SourceColumn, &DataType)> {
        let index = self.schema.index_of(name).ok()?;
        Some((*self.columns.get(index)?, self.schema.field(index).data_type()))
    }
}

/// Whether every cast in a filter gives its values the order they had before. DataFusion asks bounds through any cast.
fn keeps_order(filter: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> bool {
    let cast = filter.downcast_ref::<CastExpr>().map(|cast| (cast.expr(), cast.cast_type()));
    let cast = cast.or_else(|| filter.downcast_ref::<TryCastExpr>().map(|cast| (cast.expr(), cast.cast_type())));
    let ordered = |(from, to): (&Arc<dyn PhysicalExpr>, &DataType)| {
        from.data_type(schema).is_ok_and(|from| is_ordered_cast(&from, to))
    };
    cast.is_none_or(ordered) && filter.children().into_iter().all(|child| keeps_order(child, schema))
}

/// A time of day turns over, a boolean has one value for all but zero, and clocks of places are put back.
fn is_ordered_cast(from: &DataType, to: &DataType) -> bool {
    let is_moment = |kind: &DataType| match kind {
        DataType::Timestamp(_, zone) => zone.as_ref().is_none_or(|zone| matches!(&**zone, "UTC" | "+00:00")),
        kind => matches!(kind, DataType::Date32 | DataType::Date64),
    };
    let is_numeric = DataType::is_numeric;
    from == to
        || (from.is_string() && to.is_string())
        || (is_moment(from) && is_moment(to))
        || ((is_numeric(from) || *from == DataType::Boolean) && is_numeric(to))
        || (is_moment(from) && to.is_integer())
        || (from.is_integer() && is_moment(to))
}

impl GroupFilter for Pruning {
    fn may_hold(&self, groups: &GroupStatistics<'_>) -> Option<Vec<bool>> {
        let predicate = self.predicate()?;
        match predicate.prune(&Known { pruning: self, groups }) {
            Ok(kept) => Some(kept),
            Err(error) => {
                tracing::debug!(%error, "a filter is not asked which row groups to read");
                None
            }
        }
    }

    fn version(&self) -> u64 {
        snapshot_generation(&self.predicate)
    }

    fn row_columns(&self) -> Option<(Vec<RecordColumn>, Vec<usize>)> {
        let shape = &self.rows.as_ref()?.shape;
        Some((shape.raw_columns().to_vec(), shape.wanted().to_vec()))
    }

    fn rows(&self, rows: &RecordBatch) -> Option<BooleanArray> {
        let Rows { shape, predicate } = self.rows.as_ref()?;
        let rows = shape.rows(rows).ok()?;
        // What fails here fails in the plan too, where somebody hears of it.
        let kept = predicate.evaluate(&rows).and_then(|kept| kept.into_array(rows.num_rows())).ok()?;
        kept.as_boolean_opt().cloned()
    }

    fn keys(&self) -> Option<Arc<[Bytes]>> {
        let predicate = self.predicate()?;
        let guarantees = predicate.literal_guarantees().iter();
        let of_keys = guarantees.filter(|guarantee| guarantee.guarantee == Guarantee::In).filter_map(|guarantee| {
            let (column, _) = self.column(&guarantee.column.name)?;
            keys_of(&self.source, column, &guarantee.literals)
        });
        of_keys.min_by_key(Vec::len).map(Into::into)
    }
}

/// The keys of records in which a column is one of these values; `None` if a value has no bytes, or several, that a key can
/// have for it.
fn keys_of(source: &Source, column: SourceColumn, values: &HashSet<ScalarValue>) -> Option<Vec<Bytes>> {
    if values.len() > KEYS_MAX {
        return None;
    }
    let kind = match column {
        SourceColumn::Key => ColumnType::Bytes,
        SourceColumn::Declared(index) => {
            let format = &source.relation.as_ref()?.format;
            let declared = format.columns.get(index)?;
            if format.key_format != Format::Kafka || declared.role != ColumnRole::Key {
                return None;
            }
            declared.kind.clone()
        }
        _ => return None,
    };
    values.iter().map(|value| key_of(&kind, value)).collect()
}

/// Kafka's bytes of a value; `None` where other bytes may mean the same.
fn key_of(kind: &ColumnType, value: &ScalarValue) -> Option<Bytes> {
    match (kind, value) {
        (ColumnType::Text, value) => value.try_as_str()?.map(|text| Bytes::copy_from_slice(text.as_bytes())),
        (ColumnType::Int, ScalarValue::Int32(Some(number))) => Some(Bytes::copy_from_slice(&number.to_be_bytes())),
        (ColumnType::BigInt, ScalarValue::Int64(Some(number))) => Some(Bytes::copy_from_slice(&number.to_be_bytes())),
        (ColumnType::Bytes, ScalarValue::Binary(Some(bytes))) => Some(Bytes::copy_from_slice(bytes)),
        _ => None,
    }
}

/// What storage knows of row groups, under the names that filters have.
struct Known<'a> {
    pruning: &'a Pruning,
    groups: &'a GroupStatistics<'a>,
}

impl Known<'_> {
    fn bounds(&self, name: &str) -> Option<ColumnBounds> {
        let (column, kind) = self.pruning.column(name)?;
        let bounds = match column {
            SourceColumn::Declared(index) => self.declared(index)?,
            SourceColumn::Partition | SourceColumn::RowPartition => self.groups.partitions(),
            SourceColumn::Offset | SourceColumn::RowOffset => self.groups.offsets(),
            SourceColumn::Timestamp => self.groups.timestamps_ms(),
            SourceColumn::RowTime => self.rowtime()?,
            _ => return None,
        };
        let typed = |array: &ArrayRef| match array.data_type() == kind {
            true => Some(Arc::clone(array)),
            false => cast(array, kind).ok(),
        };
        Some(ColumnBounds { min: typed(&bounds.min)?, max: typed(&bounds.max)?, nulls: bounds.nulls })
    }

    /// A declared column's values, without those ends that NaN may lie beyond: what is read from text has no sign there, bytes
    /// may have one.
    fn declared(&self, index: usize) -> Option<ColumnBounds> {
        let mut bounds = self.groups.declared(index)?;
        if bounds.max.data_type().is_floating() {
            let format = &self.pruning.source.relation.as_ref()?.format;
            let role = format.columns.get(index)?.role;
            let bytes = if role == ColumnRole::Key { format.key_format } else { format.value_format };
            bounds.max = new_null_array(bounds.max.data_type(), bounds.max.len());
            if bytes == Format::Kafka {
                bounds.min = ArrayRef::clone(&bounds.max);
            }
        }
        Some(bounds)
    }

    /// The declared timestamp column's times, and the records' own where it may be NULL.
    fn rowtime(&self) -> Option<ColumnBounds> {
        let own = self.groups.timestamps_ms();
        let relation = self.pruning.source.relation.as_ref();
        let Some(name) = relation.and_then(|relation| relation.timestamp_column.as_ref()) else { return Some(own) };
        let index = relation?.format.columns.iter().position(|column| column.name == *name)?;
        let declared = self.groups.declared(index)?;
        let (rows, nulls) = (self.groups.rows(), &declared.nulls);
        let hull = |times: &ArrayRef, own: &ArrayRef, wider: fn(i64, i64) -> i64| -> Option<ArrayRef> {
            let (times, own) = (rowtime_ms(times).ok()?, rowtime_ms(own).ok()?);
            let at = |group: usize| {
                let (own, nulls) = (own.value(group), nulls.is_valid(group).then(|| nulls.value(group)));
                match (times.is_valid(group), nulls) {
                    (true, Some(0)) => Some(times.value(group)),
                    (true, _) => Some(wider(times.value(group), own)),
                    // All of them NULL; or nobody knows.
                    (false, nulls) => (nulls == Some(rows.value(group))).then_some(own),
                }
            };
            Some(Arc::new((0..self.groups.groups()).map(at).collect::<Int64Array>()))
        };
        let (min, max) = (hull(&declared.min, &own.min, i64::min)?, hull(&declared.max, &own.max, i64::max)?);
        Some(ColumnBounds { min, max, nulls: UInt64Array::from_value(0, self.groups.groups()) })
    }
}

impl PruningStatistics for Known<'_> {
    fn min_values(&self, column: &datafusion::common::Column) -> Option<ArrayRef> {
        self.bounds(&column.name).map(|bounds| bounds.min)
    }

    fn max_values(&self, column: &datafusion::common::Column) -> Option<ArrayRef> {
        self.bounds(&column.name).map(|bounds| bounds.max)
    }

    fn num_containers(&self) -> usize {
        self.groups.groups()
    }

    fn null_counts(&self, column: &datafusion::common::Column) -> Option<ArrayRef> {
        self.bounds(&column.name).map(|bounds| Arc::new(bounds.nulls) as ArrayRef)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.groups.rows()))
    }

    fn contained(&self, _: &datafusion::common::Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        // Storage asks for the keys, and looks for them itself.
        None
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn casts_that_turn_values_over_are_told() {
        let time = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
        for (from, to, ordered) in [
            (DataType::Int32, DataType::Int64, true),
            (DataType::Decimal128(20, 3), DataType::Float64, true),
            (DataType::Boolean, DataType::Int32, true),
            (time(Some("UTC")), DataType::Date32, true),
            (DataType::Utf8, DataType::LargeUtf8, true),
            (time(None), DataType::Time64(TimeUnit::Microsecond), false),
            (time(Some("Europe/Berlin")), time(None), false),
            (DataType::Int64, DataType::Boolean, false),
            (DataType::Utf8, DataType::Int64, false),
        ] {
            assert_eq!(is_ordered_cast(&from, &to), ordered, "{from} to {to}");
        }
    }

    #[test]
    fn only_values_with_bytes_of_their_own_are_looked_for_as_keys() {
        let key = |kind, value| key_of(&kind, &value);
        let text = |text: &str| ScalarValue::Utf8(Some(text.to_owned()));
        assert_eq!(key(ColumnType::Text, text("ü")), Some(Bytes::from_static("ü".as_bytes())));
        assert_eq!(key(ColumnType::Int, ScalarValue::Int32(Some(258))), Some(Bytes::from_static(&[0, 0, 1, 2])));
        let number = ScalarValue::Int64(Some(-1));
        assert_eq!(key(ColumnType::BigInt, number.clone()), Some(Bytes::from_static(&[0xff; 8])));
        assert_eq!(key(ColumnType::Bytes, ScalarValue::Binary(Some(vec![7]))), Some(Bytes::from_static(&[7])));
        // A uuid may have been written in capitals, 0.0 as -0.0; and what is of another type is no key.
        assert_eq!(key(ColumnType::Uuid, text("67e55044-10b1-426f-9247-bb680e5fe0c8")), None);
        assert_eq!(key(ColumnType::Double, ScalarValue::Float64(Some(0.0))), None);
        assert_eq!((key(ColumnType::Int, number), key(ColumnType::Text, ScalarValue::Utf8(None))), (None, None));
    }
}
