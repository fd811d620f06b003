//! What an INSERT gives for a STRUCT, ARRAY or MAP, in the type declared: fields by their names, JSON from text.
//!
//! Arrow's own cast goes by position where names differ, which would put a value into a field it was not meant for.

use std::sync::Arc;

use aquifer_storage::record::format::{ColumnType, column_of_json};
use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StringArray, StructArray, new_null_array};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;

use crate::error::{Error, Result, SqlState};
use crate::run::convert::whole;

/// The column in a declared type with parts; `None` for one without.
///
/// # Errors
/// 42804 for values of another shape, 22P02 for text that is not the JSON or the array literal asked for.
pub(crate) fn nested(column: &ArrayRef, kind: &ColumnType) -> Result<Option<ArrayRef>> {
    if kind.is_scalar() { Ok(None) } else { fitted(column, kind).map(Some) }
}

fn fitted(column: &ArrayRef, kind: &ColumnType) -> Result<ArrayRef> {
    let target = kind.arrow();
    if *column.data_type() == target {
        return Ok(Arc::clone(column));
    }
    match (kind, column.data_type(), &target) {
        (_, DataType::Null, _) => Ok(new_null_array(&target, column.len())),
        (ColumnType::Struct(fields), DataType::Struct(_), DataType::Struct(to)) => {
            let from = column.as_struct();
            let unknown = from.fields().iter().find(|given| !fields.iter().any(|(name, _)| name == given.name()));
            if let Some(unknown) = unknown {
                let message = format!("{kind} has no field \"{}\"", unknown.name());
                return Err(Error::new(SqlState::DatatypeMismatch, message)
                    .with_hint("a field that is left out is NULL; names are folded to lower case unless quoted"));
            }
            let columns = fields.iter().map(|(name, kind)| match from.column_by_name(name) {
                Some(column) => fitted(column, kind),
                None => Ok(new_null_array(&kind.arrow(), from.len())),
            });
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let nulls = from.nulls().cloned();
            let array = StructArray::try_new_with_length(to.clone(), columns, nulls, from.len());
            Ok(Arc::new(array.map_err(DataFusionError::from)?))
        }
        (ColumnType::Array(item), DataType::List(_), DataType::List(field)) => {
            let list: &ListArray = column.as_list();
            let items = fitted(list.values(), item)?;
            let array = ListArray::try_new(Arc::clone(field), list.offsets().clone(), items, list.nulls().cloned());
            Ok(Arc::new(array.map_err(DataFusionError::from)?))
        }
        (ColumnType::Map(value), DataType::Map(..), DataType::Map(field, sorted)) => {
            let map = column.as_map();
            let DataType::Struct(entry) = field.data_type() else { return Err(misfit(column, kind)) };
            let keys = cast(map.keys(), &DataType::Utf8).map_err(DataFusionError::from)?;
            let entries = StructArray::try_new(entry.clone(), vec![keys, fitted(map.values(), value)?], None);
            let entries = entries.map_err(DataFusionError::from)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            let array = MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *sorted);
            Ok(Arc::new(array.map_err(DataFusionError::from)?))
        }
        (kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, _) if !kind.is_scalar() => {
            from_text(column, kind)
        }
        (kind, ..) if kind.is_scalar() => {
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let column = if target.is_integer() { whole(column) } else { Ok(Arc::clone(column)) };
            let cast = column.and_then(|column| cast_with_options(&column, &target, &strict));
            Ok(cast.map_err(DataFusionError::from)?)
        }
        _ => Err(misfit(column, kind)),
    }
}

fn misfit(column: &ArrayRef, kind: &ColumnType) -> Error {
    Error::new(SqlState::DatatypeMismatch, format!("a value of type {} is no {kind}", column.data_type()))
        .with_hint("write STRUCT(a := 1), ARRAY[1, 2], MAP('k' := 1), or JSON as text")
}

/// JSON text as a value; an ARRAY of scalars also as Postgres writes it, `{1,NULL,"a b"}`.
fn from_text(column: &ArrayRef, kind: &ColumnType) -> Result<ArrayRef> {
    let texts = cast(column, &DataType::Utf8).map_err(DataFusionError::from)?;
    let texts: &StringArray = texts.as_string();
    let json: Vec<Option<String>> = match kind {
        ColumnType::Array(item) if item.is_scalar() => {
            texts.iter().map(|text| text.map(|text| json_of_literal(text, item)).transpose()).collect::<Result<_>>()?
        }
        _ => texts.iter().map(|text| text.map(str::to_owned)).collect(),
    };
    column_of_json(kind, &StringArray::from(json)).map_err(|error| {
        Error::new(SqlState::InvalidTextRepresentation, error.to_string())
            .with_hint("write STRUCT(a := 1), ARRAY[1, 2], MAP('k' := 1), or JSON as text")
    })
}

/// An array literal of Postgres as JSON; what does not begin with a brace is JSON already.
fn json_of_literal(text: &str, item: &ColumnType) -> Result<String> {
    let malformed = || {
        Error::new(SqlState::InvalidTextRepresentation, format!("malformed array literal: \"{text}\""))
            .with_hint("write {1,2,NULL} or [1, 2, null], one dimension")
    };
    let Some(inside) = text.trim().strip_prefix('{') else { return Ok(text.to_owned()) };
    let inside = inside.strip_suffix('}').ok_or_else(malformed)?;
    let items = items_of(inside).ok_or_else(malformed)?;
    let json = items.into_iter().map(|text| match (text, item) {
        (None, _) => serde_json::Value::Null,
        (Some(text), ColumnType::Boolean) => match text.as_str() {
            "t" | "true" => serde_json::Value::Bool(true),
            "f" | "false" => serde_json::Value::Bool(false),
            _ => serde_json::Value::String(text),
        },
        (Some(text), ColumnType::Json) => serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)),
        (Some(text), _) => serde_json::Value::String(text),
    });
    Ok(serde_json::Value::Array(json.collect()).to_string())
}

/// The items of an array literal without its braces.
fn items_of(text: &str) -> Option<Vec<Option<String>>> {
    let mut items = Vec::new();
    let mut rest = text.trim_start();
    if rest.is_empty() {
        return Some(items);
    }
    loop {
        let (item, behind) = match rest.strip_prefix('"') {
            Some(inside) => quoted_item(inside)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (item, behind) = rest.split_at(end);
                let item = item.trim_end();
                if item.is_empty() || item.contains(['{', '}', '"', '\\']) {
                    return None;
                }
                ((!item.eq_ignore_ascii_case("null")).then(|| item.to_owned()), behind)
            }
        };
        items.push(item);
        let behind = behind.trim_start();
        match behind.strip_prefix(',') {
            Some(behind) => rest = behind.trim_start(),
            None if behind.is_empty() => return Some(items),
            None => return None,
        }
    }
}

/// An item behind its opening quote, and what follows the closing one.
fn quoted_item(text: &str) -> Option<(Option<String>, &str)> {
    let mut item = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((Some(item), text.get(at + 1..)?)),
            '\\' => item.push(chars.next()?.1),
            other => item.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::Field;

    use super::*;

    fn record(fields: Vec<(&str, ArrayRef)>) -> ArrayRef {
        let fields = fields
            .into_iter()
            .map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array));
        Arc::new(StructArray::from(fields.collect::<Vec<_>>()))
    }

    #[test]
    fn fields_go_by_their_names_and_missing_ones_are_null() {
        let kind = ColumnType::Struct(vec![("city".into(), ColumnType::Text), ("zip".into(), ColumnType::Int)]);
        let given = record(vec![("zip", Arc::new(Int64Array::from(vec![Some(5), None])))]);
        let fitted = fitted(&given, &kind).unwrap();
        assert_eq!(*fitted.data_type(), kind.arrow());
        assert_eq!((fitted.as_struct().column(0).null_count(), fitted.as_struct().column(1).null_count()), (2, 1));
        let stranger = record(vec![("town", Arc::new(Int64Array::from(vec![5])))]);
        assert_eq!(nested(&stranger, &kind).unwrap_err().state, SqlState::DatatypeMismatch);
        let large = record(vec![("zip", Arc::new(Int64Array::from(vec![i64::MAX])))]);
        assert_eq!(nested(&large, &kind).unwrap_err().state, SqlState::NumericValueOutOfRange);
        assert!(nested(&given, &ColumnType::Int).unwrap().is_none());
    }

    #[test]
    fn text_is_json_or_an_array_as_postgres_writes_it() {
        let numbers = ColumnType::Array(Box::new(ColumnType::Int));
        let of = |text: &str, kind: &ColumnType| {
            let texts: ArrayRef = Arc::new(StringArray::from(vec![text]));
            let array = nested(&texts, kind).map(Option::unwrap);
            array.map(|array| arrow::util::display::array_value_to_string(&array, 0).unwrap())
        };
        assert_eq!(of("{1, NULL,-3}", &numbers).unwrap(), "[1, , -3]");
        assert_eq!(of("[1, null]", &numbers).unwrap(), "[1, ]");
        assert_eq!(of("{}", &numbers).unwrap(), "[]");
        assert_eq!(of(r#"{"a,\"b", c d }"#, &ColumnType::Array(Box::new(ColumnType::Text))).unwrap(), r#"[a,"b, c d]"#);
        assert_eq!(of("{t,f}", &ColumnType::Array(Box::new(ColumnType::Boolean))).unwrap(), "[true, false]");
        let record = ColumnType::Struct(vec![("a".into(), ColumnType::Int)]);
        assert_eq!(of("{\"a\": 1}", &record).unwrap(), "{a: 1}");
        for (text, kind) in
            [("{1,", &numbers), ("{1,x}", &numbers), ("{{1}}", &numbers), ("{1", &record), ("5", &record)]
        {
            assert_eq!(of(text, kind).unwrap_err().state, SqlState::InvalidTextRepresentation, "{text}");
        }
    }
}
