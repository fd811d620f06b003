//! Columns and rows of system tables as plain values, and the one place where they become Arrow.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int16Array, Int32Array, Int64Array, ListBuilder, PrimitiveBuilder,
    StringArray, StringBuilder, TimestampMicrosecondArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Int16Type, Schema, SchemaRef, UInt32Type};
use arrow::record_batch::RecordBatch;
use datafusion::error::Result;

use crate::types::TYPE_KEY;

/// A column's type, by its name in `pg_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Float8,
    Oid,
    /// `name`, `"char"`, `text`, `regproc`, `pg_node_tree`: text all of them.
    Text(&'static str),
    Timestamptz,
    Int2s,
    Oids,
    Texts,
}

impl Kind {
    fn of(name: &'static str) -> Self {
        match name {
            "bool" => Self::Bool,
            "int2" => Self::Int2,
            "int4" => Self::Int4,
            "int8" => Self::Int8,
            "float4" | "float8" => Self::Float8,
            "oid" => Self::Oid,
            "timestamptz" => Self::Timestamptz,
            "int2[]" | "int2vector" => Self::Int2s,
            "oid[]" | "oidvector" => Self::Oids,
            "text[]" | "name[]" | "aclitem[]" => Self::Texts,
            other => Self::Text(other),
        }
    }

    pub(crate) fn arrow(self) -> DataType {
        let list = |item| DataType::List(Arc::new(Field::new_list_field(item, true)));
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 => DataType::Int64,
            Self::Float8 => DataType::Float64,
            Self::Oid => DataType::UInt32,
            Self::Text(_) => DataType::Utf8,
            Self::Timestamptz => DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some(Arc::from("UTC"))),
            Self::Int2s => list(DataType::Int16),
            Self::Oids => list(DataType::UInt32),
            Self::Texts => list(DataType::Utf8),
        }
    }
}

/// A column: its name and its type's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ColumnSpec {
    pub(crate) name: &'static str,
    pub(crate) type_name: &'static str,
}

/// Reads `oid oid, relname name`, the way system tables are written down here.
pub(crate) fn columns(text: &'static str) -> impl Iterator<Item = ColumnSpec> {
    text.split(',').filter_map(|column| {
        let (name, type_name) = column.trim().split_once(' ')?;
        Some(ColumnSpec { name, type_name })
    })
}

/// A value of a system table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Ints(Vec<i64>),
    Texts(Vec<String>),
}

/// One row, in the order of the columns.
pub(crate) type Row = Vec<Value>;

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<Vec<i64>> for Value {
    fn from(value: Vec<i64>) -> Self {
        Self::Ints(value)
    }
}

impl From<Vec<String>> for Value {
    fn from(value: Vec<String>) -> Self {
        Self::Texts(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Value {
    fn int(&self) -> Option<i64> {
        if let Self::Int(value) = self { Some(*value) } else { None }
    }
}

/// A row from values of several types.
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::catalog::postgres::kind::Value::from($value)),*] };
}
pub(crate) use row;

/// The schema of a table written down as text.
pub(crate) fn schema_of(text: &'static str) -> SchemaRef {
    let fields = columns(text).map(|column| {
        let kind = Kind::of(column.type_name);
        let field = Field::new(column.name, kind.arrow(), true);
        match kind {
            Kind::Text("text") | Kind::Bool | Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Float8 => field,
            _ => field.with_metadata(HashMap::from([(TYPE_KEY.to_owned(), column.type_name.to_owned())])),
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A table's rows as one batch.
pub(crate) fn batch_of(text: &'static str, rows: &[Row]) -> Result<RecordBatch> {
    let arrays = columns(text).enumerate().map(|(index, column)| {
        array_of(Kind::of(column.type_name), rows.iter().map(|row| row.get(index).unwrap_or(&Value::Null)))
    });
    Ok(RecordBatch::try_new(schema_of(text), arrays.collect())?)
}

/// Values of one column as an array; what does not fit the column's type is null.
pub(crate) fn array_of<'a>(kind: Kind, values: impl Iterator<Item = &'a Value>) -> ArrayRef {
    match kind {
        Kind::Bool => Arc::new(BooleanArray::from_iter(
            values.map(|value| if let Value::Bool(value) = value { Some(*value) } else { None }),
        )),
        Kind::Int2 => Arc::new(Int16Array::from_iter(values.map(|value| value.int()?.try_into().ok()))),
        Kind::Int4 => Arc::new(Int32Array::from_iter(values.map(|value| value.int()?.try_into().ok()))),
        Kind::Int8 => Arc::new(Int64Array::from_iter(values.map(Value::int))),
        Kind::Oid => Arc::new(UInt32Array::from_iter(values.map(|value| value.int()?.try_into().ok()))),
        Kind::Float8 => Arc::new(Float64Array::from_iter(
            values.map(|value| if let Value::Float(value) = value { Some(*value) } else { None }),
        )),
        Kind::Timestamptz => {
            Arc::new(TimestampMicrosecondArray::from_iter(values.map(Value::int)).with_timezone("UTC"))
        }
        Kind::Text(_) => Arc::new(StringArray::from_iter(
            values.map(|value| if let Value::Text(value) = value { Some(value.as_str()) } else { None }),
        )),
        Kind::Int2s => {
            let mut builder = ListBuilder::new(PrimitiveBuilder::<Int16Type>::new());
            for value in values {
                let ints = if let Value::Ints(ints) = value { Some(ints) } else { None };
                builder.append_option(ints.map(|ints| ints.iter().map(|int| i16::try_from(*int).ok())));
            }
            Arc::new(builder.finish())
        }
        Kind::Oids => {
            let mut builder = ListBuilder::new(PrimitiveBuilder::<UInt32Type>::new());
            for value in values {
                let ints = if let Value::Ints(ints) = value { Some(ints) } else { None };
                builder.append_option(ints.map(|ints| ints.iter().map(|int| u32::try_from(*int).ok())));
            }
            Arc::new(builder.finish())
        }
        Kind::Texts => {
            let mut builder = ListBuilder::new(StringBuilder::new());
            for value in values {
                let texts = if let Value::Texts(texts) = value { Some(texts) } else { None };
                builder.append_option(texts.map(|texts| texts.iter().map(Some)));
            }
            Arc::new(builder.finish())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_written_down_as_names_and_types() {
        let rows = [row![16384_u32, "orders", vec![1_i64, 2]], row![1_u32, None::<&str>, None::<&str>]];
        let batch = batch_of("oid oid, relname name, key int2vector", &rows).unwrap();
        assert_eq!(batch.num_rows(), 2);
        assert_eq!(batch.schema().field(0).data_type(), &DataType::UInt32);
        assert_eq!(batch.schema().field(1).metadata().get(TYPE_KEY).unwrap(), "name");
        assert!(batch.column(2).is_null(1));
    }
}
