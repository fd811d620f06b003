//! A scan as of a time: the time travels with it as a filter that only the scanned table can answer, so that parameters and
//! `now()` in it get their values where those of every other expression do.
//!
//! What was committed later than that time is left out by storage, row by row. Before anything is read it is checked that
//! the time has passed, and that the topic still knows its past from then on.

use std::sync::Arc;

use aquifer_storage::{Snapshot, Storage, Topic};
use arrow::array::{Array, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Schema, TimeUnit};
use arrow::util::display::array_value_to_string;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::{Error, Result, SqlState};

/// The filter's name, as EXPLAIN shows it; it is not registered, so no statement can call it.
const NAME: &str = "as_of";

/// Type of the time.
pub(crate) fn moment_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

/// The filter by which a table is scanned as of a time, which is of [`moment_type`].
pub(crate) fn as_of(at: Expr) -> Expr {
    // Volatile, so that nobody takes it for a value that is known.
    let function = ScalarUDF::new_from_impl(AsOf { signature: Signature::any(1, Volatility::Volatile) });
    Arc::new(function).call(vec![at])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AsOf {
    signature: Signature,
}

impl ScalarUDFImpl for AsOf {
    fn name(&self) -> &'static str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        Err(Error::new(SqlState::InternalError, "a time was given to a table that has no past").into())
    }
}

fn moment_of(filter: &Expr) -> Option<&Expr> {
    match filter {
        Expr::ScalarFunction(call) if call.func.name() == NAME => call.args.first(),
        _ => None,
    }
}

/// Whether a plan reads something as of a time.
///
/// # Errors
/// Only for bugs.
pub(crate) fn travels(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::TableScan(scan) = plan {
            found |= scan.filters.iter().any(|filter| moment_of(filter).is_some());
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// The commit time as of which a table is to be scanned, us; `None` is now.
///
/// # Errors
/// 22004 if it is NULL, and what computing it says.
pub(crate) fn moment(filters: &[Expr], state: &dyn Session) -> Result<Option<i64>> {
    let Some(at) = filters.iter().find_map(moment_of) else { return Ok(None) };
    let computed = state.create_physical_expr(at.clone(), &DFSchema::empty())?;
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options);
    let value = match computed.evaluate(&row.map_err(datafusion::error::DataFusionError::from)?)? {
        ColumnarValue::Scalar(value) => value,
        ColumnarValue::Array(values) => ScalarValue::try_from_array(&values, 0)?,
    };
    match value {
        ScalarValue::TimestampMicrosecond(Some(at_us), _) => Ok(Some(at_us)),
        value if value.is_null() => {
            Err(Error::new(SqlState::NullValueNotAllowed, "the time of FOR SYSTEM_TIME AS OF is NULL")
                .with_hint("say when: FOR SYSTEM_TIME AS OF now() - interval '1 hour'"))
        }
        value => Err(Error::new(SqlState::InternalError, format!("a time came out as {}", value.data_type()))),
    }
}

/// Fails unless a topic can be shown as it was at a time.
///
/// # Errors
/// 22023 for the future; 72000 with the earliest time before the topic's history start; and what storage says.
pub(crate) async fn check(storage: &Storage, snapshot: &Snapshot, topic: &Topic, at_us: i64) -> Result<()> {
    let now_us = storage.clock().now_us();
    if at_us > now_us {
        let message = format!("{} is in the future", shown(at_us));
        return Err(Error::new(SqlState::InvalidParameterValue, message)
            .with_hint(format!("it is {} now; what is to come is not known", shown(now_us))));
    }
    let since_us = snapshot.history_start_us(topic.id).await?;
    if at_us < since_us {
        let message = format!("the history of topic {} begins at {}", topic.name, shown(since_us));
        return Err(Error::new(SqlState::SnapshotTooOld, message).with_hint(
            "ask for that time or a later one; min.compaction.lag.ms and retention.ms say how long a topic keeps its past",
        ));
    }
    Ok(())
}

/// A time as ISO 8601 has it, us kept: it can be asked for as it is shown.
pub(crate) fn shown(at_us: i64) -> String {
    let time = TimestampMicrosecondArray::from(vec![at_us]).with_timezone("+00:00");
    debug_assert_eq!(time.data_type(), &moment_type());
    array_value_to_string(&time, 0).unwrap_or_else(|_| format!("{at_us} us since 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_with_all_its_digits() {
        assert_eq!(shown(1_700_000_000_000_001), "2023-11-14T22:13:20.000001Z");
        assert_eq!(shown(1_700_000_000_000_000), "2023-11-14T22:13:20Z");
    }

    #[test]
    fn only_the_filter_itself_is_a_moment() {
        let at = Expr::Literal(ScalarValue::TimestampMicrosecond(Some(7), Some("+00:00".into())), None);
        let state = datafusion::prelude::SessionContext::new().state();
        assert_eq!(moment(&[as_of(at.clone())], &state).unwrap(), Some(7));
        assert_eq!(moment(&[at], &state).unwrap(), None);
        let null = Expr::Literal(ScalarValue::TimestampMicrosecond(None, Some("+00:00".into())), None);
        assert_eq!(moment(&[as_of(null)], &state).unwrap_err().state, SqlState::NullValueNotAllowed);
    }
}
