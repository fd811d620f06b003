//! `Changes`: rows with weights, the currency between operators; +1 inserts a row, -1 retracts it.
//!
//! Every change carries the largest timestamp of the records it comes from. Changes that are still single records of
//! the source carry their origin too (partition, key, headers), so that a stream made by filters and projections keeps
//! them; an aggregate's changes have none.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::{concat, concat_batches, filter, filter_record_batch, take, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use datafusion::error::{DataFusionError, Result};

/// A batch of changes. All parts have the same length.
#[derive(Clone, Debug)]
pub(crate) struct Changes {
    /// The rows changed.
    pub(crate) rows: RecordBatch,
    /// How often each row is inserted (positive) or retracted (negative).
    pub(crate) weights: Int64Array,
    /// Largest timestamp of the records behind each change, ms.
    pub(crate) timestamps_ms: Int64Array,
    /// The source's raw record columns of each change, while it is a single record.
    pub(crate) origin: Option<RecordBatch>,
}

impl Changes {
    /// Records read from a stream: each inserts its row once.
    pub(crate) fn inserts(rows: RecordBatch, timestamps_ms: Int64Array, origin: Option<RecordBatch>) -> Self {
        let weights = Int64Array::from_value(1, rows.num_rows());
        Self { rows, weights, timestamps_ms, origin }
    }

    /// Number of changes.
    pub(crate) fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Those changes of which `kept` is true.
    pub(crate) fn filter(&self, kept: &BooleanArray) -> Result<Self> {
        Ok(Self {
            rows: filter_record_batch(&self.rows, kept)?,
            weights: int64(&filter(&self.weights, kept)?)?,
            timestamps_ms: int64(&filter(&self.timestamps_ms, kept)?)?,
            origin: self.origin.as_ref().map(|origin| filter_record_batch(origin, kept)).transpose()?,
        })
    }

    /// The same changes of other rows, one for one.
    pub(crate) fn with_rows(self, rows: RecordBatch) -> Self {
        Self { rows, ..self }
    }

    /// All changes of `parts` in one batch, in their order.
    pub(crate) fn concat(schema: &SchemaRef, parts: &[Self]) -> Result<Self> {
        let weights: Vec<&dyn Array> = parts.iter().map(|part| &part.weights as &dyn Array).collect();
        let times: Vec<&dyn Array> = parts.iter().map(|part| &part.timestamps_ms as &dyn Array).collect();
        if parts.is_empty() {
            return Ok(Self::inserts(
                RecordBatch::new_empty(SchemaRef::clone(schema)),
                Int64Array::from_value(0, 0),
                None,
            ));
        }
        let origins: Option<Vec<&RecordBatch>> = parts.iter().map(|part| part.origin.as_ref()).collect();
        let origin = match origins.as_deref() {
            Some([first, ..]) => {
                let schema = first.schema();
                Some(concat_batches(&schema, origins.unwrap_or_default())?)
            }
            _ => None,
        };
        Ok(Self {
            rows: concat_batches(schema, parts.iter().map(|part| &part.rows))?,
            weights: int64(&concat(&weights)?)?,
            timestamps_ms: int64(&concat(&times)?)?,
            origin,
        })
    }

    /// Adds up the weights of equal rows and drops those that come to nothing; the timestamp is the largest. Rows keep
    /// the order of their last appearance's sign: what is left retracts before it inserts, as it came.
    pub(crate) fn consolidate(&self) -> Result<Self> {
        let schema = self.rows.schema();
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields)?;
        let encoded = converter.convert_columns(self.rows.columns())?;
        let mut sums: HashMap<&[u8], usize> = HashMap::with_capacity(self.len());
        let mut kept: Vec<(usize, i64, i64)> = Vec::new();
        for index in 0..self.len() {
            let (weight, time) = (self.weights.value(index), self.timestamps_ms.value(index));
            let row: &[u8] = encoded.row(index).data();
            match sums.get(row) {
                Some(&slot) => {
                    kept[slot].1 += weight;
                    kept[slot].2 = kept[slot].2.max(time);
                }
                None => {
                    sums.insert(row, kept.len());
                    kept.push((index, weight, time));
                }
            }
        }
        kept.retain(|(_, weight, _)| *weight != 0);
        let indices = UInt64Array::from_iter_values(kept.iter().map(|(index, ..)| *index as u64));
        Ok(Self {
            rows: take_record_batch(&self.rows, &indices)?,
            weights: kept.iter().map(|(_, weight, _)| *weight).collect::<Vec<_>>().into(),
            timestamps_ms: kept.iter().map(|(.., time)| *time).collect::<Vec<_>>().into(),
            origin: self.origin.as_ref().map(|origin| take_record_batch(origin, &indices)).transpose()?,
        })
    }

    /// The changes at `indices`, in that order.
    pub(crate) fn take(&self, indices: &UInt64Array) -> Result<Self> {
        Ok(Self {
            rows: take_record_batch(&self.rows, indices)?,
            weights: int64(&take(&self.weights, indices, None)?)?,
            timestamps_ms: int64(&take(&self.timestamps_ms, indices, None)?)?,
            origin: self.origin.as_ref().map(|origin| take_record_batch(origin, indices)).transpose()?,
        })
    }
}

/// An array known to be Int64; anything else is a bug and says so.
pub(crate) fn int64(array: &Arc<dyn Array>) -> Result<Int64Array> {
    array
        .as_any()
        .downcast_ref::<Int64Array>()
        .cloned()
        .ok_or_else(|| DataFusionError::Internal(format!("expected Int64, got {}", array.data_type())))
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn changes(rows: &[(&str, i64)]) -> Changes {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, true)]));
        let keys = StringArray::from_iter_values(rows.iter().map(|(key, _)| *key));
        let rows_batch = RecordBatch::try_new(schema, vec![Arc::new(keys)]).unwrap();
        Changes {
            rows: rows_batch,
            weights: rows.iter().map(|(_, weight)| *weight).collect::<Vec<_>>().into(),
            timestamps_ms: (0..rows.len() as i64).collect::<Vec<_>>().into(),
            origin: None,
        }
    }

    #[test]
    fn changes_that_cancel_are_gone_and_the_rest_adds_up() {
        let consolidated = changes(&[("a", 1), ("b", 1), ("a", -1), ("b", 2), ("c", -1)]).consolidate().unwrap();
        assert_eq!(consolidated.weights.values(), &[3, -1]);
        assert_eq!(consolidated.timestamps_ms.values(), &[3, 4]);
        let keys = consolidated.rows.column(0).as_any().downcast_ref::<StringArray>().unwrap().clone();
        assert_eq!(keys, StringArray::from(vec!["b", "c"]));
    }

    #[test]
    fn no_changes_concatenate_to_no_changes() {
        let schema = changes(&[]).rows.schema();
        assert_eq!(Changes::concat(&schema, &[]).unwrap().len(), 0);
        let two = Changes::concat(&schema, &[changes(&[("a", 1)]), changes(&[("b", -1)])]).unwrap();
        assert_eq!(two.weights.values(), &[1, -1]);
    }
}
