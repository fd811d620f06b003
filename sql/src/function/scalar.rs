//! A function of rows by what it takes, gives and does: what the small functions of Postgres share.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::types::{TYPE_KEY, marked};

/// Functions that leave alone what they do not change the type of.
const IDENTITIES: [&str; 6] = ["text_out", "text_shown", "uuid_in", "jsonb_in", "json_in", "interval_of"];

/// What a function is.
pub(super) struct Definition {
    /// As it is called.
    pub(super) name: &'static str,
    /// The types that its arguments are cast to; `None`: there is no such function.
    pub(super) takes: fn(&[DataType]) -> Option<Vec<DataType>>,
    /// The result's type, and what it means if it is a text that means something (`jsonb`).
    pub(super) gives: fn(&[DataType]) -> (DataType, Option<&'static str>),
    /// The answer to that many rows.
    pub(super) rows: fn(&[ArrayRef], usize) -> Result<ArrayRef>,
}

/// The function, to be registered or called.
pub(super) fn defined(definition: &'static Definition) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(Defined { definition, signature }))
}

struct Defined {
    definition: &'static Definition,
    signature: Signature,
}

impl std::fmt::Debug for Defined {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.definition.name)
    }
}

// A name is one function.
impl PartialEq for Defined {
    fn eq(&self, other: &Self) -> bool {
        self.definition.name == other.definition.name
    }
}

impl Eq for Defined {}

impl Hash for Defined {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.definition.name.hash(state);
    }
}

impl ScalarUDFImpl for Defined {
    fn name(&self) -> &'static str {
        self.definition.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        match (self.definition.takes)(kinds) {
            Some(taken) => Ok(taken),
            None => {
                let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
                plan_err!("No function matches {}({})", self.name(), kinds.join(", "))
            }
        }
    }

    fn return_type(&self, kinds: &[DataType]) -> Result<DataType> {
        Ok((self.definition.gives)(kinds).0)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let kinds: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let (kind, meaning) = (self.definition.gives)(&kinds);
        let field = Field::new(self.name(), kind, true);
        Ok(Arc::new(match meaning {
            Some(meaning) => marked(field, meaning),
            None => field,
        }))
    }

    /// Where there is nothing to do, filters behind it prune.
    fn simplify(&self, mut arguments: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        if IDENTITIES.contains(&self.name())
            && let [argument] = arguments.as_slice()
        {
            let kind = info.get_data_type(argument)?;
            if (self.definition.gives)(std::slice::from_ref(&kind)) == (kind, None)
                && let Some(argument) = arguments.pop()
            {
                return Ok(ExprSimplifyResult::Simplified(argument));
            }
        }
        Ok(ExprSimplifyResult::Original(arguments))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|argument| argument.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let answer = (self.definition.rows)(&arrays, rows)?;
        if is_constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&answer, 0)?));
        }
        Ok(ColumnarValue::Array(answer))
    }
}

/// Whether values of a type are text, or nothing that is known yet.
pub(super) fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

/// Whether a text of that field means this.
pub(super) fn means(field: &Field, meaning: &str) -> bool {
    field.metadata().get(TYPE_KEY).is_some_and(|found| found == meaning)
}

/// An argument's texts.
pub(super) fn texts(column: &ArrayRef) -> Result<StringArray> {
    Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// A text for each row: what `text` makes of it, where no argument is null.
pub(super) fn text_rows(
    arguments: &[ArrayRef],
    rows: usize,
    mut text: impl FnMut(usize) -> Result<Option<String>>,
) -> Result<ArrayRef> {
    let mut answers = arrow::array::StringBuilder::new();
    for row in 0..rows {
        let known = arguments.iter().all(|argument| argument.is_valid(row));
        answers.append_option(if known { text(row)? } else { None });
    }
    Ok(Arc::new(answers.finish()))
}
