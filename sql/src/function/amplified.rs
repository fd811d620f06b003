//! Functions that make much out of little, `repeat('x', 1000000000)` above all: what they make is asked of the memory of
//! queries before it is made, so that a statement fails and not the process.
//!
//! Operators account for what they hold, but what a function makes of a batch is nobody's until it is there. Only as much as
//! a batch takes while it is made is reserved here; whoever keeps it accounts for it as for every other batch.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type};
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

/// How many bytes a function makes at the most, of one row.
type Made = fn(&[Given], usize) -> Option<u64>;

/// The functions, and what they make.
const FUNCTIONS: [(&str, Made); 8] = [
    ("repeat", |given, row| Some(given.first()?.text_bytes(row)?.saturating_mul(given.get(1)?.count(row)?))),
    ("lpad", padded),
    ("rpad", padded),
    ("replace", replaced),
    ("array_repeat", |given, row| Some(given.first()?.value_bytes(row)?.saturating_mul(given.get(1)?.count(row)?))),
    ("array_resize", |given, row| Some(given.get(1)?.count(row)?.saturating_mul(NUMBER_BYTES))),
    ("range", counted),
    ("generate_series", counted),
];

/// A text of so many characters, which may have four bytes each; beyond what it is made of they are few.
fn padded(given: &[Given], row: usize) -> Option<u64> {
    let filler = given.get(2).map_or(Some(1), |filler| filler.text_bytes(row))?;
    let char_bytes = if filler > 1 { 4 } else { 1 };
    Some(given.get(1)?.count(row)?.saturating_mul(char_bytes).saturating_add(given.first()?.text_bytes(row)?))
}

/// Every character replaced, at the most.
fn replaced(given: &[Given], row: usize) -> Option<u64> {
    let [text, from, to] = [0, 1, 2].map(|place| given.get(place).and_then(|given| given.text_bytes(row)));
    let (text, from, to) = (text?, from?, to?);
    let most = text.checked_div(from).unwrap_or(0).saturating_mul(to).saturating_add(text);
    if most < ASKED_BYTES_MIN {
        return Some(most);
    }
    let found = given.first()?.text(row)?.matches(given.get(1)?.text(row)?).count() as u64;
    Some(found.saturating_mul(to).saturating_add(text))
}

/// The numbers from one to another; times are few.
fn counted(given: &[Given], row: usize) -> Option<u64> {
    let whole = |place: usize| given.get(place).map(|given| given.whole(row));
    let (start, stop, step) = match (whole(0)?, whole(1), whole(2)) {
        (stop, None, _) => (0, stop?, 1),
        (start, Some(stop), None) => (start?, stop?, 1),
        (start, Some(stop), Some(step)) => (start?, stop?, step?),
    };
    let numbers = i128::from(stop).abs_diff(i128::from(start)).checked_div(u128::from(step.unsigned_abs()))? + 1;
    Some(u64::try_from(numbers).unwrap_or(u64::MAX).saturating_mul(NUMBER_BYTES))
}

/// An argument.
enum Given {
    Text(StringArray, bool),
    Whole(arrow::array::Int64Array, bool),
    Other(ArrayRef),
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
            _ => Self::Other(array),
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

    /// Of one value; of those that are no text their mean.
    fn value_bytes(&self, row: usize) -> Option<u64> {
        match self {
            Self::Text(..) => self.text_bytes(row),
            Self::Whole(..) => Some(NUMBER_BYTES),
            Self::Other(values) => Some((values.get_array_memory_size() / values.len().max(1)).max(1) as u64),
        }
    }
}

/// Those of these functions that are asked for before they make anything.
pub(super) fn functions(
    known: impl Fn(&str) -> Option<Arc<ScalarUDF>>,
    pool: &Arc<dyn MemoryPool>,
) -> Vec<Arc<ScalarUDF>> {
    let asked = |(name, made): (&str, Made)| {
        Some(Arc::new(ScalarUDF::new_from_impl(Amplified { inner: known(name)?, made, pool: Arc::clone(pool) })))
    };
    FUNCTIONS.into_iter().filter_map(asked).collect()
}

struct Amplified {
    inner: Arc<ScalarUDF>,
    made: Made,
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
        Ok((0..rows).filter_map(|row| (self.made)(&given, row)).fold(0, u64::saturating_add))
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
        let (_, made) = FUNCTIONS.into_iter().find(|(known, _)| *known == name).unwrap();
        made(&given, 0)
    }

    #[test]
    fn what_is_made_is_known_before() {
        let (text, whole) = (|text: &str| ScalarValue::from(text), |value: i64| ScalarValue::from(value));
        assert_eq!(made("repeat", vec![text("ab"), whole(1 << 30)]), Some(1 << 31));
        assert_eq!(made("repeat", vec![text("ab"), whole(-1)]), Some(0));
        assert_eq!(made("repeat", vec![text("ab"), ScalarValue::Int64(None)]), None, "null is null");
        assert_eq!(made("lpad", vec![text("ab"), whole(1 << 30)]), Some((1 << 30) + 2));
        assert_eq!(made("rpad", vec![text("ab"), whole(10), text("ü")]), Some(42));
        let long = "ab".repeat(1 << 20);
        assert_eq!(made("replace", vec![text(&long), text("b"), text("cccc")]), Some((1 << 22) + (1 << 21)));
        assert_eq!(made("replace", vec![text("ab"), text(""), text("c")]), Some(2), "nothing is found");
        assert_eq!(made("range", vec![whole(i64::MAX)]), Some(u64::MAX));
        assert_eq!(made("generate_series", vec![whole(10), whole(1), whole(-3)]), Some(4 * NUMBER_BYTES));
        assert_eq!(made("generate_series", vec![whole(10), whole(1), whole(0)]), None, "is refused by itself");
        assert_eq!(made("array_repeat", vec![whole(7), whole(100)]), Some(800));
    }
}
