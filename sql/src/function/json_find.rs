//! One pass over a JSON text: whether it is one (RFC 8259), and where the value at the end of a path of keys lies; pure.
//!
//! A parser that builds nothing: what is not on the path is only checked. Of duplicate keys the last counts, as in
//! Postgres's jsonb.

use std::borrow::Cow;
use std::ops::Range;

/// Objects and arrays within one another, at the most; each takes some stack.
const DEPTH_MAX: usize = 1_000;

/// The text is no JSON, or nested deeper than [`DEPTH_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What lies behind keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// What a string says.
    Text(Cow<'a, str>),
    /// The JSON of anything else.
    Json(&'a str),
}

/// The value behind these keys; `None` for `null` and where there is none.
///
/// # Errors
/// [`Malformed`], whatever the path.
pub(super) fn text_at<'a, K: AsRef<str>>(document: &'a str, path: &[K]) -> Result<Option<Found<'a>>, Malformed> {
    let mut walk = Walk { bytes: document.as_bytes(), at: 0, path, found: None };
    walk.space();
    let whole = walk.at;
    walk.value(Some(0), 0)?;
    if path.is_empty() {
        walk.found = Some(whole..walk.at);
    }
    walk.space();
    if walk.at != walk.bytes.len() {
        return Err(Malformed);
    }
    let Some(json) = walk.found.and_then(|found| document.get(found)) else { return Ok(None) };
    match json.strip_prefix('"').and_then(|json| json.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Ok(Some(Found::Text(Cow::Borrowed(plain)))),
        Some(_) => decoded(json).map(|text| Some(Found::Text(Cow::Owned(text)))),
        None if json == "null" => Ok(None),
        None => Ok(Some(Found::Json(json))),
    }
}

/// What a string with escapes says, its quotes included.
fn decoded(json: &str) -> Result<String, Malformed> {
    serde_json::from_str(json).map_err(|_| Malformed)
}

struct Walk<'a, K> {
    bytes: &'a [u8],
    at: usize,
    path: &'a [K],
    found: Option<Range<usize>>,
}

impl<K: AsRef<str>> Walk<'_, K> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek() != Some(byte) {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// A value that `level` keys of the path have led to, `None` if it lies beside the path.
    fn value(&mut self, level: Option<usize>, depth: usize) -> Result<(), Malformed> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') if depth < DEPTH_MAX => self.object(level, depth),
            Some(b'[') if depth < DEPTH_MAX => self.array(depth),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(Malformed),
        }
    }

    fn object(&mut self, level: Option<usize>, depth: usize) -> Result<(), Malformed> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        let wanted = level.and_then(|level| Some((level + 1, self.path.get(level)?)));
        loop {
            let key = self.string()?;
            self.space();
            self.expect(b':')?;
            self.space();
            let level = wanted.filter(|(_, name)| self.says(&key, name.as_ref())).map(|(level, _)| level);
            if level.is_some() {
                self.found = None;
            }
            let start = self.at;
            self.value(level, depth + 1)?;
            if level == Some(self.path.len()) {
                self.found = Some(start..self.at);
            }
            if !self.goes_on(b'}')? {
                return Ok(());
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Malformed> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(None, depth + 1)?;
            if !self.goes_on(b']')? {
                return Ok(());
            }
        }
    }

    /// Behind an item: whether there is another.
    fn goes_on(&mut self, end: u8) -> Result<bool, Malformed> {
        self.space();
        let goes_on = match self.peek() {
            Some(b',') => true,
            Some(byte) if byte == end => false,
            _ => return Err(Malformed),
        };
        self.at += 1;
        if goes_on {
            self.space();
        }
        Ok(goes_on)
    }

    /// Whether a key, its quotes included, is this name.
    fn says(&self, key: &Key, name: &str) -> bool {
        let inside = self.bytes.get(key.range.start + 1..key.range.end - 1).unwrap_or_default();
        if !key.escaped {
            return inside == name.as_bytes();
        }
        let json = self.bytes.get(key.range.clone()).and_then(|json| std::str::from_utf8(json).ok());
        json.and_then(|json| decoded(json).ok()).is_some_and(|key| key == name)
    }

    /// A string from its quote on.
    fn string(&mut self) -> Result<Key, Malformed> {
        let start = self.at;
        self.expect(b'"')?;
        let mut escaped = false;
        loop {
            self.plain();
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Key { range: start..self.at, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(Malformed),
            }
        }
    }

    /// Goes to the next quote, backslash or control character, eight bytes at a time.
    fn plain(&mut self) {
        const ONES: u64 = u64::from_ne_bytes([1; 8]);
        const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
        // The lowest high bit that is set is that of the first byte that is zero.
        let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
        while let Some(eight) = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*eight);
            let quotes = zero(word ^ (ONES * u64::from(b'"')));
            let backslashes = zero(word ^ (ONES * u64::from(b'\\')));
            let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
            let ends = quotes | backslashes | controls;
            if ends != 0 {
                self.at += ends.trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
        }
        while self.peek().is_some_and(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
            self.at += 1;
        }
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        let byte = self.peek().ok_or(Malformed)?;
        self.at += 1;
        match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => match self.unit()? {
                0xdc00..0xe000 => Err(Malformed),
                0xd800..0xdc00 => {
                    self.expect(b'\\')?;
                    self.expect(b'u')?;
                    if (0xdc00..0xe000).contains(&self.unit()?) { Ok(()) } else { Err(Malformed) }
                }
                _ => Ok(()),
            },
            _ => Err(Malformed),
        }
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Result<u32, Malformed> {
        let digits = self.bytes.get(self.at..self.at + 4).ok_or(Malformed)?;
        self.at += 4;
        digits.iter().try_fold(0, |unit, digit| Ok(unit << 4 | char::from(*digit).to_digit(16).ok_or(Malformed)?))
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Malformed> {
        if !self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            return Err(Malformed);
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), Malformed> {
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let first = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == first { Err(Malformed) } else { Ok(()) }
    }
}

/// A string's place, its quotes included.
struct Key {
    range: Range<usize>,
    escaped: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn shown(found: Found<'_>) -> String {
        match found {
            Found::Text(text) => text.into_owned(),
            Found::Json(json) => json.to_owned(),
        }
    }

    fn at(document: &str, path: &[&str]) -> Option<String> {
        text_at(document, path).unwrap().map(shown)
    }

    #[test]
    fn the_text_behind_the_keys_is_found() {
        let document =
            r#" { "a" : {"b":"x y","c":[1,{"b":2}], "d":{}} , "n":null,"e":"q\"\u00e9\ud83d\ude00","f":-1.5e+3 } "#;
        assert_eq!(at(document, &["a", "b"]).unwrap(), "x y");
        assert_eq!(at(document, &["a", "c"]).unwrap(), r#"[1,{"b":2}]"#);
        assert_eq!(at(document, &["e"]).unwrap(), "q\"é😀");
        assert_eq!(at(document, &["f"]).unwrap(), "-1.5e+3");
        assert_eq!(at(document, &["a", "d"]).unwrap(), "{}");
        for absent in [&["n"] as &[_], &["x"], &["a", "x"], &["a", "b", "c"], &["a", "c", "b"], &["n", "x"]] {
            assert_eq!(at(document, absent), None, "{absent:?}");
        }
        assert_eq!(at(r#""whole""#, &[]).unwrap(), "whole");
    }

    #[test]
    fn of_two_the_last_counts() {
        assert_eq!(at(r#"{"a":1,"a":2}"#, &["a"]).unwrap(), "2");
        assert_eq!(at(r#"{"a":{"b":1},"a":{"c":2}}"#, &["a", "b"]), None);
        assert_eq!(at(r#"{"a":{"b":1},"\u0061":{"b":3}}"#, &["a", "b"]).unwrap(), "3");
    }

    #[test]
    fn what_is_no_json_is_refused_wherever_it_is_wrong() {
        let deep = "[".repeat(DEPTH_MAX + 1) + &"]".repeat(DEPTH_MAX + 1);
        let wrong = [
            "",
            " ",
            "{",
            "}",
            "[1,]",
            "{,}",
            r#"{"a":1,}"#,
            r#"{"a"}"#,
            r#"{"a":}"#,
            "{a:1}",
            "01",
            "1.",
            ".5",
            "1e",
            "-",
            "+1",
            "tru",
            "nul",
            r#"{"a":1}x"#,
            r#"{"a":1.2.3}"#,
            r#""\x""#,
            r#""\u12""#,
            r#""\ud800""#,
            r#""\udc00""#,
            "\"a\nb\"",
            "\"a",
            "[1 2]",
            "1 2",
            "'a'",
            &deep,
        ];
        for document in wrong {
            assert_eq!(text_at(document, &["a"]), Err(Malformed), "{document}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
            "[a-c\"\\\\\u{0}-\u{20}é😀]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-c\n]{1,2}", inner), 0..4).prop_map(|of| of.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_a_parser_finds(
            value in json(), pretty in any::<bool>(), path in prop::collection::vec("[a-c\n]{1,2}", 0..3),
        ) {
            let document = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let wanted = path.iter().try_fold(&value, |value, key| value.as_object().and_then(|of| of.get(key)));
            let found = text_at(&document, &path).unwrap().map(shown);
            match wanted {
                None | Some(Value::Null) => prop_assert_eq!(found, None),
                Some(Value::String(text)) => prop_assert_eq!(found.as_deref(), Some(text.as_str())),
                Some(other) => prop_assert_eq!(&serde_json::from_str::<Value>(&found.unwrap()).unwrap(), other),
            }
        }

        #[test]
        fn it_takes_what_a_parser_takes(mut text in r#"[ \[\]{},:"\\a1.e+\-]{0,12}"#, tail in r#"(|\}|\]|"|true|null)"#) {
            text.push_str(&tail);
            let parsed = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(text_at(&text, &["a"]).is_ok(), parsed, "{}", text);
        }
    }
}
