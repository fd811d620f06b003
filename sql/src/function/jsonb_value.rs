//! A JSON value as jsonb holds it: the last of fields of one name, fields in Postgres's order, numbers in all their
//! digits; and what can be done with it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::value::RawValue;

use crate::error::{Error, SqlState};

/// Most zeros that an exponent is written out to.
const EXPONENT_MAX: i64 = 1000;

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Array(Vec<Json>),
    Object(BTreeMap<Name, Json>),
}

/// A field's name: shorter ones come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.as_bytes().cmp(other.0.as_bytes()))
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A number without exponent: `-12.50`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Number(pub(super) String);

impl Number {
    /// `1e2` becomes `100`.
    fn of(written: &str) -> Self {
        let (mantissa, exponent) = written.split_once(['e', 'E']).unwrap_or((written, "0"));
        let exponent: i64 = exponent.parse().unwrap_or(EXPONENT_MAX + 1);
        if exponent.abs() > EXPONENT_MAX {
            return Self(written.to_owned());
        }
        let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let point = whole.len() as i64 + exponent;
        let mut plain = String::new();
        if point <= 0 {
            plain = format!("0.{}{digits}", "0".repeat(point.unsigned_abs() as usize));
        } else {
            for (index, digit) in digits.chars().enumerate() {
                if index as i64 == point {
                    plain.push('.');
                }
                plain.push(digit);
            }
            plain.push_str(&"0".repeat((point - digits.len() as i64).max(0) as usize));
        }
        let kept = plain.trim_start_matches('0');
        let plain = if kept.is_empty() || kept.starts_with('.') { format!("0{kept}") } else { kept.to_owned() };
        let is_zero = plain.chars().all(|digit| matches!(digit, '0' | '.'));
        Self(format!("{}{plain}", if is_zero { "" } else { sign }))
    }

    /// Without zeros at the end: equal for equal numbers.
    fn key(&self) -> &str {
        if self.0.contains('.') { self.0.trim_end_matches('0').trim_end_matches('.') } else { &self.0 }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let parts = |number: &str| -> (bool, String, String) {
            let (negative, digits) = number.strip_prefix('-').map_or((false, number), |rest| (true, rest));
            let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
            (negative, whole.to_owned(), fraction.to_owned())
        };
        let (one, two) = (parts(self.key()), parts(other.key()));
        let size = one.1.len().cmp(&two.1.len()).then_with(|| one.1.cmp(&two.1)).then_with(|| one.2.cmp(&two.2));
        match (one.0, two.0) {
            (false, false) => size,
            (true, true) => size.reverse(),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

/// What a text is as JSON.
///
/// # Errors
/// 22P02.
pub(super) fn parsed(text: &str) -> Result<Json, Error> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| invalid(&error))?;
    value_of(raw)
}

/// 22P02, for what is no JSON.
pub(super) fn invalid(error: &serde_json::Error) -> Error {
    Error::new(SqlState::InvalidTextRepresentation, format!("invalid input syntax for type json: {error}"))
        .with_hint("the argument is JSON: a text in it stands in double quotes")
}

fn value_of(raw: &RawValue) -> Result<Json, Error> {
    let text = raw.get();
    Ok(match text.as_bytes().first() {
        Some(b'n') => Json::Null,
        Some(b't') => Json::Bool(true),
        Some(b'f') => Json::Bool(false),
        Some(b'"') => Json::Text(serde_json::from_str(text).map_err(|error| invalid(&error))?),
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| invalid(&error))?;
            Json::Array(items.into_iter().map(value_of).collect::<Result<_, _>>()?)
        }
        Some(b'{') => {
            let fields: super::jsonb::Pairs<'_> = serde_json::from_str(text).map_err(|error| invalid(&error))?;
            let fields = fields.0.into_iter().map(|(name, value)| Ok((Name(name), value_of(value)?)));
            Json::Object(fields.collect::<Result<_, Error>>()?)
        }
        _ => Json::Number(Number::of(text)),
    })
}

/// A text in double quotes.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

impl Json {
    /// As Postgres shows it.
    pub(super) fn written(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, &|number| &number.0);
        out
    }

    /// The same text for values that are equal.
    pub(super) fn key(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, &Number::key);
        out
    }

    fn write(&self, out: &mut String, number: &impl Fn(&Number) -> &str) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(value) => out.push_str(number(value)),
            Self::Text(text) => out.push_str(&quoted(text)),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    item.write(out, number);
                }
                out.push(']');
            }
            Self::Object(fields) => {
                out.push('{');
                for (index, (name, value)) in fields.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    out.push_str(&quoted(&name.0));
                    out.push_str(": ");
                    value.write(out, number);
                }
                out.push('}');
            }
        }
    }

    /// On several lines, as `jsonb_pretty` has it.
    pub(super) fn pretty(&self, depth: usize, out: &mut String) {
        let indent = |out: &mut String, depth: usize| {
            let _ = write!(out, "\n{}", "    ".repeat(depth));
        };
        match self {
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    indent(out, depth + 1);
                    item.pretty(depth + 1, out);
                }
                indent(out, depth);
                out.push(']');
            }
            Self::Object(fields) => {
                out.push('{');
                for (index, (name, value)) in fields.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    indent(out, depth + 1);
                    out.push_str(&quoted(&name.0));
                    out.push_str(": ");
                    value.pretty(depth + 1, out);
                }
                indent(out, depth);
                out.push('}');
            }
            scalar => out.push_str(&scalar.written()),
        }
    }

    /// `one || other`: fields of both, of the same the other's; else a list of what both hold.
    pub(super) fn joined(self, other: Self) -> Self {
        match (self, other) {
            (Self::Object(mut fields), Self::Object(more)) => {
                fields.extend(more);
                Self::Object(fields)
            }
            (one, other) => {
                let mut items = one.into_items();
                items.extend(other.into_items());
                Self::Array(items)
            }
        }
    }

    fn into_items(self) -> Vec<Self> {
        match self {
            Self::Array(items) => items,
            other => vec![other],
        }
    }

    /// `value - name`: without that field, or without the texts that are it.
    pub(super) fn without_name(self, name: &str) -> Result<Self, Error> {
        Ok(match self {
            Self::Object(mut fields) => {
                fields.remove(&Name(name.to_owned()));
                Self::Object(fields)
            }
            Self::Array(items) => {
                let is_it = |item: &Self| matches!(item, Self::Text(text) if text == name);
                Self::Array(items.into_iter().filter(|item| !is_it(item)).collect())
            }
            _ => return Err(not_of_scalars()),
        })
    }

    /// `value - index`: without that element, from the end if negative.
    pub(super) fn without_element(self, index: i64) -> Result<Self, Error> {
        match self {
            Self::Array(mut items) => {
                if let Some(place) = place_in(&items, index) {
                    items.remove(place);
                }
                Ok(Self::Array(items))
            }
            Self::Object(_) => {
                Err(Error::new(SqlState::InvalidParameterValue, "cannot delete from object using integer index"))
            }
            _ => Err(not_of_scalars()),
        }
    }

    /// `value #- path`.
    pub(super) fn without_path(self, path: &[&str]) -> Result<Self, Error> {
        let [step, rest @ ..] = path else { return Ok(self) };
        Ok(match self {
            Self::Object(mut fields) => {
                let name = Name((*step).to_owned());
                if rest.is_empty() {
                    fields.remove(&name);
                } else if let Some(value) = fields.remove(&name) {
                    fields.insert(name, value.below(rest)?);
                }
                Self::Object(fields)
            }
            Self::Array(mut items) => {
                if let Some(place) = place_in(&items, index_of(step)?) {
                    let item = items.remove(place);
                    if !rest.is_empty() {
                        items.insert(place, item.below(rest)?);
                    }
                }
                Self::Array(items)
            }
            _ => return Err(not_of_scalars()),
        })
    }

    fn below(self, rest: &[&str]) -> Result<Self, Error> {
        match self {
            Self::Object(_) | Self::Array(_) => self.without_path(rest),
            scalar => Ok(scalar),
        }
    }

    /// `jsonb_set(value, path, new, create)`.
    pub(super) fn with(self, path: &[&str], new: &Self, create: bool) -> Result<Self, Error> {
        let [step, rest @ ..] = path else { return Ok(self) };
        Ok(match self {
            Self::Object(mut fields) => {
                let name = Name((*step).to_owned());
                match fields.remove(&name) {
                    Some(value) => {
                        let value = if rest.is_empty() { new.clone() } else { value.with_below(rest, new, create)? };
                        fields.insert(name, value);
                    }
                    None if rest.is_empty() && create => {
                        fields.insert(name, new.clone());
                    }
                    None => {}
                }
                Self::Object(fields)
            }
            Self::Array(mut items) => {
                let index = index_of(step)?;
                match place_in(&items, index) {
                    Some(place) if rest.is_empty() => items[place] = new.clone(),
                    Some(place) => {
                        let item = std::mem::replace(&mut items[place], Self::Null);
                        items[place] = item.with_below(rest, new, create)?;
                    }
                    None if rest.is_empty() && create => {
                        items.insert(if index < 0 { 0 } else { items.len() }, new.clone());
                    }
                    None => {}
                }
                Self::Array(items)
            }
            _ => return Err(Error::new(SqlState::InvalidParameterValue, "cannot set path in scalar")),
        })
    }

    fn with_below(self, rest: &[&str], new: &Self, create: bool) -> Result<Self, Error> {
        match self {
            Self::Object(_) | Self::Array(_) => self.with(rest, new, create),
            scalar => Ok(scalar),
        }
    }

    /// Without the fields that are null, at any depth.
    pub(super) fn stripped(self) -> Self {
        match self {
            Self::Object(fields) => {
                let kept = fields.into_iter().filter(|(_, value)| *value != Self::Null);
                Self::Object(kept.map(|(name, value)| (name, value.stripped())).collect())
            }
            Self::Array(items) => Self::Array(items.into_iter().map(Self::stripped).collect()),
            scalar => scalar,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Text(_) => 1,
            Self::Number(_) => 2,
            Self::Bool(_) => 3,
            Self::Array(_) => 4,
            Self::Object(_) => 5,
        }
    }

    /// Postgres's order of jsonb: objects over lists over booleans over numbers over texts over null; the longer one
    /// of two lists or objects. An empty list comes before everything, as it does there.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let empty = |value: &Self| matches!(value, Self::Array(items) if items.is_empty());
        match (empty(self), empty(other)) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => one.cmp(other),
            (Self::Number(one), Self::Number(other)) => one.compare(other),
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            (Self::Array(one), Self::Array(other)) => {
                let items = || one.iter().zip(other).map(|(one, other)| one.compare(other));
                one.len().cmp(&other.len()).then_with(|| items().find(|order| order.is_ne()).unwrap_or(Ordering::Equal))
            }
            (Self::Object(one), Self::Object(other)) => {
                let fields = one.iter().zip(other);
                let mut orders =
                    fields.map(|((name, value), (name2, value2))| name.cmp(name2).then_with(|| value.compare(value2)));
                one.len().cmp(&other.len()).then_with(|| orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal))
            }
            (one, other) => one.rank().cmp(&other.rank()),
        }
    }
}

fn not_of_scalars() -> Error {
    Error::new(SqlState::InvalidParameterValue, "cannot delete from scalar")
}

fn index_of(step: &str) -> Result<i64, Error> {
    step.parse().map_err(|_| {
        Error::new(SqlState::InvalidTextRepresentation, format!("path element is not an integer: \"{step}\""))
    })
}

fn place_in(items: &[Json], index: i64) -> Option<usize> {
    let length = i64::try_from(items.len()).ok()?;
    let place = if index < 0 { length.checked_add(index)? } else { index };
    usize::try_from(place).ok().filter(|place| *place < items.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        parsed(text).unwrap().written()
    }

    #[test]
    fn values_show_as_postgres_shows_them() {
        // Each asked of Postgres 15.
        for (given, wanted) in [
            ("{\"bb\":1,\"a\":[1,{}],\"a\":2}", "{\"a\": 2, \"bb\": 1}"),
            ("[1e2, 1.50, -0, 1E-3, 12.5e1, 0.0]", "[100, 1.50, 0, 0.001, 125, 0.0]"),
            ("\"\\u00e9\\n\"", "\"é\\n\""),
            ("[]", "[]"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
        ] {
            assert_eq!(shown(given), wanted);
        }
        for wrong in ["{\"a\": ", "", "nul", "01", "{a: 1}", "[1,]"] {
            assert_eq!(parsed(wrong).unwrap_err().state, SqlState::InvalidTextRepresentation, "{wrong}");
        }
    }

    #[test]
    fn equal_numbers_have_one_key_and_an_order() {
        let key = |text: &str| parsed(text).unwrap().key();
        assert_eq!(key("[1.0, 100]"), key("[1, 1e2]"));
        assert_ne!(key("9007199254740993"), key("9007199254740992"));
        let order = |one: &str, other: &str| parsed(one).unwrap().compare(&parsed(other).unwrap());
        for (less, more) in [("9", "10"), ("-2", "1"), ("-10", "-9"), ("1.5", "1.25e1"), ("\"b\"", "1"), ("[1]", "{}")]
        {
            assert_eq!(order(less, more), Ordering::Less, "{less} {more}");
        }
        assert_eq!(order("1.10", "1.1"), Ordering::Equal);
    }

    #[test]
    fn paths_that_lead_nowhere_change_nothing() {
        let value = || parsed("{\"a\": [1, {\"b\": 2}], \"c\": 3}").unwrap();
        let set = |path: &[&str]| value().with(path, &Json::Null, true).unwrap().written();
        assert_eq!(set(&["a", "1", "b"]), "{\"a\": [1, {\"b\": null}], \"c\": 3}");
        assert_eq!(set(&["a", "9"]), "{\"a\": [1, {\"b\": 2}, null], \"c\": 3}");
        assert_eq!(set(&["x", "y"]), value().written());
        assert_eq!(set(&["c", "y"]), value().written());
        assert_eq!(value().without_path(&["a", "-1"]).unwrap().written(), "{\"a\": [1], \"c\": 3}");
        assert!(value().with(&["a", "x"], &Json::Null, true).is_err());
    }
}
