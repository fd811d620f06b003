//! Postgres's type OIDs: how wide their values are, and which Arrow type a parameter of each becomes.

use std::sync::Arc;

pub(crate) use aquifer_sql::oid::*;
use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};

/// (array, element).
const ARRAYS: [(u32, u32); 24] = [
    (1000, BOOL),
    (1001, BYTEA),
    (1002, CHAR),
    (1003, NAME),
    (1005, INT2),
    (1007, INT4),
    (1009, TEXT),
    (1014, BPCHAR),
    (1015, VARCHAR),
    (1016, INT8),
    (1021, FLOAT4),
    (1022, FLOAT8),
    (1028, OID),
    (1115, TIMESTAMP),
    (1182, DATE),
    (1183, TIME),
    (1185, TIMESTAMPTZ),
    (1187, INTERVAL),
    (1231, NUMERIC),
    (2951, UUID),
    (199, JSON),
    (3807, JSONB),
    (INT2VECTOR, INT2),
    (OIDVECTOR, OID),
];

/// The element's OID, if `oid` is an array's.
pub(crate) fn element_of(oid: u32) -> Option<u32> {
    ARRAYS.iter().find(|(array, _)| *array == oid).map(|(_, element)| *element)
}

/// `pg_type.typlen`: bytes of a value, -1 if they vary.
pub(crate) fn size_of(oid: u32) -> i16 {
    match oid {
        BOOL | CHAR => 1,
        INT2 => 2,
        INT4 | OID | FLOAT4 | DATE => 4,
        INT8 | FLOAT8 | TIME | TIMESTAMP | TIMESTAMPTZ => 8,
        INTERVAL | UUID => 16,
        NAME => 64,
        UNKNOWN => -2,
        _ => -1,
    }
}

/// The Arrow type of a parameter that the client says is of this type; `None` where it leaves that to us.
pub(crate) fn arrow_of(oid: u32) -> Option<DataType> {
    Some(match oid {
        BOOL => DataType::Boolean,
        BYTEA => DataType::Binary,
        INT8 => DataType::Int64,
        INT2 => DataType::Int16,
        INT4 => DataType::Int32,
        OID => DataType::UInt32,
        FLOAT4 => DataType::Float32,
        FLOAT8 => DataType::Float64,
        DATE => DataType::Date32,
        TIME => DataType::Time64(TimeUnit::Microsecond),
        TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC"))),
        INTERVAL => DataType::Interval(IntervalUnit::MonthDayNano),
        NUMERIC => DataType::Decimal128(38, 10),
        TEXT | VARCHAR | BPCHAR | NAME | CHAR | JSON | JSONB | UUID => DataType::Utf8,
        _ => {
            let element = arrow_of(element_of(oid)?)?;
            DataType::List(Arc::new(Field::new_list_field(element, true)))
        }
    })
}

/// The type that a parameter inferred as this Arrow type is told to be.
pub(crate) fn oid_of(arrow: &DataType) -> u32 {
    match arrow {
        DataType::Boolean => BOOL,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => INT2,
        DataType::Int32 | DataType::UInt16 => INT4,
        DataType::Int64 => INT8,
        DataType::UInt32 => OID,
        DataType::Float16 | DataType::Float32 => FLOAT4,
        DataType::Float64 => FLOAT8,
        DataType::UInt64 | DataType::Decimal128(..) | DataType::Decimal256(..) => NUMERIC,
        DataType::Decimal32(..) | DataType::Decimal64(..) => NUMERIC,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => BYTEA,
        DataType::FixedSizeBinary(16) => UUID,
        DataType::FixedSizeBinary(_) => BYTEA,
        DataType::Date32 => DATE,
        DataType::Time32(_) | DataType::Time64(_) => TIME,
        DataType::Date64 | DataType::Timestamp(_, None) => TIMESTAMP,
        DataType::Timestamp(_, Some(_)) => TIMESTAMPTZ,
        DataType::Interval(_) | DataType::Duration(_) => INTERVAL,
        DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) => JSONB,
        DataType::Dictionary(_, value) => oid_of(value),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            let element = oid_of(item.data_type());
            // A list of what travels as JSON does so whole.
            if element == JSONB {
                return JSONB;
            }
            ARRAYS.iter().find(|(_, of)| *of == element).map_or(JSONB, |(array, _)| *array)
        }
        _ => TEXT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_clients_name_come_back_as_themselves() {
        for oid in [BOOL, BYTEA, INT2, INT4, INT8, OID, FLOAT4, FLOAT8, TEXT, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, 1007]
        {
            assert_eq!(oid_of(&arrow_of(oid).unwrap()), oid);
        }
        assert_eq!(arrow_of(0), None);
    }
}
