//! JSON made of any value: `to_jsonb`, `jsonb_build_array`, `jsonb_build_object`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::jsonb_value::{parsed, quoted};
use super::scalar::means;
use super::text::plain;
use crate::error::{Error, SqlState};
use crate::types::marked;

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Value,
    Array,
    Object,
}

/// All of them, to be registered.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    [Kind::Value, Kind::Array, Kind::Object]
        .into_iter()
        .map(|kind| {
            let signature = Signature::user_defined(Volatility::Immutable);
            let aliases = kind.aliases();
            Arc::new(ScalarUDF::new_from_impl(Build { kind, signature, aliases }))
        })
        .collect()
}

impl Kind {
    fn aliases(self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Value => &["to_json"],
            Self::Array => &["json_build_array"],
            Self::Object => &["json_build_object"],
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Build {
    kind: Kind,
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for Build {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Value => "to_jsonb",
            Kind::Array => "jsonb_build_array",
            Kind::Object => "jsonb_build_object",
        }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        let fits = match self.kind {
            Kind::Value => kinds.len() == 1,
            Kind::Array => true,
            Kind::Object => kinds.len().is_multiple_of(2),
        };
        if fits { Ok(kinds.to_vec()) } else { plan_err!("No function matches {} of so many arguments", self.name()) }
    }

    fn return_type(&self, _kinds: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(marked(Field::new(self.name(), DataType::Utf8, true), "jsonb")))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|argument| argument.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let mut built = StringBuilder::new();
        for row in 0..rows {
            built.append_option(self.row(&arrays, &args.arg_fields, row)?);
        }
        let built: ArrayRef = Arc::new(built.finish());
        if is_constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&built, 0)?));
        }
        Ok(ColumnarValue::Array(built))
    }
}

impl Build {
    fn row(&self, arrays: &[ArrayRef], fields: &[FieldRef], row: usize) -> Result<Option<String>> {
        let value = |index: usize| json_of(&arrays[index], &fields[index], row);
        Ok(match self.kind {
            Kind::Value if arrays[0].is_null(row) => None,
            Kind::Value => Some(value(0)?),
            Kind::Array => {
                let items = (0..arrays.len()).map(value).collect::<Result<Vec<_>>>()?;
                Some(format!("[{}]", items.join(", ")))
            }
            Kind::Object => {
                let mut pairs = Vec::new();
                for index in (0..arrays.len()).step_by(2) {
                    if arrays[index].is_null(row) {
                        let message = format!("argument {}: key must not be null", index + 1);
                        return Err(Error::new(SqlState::InvalidParameterValue, message).into());
                    }
                    pairs.push(format!("{}: {}", quoted(&plain(&arrays[index], row)?), value(index + 1)?));
                }
                // Fields in jsonb's order, the last of one name.
                Some(parsed(&format!("{{{}}}", pairs.join(", ")))?.written())
            }
        })
    }
}

/// Any value as JSON.
fn json_of(column: &ArrayRef, field: &Field, row: usize) -> Result<String> {
    if column.is_null(row) {
        return Ok("null".to_owned());
    }
    Ok(match column.data_type() {
        DataType::Null => "null".to_owned(),
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Float32 | DataType::Float64 => {
            let text = plain(column, row)?;
            if text.ends_with(|last: char| last.is_ascii_digit()) { parsed(&text)?.written() } else { quoted(&text) }
        }
        kind if kind.is_numeric() => plain(column, row)?,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if means(field, "jsonb") => {
            parsed(&plain(column, row)?)?.written()
        }
        DataType::Timestamp(_, zone) => {
            let shown = plain(column, row)?.replacen(' ', "T", 1);
            quoted(&if zone.is_some() { format!("{shown}:00") } else { shown })
        }
        DataType::List(item) => {
            let items = column.as_list::<i32>().value(row);
            let items = (0..items.len()).map(|row| json_of(&items, item, row)).collect::<Result<Vec<_>>>()?;
            format!("[{}]", items.join(", "))
        }
        DataType::Struct(fields) => {
            let parts = column.as_struct();
            let pairs = fields
                .iter()
                .zip(parts.columns())
                .map(|(field, column)| Ok(format!("{}: {}", quoted(field.name()), json_of(column, field, row)?)));
            format!("{{{}}}", pairs.collect::<Result<Vec<_>>>()?.join(", "))
        }
        DataType::Map(..) => {
            let entries = column.as_map().value(row);
            let value_field = entries.fields().get(1).cloned();
            let pairs = (0..entries.len()).map(|row| {
                let value = match &value_field {
                    Some(field) => json_of(entries.column(1), field, row)?,
                    None => "null".to_owned(),
                };
                Ok(format!("{}: {value}", quoted(&plain(entries.column(0), row)?)))
            });
            format!("{{{}}}", pairs.collect::<Result<Vec<_>>>()?.join(", "))
        }
        _ => quoted(&plain(column, row)?),
    })
}
