//! Functions that make much out of little, `repeat('x', 1000000000)` above all: what they make is asked of the memory of
//! queries before it is made, so that a statement fails and not the process.
//!
//! Operators account for what they hold, but what a function makes of a batch is nobody's until it is there. Only as much as
//! a batch takes while it is made is reserved here; whoever keeps it accounts for it as for every other batch.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, FieldRef, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::error::{Error, SqlState};

/// Less than this is made without asking.
const ASKED_BYTES_MIN: u64 = 1 << 20;

/// Values of a batch beyond this do not fit their array, whose offsets have 31 bits.
const BATCH_BYTES_MAX: u64 = i32::MAX as u64;

/// Bytes of a number in a list.
const NUMBER_BYTES: u64 = 8;

/// What an item of a list takes while it is repeated, beside its own bytes: where it comes from, where it goes, its offset.
const ITEM_BYTES: u64 = 24;

/// How many bytes a function makes of one row.
type Made = fn(&[Given], usize) -> Option<u64>;

/// A function and what it makes.
#[derive(Clone, Copy)]
struct Function {
    name: &'static str,
    /// At the most, told at once.
    most: Made,
    /// What it is, where the most may be far more and telling costs a look at every byte.
    exactly: Option<Made>,
}

const fn makes(name: &'static str, most: Made) -> Function {
    Function { name, most, exactly: None }
}

/// The functions.
const FUNCTIONS: [Function; 9] = [
    makes("repeat", |given, row| Some(given.first()?.text_bytes(row)?.saturating_mul(given.get(1)?.count(row)?))),
    makes("lpad", padded),
    makes("rpad", padded),
    Function { name: "replace", most: |given, row| replaced_most(given, row), exactly: Some(replaced) },
    makes("regexp_replace", |given, row| replaced_most(given, row).filter(|bytes| *bytes >= ODD_BYTES_MIN)),
    makes("array_repeat", |given, row| repeated(given.first()?, given.get(1)?.count(row)?, row)),
    makes("array_resize", |given, row| {
        let count = given.get(1)?.count(row)?;
        given.get(2).map_or_else(|| Some(count.saturating_mul(ITEM_BYTES)), |filler| repeated(filler, count, row))
    }),
    makes("range", counted),
    makes("generate_series", counted),
];

/// One answer of `regexp_replace` that could be as large as this is taken for what it could be; smaller ones hardly ever are.
const ODD_BYTES_MIN: u64 = 1 << 20;

/// A text of so many characters, each as long as those of the filler.
fn padded(given: &[Given], row: usize) -> Option<u64> {
    let filler = given.get(2).map_or(Some(" "), |filler| filler.text(row))?;
    let char_bytes = (filler.len() as u64).div_ceil((filler.chars().count() as u64).max(1));
    Some(given.get(1)?.count(row)?.saturating_mul(char_bytes).saturating_add(given.first()?.text_bytes(row)?))
}

/// Everything replaced.
fn replaced_most(given: &[Given], row: usize) -> Option<u64> {
    let [text, from, to] = [0, 1, 2].map(|place| given.get(place).and_then(|given| given.text_bytes(row)));
    let (text, from, to) = (text?, from?, to?);
    // What an expression finds may be as short as nothing.
    let found_max = if given.len() > 3 { text + 1 } else { text.checked_div(from).unwrap_or(0) };
    Some(found_max.saturating_mul(to).saturating_add(text))
}

/// What is there replaced.
fn replaced(given: &[Given], row: usize) -> Option<u64> {
    let [text, from] = [0, 1].map(|place| given.get(place).and_then(|given| given.text(row)));
    let (text, from) = (text?, from?);
    let found = if from.is_empty() { 0 } else { text.matches(from).count() as u64 };
    Some(found.saturating_mul(given.get(2)?.text_bytes(row)?).saturating_add(text.len() as u64))
}

/// A list of one value, which may be null.
fn repeated(value: &Given, count: u64, row: usize) -> Option<u64> {
    Some(count.saturating_mul(value.value_bytes(row).unwrap_or(0).saturating_add(ITEM_BYTES)))
}

/// The numbers or times from one to another.
fn counted(given: &[Given], row: usize) -> Option<u64> {
    let number = |place: usize| given.get(place).map(|given| given.number(row));
    let (start, stop, step) = match (number(0)?, number(1), number(2)) {
        (stop, None, _) => (0.0, stop?, 1.0),
        (start, Some(stop), None) => (start?, stop?, 1.0),
        (start, Some(stop), Some(step)) => (start?, stop?, step?),
    };
    let numbers = ((stop - start) / step).abs();
    // As far as floats go: a million more or less of so many is no matter.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    numbers.is_finite().then(|| (numbers as u64).saturating_add(1).saturating_mul(NUMBER_BYTES))
}

/// An argument.
enum Given {
    Text(StringArray, bool),
    Whole(Int64Array, bool),
    /// Times and lengths of time, in seconds.
    Seconds(Float64Array, bool),
    Other(ArrayRef),
}

/// Seconds of a day, and of the shortest month.
const DAY_S: f64 = 86_400.0;
const MONTH_S: f64 = 28.0 * DAY_S;

/// Times and lengths of time in seconds; `None` if it is something else.
#[expect(clippy::cast_precision_loss, reason = "lengths of time, roughly")]
fn seconds(array: &ArrayRef) -> Result<Option<Float64Array>> {
    let whole = |array: &ArrayRef| -> Result<Int64Array> {
        Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
    };
    Ok(match array.data_type() {
        DataType::Timestamp(unit, _) => {
            let per_second = match unit {
                TimeUnit::Second => 1.0,
                TimeUnit::Millisecond => 1e3,
                TimeUnit::Microsecond => 1e6,
                TimeUnit::Nanosecond => 1e9,
            };
            Some(whole(array)?.unary(|value| value as f64 / per_second))
        }
        DataType::Date32 => Some(whole(&cast(array, &DataType::Int32)?)?.unary(|days| days as f64 * DAY_S)),
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let of = |step: IntervalMonthDayNano| {
                f64::from(step.months) * MONTH_S + f64::from(step.days) * DAY_S + step.nanoseconds as f64 / 1e9
            };
            Some(array.as_primitive::<IntervalMonthDayNanoType>().unary(of))
        }
        _ => None,
    })
}

impl Given {
    fn of(value: &ColumnarValue) -> Result<Self> {
        let (array, same) = match value {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(scalar) => (scalar.to_array_of_size(1)?, true),
        };
        Ok(match array.data_type() {
            DataType::Utf8 => Self::Text(array.as_string::<i32>().clone(), same),
            DataType::LargeUtf8 | DataType::Utf8View => {
                Self::Text(cast(&array, &DataType::Utf8)?.as_string::<i32>().clone(), same)
            }
            kind if kind.is_integer() => {
                Self::Whole(cast(&array, &DataType::Int64)?.as_primitive::<Int64Type>().clone(), same)
            }
            _ => match seconds(&array)? {
                Some(seconds) => Self::Seconds(seconds, same),
                None => Self::Other(array),
            },
        })
    }

    fn text(&self, row: usize) -> Option<&str> {
        let Self::Text(texts, same) = self else { return None };
        let row = if *same { 0 } else { row };
        texts.is_valid(row).then(|| texts.value(row))
    }

    fn text_bytes(&self, row: usize) -> Option<u64> {
        self.text(row).map(|text| text.len() as u64)
    }

    fn whole(&self, row: usize) -> Option<i64> {
        let Self::Whole(values, same) = self else { return None };
        let row = if *same { 0 } else { row };
        values.is_valid(row).then(|| values.value(row))
    }

    /// How many; less than none are none.
    fn count(&self, row: usize) -> Option<u64> {
        self.whole(row).map(|value| u64::try_from(value).unwrap_or(0))
    }

    /// A number, or seconds.
    #[expect(clippy::cast_precision_loss, reason = "roughly")]
    fn number(&self, row: usize) -> Option<f64> {
        let Self::Seconds(values, same) = self else { return self.whole(row).map(|value| value as f64) };
        let row = if *same { 0 } else { row };
        values.is_valid(row).then(|| values.value(row))
    }

    /// Of one value; of those that are no text their mean.
    fn value_bytes(&self, row: usize) -> Option<u64> {
        match self {
            Self::Text(..) => self.text_bytes(row),
            Self::Whole(..) | Self::Seconds(..) => Some(NUMBER_BYTES),
            Self::Other(values) => {
                let bytes = values.to_data().get_slice_memory_size().unwrap_or_else(|_| values.get_array_memory_size());
                Some((bytes / values.len().max(1)) as u64)
            }
        }
    }
}

/// Those of these functions that are asked for before they make anything.
pub(super) fn functions(
    known: impl Fn(&str) -> Option<Arc<ScalarUDF>>,
    pool: &Arc<dyn MemoryPool>,
) -> Vec<Arc<ScalarUDF>> {
    let asked = |function: Function| {
        let (inner, pool) = (known(function.name)?, Arc::clone(pool));
        Some(Arc::new(ScalarUDF::new_from_impl(Amplified { inner, function, pool })))
    };
    FUNCTIONS.into_iter().filter_map(asked).collect()
}

struct Amplified {
    inner: Arc<ScalarUDF>,
    function: Function,
    pool: Arc<dyn MemoryPool>,
}

impl std::fmt::Debug for Amplified {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.inner.name())
    }
}

// A name is one function.
impl PartialEq for Amplified {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Amplified {}

impl Hash for Amplified {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl Amplified {
    /// The bytes that the answer takes at the most.
    fn bytes(&self, args: &ScalarFunctionArgs) -> Result<u64> {
        let given = args.args.iter().map(Given::of).collect::<Result<Vec<_>>>()?;
        let is_one = args.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if is_one { 1 } else { args.number_rows };
        let sum = |made: Made| (0..rows).filter_map(|row| made(&given, row)).fold(0, u64::saturating_add);
        let most = sum(self.function.most);
        Ok(self.function.exactly.filter(|_| most >= ASKED_BYTES_MIN).map_or(most, sum))
    }
}

impl ScalarUDFImpl for Amplified {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(kinds)
    }

    fn return_type(&self, kinds: &[DataType]) -> Result<DataType> {
        self.inner.return_type(kinds)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let bytes = self.bytes(&args)?;
        if bytes < ASKED_BYTES_MIN {
            return self.inner.invoke_with_args(args);
        }
        if bytes > BATCH_BYTES_MAX {
            let message = format!("{} of {} rows would take {bytes} bytes", self.name(), args.number_rows);
            return Err(DataFusionError::from(Error::new(SqlState::ProgramLimitExceeded, message).with_hint(format!(
                "at most {BATCH_BYTES_MAX} bytes are made at once: make shorter values, or fewer"
            ))));
        }
        let asked = MemoryConsumer::new(format!("{}()", self.name())).register(&self.pool);
        asked.try_grow(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        self.inner.invoke_with_args(args)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::*;

    fn made(name: &str, values: Vec<ScalarValue>) -> Option<u64> {
        let given: Vec<Given> =
            values.into_iter().map(|value| Given::of(&ColumnarValue::Scalar(value)).unwrap()).collect();
        let function = FUNCTIONS.into_iter().find(|function| function.name == name).unwrap();
        function.exactly.unwrap_or(function.most)(&given, 0)
    }

    #[test]
    fn what_is_made_is_known_before() {
        let (text, whole) = (|text: &str| ScalarValue::from(text), |value: i64| ScalarValue::from(value));
        assert_eq!(made("repeat", vec![text("ab"), whole(1 << 30)]), Some(1 << 31));
        assert_eq!(made("repeat", vec![text("ab"), whole(-1)]), Some(0));
        assert_eq!(made("repeat", vec![text("ab"), ScalarValue::Int64(None)]), None, "null is null");
        assert_eq!(made("lpad", vec![text("ab"), whole(1 << 30)]), Some((1 << 30) + 2));
        assert_eq!(made("rpad", vec![text("ab"), whole(10), text("ü")]), Some(22));
        assert_eq!(made("rpad", vec![text("ab"), whole(10), text("xyz")]), Some(12));
        let long = "ab".repeat(1 << 20);
        assert_eq!(made("replace", vec![text(&long), text("b"), text("cccc")]), Some((1 << 22) + (1 << 21)));
        assert_eq!(made("replace", vec![text("ab"), text(""), text("c")]), Some(2), "nothing is found");
        let long = text(&long);
        let found = vec![long.clone(), text("b"), text("cccc"), text("g")];
        assert!(made("regexp_replace", found).is_some_and(|bytes| bytes > 1 << 23));
        assert_eq!(made("regexp_replace", vec![text("ab"), text("b"), text("c"), text("g")]), None, "is nothing odd");
        assert_eq!(made("range", vec![whole(i64::MAX)]), Some(u64::MAX));
        let second = |seconds: i64| ScalarValue::TimestampMicrosecond(Some(seconds * 1_000_000), None);
        let step = ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, 0, 1_000_000)));
        assert_eq!(made("generate_series", vec![second(0), second(100), step]), Some(100_001 * NUMBER_BYTES));
        let month = ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(1, 0, 0)));
        let year = vec![ScalarValue::Date32(Some(0)), ScalarValue::Date32(Some(365)), month];
        assert_eq!(made("generate_series", year), Some(14 * NUMBER_BYTES));
        assert_eq!(made("generate_series", vec![whole(10), whole(1), whole(-3)]), Some(4 * NUMBER_BYTES));
        assert_eq!(made("generate_series", vec![whole(10), whole(1), whole(0)]), None, "is refused by itself");
        assert_eq!(made("array_repeat", vec![whole(7), whole(100)]), Some(3200));
        assert_eq!(made("array_repeat", vec![ScalarValue::Utf8(None), whole(100)]), Some(2400), "of null too");
        assert_eq!(made("array_resize", vec![ScalarValue::Null, whole(100), text("filler")]), Some(3000));
    }
}
