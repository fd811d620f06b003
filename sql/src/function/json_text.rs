//! `document ->> 'key'` behind keys that stand in the statement: [`text_at`] row by row, without a parser's detours.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, StringBuilder};
use arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use serde::de::IgnoredAny;

use super::json_find::text_at;
use super::jsonb::{invalid, nested_too_deep};

/// Bytes of a text that is found, on average: what is set aside for it.
const TEXT_BYTES: usize = 8;

static TEXT_AT: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(TextAt { signature }))
});

/// `json_text_at(document, 'key', …)`.
pub(super) fn function() -> Arc<ScalarUDF> {
    Arc::clone(&TEXT_AT)
}

/// Whether these steps are keys that are known now, none of which could be an array's index.
pub(super) fn are_keys(steps: &[Expr]) -> bool {
    let is_key =
        |step: &Expr| matches!(step, Expr::Literal(ScalarValue::Utf8(Some(key)), _) if key.parse::<i64>().is_err());
    !steps.is_empty() && steps.iter().all(is_key)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TextAt {
    signature: Signature,
}

impl ScalarUDFImpl for TextAt {
    fn name(&self) -> &'static str {
        "json_text_at"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        let Some((document, steps)) = kinds.split_first() else {
            return plan_err!("json_text_at takes a document and keys");
        };
        let document = match document {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => document.clone(),
            DataType::Null => DataType::Utf8,
            other => return plan_err!("no operator matches {other} ->> text: it takes JSON as text"),
        };
        Ok(std::iter::once(document).chain(steps.iter().map(|_| DataType::Utf8)).collect())
    }

    fn return_type(&self, _kinds: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some((document, steps)) = args.args.split_first() else {
            return exec_err!("json_text_at takes a document and keys");
        };
        let path = steps.iter().map(|step| match step {
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(key))) => Ok(key.as_str()),
            other => exec_err!("json_text_at takes keys that are known, not {other:?}"),
        });
        let path = path.collect::<Result<Vec<&str>>>()?;
        match document {
            ColumnarValue::Array(documents) => texts(documents, &path).map(ColumnarValue::Array),
            ColumnarValue::Scalar(document) => {
                let found = texts(&document.to_array()?, &path)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?))
            }
        }
    }
}

fn texts(documents: &ArrayRef, path: &[&str]) -> Result<ArrayRef> {
    match documents.data_type() {
        DataType::Utf8 => texts_of(documents.as_string::<i32>().iter(), path),
        DataType::LargeUtf8 => texts_of(documents.as_string::<i64>().iter(), path),
        DataType::Utf8View => texts_of(documents.as_string_view().iter(), path),
        other => exec_err!("json_text_at takes text, not {other}"),
    }
}

fn texts_of<'a>(documents: impl ExactSizeIterator<Item = Option<&'a str>>, path: &[&str]) -> Result<ArrayRef> {
    let mut found = StringBuilder::with_capacity(documents.len(), documents.len() * TEXT_BYTES);
    for document in documents {
        let Some(document) = document else {
            found.append_null();
            continue;
        };
        match text_at(document, path) {
            Ok(text) => found.append_option(text),
            // A parser knows what is wrong, and where.
            Err(_) => {
                return Err(match serde_json::from_str::<IgnoredAny>(document) {
                    Err(error) => invalid(&error),
                    Ok(_) => nested_too_deep(),
                });
            }
        }
    }
    Ok(Arc::new(found.finish()))
}
