//! `@>` of JSON as Postgres's jsonb has it: objects by their fields, arrays as sets, numbers by their value.

use serde_json::{Number, Value};

/// Whether `whole` contains `part`.
pub(super) fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        // Only at the top: '["a", "b"]' @> '"a"'.
        (Value::Array(items), scalar) if !scalar.is_array() && !scalar.is_object() => {
            items.iter().any(|item| equal(item, scalar))
        }
        _ => holds(whole, part),
    }
}

fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(fields), Value::Object(wanted)) => {
            wanted.iter().all(|(name, part)| fields.get(name).is_some_and(|value| holds(value, part)))
        }
        (Value::Array(items), Value::Array(wanted)) => {
            wanted.iter().all(|part| items.iter().any(|item| holds(item, part)))
        }
        (whole, part) => equal(whole, part),
    }
}

/// Equality of what has no parts.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || is_same_number(one, other),
        (Value::Array(_) | Value::Object(_), _) => false,
        (one, other) => one == other,
    }
}

/// `1` and `1.0` are one number; whole numbers are compared as such, for a float would round them.
fn is_same_number(one: &Number, other: &Number) -> bool {
    let has_float = one.is_f64() || other.is_f64();
    has_float && one.as_f64() == other.as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(whole: &str, part: &str) -> bool {
        contains(&serde_json::from_str(whole).unwrap(), &serde_json::from_str(part).unwrap())
    }

    #[test]
    fn containment_answers_as_postgres_does() {
        // Each line asked of Postgres's documentation, section 8.14.3.
        for (whole, part, expected) in [
            ("\"foo\"", "\"foo\"", true),
            ("[1, 2, 3]", "[1, 3]", true),
            ("[1, 2, 3]", "[3, 1]", true),
            ("[1, 2, 3]", "[1, 2, 2]", true),
            ("{\"product\": \"x\", \"version\": 9.4, \"jsonb\": true}", "{\"version\": 9.4}", true),
            ("[1, 2, [1, 3]]", "[1, 3]", false),
            ("[1, 2, [1, 3]]", "[[1, 3]]", true),
            ("{\"foo\": {\"bar\": \"baz\"}}", "{\"bar\": \"baz\"}", false),
            ("{\"foo\": {\"bar\": \"baz\"}}", "{\"foo\": {}}", true),
            ("[\"foo\", \"bar\"]", "\"bar\"", true),
            ("\"bar\"", "[\"bar\"]", false),
            ("[[1]]", "1", false),
            ("1", "1.0", true),
            ("{\"a\": 1}", "{\"a\": 1.0}", true),
            ("9007199254740993", "9007199254740992", false),
            ("{}", "{}", true),
            ("[]", "{}", false),
            ("null", "null", true),
        ] {
            assert_eq!(answer(whole, part), expected, "{whole} @> {part}");
        }
    }
}
