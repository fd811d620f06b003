//! Functions over JSON text that DataFusion and its JSON library have not, or have otherwise than Postgres and ksqlDB.
//!
//! Every one is strict: a NULL argument gives NULL. An argument that is no JSON is an error, as in a cast.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanBuilder, Int32Builder, ListBuilder, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use serde_json::Value;
use serde_json::value::RawValue;

use super::contains::contains;
use super::jsonb_value;
use crate::error::{Error, SqlState};

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// `a @> b`.
    Contains,
    /// `a ? 'key'`.
    Exists,
    /// `a ?| array['key', …]`.
    ExistsAny,
    /// `a ?& array['key', …]`.
    ExistsAll,
    /// `jsonb_typeof(a)`.
    TypeOf,
    /// `jsonb_array_length(a)`.
    ArrayLength,
    /// `jsonb_extract_path(a, 'key', …)`.
    ExtractPath,
    /// `jsonb_extract_path_text(a, 'key', …)`.
    ExtractPathText,
    /// ksqlDB's `EXTRACTJSONFIELD(a, '$.key[0]')`.
    ExtractField,
    /// `jsonb_array_elements(a)` as a list, for unnest.
    Elements,
    /// `jsonb_array_elements_text(a)` as a list.
    ElementsText,
    /// `jsonb_object_keys(a)` as a list.
    Keys,
}

const ALL: [Kind; 12] = [
    Kind::Contains,
    Kind::Exists,
    Kind::ExistsAny,
    Kind::ExistsAll,
    Kind::TypeOf,
    Kind::ArrayLength,
    Kind::ExtractPath,
    Kind::ExtractPathText,
    Kind::ExtractField,
    Kind::Elements,
    Kind::ElementsText,
    Kind::Keys,
];

/// All of them, to be registered.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    ALL.into_iter().map(function).collect()
}

/// One of them.
pub(super) fn function(kind: Kind) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(Function { kind, signature, aliases: kind.aliases() }))
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Contains => "jsonb_contains",
            Self::Exists => "jsonb_exists",
            Self::ExistsAny => "jsonb_exists_any",
            Self::ExistsAll => "jsonb_exists_all",
            Self::TypeOf => "jsonb_typeof",
            Self::ArrayLength => "jsonb_array_length",
            Self::ExtractPath => "jsonb_extract_path",
            Self::ExtractPathText => "jsonb_extract_path_text",
            Self::ExtractField => "extractjsonfield",
            Self::Elements => "jsonb_array_elements",
            Self::ElementsText => "jsonb_array_elements_text",
            Self::Keys => "jsonb_object_keys",
        }
    }

    /// Postgres's names over `json`.
    fn aliases(self) -> Vec<String> {
        match self {
            Self::Contains | Self::Exists | Self::ExistsAny | Self::ExistsAll | Self::ExtractField | Self::Keys => {
                Vec::new()
            }
            other => vec![other.name().replace("jsonb_", "json_")],
        }
    }

    fn returns(self) -> Field {
        let field = |kind: DataType| Field::new(self.name(), kind, true);
        match self {
            Self::Contains | Self::Exists | Self::ExistsAny | Self::ExistsAll => field(DataType::Boolean),
            Self::ArrayLength => field(DataType::Int32),
            Self::TypeOf | Self::ExtractPath | Self::ExtractPathText | Self::ExtractField => field(DataType::Utf8),
            Self::Elements | Self::ElementsText | Self::Keys => {
                field(DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))))
            }
        }
    }

    /// How many arguments there may be.
    fn takes(self, count: usize) -> bool {
        match self {
            Self::TypeOf | Self::ArrayLength | Self::Elements | Self::ElementsText | Self::Keys => count == 1,
            Self::Contains | Self::Exists | Self::ExistsAny | Self::ExistsAll | Self::ExtractField => count == 2,
            Self::ExtractPath | Self::ExtractPathText => count > 1,
        }
    }

    fn takes_list(self) -> bool {
        matches!(self, Self::ExistsAny | Self::ExistsAll)
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    kind: Kind,
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        if !self.kind.takes(kinds.len()) {
            return plan_err!("No function matches {} with {} arguments", self.name(), kinds.len());
        }
        let coerced = kinds.iter().enumerate().map(|(index, kind)| {
            if index > 0 && self.kind.takes_list() {
                return Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))));
            }
            match kind {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Ok(DataType::Utf8),
                kind if index > 0 && kind.is_integer() => Ok(DataType::Utf8),
                kind => plan_err!("No function matches {}({kind}): it takes JSON as text", self.name()),
            }
        });
        coerced.collect()
    }

    fn return_type(&self, _kinds: &[DataType]) -> Result<DataType> {
        Ok(self.kind.returns().data_type().clone())
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(self.kind.returns()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let rows = if is_constant { 1 } else { args.number_rows };
        let answer = self.rows(&arrays, rows)?;
        if is_constant {
            return Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&answer, 0)?));
        }
        Ok(ColumnarValue::Array(answer))
    }
}

impl Function {
    fn rows(&self, arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let texts = |index: usize| -> Result<StringArray> {
            Ok(cast(&arguments[index], &DataType::Utf8)?.as_string::<i32>().clone())
        };
        let documents = texts(0)?;
        match self.kind {
            Kind::Contains => contained(&documents, &texts(1)?, rows),
            Kind::Exists => {
                let names = texts(1)?;
                tested(rows, &documents, |row, value| names.is_valid(row).then(|| has_name(value, names.value(row))))
            }
            Kind::ExistsAny | Kind::ExistsAll => {
                let lists = arguments[1].as_list::<i32>();
                let all = self.kind == Kind::ExistsAll;
                tested(rows, &documents, |row, value| {
                    let list = lists.is_valid(row).then(|| lists.value(row))?;
                    let names = list.as_string::<i32>();
                    let mut found = names.iter().flatten().map(|name| has_name(value, name));
                    Some(if all { found.all(|there| there) } else { found.any(|there| there) })
                })
            }
            Kind::TypeOf => {
                let mut kinds = StringBuilder::new();
                for row in 0..rows {
                    kinds.append_option(document(&documents, row)?.map(type_of));
                }
                Ok(Arc::new(kinds.finish()))
            }
            Kind::ArrayLength => {
                let mut lengths = Int32Builder::new();
                for row in 0..rows {
                    let length = document(&documents, row)?.map(elements).transpose()?.map(|items| items.len());
                    lengths.append_option(length.map(|length| i32::try_from(length).unwrap_or(i32::MAX)));
                }
                Ok(Arc::new(lengths.finish()))
            }
            Kind::ExtractPath | Kind::ExtractPathText | Kind::ExtractField => {
                self.extracted(&documents, arguments, rows)
            }
            Kind::Elements | Kind::ElementsText | Kind::Keys => self.listed(&documents, rows),
        }
    }

    fn extracted(&self, documents: &StringArray, arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let texts = arguments.iter().skip(1).map(|keys| Ok(cast(keys, &DataType::Utf8)?.as_string::<i32>().clone()));
        let texts = texts.collect::<Result<Vec<StringArray>>>()?;
        let mut found = StringBuilder::new();
        for row in 0..rows {
            let keys: Option<Vec<&str>> =
                texts.iter().map(|texts| texts.is_valid(row).then(|| texts.value(row))).collect();
            let (Some(document), Some(keys)) = (document(documents, row)?, keys) else {
                found.append_null();
                continue;
            };
            let steps: Vec<Step<'_>> = match (self.kind, keys.as_slice()) {
                (Kind::ExtractField, [path]) => steps_of(path)?,
                _ => keys.iter().map(|key| Step::Any(key)).collect(),
            };
            match steps.iter().try_fold(document, |json, step| step.of(json)) {
                Some(value) if self.kind == Kind::ExtractPath => found.append_value(value.get()),
                Some(value) => found.append_option(text_of(value)?),
                None => found.append_null(),
            }
        }
        Ok(Arc::new(found.finish()))
    }

    fn listed(&self, documents: &StringArray, rows: usize) -> Result<ArrayRef> {
        let DataType::List(item) = self.kind.returns().data_type().clone() else {
            return plan_err!("{} is no list", self.name());
        };
        let mut lists = ListBuilder::new(StringBuilder::new()).with_field(item);
        for row in 0..rows {
            let Some(document) = document(documents, row)? else {
                lists.append_null();
                continue;
            };
            match self.kind {
                Kind::Keys => fields(document)?.iter().for_each(|(name, _)| lists.values().append_value(name)),
                Kind::Elements => elements(document)?.iter().for_each(|item| lists.values().append_value(item.get())),
                _ => {
                    for item in elements(document)? {
                        let text = text_of(item)?;
                        lists.values().append_option(text);
                    }
                }
            }
            lists.append(true);
        }
        Ok(Arc::new(lists.finish()))
    }
}

/// `a @> b` row by row; what is the same text as in the row before is parsed once.
fn contained(wholes: &StringArray, parts: &StringArray, rows: usize) -> Result<ArrayRef> {
    let mut answers = BooleanBuilder::new();
    let mut last: Option<(&str, Value)> = None;
    for row in 0..rows {
        if wholes.is_null(row) || parts.is_null(row) {
            answers.append_null();
            continue;
        }
        let text = parts.value(row);
        if last.as_ref().is_none_or(|(known, _)| *known != text) {
            last = Some((text, parsed(text)?));
        }
        let whole = parsed(wholes.value(row))?;
        answers.append_option(last.as_ref().map(|(_, part)| contains(&whole, part)));
    }
    Ok(Arc::new(answers.finish()))
}

fn tested(rows: usize, documents: &StringArray, test: impl Fn(usize, &Value) -> Option<bool>) -> Result<ArrayRef> {
    let mut answers = BooleanBuilder::new();
    for row in 0..rows {
        let answer = if documents.is_valid(row) { test(row, &parsed(documents.value(row))?) } else { None };
        answers.append_option(answer);
    }
    Ok(Arc::new(answers.finish()))
}

/// Whether a text is a field's name, an element, or the value itself.
fn has_name(value: &Value, name: &str) -> bool {
    match value {
        Value::Object(fields) => fields.contains_key(name),
        Value::Array(items) => items.iter().any(|item| item.as_str() == Some(name)),
        other => other.as_str() == Some(name),
    }
}

fn parsed(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| invalid(&error))
}

fn document(documents: &StringArray, row: usize) -> Result<Option<&RawValue>> {
    if documents.is_null(row) {
        return Ok(None);
    }
    serde_json::from_str(documents.value(row)).map(Some).map_err(|error| invalid(&error))
}

fn invalid(error: &serde_json::Error) -> datafusion::error::DataFusionError {
    jsonb_value::invalid(error).into()
}

pub(super) fn nested_too_deep() -> datafusion::error::DataFusionError {
    Error::new(SqlState::InvalidTextRepresentation, "invalid input syntax for type json: it is nested too deep")
        .with_hint("objects and arrays are read up to a thousand levels")
        .into()
}

fn type_of(json: &RawValue) -> &'static str {
    match json.get().as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    }
}

/// A string without its quotes, anything else as it is written; null is NULL.
fn text_of(json: &RawValue) -> Result<Option<String>> {
    match type_of(json) {
        "null" => Ok(None),
        "string" => serde_json::from_str(json.get()).map(Some).map_err(|error| invalid(&error)),
        _ => Ok(Some(json.get().to_owned())),
    }
}

fn elements(json: &RawValue) -> Result<Vec<&RawValue>> {
    if type_of(json) != "array" {
        return Err(wrong_kind(json, "an array"));
    }
    serde_json::from_str(json.get()).map_err(|error| invalid(&error))
}

/// The fields of an object, the last of each name, in order of first appearance.
fn fields(json: &RawValue) -> Result<Vec<(String, &RawValue)>> {
    if type_of(json) != "object" {
        return Err(wrong_kind(json, "an object"));
    }
    let pairs: Pairs<'_> = serde_json::from_str(json.get()).map_err(|error| invalid(&error))?;
    Ok(pairs.0)
}

fn wrong_kind(json: &RawValue, wanted: &str) -> datafusion::error::DataFusionError {
    Error::new(SqlState::InvalidParameterValue, format!("a JSON {} is not {wanted}", type_of(json)))
        .with_hint("jsonb_typeof(x) tells what a value is")
        .into()
}

/// An object's fields, of duplicates the last in the first one's place.
pub(super) struct Pairs<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(source: D) -> std::result::Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> serde::de::Visitor<'de> for PairsVisitor {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut pairs: Self::Value = Vec::new();
                let mut places = std::collections::HashMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    match places.get(&name) {
                        Some(&place) => {
                            let earlier: &mut (String, &'de RawValue) = &mut pairs[place];
                            earlier.1 = value;
                        }
                        None => {
                            places.insert(name.clone(), pairs.len());
                            pairs.push((name, value));
                        }
                    }
                }
                Ok(pairs)
            }
        }
        source.deserialize_map(PairsVisitor).map(Pairs)
    }
}

/// One step into a JSON value.
enum Step<'a> {
    /// A field of an object.
    Field(&'a str),
    /// An element of an array; from the end if negative.
    Element(i64),
    /// Whichever the value has, as Postgres's paths are: a number is an element where there is an array.
    Any(&'a str),
}

impl Step<'_> {
    fn of<'j>(&self, json: &'j RawValue) -> Option<&'j RawValue> {
        match (self, type_of(json)) {
            (Self::Field(name) | Self::Any(name), "object") => {
                fields(json).ok()?.into_iter().find(|(there, _)| there == name).map(|(_, value)| value)
            }
            (Self::Element(index), "array") => element(json, *index),
            (Self::Any(index), "array") => element(json, index.parse().ok()?),
            _ => None,
        }
    }
}

fn element(json: &RawValue, index: i64) -> Option<&RawValue> {
    let items = elements(json).ok()?;
    let from_start = if index < 0 { i64::try_from(items.len()).ok()?.checked_add(index)? } else { index };
    items.get(usize::try_from(from_start).ok()?).copied()
}

/// `$.a['b'][0]` as steps: the part of JSONPath that ksqlDB's EXTRACTJSONFIELD takes.
fn steps_of(path: &str) -> Result<Vec<Step<'_>>> {
    let wrong = || {
        let message = format!("\"{path}\" is no path into JSON");
        datafusion::error::DataFusionError::from(
            Error::new(SqlState::InvalidParameterValue, message).with_hint("write it as '$.field.inner[0]'"),
        )
    };
    let mut rest = path.trim().strip_prefix('$').ok_or_else(wrong)?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix('.') {
            let end = behind.find(['.', '[']).unwrap_or(behind.len());
            let (name, behind) = behind.split_at(end);
            if name.is_empty() || name == "*" {
                return Err(wrong());
            }
            steps.push(Step::Field(name));
            rest = behind;
        } else if let Some(inside) = rest.strip_prefix('[') {
            let (index, behind) = inside.split_once(']').ok_or_else(wrong)?;
            let name = ['\'', '"'].into_iter().find_map(|quote| index.strip_prefix(quote)?.strip_suffix(quote));
            steps.push(match name {
                Some(name) => Step::Field(name),
                None => Step::Element(index.trim().parse().map_err(|_| wrong())?),
            });
            rest = behind;
        } else {
            return Err(wrong());
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(json: &str, path: &str) -> Option<String> {
        let json: &RawValue = serde_json::from_str(json).unwrap();
        let steps = steps_of(path).unwrap();
        steps.iter().try_fold(json, |json, step| step.of(json)).and_then(|value| text_of(value).unwrap())
    }

    #[test]
    fn a_path_of_ksqldb_finds_fields_and_elements() {
        let json = r#"{"a": {"b c": [1, {"d": "x\ny"}], "n": null}, "a": {"b c": [5, {"d": "x\ny"}], "n": null}}"#;
        assert_eq!(at(json, "$.a['b c'][0]").as_deref(), Some("5"), "of duplicates the last");
        assert_eq!(at(json, "$['a'].b c[-1].d").as_deref(), Some("x\ny"));
        assert_eq!(at(json, "$.a.b c[1]").as_deref(), Some(r#"{"d": "x\ny"}"#));
        assert_eq!(at(json, "$.a.n"), None);
        assert_eq!(at(json, "$.a[0]"), None);
        assert_eq!(at("[7]", "$[0]").as_deref(), Some("7"));
        for path in ["a", "$a", "$.", "$.*", "$[x]", "$[0"] {
            assert!(steps_of(path).is_err(), "{path}");
        }
    }
}
