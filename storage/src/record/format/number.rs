//! Numbers from text, exactly: nothing is rounded on the way to an integer or a decimal, and what does not fit is told.

use std::fmt;
use std::str::FromStr;

/// Characters of a value that an error message quotes.
const QUOTED_CHARS_MAX: usize = 80;

/// Powers of ten beyond this are out of every type's range; it keeps arithmetic on exponents from overflowing.
const EXPONENT_MAX: i64 = 1_000_000_000;

/// Why a text is not the number asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberError {
    /// It is no number.
    Syntax,
    /// Digits would be lost behind the last place.
    Inexact,
    /// It is too large.
    Range,
}

impl NumberError {
    /// The message about `text`, which was to become a `kind`.
    pub(super) fn about(self, text: &str, kind: impl fmt::Display) -> String {
        let text = quoted(text);
        match self {
            Self::Syntax => format!("{text} is not a number, {kind} was expected"),
            Self::Inexact => format!("{text} has more fraction digits than {kind} can hold"),
            Self::Range => format!("{text} is out of range for {kind}"),
        }
    }
}

/// `text` for an error message: in quotes, cut if it is long.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        None => format!("'{text}'"),
        Some((end, _)) => format!("'{}…'", &text[..end]),
    }
}

/// An integer. `5.0` and `5e2` are integers too, `5.5` is not.
pub(super) fn integer<T: TryFrom<i128> + FromStr>(text: &str) -> Result<T, NumberError> {
    match text.parse() {
        Ok(number) => Ok(number),
        Err(_) => decimal(text, 0).and_then(|number| T::try_from(number).map_err(|_| NumberError::Range)),
    }
}

/// A floating-point number, rounded to the nearest as IEEE 754 has it, or one of the words that Postgres and Java write
/// for what is no number: `NaN`, `Infinity`, `-Infinity`.
pub(super) fn float<T: FromStr + Into<f64> + Copy>(text: &str) -> Result<T, NumberError> {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return text.parse().map_err(|_| NumberError::Syntax);
    }
    // Rust also reads other words ("inf", "nan").
    if text.bytes().any(|byte| byte.is_ascii_alphabetic() && !matches!(byte, b'e' | b'E')) {
        return Err(NumberError::Syntax);
    }
    let number: T = text.parse().map_err(|_| NumberError::Syntax)?;
    if number.into().is_finite() { Ok(number) } else { Err(NumberError::Range) }
}

/// `text` times ten to the power of `scale`, if that is an integer.
pub(super) fn decimal(text: &str, scale: i64) -> Result<i128, NumberError> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], exponent(&unsigned[at + 1..])?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    let count = i64::try_from(whole.len() + fraction.len()).map_err(|_| NumberError::Range)?;
    if count == 0 || !digits().all(|digit| digit.is_ascii_digit()) {
        return Err(NumberError::Syntax);
    }

    // The first `kept` digits stand before the last place; later ones must be zeros, missing ones are.
    let kept = count + exponent + scale - i64::try_from(fraction.len()).map_err(|_| NumberError::Range)?;
    let mut number = 0i128;
    for (index, digit) in (0i64..).zip(digits()) {
        let digit = i128::from(digit - b'0');
        if index < kept {
            number = number.checked_mul(10).and_then(|n| n.checked_sub(digit)).ok_or(NumberError::Range)?;
        } else if digit != 0 {
            return Err(NumberError::Inexact);
        }
    }
    if number != 0 {
        for _ in count..kept {
            number = number.checked_mul(10).ok_or(NumberError::Range)?;
        }
    }
    // Counted downwards, because the smallest number has no positive counterpart.
    if negative { Ok(number) } else { number.checked_neg().ok_or(NumberError::Range) }
}

/// The digits behind `e`, clamped to what could matter.
fn exponent(text: &str) -> Result<i64, NumberError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(NumberError::Syntax);
    }
    let clamped = digits.parse().unwrap_or(EXPONENT_MAX).min(EXPONENT_MAX);
    Ok(if text.starts_with('-') { -clamped } else { clamped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_take_whole_numbers_however_written_and_nothing_else() {
        assert_eq!(integer("42"), Ok(42i32));
        assert_eq!(integer("-32768"), Ok(i16::MIN));
        assert_eq!(integer("5.00"), Ok(5i64));
        assert_eq!(integer("1.5e1"), Ok(15i16));
        assert_eq!(integer("1200e-2"), Ok(12i32));
        assert_eq!(integer::<i16>("32768"), Err(NumberError::Range));
        assert_eq!(integer::<i64>("9223372036854775808"), Err(NumberError::Range));
        assert_eq!(integer::<i64>("1e400"), Err(NumberError::Range));
        assert_eq!(integer::<i64>("1e99999999999999999999"), Err(NumberError::Range));
        assert_eq!(integer("0e99999999999999999999"), Ok(0i64));
        assert_eq!(integer::<i32>("1.5"), Err(NumberError::Inexact));
        assert_eq!(integer::<i32>("1e-1"), Err(NumberError::Inexact));
        for text in ["", " 1", "1 ", "1x", "-", "+", ".", "e5", "1e", "1e+", "0x10", "--1", "1.2.3", "１"] {
            assert_eq!(integer::<i32>(text), Err(NumberError::Syntax), "{text}");
        }
    }

    #[test]
    fn decimals_are_exact_by_their_text() {
        assert_eq!(decimal("0.1", 2), Ok(10));
        assert_eq!(decimal("-12.34", 2), Ok(-1234));
        assert_eq!(decimal("12.340", 2), Ok(1234));
        assert_eq!(decimal("12.345", 2), Err(NumberError::Inexact));
        assert_eq!(decimal("1e3", 2), Ok(100_000));
        assert_eq!(decimal("99999999999999999999999999999999999999", 0), Ok(10i128.pow(38) - 1));
        assert_eq!(decimal(&format!("{}", i128::MIN), 0), Ok(i128::MIN));
        assert_eq!(decimal(&format!("-{}", i128::MIN), 0), Err(NumberError::Syntax));
    }

    #[test]
    fn floats_are_numbers_and_the_words_of_postgres() {
        assert_eq!(float("0.1"), Ok(0.1f64));
        assert!(float::<f64>("NaN").is_ok_and(f64::is_nan));
        assert_eq!(float("-Infinity"), Ok(f64::NEG_INFINITY));
        assert_eq!(float("Infinity"), Ok(f32::INFINITY));
        assert_eq!(float("16777217"), Ok(16_777_216f32));
        assert_eq!(float::<f64>("1e400"), Err(NumberError::Range));
        assert_eq!(float::<f32>("1e39"), Err(NumberError::Range));
        for text in ["nan", "inf", "infinity", "+Infinity", "", "1f", " 1"] {
            assert_eq!(float::<f64>(text), Err(NumberError::Syntax), "{text}");
        }
    }
}
