//! Postgres's system functions over plain values: one call per row, which the sizes of catalogs allow.

use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::Array;
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::kind::{Kind, Value, array_of};

/// What computes one row.
pub(crate) type Call = Arc<dyn Fn(&[ScalarValue]) -> Value + Send + Sync>;

/// A function by name.
pub(crate) struct SystemFunction {
    name: &'static str,
    returns: Kind,
    /// Any argument that is NULL makes the result NULL.
    strict: bool,
    signature: Signature,
    call: Call,
}

impl std::fmt::Debug for SystemFunction {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

// Two functions are the same if they compute from the same state, as those of one statement do.
impl PartialEq for SystemFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.call, &other.call)
    }
}

impl Eq for SystemFunction {}

impl Hash for SystemFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// A function ready to be registered.
pub(crate) fn function(
    name: &'static str,
    arity: RangeInclusive<usize>,
    returns: Kind,
    strict: bool,
    call: impl Fn(&[ScalarValue]) -> Value + Send + Sync + 'static,
) -> ScalarUDF {
    let mut signatures: Vec<TypeSignature> = arity.clone().filter(|count| *count > 0).map(TypeSignature::Any).collect();
    if arity.contains(&0) {
        signatures.push(TypeSignature::Nullary);
    }
    ScalarUDF::from(SystemFunction {
        name,
        returns,
        strict,
        signature: Signature::one_of(signatures, Volatility::Stable),
        call: Arc::new(call),
    })
}

impl ScalarUDFImpl for SystemFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.arrow())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { args.number_rows };
        let mut results = Vec::with_capacity(rows);
        for row in 0..rows {
            let values = args.args.iter().map(|arg| at(arg, row)).collect::<Result<Vec<_>>>()?;
            let null = self.strict && values.iter().any(ScalarValue::is_null);
            results.push(if null { Value::Null } else { (self.call)(&values) });
        }
        let array = array_of(self.returns, results.iter());
        if scalar { Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)) } else { Ok(array.into()) }
    }
}

fn at(arg: &ColumnarValue, row: usize) -> Result<ScalarValue> {
    match arg {
        ColumnarValue::Scalar(value) => Ok(value.clone()),
        ColumnarValue::Array(array) => ScalarValue::try_from_array(array, row),
    }
}

/// An argument as a whole number; text of digits is one, as literals of any type arrive as text.
pub(crate) fn int(value: Option<&ScalarValue>) -> Option<i64> {
    match value?.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(value) => value,
        _ => None,
    }
}

/// An argument as an OID.
pub(crate) fn oid(value: Option<&ScalarValue>) -> Option<u32> {
    int(value)?.try_into().ok()
}

/// An argument as text.
pub(crate) fn text(value: Option<&ScalarValue>) -> Option<String> {
    match value?.cast_to(&DataType::Utf8).ok()? {
        ScalarValue::Utf8(value) => value,
        _ => None,
    }
}

/// An argument as a list of whole numbers or texts.
pub(crate) fn list_length(value: Option<&ScalarValue>) -> Option<i64> {
    match value? {
        ScalarValue::List(list) if !list.is_null(0) => i64::try_from(list.value(0).len()).ok(),
        ScalarValue::LargeList(list) if !list.is_null(0) => i64::try_from(list.value(0).len()).ok(),
        _ => None,
    }
}
