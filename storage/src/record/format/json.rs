//! One JSON object read once: the declared fields' values, as slices of the record's own bytes.
//!
//! Exact names win over names that differ only in case; of duplicates the last wins, as in Postgres's jsonb. A field
//! nobody declared is skipped over.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Nesting beyond this is refused in a column that keeps any JSON; readers of it may recurse.
const DEPTH_MAX: usize = 128;

/// Up to so many names a look along the list is faster than hashing.
const LISTED_NAMES_MAX: usize = 16;

/// The names of an object's declared fields, for finding them in any order and case.
#[derive(Debug)]
pub(super) struct FieldTable {
    names: Vec<String>,
    exact: HashMap<String, usize>,
    /// By lower case; of names that differ only in case the first declared.
    folded: HashMap<String, usize>,
}

/// What one field of an object was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot<'a> {
    /// Its JSON, `None` if the field is missing.
    pub(super) value: Option<&'a RawValue>,
    /// Whether it was found under the declared name to the letter.
    exact: bool,
}

impl FieldTable {
    pub(super) fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let exact = names.iter().cloned().zip(0..).collect();
        // The first declared is put last and stays.
        let folded = names.iter().enumerate().map(|(index, name)| (name.to_lowercase(), index)).rev().collect();
        Self { names, exact, folded }
    }

    /// Reads the object in `json`; `slots` gets one entry per declared field.
    pub(super) fn read<'a>(&self, json: &'a [u8], slots: &mut Vec<Slot<'a>>) -> Result<(), String> {
        slots.clear();
        slots.resize(self.names.len(), Slot::default());
        let mut source = serde_json::Deserializer::from_slice(json);
        source
            .deserialize_map(ObjectVisitor { table: self, slots })
            .and_then(|()| source.end())
            .map_err(|e| e.to_string())
    }

    /// The field called `name`, and whether that is its name to the letter. `next` is tried first: most producers
    /// write their fields in the same order.
    fn find(&self, name: &str, next: usize) -> Option<(usize, bool)> {
        if self.names.get(next).is_some_and(|expected| expected == name) {
            return Some((next, true));
        }
        if self.names.len() <= LISTED_NAMES_MAX && name.is_ascii() {
            let exact = self.names.iter().position(|declared| declared == name).map(|index| (index, true));
            let folded = || {
                let same = |declared: &String| declared.eq_ignore_ascii_case(name);
                self.names.iter().position(same).map(|index| (index, false))
            };
            return exact.or_else(folded);
        }
        let exact = self.exact.get(name).map(|index| (*index, true));
        exact.or_else(|| self.folded.get(&name.to_lowercase()).map(|index| (*index, false)))
    }
}

struct ObjectVisitor<'t, 's, 'a> {
    table: &'t FieldTable,
    slots: &'s mut [Slot<'a>],
}

impl<'a> Visitor<'a> for ObjectVisitor<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let mut next = 0;
        while let Some(found) = map.next_key_seed(FieldName { table: self.table, next })? {
            let Some((index, exact)) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = Some(map.next_value::<&'a RawValue>()?);
            if exact || !self.slots[index].exact {
                self.slots[index] = Slot { value, exact };
            }
            next = index + 1;
        }
        Ok(())
    }
}

/// Finds a field while its name is read, without copying the name.
struct FieldName<'t> {
    table: &'t FieldTable,
    next: usize,
}

impl<'de> DeserializeSeed<'de> for FieldName<'_> {
    type Value = Option<(usize, bool)>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName<'_> {
    type Value = Option<(usize, bool)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.table.find(name, self.next))
    }
}

/// The entries of an object in which any name may stand; of duplicates the last wins, in the first one's place.
pub(super) fn entries(json: &RawValue) -> Result<Vec<(Cow<'_, str>, &RawValue)>, String> {
    struct EntriesVisitor;
    impl<'a> Visitor<'a> for EntriesVisitor {
        type Value = Vec<(Cow<'a, str>, &'a RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut places = HashMap::new();
            let mut entries: Self::Value = Vec::new();
            // A name without escapes is its JSON without the quotes; others are unescaped into a copy.
            while let Some((name, value)) = map.next_entry::<&'a RawValue, &'a RawValue>()? {
                let name = string(name).map_err(serde::de::Error::custom)?;
                match places.get(&name) {
                    Some(&place) => {
                        let earlier: &mut (Cow<'a, str>, &'a RawValue) = &mut entries[place];
                        earlier.1 = value;
                    }
                    None => {
                        places.insert(name.clone(), entries.len());
                        entries.push((name, value));
                    }
                }
            }
            Ok(entries)
        }
    }
    let mut source = serde_json::Deserializer::from_str(json.get());
    source.deserialize_map(EntriesVisitor).map_err(|e| e.to_string())
}

/// The one JSON value that bytes are.
pub(super) fn whole(json: &[u8]) -> Result<&RawValue, String> {
    serde_json::from_slice(json).map_err(|e| e.to_string())
}

/// The elements of an array.
pub(super) fn elements(json: &RawValue) -> Result<Vec<&RawValue>, String> {
    serde_json::from_str(json.get()).map_err(|e| e.to_string())
}

/// The text of a JSON string.
pub(super) fn string(json: &RawValue) -> Result<Cow<'_, str>, String> {
    let written = json.get();
    match written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(text) if !text.contains('\\') => Ok(Cow::Borrowed(text)),
        _ => serde_json::from_str(written).map(Cow::Owned).map_err(|e| e.to_string()),
    }
}

/// Whether JSON text, already found well-formed, nests no deeper than readers of it can go.
pub(super) fn check_depth(json: &str) -> Result<(), String> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(format!("JSON is nested deeper than {DEPTH_MAX} levels"));
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(names: &[&str], json: &str) -> Result<Vec<Option<String>>, String> {
        let mut slots = Vec::new();
        FieldTable::new(names.iter().copied()).read(json.as_bytes(), &mut slots)?;
        Ok(slots.iter().map(|slot| slot.value.map(|value| value.get().to_owned())).collect())
    }

    #[test]
    fn exact_names_win_over_other_cases_wherever_they_stand() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(&["userId"], r#"{"userId": 1, "USERID": 2}"#).unwrap(), [some("1")]);
        assert_eq!(read(&["userId"], r#"{"USERID": 2, "userId": 1}"#).unwrap(), [some("1")]);
        assert_eq!(read(&["userId"], r#"{"USERID": 2, "userid": 3}"#).unwrap(), [some("3")]);
        assert_eq!(read(&["a", "A"], r#"{"A": 1, "a": 2}"#).unwrap(), [some("2"), some("1")]);
        assert_eq!(read(&["größe"], r#"{"GRÖSSE": 1, "GRÖßE": 2}"#).unwrap(), [some("2")]);
        assert_eq!(read(&["a", "b"], r#"{"x": {"a": 5}, "b": null}"#).unwrap(), [None, some("null")]);
        assert_eq!(read(&["a"], "{\"\\u0061\": \"x\\ny\"}").unwrap(), [some("\"x\\ny\"")]);
        let many: Vec<String> = (0..40).map(|n| format!("f{n}")).collect();
        let names: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(read(&names, r#"{"F7": 1}"#).unwrap()[7], some("1"));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["", "{", "5", "null", "[]", "{} x", r#"{"a":}"#, r#"{"a":1,}"#, r#"{"a":01}"#, "{\"a\":\"\n\"}"] {
            assert!(read(&["a"], json).is_err(), "{json}");
        }
    }

    #[test]
    fn of_duplicate_entries_the_last_wins() {
        let raw: &RawValue = serde_json::from_str(r#"{"a": 1, "b": 2, "\u0061": 3}"#).unwrap();
        let entries: Vec<_> = entries(raw).unwrap().into_iter().map(|(k, v)| (k.into_owned(), v.get())).collect();
        assert_eq!(entries, [("a".to_owned(), "3"), ("b".to_owned(), "2")]);
    }
}
