//! Texts of values as Postgres writes them: booleans, exact numbers, bytes, arrays. Pure.

use crate::error::{Error, Result, SqlState};
use crate::run::value::quoted;

/// Digits an i128 holds for certain.
const DIGITS_MAX: u32 = 38;

/// Postgres's words for a boolean, and their beginnings.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    let text = text.trim_ascii().to_ascii_lowercase();
    match text.as_str() {
        "" | "o" => None,
        "1" | "on" => Some(true),
        "0" | "of" | "off" => Some(false),
        text if "true".starts_with(text) || "yes".starts_with(text) => Some(true),
        text if "false".starts_with(text) || "no".starts_with(text) => Some(false),
        _ => None,
    }
}

/// A number times ten to the power of `scale`, rounded half away from zero as Postgres rounds a numeric.
///
/// # Errors
/// 22P02 for what is no number, 22003 for what has more digits than `precision`.
pub(crate) fn decimal(text: &str, precision: u8, scale: i8) -> Result<i128> {
    let syntax = || {
        let message = format!("invalid input syntax for type numeric: {}", quoted(text));
        Error::new(SqlState::InvalidTextRepresentation, message)
    };
    let overflow = || {
        let whole = i32::from(precision) - i32::from(scale);
        Error::new(SqlState::NumericValueOutOfRange, "numeric field overflow").with_detail(format!(
            "A field with precision {precision}, scale {scale} must round to an absolute value less than 10^{whole}."
        ))
    };
    let trimmed = text.trim_ascii();
    let (negative, unsigned) = match trimmed.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| syntax())?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(syntax());
    }
    // Places by which the digits read so far are to be moved left; negative: right.
    let mut shift = i64::from(exponent) + i64::from(scale);
    let (mut number, mut rounds_up) = (0_i128, false);
    let mut full = false;
    for (digit, is_fraction) in
        whole.bytes().map(|digit| (digit, false)).chain(fraction.bytes().map(|digit| (digit, true)))
    {
        if !digit.is_ascii_digit() {
            return Err(syntax());
        }
        let digit = i128::from(digit - b'0');
        let longer = if full { None } else { number.checked_mul(10).and_then(|number| number.checked_add(digit)) };
        match longer {
            Some(longer) => {
                number = longer;
                shift -= i64::from(is_fraction);
            }
            // What no number of ours holds is cut off, and counts for rounding.
            None => {
                rounds_up = rounds_up || (!full && digit >= 5);
                full = true;
                shift += i64::from(!is_fraction);
            }
        }
    }
    let number = moved(number, shift, rounds_up).ok_or_else(overflow)?;
    if number >= 10_i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX) {
        return Err(overflow());
    }
    Ok(if negative { -number } else { number })
}

/// A number's digits moved left, or right and rounded.
fn moved(number: i128, shift: i64, rounds_up: bool) -> Option<i128> {
    if number == 0 {
        return Some(0);
    }
    match u32::try_from(shift) {
        Ok(0) => number.checked_add(i128::from(rounds_up)),
        Ok(shift) => number.checked_mul(10_i128.checked_pow(shift)?),
        Err(_) => {
            let places = u32::try_from(-shift).unwrap_or(u32::MAX);
            if places > DIGITS_MAX {
                return Some(0);
            }
            let unit = 10_i128.checked_pow(places)?;
            Some(number / unit + i128::from(number % unit >= unit / 2))
        }
    }
}

/// Bytes: hex behind `\x`, else the text's own, `\\` and `\ooo` read as escapes.
///
/// # Errors
/// 22P02.
pub(crate) fn bytes_of(text: &str) -> Result<Vec<u8>> {
    if let Some(digits) = text.strip_prefix("\\x") {
        return hex(digits);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        bytes = match (first, rest) {
            (b'\\', [b'\\', rest @ ..]) => {
                out.push(b'\\');
                rest
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest
            }
            (b'\\', _) => {
                return Err(Error::new(SqlState::InvalidTextRepresentation, "invalid input syntax for type bytea")
                    .with_hint("write \\\\ for a backslash, or all of it in hex behind \\x"));
            }
            (byte, rest) => {
                out.push(*byte);
                rest
            }
        };
    }
    Ok(out)
}

/// Hexadecimal digits, two per byte.
///
/// # Errors
/// 22P02.
pub(crate) fn hex(digits: &str) -> Result<Vec<u8>> {
    let invalid = || {
        Error::new(SqlState::InvalidTextRepresentation, format!("invalid hexadecimal data: {}", quoted(digits)))
            .with_hint("two hexadecimal digits per byte behind \\x")
    };
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect();
    bytes.filter(|_| rest.is_empty()).ok_or_else(invalid)
}

/// The items of an array literal, `{1,NULL,"a b",{2}}`; an inner array keeps its braces.
///
/// # Errors
/// 22P02.
pub(crate) fn array_items(text: &str) -> Result<Vec<Option<String>>> {
    items(text).ok_or_else(|| {
        Error::new(SqlState::InvalidTextRepresentation, format!("malformed array literal: {}", quoted(text)))
            .with_hint("write {1,NULL,\"a b\"}")
    })
}

fn items(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let mut items = Vec::new();
    if inner.is_empty() {
        return Some(items);
    }
    let mut rest = inner;
    loop {
        rest = rest.trim_start();
        let item;
        (item, rest) = match rest.as_bytes().first()? {
            b'"' => quoted_item(rest).map(|(item, rest)| (Some(item), rest))?,
            b'{' => {
                let end = closing_brace(rest)?;
                (Some(rest[..end].to_owned()), &rest[end..])
            }
            _ => bare_item(rest)?,
        };
        items.push(item);
        rest = rest.trim_start();
        if rest.is_empty() {
            return Some(items);
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// A quoted item and what comes behind it.
fn quoted_item(text: &str) -> Option<(String, &str)> {
    let mut item = String::new();
    let mut chars = text.char_indices().skip(1);
    loop {
        match chars.next()? {
            (at, '"') => return Some((item, &text[at + 1..])),
            (_, '\\') => item.push(chars.next()?.1),
            (_, char) => item.push(char),
        }
    }
}

/// Where the array ends that begins here.
fn closing_brace(text: &str) -> Option<usize> {
    let (mut depth, mut in_quotes, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_quotes = !in_quotes,
            b'{' if !in_quotes => depth += 1,
            b'}' if !in_quotes => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// An item without quotes, and what comes behind it: `NULL` is none.
fn bare_item(text: &str) -> Option<(Option<String>, &str)> {
    let mut item = String::new();
    let mut chars = text.char_indices();
    let end = loop {
        match chars.next() {
            None => break text.len(),
            Some((at, ',')) => break at,
            Some((_, '"' | '{' | '}')) => return None,
            Some((_, '\\')) => item.push(chars.next()?.1),
            Some((_, char)) => item.push(char),
        }
    };
    let item = item.trim();
    match item {
        "" => None,
        _ if item.eq_ignore_ascii_case("null") => Some((None, &text[end..])),
        _ => Some((Some(item.to_owned()), &text[end..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_postgres_writes_them() {
        assert_eq!(bytes_of("\\x00fF").unwrap(), [0, 255]);
        assert_eq!(bytes_of("a\\\\b\\001").unwrap(), b"a\\b\x01");
        for malformed in ["\\x0", "\\xzz", "\\q"] {
            assert_eq!(bytes_of(malformed).unwrap_err().state, SqlState::InvalidTextRepresentation, "{malformed}");
        }
    }

    #[test]
    fn decimals_are_exact_and_round_half_away_from_zero() {
        for (text, number) in [
            ("1", 100),
            ("-1.005", -101),
            ("1.004", 100),
            (" 12.3 ", 1230),
            ("1e2", 10_000),
            ("1.5E-2", 2),
            (".5", 50),
            ("5.", 500),
            ("1e-60", 0),
            ("0e99", 0),
        ] {
            assert_eq!(decimal(text, 10, 2).unwrap(), number, "{text}");
        }
        let long = format!("0.{}", "3".repeat(60));
        assert_eq!(decimal(&long, 38, 38).unwrap().to_string(), "3".repeat(38));
        for text in ["", ".", "1.2.3", "1e", "x", "--1", "NaN", "1 2"] {
            assert_eq!(decimal(text, 10, 2).unwrap_err().state, SqlState::InvalidTextRepresentation, "{text}");
        }
        for text in ["100000000", "99999999.995", "1e40", "-1e99"] {
            assert_eq!(decimal(text, 10, 2).unwrap_err().state, SqlState::NumericValueOutOfRange, "{text}");
        }
    }

    #[test]
    fn arrays_know_quotes_nulls_and_arrays_within() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            items(r#"{a, "b,\"}" ,NULL,"null",{1,{"}"}}}"#).unwrap(),
            [some("a"), some("b,\"}"), None, some("null"), some(r#"{1,{"}"}}"#),]
        );
        assert_eq!(items(" { } ").unwrap(), []);
        for malformed in ["", "{", "a", "{a,}", "{,a}", "{\"a}", "{a\"b}", "{{a}", "{\"a\" b}"] {
            assert_eq!(array_items(malformed).unwrap_err().state, SqlState::InvalidTextRepresentation, "{malformed}");
        }
    }

    #[test]
    fn a_boolean_is_a_word_or_its_beginning() {
        for word in ["t", "TRUE", "y", "on", "1", " tr "] {
            assert_eq!(boolean(word), Some(true), "{word}");
        }
        for word in ["f", "no", "off", "of", "0"] {
            assert_eq!(boolean(word), Some(false), "{word}");
        }
        for word in ["", "o", "truest", "2", "nope"] {
            assert_eq!(boolean(word), None, "{word}");
        }
    }
}
