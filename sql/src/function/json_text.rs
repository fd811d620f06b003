//! `document ->> 'key'` behind keys that stand in the statement: [`text_at`] row by row, without a parser's detours.
//!
//! What is cast to json or jsonb only to be looked into is not read twice: the look itself refuses what is no JSON, and writes
//! what it finds as the cast would have done.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, StringBuilder};
use arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use serde::de::IgnoredAny;

use super::json_find::{Found, text_at};
use super::jsonb::nested_too_deep;
use super::jsonb_value::{invalid, parsed};

/// Bytes of a text that is found, on average: what is set aside for it.
const TEXT_BYTES: usize = 8;

static JSON_TEXT_AT: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| made(false));
static JSONB_TEXT_AT: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| made(true));

fn made(is_jsonb: bool) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(TextAt { is_jsonb, signature }))
}

/// The function with its arguments, a document and keys: `json_text_at(document, 'key', …)`, or `jsonb_text_at`.
pub(super) fn call(mut arguments: Vec<Expr>) -> Expr {
    let Some(document) = arguments.first_mut() else { return JSON_TEXT_AT.call(arguments) };
    let function = match uncast(document) {
        Some((text, is_jsonb)) => {
            *document = text;
            if is_jsonb { &JSONB_TEXT_AT } else { &JSON_TEXT_AT }
        }
        None => &JSON_TEXT_AT,
    };
    function.call(arguments)
}

/// The text that is cast to json or jsonb, and whether it is jsonb.
fn uncast(document: &Expr) -> Option<(Expr, bool)> {
    match document {
        Expr::Cast(cast) => uncast(&cast.expr),
        Expr::ScalarFunction(call) => {
            let is_jsonb = match call.func.name() {
                "jsonb_in" => true,
                "json_in" => false,
                _ => return None,
            };
            Some((call.args.first()?.clone(), is_jsonb))
        }
        _ => None,
    }
}

/// Whether these steps are keys that are known now, none of which could be an array's index.
pub(super) fn are_keys(steps: &[Expr]) -> bool {
    let is_key =
        |step: &Expr| matches!(step, Expr::Literal(ScalarValue::Utf8(Some(key)), _) if key.parse::<i64>().is_err());
    !steps.is_empty() && steps.iter().all(is_key)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TextAt {
    /// Whether a number, an object or an array is written as jsonb holds it.
    is_jsonb: bool,
    signature: Signature,
}

impl ScalarUDFImpl for TextAt {
    fn name(&self) -> &'static str {
        if self.is_jsonb { "jsonb_text_at" } else { "json_text_at" }
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
            ColumnarValue::Array(documents) => self.texts(documents, &path).map(ColumnarValue::Array),
            ColumnarValue::Scalar(document) => {
                let found = self.texts(&document.to_array()?, &path)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?))
            }
        }
    }
}

impl TextAt {
    fn texts(&self, documents: &ArrayRef, path: &[&str]) -> Result<ArrayRef> {
        match documents.data_type() {
            DataType::Utf8 => self.texts_of(documents.as_string::<i32>().iter(), path),
            DataType::LargeUtf8 => self.texts_of(documents.as_string::<i64>().iter(), path),
            DataType::Utf8View => self.texts_of(documents.as_string_view().iter(), path),
            other => exec_err!("{} takes text, not {other}", self.name()),
        }
    }

    fn texts_of<'a>(
        &self,
        documents: impl ExactSizeIterator<Item = Option<&'a str>>,
        path: &[&str],
    ) -> Result<ArrayRef> {
        let mut found = StringBuilder::with_capacity(documents.len(), documents.len() * TEXT_BYTES);
        for document in documents {
            let Some(document) = document else {
                found.append_null();
                continue;
            };
            match text_at(document, path) {
                Ok(Some(Found::Json(json))) if self.is_jsonb => found.append_value(parsed(json)?.written()),
                Ok(Some(Found::Json(json))) => found.append_value(json),
                Ok(Some(Found::Text(text))) => found.append_value(text),
                Ok(None) => found.append_null(),
                // A parser knows what is wrong, and where.
                Err(_) => {
                    return Err(match serde_json::from_str::<IgnoredAny>(document) {
                        Err(error) => invalid(&error).into(),
                        Ok(_) => nested_too_deep(),
                    });
                }
            }
        }
        Ok(Arc::new(found.finish()))
    }
}
