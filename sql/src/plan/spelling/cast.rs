//! Casts that DataFusion takes at their word: texts are looked at, numbers rounded, lengths kept to, and what becomes text
//! is written as Postgres writes it.

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CharacterLength, DataType, Expr, Interval, TimezoneInfo, Value,
};

use super::{array, call, cast_of, interval, is_call_of, is_parameter, taken, text, text_of};
use crate::error::{Error, Result, SqlState};
use crate::function::{TEXT_OUT, UUID_IN, WHOLE, uuid_of};

/// Whether a literal of this type (`date '…'`) is read as a cast of a text is.
pub(super) fn is_read_by_us(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Timestamp(..)
            | DataType::Date
            | DataType::Uuid
            | DataType::JSON
            | DataType::JSONB
            | DataType::Interval { .. }
            | DataType::Bytea
    )
}

/// Rewrites a cast.
///
/// # Errors
/// 22P02, 22023 for texts that are not what they are cast to.
pub(super) fn rewrite(expr: &mut Expr) -> Result<()> {
    let Expr::Cast { expr: inner, data_type, .. } = expr else { return Ok(()) };
    // A parameter takes its type from the cast.
    if is_parameter(inner) {
        return Ok(());
    }
    let written = text_of(inner).map(str::to_owned);
    match (&*data_type, written) {
        (DataType::Bytea, Some(written)) => {
            if let Some(digits) = written.strip_prefix("\\x") {
                *expr = bytes_of(digits)?;
            }
        }
        (DataType::Uuid, Some(written)) => **inner = text(&uuid_of(&written)?),
        (DataType::Uuid, None) => wrap(inner, UUID_IN),
        (DataType::JSON, _) => wrap(inner, "json_in"),
        (DataType::JSONB, _) => wrap(inner, "jsonb_in"),
        (DataType::Timestamp(..) | DataType::Date, Some(written)) => {
            let is_zoned = matches!(data_type, DataType::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz));
            let local = if is_zoned { written.as_str() } else { without_zone(&written) };
            if let Some(time) = named_time(&written) {
                **inner = time;
            } else if matches!(data_type, DataType::Timestamp(..)) {
                **inner = text(&with_seconds(local).unwrap_or_else(|| local.to_owned()));
            }
        }
        (DataType::Interval { .. }, Some(written)) => {
            if let Some(spelled) = interval::spelled(&written) {
                **inner = text(&spelled);
            }
        }
        (DataType::Array(of), Some(written)) if written.trim_start().starts_with('{') => {
            let (ArrayElemTypeDef::SquareBracket(of, _) | ArrayElemTypeDef::AngleBracket(of)) = of else {
                return Ok(());
            };
            let of = of.as_ref().clone();
            **inner = array::of_literal(&written, &of)?;
        }
        // A number with an exponent is a decimal first, which a float of it would be off by a digit.
        (kind, None) if is_float(kind) => {
            if let Expr::Value(value) = inner.as_ref()
                && let Value::Number(digits, _) = &value.value
                && digits.contains(['e', 'E'])
            {
                **inner = text(&digits.clone());
            }
        }
        // A text has no fraction; a value out of JSON takes its type from the cast.
        (kind, None) if is_integer(kind) && !is_call_of(inner, "json_get") => wrap(inner, WHOLE),
        (kind, written) => {
            let length = length_of(kind);
            if written.is_none() && (is_text(kind) || length.is_some()) && !is_call_of(inner, "json_get") {
                wrap(inner, TEXT_OUT);
            }
            if let Some(length) = length {
                let whole = cast_of(taken(inner), DataType::Text);
                let length = Expr::value(Value::Number(length.to_string(), false));
                **inner = call("left", vec![whole, length]);
            }
        }
    }
    Ok(())
}

fn wrap(inner: &mut Expr, function: &str) {
    let value = taken(inner);
    *inner = call(function, vec![value]);
}

fn bytes_of(digits: &str) -> Result<Expr> {
    if !digits.len().is_multiple_of(2) || !digits.chars().all(|char| char.is_ascii_hexdigit()) {
        let message = format!("invalid hexadecimal data: \"{digits}\"");
        return Err(Error::new(SqlState::InvalidParameterValue, message)
            .with_hint("two hexadecimal digits per byte behind \\x"));
    }
    Ok(call("decode", vec![text(digits), text("hex")]))
}

/// A time without the offset behind it: a timestamp without a zone does not look at it, as in Postgres.
fn without_zone(written: &str) -> &str {
    let Some((date, _)) = written.split_once(':') else { return written };
    let (_, clock) = written.split_at(date.len());
    let end = clock.find(['+', '-', 'Z', 'z']).map_or(written.len(), |place| date.len() + place);
    written.get(..end).unwrap_or(written).trim_end()
}

/// `epoch`, `now`, `today` and the days beside it.
fn named_time(written: &str) -> Option<Expr> {
    let beside = |op: BinaryOperator| {
        let day = Interval {
            value: Box::new(text("1 days")),
            leading_field: None,
            leading_precision: None,
            last_field: None,
            fractional_seconds_precision: None,
        };
        Expr::Nested(Box::new(Expr::BinaryOp {
            left: Box::new(call("current_date", Vec::new())),
            op,
            right: Box::new(Expr::Interval(day)),
        }))
    };
    Some(match written.trim().to_ascii_lowercase().as_str() {
        "epoch" => text("1970-01-01 00:00:00"),
        "now" => call("now", Vec::new()),
        "today" => call("current_date", Vec::new()),
        "tomorrow" => beside(BinaryOperator::Plus),
        "yesterday" => beside(BinaryOperator::Minus),
        _ => return None,
    })
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Text | DataType::String(None) | DataType::Varchar(None) | DataType::CharacterVarying(None))
}

/// The length of a `varchar(n)`.
fn length_of(kind: &DataType) -> Option<u64> {
    match kind {
        DataType::Varchar(Some(length)) | DataType::CharacterVarying(Some(length)) => match length {
            CharacterLength::IntegerLength { length, .. } => Some(*length),
            CharacterLength::Max => None,
        },
        _ => None,
    }
}

fn is_float(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Real
            | DataType::Float4
            | DataType::Float8
            | DataType::Float(_)
            | DataType::Double(_)
            | DataType::DoublePrecision
    )
}

fn is_integer(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::SmallInt(_)
            | DataType::Int2(_)
            | DataType::Int(_)
            | DataType::Int4(_)
            | DataType::Integer(_)
            | DataType::BigInt(_)
            | DataType::Int8(_)
    )
}

/// A timestamp that ends with its minutes, perhaps with a zone behind them, with its seconds: DataFusion wants them.
pub(super) fn with_seconds(written: &str) -> Option<String> {
    const MINUTES: &[u8] = b"0000-00-00 00:00";
    let fits = |(char, form): (&u8, &u8)| if *form == b'0' { char.is_ascii_digit() } else { char == form };
    let (minutes, zone) = written.as_bytes().split_at_checked(MINUTES.len())?;
    let ends = zone.first().is_none_or(|next| b"+-Z ".contains(next));
    (ends && minutes.iter().zip(MINUTES).all(fits)).then(|| {
        let (minutes, zone) = written.split_at(MINUTES.len());
        format!("{minutes}:00{zone}")
    })
}
