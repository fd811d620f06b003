//! What JSON values have in common: the narrowest declared type that reads all of them.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use chrono::DateTime;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Fields of one object beyond which it is taken for JSONB: its names are data, not columns.
const STRUCT_FIELDS_MAX: usize = 100;
/// Fields that the top level of a sample may show: more than any declaration takes.
const FIELDS_MAX: usize = 10_000;
/// Nesting beyond which a value is taken for JSONB.
const DEPTH_MAX: usize = 8;
/// Digits that DECIMAL holds.
const DECIMAL_DIGITS_MAX: usize = 38;

/// See the head of this file. Each reads all that the ones it was merged from read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Null, or nothing at all.
    Unknown,
    Boolean,
    BigInt,
    /// Whole numbers beyond BIGINT.
    Decimal,
    Double,
    /// Text that is RFC 3339.
    Timestamp,
    Text,
    Array(Box<Shape>),
    Struct(Vec<(String, Shape)>),
    /// Values that only JSONB reads all of.
    Any,
}

impl Shape {
    /// Of one value; what is no JSON is [`Shape::Any`].
    pub(super) fn of_bytes(json: &[u8]) -> Self {
        let mut source = serde_json::Deserializer::from_slice(json);
        let shape = Seed { depth: 0 }.deserialize(&mut source);
        shape.and_then(|shape| source.end().map(|()| shape)).unwrap_or(Self::Any)
    }

    /// What reads both.
    pub(super) fn merged(self, other: Self) -> Self {
        use Shape::{Any, Array, BigInt, Boolean, Decimal, Double, Struct, Text, Timestamp, Unknown};
        match (self, other) {
            (Unknown, shape) | (shape, Unknown) => shape,
            (Array(one), Array(other)) => Array(Box::new(one.merged(*other))),
            (Struct(mut fields), Struct(more)) => {
                for (name, shape) in more {
                    add_field(&mut fields, name, shape);
                }
                if fields.len() > STRUCT_FIELDS_MAX { Any } else { Struct(fields) }
            }
            (one, other) if one == other => one,
            (BigInt | Decimal, BigInt | Decimal) => Decimal,
            (BigInt | Decimal | Double, BigInt | Decimal | Double) => Double,
            // STRING takes the text of numbers and booleans.
            (
                Boolean | BigInt | Decimal | Double | Timestamp | Text,
                Boolean | BigInt | Decimal | Double | Timestamp | Text,
            ) => Text,
            _ => Any,
        }
    }

    /// As a declaration spells it. Of what no value was seen anything may come, and JSONB reads anything.
    pub(super) fn declared(&self) -> String {
        match self {
            Self::Unknown | Self::Any => "JSONB".to_owned(),
            Self::Boolean => "BOOLEAN".to_owned(),
            Self::BigInt => "BIGINT".to_owned(),
            Self::Decimal => format!("DECIMAL({DECIMAL_DIGITS_MAX}, 0)"),
            Self::Double => "DOUBLE".to_owned(),
            Self::Timestamp => "TIMESTAMPTZ".to_owned(),
            Self::Text => "STRING".to_owned(),
            Self::Array(item) => format!("ARRAY<{}>", item.declared()),
            Self::Struct(fields) if fields.is_empty() => "JSONB".to_owned(),
            Self::Struct(fields) => {
                let mut text = String::from("STRUCT<");
                for (index, (name, shape)) in fields.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    // Writing to memory does not fail.
                    let _ = write!(text, "{comma}{} {}", identifier(name), shape.declared());
                }
                text.push('>');
                text
            }
        }
    }

    /// Whether it is one value without parts.
    pub(super) fn is_scalar(&self) -> bool {
        !matches!(self, Self::Unknown | Self::Array(_) | Self::Struct(_) | Self::Any)
    }

    fn of_number(text: &str) -> Self {
        if text.parse::<i64>().is_ok() {
            return Self::BigInt;
        }
        let digits = text.strip_prefix('-').unwrap_or(text);
        let whole = digits.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<f64>() {
            _ if whole && digits.len() <= DECIMAL_DIGITS_MAX => Self::Decimal,
            Ok(number) if number.is_finite() => Self::Double,
            _ => Self::Text,
        }
    }
}

/// Merges a field into those seen, behind them if it is new.
fn add_field(fields: &mut Vec<(String, Shape)>, name: String, shape: Shape) {
    match fields.iter_mut().find(|(there, _)| *there == name) {
        Some((_, there)) => *there = std::mem::replace(there, Shape::Unknown).merged(shape),
        None => fields.push((name, shape)),
    }
}

/// The fields of a sample's objects, in order of first appearance.
#[derive(Debug, Default)]
pub(super) struct Fields {
    fields: Vec<(String, Shape)>,
    places: HashMap<String, usize>,
}

impl Fields {
    /// Adds an object's fields; whether it is one.
    pub(super) fn add(&mut self, json: &[u8]) -> bool {
        let mut source = serde_json::Deserializer::from_slice(json);
        // The object itself is not nested, and may have more fields than one inside.
        let fields = source.deserialize_map(FieldsVisitor { depth: 0, most: FIELDS_MAX });
        let Ok(fields) = fields.and_then(|fields| source.end().map(|()| fields)) else { return false };
        for (name, shape) in fields {
            match self.places.get(&name) {
                Some(&place) => {
                    let there = &mut self.fields[place].1;
                    *there = std::mem::replace(there, Shape::Unknown).merged(shape);
                }
                None if self.fields.len() < FIELDS_MAX => {
                    self.places.insert(name.clone(), self.fields.len());
                    self.fields.push((name, shape));
                }
                None => {}
            }
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Per column: its name as written in a declaration, the name it gets by that, and its type.
    pub(super) fn columns(&self) -> Vec<(String, String, String)> {
        let names: HashSet<&str> = self.fields.iter().map(|(name, _)| name.as_str()).collect();
        let mut taken: HashSet<String> = HashSet::new();
        let mut columns = Vec::new();
        for (name, shape) in self.fields.iter().filter(|(name, _)| !is_reserved(name)) {
            let folded = name.to_lowercase();
            // Folded, unless another field bears that name to the letter or has taken it.
            let plain =
                is_plain(name) && (folded == *name || (!names.contains(folded.as_str()) && !taken.contains(&folded)));
            let (written, column) = if plain { (name.clone(), folded) } else { (quoted(name), name.clone()) };
            taken.insert(column.clone());
            columns.push((written, column, shape.declared()));
        }
        columns
    }

    /// The fields that no column can be declared for.
    pub(super) fn left_out(&self) -> Vec<String> {
        self.fields.iter().map(|(name, _)| name.clone()).filter(|name| is_reserved(name)).collect()
    }
}

/// Names that belong to the record, and the empty one, which no column can have.
fn is_reserved(name: &str) -> bool {
    name.is_empty()
        || name.starts_with('_')
        || ["rowtime", "rowpartition", "rowoffset"].contains(&name.to_lowercase().as_str())
}

/// Whether a name is an identifier without quotes, and no word that begins something else in a declaration.
fn is_plain(name: &str) -> bool {
    const WORDS: [&str; 10] = [
        "primary",
        "unique",
        "check",
        "foreign",
        "constraint",
        "references",
        "default",
        "generated",
        "collate",
        "array",
    ];
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !WORDS.contains(&name.to_lowercase().as_str())
}

/// A name that is to stay as it is.
pub(super) fn identifier(name: &str) -> String {
    if is_plain(name) && name.to_lowercase() == name { name.to_owned() } else { quoted(name) }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Reads one value's shape without building the value.
struct Seed {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Shape;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Shape, D::Error> {
        // Numbers keep their text: whether one is whole is not to be asked of a float.
        let json = <&serde_json::value::RawValue as serde::Deserialize>::deserialize(source)?;
        let text = json.get();
        let mut inner = serde_json::Deserializer::from_str(text);
        let shape = match text.as_bytes().first() {
            Some(b'{' | b'[') if self.depth >= DEPTH_MAX => Ok(Shape::Any),
            Some(b'{') => {
                let visitor = FieldsVisitor { depth: self.depth + 1, most: STRUCT_FIELDS_MAX + 1 };
                inner.deserialize_map(visitor).map(|fields| {
                    let mut named = Vec::new();
                    fields.into_iter().for_each(|(name, shape)| add_field(&mut named, name, shape));
                    if named.len() > STRUCT_FIELDS_MAX { Shape::Any } else { Shape::Struct(named) }
                })
            }
            Some(b'[') => inner.deserialize_seq(ItemsVisitor { depth: self.depth + 1 }),
            Some(b'"') => serde_json::from_str::<String>(text).map(|text| of_text(&text)),
            Some(b't' | b'f') => Ok(Shape::Boolean),
            Some(b'n') => Ok(Shape::Unknown),
            _ => Ok(Shape::of_number(text)),
        };
        shape.map_err(serde::de::Error::custom)
    }
}

/// A date, `T`, a time and an offset, or it is text.
fn of_text(text: &str) -> Shape {
    let has_t = text.as_bytes().get(10).is_some_and(|byte| *byte == b'T');
    if has_t && DateTime::parse_from_rfc3339(text).is_ok() { Shape::Timestamp } else { Shape::Text }
}

struct FieldsVisitor {
    depth: usize,
    most: usize,
}

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Vec<(String, Shape)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields: Self::Value = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if fields.len() >= self.most {
                map.next_value::<serde::de::IgnoredAny>()?;
                continue;
            }
            let shape = map.next_value_seed(Seed { depth: self.depth })?;
            // A name that is there twice is widened to both: it reads then, whichever counts.
            fields.push((name, shape));
        }
        Ok(fields)
    }
}

struct ItemsVisitor {
    depth: usize,
}

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut item = Shape::Unknown;
        while let Some(next) = items.next_element_seed(Seed { depth: self.depth })? {
            item = item.merged(next);
        }
        Ok(Shape::Array(Box::new(item)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> String {
        values.iter().map(|json| Shape::of_bytes(json.as_bytes())).fold(Shape::Unknown, Shape::merged).declared()
    }

    #[test]
    fn a_type_reads_every_value_it_was_found_in() {
        for (values, kind) in [
            (&["1", "-5", "null"][..], "BIGINT"),
            (&["1", "9223372036854775808"], "DECIMAL(38, 0)"),
            (&["1", "1.5"], "DOUBLE"),
            (&["1", "123456789012345678901234567890123456789"], "DOUBLE"),
            (&["1", "1e400"], "STRING"),
            (&["true", "false"], "BOOLEAN"),
            (&["true", "1"], "STRING"),
            (&["\"a\"", "1"], "STRING"),
            (&["\"2024-01-31T10:00:00Z\"", "\"2024-01-31T10:00:00.5+01:00\""], "TIMESTAMPTZ"),
            (&["\"2024-01-31T10:00:00Z\"", "\"2024-01-31\""], "STRING"),
            (&["\"2024-01-31T10:00:00Z\"", "5"], "STRING"),
            (&["\"2024-01-31 10:00:00Z\""], "STRING"),
            (&["null"], "JSONB"),
            (&["[]"], "ARRAY<JSONB>"),
            (&["[1, null]", "[2.5]"], "ARRAY<DOUBLE>"),
            (&["[1]", "{}"], "JSONB"),
            (&["{}"], "JSONB"),
            (&["{\"a\": 1}", "5"], "JSONB"),
            (&["{\"a\": 1}", "{\"B\": [\"x\"], \"a\": 1.5}"], "STRUCT<a DOUBLE, \"B\" ARRAY<STRING>>"),
            (&["[[[[[[[[[1]]]]]]]]]"], "ARRAY<ARRAY<ARRAY<ARRAY<ARRAY<ARRAY<ARRAY<ARRAY<JSONB>>>>>>>>"),
            (&["nonsense"], "JSONB"),
        ] {
            assert_eq!(of(values), kind, "{values:?}");
        }
    }

    #[test]
    fn an_object_of_very_many_names_is_data() {
        let fields: Vec<String> = (0..=STRUCT_FIELDS_MAX).map(|number| format!("\"u{number}\": 1")).collect();
        assert_eq!(of(&[&format!("{{{}}}", fields.join(","))]), "JSONB");
        let singles: Vec<String> = fields.iter().map(|field| format!("{{{field}}}")).collect();
        assert_eq!(of(&singles.iter().map(String::as_str).collect::<Vec<_>>()), "JSONB");
    }

    #[test]
    fn columns_keep_the_order_and_the_fields_they_are_read_from() {
        let mut fields = Fields::default();
        assert!(fields.add(br#"{"userId": 1, "Total": null, "_id": 5}"#));
        assert!(fields.add(br#"{"Total": "x", "total": 1, "two words": true, "check": 2, "ROWTIME": 1}"#));
        assert!(!fields.add(b"[1]"));
        assert!(!fields.add(br#"{"a": 1} x"#));
        let columns: Vec<_> =
            fields.columns().into_iter().map(|(name, column, kind)| format!("{name}={column} {kind}")).collect();
        let expected = [
            "userId=userid BIGINT",
            "\"Total\"=Total STRING",
            "total=total BIGINT",
            "\"two words\"=two words BOOLEAN",
            "\"check\"=check BIGINT",
        ];
        assert_eq!(columns, expected);
        assert_eq!(fields.left_out(), ["_id", "ROWTIME"]);
    }
}
