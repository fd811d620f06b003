//! `format(template, …)`, and `pg_typeof(value)`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::scalar::{Definition, is_text, texts};
use super::text::plain;
use crate::error::{Error, SqlState};
use crate::types::{column_type_of, type_name};

/// `%s`, `%I`, `%L` and `%%`, by turns or by number (`%2$s`).
pub(super) static FORMAT: Definition = Definition {
    name: "format",
    takes: |kinds| match kinds {
        [template, rest @ ..] if is_text(template) => {
            Some(std::iter::once(DataType::Utf8).chain(rest.iter().cloned()).collect())
        }
        _ => None,
    },
    gives: |_| (DataType::Utf8, None),
    rows: |arguments, rows| {
        let templates = texts(&arguments[0])?;
        let mut formatted = arrow::array::StringBuilder::new();
        for row in 0..rows {
            let template = templates.is_valid(row).then(|| templates.value(row));
            formatted.append_option(template.map(|template| fill(template, &arguments[1..], row)).transpose()?);
        }
        Ok(Arc::new(formatted.finish()))
    },
};

fn fill(template: &str, values: &[ArrayRef], row: usize) -> Result<String> {
    let mut out = String::new();
    let mut next = 0;
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(behind) = behind.strip_prefix('%') {
            out.push('%');
            rest = behind;
            continue;
        }
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
        let behind = match behind.split_at(digits) {
            (number, behind) if behind.starts_with('$') && digits > 0 => {
                next = number
                    .parse::<usize>()
                    .ok()
                    .and_then(|number| number.checked_sub(1))
                    .ok_or_else(|| wrong("%0$"))?;
                behind.get(1..).unwrap_or("")
            }
            _ => behind,
        };
        let value = values.get(next).ok_or_else(|| wrong("too few arguments for format()"))?;
        let shown = shown(value, row)?;
        match behind.chars().next() {
            Some('s') => out.push_str(&shown.unwrap_or_default()),
            Some('I') => out.push_str(&identifier(
                &shown.ok_or_else(|| wrong("null values cannot be formatted as an SQL identifier"))?,
            )),
            Some('L') => {
                out.push_str(&shown.map_or("NULL".to_owned(), |text| format!("'{}'", text.replace('\'', "''"))))
            }
            Some(other) => {
                return Err(Error::unsupported(format!("%{other} in format()"))
                    .with_hint("there are %s, %I, %L and %%")
                    .into());
            }
            None => return Err(wrong("unterminated format() type specifier").into()),
        }
        next += 1;
        rest = behind.get(1..).unwrap_or("");
    }
    out.push_str(rest);
    Ok(out)
}

fn wrong(what: &str) -> Error {
    Error::new(SqlState::InvalidParameterValue, what)
}

fn shown(column: &ArrayRef, row: usize) -> Result<Option<String>> {
    if column.is_null(row) {
        return Ok(None);
    }
    Ok(Some(match column.data_type() {
        DataType::Boolean => if column.as_boolean().value(row) { "t" } else { "f" }.to_owned(),
        _ => plain(column, row)?,
    }))
}

/// In double quotes where it would be read otherwise without.
fn identifier(name: &str) -> String {
    let mut letters = name.chars();
    let starts = letters.next().is_some_and(|first| first.is_ascii_lowercase() || first == '_');
    let plain = starts && letters.all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || "_$".contains(char));
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// `pg_typeof`.
pub(super) fn type_of() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(TypeOf { signature: Signature::any(1, Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TypeOf {
    signature: Signature,
}

impl ScalarUDFImpl for TypeOf {
    fn name(&self) -> &'static str {
        "pg_typeof"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _kinds: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(self.name(), DataType::Utf8, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(field) = args.arg_fields.first() else { return plan_err!("pg_typeof takes one argument") };
        let name = match field.data_type() {
            DataType::Null => "unknown".to_owned(),
            DataType::Decimal128(..) | DataType::Decimal256(..) => "numeric".to_owned(),
            DataType::Interval(_) | DataType::Duration(_) => "interval".to_owned(),
            kind => column_type_of(field).map_or_else(|| kind.to_string(), |kind| type_name(&kind)),
        };
        Ok(ColumnarValue::Scalar(ScalarValue::Utf8(Some(name))))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn templates_are_filled_by_turns_and_by_number() {
        let values: [ArrayRef; 2] =
            [Arc::new(StringArray::from(vec!["it's"])), Arc::new(Int64Array::from(vec![Some(7)]))];
        let filled = |template: &str| fill(template, &values, 0);
        assert_eq!(filled("%s is %s, 100%%").unwrap(), "it's is 7, 100%");
        assert_eq!(filled("%2$s %1$L %1$I").unwrap(), "7 'it''s' \"it's\"");
        for wrong in ["%s %s %s", "%", "%d", "%0$s"] {
            assert!(filled(wrong).is_err(), "{wrong}");
        }
    }
}
