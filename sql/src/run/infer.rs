//! CREATE STREAM | TABLE without columns: those that a sample of the topic's records shows.
//!
//! The sample is bounded: the oldest and the newest records of each partition. Types are widened until every record of
//! it reads: whole numbers are BIGINT (INT would skip the first record that outgrows it), then DECIMAL, then DOUBLE;
//! texts are timestamps only if all of them are RFC 3339; what is of several kinds is STRING or JSONB, whichever reads
//! all of it. What is found becomes a statement one can read and edit, and that statement is what is run.

use std::collections::HashMap;

use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::record::format::Format;
use aquifer_storage::{ScanRequest, Topic, TopicPartition};
use arrow::array::{Array, AsArray, RecordBatch};
use futures::TryStreamExt;

use crate::catalog::Catalog;
use crate::catalog::properties::Properties;
use crate::error::{Error, Result, SqlState};
use crate::statement::parse::parse;
use crate::statement::{CreateRelation, Property, RelationKind, Sentence};

mod shape;

use shape::{Fields, Shape};

/// Records of a sample, over all partitions and both ends.
const SAMPLE_RECORDS_MAX: i64 = 2000;
/// Records of one partition and end, at the least.
const PARTITION_RECORDS_MIN: i64 = 5;
/// Bytes of keys and values after which a sample is large enough.
const SAMPLE_BYTES_MAX: usize = 16 << 20;
/// Records read between two looks at the bytes: they may be large.
const SAMPLE_BATCH_ROWS: usize = 32;
/// Partitions that are looked at.
const SAMPLE_PARTITIONS_MAX: i32 = 200;
/// Most columns that are declared by themselves.
const COLUMNS_MAX: usize = 1000;

/// A CREATE whose columns were found, and a NOTICE that shows it.
///
/// # Errors
/// 42P01 without a topic, 55000 if it has no records that show columns, 0A000 for formats that do not tell them.
pub(crate) async fn infer(catalog: &Catalog, create: &CreateRelation) -> Result<(CreateRelation, Error)> {
    let properties = Properties::read(&create.with)?;
    if properties.value_format.is_some_and(|format| format != Format::Json) {
        return Err(Error::unsupported("finding the columns of another value_format than 'json'")
            .with_position(create.name.position)
            .with_hint("only JSON objects name their fields: declare the columns"));
    }
    let topic_name = properties.kafka_topic.clone().unwrap_or_else(|| create.name.value.clone());
    let topic = catalog.storage().topic(&topic_name).ok_or_else(|| {
        Error::new(SqlState::UndefinedTable, format!("topic \"{topic_name}\" does not exist"))
            .with_position(create.name.position)
            .with_hint("columns are found in a topic's records: declare them, or name a topic that is there")
    })?;
    let sample = sample(catalog, &topic, properties.key_format).await?;
    let declaration = declaration(create, &topic.name, &sample)?;
    let sentence = parse(&declaration)?.pop().map(|parsed| parsed.sentence);
    let Some(Sentence::CreateRelation(declared)) = sentence else {
        return Err(Error::new(SqlState::InternalError, format!("{declaration} is no declaration")));
    };
    let records = sample.objects;
    let notice =
        Error::new(SqlState::SuccessfulCompletion, format!("columns are those of {records} records: {declaration}"));
    let notice = notice.with_hint("to change them, edit the statement and run it as CREATE OR REPLACE");
    let notice = match sample.left_out().as_str() {
        "" => notice,
        names => notice.with_detail(format!("left out, because such names belong to the record itself: {names}")),
    };
    let (if_not_exists, replaces) = (create.if_not_exists, create.replaces);
    let name = create.name.clone();
    Ok((CreateRelation { name, if_not_exists, replaces, text: declaration, ..declared }, notice))
}

/// What a sample shows.
#[derive(Debug, Default)]
struct Sample {
    /// Records whose value is a JSON object.
    objects: usize,
    /// Records whose value is something else.
    others: usize,
    bytes: usize,
    values: Fields,
    keys: Keys,
}

/// What the keys are.
#[derive(Debug, Default)]
enum Keys {
    /// All null so far.
    #[default]
    None,
    /// Text without control characters.
    Text,
    /// Anything.
    Bytes,
    /// JSON objects.
    Fields(Fields),
    /// Other JSON values.
    Json(Shape),
}

/// Reads the oldest and the newest records of each partition.
async fn sample(catalog: &Catalog, topic: &Topic, key_format: Option<Format>) -> Result<Sample> {
    let snapshot = catalog.storage().snapshot(&[topic.id], &HashMap::new())?;
    let mut sample = Sample::default();
    let partitions = topic.partitions.min(SAMPLE_PARTITIONS_MAX);
    let each = (SAMPLE_RECORDS_MAX / 2 / i64::from(partitions.max(1))).max(PARTITION_RECORDS_MIN);
    for partition in 0..partitions {
        let place = TopicPartition { topic: topic.id, partition };
        let Some(range) = snapshot.range(place) else { continue };
        let middle = range.end.min(range.start.saturating_add(each));
        let newest = middle.max(range.end.saturating_sub(each));
        for (start, end) in [(range.start, middle), (newest, range.end)] {
            if start >= end {
                continue;
            }
            let mut request = ScanRequest::all(vec![RecordColumn::Key, RecordColumn::Value]);
            (request.offset_start, request.offset_end) = (start, end);
            request.batch_rows = SAMPLE_BATCH_ROWS;
            let mut rows = snapshot.scan(place, request)?;
            while sample.bytes < SAMPLE_BYTES_MAX
                && let Some(batch) = rows.try_next().await.map_err(Error::from)?
            {
                sample.add(&batch, key_format)?;
            }
        }
    }
    Ok(sample)
}

impl Sample {
    fn add(&mut self, batch: &RecordBatch, key_format: Option<Format>) -> Result<()> {
        let column = |index: usize| batch.column(index).as_binary_opt::<i32>();
        let (Some(keys), Some(values)) = (column(0), column(1)) else {
            return Err(Error::new(SqlState::InternalError, "raw record columns have other types"));
        };
        for row in 0..batch.num_rows() {
            if keys.is_valid(row) {
                self.bytes += keys.value(row).len();
                self.keys.add(keys.value(row), key_format);
            }
            // A null value shows nothing: it deletes, or is nobody's.
            if values.is_valid(row) {
                self.bytes += values.value(row).len();
                if self.values.add(values.value(row)) {
                    self.objects += 1;
                } else {
                    self.others += 1;
                }
            }
        }
        Ok(())
    }

    fn left_out(&self) -> String {
        let keys = match &self.keys {
            Keys::Fields(fields) => fields.left_out(),
            _ => Vec::new(),
        };
        [keys, self.values.left_out()].concat().join(", ")
    }
}

impl Keys {
    fn add(&mut self, key: &[u8], key_format: Option<Format>) {
        match key_format {
            Some(Format::Json) => return self.add_json(key),
            Some(Format::None) => return,
            _ => {}
        }
        let is_text = str::from_utf8(key).is_ok_and(|text| !text.chars().any(char::is_control));
        if !is_text {
            *self = Self::Bytes;
        } else if matches!(self, Self::None) {
            *self = Self::Text;
        }
    }

    fn add_json(&mut self, key: &[u8]) {
        let mut fields = match std::mem::take(self) {
            Self::None => Fields::default(),
            Self::Fields(fields) => fields,
            Self::Json(shape) => {
                *self = Self::Json(shape.merged(Shape::of_bytes(key)));
                return;
            }
            other => {
                *self = other;
                return;
            }
        };
        let before_any = fields.is_empty();
        *self = match fields.add(key) {
            true => Self::Fields(fields),
            false if before_any => Self::Json(Shape::of_bytes(key)),
            false => Self::Json(Shape::Any),
        };
    }
}

/// The statement that declares what a sample shows.
fn declaration(create: &CreateRelation, topic: &str, sample: &Sample) -> Result<String> {
    if sample.objects == 0 {
        let (what, hint) = match sample.others {
            0 => ("has no records to find columns in", "declare the columns, or write records first"),
            _ => (
                "has no record in its sample whose value is a JSON object",
                "declare the columns: one of wrap_single_value = false for other JSON, of value_format = 'raw' for bytes",
            ),
        };
        return Err(Error::new(SqlState::ObjectNotInPrerequisiteState, format!("topic \"{topic}\" {what}"))
            .with_position(create.name.position)
            .with_hint(hint));
    }
    let mark = if create.kind == RelationKind::Table { "PRIMARY KEY" } else { "KEY" };
    let mut columns: Vec<String> = Vec::new();
    let values = sample.values.columns();
    let key_name = || {
        let free = |name: &String| !values.iter().any(|(_, column, _)| column == name);
        let numbered = (1..).map(|number| format!("key_{number}"));
        ["key".to_owned(), "rowkey".to_owned()].into_iter().chain(numbered).find(free).unwrap_or_default()
    };
    match &sample.keys {
        Keys::None if create.kind == RelationKind::Table => {
            return Err(Error::new(
                SqlState::ObjectNotInPrerequisiteState,
                format!("no record in the sample of topic \"{topic}\" has a key"),
            )
            .with_position(create.name.position)
            .with_hint("CREATE STREAM reads records without keys; a table has the latest record of each key"));
        }
        Keys::None => {}
        Keys::Text => columns.push(format!("{} STRING {mark}", key_name())),
        Keys::Bytes => columns.push(format!("{} BYTES {mark}", key_name())),
        Keys::Json(shape) if shape.is_scalar() => columns.push(format!("{} {} {mark}", key_name(), shape.declared())),
        Keys::Json(_) => {
            let message = format!("the keys of topic \"{topic}\" are JSON of several kinds, or none");
            return Err(Error::new(SqlState::ObjectNotInPrerequisiteState, message)
                .with_position(create.name.position)
                .with_hint("leave key_format out: keys are STRING or BYTES then"));
        }
        Keys::Fields(fields) => {
            let named = fields.columns();
            let taken = named.iter().find(|(_, name, _)| values.iter().any(|(_, other, _)| other == name));
            if let Some((_, name, _)) = taken {
                let message = format!("column \"{name}\" is in the key and in the value of topic \"{topic}\"");
                return Err(Error::new(SqlState::DuplicateColumn, message)
                    .with_position(create.name.position)
                    .with_hint("declare the columns: mark one KEY, and name the other otherwise"));
            }
            columns.extend(named.into_iter().map(|(written, _, kind)| format!("{written} {kind} {mark}")));
        }
    }
    columns.extend(values.into_iter().map(|(written, _, kind)| format!("{written} {kind}")));
    if columns.len() > COLUMNS_MAX {
        let message =
            format!("the sample of topic \"{topic}\" shows {} columns, more than {COLUMNS_MAX}", columns.len());
        return Err(Error::new(SqlState::ProgramLimitExceeded, message)
            .with_position(create.name.position)
            .with_hint("declare those you need, or wrap_single_value = false with one column of JSONB"));
    }
    let kind = create.kind.word().to_uppercase();
    let name = shape::identifier(&create.name.value);
    let (columns, with) = (columns.join(", "), with_of(&create.with, topic));
    Ok(format!("CREATE {kind} {name} ({columns}) WITH ({with})"))
}

/// The properties as written, with those that inference has settled.
fn with_of(with: &[Property], topic: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut told: Vec<String> =
        with.iter().map(|property| format!("{} = {}", property.name, quoted(&property.value))).collect();
    let is_told = |name: &str| with.iter().any(|property| property.name == name);
    if !is_told("kafka_topic") {
        told.insert(0, format!("kafka_topic = {}", quoted(topic)));
    }
    if !is_told("value_format") && !is_told("format") {
        told.push("value_format = 'json'".to_owned());
    }
    told.join(", ")
}
