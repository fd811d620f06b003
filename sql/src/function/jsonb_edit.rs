//! Functions and operators that make one jsonb of others, and what a cast to `json` and `jsonb` does.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array};
use arrow::datatypes::{DataType, Field, Int64Type};
use datafusion::error::Result;

use super::jsonb_value::{Json, Name, invalid, parsed};
use super::scalar::{Definition, is_text, text_rows, texts};
use crate::error::{Error, SqlState};

/// The mark of what is jsonb.
const JSONB: Option<&str> = Some("jsonb");

pub(super) static JSONB_IN: Definition = Definition {
    name: "jsonb_in",
    takes: text_or_itself,
    gives: |kinds| itself_or_json(kinds),
    rows: |arguments, rows| over_text(arguments, rows, |text| Ok(parsed(text)?.written())),
};

pub(super) static JSON_IN: Definition = Definition {
    name: "json_in",
    takes: text_or_itself,
    gives: |kinds| itself_or_json(kinds),
    rows: |arguments, rows| {
        over_text(arguments, rows, |text| {
            let checked: std::result::Result<&serde_json::value::RawValue, _> = serde_json::from_str(text);
            checked.map(|_| text.to_owned()).map_err(|error| invalid(&error))
        })
    },
};

/// What is compared for equality in place of jsonb.
pub(super) static KEY: Definition = Definition {
    name: "jsonb_key",
    takes: |kinds| some_texts(kinds, 1),
    gives: |_| (DataType::Utf8, None),
    rows: |arguments, rows| over_text(arguments, rows, |text| Ok(parsed(text)?.key())),
};

/// -1, 0 or 1, as the first comes before the second, is it, or comes behind.
pub(super) static COMPARE: Definition = Definition {
    name: "jsonb_cmp",
    takes: |kinds| some_texts(kinds, 2),
    gives: |_| (DataType::Int32, None),
    rows: |arguments, rows| {
        let (one, other) = (texts(&arguments[0])?, texts(&arguments[1])?);
        let orders = (0..rows).map(|row| {
            if one.is_null(row) || other.is_null(row) {
                return Ok(None);
            }
            Ok(Some(parsed(one.value(row))?.compare(&parsed(other.value(row))?) as i32))
        });
        Ok(Arc::new(orders.collect::<Result<Int32Array>>()?))
    },
};

pub(super) static CONCAT: Definition = Definition {
    name: "jsonb_concat",
    takes: |kinds| some_texts(kinds, 2),
    gives: |_| (DataType::Utf8, JSONB),
    rows: |arguments, rows| {
        let (one, other) = (texts(&arguments[0])?, texts(&arguments[1])?);
        text_rows(arguments, rows, |row| Ok(Some(parsed(one.value(row))?.joined(parsed(other.value(row))?).written())))
    },
};

/// `-`: a field, an element, several fields.
pub(super) static DELETE: Definition = Definition {
    name: "jsonb_delete",
    takes: |kinds| match kinds {
        [json, what] if is_text(json) => {
            let what = match what {
                kind if kind.is_integer() => DataType::Int64,
                DataType::List(_) => text_list(),
                kind if is_text(kind) => DataType::Utf8,
                _ => return None,
            };
            Some(vec![DataType::Utf8, what])
        }
        _ => None,
    },
    gives: |_| (DataType::Utf8, JSONB),
    rows: |arguments, rows| {
        let documents = texts(&arguments[0])?;
        text_rows(arguments, rows, |row| {
            let value = parsed(documents.value(row))?;
            let left = match arguments[1].data_type() {
                DataType::Int64 => value.without_element(arguments[1].as_primitive::<Int64Type>().value(row))?,
                DataType::List(_) => {
                    let names = path_in(&arguments[1], row)?;
                    names.iter().try_fold(value, |value, name| value.without_name(name))?
                }
                _ => value.without_name(texts(&arguments[1])?.value(row))?,
            };
            Ok(Some(left.written()))
        })
    },
};

pub(super) static DELETE_PATH: Definition = Definition {
    name: "jsonb_delete_path",
    takes: |kinds| match kinds {
        [json, path] if is_text(json) && is_path(path) => Some(vec![DataType::Utf8, taken_path(path)]),
        _ => None,
    },
    gives: |_| (DataType::Utf8, JSONB),
    rows: |arguments, rows| {
        let documents = texts(&arguments[0])?;
        text_rows(arguments, rows, |row| {
            let path = path_in(&arguments[1], row)?;
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            Ok(Some(parsed(documents.value(row))?.without_path(&path)?.written()))
        })
    },
};

pub(super) static SET: Definition = Definition {
    name: "jsonb_set",
    takes: |kinds| match kinds {
        [json, path, new, create @ ..] if is_text(json) && is_path(path) && is_text(new) => {
            let mut taken = vec![DataType::Utf8, taken_path(path), DataType::Utf8];
            match create {
                [] => {}
                [DataType::Boolean] => taken.push(DataType::Boolean),
                _ => return None,
            }
            Some(taken)
        }
        _ => None,
    },
    gives: |_| (DataType::Utf8, JSONB),
    rows: |arguments, rows| {
        let (documents, values) = (texts(&arguments[0])?, texts(&arguments[2])?);
        text_rows(arguments, rows, |row| {
            let path = path_in(&arguments[1], row)?;
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let create = arguments.get(3).is_none_or(|create| create.as_boolean().value(row));
            let new = parsed(values.value(row))?;
            Ok(Some(parsed(documents.value(row))?.with(&path, &new, create)?.written()))
        })
    },
};

pub(super) static STRIP_NULLS: Definition = Definition {
    name: "jsonb_strip_nulls",
    takes: |kinds| some_texts(kinds, 1),
    gives: |_| (DataType::Utf8, JSONB),
    rows: |arguments, rows| over_text(arguments, rows, |text| Ok(parsed(text)?.stripped().written())),
};

pub(super) static PRETTY: Definition = Definition {
    name: "jsonb_pretty",
    takes: |kinds| some_texts(kinds, 1),
    gives: |_| (DataType::Utf8, None),
    rows: |arguments, rows| {
        over_text(arguments, rows, |text| {
            let mut out = String::new();
            parsed(text)?.pretty(0, &mut out);
            Ok(out)
        })
    },
};

/// A list of JSON texts as a JSON list; what `jsonb_agg` makes of what `array_agg` has gathered.
pub(super) static OF_LIST: Definition = Definition {
    name: "jsonb_of_list",
    takes: |kinds| matches!(kinds, [DataType::List(_) | DataType::Null]).then(|| vec![text_list()]),
    gives: |_| (DataType::Utf8, JSONB),
    rows: |arguments, rows| {
        text_rows(arguments, rows, |row| {
            let items = arguments[0].as_list::<i32>().value(row);
            let items = texts(&items)?;
            let values = items.iter().map(|item| item.map_or(Ok(Json::Null), parsed));
            Ok(Some(Json::Array(values.collect::<std::result::Result<_, Error>>()?).written()))
        })
    },
};

/// A list of names and one of JSON texts as a JSON object; what `jsonb_object_agg` makes of what `array_agg` has gathered.
pub(super) static OF_PAIRS: Definition = Definition {
    name: "jsonb_of_pairs",
    takes: |kinds| {
        let lists = matches!(kinds, [DataType::List(_) | DataType::Null, DataType::List(_) | DataType::Null]);
        lists.then(|| vec![text_list(), text_list()])
    },
    gives: |_| (DataType::Utf8, JSONB),
    rows: |arguments, rows| {
        text_rows(arguments, rows, |row| {
            let names = arguments[0].as_list::<i32>().value(row);
            let values = arguments[1].as_list::<i32>().value(row);
            let (names, values) = (texts(&names)?, texts(&values)?);
            let fields = names.iter().zip(values.iter()).map(|(name, value)| {
                let name =
                    name.ok_or_else(|| Error::new(SqlState::InvalidParameterValue, "field name must not be null"))?;
                Ok((Name(name.to_owned()), value.map_or(Ok(Json::Null), parsed)?))
            });
            Ok(Some(Json::Object(fields.collect::<std::result::Result<_, Error>>()?).written()))
        })
    },
};

fn some_texts(kinds: &[DataType], count: usize) -> Option<Vec<DataType>> {
    (kinds.len() == count && kinds.iter().all(is_text)).then(|| vec![DataType::Utf8; count])
}

fn text_or_itself(kinds: &[DataType]) -> Option<Vec<DataType>> {
    match kinds {
        [text] if is_text(text) => Some(vec![DataType::Utf8]),
        [other] => Some(vec![other.clone()]),
        _ => None,
    }
}

fn itself_or_json(kinds: &[DataType]) -> (DataType, Option<&'static str>) {
    match kinds {
        [other] if !is_text(other) => (other.clone(), None),
        _ => (DataType::Utf8, JSONB),
    }
}

fn over_text(
    arguments: &[ArrayRef],
    rows: usize,
    change: impl Fn(&str) -> std::result::Result<String, Error>,
) -> Result<ArrayRef> {
    if !is_text(arguments[0].data_type()) {
        return Ok(Arc::clone(&arguments[0]));
    }
    let given = texts(&arguments[0])?;
    text_rows(arguments, rows, |row| Ok(Some(change(given.value(row))?)))
}

fn text_list() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)))
}

fn is_path(kind: &DataType) -> bool {
    is_text(kind) || matches!(kind, DataType::List(_))
}

fn taken_path(kind: &DataType) -> DataType {
    if is_text(kind) { DataType::Utf8 } else { text_list() }
}

/// A path as a list, or as the text of one: `{a,0}`.
fn path_in(column: &ArrayRef, row: usize) -> Result<Vec<String>> {
    match column.data_type() {
        DataType::List(_) => {
            let steps = column.as_list::<i32>().value(row);
            Ok(texts(&steps)?.iter().flatten().map(str::to_owned).collect())
        }
        _ => {
            let text = texts(column)?;
            let steps = super::json::names_of(text.value(row));
            Ok(steps.map(str::to_owned).collect())
        }
    }
}
