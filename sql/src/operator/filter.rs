//! `Filter` and `Project`: stateless operators that pass changes through row by row, retractions like inserts.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;

use super::change::Changes;

/// Keeps the changes whose row satisfies a predicate; NULL does not.
#[derive(Debug)]
pub(crate) struct Filter {
    /// Boolean over the input's schema.
    pub(crate) predicate: Arc<dyn PhysicalExpr>,
}

impl Filter {
    /// The changes that stay.
    pub(crate) fn step(&self, input: &Changes) -> Result<Changes> {
        input.filter(&evaluate_mask(&self.predicate, &input.rows)?)
    }
}

/// Computes each output column from the input row.
#[derive(Debug)]
pub(crate) struct Project {
    /// One per field of `schema`, over the input's schema.
    pub(crate) columns: Vec<Arc<dyn PhysicalExpr>>,
    /// The output's schema.
    pub(crate) schema: SchemaRef,
}

impl Project {
    /// The same changes of the projected rows.
    pub(crate) fn step(&self, input: Changes) -> Result<Changes> {
        let count = input.len();
        let columns = self
            .columns
            .iter()
            .map(|column| column.evaluate(&input.rows)?.into_array(count))
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let rows = RecordBatch::try_new_with_options(SchemaRef::clone(&self.schema), columns, &options)?;
        Ok(input.with_rows(rows))
    }
}

/// Evaluates a boolean expression; NULL counts as false.
pub(crate) fn evaluate_mask(predicate: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<BooleanArray> {
    let array = predicate.evaluate(rows)?.into_array(rows.num_rows())?;
    let mask = array
        .as_any()
        .downcast_ref::<BooleanArray>()
        .ok_or_else(|| DataFusionError::Internal(format!("expected Boolean, got {}", array.data_type())))?;
    Ok(mask.iter().map(|value| Some(value.unwrap_or(false))).collect())
}
