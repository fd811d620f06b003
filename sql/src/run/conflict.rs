//! `ON CONFLICT`: which of the rows that were proposed are new, which are there already, and which come twice. Pure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::{interleave, interleave_record_batch, take};
use bytes::Bytes;
use datafusion::error::DataFusionError;

use super::insert::{Proposed, RowPlaces};
use crate::error::{Error, Result, SqlState};

/// Rows that are there: the columns that are written, then where they lie ([`super::insert::PLACE_COLUMNS`]).
#[derive(Debug, Default)]
pub(crate) struct Standing {
    batches: Vec<RecordBatch>,
    /// Batch and row of each key.
    places: HashMap<Bytes, (usize, usize)>,
}

impl Standing {
    /// Adds rows with their keys, those of keys that `wanted` has.
    ///
    /// # Errors
    /// XX000 if Arrow refuses.
    pub(crate) fn add(&mut self, rows: &RecordBatch, keys: Vec<Bytes>, wanted: &HashMap<Bytes, usize>) -> Result<()> {
        let mut kept = Vec::new();
        for (row, key) in (0_u64..).zip(keys) {
            if wanted.contains_key(&key) {
                self.places.insert(key, (self.batches.len(), kept.len()));
                kept.push(row);
            }
        }
        if !kept.is_empty() {
            let kept = UInt64Array::from(kept);
            let columns = rows.columns().iter().map(|column| take(column, &kept, None));
            let columns = columns.collect::<Result<Vec<_>, _>>().map_err(DataFusionError::from)?;
            self.batches.push(RecordBatch::try_new(rows.schema(), columns).map_err(DataFusionError::from)?);
        }
        Ok(())
    }
}

/// What is to be done with rows that were proposed.
#[derive(Debug)]
pub(crate) struct Split {
    /// Rows whose keys are not there.
    pub(crate) new: Option<New>,
    /// Rows whose keys are.
    pub(crate) met: Option<Met>,
}

/// Rows whose keys are not there.
#[derive(Debug)]
pub(crate) struct New {
    /// As they are to be written.
    pub(crate) rows: RecordBatch,
    /// The records' times, if the statement says them.
    pub(crate) times: Option<ArrayRef>,
    /// Which of the statement's rows each is.
    pub(crate) order: Vec<u64>,
}

/// Rows whose keys are there, side by side with those.
#[derive(Debug)]
pub(crate) struct Met {
    /// As they are.
    pub(crate) there: RecordBatch,
    /// Where they lie.
    pub(crate) places: RowPlaces,
    /// As they were to be written.
    pub(crate) excluded: RecordBatch,
    /// Which of the statement's rows each is.
    pub(crate) order: UInt64Array,
}

/// The keys of all proposals, each with how often it comes.
pub(crate) fn keys_of(proposals: &[Proposed]) -> HashMap<Bytes, usize> {
    let mut keys = HashMap::new();
    for key in proposals.iter().flat_map(|proposed| &proposed.keys) {
        *keys.entry(key.clone()).or_insert(0) += 1;
    }
    keys
}

/// Tells new rows from those that are there. A key that comes twice counts once if it is only inserted; with `changes` it is
/// refused, since the second row would change what the first has just written.
///
/// # Errors
/// 21000.
pub(crate) fn split(proposals: &[Proposed], standing: &Standing, changes: bool) -> Result<Split> {
    let mut seen: HashMap<&Bytes, ()> = HashMap::new();
    let (mut new, mut there, mut excluded) = (Vec::new(), Vec::new(), Vec::new());
    let (mut number, mut new_order, mut met_order) = (0_u64, Vec::new(), Vec::new());
    for (batch, proposed) in proposals.iter().enumerate() {
        for (row, key) in proposed.keys.iter().enumerate() {
            number += 1;
            match seen.entry(key) {
                Entry::Occupied(_) if changes => return Err(twice()),
                Entry::Occupied(_) => continue,
                Entry::Vacant(entry) => entry.insert(()),
            };
            match standing.places.get(key) {
                None => {
                    new.push((batch, row));
                    new_order.push(number);
                }
                Some(place) if changes => {
                    there.push(*place);
                    excluded.push((batch, row));
                    met_order.push(number);
                }
                Some(_) => {}
            }
        }
    }
    let rows: Vec<&RecordBatch> = proposals.iter().map(|proposed| &proposed.rows).collect();
    let gather = |batches: &[&RecordBatch], places: &[(usize, usize)]| {
        interleave_record_batch(batches, places).map_err(|error| Error::from(DataFusionError::from(error)))
    };
    let new = match new.as_slice() {
        [] => None,
        places => Some(New { rows: gather(&rows, places)?, times: times_of(proposals, places)?, order: new_order }),
    };
    if there.is_empty() {
        return Ok(Split { new, met: None });
    }
    let standing: Vec<&RecordBatch> = standing.batches.iter().collect();
    let (there, places) = RowPlaces::split(&gather(&standing, &there)?)?;
    let excluded = gather(&rows, &excluded)?;
    Ok(Split { new, met: Some(Met { there, places, excluded, order: UInt64Array::from(met_order) }) })
}

/// New rows and changed ones, each with its number, in the order of their numbers.
///
/// # Errors
/// XX000 if Arrow refuses.
pub(crate) fn in_order(parts: &[(&RecordBatch, &[u64])]) -> Result<Option<RecordBatch>> {
    let places = parts
        .iter()
        .enumerate()
        .flat_map(|(part, (_, order))| order.iter().enumerate().map(move |(row, number)| (*number, (part, row))));
    let mut places: Vec<(u64, (usize, usize))> = places.collect();
    if places.is_empty() {
        return Ok(None);
    }
    places.sort_unstable();
    let places: Vec<(usize, usize)> = places.into_iter().map(|(_, place)| place).collect();
    let rows: Vec<&RecordBatch> = parts.iter().map(|(rows, _)| *rows).collect();
    Ok(Some(interleave_record_batch(&rows, &places).map_err(DataFusionError::from)?))
}

/// The times of some rows; all of a statement have one, or none has.
fn times_of(proposals: &[Proposed], places: &[(usize, usize)]) -> Result<Option<ArrayRef>> {
    let times: Option<Vec<_>> = proposals.iter().map(|proposed| proposed.times.as_deref()).collect();
    match times {
        Some(times) => Ok(Some(interleave(&times, places).map_err(DataFusionError::from)?)),
        None => Ok(None),
    }
}

fn twice() -> Error {
    let message = "ON CONFLICT DO UPDATE command cannot affect row a second time";
    Error::new(SqlState::CardinalityViolation, message).with_hint(
        "ensure that no rows proposed for insertion within the same command have duplicate constrained values",
    )
}
