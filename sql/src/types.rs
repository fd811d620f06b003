//! One table of types: Arrow's, Postgres's OIDs, and the names that CREATE and CAST know.
//!
//! What Arrow cannot tell apart (jsonb and uuid are both text) stands in a field's metadata under [`TYPE_KEY`].

use std::collections::HashMap;
use std::sync::Arc;

use aquifer_storage::record::format::ColumnType;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{self, ExactNumberInfo, TimezoneInfo};

use crate::catalog::postgres;
use crate::oid;
use crate::session::Column;

/// Metadata key of a field: `jsonb` or `uuid`.
pub(crate) const TYPE_KEY: &str = "aquifer.type";

/// Begins the name of a type that is Arrow's own, written by us into a tree: no identifier begins so.
pub(crate) const ARROW_NAME: &str = "\u{1}arrow ";

/// The zone that timestamptz has in Arrow.
pub(crate) fn utc() -> Arc<str> {
    Arc::from("UTC")
}

/// A field whose text means something: `jsonb`, `uuid`.
pub(crate) fn marked(field: Field, kind: &str) -> Field {
    field.with_metadata(HashMap::from([(TYPE_KEY.to_owned(), kind.to_owned())]))
}

/// A declared column's field.
pub(crate) fn field_of(name: &str, kind: &ColumnType, nullable: bool) -> Field {
    let field = Field::new(name, kind.arrow(), nullable);
    match kind {
        ColumnType::Json => marked(field, "jsonb"),
        ColumnType::Uuid => marked(field, "uuid"),
        _ => field,
    }
}

/// A declared type as Postgres spells it.
pub(crate) fn type_name(kind: &ColumnType) -> String {
    match kind {
        ColumnType::Boolean => "boolean".to_owned(),
        ColumnType::SmallInt => "smallint".to_owned(),
        ColumnType::Int => "integer".to_owned(),
        ColumnType::BigInt => "bigint".to_owned(),
        ColumnType::Real => "real".to_owned(),
        ColumnType::Double => "double precision".to_owned(),
        ColumnType::Decimal { precision, scale } => format!("numeric({precision},{scale})"),
        ColumnType::Text => "text".to_owned(),
        ColumnType::Varchar(length) => format!("character varying({length})"),
        ColumnType::Bytes => "bytea".to_owned(),
        ColumnType::Timestamp => "timestamp without time zone".to_owned(),
        ColumnType::TimestampTz => "timestamp with time zone".to_owned(),
        ColumnType::Date => "date".to_owned(),
        ColumnType::Time => "time without time zone".to_owned(),
        ColumnType::Uuid => "uuid".to_owned(),
        ColumnType::Json | ColumnType::Struct(_) | ColumnType::Map(_) => "jsonb".to_owned(),
        ColumnType::Array(item) => format!("{}[]", type_name(item)),
    }
}

/// The declared type that holds what Arrow gives, for results that become topics. `None`: none does.
pub(crate) fn column_type_of(field: &Field) -> Option<ColumnType> {
    Some(match field.data_type() {
        DataType::Boolean => ColumnType::Boolean,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => ColumnType::SmallInt,
        DataType::Int32 | DataType::UInt16 => ColumnType::Int,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => ColumnType::BigInt,
        DataType::Float16 | DataType::Float32 => ColumnType::Real,
        DataType::Float64 => ColumnType::Double,
        DataType::Decimal128(precision, scale) => ColumnType::Decimal { precision: *precision, scale: *scale },
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
            match field.metadata().get(TYPE_KEY).map(String::as_str) {
                Some("jsonb") => ColumnType::Json,
                Some("uuid") => ColumnType::Uuid,
                _ => ColumnType::Text,
            }
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            ColumnType::Bytes
        }
        DataType::Timestamp(_, None) => ColumnType::Timestamp,
        DataType::Timestamp(_, Some(_)) => ColumnType::TimestampTz,
        DataType::Date32 | DataType::Date64 => ColumnType::Date,
        DataType::Time32(_) | DataType::Time64(_) => ColumnType::Time,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            ColumnType::Array(Box::new(column_type_of(item)?))
        }
        DataType::Struct(fields) => ColumnType::Struct(
            fields.iter().map(|field| Some((field.name().clone(), column_type_of(field)?))).collect::<Option<_>>()?,
        ),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => ColumnType::Map(Box::new(column_type_of(fields.get(1)?)?)),
            _ => return None,
        },
        DataType::Dictionary(_, value) => column_type_of(&Field::new(field.name(), value.as_ref().clone(), true))?,
        _ => return None,
    })
}

/// Postgres's OID of a declared type, as a parameter that goes there is told.
pub(crate) fn oid_of_column(kind: &ColumnType) -> u32 {
    match kind {
        ColumnType::Json | ColumnType::Struct(_) | ColumnType::Map(_) => oid::JSONB,
        ColumnType::Uuid => oid::UUID,
        ColumnType::Varchar(_) => oid::VARCHAR,
        // An array of arrays is as wide as it is deep in Postgres; here each may have its own length, as in JSON.
        ColumnType::Array(item) if !item.is_scalar() => oid::JSONB,
        ColumnType::Array(item) => array_oid(oid_of_column(item)),
        other => oid_of(&Field::new("", other.arrow(), true)).0,
    }
}

/// Whether a list's items have parts of their own that only JSON can show.
fn holds_json(item: &DataType) -> bool {
    match item {
        DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) => true,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            holds_json(item.data_type())
        }
        _ => false,
    }
}

/// Postgres's OID and type modifier of a field.
pub(crate) fn oid_of(field: &Field) -> (u32, i32) {
    // System tables mark their columns with the type's name in `pg_type`.
    if let Some(oid) = field.metadata().get(TYPE_KEY).and_then(|name| postgres::type_oid(name)) {
        return (oid, -1);
    }
    match field.data_type() {
        DataType::Boolean => (oid::BOOL, -1),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => (oid::INT2, -1),
        DataType::Int32 | DataType::UInt16 => (oid::INT4, -1),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => (oid::INT8, -1),
        DataType::Float16 | DataType::Float32 => (oid::FLOAT4, -1),
        DataType::Float64 => (oid::FLOAT8, -1),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            (oid::NUMERIC, ((i32::from(*precision) << 16) | i32::from(*scale)) + 4)
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            (oid::BYTEA, -1)
        }
        DataType::Timestamp(_, None) => (oid::TIMESTAMP, -1),
        DataType::Timestamp(_, Some(_)) => (oid::TIMESTAMPTZ, -1),
        DataType::Date32 | DataType::Date64 => (oid::DATE, -1),
        DataType::Time32(_) | DataType::Time64(_) => (oid::TIME, -1),
        DataType::Interval(_) | DataType::Duration(_) => (oid::INTERVAL, -1),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)
            if holds_json(item.data_type()) =>
        {
            (oid::JSONB, -1)
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            (array_oid(oid_of(item).0), -1)
        }
        DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) => (oid::JSONB, -1),
        DataType::Dictionary(_, value) => oid_of(&Field::new("", value.as_ref().clone(), true)),
        _ => (oid::TEXT, -1),
    }
}

/// The OID of the array over a type; an array of arrays has its innermost item's.
fn array_oid(item: u32) -> u32 {
    const ARRAYS: [(u32, u32); 17] = [
        (oid::BOOL, 1000),
        (oid::BYTEA, 1001),
        (oid::INT2, 1005),
        (oid::INT4, 1007),
        (oid::TEXT, 1009),
        (oid::VARCHAR, 1015),
        (oid::INT8, 1016),
        (oid::FLOAT4, 1021),
        (oid::FLOAT8, 1022),
        (oid::TIMESTAMP, 1115),
        (oid::DATE, 1182),
        (oid::TIME, 1183),
        (oid::TIMESTAMPTZ, 1185),
        (oid::INTERVAL, 1187),
        (oid::NUMERIC, 1231),
        (oid::UUID, 2951),
        (oid::JSONB, 3807),
    ];
    ARRAYS.iter().find(|(of, _)| *of == item).map_or(item, |(_, array)| *array)
}

/// The type results travel in: what Arrow has in several widths or encodings is one of them.
pub(crate) fn wire_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Null | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Dictionary(_, value) => wire_type(value),
        other => other.clone(),
    }
}

/// A result column as a protocol describes it.
pub(crate) fn result_column(name: String, field: &Field) -> Column {
    let (oid, type_modifier) = oid_of(field);
    Column { name, arrow: wire_type(field.data_type()), oid, type_modifier, table_oid: 0, column_number: 0 }
}

/// The type that [`ARROW_NAME`] begins.
fn arrow_name(name: &ast::ObjectName) -> Option<DataType> {
    name.0.first()?.as_ident()?.value.strip_prefix(ARROW_NAME)?.parse().ok()
}

/// Types of CAST that DataFusion does not know, or knows otherwise than Postgres.
#[derive(Debug)]
pub(crate) struct TypeNames;

impl TypePlanner for TypeNames {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> DataFusionResult<Option<FieldRef>> {
        use ast::DataType as Sql;
        let plain = |kind: DataType| Ok(Some(Arc::new(Field::new("", kind, true))));
        match sql_type {
            Sql::JSON | Sql::JSONB => Ok(Some(Arc::new(marked(Field::new("", DataType::Utf8, true), "jsonb")))),
            Sql::Uuid => Ok(Some(Arc::new(marked(Field::new("", DataType::Utf8, true), "uuid")))),
            Sql::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) | Sql::Datetime(_) => {
                plain(DataType::Timestamp(TimeUnit::Microsecond, None))
            }
            Sql::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
                plain(DataType::Timestamp(TimeUnit::Microsecond, Some(utc())))
            }
            Sql::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
                plain(DataType::Time64(TimeUnit::Microsecond))
            }
            Sql::Bytea | Sql::Bytes(_) => plain(DataType::Binary),
            Sql::Numeric(ExactNumberInfo::None) | Sql::Decimal(ExactNumberInfo::None) => {
                plain(DataType::Decimal128(38, 10))
            }
            Sql::Custom(name, _) if arrow_name(name).is_some() => plain(arrow_name(name).unwrap_or(DataType::Utf8)),
            Sql::Custom(name, _) => match name.to_string().to_lowercase().as_str() {
                "string" | "name" | "bpchar" | "citext" => plain(DataType::Utf8),
                "timestamptz" => plain(DataType::Timestamp(TimeUnit::Microsecond, Some(utc()))),
                "oid" => plain(DataType::Int64),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declared_scalar_keeps_its_type_on_the_way_through_arrow() {
        for kind in [ColumnType::Boolean, ColumnType::BigInt, ColumnType::Double, ColumnType::Text, ColumnType::Json] {
            let field = match kind {
                ColumnType::Boolean => Field::new("a", DataType::Boolean, true),
                ColumnType::BigInt => Field::new("a", DataType::Int64, true),
                ColumnType::Double => Field::new("a", DataType::Float64, true),
                ColumnType::Json => marked(Field::new("a", DataType::Utf8, true), "jsonb"),
                _ => Field::new("a", DataType::Utf8, true),
            };
            assert_eq!(column_type_of(&field), Some(kind));
        }
    }

    #[test]
    fn a_numeric_tells_its_precision_and_scale_in_the_type_modifier() {
        let (kind, modifier) = oid_of(&Field::new("n", DataType::Decimal128(10, 2), true));
        assert_eq!((kind, modifier), (oid::NUMERIC, (10 << 16 | 2) + 4));
    }
}
