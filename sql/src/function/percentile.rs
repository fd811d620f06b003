//! `percentile_cont`, `percentile_disc` and `mode`, of one fraction or an array of them, as Postgres defines them
//! (<https://www.postgresql.org/docs/current/functions-aggregate.html>, ordered-set aggregates).
//!
//! DataFusion's own `percentile_cont` weighs neighbours by six digits, holds every value once per call, and knows no other of
//! these. Here a group's values are counted as they come (`values`), and calls that differ only in their fraction share them
//! (`shared`).

mod shared;
mod values;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, LargeListArray, ListArray, RecordBatch, RecordBatchOptions,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type, Schema};
use datafusion::common::{ScalarValue, internal_err, not_impl_err, plan_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;

use self::values::{Bytes, Codec, Numbers, Values};
use crate::error::{Error, SqlState};

pub(super) use shared::SharedValues;

/// See the head of this file.
pub(super) fn functions() -> [Arc<AggregateUDF>; 3] {
    [What::Between, What::Nearest, What::MostFrequent].map(|what| {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(AggregateUDF::new_from_impl(OrderedSet { what, signature }))
    })
}

/// What of a group's values in order is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    /// `percentile_cont`: the value at a fraction of the way, between its neighbours.
    Between,
    /// `percentile_disc`: the first value at or behind a fraction of the way.
    Nearest,
    /// `mode`: the most frequent value, of several the first.
    MostFrequent,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OrderedSet {
    what: What,
    signature: Signature,
}

impl OrderedSet {
    /// The type that values are taken as.
    fn value_as(&self, kind: &DataType) -> Result<DataType> {
        match self.what {
            What::Between if kind.is_numeric() || kind.is_null() => Ok(DataType::Float64),
            What::Between => plan_err!(
                "No function matches percentile_cont over {kind}: it takes numbers; percentile_disc takes whatever has an order"
            ),
            What::Nearest | What::MostFrequent => Ok(if kind.is_null() { DataType::Utf8 } else { kind.clone() }),
        }
    }

    /// What a call asks for, of values of which type.
    fn asked(&self, args: &AccumulatorArgs<'_>) -> Result<(DataType, Asked)> {
        if args.is_distinct {
            return plan_err!("cannot use DISTINCT with WITHIN GROUP");
        }
        let Some(value) = args.expr_fields.first() else { return internal_err!("{} of nothing", self.name()) };
        if args.order_bys.is_empty() {
            return plan_err!("No function matches: {} wants WITHIN GROUP (ORDER BY …), and no OVER", self.name());
        }
        let fractions = match args.exprs.get(1) {
            Some(fraction) => fractions_of(fraction.as_ref(), self.name())?,
            None => Fractions::One(None),
        };
        let descending = args.order_bys.first().is_some_and(|order| order.options.descending);
        Ok((value.data_type().clone(), Asked { what: self.what, fractions, descending }))
    }
}

/// A list of values that may be null.
fn list_of(kind: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(kind, true)))
}

/// The type that fractions are taken as.
fn fraction_as(kind: &DataType) -> Result<DataType> {
    match kind {
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => Ok(list_of(DataType::Float64)),
        kind if kind.is_numeric() || kind.is_null() => Ok(DataType::Float64),
        kind => plan_err!(
            "No function matches a percentile at {kind}: name a fraction between 0 and 1, or an array of them"
        ),
    }
}

impl AggregateUDFImpl for OrderedSet {
    fn name(&self) -> &str {
        match self.what {
            What::Between => "percentile_cont",
            What::Nearest => "percentile_disc",
            What::MostFrequent => "mode",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        match (self.what, kinds) {
            (What::MostFrequent, [value]) => Ok(vec![self.value_as(value)?]),
            (What::Between | What::Nearest, [value, fraction]) => {
                Ok(vec![self.value_as(value)?, fraction_as(fraction)?])
            }
            (What::MostFrequent, _) => plan_err!("No function matches: write mode() WITHIN GROUP (ORDER BY …)"),
            _ => plan_err!("No function matches: write {}(0.5) WITHIN GROUP (ORDER BY …)", self.name()),
        }
    }

    fn return_type(&self, kinds: &[DataType]) -> Result<DataType> {
        match kinds {
            [value, DataType::List(_)] => Ok(list_of(value.clone())),
            [value, ..] => Ok(value.clone()),
            [] => internal_err!("{} of nothing", self.name()),
        }
    }

    fn supports_within_group_clause(&self) -> bool {
        true
    }

    /// Values are put in order here.
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let Some(value) = args.input_fields.first() else { return internal_err!("{} of nothing", self.name()) };
        let list = |name: &str, kind: DataType| {
            let kind = DataType::LargeList(Arc::new(Field::new_list_field(kind, true)));
            Arc::new(Field::new(format_state_name(args.name, name), kind, true))
        };
        Ok(vec![list("values", value.data_type().clone()), list("counts", DataType::Int64)])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let (kind, asked) = self.asked(&args)?;
        Ok(match Numbers::of(&kind) {
            Some(numbers) => Box::new(OneGroup(Groups::new(numbers, asked, kind))),
            None => Box::new(OneGroup(Groups::new(Bytes::of(&kind)?, asked, kind))),
        })
    }

    fn create_sliding_accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("OVER is not supported for ordered-set aggregate {}", self.name())
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let (kind, asked) = self.asked(&args)?;
        Ok(match Numbers::of(&kind) {
            Some(numbers) => Box::new(Groups::new(numbers, asked, kind)),
            None => Box::new(Groups::new(Bytes::of(&kind)?, asked, kind)),
        })
    }
}

/// Where of the way from the first value to the last.
#[derive(Clone, Debug)]
enum Fractions {
    One(Option<f64>),
    /// An array; `None` is one that is null.
    Many(Option<Vec<Option<f64>>>),
}

impl Fractions {
    fn named(&self) -> &[Option<f64>] {
        match self {
            Self::One(fraction) => std::slice::from_ref(fraction),
            Self::Many(fractions) => fractions.as_deref().unwrap_or_default(),
        }
    }
}

/// What a call asks for.
#[derive(Clone, Debug)]
struct Asked {
    what: What,
    fractions: Fractions,
    descending: bool,
}

/// The fractions that a call names, which are the same for all rows.
fn fractions_of(fraction: &dyn PhysicalExpr, name: &str) -> Result<Fractions> {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let no_columns = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?;
    let Ok(value) = fraction.evaluate(&no_columns) else {
        return plan_err!("the fraction of {name} must be a constant, or an array of constants: {fraction} is none");
    };
    let scalar = match value {
        ColumnarValue::Scalar(scalar) => scalar,
        ColumnarValue::Array(array) => ScalarValue::try_from_array(&array, 0)?,
    };
    let fractions = match scalar {
        ScalarValue::Float64(fraction) => Fractions::One(fraction),
        ScalarValue::List(list) if list.is_null(0) => Fractions::Many(None),
        ScalarValue::List(list) => Fractions::Many(Some(list.value(0).as_primitive::<Float64Type>().iter().collect())),
        other => return internal_err!("the fraction of {name} is {}", other.data_type()),
    };
    match fractions.named().iter().flatten().find(|fraction| !(0.0..=1.0).contains(*fraction)) {
        Some(wrong) => Err(DataFusionError::from(Error::new(
            SqlState::NumericValueOutOfRange,
            format!("percentile value {wrong} is not between 0 and 1"),
        ))),
        None => Ok(fractions),
    }
}

/// Groups of values, and what is asked of them.
#[derive(Debug)]
struct Groups<C: Codec> {
    codec: C,
    asked: Asked,
    kind: DataType,
    groups: Vec<Values<C::Rank>>,
    /// Of all groups' values.
    bytes: usize,
}

impl<C: Codec> Groups<C> {
    fn new(codec: C, asked: Asked, kind: DataType) -> Self {
        Self { codec, asked, kind, groups: Vec::new(), bytes: 0 }
    }

    fn grow(&mut self, groups_total: usize) {
        if self.groups.len() < groups_total {
            self.groups.resize_with(groups_total, Values::default);
        }
    }

    /// The values of groups that are given out.
    fn give(&mut self, emit: EmitTo) -> Vec<Values<C::Rank>> {
        let given = emit.take_needed(&mut self.groups);
        self.bytes = self.bytes.saturating_sub(given.iter().map(Values::bytes).sum());
        given
    }

    fn answer(&self, mut values: Values<C::Rank>, answers: &mut Vec<Option<C::Rank>>) -> Result<()> {
        if self.asked.what == What::MostFrequent {
            answers.push(values.most_frequent(self.asked.descending));
            return Ok(());
        }
        let fractions = self.asked.fractions.named().iter();
        let places: Vec<Option<Place>> =
            fractions.map(|fraction| self.asked.place((*fraction)?, values.len())).collect();
        let mut wanted: Vec<u64> = places.iter().flatten().flat_map(|place| [place.before, place.behind]).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let found = values.at(&wanted);
        let at = |index: u64| wanted.binary_search(&index).ok().and_then(|place| found.get(place));
        for place in places {
            let Some(place) = place else {
                answers.push(None);
                continue;
            };
            let (Some(before), Some(behind)) = (at(place.before), at(place.behind)) else {
                return internal_err!("a percentile beyond the values");
            };
            answers.push(Some(self.codec.between(before, behind, place.weight)));
        }
        Ok(())
    }
}

/// Two places in ascending order, which may be one, and how far the answer lies from the one to the other.
#[derive(Clone, Copy, Debug)]
struct Place {
    before: u64,
    behind: u64,
    weight: f64,
}

impl Asked {
    /// Where the fraction of so many values lies; `None` of none.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "as Postgres computes it"
    )]
    fn place(&self, fraction: f64, count: u64) -> Option<Place> {
        let last = count.checked_sub(1)?;
        let (before, behind, weight) = match self.what {
            What::Between => {
                let at = fraction * last as f64;
                (at.floor() as u64, at.ceil() as u64, at - at.floor())
            }
            What::Nearest | What::MostFrequent => {
                let row = (fraction * count as f64).ceil() as u64;
                (row.max(1) - 1, row.max(1) - 1, 0.0)
            }
        };
        let ascending = |at: u64| if self.descending { last - at.min(last) } else { at.min(last) };
        Some(Place { before: ascending(before), behind: ascending(behind), weight })
    }
}

/// Large lists of these lengths over one array.
fn lists(lengths: impl Iterator<Item = usize>, items: ArrayRef) -> Result<ArrayRef> {
    let field = Arc::new(Field::new_list_field(items.data_type().clone(), true));
    Ok(Arc::new(LargeListArray::try_new(field, OffsetBuffer::from_lengths(lengths), items, None)?))
}

impl<C: Codec> GroupsAccumulator for Groups<C> {
    fn update_batch(
        &mut self,
        columns: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        groups_total: usize,
    ) -> Result<()> {
        self.grow(groups_total);
        let Some(values) = columns.first() else { return internal_err!("no column of values") };
        let column = self.codec.column(values)?;
        for (row, group) in groups.iter().copied().enumerate() {
            if filter.is_some_and(|filter| !(filter.is_valid(row) && filter.value(row))) {
                continue;
            }
            if let Some(rank) = C::rank(&column, row) {
                let of_group = &mut self.groups[group];
                let before = of_group.bytes();
                of_group.push(rank);
                self.bytes = (self.bytes + of_group.bytes()).saturating_sub(before);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let given = self.give(emit);
        let is_told = !matches!(self.asked.fractions, Fractions::Many(None));
        let has_values: Vec<bool> = given.iter().map(|values| is_told && values.len() > 0).collect();
        let mut answers = Vec::with_capacity(given.len());
        for values in given {
            self.answer(values, &mut answers)?;
        }
        let answers = self.codec.array(answers.into_iter())?;
        if matches!(self.asked.fractions, Fractions::One(_)) {
            return Ok(answers);
        }
        let asked = self.asked.fractions.named().len();
        let field = Arc::new(Field::new_list_field(self.kind.clone(), true));
        let lengths = OffsetBuffer::from_lengths(std::iter::repeat_n(asked, has_values.len()));
        Ok(Arc::new(ListArray::try_new(field, lengths, answers, Some(has_values.into()))?))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let given = self.give(emit);
        let lengths: Vec<(usize, usize)> = given.iter().map(|values| values.state_lengths()).collect();
        let counts: Int64Array = given.iter().flat_map(Values::counts).map(Some).collect();
        let values = self.codec.array(given.into_iter().flat_map(Values::into_ranks).map(Some))?;
        Ok(vec![
            lists(lengths.iter().map(|(all, _)| *all), values)?,
            lists(lengths.iter().map(|(_, counted)| *counted), Arc::new(counts))?,
        ])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], groups_total: usize) -> Result<()> {
        self.grow(groups_total);
        let [values, counts] = states else { return internal_err!("{} columns of a state", states.len()) };
        let (Some(values), Some(counts)) = (values.as_list_opt::<i64>(), counts.as_list_opt::<i64>()) else {
            return internal_err!("a state that is no list");
        };
        let column = self.codec.column(values.values())?;
        let times: &ScalarBuffer<i64> = counts.values().as_primitive::<Int64Type>().values();
        let range = |list: &LargeListArray, row: usize| -> Result<std::ops::Range<usize>> {
            let [start, end] = [row, row + 1].map(|at| usize::try_from(list.value_offsets()[at]));
            match (start, end) {
                (Ok(start), Ok(end)) => Ok(start..end),
                _ => internal_err!("a state before its values"),
            }
        };
        for (row, group) in groups.iter().copied().enumerate() {
            let (of_values, of_counts) = (range(values, row)?, range(counts, row)?);
            let mut counted = times[of_counts].iter();
            let mut runs = Vec::with_capacity(counted.len());
            let of_group = &mut self.groups[group];
            let before = of_group.bytes();
            for rank in of_values.filter_map(|at| C::rank(&column, at)) {
                match counted.next() {
                    Some(count) => runs.push((rank, u64::try_from(*count).unwrap_or(0))),
                    None => of_group.push(rank),
                }
            }
            of_group.add_runs(runs);
            self.bytes = (self.bytes + of_group.bytes()).saturating_sub(before);
        }
        Ok(())
    }

    fn convert_to_state(&self, columns: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let Some(values) = columns.first() else { return internal_err!("no column of values") };
        let counts =
            |row: usize| values.is_valid(row) && filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        let counted: BooleanArray = (0..values.len()).map(|row| Some(counts(row))).collect();
        let kept = arrow::compute::filter(values, &counted)?;
        let lengths = counted.values().iter().map(usize::from);
        let nothing = std::iter::repeat_n(0, values.len());
        Ok(vec![lists(lengths, kept)?, lists(nothing, Arc::new(Int64Array::from(Vec::<i64>::new())))?])
    }

    fn size(&self) -> usize {
        self.bytes + self.groups.capacity() * size_of::<Values<C::Rank>>()
    }
}

/// A groups' accumulator of one group, which is not there as long as there are no rows.
#[derive(Debug)]
struct OneGroup<C: Codec>(Groups<C>);

/// What there is of the one group.
fn only(column: &ArrayRef) -> Result<ScalarValue> {
    if column.is_empty() {
        return ScalarValue::try_new_null(column.data_type());
    }
    ScalarValue::try_from_array(column, 0)
}

/// The group of each row.
fn groups(columns: &[ArrayRef]) -> Vec<usize> {
    vec![0; columns.first().map_or(0, |column| column.len())]
}

impl<C: Codec> Accumulator for OneGroup<C> {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(columns, &groups(columns), None, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        only(&self.0.evaluate(EmitTo::All)?)
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.state(EmitTo::All)?.iter().map(only).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(states, &groups(states), 1)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int32Array, StringArray};
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::datasource::MemTable;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const ROWS: u64 = 200_000;

    /// Few different numbers and words in `few`, hardly two alike in `many`, some of all null.
    fn rows(seed: u64) -> RecordBatch {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut column = |below: i32| -> Vec<Option<i32>> {
            (0..ROWS).map(|_| (!rng.random_bool(0.02)).then(|| rng.random_range(0..below))).collect()
        };
        let (few, many) = (column(700), column(1 << 30));
        let words: StringArray = few.iter().map(|few| few.map(|few| format!("w{few:03}"))).collect();
        let halves: Float64Array = many.iter().map(|many| many.map(|many| f64::from(many) / 2.0)).collect();
        let schema = Arc::new(Schema::new(vec![
            Field::new("g", DataType::Int64, false),
            Field::new("few", DataType::Int32, true),
            Field::new("many", DataType::Int32, true),
            Field::new("word", DataType::Utf8, true),
            Field::new("half", DataType::Float64, true),
        ]));
        let group = (0..i64::try_from(ROWS).unwrap()).map(|row| if row < 170_000 { 1 } else { row % 3_000 });
        let columns: Vec<ArrayRef> = vec![
            Arc::new(group.collect::<Int64Array>()),
            Arc::new(few.into_iter().collect::<Int32Array>()),
            Arc::new(many.into_iter().collect::<Int32Array>()),
            Arc::new(words),
            Arc::new(halves),
        ];
        RecordBatch::try_new(schema, columns).unwrap()
    }

    async fn asked(rows: &RecordBatch, sql: &str, partitions: usize) -> String {
        let mut config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(1 << 12);
        // As statements are read here.
        config.options_mut().sql_parser.parse_float_as_decimal = true;
        if partitions > 2 {
            // Rows that go to their final group at once.
            config.options_mut().execution.skip_partial_aggregation_probe_rows_threshold = 1;
            config.options_mut().execution.skip_partial_aggregation_probe_ratio_threshold = 0.0;
        }
        let context = SessionContext::new_with_config(config);
        functions().iter().for_each(|function| context.register_udaf(AggregateUDF::clone(function)));
        context.add_optimizer_rule(Arc::new(SharedValues));
        let batches =
            (0..rows.num_rows()).step_by(1 << 12).map(|at| rows.slice(at, (1 << 12).min(rows.num_rows() - at)));
        let mut parts: Vec<Vec<RecordBatch>> = vec![Vec::new(); partitions];
        batches.enumerate().for_each(|(index, batch)| parts[index % partitions].push(batch));
        context.register_table("t", Arc::new(MemTable::try_new(rows.schema(), parts).unwrap())).unwrap();
        let answer = context.sql(sql).await.unwrap().collect().await.unwrap();
        pretty_format_batches(&answer).unwrap().to_string()
    }

    /// The same by ranks: whole values in order, which a window numbers.
    fn by_rank(fraction: f64, column: &str, direction: &str) -> String {
        format!(
            "SELECT g, min(v) AS a FROM (SELECT g, {column} AS v, row_number() OVER (PARTITION BY g ORDER BY {column} {direction}) \
             AS r, count(*) OVER (PARTITION BY g) AS n FROM t WHERE {column} IS NOT NULL) WHERE r = greatest(ceil({fraction} * n), 1) \
             GROUP BY g ORDER BY g"
        )
    }

    #[tokio::test]
    async fn they_are_the_values_that_a_window_finds() {
        let rows = rows(1);
        for (column, fraction, direction) in
            [("few", 0.25, ""), ("many", 0.9, "DESC"), ("word", 0.5, ""), ("half", 1.0, ""), ("many", 0.0, "")]
        {
            let call = format!("percentile_disc({fraction}) WITHIN GROUP (ORDER BY {column} {direction})");
            let wanted = asked(&rows, &by_rank(fraction, column, direction), 2).await;
            for (call, partitions) in [
                (call.clone(), 1),
                (call.clone(), 3),
                (
                    format!(
                        "(percentile_disc(ARRAY[0.1, {fraction}]) WITHIN GROUP (ORDER BY {column} {direction}))[2]"
                    ),
                    2,
                ),
            ] {
                let sql = format!("SELECT g, {call} AS a FROM t GROUP BY g HAVING count({column}) > 0 ORDER BY g");
                assert_eq!(asked(&rows, &sql, partitions).await, wanted, "{sql}");
            }
        }
    }

    #[tokio::test]
    async fn calls_that_differ_in_their_fraction_share_their_values() {
        let rows = rows(2);
        let at = |fraction: &str| format!("percentile_cont({fraction}) WITHIN GROUP (ORDER BY few)");
        let (a, b, c) = (at("0.3"), at("0.7"), "percentile_disc(0.5) WITHIN GROUP (ORDER BY few)");
        let together = format!("SELECT g, {a} AS a, max(many) AS m, {b} AS b, {c} AS c FROM t GROUP BY g ORDER BY g");
        let apart = format!(
            "SELECT x.g, x.a, x.m, y.b, y.c FROM (SELECT g, {a} AS a, max(many) AS m FROM t GROUP BY g) x \
             JOIN (SELECT g, {b} AS b, {c} AS c FROM t GROUP BY g) y ON x.g = y.g ORDER BY 1"
        );
        assert_eq!(asked(&rows, &together, 2).await, asked(&rows, &apart, 2).await);
        let plan = asked(&rows, &format!("EXPLAIN {together}"), 2).await;
        assert_eq!(
            plan.lines().find(|line| line.contains("Aggregate")).unwrap().matches("percentile_cont(").count(),
            1,
            "{plan}"
        );
    }

    #[tokio::test]
    async fn the_most_frequent_is_the_first_of_its_equals() {
        let rows = rows(3);
        let counted = "SELECT g, first_value(word ORDER BY n DESC, word) AS a FROM (SELECT g, word, count(*) AS n FROM t WHERE word \
                       IS NOT NULL GROUP BY g, word) GROUP BY g ORDER BY g";
        let mode =
            "SELECT g, mode() WITHIN GROUP (ORDER BY word) AS a FROM t GROUP BY g HAVING count(word) > 0 ORDER BY g";
        let wanted = asked(&rows, counted, 2).await;
        assert_eq!(asked(&rows, mode, 1).await, wanted);
        assert_eq!(asked(&rows, mode, 3).await, wanted);
    }

    #[tokio::test]
    async fn neighbours_are_weighed_to_the_last_digit() {
        let rows = rows(4).slice(0, 0);
        let sql = "SELECT percentile_cont(0.123456789012) WITHIN GROUP (ORDER BY v) AS a, \
                   percentile_cont(0.123456789012) WITHIN GROUP (ORDER BY v DESC) AS b, \
                   percentile_cont(ARRAY[0.5, NULL]) WITHIN GROUP (ORDER BY v) AS c FROM (VALUES (0.0::double), (1.0::double)) AS x(v)";
        let answer = asked(&rows, sql, 1).await;
        assert!(answer.contains("| 0.123456789012 | 0.876543210988 | [0.5, ] |"), "{answer}");
        let none = asked(&rows, "SELECT percentile_cont(ARRAY[0.5]) WITHIN GROUP (ORDER BY half) IS NULL AS a, mode() WITHIN GROUP (ORDER BY few) IS NULL AS b FROM t", 1).await;
        assert!(none.contains("| true | true |"), "{none}");
    }
}
