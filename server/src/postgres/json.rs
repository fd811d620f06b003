//! STRUCT, MAP and lists of them as Postgres writes jsonb: `{"a": 1, "b": [null, "x"]}`.

use std::fmt::{Result, Write};

use arrow::array::{Array, AsArray, timezone::Tz};
use arrow::datatypes::DataType;
use bytes::BytesMut;

use super::cells::Cells;
use super::{oids, text};

/// Writes one value.
pub(crate) fn write(array: &dyn Array, row: usize, out: &mut BytesMut) -> Result {
    if array.is_null(row) {
        return out.write_str("null");
    }
    match array.data_type() {
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            object(fields.iter().zip(columns).map(|(field, column)| (field.name().as_str(), column, row)), out)
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (Some(keys), Some(values)) = (entries.columns().first(), entries.columns().get(1)) else {
                return out.write_str("{}");
            };
            let names: Vec<String> = (0..entries.len()).map(|entry| plain(keys, entry)).collect();
            object(names.iter().enumerate().map(|(entry, name)| (name.as_str(), values, entry)), out)
        }
        DataType::List(_) => list(&array.as_list::<i32>().value(row), out),
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(row), out),
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(row), out),
        DataType::Boolean => out.write_str(if array.as_boolean().value(row) { "true" } else { "false" }),
        DataType::Binary => binary(array.as_binary::<i32>().value(row), out),
        arrow if arrow.is_numeric() => {
            let number = plain(array, row);
            // JSON knows no NaN and no infinity; as text they survive.
            if number.ends_with(|last: char| last.is_ascii_digit()) {
                out.write_str(&number)
            } else {
                string(&number, out)
            }
        }
        _ => string(&plain(array, row), out),
    }
}

fn object<'a>(
    entries: impl Iterator<Item = (&'a str, &'a arrow::array::ArrayRef, usize)>,
    out: &mut BytesMut,
) -> Result {
    out.write_char('{')?;
    for (index, (name, column, row)) in entries.enumerate() {
        if index > 0 {
            out.write_str(", ")?;
        }
        string(name, out)?;
        out.write_str(": ")?;
        write(column, row, out)?;
    }
    out.write_char('}')
}

fn list(items: &dyn Array, out: &mut BytesMut) -> Result {
    out.write_char('[')?;
    for item in 0..items.len() {
        if item > 0 {
            out.write_str(", ")?;
        }
        write(items, item, out)?;
    }
    out.write_char(']')
}

/// Bytes that are text show as text, as a record's headers mostly are; others as hex.
fn binary(bytes: &[u8], out: &mut BytesMut) -> Result {
    match std::str::from_utf8(bytes) {
        Ok(text) => string(text, out),
        Err(_) => {
            let mut hex = String::new();
            aquifer_sql::written::hex(bytes, &mut hex)?;
            string(&hex, out)
        }
    }
}

/// A scalar as its text, times in UTC.
fn plain(array: &dyn Array, row: usize) -> String {
    let Ok(utc) = "+00:00".parse::<Tz>() else { return String::new() };
    let mut out = BytesMut::new();
    let one = array.slice(row, 1);
    match Cells::of(&one).map(|cells| text::write(&cells, 0, oids::oid_of(one.data_type()), utc, &mut out)) {
        Ok(Ok(())) => String::from_utf8_lossy(&out).into_owned(),
        _ => String::new(),
    }
}

fn string(text: &str, out: &mut BytesMut) -> Result {
    out.write_char('"')?;
    for char in text.chars() {
        match char {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\u{8}' => out.write_str("\\b")?,
            '\u{c}' => out.write_str("\\f")?,
            control if control < ' ' => write!(out, "\\u{:04x}", u32::from(control))?,
            other => out.write_char(other)?,
        }
    }
    out.write_char('"')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, Float64Array, Int32Array, StringArray, StructArray};
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn a_struct_is_an_object_with_spaces_as_jsonb_has_them() {
        let column = |name: &str, array: ArrayRef| (Arc::new(Field::new(name, array.data_type().clone(), true)), array);
        let array = StructArray::from(vec![
            column("n", Arc::new(Int32Array::from(vec![Some(1), None]))),
            column("t", Arc::new(StringArray::from(vec!["a\"\n\u{1}", "ü"]))),
            column("f", Arc::new(Float64Array::from(vec![f64::NAN, 0.5]))),
            column("b", Arc::new(BinaryArray::from_vec(vec![b"ok", b"\xff"]))),
        ]);
        let shown = |row| {
            let mut out = BytesMut::new();
            write(&array, row, &mut out).unwrap();
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(shown(0), r#"{"n": 1, "t": "a\"\n\u0001", "f": "NaN", "b": "ok"}"#);
        assert_eq!(shown(1), r#"{"n": null, "t": "ü", "f": 0.5, "b": "\\xff"}"#);
    }
}
