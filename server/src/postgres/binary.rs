//! Values in Postgres's binary format, as drivers that prepare their statements ask for them.

use aquifer_sql::error::{Error, Result, SqlState};
use arrow::array::timezone::Tz;
use bytes::{BufMut, BytesMut};

use super::cells::{Cells, items};
use super::{oids, text};

/// Days between Arrow's epoch and Postgres's, 2000-01-01.
pub(crate) const EPOCH_DAYS: i32 = 10_957;
/// Microseconds between them.
pub(crate) const EPOCH_US: i64 = 10_957 * 86_400_000_000;
/// Version byte in front of jsonb's text.
const JSONB_VERSION: u8 = 1;
/// Decimal digits in one of numeric's digits.
const NUMERIC_GROUP: usize = 4;
const NUMERIC_NEGATIVE: u16 = 0x4000;

/// Writes the value at `row`, which must not be null.
///
/// # Errors
/// 22003 where the value does not fit the type, 0A000 where there is no binary format for it.
pub(crate) fn write(cells: &Cells, row: usize, oid: u32, zone: Tz, out: &mut BytesMut) -> Result<()> {
    if let Some(integer) = cells.integer(row) {
        return whole(integer, oid, out);
    }
    match cells {
        Cells::Bool(array) => out.put_u8(array.value(row).into()),
        Cells::Float32(array) if oid == oids::FLOAT4 => out.put_f32(array.value(row)),
        Cells::Float32(array) => out.put_f64(array.value(row).into()),
        Cells::Float64(array) => out.put_f64(array.value(row)),
        Cells::Decimal128(array, scale) => numeric(&array.value(row).to_string(), *scale, out)?,
        Cells::Decimal256(array, scale) => numeric(&array.value(row).to_string(), *scale, out)?,
        Cells::Bytes(array) => out.put_slice(array.value(row)),
        Cells::Date(array) => out.put_i32(array.value(row).checked_sub(EPOCH_DAYS).ok_or_else(|| beyond(oid))?),
        Cells::Time(array) => out.put_i64(array.value(row)),
        Cells::Timestamp(array) | Cells::TimestampTz(array) => {
            out.put_i64(array.value(row).checked_sub(EPOCH_US).ok_or_else(|| beyond(oid))?);
        }
        Cells::Interval(array) => {
            let value = array.value(row);
            out.put_i64(value.nanoseconds / 1000);
            out.put_i32(value.days);
            out.put_i32(value.months);
        }
        Cells::List(list, values) => array(values, items(list, row), oid, zone, out)?,
        Cells::Text(_) | Cells::LargeText(_) | Cells::TextView(_) if oid == oids::UUID => {
            let text = cells.text(row).unwrap_or_default();
            let id = uuid::Uuid::try_parse(text).map_err(|_| {
                Error::new(
                    SqlState::InvalidTextRepresentation,
                    format!("invalid input syntax for type uuid: \"{text}\""),
                )
            })?;
            out.put_slice(id.as_bytes());
        }
        _ => {
            if oid == oids::JSONB {
                out.put_u8(JSONB_VERSION);
            }
            text::write(cells, row, oid, zone, out)?;
        }
    }
    Ok(())
}

fn beyond(oid: u32) -> Error {
    Error::new(SqlState::NumericValueOutOfRange, format!("a value does not fit the type with oid {oid}"))
        .with_hint("cast it to a wider type in the query")
}

fn whole(value: i64, oid: u32, out: &mut BytesMut) -> Result<()> {
    match oid {
        oids::INT2 => out.put_i16(i16::try_from(value).map_err(|_| beyond(oid))?),
        oids::INT4 => out.put_i32(i32::try_from(value).map_err(|_| beyond(oid))?),
        oids::INT8 => out.put_i64(value),
        oids::NUMERIC => numeric(&value.to_string(), 0, out)?,
        oids::TEXT | oids::VARCHAR => out.put_slice(value.to_string().as_bytes()),
        _ => out.put_u32(u32::try_from(value).map_err(|_| beyond(oid))?),
    }
    Ok(())
}

/// Groups of four digits left and right of the point; the weight is the exponent of the first.
fn numeric(unscaled: &str, scale: i8, out: &mut BytesMut) -> Result<()> {
    let mut plain = String::new();
    aquifer_sql::written::decimal(unscaled, scale, &mut plain).map_err(|_| beyond(oids::NUMERIC))?;
    let (sign, digits) = plain.strip_prefix('-').map_or((0, plain.as_str()), |digits| (NUMERIC_NEGATIVE, digits));
    let (left, right) = digits.split_once('.').unwrap_or((digits, ""));
    let width = left.len().next_multiple_of(NUMERIC_GROUP);
    let padded =
        format!("{left:0>width$}{right:0<right_width$}", right_width = right.len().next_multiple_of(NUMERIC_GROUP));
    let groups: Vec<i16> = padded
        .as_bytes()
        .chunks(NUMERIC_GROUP)
        .map(|group| group.iter().fold(0, |sum, digit| sum * 10 + i16::from(digit - b'0')))
        .collect();
    let leading = groups.iter().take_while(|group| **group == 0).count();
    let trailing = groups[leading..].iter().rev().take_while(|group| **group == 0).count();
    let kept = &groups[leading..groups.len() - trailing];
    let short = |length: usize| i16::try_from(length).map_err(|_| beyond(oids::NUMERIC));
    let weight = if kept.is_empty() { 0 } else { short(width / NUMERIC_GROUP)? - 1 - short(leading)? };
    out.put_i16(short(kept.len())?);
    out.put_i16(weight);
    out.put_u16(if kept.is_empty() { 0 } else { sign });
    out.put_i16(short(right.len())?);
    kept.iter().for_each(|group| out.put_i16(*group));
    Ok(())
}

fn array(values: &Cells, items: std::ops::Range<usize>, oid: u32, zone: Tz, out: &mut BytesMut) -> Result<()> {
    let element = oids::element_of(oid).unwrap_or(oids::TEXT);
    if matches!(values, Cells::List(..)) {
        return Err(Error::unsupported("a nested array in binary format").with_hint("ask for it as text"));
    }
    let length = i32::try_from(items.len()).map_err(|_| beyond(oid))?;
    out.put_i32(i32::from(length > 0));
    out.put_i32(items.clone().any(|item| values.is_null(item)).into());
    out.put_u32(element);
    if length == 0 {
        return Ok(());
    }
    out.put_i32(length);
    let lower_bound = if oid == oids::INT2VECTOR || oid == oids::OIDVECTOR { 0 } else { 1 };
    out.put_i32(lower_bound);
    for item in items {
        if values.is_null(item) {
            out.put_i32(-1);
        } else {
            sized(out, |out| write(values, item, element, zone, out))?;
        }
    }
    Ok(())
}

/// Writes a length and behind it what `body` writes; nothing stays of what fails.
pub(crate) fn sized(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut) -> Result<()>) -> Result<()> {
    let start = out.len();
    out.put_i32(0);
    body(out)?;
    let length = i32::try_from(out.len() - start - 4).map_err(|_| {
        Error::new(SqlState::ProgramLimitExceeded, "a value is larger than 2 GiB").with_hint("select a part of it")
    })?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, Date32Array, Decimal128Array, Int32Array, Int64Array, ListArray, StringArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::Int32Type;

    use super::*;

    fn bytes(array: ArrayRef, oid: u32) -> Vec<u8> {
        let mut out = BytesMut::new();
        write(&Cells::of(&array).unwrap(), 0, oid, "UTC".parse().unwrap(), &mut out).unwrap();
        out.to_vec()
    }

    fn decimal(value: i128, scale: i8) -> Vec<u8> {
        let array = Decimal128Array::from(vec![value]).with_precision_and_scale(38, scale).unwrap();
        bytes(Arc::new(array), oids::NUMERIC)
    }

    #[test]
    fn numerics_are_groups_of_four_digits() {
        // SELECT numeric_send(12345.678), numeric_send(-0.0001), numeric_send(0.00), numeric_send(10000)
        assert_eq!(decimal(12_345_678, 3), [0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 0x09, 0x29, 0x1a, 0x7c]);
        assert_eq!(decimal(-1, 4), [0, 1, 0xff, 0xff, 0x40, 0, 0, 4, 0, 1]);
        assert_eq!(decimal(0, 2), [0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(decimal(10_000, 0), [0, 1, 0, 1, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn times_count_from_the_year_2000() {
        let noon_2000 = TimestampMicrosecondArray::from(vec![946_728_000_000_000]);
        assert_eq!(bytes(Arc::new(noon_2000), oids::TIMESTAMP), 43_200_000_000_i64.to_be_bytes());
        assert_eq!(bytes(Arc::new(Date32Array::from(vec![10_958])), oids::DATE), [0, 0, 0, 1]);
    }

    #[test]
    fn integers_have_the_width_their_oid_says() {
        let array: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        assert_eq!(bytes(Arc::clone(&array), oids::INT8), 7_i64.to_be_bytes());
        assert_eq!(bytes(Arc::clone(&array), oids::INT4), [0, 0, 0, 7]);
        assert_eq!(bytes(array, oids::INT2), [0, 7]);
        let large: ArrayRef = Arc::new(Int32Array::from(vec![70_000]));
        assert!(
            write(&Cells::of(&large).unwrap(), 0, oids::INT2, "UTC".parse().unwrap(), &mut BytesMut::new()).is_err()
        );
    }

    #[test]
    fn arrays_tell_dimension_element_and_items() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(5), None])]);
        let wanted: Vec<u8> = [1_i32, 1, 23, 2, 1, 4, 5, -1].iter().flat_map(|number| number.to_be_bytes()).collect();
        assert_eq!(bytes(Arc::new(list), 1007), wanted);
    }

    #[test]
    fn jsonb_has_its_version_and_uuid_its_bytes() {
        let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text.to_owned()])) };
        assert_eq!(bytes(text("{}"), oids::JSONB), b"\x01{}");
        assert_eq!(bytes(text("{}"), oids::JSON), b"{}");
        let id = "00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(bytes(text(id), oids::UUID)[..3], [0x00, 0x11, 0x22]);
    }
}
