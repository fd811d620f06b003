//! Parameters: what a Bind message brings, text or binary, made values of the types planning asked for.

use std::sync::Arc;

use aquifer_sql::error::{Error, Result, SqlState};
use arrow::datatypes::{DataType, Field, IntervalMonthDayNano};
use bytes::{Buf, Bytes};
use datafusion::common::ScalarValue;

use super::binary::{EPOCH_DAYS, EPOCH_US};
use super::oids;

/// Most digits behind the point of a numeric parameter.
const NUMERIC_SCALE_MAX: i8 = 38;
const NUMERIC_PRECISION: u8 = 38;
const NUMERIC_NEGATIVE: u16 = 0x4000;
const NUMERIC_NAN: u16 = 0xC000;

/// One parameter's value: `None` is NULL.
///
/// # Errors
/// 22P02 for text that does not parse, 22P03 for bytes that are not of the type, 22003 where it does not fit.
pub(crate) fn decode(value: Option<&Bytes>, format: i16, oid: u32, arrow: &DataType) -> Result<ScalarValue> {
    let Some(bytes) = value else {
        return ScalarValue::try_from(arrow).map_err(|error| unfit(oid, arrow, &error));
    };
    let scalar = match format {
        0 => text(bytes, oid, arrow)?,
        1 => binary(bytes.clone(), oid)?,
        other => {
            return Err(Error::new(SqlState::InvalidParameterValue, format!("unsupported format code: {other}")));
        }
    };
    if scalar.data_type() == *arrow {
        return Ok(scalar);
    }
    scalar.cast_to(arrow).map_err(|error| match format {
        0 => invalid_text(arrow, &String::from_utf8_lossy(bytes)),
        _ => unfit(oid, arrow, &error),
    })
}

fn unfit(oid: u32, arrow: &DataType, error: &dyn std::fmt::Display) -> Error {
    Error::new(SqlState::NumericValueOutOfRange, format!("a parameter of oid {oid} is not a {arrow}: {error}"))
        .with_hint("cast the parameter in the query: $1::type")
}

fn invalid_text(arrow: &DataType, text: &str) -> Error {
    let name = type_name(oids::oid_of(arrow));
    Error::new(SqlState::InvalidTextRepresentation, format!("invalid input syntax for type {name}: \"{text}\""))
}

fn type_name(oid: u32) -> &'static str {
    match oid {
        oids::BOOL => "boolean",
        oids::BYTEA => "bytea",
        oids::INT2 => "smallint",
        oids::INT4 => "integer",
        oids::INT8 => "bigint",
        oids::OID => "oid",
        oids::FLOAT4 => "real",
        oids::FLOAT8 => "double precision",
        oids::NUMERIC => "numeric",
        oids::DATE => "date",
        oids::TIME => "time",
        oids::TIMESTAMP => "timestamp",
        oids::TIMESTAMPTZ => "timestamp with time zone",
        oids::INTERVAL => "interval",
        oids::UUID => "uuid",
        oids::JSON => "json",
        oids::JSONB => "jsonb",
        _ => "text",
    }
}

fn text(bytes: &Bytes, oid: u32, arrow: &DataType) -> Result<ScalarValue> {
    let text = std::str::from_utf8(bytes).map_err(|_| {
        Error::new(SqlState::CharacterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\" in a parameter")
    })?;
    match arrow {
        DataType::Boolean => boolean(text).ok_or_else(|| invalid_text(arrow, text)),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            if oid == oids::UUID {
                let id = uuid::Uuid::try_parse(text).map_err(|_| invalid_text(arrow, text))?;
                return Ok(ScalarValue::Binary(Some(id.as_bytes().to_vec())));
            }
            bytea(text).map(|bytes| ScalarValue::Binary(Some(bytes))).ok_or_else(|| invalid_text(arrow, text))
        }
        DataType::List(item) | DataType::LargeList(item) => list(text, item),
        arrow if arrow.is_numeric() || arrow.is_temporal() => Ok(ScalarValue::Utf8(Some(text.trim().to_owned()))),
        _ => Ok(ScalarValue::Utf8(Some(text.to_owned()))),
    }
}

/// Postgres's words for a boolean, and their beginnings.
fn boolean(text: &str) -> Option<ScalarValue> {
    let text = text.trim().to_ascii_lowercase();
    let begins = |words: &[&str]| !text.is_empty() && words.iter().any(|word| word.starts_with(&text));
    let value = match text.as_str() {
        "o" => return None,
        "1" | "on" => true,
        "0" | "of" | "off" => false,
        _ if begins(&["true", "yes"]) => true,
        _ if begins(&["false", "no"]) => false,
        _ => return None,
    };
    Some(ScalarValue::Boolean(Some(value)))
}

fn bytea(text: &str) -> Option<Vec<u8>> {
    if let Some(digits) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let (pairs, rest) = digits.as_chunks::<2>();
        let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        return rest.is_empty().then(|| {
            pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect::<Option<Vec<u8>>>()
        })?;
    }
    let mut out = Vec::new();
    let mut bytes = text.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        match (first, rest) {
            (b'\\', [b'\\', rest @ ..]) => {
                out.push(b'\\');
                bytes = rest;
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                bytes = rest;
            }
            (b'\\', _) => return None,
            (byte, rest) => {
                out.push(*byte);
                bytes = rest;
            }
        }
    }
    Some(out)
}

/// `{1,NULL,"a b"}`, one dimension.
fn list(text: &str, item: &Arc<Field>) -> Result<ScalarValue> {
    let arrow = item.data_type();
    let malformed = || {
        Error::new(SqlState::InvalidTextRepresentation, format!("malformed array literal: \"{text}\""))
            .with_hint("write {1,2,NULL}, one dimension")
    };
    let inner = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(malformed)?;
    let mut values = Vec::new();
    for entry in split_items(inner).ok_or_else(malformed)? {
        let bytes = entry.map(Bytes::from);
        values.push(decode(bytes.as_ref(), 0, oids::oid_of(arrow), arrow)?);
    }
    Ok(ScalarValue::List(ScalarValue::new_list_nullable(&values, arrow)))
}

/// The items of an array literal without its braces; `None` where it does not parse.
fn split_items(text: &str) -> Option<Vec<Option<String>>> {
    let mut items = Vec::new();
    let mut chars = text.trim().chars().peekable();
    if chars.peek().is_none() {
        return Some(items);
    }
    loop {
        while chars.next_if(|char| char.is_whitespace()).is_some() {}
        let mut item = String::new();
        let quoted = chars.next_if_eq(&'"').is_some();
        loop {
            match chars.next() {
                Some('\\') => item.push(chars.next()?),
                Some('"') if quoted => break,
                Some('{' | '}' | '"') if !quoted => return None,
                Some(',') if !quoted => {
                    items.push(bare(&item)?);
                    item.clear();
                    while chars.next_if(|char| char.is_whitespace()).is_some() {}
                    if chars.peek() == Some(&'"') {
                        break;
                    }
                }
                Some(char) => item.push(char),
                None if quoted => return None,
                None => {
                    items.push(bare(&item)?);
                    return Some(items);
                }
            }
        }
        if quoted {
            items.push(Some(item));
            while chars.next_if(|char| char.is_whitespace()).is_some() {}
            match chars.next() {
                None => return Some(items),
                Some(',') => {}
                Some(_) => return None,
            }
        }
    }
}

/// An item without quotes: `NULL` is one.
fn bare(item: &str) -> Option<Option<String>> {
    let item = item.trim();
    match item {
        "" => None,
        _ if item.eq_ignore_ascii_case("null") => Some(None),
        _ => Some(Some(item.to_owned())),
    }
}

fn binary(bytes: Bytes, oid: u32) -> Result<ScalarValue> {
    let wrong = || {
        Error::new(
            SqlState::InvalidBinaryRepresentation,
            format!("incorrect binary data format in a parameter of oid {oid}"),
        )
    };
    if oids::element_of(oid).is_some() {
        return array(bytes, oid);
    }
    let fixed = |length: usize| if bytes.len() == length { Ok(bytes.clone()) } else { Err(wrong()) };
    let utf8 =
        |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map(|text| ScalarValue::Utf8(Some(text))).map_err(|_| wrong());
    Ok(match oid {
        oids::BOOL => ScalarValue::Boolean(Some(fixed(1)?.get_u8() != 0)),
        oids::INT2 => ScalarValue::Int16(Some(fixed(2)?.get_i16())),
        oids::INT4 => ScalarValue::Int32(Some(fixed(4)?.get_i32())),
        oids::INT8 => ScalarValue::Int64(Some(fixed(8)?.get_i64())),
        oids::OID => ScalarValue::UInt32(Some(fixed(4)?.get_u32())),
        oids::FLOAT4 => ScalarValue::Float32(Some(fixed(4)?.get_f32())),
        oids::FLOAT8 => ScalarValue::Float64(Some(fixed(8)?.get_f64())),
        oids::BYTEA => ScalarValue::Binary(Some(bytes.to_vec())),
        oids::DATE => ScalarValue::Date32(fixed(4)?.get_i32().checked_add(EPOCH_DAYS)),
        oids::TIME => ScalarValue::Time64Microsecond(Some(fixed(8)?.get_i64())),
        oids::TIMESTAMP => ScalarValue::TimestampMicrosecond(since_epoch(fixed(8)?, wrong)?, None),
        oids::TIMESTAMPTZ => ScalarValue::TimestampMicrosecond(since_epoch(fixed(8)?, wrong)?, Some(Arc::from("UTC"))),
        oids::INTERVAL => {
            let mut bytes = fixed(16)?;
            let nanoseconds = bytes.get_i64().checked_mul(1000).ok_or_else(wrong)?;
            let (days, months) = (bytes.get_i32(), bytes.get_i32());
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(months, days, nanoseconds)))
        }
        oids::UUID => {
            let id = uuid::Uuid::from_slice(&bytes).map_err(|_| wrong())?;
            ScalarValue::Utf8(Some(id.to_string()))
        }
        oids::NUMERIC => numeric(bytes).ok_or_else(wrong)?,
        oids::JSONB => utf8(bytes.strip_prefix(&[1]).ok_or_else(wrong)?)?,
        _ => utf8(&bytes)?,
    })
}

fn since_epoch(mut bytes: Bytes, wrong: impl FnOnce() -> Error) -> Result<Option<i64>> {
    bytes.get_i64().checked_add(EPOCH_US).map(Some).ok_or_else(wrong)
}

/// Postgres's numeric with the digits behind the point that it says it has; `None` if it is malformed, no number, or has
/// more digits than fit.
fn numeric(mut bytes: Bytes) -> Option<ScalarValue> {
    if bytes.len() < 8 {
        return None;
    }
    let (count, weight, sign, scale) = (bytes.get_u16(), bytes.get_i16(), bytes.get_u16(), bytes.get_u16());
    if bytes.len() != usize::from(count) * 2 || sign & NUMERIC_NAN == NUMERIC_NAN {
        return None;
    }
    let scale = i8::try_from(scale).ok().filter(|scale| *scale <= NUMERIC_SCALE_MAX)?;
    let mut unscaled: i128 = 0;
    for index in 0..count {
        let digit = i128::from(bytes.get_u16());
        // This digit's lowest place, as a power of ten above the last one that is kept.
        let power = (i32::from(weight) - i32::from(index)) * 4 + i32::from(scale);
        let part = match u32::try_from(power) {
            Ok(power) => digit.checked_mul(10_i128.checked_pow(power)?)?,
            Err(_) => digit / 10_i128.checked_pow(power.unsigned_abs()).unwrap_or(i128::MAX),
        };
        unscaled = unscaled.checked_add(part)?;
    }
    let value = if sign == NUMERIC_NEGATIVE { -unscaled } else { unscaled };
    Some(ScalarValue::Decimal128(Some(value), NUMERIC_PRECISION, scale))
}

fn array(mut bytes: Bytes, oid: u32) -> Result<ScalarValue> {
    let wrong =
        || Error::new(SqlState::InvalidBinaryRepresentation, format!("malformed array in a parameter of oid {oid}"));
    let int = |bytes: &mut Bytes| bytes.try_get_i32().map_err(|_| wrong());
    let (dimensions, _nulls, element) = (int(&mut bytes)?, int(&mut bytes)?, int(&mut bytes)?.cast_unsigned());
    let arrow = oids::arrow_of(element).ok_or_else(wrong)?;
    let mut values = Vec::new();
    match dimensions {
        0 => {}
        1 => {
            let (count, _lower) = (int(&mut bytes)?, int(&mut bytes)?);
            for _ in 0..count {
                let value = match usize::try_from(int(&mut bytes)?) {
                    Ok(length) if length > bytes.len() => return Err(wrong()),
                    Ok(length) => Some(bytes.split_to(length)),
                    Err(_) => None,
                };
                values.push(decode(value.as_ref(), 1, element, &arrow)?);
            }
        }
        _ => {
            return Err(
                Error::unsupported("an array parameter of several dimensions").with_hint("pass it as jsonb text")
            );
        }
    }
    Ok(ScalarValue::List(ScalarValue::new_list_nullable(&values, &arrow)))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    fn text_of(value: &str, arrow: &DataType) -> Result<ScalarValue> {
        decode(Some(&Bytes::copy_from_slice(value.as_bytes())), 0, oids::oid_of(arrow), arrow)
    }

    #[test]
    fn text_parameters_parse_by_the_type_asked_for() {
        assert_eq!(text_of("42", &DataType::Int64).unwrap(), ScalarValue::Int64(Some(42)));
        assert_eq!(text_of("t", &DataType::Boolean).unwrap(), ScalarValue::Boolean(Some(true)));
        assert_eq!(text_of("\\x00Ff", &DataType::Binary).unwrap(), ScalarValue::Binary(Some(vec![0, 255])));
        let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")));
        let ScalarValue::TimestampMicrosecond(us, _) = text_of("2020-01-01 00:00:00+02", &zoned).unwrap() else {
            panic!()
        };
        assert_eq!(us, Some(1_577_829_600_000_000));
        let error = text_of("abc", &DataType::Int64).unwrap_err();
        assert_eq!(error.message, "invalid input syntax for type bigint: \"abc\"");
        assert_eq!(error.state, SqlState::InvalidTextRepresentation);
    }

    #[test]
    fn array_literals_know_quotes_and_null() {
        assert_eq!(
            split_items(r#"a, "b,\"c" ,NULL,d"#).unwrap(),
            [Some("a".to_owned()), Some("b,\"c".to_owned()), None, Some("d".to_owned())]
        );
        assert_eq!(split_items(" ").unwrap(), []);
        assert_eq!(split_items("a,"), None);
        assert_eq!(split_items("\"a"), None);
    }

    #[test]
    fn binary_parameters_have_the_type_the_client_named() {
        let value = Bytes::copy_from_slice(&7_i32.to_be_bytes());
        assert_eq!(decode(Some(&value), 1, oids::INT4, &DataType::Int64).unwrap(), ScalarValue::Int64(Some(7)));
        assert_eq!(
            decode(Some(&value), 1, oids::INT8, &DataType::Int64).unwrap_err().state,
            SqlState::InvalidBinaryRepresentation
        );
        assert_eq!(decode(None, 1, oids::INT8, &DataType::Int64).unwrap(), ScalarValue::Int64(None));
    }

    #[test]
    fn a_binary_numeric_is_exact() {
        // 12345.678
        let value = Bytes::from_static(&[0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 0x09, 0x29, 0x1a, 0x7c]);
        for (scale, unscaled) in [(10, 123_456_780_000_000), (3, 12_345_678)] {
            let wanted = ScalarValue::Decimal128(Some(unscaled), NUMERIC_PRECISION, scale);
            let arrow = DataType::Decimal128(NUMERIC_PRECISION, scale);
            assert_eq!(decode(Some(&value), 1, oids::NUMERIC, &arrow).unwrap(), wanted);
        }
        // 0.000000000000005, whose digits a scale of 10 would have cut off.
        let value = Bytes::from_static(&[0, 1, 0xff, 0xfc, 0, 0, 0, 15, 0, 50]);
        let wanted = ScalarValue::Decimal128(Some(5), 20, 15);
        assert_eq!(decode(Some(&value), 1, oids::NUMERIC, &DataType::Decimal128(20, 15)).unwrap(), wanted);
    }

    #[test]
    fn a_binary_array_that_lies_about_its_length_is_refused() {
        let mut bytes = Vec::new();
        for number in [1_i32, 0, 23, i32::MAX, 1] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        let error = decode(Some(&Bytes::from(bytes)), 1, 1007, &oids::arrow_of(1007).unwrap()).unwrap_err();
        assert_eq!(error.state, SqlState::InvalidBinaryRepresentation);
    }
}
