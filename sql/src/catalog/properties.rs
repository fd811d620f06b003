//! WITH (…): what a relation's properties mean, checked together, before anything is made.

use aquifer_storage::record::format::{ColumnType, Format};
use aquifer_storage::{CleanupPolicy, TopicConfig, TopicConfigName};

use crate::error::{Error, Result, SqlState};
use crate::statement::Property;

/// A relation's properties.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Properties {
    /// `kafka_topic`.
    pub(crate) kafka_topic: Option<String>,
    /// `key_format`, with its `key_delimiter`.
    pub(crate) key_format: Option<Format>,
    /// `value_format`, with its `value_delimiter` and `wrap_single_value`.
    pub(crate) value_format: Option<Format>,
    /// The value is said to be `raw`: one column of bytes.
    raw_value: bool,
    /// `partitions`, and where it stands.
    pub(crate) partitions: Option<(i32, usize)>,
    /// `timestamp`, folded, and where it stands.
    pub(crate) timestamp: Option<(String, usize)>,
    /// What the topic is told: Kafka's names with `_` for `.`.
    pub(crate) topic: TopicConfig,
    /// `replay_from`, and where it stands.
    pub(crate) replay_from: Option<(String, usize)>,
    /// `emit`: `tick` or `record`.
    pub(crate) emit: Option<String>,
}

const NAMES: &str = "kafka_topic, value_format, key_format, format, value_delimiter, key_delimiter, wrap_single_value, \
                     partitions, replicas, timestamp, replay_from and Kafka's topic configs, as retention_ms or cleanup_policy";

/// What stands between the fields of `delimited` unless told otherwise.
const DELIMITER: char = ',';

/// How long a table made by SQL keeps superseded values, so that time travel sees them.
const TABLE_HISTORY_MS: i64 = 7 * 24 * 60 * 60 * 1000;

impl Properties {
    /// Reads what was written.
    ///
    /// # Errors
    /// 42P02 for a property that is not known, 22023 for a value that is not allowed, 0A000 for what is not supported.
    pub(crate) fn read(with: &[Property]) -> Result<Self> {
        let mut properties = Self::default();
        for property in with {
            let value = property.value.as_str();
            let at = property.position;
            match property.name.as_str() {
                "kafka_topic" => properties.kafka_topic = Some(value.to_owned()),
                "key_format" => properties.key_format = Some(format(property)?),
                "value_format" => {
                    properties.value_format = Some(format(property)?);
                    properties.raw_value = value.eq_ignore_ascii_case("raw");
                }
                "format" => {
                    if let Some(other) = with.iter().find(|other| is_one_format(&other.name)) {
                        return Err(invalid(other, "left out where format says both"));
                    }
                    let format = format(property)?;
                    (properties.key_format, properties.value_format) = (Some(format), Some(format));
                }
                // Read once the formats are known.
                "value_delimiter" | "key_delimiter" | "wrap_single_value" => {}
                "partitions" => match value.parse::<i32>() {
                    Ok(partitions) if partitions > 0 => properties.partitions = Some((partitions, at)),
                    _ => return Err(invalid(property, "a number of at least 1")),
                },
                "replicas" if value == "1" => {}
                "replicas" => {
                    return Err(Error::unsupported(format!("replicas = {value}"))
                        .with_position(at)
                        .with_hint("the object store keeps the copies; leave replicas out or say 1"));
                }
                "timestamp" => properties.timestamp = Some((value.to_owned(), at)),
                "replay_from" => properties.replay_from = Some((value.to_owned(), at)),
                "emit" => match value.to_lowercase().as_str() {
                    "tick" => properties.emit = Some("tick".to_owned()),
                    _ => return Err(invalid(property, "tick")),
                },
                name if TopicConfigName::find(&kafkas_name(name)).is_some() => {
                    let told = properties.topic.set(&kafkas_name(name), &value.to_lowercase());
                    told.map_err(|error| Error::from(error).with_position(at))?;
                }
                name => {
                    return Err(Error::new(SqlState::UndefinedParameter, format!("there is no property {name}"))
                        .with_position(at)
                        .with_hint(format!("properties are {NAMES}")));
                }
            }
        }
        for property in with {
            properties.refine(property)?;
        }
        Ok(properties)
    }

    /// What is said about a format besides its name.
    fn refine(&mut self, property: &Property) -> Result<()> {
        match property.name.as_str() {
            name @ ("value_delimiter" | "key_delimiter") => {
                let format = if name == "key_delimiter" { &mut self.key_format } else { &mut self.value_format };
                let Some(Format::Delimited(delimiter)) = format else {
                    let format = name.replace("delimiter", "format");
                    return Err(invalid(property, &format!("for {format} = 'delimited' only")));
                };
                *delimiter = delimiter_of(property)?;
            }
            "wrap_single_value" => match (property.value.to_lowercase().as_str(), self.value_format) {
                ("true", _) => {}
                ("false", None | Some(Format::Json)) => self.value_format = Some(Format::JsonUnwrapped),
                // Other formats never wrap a single value.
                ("false", _) => {}
                _ => return Err(invalid(property, "true or false")),
            },
            _ => {}
        }
        Ok(())
    }

    /// How a new topic is made; `compacted` for tables with a key.
    pub(crate) fn topic_config(&self, compacted: bool) -> TopicConfig {
        let mut config = self.topic.clone();
        if compacted && config.cleanup_policy.is_none() {
            config.cleanup_policy = Some(CleanupPolicy::Compact);
        }
        if compacted && config.min_compaction_lag_ms.is_none() {
            let lag_max = config.max_compaction_lag_ms.unwrap_or(i64::MAX);
            config.min_compaction_lag_ms = Some(TABLE_HISTORY_MS.min(lag_max));
        }
        config
    }

    /// The key's format over these key columns: `kafka` for one of its types, else `json`.
    ///
    /// # Errors
    /// 42611 if the format said cannot hold them.
    pub(crate) fn key_format_of(&self, keys: &[&ColumnType], windowed: bool) -> Result<Format> {
        let single = matches!(keys, [one] if one.is_kafka_primitive() && **one != ColumnType::Uuid) && !windowed;
        let format = match (self.key_format, keys) {
            (None, []) => Format::None,
            (None, _) if single => Format::Kafka,
            (None, _) => Format::Json,
            (Some(format), _) => format,
        };
        match format {
            _ if keys.is_empty() => Ok(Format::None),
            Format::Kafka if !single => Err(does_not_hold("key_format", "json")),
            Format::None => Err(does_not_hold("key_format", "json or kafka")),
            Format::Delimited(_) if windowed || !keys.iter().all(|kind| kind.is_scalar()) => {
                Err(does_not_hold("key_format", "json"))
            }
            format => Ok(format),
        }
    }

    /// The value's format over these value columns.
    ///
    /// # Errors
    /// 42611 if the format said cannot hold them.
    pub(crate) fn value_format_of(&self, values: &[&ColumnType]) -> Result<Format> {
        match self.value_format.unwrap_or(Format::Json) {
            Format::Kafka if self.raw_value && !matches!(values, [ColumnType::Bytes]) => {
                let message = "value_format = 'raw' is one column of the value's bytes";
                Err(Error::new(SqlState::InvalidColumnDefinition, message)
                    .with_hint("declare one column of BYTES besides the key"))
            }
            Format::Kafka if !matches!(values, [one] if one.is_kafka_primitive()) => {
                Err(does_not_hold("value_format", "json"))
            }
            Format::JsonUnwrapped if values.len() != 1 => {
                let message = "wrap_single_value = false is for a value of one column";
                Err(Error::new(SqlState::InvalidColumnDefinition, message)
                    .with_hint("leave wrap_single_value out: several columns are the fields of an object"))
            }
            Format::Delimited(_) if !values.iter().all(|kind| kind.is_scalar()) => {
                Err(does_not_hold("value_format", "json"))
            }
            Format::None if !values.is_empty() => Err(does_not_hold("value_format", "json")),
            format => Ok(format),
        }
    }
}

fn is_one_format(name: &str) -> bool {
    matches!(name, "key_format" | "value_format")
}

fn delimiter_of(property: &Property) -> Result<char> {
    let mut chars = property.value.chars();
    match (property.value.to_uppercase().as_str(), chars.next(), chars.next()) {
        ("SPACE", ..) => Ok(' '),
        ("TAB", ..) => Ok('\t'),
        (_, Some(delimiter), None) if !matches!(delimiter, '"' | '\n' | '\r') => Ok(delimiter),
        _ => Err(invalid(property, "SPACE, TAB or one character that is no quote and no line break")),
    }
}

/// The topic config that a property names.
fn kafkas_name(property: &str) -> String {
    property.replace('_', ".")
}

fn does_not_hold(property: &str, better: &str) -> Error {
    let message = format!("this {property} cannot hold the columns declared");
    Error::new(SqlState::InvalidColumnDefinition, message).with_hint(format!(
        "kafka holds one column of STRING, INT, BIGINT, DOUBLE or BYTES, delimited holds no ARRAY, MAP or STRUCT, none \
         holds nothing; use {property} = '{better}'"
    ))
}

fn format(property: &Property) -> Result<Format> {
    match property.value.to_lowercase().as_str() {
        "json" => Ok(Format::Json),
        "kafka" => Ok(Format::Kafka),
        // Bytes as they are, which is how Kafka's own serializer writes them.
        "raw" if property.name == "value_format" => Ok(Format::Kafka),
        "delimited" => Ok(Format::Delimited(DELIMITER)),
        "none" => Ok(Format::None),
        "avro" | "protobuf" | "protobuf_nosr" | "json_sr" => Err(Error::unsupported(format!(
            "{} = '{}'",
            property.name, property.value
        ))
        .with_position(property.position)
        .with_hint(
            "there is no schema registry: use json, kafka or delimited; value_format = 'raw' gives the bytes of \
                     any format",
        )),
        _ => Err(invalid(property, "json, kafka, delimited, raw (of a value) or none")),
    }
}

fn invalid(property: &Property, allowed: &str) -> Error {
    let message = format!("invalid value for property {}: \"{}\"", property.name, property.value);
    Error::new(SqlState::InvalidParameterValue, message)
        .with_position(property.position)
        .with_hint(format!("it is {allowed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(name: &str, value: &str) -> Property {
        Property { name: name.to_owned(), value: value.to_owned(), position: 1 }
    }

    #[test]
    fn one_primitive_key_is_written_as_kafka_has_it_and_others_as_json() {
        let properties = Properties::default();
        assert_eq!(properties.key_format_of(&[&ColumnType::Text], false).unwrap(), Format::Kafka);
        assert_eq!(properties.key_format_of(&[&ColumnType::Text], true).unwrap(), Format::Json);
        assert_eq!(properties.key_format_of(&[&ColumnType::Text, &ColumnType::Int], false).unwrap(), Format::Json);
        assert_eq!(properties.key_format_of(&[&ColumnType::Date], false).unwrap(), Format::Json);
        assert_eq!(properties.key_format_of(&[], false).unwrap(), Format::None);
    }

    #[test]
    fn what_is_not_known_or_not_supported_is_refused_by_name() {
        let state = |name, value| Properties::read(&[property(name, value)]).unwrap_err().state;
        assert_eq!(state("no_such", "1"), SqlState::UndefinedParameter);
        assert_eq!(state("value_format", "avro"), SqlState::FeatureNotSupported);
        assert_eq!(state("partitions", "0"), SqlState::InvalidParameterValue);
        assert_eq!(state("replicas", "3"), SqlState::FeatureNotSupported);
        assert_eq!(state("retention_ms", "soon"), SqlState::InvalidParameterValue);
        assert_eq!(state("cleanup_policy", "burn"), SqlState::InvalidParameterValue);
    }

    #[test]
    fn a_delimiter_and_a_single_value_without_an_object_belong_to_their_formats() {
        let read = |told: &[(&str, &str)]| {
            let told: Vec<_> = told.iter().map(|(name, value)| property(name, value)).collect();
            Properties::read(&told).map(|properties| (properties.key_format, properties.value_format))
        };
        let delimited = |delimiter| Some(Format::Delimited(delimiter));
        assert_eq!(read(&[("format", "Delimited")]).unwrap(), (delimited(','), delimited(',')));
        let said = [("value_delimiter", "tab"), ("value_format", "delimited")];
        assert_eq!(read(&said).unwrap(), (None, delimited('\t')));
        let said = [("key_format", "delimited"), ("key_delimiter", "|"), ("wrap_single_value", "false")];
        assert_eq!(read(&said).unwrap(), (delimited('|'), Some(Format::JsonUnwrapped)));
        for said in [
            &[("value_delimiter", ",")][..],
            &[("value_format", "delimited"), ("value_delimiter", "ab")],
            &[("format", "json"), ("key_format", "kafka")],
            &[("wrap_single_value", "maybe")],
            &[("key_format", "raw")],
        ] {
            assert_eq!(read(said).unwrap_err().state, SqlState::InvalidParameterValue, "{said:?}");
        }
    }

    #[test]
    fn a_value_format_holds_its_columns_or_says_which_does() {
        let of = |told: &[(&str, &str)], values: &[&ColumnType]| {
            let told: Vec<_> = told.iter().map(|(name, value)| property(name, value)).collect();
            Properties::read(&told).unwrap().value_format_of(values).map_err(|error| error.state.code())
        };
        let list = ColumnType::Array(Box::new(ColumnType::Int));
        assert_eq!(of(&[("value_format", "raw")], &[&ColumnType::Bytes]), Ok(Format::Kafka));
        assert_eq!(of(&[("value_format", "raw")], &[&ColumnType::Text]), Err("42611"));
        assert_eq!(of(&[("value_format", "kafka")], &[&ColumnType::Int, &ColumnType::Int]), Err("42611"));
        assert_eq!(of(&[("value_format", "delimited")], &[&list]), Err("42611"));
        assert_eq!(of(&[("value_format", "none")], &[]), Ok(Format::None));
        assert_eq!(of(&[("wrap_single_value", "false")], &[&list]), Ok(Format::JsonUnwrapped));
        assert_eq!(of(&[("wrap_single_value", "false")], &[]), Err("42611"));
    }

    #[test]
    fn kafkas_topic_configs_are_properties_and_a_table_keeps_its_history_for_a_week() {
        let told = [
            ("retention_ms", "1000"),
            ("cleanup_policy", "Compact, Delete"),
            ("message_timestamp_type", "LogAppendTime"),
        ];
        let told: Vec<_> = told.into_iter().map(|(name, value)| property(name, value)).collect();
        let config = Properties::read(&told).unwrap().topic_config(true);
        let text = |name| config.get(name).unwrap_or_default();
        assert_eq!(text("retention.ms"), "1000");
        assert_eq!(text("cleanup.policy"), "compact,delete");
        assert_eq!(text("message.timestamp.type"), "LogAppendTime");
        assert_eq!(text("min.compaction.lag.ms"), "604800000");
        assert_eq!(Properties::default().topic_config(true).cleanup_policy, Some(CleanupPolicy::Compact));
        assert_eq!(Properties::default().topic_config(false), TopicConfig::default());
    }
}
