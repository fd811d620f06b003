//! Where a query that goes on begins: `replay_from`, of `CREATE … WITH (…) AS SELECT …`, of `SELECT … EMIT CHANGES WITH (…)`, or
//! of the session for push queries that do not say.
//!
//! | text | begins |
//! |---|---|
//! | `earliest` | at the first record there is |
//! | `latest` | behind the last one that everybody may see |
//! | a time | at the first record of each partition that was committed after it: where a SELECT as of that time ends |
//! | `{"0": 12, "1": 40}` | at these offsets, by partition; one that is not named is read from its first record on |
//!
//! A point from which on the records are not all there any more is refused with the earliest that is.

use std::collections::{BTreeMap, HashMap};

use aquifer_storage::{Storage, Topic, TopicPartition};
use datafusion::common::ScalarValue;

use super::position::Position;
use crate::error::{Error, Result, SqlState};
use crate::statement::Property;
use crate::table::past::{check, moment_type};

/// What may be said.
const FORMS: &str =
    "say 'earliest', 'latest', a time as '2026-01-31 12:00:00+00', or offsets as '{\"0\": 12, \"1\": 40}'";

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReplayFrom {
    /// At the first record there is.
    Earliest,
    /// Behind the last one.
    Latest,
    /// Behind what was committed until then, us.
    Moment(i64),
    /// At these offsets, by partition.
    Offsets(BTreeMap<i32, i64>),
}

impl ReplayFrom {
    /// Reads what was written.
    ///
    /// # Errors
    /// 22023 with what may be said.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("earliest") {
            return Ok(Self::Earliest);
        }
        if text.eq_ignore_ascii_case("latest") {
            return Ok(Self::Latest);
        }
        let invalid = || {
            Error::new(SqlState::InvalidParameterValue, format!("invalid value for replay_from: \"{text}\""))
                .with_hint(FORMS)
        };
        if text.starts_with('{') {
            return offsets(text).map(Self::Offsets).ok_or_else(invalid);
        }
        let written = ScalarValue::Utf8(Some(text.to_owned()));
        match written.cast_to(&moment_type()) {
            Ok(ScalarValue::TimestampMicrosecond(Some(at_us), _)) => Ok(Self::Moment(at_us)),
            _ => Err(invalid()),
        }
    }

    /// What the properties of a push query say, and where.
    ///
    /// # Errors
    /// 42P02 for another property, 22023 with what may be said.
    pub(crate) fn of(with: &[Property]) -> Result<Option<(Self, usize)>> {
        if let Some(other) = with.iter().find(|property| property.name != "replay_from") {
            let message = format!("a push query has no property {}", other.name);
            return Err(Error::new(SqlState::UndefinedParameter, message)
                .with_position(other.position)
                .with_hint("EMIT CHANGES WITH (replay_from = …) says where it begins"));
        }
        let Some(property) = with.first() else { return Ok(None) };
        let from = Self::read(&property.value).map_err(|error| error.with_position(property.position))?;
        Ok(Some((from, property.position)))
    }

    /// The position of a topic.
    ///
    /// # Errors
    /// 72000 for what is not all there any more, with the earliest; 22023 for what is yet to come; what storage says.
    pub(crate) async fn position(&self, storage: &Storage, topic: &Topic) -> Result<Position> {
        match self {
            Self::Earliest => Ok(Position::start(topic.partitions)),
            Self::Latest => latest(storage, topic),
            Self::Moment(at_us) => {
                storage.catch_up().await;
                let snapshot = storage.snapshot(&[topic.id], &HashMap::new())?;
                check(storage, &snapshot, topic, *at_us).await?;
                let mut position = Position::start(topic.partitions);
                for partition in 0..topic.partitions {
                    let place = TopicPartition { topic: topic.id, partition };
                    position.set(partition, snapshot.position(place, *at_us).await?);
                }
                Ok(position)
            }
            Self::Offsets(offsets) => at_offsets(storage, topic, offsets),
        }
    }
}

/// `{"0": 12}`: partitions are names in JSON.
fn offsets(text: &str) -> Option<BTreeMap<i32, i64>> {
    let written: BTreeMap<String, i64> = serde_json::from_str(text).ok()?;
    let read = |(partition, offset): (String, i64)| {
        let partition = partition.parse::<i32>().ok().filter(|partition| *partition >= 0)?;
        (offset >= 0).then_some((partition, offset))
    };
    let offsets: BTreeMap<i32, i64> = written.clone().into_iter().map(read).collect::<Option<_>>()?;
    (offsets.len() == written.len()).then_some(offsets)
}

/// The end of what every reader may see now.
fn latest(storage: &Storage, topic: &Topic) -> Result<Position> {
    let mut position = Position::start(topic.partitions);
    for partition in 0..topic.partitions {
        let ends = storage.watermarks(TopicPartition { topic: topic.id, partition })?;
        position.set(partition, ends.last_stable_offset);
    }
    Ok(position)
}

fn at_offsets(storage: &Storage, topic: &Topic, offsets: &BTreeMap<i32, i64>) -> Result<Position> {
    let mut position = Position::start(topic.partitions);
    for (&partition, &offset) in offsets {
        if partition >= topic.partitions {
            let message = format!("topic {} has no partition {partition}", topic.name);
            return Err(Error::new(SqlState::InvalidParameterValue, message)
                .with_hint(format!("it has partitions 0 to {}", topic.partitions - 1)));
        }
        let ends = storage.watermarks(TopicPartition { topic: topic.id, partition })?;
        let (start, end) = (ends.log_start_offset, ends.last_stable_offset);
        if offset < start {
            let message = format!("partition {partition} of topic {} begins at offset {start}", topic.name);
            return Err(Error::new(SqlState::SnapshotTooOld, message)
                .with_hint(format!("begin there or later, or say 'earliest': {offset} is gone")));
        }
        if offset > end {
            let message = format!("partition {partition} of topic {} ends at offset {end}", topic.name);
            return Err(Error::new(SqlState::InvalidParameterValue, message)
                .with_hint(format!("begin there or before, or say 'latest': {offset} is yet to come")));
        }
        position.set(partition, offset);
    }
    Ok(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_word_a_time_or_offsets() {
        assert_eq!(ReplayFrom::read(" Earliest").unwrap(), ReplayFrom::Earliest);
        assert_eq!(ReplayFrom::read("LATEST").unwrap(), ReplayFrom::Latest);
        for time in ["2023-11-14 22:13:20+00", "2023-11-14T22:13:20Z", "2023-11-14 22:13:20"] {
            assert_eq!(ReplayFrom::read(time).unwrap(), ReplayFrom::Moment(1_700_000_000_000_000), "{time}");
        }
        let offsets = ReplayFrom::Offsets(BTreeMap::from([(0, 12), (1, 40)]));
        assert_eq!(ReplayFrom::read(r#"{"0": 12, "1": 40}"#).unwrap(), offsets);
        for wrong in ["", "yesterday", "12", r#"{"a": 1}"#, r#"{"0": -1}"#, r#"{"0": 1, "00": 2}"#, "{"] {
            let error = ReplayFrom::read(wrong).unwrap_err();
            assert_eq!(error.state, SqlState::InvalidParameterValue, "{wrong}");
            assert!(error.hint.unwrap().contains("earliest"));
        }
    }
}
