//! Functions and operators a session's state has: DataFusion's, those over JSON, and `->` as Postgres and ksqlDB mean it.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{FunctionRegistry, SessionStateDefaults};
use datafusion::logical_expr::ScalarUDF;
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::prelude::SessionConfig;

use crate::catalog::{DATABASE, SCHEMA};
use crate::error::Result;
use crate::limit::slice::Slices;
use crate::limit::{Limits, memory};
use crate::types::TypeNames;

mod amplified;
mod checked;
mod contains;
mod distinct;
mod extract;
mod first_last;
mod format;
mod formatted;
mod interval;
mod json;
mod json_build;
mod json_find;
mod json_text;
mod jsonb;
mod jsonb_edit;
mod jsonb_value;
mod number;
mod number_template;
mod operators;
mod percentile;
mod scalar;
mod sum;
mod template;
mod text;
mod whole;
mod zone;

pub(crate) use text::{TEXT_OUT, UUID_IN, uuid_of};
pub(crate) use whole::WHOLE;

/// Bytes of rows that wait while ordered rows are merged, per stream.
const MERGE_BUFFER_BYTES: usize = 16 << 20;

/// A state with all functions; every session clones it.
///
/// # Errors
/// XX000 if a function does not register.
pub(crate) fn session_state(limits: &Arc<Limits>) -> Result<SessionState> {
    let runtime = limits.runtime();
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(DATABASE, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false)
        .with_extension(Arc::clone(limits))
        .with_batch_size(memory::batch_rows(&runtime))
        .with_target_partitions(memory::lanes(&runtime))
        .with_sort_spill_reservation_bytes(memory::merge_bytes(&runtime));
    let options = config.options_mut();
    options.sql_parser.dialect = datafusion::config::Dialect::PostgreSQL;
    // 1.5 is a numeric in Postgres, not a float.
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.collect_spans = true;
    // Nobody below a plan computes fields for it, so nothing is won by it; and where an alias hides the column it is computed
    // of, the rule loses the column.
    options.optimizer.enable_leaf_expression_pushdown = false;
    // Lanes that are in order already are merged: that much may wait of each.
    options.execution.sort_pushdown_buffer_capacity = MERGE_BUFFER_BYTES;
    // now() and current_timestamp are timestamptz.
    options.execution.time_zone = Some("UTC".to_owned());
    let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![
        Arc::new(json::Arrows),
        Arc::new(operators::Operators),
        Arc::new(extract::Extraction),
        Arc::new(checked::CheckedArithmetic),
    ];
    planners.extend(SessionStateDefaults::default_expr_planners());
    let mut rules = distinct::rules();
    rules.push(Arc::new(percentile::SharedValues));
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_expr_planners(planners)
        .with_optimizer_rules(rules)
        .with_type_planner(Arc::new(TypeNames))
        .with_physical_optimizer_rule(Arc::new(Slices))
        .build();
    datafusion_functions_json::register_all(&mut state)?;
    for function in jsonb::functions() {
        state.register_udf(function)?;
    }
    for function in json_build::functions() {
        state.register_udf(function)?;
    }
    for definition in operators::definitions() {
        state.register_udf(scalar::defined(definition))?;
    }
    state.register_udf(extract::extract(true))?;
    state.register_udf(format::type_of())?;
    state.register_function_rewrite(Arc::new(operators::Comparisons))?;
    state.register_udaf(sum::sum())?;
    for function in first_last::functions().into_iter().chain(percentile::functions()) {
        state.register_udaf(function)?;
    }
    state.register_udf(Arc::new(ScalarUDF::new_from_impl(whole::Whole::new())))?;
    let pool = Arc::clone(&state.runtime_env().memory_pool);
    let asked = amplified::functions(|name| state.udf(name).ok(), &pool);
    for function in asked {
        state.register_udf(function)?;
    }
    Ok(state)
}

/// Whether `->` on this type takes a field.
fn is_struct(kind: &DataType) -> bool {
    matches!(kind, DataType::Struct(_) | DataType::Map(..))
}
